//! What sessions share: all of them, and those of one worker.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};

use super::metrics::Metrics;
use super::slots::{Holder, Key};
use crate::auth::{Identity, Judge};
use crate::clock::spread;
use crate::exchange::ConnId;
use crate::fanout::hub::Hub;
use crate::limits::budget::Budget;
use crate::limits::slots::Slots;
use crate::limits::users::UserRates;
use crate::routes::edition::{Edition, RouteId};
use crate::routes::generation::{Generation, Generations, RouteState};
use crate::upstream::publisher::Publisher;
use crate::websocket::conn::{Conn, Notice};

/// Connections that are told of a reload, before others of their thread have a turn.
const TOLD_AT_ONCE_MAX: usize = 64;

/// What sessions need to know of the configuration beside their routes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a subscription may take: `upstream.subscribe_timeout`.
    pub subscribe_wait: Duration,
    /// Closes of many are spread over this window: `server.shutdown.close_window`.
    pub close_window: Duration,
}

/// What all sessions share. Nothing here is locked for a message.
pub struct Shared {
    pub settings: ArcSwap<Settings>,
    pub metrics: Arc<Metrics>,
    /// Whose newest one judges tokens: who is there judges by a key that is new, too.
    pub generations: Arc<Generations>,
    /// Takes client messages. When the last session is gone, its lanes finish.
    pub publisher: Publisher,
    /// So many first bits of an IPv6 address are one client.
    pub ipv6_prefix: u8,
    /// Connections of each client address.
    pub address_slots: Slots<Key<IpAddr>, Holder>,
    pub user_slots: Slots<Key<Identity>, Holder>,
    pub exclusive_slots: Slots<Key<Identity>, Holder>,
    /// Messages of each user, where a route has such a rate.
    pub user_rates: UserRates<Key<Identity>>,
    /// What all connections may hold in memory for their clients.
    pub buffers: Arc<Budget>,
    pub next_conn: AtomicU64,
}

impl Shared {
    /// Who judges tokens now; `None` where no route needs it any more.
    #[must_use]
    pub fn judge(&self) -> Option<Arc<Judge>> {
        self.generations.current().judge().cloned()
    }
}

/// What the sessions of one worker share.
pub struct Context {
    /// Shared with other workers' sessions.
    pub shared: Arc<Shared>,
    /// This thread's subscribers.
    pub hub: Arc<Hub>,
    conns: Mutex<Conns>,
    draining: watch::Sender<bool>,
}

#[derive(Default)]
struct Conns {
    /// By the edition of their route.
    open: HashMap<Edition, HashMap<ConnId, Arc<Conn>>>,
    /// Set when the server shuts down: the window over which closes are spread.
    draining: Option<Duration>,
}

impl Conns {
    fn remove(&mut self, edition: Edition, id: ConnId) -> Option<Arc<Conn>> {
        let of_edition = self.open.get_mut(&edition)?;
        let removed = of_edition.remove(&id);
        if of_edition.is_empty() {
            self.open.remove(&edition);
        }
        removed
    }
}

/// Routes that have just come into force, for those who are there.
pub struct Reloaded {
    pub before: Arc<Generation>,
    pub after: Arc<Generation>,
    /// Told when every connection that is concerned has been.
    pub done: oneshot::Sender<()>,
}

impl Context {
    #[must_use]
    pub fn new(shared: Arc<Shared>, hub: Arc<Hub>) -> Arc<Self> {
        Arc::new(Self { shared, hub, conns: Mutex::default(), draining: watch::Sender::new(false) })
    }

    fn conns(&self) -> MutexGuard<'_, Conns> {
        self.conns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a connection, so that a shutdown and a reload reach it.
    pub fn register(&self, conn: &Arc<Conn>, route: &RouteState) {
        let edition = route.edition();
        let mut conns = self.conns();
        conns.open.entry(edition).or_default().insert(conn.id(), conn.clone());
        if let Some(window) = conns.draining {
            conn.notify(Notice::Drain(spread(window, fastrand::f64())));
        }
        drop(conns);
        // A reload that came before looked through a list that it was not in.
        if self.shared.generations.current().heir_of(edition).is_some() {
            conn.notify(Notice::Reloaded);
        }
    }

    /// The connection, which was of one edition of its route, is one of the next from now on.
    pub fn move_to(&self, id: ConnId, before: Edition, after: Edition) {
        let mut conns = self.conns();
        if let Some(conn) = conns.remove(before, id) {
            conns.open.entry(after).or_default().insert(id, conn);
        }
    }

    /// Forgets a connection. Once or twice is the same.
    pub fn forget(&self, id: ConnId, edition: Edition) {
        self.conns().remove(edition, id);
    }

    /// How many connections each route has here.
    #[must_use]
    pub fn clients(&self) -> Vec<(RouteId, usize)> {
        self.conns().open.iter().map(|(edition, conns)| (edition.route, conns.len())).collect()
    }

    /// Tells the connections whose route has changed, or has come back, and nobody else.
    pub async fn reloaded(&self, Reloaded { before, after, done }: Reloaded) {
        let is_concerned =
            |edition: Edition| [&before, &after].iter().any(|of| of.heir_of(edition).is_some());
        let mut concerned: Vec<Arc<Conn>> = {
            let conns = self.conns();
            let editions = conns.open.iter().filter(|(edition, _)| is_concerned(**edition));
            editions.flat_map(|(_, conns)| conns.values().cloned()).collect()
        };
        // In the order in which they came, as the hub's lists are.
        concerned.sort_unstable_by_key(|conn| conn.id());
        for some in concerned.chunks(TOLD_AT_ONCE_MAX) {
            for conn in some {
                conn.notify(Notice::Reloaded);
            }
            tokio::task::yield_now().await;
        }
        let _ = done.send(());
    }

    /// Resolves when the server shuts down.
    pub async fn draining(&self) {
        // The sender is this worker's own: it is not gone.
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }

    /// Tells every connection to close, each at its own moment within `window`.
    pub fn drain(&self, window: Duration) {
        let mut conns = self.conns();
        conns.draining = Some(window);
        self.draining.send_replace(true);
        for conn in conns.open.values().flat_map(HashMap::values) {
            conn.notify(Notice::Drain(spread(window, fastrand::f64())));
        }
    }
}
