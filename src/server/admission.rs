//! Which connections are accepted: so many at once, and a few more for the time it takes to tell them.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};

use super::forwarded::is_trusted;
use super::metrics::Metrics;
use super::settings::{ProxyProtocol, Settings};
use super::turns::Load;
use crate::limits::handshakes::{Handshake, Handshakes};

/// Beyond `connections_max`, so many more are accepted only to be told 503.
pub const REFUSING_MAX: usize = 256;
/// Beyond these, so many more are accepted in the places of unfinished requests that are just being closed.
pub const DISPLACING_MAX: usize = 64;

/// What a connection counts for as long as it lives, from being accepted to its end.
pub struct Counted {
    /// Its share of the connection limit.
    pub admitted: Admitted,
    pub(super) load: Load,
    /// Its worker waits for it.
    pub(super) alive: mpsc::Sender<()>,
}

impl Counted {
    /// Counts one more on the same connection, which has a stream for each; above `max` it is to be answered 503.
    #[must_use]
    pub fn another(&self, max: usize) -> Self {
        let count = self.admitted.count.clone();
        let over = count.fetch_add(1, Ordering::Relaxed) >= max;
        Self { admitted: Admitted { count, over }, load: self.load.another(), alive: self.alive.clone() }
    }
}

/// Counts all connections, in any state.
pub struct Admission {
    count: Arc<AtomicUsize>,
    settings: Arc<ArcSwap<Settings>>,
    handshakes: Arc<Handshakes<Arc<Notify>>>,
    metrics: Arc<Metrics>,
}

/// A connection whose request is not over.
pub struct Arrival {
    displaced: Arc<Notify>,
    noted: OnceLock<Handshake<Arc<Notify>>>,
    /// Where it is noted once its client is known.
    handshakes: Option<Arc<Handshakes<Arc<Notify>>>>,
}

impl Arrival {
    /// Resolves when another connection gets its place.
    pub async fn displaced(&self) {
        self.displaced.notified().await;
    }

    /// The proxy has said whose it is: it makes room as that client's.
    pub fn is_of(&self, client: IpAddr) {
        if let Some(handshakes) = &self.handshakes {
            self.noted.get_or_init(|| handshakes.open(client, self.displaced.clone()));
        }
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
    /// Admits as many connections as `settings` says.
    #[must_use]
    pub fn new(settings: Arc<ArcSwap<Settings>>, metrics: Arc<Metrics>) -> Self {
        let handshakes = Handshakes::new(settings.load().ipv6_prefix);
        Self { count: Arc::default(), settings, handshakes, metrics }
    }

    /// Counts a new connection; `None`: it must be dropped unanswered.
    pub fn admit(&self, peer: IpAddr) -> Option<(Admitted, Arrival)> {
        let settings = self.settings.load();
        let max = settings.connections_max;
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        let mut admitted = Admitted { count: self.count.clone(), over: before >= max };
        let full = before >= max + REFUSING_MAX;
        if admitted.over
            && before < max + REFUSING_MAX + DISPLACING_MAX
            && let Some(displaced) = self.handshakes.make_room(peer)
        {
            displaced.notify_one();
            admitted.over = false;
        }
        if full && admitted.over {
            return None;
        }
        let displaced = Arc::<Notify>::default();
        // Whoever comes through a proxy is not known before the request is read.
        let by_proxy = is_trusted(peer, &settings.trusted_proxies);
        let noted = OnceLock::new();
        let mut handshakes = None;
        if !by_proxy {
            noted.get_or_init(|| self.handshakes.open(peer, displaced.clone()));
        } else if settings.proxy_protocol == ProxyProtocol::Required {
            handshakes = Some(self.handshakes.clone());
        }
        Some((admitted, Arrival { displaced, noted, handshakes }))
    }

    /// A connection could not be accepted.
    pub fn accept_failed(&self, error: &std::io::Error) {
        self.metrics.accept_errors.increment(1);
        tracing::warn!(%error, "a connection could not be accepted");
    }
}
