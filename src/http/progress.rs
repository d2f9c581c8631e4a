//! Where a server's connection is, between one request and the next, and by when that must be over. Known to the
//! service, to the bodies it answers with and to the bytes' way out; all of them run in the connection's own task.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderMap;
use tokio::time::Instant;

use super::server::{LINGER_TIMEOUT, Limits, NO_TIMEOUT};
use super::strict::{Strict, Wrong};

/// How long a connection without a request is kept as it is; then it is taken down to its socket.
const PARKED_AFTER: Duration = Duration::from_millis(100);
/// Of each worker, so many are kept; the others are taken down at once. Each has a buffer of 8 KiB.
const WARM_MAX: usize = 64;
/// Bytes of announcements of one answer; further ones are left out, for nobody needs them.
const INTERIM_BYTES_MAX: usize = 16 * 1024;

/// How many connections without a request one worker keeps as they are.
#[derive(Debug, Default)]
pub struct Warm(AtomicUsize);

/// One of them.
#[derive(Debug)]
struct WarmOne(Arc<Warm>);

impl WarmOne {
    fn take(warm: &Arc<Warm>) -> Option<Self> {
        let before = warm.0.fetch_add(1, Ordering::Relaxed);
        // Counted before it is compared, and given back by drop.
        let one = Self(warm.clone());
        (before < WARM_MAX).then_some(one)
    }
}

