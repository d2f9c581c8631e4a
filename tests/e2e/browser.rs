//! Debian's Chromium with an unmodified page of the old API, which is served through the fallback.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pusher_bridge::config::Config;
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};

use crate::support::bridge::{SHIPPED, token};
use crate::support::process::Program;
use crate::support::tls::{Authority, serve};
use crate::support::{Bridge, patiently, skipped, temporary_directory};

/// The old API, listening.
pub struct OldApi {
    program: Program,
    pub port: u16,
    /// Where its WebSockets are.
    live: u16,
}

impl OldApi {
    /// tests/clients/old_api.mjs.
    pub async fn start() -> Option<Self> {
        if !clients().join("node_modules").exists() {
            skipped("tests/clients/node_modules is missing; run tests/run");
            return None;
        }
        let mut command = Command::new("node");
        command.arg("old_api.mjs");
        Some(Self::of(command).await)
    }

    /// tests/clients/old_api.py.
    pub async fn python() -> Option<Self> {
        let Some(python) = std::env::var_os("PYTHON") else {
            skipped("PYTHON is not set; run tests/run");
            return None;
        };
        let mut command = Command::new(python);
        command.arg("old_api.py");
        Some(Self::of(command).await)
    }

    async fn of(mut command: Command) -> Self {
        command.current_dir(clients()).env("TOKEN", token("123"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut program = Program::spawn(command);
        let line = program.stdout.find("LISTENING ").await;
        let [port, live] = serde_json::from_str(&line["LISTENING ".len()..]).unwrap();
        Self { program, port, live }
    }

    /// The next thing of this kind that a page tells it.
    pub async fn told(&mut self, what: &str) -> Value {
        let line = self.program.stdout.find(what).await;
        serde_json::from_str(line.split_once(' ').unwrap().1).unwrap()
    }

    pub fn fallback(&self) -> String {
        let at = |port: u16| format!("to = \"http://127.0.0.1:{port}\"\n");
        format!("[fallback]\n{}\n[[fallback.rules]]\npath = \"/live\"\n{}\n", at(self.port), at(self.live))
    }
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// A browser at one page; it ends when it is dropped.
struct Browser {
    _program: Program,
    profile: PathBuf,
}

impl Browser {
    fn start(url: &str, more: &[String]) -> Option<Self> {
        let Some(program) = std::env::var_os("CHROMIUM").filter(|path| !path.is_empty()) else {
            skipped("CHROMIUM is not set; run tests/run");
            return None;
        };
        let profile = temporary_directory("chromium");
        let mut command = Command::new(program);
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args(["--disable-background-networking", "--disable-component-update", "--no-proxy-server"])
            // Without it, it looks once and ends.
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", profile.display()))
            .args(more)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Some(Self { _program: Program::spawn(command), profile })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// The page is used from its redirect to its last WebSocket, and saw nothing else than without a bridge.
async fn uses_the_page(scheme: &str, protocol: &str, change: impl FnOnce(&mut Config), flags: &[String]) {
    let Some(mut old) = OldApi::start().await else { return };
    let bridge = Bridge::with(&(old.fallback() + SHIPPED), change).await;
    let address = bridge.address();
    let Some(_browser) = Browser::start(&format!("{scheme}://{address}/"), flags) else { return };
    // The channel is subscribed when the page has been let in.
    while old.told("HEARD ").await != "plugin" {}
    bridge.sandbox.trigger("private-plugin-p1", "progress", r#"{"n":1.50}"#);
    while old.told("HEARD ").await != "run" {}
    patiently(
        "its message",
        bridge.sandbox.wait_for(|view| view.published().any(|one| one.event == "client-run")),
    )
    .await;
    let published = bridge.sandbox.published();
    let run = published.iter().find(|one| one.event == "client-run").unwrap();
    assert_eq!(
        (run.channel.as_str(), run.data.as_str()),
        ("private-plugin-p1", r#"{"script":"print('é')","of":{"n":1.5}}"#)
    );
    bridge.sandbox.trigger("private-plugin-p1", "over", "1");
    let report = old.told("REPORT ").await;
    let (host, origin) = (address.to_string(), format!("{scheme}://{address}"));
    let via = if protocol == "h2" { "2.0 pusher-bridge" } else { "1.1 pusher-bridge" };
    let dictation = json!({ "parts": "one two three", "coding": "chunked" });
    assert_eq!(
        report,
        json!({
            "protocol": protocol,
            "path": "/app/",
            "session": {
                "cookies": { "session": "of-ann", "theme": "dark" },
                "readable": "theme=dark",
                "host": host,
                "asked": host,
                "by": "127.0.0.1",
                "proto": scheme,
                "forwarded": format!("for=127.0.0.1;host=\"{host}\";proto={scheme}"),
                "via": via,
            },
            "cache": [[200, "200", 1], [200, "304", 1]],
            "story": ["once", "upon", "a time é 😀"],
            "upload": { "name": "data.bin", "note": "é", "bytes": 3_000_000, "same": true, "told": true },
            "events": [["7", "first"], ["8", "after 7"]],
            "live": {
                "greeting": { "session": "of-ann", "origin": origin, "address": "127.0.0.1" },
                "protocol": "chat.v1",
                "text": true,
                "binary": [0, 1, 255],
                "pong": "pong now",
                "code": 4001,
                "reason": "later",
                "wasClean": true,
            },
            "plugin": {
                "first": "auth_response",
                "user": "123",
                "event": ["progress", { "n": 1.5 }],
                "over": "over",
                "code": 1000,
                "wasClean": true,
            },
            "dictation": if protocol == "h2" { dictation } else { Value::Null },
        })
    );
    assert_eq!(bridge.metric(r#"pusher_bridge_connections_total{route="plugin"}"#), 1.0);
    let tunnels =
        format!(r#"pusher_bridge_fallback_tunnels_opened_total{{upstream="127.0.0.1:{}"}}"#, old.port);
    assert_eq!(bridge.metric(&tunnels), 1.0);
    if protocol == "h2" {
        // No WebSocket had a connection of its own.
        let handshakes = bridge.metric(r#"pusher_bridge_tls_handshakes_total{version="1.3"}"#);
        assert_eq!(bridge.metric("pusher_bridge_http2_connections"), handshakes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_uses_an_unmodified_page_of_the_old_api() {
    uses_the_page("http", "http/1.1", |_| {}, &[]).await;
}

async fn by_tls(protocol: &str, streams: u32) {
    let pair = Authority::new().sign("old.example");
    // No authority is trusted, but this key is.
    let key = KeyPair::from_pem(&pair.key).unwrap().subject_public_key_info();
    let pin = STANDARD.encode(digest(&SHA256, &key));
    let change = |config: &mut Config| {
        config.server.http2_streams_max = streams;
        serve(config, &pair, None);
    };
    uses_the_page("https", protocol, change, &[format!("--ignore-certificate-errors-spki-list={pin}")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_uses_it_by_tls() {
    by_tls("http/1.1", 0).await;
}

/// Its WebSockets are streams, then, and it may send what it has not got yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_uses_it_by_http2() {
    by_tls("h2", 100).await;
}
