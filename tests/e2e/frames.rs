//! What clients may send, what they are told, and how the WebSocket protocol is kept.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

use crate::support::bridge::{SHIPPED, token};
use crate::support::raw::{BINARY, CLOSE, Frame, PING, PONG, TEXT, frame};
use crate::support::{Bridge, Raw, patiently};

#[tokio::test(flavor = "multi_thread")]
async fn before_authentication_everything_else_gets_the_documented_frame() {
    let bridge = Bridge::start().await;
    let mut raw = Raw::open(bridge.address(), "/ws/content/gen_123").await;
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let messages: [(u8, &str); 9] = [
        (TEXT, r#"{"type":"run"}"#),
        (TEXT, r#"{"type":"subscribe","channel":"x"}"#),
        (TEXT, r#"{"type":"ping"}"#),
        (TEXT, r#"{"token":"x"}"#),
        (TEXT, "not JSON"),
        (TEXT, ""),
        (TEXT, "[1]"),
        (TEXT, &deep),
        (TEXT, r#"{"type":"AUTH","token":"x"}"#),
    ];
    for (kind, message) in messages {
        raw.send(frame(kind, message.as_bytes())).await;
        assert_eq!(
            raw.frame().await.text(),
            r#"{"type":"error","data":{"error_code":"WEBSOCKET_AUTH_REQUIRED","message":"Authentication required for this WebSocket endpoint","details":{"endpoint":"/ws/content/gen_123","required_permissions":["content:generate"]}}}"#,
            "{message}"
        );
    }
    // A client that is told to authenticate would do so by another binary message.
    raw.send(frame(BINARY, br#"{"type":"auth","token":"x"}"#)).await;
    assert_eq!(raw.frame().await.json()["data"]["error_code"], "BINARY_NOT_SUPPORTED");
    // A pong needs no authentication and has no answer; neither has a WebSocket pong.
    raw.send(frame(TEXT, br#"{"type":"pong","timestamp":"x"}"#)).await;
    raw.send(frame(PONG, b"")).await;
    raw.send(frame(PING, b"fence")).await;
    assert_eq!(raw.frame().await, Frame(PONG, b"fence".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_to_auth_are_the_documented_frames() {
    let bridge = Bridge::start().await;
    let mut client = bridge.connect("/ws/content/gen_1").await;
    client.auth("wrong").await;
    assert_eq!(
        client.text().await,
        r#"{"type":"auth_error","data":{"error":"INVALID_TOKEN","message":"JWT token is invalid or expired"}}"#
    );
    client.send(r#"{"type":"auth"}"#).await;
    assert_eq!(client.error_code().await, "INVALID_TOKEN");
    // With and without `Bearer`.
    client.send(&format!(r#"{{"type":"auth","token":"{}"}}"#, token("123"))).await;
    assert_eq!(
        client.text().await,
        r#"{"type":"auth_response","data":{"authenticated":true,"user_id":"123","role":"teacher","permissions":["content:generate","roblox:read","command:run"]}}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_message_has_its_own_code_and_the_connection_stays() {
    let bridge = Bridge::start().await;
    let mut client = bridge.login("/ws/command/c1").await;
    let depth = |n: usize| format!(r#"{{"type":"input","data":{}{}}}"#, "[".repeat(n), "]".repeat(n));
    for (message, code) in [
        (Message::text("not JSON"), "INVALID_JSON"),
        (Message::text(""), "INVALID_JSON"),
        (Message::text(r#"{"type":"input","data":1} "#.to_owned() + "x"), "INVALID_JSON"),
        (Message::text("[1]"), "NOT_AN_OBJECT"),
        (Message::text("\"input\""), "NOT_AN_OBJECT"),
        (Message::text("{}"), "MISSING_TYPE"),
        (Message::text(r#"{"type":1}"#), "MISSING_TYPE"),
        (Message::text(r#"{"type":"output","data":1}"#), "MESSAGE_TYPE_NOT_PUBLISHED"),
        (Message::text(depth(64)), "MESSAGE_TOO_DEEP"),
        (Message::text(depth(20_000)), "MESSAGE_TOO_DEEP"),
        (Message::text(r#"{"type":"input"}"#), "INVALID_FIELD"),
        (Message::binary(vec![1, 2, 3]), "BINARY_NOT_SUPPORTED"),
    ] {
        client.socket.send(message.clone()).await.unwrap();
        assert_eq!(client.error_code().await, code, "{message:?}");
    }
    let mut reader = bridge.login("/ws/agent/agent_7").await;
    reader.send(r#"{"type":"run"}"#).await;
    assert_eq!(reader.error_code().await, "UNKNOWN_MESSAGE_TYPE", "a route that publishes nothing");
    assert_eq!(
        bridge.metric(r#"pusher_bridge_client_errors_total{route="command",code="INVALID_JSON"}"#),
        3.0
    );
    bridge.sandbox.trigger("private-command-c1", "status", "1");
    assert_eq!(client.json().await["type"], "status", "the connection stayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pusher_would_not_carry_is_told_and_what_is_larger_still_closes() {
    let bridge = Bridge::start().await;
    let mut client = bridge.login("/ws/plugin/p1").await;
    let message = |length: usize| format!(r#"{{"type":"run","data":"{}"}}"#, "x".repeat(length - 2));
    client.send(&message(10_241)).await;
    let error = client.json().await;
    assert_eq!(error["data"]["error_code"], "MESSAGE_TOO_LARGE");
    assert_eq!(error["data"]["details"]["type"], "run");
    client.send(&message(10_240)).await;
    patiently("the message", bridge.sandbox.wait_for(|view| view.published().count() == 1)).await;
    client.send(&"x".repeat(65_536)).await;
    assert_eq!(client.error_code().await, "INVALID_JSON", "the largest message is still read");
    client.send(&"x".repeat(65_537)).await;
    assert_eq!(client.closed().await.unwrap().0, 1009);
    drop(client);

    // In fragments too, and told by a header alone.
    let mut raw = Raw::login(bridge.address(), "/ws/plugin/p1", &token("123")).await;
    raw.send(frame(0x01, &[b'x'; 40_000])).await;
    raw.send(frame(0x80, &[b'x'; 40_000])).await;
    assert_eq!(raw.close_code().await, Some(1009));
    let mut raw = Raw::login(bridge.address(), "/ws/plugin/p1", &token("123")).await;
    raw.send([&[0x81, 0xFF][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat()).await;
    assert_eq!(raw.close_code().await, Some(1009));
    bridge.until_closed("plugin", "too_big", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_protocol_is_answered_by_its_close_frame() {
    let bridge = Bridge::start().await;
    let cases: [(&str, Vec<u8>, u16); 15] = [
        ("unmasked", vec![0x81, 0x02, b'h', b'i'], 1002),
        ("reserved bit 1", frame(0xC1, b"hi"), 1002),
        ("reserved bit 3", frame(0x91, b"hi"), 1002),
        ("reserved data opcode", frame(0x83, b"hi"), 1002),
        ("reserved control opcode", frame(0x8B, b"hi"), 1002),
        ("bad UTF-8", frame(TEXT, &[b'a', 0xFF, 0xFE]), 1007),
        ("cut UTF-8", frame(TEXT, &[0xE2, 0x82]), 1007),
        ("surrogate", frame(TEXT, &[0xED, 0xA0, 0x80]), 1007),
        ("bad UTF-8 in a fragment", [frame(0x01, b"a"), frame(0x80, &[0xC0])].concat(), 1007),
        (
            "bad UTF-8 in a frame that does not end",
            frame(TEXT, &[&b"a\xFF"[..], &[b'a'; 98]].concat())[..8].into(),
            1007,
        ),
        ("oversized ping", frame(PING, &[0; 126]), 1002),
        ("fragmented ping", frame(0x09, b"x"), 1002),
        ("unknown continuation", frame(0x80, b"x"), 1002),
        ("new message within fragments", [frame(0x01, b"x"), frame(TEXT, b"y")].concat(), 1002),
        ("close with one byte", frame(CLOSE, &[3]), 1002),
    ];
    for path in ["/ws/content/gen_1", "/ws/native"] {
        for (what, bytes, code) in &cases {
            let mut raw = Raw::open(bridge.address(), path).await;
            raw.send(bytes).await;
            assert_eq!(raw.close_code().await, Some(*code), "{path}: {what}");
        }
    }
    bridge.until_closed("native", "not_utf8", 5).await;
    bridge.until_closed("native", "protocol_error", 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_close_frame_arrives_though_much_was_sent_and_not_read() {
    let bridge = Bridge::start().await;
    let mut raw = Raw::open(bridge.address(), "/ws/content/gen_1").await;
    let mut bytes = vec![0x81, 0x02, b'h', b'i'];
    bytes.extend(vec![0x55; 200_000]);
    raw.try_send(&bytes).await;
    assert_eq!(raw.close_code().await, Some(1002), "a reset would have destroyed it");
}

#[tokio::test(flavor = "multi_thread")]
async fn native_returns_everything_byte_for_byte() {
    let bridge = Bridge::start().await;
    let mut raw = Raw::open(bridge.address(), "/ws/native").await;
    for (kind, payload) in [
        (TEXT, b"hello".to_vec()),
        (TEXT, Vec::new()),
        (BINARY, Vec::new()),
        (BINARY, (0..=255).collect()),
        (TEXT, "{\"type\":\"auth\",\"token\":\"é😀\\u00e9 \"}\n".as_bytes().to_vec()),
        (TEXT, b"{\"type\":\"pong\"}".to_vec()),
        (TEXT, b"{ \"n\" : 1.50 , \"n\":1e400}".to_vec()),
        (BINARY, vec![0; 125]),
        (BINARY, vec![1; 126]),
        (BINARY, vec![2; 65_535]),
        (TEXT, vec![b'x'; 65_536]),
    ] {
        raw.send(frame(kind, &payload)).await;
        assert_eq!(raw.frame().await, Frame(kind, payload));
    }
    // Fragments, empty ones and a ping in between too.
    for part in [frame(0x01, b""), frame(0x00, b"ab"), frame(PING, b"p"), frame(0x00, b""), frame(0x80, b"c")]
    {
        raw.send(part).await;
    }
    assert_eq!(raw.frame().await, Frame(PONG, b"p".to_vec()));
    assert_eq!(raw.frame().await, Frame(TEXT, b"abc".to_vec()));
    // And the route is a channel's as well.
    bridge.sandbox.trigger("test-channel", "hello", r#"{"n":1.50}"#);
    let event = raw.frame().await.text();
    assert!(event.starts_with(r#"{"type":"hello","data":{"n":1.50},"timestamp":""#), "{event}");
}

#[tokio::test(flavor = "multi_thread")]
async fn native_returns_16_mib() {
    let bridge = Bridge::start().await;
    let stream = tokio::net::TcpStream::connect(bridge.address()).await.unwrap();
    let url = format!("ws://{}/ws/native", bridge.address());
    let config = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
    let (mut socket, _) =
        tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await.unwrap();
    let mut payload = vec![0; 16 * 1024 * 1024];
    fastrand::fill(&mut payload);
    let message = Message::binary(payload);
    for _ in 0..2 {
        patiently("sending", socket.send(message.clone())).await.unwrap();
        let echo = patiently("the echo", socket.next()).await.unwrap().unwrap();
        assert!(echo == message, "16 MiB came back otherwise");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_close_is_answered_with_its_code() {
    let bridge = Bridge::start().await;
    for code in [1000_u16, 1001, 1003, 1011, 3000, 4999] {
        let mut client = bridge.login("/ws/agent/agent_7").await;
        let close = CloseFrame { code: CloseCode::from(code), reason: "bye".into() };
        client.socket.close(Some(close)).await.unwrap();
        assert_eq!(client.closed().await.unwrap().0, code);
    }
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        let mut raw = Raw::open(bridge.address(), "/ws/native").await;
        raw.send(frame(CLOSE, &code.to_be_bytes())).await;
        assert_eq!(raw.close_code().await, Some(1002), "{code} must not be sent");
    }
    let mut raw = Raw::open(bridge.address(), "/ws/native").await;
    raw.send([frame(TEXT, b"last"), frame(CLOSE, b"")].concat()).await;
    assert_eq!(raw.frame().await, Frame(TEXT, b"last".to_vec()), "what came before it is answered");
    assert_eq!(raw.frame().await, Frame(CLOSE, Vec::new()));
    assert_eq!(raw.next().await, None);
    drop(raw);
    bridge.until_closed("agent", "by_client", 6).await;
    bridge.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_of_an_echo_route_is_told_too() {
    let routes = SHIPPED
        .replace(r#"messages = "unlimited" }"#, r#"messages = { count = 1, per = "1h", burst = 2 } }"#);
    let bridge = Bridge::with(&routes, |_| {}).await;
    let mut raw = Raw::open(bridge.address(), "/ws/native").await;
    raw.send([frame(TEXT, b"1"), frame(TEXT, b"2"), frame(TEXT, b"3")].concat()).await;
    assert_eq!(raw.frame().await.text(), "1");
    assert_eq!(raw.frame().await.text(), "2");
    assert_eq!(raw.frame().await.json()["data"]["error_code"], "RATE_LIMITED", "nothing is dropped silently");
}

/// Empty fragments add nothing to a message's size, so its limit never ends them.
#[tokio::test(flavor = "multi_thread")]
async fn fragments_without_end_close_the_connection_and_disturb_nobody() {
    let bridge = Bridge::with(SHIPPED, |config| config.server.workers = 1).await;
    let mut neighbour = bridge.login("/ws/agent/agent_7").await;
    let mut flooder = Raw::open(bridge.address(), "/ws/native").await;
    flooder.send(frame(0x01, b"")).await;
    let flood = frame(0x00, b"").repeat(10_000);
    // The server may hang up in the middle of it.
    let _ = flooder.try_send(&flood).await;
    assert_eq!(flooder.close_code().await, Some(1008));
    bridge.until_closed("native", "control_flood", 1).await;
    bridge.sandbox.trigger("agent-status", "status", r#"{"agent_id":"agent_7"}"#);
    assert_eq!(neighbour.json().await["type"], "status");
}
