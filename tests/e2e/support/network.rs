//! The network of the tests: TCP proxies with the latency of a profile, which break as they are told. One stands
//! between a bridge and its Pusher, for the link and for the HTTP API, another between old clients and the bridge.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

/// Pieces of a connection's one direction that are on their way: bandwidth has no other bound.
const ON_THE_WAY_MAX: usize = 8192;
const PIECE_BYTES_MAX: usize = 16 * 1024;

// ------------------------------------------------------------------------------------------------ profiles

/// How long bytes are on their way. Their order within a connection is kept, and its handshake takes no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Least time, each way.
    pub delay: Duration,
    /// So much more at most, differently for each piece.
    pub jitter: Duration,
}

tokio::task_local! {
    static PROFILE: Profile;
}

impl Profile {
    pub const LOOPBACK: Self = Self { delay: Duration::ZERO, jitter: Duration::ZERO };
    /// Another continent.
    pub const FAR: Self = Self { delay: Duration::from_millis(40), jitter: Duration::from_millis(20) };

    /// That of the running test: see [`near_and_far`](crate::near_and_far).
    pub fn current() -> Self {
        PROFILE.try_with(|profile| *profile).unwrap_or(Self::LOOPBACK)
    }

    /// Runs a test in this network.
    pub async fn scope<T>(self, test: impl Future<Output = T>) -> T {
        PROFILE.scope(self, test).await
    }

    /// Puts a proxy between a bridge with this environment and its Pusher.
    pub async fn put_before_pusher(self, environment: &mut HashMap<String, String>) {
        if self == Self::LOOPBACK {
            return;
        }
        // A certificate's name stays as it is.
        let ip = environment["PUSHER_HOST"].parse::<IpAddr>();
        let port = environment["PUSHER_PORT"].parse().unwrap();
        let to = SocketAddr::new(ip.clone().unwrap_or(Ipv4Addr::LOCALHOST.into()), port);
        let proxy = Proxy::with(self, to).await.address;
        if ip.is_ok() {
            environment.insert("PUSHER_HOST".to_owned(), proxy.ip().to_string());
        }
        environment.insert("PUSHER_PORT".to_owned(), proxy.port().to_string());
    }

    /// Where old clients find a bridge that listens there.
    pub async fn put_before_bridge(self, bridge: SocketAddr) -> SocketAddr {
        if self == Self::LOOPBACK { bridge } else { Proxy::with(self, bridge).await.address }
    }
}

/// Makes tests of an `async fn`: on loopback, and with old clients and Pusher far away.
#[macro_export]
macro_rules! near_and_far {
    ($test:ident) => {
        mod $test {
            #[tokio::test(flavor = "multi_thread")]
            async fn loopback() {
                super::$test().await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn far() {
                $crate::support::network::Profile::FAR.scope(super::$test()).await;
            }
        }
    };
}

// ------------------------------------------------------------------------------------------------- proxies

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A bridge's WebSocket to Pusher.
    Link,
    /// An old client's.
    Client,
    /// Requests to the HTTP API.
    Api,
}

impl Kind {
    fn of(first: &[u8]) -> Self {
        match first {
            first if first.starts_with(b"GET /app/") => Self::Link,
            // Whether the credentials are right; messages may follow on the same connection.
            first if first.starts_with(b"GET /apps/") => Self::Api,
            first if first.starts_with(b"GET ") => Self::Client,
            _ => Self::Api,
        }
    }
}

/// One side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    Client,
    Server,
}

/// What happens to a kind's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// New connections are ended with their first byte.
    Refuse,
    /// What this side says waits, and afterwards moves on.
    Hold(Says),
    /// Nothing moves, either way, and nothing breaks; afterwards it moves on: a dead network.
    Freeze,
    /// The same, but afterwards the connections are dead: a server that hangs, and is then killed.
    Hang,
    /// Chunks of so many bytes with such a pause after each.
    Slow(usize, Duration),
    /// Whoever asks gets these bytes, and the end.
    Answer(&'static [u8]),
}

/// A message of a request that nobody got an answer to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Unanswered {
    pub channel: String,
    #[serde(rename = "name")]
    pub event: String,
    pub data: String,
}

