//! What comes from Pusher.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use super::cache::{Anew, is_client_event};
use super::{Action, Frame, Machine, Note, Phase};
use crate::clock::Now;
use crate::pusher::channel::ChannelKind;
use crate::pusher::encryption::{MasterKey, Undecryptable};
use crate::pusher::frame::{ServerFrame, data_json, is_pushers_own, text_json};
use crate::text::loggable;
use crate::upstream::delivery::{Delivery, Event, Kind, SUBSCRIPTION_COUNT};
use crate::upstream::hubs::Hubs;
use crate::upstream::link::client_events::Refusal;
use crate::upstream::lost::End;
use crate::upstream::refused::Refused;

/// An event, as it came.
struct Came<'a> {
    event: &'a str,
    channel: &'a str,
    data: Option<&'a str>,
    sender: Option<&'a str>,
}

/// An event's data, in clear, as JSON text: see [`data_json`].
fn clear<'a>(
    master_key: Option<&MasterKey>,
    channel: &str,
    data: Option<&'a str>,
) -> Result<Cow<'a, str>, Undecryptable> {
    let data = data_json(data);
    if ChannelKind::of(channel) != ChannelKind::Encrypted {
        return Ok(data);
    }
    let key = master_key.ok_or(Undecryptable::NoKey)?.of_channel(channel);
    let text = key.open(&data)?;
    Ok(Cow::Owned(match text_json(&text) {
        Cow::Owned(token) => token,
        Cow::Borrowed(_) => text,
    }))
}

impl Machine {
    /// Something came from Pusher, whatever it is.
    pub fn heard(&mut self) {
        if let Phase::Connected { live, .. } = &mut self.phase {
            live.heard();
        }
    }

    /// A frame came from Pusher, at `at`.
    pub fn frame(&mut self, frame: ServerFrame<'_>, came: Now, out: &mut Vec<Action>) {
        let at = came.mono;
        self.heard();
        if self.member_frame(&frame, came, out) {
            return self.carry_over(at, out);
        }
        match frame {
            ServerFrame::Event { event, channel, data, user_id } => {
                self.event(
                    &Came { event: &event, channel: &channel, data, sender: user_id.as_deref() },
                    came,
                    out,
                );
            }
            ServerFrame::Ping => out.push(Action::Send(Frame::Pong)),
            ServerFrame::SubscriptionSucceeded { channel, .. } => {
                let answer = self.checks.confirmed(&channel, at);
                if self.checked(&channel, answer, at, out) {
                } else if *channel == *self.own_channel {
                    self.probe.subscribed(at);
                } else {
                    self.subscribed(&channel, at);
                    self.settle_blame(at, out);
                }
            }
            ServerFrame::SubscriptionError { channel, message, status } => {
                self.subscription_failed(&channel, status, message, at, out);
            }
            ServerFrame::Error { code, message } => self.error(code, message, at, out),
            ServerFrame::Other { channel: Some(channel), event, .. } if event == "pusher:cache_miss" => {
                self.cache_miss(&channel, came, out);
            }
            ServerFrame::Other { channel: Some(channel), event, data }
                if event == "pusher_internal:subscription_count" =>
            {
                if let Some((channel, hubs)) = self.table.receivers(&channel) {
                    let count =
                        Event::new(self.id, channel, SUBSCRIPTION_COUNT, &data_json(data), came, None);
                    self.deliver(hubs, count.of_kind(Kind::SubscriptionCount), out);
                }
            }
            ServerFrame::Other { channel: None, event, .. } if !is_pushers_own(&event) => {
                out.push(Action::Note(Note::WithoutChannel));
            }
            ServerFrame::Pong => {
                let mut steps = Vec::new();
                self.client_events.pong(at, &mut steps);
                self.take_steps(steps, came, out);
            }
            ServerFrame::Other { .. } | ServerFrame::ConnectionEstablished { .. } => {}
        }
        self.carry_over(at, out);
        if self.client_events.may_send() {
            self.turn_of_client_events(came, out);
        }
    }

    fn event(&mut self, event: &Came<'_>, came: Now, out: &mut Vec<Action>) {
        let Came { event: name, channel, data, sender } = *event;
        let at = came.mono;
        let Some((channel, hubs)) = self.table.receivers(channel) else {
            if *channel == *self.own_channel {
                self.probe.arrived(at);
            } else {
                let master_key = self.master_key.clone();
                let clear = || clear(master_key.as_ref(), channel, data);
                if !is_client_event(channel, name, sender) || self.cache.first(channel).is_some() {
                    self.keep_for_later(channel, name, clear, came, None);
                }
                let (channel, event) = (channel.to_owned(), name.to_owned());
                out.push(Action::Note(Note::Unwanted { channel, event }));
            }
            return;
        };
        self.probe.heard();
        let data = match clear(self.master_key.as_ref(), &channel, data) {
            Ok(data) => data,
            Err(why) => return self.undecryptable(channel, hubs, name, why, out),
        };
        let anew = self.cache.comes(&channel, name, &data, at);
        if anew == Anew::Had {
            return out.push(Action::Note(Note::HadAlready));
        }
        // A message of the bridge's own whose publishing is not answered yet: to be delivered once, and not to its sender.
        let own = || self.flights.lock().carried(&channel, name, &data);
        let own = (anew != Anew::No).then(own).flatten();
        let origin = own.as_ref().map(|sent| sent.origin);
        if let Some(sent) = own {
            self.cache.shows(sent);
        }
        let is_passing = match anew {
            Anew::No => is_client_event(&channel, name, sender),
            Anew::First | Anew::Had => false,
            Anew::AfterOwn => true,
        };
        let event = Event::new(self.id, channel, name, &data, came, origin).by_member(sender);
        let event = event.passing(is_passing).as_replay(anew == Anew::First);
        self.deliver(hubs, event, out);
    }

