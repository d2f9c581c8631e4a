//! Who of a user's watchlist is there, for connections of the user that come later: Pusher says it once, when the user's
//! link is signed in, and tells changes after that.

use std::collections::BTreeMap;

use crate::json::{self, Object};
use crate::routes::membership::WATCHED_MAX;
use crate::template::escape_into;

/// By id: whether the user is there.
#[derive(Debug, Default)]
pub struct Watched(BTreeMap<Box<str>, bool>);

impl Watched {
    /// A `watchlist_events` of Pusher with this data. What is none changes nothing.
    pub fn learn(&mut self, data: &str) {
        let Ok(data) = Object::parse(data) else { return };
        for event in data.get("events").and_then(json::elements).unwrap_or_default() {
            let Ok(event) = Object::parse(event) else { continue };
            let is_there = match event.string("name").as_deref() {
                Some("online") => true,
                Some("offline") => false,
                _ => continue,
            };
            let ids = event.get("user_ids").and_then(json::elements).unwrap_or_default();
            for id in ids.into_iter().filter_map(json::string) {
                if self.0.len() < WATCHED_MAX || self.0.contains_key(&*id) {
                    self.0.insert(id.into(), is_there);
                }
            }
        }
    }

    /// The same of all of them, as Pusher would say it to a new connection.
    #[must_use]
    pub fn data(&self) -> String {
        let mut events = String::new();
        for (name, is_there) in [("online", true), ("offline", false)] {
            let mut ids = String::new();
            for (id, _) in self.0.iter().filter(|(_, is)| **is == is_there) {
                ids.push_str(if ids.is_empty() { "\"" } else { ",\"" });
                escape_into(&mut ids, id);
                ids.push('"');
            }
            if !ids.is_empty() {
                events.push_str(if events.is_empty() { "" } else { "," });
                events.push_str(&format!(r#"{{"name":"{name}","user_ids":[{ids}]}}"#));
            }
        }
        format!(r#"{{"events":[{events}]}}"#)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_last_of_each_is_told() {
        let mut watched = Watched::default();
        assert_eq!(watched.data(), r#"{"events":[]}"#);
        for (data, expected) in [
            (
                r#"{"events":[{"name":"offline","user_ids":["b","c\""]},{"name":"online","user_ids":["d"]}]}"#,
                r#"{"events":[{"name":"online","user_ids":["d"]},{"name":"offline","user_ids":["b","c\""]}]}"#,
            ),
            (
                r#"{"events":[{"name":"online","user_ids":["b","c\""]}]}"#,
                r#"{"events":[{"name":"online","user_ids":["b","c\"","d"]}]}"#,
            ),
        ] {
            watched.learn(data);
            assert_eq!(watched.data(), expected);
        }
        let before = watched.data();
        for nothing in ["", "[]", r#"{"events":1}"#, r#"{"events":[1,{"name":"left","user_ids":["b"]}]}"#] {
            watched.learn(nothing);
            assert_eq!(watched.data(), before);
        }
    }

    #[test]
    fn no_more_are_kept_than_one_may_watch() {
        let mut watched = Watched::default();
        let ids: Vec<String> = (0..2 * WATCHED_MAX).map(|n| format!("\"{n:03}\"")).collect();
        watched.learn(&format!(r#"{{"events":[{{"name":"online","user_ids":[{}]}}]}}"#, ids.join(",")));
        assert_eq!(watched.0.len(), WATCHED_MAX);
        watched.learn(r#"{"events":[{"name":"offline","user_ids":["000"]}]}"#);
        assert!(watched.data().ends_with(r#"{"name":"offline","user_ids":["000"]}]}"#));
    }
}
