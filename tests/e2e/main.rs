//! End to end: the whole bridge in this process, old clients of every kind on one side, a Pusher on the other.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    unreachable_pub,
    dead_code
)]

mod support;

mod accept;
mod admin;
mod announced;
mod autobahn;
mod browser;
mod cli;
mod endpoints;
mod events;
mod explain;
mod fallback;
mod fallback_edges;
mod frames;
mod fronts;
mod generations;
mod health;
mod hostile;
mod http2;
mod isolation;
mod keep_alive;
mod limits;
mod links;
mod liveness;
mod logs;
mod members;
mod misconfigured;
mod old_clients;
mod package;
mod presence;
mod publish;
mod publish_rules;
mod refused;
mod relay;
mod reload;
mod reload_load;
mod rotation;
mod rotation_talk;
mod scenarios;
mod self_hosted;
mod shutdown;
mod simulate;
mod sockudo;
mod standby;
mod supervised;
mod tls;
mod tokens;
mod tunnel;
mod upgrade;
mod upstream;
