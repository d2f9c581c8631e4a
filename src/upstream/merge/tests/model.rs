//! A server with two connections, and every order in which events are published, come, and connections are lost and
//! subscribed anew, up to a size.

use std::collections::{HashSet, VecDeque};
use std::hash::Hasher;

use super::*;

/// How long a step takes before time first passes. After each time it is a [`FINER`]th: steps are so short then that
/// what was asked is the last thing that is [`SETTLE`] old.
const STEP: Duration = Duration::from_millis(10);
const FINER: u32 = 40;
/// How often time passes before the world comes to rest.
const PASSES_MAX: u32 = 2;

/// Something that is published.
#[derive(Clone, Copy, Debug)]
enum Event {
    Theirs(u8),
    /// By this bridge, with this side excluded.
    Own(u8, Option<usize>),
    /// An own one that Pusher refuses.
    Refused(u8),
}

use Event::{Own, Refused, Theirs};

/// What comes over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Event(u8),
    /// Of a subscription that was asked for then.
    Confirmed(Instant),
    /// Behind all that was published before the question.
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Pusher publishes the next event, or a request for it begins.
    Publish,
    /// Pusher carries the request out, or not.
    CarryOut,
    /// The request's answer comes.
    Answer,
    Come(usize),
    /// The event after the next one comes before it.
    ComeSwapped(usize),
    Cut(usize),
    Subscribe(usize),
    /// From here on time passes, until what was published by now is as old as it is when it has come.
    Ask,
}

#[derive(Clone, Debug, Default)]
struct Side {
    subscribed: bool,
    /// Which of its subscriptions this is.
    epoch: u32,
    queue: VecDeque<Item>,
}

/// How far a request is: its own digest, and the excluded side's epoch.
#[derive(Clone, Copy, Debug)]
enum Request {
    Sent(u8, Option<(usize, u32)>),
    CarriedOut(u8),
    Refused,
}

#[derive(Clone, Debug)]
struct World {
    merge: Merge<usize, u8>,
    stream: &'static [Event],
    published: usize,
    request: Option<Request>,
    sides: [Side; 2],
    cuts: usize,
    /// Where both sides are alike, it is the first one that is cut first.
    may_cut: [bool; 2],
    swaps: usize,
    now: Instant,
    /// When it was asked what has come.
    asked: Option<Instant>,
    /// How often time has passed.
    passes: u32,
    steps: u32,
    is_at_rest: bool,
    delivered: Vec<(u8, bool)>,
    gap: bool,
}

impl World {
    fn new(stream: &'static [Event], cuts: usize, swaps: usize) -> Self {
        let times = Times { skew: Duration::ZERO, ..times() };
        let mut world = Self {
            merge: Merge::new(times),
            stream: &[],
            published: 0,
            request: None,
            sides: [Side::default(), Side::default()],
            cuts: 0,
            may_cut: [true, stream.iter().any(|event| matches!(event, Own(_, Some(_))))],
            swaps: 0,
            now: now().mono,
            asked: None,
            passes: 0,
            steps: 0,
            is_at_rest: false,
            delivered: Vec::new(),
            gap: false,
        };
        for side in [0, 1] {
            world.step(Step::Subscribe(side));
        }
        world.come_to_rest();
        let now = world.now + 2 * SETTLE;
        Self { stream, cuts, swaps, now, passes: 0, steps: 0, is_at_rest: false, ..world }
    }

    fn possible(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        match self.request {
            None if self.published < self.stream.len() => steps.push(Step::Publish),
            None => {}
            Some(Request::Sent(..)) => steps.push(Step::CarryOut),
            Some(_) => steps.push(Step::Answer),
        }
        for (at, side) in self.sides.iter().enumerate() {
            if !side.subscribed {
                steps.push(Step::Subscribe(at));
                continue;
            }
            match (side.queue.front(), side.queue.get(1)) {
                (Some(Item::Event(one)), Some(Item::Event(two))) if self.swaps > 0 && one != two => {
                    steps.extend([Step::Come(at), Step::ComeSwapped(at)]);
                }
                (Some(_), _) => steps.push(Step::Come(at)),
                (None, _) => {}
            }
            if self.cuts > 0 && self.may_cut[at] {
                steps.push(Step::Cut(at));
            }
        }
        let may_pass = self.passes < PASSES_MAX || self.is_at_rest;
        if self.merge.is_in_doubt() && self.asked.is_none() && may_pass {
            steps.push(Step::Ask);
        }
        steps
    }

