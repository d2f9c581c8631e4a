//! What a connection's request leaves to its session.

use std::net::IpAddr;
use std::sync::Arc;

use super::slots::{AddressSlot, Holder};
use crate::legacy::error::ErrorCode;
use crate::routes::generation::RouteState;
use crate::routes::path::PathValues;

/// What an upgraded connection takes along from its request.
pub struct Upgraded {
    /// Its route.
    pub route: Arc<RouteState>,
    /// Its path, without the query.
    pub endpoint: String,
    /// The path's values.
    pub values: PathValues,
    /// A token from the request.
    pub token: Option<String>,
    /// Upgraded only to be told this.
    pub refused: Option<ErrorCode>,
    /// The client, as far as proxies can be believed.
    pub address: IpAddr,
    /// What it calls itself, fit for a log.
    pub user_agent: String,
    /// Where others find the connection.
    pub holder: Holder,
    /// Its slot of the address's.
    pub address_slot: AddressSlot,
}
