//! Client messages on their way to Pusher: batches, order, retries, refusals, and who gets them back.

use std::sync::Arc;
use std::time::Duration;

use pusher_bridge::app::Shutdown;
use pusher_bridge::config::Config;
use pusher_bridge::sandbox::{HandshakeFault, PublishHold};
use tokio::time::Instant;

use crate::near_and_far;
use crate::support::bridge::{self, SHIPPED};
use crate::support::pusher::{Native, Pusher};
use crate::support::{Bridge, OldClient, patiently};

const CHANNEL: &str = "private-plugin-p1";
const QUEUE: &str = "pusher_bridge_publish_queue_messages";

/// A sender, its neighbour, and a client of Pusher itself, all of one channel.
struct Stage {
    bridge: Bridge,
    sender: OldClient,
    neighbour: OldClient,
    native: Native,
}

impl Stage {
    async fn new(change: impl FnOnce(&mut Config)) -> Self {
        let bridge = Bridge::with(SHIPPED, |config| {
            for route in &mut config.routes {
                Arc::get_mut(route).unwrap().limits.messages = None;
            }
            change(config);
        })
        .await;
        let sender = bridge.login_as("/ws/plugin/p1", "1").await;
        let neighbour = bridge.login_as("/ws/plugin/p1", "2").await;
        let native = bridge.app().native(CHANNEL).await;
        Self { bridge, sender, neighbour, native }
    }

