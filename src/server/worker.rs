//! A worker: one thread with its own runtime, its hub, and the connections it accepted. What all workers
//! share is in [`Bridge`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{Notify, mpsc, watch};

use super::accept::{Accepting, Turn};
use super::forwarded::{Unbelieved, is_trusted};
use super::metrics::Metrics;
use super::settings::Settings;
use super::turns::Load;
use crate::admin::Status;
use crate::auth::{Identity, Verifier};
use crate::clock::spread;
use crate::config::Config;
use crate::exchange::ConnId;
use crate::fanout::hub::Hub;
use crate::limits::address::AddressGate;
use crate::limits::budget::Budget;
use crate::limits::handshakes::{Handshake, Handshakes};
use crate::limits::slots::Scope;
use crate::limits::slots::{Permit, Slots};
use crate::limits::users::UserRates;
use crate::session;
use crate::upstream::delivery::Delivery;
use crate::upstream::publisher::Publisher;
use crate::websocket::conn::{Conn, Notice};

/// Beyond `connections_max`, so many more are accepted only to be told 503.
pub const REFUSING_MAX: usize = 256;
/// Beyond these, so many more are accepted in the places of unfinished requests that are just being closed.
pub const DISPLACING_MAX: usize = 64;

/// What a connection counts for as long as it lives, from being accepted to its end.
pub struct Counted {
    /// Its share of the connection limit.
    pub admitted: Admitted,
    pub(super) _load: Load,
    /// Its worker waits for it.
    pub(super) _alive: mpsc::Sender<()>,
}

/// Counts all connections, whatever they are at.
pub struct Admission {
    count: Arc<AtomicUsize>,
    max: usize,
    handshakes: Arc<Handshakes<Arc<Notify>>>,
    /// Whoever comes through one of these is not known before the request is read.
    proxies: Vec<IpNet>,
    metrics: Arc<Metrics>,
}

/// A connection whose request is not over.
pub struct Arrival {
    displaced: Arc<Notify>,
    _noted: Option<Handshake<Arc<Notify>>>,
}

impl Arrival {
    /// Resolves when another connection gets its place.
    pub async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

/// One connection's share of the limit, given back on drop.
pub struct Admitted {
    count: Arc<AtomicUsize>,
    /// Above the limit: it is to be answered 503.
    pub over: bool,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    /// Admits as many connections as `server` says.
    #[must_use]
    pub fn new(server: &Settings, metrics: Arc<Metrics>) -> Self {
        Self {
            count: Arc::default(),
            max: server.connections_max,
            handshakes: Handshakes::new(server.ipv6_prefix),
            proxies: server.trusted_proxies.clone(),
            metrics,
        }
    }

    /// Counts a new connection; `None`: it must be dropped unanswered.
    pub fn admit(&self, peer: IpAddr) -> Option<(Admitted, Arrival)> {
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        let mut admitted = Admitted { count: self.count.clone(), over: before >= self.max };
        let full = before >= self.max + REFUSING_MAX;
        if admitted.over
            && before < self.max + REFUSING_MAX + DISPLACING_MAX
            && let Some(displaced) = self.handshakes.make_room(peer)
        {
            displaced.notify_one();
            admitted.over = false;
        }
        if full && admitted.over {
            return None;
        }
        let displaced = Arc::<Notify>::default();
        let by_proxy = is_trusted(peer, &self.proxies);
        let noted = (!by_proxy).then(|| self.handshakes.open(peer, displaced.clone()));
        Some((admitted, Arrival { displaced, _noted: noted }))
    }

