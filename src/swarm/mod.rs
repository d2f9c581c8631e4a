//! Thousands of old clients on few threads. This is the engine; what the clients say and hear is a [`Crew`]'s: that of
//! `simulate`, and the load benchmark's.

pub mod actor;
mod conn;
mod end;
mod out;
pub mod script;
pub mod simulate;
pub mod socket;
pub mod tally;
mod worker;
pub mod ws;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::Waker;

pub use self::end::End;
pub use self::out::Out;
use self::socket::Secured;
use self::worker::Command;
pub use self::worker::{Pace, Worker};

/// How long a server may take to answer a client's close.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// How long a thread may take to do as it is told.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// What the clients of one thread do. Times are nanoseconds since the swarm began.
pub trait Crew: Send + 'static {
    /// What is known of one client, connected or not.
    type Client: Send + 'static;

    /// How long a connection may take to be made, the upgrade with it; `None`: for ever.
    const CONNECT_MAX: Option<Duration> = None;

    /// Where it connects.
    fn dial(&mut self, client: &mut Self::Client) -> Dial;

    /// The upgrade was answered.
    fn opened(&mut self, client: &mut Self::Client, out: &mut Out<'_>);

    /// A text message came.
    ///
    /// # Errors
    /// What the client cannot live with: its connection is ended as [`End::Misspoken`].
    fn text(&mut self, client: &mut Self::Client, text: &[u8], out: &mut Out<'_>) -> Result<(), String>;

    /// The moment has come that [`Out::wake_at`] asked for.
    fn timer(&mut self, _client: &mut Self::Client, _out: &mut Out<'_>) {}

    /// The connection has ended, or was never made. When the client connects again, if it does.
    fn ended(&mut self, client: &mut Self::Client, end: End, now: u64) -> Option<u64>;

    /// All that was there to be read has been, for now.
    fn turned(&mut self) {}
}

/// A connection to be made.
pub struct Dial {
    /// The address that it comes from, if that matters.
    pub source: Option<IpAddr>,
    pub target: SocketAddr,
    /// By TLS, or plain.
    pub secured: Option<Secured>,
    /// The whole request, [`ws::upgrade_request`].
    pub request: String,
}

/// The threads of a swarm.
pub struct Threads<C: Crew> {
    handles: Vec<Handle<C>>,
}

struct Handle<C: Crew> {
    commands: Sender<Command<C>>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl<C: Crew> Threads<C> {
    /// A thread for each crew. Time is counted from `epoch`.
    ///
    /// # Errors
    /// The system refuses one.
    pub fn start(crews: impl IntoIterator<Item = C>, epoch: Instant) -> io::Result<Self> {
        let handles = crews.into_iter().map(|crew| Handle::start(crew, epoch)).collect::<io::Result<_>>()?;
        Ok(Self { handles })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// Has each thread connect its share of the clients.
    ///
    /// # Errors
    /// A thread has ended.
    pub fn connect(&self, shares: impl IntoIterator<Item = Vec<C::Client>>, pace: &[Pace]) -> io::Result<()> {
        for ((handle, clients), pace) in self.handles.iter().zip(shares).zip(pace.iter().cycle()) {
            handle.tell(Command::Connect(clients, *pace))?;
        }
        Ok(())
    }

    /// Has each thread do something, which is given its number, and waits for what comes of it.
    ///
    /// # Errors
    /// A thread has ended, or takes longer than a minute.
    pub fn each<T: Send + 'static>(
        &self,
        what: impl Fn(usize, &mut Worker<C>) -> T + Clone + Send + 'static,
    ) -> io::Result<Vec<T>> {
        let (to, results) = channel();
        for (number, handle) in self.handles.iter().enumerate() {
            let (what, to) = (what.clone(), to.clone());
            handle.tell(Command::Do(Box::new(move |worker| {
                // An error: nobody waits any more.
                let _ = to.send((number, what(number, worker)));
            })))?;
        }
        drop(to);
        let one = |_| results.recv_timeout(COMMAND_TIMEOUT).map_err(io::Error::other);
        let mut done = (0..self.handles.len()).map(one).collect::<io::Result<Vec<_>>>()?;
        done.sort_unstable_by_key(|(number, _)| *number);
        Ok(done.into_iter().map(|(_, result)| result).collect())
    }

    /// Has one thread do something.
    ///
    /// # Errors
    /// It has ended.
    pub fn tell(&self, number: usize, what: impl FnOnce(&mut Worker<C>) + Send + 'static) -> io::Result<()> {
        let handle = self.handles.get(number).ok_or_else(ended)?;
        handle.tell(Command::Do(Box::new(what)))
    }
}

impl<C: Crew> Drop for Threads<C> {
    fn drop(&mut self) {
        for handle in &mut self.handles {
            // An error: it has ended already.
            let _ = handle.tell(Command::Stop);
            if let Some(thread) = handle.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

impl<C: Crew> Handle<C> {
    fn start(crew: C, epoch: Instant) -> io::Result<Self> {
        let (commands, receiver) = channel();
        let mut worker = Worker::new(crew, receiver, epoch)?;
        let waker = worker.waker();
        let thread = std::thread::Builder::new().name("clients".into()).spawn(move || worker.run())?;
        Ok(Self { commands, waker, thread: Some(thread) })
    }

    fn tell(&self, command: Command<C>) -> io::Result<()> {
        self.commands.send(command).map_err(|_| ended())?;
        self.waker.wake()
    }
}

fn ended() -> io::Error {
    io::Error::other("a thread of clients has ended")
}
