//! Models of hubs, which hold the link to its word: each event once and in order, and a gap told wherever one is
//! missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::exchange::LinkId;
use crate::pusher::channel;
use crate::upstream::delivery::{Delivery, Event, Kind};
use crate::upstream::refused::Refused;

/// The event of a stranger; its data is its number on its channel, from 1.
pub(super) const NUMBERED: &str = "numbered";
/// The event of a client of the bridge; its data is its number among all of them.
pub(super) const LOCAL: &str = "local";

/// A hub's subscription of one channel.
#[derive(Debug, Default)]
struct Subscription {
    /// Whether it was ever confirmed.
    confirmed: bool,
    /// Whether it is confirmed, and the link was not lost since.
    up: bool,
    /// Why it is refused over this connection.
    refused: Option<Refused>,
    /// The last event that came.
    last: u64,
    /// The hub has, or knows that it may miss, all events up to this one.
    accounted: u64,
}

#[derive(Debug, Default)]
pub(super) struct Hub {
    subscriptions: BTreeMap<Arc<str>, Subscription>,
    /// Events of the bridge's own clients that came.
    locals: BTreeSet<(Arc<str>, u64)>,
}

/// What is true at the server when a hub is told something.
pub(super) struct Truth<'a> {
    /// How many events were published on a channel.
    pub(super) published: &'a BTreeMap<Arc<str>, u64>,
    /// Whether a channel may have been lost while the link is connected.
    pub(super) may_be_lost: bool,
}

impl Hub {
    pub(super) fn wants(&self, channel: &str) -> bool {
        self.subscriptions.contains_key(channel)
    }

    pub(super) fn channels(&self) -> impl Iterator<Item = &Arc<str>> {
        self.subscriptions.keys()
    }

    pub(super) fn subscribe(&mut self, channel: &Arc<str>) {
        self.subscriptions.insert(channel.clone(), Subscription::default());
        if channel::is_cache(channel) {
            // The last one comes to each new subscription.
            self.locals.retain(|(of, _)| of != channel);
        }
    }

    pub(super) fn unsubscribe(&mut self, channel: &str) {
        self.subscriptions.remove(channel);
    }

    pub(super) fn has_local(&self, channel: &Arc<str>, number: u64) -> bool {
        self.locals.contains(&(channel.clone(), number))
    }

    /// Whether it was told so of any channel, over this connection.
    pub(super) fn is_refused_for_good(&self) -> bool {
        self.subscriptions.values().any(|one| one.refused.is_some_and(|why| !why.is_retried()))
    }

    /// All that was published is accounted for.
    pub(super) fn assert_complete(&self, truth: &Truth<'_>) {
        for (channel, subscription) in &self.subscriptions {
            assert!(subscription.up, "{channel} is not confirmed");
            assert_eq!(subscription.last, truth.published[channel], "{channel} does not receive");
        }
    }

    pub(super) fn told(&mut self, delivery: &Delivery, link: LinkId, truth: &Truth<'_>) {
        match delivery {
            Delivery::Event(event) => {
                assert_eq!(event.link, link);
                match event.kind {
                    Kind::CacheMiss => {
                        assert!(self.subscriptions[&event.channel].up, "before the confirmation")
                    }
                    _ => self.event(event),
                }
            }
            Delivery::Live { link: of, channel, gap, cached } => {
                assert_eq!(*of, link);
                let published = truth.published[channel];
                let subscription =
                    self.subscriptions.get_mut(channel).unwrap_or_else(|| panic!("{channel} is not wanted"));
                if subscription.confirmed {
                    assert!(*gap, "{channel} was lost, and no gap is told");
                    assert!(!subscription.up || truth.may_be_lost, "{channel}: a gap without a reason");
                }
                subscription.confirmed = true;
                subscription.up = true;
                subscription.refused = None;
                subscription.accounted = published;
                if let Some(event) = cached.as_ref().filter(|event| event.kind == Kind::Channel) {
                    assert!(event.channel == *channel);
                    assert!(*event.name == *LOCAL || number(event) <= published);
                }
            }
            Delivery::Joined { .. } | Delivery::Terminated { .. } | Delivery::Undecryptable { .. } => {
                panic!("a link has no members, and nothing is encrypted: {delivery:?}")
            }
            Delivery::Refused { link: of, channel, why, .. } => {
                assert_eq!(*of, link);
                let subscription =
                    self.subscriptions.get_mut(channel).unwrap_or_else(|| panic!("{channel} is not wanted"));
                assert!(!subscription.up, "{channel} is refused, and was confirmed");
                assert_ne!(subscription.refused.replace(*why), Some(*why), "{channel}: told twice");
            }
            Delivery::Down(of) => {
                assert_eq!(*of, link);
                for subscription in self.subscriptions.values_mut() {
                    subscription.up = false;
                    subscription.refused = None;
                }
            }
        }
    }

    fn event(&mut self, event: &Event) {
        let (channel, number) = (&event.channel, number(event));
        let subscription =
            self.subscriptions.get_mut(channel).unwrap_or_else(|| panic!("{channel} is not wanted"));
        if *event.name == *LOCAL {
            let is_new = self.locals.insert((channel.clone(), number));
            return assert!(is_new, "{channel}: local event {number} comes twice");
        }
        assert!(subscription.up, "{channel}: event {number} comes before the confirmation");
        assert!(number > subscription.last, "{channel}: event {number} comes after {}", subscription.last);
        assert!(
            number <= subscription.accounted + 1,
            "{channel}: event {number} comes after {}, and no gap was told",
            subscription.accounted
        );
        subscription.last = number;
        subscription.accounted = subscription.accounted.max(number);
    }
}

fn number(event: &Event) -> u64 {
    event.data.parse().unwrap()
}
