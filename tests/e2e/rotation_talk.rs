//! While the app's key is replaced everybody says the same again and again, and clients write as clients of Pusher's own do:
//! each message comes once.

use std::time::Duration;

use pusher_bridge::config::Config;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::interval;

use crate::near_and_far;
use crate::reload::{in_service, route};
use crate::rotation::{DONE, NEW, with_key};
use crate::support::bridge::SHIPPED;
use crate::support::pusher::Pusher as _;
use crate::support::sockudo::Sockudo;
use crate::support::{Bridge, OldClient, bridge, patiently};

/// Of one sender. Connections are less than this apart, also over the far network.
const PACE: Duration = Duration::from_millis(220);
const LIVE: &str = r#"pusher_bridge_subscriptions{state="live"}"#;
/// Rotations end, whatever is said.
const DONE_AFTER_MAX: Duration = Duration::from_secs(150);

/// A route for the API, and one for client events.
fn routes() -> String {
    let unlimited = "limits.messages = \"unlimited\"";
    let said = "\n[[routes]]\nname = \"said\"\npath = \"/said/{room}\"\nchannel = \"private-said-{room}\"\n\
                dialect = \"typed\"\nlimits.messages = \"unlimited\"\n\
                publish = [{ types = [\"*\"], via = \"client_event\" }]\n";
    SHIPPED.to_owned() + &route("still", unlimited) + said
}

/// Says `text(n)` until `done`, and `"end"` behind it. How often it was said.
async fn say(client: &mut OldClient, text: impl Fn(usize) -> Value, done: watch::Receiver<bool>) -> usize {
    let mut pace = interval(PACE);
    let mut said = 0;
    while !*done.borrow() {
        pace.tick().await;
        client.send(&json!({ "type": "say", "data": text(said) }).to_string()).await;
        said += 1;
    }
    client.send(&json!({ "type": "say", "data": "end" }).to_string()).await;
    said
}

/// What comes before `"end"`.
async fn hear(client: &mut OldClient) -> Vec<Value> {
    let mut heard = Vec::new();
    loop {
        let data = client.json().await["data"].take();
        if data == "end" {
            return heard;
        }
        heard.push(data);
    }
}

/// One says things on a channel, and two others hear each of them once, in order.
async fn is_heard_once(
    [mut sender, mut one, mut other]: [OldClient; 3],
    text: impl Fn(usize) -> Value,
    done: watch::Receiver<bool>,
) {
    let (said, heard, also) = tokio::join!(say(&mut sender, &text, done), hear(&mut one), hear(&mut other));
    let expected: Vec<Value> = (0..said).map(text).collect();
    for heard in [heard, also] {
        assert_eq!((heard.len(), heard), (said, expected.clone()));
    }
}

/// Pusher says the same until `done`, and a client hears it as often.
async fn ticks_come_once(bridge: &Bridge, mut client: OldClient, done: watch::Receiver<bool>) {
    const TICKED: &str = "private-still-ticked";
    let ticks = async {
        let mut pace = interval(PACE);
        let mut said = 0;
        while !*done.borrow() {
            pace.tick().await;
            bridge.sandbox.trigger(TICKED, "tick", "0");
            said += 1;
        }
        bridge.sandbox.trigger(TICKED, "tick", "\"end\"");
        said
    };
    let (said, heard) = tokio::join!(ticks, hear(&mut client));
    assert_eq!(heard.len(), said);
}

async fn equal_messages(change: impl FnOnce(&mut Config)) {
    let bridge = Bridge::with(&routes(), change).await;
    bridge.sandbox.add_key(NEW.0, NEW.1);
    let connections = if bridge.running.config().upstream.standby { 2.0 } else { 1.0 };
    let mut clients = Vec::new();
    for (path, route, count) in [
        ("/still/1", "still", 1.0),
        ("/still/1", "still", 2.0),
        ("/still/1", "still", 3.0),
        ("/still/ticked", "still", 4.0),
        ("/said/1", "said", 1.0),
        ("/said/1", "said", 2.0),
        ("/said/1", "said", 3.0),
    ] {
        clients.push(in_service(&bridge, path, route, count).await);
    }
    let of_said: [OldClient; 3] = clients.split_off(4).try_into().ok().unwrap();
    let ticked = clients.pop().unwrap();
    let of_still: [OldClient; 3] = clients.try_into().ok().unwrap();
    bridge.becomes(LIVE, 3.0 * connections).await;
    let (done, is_done) = watch::channel(false);
    let rotates = async {
        bridge.reload(with_key(&bridge, &routes(), NEW)).await;
        let ends = async {
            while bridge.metric(DONE) < 1.0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DONE_AFTER_MAX, ends).await.expect("it ends");
        for _ in 0..10 {
            tokio::time::sleep(PACE).await;
        }
        done.send_replace(true);
    };
    tokio::join!(
        rotates,
        is_heard_once(of_still, |_| json!("same"), is_done.clone()),
        is_heard_once(of_said, |n| json!(n), is_done.clone()),
        ticks_come_once(&bridge, ticked, is_done.clone()),
    );
    for zero in ["upstream_gaps_total", "standby_events_total{result=\"doubtful\"}"] {
        assert_eq!(bridge.metric(&format!("pusher_bridge_{zero}")), 0.0, "{zero}");
    }
}

async fn equal_messages_and_client_events_come_once() {
    equal_messages(|_| {}).await;
}

near_and_far!(equal_messages_and_client_events_come_once);

async fn equal_messages_and_client_events_come_once_with_a_standby() {
    equal_messages(|config| config.upstream.standby = true).await;
}

near_and_far!(equal_messages_and_client_events_come_once_with_a_standby);

/// A server that knows one key of an app cannot have two at once: it is started anew, and the bridge is told the new one.
#[tokio::test(flavor = "multi_thread")]
async fn sockudo_that_has_another_key_after_its_restart_is_connected_to_by_that() {
    let Some(mut sockudo) = Sockudo::start().await else { return };
    let running = bridge::start(&sockudo.app(), &routes(), &[], |config| {
        config.upstream.times.reconnect_delay_max = Duration::from_millis(200);
    })
    .await;
    let mut client = OldClient::connect(running.address, "/still/1").await;
    let metric = |series: &str| bridge::metric(&running, series);
    let live = |count: f64| async move {
        while metric(LIVE) != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    patiently("the channel", live(1.0)).await;
    sockudo.has_key(NEW.0, NEW.1);
    sockudo.restart().await;
    let mut config = bridge::config(&routes(), &sockudo.app().environment());
    let before = running.config();
    config.server = before.server.clone();
    config.upstream.times = before.upstream.times;
    running.replace(config).await.unwrap();
    let ends = async {
        while metric(DONE) < 1.0 || metric(LIVE) != 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    patiently("the new key", ends).await;
    sockudo.app().trigger("private-still-1", "news", "1").await;
    loop {
        let frame = client.json().await;
        if frame["type"] == "news" {
            assert_eq!(frame["data"], 1);
            return;
        }
    }
}
