//! Old clients' frames: decoding, publishing, and rendering events back.

use pusher_bridge::json::{self, Object};
use pusher_bridge::legacy::dialect::{ClientMessage, Dialect, EventData};
use pusher_bridge::legacy::error::ErrorCode;
use pusher_bridge::pusher::channel::{DATA_BYTES_MAX, EVENT_BYTES_MAX};
use pusher_bridge::routes::path::PathValues;
use pusher_bridge::routes::publish::{self, Message, Outgoing};
use pusher_bridge::routes::route::Route;
use serde_json::Value;

use super::fixture::{config, find, now};
use super::input::Input;
use super::json::{Read, assert_json, depth, lies_in, read, value};

const PATHS: [&str; 9] = [
    "/plugin/p1",
    "/plugin/..",
    "/plugin/.",
    "/own",
    "/environment",
    "/agent/7",
    "/rooms",
    "/files",
    "/plain/x",
];

/// A byte picks the route, one the depth, and the rest is the frame.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (route, values) = find(config(), input.pick(&PATHS)).unwrap();
    let depth_max = 1 + input.below(127);
    let text = input.rest();
    looking_into_json(text);
    decoding(&route.dialect, text, depth_max);
    if let Ok(ClientMessage::Application { message_type, object }) = route.dialect.decode(text, depth_max) {
        publishing(route, &values, text, &message_type, &object);
    }
    rendering(&route.dialect, text);
}

/// `legacy::json` finds what serde_json parses, and gives the text itself.
fn looking_into_json(text: &str) {
    let oracle = read(text);
    let parsed = Object::parse(text);
    match &oracle {
        Read::Value(Value::Object(map)) => {
            let object = parsed.as_ref().expect("serde_json sees an object");
            assert!(object.names().all(|name| map.contains_key(name)));
            for (name, expected) in map {
                let raw = object.get(name).expect("serde_json sees this member");
                assert!(lies_in(raw, text), "a value is a piece of the text, byte for byte");
                assert_eq!(&value(raw).unwrap(), expected);
                assert_eq!(object.string(name).as_deref(), expected.as_str());
                assert_eq!(json::at_path(text, std::slice::from_ref(name)), Some(raw));
            }
        }
        Read::Value(_) | Read::NotJson => assert!(parsed.is_err()),
        Read::Beyond => {}
    }
    match &oracle {
        Read::Value(seen) => {
            assert!(json::is_json(text));
            let trimmed = text.trim();
            assert_eq!(json::string(trimmed).as_deref(), seen.as_str());
            let scalar = json::scalar(trimmed);
            match seen {
                Value::String(expected) => assert_eq!(scalar.as_deref(), Some(expected.as_str())),
                Value::Number(_) => assert_eq!(scalar.as_deref(), Some(trimmed)),
                _ => assert_eq!(scalar, None),
            }
        }
        Read::NotJson => assert!(!json::is_json(text)),
        Read::Beyond => {}
    }
    if let (Read::Value(Value::String(expected)), Some(plain)) = (&oracle, json::string_with_surrogates(text))
    {
        assert_eq!(&plain, expected);
    }
}

/// What a frame is taken for, by serde_json's eyes.
fn decoding(dialect: &Dialect, text: &str, depth_max: usize) {
    let decoded = dialect.decode(text, depth_max);
    let seen = match read(text) {
        Read::Value(seen) => seen,
        Read::NotJson => {
            return assert!(matches!(decoded, Err(ErrorCode::TooDeep | ErrorCode::InvalidJson)));
        }
        Read::Beyond => return,
    };
    if depth(&seen) > depth_max {
        return assert_eq!(decoded.err(), Some(ErrorCode::TooDeep));
    }
    if matches!(decoded, Err(ErrorCode::TooDeep)) {
        // Of members of one name, serde_json keeps one.
        return assert!(text.matches(['{', '[']).count() > depth_max);
    }
    let Value::Object(map) = &seen else {
        return assert_eq!(decoded.err(), Some(ErrorCode::NotAnObject));
    };
    let Some(named) = map.get(&dialect.type_field).and_then(Value::as_str) else {
        return assert_eq!(decoded.err(), Some(ErrorCode::MissingType));
    };
    let is = |name: &Option<String>| name.as_deref() == Some(named);
    match decoded.expect("an object with a type") {
        ClientMessage::Auth(token) => {
            let auth = dialect.auth.as_ref().unwrap();
            assert_eq!(named, auth.message_type);
            assert_eq!(token.as_deref(), map.get(&auth.token).and_then(Value::as_str));
        }
        ClientMessage::Subscribe(_) => assert!(is(&dialect.subscribe)),
        ClientMessage::Unsubscribe(_) => assert!(is(&dialect.unsubscribe)),
        ClientMessage::Pong => assert!(is(&dialect.pong)),
        ClientMessage::Ping => assert!(is(&dialect.ping)),
        ClientMessage::Application { message_type, .. } => {
            assert_eq!(message_type, named);
            let auth = dialect.auth.as_ref().map(|auth| auth.message_type.clone());
            let control =
                [auth, dialect.subscribe.clone(), dialect.unsubscribe.clone(), dialect.pong.clone()];
            assert!(!control.iter().chain([&dialect.ping]).any(is), "a control message is never published");
        }
    }
}

