//! What can happen to a session: a client's frames, answers to its actions, notices, and time.

use std::borrow::Cow;

use super::timers::due;
use super::{Action, Chosen, FIXED, Machine, PINGS_OWED_MAX, State};
use crate::clock::Now;
use crate::exchange::{Interest, Subscribe};
use crate::json::{self, Object};
use crate::legacy::close::CloseReason;
use crate::legacy::dialect::ClientMessage;
use crate::legacy::error::ErrorCode;
use crate::pusher::channel::check_channel;
use crate::routes::publish::{self, Message, Outgoing};
use crate::routes::route::OnGap;
use crate::template::Var;
use std::time::Duration;

/// Longest value of a filter, in bytes.
const FILTER_VALUE_BYTES_MAX: usize = 256;

impl Machine {
    /// A text message.
    pub fn text(&mut self, text: &str, now: Now, out: &mut Vec<Action>) {
        self.heard(now);
        match self.state {
            State::Live if self.route.echo => self.echo(now, out),
            State::Live | State::Unauthenticated if self.is_keepalive(text) => {
                self.answer_keepalive(text, now, out);
            }
            State::Live => self.live_text(text, now, out),
            State::Unauthenticated => self.early_text(text, now, out),
            State::Refused => self.flood_check(now, out),
            _ => {}
        }
    }

    /// A binary message.
    pub fn binary(&mut self, now: Now, out: &mut Vec<Action>) {
        self.heard(now);
        match self.state {
            State::Live if self.route.echo => self.echo(now, out),
            // Before authentication too: a client that is told to authenticate would do it by another binary message.
            State::Live | State::Unauthenticated => {
                self.refuse_message(ErrorCode::BinaryNotSupported, now, out);
            }
            State::Refused => self.flood_check(now, out),
            _ => {}
        }
    }

    /// A binary message, where the dialect reads them as text ones.
    pub fn binary_text(&mut self, bytes: &[u8], now: Now, out: &mut Vec<Action>) {
        match (std::str::from_utf8(bytes), &self.state) {
            (Ok(text), _) => self.text(text, now, out),
            (Err(_), State::Live | State::Unauthenticated) if !self.route.echo => {
                self.heard(now);
                self.refuse_message(ErrorCode::InvalidJson, now, out);
            }
            (Err(_), _) => self.binary(now, out),
        }
    }

    /// A sign of life that is no message: the client reads what had waited for it.
    pub fn heard(&mut self, now: Now) {
        self.timers.heard = now.mono;
        self.timers.probe = None;
    }

    /// A WebSocket ping or pong. tungstenite answers the ping.
    pub fn control(&mut self, now: Now, out: &mut Vec<Action>) {
        self.heard(now);
        self.flood_check(now, out);
    }

    /// The outcome of [`Action::Acquire`].
    pub fn slots(&mut self, outcome: Result<(), ErrorCode>, now: Now, out: &mut Vec<Action>) {
        let State::Acquiring(claims) = std::mem::replace(&mut self.state, State::Closed) else {
            return;
        };
        if let Err(code) = outcome {
            self.timers.expiry = None;
            self.error(code, None, now, out);
            return self.await_token(now);
        }
        self.user = Some(claims.identity());
        let confirm = self.auth_ok(&claims, now);
        if self.route.channel_is_chosen() {
            out.extend(confirm.map(Action::Send));
            return self.go_live(now);
        }
        self.timers.phase = Some(now.mono + self.subscribe_wait);
        self.state = State::Subscribing;
        self.subscribe_fixed(confirm, now, out);
        if !matches!(out.last(), Some(Action::Subscribe(_))) {
            self.give_up_subscribing(now, out);
        }
    }

    /// The subscription stands. Its `confirm` frame has been sent.
    pub fn subscribed(&mut self, id: u32, now: Now, _out: &mut Vec<Action>) {
        if id == FIXED {
            match self.state {
                State::Subscribing => self.go_live(now),
                // On a route without authentication it was awaited while the client was in service already.
                State::Live => self.timers.phase = None,
                _ => {}
            }
        } else if let Some(chosen) = self.chosen.iter_mut().find(|chosen| chosen.id == id) {
            chosen.awaited_until = None;
        }
    }

    /// A message of this client could not be carried.
    pub fn publish_failed(&mut self, code: ErrorCode, message_type: &str, now: Now, out: &mut Vec<Action>) {
        if self.is_live() {
            let details = serde_json::json!({ "type": message_type }).to_string();
            self.error(code, Some(&details), now, out);
        }
    }

