//! Every key of the file with its extremes: a walk over the JSON Schema puts each value where each key is. What the
//! loader takes must then work: it is described without secrets, and what the program computes from it holds.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use pusher_bridge::auth::settings::KeySource;
use pusher_bridge::clock::Now;
use pusher_bridge::config::{Config, Source, describe, load};
use pusher_bridge::limits::address::AddressGate;
use pusher_bridge::limits::rate::Rate;
use pusher_bridge::limits::rate::RateGate;
use pusher_bridge::pusher::channel::check_channel;
use pusher_bridge::routes::route::PublishAction;

use crate::keys::{Place, make_way, places, put};

/// A part of every kind, so that each key has a place.
const BASE: &str = r#"
[server]
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
workers = 1

[upstream]
app_id = "1"
key = "k"
secret = "upstream"
host = "127.0.0.1"
port = 1
tls = false

[auth]
leeway = "10s"

[[auth.keys]]
algorithms = ["HS256"]
secret = "0123456789abcdef0123456789abcdef"

[endpoints.notify]
path = "/notify"
token = "0123456789abcdef"

[dialects.d.in]
auth = { type = "auth" }
subscribe = { type = "subscribe" }

[dialects.d.out]
event = '{"type":{event},"data":{data}}'
error = '{"type":"error","error_code":{code}}'
auth_ok = '{"ok":{user}}'
auth_error = '{"no":{code}}'
ping = '{"ping":{now}}'

[defaults]
dialect = "d"

[groups.g]
dialect = "d"

[[routes]]
name = "a"
path = "/a/{id}"
group = "g"
channel = "a-{id}"

[routes.auth]
required = true

[[routes.publish]]
types = ["t"]

[[routes]]
name = "b"
path = "/b/{id}"
channel = "b-{id}"

[[routes.publish]]
types = ["t"]
post = "http://127.0.0.1:1/{id}"
body = "{frame}"
"#;

/// Each by itself, and in a list.
fn extremes() -> Vec<toml::Value> {
    let integers = [i64::MIN, -1, 0, 1, 2, 31, 63, 128, 65_535, 65_536, 1 << 31, 1 << 40, i64::MAX];
    let strings = [
        "",
        " ",
        "\t",
        "\u{0}",
        "\u{7f}",
        "é",
        "\u{202e}",
        "*",
        "-",
        ".",
        "..",
        "/",
        "//",
        "/.",
        "/a<b>",
        "/a/{x}",
        "{",
        "}",
        "{x}",
        "{id}",
        "{id}-{id}",
        "{type}",
        "{auth.user}",
        "{data}",
        "${",
        "$${x}",
        "null",
        "true",
        "unlimited",
        "0",
        "-1",
        "9223372036854775807",
        "18446744073709551615",
        "0s",
        "1ms",
        "1s",
        "5m",
        "366d",
        "367d",
        "1000000h",
        "-1s",
        "18446744073709551615ms",
        "18446744073709551615d",
        "1969-12-31T23:59:59Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "-009999-01-02T01:59:59Z",
        "a:b:c",
        "[::",
        "[::]",
        "::",
        "::1",
        "[::1]:99999",
        "0.0.0.0:99999",
        "127.0.0.1:0",
        "1.2.3",
        "256.1.1.1",
        "a..b",
        "-a",
        "::ffff:0:0/104",
        "::ffff:0:0/95",
        "::/0",
        "0.0.0.0/0",
        "::/129",
        "https://*",
        "https://*.",
        "https://*.example.org",
        "https://a:99999",
        "https://a:443",
        "https://a:b:c",
        "https://[::",
        "https://",
        "file://",
        "http://a/b<c>",
        "http://a:99999/",
        "http://127.0.0.1:1/%",
        "http://127.0.0.1:1/#x",
        "http://127.0.0.1:1/{id}/../{type}",
        "http://127.0.0.1:1/a%2F{type}",
        "http://127.0.0.1:1/?k=s3cretA&t={type}",
        "http://u:s3cretB@127.0.0.1:1/",
        "https://u:s3cretC@a.example/jwks",
        "https://a.example/jwks?s3cretD",
        "query:",
        "query:t",
        "subprotocol:",
        "header",
        "client-{type}",
        "pusher:x",
        "private-{id}",
        "presence-x",
        "private-encrypted-x",
        "HS256",
        "none",
        "s3cretE",
        "[a-z]+",
        "[a-z]*",
        "-----BEGIN s3cretF",
    ];
    let mut all: Vec<toml::Value> = integers.into_iter().map(toml::Value::Integer).collect();
    all.extend(strings.into_iter().map(|text| toml::Value::String(text.to_owned())));
    all.push(toml::Value::String("x".repeat(200)));
    all.push(toml::Value::String("x".repeat(5_000)));
    let lists: Vec<toml::Value> = all.iter().map(|value| toml::Value::Array(vec![value.clone()])).collect();
    all.extend(lists);
    all.push(toml::Value::Array(Vec::new()));
    all.push(toml::Value::Table(toml::Table::new()));
    all.push(toml::Value::Boolean(true));
    all.push(toml::Value::Boolean(false));
    all.push(toml::Value::Float(f64::NAN));
    for (count, per, burst) in [
        (1, "366d", 1_000_000_000),
        (1_000_000_000, "1ms", 1),
        (1_000_000_000, "366d", 1_000_000_000),
        (1, "1ms", 1),
    ] {
        let table = format!("count = {count}\nper = \"{per}\"\nburst = {burst}");
        all.push(toml::Value::Table(toml::from_str(&table).unwrap()));
    }
    for key in ["{id}", "{auth.user}", "{id}{auth.user}", "x"] {
        all.push(toml::Value::Table(toml::from_str(&format!("key = \"{key}\"\nmax = 1000000")).unwrap()));
    }
    all
}

