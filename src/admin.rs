//! The admin address: probes, metrics, and the orders to drain and to reload. It has a thread and a runtime of its own, so
//! that it answers when the data path is busy. It is not for the public.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::clock::Now;
use crate::http::server::{self, End, Limits, Progress};
use crate::metrics::{Gauge, Registry};
use crate::routes::generation::Generations;
use crate::upstream::credentials::Findings;
use crate::upstream::undelivered::Undelivered;

mod guard;
mod outage;
mod pulses;
pub mod reload;
pub mod settings;

use self::guard::Purpose;
use self::outage::Outage;
use self::pulses::Pulses;
use self::reload::Desk;
use self::settings::Settings;

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// For a request's head, and for its whole connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a worker shows that it moves.
pub const PULSE: Duration = Duration::from_secs(1);
/// How often the metrics and limits are tidied.
const UPKEEP: Duration = Duration::from_secs(5);

/// What the admin address shows, and counts itself.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Whether new clients are welcome.
    ready: Gauge,
}

impl Metrics {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let ready = registry.declare("pusher_bridge_ready", "1 while new clients are welcome");
        Self { registry: registry.clone(), ready }
    }
}

/// What the probes tell, written by the rest of the program.
pub struct Status {
    /// Whether each link is connected.
    pub links: Vec<watch::Receiver<bool>>,
    /// Set once every link has been connected: from then on Pusher's outages are no reason to be unready,
    /// for clients stay connected through them.
    started: watch::Sender<bool>,
    pulses: Pulses,
    /// The order to drain, with the window to spread closes over.
    pub drain: watch::Sender<Option<Duration>>,
    told: ArcSwap<Told>,
    /// Where reloads are asked for.
    pub reloads: Desk,
    /// Whose keys new clients need.
    generations: Arc<Generations>,
    undelivered: Arc<Undelivered>,
    credentials: Arc<Findings>,
    /// That no link is connected, though all were once.
    outage: Mutex<Outage>,
    metrics: Metrics,
}

/// What the file says that is needed here.
struct Told {
    close_window: Duration,
    /// Names of the admin address, beside addresses and loopback's.
    hosts: Vec<String>,
}

/// What the probes look at.
pub struct Watched {
    /// Whether each link is connected.
    pub links: Vec<watch::Receiver<bool>>,
    /// Whose keys new clients need.
    pub generations: Arc<Generations>,
    /// Events that no client got.
    pub undelivered: Arc<Undelivered>,
    /// Whether Pusher takes this app's key and secret.
    pub credentials: Arc<Findings>,
}

impl Status {
    /// Not ready yet, not draining.
    #[must_use]
    pub fn new(
        watched: Watched,
        workers: usize,
        settings: &Settings,
        close_window: Duration,
        metrics: Metrics,
    ) -> Arc<Self> {
        let Watched { links, generations, undelivered, credentials } = watched;
        Arc::new(Self {
            links,
            started: watch::Sender::new(false),
            pulses: Pulses::new(workers, Now::read()),
            drain: watch::Sender::new(None),
            told: ArcSwap::from_pointee(Told { close_window, hosts: settings.hosts.clone() }),
            reloads: Desk::new(Now::read()),
            generations,
            undelivered,
            credentials,
            outage: Mutex::default(),
            metrics,
        })
    }

    /// From now on this is what the file says.
    pub fn follow(&self, settings: &Settings, close_window: Duration) {
        self.told.store(Arc::new(Told { close_window, hosts: settings.hosts.clone() }));
    }

    /// A worker shows that it moves.
    pub fn pulse(&self, worker: usize, now: Now) {
        self.pulses.pulse(worker, now);
    }

    /// Starts draining, once.
    pub fn start_draining(&self) {
        let window = self.told.load().close_window;
        self.drain.send_if_modified(|drain| {
            let starts = drain.is_none();
            drain.get_or_insert(window);
            starts
        });
        self.show_readiness();
    }

