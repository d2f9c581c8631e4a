//! Raw values to validated ones. Every function reports what is wrong and goes on with a stand-in, so that
//! one run reports everything; a configuration with any report is never used.

mod auth;
mod channel;
mod cure;
mod deprecation;
mod dialect;
mod door;
mod endpoints;
mod events;
mod exclude;
mod fallback;
mod limits;
mod lookalikes;
mod membership;
mod publish;
mod rates;
mod reserve;
mod route;
mod server;
mod sharing;
mod tests;
mod tunnel;
mod upstream;
mod values;

pub(super) use self::tests::{tests, untested};

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::problems::Problems;
use super::raw;
use super::scalars::{At, Either};
use super::{Config, OffRoute};
use crate::exchange::{Member, NamedBy};
use crate::legacy::dialect::Dialect;
use crate::limits::rate::Rate;
use crate::routes::path::Router;
use crate::routes::route::Route;
use crate::routes::tunnel::TunnelRoute;
use crate::template::{Allow, Text, Var, closest};
use crate::upstream::members::settings::Observer;

/// The least duration where zero makes no sense.
const POSITIVE: Duration = Duration::from_millis(1);
/// Longest name of a route, group or dialect.
const NAME_BYTES_MAX: usize = 64;
/// Most per period, and most in a bucket.
const RATE_MAX: i64 = 1_000_000_000;
/// Longest time to refill a bucket; `limits/rate.rs` can count little more.
const REFILL_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// A route merged with its group and the defaults.
pub(super) struct RouteInput {
    pub(super) span: Range<usize>,
    pub(super) route: raw::Route,
    /// Where the route itself, not its group or the defaults, has `limits.connections_per_user`.
    pub(super) own_slots: Option<Range<usize>>,
    /// The same of `auth.also_from` and `auth.deadline`.
    pub(super) own_asks: Option<Range<usize>>,
    /// The same of `on_undecryptable`.
    pub(super) own_undecryptable: Option<Range<usize>>,
    /// The keys that the route itself has, `limits.depth` and the like among them, and where.
    pub(super) own: Vec<(String, Range<usize>)>,
}

/// What all routes have in common.
struct Shared {
    dialects: BTreeMap<String, Option<Arc<Dialect>>>,
    has_keys: bool,
    /// Whether encrypted channels can be carried: `upstream.encryption_master_key`.
    has_master_key: bool,
    /// `upstream.event_bytes`
    event_bytes_max: usize,
    /// The member that this bridge is where it observes.
    observer: Arc<Member>,
}

