//! What links hand to the hubs.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;

use super::undelivered::Reason;
use crate::exchange::{ConnId, LinkId};

/// An event from Pusher, decoded once and shared by all hubs.
#[derive(Debug)]
pub struct Event {
    /// The link that it came over: whoever is subscribed through another one gets it from there.
    pub link: LinkId,
    /// The channel.
    pub channel: Arc<str>,
    /// The event's name.
    pub name: Box<str>,
    /// Its data, JSON text as it came.
    pub data: Box<str>,
    /// When its frame had been read.
    pub received: Instant,
    /// The connection of this bridge that published it, and must not get it back.
    pub origin: Option<ConnId>,
    /// What becomes of it, by the routes' index; made by the first hub that looks.
    shown: OnceLock<Box<[Shown]>>,
    /// Hubs that have yet to hand it out.
    awaited: AtomicU32,
}

/// An event on one route.
#[derive(Debug, Default)]
pub struct Shown {
    /// Its frame, rendered when first needed: so it has receivers.
    pub frame: OnceLock<Bytes>,
    /// Why there are none in a hub that has subscribers: a [`Reason`], or 0.
    missed: AtomicU8,
}

impl Event {
    /// An event that came, or was accepted, at `received`.
    #[must_use]
    pub fn new(
        link: LinkId,
        channel: Arc<str>,
        name: &str,
        data: &str,
        received: Instant,
        origin: Option<ConnId>,
    ) -> Self {
        Self {
            link,
            channel,
            name: name.into(),
            data: data.into(),
            received,
            origin,
            shown: OnceLock::new(),
            awaited: AtomicU32::new(0),
        }
    }

    /// So many hubs are to hand it out; to be said before they are told.
    pub fn expect_hubs(&self, hubs: u32) {
        self.awaited.store(hubs, Ordering::Relaxed);
    }

    /// A hub has handed it out. Whether it was the last one.
    pub fn handed_out(&self) -> bool {
        self.awaited.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// What becomes of it on each of so many routes.
    pub fn shown(&self, routes: usize) -> &[Shown] {
        self.shown.get_or_init(|| (0..routes).map(|_| Shown::default()).collect())
    }

    /// What it takes: its names and data, and each frame that is made of them, at most.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.channel.len() + self.name.len() + 2 * self.data.len()
    }
}

impl Shown {
    /// It has no receivers in a hub that has subscribers.
    pub fn note_missed(&self, reason: Reason) {
        self.missed.store(reason as u8, Ordering::Relaxed);
    }

    /// Why it had none, where that was looked into.
    #[must_use]
    pub fn missed(&self) -> Option<Reason> {
        Reason::ALL.get(usize::from(self.missed.load(Ordering::Relaxed))).copied()
    }
}

/// What a link tells a hub, in order.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// An event.
    Event(Arc<Event>),
    /// The channel's subscription is confirmed; `gap`: not for the first time, and events may have been missed.
    Live {
        /// Which link.
        link: LinkId,
        /// The channel.
        channel: Arc<str>,
        /// Whether events may have been missed.
        gap: bool,
        /// The last event of a cache channel.
        cached: Option<Arc<Event>>,
    },
    /// The link's connection is lost, and with it all its channels.
    Down(LinkId),
}

/// An event of a client: for Pusher, and, once Pusher has accepted it, for this bridge's own clients.
#[derive(Debug)]
pub struct Sent {
    /// The channel.
    pub channel: Arc<str>,
    /// The event's name.
    pub event: String,
    /// Its data.
    pub data: String,
    /// Who sent it.
    pub origin: ConnId,
}
