//! A link and Pusher under random weather, and then calm: what the link promises holds all the while, and in the calm
//! all is well.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::hubs::Hub;
use super::pusher::Twice;
use super::world::{CHANNELS, HUBS, Weather, World};
use crate::upstream::link::table::Counts;

const SEEDS: u64 = 800;
/// How much happens.
const STEPS: usize = 600;
/// The longest pause between two steps, in seconds: what is to be noticed in silence needs some.
const PAUSES: [u64; 3] = [2, 2, 15];
/// Longer than it takes to notice that a connection delivers nothing, and to have everything again.
const CALM: Duration = Duration::from_secs(400);

/// From a room to the other side of the world, and across the border.
const NETWORKS: [(u64, u64); 3] = [(0, 1), (40, 80), (300, 900)];

#[derive(Debug)]
struct Choice {
    twice: Twice,
    weather: Weather,
    pause_max: Duration,
}

impl Choice {
    fn by(rng: &mut fastrand::Rng) -> Self {
        let mut one_of = |count| rng.usize(..count);
        let (latency, jitter) = NETWORKS[one_of(NETWORKS.len())];
        Self {
            twice: Twice::ALL[one_of(Twice::ALL.len())],
            weather: Weather {
                latency: Duration::from_millis(latency),
                jitter: Duration::from_millis(jitter),
                failures: [0, 5, 30][one_of(3)],
            },
            pause_max: Duration::from_secs(PAUSES[one_of(PAUSES.len())]),
        }
    }
}

fn run(seed: u64) -> BTreeMap<&'static str, u64> {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let Choice { twice, weather, pause_max } = Choice::by(&mut rng);
    let mut world = World::new(seed, twice, weather);
    for _ in 0..STEPS {
        world.pass(pause_max.mul_f64(rng.f64().powi(2)));
        happen(&mut world, &mut rng);
    }

    world.weather.failures = 0;
    // What is under way arrives.
    world.pass(Duration::from_secs(5));
    if !world.machine.checks.rejects() || world.hubs.iter().any(Hub::is_refused_for_good) {
        // A single forgotten channel shows only where that is known, and what was refused so is left alone.
        world.cut();
    }
    let end = world.now + CALM;
    while world.now < end {
        world.pass(Duration::from_secs(2));
        // Some channels are silent: that they still deliver is looked after.
        let channel = world.channels[rng.usize(..CHANNELS.len() / 2)].clone();
        world.publish(&channel);
    }
    let wanted: BTreeSet<Arc<str>> = world.hubs.iter().flat_map(|hub| hub.channels().cloned()).collect();
    let known = |channel: &&Arc<str>| world.channels.contains(channel);
    let subscribed: BTreeSet<Arc<str>> = world.pusher.subscribed.iter().filter(known).cloned().collect();
    assert_eq!(subscribed, wanted, "what is wanted is subscribed, and nothing else");
    for channel in world.channels.clone() {
        world.publish(&channel);
    }
    world.pass(Duration::from_secs(8));
    world.hubs.iter().for_each(|hub| hub.assert_complete(&world.truth()));

    for (hub, channel) in all(&world) {
        world.unsubscribe(hub, &channel);
    }
    world.pass(CALM / 20);
    assert_eq!(world.machine.table().counts(), Counts::default());
    assert!(!world.pusher.subscribed.iter().any(|channel| world.channels.contains(channel)));
    assert!(world.has_no_requests());
    world.seen
}

fn all(world: &World) -> Vec<(usize, Arc<str>)> {
    (0..HUBS).flat_map(|hub| world.channels.iter().map(move |channel| (hub, channel.clone()))).collect()
}

fn happen(world: &mut World, rng: &mut fastrand::Rng) {
    let (hub, channel) = (rng.usize(..HUBS), world.channel());
    match rng.u32(..200) {
        0..=49 => world.subscribe(hub, &channel),
        50..=84 => world.unsubscribe(hub, &channel),
        85..=149 => world.publish(&channel),
        150..=179 => world.request(&channel),
        180..=182 => world.ping(),
        183..=185 => world.cut(),
        186 => world.swallow(),
        187 => world.stall(Duration::from_secs(rng.u64(1..14))),
        188..=190 => {
            let codes = [None, Some(1000), Some(4004), Some(4100), Some(4200), Some(4201), Some(4301)];
            let code = codes[rng.usize(..codes.len())];
            // An error of no close code, or of one that means a subscription, ends nothing.
            let with_error = code.is_some_and(|code| (4000..4300).contains(&code)) && rng.bool();
            world.close(code, with_error);
        }
        // No other server shows by one channel that it has forgotten it.
        191..=193 if world.pusher.twice == Twice::Rejects => world.forget(&channel),
        194 | 195 => world.forget_all(),
        _ => {}
    }
}

#[test]
fn whatever_happens_each_event_comes_once_in_order_or_a_gap_is_told() {
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        match catch_unwind(AssertUnwindSafe(|| run(seed))) {
            Ok(one) => one.into_iter().for_each(|(what, times)| *seen.entry(what).or_default() += times),
            Err(_) => {
                let choice = Choice::by(&mut fastrand::Rng::with_seed(seed ^ 0x5eed));
                panic!("with seed {seed}: {choice:?}");
            }
        }
    }
    for what in [
        "broken",
        "closed",
        "closed_4000",
        "closed_4100",
        "closed_4200",
        "closed_other",
        "connect_timeout",
        "deaf",
        "pong_timeout",
        "refused",
        "a failed subscription",
        "a forgotten subscription",
        "a gap",
        "a last event",
        "a local event",
        "a ping",
        "a probe",
        "a refusal",
        "a subscription without an answer",
        "an event of a cache channel that was there",
        "an event that nobody wants",
        "no last event",
    ] {
        assert!(seen.get(what).is_some_and(|times| *times > 5), "it hardly saw {what}: {seen:?}");
    }
}
