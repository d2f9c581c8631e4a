//! The corpus of `tests/routes`: what loads, what does not and where the caret stands, and that the JSON
//! Schema says the same of every file, but for those that say that it cannot.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use pusher_bridge::auth::settings::KeySource;
use pusher_bridge::config::{Diagnostic, Loaded, Source, describe, json_schema, load};
use secrecy::ExposeSecret as _;
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn corpus(kind: &str) -> Vec<Source> {
    let folder = root().join("tests/routes").join(kind);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Source {
    Source { name: path.to_str().unwrap().to_owned(), text: fs::read_to_string(path).unwrap() }
}

fn no_environment(_: &str) -> Option<String> {
    None
}

fn load_without_environment(source: &Source) -> Result<Loaded, Vec<Diagnostic>> {
    load(source, &no_environment)
}

fn shown(errors: &[Diagnostic]) -> String {
    errors.iter().map(ToString::to_string).collect()
}

fn valid() -> Vec<Source> {
    let mut sources = corpus("valid");
    sources.push(read(&root().join("routes.toml")));
    assert!(sources.len() >= 13, "{}", sources.len());
    sources
}

/// What an invalid file says of itself in its first lines.
struct Expected {
    error: String,
    at: String,
    schema_rejects: bool,
}

fn invalid() -> Vec<(Source, Expected)> {
    let sources = corpus("invalid");
    assert!(sources.len() >= 45, "{}", sources.len());
    let expected = |source: &Source| {
        let mut lines = source.text.lines();
        let mut line = |key: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(key));
            line.unwrap_or_else(|| panic!("{} must say `{key}`", source.name)).to_owned()
        };
        let (error, at, schema) = (line("# error: "), line("# at: "), line("# schema: "));
        assert!(matches!(schema.as_str(), "rejects" | "cannot see"), "{}: {schema}", source.name);
        Expected { error, at, schema_rejects: schema == "rejects" }
    };
    sources.into_iter().map(|source| (expected(&source), source)).map(|(e, s)| (s, e)).collect()
}

#[test]
fn valid_files_load_and_can_be_described() {
    for source in valid() {
        let loaded = load_without_environment(&source)
            .unwrap_or_else(|errors| panic!("{}\n{}", source.name, shown(&errors)));
        let table = describe(&loaded.config);
        for route in &loaded.config.routes {
            assert!(table.contains(route.name.as_ref()), "{}", source.name);
        }
        let too_long: Vec<&str> = table.lines().filter(|line| line.chars().count() > 110).collect();
        assert!(too_long.is_empty(), "{}: {too_long:#?}", source.name);
    }
}

