//! Pure: what a request is for, by its path.

use crate::endpoints::settings::{Endpoint, Settings as Endpoints};
use crate::routes::path::{BadValue, Matched, PathValues, Router};

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// What load balancers ask.
    Health,
    /// One of new clients', publishers' or Pusher's own.
    Endpoint(Endpoint),
    /// A route, by its index, with the path's values, or why a channel cannot hold them.
    Route(usize, Result<PathValues, BadValue>),
    /// Nothing that is here.
    Nothing,
}

/// What a request for `path` is for. The health path and the endpoints' are no route's: the configuration sees to that,
/// and who replaces the routes.
#[must_use]
pub fn classify(
    path: &str,
    health_path: Option<&str>,
    endpoints: Option<&Endpoints>,
    router: &Router,
) -> Target {
    if health_path == Some(path) {
        return Target::Health;
    }
    if let Some(endpoint) = endpoints.and_then(|endpoints| endpoints.at(path)) {
        return Target::Endpoint(endpoint);
    }
    match router.find(path) {
        Matched::Route(index, values) => Target::Route(index, Ok(values)),
        Matched::BadValue(index, why) => Target::Route(index, Err(why)),
        Matched::Nothing => Target::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::path::PathTemplate;

    #[test]
    fn a_path_is_healths_a_routes_or_nobodys() {
        let templates = ["/ws", "/ws/{id}"].map(|template| PathTemplate::parse(template).unwrap());
        let router = Router::new(templates.into());
        let target = |path| classify(path, Some("/healthz"), None, &router);
        assert_eq!(target("/healthz"), Target::Health);
        assert!(matches!(target("/ws"), Target::Route(0, Ok(_))));
        assert!(matches!(target("/ws/a"), Target::Route(1, Ok(values)) if values.get("id") == Some("a")));
        for path in ["/ws/a%20b", "/ws/"] {
            assert!(matches!(target(path), Target::Route(1, Err(BadValue::Illegal(_)))), "{path}");
        }
        for path in ["/healthz/", "/Healthz", "/", "/w", "*", ""] {
            assert_eq!(target(path), Target::Nothing, "{path}");
        }
        assert_eq!(classify("/healthz", None, None, &router), Target::Nothing);
    }
}
