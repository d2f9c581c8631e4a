//! Lines on their way to the thread that writes them: whoever logs never waits for it, and wakes it only when it
//! sleeps. What finds no room, or cannot be written, is lost, and counted.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::line_rate::LineRate;
use crate::app::metrics::LogCounts;
use crate::clock::Now;

/// Bytes of lines that wait to be written: some ten thousand lines. Beyond it new ones are lost.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one write: what is written to a pipe in one piece, whoever else writes to it (POSIX, `write`).
const PIECE_BYTES_MAX: usize = libc::PIPE_BUF;
/// How long a line may wait for others, to be written with them: so often at most the thread wakes.
const GATHER_TIME: Duration = Duration::from_millis(5);
/// How long the program's end waits for what is still to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is told what was left out.
const LEFT_OUT_EVERY: Duration = Duration::from_secs(1);

/// The lines, shared by all who log and the thread that writes.
pub(super) struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    pub(super) rate: Arc<LineRate>,
    pub(super) counts: LogCounts,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// The thread sleeps until it is woken: whoever brings a line does.
    idle: bool,
    /// Nothing further is to be gathered.
    urgent: bool,
    /// Some have been taken and are not yet written.
    writing: bool,
}

impl Lines {
    /// Starts the thread that writes `to`; of each kind `lines_per_s`.
    pub(super) fn start(to: impl Write + Send + 'static, lines_per_s: u32) -> io::Result<Arc<Self>> {
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

    fn run(&self, to: impl Write) {
        let mut output = Output { to, torn: false };
        let mut told = 0;
        let mut told_at = Now::read().mono;
        // A line is left out only within a second of one like it that was not, so what was left out after a second
        // of silence has been told: until the next line there is nothing to wake for.
        let mut silent = false;
        loop {
            let text = self.take((!silent).then_some(LEFT_OUT_EVERY));
            silent = text.is_empty();
            let lost = output.write_lines(&text);
            let lost_ever = self.counts.lost.fetch_add(lost, Ordering::Relaxed) + lost;
            if lost == 0 && !text.is_empty() && lost_ever > told {
                tracing::warn!(lines = lost_ever - told, "log lines were lost");
                told = lost_ever;
            }
            let now = Now::read().mono;
            if silent || now >= told_at + LEFT_OUT_EVERY {
                self.tell_left_out();
                told_at = now;
            }
        }
    }

    /// Logs what the rate left out since this was last called.
    pub(super) fn tell_left_out(&self) {
        for (like, lines) in self.rate.take_left_out() {
            tracing::warn!(lines, like, "log lines were left out: more of a kind than --log-rate");
        }
    }

    /// Waits for a line, not longer than `timeout`, gathers more, and takes all there are.
    fn take(&self, timeout: Option<Duration>) -> Vec<u8> {
        let mut waiting = self.waiting();
        waiting.writing = false;
        self.changed.notify_all();
        let until = timeout.map(|timeout| Now::read().mono + timeout);
        while waiting.text.is_empty() {
            waiting.idle = true;
            waiting = match until.map(|until| until.saturating_duration_since(Now::read().mono)) {
                Some(Duration::ZERO) => break,
                Some(left) => {
                    self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
        waiting.idle = false;
        if !waiting.text.is_empty() {
            let more = |waiting: &mut Waiting| !waiting.urgent;
            let gathered = self.changed.wait_timeout_while(waiting, GATHER_TIME, more);
            waiting = gathered.unwrap_or_else(PoisonError::into_inner).0;
            waiting.urgent = false;
            waiting.writing = true;
        }
        std::mem::take(&mut waiting.text)
    }

    /// Has what waits written at once, and does not wait for it.
    pub(super) fn hurry(&self) {
        self.waiting().urgent = true;
        self.changed.notify_all();
    }

    /// Waits until everything is written, a second at most.
    pub(super) fn flush(&self) {
        self.hurry();
        let unfinished = |waiting: &mut Waiting| waiting.writing || !waiting.text.is_empty();
        let _ = self.changed.wait_timeout_while(self.waiting(), FLUSH_TIMEOUT, unfinished);
    }
}

/// The subscriber writes one whole line at a time.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.waiting();
        let fits = waiting.text.len() + line.len() <= WAITING_BYTES_MAX;
        if fits {
            waiting.text.extend_from_slice(line);
        }
        let wake = fits && std::mem::take(&mut waiting.idle);
        // Or who is woken would meet it locked.
        drop(waiting);
        if wake {
            self.changed.notify_all();
        }
        if !fits {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where lines are written, one piece at a time.
struct Output<W> {
    to: W,
    /// The last line there has no end.
    torn: bool,
}

impl<W: Write> Output<W> {
    /// Gives how many lines could not be written.
    fn write_lines(&mut self, mut text: &[u8]) -> u64 {
        let mut lost = 0;
        while !text.is_empty() {
            let (piece, rest) = text.split_at(piece_end(text));
            lost += self.write_piece(piece);
            text = rest;
        }
        lost
    }

    fn write_piece(&mut self, piece: &[u8]) -> u64 {
        if self.torn && !self.write(b"\n").is_empty() {
            return lines_in(piece);
        }
        let left = self.write(piece);
        let written = piece.strip_suffix(left).unwrap_or_default();
        self.torn = written.last().is_some_and(|last| *last != b'\n');
        lines_in(left)
    }

    /// Gives what was not written.
    fn write<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while !bytes.is_empty() {
            match self.to.write(bytes) {
                Ok(written @ 1..) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        bytes
    }
}

/// The end of as many whole lines as make one piece; of the first line alone when it is longer.
fn piece_end(text: &[u8]) -> usize {
    let ends = |byte: &u8| *byte == b'\n';
    match text.get(..PIECE_BYTES_MAX) {
        None => text.len(),
        Some(piece) => piece
            .iter()
            .rposition(ends)
            .or_else(|| text.iter().position(ends))
            .map_or(text.len(), |at| at + 1),
    }
}

fn lines_in(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Writes what it is given into a channel without room: each piece waits for its reader.
    struct Narrow(mpsc::SyncSender<Vec<u8>>);

    impl Write for Narrow {
        fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
            self.0.send(piece.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            Ok(piece.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(n: usize) -> Vec<u8> {
        format!("{n} {}\n", "x".repeat(1000)).into_bytes()
    }

    fn lines_of(piece: &[u8]) -> impl Iterator<Item = &[u8]> {
        piece.split_inclusive(|byte| *byte == b'\n')
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
        let (mut last, mut come) = (None, 0);
        while come < LINES - lost {
            let piece = written.recv_timeout(PATIENCE).unwrap();
            for got in lines_of(&piece) {
                let n = String::from_utf8_lossy(got).split(' ').next().unwrap().parse().unwrap();
                assert!(got == line(n) && last < Some(n), "{n} after {last:?}");
                last = Some(n);
                come += 1;
            }
        }
        assert_eq!(come, LINES - lost);
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

    /// Whoever logs finds the thread asleep once, and then not before it sleeps again.
    #[test]
    fn lines_that_come_together_are_written_together() {
        let (sender, written) = mpsc::sync_channel(0);
        let lines = Lines::start(Narrow(sender), 0).unwrap();
        // While this one waits for its reader, the others come.
        (&*lines).write_all(b"first\n").unwrap();
        while !lines.waiting().writing {
            std::thread::yield_now();
        }
        for n in 0..100 {
            (&*lines).write_all(format!("{n:03}\n").as_bytes()).unwrap();
            assert!(!lines.waiting().idle);
        }
        assert_eq!(written.recv_timeout(PATIENCE).unwrap(), b"first\n");
        let expected: String = (0..100).map(|n| format!("{n:03}\n")).collect();
        assert_eq!(written.recv_timeout(PATIENCE).unwrap(), expected.as_bytes());
        lines.flush();
        while !lines.waiting().idle {
            std::thread::yield_now();
        }
        (&*lines).write_all(b"last\n").unwrap();
        assert!(!lines.waiting().idle, "it is woken");
        assert_eq!(written.recv_timeout(PATIENCE).unwrap(), b"last\n");
    }

    /// Takes so many bytes, and then none until it is told so.
    struct Short {
        written: Vec<u8>,
        room: usize,
    }

    impl Write for Short {
        fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
            let taken = piece.len().min(self.room);
            self.room -= taken;
            self.written.extend_from_slice(&piece[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_was_cut_does_not_spoil_the_next() {
        for (room, expected, lost) in [
            (0, "", 3),
            (1, "a", 3),
            (4, "aaa\n", 2),
            (6, "aaa\nbb", 2),
            (8, "aaa\nbbb\n", 1),
            (12, "aaa\nbbb\nccc\n", 0),
        ] {
            let mut output = Output { to: Short { written: Vec::new(), room }, torn: false };
            assert_eq!(output.write_lines(b"aaa\nbbb\nccc\n"), lost, "{room}");
            assert_eq!(output.to.written, expected.as_bytes());
            assert_eq!(output.write_lines(b"ddd\n"), 1, "there is still no room");
            output.to.room = 100;
            assert_eq!(output.write_lines(b"eee\n"), 0);
            let separator = if expected.is_empty() || expected.ends_with('\n') { "" } else { "\n" };
            assert_eq!(output.to.written, format!("{expected}{separator}eee\n").into_bytes(), "{room}");
        }
    }

    proptest! {
        #[test]
        fn pieces_are_whole_lines_as_many_as_fit(
            lengths in prop::collection::vec(prop_oneof![8 => 1..500_usize, 1 => 4090..4100_usize, 1 => 1..9000_usize], 1..60)
        ) {
            let lines: Vec<Vec<u8>> = lengths.iter().map(|length| {
                let mut line = vec![b'x'; length - 1];
                line.push(b'\n');
                line
            }).collect();
            let text = lines.concat();
            let (mut left, mut pieces) = (&text[..], Vec::new());
            while !left.is_empty() {
                let (piece, rest) = left.split_at(piece_end(left));
                prop_assert!(piece.ends_with(b"\n"));
                prop_assert!(piece.len() <= PIECE_BYTES_MAX || lines_in(piece) == 1);
                let next = lines_of(rest).next().map_or(0, <[u8]>::len);
                prop_assert!(rest.is_empty() || piece.len() + next > PIECE_BYTES_MAX, "it would have fitted");
                pieces.push(piece);
                left = rest;
            }
            prop_assert_eq!(pieces.concat(), text);
        }
    }
}
