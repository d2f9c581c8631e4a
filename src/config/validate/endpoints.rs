//! `[endpoints]`

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::{POSITIVE, door, member, rate_or_none, required, unknown_name};
use crate::config::problems::Problems;
use crate::config::scalars::At;
use crate::config::{Config, raw};
use crate::endpoints::settings::{Limits, Notify, Settings};
use crate::limits::rate::Rate;
use crate::pusher::channel::ChannelKind;
use crate::routes::membership::Membership;
use crate::routes::origins::Origins;
use crate::routes::path::PathTemplate;
use crate::routes::route::Route;
use crate::template::ClaimsText;

/// A batch of Pusher's webhooks, 20 events of 10 kB each.
const BODY_BYTES: usize = 256 * 1024;
const BODY_BYTES_MAX: i64 = 64 << 20;
/// A channel's name, an event's and a hundred more channels, and the members' names.
const BESIDE_DATA_BYTES_MAX: i64 = 4096;
/// The longest escape of a byte in JSON (RFC 8259 §7): `\u0000`.
const ESCAPED_BYTES_MAX: i64 = 6;
const BODIES_BYTES: usize = 16 << 20;
const BODY_TIMEOUT: Duration = Duration::from_secs(3);
/// What is left of an answer's time must do for Pusher.
const BODY_TIMEOUT_MAX: Duration = Duration::from_secs(8);
const VACATED_MAX_AGE: Duration = Duration::from_secs(3600);
const RATE: Rate = Rate { count: 600, per: Duration::from_secs(60), burst: 600 };

pub(super) fn endpoints(
    problems: &mut Problems<'_>,
    raw: Option<&raw::Endpoints>,
    has_keys: bool,
    event_bytes_max: usize,
) -> Settings {
    let nothing = raw::Endpoints::default();
    let raw = raw.unwrap_or(&nothing);
    let channel_auth: Vec<&At<String>> = raw.channel_auth.iter().flatten().collect();
    let user_auth = raw.user_auth.as_ref().filter(|path| !path.get().is_empty());
    let first = channel_auth.first().copied().or(user_auth);
    if let Some(first) = first.filter(|_| !has_keys) {
        problems.at(first.span(), "users are known by their tokens, but there is no [[auth.keys]]");
    }
    let channel_auth = channel_auth.into_iter().filter_map(|at| path(problems, at)).collect();
    let notify = raw.notify.as_ref().and_then(|at| notify(problems, at));
    let webhooks = raw.webhooks.as_ref().filter(|path| !path.get().is_empty());
    let info = raw.user_info.as_ref();
    let info = info.and_then(|at| ClaimsText::parse(at.get()).map_err(|e| problems.template(at, e)).ok());
    let watchlist = member(problems, raw.watchlist.as_ref()).map(|claim| claim.get().clone());
    Settings {
        signed_in: Membership::SignedIn { info, watchlist },
        channel_auth,
        user_auth: user_auth.and_then(|at| path(problems, at)),
        notify,
        webhooks: webhooks.and_then(|at| path(problems, at)),
        origins: door::origins(problems, raw.origins.as_ref()).unwrap_or_else(|| Origins::new(Vec::new())),
        filtered: raw.filtered.iter().flatten().map(|name| Arc::from(name.get().as_str())).collect(),
        limits: limits(problems, raw.limits.as_ref(), event_bytes_max),
    }
}

/// A path that is served as it stands here.
fn path(problems: &mut Problems<'_>, at: &At<String>) -> Option<String> {
    match PathTemplate::parse(at.get()) {
        Ok(path) if path.names().is_empty() => return Some(at.get().clone()),
        Ok(_) => problems.at(at.span(), "an endpoint has one path, without placeholders"),
        Err(error) => {
            let span = problems.inside(at, error.at);
            problems.at(span, error.message);
        }
    }
    None
}

fn notify(problems: &mut Problems<'_>, at: &At<raw::Notify>) -> Option<Notify> {
    let raw = at.get();
    let path = required(problems, raw.path.as_ref(), at.span(), "path").and_then(|at| path(problems, at));
    let token = match (&raw.token, &raw.token_file) {
        (Some(_), Some(file)) => {
            problems.at(file.span(), "`token` and `token_file` are both set: leave one out");
            None
        }
        (Some(token), None) => Some(token).filter(|token| !token.get().is_empty()).and_then(|at| {
            let token = problems.secret(at);
            sendable(problems, at.span(), token)
        }),
        (None, Some(file)) => {
            let token = problems.secret_file(file);
            token.and_then(|token| sendable(problems, file.span(), token))
        }
        // A variable's empty value is none: then the endpoint is off, which `check` tells.
        (None, None) => None,
    };
    Some(Notify { path: path?, token })
}

