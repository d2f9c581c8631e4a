//! The handle to the links: hubs say by it which channels they want, the publisher which messages come back.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::publisher::Sent;

/// Something a link is told. Subscribers that come and go make two each, as often as `limits.messages` lets them;
/// messages under way three each, and one for a retry or the end. A link takes them at once, but for a write to
/// Pusher that is stuck, which has a timeout. So the queue has no bound of its own: hubs must never wait for links.
#[derive(Debug)]
pub enum Command {
    /// The hub has its first subscriber of the channel.
    Want(Arc<str>, usize),
    /// The hub's last subscriber of the channel is gone.
    Unwant(Arc<str>, usize),
    /// The message is about to be published.
    Expect(Arc<Sent>),
    /// It is about to be published again; the answer is whether it has come back already.
    Repeat(Arc<Sent>, oneshot::Sender<bool>),
    /// It is given up; the answer is whether it has come back all the same.
    HasReturned(Arc<Sent>, oneshot::Sender<bool>),
    /// It was accepted.
    Accepted(Arc<Sent>),
    /// It was refused.
    Cancel(Arc<Sent>),
}

/// Handles of all links.
#[derive(Clone, Debug)]
pub struct Links(Arc<[mpsc::UnboundedSender<Command>]>);

impl Links {
    /// Handles of `count` links, and what each link is to receive.
    #[must_use]
    pub fn new(count: usize) -> (Self, Vec<mpsc::UnboundedReceiver<Command>>) {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..count.max(1)).map(|_| mpsc::unbounded_channel()).unzip();
        (Self(senders.into()), receivers)
    }

    /// Which link carries `channel`: the same on every run.
    #[must_use]
    pub fn index_of(&self, channel: &str) -> usize {
        stable_hash(channel) % self.0.len().max(1)
    }

    fn tell(&self, channel: &str, command: Command) {
        if let Some(link) = self.0.get(self.index_of(channel)) {
            // Only a link that has ended receives nothing: then the whole bridge is ending.
            let _ = link.send(command);
        }
    }

    /// The hub has its first subscriber of `channel`.
    pub fn want(&self, channel: &Arc<str>, hub: usize) {
        self.tell(channel, Command::Want(channel.clone(), hub));
    }

    /// The hub's last subscriber of `channel` is gone.
    pub fn unwant(&self, channel: &Arc<str>, hub: usize) {
        self.tell(channel, Command::Unwant(channel.clone(), hub));
    }

    /// The message is about to be published: when it comes back, its sender must not get it.
    pub fn expect(&self, sent: &Arc<Sent>) {
        self.tell(&sent.channel, Command::Expect(sent.clone()));
    }

    /// Whether the message, about to be published again, has come back already.
    pub async fn repeat(&self, sent: &Arc<Sent>) -> bool {
        let (answer, answered) = oneshot::channel();
        self.tell(&sent.channel, Command::Repeat(sent.clone(), answer));
        answered.await.unwrap_or(false)
    }

    /// Whether the message, about to be given up, has come back already.
    pub async fn has_returned(&self, sent: &Arc<Sent>) -> bool {
        let (answer, answered) = oneshot::channel();
        self.tell(&sent.channel, Command::HasReturned(sent.clone(), answer));
        answered.await.unwrap_or(false)
    }

    /// The message was accepted: where the channel stands, it comes, or has come.
    pub fn accepted(&self, sent: &Arc<Sent>) {
        self.tell(&sent.channel, Command::Accepted(sent.clone()));
    }

    /// The message was refused and will not come.
    pub fn cancel(&self, sent: &Arc<Sent>) {
        self.tell(&sent.channel, Command::Cancel(sent.clone()));
    }
}

/// A hash that is the same on every run, so that a channel's link and lane can be told from its name.
#[must_use]
pub fn stable_hash(text: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish() as usize
}
