//! A lane's driver: makes the requests whose turn the lane says it is, and tells senders what was not carried.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{self, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::delivery::Sent;
use super::settings;
use crate::legacy::error::ErrorCode;
use crate::metrics::GaugeGuard;
use crate::upstream::api::{Api, Outcome};
use crate::upstream::backend::Backend;
use crate::upstream::backoff::ceiling;
use crate::upstream::lane::{Ended, Item, Lane, Most};
use crate::upstream::links::Links;
use crate::upstream::metrics::{PublishMetrics, PublishResult, ReplyResult, RetryCause};
use crate::upstream::publisher::note_untold;
use crate::websocket::conn::{Conn, Notice};

/// First ceiling of the delay between two attempts; it doubles.
const RETRY_DELAY_FIRST: Duration = Duration::from_millis(100);
/// Largest such ceiling.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);
/// Bytes of data in one request; the last message may exceed it.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Requests of a lane at once that try again, beside the one that tries first: a server that answers some of them
/// late, or never, must not keep the others waiting.
const AGAIN_MAX: usize = 4;
/// Messages taken in before requests are looked after.
const INTAKE_MAX: usize = 256;

/// What all lanes need.
pub(super) struct Shared {
    pub(super) api: Arc<Api>,
    pub(super) settings: settings::Publish,
    pub(super) links: Links,
    pub(super) metrics: Arc<PublishMetrics>,
}

/// What a lane holds: all its messages' bytes, and how many wait.
#[derive(Debug, Default)]
pub(super) struct Room {
    bytes: AtomicUsize,
    waiting: AtomicUsize,
}

impl Room {
    /// Whether all its messages are settled: each has bytes, as long as it is there.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) == 0
    }

    /// Counts a message's bytes, as long as it is there.
    pub(super) fn held(self: &Arc<Self>, bytes: usize) -> Held {
        let bytes_then = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        Held { room: self.clone(), bytes, bytes_then }
    }

    /// Counts a message, as long as it waits.
    pub(super) fn place(self: &Arc<Self>) -> Place {
        let count_then = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
        Place { room: self.clone(), count_then }
    }
}

#[derive(Debug)]
pub(super) struct Held {
    room: Arc<Room>,
    bytes: usize,
    /// All that were held, with these.
    pub(super) bytes_then: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A message's place among those that wait.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    /// All that waited, with this one.
    pub(super) count_then: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client message in its lane.
pub(super) struct Job {
    work: Work,
    /// Not owned: a message that waits must not keep its sender's socket open.
    conn: Weak<Conn>,
    message_type: String,
    /// An attempt ended without an answer.
    maybe_accepted: bool,
    held: Held,
    /// `None` while a request has it.
    place: Option<Place>,
    unsettled: Arc<AtomicUsize>,
    _queued: [GaugeGuard; 2],
}

pub(super) enum Work {
    Trigger(Arc<Sent>),
    Post(Backend),
}

impl Job {
    pub(super) fn new(
        work: Work,
        conn: &Arc<Conn>,
        message_type: String,
        (held, place): (Held, Place),
        unsettled: &Arc<AtomicUsize>,
        metrics: &PublishMetrics,
    ) -> Self {
        unsettled.fetch_add(1, Ordering::Relaxed);
        Self {
            work,
            conn: Arc::downgrade(conn),
            message_type,
            maybe_accepted: false,
            _queued: metrics.queued(held.bytes),
            held,
            place: Some(place),
            unsettled: unsettled.clone(),
        }
    }

    /// Tells its sender that it was not carried. `false`: it is gone.
    pub(super) fn tell(mut self, code: ErrorCode) -> bool {
        let message_type = std::mem::take(&mut self.message_type);
        let notice = Notice::PublishFailed { code, message_type };
        self.conn.upgrade().is_some_and(|conn| conn.notify(notice))
    }

