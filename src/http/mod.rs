//! HTTP/1, both ways.

mod client;
mod progress;
pub mod server;
mod spelling;
mod wire;

pub use client::{
    Client, Failure, HttpError, IDLE_PER_HOST_MAX, IDLE_TIMEOUT, RESPONSE_HEAD_BYTES_MAX, Request, Response,
    retry_after,
};

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