    fn publish(&mut self, digest: u8, excluded: Option<(usize, u32)>) {
        for (at, side) in self.sides.iter_mut().enumerate() {
            if side.subscribed && excluded != Some((at, side.epoch)) {
                side.queue.push_back(Item::Event(digest));
            }
        }
    }

    fn step(&mut self, step: Step) {
        self.now += STEP / FINER.pow(self.passes.min(PASSES_MAX));
        self.steps += 1;
        assert!(self.steps < FINER, "more of them than there is time for");
        let now = self.now;
        let mut out = Vec::new();
        match step {
            Step::Publish => {
                let event = self.stream[self.published];
                self.published += 1;
                match event {
                    Theirs(digest) => self.publish(digest, None),
                    Own(digest, excluded) => {
                        let excluded = excluded.filter(|side| self.merge.has(*side));
                        self.merge.begin(0, vec![digest.into()], excluded);
                        let epoch = excluded.map(|side| (side, self.sides[side].epoch));
                        self.request = Some(Request::Sent(digest, epoch));
                    }
                    Refused(digest) => {
                        self.merge.begin(0, vec![digest.into()], None);
                        self.request = Some(Request::Refused);
                    }
                }
            }
            Step::CarryOut => {
                let Some(Request::Sent(digest, excluded)) = self.request else { unreachable!() };
                self.publish(digest, excluded);
                self.request = Some(Request::CarriedOut(digest));
            }
            Step::Answer => match self.request.take() {
                Some(Request::CarriedOut(digest)) => self.merge.accepted(0, [digest], now, &mut out),
                _ => self.merge.failed(0, now, &mut out),
            },
            Step::Come(side) => {
                let item = self.sides[side].queue.pop_front().unwrap();
                self.come(side, item, &mut out);
            }
            Step::ComeSwapped(side) => {
                self.swaps -= 1;
                let item = self.sides[side].queue.remove(1).unwrap();
                self.come(side, item, &mut out);
            }
            Step::Cut(side) => {
                self.cuts -= 1;
                self.may_cut = [true; 2];
                let epoch = self.sides[side].epoch;
                self.sides[side] = Side { epoch, ..Side::default() };
                self.gap |= self.merge.lost(side, now, &mut out);
            }
            Step::Subscribe(side) => {
                let epoch = self.sides[side].epoch + 1;
                let queue = VecDeque::from([Item::Confirmed(now)]);
                self.sides[side] = Side { subscribed: true, epoch, queue };
            }
            Step::Ask => {
                self.asked = Some(now);
                for side in self.sides.iter_mut().filter(|side| side.subscribed) {
                    side.queue.push_back(Item::Answer);
                }
            }
        }
        if let Some(asked) =
            self.asked.filter(|_| !self.sides.iter().any(|s| s.queue.contains(&Item::Answer)))
        {
            self.pass(asked + SETTLE, &mut out);
        }
        self.delivered.extend(out.into_iter().map(|out| (out.event, out.doubtful)));
    }

    fn come(&mut self, side: usize, item: Item, out: &mut Vec<Out<usize, u8>>) {
        match item {
            Item::Event(digest) => drop(self.merge.offer(side, digest.into(), digest, self.now, out)),
            Item::Confirmed(asked) => self.merge.confirmed(side, asked, self.now, out),
            Item::Answer => {}
        }
    }

    /// Time passes: all that was published so long before has come, and not all of what came later.
    fn pass(&mut self, until: Instant, out: &mut Vec<Out<usize, u8>>) {
        self.merge.settle(until, out);
        self.now = until;
        self.asked = None;
        self.passes += 1;
        self.steps = 0;
    }

    /// Everything is published and comes, and nothing is lost any more.
    fn come_to_rest(&mut self) {
        self.cuts = 0;
        self.swaps = 0;
        self.is_at_rest = true;
        while let Some(step) = self.possible().first().copied() {
            self.step(step);
        }
    }

    fn check(&self, cuts: usize) {
        let published = self.stream.iter().filter_map(|event| match event {
            Theirs(digest) | Own(digest, _) => Some(*digest),
            Refused(_) => None,
        });
        let mut missed: Vec<u8> = published.collect();
        let mut extra = 0;
        for (digest, _) in &self.delivered {
            match missed.iter().position(|other| other == digest) {
                Some(at) => drop(missed.remove(at)),
                None => extra += 1,
            }
        }
        let doubtful = self.delivered.iter().filter(|(_, doubtful)| *doubtful).count();
        assert!(missed.is_empty() || self.gap, "missed: {missed:?}");
        assert!(extra <= doubtful, "{extra} came twice, of {doubtful} doubtful");
        if cuts <= 1 {
            assert_eq!((extra, doubtful, self.gap), (0, 0, false));
            assert!(missed.is_empty());
        }
        assert!(!self.merge.is_in_doubt() && self.merge.size().1 == 0);
    }

