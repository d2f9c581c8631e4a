//! A wrong key, secret or app is named as such, in the metrics and at `/readyz`, and never by mistake.

use std::time::Duration;

use pusher_bridge::app::{self, Running};
use pusher_bridge::sandbox::{HandshakeFault, Options, Sandbox};
use secrecy::SecretString;

use crate::admin::get;
use crate::support::bridge::{SHIPPED, config, metric};
use crate::support::patiently;
use crate::support::pusher::{App, Pusher};
use crate::support::sockudo::Sockudo;

const WHATS: [&str; 5] = ["key", "secret", "app", "disabled", "cluster"];

fn named(running: &Running) -> Vec<&'static str> {
    let series = |what: &str| format!("pusher_bridge_upstream_misconfigured{{what=\"{what}\"}}");
    WHATS.into_iter().filter(|what| metric(running, &series(what)) == 1.0).collect()
}

/// What is named, when anything is.
async fn finds(running: &Running) -> Vec<&'static str> {
    let found = async {
        while named(running).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    patiently("a finding", found).await;
    named(running)
}

async fn bridge(app: &App) -> Running {
    app::start(config(SHIPPED, &app.environment())).await.unwrap()
}

async fn each_is_named(app: &App) {
    let wrong = |what: &str| {
        let mut app = app.clone();
        match what {
            "key" => app.key = "wrong-key".to_owned(),
            "secret" => app.secret = SecretString::from("wrong-secret"),
            _ => app.id = "77".to_owned(),
        }
        app
    };
    for what in ["key", "secret", "app"] {
        let running = bridge(&wrong(what)).await;
        assert_eq!(finds(&running).await, [what]);
        let ready = get(running.admin_address, "/readyz").await.body;
        assert!(ready.contains(&format!("\nmisconfigured: {what}")), "{ready}");
        running.shutdown().await;
    }
    let running = bridge(app).await;
    patiently("the bridge to be ready", running.status.wait_ready()).await;
    assert_eq!(named(&running), [""; 0]);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_secret_or_app_is_named() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    each_is_named(&sandbox.app()).await;
}

/// It only ends the connection of a wrong key.
#[tokio::test(flavor = "multi_thread")]
async fn sockudo_names_a_wrong_key_secret_or_app() {
    if let Some(sockudo) = Sockudo::start().await {
        each_is_named(&sockudo.app()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_no_misconfiguration() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    sandbox.refuse_connections(HandshakeFault::Status(404));
    let mut config = config(SHIPPED, &sandbox.app().environment());
    config.upstream.times.reconnect_delay_max = Duration::from_millis(10);
    let running = app::start(config).await.unwrap();
    let refused = async {
        while metric(&running, r#"pusher_bridge_upstream_reconnects_total{cause="refused"}"#) < 5.0 {
            tokio::task::yield_now().await;
        }
    };
    patiently("refused connections", refused).await;
    assert_eq!(named(&running), [""; 0]);
    running.shutdown().await;
}
