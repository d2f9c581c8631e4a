//! `explain`, beside what a bridge does with the same routes.

use std::collections::HashMap;

use pusher_bridge::auth::{accepted, completed_claims, mint_hs256};
use pusher_bridge::clock::Now;
use pusher_bridge::config::{self, Source};
use pusher_bridge::explain::answer::{Effect, EventResult, Fate, Outcome, Outgoing};
use pusher_bridge::explain::{Explainer, Question};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Error;

use crate::support::bridge::{JWT_SECRET, SHIPPED, token};
use crate::support::process::{file, run};
use crate::support::{Bridge, OldClient, patiently};

fn env() -> HashMap<String, String> {
    [("JWT_SECRET", JWT_SECRET)].map(|(name, value)| (name.into(), value.into())).into()
}

async fn explained(args: &[&str], env: &HashMap<String, String>) -> Value {
    let ended = run(&[&["explain", "--format", "json"], args].concat(), env).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_a_routes_line_each_check_what_is_published_and_the_frame() {
    let token = token("123");
    let url = "ws://old.example/ws/plugin/p1";
    let message = r#"{"type":"run","data":{"speed":1.50}}"#;
    let args = ["explain", url, "--token", &token, "--message", message, "--event", "x", "--data", "1.50"];
    let ended = run(&args, &env()).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let line = |text: &str| SHIPPED.lines().position(|line| line.starts_with(text)).unwrap() + 1;
    let owns = line("auth = { owns = ");
    let shown =
        |words: &[&str]| ended.stdout.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(shown(&["ok", "auth.owns[0]", &format!("routes.toml:{owns}")]), "{}", ended.stdout);
    assert!(shown(&["published", "client-run on private-plugin-p1"]), "{}", ended.stdout);
    assert!(
        shown(&["data", r#"{"speed":1.50}"#]) && shown(&["<", r#"{"type":"x","data":1.50,"#]),
        "{}",
        ended.stdout
    );
    assert!(shown(&["phase", "sunset"]) && shown(&["100 per 1m"]), "{}", ended.stdout);
    assert!(!ended.stdout.contains(&token), "a token is not printed");
}

/// Whatever a client is answered, it is what was told before.
#[tokio::test(flavor = "multi_thread")]
async fn what_it_tells_is_what_happens() {
    let bridge = Bridge::start().await;
    let (good, env) = (token("123"), env());
    let without_time = |frame: &str| frame.split(r#","timestamp""#).next().unwrap().to_owned();
    for (path, token, message) in [
        ("/ws/plugin/p1", Some(&good), r#"{"type":"subscribe"}"#),
        ("/ws/plugin/elsewhere", Some(&good), r#"{"type":"run"}"#),
        ("/ws/plugin/p1", None, r#"{"type":"run"}"#),
        ("/ws/content/c1", Some(&"a.b.c".to_owned()), r#"{"type":"auth","token":"x"}"#),
        ("/ws/native", None, r#"[1.50, "as it is"]"#),
        ("/ws", None, r#"{"type":"subscribe","channel":"none"}"#),
    ] {
        let token_arg = token.map_or_else(Vec::new, |token| vec!["--token", token.as_str()]);
        let told = explained(&[&[path, "--message", message], &token_arg[..]].concat(), &env).await;
        let effects =
            told["steps"].as_array().unwrap().iter().flat_map(|step| step["effects"].as_array().unwrap());
        let kinds = ["frame", "error", "echoed"];
        let expected: Vec<String> = effects
            .filter_map(|effect| kinds.iter().find_map(|kind| effect[kind]["text"].as_str()))
            .map(without_time)
            .collect();
        assert!(!expected.is_empty(), "{told}");
        let mut client = bridge.connect(path).await;
        if let Some(token) = token {
            client.send(&serde_json::json!({ "type": "auth", "token": token }).to_string()).await;
        }
        client.send(message).await;
        for frame in &expected {
            assert_eq!(without_time(&client.text().await), *frame, "{path} {message}");
        }
    }
}

/// What the tests of the shipped file are told is what a bridge and its Pusher then do.
#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_files_tests_are_what_a_bridge_does() {
    let key = [("PUSHER_ENCRYPTION_MASTER_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")];
    let bridge = Bridge::with_env(SHIPPED, &key, |_| {}).await;
    let source = Source { name: "routes.toml".into(), text: SHIPPED.into() };
    let loaded = config::load(&source, &|name| {
        key.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
    .unwrap();
    let explainer = Explainer::new(&loaded.config);
    let without_time = |frame: &str| frame.split(r#","timestamp""#).next().unwrap().to_owned();
    let (mut frames, mut published, mut refused) = (0, 0, 0);
    for test in &loaded.tests {
        let now = Now::read();
        let claims =
            completed_claims(test.claims.as_deref().unwrap_or("{}"), now.unix_seconds() + 600, None, None);
        let mut question = Question::of(&test.url, None, now).unwrap();
        question.token = test.claims.as_ref().map(|_| mint_hs256(JWT_SECRET.as_bytes(), &claims));
        question.messages = test.send.iter().chain(&test.message).cloned().collect();
        question.event.clone_from(&test.event);
        let auth = loaded.config.auth.as_ref().unwrap();
        let answer = explainer.answer(&question, &mut |_| accepted(auth, &claims, now));
        if let Outcome::Refused { status, .. } = answer.outcome {
            let Err(Error::Http(response)) = OldClient::try_connect(bridge.address(), &test.url).await else {
                panic!("{}: it is connected", test.name)
            };
            assert_eq!(Some(response.status().as_u16()), status, "{}", test.name);
            refused += 1;
            continue;
        }
        let mut client = bridge.connect(&test.url).await;
        for step in &answer.steps {
            match (&step.sent, &question.token) {
                (Some(sent), Some(token)) if sent.contains('…') => client.auth(token).await,
                (Some(sent), _) => client.send(sent).await,
                (None, _) => {}
            }
            for effect in &step.effects {
                if let Some(frame) = effect.frame() {
                    assert_eq!(without_time(&client.text().await), without_time(frame), "{}", test.name);
                    frames += 1;
                    if frame.contains("auth_response") && test.url.starts_with("/ws/room") {
                        assert!(
                            client.text().await.contains("presence_members"),
                            "who is there is not told before"
                        );
                    }
                }
                let Effect::Published(sent) = effect else { continue };
                let (channel, event, by_client) = match &sent.what {
                    Outgoing::Event { channel, event, .. } => (channel, event, false),
                    Outgoing::ClientEvent { channel, event, .. } => (channel, event, true),
                    Outgoing::Post { .. } | Outgoing::Nothing => continue,
                };
                let came = bridge.sandbox.wait_for(|view| {
                    let by_api = view.published().any(|p| p.channel == *channel && p.event == *event);
                    let over_socket =
                        view.client_events().any(|e| e.channel == *channel && e.event == *event);
                    if by_client { over_socket } else { by_api }
                });
                patiently(&test.name, came).await;
                published += 1;
            }
        }
        if let (Some((name, data)), [EventResult { channel, fate: Fate::Frame { text }, .. }]) =
            (&test.event, &answer.event[..])
        {
            patiently(&test.name, bridge.sandbox.wait_for(|view| view.subscribed(channel) > 0)).await;
            bridge.sandbox.trigger(channel, name, data);
            assert_eq!(without_time(&client.text().await), without_time(text), "{}", test.name);
            frames += 1;
        }
    }
    assert!(frames > 12 && published == 3 && refused == 1, "{frames} {published} {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_it_cannot_tell() {
    let token = token("123");
    for (args, code, word) in [
        (&["explain", "/ws/feed", "--token", &token][..], 78, "JWT_SECRET"),
        (&["explain", "ws", "--at", "2030-01-01T00:00:00Z"], 2, "must be a path"),
        (&["explain", "/ws", "--at", "tomorrow"], 2, "2026-01-31T12:00:00Z"),
        (&["explain", "/ws", "--data", "1"], 2, "--event"),
        (&["explain", "/ws", "--config", "/nowhere.toml"], 78, "/nowhere.toml"),
    ] {
        let ended = run(args, &HashMap::new()).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(word), "{args:?}: {ended:?}");
    }
    let broken = file("explained.toml", "[server]\nlisten = 1\n");
    let ended = run(&["explain", "/ws", "--config", &broken], &env()).await;
    assert!(ended.code == Some(78) && ended.stderr.contains('^'), "{ended:?}");
    let ended = run(&["explain", "/ws", "--header", "Host: x"], &env()).await;
    assert!(ended.code == Some(2) && ended.stderr.contains("NAME: VALUE"), "{ended:?}");
    let gone = explained(&["/elsewhere"], &env()).await;
    assert_eq!(gone["outcome"]["refused"]["status"], 404);
    let later = explained(&["/ws/agent/a1", "--at", "2024-01-01T00:00:00Z"], &env()).await;
    assert_eq!(later["deprecation"]["phase"], "current");
}
