//! The configuration, validated: types that cannot be wrong. `raw` is what the file says, `load` reads it,
//! `validate` turns the one into the other.

use std::sync::Arc;

use crate::admin::settings::Settings as Admin;
use crate::auth::settings::Settings as Auth;
use crate::endpoints::settings::Settings as Endpoints;
use crate::proxy::settings::Settings as Fallback;
use crate::routes::entrance::Entrance;
use crate::routes::path::{Matched, Router};
use crate::routes::route::Route;
use crate::routes::tunnel::TunnelRoute;
use crate::server::settings::Settings as Server;
use crate::upstream::settings::Settings as Upstream;

mod describe;
pub mod diagnostics;
mod enabled;
pub mod expected;
mod interpolate;
mod load;
mod mask;
mod places;
pub mod plan;
mod problems;
mod quotes;
mod raw;
mod scalars;
mod schema;
mod script;
mod secrets;
mod validate;

pub use describe::{describe, limits, tunnel_limits};
pub use diagnostics::{Diagnostic, Source};
pub use enabled::OffRoute;
pub use interpolate::Missing;
pub use load::{Environment, Loaded, load, load_noting, load_with_places};
pub(crate) use mask::url as masked_url;
pub use places::Places;
pub(crate) use problems::duration;
pub use schema::json_schema;
pub use script::load_script;

/// Everything that the file, the environment and the flags say.
#[derive(Debug)]
pub struct Config {
    /// Listening and its limits.
    pub server: Server,
    /// The admin address.
    pub admin: Admin,
    /// The Pusher side.
    pub upstream: Upstream,
    /// Token verification; `None` when no route needs it.
    pub auth: Option<Auth>,
    /// What new clients and publishers may ask for.
    pub endpoints: Endpoints,
    /// Where goes what nobody here takes; `None`: nowhere.
    pub fallback: Option<Fallback>,
    /// The routes that Pusher serves, in the file's order.
    pub routes: Vec<Arc<Route>>,
    /// Those that old servers go on serving, in the file's order.
    pub tunnels: Vec<Arc<TunnelRoute>>,
    /// Finds a route's place for a path: among the routes, and behind them among the tunnels.
    pub router: Router,
    /// Those that do not exist, as their `enabled_with` is empty.
    pub off: Vec<OffRoute>,
}

/// What serves a route.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Served<'c> {
    /// Pusher, by this bridge.
    Relay(&'c Arc<Route>),
    /// The old server.
    Tunnel(&'c Arc<TunnelRoute>),
}

impl Config {
    /// What serves the route that the router finds at this place.
    #[must_use]
    pub(crate) fn served(&self, place: usize) -> Option<Served<'_>> {
        let tunnel = || self.tunnels.get(place.checked_sub(self.routes.len())?).map(Served::Tunnel);
        self.routes.get(place).map(Served::Relay).or_else(tunnel)
    }

    /// Every route by its name, and what serves it.
    pub(crate) fn all_served(&self) -> impl Iterator<Item = (&Arc<str>, Served<'_>)> {
        let tunnels = self.tunnels.iter().map(|route| (&route.name, Served::Tunnel(route)));
        self.routes.iter().map(|route| (&route.name, Served::Relay(route))).chain(tunnels)
    }

    /// Every route, as a request meets it.
    pub(crate) fn entrances(&self) -> impl Iterator<Item = Entrance<'_>> {
        let tunnels = self.tunnels.iter().map(|route| route.entrance());
        self.routes.iter().map(|route| route.entrance()).chain(tunnels)
    }

    /// The route that `path` leads to, even with values that its channel cannot hold.
    #[must_use]
    pub(crate) fn route_of(&self, path: &str) -> Option<Entrance<'_>> {
        match self.router.find(path) {
            Matched::Route(place, _) | Matched::BadValue(place, _) => self.entrances().nth(place),
            Matched::Nothing => None,
        }
    }
}
