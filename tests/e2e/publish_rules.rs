//! Where a client's message goes by its rule, and what comes back of it.

use std::net::SocketAddr;

use pusher_bridge::sandbox::{Options, Sandbox};

use crate::near_and_far;
use crate::support::backend::Backend;
use crate::support::bridge::{self, SHIPPED};
use crate::support::clients;
use crate::support::pusher::{App, Pusher};
use crate::support::sockudo::Sockudo;
use crate::support::{Bridge, OldClient, patiently};

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

// ------------------------------------------------------------------------------------------------ answers

const DESK: &str = r#"
[[routes]]
name = "desk"
group = "typed-api"
path = "/desk"
channel = "private-desk"
"#;

/// A client whose `ask` a backend answers.
async fn asking(address: &str) -> (Bridge, OldClient) {
    let rule = r#"
[[routes.publish]]
types = ["ask", "tell"]
post = "http://ADDRESS/{type}"
body = '{"asked":{frame}}'
reply = "json"
retry_on = [503]
"#
    .replace("http://ADDRESS", address);
    let bridge = Bridge::start_with(&format!("{DESK}{rule}")).await;
    let client = bridge.login("/desk").await;
    (bridge, client)
}

fn replies(bridge: &Bridge, result: &str) -> f64 {
    bridge.metric(&format!("pusher_bridge_replies_total{{result=\"{result}\"}}"))
}

