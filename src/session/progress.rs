//! Signs of life that are no messages, and who waits for one.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::Session;
use crate::clock::Now;
use crate::websocket::reader::Reader;

#[derive(Default)]
pub(super) struct Progress {
    /// Those who want a sign of life: each gets a permit for it.
    probes: Vec<Arc<Semaphore>>,
    /// How many bytes the socket had taken at the last look, while something waited.
    taken: Option<u64>,
}

impl Progress {
    pub(super) fn expect_answer(&mut self, answers: Arc<Semaphore>) {
        self.probes.push(answers);
    }

    pub(super) fn answer_probes(&mut self) {
        for answers in self.probes.drain(..) {
            answers.add_permits(1);
        }
    }

    /// Whether the client has read since the last look; `taken`: the bytes that the socket took, while something waits.
    fn has_read(&mut self, taken: Option<u64>) -> bool {
        match (std::mem::replace(&mut self.taken, taken), taken) {
            (Some(before), Some(taken)) => taken > before,
            // Nothing waits any more.
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

impl Session {
    /// A client that reads slowly may have its frames unread here for long; that it takes ours shows that it
    /// lives. So does a large message that is slow to come: no pong can be sent before its end.
    pub(super) fn look_for_progress(&mut self, reader: &mut Reader) {
        let sends = reader.has_progressed(Now::read());
        let reads = self.progress.has_read(self.conn.taken_while_waiting());
        if sends || reads {
            self.progress.answer_probes();
            self.machine.heard(Now::read());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_reads_when_the_socket_takes_more_or_nothing_waits_any_more() {
        let mut progress = Progress::default();
        for (taken, read) in [
            (None, false),
            (Some(10), false),
            (Some(10), false),
            (Some(11), true),
            (Some(11), false),
            (None, true),
            (None, false),
            (Some(20), false),
        ] {
            assert_eq!(progress.has_read(taken), read, "{taken:?}");
        }
    }
}
