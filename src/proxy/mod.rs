//! What stands behind the bridge: requests that no route takes are passed on, with their bodies as they come, and
//! upgraded ones as bytes.

pub mod body;
pub mod destination;
pub mod fields;
pub mod metrics;
pub mod pool;
pub mod serve;
pub mod settings;
pub mod tunnel;
