//! How much, how often, how many at once.

pub mod address;
pub mod rate;
pub mod slots;
