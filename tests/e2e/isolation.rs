//! What must never happen: a neighbour's event delivered, a channel opened without a right to it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pusher_bridge::auth::mint_hs256;
use pusher_bridge::clock::Now;
use pusher_bridge::pusher::encryption::{KEY_BYTES, MasterKey, NONCE_BYTES};
use rcgen::PublicKeyData;
use serde_json::{Value, json};

use crate::near_and_far;
use crate::support::bridge::{JWT_SECRET, SHIPPED, config_text, token, token_with};
use crate::support::raw::upgrade;
use crate::support::{Bridge, OldClient, Raw, patiently, temporary_directory};

fn claims(exp: i64) -> String {
    json!({
        "sub": "123", "role": "teacher", "plugin_ids": ["p1"], "exp": exp,
        "permissions": ["content:generate", "roblox:read", "command:run"],
    })
    .to_string()
}

fn in_an_hour() -> i64 {
    Now::read().unix_seconds() + 3600
}

/// A client that never gets anything but what is listed: `events`, then the fence.
async fn gets_only(client: &mut OldClient, events: &[&str]) {
    for expected in events {
        assert_eq!(client.json().await["data"]["n"], *expected);
    }
    assert_eq!(client.json().await["data"]["n"], "fence");
}

near_and_far!(a_neighbours_agent_events_never_arrive);
async fn a_neighbours_agent_events_never_arrive() {
    let bridge = Bridge::start().await;
    let mut seven = bridge.login_as("/ws/agent/agent_7", "1").await;
    let mut eight = bridge.login_as("/ws/agent/agent_8", "2").await;
    let mut number = bridge.login_as("/ws/agent/7", "3").await;
    let foreign = [
        r#"{"agent_id":"agent_70","n":"x"}"#,
        r#"{"agent_id":"AGENT_7","n":"x"}"#,
        r#"{"agent_id":" agent_7","n":"x"}"#,
        r#"{"agent_id":["agent_7"],"n":"x"}"#,
        r#"{"agent_id":{"agent_id":"agent_7"},"n":"x"}"#,
        r#"{"agent_id":null,"n":"x"}"#,
        r#"{"agent_id":true,"n":"x"}"#,
        r#"{"agent_id":7.0,"n":"x"}"#,
        r#"{"agent_id":70,"n":"x"}"#,
        r#"{"agent_id":"*","n":"x"}"#,
        r#"{"agent_id":"","n":"x"}"#,
        r#"{"n":"x","data":{"agent_id":"agent_7"}}"#,
        r#"{"type":"other","data":{"agent_id":"agent_7","n":"x"}}"#,
        r#"{"agent_id":"agent_7","agent_id":"agent_9","n":"x"}"#,
        r#"{"type":"task_result","agent_id":"agent_7","data":{"agent_id":"agent_9","n":"x"}}"#,
        r#"{"type":"task_result","data":{"agent_id":"agent_7"},"data":{"agent_id":"agent_9","n":"x"}}"#,
        r#"["agent_7"]"#,
        r#""agent_7""#,
        r#"{"agent_id":"agent_7""#,
        "null",
        "",
    ];
    for data in foreign {
        bridge.sandbox.trigger("agent-status", "task_result", data);
    }
    let own = [
        r#"{"agent_id":"agent_7","n":"seven"}"#,
        r#"{"agent_id":"agent_8","n":"eight"}"#,
        r#"{"agent_id":7,"n":"number"}"#,
        r#"{"type":"task_result","data":{"agent_id":"agent_8","n":"envelope"},"timestamp":"t"}"#,
        r#"{"agent_id":"agent_7","agent_id":"agent_8","n":"the last counts"}"#,
        r#"{"\u0061gent_id":"agent\u005f7","n":"escaped"}"#,
        r#"{"agent_id":"7","n":"text"}"#,
    ];
    for data in own {
        bridge.sandbox.trigger("agent-status", "task_result", data);
    }
    for id in ["agent_7", "agent_8", "7"] {
        let fence = format!(r#"{{"agent_id":"{id}","n":"fence"}}"#);
        bridge.sandbox.trigger("agent-status", "task_result", &fence);
    }
    gets_only(&mut seven, &["seven", "escaped"]).await;
    gets_only(&mut eight, &["eight", "envelope", "the last counts"]).await;
    gets_only(&mut number, &["number", "text"]).await;
    let own = r#"{"\ud800":1,"agent_id":"agent_7","n":"beside an unpaired surrogate"}"#;
    bridge.sandbox.trigger("agent-status", "task_result", own);
    assert!(seven.text().await.contains(own));
}

/// `agent-status` is the channel of all agents: who could name it as a session's would read all of it, unfiltered.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_named_status_never_reads_the_agents_shared_channel() {
    let bridge = Bridge::start().await;
    for name in ["status", "%73tatus", "s%74atu%73", "%73%74%61%74%75%73"] {
        let answer = Raw::ask(bridge.address(), upgrade(&format!("/ws/agent-session/{name}"), &[])).await;
        assert_eq!(answer.status, 400, "{name}");
        let problem: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(problem["detail"], "`session_id` in the path has a value that it must not have");
    }
    let refused = r#"pusher_bridge_refusals_total{route="agent-session",reason="excluded_value"}"#;
    assert_eq!(bridge.metric(refused), 4.0);
    // Names that are not it, whatever they resemble, are channels of their own.
    let mut others = Vec::new();
    for name in ["Status", "status-", "statu", "status.", "-status", "status;a"] {
        others.push((name, bridge.login_as(&format!("/ws/agent-session/{name}"), "1").await));
    }
    let mut agent = bridge.login_as("/ws/agent/7", "2").await;
    bridge.sandbox.trigger("agent-status", "task_result", r#"{"agent_id":"7","n":"fence"}"#);
    gets_only(&mut agent, &[]).await;
    for (name, client) in &mut others {
        bridge.sandbox.trigger(&format!("agent-{name}"), "e", r#"{"n":"fence"}"#);
        gets_only(client, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_feed_is_that_users() {
    let bridge = Bridge::start().await;
    let mut one = bridge.login_as("/ws/feed", "1").await;
    let mut eleven = bridge.login_as("/ws/feed", "11").await;
    // A user's id is not the path's or a message's to say.
    assert_eq!(Raw::ask(bridge.address(), upgrade("/ws/feed/1", &[])).await.status, 404);
    for (user, n) in [("1", "one"), ("11", "eleven"), ("1-1", "nobody"), ("", "nobody")] {
        bridge.sandbox.trigger(&format!("user-{user}"), "mail", &format!(r#"{{"n":"{n}"}}"#));
    }
    for user in ["1", "11"] {
        bridge.sandbox.trigger(&format!("user-{user}"), "mail", r#"{"n":"fence"}"#);
    }
    gets_only(&mut one, &["one"]).await;
    gets_only(&mut eleven, &["eleven"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_channels_has_no_more_than_it_may() {
    let routes = config_text(SHIPPED, "\"validation\", \"git\"]", "\"validation\", \"log-*\"]");
    let bridge = Bridge::with(&routes, |_| {}).await;
    let mut client = bridge.connect("/ws").await;
    for wrong in [r#"["files","git"]"#, r#"["log-a","log-"]"#, r#"["log-a","private-log-a"]"#, r#"["log-*"]"#]
    {
        client.send(&format!(r#"{{"type":"subscribe","channel":{wrong}}}"#)).await;
        assert_eq!(client.json().await["error"], "INVALID_FIELD", "{wrong}");
    }
    assert!(bridge.sandbox.ever_subscribed().is_empty(), "all or none");
    client.send(r#"{"type":"subscribe","channel":["files","log-a"]}"#).await;
    let both =
        |view: &pusher_bridge::sandbox::View<'_>| view.subscribed("files") + view.subscribed("log-a") == 2;
    patiently("the subscriptions", bridge.sandbox.wait_for(both)).await;
    for channel in ["git", "log-b", "log-a", "files"] {
        bridge.sandbox.trigger(channel, "e", &format!(r#"{{"n":"{channel}"}}"#));
    }
    for channel in ["log-a", "files"] {
        let frame = client.json().await;
        assert_eq!((&frame["channel"], &frame["data"]["n"]), (&json!(channel), &json!(channel)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_never_selects_another_kind_of_channel() {
    let more = r#"
[[routes]]
name = "kind"
path = "/kind/{name}"
dialect = "typed"
auth.required = true
channel = "private-{name}"
exclude = { name = ["plugin-*", "command-*"] }

[[routes]]
name = "kinds"
path = "/kinds/{a}/{b:[0-9a-z]+}"
dialect = "typed"
channel = "cache-{a}.{b}"
auth.required = true
"#;
    let bridge = Bridge::start_with(more).await;
    let kinds = ["cache-x", "encrypted-x", "encrypted-cache-x", "%63ache%2Dx", "encrypted-", "cache-"];
    for name in kinds {
        let answer = Raw::ask(bridge.address(), upgrade(&format!("/kind/{name}"), &[])).await;
        assert_eq!(answer.status, 400, "{name}");
        let problem: Value = serde_json::from_str(&answer.body).unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("which this endpoint is not for"), "{detail}");
    }
    let refused = r#"pusher_bridge_refusals_total{route="kind",reason="channel_kind"}"#;
    assert_eq!(bridge.metric(refused), kinds.len() as f64);
    for name in ["cache", "encrypted", "Cache-x", "x-cache-"] {
        bridge.login_as(&format!("/kind/{name}"), "1").await;
    }
    bridge.login_as("/kinds/cache-/x", "1").await;
    let prefix =
        |channel: &String| !["private-cache-", "private-encrypted-"].iter().any(|p| channel.starts_with(p));
    let subscribed = bridge.sandbox.ever_subscribed();
    assert!(subscribed.len() == 5 && subscribed.iter().all(prefix), "{subscribed:?}");
}

near_and_far!(what_a_client_writes_never_reaches_anothers_filter);
async fn what_a_client_writes_never_reaches_anothers_filter() {
    let routes = config_text(
        SHIPPED,
        "filter = { field = \"agent_id\", equals = \"{agent_id}\" }",
        "filter = { field = \"agent_id\", equals = \"{agent_id}\" }\n[[routes.publish]]\ntypes = [\"*\"]",
    );
    let bridge = Bridge::with(&routes, |_| {}).await;
    let mut one = bridge.login_as("/ws/agent/1", "1").await;
    let mut neighbour = bridge.login_as("/ws/agent/1", "3").await;
    let mut two = bridge.login_as("/ws/agent/2", "2").await;
    let foreign = [
        r#"{"agent_id":"2"}"#,
        r#"{"agent_id":2}"#,
        r#"{"agent_id":"1","agent_id":"2"}"#,
        r#"{"agent_id":"2","agent_id":"1"}"#,
        r#"{"\u0061gent_id":"2","agent_id":"1"}"#,
        r#"{"type":"client-say","data":{"agent_id":"2"},"timestamp":"t"}"#,
        r#""{\"agent_id\":\"2\"}""#,
        "{}",
        "1",
    ];
    for data in foreign {
        one.send(&format!(r#"{{"type":"say","data":{data}}}"#)).await;
        let answer = one.json().await;
        assert_eq!(answer["data"]["error_code"], "INVALID_FIELD", "{data}");
        assert_eq!(answer["data"]["details"], serde_json::json!({ "type": "say", "field": "agent_id" }));
    }
    one.send(r#"{"type":"say","agent_id":"2","n":1}"#).await;
    assert_eq!(one.error_code().await, "INVALID_FIELD");
    let counted = r#"pusher_bridge_client_errors_total{route="agent",code="INVALID_FIELD"}"#;
    assert_eq!(bridge.metric(counted), foreign.len() as f64 + 1.0);
    one.send(r#"{"type":"say","data":{"agent_id":"1","n":1.50}}"#).await;
    assert_eq!(neighbour.json().await["data"]["n"], 1.5);
    bridge.sandbox.trigger("agent-status", "fence", r#"{"agent_id":"2"}"#);
    assert_eq!(two.json().await["type"], "fence", "and nothing before it");
    let published = bridge.sandbox.published();
    assert_eq!(published.iter().filter(|published| published.event == "client-say").count(), 1);
}

near_and_far!(a_neighbours_environment_events_never_arrive);
async fn a_neighbours_environment_events_never_arrive() {
    let bridge = Bridge::start().await;
    let mut one = bridge.login_as("/ws/roblox", "1").await;
    let mut both = bridge.login_as("/ws/roblox", "2").await;
    let mut none = bridge.login_as("/ws/roblox", "3").await;
    one.send(r#"{"type":"subscribe","environment_id":"env_1"}"#).await;
    both.send(r#"{"type":"subscribe","environment_id":"env_1"}"#).await;
    both.send(r#"{"type":"subscribe","environment_id":2}"#).await;
    for bad in [r#"["env_1"]"#, "null", "true", r#""""#, "{}"] {
        none.send(&format!(r#"{{"type":"subscribe","environment_id":{bad}}}"#)).await;
        assert_eq!(none.error_code().await, "INVALID_FIELD", "{bad}");
    }
    none.send(r#"{"type":"subscribe"}"#).await;
    assert_eq!(none.error_code().await, "INVALID_FIELD");
    heeded(&mut one).await;
    heeded(&mut both).await;
    for (environment, n) in [(r#""env_1""#, "1"), (r#""2""#, "2"), (r#""env_3""#, "3"), ("null", "4")] {
        let data = format!(r#"{{"environment_id":{environment},"n":"{n}"}}"#);
        bridge.sandbox.trigger("roblox-sync", "script_update", &data);
        let envelope = format!(r#"{{"type":"script_update","data":{data},"timestamp":"t"}}"#);
        bridge.sandbox.trigger("roblox-sync", "script_update", &envelope);
    }
    for client in [&mut one, &mut both] {
        client.send(r#"{"type":"fence"}"#).await;
    }
    assert_eq!(next_frames(&mut one, 3).await, ["1", "1", "answer"]);
    assert_eq!(next_frames(&mut both, 5).await, ["1", "1", "2", "2", "answer"]);

    one.send(r#"{"type":"unsubscribe","environment_id":"env_9"}"#).await;
    heeded(&mut one).await;
    both.send(r#"{"type":"unsubscribe","environment_id":"env_1"}"#).await;
    heeded(&mut both).await;
    bridge.sandbox.trigger("roblox-sync", "asset_ready", r#"{"environment_id":"env_1","n":"after"}"#);
    bridge.sandbox.trigger("roblox-sync", "asset_ready", r#"{"environment_id":"2","n":"fence"}"#);
    gets_only(&mut both, &[]).await;
    assert_eq!(one.json().await["data"]["n"], "after");
    // Whoever chose nothing got nothing: the next thing it hears is its own environment's.
    none.send(r#"{"type":"subscribe","environment_id":"env_5"}"#).await;
    heeded(&mut none).await;
    bridge.sandbox.trigger("roblox-sync", "asset_ready", r#"{"environment_id":"env_5","n":"fence"}"#);
    gets_only(&mut none, &[]).await;
}

/// All that the client sent before has been heeded.
async fn heeded(client: &mut OldClient) {
    client.send(r#"{"type":"fence"}"#).await;
    assert_eq!(client.error_code().await, "UNKNOWN_MESSAGE_TYPE");
}

/// The next frames' `n`, with the answer to `fence` among them: events come from the link and answers from
/// the session, so their order is not fixed.
async fn next_frames(client: &mut OldClient, count: usize) -> Vec<String> {
    let mut frames = Vec::new();
    for _ in 0..count {
        let frame = client.json().await;
        frames.push(frame["data"]["n"].as_str().unwrap_or("answer").to_owned());
    }
    frames.sort();
    frames
}

/// A bridge that lets one address try any number of wrong tokens.
async fn start(routes: &str) -> Bridge {
    Bridge::with(routes, |config| config.auth.as_mut().unwrap().failures_per_address.burst = 1000).await
}

/// Sends a token; gives the whole answer.
async fn try_token(bridge: &Bridge, path: &str, token: &str) -> Value {
    let mut client = bridge.connect(path).await;
    client.auth(token).await;
    client.json().await
}

async fn is_refused(bridge: &Bridge, path: &str, token: &str, code: &str) {
    let answer = try_token(bridge, path, token).await;
    assert_eq!((&answer["type"], &answer["data"]["error"]), (&json!("auth_error"), &json!(code)), "{answer}");
    assert!(bridge.sandbox.ever_subscribed().is_empty(), "nothing may be subscribed upstream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_the_permission_never_subscribes() {
    let bridge = Bridge::start().await;
    for permissions in [
        json!([]),
        json!(["roblox:read"]),
        json!(["content:generate:not"]),
        json!(["CONTENT:GENERATE"]),
        json!(["content:*"]),
        json!("roblox:read content"),
        json!(null),
    ] {
        let token = token_with("1", |claims| claims["permissions"] = permissions.clone());
        is_refused(&bridge, "/ws/content/gen_1", &token, "MISSING_PERMISSION").await;
    }
    let token = token_with("1", |claims| {
        claims.as_object_mut().unwrap().remove("permissions");
    });
    is_refused(&bridge, "/ws/content/gen_1", &token, "MISSING_PERMISSION").await;
    is_refused(&bridge, "/ws/roblox", &token, "MISSING_PERMISSION").await;
    is_refused(&bridge, "/ws/command/c", &token, "MISSING_PERMISSION").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_owner_never_subscribes() {
    let bridge = Bridge::start().await;
    for owned in [
        json!([]),
        json!(["p2"]),
        json!(["p"]),
        json!(["p11"]),
        json!(["P1"]),
        json!("p1 p2"),
        json!({"p1": true}),
        json!([["p1"]]),
        json!(null),
    ] {
        let token = token_with("1", |claims| claims["plugin_ids"] = owned.clone());
        is_refused(&bridge, "/ws/plugin/p1", &token, "NOT_OWNER").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_never_subscribes() {
    let bridge = start(SHIPPED).await;
    for seconds in [-11, -3600, -4_000_000_000_i64] {
        let token = token_with("1", |claims| claims["exp"] = json!(Now::read().unix_seconds() + seconds));
        is_refused(&bridge, "/ws/content/gen_1", &token, "INVALID_TOKEN").await;
    }
    for exp in [json!(null), json!("9999999999"), json!([9_999_999_999_i64]), json!(true)] {
        let token = token_with("1", |claims| claims["exp"] = exp.clone());
        is_refused(&bridge, "/ws/content/gen_1", &token, "INVALID_TOKEN").await;
    }
    let early = token_with("1", |claims| claims["nbf"] = json!(in_an_hour()));
    is_refused(&bridge, "/ws/content/gen_1", &early, "INVALID_TOKEN").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_token_never_subscribes() {
    let bridge = start(SHIPPED).await;
    let claims = URL_SAFE_NO_PAD.encode(claims(in_an_hour()));
    let good = mint_hs256(
        JWT_SECRET.as_bytes(),
        &String::from_utf8(URL_SAFE_NO_PAD.decode(&claims).unwrap()).unwrap(),
    );
    let signature = good.rsplit('.').next().unwrap().to_owned();
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"None","typ":"JWT"}"#,
        r#"{"alg":"nOnE"}"#,
        r#"{"alg":""}"#,
        r#"{"alg":null}"#,
        r#"{"typ":"JWT"}"#,
        r#"{"alg":"HS256","alg":"none"}"#,
    ] {
        let header = URL_SAFE_NO_PAD.encode(header);
        for end in ["", signature.as_str(), "AAAA"] {
            is_refused(&bridge, "/ws/content/gen_1", &format!("{header}.{claims}.{end}"), "INVALID_TOKEN")
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_or_broken_token_never_subscribes() {
    let bridge = start(SHIPPED).await;
    let good = token("1");
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = signed.split_once('.').unwrap();
    let other = URL_SAFE_NO_PAD.encode(claims(in_an_hour()).replace("123", "124"));
    for token in [
        mint_hs256(b"another secret", &claims(in_an_hour())),
        mint_hs256(b"", &claims(in_an_hour())),
        format!("{header}.{other}.{signature}"),
        format!("{signed}."),
        signed.to_owned(),
        format!("{good}="),
        format!("{good}.{signature}"),
        format!("{header}.{payload}.{}", "A".repeat(43)),
        String::new(),
        "....".to_owned(),
        "x".repeat(20_000),
    ] {
        is_refused(&bridge, "/ws/content/gen_1", &token, "INVALID_TOKEN").await;
    }
}

/// The routes verify ES256 with a public key; the public key is public, so it must not serve as an HMAC's
/// secret.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_confusion_never_subscribes() {
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = key.public_key_pem();
    let directory = temporary_directory("pem");
    let file = directory.join("public.pem");
    std::fs::write(&file, &pem).unwrap();
    let by_key = format!("pem_file = \"{}\"", file.display());
    let routes = config_text(SHIPPED, "secret = \"${JWT_SECRET}\"", &by_key);
    let routes = config_text(&routes, "algorithms = [\"HS256\"]", "algorithms = [\"ES256\"]");
    let bridge = start(&routes).await;
    let der = key.subject_public_key_info();
    for secret in [pem.as_bytes(), pem.trim().as_bytes(), der.as_slice(), key.der_bytes(), b""] {
        let token = mint_hs256(secret, &claims(in_an_hour()));
        is_refused(&bridge, "/ws/content/gen_1", &token, "INVALID_TOKEN").await;
        let es256 = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","typ":"JWT"}"#);
        let (_, rest) = token.split_once('.').unwrap();
        is_refused(&bridge, "/ws/content/gen_1", &format!("{es256}.{rest}"), "INVALID_TOKEN").await;
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_value_cannot_select_another_channel_kind() {
    let more = r#"
[[routes]]
name = "rooms-of-a-kind"
path = "/rooms/{kind:[a-z]+}/{room}"
dialect = "typed"
channel = "room-{kind}-{room}"
"#;
    let bridge = Bridge::start_with(more).await;
    for path in [
        "/ws/content/a%23b",
        "/ws/content/a%2Fb",
        "/ws/content/a%20b",
        "/ws/content/%00",
        "/ws/content/%C3%A9",
        "/ws/content/%FF",
        "/ws/content/a:b",
        "/ws/content/{session_id}",
        "/ws/content/",
        "/ws/content//gen_1",
        "/ws/content/..%2Fplugin%2Fp1",
    ] {
        let refused = OldClient::try_connect(bridge.address(), path).await;
        assert!(refused.is_err(), "{path}");
    }
    let long = format!("/ws/content/{}", "x".repeat(165));
    assert!(OldClient::try_connect(bridge.address(), &long).await.is_err());
    // What is legal in a name stays behind the template's own beginning.
    for value in ["private-x", "presence-x", "private-encrypted-x", "cache-x"] {
        let mut client = bridge.login(&format!("/ws/content/{value}")).await;
        let channel = format!("content-generation-{value}");
        bridge.sandbox.trigger(value, "e", r#"{"n":"x"}"#);
        bridge.sandbox.trigger(&channel, "e", r#"{"n":"fence"}"#);
        gets_only(&mut client, &[]).await;
    }
    let _room = bridge.connect("/rooms/private/presence-x").await;
    let mut channels = bridge.connect("/ws").await;
    for name in
        ["private-x", "presence-x", "agent-status", "private-plugin-p1", "files,git", "FILES", "files "]
    {
        channels.send(&json!({"type": "subscribe", "channel": name}).to_string()).await;
        assert_eq!(channels.error_code().await, "INVALID_FIELD", "{name}");
    }
    let foreign = |name: &&String| !name.starts_with("content-generation-") && !name.starts_with("room-");
    assert_eq!(bridge.sandbox.ever_subscribed().iter().find(foreign), None);
}

near_and_far!(events_before_auth_are_never_delivered);
async fn events_before_auth_are_never_delivered() {
    let bridge = Bridge::start().await;
    let mut inside = bridge.login("/ws/agent/agent_7").await;
    let mut stranger = bridge.connect("/ws/agent/agent_7").await;
    stranger.send(r#"{"type":"subscribe","agent_id":"agent_7"}"#).await;
    let refusal = stranger.json().await;
    assert_eq!(refusal["data"]["error_code"], "WEBSOCKET_AUTH_REQUIRED");
    assert_eq!(refusal["data"]["details"]["endpoint"], "/ws/agent/agent_7");
    bridge.sandbox.trigger("agent-status", "task_result", r#"{"agent_id":"agent_7","n":"secret"}"#);
    assert_eq!(inside.json().await["data"]["n"], "secret");
    stranger.auth("wrong").await;
    assert_eq!(stranger.error_code().await, "INVALID_TOKEN");
    bridge.sandbox.trigger("agent-status", "task_result", r#"{"agent_id":"agent_7","n":"secret"}"#);
    assert_eq!(inside.json().await["data"]["n"], "secret");
    stranger.auth(&token("9")).await;
    assert_eq!(stranger.json().await["type"], "auth_response");
    bridge.sandbox.trigger("agent-status", "task_result", r#"{"agent_id":"agent_7","n":"fence"}"#);
    gets_only(&mut stranger, &[]).await;
}

near_and_far!(messages_before_auth_are_never_published);
async fn messages_before_auth_are_never_published() {
    let bridge = Bridge::start().await;
    let mut stranger = bridge.connect("/ws/plugin/p1").await;
    stranger.send(r#"{"type":"run","data":1}"#).await;
    assert_eq!(stranger.error_code().await, "WEBSOCKET_AUTH_REQUIRED");
    stranger.auth("wrong").await;
    assert_eq!(stranger.error_code().await, "INVALID_TOKEN");
    stranger.send(r#"{"type":"run","data":2}"#).await;
    assert_eq!(stranger.error_code().await, "WEBSOCKET_AUTH_REQUIRED");
    stranger.auth(&token("1")).await;
    assert_eq!(stranger.json().await["type"], "auth_response");
    stranger.send(r#"{"type":"run","data":3}"#).await;
    let mut native = bridge.app().native("private-plugin-p1").await;
    stranger.send(r#"{"type":"run","data":4}"#).await;
    while native.event().await.1 != "4" {}
    let published: Vec<_> = bridge.sandbox.published().into_iter().map(|event| event.data).collect();
    assert_eq!(published, ["3", "4"]);
}

near_and_far!(a_live_connection_cannot_change_its_user);
/// A renewal for another user changes nothing.
async fn a_live_connection_cannot_change_its_user() {
    let bridge = Bridge::start().await;
    let mut client = bridge.login_as("/ws/plugin/p1", "1").await;
    client.auth(&token("2")).await;
    assert_eq!(client.error_code().await, "OTHER_USER");
    client.auth(&token("1")).await;
    assert_eq!(client.json().await["data"]["user_id"], "1");
}

near_and_far!(an_event_encrypted_with_another_apps_key_is_not_delivered);
async fn an_event_encrypted_with_another_apps_key_is_not_delivered() {
    const KEY: &str = "zyrm8pvV2C9fJcBfhyXzvxbJVN/H7QLmbe0xJi1GhPU=";
    const TOLD: &str = r#"
[[routes]]
name = "told"
group = "typed-api"
path = "/told/{name}"
channel = "private-encrypted-{name}"
on_undecryptable = "notify"
shares = ["secure"]
"#;
    let routes = format!("{SHIPPED}\n{TOLD}");
    let bridge = Bridge::with_env(&routes, &[("PUSHER_ENCRYPTION_MASTER_KEY", KEY)], |_| {}).await;
    let mut client = bridge.login_as("/ws/secure/s1", "1").await;
    let mut told = bridge.login_as("/told/s1", "2").await;
    let (own, foreign) = (MasterKey::parse(KEY).unwrap(), MasterKey::new([8; KEY_BYTES]));
    let (channel, data) = ("private-encrypted-s1", r#"{"n":"x"}"#);
    let sealed =
        |key: &MasterKey, channel: &str, data: &str| key.of_channel(channel).seal([1; NONCE_BYTES], data);
    for wrong in [
        sealed(&foreign, channel, data),
        sealed(&own, "private-encrypted-s2", data),
        data.to_owned(),
        format!(r#"{{"type":"secret","data":{data}}}"#),
    ] {
        bridge.sandbox.trigger(channel, "secret", &wrong);
    }
    bridge.sandbox.trigger(channel, "secret", &sealed(&own, channel, r#"{"n":"fence"}"#));
    gets_only(&mut client, &[]).await;
    // A notice is heard by the session, so the next event may come before it.
    let (mut is_told, mut has_fence) = (false, false);
    while !(is_told && has_fence) {
        let frame = told.json().await;
        if frame["type"] == "error" {
            assert_eq!(frame["data"]["error_code"], "EVENT_NOT_DECRYPTED");
            is_told = true;
        } else {
            assert_eq!(frame["data"]["n"], "fence");
            has_fence = true;
        }
    }
    for reason in ["wrong_key", "not_encrypted"] {
        let series = format!("pusher_bridge_undecryptable_total{{reason=\"{reason}\"}}");
        assert_eq!(bridge.metric(&series), 2.0, "{reason}");
    }
}

near_and_far!(a_cached_event_of_another_channel_is_never_replayed);
async fn a_cached_event_of_another_channel_is_never_replayed() {
    let bridge = Bridge::start().await;
    let mut first = bridge.login_as("/ws/state/x1", "1").await;
    let mut other = bridge.login_as("/ws/state/x2", "1").await;
    for channel in ["private-cache-state-x1", "private-cache-state-X2", "private-cache-state-x"] {
        bridge.sandbox.trigger(channel, "state", r#"{"n":"x"}"#);
    }
    assert_eq!(first.json().await["data"]["n"], "x");
    let mut late = [bridge.login_as("/ws/state/x2", "2").await, bridge.login_as("/ws/state/x1", "2").await];
    assert_eq!(late[1].json().await["data"]["n"], "x", "who is on its channel gets it");
    bridge.sandbox.trigger("private-cache-state-x2", "state", r#"{"n":"fence"}"#);
    gets_only(&mut other, &[]).await;
    gets_only(&mut late[0], &[]).await;
}
