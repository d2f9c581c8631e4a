//! What new clients and publishers ask for at the traffic port, beside WebSockets: channels authorized for Pusher's
//! clients by the same rules as old clients', sign-ins, backends' events, and Pusher's webhooks. Each is there only when
//! it is configured.

pub mod authorize;
pub mod body;
pub mod cors;
pub mod member;
pub mod metrics;
pub mod notify;
pub mod reply;
pub mod request;
pub mod serve;
pub mod settings;
pub mod webhooks;
