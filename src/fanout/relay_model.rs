//! Every interleaving of clients, the bridge and Pusher around one channel, with messages that all say the same:
//! who gets which message, and how often.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::tests::now;
use crate::exchange::{Interest, LinkId};
use crate::fanout::table::{Channel, Table, Ticket};
use crate::upstream::flights::Flights;
use crate::upstream::link::table::{LinkTable, Op};

const LINK: LinkId = LinkId(0);
const CHANNEL: &str = "c";
const LINGER: Duration = Duration::from_secs(1);
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Clients of the bridge.
const CLIENTS: usize = 2;
/// Stands for whoever publishes to Pusher without this bridge.
const STRANGER: usize = CLIENTS;

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Join(usize),
    Leave(usize),
    /// A client sends a message, which begins a request, or the stranger publishes.
    Send(usize),
    /// Pusher carries out the oldest request that has not been.
    Process,
    /// The bridge gets the answer of the oldest request carried out.
    Answer,
    /// That answer is lost.
    LoseAnswer,
    /// The bridge gives the request up before Pusher has carried it out, which it may do still.
    GiveUp,
    /// Pusher reads the oldest frame of the connection.
    PusherReads,
    /// The bridge reads the oldest frame of the connection.
    BridgeReads,
    LoseLink,
    Connect,
    Timer,
}

#[derive(Clone, Copy, Debug)]
enum Frame {
    Subscribed,
    Event(usize),
}

#[derive(Debug)]
struct Request {
    flight: u64,
    message: usize,
    excluded: Option<Arc<str>>,
}

#[derive(Debug)]
struct Message {
    sender: usize,
    /// Whose subscription was confirmed when it was sent, and has been since: they must get it.
    owed: HashSet<usize>,
    /// Whether the link was subscribed, or nobody needs it to be, since it was sent.
    unbroken: bool,
    accepted: bool,
    /// Its request was given up before Pusher carried it out.
    given_up: bool,
    got: HashMap<usize, usize>,
}

