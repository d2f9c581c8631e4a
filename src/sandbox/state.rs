//! Pure: who is subscribed to what, and as whom, and who receives an event.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::members::{Member, Members, User};

/// The most channels one connection may be subscribed to. Pusher has no such limit; memory has.
pub const SUBSCRIPTIONS_PER_CONNECTION_MAX: usize = 100_000;

/// One WebSocket connection, never reused.
pub(crate) type ConnectionId = u64;

/// What became of a subscription that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subscribed {
    /// It counts.
    Now(Joined),
    /// It counted before.
    Already,
    /// It waits for [`State::release`] and receives nothing before.
    Held,
}

/// What a subscription changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Joined {
    /// The channel had no subscribers.
    pub(crate) occupied: bool,
    /// The channel has a new member.
    pub(crate) added: Option<Member>,
}

/// What the end of a subscription changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) channel: String,
    /// The channel has no subscribers any more.
    pub(crate) vacated: bool,
    /// The channel has lost this member.
    pub(crate) removed: Option<String>,
}

/// Connections, channels and the subscriptions between them.
#[derive(Debug, Default)]
pub(crate) struct State {
    connections: HashMap<ConnectionId, Connection>,
    by_socket_id: HashMap<String, ConnectionId>,
    channels: BTreeMap<String, BTreeSet<ConnectionId>>,
    /// Of presence channels that are occupied.
    members: BTreeMap<String, Members>,
    /// The connections signed in as each user.
    users: BTreeMap<String, BTreeSet<ConnectionId>>,
    held_channels: BTreeSet<String>,
    /// In order of arrival.
    pending: Vec<Pending>,
    /// A second subscription is confirmed, not refused.
    pub(crate) confirms_existing: bool,
}

#[derive(Debug)]
struct Pending {
    id: ConnectionId,
    channel: String,
    member: Option<Member>,
}

#[derive(Debug)]
struct Connection {
    socket_id: String,
    channels: BTreeSet<String>,
    user: Option<User>,
}

impl State {
    /// A connection begins.
    pub(crate) fn connect(&mut self, id: ConnectionId, socket_id: &str) {
        let connection =
            Connection { socket_id: socket_id.to_owned(), channels: BTreeSet::new(), user: None };
        self.connections.insert(id, connection);
        self.by_socket_id.insert(socket_id.to_owned(), id);
    }

    /// A connection ended, and its subscriptions with it; `None`: it was not there. Whether the user that it was
    /// signed in as has no other.
    pub(crate) fn disconnect(&mut self, id: ConnectionId) -> Option<(Vec<Left>, Option<User>)> {
        let connection = self.connections.remove(&id)?;
        self.by_socket_id.remove(&connection.socket_id);
        let left = connection.channels.iter().map(|channel| self.remove_subscriber(id, channel)).collect();
        self.pending.retain(|pending| pending.id != id);
        let offline = connection.user.filter(|user| {
            let Some(ids) = self.users.get_mut(&user.id) else { return false };
            ids.remove(&id);
            let was_last = ids.is_empty();
            if was_last {
                self.users.remove(&user.id);
            }
            was_last
        });
        Some((left, offline))
    }

