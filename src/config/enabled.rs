//! `enabled_with`: a route that exists only when a text is not empty, as a rule a variable's.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::interpolate;

/// A route of the file that does not exist, as its `enabled_with` is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffRoute {
    /// The route's name.
    pub name: String,
    /// Its path, as the file has it.
    pub path: String,
    /// The variables that its `enabled_with` is made of, none of which has a value.
    pub variables: Vec<String>,
}

/// The routes that are off, by their places, and the variables that have no value. To be asked before variables are
/// filled in: a key that becomes empty by them is gone.
pub(super) fn off(root: &DeTable<'_>, env: interpolate::Env<'_>) -> BTreeMap<usize, Vec<String>> {
    let Some(DeValue::Array(routes)) = root.get("routes").map(toml::Spanned::get_ref) else {
        return BTreeMap::new();
    };
    let off = routes.iter().enumerate().filter_map(|(index, route)| {
        let DeValue::Table(route) = route.get_ref() else { return None };
        let DeValue::String(text) = route.get("enabled_with")?.get_ref() else { return None };
        interpolate::is_empty(text, env).then(|| (index, interpolate::variables(text)))
    });
    off.collect()
}

/// Whether what is at `key` (`routes[3].channel`) belongs to one of these routes.
pub(super) fn is_within(key: &str, off: &BTreeMap<usize, Vec<String>>) -> bool {
    let index = key.strip_prefix("routes[").and_then(|rest| rest.split_once(']')).map(|(index, _)| index);
    index.and_then(|index| index.parse().ok()).is_some_and(|index: usize| off.contains_key(&index))
}
