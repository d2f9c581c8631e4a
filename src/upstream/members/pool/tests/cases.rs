//! Single cases.

use std::time::Duration;

use super::world::{LINGER, World, member, observer, user};
use crate::limits::rate::Rate;
use crate::upstream::members::pool::rounds::{Rounds, Turn};
use crate::upstream::members::pool::{Counts, Note};
use crate::upstream::refused::Refused;

const ROOM: &str = "presence-room";
const SECOND: Duration = Duration::from_secs(1);

fn quick() -> Rate {
    Rate { count: 1000, per: SECOND, burst: 1000 }
}

#[test]
fn connections_of_one_user_share_a_link_that_lasts_until_the_last_has_left() {
    let mut world = World::new(0);
    let (first, second) = (world.join(0, ROOM, &member("1")), world.join(1, ROOM, &member("1")));
    world.join(0, ROOM, &member("2"));
    world.pass(SECOND);
    assert_eq!((world.dials.len(), world.server.subscriptions(ROOM)), (2, 2));
    world.leave(0, first);
    world.pass(LINGER * 2);
    assert_eq!(world.server.subscriptions(ROOM), 2, "the other connection is there");
    world.leave(1, second);
    world.pass(LINGER / 2);
    assert_eq!(world.server.subscriptions(ROOM), 2, "it lingers");
    let again = world.join(1, ROOM, &member("1"));
    world.pass(LINGER * 2);
    assert_eq!((world.dials.len(), world.server.subscriptions(ROOM)), (2, 2), "nobody left");
    world.leave(1, again);
    world.pass(LINGER * 2);
    assert_eq!(world.server.subscriptions(ROOM), 1);
    let left = world.hubs[0].clients.values().next().unwrap();
    assert_eq!(left.members.keys().collect::<Vec<_>>(), ["2"]);
}

#[test]
fn an_event_comes_once_however_many_links_bring_it() {
    let mut world = World::new(1);
    for id in 0..20 {
        world.join(id % 2, ROOM, &member(&id.to_string()));
    }
    world.pass(SECOND * 20);
    for _ in 0..50 {
        world.publish_equal(ROOM, "typing", "{}");
        world.pass(Duration::from_millis(3));
    }
    world.pass(SECOND);
    for client in world.hubs.iter().flat_map(|hub| hub.clients.values()) {
        assert_eq!(client.events["{}"], 50);
    }
    assert!(!world.notes.contains(&Note::Doubtful));
}

