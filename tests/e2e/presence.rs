//! Old clients on presence channels, and what backends send to a user: before a sandbox and before a real server.

use std::net::SocketAddr;
use std::time::Duration;

use pusher_bridge::config::Config;
use serde_json::{Value, json};

use crate::support::bridge::{self, SHIPPED};
use crate::support::pusher::{App, Pusher as _};
use crate::support::sockudo::Sockudo;
use crate::support::{Bridge, OldClient, patiently};

const ROUTES: &str = r##"
[[routes]]
name = "team"
path = "/team/{id}"
channel = "presence-team-{id}"
dialect = "typed"
auth = { required = true }
presence = "each_user"
user_info = '{"role":{claim.role},"name":{claim.name}}'
publish = [{ types = ["say"], event = "client-say" }]

[[routes]]
name = "watched"
path = "/watched/{id}"
channel = "presence-team-{id}"
dialect = "typed"
presence = "observe"
shares = ["team"]

[[routes]]
name = "user"
path = "/user"
channel = "#server-to-user"
dialect = "typed"
auth = { required = true }
"##;

fn routes() -> String {
    let head = SHIPPED.split("\n[[routes]]").next().unwrap_or_default();
    format!("{head}\n{ROUTES}")
}

fn quick(config: &mut Config) {
    config.upstream.times.linger = Duration::from_millis(50);
}

async fn member(bridge: SocketAddr, path: &str, user: &str) -> (OldClient, Value) {
    let mut client = OldClient::login(bridge, path, user).await;
    let list = client.json().await;
    assert_eq!(list["type"], "presence_members", "the list comes after the answer to `auth`");
    (client, list["data"].clone())
}

fn of(id: &str) -> Value {
    json!({ "id": id, "info": { "role": "teacher", "name": null } })
}

async fn is_told(client: &mut OldClient, expected: Value) {
    assert_eq!(client.json().await, expected);
}

/// Whatever else came before it would be here instead.
async fn gets(client: &mut OldClient, event: &str, n: u64) {
    let got = client.json().await;
    assert_eq!((&got["type"], &got["data"]["n"]), (&json!(event), &json!(n)), "{got}");
}

