//! The state machine: what one frame of a client costs, once it is in service.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion};
use jsonwebtoken::Algorithm;
use pusher_bridge::auth::settings::KeySource;
use pusher_bridge::auth::{Verify, mint_hs256};
use pusher_bridge::config::Config;
use pusher_bridge::legacy::error::ErrorCode;
use pusher_bridge::routes::path::Matched;
use pusher_bridge::session::machine::{Action, Machine, Opening};
use secrecy::SecretString;

use super::tokens::{claims, verifier};
use super::{SECRET, SHIPPED, config, data, now};

/// A connection of the shipped `plugin` route.
fn open(config: &Config, out: &mut Vec<Action>) -> Machine {
    let path = "/ws/plugin/p1";
    let Matched::Route(index, values) = config.router.find(path) else { panic!("{path}") };
    let opening = Opening {
        route: config.routes[index].clone(),
        endpoint: path.to_owned(),
        values,
        token: None,
        refusal: None,
        subscribe_wait: Duration::from_secs(10),
        seed: 7,
    };
    Machine::open(opening, now(), out)
}

/// The same, authenticated and subscribed.
fn live(config: &Config, out: &mut Vec<Action>) -> Machine {
    let mut machine = open(config, out);
    let token = mint_hs256(SECRET.as_bytes(), &claims().to_string());
    machine.text(&format!(r#"{{"type":"auth","token":"Bearer {token}"}}"#), now(), out);
    let verifier = verifier(Algorithm::HS256, KeySource::Secret(SecretString::from(SECRET)));
    let Verify::Done(Ok(claims)) = verifier.verify(&token, now()) else { panic!("the token") };
    machine.verified(Ok(claims), Duration::ZERO, now(), out);
    machine.slots(Ok(()), now(), out);
    machine.subscribed(0, now(), out);
    assert!(machine.is_live());
    out.clear();
    machine
}

/// Frames of a client in service, and of one that is not yet.
pub fn message(c: &mut Criterion) {
    let with_rate = |rate: &str| {
        let shipped = r#"messages = { count = 100, per = "1m", burst = 100 }"#;
        assert!(SHIPPED.contains(shipped));
        config(&SHIPPED.replace(shipped, &format!("messages = {rate}")))
    };
    let (unlimited, now) = (with_rate("\"unlimited\""), now());
    let mut out = Vec::new();
    let mut group = c.benchmark_group("a client's frame through the state machine");
    for (size, bytes) in [("300 B", 300), ("10 KB", 10_000)] {
        let text = format!(r#"{{"type":"run","data":{}}}"#, data(bytes));
        let mut machine = live(&unlimited, &mut out);
        machine.text(&text, now, &mut out);
        assert!(matches!(out[..], [Action::Publish { .. }]));
        group.bench_function(format!("to be published, {size}"), |b| {
            b.iter(|| {
                out.clear();
                machine.text(black_box(&text), now, &mut out);
            });
        });
    }
    let refused = r#"{"type":"run","data":1}"#;
    let rare = with_rate(r#"{ count = 1, per = "24h", burst = 1 }"#);
    let mut spent = live(&rare, &mut out);
    spent.text(refused, now, &mut out);
    let mut at = now;
    group.bench_function("above its rate", |b| {
        b.iter(|| {
            out.clear();
            // As often as a refusal may come before the connection is closed for it.
            at = at.plus(Duration::from_millis(100));
            spent.text(black_box(refused), at, &mut out);
        });
    });
    assert!(matches!(out[..], [Action::Error(ErrorCode::RateLimited, _)]), "{out:?}");
    group.bench_function("the first one, a token", |b| {
        let text = format!(r#"{{"type":"auth","token":"Bearer {}"}}"#, "x".repeat(300));
        b.iter_batched_ref(
            || open(&rare, &mut Vec::new()),
            |machine| {
                let mut out = Vec::new();
                machine.text(black_box(&text), now, &mut out);
                out
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}
