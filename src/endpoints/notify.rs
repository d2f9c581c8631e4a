//! Pure: an event that a backend publishes: `{channel, event, data}`, or `channels`, and perhaps `socket_id`. What is
//! wrong is told all at once.

use serde_json::{Map, Value, json};

use super::reply::{EndpointResult, Reply};
use super::request::SOCKET_ID_BYTES_MAX;
use crate::json::{Object, elements, string, string_with_surrogates};
use crate::pusher::channel::{ChannelKind, EVENT_BYTES_MAX, check_channel};
use crate::pusher::frame::is_socket_id;

/// Channels of one event (Pusher docs, "HTTP API": POST event).
pub const CHANNELS_MAX: usize = 100;
/// How Pusher calls the channel of a signed-in user's own messages.
const USER_CHANNEL: &str = "#server-to-user-";

/// An event, as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Each once.
    pub channels: Vec<String>,
    pub event: String,
    /// A string's text, or other JSON as it was written.
    pub data: String,
    /// Whose connection does not get it.
    pub socket_id: Option<String>,
}

/// What is wrong with a body, field by field.
#[derive(Default)]
struct Wrong {
    missing: Vec<&'static str>,
    invalid: Map<String, Value>,
}

impl Wrong {
    fn invalid(&mut self, field: &str, why: impl Into<String>) {
        self.invalid.insert(field.to_owned(), json!(why.into()));
    }

    /// The only value of a member; `null` is none.
    fn member<'a>(&mut self, object: &Object<'a>, field: &'static str) -> Option<&'a str> {
        let value = object.get(field).filter(|value| *value != "null")?;
        if object.only(field).is_none() {
            self.invalid(field, "it stands there twice");
            return None;
        }
        Some(value)
    }

    fn has(&self, field: &str) -> bool {
        self.invalid.contains_key(field)
    }

    fn needed<'a>(&mut self, object: &Object<'a>, field: &'static str) -> Option<&'a str> {
        let value = self.member(object, field);
        if value.is_none() && !self.has(field) {
            self.missing.push(field);
        }
        value
    }

    /// A text that `check` says nothing against.
    fn text(
        &mut self,
        field: &'static str,
        json: Option<&str>,
        check: impl FnOnce(&str) -> Result<(), String>,
    ) -> Option<String> {
        let checked = string(json?).ok_or_else(|| "it is not a string".to_owned()).and_then(|text| {
            check(&text)?;
            Ok(text.into_owned())
        });
        checked.map_err(|why| self.invalid(field, why)).ok()
    }

    fn into_reply(self) -> Reply {
        let mut parts = Vec::new();
        if !self.missing.is_empty() {
            parts.push(format!("missing: {}", self.missing.join(", ")));
        }
        for (field, why) in &self.invalid {
            parts.push(format!("{field}: {}", why.as_str().unwrap_or_default()));
        }
        let mut members = Map::new();
        members.insert("missing".to_owned(), json!(self.missing));
        members.insert("invalid".to_owned(), Value::Object(self.invalid));
        Reply::with(EndpointResult::Malformed, parts.join("; "), members)
    }
}

/// Reads a body; data of more than `data_bytes_max` bytes is too large.
///
/// # Errors
/// The answer that says what is wrong.
pub fn read(body: &[u8], data_bytes_max: usize) -> Result<Notice, Reply> {
    let malformed = |why: &'static str| Reply::because(EndpointResult::Malformed, why);
    let text = std::str::from_utf8(body).map_err(|_| malformed("the body is not UTF-8"))?;
    let object = Object::parse(text).map_err(|_| malformed("the body is not a JSON object"))?;
    let mut wrong = Wrong::default();
    let channels = channels(&object, &mut wrong);
    let event = wrong.needed(&object, "event");
    let event = wrong.text("event", event, check_event);
    let data = wrong.needed(&object, "data").map(data_of);
    let socket_id = wrong.member(&object, "socket_id");
    let socket_id = wrong.text("socket_id", socket_id, |id| {
        let legal = id.len() <= SOCKET_ID_BYTES_MAX && is_socket_id(id);
        legal.then_some(()).ok_or_else(|| "it is not digits, a dot and digits".to_owned())
    });
    let (true, true, Some(event), Some(data)) =
        (wrong.missing.is_empty(), wrong.invalid.is_empty(), event, data)
    else {
        return Err(wrong.into_reply());
    };
    if data.len() > data_bytes_max {
        let why = format!("the data has {} bytes of at most {data_bytes_max}", data.len());
        return Err(Reply::because(EndpointResult::TooLarge, why));
    }
    Ok(Notice { channels, event, data, socket_id })
}

fn channels(object: &Object<'_>, wrong: &mut Wrong) -> Vec<String> {
    let several = wrong.member(object, "channels");
    let Some(several) = several else {
        if wrong.has("channels") {
            return Vec::new();
        }
        let one = wrong.needed(object, "channel");
        return wrong.text("channel", one, check_place).into_iter().collect();
    };
    if wrong.member(object, "channel").is_some() {
        wrong.invalid("channel", "there are `channels` too: only one of the two may be there");
    }
    let Some(list) = elements(several).filter(|list| !list.is_empty() && list.len() <= CHANNELS_MAX) else {
        wrong.invalid("channels", format!("it is not a list of 1 to {CHANNELS_MAX} names"));
        return Vec::new();
    };
    let mut out: Vec<String> = Vec::new();
    for name in &list {
        let name = wrong.text("channels", Some(*name), check_place);
        out.extend(name.filter(|name| !out.contains(name)));
    }
    if out.len() > 1 && out.iter().any(|name| ChannelKind::of(name) == ChannelKind::Encrypted) {
        wrong.invalid("channels", "an event of an encrypted channel is sealed for it, and can have no other");
    }
    out
}

