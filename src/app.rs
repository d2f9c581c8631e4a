//! Wiring: everything is bound before anything runs, and ends in the reverse order of the data's way.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::admin::{self, Status, Watched};
use crate::clock::Now;
use crate::config::Config;
use crate::config::plan::Plan;
use crate::fanout::hub::{Hub, INBOX_MAX};
use crate::limits::budget::Budget;
use crate::limits::slots::Slots;
use crate::limits::users::UserRates;
use crate::metrics::Gauge;
use crate::proxy::pool::Dialer;
use crate::routes::generation::{Generation, Generations, History};
use crate::server::accept::{Accepting, Listener, Turn};
use crate::server::admission::Admission;
use crate::server::forwarded::UntrustedForwarders;
use crate::server::worker::{Door, Worker};
use crate::session::context::{Context, Shared};
use crate::upstream::api::Api;
use crate::upstream::credentials::Credentials;
use crate::upstream::link;
use crate::upstream::links::Links;
use crate::upstream::members::{self, Members};
use crate::upstream::publisher::Publisher;
use crate::upstream::rotation::Rotation;
use crate::upstream::settings::Settings as Upstream;
use crate::upstream::standby;
use crate::upstream::undelivered::Undelivered;
use crate::{http, tls};

mod endpoints;
mod fallback;
mod files;
pub mod metrics;
pub mod reload;
mod succession;
mod tasks;

use self::metrics::Metrics;
use self::reload::{File, Reloader, Reloads};
use self::succession::Succession;
use self::tasks::Tasks;

/// Of the grace period, so much is kept for publishing what was accepted.
const FLUSH_SHARE: f64 = 0.3;

