//! Webhooks: what happens here is told to a backend, signed, in batches, and again while it does not answer
//! (Pusher docs, "Webhooks").

use std::time::Duration;

use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::Options;
use crate::clock::Now;
use crate::http::{Client, Request};
use crate::pusher::frame::string_into;
use crate::pusher::sign;

/// Most events of one call (Pusher's support pages).
pub const EVENTS_PER_WEBHOOK_MAX: usize = 20;
/// How long events are gathered for one call (Pusher's support pages).
const BATCH_WINDOW: Duration = Duration::from_millis(250);
/// How long an answer may take (Pusher's support pages).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The delay before a call is made again; it doubles.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long a call is made again (Pusher's support pages).
const RETRIED_FOR: Duration = Duration::from_secs(300);
/// Most calls under way; more wait.
const CALLS_MAX: usize = 32;

/// Where webhooks go.
#[derive(Clone, Debug)]
pub struct Webhooks {
    /// The URL of the calls.
    pub url: String,
    /// How long the end of a channel or of a member waits for a quick return, of which nothing is told then.
    pub delay: Duration,
}

impl Webhooks {
    /// To `url`, with Pusher's delay of 3 seconds.
    #[must_use]
    pub fn to(url: String) -> Self {
        Self { url, delay: Duration::from_secs(3) }
    }
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Occupied(String),
    Vacated(String),
    MemberAdded(String, String),
    MemberRemoved(String, String),
    CacheMiss(String),
    SubscriptionCount(String, usize),
    ClientEvent { channel: String, event: String, data: String, socket_id: String, user_id: Option<String> },
}

impl Hook {
    /// What it takes back, when that has not been told yet.
    fn undoes(&self) -> Option<Self> {
        match self {
            Self::Occupied(channel) => Some(Self::Vacated(channel.clone())),
            Self::MemberAdded(channel, user) => Some(Self::MemberRemoved(channel.clone(), user.clone())),
            _ => None,
        }
    }

    fn waits(&self) -> bool {
        matches!(self, Self::Vacated(_) | Self::MemberRemoved(..))
    }

