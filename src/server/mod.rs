//! The old clients' door: workers accept connections in turn, and each request is answered by an upgrade or by a
//! refusal that says why.

pub mod accept;
pub mod admission;
pub mod announced;
pub mod answer;
pub mod classify;
mod connection;
pub mod forwarded;
pub mod gate;
pub mod metrics;
pub mod presented;
pub mod refusal;
mod respond;
pub mod settings;
mod streams;
mod tunnel;
pub mod turns;
pub mod upgrade;
pub mod worker;