/// Why the bridge did not start.
#[derive(Debug)]
pub struct StartError {
    what: String,
    why: Box<dyn std::error::Error + Send + Sync>,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl std::error::Error for StartError {}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> StartError {
    let what = what.into();
    move |why| StartError { what, why: why.into() }
}

/// Listeners that whoever started the program has bound, in the place of those that the configuration names.
#[derive(Debug, Default)]
pub struct Passed {
    /// For clients.
    pub listen: Option<std::net::TcpListener>,
    /// For probes and metrics.
    pub admin: Option<std::net::TcpListener>,
}

/// A running bridge. It must be ended by [`Running::shutdown`].
pub struct Running {
    /// Where old clients connect.
    pub address: SocketAddr,
    /// Where probes and metrics are.
    pub admin_address: SocketAddr,
    /// What the probes tell.
    pub status: Arc<Status>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    in_force: Arc<ArcSwap<Config>>,
    generations: Arc<Generations>,
    stop_accepting: watch::Sender<bool>,
    stop_admin: watch::Sender<bool>,
    /// Ends when nobody listens any more.
    listening: oneshot::Receiver<()>,
    workers: Vec<oneshot::Receiver<()>>,
    reloads: Reloads,
    /// Messages accepted and not yet settled.
    unsettled: Arc<AtomicUsize>,
    links: Tasks,
    /// Ends when this is dropped.
    _asking: JoinSet<()>,
    admin: oneshot::Receiver<()>,
}

/// Starts a bridge: links and publishing on the current runtime, workers and admin on threads of their own.
///
/// # Errors
/// An address cannot be bound, a key or certificate cannot be used, or a thread cannot be made.
pub async fn start(config: Config) -> Result<Running, StartError> {
    start_from(config, None, Passed::default()).await
}

/// The same of a file's configuration, which can be reloaded, on the listeners that were passed.
///
/// # Errors
/// As [`start`].
pub async fn start_from(config: Config, file: Option<File>, passed: Passed) -> Result<Running, StartError> {
    let config = Arc::new(config);
    let listener = match passed.listen {
        Some(listener) => Listener::of(listener).map_err(failed("the passed listener"))?,
        None => Listener::bind(config.server.listen)
            .map_err(failed(format!("cannot listen on {}", config.server.listen)))?,
    };
    let admin_listener = match passed.admin {
        Some(listener) => listener
            .set_nonblocking(true)
            .and_then(|()| TcpListener::from_std(listener))
            .map_err(failed("the passed listener (admin)"))?,
        None => TcpListener::bind(config.admin.listen)
            .await
            .map_err(failed(format!("cannot listen on {} (admin)", config.admin.listen)))?,
    };
    let address = listener.address().map_err(failed("listening"))?;
    let admin_address = admin_listener.local_addr().map_err(failed("listening (admin)"))?;

    let tls = tls::client_config(config.upstream.app.ca_file.as_deref()).map_err(failed("certificates"))?;
    let pool_tls = tls.clone();
    let client = Arc::new(http::Client::by(config.upstream.proxies.clone(), &tls));
    let metrics = Arc::new(Metrics::new().map_err(failed("metrics"))?);
    metrics.watch_tasks("main", Handle::current());

    let api =
        Arc::new(Api::new(config.upstream.app.clone(), config.upstream.publish.batch_max, client.clone()));
    let with = if config.upstream.standby { Links::with_standby } else { Links::new };
    let (links, ends) = with(config.upstream.connections);
    let (members, members_end) = Members::open();
    let links = links.with_members(members.clone());
    let worker_count = config.server.workers;
    let (hub_senders, hub_inboxes): (Vec<_>, Vec<_>) =
        (0..worker_count).map(|_| mpsc::channel(INBOX_MAX)).unzip();
    let (generations, undelivered) = (Arc::new(Generations::default()), Arc::new(Undelivered::default()));
    let mut link_tasks = Tasks::default();
    let (credentials, watching) =
        Credentials::watched(metrics.credentials.clone(), api.clone(), config.upstream.publish.timeout);
    let mut asking = JoinSet::new();
    asking.spawn(watching);
    let shared_by_links = Arc::new(link::Shared {
        // Whether a link is one of two is known where there are two.
        settings: Arc::new(Upstream { standby: false, ..config.upstream.clone() }),
        tls: tls.clone(),
        api: api.clone(),
        hubs: hub_senders,
        undelivered: undelivered.clone(),
        metrics: metrics.links.clone(),
        credentials,
    });
    let mut connected = Vec::new();
    for (index, end) in ends.into_iter().enumerate() {
        let (sender, receiver) = watch::channel(false);
        connected.push(receiver);
        let gauge = metrics.links.connected.named(index);
        let shared = shared_by_links.clone();
        if config.upstream.standby {
            // Each has a status; `sender` says whether either is connected.
            let status = |gauge| link::Status { connected: watch::channel(false).0, gauge };
            let second = metrics.links.connected.named(format_args!("{index}-standby"));
            let statuses = [status(gauge), status(second)];
            link_tasks.running.spawn(standby::run(shared, end, statuses, sender));
        } else {
            link_tasks.running.spawn(link::run(shared, end, link::Status { connected: sender, gauge }));
        }
    }
    let pooled = (shared_by_links.clone(), metrics.members.clone());
    link_tasks.running.spawn(async move { members::driver::run(&pooled.0, members_end, pooled.1).await });
    drop(shared_by_links);
    let rotation = Arc::new(Rotation {
        api: api.clone(),
        links: links.clone(),
        members: members.clone(),
        findings: metrics.credentials.clone(),
        results: metrics.links.rotations.clone(),
        timeout: config.upstream.publish.timeout,
    });
    let mut publishing = Tasks::default();
    let publish = config.upstream.publish.clone();
    let (counted, lanes) = (metrics.publishing.clone(), &mut publishing.running);
    let occupancy = endpoints::occupancy(&config);
    let endpoints = endpoints::endpoints(None, &config, api.clone(), occupancy.clone(), &metrics);
    let fallback = fallback::fallback(&config, &metrics);
    let dialer = Arc::new(Dialer::new(config.upstream.proxies.clone(), &pool_tls));
    let publisher = Publisher::start(api.clone(), publish, links.clone(), counted, lanes)
        .with_occupancy(occupancy.clone());
    let unsettled = publisher.unsettled();
    let watched = Watched {
        links: connected,
        generations: generations.clone(),
        undelivered: undelivered.clone(),
        credentials: metrics.credentials.clone(),
    };
    let status =
        Status::new(watched, worker_count, &config.admin, config.server.close_window, metrics.admin.clone());
    let shared = Arc::new(Shared {
        settings: ArcSwap::from_pointee(reload::sessions(&config)),
        ipv6_prefix: config.server.ipv6_prefix,
        address_slots: Slots::new(),
        metrics: metrics.session.clone(),
        generations: generations.clone(),
        publisher,
        user_slots: Slots::new(),
        exclusive_slots: Slots::new(),
        user_rates: UserRates::default(),
        buffers: Budget::new(config.server.buffered_bytes_max, config.server.connections_max),
        next_conn: AtomicU64::new(1),
    });
    let mut succession = Succession {
        history: History::default(),
        generations: generations.clone(),
        undelivered: undelivered.clone(),
        metrics: metrics.clone(),
        http: client,
        ipv6_prefix: config.server.ipv6_prefix,
        sessions: Arc::downgrade(&shared),
    };
    succession.replace(&config, &mut publishing)?.tell();
    let server = Arc::new(ArcSwap::from_pointee(config.server.clone()));
    metrics.server.tls_expires(expiry(&config));
    let door = Arc::new(Door {
        settings: server.clone(),
        generations: generations.clone(),
        endpoints: endpoints.into(),
        fallback: fallback.into(),
        tunnels: fallback::tunnels(&config, &metrics).into(),
        refused_slots: Slots::new(),
        untrusted_forwarders: UntrustedForwarders::default(),
        status: status.clone(),
        metrics: metrics.server.clone(),
    });

    let admission = Admission::new(server, metrics.server.clone());
    let (accepting, turns) = Accepting::new(admission, worker_count);
    let (stop_accepting, stop) = watch::channel(false);
    let (mut workers, mut contexts, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (inbox, turns)) in hub_inboxes.into_iter().zip(turns).enumerate() {
        let hub = Hub::new(
            index,
            generations.clone(),
            undelivered.clone(),
            links.clone(),
            members.clone(),
            metrics.fanout.clone(),
            shared.buffers.clone(),
        );
        let hub = Arc::new(hub.with_occupancy(occupancy.clone()));
        let context = Context::new(shared.clone(), hub);
        contexts.push(Arc::downgrade(&context));
        let (tell, reloaded) = mpsc::channel(1);
        told.push(tell);
        let worker = Worker::new(door.clone(), context, dialer.clone());
        let (status, drain) = (status.clone(), status.drain.subscribe());
        let (accepting, turns) = (accepting.clone(), (turns, stop.clone()));
        workers.push(thread(&format!("worker-{index}"), &metrics, async move {
            let pulse = tokio::spawn(beat(status, index));
            worker.run(index, &accepting, turns, inbox, drain, reloaded).await;
            pulse.abort();
        })?);
    }
    let (stop_admin, admin_stopped) = watch::channel(false);
    let (watched, weak) = (status.clone(), Arc::downgrade(&shared));
    let beside = door.clone();
    let buffered_bytes = metrics.websocket.buffered_bytes.clone();
    let std_listener = admin_listener.into_std().map_err(failed("listening (admin)"))?;
    let admin = thread("admin", &metrics, async move {
        match TcpListener::from_std(std_listener) {
            Ok(listener) => {
                let watching = watched.clone();
                tokio::spawn(async move { watching.watch_links().await });
                let upkeep = move |now: Now| {
                    upkeep(&weak, &buffered_bytes, now);
                    if let Some(endpoints) = &*beside.endpoints.load() {
                        endpoints.upkeep(now.mono);
                    }
                };
                admin::run(listener, watched, admin_stopped, upkeep).await;
            }
            Err(error) => tracing::error!(%error, "the admin address cannot be watched"),
        }
    })?;

    let in_force = Arc::new(ArcSwap::new(config));
    let reloader = Reloader {
        read: None,
        in_force: in_force.clone(),
        succession,
        publishing,
        door,
        contexts,
        workers: told,
        metrics: metrics.clone(),
        api,
        rotation,
        tls,
        rotating: JoinSet::new(),
        occupancy,
        watch: None,
        last: None,
    };
    let reloads = reloader.start(file);
    // Not before everything else is there.
    let (turn, listening) = Turn::first(listener).map_err(failed("listening"))?;
    let _ = accepting.pass(turn, 0);
    Ok(Running {
        address,
        admin_address,
        status,
        metrics,
        in_force,
        generations,
        stop_accepting,
        stop_admin,
        listening,
        workers,
        reloads,
        unsettled,
        links: link_tasks,
        _asking: asking,
        admin,
    })
}

/// When the certificate that is shown expires.
fn expiry(config: &Config) -> Option<i64> {
    config.server.tls.as_ref().map(|tls| tls.identity.not_after)
}

fn upkeep(shared: &Weak<Shared>, buffered_bytes: &Gauge, now: Now) {
    if let Some(shared) = shared.upgrade() {
        shared.user_rates.upkeep(now.mono);
        buffered_bytes.set(shared.buffers.held() as f64);
        if let Some(judge) = shared.judge() {
            judge.wrong_tokens.upkeep(now.mono);
            judge.verifier.upkeep(now);
        }
    }
}

/// Shows the admin side that a worker's thread moves.
async fn beat(status: Arc<Status>, worker: usize) {
    let mut ticks = tokio::time::interval(admin::PULSE);
    loop {
        ticks.tick().await;
        status.pulse(worker, Now::read());
    }
}

/// Runs `work` on a thread with a runtime of its own; resolves when it is done.
fn thread(
    name: &str,
    metrics: &Metrics,
    work: impl Future<Output = ()> + Send + 'static,
) -> Result<oneshot::Receiver<()>, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed(format!("the runtime of {name}")))?;
    metrics.watch_tasks(name, runtime.handle().clone());
    let (done, finished) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            runtime.block_on(work);
            let _ = done.send(());
        })
        .map_err(failed(format!("the thread {name}")))?;
    Ok(finished)
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Every client was told, every accepted message published or reported.
    Clean,
    /// The grace period was over first.
    Cut,
}

