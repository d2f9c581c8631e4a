//! The app's key is replaced by a reload: nothing is lost, nothing comes twice, and the old key is not used any more.

use pusher_bridge::config::Config;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::admin::get;
use crate::near_and_far;
use crate::reload::{Served, folder, in_service, next, route};
use crate::reload_load::{CLIENTS, Room};
use crate::support::bridge::SHIPPED;
use crate::support::{Bridge, OldClient, patiently};

const OLD: &str = "sandbox-key";
pub const NEW: (&str, &str) = ("new-key", "new-secret");
pub const DONE: &str = r#"pusher_bridge_upstream_rotations_total{result="done"}"#;
const REFUSED: &str = r#"pusher_bridge_upstream_rotations_total{result="refused"}"#;

fn routes() -> String {
    SHIPPED.to_owned() + &route("still", "limits.messages = \"unlimited\"")
}

/// The configuration in force, with this key.
pub fn with_key(bridge: &Bridge, routes: &str, (key, secret): (&str, &str)) -> Config {
    let mut config = next(bridge, routes);
    config.upstream = bridge.running.config().upstream.clone();
    config.upstream.app.key = key.to_owned();
    config.upstream.app.secret = secret.to_owned().into();
    config
}

/// Everybody talks, in numbered messages, while keys are replaced.
async fn while_all_talk(rotates: impl AsyncFnOnce(&Bridge, &Room)) {
    let bridge = Bridge::with(&routes(), |config| config.server.workers = 2).await;
    bridge.sandbox.add_key(NEW.0, NEW.1);
    let room = Room::new("/still/1", "private-still-1").paced();
    let (done, is_done) = watch::channel(false);
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        clients.push(in_service(&bridge, "/still/1", "still", (n + 1) as f64).await);
    }
    let subscribed = bridge.sandbox.wait_for(|view| view.subscribed("private-still-1") == 1);
    patiently("the channel", subscribed).await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 1.0).await;
    let talks = clients.into_iter().enumerate().map(|(me, client)| room.talk(client, me, is_done.clone()));
    let say = async |data: Value| bridge.sandbox.trigger("private-still-1", "news", &data.to_string());
    let reloads = async {
        room.goes_on(100).await;
        rotates(&bridge, &room).await;
        room.goes_on(300).await;
        done.send_replace(true);
    };
    tokio::join!(futures_util::future::join_all(talks), room.send(CLIENTS, is_done.clone(), say), reloads);
    assert_eq!(bridge.metric("pusher_bridge_upstream_gaps_total"), 0.0);
    assert_eq!(bridge.sandbox.ever_subscribed().iter().filter(|name| *name == "private-still-1").count(), 1);
}

/// Waits until so many were done, as long as messages come: it takes 11 seconds for each connection.
async fn is_done(bridge: &Bridge, room: &Room, count: f64) {
    while bridge.metric(DONE) < count {
        room.goes_on(20).await;
    }
}

/// The one key takes the other's place, and is the only one that is used from then on.
async fn rotated(bridge: &Bridge, room: &Room) {
    bridge.reload(with_key(bridge, &routes(), NEW)).await;
    is_done(bridge, room, 1.0).await;
    bridge.sandbox.withdraw_key(OLD);
    patiently("the old one to go", bridge.sandbox.wait_for(|view| view.connections() == 1)).await;
    let uses = (bridge.sandbox.key_uses(OLD), bridge.sandbox.key_uses(NEW.0));
    room.goes_on(200).await;
    assert_eq!(bridge.sandbox.key_uses(OLD), uses.0, "the old key is not used any more");
    assert!(bridge.sandbox.key_uses(NEW.0) > uses.1);
}

async fn a_new_key_takes_the_place_of_the_old_one() {
    while_all_talk(rotated).await;
}

near_and_far!(a_new_key_takes_the_place_of_the_old_one);

async fn a_key_that_is_changed_again_meanwhile() {
    let rotates = async |bridge: &Bridge, room: &Room| {
        let old = bridge.running.config().upstream.app.clone();
        bridge.reload(with_key(bridge, &routes(), NEW)).await;
        patiently("a second connection", bridge.sandbox.wait_for(|view| view.connections() == 2)).await;
        room.goes_on(100).await;
        // Back, and forth again.
        let secret = secrecy::ExposeSecret::expose_secret(&old.secret).to_owned();
        bridge.reload(with_key(bridge, &routes(), (&old.key, &secret))).await;
        room.goes_on(100).await;
        rotated_again(bridge, room).await;
    };
    while_all_talk(rotates).await;
}

