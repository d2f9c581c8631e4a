//! `connect`: an old client on the command line.

use std::io::BufRead as _;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use hyper::header::{HeaderName, HeaderValue, LINK, USER_AGENT};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{ConnectArgs, Failure, block_on, print};
use crate::clock::Now;
use crate::json::Object;
use crate::text::printable;
use crate::tls;

/// Plain or TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Lines typed ahead.
const LINES_MAX: usize = 64;

pub(super) fn run(args: &ConnectArgs) -> Result<(), Failure> {
    block_on(async {
        let (mut socket, response) = open(&args.url).await?;
        print(&format!("connected to {}\n", args.url))?;
        let deprecation = ["deprecation", "sunset"].map(HeaderName::from_static).into_iter().chain([LINK]);
        for name in deprecation {
            if let Some(value) = response.headers().get(&name) {
                print(&format!("  {name}: {}\n", printable(&String::from_utf8_lossy(value.as_bytes()))))?;
            }
        }
        if let Some(token) = &args.token {
            let frame = serde_json::json!({ "type": "auth", "token": format!("Bearer {token}") }).to_string();
            print("> {\"type\":\"auth\",\"token\":\"Bearer …\"}\n")?;
            socket.send(Message::text(frame)).await.map_err(Failure::runtime)?;
        }
        talk(socket).await
    })
}

async fn talk(mut socket: WebSocketStream<Box<dyn Stream>>) -> Result<(), Failure> {
    let mut lines = typed_lines();
    let mut typing = true;
    loop {
        tokio::select! {
            line = lines.recv(), if typing => match line {
                Some(line) => {
                    print(&format!("> {}\n", printable(&line)))?;
                    socket.send(Message::text(line)).await.map_err(Failure::runtime)?;
                }
                None => typing = false,
            },
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    print(&format!("< {}\n", printable(&text)))?;
                    if let Some(pong) = pong_for(&text) {
                        print(&format!("> {pong}\n"))?;
                        socket.send(Message::text(pong)).await.map_err(Failure::runtime)?;
                    }
                }
                Some(Ok(Message::Binary(bytes))) => print(&format!("< {} binary bytes\n", bytes.len()))?,
                Some(Ok(Message::Close(close))) => {
                    let why = close.map_or_else(
                        || "without a code".to_owned(),
                        |close| format!("{} {}", u16::from(close.code), printable(&close.reason)),
                    );
                    return print(&format!("closed by the server: {why}\n"));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Failure::runtime(error)),
                None => return print("the connection ended\n"),
            },
            _ = tokio::signal::ctrl_c() => {
                let _ = socket.close(None).await;
                return Ok(());
            }
        }
    }
}

/// A JSON ping is answered as old clients do.
fn pong_for(text: &str) -> Option<String> {
    let is_ping = Object::parse(text).ok()?.string("type")? == "ping";
    is_ping.then(|| format!("{{\"type\":\"pong\",\"timestamp\":\"{}\"}}", Now::read().rfc3339()))
}

/// Standard input, line by line, read on a thread that ends with it.
fn typed_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        let lines = std::io::stdin().lock().lines().map_while(Result::ok);
        for line in lines.filter(|line| !line.is_empty()) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn open(url: &str) -> Result<(WebSocketStream<Box<dyn Stream>>, Response), Failure> {
    let bad = |why: &str| Failure::runtime(format!("{url}: {why}"));
    let uri: Uri = url.parse().map_err(|_| bad("not a URL"))?;
    let secure = match uri.scheme_str() {
        Some("ws") => false,
        Some("wss") => true,
        _ => return Err(bad("a WebSocket URL starts with ws:// or wss://")),
    };
    let host = uri.host().ok_or_else(|| bad("there is no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(|error| bad(&error.to_string()))?;
    let stream: Box<dyn Stream> = if secure {
        let config: Arc<_> = tls::client_config(None).map_err(Failure::runtime)?;
        let name = rustls::pki_types::ServerName::try_from(host).map_err(|_| bad("not a host name"))?;
        Box::new(
            TlsConnector::from(config).connect(name, tcp).await.map_err(|error| bad(&error.to_string()))?,
        )
    } else {
        Box::new(tcp)
    };
    let mut request = uri.into_client_request().map_err(Failure::runtime)?;
    let agent = concat!("pusher-bridge-connect/", env!("CARGO_PKG_VERSION"));
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(agent));
    client_async(request, stream).await.map_err(|error| match error {
        tokio_tungstenite::tungstenite::Error::Http(response) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            bad(&format!("refused with HTTP {}: {}", response.status(), printable(&body)))
        }
        error => bad(&error.to_string()),
    })
}
