//! Who is subscribed as a member: a subscription of one's own, and what is told of members.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::{Hub, Known, Ticket, Waiting, give, greet};
use crate::clock::Now;
use crate::exchange::{ConnId, LinkId, Member, MemberKey, Subscribe};
use crate::fanout::table;
use crate::fanout::view::{event_data, render};
use crate::routes::events;
use crate::routes::generation::RouteState;
use crate::text::loggable;
use crate::upstream::delivery::{Event, Kind};
use crate::websocket::conn::{Conn, Notice};
use crate::websocket::outbox::{Opcode, encode_frame};

/// A member's own subscription is confirmed.
pub(super) struct Joined<'a> {
    pub(super) link: LinkId,
    pub(super) channel: &'a Arc<str>,
    pub(super) member: &'a MemberKey,
    pub(super) join: u64,
    /// How many members there are, and who, as a JSON array.
    pub(super) members: Option<(u32, &'a str)>,
}

/// One channel's subscribers.
type Channel = table::Channel<Arc<RouteState>, Arc<Conn>, Waiting>;

impl Hub {
    /// Subscribes it as this member. That the channel is confirmed to others does not confirm it to him.
    pub(super) fn attach_member(
        &self,
        member: &Arc<Member>,
        route: &Arc<RouteState>,
        subscribe: Subscribe,
        conn: &Arc<Conn>,
    ) -> Ticket {
        let (channel, interest, mut waiting) = self.waiting(route, subscribe, conn);
        let mut known = self.known();
        known.joins += 1;
        let join = known.joins;
        waiting.member = Some((member.clone(), join));
        let link = self.members.id();
        let (attached, _) =
            known.table.attach(link, &channel, route.clone(), interest, conn.clone(), waiting);
        let place = attached.ticket;
        tracing::debug!(
            route = &*route.name,
            conn = conn.id().0,
            channel = &**place.channel(),
            "subscribed as a member"
        );
        known.members.insert(place.seq(), (member.clone(), conn.clone()));
        self.wanted(place.channel());
        self.members.join(place.channel(), member, self.index, join);
        Ticket { link: None, place }
    }

    /// Those who asked for it up to this join are told: confirmed, who is there, and what was last. Events follow.
    pub(super) fn joined(&self, known: &mut Known, joined: &Joined<'_>, cached: Option<&Arc<Event>>) {
        let Joined { link, channel, member, join, members } = *joined;
        tracing::debug!(channel = &**channel, worker = self.index, "a member's subscription is confirmed");
        let confirmed = known.table.confirm(link, channel, |waiting| {
            waiting.member.as_ref().is_some_and(|(who, number)| *number <= join && who.has_key(member))
        });
        let now = Now::read();
        for Waiting { conn, route, id, confirm, replay, member: _ } in confirmed {
            let members = members.and_then(|(count, members)| {
                let text = route.dialect.render_members(route.alias(channel), count, members, now)?;
                Some(self.encode(&text))
            });
            let last = match replay {
                Some(interest) => self.last_frame(cached.cloned(), &interest, &route, conn.id()),
                // Who of his watchlist is there.
                None => cached.and_then(|event| self.frame_of(&route, event)),
            };
            greet([confirm, members, last], &route, &conn);
            conn.notify(Notice::Subscribed(id));
        }
    }

    /// Closes the connections of whoever is subscribed as this member.
    pub(super) fn terminated(&self, known: &Known, link: LinkId, member: &MemberKey) {
        if link == self.members.id() {
            for (_, conn) in known.members.values().filter(|(who, _)| who.has_key(member)) {
                conn.notify(Notice::Terminated);
            }
        }
    }

    /// Tells all of the channel's clients what is no event of it, where their dialect has a frame for that. Nobody is
    /// told of himself: he is in his list from the beginning to the end.
    pub(super) fn tell(
        &self,
        known: &Known,
        channel: &Channel,
        event: &Event,
        mut corked: Option<&mut Vec<Arc<Conn>>>,
    ) {
        let himself: HashSet<ConnId> = match event.kind {
            Kind::MemberAdded | Kind::MemberRemoved => known.connections_of(&event.name).collect(),
            Kind::Channel | Kind::CacheMiss | Kind::SubscriptionCount | Kind::Watchlist => HashSet::new(),
        };
        for audience in channel.audiences() {
            let route = audience.route();
            let shown = event.shown(route.edition());
            let mut frames = 0;
            let mut length = 0;
            // Where values are chosen one has many subscriptions, and is told once.
            let mut told = route.filter_is_chosen().then(HashSet::new);
            for conn in audience.confirmed().filter(|conn| !himself.contains(&conn.id())) {
                if told.as_mut().is_some_and(|told| !told.insert(conn.id())) {
                    continue;
                }
                let frame = match shown.frame.get() {
                    Some(frame) => frame,
                    None => match self.frame_of(route, event) {
                        Some(frame) => shown.frame.get_or_init(|| frame),
                        None => break,
                    },
                };
                length = frame.len();
                frames += usize::from(give(conn, frame, corked.as_deref_mut()));
            }
            route.traffic.sent(frames, length);
            tracing::debug!(
                route = &*route.name,
                channel = loggable(&event.channel),
                kind = ?event.kind,
                worker = self.index,
                receivers = frames,
                "told"
            );
        }
    }

    /// The frame that the route's dialect has for an event of this kind.
    pub(super) fn frame_of(&self, route: &RouteState, event: &Event) -> Option<Bytes> {
        let (channel, at) = (route.alias(&event.channel), event.received);
        let member = |added| route.dialect.render_member(added, channel, (&event.name, &event.data), at);
        let text = match event.kind {
            Kind::MemberAdded => member(true),
            Kind::MemberRemoved => member(false),
            Kind::SubscriptionCount if route.pusher_events.subscription_count => self.own_event(route, event),
            Kind::Watchlist if route.pusher_events.watchlist => self.own_event(route, event),
            Kind::Channel | Kind::SubscriptionCount | Kind::Watchlist => None,
            Kind::CacheMiss => route.dialect.render_cache_miss(channel, at),
        };
        text.map(|text| self.encode(&text))
    }

    /// An event of Pusher's own, where the route asks for it: as one of the channel.
    fn own_event(&self, route: &RouteState, event: &Event) -> Option<String> {
        if events::drops(route, &event.name) {
            self.note_dropped(route, event.shown(route.edition()));
            return None;
        }
        Some(render(route, event, &event_data(route, event, false)))
    }

    fn encode(&self, text: &str) -> Bytes {
        self.buffers.frame(encode_frame(Opcode::Text, text.as_bytes()))
    }
}

impl Known {
    /// The connections that are subscribed as members of this id.
    fn connections_of<'a>(&'a self, user_id: &'a str) -> impl Iterator<Item = ConnId> + 'a {
        let members = self.members.values();
        members.filter(move |(member, _)| *member.user_id == *user_id).map(|(_, conn)| conn.id())
    }
}
