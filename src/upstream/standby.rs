//! A link with a standby: two links subscribe to the same channels, whichever brings an event first wins, and when one
//! is lost nothing is missed. A task between them and the hubs carries out what the junction decides.

pub mod junction;
mod rolling;

use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::junction::{Act, HUB, Junction, SIDES};
use self::rolling::Rolling;
use super::delivery::Delivery;
use super::hubs::Hubs;
use super::link::client_events::{Fate, Receipt, Tries};
use super::link::machine::Command;
use super::link::{self, Status};
use super::links::{LinkEnd, LinkHandle};
use super::metrics::EventResult;
use super::moving::{Order, order};
use super::settings::Settings;
use super::undelivered::Reason;
use crate::clock::Now;
use crate::metrics::GaugeGuard;
use crate::metrics::label::labels;

/// Deliveries of one side waiting for the junction; that side's link waits when they are so many.
const INBOX_MAX: usize = 1024;
/// Commands, or deliveries, handled before others have their turn.
const TURN_MAX: usize = 256;

labels! {
    /// What became of an event that one of two links brought.
    pub enum Result: "result" {
        /// The first link brought it first.
        First = "first",
        /// The second link did.
        Second = "second",
        /// The other link had brought it.
        Copy = "copy",
        /// It may be a copy: held until that is certain.
        Held = "held",
        /// It is delivered, and may be a copy.
        Doubtful = "doubtful",
        /// It was held, and is not any more: there was no room. If it is new, the other link brings it.
        LetGo = "let_go",
    }
}

/// One of two links.
struct Side {
    handle: LinkHandle,
    inbox: mpsc::Receiver<Delivery>,
    connected: watch::Receiver<bool>,
}

/// Keeps two links as long as anybody has a handle of the one that they are to the hubs. `connected` tells whether either
/// is; `statuses` are those of the two, and `second` the flights of the second.
pub async fn run(
    shared: Arc<link::Shared>,
    end: LinkEnd,
    statuses: [Status; SIDES],
    connected: watch::Sender<bool>,
) {
    let LinkEnd { id, mut commands, flights, second, mut orders } = end;
    let flights = [flights, second.unwrap_or_default()];
    let mut links = JoinSet::new();
    let mut sides = statuses.into_iter().zip(flights).map(|(status, flights)| {
        let (sender, inbox) = mpsc::channel(INBOX_MAX);
        let (handle, end) = LinkHandle::of(id, flights);
        let connected = status.connected.subscribe();
        links.spawn(link::run(Arc::new(of_a_side(&shared, sender)), end, status));
        Side { handle, inbox, connected }
    });
    let (Some(mut first), Some(mut second)) = (sides.next(), sides.next()) else { return };
    drop(sides);
    let times = shared.settings.times;
    let mut junction = Junction::new(id, times.subscribe_timeout, times.linger);
    let (settled, mut settlements) = mpsc::unbounded_channel();
    let (mut batch, mut acts) = (Vec::new(), Vec::new());
    let (mut of_first, mut of_second) = (Vec::new(), Vec::new());
    let mut rolling: Option<Rolling> = None;
    let (mut doubtful, mut shown) = (0, GaugeGuard::new(&shared.metrics.doubtful_channels, 0.0));
    loop {
        let doubtful_now = junction.doubtful();
        if doubtful != doubtful_now {
            doubtful = doubtful_now;
            shown = GaugeGuard::new(&shared.metrics.doubtful_channels, doubtful as f64);
        }
        let is_connected = [*first.connected.borrow_and_update(), *second.connected.borrow_and_update()];
        connected.send_if_modified(|connected| {
            let before = std::mem::replace(connected, is_connected != [false; SIDES]);
            before != *connected
        });
        if let Some(going_on) = &mut rolling
            && going_on.go_on([&first.handle, &second.handle], is_connected, &mut junction, &mut acts)
        {
            rolling = None;
        }
        for act in acts.drain(..) {
            carry_out(act, &shared, [&first, &second]).await;
        }
        let look = rolling.as_ref().and_then(Rolling::deadline);
        let deadline = junction.deadline().into_iter().chain(look).min();
        tokio::select! {
            biased;
            // Before what the links bring: the copy of a message comes after word of it.
            taken = commands.recv_many(&mut batch, TURN_MAX) => {
                if taken == 0 {
                    break;
                }
                let now = Now::read();
                for command in batch.drain(..) {
                    match command {
                        Command::ClientEvent(mut item) => {
                            let side = usize::from(!is_connected[HUB] && is_connected[1]);
                            let flight = junction.client_event(side, &item);
                            let settled = settled.clone();
                            item.job = item.job.watched(|inner| Box::new(Watched { inner, flight, settled }));
                            acts.push(Act::Link(side, Command::ClientEvent(item)));
                        }
                        command => junction.command(command, now, &mut acts),
                    }
                }
            }
            _ = first.inbox.recv_many(&mut of_first, TURN_MAX) => {
                for delivery in of_first.drain(..) {
                    junction.delivery(HUB, delivery, is_connected[1], Now::read().mono, &mut acts);
                }
            }
            _ = second.inbox.recv_many(&mut of_second, TURN_MAX) => {
                for delivery in of_second.drain(..) {
                    junction.delivery(1, delivery, is_connected[HUB], Now::read().mono, &mut acts);
                }
            }
            // Behind its delivery.
            Some(flight) = settlements.recv() => junction.client_event_ended(flight, Now::read(), &mut acts),
            // Behind what a connection brought before it was left.
            () = rolling::left(&mut rolling) => {}
            Some(order) = order(&mut orders) => {
                if let Order::Move(to) = order {
                    rolling = Some(Rolling::new(to, rolling.take()));
                }
            }
            Ok(()) = first.connected.changed() => {}
            Ok(()) = second.connected.changed() => {}
            () = until(deadline) => junction.timer(Now::read().mono, &mut acts),
        }
    }
    drop(shown);
    // Nobody takes what they bring any more.
    drop((first, second));
    while links.join_next().await.is_some() {}
}

