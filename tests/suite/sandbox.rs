//! The sandbox from the outside: WebSocket clients, signed HTTP requests, and every fault.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use pusher_bridge::clock::Now;
use pusher_bridge::pusher::frame::{self, ServerFrame};
use pusher_bridge::pusher::sign;
use pusher_bridge::sandbox::{
    CLIENT_EVENTS_PER_SECOND_MAX, HandshakeFault, MESSAGE_BYTES_MAX, Options, Published, Refusal, Sandbox,
    SandboxHandle,
};
use secrecy::SecretString;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(30);

async fn start() -> SandboxHandle {
    Sandbox::start(Options::local()).await.unwrap()
}

async fn patient<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("nothing happened")
}

// ---------------------------------------------------------------------------------------------- WebSocket

struct Client {
    socket: WebSocketStream<TcpStream>,
    socket_id: String,
}

async fn open(addr: SocketAddr, path: &str) -> Result<WebSocketStream<TcpStream>, String> {
    let stream = TcpStream::connect(addr).await.map_err(|error| error.to_string())?;
    let url = format!("ws://{addr}{path}");
    let (socket, _) =
        patient(tokio_tungstenite::client_async(url, stream)).await.map_err(|error| error.to_string())?;
    Ok(socket)
}

const APP: &str = "/app/sandbox-key?protocol=7&client=test&version=1.0";

async fn connect(sandbox: &SandboxHandle) -> Client {
    let socket = open(sandbox.addr(), APP).await.unwrap();
    let mut client = Client { socket, socket_id: String::new() };
    let text = client.next().await;
    let ServerFrame::ConnectionEstablished { socket_id, activity_timeout } =
        ServerFrame::decode(&text).unwrap()
    else {
        panic!("not established: {text}");
    };
    assert_eq!(activity_timeout, Some(sandbox.options().activity_timeout.max(Duration::from_secs(1))));
    client.socket_id = socket_id;
    client
}

impl Client {
    async fn send(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).await.unwrap();
    }

    async fn message(&mut self) -> Option<Message> {
        patient(self.socket.next()).await.and_then(Result::ok)
    }

    async fn next(&mut self) -> String {
        match self.message().await {
            Some(Message::Text(text)) => text.as_str().to_owned(),
            other => panic!("not a text frame: {other:?}"),
        }
    }

    async fn error(&mut self) -> (Option<u16>, String) {
        let text = self.next().await;
        match ServerFrame::decode(&text).unwrap() {
            ServerFrame::Error { code, message } => (code, message),
            other => panic!("not an error: {other:?}"),
        }
    }

    /// The code of the close frame; `None` when the connection just broke.
    async fn close_code(&mut self) -> Option<u16> {
        match self.message().await {
            Some(Message::Close(frame)) => frame.map(|frame| frame.code.into()),
            None => None,
            other => panic!("not a close: {other:?}"),
        }
    }

    async fn subscribe(&mut self, channel: &str) {
        self.ask(channel).await;
        assert_eq!(self.next().await, frame::subscription_succeeded(channel, "{}"));
    }

    /// Subscribes without waiting for the answer.
    async fn ask(&mut self, channel: &str) {
        let auth = channel
            .starts_with("private-")
            .then(|| sign::channel_auth("sandbox-key", &secret(), &self.socket_id, channel, None));
        self.send(frame::subscribe(channel, auth.as_deref(), None)).await;
    }

    /// Nothing else was queued for this connection before now.
    async fn expect_nothing(&mut self) {
        self.send(frame::PING).await;
        assert_eq!(self.next().await, frame::PONG);
    }
}

fn secret() -> SecretString {
    SecretString::from("sandbox-secret")
}

// --------------------------------------------------------------------------------------------------- HTTP

#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
    retry_after: Option<String>,
}

