//! The handle of the pool of member links: by it hubs say whose subscriptions they take part in.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::links::next_id;
use crate::exchange::{LinkId, Member, MemberKey};

/// The pool's handle. As long as there is one, the pool lives.
#[derive(Clone, Debug)]
pub struct Members(Arc<Entrance>);

#[derive(Debug)]
struct Entrance {
    id: LinkId,
    /// Without a bound of its own, as a link's: hubs must never wait.
    commands: mpsc::UnboundedSender<Command>,
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
}

impl Members {
    /// The handle of a new pool, and what the pool needs of it.
    #[must_use]
    pub fn open() -> (Self, MembersEnd) {
        let (id, (sender, commands)) = (next_id(), mpsc::unbounded_channel());
        (Self(Arc::new(Entrance { id, commands: sender })), MembersEnd { id, commands })
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

    fn tell(&self, command: Command) {
        // Only a pool that has been aborted receives nothing.
        let _ = self.0.commands.send(command);
    }
}
