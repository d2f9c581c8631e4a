//! A bridge with the shipped routes (or others), and the sandbox as its Pusher.

use std::collections::HashMap;
use std::net::SocketAddr;

use pusher_bridge::app::{self, Running, Shutdown};
use pusher_bridge::auth::mint_hs256;
use pusher_bridge::config::diagnostics::Source;
use pusher_bridge::config::{self, Config};
use pusher_bridge::sandbox::{Options, Sandbox, SandboxHandle};

use super::network::Profile;
use super::pusher::{App, Pusher};
use super::{OldClient, patiently};

/// What tokens are signed with.
pub const JWT_SECRET: &str = "the secret of the tests";

/// The routes that come with the program.
pub const SHIPPED: &str = include_str!("../../../routes.toml");

/// A running bridge.
pub struct Bridge {
    pub running: Running,
    pub sandbox: SandboxHandle,
}

impl Bridge {
    /// With the shipped routes.
    pub async fn start() -> Self {
        Self::with(SHIPPED, |_| {}).await
    }

    /// With the shipped routes and more of them.
    pub async fn start_with(more: &str) -> Self {
        Self::with(&format!("{SHIPPED}\n{more}"), |_| {}).await
    }

    /// With these routes, and the configuration changed.
    pub async fn with(routes: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::with_env(routes, &[], change).await
    }

    /// The same, with more in the environment.
    pub async fn with_env(routes: &str, env: &[(&str, &str)], change: impl FnOnce(&mut Config)) -> Self {
        let sandbox = Sandbox::start(Options::local()).await.unwrap();
        let running = start(&sandbox.app(), routes, env, change).await;
        Self { running, sandbox }
    }

    /// An old client at `path`, connected.
    pub async fn connect(&self, path: &str) -> OldClient {
        OldClient::connect(self.running.address, path).await
    }

    /// The app it is for.
    pub fn app(&self) -> App {
        self.sandbox.app()
    }

    /// An old client at `path`, authenticated as user 123 with every permission.
    pub async fn login(&self, path: &str) -> OldClient {
        self.login_as(path, "123").await
    }

    /// The same as another user.
    pub async fn login_as(&self, path: &str, user: &str) -> OldClient {
        OldClient::login(self.running.address, path, user).await
    }

    /// Many at once, each at its path as its user: one after the other would take long over a far network.
    pub async fn login_all(&self, all: impl IntoIterator<Item = (String, String)>) -> Vec<OldClient> {
        let login = async |(path, user): (String, String)| self.login_as(&path, &user).await;
        futures_util::future::join_all(all.into_iter().map(login)).await
    }

    /// See [`metric`].
    pub fn metric(&self, series: &str) -> f64 {
        metric(&self.running, series)
    }

    /// Puts `config` in force.
    pub async fn reload(&self, config: Config) {
        self.running.replace(config).await.unwrap();
    }

    pub async fn shutdown(self) -> Shutdown {
        self.running.shutdown().await
    }

    pub fn address(&self) -> SocketAddr {
        self.running.address
    }
}

/// A bridge of this app, ready. Its Pusher and its clients are as far as the running test's network has them.
pub async fn start(
    app: &App,
    routes: &str,
    env: &[(&str, &str)],
    change: impl FnOnce(&mut Config),
) -> Running {
    let mut environment = app.environment();
    environment.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let network = Profile::current();
    network.put_before_pusher(&mut environment).await;
    let mut config = config(routes, &environment);
    change(&mut config);
    let mut running = app::start(config).await.unwrap();
    patiently("the bridge to be ready", running.status.wait_ready()).await;
    running.address = network.put_before_bridge(running.address).await;
    running
}

/// A line of `/metrics`, as it is now: the value of the series written so.
pub fn metric(running: &Running, series: &str) -> f64 {
    let text = running.metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// Routes with one thing replaced, which must be there.
pub fn config_text(routes: &str, what: &str, by: &str) -> String {
    assert_eq!(routes.matches(what).count(), 1, "{what} is in the routes once");
    routes.replace(what, by)
}

/// The configuration of `routes`, on ports of the system's choice.
pub fn config(routes: &str, environment: &HashMap<String, String>) -> Config {
    let source = Source { name: "routes.toml".into(), text: routes.into() };
    let loaded =
        config::load(&source, &|name| environment.get(name).cloned()).unwrap_or_else(|diagnostics| {
            panic!("{}", diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        });
    let mut config = loaded.complete().unwrap();
    config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.admin.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config
}

/// A token of `user` with every permission of the shipped routes, valid for an hour.
pub fn token(user: &str) -> String {
    token_with(user, |_| {})
}

/// The same, with its claims changed.
pub fn token_with(user: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut claims = serde_json::json!({
        "sub": user,
        "role": "teacher",
        "permissions": ["content:generate", "roblox:read", "command:run"],
        "plugin_ids": ["p1"],
        "exp": pusher_bridge::clock::Now::read().unix_seconds() + 3600,
    });
    change(&mut claims);
    mint_hs256(JWT_SECRET.as_bytes(), &claims.to_string())
}
