//! Slots that connections hold: of their users, their exclusive keys and their addresses.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use crate::limits::slots::{Permit, Scope};
use crate::websocket::conn::Conn;

/// Reaches the connection that holds a slot, once it is upgraded.
pub type Holder = Arc<OnceLock<Arc<Conn>>>;
/// A slot held by a connection.
pub type Slot<K> = Permit<K, Holder>;
/// What a slot is counted for: the scope, and what within it.
pub type Key<T> = (Scope, T);

/// A connection's slot of its address's.
pub enum AddressSlot {
    /// The route counts none.
    Uncounted,
    /// Among those in service.
    Counted(Slot<Key<IpAddr>>),
    /// Among those kept only to be told a refusal.
    Refused(Permit<IpAddr, ()>),
}
