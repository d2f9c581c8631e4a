//! The load benchmark of pusher-bridge. `run` measures; `floor` is the contender that does the least.
//! What is measured, and how to read it, stands in `benches/README.md`.

mod api;
mod args;
mod asker;
mod contender;
mod credentials;
mod event;
mod floor;
mod identity;
mod machine;
mod old_api;
mod process;
mod procfs;
mod report;
mod scenario;
mod script;
mod stub;
mod swarm;

use std::process::ExitCode;

use clap::Parser;
use pusher_bridge::swarm::{socket, ws};

/// A failure in words: nobody reacts to its kind.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let outcome = match args::Cli::parse().command {
        args::Command::Run(args) => scenario::run_all(&args),
        args::Command::Floor(args) => floor::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("pusher-bridge-load: {failure}");
            ExitCode::FAILURE
        }
    }
}
