//! `token`: what is made is what a bridge takes, and what is said of one is what it does.

use std::collections::HashMap;
use std::io::Write as _;

use crate::support::Bridge;
use crate::support::bridge::{JWT_SECRET, SHIPPED, token, token_with};
use crate::support::process::{command, file, run};

fn env() -> HashMap<String, String> {
    [("JWT_SECRET".to_owned(), JWT_SECRET.to_owned())].into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_made_is_accepted() {
    let args = ["token", "mint", "--user", "ada", "--role", "teacher", "--permission", "content:generate"];
    let minted = run(&[&args[..], &["--claims", r#"{"plugin_ids":["p1"],"n":1.50}"#]].concat(), &env()).await;
    assert_eq!((minted.code, minted.stderr.as_str()), (Some(0), ""), "{minted:?}");
    let token = minted.stdout.trim_end();
    let bridge = Bridge::start().await;
    for path in ["/ws/content/c1", "/ws/plugin/p1"] {
        let mut client = bridge.connect(path).await;
        client.auth(token).await;
        let told = client.json().await;
        assert_eq!(told["type"], "auth_response", "{told}");
        assert_eq!((&told["data"]["user_id"], &told["data"]["role"]), (&"ada".into(), &"teacher".into()));
    }
    let verified = run(&["token", "verify", token], &env()).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    for line in [
        "accepted",
        "  user         ada",
        "  role         teacher",
        "  key          auth.keys[0]",
        r#"  permissions  ["content:generate"]"#,
    ] {
        assert!(verified.stdout.lines().any(|shown| shown == line), "{line}: {}", verified.stdout);
    }
    let seen = run(&["token", "inspect", token], &HashMap::new()).await;
    assert!(seen.code == Some(0) && seen.stdout.starts_with("NOT VERIFIED"), "{seen:?}");
    assert!(seen.stdout.contains(r#""n":1.50"#), "digits are kept: {}", seen.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_token_is_told_as_in_the_log() {
    let expired = token_with("123", |claims| claims["exp"] = 1_700_000_000.into());
    let forged = format!("{}x", token("123"));
    for (token, result) in [
        (expired.as_str(), "expired"),
        (&forged, "bad_signature"),
        ("a.b.c", "malformed"),
        (&token_with("123", |claims| _ = claims.as_object_mut().unwrap().remove("sub")), "missing_claim"),
    ] {
        let ended = run(&["token", "verify", token], &env()).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stdout.contains(&format!("  result       {result}\n")), "{result}: {}", ended.stdout);
        assert!(!ended.stdout.contains(token), "{}", ended.stdout);
    }
    let earlier = run(&["token", "verify", &expired, "--at", "2023-11-14T00:00:00Z"], &env()).await;
    assert_eq!(earlier.code, Some(0), "{earlier:?}");
    let without = run(&["token", "verify", &token("123")], &HashMap::new()).await;
    assert!(without.code == Some(78) && without.stderr.contains("JWT_SECRET"), "{without:?}");
}

/// A name server of keys that is not there: nothing is known of the token.
#[tokio::test(flavor = "multi_thread")]
async fn without_keys_nothing_is_known() {
    let (before, behind) = SHIPPED.split_once("secret = \"${JWT_SECRET}\"").unwrap();
    let text =
        format!("{before}jwks_url = \"http://127.0.0.1:1/jwks\"{behind}").replacen("HS256", "RS256", 1);
    let config = file("jwks.toml", &text);
    let header = "eyJhbGciOiJSUzI1NiJ9.e30.AAAA";
    let ended = run(&["token", "verify", header, "--config", &config], &HashMap::new()).await;
    assert!(ended.code == Some(1) && ended.stdout.contains("keys_unavailable"), "{ended:?}");
    let refused = run(&["token", "mint", "--user", "u", "--config", &config], &env()).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("no HS256 secret"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_is_refused() {
    for (args, code, word) in [
        (&["--claims", "[]"][..], 2, "a JSON object"),
        (&["--user", "u", "--claims", r#"{"sub":"v"}"#], 2, "`sub` too"),
        (&["--user", "u", "--expires", "soon"], 2, "--expires"),
        (&["--user", "u", "--expires", "9999d"], 2, "--expires"),
        (&[], 1, "lacks the claim `sub`"),
        (&["--claims", r#"{"sub":"u","exp":1}"#], 1, "expired"),
    ] {
        let ended = run(&[&["token", "mint"], args].concat(), &env()).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(word), "{args:?}: {ended:?}");
    }
    let without = run(&["token", "mint", "--user", "u"], &HashMap::new()).await;
    assert!(without.code == Some(78) && without.stderr.contains("JWT_SECRET"), "{without:?}");
    let none = run(&["token", "inspect", "opaque"], &HashMap::new()).await;
    assert!(none.code == Some(1) && none.stderr.contains("not a token"), "{none:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_need_not_be_an_argument() {
    let mut child =
        command(&["token", "verify", "-"], &env()).stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("Bearer {}\n", token("123")).as_bytes()).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}
