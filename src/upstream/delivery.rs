//! What links hand to the hubs.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::refused::Refused;
use super::undelivered::Reason;
use crate::clock::Now;
use crate::exchange::{ConnId, LinkId, MemberKey};
use crate::pusher::channel::is_cache;
use crate::routes::edition::{Edition, RouteId};

/// An event from Pusher, decoded once and shared by all hubs.
#[derive(Debug)]
pub struct Event {
    /// The link that it came over: whoever is subscribed through another one gets it from there.
    pub link: LinkId,
    pub channel: Arc<str>,
    pub name: Box<str>,
    /// Its data, JSON text as it came.
    pub data: Box<str>,
    /// When its frame had been read: of an event that is sent again, when it first came.
    pub received: Now,
    /// The connection of this bridge that published it, and must not get it back.
    pub origin: Option<ConnId>,
    /// The member who sent it, as Pusher says of a client event on a presence channel.
    pub sender: Option<Box<str>>,
    pub kind: Kind,
    /// Of a cache channel it is not the last one: a client event, of which Pusher keeps none, or an older one.
    pub is_passing: bool,
    /// The last event of a cache channel, sent to a new subscription.
    pub is_replay: bool,
    /// What becomes of it on the first edition of a route that is looked at, and behind that on the others.
    shown: OnceLock<Shown>,
    /// Hubs that have yet to hand it out.
    awaited: AtomicU32,
}

/// What an event is about. Each kind has a frame of its own in a dialect, or is not sent there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An event of the channel, of whoever published it.
    Channel,
    /// A member has come: the name is its id, the data its info.
    MemberAdded,
    /// A member has left: the name is its id, the data the info it had.
    MemberRemoved,
    /// The cache channel has no last event.
    CacheMiss,
    /// Pusher says how many subscriptions the channel has.
    SubscriptionCount,
    /// Pusher says who of a user's watchlist came or went; the channel is the user's own.
    Watchlist,
}

/// The event by which a route's clients get [`Kind::SubscriptionCount`].
pub const SUBSCRIPTION_COUNT: &str = "subscription_count";
/// The event by which a route's clients get [`Kind::Watchlist`].
pub const WATCHLIST_EVENTS: &str = "watchlist_events";

/// A rule of the route drops the event; no [`Reason`].
const DROPPED: u8 = u8::MAX;

/// An event on one edition of a route: there is one for each that has subscribers, in whatever hub.
#[derive(Debug)]
pub struct Shown {
    edition: Edition,
    /// Its frame, rendered when first needed: so it has receivers.
    pub frame: OnceLock<Bytes>,
    /// Why there are none in a hub that has subscribers: a [`Reason`], 0, or [`DROPPED`].
    missed: AtomicU8,
    next: OnceLock<Box<Self>>,
}

impl Event {
    /// An event that came, or was accepted, at `received`.
    #[must_use]
    pub fn new(
        link: LinkId,
        channel: Arc<str>,
        name: &str,
        data: &str,
        received: Now,
        origin: Option<ConnId>,
    ) -> Self {
        Self {
            link,
            channel,
            name: name.into(),
            data: data.into(),
            received,
            origin,
            sender: None,
            kind: Kind::Channel,
            is_passing: false,
            is_replay: false,
            shown: OnceLock::new(),
            awaited: AtomicU32::new(0),
        }
    }

    /// The same, sent by this member.
    #[must_use]
    pub fn by_member(mut self, sender: Option<&str>) -> Self {
        self.sender = sender.map(Into::into);
        self
    }

    /// The same, of this kind.
    #[must_use]
    pub fn of_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The same, as Pusher keeps none.
    #[must_use]
    pub fn passing(mut self, is_passing: bool) -> Self {
        self.is_passing = is_passing;
        self
    }

    /// That a cache channel has no last event, known since `received`.
    #[must_use]
    pub fn cache_miss(link: LinkId, channel: Arc<str>, received: Now) -> Self {
        Self::new(link, channel, "", "null", received, None).of_kind(Kind::CacheMiss)
    }

    /// Whether it says what the last event of its channel is, which is a cache channel.
    #[must_use]
    pub fn says_last(&self) -> bool {
        matches!(self.kind, Kind::Channel | Kind::CacheMiss) && !self.is_passing && is_cache(&self.channel)
    }

    /// The same, sent to a new subscription as the channel's last one.
    #[must_use]
    pub fn as_replay(mut self, is_replay: bool) -> Self {
        self.is_replay = is_replay;
        self
    }

