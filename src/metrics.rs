//! Every metric: its name, its help and its handles, made once. Labels come from closed sets: route names of
//! the configuration and the enums of this crate, never from what a client sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::runtime::Handle;

use crate::deprecation::Phase;
use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::upstream::undelivered::Reason;

mod describe;
mod keys;
mod kinds;
mod labels;

pub use keys::KeyAges;
pub use kinds::{ConnPhase, PublishResult, Refusal};
pub use labels::{AUTH_RESULTS, RECONNECT_CAUSES, RETRY_CAUSES};

/// The names, as they stand on `/metrics`.
pub mod names {
    /// Connections now, by route and phase.
    pub const CONNECTIONS: &str = "pusher_bridge_connections";
    /// Connections upgraded.
    pub const CONNECTIONS_TOTAL: &str = "pusher_bridge_connections_total";
    /// Requests refused.
    pub const REFUSALS_TOTAL: &str = "pusher_bridge_refusals_total";
    /// Connections closed.
    pub const CLOSES_TOTAL: &str = "pusher_bridge_closes_total";
    /// Tokens judged.
    pub const AUTH_TOTAL: &str = "pusher_bridge_auth_total";
    /// WebSocket messages.
    pub const FRAMES_TOTAL: &str = "pusher_bridge_frames_total";
    /// Their bytes.
    pub const FRAME_BYTES_TOTAL: &str = "pusher_bridge_frame_bytes_total";
    /// Error frames sent.
    pub const CLIENT_ERRORS_TOTAL: &str = "pusher_bridge_client_errors_total";
    /// From an event's frame read to its frames handed to the sockets.
    pub const DELIVERY_DELAY_SECONDS: &str = "pusher_bridge_delivery_delay_seconds";
    /// Client messages by what became of them.
    pub const PUBLISH_TOTAL: &str = "pusher_bridge_publish_total";
    /// Requests sent again.
    pub const PUBLISH_RETRIES_TOTAL: &str = "pusher_bridge_publish_retries_total";
    /// One publishing request.
    pub const PUBLISH_SECONDS: &str = "pusher_bridge_publish_seconds";
    /// Messages waiting to be published.
    pub const PUBLISH_QUEUE_MESSAGES: &str = "pusher_bridge_publish_queue_messages";
    /// Their bytes.
    pub const PUBLISH_QUEUE_BYTES: &str = "pusher_bridge_publish_queue_bytes";
    /// Whether a link is connected.
    pub const UPSTREAM_CONNECTED: &str = "pusher_bridge_upstream_connected";
    /// Connections to Pusher lost or refused, by cause.
    pub const UPSTREAM_RECONNECTS_TOTAL: &str = "pusher_bridge_upstream_reconnects_total";
    /// Channels that stood when a connection was lost.
    pub const UPSTREAM_GAPS_TOTAL: &str = "pusher_bridge_upstream_gaps_total";
    /// Events from Pusher.
    pub const UPSTREAM_EVENTS_TOTAL: &str = "pusher_bridge_upstream_events_total";
    /// Clients' messages delivered to this bridge's own clients.
    pub const LOCAL_EVENTS_TOTAL: &str = "pusher_bridge_local_events_total";
    /// Messages published again after an attempt without an answer.
    pub const PUBLISH_REPEATED_TOTAL: &str = "pusher_bridge_publish_repeated_total";
    /// Channels by state.
    pub const SUBSCRIPTIONS: &str = "pusher_bridge_subscriptions";
    /// Subscriptions refused or not answered.
    pub const SUBSCRIPTION_FAILURES_TOTAL: &str = "pusher_bridge_subscription_failures_total";
    /// Requests to deprecated endpoints.
    pub const DEPRECATED_REQUESTS_TOTAL: &str = "pusher_bridge_deprecated_requests_total";
    /// Bytes held for clients.
    pub const BUFFERED_BYTES: &str = "pusher_bridge_buffered_bytes";
    /// Failures to accept.
    pub const ACCEPT_ERRORS_TOTAL: &str = "pusher_bridge_accept_errors_total";
    /// Fetches of a JWKS document.
    pub const JWKS_FETCHES_TOTAL: &str = "pusher_bridge_jwks_fetches_total";
    /// How old fetched keys are.
    pub const JWKS_AGE_SECONDS: &str = "pusher_bridge_jwks_age_seconds";
    /// At what age they are not believed any more.
    pub const JWKS_MAX_AGE_SECONDS: &str = "pusher_bridge_jwks_max_age_seconds";
    /// Log lines that could not be written.
    pub const LOG_LINES_LOST_TOTAL: &str = "pusher_bridge_log_lines_lost_total";
    /// Log lines beyond the rate of their kind.
    pub const LOG_LINES_LEFT_OUT_TOTAL: &str = "pusher_bridge_log_lines_left_out_total";
    /// Whether new clients are welcome.
    pub const READY: &str = "pusher_bridge_ready";
    /// Tasks that are alive, by thread.
    pub const TASKS: &str = "pusher_bridge_tasks";
    /// Always 1, with the version.
    pub const BUILD_INFO: &str = "pusher_bridge_build_info";
}

