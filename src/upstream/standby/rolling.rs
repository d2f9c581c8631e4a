//! Two connections for one are made anew by other credentials, one after the other: each is left when the other one is
//! certain of all that it has.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::junction::{HUB, Junction, SIDES};
use crate::upstream::link::now;
use crate::upstream::links::LinkHandle;
use crate::upstream::moving::{Move, Order};

/// How often it is looked at whether one can be left.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// So long one waits at most until nothing that the other brings is in doubt. Then it is left all the same, where nothing is
/// missed by that: what is in doubt still comes twice rather than never.
const DOUBT_MAX: Duration = Duration::from_secs(120);

/// What is to be done yet.
pub(super) struct Rolling {
    to: Box<Move>,
    /// Sides that use the credentials that there were: the last one goes first.
    remaining: Vec<usize>,
    /// A side has been told, and has not left its connection yet.
    leaves: Option<oneshot::Receiver<()>>,
    look: Instant,
    /// Since when the next one waits.
    since: Instant,
}

impl Rolling {
    pub(super) fn new(to: Box<Move>) -> Self {
        let now = now();
        Self { to, remaining: vec![HUB, 1], leaves: None, look: now, since: now }
    }

    /// When it is to be looked at again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.leaves.is_none().then_some(self.look)
    }

    /// Does what can be done by now; `true`: that was the last of it.
    pub(super) fn go_on(
        &mut self,
        links: [&LinkHandle; SIDES],
        is_connected: [bool; SIDES],
        junction: &Junction,
    ) -> bool {
        let now = now();
        if self.leaves.is_some() {
            return false;
        }
        let Some(side) = self.remaining.last().copied() else { return true };
        if now < self.look {
            return false;
        }
        self.look = now + LOOK_EVERY;
        let is_there = |side: usize| is_connected.get(side).is_some_and(|is_connected| *is_connected);
        let is_late = now >= self.since + DOUBT_MAX;
        let other = 1 - side.min(1);
        if is_there(side) && !(is_there(other) && junction.may_leave(side, is_late)) {
            return false;
        }
        if let Some(link) = links.get(side) {
            let (left, leaves) = oneshot::channel();
            let mut to = self.to.clone();
            // This one knows when all is done.
            (to.done, _) = tokio::sync::mpsc::channel(1);
            link.order(Order::Reconnect(to, left));
            self.leaves = Some(leaves);
        }
        self.remaining.pop();
        false
    }
}

/// Waits until a connection has been left.
pub(super) async fn left(rolling: &mut Option<Rolling>) {
    let Some(Rolling { leaves, since, look, .. }) = rolling else { return std::future::pending().await };
    let Some(receiver) = leaves else { return std::future::pending().await };
    let _ = receiver.await;
    *leaves = None;
    (*since, *look) = (now(), now());
}
