//! Pusher's frames, for both roles, and its signatures.

use pusher_bridge::pusher::close::{Reconnect, meaning};
use pusher_bridge::pusher::frame::{self, ClientFrame, ServerFrame, data_json};
use pusher_bridge::pusher::sign;
use secrecy::SecretString;
use serde_json::Value;

use super::input::Input;
use super::json::{Read, assert_json, lies_in, read, utf16_lossy, value};

/// A byte says what to do with the rest.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(4) {
        0 => from_server(input.rest()),
        1 => from_client(input.rest()),
        2 => encoding(input.text(), input.text(), input.rest()),
        _ => signing(&mut input),
    }
}

/// A string member, by serde_json's eyes.
fn string<'v>(frame: &'v Value, name: &str) -> Option<&'v str> {
    frame.get(name).and_then(Value::as_str)
}

fn from_server(text: &str) {
    let decoded = ServerFrame::decode(text);
    let seen = match read(text) {
        Read::Value(seen) => seen,
        Read::NotJson => return assert!(decoded.is_err()),
        Read::Beyond => Value::Null,
    };
    let decoded = match decoded {
        Ok(decoded) => decoded,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let own = string(&seen, "event").is_none_or(|event| event.starts_with("pusher"));
            // An application's event makes sense as soon as its channel is one.
            let odd_channel = seen.get("channel").is_some_and(|channel| !channel.is_string());
            return assert!(own || odd_channel, "{error}: {text}");
        }
    };
    match &decoded {
        ServerFrame::ConnectionEstablished { socket_id, .. } => {
            assert!(!socket_id.is_empty() && !socket_id.chars().any(char::is_control));
        }
        ServerFrame::Event { event, channel, data, user_id } => {
            if let Some(data) = data {
                assert!(lies_in(data, text));
                assert_json(data);
                carried(data);
            }
            let again = frame::event_raw(event, Some(channel), *data, user_id.as_deref());
            assert_eq!(ServerFrame::decode(&again).as_ref().ok(), Some(&decoded));
            if !seen.is_null() {
                assert_eq!(
                    (Some(&**event), Some(&**channel)),
                    (string(&seen, "event"), string(&seen, "channel"))
                );
                assert_eq!(data.and_then(value).as_ref(), seen.get("data"));
            }
        }
        ServerFrame::Error { code, .. } => {
            let _ = (Reconnect::after(*code), code.map(meaning));
        }
        _ => {}
    }
}

/// An event's data, as listeners get it: JSON, and its string's content exactly when JavaScript would parse it.
fn carried(raw: &str) {
    let data = data_json(Some(raw));
    assert_json(&data);
    if !raw.starts_with('"') {
        return assert_eq!(data, raw);
    }
    let content = utf16_lossy(raw);
    match read(&content) {
        Read::NotJson => assert_eq!(data, raw, "a string that holds no JSON stays one"),
        Read::Value(_) if content.contains(char::REPLACEMENT_CHARACTER) => assert_ne!(data, raw),
        Read::Value(_) => assert_eq!(data, content),
        // Whether it is JSON cannot be told here.
        Read::Beyond => {}
    }
}

fn from_client(text: &str) {
    let Ok(decoded) = ClientFrame::decode(text) else { return };
    let again = match &decoded {
        ClientFrame::Subscribe { channel, auth, channel_data } => {
            frame::subscribe(channel, auth.as_deref(), channel_data.as_deref())
        }
        ClientFrame::Unsubscribe { channel } => frame::unsubscribe(channel),
        ClientFrame::Signin { auth, user_data } => frame::signin(auth, user_data),
        ClientFrame::ClientEvent { event, channel, data } => {
            if data.is_some_and(|data| !lies_in(data, text)) {
                panic!("data is a piece of the text");
            }
            frame::client_event(event, channel, data.unwrap_or("null"))
        }
        ClientFrame::Ping => frame::PING.to_owned(),
        ClientFrame::Pong => frame::PONG.to_owned(),
        ClientFrame::Other { event } => frame::event_raw(event, None, None, None),
    };
    assert_json(&again);
    match (&decoded, ClientFrame::decode(&again).expect("what was understood can be said")) {
        (ClientFrame::ClientEvent { data: None, .. }, ClientFrame::ClientEvent { data, .. }) => {
            assert_eq!(data, Some("null"));
        }
        (decoded, again) => assert_eq!(*decoded, again),
    }
}

/// Whatever the texts, what a server says is what a client understands.
fn encoding(event: &str, channel: &str, data: &str) {
    let sent = frame::event(event, channel, data, None);
    assert_json(&sent);
    match ServerFrame::decode(&sent) {
        Ok(ServerFrame::Event { event: e, channel: c, data: Some(raw), .. }) => {
            assert_eq!((&*e, &*c, value(raw)), (event, channel, Some(Value::from(data))));
            match read(data) {
                Read::NotJson => assert_eq!(data_json(Some(raw)), raw),
                Read::Value(_) => assert_eq!(data_json(Some(raw)), data),
                Read::Beyond => assert!(data_json(Some(raw)) == raw || data_json(Some(raw)) == data),
            }
        }
        _ => assert!(event.starts_with("pusher")),
    }
    assert_json(&frame::connection_established(event, 120));
    match ServerFrame::decode(&frame::subscription_succeeded(channel, "{}")) {
        Ok(ServerFrame::SubscriptionSucceeded { channel: c, .. }) => assert_eq!(c, channel),
        other => panic!("{other:?}"),
    }
    match ServerFrame::decode(&frame::error(Some(4009), data)) {
        Ok(ServerFrame::Error { code, message }) => assert_eq!((code, message.as_str()), (Some(4009), data)),
        other => panic!("{other:?}"),
    }
}

/// A signature is accepted for exactly what was signed.
fn signing(input: &mut Input<'_>) {
    let secret = SecretString::from("secret");
    let (socket_id, channel, data) = (input.text(), input.text(), input.text());
    let claimed = input.text();
    let auth = sign::channel_auth("key", &secret, socket_id, channel, Some(data));
    assert!(sign::verify_channel_auth("key", &secret, socket_id, channel, Some(data), &auth).is_ok());
    let forged = sign::verify_channel_auth("key", &secret, socket_id, channel, Some(data), claimed);
    assert_eq!(forged.is_ok(), claimed == auth);

    let (path, body) = (format!("/apps/{channel}"), data.as_bytes());
    // The names are the program's own, the values anything.
    let params = [("filter_by_prefix", socket_id), ("info", claimed)];
    let query = sign::signed_query("POST", &path, &params, body, "key", &secret, 1_700_000_000);
    let verify =
        |query: &str, body: &[u8], at| sign::verify_query("POST", &path, query, body, "key", &secret, at);
    let told = verify(&query, body, 1_700_000_000).expect("signed just now");
    assert_eq!(told, params.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert!(verify(&query, body, 1_700_000_601).is_err());
    assert!(verify(&query, b"another body", 1_700_000_000).is_err() || body == b"another body");
    assert!(verify(claimed, body, 1_700_000_000).is_err() || claimed == query);
}