    /// Pusher has no last event of the channel.
    fn cache_miss(&mut self, channel: &str, came: Now, out: &mut Vec<Action>) {
        if !self.cache.missed(channel, came.mono) {
            return;
        }
        if let Some((channel, hubs)) = self.table.receivers(channel) {
            self.deliver(hubs, Event::cache_miss(self.id, channel, came), out);
        } else if let Some(channel) = self.table.lingering(channel) {
            self.cache.keep(&Arc::new(Event::cache_miss(self.id, channel, came)));
        }
    }

    /// An event could not be decrypted: nobody gets it, and whoever should have is told as his route says.
    fn undecryptable(
        &mut self,
        channel: Arc<str>,
        hubs: Hubs,
        event: &str,
        why: Undecryptable,
        out: &mut Vec<Action>,
    ) {
        // It is its channel's last one now.
        self.cache.unsubscribed(&channel, false);
        let event = event.to_owned();
        out.push(Action::Note(Note::Undecryptable { channel: channel.clone(), event, why }));
        out.push(Action::Tell(hubs, Delivery::Undecryptable { link: self.id, channel }));
    }

    /// An error is about the connection when its code is a close code (soketi and sockudo send one before they
    /// close); else it is about a subscription, which it does not name.
    fn error(&mut self, code: Option<u16>, message: String, at: Instant, out: &mut Vec<Action>) {
        if let Some(refusal) = Refusal::of(code, &message)
            && self.client_events.refused(refusal, &message, at)
        {
            return out.push(Action::Note(Note::ClientEventRefused(message)));
        }
        // Codes from 4300 end nothing (protocol page, "Error codes"; sockudo says 4300 of a channel's name).
        let ends = code.is_some_and(|code| (4000..4300).contains(&code) && code != 4009);
        if ends {
            return self.ended(End::closed(code, loggable(&message)), at, out);
        }
        // Pusher says so when it is subscribed already.
        if let Some(channel) = message.strip_prefix("Existing subscription to channel ") {
            let answer = self.checks.exists(channel, at);
            if !self.checked(channel, answer, at, out) {
                self.subscribed(channel, at);
            }
            return;
        }
        // Answers an unsubscription, so no subscription is to blame.
        if message.starts_with("No current subscription") {
            return;
        }
        let answer = self.checks.failed(&message, self.table.is_subscribing());
        if self.checked("", answer, at, out) {
            return;
        }
        if self.is_about_sign_in(&message) {
            return self.sign_in_refused(code, message, at, out);
        }
        if let Some(channel) = self.table.named_by(&message) {
            self.subscription_failed(&channel, code, message, at, out);
        } else if self.table.blame((code, message.clone())) {
            self.settle_blame(at, out);
        } else if self.client_events.refused(Refusal::ForGood, &message, at) {
            // Nothing else waits for an answer: it is about an event's data or name.
            out.push(Action::Note(Note::ClientEventRefused(message)));
        } else {
            out.push(Action::Note(Note::Error(code, message)));
        }
    }

    /// Finds what errors without a channel are about, as far as that is certain now.
    pub(super) fn settle_blame(&mut self, at: Instant, out: &mut Vec<Action>) {
        // One about the link's own channel would be taken for one of these.
        while !self.checks.is_pending()
            && let Some((channel, (code, text))) = self.table.blamed(at)
        {
            self.subscription_failed(&channel, code, text, at, out);
        }
    }

    fn subscribed(&mut self, channel: &str, at: Instant) {
        if self.keeps_last(channel) {
            self.cache.awaits(channel);
        }
        self.table.succeeded(channel, at, &mut self.ops);
        self.client_events.subscribed(channel);
    }

    fn subscription_failed(
        &mut self,
        channel: &str,
        code: Option<u16>,
        text: String,
        at: Instant,
        out: &mut Vec<Action>,
    ) {
        let why = Refused::of(channel, code, &text);
        out.push(Action::Note(Note::SubscriptionFailed { channel: channel.into(), why, text: Some(text) }));
        self.table.failed(channel, why, at, &mut self.ops);
    }
}
