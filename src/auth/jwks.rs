//! A JWKS at a URL: fetched on demand, cached, and fetched again at a bounded rate.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use hyper::header::{ACCEPT, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use jsonwebtoken::Algorithm;
use tokio::sync::watch;

use super::keys::{Key, from_jwks};
use super::metrics::Fetch;
use crate::clock::Now;
use crate::http::{Client, Request};
use crate::metrics::Family;

/// Largest JWKS document, bytes.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;
/// One fetch may take this long.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long keys are cached, and how often they are fetched; see [`crate::auth::settings::KeySource::JwksUrl`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) refresh: Duration,
    pub(super) refresh_min: Duration,
    pub(super) max_age: Duration,
}

/// The keys at a URL.
pub(super) struct RemoteKeys {
    uri: Uri,
    pub(super) algorithms: Vec<Algorithm>,
    times: Times,
    http: Arc<Client>,
    fetched: ArcSwapOption<Fetched>,
    fetching: Mutex<Fetching>,
    fetches: Family<Fetch>,
}

struct Fetched {
    keys: Vec<Key>,
    at: Instant,
}

impl Fetched {
    fn age(&self, now: Now) -> Duration {
        now.mono.saturating_duration_since(self.at)
    }
}

#[derive(Default)]
struct Fetching {
    /// When the last fetch began, whatever became of it.
    last: Option<Instant>,
    /// Closes when the fetch in flight is over.
    in_flight: Option<watch::Receiver<()>>,
}

/// A JWKS URL, as the client takes it.
pub(super) fn uri(url: &str) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|error| format!("the JWKS URL is not one: {error}"))?;
    if uri.host().is_none() || !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("the JWKS URL needs `https://` or `http://` and a host".to_owned());
    }
    Ok(uri)
}

impl RemoteKeys {
    pub(super) fn new(
        url: &str,
        algorithms: &[Algorithm],
        times: Times,
        http: Arc<Client>,
        fetches: Family<Fetch>,
    ) -> Result<Self, String> {
        let uri = uri(url)?;
        if algorithms.is_empty() {
            return Err("no algorithms".to_owned());
        }
        Ok(Self {
            uri,
            algorithms: algorithms.to_vec(),
            times,
            http,
            fetched: ArcSwapOption::empty(),
            fetching: Mutex::default(),
            fetches,
        })
    }

    /// Whether the other would fetch the same keys at the same times.
    pub(super) fn fetches_as(&self, other: &Self) -> bool {
        (&self.uri, &self.algorithms, self.times) == (&other.uri, &other.algorithms, other.times)
            && Arc::ptr_eq(&self.http, &other.http)
    }

    /// Calls `f` with the keys at hand; `None` when none were ever fetched, or not for `max_age`.
    pub(super) fn with_keys<T>(&self, now: Now, f: impl FnOnce(&[Key]) -> T) -> Option<T> {
        let fetched = self.fetched.load();
        fetched
            .as_ref()
            .filter(|fetched| fetched.age(now) < self.times.max_age)
            .map(|fetched| f(&fetched.keys))
    }

    /// How long ago the set was asked for that is kept; `None`: none was ever fetched.
    pub(super) fn age(&self, now: Now) -> Option<Duration> {
        self.fetched.load().as_ref().map(|fetched| fetched.age(now))
    }

    /// After so long without a good answer, the kept keys are not believed any more.
    pub(super) fn max_age(&self) -> Duration {
        self.times.max_age
    }

    /// Until when nothing is fetched again.
    pub(super) fn retry_after(&self, now: Now) -> Duration {
        let last = self.fetching().last;
        last.map_or(Duration::ZERO, |last| {
            (last + self.times.refresh_min).saturating_duration_since(now.mono)
        })
    }

    /// Whether a fetch is in flight, or may be begun now.
    pub(super) fn may_refresh(&self, now: Now) -> bool {
        let fetching = self.fetching();
        fetching.in_flight.is_some() || self.is_due(&fetching, now)
    }

