//! The soak: crowds of old clients of every kind come and go for as long as one likes, in a storm of faults on
//! every side, and every message is accounted for: lost, repeated, reordered, altered or misdirected, it fails
//! the run. So do descriptors, tasks or gauges that are not at every checkpoint what they were at the start, and
//! memory that grows.
//!
//! `cargo test` runs it for some seconds, with everything in it. By hand, for longer:
//!
//!     tests/run with cargo test --release --test soak -- --minutes 30 --upstream sockudo
//!
//! Further: `--clients N`, `--seed N` (the faults' order and the clients' chances), `--upstream sandbox|sockudo`
//! (SOCKUDO_BIN names the binary; where it is set a long run takes it), `--fault-every SECONDS`,
//! `--report FILE.json`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_futures,
    missing_docs,
    unreachable_pub
)]

#[path = "../e2e/support/mod.rs"]
#[allow(dead_code, unused_imports, clippy::disallowed_methods)]
mod support;

mod args;
mod backend;
mod client;
mod faults;
mod ledger;
mod memory;
mod messages;
mod neighbours;
mod observer;
mod outgoing;
mod process;
mod proxy;
mod report;
mod run;
mod vandals;
mod visits;
mod wire;
mod world;

use std::process::ExitCode;

use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::args::Args;

fn main() -> ExitCode {
    let args = match Args::of_process() {
        Ok(Some(args)) => args,
        // Another test was asked for.
        Ok(None) => return ExitCode::SUCCESS,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    ledger::prove();
    neighbours::prove();
    outgoing::prove();
    memory::prove();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limit = args.rounds.iter().map(|round| *round + run::OVERHEAD_MAX).sum();
    let tasks = LocalSet::new();
    match runtime.block_on(tasks.run_until(async { timeout(limit, run::run(&args)).await })) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(_) => {
            eprintln!("soak: not over after {limit:?}");
            ExitCode::FAILURE
        }
    }
}
