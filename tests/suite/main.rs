//! All tests that are quick and need no stage of their own, in one program: what it links, it links once.
//!
//! A file here is a module here: `tidy::no_test_file_is_forgotten` compares. What needs the whole bridge, a process of
//! its own, or minutes, has a program beside this one (`e2e`, `network`, `faults`, `hostile`, `soak`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    unreachable_pub
)]

mod asking;
mod check;
mod config;
mod deploy;
mod extremes;
mod fuzz;
mod imports;
mod keys;
mod plan;
mod readme;
mod rooms;
mod sandbox;
mod sandbox_clients;
mod secrets;
mod tidy;
