//! From a file's text to a [`Config`]: parse, fill in the environment, report mistaken keys, merge
//! defaults, groups and routes, validate.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::diagnostics::{Diagnostic, Source};
use super::enabled::{self, OffRoute};
use super::expected::Test;
use super::interpolate::{self, Missing};
use super::places::Places;
use super::problems::Problems;
use super::quotes::Quotes;
use super::scalars::At;
use super::validate::{self, RouteInput};
use super::{Config, raw};
use crate::auth::settings::KeySource;
use crate::net::proxies::{Proxies, Unusable};
use crate::routes::route::PublishAction;
use crate::upstream::settings::Endpoint;

/// Looks up an environment variable.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// A valid file.
#[derive(Debug)]
pub struct Loaded {
    /// What it says. Values of missing variables are stand-ins, good to look at but not to serve with: to serve, use
    /// [`Loaded::complete`].
    pub config: Config,
    /// Variables that have neither a value nor a default, in the file's order.
    pub missing: Vec<Missing>,
    /// What works, and may not be what is meant: for `check`.
    pub warnings: Vec<Diagnostic>,
    /// The file's tests.
    pub tests: Vec<Test>,
    /// Routes that none of these asks.
    pub untested: Vec<Diagnostic>,
}

impl Loaded {
    /// The configuration, if nothing is missing: what a server may start with.
    ///
    /// # Errors
    /// The variables that are missing, all at once.
    pub fn complete(self) -> Result<Config, Vec<Missing>> {
        if self.missing.is_empty() { Ok(self.config) } else { Err(self.missing) }
    }
}

/// Tables that are one value: a route's replaces its group's as a whole, or a rate's old burst would remain under its
/// new count.
const WHOLE: [&str; 7] = [
    "filter",
    "messages",
    "messages_per_user",
    "auth_attempts",
    "control_frames",
    "exclusive",
    "connections_per_user",
];

/// Most mistakes reported of one table.
const MISTAKES_MAX: usize = 50;

/// Loads a configuration. Reads the files that `…_file` keys name, and nothing else.
///
/// # Errors
/// Everything that is wrong with the file, in its order: first its syntax; where that is right, its keys;
/// where those are right, what they mean.
pub fn load(source: &Source, env: Environment<'_>) -> Result<Loaded, Vec<Diagnostic>> {
    read(source, env, &mut Vec::new(), None)
}

