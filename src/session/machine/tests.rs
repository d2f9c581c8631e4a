mod channels;
mod following;
mod liveness;
mod members;
mod messages;
mod old_clients;
mod opening;
mod random;
mod subscriptions;
mod tokens;
mod writes;

use super::subscriptions::FIXED;
use super::timers::Timer;
use super::*;
use crate::auth::Claims;
use crate::auth::tests_support::claims;
use crate::clock::tests::now;
use crate::config::{self, Config};
use crate::routes::path::Matched;
use crate::routes::route::{HeartbeatKind, OnGap};
use std::time::Instant;

const LEEWAY: Duration = Duration::from_secs(10);

/// The shipped routes, with `more` put behind them.
fn shipped(more: &str) -> Config {
    shipped_with(|text| format!("{text}\n{more}"))
}

/// The same, with a master key for encrypted channels.
fn shipped_with_key(more: &str) -> Config {
    const KEY: &str = "encryption_master_key = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"";
    let from_environment = "encryption_master_key = \"${PUSHER_ENCRYPTION_MASTER_KEY:-}\"";
    shipped_with(|text| format!("{}\n{more}", text.replacen(from_environment, KEY, 1)))
}

/// The shipped routes, changed.
fn shipped_with(change: impl FnOnce(&str) -> String) -> Config {
    let text = change(include_str!("../../../routes.toml"));
    let source = config::diagnostics::Source { name: "routes.toml".into(), text };
    let env = |name: &str| {
        matches!(name, "PUSHER_APP_ID" | "PUSHER_KEY" | "PUSHER_SECRET" | "JWT_SECRET")
            .then(|| "1".to_owned())
    };
    config::load(&source, &env).unwrap().config
}

/// A session under test: inputs in, readable actions out.
struct Bench {
    machine: Machine,
    now: Now,
    out: Vec<Action>,
}

impl Bench {
    fn open(path: &str) -> Self {
        Self::open_in(&shipped(""), path, |_| {})
    }

    fn open_in(config: &Config, path: &str, change: impl FnOnce(&mut Opening)) -> Self {
        let Matched::Route(index, values) = config.router.find(path) else { panic!("{path}") };
        let mut opening = Opening {
            route: config.routes[index].clone(),
            endpoint: path.to_owned(),
            values,
            token: None,
            refusal: None,
            subscribe_wait: Duration::from_secs(10),
            seed: 7,
        };
        change(&mut opening);
        let (now, mut out) = (now(), Vec::new());
        let machine = Machine::open(opening, now, &mut out);
        Self { machine, now, out }
    }

    /// What was asked for since the last look, in short; notes for the log are left out.
    fn seen(&mut self) -> Vec<String> {
        let out = std::mem::take(&mut self.out);
        out.iter().filter(|action| !matches!(action, Action::Unverified(_))).map(short).collect()
    }

    fn text(&mut self, text: &str) -> Vec<String> {
        let handled = self.machine.text(text, self.now, &mut self.out);
        self.after_message(handled)
    }

    fn binary(&mut self) -> Vec<String> {
        let handled = self.machine.binary(self.now, &mut self.out);
        self.after_message(handled)
    }

    fn binary_text(&mut self, bytes: &[u8]) -> Vec<String> {
        let handled = self.machine.binary_text(bytes, self.now, &mut self.out);
        self.after_message(handled)
    }

    fn after_message(&mut self, handled: Handled) -> Vec<String> {
        let echo = (handled == Handled::Echo).then(|| "echo".to_owned());
        self.seen().into_iter().chain(echo).collect()
    }

    fn after(&mut self, time: Duration) -> Vec<String> {
        self.now = self.now.plus(time);
        self.machine.timer(self.now, &mut self.out);
        self.seen()
    }

    fn verified(&mut self, verdict: Result<Claims, Option<Duration>>) -> Vec<String> {
        self.machine.verified(verdict, LEEWAY, self.now, &mut self.out);
        self.seen()
    }

    fn slots(&mut self, outcome: Result<(), ErrorCode>) -> Vec<String> {
        self.machine.slots(outcome, self.now, &mut self.out);
        self.seen()
    }

    fn subscribed(&mut self, id: u32) -> Vec<String> {
        self.machine.subscribed(id, self.now, &mut self.out);
        self.seen()
    }

    /// Authenticates user 123 for an hour, with every permission the shipped routes ask for.
    fn authenticate(&mut self) {
        self.text(r#"{"type":"auth","token":"Bearer t"}"#);
        self.verified(Ok(self.claims("123", 3600)));
        self.slots(Ok(()));
        self.subscribed(FIXED);
        assert!(self.machine.is_live());
    }

    fn without_heartbeat(&mut self) {
        self.machine.timers.clear(Timer::Silence);
        self.machine.timers.clear(Timer::Ping);
    }

    fn claims(&self, user: &str, seconds: i64) -> Claims {
        claims(
            user,
            &["content:generate", "roblox:read", "command:run"],
            self.now.unix_seconds() + seconds,
            r#"{"plugin_ids":["p1",7]}"#,
        )
    }
}

fn short(action: &Action) -> String {
    match action {
        Action::Send(text) => text.clone(),
        Action::Error(code, _) => format!("error {}", code.as_str()),
        Action::WsPing => "ws ping".into(),
        Action::Unverified(result) => format!("unverified {}", result.label()),
        Action::Verify(token) => format!("verify {token}"),
        Action::Acquire { user, exclusive } => {
            format!("acquire {} {:?}", user.subject, exclusive.as_ref().map(|key| &key.subject))
        }
        Action::Release => "release".into(),
        Action::Subscribe(s) => format!("subscribe {} {} {:?}", s.id, s.channel, s.interest),
        Action::Unsubscribe(id) => format!("unsubscribe {id}"),
        Action::Publish { outgoing: Outgoing::Trigger { event, data, elsewhere, .. }, channel, .. } => {
            format!("trigger {} {event} {data}", elsewhere.as_ref().unwrap_or(channel))
        }
        Action::Publish { outgoing: Outgoing::ClientEvent { event, data, .. }, channel, .. } => {
            format!("client event {channel} {event} {data}")
        }
        Action::Publish { outgoing: Outgoing::Drop, .. } => "drop".into(),
        Action::Publish { outgoing: Outgoing::Post { url, body, .. }, .. } => format!("post {url} {body}"),
        Action::Close(reason) => format!("close {}", reason.label()),
    }
}
