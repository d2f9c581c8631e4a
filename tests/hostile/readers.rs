//! Attacks by not reading, and on subscriptions.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::attacker::{address, close_code, open, read_to_end, send_again, swarm, tally, upgraded};
use crate::process::Bridge;
use crate::report::Row;
use crate::scene::{Verdict, shipped};
use crate::stream::Stream;
use crate::support::raw::{BINARY, TEXT, frame, upgrade};

const NATIVE: &str = "/ws/native";

const DELIVERED: &str = r#"pusher_bridge_upstream_events_total{result="delivered"}"#;
const UNWANTED: &str = r#"pusher_bridge_upstream_events_total{result="no_subscriber"}"#;

const HELD: &str = "pusher_bridge_buffered_bytes";
const LIVE: &str = r#"pusher_bridge_connections{route="native",phase="live"}"#;

/// Clients whose window stays shut while events come for them.
pub async fn window_zero() -> Row {
    const READERS: usize = 100;
    const PER_ADDRESS: usize = 50;
    let scene = shipped().open("window_zero").await;
    let to = scene.bridge.address;
    let readers = swarm(READERS, move |n, _| async move {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_zero_linger().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind((address(n / PER_ADDRESS), 0).into()).unwrap();
        let mut stream = Stream::over(socket.connect(to).await.unwrap(), to).await.unwrap();
        stream.write_all(upgrade(NATIVE, &[]).as_bytes()).await.unwrap();
        stream
    })
    .await;
    scene.bridge.until("the readers to be live", |m| m.get(LIVE) == READERS as f64).await;
    let large = format!("\"{}\"", "x".repeat(10_000));
    let mut sent = 0;
    // First the kernel's buffers fill, then each outbox: it has room for a mebibyte, and for 1,024 frames.
    loop {
        for n in 0..10 {
            scene.sandbox.trigger("test-channel", "large", &large);
            scene.sandbox.trigger("test-channel", "small", &n.to_string());
        }
        sent += 20;
        let metrics =
            scene.bridge.until("the events", |m| m.get(DELIVERED) + m.get(UNWANTED) >= f64::from(sent)).await;
        if metrics.get(LIVE) == 0.0 {
            break;
        }
        assert!(sent < 10_000, "not all were closed: {:?}", metrics.closes_of("native"));
    }
    // Their close frames wait as well, for a while.
    scene.bridge.until("closes", |m| m.closes("native", "slow_reader") == READERS as f64).await;
    drop::<Vec<Stream>>(readers);
    scene
        .over(Verdict {
            sent: format!("{sent} events for each of {READERS} clients that read nothing"),
            bound_mib: 32,
            ended: "1008 `slow_reader`",
            closed_to_newcomers: false,
        })
        .await
}

/// Clients that want answers and read none: they are read no further.
pub async fn echoes_never_read() -> Row {
    const ATTACKERS: usize = 50;
    let setting = shipped().with(
        r#"heartbeat = { kind = "websocket" }"#,
        r#"heartbeat = { kind = "websocket", every = "1s", timeout = "3s" }"#,
    );
    let scene = setting.open("echoes_never_read").await;
    let to = scene.bridge.address;
    let held = swarm(ATTACKERS, move |_, _| async move {
        let mut stream = open(address(0), to, NATIVE).await;
        let message = frame(BINARY, &[7; 32 * 1024]);
        let sent = send_again(&mut stream, &message, Duration::from_secs(2)).await;
        (stream, sent)
    })
    .await;
    let sent: usize = held.iter().map(|(_, sent)| sent).sum();
    scene.bridge.until("closes", |m| m.closes("native", "silent") == ATTACKERS as f64).await;
    scene
        .over(Verdict {
            sent: format!("{} MiB to be echoed to {ATTACKERS} clients that read nothing", sent / 32),
            bound_mib: 48,
            ended: "read no further, then 1001 `silent` (3 s here)",
            closed_to_newcomers: false,
        })
        .await
}

