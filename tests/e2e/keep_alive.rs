//! Several requests on one connection.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::bridge::{SHIPPED, token};
use crate::support::raw::{Answer, TEXT, auth, frame, upgrade};
use crate::support::{Bridge, Raw, patiently};

const PATH: &str = "/ws/content/gen_1";

async fn start() -> Bridge {
    Bridge::with(SHIPPED, |config| config.server.health_path = Some("/healthz".to_owned())).await
}

/// A request that lets another follow.
fn plain(line: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
}

fn refusals(bridge: &Bridge, reason: &str) -> f64 {
    bridge.metric(&format!(r#"pusher_bridge_refusals_total{{route="none",reason="{reason}"}}"#))
}

#[track_caller]
fn assert_problem(answer: &Answer, status: u16) {
    assert_eq!((answer.status, answer.header("content-type").as_str()), (status, "application/problem+json"));
    let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(problem["status"], status);
    assert!(!problem["detail"].as_str().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_may_follow_other_requests() {
    let bridge = start().await;
    let mut raw = Raw::connect(bridge.address()).await;
    for (line, status, connection) in [
        ("GET /nowhere", 404, ""),
        ("GET /healthz", 200, ""),
        ("GET /ws/content/gen_1", 426, "Upgrade"),
        ("GET /ws/content/a%20b", 400, ""),
        ("DELETE /healthz", 405, ""),
    ] {
        raw.send(plain(line)).await;
        let head = raw.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        // As on a connection of its own.
        assert!(head.contains("\r\nContent-Type: ") && !head.contains("Sec-Websocket"), "{head}");
        let answer = raw.after(head).await;
        assert_eq!(answer.header("connection"), connection, "{line}");
    }
    raw.send("HEAD /healthz HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    raw.upgrade(PATH).await;
    raw.authenticate(&token("123")).await;
    bridge.sandbox.trigger("content-generation-gen_1", "e", "1");
    assert_eq!(raw.frame().await.json()["type"], "e");
    assert_eq!(refusals(&bridge, "unknown_path"), 1.0);
    assert_eq!(bridge.metric(r#"pusher_bridge_connections{route="none",phase="handshake"}"#), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_turn_and_frames_behind_the_last_are_heard() {
    let bridge = start().await;
    let mut bytes = ["GET /nowhere", "GET /healthz", "GET /ws/native"].map(plain).concat().into_bytes();
    bytes.extend(upgrade("/ws/roblox", &[]).into_bytes());
    bytes.extend(auth(&token("123")));
    // However the network cuts it.
    for cut in [bytes.len(), 150, 7] {
        let mut raw = Raw::connect(bridge.address()).await;
        for part in bytes.chunks(cut) {
            raw.send(part).await;
        }
        for status in [404, 200, 426, 101] {
            assert_eq!(raw.answer().await.status, status, "in parts of {cut}");
        }
        assert_eq!(raw.frame().await.json()["type"], "auth_response");
    }
}

/// What may be frames is none, and a client that waits for the end gets it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_heard_behind_who_asks_for_an_upgrade_or_does_not_ask_for_more() {
    let bridge = start().await;
    for (first, status) in [
        ("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 200),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(), 200),
        ("GET /nowhere HTTP/1.0\r\n\r\n".to_owned(), 404),
        (upgrade("/nowhere", &[("Connection", "keep-alive, Upgrade")]), 404),
        (upgrade(PATH, &[("Connection", "keep-alive")]), 400),
        (upgrade(PATH, &[("Connection", "keep-alive"), ("Upgrade", "h2c")]), 426),
    ] {
        let mut raw = Raw::connect(bridge.address()).await;
        raw.try_send([first.as_bytes(), plain("GET /healthz").as_bytes(), &frame(TEXT, b"{}")].concat())
            .await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, status, "{first}");
        assert!(answer.header("connection").contains("close"), "{answer:?}");
        assert_eq!(raw.rest().await, "", "{first}");
    }
    let mut old = Raw::connect(bridge.address()).await;
    for _ in 0..2 {
        old.send("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!(old.answer().await.header("connection"), "keep-alive", "an old version says so");
    }
}

/// Libraries and proxies keep their connections without a word, as HTTP/1.1 has it.
#[tokio::test(flavor = "multi_thread")]
async fn connections_to_endpoints_go_on_unless_the_client_says_otherwise() {
    let bridge = start().await;
    let post = |version: &str, connection: &str| {
        format!("POST /pusher/auth HTTP/{version}\r\nHost: a\r\n{connection}Content-Length: 3\r\n\r\na=b")
    };
    let mut raw = Raw::connect(bridge.address()).await;
    for _ in 0..3 {
        raw.send(post("1.1", "")).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.header("connection").as_str()), (401, ""));
    }
    raw.send(post("1.1", "Connection: close\r\n")).await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.header("connection").as_str()), (401, "close"));
    raw.ended().await;
    let mut old = Raw::connect(bridge.address()).await;
    old.send(post("1.0", "")).await;
    assert_eq!(old.answer().await.header("connection"), "close");
    old.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_no_request_and_a_large_one_is_the_end() {
    let bridge = start().await;
    let smuggled = plain("GET /healthz");
    let post = |headers: &str| {
        format!("POST /nowhere HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n{headers}\r\n")
    };
    let length = post(&format!("Content-Length: {}\r\n", smuggled.len()));
    let chunked = post("Transfer-Encoding: chunked\r\n");
    let mut raw = Raw::connect(bridge.address()).await;
    for request in [
        format!("{length}{smuggled}"),
        format!("{chunked}{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len()),
        format!("{chunked}0\r\n\r\n"),
        post("Content-Length: 0\r\n"),
        format!("{}{}", post("Content-Length: 65536\r\n"), "x".repeat(65_536)),
    ] {
        raw.send(request).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.header("connection").as_str()), (404, ""));
    }
    // The body may come later than its head.
    raw.send(length).await;
    raw.send(&smuggled[..9]).await;
    raw.send(&smuggled[9..]).await;
    assert_eq!(raw.answer().await.status, 404);
    raw.send(plain("DELETE /healthz")).await;
    assert_eq!(raw.answer().await.status, 405);

    let large = format!("{}{}", post("Content-Length: 65537\r\n"), "x".repeat(65_537));
    let endless = format!("{chunked}{}", "4\r\nbomb\r\n".repeat(17_000));
    let waits = post("Content-Length: 3\r\nExpect: 100-continue\r\n");
    let two_lengths = format!("{}0\r\n\r\n", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"));
    for request in [large, endless, waits, two_lengths] {
        let mut raw = Raw::connect(bridge.address()).await;
        raw.try_send(&request).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 404, "and no 100 before it");
        assert_eq!(answer.header("connection"), "close", "{}", &request[..100]);
        raw.ended().await;
    }
    assert_eq!(refusals(&bridge, "unknown_path"), 10.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let bridge = start().await;
    let mut raw = Raw::connect(bridge.address()).await;
    raw.send("POST /nowhere HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nab")
        .await;
    let answer = raw.answer().await;
    assert_problem(&answer, 404);
    assert_eq!(answer.header("connection"), "close");
    raw.ended().await;
    assert_eq!((refusals(&bridge, "unknown_path"), refusals(&bridge, "timeout")), (1.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_the_end_also_behind_others() {
    let bridge = Bridge::with(SHIPPED, |config| {
        config.server.health_path = Some("/healthz".to_owned());
        config.server.header_bytes_max = 131_072;
    })
    .await;
    let fields: String = (0..70).map(|n| format!("X-{n}: 1\r\n")).collect();
    for (junk, status, words) in [
        ("\x16\x03\x01 no HTTP\r\n\r\n".to_owned(), 400, "method"),
        ("GET / HTTP/3.0\r\n\r\n".to_owned(), 400, "version"),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), 400, "header"),
        ("POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n".to_owned(), 400, "content-length"),
        (format!("GET / HTTP/1.1\r\n{fields}\r\n"), 431, "too many fields"),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(300_000)), 431, "too large"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000)), 414, "too long"),
    ] {
        for before in [0, 2] {
            let mut raw = Raw::connect(bridge.address()).await;
            for _ in 0..before {
                raw.send(plain("GET /healthz")).await;
                assert_eq!(raw.answer().await.status, 200);
            }
            raw.try_send(&junk).await;
            let answer = raw.answer().await;
            assert_problem(&answer, status);
            assert!(answer.body.contains(words), "{answer:?}");
            assert_eq!(answer.header("connection"), "close");
            assert!(answer.header("date").ends_with(" GMT"), "{answer:?}");
            raw.ended().await;
        }
    }
    bridge.until_empty().await;
    bridge.becomes(r#"pusher_bridge_refusals_total{route="none",reason="malformed"}"#, 14.0).await;
    for (cause, count) in [("malformed", 8.0), ("head_too_large", 4.0), ("target_too_long", 2.0)] {
        let series = format!(r#"pusher_bridge_unreadable_requests_total{{cause="{cause}"}}"#);
        assert_eq!(bridge.metric(&series), count, "{cause}");
    }
    // So it is elsewhere.
    let answer = Raw::ask(bridge.running.admin_address, "junk\r\n\r\n").await;
    assert_problem(&answer, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_so_many_requests() {
    let bridge = start().await;
    let mut raw = Raw::connect(bridge.address()).await;
    for n in 1..=100 {
        raw.send(plain("GET /healthz")).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.header("connection") == "close"), (200, n == 100), "{n}");
    }
    raw.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_its_time_and_nobody_is_refused_for_having_no_more() {
    const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
    let bridge = Bridge::with(SHIPPED, |config| {
        config.server.health_path = Some("/healthz".to_owned());
        config.server.header_timeout = HEADER_TIMEOUT;
    })
    .await;
    let (mut idle, mut half) = (Raw::connect(bridge.address()).await, Raw::connect(bridge.address()).await);
    let mut at_once = Raw::connect(bridge.address()).await;
    at_once.send(plain("GET /healthz") + "GET /heal").await;
    assert_eq!(at_once.answer().await.status, 200);
    // Longer than one request may take, with pauses that are far shorter.
    let started = Instant::now();
    while started.elapsed() < HEADER_TIMEOUT.mul_f64(1.25) {
        for raw in [&mut idle, &mut half] {
            raw.send(plain("GET /healthz")).await;
            assert_eq!(raw.answer().await.status, 200);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    half.send("GET /healthz HTTP/1.1\r\nHost: a\r\n").await;
    let answered = Instant::now();
    idle.ended().await;
    half.ended().await;
    at_once.ended().await;
    assert!(answered.elapsed() < Duration::from_secs(8), "not only when the answer's time is over");
    bridge.until_empty().await;
    bridge.becomes(r#"pusher_bridge_refusals_total{route="none",reason="timeout"}"#, 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_been_answered_makes_room_as_who_has_not_asked() {
    let bridge = Bridge::with(SHIPPED, |config| {
        config.server.health_path = Some("/healthz".to_owned());
        config.server.connections_max = 20;
        config.server.trusted_proxies.clear();
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::connect_from([127, 0, 0, 9], bridge.address()).await;
        raw.send(plain("GET /healthz")).await;
        assert_eq!(raw.answer().await.status, 200);
        idle.push(raw);
    }
    let mut newcomer = Raw::connect_from([127, 0, 0, 8], bridge.address()).await;
    newcomer.upgrade("/ws/native").await;
    idle.remove(0).ended().await;
    assert_eq!(refusals(&bridge, "displaced"), 0.0, "nothing was asked");
    // Beyond the limit there is an answer, and no more.
    let mut own = Raw::connect_from([127, 0, 0, 9], bridge.address()).await;
    own.send(plain("GET /healthz")).await;
    let answer = own.answer().await;
    assert_eq!((answer.status, answer.header("connection").as_str()), (200, "close"));
    own.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_for_no_idle_connection() {
    let bridge = Bridge::with(SHIPPED, |config| {
        config.server.health_path = Some("/healthz".to_owned());
        config.server.close_window = Duration::ZERO;
    })
    .await;
    let mut raw = Raw::connect(bridge.address()).await;
    raw.send(plain("GET /healthz")).await;
    assert_eq!(raw.answer().await.status, 200);
    bridge.running.status.start_draining();
    patiently("the end", raw.ended()).await;
    let mut late = Raw::connect(bridge.address()).await;
    late.send(plain("GET /healthz")).await;
    let answer = late.answer().await;
    assert_eq!((answer.status, answer.header("connection").as_str()), (503, "close"));
    late.ended().await;
    assert_eq!(refusals(&bridge, "draining"), 0.0);
}
