//! One channel of the pool: which links bring it, what of it is new, and who is on it.
//!
//! **Events** come over every link and are merged (see [`crate::upstream::merge`]). **Members** are not: who is on a
//! presence channel is what one link has been told, the leader, from its own snapshot on. A few others are followed
//! beside it, each from its own snapshot: when the leader is lost the next takes over at once, and what its list has
//! different is told. So no list is ever made of two links' halves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::roster::{Change, Roster};
use super::watched::Watched;
use crate::clock::Now;
use crate::exchange::LinkId;
use crate::pusher::channel::{ChannelKind, is_cache};
use crate::upstream::cached;
use crate::upstream::delivery::{Event, Kind};
use crate::upstream::merge::{Merge, Out, Times};

/// Links whose lists are followed beside the leader's.
const SHADOWS_MAX: usize = 2;
/// How long a link's events wait for the leader to tell that its user came. It does not when the user was there before.
const MARK_WITHIN: Duration = Duration::from_secs(1);
/// Events that wait so, at most.
const WAITING_MAX: usize = 256;

/// What the pool is to do, in order.
#[derive(Debug)]
pub enum Effect {
    /// Hand this to the channel's hubs.
    Deliver(Arc<Event>),
    /// Events may have been missed: tell the hubs.
    Gap,
    /// No link has it any more, for now.
    Lost,
    /// It is counted as a gap.
    MayHaveMissed,
    /// Have this link subscribe anew, for a snapshot.
    Resubscribe(u64),
    /// Whether snapshots are of use.
    WantSnapshots(bool),
    /// Whether this link is the channel's reader.
    Reads(u64, bool),
    /// An event was delivered that may be a copy.
    Doubtful,
    /// There was no room for so many that may be copies, and were held.
    LetGo(u64),
}

/// What a channel is told beside what is happening.
#[derive(Debug)]
pub struct At<'a> {
    pub now: Now,
    /// What hubs take the pool for.
    pub link: LinkId,
    pub out: &'a mut Vec<Effect>,
}

/// A user, as the channel's members know it.
#[derive(Clone, Debug)]
pub struct Who {
    pub id: Arc<str>,
    /// JSON.
    pub info: Arc<str>,
}

/// One user's link, as a way by which the channel's events come.
#[derive(Debug)]
struct Tap {
    who: Who,
    /// When it was told to subscribe, or to dial, at the earliest.
    asked: Instant,
    is_live: bool,
    /// The channel's last event may come anew.
    awaits_last: Option<Last>,
    /// When the leader told that its user came.
    marked: Option<Instant>,
    waiting: Option<Waiting>,
}

/// What a link brought before the leader told that its user came: from there on the two bring the same.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    events: Vec<(Arc<Event>, u64)>,
}

/// What the last event of a cache channel is worth, which a server sends to each new subscription.
#[derive(Clone, Copy, Debug)]
enum Last {
    /// It may have been missed.
    MayBeNew,
    /// Another link has the channel, and brought it.
    IsKnown,
}

#[derive(Debug)]
pub struct Channel {
    name: Arc<str>,
    is_cache: bool,
    taps: BTreeMap<u64, Tap>,
    merge: Merge<u64, Arc<Event>>,
    /// It has been live, and no link has it now.
    was_lost: bool,
    /// Links may wait for their mark.
    has_waiting: bool,
    /// Of a cache channel; of a user's own, who of the watchlist is there.
    last: Option<Arc<Event>>,
    /// Of a user's own channel.
    watched: Watched,
    /// The link that reads as soon as something comes. The others rest between two looks.
    reader: Option<u64>,
    /// Of a presence channel.
    members: Option<Members>,
}

#[derive(Debug, Default)]
struct Members {
    /// What hubs have been told: the leader's list, and whoever else is known to be there.
    told: Option<Roster>,
    leader: Option<u64>,
    shadows: Vec<(u64, Roster)>,
    /// The link that subscribes anew for a snapshot.
    renewing: Option<u64>,
    wants_snapshots: bool,
}

impl Members {
    const fn is_full(&self) -> bool {
        self.leader.is_some() && self.shadows.len() >= SHADOWS_MAX
    }
}