    /// Signs a connection in. Whether the user had no other connection.
    ///
    /// # Errors
    /// It is signed in as another user.
    pub(crate) fn sign_in(&mut self, id: ConnectionId, user: User) -> Result<bool, String> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Err("The connection has ended".to_owned());
        };
        if let Some(other) = connection.user.as_ref().filter(|other| other.id != user.id) {
            return Err(format!("The connection is signed in as {} already", other.id));
        }
        let ids = self.users.entry(user.id.clone()).or_default();
        let is_first = ids.is_empty();
        ids.insert(id);
        connection.user = Some(user);
        Ok(is_first)
    }

    /// Who the connection is signed in as.
    pub(crate) fn user(&self, id: ConnectionId) -> Option<&User> {
        self.connections.get(&id)?.user.as_ref()
    }

    pub(crate) fn is_online(&self, user_id: &str) -> bool {
        self.users.contains_key(user_id)
    }

    /// The connections signed in as a user.
    pub(crate) fn signed_in(&self, user_id: &str) -> Vec<ConnectionId> {
        self.users.get(user_id).into_iter().flatten().copied().collect()
    }

    /// The connections of users whose watchlist has this one.
    pub(crate) fn watchers(&self, user_id: &str) -> Vec<ConnectionId> {
        let watches = |user: &User| user.watchlist.iter().any(|watched| watched == user_id);
        let all = self.connections.iter().filter(|(_, c)| c.user.as_ref().is_some_and(watches));
        let mut ids: Vec<_> = all.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Subscribes `id` to `channel`, on a presence channel as `member`, or puts it among the pending where the channel
    /// is held.
    ///
    /// # Errors
    /// What Pusher answers: already subscribed, or there are `members_max` members.
    pub(crate) fn subscribe(
        &mut self,
        id: ConnectionId,
        channel: &str,
        member: Option<Member>,
        members_max: usize,
    ) -> Result<Subscribed, String> {
        let pending = self.is_pending(id, channel);
        let count = self.pending.iter().filter(|pending| pending.id == id).count();
        let Some(connection) = self.connections.get_mut(&id) else {
            return Err("The connection has ended".to_owned());
        };
        if self.confirms_existing && connection.channels.contains(channel) {
            return Ok(Subscribed::Already);
        }
        if pending || connection.channels.contains(channel) {
            return Err(format!("Existing subscription to channel {channel}"));
        }
        if connection.channels.len() + count >= SUBSCRIPTIONS_PER_CONNECTION_MAX {
            return Err(format!(
                "More than {SUBSCRIPTIONS_PER_CONNECTION_MAX} subscriptions on a connection"
            ));
        }
        if let (Some(member), Some(members)) = (&member, self.members.get(channel))
            && members.len() >= members_max
            && !members.has(&member.user_id)
        {
            return Err(format!("Presence channel {channel} is at its limit of {members_max} members"));
        }
        if self.held_channels.contains(channel) {
            self.pending.push(Pending { id, channel: channel.to_owned(), member });
            return Ok(Subscribed::Held);
        }
        Ok(Subscribed::Now(self.add_subscriber(id, channel, member)))
    }

    /// Ends a subscription. A pending one stays, as Pusher's message says.
    ///
    /// # Errors
    /// What Pusher answers: not subscribed, or not yet.
    pub(crate) fn unsubscribe(&mut self, id: ConnectionId, channel: &str) -> Result<Left, String> {
        let removed = self.connections.get_mut(&id).is_some_and(|c| c.channels.remove(channel));
        if !removed {
            return Err(format!("No current subscription to channel {channel}, or subscription in progress"));
        }
        Ok(self.remove_subscriber(id, channel))
    }

    /// Ends every subscription to `channel`, of which nobody is told.
    pub(crate) fn forget(&mut self, channel: &str) {
        self.members.remove(channel);
        for id in self.channels.remove(channel).unwrap_or_default() {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.channels.remove(channel);
            }
        }
    }

    /// The same for all channels.
    pub(crate) fn forget_all(&mut self) {
        self.channels.clear();
        self.members.clear();
        self.connections.values_mut().for_each(|connection| connection.channels.clear());
    }

    /// From now on subscriptions to `channel` are pending.
    pub(crate) fn hold(&mut self, channel: &str) {
        self.held_channels.insert(channel.to_owned());
    }

    /// Lets the pending subscriptions to `channel` count; theirs are the connections given, in order.
    pub(crate) fn release(&mut self, channel: &str) -> Vec<(ConnectionId, Joined)> {
        self.held_channels.remove(channel);
        let released: Vec<_> = self.pending.extract_if(.., |pending| pending.channel == channel).collect();
        let joined = released.into_iter().map(|Pending { id, member, .. }| {
            let joined = self.add_subscriber(id, channel, member);
            (id, joined)
        });
        joined.collect()
    }

    /// Who receives an event on `channel`, but for the connection with the id `except`.
    pub(crate) fn receivers(&self, channel: &str, except: Option<&str>) -> Vec<ConnectionId> {
        let except = except.and_then(|socket_id| self.by_socket_id.get(socket_id));
        let all = self.channels.get(channel).into_iter().flatten();
        all.filter(|id| Some(*id) != except).copied().collect()
    }

    /// Whether `id` is subscribed to `channel`.
    pub(crate) fn is_subscribed(&self, id: ConnectionId, channel: &str) -> bool {
        self.channels.get(channel).is_some_and(|ids| ids.contains(&id))
    }

    /// How many connections are subscribed to `channel`.
    pub(crate) fn count(&self, channel: &str) -> usize {
        self.channels.get(channel).map_or(0, BTreeSet::len)
    }

    /// How many subscriptions to `channel` are pending.
    pub(crate) fn pending(&self, channel: &str) -> usize {
        self.pending.iter().filter(|pending| pending.channel == channel).count()
    }

    /// Every occupied channel with the number of its connections, by name.
    pub(crate) fn channels(&self) -> impl Iterator<Item = (&str, usize)> {
        self.channels.iter().map(|(channel, ids)| (channel.as_str(), ids.len()))
    }

    /// The members of a presence channel that is occupied.
    pub(crate) fn members(&self, channel: &str) -> Option<&Members> {
        self.members.get(channel)
    }

    fn is_pending(&self, id: ConnectionId, channel: &str) -> bool {
        self.pending.iter().any(|pending| pending.id == id && pending.channel == channel)
    }

    fn add_subscriber(&mut self, id: ConnectionId, channel: &str, member: Option<Member>) -> Joined {
        let Some(connection) = self.connections.get_mut(&id) else { return Joined::default() };
        connection.channels.insert(channel.to_owned());
        let ids = self.channels.entry(channel.to_owned()).or_default();
        let occupied = ids.is_empty();
        ids.insert(id);
        let added =
            member.filter(|member| self.members.entry(channel.to_owned()).or_default().join(id, member));
        Joined { occupied, added }
    }

    fn remove_subscriber(&mut self, id: ConnectionId, channel: &str) -> Left {
        let mut vacated = false;
        if let Some(ids) = self.channels.get_mut(channel) {
            ids.remove(&id);
            vacated = ids.is_empty();
        }
        let removed = self.members.get_mut(channel).and_then(|members| members.leave(id));
        if vacated {
            self.channels.remove(channel);
            self.members.remove(channel);
        }
        Left { channel: channel.to_owned(), vacated, removed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> State {
        let mut state = State::default();
        state.connect(1, "10.1");
        state.connect(2, "10.2");
        state
    }

    fn subscribe(state: &mut State, id: ConnectionId, channel: &str) -> Result<Subscribed, String> {
        state.subscribe(id, channel, None, 2)
    }

    fn released(released: Vec<(ConnectionId, Joined)>) -> Vec<ConnectionId> {
        released.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn members_come_with_their_first_connection_and_go_with_their_last() {
        let mut state = two();
        state.connect(3, "10.3");
        let member = |id: &str| Some(Member { user_id: id.to_owned(), info: None });
        let joined = |occupied, added| Ok(Subscribed::Now(Joined { occupied, added }));
        assert_eq!(state.subscribe(1, "presence-a", member("u"), 1), joined(true, member("u")));
        assert_eq!(state.subscribe(2, "presence-a", member("u"), 1), joined(false, None));
        let full = state.subscribe(3, "presence-a", member("v"), 1).unwrap_err();
        assert!(full.contains("limit of 1 members"), "{full}");
        assert_eq!(state.subscribe(3, "presence-a", member("v"), 2), joined(false, member("v")));
        let left = |vacated, removed: Option<&str>| Left {
            channel: "presence-a".to_owned(),
            vacated,
            removed: removed.map(str::to_owned),
        };
        assert_eq!(state.unsubscribe(2, "presence-a"), Ok(left(false, None)));
        assert_eq!(state.disconnect(1), Some((vec![left(false, Some("u"))], None)));
        assert_eq!(state.unsubscribe(3, "presence-a"), Ok(left(true, Some("v"))));
        assert!(state.members("presence-a").is_none());
    }

    #[test]
    fn a_user_is_online_with_its_first_connection_and_offline_with_its_last() {
        let mut state = two();
        let user = |id: &str| User { id: id.to_owned(), info: None, watchlist: vec!["w".to_owned()] };
        assert_eq!(state.sign_in(1, user("u")), Ok(true));
        assert_eq!(state.sign_in(2, user("u")), Ok(false));
        assert!(state.sign_in(2, user("v")).is_err());
        assert_eq!((state.signed_in("u"), state.watchers("w")), (vec![1, 2], vec![1, 2]));
        assert_eq!(state.disconnect(1), Some((Vec::new(), None)));
        assert!(state.is_online("u"));
        assert_eq!(state.disconnect(2), Some((Vec::new(), Some(user("u")))));
        assert!(!state.is_online("u"));
    }

    #[test]
    fn events_reach_subscribers_but_the_excluded() {
        let mut state = two();
        assert!(matches!(subscribe(&mut state, 1, "a"), Ok(Subscribed::Now(_))));
        assert!(matches!(subscribe(&mut state, 2, "a"), Ok(Subscribed::Now(_))));
        assert!(matches!(subscribe(&mut state, 2, "b"), Ok(Subscribed::Now(_))));
        assert_eq!(state.receivers("a", None), [1, 2]);
        assert_eq!(state.receivers("a", Some("10.1")), [2]);
        assert_eq!(state.receivers("a", Some("9.9")), [1, 2]);
        assert_eq!(state.receivers("c", None), [0; 0]);
        assert_eq!(state.channels().collect::<Vec<_>>(), [("a", 2), ("b", 1)]);
        assert!(state.disconnect(2).is_some());
        assert!(state.disconnect(2).is_none());
        assert_eq!(state.channels().collect::<Vec<_>>(), [("a", 1)]);
        assert!(state.is_subscribed(1, "a") && !state.is_subscribed(2, "a"));
    }

    #[test]
    fn a_second_subscription_and_an_absent_one_are_errors() {
        let mut state = two();
        assert!(matches!(subscribe(&mut state, 1, "a"), Ok(Subscribed::Now(_))));
        assert_eq!(subscribe(&mut state, 1, "a"), Err("Existing subscription to channel a".to_owned()));
        assert!(state.unsubscribe(1, "a").unwrap().vacated);
        let error = "No current subscription to channel a, or subscription in progress";
        assert_eq!(state.unsubscribe(1, "a"), Err(error.to_owned()));
        assert_eq!(state.count("a"), 0);
        assert!(matches!(subscribe(&mut state, 1, "a"), Ok(Subscribed::Now(_))));
        assert!(subscribe(&mut state, 3, "a").is_err());
    }

    #[test]
    fn held_subscriptions_count_when_released() {
        let mut state = two();
        state.hold("a");
        assert_eq!(subscribe(&mut state, 2, "a"), Ok(Subscribed::Held));
        assert_eq!(subscribe(&mut state, 1, "a"), Ok(Subscribed::Held));
        assert!(subscribe(&mut state, 1, "a").is_err() && state.unsubscribe(1, "a").is_err());
        assert_eq!((state.pending("a"), state.count("a")), (2, 0));
        assert!(matches!(subscribe(&mut state, 1, "b"), Ok(Subscribed::Now(_))));
        assert_eq!(released(state.release("a")), [2, 1]);
        assert_eq!((state.pending("a"), state.count("a")), (0, 2));
        assert_eq!(subscribe(&mut state, 1, "a"), Err("Existing subscription to channel a".to_owned()));

        state.hold("c");
        assert_eq!(subscribe(&mut state, 1, "c"), Ok(Subscribed::Held));
        state.disconnect(1);
        assert_eq!(released(state.release("c")), [0; 0]);
    }
}
