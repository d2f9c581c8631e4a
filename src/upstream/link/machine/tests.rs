//! The machine before a model of Pusher's server, and in single cases.

mod cached;
mod cases;
mod encrypted;
mod hubs;
mod pair;
mod pusher;
mod rests;
mod world;

use std::time::Instant;

use crate::clock::Now;

/// This moment, at whatever time of the day.
fn at(mono: Instant) -> Now {
    Now { mono, unix_ms: 0 }
}
