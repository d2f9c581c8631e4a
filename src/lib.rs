//! pusher-bridge keeps old raw-WebSocket clients working after their server moved to Pusher Channels.
//! ARCHITECTURE.md is the map; design invariants stand at its top.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod auth;
pub mod clock;
pub mod config;
pub mod deprecation;
pub mod http;
pub mod legacy;
pub mod limits;
pub mod pusher;
pub mod routes;
pub mod sandbox;
pub mod template;
pub mod tls;
