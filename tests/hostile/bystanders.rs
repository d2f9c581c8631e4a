//! Everybody else: old clients that get numbered events at a fixed rate, and newcomers that log in one after the
//! other. They come from addresses of their own, and run on a runtime of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use pusher_bridge::sandbox::SandboxHandle;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::report::{Noticed, percentile};
use crate::stream::Stream;
use crate::support::bridge::token;
use crate::support::patiently;

const PATH: &str = "/ws/agent/watched";
const CHANNEL: &str = "agent-status";
/// Two users with as many connections as one may have.
const USERS: usize = 2;
const CONNECTIONS_PER_USER: usize = 10;
/// As many clients watch.
pub const WATCHING: usize = USERS * CONNECTIONS_PER_USER;
/// Between two events.
const EVERY: Duration = Duration::from_millis(20);
/// Events of the calm phase, and before them those that nobody measures.
const CALM: usize = 50;
const WARM_UP: usize = 10;
/// Between two newcomers.
const NEWCOMER_EVERY: Duration = Duration::from_millis(50);
const FROM: Ipv4Addr = Ipv4Addr::new(127, 200, 0, 1);
const NEWCOMER_FROM: Ipv4Addr = Ipv4Addr::new(127, 200, 0, 2);

type Socket = WebSocketStream<Stream>;

pub struct Bystanders {
    watching: Vec<JoinHandle<Result<Vec<Duration>, String>>>,
    publishing: JoinHandle<()>,
    newcomers: JoinHandle<()>,
    shared: Arc<Shared>,
    stop_newcomers: watch::Sender<bool>,
    stop: watch::Sender<bool>,
}

#[derive(Default)]
struct Shared {
    /// When each event was published.
    published: Mutex<Vec<Instant>>,
    /// The first event under attack, and the first after it.
    attacked_from: Mutex<Option<usize>>,
    attacked_to: Mutex<Option<usize>>,
    attacked: AtomicBool,
    /// How long each newcomer took, calm and attacked; `None`: turned away.
    logins: [Mutex<Vec<Option<Duration>>>; 2],
}

impl Bystanders {
    /// They are in service, and the calm phase is over.
    pub async fn start(address: SocketAddr, sandbox: Arc<SandboxHandle>) -> Self {
        let shared = Arc::new(Shared::default());
        let mut watching = Vec::new();
        for n in 0..WATCHING {
            let user = format!("watcher-{}", n / CONNECTIONS_PER_USER);
            let socket = login(FROM, address, PATH, &user).await.unwrap();
            watching.push(tokio::spawn(watch_events(socket, shared.clone())));
        }
        let (stop, stopped) = watch::channel(false);
        let (stop_newcomers, newcomers_stopped) = watch::channel(false);
        let publishing = tokio::spawn(publish(sandbox, shared.clone(), stopped));
        let newcomers = tokio::spawn(newcomers(address, shared.clone(), newcomers_stopped));
        let bystanders = Self { watching, publishing, newcomers, shared, stop_newcomers, stop };
        bystanders.published(WARM_UP + CALM).await;
        bystanders
    }

    /// From now on it counts as attacked.
    pub fn attack(&self) {
        let from = self.shared.published.lock().unwrap().len();
        *self.shared.attacked_from.lock().unwrap() = Some(from);
        self.shared.attacked.store(true, Ordering::Relaxed);
    }

    /// What is published from now on does not count: it would make the late ones fewer in a hundred.
    pub fn attack_over(&self) {
        let to = self.shared.published.lock().unwrap().len();
        *self.shared.attacked_to.lock().unwrap() = Some(to);
    }

    /// No further newcomer; the last is welcome, and gone again.
    pub async fn stop_newcomers(&mut self, address: SocketAddr) {
        self.stop_newcomers.send_replace(true);
        patiently("the last newcomer", &mut self.newcomers).await.unwrap();
        patiently("a newcomer to be welcome", async {
            while login(NEWCOMER_FROM, address, PATH, "newcomer").await.is_err() {
                tokio::time::sleep(NEWCOMER_EVERY).await;
            }
        })
        .await;
    }

