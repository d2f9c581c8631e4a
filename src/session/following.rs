//! The routes have changed while the connection is there: it takes its route's next edition over, or has a turn to be
//! closed.

use std::sync::Arc;

use super::Session;
use super::slots::AddressSlot;
use crate::clock::Now;
use crate::limits::address::one_client;
use crate::limits::slots::Scope;
use crate::routes::generation::{Heir, RouteState};
use crate::websocket::outbox::Bounds;
use crate::websocket::reader::Reader;

impl Session {
    /// Looks what becomes of its edition in the generation in force.
    pub(super) fn follow(&mut self, reader: &mut Reader) {
        let heir = self.context.shared.generations.current().heir_of(self.route.edition()).cloned();
        match heir {
            None => self.machine.in_force(),
            Some(Heir::Next(route)) => self.take_over(route, reader),
            Some(Heir::Nobody) => {
                let window = self.context.shared.settings.load().close_window;
                self.machine.left_behind(window, Now::read(), &mut self.actions);
            }
        }
    }

    fn take_over(&mut self, route: Arc<RouteState>, reader: &mut Reader) {
        let limits = &route.limits;
        self.conn.bound(Bounds { frames_max: limits.outbox_frames_max, bytes_max: limits.outbox_bytes_max });
        reader.bound(limits.message_bytes_max);
        for (_, ticket) in &mut self.held.subscriptions {
            self.context.hub.move_to(ticket, &route);
        }
        self.context.move_to(self.conn.id(), self.route.edition(), route.edition());
        self.machine.follow(route.rules().clone(), Now::read());
        self.machine.in_force();
        self.route = route;
        self.hold_slots();
    }

    /// Has the slots that its route's limits count by now, and no others: who is there counts, even beyond what
    /// newcomers may have.
    pub(super) fn hold_slots(&mut self) {
        let (shared, limits) = (&self.context.shared, &self.route.limits);
        if !matches!(self.held.address_slot, AddressSlot::ForRefusal(_)) {
            let client = one_client(self.client.address, shared.ipv6_prefix);
            let key = limits.connections_per_address.map(|_| (limits.scope.clone(), client));
            let held = match &self.held.address_slot {
                AddressSlot::Counted(slot) => Some(slot.key()),
                AddressSlot::Uncounted | AddressSlot::ForRefusal(_) => None,
            };
            if held != key.as_ref() {
                self.held.address_slot = key.map_or(AddressSlot::Uncounted, |key| {
                    AddressSlot::Counted(shared.address_slots.hold(&key, self.held.holder.clone()))
                });
            }
        }
        let Some(user) = self.machine.identity() else { return };
        let user_key = (limits.scope.clone(), user.clone());
        let exclusive = self.machine.exclusive_key().map(|key| (self.exclusive_scope(), key));
        let wanted = [limits.connections_per_user.map(|_| user_key.clone()), exclusive];
        let slots = [&shared.user_slots, &shared.exclusive_slots];
        for ((held, wanted), slots) in self.held.slots.iter_mut().zip(wanted).zip(slots) {
            if held.as_ref().map(|slot| slot.key()) != wanted.as_ref() {
                *held = wanted.map(|key| slots.hold(&key, self.held.holder.clone()));
            }
        }
        if let Some(rate) = limits.messages_per_user {
            self.machine.rate_user(shared.user_rates.gate(user_key, rate, Now::read().mono));
        }
    }

    /// The same filled key on another route is another thing.
    pub(super) fn exclusive_scope(&self) -> Scope {
        Scope::Route(self.route.name.clone())
    }
}