impl Channel {
    #[must_use]
    pub fn new(name: Arc<str>, times: Times) -> Self {
        let is_presence = ChannelKind::of(&name) == ChannelKind::Presence;
        Self {
            is_cache: is_cache(&name),
            members: is_presence.then(|| Members { wants_snapshots: true, ..Members::default() }),
            name,
            taps: BTreeMap::new(),
            merge: Merge::new(times),
            was_lost: false,
            has_waiting: false,
            last: None,
            watched: Watched::default(),
            reader: None,
        }
    }

    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether it is a presence channel.
    #[must_use]
    pub const fn has_members(&self) -> bool {
        self.members.is_some()
    }

    /// The list of members, and how many there are.
    pub fn list(&mut self) -> (Option<Arc<str>>, u32) {
        let Some(told) = self.members.as_mut().and_then(|members| members.told.as_mut()) else {
            return (None, 0);
        };
        (Some(told.list()), told.count())
    }

    /// What comes first to whoever comes late: the last event of a cache channel, or who of the user's watchlist is there.
    #[must_use]
    pub fn last(&self, now: Instant) -> Option<Arc<Event>> {
        let last = self.last.clone()?;
        Some(if self.is_cache { cached::unless_over(last, now) } else { last })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taps.is_empty()
    }

    // ------------------------------------------------------------------------------------------------- the links

    /// This user's link is to have the channel.
    pub fn open(&mut self, source: u64, who: Who, now: Instant) {
        let tap = Tap { who, asked: now, is_live: false, awaits_last: None, marked: None, waiting: None };
        self.taps.insert(source, tap);
    }

    /// The link dials, or subscribes anew.
    pub fn asked(&mut self, source: u64, now: Instant) {
        if let Some(tap) = self.taps.get_mut(&source) {
            tap.asked = now;
        }
    }

    /// The link is subscribed; `snapshot` is who is there, if that is known.
    pub fn confirmed(&mut self, source: u64, snapshot: Option<&str>, at: &mut At<'_>) {
        let Some(tap) = self.taps.get_mut(&source) else { return };
        tap.is_live = true;
        let last = if self.merge.is_live() { Last::IsKnown } else { Last::MayBeNew };
        tap.awaits_last = self.is_cache.then_some(last);
        if std::mem::take(&mut self.was_lost) {
            at.out.push(Effect::Gap);
        }
        let mark = tap.marked.take().filter(|mark| *mark >= tap.asked);
        let leader = self.members.as_ref().and_then(|members| members.leader);
        if mark.is_some() && self.merge.has(source) {
            // It is where it has to be.
        } else if leader.is_some_and(|leader| leader != source && self.merge.has(leader)) {
            tap.waiting = Some(Waiting { since: at.now.mono, events: Vec::new() });
            self.has_waiting = true;
            self.forget_mark(source, at);
        } else {
            self.enter(source, at);
        }
        self.follow(source, snapshot, at);
        self.choose_reader(at);
    }

    /// The link has the channel no more, for now.
    pub fn lost(&mut self, source: u64, at: &mut At<'_>) {
        if !self.is_cache {
            // It is said anew at the next sign-in.
            (self.watched, self.last) = (Watched::default(), None);
        }
        self.cut(source, at);
        self.unfollow(source, at);
        self.choose_reader(at);
    }

    /// The link's events are merged, though nobody knows where its subscription began.
    fn enter(&mut self, source: u64, at: &mut At<'_>) {
        let Some(tap) = self.taps.get_mut(&source) else { return };
        let (mut events, now) = (Vec::new(), at.now.mono);
        self.merge.confirmed(source, tap.asked, now, &mut events);
        for (event, digest) in tap.waiting.take().map(|waiting| waiting.events).unwrap_or_default() {
            self.merge.offer(source, digest, event, now, &mut events);
        }
        self.deliver(events, at);
    }

