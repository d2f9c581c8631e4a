//! Fan-out: from one event of one channel to the connections that want it. Each worker thread has a hub; a
//! hub's table knows that worker's subscribers.

pub mod hub;
pub mod metrics;
#[cfg(test)]
mod relay_model;
pub mod table;
pub mod view;
