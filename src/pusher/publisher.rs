//! Publishing client messages: lanes of signed HTTP requests. A channel has one lane and a lane one request
//! under way, so each channel keeps its order; what comes meanwhile goes together in the next request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::api::{Api, Backend, Outcome};
use super::backoff::full_jitter;
use super::links::{Links, stable_hash};
use crate::config;
use crate::legacy::conn::{Conn, Notice};
use crate::legacy::error::ErrorCode;
use crate::legacy::id::ConnId;
use crate::legacy::publish::Outgoing;
use crate::metrics::{GaugeGuard, Metrics, PublishResult};

/// First ceiling of the delay between two attempts; it doubles.
const RETRY_DELAY_FIRST: Duration = Duration::from_millis(100);
/// Largest such ceiling.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);
/// Bytes of data in one request; the last message may exceed it.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// An event of a client: for Pusher, and, once Pusher has accepted it, for this bridge's own clients.
#[derive(Debug)]
pub struct Sent {
    /// The channel.
    pub channel: Arc<str>,
    /// The event's name.
    pub event: String,
    /// Its data.
    pub data: String,
    /// Who sent it.
    pub origin: ConnId,
}

/// A client message in its lane.
struct Job {
    work: Work,
    /// Not owned: a message that waits must not keep its sender's socket open.
    conn: Weak<Conn>,
    message_type: String,
    deadline: Instant,
    /// An attempt ended without an answer.
    maybe_accepted: bool,
    bytes: usize,
    lane_bytes: Arc<AtomicUsize>,
    unsettled: Arc<AtomicUsize>,
    _queued: [GaugeGuard; 2],
}

enum Work {
    Trigger(Arc<Sent>),
    Post(Backend),
}

