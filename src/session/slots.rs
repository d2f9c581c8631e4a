//! Slots that connections hold: of their users, their exclusive keys and their addresses.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use super::conflict::acquire;
use super::{Completion, Session};
use crate::auth::Identity;
use crate::clock::Now;
use crate::legacy::error::ErrorCode;
use crate::limits::slots::{Permit, Scope};
use crate::text::loggable;
use crate::websocket::conn::Conn;

/// Reaches the connection that holds a slot, once it is upgraded.
pub type Holder = Arc<OnceLock<Arc<Conn>>>;
pub type Slot<K> = Permit<K, Holder>;
/// What a slot is counted for: the scope, and what within it.
pub type Key<T> = (Scope, T);

/// The slots of a connection's user and of its exclusive key.
pub(super) type UserSlots = [Option<Slot<Key<Identity>>>; 2];

/// A connection's slot of its address's.
pub enum AddressSlot {
    /// The route counts none.
    Uncounted,
    /// Among those in service.
    Counted(Slot<Key<IpAddr>>),
    /// Among those kept only to be told a refusal.
    ForRefusal(Permit<IpAddr, ()>),
}

impl Session {
    /// Acquires the slots at once where they are free; else waits for holders to prove alive or go.
    pub(super) fn acquire(&mut self, user: Identity, exclusive: Option<Identity>) {
        let limits = &self.route.limits;
        let user_limit = limits.connections_per_user;
        let exclusive_limit = limits.exclusive.as_ref().map(|exclusive| exclusive.slots);
        let user_key = (limits.scope.clone(), user);
        if let Some(rate) = limits.messages_per_user {
            let gate = self.context.shared.user_rates.gate(user_key.clone(), rate, Now::read().mono);
            self.machine.rate_user(gate);
        }
        let exclusive_key = exclusive.map(|key| (self.exclusive_scope(), key));
        let (shared, holder) = (self.context.shared.clone(), self.held.holder.clone());
        let (route, conn, address) = (self.route.clone(), self.conn.id().0, self.client.address);
        let logged_user = loggable(&user_key.1.subject);
        let acquiring = async move {
            let user = acquire(&shared.user_slots, Some(&user_key), user_limit, &holder)
                .await
                .map_err(|()| ErrorCode::TooManyConnections)?;
            let exclusive =
                acquire(&shared.exclusive_slots, exclusive_key.as_ref(), exclusive_limit, &holder)
                    .await
                    .map_err(|()| ErrorCode::SessionInUse)?;
            Ok([user, exclusive])
        };
        self.pending = Some(Box::pin(async move {
            let acquired: Result<UserSlots, ErrorCode> = acquiring.await;
            if let Err(code) = acquired {
                tracing::info!(
                    route = &*route.name,
                    conn,
                    client.address = %address,
                    user = logged_user,
                    code = code.as_str(),
                    "no slot"
                );
            }
            Completion::Slots(acquired, route.edition())
        }));
    }
}