    /// The same of all that wait, or have done so since `before`.
    fn enter_waiting(&mut self, before: Option<Instant>, at: &mut At<'_>) {
        let is_over = |waiting: &Waiting| before.is_none_or(|before| waiting.since <= before);
        let of = |(source, tap): (&u64, &Tap)| tap.waiting.as_ref().is_some_and(is_over).then_some(*source);
        let waiting: Vec<u64> = self.taps.iter().filter_map(of).collect();
        waiting.into_iter().for_each(|source| self.enter(source, at));
    }

    /// The leader told that this user came: links of it that are just subscribed began there.
    fn mark(&mut self, id: &str, leader: u64, at: &mut At<'_>) {
        let now = at.now.mono;
        let of = |(source, tap): (&u64, &Tap)| {
            (*tap.who.id == *id && (!tap.is_live || tap.waiting.is_some())).then_some(*source)
        };
        let marked: Vec<u64> = self.taps.iter().filter_map(of).collect();
        for source in marked {
            self.forget_mark(source, at);
            if !self.merge.confirmed_like(source, leader) {
                continue;
            }
            let Some(tap) = self.taps.get_mut(&source) else { continue };
            tap.marked = Some(now);
            let mut events = Vec::new();
            for (event, digest) in tap.waiting.take().map(|waiting| waiting.events).unwrap_or_default() {
                self.merge.offer(source, digest, event, now, &mut events);
            }
            self.deliver(events, at);
        }
    }

    fn forget_mark(&mut self, source: u64, at: &mut At<'_>) {
        if self.merge.has(source) {
            let mut events = Vec::new();
            self.merge.lost(source, at.now.mono, &mut events);
            self.deliver(events, at);
        }
    }

    /// Events come over this link no more.
    fn cut(&mut self, source: u64, at: &mut At<'_>) {
        if self.members.as_ref().is_some_and(|members| members.leader == Some(source)) {
            self.enter_waiting(None, at);
        }
        let Some(tap) = self.taps.get_mut(&source) else { return };
        let was_live = std::mem::replace(&mut tap.is_live, false);
        (tap.marked, tap.waiting) = (None, None);
        let mut events = Vec::new();
        let is_gap = self.merge.lost(source, at.now.mono, &mut events);
        self.deliver(events, at);
        let is_live = self.taps.values().any(|tap| tap.is_live);
        if was_live && !is_live {
            self.was_lost = true;
            at.out.push(Effect::Lost);
        } else if is_gap {
            at.out.push(Effect::MayHaveMissed);
            at.out.push(Effect::Gap);
        }
    }

    /// The link leaves the channel.
    pub fn close(&mut self, source: u64, at: &mut At<'_>) {
        self.lost(source, at);
        self.taps.remove(&source);
    }

    fn choose_reader(&mut self, at: &mut At<'_>) {
        let taps = &self.taps;
        let (lead, shadows) = match &self.members {
            Some(members) => (members.leader, members.shadows.as_slice()),
            None => (None, [].as_slice()),
        };
        let preferred = lead.into_iter().chain(shadows.iter().map(|(source, _)| *source)).chain(self.reader);
        let is_live = |source: &u64| taps.get(source).is_some_and(|tap| tap.is_live);
        let chosen = preferred.chain(taps.keys().copied()).find(is_live);
        if chosen != self.reader {
            at.out.extend(self.reader.map(|source| Effect::Reads(source, false)));
            at.out.extend(chosen.map(|source| Effect::Reads(source, true)));
            self.reader = chosen;
        }
    }

    // ------------------------------------------------------------------------------------------------ its members

    /// A link is subscribed: its list may be followed, and its user is on the channel.
    fn follow(&mut self, source: u64, snapshot: Option<&str>, at: &mut At<'_>) {
        let Some(members) = &mut self.members else { return };
        let was_renewing = members.renewing.take_if(|renewing| *renewing == source).is_some();
        let snapshot = snapshot.filter(|_| !members.is_full());
        // A server that says nothing of members is not asked again.
        if snapshot.is_some() || was_renewing {
            let roster = snapshot.and_then(Roster::of_snapshot).unwrap_or_default();
            if members.leader.is_some() {
                members.shadows.push((source, roster));
            } else {
                self.lead(source, roster, at);
            }
        }
        self.add_missing(source, at);
        self.look_for_leader(at);
    }

