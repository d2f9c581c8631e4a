//! What a link has of the user whose own it is: as whom it subscribes, whether that user is signed in, and when it reads.
//! Links that all clients share have nothing of it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Action, Frame, Machine, Phase, Report};
use crate::clock::Now;
use crate::json::{self, Object};
use crate::pusher::channel::USER_PREFIX;
use crate::pusher::frame::ServerFrame;
use crate::upstream::delivery::{Event, Kind, WATCHLIST_EVENTS};
use crate::upstream::flights::Held;
use crate::upstream::lost::End;
use crate::upstream::members::pool::FromLink;

/// A server ends a user's connections with this code when a backend asks for it (Pusher docs, "Terminating user
/// connections").
const TERMINATED: u16 = 4009;
/// A sign-in that was refused is tried again after this time: what was wrong may have been set right by hand.
const SIGN_IN_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How long a link does not look at its socket after it has read from it, when others bring the same events sooner: it
/// then reads what has come meanwhile at once. The more comes, the sooner, so that it fits the buffers on its way.
pub(super) const REST_LEAST: Duration = Duration::from_millis(50);
pub(super) const REST_MOST: Duration = Duration::from_secs(2);
/// Messages that it would like to read at once: about so many it rests for.
pub(super) const MESSAGES_AT_ONCE: usize = 32;
/// Watchlist events kept for a user's channel that is not confirmed yet. The first comes before that.
const EARLY_EVENTS_MAX: usize = 16;

/// A user, as the link that is the user's own knows it.
#[derive(Debug, Default)]
pub(super) struct MemberSide {
    /// The channels' `channel_data`, for presence channels.
    data: HashMap<Arc<str>, Arc<str>>,
    user: User,
    /// It leaves events to others, as long as they are quicker.
    is_lazy: bool,
    rests_until: Option<Instant>,
    rest: Duration,
    /// Messages read since it rested last.
    read: usize,
}

#[derive(Debug, Default)]
struct User {
    /// `#server-to-user-…`, once it is wanted.
    channel: Option<Arc<str>>,
    /// What is signed.
    data: Option<Arc<str>>,
    sign_in: SignIn,
    /// Events for the channel that came before its confirmation.
    early: VecDeque<(Box<str>, Now)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SignIn {
    /// Not asked for on this connection.
    #[default]
    No,
    /// To be answered until then.
    Asked(Instant),
    Done,
    /// To be tried again then.
    Refused(Instant),
}

impl MemberSide {
    /// As whom it subscribes to `channel`, where it has to say so.
    pub(super) fn channel_data(&self, channel: &str) -> Option<&Arc<str>> {
        self.data.get(channel)
    }

    fn rest(&mut self, now: Instant) {
        let rest = match std::mem::take(&mut self.read) {
            0..MESSAGES_AT_ONCE => self.rest * 2,
            read if read > 2 * MESSAGES_AT_ONCE => self.rest / 2,
            _ => self.rest,
        };
        self.rest = rest.clamp(REST_LEAST, REST_MOST);
        self.rests_until = Some(now + self.rest);
    }

    /// Something is asked for, whose answer is to be read.
    pub(super) const fn wake(&mut self) {
        self.rests_until = None;
    }

    /// The channel is not subscribed any more.
    pub(super) fn forget(&mut self, channel: &str) {
        self.data.remove(channel);
    }

    /// Whether events wait for the user's channel.
    pub(super) fn has_early_events(&self) -> bool {
        !self.user.early.is_empty()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let sign_in = match self.user.sign_in {
            SignIn::Asked(until) | SignIn::Refused(until) => Some(until),
            SignIn::No | SignIn::Done => None,
        };
        [sign_in, self.rests_until].into_iter().flatten().min()
    }
}

impl Machine {
    /// Makes it a user's own link. It dials when [`super::Command::Dial`] says that it may.
    #[must_use]
    pub fn of_member(mut self) -> Self {
        self.member = Some(Box::default());
        self
    }

    // ------------------------------------------------------------------------------------------------ commands

    /// Says as whom it subscribes to `channel`, before it does.
    pub(super) fn introduce(&mut self, channel: Arc<str>, data: Arc<str>) {
        if let Some(member) = &mut self.member {
            member.data.insert(channel, data);
        }
    }

    /// The user is to be signed in with this data: now, if there is a connection and it is not done yet.
    pub(super) fn want_sign_in(&mut self, data: Arc<str>, now: Instant, out: &mut Vec<Action>) {
        let Some(member) = &mut self.member else { return };
        member.user.data = Some(data);
        if member.user.sign_in == SignIn::No && matches!(self.phase, Phase::Connected { .. }) {
            self.sign_in(now, out);
        }
    }

