//! Who gets what, counted, when the network is slow and breaks: equal messages of everybody, people who come, leave
//! and lose their link at any moment, and answers of Pusher that never arrive. For every message: its sender does not
//! get it back, and each neighbour gets it exactly once, or, only where an answer was lost, once more and counted.
//!
//! `PUSHER_BRIDGE_TESTS_SEEDS=100` runs so many seeds of the worlds, `=7..9` those; a failure prints the account of
//! its room.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub,
    dead_code
)]

#[allow(unused_imports)]
#[path = "../e2e/support/mod.rs"]
mod support;

mod account;
mod message;
mod person;
mod room;
mod scene;

mod regressions;
mod worlds;
