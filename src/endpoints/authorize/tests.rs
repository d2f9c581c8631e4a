use super::*;
use crate::auth::tests_support::claims;
use crate::clock::tests::now;
use crate::config::diagnostics::Source;
use crate::config::{self, Config};
use crate::routes::path::Matched;
use crate::session::machine::{Action, Machine, Opening};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

const BASE: &str = r#"
[upstream]
app_id = "1"
key = "k"
secret = "s"
cluster = "mt1"

[[auth.keys]]
algorithms = ["HS256"]
secret = "0123456789abcdef0123456789abcdef"

[dialects.d.in]
auth = { type = "auth" }
subscribe = { type = "subscribe" }
unsubscribe = { type = "unsubscribe" }

[dialects.d.out]
event = '{"type":{event},"data":{data}}'
error = '{"type":"error","error_code":{code}}'
auth_ok = '{"ok":{user}}'
auth_error = '{"no":{code}}'

[defaults]
dialect = "d"
heartbeat = { kind = "none" }
# Every value is tried on one connection.
limits = { messages = "unlimited" }
"#;

fn load(routes: &str) -> Option<Config> {
    let source = Source { name: "routes.toml".into(), text: format!("{BASE}{routes}") };
    config::load(&source, &|_| None).ok().map(|loaded| loaded.config)
}

fn ask(
    config: &Config,
    channel: &str,
    claims: &Claims,
    origins: &[&str],
    unfiltered: bool,
) -> Result<String, NotGiven> {
    let asked = Asked { channel, claims, origins, now: now() };
    given(config.routes.iter(), &asked, |_| unfiltered).map(|route| route.name.to_string())
}