impl Drop for Job {
    fn drop(&mut self) {
        self.lane_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.unsettled.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A lane's entrance.
#[derive(Debug)]
struct Lane {
    jobs: mpsc::Sender<Job>,
    bytes: Arc<AtomicUsize>,
}

/// The entrances of all lanes. When it is dropped the lanes finish what they have and end.
pub struct Publisher {
    /// To Pusher.
    triggers: Vec<Lane>,
    /// To backends: apart, so that a slow one does not hold up the channels.
    posts: Vec<Lane>,
    settings: config::Publish,
    metrics: Arc<Metrics>,
    unsettled: Arc<AtomicUsize>,
}

impl Publisher {
    /// Starts the lanes on the current runtime, as tasks of `tasks`.
    pub fn start(
        api: Arc<Api>,
        settings: config::Publish,
        links: Links,
        metrics: Arc<Metrics>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let mut lane = || {
            let (jobs, receiver) = mpsc::channel(settings.queue_messages_max);
            let runner = Runner {
                api: api.clone(),
                settings: settings.clone(),
                links: links.clone(),
                metrics: metrics.clone(),
                rng: fastrand::Rng::new(),
            };
            tasks.spawn(runner.run(receiver));
            Lane { jobs, bytes: Arc::default() }
        };
        let triggers = (0..settings.lanes).map(|_| lane()).collect();
        let posts = (0..settings.lanes).map(|_| lane()).collect();
        Self { triggers, posts, settings, metrics, unsettled: Arc::default() }
    }

    /// How many messages are accepted and neither published nor reported: readable when this is gone.
    pub fn unsettled(&self) -> Arc<AtomicUsize> {
        self.unsettled.clone()
    }

    /// Takes a message for publishing.
    ///
    /// # Errors
    /// [`ErrorCode::QueueFull`]: its lane has no room.
    pub fn publish(
        &self,
        conn: &Arc<Conn>,
        channel: &str,
        outgoing: Outgoing,
        message_type: String,
    ) -> Result<(), ErrorCode> {
        let (lanes, work, bytes) = match outgoing {
            Outgoing::Trigger { event, data } => {
                let bytes = channel.len() + event.len() + data.len();
                let sent = Sent { channel: channel.into(), event, data, origin: conn.id() };
                (&self.triggers, Work::Trigger(Arc::new(sent)), bytes)
            }
            Outgoing::Post { url, body, headers, retry_on } => {
                let bytes = url.len() + body.len();
                (&self.posts, Work::Post(Backend { url, body, headers, retry_on }), bytes)
            }
        };
        // All of it waits: a type may be as long as a message.
        let bytes = bytes + message_type.len();
        let accepted = lanes.get(stable_hash(channel) % lanes.len().max(1)).is_some_and(|lane| {
            // The job takes its bytes back when it is dropped, wherever that is.
            let waiting = lane.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.unsettled.fetch_add(1, Ordering::Relaxed);
            let job = Job {
                work,
                conn: Arc::downgrade(conn),
                message_type,
                deadline: Instant::now() + self.settings.deadline,
                maybe_accepted: false,
                bytes,
                lane_bytes: lane.bytes.clone(),
                unsettled: self.unsettled.clone(),
                _queued: self.metrics.queued(bytes),
            };
            waiting + bytes <= self.settings.queue_bytes_max && lane.jobs.try_send(job).is_ok()
        });
        if accepted {
            Ok(())
        } else {
            self.metrics.published(PublishResult::QueueFull);
            Err(ErrorCode::QueueFull)
        }
    }
}

/// One lane's worker.
struct Runner {
    api: Arc<Api>,
    settings: config::Publish,
    links: Links,
    metrics: Arc<Metrics>,
    rng: fastrand::Rng,
}

impl Runner {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.recv().await {
            if let Work::Post(_) = job.work {
                self.post(job).await;
                continue;
            }
            let mut batch = vec![job];
            let mut bytes: usize = batch.iter().map(|job| job.bytes).sum();
            // A lane has one kind of work only.
            while batch.len() < self.api.batch_max() && bytes < BATCH_BYTES_MAX {
                let Ok(job) = jobs.try_recv() else { break };
                bytes += job.bytes;
                batch.push(job);
            }
            self.trigger(batch).await;
        }
    }

    /// Publishes a batch. When Pusher refuses it as a whole, each message is tried by itself, so that one that
    /// is bad does not take the others along.
    async fn trigger(&mut self, batch: Vec<Job>) {
        let refused = self.attempt(batch).await;
        if refused.jobs.len() > 1 && refused.one_may_be_bad {
            for job in refused.jobs {
                let alone = self.attempt(vec![job]).await;
                self.fail(alone.jobs, ErrorCode::UpstreamRefused, PublishResult::Refused);
            }
        } else {
            self.fail(refused.jobs, ErrorCode::UpstreamRefused, PublishResult::Refused);
        }
    }

    /// Sends the batch until it is accepted, refused, or late. Gives what was refused.
    async fn attempt(&mut self, mut batch: Vec<Job>) -> RefusedBatch {
        for attempt in 0.. {
            self.expire(&mut batch);
            let sents: Vec<Arc<Sent>> = batch.iter().filter_map(|job| job.sent().cloned()).collect();
            if sents.is_empty() {
                return RefusedBatch::default();
            }
            let repeated = batch.iter().filter(|job| job.maybe_accepted).count();
            self.metrics.publish_repeated.increment(repeated as u64);
            let started = Instant::now();
            let under_way = self.links.begin(&sents);
            let outcome =
                self.api.trigger(&sents, |channel| under_way.socket_id(channel), self.settings.timeout).await;
            self.metrics.publish_seconds.record(started.elapsed());
            match outcome {
                Outcome::Accepted => {
                    under_way.accepted();
                    batch.iter().for_each(|_| self.metrics.published(PublishResult::Ok));
                    return RefusedBatch::default();
                }
                Outcome::Refused { why, one_may_be_bad } => {
                    tracing::warn!(messages = batch.len(), why, "publishing was refused");
                    return RefusedBatch { jobs: batch, one_may_be_bad };
                }
                Outcome::OneByOne => return RefusedBatch { jobs: batch, one_may_be_bad: true },
                Outcome::Retry { cause, why, maybe_accepted, wait } => {
                    tracing::debug!(messages = batch.len(), attempt, why, "publishing will be tried again");
                    self.metrics.publish_retry(cause);
                    if maybe_accepted {
                        batch.iter_mut().for_each(|job| job.maybe_accepted = true);
                    }
                    // Its channels need not wait while this does.
                    drop(under_way);
                    self.pause(attempt, wait.unwrap_or_default(), &mut batch).await;
                }
            }
        }
        RefusedBatch::default()
    }

    /// Waits before the next attempt; whose deadline comes meanwhile is told then.
    async fn pause(&mut self, attempt: u32, wait: Duration, batch: &mut Vec<Job>) {
        let jitter = full_jitter(attempt, RETRY_DELAY_FIRST, RETRY_DELAY_MAX, &mut self.rng);
        // No message lives longer, and what an answer asks for may be beyond every clock.
        let until = Instant::now() + wait.min(self.settings.deadline) + jitter;
        while let Some(first) = batch.iter().map(|job| job.deadline).min() {
            tokio::time::sleep_until(until.min(first)).await;
            if until <= first {
                return;
            }
            self.expire(batch);
        }
    }

    fn expire(&self, batch: &mut Vec<Job>) {
        let now = Instant::now();
        let (late, left) = std::mem::take(batch).into_iter().partition(|job| job.deadline <= now);
        *batch = left;
        self.fail(late, ErrorCode::UpstreamUnavailable, PublishResult::Expired);
    }

    async fn post(&mut self, job: Job) {
        let mut jobs = vec![job];
        for attempt in 0.. {
            self.expire(&mut jobs);
            let Some(Work::Post(backend)) = jobs.first().map(|job| &job.work) else { return };
            match self.api.post(backend, self.settings.timeout).await {
                Outcome::Accepted => return self.metrics.published(PublishResult::Ok),
                Outcome::OneByOne => {
                    return self.fail(jobs, ErrorCode::UpstreamRefused, PublishResult::Refused);
                }
                Outcome::Refused { why, .. } => {
                    tracing::warn!(why, "a backend refused a message");
                    return self.fail(jobs, ErrorCode::UpstreamRefused, PublishResult::Refused);
                }
                // Nobody knows whether it took effect, and twice may be wrong: `rm` is no idempotent input.
                Outcome::Retry { why, maybe_accepted: true, .. } => {
                    tracing::warn!(why, "it is not known whether a backend took a message");
                    return self.fail(jobs, ErrorCode::UpstreamUnavailable, PublishResult::Unknown);
                }
                Outcome::Retry { cause, wait, .. } => {
                    self.metrics.publish_retry(cause);
                    self.pause(attempt, wait.unwrap_or_default(), &mut jobs).await;
                }
            }
        }
    }

    /// Tells the senders that their messages were not carried.
    fn fail(&self, jobs: Vec<Job>, code: ErrorCode, result: PublishResult) {
        let mut untold = 0;
        for mut job in jobs {
            let unknown = job.maybe_accepted && result == PublishResult::Expired;
            self.metrics.published(if unknown { PublishResult::Unknown } else { result });
            let message_type = std::mem::take(&mut job.message_type);
            let notice = Notice::PublishFailed { code, message_type };
            untold += usize::from(!job.conn.upgrade().is_some_and(|conn| conn.notify(notice)));
        }
        if untold > 0 {
            note_untold(untold, code);
        }
    }
}

/// Messages could not be carried, and there is nobody to be told but the log's reader.
pub fn note_untold(messages: usize, code: ErrorCode) {
    tracing::warn!(messages, code = code.as_str(), "messages were not carried, and their senders are gone");
}

/// What Pusher refused of a batch.
#[derive(Default)]
struct RefusedBatch {
    jobs: Vec<Job>,
    one_may_be_bad: bool,
}

impl Job {
    fn sent(&self) -> Option<&Arc<Sent>> {
        match &self.work {
            Work::Trigger(sent) => Some(sent),
            Work::Post(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runner(metrics: &Arc<Metrics>) -> Runner {
        let there =
            config::Endpoint { host: "localhost".into(), port: None, tls: false, path: String::new() };
        let app = config::App {
            id: "1".into(),
            key: "k".into(),
            secret: "s".into(),
            ws: there.clone(),
            api: there,
            origin: None,
            ca_file: None,
        };
        let client = Arc::new(crate::http::Client::new(&crate::tls::client_config(None).unwrap()));
        let settings = config::Publish {
            lanes: 1,
            queue_messages_max: 1,
            queue_bytes_max: 1,
            batch_max: 10,
            timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(30),
        };
        let (links, _) = Links::new(1);
        let rng = fastrand::Rng::with_seed(7);
        Runner { api: Arc::new(Api::new(app, 10, client)), settings, links, metrics: metrics.clone(), rng }
    }

    fn job(seconds: u64, metrics: &Metrics) -> Job {
        let backend =
            Backend { url: String::new(), body: String::new(), headers: Vec::new(), retry_on: Vec::new() };
        let unsettled = Arc::new(AtomicUsize::new(1));
        Job {
            work: Work::Post(backend),
            conn: Weak::new(),
            message_type: String::new(),
            deadline: Instant::now() + Duration::from_secs(seconds),
            maybe_accepted: false,
            bytes: 0,
            lane_bytes: Arc::default(),
            unsettled,
            _queued: metrics.queued(0),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_message_is_told_at_its_own_deadline() {
        let metrics = Metrics::new(&[]).unwrap();
        let mut runner = runner(&metrics);
        let begin = Instant::now();
        let mut batch = vec![job(3, &metrics), job(1, &metrics), job(60, &metrics)];
        let expired = |count: usize| {
            let line = format!("pusher_bridge_publish_total{{result=\"expired\"}} {count}\n");
            metrics.render().contains(&line)
        };
        let pausing = async {
            runner.pause(0, Duration::from_secs(20), &mut batch).await;
            begin.elapsed()
        };
        let watching = async {
            for (second, count) in [(0, 0), (2, 1), (4, 2)] {
                tokio::time::sleep_until(begin + Duration::from_secs(second)).await;
                assert!(expired(count), "{count} after {second} s");
            }
        };
        let (paused, ()) = tokio::join!(pausing, watching);
        assert!(paused >= Duration::from_secs(20) && paused < Duration::from_secs(21), "{paused:?}");
        assert_eq!(batch.len(), 1);

        let mut batch = vec![job(2, &metrics)];
        let begin = Instant::now();
        runner.pause(0, Duration::from_secs(20), &mut batch).await;
        assert_eq!((begin.elapsed().as_secs(), batch.len()), (2, 0), "nothing is left to be waited for");
    }
}
