//! The bounded queue of frames towards one WebSocket.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// Most frames waiting for one connection; a reader slower than that is dropped.
pub const QUEUE_FRAMES_MAX: usize = 4096;
/// Most bytes waiting for one connection; a reader slower than that is dropped.
pub const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What leaves on a connection, in order.
#[derive(Debug)]
pub(super) enum Out {
    /// A text frame, shared by every receiver.
    Frame(Utf8Bytes),
    /// The end, with a code and a reason.
    Close(u16, String),
}

/// The queue did not take it: the connection has to be cut.
#[derive(Debug)]
pub(super) struct Full;

/// The sending end, held by the hub.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    frames: mpsc::Sender<Out>,
    bytes: Arc<AtomicUsize>,
    cut: Arc<Notify>,
}

/// The connection's end.
#[derive(Debug)]
pub(super) struct QueueReader {
    frames: mpsc::Receiver<Out>,
    bytes: Arc<AtomicUsize>,
    cut: Arc<Notify>,
}

/// A new, empty queue.
pub(super) fn queue() -> (Queue, QueueReader) {
    let (sender, frames) = mpsc::channel(QUEUE_FRAMES_MAX);
    let (bytes, cut) = (Arc::default(), Arc::default());
    let queue = Queue { frames: sender, bytes: Arc::clone(&bytes), cut: Arc::clone(&cut) };
    (queue, QueueReader { frames, bytes, cut })
}

impl Queue {
    /// Queues one frame or the end.
    pub(super) fn push(&self, out: Out) -> Result<(), Full> {
        let len = match &out {
            Out::Frame(text) => text.len(),
            Out::Close(..) => 0,
        };
        let before = self.bytes.fetch_add(len, Ordering::Relaxed);
        if before.saturating_add(len) > QUEUE_BYTES_MAX {
            return Err(Full);
        }
        self.frames.try_send(out).map_err(|_| Full)
    }

    /// Ends the connection as a broken cable would: nothing queued is sent.
    pub(super) fn cut(&self) {
        self.cut.notify_one();
    }
}

impl QueueReader {
    /// Waits for the next of the queue. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Out> {
        let out = self.frames.recv().await?;
        if let Out::Frame(text) = &out {
            self.bytes.fetch_sub(text.len(), Ordering::Relaxed);
        }
        Some(out)
    }

    /// The next of the queue when it is there already.
    pub(super) fn next_now(&mut self) -> Option<Out> {
        let out = self.frames.try_recv().ok()?;
        if let Out::Frame(text) = &out {
            self.bytes.fetch_sub(text.len(), Ordering::Relaxed);
        }
        Some(out)
    }

    /// What [`Queue::cut`] is seen by.
    pub(super) fn cut_signal(&self) -> Arc<Notify> {
        Arc::clone(&self.cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_bounded_in_frames_and_bytes() {
        let (queue, mut reader) = queue();
        let small = || Out::Frame("x".into());
        for _ in 0..QUEUE_FRAMES_MAX {
            queue.push(small()).unwrap();
        }
        queue.push(small()).unwrap_err();
        assert!(matches!(reader.next_now(), Some(Out::Frame(_))));
        queue.push(small()).unwrap();

        let (queue, mut reader) = super::queue();
        let half = || Out::Frame("x".repeat(QUEUE_BYTES_MAX / 2).into());
        queue.push(half()).unwrap();
        queue.push(half()).unwrap();
        assert!(reader.next_now().is_some());
        queue.push(half()).unwrap();
        queue.push(small()).unwrap_err();
    }
}
