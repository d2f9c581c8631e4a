//! Servers that are not the hosted service: without batches, behind prefixes and proxies, with greetings, limits and
//! certificates of their own.

use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use pusher_bridge::pusher::{frame, sign};
use secrecy::SecretString;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{
    ErrorResponse, Request as Upgrade, Response as Upgraded,
};

use crate::support::bridge::{self, SHIPPED};
use crate::support::proxy::TlsProxy;
use crate::support::pusher::Pusher as _;
use crate::support::{Bridge, OldClient, patiently};
use pusher_bridge::app::Running;
use pusher_bridge::sandbox::{Options, Sandbox};

const CHANNEL: &str = "private-plugin-p1";

/// A request to the API: its path, and its body.
type Call = (String, Value);

/// Another's server: its WebSocket on one port, its API on another.
struct Server {
    ws_port: u16,
    api_port: u16,
    upgrades: mpsc::UnboundedReceiver<(String, Option<String>)>,
    calls: mpsc::UnboundedReceiver<Call>,
    /// Frames to whoever is connected.
    frames: mpsc::UnboundedSender<String>,
    /// How `batch_events` is answered: 404, 405, or 0 for as it should be.
    batches: Arc<Mutex<u16>>,
}

impl Server {
    /// Greets with this data; its API verifies signatures of paths less `unsigned`.
    async fn start(greeting: &'static str, unsigned: &'static str) -> Self {
        let (ws, ws_port) = listener().await;
        let (api, api_port) = listener().await;
        let (upgraded, upgrades) = mpsc::unbounded_channel();
        let (called, calls) = mpsc::unbounded_channel();
        let (frames, mut to_send) = mpsc::unbounded_channel::<String>();
        let batches = Arc::new(Mutex::new(0));
        tokio::spawn(async move {
            loop {
                let (stream, _) = ws.accept().await.unwrap();
                socket(stream, greeting, &upgraded, &mut to_send).await;
            }
        });
        let status = batches.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = api.accept().await.unwrap();
                let (called, status) = (called.clone(), status.clone());
                let service = service_fn(move |request| {
                    answer(request, unsigned, called.clone(), *status.lock().unwrap())
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { ws_port, api_port, upgrades, calls, frames, batches }
    }

    /// A bridge for it, with more in `[upstream]`.
    async fn bridge(&self, upstream: &str) -> Running {
        let more = format!(
            "app_id = \"app\"\nkey = \"key\"\nsecret = \"secret\"\ntls = false\nws_host = \"127.0.0.1\"\n\
             api_host = \"localhost\"\nws_port = {}\napi_port = {}\n{upstream}",
            self.ws_port, self.api_port
        );
        let environment = [("JWT_SECRET".to_owned(), bridge::JWT_SECRET.to_owned())].into();
        let running =
            pusher_bridge::app::start(bridge::config(&with_upstream(&more), &environment)).await.unwrap();
        patiently("the bridge to be ready", running.status.wait_ready()).await;
        running
    }

    async fn call(&mut self) -> Call {
        patiently("a call of the API", self.calls.recv()).await.unwrap()
    }
}

/// The shipped routes with another `[upstream]`.
fn with_upstream(upstream: &str) -> String {
    let (before, rest) = SHIPPED.split_once("[upstream]\n").unwrap();
    let (_, behind) = rest.split_once("\n[").unwrap();
    format!("{before}[upstream]\n{upstream}\n[{behind}")
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// One WebSocket: greets, confirms subscriptions that are signed for its socket's id, sends what it is given.
async fn socket(
    stream: TcpStream,
    greeting: &str,
    upgrades: &mpsc::UnboundedSender<(String, Option<String>)>,
    frames: &mut mpsc::UnboundedReceiver<String>,
) {
    let sender = upgrades.clone();
    #[allow(clippy::result_large_err)]
    let note = move |request: &Upgrade, response: Upgraded| -> Result<Upgraded, ErrorResponse> {
        let origin = request.headers().get("origin").map(|origin| origin.to_str().unwrap().to_owned());
        let _ = sender.send((request.uri().path().to_owned(), origin));
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, note).await.unwrap();
    let data: Value = serde_json::from_str(greeting).unwrap();
    let socket_id = match &data["socket_id"] {
        Value::String(text) => text.clone(),
        number => number.to_string(),
    };
    let hello = format!(r#"{{"event":"pusher:connection_established","data":{greeting}}}"#);
    socket.send(Message::text(hello)).await.unwrap();
    loop {
        tokio::select! {
            frame = frames.recv() => match frame {
                Some(frame) => socket.send(Message::text(frame)).await.unwrap(),
                None => return,
            },
            message = socket.next() => {
                let Some(Ok(Message::Text(text))) = message else { return };
                let frame::ClientFrame::Subscribe { channel, auth, .. } =
                    frame::ClientFrame::decode(&text).unwrap() else { continue };
                let secret = SecretString::from("secret");
                assert_eq!(auth, Some(sign::channel_auth("key", &secret, &socket_id, &channel, None)));
                socket.send(Message::text(frame::subscription_succeeded(&channel, "{}"))).await.unwrap();
            }
        }
    }
}

/// One call of the API.
async fn answer(
    request: Request<Incoming>,
    unsigned: &str,
    calls: mpsc::UnboundedSender<Call>,
    batches: u16,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let (path, query) = (head.uri.path(), head.uri.query().unwrap());
    let signed = path.strip_prefix(unsigned).unwrap_or(path);
    let now = pusher_bridge::clock::Now::read().unix_seconds();
    let secret = SecretString::from("secret");
    let verified = sign::verify_query("POST", signed, query, &body, "key", &secret, now);
    let status = match (verified.is_ok(), batches) {
        (false, _) => 401,
        (true, status) if status != 0 && path.ends_with("/batch_events") => status,
        (true, _) => 200,
    };
    let _ = calls.send((format!("{status} {path}"), serde_json::from_slice(&body).unwrap()));
    let body = if status == 200 { "{}" } else { "no" };
    Ok(Response::builder().status(status).body(Full::new(body.into())).unwrap())
}

const GREETING: &str = r#"{"socket_id":"1.2","activity_timeout":120}"#;

async fn login(running: &Running) -> OldClient {
    OldClient::login(running.address, "/ws/plugin/p1", "1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn greetings_of_any_form_are_understood_and_signed_for() {
    for greeting in [
        r#"{"socket_id":42,"activity_timeout":30.0}"#,
        r#"{"socket_id":123456.789,"activity_timeout":"29.5"}"#,
        r#"{"socket_id":"f81d4fae-7dec-11d0-a765-00a0c91e6bf6","activity_timeout":null}"#,
        r#"{"socket_id":"node-1/<0.42.0>"}"#,
    ] {
        let server = Server::start(greeting, "").await;
        let running = server.bridge("").await;
        // Its subscription is confirmed, so its signature was that of this socket.
        let mut client = login(&running).await;
        server.frames.send(frame::event("e", CHANNEL, "1", None)).unwrap();
        assert_eq!(client.json().await["type"], "e", "{greeting}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_have_their_own_host_port_and_prefix_and_the_socket_an_origin() {
    for (upstream, ws, api, unsigned) in [
        ("", "", "", ""),
        // A proxy takes the prefix away, so the server signs what is left; or the server has it itself.
        ("path = \"/pusher\"\norigin = \"https://app.example.com:8443\"", "/pusher", "/pusher", "/pusher"),
        ("path = \"/pusher\"", "/pusher", "/pusher", ""),
        ("path = \"/a\"\nws_path = \"\"\napi_path = \"/b/c\"", "", "/b/c", "/b/c"),
    ] {
        let mut server = Server::start(GREETING, unsigned).await;
        let running = server.bridge(upstream).await;
        let (path, origin) = server.upgrades.recv().await.unwrap();
        assert_eq!(path, format!("{ws}/app/key"), "{upstream}");
        let expected = upstream.contains("origin").then(|| "https://app.example.com:8443".to_owned());
        assert_eq!(origin, expected, "{upstream}");
        let mut client = login(&running).await;
        for n in 1..=2 {
            client.send(&format!(r#"{{"type":"m","data":{n}}}"#)).await;
            if n == 1 && !api.is_empty() && unsigned.is_empty() {
                assert_eq!(server.call().await.0, format!("401 {api}/apps/app/batch_events"));
            }
            let (path, body) = server.call().await;
            assert_eq!(path, format!("200 {api}/apps/app/batch_events"), "{upstream}");
            assert_eq!(body["batch"][0]["data"], n.to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_batches_gets_events_one_by_one() {
    for status in [404, 405] {
        let mut server = Server::start(GREETING, "").await;
        *server.batches.lock().unwrap() = status;
        let running = server.bridge("").await;
        let mut client = login(&running).await;
        client.send(r#"{"type":"m","data":0}"#).await;
        assert_eq!(server.call().await.0, format!("{status} /apps/app/batch_events"));
        for n in 0..30 {
            let (path, body) = server.call().await;
            assert_eq!(path, "200 /apps/app/events", "it is remembered");
            let expected = serde_json::json!(
                {"channels": [CHANNEL], "name": "client-m", "data": n.to_string(), "socket_id": "1.2"}
            );
            assert_eq!(body, expected);
            client.send(&format!(r#"{{"type":"m","data":{}}}"#, n + 1)).await;
        }
        assert_eq!(bridge::metric(&running, r#"pusher_bridge_publish_total{result="refused"}"#), 0.0);
    }
}

/// Answers so, one request after another, and closes each time.
async fn answer_raw(api: TcpListener, answers: &[&[u8]], calls: mpsc::UnboundedSender<String>) {
    for answer in answers {
        let (mut stream, request) = loop {
            let (mut stream, _) = api.accept().await.unwrap();
            let mut request = Vec::new();
            // What asks whether the credentials are right publishes nothing.
            let asks = |request: &[u8]| request.starts_with(b"GET ") && request.ends_with(b"\r\n\r\n");
            while !request.ends_with(b"]}") && !asks(&request) {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            if !asks(&request) {
                break (stream, request);
            }
        };
        let _ = calls.send(String::from_utf8(request).unwrap());
        stream.write_all(answer).await.unwrap();
    }
}

/// A success is one whatever of its body arrives, unless all of it has come and is another's.
#[tokio::test(flavor = "multi_thread")]
async fn a_success_without_a_readable_end_is_published_once() {
    const ANSWERS: [&[u8]; 7] = [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"ba",
        b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"ba",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\n{\"ba",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1F\x8B",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\n\"\xFF\"",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 15\r\n\r\n<p>Welcome!</p>",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
    ];
    let mut server = Server::start(GREETING, "").await;
    let (api, port) = listener().await;
    server.api_port = port;
    let running = server.bridge("").await;
    let (called, mut calls) = mpsc::unbounded_channel();
    tokio::spawn(answer_raw(api, &ANSWERS, called));
    let mut client = login(&running).await;
    // Of one channel the next message waits for the one before; the welcome is no answer to the sixth.
    for (n, repeated) in [(0, false), (1, false), (2, false), (3, false), (4, false), (5, false), (5, true)] {
        if !repeated {
            client.send(&format!(r#"{{"type":"m","data":{n}}}"#)).await;
        }
        let call = patiently("a call of the API", calls.recv()).await.unwrap();
        // Alone: nothing of before is sent again with it.
        let alone = call.matches(r#""data":"#).count() == 1;
        assert!(alone && call.contains(&format!(r#""data":"{n}""#)), "{n}: {call}");
    }
}

/// Messages that already wait together are not lost, nor mixed up, when the first batch finds that there are none.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_finds_no_batches_is_taken_apart() {
    let mut server = Server::start(GREETING, "").await;
    *server.batches.lock().unwrap() = 404;
    let running = server.bridge("").await;
    let mut client = login(&running).await;
    for n in 0..40 {
        client.feed(&format!(r#"{{"type":"m","data":{n}}}"#)).await;
    }
    client.socket.flush().await.unwrap();
    let mut n = 0;
    while n < 40 {
        let (path, body) = server.call().await;
        if path == "200 /apps/app/events" {
            assert_eq!(body["data"], n.to_string());
            n += 1;
        }
    }
    assert_eq!(bridge::metric(&running, r#"pusher_bridge_publish_total{result="refused"}"#), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_batch_of_one_batches_are_never_asked_for() {
    let mut server = Server::start(GREETING, "").await;
    let running = server.bridge("publish = { batch = 1 }").await;
    let mut client = login(&running).await;
    for n in 0..3 {
        client.send(&format!(r#"{{"type":"m","data":{n}}}"#)).await;
        let (path, body) = server.call().await;
        assert_eq!((path.as_str(), &body["data"]), ("200 /apps/app/events", &n.to_string().into()));
    }
}

/// The largest event that a server takes: as large as it says, and if every byte of it is escaped on the way.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_as_large_as_the_server_takes_them() {
    for (upstream, bytes) in [("", 10_240), ("event_bytes = 50000", 50_000), ("frame_bytes = 65536", 10_240)]
    {
        let mut server = Server::start(GREETING, "").await;
        let running = server.bridge(upstream).await;
        let mut client = login(&running).await;
        let mut neighbour = OldClient::login(running.address, "/ws/plugin/p1", "2").await;
        // Quotes, escaped once by the client.
        let quotes = format!(r#""{}""#, r#"\""#.repeat((bytes - 2) / 2));
        client.send(&format!(r#"{{"type":"m","data":{quotes}}}"#)).await;
        let (_, body) = server.call().await;
        assert_eq!(body["batch"][0]["data"], quotes);
        assert_eq!(neighbour.json().await["data"], serde_json::from_str::<Value>(&quotes).unwrap());
        client.send(&format!(r#"{{"type":"m","data":{}}}"#, "1".repeat(bytes + 1))).await;
        assert_eq!(client.error_code().await, "MESSAGE_TOO_LARGE", "{upstream}");

        // From elsewhere a text of nothing but control characters, six bytes each, with the longest names.
        let event = "\u{1}".repeat(200);
        server.frames.send(frame::event("e", CHANNEL, &quotes, None)).unwrap();
        server.frames.send(frame::event(&event, CHANNEL, &"\u{1}".repeat(bytes), Some("u"))).unwrap();
        server.frames.send(frame::event("fence", CHANNEL, "1", None)).unwrap();
        for client in [&mut client, &mut neighbour] {
            assert_eq!(client.json().await["data"], serde_json::from_str::<Value>(&quotes).unwrap());
            assert_eq!(client.json().await["type"], event.as_str());
            assert_eq!(client.json().await["type"], "fence", "{upstream}");
        }
        assert_eq!(bridge::metric(&running, "pusher_bridge_upstream_gaps_total"), 0.0, "the link stands");
    }
}

// ------------------------------------------------------------------------------------------- certificates

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_self_signed_certificate_is_its_own_ca_file() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    // As `openssl req -x509` makes it: marked as an authority's.
    let proxy = TlsProxy::self_signed(sandbox.addr()).await;
    let port = proxy.port.to_string();
    let tls = [("PUSHER_HOST", "localhost"), ("PUSHER_PORT", port.as_str()), ("PUSHER_TLS", "true")];
    let running = bridge::start(&sandbox.app(), SHIPPED, &tls, |config| {
        config.upstream.app.ca_file = Some(proxy.ca_file());
    })
    .await;
    let bridge = Bridge { running, sandbox };
    let mut sender = bridge.login("/ws/plugin/p1").await;
    let mut neighbour = bridge.login("/ws/plugin/p1").await;
    sender.send(r#"{"type":"x","data":1}"#).await;
    assert_eq!(neighbour.json().await["type"], "client-x");
}

// ------------------------------------------------------------------------------------------------ proxies

/// A forward proxy that knows every name to be `to`; gives the head of what it is asked.
async fn forward_proxy(to: std::net::SocketAddr, status: u16) -> (String, mpsc::UnboundedReceiver<String>) {
    let (listener, port) = listener().await;
    let (asked, heads) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let asked = asked.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let _ = asked.send(String::from_utf8(head).unwrap());
                let answer = format!("HTTP/1.1 {status} As asked\r\nproxy-agent: test\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                if status == 200 {
                    let mut there = TcpStream::connect(to).await.unwrap();
                    let _ = copy_bidirectional(&mut stream, &mut there).await;
                }
            });
        }
    });
    (format!("127.0.0.1:{port}"), heads)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environments_proxy_is_used_for_socket_and_api() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let tls = TlsProxy::start(sandbox.addr()).await;
    for (over_tls, variable) in [(true, "HTTPS_PROXY"), (false, "http_proxy")] {
        let to = if over_tls { ([127, 0, 0, 1], tls.port).into() } else { sandbox.addr() };
        let (address, mut heads) = forward_proxy(to, 200).await;
        // Without the proxy nobody is there. The certificate is for `localhost`, whatever the way.
        let environment = [
            ("PUSHER_HOST", "localhost"),
            ("PUSHER_PORT", "9"),
            ("PUSHER_TLS", if over_tls { "true" } else { "false" }),
            (variable, &format!("http://us%40r:pass@{address}")),
            ("NO_PROXY", "elsewhere.example.com"),
        ];
        let running = bridge::start(&sandbox.app(), SHIPPED, &environment, |config| {
            config.upstream.app.ca_file = Some(tls.ca_file());
        })
        .await;
        let mut sender = login(&running).await;
        let mut neighbour = OldClient::login(running.address, "/ws/plugin/p1", "2").await;
        sender.send(r#"{"type":"x","data":1}"#).await;
        assert_eq!(neighbour.json().await["type"], "client-x");
        // The API is asked about the credentials, too: by the same connection, or by one more.
        let mut all = vec![heads.recv().await.unwrap(), heads.recv().await.unwrap()];
        all.extend(std::iter::from_fn(|| heads.try_recv().ok()));
        assert!(all.len() <= 3, "{all:?}");
        for head in all {
            assert!(head.starts_with("CONNECT localhost:9 HTTP/1.1\r\nHost: localhost:9\r\n"), "{head}");
            assert!(head.contains("\r\nProxy-Authorization: Basic dXNAcjpwYXNz\r\n"), "{head}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_proxy_lists_is_reached_directly() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let environment = [("HTTP_PROXY", "http://127.0.0.1:9"), ("NO_PROXY", "x,127.0.0.0/8")];
    let running = bridge::start(&sandbox.app(), SHIPPED, &environment, |_| {}).await;
    let mut sender = login(&running).await;
    let mut neighbour = OldClient::login(running.address, "/ws/plugin/p1", "2").await;
    sender.send(r#"{"type":"x","data":1}"#).await;
    assert_eq!(neighbour.json().await["type"], "client-x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_is_told() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let (address, mut heads) = forward_proxy(sandbox.addr(), 407).await;
    let mut environment = sandbox.app().environment();
    environment.insert("HTTP_PROXY".to_owned(), address);
    let running = pusher_bridge::app::start(bridge::config(SHIPPED, &environment)).await.unwrap();
    let bridge = Bridge { running, sandbox };
    bridge.at_least(r#"pusher_bridge_upstream_reconnects_total{cause="connect"}"#, 1.0).await;
    assert!(heads.recv().await.unwrap().starts_with("CONNECT 127.0.0.1:"));
    assert_eq!(bridge.sandbox.view(|view| view.attempts()), 0);
}
