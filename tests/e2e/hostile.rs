//! What an attacker would try first: docs/security.md names these tests beside the advisories they answer.

use std::time::Duration;

use pusher_bridge::sandbox::{Options, Sandbox};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::bridge::{SHIPPED, config, metric, token, token_with};
use crate::support::process::{Program, file};
use crate::support::pusher::Pusher as _;
use crate::support::raw::{Frame, PING, PONG, TEXT, auth, frame, request, upgrade};
use crate::support::{Bridge, Raw, patiently};

const PATH: &str = "/ws/plugin/p1";

/// What would publish, if anybody heard it.
fn login_and_publish() -> Vec<u8> {
    [auth(&token("123")), frame(TEXT, br#"{"type":"run","data":1}"#)].concat()
}

/// Nothing of what was sent reached Pusher.
fn nothing_happened(bridge: &Bridge) {
    assert_eq!(bridge.sandbox.ever_subscribed(), Vec::<String>::new());
    assert!(bridge.sandbox.published().is_empty());
    assert_eq!(bridge.metric(r#"pusher_bridge_connections_total{route="plugin"}"#), 0.0);
}

/// Bytes behind a request that is not upgraded are nobody's: neither frames nor a second request.
#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_refused_request_is_not_heard() {
    let bridge = Bridge::start().await;
    let second = upgrade(PATH, &[]);
    for (what, first, status) in [
        ("no upgrade", request(&format!("GET {PATH} HTTP/1.1"), &[("Upgrade", "")]), 426),
        ("bad key", upgrade(PATH, &[("Sec-WebSocket-Key", "c2hvcnQ=")]), 400),
        ("another method", request(&format!("POST {PATH} HTTP/1.1"), &[]), 400),
        ("unknown path", upgrade("/ws/nothing", &[]), 404),
        ("a body", upgrade(PATH, &[("+Content-Length", "3")]) + "abc", 400),
        ("a chunked body", upgrade(PATH, &[("+Transfer-Encoding", "chunked")]) + "0\r\n\r\n", 400),
        ("an old version", request(&format!("GET {PATH} HTTP/1.0"), &[]), 400),
        ("both lengths", upgrade(PATH, &[("+Content-Length", "3"), ("+Transfer-Encoding", "chunked")]), 400),
    ] {
        for behind in [login_and_publish(), [second.as_bytes(), &login_and_publish()].concat()] {
            let mut raw = Raw::connect(bridge.address()).await;
            raw.try_send([first.as_bytes(), &behind].concat()).await;
            assert_eq!(raw.answer().await.status, status, "{what}");
            assert_eq!(raw.rest().await, "", "{what}: one answer, and the end");
        }
    }
    nothing_happened(&bridge);
}

/// An HTTP/1.0 request has no transfer encodings: whoever forwards it may see another end of it than we do.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_with_a_transfer_encoding_smuggles_nothing() {
    let bridge = Bridge::start().await;
    let smuggled = upgrade(PATH, &[]);
    for encoding in ["chunked", "identity", "chunked, identity", "\x0bchunked", "xchunked"] {
        for line in [format!("GET {PATH} HTTP/1.0"), format!("POST {PATH} HTTP/1.0")] {
            let head = request(&line, &[("+Transfer-Encoding", encoding), ("+Content-Length", "5")]);
            let mut raw = Raw::connect(bridge.address()).await;
            raw.try_send([head.as_bytes(), b"0\r\n\r\n", smuggled.as_bytes(), &login_and_publish()].concat())
                .await;
            assert_eq!(raw.answer().await.status, 400, "{line} {encoding}");
            assert_eq!(raw.rest().await, "", "{line} {encoding}: one answer, and the end");
        }
    }
    nothing_happened(&bridge);
}

/// Frames are heard from the 101 on, and only by the connection that it is for.
#[tokio::test(flavor = "multi_thread")]
async fn frames_before_a_refusal_by_frame_are_not_heard() {
    let routes = SHIPPED.replace(r#"after_sunset = "serve" "#, r#"after_sunset = "refuse" "#).replace(
        "[groups.typed-api]\n",
        "[groups.typed-api]\nrefusal = \"frame\"\nrefusal_hold = \"100ms\"\n",
    );
    let bridge = Bridge::with(&routes, |_| {}).await;
    let mut raw = Raw::connect(bridge.address()).await;
    raw.send([upgrade(PATH, &[]).as_bytes(), &login_and_publish()].concat()).await;
    assert_eq!(raw.answer().await.status, 101);
    assert_eq!(raw.frame().await.json()["data"]["error_code"], "ENDPOINT_GONE");
    assert_eq!(raw.close_code().await, Some(1008));
    assert_eq!(bridge.sandbox.ever_subscribed(), Vec::<String>::new());
    assert!(bridge.sandbox.published().is_empty());
}

/// Nothing is ever inflated: no extension is agreed to, and a frame that says it is compressed ends it.
#[tokio::test(flavor = "multi_thread")]
async fn no_extension_is_taken_up() {
    let bridge = Bridge::start().await;
    for offer in
        ["permessage-deflate", "permessage-deflate; client_max_window_bits=15, x-webkit-deflate-frame"]
    {
        let mut raw = Raw::connect(bridge.address()).await;
        raw.send(upgrade("/ws/native", &[("+Sec-WebSocket-Extensions", offer)])).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 101);
        assert_eq!(answer.header("sec-websocket-extensions"), "");
        raw.send(frame(TEXT | 0x40, b"\xaa\x56\x2a\x2e")).await;
        assert_eq!(raw.close_code().await, Some(1002));
    }
}

/// A message in fragments costs what the message costs, however many there are.
#[tokio::test(flavor = "multi_thread")]
async fn tiny_fragments_are_bounded_by_their_message() {
    let bridge = Bridge::start().await;
    let mut neighbour = bridge.connect("/ws/native").await;
    let mut raw = Raw::open(bridge.address(), PATH).await;
    raw.send(frame(0x01, b"x")).await;
    let fragments = frame(0x00, b"x").repeat(65_535);
    raw.send(&fragments).await;
    raw.send(frame(PING, b"fence")).await;
    assert_eq!(raw.frame().await, Frame(PONG, b"fence".to_vec()), "65,536 bytes are borne");
    neighbour.send("hello").await;
    assert_eq!(neighbour.text().await, "hello", "and nobody else waits for them");
    raw.send(frame(0x00, b"x")).await;
    assert_eq!(raw.close_code().await, Some(1009));
}

/// Fragments without a byte in them are never a message, so they are no sign of life either.
#[tokio::test(flavor = "multi_thread")]
async fn empty_fragments_keep_no_connection_open() {
    let routes = format!(
        "{}\n{}",
        SHIPPED.replace(
            "auth = { required = true }\nheartbeat",
            "auth = { required = true, deadline = \"300ms\" }\nheartbeat"
        ),
        r#"
[[routes]]
name = "silent"
path = "/silent"
dialect = "channel"
channel = "files"
heartbeat = { kind = "websocket", every = "100ms", timeout = "300ms" }
"#
    );
    let bridge = Bridge::with(&routes, |_| {}).await;
    for (path, code) in [(PATH, 1008), ("/silent", 1001)] {
        let mut raw = Raw::open(bridge.address(), path).await;
        raw.send(frame(0x01, b"")).await;
        let trickle = async {
            // Its connection counts from the upgrade to the close.
            while bridge.connections() > 0.0 {
                raw.try_send(frame(0x00, b"")).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        patiently("a close", trickle).await;
        assert_eq!(raw.close_code().await, Some(code), "{path}");
        bridge.until_empty().await;
    }
    bridge.until_closed("plugin", "auth_deadline", 1).await;
    bridge.until_closed("silent", "silent", 1).await;
}

/// A head that comes byte by byte is not read for longer than its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_trickles_in_has_a_deadline() {
    let bridge =
        Bridge::with(SHIPPED, |config| config.server.header_timeout = Duration::from_millis(300)).await;
    let mut raw = Raw::connect(bridge.address()).await;
    raw.send(format!("GET {PATH} HTTP/1.1\r\nHost: a\r\nX-Slow: ")).await;
    while raw.try_send("x").await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    raw.ended().await;
    bridge.becomes(r#"pusher_bridge_refusals_total{route="none",reason="timeout"}"#, 1.0).await;
}

/// Whoever stands in Pusher's place can send no more than a frame's limit; it costs that connection alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_frame_from_pusher_beyond_its_limit_costs_only_that_connection() {
    let bridge = Bridge::with(SHIPPED, |config| {
        config.upstream.frame_bytes_max = 100_000;
        config.upstream.times.reconnect_delay_max = Duration::from_millis(50);
    })
    .await;
    let mut client = bridge.login("/ws/content/gen_1").await;
    let event = |length: usize| {
        let data = "x".repeat(length);
        format!(r#"{{"event":"e","channel":"content-generation-gen_1","data":"\"{data}\""}}"#)
    };
    bridge.sandbox.raw_frame_to_all(&event(90_000));
    assert_eq!(client.json().await["data"].as_str().map(str::len), Some(90_000));
    bridge.sandbox.raw_frame_to_all(&event(100_000));
    bridge.becomes(r#"pusher_bridge_upstream_reconnects_total{cause="broken"}"#, 1.0).await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 1.0).await;
    bridge.sandbox.trigger("content-generation-gen_1", "back", "1");
    assert_eq!(client.json().await["type"], "back");
}

/// Whoever accepts and says nothing is given up, and dialled again.
#[tokio::test(flavor = "multi_thread")]
async fn a_pusher_that_never_greets_is_given_up() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut app = Sandbox::start(Options::local()).await.unwrap().app();
    app.address = silent.local_addr().unwrap();
    let mut config = config(SHIPPED, &app.environment());
    config.upstream.times.connect_timeout = Duration::from_millis(50);
    config.upstream.times.reconnect_delay_max = Duration::from_millis(50);
    let running = pusher_bridge::app::start(config).await.unwrap();
    let mut kept_open = Vec::new();
    // One of them asks the HTTP API whether the credentials are right.
    for _ in 0..4 {
        kept_open.push(patiently("the link", silent.accept()).await.unwrap());
    }
    let lost = metric(&running, r#"pusher_bridge_upstream_reconnects_total{cause="connect_timeout"}"#);
    assert!(lost >= 2.0, "{lost}");
    patiently("the shutdown", running.shutdown()).await;
}

/// The length in a frame's header is believed by nobody: from Pusher's place, too.
#[tokio::test(flavor = "multi_thread")]
async fn an_absurd_length_from_pusher_is_no_length() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut app = Sandbox::start(Options::local()).await.unwrap().app();
    app.address = listener.local_addr().unwrap();
    let mut config = config(SHIPPED, &app.environment());
    config.upstream.times.reconnect_delay_max = Duration::from_millis(50);
    let running = pusher_bridge::app::start(config).await.unwrap();
    for length in [u64::MAX, 1 << 63, u64::MAX >> 1, 1 << 32] {
        let (mut stream, accept) = loop {
            let (mut stream, _) = patiently("the link", listener.accept()).await.unwrap();
            // Another asks the HTTP API whether the credentials are right.
            if let Some(accept) = handshake(&mut stream).await {
                break (stream, accept);
            }
        };
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[&[0x81, 127][..], &length.to_be_bytes()].concat()).await.unwrap();
        let mut rest = Vec::new();
        // It hangs up on such a frame, and dials again.
        let _ = patiently("the link's end", stream.read_to_end(&mut rest)).await;
    }
    patiently("the shutdown", running.shutdown()).await;
}

/// Reads a request, and gives the answer to the key of an upgrade.
async fn handshake(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(patiently("the request", stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let key = head
        .lines()
        .find_map(|line| {
            line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        })
        .map(|(_, key)| key)?;
    Some(tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes()))
}

/// What clients, tokens, Pusher and backends write reaches the log as text: no line of theirs, no escape.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_writes_lines_or_escapes_into_the_log() {
    const EVIL: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\r\n1970-01-01T00:00:00Z  INFO forged: forged";
    let json = |text: &str| serde_json::Value::from(text).to_string();
    let at_once = "[server.shutdown]\nclose_window = \"0s\"\n\n[upstream]";
    let file = file("hostile-logs.toml", &SHIPPED.replacen("[upstream]", at_once, 1));
    for format in ["text", "json"] {
        let sandbox = Sandbox::start(Options::local()).await.unwrap();
        let args = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", format];
        let args = [&args[..], &["--config", &file, "--log", "debug"]].concat();
        let mut program = Program::start(&args, &sandbox.app().environment());
        let line = program.stderr.find("serving").await;
        let port = line.split("127.0.0.1:").nth(1).unwrap();
        let port = port.split(|c: char| !c.is_ascii_digit()).next().unwrap();
        let address = format!("127.0.0.1:{port}").parse().unwrap();
        // Clients: agents, paths, hosts, tokens' claims.
        let agent = EVIL.replace(['\r', '\n', '\u{1b}', '\u{7}'], "\u{9b}");
        let path = "/ws/content/%1B%5B2J%0D%0Aforged";
        let answer = Raw::ask(address, upgrade(path, &[("User-Agent", &agent)])).await;
        assert_eq!(answer.status, 400);
        let mut raw = Raw::open(address, "/ws/content/gen_1").await;
        raw.send(auth(&token_with("123", |claims| claims["sub"] = EVIL.into()))).await;
        assert_eq!(raw.frame().await.json()["type"], "auth_response");
        // Pusher, or whoever is in its place.
        for text in [
            format!(r#"{{"event":{},"channel":5}}"#, json(EVIL)),
            json(EVIL),
            EVIL.to_owned(),
            format!(r#"{{"event":"pusher:error","data":{{"code":4301,"message":{}}}}}"#, json(EVIL)),
            format!(
                r#"{{"event":"pusher:subscription_error","channel":{},"data":{{"error":{}}}}}"#,
                json(EVIL),
                json(EVIL)
            ),
        ] {
            sandbox.raw_frame_to_all(&text);
        }
        sandbox.trigger("content-generation-gen_1", "fence", "1");
        assert_eq!(raw.frame().await.json()["type"], "fence");
        let message =
            format!(r#"{{"event":"pusher:error","data":{{"code":4001,"message":{}}}}}"#, json(EVIL));
        sandbox.raw_frame_to_all(&message);
        program.stderr.find("not connected to Pusher").await;
        drop(raw);
        program.signal("TERM");
        let ended = program.ended().await;
        for line in ended.stderr.lines() {
            let forged = line.contains("forged: forged") && line.starts_with("1970");
            assert!(!forged && !line.contains(|c: char| c.is_control()), "{format}: {line:?}");
        }
        assert!(ended.stderr.matches("forged").count() >= 5, "{format}: {}", ended.stderr);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
}
