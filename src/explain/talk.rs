//! Pure: one client's connection with nobody at either end. The session's machine decides; what it asks for is noted, and
//! is there at once: slots are free, and subscriptions are confirmed.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::{Claims, TokenError};
use crate::clock::Now;
use crate::exchange::{ConnId, Interest, LinkId, Member, Subscribe, Via};
use crate::explain::answer::{Effect, EventResult, Fate, Outgoing, Published, Subscription, Wanted};
use crate::fanout::table::{Table, Ticket};
use crate::fanout::view::{View, is_by_client, render, view};
use crate::json::Object;
use crate::pusher::frame::{ServerFrame, data_json, string_into};
use crate::routes::events;
use crate::routes::publish::{self, ClientEvents, rule_of};
use crate::routes::route::Route;
use crate::session::machine::{Action, Handled, Machine, Opening};
use crate::upstream::delivery::Event;

/// What a token is worth.
pub type Verdict<'v> = &'v mut dyn FnMut(&str) -> Result<Claims, TokenError>;

/// The link of all channels.
const LINK: LinkId = LinkId(0);
/// The client.
const CLIENT: ConnId = ConnId(1);

/// Where a client is.
pub(super) struct Setting<'s> {
    pub(super) route: &'s Arc<Route>,
    pub(super) client_events: &'s ClientEvents,
    pub(super) leeway: Duration,
    pub(super) now: Now,
    /// The line of a key of the route's.
    pub(super) line: &'s dyn Fn(&str) -> Option<usize>,
}

pub(super) struct Talk<'s, 'v> {
    setting: Setting<'s>,
    judge: Verdict<'v>,
    machine: Machine,
    table: Table<(), u32, ()>,
    subscribed: Vec<(u32, Ticket<()>, Subscription)>,
    token: Option<Effect>,
    claims: Option<Claims>,
}

impl<'s, 'v> Talk<'s, 'v> {
    /// A connection that has just been upgraded, and what comes of that.
    pub(super) fn open(opening: Opening, setting: Setting<'s>, judge: Verdict<'v>) -> (Self, Vec<Effect>) {
        let mut actions = Vec::new();
        let machine = Machine::open(opening, setting.now, &mut actions);
        let (table, subscribed) = (Table::default(), Vec::new());
        let mut talk = Self { setting, judge, machine, table, subscribed, token: None, claims: None };
        let effects = talk.carry_out(actions);
        (talk, effects)
    }

    /// The message by which this token is sent here; `None`: the dialect has none.
    pub(super) fn auth_message(&self, token: &str) -> Option<String> {
        let dialect = &self.setting.route.dialect;
        let auth = dialect.auth.as_ref()?;
        // A member of that very name comes first, dots and all.
        let mut message = serde_json::Map::new();
        message.insert(dialect.type_field.clone(), auth.message_type.clone().into());
        message.insert(auth.token.clone(), token.into());
        Some(serde_json::Value::Object(message).to_string())
    }

    /// The client sends a text message.
    pub(super) fn say(&mut self, text: &str) -> Vec<Effect> {
        let mut actions = Vec::new();
        let handled = self.machine.text(text, self.setting.now, &mut actions);
        let mut effects = self.carry_out(actions);
        if handled == Handled::Echo {
            effects.push(Effect::Echoed { text: text.to_owned() });
        }
        effects
    }

    pub(super) fn is_live(&self) -> bool {
        self.machine.is_live()
    }

    /// What became of the last token.
    pub(super) const fn token(&self) -> Option<&Effect> {
        self.token.as_ref()
    }