    /// Upstream events may have been missed. Closes are spread over `window`: everybody missed them at once, and who
    /// comes back asks for the state of things. Until then events go on.
    pub fn gap(&mut self, window: Duration, now: Now, out: &mut Vec<Action>) {
        match self.route.on_gap {
            _ if !self.is_live() => {}
            OnGap::Ignore => {}
            OnGap::Notify => self.error(ErrorCode::Gap, None, now, out),
            OnGap::Close if window.is_zero() => self.close(CloseReason::Gap, out),
            OnGap::Close => self.timers.schedule_gap(window, now),
        }
    }

    /// Somebody wants this connection's slot: it must show within `timeout` that it is alive.
    pub fn probe(&mut self, timeout: Duration, now: Now, out: &mut Vec<Action>) {
        if matches!(self.state, State::Closed) || self.timers.probe.is_some() {
            return;
        }
        self.timers.probe = Some(now.mono + timeout);
        self.ping(true, now, out);
    }

    /// Somebody took this connection's slot.
    pub fn replaced(&mut self, out: &mut Vec<Action>) {
        if !matches!(self.state, State::Closed) {
            self.close(CloseReason::Replaced, out);
        }
    }

    /// The server shuts down; this connection is to close `after` some time.
    pub fn drain(&mut self, after: Duration, now: Now) {
        if !matches!(self.state, State::Closed) {
            self.timers.drain = Some(now.mono + after);
        }
    }

    /// The time has come that [`Machine::deadline`] said.
    pub fn timer(&mut self, now: Now, out: &mut Vec<Action>) {
        if due(self.timers.drain, now) {
            return self.close(CloseReason::GoingAway, out);
        }
        if due(self.timers.gap, now) {
            return self.close(CloseReason::Gap, out);
        }
        if due(self.timers.probe, now) {
            if self.wants_frames() {
                return self.close(CloseReason::Replaced, out);
            }
            // Its answer is not read yet: that is no sign of death.
            self.timers.probe = None;
        }
        if due(self.timers.phase, now) {
            self.phase_over(now, out);
        }
        if due(self.timers.expiry, now) {
            self.auth_error(ErrorCode::InvalidToken, None, now, out);
            return self.close(CloseReason::TokenExpired, out);
        }
        if due(self.timers.silence, now) {
            // While a token is verified the client's frames wait unread: that is no silence.
            let heard = if self.wants_frames() { self.timers.heard } else { now.mono };
            let until = heard + self.route.heartbeat.timeout;
            if until <= now.mono {
                return self.close(CloseReason::Silent, out);
            }
            self.timers.silence = Some(until);
        }
        if due(self.timers.ping, now) {
            self.ping(false, now, out);
            self.timers.schedule_ping(self.route.heartbeat, now);
        }
        self.give_up_chosen(now, out);
    }

    fn phase_over(&mut self, now: Now, out: &mut Vec<Action>) {
        self.timers.phase = None;
        match self.state {
            State::Unauthenticated | State::Verifying { renewal: false, .. } => {
                let failures = self.too_many_wrong_tokens;
                self.close(if failures { CloseReason::AuthFailures } else { CloseReason::AuthDeadline }, out);
            }
            State::Subscribing => self.give_up_subscribing(now, out),
            State::Refused => self.close(CloseReason::Refused, out),
            State::Live => self.tell_unsubscribed(now, out),
            _ => {}
        }
    }

    /// The subscription does not come to stand: the client is told, and may try again.
    fn give_up_subscribing(&mut self, now: Now, out: &mut Vec<Action>) {
        out.push(Action::Unsubscribe(FIXED));
        out.push(Action::Release);
        self.user = None;
        self.timers.expiry = None;
        self.error(ErrorCode::UpstreamUnavailable, None, now, out);
        self.await_token(now);
    }

    /// On a route without authentication the client stays in service: its channel may yet be subscribed, and if it
    /// were closed, it would come back at once.
    fn tell_unsubscribed(&self, now: Now, out: &mut Vec<Action>) {
        let channel = self.channel(None).unwrap_or_default();
        let details = serde_json::json!({ "channel": channel }).to_string();
        self.error(ErrorCode::UpstreamUnavailable, Some(&details), now, out);
    }

