//! The pool's driver: one task, which carries out what the pool decides. Each link is a task of its own, on the same
//! thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinSet;

use super::metrics::Metrics;
use super::pool::rounds::{Rounds, Turn};
use super::pool::{Action, FromLink, Note, Pool};
use super::source::{Common, Source};
use super::{Command, MembersEnd};
use crate::clock::Now;
use crate::text::loggable;
use crate::upstream::delivery::Delivery;
use crate::upstream::link::machine::Command as LinkCommand;
use crate::upstream::link::{self, client_events::Fate};
use crate::upstream::links::LinkHandle;
use crate::upstream::moving::{Move, shared_by};

/// What links say that waits for the pool, in messages. When it is full links do not read, which slows Pusher.
const INBOX_MAX: usize = 4096;
/// Commands, or messages of links, handled before what they ask for is done.
const PER_TURN_MAX: usize = 256;
/// The largest frame of a user's own link is this, or `upstream.frame_bytes` if that is more: the confirmation of a presence
/// channel names all its members.
const FRAME_BYTES_LEAST: usize = 8 * 1024 * 1024;

struct Driver {
    pool: Pool,
    actions: Vec<Action>,
    links: HashMap<u64, LinkHandle>,
    tasks: JoinSet<()>,
    /// Of each link.
    shared: Arc<link::Shared>,
    common: Common,
    entrance: mpsc::Sender<(u64, FromLink)>,
    hubs: Vec<mpsc::Sender<Delivery>>,
    metrics: Arc<Metrics>,
    rolling: Option<Rolling>,
}

/// Links that are connecting by other credentials: those first that others are there for.
struct Rolling {
    _to: Box<Move>,
    rounds: Rounds,
}

/// Keeps the links of users as long as anybody has a handle of the pool.
pub async fn run(shared: &link::Shared, end: MembersEnd, metrics: Arc<Metrics>) {
    let MembersEnd { id, mut commands } = end;
    let mut settings = (*shared.settings).clone();
    let pool =
        Pool::new(id, settings.members.clone(), settings.times.linger, settings.times.subscribe_timeout);
    // The pool lingers, and says when a link is to leave a channel. Whether a server still delivers is looked at over the
    // shared links: over each user's it would cost what a user costs.
    settings.times.linger = Duration::ZERO;
    settings.times.check_interval = None;
    settings.frame_bytes_max = settings.frame_bytes_max.max(FRAME_BYTES_LEAST);
    let (entrance, mut inbox) = mpsc::channel(INBOX_MAX);
    let mut driver = Driver {
        pool,
        actions: Vec::new(),
        links: HashMap::new(),
        tasks: JoinSet::new(),
        shared: Arc::new(link::Shared {
            settings: Arc::new(settings),
            tls: shared.tls.clone(),
            api: shared.api.clone(),
            hubs: Vec::new(),
            undelivered: shared.undelivered.clone(),
            metrics: shared.metrics.clone(),
            credentials: shared.credentials.clone(),
        }),
        common: Common::default(),
        entrance,
        hubs: shared.hubs.clone(),
        metrics,
        rolling: None,
    };
    let (mut said, mut came) = (Vec::new(), Vec::new());
    loop {
        driver.carry_out().await;
        driver.metrics.show(driver.pool.counts());
        driver.roll();
        let look = driver.rolling.as_ref().map(|rolling| rolling.rounds.deadline());
        let deadline = driver.pool.deadline().into_iter().chain(look).min();
        tokio::select! {
            biased;
            taken = commands.recv_many(&mut said, PER_TURN_MAX) => {
                if taken == 0 {
                    return driver.close().await;
                }
                let now = Now::read();
                said.drain(..).for_each(|command| driver.command(command, now));
            }
            () = until(deadline) => driver.pool.timer(Now::read(), &mut driver.actions),
            // There is always one sender: its own.
            _ = inbox.recv_many(&mut came, PER_TURN_MAX) => {
                let now = Now::read();
                for (source, what) in came.drain(..) {
                    driver.note_left(source, &what);
                    driver.pool.from_link(source, what, now, &mut driver.actions);
                }
            }
            Some(ended) = driver.tasks.join_next() => {
                if ended.is_err() {
                    tracing::error!("a user's link ended by a defect");
                }
            }
        }
    }
}

async fn until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

