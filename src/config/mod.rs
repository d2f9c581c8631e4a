//! The configuration, validated: types that cannot be wrong. `raw` is what the file says, `load` reads it,
//! `validate` turns the one into the other.

use std::sync::Arc;

use crate::admin::settings::Settings as Admin;
use crate::auth::settings::Settings as Auth;
use crate::endpoints::settings::Settings as Endpoints;
use crate::proxy::settings::Settings as Fallback;
use crate::routes::path::{Matched, Router};
use crate::routes::route::Route;
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
mod secrets;
mod validate;

pub use describe::{describe, limits};
pub use diagnostics::{Diagnostic, Source};
pub use enabled::OffRoute;
pub use interpolate::Missing;
pub use load::{Environment, Loaded, load, load_noting, load_with_places};
pub(crate) use mask::url as masked_url;
pub use places::Places;
pub(crate) use problems::duration;
pub use schema::json_schema;

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
    /// The routes, in the file's order.
    pub routes: Vec<Arc<Route>>,
    /// Finds a route's place there for a path.
    pub router: Router,
    /// Those that do not exist, as their `enabled_with` is empty.
    pub off: Vec<OffRoute>,
}

impl Config {
    /// The route that `path` leads to, even with values that its channel cannot hold.
    #[must_use]
    pub(crate) fn route_of(&self, path: &str) -> Option<&Arc<Route>> {
        match self.router.find(path) {
            Matched::Route(index, _) | Matched::BadValue(index, _) => self.routes.get(index),
            Matched::Nothing => None,
        }
    }
}
