//! Where a server's connection is, between one request and the next, and by when that must be over. Known to the
//! service, to the bodies it answers with and to the bytes' way out; all of them run in the connection's own task.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::server::Limits;

#[derive(Debug)]
pub struct Progress {
    // Never contended: see the module.
    state: Mutex<State>,
    head_timeout: Duration,
    answer_timeout: Duration,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    deadline: Instant,
    /// Something of the awaited request has come.
    begun: bool,
    requests: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// For a request's head.
    Waiting,
    /// The request is with the service, or its answer on the way.
    Answering,
    /// The answer's last byte is with hyper, which has to write it.
    Writing,
}

impl Progress {
    /// Waits for the first request, until `deadline`.
    #[must_use]
    pub fn new(deadline: Instant, limits: &Limits) -> Arc<Self> {
        let state = State { phase: Phase::Waiting, deadline, begun: false, requests: 0 };
        Arc::new(Self {
            state: Mutex::new(state),
            head_timeout: limits.head_timeout,
            answer_timeout: limits.answer_timeout,
        })
    }

    /// Whether all that came was answered, and nothing has come since: who is cut now misses nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let state = self.state();
        state.phase == Phase::Waiting && state.requests > 0 && !state.begun
    }

    /// Whether a request's head is waited for.
    pub(super) fn is_waiting(&self) -> bool {
        self.state().phase == Phase::Waiting
    }

    /// When what it is at must be over.
    pub(super) fn deadline(&self) -> Instant {
        self.state().deadline
    }

    pub(super) fn bytes_read(&self) {
        self.state().begun = true;
    }

    /// A request's head is there; which one it is.
    pub(super) fn request_read(&self) -> usize {
        let mut state = self.state();
        if state.phase == Phase::Waiting {
            state.deadline += self.answer_timeout;
        }
        state.phase = Phase::Answering;
        state.requests += 1;
        state.requests
    }

    /// The answer was made to its end.
    pub(super) fn answer_made(&self) {
        self.state().phase = Phase::Writing;
    }

    /// What was made is written. Whether an answer is over by that.
    pub(super) fn flushed(&self) -> bool {
        let mut state = self.state();
        let over = state.phase == Phase::Writing;
        if over {
            state.phase = Phase::Waiting;
            state.deadline = Instant::now() + self.head_timeout;
            state.begun = false;
        }
        over
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
