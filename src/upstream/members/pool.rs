//! The pool's decisions: which users have a link, when these may dial, who is on which channel, and what hubs are told.
//! It takes inputs with the time and gives actions; the driver carries them out.

mod dials;
mod heard;
pub mod rounds;
#[cfg(test)]
mod tests;
mod users;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::dials::Dials;
use self::users::{User, Way};
use super::channel::{At, Channel, Effect};
use super::copies::digest;
use super::settings::Settings;
use crate::clock::Now;
use crate::exchange::{LinkId, Member, MemberKey, NamedBy};
use crate::pusher::frame::text_json;
use crate::upstream::delivery::{Delivery, Event, Sent};
use crate::upstream::hubs::Hubs;
use crate::upstream::lane::Item;
use crate::upstream::link::client_events::ClientEvent;
use crate::upstream::link::machine::{Command, Report};
use crate::upstream::merge;

/// The number of the pool among a user's link's hubs: it is the only one.
const THE_POOL: usize = 0;
/// How often it is looked at what has become certain (see [`merge`]).
const SETTLING: Duration = Duration::from_secs(1);

/// What a link tells the pool.
#[derive(Debug)]
pub enum FromLink {
    /// As links tell hubs.
    Told(Delivery),
    /// Frames came that are copies of these events', with their digests.
    Copies(Vec<(Arc<Event>, u64)>),
    /// Who is on a presence channel, as the confirmation says that comes next.
    Snapshot {
        channel: Arc<str>,
        data: Box<str>,
    },
    /// It sends a client event: others get copies of it. What it tells hubs of it follows when the server has taken it.
    Sending(Arc<Sent>),
    /// It has done with it.
    Settled(Arc<Sent>),
    Report(Report),
}

/// Something for the driver to do, in order.
#[derive(Debug)]
pub enum Action {
    /// Open a link of this number.
    Open(u64),
    /// Close it.
    Close(u64),
    /// Tell it this.
    Command(u64, Command),
    /// Hand this to each of these hubs.
    Tell(Hubs, Delivery),
    /// There is no link for this.
    NotSent(Item<ClientEvent>),
    /// From now on links hand on who is on this channel, or need not.
    WantSnapshots(Arc<str>, bool),
    Note(Note),
}

/// Something that somebody may want to know.
#[derive(Debug, PartialEq, Eq)]
pub enum Note {
    /// A link may dial.
    Dials,
    /// There is no place for one more user's link.
    NoPlace,
    /// A server refused to sign a user in.
    SignInRefused(Option<u16>, String),
    /// A backend wants a user's connections closed.
    Terminated,
    /// No link has a channel any more.
    Lost(Arc<str>),
    /// Links of a channel were lost that knew what the others may have missed.
    Gap(Arc<str>),
    /// An event was delivered that may be a copy of an earlier one.
    Doubtful,
    /// There was no room for so many that may be copies, and were held.
    LetGo(u64),
    /// What a client published is delivered to this bridge's own.
    Local,
    /// More watchlist events came before a user's channel was confirmed than are kept.
    WatchlistEventLost,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Users with a link of their own.
    pub links: usize,
    /// Links that wait until they may dial.
    pub dialling: usize,
    /// Users who wait for a place.
    pub turned_away: usize,
}

/// What the pool has of a channel.
#[derive(Debug)]
struct Place {
    channel: Channel,
    /// Members that each hub has here, who have been answered.
    hubs: Vec<u32>,
    receivers: Hubs,
}

/// Which flight has which messages, by channel.
type Flight = Vec<(Arc<str>, Vec<Arc<Event>>)>;

