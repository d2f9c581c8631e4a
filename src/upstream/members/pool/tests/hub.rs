//! A hub, as far as the pool is concerned: who waits, who is on which channel, and what these have been told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::exchange::MemberKey;
use crate::json::{self, Object};
use crate::upstream::delivery::{Delivery, Event, Kind};
use crate::upstream::refused::Refused;

/// The name of events that are told from each other by their data.
pub(super) const NUMBERED: &str = "numbered";

/// A connection of an old client, subscribed to one channel.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) channel: Arc<str>,
    pub(super) key: MemberKey,
    join: u64,
    pub(super) is_joined: bool,
    pub(super) is_terminated: bool,
    pub(super) refused: Option<Refused>,
    /// Who is on the channel, by what it was told.
    pub(super) members: BTreeMap<String, String>,
    /// Of the events, how often each came, by data.
    pub(super) events: BTreeMap<String, usize>,
    pub(super) names: Vec<String>,
    /// Those that it should have, and has not.
    owed: BTreeSet<String>,
    /// Those that it has had twice, of events that are told from each other.
    pub(super) twice: BTreeSet<String>,
    pub(super) gaps: usize,
    pub(super) cached: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Hub {
    /// By the number of the join.
    pub(super) clients: BTreeMap<u64, Client>,
    joins: u64,
}

impl Hub {
    pub(super) fn join(&mut self, channel: &Arc<str>, key: &MemberKey) -> u64 {
        self.joins += 1;
        let client = Client {
            channel: channel.clone(),
            key: key.clone(),
            join: self.joins,
            is_joined: false,
            is_terminated: false,
            refused: None,
            members: BTreeMap::new(),
            events: BTreeMap::new(),
            names: Vec::new(),
            owed: BTreeSet::new(),
            twice: BTreeSet::new(),
            gaps: 0,
            cached: None,
        };
        self.clients.insert(self.joins, client);
        self.joins
    }

    fn on(&mut self, channel: &str) -> impl Iterator<Item = &mut Client> {
        self.clients.values_mut().filter(move |client| *client.channel == *channel)
    }

    /// An event of its own kind was published: whoever is on the channel is to get it.
    pub(super) fn published(&mut self, channel: &str, data: &str) {
        for client in self.on(channel).filter(|client| client.is_joined) {
            client.owed.insert(data.to_owned());
        }
    }

    pub(super) fn told(&mut self, delivery: &Delivery) {
        match delivery {
            Delivery::Event(event) => {
                self.on(&event.channel)
                    .filter(|client| client.is_joined)
                    .for_each(|client| client.event(event));
            }
            Delivery::Live { channel, gap, .. } => {
                assert!(gap);
                for client in self.on(channel).filter(|client| client.is_joined) {
                    client.gaps += 1;
                    client.owed.clear();
                }
            }
            Delivery::Joined { channel, member, join, members, count, cached, .. } => {
                let waiting =
                    |client: &&mut Client| client.key == *member && client.join <= *join && !client.is_joined;
                for client in self.on(channel).filter(waiting) {
                    client.is_joined = true;
                    client.refused = None;
                    client.cached = cached.as_ref().map(|event| event.data.to_string());
                    let list =
                        members.as_deref().map(|list| json::elements(list).unwrap()).unwrap_or_default();
                    assert_eq!(list.len(), *count as usize);
                    for member in list {
                        let member = Object::parse(member).unwrap();
                        let id = member.string("id").unwrap().into_owned();
                        client.members.insert(id, member.get("info").unwrap().to_owned());
                    }
                    let is_there = client.members.contains_key(&*member.user_id);
                    assert!(members.is_none() || is_there, "the list has not who gets it");
                }
            }
            Delivery::Refused { channel, member, why, .. } => {
                let member = member.as_ref().unwrap();
                self.on(channel)
                    .filter(|client| client.key == *member)
                    .for_each(|client| client.refused = Some(*why));
            }
            Delivery::Terminated { member, .. } => {
                let clients = self.clients.values_mut().filter(|client| client.key == *member);
                clients.for_each(|client| client.is_terminated = true);
            }
            Delivery::Undecryptable { .. } => panic!("no presence channel is encrypted"),
            Delivery::Down(_) => panic!("the pool is never lost"),
        }
    }

    pub(super) fn assert_complete(&self) {
        for client in self.clients.values() {
            assert!(client.is_joined, "{client:?}");
            assert_eq!(client.owed, BTreeSet::new(), "lost: {client:?}");
        }
    }
}

impl Client {
    fn event(&mut self, event: &Event) {
        match event.kind {
            Kind::Channel | Kind::Watchlist => {
                self.names.push(event.name.to_string());
                self.owed.remove(&*event.data);
                let times = self.events.entry(event.data.to_string()).or_default();
                *times += 1;
                if *times > 1 && *event.name == *NUMBERED {
                    self.twice.insert(event.data.to_string());
                }
            }
            Kind::MemberAdded => {
                let before = self.members.insert(event.name.to_string(), event.data.to_string());
                assert_eq!(before, None, "{} came, and was there: {self:?}", event.name);
            }
            Kind::MemberRemoved => {
                let before = self.members.remove(&*event.name);
                assert_eq!(before.as_deref(), Some(&*event.data), "{} left: {self:?}", event.name);
            }
            Kind::CacheMiss | Kind::SubscriptionCount => {}
        }
    }
}