    /// So many hubs are to hand it out; to be said before they are told.
    pub fn expect_hubs(&self, hubs: u32) {
        self.awaited.store(hubs, Ordering::Relaxed);
    }

    /// A hub has handed it out. Whether it was the last one.
    pub fn handed_out(&self) -> bool {
        self.awaited.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// What becomes of it on this edition of a route.
    pub fn shown(&self, edition: Edition) -> &Shown {
        let mut at = self.shown.get_or_init(|| Shown::new(edition));
        while at.edition != edition {
            at = at.next.get_or_init(|| Box::new(Shown::new(edition)));
        }
        at
    }

    fn all_shown(&self) -> impl Iterator<Item = &Shown> {
        std::iter::successors(self.shown.get(), |shown| shown.next.get().map(AsRef::as_ref))
    }

    /// Whether anybody got it.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.all_shown().any(Shown::is_delivered)
    }

    /// Whether a route that has subscribers drops it.
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        self.all_shown().any(Shown::is_dropped)
    }

    /// The routes that have subscribers in vain, and the nearest that it came to one: a route that shows it to clients
    /// of one edition has not missed those of another.
    pub fn missed(&self) -> impl Iterator<Item = (RouteId, Reason)> {
        self.all_shown().enumerate().filter_map(|(at, shown)| {
            let route = shown.edition.route;
            let mut nearest = shown.reason()?;
            for (other_at, other) in self.all_shown().enumerate().filter(|(_, s)| s.edition.route == route) {
                if other.is_delivered() || (other_at < at && other.reason().is_some()) {
                    return None;
                }
                nearest = nearest.max(other.reason().unwrap_or(nearest));
            }
            Some((route, nearest))
        })
    }

    /// What it takes: its names and data, and each frame that is made of them, at most.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.channel.len() + self.name.len() + 2 * self.data.len()
    }
}

impl Shown {
    const fn new(edition: Edition) -> Self {
        Self { edition, frame: OnceLock::new(), missed: AtomicU8::new(0), next: OnceLock::new() }
    }

    fn is_delivered(&self) -> bool {
        self.frame.get().is_some()
    }

    /// A rule drops it there. Whether this is the first to say so.
    pub fn note_dropped(&self) -> bool {
        self.missed.swap(DROPPED, Ordering::Relaxed) != DROPPED
    }

    fn is_dropped(&self) -> bool {
        self.missed.load(Ordering::Relaxed) == DROPPED
    }

    /// It has no receivers in a hub that has subscribers.
    pub fn note_missed(&self, reason: Reason) {
        self.missed.store(reason as u8, Ordering::Relaxed);
    }

    /// Why it has none at all, where that was looked into.
    fn reason(&self) -> Option<Reason> {
        let noted = Reason::ALL.get(usize::from(self.missed.load(Ordering::Relaxed))).copied();
        noted.filter(|reason| *reason != Reason::NoSubscriber && !self.is_delivered())
    }
}

/// Not one within the other: a channel may have many routes.
impl Drop for Shown {
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut shown) = next {
            next = shown.next.take();
        }
    }
}

/// What a link tells a hub, in order.
#[derive(Clone, Debug)]
pub enum Delivery {
    Event(Arc<Event>),
    /// The channel's subscription is confirmed; `gap`: not for the first time, and events may have been missed.
    Live {
        link: LinkId,
        channel: Arc<str>,
        /// Whether events may have been missed.
        gap: bool,
        /// The last event of a cache channel, or what says that it has none; `None`: neither is known.
        cached: Option<Arc<Event>>,
    },
    /// A member's own subscription is confirmed: whoever waits for it is told, and nobody else. Events of the channel
    /// that follow are not in `members` yet, and those that came before are.
    Joined {
        link: LinkId,
        channel: Arc<str>,
        member: MemberKey,
        /// The number of the hub's join that it answers. Earlier ones of the same channel and member are answered too, and
        /// later ones get an answer of their own: in between the hub may have left, and missed who came or went.
        join: u64,
        /// Who is on the channel, himself included: a JSON array of `{"id","info"}`. `None`: it has no members.
        members: Option<Arc<str>>,
        /// How many these are.
        count: u32,
        /// The last event of a cache channel.
        cached: Option<Arc<Event>>,
    },
    /// An event of an encrypted channel could not be decrypted.
    Undecryptable {
        link: LinkId,
        channel: Arc<str>,
    },
    /// A backend wants this user's connections closed.
    Terminated {
        link: LinkId,
        member: MemberKey,
    },
    /// The channel's subscription is refused, for good or for now: that of everybody, or of one member.
    Refused {
        link: LinkId,
        channel: Arc<str>,
        member: Option<MemberKey>,
        why: Refused,
    },
    /// The link's connection is lost, and with it all its channels.
    Down(LinkId),
}

