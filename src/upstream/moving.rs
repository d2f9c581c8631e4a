//! A shared link's connection is replaced by one of other credentials: a second link takes all its channels, and gives its
//! connection away when it is certain of them.

mod waiting;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use self::waiting::Waiting;
use super::link::handover::{Handover, NEW, OLD, Outs};
use super::link::machine::{Action, Command, Frame, Note};
use super::link::{Line, Link, Shared, now, run_spare};
use crate::clock::Now;
use crate::upstream::api::Pair;
use crate::upstream::delivery::{Delivery, Event, Sent};
use crate::upstream::flights::SharedFlights;
use crate::upstream::hubs::Hubs;
use crate::upstream::links::LinkHandle;
use crate::upstream::settings::App;
use crate::upstream::standby;

/// Deliveries of the second connection waiting for the link; it waits when they are so many.
const INBOX_MAX: usize = 1024;
/// So many of them are handled before others have their turn.
const TURN_MAX: usize = 256;
/// So long clients' events that wait for Pusher's answer are waited for before a connection is left.
const LEAVE_MAX: Duration = Duration::from_secs(10);
/// The second link's only hub.
const THE_LINK: usize = 0;

/// By which credentials a link is to be connected from now on.
#[derive(Clone)]
pub struct Move {
    pub app: App,
    pub tls: Arc<rustls::ClientConfig>,
    /// Dropped when that is done, or is not to be done any more.
    pub done: mpsc::Sender<()>,
}

impl fmt::Debug for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Move").field("key", &self.app.key).finish_non_exhaustive()
    }
}

/// What a shared link is told to do.
pub enum Order {
    Move(Box<Move>),
    /// Leave the connection, as another carries the same, and connect by these. It is said when that one is left.
    Reconnect(Box<Move>, oneshot::Sender<()>),
    /// Give the connection away, if there is one, and end.
    Yield(oneshot::Sender<Box<Line>>),
}

/// A connection that is to be left.
pub struct Leaving {
    /// Done, once the connection has been left.
    to: Option<Box<Move>>,
    left: oneshot::Sender<()>,
    since: Instant,
}

/// A connection that is being replaced.
pub struct Moving {
    handover: Handover,
    /// Of the second link; `None`: its connection has been taken, or is not waited for any more.
    spare: Option<Spare>,
    to: Box<Move>,
    /// Said while it is decided who is read from, and done behind that.
    waiting: Waiting,
}

struct Spare {
    handle: LinkHandle,
    inbox: mpsc::Receiver<Delivery>,
    /// They show whether it is connected.
    flights: SharedFlights,
    yields: Option<oneshot::Receiver<Box<Line>>>,
    /// Ends with this.
    _task: JoinSet<()>,
}

/// Something of the second link.
pub(super) enum Stirred {
    Came(Vec<Delivery>),
    /// Its connection; `None`: it has none just now.
    Yielded(Option<Box<Line>>),
}

impl Spare {
    fn is_down(&self) -> bool {
        !self.flights.lock().is_connected()
    }
}