    /// A user's channel is not subscribed before the sign-in.
    pub(super) fn before_subscribing(&mut self, channel: &Arc<str>) {
        let Some(member) = &mut self.member else { return };
        if channel.starts_with(USER_PREFIX) {
            member.user.channel = Some(channel.clone());
            if member.user.sign_in != SignIn::Done && matches!(self.phase, Phase::Connected { .. }) {
                self.table.hold(channel);
            }
        }
    }

    /// Whether it leaves events to other links as long as they are quicker.
    pub(super) fn be_lazy(&mut self, is_lazy: bool) {
        if let Some(member) = &mut self.member {
            member.is_lazy = is_lazy;
            member.rests_until = member.rests_until.filter(|_| is_lazy);
        }
    }

    pub(super) fn may_dial(&mut self, now: Instant, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Asking { .. }) {
            self.phase = Phase::Dialling { until: now + self.times.connect_timeout };
            out.push(Action::Dial);
        }
    }

    // ------------------------------------------------------------------------------------------------- reading

    /// Whether the socket is to be looked at now.
    #[must_use]
    pub fn reads(&self) -> bool {
        self.member.as_ref().is_none_or(|member| member.rests_until.is_none())
    }

    /// So many messages have been read at once; `is_all`: there are no more.
    pub fn has_read(&mut self, messages: usize, is_all: bool, now: Instant) {
        let is_asking = self.table.is_subscribing() || self.has_client_events();
        // Or the next connection would not be read from its beginning.
        let is_connected = matches!(self.phase, Phase::Connected { .. });
        let Some(member) = &mut self.member else { return };
        member.read += messages;
        let may_rest = is_all && is_connected && member.is_lazy && !is_asking;
        if may_rest && !matches!(member.user.sign_in, SignIn::Asked(_)) {
            member.rest(now);
        }
    }

    // ------------------------------------------------------------------------------------------------- sign-in

    fn sign_in(&mut self, now: Instant, out: &mut Vec<Action>) {
        let until = now + self.times.subscribe_timeout;
        if let Some(member) = &mut self.member
            && let Some(data) = &member.user.data
        {
            out.push(Action::Send(Frame::SignIn(data.clone())));
            member.user.sign_in = SignIn::Asked(until);
        }
    }

    /// There is a connection: the first thing that is said, and which channels wait for its answer.
    pub(super) fn member_connected(&mut self, held: &mut Held, now: Instant, out: &mut Vec<Action>) {
        let Some(member) = &mut self.member else { return };
        held.by_requests.extend(member.user.channel.clone());
        // One who was refused is not signed in again before its time, or a server that closes would be asked for ever.
        if !matches!(member.user.sign_in, SignIn::Refused(_)) {
            member.user.sign_in = SignIn::No;
            self.sign_in(now, out);
        }
    }

    /// The connection is lost. `true`: for good, because a backend wants this user's connections closed.
    pub(super) fn member_lost(&mut self, end: Option<&End>, now: Instant, out: &mut Vec<Action>) -> bool {
        let Some(member) = &mut self.member else { return false };
        member.rests_until = None;
        member.user.early.clear();
        let code = end.and_then(|end| end.code);
        match member.user.sign_in {
            SignIn::Done if code == Some(TERMINATED) => {
                member.user.sign_in = SignIn::No;
                out.push(Action::Report(Report::Terminated));
                return true;
            }
            SignIn::Asked(_) if code == Some(TERMINATED) => {
                let why = end.map(|end| end.why.clone()).unwrap_or_default();
                self.sign_in_refused(code, why, now, out);
            }
            SignIn::Refused(_) => {}
            SignIn::Asked(_) | SignIn::Done | SignIn::No => member.user.sign_in = SignIn::No,
        }
        false
    }

    /// Whether an error answers the sign-in, which it does not say: the sign-in is sent first, so the first error that
    /// names no channel does.
    pub(super) fn is_about_sign_in(&self, message: &str) -> bool {
        let Some(member) = &self.member else { return false };
        matches!(member.user.sign_in, SignIn::Asked(_)) && self.table.named_by(message).is_none()
    }

    pub(super) fn sign_in_refused(
        &mut self,
        code: Option<u16>,
        why: String,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(member) = &mut self.member else { return };
        member.user.sign_in = SignIn::Refused(now + SIGN_IN_AGAIN_AFTER);
        out.push(Action::Report(Report::SignInRefused { channel: member.user.channel.clone(), code, why }));
    }

