//! A stream for which only a task can wait, used as a socket is: by tries that never wait, from any thread, and by
//! readiness. tokio's sockets have both; a stream within an HTTP/2 connection has not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a stream has to be.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// The stream, with what was seen of its readiness.
pub struct Polled {
    stream: Mutex<Box<dyn Duplex>>,
    readable: Arc<Readiness>,
    writable: Arc<Readiness>,
}

impl std::fmt::Debug for Polled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Polled").finish_non_exhaustive()
    }
}

impl Polled {
    /// Takes the stream for readable and writable until a try has shown that it is not.
    #[must_use]
    pub fn new(stream: Box<dyn Duplex>) -> Self {
        Self { stream: Mutex::new(stream), readable: Readiness::new(), writable: Readiness::new() }
    }

    fn stream(&self) -> MutexGuard<'_, Box<dyn Duplex>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream, for whoever has it alone.
    pub fn alone(&mut self) -> &mut dyn Duplex {
        &mut **self.stream.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// The stream's own; `WouldBlock`: nothing is there.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        let read = |cx: &mut Context<'_>| Pin::new(&mut **self.stream()).poll_read(cx, &mut buffer);
        self.readable.attempt(read)?;
        Ok(buffer.filled().len())
    }

    /// Writes as much as the stream takes.
    ///
    /// # Errors
    /// The stream's own; `WouldBlock`: it takes nothing now.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.writable.attempt(|cx| Pin::new(&mut **self.stream()).poll_write_vectored(cx, slices))
    }

    /// Ready when a read may find something.
    pub fn poll_read_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.readable.poll(cx)
    }

    /// Ready when a write may be taken. One task only may wait for it, as for reading.
    pub fn poll_write_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.writable.poll(cx)
    }

    /// Ends the writing side. Nobody waits for it: a stream that has an end of its own writes it when it can.
    pub fn shut_write(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        // It fails on a connection that is gone already.
        let _ = Pin::new(&mut **self.stream()).poll_shutdown(&mut cx);
    }
}

/// Whether a try of one kind may succeed, and who waits for that. The stream wakes it.
struct Readiness {
    ready: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl Readiness {
    fn new() -> Arc<Self> {
        Arc::new(Self { ready: AtomicBool::new(true), waiting: Mutex::default() })
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempt<T>(
        self: &Arc<Self>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> io::Result<T> {
        // Before it is tried: a waking in the middle of it must not be lost.
        self.ready.store(false, Ordering::SeqCst);
        match poll(&mut Context::from_waker(&Waker::from(self.clone()))) {
            Poll::Ready(result) => {
                self.ready.store(true, Ordering::SeqCst);
                result
            }
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.ready.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting();
        if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        drop(waiting);
        // It may have become so before there was anybody to wake.
        if self.ready.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Wake for Readiness {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.store(true, Ordering::SeqCst);
        let waiting = self.waiting().take();
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn blocked<T: std::fmt::Debug>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    #[tokio::test]
    async fn a_try_that_finds_nothing_is_told_when_there_is_something() {
        let (ours, mut theirs) = duplex(64);
        let polled = Polled::new(Box::new(ours));
        let mut buffer = [0; 8];
        assert!(blocked(polled.try_read(&mut buffer)) && blocked(polled.try_read(&mut buffer)));
        let write = async { theirs.write_all(b"hello").await.unwrap() };
        let ((), ()) = tokio::join!(poll_fn(|cx| polled.poll_read_ready(cx)), write);
        assert_eq!(polled.try_read(&mut buffer).unwrap(), 5);
        assert!(buffer.starts_with(b"hello") && blocked(polled.try_read(&mut buffer)));
        drop(theirs);
        poll_fn(|cx| polled.poll_read_ready(cx)).await;
        assert_eq!(polled.try_read(&mut buffer).unwrap(), 0, "the end");
    }

    #[tokio::test]
    async fn what_it_does_not_take_it_takes_when_there_is_room_and_the_end_comes_behind_it() {
        let (ours, mut theirs) = duplex(64);
        let polled = Arc::new(Polled::new(Box::new(ours)));
        let (body, writer) = (vec![7; 1000], polled.clone());
        let sent = body.clone();
        let writing = tokio::spawn(async move {
            let mut rest = &sent[..];
            let mut waits = 0;
            while !rest.is_empty() {
                match writer.try_write_vectored(&[IoSlice::new(rest)]) {
                    Ok(taken) => rest = &rest[taken..],
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                        waits += 1;
                        poll_fn(|cx| writer.poll_write_ready(cx)).await;
                    }
                }
            }
            writer.shut_write();
            waits
        });
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).await.unwrap();
        assert!(got == body && writing.await.unwrap() >= 10);
    }

    #[tokio::test]
    async fn who_waits_when_it_was_woken_already_does_not_wait() {
        let (ours, mut theirs) = duplex(64);
        let polled = Polled::new(Box::new(ours));
        assert!(blocked(polled.try_read(&mut [0; 1])));
        theirs.write_all(b"x").await.unwrap();
        assert!(poll_fn(|cx| Poll::Ready(polled.poll_read_ready(cx))).await.is_ready());
    }
}
