//! Equal events without end: one source subscribes anew, is certain in a bounded time, and goes on alone. Each event is
//! delivered once, as long as two equal ones are further apart than the two sources are.

use super::*;

const MS: Duration = Duration::from_millis(1);
/// A source that subscribes anew is certain after so long at the latest.
const DOUBT_MAX: Duration = Duration::from_millis(500 * 9);

/// The first source is certain, the second one subscribes.
const CERTAIN: usize = 0;
const NEW: usize = 1;
/// Behind them.
const ANSWER: usize = 2;
/// The digest of all that this bridge publishes.
const OWN: u64 = 99;

/// How long each event takes to each source.
#[derive(Clone, Copy, Debug)]
struct Ways {
    least: [Duration; 2],
    /// Beyond it at most.
    jitter: Duration,
}

struct Flow {
    ways: Ways,
    random: fastrand::Rng,
    merge: Merge<usize, u64>,
    start: Instant,
    now: Instant,
    /// When each is confirmed.
    since: [Instant; 2],
    /// What is under way to each source, in order, and the answers to requests.
    under_way: [Vec<(Instant, u64)>; 3],
    requests: u64,
    published: Vec<u64>,
    out: Vec<Out<usize, u64>>,
}

impl Flow {
    fn new(ways: Ways, seed: u64) -> Self {
        let mut merge = Merge::new(times());
        let (start, mut out) = (now().mono, Vec::new());
        merge.confirmed(CERTAIN, start, start, &mut out);
        let random = fastrand::Rng::with_seed(seed);
        Self {
            ways,
            random,
            merge,
            start,
            now: start,
            since: [start; 2],
            under_way: Default::default(),
            requests: 0,
            published: Vec::new(),
            out,
        }
    }

    /// By this bridge, over a connection that is excluded.
    fn publish_own(&mut self, digest: u64, at: Instant, excluded: usize, subscribed: &[usize]) {
        self.requests += 1;
        self.merge.begin(self.requests, vec![digest], Some(excluded));
        let others: Vec<usize> = subscribed.iter().copied().filter(|source| *source != excluded).collect();
        let there = at + MS.mul_f64(1.0 + 20.0 * self.random.f64());
        self.publish(digest, there, &others);
        let back = there + MS.mul_f64(1.0 + 60.0 * self.random.f64());
        self.under_way[ANSWER].push((back, self.requests));
    }

    fn publish(&mut self, digest: u64, at: Instant, subscribed: &[usize]) {
        self.published.push(digest);
        for source in subscribed {
            let jitter = self.ways.jitter.mul_f64(self.random.f64());
            let way = &mut self.under_way[*source];
            // In order.
            let earliest = way.last().map_or(self.start, |(at, _)| *at).max(self.since[*source]);
            way.push(((at + self.ways.least[*source] + jitter).max(earliest), digest));
        }
    }

    /// All that comes up to then.
    fn come(&mut self, until: Instant) {
        loop {
            let next = |source: usize| self.under_way[source].first().map(|(at, _)| (*at, source));
            let next = [CERTAIN, NEW, ANSWER].into_iter().filter_map(next).min();
            let next = next.filter(|(at, _)| *at <= until);
            let before = next.map_or(until, |(at, _)| at);
            if let Some(due) = self.merge.deadline().filter(|due| *due <= before) {
                self.now = due.max(self.now);
                self.merge.settle(self.now, &mut self.out);
                assert!(self.merge.deadline() > Some(due) || !self.merge.is_in_doubt(), "it would not end");
                continue;
            }
            let Some((at, source)) = next else { return };
            let (_, digest) = self.under_way[source].remove(0);
            self.now = at.max(self.now);
            if source == ANSWER {
                self.merge.accepted(digest, [OWN], self.now, &mut self.out);
            } else {
                self.merge.offer(source, digest, digest, self.now, &mut self.out);
            }
        }
    }

    /// How often each digest was delivered too often, or too seldom.
    fn wrong(&self) -> Vec<(u64, i64)> {
        let mut wrong = std::collections::BTreeMap::<u64, i64>::new();
        self.published.iter().for_each(|digest| *wrong.entry(*digest).or_default() -= 1);
        self.out.iter().for_each(|out| *wrong.entry(out.event).or_default() += 1);
        wrong.into_iter().filter(|(_, count)| *count != 0).collect()
    }
}

/// What is published, and after how long the next one is.
type Next<'a> = &'a mut dyn FnMut(&mut fastrand::Rng) -> (u64, Duration);

