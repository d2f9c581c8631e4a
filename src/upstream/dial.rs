//! Dialling Pusher: TCP, TLS, the WebSocket handshake, and `pusher:connection_established`.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderValue, ORIGIN, USER_AGENT};
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::connection::{Connection, Ended, Received};
use super::lost::{End, LostCause};
use super::settings::{App, Settings};
use super::thrifty::{Stream, Thrifty};
use crate::net::pausable::Pausable;
use crate::net::reach;
use crate::pusher::frame::ServerFrame;
use crate::text::loggable;

/// What tungstenite reads at once, and the largest piece of a frame; it zero-fills as much before every read.
const BUFFER_BYTES: usize = 16 * 1024;
/// The same of a user's own connection, which is one of many.
const MEMBER_BUFFER_BYTES: usize = 2 * 1024;
/// Bytes waiting to be written; more than this many subscriptions are never under way.
const WRITE_BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The least idle time after which a server is pinged, whatever it asks for.
const ACTIVITY_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// A connection that Pusher has greeted.
pub struct Established {
    pub connection: Connection,
    /// Its id: signatures are made for it.
    pub socket_id: String,
    /// Idle time after which Pusher wants a ping.
    pub activity_timeout: Option<Duration>,
}

/// Connects once; `is_member`: there are many such, each a user's own.
///
/// # Errors
/// What went wrong, at which step.
pub async fn dial(
    upstream: &Settings,
    tls: Arc<rustls::ClientConfig>,
    is_member: bool,
) -> Result<Established, End> {
    let app = &upstream.app;
    let port = app.ws.port.unwrap_or(if app.ws.tls { 443 } else { 80 });
    let tcp = reach(&upstream.proxies, app.ws.tls, &app.ws.host, port).await;
    let tcp = tcp.map_err(|error| End::new(LostCause::Connect, error))?;
    let tcp = Pausable::new(tcp);
    let stream: Box<dyn Stream> = if app.ws.tls {
        let name =
            ServerName::try_from(app.ws.host.clone()).map_err(|error| End::new(LostCause::Tls, error))?;
        let stream = TlsConnector::from(tls).connect(name, tcp).await;
        Box::new(stream.map_err(|error| End::new(LostCause::Tls, error))?)
    } else {
        Box::new(tcp)
    };
    let buffer_bytes = if is_member { MEMBER_BUFFER_BYTES } else { BUFFER_BYTES };
    let stream = Thrifty::new(stream, buffer_bytes, upstream.frame_bytes_max);
    let request = request(app).map_err(|error| End::new(LostCause::Handshake, error))?;
    let config = WebSocketConfig::default()
        .read_buffer_size(buffer_bytes)
        .write_buffer_size(BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(upstream.frame_bytes_max))
        .max_frame_size(Some(upstream.frame_bytes_max));
    let (socket, _) = client_async_with_config(request, stream, Some(config))
        .await
        .map_err(|error| handshake_failed(&error))?;
    let mut connection = Connection::new(socket);
    let (socket_id, activity_timeout) = greeting(&mut connection).await?;
    Ok(Established { connection, socket_id, activity_timeout })
}

fn request(app: &App) -> Result<Request, WsError> {
    let base = app.ws.base("ws", "wss");
    let version = env!("CARGO_PKG_VERSION");
    let url = format!("{base}/app/{}?protocol=7&client=pusher-bridge&version={version}", app.key);
    let mut request = url.into_client_request()?;
    // Web application firewalls turn requests without one away.
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(crate::http::USER_AGENT));
    if let Some(origin) = &app.origin {
        let origin = HeaderValue::from_str(origin).map_err(|error| WsError::HttpFormat(error.into()))?;
        request.headers_mut().insert(ORIGIN, origin);
    }
    Ok(request)
}

fn handshake_failed(error: &WsError) -> End {
    match error {
        WsError::Http(response) => End::new(LostCause::Rejected, format!("HTTP {}", response.status())),
        error => End::new(LostCause::Handshake, error),
    }
}

/// Waits for `pusher:connection_established`, or for the error or close that come instead.
async fn greeting(connection: &mut Connection) -> Result<(String, Option<Duration>), End> {
    let rejected = |code, why| End { cause: LostCause::Rejected, code, why };
    loop {
        match connection.next().await {
            Received::Frame(ServerFrame::ConnectionEstablished { socket_id, activity_timeout }) => {
                let timeout = activity_timeout.filter(|t| !t.is_zero()).map(|t| t.max(ACTIVITY_TIMEOUT_MIN));
                return Ok((socket_id, timeout));
            }
            Received::Frame(ServerFrame::Error { code, message }) => {
                return Err(rejected(code, loggable(&message)));
            }
            Received::Frame(_) | Received::Binary | Received::Control => {}
            Received::Unreadable(_, error) => {
                return Err(End::new(LostCause::Handshake, loggable(&error.to_string())));
            }
            Received::Ended(Ended::Closed(code, reason)) => return Err(rejected(code, reason)),
            Received::Ended(Ended::Broken(error)) => return Err(End::new(LostCause::Handshake, error)),
            Received::Ended(Ended::Over) => {
                let why = "the connection ended before a greeting: is the key right?".to_owned();
                return Err(rejected(None, why));
            }
        }
    }
}
