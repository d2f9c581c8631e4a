//! A Pusher-compatible server in this process: the upstream of a bridge without an account, and of the tests,
//! which can break it on purpose. It has every kind of channel, client events, sign-in of users with their own
//! channel and watchlist, publishes, channel queries and webhooks, and remembers the last event of cache channels.
//!
//! `state` and `rules` are pure and decide; `hub` is what connections share; `ws` and `api` are the two
//! protocols; `faults` and `observe` are the test's side.

mod api;
mod faults;
mod hub;
mod keys;
mod members;
mod observe;
mod queue;
mod rules;
mod state;
mod webhooks;
mod ws;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use self::hub::Hub;
use crate::http::server::{self, End, Limits, Progress};

pub use self::api::BODY_BYTES_MAX;
pub use self::faults::{HELD_PUBLISHES_MAX, HandshakeFault, PublishHold, Refusal};
pub use self::observe::{
    ClientEvent, EVER_SUBSCRIBED_MAX, LOG_BYTES_MAX, LOG_ENTRIES_MAX, Published, Requests, View,
};
pub use self::queue::{QUEUE_BYTES_MAX, QUEUE_FRAMES_MAX};
pub use self::rules::{CHANNELS_PER_EVENT_MAX, EVENTS_PER_BATCH_MAX};
pub use self::state::SUBSCRIPTIONS_PER_CONNECTION_MAX;
pub use self::webhooks::{EVENTS_PER_WEBHOOK_MAX, Webhooks};
pub use self::ws::{CLIENT_EVENTS_PER_SECOND_MAX, MESSAGE_BYTES_MAX};

/// Most TCP connections at a time; more wait in the listener's backlog.
pub const CONNECTIONS_MAX: usize = 4096;
/// Most members of a presence channel (Pusher docs, "Presence channels").
const MEMBERS_MAX: usize = 100;
/// How long a request's head may take, and how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// After an `accept` that failed, which is when file descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The app a sandbox serves, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 for any.
    pub listen: SocketAddr,
    /// The app's id, as in `/apps/{id}`.
    pub app_id: String,
    /// The app's key, as in `/app/{key}`.
    pub key: String,
    /// The app's secret.
    pub secret: SecretString,
    /// Silence after which a WebSocket is pinged. Announced in whole seconds, at least one.
    pub activity_timeout: Duration,
    /// Silence after a ping until the WebSocket is closed with 4201.
    pub pong_timeout: Duration,
    /// Most members of a presence channel.
    pub members_max: usize,
    /// Whether subscribers are told how many they are, but for those of presence channels.
    pub subscription_counts: bool,
}

impl Options {
    /// An app with fixed credentials on any port of the loopback interface, with Pusher's own timeouts.
    #[must_use]
    pub fn local() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            app_id: "sandbox".to_owned(),
            key: "sandbox-key".to_owned(),
            secret: SecretString::from("sandbox-secret"),
            activity_timeout: Duration::from_secs(120),
            pong_timeout: Duration::from_secs(30),
            members_max: MEMBERS_MAX,
            subscription_counts: false,
        }
    }
}

/// Starts sandboxes.
#[derive(Debug)]
pub struct Sandbox;

impl Sandbox {
    /// Listens, and serves until the handle is dropped.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(options: Options) -> io::Result<SandboxHandle> {
        let listener = TcpListener::bind(options.listen).await?;
        let addr = listener.local_addr()?;
        let hub = Arc::new(Hub::new(options));
        let task = tokio::spawn(accept(listener, Arc::clone(&hub)));
        Ok(SandboxHandle { hub, addr, task })
    }
}

/// A running sandbox; dropping it ends it and all its connections.
#[derive(Debug)]
pub struct SandboxHandle {
    hub: Arc<Hub>,
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl SandboxHandle {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it serves. `listen` is as it was asked for.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.hub.options
    }

    /// From now on sends webhooks to this place, and to no other.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn send_webhooks(&self, to: Webhooks) {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.hub.change(|inner| inner.send_hooks(sender));
        // It ends with the hub, or when webhooks go to another place.
        tokio::spawn(webhooks::run(self.hub.options.clone(), to, receiver));
    }

    /// Ends it and all its connections, and waits until its port is free.
    pub async fn shutdown(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }
}

impl Drop for SandboxHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, hub: Arc<Hub>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&hub)));
                }
                Err(error) => {
                    tracing::warn!(%error, "the sandbox cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one TCP connection: requests, until one of them makes it a WebSocket.
async fn serve(stream: TcpStream, hub: Arc<Hub>) {
    let _ = stream.set_nodelay(true);
    let slot = api::UpgradeSlot::default();
    let limits = Limits { head_timeout: HEAD_TIMEOUT, head_bytes_max: HEAD_BYTES_MAX, ..Limits::default() };
    let progress = Progress::new(Instant::now() + HEAD_TIMEOUT, &limits);
    let service = |request| api::answer(request, Arc::clone(&hub), slot.clone());
    match server::serve(stream.into(), &progress, &limits, service, server::explain).await {
        End::Upgraded(stream, early) => {
            if let Some(checked) = slot.take() {
                ws::run(stream, early, hub, checked).await;
            }
        }
        End::Unreadable(_, error) => tracing::debug!(%error, "a connection to the sandbox ended"),
        End::Broken(error) => tracing::debug!(%error, "a connection to the sandbox ended"),
        End::Multiplexed(..) | End::Closed | End::Parked(_) | End::TimedOut => {}
    }
}
