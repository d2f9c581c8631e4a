//! What becomes of a client's application message: an event for Pusher, a POST to a backend, or a refusal.

use std::borrow::Cow;
use std::sync::Arc;

use secrecy::SecretString;

use crate::clock::Now;
use crate::exchange::Member;
use crate::json::{self, Object};
use crate::legacy::error::ErrorCode;
use crate::pusher::channel::{ChannelKind, EVENT_BYTES_MAX};
use crate::pusher::encryption::sealed_bytes;
use crate::routes::channel::{self, NoChannel};
use crate::routes::path::PathValues;
use crate::routes::route::{Elsewhere, PublishAction, PublishRule, Route, TypeSet, Way};
use crate::template::{Fill, Frame, Slot, Text, Var};

/// How Pusher has clients' events begin (Pusher docs, "Client events").
pub const CLIENT_PREFIX: &str = "client-";

/// A client message, ready to leave.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// An event by the API.
    Trigger {
        event: String,
        /// The event's data, JSON text of at most the route's `event_bytes_max` bytes.
        data: String,
        /// Its channel, where it is not the client's own.
        elsewhere: Option<String>,
        /// It is spared where nobody would get it.
        skip_if_empty: bool,
    },
    /// A client event of Pusher's on the client's channel.
    ClientEvent {
        event: String,
        /// As an event's.
        data: String,
        /// Whose own connection it leaves by; `None`: by the one that all share.
        member: Option<Arc<Member>>,
    },
    /// Nothing.
    Drop,
    /// A POST to a backend.
    Post {
        url: String,
        body: String,
        /// Further headers.
        headers: Vec<(String, SecretString)>,
        /// Statuses after which it may be sent again.
        retry_on: Vec<u16>,
        /// Whether its answer goes back to the sender.
        replies: bool,
    },
}

/// A client message and who sent it.
pub struct Message<'a> {
    /// The frame, as it came.
    pub text: &'a str,
    pub message_type: &'a str,
    pub object: &'a Object<'a>,
    pub values: &'a PathValues,
    pub user: Option<&'a str>,
    /// The channel that it is for, as far as it has one.
    pub channel: &'a str,
    /// Who the client is to Pusher, where its route makes it somebody.
    pub member: Option<&'a Arc<Member>>,
}

/// Applies the route's first rule that has the message's type.
///
/// # Errors
/// The code to answer with: no rule, a name that Pusher would not take or that clients would take for the server's,
/// data that is missing or too large.
pub fn prepare(route: &Route, message: &Message<'_>, now: Now) -> Result<Outgoing, ErrorCode> {
    if route.publish.is_empty() {
        return Err(ErrorCode::UnknownType);
    }
    let (_, rule) = rule_of(route, message.message_type).ok_or(ErrorCode::NotPublished)?;
    match &rule.action {
        PublishAction::Trigger { event, data, relay_as_sent, elsewhere, way } => {
            let event = event.fill(|var| value(var, message)).ok_or(ErrorCode::InvalidField)?;
            check_event(&event)?;
            let shown = if *relay_as_sent { message.message_type } else { event.as_str() };
            let reserved = elsewhere.as_ref().map_or(&route.reserved, |elsewhere| &elsewhere.reserved);
            if reserved.iter().any(|name| name == shown || *name == event) {
                return Err(ErrorCode::NotPublished);
            }
            let data = match data {
                Some(template) => render(route, template, message, now)?,
                None => route.dialect.out.event.data_of(message.object).unwrap_or(message.text).to_owned(),
            };
            let elsewhere =
                elsewhere.as_ref().map(|elsewhere| channel_of(elsewhere, route, message)).transpose()?;
            let channel = elsewhere.as_deref().unwrap_or(message.channel);
            if published_bytes(channel, data.len()) > route.event_bytes_max {
                return Err(ErrorCode::TooLarge);
            }
            Ok(match way {
                Way::Api => {
                    let skip_if_empty = rule.skip_if_empty;
                    Outgoing::Trigger { event, data, elsewhere, skip_if_empty }
                }
                Way::ClientEvent => Outgoing::ClientEvent { event, data, member: message.member.cloned() },
            })
        }
        PublishAction::Drop => Ok(Outgoing::Drop),
        PublishAction::Post { url, body, headers, retry_on, replies } => Ok(Outgoing::Post {
            url: url.fill_url(|var| value(var, message)).ok_or(ErrorCode::InvalidField)?,
            body: render(route, body, message, now)?,
            headers: headers.clone(),
            retry_on: retry_on.clone(),
            replies: *replies,
        }),
    }
}

/// The rule for messages of this type, and its place among the route's.
#[must_use]
pub fn rule_of<'r>(route: &'r Route, message_type: &str) -> Option<(usize, &'r PublishRule)> {
    route.publish.iter().enumerate().find(|(_, rule)| has_type(rule, message_type))
}

