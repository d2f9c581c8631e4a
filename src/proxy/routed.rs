//! A WebSocket that an old server serves through a route: its frames pass as they are, and are followed, so that this
//! bridge can count them, and close the connection between two of them when the route is gone or the bridge is.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as Cx, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::frames::Frames;
use super::metrics::Direction;
use super::pool::Io;
use super::tunnel::{Broken, Half, Tunnel, discard};
use crate::clock::spread;
use crate::legacy::close::CloseReason;
use crate::limits::address::one_client;
use crate::routes::tunnelled::{Fate, Inside};
use crate::session::context::Context;
use crate::session::metrics::ConnPhase;
use crate::session::slots::{Holder, Key, Slot};
use crate::websocket::metrics::{Direction as Way, Traffic};
use crate::websocket::outbox::encode_close;

/// How long each step of a goodbye may take: the end of the frame that is under way, the client's answer, its end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the one side may go on when the other has ended: a WebSocket has no halves.
const LINGER: Duration = Duration::from_secs(10);

/// Such a WebSocket, from its 101 on.
pub struct Routed {
    pub tunnel: Box<Tunnel>,
    pub place: Place,
    pub visitor: Visitor,
}

/// What it counts for while it lives.
pub struct Place {
    pub inside: Inside,
    /// Of its address's; `None`: the route counts none.
    pub slot: Option<Slot<Key<IpAddr>>>,
}

/// Who is at the other end.
pub struct Visitor {
    pub address: IpAddr,
    pub user_agent: String,
}

/// Both sides, and what passes between them.
struct Pair<C> {
    client: C,
    server: Io,
    inwards: Half<Frames>,
    outwards: Half<Frames>,
    traffic: Traffic,
    frames: [u64; 2],
    /// The server takes nothing any more.
    deaf: bool,
}

impl Routed {
    /// Carries what `client` and the old server say, of which `early` came already, until one of them ends it, or the
    /// route or the bridge does.
    pub async fn run<C: AsyncRead + AsyncWrite + Unpin>(
        self,
        context: Arc<Context>,
        client: C,
        early: Bytes,
    ) {
        let Self { tunnel, place, visitor } = self;
        let Tunnel { upstream, early: answered, timeout, metrics, held, name } = *tunnel;
        let state = place.inside.state().clone();
        let (route, shared) = (state.rules().clone(), context.shared.clone());
        let conn = shared.next_conn.fetch_add(1, Ordering::Relaxed);
        let counts = shared.metrics.of(state.id(), &route.name);
        counts.opened.increment(1);
        let phase = counts.in_phase(ConnPhase::Live);
        let Visitor { address, user_agent } = visitor;
        tracing::info!(
            route = &*route.name,
            conn,
            client.address = %address,
            user_agent.original = user_agent,
            upstream = &*name,
            "tunnelled"
        );
        let opened = Instant::now();
        let bytes = |direction| metrics.tunnel_bytes.get(direction).clone();
        let mut pair = Pair {
            client,
            server: upstream,
            inwards: Half::new(early, bytes(Direction::In), Frames::new(route.limits.message_bytes_max)),
            outwards: Half::new(answered, bytes(Direction::Out), Frames::new(None)),
            traffic: state.traffic.clone(),
            frames: [0; 2],
            deaf: false,
        };
        drop(state);
        let reason = {
            // What is counted for it is given back with the first word of a goodbye.
            let leaving = Box::pin(leaving(&context, place, address));
            pair.carry(timeout, leaving).await
        };
        drop(phase);
        if let Some(code) = reason.code() {
            pair.say_goodbye(&encode_close(code, reason.text())).await;
        }
        pair.count();
        drop(held);
        counts.closes.get(reason).increment(1);
        let (of_client, of_server) = (pair.inwards.follows.close_code(), pair.outwards.follows.close_code());
        let code = if reason == CloseReason::ByServer { of_server } else { of_client.or(of_server) };
        tracing::info!(
            route = &*route.name,
            conn,
            client.address = %address,
            user_agent.original = user_agent,
            upstream = &*name,
            duration_ms = opened.elapsed().as_millis() as u64,
            frames_in = pair.frames[0],
            bytes_in = pair.inwards.bytes,
            frames_out = pair.frames[1],
            bytes_out = pair.outwards.bytes,
            code = reason.code().or(code),
            reason = reason.label(),
            "closed"
        );
    }
}

/// Resolves when the bridge shuts down, or the route leaves those who have it behind, and this connection's turn has come.
async fn leaving(context: &Context, place: Place, address: IpAddr) -> CloseReason {
    tokio::select! {
        () = going_away(context) => CloseReason::GoingAway,
        () = left_behind(context, place, address) => CloseReason::RouteChanged,
    }
}

