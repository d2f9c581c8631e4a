//! The connections to Pusher: subscribing, losing and regaining them, and what comes over them.

use std::sync::Arc;
use std::time::Duration;

use pusher_bridge::app;
use pusher_bridge::config::Config;
use pusher_bridge::routes::route::OnGap;
use pusher_bridge::sandbox::{HandshakeFault, Options, Sandbox};
use secrecy::ExposeSecret;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use crate::near_and_far;
use crate::support::bridge::{self, SHIPPED, token};
use crate::support::proxy::TlsProxy;
use crate::support::pusher::Pusher;
use crate::support::{Bridge, OldClient, patiently};

const PLUGIN: &str = "private-plugin-p1";

/// Reconnects without long delays.
fn quick(config: &mut Config) {
    config.upstream.times.reconnect_delay_max = Duration::from_millis(50);
}

fn on_gap(config: &mut Config, on_gap: OnGap) {
    quick(config);
    for route in &mut config.routes {
        Arc::get_mut(route).unwrap().on_gap = on_gap;
    }
}

fn unlimited_connections(config: &mut Config) {
    for route in &mut config.routes {
        let limits = &mut Arc::get_mut(route).unwrap().limits;
        (limits.connections_per_user, limits.connections_per_address) = (None, None);
    }
}

async fn subscribed(bridge: &Bridge, channel: &str, count: usize) {
    let stands = bridge.sandbox.wait_for(|view| view.subscribed(channel) == count);
    patiently(&format!("{count} subscriptions to {channel}"), stands).await;
}

/// The connection that the sandbox has after `number` of them, with `channel` subscribed.
async fn reconnected(bridge: &Bridge, number: u64, channel: &str) {
    let back = bridge.sandbox.wait_for(|view| {
        view.connections_total() > number && view.connections() == 1 && view.subscribed(channel) == 1
    });
    patiently("the resubscription", back).await;
}

/// An event arrives as the client's very next frame.
async fn next_is(bridge: &Bridge, client: &mut OldClient, event: &str) {
    bridge.sandbox.trigger(PLUGIN, event, "1");
    assert_eq!(client.json().await["type"], event);
}

fn failed_subscriptions(bridge: &Bridge) -> f64 {
    let by_reason = ["unauthorized", "quota", "feature_off", "full", "name", "other", "unanswered"]
        .map(|reason| format!("pusher_bridge_subscription_failures_total{{reason=\"{reason}\"}}"));
    by_reason.iter().map(|series| bridge.metric(series)).sum()
}

// ------------------------------------------------------------------------------------------ subscriptions