/// The other channel that a rule names. What a client writes never makes it one of another kind.
fn channel_of(elsewhere: &Elsewhere, route: &Route, message: &Message<'_>) -> Result<String, ErrorCode> {
    channel::fill(&elsewhere.channel, &route.subscribe_values, |var| value(var, message))
        .map_err(NoChannel::error_code)
}

/// Bytes of an event's data as it is published on `channel`: the limit counts what is sealed, not what it says.
#[must_use]
pub fn published_bytes(channel: &str, bytes: usize) -> usize {
    if ChannelKind::of(channel) == ChannelKind::Encrypted { sealed_bytes(bytes) } else { bytes }
}

fn has_type(rule: &PublishRule, message_type: &str) -> bool {
    match &rule.types {
        TypeSet::Any => true,
        TypeSet::Listed(types) => types.iter().any(|t| t == message_type),
    }
}

/// Event names that Pusher reserves or rejects (Pusher docs, "Triggering events"), and control characters.
fn check_event(event: &str) -> Result<(), ErrorCode> {
    let reserved = event.starts_with("pusher:") || event.starts_with("pusher_internal:");
    let legal = !event.is_empty() && event.len() <= EVENT_BYTES_MAX && !event.chars().any(char::is_control);
    if reserved || !legal { Err(ErrorCode::InvalidField) } else { Ok(()) }
}

fn value<'a>(var: &Var, message: &Message<'a>) -> Option<Cow<'a, str>> {
    match var {
        Var::Path(name) => message.values.get(name).map(Cow::Borrowed),
        Var::User => message.user.map(Cow::Borrowed),
        Var::Type => Some(Cow::Borrowed(message.message_type)),
        // Whether the client is subscribed with this value is looked at by whoever knows its subscriptions.
        Var::Subscribe(field) => message.object.at(field).and_then(json::scalar),
    }
}

fn render(route: &Route, template: &Frame, message: &Message<'_>, now: Now) -> Result<String, ErrorCode> {
    let data = route.dialect.out.event.data_member().and_then(|name| message.object.get(name));
    if template.uses(Slot::Data) && data.is_none() {
        return Err(ErrorCode::InvalidField);
    }
    let timestamp = now.rfc3339();
    let mut out = String::with_capacity(template.source().len() + message.text.len());
    template.render(&mut out, |slot| match slot {
        Slot::Data => Fill::Json(data.unwrap_or("null")),
        Slot::Frame => Fill::Json(message.text),
        Slot::Type => Fill::Text(message.message_type),
        Slot::User => message.user.map_or(Fill::Json("null"), Fill::Text),
        _ => Fill::Text(&timestamp),
    });
    Ok(out)
}

/// What a filter on `field` finds in a published event's data; `None` when it finds nothing, or when a member on the
/// way stands there twice, of which one reader takes the first and another the last.
#[must_use]
pub fn filtered_value<'a>(data: &'a str, field: &[String]) -> Option<Cow<'a, str>> {
    json::only_at_path(data, field).and_then(json::scalar)
}

/// The name by which the route's old clients know an event: as the sender wrote it, where a rule says so and it is
/// not a name of the server's.
#[must_use]
pub fn relayed_name<'a>(route: &Route, event: &'a str) -> &'a str {
    route
        .publish
        .iter()
        .find_map(|rule| match &rule.action {
            PublishAction::Trigger { event: template, relay_as_sent: true, elsewhere: None, .. } => {
                template.invert(event).filter(|message_type| has_type(rule, message_type))
            }
            _ => None,
        })
        .filter(|sent| !route.dialect.reserved.iter().any(|name| name == sent))
        .unwrap_or(event)
}

/// Which events clients can cause, on this bridge and on others with the same routes.
#[derive(Debug, Default)]
pub struct ClientEvents(Vec<ClientEvent>);

#[derive(Debug)]
struct ClientEvent {
    channel: Text,
    name: Text,
}

impl ClientEvents {
    /// By the publish rules of these routes. Names that begin as Pusher has it need no rule.
    #[must_use]
    pub fn of<'r>(routes: impl IntoIterator<Item = &'r Route>) -> Self {
        let mut events = Vec::new();
        for route in routes {
            for rule in &route.publish {
                let PublishAction::Trigger { event, elsewhere, .. } = &rule.action else { continue };
                if event.literal_prefix().starts_with(CLIENT_PREFIX) {
                    continue;
                }
                let names = match &rule.types {
                    TypeSet::Any => vec![event.clone()],
                    TypeSet::Listed(types) => types.iter().map(|named| event.with_type(named)).collect(),
                };
                let channel = elsewhere.as_ref().map_or(&route.channel, |elsewhere| &elsewhere.channel);
                events.extend(names.into_iter().map(|name| ClientEvent { channel: channel.clone(), name }));
            }
        }
        Self(events)
    }

    /// Whether a client may have caused the event `name` on `channel`.
    #[must_use]
    pub fn has(&self, channel: &str, name: &str) -> bool {
        name.starts_with(CLIENT_PREFIX)
            || self.0.iter().any(|event| event.name.could_be(name) && event.channel.could_be(channel))
    }
}