/// Buckets from 10 µs to 10 s.
const SECONDS: [f64; 13] =
    [0.000_01, 0.000_03, 0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Handles of one route.
pub struct RouteMetrics {
    phases: [Gauge; 2],
    /// Connections upgraded.
    pub connections: Counter,
    refusals: Vec<Counter>,
    closes: Vec<Counter>,
    errors: Vec<Counter>,
    deprecated: Vec<Counter>,
    /// Messages from clients.
    pub frames_in: Counter,
    /// Their bytes.
    pub bytes_in: Counter,
    frames_out: Counter,
    bytes_out: Counter,
    name: SharedString,
}

/// Log lines that were not written.
#[derive(Clone, Debug, Default)]
pub struct LogCounts {
    /// There was no room for them, or they could not be.
    pub lost: Arc<AtomicU64>,
    /// Beyond the rate of their kind.
    pub left_out: Arc<AtomicU64>,
}

/// Every handle.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    routes: Vec<RouteMetrics>,
    /// Where tasks run, asked at each rendering.
    runtimes: Mutex<Vec<(Gauge, Handle)>>,
    /// Refusals of requests that match no route.
    unrouted: Vec<Counter>,
    handshakes: Gauge,
    delivery_delay: Histogram,
    publish: [Counter; 5],
    /// One publishing request.
    pub publish_seconds: Histogram,
    queue_messages: Gauge,
    queue_bytes: Gauge,
    /// Channels that stood when a connection was lost.
    pub gaps: Counter,
    /// See [`names::LOCAL_EVENTS_TOTAL`].
    pub local_events: Counter,
    /// See [`names::PUBLISH_REPEATED_TOTAL`].
    pub publish_repeated: Counter,
    events: [Counter; 4],
    undelivered: [Counter; 4],
    subscriptions: [Gauge; 3],
    /// Subscriptions refused or not answered.
    pub subscription_failures: Counter,
    /// Bytes held for clients.
    pub buffered_bytes: Gauge,
    /// Failures to accept.
    pub accept_errors: Counter,
    jwks: [Counter; 2],
    log_lines_lost: Counter,
    log_lines_left_out: Counter,
    /// How many there are, as the log counts them; it is there before the metrics.
    log_counts: OnceLock<LogCounts>,
    /// Whether new clients are welcome.
    pub ready: Gauge,
}

