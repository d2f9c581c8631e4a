//! Clients in other languages, as processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use secrecy::ExposeSecret;

use super::bridge::JWT_SECRET;
use super::pusher::App;
use super::skipped;

/// A file of tests/clients: Node's `ws` as the old client, `pusher-js` and `pusher` on the other side.
pub async fn node(file: &str, app: &App, bridge: SocketAddr, env: &[(&str, &str)]) -> Option<Output> {
    if !directory().join("node_modules").exists() {
        skipped("tests/clients/node_modules is missing; run tests/run");
        return None;
    }
    let mut command = Command::new("node");
    command.args(["--test", "--test-reporter=spec", file]);
    Some(run(command, app, bridge, env).await)
}

/// tests/clients/old_client.py: Python's `websockets` as the old client, `pusher` on the other side.
pub async fn python(app: &App, bridge: SocketAddr) -> Option<Output> {
    python_at(app, bridge, &[]).await
}

/// The same with more in its environment, which may have it connect otherwise.
pub async fn python_at(app: &App, bridge: SocketAddr, env: &[(&str, &str)]) -> Option<Output> {
    let Some(python) = std::env::var_os("PYTHON") else {
        skipped("PYTHON is not set; run tests/run");
        return None;
    };
    let mut command = Command::new(python);
    command.arg("old_client.py");
    Some(run(command, app, bridge, env).await)
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

async fn run(mut command: Command, app: &App, bridge: SocketAddr, env: &[(&str, &str)]) -> Output {
    command
        .current_dir(directory())
        .env("BRIDGE_URL", format!("ws://{bridge}"))
        .env("JWT_SECRET", JWT_SECRET)
        .env("PUSHER_HOST", app.address.ip().to_string())
        .env("PUSHER_PORT", app.address.port().to_string())
        .env("PUSHER_APP_ID", &app.id)
        .env("PUSHER_KEY", &app.key)
        .env("PUSHER_SECRET", app.secret.expose_secret())
        .envs(env.iter().copied());
    tokio::task::spawn_blocking(move || {
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    })
    .await
    .unwrap()
}