/// The bridge and Pusher. Cheap to make: a run is replayed from its steps.
struct World {
    now: Instant,
    // The bridge.
    flights: Flights,
    link: LinkTable,
    hub: Table<(), usize, usize>,
    tickets: [Option<Ticket<()>>; CLIENTS],
    connection: u32,
    connected: bool,
    // In between.
    to_pusher: VecDeque<Op>,
    to_bridge: VecDeque<Frame>,
    requests: VecDeque<Request>,
    answers: VecDeque<Request>,
    // Pusher.
    subscribed: bool,
    messages: Vec<Message>,
    losses: usize,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: now().mono,
            flights: Flights::default(),
            link: LinkTable::new(SUBSCRIBE_TIMEOUT, LINGER),
            hub: Table::default(),
            tickets: [None, None],
            connection: 0,
            connected: false,
            to_pusher: VecDeque::new(),
            to_bridge: VecDeque::new(),
            requests: VecDeque::new(),
            answers: VecDeque::new(),
            subscribed: false,
            messages: Vec::new(),
            losses: 0,
        };
        world.step(Step::Connect);
        world
    }

    fn subscribers(&self) -> impl Iterator<Item = &Channel<(), usize, usize>> {
        self.hub.channel(LINK, CHANNEL).into_iter()
    }

    fn socket_id(&self) -> String {
        format!("{}.1", self.connection)
    }

    /// The steps possible now. `budget` messages and losses may still happen.
    fn possible(&self, sends_max: usize, losses_max: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        for client in 0..CLIENTS {
            match self.tickets[client] {
                None => steps.push(Step::Join(client)),
                Some(_) => {
                    steps.push(Step::Leave(client));
                    // A channel has one request under way: the lanes see to that.
                    if self.messages.len() < sends_max && self.requests.len() + self.answers.len() < 1 {
                        steps.push(Step::Send(client));
                    }
                }
            }
        }
        if self.messages.len() < sends_max {
            steps.push(Step::Send(STRANGER));
        }
        if !self.requests.is_empty() {
            steps.push(Step::Process);
            let message = self.requests.front().map(|request| &self.messages[request.message]);
            if self.losses < losses_max && message.is_some_and(|message| !message.given_up) {
                steps.push(Step::GiveUp);
            }
        }
        if !self.answers.is_empty() {
            steps.push(Step::Answer);
            if self.losses < losses_max {
                steps.push(Step::LoseAnswer);
            }
        }
        if !self.to_pusher.is_empty() {
            steps.push(Step::PusherReads);
        }
        if !self.to_bridge.is_empty() {
            steps.push(Step::BridgeReads);
        }
        match self.connected {
            true if self.losses < losses_max => steps.push(Step::LoseLink),
            true => {}
            false => steps.push(Step::Connect),
        }
        if self.link.deadline().is_some_and(|at| at < self.now + SUBSCRIBE_TIMEOUT / 2) {
            steps.push(Step::Timer);
        }
        steps
    }

    fn step(&mut self, step: Step) {
        let mut ops = Vec::new();
        let channel: Arc<str> = CHANNEL.into();
        match step {
            Step::Join(client) => {
                let (attached, _) = self.hub.attach(LINK, CHANNEL, (), Interest::All, client, client);
                if attached.first {
                    self.link.subscribe(&channel, 0, self.now, &mut ops);
                }
                self.tickets[client] = Some(attached.ticket);
            }
            Step::Leave(client) => {
                let ticket = self.tickets[client].take().unwrap();
                if self.hub.detach(&ticket) {
                    self.link.unsubscribe(&channel, 0, self.now);
                }
                self.messages.iter_mut().for_each(|message| {
                    message.owed.remove(&client);
                });
            }
            Step::Send(sender) => {
                let confirmed: HashSet<usize> =
                    self.subscribers().flat_map(Channel::confirmed).copied().collect();
                let owed = confirmed.into_iter().filter(|client| *client != sender).collect();
                let message = self.messages.len();
                let unbroken = sender != STRANGER || self.subscribed && self.connected;
                self.messages.push(Message {
                    sender,
                    owed,
                    unbroken,
                    accepted: false,
                    given_up: false,
                    got: HashMap::new(),
                });
                if sender == STRANGER {
                    self.publish(message, None);
                } else {
                    let (flight, excluded) = self.flights.begin(vec![channel]);
                    self.requests.push_back(Request { flight, message, excluded });
                }
            }
            Step::Process => {
                let request = self.requests.pop_front().unwrap();
                self.publish(request.message, request.excluded.as_deref());
                if !self.messages[request.message].given_up {
                    self.answers.push_back(request);
                }
            }
            Step::Answer => {
                let request = self.answers.pop_front().unwrap();
                self.messages[request.message].accepted = true;
                let released = self.flights.end(request.flight, self.now);
                self.link.release(&released, self.now);
                self.deliver(request.message);
            }
            Step::LoseAnswer => {
                // The sender's retry, or its error frame, is another story: it changes nothing of this one's copies.
                self.losses += 1;
                let request = self.answers.pop_front().unwrap();
                let released = self.flights.end(request.flight, self.now);
                self.link.release(&released, self.now);
            }
            Step::GiveUp => {
                self.losses += 1;
                let request = self.requests.front().unwrap();
                self.messages[request.message].given_up = true;
                let released = self.flights.end(request.flight, self.now);
                self.link.release(&released, self.now);
            }
            Step::PusherReads => match self.to_pusher.pop_front().unwrap() {
                Op::Subscribe(_) => {
                    assert!(!self.subscribed, "subscribed twice");
                    self.subscribed = true;
                    self.to_bridge.push_back(Frame::Subscribed);
                }
                Op::Unsubscribe(_) => self.subscribed = false,
                Op::TellLive { .. } | Op::TellRefused { .. } => unreachable!(),
            },
            Step::BridgeReads => match self.to_bridge.pop_front().unwrap() {
                Frame::Subscribed => self.link.succeeded(CHANNEL, self.now, &mut ops),
                Frame::Event(message) => {
                    if self.link.receivers(CHANNEL).is_some() {
                        let Message { sender, given_up, .. } = self.messages[message];
                        assert!(sender == STRANGER || given_up, "a client's own message came back");
                        self.deliver(message);
                    }
                }
            },
            Step::LoseLink => {
                self.losses += 1;
                self.connected = false;
                self.subscribed = false;
                self.to_pusher.clear();
                self.to_bridge.clear();
                self.flights.disconnected();
                self.link.disconnected();
                self.hub.down(LINK);
                for message in self.messages.iter_mut().filter(|message| message.sender == STRANGER) {
                    message.unbroken = false;
                }
            }
            Step::Connect => {
                self.connected = true;
                self.connection += 1;
                let held = self.flights.connected(&self.socket_id(), self.now);
                self.link.connected(&held, self.now, &mut ops);
            }
            Step::Timer => {
                self.now = self.now.max(self.link.deadline().unwrap());
                self.link.timer(self.now, |_| false, &mut ops);
            }
        }
        for op in ops {
            match op {
                Op::TellLive { .. } => drop(self.hub.live(LINK, CHANNEL)),
                op if self.connected => self.to_pusher.push_back(op),
                op => panic!("{op:?} without a connection"),
            }
        }
    }

    fn publish(&mut self, message: usize, excluded: Option<&str>) {
        if self.subscribed && excluded != Some(&self.socket_id()) {
            self.to_bridge.push_back(Frame::Event(message));
        }
    }

    fn deliver(&mut self, message: usize) {
        let message = &mut self.messages[message];
        let subscribers = self.hub.channel(LINK, CHANNEL).into_iter();
        for client in subscribers.flat_map(Channel::audiences).flat_map(|audience| audience.receivers(None)) {
            // The link does not know who sent what comes from Pusher.
            if *client != message.sender || message.given_up {
                *message.got.entry(*client).or_default() += 1;
            }
        }
    }

    /// Nobody got a message twice, nobody got its own, and at rest nobody lacks one; but for what Pusher carried out
    /// after it was given up and the connection lost, which is everybody's, once.
    fn check(&self) {
        let at_rest = self.requests.is_empty() && self.answers.is_empty() && self.to_bridge.is_empty();
        for message in &self.messages {
            let own = message.got.contains_key(&message.sender);
            assert!(!own || message.given_up && self.connection > 1, "{message:?}");
            assert!(message.got.values().all(|times| *times == 1), "{message:?}");
            if at_rest && message.unbroken && (message.accepted || message.sender == STRANGER) {
                assert!(message.owed.iter().all(|client| message.got.contains_key(client)), "{message:?}");
            }
        }
    }

    /// What decides how it can go on.
    fn fingerprint(&self) -> String {
        let flights: Vec<_> =
            self.requests.iter().chain(&self.answers).map(|r| (r.message, &r.excluded)).collect();
        let messages: Vec<_> = self
            .messages
            .iter()
            .map(|m| {
                let mut got: Vec<_> = m.got.iter().collect();
                let mut owed: Vec<_> = m.owed.iter().collect();
                got.sort_unstable();
                owed.sort_unstable();
                format!("{} {owed:?} {got:?} {} {} {}", m.sender, m.unbroken, m.accepted, m.given_up)
            })
            .collect();
        let confirmed: HashSet<_> = self.subscribers().flat_map(Channel::confirmed).collect();
        let joined: Vec<_> =
            (0..CLIENTS).map(|c| (self.tickets[c].is_some(), confirmed.contains(&c))).collect();
        format!(
            "{joined:?} {flights:?} {} {messages:?} {:?} {:?} {:?} {:?} {} {} {}",
            self.requests.len(),
            self.to_pusher,
            self.to_bridge,
            self.link.counts(),
            self.link.deadline().map(|at| at - self.now),
            self.subscribed,
            self.connected,
            self.losses,
        )
    }
}

/// All runs of at most `depth` steps; gives how many states were seen.
fn explore(depth: usize, sends_max: usize, losses_max: usize) -> usize {
    let mut seen = HashSet::new();
    let mut runs: Vec<Vec<Step>> = vec![Vec::new()];
    for _ in 0..depth {
        let mut longer = Vec::new();
        for run in &runs {
            for step in replay(run).possible(sends_max, losses_max) {
                let mut world = replay(run);
                let mut next = run.clone();
                next.push(step);
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    world.step(step);
                    world.check();
                }));
                assert!(outcome.is_ok(), "after {next:?}");
                if seen.insert(world.fingerprint()) {
                    longer.push(next);
                }
            }
        }
        runs = longer;
    }
    seen.len()
}

fn replay(run: &[Step]) -> World {
    let mut world = World::new();
    run.iter().for_each(|step| world.step(*step));
    world
}

#[test]
fn in_every_order_of_events_each_neighbour_gets_each_message_once_and_its_sender_does_not() {
    let states = explore(18, 2, 2);
    assert!(states > 10_000, "{states}");
}
