//! The faults a test can cause, each exactly when it says so, and the events it can inject.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::SandboxHandle;
use super::hub::{Hub, Inner};
use super::rules::{Attributes, Publish, WsError};

/// Most publishes that can wait for a [`PublishHold`]; more are answered 503.
pub const HELD_PUBLISHES_MAX: usize = 1024;

/// What happens to who asks for a WebSocket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandshakeFault {
    /// It is welcome.
    #[default]
    None,
    /// The connection is dropped without an answer.
    Drop,
    /// The answer is this HTTP status, from 400 to 599.
    Status(u16),
}

/// What happens to one publish over HTTP.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is carried out now; where `cut`, the connection breaks before the answer.
    Process { cut: bool },
    /// It was refused.
    Fail { status: u16, retry_after_s: Option<u64> },
    /// It waits, and is carried out by who releases it.
    Held { released: oneshot::Receiver<()>, cut: bool },
}

/// The faults that are in force.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) handshake: HandshakeFault,
    failures: VecDeque<Failures>,
    drops: usize,
    holds: usize,
    held: VecDeque<Held>,
    refusals: BTreeMap<String, Refusal>,
    limited_client_events: usize,
}

/// How subscriptions to a channel are refused: by a `pusher:error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its code; the hosted service has none for most.
    pub code: Option<u16>,
    /// Its text.
    pub message: String,
}

#[derive(Debug)]
struct Failures {
    count: usize,
    status: u16,
    retry_after_s: Option<u64>,
}

#[derive(Debug)]
struct Held {
    events: Vec<Publish>,
    release: oneshot::Sender<()>,
}

impl Faults {
    pub(super) fn held_publishes(&self) -> usize {
        self.held.len()
    }

    pub(super) fn refusal(&self, channel: &str) -> Option<WsError> {
        let Refusal { code, message } = self.refusals.get(channel)?.clone();
        Some(WsError { code, message })
    }

    pub(super) fn limits_client_event(&mut self) -> bool {
        let limited = self.limited_client_events > 0;
        self.limited_client_events = self.limited_client_events.saturating_sub(1);
        limited
    }

    fn failure(&mut self) -> Option<(u16, Option<u64>)> {
        let first = self.failures.front_mut()?;
        let (status, retry_after_s) = (first.status, first.retry_after_s);
        first.count -= 1;
        if first.count == 0 {
            self.failures.pop_front();
        }
        Some((status, retry_after_s))
    }
}

impl Inner {
    /// Decides on a publish, and carries it out unless it fails or is held.
    pub(super) fn receive_publish(&mut self, events: Vec<Publish>) -> Fate {
        self.log.request(events.len());
        if let Some((status, retry_after_s)) = self.faults.failure() {
            return Fate::Fail { status, retry_after_s };
        }
        if self.faults.held.len() >= HELD_PUBLISHES_MAX {
            return Fate::Fail { status: 503, retry_after_s: None };
        }
        let cut = self.faults.drops > 0;
        self.faults.drops = self.faults.drops.saturating_sub(1);
        if self.faults.holds > 0 {
            let (release, released) = oneshot::channel();
            self.faults.held.push_back(Held { events, release });
            return Fate::Held { released, cut };
        }
        events.iter().for_each(|event| self.publish(event));
        Fate::Process { cut }
    }

    /// Carries the oldest held publish out. Whether there was one.
    fn release_publish(&mut self) -> bool {
        let Some(Held { events, release }) = self.faults.held.pop_front() else {
            return false;
        };
        events.iter().for_each(|event| self.publish(event));
        let _ = release.send(());
        true
    }
}

/// While this lives, publishes are received but neither carried out nor answered. Dropping the last one lets
/// all go, in the order they came.
#[derive(Debug)]
#[must_use = "dropping it releases the publishes"]
pub struct PublishHold(Arc<Hub>);

impl PublishHold {
    /// Lets the oldest held publish go. Whether there was one.
    pub fn release_one(&self) -> bool {
        self.0.change(Inner::release_publish)
    }
}

impl Drop for PublishHold {
    fn drop(&mut self) {
        self.0.change(|inner| {
            inner.faults.holds -= 1;
            while inner.faults.holds == 0 && inner.release_publish() {}
        });
    }
}

impl SandboxHandle {
    /// Breaks every WebSocket without a close frame.
    pub fn cut_connections(&self) {
        self.hub().change(Inner::cut_all);
    }