/// The same, and notes in `files` which files were read, or could not be.
///
/// # Errors
/// As [`load`].
pub fn load_noting(
    source: &Source,
    env: Environment<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<Loaded, Vec<Diagnostic>> {
    read(source, env, files, None)
}

/// The same, with where each setting is.
///
/// # Errors
/// As [`load`].
pub fn load_with_places(source: &Source, env: Environment<'_>) -> Result<(Loaded, Places), Vec<Diagnostic>> {
    let mut places = Places::default();
    let loaded = read(source, env, &mut Vec::new(), Some(&mut places))?;
    Ok((loaded, places))
}

fn read(
    source: &Source,
    env: Environment<'_>,
    files: &mut Vec<PathBuf>,
    mut places: Option<&mut Places>,
) -> Result<Loaded, Vec<Diagnostic>> {
    let (mut tree, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty() {
        let at = |e: &toml::de::Error| e.span().unwrap_or(0..0);
        return Err(errors
            .iter()
            .map(|e| Diagnostic::new(source, at(e), e.message().to_owned(), None))
            .collect());
    }
    let off = enabled::off(tree.get_ref(), env);
    let mut outcome = interpolate::table(tree.get_mut(), env);
    // Nobody needs what a route that does not exist would need.
    let stays = |key: &str| !enabled::is_within(key, &off);
    outcome.missing.retain(|(_, key, _)| stays(key));
    let stand_ins = outcome.missing.iter().map(|(.., span)| span.clone()).collect();
    let secrets = super::secrets::spans(tree.get_ref(), &source.text);
    let quotes = Quotes::of(tree.get_ref(), outcome.taken);
    let mut problems = Problems::new(source, stand_ins, secrets, quotes);
    for (span, message) in outcome.errors {
        problems.at(span, message);
    }
    let parts = Parts::of(tree.into_inner(), &mut problems);
    if let Some(places) = &mut places {
        places.note_file(&source.text, &parts.root);
    }
    let note = |start: usize, merged: &DeTable<'_>| {
        if let Some(places) = &mut places {
            places.note_route(&source.text, start, merged);
        }
    };
    let inputs = parts.check(&off, &mut problems, note);
    let (Some((root, routes, off)), true) = (inputs, problems.is_empty()) else {
        return Err(problems.into_diagnostics());
    };
    let mut config = validate::config(&mut problems, &root, &routes, off);
    files.append(&mut problems.files);
    let tests = validate::tests(&mut problems, root.tests.as_ref(), &config);
    let untested = validate::untested(&routes, &config, &tests);
    let proxies = Proxies::of(env);
    for (place, tls, host, port) in destinations(&config) {
        if let Err(Unusable { variable, why }) = proxies.of_host(tls, &host, port) {
            problems.with_help(
                0..0,
                format!("the variable `{variable}` {why}, and {host} ({place}) is to be reached by it"),
                "a proxy is http://HOST:PORT; what `NO_PROXY` lists is reached directly",
            );
        }
    }
    config.upstream.proxies = Arc::new(proxies);
    if !problems.is_empty() {
        return Err(problems.into_diagnostics());
    }
    let warnings = problems.warnings();
    // To serve, nothing is needed that a test needs.
    let missing = outcome.missing.into_iter().filter(|(_, key, _)| !key.starts_with("tests["));
    let mut missing: Vec<Missing> =
        missing.map(|(name, key, span)| Missing { name, key, line: problems.line(&span) }).collect();
    missing.sort_by_key(|m| m.line);
    let untested = problems.shown(&untested);
    Ok(Loaded { config, missing, warnings, tests, untested })
}

/// Where requests go: what for, whether over TLS, host and port.
fn destinations(config: &Config) -> Vec<(&'static str, bool, String, u16)> {
    let app = &config.upstream.app;
    let endpoint = |what, there: &Endpoint| {
        let port = there.port.unwrap_or(if there.tls { 443 } else { 80 });
        (what, there.tls, there.host.clone(), port)
    };
    let mut all = vec![endpoint("the WebSocket", &app.ws), endpoint("the HTTP API", &app.api)];
    let rules = config.routes.iter().flat_map(|route| &route.publish);
    all.extend(rules.filter_map(|rule| match &rule.action {
        PublishAction::Post { url, .. } => destination("a backend", url.source()),
        PublishAction::Trigger { .. } | PublishAction::Drop => None,
    }));
    let behind = config.fallback.iter().flat_map(|fallback| fallback.destinations());
    let behind = behind.chain(config.tunnels.iter().map(|route| &route.to));
    all.extend(behind.map(|to| ("a server behind", to.tls, to.host.clone(), to.port)));
    all.extend(config.auth.iter().flat_map(|auth| &auth.keys).filter_map(|key| match &key.source {
        KeySource::JwksUrl { url, .. } => destination("keys", url),
        _ => None,
    }));
    all
}

/// A URL's host never has a placeholder.
fn destination(what: &'static str, url: &str) -> Option<(&'static str, bool, String, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let tls = scheme.eq_ignore_ascii_case("https");
    let authority = rest.split(['/', '?', '#']).next()?;
    let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, if tls { 443 } else { 80 }),
    };
    Some((what, tls, host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

/// The file's tables, taken apart for merging.
struct Parts<'i> {
    root: DeTable<'i>,
    defaults: DeTable<'i>,
    groups: Vec<(String, DeTable<'i>)>,
    routes: Vec<(Range<usize>, DeTable<'i>)>,
}

impl<'i> Parts<'i> {
    fn of(mut root: DeTable<'i>, problems: &mut Problems<'_>) -> Self {
        let mut parts =
            Self { root: DeTable::new(), defaults: DeTable::new(), groups: Vec::new(), routes: Vec::new() };
        if let Some(defaults) = root.remove("defaults") {
            parts.defaults = table(defaults, "`defaults`", problems).unwrap_or_default();
        }
        if let Some(groups) = root.remove("groups") {
            for (name, group) in table(groups, "`groups`", problems).unwrap_or_default() {
                if !validate::is_name(name.get_ref()) {
                    validate::bad_name(problems, name.span(), "group");
                }
                let group = table(group, "a group", problems).unwrap_or_default();
                parts.groups.push((name.get_ref().to_string(), group));
            }
        }
        match root.remove("routes") {
            None => problems.with_help(0..0, "the file has no routes", "each begins with `[[routes]]`"),
            Some(routes) => {
                let span = routes.span();
                match routes.into_inner() {
                    DeValue::Array(list) if !list.is_empty() => {
                        for route in list.iter() {
                            let span = route.span();
                            if let Some(route) = table(route.clone(), "a route", problems) {
                                parts.routes.push((span, route));
                            }
                        }
                    }
                    DeValue::Array(_) => problems.at(span, "there must be at least one route"),
                    _ => problems.with_help(
                        span,
                        "`routes` must be a list of tables",
                        "each route begins with `[[routes]]`",
                    ),
                }
            }
        }
        parts.root = root;
        parts
    }

    /// Reports the mistakes in every table, and where there are none, merges each route with its group and the
    /// defaults; `note` is told where it begins and what it is then.
    fn check(
        self,
        off: &BTreeMap<usize, Vec<String>>,
        problems: &mut Problems<'_>,
        mut note: impl FnMut(usize, &DeTable<'_>),
    ) -> Option<(raw::Root, Vec<RouteInput>, Vec<OffRoute>)> {
        let root = deserialize_all::<raw::Root>(self.root, &["defaults", "groups", "routes"], problems);
        deserialize_all::<raw::Shared>(self.defaults.clone(), &[], problems);
        for (_, group) in &self.groups {
            deserialize_all::<raw::Shared>(group.clone(), &[], problems);
        }
        let (mut inputs, mut out) = (Vec::new(), Vec::new());
        for (index, (span, route)) in self.routes.into_iter().enumerate() {
            let own = deserialize_all::<raw::Route>(route.clone(), &[], problems);
            if let (Some(variables), Some(own)) = (off.get(&index), &own) {
                let text =
                    |key: &Option<At<String>>| key.as_ref().map_or_else(String::new, |at| at.get().clone());
                out.push(OffRoute {
                    name: text(&own.name),
                    path: text(&own.path),
                    variables: variables.clone(),
                });
            }
            let own_slots =
                own.as_ref().and_then(|own| Some(own.limits.as_ref()?.connections_per_user.as_ref()?.span()));
            let own_asks = own.as_ref().and_then(|own| own.auth.as_ref()).and_then(|auth| {
                let place = auth.also_from.iter().flatten().map(At::span).next();
                place.or_else(|| auth.deadline.as_ref().map(At::span))
            });
            let own_undecryptable = own.as_ref().and_then(|own| own.on_undecryptable.as_ref()).map(At::span);
            let group = own.and_then(|own| own.group);
            let keys = own_keys(&route);
            let mut merged = self.defaults.clone();
            if let Some(wanted) = &group {
                match self.groups.iter().find(|(name, _)| name == wanted.get()) {
                    Some((_, group)) => merge(&mut merged, group),
                    None => {
                        let names: Vec<&str> = self.groups.iter().map(|(n, _)| n.as_str()).collect();
                        validate::unknown_name(problems, wanted, "group", &names);
                    }
                }
            }
            merge(&mut merged, &route);
            note(span.start, &merged);
            // Tables that are right alone are right when merged.
            if problems.is_empty()
                && !off.contains_key(&index)
                && let Some(route) = deserialize_all::<raw::Route>(merged, &[], problems)
            {
                inputs.push(RouteInput { span, route, own_slots, own_asks, own_undecryptable, own: keys });
            }
        }
        if inputs.is_empty() && !out.is_empty() && problems.is_empty() {
            problems.with_help(
                0..0,
                "no route is on: each has an `enabled_with` that is empty",
                "a bridge has at least one route",
            );
        }
        root.map(|root| (root, inputs, out))
    }
}

/// The keys of a route's table, and of its limits, and where each stands.
fn own_keys(route: &DeTable<'_>) -> Vec<(String, Range<usize>)> {
    let limits = route.get("limits").and_then(|limits| match limits.get_ref() {
        DeValue::Table(limits) => Some(limits),
        _ => None,
    });
    let limits = limits.into_iter().flat_map(|limits| limits.iter().map(|(key, _)| ("limits.", key)));
    let keys = route.iter().map(|(key, _)| ("", key)).chain(limits);
    keys.map(|(within, key)| (format!("{within}{}", key.get_ref()), key.span())).collect()
}

fn table<'i>(value: Spanned<DeValue<'i>>, what: &str, problems: &mut Problems<'_>) -> Option<DeTable<'i>> {
    let span = value.span();
    match value.into_inner() {
        DeValue::Table(table) => Some(table),
        _ => {
            problems.at(span, format!("{what} must be a table"));
            None
        }
    }
}

/// Merges `over` into `base`, table by table; `over` wins.
fn merge<'i>(base: &mut DeTable<'i>, over: &DeTable<'i>) {
    for (key, value) in over.iter() {
        let name: &str = key.get_ref();
        if let DeValue::Table(inner) = value.get_ref()
            && !WHOLE.contains(&name)
            && let Some(below) = base.get_mut(name)
            && let DeValue::Table(below) = below.get_mut()
        {
            merge(below, inner);
            continue;
        }
        // The key too: it knows its place in the file.
        base.remove(name);
        base.insert(key.clone(), value.clone());
    }
}

// ------------------------------------------------------------------------------------------------ mistakes

/// Deserializes `table`. What cannot be read is reported and removed until the rest can, so that one run reports every
/// mistake.
pub(super) fn deserialize_all<T: DeserializeOwned>(
    mut table: DeTable<'_>,
    more_keys: &[&str],
    problems: &mut Problems<'_>,
) -> Option<T> {
    let before = problems.len();
    for _ in 0..MISTAKES_MAX {
        let attempt = T::deserialize(Deserializer::from(Spanned::new(0..0, table.clone())));
        let error = match attempt {
            Ok(value) => return (problems.len() == before).then_some(value),
            Err(error) => error,
        };
        let span = error.span().unwrap_or(0..0);
        report(problems, span.clone(), error.message(), more_keys);
        if !remove_at(&mut table, &span) {
            return None;
        }
    }
    None
}

/// Says in the user's words what serde found.
fn report(problems: &mut Problems<'_>, span: Range<usize>, message: &str, more_keys: &[&str]) {
    // Types have names in the code only.
    let message = match message.split_once("expected struct ") {
        Some((before, _)) => format!("{before}expected a table"),
        None => message.to_owned(),
    };
    // serde quotes what it found, be it a secret.
    let found = ["invalid type: string \"", "invalid value: string \""];
    if let Some(kind) = found.into_iter().find(|found| message.starts_with(found))
        && let Some(expected) = message.rfind("\", expected ").and_then(|at| message.get(at + 1..))
    {
        return problems.at(span, format!("{}{expected}", kind.trim_end_matches([' ', '"'])));
    }
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((name, known)) = quoted.split_first() else {
        return problems.at(span, message);
    };
    let (what, known): (_, Vec<&str>) = if message.starts_with("unknown field") {
        ("unknown key", known.iter().chain(more_keys).copied().collect())
    } else if message.starts_with("unknown variant") {
        ("unknown value", known.to_vec())
    } else {
        return problems.at(span, message);
    };
    validate::unknown(problems, span, format!("{what} `{name}`"), name, &known);
}

/// Removes the innermost entry whose key or value is at `span`.
fn remove_at(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    let mut found = None;
    for (key, value) in table.iter_mut() {
        if remove_within(value, span) {
            return true;
        }
        if key.span() == *span || value.span() == *span {
            found = Some(key.get_ref().to_string());
        }
    }
    found.is_some_and(|name| table.remove(name.as_str()).is_some())
}

fn remove_within(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    match value.get_mut() {
        DeValue::Table(inner) => remove_at(inner, span),
        DeValue::Array(list) => {
            if list.iter_mut().any(|item| remove_within(item, span)) {
                return true;
            }
            let kept: Vec<_> = list.iter().filter(|item| item.span() != *span).cloned().collect();
            let taken = kept.len() < list.len();
            if taken {
                let mut shorter = toml::de::DeArray::new();
                kept.into_iter().for_each(|item| shorter.push(item));
                *list = shorter;
            }
            taken
        }
        _ => false,
    }
}
