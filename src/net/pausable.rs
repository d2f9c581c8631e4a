//! A TCP connection that need not be watched all the time. While it rests it is not known to the runtime, so that
//! nobody is woken by what comes; whoever reads then takes what is there.

use std::io::{self, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The connection.
#[derive(Debug)]
pub struct Pausable {
    state: State,
    /// The last read had room for more than there was.
    is_drained: bool,
}

#[derive(Debug)]
enum State {
    Watched(TcpStream),
    Resting(std::net::TcpStream),
    /// It could be neither.
    Broken,
}

impl Pausable {
    #[must_use]
    pub const fn new(stream: TcpStream) -> Self {
        Self { state: State::Watched(stream), is_drained: false }
    }

    /// Does not watch it until somebody waits for it again.
    pub fn rest(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Broken) {
            State::Watched(stream) => stream.into_std().map_or(State::Broken, State::Resting),
            state => state,
        };
    }

    /// Whether there was nothing more when it was read last.
    #[must_use]
    pub const fn is_drained(&self) -> bool {
        self.is_drained
    }

    fn watched(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.state = match std::mem::replace(&mut self.state, State::Broken) {
            State::Resting(stream) => State::Watched(TcpStream::from_std(stream)?),
            state => state,
        };
        match &mut self.state {
            State::Watched(stream) => Ok(Pin::new(stream)),
            State::Resting(_) | State::Broken => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn read_into(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let State::Resting(stream) = &mut self.state {
            match stream.read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                // Then by way of the runtime, which knows when to try again.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.watched()?.poll_read(cx, buf)
    }
}

impl AsyncRead for Pausable {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = this.read_into(cx, buf);
        this.is_drained = buf.remaining() > 0;
        read
    }
}

impl AsyncWrite for Pausable {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().watched()?.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().state {
            State::Watched(stream) => Pin::new(stream).poll_flush(cx),
            // Nothing is kept to be written.
            State::Resting(_) | State::Broken => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().watched()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn pair() -> (Pausable, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (here, there) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Pausable::new(here.unwrap()), there.unwrap().0)
    }

    async fn read(stream: &mut Pausable) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        let read = stream.read(&mut bytes).await.unwrap();
        bytes.truncate(read);
        bytes
    }

    #[tokio::test]
    async fn it_reads_what_came_while_it_rested_and_waits_for_more() {
        let (mut here, mut there) = pair().await;
        for round in 0..3 {
            here.rest();
            there.write_all(b"abc").await.unwrap();
            assert_eq!(read(&mut here).await, b"abc", "round {round}");
            assert!(here.is_drained());
            let (read, written) = tokio::join!(read(&mut here), there.write_all(b"d"));
            written.unwrap();
            assert_eq!(read, b"d");
            assert!(matches!(here.state, State::Watched(_)));
        }
        there.write_all(&[1; 16]).await.unwrap();
        assert_eq!(read(&mut here).await, [1; 16]);
        assert!(!here.is_drained(), "there may be more");
    }

    #[tokio::test]
    async fn it_writes_and_hears_of_the_end_after_a_rest() {
        let (mut here, mut there) = pair().await;
        here.rest();
        here.write_all(b"abc").await.unwrap();
        here.flush().await.unwrap();
        let mut bytes = [0; 3];
        there.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"abc");
        here.rest();
        here.flush().await.unwrap();
        drop(there);
        assert!(read(&mut here).await.is_empty());
    }
}