/// Clients that want large answers and read a byte a second, also through their close: so little is nothing that
/// the bridge could see.
pub async fn a_byte_a_second_read() -> Row {
    const READERS: usize = 80;
    const PER_ADDRESS: usize = 40;
    // More than half of an outbox: nothing more is read from who leaves it unread.
    const ECHO: usize = 640 * 1024;
    let setting = shipped().with(
        r#"heartbeat = { kind = "websocket" }"#,
        r#"heartbeat = { kind = "websocket", every = "1s", timeout = "2s" }"#,
    );
    let scene = setting.open("a_byte_a_second_read").await;
    let to = scene.bridge.address;
    let message = Arc::new(frame(BINARY, &[7; ECHO]));
    let mut readers = JoinSet::new();
    for n in 0..READERS {
        let message = message.clone();
        readers.spawn(async move {
            let mut stream = open_over_a_network(address(n / PER_ADDRESS), to, NATIVE).await;
            stream.write_all(&message).await.unwrap();
            stream.flush().await.unwrap();
            // To the end of the attack: what the kernels hold is more than is ever read.
            while stream.wire().read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
    scene.bridge.until("the outboxes to fill", |m| m.get(HELD) > (READERS * ECHO / 2) as f64).await;
    scene.bridge.until("closes", |m| m.closes("native", "silent") == READERS as f64).await;
    // The bytes are read to no avail: the wait for the client's answer does not begin anew, which could take 30 s.
    scene.bridge.settles("descriptors", READERS, Bridge::descriptors).await;
    assert!(readers.try_join_next().is_none(), "they read on");
    let row = scene
        .over(Verdict {
            sent: format!("640 KiB to be echoed to each of {READERS} clients that read a byte a second"),
            bound_mib: 128,
            ended: "1001 `silent` (2 s here); dropped 3 s later",
            closed_to_newcomers: false,
        })
        .await;
    drop(readers);
    row
}

/// As [`open`], with segments and a window as small as they may be over a network: loopback's own are so large
/// that the bridge's kernel takes megabytes for a client that reads nothing.
async fn open_over_a_network(from: Ipv4Addr, to: SocketAddr, path: &str) -> Stream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_zero_linger().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket2::SockRef::from(&socket).set_tcp_mss(1460).unwrap();
    socket.bind((from, 0).into()).unwrap();
    upgraded(Stream::over(socket.connect(to).await.unwrap(), to).await.unwrap(), path).await
}

/// Subscribing and unsubscribing without an end.
pub async fn subscription_storm() -> Row {
    const ATTACKERS: usize = 200;
    const CHANNELS: [&str; 6] = ["files", "diagnostics", "ai-response", "search", "validation", "git"];
    let scene = shipped().open("subscription_storm").await;
    let (to, end) = (scene.bridge.address, scene.end());
    let mut storm = Vec::new();
    for n in 0..1200 {
        let (kind, channel) = (["subscribe", "unsubscribe"][n % 2], CHANNELS[n / 2 % CHANNELS.len()]);
        storm.extend(frame(TEXT, format!(r#"{{"type":"{kind}","channel":"{channel}"}}"#).as_bytes()));
    }
    let storm = Arc::new(storm);
    let codes = swarm(ATTACKERS, move |n, turnstile| {
        let storm = storm.clone();
        async move {
            let mut codes = Vec::new();
            while Instant::now() < end {
                let mut stream = turnstile.pass(open(address(n), to, "/ws")).await;
                stream.write_all(&storm).await.unwrap();
                codes.push(close_code(&read_to_end(&mut stream).await));
            }
            codes
        }
    })
    .await;
    let codes = tally(codes.into_iter().flatten());
    assert_eq!(codes.keys().collect::<Vec<_>>(), [&Some(1008)], "{codes:?}");
    let count = codes[&Some(1008)];
    let told = scene.bridge.metrics().await.errors("channels", "RATE_LIMITED");
    // The buckets fill again a little while they are emptied.
    assert!((1.0..1.1).contains(&(told / (count * 600) as f64)), "{told}");
    scene
        .bridge
        .until("closes, and no subscription left but the watched one", |m| {
            m.closes("channels", "control_flood") == count as f64
                && m.sum("pusher_bridge_subscriptions{") == 1.0
        })
        .await;
    let seen = scene.sandbox.ever_subscribed();
    let allowed: BTreeSet<&str> = CHANNELS.into_iter().chain(["agent-status"]).collect();
    assert!(seen.iter().all(|channel| allowed.contains(channel.as_str())), "{seen:?}");
    scene
        .over(Verdict {
            sent: format!(
                "1,200 subscribes and unsubscribes on each of {count} connections, {ATTACKERS} at once"
            ),
            bound_mib: 16,
            ended: "`RATE_LIMITED` after 100, 1008 `control_flood` after 600 of those",
            closed_to_newcomers: false,
        })
        .await
}

/// Clients that are told to go, and neither read it nor go.
pub async fn closes_never_read() -> Row {
    const COUNT: usize = 1000;
    const PER_ADDRESS: usize = 50;
    let scene = shipped().open("closes_never_read").await;
    let to = scene.bridge.address;
    let held = swarm(COUNT, move |n, turnstile| async move {
        let mut stream = turnstile.pass(open(address(n / PER_ADDRESS), to, NATIVE)).await;
        stream.write_all(&frame(0xFF, b"x")).await.unwrap();
        stream
    })
    .await;
    // The gauges fall at once, the sockets when the wait for the client's answer is over.
    scene.bridge.until("closes", |m| m.closes("native", "protocol_error") == COUNT as f64).await;
    scene.bridge.settles("descriptors", COUNT / 10, Bridge::descriptors).await;
    let row = scene
        .over(Verdict {
            sent: format!("a broken frame on each of {COUNT} connections, and then no more reading"),
            bound_mib: 16,
            ended: "1002 `protocol_error`; dropped 3 s later",
            closed_to_newcomers: false,
        })
        .await;
    drop::<Vec<Stream>>(held);
    row
}
