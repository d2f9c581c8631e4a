//! The session's driver: one task with one socket. It feeds the state machine with frames, answers, notices and time, and
//! carries out its actions. The bytes leave by the connection's outbox.

mod conflict;
pub mod context;
mod effects;
mod ending;
mod following;
mod inbound;
pub mod machine;
pub mod metrics;
pub mod opening;
mod progress;
pub mod slots;
mod tokens;

use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};

pub use self::conflict::acquire_address;
use self::context::Context;
use self::ending::say_goodbye;
use self::machine::{Action, Machine};
use self::metrics::{ConnPhase, RouteMetrics};
use self::opening::Upgraded;
use self::progress::Progress;
use self::slots::{AddressSlot, Holder, UserSlots};
use crate::auth::{Claims, TokenError};
use crate::clock::Now;
use crate::fanout::hub::Ticket;
use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::metrics::GaugeGuard;
use crate::net::socket::Socket;
use crate::routes::edition::Edition;
use crate::routes::generation::RouteState;
use crate::websocket::conn::Conn;
use crate::websocket::reader::Reader;

/// Messages of one client that are taken in a row, before the thread's other connections and its hub have a turn.
const MESSAGES_PER_TURN_MAX: u64 = 16;
/// As good as never.
const NO_DEADLINE: Duration = Duration::from_secs(86_400 * 365);

/// What a session waits for on behalf of its machine.
type Pending = Pin<Box<dyn Future<Output = Completion> + Send>>;

/// What came of it.
enum Completion {
    /// A throttled token, and when it came: it may be judged now.
    Judge(String, Now),
    Verified(Result<Claims, TokenError>),
    /// By the limits of this edition of the route.
    Slots(Result<UserSlots, ErrorCode>, Edition),
}

struct Session {
    context: Arc<Context>,
    conn: Arc<Conn>,
    route: Arc<RouteState>,
    metrics: Arc<RouteMetrics>,
    client: Client,
    machine: Machine,
    /// What the machine has asked for and is not carried out yet.
    actions: Vec<Action>,
    pending: Option<Pending>,
    held: Held,
    progress: Progress,
    record: Record,
    closing: Option<CloseReason>,
}

/// Who is at the other end.
struct Client {
    address: IpAddr,
    user_agent: Box<str>,
}

/// What is given back at the end.
struct Held {
    subscriptions: Vec<(u32, Ticket)>,
    slots: UserSlots,
    address_slot: AddressSlot,
    /// By which others who want the slots find this session.
    holder: Holder,
}

/// What the log and the metrics tell of a session.
struct Record {
    opened: Instant,
    phase: Option<(ConnPhase, GaugeGuard)>,
    frames_in: u64,
    bytes_in: u64,
    /// The code of the client's close frame.
    close_code: Option<u16>,
    /// A channel that it was subscribed to when it ended, and to how many.
    channels: Option<(Arc<str>, usize)>,
}

/// Also when the session ends by a panic, nobody waits for what it held.
impl Drop for Session {
    fn drop(&mut self) {
        self.leave();
    }
}

/// An upgraded connection's session, from its first frame to its end; `counted` is dropped with it. What is needed
/// only to set it up is not part of the future: it lives as long as the connection does.
pub fn run<C: Send + 'static>(
    context: Arc<Context>,
    stream: Socket,
    early: &Bytes,
    granted: Upgraded,
    counted: C,
) -> impl Future<Output = ()> + Send + use<C> {
    let session = Session::open(context, stream, granted);
    let reader = Reader::new(session.conn.clone(), early, session.route.limits.message_bytes_max);
    // In one box: tokio's tasks come in steps of 128 bytes.
    run_to_end(Box::new((session, counted)), reader)
}

async fn run_to_end<C>(mut counted: Box<(Session, C)>, mut reader: Reader) {
    let (session, _) = &mut *counted;
    let reason = session.serve(&mut reader).await;
    session.leave();
    say_goodbye(&session.conn, &mut reader, reason).await;
    session.summarise(reason);
}

impl Session {
    async fn serve(&mut self, reader: &mut Reader) -> CloseReason {
        let mut sleep = pin!(sleep_until(Instant::now() + NO_DEADLINE));
        let mut messages = 0_u64;
        loop {
            self.carry_out();
            if let Some(reason) = self.closing {
                return reason;
            }
            self.set_alarm(sleep.as_mut());
            let conn = self.conn.clone();
            let reads = self.machine.wants_frames() && self.pending.is_none() && !conn.pause_if_congested();
            tokio::select! {
                biased;
                event = std::future::poll_fn(|cx| conn.poll_event(cx)) => self.event(event, reader),
                completion = wait_for(&mut self.pending) => self.complete(completion),
                () = &mut sleep => self.time_passed(reader),
                message = std::future::poll_fn(|cx| reader.poll(cx)), if reads => {
                    self.message(message);
                    messages += 1;
                    if messages.is_multiple_of(MESSAGES_PER_TURN_MAX) {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    fn set_alarm(&self, sleep: Pin<&mut Sleep>) {
        match self.machine.deadline().map(Instant::from) {
            Some(deadline) if deadline != sleep.deadline() => sleep.reset(deadline),
            // Once over, it would be over at every look.
            None if sleep.is_elapsed() => sleep.reset(Instant::now() + NO_DEADLINE),
            Some(_) | None => {}
        }
    }
}

async fn wait_for(pending: &mut Option<Pending>) -> Completion {
    match pending {
        Some(pending) => pending.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every connection costs this all its life.
    #[test]
    fn a_session_is_small() {
        assert!(size_of::<Machine>() <= 320, "{}", size_of::<Machine>());
        assert!(size_of::<Session>() <= 848, "{}", size_of::<Session>());
    }
}
