//! Subscriptions that Pusher refuses.

use pusher_bridge::sandbox::Refusal;

use crate::support::bridge::{SHIPPED, token};
use crate::support::{Bridge, OldClient};

const CLIENTS: usize = 20;
const CHANNELS: usize = 50;

const MANY: &str = r#"
[[routes]]
name = "many"
path = "/many"
dialect = "channel"
channel = "many-{subscribe.channel}"
auth = { required = false }
limits = { subscriptions = 100, messages = { count = 1000, per = "1s" }, connections_per_address = 100 }
"#;

/// The error names no channel: who is meant is found without hitting anybody else.
#[tokio::test(flavor = "multi_thread")]
async fn pusher_refuses_one_channel_of_a_thousand() {
    const REFUSED: usize = 617;
    let bridge = Bridge::with(&format!("{SHIPPED}\n{MANY}"), |_| {}).await;
    let refusal = Refusal { code: Some(4009), message: "Connection is unauthorized".to_owned() };
    bridge.sandbox.refuse_subscriptions(&format!("many-{REFUSED}"), Some(refusal));
    let mut clients: Vec<OldClient> = Vec::new();
    for n in 0..CLIENTS {
        let mut client = bridge.connect("/many").await;
        for channel in n * CHANNELS..(n + 1) * CHANNELS {
            client.send(&format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#)).await;
        }
        clients.push(client);
    }
    let told = clients[REFUSED / CHANNELS].json().await.to_string();
    assert!(told.contains("CHANNEL_UNAUTHORIZED") && told.contains(&format!("{REFUSED}\"")), "{told}");
    let live = r#"pusher_bridge_subscriptions{state="live"}"#;
    bridge.becomes(live, (CLIENTS * CHANNELS - 1) as f64).await;
    for channel in 0..CLIENTS * CHANNELS {
        bridge.sandbox.trigger(&format!("many-{channel}"), "e", &channel.to_string());
    }
    for (n, client) in clients.iter_mut().enumerate() {
        for channel in (n * CHANNELS..(n + 1) * CHANNELS).filter(|channel| *channel != REFUSED) {
            let event = client.json().await;
            assert_eq!((&event["type"], event["data"].as_u64()), (&"event".into(), Some(channel as u64)));
        }
    }
    let counted = r#"pusher_bridge_subscription_failures_total{reason="unauthorized"}"#;
    assert_eq!(bridge.metric(counted), 1.0, "and it is not tried again");
    let told = r#"pusher_bridge_client_errors_total{route="many",code="CHANNEL_UNAUTHORIZED"}"#;
    assert_eq!(bridge.metric(told), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_refused_stays_and_may_try_again() {
    let bridge = Bridge::start().await;
    let refuse = |message: Option<&str>| {
        let refusal = message.map(|message| Refusal { code: None, message: message.to_owned() });
        bridge.sandbox.refuse_subscriptions("private-plugin-p1", refusal);
    };
    refuse(Some("This feature is not enabled for private-plugin-p1"));
    let mut client = bridge.connect("/ws/plugin/p1").await;
    client.auth(&token("1")).await;
    assert_eq!(client.error_code().await, "CHANNEL_FEATURE_OFF");
    client.send(r#"{"type":"run"}"#).await;
    assert_eq!(client.error_code().await, "WEBSOCKET_AUTH_REQUIRED", "it is not in service");

    // For now: it is confirmed when it is accepted.
    bridge.becomes(r#"pusher_bridge_subscriptions{state="pending"}"#, 0.0).await;
    refuse(Some("over quota"));
    client.auth(&token("1")).await;
    assert_eq!(client.error_code().await, "CHANNEL_QUOTA");
    refuse(None);
    assert_eq!(client.json().await["type"], "auth_response");
}
