//! Routes files: any text is either refused with places that exist, or gives a configuration that can serve.

use std::sync::{Arc, LazyLock};

use hyper::header::HeaderValue;
use pusher_bridge::auth::Verifier;
use pusher_bridge::auth::metrics::Metrics;
use pusher_bridge::config::{self, Config, Diagnostic, Source, describe};
use pusher_bridge::legacy::dialect::EventData;
use pusher_bridge::legacy::error::ErrorCode;
use pusher_bridge::metrics::Registry;
use pusher_bridge::session::machine::{Action, Machine};
use pusher_bridge::{http, tls};

use super::fixture::{claims, find, now, opening};
use super::input::Input;
use super::json::assert_json;

static CLIENT: LazyLock<Arc<http::Client>> =
    LazyLock::new(|| Arc::new(http::Client::new(&tls::client_config(None).unwrap())));

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::new(&Registry::new().unwrap()));

/// The file's text, and behind a zero byte what the environment's variables hold.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (text, value) = (input.text(), input.text());
    let environment = |name: &str| (!name.starts_with('N')).then(|| value.to_owned());
    // In a folder that does not exist, so that relative names of files lead nowhere.
    let source = Source { name: "nowhere/routes.toml".into(), text: text.to_owned() };
    match config::load(&source, &environment) {
        Err(errors) => {
            assert!(!errors.is_empty());
            errors.iter().for_each(|error| shown(error, text));
        }
        Ok(loaded) => {
            let lines = text.lines().count();
            assert!(loaded.missing.iter().all(|missing| (1..=lines).contains(&missing.line)));
            let complete = loaded.missing.is_empty();
            serves(&loaded.config, complete);
            let again = config::load(&source, &environment).expect("it loaded before");
            assert_eq!(describe(&again.config), describe(&loaded.config));
        }
    }
}

fn shown(error: &Diagnostic, text: &str) {
    assert!(!error.message.is_empty() && error.column >= 1 && error.width >= 1);
    assert!(error.line >= 1 && error.line <= text.split('\n').count());
    // At most behind the line's end, which may be of two characters.
    assert!(error.column <= error.text.chars().count() + 2, "{error:?}");
    for_a_terminal(&error.to_string());
}

fn for_a_terminal(text: &str) {
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
}

fn serves(config: &Config, complete: bool) {
    for_a_terminal(&describe(config));
    if let (Some(auth), true) = (&config.auth, complete) {
        Verifier::new(auth, &CLIENT, &METRICS).expect("the keys of a file that loads can be used");
    }
    for route in &config.routes {
        for (_, value) in route.deprecation.iter().flat_map(|policy| policy.headers()) {
            HeaderValue::from_str(&value).expect("deprecation headers can be sent");
        }
        assert!(!config.routes.iter().any(|r| r.name != route.name && r.path.overlaps(&route.path)));
        let frames = [
            route.dialect.render_error(ErrorCode::Gap, "\"\u{7f}", "{}", now()),
            route.dialect.render_auth_error(ErrorCode::InvalidToken, "\\", "{}", now()),
            route.dialect.out.event.render(
                &EventData { event: "\u{0}", channel: "c", json: "[1.50]", sender: None, by_client: false },
                now(),
            ),
        ];
        frames.iter().for_each(|frame| assert_json(frame));
        converses(config, &route.path.source().replace(['{', '}'], ""));
    }
}

/// A client does a little of everything, on a path that the route was made for.
fn converses(config: &Config, path: &str) {
    let Some((route, values)) = find(config, path) else { return };
    let (now, mut out) = (now(), Vec::new());
    let mut machine = Machine::open(opening(route, values), now, &mut out);
    if let (Some(auth), Some(said)) = (&route.auth, &route.dialect.auth) {
        let auth_message =
            serde_json::json!({ &route.dialect.type_field: said.message_type, &said.token: "t" });
        machine.text(&auth_message.to_string(), now, &mut out);
        let permissions = serde_json::to_string(&auth.permissions).unwrap();
        let claims = claims("u", &permissions, "[]", now.unix_seconds() + 60);
        machine.verified(Ok(claims), std::time::Duration::ZERO, now, &mut out);
        machine.slots(Ok(()), now, &mut out);
        machine.subscribed(0, now, &mut out);
    }
    for named in
        [&route.dialect.subscribe, &route.dialect.unsubscribe, &route.dialect.ping, &Some("x".into())]
    {
        let Some(named) = named else { continue };
        let fields =
            route.subscribe_values.iter().map(|(field, values)| (field.clone(), values[0].begin().into()));
        let mut message: serde_json::Map<String, serde_json::Value> = fields.collect();
        message.insert("data".into(), 1.into());
        message.insert(route.dialect.type_field.clone(), named.as_str().into());
        machine.text(&serde_json::Value::from(message).to_string(), now, &mut out);
    }
    machine.gap(std::time::Duration::ZERO, now, &mut out);
    for _ in 0..10 {
        let Some(at) = machine.deadline() else { break };
        let later = now.plus(at.saturating_duration_since(now.mono));
        machine.timer(later, &mut out);
        assert!(machine.deadline().is_none_or(|next| next > later.mono), "a timer that fires for ever");
    }
    for action in out {
        if let Action::Send(text) | Action::Error(_, text) = action {
            assert_json(&text);
        }
    }
}
