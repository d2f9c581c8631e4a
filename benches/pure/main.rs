//! What the pure parts cost, each beside something to compare it with. See benches/README.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub
)]

mod door;
mod fanout;
mod frames;
mod session;
mod start;
mod tokens;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use pusher_bridge::clock::Now;
use pusher_bridge::config::{self, Config, Source};

/// The routes file as it is shipped.
const SHIPPED: &str = include_str!("../../routes.toml");
/// What tokens are signed with.
const SECRET: &str = "a secret of at least thirty-two bytes";

/// The configuration that `text` says, with invented credentials.
fn config(text: &str) -> Config {
    let source = Source { name: "routes.toml".into(), text: text.into() };
    config::load(&source, &credentials).unwrap_or_else(|errors| panic!("{}", errors[0])).config
}

fn credentials(name: &str) -> Option<String> {
    match name {
        "PUSHER_APP_ID" | "PUSHER_KEY" | "PUSHER_SECRET" => Some("1".to_owned()),
        "JWT_SECRET" => Some(SECRET.to_owned()),
        _ => None,
    }
}

/// A moment that stands still: nothing here depends on how fast it runs.
fn now() -> Now {
    Now { unix_ms: 1_737_453_660_000, ..Now::read() }
}

/// JSON of about `bytes` bytes, as an agent's events have it: small members and one long text.
fn data(bytes: usize) -> String {
    let text = "lorem ipsum \\n dolor é ".repeat(bytes / 20);
    let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at + 160 < bytes).last().unwrap_or(0);
    let text = text[..end].trim_end_matches('\\');
    format!(
        r#"{{"agent_id":"agent_7","status":"busy","queue_length":12,"load":0.50,"tags":["a","b"],"last_activity":"2025-01-21T10:00:00Z","current_task":"{text}"}}"#
    )
}

criterion_group! {
    name = pure;
    config = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500));
    targets = frames::decode, frames::render, frames::pusher, frames::find, door::routing, door::template,
        door::limits, tokens::verify, tokens::sign, session::message, fanout::lookup, fanout::outbox,
        start::load, start::metrics
}
criterion_main!(pure);
