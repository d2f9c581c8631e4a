//! A TCP proxy in front of a Pusher that breaks as it is told, for the link or for the HTTP API alone.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A WebSocket.
    Link,
    /// Requests to the HTTP API.
    Api,
}

/// What happens to a kind's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// New connections are ended with their first byte.
    Refuse,
    /// Nothing moves, either way, and nothing breaks; afterwards it moves on: a dead network.
    Freeze,
    /// The same, but afterwards the connections are dead: a server that hangs, and is then killed.
    Hang,
    /// Chunks of so many bytes with such a pause after each.
    Slow(usize, Duration),
    /// Whoever asks gets these bytes, and the end.
    Answer(&'static [u8]),
}

struct Modes {
    link: watch::Sender<Mode>,
    api: watch::Sender<Mode>,
}

impl Modes {
    fn of(&self, kind: Kind) -> &watch::Sender<Mode> {
        match kind {
            Kind::Link => &self.link,
            Kind::Api => &self.api,
        }
    }
}

struct Connection {
    kind: Kind,
    cut: Notify,
    /// What the server said.
    said: Mutex<Vec<u8>>,
}

pub struct Proxy {
    pub address: SocketAddr,
    modes: Arc<Modes>,
    connections: Arc<Mutex<Vec<Weak<Connection>>>>,
}

impl Proxy {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let modes =
            Arc::new(Modes { link: watch::Sender::new(Mode::Pass), api: watch::Sender::new(Mode::Pass) });
        let connections: Arc<Mutex<Vec<Weak<Connection>>>> = Arc::default();
        let (shared, all) = (modes.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (modes, all) = (shared.clone(), all.clone());
                tokio::spawn(async move {
                    // How a connection ends is the fault itself.
                    let _ = serve(stream, to, &modes, &all).await;
                });
            }
        });
        Self { address, modes, connections }
    }

    pub fn set(&self, kind: Kind, mode: Mode) {
        self.modes.of(kind).send_replace(mode);
    }

    pub fn set_both(&self, mode: Mode) {
        self.set(Kind::Link, mode.clone());
        self.set(Kind::Api, mode);
    }

    fn those(&self, which: impl Fn(&Connection) -> bool) -> Vec<Arc<Connection>> {
        let mut all = self.connections.lock().unwrap();
        all.retain(|connection| connection.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).filter(|connection| which(connection)).collect()
    }

    /// Resets every connection.
    pub fn cut(&self) {
        self.those(|_| true).iter().for_each(|connection| connection.cut.notify_one());
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

async fn serve(
    mut client: TcpStream,
    to: SocketAddr,
    modes: &Modes,
    all: &Mutex<Vec<Weak<Connection>>>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut first = vec![0; 64 * 1024];
    let read = client.read(&mut first).await?;
    first.truncate(read);
    let kind = if first.starts_with(b"GET /app/") { Kind::Link } else { Kind::Api };
    let mode = modes.of(kind);
    let connection = Arc::new(Connection { kind, cut: Notify::new(), said: Mutex::default() });
    all.lock().unwrap().push(Arc::downgrade(&connection));
    tokio::select! {
        carried = carry(&mut client, first, to, mode, &connection) => {
            let now = mode.borrow().clone();
            match now {
                _ if carried.is_ok() => Ok(()),
                Mode::Answer(bytes) => client.write_all(bytes).await,
                _ => client.set_zero_linger(),
            }
        }
        () = connection.cut.notified() => client.set_zero_linger(),
    }
}

/// Carries the connection to its end, or until its mode forbids it.
async fn carry(
    client: &mut TcpStream,
    first: Vec<u8>,
    to: SocketAddr,
    mode: &watch::Sender<Mode>,
    connection: &Connection,
) -> io::Result<()> {
    allowed(mode, Says::Client).await?;
    let mut server = TcpStream::connect(to).await?;
    server.set_nodelay(true)?;
    server.write_all(&first).await?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        pump(from_client, to_server, mode, Says::Client, |_| {}),
        pump(from_server, to_client, mode, Says::Server, |bytes| {
            if connection.kind == Kind::Link {
                connection.said.lock().unwrap().extend_from_slice(bytes);
            }
        }),
    )?;
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Client,
    Server,
}

/// Waits while nothing may move. What the server says to a request that it got is never replaced.
async fn allowed(mode: &watch::Sender<Mode>, says: Says) -> io::Result<Mode> {
    let mut mode = mode.subscribe();
    let hung = *mode.borrow() == Mode::Hang;
    let now = mode.wait_for(|mode| !matches!(mode, Mode::Freeze | Mode::Hang)).await.unwrap().clone();
    match now {
        _ if hung => Err(io::ErrorKind::ConnectionAborted.into()),
        Mode::Refuse | Mode::Answer(_) if says == Says::Client => {
            Err(io::ErrorKind::ConnectionAborted.into())
        }
        now => Ok(now),
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mode: &watch::Sender<Mode>,
    says: Says,
    mut note: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut chunk).await?;
        // Also of the end nobody hears in a dead network.
        let (piece, pause) = match allowed(mode, says).await? {
            Mode::Slow(bytes, pause) => (bytes, pause),
            _ => (chunk.len(), Duration::ZERO),
        };
        if read == 0 {
            return to.shutdown().await;
        }
        for piece in chunk[..read].chunks(piece) {
            note(piece);
            to.write_all(piece).await?;
            tokio::time::sleep(pause).await;
        }
    }
}
