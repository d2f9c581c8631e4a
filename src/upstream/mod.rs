//! The way to Pusher: the links that carry events down, and the publisher that carries messages up.

pub mod api;
pub mod backoff;
pub mod cached;
pub mod checks;
pub mod delivery;
pub mod dial;
pub mod flights;
pub mod lane;
pub mod link;
pub mod link_table;
pub mod links;
pub mod liveness;
pub mod lost;
pub mod metrics;
pub mod probe;
pub mod publisher;
mod runner;
pub mod settings;
pub mod undelivered;
