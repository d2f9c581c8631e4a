//! A connection's subscriptions: the fixed one of its path, and those that the client chooses.

use std::time::{Duration, Instant};

use super::choices::Choice;
use super::phases::State;
use super::timers::Timer;
use super::{Action, Machine};
use crate::clock::Now;
use crate::exchange::{Interest, Subscribe};
use crate::json::Object;
use crate::legacy::error::ErrorCode;

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
    /// How often the client has asked again meanwhile: each is answered.
    asked_again: u32,
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

    fn find(&self, choice: &Choice) -> Option<usize> {
        let is_it = |chosen: &Chosen| chosen.channel == choice.channel && chosen.value == choice.value;
        self.chosen.iter().position(is_it)
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
    pub fn subscribed(&mut self, id: u32, now: Now, out: &mut Vec<Action>) {
        if id == FIXED {
            match self.state {
                State::Subscribing => self.go_live(now),
                // On a route without authentication it was awaited while the client was in service already.
                State::Live => self.timers.clear(Timer::Phase),
                _ => {}
            }
        } else if let Some(chosen) = self.subscriptions.chosen.iter_mut().find(|chosen| chosen.id == id) {
            chosen.confirm_by = None;
            let again = std::mem::take(&mut chosen.asked_again);
            if again > 0 {
                let confirm = self.route.dialect.render_subscribed(self.route.alias(&chosen.channel), now);
                out.extend((0..again).filter_map(|_| confirm.clone()).map(Action::Send));
            }
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

    /// Each channel that is named is subscribed, or none and the client is told why. Each is answered by the dialect's
    /// `subscribed`, once for every time that it was asked for.
    pub(super) fn subscribe(&mut self, object: &Object<'_>, now: Now, out: &mut Vec<Action>) {
        let choices = match self.choices(object) {
            Ok(choices) => choices,
            Err((code, details)) => return self.error(code, Some(&details), now, out),
        };
        let mut new: Vec<&Choice> = Vec::new();
        for choice in &choices {
            if self.subscriptions.find(choice).is_none() && !new.contains(&choice) {
                new.push(choice);
            }
        }
        if self.subscriptions.chosen.len() + new.len() > self.route.limits.subscriptions_max {
            return self.error(ErrorCode::TooManySubscriptions, None, now, out);
        }
        for choice in choices {
            self.subscribe_one(choice, now, out);
        }
        self.watch_chosen();
    }

    fn subscribe_one(&mut self, choice: Choice, now: Now, out: &mut Vec<Action>) {
        let confirm = self.route.dialect.render_subscribed(self.route.alias(&choice.channel), now);
        let known = self.subscriptions.find(&choice);
        if let Some(chosen) = known.and_then(|at| self.subscriptions.chosen.get_mut(at)) {
            if chosen.confirm_by.is_none() {
                out.extend(confirm.map(Action::Send));
            } else {
                chosen.asked_again = chosen.asked_again.saturating_add(1);
            }
            return;
        }
        let id = self.subscriptions.next_id();
        let Choice { channel, value } = choice;
        let interest = value.clone().map_or(Interest::All, Interest::Value);
        let via = self.via(&channel);
        out.push(Action::Subscribe(Subscribe { id, channel: channel.clone(), interest, via, confirm }));
        let confirm_by = Some(now.mono + self.subscriptions.wait);
        self.subscriptions.chosen.push(Chosen { id, channel, value, confirm_by, asked_again: 0 });
    }

    /// Each is answered by the dialect's `unsubscribed`, behind which no event of it comes: also where the client was
    /// not subscribed, for then it is so already.
    pub(super) fn unsubscribe(&mut self, object: &Object<'_>, now: Now, out: &mut Vec<Action>) {
        let choices = match self.choices(object) {
            Ok(choices) => choices,
            Err((code, details)) => return self.error(code, Some(&details), now, out),
        };
        for choice in choices {
            if let Some(at) = self.subscriptions.find(&choice) {
                out.push(Action::Unsubscribe(self.subscriptions.chosen.swap_remove(at).id));
            }
            let done = self.route.dialect.render_unsubscribed(self.route.alias(&choice.channel), now);
            out.extend(done.map(Action::Send));
        }
        self.watch_chosen();
    }
}
