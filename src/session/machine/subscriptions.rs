//! A connection's subscriptions: the fixed one of its path, and those that the client chooses.

use std::time::{Duration, Instant};

use super::phases::State;
use super::timers::Timer;
use super::{Action, Machine};
use crate::clock::Now;
use crate::exchange::{Interest, Subscribe};
use crate::json::{self, Object};
use crate::legacy::error::ErrorCode;
use crate::routes::channel::NoChannel;

/// Longest value of a filter, in bytes.
const FILTER_VALUE_BYTES_MAX: usize = 256;
/// The number of the subscription that the path alone determines.
pub(super) const FIXED: u32 = 0;

pub(super) struct Subscriptions {
    chosen: Vec<Chosen>,
    next_id: u32,
    /// How long each may take to be confirmed.
    wait: Duration,
}

/// A subscription that the client asked for in band.
struct Chosen {
    id: u32,
    channel: String,
    value: Option<String>,
    /// Until when it must be confirmed; `None`: it is.
    confirm_by: Option<Instant>,
}

impl Subscriptions {
    pub(super) const fn new(wait: Duration) -> Self {
        Self { chosen: Vec::new(), next_id: FIXED + 1, wait }
    }

    pub(super) fn clear(&mut self) {
        self.chosen.clear();
    }

    /// Whether the client is subscribed to a channel that it chose.
    pub(super) fn has(&self, channel: &str) -> bool {
        self.chosen.iter().any(|chosen| chosen.channel == channel)
    }

    /// Whether it is, for this value of the filter.
    pub(super) fn has_with(&self, channel: &str, value: &str) -> bool {
        self.chosen.iter().any(|chosen| chosen.channel == channel && chosen.value.as_deref() == Some(value))
    }

    fn find(&self, channel: &str, value: Option<&String>) -> Option<usize> {
        self.chosen.iter().position(|chosen| chosen.channel == channel && chosen.value.as_ref() == value)
    }

    fn next_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1).max(FIXED + 1);
        id
    }

    /// By when the first unconfirmed one must be confirmed.
    fn first_due(&self) -> Option<Instant> {
        self.chosen.iter().filter_map(|chosen| chosen.confirm_by).min()
    }

    fn remove_due(&mut self, now: Now) -> Option<Chosen> {
        let due = |chosen: &Chosen| chosen.confirm_by.is_some_and(|at| at <= now.mono);
        self.chosen.iter().position(due).map(|at| self.chosen.swap_remove(at))
    }
}

impl Machine {
    /// The subscription is confirmed, and its `confirm` frame has been sent.
    pub fn subscribed(&mut self, id: u32, now: Now) {
        if id == FIXED {
            match self.state {
                State::Subscribing => self.go_live(now),
                // On a route without authentication it was awaited while the client was in service already.
                State::Live => self.timers.clear(Timer::Phase),
                _ => {}
            }
        } else if let Some(chosen) = self.subscriptions.chosen.iter_mut().find(|chosen| chosen.id == id) {
            chosen.confirm_by = None;
            self.watch_chosen();
        }
    }

    /// Subscribes to the channel that the path determines. `false`: it determines none that is legal.
    pub(super) fn subscribe_fixed(
        &mut self,
        confirm: Option<String>,
        now: Now,
        out: &mut Vec<Action>,
    ) -> bool {
        let channel = match self.channel(None) {
            Ok(channel) => channel,
            Err(why) => {
                self.error(why.error_code(), None, now, out);
                return false;
            }
        };
        let interest = match &self.route.filter {
            None => Interest::All,
            Some(_) if self.route.filter_is_chosen() => Interest::Hold,
            Some(filter) => match filter.equals.fill(|var| self.value_of(var, None)) {
                Some(value) => Interest::Value(value),
                None => Interest::Hold,
            },
        };
        let via = self.via(&channel);
        out.push(Action::Subscribe(Subscribe { id: FIXED, channel, interest, via, confirm }));
        self.timers.set(Timer::Phase, now.mono + self.subscriptions.wait);
        true
    }

    /// The subscription is not confirmed in time: the client is told, and may try again.
    pub(super) fn give_up_subscribing(&mut self, code: ErrorCode, now: Now, out: &mut Vec<Action>) {
        out.push(Action::Unsubscribe(FIXED));
        out.push(Action::Release);
        self.user = None;
        self.timers.clear(Timer::Expiry);
        self.error(code, None, now, out);
        self.await_token(now);
    }

    /// Pusher refuses the subscription with this number, or `None`, what was confirmed before on this channel. The
    /// client is told, and stays: if it were closed it would come back at once, to be refused again. What may yet be
    /// confirmed has its time.
    pub fn subscription_refused(
        &mut self,
        id: Option<u32>,
        channel: &str,
        code: ErrorCode,
        is_retried: bool,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        // Whoever still waits is told by its own timer that there is no answer.
        let is_silence = code == ErrorCode::UpstreamUnavailable;
        match id {
            None => self.tell_refused(channel, code, now, out),
            Some(_) if is_silence => {}
            Some(FIXED) => match self.state {
                State::Subscribing if !is_retried => self.give_up_subscribing(code, now, out),
                State::Subscribing => self.tell_refused(channel, code, now, out),
                // It is in service already: told once, whatever becomes of it.
                State::Live if self.timers.is_set(Timer::Phase) => {
                    self.timers.clear(Timer::Phase);
                    self.tell_refused(channel, code, now, out);
                }
                _ => {}
            },
            Some(id) => {
                let chosen = self.subscriptions.chosen.iter().position(|chosen| chosen.id == id);
                let Some(at) = chosen else { return };
                if !is_retried {
                    self.subscriptions.chosen.swap_remove(at);
                    out.push(Action::Unsubscribe(id));
                    self.watch_chosen();
                }
                self.tell_refused(channel, code, now, out);
            }
        }
    }