    pub(super) fn member_timer(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(member) = &mut self.member else { return };
        member.rests_until = member.rests_until.filter(|until| now < *until);
        match member.user.sign_in {
            SignIn::Asked(until) if now >= until => {
                self.sign_in_refused(None, "there is no answer".to_owned(), now, out);
            }
            SignIn::Refused(until) if now >= until => {
                member.user.sign_in = SignIn::No;
                if matches!(self.phase, Phase::Connected { .. }) {
                    self.sign_in(now, out);
                }
            }
            _ => {}
        }
    }

    // -------------------------------------------------------------------------------------------------- frames

    /// A frame came that is the copy of one of this event, with this digest. `false`: it must be looked at all the same.
    pub fn copied(&mut self, (event, digest): (Arc<Event>, u64), out: &mut Vec<Action>) -> bool {
        self.heard();
        if self.table.receivers(&event.channel).is_none() {
            return false;
        }
        match out.last_mut() {
            Some(Action::TellPool(FromLink::Copies(copies))) => copies.push((event, digest)),
            _ => {
                let mut copies = Vec::with_capacity(MESSAGES_AT_ONCE);
                copies.push((event, digest));
                out.push(Action::TellPool(FromLink::Copies(copies)));
            }
        }
        true
    }

    /// What only a user's own link gets. `false`: it is something else.
    pub(super) fn member_frame(&mut self, frame: &ServerFrame<'_>, came: Now, out: &mut Vec<Action>) -> bool {
        let Some(member) = &mut self.member else { return false };
        let ServerFrame::Other { event, channel, data } = frame else { return false };
        match (&**event, channel) {
            ("pusher:signin_success", _) => {
                if matches!(member.user.sign_in, SignIn::Asked(_)) {
                    member.user.sign_in = SignIn::Done;
                    if let Some(channel) = member.user.channel.clone() {
                        self.table.admit(&channel, came.mono, &mut self.ops);
                    }
                }
            }
            ("pusher_internal:watchlist_events", _) => {
                let text = data.map(|raw| json::string(raw).unwrap_or(raw.into()));
                self.watchlist(&text.unwrap_or("{}".into()), came, out);
            }
            ("pusher_internal:member_added", Some(channel)) => {
                self.member_event(channel, *data, Kind::MemberAdded, came, out);
            }
            ("pusher_internal:member_removed", Some(channel)) => {
                self.member_event(channel, *data, Kind::MemberRemoved, came, out);
            }
            ("pusher:cache_miss", Some(channel)) => {
                if let Some((channel, hubs)) = self.table.receivers(channel) {
                    let event = Event::new(self.id, channel, "", "null", came, None);
                    self.deliver(hubs, event.of_kind(Kind::CacheMiss), out);
                }
            }
            _ => return false,
        }
        true
    }

    fn member_event(
        &mut self,
        channel: &str,
        data: Option<&str>,
        kind: Kind,
        came: Now,
        out: &mut Vec<Action>,
    ) {
        let Some((channel, hubs)) = self.table.receivers(channel) else { return };
        let Some(data) = data else { return };
        let text = json::string(data);
        let Ok(data) = Object::parse(text.as_deref().unwrap_or(data)) else { return };
        let Some(id) = data.get("user_id").and_then(json::scalar) else { return };
        let info = data.get("user_info").unwrap_or("null");
        self.deliver(hubs, Event::new(self.id, channel, &id, info, came, None).of_kind(kind), out);
    }

    /// Contacts of the user have come or gone: an event of the user's channel, once that is confirmed.
    fn watchlist(&mut self, data: &str, came: Now, out: &mut Vec<Action>) {
        let Some(member) = &mut self.member else { return };
        let Some(channel) = &member.user.channel else { return };
        if let Some((channel, hubs)) = self.table.receivers(channel) {
            let event = Event::new(self.id, channel, WATCHLIST_EVENTS, data, came, None);
            return self.deliver(hubs, event.of_kind(Kind::Watchlist), out);
        }
        if member.user.early.len() == EARLY_EVENTS_MAX {
            member.user.early.pop_front();
            out.push(Action::Report(Report::WatchlistEventLost));
        }
        member.user.early.push_back((data.into(), came));
    }

    /// Events of the user's channel that came before its confirmation follow, if it is confirmed.
    pub(super) fn deliver_early(&mut self, out: &mut Vec<Action>) {
        let Some(member) = &mut self.member else { return };
        let is_confirmed = |channel: &Arc<str>| self.table.receivers(channel).is_some();
        if member.user.channel.as_ref().is_some_and(is_confirmed) {
            for (data, came) in std::mem::take(&mut member.user.early) {
                self.watchlist(&data, came, out);
            }
        }
    }
}