/// What must not be shown of a value that stands there.
fn hides(place: &Place) -> &'static [&'static str] {
    let name = place.last().map_or("", String::as_str);
    let token = place.first().is_some_and(|table| table == "endpoints") && name == "token";
    if token
        || ["secret", "pem", "jwks", "encryption_master_key"].contains(&name)
        || place.iter().any(|name| name == "headers")
    {
        return &["s3cret"];
    }
    // Of a URL: its credentials, and the values of its query.
    if ["jwks_url", "post", "host"].contains(&name) {
        return &["s3cretA", "s3cretB", "s3cretC", "s3cretD"];
    }
    &[]
}

/// All extremes at one place: how many were taken, and what was wrong.
fn tried(base: &toml::Value, extremes: &[toml::Value], place: &Place) -> (usize, Vec<String>) {
    let (mut taken, mut wrong) = (0, Vec::new());
    // No value of another shape than the key's gets further than that.
    let takes = |shape: &toml::Value| {
        let mut file = base.clone();
        make_way(&mut file, place);
        put(&mut file, place, shape);
        let source = Source { name: "routes.toml".into(), text: toml::to_string(&file).unwrap() };
        let refused = load(&source, &|_| None).err().unwrap_or_default();
        !refused.iter().any(|error| error.message.contains("invalid type"))
    };
    let lists = takes(&toml::Value::Array(Vec::new()));
    let plain = takes(&"x".into());
    for value in extremes {
        let skipped = if value.is_array() { !lists } else { value.is_str() && !plain };
        if skipped && extremes.iter().position(|v| v == value).is_some_and(|at| at % 16 != 0) {
            continue;
        }
        let mut file = base.clone();
        make_way(&mut file, place);
        put(&mut file, place, value);
        let Ok(text) = toml::to_string(&file) else { continue };
        let source = Source { name: "routes.toml".into(), text };
        let what = || format!("{} = {:.80}", place.join("."), value.to_string());
        match load(&source, &|_| None) {
            Err(errors) => {
                let shown: String = errors.iter().map(ToString::to_string).collect();
                let printable = !shown.is_empty() && shown.chars().all(|c| c == '\n' || !c.is_control());
                if !printable || hides(place).iter().any(|secret| shown.contains(secret)) {
                    wrong.push(format!("{}: {shown}", what()));
                }
            }
            Ok(loaded) => {
                taken += 1;
                let tried = std::panic::catch_unwind(|| works(&loaded.config, &what(), hides(place)));
                if let Err(panic) = tried {
                    let message = panic.downcast_ref::<String>().cloned();
                    wrong.push(message.unwrap_or_else(what));
                }
            }
        }
    }
    (taken, wrong)
}