    fn unfollow(&mut self, source: u64, at: &mut At<'_>) {
        let Some(members) = &mut self.members else { return };
        members.renewing = members.renewing.filter(|renewing| *renewing != source);
        members.shadows.retain(|(shadow, _)| *shadow != source);
        if members.leader == Some(source) {
            members.leader = None;
            if !members.shadows.is_empty() {
                let (next, roster) = members.shadows.remove(0);
                self.lead(next, roster, at);
            }
        }
        self.look_for_leader(at);
    }

    /// The link is the one whose list counts, and this is the list.
    fn lead(&mut self, source: u64, mut roster: Roster, at: &mut At<'_>) {
        let Some(members) = &mut self.members else { return };
        members.leader = Some(source);
        // Whose link is subscribed is there, even if the new leader has not heard of it yet.
        for tap in self.taps.values().filter(|tap| tap.is_live) {
            roster.add(&tap.who.id, &tap.who.info);
        }
        match &mut members.told {
            None => members.told = Some(roster),
            Some(told) => {
                let changes = told.become_newer(&roster);
                changes.into_iter().for_each(|change| self.tell(change, at));
            }
        }
    }

    /// This link's user is there, whether the leader has heard of it or not.
    fn add_missing(&mut self, source: u64, at: &mut At<'_>) {
        let told = self.members.as_mut().and_then(|members| members.told.as_mut());
        if let (Some(told), Some(tap)) = (told, self.taps.get(&source))
            && told.add(&tap.who.id, &tap.who.info)
        {
            let Who { id, info } = tap.who.clone();
            self.tell(Change::Added { id, info }, at);
        }
    }

    /// When no list is followed any more, a link that has the channel gets a new one.
    fn look_for_leader(&mut self, at: &mut At<'_>) {
        let Some(members) = &mut self.members else { return };
        let wants = !members.is_full();
        if wants != members.wants_snapshots {
            members.wants_snapshots = wants;
            at.out.push(Effect::WantSnapshots(wants));
        }
        if members.leader.is_some() || members.renewing.is_some() {
            return;
        }
        let live = self.taps.iter().find(|(_, tap)| tap.is_live).map(|(source, _)| *source);
        if let Some(source) = live {
            members.renewing = Some(source);
            self.cut(source, at);
            self.asked(source, at.now.mono);
            at.out.push(Effect::Resubscribe(source));
        }
    }

    fn tell(&self, change: Change, at: &mut At<'_>) {
        let (id, info, kind) = match &change {
            Change::Added { id, info } => (id, info, Kind::MemberAdded),
            Change::Removed { id, info } => (id, info, Kind::MemberRemoved),
        };
        let event = Event::new(at.link, self.name.clone(), id, info, at.now, None).of_kind(kind);
        at.out.push(Effect::Deliver(Arc::new(event)));
    }

    fn member_event(&mut self, source: u64, event: &Event, at: &mut At<'_>) {
        let Some(members) = &mut self.members else { return };
        let is_leader = members.leader == Some(source);
        let roster = if is_leader {
            members.told.as_mut()
        } else {
            members.shadows.iter_mut().find(|(shadow, _)| *shadow == source).map(|(_, roster)| roster)
        };
        let Some(roster) = roster else { return };
        let id: Arc<str> = (&*event.name).into();
        let change = if event.kind == Kind::MemberAdded {
            roster.add(&event.name, &event.data).then(|| Change::Added { id, info: (&*event.data).into() })
        } else {
            roster.remove(&event.name).map(|info| Change::Removed { id, info })
        };
        if is_leader && event.kind == Kind::MemberAdded {
            self.mark(&event.name, source, at);
        }
        if let Some(change) = change.filter(|_| is_leader) {
            self.tell(change, at);
        }
    }

    // ------------------------------------------------------------------------------------------------- its events

