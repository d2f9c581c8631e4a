//! One thread of clients.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};

use super::conn::{Conn, since};
use super::out::Said;
use super::{CLOSE_MAX, Crew, End, Out};

const WAKER: Token = Token(usize::MAX);
const EVENTS: usize = 1_024;
/// Shared by all clients of the thread.
const SCRATCH_BYTES: usize = 64 << 10;
const CLOSE_MAX_NS: u64 = CLOSE_MAX.as_secs() * 1_000_000_000;
/// No time at all.
const NEVER: u64 = u64::MAX;

/// How fast clients connect.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Most that are being connected at once.
    pub window: usize,
    /// When the first does.
    pub first: u64,
    /// From one to the next; 0: as fast as the window lets them.
    pub step: u64,
}

/// Something to be done on the thread.
pub(super) type Errand<C> = Box<dyn FnOnce(&mut Worker<C>) + Send>;

pub(super) enum Command<C: Crew> {
    Connect(Vec<C::Client>, Pace),
    Do(Errand<C>),
    Stop,
}

/// One thread's clients and their crew.
pub struct Worker<C: Crew> {
    poll: Poll,
    waker: Arc<Waker>,
    commands: Receiver<Command<C>>,
    /// What the clients of this thread share.
    pub crew: C,
    members: Vec<Member<C::Client>>,
    /// Those whose turn to connect has come.
    waiting: VecDeque<usize>,
    timers: BinaryHeap<Reverse<(u64, usize)>>,
    window: usize,
    under_way: usize,
    scratch: Vec<u8>,
    epoch: Instant,
}

struct Member<T> {
    client: T,
    conn: Option<Conn>,
    is_under_way: bool,
    /// When it is woken, or connects; another time in the heap is out of date.
    wake: u64,
}