    /// The state, with times by their order only. The order of what was delivered makes no difference.
    fn fingerprint(&self) -> u64 {
        let Self { merge, published, request, sides, cuts, swaps, asked, passes, delivered, gap, .. } = self;
        // When it is looked at next makes no difference.
        let merge = Merge { look: None, ..merge.clone() };
        let mut delivered = delivered.clone();
        delivered.sort_unstable();
        let text = format!(
            "{merge:?} {published} {request:?} {sides:?} {cuts} {swaps} {asked:?} {passes} {delivered:?} {gap}"
        );
        let mut parts = text.split("Instant { tv_sec: ");
        let mut print = std::hash::DefaultHasher::new();
        parts.next().hash(&mut print);
        let parts: Vec<((u64, u64), &str)> = parts
            .map(|part| {
                let (time, rest) = part.split_once(" }").unwrap();
                let (seconds, nanos) = time.split_once(", tv_nsec: ").unwrap();
                ((seconds.parse().unwrap(), nanos.parse().unwrap()), rest)
            })
            .collect();
        let mut times: Vec<(u64, u64)> = parts.iter().map(|(time, _)| *time).collect();
        times.sort_unstable();
        times.dedup();
        for (time, rest) in parts {
            (times.binary_search(&time).unwrap(), rest).hash(&mut print);
        }
        print.finish()
    }
}

/// Goes through all orders. How many states there were, and how many of those that came to rest had doubtful events.
fn explore(stream: &'static [Event], cuts: usize, swaps: usize) -> (usize, usize) {
    let mut seen = HashSet::new();
    let mut doubtful = 0;
    let mut todo = vec![(World::new(stream, cuts, swaps), Vec::new())];
    while let Some((world, run)) = todo.pop() {
        let steps = world.possible();
        // Every other state comes to such a one.
        if steps.iter().all(|step| matches!(step, Step::Cut(_) | Step::Ask)) {
            let mut rest = world.clone();
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                rest.come_to_rest();
                rest.check(cuts);
            }));
            assert!(ended.is_ok(), "{stream:?} after {run:?}: {:?}", rest.delivered);
            doubtful += usize::from(rest.delivered.iter().any(|(_, doubtful)| *doubtful));
        }
        for step in steps {
            let mut next = world.clone();
            next.step(step);
            if seen.insert(next.fingerprint()) {
                let mut run: Vec<Step> = run.clone();
                run.push(step);
                todo.push((next, run));
            }
        }
    }
    (seen.len(), doubtful)
}

/// Nothing is lost and nothing comes twice, whatever is equal to what, while one of both is certain.
fn is_exact(stream: &'static [Event]) {
    let (states, doubtful) = explore(stream, 1, 1);
    assert!(states > 1000, "{states}");
    assert_eq!(doubtful, 0);
}

#[test]
fn either_side_cut_anywhere_and_unequal_events() {
    is_exact(&[Theirs(1), Theirs(2), Theirs(3)]);
}

#[test]
fn either_side_cut_anywhere_and_equal_events() {
    is_exact(&[Theirs(1), Theirs(1), Theirs(1)]);
    is_exact(&[Theirs(1), Theirs(2), Theirs(1)]);
}

#[test]
fn either_side_cut_anywhere_and_own_messages() {
    is_exact(&[Theirs(1), Own(1, Some(0))]);
    is_exact(&[Own(1, Some(0)), Theirs(1)]);
    is_exact(&[Own(1, None), Theirs(1)]);
    is_exact(&[Refused(1), Theirs(1), Theirs(2)]);
}

/// Two cuts: nothing is lost without a gap, and what comes twice is counted.
fn is_counted(stream: &'static [Event]) {
    let (states, doubtful) = explore(stream, 2, 0);
    assert!(states > 1000 && doubtful > 0, "{states}, {doubtful}");
}

#[test]
fn both_sides_cut_in_turn_lose_nothing_without_a_gap_and_what_comes_twice_is_counted() {
    is_counted(&[Theirs(1), Theirs(2)]);
    is_counted(&[Theirs(1), Theirs(1)]);
    is_counted(&[Theirs(1), Theirs(1), Theirs(1)]);
}

#[test]
fn both_sides_cut_in_turn_and_own_messages() {
    is_counted(&[Theirs(1), Own(1, Some(0))]);
    is_counted(&[Own(1, Some(0)), Theirs(1)]);
}
