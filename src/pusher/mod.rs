//! Pusher's side: its frames and signatures, for both roles.

pub mod close;
pub mod frame;
pub mod sign;
