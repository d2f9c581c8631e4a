//! Frames in and out: decoded, rendered, looked into. Compared with parsing into `serde_json::Value`, which also
//! loses digits and escapes.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use pusher_bridge::json;
use pusher_bridge::legacy::dialect::EventData;
use pusher_bridge::pusher::frame::{self, ServerFrame, data_json};
use pusher_bridge::websocket::outbox::{Opcode, encode_frame};
use serde_json::Value;

use super::{SHIPPED, config, data, now};

const DEPTH_MAX: usize = 64;
const SIZES: [(&str, usize); 2] = [("300 B", 300), ("10 KB", 10_000)];

/// A client's message, understood.
pub fn decode(c: &mut Criterion) {
    let config = config(SHIPPED);
    let dialect =
        |name: &str| config.routes.iter().find(|r| &*r.dialect.name == name).unwrap().dialect.clone();
    let mut group = c.benchmark_group("decode a client's message");
    for (size, bytes) in SIZES {
        for (name, rest) in [("typed", ""), ("channel", r#","channel":"files""#)] {
            let text = format!(r#"{{"type":"run"{rest},"data":{}}}"#, data(bytes));
            let dialect = dialect(name);
            assert!(dialect.decode(&text, DEPTH_MAX).is_ok());
            group.throughput(Throughput::Bytes(text.len() as u64));
            group.bench_with_input(BenchmarkId::new(name, size), &text, |b, text| {
                b.iter(|| dialect.decode(black_box(text), DEPTH_MAX));
            });
        }
        let text = format!(r#"{{"type":"run","data":{}}}"#, data(bytes));
        group.bench_with_input(BenchmarkId::new("serde_json::Value", size), &text, |b, text| {
            b.iter(|| serde_json::from_str::<Value>(black_box(text)));
        });
    }
    group.finish();
}

/// An event, from its data to the bytes on the wire. Once per event and route, whoever receives it.
pub fn render(c: &mut Criterion) {
    let config = config(SHIPPED);
    let now = now();
    let mut group = c.benchmark_group("render an event and encode its frame");
    for (size, bytes) in SIZES {
        let json = data(bytes);
        group.throughput(Throughput::Bytes(json.len() as u64));
        for name in ["typed", "channel"] {
            let route = config.routes.iter().find(|route| &*route.dialect.name == name).unwrap();
            let event = EventData {
                event: "agent_status",
                channel: "files",
                json: &json,
                sender: None,
                by_client: false,
            };
            group.bench_with_input(BenchmarkId::new(name, size), &event, |b, event| {
                b.iter(|| {
                    let text = route.dialect.out.event.render(black_box(event), now);
                    encode_frame(Opcode::Text, text.as_bytes())
                });
            });
        }
        group.bench_with_input(BenchmarkId::new("serde_json::Value", size), &json, |b, json| {
            b.iter(|| {
                let data: Value = serde_json::from_str(black_box(json)).unwrap();
                let frame =
                    serde_json::json!({ "type": "agent_status", "data": data, "timestamp": now.rfc3339() });
                encode_frame(Opcode::Text, frame.to_string().as_bytes())
            });
        });
    }
    group.finish();
}

/// A frame from Pusher: the envelope, then the JSON within its string.
pub fn pusher(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode a frame from Pusher");
    for (size, bytes) in SIZES {
        let text = frame::event("agent_status", "agent-status", &data(bytes), None);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_with_input(BenchmarkId::new("ours", size), &text, |b, text| {
            b.iter(|| match ServerFrame::decode(black_box(text)) {
                Ok(ServerFrame::Event { data, .. }) => data_json(data).len(),
                other => panic!("{other:?}"),
            });
        });
        group.bench_with_input(BenchmarkId::new("serde_json::Value", size), &text, |b, text| {
            b.iter(|| {
                let frame: Value = serde_json::from_str(black_box(text)).unwrap();
                serde_json::from_str::<Value>(frame["data"].as_str().unwrap())
            });
        });
    }
    group.finish();
}

/// A filter's field, found in an event's data.
pub fn find(c: &mut Criterion) {
    let path = ["agent_id".to_owned()];
    let nested = ["agent".to_owned(), "agent_id".to_owned()];
    let mut group = c.benchmark_group("find a filter's field");
    for (size, bytes) in SIZES {
        let flat = data(bytes);
        let deep = format!(r#"{{"n":1,"agent":{flat}}}"#);
        for (kind, text, path) in [("one level", &flat, &path[..]), ("two levels", &deep, &nested[..])] {
            assert_eq!(json::at_path(text, path).and_then(json::scalar).as_deref(), Some("agent_7"));
            group.bench_with_input(BenchmarkId::new(kind, size), text, |b, text| {
                b.iter(|| json::at_path(black_box(text), path).and_then(json::scalar).is_some());
            });
        }
        group.bench_with_input(BenchmarkId::new("serde_json::Value", size), &flat, |b, text| {
            b.iter(|| serde_json::from_str::<Value>(black_box(text)).unwrap()["agent_id"].is_string());
        });
    }
    group.finish();
}