pub(super) fn config(
    problems: &mut Problems<'_>,
    root: &raw::Root,
    inputs: &[RouteInput],
    off: Vec<OffRoute>,
) -> Config {
    let (server, admin) = server::server(problems, root.server.as_ref());
    let upstream = upstream::upstream(problems, root.upstream.as_ref());
    let auth = root.auth.as_ref().map(|auth| auth::auth(problems, auth.get()));
    let mut shared = Shared {
        dialects: BTreeMap::new(),
        event_bytes_max: upstream.event_bytes_max,
        has_master_key: upstream.app.encryption_master_key.is_some(),
        observer: observer(&upstream.members.observer),
        has_keys: root
            .auth
            .as_ref()
            .is_some_and(|auth| auth.get().keys.as_ref().is_some_and(|k| !k.is_empty())),
    };
    for (name, dialect) in root.dialects.iter().flatten() {
        if !is_name(name.get()) {
            bad_name(problems, name.span(), "dialect");
        }
        let dialect = dialect::dialect(problems, name, dialect);
        shared.dialects.insert(name.get().clone(), dialect.map(Arc::new));
    }
    let fallback = root.fallback.as_ref().map(|fallback| fallback::fallback(problems, fallback));
    let (mut routes, mut tunnels) = (Vec::new(), Vec::new());
    for input in inputs {
        if tunnel::is_tunnel(&input.route) {
            let route = tunnel::tunnel(problems, input, fallback.as_ref());
            tunnels.extend(route.map(|route| (input, Arc::new(route))));
        } else if let Some(route) = route::route(problems, input, &shared) {
            routes.push((input, route));
        }
    }
    reserve::reserve(&mut routes);
    let routes: Vec<_> = routes.into_iter().map(|(input, route)| (input, Arc::new(route))).collect();
    distinct(problems, &routes, &tunnels);
    if problems.is_empty() {
        sharing::check(problems, &routes, &off);
        lookalikes::check(problems, &routes);
        let caps = rates::Caps { connections: server.connections_max, links: upstream.connections };
        rates::check(problems, &routes, caps);
    }
    for (input, route) in &routes {
        if let Some(channel) = &input.route.channel {
            endpoints::warn_of_public(problems, channel, route);
        }
    }
    let routes: Vec<_> = routes.into_iter().map(|(_, route)| route).collect();
    let tunnels: Vec<_> = tunnels.into_iter().map(|(_, route)| route).collect();
    let paths = routes.iter().map(|route| &route.path).chain(tunnels.iter().map(|route| &route.path));
    let router = Router::new(paths.cloned().collect());
    let endpoints = {
        let (has_keys, event_bytes_max) = (shared.has_keys, shared.event_bytes_max);
        endpoints::endpoints(problems, root.endpoints.as_ref(), has_keys, event_bytes_max)
    };
    let config = Config { server, admin, upstream, auth, endpoints, fallback, routes, tunnels, router, off };
    server::check_health_path(problems, root.server.as_ref(), &config);
    let health_path = root.server.as_ref().and_then(|server| server.health_path.as_ref());
    endpoints::check(problems, root.endpoints.as_ref(), health_path, &config);
    config
}

/// Names and paths must be distinct, whatever serves the routes.
fn distinct(
    problems: &mut Problems<'_>,
    routes: &[(&RouteInput, Arc<Route>)],
    tunnels: &[(&RouteInput, Arc<TunnelRoute>)],
) {
    let routes = routes.iter().map(|(input, route)| (*input, route.entrance()));
    let mut all: Vec<_> =
        routes.chain(tunnels.iter().map(|(input, route)| (*input, route.entrance()))).collect();
    // In the file's order: the later one is told of the earlier.
    all.sort_by_key(|(input, _)| input.span.start);
    route::distinct(problems, &all);
}

/// As whom this bridge observes presence channels.
fn observer(Observer { user_id, user_info }: &Observer) -> Arc<Member> {
    let info = Some(user_info.clone());
    Arc::new(Member { named_by: NamedBy::Bridge, user_id: user_id.clone(), info, user_data: None })
}

/// `[a-z0-9_-]+`: what a metric label, a file and a URL can all hold.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

pub(super) fn bad_name(problems: &mut Problems<'_>, span: Range<usize>, what: &str) {
    problems.at(
        span,
        format!("a {what}'s name is 1 to {NAME_BYTES_MAX} of lower-case letters, digits, `_` and `-`"),
    );
}

pub(super) fn unknown_name(problems: &mut Problems<'_>, name: &At<String>, what: &str, known: &[&str]) {
    unknown(problems, name.span(), format!("there is no {what} `{}`", name.get()), name.get(), known);
}

/// `name` is none of `known`: the nearest of them, or all.
pub(super) fn unknown(
    problems: &mut Problems<'_>,
    span: Range<usize>,
    message: String,
    name: &str,
    known: &[&str],
) {
    match (closest(name, known.iter().copied()), known) {
        (Some(near), _) => problems.with_help(span, message, format!("did you mean `{near}`?")),
        (None, []) => problems.at(span, message),
        (None, _) => problems.with_help(
            span,
            message,
            format!("there are {}", known.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")),
        ),
    }
}

/// The text of a key that must be there.
fn required<'r>(
    problems: &mut Problems<'_>,
    raw: Option<&'r At<String>>,
    table: Range<usize>,
    key: &str,
) -> Option<&'r At<String>> {
    if raw.is_none() {
        problems.at(table, format!("`{key}` is missing"));
    }
    problems.text(raw)
}

