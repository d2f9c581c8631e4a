//! What links say, and what the pool makes of it.

use std::sync::Arc;

use super::users::{Seat, Way};
use super::{Action, ClientEventUnderWay, FromLink, LOCAL_FLIGHT, Note, Pool};
use crate::clock::Now;
use crate::exchange::MemberKey;
use crate::pusher::frame::text_json;
use crate::upstream::delivery::{Delivery, Event, Sent};
use crate::upstream::hubs::Hubs;
use crate::upstream::lane::Item;
use crate::upstream::link::client_events::ClientEvent;
use crate::upstream::link::machine::{Command, Report};
use crate::upstream::members::copies::digest;
use crate::upstream::refused::Refused;

impl Pool {
    /// A link says something.
    pub fn from_link(&mut self, source: u64, what: FromLink, now: Now, out: &mut Vec<Action>) {
        let Some(key) = self.by_source.get(&source) else { return };
        match what {
            FromLink::Copies(copies) => {
                for run in copies.chunk_by(|(one, _), (next, _)| Arc::ptr_eq(&one.channel, &next.channel)) {
                    self.copies(source, run, now, out);
                }
            }
            FromLink::Told(Delivery::Event(event)) => {
                let digest = digest(&event.name, &event.data);
                self.event(source, &event, digest, now, out);
            }
            FromLink::Snapshot { channel, data } => drop(self.snapshots.insert(source, (channel, data))),
            FromLink::Told(Delivery::Live { channel, .. }) => {
                self.confirmed(source, &key.clone(), &channel, now, out);
            }
            FromLink::Told(Delivery::Down(_)) => self.down(source, &key.clone(), now, out),
            FromLink::Told(Delivery::Refused { channel, why, .. }) => {
                let key = key.clone();
                let Some(seat) = self.users.get_mut(&key).and_then(|user| user.seat(&channel)) else {
                    return;
                };
                let hubs = seat.hubs();
                self.tell_refused(&key, &channel, why, hubs, out);
            }
            FromLink::Sending(sent) => self.sending(source, sent),
            FromLink::Settled(sent) => self.settled(source, &sent, now, out),
            // A pool's alone, or of channels that it has not.
            FromLink::Told(
                Delivery::Joined { .. } | Delivery::Terminated { .. } | Delivery::Undecryptable { .. },
            ) => {}
            FromLink::Report(Report::AsksToDial) => {
                self.dials.ask(source);
                self.grant_dials(now, out);
            }
            FromLink::Report(Report::SignInRefused { channel, code, why }) => {
                let key = key.clone();
                if let Some(channel) = channel
                    && let Some(seat) = self.users.get_mut(&key).and_then(|user| user.seat(&channel))
                {
                    let hubs = seat.hubs();
                    self.tell_refused(&key, &channel, Refused::of(&channel, code, &why), hubs, out);
                }
                out.push(Action::Note(Note::SignInRefused(code, why)));
            }
            FromLink::Report(Report::Terminated) => self.terminated(&key.clone(), now, out),
            FromLink::Report(Report::WatchlistEventLost) => out.push(Action::Note(Note::WatchlistEventLost)),
        }
    }

    /// Of one channel.
    fn copies(&mut self, source: u64, copies: &[(Arc<Event>, u64)], now: Now, out: &mut Vec<Action>) {
        let Some((first, _)) = copies.first() else { return };
        self.at_channel(&first.channel, now, out, |channel, at| {
            for (event, digest) in copies {
                channel.event(source, event, *digest, at);
            }
        });
    }

    pub(super) fn event(
        &mut self,
        source: u64,
        event: &Arc<Event>,
        digest: u64,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        if event.origin.is_none() {
            return self.at_channel(&event.channel, now, out, |channel, at| {
                channel.event(source, event, digest, at);
            });
        }
        // One of our own clients'.
        let is_it = |under_way: &ClientEventUnderWay| {
            under_way.source == source
                && under_way.digest == digest
                && Some(under_way.sent.origin) == event.origin
        };
        let Some(at) = self.client_events.iter().position(is_it) else { return };
        let flight = self.client_events.remove(at).flight;
        let accepted = Some(std::slice::from_ref(event));
        self.at_channel(&event.channel, now, out, |channel, at| channel.ended(flight, accepted, at));
    }

    /// A client's event is about to leave over this link, which gets no copy of it.
    pub(super) fn sending(&mut self, source: u64, sent: Arc<Sent>) {
        if self.client_events.iter().any(|one| Arc::ptr_eq(&one.sent, &sent)) {
            return;
        }
        let (flight, digest) = (self.number() | LOCAL_FLIGHT, digest(&sent.event, &text_json(&sent.data)));
        if let Some(place) = self.places.get_mut(&sent.channel) {
            place.channel.begin(flight, vec![digest], Some(source));
            self.client_events.push(ClientEventUnderWay { source, flight, digest, sent });
        }
    }

    /// It did not, if it is still under way.
    pub(super) fn settled(&mut self, source: u64, sent: &Arc<Sent>, now: Now, out: &mut Vec<Action>) {
        let is_it = |one: &ClientEventUnderWay| one.source == source && Arc::ptr_eq(&one.sent, sent);
        if let Some(at) = self.client_events.iter().position(is_it) {
            let flight = self.client_events.swap_remove(at).flight;
            self.at_channel(&sent.channel, now, out, |channel, at| channel.ended(flight, None, at));
        }
    }