/// For each message: who got it how often. Whichever link dies in the middle of equal messages, and whenever.
#[test]
fn when_the_link_that_delivered_first_dies_the_others_have_delivered_already() {
    let early = Duration::from_millis(400);
    let times = (0..40).map(|at| (at / 2, if at % 2 == 0 { early } else { SECOND * 20 }));
    for (victim, (at, joined)) in (0..5).flat_map(|victim| times.clone().map(move |at| (victim, at))) {
        let mut world = World::new(at);
        for id in 0..5 {
            world.join(id % 2, ROOM, &member(&id.to_string()));
        }
        world.pass(joined);
        let before: Vec<usize> = world.hubs.iter().map(|hub| hub.clients.len()).collect();
        assert_eq!(before, [3, 2]);
        for n in 0..40 {
            world.publish_equal(ROOM, "typing", if n % 4 == 0 { "{}" } else { r#"{"n":1}"# });
            world.pass(Duration::from_millis(4));
            if n == 10 + at {
                let link = world.on(ROOM)[victim];
                world.cut(link);
            }
        }
        world.pass(SECOND * 10);
        for client in world.hubs.iter().flat_map(|hub| hub.clients.values()) {
            let got = (client.events["{}"], client.events[r#"{"n":1}"#]);
            assert_eq!((got, client.gaps), ((10, 30), 0), "link {victim} cut at {at}: {:?}", client.key);
        }
        assert!(!world.notes.contains(&Note::Doubtful));
    }
}

#[test]
fn when_all_links_are_lost_a_gap_is_told_and_then_who_came_and_went_meanwhile() {
    let mut world = World::new(2);
    for id in ["1", "2", "3"] {
        world.join(0, ROOM, &member(id));
    }
    let fourth = world.join(1, ROOM, &member("4"));
    world.pass(SECOND * 20);
    let links = world.on(ROOM);
    links.iter().for_each(|link| world.cut(*link));
    world.publish_equal(ROOM, "missed", "{}");
    world.leave(1, fourth);
    world.join(1, ROOM, &member("5"));
    world.pass(SECOND * 20);
    for client in world.hubs[0].clients.values() {
        assert_eq!((client.gaps, client.members.keys().cloned().collect::<String>()), (1, "1235".to_owned()));
        assert!(client.events.is_empty());
    }
    assert_eq!(world.notes.iter().filter(|note| matches!(note, Note::Lost(_))).count(), 1);
}

#[test]
fn beyond_the_cap_a_user_is_refused_until_a_place_is_free() {
    let mut world = World::with(3, 2, quick());
    let first = world.join(0, ROOM, &member("1"));
    world.join(0, ROOM, &member("2"));
    let third = world.join(0, ROOM, &member("3"));
    let fourth = world.join(1, ROOM, &member("4"));
    let observer = world.join(1, ROOM, &observer());
    world.pass(SECOND);
    assert_eq!(world.hubs[0].clients[&third].refused, Some(Refused::Quota));
    assert_eq!(world.hubs[1].clients[&fourth].refused, Some(Refused::Quota));
    assert!(world.hubs[1].clients[&observer].is_joined, "the bridge itself does not count");
    assert_eq!(world.pool.counts(), Counts { links: 3, dialling: 0, turned_away: 2 });
    assert_eq!(world.notes.iter().filter(|note| **note == Note::NoPlace).count(), 2);

    // One who leaves while refused changes nothing for the user's other connections.
    let again = world.join(1, ROOM, &member("3"));
    world.leave(0, third);
    world.leave(0, first);
    world.pass(LINGER * 3);
    assert!(world.hubs[1].clients[&again].is_joined && world.hubs[1].clients[&again].refused.is_none());
    assert!(!world.hubs[1].clients[&fourth].is_joined);
    world.leave(1, fourth);
    world.pass(SECOND);
    assert_eq!(world.pool.counts(), Counts { links: 3, dialling: 0, turned_away: 0 });
}

#[test]
fn a_link_that_only_lingers_makes_room() {
    let mut world = World::with(4, 1, quick());
    let first = world.join(0, ROOM, &member("1"));
    world.pass(SECOND);
    world.leave(0, first);
    let second = world.join(0, ROOM, &member("2"));
    world.pass(LINGER / 2);
    assert!(world.hubs[0].clients[&second].is_joined);
    assert!(world.notes.iter().all(|note| *note == Note::Dials || matches!(note, Note::Lost(_))));
}

/// By the clock of the model: as many dials as the rate allows, when they come at once and when all connections break.
#[test]
fn a_herd_of_users_does_not_dial_faster_than_the_pace() {
    let (burst, count) = (10, 5);
    let mut world = World::with(5, 500, Rate { count, per: SECOND, burst });
    for id in 0..200 {
        world.join(id % 2, ROOM, &member(&id.to_string()));
    }
    world.pass(SECOND * 60);
    let herd = |world: &mut World, from: usize, already: u32| {
        assert_eq!(world.dials.len(), from + 200);
        for (n, at) in world.dials[from..].iter().enumerate() {
            let since = *at - world.dials[from];
            let allowed = f64::from(already + burst) + since.as_secs_f64() * f64::from(count);
            assert!((n as f64) < allowed + 0.001, "dial {n} after {since:?}");
        }
    };
    herd(&mut world, 0, 0);
    assert_eq!(world.server.subscriptions(ROOM), 200);
    let links = world.on(ROOM);
    links.into_iter().for_each(|link| world.cut(link));
    world.pass(SECOND);
    assert!(world.pool.counts().dialling > 150);
    world.pass(SECOND * 60);
    herd(&mut world, 200, 0);
    assert_eq!(world.server.subscriptions(ROOM), 200);
    for client in world.hubs.iter().flat_map(|hub| hub.clients.values()) {
        assert_eq!((client.members.len(), client.gaps), (200, 1));
    }
}

#[test]
fn a_users_channel_is_subscribed_after_the_sign_in_and_has_its_watchlist() {
    let mut world = World::new(6);
    let online = r#"{"events":[{"name":"online","user_ids":["2"]}]}"#;
    let join = world.join(0, "#server-to-user-1", &user("1"));
    world.pass(Duration::from_millis(70));
    // As servers do, before the channel is confirmed.
    let link = world.sources()[0];
    world.watchlist(link, online);
    world.pass(SECOND);
    world.publish_equal("#server-to-user-1", "hello", r#"{"n":1}"#);
    world.watchlist(link, &online.replace("online", "offline"));
    world.pass(SECOND);
    let client = &world.hubs[0].clients[&join];
    assert!(client.is_joined && client.members.is_empty());
    assert_eq!(client.names, ["watchlist_events", "hello", "watchlist_events"]);
    assert_eq!(client.events[online], 1);
}

#[test]
fn a_user_who_is_not_signed_in_is_told_and_stays_on_presence_channels() {
    let mut world = World::new(7);
    world.server.unwelcome.insert("1".to_owned());
    let (own, room) = (world.join(0, "#server-to-user-1", &user("1")), world.join(0, ROOM, &user("1")));
    world.pass(SECOND);
    assert_eq!(world.hubs[0].clients[&own].refused, Some(Refused::Unauthorized));
    assert!(!world.hubs[0].clients[&own].is_joined && world.hubs[0].clients[&room].is_joined);
    world.server.unwelcome.clear();
    world.pass(SECOND * 62);
    assert!(world.hubs[0].clients[&own].is_joined, "it is tried again");
}

#[test]
fn a_user_who_is_terminated_has_a_new_link_when_it_comes_again() {
    let mut world = World::new(8);
    let old = world.join(0, ROOM, &user("1"));
    let other = world.join(1, ROOM, &user("2"));
    world.pass(SECOND);
    assert_eq!(world.terminate("1"), 1);
    world.pass(SECOND * 100);
    assert!(world.hubs[0].clients[&old].is_terminated && !world.hubs[1].clients[&other].is_terminated);
    assert_eq!((world.dials.len(), world.pool.counts().links), (2, 1), "it is not dialled again");
    let new = world.join(0, ROOM, &user("1"));
    world.pass(SECOND);
    world.leave(0, old);
    world.pass(LINGER * 3);
    assert!(world.hubs[0].clients[&new].is_joined && world.server.members(ROOM).contains_key("1"));
}

#[test]
fn who_comes_late_to_a_cache_channel_has_its_last_event_and_nobody_has_it_again() {
    let mut world = World::new(9);
    let channel = "presence-cache-room";
    let first = world.join(0, channel, &member("1"));
    world.pass(SECOND);
    world.publish_equal(channel, "state", "1");
    world.pass(SECOND * 600);
    let second = world.join(0, channel, &member("2"));
    world.pass(SECOND * 10);
    let third = world.join(0, channel, &member("2"));
    world.pass(SECOND);
    let clients = &world.hubs[0].clients;
    assert_eq!(clients[&first].events["1"], 1, "it was sent anew to the other's link");
    for late in [second, third] {
        assert_eq!((clients[&late].cached.as_deref(), clients[&late].events.len()), (Some("1"), 0));
    }
}

#[test]
fn a_client_event_is_no_last_event_of_a_cache_channel() {
    let mut world = World::new(9);
    let channel = "presence-cache-room";
    world.join(0, channel, &member("1"));
    world.pass(SECOND);
    world.publish_equal(channel, "state", "1");
    world.pass(SECOND);
    world.client_event(channel, &member("1"), "{}");
    world.pass(SECOND * 5);
    let late = world.join(0, channel, &member("1"));
    world.pass(SECOND * 5);
    assert_eq!(world.hubs[0].clients[&late].cached.as_deref(), Some("1"));
}

/// Its sender's link gets no copy, and the others' may come before the server's answer to the sender.
#[test]
fn a_client_event_comes_once_to_everybody_here() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        for id in 0..4 {
            world.join(id % 2, ROOM, &member(&id.to_string()));
        }
        world.pass(SECOND * 20);
        for n in 0..12 {
            world.client_event(ROOM, &member(&(n % 3).to_string()), "{}");
            world.pass(Duration::from_millis(30));
        }
        world.pass(SECOND * 5);
        for client in world.hubs.iter().flat_map(|hub| hub.clients.values()) {
            assert_eq!(client.events["{}"], 12, "{:?} with seed {seed}", client.key);
        }
    }
}

#[test]
fn what_clients_publish_comes_once_whether_its_copies_or_the_answer_come_first() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        for id in 0..4 {
            world.join(id % 2, ROOM, &member(&id.to_string()));
        }
        world.pass(SECOND * 20);
        for _ in 0..10 {
            world.request(ROOM, true);
            world.pass(Duration::from_millis(10));
        }
        world.pass(SECOND * 2);
        world.hubs.iter().for_each(|hub| hub.assert_complete());
        // One that is given up may have been accepted: then its copies are delivered.
        world.request(ROOM, false);
        world.pass(SECOND * 2);
        world.hubs.iter().for_each(|hub| hub.assert_complete());
    }
}

/// The next turn, and how long it took. All the while somebody comes to a channel of his own.
fn next_turn(world: &mut World, rounds: &mut Rounds) -> (Turn, Duration) {
    let began = world.now;
    loop {
        if let Some(turn) = rounds.next(&world.pool, world.now) {
            return (turn, world.now - began);
        }
        assert!(world.now < began + SECOND * 100, "{rounds:?}");
        let newcomer = world.sources().len().to_string();
        world.join(0, &format!("presence-{newcomer}"), &member(&newcomer));
        world.pass(SECOND);
    }
}

#[test]
fn links_that_connect_anew_are_waited_for_and_not_whoever_comes_meanwhile() {
    let mut world = World::with(7, 1000, quick());
    for id in ["a", "b", "c"] {
        world.join(0, ROOM, &member(id));
    }
    world.pass(SECOND * 20);
    let mut rounds = Rounds::of(&world.pool, world.now);
    let mut told = Vec::new();
    for count in [2, 1] {
        let (Turn { links, is_late }, took) = next_turn(&mut world, &mut rounds);
        let links = links.unwrap();
        assert!(links.len() == count && !is_late && took < SECOND * 30, "{links:?}, {took:?}");
        for source in &links {
            world.cut(*source);
            rounds.left(*source);
        }
        told.extend(links);
        // They are lost first.
        world.pass(SECOND / 5);
    }
    told.sort_unstable();
    assert_eq!(told.len(), 3);
    let (turn, took) = next_turn(&mut world, &mut rounds);
    assert_eq!(turn, Turn { links: None, is_late: false });
    assert!(took >= SECOND && world.on(ROOM).len() == 3, "they are waited for: {took:?}");
}

#[test]
fn a_link_that_does_not_leave_its_connection_holds_the_others_up_for_a_minute() {
    let mut world = World::new(8);
    for id in ["a", "b"] {
        world.join(0, ROOM, &member(id));
    }
    world.pass(SECOND * 20);
    let mut rounds = Rounds::of(&world.pool, world.now);
    assert!(!next_turn(&mut world, &mut rounds).0.is_late);
    let (turn, took) = next_turn(&mut world, &mut rounds);
    assert!(turn.is_late && turn.links.is_some_and(|links| links.len() == 1), "the other one");
    assert!(took >= SECOND * 60 && took <= SECOND * 61, "{took:?}");
}