    fn sent(&self) -> Option<&Arc<Sent>> {
        match &self.work {
            Work::Trigger(sent) => Some(sent),
            Work::Post(_) => None,
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.unsettled.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    First,
    Again,
}

/// What a request leaves.
#[derive(Default)]
struct Left {
    /// To be tried again, in their order, each after this time at least.
    back: Vec<(Item<Job>, Duration)>,
    /// Nobody answered.
    unanswered: bool,
}

/// One lane's worker.
pub(super) struct Runner {
    /// One message a request, and none of them comes back.
    to_backend: bool,
    shared: Arc<Shared>,
    lane: Lane<Job>,
    requests: JoinSet<Left>,
    under_way: HashMap<task::Id, (Kind, Vec<Arc<str>>)>,
    rng: fastrand::Rng,
}

impl Runner {
    pub(super) fn new(shared: Arc<Shared>, to_backend: bool) -> Self {
        Self {
            to_backend,
            shared,
            lane: Lane::default(),
            requests: JoinSet::new(),
            under_way: HashMap::new(),
            rng: fastrand::Rng::new(),
        }
    }

    /// Carries what comes until nothing more can, and all of it is settled.
    pub(super) async fn run(mut self, mut items: mpsc::UnboundedReceiver<Item<Job>>) {
        let mut come = Vec::new();
        let mut open = true;
        loop {
            self.start();
            if !open && self.requests.is_empty() && self.lane.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                Some(ended) = self.requests.join_next_with_id() => self.ended(ended),
                () = wait_until(self.lane.next_wake()) => self.lane.wake(Instant::now().into_std()),
                taken = items.recv_many(&mut come, INTAKE_MAX), if open => {
                    open = taken > 0;
                    come.drain(..).for_each(|item| self.lane.push(item));
                }
            }
        }
    }

    fn count(&self, kind: Kind) -> usize {
        self.under_way.values().filter(|(other, _)| *other == kind).count()
    }

    /// Starts the requests that may be.
    fn start(&mut self) {
        let now = Instant::now().into_std();
        let items_max = if self.to_backend { 1 } else { self.shared.api.batch_max() };
        let most = Most { items: items_max, bytes: BATCH_BYTES_MAX };
        if self.count(Kind::First) == 0 {
            let items = self.lane.take(most, now);
            self.spawn(Kind::First, items);
        }
        while self.count(Kind::Again) < AGAIN_MAX {
            let items = self.lane.take_again(most, now);
            if items.is_empty() {
                break;
            }
            self.spawn(Kind::Again, items);
        }
        let late = self.lane.take_late();
        self.shared.fail(late, ErrorCode::UpstreamUnavailable, PublishResult::Expired);
    }

    fn spawn(&mut self, kind: Kind, mut items: Vec<Item<Job>>) {
        if items.is_empty() {
            return;
        }
        let mut channels: Vec<Arc<str>> = Vec::new();
        for item in &mut items {
            item.job.place = None;
            if !channels.contains(&item.channel) {
                channels.push(item.channel.clone());
            }
        }
        let (shared, to_backend) = (self.shared.clone(), self.to_backend);
        let request = self.requests.spawn(async move {
            if to_backend { shared.post(items).await } else { shared.publish(items).await }
        });
        self.under_way.insert(request.id(), (kind, channels));
    }

    fn ended(&mut self, ended: Result<(task::Id, Left), task::JoinError>) {
        let (id, left) = match ended {
            Ok(ended) => ended,
            // A defect ends one request; its messages are gone, and the log has the panic.
            Err(error) => (error.id(), Left::default()),
        };
        let Some((_, channels)) = self.under_way.remove(&id) else { return };
        let now = Instant::now();
        let mut back = left.back;
        // What failed together is tried together again.
        let jitter = self.rng.f64();
        for channel in channels {
            let (its, others) = back.into_iter().partition(|(item, _)| item.channel == channel);
            back = others;
            let its: Vec<(Item<Job>, Duration)> = its;
            let wait = its.iter().map(|(_, wait)| *wait).max();
            let how = match wait {
                Some(wait) => {
                    let ceiling = ceiling(self.lane.failures(&channel), RETRY_DELAY_FIRST, RETRY_DELAY_MAX);
                    // No message lives longer, and what an answer asks for may be beyond every clock.
                    let wait = wait.min(self.shared.settings.deadline) + ceiling.mul_f64(jitter);
                    Ended::Badly((now + wait).into_std())
                }
                None if left.unanswered => Ended::Badly(now.into_std()),
                None => Ended::Well,
            };
            let its = its.into_iter().map(|(mut item, _)| {
                item.job.place = Some(item.job.held.room.place());
                item
            });
            self.lane.ended(&channel, its.collect(), how);
        }
    }
}

/// What became of some messages of a request.
enum Tried {
    Settled,
    Rejected { items: Vec<Item<Job>>, one_may_be_bad: bool },
    Retry { items: Vec<Item<Job>>, wait: Duration },
}

impl Shared {
    /// Publishes a batch. When Pusher refuses it as a whole, each message is tried by itself, so that one that
    /// is bad does not take the others along.
    async fn publish(&self, items: Vec<Item<Job>>) -> Left {
        let mut left = Left::default();
        match self.attempt(items).await {
            Tried::Settled => {}
            Tried::Retry { items, wait } => left.back.extend(items.into_iter().map(|item| (item, wait))),
            Tried::Rejected { items, one_may_be_bad } if items.len() > 1 && one_may_be_bad => {
                for item in items {
                    // Behind one that waits its channel waits.
                    if left.back.iter().any(|(earlier, _)| earlier.channel == item.channel) {
                        left.back.push((item, Duration::ZERO));
                        continue;
                    }
                    match self.attempt(vec![item]).await {
                        Tried::Settled => {}
                        Tried::Retry { items, wait } => {
                            left.back.extend(items.into_iter().map(|item| (item, wait)));
                        }
                        Tried::Rejected { items, .. } => self.rejected(items),
                    }
                }
            }
            Tried::Rejected { items, .. } => self.rejected(items),
        }
        left
    }