impl<C: Crew> Worker<C> {
    pub(super) fn new(crew: C, commands: Receiver<Command<C>>, epoch: Instant) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        Ok(Self {
            poll,
            waker,
            commands,
            crew,
            members: Vec::new(),
            waiting: VecDeque::new(),
            timers: BinaryHeap::new(),
            window: 0,
            under_way: 0,
            scratch: vec![0; SCRATCH_BYTES],
            epoch,
        })
    }

    pub(super) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Until it is told to stop.
    pub(super) fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let timeout = self.timers.peek().map(|Reverse((at, _))| at.saturating_sub(since(self.epoch)));
            // An error other than an interruption cannot be: the descriptors are its own.
            if self.poll.poll(&mut events, timeout.map(Duration::from_nanos)).is_err() {
                events.clear();
            }
            let mut told = false;
            for event in &events {
                if event.token() == WAKER {
                    told = true;
                } else {
                    let closed = event.is_read_closed() || event.is_error();
                    let readable = event.is_readable() || closed;
                    self.serve(event.token().0, event.is_writable(), readable, closed);
                }
            }
            self.fire();
            self.open_more();
            self.crew.turned();
            // After the clients' events: those of clients that are forgotten must not meet new ones.
            if told && !self.obey() {
                return;
            }
        }
    }

    fn serve(&mut self, index: usize, writable: bool, readable: bool, closed: bool) {
        let Some(member) = self.members.get_mut(index) else { return };
        let Some(conn) = &mut member.conn else { return };
        let mut said = Said::default();
        let mut served = Ok(());
        if writable {
            served = conn.writable();
        }
        if readable && served.is_ok() {
            let hearing = (&mut self.crew, &mut member.client, &mut said);
            served = conn.readable(closed, &mut self.scratch, hearing, self.epoch);
        }
        self.settle(index, &said, served);
    }

    /// What a client's crew said, and how its connection is, take effect.
    fn settle(&mut self, index: usize, said: &Said, served: Result<(), End>) {
        let Some(member) = self.members.get_mut(index) else { return };
        if member.is_under_way && (said.is_ready || served.is_err()) {
            member.is_under_way = false;
            self.under_way = self.under_way.saturating_sub(1);
        }
        let mut wake = said.wake;
        if said.closes {
            wake = Some(since(self.epoch) + CLOSE_MAX_NS);
        }
        if let Err(end) = served {
            member.conn = None;
            wake = Some(self.crew.ended(&mut member.client, end, since(self.epoch)).unwrap_or(NEVER));
        }
        if let Some(at) = wake.filter(|at| *at != member.wake) {
            member.wake = at;
            if at != NEVER {
                self.timers.push(Reverse((at, index)));
            }
        }
    }

    /// Wakes those whose time has come.
    fn fire(&mut self) {
        while let Some(Reverse((at, index))) = self.timers.peek().copied() {
            let now = since(self.epoch);
            if at > now {
                return;
            }
            self.timers.pop();
            let Some(member) = self.members.get_mut(index).filter(|member| member.wake == at) else {
                continue;
            };
            member.wake = NEVER;
            let Some(conn) = &mut member.conn else {
                self.waiting.push_back(index);
                continue;
            };
            let mut said = Said::default();
            let (crew, client) = (&mut self.crew, &mut member.client);
            let served = match conn.overdue() {
                Some(end) => Err(end),
                None => conn.act(now, &mut said, |out| crew.timer(client, out)),
            };
            self.settle(index, &said, served);
        }
    }

    /// `false`: to stop.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Connect(clients, pace) => self.connect(clients, pace),
                Command::Do(what) => what(self),
                Command::Stop => return false,
            }
        }
        true
    }

    fn connect(&mut self, clients: Vec<C::Client>, pace: Pace) {
        self.window = pace.window;
        let mut at = pace.first;
        for client in clients {
            let index = self.members.len();
            let mut member = Member { client, conn: None, is_under_way: false, wake: NEVER };
            if pace.step == 0 {
                self.waiting.push_back(index);
            } else {
                member.wake = at;
                self.timers.push(Reverse((at, index)));
                at += pace.step;
            }
            self.members.push(member);
        }
        self.open_more();
    }

    fn open_more(&mut self) {
        while self.under_way < self.window {
            let Some(index) = self.waiting.pop_front() else { return };
            let Some(member) = self.members.get_mut(index) else { continue };
            let dial = self.crew.dial(&mut member.client);
            let opened = Conn::open(dial).and_then(|mut conn| {
                let both = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(conn.link.socket(), Token(index), both)?;
                Ok(conn)
            });
            member.is_under_way = true;
            self.under_way += 1;
            match opened {
                Ok(conn) => {
                    member.conn = Some(conn);
                    if let Some(most) = C::CONNECT_MAX {
                        member.wake = since(self.epoch) + u64::try_from(most.as_nanos()).unwrap_or(NEVER / 2);
                        self.timers.push(Reverse((member.wake, index)));
                    }
                }
                Err(error) => {
                    self.settle(index, &Said::default(), Err(End::Unreachable(error.to_string())));
                }
            }
        }
    }

    /// Has each client that is connected do something; they are numbered as they were given to this thread.
    pub fn for_each_open(&mut self, mut what: impl FnMut(usize, &mut C::Client, &mut Out<'_>)) {
        for index in 0..self.members.len() {
            let Some(member) = self.members.get_mut(index) else { return };
            let Some(conn) = member.conn.as_mut().filter(|conn| conn.is_open()) else { continue };
            let mut said = Said::default();
            let client = &mut member.client;
            let served = conn.act(since(self.epoch), &mut said, |out| what(index, client, out));
            self.settle(index, &said, served);
        }
    }

    /// How many have a connection, or are making one.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.members.iter().filter(|member| member.conn.is_some()).count()
    }

    /// Lets nobody connect any more.
    pub fn stop_connecting(&mut self) {
        self.waiting.clear();
        self.window = 0;
        self.timers.clear();
        self.members.iter_mut().for_each(|member| member.wake = NEVER);
    }

    /// Drops all connections and forgets all clients.
    pub fn forget(&mut self) {
        self.stop_connecting();
        self.members.clear();
        self.under_way = 0;
    }
}
