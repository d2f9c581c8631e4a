//! Worlds of people, by seeds: rooms where they come, speak, leave and come again, while links and answers are lost.
//! After each phase everybody says the same once more, and then the account must be exact.

use std::ops::RangeInclusive;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use pusher_bridge::app::Shutdown;
use tokio::time::sleep;

use crate::message::{Content, Place, SEEN, TYPING};
use crate::person::Leave;
use crate::room::Room;
use crate::scene::{Scene, Upstream};
use crate::support::network::{Kind, Profile, Proxy};

const ROOMS: usize = 15;
const PEOPLE_MAX: usize = 4;
/// What happens in a room in one phase.
const STEPS: usize = 9;
/// At most so long passes between two of them, ms.
const PAUSE_MS_MAX: u64 = 70;
/// Seeds of each world, where the environment asks for no others.
const SEEDS: RangeInclusive<u64> = 1..=4;
/// Worlds at once: mostly they wait.
const AT_ONCE_MAX: usize = 4;

/// What may happen in a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Phase {
    name: &'static str,
    /// People come and go.
    churn: bool,
    /// Links break.
    links: bool,
    /// Requests and answers of the API are lost.
    answers: bool,
}

const PHASES: [Phase; 5] = [
    Phase { name: "calm", churn: false, links: false, answers: false },
    Phase { name: "coming and going", churn: true, links: false, answers: false },
    Phase { name: "lost links", churn: false, links: true, answers: false },
    Phase { name: "lost answers", churn: false, links: false, answers: true },
    Phase { name: "everything", churn: true, links: true, answers: true },
];

fn seeds() -> RangeInclusive<u64> {
    let Ok(asked) = std::env::var("PUSHER_BRIDGE_TESTS_SEEDS") else { return SEEDS };
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("PUSHER_BRIDGE_TESTS_SEEDS={asked}"));
    match asked.split_once("..") {
        Some((first, last)) => number(first)..=number(last),
        None => 1..=number(&asked),
    }
}

async fn worlds(upstream: Upstream, profile: Profile) {
    let worlds = stream::iter(seeds()).map(|seed| world(upstream, profile, seed));
    worlds.buffer_unordered(AT_ONCE_MAX).collect::<()>().await;
}

async fn world(upstream: Upstream, profile: Profile, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let connections = rng.usize(1..=3);
    let linger = [Duration::ZERO, Duration::from_millis(60), Duration::from_secs(1)][rng.usize(0..3)];
    let replicas = rng.usize(1..=2);
    let scene = Scene::replicated(upstream, profile, replicas, |config| {
        config.upstream.connections = connections;
        config.upstream.times.linger = linger;
    });
    let Some(mut scene) = scene.await else { return };
    let about = format!("seed {seed}, {replicas} bridges, {connections} links each, lingering {linger:?}");
    let mut rooms: Vec<Room> = (0..ROOMS).map(|n| scene.room(Place::ALL[n % 3], &format!("r{n}"))).collect();
    let mut uniques = 0..;
    for phase in PHASES {
        // Of which nobody can get lost, or the phase would lose its sense.
        join_all(rooms.iter_mut().map(async |room| {
            while room.count() < 2 {
                room.join().await;
            }
        }))
        .await;
        scene.check(&format!("{about}: before {}", phase.name), &mut rooms).await;
        let scripts: Vec<(Rng, u64)> =
            rooms.iter().map(|_| (rng.fork(), uniques.by_ref().nth(STEPS * 2).unwrap())).collect();
        {
            let lives = rooms.iter_mut().zip(scripts);
            let living = join_all(lives.map(|(room, (rng, unique))| live(room, phase, rng, unique)));
            tokio::select! {
                _ = living => {}
                () = break_things(&scene.network, phase, rng.fork()) => {}
            }
        }
        scene.network.lose_nothing();
        scene.check(&format!("{about}: {}", phase.name), &mut rooms).await;

        // This finds an account that is out of step for good. People and servers one after the other: together, what
        // one is given too much may be what it is given too little of another.
        for room in &mut rooms {
            room.all_say(TYPING);
            room.all_say(SEEN);
        }
        scene.check(&format!("{about}: all speak after {}", phase.name), &mut rooms).await;
        join_all(rooms.iter_mut().map(async |room| {
            room.server_says(TYPING).await;
            room.server_says(SEEN).await;
        }))
        .await;
        scene.check(&format!("{about}: a server speaks after {}", phase.name), &mut rooms).await;
    }
    for bridge in scene.bridges {
        assert_eq!(bridge.shutdown().await, Shutdown::Clean);
    }
}

/// Breaks what the phase lets break, until it is dropped.
async fn break_things(network: &Proxy, phase: Phase, mut rng: Rng) {
    loop {
        sleep(Duration::from_millis(rng.u64(20..200))).await;
        if phase.links && rng.u8(0..3) == 0 {
            network.cut_all_of(Kind::Link);
        }
        if phase.answers {
            match rng.u8(0..4) {
                0 => network.lose_answers(rng.usize(1..=4)),
                1 => network.lose_requests(rng.usize(1..=4)),
                2 => {
                    network.cut_all_of(Kind::Api);
                }
                _ => {}
            }
        }
    }
}

/// One room's phase.
async fn live(room: &mut Room, phase: Phase, mut rng: Rng, first_unique: u64) {
    let mut uniques = first_unique..;
    for _ in 0..STEPS {
        sleep(Duration::from_millis(rng.u64(0..=PAUSE_MS_MAX))).await;
        let mut content = || match rng.u8(0..4) {
            0 => Content::Unique(uniques.next().unwrap()),
            1 => SEEN,
            _ => TYPING,
        };
        let (one, two) = (content(), content());
        let present = room.present();
        let somebody = rng.choice(&present).copied();
        match (rng.u8(0..if phase.churn { 11 } else { 5 }), somebody) {
            (0, _) => room.server_says(one).await,
            (1, Some(somebody)) => {
                room.say(somebody, one);
                room.say(somebody, two);
            }
            (2..5, Some(somebody)) => room.say(somebody, one),
            (5, Some(somebody)) => room.leave(somebody, Leave::Politely),
            (6, Some(somebody)) => {
                room.say(somebody, one);
                room.leave(somebody, Leave::Politely);
                if phase.links || phase.answers {
                    room.unsure_of(somebody);
                }
            }
            (7, Some(somebody)) => {
                room.say(somebody, one);
                room.leave(somebody, Leave::ByReset);
            }
            // It comes, speaks, and is gone.
            (8, _) if present.len() < PEOPLE_MAX => {
                let index = room.join_saying(&[one]).await;
                let how = if rng.bool() { Leave::Politely } else { Leave::ByReset };
                room.leave(index, how);
                room.unsure_of(index);
            }
            (9, _) if present.len() < PEOPLE_MAX => {
                room.join_saying(&[one, two]).await;
            }
            (_, _) if present.len() < PEOPLE_MAX => {
                room.join_saying(&[]).await;
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn worlds_on_loopback() {
    worlds(Upstream::Sandbox, Profile::LOOPBACK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worlds_far_away() {
    worlds(Upstream::Sandbox, Profile::FAR).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worlds_far_away_with_sockudo() {
    worlds(Upstream::Sockudo, Profile::FAR).await;
}