/// What leaves for Pusher or a backend is legal there, and carries the data as it came.
fn publishing(route: &Route, values: &PathValues, text: &str, message_type: &str, object: &Object<'_>) {
    let user = route.auth.is_some().then_some("u/1?");
    let message = Message { text, message_type, object, values, user, channel: "c", member: None };
    let data = object.get("data");
    match publish::prepare(route, &message, now()) {
        Err(_) => {}
        Ok(Outgoing::Drop) => {}
        Ok(Outgoing::ClientEvent { event, data, .. }) => {
            assert!(event.starts_with("client-") && event.len() <= EVENT_BYTES_MAX);
            assert_json(&data);
        }
        Ok(Outgoing::Trigger { event, data: out, .. }) => {
            assert!(!event.is_empty() && event.len() <= EVENT_BYTES_MAX);
            assert!(!event.starts_with("pusher:") && !event.starts_with("pusher_internal:"));
            assert!(!event.chars().any(char::is_control));
            assert!(out.len() <= DATA_BYTES_MAX);
            assert_json(&out);
            assert!(out.contains(data.unwrap_or(text)), "{out}");
            let known = publish::relayed_name(route, &event);
            assert!(known == event || known == message_type, "{known}");
        }
        Ok(Outgoing::Post { url, body, .. }) => {
            assert_json(&body);
            assert!(body.contains(text) && body.contains(data.unwrap()));
            posting(&url);
        }
    }
}

/// A client's values stay within their segment of the URL, whoever resolves it.
fn posting(url: &str) {
    let rest = url.strip_prefix("https://backend.test:8443/x/").expect("the host is the file's");
    assert!(url.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&byte)), "{url}");
    let (path, query) = rest.split_once('?').unwrap();
    let segments: Vec<&str> = path.split('/').collect();
    assert_eq!(segments.len(), 3, "{url}");
    assert!(!segments.iter().any(|segment| matches!(*segment, "." | "..")), "{url}");
    let names: Vec<&str> = query.split('&').map(|pair| pair.split('=').next().unwrap()).collect();
    assert_eq!(names, ["user", "type"], "{url}");
}

/// Whatever an event's data is, clients get one envelope of JSON with the data in it as it came.
fn rendering(dialect: &Dialect, text: &str) {
    if !json::is_json(text) {
        return;
    }
    let object = Object::parse(text).ok();
    let named = object.as_ref().and_then(|object| object.string(&dialect.type_field));
    let event = named.as_deref().unwrap_or("an \"event\"");
    let channel = object.as_ref().and_then(|object| object.string("channel"));
    let data = EventData {
        event,
        channel: channel.as_deref().unwrap_or("c"),
        json: text,
        sender: None,
        by_client: false,
    };
    let frame = &dialect.out.event;
    let rendered = frame.render(&data, now());
    assert_json(&rendered);
    assert!(rendered.contains(text));
    assert!(lies_in(frame.payload(&data), text));
    if rendered != text && frame.payload(&data) != text {
        let inner = object.as_ref().and_then(|object| object.only("data"));
        assert_eq!(Some(frame.payload(&data)), inner, "a filter looks into an envelope that says more");
    }
    let by_client = EventData { by_client: true, ..data };
    assert!(frame.render(&by_client, now()).len() > text.len(), "a client's data is data");
    assert_eq!(frame.payload(&by_client), text);
    if dialect.name.as_ref() != "third" {
        let again = EventData { json: &rendered, ..data };
        assert_eq!(frame.render(&again, now()), rendered, "one envelope, not two");
        let envelope = Object::parse(&rendered).unwrap();
        assert_eq!(envelope.get("data"), Some(frame.payload(&again).trim()));
    }
}
