//! Thousands of clients on few threads.

mod client;
mod shared;
mod worker;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::Waker;

use crate::Result;
use crate::script::Plan;
use shared::Shared;
use worker::{Command, Worker};

/// How long a worker may take to do as it is told.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// The clients of one run.
pub(crate) struct Swarm {
    shared: Arc<Shared>,
    workers: Vec<Handle>,
    clients: usize,
}

struct Handle {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Swarm {
    /// `bytes`: the size of the data of the events that are going to be sent.
    pub(crate) fn new(threads: u32, bytes: u32) -> Result<Self> {
        let shared = Arc::new(Shared::new(bytes as usize));
        let workers = (0..threads).map(|_| Handle::start(&shared)).collect::<Result<_>>()?;
        Ok(Self { shared, workers, clients: 0 })
    }

    /// Connects all, `window` at a time, until each is ready.
    ///
    /// # Errors
    /// Any of them failed, or they took longer than `timeout`.
    pub(crate) fn connect(&mut self, plans: Vec<Plan>, window: u32, timeout: Duration) -> Result<Duration> {
        self.open(plans, window, false, timeout)
    }

    /// The same, but each leaves as soon as it is ready.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn visit(&mut self, plans: Vec<Plan>, window: u32, timeout: Duration) -> Result<Duration> {
        self.open(plans, window, true, timeout)
    }

    fn open(&mut self, plans: Vec<Plan>, window: u32, leave: bool, timeout: Duration) -> Result<Duration> {
        let threads = self.workers.len();
        let mut shares: Vec<Vec<Plan>> = vec![Vec::new(); threads];
        let goal = self.shared.ready() + plans.len();
        for (index, plan) in plans.into_iter().enumerate() {
            if let Some(share) = shares.get_mut((self.clients + index) % threads) {
                share.push(plan);
            }
        }
        self.clients = goal;
        let window = (window as usize).div_ceil(threads);
        let start = Instant::now();
        for (worker, plans) in self.workers.iter().zip(shares) {
            worker.tell(Command::Connect { plans, window, leave })?;
        }
        self.shared.wait(timeout, "ready clients", goal as u64, |shared| shared.ready() as u64)?;
        Ok(start.elapsed())
    }

    pub(crate) fn clients(&self) -> usize {
        self.clients
    }

    /// Drops all connections.
    pub(crate) fn close(&mut self) -> Result<()> {
        let (done, all_done) = channel();
        for worker in &self.workers {
            worker.tell(Command::Close(done.clone()))?;
        }
        drop(done);
        self.wait_for(&all_done)?;
        self.clients = 0;
        self.shared.forget_clients();
        Ok(())
    }

    /// Has each client send what `frames` gives for its number.
    pub(crate) fn send(&self, frames: impl Fn(usize) -> Vec<u8>) -> Result<()> {
        let threads = self.workers.len();
        for (number, worker) in self.workers.iter().enumerate() {
            let share = (number..self.clients).step_by(threads).map(&frames).collect();
            worker.tell(Command::Send(share))?;
        }
        Ok(())
    }

    /// Calls `trigger`, which has events of sequence 0 sent, until so many clients have got one.
    pub(crate) fn warm_up(
        &self,
        clients: usize,
        timeout: Duration,
        mut trigger: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        const PAUSE: Duration = Duration::from_millis(200);
        let deadline = Instant::now() + timeout;
        loop {
            trigger()?;
            let waited = self
                .shared
                .wait(PAUSE, "clients with an event", clients as u64, |shared| shared.warm() as u64);
            match waited {
                Ok(()) => return Ok(()),
                Err(failure) if Instant::now() > deadline => return Err(failure),
                Err(_) => self.shared.check()?,
            }
        }
    }

    /// Deliveries so far, warm-up excepted.
    pub(crate) fn delivered(&self) -> u64 {
        self.shared.delivered()
    }

    /// To be called before what leads to a [`Swarm::wait_delivered`] of the same `goal`: until then, nobody is
    /// woken.
    pub(crate) fn expect(&self, goal: u64) {
        self.shared.set_goal(goal);
    }

    /// Waits until there have been `goal` deliveries, and no more than that.
    pub(crate) fn wait_delivered(&self, goal: u64, timeout: Duration) -> Result<()> {
        self.shared.set_goal(goal);
        self.shared.wait(timeout, "deliveries", goal, Shared::delivered)?;
        let delivered = self.delivered();
        if delivered == goal {
            Ok(())
        } else {
            Err(format!("{delivered} deliveries instead of {goal}").into())
        }
    }

    /// Fails if anything has been amiss: an event lost, doubled, out of order, a neighbour's, or changed, a
    /// connection lost, a frame not understood.
    pub(crate) fn check(&self) -> Result<()> {
        self.shared.check()
    }

    /// Notes that an event is being triggered; delays are counted from here.
    pub(crate) fn mark_sent(&self, sequence: u32) {
        self.shared.mark_sent(sequence);
    }

    /// When the last delivery was read, counted from its event's [`Swarm::mark_sent`].
    pub(crate) fn last_delay(&self, sequence: u32) -> Duration {
        self.shared.last_delay(sequence)
    }

    /// The delays of all deliveries since the last call.
    pub(crate) fn take_delays(&self) -> Result<Vec<Duration>> {
        let (sender, receiver) = channel();
        for worker in &self.workers {
            worker.tell(Command::TakeDelays(sender.clone()))?;
        }
        drop(sender);
        let mut delays = Vec::new();
        for _ in &self.workers {
            delays.extend(receiver.recv_timeout(COMMAND_TIMEOUT)?.into_iter().map(Duration::from_nanos));
        }
        Ok(delays)
    }

    fn wait_for(&self, done: &Receiver<()>) -> Result<()> {
        for _ in &self.workers {
            done.recv_timeout(COMMAND_TIMEOUT)?;
        }
        Ok(())
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            // An error: it has ended already.
            let _ = worker.tell(Command::Stop);
            if let Some(thread) = worker.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

impl Handle {
    fn start(shared: &Arc<Shared>) -> Result<Self> {
        let (commands, receiver) = channel();
        let mut worker = Worker::new(receiver, Arc::clone(shared))?;
        let waker = worker.waker();
        let thread = std::thread::Builder::new().name("clients".into()).spawn(move || worker.run())?;
        Ok(Self { commands, waker, thread: Some(thread) })
    }

    fn tell(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| "a thread of the harness has ended")?;
        Ok(self.waker.wake()?)
    }
}
