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
    /// An in-band subscription is over; without it nothing is sent.
    pub unsubscribed: Option<Frame>,
    /// Who is on a presence channel, once it is subscribed; without it nothing is sent.
    pub members: Option<Frame>,
    /// A member has come; without it nothing is sent.
    pub member_added: Option<Frame>,
    /// A member has left; without it nothing is sent.
    pub member_removed: Option<Frame>,
    /// A cache channel has no last event; without it nothing is sent.
    pub cache_miss: Option<Frame>,
    /// A backend's answer to a client's message; needed for `reply = "json"`.
    pub reply: Option<Frame>,
}

impl Frames {
    // The placeholders that each frame may use.
    pub const EVENT: &'static [Slot] = &[Slot::Event, Slot::Channel, Slot::Data, Slot::Sender, Slot::Now];
    /// The data of an event that a route reshapes.
    pub const RESHAPED: &'static [Slot] = Self::EVENT;
    pub const AUTH_OK: &'static [Slot] = &[Slot::User, Slot::Role, Slot::Permissions, Slot::Now];
    pub const AUTH_ERROR: &'static [Slot] = &[Slot::Code, Slot::Message, Slot::Now];
    pub const ERROR: &'static [Slot] = &[Slot::Code, Slot::Message, Slot::Details, Slot::Now];
    pub const PING: &'static [Slot] = &[Slot::Now];
    pub const SUBSCRIBED: &'static [Slot] = &[Slot::Channel, Slot::Now];
    pub const MEMBERS: &'static [Slot] = &[Slot::Channel, Slot::Count, Slot::Members, Slot::Now];
    pub const MEMBER: &'static [Slot] = &[Slot::Channel, Slot::MemberId, Slot::Info, Slot::Now];
    pub const REPLY: &'static [Slot] = &[Slot::Data, Slot::Type, Slot::Now];
    pub const BODY: &'static [Slot] = &[Slot::Data, Slot::Frame, Slot::Type, Slot::User, Slot::Now];

    /// Those that there are, by their keys.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &Frame)> {
        // Whole, so that none is forgotten.
        let Self {
            event,
            auth_ok,
            auth_error,
            error,
            ping,
            pong,
            subscribed,
            unsubscribed,
            members,
            member_added,
            member_removed,
            cache_miss,
            reply,
        } = self;
        let frames = [
            ("event", Some(event.template())),
            ("auth_ok", auth_ok.as_ref()),
            ("auth_error", auth_error.as_ref()),
            ("error", Some(error)),
            ("ping", ping.as_ref()),
            ("pong", pong.as_ref()),
            ("subscribed", subscribed.as_ref()),
            ("unsubscribed", unsubscribed.as_ref()),
            ("members", members.as_ref()),
            ("member_added", member_added.as_ref()),
            ("member_removed", member_removed.as_ref()),
            ("cache_miss", cache_miss.as_ref()),
            ("reply", reply.as_ref()),
        ];
        frames.into_iter().filter_map(|(key, frame)| Some((key, frame?)))
    }
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
    /// The member who sent it, where Pusher says so.
    pub sender: Option<&'a str>,
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
        self.render_data(data, now)
    }

    /// What the data are: of a whole envelope those in it.
    #[must_use]
    pub fn contents<'a>(&self, data: &EventData<'a>) -> &'a str {
        let whole = self.envelope(data).filter(|envelope| envelope.is_whole(data));
        whole.and_then(|envelope| envelope.payload(data)).unwrap_or(data.json)
    }

    /// Renders the event, whose data are data whatever they look like.
    #[must_use]
    pub fn render_data(&self, data: &EventData<'_>, now: Now) -> String {
        let timestamp = now.rfc3339();
        let mut out =
            String::with_capacity(data.json.len() + self.template.source().len() + data.event.len());
        self.template.render(&mut out, |slot| match slot {
            Slot::Event => Fill::Text(data.event),
            Slot::Channel => Fill::Text(data.channel),
            Slot::Data => Fill::Json(data.json),
            Slot::Sender => data.sender.map_or(Fill::Json("null"), Fill::Text),
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
        let frames = self.out.all().filter(|(key, _)| *key != "event");
        let frames = frames.map(|(key, frame)| (key, Cow::Borrowed(frame)));
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
    pub fn render_unsubscribed(&self, channel: &str, now: Now) -> Option<String> {
        let frame = self.out.unsubscribed.as_ref()?;
        Some(self.render(frame, now, |slot| (slot == Slot::Channel).then_some(Fill::Text(channel))))
    }

    #[must_use]
    pub fn render_subscribed(&self, channel: &str, now: Now) -> Option<String> {
        let frame = self.out.subscribed.as_ref()?;
        Some(self.render(frame, now, |slot| (slot == Slot::Channel).then_some(Fill::Text(channel))))
    }

    /// The frame that says who is on a channel; `members` is a JSON array.
    #[must_use]
    pub fn render_members(&self, channel: &str, count: u32, members: &str, now: Now) -> Option<String> {
        let frame = self.out.members.as_ref()?;
        let count = count.to_string();
        Some(self.render(frame, now, |slot| match slot {
            Slot::Channel => Some(Fill::Text(channel)),
            Slot::Count => Some(Fill::Json(&count)),
            Slot::Members => Some(Fill::Json(members)),
            _ => None,
        }))
    }

    /// The frame that says that a member has come, or else left; `info` is JSON.
    #[must_use]
    pub fn render_member(
        &self,
        added: bool,
        channel: &str,
        (id, info): (&str, &str),
        now: Now,
    ) -> Option<String> {
        let frame = if added { &self.out.member_added } else { &self.out.member_removed };
        Some(self.render(frame.as_ref()?, now, |slot| match slot {
            Slot::Channel => Some(Fill::Text(channel)),
            Slot::MemberId => Some(Fill::Text(id)),
            Slot::Info => Some(Fill::Json(info)),
            _ => None,
        }))
    }

    /// The frame that says that a cache channel has no last event.
    #[must_use]
    pub fn render_cache_miss(&self, channel: &str, now: Now) -> Option<String> {
        let frame = self.out.cache_miss.as_ref()?;
        Some(self.render(frame, now, |slot| (slot == Slot::Channel).then_some(Fill::Text(channel))))
    }

    /// A backend's answer, JSON, to a client's message of this type.
    #[must_use]
    pub fn render_reply(&self, message_type: &str, data: &str, now: Now) -> Option<String> {
        let frame = self.out.reply.as_ref()?;
        Some(self.render(frame, now, |slot| match slot {
            Slot::Data => Some(Fill::Json(data)),
            Slot::Type => Some(Fill::Text(message_type)),
            _ => None,
        }))
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
pub(crate) mod tests;
