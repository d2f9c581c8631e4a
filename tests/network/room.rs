//! A room: a channel, and who is there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;

use crate::account::{Account, Presence, Said};
use crate::message::{Content, Place};
use crate::person::{Heard, Leave, Person, tick};
use crate::scene::Server;

static PEOPLE: AtomicUsize = AtomicUsize::new(1);

struct Member {
    person: Person,
    /// What it had heard when the phase began.
    before: Heard,
    left: bool,
}

pub struct Room {
    pub place: Place,
    pub name: String,
    bridges: Vec<SocketAddr>,
    server: Server,
    members: Vec<Member>,
    said: Vec<Said>,
}

impl Room {
    pub fn new(place: Place, name: &str, bridges: Vec<SocketAddr>, server: Server) -> Self {
        Self { place, name: name.to_owned(), bridges, server, members: Vec::new(), said: Vec::new() }
    }

    pub fn channel(&self) -> String {
        self.place.channel(&self.name)
    }

    /// How many are there.
    pub fn count(&self) -> usize {
        self.members.iter().filter(|member| !member.left).count()
    }

    /// Somebody comes, and waits until it is subscribed.
    pub async fn join(&mut self) {
        let index = self.join_saying(&[]).await;
        self.members[index].person.confirmed().await;
    }

    /// Somebody comes and says this at once; gives its place among those who were ever here.
    pub async fn join_saying(&mut self, says: &[Content]) -> usize {
        let id = PEOPLE.fetch_add(1, Ordering::Relaxed);
        let at = tick();
        self.said.extend(says.iter().map(|content| Said { at, by: Some(id), content: *content, sure: true }));
        let bridge = self.bridges[id % self.bridges.len()];
        let person = Person::join(id, bridge, self.place, &self.name, says).await;
        self.members.push(Member { person, before: Heard::default(), left: false });
        self.members.len() - 1
    }

    /// The places of those who are there.
    pub fn present(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|index| !self.members[*index].left).collect()
    }

    pub fn say(&mut self, index: usize, content: Content) {
        let member = &self.members[index];
        assert!(!member.left);
        self.said.push(Said { at: tick(), by: Some(member.person.id), content, sure: true });
        member.person.say(content);
    }

    /// Everybody says this.
    pub fn all_say(&mut self, content: Content) {
        self.present().into_iter().for_each(|index| self.say(index, content));
    }

    /// A server says it.
    pub async fn server_says(&mut self, content: Content) {
        self.said.push(Said { at: tick(), by: None, content, sure: true });
        let (event, data) = content.event(self.place);
        self.server.trigger(&self.channel(), &event, &data).await;
    }

    /// Its last messages, if any, may be lost with its connection.
    pub fn leave(&mut self, index: usize, how: Leave) {
        let Self { members, said, .. } = self;
        let member = &mut members[index];
        member.left = true;
        member.person.leave(how);
        if how == Leave::ByReset {
            Self::unsure(said, member.person.id);
        }
    }

    /// What somebody said may be lost, and nobody is there to be told.
    pub fn unsure_of(&mut self, index: usize) {
        let id = self.members[index].person.id;
        Self::unsure(&mut self.said, id);
    }

    fn unsure(said: &mut [Said], id: usize) {
        said.iter_mut().filter(|said| said.by == Some(id)).for_each(|said| said.sure = false);
    }

    /// Waits until the bridge has read all that those who are there said, and the others are gone.
    pub async fn is_read(&mut self) {
        join_all(self.members.iter_mut().map(async |member| {
            if member.left {
                member.person.over().await;
            } else {
                member.person.is_read().await;
            }
        }))
        .await;
    }

    /// Whether everybody has this fence, or a later one.
    pub fn is_fenced(&self, fence: u64) -> bool {
        self.members.iter().all(|member| {
            let heard = member.person.heard();
            assert!(member.left || !heard.over, "{}: person {} was thrown out", self.name, member.person.id);
            member.left || heard.fence >= fence
        })
    }

    /// Ends the phase, with all at rest, and begins the next one.
    pub fn account(&mut self, unanswered: &BTreeMap<Content, usize>) -> Account {
        let people: Vec<Presence> = self
            .members
            .iter()
            .map(|member| Presence {
                id: member.person.id,
                before: member.before.clone(),
                after: member.person.heard(),
                left: member.left,
            })
            .collect();
        let account = Account::of(&std::mem::take(&mut self.said), &people, unanswered);
        self.members.retain(|member| !member.left);
        for member in &mut self.members {
            member.before = member.person.heard();
        }
        account
    }
}
