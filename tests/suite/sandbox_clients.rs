//! The npm packages `pusher-js` and `pusher` against the sandbox (tests/clients/sandbox.test.mjs).

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use pusher_bridge::sandbox::{Options, Sandbox, Webhooks};
use secrecy::ExposeSecret as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pusher_js_and_the_node_sdk_work_against_the_sandbox() {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    if !clients.join("node_modules").exists() {
        eprintln!("SKIPPED: tests/clients/node_modules is missing; run tests/run");
        let complete = std::env::var("PUSHER_BRIDGE_TESTS_COMPLETE").is_ok_and(|value| value == "1");
        assert!(!complete, "PUSHER_BRIDGE_TESTS_COMPLETE=1 allows no test to be skipped");
        return;
    }
    let options = Options { subscription_counts: true, ..Options::local() };
    let sandbox = Sandbox::start(options).await.unwrap();
    let options = sandbox.options();
    let mut command = Command::new("node");
    command
        .args(["--test", "--test-reporter=spec", "sandbox.test.mjs"])
        .current_dir(clients)
        .env("SANDBOX_PORT", sandbox.addr().port().to_string())
        .env("SANDBOX_APP_ID", &options.app_id)
        .env("SANDBOX_KEY", &options.key)
        .env("SANDBOX_SECRET", options.secret.expose_secret());
    let node = tokio::task::spawn_blocking(move || command.output());
    let close_when_asked = async {
        sandbox.wait_for(|view| view.subscribed("close-me") == 1).await;
        sandbox.close_connections(4200);
        std::future::pending().await
    };
    let send_webhooks_when_asked = async {
        let asked = |name: &&str| name.starts_with("webhooks-to-");
        sandbox.wait_for(|view| view.ever_subscribed().any(|name| asked(&name))).await;
        let channel = sandbox.view(|view| view.ever_subscribed().find(asked).unwrap().to_owned());
        let url = channel.replace("webhooks-to-", "http://127.0.0.1:");
        sandbox.send_webhooks(Webhooks { url, delay: Duration::from_millis(100) });
        sandbox.trigger(&channel, "ready", "{}");
        std::future::pending().await
    };
    let output: Output = tokio::select! {
        output = node => output.unwrap().expect("node is needed"),
        () = close_when_asked => unreachable!(),
        () = send_webhooks_when_asked => unreachable!(),
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");

    let exact = r#"{"n":1.50,"big":12345678901234567890}"#;
    assert!(sandbox.published().iter().any(|event| event.channel == "data" && event.data == exact));
    assert!(sandbox.requests().sizes.contains(&3), "the batch of three came as one request");
    let events = sandbox.client_events();
    assert_eq!(events.iter().filter(|event| event.channel == "private-room").count(), 2);
    assert!(sandbox.connections() == 0 && sandbox.view(|view| view.signed_in("ann")) == 0);
}
