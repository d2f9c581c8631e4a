use super::*;
use crate::config::{self, Config, Source};
use crate::metrics::Registry;
use crate::routes::path::Matched;
use crate::websocket;

const HEAD: &str = r#"
    [upstream]
    app_id = "1"
    key = "k"
    secret = "s"
    host = "localhost"

    [dialects.typed.in]
    type_field = "type"

    [dialects.typed.out]
    event = '{"type":{event},"data":{data}}'
    error = '{"type":"error","code":{code}}'
"#;

fn route(name: &str, more: &str) -> String {
    format!(
        "\n[[routes]]\nname = \"{name}\"\npath = \"/{name}\"\nchannel = \"{name}\"\ndialect = \"typed\"\n{more}\n"
    )
}

fn config(routes: &[String]) -> Config {
    let source = Source { name: "routes.toml".into(), text: format!("{HEAD}{}", routes.concat()) };
    config::load(&source, &|_| None).unwrap().config
}

struct Bridge {
    history: History,
    traffic: websocket::metrics::Metrics,
}

impl Bridge {
    fn new() -> Self {
        let traffic = websocket::metrics::Metrics::new(&Registry::new().unwrap());
        Self { history: History::default(), traffic }
    }

    fn next(&mut self, routes: &[String]) -> Generation {
        let config = config(routes);
        self.history
            .next((&config.routes, &config.tunnels), config.router, None, |name| self.traffic.of(name))
            .unwrap()
    }
}

fn of(generation: &Generation, path: &str) -> Arc<RouteState> {
    let Matched::Route(index, _) = generation.router().find(path) else { panic!("no route has {path}") };
    generation.routes()[index].clone()
}

#[test]
fn a_route_that_is_the_same_is_the_same_edition_wherever_it_is_in_the_file() {
    let mut bridge = Bridge::new();
    let first = bridge.next(&[route("a", ""), route("c", "")]);
    let second = bridge.next(&[route("b", ""), route("c", "echo = true"), route("a", "")]);
    assert!(Arc::ptr_eq(&of(&first, "/a"), &of(&second, "/a")));
    let (before, after) = (of(&first, "/c"), of(&second, "/c"));
    assert_eq!(before.id(), after.id());
    assert_ne!(before.edition(), after.edition());
    assert_ne!(before, after);
    assert!(!before.echo && after.echo, "who has an edition keeps its rules");
    let ids = second.routes().iter().map(|route| (&*route.name, route.id()));
    let ids: std::collections::BTreeMap<_, _> = ids.collect();
    assert_eq!((ids["a"], ids["c"]), (of(&first, "/a").id(), of(&first, "/c").id()));
    assert!(first.routes().iter().all(|route| route.id() != ids["b"]), "a new name has an id of its own");
}

#[test]
fn a_route_that_comes_back_has_its_id_and_with_connections_left_its_edition() {
    let mut bridge = Bridge::new();
    let first = bridge.next(&[route("a", ""), route("b", "")]);
    let (connected, id) = (of(&first, "/a"), of(&first, "/b").id());
    let edition = of(&first, "/b").edition();
    drop(first);
    let between = bridge.next(&[route("c", "")]);
    assert_eq!(bridge.history.editions().count(), 2, "the one of a that is connected, and the new one of c");
    drop(between);
    let last = bridge.next(&[route("b", ""), route("a", "")]);
    assert!(Arc::ptr_eq(&of(&last, "/a"), &connected));
    assert_eq!(of(&last, "/b").id(), id);
    assert_ne!(of(&last, "/b").edition(), edition, "nobody is left of the first");
}

#[test]
fn what_clients_can_cause_is_known_while_some_can() {
    let rule = |event: &str| format!("publish = [{{ types = [\"say\"], event = \"{event}\" }}]");
    let mut bridge = Bridge::new();
    let first = bridge.next(&[route("a", &rule("said"))]);
    let connected = of(&first, "/a");
    drop(first);
    let second = bridge.next(&[route("a", &rule("spoken"))]);
    assert!(["said", "spoken"].iter().all(|event| second.client_events().has("a", event)));
    drop((connected, second));
    let third = bridge.next(&[route("a", &rule("told"))]);
    assert!(third.client_events().has("a", "told") && !third.client_events().has("a", "said"));
}

#[test]
fn every_edition_that_is_alive_has_an_heir_or_is_in_force() {
    let mut bridge = Bridge::new();
    let first = bridge.next(&[route("a", ""), route("b", ""), route("c", ""), route("d", "")]);
    let editions: Vec<_> = first.routes().to_vec();
    assert!(editions.iter().all(|route| first.heir_of(route.edition()).is_none()));
    let second =
        [route("a", ""), route("b", "echo = true"), route("c", "filter = { field = \"f\", equals = \"1\" }")];
    let second = bridge.next(&second);
    let heir = |generation: &Generation, at: usize| generation.heir_of(editions[at].edition()).cloned();
    assert_eq!(heir(&second, 0), None);
    assert_eq!(heir(&second, 1), Some(Heir::Next(of(&second, "/b"))));
    assert_eq!((heir(&second, 2), heir(&second, 3)), (Some(Heir::Nobody), Some(Heir::Nobody)));
    // Whoever missed the second follows the third, and what comes back is in force.
    let third = bridge.next(&[route("b", "on_gap = \"close\""), route("c", "")]);
    assert_eq!(heir(&third, 0), Some(Heir::Nobody));
    assert_eq!(heir(&third, 1), Some(Heir::Next(of(&third, "/b"))));
    assert_eq!(heir(&third, 2), None);
    assert_eq!(third.heir_of(of(&second, "/c").edition()), Some(&Heir::Nobody));
    // Nobody is left of them, and nothing is kept.
    drop((first, second, third, editions));
    let last = bridge.next(&[route("a", "echo = true")]);
    assert!(last.heirs.is_empty());
}

