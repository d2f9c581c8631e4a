//! From an event to its receivers' sockets.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion};
use pusher_bridge::exchange::{Interest, LinkId};
use pusher_bridge::fanout::table::Table;
use pusher_bridge::websocket::outbox::{Bounds, Opcode, Outbox, Pushed, encode_frame};

use super::data;

const LINK: LinkId = LinkId(0);

/// One agent's event on a channel that all agents share. Compared with asking every subscriber's filter.
pub fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("find the receivers of one agent's event");
    for subscribers in [10, 10_000] {
        let mut table: Table<usize, usize, ()> = Table::default();
        let values: Vec<(String, usize)> = (0..subscribers).map(|n| (format!("agent_{n}"), n)).collect();
        for (value, n) in &values {
            table.attach(LINK, "agent-status", 3, Interest::Value(value.clone()), *n, ());
        }
        table.live(LINK, "agent-status");
        let receivers = |value: &str| {
            let channel = table.channel(LINK, "agent-status").unwrap();
            channel.audiences().map(|audience| audience.receivers(Some(value)).count()).sum::<usize>()
        };
        assert_eq!(receivers("agent_7"), 1);
        let among = format!("{subscribers} connected");
        group.bench_function(BenchmarkId::new("table", &among), |b| {
            b.iter(|| receivers(black_box("agent_7")))
        });
        group.bench_function(BenchmarkId::new("every filter", &among), |b| {
            b.iter(|| values.iter().filter(|(value, _)| value == black_box("agent_7")).count());
        });
    }
    group.finish();
}

/// A frame handed to a connection whose socket takes everything: our share of a delivery.
pub fn outbox(c: &mut Criterion) {
    const BOUNDS: Bounds = Bounds { frames_max: 1024, bytes_max: 1 << 20 };
    let frame = Bytes::from(encode_frame(Opcode::Text, data(300).as_bytes()));
    let taken = |slices: &[std::io::IoSlice<'_>]| Ok(slices.iter().map(|slice| slice.len()).sum());
    let mut group = c.benchmark_group("push a frame of 300 B");
    let mut outbox = Outbox::new(BOUNDS);
    group.bench_function("written at once", |b| {
        b.iter(|| assert_eq!(outbox.push(black_box(&frame).clone(), taken), Pushed::Written));
    });
    group.bench_function("8 queued, then one flush", |b| {
        b.iter(|| {
            for _ in 0..8 {
                outbox.queue_only(black_box(&frame).clone());
            }
            outbox.flush(taken)
        });
    });
    // What a copy for each receiver would cost.
    group.bench_function("copied", |b| b.iter(|| Bytes::copy_from_slice(black_box(&frame))));
    group.finish();
}
