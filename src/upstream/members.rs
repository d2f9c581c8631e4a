//! The pool of users' own links. A presence channel counts connections, and a user's channel is where a user is signed in:
//! so each user has one connection to Pusher, for all its presence channels and its own. Hubs see one link, whose channels
//! the pool makes of what all these bring: [`channel`] merges, [`pool`] decides who has a link.
//!
//! Here is its handle: by it hubs say whose subscriptions they take part in.

pub mod channel;
pub mod copies;
pub mod driver;
pub mod metrics;
pub mod pool;
pub mod roster;
pub mod settings;
pub mod source;
pub mod watched;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::delivery::Sent;
use super::lane::Item;
use super::link::client_events::ClientEvent;
use super::links::next_id;
use super::moving::Move;
use crate::exchange::{LinkId, Member, MemberKey};
use crate::pusher::channel::{ChannelKind, USER_PREFIX};

/// The pool's handle. As long as there is one, the pool lives.
#[derive(Clone, Debug)]
pub struct Members(Arc<Entrance>);

#[derive(Debug)]
struct Entrance {
    id: LinkId,
    /// Without a bound of its own, as a link's: hubs must never wait.
    commands: mpsc::UnboundedSender<Command>,
    flights: AtomicU64,
}

/// What the pool receives.
#[derive(Debug)]
pub struct MembersEnd {
    pub id: LinkId,
    /// From hubs.
    pub commands: mpsc::UnboundedReceiver<Command>,
}

/// Something the pool is told.
#[derive(Debug)]
pub enum Command {
    /// A subscriber of the channel has come to the hub, as this member. The answer is a `Joined` with this number.
    Join { channel: Arc<str>, member: Arc<Member>, hub: usize, join: u64 },
    /// One has left: as often as they came.
    Leave { channel: Arc<str>, member: MemberKey, hub: usize },
    /// A client's event is to leave over this member's own link.
    ClientEvent { member: MemberKey, item: Item<ClientEvent> },
    /// A publishing request with these messages is about to be sent.
    Begin { flight: u64, batch: Vec<Arc<Sent>> },
    /// It has ended.
    Ended { flight: u64, is_accepted: bool },
    /// Links are to connect by other credentials.
    Move(Box<Move>),
}

/// A publishing request under way with messages for channels of the pool. When it is dropped the pool learns that it has
/// ended.
#[derive(Debug)]
pub struct UnderWay {
    members: Members,
    flight: u64,
    is_accepted: bool,
}

impl UnderWay {
    /// Pusher accepted all of it.
    pub fn accepted(mut self) {
        self.is_accepted = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Self { members, flight, is_accepted } = self;
        members.tell(Command::Ended { flight: *flight, is_accepted: *is_accepted });
    }
}

impl Members {
    /// The handle of a new pool, and what the pool needs of it.
    #[must_use]
    pub fn open() -> (Self, MembersEnd) {
        let (id, (sender, commands)) = (next_id(), mpsc::unbounded_channel());
        (
            Self(Arc::new(Entrance { id, commands: sender, flights: AtomicU64::new(0) })),
            MembersEnd { id, commands },
        )
    }

    /// What hubs take it for: one link, whatever links it has.
    #[must_use]
    pub fn id(&self) -> LinkId {
        self.0.id
    }

    /// The hub has one more subscriber of `channel` who is this member: its join number `join`, larger than its earlier
    /// ones.
    pub fn join(&self, channel: &Arc<str>, member: &Arc<Member>, hub: usize, join: u64) {
        self.tell(Command::Join { channel: channel.clone(), member: member.clone(), hub, join });
    }

    /// The hub has one less of them.
    pub fn leave(&self, channel: &Arc<str>, member: MemberKey, hub: usize) {
        self.tell(Command::Leave { channel: channel.clone(), member, hub });
    }

    /// Sends a client's event over this member's own connection, as [`super::links::LinkHandle::client_event`] does over a
    /// shared one.
    pub fn client_event(&self, member: MemberKey, item: Item<ClientEvent>) {
        self.tell(Command::ClientEvent { member, item });
    }

    /// Whether the pool's links carry this channel, and never a shared one: those where users are known by name.
    #[must_use]
    pub fn carry(channel: &str) -> bool {
        ChannelKind::of(channel) == ChannelKind::Presence || channel.starts_with(USER_PREFIX)
    }

    /// A publishing request with these messages is about to be sent. No connection is excluded from them, for each user's
    /// has its own: the pool knows the copies.
    #[must_use]
    pub fn begin(&self, batch: Vec<Arc<Sent>>) -> UnderWay {
        let flight = self.0.flights.fetch_add(1, Ordering::Relaxed);
        self.tell(Command::Begin { flight, batch });
        UnderWay { members: self.clone(), flight, is_accepted: false }
    }

    /// Links connect by other credentials: new ones at once, those that there are one after the other.
    pub fn move_to(&self, to: Box<Move>) {
        self.tell(Command::Move(to));
    }

    fn tell(&self, command: Command) {
        // Only a pool that has been aborted receives nothing.
        let _ = self.0.commands.send(command);
    }
}
