//! A client's messages: what each is, whether it may pass, and where it goes.

use super::phases::State;
use super::{Action, Handled, Machine};
use crate::clock::Now;
use crate::json::Object;
use crate::legacy::dialect::ClientMessage;
use crate::legacy::error::ErrorCode;
use crate::routes::publish::{self, Message, Outgoing};

impl Machine {
    pub fn text(&mut self, text: &str, now: Now, out: &mut Vec<Action>) -> Handled {
        self.heard(now);
        match self.state {
            State::Live if self.route.echo => return self.echo(now, out),
            State::Live | State::Unauthenticated if self.is_keepalive(text) => {
                self.answer_keepalive(text, now, out);
            }
            State::Live => self.live_text(text, now, out),
            State::Unauthenticated => self.early_text(text, now, out),
            State::RefusalTold => self.flood_check(now, out),
            _ => {}
        }
        Handled::Consumed
    }

    pub fn binary(&mut self, now: Now, out: &mut Vec<Action>) -> Handled {
        self.heard(now);
        match self.state {
            State::Live if self.route.echo => return self.echo(now, out),
            // Before authentication too: a client that is told to authenticate would do it by another binary message.
            State::Live | State::Unauthenticated => {
                self.reject(ErrorCode::BinaryNotSupported, now, out);
            }
            State::RefusalTold => self.flood_check(now, out),
            _ => {}
        }
        Handled::Consumed
    }

    /// A binary message, where the dialect reads them as text ones.
    pub fn binary_text(&mut self, bytes: &[u8], now: Now, out: &mut Vec<Action>) -> Handled {
        match (std::str::from_utf8(bytes), &self.state) {
            (Ok(text), _) => self.text(text, now, out),
            (Err(_), State::Live | State::Unauthenticated) if !self.route.echo => {
                self.heard(now);
                self.reject(ErrorCode::InvalidJson, now, out);
                Handled::Consumed
            }
            (Err(_), _) => self.binary(now, out),
        }
    }

    fn echo(&mut self, now: Now, out: &mut Vec<Action>) -> Handled {
        if self.allowed(now, out) { Handled::Echo } else { Handled::Consumed }
    }

    /// Before authentication: `auth` is for it, a pong is harmless, all else needs it.
    fn early_text(&mut self, text: &str, now: Now, out: &mut Vec<Action>) {
        match self.route.dialect.decode(text, self.route.limits.depth_max) {
            Ok(ClientMessage::Auth(token)) => self.auth(token.as_deref(), now, out),
            Ok(ClientMessage::Pong) => self.flood_check(now, out),
            _ => self.reject(ErrorCode::AuthRequired, now, out),
        }
    }

    fn reject(&mut self, code: ErrorCode, now: Now, out: &mut Vec<Action>) {
        if self.allowed(now, out) {
            self.error(code, None, now, out);
        }
    }

    fn live_text(&mut self, text: &str, now: Now, out: &mut Vec<Action>) {
        let message = match self.route.dialect.decode(text, self.route.limits.depth_max) {
            Ok(ClientMessage::Pong) => return self.flood_check(now, out),
            Ok(ClientMessage::Ping) => return self.answer_ping(now, out),
            Ok(ClientMessage::Auth(token)) if self.route.auth.is_some() => {
                return self.auth(token.as_deref(), now, out);
            }
            message => message,
        };
        if !self.allowed(now, out) {
            return;
        }
        match message {
            Ok(ClientMessage::Subscribe(object)) => self.subscribe(&object, now, out),
            Ok(ClientMessage::Unsubscribe(object)) => self.unsubscribe(&object, now, out),
            Ok(ClientMessage::Application { message_type, object }) => {
                self.publish(text, &message_type, &object, now, out);
            }
            Ok(_) => self.error(ErrorCode::UnknownType, None, now, out),
            Err(code) => self.error(code, None, now, out),
        }
    }

    fn is_keepalive(&self, text: &str) -> bool {
        self.route.dialect.keepalives.iter().any(|(keepalive, _)| keepalive == text)
    }

    fn answer_keepalive(&mut self, text: &str, now: Now, out: &mut Vec<Action>) {
        let keepalives = self.route.dialect.keepalives.iter();
        let mut answers = keepalives.filter(|(keepalive, _)| keepalive == text).map(|(_, answer)| answer);
        out.extend(answers.next().filter(|answer| !answer.is_empty()).cloned().map(Action::Send));
        self.flood_check(now, out);
    }

    fn answer_ping(&mut self, now: Now, out: &mut Vec<Action>) {
        out.extend(self.route.dialect.render_pong(now).map(Action::Send));
        self.flood_check(now, out);
    }

    fn publish(
        &mut self,
        text: &str,
        message_type: &str,
        object: &Object<'_>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let channel = self.channel_of(object);
        let (values, user) = (&self.values, self.user());
        let named = channel.as_deref().unwrap_or_default();
        let member = self.member.as_ref();
        let message = Message { text, message_type, object, values, user, channel: named, member };
        match publish::prepare(&self.route, &message, now) {
            Ok(outgoing @ Outgoing::Drop) => out.push(Action::Publish {
                outgoing,
                channel: String::new(),
                message_type: message_type.to_owned(),
            }),
            Ok(outgoing) => match channel {
                Some(channel) => match self.outside_of_filter(&outgoing, &channel) {
                    None => {
                        out.push(Action::Publish { outgoing, channel, message_type: message_type.to_owned() })
                    }
                    Some(field) => {
                        let details = serde_json::json!({ "type": message_type, "field": field }).to_string();
                        self.error(ErrorCode::InvalidField, Some(&details), now, out);
                    }
                },
                None => self.error(ErrorCode::NotPublished, None, now, out),
            },
            Err(code) => {
                let details = serde_json::json!({ "type": message_type }).to_string();
                self.error(code, Some(&details), now, out);
            }
        }
    }

    /// What a client writes on a filtered route is for those who have the same value as it, and for nobody else: the
    /// filter's field, if an event has another value there, or none. A backend judges for itself what is posted to it, and
    /// another channel has not this filter.
    fn outside_of_filter(&self, outgoing: &Outgoing, channel: &str) -> Option<String> {
        let filter = self.route.filter.as_ref()?;
        let (Outgoing::Trigger { data, elsewhere: None, .. } | Outgoing::ClientEvent { data, .. }) = outgoing
        else {
            return None;
        };
        let own = publish::filtered_value(data, &filter.field).is_some_and(|value| {
            if self.route.filter_is_chosen() {
                self.subscriptions.has_with(channel, &value)
            } else {
                filter.equals.fill(|var| self.value_of(var, None)).is_some_and(|own| own == value)
            }
        });
        (!own).then(|| filter.field.join("."))
    }

    /// The channel a message is for: the client's, or where it has several the one the message names, if the
    /// client is subscribed to it.
    fn channel_of(&self, object: &Object<'_>) -> Option<String> {
        let channel = self.channel(Some(object)).ok()?;
        (!self.route.channel_is_chosen() || self.subscriptions.has(&channel)).then_some(channel)
    }
}
