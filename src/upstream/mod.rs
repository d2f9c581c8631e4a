//! The way to Pusher: the links that carry events down, and the publisher that carries messages up.

pub mod api;
pub mod backoff;
pub mod checks;
pub mod dial;
pub mod flights;
pub mod lane;
pub mod link;
pub mod link_table;
pub mod links;
pub mod liveness;
pub mod probe;
pub mod publisher;
#[cfg(test)]
mod relay_model;
mod runner;
pub mod settings;
