//! What new clients and publishers ask for, by real HTTP.

use std::time::Duration;

use pusher_bridge::config::Config;
use pusher_bridge::limits::rate::Rate;
use pusher_bridge::pusher::sign;
use pusher_bridge::upstream::settings::OtherKey;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::support::bridge::{SHIPPED, config, token, token_with};
use crate::support::raw::{Answer, Raw};
use crate::support::{Bridge, patiently};

const AUTH: &str = "/pusher/auth";
const USER: &str = "/pusher/user-auth";
const NOTIFY: &str = "/api/internal/notify";
const HOOKS: &str = "/pusher/webhooks";
const NOTIFY_TOKEN: &str = "a token of the tests' backends";

const MORE: &str = r#"
[[routes]]
name = "mine"
group = "typed-api"
path = "/ws/mine"
channel = "private-mine-{auth.user}"

[[routes]]
name = "private-agents"
group = "typed-api"
path = "/ws/private-agents/{agent_id}"
channel = "private-agents"
filter = { field = "agent_id", equals = "{agent_id}" }
"#;

/// The shipped file, with every endpoint.
fn shipped() -> String {
    if SHIPPED.contains("\n[endpoints]") {
        return SHIPPED.to_owned();
    }
    let endpoints = format!(
        "[endpoints]\nchannel_auth = [\"{AUTH}\", \"/api/v1/pusher/auth\"]\nuser_auth = \"{USER}\"\n\
         notify = {{ path = \"{NOTIFY}\", token = \"${{NOTIFY_TOKEN:-}}\" }}\nwebhooks = \"{HOOKS}\"\n\n\
         [dialects.typed.in]"
    );
    SHIPPED.replacen("[dialects.typed.in]", &endpoints, 1)
}

/// Without routes that have a user's own channel.
fn without_user_routes(text: &str) -> String {
    let parts = text.split("\n[[routes]]");
    parts.filter(|part| !part.contains("channel = \"#")).collect::<Vec<_>>().join("\n[[routes]]")
}

/// The shipped routes and more, with every endpoint.
async fn start_with(change: impl FnOnce(&mut Config)) -> Bridge {
    let token = NOTIFY_TOKEN.replace(' ', "-");
    Bridge::with_env(&format!("{}\n{MORE}", shipped()), &[("NOTIFY_TOKEN", &token)], change).await
}

async fn start() -> Bridge {
    start_with(|_| {}).await
}

fn notify_token() -> String {
    NOTIFY_TOKEN.replace(' ', "-")
}

/// A request with a body, on a connection that stays.
fn post(path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut out = format!("POST {path} HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n");
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out + &format!("Content-Length: {}\r\n\r\n{body}", body.len())
}

fn form(channel: &str) -> String {
    format!("socket_id=123.456&channel_name={channel}")
}

async fn ask(bridge: &Bridge, path: &str, token: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let kind = if body.starts_with('{') { "application/json" } else { "application/x-www-form-urlencoded" };
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", kind)];
    Raw::ask(bridge.address(), post(path, &headers, body)).await
}

fn json(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), "application/json", "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, error: &str) {
    assert_eq!((answer.status, json(answer)["error"].as_str()), (status, Some(error)), "{answer:?}");
    assert_eq!(answer.header("retry-after").is_empty(), !matches!(status, 429 | 503), "{answer:?}");
    assert_eq!(answer.header("www-authenticate").is_empty(), status != 401, "{answer:?}");
}

fn requests(bridge: &Bridge, endpoint: &str, result: &str) -> f64 {
    let series = "pusher_bridge_endpoint_requests_total";
    bridge.metric(&format!("{series}{{endpoint=\"{endpoint}\",result=\"{result}\"}}"))
}

