//! What the old clients speak: their dialects, and the error codes and close codes that they are told.

pub mod close;
pub mod dialect;
mod envelope;
pub mod error;
pub(crate) mod lookalike;
pub(crate) mod outline;
pub(crate) mod reserved;