#[derive(Debug)]
pub struct Pool {
    id: LinkId,
    settings: Settings,
    linger: Duration,
    times: merge::Times,
    users: HashMap<MemberKey, User>,
    by_source: HashMap<u64, MemberKey>,
    places: HashMap<Arc<str>, Place>,
    /// Links that count.
    links: usize,
    turned_away: BTreeMap<u64, MemberKey>,
    lingering: BTreeMap<(Instant, u64), (MemberKey, Arc<str>)>,
    dials: Dials,
    /// Of a confirmation that comes next, by link.
    snapshots: HashMap<u64, (Arc<str>, Box<str>)>,
    /// Channels where something is not certain yet.
    settling: HashSet<Arc<str>>,
    settles_at: Option<Instant>,
    flights: HashMap<u64, Flight>,
    /// At most ten a second and link.
    client_events: Vec<ClientEventUnderWay>,
    next: u64,
}

/// A client's event that is sent, and not known to be taken yet.
#[derive(Debug)]
struct ClientEventUnderWay {
    source: u64,
    flight: u64,
    digest: u64,
    sent: Arc<Sent>,
}

impl Pool {
    /// A pool that hubs take for the link `id`.
    #[must_use]
    pub fn new(id: LinkId, settings: Settings, linger: Duration, subscribe_timeout: Duration) -> Self {
        Self {
            id,
            dials: Dials::new(settings.dials),
            settings,
            linger,
            times: merge::Times {
                skew: Duration::from_secs(1),
                confirm: subscribe_timeout,
                settle: Duration::from_secs(5),
            },
            users: HashMap::new(),
            by_source: HashMap::new(),
            places: HashMap::new(),
            links: 0,
            turned_away: BTreeMap::new(),
            lingering: BTreeMap::new(),
            snapshots: HashMap::new(),
            settling: HashSet::new(),
            settles_at: None,
            flights: HashMap::new(),
            client_events: Vec::new(),
            next: 0,
        }
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            links: self.by_source.len(),
            dialling: self.dials.waiting(),
            turned_away: self.turned_away.len(),
        }
    }

    /// A number that was not there before.
    const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    // ------------------------------------------------------------------------------------------------ from hubs

    /// A subscriber of the channel has come to the hub, as this member.
    pub fn join(
        &mut self,
        channel: &Arc<str>,
        member: &Arc<Member>,
        (hub, join): (usize, u64),
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let key = member.key();
        let user = self.users.entry(key.clone()).or_insert_with(|| User::new(member));
        if let Some(data) = user.learn(member)
            && let Way::Open(source) = user.way
        {
            out.push(Action::Command(source, Command::SignIn(data)));
        }
        let (seat, is_new) = user.seat_or_new(channel, member);
        if let Some(linger) = seat.lingers.take() {
            self.lingering.remove(&linger);
        }
        seat.stay_or_new(hub).join(join);
        let is_live = seat.is_live;
        match user.way {
            Way::Open(_) if is_live => self.answer(&key, channel, now, out),
            Way::Open(source) if is_new => self.subscribe(source, &key, channel, now, out),
            Way::Open(_) => {}
            Way::TurnedAway(_) => self.refuse(&key, channel, Hubs::only(hub), out),
            Way::None => self.find_place(&key, now, out),
        }
    }

    /// One has left.
    pub fn leave(
        &mut self,
        channel: &Arc<str>,
        key: &MemberKey,
        hub: usize,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let number = self.number();
        let Some(user) = self.users.get_mut(key) else { return };
        let is_open = matches!(user.way, Way::Open(_));
        let Some(seat) = user.seat(channel) else { return };
        let Some(was_counted) = seat.leave(hub) else { return };
        let is_empty = seat.stays.is_empty();
        if is_empty && is_open {
            let linger = (now.mono + self.linger, number);
            seat.lingers = Some(linger);
            self.lingering.insert(linger, (key.clone(), channel.clone()));
        } else if is_empty {
            user.seats.retain(|seat| seat.channel != *channel);
            if user.seats.is_empty() {
                self.forget(key);
            }
        }
        if was_counted && let Some(place) = self.places.get_mut(channel) {
            place.count(hub, false);
        }
        if self.linger.is_zero() {
            self.timer(now, out);
        }
    }

    // ------------------------------------------------------------------------------------------------- the links

    /// The user is to have a link, if there is a place for it.
    fn find_place(&mut self, key: &MemberKey, now: Now, out: &mut Vec<Action>) {
        let is_observer = is_observer(key);
        if !is_observer && self.links >= self.settings.links_max {
            self.make_room(now, out);
        }
        if !is_observer && self.links >= self.settings.links_max {
            let number = self.number();
            self.turned_away.insert(number, key.clone());
            let Some(user) = self.users.get_mut(key) else { return };
            user.way = Way::TurnedAway(number);
            let told: Vec<_> = user.seats.iter().map(|seat| (seat.channel.clone(), seat.hubs())).collect();
            out.push(Action::Note(Note::NoPlace));
            return told.into_iter().for_each(|(channel, hubs)| self.refuse(key, &channel, hubs, out));
        }
        let source = self.number();
        let Some(user) = self.users.get_mut(key) else { return };
        user.open(source);
        let data = user.user_data.clone();
        let channels: Vec<_> = user.seats.iter().map(|seat| seat.channel.clone()).collect();
        self.links += usize::from(!is_observer);
        self.by_source.insert(source, key.clone());
        out.push(Action::Open(source));
        if let Some(data) = data {
            out.push(Action::Command(source, Command::SignIn(data)));
        }
        channels.iter().for_each(|channel| self.subscribe(source, key, channel, now, out));
    }

    /// Closes a link that nobody needs any more, if there is one.
    fn make_room(&mut self, now: Now, out: &mut Vec<Action>) {
        let unused = self
            .lingering
            .values()
            .map(|(key, _)| key)
            .find(|key| !is_observer(key) && self.users.get(*key).is_some_and(User::is_unused));
        if let Some(key) = unused.cloned() {
            self.close(&key, now, out);
            self.forget(&key);
        }
    }

    /// The link is to have this channel.
    fn subscribe(
        &mut self,
        source: u64,
        key: &MemberKey,
        channel: &Arc<str>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let Some(seat) = self.users.get_mut(key).and_then(|user| user.seat(channel)) else { return };
        let (who, data) = (seat.who.clone(), seat.channel_data());
        let times = self.times;
        let place = self.places.entry(channel.clone()).or_insert_with(|| Place::new(channel.clone(), times));
        place.channel.open(source, who, now.mono);
        if place.channel.has_members() {
            out.push(Action::Command(source, Command::Introduce { channel: channel.clone(), data }));
        }
        out.push(Action::Command(source, Command::Subscribe(channel.clone(), THE_POOL)));
    }

    /// The user's link is not needed any more, or is of no use.
    fn close(&mut self, key: &MemberKey, now: Now, out: &mut Vec<Action>) {
        let is_observer = is_observer(key);
        let Some(user) = self.users.get_mut(key) else { return };
        let Way::Open(source) = std::mem::replace(&mut user.way, Way::None) else { return };
        let mut channels = Vec::new();
        for seat in &mut user.seats {
            seat.is_live = false;
            if let Some(linger) = seat.lingers.take() {
                self.lingering.remove(&linger);
            }
            channels.push(seat.channel.clone());
        }
        user.seats.retain(|seat| !seat.stays.is_empty());
        self.links -= usize::from(!is_observer);
        self.by_source.remove(&source);
        self.snapshots.remove(&source);
        self.dials.remove(source);
        self.none_under_way(source, now, out);
        channels.iter().for_each(|channel| self.leave_channel(source, channel, now, out));
        out.push(Action::Close(source));
    }

    /// The link has the channel no more.
    fn leave_channel(&mut self, source: u64, channel: &Arc<str>, now: Now, out: &mut Vec<Action>) {
        self.at_channel(channel, now, out, |channel, at| channel.close(source, at));
        if self.places.get(channel).is_some_and(|place| place.channel.is_empty()) {
            self.places.remove(channel);
            self.settling.remove(channel);
            out.push(Action::WantSnapshots(channel.clone(), true));
        }
    }

    /// The user has no seat and no link.
    fn forget(&mut self, key: &MemberKey) {
        if self.users.get(key).is_some_and(User::is_gone)
            && let Some(User { way: Way::TurnedAway(number), .. }) = self.users.remove(key)
        {
            self.turned_away.remove(&number);
        }
    }

    /// Who was turned away has a place, as far as there are any.
    fn fill_places(&mut self, now: Now, out: &mut Vec<Action>) {
        while self.links < self.settings.links_max
            && let Some((_, key)) = self.turned_away.pop_first()
        {
            self.find_place(&key, now, out);
        }
    }

    // ---------------------------------------------------------------------------------------------- the publisher

    /// A request with these messages is about to be sent: copies come over every link that has their channels.
    pub fn begin(&mut self, flight: u64, batch: &[Arc<Sent>], now: Now) {
        let mut parts: Flight = Vec::new();
        for sent in batch {
            let data = text_json(&sent.data);
            let event = Event::new(self.id, sent.channel.clone(), &sent.event, &data, now, Some(sent.origin));
            match parts.iter_mut().find(|(channel, _)| *channel == sent.channel) {
                Some((_, events)) => events.push(Arc::new(event)),
                None => parts.push((sent.channel.clone(), vec![Arc::new(event)])),
            }
        }
        for (channel, events) in &parts {
            let digests = events.iter().map(|event| digest(&event.name, &event.data)).collect();
            if let Some(place) = self.places.get_mut(channel) {
                place.channel.begin(flight, digests, None);
            }
        }
        self.flights.insert(flight, parts);
    }

    /// The request has ended.
    pub fn ended(&mut self, flight: u64, is_accepted: bool, now: Now, out: &mut Vec<Action>) {
        for (channel, events) in self.flights.remove(&flight).unwrap_or_default() {
            if is_accepted && self.places.contains_key(&channel) {
                events.iter().for_each(|_| out.push(Action::Note(Note::Local)));
            }
            let accepted = is_accepted.then_some(&*events);
            self.at_channel(&channel, now, out, |channel, at| channel.ended(flight, accepted, at));
        }
    }

    // -------------------------------------------------------------------------------------------------- the time

    /// When [`Self::timer`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let linger = self.lingering.first_key_value().map(|((at, _), _)| *at);
        [linger, self.dials.deadline(), self.settles_at].into_iter().flatten().min()
    }

    /// The time has come that [`Self::deadline`] said.
    pub fn timer(&mut self, now: Now, out: &mut Vec<Action>) {
        while let Some(first) = self.lingering.first_entry().filter(|first| first.key().0 <= now.mono) {
            let (key, channel) = first.remove();
            self.lingered(&key, &channel, now, out);
        }
        self.grant_dials(now, out);
        if self.settles_at.is_some_and(|at| at <= now.mono) {
            for channel in std::mem::take(&mut self.settling) {
                self.at_channel(&channel, now, out, |channel, at| channel.settle(at));
            }
            self.settles_at = (!self.settling.is_empty()).then(|| now.mono + SETTLING);
        }
    }

    /// Nobody has come back to this seat.
    fn lingered(&mut self, key: &MemberKey, channel: &Arc<str>, now: Now, out: &mut Vec<Action>) {
        let Some(user) = self.users.get_mut(key) else { return };
        let Way::Open(source) = user.way else { return };
        user.seats.retain(|seat| seat.channel != *channel);
        if user.seats.is_empty() {
            self.close(key, now, out);
            self.leave_channel(source, channel, now, out);
            self.forget(key);
            return self.fill_places(now, out);
        }
        self.leave_channel(source, channel, now, out);
        out.push(Action::Command(source, Command::Unsubscribe(channel.clone(), THE_POOL)));
        self.have_read(key, out);
    }

    // -------------------------------------------------------------------------------------------------- a channel

    /// Gives the channel an input, and makes actions of its effects.
    fn at_channel(
        &mut self,
        channel: &Arc<str>,
        now: Now,
        out: &mut Vec<Action>,
        input: impl FnOnce(&mut Channel, &mut At<'_>),
    ) {
        let Some(place) = self.places.get_mut(channel) else { return };
        let mut effects = Vec::new();
        input(&mut place.channel, &mut At { now, link: self.id, out: &mut effects });
        if !self.settling.contains(channel) && place.channel.deadline().is_some() {
            self.settling.insert(channel.clone());
            self.settles_at = self.settles_at.or(Some(now.mono + SETTLING));
        }
        effects.into_iter().for_each(|effect| self.carry_out(channel, effect, out));
    }

    fn carry_out(&mut self, channel: &Arc<str>, effect: Effect, out: &mut Vec<Action>) {
        let receivers = self.places.get(channel).map(|place| place.receivers).unwrap_or_default();
        match effect {
            Effect::Deliver(event) => {
                if !receivers.is_empty() {
                    event.expect_hubs(receivers.len());
                    out.push(Action::Tell(receivers, Delivery::Event(event)));
                }
            }
            Effect::Gap => {
                if !receivers.is_empty() {
                    let (link, channel) = (self.id, channel.clone());
                    out.push(Action::Tell(
                        receivers,
                        Delivery::Live { link, channel, gap: true, cached: None },
                    ));
                }
            }
            Effect::MayHaveMissed => out.push(Action::Note(Note::Gap(channel.clone()))),
            Effect::Lost => out.push(Action::Note(Note::Lost(channel.clone()))),
            Effect::Resubscribe(source) => self.resubscribe(source, channel, out),
            Effect::WantSnapshots(wanted) => out.push(Action::WantSnapshots(channel.clone(), wanted)),
            Effect::Reads(source, reads) => {
                let Some(key) = self.by_source.get(&source).cloned() else { return };
                if let Some(user) = self.users.get_mut(&key) {
                    user.reads = if reads { user.reads + 1 } else { user.reads.saturating_sub(1) };
                }
                self.have_read(&key, out);
            }
            Effect::Doubtful => out.push(Action::Note(Note::Doubtful)),
            Effect::LetGo(events) => out.push(Action::Note(Note::LetGo(events))),
        }
    }

    fn resubscribe(&mut self, source: u64, channel: &Arc<str>, out: &mut Vec<Action>) {
        let Some(key) = self.by_source.get(&source) else { return };
        let Some(seat) = self.users.get_mut(key).and_then(|user| user.seat(channel)) else { return };
        seat.is_live = false;
        let data = seat.channel_data();
        for command in [
            Command::Unsubscribe(channel.clone(), THE_POOL),
            Command::Introduce { channel: channel.clone(), data },
            Command::Subscribe(channel.clone(), THE_POOL),
        ] {
            out.push(Action::Command(source, command));
        }
    }

    /// Tells the user's link whether it is to read at once what comes.
    fn have_read(&mut self, key: &MemberKey, out: &mut Vec<Action>) {
        let Some(user) = self.users.get_mut(key) else { return };
        let Way::Open(source) = user.way else { return };
        let is_lazy = user.reads == 0 && user.seats.iter().any(|seat| seat.is_live);
        if is_lazy != user.is_lazy {
            user.is_lazy = is_lazy;
            out.push(Action::Command(source, Command::BeLazy(is_lazy)));
        }
    }
}

/// Whether it is this bridge's own link: of those there is one, which takes no user's place.
fn is_observer(key: &MemberKey) -> bool {
    key.named_by == NamedBy::Bridge
}

/// Marks the number of a flight that is none of the publisher's.
const LOCAL_FLIGHT: u64 = 1 << 63;

impl Place {
    fn new(channel: Arc<str>, times: merge::Times) -> Self {
        Self { channel: Channel::new(channel, times), hubs: Vec::new(), receivers: Hubs::default() }
    }

    /// The hub has one more member here, or one less.
    fn count(&mut self, hub: usize, is_more: bool) {
        if self.hubs.len() <= hub {
            self.hubs.resize(hub + 1, 0);
        }
        let Some(count) = self.hubs.get_mut(hub) else { return };
        *count = if is_more { *count + 1 } else { count.saturating_sub(1) };
        let hub = Hubs::only(hub);
        self.receivers = if *count > 0 { self.receivers.with(hub) } else { self.receivers.without(hub) };
    }
}