#[test]
fn invalid_files_say_what_is_wrong_and_where() {
    let mut wrong = Vec::new();
    for (source, expected) in invalid() {
        match load_without_environment(&source) {
            Ok(_) => wrong.push(format!("{} loads", source.name)),
            Err(errors) => {
                let at: Vec<String> = errors.iter().map(|e| format!("{}:{}", e.line, e.column)).collect();
                if errors.len() != 1 || at[0] != expected.at || !errors[0].message.contains(&expected.error) {
                    let Expected { error, at, .. } = expected;
                    wrong.push(format!("{}\nexpected {at} {error}\n{}", source.name, shown(&errors)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

// ---------------------------------------------------------------------------------------------- schema

fn validator() -> jsonschema::Validator {
    jsonschema::draft7::new(&json_schema()).expect("the schema is draft-07")
}

fn as_json(source: &Source) -> Value {
    fn convert(value: toml::Value) -> Value {
        match value {
            toml::Value::String(text) => text.into(),
            toml::Value::Integer(number) => number.into(),
            toml::Value::Float(number) => number.into(),
            toml::Value::Boolean(flag) => flag.into(),
            // As every editor's TOML plug-in does.
            toml::Value::Datetime(date) => date.to_string().into(),
            toml::Value::Array(list) => list.into_iter().map(convert).collect(),
            toml::Value::Table(table) => {
                table.into_iter().map(|(key, value)| (key, convert(value))).collect()
            }
        }
    }
    convert(toml::Value::Table(toml::from_str(&source.text).unwrap()))
}

#[test]
fn the_schema_agrees_with_the_loader() {
    let validator = validator();
    let mut wrong = Vec::new();
    for source in valid() {
        for error in validator.iter_errors(&as_json(&source)) {
            wrong.push(format!("{} is rejected: {} at {}", source.name, error, error.instance_path()));
        }
    }
    for (source, expected) in invalid() {
        if validator.is_valid(&as_json(&source)) == expected.schema_rejects {
            let verb = if expected.schema_rejects { "accepted" } else { "rejected" };
            wrong.push(format!("{} is {verb}: {}", source.name, expected.error));
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_schema_explains_every_key() {
    fn walk(value: &Value, path: &str, bare: &mut Vec<String>) {
        let Value::Object(map) = value else { return };
        for (name, property) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let here = format!("{path}.{name}");
            let explained = property.get("description").is_some() || property.get("$ref").is_some();
            if !explained && !path.contains("error_codes") && !path.contains("then") && !path.contains("else")
            {
                bare.push(here.clone());
            }
            walk(property, &here, bare);
        }
        for (name, definition) in map.get("definitions").and_then(Value::as_object).into_iter().flatten() {
            walk(definition, name, bare);
        }
    }
    let mut bare = Vec::new();
    walk(&json_schema(), "", &mut bare);
    assert!(bare.is_empty(), "{bare:#?}");
}

// -------------------------------------------------------------------------------------------- meanings

fn shipped() -> Source {
    read(&root().join("routes.toml"))
}

fn credentials(name: &str) -> Option<String> {
    let value = match name {
        "PUSHER_APP_ID" => "app-1",
        "PUSHER_KEY" => "key-1",
        "PUSHER_SECRET" => "pusher-s3cret",
        "JWT_SECRET" => "jwt-s3cret",
        "PUSHER_HOST" => "127.0.0.1",
        "PUSHER_PORT" => "6001",
        "PUSHER_TLS" => "false",
        _ => return None,
    };
    Some(value.to_owned())
}

#[test]
fn the_shipped_file_names_what_is_missing_and_takes_it_from_the_environment() {
    let loaded = load_without_environment(&shipped()).unwrap();
    let missing: Vec<_> = loaded.missing.iter().map(|m| (m.name.as_str(), m.key.as_str())).collect();
    assert_eq!(
        missing,
        [
            ("PUSHER_APP_ID", "upstream.app_id"),
            ("PUSHER_KEY", "upstream.key"),
            ("PUSHER_SECRET", "upstream.secret"),
            ("JWT_SECRET", "auth.keys[0].secret"),
        ]
    );
    let app = loaded.config.upstream.app;
    assert_eq!(app.ws.base("ws", "wss"), "wss://ws-mt1.pusher.com");
    assert_eq!(app.api.base("http", "https"), "https://api-mt1.pusher.com");

    assert_eq!(load_without_environment(&shipped()).unwrap().complete().unwrap_err().len(), 4);

    let app = load(&shipped(), &credentials).unwrap().complete().unwrap().upstream.app;
    assert_eq!((app.id.as_str(), app.key.as_str()), ("app-1", "key-1"));
    assert_eq!(app.ws.base("ws", "wss"), "ws://127.0.0.1:6001");
    assert_eq!(app.api.base("http", "https"), "http://127.0.0.1:6001");
}

#[test]
fn neither_the_table_nor_debug_shows_a_secret() {
    let loaded = load(&shipped(), &credentials).unwrap();
    let shown = format!("{}{:?}", describe(&loaded.config), loaded.config);
    assert!(shown.contains("content-generation-{session_id}"));
    assert!(!shown.contains("s3cret"), "{shown}");
}

/// Neither does an error, whose line may have one.
#[test]
fn no_error_shows_a_secret() {
    let env = |name: &str| Some(if name == "TOKEN" { "s3cret \n" } else { "s3cret\n" }.to_owned());
    let body = "body = '{\"input\":{data}}'\n";
    let headers = "headers = { authorization = \"Bearer s3cret \", x-token = \"${TOKEN}\" }\n";
    let text = shipped().text.replace("\"${JWT_SECRET}\"", "\"s3cret\\t\"");
    let text = text.replacen(body, &format!("{body}{headers}"), 1);
    let errors = load(&Source { name: "routes.toml".into(), text: text.clone() }, &env).unwrap_err();
    let shown = shown(&errors);
    let white_space = errors.iter().filter(|error| error.message.contains("white space")).count();
    assert!(white_space >= 3, "the file's, a variable's and a header's: {shown}");
    assert!(!shown.contains("s3cret"), "{shown}");
    // Before anything means something, too.
    let slip = text
        .replace("algorithms = [\"HS256\"]", "algorithm = 1")
        .replace("secret = \"s3", "sekret = 1\nsecret = \"s3");
    let inline =
        "[[auth.keys]]\nalgorithms = [\"HS256\"]\n[auth.extra]\nx = { secret = \"s3cret\", y = 1 }\n";
    for text in [slip, format!("{inline}{}", shipped().text)] {
        let errors = load(&Source { name: "routes.toml".into(), text }, &env).unwrap_err();
        assert!(!self::shown(&errors).contains("s3cret"), "{}", self::shown(&errors));
    }
}

#[test]
fn keys_have_the_issuers_of_their_own_or_those_of_all() {
    let source = read(&root().join("tests/routes/valid/claims.toml"));
    let config = load_without_environment(&source).unwrap().config;
    let keys = &config.auth.as_ref().unwrap().keys;
    let issuers = |at: usize| keys[at].issuers.iter().map(AsRef::as_ref).collect::<Vec<&str>>();
    assert_eq!(issuers(0), ["https://a.example.com"]);
    assert_eq!(keys[0].audiences, ["app", "legacy"]);
    assert_eq!(issuers(1), ["https://a.example.com", "https://b.example.com"]);
    assert!(keys[1].audiences.is_empty());
    let times = |at: usize| {
        let KeySource::JwksUrl { refresh, refresh_min, max_age, .. } = keys[at].source else { panic!() };
        [refresh, refresh_min, max_age].map(|time| time.as_secs())
    };
    assert_eq!(times(0), [45 * 60, 10, 90 * 60], "asked for anew before they are given up");
    assert_eq!(times(1), [2 * 86_400, 10, 4 * 86_400]);
    let KeySource::Secret(secret) = &keys[2].source else { panic!() };
    assert_eq!(secret.expose_secret(), "a secret with lines around it");
    let table = describe(&config);
    for told in ["believed for 90m; of issuer https://a.example.com", "app or legacy"] {
        assert!(table.split_whitespace().collect::<Vec<_>>().join(" ").contains(told), "{told}: {table}");
    }
}

#[test]
fn the_shipped_routes_mean_what_their_comments_say() {
    let config = load_without_environment(&shipped()).unwrap().config;
    let route = |name: &str| config.routes.iter().find(|route| &*route.name == name).unwrap();
    let content = route("content");
    assert_eq!(content.auth.as_ref().unwrap().permissions, ["content:generate"]);
    assert_eq!(content.limits.exclusive.as_ref().unwrap().key.source(), "{session_id}");
    assert_eq!(content.limits.connections_per_user.unwrap().max, 10, "from the group");
    assert_eq!(&*content.limits.scope, "typed-api");
    let policy = content.deprecation.as_ref().unwrap();
    assert_eq!(policy.sunset_at, Some(1_751_327_999), "from the group");
    assert!(policy.successor.is_some(), "the route's own");
    assert!(route("agent").deprecation.as_ref().unwrap().successor.is_none());
    assert!(route("roblox").filter_is_chosen() && !route("agent").filter_is_chosen());
    let native = route("native");
    assert!(native.echo && native.auth.is_none() && native.limits.messages.is_none());
    assert_eq!(native.limits.message_bytes_max, 16 << 20);
    let channels = route("channels");
    assert!(channels.channel_is_chosen() && channels.deprecation.is_none());
    assert_eq!(channels.subscribe_values[0].1.len(), 6);
    assert_eq!(&*channels.limits.scope, "channels");
}

#[test]
fn routes_win_over_groups_and_groups_over_defaults_but_a_rate_is_one_value() {
    let source = read(&root().join("tests/routes/valid/merging.toml"));
    let config = load_without_environment(&source).unwrap().config;
    let (a, b) = (&config.routes[0], &config.routes[1]);
    let rate = a.limits.messages.unwrap();
    assert_eq!((rate.count, rate.burst), (2, 2), "no burst from [defaults] under the group's count");
    assert_eq!((a.limits.depth_max, a.limits.message_bytes_max), (20, 1000));
    assert_eq!(a.auth.as_ref().unwrap().deadline, std::time::Duration::from_secs(5));
    assert_eq!(a.auth.as_ref().unwrap().permissions, ["p"]);
    assert_eq!(b.limits.depth_max, 10);
    assert!(b.limits.messages.is_none() && b.auth.is_none());
    assert_eq!(b.origins.as_ref().unwrap().list().len(), 2);
}

/// The least of a file, with more before its routes and with these.
fn file(before: &str, routes: &str) -> Source {
    let text = format!(
        "[upstream]\napp_id = \"1\"\nkey = \"k\"\nsecret = \"s\"\ncluster = \"eu\"\n\
         [dialects.d.out]\nevent = \"{{data}}\"\nerror = \"{{code}}\"\n{before}\n{routes}"
    );
    Source { name: "routes.toml".into(), text }
}

fn route(name: &str, more: &str) -> String {
    format!(
        "[[routes]]\nname = \"{name}\"\npath = \"/{name}\"\nchannel = \"{name}\"\ndialect = \"d\"\n{more}\n"
    )
}

#[test]
fn a_group_and_a_route_of_one_name_count_apart() {
    let routes = [route("x", ""), route("a", "group = \"x\""), route("b", "group = \"x\"")].concat();
    let config = load_without_environment(&file("[groups.x.limits]\nconnections_per_address = 1", &routes));
    let config = config.unwrap_or_else(|errors| panic!("{}", shown(&errors))).config;
    let [x, a, b] = config.routes.as_slice() else { panic!() };
    assert_eq!(a.limits.scope, b.limits.scope);
    assert_ne!(x.limits.scope, a.limits.scope);
    assert_eq!(&*x.limits.scope, &*a.limits.scope, "by their names they are one");
    assert!(describe(&config).contains("counted over the group x"));
}

/// As `"${MAX:-}"` is without the variable.
#[test]
fn an_empty_number_is_none() {
    let more = "[routes.auth]\nrequired = true\n[routes.limits]\nconnections_per_user = \"\"\n\
                connections_per_address = \"\"\ndepth = \"\"\n[[routes.publish]]\ntypes = [\"t\"]\n\
                post = \"http://127.0.0.1:1/\"\nbody = \"{data}\"\nretry_on = [\"\", 503]";
    let key = "[[auth.keys]]\nalgorithms = [\"HS256\"]\nsecret = \"0123456789abcdef0123456789abcdef\"";
    let dialect = "[dialects.d.in]\nauth = { type = \"auth\" }";
    let loaded = load_without_environment(&file(&format!("{key}\n{dialect}"), &route("a", more)));
    let config = loaded.unwrap_or_else(|errors| panic!("{}", shown(&errors))).config;
    let limits = &config.routes[0].limits;
    assert!(limits.connections_per_user.is_none() && limits.connections_per_address.is_none());
    assert_eq!(limits.depth_max, 64);
    assert!(describe(&config).contains("again after a status of 503,"), "{}", describe(&config));
}

#[test]
fn mapped_ranges_of_proxies_are_ipv4() {
    let proxies = |list: &str| {
        let text = format!("[server]\ntrusted_proxies = [{list}]");
        let loaded = load_without_environment(&file(&text, &route("a", "")));
        let loaded = loaded.unwrap_or_else(|errors| panic!("{}", shown(&errors)));
        loaded.config.server.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(proxies("\"::ffff:0:0/104\", \"::ffff:10.0.0.1\""), ["0.0.0.0/8", "10.0.0.1/32"]);
    assert_eq!(proxies("\"::ffff:192.0.2.0/120\""), ["192.0.2.0/24"]);
    assert_eq!(proxies("\"::/0\", \"2001:db8::/32\", \"0.0.0.0/0\""), ["::/0", "2001:db8::/32", "0.0.0.0/0"]);
}

#[test]
fn everything_wrong_is_reported_in_one_run() {
    let text = shipped().text;
    let text = text.replace("{session_id}/input", "{sesion_id}/input");
    let text = text.replace("timeout = \"75s\"", "timeout = \"0s\"").replace("agent-status", "agent/status");
    let errors = load_without_environment(&Source { name: "routes.toml".into(), text }).unwrap_err();
    let messages: Vec<&str> = errors.iter().map(|e| e.message.as_str()).collect();
    assert_eq!(messages.len(), 3, "{}", shown(&errors));
    assert!(errors.windows(2).all(|pair| pair[0].line <= pair[1].line), "{}", shown(&errors));
    let template = errors.last().unwrap();
    assert_eq!(template.help.as_deref(), Some("did you mean `{session_id}`?"));
    assert_eq!(template.width, "{sesion_id}".len());

    let slips = shipped().text.replace("listen =", "lisen =").replace("echo =", "ecco =");
    let errors = load_without_environment(&Source { name: "routes.toml".into(), text: slips }).unwrap_err();
    let helps: Vec<_> = errors.iter().filter_map(|e| e.help.as_deref()).collect();
    assert_eq!(helps, ["did you mean `listen`?", "did you mean `echo`?"]);
}

/// A route with `enabled_with` exists only when the text is not empty. When it does not, it asks for nothing.
#[test]
fn a_route_is_off_as_long_as_its_variable_has_no_value() {
    let base = read(&root().join("tests/routes/invalid/channels-shared-cured.toml")).text;
    let base = base.split("[[routes]]").next().unwrap();
    let text = format!(
        "{base}[[routes]]\nname = \"a\"\npath = \"/a\"\ndialect = \"d\"\nchannel = \"a\"\nshares = [\"b\"]\n\
         [[routes]]\nname = \"b\"\npath = \"/b\"\ndialect = \"d\"\nchannel = \"a\"\nauth.required = true\n\
         enabled_with = \"${{X:-}}${{Y:-}}\"\n[[routes.publish]]\ntypes = [\"t\"]\npost = \"${{BACKEND}}/x\"\nbody = \"{{data}}\"\n\
         [routes.limits]\ndepth = \"${{DEPTH:-}}\"\n"
    );
    let with = |text: &str, variables: &[(&str, &str)]| {
        let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        load(&Source { name: "routes.toml".into(), text: text.into() }, &value)
    };
    for empty in [&[][..], &[("X", ""), ("Y", "")]] {
        let loaded = with(&text, empty).unwrap();
        assert!(loaded.missing.is_empty(), "nobody needs what an off route would need");
        let config = &loaded.config;
        assert_eq!((config.routes.len(), config.off.len()), (1, 1));
        assert_eq!((config.off[0].name.as_str(), config.off[0].variables.join("+")), ("b", "X+Y".into()));
        let described = describe(config);
        let off = described.split("\nb\n").nth(1).unwrap();
        assert!(off.contains("off") && off.contains("none of X, Y has a value"), "{described}");
    }
    let on = with(&text, &[("Y", "secret-text"), ("BACKEND", "http://127.0.0.1:1")]).unwrap();
    assert_eq!((on.config.routes.len(), on.config.off.len()), (2, 0));
    assert!(!describe(&on.config).contains("secret-text"));
    assert_eq!(with(&text, &[("Y", "1")]).unwrap().missing[0].name, "BACKEND");
    // It is read all the same.
    let errors = with(&text.replace("depth = \"${DEPTH:-}\"", "dept = 5"), &[]).unwrap_err();
    assert!(shown(&errors).contains("did you mean `depth`?"), "{}", shown(&errors));
    // A variable that must be given is missing, not off; a text that is empty is off.
    let needed = text.replace("${X:-}${Y:-}", "${X}");
    assert_eq!(with(&needed, &[]).unwrap().missing[0].name, "X");
    let never = with(&text.replace("${X:-}${Y:-}", ""), &[]).unwrap();
    assert!(describe(&never.config).contains("its `enabled_with` is empty"));
    let all = text.replace("channel = \"a\"\nshares", "channel = \"a\"\nenabled_with = \"${X:-}\"\nshares");
    assert!(shown(&with(&all, &[]).unwrap_err()).contains("no route is on"));
}

#[test]
fn an_overlap_comes_with_the_line_that_cures_it() {
    let filtered = "channel = \"agent-status\"\nfilter = { field = \"f\", equals = \"{x}\" }";
    let other = |lines: &str| format!("auth.required = true\n{lines}");
    for (one, other, cure) in [
        (filtered, "channel = \"agent-{x}\"".to_owned(), Some(r#"`b`: exclude = { x = ["status"] }"#)),
        (
            "channel = \"agent-{x}\"",
            other("channel = \"agent-all\""),
            Some(r#"`a`: exclude = { x = ["all"] }"#),
        ),
        (
            "channel = \"agent-{x}\"\nexclude.x = [\"y\"]",
            other("channel = \"agent-z-{x}\""),
            Some(r#"`a`: exclude = { x = ["y", "z-*"] }"#),
        ),
        (
            filtered,
            other("channel = \"agent-{auth.user}\""),
            Some(r#"`b`: exclude = { "auth.user" = ["status"] }"#),
        ),
        (
            "channel = \"{subscribe.c}\"\nsubscribe.c = [\"a-x\", \"b-y\", \"a-z-*\"]",
            other("channel = \"a-{subscribe.d}\""),
            Some(r#"`b`: exclude = { "subscribe.d" = ["x", "z-*"] }"#),
        ),
        ("channel = \"a-{x}\"", other("channel = \"a-{x}\""), None),
        ("channel = \"a-{x}-b\"", other("channel = \"a-b-{x}\""), None),
    ] {
        let base = read(&root().join("tests/routes/invalid/channels-shared-cured.toml")).text;
        let base = base.split("[[routes]]").next().unwrap();
        let text = format!(
            "{base}[[routes]]\nname = \"a\"\npath = \"/a/{{x}}\"\ndialect = \"d\"\n{one}\n\
             [[routes]]\nname = \"b\"\npath = \"/b/{{x}}\"\ndialect = \"d\"\n{other}\n"
        );
        let source = |text: &str| Source { name: "routes.toml".into(), text: text.into() };
        let errors = load_without_environment(&source(&text)).unwrap_err();
        assert_eq!(errors.len(), 1, "{text}\n{}", shown(&errors));
        let help = errors[0].help.as_deref().unwrap();
        let told =
            help.strip_prefix("exclude the value in the route ").and_then(|h| h.split(", or acc").next());
        assert_eq!(told, cure, "{text}\n{help}");
        let Some((_, line)) = cure.and_then(|cure| cure.split_once(": ")) else { continue };
        let route =
            if cure.is_some_and(|cure| cure.starts_with("`a`")) { "name = \"a\"" } else { "name = \"b\"" };
        let cured = text.replace("exclude.x = [\"y\"]\n", "").replace(route, &format!("{route}\n{line}"));
        assert!(load_without_environment(&source(&cured)).is_ok(), "{cured}");
    }
}

#[test]
fn syntax_errors_have_a_place() {
    let text = "[server]\nlisten = \"127.0.0.1:1\nadmin = 1\n".to_owned();
    let errors = load_without_environment(&Source { name: "r.toml".into(), text }).unwrap_err();
    assert_eq!(errors[0].line, 2, "{}", shown(&errors));
}

// ------------------------------------------------------------------------------------------ properties

/// A file of the corpus with one stretch replaced, which reaches deeper than noise does.
fn damaged() -> impl Strategy<Value = String> {
    let texts: Vec<String> = valid().into_iter().map(|source| source.text).collect();
    let junk = prop_oneof![
        Just(String::new()),
        Just("\"".to_owned()),
        Just("{x}".to_owned()),
        Just("${".to_owned()),
        Just("= -1\n".to_owned()),
        Just("[[routes]]\n".to_owned()),
        Just("é".to_owned()),
        ".{0,8}",
    ];
    (prop::sample::select(texts), any::<prop::sample::Index>(), 0_usize..40, junk).prop_map(
        |(text, at, length, junk)| {
            let characters: Vec<char> = text.chars().collect();
            let start = at.index(characters.len());
            let end = (start + length).min(characters.len());
            let before: String = characters[..start].iter().collect();
            let behind: String = characters[end..].iter().collect();
            before + &junk + &behind
        },
    )
}

fn must_not_panic(text: String) {
    let source = Source { name: "routes.toml".into(), text };
    match load_without_environment(&source) {
        Ok(loaded) => assert!(!describe(&loaded.config).is_empty()),
        Err(errors) => {
            assert!(!errors.is_empty());
            let lines = source.text.lines().count().max(1) + 1;
            assert!(errors.iter().all(|e| e.line >= 1 && e.line <= lines && e.column >= 1));
            assert!(shown(&errors).chars().all(|c| c == '\n' || !c.is_control()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn no_text_panics(text in ".*|(\\[|\\]|=|\\.|\"|'|\n|[a-z]|#){0,60}") {
        must_not_panic(text);
    }

    #[test]
    fn no_damaged_file_panics(text in damaged()) {
        must_not_panic(text);
    }
}