impl Running {
    /// By which reloads are asked for.
    #[must_use]
    pub fn reloads(&self) -> Reloads {
        self.reloads.clone()
    }

    /// Puts `config` in force, for who comes and for who is there; gives what has changed.
    ///
    /// # Errors
    /// Something cannot be changed at run time, a key cannot be used, or there have been too many routes; then
    /// everything is as it was.
    #[doc(hidden)]
    pub async fn replace(&self, config: Config) -> Result<Plan, StartError> {
        self.reloads.replace(config).await
    }

    /// The configuration in force.
    #[doc(hidden)]
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.in_force.load_full()
    }

    /// The routes in force.
    #[doc(hidden)]
    #[must_use]
    pub fn generation(&self) -> Arc<Generation> {
        self.generations.held()
    }

    /// Unready, no new clients, closes spread over the window, accepted messages published, links closed; all
    /// within the grace period.
    pub async fn shutdown(mut self) -> Shutdown {
        let started = Instant::now();
        let grace = self.in_force.load().server.grace;
        let end = started + grace;
        self.status.start_draining();
        self.stop_accepting.send_replace(true);
        let _ = timeout_at(end, self.listening).await;
        let sessions_end = started + grace.mul_f64(1.0 - FLUSH_SHARE);
        let mut clean = true;
        for worker in self.workers {
            clean &= timeout_at(sessions_end, worker).await.is_ok();
        }
        // With the last worker the publisher's entrance is gone: its lanes finish, then the links.
        clean &= match timeout_at(end, self.reloads.stop()).await {
            Ok(Some(mut publishing)) => publishing.all_done(end).await,
            Ok(None) | Err(_) => false,
        };
        clean &= self.links.all_done(end).await;
        let messages = self.unsettled.load(Ordering::Relaxed);
        if messages > 0 {
            tracing::error!(messages, "accepted messages are lost: they could not be published in time");
            clean = false;
        }
        self.stop_admin.send_replace(true);
        let _ = timeout_at(end, self.admin).await;
        if clean { Shutdown::Clean } else { Shutdown::Cut }
    }
}