    /// The sender sends these messages.
    async fn send(&mut self, messages: impl IntoIterator<Item = usize>) {
        for n in messages {
            self.sender.feed(&format!(r#"{{"type":"m","data":{n}}}"#)).await;
        }
        futures_util::SinkExt::flush(&mut self.sender.socket).await.unwrap();
    }

    /// Holds publishing, with the first message under way and these waiting.
    async fn hold(&mut self, waiting: impl IntoIterator<Item = usize>) -> PublishHold {
        let hold = self.bridge.sandbox.hold_publishes();
        self.send([0]).await;
        patiently("a held publish", self.bridge.sandbox.wait_for(|view| view.held_publishes() == 1)).await;
        let waiting: Vec<usize> = waiting.into_iter().collect();
        let count = waiting.len() + 1;
        self.send(waiting).await;
        self.bridge.becomes(QUEUE, count as f64).await;
        hold
    }

    /// Neighbour and native clients get exactly these, in order, and the sender none of them.
    async fn all_get(&mut self, messages: impl IntoIterator<Item = usize>) {
        let messages: Vec<String> = messages.into_iter().map(|n| n.to_string()).collect();
        for n in &messages {
            let frame = self.neighbour.json().await;
            assert_eq!((frame["type"].as_str(), frame["data"].to_string()), (Some("client-m"), n.clone()));
        }
        for n in &messages {
            assert_eq!(self.native.event().await, ("client-m".to_owned(), n.clone()));
        }
        self.fence().await;
    }

    /// Nobody gets anything more.
    async fn fence(&mut self) {
        self.bridge.becomes(QUEUE, 0.0).await;
        self.bridge.sandbox.trigger(CHANNEL, "fence", "1");
        for client in [&mut self.sender, &mut self.neighbour] {
            assert_eq!(client.json().await["type"], "fence");
        }
        assert_eq!(self.native.event().await.0, "fence");
    }

    fn sizes(&self) -> Vec<usize> {
        self.bridge.sandbox.requests().sizes.into()
    }

    fn result(&self, result: &str) -> f64 {
        self.bridge.metric(&format!("pusher_bridge_publish_total{{result=\"{result}\"}}"))
    }

    fn retries(&self, cause: &str) -> f64 {
        self.bridge.metric(&format!("pusher_bridge_publish_retries_total{{cause=\"{cause}\"}}"))
    }
}

fn nothing(_: &mut Config) {}

// ------------------------------------------------------------------------------------------------ batches

near_and_far!(what_comes_while_a_request_is_under_way_goes_together);
async fn what_comes_while_a_request_is_under_way_goes_together() {
    let mut stage = Stage::new(nothing).await;
    let hold = stage.hold(1..=25).await;
    drop(hold);
    stage.all_get(0..=25).await;
    assert_eq!(stage.sizes(), [1, 10, 10, 5]);
    assert_eq!(stage.result("ok"), 26.0);
}

near_and_far!(the_order_is_kept_over_batches_and_retries);
async fn the_order_is_kept_over_batches_and_retries() {
    let mut stage = Stage::new(nothing).await;
    stage.bridge.sandbox.fail_publishes(3, 503, None);
    for chunk in 0..10 {
        stage.send(chunk * 50..(chunk + 1) * 50).await;
    }
    stage.all_get(0..500).await;
}

near_and_far!(several_channels_do_not_wait_for_each_other);
async fn several_channels_do_not_wait_for_each_other() {
    let mut stage = Stage::new(|config| config.upstream.publish.lanes = 64).await;
    let token = bridge::token_with("9", |claims| claims["plugin_ids"] = serde_json::json!(["p1", "p2"]));
    let hold = stage.hold([]).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut other = stage.bridge.connect("/ws/plugin/p2").await;
        other.auth(&token).await;
        assert_eq!(other.json().await["type"], "auth_response");
        others.push(other);
    }
    others[0].send(r#"{"type":"m","data":1}"#).await;
    patiently("a second request", stage.bridge.sandbox.wait_for(|view| view.held_publishes() >= 2)).await;
    drop(hold);
    assert_eq!(others[1].json().await["type"], "client-m");
    stage.all_get([0]).await;
}

/// A client of another user, at the channel of another plugin.
async fn elsewhere(stage: &Stage, user: &str) -> OldClient {
    let token = bridge::token_with(user, |claims| claims["plugin_ids"] = serde_json::json!(["p2"]));
    let mut client = stage.bridge.connect("/ws/plugin/p2").await;
    client.auth(&token).await;
    assert_eq!(client.json().await["type"], "auth_response");
    client
}

near_and_far!(a_retry_does_not_hold_up_other_channels);
async fn a_retry_does_not_hold_up_other_channels() {
    let mut stage = Stage::new(|config| config.upstream.publish.lanes = 1).await;
    let (mut other, mut beside) = (elsewhere(&stage, "8").await, elsewhere(&stage, "9").await);
    // The only lane's first message waits for longer than this test has.
    stage.bridge.sandbox.fail_publishes(1, 503, Some(3600));
    stage.send([0]).await;
    stage.bridge.becomes(r#"pusher_bridge_publish_retries_total{cause="unavailable"}"#, 1.0).await;
    // What is behind it in its channel waits as well.
    stage.send([1]).await;
    for n in 0..20 {
        other.send(&format!(r#"{{"type":"m","data":{n}}}"#)).await;
        assert_eq!(beside.json().await["data"], n);
    }
    assert!(stage.bridge.sandbox.published().iter().all(|event| event.channel != CHANNEL));
    assert_eq!(stage.bridge.metric(QUEUE), 2.0);
}

near_and_far!(a_message_that_always_fails_does_not_hold_up_its_batch);
/// A message that is never taken, and others that wait with it: they are tried without it.
async fn a_message_that_always_fails_does_not_hold_up_its_batch() {
    let mut stage = Stage::new(|config| config.upstream.publish.lanes = 1).await;
    let (mut other, mut beside) = (elsewhere(&stage, "8").await, elsewhere(&stage, "9").await);
    let hold = stage.hold([1]).await;
    other.send(r#"{"type":"m","data":7}"#).await;
    stage.bridge.becomes(QUEUE, 3.0).await;
    // The batch of two channels, and once more; then each by itself, of which the first fails again.
    stage.bridge.sandbox.fail_publishes(3, 503, None);
    drop(hold);
    assert_eq!(beside.json().await["data"], 7);
    stage.all_get([0, 1]).await;
    assert_eq!(stage.result("ok"), 3.0);
}

near_and_far!(a_users_flood_does_not_make_others_wait);
/// Whoever has much to send has no more turns than others.
async fn a_users_flood_does_not_make_others_wait() {
    let mut stage = Stage::new(|config| config.upstream.publish.lanes = 1).await;
    let mut other = elsewhere(&stage, "8").await;
    let hold = stage.hold(1..=200).await;
    other.send(r#"{"type":"other","data":7}"#).await;
    stage.bridge.becomes(QUEUE, 202.0).await;
    drop(hold);
    stage.all_get(0..=200).await;
    let published = stage.bridge.sandbox.published();
    let at = published.iter().position(|event| event.event == "client-other").unwrap();
    assert!(at <= 10, "it was in the first batch after the one under way, not behind {at} others");
}

// ------------------------------------------------------------------------------------------------ retries

near_and_far!(passing_failures_are_retried_and_nothing_comes_twice);
async fn passing_failures_are_retried_and_nothing_comes_twice() {
    let mut stage = Stage::new(nothing).await;
    for (n, (status, cause)) in
        [(500, "server_error"), (502, "server_error"), (503, "unavailable"), (429, "rate_limited")]
            .into_iter()
            .enumerate()
    {
        stage.bridge.sandbox.fail_publishes(1, status, None);
        let before = stage.retries(cause);
        stage.send([n]).await;
        stage.all_get([n]).await;
        assert_eq!(stage.retries(cause), before + 1.0, "{status}");
    }
    assert_eq!(stage.sizes(), [1; 8]);
}

near_and_far!(retry_after_is_respected);
async fn retry_after_is_respected() {
    let mut stage = Stage::new(nothing).await;
    stage.bridge.sandbox.fail_publishes(1, 429, Some(1));
    let begin = Instant::now();
    stage.send(0..5).await;
    stage.all_get(0..5).await;
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
}

near_and_far!(an_absurd_retry_after_costs_only_its_batch);
async fn an_absurd_retry_after_costs_only_its_batch() {
    let mut stage = Stage::new(|config| config.upstream.publish.deadline = Duration::from_millis(150)).await;
    for wait in [u64::MAX, i64::MAX as u64, 31_536_000] {
        stage.bridge.sandbox.fail_publishes(1, 429, Some(wait));
        stage.send([0]).await;
        assert_eq!(stage.sender.error_code().await, "UPSTREAM_UNAVAILABLE", "{wait}");
    }
    stage.send([1]).await;
    stage.all_get([1]).await;
}

near_and_far!(what_was_accepted_without_an_answer_comes_once_here_and_once_more_elsewhere);
/// Without an answer nobody knows: it is sent again, so Pusher's other clients may get it twice, which is counted.
async fn what_was_accepted_without_an_answer_comes_once_here_and_once_more_elsewhere() {
    let mut stage = Stage::new(nothing).await;
    for _ in 0..5 {
        stage.bridge.sandbox.drop_publishes(1);
        stage.send([7]).await;
        assert_eq!(stage.neighbour.json().await["data"], 7);
        for _ in 0..2 {
            assert_eq!(stage.native.event().await.1, "7");
        }
        stage.fence().await;
    }
    assert_eq!(stage.result("ok"), 5.0);
    assert_eq!(stage.retries("no_answer"), 5.0);
    assert_eq!(stage.bridge.metric("pusher_bridge_publish_repeated_total"), 5.0);

    // What says the same afterwards, whoever sends it, reaches everybody.
    for _ in 0..5 {
        stage.bridge.sandbox.trigger(CHANNEL, "client-m", "7");
        for client in [&mut stage.sender, &mut stage.neighbour] {
            assert_eq!(client.json().await["data"], 7);
        }
        assert_eq!(stage.native.event().await.1, "7");
    }
    stage.fence().await;
}

near_and_far!(a_waiting_message_does_not_keep_its_senders_socket);
async fn a_waiting_message_does_not_keep_its_senders_socket() {
    use tokio::io::AsyncReadExt as _;
    let mut stage = Stage::new(|_| {}).await;
    let hold = stage.hold([1, 2]).await;
    stage.sender.socket.close(None).await.unwrap();
    stage.sender.closed().await;
    let mut rest = [0; 1];
    let read = stage.sender.socket.get_mut().read(&mut rest);
    assert_eq!(patiently("the end of the stream", read).await.unwrap(), 0);
    drop(hold);
    stage.bridge.becomes(QUEUE, 0.0).await;
}

near_and_far!(a_second_copy_made_by_a_retry_is_for_nobody_here);
/// The copy does not come back before the retry: Pusher's own clients get it twice, ours once.
async fn a_second_copy_made_by_a_retry_is_for_nobody_here() {
    let mut stage = Stage::new(|config| config.upstream.publish.timeout = Duration::from_millis(400)).await;
    let hold = stage.bridge.sandbox.hold_publishes();
    stage.send([0]).await;
    // The first request times out, and its retry is held as well.
    patiently("the retry", stage.bridge.sandbox.wait_for(|view| view.held_publishes() >= 2)).await;
    drop(hold);
    stage.bridge.becomes(QUEUE, 0.0).await;
    let copies = stage.bridge.sandbox.published().len();
    assert!(copies >= 2);
    for _ in 0..copies {
        assert_eq!(stage.native.event().await.1, "0");
    }
    assert_eq!(stage.neighbour.json().await["data"], 0);
    stage.bridge.sandbox.trigger(CHANNEL, "fence", "1");
    for client in [&mut stage.sender, &mut stage.neighbour] {
        assert_eq!(client.json().await["type"], "fence");
    }
}

// --------------------------------------------------------------------------------------------- refusals

near_and_far!(final_refusals_are_told_and_never_retried);
async fn final_refusals_are_told_and_never_retried() {
    let mut stage = Stage::new(nothing).await;
    for status in [400, 401, 403, 413, 422] {
        let before = stage.bridge.sandbox.requests().count;
        stage.bridge.sandbox.fail_publishes(1, status, None);
        stage.send([1]).await;
        let error = stage.sender.json().await;
        assert_eq!(error["data"]["error_code"], "UPSTREAM_REFUSED", "{status} {error}");
        assert_eq!(error["data"]["details"]["type"], "m");
        stage.fence().await;
        assert_eq!(stage.bridge.sandbox.requests().count, before + 1, "{status}");
    }
    // A server that has no `batch_events` says so by 404; this one has no `events` either.
    let before = stage.bridge.sandbox.requests().count;
    stage.bridge.sandbox.fail_publishes(2, 404, None);
    stage.send([1]).await;
    assert_eq!(stage.sender.error_code().await, "UPSTREAM_REFUSED");
    stage.fence().await;
    assert_eq!(stage.bridge.sandbox.requests().count, before + 2);
    assert_eq!(stage.result("refused"), 6.0);
}

near_and_far!(a_bad_message_does_not_take_its_batch_along);
async fn a_bad_message_does_not_take_its_batch_along() {
    let mut stage = Stage::new(nothing).await;
    let hold = stage.hold(1..=10).await;
    // The batch, and then the first of it by itself.
    stage.bridge.sandbox.fail_publishes(2, 400, None);
    drop(hold);
    assert_eq!(stage.sender.error_code().await, "UPSTREAM_REFUSED");
    stage.all_get((0..=10).filter(|n| *n != 1)).await;
    assert_eq!(stage.sizes(), [&[1, 10][..], &[1; 10]].concat());
    assert_eq!((stage.result("ok"), stage.result("refused")), (10.0, 1.0));
}

near_and_far!(a_refused_app_refuses_the_whole_batch_at_once);
async fn a_refused_app_refuses_the_whole_batch_at_once() {
    let mut stage = Stage::new(nothing).await;
    let hold = stage.hold(1..=10).await;
    stage.bridge.sandbox.fail_publishes(1, 401, None);
    drop(hold);
    for _ in 1..=10 {
        assert_eq!(stage.sender.error_code().await, "UPSTREAM_REFUSED");
    }
    stage.all_get([0]).await;
    assert_eq!(stage.sizes(), [1, 10]);
}

near_and_far!(a_full_queue_is_told);
async fn a_full_queue_is_told() {
    let mut stage = Stage::new(|config| config.upstream.publish.queue_messages_max = 2).await;
    let hold = stage.hold([1, 2]).await;
    stage.send([3]).await;
    let error = stage.sender.json().await;
    assert_eq!(
        (&error["data"]["error_code"], &error["data"]["details"]["type"]),
        (&"QUEUE_FULL".into(), &"m".into())
    );
    drop(hold);
    stage.all_get(0..=2).await;
    assert_eq!(stage.result("queue_full"), 1.0);
}

near_and_far!(a_queue_is_full_by_bytes_too);
async fn a_queue_is_full_by_bytes_too() {
    let mut stage = Stage::new(|config| config.upstream.publish.queue_bytes_max = 20_000).await;
    let large = "x".repeat(9_000);
    let hold = stage.hold([]).await;
    for _ in 0..3 {
        stage.sender.send(&format!(r#"{{"type":"large","data":"{large}"}}"#)).await;
    }
    assert_eq!(stage.sender.error_code().await, "QUEUE_FULL");
    drop(hold);
    assert_eq!(stage.neighbour.json().await["data"], 0);
    for _ in 0..2 {
        assert_eq!(stage.neighbour.json().await["data"], large.as_str());
    }
    stage.bridge.becomes("pusher_bridge_publish_queue_bytes", 0.0).await;
    stage.send([9]).await;
    assert_eq!(stage.neighbour.json().await["data"], 9, "there is room again");
}

near_and_far!(a_long_type_takes_room_in_the_queue);
/// A type may be as long as a message, and waits for the answer to its sender.
async fn a_long_type_takes_room_in_the_queue() {
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let routes = format!(
        "{SHIPPED}\n{}",
        r#"
[[routes]]
name = "any"
group = "typed-api"
path = "/any"
channel = "private-any"

[[routes.publish]]
types = ["*"]
post = "http://ADDRESS/any"
body = '{"at":{data}}'
"#
    )
    .replace("ADDRESS", &silent.local_addr().unwrap().to_string());
    let bridge = Bridge::with(&routes, |config| config.upstream.publish.queue_bytes_max = 20_000).await;
    let mut client = bridge.login("/any").await;
    for _ in 0..2 {
        client.send(&format!(r#"{{"type":"{}","data":1}}"#, "t".repeat(12_000))).await;
    }
    assert_eq!(client.error_code().await, "QUEUE_FULL");
    assert!(bridge.metric("pusher_bridge_publish_queue_bytes") > 12_000.0);
}

near_and_far!(a_passed_deadline_is_told);
async fn a_passed_deadline_is_told() {
    let mut stage = Stage::new(|config| config.upstream.publish.deadline = Duration::from_millis(150)).await;
    stage.bridge.sandbox.fail_publishes(1_000, 503, None);
    stage.send([0, 1]).await;
    for _ in 0..2 {
        let error = stage.sender.json().await;
        assert_eq!(error["data"]["error_code"], "UPSTREAM_UNAVAILABLE", "{error}");
        assert_eq!(error["data"]["details"]["type"], "m");
    }
    stage.fence().await;
    // A proxy may say 503 of what it has passed on; what was never sent is known not to have been taken.
    assert!(stage.result("unknown") >= 1.0);
    assert_eq!(stage.result("unknown") + stage.result("expired"), 2.0);
}

near_and_far!(messages_that_pusher_would_not_take_are_told_at_once);
async fn messages_that_pusher_would_not_take_are_told_at_once() {
    let mut stage = Stage::new(nothing).await;
    let exact = format!("\"{}\"", "é".repeat(10_238 / 2));
    assert_eq!(exact.len(), 10_240);
    stage.sender.send(&format!(r#"{{"type":"m","data":{exact}}}"#)).await;
    assert_eq!(format!("\"{}\"", stage.neighbour.json().await["data"].as_str().unwrap()), exact);
    let over = format!("\"{}\"", "x".repeat(10_239));
    for (frame, code) in [
        (format!(r#"{{"type":"m","data":{over}}}"#), "MESSAGE_TOO_LARGE"),
        (format!(r#"{{"type":"m","other":{over}}}"#), "MESSAGE_TOO_LARGE"),
        (format!(r#"{{"type":"{}","data":1}}"#, "t".repeat(200)), "INVALID_FIELD"),
        (r#"{"type":"a\u0000b","data":1}"#.to_owned(), "INVALID_FIELD"),
    ] {
        stage.sender.send(&frame).await;
        assert_eq!(stage.sender.error_code().await, code);
    }
    assert_eq!(stage.sizes(), [1]);
}

// -------------------------------------------------------------------------------------------- who gets it

near_and_far!(equal_messages_of_two_senders_reach_each_other_once);
async fn equal_messages_of_two_senders_reach_each_other_once() {
    let mut stage = Stage::new(nothing).await;
    let mut third = stage.bridge.login_as("/ws/plugin/p1", "3").await;
    for _ in 0..5 {
        for client in [&mut stage.sender, &mut stage.neighbour] {
            client.send(r#"{"type":"typing"}"#).await;
        }
        for client in [&mut stage.sender, &mut stage.neighbour, &mut third] {
            assert_eq!(client.json().await["type"], "client-typing");
        }
        assert_eq!(third.json().await["type"], "client-typing");
        for _ in 0..2 {
            assert_eq!(stage.native.event().await.0, "client-typing");
        }
    }
    stage.fence().await;
    assert_eq!(third.json().await["type"], "fence");
}

near_and_far!(a_native_client_event_reaches_all_even_when_equal_to_one_of_ours);
async fn a_native_client_event_reaches_all_even_when_equal_to_one_of_ours() {
    let mut stage = Stage::new(nothing).await;
    stage.send([7]).await;
    assert_eq!(stage.neighbour.json().await["data"], 7);
    stage.bridge.app().trigger(CHANNEL, "client-m", "7").await;
    for client in [&mut stage.sender, &mut stage.neighbour] {
        assert_eq!(client.json().await["data"], 7);
    }
}

near_and_far!(two_bridges_carry_each_others_messages_once);
async fn two_bridges_carry_each_others_messages_once() {
    let mut stage = Stage::new(nothing).await;
    let running = bridge::start(&stage.bridge.sandbox.app(), SHIPPED, &[], |_| {}).await;
    let mut there = OldClient::login(running.address, "/ws/plugin/p1", "4").await;
    let mut beside = OldClient::login(running.address, "/ws/plugin/p1", "5").await;
    there.send(r#"{"type":"m","data":1}"#).await;
    for client in [&mut stage.sender, &mut stage.neighbour, &mut beside] {
        assert_eq!(client.json().await["data"], 1);
    }
    // Equal messages at the same time from both: each bridge holds back one copy from its own sender.
    for client in [&mut there, &mut stage.sender] {
        client.send(r#"{"type":"m","data":2}"#).await;
    }
    for client in [&mut there, &mut stage.sender] {
        assert_eq!(client.json().await["data"], 2);
    }
    for client in [&mut beside, &mut stage.neighbour] {
        assert_eq!(
            (client.json().await["data"].clone(), client.json().await["data"].clone()),
            (2.into(), 2.into())
        );
    }
    for _ in 0..3 {
        stage.native.event().await;
    }
    stage.fence().await;
    for client in [&mut there, &mut beside] {
        assert_eq!(client.json().await["type"], "fence");
    }
}

near_and_far!(messages_published_while_the_link_is_lost_reach_the_neighbours_here);
/// Publishing may work while the link does not: neighbours here get such messages all the same, and what says the same
/// afterwards is not mixed up with them.
async fn messages_published_while_the_link_is_lost_reach_the_neighbours_here() {
    let mut stage =
        Stage::new(|config| config.upstream.times.reconnect_delay_max = Duration::from_millis(50)).await;
    stage.bridge.sandbox.refuse_connections(HandshakeFault::Drop);
    stage.bridge.sandbox.cut_connections();
    stage.bridge.becomes(r#"pusher_bridge_upstream_connected{link="0"}"#, 0.0).await;
    stage.send([1]).await;
    assert_eq!(stage.neighbour.json().await["data"], 1);
    stage.bridge.sandbox.refuse_connections(HandshakeFault::None);
    patiently("the link", stage.bridge.sandbox.wait_for(|view| view.subscribed(CHANNEL) == 1)).await;
    stage.neighbour.send(r#"{"type":"m","data":1}"#).await;
    assert_eq!(stage.sender.json().await["data"], 1, "another's message, though it says the same");
    stage.bridge.sandbox.trigger(CHANNEL, "fence", "1");
    for client in [&mut stage.sender, &mut stage.neighbour] {
        assert_eq!(client.json().await["type"], "fence");
    }
}

near_and_far!(messages_of_a_client_that_has_left_are_published);
async fn messages_of_a_client_that_has_left_are_published() {
    let mut stage = Stage::new(nothing).await;
    let hold = stage.hold(1..=3).await;
    let Stage { bridge, sender, mut neighbour, mut native } = stage;
    drop(sender);
    drop(hold);
    for n in 0..=3 {
        assert_eq!(neighbour.json().await["data"], n);
        assert_eq!(native.event().await.1, n.to_string());
    }
    bridge.becomes(QUEUE, 0.0).await;
}

near_and_far!(what_was_accepted_is_published_before_the_end);
async fn what_was_accepted_is_published_before_the_end() {
    let mut stage = Stage::new(|config| config.server.close_window = Duration::ZERO).await;
    let hold = stage.hold(1..=25).await;
    let Stage { bridge, mut sender, mut native, .. } = stage;
    let Bridge { running, sandbox } = bridge;
    let ending = tokio::spawn(running.shutdown());
    assert_eq!(sender.closed().await.map(|(code, _)| code), Some(1001));
    drop(hold);
    for n in 0..=25 {
        assert_eq!(native.event().await.1, n.to_string());
    }
    assert_eq!(patiently("the end", ending).await.unwrap(), Shutdown::Clean);
    assert_eq!(sandbox.published().len(), 26);
}