/// Waits for something of the second link, if there is one.
pub(super) async fn stirred(moving: &mut Option<Box<Moving>>) -> Stirred {
    let Some(Spare { inbox, yields, .. }) = moving.as_mut().and_then(|moving| moving.spare.as_mut()) else {
        return std::future::pending().await;
    };
    let mut came = Vec::new();
    let yielded = async {
        match yields {
            Some(yields) => yields.await.ok(),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        taken = inbox.recv_many(&mut came, TURN_MAX) => match taken {
            // It has ended: what it gave away is there.
            0 => Stirred::Yielded(match yields {
                Some(yields) => yields.try_recv().ok(),
                None => None,
            }),
            _ => Stirred::Came(came),
        },
        line = yielded => Stirred::Yielded(line),
    }
}

/// Waits for what a shared link is told to do.
pub(super) async fn order(orders: &mut Option<mpsc::UnboundedReceiver<Order>>) -> Option<Order> {
    match orders {
        Some(receiver) => {
            let order = receiver.recv().await;
            if order.is_none() {
                *orders = None;
            }
            order
        }
        None => std::future::pending().await,
    }
}

/// As another app's credentials have it: what one of two needs, whose only hub is this link.
pub(crate) fn shared_by(shared: &Shared, to: &Move) -> Shared {
    let mut settings = (*shared.settings).clone();
    settings.app = to.app.clone();
    Shared {
        settings: Arc::new(settings),
        tls: to.tls.clone(),
        api: shared.api.clone(),
        hubs: shared.hubs.clone(),
        undelivered: shared.undelivered.clone(),
        metrics: shared.metrics.clone(),
        credentials: shared.credentials.clone(),
    }
}

impl Link {
    /// Connects by other credentials as soon as nothing stands against it.
    pub(super) fn is_to_move(&mut self, to: Box<Move>) {
        match &self.moving {
            Some(moving) if moving.spare.as_ref().is_some_and(Spare::is_down) && !self.is_yielding() => {
                self.gives_up(to);
            }
            // It is replaced when that is over: what one of two has brought the other may still bring.
            Some(_) => self.next = Some(to),
            None => self.begin_to_move(to),
        }
    }

    /// Connects by other credentials, over a new connection: another link carries the same meanwhile.
    pub(super) fn is_to_reconnect(&mut self, to: Box<Move>, left: oneshot::Sender<()>) {
        self.leaving = Some(Box::new(Leaving { to: Some(to), left, since: now() }));
    }

    /// Leaves the connection when nothing waits for an answer over it, and tells of it when that has been done.
    pub(super) fn go_on_leaving(&mut self) {
        let Some(mut leaving) = self.leaving.take() else { return };
        let at = Now::read();
        match leaving.to.take() {
            None => drop(leaving.left.send(())),
            Some(to) if !self.machine.is_connected() || self.is_connected_by(&to) => {
                self.connect_by(&to);
                self.leaving = Some(leaving);
            }
            Some(to) if self.machine.may_move(at.mono) || at.mono >= leaving.since + LEAVE_MAX => {
                self.shared = Arc::new(shared_by(&self.shared, &to));
                self.machine.command(Command::Reconnect, at, &mut self.actions);
                self.leaving = Some(leaving);
            }
            to => self.leaving = Some(Box::new(Leaving { to, ..*leaving })),
        }
    }

    fn is_connected_by(&self, to: &Move) -> bool {
        Pair::of(&self.shared.settings.app).is_of(&to.app)
    }

    fn connect_by(&mut self, to: &Move) {
        self.shared = Arc::new(shared_by(&self.shared, to));
        if self.line.dialling.is_some() {
            self.actions.push(Action::Dial);
        }
    }

    fn begin_to_move(&mut self, to: Box<Move>) {
        self.machine_flights(None);
        if self.is_connected_by(&to) {
            return;
        }
        if !self.machine.is_connected() {
            return self.connect_by(&to);
        }
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        let mut shared = shared_by(&self.shared, &to);
        shared.hubs = vec![sender];
        let mut settings = (*shared.settings).clone();
        settings.standby = true;
        settings.times.linger = Duration::ZERO;
        shared.settings = Arc::new(settings);
        let flights = SharedFlights::default();
        let (handle, end) = LinkHandle::of(self.id, flights.clone());
        let mut task = JoinSet::new();
        task.spawn(run_spare(Arc::new(shared), end));
        let under_way = self.machine.flights().lock().numbers();
        let channels: Vec<_> = self.machine.table().subscribed().cloned().collect();
        let confirm = self.shared.settings.times.subscribe_timeout;
        let handover = Handover::begin(channels, under_way, confirm, now());
        self.machine_flights(Some(OLD));
        let spare = Spare { handle, inbox, flights, yields: None, _task: task };
        tracing::info!(link = self.id.0, "a second connection is made, by the new key");
        let waiting = Waiting::default();
        self.moving = Some(Box::new(Moving { handover, spare: Some(spare), to, waiting }));
    }

    fn machine_flights(&self, side: Option<usize>) {
        self.machine.flights().lock().replacing(side);
    }

    /// The connection that there was is lost: the next one is by the new credentials in any case.
    pub(super) fn give_up_moving(&mut self) {
        let Some(mut moving) = self.moving.take() else { return };
        self.machine_flights(None);
        let waiting = moving.waiting.take();
        if moving.spare.is_some() {
            self.shared = Arc::new(shared_by(&self.shared, &moving.to));
        }
        if let Some(next) = self.next.take() {
            self.shared = Arc::new(shared_by(&self.shared, &next));
        }
        self.do_what_waits(waiting);
    }

    /// Whether the second link has been told to give its connection away.
    pub(super) fn is_yielding(&self) -> bool {
        let spare = self.moving.as_ref().and_then(|moving| moving.spare.as_ref());
        spare.is_some_and(|spare| spare.yields.is_some())
    }

    /// Whether clients' events wait, which leave over a connection or are given up.
    pub(super) fn has_client_events(&self) -> bool {
        let waits = self.moving.as_ref().is_some_and(|moving| moving.waiting.has_client_events());
        waits || self.machine.has_client_events()
    }

    pub(super) fn deadline(&self) -> Instant {
        let deadline = self.machine.deadline();
        let leaving = self.leaving.as_ref().map(|leaving| match leaving.to {
            Some(_) => leaving.since + LEAVE_MAX,
            None => now(),
        });
        let deadline = leaving.into_iter().fold(deadline, Instant::min);
        match &self.moving {
            Some(moving) => moving.handover.deadline(now()).min(deadline),
            None => deadline,
        }
    }

    pub(super) fn timer(&mut self) {
        self.machine.timer(Now::read(), &mut self.actions);
        let mut outs = Outs::new();
        if let Some(moving) = &mut self.moving {
            moving.handover.timer(now(), &mut outs);
        }
        self.push(outs);
    }

    /// What was brought once is handed on, in order.
    fn push(&mut self, outs: Outs) {
        self.count_doubtful(&outs);
        self.actions.extend(outs.into_iter().map(|out| Action::Deliver(out.event)));
    }

    fn count_doubtful(&self, outs: &Outs) {
        let doubtful = outs.iter().filter(|out| out.doubtful).count();
        self.shared.metrics.standby.get(standby::Result::Doubtful).increment(doubtful as u64);
    }

    /// Goes on with what can be done by now.
    pub(super) fn go_on_moving(&mut self) {
        let Some(moving) = &mut self.moving else { return };
        let at = now();
        match &mut moving.spare {
            Some(spare) if spare.yields.is_some() => {}
            Some(spare) => {
                for channel in moving.handover.subscribe(at) {
                    spare.handle.subscribe(&channel, THE_LINK);
                }
                let is_down = spare.is_down();
                if is_down && let Some(to) = self.next.take() {
                    self.gives_up(to);
                } else if moving.handover.may_move() && !is_down && self.machine.may_move(at) {
                    let (taker, line) = oneshot::channel();
                    spare.handle.order(Order::Yield(taker));
                    spare.yields = Some(line);
                } else if !moving.waiting.is_empty() && !moving.handover.have_others_wait(at) {
                    let waiting = moving.waiting.take();
                    self.do_what_waits(waiting);
                }
            }
            None if moving.handover.is_over(at) => {
                self.moving = None;
                self.machine_flights(None);
                if let Some(next) = self.next.take() {
                    self.begin_to_move(next);
                }
            }
            None => {}
        }
    }

    fn do_what_waits(&mut self, waiting: Vec<Command>) {
        let at = Now::read();
        waiting.into_iter().for_each(|command| self.command(command, at));
    }

    /// Gives the connection to whoever takes this link's place. `false`: there is none.
    pub(super) fn yield_to(&mut self, taker: oneshot::Sender<Box<Line>>) -> bool {
        let is_connected = self.machine.is_connected() && self.line.connection.is_some();
        is_connected && taker.send(Box::new(std::mem::take(&mut self.line))).is_ok()
    }

    pub(super) fn stirred(&mut self, stirred: Stirred) {
        match stirred {
            Stirred::Came(deliveries) => deliveries.into_iter().for_each(|delivery| self.came(delivery)),
            Stirred::Yielded(line) => {
                let Some(moving) = &mut self.moving else { return };
                let Some(spare) = &mut moving.spare else { return };
                spare.yields = None;
                let mut left = Vec::new();
                while let Ok(delivery) = spare.inbox.try_recv() {
                    left.push(delivery);
                }
                left.into_iter().for_each(|delivery| self.came(delivery));
                let is_certain = self.moving.as_ref().is_some_and(|moving| moving.handover.may_move());
                match line {
                    Some(line) if is_certain => self.moves(line),
                    // By what came last it may have missed something.
                    line => self.does_not_move(line.is_some()),
                }
                let waiting = self.moving.as_mut().map(|moving| moving.waiting.take());
                self.do_what_waits(waiting.unwrap_or_default());
            }
        }
    }

    /// The second link has nothing to give away just now, or has `ended`.
    fn does_not_move(&mut self, ended: bool) {
        let Some(moving) = &mut self.moving else { return };
        moving.handover.does_not_move();
        let has_ended = ended || moving.spare.as_ref().is_some_and(|spare| spare.inbox.is_closed());
        let again = has_ended.then(|| moving.to.clone());
        if let Some(to) = self.next.take().or(again) {
            self.gives_up(to);
        }
    }

    /// The second link is not waited for any more. Another is made, by these credentials, when nothing can come any more that
    /// this one has brought.
    fn gives_up(&mut self, to: Box<Move>) {
        self.next = Some(to);
        let Some(moving) = &mut self.moving else { return };
        let mut outs = Outs::new();
        moving.spare = None;
        moving.handover.gives_up(now(), &mut outs);
        // Its sender is dropped: that is not done any more.
        (moving.to.done, _) = mpsc::channel(1);
        let waiting = moving.waiting.take();
        self.push(outs);
        self.do_what_waits(waiting);
    }

    /// From now on this link's connection is the other's.
    fn moves(&mut self, line: Box<Line>) {
        let Some(moving) = &mut self.moving else { return };
        let at = now();
        let mut outs = Outs::new();
        moving.handover.moves(at, &mut outs);
        moving.spare = None;
        self.shared = Arc::new(shared_by(&self.shared, &moving.to));
        // Its sender is dropped: that is done.
        let (done, _) = mpsc::channel(1);
        moving.to.done = done;
        let before = std::mem::replace(&mut self.line, *line);
        self.machine_flights(Some(NEW));
        let (id, timeout) = (self.line.socket_id.clone(), self.line.activity_timeout);
        self.machine.moved(&id, timeout, at, &mut self.actions);
        self.push(outs);
        tracing::info!(link = self.id.0, socket_id = id, "the connection was replaced by one of the new key");
        if let Some(connection) = before.connection {
            tokio::spawn(connection.close());
        }
    }

    // ------------------------------------------------------------------------------------- what both bring

    /// The second link says something.
    fn came(&mut self, delivery: Delivery) {
        let Some(moving) = &mut self.moving else { return };
        let (at, mut outs) = (now(), Outs::new());
        match delivery {
            Delivery::Event(event) => moving.handover.event(NEW, event, at, &mut outs),
            Delivery::Live { channel, gap, .. } => moving.handover.new_has(&channel, gap, at, &mut outs),
            Delivery::Down(_) => moving.handover.new_is_down(at, &mut outs),
            // It goes on asking; the first one tells of events that it cannot decrypt either.
            Delivery::Refused { .. }
            | Delivery::Undecryptable { .. }
            | Delivery::Joined { .. }
            | Delivery::Terminated { .. } => {}
        }
        self.push(outs);
    }

    /// A hub or the publisher says something.
    pub(super) fn command(&mut self, command: Command, at: Now) {
        let Some(moving) = &mut self.moving else {
            return self.machine.command(command, at, &mut self.actions);
        };
        let yields = moving.spare.as_ref().is_some_and(|spare| spare.yields.is_some());
        let (handover, waiting) = (&moving.handover, &moving.waiting);
        let waits = match &command {
            Command::Subscribe(channel, _) => {
                let is_other = || !handover.has(channel) && self.machine.table().hubs(channel).is_empty();
                yields || waiting.has(channel) || (handover.have_others_wait(now()) && is_other())
            }
            // Behind its subscription.
            Command::Unsubscribe(channel, _) => yields || waiting.has(channel),
            Command::ClientEvent(item) => yields || waiting.has(&item.channel),
            _ => false,
        };
        if waits {
            moving.waiting.push(command);
            return;
        }
        match command {
            Command::Begun { flight, excluded, batch, .. } => moving.handover.begun(flight, batch, excluded),
            Command::Ended { flight, accepted } => {
                let before = self.actions.len();
                self.machine.command(Command::Ended { flight, accepted }, at, &mut self.actions);
                let mut own = Vec::new();
                let added = self.actions.split_off(before);
                for action in added {
                    match action {
                        Action::Tell(_, Delivery::Event(event)) if event.origin.is_some() => own.push(event),
                        action => self.actions.push(action),
                    }
                }
                let mut outs = Outs::new();
                moving.handover.ended(flight, &own, at.mono, &mut outs);
                self.push(outs);
            }
            Command::Unsubscribe(channel, hub) => {
                let leaves = channel.clone();
                self.machine.command(Command::Unsubscribe(channel, hub), at, &mut self.actions);
                if self.machine.table().hubs(&leaves).is_empty() {
                    self.leave(&leaves);
                }
            }
            command => self.machine.command(command, at, &mut self.actions),
        }
    }

    fn leave(&mut self, channel: &Arc<str>) {
        let Some(moving) = &mut self.moving else { return };
        moving.handover.left(channel);
        if let Some(spare) = &moving.spare {
            spare.handle.unsubscribe(channel, THE_LINK);
        }
    }

    pub(super) fn note_sent(&mut self, frame: &Frame) {
        let Some(moving) = &mut self.moving else { return };
        match frame {
            Frame::ClientEvent(sent) => moving.handover.sending(moving.handover.side(), sent),
            Frame::Unsubscribe(channel) => {
                let channel = channel.clone();
                self.leave(&channel);
            }
            _ => {}
        }
    }

    pub(super) async fn note_settled(&mut self, sent: &Arc<Sent>) {
        let mut outs = Outs::new();
        if let Some(moving) = &mut self.moving {
            moving.handover.settled(sent, now(), &mut outs);
        }
        self.hand_on(outs).await;
    }

    /// Tells the hubs, unless it is a copy of what they were told.
    pub(super) async fn tell_once(&mut self, hubs: Hubs, delivery: Delivery) {
        let Some(moving) = &mut self.moving else { return self.tell(hubs, delivery).await };
        let (at, mut outs) = (now(), Outs::new());
        match delivery {
            Delivery::Event(event) if event.origin.is_some() => {
                moving.handover.own(&event, at, &mut outs);
            }
            Delivery::Event(event) => {
                let side = moving.handover.side();
                moving.handover.event(side, event, at, &mut outs);
            }
            Delivery::Live { ref channel, gap, .. } => {
                let is_new = !moving.handover.has(channel);
                if is_new || gap {
                    moving.handover.old_has(channel, at, &mut outs);
                }
                if is_new
                    && moving.handover.is_subscribing()
                    && let Some(spare) = &moving.spare
                {
                    spare.handle.subscribe(channel, THE_LINK);
                }
                self.tell(hubs, delivery).await;
            }
            delivery => self.tell(hubs, delivery).await,
        }
        self.hand_on(outs).await;
    }

    /// What was brought once goes to the hubs before anything else does.
    async fn hand_on(&mut self, outs: Outs) {
        self.count_doubtful(&outs);
        for out in outs {
            self.deliver(out.event).await;
        }
    }

    /// Hands an event to the hubs that want its channel.
    pub(super) async fn deliver(&mut self, event: Arc<Event>) {
        let hubs = self.machine.table().hubs(&event.channel);
        self.machine.note_last(&event);
        if hubs.is_empty() {
            let (channel, event) = (event.channel.to_string(), event.name.to_string());
            return self.note(Note::Unwanted { channel, event });
        }
        event.expect_hubs(hubs.len());
        self.tell(hubs, Delivery::Event(event)).await;
    }
}
