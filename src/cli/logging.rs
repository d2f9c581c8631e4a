//! Logs on standard error.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt, registry};

use super::{Failure, LogArgs};

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For eyes.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging.
///
/// # Errors
/// The filter is none.
pub(super) fn init(args: &LogArgs) -> Result<(), Failure> {
    let filter: Targets = args
        .log
        .parse()
        .map_err(|error| Failure::config(format!("error: the log filter `{}`: {error}\n", args.log)))?;
    let layer = match args.log_format {
        Format::Text => {
            fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).boxed()
        }
        Format::Json => fmt::layer().with_writer(std::io::stderr).json().flatten_event(true).boxed(),
    };
    registry().with(layer.with_filter(filter)).try_init().map_err(Failure::runtime)?;
    // A panic ends one session, not the program: it must be found where everything else is.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a defect of this program")));
    Ok(())
}
