//! How copies of one event that come over several connections are known: by what they say, as Pusher gives them no number.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::delivery::{Event, Sent};
use super::merge::Merge;
use crate::pusher::frame;

/// By a key of this process's own, so that nobody can make two that are equal.
#[derive(Debug, Default)]
pub struct Digests(RandomState);

impl Digests {
    #[must_use]
    pub fn of(&self, event: &Event) -> u64 {
        self.0.hash_one((&*event.name, &*event.data))
    }

    fn of_own(&self, sent: &Sent) -> u64 {
        self.0.hash_one((&*sent.event, &*frame::text_json(&sent.data)))
    }

    /// Those of the request's messages that are on this channel will come, but not over the excluded connection.
    pub fn begin(
        &self,
        merge: &mut Merge<usize, Arc<Event>>,
        channel: &str,
        request: u64,
        batch: &[Arc<Sent>],
        excluded: Option<usize>,
    ) {
        let messages = batch.iter().filter(|sent| *sent.channel == *channel);
        let digests: Vec<u64> = messages.map(|sent| self.of_own(sent)).collect();
        if !digests.is_empty() {
            merge.begin(request, digests, excluded);
        }
    }
}

/// Whether the event is what became of this client event of the bridge's own.
#[must_use]
pub fn is_of(event: &Event, sent: &Sent) -> bool {
    sent.channel == event.channel
        && *sent.event == *event.name
        && Some(sent.origin) == event.origin
        && *frame::text_json(&sent.data) == *event.data
}
