//! The machine before a model of Pusher's server.

mod hubs;
mod pair;
mod pusher;
mod world;
