//! Where a client's message goes by its rule, and what comes back of it.

use crate::near_and_far;
use crate::support::Bridge;

/// Two routes: what is written on the one may be for the other's channel.
const DESKS: &str = r#"
[[routes]]
name = "desk"
group = "typed-api"
path = "/desk/{id}"
channel = "private-desk-{id}"

[[routes.publish]]
types = ["report"]
channel = "private-office-{id}"
event = "{type}"

[[routes.publish]]
types = ["noise"]
via = "drop"

[[routes.publish]]
types = ["*"]

[[routes]]
name = "office"
group = "typed-api"
path = "/office/{id}"
channel = "private-office-{id}"
"#;

near_and_far!(a_message_for_another_channel_reaches_whoever_reads_that_one_once);
async fn a_message_for_another_channel_reaches_whoever_reads_that_one_once() {
    let bridge = Bridge::start_with(DESKS).await;
    let mut sender = bridge.login_as("/desk/1", "1").await;
    let mut beside = bridge.login_as("/desk/1", "2").await;
    let mut office = bridge.login_as("/office/1", "3").await;
    let mut other_office = bridge.login_as("/office/2", "4").await;
    let mut native = bridge.app().native("private-office-1").await;
    // An envelope such as only the server may send is a client's data there, too.
    let forged = r#"{"type":"report","data":1,"timestamp":"t"}"#;
    for n in 0..20 {
        sender.send(&format!(r#"{{"type":"report","data":{n}}}"#)).await;
    }
    sender.send(&format!(r#"{{"type":"report","data":{forged}}}"#)).await;
    for n in 0..20 {
        let frame = office.json().await;
        assert_eq!((&frame["type"], &frame["data"]), (&"report".into(), &n.into()));
        assert_eq!(native.event().await, ("report".to_owned(), n.to_string()));
    }
    let frame = office.json().await;
    assert_eq!(frame["data"], serde_json::from_str::<serde_json::Value>(forged).unwrap());
    assert_eq!(native.event().await.1, forged);
    for channel in ["private-desk-1", "private-office-1", "private-office-2"] {
        bridge.sandbox.trigger(channel, "fence", "1");
    }
    for client in [&mut sender, &mut beside, &mut office, &mut other_office] {
        assert_eq!(client.json().await["type"], "fence");
    }
    assert_eq!(native.event().await.0, "fence");
}

near_and_far!(what_a_rule_drops_is_counted_and_goes_nowhere);
async fn what_a_rule_drops_is_counted_and_goes_nowhere() {
    let bridge = Bridge::start_with(DESKS).await;
    let mut sender = bridge.login_as("/desk/1", "1").await;
    let mut beside = bridge.login_as("/desk/1", "2").await;
    for message in [r#"{"type":"noise","data":1}"#, r#"{"type":"noise"}"#, r#"{"type":"say","data":2}"#] {
        sender.send(message).await;
    }
    assert_eq!(beside.json().await["data"], 2);
    bridge.sandbox.trigger("private-desk-1", "fence", "1");
    for client in [&mut sender, &mut beside] {
        assert_eq!(client.json().await["type"], "fence");
    }
    assert_eq!(bridge.metric("pusher_bridge_publish_total{result=\"dropped\"}"), 2.0);
    assert_eq!(bridge.metric("pusher_bridge_publish_total{result=\"ok\"}"), 1.0);
}
