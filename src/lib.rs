//! pusher-bridge keeps old raw-WebSocket clients working after their server moved to Pusher Channels.
//!
//! [`app`] runs a bridge with a [`config`]; [`cli`] is the program; [`sandbox`] is a Pusher for tests and for `demo`.
//! The other rooms are public only for tests, benchmarks and fuzzing, and promise nothing. ARCHITECTURE.md has their
//! map, and the design's invariants at its top.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

pub mod app;
pub mod cli;
pub mod config;
pub mod sandbox;

#[doc(hidden)]
pub mod admin;
#[doc(hidden)]
pub mod auth;
#[doc(hidden)]
pub mod clock;
#[doc(hidden)]
pub mod deprecation;
#[doc(hidden)]
pub mod endpoints;
#[doc(hidden)]
pub mod exchange;
#[doc(hidden)]
pub mod explain;
#[doc(hidden)]
pub mod fanout;
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod json;
#[doc(hidden)]
pub mod legacy;
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod metrics;
#[doc(hidden)]
pub mod net;
#[doc(hidden)]
pub mod proxy;
#[doc(hidden)]
pub mod pusher;
#[doc(hidden)]
pub mod routes;
#[doc(hidden)]
pub mod server;
#[doc(hidden)]
pub mod session;
#[doc(hidden)]
pub mod swarm;
#[doc(hidden)]
pub mod template;
#[doc(hidden)]
pub mod text;
#[doc(hidden)]
pub mod tls;
#[doc(hidden)]
pub mod upstream;
#[doc(hidden)]
pub mod websocket;
