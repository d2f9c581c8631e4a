//! What a user's own link tells the pool, and by which way.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::copies::Copies;
use super::pool::FromLink;
use crate::upstream::link;

/// A link's way to the pool.
#[derive(Debug)]
pub struct Source {
    /// The pool's number of the link.
    pub number: u64,
    pub pool: mpsc::Sender<(u64, FromLink)>,
    pub common: Common,
}

/// What links of a pool have in common. All are on one thread, so that locks are never contended.
#[derive(Clone, Default)]
pub struct Common {
    copies: Arc<Mutex<Copies>>,
    /// Presence channels whose members the pool knows: of them no snapshot is needed, and 2,000 who join are each sent
    /// one of 2,000.
    known: Arc<Mutex<HashSet<Arc<str>>>>,
    /// By what links connect from now on, once that has changed.
    shared: Arc<ArcSwapOption<link::Shared>>,
}

impl fmt::Debug for Common {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Common")
    }
}

impl Common {
    pub fn copies(&self) -> MutexGuard<'_, Copies> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By what a link connects, if that is not what it was made with.
    #[must_use]
    pub fn shared(&self) -> Option<Arc<link::Shared>> {
        self.shared.load_full()
    }

    /// From now on links connect by this.
    pub fn connect_by(&self, shared: Arc<link::Shared>) {
        self.shared.store(Some(shared));
    }

    /// Whether the pool wants to know who is on this channel.
    #[must_use]
    pub fn wants_snapshot(&self, channel: &str) -> bool {
        !self.known().contains(channel)
    }

    /// From now on it does, or does not.
    pub fn want_snapshot(&self, channel: &Arc<str>, wanted: bool) {
        let mut known = self.known();
        if wanted {
            known.remove(channel);
        } else {
            known.insert(channel.clone());
        }
    }
}

impl Source {
    /// Tells the pool, if it has room; else gives it back.
    pub fn tell_at_once(&self, what: FromLink) -> Option<FromLink> {
        match self.pool.try_send((self.number, what)) {
            Err(TrySendError::Full((_, what))) => Some(what),
            // A pool that has ended needs to know nothing.
            Ok(()) | Err(TrySendError::Closed(_)) => None,
        }
    }

    /// Tells the pool, when it has room.
    pub async fn tell(&self, what: FromLink) {
        let _ = self.pool.send((self.number, what)).await;
    }
}
