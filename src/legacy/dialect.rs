//! A dialect: what one family of old clients calls its control messages, and how its frames look. Decoding a
//! client's frame and rendering a server's are here; both keep data raw.

use std::borrow::Cow;
use std::sync::Arc;

use crate::clock::Now;
use crate::json::{self, Object};
use crate::legacy::envelope::Envelope;
use crate::legacy::error::ErrorCode;
use crate::legacy::outline::Outline;
use crate::template::{Fill, Frame, Slot};

/// One dialect, validated.
#[derive(Debug, PartialEq, Eq)]
pub struct Dialect {
    /// Its name in the file.
    pub name: Arc<str>,
    /// The field that tells messages apart (`type`), or its path.
    pub type_field: String,
    /// The message that carries a token.
    pub auth: Option<AuthMessage>,
    /// The type of the message that chooses a channel or a filter's value.
    pub subscribe: Option<String>,
    /// The type of its opposite.
    pub unsubscribe: Option<String>,
    /// The type of an answer to our ping.
    pub pong: Option<String>,
    /// The type of a ping of the client's own.
    pub ping: Option<String>,
    /// Plain texts that only keep the connection open, each with its answer; an empty answer is not sent.
    pub keepalives: Vec<(String, String)>,
    /// Whether binary messages are read as text ones.
    pub binary_is_json: bool,
    /// Subprotocols to negotiate on routes that have none of their own.
    pub subprotocols: Vec<String>,
    pub out: Frames,
    /// Codes that go by other names here.
    pub error_codes: Vec<(ErrorCode, String)>,
    /// Names of events that clients would take for other frames of the server's.
    pub reserved: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthMessage {
    pub message_type: String,
    /// The field with the token, or its path.
    pub token: String,
}

/// The frames a dialect sends.
#[derive(Debug, PartialEq, Eq)]
pub struct Frames {
    /// An event of a channel.
    pub event: EventFrame,
    /// A token was accepted; without it nothing is sent.
    pub auth_ok: Option<Frame>,
    /// A token was not accepted; without it the error frame is sent.
    pub auth_error: Option<Frame>,
    /// Any other error.
    pub error: Frame,
    /// Heartbeat; needed for `heartbeat.kind = "json"`.
    pub ping: Option<Frame>,
    /// Answer to a client's own ping.
    pub pong: Option<Frame>,
    /// An in-band subscription was confirmed; without it nothing is sent.
    pub subscribed: Option<Frame>,
}

impl Frames {
    // The placeholders that each frame may use.
    pub const EVENT: &'static [Slot] = &[Slot::Event, Slot::Channel, Slot::Data, Slot::Now];
    pub const AUTH_OK: &'static [Slot] = &[Slot::User, Slot::Role, Slot::Permissions, Slot::Now];
    pub const AUTH_ERROR: &'static [Slot] = &[Slot::Code, Slot::Message, Slot::Now];
    pub const ERROR: &'static [Slot] = &[Slot::Code, Slot::Message, Slot::Details, Slot::Now];
    pub const PING: &'static [Slot] = &[Slot::Now];
    pub const SUBSCRIBED: &'static [Slot] = &[Slot::Channel, Slot::Now];
    pub const BODY: &'static [Slot] = &[Slot::Data, Slot::Frame, Slot::Type, Slot::User, Slot::Now];
}

/// The event frame, and how to recognise one that a publisher already wrote.
#[derive(Debug, PartialEq, Eq)]
pub struct EventFrame {
    template: Frame,
    envelope: Option<Envelope>,
    members: Vec<String>,
    data_member: Option<String>,
}

/// An event's data as it came from Pusher.
#[derive(Clone, Copy, Debug)]
pub struct EventData<'a> {
    /// The event's name, by which the client is to know it.
    pub event: &'a str,
    /// The channel, by the name the client knows.
    pub channel: &'a str,
    /// The data, as JSON text.
    pub json: &'a str,
    /// A client wrote it, here or elsewhere: it is data, whatever it looks like.
    pub by_client: bool,
}