    /// The link brings an event.
    pub fn event(&mut self, source: u64, event: &Arc<Event>, digest: u64, at: &mut At<'_>) {
        let Some(tap) = self.taps.get_mut(&source).filter(|tap| tap.is_live) else { return };
        match event.kind {
            Kind::MemberAdded | Kind::MemberRemoved => self.member_event(source, event, at),
            Kind::CacheMiss => {
                tap.awaits_last = None;
                // Once: each new link is told so again.
                if self.last.is_none() {
                    let miss = Arc::new(Event::cache_miss(at.link, self.name.clone(), at.now));
                    self.last = Some(miss.clone());
                    at.out.push(Effect::Deliver(miss));
                }
            }
            // Of the link's own user: no other brings it.
            Kind::Watchlist | Kind::SubscriptionCount => {
                if event.kind == Kind::Watchlist {
                    self.watched.learn(&event.data);
                    let data = self.watched.data();
                    let all = Event::new(at.link, self.name.clone(), &event.name, &data, at.now, None);
                    self.last = Some(Arc::new(all.of_kind(Kind::Watchlist)));
                }
                let own = Event::new(at.link, self.name.clone(), &event.name, &event.data, at.now, None);
                at.out.push(Effect::Deliver(Arc::new(own.of_kind(event.kind))));
            }
            Kind::Channel => {
                let mut events = Vec::new();
                let (now, event) = (at.now.mono, event.clone());
                if let Some(waiting) = &mut tap.waiting
                    && tap.awaits_last.is_none()
                {
                    waiting.events.push((event, digest));
                    if waiting.events.len() >= WAITING_MAX {
                        self.enter(source, at);
                    }
                    return;
                }
                match tap.awaits_last.take() {
                    None => {
                        self.merge.offer(source, digest, event, now, &mut events);
                    }
                    Some(Last::MayBeNew) => {
                        self.merge.offer_last(source, digest, event, now, &mut events);
                    }
                    Some(Last::IsKnown) => {}
                }
                self.deliver(events, at);
            }
        }
    }

    /// Hands on what is new, as an event of the pool's.
    fn deliver(&mut self, events: Vec<Out<u64, Arc<Event>>>, at: &mut At<'_>) {
        let let_go = self.merge.take_let_go();
        if let_go > 0 {
            at.out.push(Effect::LetGo(let_go));
        }
        for Out { event, source: _, doubtful } in events {
            if doubtful {
                at.out.push(Effect::Doubtful);
            }
            let Event { name, data, origin, sender, is_passing, .. } = &*event;
            let event = Event::new(at.link, self.name.clone(), name, data, at.now, *origin);
            let event = Arc::new(event.by_member(sender.as_deref()).passing(*is_passing));
            if event.says_last() {
                self.last = Some(event.clone());
            }
            at.out.push(Effect::Deliver(event));
        }
    }

    /// A request with messages of this bridge is about to be sent.
    pub fn begin(&mut self, flight: u64, digests: Vec<u64>, excluded: Option<u64>) {
        self.merge.begin(flight, digests, excluded);
    }

    /// The request has ended; `accepted`: its messages of this channel, if Pusher has them.
    pub fn ended(&mut self, flight: u64, accepted: Option<&[Arc<Event>]>, at: &mut At<'_>) {
        let mut events = Vec::new();
        match accepted {
            Some(accepted) => self.merge.accepted(flight, accepted.iter().cloned(), at.now.mono, &mut events),
            None => self.merge.failed(flight, at.now.mono, &mut events),
        }
        self.deliver(events, at);
    }

    // -------------------------------------------------------------------------------------------------- the time

    /// When [`Self::settle`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        // Asked for with each event, so it looks at all links only while it has to.
        let taps = self.has_waiting.then_some(&self.taps).into_iter().flat_map(BTreeMap::values);
        let waiting = taps.filter_map(|tap| Some(tap.waiting.as_ref()?.since + MARK_WITHIN)).min();
        [waiting, self.merge.deadline()].into_iter().flatten().min()
    }

    pub fn settle(&mut self, at: &mut At<'_>) {
        self.enter_waiting(at.now.mono.checked_sub(MARK_WITHIN), at);
        self.has_waiting = self.taps.values().any(|tap| tap.waiting.is_some());
        let mut events = Vec::new();
        self.merge.settle(at.now.mono, &mut events);
        self.deliver(events, at);
    }
}
