//! What the pool counts.

use super::pool::Counts;
use crate::metrics::label::labels;
use crate::metrics::{Counter, Family, Gauge, Registry};

labels! {
    /// Why a user has no link, or is not signed in.
    pub enum Refusal: "reason" {
        /// There are as many links as may be.
        NoPlace = "no_place",
        /// Pusher did not sign the user in.
        SignIn = "sign_in",
    }
}

#[derive(Debug)]
pub struct Metrics {
    links: Gauge,
    /// Those that are connected.
    pub connected: Gauge,
    dialling: Gauge,
    turned_away: Gauge,
    pub dials: Counter,
    pub refusals: Family<Refusal>,
    pub terminated: Counter,
    /// Events that may have been delivered before.
    pub doubtful: Counter,
    /// Events that were held, and for which there was no room.
    pub let_go: Counter,
    /// Watchlist events that nobody got.
    pub watchlist_lost: Counter,
}

impl Metrics {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            links: registry.declare("pusher_bridge_member_links", "Users with a connection to Pusher of their own"),
            connected: registry
                .declare("pusher_bridge_member_links_connected", "Those of these connections that are established"),
            dialling: registry.declare(
                "pusher_bridge_member_links_waiting",
                "Those that wait until they may be dialled, by upstream.member_dials",
            ),
            turned_away: registry.declare(
                "pusher_bridge_members_turned_away",
                "Users who wait for a connection of their own, by upstream.members_max",
            ),
            dials: registry.declare("pusher_bridge_member_dials_total", "Users' own connections dialled"),
            refusals: registry.declare(
                "pusher_bridge_member_refusals_total",
                "Users who got no connection of their own, or were not signed in on it, by reason",
            ),
            terminated: registry.declare(
                "pusher_bridge_members_terminated_total",
                "Users whose connections a backend had closed",
            ),
            doubtful: registry.declare(
                "pusher_bridge_member_events_doubtful_total",
                "Events of presence channels that may be copies of earlier ones, delivered all the same",
            ),
            let_go: registry.declare(
                "pusher_bridge_member_events_let_go_total",
                "Events of presence channels that one connection brought and may be copies, beyond those that are held",
            ),
            watchlist_lost: registry.declare(
                "pusher_bridge_watchlist_events_lost_total",
                "Watchlist events that came before a user's channel was confirmed, beyond those that are kept",
            ),
        }
    }

    pub fn show(&self, counts: Counts) {
        self.links.set(counts.links as f64);
        self.dialling.set(counts.dialling as f64);
        self.turned_away.set(counts.turned_away as f64);
    }
}
