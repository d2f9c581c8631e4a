//! One thread of clients.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use mio::{Events, Interest, Poll, Token, Waker};

use super::client::{Client, Context, Verified};
use super::shared::{Shared, Turn};
use crate::Result;
use crate::script::Plan;

const WAKER: Token = Token(usize::MAX);
const EVENTS: usize = 1_024;
/// Shared by all clients of the thread.
const SCRATCH_BYTES: usize = 64 << 10;

pub(super) enum Command {
    Connect {
        plans: Vec<Plan>,
        window: usize,
        /// Each as soon as it is ready.
        leave: bool,
    },
    /// One piece per client, in their order.
    Send(Vec<Vec<u8>>),
    TakeDelays(Sender<Vec<u64>>),
    Close(Sender<()>),
    Stop,
}

pub(super) struct Worker {
    poll: Poll,
    waker: Arc<Waker>,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    clients: Vec<Option<Client>>,
    plans: VecDeque<Plan>,
    window: usize,
    leave: bool,
    under_way: usize,
    verified: Verified,
    delays: Vec<u64>,
    scratch: Vec<u8>,
}

impl Worker {
    pub(super) fn new(commands: Receiver<Command>, shared: Arc<Shared>) -> Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        Ok(Self {
            poll,
            waker,
            commands,
            shared,
            clients: Vec::new(),
            plans: VecDeque::new(),
            window: 0,
            leave: false,
            under_way: 0,
            verified: Verified::new(),
            delays: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
        })
    }

    pub(super) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Until it is told to stop.
    pub(super) fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                    self.shared.fail(format!("poll: {error}"));
                    return;
                }
                _ => {}
            }
            let mut turn = Turn::default();
            let mut told = false;
            for event in &events {
                if event.token() == WAKER {
                    told = true;
                } else {
                    let closed = event.is_read_closed() || event.is_error();
                    self.serve(
                        event.token(),
                        event.is_writable(),
                        event.is_readable() || closed,
                        closed,
                        &mut turn,
                    );
                }
            }
            self.under_way = self.under_way.saturating_sub(turn.ready);
            self.open_more();
            self.shared.add(&turn);
            // After the clients' events: those of closed clients must not meet new ones.
            if told && !self.obey() {
                return;
            }
        }
    }

    fn serve(&mut self, token: Token, writable: bool, readable: bool, closed: bool, turn: &mut Turn) {
        let Some(slot) = self.clients.get_mut(token.0) else { return };
        let Some(client) = slot else { return };
        let ready_before = turn.ready;
        let mut context =
            Context { shared: &self.shared, turn, verified: &mut self.verified, delays: &mut self.delays };
        let mut served = Ok(());
        if writable {
            served = client.writable();
        }
        if readable && served.is_ok() {
            served = client.readable(closed, &mut self.scratch, &mut context);
        }
        if let Err(failure) = served {
            let when = if client.is_ready() { "a ready client" } else { "a connecting client" };
            self.shared.fail(format!("{when}: {failure}"));
            *slot = None;
        } else if self.leave && turn.ready > ready_before {
            *slot = None;
        }
    }

    /// `false`: to stop.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Connect { plans, window, leave } => {
                    self.plans.extend(plans);
                    self.window = window;
                    self.leave = leave;
                    self.open_more();
                }
                Command::Send(pieces) => self.send(&pieces),
                // An error: nobody waits any more.
                Command::TakeDelays(to) => drop(to.send(std::mem::take(&mut self.delays))),
                Command::Close(done) => {
                    self.clients.clear();
                    self.plans.clear();
                    self.under_way = 0;
                    let _ = done.send(());
                }
                Command::Stop => return false,
            }
        }
        true
    }

    fn open_more(&mut self) {
        while self.under_way < self.window {
            let Some(plan) = self.plans.pop_front() else { return };
            if let Err(failure) = self.open(plan) {
                self.shared.fail(format!("connect: {failure}"));
                return;
            }
            self.under_way += 1;
        }
    }

    fn open(&mut self, plan: Plan) -> Result<()> {
        let mut client = Client::open(plan)?;
        let token = Token(self.clients.len());
        self.poll.registry().register(&mut client.socket, token, Interest::READABLE | Interest::WRITABLE)?;
        self.clients.push(Some(client));
        Ok(())
    }

    fn send(&mut self, pieces: &[Vec<u8>]) {
        for (slot, piece) in self.clients.iter_mut().zip(pieces) {
            let Some(client) = slot else { continue };
            if let Err(failure) = client.send(piece) {
                self.shared.fail(format!("send: {failure}"));
                *slot = None;
            }
        }
    }
}
