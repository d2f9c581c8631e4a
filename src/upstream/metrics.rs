//! What links and the publisher count.

use super::lost::LostCause;
use super::refused::Refused;
use super::standby;
use super::undelivered::Reason;
use crate::metrics::label::labels;
use crate::metrics::{Counter, Family, Gauge, GaugeGuard, Histogram, Label, Named, Registry};
use crate::pusher::encryption::Undecryptable;

/// What became of an event from Pusher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventResult {
    /// A client got it.
    Delivered,
    /// It names no channel.
    NoChannel,
    /// The last event of a cache channel, sent anew, which its clients have.
    HadAlready,
    /// A frame that cannot be understood.
    Malformed,
    /// It could not be decrypted.
    Undecryptable,
    /// Rules of routes keep it from their clients, and nobody else wants it.
    Dropped,
    /// No client got it.
    Undelivered(Reason),
}

impl Label for EventResult {
    const KEY: &'static str = "result";
    const VALUES: &'static [Self] = &[
        Self::Delivered,
        Self::NoChannel,
        Self::HadAlready,
        Self::Malformed,
        Self::Undecryptable,
        Self::Dropped,
        Self::Undelivered(Reason::NoSubscriber),
        Self::Undelivered(Reason::NotJson),
        Self::Undelivered(Reason::FieldMissing),
        Self::Undelivered(Reason::Filtered),
    ];

    fn index(self) -> usize {
        match self {
            Self::Delivered => 0,
            Self::NoChannel => 1,
            Self::HadAlready => 2,
            Self::Malformed => 3,
            Self::Undecryptable => 4,
            Self::Dropped => 5,
            Self::Undelivered(reason) => 6 + reason.index(),
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::NoChannel => "no_channel",
            Self::HadAlready => "had_already",
            Self::Malformed => "malformed",
            Self::Undecryptable => "undecryptable",
            Self::Dropped => "dropped",
            Self::Undelivered(reason) => reason.label(),
        }
    }
}

labels! {
    /// How far a channel's subscription is.
    pub enum SubscriptionState: "state" {
        Pending = "pending",
        Live = "live",
        /// Without subscribers, and kept for a while.
        Lingering = "lingering",
    }
}

labels! {
    /// What became of a client's message.
    pub enum PublishResult: "result" {
        Ok = "ok",
        Rejected = "refused",
        /// Not accepted within its deadline.
        Expired = "expired",
        QueueFull = "queue_full",
        /// A backend may have taken it, or not.
        Unknown = "unknown",
        /// A rule says that it goes nowhere.
        Dropped = "dropped",
        /// A rule spares what nobody would get.
        SkippedEmpty = "skipped_empty",
    }
}

labels! {
    /// What became of a backend's answer that was to be passed on.
    pub enum ReplyResult: "result" {
        /// To the sender.
        Passed = "passed",
        /// It is no JSON, or does not call itself so.
        NotJson = "not_json",
        TooLarge = "too_large",
        /// It broke off, or did not come in time.
        Incomplete = "incomplete",
        SenderGone = "sender_gone",
    }
}

labels! {
    /// Why a request is sent again.
    pub enum RetryCause: "cause" {
        /// 429.
        RateLimited = "rate_limited",
        /// 503.
        Unavailable = "unavailable",
        /// Another status of the server's fault.
        ServerError = "server_error",
        /// Another status by which a rule says so.
        Rejected = "refused",
        /// No answer, or none of Pusher's.
        NoAnswer = "no_answer",
        /// It could not be sent.
        NotSent = "not_sent",
        /// It was signed by a wrong clock.
        Clock = "clock",
        /// It was signed for another path.
        Path = "path",
    }
}

labels! {
    /// What became of a new key of the app.
    pub enum RotationResult: "result" {
        /// Nothing uses the old one any more.
        Done = "done",
        /// Pusher does not take it; the old one serves on.
        Refused = "refused",
    }
}

pub struct LinkMetrics {
    /// New keys of the app.
    pub rotations: Family<RotationResult>,
    /// Whether a link is connected, by its number.
    pub connected: Named<Gauge>,
    /// Connections to Pusher lost or refused.
    pub reconnects: Family<LostCause>,
    /// Channels that were subscribed when a connection was lost, or forgotten.
    pub gaps: Counter,
    /// Events from Pusher.
    pub events: Family<EventResult>,
    /// Events of encrypted channels that could not be decrypted.
    pub undecryptable: Family<Undecryptable>,
    /// Clients' messages delivered to this bridge's own clients.
    pub local_events: Counter,
    /// Events that one of two links brought.
    pub standby: Family<standby::Result>,
    /// Channels of which a copy may be held, since a link subscribed a moment ago.
    pub doubtful_channels: Gauge,
    subscriptions: Family<SubscriptionState, Gauge>,
    /// Subscriptions refused or not answered.
    pub subscription_failures: Family<Refused>,
}

