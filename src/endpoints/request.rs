//! Pure: what Pusher's clients ask at the authorization endpoints: a form or a JSON object (pusher-js,
//! `core/auth/options.ts`).

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::json::{Object, string};
use crate::pusher::channel::check_channel;
use crate::pusher::frame::is_socket_id;

/// Longest `socket_id`, bytes: two numbers of 64 bits and a dot.
pub const SOCKET_ID_BYTES_MAX: usize = 41;
/// Fields of a form that are looked at; clients may send some of their own.
const FIELDS_MAX: usize = 64;

/// What is to be signed. Nothing here has a `:`, so no signature over it can be another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthRequest {
    pub socket_id: String,
    /// Empty where none is asked for.
    pub channel: String,
}

/// Reads a body.
///
/// # Errors
/// All that is wrong with it, in a sentence.
pub fn read(content_type: Option<&str>, body: &[u8], names_channel: bool) -> Result<AuthRequest, String> {
    let text = std::str::from_utf8(body).map_err(|_| "the body is not UTF-8".to_owned())?;
    let kind = content_type.map(|kind| kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase());
    let fields = match kind.as_deref() {
        Some("application/json") => Fields::json(text)?,
        Some("application/x-www-form-urlencoded") => Fields::form(text)?,
        None | Some("") if text.trim_start().starts_with('{') => Fields::json(text)?,
        None | Some("") => Fields::form(text)?,
        Some(_) => return Err("the body is neither a form nor JSON, by its Content-Type".to_owned()),
    };
    let mut wrong = Vec::new();
    let socket_id = fields.get("socket_id").and_then(|id| match id {
        id if id.len() > SOCKET_ID_BYTES_MAX || !is_socket_id(&id) => {
            Err("`socket_id` is not digits, a dot and digits".to_owned())
        }
        id => Ok(id.into_owned()),
    });
    let channel = match names_channel {
        false => Ok(String::new()),
        true => fields.get("channel_name").and_then(|name| match check_channel(&name) {
            Ok(()) => Ok(name.into_owned()),
            Err(why) => Err(format!("`channel_name`: {why}")),
        }),
    };
    let mut read = |field: Result<String, String>| {
        field.unwrap_or_else(|why| {
            wrong.push(why);
            String::new()
        })
    };
    let request = AuthRequest { socket_id: read(socket_id), channel: read(channel) };
    if wrong.is_empty() { Ok(request) } else { Err(wrong.join("; ")) }
}

enum Fields<'a> {
    Json(Object<'a>),
    Form(Vec<(Cow<'a, str>, Cow<'a, str>)>),
}

impl<'a> Fields<'a> {
    fn json(text: &'a str) -> Result<Self, String> {
        Object::parse(text).map(Self::Json).map_err(|_| "the body is not a JSON object".to_owned())
    }

    /// URL-encoded (WHATWG URL, "application/x-www-form-urlencoded parsing").
    fn form(text: &'a str) -> Result<Self, String> {
        let decode = |text: &'a str| {
            if !text.contains(['%', '+']) {
                return Ok(Cow::Borrowed(text));
            }
            let text = text.replace('+', " ");
            let decoded = percent_decode_str(&text).decode_utf8();
            decoded.map(|text| Cow::Owned(text.into_owned())).map_err(|_| "the form is not UTF-8".to_owned())
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        if pairs.clone().nth(FIELDS_MAX).is_some() {
            return Err(format!("the form has more than {FIELDS_MAX} fields"));
        }
        let fields = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        fields.collect::<Result<_, String>>().map(Self::Form)
    }

