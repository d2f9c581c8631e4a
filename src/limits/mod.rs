//! How much, how often, how many at once.

pub mod address;
pub mod budget;
pub mod handshakes;
pub mod rate;
pub mod slots;
pub mod users;
