//! What comes in: the client's messages, what its connection tells, what was waited for, and time.

use tokio_tungstenite::tungstenite::Message;

use super::{Completion, Session};
use crate::clock::Now;
use crate::legacy::close::CloseReason;
use crate::session::machine::Handled;
use crate::upstream::metrics::ReplyResult;
use crate::websocket::conn::{ConnEvent, Notice};
use crate::websocket::outbox::Opcode;
use crate::websocket::reader::Reader;

impl Session {
    pub(super) fn message(&mut self, message: Result<Message, CloseReason>) {
        let now = Now::read();
        let message = match message {
            Ok(message) => message,
            Err(reason) => return self.closing = Some(reason),
        };
        self.progress.answer_probes();
        match &message {
            Message::Text(text) => {
                self.count_in(text.len());
                let handled = self.machine.text(text, now, &mut self.actions);
                self.echo(handled, Opcode::Text, text.as_bytes());
            }
            Message::Binary(bytes) => {
                self.count_in(bytes.len());
                let handled = if self.route.dialect.binary_is_json {
                    self.machine.binary_text(bytes, now, &mut self.actions)
                } else {
                    self.machine.binary(now, &mut self.actions)
                };
                self.echo(handled, Opcode::Binary, bytes);
            }
            Message::Ping(_) | Message::Pong(_) => self.machine.control(now, &mut self.actions),
            Message::Close(frame) => {
                self.record.close_code = frame.as_ref().map(|frame| frame.code.into());
                self.closing = Some(CloseReason::ByClient);
            }
            Message::Frame(_) => {}
        }
    }

    fn echo(&self, handled: Handled, opcode: Opcode, payload: &[u8]) {
        match handled {
            Handled::Consumed => {}
            Handled::Echo => self.push(opcode, payload),
        }
    }

    fn count_in(&mut self, bytes: usize) {
        self.record.frames_in += 1;
        self.record.bytes_in += bytes as u64;
        self.metrics.traffic.received(bytes);
    }

    pub(super) fn event(&mut self, event: ConnEvent, reader: &mut Reader) {
        match event {
            ConnEvent::Notice(notice) => self.notice(notice, reader),
            ConnEvent::Drained => {}
            ConnEvent::Overflow => self.closing = Some(CloseReason::SlowReader),
            ConnEvent::Overload => self.closing = Some(CloseReason::Overload),
            ConnEvent::Broken => self.closing = Some(CloseReason::Lost),
        }
    }

    fn notice(&mut self, notice: Notice, reader: &mut Reader) {
        let (now, out) = (Now::read(), &mut self.actions);
        match notice {
            Notice::Subscribed(id) => self.machine.subscribed(id, now, out),
            Notice::Refused { id, channel, code, is_retried } => {
                self.machine.subscription_refused(id, &channel, code, is_retried, now, out);
            }
            Notice::PublishFailed { code, message_type } => {
                self.machine.publish_failed(code, &message_type, now, out);
            }
            Notice::Reply { message_type, data } => {
                self.machine.reply(&message_type, &data, now, out);
                self.context.shared.publisher.replied(ReplyResult::Passed);
            }
            Notice::Undecryptable => {
                self.machine.undecryptable(self.context.shared.settings.load().close_window, now, out);
            }
            Notice::Gap => self.machine.gap(self.context.shared.settings.load().close_window, now, out),
            Notice::Probe { heard_within, answers, .. } if self.machine.heard_within(heard_within, now) => {
                answers.add_permits(1);
            }
            Notice::Probe { within, answers, .. } => {
                // What was taken, or has come, before the probe is no answer to it.
                self.look_for_progress(reader);
                self.machine.probe(within, now, &mut self.actions);
                self.progress.expect_answer(answers);
            }
            Notice::Replaced => self.machine.replaced(out),
            Notice::Terminated => self.machine.terminated(out),
            Notice::Drain(after) => self.machine.drain(after, now),
            Notice::Reloaded => self.follow(reader),
        }
    }

    pub(super) fn complete(&mut self, completion: Completion) {
        self.pending = None;
        match completion {
            Completion::Judge(token, came_at) => self.judge(token, came_at),
            Completion::Verified(verdict) => self.verified(verdict),
            Completion::Slots(outcome, edition) => {
                let outcome = outcome.map(|slots| self.held.slots = slots);
                self.machine.slots(outcome, Now::read(), &mut self.actions);
                if edition != self.route.edition() {
                    // They were acquired by other limits.
                    self.hold_slots();
                }
            }
        }
    }

    pub(super) fn time_passed(&mut self, reader: &mut Reader) {
        self.look_for_progress(reader);
        self.machine.timer(Now::read(), &mut self.actions);
    }
}
