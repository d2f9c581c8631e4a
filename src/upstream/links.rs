//! The handle to the links: hubs say by it which channels they want, and the publisher what is under way and
//! what was accepted.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::upstream::flights::Flights;
use crate::upstream::publisher::Sent;

/// Something a link is told. Subscribers that come and go make two each, as often as `limits.messages` lets them;
/// a publishing request makes one. A link takes them at once, but for a write to Pusher that is stuck, which has a
/// timeout, and a hub that is busy. So the queue has no bound of its own: hubs must never wait for links.
#[derive(Debug)]
pub enum Command {
    /// The hub has its first subscriber of the channel.
    Want(Arc<str>, usize),
    /// The hub's last subscriber of the channel is gone.
    Unwant(Arc<str>, usize),
    /// A publishing request has ended.
    Ended {
        /// Its number.
        flight: u64,
        /// What Pusher accepted of it, in order: to be delivered to this bridge's own clients.
        accepted: Vec<Arc<Sent>>,
    },
}

/// One link's handle.
#[derive(Debug)]
struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    /// Of the link and the publisher, which share a thread: so it is never contended.
    flights: SharedFlights,
}

/// The requests under way on one link's channels.
#[derive(Clone, Debug, Default)]
pub struct SharedFlights(Arc<Mutex<Flights>>);

impl SharedFlights {
    /// Valid between any two calls, whatever panicked.
    pub fn lock(&self) -> MutexGuard<'_, Flights> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a link receives.
#[derive(Debug)]
pub struct LinkEnd {
    /// From hubs and the publisher.
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// See [`Flights`].
    pub flights: SharedFlights,
}

/// Handles of all links.
#[derive(Clone, Debug)]
pub struct Links(Arc<[Handle]>);

impl Links {
    /// Handles of `count` links, and the end of each link.
    #[must_use]
    pub fn new(count: usize) -> (Self, Vec<LinkEnd>) {
        let (handles, ends): (Vec<_>, Vec<_>) = (0..count.max(1))
            .map(|_| {
                let (sender, commands) = mpsc::unbounded_channel();
                let flights = SharedFlights::default();
                (Handle { commands: sender, flights: flights.clone() }, LinkEnd { commands, flights })
            })
            .unzip();
        (Self(handles.into()), ends)
    }

    /// Which link carries `channel`: the same on every run.
    #[must_use]
    pub fn index_of(&self, channel: &str) -> usize {
        stable_hash(channel) % self.0.len().max(1)
    }

    fn tell(&self, link: usize, command: Command) {
        if let Some(link) = self.0.get(link) {
            // Only a link that has ended receives nothing: then the whole bridge is ending.
            let _ = link.commands.send(command);
        }
    }

    /// The hub has its first subscriber of `channel`.
    pub fn want(&self, channel: &Arc<str>, hub: usize) {
        self.tell(self.index_of(channel), Command::Want(channel.clone(), hub));
    }

    /// The hub's last subscriber of `channel` is gone.
    pub fn unwant(&self, channel: &Arc<str>, hub: usize) {
        self.tell(self.index_of(channel), Command::Unwant(channel.clone(), hub));
    }

    /// A request with these messages is about to be sent.
    #[must_use]
    pub fn begin(&self, batch: &[Arc<Sent>]) -> UnderWay {
        let mut parts: Vec<Part> = Vec::new();
        for sent in batch {
            let link = self.index_of(&sent.channel);
            match parts.iter_mut().find(|part| part.link == link) {
                Some(part) => part.batch.push(sent.clone()),
                None => {
                    parts.push(Part { link, flight: 0, socket_id: None, batch: vec![sent.clone()] });
                }
            }
        }
        for part in &mut parts {
            if let Some(link) = self.0.get(part.link) {
                let channels = part.batch.iter().map(|sent| sent.channel.clone()).collect();
                (part.flight, part.socket_id) = link.flights.lock().begin(channels);
            }
        }
        UnderWay { links: self.clone(), parts }
    }
}

/// A publishing request under way. When it is dropped its links learn that it has ended.
#[derive(Debug)]
pub struct UnderWay {
    links: Links,
    parts: Vec<Part>,
}

/// The messages of one link's channels.
#[derive(Debug)]
struct Part {
    link: usize,
    flight: u64,
    socket_id: Option<Arc<str>>,
    batch: Vec<Arc<Sent>>,
}

impl UnderWay {
    /// The connection that must not get an event of `channel`, because this bridge delivers it.
    #[must_use]
    pub fn socket_id(&self, channel: &str) -> Option<&str> {
        let link = self.links.index_of(channel);
        self.parts.iter().find(|part| part.link == link)?.socket_id.as_deref()
    }

    /// Pusher accepted all of it.
    pub fn accepted(mut self) {
        for Part { link, flight, batch, .. } in self.parts.drain(..) {
            self.links.tell(link, Command::Ended { flight, accepted: batch });
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        for Part { link, flight, .. } in self.parts.drain(..) {
            self.links.tell(link, Command::Ended { flight, accepted: Vec::new() });
        }
    }
}

/// A hash that is the same on every run, so that a channel's link and lane can be told from its name.
#[must_use]
pub fn stable_hash(text: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish() as usize
}
