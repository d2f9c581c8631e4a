//! Pusher's side: its frames and signatures, for both roles, so that the bridge and the sandbox share them;
//! the links that carry events down, and the publisher that carries messages up.

pub mod api;
pub mod backoff;
pub mod checks;
pub mod close;
pub mod dial;
pub mod flights;
pub mod frame;
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
pub mod sign;
