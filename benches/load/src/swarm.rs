//! Thousands of clients on few threads.

mod crew;
mod shared;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pusher_bridge::swarm::{Pace, Threads};

use crate::Result;
use crate::script::Plan;
use crew::{Client, Crew};
use shared::Shared;

/// The clients of one run.
pub(crate) struct Swarm {
    shared: Arc<Shared>,
    threads: Threads<Crew>,
    clients: usize,
}

impl Swarm {
    /// `bytes`: the size of the data of the events that are going to be sent.
    pub(crate) fn new(threads: u32, bytes: u32) -> Result<Self> {
        let epoch = Instant::now();
        let shared = Arc::new(Shared::new(epoch, bytes as usize));
        let threads = Threads::start((0..threads).map(|_| Crew::new(Arc::clone(&shared))), epoch)?;
        Ok(Self { shared, threads, clients: 0 })
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
        let threads = self.threads.count();
        let mut shares: Vec<Vec<Client>> = (0..threads).map(|_| Vec::new()).collect();
        let goal = self.shared.ready() + plans.len();
        for (index, plan) in plans.into_iter().enumerate() {
            if let Some(share) = shares.get_mut((self.clients + index) % threads) {
                share.push(Client::new(plan));
            }
        }
        self.clients = goal;
        self.threads.each(move |_, worker| worker.crew.leaves = leave)?;
        let window = (window as usize).div_ceil(threads);
        let start = Instant::now();
        self.threads.connect(shares, &[Pace { window, first: 0, step: 0 }])?;
        self.shared.wait(timeout, "ready clients", goal as u64, |shared| shared.ready() as u64)?;
        Ok(start.elapsed())
    }

    pub(crate) fn clients(&self) -> usize {
        self.clients
    }

    /// Drops all connections.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.threads.each(|_, worker| worker.forget())?;
        self.clients = 0;
        self.shared.forget_clients();
        Ok(())
    }

    /// Has each client send what `frames` gives for its number.
    pub(crate) fn send(&self, frames: impl Fn(usize) -> Vec<u8>) -> Result<()> {
        let threads = self.threads.count();
        for number in 0..threads {
            let share: Vec<_> = (number..self.clients).step_by(threads).map(&frames).collect();
            self.threads.tell(number, move |worker| {
                worker.for_each_open(|index, _, out| {
                    out.send_frames(share.get(index).map_or(&[], Vec::as_slice));
                });
            })?;
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
        let delays = self.threads.each(|_, worker| std::mem::take(&mut worker.crew.delays))?;
        Ok(delays.into_iter().flatten().map(Duration::from_nanos).collect())
    }
}
