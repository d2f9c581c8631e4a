//! The old clients' side: their dialects, the session each connection is, and the outbox its bytes leave by.

pub mod close;
pub mod conn;
pub mod dialect;
mod envelope;
pub mod error;
pub mod id;
pub mod incoming;
pub mod json;
pub(crate) mod lookalike;
pub mod machine;
pub mod outbox;
pub(crate) mod outline;
pub mod pieces;
pub mod publish;
mod reader;
pub(crate) mod reserved;
pub mod session;
pub mod utf8;
