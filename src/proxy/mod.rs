//! What stands behind the bridge: requests that no route takes are passed on, with their bodies as they come, and
//! upgraded ones as bytes; and the WebSockets of routes that old servers go on serving.

pub mod body;
pub mod fields;
pub mod frames;
pub mod heads;
pub mod metrics;
pub mod pool;
pub mod routed;
pub mod serve;
pub mod settings;
pub mod tunnel;
