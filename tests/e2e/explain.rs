//! `explain`, beside what a bridge does with the same routes.

use std::collections::HashMap;

use serde_json::Value;

use crate::support::Bridge;
use crate::support::bridge::{SHIPPED, token};
use crate::support::process::{file, run};

fn env() -> HashMap<String, String> {
    [("JWT_SECRET", crate::support::bridge::JWT_SECRET)]
        .map(|(name, value)| (name.into(), value.into()))
        .into()
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
    let gone = explained(&["/elsewhere"], &env()).await;
    assert_eq!(gone["outcome"]["refused"]["status"], 404);
    let later = explained(&["/ws/agent/a1", "--at", "2024-01-01T00:00:00Z"], &env()).await;
    assert_eq!(later["deprecation"]["phase"], "current");
}