/// An event of a client: for Pusher, and, once Pusher has accepted it, for this bridge's own clients.
#[derive(Debug, PartialEq, Eq)]
pub struct Sent {
    pub channel: Arc<str>,
    pub event: String,
    pub data: String,
    pub origin: ConnId,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;
    use crate::routes::edition::RouteIds;
    use proptest::prelude::*;

    fn editions() -> Vec<Edition> {
        let mut ids = RouteIds::default();
        let ids = ["a", "b", "c"].map(|name| ids.of(&name.into()).unwrap());
        ids.into_iter().flat_map(|route| [1, 2].map(|since| Edition { route, since })).collect()
    }

    fn event() -> Event {
        Event::new(LinkId(0), "c".into(), "e", "{}", now(), None)
    }

    #[test]
    fn each_edition_of_a_route_has_a_frame_of_its_own_whoever_asks_first() {
        let (event, editions) = (event(), editions());
        std::thread::scope(|threads| {
            for turn in 0..4 {
                let (event, mut editions) = (&event, editions.clone());
                editions.rotate_left(turn);
                threads.spawn(move || {
                    for edition in editions {
                        let frame = || format!("{edition:?}").into();
                        assert_eq!(*event.shown(edition).frame.get_or_init(frame), format!("{edition:?}"));
                    }
                });
            }
        });
        assert_eq!(event.all_shown().count(), editions.len());
    }

    #[test]
    fn what_a_route_drops_it_has_not_missed() {
        let (event, editions) = (event(), editions());
        event.shown(editions[2]).note_missed(Reason::Filtered);
        assert!(!event.is_dropped());
        assert!(event.shown(editions[0]).note_dropped());
        assert!(!event.shown(editions[0]).note_dropped(), "it is counted once, whatever hub is first");
        assert!(event.is_dropped() && !event.is_delivered());
        assert_eq!(event.missed().collect::<Vec<_>>(), [(editions[2].route, Reason::Filtered)]);
    }

    #[test]
    fn many_routes_of_one_channel_are_forgotten_one_after_the_other() {
        let (event, mut ids) = (event(), RouteIds::default());
        let mut at = event.shown(Edition { route: ids.of(&"0".into()).unwrap(), since: 0 });
        for since in 1..200_000 {
            at = at.next.get_or_init(|| Box::new(Shown::new(Edition { since, ..at.edition })));
        }
        drop(event);
    }

    proptest! {
        /// Against a plain list: a route is missed when no edition of it is delivered, for the nearest reason of all.
        #[test]
        fn a_route_is_missed_when_no_edition_of_it_is_delivered(
            steps in proptest::collection::vec((0_usize..6, 0_usize..5), 0..12)
        ) {
            let (event, editions) = (event(), editions());
            let mut model: Vec<(Edition, Option<Reason>)> = Vec::new();
            for (edition, what) in steps {
                let edition = editions[edition];
                let reason = Reason::ALL.get(what).copied();
                let known = model.iter_mut().find(|(known, _)| *known == edition);
                match (known, reason) {
                    (None, _) => model.push((edition, reason)),
                    (Some((_, known)), None) => *known = None,
                    (Some((_, Some(known))), Some(reason)) => *known = reason,
                    (Some(_), Some(_)) => {}
                }
                match reason {
                    None => drop(event.shown(edition).frame.get_or_init(Bytes::new)),
                    Some(reason) => event.shown(edition).note_missed(reason),
                }
            }
            let mut expected: Vec<(RouteId, Reason)> = Vec::new();
            for route in editions.iter().step_by(2).map(|edition| edition.route) {
                let shown = || model.iter().filter(|(edition, _)| edition.route == route).map(|(_, reason)| *reason);
                let nearest = shown().flatten().max().filter(|reason| *reason != Reason::NoSubscriber);
                expected.extend(nearest.filter(|_| shown().all(|reason| reason.is_some())).map(|why| (route, why)));
            }
            let mut missed: Vec<_> = event.missed().collect();
            missed.sort_unstable();
            prop_assert_eq!(missed, expected);
            prop_assert_eq!(event.is_delivered(), model.iter().any(|(_, reason)| reason.is_none()));
        }
    }
}