#[test]
fn every_key_with_its_extremes_is_refused_or_works() {
    let base: toml::Value = toml::Value::Table(toml::from_str(BASE).unwrap());
    let (places, extremes) = (places(), extremes());
    assert!(places.len() > 150, "{}", places.len());
    // The longest test of this program: on all cores.
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let shares = (0..threads).map(|first| places.iter().skip(first).step_by(threads).collect::<Vec<_>>());
    let tried: Vec<(usize, Vec<String>)> = std::thread::scope(|scope| {
        let tried = |share: Vec<&Place>| {
            share.into_iter().map(|place| tried(&base, &extremes, place)).collect::<Vec<_>>()
        };
        let running: Vec<_> = shares.map(|share| scope.spawn(move || tried(share))).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let taken: usize = tried.iter().map(|(taken, _)| taken).sum();
    let wrong: Vec<String> = tried.into_iter().flat_map(|(_, wrong)| wrong).collect();
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
    assert!(taken > 1000, "only {taken} were taken");
}

/// Keys whose values are URLs or parts of one, or often are.
const URLS: [&str; 12] = [
    "post",
    "jwks_url",
    "documentation",
    "sunset_policy",
    "successor",
    "origin",
    "origins",
    "issuer",
    "audience",
    "host",
    "ws_host",
    "api_host",
];

/// Values that hide something: as credentials, in a query, behind a `#`, and from the environment.
fn hiding() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<(&str, &str)> = [
        "https://u:s3cret@h",
        "https://u:1/s3cret@h/x",
        "http:/u:s3cret@h/",
        "https//u:s3cret@h",
        "htps://u:s3cret@h/{x}",
        "https:u:s3cret@h",
        "u:s3cret@h:1",
        "/u:s3cret@h{",
        "s3cret@h",
        "u:s3`cret s3cret@h",
        "https://h?x=s3cret",
        "https://h/?s3cret&x={y",
        "h/j?token=s3cret",
        "h/j&token=s3cret",
        "https://h/#s3cret",
        "h#x=s3cret",
    ]
    .map(|text| (text, ""))
    .to_vec();
    all.extend([
        ("${S}", "s3cret"),
        ("${S}", "s3cret{x}"),
        ("{s3${S}}", "s3cret"),
        ("${S}", "u:s3cret@h?s3cret#x"),
    ]);
    all.extend([
        ("a ${S}", "`s3cret"),
        ("${S}", "s3cret:\"s3cret"),
        ("${S}", "{s3cret}/{s3cret}"),
        ("1${S}", "s3cret"),
    ]);
    all
}

#[test]
fn no_key_shows_what_a_url_or_a_variable_hides() {
    let base: toml::Value = toml::Value::Table(toml::from_str(BASE).unwrap());
    let mut places = places();
    let more =
        ["routes.1.publish.0.header.authorization", "routes.0.u:s3cret@h", "upstream.sekret", "u:s3cret@h"];
    places.extend(more.map(|place| place.split('.').map(str::to_owned).collect()));
    let (mut refused, mut wrong) = (0, Vec::new());
    for place in &places {
        for (text, variable) in hiding() {
            for list in [false, true] {
                let value: toml::Value = if list { vec![text].into() } else { text.into() };
                let mut file = base.clone();
                make_way(&mut file, place);
                put(&mut file, place, &value);
                let Ok(file) = toml::to_string(&file) else { continue };
                let source = Source { name: "routes.toml".into(), text: file };
                let what = format!("{} = {value}, {variable}", place.join("."));
                match load(&source, &|name| (name == "S").then(|| variable.to_owned())) {
                    Ok(loaded) => {
                        let table = describe(&loaded.config);
                        // What is no URL's is shown where it is right: a channel's name, a type, a path.
                        let url = URLS.contains(&place.last().map_or("", String::as_str))
                            && text.contains("://")
                            && !text.contains("1/s3cret");
                        let url = url || hides(place).contains(&"s3cret");
                        if url && table.contains("s3cret") {
                            wrong.push(format!("{what}: {table}"));
                        }
                    }
                    Err(errors) => {
                        refused += 1;
                        let shown: String = errors.iter().map(ToString::to_string).collect();
                        if shown.contains("s3cret") {
                            wrong.push(format!("{what}: {shown}"));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused > 3000, "only {refused} were refused");
}

fn works(config: &Config, what: &str, hidden: &[&str]) {
    let table = describe(config);
    assert!(table.lines().all(|line| line.chars().count() <= 110), "{what}");
    assert!(table.chars().all(|c| c == '\n' || !c.is_control()), "{what}");
    let shown = format!("{table}{config:?}");
    assert!(!hidden.iter().any(|secret| shown.contains(secret)), "{what}: {shown}");

    let server = &config.server;
    let (now, here) = (Now::read(), IpAddr::from([192, 0, 2, 1]));
    for net in &server.trusted_proxies {
        assert!(net.contains(&net.network().to_canonical()), "{what}: {net} trusts nobody");
    }
    assert!(server.close_window < server.grace, "{what}");
    for (scheme, place) in [("ws", &config.upstream.app.ws), ("http", &config.upstream.app.api)] {
        let uri: hyper::Uri = format!("{}/app/x", place.base(scheme, scheme)).parse().expect(what);
        assert_eq!(
            uri.host().map(|h| h.trim_matches(['[', ']'])),
            Some(place.host.trim_matches(['[', ']'])),
            "{what}"
        );
    }
    if let Some(auth) = &config.auth {
        assert!(auth.leeway <= Duration::from_secs(600), "{what}");
        let gate = AddressGate::new(auth.failures_per_address, server.ipv6_prefix, now.mono);
        let _ = gate.record_failure(here, now.mono);
        for key in &auth.keys {
            if let KeySource::JwksUrl { url, refresh, refresh_min, .. } = &key.source {
                let uri: hyper::Uri = url.parse().expect(what);
                assert!(uri.host().is_some() && refresh_min <= refresh, "{what}");
            }
        }
    }
    for route in &config.routes {
        let limits = &route.limits;
        for rate in [limits.messages, limits.auth_attempts, Some(limits.control_frames)].into_iter().flatten()
        {
            keeps(rate, now, what);
        }
        assert!(limits.exclusive.is_none() || route.auth.is_some(), "{what}: printed and not enforced");
        assert!(route.heartbeat.every < route.heartbeat.timeout, "{what}");
        for (name, value) in route.deprecation.iter().flat_map(|policy| policy.headers()) {
            assert!(hyper::header::HeaderValue::from_str(&value).is_ok(), "{what}: {name}: {value}");
        }
        for origin in route.origins.iter().flat_map(|origins| origins.list()) {
            let sent = origin.replace("*.", "a.");
            let allowed = route.origins.as_ref().is_some_and(|origins| origins.allow(&sent));
            assert!(allowed && !sent.contains('*'), "{what}: {origin} allows nobody");
        }
        let filled = route.channel.fill(|_| Some(Cow::Borrowed("x"))).expect(what);
        assert!(check_channel(&filled).is_ok() || filled.len() > 150, "{what}: {filled}");
        for rule in &route.publish {
            if let PublishAction::Post { url, headers, .. } = &rule.action {
                let url = url.fill_url(|_| Some(Cow::Borrowed("x"))).expect(what);
                let uri: hyper::Uri = url.parse().expect(what);
                assert!(uri.host().is_some(), "{what}");
                for (name, value) in headers {
                    use secrecy::ExposeSecret as _;
                    assert!(hyper::header::HeaderName::from_bytes(name.as_bytes()).is_ok(), "{what}");
                    assert!(hyper::header::HeaderValue::from_str(value.expose_secret()).is_ok(), "{what}");
                }
            }
        }
    }
}

/// A full bucket gives what it says, and is then empty.
fn keeps(rate: Rate, now: Now, what: &str) {
    let mut gate = RateGate::new(rate);
    let tried = rate.burst.min(20);
    assert!((0..tried).all(|_| gate.check(now.mono).is_ok()), "{what}: {rate:?}");
    if tried == rate.burst {
        assert!(gate.check(now.mono).is_err(), "{what}: {rate:?}");
    }
    let refill = rate.per / rate.count;
    assert!(gate.check(now.mono + refill + Duration::from_nanos(1)).is_ok(), "{what}: {rate:?}");
}
