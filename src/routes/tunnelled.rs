//! The editions of routes that old servers serve, and what becomes of those who have them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use super::edition::{Edition, RouteId};
use super::tunnel::TunnelRoute;
use crate::websocket::metrics::Traffic;

/// What becomes of those who are connected by an edition.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It is in force.
    InForce,
    /// They have this one from now on.
    Next(Arc<TunnelState>),
    /// They are closed: the route is gone, is served by Pusher now, or has changed in what they cannot take over.
    Closed,
}

/// One edition of such a route.
pub struct TunnelState {
    edition: Edition,
    rules: Arc<TunnelRoute>,
    /// Messages of all the route's editions.
    pub traffic: Traffic,
    open: AtomicUsize,
    fate: watch::Sender<Fate>,
}

impl TunnelState {
    #[must_use]
    pub fn new(edition: Edition, rules: Arc<TunnelRoute>, traffic: Traffic) -> Self {
        Self { edition, rules, traffic, open: AtomicUsize::new(0), fate: watch::Sender::new(Fate::InForce) }
    }

    #[must_use]
    pub const fn id(&self) -> RouteId {
        self.edition.route
    }

    #[must_use]
    pub const fn edition(&self) -> Edition {
        self.edition
    }

    /// What the file says of it.
    #[must_use]
    pub const fn rules(&self) -> &Arc<TunnelRoute> {
        &self.rules
    }

    /// How many connections it has.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts one more, unless there are as many as there may be.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Inside> {
        let inside = self.hold();
        let max = self.rules.limits.connections.unwrap_or(usize::MAX);
        // Counted before it is compared, and given back by drop.
        (self.open() <= max).then_some(inside)
    }

    /// Counts one more, even beyond what newcomers may have: of who is there already.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Inside {
        self.open.fetch_add(1, Ordering::Relaxed);
        Inside(self.clone())
    }

    /// Tells those who have it what becomes of it; nobody is woken where that is as it was.
    pub(super) fn meets(&self, fate: Fate) {
        self.fate.send_if_modified(|before| {
            let same =
                matches!((&*before, &fate), (Fate::InForce, Fate::InForce) | (Fate::Closed, Fate::Closed));
            *before = fate;
            !same
        });
    }

    /// Follows what becomes of it.
    #[must_use]
    pub fn fate(&self) -> watch::Receiver<Fate> {
        self.fate.subscribe()
    }
}

impl fmt::Debug for TunnelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} since {}", self.rules.name, self.edition.since)
    }
}

/// A connection's place in its route, given back on drop.
#[derive(Debug)]
pub struct Inside(Arc<TunnelState>);

impl Inside {
    #[must_use]
    pub const fn state(&self) -> &Arc<TunnelState> {
        &self.0
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