impl Drop for WarmOne {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub struct Progress {
    // Never contended: see the module.
    state: Mutex<State>,
    head_timeout: Duration,
    answer_timeout: Duration,
    parks: Option<Arc<Warm>>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    deadline: Instant,
    /// Something of the awaited request has come.
    begun: bool,
    requests: usize,
    /// So many of them were passed on.
    passed_on: usize,
    /// The answer may take for ever, as long as it is taken within this.
    stream: Option<Duration>,
    /// The client takes nothing of it.
    waits: bool,
    /// Answers that announce another, to be written before it.
    interim: Vec<u8>,
    /// What has come, where it is passed on.
    strict: Option<Strict>,
    /// While it has no request.
    warm: Option<WarmOne>,
}

impl State {
    /// Whether something has come that is not a whole request.
    fn has_begun(&self) -> bool {
        match &self.strict {
            Some(strict) if !strict.is_over() => strict.is_within_a_head() || strict.is_within_a_body(),
            _ => self.begun,
        }
    }
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
        let state = State {
            phase: Phase::Waiting,
            deadline,
            begun: false,
            requests: 0,
            passed_on: 0,
            stream: None,
            waits: false,
            interim: Vec::new(),
            strict: limits.strict.then(|| Strict::new(limits.head_bytes_max)),
            warm: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            head_timeout: limits.head_timeout,
            answer_timeout: limits.answer_timeout,
            parks: limits.parks.clone(),
        })
    }

    /// Whether all that came was answered, and nothing has come since: who is cut now misses nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let state = self.state();
        state.phase == Phase::Waiting && state.requests > 0 && !state.has_begun()
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
        let mut state = self.state();
        state.warm = None;
        if self.parks.is_some() && state.phase == Phase::Waiting && !state.has_begun() && state.requests > 0 {
            state.deadline = Instant::now() + self.head_timeout;
        }
        state.begun = true;
    }

    /// Whether somebody wants to know what is read.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.state().strict.is_some()
    }

    /// How many bytes may be read at once; see [`Strict::room`].
    pub(super) fn room(&self) -> usize {
        let state = self.state();
        match &state.strict {
            // Of a body that nobody passes on.
            Some(strict) if strict.is_over() && state.phase != Phase::Waiting => usize::MAX,
            Some(strict) => strict.room(),
            None => usize::MAX,
        }
    }

    /// Whether it is known that more of a body is to come.
    pub(super) fn is_within_a_body(&self) -> bool {
        self.state().strict.as_ref().is_some_and(Strict::is_within_a_body)
    }

    /// Whether what is waited for is a head that is larger than it may be.
    pub(super) fn is_too_large(&self) -> bool {
        self.is_waiting() && self.room() == 0
    }

    /// The connection is taken down to its socket.
    pub(super) fn parked(&self) {
        self.state().warm = None;
    }

    /// This was read.
    pub(super) fn read(&self, bytes: &[u8]) {
        if let Some(strict) = &mut self.state().strict {
            strict.read(bytes);
        }
    }

    /// Why the request that is under way must not be passed on, as far as it has come.
    #[must_use]
    pub fn wrong(&self) -> Option<Wrong> {
        let state = self.state();
        state.strict.as_ref().and_then(|strict| strict.wrong(state.requests))
    }

    /// The request is passed on. Its answer may take as long as it likes, but whatever there is of it must be taken within `idle`.
    pub fn stream(&self, idle: Duration) {
        let mut state = self.state();
        state.stream = Some(idle);
        state.passed_on += 1;
        state.deadline = Instant::now() + NO_TIMEOUT;
    }

    /// Whether such an answer is under way.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.state().stream.is_some()
    }

    /// The client takes nothing, or something again.
    pub(super) fn write_waits(&self, waits: bool) {
        let mut state = self.state();
        let Some(idle) = state.stream else { return };
        if waits != state.waits {
            state.waits = waits;
            state.deadline = Instant::now() + if waits { idle } else { NO_TIMEOUT };
        }
    }

    /// An answer that announces another (RFC 9110 §15.2), to be written before that.
    pub fn interim(&self, status: StatusCode, headers: &HeaderMap) {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\n",
            status.as_str(),
            status.canonical_reason().unwrap_or("Informational")
        )
        .into_bytes();
        for (name, value) in headers {
            let of_the_connection =
                ["connection", "keep-alive", "upgrade", "transfer-encoding", "content-length", "te"];
            if !of_the_connection.contains(&name.as_str()) {
                head.extend_from_slice(name.as_str().as_bytes());
                head.extend_from_slice(b": ");
                head.extend_from_slice(value.as_bytes());
                head.extend_from_slice(b"\r\n");
            }
        }
        head.extend_from_slice(b"\r\n");
        let mut state = self.state();
        if state.phase == Phase::Answering && state.interim.len() + head.len() <= INTERIM_BYTES_MAX {
            state.interim.extend_from_slice(&head);
        }
    }

    /// What there is of those.
    pub(super) fn take_interim(&self) -> Vec<u8> {
        std::mem::take(&mut self.state().interim)
    }

    /// A request's head is there.
    pub(super) fn request_read(&self) {
        let mut state = self.state();
        if state.phase == Phase::Waiting {
            state.deadline += self.answer_timeout;
        }
        state.phase = Phase::Answering;
        state.requests += 1;
        state.warm = None;
        let request = state.requests;
        if let Some(strict) = &mut state.strict {
            strict.found(request);
        }
    }

    /// Whether the connection may carry no request behind this one.
    pub(super) fn is_last(&self, limits: &Limits) -> bool {
        let state = self.state();
        let passed_on = state.passed_on.min(limits.passed_on_max);
        state.requests - passed_on >= limits.requests_max
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
            // Of the next request something may have come along with the last.
            state.begun = false;
            let request = state.requests;
            if let Some(strict) = &mut state.strict {
                strict.found(request);
            }
            let mut timeout = self.head_timeout;
            if state.strict.as_ref().is_some_and(Strict::is_within_a_body) {
                // It was answered before all of it was there. What is left is no request.
                timeout = timeout.min(LINGER_TIMEOUT);
            } else if let Some(warm) = &self.parks
                && !state.has_begun()
            {
                state.warm = WarmOne::take(warm);
                timeout = timeout.min(if state.warm.is_some() { PARKED_AFTER } else { Duration::ZERO });
            }
            state.deadline = Instant::now() + timeout;
            state.stream = None;
            state.waits = false;
            state.interim = Vec::new();
        }
        over
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