/// What all connections of a proxy share.
struct Shared {
    profile: Profile,
    link: watch::Sender<Mode>,
    client: watch::Sender<Mode>,
    api: watch::Sender<Mode>,
    /// Directions of connections in which something waits for its mode.
    held: watch::Sender<Vec<(Kind, Says)>>,
    lose_requests: AtomicUsize,
    lose_answers: AtomicUsize,
    unanswered: Mutex<Vec<Unanswered>>,
    connections: Mutex<Vec<Weak<Connection>>>,
    /// How many there were, which seeds their jitter.
    count: AtomicU64,
}

impl Shared {
    fn mode(&self, kind: Kind) -> &watch::Sender<Mode> {
        match kind {
            Kind::Link => &self.link,
            Kind::Client => &self.client,
            Kind::Api => &self.api,
        }
    }
}

struct Connection {
    kind: Kind,
    cut: Notify,
    /// What the server of a link said.
    said: Mutex<Vec<u8>>,
    /// A request, until its answer has passed.
    asked: Mutex<Vec<u8>>,
}

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Without latency.
    pub async fn start(to: SocketAddr) -> Self {
        Self::with(Profile::LOOPBACK, to).await
    }

    /// It lives as long as the runtime, for its connections may outlive whoever made it.
    pub async fn with(profile: Profile, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            profile,
            link: watch::Sender::new(Mode::Pass),
            client: watch::Sender::new(Mode::Pass),
            api: watch::Sender::new(Mode::Pass),
            held: watch::Sender::default(),
            lose_requests: AtomicUsize::new(0),
            lose_answers: AtomicUsize::new(0),
            unanswered: Mutex::default(),
            connections: Mutex::default(),
            count: AtomicU64::new(0),
        });
        let all = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = all.clone();
                tokio::spawn(async move {
                    // How a connection ends is the fault itself.
                    let _ = serve(stream, to, &shared).await;
                });
            }
        });
        Self { address, shared }
    }

    pub fn set(&self, kind: Kind, mode: Mode) {
        self.shared.mode(kind).send_replace(mode);
    }

    pub fn set_both(&self, mode: Mode) {
        self.set(Kind::Link, mode.clone());
        self.set(Kind::Api, mode);
    }

    /// Waits until something waits for [`Mode::Hold`].
    pub async fn until_held(&self, kind: Kind, says: Says) {
        let mut held = self.shared.held.subscribe();
        let waits = held.wait_for(|held| held.contains(&(kind, says)));
        super::patiently(&format!("{kind:?}: what the {says:?} says to be held"), waits).await.unwrap();
    }

    /// The next so many requests to the API break their connections, and nobody ever sees them.
    pub fn lose_requests(&self, count: usize) {
        self.shared.lose_requests.fetch_add(count, Ordering::Relaxed);
    }

    /// The next so many answers of the API break their connections: their requests were carried out.
    pub fn lose_answers(&self, count: usize) {
        self.shared.lose_answers.fetch_add(count, Ordering::Relaxed);
    }

    /// How many requests and answers are to be lost still.
    pub fn to_lose(&self) -> usize {
        [&self.shared.lose_requests, &self.shared.lose_answers]
            .map(|n| n.load(Ordering::Relaxed))
            .iter()
            .sum()
    }

    /// Nothing more is lost.
    pub fn lose_nothing(&self) {
        self.shared.lose_requests.store(0, Ordering::Relaxed);
        self.shared.lose_answers.store(0, Ordering::Relaxed);
    }

    /// The messages whose answer was lost, carried out or not, once for each time.
    pub fn unanswered(&self) -> Vec<Unanswered> {
        self.shared.unanswered.lock().unwrap().clone()
    }

    fn those(&self, which: impl Fn(&Connection) -> bool) -> Vec<Arc<Connection>> {
        let mut all = self.shared.connections.lock().unwrap();
        all.retain(|connection| connection.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).filter(|connection| which(connection)).collect()
    }

    /// Resets every connection.
    pub fn cut(&self) {
        self.those(|_| true).iter().for_each(|connection| connection.cut.notify_one());
    }

    /// Resets every connection of this kind, and says how many there were. What is on its way is lost.
    pub fn cut_all_of(&self, kind: Kind) -> usize {
        let those = self.those(|connection| connection.kind == kind);
        those.iter().for_each(|connection| connection.cut.notify_one());
        those.len()
    }

    /// Resets the link that carries this channel, and says how many there were.
    pub fn cut_link_of(&self, channel: &str) -> usize {
        let stands = format!(r#"subscription_succeeded","channel":"{channel}""#);
        let carries = |connection: &Connection| {
            String::from_utf8_lossy(&connection.said.lock().unwrap()).contains(&stands)
        };
        let links = self.those(|connection| connection.kind == Kind::Link && carries(connection));
        links.iter().for_each(|connection| connection.cut.notify_one());
        links.len()
    }
}

