//! One connection, as everybody but its own task sees it: bytes can be pushed to it, notices left for it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::exchange::ConnId;
use crate::legacy::error::ErrorCode;
use crate::limits::budget::{Budget, Holding};
use crate::net::socket::Socket;
use crate::websocket::outbox::{Bounds, Flushed, Outbox, Pushed};

/// Notices waiting for one session. More than its subscriptions and messages under way cannot come; beyond
/// it the connection is closed as too slow.
const NOTICES_MAX: usize = 4096;

/// Bytes read from a client after its close frame was sent.
const DISCARDED_MAX: usize = 1024 * 1024;

/// A notice to a session.
#[derive(Debug)]
pub enum Notice {
    /// The subscription with this number is confirmed.
    Subscribed(u32),
    /// The subscription with this number is refused; without one, all that this connection has on the channel and were
    /// confirmed before.
    Refused {
        id: Option<u32>,
        channel: Arc<str>,
        code: ErrorCode,
        /// It may yet be confirmed.
        is_retried: bool,
    },
    /// A message could not be carried.
    PublishFailed { code: ErrorCode, message_type: String },
    /// A backend's answer, JSON, to a message of this type.
    Reply { message_type: String, data: String },
    /// Events may have been missed.
    Gap,
    /// An event could not be decrypted.
    Undecryptable,
    /// Show a sign of life.
    Probe {
        /// Within this time.
        within: Duration,
        /// One that was heard no longer ago than this is enough.
        heard_within: Duration,
        /// Gets a permit for the sign.
        answers: Arc<Semaphore>,
    },
    /// Another connection took the slot.
    Replaced,
    /// A backend wants the user's connections closed.
    Terminated,
    /// Close after this time: the server shuts down.
    Drain(Duration),
    /// The routes in force have changed: its own may have.
    Reloaded,
}

/// What [`Conn::poll_event`] found.
#[derive(Debug)]
pub enum ConnEvent {
    Notice(Notice),
    /// What made reading pause has been written.
    Drained,
    /// The reader is too slow.
    Overflow,
    /// Too much waits for all clients together.
    Overload,
    /// The socket cannot be written to.
    Broken,
}

/// A connection's shared part.
#[derive(Debug)]
pub struct Conn {
    id: ConnId,
    socket: Socket,
    /// Its frames count there.
    buffers: Arc<Budget>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    outbox: Outbox,
    /// What waits in the outbox, and what has come of an incomplete message.
    holding: Holding,
    incoming: usize,
    /// A call of [`Conn::flush`] is due: that frames wait says nothing of the reader yet.
    corked: bool,
    notices: VecDeque<Notice>,
    /// Nobody hears notices any more.
    left: bool,
    /// Only one gap is reported at a time.
    gap: bool,
    /// Likewise one event that could not be decrypted.
    undecryptable: bool,
    /// Likewise one change of the routes: the session looks at those in force.
    reloaded: bool,
    /// Nothing is read from the client until it has read its answers.
    paused: bool,
    /// Bytes read and thrown away while closing.
    discarded: usize,
    waker: Option<Waker>,
}

impl Conn {
    /// Wraps an upgraded socket.
    #[must_use]
    pub fn new(id: ConnId, socket: Socket, bounds: Bounds, buffers: &Arc<Budget>) -> Arc<Self> {
        let state = State {
            outbox: Outbox::new(bounds),
            holding: Holding::new(buffers.clone()),
            incoming: 0,
            corked: false,
            notices: VecDeque::new(),
            left: false,
            gap: false,
            undecryptable: false,
            reloaded: false,
            paused: false,
            discarded: 0,
            waker: None,
        };
        Arc::new(Self { id, socket, buffers: buffers.clone(), state: Mutex::new(state) })
    }

    #[must_use]
    pub const fn id(&self) -> ConnId {
        self.id
    }