/// The channels that an old client gets by this path, choosing among `choices` where it may.
fn door(config: &Config, path: &str, claims: &Claims, origins: &[&str], choices: &[String]) -> Vec<String> {
    let Matched::Route(index, values) = config.router.find(path) else { return Vec::new() };
    let (route, now) = (&config.routes[index], now());
    let gone = route.deprecation.as_ref().is_some_and(|policy| policy.phase(now) == Phase::Gone);
    if gone || !origins.iter().all(|origin| route.origins.as_ref().is_none_or(|list| list.allow(origin))) {
        return Vec::new();
    }
    let opening = Opening {
        route: route.clone(),
        endpoint: path.to_owned(),
        values,
        token: None,
        refusal: None,
        subscribe_wait: Duration::from_secs(10),
        seed: 7,
    };
    let mut out = Vec::new();
    let mut machine = Machine::open(opening, now, &mut out);
    if route.auth.is_some() {
        machine.text(r#"{"type":"auth","token":"t"}"#, now, &mut out);
        machine.verified(Ok(claims.clone()), Duration::ZERO, now, &mut out);
        machine.slots(Ok(()), now, &mut out);
    }
    if route.channel_is_chosen() {
        for choice in choices {
            for verb in ["subscribe", "unsubscribe"] {
                machine.text(&serde_json::json!({ "type": verb, "c": choice }).to_string(), now, &mut out);
            }
        }
    }
    let subscribed = out.into_iter().filter_map(|action| match action {
        Action::Subscribe(subscribe) => Some(subscribe.channel),
        _ => None,
    });
    subscribed.collect()
}

/// Every text that could be a value in `channel`, and those of the claims.
fn values(channel: &str, more: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = more.iter().map(|&text| text.to_owned()).collect();
    for from in 0..channel.len() {
        all.extend((from + 1..=channel.len()).map(|to| channel[from..to].to_owned()));
    }
    all.sort();
    all.dedup();
    all
}

fn filled(template: &str, x: &str, y: &str) -> String {
    template.replace("{x}", x).replace("{y}", y).replace("{subscribe.c}", x).replace("{auth.user}", y)
}

#[test]
fn what_routes_give_is_given_and_nothing_else() {
    let config = load(
        r#"
[[routes]]
name = "open"
path = "/open/{id}"
channel = "private-open-{id}"

[[routes]]
name = "plugin"
path = "/plugin/{id}"
channel = "private-plugin-{id}"
auth = { required = true, permissions = ["read"], owns = [{ claim = "plugins", contains = "{id}" }] }

[[routes]]
name = "user"
path = "/user"
channel = "user-{auth.user}"
auth = { required = true }

[[routes]]
name = "agent"
path = "/agent/{agent}"
channel = "private-agents"
auth = { required = true, owns = [{ claim = "agents", contains = "{agent}" }] }
filter = { field = "agent", equals = "{agent}" }

[[routes]]
name = "list"
path = "/list"
channel = "{subscribe.c}"
subscribe = { c = ["files", "private-logs"] }

[[routes]]
name = "gone"
path = "/gone"
channel = "private-gone"
deprecation = { deprecated_at = "2001-01-01T00:00:00Z", sunset_at = "2002-01-01T00:00:00Z", after_sunset = "refuse" }

[[routes]]
name = "pages"
path = "/pages"
channel = "private-pages"
origins = ["https://a.example"]
"#,
    )
    .unwrap();
    let ann = claims("ann", &["read"], 1, r#"{"plugins":["p1",7],"agents":["a1"]}"#);
    let bob = claims("bob", &[], 1, "{}");
    let denied = |claim: &str| Err(NotGiven::Denied(Denied::Ownership(claim.to_owned())));
    for (channel, claims, expected) in [
        ("private-open-1", &bob, Ok("open")),
        ("private-open-", &bob, Err(NotGiven::NoRoute)),
        ("private-open", &bob, Err(NotGiven::NoRoute)),
        ("private-plugin-p1", &ann, Ok("plugin")),
        ("private-plugin-7", &ann, Ok("plugin")),
        ("private-plugin-p2", &ann, denied("plugins")),
        ("private-plugin-p1", &bob, Err(NotGiven::Denied(Denied::Permission("read".to_owned())))),
        ("user-ann", &ann, Ok("user")),
        ("user-bob", &ann, Err(NotGiven::NoRoute)),
        ("private-agents", &ann, Err(NotGiven::Filtered)),
        ("private-agents", &bob, Err(NotGiven::Denied(Denied::NoClaim("agents".to_owned())))),
        ("files", &bob, Ok("list")),
        ("private-logs", &bob, Ok("list")),
        ("private-other", &bob, Err(NotGiven::NoRoute)),
        ("private-gone", &ann, Err(NotGiven::Gone)),
        ("private-pages", &bob, Ok("pages")),
        ("presence-open-1", &ann, Err(NotGiven::NoRoute)),
    ] {
        assert_eq!(ask(&config, channel, claims, &[], false), expected.map(str::to_owned), "{channel}");
    }
    assert_eq!(
        ask(&config, "private-agents", &ann, &[], true).as_deref(),
        Ok("agent"),
        "where the file says so"
    );
    assert!(ask(&config, "private-agents", &bob, &[], true).is_err(), "and then for owners only");
    let from = |origin| ask(&config, "private-pages", &bob, &[origin], false);
    assert_eq!(from("https://a.example").as_deref(), Ok("pages"));
    assert_eq!(from("https://b.example"), Err(NotGiven::Origin));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, ..ProptestConfig::default() })]

    /// For routes, claims and channels of all sorts: a channel is given exactly where some path, and some choice on
    /// it, would have given an old client of this user that very channel.
    #[test]
    fn new_clients_get_what_old_ones_would_have(
        paths in prop::sample::subsequence(vec![
            ("/v/{x}", "{x}"), ("/w/{x}/{y}", "{x} {y}"), ("/r/{x:[ab]+}", "{x}"), ("/n", ""), ("/c", "c"),
        ], 1..=2),
        channels in prop::collection::vec(prop::sample::select(vec![
            "p-{x}", "{x}-p", "p-{x}.{y}", "p-{x}-{y}", "p", "p-{auth.user}", "p-{x}.{auth.user}", "{subscribe.c}",
            "p-{subscribe.c}", "private-{x}", "p-{x}{y}",
        ]), 2),
        auths in prop::collection::vec(prop::sample::select(vec![
            "", "{ required = true }", r#"{ required = true, permissions = ["p"] }"#,
            r#"{ required = true, owns = [{ claim = "own", contains = "{x}" }] }"#,
            r#"{ required = true, owns = [{ claim = "own", contains = "o-{x}" }, { claim = "sub", contains = "{y}" }] }"#,
            r#"{ required = true, owns = [{ claim = "own", contains = "{x}-{y}" }] }"#,
        ]), 2),
        extras in prop::collection::vec(prop::sample::select(vec![
            "", "", r#"values = { "auth.user" = "[ab]+" }"#, r#"values = { x = "[a.]+" }"#,
            r#"subscribe = { c = ["a", "private-b", "a-b"] }"#, r#"exclude = { x = ["a"] }"#, r#"exclude = { "auth.user" = ["a*"] }"#, r#"subscribe = { c = ["a*", "b"] }"#,
            r#"exclude = { "subscribe.c" = ["ab"] }"#, r#"origins = ["https://a.example"]"#,
            r#"filter = { field = "f", equals = "{x}" }"#, r#"filter = { field = "f", equals = "{y}" }"#,
            r#"deprecation = { sunset_at = "2002-01-01T00:00:00Z", after_sunset = "refuse" }"#,
        ]), 2),
        user in prop::sample::select(vec!["a", "ab", "7", "a.b"]),
        own in prop::sample::select(vec![r#""a""#, r#"["a","o-b"]"#, "7", r#"["a-b","o-a",7,null]"#, "{}"]),
        permitted: bool,
        origin in prop::sample::select(vec![None, Some("https://a.example"), Some("https://b.example")]),
        asked in prop::collection::vec(("[ab.-]{1,2}", "[ab7.]{1,2}"), 1..4),
    ) {
        let mut text = String::new();
        for (index, (((path, _), channel), (auth, extra))) in
            paths.iter().zip(&channels).zip(auths.iter().zip(&extras)).enumerate()
        {
            text.push_str(&format!("[[routes]]\nname = \"r{index}\"\npath = \"{path}\"\nchannel = \"{channel}\"\n{extra}\n"));
            if !auth.is_empty() {
                text.push_str(&format!("auth = {auth}\n"));
            }
            let others: Vec<String> = (0..index).map(|n| format!("\"r{n}\"")).collect();
            if !others.is_empty() {
                text.push_str(&format!("shares = [{}]\n", others.join(", ")));
            }
        }
        let loaded = load(&text).or_else(|| load(&text.lines().filter(|l| !l.starts_with("shares")).collect::<Vec<_>>().join("\n")));
        let Some(config) = loaded else { return Ok(()) };
        let permissions: &[&str] = if permitted { &["p"] } else { &[] };
        let claims = claims(user, permissions, now().unix_seconds() + 60, &format!(r#"{{"own":{own}}}"#));
        let origins: Vec<&str> = origin.into_iter().collect();
        let mut candidates: Vec<String> = Vec::new();
        for template in &channels {
            candidates.extend(asked.iter().map(|(x, y)| filled(template, x, y)));
            candidates.extend(["a", "private-b", "7", "cache-a"].map(|x| filled(template, x, user)));
        }
        for channel in candidates {
            let universe = values(&channel, &["a", "b", "7", "o", user]);
            let mut given_by_door = false;
            for route in &config.routes {
                let mut paths = vec![route.path.source().replace(":[ab]+", "")];
                for name in route.path.names() {
                    let with = |path: &String| {
                        let fill = |value: &String| path.replace(&format!("{{{name}}}"), value);
                        universe.iter().map(fill).collect::<Vec<_>>()
                    };
                    paths = paths.iter().flat_map(with).collect();
                }
                given_by_door = given_by_door
                    || paths.iter().any(|path| door(&config, path, &claims, &origins, &universe).contains(&channel));
            }
            let given = ask(&config, &channel, &claims, &origins, true);
            prop_assert_eq!(given.is_ok(), given_by_door, "{} by {:?}\n{}", channel, given, text);
            let kept = ask(&config, &channel, &claims, &origins, false);
            match &kept {
                Ok(name) => {
                    let route: &Arc<Route> = config.routes.iter().find(|route| *route.name == **name).unwrap();
                    prop_assert!(route.filter.is_none() && given.is_ok());
                }
                Err(NotGiven::Filtered) => prop_assert!(given.is_ok(), "{}\n{}", channel, text),
                Err(_) => {}
            }
        }
    }
}
