//! What is done once, or now and then: reading the file, answering a scrape.

use std::hint::black_box;

use criterion::Criterion;
use pusher_bridge::app::metrics::Metrics;
use pusher_bridge::config::{self, Source};
use pusher_bridge::routes::edition::RouteIds;

use super::{SHIPPED, credentials};

/// The shipped file, to a configuration that is ready to serve. Compared with parsing its TOML alone.
pub fn load(c: &mut Criterion) {
    let source = Source { name: "routes.toml".into(), text: SHIPPED.into() };
    let mut group = c.benchmark_group("load the shipped routes.toml");
    group.bench_function("ours", |b| {
        b.iter(|| config::load(black_box(&source), &credentials).unwrap().complete().unwrap());
    });
    group.bench_function("toml::Table", |b| {
        b.iter(|| black_box(SHIPPED).parse::<toml::Table>().unwrap());
    });
    group.finish();
}

/// A scrape of all metrics, as many routes as a large file has.
pub fn metrics(c: &mut Criterion) {
    let mut group = c.benchmark_group("render /metrics");
    for routes in [7, 50] {
        let (metrics, mut ids) = (Metrics::new().unwrap(), RouteIds::default());
        for name in (0..routes).map(|n| format!("route-{n}").into()) {
            metrics.expect_route(ids.of(&name).unwrap(), &name);
        }
        group.bench_function(format!("{routes} routes"), |b| b.iter(|| metrics.render()));
    }
    group.finish();
}