impl EventFrame {
    /// Derives from the template what a whole envelope looks like.
    #[must_use]
    pub fn new(template: Frame) -> Self {
        let outline = Outline::of(&template);
        let named: Vec<(&str, &Outline)> = outline.iter().flat_map(Outline::members).collect();
        let data = named.iter().find(|(_, member)| **member == Outline::Slot(Slot::Data));
        let data_member = data.map(|(name, _)| (*name).to_owned());
        let members = named.iter().map(|(name, _)| (*name).to_owned()).collect();
        Self { members, data_member, envelope: outline.and_then(Envelope::of), template }
    }

    /// The member that holds an event's data.
    #[must_use]
    pub fn data_member(&self) -> Option<&str> {
        self.data_member.as_deref()
    }

    /// What of a client's frame is its data: the member where this dialect's events have theirs, when the
    /// frame has no member that an event has not; else `None`, and only the whole frame loses nothing.
    #[must_use]
    pub fn data_of<'a>(&self, object: &Object<'a>) -> Option<&'a str> {
        let known = object.names().all(|name| self.members.iter().any(|member| member == name));
        object.get(self.data_member.as_deref()?).filter(|_| known)
    }

    #[must_use]
    pub const fn template(&self) -> &Frame {
        &self.template
    }

    /// What would know `data` for a whole envelope. A client's never is one: it would speak as the server.
    fn envelope(&self, data: &EventData<'_>) -> Option<&Envelope> {
        self.envelope.as_ref().filter(|_| !data.by_client)
    }

    /// Renders the event as one envelope. Data that already is the whole envelope passes as it is.
    #[must_use]
    pub fn render(&self, data: &EventData<'_>, now: Now) -> String {
        if self.envelope(data).is_some_and(|envelope| envelope.is_whole(data)) {
            return data.json.to_owned();
        }
        let timestamp = now.rfc3339();
        let mut out =
            String::with_capacity(data.json.len() + self.template.source().len() + data.event.len());
        self.template.render(&mut out, |slot| match slot {
            Slot::Event => Fill::Text(data.event),
            Slot::Channel => Fill::Text(data.channel),
            Slot::Data => Fill::Json(data.json),
            _ => Fill::Text(&timestamp),
        });
        out
    }

    /// The payload that a filter looks into: the data, or the data inside of a whole envelope.
    #[must_use]
    pub fn payload<'a>(&self, data: &EventData<'a>) -> &'a str {
        self.envelope(data).and_then(|envelope| envelope.payload(data)).unwrap_or(data.json)
    }
}

