//! The main job: events down, messages up.

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::near_and_far;
use crate::support::backend::Backend;
use crate::support::bridge::{SHIPPED, config_text, token};
use crate::support::{Bridge, OldClient, patiently};

/// What the plugins' route publishes in the shipped file.
const PLUGINS_RULE: &str =
    "neither new nor old clients can take it for the server's.\n[[routes.publish]]\ntypes = [\"*\"]";

/// The data of an event frame of the typed dialect, as text.
fn data_of<'a>(frame: &'a str, event: &str) -> &'a str {
    let start = format!(r#"{{"type":"{event}","data":"#);
    let rest = frame.strip_prefix(&start).unwrap_or_else(|| panic!("no {event}: {frame}"));
    let end = rest.rfind(r#","timestamp":""#).unwrap_or_else(|| panic!("no timestamp: {frame}"));
    &rest[..end]
}

near_and_far!(events_reach_the_client_byte_for_byte);
async fn events_reach_the_client_byte_for_byte() {
    let bridge = Bridge::start().await;
    let mut client = bridge.login("/ws/content/gen_1").await;
    for data in [
        r#"{"session_id":"gen_1","n":1.50,"big":123456789012345678901234567890,"s":"\u00e9\ud83d\ude00\n\"é😀"}"#,
        r#"{"n":[-0.0,1E400,1e-7,0.10,100000000000000000001]}"#,
        "{\"script_content\":\"-- Zeile 1\\r\\n\\tprint(\\\"häßlich \\u2028 \\\\ \\/ </script> 日本語\\\")\\n\"}",
        r#"{"lone":"\ud800","other":"\uDFFFx","key\ud800":1}"#,
        r#"{"a":1,"a":2,"":{"":[]},"type":"progress_update"}"#,
        "{ \"spaced\" : 1 ,\n \"lines\" :\t2 }",
        r#"{"nul":"\u0000","del":""}"#,
    ] {
        bridge.sandbox.trigger("content-generation-gen_1", "progress_update", data);
        assert_eq!(data_of(&client.text().await, "progress_update"), data);
    }
}

near_and_far!(a_whole_envelope_is_not_wrapped_again);
async fn a_whole_envelope_is_not_wrapped_again() {
    let bridge = Bridge::start().await;
    let mut client = bridge.login("/ws/content/gen_1").await;
    for envelope in [
        r#"{"type":"stage_complete","data":{"n":1.50},"timestamp":"2025-01-21T10:01:00Z"}"#,
        r#"{"timestamp":"t","data":null,"type":"stage_complete"}"#,
        r#"{"type":"stage_complete","data":"text"}"#,
        "\n {\"type\": \"stage_complete\",\r\n \"data\": {}}\n",
        r#"{"\u0074ype":"stage\u005fcomplete","data":{"data":{},"type":"stage_complete"}}"#,
    ] {
        bridge.sandbox.trigger("content-generation-gen_1", "stage_complete", envelope);
        assert_eq!(client.text().await, envelope);
    }
    // These only look like one: of another event, without data, with a type that is no string, with members that an
    // event has not.
    for data in [
        r#"{"timestamp":"t","extra":[1.0],"data":null,"type":"stage_complete"}"#,
        r#"{"type":"stage_complete","data":{},"error":"x"}"#,
        r#"{"type":"stage_complete","data":{},"timestamp":{"error":"x"}}"#,
        r#"{"type":"progress_update","data":{}}"#,
        r#"{"type":"stage_complete","timestamp":"t"}"#,
        r#"{"type":1,"data":{}}"#,
        r#"[{"type":"stage_complete","data":{}}]"#,
        r#""{\"type\":\"stage_complete\",\"data\":{}}""#,
    ] {
        bridge.sandbox.trigger("content-generation-gen_1", "stage_complete", data);
        assert_eq!(data_of(&client.text().await, "stage_complete"), data);
    }
}

near_and_far!(data_of_every_form_gives_one_envelope);
async fn data_of_every_form_gives_one_envelope() {
    let bridge = Bridge::start().await;
    let mut client = bridge.login("/ws/content/gen_1").await;
    let forms = [
        (r#""{\"n\":1.50}""#, r#"{"n":1.50}"#),
        (r#"{"n":1.50}"#, r#"{"n":1.50}"#),
        (r#""[1,2.0]""#, "[1,2.0]"),
        ("[1,2.0]", "[1,2.0]"),
        (r#""7.10""#, "7.10"),
        ("7.10", "7.10"),
        (r#""not JSON { \" \n é""#, r#""not JSON { \" \n é""#),
        (r#""""#, r#""""#),
        (r#""true""#, "true"),
        ("false", "false"),
        ("null", "null"),
        (r#""lone \ud800""#, r#""lone \ud800""#),
        (r#""{\"lone\":\"\ud800\"}""#, r#"{"lone":"\ud800"}"#),
        (r#""{\"pair\":\"\ud83d\ude00\"}""#, r#"{"pair":"😀"}"#),
    ];
    let channel = "content-generation-gen_1";
    for (raw, expected) in forms {
        let frame = format!(r#"{{"event":"e","channel":"{channel}","data":{raw}}}"#);
        bridge.sandbox.raw_frame(channel, &frame);
        assert_eq!(data_of(&client.text().await, "e"), expected, "{raw}");
    }
    bridge.sandbox.raw_frame(channel, &format!(r#"{{"channel":"{channel}","event":"e"}}"#));
    assert_eq!(data_of(&client.text().await, "e"), "null", "no data at all");
    let envelope = r#"{"type":"e","data":{"n":1.50}}"#;
    bridge.sandbox.raw_frame(channel, &format!(r#"{{"channel":"{channel}","event":"e","data":{envelope}}}"#));
    assert_eq!(client.text().await, envelope, "an envelope that is no string");
}

near_and_far!(the_order_of_a_thousand_events_is_kept);
async fn the_order_of_a_thousand_events_is_kept() {
    let bridge = Bridge::start().await;
    let mut client = bridge.login("/ws/content/gen_1").await;
    for n in 0..1000 {
        bridge.sandbox.trigger("content-generation-gen_1", "progress_update", &n.to_string());
    }
    for n in 0..1000 {
        assert_eq!(data_of(&client.text().await, "progress_update"), n.to_string());
    }
}

near_and_far!(an_event_published_after_auth_response_arrives);
async fn an_event_published_after_auth_response_arrives() {
    let bridge = Bridge::start().await;
    let arrives = async |n: usize| {
        let mut client = bridge.login(&format!("/ws/content/gen_{n}")).await;
        bridge.sandbox.trigger(&format!("content-generation-gen_{n}"), "e", "1");
        assert_eq!(client.json().await["type"], "e");
    };
    // Some at a time: one after the other would take long over a far network.
    for chunk in 0..3 {
        futures_util::future::join_all((chunk * 10..(chunk + 1) * 10).map(arrives)).await;
    }
}

near_and_far!(frames_sent_together_with_auth_keep_their_order);
async fn frames_sent_together_with_auth_keep_their_order() {
    let bridge = Bridge::start().await;
    let mut neighbour = bridge.login("/ws/plugin/p1").await;
    let mut client = bridge.connect("/ws/plugin/p1").await;
    client.feed(&format!(r#"{{"type":"auth","token":"{}"}}"#, token("9"))).await;
    for n in 0..20 {
        client.feed(&format!(r#"{{"type":"step","data":{n}}}"#)).await;
    }
    client.socket.flush().await.unwrap();
    assert_eq!(client.json().await["type"], "auth_response");
    for n in 0..20 {
        assert_eq!(data_of(&neighbour.text().await, "client-step"), n.to_string());
    }

    let mut roblox = bridge.connect("/ws/roblox").await;
    roblox.feed(&format!(r#"{{"type":"auth","token":"Bearer {}"}}"#, token("9"))).await;
    roblox.feed(r#"{"type":"subscribe","environment_id":"env_456"}"#).await;
    roblox.feed(r#"{"type":"unknown"}"#).await;
    roblox.socket.flush().await.unwrap();
    assert_eq!(roblox.json().await["type"], "auth_response");
    // Its own answer shows that the subscription before it has been heeded.
    assert_eq!(roblox.error_code().await, "UNKNOWN_MESSAGE_TYPE");
    bridge.sandbox.trigger("roblox-sync", "asset_ready", r#"{"environment_id":"env_456"}"#);
    assert_eq!(roblox.json().await["type"], "asset_ready");
}

near_and_far!(a_message_reaches_pusher_and_the_neighbours_but_not_its_sender);
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

near_and_far!(messages_of_every_form_are_relayed_unchanged);
/// Whatever a client can write comes to its neighbour as written, once, and not back to itself.
async fn messages_of_every_form_are_relayed_unchanged() {
    let bridge = Bridge::start().await;
    let mut sender = bridge.login("/ws/plugin/p1").await;
    let mut neighbour = bridge.login("/ws/plugin/p1").await;
    let whole = [
        r#"{"type":"x"}"#,
        "  {\"type\":\"x\",\n\"more\":[1.0e2]}\n",
        r#"{"type":"x","data":1,"id":12345678901234567890}"#,
        r#"{"type":"x","data":{},"sender":"\ud800"}"#,
    ];
    let inner = [
        r#""text""#,
        r#""{\"a\":1}""#,
        r#""7""#,
        "7.0",
        "[ ]",
        "null",
        "true",
        r#""""#,
        r#""\ud83d\ude00 \u00e9 é""#,
        r#""\ud800""#,
        r#"{"\ud800":1}"#,
        r#"{"a":1,"a":2.50}"#,
        r#"{"type":"client-x","data":{}}"#,
    ];
    for data in inner {
        sender.send(&format!(r#"{{"type":"x","data":{data}}}"#)).await;
    }
    for frame in whole {
        sender.send(frame).await;
    }
    for data in inner {
        let frame = neighbour.text().await;
        match data {
            // A string whose text is JSON is, to every Pusher client, that JSON.
            r#""{\"a\":1}""# => {
                assert!([data, r#"{"a":1}"#].contains(&data_of(&frame, "client-x")), "{frame}")
            }
            data => assert_eq!(data_of(&frame, "client-x"), data),
        }
    }
    for expected in whole {
        assert_eq!(data_of(&neighbour.text().await, "client-x"), expected);
    }
    bridge.sandbox.trigger("private-plugin-p1", "fence", "1");
    assert_eq!(sender.json().await["type"], "fence");
    assert_eq!(neighbour.json().await["type"], "fence");
}

near_and_far!(relay_as_sent_shows_old_clients_the_name_as_written);
async fn relay_as_sent_shows_old_clients_the_name_as_written() {
    let routes = config_text(
        SHIPPED,
        PLUGINS_RULE,
        "\n[[routes.publish]]\ntypes = [\"say\"]\nrelay = \"as_sent\"\n[[routes.publish]]\ntypes = [\"*\"]\nevent = \"server-{type}\"",
    );
    let bridge = Bridge::with(&routes, |_| {}).await;
    let mut sender = bridge.login("/ws/plugin/p1").await;
    let mut neighbour = bridge.login("/ws/plugin/p1").await;
    sender.send(r#"{"type":"say","data":1}"#).await;
    sender.send(r#"{"type":"other","data":2}"#).await;
    assert_eq!(data_of(&neighbour.text().await, "say"), "1");
    assert_eq!(data_of(&neighbour.text().await, "server-other"), "2");
    let published: Vec<_> = bridge.sandbox.published().into_iter().map(|p| p.event).collect();
    assert_eq!(published, ["client-say", "server-other"]);
}

const DIALECTS: &str = r#"
[dialects.nested.in]
auth = { type = "auth" }
[dialects.nested.out]
event = '{"kind":"event","meta":{"name":{event}},"data":{data}}'
error = '{"kind":"error","why":{code}}'

[dialects.prefixed.in]
auth = { type = "auth" }
[dialects.prefixed.out]
event = '{"name":"evt:{event}","data":{data}}'
error = '{"name":"error","why":{code}}'

[dialects.open.in]
auth = { type = "auth" }
[dialects.open.out]
event = '{"event":{event},"data":{data}}'
error = '{"event":"error","error":{code}}'
"#;

near_and_far!(no_client_speaks_as_the_server);
/// On every dialect, whatever a client has for data is shown as its data, under its own event's name: by a rule with
/// the prefix or without, and also when it comes from elsewhere.
async fn no_client_speaks_as_the_server() {
    let mut routes = DIALECTS.to_owned();
    for dialect in ["nested", "prefixed", "open"] {
        for (kind, event) in [("client", "client-{type}"), ("own", "by-{type}")] {
            routes.push_str(&format!(
                "[[routes]]\nname = \"{dialect}-{kind}\"\npath = \"/{dialect}/{kind}\"\ndialect = \"{dialect}\"\n\
                 channel = \"private-{dialect}-{kind}\"\n[[routes.publish]]\ntypes = [\"*\"]\nevent = \"{event}\"\ndata = '{{data}}'\n"
            ));
        }
    }
    let bridge = Bridge::start_with(&routes).await;
    for dialect in ["nested", "prefixed", "open"] {
        for (kind, prefix) in [("client", "client-"), ("own", "by-")] {
            let path = format!("/{dialect}/{kind}");
            let channel = format!("private-{dialect}-{kind}");
            let (mut sender, mut neighbour) = (bridge.connect(&path).await, bridge.connect(&path).await);
            let stands = bridge.sandbox.wait_for(|view| view.subscribed(&channel) == 1);
            patiently("the subscription", stands).await;
            for client in [&mut sender, &mut neighbour] {
                // It is told of its mistake by a session that is subscribed.
                client.send("{}").await;
                assert!(client.text().await.contains("MISSING_TYPE"));
            }
            let event = format!("{prefix}x");
            let forged = [
                r#"{"kind":"event","meta":{"name":"auth_error"},"data":1}"#.to_owned(),
                format!(r#"{{"kind":"event","meta":{{"name":"{event}"}},"data":1}}"#),
                r#"{"name":"error","data":1}"#.to_owned(),
                format!(r#"{{"name":"evt:{event}","data":1}}"#),
                format!(r#"{{"event":"{event}","data":1,"error":"INVALID_TOKEN"}}"#),
                format!(r#"{{"event":"{event}","data":1}}"#),
            ];
            for data in &forged {
                sender.send(&format!(r#"{{"type":"x","data":{data}}}"#)).await;
            }
            let shown = |data: &str| match dialect {
                "nested" => format!(r#"{{"kind":"event","meta":{{"name":"{event}"}},"data":{data}}}"#),
                "prefixed" => format!(r#"{{"name":"evt:{event}","data":{data}}}"#),
                _ => format!(r#"{{"event":"{event}","data":{data}}}"#),
            };
            for data in &forged {
                assert_eq!(neighbour.text().await, shown(data), "{path}");
            }
            // As another bridge's client, or Pusher's own, would cause it.
            for data in &forged {
                bridge.sandbox.trigger(&channel, &event, data);
                assert_eq!(neighbour.text().await, shown(data), "{path}");
            }
            // The server's own envelope passes still.
            let whole = shown("1").replace(&event, "done");
            bridge.sandbox.trigger(&channel, "done", &whole);
            assert_eq!(neighbour.text().await, whole);
        }
    }
}

near_and_far!(a_client_cannot_send_the_servers_frames_as_sent);
async fn a_client_cannot_send_the_servers_frames_as_sent() {
    let routes = config_text(SHIPPED, PLUGINS_RULE, &format!("{PLUGINS_RULE}\nrelay = \"as_sent\""));
    let bridge = Bridge::with(&routes, |_| {}).await;
    let mut sender = bridge.login("/ws/plugin/p1").await;
    let mut neighbour = bridge.login("/ws/plugin/p1").await;
    for name in ["auth_error", "error", "ping", "auth_response"] {
        sender.send(&format!(r#"{{"type":"{name}","data":{{"error":"INVALID_TOKEN"}}}}"#)).await;
        let answer = sender.json().await;
        assert_eq!(answer["data"]["error_code"], "MESSAGE_TYPE_NOT_PUBLISHED", "{answer}");
        assert_eq!(answer["data"]["details"]["type"], name);
        // Nor does it by another way: from a client of Pusher's own.
        bridge.sandbox.trigger("private-plugin-p1", &format!("client-{name}"), "{}");
        assert_eq!(neighbour.json().await["type"], format!("client-{name}"));
        sender.json().await;
    }
    let counted = r#"pusher_bridge_client_errors_total{route="plugin",code="MESSAGE_TYPE_NOT_PUBLISHED"}"#;
    assert_eq!(bridge.metric(counted), 4.0);
    sender.send(r#"{"type":"run","data":1}"#).await;
    assert_eq!(neighbour.json().await["type"], "run");
}

near_and_far!(the_channel_dialect_chooses_its_channels_in_band);
async fn the_channel_dialect_chooses_its_channels_in_band() {
    let bridge = Bridge::start().await;
    let mut client = bridge.connect("/ws").await;
    for channel in ["files", "git"] {
        client.send(&format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#)).await;
        let stands = bridge.sandbox.wait_for(|view| view.subscribed(channel) == 1);
        patiently("the subscription", stands).await;
    }
    client.send("not JSON").await;
    let answer = client.json().await;
    assert_eq!((&answer["type"], &answer["error"]), (&json!("error"), &json!("INVALID_JSON")), "{answer}");
    client.send(r#"{"type":"subscribe","channel":"private-secrets"}"#).await;
    assert_eq!(client.error_code().await, "INVALID_FIELD");

    let data = r#"{"file":"src/main.ts","event":"change","n":1.50}"#;
    bridge.sandbox.trigger("files", "changed", data);
    let frame = client.text().await;
    let expected = format!(r#"{{"type":"event","channel":"files","data":{data},"timestamp":""#);
    assert!(frame.starts_with(&expected), "{frame}");
    let envelope = format!(r#"{{"type":"event","channel":"git","data":{data},"timestamp":"t"}}"#);
    bridge.sandbox.trigger("git", "changed", &envelope);
    assert_eq!(client.text().await, envelope);

    client.send(r#"{"type":"unsubscribe","channel":"files"}"#).await;
    client.send(r#"{"type":"nonsense"}"#).await;
    assert_eq!(client.error_code().await, "UNKNOWN_MESSAGE_TYPE", "the unsubscription was heeded before");
    bridge.sandbox.trigger("files", "changed", "1");
    bridge.sandbox.trigger("git", "changed", "2");
    let next = client.json().await;
    assert_eq!((&next["channel"], &next["data"]), (&json!("git"), &json!(2)), "files is over");
    assert!(!bridge.sandbox.ever_subscribed().contains(&"private-secrets".to_owned()));
}

near_and_far!(command_input_is_posted_to_the_backend);
async fn command_input_is_posted_to_the_backend() {
    let mut backend = Backend::start().await;
    let bridge = Bridge::with_env(SHIPPED, &[("BACKEND_URL", &backend.url())], |_| {}).await;
    let mut client = bridge.login("/ws/command/a%3Db;c@d").await;
    client.send("{\"type\":\"input\",\"data\":\"ls\\n\\u00e9 1.50\"}").await;
    let request = backend.next().await;
    assert_eq!(request.path, "/commands/a%3Db%3Bc%40d/input", "the value is one segment");
    assert_eq!(request.body, "{\"input\":\"ls\\n\\u00e9 1.50\"}");
    assert_eq!(request.content_type.as_deref(), Some("application/json"));

    client.send(r#"{"type":"input"}"#).await;
    assert_eq!(client.error_code().await, "INVALID_FIELD", "input without data");
    client.send(r#"{"type":"kill","data":1}"#).await;
    assert_eq!(client.error_code().await, "MESSAGE_TYPE_NOT_PUBLISHED");

    // What was answered may have been carried out, whoever answered, and `rm` twice is no good.
    for (status, code) in [
        (404, "UPSTREAM_REFUSED"),
        (500, "UPSTREAM_UNAVAILABLE"),
        (503, "UPSTREAM_UNAVAILABLE"),
        (429, "UPSTREAM_UNAVAILABLE"),
    ] {
        backend.answer_next([status]);
        client.send(r#"{"type":"input","data":2}"#).await;
        assert_eq!(backend.next().await.body, r#"{"input":2}"#);
        let error = client.json().await;
        assert_eq!(error["data"]["error_code"], code, "{error}");
        assert_eq!(error["data"]["details"]["type"], "input");
    }
    client.send(r#"{"type":"input","data":3}"#).await;
    assert_eq!(backend.next().await.body, r#"{"input":3}"#, "none was sent twice");

    for value in [".", ".."] {
        let mut climber = bridge.login(&format!("/ws/command/{value}")).await;
        climber.send(r#"{"type":"input","data":1}"#).await;
        assert_eq!(climber.error_code().await, "INVALID_FIELD", "no value leads out of the URL's path");
    }

    bridge.sandbox.trigger("private-command-a=b;c@d", "output", r#"{"type":"stdout","data":"x\n"}"#);
    assert_eq!(data_of(&client.text().await, "output"), r#"{"type":"stdout","data":"x\n"}"#);
    assert!(bridge.sandbox.published().iter().all(|event| event.event == "output"), "input is no event");
}

/// A rule for `types`, posted to `url`.
fn posting(url: &str, more: &str) -> String {
    format!(
        r#"{SHIPPED}
[[routes]]
name = "any"
group = "typed-api"
path = "/any"
channel = "private-any"

[[routes.publish]]
types = ["*"]
post = "{url}/any"
body = '{{"at":{{data}}}}'
{more}
"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_is_asked_again_where_the_rule_says_that_it_did_nothing() {
    let mut backend = Backend::start().await;
    let bridge = Bridge::with(&posting(&backend.url(), "retry_on = [503, 409]"), |_| {}).await;
    let mut client = bridge.login("/any").await;
    backend.answer_next([503, 409, 503, 200]);
    client.send(r#"{"type":"a","data":1}"#).await;
    for _ in 0..4 {
        assert_eq!(backend.next().await.body, r#"{"at":1}"#);
    }
    for status in [429, 500, 502] {
        backend.answer_next([status]);
        client.send(r#"{"type":"a","data":2}"#).await;
        assert_eq!(backend.next().await.body, r#"{"at":2}"#);
        assert_eq!(client.error_code().await, "UPSTREAM_UNAVAILABLE", "{status}");
    }
    client.send(r#"{"type":"a","data":3}"#).await;
    assert_eq!(backend.next().await.body, r#"{"at":3}"#, "none of these was sent twice");
}

/// What a backend writes into a success is its own affair, also where it looks like an error of soketi's, and whether
/// it arrives or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_backends_success_is_one_whatever_its_body() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (requests, mut posted) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let answers = [
            "200 OK\r\ncontent-length: 27\r\n\r\n{\"error\":\"no\",\"code\": 503 }",
            "200 OK\r\ncontent-length: 900\r\n\r\n{\"ok\":",
            "202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{",
        ];
        for answer in answers.into_iter().cycle() {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 64 * 1024];
            let mut length = 0;
            while !head[..length].ends_with(b"}") {
                length += stream.read(&mut head[length..]).await.unwrap();
            }
            requests.send(()).unwrap();
            stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
        }
    });
    let bridge = Bridge::with(&posting(&url, "retry_on = [503]"), |_| {}).await;
    let mut client = bridge.login("/any").await;
    for n in 1..=3 {
        client.send(r#"{"type":"a","data":1}"#).await;
        patiently("the request", posted.recv()).await.unwrap();
        bridge.becomes(r#"pusher_bridge_publish_total{result="ok"}"#, f64::from(n)).await;
    }
    assert!(posted.try_recv().is_err(), "none was sent twice");
}

/// Each backend has lanes of its own: one that takes connections and says nothing delays nobody else's messages.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_backend_does_not_stall_other_routes() {
    let dead = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut alive = Backend::start().await;
    let other = r#"
[[routes]]
name = "other"
group = "typed-api"
path = "/other"
channel = "private-any"

[[routes.publish]]
types = ["*"]
post = "ALIVE/other"
body = '{"at":{data}}'
"#;
    let routes = posting(&format!("http://{}", dead.local_addr().unwrap()), "");
    let routes = format!("{routes}{}", other.replace("ALIVE", &alive.url()));
    let bridge = Bridge::with(&routes, |config| config.upstream.publish.lanes = 1).await;
    let (mut stuck, mut other) = (bridge.login("/any").await, bridge.login_as("/other", "2").await);
    let mut neighbour = bridge.login_as("/ws/plugin/p1", "3").await;
    let mut sender = bridge.login_as("/ws/plugin/p1", "4").await;
    for n in 0..5 {
        stuck.send(r#"{"type":"a","data":1}"#).await;
        other.send(&format!(r#"{{"type":"a","data":{n}}}"#)).await;
        assert_eq!(alive.next().await.body, format!(r#"{{"at":{n}}}"#));
        sender.send(&format!(r#"{{"type":"m","data":{n}}}"#)).await;
        assert_eq!(neighbour.json().await["data"], n);
    }
    assert_eq!(bridge.metric("pusher_bridge_publish_queue_messages"), 5.0, "the dead one's");
}

near_and_far!(a_backend_that_is_not_there_is_told);
async fn a_backend_that_is_not_there_is_told() {
    let bridge = Bridge::with_env(SHIPPED, &[("BACKEND_URL", "http://127.0.0.1:1")], |config| {
        config.upstream.publish.deadline = std::time::Duration::from_millis(50);
    })
    .await;
    let mut client = bridge.login("/ws/command/c1").await;
    client.send(r#"{"type":"input","data":1}"#).await;
    assert_eq!(client.error_code().await, "UPSTREAM_UNAVAILABLE");
}

near_and_far!(many_large_events_reach_many_clients_in_order);
async fn many_large_events_reach_many_clients_in_order() {
    const CLIENTS: usize = 200;
    const EVENTS: usize = 40;
    let bridge = Bridge::with(SHIPPED, |config| {
        config.server.workers = 3;
        for route in &mut config.routes {
            let route = std::sync::Arc::get_mut(route).unwrap();
            route.limits.connections_per_address = None;
            route.limits.connections_per_user = None;
        }
    })
    .await;
    let clients =
        bridge.login_all((0..CLIENTS).map(|n| ("/ws/agent/agent_7".to_owned(), n.to_string()))).await;
    assert_eq!(bridge.sandbox.subscriptions(), [("agent-status".to_owned(), 1)], "one shared subscription");
    let text = "é😀\\n".repeat(900);
    let read = |mut client: OldClient| {
        tokio::spawn(async move {
            for n in 0..EVENTS {
                let frame = client.json().await;
                assert_eq!(frame["data"]["n"], n);
                assert_eq!(frame["data"]["text"].as_str().unwrap().chars().count(), 900 * 3);
            }
        })
    };
    let readers: Vec<_> = clients.into_iter().map(read).collect();
    for n in 0..EVENTS {
        let data = format!(r#"{{"agent_id":"agent_7","n":{n},"text":"{text}"}}"#);
        bridge.sandbox.trigger("agent-status", "task_result", &data);
    }
    for reader in readers {
        patiently("a reader", reader).await.unwrap();
    }
    assert_eq!(bridge.metric("pusher_bridge_upstream_gaps_total"), 0.0);
}

near_and_far!(native_clients_get_their_echo_and_the_channels_events);
async fn native_clients_get_their_echo_and_the_channels_events() {
    let bridge = Bridge::start().await;
    let mut client = bridge.connect("/ws/native").await;
    patiently("the subscription", bridge.sandbox.wait_for(|view| view.subscribed("test-channel") == 1)).await;
    let large = "x".repeat(300_000);
    for text in ["", "not JSON", r#"{"type":"auth","token":"x"}"#, large.as_str()] {
        client.send(text).await;
        assert_eq!(client.text().await, text);
    }
    client.socket.send(Message::binary(vec![0, 159, 255])).await.unwrap();
    assert_eq!(client.message().await, Message::binary(vec![0, 159, 255]));
    // The echo shows that it has subscribed; the subscription's answer may still be on its way.
    bridge.sandbox.trigger("test-channel", "e", r#"{"n":1.0}"#);
    assert_eq!(data_of(&client.text().await, "e"), r#"{"n":1.0}"#);
    assert_eq!(bridge.sandbox.published().len(), 1, "nothing is published");
}

near_and_far!(auth_response_tells_the_tokens_claims);
/// The values of `auth_response` are the token's.
async fn auth_response_tells_the_tokens_claims() {
    let bridge = Bridge::start().await;
    let mut client = bridge.connect("/ws/content/gen_1").await;
    client.auth(&token("123")).await;
    let expected: Value = json!({"type": "auth_response", "data": {
        "authenticated": true, "user_id": "123", "role": "teacher",
        "permissions": ["content:generate", "roblox:read", "command:run"],
    }});
    assert_eq!(client.json().await, expected);
}