/// The name of a member of a JSON object, or the path to one: names with dots between. Other notations
/// would be taken for a name that no object has.
fn member<'r>(problems: &mut Problems<'_>, raw: Option<&'r At<String>>) -> Option<&'r At<String>> {
    let raw = problems.text(raw)?;
    let path = raw.get();
    let query = path.starts_with("$.") || path.starts_with("$[") || path.starts_with('/');
    let bad = if query { Some(0) } else { path.find(['[', ']']) };
    if let Some(at) = bad {
        let span = problems.inside(raw, at);
        problems.with_help(
            span,
            "this is neither a member's name nor a path to one",
            "a path is names with a `.` between: `realm_access.roles`",
        );
        return None;
    }
    let dots = path.match_indices('.').map(|(at, _)| at);
    let mut empty =
        dots.filter(|&at| at == 0 || at + 1 == path.len() || path.get(at + 1..at + 2) == Some("."));
    if let Some(at) = empty.next() {
        let span = problems.inside(raw, at);
        problems.at(span, "a name beside this `.` is empty");
        return None;
    }
    Some(raw)
}

fn member_or(problems: &mut Problems<'_>, raw: Option<&At<String>>, default: &str) -> String {
    member(problems, raw).map_or_else(|| default.to_owned(), |name| name.get().clone())
}

fn rate(problems: &mut Problems<'_>, raw: &At<raw::Rate>, default: Rate) -> Rate {
    let (span, raw) = (raw.span(), raw.get());
    if raw.count.is_none() {
        problems.at(span.clone(), "`count` is missing");
    }
    if raw.per.is_none() {
        problems.at(span, "`per` is missing");
    }
    let count = problems.number(raw.count.as_ref(), 1..=RATE_MAX, default.count);
    let per = problems.duration(raw.per.as_ref(), POSITIVE, default.per);
    let burst = problems.number(raw.burst.as_ref(), 1..=RATE_MAX, count);
    if (per / count.max(1)).saturating_mul(burst) > REFILL_MAX
        && let Some(place) = raw.burst.as_ref().map(At::span).or(raw.per.as_ref().map(At::span))
    {
        problems.at(place, "this bucket would take more than a hundred years to fill: use a smaller `burst`");
    }
    if per.as_nanos() < u128::from(count)
        && let Some(place) = &raw.count
    {
        problems.at(
            place.span(),
            "more than one in a nanosecond cannot be counted: write \"unlimited\" for no limit",
        );
    }
    Rate { count, per, burst }
}

fn rate_or_none(
    problems: &mut Problems<'_>,
    raw: Option<&At<Either<super::scalars::Unlimited, raw::Rate>>>,
    default: Rate,
) -> Option<Rate> {
    let Some(raw) = raw else { return Some(default) };
    match raw.get() {
        Either::Short(_) => None,
        Either::Long(table) => Some(rate(problems, &raw.with(table.clone()), default)),
    }
}

/// Parses a text template; `{auth.user}` is known everywhere, and an error where there is no user.
fn template(
    problems: &mut Problems<'_>,
    raw: &At<String>,
    path_names: &[String],
    allow: Allow,
    authenticated: bool,
) -> Option<Text> {
    match Text::parse(raw.get(), path_names, Allow { user: true, ..allow }) {
        Err(error) => {
            problems.template(raw, error);
            None
        }
        Ok(text) => {
            let asks = text.vars().any(|var| *var == Var::User);
            if asks && !(authenticated && allow.user) {
                let at = raw.get().find("{auth.user}").unwrap_or(0);
                let span = problems.inside(raw, at);
                problems.at(span, "`{auth.user}` needs a route with `auth.required = true`");
                return None;
            }
            Some(text)
        }
    }
}