    /// The connection over which these were sent is gone.
    pub(super) fn none_under_way(&mut self, source: u64, now: Now, out: &mut Vec<Action>) {
        for sent in self
            .client_events
            .iter()
            .filter(|one| one.source == source)
            .map(|one| one.sent.clone())
            .collect::<Vec<_>>()
        {
            self.settled(source, &sent, now, out);
        }
    }

    /// A client's event is to leave over its user's own link.
    pub fn client_event(&self, key: &MemberKey, item: Item<ClientEvent>, out: &mut Vec<Action>) {
        out.push(match self.users.get(key).map(|user| user.way) {
            Some(Way::Open(source)) => Action::Command(source, Command::ClientEvent(Box::new(item))),
            _ => Action::NotSent(item),
        });
    }

    pub(super) fn confirmed(
        &mut self,
        source: u64,
        key: &MemberKey,
        channel: &Arc<str>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let snapshot = self.snapshots.remove(&source).filter(|(of, _)| of == channel);
        let Some(seat) = self.users.get_mut(key).and_then(|user| user.seat(channel)) else { return };
        seat.is_live = true;
        self.at_channel(channel, now, out, |channel, at| {
            channel.confirmed(source, snapshot.as_ref().map(|(_, data)| &**data), at);
        });
        // It may have to subscribe anew.
        if self.users.get_mut(key).and_then(|user| user.seat(channel)).is_some_and(|seat| seat.is_live) {
            self.answer(key, channel, now, out);
        }
        self.have_read(key, out);
    }

    /// Tells the hubs that wait for it that the member is on the channel.
    pub(super) fn answer(&mut self, key: &MemberKey, channel: &Arc<str>, now: Now, out: &mut Vec<Action>) {
        let Some(seat) = self.users.get_mut(key).and_then(|user| user.seat(channel)) else { return };
        let Some(place) = self.places.get_mut(channel) else { return };
        if seat.stays.iter().all(|stay| stay.is_answered) {
            return;
        }
        let (members, count) = place.channel.list();
        let cached = place.channel.last(now.mono);
        for stay in seat.stays.iter_mut().filter(|stay| !stay.is_answered) {
            stay.is_answered = true;
            if !std::mem::replace(&mut stay.is_counted, true) {
                place.count(stay.hub, true);
            }
            let (link, channel, member, join) = (self.id, channel.clone(), key.clone(), stay.join);
            let (members, cached) = (members.clone(), cached.clone());
            let joined = Delivery::Joined { link, channel, member, join, members, count, cached };
            out.push(Action::Tell(Hubs::only(stay.hub), joined));
        }
    }

    pub(super) fn down(&mut self, source: u64, key: &MemberKey, now: Now, out: &mut Vec<Action>) {
        self.snapshots.remove(&source);
        self.none_under_way(source, now, out);
        let Some(user) = self.users.get_mut(key) else { return };
        let channels: Vec<_> = user.seats.iter().map(|seat| seat.channel.clone()).collect();
        user.seats.iter_mut().for_each(|seat| seat.is_live = false);
        for channel in &channels {
            self.at_channel(channel, now, out, |channel, at| channel.lost(source, at));
        }
        self.have_read(key, out);
    }

    /// A backend wants this user's connections closed: they are, and the link is gone already. Whoever comes after that has
    /// a new one.
    pub(super) fn terminated(&mut self, key: &MemberKey, now: Now, out: &mut Vec<Action>) {
        let Some(user) = self.users.get(key) else { return };
        let hubs = user.seats.iter().map(Seat::hubs).fold(Hubs::default(), Hubs::with);
        self.close(key, now, out);
        self.forget(key);
        out.push(Action::Note(Note::Terminated));
        if !hubs.is_empty() {
            out.push(Action::Tell(hubs, Delivery::Terminated { link: self.id, member: key.clone() }));
        }
        self.fill_places(now, out);
    }

    pub(super) fn refuse(&self, key: &MemberKey, channel: &Arc<str>, hubs: Hubs, out: &mut Vec<Action>) {
        self.tell_refused(key, channel, Refused::Quota, hubs, out);
    }

    pub(super) fn tell_refused(
        &self,
        key: &MemberKey,
        channel: &Arc<str>,
        why: Refused,
        hubs: Hubs,
        out: &mut Vec<Action>,
    ) {
        if !hubs.is_empty() {
            let (link, channel, member) = (self.id, channel.clone(), Some(key.clone()));
            out.push(Action::Tell(hubs, Delivery::Refused { link, channel, member, why }));
        }
    }

    pub(super) fn grant_dials(&mut self, now: Now, out: &mut Vec<Action>) {
        while let Some(source) = self.dials.next(now.mono) {
            let Some(key) = self.by_source.get(&source) else { continue };
            for seat in self.users.get(key).into_iter().flat_map(|user| &user.seats) {
                if let Some(place) = self.places.get_mut(&seat.channel) {
                    place.channel.asked(source, now.mono);
                }
            }
            out.push(Action::Note(Note::Dials));
            out.push(Action::Command(source, Command::Dial));
        }
    }
}
