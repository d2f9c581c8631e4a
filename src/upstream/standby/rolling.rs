//! Two connections for one are made anew by other credentials, one after the other: each is left when the other one is
//! certain of all that it has.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::junction::{Act, HUB, Junction, SIDES};
use crate::upstream::link::now;
use crate::upstream::links::LinkHandle;
use crate::upstream::moving::{Move, Order};

/// How often it is looked at whether one can be left.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// So long one waits at most until nothing that the other brings is in doubt. Then it is left all the same, where nothing is
/// missed by that: what is in doubt still comes twice rather than never.
const DOUBT_MAX: Duration = Duration::from_secs(120);
/// So long one that is to be left is asked for new channels as ever. Then it is not, or there would be a new one for ever.
const SPARED_AFTER: Duration = Duration::from_secs(30);
/// So long at most, for meanwhile the other carries them alone. Then it is asked again.
const SPARED_MAX: Duration = Duration::from_secs(20);

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
    /// `before` is not gone on with; but a connection that it has left is back before another is.
    pub(super) fn new(to: Box<Move>, before: Option<Self>) -> Self {
        let (now, leaves) = (now(), before.and_then(|before| before.leaves));
        Self { to, remaining: vec![HUB, 1], leaves, look: now, since: now }
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
        junction: &mut Junction,
        acts: &mut Vec<Act>,
    ) -> bool {
        let now = now();
        if self.leaves.is_some() {
            return false;
        }
        let Some(side) = self.remaining.last().copied() else {
            junction.spare(None, acts);
            return true;
        };
        if now < self.look {
            return false;
        }
        self.look = now + LOOK_EVERY;
        let is_there = |side: usize| is_connected.get(side).is_some_and(|is_connected| *is_connected);
        let is_late = now >= self.since + DOUBT_MAX;
        let other = 1 - side.min(1);
        if is_there(side) && !(is_there(other) && junction.may_leave(side, is_late)) {
            let is_spared = is_there(other) && self.is_spared(now);
            junction.spare(is_spared.then_some(side), acts);
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

    fn is_spared(&self, now: Instant) -> bool {
        let turn = (SPARED_AFTER + SPARED_MAX).as_secs();
        let elapsed = now.saturating_duration_since(self.since).as_secs().checked_rem(turn);
        elapsed.is_some_and(|elapsed| elapsed >= SPARED_AFTER.as_secs())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::LinkId;
    use crate::upstream::api::tests::app;
    use crate::upstream::flights::SharedFlights;
    use crate::upstream::settings::Endpoint;

    fn to(key: &str) -> Box<Move> {
        let there = Endpoint { host: "localhost".into(), port: None, tls: false, path: String::new() };
        let mut app = app(there);
        app.key = key.into();
        let (done, _) = tokio::sync::mpsc::channel(1);
        Box::new(Move { app, tls: crate::tls::client_config(None).unwrap(), done })
    }

    #[tokio::test]
    async fn a_side_that_is_leaving_is_waited_for_also_when_the_key_changes_again() {
        let of = || LinkHandle::of(LinkId(7), SharedFlights::default());
        let ((first, mut first_end), (second, mut second_end)) = (of(), of());
        let mut told = |side: usize| {
            let end = if side == HUB { &mut first_end } else { &mut second_end };
            match end.orders.as_mut().and_then(|orders| orders.try_recv().ok()) {
                Some(Order::Reconnect(to, left)) => Some((to.app.key, left)),
                _ => None,
            }
        };
        let (mut junction, mut acts) =
            (Junction::new(LinkId(7), Duration::from_secs(10), Duration::from_secs(1)), Vec::new());
        let mut rolling = Rolling::new(to("1"), None);
        assert!(!rolling.go_on([&first, &second], [true; SIDES], &mut junction, &mut acts));
        let (key, left) = told(1).unwrap();
        assert_eq!(key, "1");
        let mut rolling = Some(Rolling::new(to("2"), Some(rolling)));
        let mut go_on = |rolling: &mut Option<Rolling>, is_connected| {
            rolling.as_mut().unwrap().go_on([&first, &second], is_connected, &mut junction, &mut acts)
        };
        assert!(!go_on(&mut rolling, [true; SIDES]));
        assert!(told(HUB).is_none() && told(1).is_none(), "one of the two is away");
        left.send(()).unwrap();
        super::left(&mut rolling).await;
        assert!(!go_on(&mut rolling, [true; SIDES]));
        let (key, left) = told(1).unwrap();
        assert_eq!(key, "2");
        left.send(()).unwrap();
        super::left(&mut rolling).await;
        assert!(!go_on(&mut rolling, [true, false]));
        assert!(told(HUB).is_none(), "the other is not back");
    }

    #[test]
    fn one_is_spared_for_a_while_and_then_asked_again() {
        let (rolling, second) = (Rolling::new(to("1"), None), Duration::from_secs(1));
        let spared = |seconds: u32| rolling.is_spared(rolling.since + second * seconds);
        let times = [0, 29, 30, 49, 50, 79, 80, 99];
        assert_eq!(times.map(spared), [false, false, true, true, false, false, true, true]);
    }
}
