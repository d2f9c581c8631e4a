//! The frames of the Pusher Channels WebSocket protocol 7, for both roles. Data stays the text it came as.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use crate::json::{self, Object};
use crate::template::escape_into;

/// The keep-alive question, the same in both directions.
pub const PING: &str = r#"{"event":"pusher:ping","data":{}}"#;
/// Its answer.
pub const PONG: &str = r#"{"event":"pusher:pong","data":{}}"#;

/// Why a frame could not be understood.
#[derive(Debug)]
pub enum FrameError {
    /// Not one JSON object.
    NotAnObject(serde_json::Error),
    /// A field is missing or is of the wrong kind.
    Field {
        /// The frame's event, as far as it is known, shortened.
        event: String,
        field: &'static str,
        expected: &'static str,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject(error) => write!(f, "the frame is not a JSON object: {error}"),
            Self::Field { event, field, expected } if event.is_empty() => {
                write!(f, "the frame's `{field}` is not {expected}")
            }
            Self::Field { event, field, expected } => write!(f, "`{field}` of {event} is not {expected}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// The least a frame must have: an object with an event's name.
struct Envelope<'a> {
    event: Cow<'a, str>,
    object: Object<'a>,
}

impl<'a> Envelope<'a> {
    fn parse(text: &'a str) -> Result<Self, FrameError> {
        let object = Object::parse(text).map_err(FrameError::NotAnObject)?;
        let event = object.string("event").ok_or(FrameError::Field {
            event: String::new(),
            field: "event",
            expected: "a string",
        })?;
        Ok(Self { event, object })
    }

    fn data(&self) -> Option<&'a str> {
        self.object.get("data")
    }

    fn channel(&self) -> Option<Cow<'a, str>> {
        self.object.string("channel")
    }

    fn channel_required(&self) -> Result<Cow<'a, str>, FrameError> {
        self.channel().ok_or_else(|| self.wrong("channel", "a string"))
    }

    /// The text of the data's object: Pusher's own events have it as an object or, the same object, as a
    /// string, per event and per server.
    fn data_text(&self) -> Cow<'a, str> {
        match self.data() {
            Some(raw) => json::string(raw).unwrap_or(Cow::Borrowed(raw)),
            None => Cow::Borrowed("{}"),
        }
    }

    fn wrong(&self, field: &'static str, expected: &'static str) -> FrameError {
        const EVENT_CHARS_MAX: usize = 200;
        FrameError::Field { event: self.event.chars().take(EVENT_CHARS_MAX).collect(), field, expected }
    }
}

// ------------------------------------------------------------------------------------------ from a server

/// A frame from a server. `data` is raw JSON text; see [`data_json`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame<'a> {
    /// `pusher:connection_established`
    ConnectionEstablished {
        /// New with every connection: `digits.digits` of the hosted service, any text of others.
        socket_id: String,
        /// Silence after which the server wants a ping; `None` when it does not say.
        activity_timeout: Option<Duration>,
    },
    /// `pusher:ping`
    Ping,
    /// `pusher:pong`
    Pong,
    /// `pusher:error`. It names no channel even when it is about one.
    Error {
        /// See [`crate::pusher::close`]; hosted Pusher gives none for a failed subscription.
        code: Option<u16>,
        /// What is wrong, empty when the server does not say.
        message: String,
    },
    /// `pusher_internal:subscription_succeeded`
    SubscriptionSucceeded {
        channel: Cow<'a, str>,
        /// For a presence channel, its members.
        data: Option<&'a str>,
    },
    /// `pusher:subscription_error`, which soketi sends.
    SubscriptionError {
        channel: Cow<'a, str>,
        /// What is wrong, empty when the server does not say.
        message: String,
        /// An HTTP-like status.
        status: Option<u16>,
    },
    /// An application's event on a channel.
    Event {
        event: Cow<'a, str>,
        channel: Cow<'a, str>,
        data: Option<&'a str>,
        /// The sender of a client event on a presence channel.
        user_id: Option<Cow<'a, str>>,
    },
    /// Any other event of Pusher's own (`pusher:…`, `pusher_internal:…`), or an event without a channel.
    Other { event: Cow<'a, str>, channel: Option<Cow<'a, str>>, data: Option<&'a str> },
}

