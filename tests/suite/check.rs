//! What `check` prints: every key's value. A walk over the JSON Schema puts sample values where each key is; those that
//! load must all come out differently.

use std::collections::BTreeMap;

use pusher_bridge::config::{Source, describe, json_schema, load};
use serde_json::Value;

use crate::keys::{Place, defaults, described, make_way, places, put, remove};

/// A file in which every key has an effect.
pub const BASE: &str = r#"
[server]
listen = "127.0.0.1:1"
admin = "127.0.0.1:2"
workers = 1
trusted_proxies = ["127.0.0.1"]

[upstream]
app_id = "1"
key = "k"
secret = "upstream"
host = "127.0.0.1"

[upstream.member_dials]
count = 5
per = "1m"
burst = 5

[auth.failures_per_address]
count = 5
per = "1m"
burst = 5

[[auth.keys]]
algorithms = ["HS256"]
secret = "0123456789abcdef0123456789abcdef"

[endpoints]
user_auth = "/user-auth"

[endpoints.notify]
path = "/notify"
token = "0123456789abcdef"

[endpoints.limits]
unproven_per_address = { count = 5, per = "1m", burst = 5 }
requests_per_user = { count = 5, per = "1m", burst = 5 }

[fallback]
to = "http://127.0.0.1:8010"

[[fallback.rules]]
path = "/x"
to = "http://127.0.0.1:8011"

[dialects.d.in]
auth = { type = "auth" }
subscribe = { type = "subscribe" }

[dialects.d.out]
event = '{"type":{event},"data":{data}}'
error = '{"type":"error","error_code":{code}}'
ping = '{"type":"ping"}'
reply = '{"type":"reply","data":{data}}'

[dialects.e.in]
auth = { type = "auth" }
subscribe = { type = "subscribe" }

[dialects.e.out]
event = '{"type":{event},"data":{data}}'
error = '{"type":"error","error_code":{code}}'

[groups.g]
[groups.h]

[[routes]]
name = "a"
path = "/a/{id}"
group = "g"
dialect = "d"
channel = "a-{id}"
filter = { field = "f", equals = "{subscribe.c}" }
refusal = "frame"

[routes.auth]
required = true
owns = [{ claim = "c", contains = "{id}" }]

[routes.limits]
connections_per_user = { max = 5 }
connections_per_address = 5
exclusive = { key = "{id}" }
messages = { count = 5, per = "1m", burst = 5 }
messages_per_user = { count = 5, per = "1m", burst = 5 }
auth_attempts = { count = 5, per = "1m", burst = 5 }
control_frames = { count = 5, per = "1m", burst = 5 }

[routes.deprecation]
deprecated_at = "2029-01-01T00:00:00Z"
sunset_at = "2039-01-01T00:00:00Z"

[[routes.publish]]
types = ["t"]

[[routes.events]]
match = "e_*"
as = "x_*"

[[routes]]
name = "b"
path = "/b/{id}"
dialect = "d"
channel = "b-{id}"

[[routes.publish]]
types = ["t"]
post = "http://127.0.0.1:1/{id}"
body = "{frame}"
"#;

/// Two or more values of each kind that a key may have; words of closed lists come from the schema.
const SAMPLES: &str = r#"
numbers = [2, 3, 50, 70, 450, 550, 9000, 70000, 3000000]
flags = [true, false]
texts = [
    "7s", "8s", "40s", "50s", "3h", "4h", "2030-01-01T00:00:00Z", "2031-01-01T00:00:00Z",
    "unlimited", "header", "query:t", "a", "d", "e", "g", "h", "b", "x-y", "{id}", "x{id}", "client-x", "a*", "b*", "[a-c]+", "[a-d]+",
    "127.0.0.1:71", "127.0.0.1:72", "10.0.0.0/8", "10.0.0.1", "a.example", "https://a.example", "https://b.example",
    "tests/routes/fixtures/tls.pem", "./tests/routes/fixtures/tls.pem",
    "/h1", "/h2", "/x/{id}", "/y/{id}",
    '{"type":{event},"data":{data},"n":1}', '{"type":{event},"data":{data},"n":2}',
    '{"n":1}', '{"n":2}', '{"n":{claim.a}}', '{"n":{claim.b}}',
    '{"type":"n1","f":{now}}', '{"type":"n2","f":{now}}',
]
tables = [{ count = 3, per = "1m" }, { count = 4, per = "1m" }]
"#;

