//! The core scenarios, against any Pusher: once against the sandbox here, once against sockudo.

use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use pusher_bridge::app::Shutdown;
use pusher_bridge::config::Config;
use pusher_bridge::routes::route::{Heartbeat, HeartbeatKind};
use pusher_bridge::sandbox::{Options, Sandbox};

use crate::near_and_far;
use crate::support::backend::Backend;
use crate::support::bridge::{self, SHIPPED, metric, token_with};
use crate::support::clients;
use crate::support::pusher::{App, Pusher};
use crate::support::tls::{Authority, serve};
use crate::support::{OldClient, patiently, temporary_directory};

fn quick(config: &mut Config) {
    config.upstream.times.reconnect_delay_max = Duration::from_millis(50);
    config.server.close_window = Duration::ZERO;
    for route in &mut config.routes {
        Arc::get_mut(route).unwrap().limits.messages = None;
    }
}

/// Events down, byte for byte and as one envelope; messages up, signed, on a private channel; each to
/// everybody but its sender, once.
pub async fn relays_both_ways(app: &App) {
    let bridge = bridge::start(app, SHIPPED, &[], quick).await;
    let mut sender = OldClient::login(bridge.address, "/ws/plugin/p1", "1").await;
    let mut neighbour = OldClient::login(bridge.address, "/ws/plugin/p1", "2").await;
    let mut native = app.native("private-plugin-p1").await;
    let data =
        r#"{"n":1.50,"big":123456789012345678901234567890,"s":"\u00e9\ud83d\ude00\n\"é😀","a":1,"a":2}"#;
    app.trigger("private-plugin-p1", "progress", data).await;
    for client in [&mut sender, &mut neighbour] {
        let frame = client.text().await;
        assert!(frame.starts_with(&format!(r#"{{"type":"progress","data":{data},"timestamp":""#)), "{frame}");
    }
    let envelope = format!(r#"{{"type":"progress","data":{data},"timestamp":"t"}}"#);
    app.trigger("private-plugin-p1", "progress", &envelope).await;
    for client in [&mut sender, &mut neighbour] {
        assert_eq!(client.text().await, envelope);
    }
    app.trigger("private-plugin-p1", "text", "not JSON {").await;
    for client in [&mut sender, &mut neighbour] {
        assert_eq!(client.json().await["data"], "not JSON {");
    }
    for expected in ["progress", "progress", "text"] {
        assert_eq!(native.event().await.0, expected);
    }

    sender.send(&format!(r#"{{"type":"run","data":{data}}}"#)).await;
    let frame = neighbour.text().await;
    assert!(frame.starts_with(&format!(r#"{{"type":"client-run","data":{data},"#)), "{frame}");
    assert_eq!(native.event().await, ("client-run".to_owned(), data.to_owned()));
    app.trigger("private-plugin-p1", "fence", "1").await;
    for client in [&mut sender, &mut neighbour] {
        assert_eq!(client.json().await["type"], "fence");
    }
    drop((sender, neighbour));
    assert_eq!(bridge.shutdown().await, Shutdown::Clean);
}

/// Hundreds of messages, in order, in batches.
pub async fn publishes_in_order(app: &App) {
    const MESSAGES: usize = 300;
    let bridge = bridge::start(app, SHIPPED, &[], quick).await;
    let mut sender = OldClient::login(bridge.address, "/ws/plugin/p1", "1").await;
    let mut neighbour = OldClient::login(bridge.address, "/ws/plugin/p1", "2").await;
    let mut native = app.native("private-plugin-p1").await;
    for n in 0..MESSAGES {
        sender.feed(&format!(r#"{{"type":"m","data":{n}}}"#)).await;
    }
    futures_util::SinkExt::flush(&mut sender.socket).await.unwrap();
    for n in 0..MESSAGES {
        assert_eq!(neighbour.json().await["data"], n);
        assert_eq!(native.event().await.1, n.to_string());
    }
    assert_eq!(metric(&bridge, r#"pusher_bridge_publish_total{result="ok"}"#), MESSAGES as f64);
    let large = format!("\"{}\"", "x".repeat(10_238));
    sender.send(&format!(r#"{{"type":"m","data":{large}}}"#)).await;
    assert_eq!(native.event().await.1, large);
    assert_eq!(neighbour.json().await["data"].as_str().map(str::len), Some(10_238));
}

/// Nobody sees a neighbour's events, and a stranger subscribes nothing.
pub async fn isolates(app: &App) {
    let bridge = bridge::start(app, SHIPPED, &[], quick).await;
    let mut seven = OldClient::login(bridge.address, "/ws/agent/agent_7", "1").await;
    let mut eight = OldClient::login(bridge.address, "/ws/agent/agent_8", "2").await;
    let mut roblox = OldClient::login(bridge.address, "/ws/roblox", "3").await;
    roblox.send(r#"{"type":"subscribe","environment_id":"env_1"}"#).await;
    roblox.send(r#"{"type":"fence"}"#).await;
    assert_eq!(roblox.error_code().await, "UNKNOWN_MESSAGE_TYPE");
    for (id, n) in [("agent_8", 1), ("agent_7", 2), ("agent_70", 3), ("agent_8", 4)] {
        let data = format!(r#"{{"agent_id":"{id}","n":{n}}}"#);
        app.trigger("agent-status", "task_result", &data).await;
    }
    for (client, expected) in [(&mut seven, [2, 5]), (&mut eight, [1, 4])] {
        app.trigger("agent-status", "task_result", r#"{"agent_id":"agent_7","n":5}"#).await;
        for n in expected {
            assert_eq!(client.json().await["data"]["n"], n);
        }
    }
    for id in ["env_2", "env_1"] {
        app.trigger("roblox-sync", "asset_ready", &format!(r#"{{"environment_id":"{id}"}}"#)).await;
    }
    assert_eq!(roblox.json().await["data"]["environment_id"], "env_1");

    let live = r#"pusher_bridge_subscriptions{state="live"}"#;
    assert_eq!(metric(&bridge, live), 2.0);
    for (path, token, code) in [
        (
            "/ws/content/gen_1",
            token_with("9", |c| c["permissions"] = serde_json::json!([])),
            "MISSING_PERMISSION",
        ),
        ("/ws/content/gen_1", token_with("9", |c| c["exp"] = serde_json::json!(1)), "INVALID_TOKEN"),
        ("/ws/plugin/p2", token_with("9", |_| {}), "NOT_OWNER"),
    ] {
        let mut stranger = OldClient::connect(bridge.address, path).await;
        stranger.auth(&token).await;
        assert_eq!(stranger.error_code().await, code);
    }
    assert_eq!(metric(&bridge, live), 2.0);
    assert_eq!(metric(&bridge, r#"pusher_bridge_subscriptions{state="pending"}"#), 0.0);
}

/// When Pusher is restarted clients stay connected, and traffic flows again, both ways.
pub async fn survives_a_restart(app: &App, restart: impl AsyncFnOnce()) {
    let bridge = bridge::start(app, SHIPPED, &[], quick).await;
    let mut sender = OldClient::login(bridge.address, "/ws/plugin/p1", "1").await;
    let mut neighbour = OldClient::login(bridge.address, "/ws/plugin/p1", "2").await;
    let mut agent = OldClient::login(bridge.address, "/ws/agent/agent_7", "1").await;
    restart().await;
    // A newcomer's confirmation shows that the channel stands again.
    for path in ["/ws/plugin/p1", "/ws/agent/agent_8"] {
        loop {
            let mut newcomer = OldClient::connect(bridge.address, path).await;
            newcomer.auth(&bridge::token("3")).await;
            if newcomer.json().await["type"] == "auth_response" {
                break;
            }
        }
    }
    app.trigger("private-plugin-p1", "back", "1").await;
    app.trigger("agent-status", "back", r#"{"agent_id":"agent_7"}"#).await;
    for client in [&mut sender, &mut neighbour, &mut agent] {
        assert_eq!(client.json().await["type"], "back");
    }
    sender.send(r#"{"type":"m","data":1}"#).await;
    assert_eq!(neighbour.json().await["type"], "client-m");
    assert_eq!(metric(&bridge, "pusher_bridge_upstream_gaps_total"), 2.0);
}

/// Clients that join a cache channel later get its last event as well, once, whichever worker has them; and of a
/// filtered one only their own.
pub async fn late_joiners_get_the_last_event(app: &App, lose_links: impl AsyncFnOnce()) {
    const MORE: &str = r#"
[[routes]]
name = "score"
group = "typed-api"
path = "/ws/score/{game}"
channel = "private-cache-score-{game}"

[[routes.publish]]
types = ["*"]

[[routes]]
name = "team"
group = "typed-api"
path = "/ws/team/{team}"
channel = "cache-teams"
filter = { field = "team", equals = "{team}" }
"#;
    let bridge = bridge::start(app, &format!("{SHIPPED}\n{MORE}"), &[], |config| {
        quick(config);
        config.server.workers = 2;
    })
    .await;
    let mut first = OldClient::login(bridge.address, "/ws/score/g1", "1").await;
    let mut clients = Vec::new();
    for n in 0..4 {
        let mut late = OldClient::login(bridge.address, "/ws/score/g1", "2").await;
        if n > 0 {
            let frame = late.json().await;
            assert_eq!((frame["type"].as_str(), &frame["data"]), (Some("score"), &n.into()), "the last one");
        }
        clients.push(late);
        app.trigger("private-cache-score-g1", "score", &(n + 1).to_string()).await;
        for client in clients.iter_mut().chain([&mut first]) {
            assert_eq!(client.json().await["data"], n + 1);
        }
    }
    // A client's message is an event like any other, but for its sender.
    first.send(r#"{"type":"m","data":7}"#).await;
    for client in &mut clients {
        assert_eq!(client.json().await["data"], 7);
    }
    for client in [&mut OldClient::login(bridge.address, "/ws/score/g1", "3").await] {
        let frame = client.json().await;
        assert_eq!((frame["type"].as_str(), &frame["data"]), (Some("client-m"), &7.into()));
    }

    // What says the same is another one, whoever it is from.
    let mut pair = [
        OldClient::login(bridge.address, "/ws/score/g2", "5").await,
        OldClient::login(bridge.address, "/ws/score/g2", "6").await,
    ];
    let [sender, neighbour] = &mut pair;
    sender.send(r#"{"type":"m","data":1}"#).await;
    assert_eq!(neighbour.json().await["data"], 1);
    app.trigger("private-cache-score-g2", "client-m", "1").await;
    for client in &mut pair {
        assert_eq!(client.json().await["data"], 1);
    }

    // Subscribed anew, the link gets the last event again: who has it does not, its sender neither.
    let gaps = metric(&bridge, "pusher_bridge_upstream_gaps_total");
    lose_links().await;
    patiently("the gap", async {
        while metric(&bridge, "pusher_bridge_upstream_gaps_total") < gaps + 2.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut last = OldClient::login(bridge.address, "/ws/score/g1", "4").await;
    assert_eq!(last.json().await["data"], 7);
    app.trigger("private-cache-score-g1", "score", "8").await;
    for client in clients.iter_mut().chain([&mut first, &mut last]) {
        assert_eq!(client.json().await["data"], 8);
    }

    let mut red = OldClient::login(bridge.address, "/ws/team/red", "1").await;
    app.trigger("cache-teams", "goal", r#"{"team":"red"}"#).await;
    assert_eq!(red.json().await["type"], "goal");
    let mut late_red = OldClient::login(bridge.address, "/ws/team/red", "2").await;
    let mut late_blue = OldClient::login(bridge.address, "/ws/team/blue", "2").await;
    assert_eq!(late_red.json().await["type"], "goal");
    app.trigger("cache-teams", "foul", r#"{"team":"blue"}"#).await;
    assert_eq!(late_blue.json().await["type"], "foul", "nothing of another team's");
    assert_eq!(bridge.shutdown().await, Shutdown::Clean);
}

/// Old clients and Pusher's own libraries, as others wrote them.
pub async fn carries_real_clients(app: &App) {
    let bridge = bridge::start(app, SHIPPED, &[], with_heartbeats);
    let bridge = bridge.await;
    let (node, python) = tokio::join!(
        clients::node("bridge.test.mjs", app, bridge.address, &[]),
        clients::python(app, bridge.address)
    );
    [node, python].into_iter().flatten().for_each(assert_success);
}

/// Python's `websockets`, as it is, by `wss://`.
pub async fn carries_wss(app: &App) {
    let authority = Authority::new();
    let bridge = bridge::start(app, SHIPPED, &[], |config| {
        with_heartbeats(config);
        serve(config, &authority.sign("a.example"), None);
    })
    .await;
    let folder = temporary_directory("wss");
    let trusted = folder.join("ca.pem").display().to_string();
    std::fs::write(&trusted, authority.pem()).unwrap();
    let url = format!("wss://{}", bridge.address);
    let env = [("BRIDGE_URL", url.as_str()), ("SSL_CERT_FILE", &trusted)];
    clients::python_at(app, bridge.address, &env).await.into_iter().for_each(assert_success);
    std::fs::remove_dir_all(folder).unwrap();
}

/// As old_client.py expects them.
fn with_heartbeats(config: &mut Config) {
    quick(config);
    config.auth.as_mut().unwrap().leeway = Duration::ZERO;
    let every = Duration::from_millis(100);
    let heartbeat = Heartbeat { kind: HeartbeatKind::Json, every, timeout: Duration::from_secs(1) };
    for route in &mut config.routes {
        Arc::get_mut(route).unwrap().heartbeat = heartbeat;
    }
}

/// Every row of the shipped routes, both directions. `upstream` is the server's name, by which the clients know what it
/// cannot do.
pub async fn carries_every_row(app: &App, upstream: &str) {
    let mut backend = Backend::start().await;
    let url = backend.url();
    let key = [("PUSHER_ENCRYPTION_MASTER_KEY", "UGxlYXNlIHVzZSBhIGtleSBvZiB5b3VyIG93biwgMzI=")];
    let token = [("NOTIFY_TOKEN", "an-internal-token")];
    let env: Vec<_> = key.into_iter().chain(token).chain([("BACKEND_URL", url.as_str())]).collect();
    let bridge = bridge::start(app, SHIPPED, &env, quick).await;
    let env: Vec<_> = env.into_iter().chain([("UPSTREAM", upstream)]).collect();
    if let Some(output) = clients::node("rows.test.mjs", app, bridge.address, &env).await {
        assert_success(output);
        let posted = backend.next().await;
        assert_eq!(
            (posted.path.as_str(), posted.body.as_str()),
            ("/commands/node/input", r#"{"input":"ls\n"}"#)
        );
    }
    assert_eq!(bridge.shutdown().await, Shutdown::Clean);
}

fn assert_success(output: Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
}

async fn sandbox() -> pusher_bridge::sandbox::SandboxHandle {
    // PyPI's `pusher` takes no id but a number.
    Sandbox::start(Options { app_id: "1001".into(), ..Options::local() }).await.unwrap()
}

near_and_far!(sandbox_relays_both_ways);
async fn sandbox_relays_both_ways() {
    let sandbox = sandbox().await;
    relays_both_ways(&sandbox.app()).await;
}

near_and_far!(sandbox_publishes_in_order);
async fn sandbox_publishes_in_order() {
    let sandbox = sandbox().await;
    publishes_in_order(&sandbox.app()).await;
}

near_and_far!(sandbox_isolates);
async fn sandbox_isolates() {
    let sandbox = sandbox().await;
    isolates(&sandbox.app()).await;
}

near_and_far!(sandbox_survives_a_restart);
async fn sandbox_survives_a_restart() {
    let sandbox = sandbox().await;
    survives_a_restart(&sandbox.app(), async || sandbox.close_connections(4200)).await;
}

near_and_far!(sandbox_gives_late_joiners_the_last_event);
async fn sandbox_gives_late_joiners_the_last_event() {
    let sandbox = sandbox().await;
    late_joiners_get_the_last_event(&sandbox.app(), async || sandbox.cut_connections()).await;
}

near_and_far!(sandbox_carries_real_clients);
async fn sandbox_carries_real_clients() {
    let sandbox = sandbox().await;
    carries_real_clients(&sandbox.app()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sandbox_carries_wss() {
    let sandbox = sandbox().await;
    carries_wss(&sandbox.app()).await;
}

#[tokio::test]
async fn sandbox_carries_every_row() {
    let sandbox = sandbox().await;
    carries_every_row(&sandbox.app(), "sandbox").await;
}
