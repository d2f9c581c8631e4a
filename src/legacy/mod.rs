//! The old clients' side: their dialects, the session each connection is, and the outbox its bytes leave by.

pub mod close;
pub mod conn;
pub mod dialect;
pub mod error;
pub mod id;
pub mod incoming;
pub mod json;
pub mod machine;
pub mod outbox;
pub mod pieces;
pub mod publish;
mod reader;
pub mod session;
pub mod utf8;
