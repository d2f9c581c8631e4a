//! Logs on standard error, written by a thread of their own: whoever logs never waits for it, however slow, full
//! or gone it is. What finds no room, or cannot be written, is lost, and counted.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use tracing_subscriber::filter::{FilterExt as _, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt, registry};

use super::line_rate::{Admitted, LineRate};
use super::{Failure, LogArgs};
use crate::clock::Now;
use crate::metrics::LogCounts;

/// Bytes of lines that wait to be written: some ten thousand lines. Beyond it new ones are lost.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the program's end waits for what is still to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is told what was left out.
const LEFT_OUT_EVERY: Duration = Duration::from_secs(1);

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
    let layer = match args.log_format {
        Format::Text => fmt::layer().with_writer(lines).with_ansi(io::stderr().is_terminal()).boxed(),
        Format::Json => fmt::layer().with_writer(lines).json().flatten_event(true).boxed(),
    };
    registry().with(layer.with_filter(filter.and(rate))).try_init().map_err(Failure::runtime)?;
    // A panic ends one session, not the program: it must be found where everything else is.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a defect of this program")));
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

/// Lines on their way to the thread that writes them.
struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    rate: Arc<LineRate>,
    counts: LogCounts,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// Some have been taken and are not yet written.
    writing: bool,
}

impl Lines {
    fn start(to: impl Write + Send + 'static, lines_per_s: u32) -> io::Result<Arc<Self>> {
        let counts = LogCounts::default();
        let rate = Arc::new(LineRate::new(lines_per_s, counts.left_out.clone()));
        let lines = Arc::new(Self { waiting: Mutex::default(), changed: Condvar::new(), rate, counts });
        let writing = lines.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writing.run(to))?;
        Ok(lines)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut to: impl Write) {
        let mut told = 0;
        let mut told_at = Now::read().mono;
        loop {
            let text = self.take();
            // Line by line: what other processes write to the same pipe must not come in between.
            let mut all_written = true;
            for line in text.split_inclusive(|byte| *byte == b'\n') {
                if to.write_all(line).is_err() {
                    self.counts.lost.fetch_add(1, Ordering::Relaxed);
                    all_written = false;
                }
            }
            let lost = self.counts.lost.load(Ordering::Relaxed);
            if all_written && lost > told {
                tracing::warn!(lines = lost - told, "log lines were lost");
                told = lost;
            }
            let now = Now::read().mono;
            if now >= told_at + LEFT_OUT_EVERY {
                self.tell_left_out();
                told_at = now;
            }
        }
    }

    fn tell_left_out(&self) {
        for (like, lines) in self.rate.take_left_out() {
            tracing::warn!(lines, like, "log lines were left out: more of a kind than --log-rate");
        }
    }

    /// Waits for lines, a second at most, and takes all there are.
    fn take(&self) -> Vec<u8> {
        let mut waiting = self.waiting();
        waiting.writing = false;
        self.changed.notify_all();
        let nothing = |waiting: &mut Waiting| waiting.text.is_empty();
        let woken = self.changed.wait_timeout_while(waiting, LEFT_OUT_EVERY, nothing);
        let (mut waiting, _) = woken.unwrap_or_else(PoisonError::into_inner);
        waiting.writing = true;
        std::mem::take(&mut waiting.text)
    }

    fn flush(&self) {
        let unfinished = |waiting: &mut Waiting| waiting.writing || !waiting.text.is_empty();
        let _ = self.changed.wait_timeout_while(self.waiting(), FLUSH_TIMEOUT, unfinished);
    }
}

/// The subscriber writes one whole line at a time.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.waiting();
        if waiting.text.len() + line.len() <= WAITING_BYTES_MAX {
            waiting.text.extend_from_slice(line);
            self.changed.notify_all();
        } else {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Writes what it is given into a channel without room: each line waits for its reader.
    struct Narrow(mpsc::SyncSender<Vec<u8>>);

    impl Write for Narrow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.send(line.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(n: usize) -> Vec<u8> {
        format!("{n} {}\n", "x".repeat(1000)).into_bytes()
    }

    #[test]
    fn nobody_waits_for_a_reader_and_what_found_no_room_is_counted() {
        const LINES: usize = 10_000;
        let (sender, written) = mpsc::sync_channel(0);
        let lines = Lines::start(Narrow(sender), 0).unwrap();
        for n in 0..LINES {
            (&*lines).write_all(&line(n)).unwrap();
        }
        let lost = usize::try_from(lines.counts.lost.load(Ordering::Relaxed)).unwrap();
        assert!(lost > 0 && lost < LINES, "{lost} of {LINES}");
        // What was taken comes whole and in order, and then there is room again.
        let mut last = None;
        for _ in 0..LINES - lost {
            let got = written.recv_timeout(PATIENCE).unwrap();
            let n = String::from_utf8_lossy(&got).split(' ').next().unwrap().parse().unwrap();
            assert!(got == line(n) && last < Some(n), "{n} after {last:?}");
            last = Some(n);
        }
        (&*lines).write_all(&line(LINES)).unwrap();
        assert!(written.recv_timeout(PATIENCE).unwrap() == line(LINES));
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_end_does_not_wait_for_ever() {
        let (sender, written) = mpsc::sync_channel(0);
        let lines = Lines::start(Narrow(sender), 0).unwrap();
        (&*lines).write_all(b"one\ntwo\n").unwrap();
        lines.flush();
        assert!(lines.waiting().writing, "nobody reads, and the flush is over all the same");
        drop(written);
        lines.flush();
        assert_eq!(lines.counts.lost.load(Ordering::Relaxed), 2);
    }
}
