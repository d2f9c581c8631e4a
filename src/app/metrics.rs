//! The rooms' metrics in one registry, and those of the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics_exporter_prometheus::BuildError;
use tokio::runtime::Handle;

use super::reload::ReloadMetrics;
use crate::metrics::{Counter, Declared, Gauge, Named, Registry};
use crate::proxy::serve::Counts;
use crate::routes::edition::RouteId;
use crate::upstream::credentials::Findings;
use crate::upstream::members;
use crate::upstream::metrics::{LinkMetrics, PublishMetrics};
use crate::{admin, auth, endpoints, fanout, proxy, server, session, websocket};

/// Log lines that were not written.
#[derive(Clone, Debug, Default)]
pub struct LogCounts {
    /// There was no room for them, or they could not be.
    pub lost: Arc<AtomicU64>,
    /// Beyond the rate of their kind.
    pub left_out: Arc<AtomicU64>,
}

/// All metrics, by the room that counts them.
pub struct Metrics {
    registry: Registry,
    pub(super) admin: admin::Metrics,
    pub(super) auth: auth::metrics::Metrics,
    pub(super) endpoints: Arc<endpoints::metrics::Metrics>,
    pub(super) fallback: Arc<Counts>,
    pub(super) credentials: Arc<Findings>,
    pub(super) fanout: Arc<fanout::metrics::Metrics>,
    pub(super) links: Arc<LinkMetrics>,
    pub(super) reloads: ReloadMetrics,
    pub(super) members: Arc<members::metrics::Metrics>,
    pub(super) publishing: Arc<PublishMetrics>,
    pub(super) server: Arc<server::metrics::Metrics>,
    pub(super) session: Arc<session::metrics::Metrics>,
    pub(super) websocket: websocket::metrics::Metrics,
    tasks: Named<Gauge>,
    log_lines_lost: Counter,
    log_lines_left_out: Counter,
}

impl Metrics {
    /// Declares all of them.
    ///
    /// # Errors
    /// The exporter rejects the buckets; it does not.
    pub fn new() -> Result<Self, BuildError> {
        let registry = Registry::new()?;
        let build: Named<Gauge> =
            registry.declare_named("version", "pusher_bridge_build_info", "Always 1; the version is a label");
        build.named(env!("CARGO_PKG_VERSION")).set(1.0);
        let websocket = websocket::metrics::Metrics::new(&registry);
        let links = LinkMetrics::new(&registry);
        let session = session::metrics::Metrics::new(&registry, &websocket);
        Ok(Self {
            admin: admin::Metrics::new(&registry),
            auth: auth::metrics::Metrics::new(&registry),
            endpoints: Arc::new(endpoints::metrics::Metrics::new(&registry)),
            fallback: Counts::new(proxy::metrics::Metrics::new(&registry)),
            credentials: Findings::new(&registry),
            fanout: Arc::new(fanout::metrics::Metrics::new(&registry, links.events.clone())),
            links: Arc::new(links),
            members: Arc::new(members::metrics::Metrics::new(&registry)),
            publishing: Arc::new(PublishMetrics::new(&registry)),
            reloads: ReloadMetrics::new(&registry),
            server: Arc::new(server::metrics::Metrics::new(&registry, &session)),
            session: Arc::new(session),
            websocket,
            tasks: registry.declare_named(
                "thread",
                "pusher_bridge_tasks",
                "Asynchronous tasks now, by thread",
            ),
            log_lines_lost: registry
                .declare("pusher_bridge_log_lines_lost_total", "Log lines that could not be written"),
            log_lines_left_out: registry
                .declare("pusher_bridge_log_lines_left_out_total", "Log lines beyond the rate of their kind"),
            registry,
        })
    }

    /// From now on there are series of the route of this name.
    pub fn expect_route(&self, route: RouteId, name: &str) {
        self.session.of(route, name);
        self.fanout.dropped(route, name);
        self.server.of(route, name);
    }