near_and_far!(the_first_subscribes_and_the_last_unsubscribes);
async fn the_first_subscribes_and_the_last_unsubscribes() {
    let bridge =
        Bridge::with(SHIPPED, |config| config.upstream.times.linger = Duration::from_millis(30)).await;
    assert!(bridge.sandbox.ever_subscribed().is_empty());
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(bridge.login("/ws/plugin/p1").await);
        assert_eq!(bridge.sandbox.subscriptions(), [(PLUGIN.to_owned(), 1)]);
    }
    while let Some(client) = clients.pop() {
        drop(client);
        if let Some(left) = clients.last_mut() {
            next_is(&bridge, left, "still").await;
        }
    }
    subscribed(&bridge, PLUGIN, 0).await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="lingering"}"#, 0.0).await;
    assert_eq!(bridge.metric(r#"pusher_bridge_subscriptions{state="live"}"#), 0.0);

    let mut again = bridge.login("/ws/plugin/p1").await;
    next_is(&bridge, &mut again, "again").await;
    assert_eq!(failed_subscriptions(&bridge), 0.0);
}

near_and_far!(within_the_linger_nothing_is_unsubscribed);
async fn within_the_linger_nothing_is_unsubscribed() {
    let bridge =
        Bridge::with(SHIPPED, |config| config.upstream.times.linger = Duration::from_secs(3600)).await;
    drop(bridge.login("/ws/plugin/p1").await);
    bridge.becomes(r#"pusher_bridge_subscriptions{state="lingering"}"#, 1.0).await;
    assert_eq!(bridge.sandbox.subscriptions(), [(PLUGIN.to_owned(), 1)]);
    // The channel is held upstream: a new subscription would wait for ever.
    bridge.sandbox.hold_subscriptions(PLUGIN);
    let mut client = bridge.login("/ws/plugin/p1").await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 1.0).await;
    next_is(&bridge, &mut client, "e").await;
}

near_and_far!(a_client_is_confirmed_only_when_its_subscription_stands);
async fn a_client_is_confirmed_only_when_its_subscription_stands() {
    let bridge = Bridge::start().await;
    bridge.sandbox.hold_subscriptions(PLUGIN);
    let mut first = bridge.connect("/ws/plugin/p1").await;
    first.auth(&token("1")).await;
    patiently("the subscription", bridge.sandbox.wait_for(|view| view.pending(PLUGIN) == 1)).await;
    let mut second = bridge.connect("/ws/plugin/p1").await;
    second.auth(&token("2")).await;
    // Errors that are about other channels confirm nothing.
    for message in
        ["Existing subscription to channel elsewhere", "No current subscription to channel elsewhere"]
    {
        let error = format!(r#"{{"event":"pusher:error","data":{{"code":null,"message":"{message}"}}}}"#);
        bridge.sandbox.raw_frame_to_all(&error);
    }
    bridge.becomes(r#"pusher_bridge_auth_total{route="plugin",result="accepted"}"#, 2.0).await;
    assert_eq!(bridge.metric(r#"pusher_bridge_connections{route="plugin",phase="live"}"#), 0.0);
    bridge.sandbox.trigger(PLUGIN, "too-early", "1");
    bridge.sandbox.release_subscriptions(PLUGIN);
    for client in [&mut first, &mut second] {
        assert_eq!(client.json().await["type"], "auth_response");
    }
    bridge.sandbox.trigger(PLUGIN, "e", "1");
    for client in [&mut first, &mut second] {
        assert_eq!(client.json().await["type"], "e");
    }
    assert_eq!(failed_subscriptions(&bridge), 0.0);
}

near_and_far!(a_subscription_that_does_not_stand_is_told_and_may_be_retried);
async fn a_subscription_that_does_not_stand_is_told_and_may_be_retried() {
    let bridge = Bridge::with(SHIPPED, |config| {
        config.upstream.times.subscribe_timeout = Duration::from_millis(400);
        config.upstream.times.linger = Duration::ZERO;
    })
    .await;
    bridge.sandbox.hold_subscriptions(PLUGIN);
    let mut client = bridge.connect("/ws/plugin/p1").await;
    client.auth(&token("1")).await;
    assert_eq!(client.error_code().await, "UPSTREAM_UNAVAILABLE");
    client.send(r#"{"type":"run"}"#).await;
    assert_eq!(client.error_code().await, "WEBSOCKET_AUTH_REQUIRED", "it is not in service");
    bridge.sandbox.release_subscriptions(PLUGIN);
    loop {
        client.auth(&token("1")).await;
        let answer = client.json().await;
        if answer["type"] == "auth_response" {
            break;
        }
        // Another attempt upstream is made after a second; five are within the client's limit.
        assert_eq!(answer["data"]["error_code"], "UPSTREAM_UNAVAILABLE", "{answer}");
    }
    next_is(&bridge, &mut client, "e").await;
    drop(client);
    subscribed(&bridge, PLUGIN, 0).await;
}

near_and_far!(a_late_subscription_that_nobody_wants_is_ended);
/// What came to stand after everybody had given up is ended, not left for ever.
async fn a_late_subscription_that_nobody_wants_is_ended() {
    let bridge = Bridge::with(SHIPPED, |config| {
        config.upstream.times.subscribe_timeout = Duration::from_millis(50);
        config.upstream.times.linger = Duration::ZERO;
    })
    .await;
    bridge.sandbox.hold_subscriptions(PLUGIN);
    let mut client = bridge.connect("/ws/plugin/p1").await;
    client.auth(&token("1")).await;
    assert_eq!(client.error_code().await, "UPSTREAM_UNAVAILABLE");
    drop(client);
    bridge.becomes(r#"pusher_bridge_subscriptions{state="pending"}"#, 0.0).await;
    assert_eq!(bridge.sandbox.view(|view| view.pending(PLUGIN)), 1, "it is what comes to stand now");
    bridge.sandbox.release_subscriptions(PLUGIN);
    subscribed(&bridge, PLUGIN, 0).await;
}

// ------------------------------------------------------------------------------------- lost connections

/// Loses the connection by `lose`; clients stay, channels come back, events flow again.
async fn survives(cause: &str, lose: impl AsyncFn(&Bridge)) {
    let bridge = Bridge::with(SHIPPED, quick).await;
    let mut client = bridge.login("/ws/plugin/p1").await;
    let mut agent = bridge.login("/ws/agent/agent_7").await;
    let reconnects = format!("pusher_bridge_upstream_reconnects_total{{cause=\"{cause}\"}}");
    for round in 1..=2 {
        let before = bridge.sandbox.view(|view| view.connections_total());
        lose(&bridge).await;
        reconnected(&bridge, before, PLUGIN).await;
        subscribed(&bridge, "agent-status", 1).await;
        next_is(&bridge, &mut client, "back").await;
        bridge.sandbox.trigger("agent-status", "back", r#"{"agent_id":"agent_7"}"#);
        assert_eq!(agent.json().await["type"], "back");
        assert_eq!(bridge.sandbox.connections(), 1);
        assert_eq!(
            bridge.metric("pusher_bridge_upstream_gaps_total"),
            2.0 * f64::from(round),
            "two channels"
        );
        assert!(bridge.metric(&reconnects) >= f64::from(round), "{}", bridge.running.metrics.render());
        assert_eq!(bridge.metric(r#"pusher_bridge_upstream_connected{link="0"}"#), 1.0);
    }
}

near_and_far!(a_cut_connection_is_survived);
async fn a_cut_connection_is_survived() {
    survives("broken", async |bridge| bridge.sandbox.cut_connections()).await;
}

near_and_far!(a_close_that_asks_to_reconnect_is_survived);
async fn a_close_that_asks_to_reconnect_is_survived() {
    survives("closed_4200", async |bridge| bridge.sandbox.close_connections(4200)).await;
}

near_and_far!(a_close_for_lack_of_capacity_is_survived);
async fn a_close_for_lack_of_capacity_is_survived() {
    survives("closed_4100", async |bridge| {
        bridge.sandbox.close_connections(4100);
    })
    .await;
}

near_and_far!(a_close_over_quota_is_survived);
async fn a_close_over_quota_is_survived() {
    survives("closed_4000", async |bridge| bridge.sandbox.close_connections(4004)).await;
}

near_and_far!(an_ordinary_close_is_survived);
async fn an_ordinary_close_is_survived() {
    survives("closed_other", async |bridge| bridge.sandbox.close_connections(1000)).await;
}

near_and_far!(an_error_with_a_close_code_is_survived);
async fn an_error_with_a_close_code_is_survived() {
    survives("closed_4200", async |bridge| {
        let error = r#"{"event":"pusher:error","data":"{\"code\":4200,\"message\":\"restart\"}"}"#;
        bridge.sandbox.raw_frame_to_all(error);
    })
    .await;
}

near_and_far!(refused_connections_are_tried_again);
async fn refused_connections_are_tried_again() {
    for fault in [HandshakeFault::Drop, HandshakeFault::Status(503)] {
        survives(if fault == HandshakeFault::Drop { "handshake" } else { "refused" }, async |bridge| {
            let before = bridge.sandbox.view(|view| view.attempts());
            bridge.sandbox.refuse_connections(fault);
            bridge.sandbox.cut_connections();
            let tried = bridge.sandbox.wait_for(|view| view.attempts() >= before + 4);
            patiently("four attempts", tried).await;
            bridge.sandbox.refuse_connections(HandshakeFault::None);
        })
        .await;
    }
}

near_and_far!(while_pusher_is_away_newcomers_are_told_and_may_retry);
async fn while_pusher_is_away_newcomers_are_told_and_may_retry() {
    let bridge = Bridge::with(SHIPPED, |config| {
        quick(config);
        config.upstream.times.subscribe_timeout = Duration::from_millis(300);
    })
    .await;
    let mut old = bridge.login_as("/ws/plugin/p1", "1").await;
    bridge.sandbox.refuse_connections(HandshakeFault::Drop);
    bridge.sandbox.cut_connections();
    bridge.becomes(r#"pusher_bridge_upstream_connected{link="0"}"#, 0.0).await;
    let mut new = bridge.connect("/ws/plugin/p1").await;
    new.auth(&token("2")).await;
    assert_eq!(new.error_code().await, "UPSTREAM_UNAVAILABLE");
    bridge.sandbox.refuse_connections(HandshakeFault::None);
    subscribed(&bridge, PLUGIN, 1).await;
    new.auth(&token("2")).await;
    assert_eq!(new.json().await["type"], "auth_response");
    bridge.sandbox.trigger(PLUGIN, "e", "1");
    for client in [&mut old, &mut new] {
        assert_eq!(client.json().await["type"], "e");
    }
}

near_and_far!(a_gap_is_told_where_the_route_asks_for_it);
async fn a_gap_is_told_where_the_route_asks_for_it() {
    let bridge = Bridge::with(SHIPPED, |config| on_gap(config, OnGap::Notify)).await;
    let mut client = bridge.login("/ws/plugin/p1").await;
    bridge.sandbox.hold_subscriptions(PLUGIN);
    bridge.sandbox.cut_connections();
    patiently("the resubscription", bridge.sandbox.wait_for(|view| view.pending(PLUGIN) == 1)).await;
    // Who comes while the channel does not stand has missed nothing.
    let mut newcomer = bridge.connect("/ws/plugin/p1").await;
    newcomer.auth(&token("2")).await;
    bridge.becomes(r#"pusher_bridge_auth_total{route="plugin",result="accepted"}"#, 2.0).await;
    bridge.sandbox.release_subscriptions(PLUGIN);
    assert_eq!(client.error_code().await, "EVENTS_MAY_BE_MISSING");
    assert_eq!(newcomer.json().await["type"], "auth_response");
    bridge.sandbox.trigger(PLUGIN, "e", "1");
    for client in [&mut client, &mut newcomer] {
        assert_eq!(client.json().await["type"], "e", "and it is told once");
    }
}

near_and_far!(a_gap_is_told_also_to_who_subscribes_to_more_meanwhile);
async fn a_gap_is_told_also_to_who_subscribes_to_more_meanwhile() {
    const CHANNEL: &str = "roblox-sync";
    let bridge = Bridge::with(SHIPPED, |config| on_gap(config, OnGap::Notify)).await;
    let mut client = bridge.login("/ws/roblox").await;
    client.send(r#"{"type":"subscribe","environment_id":"env_1"}"#).await;
    next_is_of(&bridge, &mut client, "env_1").await;
    bridge.sandbox.hold_subscriptions(CHANNEL);
    bridge.sandbox.cut_connections();
    patiently("the resubscription", bridge.sandbox.wait_for(|view| view.pending(CHANNEL) == 1)).await;
    client.send(r#"{"type":"subscribe","environment_id":"env_2"}"#).await;
    client.send("no JSON").await;
    assert_eq!(client.error_code().await, "INVALID_JSON", "so the subscription before it was heeded");
    bridge.sandbox.release_subscriptions(CHANNEL);
    assert_eq!(client.error_code().await, "EVENTS_MAY_BE_MISSING");
    for environment in ["env_1", "env_2"] {
        next_is_of(&bridge, &mut client, environment).await;
    }
}

/// An event of the environment arrives as the client's very next frame.
async fn next_is_of(bridge: &Bridge, client: &mut OldClient, environment: &str) {
    // Where the channel stands, a subscription does when the answer to the next message is there.
    client.send("no JSON").await;
    assert_eq!(client.error_code().await, "INVALID_JSON");
    bridge.sandbox.trigger("roblox-sync", "e", &format!(r#"{{"environment_id":"{environment}"}}"#));
    let event = client.json().await;
    assert_eq!((&event["type"], &event["data"]["environment_id"]), (&"e".into(), &environment.into()));
}

near_and_far!(a_gap_closes_where_the_route_asks_for_it);
async fn a_gap_closes_where_the_route_asks_for_it() {
    let bridge = Bridge::with(SHIPPED, |config| {
        on_gap(config, OnGap::Close);
        config.server.close_window = Duration::from_millis(200);
    })
    .await;
    let mut client = bridge.login("/ws/plugin/p1").await;
    let mut other = bridge.login("/ws/roblox").await;
    bridge.sandbox.cut_connections();
    for client in [&mut client, &mut other] {
        assert_eq!(client.closed().await.map(|(code, _)| code), Some(1001));
    }
    let mut again = bridge.login("/ws/plugin/p1").await;
    next_is(&bridge, &mut again, "e").await;
}

near_and_far!(a_gaps_closes_are_spread_and_events_go_on_until_then);
/// Of many channels on several links and workers: nobody whom they ask for their state meets a herd.
async fn a_gaps_closes_are_spread_and_events_go_on_until_then() {
    const CLIENTS: usize = 40;
    let bridge = Bridge::with(SHIPPED, |config| {
        quick(config);
        unlimited_connections(config);
        on_gap(config, OnGap::Close);
        config.server.workers = 2;
        config.server.close_window = Duration::from_secs(2);
        config.upstream.connections = 2;
    })
    .await;
    let clients =
        bridge.login_all((0..CLIENTS).map(|n| (format!("/ws/content/gen_{n}"), "123".to_owned()))).await;
    bridge.sandbox.cut_connections();
    let all = bridge.sandbox.wait_for(|view| view.subscriptions().len() == CLIENTS);
    patiently("all channels", all).await;
    for n in 0..CLIENTS {
        bridge.sandbox.trigger(&format!("content-generation-gen_{n}"), "e", "1");
    }
    let closing = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            let mut events = 0;
            let close = loop {
                match patiently("a close", futures_util::StreamExt::next(&mut client.socket)).await {
                    Some(Ok(Message::Close(close))) => break close.unwrap(),
                    Some(Ok(Message::Text(text))) => {
                        events += usize::from(text.starts_with(r#"{"type":"e""#))
                    }
                    Some(Ok(_)) => {}
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(u16::from(close.code), 1001);
            (tokio::time::Instant::now(), events)
        })
    });
    let (mut times, mut events) = (Vec::new(), 0);
    for closed in closing.collect::<Vec<_>>() {
        let (at, got) = closed.await.unwrap();
        times.push(at);
        events += got;
    }
    let spread = *times.iter().max().unwrap() - *times.iter().min().unwrap();
    assert!(spread > Duration::from_millis(600), "all at once: {spread:?}");
    assert!(events > CLIENTS / 4, "{events} clients of {CLIENTS} had a turn behind the event");
    bridge.until_closed("content", "gap", CLIENTS as u32).await;
}

near_and_far!(hundreds_of_channels_come_back);
async fn hundreds_of_channels_come_back() {
    const CHANNELS: usize = 300;
    let bridge = Bridge::with(SHIPPED, |config| {
        quick(config);
        unlimited_connections(config);
    })
    .await;
    let mut clients =
        bridge.login_all((0..CHANNELS).map(|n| (format!("/ws/content/gen_{n}"), "123".to_owned()))).await;
    bridge.sandbox.cut_connections();
    let all =
        bridge.sandbox.wait_for(|view| view.subscriptions().len() == CHANNELS && view.connections() == 1);
    patiently("all channels", all).await;
    assert_eq!(bridge.metric("pusher_bridge_upstream_gaps_total"), CHANNELS as f64);
    for (n, client) in clients.iter_mut().enumerate() {
        bridge.sandbox.trigger(&format!("content-generation-gen_{n}"), "e", &n.to_string());
        assert_eq!(client.json().await["data"], n);
    }
}

near_and_far!(silence_is_noticed);
/// A peer behind a dead network: nothing comes, and nothing breaks.
async fn silence_is_noticed() {
    let options = Options { activity_timeout: Duration::from_secs(1), ..Options::local() };
    let sandbox = Sandbox::start(options).await.unwrap();
    let running = bridge::start(&sandbox.app(), SHIPPED, &[], |config| {
        quick(config);
        config.upstream.times.pong_timeout = Duration::from_millis(200);
    })
    .await;
    let bridge = Bridge { running, sandbox };
    let mut client = bridge.login("/ws/plugin/p1").await;
    patiently("a ping", bridge.sandbox.wait_for(|view| view.pings() == 1)).await;
    assert_eq!(bridge.sandbox.view(|view| view.connections_total()), 1, "an answered ping is life");
    bridge.sandbox.silence(true);
    bridge.becomes(r#"pusher_bridge_upstream_reconnects_total{cause="pong_timeout"}"#, 1.0).await;
    bridge.sandbox.silence(false);
    reconnected(&bridge, 1, PLUGIN).await;
    next_is(&bridge, &mut client, "back").await;
}

/// Some servers count only what a client sends: a link that receives all the time pings as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_link_pings_too() {
    let options = Options { activity_timeout: Duration::from_secs(1), ..Options::local() };
    let sandbox = Sandbox::start(options).await.unwrap();
    let running = bridge::start(&sandbox.app(), SHIPPED, &[], quick).await;
    let bridge = Bridge { running, sandbox };
    let mut client = bridge.login("/ws/plugin/p1").await;
    let busy = async {
        while bridge.sandbox.view(|view| view.pings()) < 2 {
            next_is(&bridge, &mut client, "busy").await;
        }
    };
    patiently("two pings", busy).await;
    assert_eq!(bridge.sandbox.view(|view| view.connections_total()), 1);
}

near_and_far!(a_forgotten_subscription_is_noticed_mended_and_told);
async fn a_forgotten_subscription_is_noticed_mended_and_told() {
    let bridge = Bridge::with(SHIPPED, |config| {
        on_gap(config, OnGap::Notify);
        config.upstream.times.check_interval = Some(Duration::from_millis(50));
    })
    .await;
    let mut client = bridge.login("/ws/plugin/p1").await;
    let mut other = bridge.login("/ws/plugin/p1").await;
    for gaps in 1..=2 {
        bridge.sandbox.forget_subscriptions(PLUGIN);
        bridge.becomes("pusher_bridge_upstream_gaps_total", f64::from(gaps)).await;
        for client in [&mut client, &mut other] {
            assert_eq!(client.error_code().await, "EVENTS_MAY_BE_MISSING");
        }
        next_is(&bridge, &mut client, "again").await;
        assert_eq!(other.json().await["type"], "again");
    }
    assert_eq!(bridge.sandbox.view(|view| view.connections_total()), 1, "the connection is kept");
    bridge.sandbox.hold_subscriptions(PLUGIN);
}

near_and_far!(a_server_that_has_forgotten_the_connection_is_noticed);
/// Where a second subscription is confirmed like the first, a channel of the link's own shows that nothing is
/// delivered any more.
async fn a_server_that_has_forgotten_the_connection_is_noticed() {
    let bridge = Bridge::with(SHIPPED, |config| {
        on_gap(config, OnGap::Notify);
        config.upstream.times.check_interval = Some(Duration::from_millis(50));
        config.upstream.times.pong_timeout = Duration::from_millis(500);
    })
    .await;
    bridge.sandbox.confirm_existing_subscriptions(true);
    let mut client = bridge.login("/ws/plugin/p1").await;
    let probed = bridge
        .sandbox
        .wait_for(|view| view.published().any(|event| event.channel.starts_with("private-pusher-bridge-")));
    patiently("a probe", probed).await;
    assert_eq!(bridge.metric(r#"pusher_bridge_upstream_events_total{result="no_subscriber"}"#), 0.0);
    bridge.sandbox.forget_all_subscriptions();
    bridge.becomes(r#"pusher_bridge_upstream_reconnects_total{cause="deaf"}"#, 1.0).await;
    assert_eq!(client.error_code().await, "EVENTS_MAY_BE_MISSING");
    assert_eq!(bridge.metric("pusher_bridge_upstream_gaps_total"), 1.0);
    next_is(&bridge, &mut client, "again").await;
}

// ------------------------------------------------------------------------------------------- what comes

near_and_far!(malformed_frames_are_counted_and_nothing_else_is_lost);
async fn malformed_frames_are_counted_and_nothing_else_is_lost() {
    let bridge = Bridge::start().await;
    let mut client = bridge.login("/ws/plugin/p1").await;
    let deep = format!("{}{}", r#"{"event":"e","channel":"#, "[".repeat(100_000));
    let malformed = [
        "",
        "not JSON",
        "[]",
        "{}",
        "null",
        r#"{"event":1}"#,
        r#"{"event":"e","channel":5}"#,
        r#"{"event":"e","channel":"private-plugin-p1","data":}"#,
        r#"{"event":"e","channel":"private-plugin-p1"} {}"#,
        r#"{"event":"\ud800","channel":"private-plugin-p1"}"#,
        r#"{"event":"pusher_internal:subscription_succeeded"}"#,
        deep.as_str(),
    ];
    // These say nothing, or nothing that is known.
    let harmless = [
        r#"{"event":"pusher:error","data":{"code":null,"message":"what?"}}"#,
        r#"{"event":"pusher:error","data":"text"}"#,
        r#"{"event":"pusher:error"}"#,
        r#"{"event":"pusher:error","data":{"code":4301,"message":"too fast"}}"#,
        r#"{"event":"pusher:error","data":{"code":null,"message":"Existing subscription to channel private-plugin-p1"}}"#,
        r#"{"event":"pusher:unheard-of","channel":"private-plugin-p1","data":{}}"#,
        r#"{"event":"pusher_internal:subscription_count","channel":"private-plugin-p1","data":"{\"subscription_count\":1}"}"#,
        r#"{"event":"pusher_internal:subscription_succeeded","channel":"nobodys","data":"{}"}"#,
        r#"{"event":"pusher_internal:subscription_succeeded","channel":"private-plugin-p1","data":"{}"}"#,
        r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.1\"}"}"#,
        r#"{"event":"pusher:pong"}"#,
        r#"{"event":"pusher:ping","data":{}}"#,
        r#"{"event":"e","channel":"nobodys","data":"1"}"#,
        r#"{"event":"e","data":"1"}"#,
        r#"{"event":"pusher:private","channel":"private-plugin-p1","data":"1"}"#,
    ];
    for frame in malformed.into_iter().chain(harmless) {
        bridge.sandbox.raw_frame_to_all(frame);
        next_is(&bridge, &mut client, "fence").await;
    }
    let count = bridge.metric(r#"pusher_bridge_upstream_events_total{result="malformed"}"#);
    assert_eq!(count, malformed.len() as f64);
    assert_eq!(bridge.sandbox.view(|view| view.connections_total()), 1);
}

// ----------------------------------------------------------------------------------------- several links

near_and_far!(several_links_share_the_channels);
async fn several_links_share_the_channels() {
    let bridge = Bridge::with(SHIPPED, |config| {
        quick(config);
        unlimited_connections(config);
        config.upstream.connections = 3;
    })
    .await;
    let mut clients =
        bridge.login_all((0..20).map(|n| (format!("/ws/content/gen_{n}"), "123".to_owned()))).await;
    let mut plugin = bridge.login("/ws/plugin/p1").await;
    let mut neighbour = bridge.login("/ws/plugin/p1").await;
    for round in 0..2 {
        let all = bridge.sandbox.wait_for(|view| view.connections() == 3 && view.subscriptions().len() == 21);
        patiently("three links with all channels", all).await;
        assert!(bridge.sandbox.subscriptions().iter().all(|(_, count)| *count == 1));
        for (n, client) in clients.iter_mut().enumerate() {
            bridge.sandbox.trigger(&format!("content-generation-gen_{n}"), "e", &n.to_string());
            assert_eq!(client.json().await["data"], n);
        }
        plugin.send(r#"{"type":"x","data":7}"#).await;
        assert_eq!(neighbour.json().await["type"], "client-x");
        next_is(&bridge, &mut plugin, "fence").await;
        assert_eq!(neighbour.json().await["type"], "fence");
        if round == 0 {
            bridge.sandbox.cut_connections();
        }
    }
    let connected =
        |link: usize| bridge.metric(&format!("pusher_bridge_upstream_connected{{link=\"{link}\"}}"));
    assert_eq!([connected(0), connected(1), connected(2)], [1.0; 3]);
}

// --------------------------------------------------------------------------------------------------- TLS

near_and_far!(wss_and_https_trust_the_configured_authority);
async fn wss_and_https_trust_the_configured_authority() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let proxy = TlsProxy::start(sandbox.addr()).await;
    let port = proxy.port.to_string();
    let tls = [("PUSHER_HOST", "localhost"), ("PUSHER_PORT", port.as_str()), ("PUSHER_TLS", "true")];
    let app = sandbox.app();
    let running = bridge::start(&app, SHIPPED, &tls, |config| {
        config.upstream.app.ca_file = Some(proxy.ca_file());
    })
    .await;
    let bridge = Bridge { running, sandbox };
    let mut sender = bridge.login("/ws/plugin/p1").await;
    let mut neighbour = bridge.login("/ws/plugin/p1").await;
    sender.send(r#"{"type":"x","data":1}"#).await;
    assert_eq!(neighbour.json().await["type"], "client-x");
    next_is(&bridge, &mut sender, "fence").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wss_refuses_an_unknown_authority() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let proxy = TlsProxy::start(sandbox.addr()).await;
    let mut environment = sandbox.app().environment();
    for (name, value) in
        [("PUSHER_HOST", "localhost"), ("PUSHER_PORT", &proxy.port.to_string()), ("PUSHER_TLS", "true")]
    {
        environment.insert(name.to_owned(), value.to_owned());
    }
    let running = pusher_bridge::app::start(bridge::config(SHIPPED, &environment)).await.unwrap();
    let bridge = Bridge { running, sandbox };
    bridge.at_least(r#"pusher_bridge_upstream_reconnects_total{cause="tls"}"#, 1.0).await;
    assert_eq!(bridge.sandbox.view(|view| view.attempts()), 0, "the key went to nobody");
    let text = bridge.running.metrics.render();
    assert!(!text.contains(bridge.sandbox.options().secret.expose_secret()));
}

/// Web application firewalls turn away whoever does not say.
#[tokio::test(flavor = "multi_thread")]
async fn every_request_says_who_asks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes =
        format!("{SHIPPED}\n[[auth.keys]]\nalgorithms = [\"RS256\"]\njwks_url = \"http://{address}/jwks\"\n");
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let mut config = bridge::config(&routes, &sandbox.app().environment());
    (config.upstream.app.ws.host, config.upstream.app.ws.port) = ("127.0.0.1".into(), Some(address.port()));
    let running = app::start(config).await.unwrap();
    let mut asked = Vec::new();
    while asked.len() < 2 {
        let (mut stream, _) = patiently("a request", listener.accept()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(patiently("the head", stream.read_buf(&mut head)).await.unwrap() > 0);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(
            head.contains(concat!("\r\nuser-agent: pusher-bridge/", env!("CARGO_PKG_VERSION"), "\r\n")),
            "{head}"
        );
        let path = head.split(['/', '?', ' ']).nth(2).unwrap().to_owned();
        if !asked.contains(&path) {
            asked.push(path);
        }
    }
    asked.sort();
    assert_eq!(asked, ["app", "jwks"]);
    running.shutdown().await;
}
