//! What the pool has of its users.

use std::sync::Arc;
use std::time::Instant;

use crate::exchange::Member;
use crate::template::escape_into;
use crate::upstream::hubs::Hubs;
use crate::upstream::members::channel::Who;

/// How a user's events come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Over the link of this number.
    Open(u64),
    /// Not at all: there is no place. The number is its turn.
    TurnedAway(u64),
    /// Not at all.
    None,
}

#[derive(Debug)]
pub(super) struct User {
    pub(super) way: Way,
    pub(super) seats: Vec<Seat>,
    /// What it is to be signed in with.
    pub(super) user_data: Option<Arc<str>>,
    /// Channels of which it is a reader.
    pub(super) reads: u32,
    /// What its link was told.
    pub(super) is_lazy: bool,
}

/// A user's place on a channel.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) channel: Arc<str>,
    pub(super) who: Who,
    pub(super) stays: Vec<Stay>,
    /// Its own link has the channel.
    pub(super) is_live: bool,
    /// While nobody needs it: when it goes, and what makes that unique.
    pub(super) lingers: Option<(Instant, u64)>,
}

/// A hub's subscribers who are one member of one channel.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) hub: usize,
    subscribers: u32,
    /// The last one's number.
    pub(super) join: u64,
    /// All have been told that they are on the channel.
    pub(super) is_answered: bool,
    /// Some have: the channel's events go to the hub.
    pub(super) is_counted: bool,
}

impl User {
    pub(super) fn new(member: &Member) -> Self {
        Self {
            way: Way::None,
            seats: Vec::new(),
            user_data: member.user_data.clone(),
            reads: 0,
            is_lazy: false,
        }
    }

    /// It has a new link.
    pub(super) fn open(&mut self, source: u64) {
        self.way = Way::Open(source);
        self.reads = 0;
        self.is_lazy = false;
    }

    /// What it is to be signed in with from now on, if that is new.
    pub(super) fn learn(&mut self, member: &Member) -> Option<Arc<str>> {
        let data = member.user_data.as_ref().filter(|data| self.user_data.as_ref() != Some(data))?;
        self.user_data = Some(data.clone());
        Some(data.clone())
    }

    pub(super) fn seat(&mut self, channel: &str) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| *seat.channel == *channel)
    }

    /// Its seat on the channel, and whether it is new.
    pub(super) fn seat_or_new(&mut self, channel: &Arc<str>, member: &Member) -> (&mut Seat, bool) {
        let at = self.seats.iter().position(|seat| seat.channel == *channel);
        let is_new = at.is_none();
        let at = at.unwrap_or(self.seats.len());
        if is_new {
            let info = member.info.clone().unwrap_or_else(|| "null".into());
            let who = Who { id: member.user_id.clone(), info };
            let (channel, stays) = (channel.clone(), Vec::new());
            self.seats.push(Seat { channel, who, stays, is_live: false, lingers: None });
        }
        #[allow(clippy::indexing_slicing, reason = "it is there, or has just been put there")]
        (&mut self.seats[at], is_new)
    }

    /// Whether its link is kept for the linger only.
    pub(super) fn is_unused(&self) -> bool {
        self.seats.iter().all(|seat| seat.stays.is_empty())
    }

    pub(super) fn is_gone(&self) -> bool {
        self.seats.is_empty() && !matches!(self.way, Way::Open(_))
    }
}

impl Seat {
    /// The hubs that have subscribers on it.
    pub(super) fn hubs(&self) -> Hubs {
        self.stays.iter().map(|stay| Hubs::only(stay.hub)).fold(Hubs::default(), Hubs::with)
    }

    pub(super) fn stay_or_new(&mut self, hub: usize) -> &mut Stay {
        let at = self.stays.iter().position(|stay| stay.hub == hub).unwrap_or(self.stays.len());
        if at == self.stays.len() {
            self.stays.push(Stay { hub, subscribers: 0, join: 0, is_answered: true, is_counted: false });
        }
        #[allow(clippy::indexing_slicing, reason = "it is there, or has just been put there")]
        &mut self.stays[at]
    }

    /// A subscriber of the hub has left. Of the hub's last one: whether the channel's events went to it.
    pub(super) fn leave(&mut self, hub: usize) -> Option<bool> {
        let at = self.stays.iter().position(|stay| stay.hub == hub)?;
        let stay = self.stays.get_mut(at)?;
        stay.subscribers = stay.subscribers.saturating_sub(1);
        if stay.subscribers > 0 {
            return Some(false);
        }
        Some(self.stays.swap_remove(at).is_counted)
    }

    /// What a presence channel's subscription is signed with.
    pub(super) fn channel_data(&self) -> Arc<str> {
        let Who { id, info } = &self.who;
        let mut data = String::from(r#"{"user_id":""#);
        escape_into(&mut data, id);
        data.push('"');
        if **info != *"null" {
            data.push_str(r#","user_info":"#);
            data.push_str(info);
        }
        data.push('}');
        data.into()
    }
}

impl Stay {
    pub(super) fn join(&mut self, join: u64) {
        self.subscribers += 1;
        self.join = join;
        self.is_answered = false;
    }
}
