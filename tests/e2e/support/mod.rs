//! What the scenarios are written with: a bridge, its Pusher, and old clients.

pub mod bridge;
pub mod client;

pub use bridge::Bridge;
pub use client::OldClient;

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
