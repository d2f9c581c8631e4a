//! What the on-call engineer sees: metrics, probes and logs.

use std::collections::HashMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pusher_bridge::app;
use pusher_bridge::net::destination::Destination;
use pusher_bridge::proxy::settings::Settings;
use pusher_bridge::sandbox::{HandshakeFault, Options, Sandbox};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::bridge::{JWT_SECRET, SHIPPED, config, config_text, token, token_with};
use crate::support::process::{Program, file};
use crate::support::pusher::Pusher as _;
use crate::support::raw::{Answer, CLOSE, TEXT, auth, frame, upgrade};
use crate::support::{Bridge, OldClient, Raw, patiently};

pub async fn get(address: std::net::SocketAddr, path: &str) -> Answer {
    Raw::ask(address, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_there_from_the_start_with_its_help() {
    // Those of the fallback are there for each upstream.
    let to = Destination::parse("http://127.0.0.1:9").unwrap();
    let fallback = Settings { to: Some(to.into()), ..Settings::of_nothing() };
    let bridge = Bridge::with(SHIPPED, |config| config.fallback = Some(fallback)).await;
    let answer = get(bridge.running.admin_address, "/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let declared = bridge.running.metrics.declared();
    assert!(declared.len() >= 25);
    for name in declared.iter().map(|metric| metric.name) {
        let has = |kind: &str| answer.body.lines().any(|line| line.starts_with(&format!("# {kind} {name} ")));
        assert!(has("HELP") && has("TYPE"), "{name}");
        let series =
            |line: &str| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "));
        let histogram = format!("{name}_bucket{{");
        assert!(answer.body.lines().any(|line| series(line) || line.starts_with(&histogram)), "{name}");
    }
    let version = concat!("pusher_bridge_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1");
    assert!(answer.body.contains(version));
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    let Some(promtool) = std::env::var_os("PROMTOOL") else {
        assert!(std::env::var_os("PUSHER_BRIDGE_TESTS_COMPLETE").is_none(), "PROMTOOL is not set");
        eprintln!("SKIPPED: PROMTOOL is not set; tests/run finds and installs it");
        return;
    };
    let bridge = Bridge::start().await;
    let mut client = bridge.login("/ws/plugin/p1").await;
    client.send(r#"{"type":"run","data":1}"#).await;
    patiently("the message", bridge.sandbox.wait_for(|view| view.published().count() == 1)).await;
    let metrics = get(bridge.running.admin_address, "/metrics").await.body;
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_return_to_nothing_when_the_clients_are_gone() {
    let bridge = Bridge::with(SHIPPED, |config| config.upstream.times.linger = Duration::ZERO).await;
    let address = bridge.address();
    let token = token("123");
    let live = r#"pusher_bridge_connections{route="plugin",phase="live"}"#;
    let ends: [Option<Vec<u8>>; 6] = [
        Some(frame(CLOSE, &1000_u16.to_be_bytes())),
        Some(vec![0xFF; 20]),
        Some(frame(TEXT, &[0xFF])),
        Some(frame(TEXT, &vec![b'x'; 70_000])),
        None,
        None,
    ];
    let mut clients = Vec::new();
    for _ in &ends {
        clients.push(Raw::login(address, "/ws/plugin/p1", &token).await);
    }
    let early = Raw::open(address, "/ws/content/gen_1").await;
    let idle = Raw::connect(address).await;
    bridge.becomes(live, 6.0).await;
    bridge.becomes(r#"pusher_bridge_connections{route="none",phase="handshake"}"#, 1.0).await;
    bridge.becomes(r#"pusher_bridge_connections{route="content",phase="authenticating"}"#, 1.0).await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 1.0).await;
    clients[0].send(frame(TEXT, br#"{"type":"run","data":1}"#)).await;
    patiently("the message", bridge.sandbox.wait_for(|view| view.published().count() == 1)).await;
    for (mut client, end) in clients.into_iter().zip(ends) {
        match end {
            Some(bytes) => {
                client.send(bytes).await;
                client.ended().await;
            }
            None => client.reset(),
        }
    }
    drop((early, idle));
    bridge.until_empty().await;
    for state in ["pending", "live", "lingering"] {
        bridge.becomes(&format!(r#"pusher_bridge_subscriptions{{state="{state}"}}"#), 0.0).await;
    }
    bridge.becomes("pusher_bridge_publish_queue_messages", 0.0).await;
    bridge.becomes("pusher_bridge_publish_queue_bytes", 0.0).await;
    bridge.becomes(r#"pusher_bridge_connections_total{route="plugin"}"#, 6.0).await;
    bridge.until_closed("plugin", "lost", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_bytes_and_tokens_are_counted() {
    let bridge = Bridge::start().await;
    let mut client = bridge.connect("/ws/agent/agent_7").await;
    client.auth("wrong").await;
    client.error_code().await;
    client.auth(&token("123")).await;
    client.json().await;
    let before = bridge.metric(r#"pusher_bridge_frame_bytes_total{route="agent",direction="in"}"#);
    client.send(r#"{"type":"x"}"#).await;
    client.error_code().await;
    let bytes = bridge.metric(r#"pusher_bridge_frame_bytes_total{route="agent",direction="in"}"#);
    assert_eq!(bytes - before, 12.0);
    assert_eq!(bridge.metric(r#"pusher_bridge_frames_total{route="agent",direction="in"}"#), 3.0);
    // Counted when it is sent, and so a moment after it may have come.
    bridge.becomes(r#"pusher_bridge_frames_total{route="agent",direction="out"}"#, 3.0).await;
    assert_eq!(bridge.metric(r#"pusher_bridge_auth_total{route="agent",result="accepted"}"#), 1.0);
    assert_eq!(bridge.metric(r#"pusher_bridge_auth_total{route="agent",result="malformed"}"#), 1.0);
    bridge.sandbox.trigger("agent-status", "e", r#"{"agent_id":"agent_7"}"#);
    client.json().await;
    bridge.becomes("pusher_bridge_delivery_delay_seconds_count", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_tell_what_is_so() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    sandbox.refuse_connections(HandshakeFault::Drop);
    let running = app::start(config(SHIPPED, &sandbox.app().environment())).await.unwrap();
    let admin = running.admin_address;
    assert_eq!(get(admin, "/healthz").await.status, 200);
    let readyz = get(admin, "/readyz").await;
    assert_eq!(readyz.status, 503);
    assert_eq!(readyz.body, "waiting for the first connection to Pusher\nlinks connected: 0 of 1\n");
    sandbox.refuse_connections(HandshakeFault::None);
    patiently("the connection", running.status.wait_ready()).await;
    let readyz = get(admin, "/readyz").await;
    assert_eq!((readyz.status, readyz.body.as_str()), (200, "ready\nlinks connected: 1 of 1\n"));
    for (line, status) in [
        ("GET /", 404),
        ("GET /metrics/", 404),
        ("GET /debug", 404),
        ("POST /metrics", 405),
        ("DELETE /healthz", 405),
        ("HEAD /drain", 405),
    ] {
        let mut raw = Raw::connect(admin).await;
        raw.send(format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        if line.starts_with("HEAD") {
            raw.ended().await;
            continue;
        }
        let answer = raw.answer().await;
        assert_eq!(answer.status, status, "{line}");
        if status == 405 {
            assert_eq!(answer.header("allow"), "GET, HEAD");
        }
    }
    assert_eq!(get(admin, "/readyz").await.status, 200, "looking drains nothing");
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_sums_each_connection_up_and_never_holds_a_secret() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let routes = format!(
        "{SHIPPED}\n{}",
        r#"
[[routes]]
name = "places"
group = "typed-api"
path = "/places/{session_id}"
channel = "private-places-{session_id}"
auth = { also_from = ["header", "query:access_token", "subprotocol:bearer"] }
limits.exclusive = { key = "{session_id}", on_conflict = "refuse" }

[[routes.publish]]
types = ["*"]
"#
    );
    let file = file("logs.toml", &routes);
    let token = token("123");
    let wrong = format!("{}x", token);
    for level in ["debug", "trace"] {
        let (program, address, _) = Program::serve(&sandbox, &["--config", &file, "--log", level]).await;
        let places = [
            ("/places/1".to_owned(), ("Authorization", format!("Bearer {token}"))),
            (format!("/places/2?access_token={token}"), ("X", "y".to_owned())),
            (format!("/places/3?access_token={wrong}"), ("X", "y".to_owned())),
            ("/places/4".to_owned(), ("Sec-WebSocket-Protocol", format!("bearer, {token}"))),
            // Where no token belongs, and a refusal's log line might repeat it.
            (format!("/nowhere/{token}"), ("Authorization", token.clone())),
            (format!("/ws/content/{token}%20"), ("Cookie", token.clone())),
        ];
        for (path, (name, value)) in &places {
            let mut raw = Raw::connect(address).await;
            raw.send(upgrade(path, &[(name, value), ("User-Agent", "OldClient/1.0 \u{9b}31m")])).await;
            if raw.answer().await.status == 101 {
                raw.frame().await;
                raw.send(auth(&wrong)).await;
                raw.frame().await;
                raw.send(frame(CLOSE, &4321_u16.to_be_bytes())).await;
                raw.ended().await;
            }
        }
        let mut client = OldClient::connect(address, "/places/5").await;
        client.auth(&token).await;
        assert_eq!(client.json().await["type"], "auth_response");
        let mut second = OldClient::connect(address, "/places/5").await;
        second.auth(&token).await;
        assert_eq!(second.error_code().await, "SESSION_IN_USE");
        drop(second);
        client.send(r#"{"type":"run","data":1}"#).await;
        client.send(&format!(r#"{{"type":"auth","token":"{token}""#)).await;
        assert_eq!(client.error_code().await, "INVALID_JSON");
        client.socket.close(None).await.unwrap();
        client.closed().await;
        drop(client);
        program.signal("TERM");
        let ended = program.ended().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");

        let signature = token.rsplit('.').next().unwrap();
        let payload = token.split('.').nth(1).unwrap();
        let secret = sandbox.options().secret.expose_secret().to_owned();
        for secret in [signature, payload, JWT_SECRET, &secret, "auth_signature"] {
            let line = ended.stderr.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{level}: the log holds a secret");
        }
        let lines: Vec<HashMap<String, serde_json::Value>> =
            ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let closed: Vec<_> = lines.iter().filter(|line| line["message"] == "closed").collect();
        assert_eq!(closed.len(), 6, "{}", ended.stderr);
        let last = closed.iter().find(|line| line["frames_in"] == 3).unwrap();
        for field in ["timestamp", "level", "conn", "duration_ms", "bytes_in", "bytes_out", "frames_out"] {
            assert!(last.contains_key(field), "{field}: {last:?}");
        }
        assert_eq!(last["route"], "places");
        assert_eq!(last["user"], "123");
        assert_eq!(last["client.address"], "127.0.0.1");
        assert_eq!(last["reason"], "by_client");
        let coded = closed.iter().find(|line| line.get("code").is_some_and(|code| code == 4321)).unwrap();
        assert_eq!(coded["user_agent.original"], "OldClient/1.0 31m", "fit for a terminal");
        let refused = lines.iter().find(|line| line["message"] == "no slot").unwrap();
        assert_eq!((&refused["code"], &refused["user"]), (&"SESSION_IN_USE".into(), &"123".into()));
        let attempts: Vec<_> = lines.iter().filter(|line| line["message"] == "auth").collect();
        for result in ["accepted", "bad_signature"] {
            assert!(attempts.iter().any(|line| line["result"] == result), "{result}: {attempts:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_log_lines_is_thinned_and_told() {
    const REQUESTS: u64 = 400;
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let (mut program, address, admin) = Program::serve(&sandbox, &["--log-rate", "1"]).await;
    let refuse = || async {
        assert_eq!(Raw::ask(address, upgrade("/ws/agent/%00", &[])).await.status, 400);
    };
    for _ in 0..REQUESTS {
        refuse().await;
    }
    program.stderr.find("left out").await;
    // Other kinds have their own rate.
    let mut client = OldClient::connect(address, "/ws/content/gen_1").await;
    client.auth(&token("123")).await;
    assert_eq!(client.json().await["type"], "auth_response");
    drop(client);
    program.stderr.find("\"closed\"").await;
    let metrics = get(admin, "/metrics").await.body;
    let counted =
        metrics.lines().find_map(|line| line.strip_prefix("pusher_bridge_log_lines_left_out_total "));
    program.signal("TERM");
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<serde_json::Value> =
        ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut all_left_out = 0;
    for kind in ["refused", "a client still uses an endpoint past its sunset"] {
        let written = lines.iter().filter(|line| line["message"] == kind).count() as u64;
        let told = lines.iter().filter(|line| line["like"] == kind);
        let left_out: u64 = told.filter_map(|line| line["lines"].as_u64()).sum();
        assert!((100..200).contains(&written), "{kind}: {written} lines");
        // The last client's request counts for the sunset, too.
        let requests = REQUESTS + u64::from(kind != "refused");
        assert_eq!(written + left_out, requests, "{kind}");
        all_left_out += left_out;
    }
    assert_eq!(counted, Some(all_left_out.to_string().as_str()));
}

/// Whoever reads the log knows what to change in the file or at the issuer.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_claim_that_is_missing_or_wrong() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let routes = SHIPPED.replacen(
        "secret = \"${JWT_SECRET}\"",
        "secret = \"${JWT_SECRET}\"\nissuer = \"https://good\"",
        1,
    );
    let file = file("claims.toml", &routes);
    let (program, address, _) = Program::serve(&sandbox, &["--config", &file]).await;
    let with = |change: fn(&mut serde_json::Value)| {
        token_with("123", |claims| {
            claims["iss"] = "https://good".into();
            change(claims);
        })
    };
    let mut client = OldClient::connect(address, "/ws/content/gen_1").await;
    for token in [
        with(|claims| claims["iss"] = "https://evil-v4lue".into()),
        with(|claims| _ = claims.as_object_mut().unwrap().remove("sub")),
        with(|claims| claims["exp"] = "v4lue".into()),
        with(|claims| _ = claims.as_object_mut().unwrap().remove("permissions")),
        with(|claims| claims["permissions"] = vec!["v4lue"].into()),
    ] {
        client.auth(&token).await;
        client.error_code().await;
    }
    drop(client);
    program.signal("TERM");
    let log = program.ended().await.stderr;
    for named in ["(iss)", "`sub`", "`exp`", "no claim of permissions", "`content:generate` is missing\""] {
        assert!(log.contains(named), "{named}: {log}");
    }
    assert!(!log.contains("v4lue"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_keys_it_is_not_ready_and_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    let there = Arc::new(AtomicBool::new(false));
    let answers = there.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let status = if answers.load(Ordering::SeqCst) { "200 OK" } else { "404 Not Found" };
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 11\r\n\r\n");
            let _ = stream.write_all(format!("{head}{{\"keys\":[]}}").as_bytes()).await;
        }
    });
    let routes = config_text(
        SHIPPED,
        "algorithms = [\"HS256\"]             # what a token may use is said here, never by the token\nsecret = \"${JWT_SECRET}\"           # or secret_file, pem, pem_file, jwks_file, jwks_url",
        &format!("algorithms = [\"RS256\"]\njwks_url = \"{url}\"\nrefresh_min = \"1ms\""),
    );
    let bridge = Bridge::with(&routes, |_| {}).await;
    let address = bridge.running.admin_address;
    let ready = get(address, "/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.body, "no keys yet\nlinks connected: 1 of 1\nkeys at hand: 0 of 1\n");
    assert!(get(address, "/metrics").await.body.contains("\npusher_bridge_ready 0\n"));
    bridge.becomes(r#"pusher_bridge_jwks_age_seconds{key="0"}"#, 86_400.0).await;
    there.store(true, Ordering::SeqCst);
    patiently("the keys", async {
        while get(address, "/readyz").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(get(address, "/readyz").await.body, "ready\nlinks connected: 1 of 1\nkeys at hand: 1 of 1\n");
    patiently("the age", async {
        while bridge.metric(r#"pusher_bridge_jwks_age_seconds{key="0"}"#) >= 86_400.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let metrics = get(address, "/metrics").await.body;
    assert!(metrics.contains("\npusher_bridge_ready 1\n"));
    assert!(metrics.contains("\npusher_bridge_jwks_max_age_seconds{key=\"0\"} 86400\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_nobody_got_is_explained() {
    let routes = format!(
        "{SHIPPED}\n[[routes]]\nname = \"watch\"\ngroup = \"typed-api\"\npath = \"/watch\"\n\
         channel = \"agent-status\"\nshares = [\"agent\"]\n"
    );
    let bridge = Bridge::with(&routes, |config| {
        config.server.workers = 2;
        config.upstream.times.linger = Duration::from_secs(60);
    })
    .await;
    let counts = |result: &str| format!("pusher_bridge_upstream_events_total{{result=\"{result}\"}}");
    let mut seven = bridge.login("/ws/agent/7").await;
    // One on each worker, so that both have somebody who does not want it.
    let _eight = bridge.login_as("/ws/agent/8", "8").await;
    for (data, result) in [
        (r#"{"agent_id":"9","secret":"s3cret"}"#, "filtered"),
        (r#"{"agent":"7","secret":"s3cret"}"#, "field_missing"),
        (r#"{"agent_id":["7"],"secret":"s3cret"}"#, "field_missing"),
        ("s3cret, and no JSON", "not_json"),
    ] {
        let before = bridge.metric(&counts(result));
        bridge.sandbox.trigger("agent-status", result, data);
        bridge.becomes(&counts(result), before + 1.0).await;
    }
    assert_eq!(bridge.metric(&counts("delivered")), 0.0);
    bridge.sandbox.trigger("agent-status", "task_result", r#"{"agent_id":"7"}"#);
    assert_eq!(seven.json().await["type"], "task_result");
    bridge.becomes(&counts("delivered"), 1.0).await;
    // What somebody on another route got is delivered, and yet nobody's on this one.
    let mut watch = bridge.login_as("/watch", "9").await;
    bridge.sandbox.trigger("agent-status", "elsewhere", r#"{"agent_id":"9"}"#);
    assert_eq!(watch.json().await["type"], "elsewhere");
    bridge.becomes(&counts("delivered"), 2.0).await;
    // A channel that lingers has nobody.
    let content = bridge.login("/ws/content/gen_1").await;
    drop(content);
    bridge.becomes(r#"pusher_bridge_subscriptions{state="lingering"}"#, 1.0).await;
    bridge.sandbox.trigger("content-generation-gen_1", "late", "1");
    bridge.becomes(&counts("no_subscriber"), 1.0).await;
    // A client's own message that nobody else is there for is no riddle.
    let mut alone = bridge.login("/ws/plugin/p1").await;
    alone.send(r#"{"type":"run","data":1}"#).await;
    bridge.becomes(r#"pusher_bridge_publish_total{result="ok"}"#, 1.0).await;

    let admin = bridge.running.admin_address;
    let ask = |host: &'static str| async move {
        Raw::ask(admin, format!("GET /debug/undelivered HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
    };
    assert_eq!(ask("evil.example").await.status, 403);
    let answer = ask("127.0.0.1:9009").await;
    assert_eq!((answer.status, answer.header("content-type").as_str()), (200, "application/json"));
    assert!(!answer.body.contains("s3cret"), "{}", answer.body);
    let kept: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let reasons = |route: &str| -> Vec<String> {
        let events = kept[route].as_array().unwrap().iter();
        events
            .map(|e| format!("{} {}", e["event"].as_str().unwrap(), e["reason"].as_str().unwrap()))
            .collect()
    };
    let expected = [
        "elsewhere filtered",
        "not_json not_json",
        "field_missing field_missing",
        "field_missing field_missing",
        "filtered filtered",
    ];
    assert_eq!(reasons("agent"), expected, "the newest first");
    assert_eq!(kept["agent"][0]["channel"], "agent-status");
    assert_eq!(kept["agent"][0]["field"], "agent_id");
    assert_eq!(reasons("content"), ["late no_subscriber"]);
    assert!(reasons("watch").is_empty() && reasons("plugin").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_channel_of_a_connection_and_at_debug_of_each_delivery() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let (program, address, _) = Program::serve(&sandbox, &["--log", "debug"]).await;
    let mut client = OldClient::connect(address, "/ws/agent/7").await;
    client.auth(&token("123")).await;
    assert_eq!(client.json().await["type"], "auth_response");
    sandbox.trigger("agent-status", "missed", r#"{"agent_id":"8"}"#);
    sandbox.trigger("agent-status", "task_result", r#"{"agent_id":"7"}"#);
    assert_eq!(client.json().await["type"], "task_result");
    client.socket.close(None).await.unwrap();
    client.closed().await;
    drop(client);
    let mut many = OldClient::connect(address, "/ws").await;
    for channel in ["files", "git"] {
        many.send(&format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#)).await;
        patiently("the subscription", sandbox.wait_for(|view| view.subscribed(channel) == 1)).await;
    }
    many.socket.close(None).await.unwrap();
    many.closed().await;
    drop(many);
    program.signal("TERM");
    let ended = program.ended().await;
    let lines: Vec<serde_json::Value> =
        ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |message: &str| lines.iter().filter(|line| line["message"] == message).collect::<Vec<_>>();
    assert!(of("subscribed").iter().any(|l| l["channel"] == "agent-status" && l["route"] == "agent"));
    for (event, receivers) in [("missed", 0), ("task_result", 1)] {
        let line = of("handed out").into_iter().find(|line| line["event"] == event).unwrap();
        assert_eq!((&line["channel"], &line["receivers"]), (&"agent-status".into(), &receivers.into()));
    }
    // Two connections may be two workers', whose lines come in any order.
    let closed = of("closed");
    let (one, many): (Vec<_>, Vec<_>) = closed.into_iter().partition(|line| line["route"] == "agent");
    assert_eq!((one.len(), many.len()), (1, 1));
    assert_eq!(one[0]["channel"], "agent-status");
    assert!(one[0].get("channels").is_none_or(serde_json::Value::is_null));
    assert!(["files", "git"].contains(&many[0]["channel"].as_str().unwrap()));
    assert_eq!(many[0]["channels"], 2);
}
