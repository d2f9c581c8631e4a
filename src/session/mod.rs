//! The session's driver: one task with one socket. It feeds the state machine with frames, answers, notices
//! and time, and carries out its actions. The bytes leave by the connection's outbox.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;

mod conflict;
pub mod context;
pub mod machine;
pub mod metrics;
pub mod opening;
pub mod slots;
mod tokens;

pub use self::conflict::take_address;

use self::conflict::take;
use self::context::{Context, Registered};
use self::machine::{Action, Machine, Opening};
use self::opening::Upgraded;
use self::slots::{AddressSlot, Holder, Key, Slot};
use crate::auth::{Claims, Identity, Refused};
use crate::clock::Now;
use crate::exchange::ConnId;
use crate::fanout::hub::Ticket;
use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::limits::slots::Scope;
use crate::metrics::GaugeGuard;
use crate::routes::generation::RouteState;
use crate::session::metrics::{ConnPhase, RouteMetrics};
use crate::text::loggable;
use crate::upstream::publisher::note_untold;
use crate::websocket::conn::{Attention, Conn, Notice};
use crate::websocket::outbox::{Bounds, Opcode, encode_close, encode_frame};
use crate::websocket::reader::Reader;

/// Messages of one client that are taken in a row, before the thread's other connections and its hub have a turn.
const MESSAGES_PER_TURN_MAX: u64 = 16;
/// How long a closing connection is waited for.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// As often the wait is renewed while the client still takes bytes.
const CLOSE_ROUNDS_MAX: usize = 10;
/// Time without any deadline.
const FAR: Duration = Duration::from_secs(86_400 * 365);

type Pending = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What a session waited for.
enum Done {
    Judge(String, Now),
    Verified(Result<Claims, Refused>),
    Slots(Result<Slotted, ErrorCode>),
}

/// The slots a session holds, of its user and of its exclusive key.
type Slotted = [Option<Slot<Key<Identity>>>; 2];

struct Session {
    context: Arc<Context>,
    conn: Arc<Conn>,
    route: Arc<RouteState>,
    metrics: Arc<RouteMetrics>,
    machine: Machine,
    actions: Vec<Action>,
    subscriptions: Vec<(u32, Ticket)>,
    slots: Slotted,
    address_slot: AddressSlot,
    holder: Holder,
    /// Who wants a sign of life.
    asked: Vec<Arc<Semaphore>>,
    /// What the socket had taken when last looked at, while something waited.
    taken: Option<u64>,
    address: IpAddr,
    user_agent: Box<str>,
    opened: Instant,
    pending: Option<Pending>,
    closing: Option<CloseReason>,
    /// The code of the client's close frame.
    close_code: Option<u16>,
    /// A channel that it was subscribed to when it ended, and to how many.
    left: Option<(Arc<str>, usize)>,
    phase: Option<(ConnPhase, GaugeGuard)>,
    frames_in: u64,
    bytes_in: u64,
    _registered: Registered,
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
    stream: TcpStream,
    early: &Bytes,
    granted: Upgraded,
    counted: C,
) -> impl Future<Output = ()> + Send + use<C> {
    let session = open(context, stream, granted);
    let reader = Reader::new(session.conn.clone(), early, session.route.limits.message_bytes_max);
    serve(session, reader, counted)
}

async fn serve<C>(mut session: Box<Session>, mut reader: Reader, counted: C) {
    let reason = session.serve(&mut reader).await;
    session.leave();
    end(&session.conn, &mut reader, reason).await;
    session.summarise(reason);
    drop((session, counted));
}