// -------------------------------------------------------------------------------------------- connections

async fn serve(mut client: TcpStream, to: SocketAddr, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut first = vec![0; 64 * 1024];
    let read = client.read(&mut first).await?;
    first.truncate(read);
    let kind = Kind::of(&first);
    let mode = shared.mode(kind);
    let connection =
        Arc::new(Connection { kind, cut: Notify::new(), said: Mutex::default(), asked: Mutex::default() });
    shared.connections.lock().unwrap().push(Arc::downgrade(&connection));
    let ended = tokio::select! {
        carried = carry(&mut client, first, to, shared, &connection) => {
            let now = mode.borrow().clone();
            match now {
                _ if carried.is_ok() => Ok(()),
                Mode::Answer(bytes) => client.write_all(bytes).await,
                _ => client.set_zero_linger(),
            }
        }
        () = connection.cut.notified() => client.set_zero_linger(),
    };
    let asked = std::mem::take(&mut *connection.asked.lock().unwrap());
    shared.unanswered.lock().unwrap().extend(messages_of(&asked));
    ended
}

/// The messages of a publish.
fn messages_of(request: &[u8]) -> Vec<Unanswered> {
    #[derive(Deserialize)]
    struct Batch {
        batch: Vec<Unanswered>,
    }
    let Some(at) = request.windows(4).position(|four| four == b"\r\n\r\n") else { return Vec::new() };
    let body = &request[at + 4..];
    match (serde_json::from_slice(body), serde_json::from_slice(body)) {
        (Ok(Batch { batch }), _) => batch,
        (_, Ok(one)) => vec![one],
        _ => Vec::new(),
    }
}

/// Carries the connection to its end, or until its mode forbids it.
async fn carry(
    client: &mut TcpStream,
    first: Vec<u8>,
    to: SocketAddr,
    shared: &Shared,
    connection: &Connection,
) -> io::Result<()> {
    let up = Direction { shared, connection, says: Says::Client };
    let down = Direction { shared, connection, says: Says::Server };
    let mode = up.allowed().await?;
    let mut server = TcpStream::connect(to).await?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let number = shared.count.fetch_add(1, Ordering::Relaxed);
    let carried = tokio::try_join!(
        up.pump(from_client, to_server, Some((mode, first)), 2 * number),
        down.pump(from_server, to_client, None, 2 * number + 1),
    );
    if carried.is_err() {
        // One side's break is the other's.
        server.set_zero_linger()?;
    }
    carried.map(|_| ())
}

#[derive(Clone, Copy)]
struct Direction<'a> {
    shared: &'a Shared,
    connection: &'a Connection,
    says: Says,
}