    fn tell_refused(&self, channel: &str, code: ErrorCode, now: Now, out: &mut Vec<Action>) {
        let details = serde_json::json!({ "channel": self.route.alias(channel) }).to_string();
        self.error(code, Some(&details), now, out);
    }

    /// On a route without authentication the client stays in service: its channel may yet be subscribed, and if it
    /// were closed, it would come back at once.
    pub(super) fn tell_unsubscribed(&self, now: Now, out: &mut Vec<Action>) {
        let channel = self.channel(None).unwrap_or_default();
        let details = serde_json::json!({ "channel": channel }).to_string();
        self.error(ErrorCode::UpstreamUnavailable, Some(&details), now, out);
    }

    pub(super) fn give_up_chosen(&mut self, now: Now, out: &mut Vec<Action>) {
        while let Some(chosen) = self.subscriptions.remove_due(now) {
            out.push(Action::Unsubscribe(chosen.id));
            let details = serde_json::json!({ "channel": self.route.alias(&chosen.channel) }).to_string();
            self.error(ErrorCode::UpstreamUnavailable, Some(&details), now, out);
        }
        self.watch_chosen();
    }

    fn watch_chosen(&mut self) {
        self.timers.put(Timer::Subscriptions, self.subscriptions.first_due());
    }

    pub(super) fn subscribe(&mut self, object: &Object<'_>, now: Now, out: &mut Vec<Action>) {
        let (channel, value) = match self.choice(object) {
            Ok(choice) => choice,
            Err((code, details)) => return self.error(code, Some(&details), now, out),
        };
        let confirm = self.route.dialect.render_subscribed(self.route.alias(&channel), now);
        if let Some(at) = self.subscriptions.find(&channel, value.as_ref()) {
            if self.subscriptions.chosen.get(at).is_some_and(|chosen| chosen.confirm_by.is_none()) {
                out.extend(confirm.map(Action::Send));
            }
            return;
        }
        if self.subscriptions.chosen.len() >= self.route.limits.subscriptions_max {
            return self.error(ErrorCode::TooManySubscriptions, None, now, out);
        }
        let id = self.subscriptions.next_id();
        let interest = value.clone().map_or(Interest::All, Interest::Value);
        let via = self.via(&channel);
        out.push(Action::Subscribe(Subscribe { id, channel: channel.clone(), interest, via, confirm }));
        let confirm_by = Some(now.mono + self.subscriptions.wait);
        self.subscriptions.chosen.push(Chosen { id, channel, value, confirm_by });
        self.watch_chosen();
    }

    pub(super) fn unsubscribe(&mut self, object: &Object<'_>, now: Now, out: &mut Vec<Action>) {
        match self.choice(object) {
            Ok((channel, value)) => {
                if let Some(at) = self.subscriptions.find(&channel, value.as_ref()) {
                    out.push(Action::Unsubscribe(self.subscriptions.chosen.swap_remove(at).id));
                    self.watch_chosen();
                }
            }
            Err((code, details)) => self.error(code, Some(&details), now, out),
        }
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
        let channel = self.channel(Some(object)).map_err(|why| {
            let field = self.route.channel.subscribe_field().unwrap_or_default();
            match why {
                NoChannel::Illegal => invalid(),
                NoChannel::Kind(_) => (why.error_code(), serde_json::json!({ "field": field }).to_string()),
            }
        })?;
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
        let details = |field: &str| serde_json::Map::from_iter([("field".to_owned(), field.into())]);
        let fail = |code, details| Err((code, serde_json::Value::Object(details).to_string()));
        let excluded = self.route.value_sets.not_of_field(field);
        if value.as_ref().is_some_and(|value| excluded.iter().any(|not| not.fits(value))) {
            return fail(ErrorCode::ValueExcluded, details(field));
        }
        let allowed = self.route.subscribe_values.iter().find(|(name, _)| name == field);
        let accepted = value.is_some_and(|value| match allowed {
            Some((_, choices)) => choices.iter().any(|choice| choice.fits(&value)),
            None => {
                let set = self.route.value_sets.of_field(field);
                set.map_or(!value.is_empty(), |set| set.fits(&value))
            }
        });
        if accepted {
            return Ok(());
        }
        let mut details = details(field);
        if let Some((_, choices)) = allowed {
            let choices: Vec<String> = choices.iter().map(ToString::to_string).collect();
            details.insert("allowed".into(), choices.into());
        }
        fail(ErrorCode::InvalidField, details)
    }
}
