//! Clients that were written by hand, long ago: what they compare byte for byte, and what they send that others do
//! not.

use std::time::{Duration, Instant};

use pusher_bridge::sandbox::{Options, Sandbox};

use crate::support::bridge::{SHIPPED, config_text, token};
use crate::support::process::Program;
use crate::support::raw::{BINARY, CLOSE, Frame, Raw, TEXT, auth, frame, upgrade};
use crate::support::{Bridge, patiently};

/// The head of the answer, but for the date.
async fn head_of(bridge: &Bridge, request: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::connect(bridge.address()).await;
    raw.send(request).await;
    let head = raw.head().await;
    let date = head.lines().find(|line| line.starts_with("Date: "));
    let date = date.unwrap_or_else(|| panic!("{head}")).to_owned();
    head.replace(&format!("{date}\r\n"), "")
}

#[tokio::test(flavor = "multi_thread")]
async fn header_names_leave_as_the_rfcs_spell_them() {
    let bridge = Bridge::start().await;
    assert_eq!(
        head_of(&bridge, upgrade("/ws", &[])).await,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
    let path = "/ws/content/1";
    for (request, names) in [
        (
            upgrade(path, &[]),
            &["Deprecation", "Sunset", "Link", "Connection", "Upgrade", "Sec-WebSocket-Accept"][..],
        ),
        (
            upgrade(path, &[("Sec-WebSocket-Version", "8")]),
            &[
                "Deprecation",
                "Sunset",
                "Link",
                "Upgrade",
                "Connection",
                "Sec-WebSocket-Version",
                "Content-Type",
                "Content-Length",
            ],
        ),
        (
            upgrade(path, &[("Sec-WebSocket-Key", "")]),
            &["Deprecation", "Sunset", "Link", "Connection", "Content-Type", "Content-Length"],
        ),
        (upgrade("/elsewhere", &[]), &["Connection", "Content-Type", "Content-Length"]),
        ("junk\r\n\r\n".to_owned(), &["Connection", "Content-Type", "Content-Length"]),
        (upgrade(path, &[("X", &"x".repeat(20_000))]), &["Connection", "Content-Type", "Content-Length"]),
    ] {
        let head = head_of(&bridge, &request).await;
        let mut sent: Vec<&str> =
            head.trim_end().split("\r\n").skip(1).map(|line| line.split_once(": ").unwrap().0).collect();
        let mut expected = names.to_vec();
        sent.dedup();
        sent.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sent, expected, "{head}");
    }
}

// --------------------------------------------------------------------------------------------------- the door

const DOORS: &str = r#"
[[routes]]
name = "root"
path = "/"
dialect = "channel"
channel = "root"
auth = { required = false }

[[routes]]
name = "ending"
path = "/ending/"
dialect = "channel"
channel = "ending"
auth = { required = false }
origins = []

[[routes]]
name = "either"
path = "/either/{room}"
slash = "either"
dialect = "channel"
channel = "either-{room}"
auth = { required = false }
subprotocols = ["v2.app", "v1.app"]
origins = ["null", "file://", "capacitor://localhost", "https://app.example.com"]

