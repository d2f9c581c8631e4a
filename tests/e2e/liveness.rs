//! Heartbeats, silence, and readers that are too slow.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::bridge::{SHIPPED, token};
use crate::support::raw::{BINARY, CLOSE, Frame, PING, PONG, TEXT, frame};
use crate::support::{Bridge, OldClient, Raw, patiently};

const PATH: &str = "/ws/agent/agent_7";

fn heartbeat(rule: &str) -> String {
    let shipped = r#"heartbeat = { kind = "json", every = "30s", timeout = "75s" }"#;
    assert!(SHIPPED.contains(shipped));
    SHIPPED.replacen(shipped, &format!("heartbeat = {{ {rule} }}"), 1)
}

#[track_caller]
fn assert_json_ping(frame: Frame) {
    let text = frame.text();
    // {"type":"ping","timestamp":"2025-01-21T10:00:00Z"}, perhaps with a fraction of the second.
    let timestamp =
        text.strip_prefix(r#"{"type":"ping","timestamp":""#).unwrap().strip_suffix("\"}").unwrap();
    assert!(timestamp.len() >= 20 && timestamp.ends_with('Z') && &timestamp[10..11] == "T", "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_come_in_the_dialects_own_way() {
    let bridge = Bridge::with(&heartbeat(r#"kind = "json", every = "50ms", timeout = "1m""#), |_| {}).await;
    let mut client = Raw::login(bridge.address(), PATH, &token("123")).await;
    for _ in 0..3 {
        assert_json_ping(client.frame().await);
    }

    let bridge =
        Bridge::with(&heartbeat(r#"kind = "websocket", every = "50ms", timeout = "1m""#), |_| {}).await;
    let mut client = Raw::login(bridge.address(), PATH, &token("123")).await;
    for _ in 0..3 {
        assert_eq!(client.frame().await, Frame(PING, Vec::new()));
    }

    let bridge = Bridge::with(&heartbeat(r#"kind = "both", every = "50ms", timeout = "1m""#), |_| {}).await;
    let mut client = Raw::login(bridge.address(), PATH, &token("123")).await;
    for _ in 0..3 {
        assert_json_ping(client.frame().await);
        assert_eq!(client.frame().await, Frame(PING, Vec::new()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_closes_and_any_sign_of_life_does_not() {
    let bridge = Bridge::with(&heartbeat(r#"kind = "both", every = "100ms", timeout = "1s""#), |_| {}).await;
    let silent = Raw::login(bridge.address(), PATH, &token("123")).await;
    // One answers as its library does, one as old clients do, to whom WebSocket pings are unknown.
    let by_library = tokio::spawn(until_fence(bridge.login(PATH).await));
    let mut by_json = Raw::login(bridge.address(), PATH, &token("123")).await;
    let by_json = tokio::spawn(async move {
        loop {
            match by_json.frame().await {
                Frame(PING, _) => {}
                frame => match frame.json()["type"].as_str().unwrap() {
                    "ping" => by_json.send(frame_of(r#"{"type":"pong","timestamp":"x"}"#)).await,
                    "fence" => return,
                    other => panic!("{other}"),
                },
            }
        }
    });
    assert_eq!(silent.close_code().await, Some(1001));
    bridge.until_closed("agent", "silent", 1).await;
    bridge.sandbox.trigger("agent-status", "fence", r#"{"agent_id":"agent_7"}"#);
    patiently("the live ones' event", by_library).await.unwrap();
    patiently("the live ones' event", by_json).await.unwrap();
    assert_eq!(bridge.closes("agent", "silent"), 1.0);
}

async fn until_fence(mut client: OldClient) {
    while client.json().await["type"] != "fence" {}
}

fn frame_of(text: &str) -> Vec<u8> {
    frame(TEXT, text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_closed_alone() {
    // Rounds until the kernel's buffers and the outbox are full: some megabytes of each.
    const ROUND: usize = 64;
    const ROUNDS_MAX: usize = 200;
    let bridge = Bridge::start().await;
    let mut slow = Raw::connect_small(bridge.address()).await;
    slow.upgrade(PATH).await;
    slow.authenticate(&token("123")).await;
    let mut neighbours = [bridge.login(PATH).await, bridge.login_as(PATH, "124").await];
    bridge.becomes(r#"pusher_bridge_connections{route="agent",phase="live"}"#, 3.0).await;
    let padding = "x".repeat(8_000);
    let (mut sent, mut rounds) = (0, 0);
    while bridge.connections_live("agent") == 3.0 {
        rounds += 1;
        assert!(rounds < ROUNDS_MAX, "the outbox has no bound");
        for _ in 0..ROUND {
            let data = format!(r#"{{"agent_id":"agent_7","n":{sent},"padding":"{padding}"}}"#);
            bridge.sandbox.trigger("agent-status", "agent_status", &data);
            sent += 1;
        }
        for neighbour in &mut neighbours {
            for n in sent - ROUND..sent {
                assert_eq!(neighbour.json().await["data"]["n"], n, "in order, and none left out");
            }
        }
    }
    for neighbour in &mut neighbours {
        bridge.sandbox.trigger("agent-status", "fence", r#"{"agent_id":"agent_7"}"#);
        assert_eq!(neighbour.json().await["type"], "fence");
        neighbour.socket.close(None).await.unwrap();
    }
    // It gets what was under way, whole frames, in order, then the reason.
    let mut next = 0;
    loop {
        match slow.frame().await {
            Frame(CLOSE, payload) => {
                assert_eq!(payload[..2], 1008_u16.to_be_bytes());
                assert_eq!(&payload[2..], b"reading too slowly");
                break;
            }
            frame => {
                let json = frame.json();
                if json["type"] == "agent_status" {
                    assert_eq!(json["data"]["n"], next);
                    next += 1;
                }
            }
        }
    }
    drop(slow);
    bridge.until_closed("agent", "slow_reader", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_its_echoes_is_not_read_either() {
    let bridge = Bridge::start().await;
    let mut client = bridge.connect("/ws/native").await;
    client.socket.get_mut().set_nodelay(true).unwrap();
    let (mut sink, mut stream) = client.socket.split();
    // More than every buffer on the way holds; the outbox has 1 MiB of them, and must not overflow.
    const MESSAGES: usize = 64;
    let writing = tokio::spawn(async move {
        for n in 0..MESSAGES {
            sink.feed(Message::binary(vec![n as u8; 512 * 1024])).await.unwrap();
            sink.flush().await.unwrap();
        }
    });
    for n in 0..MESSAGES {
        let message = patiently("an echo", stream.next()).await.unwrap().unwrap();
        assert!(message == Message::binary(vec![n as u8; 512 * 1024]), "{n}");
    }
    writing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_behind_a_large_echo_waits_for_it() {
    let bridge = Bridge::start().await;
    let mut client = Raw::connect_small(bridge.address()).await;
    client.upgrade("/ws/native").await;
    let payload: Vec<u8> = (0..16 * 1024 * 1024).map(|n: u32| n as u8).collect();
    client.send(frame(BINARY, &payload)).await;
    bridge.becomes(r#"pusher_bridge_frames_total{route="native",direction="out"}"#, 1.0).await;
    bridge.sandbox.trigger("test-channel", "hello", "1");
    bridge.becomes(r#"pusher_bridge_upstream_events_total{result="delivered"}"#, 1.0).await;
    let Frame(BINARY, echo) = client.frame().await else { panic!("not the echo") };
    assert!(echo == payload, "16 MiB came back otherwise");
    assert_eq!(client.frame().await.json()["type"], "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_alone_does_not_make_a_fast_reader_slow() {
    let routes =
        SHIPPED.replace("[groups.typed-api.limits]\n", "[groups.typed-api.limits]\noutbox_frames = 4\n");
    let bridge = Bridge::with(&routes, |_| {}).await;
    let mut client = bridge.login("/ws/content/gen_1").await;
    for n in 0..200 {
        bridge.sandbox.trigger("content-generation-gen_1", "e", &n.to_string());
    }
    for n in 0..200 {
        assert_eq!(client.json().await["data"], n);
    }
}

/// Nothing is due any more once the subscription stands: the timer for it must not be over for ever.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_heartbeat_is_heard_when_the_last_timer_is_over() {
    const WAIT: Duration = Duration::from_millis(200);
    let routes = format!(
        "{SHIPPED}\n{}",
        r#"
[[routes]]
name = "quiet"
path = "/quiet"
dialect = "channel"
channel = "quiet-{subscribe.channel}"
auth = { required = false }
heartbeat = { kind = "none" }
"#
    );
    let bridge = Bridge::with(&routes, |config| config.upstream.times.subscribe_timeout = WAIT).await;
    let mut raw = Raw::open(bridge.address(), "/quiet").await;
    raw.send(frame(TEXT, br#"{"type":"subscribe","channel":"a"}"#)).await;
    patiently("the subscription", bridge.sandbox.wait_for(|view| view.subscribed("quiet-a") == 1)).await;
    bridge.sandbox.trigger("quiet-a", "e", "1");
    assert_eq!(raw.frame().await.json()["data"], 1);
    let begin = Instant::now();
    while begin.elapsed() < 3 * WAIT {
        raw.send(frame(PING, b"?")).await;
        assert_eq!(raw.frame().await, Frame(PONG, b"?".to_vec()));
        tokio::time::sleep(WAIT / 10).await;
    }
    raw.send(frame(CLOSE, &1000_u16.to_be_bytes())).await;
    assert_eq!(raw.close_code().await, Some(1000));
}
