//! HTTP/1, both ways, and HTTP/2 for those who come.

mod client;
pub mod multiplexed;
mod progress;
pub mod server;
mod spelling;
pub mod strict;
mod wire;

pub use client::{
    Client, Failure, HttpError, IDLE_PER_HOST_MAX, IDLE_TIMEOUT, RESPONSE_HEAD_BYTES_MAX, Request, Response,
    retry_after,
};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Who asks, in requests to a JWKS, to Pusher and to backends (RFC 9110 §10.1.5).
pub const USER_AGENT: &str = concat!("pusher-bridge/", env!("CARGO_PKG_VERSION"));