async fn until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// What one of the two needs: its only hub is the junction, which keeps channels that nobody wants.
fn of_a_side(shared: &link::Shared, hub: mpsc::Sender<Delivery>) -> link::Shared {
    let mut settings: Settings = (*shared.settings).clone();
    settings.standby = true;
    settings.times.linger = std::time::Duration::ZERO;
    link::Shared {
        settings: Arc::new(settings),
        tls: shared.tls.clone(),
        api: shared.api.clone(),
        hubs: vec![hub],
        undelivered: shared.undelivered.clone(),
        credentials: shared.credentials.clone(),
        metrics: shared.metrics.clone(),
    }
}

async fn carry_out(act: Act, shared: &link::Shared, sides: [&Side; SIDES]) {
    match act {
        Act::Tell(hubs, delivery) => tell(hubs, delivery, shared).await,
        Act::Link(side, command) => {
            if let Some(side) = sides.get(side) {
                side.handle.tell(command);
            }
        }
        Act::Count(result) => shared.metrics.standby.get(result).increment(1),
        Act::Missing(channels) => {
            shared.metrics.gaps.increment(channels as u64);
            tracing::warn!(channels, "events may have been missed: neither connection had them for certain");
        }
        Act::Unwanted(event) => {
            shared.metrics.event(EventResult::Undelivered(Reason::NoSubscriber));
            shared.undelivered.note_unwanted(&event.channel, &event.name, Now::read());
        }
        Act::Local => shared.metrics.local_events.increment(1),
    }
}

async fn tell(hubs: Hubs, delivery: Delivery, shared: &link::Shared) {
    for hub in hubs.filter_map(|hub| shared.hubs.get(hub)) {
        // A hub that has ended has no clients any more.
        if let Err(TrySendError::Full(delivery)) = hub.try_send(delivery.clone()) {
            let _ = hub.send(delivery).await;
        }
    }
}

/// Tells the junction that a client event is settled, beside its sender.
#[derive(Debug)]
struct Watched {
    inner: Box<dyn Receipt>,
    flight: u64,
    settled: mpsc::UnboundedSender<u64>,
}

impl Receipt for Watched {
    fn settle(self: Box<Self>, fate: Fate, tries: Tries) {
        self.inner.settle(fate, tries);
        let _ = self.settled.send(self.flight);
    }
}
