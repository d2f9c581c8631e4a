//! A generation of routes is replaced while clients talk: who has an unchanged route notices nothing, and others get what
//! the next one has for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use pusher_bridge::config::Config;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

use crate::admin::get;
use crate::support::backend::Backend;
use crate::support::bridge::{SHIPPED, config, config_text, token};
use crate::support::{Bridge, OldClient, patiently};

/// Messages of each client; each text comes twice in a row.
const MESSAGES: usize = 90;
/// Channels whose subscription is confirmed.
const CONFIRMED: &str = r#"pusher_bridge_subscriptions{state="live"}"#;

fn route(name: &str, more: &str) -> String {
    format!(
        r#"
[[routes]]
name = "{name}"
path = "/{name}/{{room}}"
channel = "private-{name}-{{room}}"
on_gap = "notify"
limits.messages = "unlimited"
{more}
[[routes.publish]]
types = ["*"]
"#
    )
}

fn typed(name: &str) -> String {
    route(name, "dialect = \"typed\"")
}

/// The shipped routes behind these.
fn with_first(routes: &[String]) -> String {
    let (head, shipped) = SHIPPED.split_once("\n[[routes]]\n").unwrap();
    format!("{head}\n{}\n[[routes]]\n{shipped}", routes.concat())
}

fn next(bridge: &Bridge, routes: &str, env: &[(&str, &str)]) -> Config {
    let mut environment = bridge.app().environment();
    environment.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Config { server: bridge.running.config().server.clone(), ..config(routes, &environment) }
}

