//! A connection to Pusher: frames in, frames out. What is in them is its user's matter.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Error as WsError, Utf8Bytes};

use super::lost::{End, LostCause};
use super::thrifty::{Stream, Thrifty};
use crate::pusher::frame::{FrameError, ServerFrame};
use crate::text::loggable;

/// How long one write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The socket of a connection.
pub type Socket = WebSocketStream<Thrifty<Box<dyn Stream>>>;

pub struct Connection {
    socket: Socket,
    /// What was received last.
    text: Utf8Bytes,
}

/// What came over a connection, as it is.
#[derive(Debug)]
pub enum Message {
    /// See [`Connection::text`].
    Text,
    /// Pusher sends none.
    Binary,
    /// One of WebSocket's own.
    Control,
    Ended(Ended),
}

/// What came over a connection, understood.
#[derive(Debug)]
pub enum Received<'a> {
    Frame(ServerFrame<'a>),
    /// A text that is no frame.
    Unreadable(&'a str, FrameError),
    /// A binary message: Pusher sends none.
    Binary,
    /// A message of WebSocket's own.
    Control,
    Ended(Ended),
}

#[derive(Debug)]
pub enum Ended {
    /// Pusher closed it, with this code and reason.
    Closed(Option<u16>, String),
    Broken(WsError),
    /// It was over without a word.
    Over,
}

impl From<Ended> for End {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Closed(code, why) => Self::closed(code, why),
            Ended::Broken(error) => Self::new(LostCause::Broken, error),
            Ended::Over => Self::new(LostCause::Broken, "the connection ended"),
        }
    }
}

impl Connection {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, text: Utf8Bytes::default() }
    }

    /// Waits for what comes next. Nothing is lost when this is dropped.
    pub async fn next(&mut self) -> Received<'_> {
        let message = self.message().await;
        self.understand(message)
    }

    /// The same, as it is.
    pub async fn message(&mut self) -> Message {
        match self.socket.next().await {
            Some(Ok(tungstenite::Message::Text(text))) => {
                self.text = text;
                Message::Text
            }
            Some(Ok(tungstenite::Message::Close(close))) => {
                let code = close.as_ref().map(|close| close.code.into());
                let reason = close.map(|close| loggable(&close.reason)).unwrap_or_default();
                Message::Ended(Ended::Closed(code, reason))
            }
            Some(Ok(tungstenite::Message::Binary(_))) => Message::Binary,
            Some(Ok(_)) => Message::Control,
            Some(Err(error)) => Message::Ended(Ended::Broken(error)),
            None => Message::Ended(Ended::Over),
        }
    }

    /// The text of the next message, if it has come already.
    #[must_use]
    pub fn peek(&self) -> Option<&[u8]> {
        self.socket.get_ref().peek()
    }

    /// Passes over what [`Self::peek`] gives.
    pub fn skip(&mut self) {
        self.socket.get_mut().skip();
    }

    /// Whether it is certain that no more has come.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.socket.get_ref().is_drained()
    }

    /// Nobody is woken by what comes, until somebody waits for it again.
    pub fn rest(&mut self) {
        self.socket.get_mut().rest();
    }

    /// The text that came last.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the last message means.
    #[must_use]
    pub fn understand(&self, message: Message) -> Received<'_> {
        match message {
            Message::Text => match ServerFrame::decode(&self.text) {
                Ok(frame) => Received::Frame(frame),
                Err(error) => Received::Unreadable(&self.text, error),
            },
            Message::Binary => Received::Binary,
            Message::Control => Received::Control,
            Message::Ended(ended) => Received::Ended(ended),
        }
    }

    /// Forgets the text that came last: it may be a part of a larger buffer.
    pub fn forget_text(&mut self) {
        self.text = Utf8Bytes::default();
    }

    /// Puts a frame among those to be written.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub async fn feed(&mut self, frame: Utf8Bytes) -> Result<(), End> {
        within(self.socket.feed(tungstenite::Message::Text(frame))).await
    }

    /// Writes what is to be written.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub async fn flush(&mut self) -> Result<(), End> {
        within(SinkExt::flush(&mut self.socket)).await
    }

    /// Ends it properly.
    pub async fn close(mut self) {
        let _ = timeout(WRITE_TIMEOUT, self.socket.close(None)).await;
    }
}

async fn within(writing: impl Future<Output = Result<(), WsError>>) -> Result<(), End> {
    match timeout(WRITE_TIMEOUT, writing).await {
        Ok(written) => written.map_err(|error| End::new(LostCause::Broken, error)),
        Err(_) => Err(End::new(LostCause::WriteTimeout, "Pusher did not read in time")),
    }
}