[[routes]]
name = "device"
path = "/device/{mac}"
dialect = "typed"
channel = "devices"
filter = { field = "mac", equals = "{mac}" }
auth = { required = false }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn paths_may_end_in_a_slash_or_be_nothing_else() {
    let bridge = Bridge::start_with(DOORS).await;
    for (path, status) in [
        ("/", 101),
        ("/?x=y", 101),
        ("//", 404),
        ("/ending/", 101),
        ("/ending", 404),
        ("/either/1", 101),
        ("/either/1/", 101),
        ("/either/1//", 404),
        ("/either/", 404),
        ("/device/1/", 404),
        ("/ws/", 404),
    ] {
        let answer = Raw::ask(bridge.address(), upgrade(path, &[])).await;
        assert_eq!(answer.status, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_only_a_filter_need_not_be_legal_in_a_channel() {
    let bridge = Bridge::start_with(DOORS).await;
    let mut client = Raw::open(bridge.address(), "/device/AA:BB:CC").await;
    let mut accents = Raw::open(bridge.address(), "/device/caf%C3%A9%20%2F1").await;
    patiently("the subscription", bridge.sandbox.wait_for(|view| view.subscribed("devices") == 1)).await;
    // One's subscription is not yet the other's.
    bridge.becomes(r#"pusher_bridge_connections{route="device",phase="live"}"#, 2.0).await;
    for data in [r#"{"mac":"AA:BB:CD"}"#, r#"{"mac":"caf\u00e9 /1"}"#, r#"{"mac":"AA:BB:CC"}"#] {
        bridge.sandbox.trigger("devices", "e", data);
    }
    assert_eq!(client.frame().await.json()["data"]["mac"], "AA:BB:CC");
    assert_eq!(accents.frame().await.json()["data"]["mac"], "café /1");
    for path in ["/device/%00", "/device/%FF", "/ws/content/AA:BB:CC"] {
        assert_eq!(Raw::ask(bridge.address(), upgrade(path, &[])).await.status, 400, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_offered_subprotocol_that_the_route_knows_is_told() {
    let bridge = Bridge::start_with(DOORS).await;
    for (path, offers, told) in [
        ("/either/1", "v1.app", "v1.app"),
        ("/either/1", "v0.app, v1.app, v2.app", "v1.app"),
        ("/either/1", "v0.app", ""),
        ("/either/1", "", ""),
        ("/device/1", "v1.app", ""),
    ] {
        let answer = Raw::ask(bridge.address(), upgrade(path, &[("Sec-WebSocket-Protocol", offers)])).await;
        assert_eq!(
            (answer.status, &*answer.header("sec-websocket-protocol")),
            (101, told),
            "{path} {offers}"
        );
    }
    // By the dialect, unless the route says others.
    let routes = SHIPPED.replacen(
        "[dialects.channel.in]\n",
        "[dialects.channel]\nsubprotocols = [\"v1.app\"]\n\n[dialects.channel.in]\n",
        1,
    );
    let bridge = Bridge::with(&format!("{routes}\n{DOORS}"), |_| {}).await;
    for (path, told) in [("/ws", "v1.app"), ("/", "v1.app"), ("/either/1", ""), ("/device/1", "")] {
        let offers = if path == "/either/1" { "v9.app" } else { "v1.app" };
        let answer = Raw::ask(bridge.address(), upgrade(path, &[("Sec-WebSocket-Protocol", offers)])).await;
        assert_eq!((answer.status, &*answer.header("sec-websocket-protocol")), (101, told), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_of_apps_can_be_listed_and_an_empty_list_is_none() {
    let bridge = Bridge::start_with(DOORS).await;
    for (path, origin, status) in [
        ("/either/1", "null", 101),
        ("/either/1", "file://", 101),
        ("/either/1", "capacitor://localhost", 101),
        ("/either/1", "CAPACITOR://localhost", 101),
        ("/either/1", "capacitor://localhost.evil.example", 403),
        ("/either/1", "ionic://localhost", 403),
        ("/either/1", "https://app.example.com", 101),
        ("/either/1", "", 101),
        ("/ending/", "", 101),
        ("/ending/", "null", 403),
        ("/ending/", "https://app.example.com", 403),
        ("/", "https://anywhere.example", 101),
    ] {
        let answer = Raw::ask(bridge.address(), upgrade(path, &[("Origin", origin)])).await;
        assert_eq!(answer.status, status, "{path} {origin}");
    }
    let two = [("Origin", "null"), ("+Origin", "https://evil.example")];
    assert_eq!(Raw::ask(bridge.address(), upgrade("/either/1", &two)).await.status, 403, "each of them");
}

// ----------------------------------------------------------------------------------------------------- frames

#[tokio::test(flavor = "multi_thread")]
async fn plain_keepalives_and_json_in_binary_frames_are_understood() {
    let more =
        "[dialects.typed.in]\nkeepalives = { \"ping\" = \"pong\", \"hb\" = \"\" }\nbinary = \"json\"\n";
    let bridge = Bridge::with(&config_text(SHIPPED, "[dialects.typed.in]\n", more), |_| {}).await;
    let mut raw = Raw::open(bridge.address(), "/ws/plugin/p1").await;
    raw.send(frame(TEXT, b"hb")).await;
    raw.send(frame(TEXT, b"ping")).await;
    assert_eq!(raw.frame().await.text(), "pong");
    raw.send(frame(BINARY, format!(r#"{{"type":"auth","token":"{}"}}"#, token("123")).as_bytes())).await;
    assert_eq!(raw.frame().await.json()["type"], "auth_response");
    raw.send(frame(BINARY, b"ping")).await;
    assert_eq!(raw.frame().await.text(), "pong");
    raw.send(frame(BINARY, br#"{"type":"run","data":{"n":1.50}}"#)).await;
    patiently("the message", bridge.sandbox.wait_for(|view| view.published().count() == 1)).await;
    raw.send(frame(BINARY, b"\xFF")).await;
    assert_eq!(next_error(&mut raw).await, "INVALID_JSON");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_authentication_is_told_when_its_channel_is_not_subscribed() {
    let wait = |config: &mut pusher_bridge::config::Config| {
        config.upstream.times.subscribe_timeout = Duration::from_millis(300);
    };
    let bridge = Bridge::with(&format!("{SHIPPED}\n{DOORS}"), wait).await;
    bridge.sandbox.hold_subscriptions("root");
    let mut raw = Raw::open(bridge.address(), "/").await;
    let error = raw.frame().await.json();
    assert_eq!(
        (&error["error"], &error["details"]["channel"]),
        (&"UPSTREAM_UNAVAILABLE".into(), &"root".into())
    );
    let counted = r#"pusher_bridge_client_errors_total{route="root",code="UPSTREAM_UNAVAILABLE"}"#;
    assert_eq!(bridge.metric(counted), 1.0);
    // It stays, and gets its events when the channel is subscribed after all.
    bridge.sandbox.release_subscriptions("root");
    let triggering = async {
        loop {
            bridge.sandbox.trigger("root", "e", "1");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        frame = raw.frame() => assert_eq!(frame.json()["data"], 1),
        () = triggering => {}
    }
}

// ------------------------------------------------------------------------------------ slow and large messages

const HEARTBEAT: &str = r#"heartbeat = { kind = "json", every = "30s", timeout = "75s" }"#;
const EXCLUSIVE: &str = r#"limits.exclusive = { key = "{session_id}", max = 1, on_conflict = "probe" }"#;

/// Sends a message of 64 KiB over four seconds, and answers nothing meanwhile: its pongs would come behind it.
async fn send_slowly(raw: &mut Raw) {
    let message = frame(TEXT, format!(r#"{{"type":"large","data":"{}"}}"#, "x".repeat(60_000)).as_bytes());
    for part in message.chunks(message.len() / 40 + 1) {
        raw.send(part).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The code of the next error that is told, with pings passed over.
async fn next_error(raw: &mut Raw) -> String {
    loop {
        match raw.frame().await {
            Frame(TEXT, text) => {
                let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
                if json["type"] == "error" {
                    return json["data"]["error_code"].as_str().unwrap().to_owned();
                }
            }
            Frame(CLOSE, payload) => panic!("closed: {payload:?}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_that_comes_slowly_is_a_sign_of_life() {
    let heartbeat = r#"heartbeat = { kind = "both", every = "100ms", timeout = "1s" }"#;
    let routes = config_text(SHIPPED, HEARTBEAT, heartbeat);
    let exclusive = EXCLUSIVE.replace(" }", r#", probe_timeout = "500ms" }"#);
    let bridge = Bridge::with(&config_text(&routes, EXCLUSIVE, &exclusive), |_| {}).await;
    let mut slow = Raw::login(bridge.address(), "/ws/content/gen_1", &token("123")).await;
    let mut newcomer = Raw::open(bridge.address(), "/ws/content/gen_1").await;
    let address = bridge.address();
    let trying = tokio::spawn(async move {
        newcomer.send(auth(&token("124"))).await;
        let code = next_error(&mut newcomer).await;
        (code, Raw::open(address, "/ws/content/gen_2").await)
    });
    send_slowly(&mut slow).await;
    assert_eq!(next_error(&mut slow).await, "UNKNOWN_MESSAGE_TYPE", "it was heard to its end");
    let (code, _) = patiently("the newcomer's answer", trying).await.unwrap();
    assert_eq!(code, "SESSION_IN_USE", "the holder's slot was not taken for a dead one's");
    assert_eq!((bridge.closes("content", "silent"), bridge.closes("content", "replaced")), (0.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_now_and_then_of_a_message_is_none() {
    let heartbeat = r#"heartbeat = { kind = "websocket", every = "100ms", timeout = "1s" }"#;
    let bridge = Bridge::with(&config_text(SHIPPED, HEARTBEAT, heartbeat), |_| {}).await;
    let mut raw = Raw::login(bridge.address(), "/ws/content/gen_1", &token("123")).await;
    let begin = Instant::now();
    for byte in frame(TEXT, &[b'x'; 60_000]) {
        if !raw.try_send([byte]).await {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "it holds its connection for as long as it likes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bridge.until_closed("content", "silent", 1).await;
}

/// What `/proc` says of a process, in bytes.
#[cfg(target_os = "linux")]
fn status(id: u32, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(figure)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_header_reserves_no_memory_for_what_it_declares() {
    const CONNECTIONS: usize = 300;
    const MIB: u64 = 1 << 20;
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let (program, address, admin) = Program::serve(&sandbox, &["--config", "routes.toml"]).await;
    let mut clients = Vec::new();
    for n in 0..CONNECTIONS {
        // The shipped routes take 50 of an address.
        let mut raw = Raw::connect_from([127, 0, 1, (n / 50) as u8], address).await;
        raw.upgrade("/ws/native").await;
        clients.push(raw);
    }
    let before = status(program.id(), "VmSize:");
    let fourteen = [&[BINARY, 0xFF][..], &(16 * MIB).to_be_bytes(), &[1, 2, 3, 4]].concat();
    for raw in &mut clients {
        raw.send(&fourteen).await;
    }
    let held = |metrics: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix("pusher_bridge_buffered_bytes "));
        line.unwrap().parse::<f64>().unwrap()
    };
    let metrics = || Raw::ask(admin, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    let all = async { while held(&metrics().await.body) < (CONNECTIONS * 4096) as f64 {} };
    patiently("all the headers to be counted", all).await;
    let grown = status(program.id(), "VmSize:").saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB of address space for {CONNECTIONS} headers", grown / MIB);
    // And a message of the largest size is carried all the same.
    let Some(mut raw) = clients.pop() else { unreachable!() };
    let payload: Vec<u8> = (0..16 * MIB as u32).map(|n| n as u8 ^ (n >> 12) as u8).collect();
    let masked: Vec<u8> =
        payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    raw.send(&masked).await;
    let Frame(BINARY, echo) = raw.frame().await else { panic!("no echo") };
    assert!(echo == payload, "16 MiB came back otherwise");
}