/// Sends its messages, the last third of them when `go_on` says so, and counts up `got` with each that it gets; gives
/// what it got of each sender, in order.
async fn talk(
    client: OldClient,
    name: &'static str,
    mut go_on: watch::Receiver<bool>,
    got: watch::Sender<usize>,
) -> (OldClient, BTreeMap<String, Vec<usize>>) {
    let (mut sink, mut stream) = client.socket.split();
    let send = async {
        for n in 0..MESSAGES {
            if n == MESSAGES / 3 * 2 {
                go_on.wait_for(|go_on| *go_on).await.unwrap();
            }
            let text = json!({ "type": "say", "data": { "from": name, "n": n / 2 } });
            sink.send(Message::text(text.to_string())).await.unwrap();
        }
    };
    let receive = async {
        let mut all: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for _ in 0..2 * MESSAGES {
            let frame = loop {
                match patiently("a message", stream.next()).await.expect("no close").unwrap() {
                    Message::Text(text) => break serde_json::from_str::<serde_json::Value>(&text).unwrap(),
                    Message::Ping(_) => {}
                    other => panic!("{name} got {other:?}"),
                }
            };
            assert_eq!(frame["type"], "client-say", "{name} got {frame}");
            let from = frame["data"]["from"].as_str().unwrap().to_owned();
            all.entry(from).or_default().push(frame["data"]["n"].as_u64().unwrap() as usize);
            got.send_modify(|got| *got += 1);
        }
        all
    };
    let ((), all) = tokio::join!(send, receive);
    (OldClient { socket: sink.reunite(stream).unwrap(), response: client.response }, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_routes_connections_notice_nothing_and_new_clients_meet_the_new_routes() {
    let first = with_first(&[typed("a"), typed("c")]);
    let change = |config: &mut Config| {
        config.server.workers = 2;
        config.server.close_window = Duration::from_millis(5);
    };
    let bridge = Bridge::with(&first, change).await;
    let mut leaver = bridge.connect("/c/1").await;
    let (go_on, may_go_on) = watch::channel(false);
    let (got, mut counted) = watch::channel(0);
    let mut talks = Vec::new();
    for name in ["x", "y", "z"] {
        let client = bridge.connect("/a/1").await;
        talks.push((name, client));
    }
    bridge.becomes(r#"pusher_bridge_connections{route="a",phase="live"}"#, 3.0).await;
    bridge.becomes(CONFIRMED, 2.0).await;
    let talks: Vec<_> = talks
        .into_iter()
        .map(|(name, client)| tokio::spawn(talk(client, name, may_go_on.clone(), got.clone())))
        .collect();

    // While messages are under way: b comes first, c goes, all others have another place than before.
    patiently("the talk", counted.wait_for(|got| *got >= MESSAGES)).await.unwrap();
    let second = next(&bridge, &with_first(&[typed("b"), typed("a")]), &[]);
    bridge.reload(second).await;
    patiently("more talk", counted.wait_for(|got| *got >= 2 * MESSAGES)).await.unwrap();
    bridge.reload(next(&bridge, &with_first(&[typed("a"), typed("b")]), &[])).await;
    go_on.send_replace(true);

    let expected: Vec<usize> = (0..MESSAGES).map(|n| n / 2).collect();
    let mut clients = Vec::new();
    for talk in talks {
        let (client, got) = talk.await.unwrap();
        assert!(got.len() == 2 && got.values().all(|of_one| *of_one == expected), "{got:?}");
        clients.push(client);
    }
    for (series, value) in [
        (r#"connections_total{route="a"}"#, 3),
        (r#"connections{route="a",phase="live"}"#, 3),
        (r#"frames_total{route="a",direction="in"}"#, 3 * MESSAGES),
        (r#"frames_total{route="a",direction="out"}"#, 6 * MESSAGES),
        (r#"connections_total{route="b"}"#, 0),
        (r#"closes_total{route="c",reason="route_changed"}"#, 1),
        ("upstream_gaps_total", 0),
    ] {
        bridge.becomes(&format!("pusher_bridge_{series}"), value as f64).await;
    }
    let subscribed = bridge.sandbox.ever_subscribed();
    assert_eq!(subscribed.iter().filter(|channel| *channel == "private-a-1").count(), 1, "and never again");

    // Who comes to a now is one of those who were there.
    let mut newcomer = bridge.connect("/a/1").await;
    bridge.becomes(r#"pusher_bridge_connections{route="a",phase="live"}"#, 4.0).await;
    clients[0].send(r#"{"type":"say","data":"all"}"#).await;
    for client in clients[1..].iter_mut().chain([&mut newcomer]) {
        assert_eq!(client.json().await["data"], "all");
    }
    newcomer.send(r#"{"type":"say","data":"hello"}"#).await;
    for client in &mut clients {
        assert_eq!(client.json().await["data"], "hello");
    }
    assert_eq!(leaver.closed().await.unwrap().0, 1001, "c is gone");
    // b is a route of its own.
    let mut of_b = [bridge.connect("/b/1").await, bridge.connect("/b/1").await];
    bridge.becomes(r#"pusher_bridge_connections{route="b",phase="live"}"#, 2.0).await;
    bridge.becomes(CONFIRMED, 2.0).await;
    of_b[0].send(r#"{"type":"say","data":"b"}"#).await;
    assert_eq!(of_b[1].json().await["data"], "b");
    bridge.becomes(r#"pusher_bridge_frames_total{route="b",direction="out"}"#, 1.0).await;
    assert_eq!(bridge.metric(r#"pusher_bridge_connections_total{route="a"}"#), 4.0);
    let refused = OldClient::try_connect(bridge.address(), "/c/1").await.err().unwrap();
    assert!(refused.to_string().contains("404"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_rendered_for_each_client_by_the_edition_of_its_route() {
    let edition = |dialect: &str| SHIPPED.to_owned() + &route("d", &format!("dialect = \"{dialect}\""));
    // Whoever has to go has a turn that does not come here.
    let change = |config: &mut Config| {
        config.server.workers = 2;
        config.server.close_window = Duration::from_secs(3600);
    };
    let bridge = Bridge::with(&edition("typed"), change).await;
    let mut typed = [bridge.connect("/d/1").await, bridge.connect("/d/1").await];
    bridge.becomes(r#"pusher_bridge_connections{route="d",phase="live"}"#, 2.0).await;
    bridge.becomes(CONFIRMED, 1.0).await;
    bridge.reload(next(&bridge, &edition("channel"), &[])).await;
    let mut by_channel = [bridge.connect("/d/1").await, bridge.connect("/d/1").await];
    bridge.becomes(r#"pusher_bridge_connections{route="d",phase="live"}"#, 4.0).await;
    for n in 0..20 {
        bridge.sandbox.trigger("private-d-1", "news", &n.to_string());
        for client in &mut typed {
            let frame = client.json().await;
            assert_eq!((&frame["type"], &frame["data"]), (&json!("news"), &json!(n)));
        }
        for client in &mut by_channel {
            let frame = client.json().await;
            assert_eq!((&frame["type"], &frame["channel"]), (&json!("event"), &json!("private-d-1")));
            assert_eq!(frame["data"], n);
        }
    }
    bridge.becomes(r#"pusher_bridge_frames_total{route="d",direction="out"}"#, 80.0).await;
    bridge.becomes(r#"pusher_bridge_upstream_events_total{result="delivered"}"#, 20.0).await;
    // As it was before: the clients of the first generation stay.
    bridge.reload(next(&bridge, &edition("typed"), &[])).await;
    let mut last = bridge.connect("/d/1").await;
    bridge.becomes(r#"pusher_bridge_connections{route="d",phase="live"}"#, 5.0).await;
    by_channel[0].send(r#"{"type":"say","data":1}"#).await;
    for client in typed.iter_mut().chain([&mut last]) {
        assert_eq!(client.json().await["type"], "client-say");
    }
    assert_eq!(by_channel[1].json().await["type"], "event");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_to_the_backend_that_is_in_force_also_of_who_was_there_before() {
    let (mut one, mut two) = (Backend::start().await, Backend::start().await);
    let posting = |backend: &Backend| {
        let rule =
            "dialect = \"typed\"\n[[routes.publish]]\ntypes = [\"in\"]\npost = \"URL/x\"\nbody = '{data}'";
        SHIPPED.to_owned() + &route("p", &rule.replace("URL", &backend.url()))
    };
    let bridge = Bridge::with(&posting(&one), |_| {}).await;
    let mut before = bridge.connect("/p/1").await;
    before.send(r#"{"type":"in","data":0}"#).await;
    assert_eq!(one.next().await.body, "0");
    for n in 1..6 {
        let backend = if n % 2 == 1 { &mut two } else { &mut one };
        bridge.reload(next(&bridge, &posting(backend), &[])).await;
        let mut after = bridge.connect("/p/1").await;
        before.send(&format!(r#"{{"type":"in","data":{n}}}"#)).await;
        assert_eq!(backend.next().await.body, n.to_string());
        after.send(&format!(r#"{{"type":"in","data":-{n}}}"#)).await;
        assert_eq!(backend.next().await.body, format!("-{n}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_judged_by_the_newest_keys_on_old_connections_too() {
    let bridge = Bridge::start().await;
    let mut client = bridge.login("/ws/plugin/p1").await;
    let old = token("123");
    let rotated = "another secret, as long as it has to be";
    bridge.reload(next(&bridge, SHIPPED, &[("JWT_SECRET", rotated)])).await;
    let claims = json!({
        "sub": "123",
        "plugin_ids": ["p1"],
        "exp": pusher_bridge::clock::Now::read().unix_seconds() + 3600,
    });
    let new = pusher_bridge::auth::mint_hs256(rotated.as_bytes(), &claims.to_string());
    let mut newcomer = bridge.connect("/ws/plugin/p1").await;
    newcomer.auth(&old).await;
    assert_eq!(newcomer.json().await["type"], "auth_error");
    newcomer.auth(&new).await;
    assert_eq!(newcomer.json().await["type"], "auth_response");
    client.auth(&new).await;
    assert_eq!(client.json().await["type"], "auth_response");
    client.send(r#"{"type":"run","data":1}"#).await;
    assert_eq!(newcomer.json().await["type"], "client-run");
}

/// A JWKS endpoint, and how often it was asked.
pub async fn jwks() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            count.fetch_add(1, Ordering::SeqCst);
            let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 11\r\n\r\n{\"keys\":[]}";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_fetched_stay_at_hand_when_something_else_of_auth_changes() {
    let (url, asked) = jwks().await;
    let routes = config_text(
        SHIPPED,
        "algorithms = [\"HS256\"]             # what a token may use is said here, never by the token\nsecret = \"${JWT_SECRET}\"           # or secret_file, pem, pem_file, jwks_file, jwks_url",
        &format!("algorithms = [\"RS256\"]\njwks_url = \"{url}\""),
    );
    let two = format!("{routes}\n[[auth.keys]]\nalgorithms = [\"RS256\"]\njwks_url = \"{url}/2\"\n");
    let bridge = Bridge::with(&two, |_| {}).await;
    let max_age = |key: usize| format!("pusher_bridge_jwks_max_age_seconds{{key=\"{key}\"}}");
    assert_eq!([0, 1].map(|key| bridge.metric(&max_age(key))), [86_400.0; 2]);
    let admin = bridge.running.admin_address;
    patiently("both", async {
        while !get(admin, "/readyz").await.body.ends_with("keys at hand: 2 of 2\n") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut lenient = next(&bridge, &routes, &[]);
    lenient.auth.as_mut().unwrap().leeway = Duration::from_secs(1);
    bridge.reload(lenient).await;
    let ready = get(admin, "/readyz").await;
    assert_eq!(ready.body, "ready\nlinks connected: 1 of 1\nkeys at hand: 1 of 1\n");
    assert_eq!([0, 1].map(|key| bridge.metric(&max_age(key))), [86_400.0, 0.0]);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_path_comes_and_makes_room_for_a_route() {
    let bridge = Bridge::with(&(SHIPPED.to_owned() + &typed("a")), |_| {}).await;
    let mut client = bridge.connect("/a/1").await;
    assert_eq!(get(bridge.address(), "/healthz").await.status, 404);
    let mut healthy = next(&bridge, &(SHIPPED.to_owned() + &typed("a")), &[]);
    healthy.server.health_path = Some("/healthz".to_owned());
    bridge.reload(healthy).await;
    assert_eq!(get(bridge.address(), "/healthz").await.status, 200);
    let route = typed("b").replace("/b/{room}", "/healthz").replace("-{room}", "");
    let mut shadowed = next(&bridge, &(SHIPPED.to_owned() + &typed("a") + &route), &[]);
    shadowed.server.health_path = None;
    bridge.reload(shadowed).await;
    let mut of_b = bridge.connect("/healthz").await;
    bridge.becomes(CONFIRMED, 2.0).await;
    for (channel, client) in [("private-b", &mut of_b), ("private-a-1", &mut client)] {
        bridge.sandbox.trigger(channel, "news", "1");
        assert_eq!(client.json().await["type"], "news");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_something_needs_a_restart_nothing_is_changed() {
    let bridge = Bridge::with(&(SHIPPED.to_owned() + &typed("a")), |_| {}).await;
    let rotated = [("JWT_SECRET", "another secret, as long as it has to be"), ("PUSHER_APP_ID", "other")];
    let error = bridge.running.replace(next(&bridge, &(SHIPPED.to_owned() + &typed("b")), &rotated)).await;
    assert_eq!(error.unwrap_err().to_string(), "cannot be changed at run time: upstream.app_id");
    assert!(!bridge.running.metrics.render().contains("route=\"b\""));
    let _client = bridge.connect("/a/1").await;
    bridge.login("/ws/plugin/p1").await;
}
