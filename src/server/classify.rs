//! Pure: what a request is for, by its path.

use crate::endpoints::settings::{Endpoint, Settings as Endpoints};
use crate::proxy::settings::Settings as Fallback;
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
    /// What stands behind the bridge.
    Fallback,
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
    fallback: Option<&Fallback>,
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
        Matched::Nothing if fallback.is_some_and(|fallback| fallback.choose(path).to.is_some()) => {
            Target::Fallback
        }
        Matched::Nothing => Target::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::net::destination::Destination;
    use crate::proxy::settings::Rule;
    use crate::routes::path::PathTemplate;

    #[test]
    fn a_path_is_healths_a_routes_or_nobodys() {
        let templates = ["/ws", "/ws/{id}"].map(|template| PathTemplate::parse(template).unwrap());
        let router = Router::new(templates.into());
        let target = |path| classify(path, Some("/healthz"), None, &router, None);
        assert_eq!(target("/healthz"), Target::Health);
        assert!(matches!(target("/ws"), Target::Route(0, Ok(_))));
        assert!(matches!(target("/ws/a"), Target::Route(1, Ok(values)) if values.get("id") == Some("a")));
        for path in ["/ws/a%20b", "/ws/"] {
            assert!(matches!(target(path), Target::Route(1, Err(BadValue::Illegal(_)))), "{path}");
        }
        for path in ["/healthz/", "/Healthz", "/", "/w", "*", ""] {
            assert_eq!(target(path), Target::Nothing, "{path}");
        }
        assert_eq!(classify("/healthz", None, None, &router, None), Target::Nothing);
    }

    /// Routes, endpoints and the health path come first, with values that are not acceptable, too.
    #[test]
    fn what_nobody_has_is_the_fallbacks_if_that_has_a_place_for_it() {
        let router = Router::new([PathTemplate::parse("/ws/{id}").unwrap()].into());
        let to = Arc::new(Destination::parse("http://127.0.0.1:1").unwrap());
        let rule = Rule { path: "/private/*".to_owned(), to: None };
        let fallback = Fallback { to: Some(to), rules: vec![rule], ..Fallback::of_nothing() };
        let target = |path| classify(path, Some("/healthz"), None, &router, Some(&fallback));
        for path in ["/", "/ws", "/ws/a/b", "/healthz/", "*", "/private2"] {
            assert_eq!(target(path), Target::Fallback, "{path}");
        }
        for path in ["/private", "/private/a"] {
            assert_eq!(target(path), Target::Nothing, "{path}");
        }
        assert_eq!(target("/healthz"), Target::Health);
        assert!(matches!(target("/ws/a"), Target::Route(0, Ok(_))));
        assert!(matches!(target("/ws/a%20b"), Target::Route(0, Err(_))));
    }
}
