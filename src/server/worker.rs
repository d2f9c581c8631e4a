//! A worker: one thread with its own runtime, its hub, and the connections it accepted.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, watch};

use super::accept::{Accepting, Turn};
use super::forwarded::UntrustedForwarders;
use super::metrics::Metrics;
use super::settings::Settings;
use crate::admin::Status;
use crate::endpoints::serve::Endpoints;
use crate::http::server::Warm;
use crate::limits::slots::Slots;
use crate::proxy::pool::{Dialer, Pool};
use crate::proxy::serve::Fallback;
use crate::routes::generation::Generations;
use crate::session::context::{Context, Reloaded};
use crate::upstream::delivery::Delivery;

/// What all workers' doors share.
pub struct Door {
    /// What the file says of it. To be asked for once a connection or a request.
    pub settings: Arc<ArcSwap<Settings>>,
    /// The routes in force.
    pub generations: Arc<Generations>,
    /// What is served beside WebSockets and health; `None`: nothing.
    pub endpoints: ArcSwapOption<Endpoints>,
    /// Where goes what nobody here takes; `None`: nowhere.
    pub fallback: ArcSwapOption<Fallback>,
    /// How the old servers of routes are asked: with the times of the fallback, or, where there is none, its defaults.
    pub tunnels: ArcSwap<Fallback>,
    /// Connections of each client address that are kept only to be told a refusal.
    pub refused_slots: Slots<IpAddr, ()>,
    /// Peers who wrote a forwarding header and are no trusted proxies.
    pub untrusted_forwarders: UntrustedForwarders,
    /// Whether new clients are welcome.
    pub status: Arc<Status>,
    pub metrics: Arc<Metrics>,
}

/// One worker.
pub struct Worker {
    /// Shared by all.
    pub door: Arc<Door>,
    /// What this worker's sessions share.
    pub context: Arc<Context>,
    /// Its connections to what stands behind the bridge.
    pub(super) pool: Arc<Pool>,
    pub(super) warm: Arc<Warm>,
}

impl Worker {
    /// A worker with no connection yet.
    #[must_use]
    pub fn new(door: Arc<Door>, context: Arc<Context>, dialer: Arc<Dialer>) -> Arc<Self> {
        Arc::new(Self { door, context, pool: Pool::new(dialer), warm: Arc::default() })
    }

    /// Serves connections until no more are to be accepted and the last is closed. `reloads` tells which routes have come
    /// into force.
    pub async fn run(
        self: Arc<Self>,
        index: usize,
        accepting: &Accepting,
        turns: (mpsc::Receiver<Turn>, watch::Receiver<bool>),
        deliveries: mpsc::Receiver<Delivery>,
        mut drain: watch::Receiver<Option<Duration>>,
        mut reloads: mpsc::Receiver<Reloaded>,
    ) {
        let hub = tokio::spawn(self.context.hub.clone().run(deliveries));
        let draining = self.context.clone();
        let drain = tokio::spawn(async move {
            if let Ok(Some(window)) = drain.wait_for(Option::is_some).await.map(|window| *window) {
                draining.drain(window);
            }
        });
        let context = self.context.clone();
        let following = tokio::spawn(async move {
            while let Some(reloaded) = reloads.recv().await {
                context.reloaded(reloaded).await;
            }
        });
        let (alive, mut all_gone) = mpsc::channel(1);
        let (turns, stop) = turns;
        accepting.run(&self, index, turns, stop, alive).await;
        // Nothing is ever sent: it ends when the last connection has dropped its share.
        let _ = all_gone.recv().await;
        drain.abort();
        following.abort();
        hub.abort();
    }
}
