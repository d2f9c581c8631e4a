//! What routes make of events on their way down.

use pusher_bridge::sandbox::{Options, Sandbox};

use crate::near_and_far;
use crate::support::bridge::{self, SHIPPED};
use crate::support::pusher::Pusher;
use crate::support::{Bridge, OldClient};

const ROUTES: &str = r#"
[[routes]]
name = "shaped"
group = "typed-api"
path = "/shaped/{kind}"
channel = "private-cache-shaped"
shares = ["plain"]
filter = { field = "kind", equals = "{kind}" }
pusher_events = ["subscription_count"]

[[routes.events]]
match = "progress_*"
as = "step_*"
data = '{"was":{event},"value":{data}}'

[[routes.events]]
match = "debug*"
drop = true

[[routes.events]]
match = "client-*"
as = "said_*"

[[routes.events]]
match = "subscription_count"
as = "readers"

[[routes]]
name = "plain"
group = "typed-api"
path = "/plain"
channel = "private-cache-shaped"

[[routes.publish]]
types = ["*"]
"#;

const DELIVERED: &str = "pusher_bridge_upstream_events_total{result=\"delivered\"}";

const CHANNEL: &str = "private-cache-shaped";

/// The type of the next frame, and its data.
async fn next(client: &mut OldClient) -> (String, String) {
    let frame = client.json().await;
    (frame["type"].as_str().unwrap().to_owned(), frame["data"].to_string())
}

fn of(name: &str, data: &str) -> (String, String) {
    (name.to_owned(), data.to_owned())
}

fn dropped(bridge: &Bridge) -> [f64; 2] {
    [
        "pusher_bridge_events_dropped_total{route=\"shaped\"}",
        "pusher_bridge_upstream_events_total{result=\"dropped\"}",
    ]
    .map(|series| bridge.metric(series))
}

near_and_far!(a_route_renames_reshapes_and_drops_what_others_see_as_it_is);
async fn a_route_renames_reshapes_and_drops_what_others_see_as_it_is() {
    let bridge = Bridge::start_with(ROUTES).await;
    let mut shaped = bridge.login("/shaped/a").await;
    let mut other = bridge.login("/shaped/b").await;
    let mut plain = bridge.login("/plain").await;
    let trigger = |name: &str, data: &str| bridge.sandbox.trigger(CHANNEL, name, data);
    trigger("progress_x", r#"{"kind":"a","n":1.50}"#);
    trigger("debug", r#"{"kind":"a"}"#);
    // The filter's field as it was published: not where the new data have it.
    trigger("progress_y", r#"{"value":{"kind":"a"}}"#);
    trigger("progress_z", r#"{"type":"progress_z","data":{"kind":"a","n":2},"timestamp":"t"}"#);
    assert_eq!(next(&mut shaped).await, of("step_x", r#"{"value":{"kind":"a","n":1.5},"was":"progress_x"}"#));
    assert_eq!(next(&mut shaped).await, of("step_z", r#"{"value":{"kind":"a","n":2},"was":"progress_z"}"#));
    for name in ["progress_x", "debug", "progress_y", "progress_z"] {
        assert_eq!(next(&mut plain).await.0, name);
    }
    // A client's stays a client's: a whole envelope is data, whatever its event is called.
    let envelope = r#"{"type":"client-m","data":{"kind":"a"},"timestamp":"t","kind":"b"}"#;
    plain.send(&format!(r#"{{"type":"m","data":{envelope}}}"#)).await;
    let (name, data) = next(&mut other).await;
    assert_eq!(name, "said_m");
    assert_eq!(data.parse::<serde_json::Value>().unwrap(), envelope.parse::<serde_json::Value>().unwrap());
    trigger("fence", r#"{"kind":"a"}"#);
    assert_eq!(next(&mut shaped).await.0, "fence");
    assert_eq!(next(&mut plain).await.0, "fence");
    bridge.becomes(DELIVERED, 5.0).await;
    assert_eq!(dropped(&bridge), [1.0, 0.0], "each of them reached somebody");
}

near_and_far!(what_is_dropped_everywhere_is_not_undelivered_and_not_replayed);
async fn what_is_dropped_everywhere_is_not_undelivered_and_not_replayed() {
    let bridge = Bridge::start_with(ROUTES).await;
    let mut first = bridge.login("/shaped/a").await;
    bridge.sandbox.trigger(CHANNEL, "progress_1", r#"{"kind":"a"}"#);
    assert_eq!(next(&mut first).await.0, "step_1");
    // Who comes later gets the last event as it is on this route, and nothing where it is dropped.
    let mut second = bridge.login("/shaped/a").await;
    assert_eq!(next(&mut second).await.0, "step_1");
    bridge.sandbox.trigger(CHANNEL, "debug_1", r#"{"kind":"a"}"#);
    bridge.becomes("pusher_bridge_upstream_events_total{result=\"dropped\"}", 1.0).await;
    let mut third = bridge.login("/shaped/a").await;
    bridge.sandbox.trigger(CHANNEL, "fence", r#"{"kind":"a"}"#);
    for client in [&mut first, &mut second, &mut third] {
        assert_eq!(next(client).await.0, "fence");
    }
    bridge.becomes(DELIVERED, 2.0).await;
    assert_eq!(dropped(&bridge), [1.0, 1.0]);
    assert_eq!(bridge.metric("pusher_bridge_upstream_events_total{result=\"no_subscriber\"}"), 0.0);
}

near_and_far!(a_route_may_ask_how_many_subscriptions_its_channel_has);
async fn a_route_may_ask_how_many_subscriptions_its_channel_has() {
    let options = Options { subscription_counts: true, ..Options::local() };
    let sandbox = Sandbox::start(options).await.unwrap();
    let running = bridge::start(&sandbox.app(), &format!("{SHIPPED}\n{ROUTES}"), &[], |_| {}).await;
    let bridge = Bridge { running, sandbox };
    let mut plain = bridge.login("/plain").await;
    let mut shaped = bridge.login("/shaped/a").await;
    let _native = bridge.app().native(CHANNEL).await;
    assert_eq!(next(&mut shaped).await, of("readers", r#"{"subscription_count":2}"#));
    bridge.sandbox.trigger(CHANNEL, "fence", r#"{"kind":"a"}"#);
    for client in [&mut plain, &mut shaped] {
        assert_eq!(next(client).await.0, "fence", "who does not ask is not told");
    }
    bridge.becomes(DELIVERED, 1.0).await;
}
