//! Path and channel templates: what a client writes into its path, its subscription or its token's user never
//! makes its channel one of another kind, or illegal.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use pusher_bridge::config::{self, Config, Source};
use pusher_bridge::pusher::channel::{ChannelKind, check_channel};
use pusher_bridge::routes::path::{Matched, PathValues};
use pusher_bridge::routes::route::Route;
use pusher_bridge::session::machine::{Action, Machine};
use pusher_bridge::template::{Choice, Var};

use super::fixture::{claims, now, opening};
use super::input::Input;

const SEGMENTS: [&str; 10] = ["{x}", "{y}", "ws", "a.b", "~$&'()*+,;=:@", "..", "{x", "é", "a%20", ""];
const PIECES: [&str; 10] =
    ["{x}", "{subscribe.c}", "{auth.user}", "private-", "presence", "encrypted-", "cache", "-", "x", "{y}"];
const VALUES: [&str; 10] =
    ["1", "private-", "presence", "encrypted-", "-x", "cache-", "a=@,.;", "é", "", "a b"];
const LISTED: [&str; 10] =
    ["1", "private-", "presence", "encrypted-*", "-x", "cache-*", "a=@,.;", "private-*", "*", "a b"];
const HEAD: &str = r#"
[upstream]
app_id = "1"
key = "k"
secret = "s"
cluster = "mt1"
[[auth.keys]]
algorithms = ["HS256"]
secret = "s"
[dialects.d.in]
auth = { type = "auth" }
subscribe = { type = "subscribe" }
[dialects.d.out]
event = '{"type":{event},"data":{data}}'
error = '{"type":"error","code":{code}}'
"#;

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut text = HEAD.to_owned();
    for index in 0..=input.below(3) {
        route(&mut text, index, &mut input);
    }
    let source = Source { name: "routes.toml".into(), text };
    let Ok(loaded) = config::load(&source, &|_| None) else { return };
    let config = &loaded.config;
    for _ in 0..4 {
        let route = &config.routes[input.below(config.routes.len())];
        let path = filled(route, &mut input);
        let listed = route.subscribe_values.first().map_or(&[][..], |(_, values)| values.as_slice());
        let chosen = match listed.get(input.below(3)) {
            Some(listed) => listed.begin(),
            None => input.pick(&VALUES),
        };
        requested(config, &path, input.pick(&VALUES), chosen);
    }
    let path = path(&mut input);
    requested(config, &path, "1", "1");
    requested(config, input.rest(), "1", "1");
}

/// A path for this route.
fn filled(route: &Route, input: &mut Input<'_>) -> String {
    let segment = |segment: &str| match segment.starts_with('{') {
        true => input.pick(&VALUES).to_owned(),
        false => segment.to_owned(),
    };
    route.path.source().split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// Appends a route.
fn route(text: &mut String, index: usize, input: &mut Input<'_>) {
    let _ = write!(text, "[[routes]]\nname = \"r{index}\"\ndialect = \"d\"\npath = \"");
    for _ in 0..=input.below(4) {
        let _ = write!(text, "/{}", input.pick(&SEGMENTS));
    }
    text.push_str("\"\nchannel = \"");
    for _ in 0..=input.below(5) {
        text.push_str(input.pick(&PIECES));
    }
    let _ = writeln!(text, "\"\nauth = {{ required = {} }}", input.flag());
    if input.flag() {
        let _ = writeln!(
            text,
            "subscribe = {{ c = [\"{}\", \"{}\"] }}",
            input.pick(&LISTED),
            input.pick(&LISTED)
        );
    }
}

fn path(input: &mut Input<'_>) -> String {
    let mut path = String::new();
    for _ in 0..=input.below(4) {
        path.push('/');
        for _ in 0..=input.below(2) {
            match input.below(4) {
                0 => path.push_str(input.pick(&SEGMENTS)),
                1 => path.push_str(input.pick(&VALUES)),
                2 => {
                    let _ = write!(path, "%{:02X}", input.byte());
                }
                _ => path.push(char::from(input.byte() % 128)),
            }
        }
    }
    path
}

fn requested(config: &Config, path: &str, user: &str, chosen: &str) {
    let Matched::Route(index, found) = config.router.find(path) else { return };
    let route = &config.routes[index];
    says_the_path(route, &found, path);
    assert!(
        config.routes.iter().all(|other| other.name == route.name || !other.path.overlaps(&route.path)),
        "two routes for one path"
    );
    for name in route.path.names() {
        let value = found.get(name).expect("every placeholder has a value");
        assert!(route.path.set_of(name).is_none_or(|set| set.fits(value)));
        if route.channel.vars().any(|var| *var == Var::Path(name.clone())) {
            check_channel(value).unwrap();
        }
    }
    subscribes(route, found, user, chosen);
}

/// The template with the values put back is the path that came, but for how it was percent-encoded.
fn says_the_path(route: &Route, values: &PathValues, path: &str) {
    let filled: Vec<Cow<'_, str>> = route
        .path
        .source()
        .split('/')
        .map(|segment| match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            Some(name) => Cow::Owned(values.get(name.split(':').next().unwrap()).unwrap().to_owned()),
            None => Cow::Borrowed(segment),
        })
        .collect();
    let came: Vec<_> =
        path.split('/').map(|segment| percent_decode_str(segment).decode_utf8().unwrap()).collect();
    assert_eq!(filled, came);
}

