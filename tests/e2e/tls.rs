//! TLS on the listener.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use pusher_bridge::app::Shutdown;
use pusher_bridge::config::Config;
use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::reload::{Served, folder, route};
use crate::support::bridge::SHIPPED;
use crate::support::raw::{Raw, upgrade};
use crate::support::tls::{Authority, Pair, connect, serve, try_connect};
use crate::support::{Bridge, patiently};

type Client = WebSocketStream<TlsStream<TcpStream>>;

const FAILURES: &str = "pusher_bridge_tls_handshake_failures_total";

struct Stage {
    authority: Authority,
    bridge: Bridge,
}

impl Stage {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::with(None, change).await
    }

    async fn with(client_ca: Option<&Authority>, change: impl FnOnce(&mut Config)) -> Self {
        let authority = Authority::new();
        let routes = SHIPPED.to_owned() + &route("a", "");
        let bridge = Bridge::with(&routes, |config| {
            config.server.workers = 2;
            serve(config, &authority.sign("a.example"), client_ca);
            change(config);
        });
        let bridge = bridge.await;
        Self { authority, bridge }
    }

    async fn connect(&self, client: &Arc<ClientConfig>, path: &str) -> Client {
        connect(self.bridge.address(), client, path).await
    }

    /// A client of the route, in service.
    async fn subscribed(&self, room: u32, count: f64) -> Client {
        let client = self.connect(&self.authority.plain_client(), &format!("/a/{room}")).await;
        self.bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, count).await;
        client
    }

    async fn failed(&self, reason: &str, count: f64) {
        self.bridge.becomes(&format!("{FAILURES}{{reason=\"{reason}\"}}"), count).await;
    }
}

async fn text(client: &mut Client) -> String {
    loop {
        match patiently("a frame", client.next()).await.unwrap().unwrap() {
            Message::Text(text) if !text.contains("\"ping\"") => return text.to_string(),
            Message::Close(close) => panic!("{close:?}"),
            _ => {}
        }
    }
}

async fn json(client: &mut Client) -> Value {
    serde_json::from_str(&text(client).await).unwrap()
}