    fn json(&self) -> String {
        let (name, fields): (_, Vec<(&str, &str)>) = match self {
            Self::Occupied(channel) => ("channel_occupied", vec![("channel", channel)]),
            Self::Vacated(channel) => ("channel_vacated", vec![("channel", channel)]),
            Self::MemberAdded(channel, user) => {
                ("member_added", vec![("channel", channel), ("user_id", user)])
            }
            Self::MemberRemoved(channel, user) => {
                ("member_removed", vec![("channel", channel), ("user_id", user)])
            }
            Self::CacheMiss(channel) => ("cache_miss", vec![("channel", channel)]),
            Self::SubscriptionCount(channel, _) => ("subscription_count", vec![("channel", channel)]),
            Self::ClientEvent { channel, event, data, socket_id, user_id } => {
                let mut fields = vec![("channel", channel.as_str()), ("event", event), ("data", data)];
                fields.push(("socket_id", socket_id));
                fields.extend(user_id.as_deref().map(|id| ("user_id", id)));
                ("client_event", fields)
            }
        };
        let mut out = format!(r#"{{"name":"{name}""#);
        for (field, value) in fields {
            out.push_str(&format!(r#","{field}":"#));
            string_into(&mut out, value);
        }
        if let Self::SubscriptionCount(_, count) = self {
            out.push_str(&format!(r#","subscription_count":{count}"#));
        }
        out.push('}');
        out
    }
}

/// What is to be told, and when.
#[derive(Debug)]
struct Batches {
    delay: Duration,
    waiting: Vec<(Instant, Hook)>,
    ready: Vec<Hook>,
    /// When the first of `ready` goes.
    flush_at: Option<Instant>,
}

impl Batches {
    fn new(delay: Duration) -> Self {
        Self { delay, waiting: Vec::new(), ready: Vec::new(), flush_at: None }
    }

    fn push(&mut self, hook: Hook, now: Instant) {
        if hook.waits() {
            return self.waiting.push((now + self.delay, hook));
        }
        if let Some(undone) = hook.undoes()
            && let Some(at) = self.waiting.iter().position(|(_, waiting)| *waiting == undone)
        {
            self.waiting.remove(at);
            return;
        }
        self.ready(hook, now);
    }

    fn ready(&mut self, hook: Hook, now: Instant) {
        self.ready.push(hook);
        self.flush_at.get_or_insert(now + BATCH_WINDOW);
    }

    fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|(at, _)| *at).chain(self.flush_at).min()
    }

    /// The events of a call that is due.
    fn due(&mut self, now: Instant) -> Option<Vec<Hook>> {
        let waited: Vec<_> = self.waiting.extract_if(.., |(at, _)| *at <= now).collect();
        waited.into_iter().for_each(|(_, hook)| self.ready(hook, now));
        let full = self.ready.len() >= EVENTS_PER_WEBHOOK_MAX;
        if !full && self.flush_at.is_none_or(|at| at > now) {
            return None;
        }
        let rest = self.ready.split_off(self.ready.len().min(EVENTS_PER_WEBHOOK_MAX));
        self.flush_at = (!rest.is_empty()).then_some(now);
        Some(std::mem::replace(&mut self.ready, rest))
    }
}

/// The body of a call at this time.
fn body(hooks: &[Hook], now: Now) -> String {
    let events: Vec<String> = hooks.iter().map(Hook::json).collect();
    format!(r#"{{"time_ms":{},"events":[{}]}}"#, now.unix_ms, events.join(","))
}

/// Tells what comes until nobody can send more.
pub(super) async fn run(options: Options, to: Webhooks, mut hooks: mpsc::UnboundedReceiver<Hook>) {
    let client = match crate::tls::client_config(None) {
        Ok(tls) => Client::new(&tls),
        Err(error) => return tracing::error!(%error, "the sandbox sends no webhooks"),
    };
    let mut batches = Batches::new(to.delay);
    let mut calls = JoinSet::new();
    loop {
        let deadline = batches.deadline();
        tokio::select! {
            hook = hooks.recv() => match hook {
                Some(hook) => batches.push(hook, Instant::now()),
                None => return,
            },
            () = async { sleep_until(deadline.unwrap_or_else(Instant::now)).await }, if deadline.is_some() => {}
            Some(_) = calls.join_next() => {}
        }
        while calls.len() < CALLS_MAX
            && let Some(due) = batches.due(Instant::now())
        {
            calls.spawn(call(client.clone(), options.clone(), to.url.clone(), body(&due, Now::read())));
        }
    }
}

async fn call(client: Client, options: Options, url: String, body: String) {
    let end = Instant::now() + RETRIED_FOR;
    let mut delay = RETRY_DELAY;
    loop {
        let why = match attempt(&client, &options.key, &options.secret, &url, &body).await {
            Ok(200..=299) => return,
            Ok(status) => format!("status {status}"),
            Err(error) => error,
        };
        if Instant::now() + delay > end {
            return tracing::warn!(why, "the sandbox gives a webhook up");
        }
        tracing::debug!(why, "the sandbox calls a webhook again");
        sleep(delay).await;
        delay *= 2;
    }
}

async fn attempt(
    client: &Client,
    key: &str,
    secret: &SecretString,
    url: &str,
    body: &str,
) -> Result<u16, String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in
        [("x-pusher-key", key), ("x-pusher-signature", &sign::webhook_signature(secret, body.as_bytes()))]
    {
        let value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
        headers.insert(HeaderName::from_static(name), value);
    }
    let request = Request {
        method: Method::POST,
        uri: url.parse().map_err(|error| format!("{url}: {error}"))?,
        headers,
        body: body.to_owned().into(),
    };
    let answer = client.send(request, ANSWER_TIMEOUT, ANSWER_BYTES_MAX).await;
    answer.map(|response| response.status.as_u16()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> String {
        name.to_owned()
    }

    #[test]
    fn events_are_gathered_and_a_quick_return_is_not_told() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut batches = Batches::new(Duration::from_secs(3));
        batches.push(Hook::Occupied(channel("a")), at(0));
        assert_eq!((batches.deadline(), batches.due(at(249))), (Some(at(250)), None));
        assert_eq!(batches.due(at(250)), Some(vec![Hook::Occupied(channel("a"))]));
        batches.push(Hook::Vacated(channel("a")), at(300));
        batches.push(Hook::MemberRemoved(channel("b"), channel("u")), at(300));
        batches.push(Hook::MemberAdded(channel("b"), channel("u")), at(400));
        assert_eq!((batches.deadline(), batches.due(at(3299))), (Some(at(3300)), None));
        assert_eq!(batches.due(at(3300)), None);
        assert_eq!(batches.due(at(3550)), Some(vec![Hook::Vacated(channel("a"))]));
        assert_eq!(batches.deadline(), None);

        (0..25).for_each(|_| batches.push(Hook::CacheMiss(channel("c")), at(4000)));
        assert_eq!(batches.due(at(4000)).map(|due| due.len()), Some(20));
        assert_eq!(batches.due(at(4000)).map(|due| due.len()), Some(5));
        assert_eq!(batches.due(at(9000)), None);
    }

    #[test]
    fn a_body_is_as_documented() {
        let hooks = [
            Hook::Vacated(channel("a\"")),
            Hook::MemberAdded(channel("b"), channel("u")),
            Hook::SubscriptionCount(channel("c"), 3),
            Hook::ClientEvent {
                channel: channel("d"),
                event: "client-x".to_owned(),
                data: "{}".to_owned(),
                socket_id: "1.2".to_owned(),
                user_id: Some("u".to_owned()),
            },
        ];
        let now = Now { unix_ms: 1_403_175_510_755, ..Now::read() };
        assert_eq!(
            body(&hooks, now),
            concat!(
                r#"{"time_ms":1403175510755,"events":[{"name":"channel_vacated","channel":"a\""},"#,
                r#"{"name":"member_added","channel":"b","user_id":"u"},"#,
                r#"{"name":"subscription_count","channel":"c","subscription_count":3},"#,
                r#"{"name":"client_event","channel":"d","event":"client-x","data":"{}","socket_id":"1.2","#,
                r#""user_id":"u"}]}"#
            )
        );
    }
}