impl Metrics {
    /// Registers everything for routes of these names, so that each series exists from the start.
    ///
    /// # Errors
    /// The exporter refuses the buckets; it does not.
    pub fn new(routes: &[Arc<str>]) -> Result<Arc<Self>, metrics_exporter_prometheus::BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .build_recorder();
        describe::describe(&recorder);
        let handle = recorder.handle();
        let c =
            |name: &'static str, labels: &[(&'static str, SharedString)]| counter(&recorder, name, labels);
        let g = |name: &'static str, labels: &[(&'static str, SharedString)]| gauge(&recorder, name, labels);
        let h = |name: &'static str| recorder.register_histogram(&Key::from_static_name(name), &METADATA);
        // A series that begins with its first event hides that event from `increase()`.
        for cause in RETRY_CAUSES {
            let _ = c(names::PUBLISH_RETRIES_TOTAL, &[("cause", cause.into())]);
        }
        for cause in RECONNECT_CAUSES {
            let _ = c(names::UPSTREAM_RECONNECTS_TOTAL, &[("cause", cause.into())]);
        }
        gauge(&recorder, names::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION").into())]).set(1.0);
        let metrics = Self {
            routes: routes.iter().map(|name| RouteMetrics::new(&recorder, name)).collect(),
            unrouted: refusals(&recorder, &"none".into()),
            handshakes: g(names::CONNECTIONS, &[("route", "none".into()), ("phase", "handshake".into())]),
            delivery_delay: h(names::DELIVERY_DELAY_SECONDS),
            publish: ["ok", "refused", "expired", "queue_full", "unknown"]
                .map(|result| c(names::PUBLISH_TOTAL, &[("result", result.into())])),
            publish_seconds: h(names::PUBLISH_SECONDS),
            queue_messages: g(names::PUBLISH_QUEUE_MESSAGES, &[]),
            queue_bytes: g(names::PUBLISH_QUEUE_BYTES, &[]),
            gaps: c(names::UPSTREAM_GAPS_TOTAL, &[]),
            events: ["delivered", "no_channel", "had_already", "malformed"]
                .map(|result| c(names::UPSTREAM_EVENTS_TOTAL, &[("result", result.into())])),
            undelivered: Reason::ALL
                .map(|reason| c(names::UPSTREAM_EVENTS_TOTAL, &[("result", reason.label().into())])),
            local_events: c(names::LOCAL_EVENTS_TOTAL, &[]),
            publish_repeated: c(names::PUBLISH_REPEATED_TOTAL, &[]),
            subscriptions: ["pending", "live", "lingering"]
                .map(|state| g(names::SUBSCRIPTIONS, &[("state", state.into())])),
            subscription_failures: c(names::SUBSCRIPTION_FAILURES_TOTAL, &[]),
            buffered_bytes: g(names::BUFFERED_BYTES, &[]),
            accept_errors: c(names::ACCEPT_ERRORS_TOTAL, &[]),
            jwks: ["ok", "failed"].map(|result| c(names::JWKS_FETCHES_TOTAL, &[("result", result.into())])),
            log_lines_lost: c(names::LOG_LINES_LOST_TOTAL, &[]),
            log_lines_left_out: c(names::LOG_LINES_LEFT_OUT_TOTAL, &[]),
            log_counts: OnceLock::new(),
            ready: g(names::READY, &[]),
            runtimes: Mutex::default(),
            handle,
            recorder,
        };
        Ok(Arc::new(metrics))
    }

    /// The text of `/metrics`.
    #[must_use]
    pub fn render(&self) -> String {
        if let Some(counts) = self.log_counts.get() {
            self.log_lines_lost.absolute(counts.lost.load(Ordering::Relaxed));
            self.log_lines_left_out.absolute(counts.left_out.load(Ordering::Relaxed));
        }
        for (tasks, runtime) in &*self.runtimes() {
            tasks.set(runtime.metrics().num_alive_tasks() as f64);
        }
        self.handle.render()
    }

    /// From now on the log's counts are `counts`.
    pub fn watch_log(&self, counts: LogCounts) {
        let _ = self.log_counts.set(counts);
    }

    /// From now on the tasks of `runtime` are shown as those of `thread`.
    pub fn watch_tasks(&self, thread: &str, runtime: Handle) {
        let tasks = gauge(&self.recorder, names::TASKS, &[("thread", thread.to_owned().into())]);
        self.runtimes().push((tasks, runtime));
    }

    fn runtimes(&self) -> MutexGuard<'_, Vec<(Gauge, Handle)>> {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the histograms' samples into their buckets; to be called every few seconds.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The handles of a route.
    #[must_use]
    pub fn route(&self, index: usize) -> Option<&RouteMetrics> {
        self.routes.get(index)
    }

    /// Frames of `length` bytes that went to clients of a route.
    pub fn count_out(&self, route: usize, frames: usize, length: usize) {
        if let Some(route) = self.routes.get(route).filter(|_| frames > 0) {
            route.frames_out.increment(frames as u64);
            route.bytes_out.increment((frames * length) as u64);
        }
    }

    /// A refused request; `route` when its path matched one.
    pub fn refused(&self, route: Option<usize>, refusal: Refusal) {
        let counters = route.and_then(|index| self.routes.get(index)).map_or(&self.unrouted, |r| &r.refusals);
        if let Some(counter) = counters.get(refusal as usize) {
            counter.increment(1);
        }
    }

    /// A token's judgement. The labels are those of `auth::Refused`, a closed set.
    pub fn auth(&self, route: usize, result: &'static str) {
        if let Some(route) = self.routes.get(route) {
            let labels = [("route", route.name.clone()), ("result", result.into())];
            counter(&self.recorder, names::AUTH_TOTAL, &labels).increment(1);
        }
    }

    /// An event had been read at `received` and is now with its sockets.
    pub fn delivery_delay(&self, received: Instant) {
        self.delivery_delay
            .record(tokio::time::Instant::now().into_std().saturating_duration_since(received));
    }

    /// What became of a client's message.
    pub fn published(&self, result: PublishResult) {
        if let Some(counter) = self.publish.get(result as usize) {
            counter.increment(1);
        }
    }

    /// A request to Pusher is sent again. The cause is from the publisher's closed set.
    pub fn publish_retry(&self, cause: &'static str) {
        counter(&self.recorder, names::PUBLISH_RETRIES_TOTAL, &[("cause", cause.into())]).increment(1);
    }

    /// A link's connection was lost or refused. The cause is from the link's closed set.
    pub fn reconnect(&self, cause: &'static str) {
        counter(&self.recorder, names::UPSTREAM_RECONNECTS_TOTAL, &[("cause", cause.into())]).increment(1);
    }

    /// The gauge that tells whether this link is connected.
    pub fn upstream_connected(&self, link: usize) -> Gauge {
        gauge(&self.recorder, names::UPSTREAM_CONNECTED, &[("link", link.to_string().into())])
    }

    /// An event from Pusher that somebody got.
    pub fn upstream_delivered(&self) {
        let [delivered, ..] = &self.events;
        delivered.increment(1);
    }

    /// An event from Pusher that nobody got.
    pub fn upstream_undelivered(&self, reason: Reason) {
        if let Some(counter) = self.undelivered.get(reason as usize) {
            counter.increment(1);
        }
    }

    /// An event from Pusher that names no channel.
    pub fn upstream_without_channel(&self) {
        let [_, no_channel, ..] = &self.events;
        no_channel.increment(1);
    }

    /// The last event of a cache channel, sent anew, which its clients have.
    pub fn upstream_had_already(&self) {
        let [_, _, had_already, _] = &self.events;
        had_already.increment(1);
    }

    /// A frame from Pusher that cannot be understood.
    pub fn upstream_malformed(&self) {
        let [.., malformed] = &self.events;
        malformed.increment(1);
    }

    /// The gauges of pending, live and lingering subscriptions, moved by differences: links share them.
    pub fn move_subscriptions(&self, from: [usize; 3], to: [usize; 3]) {
        for (gauge, (from, to)) in self.subscriptions.iter().zip(from.into_iter().zip(to)) {
            if to > from {
                gauge.increment((to - from) as f64);
            } else if from > to {
                gauge.decrement((from - to) as f64);
            }
        }
    }

    /// A JWKS fetch.
    pub fn jwks_fetched(&self, ok: bool) {
        let [good, failed] = &self.jwks;
        if ok { good } else { failed }.increment(1);
    }

    /// Counts a message of `bytes` as waiting until the guard is dropped.
    #[must_use]
    pub fn queued(&self, bytes: usize) -> [GaugeGuard; 2] {
        [GaugeGuard::new(&self.queue_messages, 1.0), GaugeGuard::new(&self.queue_bytes, bytes as f64)]
    }

    /// Counts a connection in its handshake until the guard is dropped.
    #[must_use]
    pub fn handshake(&self) -> GaugeGuard {
        GaugeGuard::new(&self.handshakes, 1.0)
    }
}