impl<'a> ServerFrame<'a> {
    /// Understands one text message.
    ///
    /// # Errors
    /// Not an object, no event, or one of Pusher's own events without what makes it useful.
    pub fn decode(text: &'a str) -> Result<Self, FrameError> {
        let frame = Envelope::parse(text)?;
        Ok(match frame.event.as_ref() {
            "pusher:connection_established" => Self::established(&frame)?,
            "pusher:ping" => Self::Ping,
            "pusher:pong" => Self::Pong,
            "pusher:error" => Self::error(&frame),
            "pusher_internal:subscription_succeeded" => {
                Self::SubscriptionSucceeded { channel: frame.channel_required()?, data: frame.data() }
            }
            "pusher:subscription_error" => Self::subscription_error(&frame)?,
            _ => Self::event(frame)?,
        })
    }

    fn established(frame: &Envelope<'a>) -> Result<Self, FrameError> {
        let text = frame.data_text();
        let data = Object::parse(&text).map_err(|_| frame.wrong("data", "an object"))?;
        let socket_id =
            data.get("socket_id").and_then(json::scalar).filter(|id| may_be_signed(id)).ok_or_else(|| {
                frame.wrong("socket_id", "a number or a short text without control characters")
            })?;
        let activity_timeout = match data.get("activity_timeout") {
            None | Some("null") => None,
            Some(raw) => Some(
                json::scalar(raw)
                    .and_then(|digits| digits.parse().ok())
                    .filter(|seconds: &f64| *seconds >= 0.0)
                    .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
                    .ok_or_else(|| frame.wrong("activity_timeout", "a number of seconds"))?,
            ),
        };
        Ok(Self::ConnectionEstablished { socket_id: socket_id.into_owned(), activity_timeout })
    }

    /// An error that cannot be read is an error still, with its text as the message.
    fn error(frame: &Envelope<'a>) -> Self {
        let text = frame.data_text();
        match Object::parse(&text) {
            Ok(data) => Self::Error {
                code: number(&data, "code"),
                message: data.string("message").unwrap_or_default().into_owned(),
            },
            Err(_) => Self::Error { code: None, message: text.into_owned() },
        }
    }

    fn subscription_error(frame: &Envelope<'a>) -> Result<Self, FrameError> {
        let channel = frame.channel_required()?;
        let text = frame.data_text();
        let data = Object::parse(&text).map_err(|_| frame.wrong("data", "an object"))?;
        let message = data.string("error").or_else(|| data.string("message")).unwrap_or_default();
        Ok(Self::SubscriptionError {
            channel,
            message: message.into_owned(),
            status: number(&data, "status"),
        })
    }

    fn event(frame: Envelope<'a>) -> Result<Self, FrameError> {
        let (channel, data) = (frame.channel(), frame.data());
        if channel.is_none() && !matches!(frame.object.get("channel"), None | Some("null")) {
            return Err(frame.wrong("channel", "a string"));
        }
        let user_id = frame.object.string("user_id");
        let event = frame.event;
        let own = is_pushers_own(&event);
        Ok(match channel {
            Some(channel) if !own => Self::Event { event, channel, data, user_id },
            channel => Self::Other { event, channel, data },
        })
    }
}

/// Whether an event's name is one of Pusher's own.
#[must_use]
pub fn is_pushers_own(event: &str) -> bool {
    event.starts_with("pusher:") || event.starts_with("pusher_internal:")
}

/// An event's data as JSON text, not re-typed: of a string that holds JSON, that JSON verbatim; of any other
/// string, the string's own token; anything else as it is. This is what pusher-js hands to a listener,
/// except that data which is missing is `null` here, where it has `undefined`.
#[must_use]
pub fn data_json(raw: Option<&str>) -> Cow<'_, str> {
    let Some(raw) = raw else {
        return Cow::Borrowed("null");
    };
    match json::string(raw) {
        Some(content) if json::is_json(&content) => content,
        Some(_) => Cow::Borrowed(raw),
        None => match json::string_with_surrogates(raw) {
            Some(content) if json::is_json(&content) => Cow::Owned(content),
            Some(_) | None => Cow::Borrowed(raw),
        },
    }
}

