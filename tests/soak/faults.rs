//! The faults on Pusher's side and the backend's, and the order they come in: by the seed, each kind in turn.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use crate::process::Upstream;
use crate::support::raw::{BINARY, CLOSE, TEXT};
use crate::wire::server_frame;
use crate::world::World;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum HttpFault {
    /// It is answered with this status and these header lines, and nothing is done.
    Answer(u16, &'static str),
    /// What it asks for is done, and the answer says otherwise.
    TakeAndAnswer(u16),
    /// It is done, and never answered.
    TakeAndCut,
    /// It is neither done nor answered.
    Cut,
    /// It is done long after the bridge has given up.
    Hold(Duration),
    /// It takes this long.
    Slow(Duration),
}

/// What becomes of a connection to Pusher.
#[derive(Clone, Debug)]
pub enum LinkFault {
    End,
    Reset,
    CutInFrame,
    Stall(Duration),
    Fragment(u32),
    Inject(Vec<u8>),
}

/// What becomes of an attempt to connect to Pusher.
#[derive(Clone, Copy, Debug, Default)]
pub enum Dialling {
    #[default]
    Works,
    Refused,
    Silent,
}

/// The faults in force.
#[derive(Default)]
pub struct Switches {
    http: RefCell<VecDeque<HttpFault>>,
    post: RefCell<VecDeque<HttpFault>>,
    /// Until then nothing can be published.
    outage: Cell<Option<Instant>>,
    dialling: Cell<(Dialling, u32)>,
    links: RefCell<Vec<(u32, mpsc::UnboundedSender<LinkFault>)>>,
    held: Cell<i32>,
    idle: Notify,
}

impl Switches {
    pub fn next_http(&self) -> Option<HttpFault> {
        if self.outage.get().is_some_and(|until| Instant::now() < until) {
            return Some(HttpFault::Answer(503, ""));
        }
        self.http.borrow_mut().pop_front()
    }

    pub fn next_post(&self) -> Option<HttpFault> {
        self.post.borrow_mut().pop_front()
    }

    pub fn dialling(&self) -> Dialling {
        let (dialling, left) = self.dialling.get();
        self.dialling.set((dialling, left.saturating_sub(1)));
        if left > 0 { dialling } else { Dialling::Works }
    }

    pub fn add_link(&self, id: u32, link: mpsc::UnboundedSender<LinkFault>) {
        self.links.borrow_mut().push((id, link));
    }

    pub fn remove_link(&self, id: u32) {
        self.links.borrow_mut().retain(|(other, _)| *other != id);
    }

    /// Requests that are held back, more or fewer.
    pub fn held(&self, change: i32) {
        self.held.set(self.held.get() + change);
    }

    pub fn is_any_held(&self) -> bool {
        self.held.get() > 0
    }

    /// Resolves when idle connections are to be closed.
    pub async fn idle_is_over(&self) {
        self.idle.notified().await;
    }

    /// Closes idle connections, as servers do after a while.
    pub fn close_idle(&self) {
        self.idle.notify_waiters();
    }

    /// No more faults.
    pub fn clear(&self) {
        self.http.borrow_mut().clear();
        self.post.borrow_mut().clear();
        self.outage.set(None);
        self.dialling.set((Dialling::Works, 0));
    }

    fn to_one_link(&self, fault: LinkFault, rng: &mut fastrand::Rng) {
        if let Some((_, link)) = rng.choice(&*self.links.borrow()) {
            // It has ended in this moment.
            let _ = link.send(fault);
        }
    }

    fn to_all_links(&self, fault: &LinkFault) {
        for (_, link) in &*self.links.borrow() {
            let _ = link.send(fault.clone());
        }
    }
}

type Kind = &'static str;

const UPSTREAM_KILLED: Kind = "upstream killed";

/// Every kind, and how often it comes beside the others.
const DECK: [(Kind, usize); 28] = [
    ("link ended", 2),
    ("link reset", 2),
    ("link cut in a frame", 2),
    ("link stalled", 2),
    ("link silent", 1),
    ("link in fragments", 1),
    ("link: junk", 2),
    ("link: protocol broken", 1),
    ("link: frame too large", 1),
    ("link closed 4000", 1),
    ("link closed 4100", 1),
    ("link closed 4200", 1),
    ("dialling refused", 1),
    ("dialling silent", 1),
    ("publish: 500", 1),
    ("publish: 503", 1),
    ("publish: 429", 1),
    ("publish: 400", 1),
    ("publish: taken, then 500", 2),
    ("publish: taken, then cut", 2),
    ("publish: cut", 1),
    ("publish: held back", 2),
    ("publish: held back, links lost", 1),
    ("publish: slow", 1),
    ("publish: slow, links closed 4200", 2),
    ("publish: outage", 1),
    ("backend: faults", 2),
    (UPSTREAM_KILLED, 1),
];

/// Causes faults, one after another, `every` so often, until the churn is over.
pub async fn storm(world: &World, upstream: &mut Upstream, every: Duration, deck: &mut Deck) {
    loop {
        sleep(every.mul_f64(0.5 + deck.rng.f64())).await;
        if world.is_over() {
            return;
        }
        let kind = deck.draw();
        world.count(kind);
        if kind == UPSTREAM_KILLED {
            world.upstream.set(upstream.restart().await);
        } else {
            cause(world, kind, &mut deck.rng);
        }
    }
}

/// The kinds in the order of the seed: shuffled, dealt to the last, shuffled again.
pub struct Deck {
    rng: fastrand::Rng,
    left: Vec<Kind>,
}

impl Deck {
    pub fn new(seed: u64) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed), left: Vec::new() }
    }

    fn draw(&mut self) -> Kind {
        if self.left.is_empty() {
            self.left = DECK.iter().flat_map(|(kind, times)| std::iter::repeat_n(*kind, *times)).collect();
            self.rng.shuffle(&mut self.left);
        }
        self.left.pop().expect("a deck of cards")
    }
}