impl Direction<'_> {
    /// Waits while nothing may move. What the server says to a request that it got is never replaced.
    async fn allowed(self) -> io::Result<Mode> {
        let Self { shared, connection: Connection { kind, .. }, says } = self;
        let mut mode = shared.mode(*kind).subscribe();
        let hung = *mode.borrow() == Mode::Hang;
        let waits = |mode: &Mode| match mode {
            Mode::Freeze | Mode::Hang => true,
            Mode::Hold(held) => *held == says,
            _ => false,
        };
        let _held = waits(&mode.borrow()).then(|| Held::new(&shared.held, (*kind, says)));
        let now = mode.wait_for(|mode| !waits(mode)).await.unwrap().clone();
        match now {
            _ if hung => Err(io::ErrorKind::ConnectionAborted.into()),
            Mode::Refuse | Mode::Answer(_) if says == Says::Client => {
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            now => Ok(now),
        }
    }

    /// Carries one direction, with what was read and allowed already as its beginning.
    async fn pump(
        self,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
        first: Option<(Mode, Vec<u8>)>,
        seed: u64,
    ) -> io::Result<()> {
        let Profile { delay, jitter } = self.shared.profile;
        let mut piece = vec![0; PIECE_BYTES_MAX];
        if self.shared.profile == Profile::LOOPBACK {
            // Nothing is read that cannot be written: who does not read slows the other side.
            if let Some((mode, first)) = first {
                self.write(&mut to, &first, mode).await?;
            }
            loop {
                let read = from.read(&mut piece).await?;
                // Also of the end nobody hears in a dead network.
                let mode = self.allowed().await?;
                self.write(&mut to, &piece[..read], mode).await?;
                if read == 0 {
                    return Ok(());
                }
            }
        }
        let (sender, mut on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY_MAX);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut arrival = move || Instant::now() + delay + jitter.mul_f64(rng.f64());
        let reading = async {
            if let Some((_, first)) = first {
                let _ = sender.send((arrival(), first)).await;
            }
            loop {
                let read = match from.read(&mut piece).await {
                    Ok(read) => read,
                    Err(error) => {
                        // A reset is on its way as long as bytes are.
                        tokio::time::sleep_until(arrival()).await;
                        return Err(error);
                    }
                };
                let _ = sender.send((arrival(), piece[..read].to_vec())).await;
                if read == 0 {
                    drop(sender);
                    return Ok(());
                }
            }
        };
        let writing = async {
            while let Some((arrival, piece)) = on_the_way.recv().await {
                tokio::time::sleep_until(arrival).await;
                let mode = self.allowed().await?;
                self.write(&mut to, &piece, mode).await?;
            }
            Ok(())
        };
        tokio::try_join!(reading, writing).map(|_| ())
    }

    /// Writes what has arrived; an empty piece is the end.
    async fn write(self, to: &mut WriteHalf<'_>, bytes: &[u8], mode: Mode) -> io::Result<()> {
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        let (piece, pause) = match mode {
            Mode::Slow(bytes, pause) => (bytes, pause),
            _ => (bytes.len(), Duration::ZERO),
        };
        for piece in bytes.chunks(piece) {
            self.passes(piece)?;
            to.write_all(piece).await?;
            self.has_passed();
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }

    /// # Errors
    /// It is lost.
    fn passes(self, bytes: &[u8]) -> io::Result<()> {
        let Self { shared, connection, says } = self;
        let lost = |count: &AtomicUsize| {
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_ok()
        };
        match (connection.kind, says) {
            (Kind::Link, Says::Server) => connection.said.lock().unwrap().extend_from_slice(bytes),
            (Kind::Api, Says::Client) => {
                let begins = {
                    let mut asked = connection.asked.lock().unwrap();
                    asked.extend_from_slice(bytes);
                    asked.len() == bytes.len()
                };
                if begins && lost(&shared.lose_requests) {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            (Kind::Api, Says::Server) if lost(&shared.lose_answers) => {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            _ => {}
        }
        Ok(())
    }

    fn has_passed(self) {
        if (self.connection.kind, self.says) == (Kind::Api, Says::Server) {
            self.connection.asked.lock().unwrap().clear();
        }
    }
}

/// A direction of a connection in which something waits.
struct Held<'a>(&'a watch::Sender<Vec<(Kind, Says)>>, (Kind, Says));

impl<'a> Held<'a> {
    fn new(all: &'a watch::Sender<Vec<(Kind, Says)>>, it: (Kind, Says)) -> Self {
        all.send_modify(|held| held.push(it));
        Self(all, it)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|held| {
            let at = held.iter().position(|held| *held == self.1);
            if let Some(at) = at {
                held.swap_remove(at);
            }
        });
    }
}
