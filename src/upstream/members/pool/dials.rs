//! Links that want to dial, in turn, and no more of them than the rate allows: after an outage, or when all users come at
//! once, the server is not stormed.

use std::collections::VecDeque;
use std::time::Instant;

use crate::limits::rate::{Rate, RateGate};

#[derive(Debug)]
pub(super) struct Dials {
    gate: RateGate,
    queue: VecDeque<u64>,
    /// When the next one may, once one had to wait.
    next: Option<Instant>,
}

impl Dials {
    pub(super) fn new(rate: Rate) -> Self {
        Self { gate: RateGate::new(rate), queue: VecDeque::new(), next: None }
    }

    pub(super) fn ask(&mut self, source: u64) {
        self.queue.push_back(source);
    }

    pub(super) fn remove(&mut self, source: u64) {
        self.queue.retain(|other| *other != source);
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The one that may dial now, if any may.
    pub(super) fn next(&mut self, now: Instant) -> Option<u64> {
        self.next = None;
        let first = *self.queue.front()?;
        match self.gate.check(now) {
            Ok(()) => {
                self.queue.pop_front();
                Some(first)
            }
            Err(wait) => {
                self.next = Some(now + wait);
                None
            }
        }
    }

    /// When [`Self::next`] may give one.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.next
    }
}
