//! The commands, their exit codes, and what they say.

use std::collections::HashMap;
use std::net::TcpListener;
use std::time::Duration;

use pusher_bridge::sandbox::{Options, Sandbox};

use crate::support::bridge::{SHIPPED, token};
use crate::support::process::{Program, command, file, run};
use crate::support::pusher::Pusher as _;
use crate::support::{Bridge, patiently};

fn no_env() -> HashMap<String, String> {
    HashMap::new()
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_without_credentials_names_what_is_missing() {
    let ended = run(&["serve", "--listen", "127.0.0.1:0"], &no_env()).await;
    assert_eq!(ended.code, Some(78));
    for name in ["PUSHER_APP_ID", "PUSHER_KEY", "PUSHER_SECRET", "JWT_SECRET"] {
        assert!(ended.stderr.contains(name), "{name}: {}", ended.stderr);
    }
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    for missing in ["PUSHER_SECRET", "JWT_SECRET"] {
        for value in [None, Some(String::new())] {
            let mut env = sandbox.app().environment();
            env.remove(missing);
            env.extend(value.map(|value| (missing.to_owned(), value)));
            let ended = run(&["serve", "--listen", "127.0.0.1:0"], &env).await;
            assert_eq!(ended.code, Some(78), "{ended:?}");
            assert!(ended.stderr.contains(missing), "{}", ended.stderr);
            assert_eq!(ended.stdout, "");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_is_shown_with_the_place() {
    let bad = file("bad.toml", &SHIPPED.replacen("heartbeat = {", "hartbeat = {", 1));
    for args in [&["serve", "--config", &bad][..], &["check", "--config", &bad], &["demo", "--config", &bad]]
    {
        let ended = run(args, &no_env()).await;
        assert_eq!(ended.code, Some(78), "{args:?}");
        let line = SHIPPED.lines().position(|line| line.starts_with("heartbeat = {")).unwrap() + 1;
        assert!(ended.stderr.contains(&format!("bad.toml:{line}:1")), "{}", ended.stderr);
        assert!(ended.stderr.contains("^^^^^^^^"), "{}", ended.stderr);
        assert!(ended.stderr.contains("did you mean `heartbeat`"), "{}", ended.stderr);
        assert!(ended.stderr.contains("1 error in "), "{}", ended.stderr);
    }
    let ended = run(&["check", "--config", "/nowhere/routes.toml"], &no_env()).await;
    assert_eq!(ended.code, Some(78));
    assert!(ended.stderr.contains("/nowhere/routes.toml"), "{}", ended.stderr);
    let ended = run(&["serve", "--log", "no=such=filter"], &environment_of_nobody()).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
}

/// Credentials for a Pusher that is not there.
fn environment_of_nobody() -> HashMap<String, String> {
    ["PUSHER_APP_ID", "PUSHER_KEY", "PUSHER_SECRET", "JWT_SECRET"]
        .map(|name| (name.to_owned(), "1".to_owned()))
        .into_iter()
        .chain([
            ("PUSHER_HOST".to_owned(), "127.0.0.1".to_owned()),
            ("PUSHER_PORT".to_owned(), "1".to_owned()),
            ("PUSHER_TLS".to_owned(), "false".to_owned()),
        ])
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_2_and_help_is_worth_reading() {
    for args in [
        &[][..],
        &["dance"],
        &["serve", "--port", "1"],
        &["serve", "--listen", "here"],
        &["connect"],
        &["serve", "--log-format", "xml"],
    ] {
        let ended = run(args, &no_env()).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(ended.stderr.contains("--help") || ended.stderr.contains("Usage:"), "{}", ended.stderr);
    }
    let help = run(&["--help"], &no_env()).await;
    assert_eq!(help.code, Some(0));
    for word in
        ["serve", "check", "schema", "demo", "connect", "sandbox", "PUSHER_APP_ID", "Exit codes", "78"]
    {
        assert!(help.stdout.contains(word), "{word}");
    }
    for (name, words) in [
        (
            "serve",
            &["--config", "--listen", "--admin", "--log-format", "SIGTERM", "PUSHER_BRIDGE_LISTEN"][..],
        ),
        ("check", &["--config", "routes.toml"]),
        ("explain", &["--token", "--event", "--at", "--format", "PUSHER_BRIDGE_CONFIG"]),
        ("test", &["--config", "[NAME]"]),
        ("token", &["mint", "verify", "inspect"]),
        ("healthcheck", &["--live", "--timeout", "PUSHER_BRIDGE_ADMIN"]),
        ("completions", &["bash", "zsh", "fish"]),
        ("man", &["--folder"]),
        ("schema", &["JSON Schema"]),
        ("demo", &["--listen", "127.0.0.1:8009"]),
        ("connect", &["--token", "ws://"]),
        ("sandbox", &["--listen", "--key"]),
    ] {
        let help = run(&[name, "--help"], &no_env()).await;
        assert_eq!(help.code, Some(0), "{name}");
        for word in words {
            assert!(help.stdout.contains(word), "{name}: {word}\n{}", help.stdout);
        }
    }
    let version = run(&["--version"], &no_env()).await;
    assert_eq!(version.stdout, format!("pusher-bridge {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_prints_the_table_and_schema_the_schema() {
    let check = run(&["check"], &no_env()).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    for word in [
        "content",
        "/ws/content/{session_id}",
        "content-generation-{session_id}",
        "/ws/agent/{agent_id}",
        "agent-status",
        "private-plugin-{plugin_id}",
        "test-channel",
        "/ws/command/{session_id}",
    ] {
        assert!(check.stdout.contains(word), "{word}\n{}", check.stdout);
    }
    assert!(check.stderr.contains("warning: PUSHER_SECRET is not set"), "{}", check.stderr);
    let mut env = environment_of_nobody();
    env.insert("PUSHER_SECRET".to_owned(), "never-to-be-shown".to_owned());
    env.insert("JWT_SECRET".to_owned(), "never-to-be-shown".to_owned());
    let check = run(&["check"], &env).await;
    assert_eq!(check.code, Some(0));
    let warnings: Vec<&str> = check.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    for (route, channel) in [("content", "content-generation-{session_id}"), ("agent", "agent-status")] {
        let told = |line: &&&str| line.contains(&format!("`{route}`")) && line.contains("public");
        assert_eq!(warnings.iter().filter(told).count(), 1, "{}", check.stderr);
        assert!(check.stderr.contains(&format!("| channel = \"{channel}\"")), "{}", check.stderr);
    }
    let other: Vec<_> = warnings.iter().filter(|line| !line.contains("public")).collect();
    assert!(other.len() == 1 && other[0].contains("10 client events a second"), "{}", check.stderr);
    assert!(!check.stderr.contains("plugin"), "its channel is private: {}", check.stderr);
    assert!(!check.stdout.contains("never-to-be-shown"));

    let against = run(&["check", "--against", "routes.toml"], &no_env()).await;
    assert_eq!(against.code, Some(0), "{against:?}");
    assert!(against.stdout.starts_with("nothing changes\n"), "{against:?}");
    let against = run(&["check", "--against", "/nowhere/old.toml"], &no_env()).await;
    assert_eq!(against.code, Some(78), "{against:?}");

    let schema = run(&["schema"], &no_env()).await;
    assert_eq!(schema.code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&schema.stdout).unwrap();
    assert!(schema["properties"]["routes"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_override_the_environment_and_that_the_file() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let taken = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    };
    let ((_a, by_file), (_b, by_env), (_c, by_flag)) = (taken(), taken(), taken());
    let config = file("ports.toml", &SHIPPED.replacen("127.0.0.1:8009", &by_file, 1));
    let mut env = sandbox.app().environment();
    env.insert("PUSHER_BRIDGE_ADMIN".to_owned(), "127.0.0.1:0".to_owned());
    let by_default = ["serve", "--config", &config];
    let with_flag = ["serve", "--config", &config, "--listen", &by_flag];
    for (args, variable, expected) in [
        (&by_default[..], None, &by_file),
        (&by_default[..], Some(&by_env), &by_env),
        (&with_flag[..], Some(&by_env), &by_flag),
    ] {
        let mut env = env.clone();
        env.extend(variable.map(|address| ("PUSHER_BRIDGE_LISTEN".to_owned(), address.clone())));
        let ended = run(args, &env).await;
        assert_eq!(ended.code, Some(1), "a taken port: {ended:?}");
        assert!(ended.stderr.contains(&format!("cannot listen on {expected}")), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_is_an_old_client() {
    let routes =
        SHIPPED.replacen(r#"every = "30s", timeout = "75s""#, r#"every = "50ms", timeout = "1m""#, 1);
    let bridge = Bridge::with(&routes, |config| config.server.close_window = Duration::ZERO).await;
    let url = format!("ws://{}/ws/plugin/p1", bridge.address());
    let token = token("123");
    let mut program = Program::start(&["connect", &url, "--token", &token], &no_env());
    program.stdout.find(&format!("connected to {url}")).await;
    program.stdout.find("deprecation: @1737417600").await;
    program.stdout.find("sunset: Mon, 30 Jun 2025 23:59:59 GMT").await;
    program.stdout.find(r#"< {"type":"auth_response""#).await;
    program.stdout.find(r#"< {"type":"ping""#).await;
    program.stdout.find(r#"> {"type":"pong","timestamp":""#).await;
    program.type_line(r#"{"type":"run","data":{"speed":1.50}}"#);
    patiently("the line", bridge.sandbox.wait_for(|view| view.published().count() == 1)).await;
    assert_eq!(bridge.sandbox.published()[0].data.to_string(), r#"{"speed":1.50}"#);
    bridge.sandbox.trigger("private-plugin-p1", "stop", "\"\u{1b}[31m\"");
    let event = program.stdout.find(r#"< {"type":"stop""#).await;
    assert!(!event.contains('\u{1b}'), "a terminal is not to be steered from outside: {event:?}");
    assert_eq!(patiently("the shutdown", bridge.shutdown()).await, pusher_bridge::app::Shutdown::Clean);
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("closed by the server: 1001 server going away, reconnect"), "{ended:?}");
    assert!(!(ended.stdout + &ended.stderr).contains(&token), "a token is not printed");
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_says_why_it_cannot() {
    let bridge = Bridge::start().await;
    for (url, why) in [
        (format!("ws://{}/nowhere", bridge.address()), "404"),
        ("ws://127.0.0.1:1/ws".to_owned(), "ws://127.0.0.1:1/ws"),
        ("http://127.0.0.1/ws".to_owned(), "ws:// or wss://"),
        ("not a URL".to_owned(), "not a URL"),
    ] {
        let ended = run(&["connect", &url], &no_env()).await;
        assert_eq!(ended.code, Some(1), "{url}: {ended:?}");
        assert!(ended.stderr.contains(why), "{url}: {ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_gone_ends_it_quietly() {
    let routes =
        SHIPPED.replacen(r#"every = "30s", timeout = "75s""#, r#"every = "50ms", timeout = "1m""#, 1);
    let bridge = Bridge::with(&routes, |_| {}).await;
    let url = format!("ws://{}/ws/plugin/p1", bridge.address());
    let mut child = command(&["connect", &url, "--token", &token("123")], &no_env()).spawn().unwrap();
    drop(child.stdout.take());
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let ended = patiently("its end", waiting).await.unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_invites_and_its_guest_sees_events() {
    let text = SHIPPED.replacen("[upstream]", "[server.shutdown]\nclose_window = \"0s\"\n\n[upstream]", 1);
    let config = file("demo.toml", &text);
    let args = ["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config", &config];
    let mut demo = Program::start(&args, &no_env());
    let address = demo.stdout.find("ws://").await;
    let address = address.split("ws://").nth(1).unwrap().split(';').next().unwrap().to_owned();
    let token = demo.stdout.find("TOKEN=").await.trim().trim_start_matches("TOKEN=").to_owned();
    demo.stdout.find(&format!("connect ws://{address}/ws/content/demo --token $TOKEN")).await;
    let url = |path: &str| format!("ws://{address}{path}");
    let mut guest = Program::start(&["connect", &url("/ws/content/demo"), "--token", &token], &no_env());
    guest.stdout.find(r#"< {"type":"auth_response""#).await;
    guest.stdout.find(r#"< {"type":"progress_update","data":{"session_id":"demo""#).await;
    let mut commander = Program::start(&["connect", &url("/ws/command/demo"), "--token", &token], &no_env());
    commander.stdout.find(r#"< {"type":"auth_response""#).await;
    commander.type_line(r#"{"type":"input","data":"ls"}"#);
    commander.stdout.find(r#"< {"type":"output""#).await;
    demo.signal("INT");
    demo.stdout.find("stopping").await;
    guest.stdout.find("closed by the server: 1001").await;
    commander.stdout.find("closed by the server: 1001").await;
    let ended = demo.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}
