//! What the scenarios are written with: a bridge, its Pusher, and old clients.

pub mod backend;
pub mod bridge;
pub mod client;
pub mod clients;
pub mod links;
pub mod network;
pub mod process;
pub mod proxy;
pub mod pusher;
pub mod raw;
pub mod sockudo;
pub mod tls;
mod watch;

pub use bridge::Bridge;
pub use client::OldClient;
pub use raw::Raw;

use std::path::PathBuf;
use std::time::Duration;

/// A test that waits longer than this for an event has failed. It is never waited for as such.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `event`, or fails saying what was waited for.
pub async fn patiently<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Says that a test could not run, which a complete run does not allow.
pub fn skipped(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    let complete = std::env::var("PUSHER_BRIDGE_TESTS_COMPLETE").is_ok_and(|value| value == "1");
    assert!(!complete, "PUSHER_BRIDGE_TESTS_COMPLETE=1 allows no test to be skipped: {why}");
}

/// A new directory of this test alone; who makes it removes it.
pub fn temporary_directory(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{:x}", fastrand::u64(..)));
    std::fs::create_dir_all(&path).unwrap();
    path
}