impl RouteMetrics {
    fn new(recorder: &PrometheusRecorder, name: &Arc<str>) -> Self {
        let name: SharedString = name.to_string().into();
        let route = ("route", name.clone());
        let series = |metric, key, labels: &[&'static str]| -> Vec<Counter> {
            labels
                .iter()
                .map(|label| counter(recorder, metric, &[route.clone(), (key, (*label).into())]))
                .collect()
        };
        series(names::AUTH_TOTAL, "result", &AUTH_RESULTS);
        let direction = |metric, direction: &'static str| {
            counter(recorder, metric, &[route.clone(), ("direction", direction.into())])
        };
        Self {
            phases: ["authenticating", "live"]
                .map(|phase| gauge(recorder, names::CONNECTIONS, &[route.clone(), ("phase", phase.into())])),
            connections: counter(recorder, names::CONNECTIONS_TOTAL, std::slice::from_ref(&route)),
            refusals: refusals(recorder, &name),
            closes: series(names::CLOSES_TOTAL, "reason", &CloseReason::ALL.map(CloseReason::label)),
            errors: series(names::CLIENT_ERRORS_TOTAL, "code", &ErrorCode::ALL.map(ErrorCode::as_str)),
            deprecated: series(names::DEPRECATED_REQUESTS_TOTAL, "phase", &Phase::ALL.map(Phase::label)),
            frames_in: direction(names::FRAMES_TOTAL, "in"),
            bytes_in: direction(names::FRAME_BYTES_TOTAL, "in"),
            frames_out: direction(names::FRAMES_TOTAL, "out"),
            bytes_out: direction(names::FRAME_BYTES_TOTAL, "out"),
            name,
        }
    }

    /// Counts a connection in `phase` until the guard is dropped; a handshake belongs to no route yet.
    #[must_use]
    pub fn in_phase(&self, phase: ConnPhase) -> GaugeGuard {
        let [authenticating, live] = &self.phases;
        GaugeGuard::new(if phase == ConnPhase::Live { live } else { authenticating }, 1.0)
    }

    /// A connection closed.
    pub fn closed(&self, reason: CloseReason) {
        if let Some(counter) = self.closes.get(reason as usize) {
            counter.increment(1);
        }
    }

    /// An error frame.
    pub fn error(&self, code: ErrorCode) {
        if let Some(counter) = self.errors.get(code as usize) {
            counter.increment(1);
        }
    }

    /// A request to the route while it is in this phase of its deprecation.
    pub fn deprecated_request(&self, phase: Phase) {
        if let Some(counter) = self.deprecated.get(phase as usize).filter(|_| phase != Phase::Current) {
            counter.increment(1);
        }
    }
}

