//! Tokens over a connection's life, and every limit on what one client may take.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use pusher_bridge::clock::Now;
use pusher_bridge::limits::rate::Rate;
use tokio::net::TcpListener;

use crate::support::backend::Backend;
use crate::support::bridge::{SHIPPED, token, token_with};
use crate::support::raw::{BINARY, CLOSE, Frame, PING, PONG, TEXT, auth, frame, upgrade};
use crate::support::{Bridge, OldClient, Raw, patiently};

const PATH: &str = "/ws/content/gen_1";

/// The shipped routes with the first `from` of their text replaced.
fn shipped(from: &str, to: &str) -> String {
    assert!(SHIPPED.contains(from), "{from}");
    SHIPPED.replacen(from, to, 1)
}

fn with_deadline(deadline: &str) -> String {
    shipped("auth = { required = true }", &format!("auth = {{ required = true, deadline = \"{deadline}\" }}"))
}

fn with_exclusive(rule: &str) -> String {
    shipped(r#"max = 1, on_conflict = "probe" }"#, &format!("max = 1, {rule} }}"))
}

fn with_user_limit(rule: &str) -> String {
    shipped("connections_per_user = 10", &format!("connections_per_user = {{ {rule} }}"))
}

/// A token of user 123 that expires in so many seconds.
fn expiring(seconds: i64) -> String {
    token_with("123", |claims| claims["exp"] = (Now::read().unix_seconds() + seconds).into())
}

/// Answers pings as a live client's library does, and reports what else comes.
fn keep_alive(mut client: OldClient) -> tokio::task::JoinHandle<OldClient> {
    tokio::spawn(async move {
        loop {
            let message = client.socket.next().await.unwrap().unwrap();
            if message.to_text().is_ok_and(|text| text.contains("fence")) {
                return client;
            }
        }
    })
}

// ------------------------------------------------------------------------------------------------ tokens

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_authenticate_in_time_is_closed() {
    let bridge = Bridge::with(&with_deadline("200ms"), |_| {}).await;
    let mut silent = bridge.connect(PATH).await;
    let mut busy = bridge.connect(PATH).await;
    busy.send(r#"{"type":"pong"}"#).await;
    busy.auth("wrong").await;
    for client in [&mut silent, &mut busy] {
        assert_eq!(client.closed().await.unwrap(), (1008, "no valid token in time".to_owned()));
    }
    drop((silent, busy));
    bridge.until_closed("content", "auth_deadline", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_holds_while_keys_are_fetched() {
    let keys = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = keys.local_addr().unwrap().port();
    let routes = format!(
        "{}\n[[auth.keys]]\nalgorithms = [\"RS256\"]\njwks_url = \"http://127.0.0.1:{port}/jwks\"\n",
        with_deadline("200ms")
    );
    let bridge = Bridge::with(&routes, |_| {}).await;
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let token = format!("{}.{}.{}", part(r#"{"alg":"RS256","kid":"k"}"#), part("{}"), part("signature"));
    let mut client = bridge.connect(PATH).await;
    client.auth(&token).await;
    // Whoever asks for the keys gets no answer.
    let _asking = patiently("the fetch", keys.accept()).await.unwrap();
    assert_eq!(client.error_code().await, "UNAVAILABLE", "the deadline has waited for as long as we did");
    assert_eq!(client.closed().await.unwrap().0, 1008);
    drop(client);
    bridge.until_closed("content", "auth_deadline", 1).await;
}

/// A JWKS endpoint that answers 503.
async fn broken_keys() -> (Backend, String) {
    let keys = Backend::start().await;
    keys.answer_next([503; 100]);
    let source = format!("algorithms = [\"RS256\"]\njwks_url = \"{}/jwks\"", keys.url());
    (keys, source)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_fetched_are_no_fault_of_the_clients() {
    let (_keys, source) = broken_keys().await;
    let routes = format!("{SHIPPED}\n[[auth.keys]]\n{source}\n");
    let bridge = Bridge::with(&routes, |config| {
        config.auth.as_mut().unwrap().failures_per_address =
            Rate { count: 1, per: Duration::from_secs(3600), burst: 1 };
    })
    .await;
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let unknown = format!("{}.{}.{}", part(r#"{"alg":"RS256","kid":"k"}"#), part("{}"), part("signature"));
    for _ in 0..3 {
        let mut client = bridge.connect(PATH).await;
        client.auth(&unknown).await;
        let told = client.json().await;
        assert_eq!(
            (&told["type"], &told["data"]["error_code"]),
            (&"error".into(), &"UNAVAILABLE".into()),
            "no auth_error, which would send the user to log in: {told}"
        );
        assert!(told["data"]["details"]["retry_after_ms"].as_u64().unwrap() >= 1000, "{told}");
        // It may stay and try again.
        client.auth(&token("123")).await;
        assert_eq!(client.json().await["type"], "auth_response");
    }
    let asked = std::time::Instant::now();
    bridge.login("/ws/content/gen_2").await;
    assert!(asked.elapsed() < Duration::from_secs(1), "nothing was counted against the address");
    assert_eq!(bridge.metric(r#"pusher_bridge_auth_total{route="content",result="keys_unavailable"}"#), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_not_late_because_a_neighbour_guesses() {
    let bridge = Bridge::with(SHIPPED, |config| {
        let auth = config.auth.as_mut().unwrap();
        auth.leeway = Duration::ZERO;
        auth.failures_per_address = Rate { count: 1, per: Duration::from_secs(3600), burst: 1 };
    })
    .await;
    let expires = Now::read().unix_seconds() + 3;
    let mut client = bridge.connect("/ws/agent/agent_7").await;
    client.auth(&token_with("123", |claims| claims["exp"] = expires.into())).await;
    assert_eq!(client.json().await["type"], "auth_response");
    let mut guesser = bridge.connect("/ws/agent/agent_7").await;
    for _ in 0..2 {
        guesser.auth("wrong").await;
        guesser.error_code().await;
    }
    let left = Duration::from_millis((expires * 1000 - Now::read().unix_ms - 500).max(0) as u64);
    tokio::time::sleep(left).await;
    client.auth(&token("123")).await;
    assert_eq!(client.json().await["type"], "auth_response", "judged a second later, and not late");
    bridge.sandbox.trigger("agent-status", "e", r#"{"agent_id":"agent_7"}"#);
    assert_eq!(client.json().await["type"], "e");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_subject_of_two_issuers_has_slots_of_its_own() {
    let routes = with_user_limit(r#"max = 1, on_conflict = "refuse""#).replacen(
        "secret = \"${JWT_SECRET}\"",
        "secret = \"${JWT_SECRET}\"\nissuer = [\"https://a\", \"https://b\"]",
        1,
    );
    let bridge = Bridge::with(&routes, |_| {}).await;
    let of = |issuer: &str| token_with("123", |claims| claims["iss"] = issuer.into());
    let mut clients = Vec::new();
    for issuer in ["https://a", "https://b"] {
        let mut client = bridge.connect("/ws/agent/agent_7").await;
        client.auth(&of(issuer)).await;
        assert_eq!(client.json().await["type"], "auth_response", "{issuer}");
        clients.push(client);
    }
    let mut third = bridge.connect("/ws/agent/agent_7").await;
    third.auth(&of("https://a")).await;
    assert_eq!(third.error_code().await, "TOO_MANY_CONNECTIONS");
    third.auth(&of("https://c")).await;
    assert_eq!(third.error_code().await, "INVALID_TOKEN");
    clients[0].auth(&of("https://b")).await;
    assert_eq!(clients[0].error_code().await, "OTHER_USER");
    clients[0].auth(&of("https://a")).await;
    assert_eq!(clients[0].json().await["type"], "auth_response");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_counted_per_connection() {
    let bridge = Bridge::start().await;
    let mut client = bridge.connect(PATH).await;
    for _ in 0..5 {
        client.auth("wrong").await;
        assert_eq!(client.error_code().await, "INVALID_TOKEN");
    }
    client.auth(&token("123")).await;
    let told = client.json().await;
    assert_eq!((&told["type"], &told["data"]["error"]), (&"auth_error".into(), &"AUTH_RATE_LIMITED".into()));
    assert!(told["data"]["message"].as_str().unwrap().ends_with(" ms"), "with the time to wait: {told}");
    bridge.login("/ws/content/gen_2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_counted_per_address_and_lock_no_neighbour_out() {
    let bridge = Bridge::with(&with_deadline("4s"), |config| {
        config.auth.as_mut().unwrap().failures_per_address =
            Rate { count: 1, per: Duration::from_secs(3600), burst: 2 };
    })
    .await;
    let mut last = None;
    for expected in ["INVALID_TOKEN", "INVALID_TOKEN", "AUTH_RATE_LIMITED", "AUTH_RATE_LIMITED"] {
        let mut client = bridge.connect(PATH).await;
        client.auth("wrong").await;
        assert_eq!(client.error_code().await, expected, "reconnecting does not reset the count");
        last = Some(client);
    }
    let asked = std::time::Instant::now();
    bridge.login(PATH).await;
    assert!(asked.elapsed() >= Duration::from_secs(1), "tokens from there are judged late, good ones too");
    let mut elsewhere = Raw::connect_from([127, 0, 0, 2], bridge.address()).await;
    elsewhere.send(upgrade(PATH, &[])).await;
    assert_eq!(elsewhere.answer().await.status, 101);
    elsewhere.send(auth("wrong")).await;
    assert_eq!(elsewhere.frame().await.json()["data"]["error"], "INVALID_TOKEN");
    assert_eq!(last.unwrap().closed().await.unwrap(), (1008, "too many wrong tokens".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_ends_the_connection_unless_its_user_renews_it() {
    let bridge = Bridge::with(SHIPPED, |config| config.auth.as_mut().unwrap().leeway = Duration::ZERO).await;
    let mut renewing = bridge.connect("/ws/agent/agent_7").await;
    let mut other = bridge.connect("/ws/agent/agent_7").await;
    let mut wrong = bridge.connect("/ws/agent/agent_7").await;
    for client in [&mut renewing, &mut other, &mut wrong] {
        client.auth(&expiring(2)).await;
        assert_eq!(client.json().await["type"], "auth_response");
    }
    renewing.auth(&token("123")).await;
    assert_eq!(renewing.json().await["type"], "auth_response");
    other.auth(&token("124")).await;
    assert_eq!(other.error_code().await, "OTHER_USER");
    wrong.auth("wrong").await;
    assert_eq!(wrong.error_code().await, "INVALID_TOKEN");
    for client in [&mut other, &mut wrong] {
        let told = client.json().await;
        assert_eq!((&told["type"], &told["data"]["error"]), (&"auth_error".into(), &"INVALID_TOKEN".into()));
        assert_eq!(client.closed().await.unwrap(), (1008, "token expired".to_owned()));
    }
    bridge.sandbox.trigger("agent-status", "e", r#"{"agent_id":"agent_7"}"#);
    assert_eq!(renewing.json().await["type"], "e", "the renewed one is served on");
    drop((other, wrong));
    bridge.until_closed("agent", "token_expired", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_before_its_channel_stands_ends_the_connection() {
    let bridge = Bridge::with(SHIPPED, |config| config.auth.as_mut().unwrap().leeway = Duration::ZERO).await;
    bridge.sandbox.hold_subscriptions("content-generation-gen_1");
    let mut client = bridge.connect(PATH).await;
    client.auth(&expiring(2)).await;
    assert_eq!(client.error_code().await, "INVALID_TOKEN");
    assert_eq!(client.closed().await.unwrap().0, 1008);
}

// ------------------------------------------------------------------------------------------- connections

#[tokio::test(flavor = "multi_thread")]
async fn strangers_take_no_slot_of_the_owner() {
    let routes = with_exclusive(r#"on_conflict = "refuse""#).replace(
        "connections_per_user = 10",
        r#"connections_per_user = { max = 1, on_conflict = "refuse" }"#,
    );
    let bridge = Bridge::with(&routes, |_| {}).await;
    let mut strangers = Vec::new();
    for n in 0..6 {
        let mut stranger = bridge.connect(PATH).await;
        match n % 3 {
            0 => {}
            1 => stranger.auth("wrong").await,
            _ => {
                // A good token without the permission.
                stranger.auth(&token_with("123", |claims| claims["permissions"] = "none".into())).await;
                assert_eq!(stranger.error_code().await, "MISSING_PERMISSION");
            }
        }
        strangers.push(stranger);
    }
    bridge.login(PATH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_a_cap_over_the_group_and_may_try_again_on_the_same_connection() {
    let bridge = Bridge::with(&with_user_limit(r#"max = 2, on_conflict = "refuse""#), |_| {}).await;
    let _first = bridge.login(PATH).await;
    let mut second = bridge.login("/ws/roblox").await;
    let mut third = bridge.connect("/ws/agent/a").await;
    third.auth(&token("123")).await;
    assert_eq!(third.error_code().await, "TOO_MANY_CONNECTIONS");
    bridge.login_as("/ws/agent/a", "124").await;
    second.socket.close(None).await.unwrap();
    second.closed().await;
    third.auth(&token("123")).await;
    assert_eq!(third.json().await["type"], "auth_response");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_holder_is_replaced() {
    let bridge =
        Bridge::with(&with_exclusive(r#"on_conflict = "probe", probe_timeout = "300ms""#), |_| {}).await;
    // It holds the session, and neither reads nor answers.
    let mut dead = Raw::login(bridge.address(), PATH, &token("123")).await;
    let mut newcomer = bridge.login(PATH).await;
    let mut probed = (false, false);
    loop {
        match dead.frame().await {
            Frame(PING, _) => probed.0 = true,
            Frame(CLOSE, payload) => {
                assert_eq!(payload[..2], 1008_u16.to_be_bytes());
                break;
            }
            frame => probed.1 |= frame.json()["type"] == "ping",
        }
    }
    assert_eq!(probed, (true, true), "it was asked in both ways");
    bridge.sandbox.trigger("content-generation-gen_1", "e", "1");
    assert_eq!(newcomer.json().await["type"], "e");
    drop(dead);
    bridge.until_closed("content", "replaced", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_holder_is_kept_and_the_newcomer_stays_connected() {
    let bridge =
        Bridge::with(&with_exclusive(r#"on_conflict = "probe", probe_timeout = "300ms""#), |_| {}).await;
    let holder = keep_alive(bridge.login(PATH).await);
    let mut newcomer = bridge.connect(PATH).await;
    newcomer.auth(&token("124")).await;
    assert_eq!(newcomer.error_code().await, "SESSION_IN_USE");
    bridge.sandbox.trigger("content-generation-gen_1", "fence", "1");
    let mut holder = patiently("the holder's event", holder).await.unwrap();
    holder.socket.close(None).await.unwrap();
    holder.closed().await;
    newcomer.auth(&token("124")).await;
    assert_eq!(newcomer.json().await["type"], "auth_response");
    assert_eq!(bridge.closes("content", "replaced"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newcomer_is_told_as_soon_as_the_holder_has_answered() {
    // Were the probe's time waited for, this test would lose its patience.
    let bridge =
        Bridge::with(&with_exclusive(r#"on_conflict = "probe", probe_timeout = "1h""#), |_| {}).await;
    let _holder = keep_alive(bridge.login(PATH).await);
    let mut newcomer = bridge.connect(PATH).await;
    newcomer.auth(&token("124")).await;
    assert_eq!(newcomer.error_code().await, "SESSION_IN_USE");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_one_is_found_among_many_that_live() {
    let limit = with_user_limit(r#"max = 30, on_conflict = "probe", probe_timeout = "300ms""#);
    let bridge = Bridge::with(&limit, |_| {}).await;
    let mut alive = Vec::new();
    for n in 0..29 {
        alive.push(keep_alive(bridge.login(&format!("/ws/agent/a{n}")).await));
    }
    let mut dead = Raw::connect(bridge.address()).await;
    dead.send(upgrade("/ws/agent/dead", &[])).await;
    dead.answer().await;
    dead.send(auth(&token("123"))).await;
    assert_eq!(dead.frame().await.json()["type"], "auth_response");
    let mut newcomer = bridge.connect("/ws/agent/new").await;
    newcomer.auth(&token("123")).await;
    assert_eq!(newcomer.json().await["type"], "auth_response");
    bridge.until_closed("agent", "replaced", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_waits_for_its_subscription_is_not_taken_for_dead() {
    let bridge =
        Bridge::with(&with_exclusive(r#"on_conflict = "probe", probe_timeout = "200ms""#), |_| {}).await;
    bridge.sandbox.hold_subscriptions("content-generation-gen_1");
    let mut holder = bridge.connect(PATH).await;
    holder.auth(&token("123")).await;
    patiently(
        "its subscription",
        bridge.sandbox.wait_for(|view| view.pending("content-generation-gen_1") == 1),
    )
    .await;
    let mut newcomer = bridge.connect(PATH).await;
    newcomer.auth(&token("123")).await;
    assert_eq!(newcomer.error_code().await, "SESSION_IN_USE");
    bridge.sandbox.release_subscriptions("content-generation-gen_1");
    assert_eq!(holder.json().await["type"], "auth_response");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_refuse_or_replace_outright() {
    let bridge = Bridge::with(&with_exclusive(r#"on_conflict = "refuse""#), |_| {}).await;
    let _dead = Raw::login(bridge.address(), PATH, &token("123")).await;
    let mut newcomer = bridge.connect(PATH).await;
    newcomer.auth(&token("123")).await;
    assert_eq!(newcomer.error_code().await, "SESSION_IN_USE");

    let bridge = Bridge::with(&with_exclusive(r#"on_conflict = "replace""#), |_| {}).await;
    let mut holder = bridge.login(PATH).await;
    for _ in 0..3 {
        let newcomer = bridge.login(PATH).await;
        let close = holder.closed().await.unwrap();
        assert_eq!(close, (1008, "replaced by a newer connection".to_owned()));
        holder = newcomer;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_free_again_after_any_kind_of_end() {
    let routes = with_exclusive(r#"on_conflict = "refuse""#)
        .replace("connections_per_user = 10", r#"connections_per_user = { max = 1, on_conflict = "refuse" }"#)
        .replace("connections_per_address = 50", "connections_per_address = 1");
    let bridge = Bridge::with(&routes, |config| {
        config.auth.as_mut().unwrap().leeway = Duration::ZERO;
    })
    .await;
    let ends: [(&str, Vec<u8>); 7] = [
        ("by_client", frame(CLOSE, &1000_u16.to_be_bytes())),
        ("by_client", frame(CLOSE, b"")),
        ("protocol_error", vec![0xFF; 20]),
        ("not_utf8", frame(TEXT, &[0xFF])),
        ("too_big", frame(TEXT, &vec![b'x'; 70_000])),
        ("lost", Vec::new()),
        ("token_expired", Vec::new()),
    ];
    for (reason, bytes) in ends {
        let token = if reason == "token_expired" { expiring(1) } else { token("123") };
        let before = bridge.closes("content", reason);
        let mut client = Raw::open(bridge.address(), PATH).await;
        client.send(auth(&token)).await;
        assert!(client.frame().await.text().contains("auth_"), "{reason}");
        match reason {
            "lost" => client.reset(),
            "token_expired" => client.ended().await,
            _ => {
                client.send(bytes).await;
                client.ended().await;
            }
        }
        bridge
            .becomes(
                &format!(r#"pusher_bridge_closes_total{{route="content",reason="{reason}"}}"#),
                before + 1.0,
            )
            .await;
        bridge.until_empty().await;
    }
    let mut half = Raw::login(bridge.address(), PATH, &token("123")).await;
    half.finish().await;
    half.ended().await;
    bridge.until_empty().await;
    // Waiting for a slot, or for a subscription, when the client goes.
    bridge.sandbox.hold_subscriptions("content-generation-gen_2");
    let mut waiting = Raw::open(bridge.address(), "/ws/content/gen_2").await;
    waiting.send(auth(&token("123"))).await;
    patiently(
        "its subscription",
        bridge.sandbox.wait_for(|view| view.pending("content-generation-gen_2") == 1),
    )
    .await;
    waiting.reset();
    bridge.sandbox.release_subscriptions("content-generation-gen_2");
    bridge.until_empty().await;
    bridge.login(PATH).await;
}

// ---------------------------------------------------------------------------------------------- messages

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_messages_pass_and_the_next_is_told_how_long_to_wait() {
    let routes = shipped(r#"per = "1m", burst = 100"#, r#"per = "1h", burst = 100"#);
    let bridge = Bridge::with(&routes, |_| {}).await;
    let mut client = bridge.login("/ws/agent/agent_7").await;
    for n in 0..100 {
        client.send(r#"{"type":"run"}"#).await;
        client.send(r#"{"type":"pong"}"#).await;
        assert_eq!(client.error_code().await, "UNKNOWN_MESSAGE_TYPE", "{n}");
    }
    client.send(r#"{"type":"run"}"#).await;
    let told = client.json().await;
    assert_eq!(told["data"]["error_code"], "RATE_LIMITED");
    let wait = told["data"]["details"]["retry_after_ms"].as_u64().unwrap();
    assert!((1..=36_000).contains(&wait), "{told}");
    bridge.sandbox.trigger("agent-status", "e", r#"{"agent_id":"agent_7"}"#);
    assert_eq!(client.json().await["type"], "e", "who is refused a message still gets events");
}

#[tokio::test(flavor = "multi_thread")]
async fn pongs_are_free_up_to_a_ceiling() {
    let routes = shipped(
        "[groups.typed-api.limits]\n",
        "[groups.typed-api.limits]\ncontrol_frames = { count = 1, per = \"1h\", burst = 20 }\n",
    );
    let bridge = Bridge::with(&routes, |_| {}).await;
    let floods: [Vec<u8>; 4] = [
        frame(TEXT, br#"{"type":"pong"}"#),
        frame(PING, b"x"),
        frame(PONG, b""),
        // Messages over their rate count as control frames.
        frame(TEXT, br#"{"type":"run"}"#),
    ];
    for (n, flood) in floods.iter().enumerate() {
        for authenticated in [false, true] {
            let path = format!("/ws/content/{n}");
            let mut client = if authenticated {
                Raw::login(bridge.address(), &path, &token("123")).await
            } else {
                Raw::open(bridge.address(), &path).await
            };
            client.send(flood.repeat(20)).await;
            client.send(frame(TEXT, b"fence")).await;
            loop {
                match client.frame().await {
                    Frame(PONG, _) => {}
                    frame => {
                        assert_eq!(frame.0, TEXT, "20 are borne: {frame:?}");
                        break;
                    }
                }
            }
            client.send(flood.repeat(110)).await;
            assert_eq!(client.close_code().await, Some(1008), "{n} {authenticated}");
        }
    }
    bridge.until_closed("content", "control_flood", 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_have_a_limit_and_are_given_back() {
    let routes = shipped("dialect = \"channel\"\n", "dialect = \"channel\"\nlimits.subscriptions = 2\n");
    let bridge = Bridge::with(&routes, |_| {}).await;
    let mut client = bridge.connect("/ws").await;
    for channel in ["files", "git", "files", "search"] {
        client.send(&format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#)).await;
    }
    assert_eq!(client.json().await["error"], "TOO_MANY_SUBSCRIPTIONS");
    client.send(r#"{"type":"unsubscribe","channel":"git"}"#).await;
    client.send(r#"{"type":"subscribe","channel":"search"}"#).await;
    let stands = |view: &pusher_bridge::sandbox::View<'_>| view.subscribed("search") == 1;
    patiently("the subscription", bridge.sandbox.wait_for(stands)).await;
    bridge.sandbox.trigger("search", "e", "1");
    assert_eq!(client.json().await["channel"], "search");
    client.send(r#"{"type":"subscribe","channel":"private-plugin-p1"}"#).await;
    let told = client.json().await;
    assert_eq!(told["error"], "INVALID_FIELD");
    assert_eq!(told["details"]["field"], "channel");
}

/// Neither parts of messages nor unread frames of many clients together may fill the memory; who holds little
/// does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn what_all_clients_may_hold_together_is_bounded() {
    let bridge = Bridge::with(SHIPPED, |config| config.server.buffered_bytes_max = 1 << 20).await;
    let mut modest = bridge.login("/ws/agent/agent_7").await;
    let part = |bytes: usize| {
        let mut part = vec![0x82, 0xFF];
        part.extend((4_u64 << 20).to_be_bytes());
        part.resize(part.len() + 4 + bytes, 0);
        part
    };
    let mut first = Raw::open(bridge.address(), "/ws/native").await;
    first.send(part(700_000)).await;
    bridge.at_least("pusher_bridge_buffered_bytes", 690_000.0).await;
    let mut second = Raw::open(bridge.address(), "/ws/native").await;
    second.send(part(400_000)).await;
    assert_eq!(first.close_code().await, Some(1013), "who holds most has to go, though it only waits");
    bridge.until_closed("native", "overload", 1).await;
    bridge.sandbox.trigger("agent-status", "status", r#"{"agent_id":"agent_7"}"#);
    assert_eq!(modest.json().await["type"], "status");
    drop(second);
    bridge.becomes("pusher_bridge_buffered_bytes", 0.0).await;
    let mut third = Raw::open(bridge.address(), "/ws/native").await;
    third.send(frame(BINARY, &vec![7; 700_000])).await;
    assert_eq!(third.frame().await.1.len(), 700_000);
}

/// Who has to go is not waited for, though it still takes some bytes now and then.
#[tokio::test(flavor = "multi_thread")]
async fn who_holds_most_is_cut_in_the_middle_of_a_frame() {
    const ECHO: usize = 15 << 20;
    const PART: usize = 1_900_000;
    // Room for the message with its echo, and for fewer parts than there will be.
    let bridge = Bridge::with(SHIPPED, |config| config.server.buffered_bytes_max = 36 << 20).await;
    let mut trickling = Raw::connect_small(bridge.address()).await;
    trickling.upgrade("/ws/native").await;
    trickling.send(frame(BINARY, &vec![7; ECHO])).await;
    bridge.becomes(r#"pusher_bridge_frames_total{route="native",direction="out"}"#, 1.0).await;
    let mut others = Vec::new();
    for _ in 0..12 {
        let mut other = Raw::open(bridge.address(), "/ws/native").await;
        let header = [&[0x82, 0xFF][..], &(2_u64 << 20).to_be_bytes(), &[0; 4]].concat();
        other.send([header, vec![7; PART]].concat()).await;
        others.push(other);
    }
    let trickles = async {
        loop {
            trickling.read_some(20_000).await;
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    };
    tokio::select! {
        () = bridge.until_closed("native", "overload", 1) => {}
        () = trickles => {}
    }
    bridge.becomes(r#"pusher_bridge_connections{route="native",phase="live"}"#, 12.0).await;
    assert_eq!(bridge.closes("native", "overload"), 1.0);
}

/// Connecting anew does not refill a user's bucket, and several connections have one together.
#[tokio::test(flavor = "multi_thread")]
async fn a_users_rate_is_over_all_its_connections() {
    let routes = shipped(
        "[groups.typed-api.limits]\n",
        "[groups.typed-api.limits]\nmessages_per_user = { count = 1, per = \"1h\", burst = 5 }\n",
    );
    let bridge = Bridge::with(&routes, |_| {}).await;
    let mut neighbour = bridge.login_as("/ws/plugin/p1", "2").await;
    for n in 0..5 {
        let mut client = bridge.login_as("/ws/plugin/p1", "1").await;
        client.send(&format!(r#"{{"type":"m","data":{n}}}"#)).await;
        assert_eq!(neighbour.json().await["data"], n);
    }
    // On another route of the same group as well.
    for path in ["/ws/plugin/p1", "/ws/agent/a"] {
        let mut client = bridge.login_as(path, "1").await;
        client.send(r#"{"type":"m","data":6}"#).await;
        let error = client.json().await;
        assert_eq!(error["data"]["error_code"], "RATE_LIMITED", "{path} {error}");
        assert!(error["data"]["details"]["retry_after_ms"].as_u64().unwrap() > 3_000_000, "{error}");
    }
    neighbour.send(r#"{"type":"m","data":7}"#).await;
    bridge.becomes(r#"pusher_bridge_publish_total{result="ok"}"#, 6.0).await;
}
