//! `healthcheck`, `completions` and `man`.

use std::collections::HashMap;
use std::path::Path;

use crate::support::process::{file, run};
use crate::support::{Bridge, patiently};

fn no_env() -> HashMap<String, String> {
    HashMap::new()
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_ends_as_the_probe_says() {
    let bridge = Bridge::start().await;
    let admin = bridge.running.admin_address.to_string();
    let by_env = HashMap::from([("PUSHER_BRIDGE_ADMIN".to_owned(), admin.clone())]);
    for (args, env) in [
        (&["healthcheck", "--admin", &admin][..], no_env()),
        (&["healthcheck", "--admin", &admin, "--live"], no_env()),
        (&["healthcheck"], by_env),
        // What is listened on everywhere is asked here, and no proxy is between.
        (
            &["healthcheck", "--admin", &format!("0.0.0.0:{}", bridge.running.admin_address.port())],
            HashMap::from([("HTTP_PROXY".to_owned(), "http://127.0.0.1:1".to_owned())]),
        ),
    ] {
        let ended = run(args, &env).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{args:?}: {ended:?}");
        assert!(!ended.stdout.trim().is_empty());
    }
    bridge.running.status.start_draining();
    let ended = run(&["healthcheck", "--admin", &admin], &no_env()).await;
    assert!(ended.code == Some(1) && ended.stderr.contains("503"), "{ended:?}");
    let alive = run(&["healthcheck", "--admin", &admin, "--live"], &no_env()).await;
    assert_eq!(alive.code, Some(0), "{alive:?}");
    patiently("the shutdown", bridge.shutdown()).await;
    let ended = run(&["healthcheck", "--admin", &admin], &no_env()).await;
    assert!(ended.code == Some(1) && ended.stderr.contains(&admin), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_asks_where_the_file_says() {
    let bridge = Bridge::start().await;
    let text = crate::support::bridge::SHIPPED.replacen(
        "admin = \"127.0.0.1:9009\"",
        &format!("admin = \"{}\"", bridge.running.admin_address),
        1,
    );
    let ended = run(&["healthcheck", "--config", &file("health.toml", &text)], &no_env()).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let ended = run(&["healthcheck", "--config", "/nowhere.toml"], &no_env()).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    let ended = run(&["healthcheck", "--timeout", "0"], &no_env()).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shells_and_man_know_every_command() {
    let help = run(&["--help"], &no_env()).await.stdout;
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What is longer than a line goes on further to the right.
    let begins = listed.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    let commands: Vec<&str> = begins.filter_map(|rest| rest.split_whitespace().next()).collect();
    assert!(commands.contains(&"serve") && commands.contains(&"explain"), "{help}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = run(&["completions", shell], &no_env()).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{shell}");
        for word in ["serve", "explain", "--log-format", "inspect"] {
            // PowerShell and fish write flags in their own way.
            let word = word.trim_start_matches('-');
            assert!(ended.stdout.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(run(&["completions", "tcsh"], &no_env()).await.code, Some(2));
    let page = run(&["man"], &no_env()).await;
    assert!(page.code == Some(0) && page.stdout.contains(".TH pusher-bridge 1"), "{page:?}");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("man1");
    let written = run(&["man", "--folder", folder.to_str().unwrap()], &no_env()).await;
    assert_eq!(written.code, Some(0), "{written:?}");
    for command in commands.iter().filter(|command| **command != "help") {
        let page = std::fs::read_to_string(folder.join(format!("pusher-bridge-{command}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{command}");
    }
    assert!(folder.join("pusher-bridge.1").exists() && folder.join("pusher-bridge-token-mint.1").exists());
    let taken = file("taken", "");
    let refused = run(&["man", "--folder", &taken], &no_env()).await;
    assert!(refused.code == Some(1) && refused.stderr.contains(&taken), "{refused:?}");
}
