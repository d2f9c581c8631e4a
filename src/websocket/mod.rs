//! The old clients' WebSocket: what is read from a connection, and what is written to it and by whom.

pub mod conn;
pub mod incoming;
pub mod metrics;
pub mod outbox;
pub mod pieces;
pub mod reader;
pub mod utf8;