    /// Readiness, as the metric shows it.
    fn show_readiness(&self) {
        let now = Now::read();
        let ready = self.unready(now).is_none() && !self.all_lost(now);
        self.metrics.ready.set(f64::from(u8::from(ready)));
    }

    /// Notes when every link has been connected once.
    pub async fn watch_links(&self) {
        for link in &self.links {
            if link.clone().wait_for(|connected| *connected).await.is_err() {
                return;
            }
        }
        self.started.send_replace(true);
        self.show_readiness();
    }

    /// Waits until every link has been connected once.
    pub async fn wait_ready(&self) {
        let _ = self.started.subscribe().wait_for(|started| *started).await;
    }

    /// Whether the server shuts down. Workers hear of it a moment later.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain.borrow().is_some()
    }

    /// Whether new clients are welcome. That all links are lost is no reason here: many load balancers end the
    /// connections of those that they ask for this, and clients stay through an outage.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.unready(Now::read()).is_none()
    }

    /// Whether no link has been connected for [`outage::ALL_LOST_MAX`], though all were once.
    fn all_lost(&self, now: Now) -> bool {
        let is_lost = *self.started.borrow() && !self.links.iter().any(|link| *link.borrow());
        self.outage.lock().unwrap_or_else(PoisonError::into_inner).is_long(is_lost, now.mono)
    }

    /// Why new clients are not welcome, if they are not.
    fn unready(&self, now: Now) -> Option<&'static str> {
        if self.is_draining() {
            Some("draining")
        } else if !*self.started.borrow() {
            Some("waiting for the first connection to Pusher")
        } else if self.generations.current().keys_to_fetch().is_some_and(|keys| !keys.has_had_keys(now)) {
            // As with links, a later outage is no reason: clients stay, and newcomers would fare no better elsewhere.
            Some("no keys yet")
        } else {
            None
        }
    }

    /// Whether new clients are welcome, and why.
    fn readiness(&self) -> (bool, String) {
        self.readiness_at(Now::read())
    }

    fn why_not(&self, now: Now) -> Option<&'static str> {
        let all_lost = self.all_lost(now).then_some("no connection to Pusher");
        self.unready(now).or(all_lost)
    }

    /// The same for programs.
    fn readiness_json(&self) -> (bool, String) {
        let why_not = self.why_not(Now::read());
        let connected = self.links.iter().filter(|link| *link.borrow()).count();
        let told = json!({
            "ready": why_not.is_none(),
            "why_not": why_not,
            "links": { "connected": connected, "of": self.links.len() },
            "configuration": self.reloads.json(),
        });
        (why_not.is_none(), format!("{told:#}\n"))
    }

    fn readiness_at(&self, now: Now) -> (bool, String) {
        let unready = self.why_not(now);
        let lost = self.links.iter().enumerate().filter(|(_, link)| !*link.borrow());
        let lost: Vec<String> = lost.map(|(at, _)| at.to_string()).collect();
        let connected = self.links.len() - lost.len();
        let mut about = format!("links connected: {connected} of {}", self.links.len());
        if self.links.len() > 1 && !lost.is_empty() {
            about.push_str(&format!(", lost: {}", lost.join(", ")));
        }
        about.push('\n');
        for line in self.credentials.lines() {
            about.push_str(&line);
            about.push('\n');
        }
        if let Some(keys) = self.generations.current().keys_to_fetch() {
            let (at_hand, all) = keys.keys_at_hand(now);
            about.push_str(&format!("keys at hand: {at_hand} of {all}\n"));
        }
        about.push_str(&self.reloads.lines());
        (unready.is_none(), format!("{}\n{about}", unready.unwrap_or("ready")))
    }

    /// Whether every worker's thread moves.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.liveness().0
    }

    fn liveness(&self) -> (bool, String) {
        match self.pulses.stuck(Now::read()) {
            0 => (true, "ok\n".to_owned()),
            stuck => (false, format!("{stuck} workers are stuck\n")),
        }
    }
}