impl Driver {
    fn command(&mut self, command: Command, now: Now) {
        let out = &mut self.actions;
        match command {
            Command::Join { channel, member, hub, join } => {
                self.pool.join(&channel, &member, (hub, join), now, out);
            }
            Command::Leave { channel, member, hub } => self.pool.leave(&channel, &member, hub, now, out),
            Command::ClientEvent { member, item } => self.pool.client_event(&member, item, out),
            Command::Begin { flight, batch } => self.pool.begin(flight, &batch, now),
            Command::Ended { flight, is_accepted } => self.pool.ended(flight, is_accepted, now, out),
            Command::Move(to) => self.is_to_move(to),
        }
    }

    fn is_to_move(&mut self, to: Box<Move>) {
        self.shared = Arc::new(shared_by(&self.shared, &to));
        self.common.connect_by(self.shared.clone());
        self.rolling = Some(Rolling { _to: to, rounds: Rounds::of(&self.pool, Now::read().mono) });
    }

    /// Has the next links connect anew, when those before them are back and certain.
    fn roll(&mut self) {
        while let Some(rolling) = &mut self.rolling
            && let Some(Turn { links, is_late }) = rolling.rounds.next(&self.pool, Now::read().mono)
        {
            if is_late {
                tracing::warn!(
                    "users' connections by the new key do not have all their channels: others go on"
                );
            }
            let Some(links) = links else {
                self.rolling = None;
                return;
            };
            for link in links.iter().filter_map(|source| self.links.get(source)) {
                link.tell(LinkCommand::Reconnect);
            }
        }
    }

    fn note_left(&mut self, source: u64, what: &FromLink) {
        if let Some(rolling) = &mut self.rolling
            && matches!(what, FromLink::Told(Delivery::Down(_)))
        {
            rolling.rounds.left(source);
        }
    }

    async fn carry_out(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Open(source) => self.open(source),
                Action::Close(source) => drop(self.links.remove(&source)),
                Action::Command(source, command) => {
                    if let Some(link) = self.links.get(&source) {
                        link.tell(command);
                    }
                }
                Action::Tell(hubs, delivery) => {
                    for hub in hubs.filter_map(|hub| self.hubs.get(hub)) {
                        // A hub that has ended has no clients any more.
                        if let Err(TrySendError::Full(delivery)) = hub.try_send(delivery.clone()) {
                            let _ = hub.send(delivery).await;
                        }
                    }
                }
                Action::NotSent(item) => item.job.settle(Fate::Expired { maybe_accepted: false }),
                Action::WantSnapshots(channel, wanted) => self.common.want_snapshot(&channel, wanted),
                Action::Note(note) => self.note(note),
            }
        }
        self.actions = actions;
    }

    fn open(&mut self, number: u64) {
        let (handle, end) = LinkHandle::open_member();
        self.links.insert(number, handle);
        let source = Source { number, pool: self.entrance.clone(), common: self.common.clone() };
        let (shared, gauge) = (self.shared.clone(), self.metrics.connected.clone());
        self.tasks.spawn(link::run_member(shared, end, gauge, source));
    }

    fn note(&self, note: Note) {
        let metrics = &self.metrics;
        match note {
            Note::Dials => metrics.dials.increment(1),
            Note::NoPlace => {
                metrics.refusals.get(super::metrics::Refusal::NoPlace).increment(1);
                tracing::warn!("a user gets no link: upstream.members_max is reached");
            }
            Note::SignInRefused(code, why) => {
                metrics.refusals.get(super::metrics::Refusal::SignIn).increment(1);
                tracing::warn!(code, why = loggable(&why), "Pusher refused to sign a user in");
            }
            Note::Terminated => {
                metrics.terminated.increment(1);
                tracing::info!("a backend had a user's connections closed");
            }
            Note::Lost(channel) => {
                self.shared.metrics.gaps.increment(1);
                let channel = loggable(&channel);
                tracing::warn!(channel, "no user's link has this channel: events may be missed");
            }
            Note::Gap(channel) => {
                self.shared.metrics.gaps.increment(1);
                let channel = loggable(&channel);
                tracing::warn!(
                    channel,
                    "users' links of this channel were lost: events may have been missed"
                );
            }
            Note::Doubtful => metrics.doubtful.increment(1),
            Note::LetGo(events) => metrics.let_go.increment(events),
            Note::Local => self.shared.metrics.local_events.increment(1),
            Note::WatchlistEventLost => {
                metrics.watchlist_lost.increment(1);
                tracing::warn!("more watchlist events came than are kept for a user's channel");
            }
        }
    }

    /// Nobody wants the pool any more: the links end.
    async fn close(mut self) {
        self.links.clear();
        let Self { mut tasks, entrance, .. } = self;
        drop(entrance);
        while tasks.join_next().await.is_some() {}
    }
}
