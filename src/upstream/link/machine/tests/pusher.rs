//! A model of Pusher's server: one connection at a time, with what it is subscribed to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::pusher::{channel, frame};
use crate::upstream::link::machine::Frame;

/// What a server does when a channel is subscribed twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twice {
    /// It says that there is a subscription (hosted Pusher).
    Rejects,
    /// It confirms again (sockudo, soketi, Reverb).
    Confirms,
    Ignores,
    Closes,
}

impl Twice {
    pub(super) const ALL: [Self; 4] = [Self::Rejects, Self::Confirms, Self::Ignores, Self::Closes];
}

/// Something for the network to carry to the link.
#[derive(Debug)]
pub(super) enum Answer {
    Frame(String),
    Close(Option<u16>),
}

/// Why a subscription is not confirmed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    /// By an error that names the channel in its text only.
    Error,
    /// With a code that ends no connection.
    Unauthorized,
    /// By an error that does not say which channel it is about.
    Unnamed,
    /// By an event of soketi's.
    SubscriptionError,
    Silence,
    /// It is confirmed at some time, unless it is ended before.
    Delay,
}

impl Failure {
    pub(super) const ALL: [Self; 6] =
        [Self::Error, Self::Unauthorized, Self::Unnamed, Self::SubscriptionError, Self::Silence, Self::Delay];
}

#[derive(Debug)]
pub(super) struct Pusher {
    pub(super) twice: Twice,
    /// The present connection's.
    pub(super) socket_id: Option<String>,
    pub(super) subscribed: BTreeSet<Arc<str>>,
    /// To be confirmed later.
    delayed: BTreeSet<Arc<str>>,
    /// Channels that it has forgotten on the present connection.
    pub(super) forgotten: BTreeSet<Arc<str>>,
    /// Those that it refused.
    pub(super) refused: BTreeSet<Arc<str>>,
    /// Whether it has forgotten the whole connection.
    deaf: bool,
    /// The last event of each cache channel.
    last: BTreeMap<Arc<str>, String>,
    connections: u64,
}

impl Pusher {
    pub(super) fn new(twice: Twice) -> Self {
        Self {
            twice,
            socket_id: None,
            subscribed: BTreeSet::new(),
            delayed: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            refused: BTreeSet::new(),
            deaf: false,
            last: BTreeMap::new(),
            connections: 0,
        }
    }

    pub(super) fn connect(&mut self) -> String {
        self.disconnect();
        // Its last answers may have been on their way after the connection was gone here.
        self.refused.clear();
        self.connections += 1;
        let socket_id = format!("{}.7", self.connections);
        self.socket_id = Some(socket_id.clone());
        socket_id
    }

    pub(super) fn disconnect(&mut self) {
        self.socket_id = None;
        self.subscribed.clear();
        self.delayed.clear();
        self.forgotten.clear();
        self.deaf = false;
    }

    pub(super) fn forget(&mut self, channel: &Arc<str>) {
        if self.subscribed.remove(channel) {
            self.forgotten.insert(channel.clone());
        }
    }

    /// Nothing is delivered on this connection any more, though it answers.
    pub(super) fn forget_all(&mut self) {
        self.deaf = true;
        self.forgotten.append(&mut self.subscribed);
    }

    /// A frame of the link. `failure` is what becomes of a subscription.
    pub(super) fn receive(&mut self, frame: &Frame, failure: Option<Failure>) -> Vec<Answer> {
        match frame {
            Frame::Ping => vec![Answer::Frame(frame::PONG.to_owned())],
            Frame::Pong | Frame::ClientEvent(_) => Vec::new(),
            Frame::Unsubscribe(channel) => {
                let was_delayed = self.delayed.remove(channel);
                if self.subscribed.remove(channel) || was_delayed || self.twice != Twice::Rejects {
                    return Vec::new();
                }
                let why =
                    format!("No current subscription to channel {channel}, or subscription in progress");
                vec![Answer::Frame(frame::error(None, &why))]
            }
            Frame::Subscribe(channel) => self.subscribe(channel, failure),
            Frame::SubscribeAs(..) | Frame::SignIn(_) => panic!("a shared link has no user: {frame:?}"),
        }
    }

    fn subscribe(&mut self, channel: &Arc<str>, failure: Option<Failure>) -> Vec<Answer> {
        if self.delayed.contains(channel) {
            return Vec::new();
        }
        if self.subscribed.contains(channel) {
            return match self.twice {
                Twice::Rejects => {
                    let why = format!("Existing subscription to channel {channel}");
                    vec![Answer::Frame(frame::error(None, &why))]
                }
                Twice::Confirms => vec![Answer::Frame(frame::subscription_succeeded(channel, "{}"))],
                Twice::Ignores => Vec::new(),
                Twice::Closes => vec![Answer::Close(None)],
            };
        }
        if failure.is_some() {
            self.refused.insert(channel.clone());
        }
        let frame = match failure {
            Some(Failure::Silence) => return Vec::new(),
            Some(Failure::Delay) => {
                self.delayed.insert(channel.clone());
                return Vec::new();
            }
            Some(Failure::Error) => frame::error(None, &format!("Not now: {channel}")),
            Some(Failure::Unauthorized) => frame::error(Some(4009), &format!("Not authorized: {channel}")),
            Some(Failure::Unnamed) => frame::error(Some(4009), "Connection is unauthorized"),
            Some(Failure::SubscriptionError) => {
                let data = r#"{"error":"Not now","status":503}"#;
                frame::event_raw("pusher:subscription_error", Some(channel), Some(data), None)
            }
            None => {
                // One that is deaf says what it would say, and delivers nothing.
                if !(self.deaf && self.twice != Twice::Rejects) {
                    self.subscribed.insert(channel.clone());
                }
                frame::subscription_succeeded(channel, "{}")
            }
        };
        let mut answers = vec![Answer::Frame(frame)];
        if failure.is_none() && channel::is_cache(channel) {
            let miss = || frame::event_raw("pusher:cache_miss", Some(channel), None, None);
            answers.push(Answer::Frame(self.last.get(channel).cloned().unwrap_or_else(miss)));
        }
        answers
    }

    /// The frame of a cache channel's last event.
    pub(super) fn last(&self, channel: &str) -> Option<&String> {
        self.last.get(channel)
    }

    /// Confirms a subscription that was delayed, if it still is.
    pub(super) fn confirm_delayed(&mut self, channel: &Arc<str>) -> Vec<Answer> {
        if self.delayed.remove(channel) { self.subscribe(channel, None) } else { Vec::new() }
    }

    /// An event is published; whoever has the socket id `excluded` does not get it.
    pub(super) fn publish(
        &mut self,
        channel: &Arc<str>,
        event: &str,
        data: &str,
        excluded: Option<&str>,
    ) -> Option<Answer> {
        let text = frame::event(event, channel, data, None);
        if channel::is_cache(channel) {
            self.last.insert(channel.clone(), text.clone());
        }
        let is_excluded = excluded.is_some() && excluded == self.socket_id.as_deref();
        (self.subscribed.contains(channel) && !is_excluded).then_some(Answer::Frame(text))
    }
}
