mod old_clients;
mod random;
mod tokens;
mod writes;

use super::*;
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
            refused: None,
            subscribe_wait: Duration::from_secs(10),
            seed: 7,
        };
        change(&mut opening);
        let (now, mut out) = (now(), Vec::new());
        let machine = Machine::open(opening, now, &mut out);
        Self { machine, now, out }
    }

    /// What was asked for since the last look, in short.
    fn seen(&mut self) -> Vec<String> {
        std::mem::take(&mut self.out).iter().map(short).collect()
    }

    fn text(&mut self, text: &str) -> Vec<String> {
        self.machine.text(text, self.now, &mut self.out);
        self.seen()
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
        Action::Echo => "echo".into(),
        Action::WsPing => "ws ping".into(),
        Action::Verify(token) => format!("verify {token}"),
        Action::Acquire { user, exclusive } => {
            format!("acquire {} {:?}", user.subject, exclusive.as_ref().map(|key| &key.subject))
        }
        Action::Release => "release".into(),
        Action::Subscribe(s) => format!("subscribe {} {} {:?}", s.id, s.channel, s.interest),
        Action::Unsubscribe(id) => format!("unsubscribe {id}"),
        Action::Publish { outgoing: Outgoing::Trigger { event, data }, channel, .. } => {
            format!("trigger {channel} {event} {data}")
        }
        Action::Publish { outgoing: Outgoing::Post { url, body, .. }, .. } => format!("post {url} {body}"),
        Action::Close(reason) => format!("close {}", reason.label()),
    }
}

