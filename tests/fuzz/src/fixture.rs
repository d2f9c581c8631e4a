//! One configuration for the harnesses that need routes: every feature a session can have, with limits so small
//! that short inputs reach them.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use pusher_bridge::auth::Claims;
use pusher_bridge::auth::settings::ClaimNames;
use pusher_bridge::clock::Now;
use pusher_bridge::config::{self, Config, Source};
use pusher_bridge::routes::path::{Matched, PathValues};
use pusher_bridge::routes::route::Route;
use pusher_bridge::session::machine::Opening;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let source = Source { name: "fixture.toml".into(), text: include_str!("fixture.toml").into() };
    match config::load(&source, &|_| None) {
        Ok(loaded) => loaded.complete().unwrap(),
        Err(errors) => panic!("{}", errors.iter().map(ToString::to_string).collect::<String>()),
    }
});

pub(crate) fn config() -> &'static Config {
    &CONFIG
}

/// Both clocks at a moment that never changes on one of them.
pub(crate) fn now() -> Now {
    static START: LazyLock<Now> = LazyLock::new(|| Now { unix_ms: 1_737_453_600_000, ..Now::read() });
    *START
}

/// The route of this path, and the path's values.
pub(crate) fn find<'c>(config: &'c Config, path: &str) -> Option<(&'c Arc<Route>, PathValues)> {
    match config.router.find(path) {
        Matched::Route(index, values) => Some((&config.routes[index], values)),
        Matched::BadValue(..) | Matched::Nothing => None,
    }
}

/// A connection that has just been upgraded.
pub(crate) fn opening(route: &Arc<Route>, values: PathValues) -> Opening {
    Opening {
        route: route.clone(),
        endpoint: route.path.source().to_owned(),
        values,
        token: None,
        refusal: None,
        subscribe_wait: Duration::from_secs(10),
        seed: 7,
    }
}

/// A verified token's claims: `permissions` and `plugins` are JSON arrays.
pub(crate) fn claims(user: &str, permissions: &str, plugins: &str, expires_at_unix: i64) -> Claims {
    let json = format!(
        r#"{{"sub":"{user}","role":"r","permissions":{permissions},"plugin_ids":{plugins},"exp":{expires_at_unix}}}"#
    );
    let names = ClaimNames { user: "sub".into(), role: "role".into(), permissions: "permissions".into() };
    Claims::parse(json, &names).unwrap()
}