near_and_far!(a_backends_answer_goes_back_to_who_asked_in_order);
async fn a_backends_answer_goes_back_to_who_asked_in_order() {
    let mut backend = Backend::start().await;
    let (bridge, mut client) = asking(&backend.url()).await;
    let mut beside = bridge.login_as("/desk", "2").await;
    // The third is not taken at first: what is behind it waits, and so do the answers.
    for (status, n) in [(200, "0"), (201, "1.50"), (503, ""), (200, "2"), (200, "3"), (200, "4")] {
        backend.say_next(status, Some("application/json"), format!(r#"{{"n":{n},"s":"\u00e9"}}"#));
    }
    for n in 0..5 {
        client.send(&format!(r#"{{"type":"{}","data":{n}}}"#, if n % 2 == 0 { "ask" } else { "tell" })).await;
    }
    for (n, number) in ["0", "1.50", "2", "3", "4"].into_iter().enumerate() {
        let text = client.text().await;
        let to = if n % 2 == 0 { "ask" } else { "tell" };
        let begin =
            format!(r#"{{"type":"reply","to":"{to}","data":{{"n":{number},"s":"\u00e9"}},"timestamp":"#);
        assert!(text.starts_with(&begin), "{text}");
    }
    assert_eq!(backend.next().await.body, r#"{"asked":{"type":"ask","data":0}}"#);
    bridge.sandbox.trigger("private-desk", "fence", "1");
    assert_eq!(beside.json().await["type"], "fence", "nobody else has it");
    assert_eq!(
        (replies(&bridge, "passed"), bridge.metric("pusher_bridge_publish_total{result=\"ok\"}")),
        (5.0, 5.0)
    );
}

near_and_far!(an_answer_that_cannot_be_passed_on_is_told);
async fn an_answer_that_cannot_be_passed_on_is_told() {
    let backend = Backend::start().await;
    let (bridge, mut client) = asking(&backend.url()).await;
    let large = format!("\"{}\"", "x".repeat(64 * 1024));
    for (status, content_type, body, code) in [
        (200, Some("text/html"), "<p>s3cret</p>", "NO_REPLY"),
        (200, Some("application/json"), "{\"cut\":", "NO_REPLY"),
        (204, None, "", "NO_REPLY"),
        (200, Some("application/json"), &large, "NO_REPLY"),
        (400, Some("application/json"), "{\"why\":\"s3cret\"}", "UPSTREAM_REFUSED"),
        (500, Some("application/json"), "{}", "UPSTREAM_UNAVAILABLE"),
    ] {
        backend.say_next(status, content_type, body);
        client.send(r#"{"type":"ask","data":1}"#).await;
        let error = client.json().await;
        assert_eq!(error["data"]["error_code"], code, "{status} {content_type:?}");
        assert_eq!(error["data"]["details"]["type"], "ask");
    }
    let counted = ["not_json", "too_large", "incomplete", "passed"].map(|result| replies(&bridge, result));
    assert_eq!(counted, [3.0, 1.0, 0.0, 0.0]);
    backend.say_next(200, None, "true");
    client.send(r#"{"type":"ask","data":1}"#).await;
    assert_eq!(client.json().await["data"], true);
}

near_and_far!(an_answer_that_breaks_off_is_told_and_one_that_never_comes_too);
async fn an_answer_that_breaks_off_is_told_and_one_that_never_comes_too() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (bridge, mut client) = asking(&address).await;
    for (answer, code) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"n\":1}", "NO_REPLY"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7\r\n{\"n\":1}\r\n", "NO_REPLY"),
        ("HTTP/1.1 200 OK\r\n\r\n12", "NO_REPLY"),
        ("HTTP/1.1 200 OK\r\n\r\n[12", "NO_REPLY"),
        ("HTTP/1.1 200 OK\r\n\r\n[12]", "reply"),
        ("HTTP/1.1 20", "UPSTREAM_UNAVAILABLE"),
        ("", "UPSTREAM_UNAVAILABLE"),
    ] {
        client.send(r#"{"type":"ask","data":1}"#).await;
        let (mut stream, _) = patiently("a POST", listener.accept()).await.unwrap();
        let mut request = vec![0; 4096];
        while !String::from_utf8_lossy(&request).contains("asked") {
            tokio::io::AsyncReadExt::read(&mut stream, &mut request).await.unwrap();
        }
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.unwrap();
        drop(stream);
        let frame = client.json().await;
        let told = frame["data"]["error_code"].as_str().or(frame["type"].as_str());
        assert_eq!(told, Some(code), "{answer}");
    }
    assert_eq!(
        (replies(&bridge, "incomplete"), replies(&bridge, "not_json"), replies(&bridge, "passed")),
        (3.0, 1.0, 1.0)
    );
}

near_and_far!(a_slow_backend_holds_up_its_own_answers_only);
async fn a_slow_backend_holds_up_its_own_answers_only() {
    let (silent, quick) =
        (tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap(), Backend::start().await);
    let rules = r#"
[[routes.publish]]
types = ["slow"]
post = "http://SLOW/"
body = '{frame}'
reply = "json"

[[routes.publish]]
types = ["quick"]
post = "QUICK/"
body = '{frame}'
reply = "json"
"#;
    let rules =
        rules.replace("SLOW", &silent.local_addr().unwrap().to_string()).replace("QUICK", &quick.url());
    let bridge = Bridge::with(&format!("{SHIPPED}\n{DESK}{rules}"), |config| {
        config.upstream.publish.timeout = std::time::Duration::from_secs(2);
    })
    .await;
    let mut client = bridge.login("/desk").await;
    client.send(r#"{"type":"slow"}"#).await;
    let held = patiently("a POST", silent.accept()).await.unwrap();
    for n in 0..3 {
        quick.say_next(200, None, n.to_string());
        client.send(r#"{"type":"quick"}"#).await;
        assert_eq!(client.json().await["data"], n);
    }
    // Whether the slow one took it nobody knows.
    assert_eq!(client.error_code().await, "UPSTREAM_UNAVAILABLE");
    drop(held);
    assert_eq!(bridge.metric("pusher_bridge_publish_total{result=\"unknown\"}"), 1.0);
}

near_and_far!(an_answer_whose_sender_is_gone_is_counted);
async fn an_answer_whose_sender_is_gone_is_counted() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (bridge, mut client) = asking(&address).await;
    client.send(r#"{"type":"ask","data":1}"#).await;
    let (mut stream, _) = patiently("a POST", listener.accept()).await.unwrap();
    drop(client);
    bridge.becomes(r#"pusher_bridge_connections{route="desk",phase="live"}"#, 0.0).await;
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.unwrap();
    bridge.becomes(r#"pusher_bridge_replies_total{result="sender_gone"}"#, 1.0).await;
}

// ------------------------------------------------------------------------------------------ client events

const SAID: &str = r#"
[[routes]]
name = "said"
group = "typed-api"
path = "/said"
channel = "private-said"
limits.messages = "unlimited"

[[routes.publish]]
types = ["*"]
via = "client_event"
"#;

/// More than Pusher takes in a second: all of them arrive, in order and once, and not at their sender.
async fn says_more_than_a_second_takes(bridge: SocketAddr, app: &App) {
    let mut sender = OldClient::login(bridge, "/said", "1").await;
    let mut beside = OldClient::login(bridge, "/said", "2").await;
    let mut native = app.native("private-said").await;
    for n in 0..25 {
        sender.send(&format!(r#"{{"type":"m","data":{{"n":{n},"x":1.50}}}}"#)).await;
    }
    for n in 0..25 {
        let text = beside.text().await;
        let begin = format!(r#"{{"type":"client-m","data":{{"n":{n},"x":1.50}},"#);
        assert!(text.starts_with(&begin), "{text}");
        assert_eq!(native.event().await, ("client-m".to_owned(), format!(r#"{{"n":{n},"x":1.50}}"#)));
    }
    app.trigger("private-said", "fence", "1").await;
    for client in [&mut sender, &mut beside] {
        assert_eq!(client.json().await["type"], "fence");
    }
    assert_eq!(native.event().await.0, "fence");
}

near_and_far!(messages_leave_as_client_events_as_fast_as_pusher_takes_them);
async fn messages_leave_as_client_events_as_fast_as_pusher_takes_them() {
    let bridge = Bridge::start_with(SAID).await;
    says_more_than_a_second_takes(bridge.address(), &bridge.app()).await;
    let sent = bridge.sandbox.client_events();
    assert_eq!(sent.len(), 25);
    let socket = &sent[0].socket_id;
    assert!(sent.iter().all(|event| event.channel == "private-said" && event.socket_id == *socket));
    bridge.becomes("pusher_bridge_publish_total{result=\"ok\"}", 25.0).await;
}

near_and_far!(sockudo_takes_client_events);
async fn sockudo_takes_client_events() {
    if let Some(sockudo) = Sockudo::start().await {
        let app = sockudo.app();
        let bridge = bridge::start(&app, &format!("{SHIPPED}\n{SAID}"), &[], |_| {}).await;
        says_more_than_a_second_takes(bridge.address, &app).await;
    }
}

/// pusher-js gets them as well, and every digit.
async fn reaches_pusher_js(app: &App) {
    let bridge = bridge::start(app, &format!("{SHIPPED}\n{SAID}"), &[], |_| {}).await;
    if let Some(output) = clients::node("client_events.test.mjs", app, bridge.address, &[]).await {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}\n{err}");
    }
    bridge.shutdown().await;
}

#[tokio::test]
async fn client_events_reach_pusher_js() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    reaches_pusher_js(&sandbox.app()).await;
}

#[tokio::test]
async fn client_events_reach_pusher_js_through_sockudo() {
    if let Some(sockudo) = Sockudo::start().await {
        reaches_pusher_js(&sockudo.app()).await;
    }
}

near_and_far!(a_client_event_that_pusher_does_not_take_is_told);
async fn a_client_event_that_pusher_does_not_take_is_told() {
    let bridge = Bridge::start_with(SAID).await;
    let mut sender = bridge.login("/said").await;
    sender.send(&format!(r#"{{"type":"{}","data":1}}"#, "t".repeat(200))).await;
    assert_eq!(sender.error_code().await, "INVALID_FIELD");
    sender.send(&format!(r#"{{"type":"m","data":"{}"}}"#, "x".repeat(10_239))).await;
    assert_eq!(sender.error_code().await, "MESSAGE_TOO_LARGE");
    assert!(bridge.sandbox.client_events().is_empty());
}

const ROOM: &str = r#"
[dialects.room.in]
auth = { type = "auth" }

[dialects.room.out]
event = '{"type":{event},"data":{data},"by":{sender}}'
auth_ok = '{"type":"auth_response"}'
error = '{"type":"error","error":{code}}'

[[routes]]
name = "lounge"
dialect = "room"
auth.required = true
path = "/room"
channel = "presence-lounge"
shares = ["room"]
presence = "each_user"

[[routes.publish]]
types = ["*"]
via = "client_event"
"#;

near_and_far!(on_a_presence_channel_a_client_event_leaves_by_its_users_own_connection);
async fn on_a_presence_channel_a_client_event_leaves_by_its_users_own_connection() {
    let bridge = Bridge::start_with(ROOM).await;
    let mut one = bridge.login_as("/room", "1").await;
    let mut again = bridge.login_as("/room", "1").await;
    let mut two = bridge.login_as("/room", "2").await;
    for n in 0..3 {
        one.send(&format!(r#"{{"type":"m","data":{n}}}"#)).await;
        two.send(&format!(r#"{{"type":"w","data":{n}}}"#)).await;
    }
    let expect =
        |name: &str, n: i32, by: &str| format!(r#"{{"type":"client-{name}","data":{n},"by":"{by}"}}"#);
    for n in 0..3 {
        assert_eq!(two.text().await, expect("m", n, "1"));
        assert_eq!(one.text().await, expect("w", n, "2"));
    }
    let mut both: Vec<String> = Vec::new();
    for _ in 0..6 {
        both.push(again.text().await);
    }
    for (name, by) in [("m", "1"), ("w", "2")] {
        let own: Vec<&String> = both.iter().filter(|text| text.contains(&format!("client-{name}"))).collect();
        assert_eq!(own, (0..3).map(|n| expect(name, n, by)).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    }
    let sent = bridge.sandbox.client_events();
    let sockets: std::collections::HashSet<&str> =
        sent.iter().map(|event| event.socket_id.as_str()).collect();
    assert_eq!((sent.len(), sockets.len()), (6, 2));
    bridge.sandbox.trigger("presence-lounge", "fence", "1");
    for client in [&mut one, &mut again, &mut two] {
        assert!(client.text().await.contains("fence"));
    }
}
