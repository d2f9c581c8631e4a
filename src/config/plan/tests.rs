use super::*;
use crate::config::{self, Source};

const FILE: &str = r#"
[upstream]
app_id = "1"
key = "k"
secret = "s"
host = "localhost"

[auth]
leeway = "1s"

[[auth.keys]]
algorithms = ["HS256"]
secret = "0123456789abcdef0123456789abcdef"

[dialects.typed.in]
type_field = "type"

[dialects.typed.out]
event = '{"type":{event},"data":{data}}'
error = '{"type":"error","code":{code}}'

[[routes]]
name = "a"
path = "/a"
channel = "a"
dialect = "typed"

[[routes]]
name = "b"
path = "/b"
channel = "b"
dialect = "typed"
limits.depth = 3
"#;

fn config(text: &str) -> Config {
    let source = Source { name: "routes.toml".into(), text: text.to_owned() };
    config::load(&source, &|_| None).unwrap().config
}

fn plan(changes: &[(&str, &str)]) -> Plan {
    let mut text = FILE.to_owned();
    for (what, by) in changes {
        assert!(text.contains(what), "{what}");
        text = text.replace(what, by);
    }
    Plan::between(&config(FILE), &config(&text))
}

#[test]
fn the_same_is_nothing_however_it_is_written() {
    let same = plan(&[
        ("limits.depth = 3", "limits = { depth = 3 } # as ever"),
        ("leeway = \"1s\"", "leeway = \"1000ms\""),
    ]);
    assert!(same.is_nothing());
    assert_eq!(same.text(None), "nothing changes\n  a  unchanged\n  b  unchanged\n");
}

#[test]
fn each_route_has_its_fate_and_says_for_how_many() {
    let plan = plan(&[
        ("leeway = \"1s\"", "leeway = \"2s\""),
        ("limits.depth = 3", "limits.depth = 4\nfilter = { field = \"f\", equals = \"1\" }"),
        ("name = \"a\"", "name = \"c\""),
    ]);
    assert_eq!(
        plan.text(None),
        "applied at once: auth.leeway\n  c  added\n  b  replaced: filter, limits.depth; its clients are closed\n  a  \
         removed; its clients are closed\n"
    );
    let clients = Clients::from([("a".into(), 3), ("b".into(), 7)]);
    assert_eq!(
        plan.text(Some(&clients)),
        "applied at once: auth.leeway\n  c  added\n  b  replaced: filter, limits.depth; 7 clients are \
         closed\n  a  removed; 3 clients are closed\n"
    );
    let told = plan.json(Some(&clients));
    assert_eq!(told["routes"][1]["closing_keys"], json!(["filter"]));
    assert_eq!(told["routes"][1]["adjusted_keys"], json!(["limits.depth"]));
    assert_eq!((&told["routes"][2]["closed_clients"], &told["routes"][0]["clients"]), (&json!(3), &json!(0)));
    assert_eq!(told["needs_restart"], json!([]));
}

#[test]
fn what_needs_a_restart_is_named() {
    let plan = plan(&[("app_id = \"1\"", "app_id = \"2\""), ("host = \"localhost\"", "host = \"other\"")]);
    assert_eq!(plan.fixed, ["upstream.app_id", "upstream.ws_host", "upstream.api_host"]);
    assert!(
        plan.text(None)
            .starts_with("needs a restart: upstream.app_id, upstream.ws_host, upstream.api_host; ")
    );
    assert!(!plan.is_nothing());
    assert_eq!(line_of(FILE, "upstream.key"), Some(4));
    assert_eq!(line_of(FILE, "upstream.ws_host"), Some(2), "its table");
    assert_eq!(line_of(FILE, "server.listen"), None);
}

#[test]
fn a_key_and_its_secret_are_replaced_at_once() {
    let changes = [("key = \"k\"", "key = \"other\""), ("secret = \"s\"", "secret = \"t\"")];
    let alone = plan(&changes);
    assert_eq!((&*alone.fixed, &*alone.applied), (&[][..], &["upstream.key", "upstream.secret"][..]));
}

#[test]
fn a_dialect_that_is_only_called_otherwise_closes_nobody() {
    let renamed = plan(&[("typed", "spoken")]);
    let taken_over = Fate::Adjusted(vec!["dialect"]);
    assert!(renamed.routes.iter().all(|(_, fate)| *fate == taken_over), "{renamed:?}");
    let other = plan(&[("\"code\":{code}", "\"error\":{code}")]);
    assert!(other.routes.iter().all(|(_, fate)| fate.closes() && fate.keys().0 == ["dialect.out.error"]));
}

/// Who serves a route is nothing that live connections can take over; which old server does, concerns newcomers.
#[test]
fn a_route_that_changes_hands_is_replaced() {
    let relayed = "path = \"/b\"\nchannel = \"b\"\ndialect = \"typed\"\nlimits.depth = 3";
    let tunnelled = "path = \"/b\"\nmode = \"tunnel\"\nto = \"http://127.0.0.1:8010\"";
    let to_old = plan(&[(relayed, tunnelled)]);
    let names: Vec<&str> = to_old.routes.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["a", "b"]);
    let replaced = Fate::Replaced { why: vec!["mode"], also: Vec::new() };
    assert_eq!(to_old.routes[1].1, replaced);
    assert_eq!(to_old.text(None), "  a  unchanged\n  b  replaced: mode; its clients are closed\n");
    let with = |route: &str| config(&FILE.replace(relayed, route));
    let from = |before: &str, after: &str| Plan::between(&with(before), &with(after)).routes[1].1.clone();
    assert_eq!(from(tunnelled, relayed), replaced);
    assert_eq!(from(tunnelled, tunnelled), Fate::Unchanged);
    for (more, keys) in [
        ("8011\"", vec!["to"]),
        ("8010\"\norigins = []", vec!["origins"]),
        ("8010\"\nslash = \"either\"", vec!["slash"]),
        ("8010\"\nlimits.connections = 7", vec!["limits.connections"]),
        ("8010\"\nlimits.connections_per_address = 7", vec!["limits.connections_per_address"]),
        ("8010\"\nlimits.message_bytes = 7", vec!["limits.message_bytes"]),
        ("8010\"\ndeprecation = { sunset_at = \"2030-01-01T00:00:00Z\" }", vec!["deprecation"]),
    ] {
        let after = tunnelled.replace("8010\"", more);
        assert_eq!(from(tunnelled, &after), Fate::Adjusted(keys), "{more}");
    }
    let elsewhere = tunnelled.replace("/b", "/c");
    assert_eq!(from(tunnelled, &elsewhere), Fate::Replaced { why: vec!["path"], also: Vec::new() });
    assert_eq!(plan(&[(&format!("\n[[routes]]\nname = \"b\"\n{relayed}"), "")]).routes[1].1, Fate::Removed);
}
