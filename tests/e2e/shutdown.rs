//! Going down in order: unready, clients told over a window, what was accepted published.

use std::time::Duration;

use pusher_bridge::app::Shutdown;
use pusher_bridge::sandbox::{Options, Sandbox};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::bridge::{SHIPPED, token};
use crate::support::process::Program;
use crate::support::raw::upgrade;
use crate::support::{Bridge, OldClient, Raw, patiently};

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_to_go_spread_over_the_window() {
    const CLIENTS: usize = 20;
    let bridge = Bridge::with(SHIPPED, |config| config.server.close_window = Duration::from_secs(1)).await;
    let address = bridge.address();
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let mut client = if n % 2 == 0 {
            bridge.login(&format!("/ws/content/{n}")).await
        } else {
            bridge.connect("/ws/agent/a").await
        };
        clients.push(tokio::spawn(async move {
            let close = client.closed().await.unwrap();
            (close, Instant::now())
        }));
    }
    let started = Instant::now();
    assert_eq!(patiently("the shutdown", bridge.shutdown()).await, Shutdown::Clean);
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    let mut times = Vec::new();
    for client in clients {
        let (close, at) = client.await.unwrap();
        assert_eq!(close, (1001, "server going away, reconnect".to_owned()));
        times.push(at - started);
    }
    let spread = *times.iter().max().unwrap() - *times.iter().min().unwrap();
    assert!(spread > Duration::from_millis(300), "all at once: {spread:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_published_in_order() {
    let bridge = Bridge::with(SHIPPED, |config| config.server.close_window = Duration::ZERO).await;
    let hold = bridge.sandbox.hold_publishes();
    let mut client = bridge.login("/ws/plugin/p1").await;
    for n in 0..25 {
        client.send(&format!(r#"{{"type":"run","data":{n}}}"#)).await;
    }
    bridge.becomes("pusher_bridge_publish_queue_messages", 25.0).await;
    let Bridge { running, sandbox } = bridge;
    let shutdown = tokio::spawn(running.shutdown());
    assert_eq!(client.closed().await.unwrap().0, 1001);
    drop((client, hold));
    assert_eq!(patiently("the shutdown", shutdown).await.unwrap(), Shutdown::Clean);
    let published: Vec<String> =
        sandbox.published().iter().map(|published| published.data.to_string()).collect();
    let expected: Vec<String> = (0..25).map(|n: u32| n.to_string()).collect();
    assert_eq!(published, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pusher_that_never_answers_does_not_keep_it() {
    let bridge = Bridge::with(SHIPPED, |config| {
        config.server.close_window = Duration::ZERO;
        config.server.grace = Duration::from_secs(1);
    })
    .await;
    let _hold = bridge.sandbox.hold_publishes();
    let mut client = bridge.login("/ws/plugin/p1").await;
    client.send(r#"{"type":"run","data":1}"#).await;
    patiently("the publish", bridge.sandbox.wait_for(|view| view.held_publishes() == 1)).await;
    let Bridge { running, sandbox: _sandbox } = bridge;
    drop(client);
    assert_eq!(patiently("the shutdown", running.shutdown()).await, Shutdown::Cut);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_no_request_does_not_keep_it() {
    let bridge = Bridge::with(SHIPPED, |config| {
        config.server.close_window = Duration::ZERO;
        config.server.header_timeout = Duration::from_secs(3600);
    })
    .await;
    let idle = Raw::connect(bridge.address()).await;
    bridge.becomes(r#"pusher_bridge_connections{route="none",phase="handshake"}"#, 1.0).await;
    assert_eq!(patiently("the shutdown", bridge.shutdown()).await, Shutdown::Clean);
    idle.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_order_makes_it_unready_and_refuses_newcomers_politely() {
    let bridge = Bridge::with(SHIPPED, |config| config.server.close_window = Duration::ZERO).await;
    let admin = bridge.running.admin_address;
    let mut client = bridge.login("/ws/content/gen_1").await;
    let with = |line: &'static str, headers: &'static str| async move {
        Raw::ask(admin, format!("{line} HTTP/1.1\r\n{headers}\r\n\r\n")).await
    };
    let ask = |line: &'static str| with(line, "Host: a");
    assert_eq!(ask("GET /readyz").await.status, 200);
    assert_eq!(with("DELETE /drain", "Host: localhost\r\nX-Pusher-Bridge: drain").await.status, 405);
    // What a page in somebody's browser can make it send: an image, a form, or, where the page's own name has come to
    // lead here, anything at all but another `Host`.
    for headers in [
        "Host: 127.0.0.1:9009",
        "Host: localhost\r\nX-Pusher-Bridge: yes",
        "Host: evil.example\r\nX-Pusher-Bridge: drain",
        "Host: localhost\r\nHost: evil.example\r\nX-Pusher-Bridge: drain",
        "Host: localhost\r\nX-Pusher-Bridge: drain\r\nOrigin: http://evil.example",
        "Host: localhost\r\nX-Pusher-Bridge: drain\r\nSec-Fetch-Site: cross-site",
    ] {
        for line in ["GET /drain", "POST /drain"] {
            assert_eq!(with(line, headers).await.status, 403, "{line} {headers}");
        }
    }
    assert_eq!(ask("GET /readyz").await.status, 200);
    assert_eq!(with("GET /drain", "Host: LOCALHOST:1\r\nx-pusher-bridge: drain").await.status, 202);
    let readyz = ask("GET /readyz").await;
    assert_eq!((readyz.status, readyz.body.starts_with("draining\n")), (503, true));
    assert_eq!(ask("GET /healthz").await.status, 200, "it is not to be killed for it");
    assert_eq!(bridge.metric("pusher_bridge_ready"), 0.0);
    assert_eq!(client.closed().await.unwrap().0, 1001);
    let answer = Raw::ask(bridge.address(), upgrade("/ws/content/gen_1", &[])).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.header("retry-after"), "5");
    assert_eq!(answer.header("deprecation"), "@1737417600");
    drop(client);
    assert_eq!(patiently("the shutdown", bridge.shutdown()).await, Shutdown::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_of_the_admin_address_may_drain_it() {
    for host in ["10.0.0.7:9009", "[::1]:9009", "Bridge.Internal:9009", "localhost"] {
        for method in ["GET", "POST"] {
            let bridge = Bridge::with(SHIPPED, |config| {
                config.server.close_window = Duration::ZERO;
                config.admin.hosts = vec!["bridge.internal".to_owned()];
            })
            .await;
            let request =
                format!("{method} /drain HTTP/1.1\r\nHost: {host}\r\nX-Pusher-Bridge: drain\r\n\r\n");
            assert_eq!(Raw::ask(bridge.running.admin_address, request).await.status, 202, "{host}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_is_told_at_the_traffic_port_and_counts_as_no_client() {
    let bridge = Bridge::with(SHIPPED, |config| {
        config.server.close_window = Duration::ZERO;
        config.server.health_path = Some("/healthz".to_owned());
        config.server.connections_max = 1;
    })
    .await;
    let address = bridge.address();
    let ask = |line: &'static str| async move {
        Raw::ask(address, format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n")).await
    };
    let client = bridge.login("/ws/content/gen_1").await;
    assert_eq!(
        ask("GET /ws/content/gen_1").await.status,
        426,
        "it answers though all connections are in use"
    );
    for _ in 0..400 {
        let answer = ask("GET /healthz").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ready\n"));
    }
    assert_eq!(ask("GET /healthz?x=1").await.status, 200);
    let mut raw = Raw::connect(address).await;
    raw.send("HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200 "));
    raw.ended().await;
    for method in ["POST /healthz", "DELETE /healthz", "OPTIONS /healthz"] {
        let answer = ask(method).await;
        assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD".to_owned()));
    }
    // There is nothing else of the admin address, and nothing near it.
    for path in
        ["GET /readyz", "GET /metrics", "POST /drain", "GET /healthz/", "GET /Healthz", "GET /healthz/x"]
    {
        assert_eq!(ask(path).await.status, 404, "{path}");
    }
    let refused: f64 = ["unknown_path", "overload", "upgrade_required"]
        .map(|why| bridge.metric(&format!("pusher_bridge_refusals_total{{route=\"none\",reason=\"{why}\"}}")))
        .iter()
        .sum();
    assert_eq!(refused, 6.0, "health is no refusal");
    bridge.running.status.start_draining();
    assert_eq!(ask("GET /healthz").await.status, 503);
    drop(client);
    assert_eq!(patiently("the shutdown", bridge.shutdown()).await, Shutdown::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_health_path_there_is_none() {
    let bridge = Bridge::start().await;
    let answer = Raw::ask(bridge.address(), "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()).await;
    assert_eq!(answer.status, 404);
}

// ----------------------------------------------------------------------------------- the program itself

/// The shipped routes, with these shutdown rules.
fn routes(name: &str, rules: &str) -> String {
    let text = SHIPPED.replacen("[upstream]", &format!("[server.shutdown]\n{rules}\n\n[upstream]"), 1);
    crate::support::process::file(name, &text)
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_the_program_says_goodbye_publishes_and_exits_with_0() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let file = routes("sigterm.toml", r#"close_window = "100ms""#);
    let (program, address, _) = Program::serve(&sandbox, &["--config", &file]).await;
    let hold = sandbox.hold_publishes();
    let mut client = OldClient::connect(address, "/ws/plugin/p1").await;
    client.auth(&token("123")).await;
    assert_eq!(client.json().await["type"], "auth_response");
    client.send(r#"{"type":"run","data":1.50}"#).await;
    patiently("the publish", sandbox.wait_for(|view| view.held_publishes() == 1)).await;
    program.signal("TERM");
    assert_eq!(client.closed().await.unwrap(), (1001, "server going away, reconnect".to_owned()));
    assert!(TcpStream::connect(address).await.is_err());
    drop((client, hold));
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(sandbox.published().len(), 1);
    assert!(ended.stderr.contains("SIGTERM: draining") && ended.stderr.contains("\"stopped\""), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_it_at_once_and_a_late_one_is_told() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let _hold = sandbox.hold_publishes();
    for (rules, signals, why) in [
        (
            r#"close_window = "50m"
grace = "1h""#,
            2,
            "a second SIGTERM",
        ),
        (
            r#"close_window = "0s"
grace = "500ms""#,
            1,
            "grace period",
        ),
    ] {
        let file = routes(&format!("signals-{signals}.toml"), rules);
        let (mut program, address, _) = Program::serve(&sandbox, &["--config", &file]).await;
        let mut client = OldClient::connect(address, "/ws/plugin/p1").await;
        client.auth(&token("123")).await;
        assert_eq!(client.json().await["type"], "auth_response");
        client.send(r#"{"type":"run","data":1}"#).await;
        patiently("the publish", sandbox.wait_for(|view| view.held_publishes() > 0)).await;
        program.signal("TERM");
        program.stderr.find("SIGTERM: draining").await;
        if signals == 2 {
            program.signal("TERM");
        }
        let ended = program.ended().await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains(why), "{ended:?}");
    }
}