/// A token that a header can hold (RFC 6750 §2.1, but for its alphabet).
fn sendable(problems: &mut Problems<'_>, span: Range<usize>, token: SecretString) -> Option<SecretString> {
    use secrecy::ExposeSecret as _;
    if token.expose_secret().bytes().all(|b| b.is_ascii_graphic()) {
        return Some(token);
    }
    problems.at(span, "a token has no white space, and nothing but ASCII: it stands in a header");
    None
}

fn limits(problems: &mut Problems<'_>, raw: Option<&raw::EndpointLimits>, event_bytes_max: usize) -> Limits {
    let nothing = raw::EndpointLimits::default();
    let raw = raw.unwrap_or(&nothing);
    let event_bytes = i64::try_from(event_bytes_max).unwrap_or(BODY_BYTES_MAX);
    let least = event_bytes.saturating_mul(ESCAPED_BYTES_MAX).saturating_add(BESIDE_DATA_BYTES_MAX);
    let default = BODY_BYTES.max(usize::try_from(least).unwrap_or(BODY_BYTES));
    let body_bytes_max = problems.number(raw.body_bytes.as_ref(), least..=BODY_BYTES_MAX, default);
    let all_least = i64::try_from(body_bytes_max).unwrap_or(BODY_BYTES_MAX);
    let body_timeout = problems.duration(raw.body_timeout.as_ref(), POSITIVE, BODY_TIMEOUT);
    if let Some(at) = raw.body_timeout.as_ref().filter(|_| body_timeout > BODY_TIMEOUT_MAX) {
        problems.at(at.span(), format!("must be at most {}s", BODY_TIMEOUT_MAX.as_secs()));
    }
    Limits {
        body_bytes_max,
        bodies_bytes_max: problems.number(
            raw.bodies_bytes.as_ref(),
            all_least..=1 << 40,
            BODIES_BYTES.max(body_bytes_max),
        ),
        body_timeout,
        vacated_max_age: problems.duration(raw.vacated_max_age.as_ref(), POSITIVE, VACATED_MAX_AGE),
        unproven_per_address: rate_or_none(problems, raw.unproven_per_address.as_ref(), RATE),
        requests_per_user: rate_or_none(problems, raw.requests_per_user.as_ref(), RATE),
    }
}

/// Each path once, and none of a route's or the health path's; and what is said of routes.
pub(super) fn check(
    problems: &mut Problems<'_>,
    raw: Option<&raw::Endpoints>,
    health_path: Option<&At<String>>,
    config: &Config,
) {
    let Some(raw) = raw else { return };
    let notify = raw.notify.as_ref().and_then(|notify| notify.get().path.as_ref());
    let paths = raw.channel_auth.iter().flatten().chain(&raw.user_auth).chain(&raw.webhooks).chain(notify);
    let mut earlier: Vec<&At<String>> = health_path.into_iter().collect();
    for at in paths.filter(|at| !at.get().is_empty()) {
        if let Some(other) = earlier.iter().find(|other| other.get() == at.get()) {
            let line = problems.line(&other.span());
            problems.at(at.span(), format!("this is also the path on line {line}"));
        }
        earlier.push(at);
        if let Some(route) = config.route_of(at.get()) {
            let (path, name) = (route.path.source(), &route.name);
            problems.at(at.span(), format!("this is also a path of the route `{name}`, `{path}`"));
        }
    }
    let routes = &config.routes;
    for named in raw.filtered.iter().flatten() {
        match routes.iter().find(|route| *route.name == **named.get()) {
            None => {
                let names: Vec<&str> = routes.iter().map(|route| &*route.name).collect();
                unknown_name(problems, named, "route", &names);
            }
            Some(route) if route.filter.is_none() => {
                problems.at(named.span(), format!("the route `{}` has no `filter`", named.get()));
            }
            Some(_) => {}
        }
    }
}

/// A channel for which a route demands a token, and which anybody may subscribe at Pusher itself.
pub(super) fn warn_of_public(problems: &mut Problems<'_>, channel: &At<String>, route: &Route) {
    let public = ChannelKind::of(route.channel.literal_prefix()) == ChannelKind::Public;
    if route.auth.is_some() && public && !route.channel.literal_prefix().starts_with('#') {
        problems.warn(
            channel.span(),
            format!(
                "the route `{}` demands a token, but its channel is public: anybody with the app's key, which new \
                 clients have, can read it at Pusher",
                route.name
            ),
            "a channel that begins with `private-` has its subscribers authorized",
        );
    }
}