    /// A panic elsewhere must not take this connection along: its state is valid between any two calls.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One frame alone costs less by a plain write.
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [one] => self.socket.try_write(one),
            many => self.socket.try_write_vectored(many),
        }
    }

    /// Sends a frame, at once when nothing waits; what the socket does not take waits in the outbox.
    pub fn push(&self, frame: Bytes) -> Pushed {
        let mut state = self.state();
        let was_empty = state.outbox.is_empty();
        let mut pushed = state.outbox.push(frame, |slices| self.write(slices));
        if pushed == Pushed::Written && self.socket.waiting_bytes() > 0 {
            pushed = Pushed::Queued;
        }
        if pushed != Pushed::Written && !state.corked {
            state.account(&self.socket);
        }
        // Where others wait already, the session's task is at it, and would only find the socket full.
        if pushed != Pushed::Written && (was_empty || pushed != Pushed::Queued) {
            state.wake();
        }
        pushed
    }

    /// Sends a frame to this client alone.
    pub(crate) fn push_own(&self, frame: Vec<u8>) -> Pushed {
        let frame = self.buffers.frame(frame);
        self.push(frame)
    }

    /// Puts a frame into the outbox without trying the socket. `true`: it is the first to wait, and a call of
    /// [`Self::flush`] is due; else the session's task is already at it.
    pub fn queue(&self, frame: Bytes) -> (Pushed, bool) {
        let mut state = self.state();
        state.outbox.make_room(frame.len(), |slices| self.write(slices));
        let was_empty = state.outbox.is_empty();
        let pushed = state.outbox.queue_only(frame);
        let flush_due = was_empty && pushed == Pushed::Queued;
        state.corked |= flush_due;
        if !state.corked {
            state.account(&self.socket);
        }
        if pushed != Pushed::Queued {
            state.wake();
        }
        (pushed, flush_due)
    }

    /// Writes what waits, as far as the socket takes it; the session's task does the rest.
    pub fn flush(&self) {
        let mut state = self.state();
        state.corked = false;
        let flushed = state.outbox.flush(|slices| self.write(slices));
        if flushed != Flushed::Empty || self.socket.waiting_bytes() > 0 {
            state.account(&self.socket);
            state.wake();
        }
    }

    /// Leaves a notice for the session. `false`: it has ended, and hears nothing any more.
    pub fn notify(&self, notice: Notice) -> bool {
        let mut state = self.state();
        if state.left {
            return false;
        }
        if state.once(&notice).is_some_and(|told| std::mem::replace(told, true)) {
            return true;
        }
        if state.notices.len() < NOTICES_MAX {
            state.notices.push_back(notice);
        } else {
            state.outbox.give_up();
        }
        state.wake();
        true
    }

    /// The session has ended. Gives the notices that it did not hear.
    pub fn leave(&self) -> VecDeque<Notice> {
        let mut state = self.state();
        state.left = true;
        std::mem::take(&mut state.notices)
    }

    /// From now on these are the bounds of what waits.
    pub fn bound(&self, bounds: Bounds) {
        self.state().outbox.bound(bounds);
    }

    /// The last frame: nothing is accepted after it.
    pub fn finish(&self, last: Bytes) {
        let mut state = self.state();
        state.outbox.finish(last);
        state.account(&self.socket);
        state.wake();
    }

    /// Frames and bytes accepted for sending so far.
    #[must_use]
    pub fn sent(&self) -> (u64, u64) {
        let state = self.state();
        (state.outbox.frames_out, state.outbox.bytes_out)
    }

    /// Flushes the outbox and gives what the session should know next. One task only may poll it.
    pub fn poll_event(&self, cx: &mut Context<'_>) -> Poll<ConnEvent> {
        let mut state = self.state();
        if let Some(notice) = state.notices.pop_front() {
            if let Some(told) = state.once(&notice) {
                *told = false;
            }
            if state.notices.is_empty() {
                state.notices = VecDeque::new();
            }
            return Poll::Ready(ConnEvent::Notice(notice));
        }
        if state.outbox.overflowed() {
            return Poll::Ready(ConnEvent::Overflow);
        }
        if let Poll::Ready(Flushed::Broken) = self.poll_flush_locked(&mut state, cx) {
            return Poll::Ready(ConnEvent::Broken);
        }
        // Only now: what the flush finds out may be what there is to watch.
        if state.holding.watch(cx.waker()) {
            state.outbox.give_up();
            return Poll::Ready(ConnEvent::Overload);
        }
        if state.paused && !state.outbox.congested() {
            state.paused = false;
            return Poll::Ready(ConnEvent::Drained);
        }
        state.remember(cx);
        Poll::Pending
    }

    /// Whether reading should pause because the client leaves too much unread; then
    /// [`ConnEvent::Drained`] comes when it has caught up.
    pub fn pause_if_congested(&self) -> bool {
        let mut state = self.state();
        state.paused = state.outbox.congested();
        state.paused
    }

    /// While something waits: the bytes the socket took so far. That they grow shows that the client reads, for
    /// what waits has found the kernel's buffers full.
    #[must_use]
    pub fn taken_while_waiting(&self) -> Option<u64> {
        let state = self.state();
        let waits = !state.outbox.is_empty() || self.socket.waiting_bytes() > 0;
        waits.then(|| self.socket.wire_bytes().unwrap_or_else(|| state.outbox.taken()))
    }

    /// So many bytes are held of a message that is not complete.
    pub(crate) fn hold(&self, incoming: usize) {
        let mut state = self.state();
        if state.incoming != incoming {
            state.incoming = incoming;
            state.account(&self.socket);
        }
    }

    /// Ready when there may be something to read, or the connection is broken.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_read_ready(cx)
    }

    /// Reads what is there.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.try_read(buffer)
    }

    /// Ends the writing side: the client reads the end after what was sent.
    pub fn shut_write(&self) {
        self.socket.shut_write();
    }

    /// Reads and throws away until the client ends, at most a mebibyte.
    pub fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut buffer = [0; 1024];
        loop {
            match self.socket.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
            match self.socket.try_read(&mut buffer) {
                Ok(0) => return Poll::Ready(()),
                Ok(read) => {
                    let mut state = self.state();
                    state.discarded += read;
                    if state.discarded > DISCARDED_MAX {
                        return Poll::Ready(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Ready when too much waits for all clients together, and most of it here.
    pub fn poll_evicted(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.state().holding.watch(cx.waker()) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Ready when everything is written, or cannot be any more.
    pub fn poll_flushed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        state.remember(cx);
        self.poll_flush_locked(&mut state, cx).map(|_| ())
    }

    fn poll_flush_locked(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<Flushed> {
        loop {
            if state.outbox.broken() {
                return Poll::Ready(Flushed::Broken);
            }
            let flushed = state.outbox.flush(|slices| self.write(slices));
            state.account(&self.socket);
            match flushed {
                Flushed::Blocked => {}
                Flushed::Empty if self.socket.waiting_bytes() > 0 => {}
                done => return Poll::Ready(done),
            }
            // The write found the socket full and cleared its readiness; this registers for its return.
            match self.socket.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Flushed::Broken),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl State {
    /// Whether such a notice waits already, for those of which one says all.
    const fn once(&mut self, notice: &Notice) -> Option<&mut bool> {
        match notice {
            Notice::Gap => Some(&mut self.gap),
            Notice::Undecryptable => Some(&mut self.undecryptable),
            Notice::Reloaded => Some(&mut self.reloaded),
            _ => None,
        }
    }

    /// What is held counts for the budget of all connections.
    fn account(&mut self, socket: &Socket) {
        let own = self.incoming + self.outbox.queue_bytes() + socket.waiting_bytes();
        if self.holding.set(own, self.outbox.waiting()) {
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn remember(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    const BOUNDS: Bounds = Bounds { frames_max: 1 << 20, bytes_max: 1 << 30 };
    const BUDGET_BYTES: usize = 10_000;

    async fn pair(budget: &Arc<Budget>) -> (Arc<Conn>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        socket.writable().await.unwrap();
        (Conn::new(ConnId(1), socket.into(), BOUNDS, budget), client)
    }

    async fn event(conn: &Conn) -> Option<ConnEvent> {
        std::future::poll_fn(|cx| match conn.poll_event(cx) {
            Poll::Ready(event) => Poll::Ready(Some(event)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    #[tokio::test]
    async fn bursts_for_a_stalled_reader_are_held_against_it() {
        let budget = Budget::new(BUDGET_BYTES, 1000);
        let (conn, _client) = pair(&budget).await;
        let frame = Bytes::from(vec![7; 1 << 16]);
        while conn.push(frame.clone()) == Pushed::Written {}
        let (pushed, flush) = conn.queue(frame.clone());
        assert_eq!((pushed, flush), (Pushed::Queued, false), "the session's task is at it");
        assert!(event(&conn).await.is_none(), "there is enough for all");
        let all = budget.frame(vec![7; BUDGET_BYTES]);
        assert_eq!(conn.queue(frame), (Pushed::Queued, false));
        assert!(matches!(event(&conn).await, Some(ConnEvent::Overload)));
        drop((all, conn));
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn small_frames_count_with_what_their_queue_takes() {
        let budget = Budget::new(BUDGET_BYTES, 1);
        let (conn, _client) = pair(&budget).await;
        socket2::SockRef::from(conn.socket.tcp().unwrap()).set_send_buffer_size(1).unwrap();
        let frame = Bytes::from_static(b"abcd");
        while conn.push(frame.clone()) == Pushed::Written {}
        let _all = budget.frame(vec![7; BUDGET_BYTES + 1]);
        let one = size_of::<Bytes>() + frame.len();
        for _ in 1..BUDGET_BYTES / one {
            assert_eq!(conn.push(frame.clone()), Pushed::Queued);
        }
        assert!(event(&conn).await.is_none(), "its share");
        conn.push(frame);
        assert!(matches!(event(&conn).await, Some(ConnEvent::Overload)));
    }

    #[tokio::test]
    async fn a_stalled_readers_task_sleeps_while_more_comes() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::task::Wake;
        #[derive(Default)]
        struct Wakes(AtomicUsize);
        impl Wake for Wakes {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (conn, _client) = pair(&Budget::new(1 << 30, 1)).await;
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let look = || assert!(conn.poll_event(&mut Context::from_waker(&waker)).is_pending());
        look();
        let frame = Bytes::from(vec![7; 1 << 16]);
        while conn.push(frame.clone()) == Pushed::Written {}
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "for the first that waits");
        look();
        for _ in 0..10 {
            assert_eq!(conn.push(frame.clone()), Pushed::Queued);
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_burst_is_not_held_against_a_reader_that_takes_it() {
        let budget = Budget::new(BUDGET_BYTES, 1000);
        let (conn, mut client) = pair(&budget).await;
        let _all = budget.frame(vec![7; BUDGET_BYTES + 1]);
        let frame = Bytes::from(vec![7; 100]);
        assert_eq!(conn.queue(frame.clone()), (Pushed::Queued, true));
        assert_eq!(conn.queue(frame.clone()), (Pushed::Queued, false));
        assert_eq!(conn.push(frame), Pushed::Queued);
        conn.flush();
        assert!(event(&conn).await.is_none());
        client.read_exact(&mut [0; 300]).await.unwrap();
    }
}