/// `None` when the connection broke before the answer.
async fn request(addr: SocketAddr, method: &str, target: &str, body: &str) -> Option<Answer> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", addr.to_string())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    let answer = patient(sender.send_request(request)).await.ok()?;
    let status = answer.status().as_u16();
    let header = |name| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let retry_after = header("retry-after");
    let body = patient(answer.into_body().collect()).await.unwrap().to_bytes();
    connection.abort();
    Some(Answer { status, body: String::from_utf8(body.to_vec()).unwrap(), retry_after })
}

async fn signed(
    addr: SocketAddr,
    method: &str,
    path: &str,
    params: &[(&str, &str)],
    body: &str,
) -> Option<Answer> {
    let now = Now::read().unix_seconds();
    let query = sign::signed_query(method, path, params, body.as_bytes(), "sandbox-key", &secret(), now);
    request(addr, method, &format!("{path}?{query}"), body).await
}

async fn post(sandbox: &SandboxHandle, call: &str, body: &str) -> Option<Answer> {
    signed(sandbox.addr(), "POST", &format!("/apps/sandbox/{call}"), &[], body).await
}

async fn get(sandbox: &SandboxHandle, call: &str, params: &[(&str, &str)]) -> Answer {
    signed(sandbox.addr(), "GET", &format!("/apps/sandbox/{call}"), params, "").await.unwrap()
}

