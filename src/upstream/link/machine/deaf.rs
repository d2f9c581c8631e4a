//! Noticing that Pusher has forgotten a subscription, or the connection.

use std::time::Instant;

use super::{Action, Machine, Note};
use crate::pusher::channel;
use crate::upstream::link::checks::{Answer, Check};
use crate::upstream::link::table::Op;
use crate::upstream::lost::{End, LostCause};

impl Machine {
    /// Subscribes one of the channels again, if it is time.
    pub(super) fn check(&mut self, now: Instant, out: &mut Vec<Action>) {
        let table = &self.table;
        let channels = || table.subscribed().cloned();
        match self.checks.timer(now, channels, |channel| table.receivers(channel).is_some()) {
            Check::Nothing => {}
            Check::Learned => self.learned(now),
            Check::Subscribe(channel) => self.ops.push(Op::Subscribe(channel)),
            Check::Dead => {
                self.ended(
                    End::new(LostCause::Deaf, "Pusher does not answer a subscription any more"),
                    now,
                    out,
                );
            }
        }
    }

    /// Where nothing else shows it: whether the connection delivers.
    pub(super) fn begin_probe(&mut self, now: Instant) {
        if !self.probe.begin() {
            return;
        }
        if self.checks.own_is_subscribed() {
            self.probe.subscribed(now);
        } else {
            self.ops.push(Op::Subscribe(self.own_channel.clone()));
        }
    }

    /// It is known what the server does when a channel is subscribed twice.
    fn learned(&mut self, now: Instant) {
        if self.checks.rejects() {
            self.ops.push(Op::Unsubscribe(self.own_channel.clone()));
        } else {
            self.begin_probe(now);
        }
    }

    /// The probe's event was accepted, or not.
    pub fn probed(&mut self, channel: &str, accepted: bool, now: Instant) {
        // Else it was another connection's.
        if *channel == *self.own_channel {
            self.probe.published(accepted, now);
        }
    }

    /// What the answer to a check tells. `false`: it answers something else.
    pub(super) fn checked(
        &mut self,
        channel: &str,
        answer: Answer,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> bool {
        match answer {
            Answer::Unrelated => return false,
            Answer::Subscribed => {}
            Answer::Learned => self.learned(now),
            Answer::Again => self.ops.push(Op::Subscribe(channel.into())),
            Answer::Forgotten => {
                if channel::is_cache(channel) {
                    self.cache.awaits(channel);
                }
                if self.table.forgotten(channel, &mut self.ops) {
                    out.push(Action::Note(Note::Forgotten(channel.into())));
                }
            }
        }
        true
    }
}
