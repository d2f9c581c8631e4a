//! Bodies on their way through: nothing is read of one before the other side takes it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

use super::metrics::{Direction, Failure, OfUpstream};
use super::pool::Lease;
use super::serve::UnderWay;
use crate::http::BoxError;
use crate::http::server::Progress;

/// How far a request's body is, for who waits for the answer.
pub struct Sent {
    state: Mutex<SentState>,
    /// Something has changed that the one who waits has to look at.
    pub changed: Notify,
}

struct SentState {
    /// When the upstream was last seen to take something.
    last: Instant,
    waits_for_client: bool,
    /// The upstream has not asked for the body yet (RFC 9110 §10.1.1).
    is_held: bool,
    is_given_up: bool,
    ended: bool,
    failure: Option<Failure>,
    waker: Option<Waker>,
}

impl Sent {
    #[must_use]
    pub fn new(is_held: bool, ended: bool) -> Arc<Self> {
        let state = SentState {
            last: Instant::now(),
            waits_for_client: false,
            is_held,
            is_given_up: false,
            ended,
            failure: None,
            waker: None,
        };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, SentState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The upstream wants the body, or does not say.
    pub fn release(&self) {
        let mut state = self.state();
        state.is_held = false;
        state.last = Instant::now();
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    pub fn is_held(&self) -> bool {
        self.state().is_held
    }

    /// Nobody waits for the answer any more: what has not come of the body is given up.
    pub fn give_up(&self) {
        let mut state = self.state();
        if !state.ended {
            state.is_given_up = true;
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
    }

    /// Whether all of the body came.
    pub fn ended(&self) -> bool {
        self.state().ended
    }

    /// What was wrong with it.
    pub fn failure(&self) -> Option<Failure> {
        self.state().failure
    }

    /// The upstream has a connection for it.
    pub fn begun(&self) {
        self.state().last = Instant::now();
    }

    /// Until when the upstream has time to do something.
    pub fn patience(&self, timeout: Duration) -> Instant {
        let state = self.state();
        // Then it is the client who has to, and that has its own time.
        if state.waits_for_client { Instant::now() + timeout } else { state.last + timeout }
    }
}

/// A body that is given up.
#[derive(Debug)]
struct GivenUp(Failure);

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the body was given up: {}", self.0.label())
    }
}

impl std::error::Error for GivenUp {}

/// A request's body.
pub struct Outgoing {
    body: Incoming,
    sent: Arc<Sent>,
    progress: Arc<Progress>,
    metrics: Arc<OfUpstream>,
    left: u64,
    /// For all of it.
    deadline: Instant,
    idle: Idle,
}

impl Outgoing {
    pub(super) fn new(
        body: Incoming,
        sent: Arc<Sent>,
        progress: Arc<Progress>,
        metrics: Arc<OfUpstream>,
        settings: &super::settings::Settings,
    ) -> Self {
        Self {
            body,
            sent,
            progress,
            metrics,
            left: settings.limits.body_bytes_max.unwrap_or(u64::MAX),
            deadline: Instant::now() + settings.body_timeout,
            idle: Idle::new(settings.idle_timeout),
        }
    }

    fn give_up(&self, failure: Failure) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.sent.state().failure = Some(failure);
        self.sent.changed.notify_one();
        Poll::Ready(Some(Err(Box::new(GivenUp(failure)))))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        {
            let mut state = this.sent.state();
            if state.is_given_up {
                return Poll::Ready(Some(Err(Box::new(GivenUp(Failure::ClientGone)))));
            }
            if state.is_held {
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending => {
                {
                    let mut state = this.sent.state();
                    state.waits_for_client = true;
                    state.waker = Some(cx.waker().clone());
                }
                if this.idle.poll(cx, Some(this.deadline)).is_ready() {
                    return this.give_up(Failure::BodyTimeout);
                }
                Poll::Pending
            }
            Poll::Ready(frame) => {
                this.idle.moved();
                if this.progress.wrong().is_some() {
                    return this.give_up(Failure::Malformed);
                }
                {
                    let mut state = this.sent.state();
                    state.waits_for_client = false;
                    state.last = Instant::now();
                    state.ended |= frame.is_none() || this.body.is_end_stream();
                }
                match frame {
                    None => Poll::Ready(None),
                    Some(Err(_)) => this.give_up(Failure::BodyBroken),
                    Some(Ok(frame)) => {
                        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                        let Some(left) = this.left.checked_sub(bytes) else {
                            return this.give_up(Failure::BodyTooLarge);
                        };
                        this.left = left;
                        this.metrics.bytes.get(Direction::In).increment(bytes);
                        Poll::Ready(Some(Ok(frame)))
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body. With its end its connection is free for another request.
pub struct Answering {
    body: Incoming,
    lease: Option<Lease>,
    under_way: UnderWay,
    idle: Idle,
    ended: bool,
}

impl Answering {
    pub(super) fn new(body: Incoming, lease: Lease, under_way: UnderWay, idle_timeout: Duration) -> Self {
        Self { body, lease: Some(lease), under_way, idle: Idle::new(idle_timeout), ended: false }
    }
}

impl Body for Answering {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending => {
                ready!(this.idle.poll(cx, None));
                this.under_way.fail(Failure::AnswerIdle);
                Poll::Ready(Some(Err(Box::new(GivenUp(Failure::AnswerIdle)))))
            }
            Poll::Ready(Some(Err(error))) => {
                this.under_way.fail(Failure::AnswerBroken);
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(Some(Ok(frame))) => {
                this.idle.moved();
                // Nothing comes behind trailers, and hyper does not look.
                this.ended |= frame.is_trailers();
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                this.under_way.metrics.bytes.get(Direction::Out).increment(bytes);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.ended = true;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.ended || self.body.is_end_stream() {
            self.under_way.succeed();
            if let Some(lease) = self.lease.take() {
                lease.give_back();
            }
        }
    }
}

/// A timer that runs while nothing moves. It is made when something has to be waited for, and seldom set anew.
struct Idle {
    timeout: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    const fn new(timeout: Duration) -> Self {
        Self { timeout, since: None, timer: None }
    }

    const fn moved(&mut self) {
        self.since = None;
    }

    /// Resolves when nothing has moved for too long, or at `deadline`.
    fn poll(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let end = since + self.timeout;
        let end = deadline.map_or(end, |deadline| end.min(deadline));
        if end <= now {
            return Poll::Ready(());
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        loop {
            if timer.deadline() > end {
                timer.as_mut().reset(end);
            }
            ready!(timer.as_mut().poll(cx));
            // It was set when less had moved.
            if Instant::now() >= end {
                return Poll::Ready(());
            }
            timer.as_mut().reset(end);
        }
    }
}
