//! Faults, counted. Numbered streams run both ways through the program itself while something breaks; at the end
//! there is an account of every number: delivered once, or told. `--nocapture` prints the accounts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    unreachable_pub,
    dead_code
)]

#[path = "../e2e/support/mod.rs"]
mod support;

mod account;
mod proxied;
mod stage;

mod clients;
mod clock;
mod dns;
mod ends;
mod logs;
#[cfg(target_os = "linux")]
mod resources;
mod upstream;
