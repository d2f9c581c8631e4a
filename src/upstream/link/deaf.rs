//! Noticing that Pusher has forgotten a subscription, or the connection.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Actor, End, LostCause};
use crate::exchange::ConnId;
use crate::text::loggable;
use crate::upstream::api::Outcome;
use crate::upstream::checks::{Answer, Check};
use crate::upstream::delivery::Sent;
use crate::upstream::link_table::Op;

impl Actor {
    /// Subscribes one of the channels again.
    pub(super) fn check(&mut self) -> Result<(), End> {
        let now = Instant::now().into_std();
        let table = &self.table;
        let channels = || table.subscribed().cloned();
        match self.checks.timer(now, channels, |channel| table.receivers(channel).is_some()) {
            Check::Nothing => {}
            Check::Learned => self.learned(),
            Check::Subscribe(channel) => self.ops.push(Op::Subscribe(channel)),
            Check::Dead => {
                return Err(End::new(LostCause::Deaf, "Pusher does not answer a subscription any more"));
            }
        }
        Ok(())
    }

    /// Where nothing else shows it: whether the connection delivers.
    pub(super) fn begin_probe(&mut self) {
        if !self.probe.begin() {
            return;
        }
        if self.checks.own_is_subscribed() {
            self.probe.subscribed(Instant::now().into_std());
        } else {
            self.ops.push(Op::Subscribe(self.own_channel.clone()));
        }
    }

    /// It is known what the server does when a channel is subscribed twice.
    fn learned(&mut self) {
        if self.checks.refuses() {
            self.ops.push(Op::Unsubscribe(self.own_channel.clone()));
        } else {
            self.begin_probe();
        }
    }

    pub(super) fn publish_probe(&self) {
        let (api, timeout) = (self.link.api.clone(), self.link.upstream.publish.timeout);
        let (channel, probed) = (self.own_channel.clone(), self.probed.0.clone());
        tokio::spawn(async move {
            let sent = Sent { channel, event: "probe".to_owned(), data: "{}".to_owned(), origin: ConnId(0) };
            let outcome = api.trigger(&[Arc::new(sent)], |_| None, timeout).await;
            let _ = probed.send(matches!(outcome, Outcome::Accepted));
        });
    }

    /// What the answer to a check tells. `false`: it answers something else.
    pub(super) fn checked(&mut self, channel: &str, answer: Answer) -> bool {
        match answer {
            Answer::NotAsked => return false,
            Answer::Subscribed => {}
            Answer::Learned => self.learned(),
            Answer::AskAgain => self.ops.push(Op::Subscribe(channel.into())),
            Answer::Forgotten => {
                if self.table.forgotten(channel, &mut self.ops) {
                    self.link.metrics.gaps.increment(1);
                    tracing::warn!(
                        link = self.link.index,
                        channel = loggable(channel),
                        "Pusher had forgotten a subscription: events may have been missed"
                    );
                }
            }
        }
        true
    }
}
