//! The way to Pusher: the links that carry events down, and the publisher that carries messages up.

pub mod api;
pub mod backend;
pub mod backoff;
pub mod cached;
pub mod connection;
pub mod credentials;
pub mod delivery;
pub mod dial;
pub mod flights;
pub mod hubs;
pub mod lane;
pub mod link;
pub mod links;
pub mod lost;
pub mod members;
pub mod merge;
pub mod metrics;
pub mod misconfigured;
mod notify;
pub mod occupancy;
pub mod publisher;
pub mod refused;
mod reply;
mod runner;
pub mod settings;
mod told;
pub mod undelivered;