async fn rotated_again(bridge: &Bridge, room: &Room) {
    let before = bridge.metric(DONE);
    bridge.reload(with_key(bridge, &routes(), NEW)).await;
    is_done(bridge, room, before + 1.0).await;
    patiently("the old one to go", bridge.sandbox.wait_for(|view| view.connections() == 1)).await;
}

near_and_far!(a_key_that_is_changed_again_meanwhile);

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_pusher_does_not_take_changes_nothing_and_is_told_of() {
    let bridge = Bridge::with(&routes(), |_| {}).await;
    let mut one = in_service(&bridge, "/still/1", "still", 1.0).await;
    let mut other = in_service(&bridge, "/still/1", "still", 2.0).await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 1.0).await;
    for (times, wrong) in [("unknown", "s"), (OLD, "wrong")].into_iter().enumerate() {
        bridge.reload(with_key(&bridge, &routes(), wrong)).await;
        bridge.becomes(REFUSED, (times + 1) as f64).await;
        let ready = get(bridge.running.admin_address, "/readyz").await;
        assert!(ready.body.contains("the old one serves on"), "{}", ready.body);
        let what = if times == 0 { "key" } else { "secret" };
        let series = format!("pusher_bridge_upstream_misconfigured{{what=\"{what}\"}}");
        bridge.becomes(&series, 1.0).await;
        one.send(&json!({ "type": "say", "data": times }).to_string()).await;
        assert_eq!(other.json().await["data"], times);
        bridge.sandbox.trigger("private-still-1", "news", "7");
        assert_eq!(
            (one.json().await["data"].clone(), other.json().await["data"].clone()),
            (7.into(), 7.into())
        );
    }
    assert_eq!(bridge.sandbox.view(|view| view.connections()), 1, "the one that there was");
    // What it says now is what it said at first.
    bridge.reload(with_key(&bridge, &routes(), (OLD, "sandbox-secret"))).await;
    bridge.becomes(r#"pusher_bridge_upstream_misconfigured{what="secret"}"#, 0.0).await;
    let ready = get(bridge.running.admin_address, "/readyz").await;
    assert!(!ready.body.contains("serves on"), "{}", ready.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_come_and_go_while_the_connection_is_replaced() {
    let bridge = Bridge::with(&routes(), |_| {}).await;
    bridge.sandbox.add_key(NEW.0, NEW.1);
    let gone = in_service(&bridge, "/still/2", "still", 1.0).await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 1.0).await;
    bridge.reload(with_key(&bridge, &routes(), NEW)).await;
    patiently("a second connection", bridge.sandbox.wait_for(|view| view.connections() == 2)).await;
    let mut late = in_service(&bridge, "/still/3", "still", 2.0).await;
    patiently("both", bridge.sandbox.wait_for(|view| view.subscribed("private-still-3") == 2)).await;
    drop(gone);
    patiently("neither", bridge.sandbox.wait_for(|view| view.subscribed("private-still-2") == 0)).await;
    for n in 0..3 {
        bridge.sandbox.trigger("private-still-3", "news", &n.to_string());
        assert_eq!(late.json().await["data"], n);
    }
    bridge.becomes(DONE, 1.0).await;
    for n in 3..6 {
        bridge.sandbox.trigger("private-still-3", "news", &n.to_string());
        assert_eq!(late.json().await["data"], n);
    }
}

/// Its subscription was kept for whoever might come back, by a connection that is not there any more.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_to_a_channel_after_the_connection_was_replaced_hears_it() {
    let linger = |config: &mut Config| config.upstream.times.linger = std::time::Duration::from_secs(600);
    let bridge = Bridge::with(&routes(), linger).await;
    bridge.sandbox.add_key(NEW.0, NEW.1);
    let gone = in_service(&bridge, "/still/2", "still", 1.0).await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 1.0).await;
    drop(gone);
    bridge.becomes(r#"pusher_bridge_subscriptions{state="lingering"}"#, 1.0).await;
    bridge.reload(with_key(&bridge, &routes(), NEW)).await;
    bridge.becomes(DONE, 1.0).await;
    patiently("the old one to go", bridge.sandbox.wait_for(|view| view.connections() == 1)).await;
    let mut back = in_service(&bridge, "/still/2", "still", 1.0).await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 1.0).await;
    patiently("it", bridge.sandbox.wait_for(|view| view.subscribed("private-still-2") == 1)).await;
    bridge.sandbox.trigger("private-still-2", "news", "1");
    assert_eq!(back.json().await["data"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_file_is_rotated_when_the_file_changes() {
    let folder = folder("a_secret_in_a_file_is_rotated");
    std::fs::write(folder.join("secret"), "sandbox-secret\n").unwrap();
    let text = routes().replace("secret = \"${PUSHER_SECRET}\"", "secret_file = \"secret\"");
    assert!(text.contains("secret_file = \"secret\""), "the shipped file has another secret");
    let served = Served::start(folder.clone(), &text).await;
    let mut client = OldClient::connect(served.address, "/still/1").await;
    patiently("it", served.sandbox.wait_for(|view| view.subscribed("private-still-1") == 1)).await;
    served.sandbox.withdraw_key(OLD);
    served.sandbox.add_key(OLD, "another");
    std::fs::write(folder.join("secret.new"), "another").unwrap();
    std::fs::rename(folder.join("secret.new"), folder.join("secret")).unwrap();
    patiently("a second connection", served.sandbox.wait_for(|view| view.connections_total() == 2)).await;
    patiently("the first to go", served.sandbox.wait_for(|view| view.connections() == 1)).await;
    served.sandbox.trigger("private-still-1", "news", "1");
    assert_eq!(client.json().await["data"], 1);
    client.send(r#"{"type":"say","data":2}"#).await;
    let said = served.sandbox.wait_for(|view| view.published().any(|event| event.event == "client-say"));
    patiently("what it says", said).await;
    assert_eq!(served.ready().await["configuration"]["not_reloaded"], Value::Null);
}

/// The data of the next event of this name.
async fn next_of(client: &mut OldClient, event: &str) -> Value {
    loop {
        let mut frame = client.json().await;
        if frame["type"] == event {
            return frame["data"].take();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_own_connections_are_made_anew_and_all_of_them_stay_members() {
    let head = SHIPPED.split("\n[[routes]]").next().unwrap_or_default();
    let team = "\n[[routes]]\nname = \"team\"\npath = \"/team/{id}\"\nchannel = \"presence-team-{id}\"\n\
                dialect = \"typed\"\nauth = { required = true }\npresence = \"each_user\"\n\
                publish = [{ types = [\"say\"], event = \"client-say\" }]\n";
    let routes = format!("{head}\n{team}");
    let bridge = Bridge::with(&routes, |_| {}).await;
    bridge.sandbox.add_key(NEW.0, NEW.1);
    let mut clients = Vec::new();
    for user in ["1", "2", "3"] {
        clients.push(bridge.login_as("/team/1", user).await);
    }
    patiently("all", bridge.sandbox.wait_for(|view| view.members("presence-team-1").len() == 3)).await;
    bridge.reload(with_key(&bridge, &routes, NEW)).await;
    patiently("others", bridge.sandbox.wait_for(|view| view.connections_total() >= 6)).await;
    let mut told = 0;
    while bridge.metric(DONE) < 1.0 {
        // Somebody always has the channel.
        bridge.sandbox.trigger("presence-team-1", "news", &told.to_string());
        for client in &mut clients {
            assert_eq!(next_of(client, "news").await, told);
        }
        told += 1;
    }
    bridge.sandbox.withdraw_key(OLD);
    let before = bridge.sandbox.key_uses(OLD);
    clients[0].send(r#"{"type":"say","data":"said"}"#).await;
    for client in &mut clients[1..] {
        assert_eq!(next_of(client, "client-say").await, "said");
    }
    patiently("all", bridge.sandbox.wait_for(|view| view.members("presence-team-1").len() == 3)).await;
    assert_eq!(bridge.sandbox.key_uses(OLD), before);
    assert_eq!(bridge.metric("pusher_bridge_upstream_gaps_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_change_are_not_taken_over_and_that_is_told() {
    let folder = folder("rotation_of_certificates");
    let own = |name: &str| {
        let file = format!("{}/tests/routes/fixtures/{name}.pem", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(file).unwrap()
    };
    std::fs::write(folder.join("ca.pem"), own("tls-other")).unwrap();
    let text = routes().replacen("[upstream]\n", "[upstream]\nca_file = \"ca.pem\"\n", 1);
    let served = Served::start(folder.clone(), &text).await;
    std::fs::write(folder.join("ca.pem.new"), own("tls")).unwrap();
    std::fs::rename(folder.join("ca.pem.new"), folder.join("ca.pem")).unwrap();
    served.until("needs_restart", 1).await;
    let why = served.ready().await["configuration"]["not_reloaded"]["reason"].clone();
    assert!(why.as_str().is_some_and(|why| why.contains("upstream.ca_file")), "{why}");
    // What is as it was is in force again.
    std::fs::write(folder.join("ca.pem.new"), own("tls-other")).unwrap();
    std::fs::rename(folder.join("ca.pem.new"), folder.join("ca.pem")).unwrap();
    patiently("it to be as it was", async {
        while served.ready().await["configuration"]["not_reloaded"] != Value::Null {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}
