//! The door: which requests are upgraded, and how the others are told.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::bridge::{SHIPPED, token};
use crate::support::raw::{Answer, Frame, TEXT, auth, frame, request, upgrade};
use crate::support::{Bridge, Raw, patiently};

const PATH: &str = "/ws/content/gen_1";

#[track_caller]
fn assert_deprecated(answer: &Answer) {
    assert_eq!(answer.header("deprecation"), "@1737417600");
    assert_eq!(answer.header("sunset"), "Mon, 30 Jun 2025 23:59:59 GMT");
    assert_eq!(
        answer.header("link"),
        "<https://example.com/migrate>; rel=\"deprecation\"; type=\"text/html\", \
         <https://example.com/sunset>; rel=\"sunset\", \
         <wss://ws-mt1.pusher.com/app/content-generation>; rel=\"successor-version\""
    );
}

#[track_caller]
fn assert_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(problem["status"], status);
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    assert!(answer.header("connection").contains("close"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_bears_the_deprecation_headers() {
    let bridge = Bridge::start().await;
    let answer = Raw::ask(bridge.address(), upgrade(PATH, &[])).await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("upgrade"), "websocket");
    assert_eq!(answer.header("connection"), "Upgrade");
    // RFC 6455 §1.3
    assert_eq!(answer.header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_deprecated(&answer);
    let current = Raw::ask(bridge.address(), upgrade("/ws", &[])).await;
    assert_eq!(current.status, 101);
    for name in ["deprecation", "sunset", "link"] {
        assert_eq!(current.header(name), "", "a route that is not deprecated has no {name}");
    }
    assert_eq!(
        bridge.metric(r#"pusher_bridge_deprecated_requests_total{route="content",phase="sunset"}"#),
        1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_off_route_is_nobodys_path() {
    let key = "zyrm8pvV2C9fJcBfhyXzvxbJVN/H7QLmbe0xJi1GhPU=";
    for (variables, status) in [(&[][..], 404), (&[("PUSHER_ENCRYPTION_MASTER_KEY", key)], 101)] {
        let bridge = Bridge::with_env(SHIPPED, variables, |_| {}).await;
        let answer = Raw::ask(bridge.address(), upgrade("/ws/secure/x", &[])).await;
        assert_eq!(answer.status, status);
        let other_kind = Raw::ask(bridge.address(), upgrade("/ws/secure/cache-x", &[])).await;
        assert_eq!(other_kind.status, if status == 101 { 400 } else { 404 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_stray_bits_or_without_padding_is_accepted() {
    let bridge = Bridge::start().await;
    for (key, accept) in [
        // RFC 6455 §4.1, and the same bytes as base64 writes them.
        ("AQIDBAUGBwgJCgsMDQ4PEC==", "OfS0wDaT5NoxF2gqm7Zj2YtetzM="),
        ("AQIDBAUGBwgJCgsMDQ4PEA==", "C/0nmHhBztSRGR1CwL6Tf4ZjwpY="),
        ("dGhlIHNhbXBsZSBub25jZQ", "RZWuh2JK/hL0RMgTNJFfZIAppXg="),
    ] {
        let answer = Raw::ask(bridge.address(), upgrade(PATH, &[("Sec-WebSocket-Key", key)])).await;
        assert_eq!(answer.status, 101, "{key}");
        assert_eq!(answer.header("sec-websocket-accept"), accept, "made of the text as it came");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_is_not_found() {
    let bridge = Bridge::start().await;
    for path in
        ["/", "/ws/", "/ws/content", "/ws%2Fcontent/1", "/ws/content/a/b", "/WS/native", "/metrics", "//ws"]
    {
        let answer = Raw::ask(bridge.address(), upgrade(path, &[])).await;
        assert_problem(&answer, 404);
        assert_eq!(answer.header("deprecation"), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_upgrade_the_client_is_told_which() {
    let bridge = Bridge::start().await;
    for changes in [
        &[("Upgrade", ""), ("Connection", "")][..],
        &[("Upgrade", "h2c")],
        &[("Sec-WebSocket-Version", "8")],
        &[("Sec-WebSocket-Version", "")],
        &[("Sec-WebSocket-Version", "013")],
        &[("+Sec-WebSocket-Version", "8")],
    ] {
        let answer = Raw::ask(bridge.address(), upgrade(PATH, changes)).await;
        assert_problem(&answer, 426);
        assert_eq!(answer.header("upgrade"), "websocket");
        assert_eq!(answer.header("sec-websocket-version"), "13");
        assert_deprecated(&answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_upgrade_is_a_bad_request() {
    let bridge = Bridge::start().await;
    for changes in [
        &[("Connection", "")][..],
        &[("Connection", "keep-alive")],
        &[("Sec-WebSocket-Key", "")],
        &[("Sec-WebSocket-Key", "c2hvcnQ=")],
        &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=")],
        &[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZ_")],
        &[("Sec-WebSocket-Key", "!!!!!!!!!!!!!!!!!!!!!!!!")],
        &[("+Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")],
        &[("Host", "")],
        &[("+Host", "legacy.example.com")],
        &[("+Host", "other.example.com")],
        &[("Host", "a b")],
        &[("Host", "legacy.example.com/path")],
        &[("+Content-Length", "5")],
        &[("+Transfer-Encoding", "chunked")],
    ] {
        let answer = Raw::ask(bridge.address(), upgrade(PATH, changes)).await;
        assert_problem(&answer, 400);
        assert_deprecated(&answer);
    }
    for line in
        [format!("GET {PATH} HTTP/1.0"), format!("POST {PATH} HTTP/1.1"), format!("HEAD {PATH} HTTP/1.1")]
    {
        let mut raw = Raw::connect(bridge.address()).await;
        raw.send(request(&line, &[])).await;
        if line.starts_with("HEAD") {
            // Its answer has no body, whatever its length says.
            raw.ended().await;
            continue;
        }
        let answer = raw.answer().await;
        assert_problem(&answer, 400);
        assert_deprecated(&answer);
        raw.ended().await;
    }
    let series = r#"pusher_bridge_refusals_total{route="content",reason="malformed"}"#;
    assert_eq!(bridge.metric(series), 18.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn path_values_that_no_channel_can_hold_are_refused() {
    let bridge = Bridge::start().await;
    let long = format!("/ws/content/{}", "x".repeat(201));
    for path in [
        "/ws/content/a%20b",
        "/ws/content/a%2Fb",
        "/ws/content/%00",
        "/ws/content/%ff",
        "/ws/content/%zz",
        "/ws/content/%C3%A9",
        "/ws/content/a%0D%0Ab",
        "/ws/content/%",
        long.as_str(),
    ] {
        let answer = Raw::ask(bridge.address(), upgrade(path, &[])).await;
        assert_problem(&answer, 400);
        assert_deprecated(&answer);
    }
    // Decoded it is legal, and the same channel.
    let mut client = bridge.login("/ws/content/%67en_1?x=1").await;
    bridge.sandbox.trigger("content-generation-gen_1", "e", "1");
    assert_eq!(client.json().await["type"], "e");
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_are_checked_where_the_route_lists_them() {
    let bridge = Bridge::start_with(
        r#"
[[routes]]
name = "browser"
group = "typed-api"
path = "/browser/{session_id}"
channel = "content-generation-{session_id}"
shares = ["content"]
origins = ["https://app.example.com", "https://*.example.org"]
"#,
    )
    .await;
    for (origin, status) in [
        ("https://app.example.com", 101),
        ("https://a.example.org", 101),
        ("", 101),
        ("https://evil.example.com", 403),
        ("http://app.example.com", 403),
        ("null", 403),
        ("file://", 403),
    ] {
        let answer = Raw::ask(bridge.address(), upgrade("/browser/1", &[("Origin", origin)])).await;
        assert_eq!(answer.status, status, "{origin}");
        if status == 403 {
            assert_problem(&answer, 403);
            assert_eq!(answer.header("deprecation"), "@1737417600");
        }
    }
}

/// Two connections per address.
fn two_per_address() -> String {
    SHIPPED.replace("connections_per_address = 50", "connections_per_address = 2")
}

async fn status(bridge: &Bridge, changes: &[(&str, &str)]) -> (Raw, u16) {
    let mut raw = Raw::connect(bridge.address()).await;
    raw.send(upgrade(PATH, changes)).await;
    let answer = raw.answer().await;
    if answer.status == 429 {
        assert_problem(&answer, 429);
        assert_deprecated(&answer);
        assert_eq!(answer.header("retry-after"), "5");
    }
    (raw, answer.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_its_cap_over_the_group_and_gets_it_back() {
    let bridge = Bridge::with(&two_per_address(), |_| {}).await;
    let first = bridge.connect(PATH).await;
    let mut second = bridge.connect("/ws/native").await;
    assert_eq!(status(&bridge, &[]).await.1, 429, "the routes of a group count together");
    let other_group = Raw::ask(bridge.address(), upgrade("/ws", &[])).await;
    assert_eq!(other_group.status, 101);
    second.socket.close(None).await.unwrap();
    second.closed().await;
    let (third, code) = status(&bridge, &[]).await;
    assert_eq!(code, 101);
    assert_eq!(status(&bridge, &[]).await.1, 429);
    third.reset();
    drop(first);
    bridge.until_empty().await;
    let (_fourth, code) = status(&bridge, &[]).await;
    assert_eq!(code, 101, "resets and vanished clients give their slots back");
}

/// After an outage an address may have all its slots taken by what its clients were before.
#[tokio::test(flavor = "multi_thread")]
async fn newcomers_of_an_address_wait_while_dead_holders_are_probed() {
    let bridge = Bridge::with(&two_per_address(), |_| {}).await;
    let dead = [Raw::open(bridge.address(), "/ws/native").await, Raw::open(bridge.address(), PATH).await];
    let newcomers = (0..2).map(async |_| {
        let mut refused = 0;
        loop {
            let (raw, code) = status(&bridge, &[]).await;
            match code {
                101 => return (raw, refused),
                429 => refused += 1,
                other => panic!("{other}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    // They count as alive for a second after they were heard; whoever comes then is let in when they are gone.
    let served = patiently("newcomers", futures_util::future::join_all(newcomers)).await;
    assert!(
        served.iter().all(|(_, refused)| *refused < 30),
        "{:?}",
        served.iter().map(|(_, r)| r).collect::<Vec<_>>()
    );
    bridge.until_closed("native", "replaced", 1).await;
    drop((dead, served));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxys_clients_are_told_apart_and_others_not_believed() {
    let bridge = Bridge::with(&two_per_address(), |config| {
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let mut kept = Vec::new();
    for (forwarded, expected) in [
        ("1.2.3.4", 101),
        ("9.9.9.9, 1.2.3.4", 101),
        ("1.2.3.4", 429),
        ("7.7.7.7, 1.2.3.4", 429),
        ("1.2.3.5", 101),
        ("1.2.3.4, 127.0.0.1", 429),
        ("1.2.3.4:5678", 429),
        ("1.2.3.4, , 127.0.0.1,", 429),
    ] {
        let (raw, code) = status(&bridge, &[("X-Forwarded-For", forwarded)]).await;
        assert_eq!(code, expected, "{forwarded}");
        kept.push(raw);
    }
    for (n, expected) in [101, 101, 429].into_iter().enumerate() {
        let mut raw = Raw::connect_from([127, 0, 0, 2], bridge.address()).await;
        raw.send(upgrade(PATH, &[("X-Forwarded-For", &format!("1.1.1.{n}"))])).await;
        assert_eq!(raw.answer().await.status, expected, "an untrusted peer is itself");
        kept.push(raw);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_are_told_to_come_later() {
    let bridge = Bridge::with(SHIPPED, |config| config.server.connections_max = 1).await;
    let mut only = bridge.login(PATH).await;
    let answer = Raw::ask(bridge.address(), upgrade("/ws/content/gen_2", &[])).await;
    assert_problem(&answer, 503);
    assert_deprecated(&answer);
    assert_eq!(answer.header("retry-after"), "5");
    bridge.sandbox.trigger("content-generation-gen_1", "e", "1");
    assert_eq!(only.json().await["type"], "e", "who is in is not disturbed");
    only.socket.close(None).await.unwrap();
    only.closed().await;
    // The place is free only when the goodbye is over, a moment after the gauge has fallen.
    let again = async { while Raw::ask(bridge.address(), upgrade(PATH, &[])).await.status != 101 {} };
    patiently("a place", again).await;
}

/// One address holds every connection by requests that it does not finish; what a newcomer from another is told.
async fn crowded(bridge: &Bridge) -> (Vec<Raw>, Answer) {
    let mut crowd = Vec::new();
    for n in 0..20 {
        let mut raw = Raw::connect_from([127, 0, 0, 9], bridge.address()).await;
        if n % 2 == 1 {
            raw.send("GET /ws/native HTTP/1.1\r\nHost: a\r\nX-Slow: ").await;
        }
        crowd.push(raw);
    }
    let handshakes = r#"pusher_bridge_connections{route="none",phase="handshake"}"#;
    patiently("the crowd", async {
        while bridge.metric(handshakes) < 20.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut raw = Raw::connect_from([127, 0, 0, 8], bridge.address()).await;
    raw.send(upgrade("/ws/native", &[])).await;
    let answer = raw.answer().await;
    crowd.push(raw);
    (crowd, answer)
}

const DISPLACED: &str = r#"pusher_bridge_refusals_total{route="none",reason="displaced"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_requests_of_one_address_make_room_for_others() {
    let bridge = Bridge::with(SHIPPED, |config| {
        config.server.connections_max = 20;
        config.server.trusted_proxies.clear();
    })
    .await;
    let (mut crowd, answer) = crowded(&bridge).await;
    assert_eq!(answer.status, 101);
    crowd.remove(0).ended().await;
    let mut second = Raw::connect_from([127, 0, 0, 8], bridge.address()).await;
    second.upgrade("/ws/native").await;
    crowd.remove(0).ended().await;
    assert_eq!(bridge.metric(DISPLACED), 2.0);
    let own = Raw::connect_from([127, 0, 0, 9], bridge.address()).await;
    crowd.push(own);
    let last = crowd.last_mut().unwrap();
    last.send(upgrade("/ws/native", &[])).await;
    let answer = last.answer().await;
    assert_problem(&answer, 503);
    assert_eq!(answer.header("retry-after"), "5");
    let rest = upgrade("/ws/native", &[("Host", "")]);
    let (_, rest) = rest.split_once("\r\n").unwrap();
    crowd[1].send(format!("z\r\n{rest}")).await;
    assert_eq!(crowd[1].answer().await.status, 101, "who was not displaced goes on");
    assert_eq!(bridge.metric(DISPLACED), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_through_a_proxy_make_no_room() {
    let bridge = Bridge::with(SHIPPED, |config| {
        config.server.connections_max = 20;
        config.server.trusted_proxies = vec!["127.0.0.9/32".parse().unwrap()];
    })
    .await;
    let (_crowd, answer) = crowded(&bridge).await;
    assert_problem(&answer, 503);
    assert_eq!(bridge.metric(DISPLACED), 0.0);
}

fn gone() -> String {
    SHIPPED.replace(r#"after_sunset = "serve" "#, r#"after_sunset = "refuse" "#)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_sunset_a_route_that_says_so_is_gone() {
    let bridge = Bridge::with(&gone(), |_| {}).await;
    let answer = Raw::ask(bridge.address(), upgrade(PATH, &[])).await;
    assert_problem(&answer, 410);
    assert_deprecated(&answer);
    assert_eq!(Raw::ask(bridge.address(), upgrade("/ws", &[])).await.status, 101);
    assert_eq!(
        bridge.metric(r#"pusher_bridge_deprecated_requests_total{route="content",phase="gone"}"#),
        1.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn held_refusals_of_one_address_are_bounded() {
    let routes = gone().replace("[groups.typed-api]\n", "[groups.typed-api]\nrefusal = \"frame\"\n");
    let bridge = Bridge::with(&routes, |_| {}).await;
    let mut held = Vec::new();
    for n in 0..60 {
        let mut raw = Raw::connect(bridge.address()).await;
        raw.send(upgrade(PATH, &[])).await;
        assert_eq!(raw.answer().await.status, if n < 50 { 101 } else { 410 }, "{n}");
        held.push(raw);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_told_by_a_frame_and_held() {
    let routes = gone().replace(
        "[groups.typed-api]\n",
        "[groups.typed-api]\nrefusal = \"frame\"\nrefusal_hold = \"300ms\"\n",
    );
    let bridge = Bridge::with(&routes, |_| {}).await;
    for path in [PATH, "/ws/native"] {
        let started = Instant::now();
        let mut raw = Raw::connect(bridge.address()).await;
        raw.send(upgrade(path, &[])).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 101);
        assert_eq!(answer.header("deprecation"), "@1737417600");
        let told = raw.frame().await.json();
        assert_eq!(told["type"], "error");
        assert_eq!(told["data"]["error_code"], "ENDPOINT_GONE", "{path}");
        // Whatever it says now, it gets no answer, and no subscription.
        raw.send(auth(&token("123"))).await;
        raw.send(frame(TEXT, b"{}")).await;
        let close = raw.frame().await;
        assert_eq!((close.0, &close.1[..2]), (0x88, &1008_u16.to_be_bytes()[..]), "{path}");
        assert!(started.elapsed() >= Duration::from_millis(300));
        drop(raw);
    }
    assert_eq!(bridge.sandbox.ever_subscribed(), Vec::<String>::new());
    assert_eq!(bridge.metric(r#"pusher_bridge_refusals_total{route="content",reason="gone"}"#), 1.0);
    bridge.until_closed("content", "refused", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_come_is_not_waited_for() {
    let bridge =
        Bridge::with(SHIPPED, |config| config.server.header_timeout = Duration::from_millis(200)).await;
    let started = Instant::now();
    let silent = Raw::connect(bridge.address()).await;
    let mut half = Raw::connect(bridge.address()).await;
    half.send("GET /ws/native HTTP/1.1\r\nHost: a\r\nX-Slow: ").await;
    silent.ended().await;
    half.ended().await;
    // The connection's own end would come after 10 s more.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    bridge.until_empty().await;
    let reason = |reason| format!(r#"pusher_bridge_refusals_total{{route="none",reason="{reason}"}}"#);
    bridge.becomes(&reason("timeout"), 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_or_no_http_are_refused() {
    let bridge = Bridge::start().await;
    let large = upgrade(PATH, &[("+X-Large", &"x".repeat(20_000))]);
    let many: Vec<(String, String)> = (0..70).map(|n| (format!("+X-{n}"), "1".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    for (request, status) in
        [(large, 431), (upgrade(PATH, &many), 431), ("\x16\x03\x01 no HTTP\r\n\r\n".to_owned(), 400)]
    {
        let mut raw = Raw::connect(bridge.address()).await;
        raw.try_send(&request).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, status, "{answer:?}");
        raw.ended().await;
    }
    bridge.until_empty().await;
    bridge.becomes(r#"pusher_bridge_refusals_total{route="none",reason="malformed"}"#, 3.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_in_the_same_packet_as_the_request_are_heard() {
    let bridge = Bridge::start().await;
    let mut bytes = upgrade("/ws/roblox", &[]).into_bytes();
    bytes.extend(auth(&token("123")));
    bytes.extend(frame(TEXT, br#"{"type":"subscribe","environment_id":"env_456"}"#));
    let mut raw = Raw::connect(bridge.address()).await;
    raw.send(bytes).await;
    assert_eq!(raw.answer().await.status, 101);
    assert_eq!(raw.frame().await.json()["type"], "auth_response");
    // The subscription has no answer in this dialect; a further message's answer shows that it was read.
    raw.send(frame(TEXT, b"fence")).await;
    assert_eq!(raw.frame().await.json()["data"]["error_code"], "INVALID_JSON");
    bridge.sandbox.trigger("roblox-sync", "environment_status", r#"{"environment_id":"env_456"}"#);
    assert_eq!(raw.frame().await.json()["type"], "environment_status");

    // More than hyper's buffer holds.
    let mut bytes = upgrade("/ws/native", &[]).into_bytes();
    let messages: Vec<Vec<u8>> = (0..400).map(|n| vec![b'a' + (n % 26) as u8; 500]).collect();
    messages.iter().for_each(|message| bytes.extend(frame(TEXT, message)));
    let mut raw = Raw::connect(bridge.address()).await;
    raw.send(bytes).await;
    assert_eq!(raw.answer().await.status, 101);
    for message in messages {
        assert_eq!(raw.frame().await, Frame(TEXT, message));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_come_with_the_request_where_the_route_says_so() {
    let bridge = Bridge::start_with(
        r#"
[[routes]]
name = "places"
group = "typed-api"
path = "/places/{session_id}"
channel = "places-{session_id}"
auth = { also_from = ["header", "query:access_token", "subprotocol:bearer"] }
"#,
    )
    .await;
    let token = token("123");
    let places = [
        ("/places/1".to_owned(), ("Authorization", format!("Bearer {token}"))),
        ("/places/1".to_owned(), ("Authorization", token.clone())),
        (format!("/places/1?x=y&access_token={token}"), ("X", "y".to_owned())),
        ("/places/1".to_owned(), ("Sec-WebSocket-Protocol", format!("bearer, {token}"))),
    ];
    for (path, (name, value)) in &places {
        let mut raw = Raw::connect(bridge.address()).await;
        raw.send(upgrade(path, &[(name, value)])).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 101);
        let selected = if *name == "Sec-WebSocket-Protocol" { "bearer" } else { "" };
        assert_eq!(answer.header("sec-websocket-protocol"), selected, "and never the token");
        assert_eq!(raw.frame().await.json()["type"], "auth_response", "{name}");
    }
    // Elsewhere they count for nothing.
    let mut raw = Raw::connect(bridge.address()).await;
    raw.send(upgrade(&format!("/ws/content/2?access_token={token}"), &[("Authorization", &token)])).await;
    assert_eq!(raw.answer().await.status, 101);
    raw.send(frame(TEXT, b"{}")).await;
    assert_eq!(raw.frame().await.json()["data"]["error_code"], "WEBSOCKET_AUTH_REQUIRED");
    // What is no token hides none, is told, and counts against nobody.
    let good = format!("/places/1?%61ccess_token=Bearer+{token}");
    for (path, headers, selected) in [
        ("/places/1?access_token=", vec![("Authorization", format!("Bearer {token}"))], ""),
        (&good, vec![("Authorization", "Basic dXNlcjpwYXNz".to_owned())], ""),
        (&good, vec![("Sec-WebSocket-Protocol", "bearer".to_owned())], "bearer"),
        (
            "/places/1?access_token=undefined",
            vec![("Sec-WebSocket-Protocol", format!("chat, bearer, {token}"))],
            "bearer",
        ),
        // Three parts with dots between are no token yet.
        (
            "/places/1?access_token=1.2.3",
            vec![
                ("Authorization", "Bearer s1.opaque.session".to_owned()),
                ("Sec-WebSocket-Protocol", format!("bearer, wamp.2.json, {token}")),
            ],
            "bearer",
        ),
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut raw = Raw::connect(bridge.address()).await;
        raw.send(upgrade(path, &headers)).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.header("sec-websocket-protocol").as_str()), (101, selected));
        assert_eq!(raw.frame().await.json()["type"], "auth_response", "{path}");
    }
    for _ in 0..30 {
        let mut raw = Raw::connect(bridge.address()).await;
        raw.send(upgrade("/places/1?access_token=undefined", &[])).await;
        assert_eq!(raw.answer().await.status, 101);
        assert_eq!(raw.frame().await.json()["data"]["error"], "INVALID_TOKEN");
    }
    assert_eq!(bridge.metric(r#"pusher_bridge_auth_total{route="places",result="no_token"}"#), 30.0);
    // A wrong one is refused, and the client may still do better.
    let mut raw = Raw::connect(bridge.address()).await;
    raw.send(upgrade("/places/1?access_token=wrong", &[])).await;
    assert_eq!(raw.answer().await.status, 101);
    assert_eq!(raw.frame().await.json()["type"], "auth_error");
    raw.send(auth(&token)).await;
    assert_eq!(raw.frame().await.json()["type"], "auth_response");
}
