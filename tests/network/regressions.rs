//! How equal messages were once mixed up, one test each. The network holds what must come late.

use std::time::Duration;

use futures_util::future::join_all;
use pusher_bridge::config::Config;

use crate::message::{Content, Place, SEEN, TYPING};
use crate::person::Leave;
use crate::room::Room;
use crate::scene::{Scene, Upstream};
use crate::support::network::{Kind, Mode, Profile, Says};

const ROUNDS: usize = 2;

/// Makes tests of `async fn(Upstream)`.
macro_rules! on_each_upstream {
    ($test:ident) => {
        mod $test {
            use super::Upstream;

            #[tokio::test(flavor = "multi_thread")]
            async fn sandbox() {
                super::$test(Upstream::Sandbox).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn sockudo() {
                super::$test(Upstream::Sockudo).await;
            }
        }
    };
}

fn nothing(_: &mut Config) {}

/// Every place, with the usual time that an empty channel stays subscribed, and without.
fn lingering_places() -> impl Iterator<Item = (Duration, Place)> {
    let lingering = [Duration::from_secs(1), Duration::ZERO];
    lingering.into_iter().flat_map(|linger| Place::ALL.map(|place| (linger, place)))
}

/// Everybody says the same, again and again, and then a server does: each gets exactly what the others said.
async fn are_in_step(scene: &mut Scene, when: &str, rooms: &mut [Room]) {
    for room in rooms.iter_mut() {
        for _ in room.count()..2 {
            room.join().await;
        }
    }
    scene.check(&format!("{when}: until they were there"), rooms).await;
    for round in 1..=ROUNDS {
        // Each by itself: together, what one is given too much may be what it is given too little of another.
        for content in [TYPING, SEEN] {
            rooms.iter_mut().for_each(|room| room.all_say(content));
        }
        scene.check(&format!("{when}: all speak, round {round}"), rooms).await;
        for room in rooms.iter_mut() {
            room.say(room.present()[0], TYPING);
        }
        scene.check(&format!("{when}: one speaks, round {round}"), rooms).await;
        for room in rooms.iter_mut() {
            room.server_says(TYPING).await;
            room.server_says(SEEN).await;
        }
        scene.check(&format!("{when}: a server speaks, round {round}"), rooms).await;
    }
}

/// Somebody is alone, says this, and is gone before any of it can come back.
async fn says_and_leaves(scene: &Scene, room: &mut Room, says: &[Content]) {
    let mut native = scene.app.native(&room.channel()).await;
    room.join().await;
    scene.network.set(Kind::Link, Mode::Hold(Says::Server));
    for content in says {
        room.say(0, *content);
    }
    room.leave(0, Leave::Politely);
    for content in says {
        assert_eq!(native.event().await.0, content.event(room.place).0);
    }
    scene.until("it to be gone", |scene| scene.connections() == 0.0).await;
    // Where nothing lingers, the bridge unsubscribes.
    let gone = scene.until("", |scene| {
        scene.metric(r#"pusher_bridge_subscriptions{state="live"}"#) == 0.0
            && scene.metric(r#"pusher_bridge_subscriptions{state="lingering"}"#) == 0.0
    });
    scene.perhaps(gone).await;
    scene.network.set(Kind::Link, Mode::Pass);
}

on_each_upstream!(the_last_one_says_something_and_leaves_at_once);
async fn the_last_one_says_something_and_leaves_at_once(upstream: Upstream) {
    let leaves = async |(linger, place): (Duration, Place)| {
        let change = |config: &mut Config| config.upstream.times.linger = linger;
        let Some(mut scene) = Scene::start(upstream, Profile::FAR, change).await else { return };
        let mut room = scene.room(place, "a");
        says_and_leaves(&scene, &mut room, &[TYPING, SEEN]).await;
        are_in_step(&mut scene, &format!("lingering {linger:?}"), &mut [room]).await;
    };
    join_all(lingering_places().map(leaves)).await;
}

on_each_upstream!(the_last_ones_message_is_under_way_when_it_has_left);
/// What it said reaches Pusher when nobody is subscribed any more, or somebody else is.
async fn the_last_ones_message_is_under_way_when_it_has_left(upstream: Upstream) {
    let leaves = async |others_come_first: bool| {
        let change = |config: &mut Config| config.upstream.times.linger = Duration::ZERO;
        let Some(mut scene) = Scene::start(upstream, Profile::FAR, change).await else { return };
        let mut room = scene.room(Place::Parlour, "a");
        let mut native = scene.app.native(&room.channel()).await;
        room.join().await;
        scene.network.set(Kind::Api, Mode::Hold(Says::Client));
        room.say(0, TYPING);
        scene.network.until_held(Kind::Api, Says::Client).await;
        room.leave(0, Leave::Politely);
        scene.until("it to be gone", |scene| scene.connections() == 0.0).await;
        let gone =
            scene.until("", |scene| scene.metric(r#"pusher_bridge_subscriptions{state="live"}"#) == 0.0);
        scene.perhaps(gone).await;
        if others_come_first {
            room.join().await;
            room.join().await;
        }
        scene.network.set(Kind::Api, Mode::Pass);
        assert_eq!(native.event().await.0, TYPING.event(room.place).0);
        are_in_step(&mut scene, &format!("others first: {others_come_first}"), &mut [room]).await;
    };
    join_all([false, true].map(leaves)).await;
}

on_each_upstream!(the_link_breaks_while_120_rooms_publish);
async fn the_link_breaks_while_120_rooms_publish(upstream: Upstream) {
    const ROOMS: usize = 120;
    let Some(mut scene) = Scene::start(upstream, Profile::FAR, nothing).await else { return };
    let mut rooms: Vec<Room> = (0..ROOMS).map(|n| scene.room(Place::ALL[n % 3], &format!("{n}"))).collect();
    join_all(rooms.iter_mut().map(async |room| {
        room.join().await;
        room.join().await;
    }))
    .await;
    scene.check("when all have come", &mut rooms).await;

    rooms.iter_mut().for_each(|room| room.all_say(TYPING));
    // The next link's greeting waits, then what the bridge subscribes to: meanwhile nothing is subscribed.
    scene.network.set(Kind::Link, Mode::Hold(Says::Server));
    scene.network.cut_all_of(Kind::Link);
    scene.network.until_held(Kind::Link, Says::Server).await;
    scene.network.set(Kind::Link, Mode::Hold(Says::Client));
    scene.network.until_held(Kind::Link, Says::Client).await;
    rooms.iter_mut().for_each(|room| room.all_say(SEEN));
    let settled =
        scene.until("", |scene| scene.metric(r#"pusher_bridge_publish_total{result="ok"}"#) >= 480.0);
    scene.perhaps(settled).await;
    scene.network.set(Kind::Link, Mode::Pass);
    scene.check("when the link is back", &mut rooms).await;
    are_in_step(&mut scene, "afterwards", &mut rooms).await;
}

on_each_upstream!(the_first_one_speaks_before_its_subscription_stands);
async fn the_first_one_speaks_before_its_subscription_stands(upstream: Upstream) {
    let speaks = async |held: Says| {
        let Some(mut scene) = Scene::start(upstream, Profile::FAR, nothing).await else { return };
        let mut room = scene.room(Place::Yard, "a");
        let mut native = scene.app.native(&room.channel()).await;
        scene.network.set(Kind::Link, Mode::Hold(held));
        room.join_saying(&[TYPING, SEEN]).await;
        scene.network.until_held(Kind::Link, held).await;
        // Or the bridge waits with it.
        scene.perhaps(native.event()).await;
        scene.network.set(Kind::Link, Mode::Pass);
        room.join().await;
        are_in_step(&mut scene, &format!("what the {held:?} says was held"), &mut [room]).await;
    };
    join_all([Says::Client, Says::Server].map(speaks)).await;
}

on_each_upstream!(a_servers_event_cannot_be_taken_away_beforehand);
/// Who knows what a server will say says it first, alone, and leaves: whoever comes then must get the server's.
async fn a_servers_event_cannot_be_taken_away_beforehand(upstream: Upstream) {
    let tries = async |(linger, place): (Duration, Place)| {
        let change = |config: &mut Config| config.upstream.times.linger = linger;
        let Some(mut scene) = Scene::start(upstream, Profile::FAR, change).await else { return };
        let mut rooms = [scene.room(place, "a")];
        says_and_leaves(&scene, &mut rooms[0], &[TYPING; 5]).await;
        rooms[0].join().await;
        scene.check("when the victim has come", &mut rooms).await;
        for _ in 0..5 {
            rooms[0].server_says(TYPING).await;
        }
        scene.check("when the server has spoken", &mut rooms).await;

        let victim = rooms[0].present()[0];
        rooms[0].leave(victim, Leave::Politely);
        scene.check("when the victim has gone", &mut rooms).await;
        says_and_leaves(&scene, &mut rooms[0], &[TYPING; 2]).await;
        rooms[0].join().await;
        let victim = rooms[0].present()[0];
        rooms[0].say(victim, TYPING);
        scene.check("when the victim has spoken", &mut rooms).await;
        rooms[0].server_says(TYPING).await;
        scene.check("when the server has spoken after it", &mut rooms).await;
    };
    join_all(lingering_places().map(tries)).await;
}

on_each_upstream!(lost_answers_withhold_nothing_from_others);
async fn lost_answers_withhold_nothing_from_others(upstream: Upstream) {
    let loses = async |(requests, answers): (usize, usize)| {
        let Some(mut scene) = Scene::start(upstream, Profile::FAR, nothing).await else { return };
        let mut rooms = [scene.room(Place::Parlour, "a"), scene.room(Place::Hall, "b")];
        for room in &mut rooms {
            for _ in 0..3 {
                room.join().await;
            }
        }
        scene.check("when all have come", &mut rooms).await;
        for index in 0..rooms.len() {
            let before = scene.network.unanswered().len();
            // What comes back would answer the question whether it was accepted.
            scene.network.set(Kind::Link, Mode::Hold(Says::Server));
            scene.network.lose_requests(requests);
            scene.network.lose_answers(answers);
            rooms[index].say(0, TYPING);
            scene.until("four attempts", |scene| scene.network.unanswered().len() == before + 4).await;
            let settled =
                scene.until("", |scene| scene.metric("pusher_bridge_publish_queue_messages") == 0.0);
            scene.perhaps(settled).await;
            scene.network.set(Kind::Link, Mode::Pass);
            let when = format!("{requests} requests and {answers} answers lost");
            scene.check(&when, &mut rooms).await;
            for _ in 0..4 {
                rooms[index].server_says(TYPING).await;
            }
            scene.check(&format!("{when}, when the server has spoken"), &mut rooms).await;
        }
        are_in_step(&mut scene, "afterwards", &mut rooms).await;
    };
    join_all([(0, 4), (4, 0), (2, 2)].map(loses)).await;
}
