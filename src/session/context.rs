//! What sessions share: all of them, and those of one worker.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::metrics::Metrics;
use super::slots::{Holder, Key};
use crate::auth::{Identity, Judge};
use crate::clock::spread;
use crate::exchange::ConnId;
use crate::fanout::hub::Hub;
use crate::limits::budget::Budget;
use crate::limits::slots::Slots;
use crate::limits::users::UserRates;
use crate::routes::generation::Generations;
use crate::upstream::publisher::Publisher;
use crate::websocket::conn::{Conn, Notice};

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
    pub settings: Settings,
    pub metrics: Arc<Metrics>,
    /// Whose newest one judges tokens: who is there judges by a key that is new, too.
    pub generations: Arc<Generations>,
    /// Takes client messages. When the last session is gone, its lanes finish.
    pub publisher: Publisher,
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
    open: HashMap<ConnId, Arc<Conn>>,
    /// Set when the server shuts down: the window over which closes are spread.
    draining: Option<Duration>,
}

/// A connection's entry in its worker's list, removed on drop.
pub struct Registered {
    context: Arc<Context>,
    id: ConnId,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.context.conns().open.remove(&self.id);
    }
}

impl Context {
    #[must_use]
    pub fn new(shared: Arc<Shared>, hub: Arc<Hub>) -> Arc<Self> {
        Arc::new(Self { shared, hub, conns: Mutex::default(), draining: watch::Sender::new(false) })
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
        Registered { context: self.clone(), id: conn.id() }
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
        for conn in conns.open.values() {
            conn.notify(Notice::Drain(spread(window, fastrand::f64())));
        }
    }
}