    /// Of the last token that was good.
    pub(super) const fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }

    pub(super) fn subscriptions(&self) -> Vec<Subscription> {
        self.subscribed.iter().map(|(_, _, subscription)| subscription.clone()).collect()
    }

    /// The channel, where there is one.
    pub(super) fn channel(&self) -> Option<String> {
        match self.subscribed.as_slice() {
            [(_, _, only)] => Some(only.channel.clone()),
            _ => None,
        }
    }

    fn carry_out(&mut self, mut actions: Vec<Action>) -> Vec<Effect> {
        let mut effects = Vec::new();
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                self.act(action, &mut actions, &mut effects);
            }
        }
        effects
    }

    fn act(&mut self, action: Action, more: &mut Vec<Action>, effects: &mut Vec<Effect>) {
        let now = self.setting.now;
        match action {
            Action::Send(text) => effects.push(Effect::Frame { text }),
            Action::Error(code, text) => effects.push(Effect::error(code, text)),
            Action::WsPing | Action::Release => {}
            Action::Verify(token) => {
                let verdict = (self.judge)(&token);
                self.claims = verdict.as_ref().ok().cloned();
                let wrong = (|| Duration::ZERO, || None);
                let judged = self.machine.judged(verdict, self.setting.leeway, wrong, now, more);
                self.noted(judged.result.label(), judged.why, effects);
            }
            Action::Unverified(result) => self.noted(result.label(), None, effects),
            Action::Acquire { .. } => self.machine.slots(Ok(()), now, more),
            Action::Subscribe(subscribe) => self.subscribe(subscribe, more, effects),
            Action::Unsubscribe(id) => {
                if let Some(at) = self.subscribed.iter().position(|(known, ..)| *known == id) {
                    let (_, ticket, subscription) = self.subscribed.swap_remove(at);
                    self.table.detach(&ticket);
                    effects.push(Effect::Unsubscribed { channel: subscription.channel });
                }
            }
            Action::Publish { outgoing, channel, message_type } => {
                let published = self.published(outgoing, &channel, &message_type);
                effects.push(Effect::Published(Box::new(published)));
            }
            Action::Close(reason) => effects.push(Effect::closed(reason)),
        }
    }

    fn noted(&mut self, result: &'static str, why: Option<String>, effects: &mut Vec<Effect>) {
        let noted = Effect::Token { result, why };
        self.token = Some(noted.clone());
        effects.push(noted);
    }

    fn subscribe(&mut self, subscribe: Subscribe, more: &mut Vec<Action>, effects: &mut Vec<Effect>) {
        let Subscribe { id, channel, interest, via, confirm } = subscribe;
        let field = self.setting.route.filter.as_ref().map(|filter| filter.field.join("."));
        let subscription = Subscription {
            channel: channel.clone(),
            events: match &interest {
                Interest::All => Wanted::All,
                Interest::Hold => Wanted::None,
                Interest::Value(value) => {
                    Wanted::With { field: field.unwrap_or_default(), value: value.clone() }
                }
            },
            member: match &via {
                Via::Shared => None,
                Via::Member(member) => Some(member.user_id.to_string()),
            },
        };
        effects.push(Effect::Subscribed(subscription.clone()));
        let (attached, _) = self.table.attach(LINK, &channel, (), interest, id, ());
        self.subscribed.push((id, attached.ticket, subscription));
        self.table.live(LINK, &channel);
        effects.extend(confirm.map(|text| Effect::Frame { text }));
        self.machine.subscribed(id, self.setting.now, more);
    }

    fn published(&self, outgoing: publish::Outgoing, channel: &str, message_type: &str) -> Published {
        let (route, now) = (self.setting.route, self.setting.now);
        let rule = rule_of(route, message_type).map(|(place, _)| place);
        let seen = |event: &str, data: &str, sender: Option<&Arc<Member>>| {
            let event = Event::new(LINK, channel.into(), event, data, now, Some(CLIENT));
            let event = event.by_member(sender.map(|member| &*member.user_id));
            let view = view(route, &event, is_by_client(&event, self.setting.client_events))?;
            Some(render(route, &event, &view.data))
        };
        let (what, neighbours_see) = match outgoing {
            publish::Outgoing::Trigger { event, data, elsewhere, skip_if_empty } => {
                let seen = if elsewhere.is_none() { seen(&event, &data, None) } else { None };
                let channel = elsewhere.unwrap_or_else(|| channel.to_owned());
                (Outgoing::Event { channel, event, data, skip_if_empty }, seen)
            }
            publish::Outgoing::ClientEvent { event, data, member } => {
                let seen = seen(&event, &data, member.as_ref());
                let member = member.map(|member| member.user_id.to_string());
                (Outgoing::ClientEvent { channel: channel.to_owned(), event, data, member }, seen)
            }
            publish::Outgoing::Post { url, body, headers, retry_on: _, replies } => {
                let headers = headers.into_iter().map(|(name, _)| name).collect();
                (Outgoing::Post { url, body, headers, replies }, None)
            }
            publish::Outgoing::Drop => (Outgoing::Nothing, None),
        };
        let line = rule.and_then(|place| (self.setting.line)(&format!("publish[{place}]")));
        Published { what, rule, line, neighbours_see }
    }

    /// An event is published on each channel of the client's.
    pub(super) fn event(&self, name: &str, data: &str) -> Vec<EventResult> {
        let mut channels: Vec<&str> = Vec::new();
        for (_, ticket, _) in &self.subscribed {
            if !channels.contains(&&**ticket.channel()) {
                channels.push(ticket.channel());
            }
        }
        channels.into_iter().map(|channel| self.event_on(channel, name, data)).collect()
    }

    fn event_on(&self, channel: &str, name: &str, data: &str) -> EventResult {
        let route = self.setting.route;
        let frame = pushers_frame(channel, name, data);
        let pushers_own = EventResult {
            channel: channel.to_owned(),
            by_client: false,
            fate: Fate::PushersOwn,
            rule: None,
            line: None,
        };
        let Ok(ServerFrame::Event { event, data, .. }) = ServerFrame::decode(&frame) else {
            return pushers_own;
        };
        let event = Event::new(LINK, channel.into(), &event, &data_json(data), self.setting.now, None);
        let by_client = is_by_client(&event, self.setting.client_events);
        let rule = events::place_of(route, name);
        let at = |key: &str| (self.setting.line)(key);
        let (fate, line) = match view(route, &event, by_client) {
            None => (Fate::Dropped, rule.and_then(|place| at(&format!("events[{place}]")))),
            Some(View { data, value }) => {
                let audience =
                    self.table.channel(LINK, channel).into_iter().flat_map(|known| known.audiences());
                let reached = audience.flat_map(|audience| audience.receivers(value.as_deref())).next();
                let field =
                    || route.filter.as_ref().map_or_else(String::new, |filter| filter.field.join("."));
                match reached {
                    Some(_) => {
                        let key = rule.map_or_else(
                            || format!("dialects.{}.out.event", route.dialect.name),
                            |place| format!("events[{place}]"),
                        );
                        (Fate::Frame { text: render(route, &event, &data) }, at(&key))
                    }
                    None => {
                        let value = value.map(std::borrow::Cow::into_owned);
                        (Fate::NotForClient { field: field(), value }, at("filter"))
                    }
                }
            }
        };
        EventResult { by_client, fate, rule, line, ..pushers_own }
    }
}

/// What Pusher sends of an event: its data are a string of what its publisher wrote.
fn pushers_frame(channel: &str, name: &str, data: &str) -> String {
    let mut frame = String::from("{\"event\":");
    string_into(&mut frame, name);
    frame.push_str(",\"channel\":");
    string_into(&mut frame, channel);
    frame.push_str(",\"data\":");
    string_into(&mut frame, data);
    frame.push('}');
    debug_assert!(Object::parse(&frame).is_ok());
    frame
}
