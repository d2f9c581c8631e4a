//! The binary: see `pusher-bridge --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pusher_bridge::cli::main()
}
