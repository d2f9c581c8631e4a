//! Users who come and go, connections that break, and then calm.

use std::collections::BTreeSet;
use std::time::Duration;

use super::world::{HUBS, World, member};
use crate::upstream::members::pool::{Counts, Note};

const SEEDS: u64 = 300;
const STEPS: usize = 200;
const CHANNELS: [&str; 3] = ["presence-a", "presence-b", "presence-cache-c"];
const USERS: [&str; 5] = ["1", "2", "3", "4", "5"];

fn run(seed: u64) {
    let mut world = World::new(seed);
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
    world.jitter = Duration::from_millis([1, 40, 400][rng.usize(..3)]);
    let is_wild = rng.bool();
    for _ in 0..STEPS {
        let longest = [20, 400, 3000][rng.usize(..3)];
        world.pass(Duration::from_millis(rng.u64(..longest)));
        let (hub, channel) = (rng.usize(..HUBS), CHANNELS[rng.usize(..CHANNELS.len())]);
        let joins: Vec<u64> = world.hubs[hub].clients.keys().copied().collect();
        match rng.u32(..100) {
            0..=24 => drop(world.join(hub, channel, &member(USERS[rng.usize(..USERS.len())]))),
            25..=39 if !joins.is_empty() => world.leave(hub, joins[rng.usize(..joins.len())]),
            40..=74 => world.publish(channel),
            75..=84 => world.request(channel, true),
            85..=94 if is_wild => {
                let links = world.sources();
                if !links.is_empty() {
                    world.cut(links[rng.usize(..links.len())]);
                }
            }
            _ => {}
        }
    }
    world.pass(Duration::from_secs(60));
    let channels: Vec<_> = CHANNELS.iter().filter(|channel| **channel != "presence-cache-c").collect();
    for channel in &channels {
        world.publish(channel);
    }
    world.pass(Duration::from_secs(20));
    let clients = world.hubs.iter().flat_map(|hub| hub.clients.values());
    // One's own is taken for somebody's when all links come anew while it is on its way: for a duplicate, not a loss.
    let twice = clients.flat_map(|client| &client.twice).filter(|data| !world.own.contains(*data));
    let twice: BTreeSet<_> = twice.collect();
    let doubtful = world.notes.iter().filter(|note| **note == Note::Doubtful).count();
    assert!(twice.len() <= doubtful, "came twice, and nobody said so: {twice:?} ({doubtful})");
    for hub in &world.hubs {
        hub.assert_complete();
        for client in hub.clients.values() {
            assert_eq!(client.members, world.server.members(&client.channel), "{client:?}");
        }
    }
    for hub in 0..HUBS {
        let joins: Vec<u64> = world.hubs[hub].clients.keys().copied().collect();
        joins.into_iter().for_each(|join| world.leave(hub, join));
    }
    world.pass(Duration::from_secs(30));
    assert_eq!(world.pool.counts(), Counts::default());
    assert!(world.sources().is_empty());
    assert!(CHANNELS.iter().all(|channel| world.server.subscriptions(channel) == 0));
}

#[test]
fn whatever_happens_lists_are_right_and_no_event_is_lost_or_comes_twice() {
    for seed in 0..SEEDS {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            panic!("with seed {seed}");
        }
    }
}