    /// The only value of this name.
    fn get(&self, name: &str) -> Result<Cow<'_, str>, String> {
        let missing = || format!("`{name}` is missing");
        let twice = || format!("`{name}` stands there twice");
        match self {
            Self::Json(object) => {
                object.get(name).filter(|value| *value != "null").ok_or_else(missing)?;
                let value = object.only(name).ok_or_else(twice)?;
                string(value).ok_or_else(|| format!("`{name}` is not a string"))
            }
            Self::Form(fields) => {
                let mut values = fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value);
                let value = values.next().ok_or_else(missing)?;
                if values.next().is_some() { Err(twice()) } else { Ok(Cow::Borrowed(value.as_ref())) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Option<&str> = Some("application/x-www-form-urlencoded; charset=UTF-8");
    const JSON: Option<&str> = Some("application/json");

    #[test]
    fn forms_and_json_say_the_same() {
        let asked = AuthRequest { socket_id: "123.456".into(), channel: "private-a;b".into() };
        for (kind, body) in [
            (FORM, "socket_id=123.456&channel_name=private-a%3Bb"),
            (FORM, "csrf=+%E9&channel_name=private-a;b&socket_id=123.456"),
            (FORM, "&socket_id=123%2e456&&channel_name=private%2Da%3bb&x"),
            (None, "socket_id=123.456&channel_name=private-a%3Bb"),
            (JSON, r#"{"socket_id":"123.456","channel_name":"private-a;b","x":[1]}"#),
            (None, r#" {"socket_id":"123\u002e456","channel_name":"private-a;b"}"#),
        ] {
            let read = read(kind, body.as_bytes(), true);
            if body.contains("%E9") {
                assert_eq!(read.unwrap_err(), "the form is not UTF-8");
            } else {
                assert_eq!(read.as_ref(), Ok(&asked), "{body}");
            }
        }
        let alone = AuthRequest { socket_id: "1.2".into(), channel: String::new() };
        assert_eq!(read(FORM, b"socket_id=1.2", false), Ok(alone));
    }

    #[test]
    fn what_could_be_signed_for_something_else_is_never_signed() {
        for socket_id in [
            "",
            ".",
            "1",
            "1.",
            ".1",
            "1.2.3",
            "1.2:private-b",
            "1.2::user::{}",
            "1.2 ",
            " 1.2",
            "1,2",
            "-1.2",
            "1.2\n",
            "１.２",
            "1.2\0",
            "99999999999999999999999.9999999999999999999999",
        ] {
            let json = serde_json::json!({ "socket_id": socket_id, "channel_name": "private-a" }).to_string();
            let why = read(JSON, json.as_bytes(), true).unwrap_err();
            assert!(why.contains("socket_id"), "{socket_id}: {why}");
            assert!(read(JSON, json.as_bytes(), false).is_err(), "{socket_id}");
        }
        for channel in ["", "a:b", "private-a:{}", "#server-to-user-1", "private-é", "a b", &"x".repeat(165)]
        {
            let json = serde_json::json!({ "socket_id": "1.2", "channel_name": channel }).to_string();
            let why = read(JSON, json.as_bytes(), true).unwrap_err();
            assert!(why.contains("channel_name"), "{channel}: {why}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        for (kind, body, expected) in [
            (FORM, "", "`socket_id` is missing; `channel_name` is missing"),
            (FORM, "socket_id=1.2&socket_id=1.2&channel_name=a", "`socket_id` stands there twice"),
            (
                JSON,
                r#"{"socket_id":"1.2","channel_name":"a","channel_name":"b"}"#,
                "`channel_name` stands there twice",
            ),
            (
                JSON,
                r#"{"socket_id":1.2,"channel_name":null}"#,
                "`socket_id` is not a string; `channel_name` is missing",
            ),
            (JSON, "socket_id=1.2", "the body is not a JSON object"),
            (JSON, "[]", "the body is not a JSON object"),
            (Some("text/plain"), "socket_id=1.2", "the body is neither a form nor JSON, by its Content-Type"),
        ] {
            assert_eq!(read(kind, body.as_bytes(), true).unwrap_err(), expected, "{body}");
        }
        assert_eq!(read(FORM, b"\xff", true).unwrap_err(), "the body is not UTF-8");
        assert!(read(FORM, "a&".repeat(65).as_bytes(), true).unwrap_err().contains("fields"));
    }
}
