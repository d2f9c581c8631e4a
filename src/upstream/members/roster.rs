//! Who is on a presence channel: built of a snapshot, changed by the events that follow it, and compared with a new
//! snapshot when some were missed. Infos stay the JSON text that they came as.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::json::{self, Object};
use crate::template::escape_into;

/// Something that became different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Added {
        id: Arc<str>,
        /// JSON text.
        info: Arc<str>,
    },
    Removed {
        id: Arc<str>,
        /// What it was known by.
        info: Arc<str>,
    },
}

/// The members of one channel, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    by_id: HashMap<Arc<str>, u64>,
    members: BTreeMap<u64, Member>,
    next: u64,
    list: List,
}

#[derive(Clone, Debug)]
struct Member {
    id: Arc<str>,
    info: Arc<str>,
}

/// The members as a JSON array, without its last bracket. Who joins is put behind the others; when somebody leaves it is
/// written anew, once it is asked for: of 2,000 who join, each gets it.
#[derive(Clone, Debug, Default)]
struct List {
    text: String,
    is_current: bool,
}

impl List {
    fn push(&mut self, id: &str, info: &str) {
        if !self.is_current {
            return;
        }
        self.text.push(if self.text.is_empty() { '[' } else { ',' });
        self.text.push_str(r#"{"id":""#);
        escape_into(&mut self.text, id);
        self.text.push_str(r#"","info":"#);
        self.text.push_str(info);
        self.text.push('}');
    }
}

impl Roster {
    /// Of the data of a presence channel's `subscription_succeeded`: `{"presence":{"ids":[…],"hash":{id:info},…}}`, an
    /// object or a string that holds one. `None`: it is neither.
    #[must_use]
    pub fn of_snapshot(data: &str) -> Option<Self> {
        let text = json::string(data);
        let data = Object::parse(text.as_deref().unwrap_or(data)).ok()?;
        let presence = Object::parse(data.get("presence")?).ok()?;
        let mut roster = Self::default();
        let hash = presence.get("hash").and_then(|hash| Object::parse(hash).ok());
        for (id, info) in hash.iter().flat_map(Object::members) {
            roster.add(id, info);
        }
        for id in presence.get("ids").and_then(json::elements).unwrap_or_default() {
            if let Some(id) = json::scalar(id) {
                roster.add(&id, "null");
            }
        }
        Some(roster)
    }

    /// Somebody has come; `false`: was there already, and stays what it is.
    pub fn add(&mut self, id: &str, info: &str) -> bool {
        if self.by_id.contains_key(id) {
            return false;
        }
        let id: Arc<str> = id.into();
        self.list.push(&id, info);
        self.by_id.insert(id.clone(), self.next);
        self.members.insert(self.next, Member { id, info: info.into() });
        self.next += 1;
        true
    }

    /// Somebody has left: the info it had, if it was there.
    pub fn remove(&mut self, id: &str) -> Option<Arc<str>> {
        let at = self.by_id.remove(id)?;
        self.list = List::default();
        self.members.remove(&at).map(|member| member.info)
    }

    /// Becomes `newer`, and gives what is different: first who has gone, then who has come. Whoever is known by another
    /// info now has gone and come again.
    pub fn become_newer(&mut self, newer: &Self) -> Vec<Change> {
        let gone: Vec<_> = self
            .members
            .values()
            .filter(|member| newer.info(&member.id) != Some(&*member.info))
            .cloned()
            .collect();
        let mut changes = Vec::new();
        for Member { id, info } in gone {
            self.remove(&id);
            changes.push(Change::Removed { id, info });
        }
        for Member { id, info } in newer.members.values() {
            if self.add(id, info) {
                changes.push(Change::Added { id: id.clone(), info: info.clone() });
            }
        }
        changes
    }

    fn info(&self, id: &str) -> Option<&str> {
        self.members.get(self.by_id.get(id)?).map(|member| &*member.info)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    /// Whether this one is there.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// The members, a JSON array of `{"id","info"}`.
    pub fn list(&mut self) -> Arc<str> {
        if !self.list.is_current {
            self.list = List { text: String::new(), is_current: true };
            for member in self.members.values() {
                self.list.push(&member.id, &member.info);
            }
        }
        match self.list.text.as_str() {
            "" => "[]".into(),
            text => [text, "]"].concat().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(members: &[(&str, &str)]) -> Roster {
        let mut roster = Roster::default();
        for (id, info) in members {
            assert!(roster.add(id, info));
        }
        roster
    }

    #[test]
    fn a_snapshot_keeps_each_info_as_it_is() {
        for data in [
            r#"{"presence":{"ids":["1","b\"c",7],"hash":{"1":{"n": 1.50},"b\"c":null},"count":3}}"#,
            r#""{\"presence\":{\"ids\":[\"1\",\"b\\\"c\",7],\"hash\":{\"1\":{\"n\": 1.50},\"b\\\"c\":null},\"count\":3}}""#,
        ] {
            let mut roster = Roster::of_snapshot(data).unwrap();
            let list = r#"[{"id":"1","info":{"n": 1.50}},{"id":"b\"c","info":null},{"id":"7","info":null}]"#;
            assert_eq!((&*roster.list(), roster.count()), (list, 3));
        }
        assert_eq!(&*Roster::of_snapshot(r#"{"presence":{"count":0}}"#).unwrap().list(), "[]");
        for data in ["{}", "7", r#"{"presence":[]}"#, r#""x""#] {
            assert!(Roster::of_snapshot(data).is_none(), "{data}");
        }
    }

    #[test]
    fn a_newer_snapshot_says_who_has_gone_and_who_has_come() {
        let mut roster = of(&[("1", "{}"), ("2", "{}"), ("3", "{}")]);
        let added = |id: &str, info: &str| Change::Added { id: id.into(), info: info.into() };
        let removed = |id: &str| Change::Removed { id: id.into(), info: "{}".into() };
        let changes = roster.become_newer(&of(&[("2", "{}"), ("3", "7"), ("4", "{}")]));
        assert_eq!(changes, [removed("1"), removed("3"), added("3", "7"), added("4", "{}")]);
        let list = r#"[{"id":"2","info":{}},{"id":"3","info":7},{"id":"4","info":{}}]"#;
        assert_eq!(&*roster.list(), list);
    }

    proptest! {
        /// Against a plain list.
        #[test]
        fn it_has_who_came_and_did_not_leave(steps in proptest::collection::vec((0_u8..4, 0_u8..6), 0..60)) {
            let (mut roster, mut model) = (Roster::default(), Vec::<(String, String)>::new());
            for (what, id) in steps {
                let (id, info) = (format!("u{id}\""), format!("{{\"n\":{what}}}"));
                let there = model.iter().position(|(known, _)| *known == id);
                match (what, there) {
                    (0, _) => {
                        let removed = there.map(|at| model.remove(at).1);
                        let info = roster.remove(&id);
                        prop_assert_eq!(info.as_deref(), removed.as_deref());
                    }
                    (1, _) => {
                        let newer: Vec<_> = model.iter().rev().step_by(2).cloned().collect();
                        let mut seen = roster.clone();
                        let texts: Vec<_> = newer.iter().map(|(id, info)| (id.as_str(), info.as_str())).collect();
                        for change in roster.become_newer(&of(&texts)) {
                            match change {
                                Change::Added { id, info } => prop_assert!(seen.add(&id, &info)),
                                Change::Removed { id, info } => prop_assert_eq!(seen.remove(&id), Some(info)),
                            }
                        }
                        prop_assert_eq!(seen.list(), roster.list());
                        model.retain(|known| newer.contains(known));
                    }
                    (_, None) => {
                        prop_assert!(roster.add(&id, &info));
                        model.push((id, info));
                    }
                    (_, Some(_)) => prop_assert!(!roster.add(&id, &info)),
                }
                let member = |(id, info): &(String, String)| format!("{{\"id\":{},\"info\":{info}}}", serde_json::json!(id));
                let list = format!("[{}]", model.iter().map(member).collect::<Vec<_>>().join(","));
                prop_assert_eq!(&*roster.list(), list);
                prop_assert_eq!(roster.count() as usize, model.len());
            }
        }
    }
}