/// Each part of a route tells it from another; none is left out of the comparison.
#[test]
fn any_change_makes_another_edition() {
    let same =
        |more: &str, other: &str| config(&[route("a", more)]).routes == config(&[route("a", other)]).routes;
    let post = |secret: &str| {
        format!(
            "publish = [{{ types = [\"say\"], post = \"http://127.0.0.1/x\", body = '{{frame}}', headers = {{ x-key = \"{secret}\" }} }}]"
        )
    };
    let changes = [
        "echo = true",
        "subprotocols = [\"p\"]",
        "limits = { message_bytes = 1024 }",
        "limits = { messages = { count = 1, per = \"1s\" } }",
        "heartbeat = { every = \"7s\" }",
        "on_gap = \"close\"",
        "refusal = \"frame\"",
        "origins = [\"https://a.example\"]",
        "filter = { field = \"x\", equals = \"1\" }",
        "publish = [{ types = [\"say\"], event = \"client-said\" }]",
        "deprecation = { sunset_at = \"2030-01-01T00:00:00Z\" }",
        &post("one"),
        &post("two"),
    ];
    for (at, change) in changes.iter().enumerate() {
        assert!(same(change, change), "{change}");
        for other in changes[..at].iter().chain([&""]) {
            assert!(!same(change, other), "{change} / {other}");
        }
    }
}

fn tunnel(name: &str, more: &str) -> String {
    format!(
        "\n[[routes]]\nname = \"{name}\"\npath = \"/{name}\"\nmode = \"tunnel\"\nto = \"http://127.0.0.1:1\"\n{more}\n"
    )
}

fn fate(state: &TunnelState) -> Fate {
    state.fate().borrow().clone()
}

/// The router has one list of places, whatever serves them, and a name keeps its id when it changes hands.
#[test]
fn a_path_leads_to_what_serves_it() {
    let mut bridge = Bridge::new();
    let first = bridge.next(&[tunnel("t", ""), route("a", ""), tunnel("u", "")]);
    let served = |generation: &Generation, path: &str| {
        let Matched::Route(place, _) = generation.router().find(path) else { panic!("no route has {path}") };
        match generation.served(place).unwrap() {
            Served::Relay(state) => (state.name.to_string(), state.id(), true),
            Served::Tunnel(state) => (state.rules().name.to_string(), state.id(), false),
        }
    };
    for (path, name, relayed) in [("/t", "t", false), ("/a", "a", true), ("/u", "u", false)] {
        let (found, _, is_relayed) = served(&first, path);
        assert_eq!((found.as_str(), is_relayed), (name, relayed));
    }
    assert!(first.served(3).is_none());
    let second = bridge.next(&[route("t", ""), tunnel("a", "")]);
    for path in ["/t", "/a"] {
        let (before, after) = (served(&first, path), served(&second, path));
        assert_eq!((before.1, before.2), (after.1, !after.2), "{path}");
    }
}

#[test]
fn who_is_at_an_old_server_is_told_what_becomes_of_him_and_nobody_else_is_woken() {
    let mut bridge = Bridge::new();
    let generations = Generations::default();
    let first =
        bridge.next(&[tunnel("same", ""), tunnel("changed", ""), tunnel("moved", ""), tunnel("gone", "")]);
    let [same, changed, moved, gone] = [0, 1, 2, 3].map(|at| first.tunnels()[at].clone());
    generations.replace(first).tell();
    let mut woken = same.fate();
    let routes = |last: &str| {
        vec![
            tunnel("same", ""),
            tunnel("changed", "limits.connections = 1"),
            tunnel("moved", "").replace("/moved", last),
        ]
    };
    let second = bridge.next(&routes("/elsewhere"));
    assert!(Arc::ptr_eq(&second.tunnels()[0], &same));
    let heir = second.tunnels()[1].clone();
    assert!(matches!(fate(&gone), Fate::InForce), "nobody is told before all is done");
    generations.replace(second).tell();
    assert!(matches!(fate(&same), Fate::InForce) && !woken.has_changed().unwrap());
    assert!(matches!(fate(&changed), Fate::Next(next) if Arc::ptr_eq(&next, &heir)));
    assert!(matches!((fate(&moved), fate(&gone)), (Fate::Closed, Fate::Closed)));
    woken.mark_unchanged();
    // It comes back while somebody has it: the same edition, in force.
    let third = bridge.next(&[tunnel("gone", ""), route("same", "")]);
    assert!(Arc::ptr_eq(&third.tunnels()[0], &gone));
    generations.replace(third).tell();
    assert!(matches!((fate(&gone), fate(&same)), (Fate::InForce, Fate::Closed)));
    assert!(woken.has_changed().unwrap());
    // When nobody has them, nothing is kept of those that are not in force.
    drop((same, changed, moved, heir, woken));
    generations.replace(bridge.next(&[tunnel("gone", "")])).tell();
    assert_eq!(bridge.history.tunnels().count(), 1);
}

#[test]
fn a_tunnel_has_so_many_places_and_gets_them_back() {
    let mut bridge = Bridge::new();
    let state = bridge.next(&[tunnel("t", "limits.connections = 2")]).tunnels()[0].clone();
    let first = state.enter().unwrap();
    let _second = state.enter().unwrap();
    assert!(state.enter().is_none());
    assert_eq!(state.open(), 2, "who does not get in does not count");
    drop(first);
    let _third = state.enter().unwrap();
    let held = state.hold();
    assert_eq!(held.state().open(), 3, "who is there already counts beyond it");
}
