//! What Pusher speaks: frames, signatures, close codes and channel names, for both roles, so that the bridge and the
//! sandbox share them.

pub mod channel;
pub mod close;
pub mod encryption;
pub mod frame;
pub mod sign;
