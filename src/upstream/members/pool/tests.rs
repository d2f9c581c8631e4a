//! The pool, its links and a model of Pusher in simulated time.

mod cases;
mod hub;
mod random;
mod server;
mod world;
