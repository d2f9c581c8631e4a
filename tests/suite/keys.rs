//! Every key that a file may have, as the JSON Schema knows it, and how to put a value there.

use pusher_bridge::config::json_schema;
use serde_json::Value;

/// Where a key is: names, and places in lists.
pub type Place = Vec<String>;

/// Every key of the schema, in the places of a file with one of each kind.
pub fn places() -> Vec<Place> {
    described().into_iter().map(|(place, _)| place).collect()
}

/// The keys whose text in the schema tells a default, and what it tells.
pub fn defaults() -> Vec<(Place, String)> {
    let told = |(place, text): (Place, String)| {
        let (_, rest) = text.split_once("(default")?;
        let default = rest.trim_start_matches(':').split([')', ';']).next().unwrap();
        Some((place, default.trim().to_owned()))
    };
    described().into_iter().filter_map(told).collect()
}

/// Every key with what the schema says of it; what only has a name of the file's own says nothing.
pub fn described() -> Vec<(Place, String)> {
    fn walk(root: &Value, schema: &Value, at: &Place, found: &mut Vec<(Place, String)>) {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            let name = name.rsplit('/').next().unwrap();
            return walk(root, &root["definitions"][name], at, found);
        }
        for form in ["anyOf", "allOf", "oneOf"] {
            for schema in schema.get(form).and_then(Value::as_array).into_iter().flatten() {
                walk(root, schema, at, found);
            }
        }
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let here: Place = at.iter().cloned().chain([name.clone()]).collect();
            if !found.iter().any(|(place, _)| *place == here) {
                assert!(property.get("default").is_none(), "{here:?}: its comment tells the default");
                let text = property.get("description").and_then(Value::as_str).unwrap_or_default();
                found.push((here.clone(), text.to_owned()));
                walk(root, property, &here, found);
            }
        }
        let below = |name: &str| -> Place { at.iter().cloned().chain([name.to_owned()]).collect() };
        if let Some(items) = schema.get("items") {
            let indices: &[&str] = match at.last().map(String::as_str) {
                Some("routes") => &["0", "1"],
                _ => &["0"],
            };
            indices.iter().for_each(|index| walk(root, items, &below(index), found));
        }
        if let Some(any) = schema.get("additionalProperties").filter(|any| any.is_object()) {
            let name = match at.last().map(String::as_str) {
                Some("dialects") => "d",
                Some("groups") => "g",
                Some("subscribe") => "c",
                Some("headers") => "x-header",
                Some("values" | "exclude") => "id",
                _ => "x",
            };
            let here = below(name);
            found.push((here.clone(), String::new()));
            walk(root, any, &here, found);
        }
    }
    let schema = json_schema();
    let mut found = Vec::new();
    walk(&schema, &schema, &Vec::new(), &mut found);
    // What a group, the defaults and every route share is tried in a route; the second route is there for its `post`.
    found.retain(|(place, _)| match place.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["groups", _, _, ..] | ["defaults", _, _, ..] => false,
        ["routes", "1", part, ..] => *part == "publish",
        _ => true,
    });
    found
}

/// Puts `value` at `place`, making what is on the way.
pub fn put(into: &mut toml::Value, place: &[String], value: &toml::Value) {
    let Some((first, rest)) = place.split_first() else {
        *into = value.clone();
        return;
    };
    if let Ok(index) = first.parse::<usize>() {
        if !into.is_array() {
            *into = toml::Value::Array(Vec::new());
        }
        let list = into.as_array_mut().unwrap();
        while list.len() <= index {
            list.push(toml::Value::Table(toml::Table::new()));
        }
        return put(&mut list[index], rest, value);
    }
    if !into.is_table() {
        *into = toml::Value::Table(toml::Table::new());
    }
    let entry = into.as_table_mut().unwrap().entry(first.clone());
    put(entry.or_insert(toml::Value::Table(toml::Table::new())), rest, value);
}

/// Takes the key at `place` away, if it is there.
pub fn remove(from: &mut toml::Value, place: &[String]) {
    match place {
        [] => {}
        [name] => _ = from.as_table_mut().and_then(|table| table.remove(name)),
        [first, rest @ ..] => {
            let below = match first.parse::<usize>() {
                Ok(index) => from.get_mut(index),
                Err(_) => from.get_mut(first.as_str()),
            };
            below.into_iter().for_each(|below| remove(below, rest));
        }
    }
}

/// A key's source replaces the one that is there, and its algorithm.
pub fn make_way(file: &mut toml::Value, place: &Place) {
    let sources = [
        "secret_file",
        "pem",
        "pem_file",
        "jwks",
        "jwks_file",
        "jwks_url",
        "refresh",
        "refresh_min",
        "jwks_max_age",
    ];
    let [auth, keys, index, name, ..] = place.as_slice() else { return };
    if auth == "auth" && keys == "keys" && sources.contains(&name.as_str()) {
        let key = file["auth"]["keys"][index.parse::<usize>().unwrap()].as_table_mut().unwrap();
        key.remove("secret");
        key.insert("algorithms".to_owned(), vec!["RS256"].into());
        if name.starts_with("re") || name == "jwks_max_age" {
            key.insert("jwks_url".to_owned(), "https://a.example/jwks".into());
        }
    }
}