/// The new source subscribes after two seconds; when it is certain, or after `most`, the other is lost. How long it was in
/// doubt, and what came wrong.
fn hand_over(ways: Ways, seed: u64, most: Duration, next: Next<'_>) -> (Duration, Vec<(u64, i64)>) {
    let mut flow = Flow::new(ways, seed);
    let asked = flow.start + 2000 * MS;
    let (subscribed, confirmed) = (asked + ways.least[NEW], asked + 2 * ways.least[NEW]);
    flow.since[NEW] = confirmed + MS;
    let (mut at, mut was_confirmed, mut lost) = (flow.start, false, None);
    while lost.is_none_or(|lost| at < lost + 2000 * MS) {
        let (digest, pause) = next(&mut flow.random);
        at += pause;
        if at > confirmed && !was_confirmed {
            flow.come(confirmed);
            flow.merge.confirmed(NEW, asked, confirmed, &mut flow.out);
            was_confirmed = true;
        }
        flow.come(at);
        if was_confirmed && lost.is_none() && (flow.merge.is_certain(NEW) || at > confirmed + most) {
            assert!(!flow.merge.lost(CERTAIN, at, &mut flow.out));
            flow.under_way[CERTAIN].clear();
            lost = Some(at);
        }
        let of: &[usize] = match (at >= subscribed, lost) {
            (false, _) => &[CERTAIN],
            (true, None) => &[CERTAIN, NEW],
            (true, Some(_)) => &[NEW],
        };
        if digest == OWN {
            flow.publish_own(OWN, at, usize::from(lost.is_some()), of);
        } else {
            flow.publish(digest, at, of);
        }
    }
    flow.come(at + 1000 * MS);
    (lost.unwrap_or(at) - confirmed, flow.wrong())
}

/// For the sources' ways: either may be the quicker one.
fn ways(random: &mut fastrand::Rng, apart: Duration) -> Ways {
    let mut least = [20 * MS, 20 * MS];
    least[random.usize(..2)] += apart.mul_f64(random.f64() / 2.0);
    Ways { least, jitter: apart / 2 }
}

fn is_exact(
    spacing: Duration,
    apart: Duration,
    next: impl Fn(&mut fastrand::Rng, Duration) -> (u64, Duration),
) {
    let mut wrong = Vec::new();
    for seed in 0..200 {
        let ways = ways(&mut fastrand::Rng::with_seed(seed), apart);
        let mut next = |random: &mut fastrand::Rng| next(random, spacing);
        let (doubt, came) = hand_over(ways, seed, DOUBT_MAX, &mut next);
        if doubt > DOUBT_MAX || !came.is_empty() {
            wrong.push((seed, doubt, came));
        }
    }
    assert!(
        wrong.is_empty(),
        "every {spacing:?}, {apart:?} apart: {} of 200, {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(5)]
    );
}

#[test]
fn equal_events_at_a_steady_pace_come_once() {
    for spacing in [2000, 700, 300, 100, 40, 20] {
        let spacing = spacing * MS;
        is_exact(spacing, spacing.min(SETTLE) / 4, |_, spacing| (1, spacing));
    }
}

#[test]
fn equal_events_at_random_times_come_once() {
    for spacing in [700, 300, 100, 40] {
        let spacing = spacing * MS;
        is_exact(spacing, spacing / 10, |random, spacing| (1, spacing.mul_f64(0.5 + random.f64())));
    }
}

#[test]
fn a_few_texts_in_turn_and_unequal_ones_between_them_come_once() {
    let mut number = std::cell::Cell::new(100);
    for spacing in [300, 100, 40] {
        let spacing = spacing * MS;
        is_exact(spacing, spacing / 10, |random, spacing| {
            let digest = random.u64(..5);
            if digest == 0 {
                number.set(number.get() + 1);
            }
            (if digest == 0 { number.get() } else { digest }, spacing)
        });
    }
    assert!(number.get_mut() > &mut 100);
}

/// Each request is answered before the next one.
#[test]
fn equal_messages_of_this_bridge_come_once() {
    for spacing in [700, 300, 120] {
        is_exact(spacing * MS, 10 * MS, |_, spacing| (OWN, spacing));
    }
}

#[test]
fn equal_messages_of_this_bridge_and_equal_ones_of_others_come_once() {
    is_exact(50 * MS, 10 * MS, |random, spacing| (if random.bool() { OWN } else { 1 }, spacing));
}

/// Unequal events, closer to each other than the sources are.
#[test]
fn unequal_events_in_any_density_come_once_and_the_doubt_ends_as_ever() {
    let number = std::cell::Cell::new(0);
    for (spacing, apart) in [(1, 20), (5, 100), (20, 400)] {
        is_exact(spacing * MS, apart * MS, |_, spacing| {
            number.set(number.get() + 1);
            (number.get(), spacing)
        });
    }
}

/// It cannot be known which is whose copy, and no pause tells: rather too many than too few.
#[test]
fn of_equal_events_without_any_pause_none_is_missed() {
    for least in [[20 * MS, 52 * MS], [52 * MS, 20 * MS], [20 * MS, 20 * MS]] {
        let ways = Ways { least, jitter: Duration::ZERO };
        let (doubt, wrong) = hand_over(ways, 1, DOUBT_MAX, &mut |_| (1, 5 * MS));
        assert!(doubt > DOUBT_MAX, "{doubt:?}");
        assert!(wrong.iter().all(|(_, count)| *count > 0), "{least:?}: {wrong:?}");
    }
}
