//! What an upgrade costs before anybody is in: the route, the channel's name, the limits.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use pusher_bridge::limits::address::AddressGate;
use pusher_bridge::limits::rate::Rate;
use pusher_bridge::limits::rate::RateGate;
use pusher_bridge::limits::slots::{Acquire, Slots};
use pusher_bridge::pusher::channel::check_channel;
use pusher_bridge::routes::path::{Matched, PathTemplate, Router};
use pusher_bridge::template::{Allow, Text, Var};

use super::now;

/// Templates are tried in turn: what does a file with many of them cost?
pub fn routing(c: &mut Criterion) {
    let mut group = c.benchmark_group("find a path's route");
    for routes in [7, 200] {
        let templates =
            (0..routes).map(|n| PathTemplate::parse(&format!("/ws/endpoint-{n}/{{id}}")).unwrap()).collect();
        let router = Router::new(templates);
        let last = format!("/ws/endpoint-{}/gen_123", routes - 1);
        assert!(matches!(router.find(&last), Matched::Route(..)));
        for (kind, path) in [("the last", last.as_str()), ("none", "/ws/nothing/gen_123")] {
            group.bench_with_input(BenchmarkId::new(kind, format!("{routes} routes")), path, |b, path| {
                b.iter(|| router.find(black_box(path)));
            });
        }
    }
    group.finish();
}

/// A channel's name from its template, checked. Compared with `format!`.
pub fn template(c: &mut Criterion) {
    let names = ["id".to_owned()];
    let text = Text::parse("private-plugin-{id}", &names, Allow::default()).unwrap();
    let mut group = c.benchmark_group("fill a channel's name");
    group.bench_function("template", |b| {
        b.iter(|| {
            let name = text.fill(|var| match var {
                Var::Path(_) => Some(black_box("plugin_123").into()),
                _ => None,
            });
            name.filter(|name| check_channel(name).is_ok())
        });
    });
    group.bench_function("format!", |b| b.iter(|| format!("private-plugin-{}", black_box("plugin_123"))));
    group.finish();
}

/// Buckets and slots: the first for each message, the others for each token and connection.
pub fn limits(c: &mut Criterion) {
    let start = now().mono;
    let rate = Rate { count: 100, per: Duration::from_secs(60), burst: 100 };
    let mut group = c.benchmark_group("check a limit");
    let mut gate = RateGate::new(rate);
    let mut at = start;
    group.bench_function("a message's rate, in time", |b| {
        b.iter(|| {
            at += Duration::from_millis(600);
            gate.check(black_box(at)).unwrap();
        });
    });
    let mut empty = RateGate::new(Rate { count: 1, per: Duration::from_secs(3600), burst: 1 });
    empty.check(start).unwrap();
    group.bench_function("a message's rate, too soon", |b| b.iter(|| empty.check(black_box(start)).is_err()));

    let address = |n: u32| IpAddr::from(Ipv4Addr::from_bits(0x0A00_0000 + n));
    let gate = AddressGate::new(rate, 64, start);
    for n in 0..10_000 {
        gate.record_failure(address(n), start).unwrap();
    }
    group.bench_function("an address's wrong tokens, among 10,000", |b| {
        b.iter(|| gate.check(black_box(address(5_000)), start));
    });

    let slots: Slots<IpAddr, u32> = Slots::new();
    let taken: Vec<_> = (0..10_000).map(|n| slots.acquire(&address(n), 50, n)).collect();
    group.bench_function("an address's slot, taken and given back, among 10,000", |b| {
        b.iter(|| matches!(slots.acquire(black_box(&address(5_000)), 50, 1), Acquire::Granted(_)));
    });
    drop(taken);
    group.finish();
}
