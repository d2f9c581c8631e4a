//! What every fuzz target holds the product to. A harness takes any bytes and panics when an invariant does not
//! hold; libFuzzer drives it from `targets/`, and `cargo test` from `tests/suite/fuzz.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
// In `tests/suite/fuzz.rs` this file is a module of its own program.
#![allow(unreachable_pub)]

mod announced;
mod fixture;
mod forwarded;
mod incoming;
mod input;
mod json;
mod legacy;
mod machine;
mod outbox;
mod paths;
mod pusher;
mod routes;
mod tables;
mod template;

/// A harness: any bytes in, a panic when something does not hold.
pub type Harness = fn(&[u8]);

/// Every harness by its target's name.
pub const HARNESSES: [(&str, Harness); 11] = [
    ("announced", announced::run),
    ("forwarded", forwarded::run),
    ("incoming", incoming::run),
    ("legacy", legacy::run),
    ("machine", machine::run),
    ("outbox", outbox::run),
    ("paths", paths::run),
    ("pusher", pusher::run),
    ("routes", routes::run),
    ("tables", tables::run),
    ("template", template::run),
];

/// Runs the harness of this name.
pub fn run(name: &str, data: &[u8]) {
    let (_, harness) = HARNESSES.iter().find(|(known, _)| *known == name).expect("a harness of this name");
    harness(data);
}