/// Opens a session on the route, authenticates and subscribes, and looks at the channels it comes to.
fn subscribes(route: &Arc<Route>, path: PathValues, user: &str, chosen: &str) {
    let mut out = Vec::new();
    let mut machine = Machine::open(opening(route, path), now(), &mut out);
    if route.auth.is_some() {
        let user = if user.is_empty() { "u" } else { user };
        machine.text(r#"{"type":"auth","token":"t"}"#, now(), &mut out);
        let claims = claims(user, "[]", "[]", now().unix_seconds() + 60);
        machine.verified(Ok(claims), std::time::Duration::ZERO, now(), &mut out);
        machine.slots(Ok(()), now(), &mut out);
        machine.subscribed(0, now(), &mut out);
    }
    if machine.is_live() {
        let subscribe = serde_json::json!({ "type": "subscribe", "c": chosen }).to_string();
        machine.text(&subscribe, now(), &mut out);
    }
    for action in out {
        let Action::Subscribe(subscribe) = action else { continue };
        check_channel(&subscribe.channel).unwrap();
        let kind = kind(&subscribe.channel);
        assert!(
            matches!(ChannelKind::of(&subscribe.channel), ChannelKind::Public | ChannelKind::Private),
            "{} as {}",
            route.channel.source(),
            subscribe.channel
        );
        // A list is the file's own word, as far as it says the value; whatever else is filled in must not matter.
        let kinds = match route.subscribe_values.first() {
            None => vec![self::kind(&neutral(route, "0"))],
            Some((_, choices)) => {
                let fitting = choices.iter().filter(|choice| choice.fits(chosen));
                let shortest = |choice: &Choice| choice.to_string().replace('*', "0");
                fitting.map(|choice| self::kind(&neutral(route, &shortest(choice)))).collect()
            }
        };
        assert!(kinds.contains(&kind), "{} as {}", route.channel.source(), subscribe.channel);
    }
}

/// The route's channel with values that mean nothing, but for the one of the field.
fn neutral(route: &Route, chosen: &str) -> String {
    let filled = route.channel.fill(|var| {
        Some(Cow::Borrowed(match var {
            Var::Subscribe(_) => chosen,
            _ => "0",
        }))
    });
    filled.unwrap()
}

/// Pusher's prefixes, the longest that fits.
fn kind(channel: &str) -> &'static str {
    let kinds = [
        "private-encrypted-cache-",
        "private-encrypted-",
        "private-cache-",
        "private-",
        "presence-cache-",
        "presence-",
        "cache-",
    ];
    kinds.into_iter().find(|kind| channel.starts_with(kind)).unwrap_or("")
}
