//! Old clients whose proxy carries them over HTTP/2, each in a stream of its own (RFC 8441).

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pusher_bridge::app::Shutdown;
use pusher_bridge::net::destination::Destination;
use pusher_bridge::proxy::settings::Settings;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::reload::route;
use crate::support::bridge::{SHIPPED, token};
use crate::support::tls::{Authority, serve, try_connect};
use crate::support::{Bridge, Raw, patiently};

const CONNECTIONS: &str = "pusher_bridge_http2_connections";
const LIVE: &str = r#"pusher_bridge_connections{route="a",phase="live"}"#;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn start(streams: u32) -> Bridge {
    let change = |config: &mut pusher_bridge::config::Config| {
        config.server.http2_streams_max = streams;
        config.server.health_path = Some("/healthz".to_owned());
    };
    Bridge::with(&(SHIPPED.to_owned() + &route("a", "")), change).await
}

fn closed(bridge: &Bridge, result: &str) -> f64 {
    bridge.metric(&format!(r#"pusher_bridge_http2_connections_closed_total{{result="{result}"}}"#))
}

/// A proxy's connection, which speaks HTTP/2 from its first byte.
pub struct Proxy(SendRequest<Full<Bytes>>);

impl Proxy {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    async fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Self {
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut proxy = Self(sender);
        patiently("HTTP/2", proxy.0.ready()).await.unwrap();
        proxy
    }

    async fn ask(&mut self, request: Request<Full<Bytes>>) -> (StatusCode, HeaderMap, Bytes) {
        let answer = patiently("an answer", self.0.send_request(request)).await.unwrap();
        let (head, body) = answer.into_parts();
        (head.status, head.headers, patiently("the body", body.collect()).await.unwrap().to_bytes())
    }

    async fn get(&mut self, path: &str) -> (StatusCode, HeaderMap, Bytes) {
        self.ask(Request::get(format!("http://a{path}")).body(Full::default()).unwrap()).await
    }

    async fn open(&mut self, path: &str) -> Response<hyper::body::Incoming> {
        let request = Request::connect(format!("http://a{path}"))
            .extension(Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13")
            .header("x-forwarded-for", "192.0.2.7")
            .body(Full::default())
            .unwrap();
        patiently("an answer", self.0.send_request(request)).await.unwrap()
    }

    /// An old client in a stream.
    pub async fn client(&mut self, path: &str) -> Client {
        let answer = self.open(path).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(!answer.headers().contains_key("sec-websocket-accept"));
        let deprecation = answer.headers().get("deprecation").cloned();
        let upgraded = patiently("the stream", hyper::upgrade::on(answer)).await.unwrap();
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
        Client { socket, is_deprecated: deprecation.is_some() }
    }

    async fn login(&mut self, path: &str, user: &str) -> Client {
        let mut client = self.client(path).await;
        client.say(&json!({ "type": "auth", "token": token(user) })).await;
        assert_eq!(client.json().await["type"], "auth_response");
        client
    }
}

pub struct Client {
    pub socket: WebSocketStream<TokioIo<Upgraded>>,
    pub is_deprecated: bool,
}

impl Client {
    async fn say(&mut self, message: &Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn next(&mut self) -> Message {
        patiently("a message", self.socket.next()).await.expect("the stream ended").unwrap()
    }

    async fn json(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.next().await
                && !text.starts_with(r#"{"type":"ping""#)
            {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_one_connection_are_served_each_for_itself() {
    let bridge = start(100).await;
    let mut proxy = Proxy::connect(bridge.address()).await;
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(proxy.client(&format!("/a/{}", n % 2)).await);
    }
    assert_eq!(bridge.metric(CONNECTIONS), 1.0);
    bridge.becomes(LIVE, 20.0).await;
    for n in 0..50 {
        for channel in ["private-a-0", "private-a-1"] {
            bridge.sandbox.trigger(channel, "e", &json!({ "n": n, "of": channel }).to_string());
        }
    }
    for (at, client) in clients.iter_mut().enumerate() {
        for n in 0..50 {
            let event = client.json().await;
            assert_eq!(event["data"]["n"], n, "{event}");
            assert!(event["data"]["of"].as_str().unwrap().ends_with(&(at % 2).to_string()));
        }
    }
    // One goes, and the others do not notice.
    let mut gone = clients.pop().unwrap();
    // The bridge may have answered before this is flushed.
    let _ = gone.socket.close(None).await;
    bridge.becomes(LIVE, 19.0).await;
    bridge.sandbox.trigger("private-a-0", "e", r#"{"n":50}"#);
    assert_eq!(clients[0].json().await["data"]["n"], 50);
    drop((clients, gone, proxy));
    bridge.becomes(LIVE, 0.0).await;
    bridge.becomes(CONNECTIONS, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_they_say_goes_up_and_large_messages_come_whole() {
    let bridge = start(10).await;
    let mut proxy = Proxy::connect(bridge.address()).await;
    let (mut one, mut other) = (proxy.client("/ws/native").await, proxy.client("/ws/native").await);
    let echo: Vec<u8> = (0..3_000_000u32).map(|n| (n >> 3) as u8).collect();
    for client in [&mut one, &mut other] {
        client.socket.send(Message::binary(echo.clone())).await.unwrap();
    }
    for client in [&mut one, &mut other] {
        loop {
            if let Message::Binary(back) = client.next().await {
                assert!(back == echo, "3 MB came back otherwise");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_requests_are_answered_as_over_http1_and_refusals_say_why() {
    let bridge = start(10).await;
    let mut proxy = Proxy::connect(bridge.address()).await;
    let (status, _, body) = proxy.get("/healthz").await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"ready\n"[..]));
    for (path, status) in [("/nowhere", 404), ("/ws/content/gen_1", 426), ("/ws/content/a%20b", 400)] {
        let (got, headers, body) = proxy.get(path).await;
        assert_eq!(got, status, "{path}");
        assert_eq!(headers["content-type"], "application/problem+json");
        assert!(!headers.contains_key("connection") && !headers.contains_key("upgrade"), "{headers:?}");
        let problem: Value = serde_json::from_slice(&body).unwrap();
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
    let answer = proxy.open("/nowhere").await;
    assert_eq!(answer.status(), 404);
    // And what was refused does not stand in another's way.
    let mut client = proxy.login("/ws/content/gen_1", "1").await;
    assert!(client.is_deprecated);
    bridge.sandbox.trigger("content-generation-gen_1", "e", "1");
    assert_eq!(client.json().await["data"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_closed_and_the_others_of_the_connection_go_on() {
    let bridge = start(10).await;
    let mut proxy = Proxy::connect(bridge.address()).await;
    let _deaf = proxy.client("/a/1").await;
    let mut client = proxy.client("/a/1").await;
    bridge.becomes(LIVE, 2.0).await;
    let data = json!("x".repeat(9000)).to_string();
    for _ in 0..1000 {
        bridge.sandbox.trigger("private-a-1", "e", &data);
        assert_eq!(client.json().await["data"].as_str().unwrap().len(), 9000);
    }
    bridge.until_closed("a", "slow_reader", 1).await;
    bridge.sandbox.trigger("private-a-1", "e", "1");
    assert_eq!(client.json().await["data"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_tells_each_client_and_ends_the_connection() {
    let bridge = start(10).await;
    let mut proxy = Proxy::connect(bridge.address()).await;
    let mut clients = Vec::new();
    for n in 0..5 {
        clients.push(proxy.client(&format!("/a/{n}")).await);
    }
    let shutdown = tokio::spawn(bridge.shutdown());
    let ends = clients.iter_mut().map(async |client| {
        loop {
            if let Message::Close(close) = client.next().await {
                assert_eq!(u16::from(close.unwrap().code), 1001);
                break;
            }
        }
        // The client's end of it.
        while let Some(Ok(_)) = patiently("the end", client.socket.next()).await {}
    });
    futures_util::future::join_all(ends).await;
    assert_eq!(patiently("the shutdown", shutdown).await.unwrap(), Shutdown::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_spoken_only_where_the_file_says_so() {
    let bridge = Bridge::start().await;
    let mut raw = Raw::connect(bridge.address()).await;
    raw.send(PREFACE).await;
    raw.ended().await;
    let unreadable = r#"pusher_bridge_unreadable_requests_total{cause="malformed"}"#;
    assert_eq!((bridge.metric(unreadable), bridge.metric(CONNECTIONS)), (1.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_beginning_may_come_in_pieces() {
    let bridge = start(10).await;
    let mut stream = TcpStream::connect(bridge.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    // And an empty SETTINGS frame (RFC 9113 §6.5).
    for byte in [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    // Its own SETTINGS, and that it has ours.
    let mut head = [0; 9];
    patiently("a frame", stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(head[3], 4, "{head:?}");
    bridge.becomes(CONNECTIONS, 1.0).await;
    drop(stream);
    bridge.becomes(CONNECTIONS, 0.0).await;
}

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET http://x/` with nothing else (RFC 7541 §6.1 and §6.2.1).
const GET: [u8; 6] = [0x82, 0x86, 0x84, 0x41, 0x01, b'x'];
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_HEADERS_AND_STREAM: u8 = 5;

/// Sends frames until the bridge has had enough; so many bytes that took.
async fn abuse(address: SocketAddr, mut frames: impl FnMut(u32) -> Vec<u8>) -> usize {
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let reading = async {
        let mut buffer = vec![0; 4096];
        while reader.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    };
    let writing = async {
        let mut sent = 0;
        if writer.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.is_err() {
            return 0;
        }
        for n in 0.. {
            let bytes = frames(2 * n + 1);
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
            sent += bytes.len();
            assert!(sent < 64 << 20, "it takes whatever comes");
        }
        sent
    };
    patiently("the bridge to have enough", async { tokio::join!(reading, writing).1 }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_costs_ends_the_connection_and_nobody_else() {
    let bridge = start(100).await;
    let mut proxy = Proxy::connect(bridge.address()).await;
    let mut client = proxy.login("/ws/content/gen_1", "1").await;
    let field = [&[0x00, 0x04][..], b"name", &[0x64], &[b'v'; 100]].concat();
    let fields = field.repeat(140);
    let address = bridge.address();
    // Streams that are opened and reset at once (CVE-2023-44487).
    abuse(address, |id| {
        [frame(HEADERS, END_HEADERS_AND_STREAM, id, &GET), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat()
    })
    .await;
    // Streams beyond what there may be at once, by a client that keeps nothing to the limit it was told.
    abuse(address, |id| frame(HEADERS, 4, id, &GET)).await;
    // Heads without an end (CVE-2024-27316), with and without anything in them.
    for payload in [&fields[..], &[]] {
        abuse(address, |id| match id {
            1 => frame(HEADERS, 1, 1, &GET),
            _ => frame(CONTINUATION, 0, 1, payload),
        })
        .await;
    }
    // Heads that are small on the wire and large in memory.
    let bomb = [&GET[..], &[0x40, 0x04], b"bomb", &[0x7f, 0xa1, 0x1e], &[b'z'; 4000]].concat();
    let again = [&GET[..], &[0xbe; 12_000]].concat();
    abuse(address, |id| frame(HEADERS, END_HEADERS_AND_STREAM, id, if id == 1 { &bomb } else { &again }))
        .await;
    // Parts of a body with nothing in them (RUSTSEC-2026-0258).
    abuse(address, |id| match id {
        1 => frame(HEADERS, 4, 1, &GET),
        _ => frame(DATA, 0, 1, &[]),
    })
    .await;
    bridge.sandbox.trigger("content-generation-gen_1", "e", "1");
    assert_eq!(client.json().await["data"], 1);
    bridge.becomes(CONNECTIONS, 1.0).await;
    assert_eq!(closed(&bridge, "broken"), 6.0);
    bridge.becomes(r#"pusher_bridge_connections{route="none",phase="handshake"}"#, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_nothing_is_cut_and_streams_count_as_connections() {
    let change = |config: &mut pusher_bridge::config::Config| {
        config.server.http2_streams_max = 100;
        config.server.connections_max = 3;
        config.server.header_timeout = std::time::Duration::from_millis(300);
    };
    let bridge = Bridge::with(SHIPPED, change).await;
    let mut proxy = Proxy::connect(bridge.address()).await;
    let _two = [proxy.client("/ws/native").await, proxy.client("/ws/native").await];
    assert_eq!(proxy.open("/ws/native").await.status(), 503);
    let silent = Proxy::connect(bridge.address()).await;
    bridge.becomes(r#"pusher_bridge_http2_connections_closed_total{result="timed_out"}"#, 1.0).await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_it_is_what_the_client_asked_for() {
    let authority = Authority::new();
    let change = |config: &mut pusher_bridge::config::Config| {
        config.server.http2_streams_max = 10;
        serve(config, &authority.sign("a.example"), None);
    };
    let bridge = Bridge::with(&(SHIPPED.to_owned() + &route("a", "")), change).await;
    let mut client = rustls::ClientConfig::clone(&authority.plain_client());
    client.alpn_protocols = vec![b"h2".to_vec()];
    let stream = try_connect(bridge.address(), &std::sync::Arc::new(client)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut proxy = Proxy::over(stream).await;
    let mut clients = [proxy.client("/a/1").await, proxy.client("/a/1").await];
    bridge.becomes(LIVE, 2.0).await;
    bridge.sandbox.trigger("private-a-1", "e", "1");
    for client in &mut clients {
        assert_eq!(client.json().await["data"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_route_takes_is_passed_on_in_http1_and_a_websocket_there_is_a_tunnel() {
    let upstream = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let to = Destination::parse(&format!("http://{}", upstream.local_addr().unwrap())).unwrap();
    let change = |config: &mut pusher_bridge::config::Config| {
        config.server.http2_streams_max = 10;
        config.fallback = Some(Settings { to: Some(to.into()), ..Settings::of_nothing() });
        config.server.workers = 1;
    };
    let bridge = Bridge::with(SHIPPED, change).await;
    let mut proxy = Proxy::connect(bridge.address()).await;
    let body = Full::from("x".repeat(100_000));
    let request =
        Request::post("http://api.example/page?x=1").header("cookie", "a=1").header("cookie", "b=2");
    let asking = proxy.ask(request.body(body).unwrap());
    let behind = async {
        let (stream, _) = patiently("a connection", upstream.accept()).await.unwrap();
        let mut raw = Raw::of(stream);
        let head = raw.head().await;
        assert!(head.starts_with("POST /page?x=1 HTTP/1.1\r\n"), "{head}");
        for line in
            ["\r\nHost: api.example\r\n", "\r\nCookie: a=1; b=2\r\n", "\r\nContent-Length: 100000\r\n"]
        {
            assert!(head.contains(line), "{head}");
        }
        // Read as an answer is.
        assert_eq!(
            raw.after(head.replacen("POST /page?x=1 HTTP/1.1", "HTTP/1.1 0", 1)).await.body.len(),
            100_000
        );
        raw.send("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok").await;
        raw
    };
    let ((status, headers, body), mut raw) = tokio::join!(asking, behind);
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"ok"[..]));
    assert!(!headers.contains_key("connection"));
    // A WebSocket that is the old API's own.
    let opening = proxy.client("/live");
    let behind = async {
        let head = raw.head().await.to_lowercase();
        assert!(
            head.starts_with("get /live http/1.1\r\n") && head.contains("\r\nupgrade: websocket\r\n"),
            "{head}"
        );
        assert!(head.contains("\r\nsec-websocket-key: ") && head.contains("\r\nhost: a\r\n"), "{head}");
        raw.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            .await;
        // "hi", unmasked.
        raw.send([0x81, 2, b'h', b'i']).await;
    };
    let (mut client, ()) = tokio::join!(opening, behind);
    assert_eq!(client.next().await, Message::text("hi"));
    client.socket.send(Message::text("ho")).await.unwrap();
    // Masked, as a client's are.
    let frame = raw.exactly(8).await;
    let payload: Vec<u8> = frame[6..].iter().zip(&frame[2..]).map(|(byte, mask)| byte ^ mask).collect();
    assert_eq!((&frame[..2], &payload[..]), (&[0x81, 0x82][..], &b"ho"[..]));
    // A CONNECT that is none.
    let connect = Request::connect("http://elsewhere:80").body(Full::default()).unwrap();
    assert_eq!(proxy.ask(connect).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_asked_for_something_does_not_lose_its_place_and_who_has_not_does() {
    let change = |config: &mut pusher_bridge::config::Config| {
        config.server.http2_streams_max = 100;
        config.server.connections_max = 18;
        config.server.trusted_proxies.clear();
    };
    let bridge = Bridge::with(&(SHIPPED.to_owned() + &route("a", "")), change).await;
    let mut proxy = Proxy::connect(bridge.address()).await;
    let mut client = proxy.client("/a/1").await;
    bridge.becomes(LIVE, 1.0).await;
    // Each counts as one, and so does the WebSocket.
    let mut silent = Vec::new();
    for n in 1..=16 {
        let mut stream = TcpStream::connect(bridge.address()).await.unwrap();
        stream.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.unwrap();
        silent.push(stream);
        bridge.becomes(CONNECTIONS, f64::from(n) + 1.0).await;
    }
    let mut newcomer = Raw::connect_from([127, 0, 0, 2], bridge.address()).await;
    newcomer.upgrade("/ws/native").await;
    bridge.becomes(r#"pusher_bridge_http2_connections_closed_total{result="displaced"}"#, 1.0).await;
    bridge.sandbox.trigger("private-a-1", "e", "1");
    assert_eq!(client.json().await["data"], 1);
}