fn cause(world: &World, kind: Kind, rng: &mut fastrand::Rng) {
    let switches = &world.switches;
    let some = rng.usize(2..12);
    let requests = |fault: HttpFault, count: usize| {
        switches.http.borrow_mut().extend(std::iter::repeat_n(fault, count));
    };
    let ms = Duration::from_millis;
    match kind {
        "link ended" => switches.to_one_link(LinkFault::End, rng),
        "link reset" => switches.to_one_link(LinkFault::Reset, rng),
        "link cut in a frame" => switches.to_one_link(LinkFault::CutInFrame, rng),
        "link stalled" => switches.to_one_link(LinkFault::Stall(ms(rng.u64(100..900))), rng),
        // Longer than activity and pong timeouts together.
        "link silent" => switches.to_one_link(LinkFault::Stall(ms(4500)), rng),
        "link in fragments" => switches.to_all_links(&LinkFault::Fragment(some as u32 * 10)),
        "link: junk" => junk().into_iter().for_each(|junk| switches.to_all_links(&LinkFault::Inject(junk))),
        // A reserved opcode (RFC 6455 §5.2).
        "link: protocol broken" => switches.to_one_link(LinkFault::Inject(vec![0x83, 0]), rng),
        "link: frame too large" => {
            let head = [&[TEXT, 127][..], &(1_u64 << 30).to_be_bytes()].concat();
            switches.to_one_link(LinkFault::Inject(head), rng);
        }
        "link closed 4000" => switches.to_one_link(close(4000), rng),
        "link closed 4100" => switches.to_one_link(close(4100), rng),
        "link closed 4200" => switches.to_one_link(close(4200), rng),
        "dialling refused" | "dialling silent" => {
            let how = if kind == "dialling refused" { Dialling::Refused } else { Dialling::Silent };
            switches.dialling.set((how, 2));
            switches.to_all_links(&LinkFault::End);
        }
        "publish: 500" => requests(HttpFault::Answer(500, ""), some),
        "publish: 503" => requests(HttpFault::Answer(503, ""), some),
        "publish: 429" => requests(HttpFault::Answer(429, "retry-after: 1\r\n"), some),
        "publish: 400" => requests(HttpFault::Answer(400, ""), some),
        "publish: taken, then 500" => requests(HttpFault::TakeAndAnswer(500), some),
        "publish: taken, then cut" => requests(HttpFault::TakeAndCut, some),
        "publish: cut" => requests(HttpFault::Cut, some),
        // Beyond the bridge's timeout of 1 s.
        "publish: held back" => requests(HttpFault::Hold(ms(rng.u64(1200..2500))), some),
        // The bridge has new connections when these are carried out.
        "publish: held back, links lost" => {
            requests(HttpFault::Hold(ms(2000)), some);
            switches.to_all_links(&LinkFault::Stall(ms(300)));
            switches.to_all_links(&LinkFault::End);
        }
        "publish: slow" => requests(HttpFault::Slow(ms(rng.u64(100..400))), some),
        // Longer than a message's deadline of 4 s.
        // The bridge has new connections, and waits for the answers still, when these are carried out.
        "publish: slow, links closed 4200" => {
            requests(HttpFault::Slow(ms(400)), some);
            switches.to_all_links(&LinkFault::Stall(ms(50)));
            switches.to_all_links(&close(4200));
        }
        "publish: outage" => switches.outage.set(Some(Instant::now() + Duration::from_secs(6))),
        "backend: faults" => {
            let mut faults = [
                HttpFault::Answer(500, ""),
                HttpFault::Answer(503, ""),
                HttpFault::Answer(429, "retry-after: 1\r\n"),
                HttpFault::Answer(404, ""),
                HttpFault::TakeAndAnswer(500),
                HttpFault::TakeAndCut,
                HttpFault::Cut,
                HttpFault::Hold(ms(1500)),
                HttpFault::Slow(ms(300)),
            ];
            rng.shuffle(&mut faults);
            switches.post.borrow_mut().extend(faults);
        }
        other => unreachable!("{other}"),
    }
}

fn close(code: u16) -> LinkFault {
    LinkFault::Inject(server_frame(CLOSE, &code.to_be_bytes()))
}

/// What the link must survive.
fn junk() -> [Vec<u8>; 6] {
    [
        server_frame(TEXT, b"no JSON at all"),
        server_frame(TEXT, br#"{"event":5,"data":"{}"}"#),
        server_frame(TEXT, br#"{"event":"pusher:strange","data":"{}"}"#),
        server_frame(TEXT, br#"{"event":"x","channel":"nobody-asked-for-this","data":"{}"}"#),
        server_frame(
            TEXT,
            br#"{"event":"pusher_internal:subscription_succeeded","channel":"nor-this","data":"{}"}"#,
        ),
        server_frame(BINARY, &[0, 255, 128]),
    ]
}