/// So many values of a key are compared; no closed list is longer, but that of the algorithms.
const ENOUGH: usize = 4;

/// Whose values nobody is to see; that they are there is shown.
pub const SECRET: [&str; 10] = [
    "enabled_with",
    "secret",
    "secret_file",
    "pem",
    "pem_file",
    "jwks",
    "jwks_file",
    "x-header",
    "encryption_master_key",
    "encryption_master_key_file",
];

pub fn samples() -> Vec<toml::Value> {
    fn words(schema: &Value, found: &mut Vec<toml::Value>) {
        match schema {
            Value::Object(map) => {
                let listed = map.get("enum").and_then(Value::as_array).into_iter().flatten();
                for word in listed.filter_map(Value::as_str).filter(|word| *word != "true") {
                    if !found.contains(&word.into()) {
                        found.push(word.into());
                    }
                }
                map.values().for_each(|value| words(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| words(value, found)),
            _ => {}
        }
    }
    let table: toml::Table = toml::from_str(SAMPLES).unwrap();
    let mut all: Vec<toml::Value> =
        table.values().flat_map(|kind| kind.as_array().unwrap().iter().cloned()).collect();
    let mut listed = Vec::new();
    words(&json_schema(), &mut listed);
    listed.retain(|word| !all.contains(word));
    all.extend(listed);
    all
}

/// What stands in the way of this key's having an effect is taken away, and what it needs is added.
pub fn prepare(file: &mut toml::Value, place: &Place) {
    make_way(file, place);
    let names: Vec<&str> = place.iter().map(String::as_str).collect();
    match names.as_slice() {
        ["upstream", "cluster"] => _ = file["upstream"].as_table_mut().unwrap().remove("host"),
        ["server", "tls", ..] => {
            for key in ["cert_file", "key_file"] {
                let key = ["server", "tls", key].map(str::to_owned);
                put(file, &key, &"tests/routes/fixtures/tls.pem".into());
            }
        }
        ["upstream", "other_keys", ..] => {
            let other = toml::toml! {
                key = "other"
                secret = "its secret"
            };
            let keys = vec![toml::Value::Table(other)].into();
            file["upstream"].as_table_mut().unwrap().insert("other_keys".into(), keys);
        }
        ["routes", _, "on_undecryptable"] => {
            file["routes"][0]["channel"] = "private-encrypted-a-{id}".into();
            put(
                file,
                &["upstream", "encryption_master_key"].map(str::to_owned),
                &"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into(),
            );
        }
        ["routes", _, "echo"] => {
            let route = file["routes"][0].as_table_mut().unwrap();
            route.remove("publish");
            route.remove("events");
            route.remove("filter");
        }
        ["routes", _, "auth", "required"] => {
            let route = file["routes"][0].as_table_mut().unwrap();
            route["auth"].as_table_mut().unwrap().remove("owns");
            let limits = route["limits"].as_table_mut().unwrap();
            limits.remove("exclusive");
            limits.remove("connections_per_user");
        }
        ["routes", _, key @ ("presence" | "user_info")] => {
            let route = file["routes"][0].as_table_mut().unwrap();
            route.insert("channel".into(), "presence-a-{id}".into());
            if *key == "user_info" {
                route.insert("presence".into(), "each_user".into());
            }
        }
        ["routes", _, "watchlist"] => {
            let route = file["routes"][0].as_table_mut().unwrap();
            route.insert("channel".into(), "#server-to-user".into());
            route["auth"].as_table_mut().unwrap().remove("owns");
            route.remove("publish");
        }
        ["routes", _, "events", _, "drop"] => {
            _ = file["routes"][0]["events"][0].as_table_mut().unwrap().remove("as")
        }
        ["routes", _, "mode" | "to"] | ["routes", _, "limits", "connections"] => {
            // Which is one or the other, and has nothing that only one of them has.
            let route = r#"name = "a"
                path = "/a/{id}"
                group = "g""#;
            file["routes"][0] = toml::from_str(route).unwrap();
            if names.last() != Some(&"mode") {
                file["routes"][0].as_table_mut().unwrap().insert("mode".into(), "tunnel".into());
            }
        }
        ["routes", _, "shares"] => {
            let mut other = file["routes"][0].clone();
            other["name"] = "x-y".into();
            other["path"] = "/other/{id}".into();
            file["routes"].as_array_mut().unwrap().push(other);
        }
        _ => {}
    }
}

/// Whether the key has a meaning there: what all routes share is tried in the first, and a rule either triggers an event
/// or posts.
pub fn applies(place: &Place) -> bool {
    if place.iter().any(|name| SECRET.contains(&name.as_str())) {
        return false;
    }
    match place.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["endpoints", "notify", "token" | "token_file"] => false,
        ["defaults" | "groups", ..] => false,
        // What is expected changes nothing.
        ["tests", ..] => false,
        ["routes", "1", "presence" | "user_info" | "watchlist"] => false,
        ["routes", "1", "mode" | "to"] => false,
        ["routes", "0", "publish", _, key, ..] => {
            !["post", "body", "headers", "retry_on", "reply"].contains(key)
        }
        ["routes", "1", "publish", _, key, ..] => {
            !["event", "data", "relay", "via", "channel", "skip_if_empty"].contains(key)
        }
        _ => true,
    }
}

fn printed(file: &toml::Value) -> Option<String> {
    let source = Source { name: "routes.toml".into(), text: toml::to_string(file).unwrap() };
    load(&source, &|_| None).ok().map(|loaded| describe(&loaded.config))
}

#[test]
fn every_value_of_every_key_is_printed() {
    let base: toml::Value = toml::Value::Table(toml::from_str(BASE).unwrap());
    let samples = samples();
    let mut places = places();
    for key in ["values", "exclude"] {
        for name in ["auth.user", "subscribe.c"] {
            places.push(["routes", "0", key, name].map(str::to_owned).to_vec());
        }
    }
    let (mut shown, mut wrong) = (0, Vec::new());
    for place in places.iter().filter(|place| applies(place)) {
        let what = place.join(".");
        let mut file = base.clone();
        prepare(&mut file, place);
        let before = printed(&file);
        let print = |value: &toml::Value| {
            let mut file = file.clone();
            put(&mut file, place, value);
            printed(&file).map(|text| (text, value.to_string()))
        };
        let mut found: Vec<(String, String)> = samples.iter().filter_map(print).take(ENOUGH).collect();
        if found.is_empty() {
            let lists = samples.iter().map(|value| toml::Value::Array(vec![value.clone()]));
            found = lists.filter_map(|list| print(&list)).take(ENOUGH).collect();
        }
        let is_table = places.iter().any(|other| other.len() > place.len() && other.starts_with(place));
        if found.is_empty() && is_table {
            continue;
        }
        if found.iter().all(|(text, _)| Some(text) == before.as_ref()) {
            wrong.push(format!("{what}: {} samples load, and none changes what is printed", found.len()));
        }
        let mut by_text: BTreeMap<String, String> = BTreeMap::new();
        for (text, value) in found {
            if let Some(other) = by_text.insert(text, value.clone()) {
                wrong.push(format!("{what} is printed alike as {other} and as {value}"));
            }
        }
        shown += 1;
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
    assert!(shown > 130, "{shown}");
}

/// Defaults that no value has, and why, or which test compares them.
const UNSAYABLE: [(&str, &str); 15] = [
    ("auth.audience", "a list is what is checked"),
    ("auth.issuer", "a list is what is checked"),
    ("auth.keys.0.audience", "config::keys_have_the_issuers_of_their_own_or_those_of_all"),
    ("auth.keys.0.issuer", "config::keys_have_the_issuers_of_their_own_or_those_of_all"),
    ("routes.0.exclude", "an empty table excludes nothing"),
    ("routes.0.events", "a rule changes something"),
    ("routes.0.filter", "a filter leaves out"),
    ("routes.0.limits.exclusive", "slots have a key"),
    ("routes.0.mode", "what one needs has no meaning with the other"),
    ("routes.0.origins", "an empty list is none"),
    ("routes.0.subprotocols", "an empty list is none"),
    ("routes.0.subscribe", "an empty list would be none"),
    ("server.tls", "a table has both files"),
    ("server.health_path", "an empty path is none that can be asked for"),
    ("upstream.port", "one that is given is printed, the scheme's own too"),
];

/// What a file would say to mean the same as by leaving the key out.
fn spelled_out(default: &str) -> Vec<toml::Value> {
    let number = |text: &str| text.parse::<i64>().ok();
    for (unit, per) in [(" a minute", "1m"), (" a second", "1s")] {
        if let Some(count) = default.strip_suffix(unit).and_then(number) {
            let rate =
                toml::Table::from_iter([("count".to_owned(), count.into()), ("per".to_owned(), per.into())]);
            return vec![toml::Value::Table(rate)];
        }
    }
    match default {
        "none" | "nothing" => {
            vec![toml::Value::Array(Vec::new()), "".into(), "unlimited".into(), "none".into()]
        }
        "the machine's cores" => {
            let cores = std::thread::available_parallelism().unwrap().get().min(64);
            vec![i64::try_from(cores).unwrap().into()]
        }
        "count" => vec![5.into()], // in BASE
        "true" | "false" => vec![(default == "true").into()],
        text => vec![number(text).map_or_else(|| text.into(), Into::into)],
    }
}

/// A file that spells a default out means what the file without the key means.
#[test]
fn every_default_is_the_one_that_its_comment_tells() {
    let base: toml::Value = toml::Value::Table(toml::from_str(BASE).unwrap());
    let (mut same, mut wrong) = (0, Vec::new());
    let mut unsayable: BTreeMap<&str, &str> = UNSAYABLE.iter().copied().collect();
    for (place, default) in defaults().iter().filter(|(place, _)| applies(place)) {
        let what = place.join(".");
        let mut file = base.clone();
        prepare(&mut file, place);
        remove(&mut file, place);
        let without = printed(&file);
        let said: Vec<String> = spelled_out(default)
            .iter()
            .filter_map(|value| {
                let mut file = file.clone();
                put(&mut file, place, value);
                printed(&file)
            })
            .collect();
        let is_same =
            without.is_some() && !said.is_empty() && said.iter().all(|text| Some(text) == without.as_ref());
        match (is_same, unsayable.remove(what.as_str())) {
            (true, None) => same += 1,
            (false, Some(_)) => {}
            (true, Some(_)) => wrong.push(format!("{what} can be said, and needs no entry in UNSAYABLE")),
            (false, None) => wrong.push(format!("{what}: not {default}, or {default} cannot be said")),
        }
    }
    wrong.extend(unsayable.keys().map(|what| format!("{what} in UNSAYABLE tells no default")));
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), wrong.len() + same, wrong.join("\n"));
    assert!(same > 60, "{same}");
}

/// No other words tell one, which would not be compared.
#[test]
fn every_default_is_told_in_one_form() {
    let told: Vec<Place> = defaults().into_iter().map(|(place, _)| place).collect();
    for (place, text) in described() {
        let tells = text.to_lowercase().contains("default") && place != ["defaults"];
        assert_eq!(tells, told.contains(&place), "{}: {text}", place.join("."));
    }
}