async fn close_code(client: &mut Client) -> Option<u16> {
    patiently("a close", async {
        while let Some(Ok(message)) = client.next().await {
            if let Message::Close(close) = message {
                return close.map(|close| close.code.into());
            }
        }
        None
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_carry_messages_of_any_size_both_ways_and_end_with_a_goodbye() {
    let stage = Stage::start(|config| config.server.close_window = Duration::from_millis(10)).await;
    let mut clients = Vec::new();
    for (version, label) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let client = stage.authority.client(&[version], None);
        clients.push(stage.connect(&client, "/a/1").await);
        stage
            .bridge
            .becomes(&format!("pusher_bridge_tls_handshakes_total{{version=\"{label}\"}}"), 1.0)
            .await;
    }
    stage.bridge.becomes(r#"pusher_bridge_connections{route="a",phase="live"}"#, 2.0).await;
    stage.bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 1.0).await;
    // Several records, and frames that end within one.
    let large = "x".repeat(9_000);
    for size in [1, 100, 9_000] {
        let message = json!({ "type": "say", "data": &large[..size] }).to_string();
        let (one, other) = clients.split_at_mut(1);
        one[0].send(Message::text(message)).await.unwrap();
        assert_eq!(json(&mut other[0]).await["data"].as_str().unwrap().len(), size);
    }
    for n in 0..100 {
        stage.bridge.sandbox.trigger("private-a-1", "news", &format!("{{\"n\":{n},\"x\":\"{large}\"}}"));
    }
    for client in &mut clients {
        for n in 0..100 {
            assert_eq!(json(client).await["data"]["n"], n);
        }
    }
    let (clean, ends) = tokio::join!(stage.bridge.shutdown(), async {
        let mut ends = Vec::new();
        for client in &mut clients {
            ends.push(close_code(client).await);
            let mut rest = Vec::new();
            // Without a goodbye it would be an error.
            patiently("the end", client.get_mut().read_to_end(&mut rest)).await.unwrap();
        }
        ends
    });
    assert_eq!((clean, ends), (Shutdown::Clean, vec![Some(1001), Some(1001)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_clients_need_a_certificate_only_those_of_its_authority_are_served() {
    let theirs = Authority::new();
    let stage = Stage::with(Some(&theirs), |_| {}).await;
    let (good, strange) = (theirs.sign("client.example"), Authority::new().sign("client.example"));
    let versions = [&[&TLS13][..], &[&TLS12]];
    for versions in versions {
        stage.connect(&stage.authority.client(versions, Some(&good)), "/a/1").await;
    }
    for (own, reason) in [(None, "no_certificate"), (Some(&strange), "bad_certificate")] {
        for (versions, count) in versions.iter().zip([1.0, 2.0]) {
            let client = stage.authority.client(versions, own);
            // TLS 1.3 lets clients go on before they are told.
            if let Ok(mut stream) = try_connect(stage.bridge.address(), &client).await {
                assert!(stream.read_u8().await.is_err());
            }
            stage.failed(reason, count).await;
        }
    }
    // And one that does not know ours.
    assert!(try_connect(stage.bridge.address(), &theirs.client(&[&TLS13], Some(&good))).await.is_err());
    stage.failed("alert", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_and_what_is_no_handshake_are_told_counted_and_take_no_longer_than_a_request() {
    let stage = Stage::start(|config| config.server.header_timeout = Duration::from_millis(300)).await;
    let address = stage.bridge.address();
    let answer = Raw::ask(address, upgrade("/a/1", &[])).await;
    assert_eq!((answer.status, answer.header("connection").as_str()), (400, "close"));
    assert!(answer.body.contains("wss://"), "{}", answer.body);
    stage.failed("plain_http", 1.0).await;
    let mut junk = Raw::connect(address).await;
    junk.send([0; 100]).await;
    junk.ended().await;
    stage.failed("not_tls", 1.0).await;
    let mut slow = Raw::connect(address).await;
    slow.send([22, 3, 1]).await;
    let silent = Raw::connect(address).await;
    slow.ended().await;
    silent.ended().await;
    stage.failed("timeout", 1.0).await;
    stage.bridge.becomes(r#"pusher_bridge_refusals_total{route="none",reason="timeout"}"#, 2.0).await;
    let mut gone = Raw::connect(address).await;
    gone.send([22, 3, 1]).await;
    gone.finish().await;
    stage.failed("closed", 1.0).await;
    stage.bridge.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_handshakes_of_one_address_make_room_for_others() {
    let stage = Stage::start(|config| {
        config.server.connections_max = 20;
        config.server.trusted_proxies.clear();
    })
    .await;
    let mut crowd = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::connect_from([127, 0, 0, 9], stage.bridge.address()).await;
        raw.send([22, 3, 1, 2, 0, 1]).await;
        crowd.push(raw);
    }
    stage.bridge.sees(|| stage.bridge.connections() == 20.0).await;
    stage.subscribed(1, 1.0).await;
    crowd.remove(0).ended().await;
    stage.bridge.becomes(r#"pusher_bridge_refusals_total{route="none",reason="displaced"}"#, 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_late_gets_all_and_who_reads_nothing_is_closed_while_others_go_on() {
    const EVENTS: usize = 600;
    let stage = Stage::start(|_| {}).await;
    let mut late = stage.subscribed(1, 1.0).await;
    let mut prompt = stage.subscribed(1, 1.0).await;
    let stalled = stage.subscribed(1, 1.0).await;
    stage.bridge.becomes(r#"pusher_bridge_connections{route="a",phase="live"}"#, 3.0).await;
    let filler = "x".repeat(9_000);
    let send = |n: usize| {
        stage.bridge.sandbox.trigger("private-a-1", "news", &format!("{{\"n\":{n},\"x\":\"{filler}\"}}"));
    };
    for n in 0..EVENTS / 10 {
        send(n);
        assert_eq!(json(&mut prompt).await["data"]["n"], n);
    }
    for n in 0..EVENTS / 10 {
        assert_eq!(json(&mut late).await["data"]["n"], n);
    }
    let mut n = EVENTS / 10;
    while stage.bridge.closes("a", "slow_reader") == 0.0 {
        assert!(n < 100 * EVENTS, "it is never closed");
        send(n);
        assert_eq!(json(&mut prompt).await["data"]["n"], n);
        assert_eq!(json(&mut late).await["data"]["n"], n);
        n += 1;
    }
    drop(stalled);
    send(n);
    assert_eq!(json(&mut prompt).await["data"]["n"], n);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_without_a_goodbye_is_lost_like_any_other() {
    let stage = Stage::start(|_| {}).await;
    let mut client = stage.subscribed(1, 1.0).await;
    let (tcp, _) = client.get_mut().get_mut();
    tcp.shutdown().await.unwrap();
    stage.bridge.until_closed("a", "lost", 1).await;
    stage.bridge.until_empty().await;
}

fn put(folder: &std::path::Path, pair: &Pair, key: &str) {
    // By renaming, as a secret's volume or certbot does.
    for (name, text) in [("cert.pem", &*pair.cert), ("key.pem", key)] {
        std::fs::write(folder.join("new"), text).unwrap();
        std::fs::rename(folder.join("new"), folder.join(name)).unwrap();
    }
}

/// Whom the server says that it is.
async fn shown(served: &Served, client: &Arc<ClientConfig>) -> Vec<u8> {
    let stream = try_connect(served.address, client).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_certificate_is_for_newcomers_at_once_and_a_wrong_pair_for_nobody() {
    let authority = Authority::new();
    let (first, second) = (authority.sign("first.example"), authority.sign("second.example"));
    let folder = folder("tls-rotated");
    put(&folder, &first, &first.key);
    let tls = "[server.tls]\ncert_file = \"cert.pem\"\nkey_file = \"key.pem\"\n\n[server]\n";
    let routes = SHIPPED.replacen("[server]\n", tls, 1) + &route("a", "");
    let mut served = Served::start(folder.clone(), &routes).await;
    let client = authority.plain_client();
    let mut before = connect(served.address, &client, "/a/1").await;
    patiently("the channel", served.sandbox.wait_for(|view| view.subscribed("private-a-1") == 1)).await;
    let of_first = shown(&served, &client).await;

    put(&folder, &second, &second.key);
    served.until("applied", 1).await;
    let of_second = shown(&served, &client).await;
    assert_ne!(of_first, of_second);

    put(&folder, &first, &second.key);
    served.until("invalid", 1).await;
    let line = served.program.stderr.find("the configuration was not reloaded").await;
    assert!(line.contains("key.pem") && line.contains("this key is not the certificate's"), "{line}");
    assert_eq!(shown(&served, &client).await, of_second);
    let (status, told) = served.post("/reload").await;
    assert_eq!((status, &told["result"]), (422, &json!("invalid")), "{told}");

    served.write(&routes.replacen(tls, "[server]\n", 1));
    let (status, told) = served.post("/reload").await;
    assert_eq!((status, &told["plan"]["needs_restart"]), (409, &json!(["server.tls"])), "{told}");
    served.sandbox.trigger("private-a-1", "still", "1");
    assert_eq!(json(&mut before).await["type"], "still", "who is connected was never touched");
    std::fs::remove_dir_all(folder).unwrap();
}
