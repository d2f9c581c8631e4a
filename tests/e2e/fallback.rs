//! What no route takes is passed on: to an upstream that is a plain socket, so that every byte is seen.

use std::sync::Arc;
use std::time::Duration;

use pusher_bridge::config::Config;
use pusher_bridge::net::destination::Destination;
use pusher_bridge::proxy::settings::{Rule, Settings};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::reload::{next, route};
use crate::support::bridge::{SHIPPED, token};
use crate::support::raw::{TEXT, frame, upgrade};
use crate::support::tls::{Authority, serve};
use crate::support::{Bridge, Raw, patiently, temporary_directory};

pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const WAITING: &str = "pusher_bridge_fallback_waiting_connections";
pub const CUT: Duration = Duration::from_millis(200);

/// What stands behind, as a plain socket.
pub struct Upstream {
    pub listener: TcpListener,
    pub to: Arc<Destination>,
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self { listener, to: Arc::new(Destination::parse(&url).unwrap()) }
    }

    async fn accept(&self) -> Raw {
        let (stream, _) = patiently("a connection", self.listener.accept()).await.unwrap();
        Raw::of(stream)
    }

    /// The next connection, and the head that came by it.
    pub async fn asked(&self) -> (Raw, String) {
        let mut raw = self.accept().await;
        let head = raw.head().await;
        (raw, head)
    }

    /// What came by connections that ended, before a request that is sent now.
    async fn until_fence(&self, bridge: &Bridge) -> Vec<String> {
        let mut fence = Raw::connect(bridge.address()).await;
        fence.send("GET /fence HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        let mut seen = Vec::new();
        loop {
            let mut behind = self.accept().await;
            let begins = behind.until("\r\n\r\n").await;
            if begins.starts_with("GET /fence ") {
                behind.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
                assert_eq!(fence.answer().await.status, 200);
                return seen;
            }
            seen.push(begins + &behind.rest().await);
        }
    }

    pub fn metric(&self, bridge: &Bridge, name: &str, label: &str) -> f64 {
        let comma = if label.is_empty() { "" } else { "," };
        bridge
            .metric(&format!(r#"pusher_bridge_fallback_{name}{{upstream="{}"{comma}{label}}}"#, self.to.name))
    }
}

pub async fn start_with(change: impl FnOnce(&mut Settings)) -> (Bridge, Upstream) {
    let upstream = Upstream::start().await;
    let mut settings = Settings { to: Some(upstream.to.clone()), ..Settings::of_nothing() };
    change(&mut settings);
    let bridge = Bridge::with(SHIPPED, |config: &mut Config| {
        config.fallback = Some(settings);
        config.server.health_path = Some("/healthz".to_owned());
        config.server.close_window = CUT;
        config.server.trusted_proxies.clear();
        // Each has its own connections to the upstream.
        config.server.workers = 1;
    })
    .await;
    (bridge, upstream)
}

pub async fn start() -> (Bridge, Upstream) {
    start_with(|_| {}).await
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: api.example\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_pass_with_who_asks_and_connections_are_kept_on_both_sides() {
    let (bridge, upstream) = start().await;
    let mut client = Raw::connect(bridge.address()).await;
    client
        .send(
            "GET /a/b?c=%20d HTTP/1.1\r\nHost: api.example:80\r\nConnection: keep-alive, x-mine\r\nX-Mine: 1\r\n\
             Cookie: a=b\r\nX-Forwarded-For: 203.0.113.1\r\nKeep-Alive: timeout=3\r\n\r\n",
        )
        .await;
    let (mut behind, head) = upstream.asked().await;
    let mut lines: Vec<&str> = head.trim_end().split("\r\n").collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "GET /a/b?c=%20d HTTP/1.1",
            "Cookie: a=b",
            "Forwarded: for=127.0.0.1;host=\"api.example:80\";proto=http",
            "Host: api.example:80",
            "Via: 1.1 pusher-bridge",
            "X-Forwarded-For: 127.0.0.1",
            "X-Forwarded-Host: api.example:80",
            "X-Forwarded-Proto: http",
        ]
    );
    behind
        .send("HTTP/1.1 201 Made\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nConnection: x-own\r\nX-Own: 1\r\nContent-Length: 3\r\n\r\nabc")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (201, "abc"));
    assert_eq!(answer.header("set-cookie"), "a, b");
    assert_eq!(answer.header("via"), "1.1 pusher-bridge");
    assert_eq!((answer.header("x-own"), answer.header("connection")), (String::new(), String::new()));
    for _ in 0..150 {
        client.send(get("/again")).await;
        assert!(behind.head().await.starts_with("GET /again HTTP/1.1\r\n"));
        behind.send(OK).await;
        assert_eq!(client.answer().await.body, "ok");
    }
    assert_eq!(upstream.metric(&bridge, "connects_total", ""), 1.0);
    assert_eq!(upstream.metric(&bridge, "answers_total", r#"status="2xx""#), 151.0);
    assert_eq!(upstream.metric(&bridge, "body_bytes_total", r#"direction="out""#), 303.0);
    assert_eq!(upstream.metric(&bridge, "requests", ""), 0.0);
    // Routes, endpoints and the health path are this bridge's own.
    client.send(get("/healthz")).await;
    assert_eq!(client.answer().await.status, 200);
    let mut old = Raw::login(bridge.address(), "/ws/content/gen_1", &token("123")).await;
    bridge.sandbox.trigger("content-generation-gen_1", "e", "1");
    assert_eq!(old.frame().await.json()["type"], "e");
    assert_eq!(Raw::ask(bridge.address(), get("/ws/content/gen_1")).await.status, 426);
}

/// A connection that waits is taken down to its socket, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_waits_goes_on_and_ends_in_its_time() {
    let (bridge, upstream) = start_with(|settings| settings.keep_alive = Duration::from_secs(2)).await;
    let mut client = Raw::connect(bridge.address()).await;
    client.send(get("/a")).await;
    let (mut behind, _) = upstream.asked().await;
    behind.send(OK).await;
    assert_eq!(client.answer().await.status, 200);
    bridge.becomes(WAITING, 1.0).await;
    client.send("GET /b HT").await;
    bridge.becomes(WAITING, 0.0).await;
    client.send("TP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(behind.head().await.starts_with("GET /b "));
    behind.send(OK).await;
    assert_eq!(client.answer().await.status, 200);
    client.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_and_nothing_is_read_before_it_is_taken() {
    const ALL: usize = 96 << 20;
    const HELD_MAX: usize = 48 << 20;
    let (bridge, upstream) = start().await;
    let mut client = Raw::connect(bridge.address()).await;
    client.send(format!("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {ALL}\r\n\r\n")).await;
    let (mut behind, head) = upstream.asked().await;
    assert!(head.contains(&format!("\r\nContent-Length: {ALL}\r\n")), "{head}");
    let part = vec![b'x'; 1 << 20];
    let mut sent = 0;
    // Nobody reads: what is taken is the sockets' buffers and little more.
    while sent < ALL && timeout(Duration::from_secs(1), client.send(&part)).await.is_ok() {
        sent += part.len();
    }
    assert!(sent < HELD_MAX, "{sent} bytes were taken");
    let taken = upstream.metric(&bridge, "body_bytes_total", r#"direction="in""#);
    assert!(taken < HELD_MAX as f64);
    drop(client);
    behind.read_some(1).await;
    behind.ended().await;
    // The other way, without a length.
    let mut client = Raw::connect(bridge.address()).await;
    client.send(get("/down")).await;
    let (mut behind, _) = upstream.asked().await;
    behind.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = [b"100000\r\n".as_slice(), &part, b"\r\n"].concat();
    let mut sent = 0;
    while sent < ALL && timeout(Duration::from_secs(1), behind.send(&chunk)).await.is_ok() {
        sent += part.len();
    }
    assert!(sent < HELD_MAX, "{sent} bytes were taken");
    drop(client);
    behind.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_trailers_and_announcements_pass_both_ways() {
    let (bridge, upstream) = start().await;
    let mut client = Raw::connect(bridge.address()).await;
    client
        .send("POST /a HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await;
    let (mut behind, head) = upstream.asked().await;
    for field in ["Te: trailers", "Connection: TE", "Trailer: X-Sum", "Transfer-Encoding: chunked"] {
        assert!(
            head.to_lowercase().contains(&format!("\r\n{}\r\n", field.to_lowercase())),
            "{field}: {head}"
        );
    }
    assert_eq!(behind.exactly(8).await, b"3\r\nabc\r\n", "a part passes before the next one comes");
    behind.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    let early = client.head().await;
    assert!(early.starts_with("HTTP/1.1 103 Early Hints\r\n") && early.contains("Link: </a>"), "{early}");
    client.send("0\r\nX-Sum: 7\r\n\r\n").await;
    let rest = String::from_utf8(behind.exactly("0\r\nX-Sum: 7\r\n\r\n".len()).await).unwrap();
    assert!(rest.eq_ignore_ascii_case("0\r\nX-Sum: 7\r\n\r\n"), "{rest}");
    behind
        .send("HTTP/1.1 200 OK\r\nTrailer: X-End\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\nX-End: 8\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Transfer-Encoding: chunked"), "{head}");
    let body = String::from_utf8(client.exactly("2\r\nde\r\n0\r\nx-end: 8\r\n\r\n".len()).await).unwrap();
    assert!(body.eq_ignore_ascii_case("2\r\nde\r\n0\r\nx-end: 8\r\n\r\n"), "{body}");
    client.send(get("/b")).await;
    assert!(behind.head().await.starts_with("GET /b "), "the connection goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_asked_for_by_the_upstream_or_not_at_all() {
    let (bridge, upstream) = start().await;
    let ask = "POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    let mut client = Raw::connect(bridge.address()).await;
    client.send(ask).await;
    let (mut behind, head) = upstream.asked().await;
    assert!(head.contains("\r\nExpect: 100-continue\r\n"), "{head}");
    behind.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc").await;
    assert_eq!(behind.exactly(3).await, b"abc");
    behind.send(OK).await;
    assert_eq!(client.answer().await.body, "ok");
    client.send(ask).await;
    behind.head().await;
    behind.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("connection").as_str()), (413, "close"));
    client.ended().await;
    behind.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_and_old_versions() {
    let (bridge, upstream) = start().await;
    let mut client = Raw::connect(bridge.address()).await;
    client.send("HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut behind, _) = upstream.asked().await;
    behind.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
    assert!(client.head().await.contains("\r\nContent-Length: 1000\r\n"));
    for answer in ["204 No Content\r\n", "304 Not Modified\r\nETag: \"a\"\r\n"] {
        client.send(get("/b")).await;
        behind.head().await;
        behind.send(format!("HTTP/1.1 {answer}\r\n")).await;
        assert!(client.head().await.starts_with(&format!("HTTP/1.1 {}", &answer[..3])));
    }
    // Its end is its connection's.
    let mut old = Raw::connect(bridge.address()).await;
    old.send("GET /c HTTP/1.0\r\n\r\n").await;
    let head = behind.head().await;
    assert!(head.starts_with("GET /c HTTP/1.1\r\n") && head.contains(&upstream.to.name), "{head}");
    behind.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n").await;
    let text = old.rest().await;
    assert!(text.ends_with("\r\n\r\nab") && !text.contains("chunked"), "{text}");
    client.send(get("/d")).await;
    behind.head().await;
    behind.send("HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    drop(behind);
    let head = client.head().await;
    assert!(head.contains("Transfer-Encoding: chunked"), "{head}");
    client.exactly("d\r\nuntil the end\r\n0\r\n\r\n".len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_is_told_and_a_request_that_was_not_sent_is_sent_again() {
    let (bridge, upstream) = start_with(|settings| settings.answer_timeout = CUT).await;
    let failures =
        |reason: &str| upstream.metric(&bridge, "failures_total", &format!(r#"reason="{reason}""#));
    let mut client = Raw::connect(bridge.address()).await;
    client.send(get("/a")).await;
    let (mut behind, _) = upstream.asked().await;
    behind.send(OK).await;
    assert_eq!(client.answer().await.status, 200);
    // It was kept, and is closed meanwhile.
    drop(behind);
    client.send(get("/b")).await;
    let (behind, _) = upstream.asked().await;
    drop(behind);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("content-type").as_str()), (502, "application/problem+json"));
    assert_eq!(failures("broken"), 1.0);
    for (answer, reason, status) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "bad_answer", 502),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "bad_answer",
            502,
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "bad_answer", 502),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "bad_answer", 502),
        ("HTTP/1.1 200 OK\r\nX : a\r\n\r\n", "bad_answer", 502),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "bad_answer", 502),
        ("SSH-2.0-x\r\n\r\n", "bad_answer", 502),
        ("HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok", "bad_answer", 502),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\n\nok", "bad_answer", 502),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok", "bad_answer", 502),
        ("", "answer_timeout", 504),
    ] {
        let before = failures(reason);
        client.send(get("/c")).await;
        let (mut behind, _) = upstream.asked().await;
        behind.send(answer).await;
        assert_eq!(client.answer().await.status, status, "{answer:?}");
        assert_eq!(failures(reason), before + 1.0, "{answer:?}");
    }
    // Within its body there is nothing to be told but the end.
    client.send(get("/d")).await;
    let (mut behind, _) = upstream.asked().await;
    behind.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await;
    client.head().await;
    drop(behind);
    assert_eq!(client.rest().await, "abc");
    assert_eq!(failures("answer_broken"), 1.0);
    drop(upstream.listener);
    let answer = Raw::ask(bridge.address(), get("/e")).await;
    assert_eq!((answer.status, answer.header("content-type").as_str()), (502, "application/problem+json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_ends_and_limits_hold() {
    let (bridge, upstream) = start_with(|settings| {
        settings.idle_timeout = CUT;
        settings.limits.requests_per_address = 1;
        settings.limits.body_bytes_max = Some(10);
    })
    .await;
    let post = |length: usize| format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    let mut slow = Raw::connect(bridge.address()).await;
    slow.send(post(5) + "abc").await;
    let (behind, _) = upstream.asked().await;
    assert_eq!(slow.answer().await.status, 408);
    slow.ended().await;
    behind.ended().await;
    let mut large = Raw::connect(bridge.address()).await;
    large.send(post(11)).await;
    assert_eq!(large.answer().await.status, 413);
    let mut chunked = Raw::connect(bridge.address()).await;
    chunked
        .send(
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n",
        )
        .await;
    assert_eq!(chunked.answer().await.status, 413);
    // Its head and what is wrong came at once: nothing is sent of it.
    upstream.accept().await.ended().await;
    let mut first = Raw::connect(bridge.address()).await;
    first.send(get("/a")).await;
    let (mut behind, _) = upstream.asked().await;
    let refused = Raw::ask(bridge.address(), get("/b")).await;
    assert_eq!((refused.status, refused.header("retry-after").as_str()), (429, "5"));
    behind.send(OK).await;
    assert_eq!(first.answer().await.status, 200);
    // Who takes nothing of a large answer is cut, and so is what is behind it.
    first.send(get("/large")).await;
    behind.head().await;
    behind.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
    let part = vec![b'x'; 1 << 20];
    while behind.try_send(&part).await {}
    let gone = upstream.metric(&bridge, "failures_total", r#"reason="client_gone""#);
    assert_eq!(gone, 1.0);
    // And an answer that pauses.
    let mut waiting = Raw::connect(bridge.address()).await;
    waiting.send(get("/pause")).await;
    let (mut behind, _) = upstream.asked().await;
    behind.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await;
    waiting.head().await;
    assert_eq!(waiting.rest().await, "abc");
}

/// Each is answered 400, its connection is closed, and nothing of it or behind it is seen by the upstream.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_smuggler_likes_does_not_pass() {
    let (bridge, upstream) = start().await;
    let with = |field: &str| format!("POST /a HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
    for request in [
        with("Content-Length: 5\r\nTransfer-Encoding: chunked") + "0\r\n\r\n",
        with("Transfer-Encoding: chunked\r\nContent-Length: 5") + "0\r\n\r\n",
        with("Content-Length: 3\r\nContent-Length: 3") + "abc",
        with("Content-Length: 3, 3") + "abc",
        with("Content-Length: +3") + "abc",
        with("Transfer-Encoding: chunked, identity") + "0\r\n\r\n",
        with("Transfer-Encoding: xchunked") + "0\r\n\r\n",
        with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked") + "0\r\n\r\n",
        with("X: a\r\n b"),
        with("X: a\nY: b"),
        "GET /a HTTP/1.1\nHost: a\n\n".to_owned(),
        with("X: a\rY: b"),
        with("X: a\0b"),
        with("Content-Length : 3") + "abc",
        with("X\u{e9}: 1"),
        with("Connection: Content-Length\r\nContent-Length: 3") + "abc",
        with("Connection: Host"),
        with("Host: b"),
        "GET http://b/a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET  /a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        "GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_owned(),
    ] {
        let mut client = Raw::connect(bridge.address()).await;
        client.try_send(request.clone() + &get("/smuggled")).await;
        let answer = client.answer().await;
        assert!(matches!(answer.status, 400 | 404), "{request:?}: {answer:?}");
        assert_eq!(answer.header("connection"), "close", "{request:?}");
        assert_eq!(client.rest().await, "", "{request:?}");
    }
    assert_eq!(upstream.until_fence(&bridge).await, Vec::<String>::new(), "nothing was passed on");
    // In a body it is found when its head has passed: the request ends, and nothing follows it.
    for chunks in
        ["1\nx\r\n0\r\n\r\n", "1;\u{e9}\r\nx\r\n0\r\n\r\n", "01x\r\nx\r\n0\r\n\r\n", "1\r\nxy\r\n0\r\n\r\n"]
    {
        let mut client = Raw::connect(bridge.address()).await;
        client.try_send(with("Transfer-Encoding: chunked") + chunks + &get("/smuggled")).await;
        assert_eq!(client.answer().await.status, 400, "{chunks:?}");
        assert_eq!(client.rest().await, "");
        // Perhaps it came so far.
        for seen in upstream.until_fence(&bridge).await {
            assert!(!seen.contains("smuggled") && !seen.ends_with("0\r\n\r\n"), "{chunks:?}: {seen:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_pass_as_bytes_after_the_upstream_has_agreed() {
    let (bridge, upstream) = start_with(|settings| settings.tunnel_timeout = Duration::from_secs(2)).await;
    let mut client = Raw::connect(bridge.address()).await;
    let early = frame(TEXT, b"early");
    client.send([upgrade("/live?x=1", &[]).as_bytes(), &early].concat()).await;
    let (mut behind, head) = upstream.asked().await;
    assert!(
        head.contains("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
            || head.contains("\r\nUpgrade: websocket\r\n"),
        "{head}"
    );
    assert!(head.contains("Sec-Websocket-Key: ") && head.starts_with("GET /live?x=1 "), "{head}");
    // By the same thread another request passes meanwhile.
    upstream.until_fence(&bridge).await;
    assert!(behind.is_silent(), "nothing passes before the 101");
    behind
        .send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("\r\nSec-WebSocket-Accept: x\r\n"), "{head}");
    assert_eq!(client.exactly(5).await, b"hello");
    assert_eq!(behind.exactly(early.len()).await, early);
    let large = vec![7; 1 << 20];
    let (_, got) = tokio::join!(client.send(&large), behind.exactly(1 << 20));
    assert!(got == large);
    assert_eq!(upstream.metric(&bridge, "tunnels", ""), 1.0);
    // One side has no more to say, the other has.
    client.finish().await;
    behind.send("more").await;
    assert_eq!(client.exactly(4).await, b"more");
    assert_eq!(behind.rest().await, "");
    client.ended().await;
    // Silence ends it.
    let mut client = Raw::connect(bridge.address()).await;
    client.send(upgrade("/live", &[])).await;
    let (mut behind, _) = upstream.asked().await;
    behind
        .send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    client.head().await;
    client.ended().await;
    // What is refused is an answer like any other, and the last.
    let mut client = Raw::connect(bridge.address()).await;
    client.send(upgrade("/live", &[])).await;
    let (mut behind, _) = upstream.asked().await;
    behind.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, answer.body.as_str(), answer.header("connection").as_str()),
        (403, "no", "close")
    );
    // A shutdown ends those that are there.
    let mut client = Raw::connect(bridge.address()).await;
    client.send(upgrade("/live", &[])).await;
    // By the connection that the refusal came by.
    behind.head().await;
    behind
        .send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    client.head().await;
    assert_eq!(upstream.metric(&bridge, "tunnels_opened_total", ""), 3.0);
    bridge.shutdown().await;
    client.ended().await;
    behind.read_some(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_sends_newcomers_elsewhere_and_leaves_what_is_under_way() {
    let (bridge, upstream) = start().await;
    let mut client = Raw::connect(bridge.address()).await;
    client.send(get("/a")).await;
    let (mut behind, _) = upstream.asked().await;
    let other = Upstream::start().await;
    let mut next = next(&bridge, SHIPPED);
    next.fallback = Some(Settings {
        to: Some(other.to.clone()),
        rules: vec![Rule { path: "/private/*".to_owned(), to: None }],
        ..Settings::of_nothing()
    });
    bridge.reload(next).await;
    behind.send(OK).await;
    assert_eq!(client.answer().await.body, "ok");
    client.send(get("/b")).await;
    let (mut behind, _) = other.asked().await;
    behind.send(OK).await;
    assert_eq!(client.answer().await.body, "ok");
    assert_eq!(Raw::ask(bridge.address(), get("/private/x")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_from_before_there_was_a_fallback_passes_nothing_on() {
    let bridge = Bridge::start().await;
    let mut client = Raw::connect(bridge.address()).await;
    let keep = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    client.send(keep("/nowhere")).await;
    assert_eq!(client.answer().await.status, 404);
    let upstream = Upstream::start().await;
    let mut next = next(&bridge, SHIPPED);
    next.fallback = Some(Settings { to: Some(upstream.to.clone()), ..Settings::of_nothing() });
    bridge.reload(next).await;
    client.send(keep("/page")).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("connection").as_str()), (503, "close"));
    client.ended().await;
    // And a new one does.
    let mut client = Raw::connect(bridge.address()).await;
    client.send(get("/page")).await;
    let (mut behind, head) = upstream.asked().await;
    assert!(head.starts_with("GET /page "));
    behind.send(OK).await;
    assert_eq!(client.answer().await.body, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_may_be_behind_tls() {
    let authority = Authority::new();
    let behind = Bridge::with(&(SHIPPED.to_owned() + &route("a", "")), |config| {
        config.server.health_path = Some("/healthz".to_owned());
        serve(config, &authority.sign("a.example"), None);
    })
    .await;
    let folder = temporary_directory("fallback-tls");
    let ca_file = folder.join("ca.pem");
    std::fs::write(&ca_file, authority.pem()).unwrap();
    let to = |host: &str| {
        let url = format!("https://{host}:{}", behind.address().port());
        Some(Arc::new(Destination::parse(&url).unwrap()))
    };
    let rule = Rule { path: "/other/*".to_owned(), to: to("localhost") };
    let settings = Settings { to: to("127.0.0.1"), rules: vec![rule], ..Settings::of_nothing() };
    let front = Bridge::with(SHIPPED, |config| {
        config.fallback = Some(settings);
        config.upstream.app.ca_file = Some(ca_file);
    })
    .await;
    let mut client = Raw::connect(front.address()).await;
    client.send(get("/healthz")).await;
    assert_eq!(client.answer().await.body, "ready\n");
    // The certificate is not for this name.
    client.send(get("/other/1")).await;
    assert_eq!(client.answer().await.status, 502);
    let mut socket = Raw::open(front.address(), "/a/1").await;
    behind.becomes(r#"pusher_bridge_connections{route="a",phase="live"}"#, 1.0).await;
    behind.sandbox.trigger("private-a-1", "e", "1");
    assert_eq!(socket.frame().await.json()["data"], 1);
    std::fs::remove_dir_all(folder).unwrap();
}
