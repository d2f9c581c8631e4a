//! Carrying out what the machine asks for.

use super::metrics::ConnPhase;
use super::slots::UserSlots;
use super::{Session, machine::Action};
use crate::clock::Now;
use crate::exchange::Subscribe;
use crate::routes::publish::Outgoing;
use crate::websocket::outbox::{Opcode, encode_frame};

impl Session {
    /// Carries out the machine's actions; some give it further input at once.
    pub(super) fn carry_out(&mut self) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                self.act(action);
            }
        }
        let phase = if self.machine.is_live() { ConnPhase::Live } else { ConnPhase::Authenticating };
        if self.record.phase.as_ref().is_none_or(|(counted, _)| *counted != phase) {
            self.record.phase = Some((phase, self.metrics.in_phase(phase)));
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send(text) => self.push(Opcode::Text, text.as_bytes()),
            Action::Error(code, text) => {
                self.metrics.errors.get(code).increment(1);
                self.push(Opcode::Text, text.as_bytes());
            }
            Action::WsPing => self.push(Opcode::Ping, &[]),
            Action::Verify(token) => self.verify(token),
            Action::Unverified(result) => self.note_auth("", result, None),
            Action::Acquire { user, exclusive } => self.acquire(user, exclusive),
            Action::Release => self.held.slots = UserSlots::default(),
            Action::Subscribe(subscribe) => self.subscribe(subscribe),
            Action::Unsubscribe(id) => self.unsubscribe(id),
            Action::Publish { outgoing, channel, message_type } => {
                self.publish(outgoing, &channel, message_type);
            }
            Action::Close(reason) => self.closing = self.closing.or(Some(reason)),
        }
    }

    pub(super) fn push(&self, opcode: Opcode, payload: &[u8]) {
        let frame = encode_frame(opcode, payload);
        let length = frame.len();
        if self.conn.push_own(frame).is_accepted() {
            self.metrics.traffic.sent(1, length);
        }
    }

    fn subscribe(&mut self, subscribe: Subscribe) {
        let id = subscribe.id;
        let (ticket, confirmed) = self.context.hub.attach(&self.route, subscribe, &self.conn);
        let subscriptions = &mut self.held.subscriptions;
        // Most connections have one for all their life.
        subscriptions.reserve_exact(usize::from(subscriptions.is_empty()));
        subscriptions.push((id, ticket));
        if confirmed {
            self.machine.subscribed(id, Now::read(), &mut self.actions);
        }
    }

    fn unsubscribe(&mut self, id: u32) {
        let subscriptions = &mut self.held.subscriptions;
        if let Some(at) = subscriptions.iter().position(|(subscription, _)| *subscription == id) {
            let (_, ticket) = subscriptions.swap_remove(at);
            self.context.hub.detach(&ticket);
        }
    }

    fn publish(&mut self, outgoing: Outgoing, channel: &str, message_type: String) {
        let (publisher, user) = (&self.context.shared.publisher, self.machine.identity());
        let accepted = publisher.publish(&self.conn, user, channel, outgoing, message_type.clone());
        if let Err(code) = accepted {
            self.machine.publish_failed(code, &message_type, Now::read(), &mut self.actions);
        }
    }
}
