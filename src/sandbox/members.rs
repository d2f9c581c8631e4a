//! Pure: the members of a presence channel, and the users that connections are signed in as.

use std::collections::{BTreeMap, HashMap};

use serde_json::value::RawValue;

use super::state::ConnectionId;
use crate::pusher::frame::string_into;

/// Who a connection is on a presence channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) user_id: String,
    /// Its `user_info`, JSON text.
    pub(crate) info: Option<String>,
}

/// Who a connection is signed in as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) id: String,
    /// Its `user_info`, JSON text.
    pub(crate) info: Option<String>,
    /// Whose coming and going it is told.
    pub(crate) watchlist: Vec<String>,
}

/// The members of one channel: a user's connections are one member.
#[derive(Debug, Default)]
pub(crate) struct Members {
    users: BTreeMap<String, Presence>,
    connections: HashMap<ConnectionId, String>,
}

#[derive(Debug)]
struct Presence {
    info: Option<String>,
    connections: usize,
}

impl Members {
    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    pub(crate) fn has(&self, user_id: &str) -> bool {
        self.users.contains_key(user_id)
    }

    /// Whether the member is new.
    pub(crate) fn join(&mut self, id: ConnectionId, member: &Member) -> bool {
        self.connections.insert(id, member.user_id.clone());
        let info = || Presence { info: member.info.clone(), connections: 0 };
        let user = self.users.entry(member.user_id.clone()).or_insert_with(info);
        user.connections += 1;
        user.connections == 1
    }

    /// The user, when this was its last connection.
    pub(crate) fn leave(&mut self, id: ConnectionId) -> Option<String> {
        let user_id = self.connections.remove(&id)?;
        let user = self.users.get_mut(&user_id)?;
        user.connections -= 1;
        (user.connections == 0).then(|| {
            self.users.remove(&user_id);
            user_id
        })
    }

    pub(crate) fn user_of(&self, id: ConnectionId) -> Option<&str> {
        self.connections.get(&id).map(String::as_str)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// The data of a successful subscription.
    pub(crate) fn snapshot(&self) -> String {
        let mut ids = String::new();
        let mut hash = String::new();
        for (id, user) in &self.users {
            for out in [&mut ids, &mut hash] {
                out.push_str(if out.is_empty() { "" } else { "," });
                string_into(out, id);
            }
            hash.push(':');
            hash.push_str(user.info.as_deref().unwrap_or("null"));
        }
        let count = self.users.len();
        format!(r#"{{"presence":{{"count":{count},"ids":[{ids}],"hash":{{{hash}}}}}}}"#)
    }
}

/// The data of a member that has come; of one that has gone it has no `info`.
pub(crate) fn member_data(user_id: &str, info: Option<&str>) -> String {
    let mut out = String::from(r#"{"user_id":"#);
    string_into(&mut out, user_id);
    if let Some(info) = info {
        out.push_str(r#","user_info":"#);
        out.push_str(info);
    }
    out.push('}');
    out
}

#[derive(serde::Deserialize)]
struct ChannelData<'a> {
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    user_info: Option<&'a RawValue>,
}

#[derive(serde::Deserialize)]
struct UserData<'a> {
    id: Option<String>,
    #[serde(borrow)]
    user_info: Option<&'a RawValue>,
    watchlist: Option<Vec<String>>,
}

/// Longest id of a user, in characters (Pusher docs, "Presence channels").
const USER_ID_CHARS_MAX: usize = 128;
/// Most bytes of a member's info (Pusher docs, "Presence channels": 1 kB).
const USER_INFO_BYTES_MAX: usize = 1024;

/// Reads a subscription's `channel_data`.
pub(crate) fn parse_member(text: &str) -> Result<Member, String> {
    let data: ChannelData<'_> = serde_json::from_str(text)
        .map_err(|error| format!("channel_data is not as it should be: {error}"))?;
    // Some backends have numbers.
    let user_id = data.user_id.and_then(|raw| crate::json::scalar(raw.get())).unwrap_or_default();
    let info = data.user_info.map(|raw| raw.get().to_owned());
    check(&user_id, info.as_deref()).map_err(|why| format!("channel_data: {why}"))?;
    Ok(Member { user_id: user_id.into_owned(), info })
}

/// Reads a sign-in's `user_data`.
pub(crate) fn parse_user(text: &str) -> Result<User, String> {
    let data: UserData<'_> =
        serde_json::from_str(text).map_err(|error| format!("user_data is not as it should be: {error}"))?;
    let (id, info) = (data.id.unwrap_or_default(), data.user_info.map(|raw| raw.get().to_owned()));
    check(&id, info.as_deref()).map_err(|why| format!("user_data: {why}"))?;
    Ok(User { id, info, watchlist: data.watchlist.unwrap_or_default() })
}

fn check(user_id: &str, info: Option<&str>) -> Result<(), String> {
    if user_id.is_empty() || user_id.chars().count() > USER_ID_CHARS_MAX {
        return Err(format!("a user's id has 1 to {USER_ID_CHARS_MAX} characters"));
    }
    if info.is_some_and(|info| info.len() > USER_INFO_BYTES_MAX) {
        return Err(format!("user_info has more than {USER_INFO_BYTES_MAX} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_connections_are_one_member() {
        let mut members = Members::default();
        let member = |id: &str| Member { user_id: id.to_owned(), info: Some(r#"{"n":1.0}"#.to_owned()) };
        assert!(members.join(1, &member("a")) && members.join(2, &member("b")));
        assert!(!members.join(3, &member("a")));
        let data = r#"{"presence":{"count":2,"ids":["a","b"],"hash":{"a":{"n":1.0},"b":{"n":1.0}}}}"#;
        assert_eq!(members.snapshot(), data);
        assert_eq!(members.leave(1), None);
        assert_eq!((members.user_of(3), members.user_of(1)), (Some("a"), None));
        assert_eq!(members.leave(3).as_deref(), Some("a"));
        assert_eq!((members.leave(3), members.len()), (None, 1));
    }

    #[test]
    fn members_and_users_are_read_with_every_digit() {
        let member = parse_member(r#"{"user_id":10,"user_info":{"n":1.50}}"#).unwrap();
        assert_eq!((member.user_id.as_str(), member.info.as_deref()), ("10", Some(r#"{"n":1.50}"#)));
        for wrong in ["", "[]", "{}", r#"{"user_id":""}"#, r#"{"user_id":{}}"#] {
            assert!(parse_member(wrong).is_err(), "{wrong}");
        }
        let long = |bytes: usize| format!(r#"{{"user_id":"a","user_info":"{}"}}"#, "x".repeat(bytes - 2));
        assert!(parse_member(&long(1024)).is_ok() && parse_member(&long(1025)).is_err());
        let id = |chars: usize| format!(r#"{{"user_id":"{}"}}"#, "é".repeat(chars));
        assert!(parse_member(&id(128)).is_ok() && parse_member(&id(129)).is_err());
        let user = parse_user(r#"{"id":"a","watchlist":["b"]}"#).unwrap();
        assert_eq!((user.id.as_str(), user.watchlist), ("a", vec!["b".to_owned()]));
        assert!(parse_user(r#"{"id":10}"#).is_err() && parse_user("{}").is_err());
    }
}
