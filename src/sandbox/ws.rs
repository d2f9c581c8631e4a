//! One WebSocket: reads frames into its session, writes its queue, watches its silence.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::hub::{Hub, Session};
use super::queue::{Out, QueueReader};
use super::rules::WsError;
use crate::net::socket::Socket;
use crate::pusher::frame::{self, ClientFrame};

/// Largest message from a client: a client event's 10 kB of data, every byte escaped, with room to spare.
pub const MESSAGE_BYTES_MAX: usize = 100 * 1024;
/// Most client events of one connection in a second (Pusher docs, "Events").
pub const CLIENT_EVENTS_PER_SECOND_MAX: u32 = 10;
/// How long the closing handshake and a last frame may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const READ_BUFFER_BYTES: usize = 16 * 1024;
/// Frames written between two flushes at most.
const FRAMES_PER_FLUSH_MAX: usize = 64;
/// More than one flush of the largest frames. A peer that does not read is noticed by its queue.
const WRITE_BUFFER_BYTES_MAX: usize = 16 * 1024 * 1024;

type WebSocket = WebSocketStream<Socket>;

/// Serves one WebSocket to its end; `early` came behind its request, and `checked` is what its URL gave.
pub(super) async fn run(stream: Socket, early: Bytes, hub: Arc<Hub>, checked: Result<(), WsError>) {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(READ_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let mut socket =
        WebSocketStream::from_partially_read(stream, early.into(), Role::Server, Some(config)).await;
    match checked {
        Ok(()) => serve(socket, hub).await,
        Err(error) => {
            let text = frame::error(error.code, &error.message);
            let last = async {
                socket.send(Message::text(text)).await?;
                socket.send(close_message(error.code.unwrap_or(4000), error.message)).await
            };
            if let Ok(Ok(())) = timeout(CLOSE_TIMEOUT, last).await {
                drain(&mut socket).await;
            }
        }
    }
}

async fn serve(socket: WebSocket, hub: Arc<Hub>) {
    let mut silent = hub.silent.subscribe();
    let limits = Limits { activity: hub.options.activity_timeout, pong: hub.options.pong_timeout };
    let (session, mut queue) = Session::begin(hub);
    let cut = queue.cut_signal();
    let (mut sink, mut stream) = socket.split();
    let wrote_close = tokio::select! {
        biased;
        () = cut.notified() => false,
        wrote_close = write(&mut sink, &mut queue, silent.clone()) => wrote_close,
        () = read(&mut stream, &session, limits, &mut silent) => false,
    };
    drop(session);
    if wrote_close && let Ok(mut socket) = sink.reunite(stream) {
        drain(&mut socket).await;
    }
}

/// Waits for the peer's half of the closing handshake.
async fn drain(socket: &mut WebSocket) {
    let peer_closed = async { while let Some(Ok(_)) = socket.next().await {} };
    let _ = timeout(CLOSE_TIMEOUT, peer_closed).await;
}

/// Writes the queue to its end; whether that was a close frame.
async fn write(
    sink: &mut SplitSink<WebSocket, Message>,
    queue: &mut QueueReader,
    mut silent: watch::Receiver<bool>,
) -> bool {
    while let Some(first) = queue.next().await {
        wait_out_silence(&mut silent).await;
        let mut next = Some(first);
        let mut fed = 0;
        while let Some(out) = next {
            let written = match out {
                Out::Frame(text) => sink.feed(Message::Text(text)).await,
                Out::Close(code, reason) => return sink.send(close_message(code, reason)).await.is_ok(),
            };
            if written.is_err() {
                return false;
            }
            fed += 1;
            next = if fed < FRAMES_PER_FLUSH_MAX { queue.next_now() } else { None };
        }
        if sink.flush().await.is_err() {
            return false;
        }
    }
    false
}

#[derive(Clone, Copy)]
struct Limits {
    activity: Duration,
    pong: Duration,
}

/// Reads until the peer ends; an end from this side is queued, and the writer carries it out.
async fn read(
    stream: &mut SplitStream<WebSocket>,
    session: &Session,
    limits: Limits,
    silent: &mut watch::Receiver<bool>,
) {
    let mut rate = ClientEventRate { since: Instant::now(), count: 0 };
    let mut pinged = false;
    loop {
        let patience = if pinged { limits.pong } else { limits.activity };
        let next = timeout(patience, stream.next()).await;
        wait_out_silence(silent).await;
        match next {
            Err(_) if pinged => return end(session, 4201, "Pong reply not received").await,
            Err(_) => {
                session.send(frame::PING);
                pinged = true;
                continue;
            }
            Ok(Some(Ok(Message::Text(text)))) => handle(&text, session, &mut rate),
            Ok(Some(Ok(Message::Binary(_)))) => {
                session.error(&WsError::plain("Only text frames are understood"))
            }
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(tungstenite::Error::Capacity(error)))) => {
                return end(session, 1009, &error.to_string()).await;
            }
            Ok(Some(Err(_)) | None) => return,
        }
        pinged = false;
    }
}

async fn end(session: &Session, code: u16, reason: &str) {
    session.close(code, reason);
    std::future::pending().await
}

fn handle(text: &str, session: &Session, rate: &mut ClientEventRate) {
    match ClientFrame::decode(text) {
        Ok(ClientFrame::Subscribe { channel, auth, channel_data }) => {
            session.subscribe(&channel, auth.as_deref(), channel_data.as_deref());
        }
        Ok(ClientFrame::Unsubscribe { channel }) => session.unsubscribe(&channel),
        Ok(ClientFrame::Ping) => session.ping(),
        Ok(ClientFrame::Pong) => {}
        Ok(ClientFrame::ClientEvent { event, channel, data }) => {
            if rate.allows(Instant::now()) && !session.is_limited() {
                session.client_event(&event, &channel, data);
            } else {
                let message =
                    format!("Client event rejected - more than {CLIENT_EVENTS_PER_SECOND_MAX} in a second");
                session.error(&WsError { code: Some(4301), message });
            }
        }
        Ok(ClientFrame::Signin { auth, user_data }) => session.sign_in(&auth, &user_data),
        Ok(ClientFrame::Other { .. }) => {
            session.error(&WsError::plain("Client event rejected - its name must start with client-"));
        }
        Err(error) => session.error(&WsError::plain(error.to_string())),
    }
}

/// Windows of a second, each from its first event on.
struct ClientEventRate {
    since: Instant,
    count: u32,
}

impl ClientEventRate {
    fn allows(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= CLIENT_EVENTS_PER_SECOND_MAX
    }
}

async fn wait_out_silence(silent: &mut watch::Receiver<bool>) {
    let _ = silent.wait_for(|silent| !silent).await;
}

/// A close reason has at most 123 bytes (RFC 6455 §5.5).
fn close_message(code: u16, mut reason: String) -> Message {
    const REASON_BYTES_MAX: usize = 123;
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() }))
}
