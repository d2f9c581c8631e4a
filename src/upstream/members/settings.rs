//! What `[upstream]` says of links that are one user's own.

use std::sync::Arc;

use crate::limits::rate::Rate;

/// Of the pool of users' own links.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Links of users, and so users on presence and user channels, at once (default 500): each is a connection at Pusher,
    /// and counts as one in its plan.
    pub links_max: usize,
    /// How quickly links dial, all together (default 50 a second).
    pub dials: Rate,
    /// As whom the bridge itself is on presence channels that it only watches.
    pub observer: Observer,
}

/// The member that the bridge is, for those who only watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observer {
    /// Its `user_id` (default `pusher-bridge`).
    pub user_id: Arc<str>,
    /// Its `user_info`, JSON (default `{}`).
    pub user_info: Arc<str>,
}