fn open(context: Arc<Context>, stream: TcpStream, granted: Upgraded) -> Box<Session> {
    let Upgraded { route, endpoint, values, token, refused, address, user_agent, holder, address_slot } =
        granted;
    let limits = &route.limits;
    let id = ConnId(context.shared.next_conn.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let bounds = Bounds { frames_max: limits.outbox_frames_max, bytes_max: limits.outbox_bytes_max };
    let conn = Conn::new(id, stream, bounds, &context.shared.buffers);
    let _ = holder.set(conn.clone());
    let registered = context.register(&conn);
    let metrics = context.shared.metrics.of(route.id(), &route.name);
    metrics.opened.increment(1);
    let opening = Opening {
        route: route.rules().clone(),
        endpoint,
        values,
        token,
        refused,
        subscribe_wait: context.shared.settings.subscribe_wait,
        seed: fastrand::u64(..),
    };
    let mut actions = Vec::new();
    let machine = Machine::open(opening, Now::read(), &mut actions);
    Box::new(Session {
        context,
        conn,
        route,
        metrics,
        machine,
        actions,
        subscriptions: Vec::new(),
        slots: Slotted::default(),
        address_slot,
        holder,
        asked: Vec::new(),
        taken: None,
        address,
        user_agent: user_agent.into(),
        opened: Instant::now(),
        pending: None,
        closing: None,
        close_code: None,
        left: None,
        phase: None,
        frames_in: 0,
        bytes_in: 0,
        _registered: registered,
    })
}

impl Session {
    async fn serve(&mut self, reader: &mut Reader) -> CloseReason {
        let sleep = sleep_until(Instant::now() + FAR);
        tokio::pin!(sleep);
        let mut taken = 0_u64;
        loop {
            self.carry_out();
            if let Some(reason) = self.closing {
                return reason;
            }
            match self.machine.deadline().map(Instant::from) {
                Some(deadline) if deadline != sleep.deadline() => sleep.as_mut().reset(deadline),
                // Once over, it would be over at every look.
                None if sleep.is_elapsed() => sleep.as_mut().reset(Instant::now() + FAR),
                Some(_) | None => {}
            }
            let conn = self.conn.clone();
            let reads = self.machine.wants_frames() && self.pending.is_none() && !conn.pause_if_congested();
            tokio::select! {
                biased;
                attention = std::future::poll_fn(|cx| conn.poll_attend(cx)) => self.attend(attention, reader),
                done = wait_for(&mut self.pending) => self.done(done),
                () = &mut sleep => {
                    self.look_for_progress(reader);
                    self.machine.timer(Now::read(), &mut self.actions);
                }
                message = std::future::poll_fn(|cx| reader.poll(cx)), if reads => {
                    self.message(message);
                    taken += 1;
                    if taken.is_multiple_of(MESSAGES_PER_TURN_MAX) {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    fn attend(&mut self, attention: Attention, reader: &mut Reader) {
        let (now, out) = (Now::read(), &mut self.actions);
        match attention {
            Attention::Notice(Notice::Subscribed(id)) => self.machine.subscribed(id, now, out),
            Attention::Notice(Notice::PublishFailed { code, message_type }) => {
                self.machine.publish_failed(code, &message_type, now, out);
            }
            Attention::Notice(Notice::Gap) => {
                self.machine.gap(self.context.shared.settings.close_window, now, out);
            }
            Attention::Notice(Notice::Probe { heard_within, answers, .. })
                if self.machine.heard_within(heard_within, now) =>
            {
                answers.add_permits(1);
            }
            Attention::Notice(Notice::Probe { within, answers, .. }) => {
                // What was taken, or has come, before it asked is no answer.
                self.look_for_progress(reader);
                self.machine.probe(within, now, &mut self.actions);
                self.asked.push(answers);
            }
            Attention::Notice(Notice::Replaced) => self.machine.replaced(out),
            Attention::Notice(Notice::Drain(after)) => self.machine.drain(after, now),
            Attention::Drained => {}
            Attention::Overflow => self.closing = Some(CloseReason::SlowReader),
            Attention::Overload => self.closing = Some(CloseReason::Overload),
            Attention::Broken => self.closing = Some(CloseReason::Lost),
        }
    }

    /// A client that reads slowly may have its frames unread here for long; that it takes ours shows that it
    /// lives. So does a large message that is slow to come: no pong can be sent before its end.
    fn look_for_progress(&mut self, reader: &mut Reader) {
        let taken = self.conn.taken_while_waiting();
        let sends = reader.has_progressed(Now::read());
        let reads = match (self.taken, taken) {
            (Some(before), Some(taken)) => taken > before,
            // Nothing waits any more.
            (Some(_), None) => true,
            (None, _) => false,
        };
        if sends || reads {
            self.sign_of_life();
            self.machine.heard(Now::read());
        }
        self.taken = taken;
    }

    /// Whoever asked for a sign of life gets it.
    fn sign_of_life(&mut self) {
        for asked in self.asked.drain(..) {
            asked.add_permits(1);
        }
    }

    fn done(&mut self, done: Done) {
        self.pending = None;
        match done {
            Done::Judge(token, asked) => self.judge(token, asked),
            Done::Verified(verdict) => self.verified(verdict),
            Done::Slots(Ok(slots)) => {
                self.slots = slots;
                self.machine.slots(Ok(()), Now::read(), &mut self.actions);
            }
            Done::Slots(Err(code)) => self.machine.slots(Err(code), Now::read(), &mut self.actions),
        }
    }

    fn message(&mut self, message: Result<Message, CloseReason>) {
        let now = Now::read();
        let message = match message {
            Ok(message) => message,
            Err(reason) => return self.closing = Some(reason),
        };
        self.sign_of_life();
        match &message {
            Message::Text(text) => {
                self.count_in(text.len());
                self.machine.text(text, now, &mut self.actions);
                self.echo(Opcode::Text, text.as_bytes());
            }
            Message::Binary(bytes) => {
                self.count_in(bytes.len());
                if self.route.dialect.binary_is_json {
                    self.machine.binary_text(bytes, now, &mut self.actions);
                } else {
                    self.machine.binary(now, &mut self.actions);
                }
                self.echo(Opcode::Binary, bytes);
            }
            Message::Ping(_) | Message::Pong(_) => self.machine.control(now, &mut self.actions),
            Message::Close(frame) => {
                self.close_code = frame.as_ref().map(|frame| frame.code.into());
                self.closing = Some(CloseReason::ByClient);
            }
            Message::Frame(_) => {}
        }
    }

    /// An echo needs the message at hand, so it is not left to [`Self::carry_out`].
    fn echo(&mut self, opcode: Opcode, payload: &[u8]) {
        if matches!(self.actions.last(), Some(Action::Echo)) {
            self.actions.pop();
            self.push(opcode, payload);
        }
    }

    fn push(&self, opcode: Opcode, payload: &[u8]) {
        let frame = encode_frame(opcode, payload);
        let length = frame.len();
        if self.conn.push_own(frame).is_accepted() {
            self.metrics.traffic.sent(1, length);
        }
    }

    fn count_in(&mut self, bytes: usize) {
        self.frames_in += 1;
        self.bytes_in += bytes as u64;
        self.metrics.traffic.received(bytes);
    }

    /// Carries out the machine's actions; some give it further input at once.
    fn carry_out(&mut self) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                self.act(action);
            }
        }
        let phase = if self.machine.is_live() { ConnPhase::Live } else { ConnPhase::Authenticating };
        if self.phase.as_ref().is_none_or(|(counted, _)| *counted != phase) {
            self.phase = Some((phase, self.metrics.in_phase(phase)));
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send(text) => self.push(Opcode::Text, text.as_bytes()),
            Action::Error(code, text) => {
                self.metrics.errors.get(code).increment(1);
                self.push(Opcode::Text, text.as_bytes());
            }
            Action::WsPing => self.push(Opcode::Ping, &[]),
            Action::Echo => {}
            Action::Verify(token) => self.verify(token),
            Action::Unverified(result) => self.note_auth("", result, None),
            Action::Acquire { user, exclusive } => self.acquire(user, exclusive),
            Action::Release => self.slots = Slotted::default(),
            Action::Subscribe(subscribe) => {
                let id = subscribe.id;
                let (ticket, live) = self.context.hub.attach(&self.route, subscribe, &self.conn);
                // Most connections have one for all their life.
                self.subscriptions.reserve_exact(usize::from(self.subscriptions.is_empty()));
                self.subscriptions.push((id, ticket));
                if live {
                    self.machine.subscribed(id, Now::read(), &mut self.actions);
                }
            }
            Action::Unsubscribe(id) => {
                if let Some(at) = self.subscriptions.iter().position(|(sub, _)| *sub == id) {
                    let (_, ticket) = self.subscriptions.swap_remove(at);
                    self.context.hub.detach(&ticket);
                }
            }
            Action::Publish { outgoing, channel, message_type } => {
                let (publisher, user) = (&self.context.shared.publisher, self.machine.identity());
                let taken = publisher.publish(&self.conn, user, &channel, outgoing, message_type.clone());
                if let Err(code) = taken {
                    self.machine.publish_failed(code, &message_type, Now::read(), &mut self.actions);
                }
            }
            Action::Close(reason) => self.closing = self.closing.or(Some(reason)),
        }
    }

    // -------------------------------------------------------------------------------------------- slots

    /// Takes the slots at once where they are free; else waits for holders to prove alive or go.
    fn acquire(&mut self, user: Identity, exclusive: Option<Identity>) {
        let limits = &self.route.limits;
        let user_limit = limits.connections_per_user;
        let exclusive_limit = limits.exclusive.as_ref().map(|exclusive| exclusive.slots);
        let user_key = (limits.scope.clone(), user);
        if let Some(rate) = limits.messages_per_user {
            let gate = self.context.shared.user_rates.gate(user_key.clone(), rate, Now::read().mono);
            self.machine.rate_user(gate);
        }
        // The same filled key on another route is another thing.
        let exclusive_key = exclusive.map(|key| (Scope::Route(self.route.name.clone()), key));
        let (shared, holder) = (self.context.shared.clone(), self.holder.clone());
        let (route, conn, address) = (self.route.clone(), self.conn.id().0, self.address);
        let logged_user = loggable(&user_key.1.subject);
        let taking = async move {
            let user = take(&shared.user_slots, Some(&user_key), user_limit, &holder)
                .await
                .map_err(|()| ErrorCode::TooManyConnections)?;
            let exclusive = take(&shared.exclusive_slots, exclusive_key.as_ref(), exclusive_limit, &holder)
                .await
                .map_err(|()| ErrorCode::SessionInUse)?;
            Ok([user, exclusive])
        };
        self.pending = Some(Box::pin(async move {
            let taken: Result<Slotted, ErrorCode> = taking.await;
            if let Err(code) = taken {
                tracing::info!(
                    route = &*route.name,
                    conn,
                    client.address = %address,
                    user = logged_user,
                    code = code.as_str(),
                    "no slot"
                );
            }
            Done::Slots(taken)
        }));
    }

    // ---------------------------------------------------------------------------------------------- end

    /// Gives back what others wait for.
    fn leave(&mut self) {
        for (_, ticket) in self.subscriptions.drain(..) {
            self.context.hub.detach(&ticket);
            self.left.get_or_insert((ticket.channel().clone(), 0)).1 += 1;
        }
        for notice in self.conn.leave() {
            if let Notice::PublishFailed { code, .. } = notice {
                note_untold(1, code);
            }
        }
        self.pending = None;
        self.slots = Slotted::default();
        self.address_slot = AddressSlot::Uncounted;
        self.phase = None;
    }

    fn summarise(&self, reason: CloseReason) {
        self.metrics.closes.get(reason).increment(1);
        let (frames_out, bytes_out) = self.conn.sent();
        tracing::info!(
            route = &*self.route.name,
            conn = self.conn.id().0,
            user = self.machine.user().map(loggable),
            client.address = %self.address,
            user_agent.original = &*self.user_agent,
            duration_ms = self.opened.elapsed().as_millis() as u64,
            frames_in = self.frames_in,
            bytes_in = self.bytes_in,
            frames_out,
            bytes_out,
            code = reason.code().or(self.close_code),
            reason = reason.label(),
            channel = self.left.as_ref().map(|(channel, _)| &**channel),
            channels = self.left.as_ref().map(|(_, count)| *count).filter(|count| *count > 1),
            "closed"
        );
    }
}

async fn wait_for(pending: &mut Option<Pending>) -> Done {
    match pending {
        Some(pending) => pending.await,
        None => std::future::pending().await,
    }
}

/// Says goodbye: the close frame, then the client's answer, both within bounds. tungstenite sends no close
/// frame for what it cannot read, so all of them come from here.
async fn end(conn: &Arc<Conn>, reader: &mut Reader, reason: CloseReason) {
    if let Some(code) = reason.code() {
        conn.finish(encode_close(code, reason.text()).into());
    }
    if reason != CloseReason::ByClient {
        reader.give_back();
    }
    if reason == CloseReason::Lost {
        return;
    }
    let flushed = std::future::poll_fn(|cx| Poll::Ready(conn.poll_flushed(cx).is_ready())).await;
    if reason == CloseReason::Overload && !flushed {
        // Its memory is wanted now.
        return;
    }
    tokio::select! {
        biased;
        () = std::future::poll_fn(|cx| conn.poll_evicted(cx)) => {}
        () = linger(conn, reader, reason) => {}
    }
}

/// Waits for the goodbye as long as the client goes on with it.
async fn linger(conn: &Arc<Conn>, reader: &mut Reader, reason: CloseReason) {
    for _ in 0..CLOSE_ROUNDS_MAX {
        let before = conn.taken_while_waiting();
        let over = timeout(CLOSE_TIMEOUT, goodbye(conn, reader, reason)).await.is_ok();
        if over || conn.taken_while_waiting() == before {
            return;
        }
    }
}

async fn goodbye(conn: &Arc<Conn>, reader: &mut Reader, reason: CloseReason) {
    if reason == CloseReason::ByClient {
        // Reading on lets tungstenite send its answer to the client's close.
        while std::future::poll_fn(|cx| reader.poll(cx)).await.is_ok() {}
    }
    std::future::poll_fn(|cx| conn.poll_flushed(cx)).await;
    conn.shut_write();
    if reason != CloseReason::ByClient {
        // Unread bytes would make the kernel reset the connection, and the close frame be lost with it.
        std::future::poll_fn(|cx| conn.poll_discard(cx)).await;
    }
}