/// A channel, or a signed-in user's own.
fn check_place(name: &str) -> Result<(), String> {
    check_channel(name.strip_prefix(USER_CHANNEL).unwrap_or(name))
}

/// Events that Pusher reserves or rejects (Pusher docs, "Triggering events").
fn check_event(name: &str) -> Result<(), String> {
    if name.starts_with("pusher:") || name.starts_with("pusher_internal:") {
        Err("names that begin with `pusher:` are Pusher's own".to_owned())
    } else if name.is_empty() || name.len() > EVENT_BYTES_MAX {
        Err(format!("it has {} bytes; it must have 1 to {EVENT_BYTES_MAX}", name.len()))
    } else if name.chars().any(char::is_control) {
        Err("it has a control character".to_owned())
    } else {
        Ok(())
    }
}

/// Pusher's data is a string: a string goes as its text, all else as it stands, every digit of it.
fn data_of(json: &str) -> String {
    match string(json) {
        Some(text) => text.into_owned(),
        None => string_with_surrogates(json).unwrap_or_else(|| json.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(body: &str) -> Value {
        let reply = read(body.as_bytes(), 100).unwrap_err();
        assert_eq!(reply.result, EndpointResult::Malformed, "{body}");
        serde_json::from_str(&reply.body).unwrap()
    }

    #[test]
    fn data_is_whatever_is_not_null_and_keeps_its_digits() {
        for (json, expected) in [
            ("0", "0"),
            ("false", "false"),
            (r#""""#, ""),
            (r#""a\u0041\n""#, "aA\n"),
            (r#""{\"a\":1.50}""#, r#"{"a":1.50}"#),
            ("12345678901234567890.10", "12345678901234567890.10"),
            (r#"{"a": 1.50, "b":"\u00e9"}"#, r#"{"a": 1.50, "b":"\u00e9"}"#),
            ("[ ]", "[ ]"),
            (r#""\ud83d""#, r"\ud83d"),
        ] {
            let notice = read(format!(r#"{{"channel":"c","event":"e","data":{json}}}"#).as_bytes(), 100);
            assert_eq!(notice.unwrap().data, expected, "{json}");
        }
    }

    #[test]
    fn all_that_is_missing_or_wrong_is_named() {
        for (body, missing, invalid) in [
            ("{}", &["channel", "event", "data"][..], &[][..]),
            (r#"{"channel":null,"event":null,"data":null}"#, &["channel", "event", "data"], &[]),
            (r#"{"channel":"c","event":"","data":0}"#, &[], &["event"]),
            (
                r#"{"channel":"c d","event":"pusher:e","data":0,"socket_id":"1.2::user::"}"#,
                &[],
                &["channel", "event", "socket_id"],
            ),
            (r#"{"channel":7,"event":{}}"#, &["data"], &["channel", "event"]),
            (r#"{"channels":[],"event":"e"}"#, &["data"], &["channels"]),
            (r#"{"channels":"c","event":"e","data":1}"#, &[], &["channels"]),
            (r#"{"channels":["c",1],"event":"e","data":1}"#, &[], &["channels"]),
            (r#"{"channel":"c","channels":["c"],"event":"e","data":1}"#, &[], &["channel"]),
            (r#"{"channels":["c","private-encrypted-a"],"event":"e","data":1}"#, &[], &["channels"]),
            (r#"{"channel":"c","channel":"d","event":"e","data":1}"#, &[], &["channel"]),
            (r#"{"channel":"c","event":"e","data":1,"data":2}"#, &[], &["data"]),
            (r##"{"channel":"#server-to-user-","event":"e","data":1}"##, &[], &["channel"]),
            (r#"{"channel":"c","event":"a\u0000","data":1}"#, &[], &["event"]),
        ] {
            let told = wrong(body);
            assert_eq!(told["missing"], json!(missing), "{body}");
            let named: Vec<&String> = told["invalid"].as_object().unwrap().keys().collect();
            assert_eq!(named, invalid, "{body}: {told}");
            for field in missing.iter().chain(invalid) {
                assert!(told["message"].as_str().unwrap().contains(field), "{told}");
            }
        }
        for body in ["", "[]", "7", "{\"channel\":"] {
            assert_eq!(wrong(body)["message"], "the body is not a JSON object");
        }
    }

    #[test]
    fn channels_come_once_and_a_users_own_is_one() {
        let body =
            r##"{"channels":["a","b","a","#server-to-user-7"],"event":"e","data":1,"socket_id":"1.2"}"##;
        let notice = read(body.as_bytes(), 100).unwrap();
        assert_eq!(notice.channels, ["a", "b", "#server-to-user-7"]);
        assert_eq!(notice.socket_id.as_deref(), Some("1.2"));
        let many = |n: usize| {
            let names: Vec<String> = (0..n).map(|n| format!("c{n}")).collect();
            read(json!({ "channels": names, "event": "e", "data": 1 }).to_string().as_bytes(), 100)
        };
        assert_eq!(many(100).unwrap().channels.len(), 100);
        assert!(many(101).is_err());
    }

    #[test]
    fn data_beyond_the_limit_is_too_large() {
        let body = |n: usize| json!({ "channel": "c", "event": "e", "data": "x".repeat(n) }).to_string();
        assert!(read(body(100).as_bytes(), 100).is_ok());
        assert_eq!(read(body(101).as_bytes(), 100).unwrap_err().result, EndpointResult::TooLarge);
    }
}
