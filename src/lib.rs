//! pusher-bridge keeps old raw-WebSocket clients working after their server moved to Pusher Channels.
//! ARCHITECTURE.md is the map; design invariants stand at its top.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod admin;
pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod deprecation;
pub mod exchange;
pub mod fanout;
pub mod http;
pub mod json;
pub mod legacy;
pub mod limits;
pub mod metrics;
pub mod net;
pub mod pusher;
pub mod routes;
pub mod sandbox;
pub mod server;
pub mod session;
pub mod template;
pub mod text;
pub mod tls;
pub mod upstream;
pub mod websocket;

/// Who asks, in requests to a JWKS, to Pusher and to backends (RFC 9110 §10.1.5).
pub const USER_AGENT: &str = concat!("pusher-bridge/", env!("CARGO_PKG_VERSION"));