    /// Sends the batch once.
    async fn attempt(&self, mut items: Vec<Item<Job>>) -> Tried {
        let sents: Vec<Arc<Sent>> = items.iter().filter_map(|item| item.job.sent().cloned()).collect();
        if sents.is_empty() {
            return Tried::Settled;
        }
        let repeated = items.iter().filter(|item| item.job.maybe_accepted).count();
        self.metrics.repeated.increment(repeated as u64);
        let started = Instant::now();
        let under_way = self.links.begin(&sents);
        let outcome =
            self.api.trigger(&sents, |channel| under_way.socket_id(channel), self.settings.timeout).await;
        self.metrics.seconds.record(started.elapsed());
        match outcome {
            Outcome::Accepted => {
                under_way.accepted();
                items.iter().for_each(|_| self.metrics.published(PublishResult::Ok));
                Tried::Settled
            }
            Outcome::Rejected { why, one_may_be_bad } => {
                tracing::warn!(messages = items.len(), why, "publishing was refused");
                Tried::Rejected { items, one_may_be_bad }
            }
            Outcome::OneByOne => Tried::Rejected { items, one_may_be_bad: true },
            Outcome::Retry { cause, why, maybe_accepted, wait } => {
                tracing::debug!(messages = items.len(), why, "publishing will be tried again");
                self.metrics.retries.get(cause).increment(1);
                if maybe_accepted {
                    items.iter_mut().for_each(|item| item.job.maybe_accepted = true);
                }
                Tried::Retry { items, wait: wait.unwrap_or_default() }
            }
        }
    }

    async fn post(&self, items: Vec<Item<Job>>) -> Left {
        let mut left = Left::default();
        for item in items {
            let Work::Post(backend) = &item.job.work else { continue };
            let (outcome, reply) = self.api.post(backend, self.settings.timeout).await;
            match outcome {
                Outcome::Accepted => {
                    self.metrics.published(PublishResult::Ok);
                    if let Some(reply) = reply {
                        self.answer(item.job, reply);
                    }
                }
                Outcome::OneByOne => self.rejected(vec![item]),
                Outcome::Rejected { why, .. } => {
                    tracing::warn!(why, "a backend refused a message");
                    self.rejected(vec![item]);
                }
                // Nobody knows whether it took effect, and twice may be wrong: `rm` is no idempotent input.
                Outcome::Retry { cause, why, maybe_accepted: true, .. } => {
                    tracing::warn!(why, "it is not known whether a backend took a message");
                    left.unanswered |= cause == RetryCause::NoAnswer;
                    self.fail(vec![item], ErrorCode::UpstreamUnavailable, PublishResult::Unknown);
                }
                Outcome::Retry { cause, wait, .. } => {
                    self.metrics.retries.get(cause).increment(1);
                    left.back.push((item, wait.unwrap_or_default()));
                }
            }
        }
        left
    }