fn event_body(channel: &str, event: &str, data: &str) -> String {
    let mut body = format!(r#"{{"name":"{event}","channel":"{channel}","data":"#);
    frame::string_into(&mut body, data);
    body + "}"
}

fn published(channel: &str, event: &str, data: &str) -> Published {
    Published { channel: channel.into(), event: event.into(), data: data.into(), socket_id: None }
}

// -------------------------------------------------------------------------------------------------- tests

#[tokio::test]
async fn events_reach_subscribers_as_they_were_published() {
    let sandbox = start().await;
    let (mut one, mut two) = (connect(&sandbox).await, connect(&sandbox).await);
    one.subscribe("news").await;
    two.subscribe("news").await;
    assert_eq!(sandbox.subscriptions(), [("news".to_owned(), 2)]);

    let data = r#"{"n":1.50,"big":12345678901234567890,"s":"\u00e9\/é"}"#;
    let answer = post(&sandbox, "events", &event_body("news", "added", data)).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    for client in [&mut one, &mut two] {
        assert_eq!(client.next().await, frame::event("added", "news", data, None));
    }

    let but_one =
        format!(r#"{{"name":"e","channels":["news","other"],"data":"x","socket_id":"{}"}}"#, one.socket_id);
    assert_eq!(post(&sandbox, "events", &but_one).await.unwrap().status, 200);
    assert_eq!(two.next().await, frame::event("e", "news", "x", None));
    one.expect_nothing().await;
    two.expect_nothing().await;

    two.send(frame::unsubscribe("news")).await;
    two.expect_nothing().await;
    sandbox.trigger("news", "t", "7");
    assert_eq!(one.next().await, frame::event("t", "news", "7", None));
    two.expect_nothing().await;

    let log = sandbox.published();
    assert_eq!(log.len(), 4);
    assert_eq!(log[0], published("news", "added", data));
    assert_eq!(log[2].socket_id.as_deref(), Some(one.socket_id.as_str()));
    assert_eq!(log[3], published("news", "t", "7"));
    drop(one);
    patient(sandbox.wait_for(|view| view.connections() == 1 && view.subscribed("news") == 0)).await;
}

#[tokio::test]
async fn wrong_urls_get_an_error_and_the_same_code() {
    let sandbox = start().await;
    for (path, code) in [
        ("/app/other-key?protocol=7", 4001),
        ("/elsewhere?protocol=7", 4005),
        ("/app/sandbox-key?protocol=x", 4006),
        ("/app/sandbox-key?protocol=4", 4007),
        ("/app/sandbox-key", 4008),
    ] {
        let socket = open(sandbox.addr(), path).await.unwrap();
        let mut client = Client { socket, socket_id: String::new() };
        assert_eq!(client.error().await.0, Some(code), "{path}");
        assert_eq!(client.close_code().await, Some(code), "{path}");
    }
    assert_eq!(sandbox.view(|view| (view.attempts(), view.connections_total())), (5, 0));
    let answer = request(sandbox.addr(), "GET", APP, "").await.unwrap();
    assert_eq!((answer.status, answer.body.contains("WebSocket")), (400, true));
}

#[tokio::test]
async fn subscriptions_are_authorized() {
    let sandbox = start().await;
    let mut client = connect(&sandbox).await;
    client.subscribe("private-a").await;
    client.subscribe("private-encrypted-a").await;

    client.send(frame::subscribe("private-b", Some("sandbox-key:0011"), None)).await;
    let expected = format!(
        "Invalid signature: Expected HMAC SHA256 hex digest of {}:private-b, but got 0011",
        client.socket_id
    );
    assert_eq!(client.error().await, (Some(4009), expected));
    client.send(frame::subscribe("private-b", None, None)).await;
    assert_eq!(client.error().await, (None, "Auth info required to subscribe to private-b".to_owned()));
    client.send(frame::subscribe("presence-b", Some("sandbox-key:0011"), Some("{}"))).await;
    let expected = format!(
        "Invalid signature: Expected HMAC SHA256 hex digest of {}:presence-b:{{}}, but got 0011",
        client.socket_id
    );
    assert_eq!(client.error().await, (Some(4009), expected));
    client.send(frame::subscribe("private-a", None, None)).await;
    assert_eq!(client.error().await.0, None);
    client.ask("private-a").await;
    assert_eq!(client.error().await, (None, "Existing subscription to channel private-a".to_owned()));
    client.send(frame::unsubscribe("c")).await;
    assert_eq!(client.error().await.1, "No current subscription to channel c, or subscription in progress");
    client.send(frame::subscribe("a b", None, None)).await;
    assert!(client.error().await.1.starts_with("Invalid channel name a b"));
    client.send("[").await;
    assert!(client.error().await.1.contains("not a JSON object"));
    client.send(r#"{"event":"stranger","data":{}}"#).await;
    assert!(client.error().await.1.contains("must start with client-"));

    let occupied: Vec<_> = sandbox.subscriptions().into_iter().map(|(channel, _)| channel).collect();
    assert_eq!(occupied, ["private-a", "private-encrypted-a"]);
    assert!(sandbox.ever_subscribed().contains(&"presence-b".to_owned()));
}

#[tokio::test]
async fn faults_of_members_users_and_single_channels_are_caused_when_asked_for() {
    let sandbox = Sandbox::start(Options { members_max: 1, ..Options::local() }).await.unwrap();
    let (mut one, mut two) = (connect(&sandbox).await, connect(&sandbox).await);
    let join = |client: &Client, user: &str| {
        let data = format!(r#"{{"user_id":"{user}"}}"#);
        let auth = sign::channel_auth("sandbox-key", &secret(), &client.socket_id, "presence-a", Some(&data));
        frame::subscribe("presence-a", Some(&auth), Some(&data))
    };
    one.send(join(&one, "u")).await;
    let members = r#"{"presence":{"count":1,"ids":["u"],"hash":{"u":null}}}"#;
    assert_eq!(one.next().await, frame::subscription_succeeded("presence-a", members));
    two.send(join(&two, "v")).await;
    assert!(two.error().await.1.contains("limit of 1 members"));
    assert_eq!(sandbox.view(|view| view.members("presence-a")), ["u"]);

    let refusal = Refusal { code: Some(4009), message: "not this one".to_owned() };
    sandbox.refuse_subscriptions("news", Some(refusal));
    two.ask("news").await;
    assert_eq!(two.error().await, (Some(4009), "not this one".to_owned()));
    two.subscribe("other").await;
    sandbox.refuse_subscriptions("news", None);
    two.subscribe("news").await;

    one.subscribe("private-a").await;
    sandbox.limit_client_events(1);
    one.send(frame::client_event("client-x", "private-a", "{}")).await;
    assert_eq!(one.error().await.0, Some(4301));
    one.send(frame::client_event("client-x", "private-a", "{}")).await;
    one.expect_nothing().await;

    sandbox.trigger("cache-a", "e", "{}");
    sandbox.forget_cached("cache-a");
    two.subscribe("cache-a").await;
    assert!(two.next().await.contains("pusher:cache_miss"));

    let user = r#"{"id":"u"}"#;
    let auth = sign::user_auth("sandbox-key", &secret(), &one.socket_id, user);
    one.send(frame::signin(&auth, user)).await;
    assert!(one.next().await.contains("pusher:signin_success"));
    assert_eq!(sandbox.view(|view| view.signed_in("u")), 1);
    sandbox.terminate_connections("u");
    assert_eq!(one.error().await.0, Some(4009));
    assert_eq!(one.close_code().await, Some(4009));
    two.expect_nothing().await;
}

#[tokio::test]
async fn silent_clients_are_pinged_and_closed() {
    let short = Duration::from_millis(50);
    let options = Options { activity_timeout: short, pong_timeout: short, ..Options::local() };
    let sandbox = Sandbox::start(options).await.unwrap();
    let mut client = connect(&sandbox).await;
    assert_eq!(client.next().await, frame::PING);
    assert_eq!(client.error().await.0, Some(4201));
    assert_eq!(client.close_code().await, Some(4201));

    let options = Options { activity_timeout: short, ..Options::local() };
    let sandbox = Sandbox::start(options).await.unwrap();
    let mut client = connect(&sandbox).await;
    for _ in 0..3 {
        assert_eq!(client.next().await, frame::PING);
        client.send(frame::PONG).await;
    }
}

#[tokio::test]
async fn client_events_reach_the_others_unchanged() {
    let sandbox = start().await;
    let (mut one, mut two) = (connect(&sandbox).await, connect(&sandbox).await);
    one.subscribe("private-a").await;
    two.subscribe("private-a").await;
    two.subscribe("b").await;

    let data = r#"{"n":1.50, "s":"\u00e9"}"#;
    let text = frame::client_event("client-x", "private-a", data);
    one.send(text.clone()).await;
    assert_eq!(two.next().await, text);
    one.expect_nothing().await;
    let log = sandbox.client_events();
    assert_eq!((log.len(), log[0].data.as_deref()), (1, Some(data)));
    assert_eq!(log[0].socket_id, one.socket_id);

    two.send(frame::client_event("client-x", "b", "{}")).await;
    assert!(two.error().await.1.contains("only supported on private"));
    two.send(frame::client_event("client-x", "private-z", "{}")).await;
    assert!(two.error().await.1.contains("not subscribed to channel private-z"));

    for _ in 0..=10 * CLIENT_EVENTS_PER_SECOND_MAX {
        one.send(text.clone()).await;
    }
    assert_eq!(one.error().await.0, Some(4301));
}

#[tokio::test]
async fn oversized_messages_end_the_connection() {
    let sandbox = start().await;
    let mut client = connect(&sandbox).await;
    client.send("x".repeat(MESSAGE_BYTES_MAX + 1)).await;
    assert_eq!(client.error().await.0, Some(1009));
    assert_eq!(client.close_code().await, Some(1009));
}

#[tokio::test]
async fn http_requests_are_checked() {
    let sandbox = start().await;
    let addr = sandbox.addr();
    let good = event_body("a", "e", "d");
    let unsigned = request(addr, "POST", "/apps/sandbox/events", &good).await.unwrap();
    assert_eq!((unsigned.status, unsigned.body.as_str()), (401, "The query has no auth_key\n"));
    let at = |age| {
        let now = Now::read().unix_seconds() - age;
        sign::signed_query(
            "POST",
            "/apps/sandbox/events",
            &[],
            good.as_bytes(),
            "sandbox-key",
            &secret(),
            now,
        )
    };
    let send = async |query: String, body: &str| {
        request(addr, "POST", &format!("/apps/sandbox/events?{query}"), body).await.unwrap().status
    };
    assert_eq!(send(at(0), &good).await, 200);
    assert_eq!(send(at(700), &good).await, 401);
    assert_eq!(send(at(-700), &good).await, 401);
    assert_eq!(send(at(0), &event_body("a", "e", "D")).await, 401);
    assert_eq!(send(at(0) + "0", &good).await, 401);

    for (call, body, status) in [
        ("events", event_body("a", "e", &"x".repeat(10_240)), 200),
        ("events", event_body("a", "e", &"x".repeat(10_241)), 413),
        ("events", event_body("a", "e", &"x".repeat(2 * 1024 * 1024)), 413),
        ("events", "{".to_owned(), 400),
        ("events", event_body("a b", "e", "d"), 400),
        ("batch_events", format!(r#"{{"batch":[{good}]}}"#), 200),
        ("batch_events", format!(r#"{{"batch":[{}]}}"#, vec![good.clone(); 11].join(",")), 400),
        ("channels", good.clone(), 405),
        ("elsewhere", good.clone(), 404),
    ] {
        // The server may answer an oversized body before it has read it all, and close.
        let answer = post(&sandbox, call, &body).await;
        let shown = body.chars().take(60).collect::<String>();
        match answer {
            Some(answer) => assert_eq!(answer.status, status, "{call} {shown}"),
            None => assert!(body.len() > 1024 * 1024, "{call} {shown}"),
        }
    }
    let other = signed(addr, "POST", "/apps/other/events", &[], &good).await.unwrap();
    assert_eq!(other.status, 404);
    assert_eq!(sandbox.requests().sizes, [1, 1, 1]);
}

#[tokio::test]
async fn batches_keep_their_order_and_answer_by_index() {
    let sandbox = start().await;
    let mut client = connect(&sandbox).await;
    client.subscribe("a").await;
    let events: Vec<_> = (0..10).map(|n| event_body("a", "e", &n.to_string())).collect();
    let answer = post(&sandbox, "batch_events", &format!(r#"{{"batch":[{}]}}"#, events.join(","))).await;
    assert_eq!(answer.unwrap().body, "{}");
    for n in 0..10 {
        assert_eq!(client.next().await, frame::event("e", "a", &n.to_string(), None));
    }
    assert_eq!(sandbox.requests().sizes, [10]);

    let asking =
        |channel| format!(r#"{{"name":"e","channel":"{channel}","data":"","info":"subscription_count"}}"#);
    let batch = format!(r#"{{"batch":[{},{},{}]}}"#, asking("a"), event_body("a", "e", ""), asking("b"));
    assert_eq!(
        post(&sandbox, "batch_events", &batch).await.unwrap().body,
        r#"{"batch":[{"subscription_count":1},{},{"subscription_count":0}]}"#
    );
    assert_eq!(
        post(&sandbox, "events", &asking("a")).await.unwrap().body,
        r#"{"channels":{"a":{"subscription_count":1}}}"#
    );
}

#[tokio::test]
async fn channels_can_be_queried() {
    let sandbox = start().await;
    let mut client = connect(&sandbox).await;
    for channel in ["news-1", "news=2", "private-a"] {
        client.subscribe(channel).await;
    }
    let body = async |call: &str, params: &[(&str, &str)]| get(&sandbox, call, params).await.body;
    assert_eq!(body("channels", &[]).await, r#"{"channels":{"news-1":{},"news=2":{},"private-a":{}}}"#);
    let prefix = ("filter_by_prefix", "news=");
    assert_eq!(body("channels", &[prefix]).await, r#"{"channels":{"news=2":{}}}"#);
    assert_eq!(body("channels/news%3D2", &[]).await, r#"{"occupied":true}"#);
    let count = ("info", "subscription_count");
    assert_eq!(body("channels/news-1", &[count]).await, r#"{"occupied":true,"subscription_count":1}"#);
    assert_eq!(body("channels/empty", &[]).await, r#"{"occupied":false}"#);
    let user_count = ("info", "user_count");
    assert_eq!(get(&sandbox, "channels", &[user_count]).await.status, 400);
    let presence = ("filter_by_prefix", "presence-");
    assert_eq!(body("channels", &[presence, user_count]).await, r#"{"channels":{}}"#);
    assert_eq!(get(&sandbox, "channels/news-1", &[user_count]).await.status, 400);
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_dropped_alone() {
    let sandbox = start().await;
    let (mut slow, mut fast) = (connect(&sandbox).await, connect(&sandbox).await);
    slow.subscribe("a").await;
    fast.subscribe("b").await;
    let data = "x".repeat(10_000);
    let mut rounds = 0;
    while sandbox.view(|view| view.slow_readers_dropped()) == 0 {
        sandbox.trigger("a", "e", &data);
        rounds += 1;
        assert!(rounds < 100_000, "the queue has no limit");
        tokio::task::yield_now().await;
    }
    assert_eq!(sandbox.subscriptions(), [("b".to_owned(), 1)]);
    sandbox.trigger("b", "e", "still here");
    assert_eq!(fast.next().await, frame::event("e", "b", "still here", None));
    while let Some(message) = slow.message().await {
        assert!(message.is_text(), "{message:?}");
    }
}

#[tokio::test]
async fn connections_are_cut_closed_and_refused_as_asked() {
    let sandbox = start().await;
    let mut client = connect(&sandbox).await;
    client.subscribe("a").await;
    sandbox.cut_connections();
    assert_eq!(client.close_code().await, None);
    assert_eq!((sandbox.connections(), sandbox.subscriptions()), (0, vec![]));

    let mut client = connect(&sandbox).await;
    client.subscribe("a").await;
    sandbox.trigger("a", "e", "last");
    sandbox.close_connections(4200);
    assert_eq!(client.next().await, frame::event("e", "a", "last", None));
    assert_eq!(client.close_code().await, Some(4200));
    assert!(client.message().await.is_none());
    patient(sandbox.wait_for(|view| view.connections() == 0)).await;

    sandbox.refuse_connections(HandshakeFault::Status(503));
    assert!(open(sandbox.addr(), APP).await.unwrap_err().contains("503"));
    sandbox.refuse_connections(HandshakeFault::Drop);
    assert!(open(sandbox.addr(), APP).await.is_err());
    assert_eq!(post(&sandbox, "events", &event_body("a", "e", "d")).await.unwrap().status, 200);
    sandbox.refuse_connections(HandshakeFault::None);
    connect(&sandbox).await.expect_nothing().await;
    assert_eq!(sandbox.view(|view| (view.attempts(), view.connections_total(), view.pings())), (5, 3, 1));
}

#[tokio::test]
async fn publishes_fail_and_break_as_asked() {
    let sandbox = start().await;
    let body = event_body("a", "e", "d");
    sandbox.fail_publishes(2, 503, None);
    sandbox.fail_publishes(1, 429, Some(7));
    let mut answers = Vec::new();
    for _ in 0..4 {
        let answer = post(&sandbox, "events", &body).await.unwrap();
        answers.push((answer.status, answer.retry_after));
    }
    assert_eq!(answers, [(503, None), (503, None), (429, Some("7".to_owned())), (200, None)]);
    assert_eq!(sandbox.published().len(), 1);

    sandbox.drop_publishes(1);
    assert!(post(&sandbox, "events", &body).await.is_none());
    assert_eq!(sandbox.published().len(), 2, "carried out all the same");
    assert_eq!(post(&sandbox, "events", &body).await.unwrap().status, 200);
    assert_eq!((sandbox.requests().count, sandbox.published().len()), (6, 3));
}

#[tokio::test]
async fn held_publishes_go_in_the_order_they_came() {
    let sandbox = start().await;
    let hold = sandbox.hold_publishes();
    let mut answers = Vec::new();
    for n in 0..3 {
        let (addr, body) = (sandbox.addr(), event_body("a", "e", &n.to_string()));
        answers.push(tokio::spawn(async move {
            signed(addr, "POST", "/apps/sandbox/events", &[], &body).await.unwrap().status
        }));
        patient(sandbox.wait_for(|view| view.held_publishes() == n + 1)).await;
    }
    assert!(sandbox.published().is_empty());
    assert!(hold.release_one());
    assert_eq!(patient(answers.remove(0)).await.unwrap(), 200);
    assert_eq!(sandbox.published(), [published("a", "e", "0")]);
    drop(hold);
    let data: Vec<_> = sandbox.published().into_iter().map(|event| event.data).collect();
    assert_eq!(data, ["0", "1", "2"]);
    for answer in answers {
        assert_eq!(patient(answer).await.unwrap(), 200);
    }
    assert_eq!(post(&sandbox, "events", &event_body("a", "e", "3")).await.unwrap().status, 200);
}

#[tokio::test]
async fn held_subscriptions_succeed_when_released() {
    let sandbox = start().await;
    let mut client = connect(&sandbox).await;
    sandbox.hold_subscriptions("a");
    client.ask("a").await;
    client.subscribe("b").await;
    patient(sandbox.wait_for(|view| view.pending("a") == 1)).await;
    sandbox.trigger("a", "e", "too early");
    client.expect_nothing().await;
    client.send(frame::unsubscribe("a")).await;
    assert_eq!(client.error().await.1, "No current subscription to channel a, or subscription in progress");
    sandbox.release_subscriptions("a");
    assert_eq!(client.next().await, frame::subscription_succeeded("a", "{}"));
    sandbox.trigger("a", "e", "in time");
    assert_eq!(client.next().await, frame::event("e", "a", "in time", None));
}

#[tokio::test]
async fn silence_stops_everything_until_it_ends() {
    let sandbox = start().await;
    let mut client = connect(&sandbox).await;
    client.subscribe("a").await;
    sandbox.silence(true);
    client.send(frame::PING).await;
    client.socket.send(Message::Ping(Bytes::from_static(b"x"))).await.unwrap();
    sandbox.trigger("a", "e", "d");
    // A server that is not silent answers this in microseconds; silence can only be seen by waiting.
    let heard = tokio::time::timeout(Duration::from_millis(100), client.socket.next()).await;
    assert!(heard.is_err(), "{heard:?}");
    sandbox.silence(false);
    let mut heard = Vec::new();
    while heard.len() < 3 {
        heard.push(client.message().await.unwrap());
    }
    assert!(heard.contains(&Message::text(frame::PONG)));
    assert!(heard.contains(&Message::Pong(Bytes::from_static(b"x"))));
    assert!(heard.contains(&Message::text(frame::event("e", "a", "d", None))));
}

#[tokio::test]
async fn any_frame_can_be_injected() {
    let sandbox = start().await;
    let (mut one, mut two) = (connect(&sandbox).await, connect(&sandbox).await);
    one.subscribe("a").await;
    sandbox.raw_frame("a", "{not json");
    assert_eq!(one.next().await, "{not json");
    let object = frame::event_raw("e", Some("a"), Some(r#"{"n":1.0}"#), None);
    sandbox.raw_frame("a", &object);
    assert_eq!(one.next().await, object);
    two.expect_nothing().await;
    sandbox.raw_frame_to_all("both");
    assert_eq!((one.next().await, two.next().await), ("both".to_owned(), "both".to_owned()));
}

#[tokio::test]
async fn a_sandbox_ends_with_its_connections_and_can_begin_again() {
    let sandbox = start().await;
    let addr = sandbox.addr();
    let mut client = connect(&sandbox).await;
    sandbox.shutdown().await;
    assert_eq!(client.close_code().await, None);
    assert!(TcpStream::connect(addr).await.is_err());
    let sandbox = Sandbox::start(Options { listen: addr, ..Options::local() }).await.unwrap();
    connect(&sandbox).await.subscribe("a").await;
    assert!(Sandbox::start(Options { listen: addr, ..Options::local() }).await.is_err());
}