async fn going_away(context: &Context) {
    context.draining().await;
    tokio::time::sleep(turn(context)).await;
}

/// When this one of all that are closed together is.
fn turn(context: &Context) -> Duration {
    spread(context.shared.settings.load().close_window, fastrand::f64())
}

async fn left_behind(context: &Context, mut place: Place, address: IpAddr) {
    let mut fate = place.inside.state().fate();
    loop {
        let now = fate.borrow_and_update().clone();
        match now {
            Fate::InForce => changed(&mut fate).await,
            Fate::Next(next) => {
                place.inside = next.hold();
                place.follow(context, address);
                fate = next.fate();
            }
            Fate::Closed => tokio::select! {
                () = tokio::time::sleep(turn(context)) => return,
                // It is back.
                () = changed(&mut fate) => {}
            },
        }
    }
}

async fn changed(fate: &mut watch::Receiver<Fate>) {
    if fate.changed().await.is_err() {
        // Its sender is part of what is held.
        std::future::pending().await
    }
}

impl Place {
    /// Has the slot that the route's limits count by now: who is there counts, even beyond what newcomers may have.
    fn follow(&mut self, context: &Context, address: IpAddr) {
        let (shared, route) = (&context.shared, self.inside.state().rules());
        let client = one_client(address, shared.ipv6_prefix);
        let key = route.limits.connections_per_address.map(|_| (route.limits.scope.clone(), client));
        if self.slot.as_ref().map(|slot| slot.key()) != key.as_ref() {
            self.slot = key.map(|key| shared.address_slots.hold(&key, Holder::default()));
        }
    }
}

/// What has become of both directions.
enum Step {
    Goes,
    /// One side has ended, and the other may go on for a little.
    Ending(CloseReason),
    Over(CloseReason),
}

impl<C: AsyncRead + AsyncWrite + Unpin> Pair<C> {
    /// Carries on until there is a reason not to.
    async fn carry(
        &mut self,
        idle: Duration,
        mut leaving: Pin<Box<impl Future<Output = CloseReason>>>,
    ) -> CloseReason {
        let mut last = Instant::now();
        let mut first: Option<CloseReason> = None;
        let (mut ending, mut left): (Option<Instant>, _) = (None, false);
        let mut timer = pin!(sleep_until(last + idle));
        poll_fn(|cx| {
            let before = self.bytes();
            let step = self.step(cx);
            if self.bytes() > before {
                last = Instant::now();
            }
            self.count();
            // Whoever said it first has ended it.
            first = first.or_else(|| self.said());
            match step {
                Step::Goes => {}
                Step::Ending(reason) => {
                    first.get_or_insert(reason);
                    ending.get_or_insert_with(|| Instant::now() + LINGER);
                }
                Step::Over(reason) => return Poll::Ready(first.unwrap_or(reason)),
            }
            if !left && let Poll::Ready(reason) = leaving.as_mut().poll(cx) {
                if first.is_none() {
                    return Poll::Ready(reason);
                }
                // They are saying goodbye already.
                left = true;
                ending = Some(Instant::now() + CLOSE_TIMEOUT);
                cx.waker().wake_by_ref();
            }
            let end = |last: Instant| ending.map_or(last + idle, |ending| ending.min(last + idle));
            if is_over(timer.as_mut(), end(last), cx) {
                return Poll::Ready(first.unwrap_or(CloseReason::Silent));
            }
            Poll::Pending
        })
        .await
    }

    const fn bytes(&self) -> u64 {
        self.inwards.bytes + self.outwards.bytes
    }