    /// Closes every WebSocket with `code` (1000 to 4999), after what is queued.
    pub fn close_connections(&self, code: u16) {
        self.hub().change(|inner| inner.close_all(code, "Closed by the sandbox"));
    }

    /// What happens to new WebSockets from now on.
    pub fn refuse_connections(&self, fault: HandshakeFault) {
        self.hub().change(|inner| inner.faults.handshake = fault);
    }

    /// Answers the next `count` publishes over HTTP with `status` (200 to 599), without carrying them out, and
    /// with `Retry-After` where given. Calls queue up.
    pub fn fail_publishes(&self, count: usize, status: u16, retry_after_s: Option<u64>) {
        if count > 0 {
            let failures = Failures { count, status, retry_after_s };
            self.hub().change(|inner| inner.faults.failures.push_back(failures));
        }
    }

    /// Carries the next `count` publishes out, and breaks their connections before the answer.
    pub fn drop_publishes(&self, count: usize) {
        self.hub().change(|inner| inner.faults.drops += count);
    }

    /// Holds publishes over HTTP back until the guard is dropped.
    pub fn hold_publishes(&self) -> PublishHold {
        self.hub().change(|inner| inner.faults.holds += 1);
        PublishHold(Arc::clone(self.hub()))
    }

    /// Leaves subscriptions to `channel` without an answer from now on.
    pub fn hold_subscriptions(&self, channel: &str) {
        self.hub().change(|inner| inner.state.hold(channel));
    }

    /// Lets subscriptions to `channel` succeed again, those held first.
    pub fn release_subscriptions(&self, channel: &str) {
        self.hub().change(|inner| inner.release_subscriptions(channel));
    }

    /// Refuses subscriptions to `channel` from now on; with `None` no more.
    pub fn refuse_subscriptions(&self, channel: &str, refusal: Option<Refusal>) {
        self.hub().change(|inner| match refusal {
            Some(refusal) => drop(inner.faults.refusals.insert(channel.to_owned(), refusal)),
            None => drop(inner.faults.refusals.remove(channel)),
        });
    }

    /// Answers the next `count` client events with 4301, as ones too many.
    pub fn limit_client_events(&self, count: usize) {
        self.hub().change(|inner| inner.faults.limited_client_events += count);
    }

    /// Closes the connections signed in as a user, as the HTTP API's `terminate_connections` does.
    pub fn terminate_connections(&self, user_id: &str) {
        self.hub().change(|inner| inner.terminate(user_id));
    }

    /// Forgets the last event of a cache channel, as if its time were over.
    pub fn forget_cached(&self, channel: &str) {
        self.hub().change(|inner| inner.forget_cached(channel));
    }

    /// Forgets every subscription to `channel`, and tells nobody: what a server does that looks healthy.
    pub fn forget_subscriptions(&self, channel: &str) {
        self.hub().change(|inner| inner.state.forget(channel));
    }

    /// Forgets every subscription, and tells nobody.
    pub fn forget_all_subscriptions(&self) {
        self.hub().change(|inner| inner.state.forget_all());
    }

    /// While `true`, a second subscription to a channel is confirmed like the first, as self-hosted servers do, and
    /// not refused.
    pub fn confirm_existing_subscriptions(&self, confirm: bool) {
        self.hub().change(|inner| inner.state.confirms_existing = confirm);
    }

    /// While `true`, no WebSocket is read or written, pings of either kind among it: what a peer behind a
    /// dead network sees. Frames queue meanwhile.
    pub fn silence(&self, silent: bool) {
        self.hub().silent.send_replace(silent);
    }

    /// Publishes an event in-process, without HTTP and its checks; `data` is the text of the data.
    pub fn trigger(&self, channel: &str, event: &str, data: &str) {
        let publish = Publish {
            event: event.to_owned(),
            data: data.to_owned(),
            channels: vec![channel.to_owned()],
            socket_id: None,
            wants: Attributes::default(),
        };
        self.hub().change(|inner| inner.publish(&publish));
    }

    /// Sends `text` as one frame, whatever it is, to every subscriber of `channel`.
    pub fn raw_frame(&self, channel: &str, text: &str) {
        self.hub().change(|inner| inner.send_to_channel(channel, None, text.to_owned()));
    }

    /// Sends `text` as one frame, whatever it is, to every WebSocket.
    pub fn raw_frame_to_all(&self, text: &str) {
        self.hub().change(|inner| inner.send_to_all(text));
    }
}