    /// Hands a backend's answer to the sender.
    fn answer(&self, mut job: Job, reply: Result<String, ReplyResult>) {
        let message_type = std::mem::take(&mut job.message_type);
        let (notice, result) = match reply {
            Ok(data) => (Notice::Reply { message_type, data }, ReplyResult::SenderGone),
            Err(why) => {
                tracing::debug!(why = why.label(), "a backend's answer cannot be passed on");
                (Notice::PublishFailed { code: ErrorCode::NoReply, message_type }, why)
            }
        };
        let passes = matches!(notice, Notice::Reply { .. });
        let told = job.conn.upgrade().is_some_and(|conn| conn.notify(notice));
        // What has arrived is counted by the session that gets it.
        if !(passes && told) {
            self.metrics.replies.get(result).increment(1);
        }
        if !passes && !told {
            note_untold(1, ErrorCode::NoReply);
        }
    }

    fn rejected(&self, items: Vec<Item<Job>>) {
        self.fail(items, ErrorCode::UpstreamRefused, PublishResult::Rejected);
    }

    /// Tells the senders that their messages were not carried.
    fn fail(&self, items: Vec<Item<Job>>, code: ErrorCode, result: PublishResult) {
        let untold = items.into_iter().filter_map(|item| {
            // What an earlier attempt came to is not known, whatever the last one was told.
            let (code, result) = if item.job.maybe_accepted {
                (ErrorCode::UpstreamUnavailable, PublishResult::Unknown)
            } else {
                (code, result)
            };
            self.metrics.published(result);
            (!item.job.tell(code)).then_some(())
        });
        let untold = untold.count();
        if untold > 0 {
            note_untold(untold, code);
        }
    }
}

async fn wait_until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::metrics::Registry;

    /// Lanes whose Pusher, and whose backends, are not there.
    pub(in crate::upstream) fn shared(registry: &Registry) -> Arc<Shared> {
        let there =
            settings::Endpoint { host: "127.0.0.1".into(), port: Some(1), tls: false, path: String::new() };
        let app = crate::upstream::api::tests::app(there);
        let client = Arc::new(crate::http::Client::new(&crate::tls::client_config(None).unwrap()));
        let settings = settings::Publish {
            lanes: 1,
            queue_messages_max: 1,
            queue_bytes_max: 1,
            batch_max: 10,
            timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(30),
        };
        let metrics = Arc::new(PublishMetrics::new(registry));
        Arc::new(Shared {
            api: Arc::new(Api::new(app, 10, client)),
            settings,
            links: Links::new(1).0,
            metrics,
        })
    }

    pub(in crate::upstream) fn item(
        channel: &str,
        seconds: u64,
        shared: &Shared,
        room: &Arc<Room>,
    ) -> Item<Job> {
        let url = "http://127.0.0.1:1/".to_owned();
        let backend =
            Backend { url, body: String::new(), headers: Vec::new(), retry_on: Vec::new(), replies: false };
        let job = Job {
            work: Work::Post(backend),
            conn: Weak::new(),
            message_type: String::new(),
            maybe_accepted: false,
            held: room.held(10),
            place: Some(room.place()),
            unsettled: Arc::new(AtomicUsize::new(1)),
            _queued: shared.metrics.queued(10),
        };
        let deadline = (Instant::now() + Duration::from_secs(seconds)).into_std();
        Item { channel: channel.into(), user: 1, deadline, bytes: 10, job }
    }

    #[tokio::test(start_paused = true)]
    async fn each_message_is_told_at_its_own_deadline() {
        let registry = Registry::new().unwrap();
        let (shared, room) = (shared(&registry), Arc::<Room>::default());
        let (items, receiver) = mpsc::unbounded_channel();
        for (channel, seconds) in [("a", 3), ("b", 1), ("c", 60)] {
            items.send(item(channel, seconds, &shared, &room)).ok().unwrap();
        }
        drop(items);
        let expired = |count: usize| {
            let line = format!("pusher_bridge_publish_total{{result=\"expired\"}} {count}\n");
            registry.render().contains(&line)
        };
        let begin = Instant::now();
        let running = async {
            Runner::new(shared.clone(), true).run(receiver).await;
            begin.elapsed()
        };
        let watching = async {
            for (second, count) in [(0, 0), (2, 1), (4, 2), (59, 2)] {
                tokio::time::sleep_until(begin + Duration::from_secs(second)).await;
                assert!(expired(count), "{count} after {second} s");
            }
        };
        let (ran, ()) = tokio::join!(running, watching);
        assert!(ran >= Duration::from_secs(60) && ran < Duration::from_secs(66), "{ran:?}");
        assert!(expired(3));
        let held = (room.bytes.load(Ordering::Relaxed), room.waiting.load(Ordering::Relaxed));
        assert_eq!(held, (0, 0));
    }
}
