//! A session's beginning, and what the connection's request leaves to it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::context::Context;
use super::machine::{Machine, Opening};
use super::progress::Progress;
use super::slots::{AddressSlot, Holder, UserSlots};
use super::{Client, Held, Record, Session};
use crate::clock::Now;
use crate::exchange::ConnId;
use crate::legacy::error::ErrorCode;
use crate::net::socket::Socket;
use crate::routes::generation::RouteState;
use crate::routes::path::PathValues;
use crate::websocket::conn::Conn;
use crate::websocket::outbox::Bounds;

/// What an upgraded connection takes along from its request.
pub struct Upgraded {
    pub route: Arc<RouteState>,
    /// Its path, without the query.
    pub endpoint: String,
    pub values: PathValues,
    pub token: Option<String>,
    /// Upgraded only to be told this.
    pub refusal: Option<ErrorCode>,
    /// The client, as far as proxies can be believed.
    pub address: IpAddr,
    /// What it calls itself, fit for a log.
    pub user_agent: String,
    /// Where others find the connection.
    pub holder: Holder,
    /// Its slot of the address's.
    pub address_slot: AddressSlot,
}

impl Session {
    pub(super) fn open(context: Arc<Context>, stream: Socket, granted: Upgraded) -> Self {
        let Upgraded { route, endpoint, values, token, refusal, address, user_agent, holder, address_slot } =
            granted;
        let limits = &route.limits;
        let id = ConnId(context.shared.next_conn.fetch_add(1, Ordering::Relaxed));
        let bounds = Bounds { frames_max: limits.outbox_frames_max, bytes_max: limits.outbox_bytes_max };
        let conn = Conn::new(id, stream, bounds, &context.shared.buffers);
        let _ = holder.set(conn.clone());
        let metrics = context.shared.metrics.of(route.id(), &route.name);
        metrics.opened.increment(1);
        let opening = Opening {
            route: route.rules().clone(),
            endpoint,
            values,
            token,
            refusal,
            subscribe_wait: context.shared.settings.load().subscribe_wait,
            seed: fastrand::u64(..),
        };
        let mut actions = Vec::new();
        let machine = Machine::open(opening, Now::read(), &mut actions);
        let session = Self {
            context,
            conn,
            route,
            metrics,
            client: Client { address, user_agent: user_agent.into() },
            machine,
            actions,
            pending: None,
            held: Held { subscriptions: Vec::new(), slots: UserSlots::default(), address_slot, holder },
            progress: Progress::default(),
            record: Record {
                opened: Instant::now(),
                phase: None,
                frames_in: 0,
                bytes_in: 0,
                close_code: None,
                channels: None,
            },
            closing: None,
        };
        session.context.register(&session.conn, &session.route);
        session
    }
}
