//! `[fallback]`

use std::sync::Arc;

use super::{POSITIVE, required};
use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::At;
use crate::net::destination::Destination;
use crate::proxy::settings::{Limits, Rule, Settings, has_dots};

const COUNT_MAX: i64 = 1_000_000;
const IDLE_MAX: i64 = 10_000;

pub(super) fn fallback(problems: &mut Problems<'_>, at: &At<raw::Fallback>) -> Settings {
    let raw = at.get();
    let default = Settings::of_nothing();
    if raw.to.is_none() && raw.rules.as_ref().is_none_or(Vec::is_empty) {
        problems.with_help(
            at.span(),
            "`to` is missing, and there are no `rules`",
            "to = \"http://127.0.0.1:8010\" passes on what no route takes",
        );
    }
    let to = raw.to.as_ref().and_then(|to| destination(problems, to));
    let rules = rules(problems, raw.rules.as_deref().unwrap_or_default());
    let mut duration = |raw: &Option<At<String>>, default| problems.duration(raw.as_ref(), POSITIVE, default);
    Settings {
        to,
        rules,
        connect_timeout: duration(&raw.connect_timeout, default.connect_timeout),
        answer_timeout: duration(&raw.answer_timeout, default.answer_timeout),
        idle_timeout: duration(&raw.idle_timeout, default.idle_timeout),
        body_timeout: duration(&raw.body_timeout, default.body_timeout),
        keep_alive: duration(&raw.keep_alive, default.keep_alive),
        tunnel_timeout: duration(&raw.tunnel_timeout, default.tunnel_timeout),
        limits: limits(problems, raw.limits.as_ref(), &default.limits),
    }
}

fn limits(problems: &mut Problems<'_>, raw: Option<&raw::FallbackLimits>, default: &Limits) -> Limits {
    let nothing = raw::FallbackLimits::default();
    let raw = raw.unwrap_or(&nothing);
    let body_bytes = problems.number(raw.body_bytes.as_ref(), 1..=1 << 40, 0_u64);
    Limits {
        requests_max: problems.number(raw.requests.as_ref(), 1..=COUNT_MAX, default.requests_max),
        requests_per_address: problems.number(
            raw.requests_per_address.as_ref(),
            1..=COUNT_MAX,
            default.requests_per_address,
        ),
        tunnels_max: problems.number(raw.tunnels.as_ref(), 1..=COUNT_MAX, default.tunnels_max),
        tunnels_per_address: problems.number(
            raw.tunnels_per_address.as_ref(),
            1..=COUNT_MAX,
            default.tunnels_per_address,
        ),
        body_bytes_max: Some(body_bytes).filter(|bytes| *bytes > 0),
        idle_connections_max: problems.number(
            raw.idle_connections.as_ref(),
            1..=IDLE_MAX,
            default.idle_connections_max,
        ),
    }
}

/// `None` for "", too, which is what an empty variable leaves.
pub(super) fn destination(problems: &mut Problems<'_>, at: &At<String>) -> Option<Arc<Destination>> {
    if at.get().is_empty() {
        return None;
    }
    match Destination::parse(at.get()) {
        Ok(destination) => Some(Arc::new(destination)),
        Err(why) => {
            problems.at(at.span(), why);
            None
        }
    }
}

fn rules(problems: &mut Problems<'_>, raw: &[At<raw::FallbackRule>]) -> Vec<Rule> {
    let (mut out, mut earlier): (_, Vec<&At<String>>) = (Vec::new(), Vec::new());
    for at in raw {
        let path = required(problems, at.get().path.as_ref(), at.span(), "path");
        if at.get().to.is_none() {
            problems.at(at.span(), "`to` is missing");
        }
        let to = at.get().to.as_ref().and_then(|to| destination(problems, to));
        let Some(path) = path else { continue };
        if let Some(why) = odd(path.get()) {
            problems.at(path.span(), why);
        }
        if let Some(other) = earlier.iter().find(|other| other.get() == path.get()) {
            let line = problems.line(&other.span());
            problems.at(path.span(), format!("this is also the path on line {line}"));
        }
        earlier.push(path);
        out.push(Rule { path: path.get().clone(), to });
    }
    out
}

/// What is wrong with a rule's path.
fn odd(path: &str) -> Option<&'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/._~!$&'()+,;=:@%-".contains(&b);
    let plain = path.strip_suffix("/*").unwrap_or(path);
    if !path.starts_with('/') {
        Some("a path begins with `/`")
    } else if plain.contains('*') {
        Some("`*` stands at the end, behind a `/`, for all that is below")
    } else if !plain.bytes().all(allowed) {
        Some("a path is as a request has it: without spaces, `?`, `#`, `{`, and what is not ASCII")
    } else if plain.contains("//") || (path != "/*" && path != "/" && plain.is_empty()) {
        Some("a path has no empty parts")
    } else if has_dots(plain) {
        Some("`.` and `..` are no parts of a path: requests that have some are refused")
    } else {
        None
    }
}
