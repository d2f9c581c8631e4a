//! Which subscription an error is about that names none (Pusher's errors carry no channel field, and sockudo's texts no
//! name either). It is one of those that were under way when the error came. The others are confirmed sooner or later: when
//! as many are left as there are errors, those are refused. Before that nobody is blamed, and when one of them is never
//! answered, none is: it may be the one, and each is told by its own time that there is no answer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An answer that is so much later than it should be does not come any more.
const SILENT_FOR: Duration = Duration::from_secs(60);

/// A code, if there is one, and a text.
pub type Why = (Option<u16>, String);

#[derive(Debug)]
struct Unnamed {
    /// It answers one of the subscriptions up to this one.
    up_to: u64,
    error: Why,
}

/// The subscriptions under way on one connection.
#[derive(Debug, Default)]
pub struct Suspects {
    /// By their numbers, in the order in which they were sent.
    under_way: BTreeMap<u64, Arc<str>>,
    last: u64,
    /// Not answered in time, and until when they may yet be.
    silent: BTreeMap<u64, (Instant, Arc<str>)>,
    /// In the order in which they came. Never more than suspects.
    unnamed: VecDeque<Unnamed>,
}

impl Suspects {
    /// How many are under way.
    #[must_use]
    pub fn count(&self) -> usize {
        self.under_way.len()
    }

    pub fn channels(&self) -> impl Iterator<Item = &Arc<str>> {
        self.under_way.values()
    }

    /// A subscription is sent. Gives its number.
    pub fn ask(&mut self, channel: Arc<str>) -> u64 {
        self.last += 1;
        self.under_way.insert(self.last, channel);
        self.last
    }

    /// It was confirmed, or is known to be refused. Where that may be an earlier one's answer, of the same channel, its own
    /// may yet come.
    pub fn answered(&mut self, number: u64, now: Instant) {
        let Some(channel) = self.under_way.get(&number) else { return };
        if self.silent.values().any(|(_, earlier)| earlier == channel) {
            return self.silent(number, now);
        }
        self.under_way.remove(&number);
    }

    /// It was not answered in time.
    pub fn silent(&mut self, number: u64, now: Instant) {
        if let Some(channel) = self.under_way.remove(&number) {
            self.silent.insert(number, (now + SILENT_FOR, channel));
        }
        // Any of them may be meant by an error that came, and nobody will know.
        if let Some(at) = self.unnamed.iter().position(|unnamed| number <= unnamed.up_to) {
            self.unnamed.remove(at);
        }
    }

    /// An error came. `false`: nothing is left that it could be about.
    pub fn blame(&mut self, error: Why) -> bool {
        let is_about_one = self.unnamed.len() < self.under_way.len();
        if is_about_one {
            self.unnamed.push_back(Unnamed { up_to: self.last, error });
        }
        is_about_one
    }

    /// One that is known now to be refused, and why.
    pub fn blamed(&mut self, now: Instant) -> Option<(Arc<str>, Why)> {
        self.silent.retain(|_, (until, _)| *until > now);
        let mut suspects = self.under_way.keys().peekable();
        let mut count = 0;
        let is_known = self.unnamed.iter().enumerate().any(|(at, Unnamed { up_to, .. })| {
            while suspects.next_if(|number| *number <= up_to).is_some() {
                count += 1;
            }
            count + self.silent.range(..=up_to).count() <= at + 1
        });
        if !is_known {
            return None;
        }
        let Unnamed { up_to, error } = self.unnamed.pop_front()?;
        let (number, channel) = self.under_way.first_key_value()?;
        // Else it was about something that is answered meanwhile.
        (*number <= up_to).then(|| (channel.clone(), error))
    }
}
