//! Header names as the RFCs spell them. HTTP does not care (RFC 9110 §5.1), but clients written by hand, in C, Java
//! or LabVIEW, compare `Sec-WebSocket-Accept` byte for byte; hyper writes names in lower case, or with each word's
//! first letter in upper case.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

/// Names whose spelling is more than a capital for each word (RFC 6455 §11.3, RFC 9110 §11.6.1).
const SPECIAL: &[&str] = &[
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Version",
    "WWW-Authenticate",
    "ETag",
];
/// Ends a head.
const END: &[u8] = b"\r\n\r\n";

/// Spells the header names of a whole head, status line included. Its length stays the same.
fn respell(head: &mut [u8]) {
    for line in head.split_mut(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, _) = line.split_at_mut(colon);
        if let Some(special) = SPECIAL.iter().find(|special| special.as_bytes().eq_ignore_ascii_case(name)) {
            name.copy_from_slice(special.as_bytes());
            continue;
        }
        let mut first = true;
        for byte in name {
            if first {
                byte.make_ascii_uppercase();
            }
            first = *byte == b'-';
        }
    }
}

/// A connection on which the head of the first answer leaves respelled. Everything else passes as it is.
pub(super) struct Respelled<T> {
    io: T,
    head: Head,
}

enum Head {
    /// Collected until it is whole: hyper's own buffer, and so its bound, stood before it.
    Collected(Vec<u8>),
    /// Being written: so many bytes of it have left.
    Leaving(Vec<u8>, usize),
    Left,
}

impl<T: Write + Unpin> Respelled<T> {
    pub(super) const fn new(io: T) -> Self {
        Self { io, head: Head::Collected(Vec::new()) }
    }

    /// The connection, with nothing left to write.
    ///
    /// # Errors
    /// The rest of the head could not be written.
    pub(super) async fn into_inner(mut self) -> io::Result<T> {
        std::future::poll_fn(|cx| self.poll_head(cx)).await?;
        Ok(self.io)
    }

    /// Writes what there is of a whole head.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Head::Leaving(head, left) = &mut self.head {
            let rest = head.get(*left..).unwrap_or(&[]);
            if rest.is_empty() {
                self.head = Head::Left;
                break;
            }
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => *left += written,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Write + Unpin> Write for Respelled<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Head::Collected(head) = &mut this.head {
            head.extend_from_slice(bytes);
            if let Some(at) = head.windows(END.len()).position(|four| four == END) {
                respell(head.get_mut(..at + END.len()).unwrap_or(&mut []));
                this.head = Head::Leaving(std::mem::take(head), 0);
            }
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(this.poll_head(cx))?;
        Pin::new(&mut this.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_head(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_head(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<T: Read + Unpin> Read for Respelled<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: v1.app\r\n\
        link: <a:b>; rel=\"x-y\"\r\nx-a-bc: sec-websocket-key: 1\r\ndate: Tue, 1 Jan\r\n\r\n";
    const SPELLED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: v1.app\r\n\
        Link: <a:b>; rel=\"x-y\"\r\nX-A-Bc: sec-websocket-key: 1\r\nDate: Tue, 1 Jan\r\n\r\n";
    const BODY: &str = "a-b: c\r\n\r\nd: e\r\n";

    /// Takes `at_once` bytes a call, with a refusal between.
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

    proptest! {
        #[test]
        fn names_are_spelled_however_the_head_is_cut(cut in 1_usize..400, at_once in 1_usize..400) {
            let answer = format!("{PLAIN}{BODY}");
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let taken = runtime.block_on(async {
                let slow = Slow { taken: Vec::new(), at_once, ready: false };
                let mut io = Respelled::new(slow);
                for mut part in answer.as_bytes().chunks(cut) {
                    while !part.is_empty() {
                        let written = std::future::poll_fn(|cx| Pin::new(&mut io).poll_write(cx, part));
                        part = &part[written.await.unwrap()..];
                    }
                }
                io.into_inner().await.unwrap().taken
            });
            prop_assert_eq!(String::from_utf8(taken).unwrap(), format!("{SPELLED}{BODY}"));
        }

        #[test]
        fn no_head_loses_a_byte(head in "[ -~\r\n:]{0,200}") {
            let mut spelled = head.clone().into_bytes();
            respell(&mut spelled);
            prop_assert!(spelled.eq_ignore_ascii_case(head.as_bytes()));
        }
    }
}
