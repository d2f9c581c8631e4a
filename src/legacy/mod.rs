//! The old clients' side: their dialects and frames.

pub mod close;
pub mod dialect;
pub mod error;
pub mod id;
pub mod json;