impl LinkMetrics {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            connected: registry.declare_named(
                "link",
                "pusher_bridge_upstream_connected",
                "1 while the link to Pusher is connected",
            ),
            rotations: registry.declare(
                "pusher_bridge_upstream_rotations_total",
                "New keys of the app that were put in force by a reload, by result",
            ),
            reconnects: registry.declare(
                "pusher_bridge_upstream_reconnects_total",
                "Connections to Pusher lost or refused, by cause",
            ),
            gaps: registry.declare(
                "pusher_bridge_upstream_gaps_total",
                "Channels that were subscribed when a connection was lost, or forgotten by Pusher: each may miss \
                 events",
            ),
            events: registry.declare("pusher_bridge_upstream_events_total", "Events received from Pusher"),
            undecryptable: registry.declare(
                "pusher_bridge_undecryptable_total",
                "Events of encrypted channels that could not be decrypted, by reason",
            ),
            local_events: registry.declare(
                "pusher_bridge_local_events_total",
                "Client messages delivered to clients of this bridge, after Pusher accepted them",
            ),
            standby: registry.declare(
                "pusher_bridge_standby_events_total",
                "Events that either connection of a pair brought: which was first, copies, and those in doubt",
            ),
            doubtful_channels: registry.declare(
                "pusher_bridge_standby_doubtful_channels",
                "Channels that one connection of a pair subscribed a moment ago: losing the other may bring copies",
            ),
            subscriptions: registry
                .declare("pusher_bridge_subscriptions", "Channels by the state of their subscription"),
            subscription_failures: registry.declare(
                "pusher_bridge_subscription_failures_total",
                "Subscriptions that Pusher refused or did not answer, by reason",
            ),
        }
    }

    pub fn event(&self, result: EventResult) {
        self.events.get(result).increment(1);
    }

    /// The gauges of pending, live and lingering subscriptions, moved by differences: links share them.
    pub fn move_subscriptions(&self, from: [usize; 3], to: [usize; 3]) {
        for (state, (from, to)) in SubscriptionState::ALL.into_iter().zip(from.into_iter().zip(to)) {
            let gauge = self.subscriptions.get(state);
            if to > from {
                gauge.increment((to - from) as f64);
            } else if from > to {
                gauge.decrement((from - to) as f64);
            }
        }
    }
}

pub struct PublishMetrics {
    /// Client messages, by what became of them.
    pub results: Family<PublishResult>,
    /// Backends' answers that were to be passed on.
    pub replies: Family<ReplyResult>,
    pub retries: Family<RetryCause>,
    /// Messages sent again after an attempt without an answer.
    pub repeated: Counter,
    pub seconds: Histogram,
    queue_messages: Gauge,
    queue_bytes: Gauge,
}

impl PublishMetrics {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            results: registry
                .declare("pusher_bridge_publish_total", "Client messages, by what became of them"),
            replies: registry.declare(
                "pusher_bridge_replies_total",
                "Answers of backends for the senders of messages, by what became of them",
            ),
            retries: registry
                .declare("pusher_bridge_publish_retries_total", "Publishing requests sent again, by cause"),
            repeated: registry.declare(
                "pusher_bridge_publish_repeated_total",
                "Client messages sent again though Pusher may have accepted them before",
            ),
            seconds: registry.declare(
                "pusher_bridge_publish_seconds",
                "One publishing request, from sending to its answer",
            ),
            queue_messages: registry
                .declare("pusher_bridge_publish_queue_messages", "Client messages waiting to be published"),
            queue_bytes: registry.declare("pusher_bridge_publish_queue_bytes", "Bytes of those messages"),
        }
    }

    pub fn published(&self, result: PublishResult) {
        self.results.get(result).increment(1);
    }

    /// Counts a message of `bytes` as waiting until the guards are dropped.
    #[must_use]
    pub fn queued(&self, bytes: usize) -> [GaugeGuard; 2] {
        [GaugeGuard::new(&self.queue_messages, 1.0), GaugeGuard::new(&self.queue_bytes, bytes as f64)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_result_has_its_place() {
        for (index, result) in EventResult::VALUES.iter().enumerate() {
            assert_eq!(result.index(), index, "{result:?}");
        }
        assert_eq!(EventResult::VALUES.len(), 6 + Reason::ALL.len());
    }

    #[test]
    fn subscriptions_move_by_differences() {
        let registry = Registry::new().unwrap();
        let metrics = LinkMetrics::new(&registry);
        metrics.move_subscriptions([0, 0, 0], [3, 1, 0]);
        metrics.move_subscriptions([3, 1, 0], [1, 3, 0]);
        let text = registry.render();
        for (state, count) in [("pending", 1), ("live", 3), ("lingering", 0)] {
            let line = format!("pusher_bridge_subscriptions{{state=\"{state}\"}} {count}\n");
            assert!(text.contains(&line), "{text}");
        }
    }
}