    /// A connection could not be accepted.
    pub fn accept_failed(&self, error: &std::io::Error) {
        self.metrics.accept_errors.increment(1);
        tracing::warn!(%error, "a connection could not be accepted");
    }
}

/// Reaches the connection that holds a slot, once it is upgraded.
pub type Holder = Arc<OnceLock<Arc<Conn>>>;
/// A slot held by a connection.
pub type Slot<K> = Permit<K, Holder>;
/// What a slot is counted for: the scope, and what within it.
pub type Key<T> = (Scope, T);

/// What all workers share. Nothing here is locked for a message.
pub struct Bridge {
    /// The configuration.
    pub config: Arc<Config>,
    /// The server's counters.
    pub metrics: Arc<Metrics>,
    /// The sessions' counters.
    pub session_metrics: Arc<session::metrics::Metrics>,
    /// Judges tokens; `None` when no route needs it.
    pub verifier: Option<Arc<Verifier>>,
    /// Takes client messages. When the last worker is gone, its lanes finish.
    pub publisher: Publisher,
    /// Connections of each user.
    pub user_slots: Slots<Key<Identity>, Holder>,
    /// Connections of each exclusive key.
    pub exclusive_slots: Slots<Key<Identity>, Holder>,
    /// Connections of each client address.
    pub address_slots: Slots<Key<IpAddr>, Holder>,
    /// Connections of each client address that are kept only to be told a refusal.
    pub refused_slots: Slots<IpAddr, ()>,
    /// Peers who wrote a forwarding header and are no trusted proxies.
    pub unbelieved: Unbelieved,
    /// Messages of each user, where a route has such a rate.
    pub user_rates: UserRates<Key<Identity>>,
    /// Wrong tokens of each client address.
    pub wrong_tokens: AddressGate,
    /// What all connections may hold in memory for their clients.
    pub buffers: Arc<Budget>,
    /// The next connection's number.
    pub next_conn: AtomicU64,
    /// Whether new clients are welcome.
    pub status: Arc<Status>,
}

/// One worker.
pub struct Worker {
    /// Shared by all.
    pub bridge: Arc<Bridge>,
    /// This thread's subscribers.
    pub hub: Arc<Hub>,
    conns: Mutex<Conns>,
    draining: watch::Sender<bool>,
}

#[derive(Default)]
struct Conns {
    open: HashMap<ConnId, Arc<Conn>>,
    /// Set when the server shuts down: the window over which closes are spread.
    draining: Option<Duration>,
}

/// A connection's entry in its worker's list, removed on drop.
pub struct Registered {
    worker: Arc<Worker>,
    id: ConnId,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.conns().open.remove(&self.id);
    }
}

impl Worker {
    /// A worker with no connection yet.
    #[must_use]
    pub fn new(bridge: Arc<Bridge>, hub: Arc<Hub>) -> Arc<Self> {
        Arc::new(Self { bridge, hub, conns: Mutex::default(), draining: watch::Sender::new(false) })
    }

    fn conns(&self) -> MutexGuard<'_, Conns> {
        self.conns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a connection, so that a shutdown reaches it.
    pub fn register(self: &Arc<Self>, conn: &Arc<Conn>) -> Registered {
        let mut conns = self.conns();
        conns.open.insert(conn.id(), conn.clone());
        if let Some(window) = conns.draining {
            conn.notify(Notice::Drain(spread(window, fastrand::f64())));
        }
        Registered { worker: self.clone(), id: conn.id() }
    }

    /// Whether the server shuts down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.conns().draining.is_some()
    }

    /// Resolves when the server has been shutting down for this long.
    pub async fn draining_for(&self, time: Duration) {
        // The sender is this worker's own: it is not gone.
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
        tokio::time::sleep(time).await;
    }

    /// Tells every connection to close, each at its own moment within `window`.
    pub fn drain(&self, window: Duration) {
        let mut conns = self.conns();
        conns.draining = Some(window);
        self.draining.send_replace(true);
        for conn in conns.open.values() {
            conn.notify(Notice::Drain(spread(window, fastrand::f64())));
        }
    }

    /// Serves connections until no more are to be accepted and the last is closed.
    pub async fn run(
        self: Arc<Self>,
        index: usize,
        accepting: &Accepting,
        turns: (mpsc::Receiver<Turn>, watch::Receiver<bool>),
        deliveries: mpsc::Receiver<Delivery>,
        mut drain: watch::Receiver<Option<Duration>>,
    ) {
        let hub = tokio::spawn(self.hub.clone().run(deliveries));
        let draining = self.clone();
        let drain = tokio::spawn(async move {
            if let Ok(Some(window)) = drain.wait_for(Option::is_some).await.map(|window| *window) {
                draining.drain(window);
            }
        });
        let (alive, mut all_gone) = mpsc::channel(1);
        let (turns, stop) = turns;
        accepting.run(&self, index, turns, stop, alive).await;
        // Nothing is ever sent: it ends when the last connection has dropped its share.
        let _ = all_gone.recv().await;
        drain.abort();
        hub.abort();
    }
}