    fn step(&mut self, cx: &mut Cx<'_>) -> Step {
        let inwards = if self.deaf {
            Poll::Ready(Ok(()))
        } else {
            self.inwards.poll(cx, &mut self.client, &mut self.server)
        };
        let outwards = self.outwards.poll(cx, &mut self.server, &mut self.client);
        if self.inwards.follows.is_too_big() {
            if inwards.is_ready() {
                return Step::Over(CloseReason::TooBig);
            }
            // The old server takes nothing more: that is waited for no longer than for a goodbye.
            if outwards.is_pending() {
                return Step::Ending(CloseReason::TooBig);
            }
        }
        match (inwards, outwards) {
            (Poll::Ready(Err(Broken::Source(_))), _) | (_, Poll::Ready(Err(Broken::Sink(_)))) => {
                Step::Over(CloseReason::Lost)
            }
            (_, Poll::Ready(Err(Broken::Source(_)))) => Step::Over(CloseReason::ServerLost),
            // What it said before is still to be told.
            (Poll::Ready(Err(Broken::Sink(_))), Poll::Pending) => {
                self.deaf = true;
                Step::Ending(CloseReason::ServerLost)
            }
            (Poll::Ready(Err(Broken::Sink(_))), Poll::Ready(Ok(()))) => Step::Over(CloseReason::ServerLost),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                Step::Over(if self.deaf { CloseReason::ServerLost } else { CloseReason::Lost })
            }
            (Poll::Ready(Ok(())), Poll::Pending) => Step::Ending(CloseReason::Lost),
            (Poll::Pending, Poll::Ready(Ok(()))) => Step::Ending(CloseReason::ServerLost),
            (Poll::Pending, Poll::Pending) => Step::Goes,
        }
    }

    /// Who has sent a close frame.
    const fn said(&self) -> Option<CloseReason> {
        if self.inwards.follows.is_closed() {
            Some(CloseReason::ByClient)
        } else if self.outwards.follows.is_closed() {
            Some(CloseReason::ByServer)
        } else {
            None
        }
    }

    /// Counts what has passed.
    fn count(&mut self) {
        let halves = [(&mut self.inwards, Way::In), (&mut self.outwards, Way::Out)];
        for ((half, way), sum) in halves.into_iter().zip(&mut self.frames) {
            let counted = half.follows.take_counted();
            if counted != super::frames::Counted::default() {
                *sum += counted.messages;
                self.traffic.passed(way, counted.messages, counted.bytes);
            }
        }
    }

    /// Puts a close frame behind the frame that is under way to the client, whose answer passes on to the old server as it
    /// is: so that both know. Where no frame may be put in, both connections just end.
    async fn say_goodbye(&mut self, close: &[u8]) {
        self.outwards.follows.stop();
        let at_end = poll_fn(|cx| {
            // What the client says meanwhile passes on; what becomes of that is seen below.
            let _ = self.forward(cx);
            self.outwards.poll(cx, &mut self.server, &mut self.client)
        });
        let at_end = timeout_at(Instant::now() + CLOSE_TIMEOUT, at_end).await;
        let frames = &self.outwards.follows;
        if !matches!(at_end, Ok(Ok(()))) || !frames.is_over() || !frames.is_between() || frames.is_closed() {
            return;
        }
        let told = async {
            self.client.write_all(close).await?;
            self.client.flush().await
        };
        if !matches!(timeout_at(Instant::now() + CLOSE_TIMEOUT, told).await, Ok(Ok(()))) {
            return;
        }
        if !self.inwards.follows.is_over() {
            let answered = poll_fn(|cx| {
                let server = discard(cx, &mut self.server);
                let ended = self.forward(cx);
                let is_told = self.inwards.follows.is_closed() && self.inwards.pending.is_empty();
                if ended.is_ready() || is_told { Poll::Ready(()) } else { server }
            });
            let _ = timeout_at(Instant::now() + CLOSE_TIMEOUT, answered).await;
        }
        let ended = async {
            let _ = self.server.shutdown().await;
            let _ = self.client.shutdown().await;
            // Unread bytes would make the kernel reset the connection, and the close frame be lost with it.
            poll_fn(|cx| discard(cx, &mut self.client)).await;
        };
        let _ = timeout_at(Instant::now() + CLOSE_TIMEOUT, ended).await;
    }

    /// What the client says, to the old server as long as it may; ready when no more comes of it.
    fn forward(&mut self, cx: &mut Cx<'_>) -> Poll<()> {
        if !self.deaf && !self.inwards.follows.is_over() {
            match self.inwards.poll(cx, &mut self.client, &mut self.server) {
                Poll::Ready(Err(Broken::Sink(_))) => self.deaf = true,
                polled => return polled.map(|_| ()),
            }
        }
        discard(cx, &mut self.client)
    }
}

/// Whether `end` has come. It may be another than it was.
fn is_over(mut timer: Pin<&mut Sleep>, end: Instant, cx: &mut Cx<'_>) -> bool {
    if end < timer.deadline() {
        timer.as_mut().reset(end);
    }
    while timer.as_mut().poll(cx).is_ready() {
        if end <= Instant::now() {
            return true;
        }
        timer.as_mut().reset(end);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::socket::Socket;

    /// Every tunnelled connection costs this all its life.
    #[test]
    fn a_pair_is_small() {
        assert!(size_of::<Frames>() <= 104, "{}", size_of::<Frames>());
        assert!(size_of::<Pair<Socket>>() <= 480, "{}", size_of::<Pair<Socket>>());
    }
}