/// The data of an event of our own as its subscribers get it: see [`data_json`], of a string with this text.
#[must_use]
pub fn text_json(text: &str) -> Cow<'_, str> {
    if json::is_json(text) {
        return Cow::Borrowed(text);
    }
    let mut token = String::with_capacity(text.len() + 2);
    string_into(&mut token, text);
    Cow::Owned(token)
}

fn number(data: &Object<'_>, name: &str) -> Option<u16> {
    json::scalar(data.get(name)?)?.parse().ok()
}

/// Whether a socket id may stand in what is signed. A line break in it would make the signature of a subscription
/// one of an HTTP request.
fn may_be_signed(socket_id: &str) -> bool {
    const SOCKET_ID_BYTES_MAX: usize = 256;
    !socket_id.is_empty()
        && socket_id.len() <= SOCKET_ID_BYTES_MAX
        && !socket_id.chars().any(char::is_control)
}

/// Whether `text` is `digits.digits`, which every SDK insists on.
#[must_use]
pub fn is_socket_id(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('.').is_some_and(|(a, b)| digits(a) && digits(b))
}

// ------------------------------------------------------------------------------------------ from a client

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame<'a> {
    /// `pusher:subscribe`
    Subscribe {
        channel: String,
        /// `key:signature`; pusher-js sends an empty one for a public channel, which is `None` here.
        auth: Option<String>,
        /// The member, for a presence channel: the exact text that is signed.
        channel_data: Option<String>,
    },
    /// `pusher:unsubscribe`
    Unsubscribe { channel: String },
    /// `pusher:signin`
    Signin {
        /// `key:signature`
        auth: String,
        /// The user: the exact text that is signed.
        user_data: String,
    },
    /// `pusher:ping`
    Ping,
    /// `pusher:pong`
    Pong,
    /// `client-…`
    ClientEvent {
        event: Cow<'a, str>,
        channel: Cow<'a, str>,
        /// Its data, raw JSON.
        data: Option<&'a str>,
    },
    /// Any other event, which no client may send.
    Other { event: Cow<'a, str> },
}

impl<'a> ClientFrame<'a> {
    /// Understands one text message.
    ///
    /// # Errors
    /// Not an object, no event, or an event without what it needs.
    pub fn decode(text: &'a str) -> Result<Self, FrameError> {
        let frame = Envelope::parse(text)?;
        match frame.event.as_ref() {
            "pusher:ping" => return Ok(Self::Ping),
            "pusher:pong" => return Ok(Self::Pong),
            event if event.starts_with("client-") => {
                let (channel, data) = (frame.channel_required()?, frame.data());
                return Ok(Self::ClientEvent { event: frame.event, channel, data });
            }
            "pusher:subscribe" | "pusher:unsubscribe" | "pusher:signin" => {}
            _ => return Ok(Self::Other { event: frame.event }),
        }
        let text = frame.data_text();
        let data = Object::parse(&text).map_err(|_| frame.wrong("data", "an object"))?;
        let required = |name: &'static str| {
            let value = data.string(name).ok_or_else(|| frame.wrong(name, "a string"))?;
            Ok::<_, FrameError>(value.into_owned())
        };
        let optional = |name: &'static str| match data.get(name) {
            None | Some("null" | r#""""#) => Ok(None),
            Some(_) => required(name).map(Some),
        };
        Ok(match frame.event.as_ref() {
            "pusher:signin" => Self::Signin { auth: required("auth")?, user_data: required("user_data")? },
            "pusher:unsubscribe" => Self::Unsubscribe { channel: required("channel")? },
            _ => Self::Subscribe {
                channel: required("channel")?,
                auth: optional("auth")?,
                channel_data: optional("channel_data")?,
            },
        })
    }
}