/// Serves until `stop` is true.
pub async fn run(
    listener: TcpListener,
    status: Arc<Status>,
    mut stop: watch::Receiver<bool>,
    upkeep: impl Fn(Now) + Send + Sync,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            _ = ticks.tick() => {
                status.metrics.registry.upkeep();
                status.show_readiness();
                upkeep(Now::read());
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    if let Ok(place) = room.clone().try_acquire_owned() {
                        let status = status.clone();
                        tokio::spawn(async move {
                            serve(stream, peer, status).await;
                            drop(place);
                        });
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "an admin connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// Resolves when the order to stop is given, or nobody is left to give it.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn serve(stream: tokio::net::TcpStream, peer: SocketAddr, status: Arc<Status>) {
    let limits = Limits { head_timeout: HEADER_TIMEOUT, ..Limits::default() };
    let progress = Progress::new(tokio::time::Instant::now() + HEADER_TIMEOUT, &limits);
    let service = async |request: Request<Incoming>| {
        Ok::<_, Infallible>(answer(&request, &status).await.map(server::full))
    };
    let connection = server::serve(stream.into(), &progress, &limits, service, server::explain);
    if let Ok(End::Unreadable(..) | End::Broken(_)) =
        tokio::time::timeout(CONNECTION_TIMEOUT, connection).await
    {
        tracing::debug!(%peer, "an admin request could not be answered");
    }
}

async fn answer(request: &Request<Incoming>, status: &Status) -> Response<String> {
    let path = request.uri().path();
    // Who asks for the head alone wants to look, not to drain.
    let (methods, allow) = match path {
        "/drain" => (&[Method::GET, Method::POST][..], "GET, POST"),
        "/reload" => (&[Method::POST][..], "POST"),
        _ => (&[Method::GET, Method::HEAD][..], "GET, HEAD"),
    };
    if !methods.contains(request.method()) {
        let allow = HeaderValue::from_static(allow);
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n".to_owned());
        response.headers_mut().insert(ALLOW, allow);
        return response;
    }
    let probe = |(good, body): (bool, String)| {
        text(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
    };
    match path {
        "/healthz" => probe(status.liveness()),
        "/readyz" if asks_for_json(request) => as_json(probe(status.readiness_json())),
        "/readyz" => probe(status.readiness()),
        "/metrics" => {
            status.show_readiness();
            let mut response = text(StatusCode::OK, status.metrics.registry.render());
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        // Names of channels may be nobody else's business.
        "/debug/undelivered" => {
            match guard::check(request.uri(), request.headers(), &status.told.load().hosts) {
                Ok(()) => as_json(text(StatusCode::OK, status.undelivered.json())),
                Err(denied) => text(StatusCode::FORBIDDEN, denied.text()),
            }
        }
        // A Kubernetes preStop hook can only GET.
        "/drain" => match permitted(request, status, Purpose::Drain) {
            Ok(()) => {
                tracing::info!("asked to drain");
                status.start_draining();
                text(StatusCode::ACCEPTED, "draining\n".to_owned())
            }
            Err(denied) => text(StatusCode::FORBIDDEN, denied.text()),
        },
        "/reload" => match permitted(request, status, Purpose::Reload) {
            Ok(()) => {
                let told = status.reloads.ask(has_parameter(request, "dry_run", "true")).await;
                as_json(text(told.status, format!("{:#}\n", told.body)))
            }
            Err(denied) => text(StatusCode::FORBIDDEN, denied.text()),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "here are /healthz, /readyz, /metrics, /debug/undelivered, /drain and /reload\n".to_owned(),
        ),
    }
}

fn permitted(request: &Request<Incoming>, status: &Status, purpose: Purpose) -> Result<(), guard::Denied> {
    guard::check_purpose(request.uri(), request.headers(), &status.told.load().hosts, purpose)
}

fn has_parameter(request: &Request<Incoming>, name: &str, value: &str) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|pair| pair.split_once('=') == Some((name, value)))
}

fn asks_for_json(request: &Request<Incoming>) -> bool {
    let mut accepted = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    has_parameter(request, "format", "json") || accepted.any(|value| value.contains("application/json"))
}

fn as_json(mut response: Response<String>) -> Response<String> {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
