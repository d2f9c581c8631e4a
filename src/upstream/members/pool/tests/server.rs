//! A model of Pusher's server: many connections, presence channels, users who are signed in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::json::Object;
use crate::pusher::channel::{ChannelKind, is_cache};
use crate::pusher::frame;
use crate::upstream::link::machine::Frame;

/// Something for the network to carry to a connection.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Frame(String),
    Close(u16),
}

#[derive(Debug, Default)]
struct Connection {
    /// Channels, and as whom it is on those with members.
    channels: BTreeMap<Arc<str>, Option<(String, String)>>,
    user: Option<String>,
}

/// For each connection what it is sent, in order.
pub(super) type Sent = Vec<(u64, Answer)>;

#[derive(Debug, Default)]
pub(super) struct Server {
    connections: BTreeMap<u64, Connection>,
    /// The last event of each cache channel.
    last: BTreeMap<Arc<str>, String>,
    /// Users who are not signed in.
    pub(super) unwelcome: BTreeSet<String>,
}

impl Server {
    pub(super) fn connect(&mut self, connection: u64) {
        self.connections.insert(connection, Connection::default());
    }

    pub(super) fn disconnect(&mut self, connection: u64) -> Sent {
        let mut out = Sent::new();
        let channels: Vec<Arc<str>> = self
            .connections
            .get(&connection)
            .map(|connection| connection.channels.keys().cloned().collect())
            .unwrap_or_default();
        channels.iter().for_each(|channel| self.leave(connection, channel, &mut out));
        self.connections.remove(&connection);
        out
    }

    /// Who is on the channel, and what is told of them.
    pub(super) fn members(&self, channel: &str) -> BTreeMap<String, String> {
        let on = self.connections.values().filter_map(|connection| connection.channels.get(channel));
        on.flatten().cloned().collect()
    }

    pub(super) fn is_subscribed(&self, connection: u64, channel: &str) -> bool {
        self.connections.get(&connection).is_some_and(|connection| connection.channels.contains_key(channel))
    }

    pub(super) fn subscriptions(&self, channel: &str) -> usize {
        self.connections.values().filter(|connection| connection.channels.contains_key(channel)).count()
    }

    fn others(&self, but: u64, channel: &str, text: &str, out: &mut Sent) {
        for (number, connection) in &self.connections {
            if *number != but && connection.channels.contains_key(channel) {
                out.push((*number, Answer::Frame(text.to_owned())));
            }
        }
    }

    fn leave(&mut self, connection: u64, channel: &Arc<str>, out: &mut Sent) {
        let left = self.connections.get_mut(&connection).and_then(|one| one.channels.remove(channel));
        if let Some(Some((id, _))) = left
            && !self.members(channel).contains_key(&id)
        {
            let data = format!(r#"{{"user_id":{}}}"#, serde_json::json!(id));
            let text = frame::event("pusher_internal:member_removed", channel, &data, None);
            self.others(connection, channel, &text, out);
        }
    }

    pub(super) fn receive(&mut self, connection: u64, frame: &Frame) -> Sent {
        let mut out = Sent::new();
        if !self.connections.contains_key(&connection) {
            return out;
        }
        let answer = |text: String| (connection, Answer::Frame(text));
        match frame {
            Frame::Ping => out.push(answer(frame::PONG.to_owned())),
            Frame::Pong => {}
            Frame::Subscribe(channel) => {
                assert_ne!(ChannelKind::of(channel), ChannelKind::Presence, "nobody said who it is");
                let user = self.connections[&connection].user.clone();
                let is_own = channel.strip_prefix("#server-to-user-") == user.as_deref();
                assert!(is_own || !channel.starts_with('#'), "{channel} before the sign-in");
                self.connections.get_mut(&connection).unwrap().channels.insert(channel.clone(), None);
                out.push(answer(frame::subscription_succeeded(channel, "{}")));
            }
            Frame::SubscribeAs(channel, data) => {
                let object = Object::parse(data).unwrap();
                let id = object.string("user_id").unwrap().into_owned();
                let info = object.get("user_info").unwrap_or("null").to_owned();
                if !self.members(channel).contains_key(&id) {
                    let data = format!(r#"{{"user_id":{},"user_info":{info}}}"#, serde_json::json!(id));
                    let text = frame::event("pusher_internal:member_added", channel, &data, None);
                    self.others(connection, channel, &text, &mut out);
                }
                let channels = &mut self.connections.get_mut(&connection).unwrap().channels;
                assert!(channels.insert(channel.clone(), Some((id, info))).is_none(), "{channel} twice");
                out.push(answer(frame::subscription_succeeded(channel, &self.presence(channel))));
                if is_cache(channel) {
                    let miss = || frame::event_raw("pusher:cache_miss", Some(channel), None, None);
                    out.push(answer(self.last.get(channel).cloned().unwrap_or_else(miss)));
                }
            }
            Frame::ClientEvent(sent) => {
                let text = frame::event(&sent.event, &sent.channel, &sent.data, None);
                self.others(connection, &sent.channel, &text, &mut out);
            }
            Frame::Unsubscribe(channel) => self.leave(connection, channel, &mut out),
            Frame::SignIn(data) => {
                let user = Object::parse(data).unwrap().string("id").unwrap().into_owned();
                if self.unwelcome.contains(&user) {
                    out.push(answer(frame::error(Some(4009), "the user is not to be signed in")));
                } else {
                    self.connections.get_mut(&connection).unwrap().user = Some(user);
                    let data = format!(r#"{{"user_data":{}}}"#, serde_json::json!(**data));
                    out.push(answer(frame::event_raw("pusher:signin_success", None, Some(&data), None)));
                }
            }
        }
        out
    }

    fn presence(&self, channel: &str) -> String {
        let members = self.members(channel);
        let ids: Vec<_> = members.keys().collect();
        let hash: Vec<_> =
            members.iter().map(|(id, info)| format!("{}:{info}", serde_json::json!(id))).collect();
        let (ids, hash, count) = (serde_json::json!(ids), hash.join(","), members.len());
        format!(r#"{{"presence":{{"ids":{ids},"hash":{{{hash}}},"count":{count}}}}}"#)
    }

    /// Whoever is on the channel gets it.
    pub(super) fn publish(&mut self, channel: &Arc<str>, name: &str, data: &str) -> Sent {
        let text = frame::event(name, channel, data, None);
        if is_cache(channel) {
            self.last.insert(channel.clone(), text.clone());
        }
        let mut out = Sent::new();
        self.others(u64::MAX, channel, &text, &mut out);
        out
    }

    /// What this connection's user is told of its contacts.
    pub(super) fn watchlist(&self, connection: u64, data: &str) -> Sent {
        let text = frame::event_raw("pusher_internal:watchlist_events", None, Some(data), None);
        vec![(connection, Answer::Frame(text))]
    }

    /// Ends the connections that are signed in as this user. Gives those, and what others are told.
    pub(super) fn terminate(&mut self, user: &str) -> (Vec<u64>, Sent) {
        let is_users = |connection: &&u64| self.connections[*connection].user.as_deref() == Some(user);
        let ended: Vec<u64> = self.connections.keys().filter(is_users).copied().collect();
        let mut out = Sent::new();
        for connection in &ended {
            out.extend(self.disconnect(*connection));
            out.push((*connection, Answer::Close(4009)));
        }
        (ended, out)
    }
}