/// A gauge's share that is taken back on drop.
#[derive(Debug)]
pub struct GaugeGuard {
    gauge: Gauge,
    share: f64,
}

impl GaugeGuard {
    fn new(gauge: &Gauge, share: f64) -> Self {
        gauge.increment(share);
        Self { gauge: gauge.clone(), share }
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.gauge.decrement(self.share);
    }
}

fn refusals(recorder: &PrometheusRecorder, route: &SharedString) -> Vec<Counter> {
    Refusal::ALL
        .iter()
        .map(|refusal| {
            let labels = [("route", route.clone()), ("reason", refusal.label().into())];
            counter(recorder, names::REFUSALS_TOTAL, &labels)
        })
        .collect()
}

fn key(name: &'static str, labels: &[(&'static str, SharedString)]) -> Key {
    let labels: Vec<Label> = labels.iter().map(|(k, v)| Label::new(*k, v.clone())).collect();
    Key::from_parts(name, labels)
}

fn counter(
    recorder: &PrometheusRecorder,
    name: &'static str,
    labels: &[(&'static str, SharedString)],
) -> Counter {
    recorder.register_counter(&key(name, labels), &METADATA)
}

fn gauge(
    recorder: &PrometheusRecorder,
    name: &'static str,
    labels: &[(&'static str, SharedString)],
) -> Gauge {
    recorder.register_gauge(&key(name, labels), &METADATA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_of_a_route_exists_from_the_start_and_guards_return_their_share() {
        let metrics = Metrics::new(&["agent".into()]).unwrap();
        let guard = metrics.route(0).unwrap().in_phase(ConnPhase::Live);
        let live = r#"pusher_bridge_connections{route="agent",phase="live"}"#;
        assert!(metrics.render().contains(&format!("{live} 1")));
        drop(guard);
        let text = metrics.render();
        assert!(text.contains(&format!("{live} 0")), "{text}");
        for reason in CloseReason::ALL {
            assert!(text.contains(&format!("reason=\"{}\"", reason.label())));
        }
        metrics.route(0).unwrap().closed(CloseReason::SlowReader);
        metrics.refused(None, Refusal::UnknownPath);
        metrics.move_subscriptions([0, 0, 0], [3, 1, 0]);
        metrics.move_subscriptions([3, 1, 0], [1, 3, 0]);
        let text = metrics.render();
        assert!(text.contains(r#"pusher_bridge_closes_total{route="agent",reason="slow_reader"} 1"#));
        assert!(text.contains(r#"pusher_bridge_refusals_total{route="none",reason="unknown_path"} 1"#));
        assert!(text.contains(r#"pusher_bridge_subscriptions{state="live"} 3"#));
    }

    #[tokio::test]
    async fn tasks_are_counted_when_asked_for() {
        let metrics = Metrics::new(&[]).unwrap();
        metrics.watch_tasks("main", Handle::current());
        let shown =
            |count| metrics.render().contains(&format!("pusher_bridge_tasks{{thread=\"main\"}} {count}\n"));
        assert!(shown(0));
        let task = tokio::spawn(std::future::pending::<()>());
        assert!(shown(1));
        task.abort();
        let _ = task.await;
        assert!(shown(0));
    }

    #[test]
    fn enums_index_their_own_series() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        for (index, code) in ErrorCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, index);
        }
        for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, index);
        }
    }
}
