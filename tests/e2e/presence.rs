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
name = "board"
path = "/board/{id}"
channel = "presence-cache-{id}"
dialect = "cached"
auth = { required = true }
presence = "each_user"

[[routes]]
name = "watching"
path = "/watching"
channel = "#server-to-user"
dialect = "typed"
auth = { required = true }
watchlist = "contacts"
pusher_events = ["watchlist"]
shares = ["user"]

[dialects.cached.in]
type_field = "type"
auth = { type = "auth", token = "token" }

[dialects.cached.out]
event = '{"type":{event},"data":{data}}'
auth_ok = '{"type":"auth_response"}'
error = '{"type":"error","error":{code}}'
members = '{"type":"members","data":{"count":{count},"members":{members}}}'
cache_miss = '{"type":"cache_miss"}'

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

/// Who says that he is who this bridge is called is a member of his own, by a connection of his own.
#[tokio::test]
async fn a_user_of_the_observers_name_is_not_the_observer() {
    let bridge = Bridge::with(&routes(), quick).await;
    let on = |count: usize| bridge.sandbox.wait_for(move |view| view.subscribed("presence-team-1") == count);
    let mut watching = bridge.connect("/watched/1").await;
    assert_eq!(watching.json().await["data"]["count"], 1);
    let (mut user, list) = member(bridge.address(), "/team/1", "pusher-bridge").await;
    assert_eq!(list["members"].as_array().map(Vec::len), Some(1), "to Pusher one id is one member: {list}");
    patiently("a connection of each", on(2)).await;
    drop(watching);
    patiently("the observer's end", on(1)).await;
    bridge.app().trigger("presence-team-1", "news", r#"{"n":1}"#).await;
    gets(&mut user, "news", 1).await;
    let mut watching = bridge.connect("/watched/1").await;
    assert_eq!(watching.json().await["type"], "presence_members");
    drop(user);
    patiently("the user's end", on(1)).await;
    bridge.app().trigger("presence-team-1", "news", r#"{"n":2}"#).await;
    gets(&mut watching, "news", 2).await;
    bridge.shutdown().await;
}

/// The list first, then what the channel has for whoever comes late, once; and that there is nothing yet, likewise.
#[tokio::test]
async fn a_late_member_gets_the_list_and_then_the_last_event() {
    let bridge = Bridge::with(&routes(), quick).await;
    let mut all = Vec::new();
    for (n, user) in ["ann", "bob", "cid"].into_iter().enumerate() {
        let mut client = OldClient::connect(bridge.address(), "/board/1").await;
        client.auth(&bridge::token(user)).await;
        assert_eq!(client.json().await["type"], "auth_response");
        let list = client.json().await;
        assert_eq!((&list["type"], &list["data"]["count"]), (&json!("members"), &json!(n + 1)), "{list}");
        match n {
            // Who comes later, before there is an event, is told so, too.
            0 | 1 => is_told(&mut client, json!({ "type": "cache_miss" })).await,
            _ => is_told(&mut client, json!({ "type": "drawn", "data": { "n": 1 } })).await,
        }
        all.push(client);
        if n == 1 {
            bridge.app().trigger("presence-cache-1", "drawn", r#"{"n":1}"#).await;
            for client in &mut all {
                is_told(client, json!({ "type": "drawn", "data": { "n": 1 } })).await;
            }
        }
    }
    bridge.app().trigger("presence-cache-1", "drawn", r#"{"n":2}"#).await;
    for client in &mut all {
        is_told(client, json!({ "type": "drawn", "data": { "n": 2 } })).await;
    }
    bridge.shutdown().await;
}

/// All of a user's connections are told who of the watchlist is there, when they come and when that changes.
#[tokio::test]
async fn a_user_is_told_who_of_the_watchlist_comes_and_goes() {
    let bridge = Bridge::with(&routes(), quick).await;
    let token = bridge::token_with("ann", |claims| claims["contacts"] = json!(["bob", "cid"]));
    let watch = async || {
        let mut client = bridge.connect("/watching").await;
        client.auth(&token).await;
        assert_eq!(client.json().await["type"], "auth_response");
        client
    };
    let told = async |client: &mut OldClient, events: Value| {
        let frame = client.json().await;
        assert_eq!((&frame["type"], &frame["data"]["events"]), (&json!("watchlist_events"), &events));
    };
    let group = |name: &str, ids: &[&str]| json!({ "name": name, "user_ids": ids });
    let mut first = watch().await;
    told(&mut first, json!([group("offline", &["bob", "cid"])])).await;
    let bob = bridge.login_as("/user", "bob").await;
    told(&mut first, json!([group("online", &["bob"])])).await;
    let mut second = watch().await;
    told(&mut second, json!([group("online", &["bob"]), group("offline", &["cid"])])).await;
    // A route of the same user that did not ask is told nothing of it.
    let mut plain = bridge.login_as("/user", "ann").await;
    drop(bob);
    for client in [&mut first, &mut second] {
        told(client, json!([group("offline", &["bob"])])).await;
    }
    bridge.app().trigger("#server-to-user-ann", "for_you", r#"{"n":1}"#).await;
    for client in [&mut first, &mut second, &mut plain] {
        gets(client, "for_you", 1).await;
    }
    bridge.shutdown().await;
}

const SECRET: &str = r#"
[[routes]]
name = "vault"
path = "/vault/{id}"
channel = "private-encrypted-cache-{id}"
dialect = "cached"
auth = { required = true }
publish = [{ types = ["say"], event = "client-say" }]
"#;

/// Nothing yet, and then the last event, in clear.
#[tokio::test]
async fn an_encrypted_channel_keeps_its_last_event() {
    let key = [("PUSHER_ENCRYPTION_MASTER_KEY", "UGxlYXNlIHVzZSBhIGtleSBvZiB5b3VyIG93biwgMzI=")];
    let bridge = Bridge::with_env(&format!("{}\n{SECRET}", routes()), &key, quick).await;
    let mut all = Vec::new();
    for (n, user) in ["ann", "bob", "cid"].into_iter().enumerate() {
        let mut client = OldClient::login(bridge.address(), "/vault/1", user).await;
        match n {
            0 | 1 => is_told(&mut client, json!({ "type": "cache_miss" })).await,
            _ => is_told(&mut client, json!({ "type": "client-say", "data": { "n": 1 } })).await,
        }
        all.push(client);
        if n == 1 {
            all[0].send(r#"{"type":"say","data":{"n":1}}"#).await;
            is_told(&mut all[1], json!({ "type": "client-say", "data": { "n": 1 } })).await;
        }
    }
    let published = bridge.sandbox.published();
    assert!(published.iter().all(|event| event.data.contains("ciphertext") && !event.data.contains("\"n\"")));
    bridge.shutdown().await;
}
