//! Logs on standard error, written by a thread of their own (`log_lines`): whoever logs never waits for it, however
//! slow, full or gone it is.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use clap::ValueEnum;
use tracing_subscriber::filter::{FilterExt as _, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt, registry};

use super::line_rate::Admitted;
use super::log_lines::Lines;
use super::{Failure, LogArgs};
use crate::app::metrics::LogCounts;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For eyes.
    Text,
    /// One JSON object per line.
    Json,
}

/// The log. When it is dropped, what waits is written, if that takes no longer than a second.
#[must_use = "dropping it ends the log"]
pub(super) struct Log(Arc<Lines>);

/// Starts logging.
///
/// # Errors
/// The filter is none, or there can be no thread.
pub(super) fn init(args: &LogArgs) -> Result<Log, Failure> {
    let filter: Targets = args
        .log
        .parse()
        .map_err(|error| Failure::config(format!("error: the log filter `{}`: {error}\n", args.log)))?;
    let lines = Lines::start(io::stderr(), args.log_rate).map_err(Failure::runtime)?;
    let rate = Admitted(lines.rate.clone());
    let log = Log(lines.clone());
    let urgent = lines.clone();
    let layer = match args.log_format {
        Format::Text => fmt::layer().with_writer(lines).with_ansi(io::stderr().is_terminal()).boxed(),
        Format::Json => fmt::layer().with_writer(lines).json().flatten_event(true).boxed(),
    };
    registry().with(layer.with_filter(filter.and(rate))).try_init().map_err(Failure::runtime)?;
    // A panic ends one session, not the program: it must be found where everything else is, and at once, should it
    // end the program all the same.
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(%panic, "a defect of this program");
        urgent.hurry();
    }));
    Ok(log)
}

impl Log {
    /// How many lines were not written.
    pub(super) fn counts(&self) -> LogCounts {
        self.0.counts.clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.tell_left_out();
        self.0.flush();
    }
}