/// A room: who is there, who comes, who says what to whom, who leaves.
async fn is_a_room(app: &App, bridge: SocketAddr) {
    let (mut ann, list) = member(bridge, "/team/1", "ann").await;
    assert_eq!(list, json!({ "count": 1, "members": [of("ann")] }), "the list includes oneself");
    let (mut bob, list) = member(bridge, "/team/1", "bob").await;
    assert_eq!(list, json!({ "count": 2, "members": [of("ann"), of("bob")] }));
    is_told(&mut ann, json!({ "type": "member_added", "data": of("bob") })).await;

    // Two connections of one user are one member, and nobody is told of the second.
    let (mut bob2, list) = member(bridge, "/team/1", "bob").await;
    assert_eq!(list["count"], 2);
    app.trigger("presence-team-1", "news", r#"{"n":1}"#).await;
    for client in [&mut ann, &mut bob, &mut bob2] {
        gets(client, "news", 1).await;
    }
    // What one connection says reaches the user's others, and not itself.
    bob.send(r#"{"type":"say","data":{"n":2}}"#).await;
    gets(&mut bob2, "client-say", 2).await;
    gets(&mut ann, "client-say", 2).await;
    app.trigger("presence-team-1", "news", r#"{"n":3}"#).await;
    for client in [&mut ann, &mut bob, &mut bob2] {
        gets(client, "news", 3).await;
    }

    // He is there as long as one of his connections is.
    drop(bob2);
    app.trigger("presence-team-1", "news", r#"{"n":4}"#).await;
    gets(&mut ann, "news", 4).await;
    gets(&mut bob, "news", 4).await;
    drop(bob);
    is_told(&mut ann, json!({ "type": "member_removed", "data": { "id": "bob" } })).await;
    app.trigger("presence-team-1", "news", r#"{"n":5}"#).await;
    gets(&mut ann, "news", 5).await;
}

/// Each gets what is sent to its own user, on all its connections, and nothing else.
async fn is_each_users_own(app: &App, bridge: SocketAddr) {
    let mut clients = Vec::new();
    for user in ["ann", "bob", "ann"] {
        clients.push((user, OldClient::login(bridge, "/user", user).await));
    }
    for (n, user) in ["ann", "bob", "cat", "bob", "ann"].into_iter().enumerate() {
        app.trigger(&format!("#server-to-user-{user}"), "for_you", &format!(r#"{{"n":{n}}}"#)).await;
    }
    for (user, client) in &mut clients {
        let own: &[u64] = if *user == "ann" { &[0, 4] } else { &[1, 3] };
        for n in own {
            gets(client, "for_you", *n).await;
        }
    }
}

#[tokio::test]
async fn a_presence_channel_is_a_room() {
    let bridge = Bridge::with(&routes(), quick).await;
    is_a_room(&bridge.app(), bridge.address()).await;
    bridge.shutdown().await;
}

#[tokio::test]
async fn a_presence_channel_of_a_real_server_is_a_room() {
    let Some(sockudo) = Sockudo::start().await else { return };
    let running = bridge::start(&sockudo.app(), &routes(), &[], quick).await;
    is_a_room(&sockudo.app(), running.address).await;
    running.shutdown().await;
}

#[tokio::test]
async fn a_users_messages_reach_nobody_else() {
    let bridge = Bridge::with(&routes(), quick).await;
    is_each_users_own(&bridge.app(), bridge.address()).await;
    bridge.shutdown().await;
}

#[tokio::test]
async fn a_users_messages_from_a_real_server_reach_nobody_else() {
    let Some(sockudo) = Sockudo::start().await else { return };
    let running = bridge::start(&sockudo.app(), &routes(), &[], quick).await;
    is_each_users_own(&sockudo.app(), running.address).await;
    running.shutdown().await;
}

#[tokio::test]
async fn who_watches_is_no_member_but_the_bridge_is() {
    let bridge = Bridge::with(&routes(), quick).await;
    let mut watching = Vec::new();
    for _ in 0..2 {
        let mut client = bridge.connect("/watched/1").await;
        let list = client.json().await;
        assert_eq!((&list["type"], &list["data"]["count"]), (&json!("presence_members"), &json!(1)));
        assert_eq!(list["data"]["members"][0]["id"], "pusher-bridge");
        watching.push(client);
    }
    let (mut ann, list) = member(bridge.address(), "/team/1", "ann").await;
    assert_eq!(
        (&list["count"], bridge.sandbox.view(|view| view.members("presence-team-1").len())),
        (&json!(2), 2)
    );
    for client in &mut watching {
        is_told(client, json!({ "type": "member_added", "data": of("ann") })).await;
    }
    drop(watching);
    let removed = json!({ "type": "member_removed", "data": { "id": "pusher-bridge" } });
    is_told(&mut ann, removed).await;
    bridge.shutdown().await;
}

#[tokio::test]
async fn a_backend_ends_one_users_connections_and_nobody_elses() {
    let bridge = Bridge::with(&routes(), quick).await;
    let mut ann = [bridge.login_as("/user", "ann").await, bridge.login_as("/user", "ann").await];
    let mut bob = bridge.login_as("/user", "bob").await;
    bridge.sandbox.terminate_connections("ann");
    for client in &mut ann {
        assert_eq!(client.closed().await, Some((1008, "terminated".to_owned())));
    }
    bridge.app().trigger("#server-to-user-bob", "for_you", r#"{"n":1}"#).await;
    gets(&mut bob, "for_you", 1).await;
    // Who comes again is signed in again.
    let mut again = bridge.login_as("/user", "ann").await;
    bridge.app().trigger("#server-to-user-ann", "for_you", r#"{"n":2}"#).await;
    gets(&mut again, "for_you", 2).await;
    let metrics = bridge.running.metrics.clone();
    bridge.shutdown().await;
    let closed = r#"pusher_bridge_closes_total{route="user",reason="terminated"} 2"#;
    assert!(metrics.render().lines().any(|line| line == closed));
}

#[tokio::test]
async fn after_a_reconnect_clients_are_told_the_difference() {
    let bridge = Bridge::with(&routes(), quick).await;
    let (mut ann, _) = member(bridge.address(), "/team/1", "ann").await;
    bridge.sandbox.cut_connections();
    patiently(
        "the link to be back",
        bridge.sandbox.wait_for(|view| view.members("presence-team-1") == ["ann"]),
    )
    .await;
    let (_bob, list) = member(bridge.address(), "/team/1", "bob").await;
    assert_eq!(list["count"], 2);
    is_told(&mut ann, json!({ "type": "member_added", "data": of("bob") })).await;
    bridge.app().trigger("presence-team-1", "news", r#"{"n":1}"#).await;
    gets(&mut ann, "news", 1).await;
    bridge.shutdown().await;
}