    /// What is declared.
    #[must_use]
    pub fn declared(&self) -> Vec<Declared> {
        self.registry.declared()
    }

    /// The text of `/metrics`.
    #[must_use]
    pub fn render(&self) -> String {
        self.registry.render()
    }

    /// From now on the log's counts are `counts`: the log is there before the metrics.
    pub fn watch_log(&self, counts: LogCounts) {
        let (lost, left_out) = (self.log_lines_lost.clone(), self.log_lines_left_out.clone());
        self.registry.before_render(move || {
            lost.absolute(counts.lost.load(Ordering::Relaxed));
            left_out.absolute(counts.left_out.load(Ordering::Relaxed));
        });
    }

    /// From now on the tasks of `runtime` are shown as those of `thread`.
    pub(super) fn watch_tasks(&self, thread: &str, runtime: Handle) {
        let tasks = self.tasks.named(thread);
        self.registry.before_render(move || tasks.set(runtime.metrics().num_alive_tasks() as f64));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::legacy::close::CloseReason;
    use crate::routes::edition::RouteIds;
    use crate::server::refusal::Refusal;
    use crate::session::metrics::ConnPhase;

    fn with_agent() -> (Metrics, RouteId) {
        let metrics = Metrics::new().unwrap();
        let agent = RouteIds::default().of(&"agent".into()).unwrap();
        metrics.expect_route(agent, "agent");
        (metrics, agent)
    }

    #[test]
    fn no_name_is_declared_twice_and_all_are_ours() {
        let declared = Metrics::new().unwrap().declared();
        let names: BTreeSet<&str> = declared.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), declared.len());
        assert!(names.len() > 25 && names.iter().all(|name| name.starts_with("pusher_bridge_")), "{names:?}");
    }

    #[test]
    fn every_series_of_a_route_exists_from_the_start_and_guards_return_their_share() {
        let (metrics, agent) = with_agent();
        let route = metrics.session.of(agent, "agent");
        let guard = route.in_phase(ConnPhase::Live);
        let live = r#"pusher_bridge_connections{route="agent",phase="live"}"#;
        assert!(metrics.render().contains(&format!("{live} 1")));
        drop(guard);
        let text = metrics.render();
        assert!(text.contains(&format!("{live} 0")), "{text}");
        for reason in CloseReason::ALL {
            assert!(text.contains(&format!("reason=\"{}\"", reason.label())));
        }
        route.closes.get(CloseReason::SlowReader).increment(1);
        metrics.server.refused(None, Refusal::UnknownPath);
        metrics.server.of(agent, "agent").refusals.get(Refusal::Origin).increment(1);
        let text = metrics.render();
        for line in [
            r#"pusher_bridge_closes_total{route="agent",reason="slow_reader"} 1"#,
            r#"pusher_bridge_refusals_total{route="none",reason="unknown_path"} 1"#,
            r#"pusher_bridge_refusals_total{route="agent",reason="origin"} 1"#,
        ] {
            assert!(text.contains(line), "{line}");
        }
    }

    /// A generation of routes that comes later counts on.
    #[test]
    fn a_routes_handles_are_found_again_by_its_id() {
        let mut ids = RouteIds::default();
        let [other, agent] = ["other", "agent"].map(|name| ids.of(&name.into()).unwrap());
        let metrics = Metrics::new().unwrap();
        metrics.expect_route(agent, "agent");
        metrics.session.of(agent, "agent").opened.increment(1);
        metrics.expect_route(other, "other");
        metrics.expect_route(agent, "agent");
        metrics.session.of(agent, "agent").opened.increment(1);
        metrics.session.of(other, "other").opened.increment(1);
        let text = metrics.render();
        for (route, count) in [("agent", 2), ("other", 1)] {
            let line = format!("pusher_bridge_connections_total{{route=\"{route}\"}} {count}\n");
            assert!(text.contains(&line), "{text}");
        }
    }

    #[tokio::test]
    async fn tasks_are_counted_when_asked_for() {
        let metrics = Metrics::new().unwrap();
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
}
