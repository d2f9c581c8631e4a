//! What it would mean to go from one configuration to the next while the bridge runs. Pure: the same for who asks
//! (`check --against`, a dry run) and for the reload itself.
//!
//! Settings are taken apart without `..`: of a key that is new it must be said whether it can be changed at run time, or
//! it does not compile.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};
use toml::de::{DeTable, DeValue};

use self::settings::When;
use super::diagnostics::Place;
use super::{Config, Served};
use crate::routes::change::RouteChange;

mod settings;

/// What changes, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Keys that cannot be changed at run time: while there is one, nothing is changed.
    pub fixed: Vec<&'static str>,
    /// Keys that are no route's, and hold from then on.
    pub applied: Vec<&'static str>,
    /// The routes, in the next file's order, those of old servers behind the others, and behind them those that are not
    /// in it.
    pub routes: Vec<(Arc<str>, Fate)>,
}

/// What becomes of a route, and of its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing: nobody is touched.
    Unchanged,
    /// Its clients go on, and the change of these keys holds for them, too.
    Adjusted(Vec<&'static str>),
    /// Its clients are closed.
    Replaced {
        /// What they cannot take over.
        why: Vec<&'static str>,
        /// What else changes.
        also: Vec<&'static str>,
    },
    /// Its clients are closed.
    Removed,
    /// There is no client yet.
    Added,
}

impl Fate {
    fn of(before: Served<'_>, after: Served<'_>) -> Self {
        let change = match (before, after) {
            (Served::Relay(before), Served::Relay(after)) => RouteChange::between(before, after),
            (Served::Tunnel(before), Served::Tunnel(after)) => RouteChange::between_tunnels(before, after),
            (Served::Relay(_), Served::Tunnel(_)) | (Served::Tunnel(_), Served::Relay(_)) => {
                RouteChange::of_mode()
            }
        };
        let RouteChange { taken_over, closing } = change;
        match (closing.is_empty(), taken_over.is_empty()) {
            (true, true) => Self::Unchanged,
            (true, false) => Self::Adjusted(taken_over),
            (false, _) => Self::Replaced { why: closing, also: taken_over },
        }
    }

    /// Whether the route's clients are closed.
    #[must_use]
    pub const fn closes(&self) -> bool {
        matches!(self, Self::Replaced { .. } | Self::Removed)
    }

    const fn label(&self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Adjusted(_) => "adjusted",
            Self::Replaced { .. } => "replaced",
            Self::Removed => "removed",
            Self::Added => "added",
        }
    }

    /// The keys that change: those that close, and the others.
    fn keys(&self) -> (&[&'static str], &[&'static str]) {
        match self {
            Self::Adjusted(keys) => (&[], keys),
            Self::Replaced { why, also } => (why, also),
            Self::Unchanged | Self::Removed | Self::Added => (&[], &[]),
        }
    }
}

/// How many clients each route has, by its name.
pub type Clients = HashMap<Arc<str>, usize>;

impl Plan {
    /// From `before`, which is in force, to `after`.
    #[must_use]
    pub fn between(before: &Config, after: &Config) -> Self {
        let mut plan = Self::default();
        for (key, when) in settings::differences(before, after) {
            let list = match when {
                When::AtRestart => &mut plan.fixed,
                When::AtOnce => &mut plan.applied,
            };
            if !list.contains(&key) {
                list.push(key);
            }
        }
        let of_before: HashMap<&str, Served<'_>> =
            before.all_served().map(|(name, served)| (&**name, served)).collect();
        for (name, after) in after.all_served() {
            let fate = of_before.get(&**name).map_or(Fate::Added, |before| Fate::of(*before, after));
            plan.routes.push((name.clone(), fate));
        }
        for (name, _) in before.all_served() {
            if !after.all_served().any(|(after, _)| after == name) {
                plan.routes.push((name.clone(), Fate::Removed));
            }
        }
        plan
    }

    /// Whether both mean the same.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.fixed.is_empty()
            && self.applied.is_empty()
            && self.routes.iter().all(|(_, fate)| *fate == Fate::Unchanged)
    }

    /// The plan for people. With `clients` it says how many are concerned.
    #[must_use]
    pub fn text(&self, clients: Option<&Clients>) -> String {
        let mut out = String::new();
        if !self.fixed.is_empty() {
            let _ = writeln!(
                out,
                "needs a restart: {}; a reload changes nothing while this differs",
                self.fixed.join(", ")
            );
        }
        if !self.applied.is_empty() {
            let _ = writeln!(out, "applied at once: {}", self.applied.join(", "));
        }
        if self.is_nothing() {
            out.push_str("nothing changes\n");
        }
        let width = self.routes.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, fate) in &self.routes {
            let count = clients.map(|clients| clients.get(name).copied().unwrap_or(0));
            let _ = writeln!(out, "  {name:<width$}  {}", line(fate, count));
        }
        out
    }

    /// The plan for programs. With `clients` each route says how many it has.
    #[must_use]
    pub fn json(&self, clients: Option<&Clients>) -> Value {
        let routes = self.routes.iter().map(|(name, fate)| {
            let (closing, others) = fate.keys();
            let mut route = json!({
                "route": &**name,
                "fate": fate.label(),
                "closing_keys": closing,
                "adjusted_keys": others,
            });
            if let (Some(clients), Some(route)) = (clients, route.as_object_mut()) {
                let count = clients.get(name).copied().unwrap_or(0);
                route.insert("clients".to_owned(), count.into());
                route.insert("closed_clients".to_owned(), if fate.closes() { count } else { 0 }.into());
            }
            route
        });
        json!({
            "needs_restart": self.fixed,
            "applied": self.applied,
            "routes": routes.collect::<Vec<_>>(),
        })
    }
}

fn line(fate: &Fate, clients: Option<usize>) -> String {
    let mut text = fate.label().to_owned();
    let (closing, others) = fate.keys();
    if !closing.is_empty() || !others.is_empty() {
        let _ = write!(text, ": {}", [closing, others].concat().join(", "));
    }
    if fate.closes() {
        match clients {
            Some(count) => _ = write!(text, "; {count} clients are closed"),
            None => text.push_str("; its clients are closed"),
        }
    } else if let Some(count) = clients.filter(|_| *fate != Fate::Added) {
        let _ = write!(text, "; {count} clients stay");
    }
    text
}

/// The line of `text` where a key of [`Plan::fixed`] stands; else that of its table. `None`: it is not in the file.
#[must_use]
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let tree = DeTable::parse(text).ok()?;
    let (mut table, mut at) = (tree.get_ref(), None);
    for name in key.split('.') {
        let Some((key, value)) = table.get_key_value(name) else { break };
        at = Some(key.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    at.map(|at| Place::of(text, at).line)
}

#[cfg(test)]
mod tests;