    /// Begins a fetch if the keys are older than `refresh`, or not there. Nobody waits for it: old keys are
    /// still good.
    pub(super) fn refresh_if_old(self: &Arc<Self>, now: Now) {
        let old = self.fetched.load().as_ref().is_none_or(|fetched| fetched.age(now) >= self.times.refresh);
        if old {
            drop(self.begin_refresh(now));
        }
    }

    /// Begins a fetch, unless the last one began less than `refresh_min` ago. Nobody waits for it.
    pub(super) fn fetch_again(self: &Arc<Self>, now: Now) {
        drop(self.begin_refresh(now));
    }

    /// Begins a fetch, or joins the one in flight, and waits until it is over, well or not. Returns at once
    /// when the last one began less than `refresh_min` ago. The fetch goes on when the caller is dropped.
    pub(super) async fn refresh(self: &Arc<Self>, now: Now) {
        if let Some(mut over) = self.begin_refresh(now) {
            // Nothing is ever sent: the sender's drop is the signal.
            let _ = over.changed().await;
        }
    }

    fn begin_refresh(self: &Arc<Self>, now: Now) -> Option<watch::Receiver<()>> {
        // Outside of a runtime nothing can be fetched; only pure tests come here.
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let mut fetching = self.fetching();
        if let Some(over) = &fetching.in_flight {
            return Some(over.clone());
        }
        if !self.is_due(&fetching, now) {
            return None;
        }
        let (sender, over) = watch::channel(());
        fetching.last = Some(now.mono);
        fetching.in_flight = Some(over.clone());
        // A runtime that shuts down drops the task at once, and with it the flight, which takes this lock.
        drop(fetching);
        let flight = Flight { keys: Arc::clone(self), _over: sender };
        runtime.spawn(async move { flight.keys.fetch_and_keep(now).await });
        Some(over)
    }

    fn is_due(&self, fetching: &Fetching, now: Now) -> bool {
        fetching.last.is_none_or(|last| now.mono.saturating_duration_since(last) >= self.times.refresh_min)
    }

    async fn fetch_and_keep(&self, now: Now) {
        let result = self.fetch().await;
        self.fetches.get(if result.is_ok() { Fetch::Ok } else { Fetch::Failed }).increment(1);
        match result {
            Ok(keys) => {
                if keys.is_empty() {
                    tracing::warn!(jwks = %self, "the JWKS has no key for the configured algorithms");
                } else {
                    tracing::info!(jwks = %self, keys = keys.len(), "JWKS fetched");
                }
                self.fetched.store(Some(Arc::new(Fetched { keys, at: now.mono })));
            }
            Err(error) => {
                let kept = self.with_keys(now, <[Key]>::len).unwrap_or(0);
                let age_s = self.age(now).map(|age| age.as_secs());
                tracing::warn!(jwks = %self, error, keys_kept = kept, age_s, "JWKS could not be fetched");
            }
        }
    }

    /// Only a JWKS counts, even one without keys. Any other status, 404 and 410 included, and any other document may
    /// come from an intermediary.
    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"));
        let request = Request { method: Method::GET, uri: self.uri.clone(), headers, body: Bytes::new() };
        let response =
            self.http.send(request, JWKS_TIMEOUT, JWKS_BYTES_MAX).await.map_err(|error| error.to_string())?;
        if response.status != StatusCode::OK {
            return Err(format!("answered {}", response.status));
        }
        let text = std::str::from_utf8(&response.body).map_err(|error| error.to_string())?;
        from_jwks(text, &self.algorithms)
    }

    fn fetching(&self) -> MutexGuard<'_, Fetching> {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fetch in flight. Its drop, even by a panic or a runtime's end, lets the next one begin and wakes
/// everybody who waits.
struct Flight {
    keys: Arc<RemoteKeys>,
    _over: watch::Sender<()>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.keys.fetching().in_flight = None;
    }
}

/// Where the keys are, without what a URL may hide in its query or before its host.
impl fmt::Display for RemoteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.uri.host().unwrap_or_default(), self.uri.path())
    }
}