fn secret(bridge: &Bridge) -> (String, SecretString) {
    let env = bridge.app().environment();
    (env["PUSHER_KEY"].clone(), SecretString::from(env["PUSHER_SECRET"].clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn new_clients_are_authorized_for_what_their_routes_would_give_them() {
    let bridge = start().await;
    let (key, secret) = secret(&bridge);
    let strangers = token_with("9", |claims| claims["permissions"] = json!([]));
    for (channel, token, given) in [
        ("private-plugin-p1", token("123"), true),
        ("private-plugin-p2", token("123"), false),
        ("private-command-c1", token("123"), true),
        ("private-command-c1", strangers.clone(), false),
        ("private-mine-123", token("123"), true),
        ("private-mine-124", token("123"), false),
        ("private-nobodys", token("123"), false),
        ("content-generation-g1", token("123"), true),
        ("content-generation-g1", strangers.clone(), false),
        ("files", strangers.clone(), true),
        ("other", strangers, false),
    ] {
        for path in [AUTH, "/api/v1/pusher/auth"] {
            for body in
                [form(channel), json!({ "socket_id": "123.456", "channel_name": channel }).to_string()]
            {
                let answer = ask(&bridge, path, &token, &body).await;
                if given {
                    let auth = sign::channel_auth(&key, &secret, "123.456", channel, None);
                    assert_eq!((answer.status, json(&answer)), (200, json!({ "auth": auth })), "{channel}");
                    assert_eq!(answer.header("cache-control"), "no-store");
                } else {
                    assert_refused(&answer, 403, "forbidden");
                }
            }
        }
    }
    assert_eq!(requests(&bridge, "channel_auth", "ok"), 4.0 * 5.0);
    assert_eq!(requests(&bridge, "channel_auth", "forbidden"), 4.0 * 6.0);
}

/// Pusher gives a subscriber all events of a channel: so who may have a part of them gets none.
#[tokio::test(flavor = "multi_thread")]
async fn a_filtered_channel_is_not_authorized_unless_the_file_says_so() {
    let channels = ["agent-status", "private-agents", "roblox-sync"];
    let bridge = start().await;
    for channel in channels {
        let answer = ask(&bridge, AUTH, &token("123"), &form(channel)).await;
        assert_refused(&answer, 403, "forbidden");
        assert!(answer.body.contains("part of this channel"), "{answer:?}");
    }
    let bridge = start_with(|config| config.endpoints.filtered = vec!["private-agents".into()]).await;
    for channel in channels {
        let status = if channel == "private-agents" { 200 } else { 403 };
        assert_eq!(ask(&bridge, AUTH, &token("123"), &form(channel)).await.status, status, "{channel}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_sign_in_as_themselves() {
    let bridge = start().await;
    let (key, secret) = secret(&bridge);
    let answer = ask(&bridge, USER, &token("123"), "socket_id=123.456").await;
    let said = json(&answer);
    let data = said["user_data"].as_str().unwrap();
    let user: Value = serde_json::from_str(data).unwrap();
    assert_eq!((answer.status, &user["id"]), (200, &json!("123")));
    assert_eq!(said["auth"], sign::user_auth(&key, &secret, "123.456", data));
    let odd = ask(&bridge, USER, &token("a:b"), "socket_id=123.456").await;
    assert_refused(&odd, 403, "forbidden");
}

/// A signature over `1.2::user::…` would sign somebody in.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_that_could_be_taken_for_something_else() {
    let bridge = start().await;
    for body in [
        "",
        "socket_id=1.2",
        "channel_name=files",
        "socket_id=1.2%3A%3Auser%3A%3A%7B%22id%22%3A%221%22%7D&channel_name=files",
        "socket_id=1.2&channel_name=files%3Ax",
        "socket_id=1.2&channel_name=%23server-to-user-123",
        "socket_id=1.2&socket_id=1.3&channel_name=files",
        r#"{"socket_id":"1.2::user::","channel_name":"files"}"#,
        "{",
    ] {
        assert_refused(&ask(&bridge, AUTH, &token("123"), body).await, 400, "malformed");
    }
    assert_refused(&ask(&bridge, USER, &token("123"), "socket_id=1.2%3Afiles").await, 400, "malformed");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_count_with_those_of_websockets_and_lock_no_neighbour_out() {
    let bridge = start_with(|config| {
        config.auth.as_mut().unwrap().failures_per_address =
            Rate { count: 1, per: Duration::from_secs(3600), burst: 3 };
    })
    .await;
    let mut old = bridge.connect("/ws/content/g").await;
    old.auth("wrong").await;
    assert_eq!(old.error_code().await, "INVALID_TOKEN");
    let files = form("files");
    assert_refused(&ask(&bridge, AUTH, "wrong", &files).await, 401, "wrong_token");
    assert_refused(&ask(&bridge, NOTIFY, "wrong", "{}").await, 401, "wrong_token");
    for (path, body) in [(AUTH, files.as_str()), (USER, "socket_id=1.2"), (NOTIFY, "{}")] {
        assert_refused(&ask(&bridge, path, "wrong", body).await, 429, "rate_limited");
    }
    let mut old = bridge.connect("/ws/content/g").await;
    old.auth("wrong").await;
    assert_eq!(old.error_code().await, "AUTH_RATE_LIMITED");
    // Who has a right one is answered, from the same address.
    assert_eq!(ask(&bridge, AUTH, &token("123"), &files).await.status, 200);
    assert_eq!(ask(&bridge, USER, &token("123"), "socket_id=1.2").await.status, 200);
    let event = r#"{"channel":"files","event":"e","data":1}"#;
    assert_eq!(ask(&bridge, NOTIFY, &notify_token(), event).await.status, 200);
    let none = Raw::ask(bridge.address(), post(AUTH, &[], &files)).await;
    assert_refused(&none, 401, "no_token");
    assert_eq!(requests(&bridge, "channel_auth", "rate_limited"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_without_right_tokens_and_a_user_with_them_have_rates() {
    let bridge = start_with(|config| {
        let rate = Some(Rate { count: 1, per: Duration::from_secs(3600), burst: 2 });
        config.endpoints.limits.unproven_per_address = rate;
        config.endpoints.limits.requests_per_user = rate;
    })
    .await;
    for (status, error) in [(401, "no_token"), (401, "no_token"), (429, "rate_limited")] {
        let answer = Raw::ask(bridge.address(), post(AUTH, &[], &form("files"))).await;
        assert_refused(&answer, status, error);
    }
    for status in [200, 200, 429] {
        assert_eq!(ask(&bridge, AUTH, &token("123"), &form("files")).await.status, status);
    }
    assert_refused(&ask(&bridge, USER, &token("123"), "socket_id=1.2").await, 429, "user_rate_limited");
    assert_eq!(ask(&bridge, AUTH, &token("124"), &form("files")).await.status, 200, "a neighbour");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backends_event_is_pushers_when_it_is_told_so() {
    let bridge = start().await;
    let mut old = bridge.connect("/ws").await;
    old.send(r#"{"type":"subscribe","channel":"files"}"#).await;
    bridge.sandbox.wait_for(|view| view.subscribed("files") == 1).await;
    let data = r#"{"n": 12345678901234567890.10, "s":"\u00e9"}"#;
    let body = format!(r#"{{"channel":"files","event":"changed","data":{data}}}"#);
    let answer = ask(&bridge, NOTIFY, &notify_token(), &body).await;
    assert_eq!((answer.status, json(&answer)), (200, json!({ "success": true })));
    assert!(old.text().await.contains(r#""data":{"n": 12345678901234567890.10, "s":"\u00e9"}"#));
    let several = r#"{"channels":["files","git"],"event":"e","data":"plain","socket_id":"1.2"}"#;
    assert_eq!(ask(&bridge, NOTIFY, &notify_token(), several).await.status, 200);
    let published = bridge.sandbox.published();
    let last: Vec<_> =
        published.iter().rev().take(2).map(|p| (&*p.channel, &*p.data, p.socket_id.as_deref())).collect();
    assert_eq!(last, [("git", "plain", Some("1.2")), ("files", "plain", Some("1.2"))]);
    assert_eq!(published[0].socket_id, None, "it comes back to old clients as every server's event does");
    for data in ["0", "false", r#""""#] {
        let body = format!(r#"{{"channel":"git","event":"e","data":{data}}}"#);
        assert_eq!(ask(&bridge, NOTIFY, &notify_token(), &body).await.status, 200, "{data}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_is_told_why_its_event_is_not_pushers() {
    let bridge = start().await;
    let token = notify_token();
    let wrong = ask(&bridge, NOTIFY, &token, r#"{"channel":"a b","event":null}"#).await;
    assert_refused(&wrong, 400, "malformed");
    let told = json(&wrong);
    assert_eq!(
        (&told["missing"], told["invalid"].as_object().unwrap().len()),
        (&json!(["event", "data"]), 1)
    );
    let large = json!({ "channel": "files", "event": "e", "data": "x".repeat(10_241) }).to_string();
    assert_refused(&ask(&bridge, NOTIFY, &token, &large).await, 413, "too_large");
    let event = r#"{"channel":"files","event":"e","data":1}"#;
    assert_refused(&Raw::ask(bridge.address(), post(NOTIFY, &[], event)).await, 401, "no_token");
    bridge.sandbox.fail_publishes(2, 403, None);
    let refused = ask(&bridge, NOTIFY, &token, event).await;
    assert_refused(&refused, 502, "refused");
    assert!(refused.body.contains("HTTP 403"), "{refused:?}");
    bridge.sandbox.fail_publishes(1, 503, Some(7));
    assert_refused(
        &ask(&bridge, NOTIFY, &token, r#"{"channels":["a","b"],"event":"e","data":1}"#).await,
        502,
        "refused",
    );
    let busy = ask(&bridge, NOTIFY, &token, event).await;
    assert_refused(&busy, 503, "unavailable");
    assert_eq!(busy.header("retry-after"), "7");
    assert_eq!(ask(&bridge, NOTIFY, &token, event).await.status, 200);
    let off = start_with(|config| config.endpoints.notify.as_mut().unwrap().token = None).await;
    assert_eq!(ask(&off, NOTIFY, &token, event).await.status, 404, "without a token there is none");
}

fn webhook(bridge: &Bridge, body: &str) -> (String, String) {
    let (key, secret) = secret(bridge);
    (key, sign::webhook_signature(&secret, body.as_bytes()))
}

async fn hook(bridge: &Bridge, key: &str, signature: &str, body: &str) -> Answer {
    let headers =
        [("X-Pusher-Key", key), ("X-Pusher-Signature", signature), ("Content-Type", "application/json")];
    Raw::ask(bridge.address(), post(HOOKS, &headers, body)).await
}

fn batch(seconds_ago: i64, name: &str, channel: &str) -> String {
    let time_ms = (pusher_bridge::clock::Now::read().unix_seconds() - seconds_ago) * 1000;
    json!({ "time_ms": time_ms, "events": [{ "name": name, "channel": channel }] }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_by_other_keys_are_believed_as_long_as_the_file_has_them() {
    let bridge = start_with(|config| config.endpoints.limits.unproven_per_address = None).await;
    let (old, old_secret) = secret(&bridge);
    let new_secret = SecretString::from("new-secret");
    bridge.sandbox.add_key("new-key", "new-secret");
    let hooked = async |key: &str, secret: &SecretString, name: &str| {
        let body = batch(0, "cache_miss", &format!("cache-{name}"));
        hook(&bridge, key, &sign::webhook_signature(secret, body.as_bytes()), &body).await.status
    };
    assert_eq!(hooked("new-key", &new_secret, "a").await, 401, "nobody told of it");
    let with = |other_keys: Vec<OtherKey>| {
        let mut env = bridge.app().environment();
        env.insert("NOTIFY_TOKEN".to_owned(), NOTIFY_TOKEN.replace(' ', "-"));
        let before = bridge.running.config();
        let mut config = config(&format!("{}\n{MORE}", shipped()), &env);
        (config.server, config.upstream) = (before.server.clone(), before.upstream.clone());
        config.endpoints = before.endpoints.clone();
        let app = &mut config.upstream.app;
        (app.key, app.secret, app.other_keys) = ("new-key".to_owned(), new_secret.clone(), other_keys);
        config
    };
    bridge.reload(with(vec![OtherKey { key: old.clone(), secret: old_secret.clone() }])).await;
    assert_eq!(hooked(&old, &old_secret, "b").await, 200);
    assert_eq!(hooked("new-key", &new_secret, "c").await, 200);
    assert_eq!(hooked(&old, &new_secret, "d").await, 401, "each has its own secret");
    bridge.reload(with(Vec::new())).await;
    assert_eq!(hooked(&old, &old_secret, "e").await, 401);
    assert_eq!(hooked("new-key", &new_secret, "f").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_believed_for_their_signature_and_once() {
    let bridge = start_with(|config| config.endpoints.limits.unproven_per_address = None).await;
    let body = batch(0, "cache_miss", "cache-a");
    let (key, signature) = webhook(&bridge, &body);
    for at in 0..body.len() {
        let mut altered = body.clone().into_bytes();
        altered[at] ^= 1;
        let altered = String::from_utf8(altered).unwrap();
        assert_refused(&hook(&bridge, &key, &signature, &altered).await, 401, "wrong_token");
    }
    for bad in ["", "no hex", "é", &signature[1..], &signature.to_uppercase(), &format!("{signature}00")] {
        assert_refused(&hook(&bridge, &key, bad, &body).await, 401, "wrong_token");
    }
    assert_refused(&hook(&bridge, "another", &signature, &body).await, 401, "wrong_token");
    let missed = || bridge.metric(r#"pusher_bridge_webhook_events_total{event="cache_miss"}"#);
    assert_eq!(missed(), 0.0);
    for result in ["ok", "repeated"] {
        assert_eq!(hook(&bridge, &key, &signature, &body).await.status, 200);
        assert_eq!((requests(&bridge, "webhooks", result), missed()), (1.0, 1.0));
    }
    for ago in [1000, -1000] {
        let old = batch(ago, "cache_miss", "cache-a");
        let (key, signature) = webhook(&bridge, &old);
        assert_refused(&hook(&bridge, &key, &signature, &old).await, 400, "stale");
    }
    let bad = r#"{"time_ms":"x","events":[]}"#;
    let (key, signature) = webhook(&bridge, bad);
    assert_refused(&hook(&bridge, &key, &signature, bad).await, 400, "malformed");
    assert_eq!(missed(), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_limits_of_bytes_and_time() {
    let bridge = start_with(|config| {
        config.endpoints.limits.body_timeout = Duration::from_millis(300);
        config.endpoints.limits.bodies_bytes_max = 300 * 1024;
    })
    .await;
    let bearer = format!("Bearer {}", token("123"));
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/x-www-form-urlencoded")];
    let large = format!("{}&x={}", form("files"), "x".repeat(20_000));
    assert_refused(&Raw::ask(bridge.address(), post(AUTH, &headers, &large)).await, 413, "too_large");
    let mut chunked = Raw::connect(bridge.address()).await;
    let head = format!(
        "POST {AUTH} HTTP/1.1\r\nHost: a\r\nAuthorization: {bearer}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    chunked.send(head).await;
    chunked.send(format!("5000\r\n{}\r\n0\r\n\r\n", "x".repeat(0x5000))).await;
    assert_refused(&chunked.answer().await, 413, "too_large");
    let mut slow = Raw::connect(bridge.address()).await;
    slow.send(post(AUTH, &headers, &form("files")).trim_end_matches("files")).await;
    assert_refused(&slow.answer().await, 408, "timeout");
    // One body that does not come takes the place of another.
    let hooks =
        |length: usize| format!("POST {HOOKS} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    let bridge = start_with(|config| {
        config.endpoints.limits.body_timeout = Duration::from_secs(8);
        config.endpoints.limits.bodies_bytes_max = 300 * 1024;
    })
    .await;
    let mut waiting = Raw::connect(bridge.address()).await;
    waiting.send(hooks(200 * 1024) + "{").await;
    let mut refused = Raw::connect(bridge.address()).await;
    patiently("the first body to take its place", async {
        loop {
            refused.send(post(HOOKS, &[], &"x".repeat(200 * 1024))).await;
            let answer = refused.answer().await;
            if answer.status == 503 {
                break assert_refused(&answer, 503, "unavailable");
            }
            refused = Raw::connect(bridge.address()).await;
        }
    })
    .await;
    assert_eq!(ask(&bridge, AUTH, &token("123"), &form("files")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_pages_may_ask_and_others_may_not() {
    let bridge = start_with(|config| {
        config.endpoints.origins = origins("https://app.example.com");
    })
    .await;
    let preflight = |origin: &str| {
        format!(
            "OPTIONS {AUTH} HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: authorization,x-custom\r\n\r\n"
        )
    };
    let answer = Raw::ask(bridge.address(), preflight("https://app.example.com")).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example.com"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "authorization,x-custom"),
        ("vary", "Origin, Access-Control-Request-Headers"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let other = Raw::ask(bridge.address(), preflight("https://evil.example")).await;
    assert_refused(&other, 403, "origin");
    assert_eq!(
        (other.header("access-control-allow-origin"), other.header("vary")),
        (String::new(), "Origin".into())
    );
    let bearer = format!("Bearer {}", token("123"));
    for (origin, named) in [("https://app.example.com", true), ("https://evil.example", false)] {
        let headers = [("Authorization", bearer.as_str()), ("Origin", origin)];
        let answer = Raw::ask(bridge.address(), post(AUTH, &headers, &form("files"))).await;
        assert_eq!(answer.header("access-control-allow-origin"), if named { origin } else { "" });
        assert_eq!(answer.header("vary"), "Origin");
    }
    let get = Raw::ask(bridge.address(), format!("GET {AUTH} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    assert_refused(&get, 405, "method");
    assert_eq!(get.header("allow"), "POST, OPTIONS");
}

/// The list as the file's is read.
fn origins(origin: &str) -> pusher_bridge::routes::origins::Origins {
    let text = format!(
        "[upstream]\napp_id = \"1\"\nkey = \"k\"\nsecret = \"s\"\ncluster = \"mt1\"\n[endpoints]\norigins = [\"{origin}\"]\n\
         [dialects.d.out]\nevent = '{{\"type\":{{event}},\"data\":{{data}}}}'\nerror = '{{\"type\":\"error\",\"error_code\":{{code}}}}'\n\
         [[routes]]\nname = \"a\"\npath = \"/a\"\nchannel = \"a\"\ndialect = \"d\"\n"
    );
    let source = pusher_bridge::config::Source { name: "x".into(), text };
    pusher_bridge::config::load(&source, &|_| None).unwrap().config.endpoints.origins
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_follow_each_other_on_one_connection() {
    let bridge = start().await;
    let mut raw = Raw::connect(bridge.address()).await;
    let bearer = format!("Bearer {}", token("123"));
    for (channel, status) in [("files", 200), ("nobodys", 403), ("files", 200)] {
        raw.send(post(AUTH, &[("Authorization", &bearer)], &form(channel))).await;
        assert_eq!(raw.answer().await.status, status);
    }
    raw.send(post(AUTH, &[], &form("files"))).await;
    assert_refused(&raw.answer().await, 401, "no_token");
    raw.upgrade("/ws/native").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_configured_is_not_there() {
    let bridge = start_with(|config| {
        config.endpoints.channel_auth.clear();
        config.endpoints.user_auth = None;
        config.endpoints.notify = None;
        config.endpoints.webhooks = None;
    })
    .await;
    for path in [AUTH, USER, NOTIFY, HOOKS] {
        assert_eq!(ask(&bridge, path, &token("123"), "{}").await.status, 404, "{path}");
    }
}

const MEMBERS: &str = r#"
[[routes]]
name = "presence-room"
group = "typed-api"
path = "/ws/presence-room/{id}"
channel = "presence-of-{id}"
presence = "each_user"
user_info = '{"name":{claim.name},"role":{claim.role}}'

[[routes]]
name = "sealed"
group = "typed-api"
path = "/ws/sealed/{name}"
channel = "private-encrypted-of-{name}"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn members_are_told_of_as_the_route_says_and_sealed_channels_have_their_secret() {
    let key = "zyrm8pvV2C9fJcBfhyXzvxbJVN/H7QLmbe0xJi1GhPU=";
    let text = match SHIPPED.contains("encryption_master_key") {
        true => shipped(),
        false => shipped().replacen("\n[auth]", &format!("\nencryption_master_key = \"{key}\"\n\n[auth]"), 1),
    };
    let env = [("PUSHER_ENCRYPTION_MASTER_KEY", key)];
    let bridge =
        Bridge::with_env(&format!("{}\n{MEMBERS}", text.split("\n[[routes]]").next().unwrap()), &env, |_| {})
            .await;
    let master = pusher_bridge::pusher::encryption::MasterKey::parse(key).unwrap();
    let (key, secret) = secret(&bridge);
    let who = token_with("123", |claims| claims["name"] = json!("Ann \"A\""));
    let answer = json(&ask(&bridge, AUTH, &who, &form("presence-of-1")).await);
    let data = r#"{"user_id":"123","user_info":{"name":"Ann \"A\"","role":"teacher"}}"#;
    assert_eq!(answer["channel_data"], data);
    assert_eq!(answer["auth"], sign::channel_auth(&key, &secret, "123.456", "presence-of-1", Some(data)));
    let much = token_with("123", |claims| claims["name"] = json!("x".repeat(1100)));
    assert_refused(&ask(&bridge, AUTH, &much, &form("presence-of-1")).await, 403, "forbidden");
    let answer = json(&ask(&bridge, AUTH, &who, &form("private-encrypted-of-a")).await);
    assert_eq!(answer["auth"], sign::channel_auth(&key, &secret, "123.456", "private-encrypted-of-a", None));
    assert_eq!(answer["shared_secret"], master.of_channel("private-encrypted-of-a").shared_secret());
    assert!(answer.get("channel_data").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_routes_give_users_their_own_channel_they_say_who_signs_in() {
    let route = "\n[[routes]]\nname = \"own\"\ngroup = \"typed-api\"\npath = \"/ws/own\"\nchannel = \"#server-to-user\"\n\
                 auth = { permissions = [\"own:read\"] }\nuser_info = '{\"name\":{claim.name}}'\n";
    let bridge = Bridge::with(&format!("{}{route}", without_user_routes(&shipped())), |_| {}).await;
    let may = token_with("123", |claims| {
        claims["permissions"] = json!(["own:read"]);
        claims["name"] = json!("Ann");
    });
    let answer = json(&ask(&bridge, USER, &may, "socket_id=1.2").await);
    assert_eq!(answer["user_data"], r#"{"id":"123","user_info":{"name":"Ann"}}"#);
    assert_refused(&ask(&bridge, USER, &token("123"), "socket_id=1.2").await, 403, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_would_get_is_spared_where_a_rule_says_so() {
    let route = "\n[[routes]]\nname = \"reports\"\ngroup = \"typed-api\"\npath = \"/ws/reports\"\n\
                 channel = \"private-reports\"\n[[routes.publish]]\ntypes = [\"status\"]\n\
                 channel = \"private-monitor\"\nskip_if_empty = true\n\
                 [[routes]]\nname = \"monitor\"\ngroup = \"typed-api\"\npath = \"/ws/monitor\"\nchannel = \"private-monitor\"\n";
    let bridge = Bridge::with_env(&format!("{}{route}", shipped()), &[("NOTIFY_TOKEN", "")], |_| {}).await;
    let mut old = bridge.login("/ws/reports").await;
    let skipped = || bridge.metric(r#"pusher_bridge_publish_total{result="skipped_empty"}"#);
    let tell = async |name: &str, ago: i64| {
        let body = batch(ago, name, "private-monitor");
        let (key, signature) = webhook(&bridge, &body);
        assert_eq!(hook(&bridge, &key, &signature, &body).await.status, 200);
    };
    let published = async |count: usize| {
        bridge
            .sandbox
            .wait_for(|view| view.published().filter(|p| p.channel == "private-monitor").count() == count)
            .await;
    };
    let status = r#"{"type":"status","data":1}"#;
    old.send(status).await;
    published(1).await;
    tell("channel_vacated", 20).await;
    old.send(status).await;
    patiently("a message to be spared", async {
        while skipped() < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Somebody here has it, of whom Pusher's webhook tells later.
    let watcher = bridge.login("/ws/monitor").await;
    old.send(status).await;
    published(2).await;
    drop(watcher);
    tell("channel_vacated", 5).await;
    tell("channel_occupied", 2).await;
    old.send(status).await;
    published(3).await;
    assert_eq!(skipped(), 1.0);
}