/// A decoded frame of a client.
#[derive(Debug)]
pub enum ClientMessage<'a> {
    /// A token, if the field has one.
    Auth(Option<Cow<'a, str>>),
    Subscribe(Object<'a>),
    Unsubscribe(Object<'a>),
    /// An answer to our ping.
    Pong,
    /// A ping of the client's own.
    Ping,
    Application {
        message_type: Cow<'a, str>,
        object: Object<'a>,
    },
}

impl Dialect {
    /// The frames that only the server sends, by their keys: all but events.
    pub(crate) fn server_frames(&self) -> impl Iterator<Item = (&'static str, Cow<'_, Frame>)> {
        // Whole, so that none is forgotten.
        let Frames { event: _, auth_ok, auth_error, error, ping, pong, subscribed } = &self.out;
        let frames = [
            ("auth_ok", auth_ok.as_ref()),
            ("auth_error", auth_error.as_ref()),
            ("error", Some(error)),
            ("ping", ping.as_ref()),
            ("pong", pong.as_ref()),
            ("subscribed", subscribed.as_ref()),
        ];
        let frames = frames.into_iter().filter_map(|(key, frame)| Some((key, Cow::Borrowed(frame?))));
        // An answer that is not JSON looks like no event.
        let answers = self.keepalives.iter().filter_map(|(_, answer)| Frame::parse(answer, &[]).ok());
        frames.chain(answers.map(|answer| ("keepalives", Cow::Owned(answer))))
    }

    /// Decodes a client's text frame.
    ///
    /// # Errors
    /// The code to answer with: too deep, not JSON, no object, no type.
    pub fn decode<'a>(&self, text: &'a str, depth_max: usize) -> Result<ClientMessage<'a>, ErrorCode> {
        if json::deeper_than(text, depth_max) {
            return Err(ErrorCode::TooDeep);
        }
        let object = match Object::parse(text) {
            Ok(object) => object,
            Err(error) if error.is_data() && json::is_json(text) => return Err(ErrorCode::NotAnObject),
            Err(_) => return Err(ErrorCode::InvalidJson),
        };
        let message_type =
            object.at(&self.type_field).and_then(json::string).ok_or(ErrorCode::MissingType)?;
        let is = |name: &Option<String>| name.as_deref() == Some(message_type.as_ref());
        if let Some(auth) = self.auth.as_ref().filter(|auth| auth.message_type == message_type) {
            return Ok(ClientMessage::Auth(object.at(&auth.token).and_then(json::string)));
        }
        Ok(if is(&self.pong) {
            ClientMessage::Pong
        } else if is(&self.ping) {
            ClientMessage::Ping
        } else if is(&self.subscribe) {
            ClientMessage::Subscribe(object)
        } else if is(&self.unsubscribe) {
            ClientMessage::Unsubscribe(object)
        } else {
            ClientMessage::Application { message_type, object }
        })
    }

    /// The name of `code` in this dialect.
    #[must_use]
    pub fn code(&self, code: ErrorCode) -> &str {
        Self::name_of(code, &self.error_codes)
    }

    /// The name of `code` where these have others.
    pub(crate) fn name_of(code: ErrorCode, renamed: &[(ErrorCode, String)]) -> &str {
        renamed.iter().find(|(c, _)| *c == code).map_or_else(|| code.as_str(), |(_, name)| name.as_str())
    }

    /// The error frame. `details` is a JSON object.
    #[must_use]
    pub fn render_error(&self, code: ErrorCode, message: &str, details: &str, now: Now) -> String {
        self.render(&self.out.error, now, |slot| match slot {
            Slot::Code => Some(Fill::Text(self.code(code))),
            Slot::Message => Some(Fill::Text(message)),
            Slot::Details => Some(Fill::Json(details)),
            _ => None,
        })
    }

    /// The auth_error frame, or the error frame where the dialect has none.
    #[must_use]
    pub fn render_auth_error(&self, code: ErrorCode, message: &str, details: &str, now: Now) -> String {
        match &self.out.auth_error {
            None => self.render_error(code, message, details, now),
            Some(frame) => self.render(frame, now, |slot| match slot {
                Slot::Code => Some(Fill::Text(self.code(code))),
                Slot::Message => Some(Fill::Text(message)),
                _ => None,
            }),
        }
    }

    /// The frame that says that a token was accepted; `permissions` is a JSON array.
    #[must_use]
    pub fn render_auth_ok(
        &self,
        user: &str,
        role: Option<&str>,
        permissions: &str,
        now: Now,
    ) -> Option<String> {
        let frame = self.out.auth_ok.as_ref()?;
        Some(self.render(frame, now, |slot| match slot {
            Slot::User => Some(Fill::Text(user)),
            Slot::Role => Some(role.map_or(Fill::Json("null"), Fill::Text)),
            Slot::Permissions => Some(Fill::Json(permissions)),
            _ => None,
        }))
    }

    #[must_use]
    pub fn render_ping(&self, now: Now) -> Option<String> {
        self.out.ping.as_ref().map(|frame| self.render(frame, now, |_| None))
    }

    /// The answer to a client's own ping.
    #[must_use]
    pub fn render_pong(&self, now: Now) -> Option<String> {
        self.out.pong.as_ref().map(|frame| self.render(frame, now, |_| None))
    }

    #[must_use]
    pub fn render_subscribed(&self, channel: &str, now: Now) -> Option<String> {
        let frame = self.out.subscribed.as_ref()?;
        Some(self.render(frame, now, |slot| (slot == Slot::Channel).then_some(Fill::Text(channel))))
    }

    #[allow(clippy::unused_self)]
    fn render<'a>(&self, frame: &Frame, now: Now, fill: impl Fn(Slot) -> Option<Fill<'a>>) -> String {
        let timestamp = now.rfc3339();
        let mut out = String::with_capacity(frame.source().len() + 64);
        // The template's slots were checked, so what `fill` does not know is the time.
        frame.render(&mut out, |slot| match fill(slot) {
            Some(Fill::Json(text)) => Fill::Json(text),
            Some(Fill::Text(text)) => Fill::Text(text),
            None => Fill::Text(&timestamp),
        });
        out
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::tests::now;
    use proptest::prelude::*;

    /// The typed dialect, as the shipped routes.toml has it.
    pub(crate) fn typed() -> Dialect {
        let frame = |text: &str, slots| Some(Frame::parse(text, slots).unwrap());
        Dialect {
            name: "typed".into(),
            type_field: "type".into(),
            auth: Some(AuthMessage { message_type: "auth".into(), token: "token".into() }),
            subscribe: Some("subscribe".into()),
            unsubscribe: Some("unsubscribe".into()),
            pong: Some("pong".into()),
            ping: None,
            keepalives: Vec::new(),
            binary_is_json: false,
            subprotocols: Vec::new(),
            out: Frames {
                event: EventFrame::new(
                    Frame::parse(r#"{"type":{event},"data":{data},"timestamp":{now}}"#, Frames::EVENT).unwrap(),
                ),
                auth_ok: frame(
                    r#"{"type":"auth_response","data":{"authenticated":true,"user_id":{user},"role":{role},"permissions":{permissions}}}"#,
                    Frames::AUTH_OK,
                ),
                auth_error: frame(
                    r#"{"type":"auth_error","data":{"error":{code},"message":{message}}}"#,
                    Frames::AUTH_ERROR,
                ),
                error: Frame::parse(
                    r#"{"type":"error","data":{"error_code":{code},"message":{message},"details":{details}}}"#,
                    Frames::ERROR,
                )
                .unwrap(),
                ping: frame(r#"{"type":"ping","timestamp":{now}}"#, Frames::PING),
                pong: None,
                subscribed: None,
            },
            error_codes: Vec::new(),
            reserved: ["auth_error", "auth_response", "error", "ping"].map(str::to_owned).to_vec(),
        }
    }

    fn channel_event() -> EventFrame {
        EventFrame::new(
            Frame::parse(
                r#"{"type":"event","channel":{channel},"data":{data},"timestamp":{now}}"#,
                Frames::EVENT,
            )
            .unwrap(),
        )
    }

    fn data<'a>(event: &'a str, json: &'a str) -> EventData<'a> {
        EventData { event, channel: "files", json, by_client: false }
    }

    #[test]
    fn bare_data_gets_one_envelope_and_keeps_its_text() {
        let event = typed().out.event;
        let json = r#"{ "n": 1.50, "s":"\u00e9\n", "big": 123456789012345678901234567890 }"#;
        assert_eq!(
            event.render(&data("progress_update", json), now()),
            format!(r#"{{"type":"progress_update","data":{json},"timestamp":"2025-01-21T10:01:00Z"}}"#)
        );
    }

    #[test]
    fn a_whole_envelope_passes_as_it_is() {
        let event = typed().out.event;
        let whole = r#"{"timestamp":"t","type":"progress_update","data":{"a":1}}"#;
        assert_eq!(event.render(&data("progress_update", whole), now()), whole);
        assert_eq!(event.payload(&data("progress_update", whole)), r#"{"a":1}"#);
        let channel = channel_event();
        let whole = r#"{"type":"event","channel":"files","data":1,"timestamp":"t"}"#;
        assert_eq!(channel.render(&data("anything", whole), now()), whole);
    }

    #[test]
    fn data_that_only_resembles_an_envelope_is_data() {
        let event = typed().out.event;
        for json in [
            r#"{"type":"stdout","data":"x"}"#,
            r#"{"type":"output"}"#,
            r#"{"type":7,"data":1}"#,
            r#"{"type":"auth_error","type":"output","data":1}"#,
            r#"{"type":"output","data":1,"t\u0079pe":"auth_error"}"#,
            r#"{"type":"output","data":1,"data":2}"#,
            r#"{"type":"output","data":1,"timestamp":"t","error":"x"}"#,
            r#"["output"]"#,
            "\"output\"",
            "null",
        ] {
            let rendered = event.render(&data("output", json), now());
            assert!(rendered.starts_with(&format!(r#"{{"type":"output","data":{json},"#)), "{rendered}");
        }
        let other_channel = r#"{"type":"event","channel":"git","data":1}"#;
        assert!(channel_event().render(&data("e", other_channel), now()).contains(r#""data":{"type""#));
    }

    #[test]
    fn a_clients_envelope_is_data() {
        let whole = r#"{"type":"client-run","data":{"a":1},"timestamp":"t"}"#;
        let event = typed().out.event;
        let by_client = EventData { by_client: true, ..data("client-run", whole) };
        assert!(
            event.render(&by_client, now()).starts_with(&format!(r#"{{"type":"client-run","data":{whole},"#))
        );
        assert_eq!(event.payload(&by_client), whole, "and a filter looks into it as data");
    }

    #[test]
    fn messages_are_told_apart() {
        let dialect = typed();
        let kind = |text: &str| match dialect.decode(text, 8) {
            Ok(ClientMessage::Auth(token)) => format!("auth {token:?}"),
            Ok(ClientMessage::Subscribe(o)) => format!("subscribe {:?}", o.get("environment_id")),
            Ok(ClientMessage::Unsubscribe(_)) => "unsubscribe".into(),
            Ok(ClientMessage::Pong) => "pong".into(),
            Ok(ClientMessage::Ping) => "ping".into(),
            Ok(ClientMessage::Application { message_type, .. }) => format!("application {message_type}"),
            Err(code) => code.as_str().into(),
        };
        for (text, expected) in [
            (r#"{"type":"auth","token":"Bearer x"}"#, "auth Some(\"Bearer x\")"),
            (r#"{"type":"auth"}"#, "auth None"),
            (r#"{"type":"auth","token":7}"#, "auth None"),
            (r#"{"type":"subscribe","environment_id":"env_456"}"#, r#"subscribe Some("\"env_456\"")"#),
            (r#"{"type":"unsubscribe"}"#, "unsubscribe"),
            (r#"{"type":"pong","timestamp":"…"}"#, "pong"),
            (r#"{"type":"ping"}"#, "application ping"),
            (r#"{"type":"run","x":1}"#, "application run"),
            (r#"{"type":"r\u0075n"}"#, "application run"),
            ("hello", "INVALID_JSON"),
            ("", "INVALID_JSON"),
            ("{\"type\":\"a\"", "INVALID_JSON"),
            ("[]", "NOT_AN_OBJECT"),
            ("\"auth\"", "NOT_AN_OBJECT"),
            ("{}", "MISSING_TYPE"),
            (r#"{"type":1}"#, "MISSING_TYPE"),
            (r#"{"type":"a","d":[[[[[[[[1]]]]]]]]}"#, "MESSAGE_TOO_DEEP"),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    #[test]
    fn frames_are_the_contracts() {
        let dialect = typed();
        assert_eq!(
            dialect
                .render_auth_ok("123", Some("teacher"), r#"["content:generate","roblox:read"]"#, now())
                .unwrap(),
            r#"{"type":"auth_response","data":{"authenticated":true,"user_id":"123","role":"teacher","permissions":["content:generate","roblox:read"]}}"#
        );
        assert_eq!(
            dialect.render_auth_error(
                ErrorCode::InvalidToken,
                "JWT token is invalid or expired",
                "{}",
                now()
            ),
            r#"{"type":"auth_error","data":{"error":"INVALID_TOKEN","message":"JWT token is invalid or expired"}}"#
        );
        assert_eq!(
            dialect.render_ping(now()).unwrap(),
            r#"{"type":"ping","timestamp":"2025-01-21T10:01:00Z"}"#
        );
        let renamed = Dialect { error_codes: vec![(ErrorCode::RateLimited, "SLOW_DOWN".into())], ..typed() };
        assert!(renamed.render_error(ErrorCode::RateLimited, "m", "{}", now()).contains("\"SLOW_DOWN\""));
    }

    proptest! {
        #[test]
        fn whatever_the_data_one_envelope_comes_out(event in ".{1,20}", text in ".{0,60}") {
            let json = serde_json::to_string(&text).unwrap();
            let rendered = typed().out.event.render(&data(&event, &json), now());
            let object = Object::parse(&rendered).unwrap();
            prop_assert_eq!(object.string("type").unwrap(), event.as_str());
            prop_assert_eq!(object.get("data").unwrap(), json.as_str());
        }

        #[test]
        fn no_frame_panics_the_decoder(text in ".*") {
            let _ = typed().decode(&text, 64);
        }
    }
}
