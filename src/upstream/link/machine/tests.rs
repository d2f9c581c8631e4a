//! The machine before a model of Pusher's server, and in single cases.

mod cases;
mod hubs;
mod pair;
mod pusher;
mod world;