// ------------------------------------------------------------------------------------- encoding, a client

/// `pusher:subscribe`
#[must_use]
pub fn subscribe(channel: &str, auth: Option<&str>, channel_data: Option<&str>) -> String {
    let mut out = String::from(r#"{"event":"pusher:subscribe","data":{"channel":"#);
    string_into(&mut out, channel);
    for (name, value) in [("auth", auth), ("channel_data", channel_data)] {
        if let Some(value) = value {
            let _ = write!(out, r#","{name}":"#);
            string_into(&mut out, value);
        }
    }
    out.push_str("}}");
    out
}

/// `pusher:unsubscribe`
#[must_use]
pub fn unsubscribe(channel: &str) -> String {
    let mut out = String::from(r#"{"event":"pusher:unsubscribe","data":{"channel":"#);
    string_into(&mut out, channel);
    out.push_str("}}");
    out
}

/// `pusher:signin`
#[must_use]
pub fn signin(auth: &str, user_data: &str) -> String {
    let mut out = String::from(r#"{"event":"pusher:signin","data":{"auth":"#);
    string_into(&mut out, auth);
    out.push_str(r#","user_data":"#);
    string_into(&mut out, user_data);
    out.push_str("}}");
    out
}

/// A client event; `data` is JSON text and is sent as it is.
#[must_use]
pub fn client_event(event: &str, channel: &str, data: &str) -> String {
    event_raw(event, Some(channel), Some(data), None)
}

// ------------------------------------------------------------------------------------- encoding, a server

/// `pusher:connection_established`
#[must_use]
pub fn connection_established(socket_id: &str, activity_timeout_s: u64) -> String {
    let mut data = String::from(r#"{"socket_id":"#);
    string_into(&mut data, socket_id);
    let _ = write!(data, r#","activity_timeout":{activity_timeout_s}}}"#);
    let mut out = String::from(r#"{"event":"pusher:connection_established","data":"#);
    string_into(&mut out, &data);
    out.push('}');
    out
}

/// `pusher:error`, as the hosted service sends it: its data is an object.
#[must_use]
pub fn error(code: Option<u16>, message: &str) -> String {
    let mut out = String::from(r#"{"event":"pusher:error","data":{"message":"#);
    string_into(&mut out, message);
    match code {
        Some(code) => {
            let _ = write!(out, r#","code":{code}}}}}"#);
        }
        None => out.push_str(r#","code":null}}"#),
    }
    out
}

/// `pusher_internal:subscription_succeeded`; `data` is the text of an object, `{}` but for presence.
#[must_use]
pub fn subscription_succeeded(channel: &str, data: &str) -> String {
    event("pusher_internal:subscription_succeeded", channel, data, None)
}

/// An event whose data is the text `data`, sent as a JSON string, as the hosted service does.
#[must_use]
pub fn event(event: &str, channel: &str, data: &str, user_id: Option<&str>) -> String {
    let mut token = String::with_capacity(data.len() + data.len() / 8 + 2);
    string_into(&mut token, data);
    event_raw(event, Some(channel), Some(&token), user_id)
}

/// An event whose data is JSON text, sent as it is; `None` leaves the field out.
#[must_use]
pub fn event_raw(event: &str, channel: Option<&str>, data: Option<&str>, user_id: Option<&str>) -> String {
    let mut out = String::with_capacity(data.map_or(0, str::len) + 128);
    out.push_str(r#"{"event":"#);
    string_into(&mut out, event);
    if let Some(channel) = channel {
        out.push_str(r#","channel":"#);
        string_into(&mut out, channel);
    }
    if let Some(data) = data {
        out.push_str(r#","data":"#);
        out.push_str(data);
    }
    if let Some(user_id) = user_id {
        out.push_str(r#","user_id":"#);
        string_into(&mut out, user_id);
    }
    out.push('}');
    out
}

/// Appends `text` as a JSON string.
pub fn string_into(out: &mut String, text: &str) {
    out.push('"');
    escape_into(out, text);
    out.push('"');
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