    /// Ends, when every client has got every event, once, and in order. What they noticed, calm and attacked.
    pub async fn finish(self) -> [Noticed; 2] {
        self.stop.send_replace(true);
        patiently("the last event", self.publishing).await.unwrap();
        let events = self.shared.published.lock().unwrap().len();
        let from = self.shared.attacked_from.lock().unwrap().unwrap_or(events);
        let to = self.shared.attacked_to.lock().unwrap().unwrap_or(events);
        let (mut calm, mut attacked) = (Vec::new(), Vec::new());
        for watching in self.watching {
            let delays = patiently("a watcher's end", watching).await.unwrap().unwrap();
            assert_eq!(delays.len(), events, "events of one watcher");
            calm.extend_from_slice(&delays[WARM_UP..from]);
            attacked.extend_from_slice(&delays[from..to]);
        }
        let [calm_logins, attacked_logins] = &self.shared.logins;
        [noticed(calm, &calm_logins.lock().unwrap()), noticed(attacked, &attacked_logins.lock().unwrap())]
    }

    async fn published(&self, count: usize) {
        patiently("events to be published", async {
            while self.shared.published.lock().unwrap().len() < count {
                tokio::time::sleep(EVERY).await;
            }
        })
        .await;
    }
}

fn noticed(mut delays: Vec<Duration>, logins: &[Option<Duration>]) -> Noticed {
    let took: Vec<Duration> = logins.iter().flatten().copied().collect();
    Noticed {
        events: delays.len(),
        p50: percentile(&mut delays, 0.50),
        p99: percentile(&mut delays, 0.99),
        logins: took.len(),
        refused: logins.len() - took.len(),
        slowest: took.into_iter().max().unwrap_or_default(),
    }
}

/// Connects from an address, and authenticates with every permission. `Err` tells how that was refused.
pub async fn login(from: Ipv4Addr, to: SocketAddr, path: &str, user: &str) -> Result<Socket, String> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let stream = socket.connect(to).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let stream = Stream::over(stream, to).await.map_err(|error| error.to_string())?;
    let (mut socket, _) =
        client_async(format!("ws://{to}{path}"), stream).await.map_err(|error| error.to_string())?;
    let auth = format!(r#"{{"type":"auth","token":"Bearer {}"}}"#, token(user));
    socket.send(Message::text(auth)).await.map_err(|error| error.to_string())?;
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) if text.contains("auth_response") => return Ok(socket),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => return Err(format!("{other:?}")),
        }
    }
}

async fn publish(sandbox: Arc<SandboxHandle>, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => break,
            _ = ticks.tick() => {}
        }
        let n = {
            let mut published = shared.published.lock().unwrap();
            published.push(Instant::now());
            published.len() - 1
        };
        sandbox.trigger(CHANNEL, "tick", &format!(r#"{{"agent_id":"watched","n":{n}}}"#));
    }
    sandbox.trigger(CHANNEL, "end", r#"{"agent_id":"watched"}"#);
}

/// Reads to the last event; gives each one's delay, or what came instead.
async fn watch_events(mut socket: Socket, shared: Arc<Shared>) -> Result<Vec<Duration>, String> {
    let mut delays = Vec::new();
    loop {
        let text = match socket.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            other => return Err(format!("a watcher got {other:?} after {} events", delays.len())),
        };
        let now = Instant::now();
        let frame: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        match (frame["type"].as_str(), frame["data"]["n"].as_u64()) {
            (Some("end"), None) => return Ok(delays),
            (Some("ping"), None) => {
                let pong = Message::text(r#"{"type":"pong"}"#);
                socket.send(pong).await.map_err(|error| error.to_string())?;
            }
            (Some("tick"), Some(n)) if n == delays.len() as u64 => {
                let published = shared.published.lock().unwrap()[delays.len()];
                delays.push(now.saturating_duration_since(published));
            }
            _ => return Err(format!("a watcher got {text} in place of event {}", delays.len())),
        }
    }
}

async fn newcomers(address: SocketAddr, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    loop {
        let attacked = shared.attacked.load(Ordering::Relaxed);
        let began = Instant::now();
        let outcome = patiently("a newcomer", login(NEWCOMER_FROM, address, PATH, "newcomer")).await;
        let took = outcome.is_ok().then(|| began.elapsed());
        shared.logins[usize::from(attacked)].lock().unwrap().push(took);
        if let Ok(mut socket) = outcome {
            let _ = socket.close(None).await;
            while let Some(Ok(_)) = socket.next().await {}
        }
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(NEWCOMER_EVERY) => {}
        }
    }
}
