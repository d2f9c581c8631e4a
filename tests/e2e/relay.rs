//! The main job: events down, messages up.

use crate::support::Bridge;

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_the_client_byte_for_byte() {
    let bridge = Bridge::start().await;
    let mut client = bridge.login("/ws/content/gen_1").await;
    let data = r#"{"session_id":"gen_1","n":1.50,"big":123456789012345678901234567890,"s":"\u00e9\ud83d\ude00\n\"é😀"}"#;
    bridge.sandbox.trigger("content-generation-gen_1", "progress_update", data);
    let frame = client.text().await;
    assert!(
        frame.starts_with(&format!(r#"{{"type":"progress_update","data":{data},"timestamp":""#)),
        "{frame}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_pusher_and_the_neighbours_but_not_its_sender() {
    let bridge = Bridge::start().await;
    let mut sender = bridge.login("/ws/plugin/p1").await;
    let mut neighbour = bridge.login("/ws/plugin/p1").await;
    sender.send(r#"{"type":"run","data":{"speed":1.50}}"#).await;
    let frame = neighbour.text().await;
    assert!(frame.starts_with(r#"{"type":"client-run","data":{"speed":1.50},"#), "{frame}");
    bridge.sandbox.trigger("private-plugin-p1", "fence", "1");
    assert_eq!(sender.json().await["type"], "fence", "the sender's own message does not come back");
    assert_eq!(neighbour.json().await["type"], "fence", "it comes once");
}