    fn give_up_chosen(&mut self, now: Now, out: &mut Vec<Action>) {
        while let Some(at) = self.chosen.iter().position(|chosen| due(chosen.awaited_until, now)) {
            let chosen = self.chosen.swap_remove(at);
            out.push(Action::Unsubscribe(chosen.id));
            let details = serde_json::json!({ "channel": self.route.alias(&chosen.channel) }).to_string();
            self.error(ErrorCode::UpstreamUnavailable, Some(&details), now, out);
        }
    }

    // ------------------------------------------------------------------------------- a client's messages

    fn echo(&mut self, now: Now, out: &mut Vec<Action>) {
        if self.allowed(now, out) {
            out.push(Action::Echo);
        }
    }

    /// Before authentication: `auth` is for it, a pong is harmless, all else needs it.
    fn early_text(&mut self, text: &str, now: Now, out: &mut Vec<Action>) {
        match self.route.dialect.decode(text, self.route.limits.depth_max) {
            Ok(ClientMessage::Auth(token)) => self.auth(token.as_deref(), now, out),
            Ok(ClientMessage::Pong) => self.flood_check(now, out),
            _ => self.refuse_message(ErrorCode::AuthRequired, now, out),
        }
    }

    fn refuse_message(&mut self, code: ErrorCode, now: Now, out: &mut Vec<Action>) {
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

    /// Counts a message; above its rate the client is told, and above the ceiling closed.
    fn allowed(&mut self, now: Now, out: &mut Vec<Action>) -> bool {
        let Err(wait) = self.gates.message(&self.route.limits, now.mono) else { return true };
        if self.gates.control(&self.route.limits, now.mono).is_err() {
            self.close(CloseReason::ControlFlood, out);
        } else {
            self.rate_error(ErrorCode::RateLimited, wait, now, out);
        }
        false
    }

    /// Counts a pong or control frame. Answers to pings of ours are free: how many there are is not up to the
    /// client, for others who want its slot have it probed.
    fn flood_check(&mut self, now: Now, out: &mut Vec<Action>) {
        if self.pings_owed > 0 {
            self.pings_owed -= 1;
        } else if self.gates.control(&self.route.limits, now.mono).is_err() {
            self.close(CloseReason::ControlFlood, out);
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
        let message = Message { text, message_type, object, values: &self.values, user: self.user() };
        match publish::prepare(&self.route, &message, now) {
            Ok(outgoing) => match self.channel_of(object) {
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
    /// filter's field, if an event has another value there, or none. A backend judges for itself what is posted to it.
    fn outside_of_filter(&self, outgoing: &Outgoing, channel: &str) -> Option<String> {
        let filter = self.route.filter.as_ref()?;
        let Outgoing::Trigger { data, .. } = outgoing else { return None };
        let own = publish::filtered_value(data, &filter.field).is_some_and(|value| {
            if self.route.filter_is_chosen() {
                let chosen =
                    |chosen: &Chosen| chosen.channel == channel && chosen.value.as_deref() == Some(&value);
                self.chosen.iter().any(chosen)
            } else {
                filter.equals.fill(|var| self.value_of(var, None)).is_some_and(|own| own == value)
            }
        });
        (!own).then(|| filter.field.join("."))
    }

    // ----------------------------------------------------------------------------- in-band subscriptions

    fn subscribe(&mut self, object: &Object<'_>, now: Now, out: &mut Vec<Action>) {
        let (channel, value) = match self.choice(object) {
            Ok(choice) => choice,
            Err((code, details)) => return self.error(code, Some(&details), now, out),
        };
        let confirm = self.route.dialect.render_subscribed(self.route.alias(&channel), now);
        if let Some(standing) = self.find_chosen(&channel, value.as_ref()) {
            if self.chosen.get(standing).is_some_and(|chosen| chosen.awaited_until.is_none()) {
                out.extend(confirm.map(Action::Send));
            }
            return;
        }
        if self.chosen.len() >= self.route.limits.subscriptions_max {
            return self.error(ErrorCode::TooManySubscriptions, None, now, out);
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1).max(FIXED + 1);
        let interest = value.clone().map_or(Interest::All, Interest::Value);
        out.push(Action::Subscribe(Subscribe { id, channel: channel.clone(), interest, confirm }));
        self.chosen.push(Chosen { id, channel, value, awaited_until: Some(now.mono + self.subscribe_wait) });
    }

    fn unsubscribe(&mut self, object: &Object<'_>, now: Now, out: &mut Vec<Action>) {
        match self.choice(object) {
            Ok((channel, value)) => {
                if let Some(at) = self.find_chosen(&channel, value.as_ref()) {
                    out.push(Action::Unsubscribe(self.chosen.swap_remove(at).id));
                }
            }
            Err((code, details)) => self.error(code, Some(&details), now, out),
        }
    }

    fn find_chosen(&self, channel: &str, value: Option<&String>) -> Option<usize> {
        self.chosen.iter().position(|chosen| chosen.channel == channel && chosen.value.as_ref() == value)
    }

    /// What a `subscribe` or `unsubscribe` names: a channel and perhaps a filter's value. An error comes with
    /// the details that say which field.
    fn choice(&self, object: &Object<'_>) -> Result<(String, Option<String>), (ErrorCode, String)> {
        if !self.route.channel_is_chosen() && !self.route.filter_is_chosen() {
            return Err((ErrorCode::UnknownType, "{}".to_owned()));
        }
        let filter = self.route.filter.as_ref();
        for field in [self.route.channel.subscribe_field(), filter.and_then(|f| f.equals.subscribe_field())]
            .into_iter()
            .flatten()
        {
            self.check_field(field, object)?;
        }
        let invalid = || (ErrorCode::InvalidField, "{}".to_owned());
        let channel = self.channel(Some(object)).ok_or_else(invalid)?;
        let value = match filter {
            None => None,
            Some(filter) => {
                Some(filter.equals.fill(|var| self.value_of(var, Some(object))).ok_or_else(invalid)?)
            }
        };
        if value.as_ref().is_some_and(|value| value.len() > FILTER_VALUE_BYTES_MAX) {
            return Err(invalid());
        }
        Ok((channel, value))
    }

    fn check_field(&self, field: &str, object: &Object<'_>) -> Result<(), (ErrorCode, String)> {
        let value = object.at(field).and_then(json::scalar);
        let allowed = self.route.subscribe_values.iter().find(|(name, _)| name == field);
        let accepted = value.is_some_and(|value| match allowed {
            Some((_, values)) => values.iter().any(|v| *v == value),
            None => {
                let set = self.route.value_sets.of_field(field);
                set.map_or(!value.is_empty(), |set| set.fits(&value))
            }
        });
        if accepted {
            return Ok(());
        }
        let mut details = serde_json::Map::new();
        details.insert("field".into(), field.into());
        if let Some((_, values)) = allowed {
            details.insert("allowed".into(), values.clone().into());
        }
        Err((ErrorCode::InvalidField, serde_json::Value::Object(details).to_string()))
    }

    // ------------------------------------------------------------------------------------------ helpers

    fn ping(&mut self, probe: bool, now: Now, out: &mut Vec<Action>) {
        let kind = self.route.heartbeat.kind;
        if kind.json()
            && let Some(ping) = self.route.dialect.render_ping(now)
        {
            out.push(Action::Send(ping));
            self.owe_ping();
        }
        // A probe must reach even a client that answers no JSON ping: its WebSocket library does.
        if kind.websocket() || probe {
            out.push(Action::WsPing);
            self.owe_ping();
        }
    }

    fn owe_ping(&mut self) {
        self.pings_owed = (self.pings_owed + 1).min(PINGS_OWED_MAX);
    }

    /// The channel a message is for: the client's, or where it has several the one the message names, if the
    /// client is subscribed to it.
    fn channel_of(&self, object: &Object<'_>) -> Option<String> {
        let channel = self.channel(Some(object))?;
        let chosen = self.route.channel_is_chosen();
        (!chosen || self.chosen.iter().any(|chosen| chosen.channel == channel)).then_some(channel)
    }

    /// The client's channel, legal, with a chosen part from `object`.
    pub(super) fn channel(&self, object: Option<&Object<'_>>) -> Option<String> {
        let name = self.route.channel.fill(|var| self.value_of(var, object))?;
        check_channel(&name).is_ok().then_some(name)
    }

    pub(super) fn value_of<'a>(&'a self, var: &Var, object: Option<&Object<'a>>) -> Option<Cow<'a, str>> {
        match var {
            Var::Path(name) => self.values.get(name).map(Cow::Borrowed),
            Var::User => self.user().map(Cow::Borrowed),
            Var::Subscribe(field) => object?.at(field).and_then(json::scalar),
            Var::Type => None,
        }
    }
}
