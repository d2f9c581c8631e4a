//! What becomes of a client's application message: an event for Pusher, a POST to a backend, or a refusal.

use std::borrow::Cow;

use secrecy::SecretString;

use super::error::ErrorCode;
use super::json::Object;
use crate::clock::Now;
use crate::config::{PublishAction, PublishRule, Route, TypeSet};
use crate::routes::{EVENT_BYTES_MAX, PathValues};
use crate::template::{Fill, Frame, Slot, Var};

/// A client message, ready to leave.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// An event on the client's channel.
    Trigger {
        /// The event's name.
        event: String,
        /// The event's data, JSON text of at most the route's `event_bytes_max` bytes.
        data: String,
    },
    /// A POST to a backend.
    Post {
        /// The URL.
        url: String,
        /// The body, JSON.
        body: String,
        /// Further headers.
        headers: Vec<(String, SecretString)>,
        /// Statuses after which it may be sent again.
        retry_on: Vec<u16>,
    },
}

/// A client message and who sent it.
pub struct Message<'a> {
    /// The frame, as it came.
    pub text: &'a str,
    /// Its type.
    pub message_type: &'a str,
    /// Its members.
    pub object: &'a Object<'a>,
    /// The values of the connection's path.
    pub values: &'a PathValues,
    /// The authenticated user.
    pub user: Option<&'a str>,
}

/// Applies the route's first rule that has the message's type.
///
/// # Errors
/// The code to answer with: no rule, a name or data that Pusher would not take, data missing.
pub fn prepare(route: &Route, message: &Message<'_>, now: Now) -> Result<Outgoing, ErrorCode> {
    if route.publish.is_empty() {
        return Err(ErrorCode::UnknownType);
    }
    let rule = route
        .publish
        .iter()
        .find(|rule| has_type(rule, message.message_type))
        .ok_or(ErrorCode::NotPublished)?;
    match &rule.action {
        PublishAction::Trigger { event, data, .. } => {
            let event = event.fill(|var| value(var, message)).ok_or(ErrorCode::InvalidField)?;
            check_event(&event)?;
            let data = match data {
                Some(template) => render(route, template, message, now)?,
                None => route.dialect.out.event.data_of(message.object).unwrap_or(message.text).to_owned(),
            };
            if data.len() > route.event_bytes_max {
                return Err(ErrorCode::TooLarge);
            }
            Ok(Outgoing::Trigger { event, data })
        }
        PublishAction::Post { url, body, headers, retry_on } => Ok(Outgoing::Post {
            url: url.fill_url(|var| value(var, message)).ok_or(ErrorCode::InvalidField)?,
            body: render(route, body, message, now)?,
            headers: headers.clone(),
            retry_on: retry_on.clone(),
        }),
    }
}

fn has_type(rule: &PublishRule, message_type: &str) -> bool {
    match &rule.types {
        TypeSet::Any => true,
        TypeSet::Listed(types) => types.iter().any(|t| t == message_type),
    }
}

/// Event names that Pusher reserves or refuses (Pusher docs, "Triggering events"), and control characters.
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
        Var::Subscribe(_) => None,
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

/// The name by which the route's old clients know an event: as the sender wrote it, where a rule says so.
#[must_use]
pub fn relayed_name<'a>(route: &Route, event: &'a str) -> &'a str {
    route
        .publish
        .iter()
        .find_map(|rule| match &rule.action {
            PublishAction::Trigger { event: template, relay_as_sent: true, .. } => {
                template.invert(event).filter(|message_type| has_type(rule, message_type))
            }
            _ => None,
        })
        .unwrap_or(event)
}