#[test]
fn a_client_authenticates_and_is_told_when_its_channel_stands() {
    let mut b = Bench::open("/ws/content/gen_1");
    assert!(b.seen().is_empty());
    assert_eq!(b.text(r#"{"type":"auth","token":"Bearer t.o.k"}"#), ["verify t.o.k"]);
    assert!(!b.machine.wants_frames(), "frames sent back to back with auth wait their turn");
    assert_eq!(b.verified(Ok(b.claims("123", 60))), [r#"acquire 123 Some("gen_1")"#]);
    b.machine.slots(Ok(()), b.now, &mut b.out);
    let Some(Action::Subscribe(subscribe)) = b.out.pop() else { panic!("{:?}", b.out) };
    assert_eq!(subscribe.channel, "content-generation-gen_1");
    assert!(
        subscribe
            .confirm
            .unwrap()
            .starts_with(r#"{"type":"auth_response","data":{"authenticated":true,"user_id":"123""#)
    );
    assert!(!b.machine.wants_frames() && !b.machine.is_live());
    b.subscribed(FIXED);
    assert!(b.machine.wants_frames() && b.machine.is_live());
}

#[test]
fn before_authentication_only_auth_and_pong_pass() {
    let mut b = Bench::open("/ws/content/gen_1");
    assert!(b.text(r#"{"type":"pong"}"#).is_empty());
    b.machine.text(r#"{"type":"subscribe"}"#, b.now, &mut b.out);
    let Some(Action::Error(ErrorCode::AuthRequired, frame)) = b.out.pop() else { panic!("{:?}", b.out) };
    assert_eq!(
        frame,
        r#"{"type":"error","data":{"error_code":"WEBSOCKET_AUTH_REQUIRED","message":"Authentication required for this WebSocket endpoint","details":{"endpoint":"/ws/content/gen_1","required_permissions":["content:generate"]}}}"#
    );
    assert_eq!(b.text("junk"), ["error WEBSOCKET_AUTH_REQUIRED"]);
    b.machine.binary(b.now, &mut b.out);
    assert_eq!(b.seen(), ["error BINARY_NOT_SUPPORTED"]);
    assert_eq!(b.after(Duration::from_secs(30)), ["close auth_deadline"]);
    assert!(b.text(r#"{"type":"auth","token":"t"}"#).is_empty(), "nothing is answered after a close");
}

#[test]
fn refused_tokens_leave_the_client_a_chance_until_the_deadline() {
    let mut b = Bench::open("/ws/content/gen_1");
    b.text(r#"{"type":"auth","token":"t"}"#);
    assert_eq!(b.verified(Err(None)), ["error INVALID_TOKEN"]);
    assert_eq!(b.text(r#"{"type":"auth"}"#), ["error INVALID_TOKEN"]);
    b.text(r#"{"type":"auth","token":"t"}"#);
    let poor = claims("123", &["roblox:read"], b.now.unix_seconds() + 60, "{}");
    assert_eq!(b.verified(Ok(poor)), ["error MISSING_PERMISSION"]);
    b.text(r#"{"type":"auth","token":"t"}"#);
    assert_eq!(b.verified(Err(Some(Duration::from_secs(3)))), ["error AUTH_RATE_LIMITED"]);
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Err(None));
    assert_eq!(
        b.text(r#"{"type":"auth","token":"t"}"#),
        ["error AUTH_RATE_LIMITED"],
        "the sixth in a minute"
    );
    assert_eq!(b.after(Duration::from_secs(30)), ["close auth_failures"]);
}

#[test]
fn what_the_path_names_must_be_the_users() {
    for (path, outcome) in [
        ("/ws/plugin/p1", "acquire 123 None"),
        ("/ws/plugin/7", "acquire 123 None"),
        ("/ws/plugin/p2", "error NOT_OWNER"),
    ] {
        let mut b = Bench::open(path);
        b.text(r#"{"type":"auth","token":"t"}"#);
        assert_eq!(b.verified(Ok(b.claims("123", 60))), [outcome], "{path}");
    }
}

#[test]
fn full_slots_are_told_and_may_be_tried_again() {
    let mut b = Bench::open("/ws/content/gen_1");
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Ok(b.claims("123", 3600)));
    b.now = b.now.plus(Duration::from_secs(40));
    assert_eq!(b.slots(Err(ErrorCode::SessionInUse)), ["error SESSION_IN_USE"]);
    assert!(b.after(Duration::from_secs(29)).is_empty(), "the deadline runs anew: no fast reconnect loop");
    assert_eq!(b.text(r#"{"type":"auth","token":"t"}"#), ["verify t"]);
}

#[test]
fn a_subscription_that_does_not_stand_is_told() {
    let mut b = Bench::open("/ws/content/gen_1");
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Ok(b.claims("123", 3600)));
    b.slots(Ok(()));
    assert_eq!(b.after(Duration::from_secs(10)), ["unsubscribe 0", "release", "error UPSTREAM_UNAVAILABLE"]);
    assert!(b.subscribed(FIXED).is_empty());
    assert!(!b.machine.is_live(), "a late confirmation changes nothing");
    assert_eq!(b.after(Duration::from_secs(30)), ["close auth_deadline"]);
}

#[test]
fn expiry_ends_the_connection_unless_renewed_by_the_same_user() {
    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    let renew = |b: &mut Bench, user: &str| {
        b.text(r#"{"type":"auth","token":"t"}"#);
        b.verified(Ok(b.claims(user, 7200)))
    };
    assert_eq!(renew(&mut b, "124"), ["error OTHER_USER"]);
    assert!(renew(&mut b, "123")[0].starts_with(r#"{"type":"auth_response""#));
    b.machine.timers.silence = None;
    assert!(!b.after(Duration::from_secs(3700)).iter().any(|a| a.starts_with("close")));
    b.machine.timers.silence = None;
    let end = b.after(Duration::from_secs(3600));
    assert_eq!(end, ["error INVALID_TOKEN", "close token_expired"]);
}

#[test]
fn agents_are_filtered_by_their_path_and_environments_by_choice() {
    let mut b = Bench::open("/ws/agent/agent_7");
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Ok(b.claims("123", 60)));
    assert_eq!(b.slots(Ok(())), [r#"subscribe 0 agent-status Value("agent_7")"#]);

    let mut b = Bench::open("/ws/roblox");
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Ok(b.claims("123", 60)));
    assert_eq!(b.slots(Ok(())), ["subscribe 0 roblox-sync Hold"]);
    b.subscribed(FIXED);
    let subscribe = r#"{"type":"subscribe","environment_id":"env_456"}"#;
    assert_eq!(b.text(subscribe), [r#"subscribe 1 roblox-sync Value("env_456")"#]);
    assert!(b.text(subscribe).is_empty(), "once is enough");
    assert_eq!(
        b.text(r#"{"type":"subscribe","environment_id":7}"#),
        [r#"subscribe 2 roblox-sync Value("7")"#]
    );
    assert_eq!(b.text(r#"{"type":"subscribe"}"#), ["error INVALID_FIELD"]);
    assert_eq!(b.text(r#"{"type":"unsubscribe","environment_id":"env_456"}"#), ["unsubscribe 1"]);
    b.subscribed(2);
    assert!(b.after(Duration::from_secs(11)).is_empty());
    assert_eq!(
        b.text(r#"{"type":"subscribe","environment_id":"x"}"#),
        [r#"subscribe 3 roblox-sync Value("x")"#]
    );
    assert_eq!(b.after(Duration::from_secs(10)), ["unsubscribe 3", "error UPSTREAM_UNAVAILABLE"]);
}

#[test]
fn channels_are_chosen_from_a_closed_list() {
    let mut b = Bench::open("/ws");
    assert!(b.machine.is_live());
    assert_eq!(b.text(r#"{"type":"subscribe","channel":"files"}"#), ["subscribe 1 files All"]);
    assert_eq!(b.text(r#"{"type":"subscribe","channel":"private-x"}"#), ["error INVALID_FIELD"]);
    assert_eq!(b.text("junk"), ["error INVALID_JSON"]);
    assert_eq!(b.text(r#"{"type":"unsubscribe","channel":"files"}"#), ["unsubscribe 1"]);
    assert_eq!(b.text(r#"{"type":"run"}"#), ["error UNKNOWN_MESSAGE_TYPE"]);
}

#[test]
fn messages_are_published_as_the_rules_say() {
    let mut b = Bench::open("/ws/plugin/p1");
    b.authenticate();
    for (text, expected) in [
        (r#"{"type":"run","data":{"n":1.50}}"#, r#"trigger private-plugin-p1 client-run {"n":1.50}"#),
        (r#"{"type":"run","data":1,"timestamp":"t"}"#, "trigger private-plugin-p1 client-run 1"),
        (r#"{"type":"run","speed":2}"#, r#"trigger private-plugin-p1 client-run {"type":"run","speed":2}"#),
        (r#"{"type":"run\u0000"}"#, "error INVALID_FIELD"),
        ("{}", "error MISSING_TYPE"),
        ("[]", "error NOT_AN_OBJECT"),
    ] {
        assert_eq!(b.text(text), [expected], "{text}");
    }
    let large = format!(r#"{{"type":"run","data":"{}"}}"#, "x".repeat(10_240));
    assert_eq!(b.text(&large), ["error MESSAGE_TOO_LARGE"]);
    assert_eq!(
        b.text(&format!(r#"{{"type":"run","data":{}1{}}}"#, "[".repeat(99), "]".repeat(99))),
        ["error MESSAGE_TOO_DEEP"]
    );

    let mut b = Bench::open("/ws/command/s.1");
    b.authenticate();
    assert_eq!(
        b.text(r#"{"type":"input","data":"ls\n"}"#),
        [r#"post http://127.0.0.1:3000/commands/s.1/input {"input":"ls\n"}"#.to_owned()]
    );
    assert_eq!(b.text(r#"{"type":"input"}"#), ["error INVALID_FIELD"]);
    assert_eq!(b.text(r#"{"type":"other"}"#), ["error MESSAGE_TYPE_NOT_PUBLISHED"]);

    let mut b = Bench::open("/ws/content/c");
    b.authenticate();
    assert_eq!(b.text(r#"{"type":"run"}"#), ["error UNKNOWN_MESSAGE_TYPE"]);
    assert_eq!(b.text(r#"{"type":"subscribe","channel":"x"}"#), ["error UNKNOWN_MESSAGE_TYPE"]);
}

#[test]
fn no_value_leads_out_of_its_segment_of_a_url() {
    let config = shipped(
        "[[routes]]\nname = \"p\"\npath = \"/p/{id}\"\ndialect = \"typed\"\nchannel = \"p-{id}\"\nauth = { required = false }\n[[routes.publish]]\ntypes = [\"*\"]\npost = \"http://127.0.0.1:3000/{id}/{type}\"\nbody = '{frame}'\n",
    );
    let say = |id: &str, message_type: &str| {
        let text = format!(r#"{{"type":"{message_type}"}}"#);
        let said = Bench::open_in(&config, &format!("/p/{id}"), |_| {}).text(&text);
        said.last().unwrap().replace(&text, "…")
    };
    assert_eq!(say("1", "auth0|a b"), "post http://127.0.0.1:3000/1/auth0%7Ca%20b …");
    let leading_out = ["a/../../b?c#d", "a/b", r"a\\b", "%2e%2e", "%2F", "%252f", "a?b", "a#b"];
    for (id, message_type) in leading_out.map(|message_type| ("1", message_type)) {
        assert_eq!(say(id, message_type), "error INVALID_FIELD", "{id} {message_type}");
    }
    for (id, message_type) in [("1", ""), ("1", "."), ("1", ".."), (".", "a"), ("..", "a")] {
        assert_eq!(say(id, message_type), "error INVALID_FIELD", "{id} {message_type}");
    }
}

#[test]
fn a_user_and_a_field_have_the_characters_that_they_may_have() {
    let config = |user: &str| {
        shipped(&format!(
            "[[routes]]\nname = \"f\"\npath = \"/f\"\ndialect = \"typed\"\nchannel = \"f\"\nauth.required = true\n\
             filter = {{ field = \"k\", equals = \"{{auth.user}}-{{subscribe.env}}\" }}\n\
             values = {{ \"auth.user\" = \"{user}\", \"subscribe.env\" = \"[a-z]+\" }}\n"
        ))
    };
    let mut b = Bench::open_in(&config("[A-Z]+"), "/f", |_| {});
    b.text(r#"{"type":"auth","token":"t"}"#);
    assert_eq!(b.verified(Ok(b.claims("u1", 60))), ["error INVALID_FIELD"]);
    let mut b = Bench::open_in(&config("[a-z0-9]+"), "/f", |_| {});
    b.authenticate();
    assert_eq!(b.text(r#"{"type":"subscribe","env":"a-b"}"#), ["error INVALID_FIELD"]);
    assert_eq!(b.text(r#"{"type":"subscribe","env":"ab"}"#).len(), 1);
}

#[test]
fn with_chosen_channels_a_message_names_its_own() {
    let config = shipped(
        "[[routes]]\nname = \"c\"\npath = \"/c\"\ndialect = \"channel\"\nchannel = \"x-{subscribe.channel}\"\nauth = { required = false }\n[[routes.publish]]\ntypes = [\"say\"]\n",
    );
    let mut b = Bench::open_in(&config, "/c", |_| {});
    let say = r#"{"type":"say","channel":"a","data":1}"#;
    assert_eq!(b.text(say), ["error MESSAGE_TYPE_NOT_PUBLISHED"], "not subscribed");
    assert_eq!(b.text(r#"{"type":"subscribe","channel":"a"}"#), ["subscribe 1 x-a All"]);
    assert_eq!(b.text(say), ["trigger x-a client-say 1"]);
    assert_eq!(b.text(r#"{"type":"say","data":1}"#), ["error MESSAGE_TYPE_NOT_PUBLISHED"]);
}

#[test]
fn messages_are_limited_and_pongs_are_free_up_to_a_ceiling() {
    let mut b = Bench::open("/ws/plugin/p1");
    b.authenticate();
    for _ in 0..100 {
        assert!(b.text(r#"{"type":"run"}"#)[0].starts_with("trigger"));
    }
    b.machine.text(r#"{"type":"run"}"#, b.now, &mut b.out);
    let Some(Action::Error(ErrorCode::RateLimited, frame)) = b.out.pop() else { panic!("{:?}", b.out) };
    assert!(frame.contains(r#""retry_after_ms":600"#), "{frame}");
    b.now = b.now.plus(Duration::from_millis(600));
    assert!(b.text(r#"{"type":"run"}"#)[0].starts_with("trigger"));
    for _ in 0..500 {
        assert!(b.text(r#"{"type":"pong"}"#).is_empty());
    }
    let flood: Vec<String> = (0..200).flat_map(|_| b.text(r#"{"type":"pong"}"#)).collect();
    assert_eq!(flood, ["close control_flood"]);
}

#[test]
fn heartbeats_come_in_time_and_silence_closes() {
    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    let first = b.machine.timers.ping.unwrap() - b.now.mono;
    assert!(first >= Duration::from_secs(27) && first <= Duration::from_secs(33), "{first:?}");
    let ping = b.after(Duration::from_secs(33));
    assert!(ping[0].starts_with(r#"{"type":"ping","timestamp":""#), "{ping:?}");
    b.text(r#"{"type":"pong","timestamp":"x"}"#);
    assert!(!b.after(Duration::from_secs(74)).iter().any(|a| a.starts_with("close")));
    assert_eq!(b.after(Duration::from_secs(1)), ["close silent"]);

    let mut b = Bench::open("/ws");
    assert_eq!(b.machine.route.heartbeat.kind, HeartbeatKind::WebSocket);
    assert_eq!(b.after(Duration::from_secs(33)), ["ws ping"]);
    b.machine.control(b.now, &mut b.out);
    assert!(!b.after(Duration::from_secs(50)).iter().any(|a| a.starts_with("close")));
    assert_eq!(b.after(Duration::from_secs(10)), ["close silent"]);
}

#[test]
fn a_client_is_not_silent_while_its_token_is_verified() {
    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    b.text(r#"{"type":"auth","token":"t"}"#);
    assert!(!b.after(Duration::from_secs(75)).iter().any(|a| a.starts_with("close")));
    b.verified(Ok(b.claims("123", 7200)));
    assert!(!b.after(Duration::from_secs(74)).iter().any(|a| a.starts_with("close")));
    assert_eq!(b.after(Duration::from_secs(1)), ["close silent"]);
}

#[test]
fn native_echoes_everything_and_says_nothing_itself() {
    let mut b = Bench::open("/ws/native");
    assert_eq!(b.seen(), ["subscribe 0 test-channel All"]);
    for text in ["hello", r#"{"type":"auth"}"#, "", "{"] {
        assert_eq!(b.text(text), ["echo"]);
    }
    b.machine.binary(b.now, &mut b.out);
    assert_eq!(b.seen(), ["echo"]);
    b.machine.publish_failed(ErrorCode::QueueFull, "x", b.now, &mut b.out);
    b.machine.gap(Duration::ZERO, b.now, &mut b.out);
    assert!(b.seen().is_empty());
}

#[test]
fn probes_shutdowns_and_gaps() {
    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    b.machine.probe(Duration::from_secs(5), b.now, &mut b.out);
    assert_eq!(b.seen().last().unwrap(), "ws ping");
    b.machine.control(b.now, &mut b.out);
    assert!(b.after(Duration::from_secs(5)).is_empty(), "alive");
    b.machine.probe(Duration::from_secs(5), b.now, &mut b.out);
    b.seen();
    assert_eq!(b.after(Duration::from_secs(5)), ["close replaced"]);

    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    b.machine.drain(Duration::from_secs(3), b.now);
    assert_eq!(b.machine.deadline(), Some(b.now.mono + Duration::from_secs(3)));
    assert_eq!(b.after(Duration::from_secs(3)), ["close going_away"]);

    for (on_gap, expected) in [
        (OnGap::Ignore, &[][..]),
        (OnGap::Notify, &["error EVENTS_MAY_BE_MISSING"]),
        (OnGap::Close, &["close gap"]),
    ] {
        let name = format!("{on_gap:?}").to_lowercase();
        let config = shipped(&format!(
            "[[routes]]\nname = \"g\"\npath = \"/g\"\ngroup = \"typed-api\"\nchannel = \"g\"\non_gap = \"{name}\"\n"
        ));
        let mut b = Bench::open_in(&config, "/g", |_| {});
        b.authenticate();
        b.machine.gap(Duration::ZERO, b.now, &mut b.out);
        assert_eq!(b.seen(), expected, "{on_gap:?}");
    }
}

#[test]
fn closes_for_a_gap_are_spread_and_a_second_gap_moves_none() {
    const CLIENTS: u64 = 200;
    let window = Duration::from_secs(10);
    let config = shipped(
        "[[routes]]\nname = \"g\"\npath = \"/g\"\ngroup = \"typed-api\"\nchannel = \"g\"\non_gap = \"close\"\n",
    );
    let mut turns = Vec::new();
    for seed in 0..CLIENTS {
        let mut b = Bench::open_in(&config, "/g", |opening| opening.seed = seed);
        b.authenticate();
        b.machine.gap(window, b.now, &mut b.out);
        assert!(b.seen().is_empty() && b.machine.is_live(), "until then it is in service");
        let turn = b.machine.timers.gap.unwrap();
        b.now = b.now.plus(Duration::from_millis(1));
        b.machine.gap(window, b.now, &mut b.out);
        assert_eq!(b.machine.timers.gap, Some(turn), "or a link that flaps would keep it for ever");
        let left = turn.saturating_duration_since(b.now.mono);
        assert_eq!(b.after(left).last().map(String::as_str), Some("close gap"));
        turns.push(left);
    }
    for second in 0..10 {
        let at = Duration::from_secs(second)..Duration::from_secs(second + 1);
        let closed = turns.iter().filter(|turn| at.contains(*turn)).count();
        assert!((8..=40).contains(&closed), "{closed} of {CLIENTS} in second {second}");
    }
}

#[test]
fn a_refusal_by_frame_is_held_before_the_close() {
    let config = shipped(
        "[[routes]]\nname = \"g\"\npath = \"/g\"\ngroup = \"typed-api\"\nchannel = \"g\"\nrefusal = \"frame\"\nrefusal_hold = \"20s\"\n",
    );
    let mut b = Bench::open_in(&config, "/g", |o| o.refused = Some(ErrorCode::EndpointGone));
    assert_eq!(b.seen(), ["error ENDPOINT_GONE"]);
    assert!(b.text(r#"{"type":"auth","token":"t"}"#).is_empty());
    assert!(b.after(Duration::from_secs(19)).is_empty());
    assert_eq!(b.after(Duration::from_secs(1)), ["close refused"]);
}

#[test]
fn a_token_of_the_upgrade_request_needs_no_message() {
    let config = shipped("");
    let b = Bench::open_in(&config, "/ws/agent/a", |o| o.token = Some("t".into()));
    assert_eq!(b.out.iter().map(short).collect::<Vec<_>>(), ["verify t"]);
}

#[test]
fn a_token_that_expires_before_its_channel_stands_ends_the_connection() {
    let mut b = Bench::open("/ws/content/gen_1");
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Ok(b.claims("123", -5)));
    // Five of the ten seconds of leeway are gone already.
    assert!(b.machine.deadline().unwrap() <= b.now.mono + Duration::from_secs(5));
    assert_eq!(b.after(Duration::from_secs(5)), ["error INVALID_TOKEN", "close token_expired"]);
    assert_eq!(b.machine.deadline(), None, "no timer is left that would fire for ever");
}

#[test]
fn answers_to_our_pings_are_no_flood() {
    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    // Others try for its slot, far more often than a client may send pongs.
    for _ in 0..5000 {
        b.machine.probe(Duration::from_secs(5), b.now, &mut b.out);
        assert_eq!(b.seen().len(), 2, "a JSON ping and a WebSocket ping");
        b.machine.control(b.now, &mut b.out);
        assert!(b.text(r#"{"type":"pong"}"#).is_empty());
    }
    // What was not asked for still is one, and pings that were never answered are no credit for it.
    for _ in 0..1000 {
        b.machine.probe(Duration::from_secs(5), b.now, &mut b.out);
        b.machine.heard(b.now);
    }
    b.seen();
    let free = (0..).take_while(|_| b.text(r#"{"type":"pong"}"#).is_empty()).count();
    assert_eq!(free, 600 + usize::from(PINGS_OWED_MAX));
}

#[test]
fn a_probe_is_judged_only_while_the_answer_would_be_heard() {
    let mut b = Bench::open("/ws/content/gen_1");
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Ok(b.claims("123", 60)));
    b.slots(Ok(()));
    b.machine.probe(Duration::from_secs(5), b.now, &mut b.out);
    b.seen();
    assert!(b.after(Duration::from_secs(5)).is_empty(), "it waits for its subscription, and is not read");
    b.subscribed(FIXED);
    b.machine.probe(Duration::from_secs(5), b.now, &mut b.out);
    b.seen();
    assert_eq!(b.after(Duration::from_secs(5)), ["close replaced"]);
}
