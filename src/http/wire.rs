//! The way out of a server's connection: heads leave with their names respelled, and what hyper would say by itself
//! does not leave at all.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use super::progress::Progress;
use super::spelling::respell;
use super::strict::BODY_READ_BYTES;

const END: &[u8] = b"\r\n\r\n";
/// Begins the head of an answer that announces another (RFC 9110 §15.2), unless it switches protocols.
const INTERIM: &[u8] = b"HTTP/1.1 1";
const SWITCHING: &[u8] = b"HTTP/1.1 101 ";

thread_local! {
    /// Where what is read is looked at.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BODY_READ_BYTES].into());
}

/// A connection under hyper. What is read passes as it is.
pub(super) struct Wire<T> {
    io: T,
    progress: Arc<Progress>,
    head: Head,
    withheld: Vec<u8>,
}

/// The head of the answer that is under way.
enum Head {
    /// Collected until it is whole; hyper's buffer limits it.
    Collected(Vec<u8>),
    /// Being written: so many bytes of it have left.
    Leaving(Vec<u8>, usize),
    Left,
}

impl<T: Write + Unpin> Wire<T> {
    pub(super) const fn new(io: T, progress: Arc<Progress>) -> Self {
        Self { io, progress, head: Head::Collected(Vec::new()), withheld: Vec::new() }
    }

    /// The connection, with nothing left to write, and what hyper said by itself.
    ///
    /// # Errors
    /// The rest of the head could not be written.
    pub(super) async fn into_inner(mut self) -> io::Result<(T, Vec<u8>)> {
        std::future::poll_fn(|cx| self.poll_head(cx)).await?;
        Ok((self.io, self.withheld))
    }

    /// Writes what there is of a whole head.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Head::Leaving(head, left) = &mut self.head {
            let rest = head.get(*left..).unwrap_or(&[]);
            if rest.is_empty() {
                self.head = if head.starts_with(INTERIM) && !head.starts_with(SWITCHING) {
                    Head::Collected(Vec::new())
                } else {
                    Head::Left
                };
                break;
            }
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => *left += written,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The same, of what announces an answer, too.
    fn poll_heads(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_head(cx))?;
            if !matches!(&self.head, Head::Collected(head) if head.is_empty()) {
                return Poll::Ready(Ok(()));
            }
            let mut interim = self.progress.take_interim();
            if interim.is_empty() {
                return Poll::Ready(Ok(()));
            }
            respell(&mut interim);
            self.head = Head::Leaving(interim, 0);
        }
    }
}

impl<T: Write + Unpin> Write for Wire<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.progress.is_waiting() {
            // Nobody was asked for an answer: it is hyper's own, to what it could not read.
            this.withheld.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        if this.poll_heads(cx)?.is_pending() {
            this.progress.write_waits(true);
            return Poll::Pending;
        }
        let Head::Collected(head) = &mut this.head else {
            let written = Pin::new(&mut this.io).poll_write(cx, bytes);
            this.progress.write_waits(written.is_pending());
            return written;
        };
        head.extend_from_slice(bytes);
        if let Some(at) = memchr::memmem::find(head, END) {
            respell(head.get_mut(..at + END.len()).unwrap_or(&mut []));
            this.head = Head::Leaving(std::mem::take(head), 0);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_heads(cx)?.is_pending() {
            self.progress.write_waits(true);
            return Poll::Pending;
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        if self.progress.flushed() {
            self.head = Head::Collected(Vec::new());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_head(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<T: Read + Unpin> Read for Wire<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.progress.is_strict() {
            ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
            this.progress.bytes_read();
            return Poll::Ready(Ok(()));
        }
        let room = this.progress.room();
        if room == 0 {
            return Poll::Ready(Err(io::Error::other("a request's head is too large")));
        }
        BUFFER.with_borrow_mut(|own| {
            let most = own.len().min(buffer.remaining()).min(room);
            let mut read = ReadBuf::new(own.get_mut(..most).unwrap_or(&mut []));
            ready!(Pin::new(&mut this.io).poll_read(cx, read.unfilled()))?;
            this.progress.bytes_read();
            this.progress.read(read.filled());
            buffer.put_slice(read.filled());
            Poll::Ready(Ok(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::Limits;
    use proptest::prelude::*;

    const PLAIN: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: v1.app\r\n\
        link: <a:b>; rel=\"x-y\"\r\nx-a-bc: sec-websocket-key: 1\r\ndate: Tue, 1 Jan\r\n\r\n";
    const SPELLED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: v1.app\r\n\
        Link: <a:b>; rel=\"x-y\"\r\nX-A-Bc: sec-websocket-key: 1\r\nDate: Tue, 1 Jan\r\n\r\n";
    const BODY: &str = "a-b: c\r\n\r\nd: e\r\n";
    const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

    /// Takes `at_once` bytes a call, with a pause between.
    struct Slow {
        taken: Vec<u8>,
        at_once: usize,
        ready: bool,
    }

    impl Write for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.ready = !self.ready;
            if !self.ready {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let taken = bytes.len().min(self.at_once);
            self.taken.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn write(wire: &mut Wire<Slow>, bytes: &str, cut: usize) {
        for mut part in bytes.as_bytes().chunks(cut) {
            while !part.is_empty() {
                let written = std::future::poll_fn(|cx| Pin::new(&mut *wire).poll_write(cx, part));
                part = &part[written.await.unwrap()..];
            }
        }
        std::future::poll_fn(|cx| Pin::new(&mut *wire).poll_flush(cx)).await.unwrap();
    }

    proptest! {
        #[test]
        fn each_answers_names_are_spelled_however_it_is_cut_and_nothing_between_them_leaves(
            cut in 1_usize..400,
            at_once in 1_usize..400,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (taken, withheld) = runtime.block_on(async {
                let progress = Progress::new(tokio::time::Instant::now(), &Limits::default());
                let slow = Slow { taken: Vec::new(), at_once, ready: false };
                let mut wire = Wire::new(slow, progress.clone());
                for _ in 0..3 {
                    progress.request_read();
                    write(&mut wire, CONTINUE, cut).await;
                    write(&mut wire, PLAIN, cut).await;
                    progress.answer_made();
                    write(&mut wire, BODY, cut).await;
                }
                write(&mut wire, "HTTP/1.1 400 Bad Request\r\n\r\n", cut).await;
                let (io, withheld) = wire.into_inner().await.unwrap();
                (io.taken, withheld)
            });
            let expected = format!("{CONTINUE}{SPELLED}{BODY}").repeat(3);
            prop_assert_eq!(String::from_utf8(taken).unwrap(), expected);
            prop_assert_eq!(&withheld[..13], b"HTTP/1.1 400 ");
        }
    }
}
