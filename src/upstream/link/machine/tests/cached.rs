//! Last events of cache channels, in every order of what Pusher and the bridge's own clients say.

use std::sync::Arc;
use std::time::Duration;

use super::at;
use super::cases::{Bench, CACHE, cached, events};
use crate::exchange::ConnId;
use crate::pusher::frame;
use crate::upstream::delivery::{Delivery, Event, Kind, Sent};
use crate::upstream::link::machine::{Action, Command};

const PRIVATE: &str = "private-cache-price";

impl Bench {
    fn again(&mut self) {
        self.end(None);
        self.go_to_deadline();
        self.act(|machine, now, out| machine.connected("2.7", None, now, out));
    }

    /// A client's message is under way: what [`Self::event`] would bring.
    fn begins(&mut self, channel: &str, data: &str) -> (u64, Arc<Sent>) {
        let (channel, event, data) = (channel.into(), "changed".to_owned(), data.to_owned());
        let sent = Arc::new(Sent { channel, event, data, origin: ConnId(1) });
        let mut flights = self.flights.lock();
        let (flight, _) = flights.begin(vec![sent.channel.clone()]);
        flights.carries(flight, vec![sent.clone()]);
        (flight, sent)
    }

    fn ends(&mut self, flight: u64, accepted: &[Arc<Sent>]) -> Vec<Action> {
        let accepted = accepted.to_vec();
        self.act(|machine, now, out| machine.command(Command::Ended { flight, accepted }, at(now), out))
    }

    /// What somebody who comes now is told of the last event.
    fn late(&mut self, channel: &str) -> Option<Arc<Event>> {
        let actions = self
            .act(|machine, now, out| machine.command(Command::Subscribe(channel.into(), 1), at(now), out));
        self.act(|machine, now, out| machine.command(Command::Unsubscribe(channel.into(), 1), at(now), out));
        told(&actions).expect("it is confirmed").clone()
    }
}

/// What hubs are told of the last event with the confirmation.
fn told(actions: &[Action]) -> Option<&Option<Arc<Event>>> {
    actions.iter().find_map(|action| match action {
        Action::Tell(_, Delivery::Live { cached, .. }) => Some(cached),
        _ => None,
    })
}

fn misses(actions: &[Action]) -> usize {
    let is = |action: &&Action| matches!(action, Action::Tell(_, Delivery::Event(event)) if event.kind == Kind::CacheMiss);
    actions.iter().filter(is).count()
}

fn origins(actions: &[Action]) -> Vec<Option<ConnId>> {
    let origin = |action: &Action| match action {
        Action::Tell(_, Delivery::Event(event)) => Some(event.origin),
        _ => None,
    };
    actions.iter().filter_map(origin).collect()
}

fn subscribed(channel: &str) -> Bench {
    let mut b = Bench::connected();
    b.subscribe(channel);
    b.confirmed(channel);
    b
}

#[test]
fn that_there_is_no_last_event_is_told_to_all_and_to_whoever_comes_later() {
    let mut b = subscribed(CACHE);
    assert!(b.late(CACHE).is_none(), "nothing is known yet");
    assert_eq!(misses(&b.miss(CACHE)), 1);
    assert_eq!(b.late(CACHE).unwrap().kind, Kind::CacheMiss);
    assert_eq!(misses(&b.miss(CACHE)), 0, "it is said once for each subscription");
    b.again();
    let live = b.confirmed(CACHE);
    assert_eq!(told(&live).unwrap().as_ref().unwrap().kind, Kind::CacheMiss, "who came meanwhile is told");
    assert_eq!(misses(&b.miss(CACHE)), 0, "and nobody twice");
    assert_eq!(events(&b.event(CACHE, "1")), ["1"]);
    assert_eq!(*b.late(CACHE).unwrap().data, *"1");
    b.again();
    b.confirmed(CACHE);
    assert_eq!(misses(&b.miss(CACHE)), 1, "Pusher has let it go");
    assert_eq!(b.late(CACHE).unwrap().kind, Kind::CacheMiss);
}

#[test]
fn after_half_an_hour_there_is_no_last_event_and_a_younger_equal_one_is_delivered() {
    let mut b = subscribed(CACHE);
    b.event(CACHE, "1");
    b.now += Duration::from_secs(30 * 60 - 1);
    assert_eq!(*b.late(CACHE).unwrap().data, *"1");
    b.now += Duration::from_secs(1);
    assert_eq!(b.late(CACHE).unwrap().kind, Kind::CacheMiss);
    b.again();
    b.confirmed(CACHE);
    assert_eq!(events(&b.event(CACHE, "1")), ["1"], "it was published again");
}

#[test]
fn after_a_gap_only_another_last_event_is_delivered() {
    for (sent, expected) in [("1", &[][..]), ("2", &["2"])] {
        let mut b = subscribed(CACHE);
        b.event(CACHE, "0");
        b.event(CACHE, "1");
        b.again();
        assert_eq!(cached(&b.confirmed(CACHE)), Some("1"));
        assert_eq!(events(&b.event(CACHE, sent)), expected);
        assert_eq!(events(&b.event(CACHE, sent)), [sent], "what comes next is an event, equal or not");
        assert_eq!(*b.late(CACHE).unwrap().data, *sent);
    }
}

#[test]
fn a_message_that_comes_as_the_last_event_before_it_is_accepted_comes_once_and_not_to_its_sender() {
    // The channel is subscribed while the message is under way, after Pusher has stored it.
    for (others, last) in [(&[][..], "7"), (&["8"], "8")] {
        let mut b = Bench::connected();
        let (flight, sent) = b.begins(CACHE, "7");
        b.subscribe(CACHE);
        b.confirmed(CACHE);
        let came = b.event(CACHE, "7");
        assert_eq!((events(&came), origins(&came)), (vec!["7"], vec![Some(ConnId(1))]));
        for other in others {
            b.event(CACHE, other);
        }
        assert!(events(&b.ends(flight, &[sent])).is_empty(), "it is delivered");
        assert_eq!(*b.late(CACHE).unwrap().data, *last);
        let (flight, sent) = b.begins(CACHE, "7");
        assert_eq!(events(&b.ends(flight, &[sent])), ["7"], "the next equal one is another");
    }
}

#[test]
fn a_message_that_is_accepted_before_it_comes_as_the_last_event_comes_once() {
    for is_confirmed in [false, true] {
        let mut b = Bench::connected();
        let (flight, sent) = b.begins(CACHE, "7");
        b.subscribe(CACHE);
        if is_confirmed {
            b.confirmed(CACHE);
        }
        assert_eq!(events(&b.ends(flight, &[sent])), ["7"]);
        if !is_confirmed {
            assert_eq!(cached(&b.confirmed(CACHE)), Some("7"), "who waits gets it then");
        }
        assert!(events(&b.event(CACHE, "7")).is_empty());
        assert_eq!(events(&b.event(CACHE, "7")), ["7"], "a stranger's");
    }
}

#[test]
fn what_was_last_before_a_client_wrote_is_not_delivered_again_nor_kept() {
    let mut b = subscribed(CACHE);
    b.event(CACHE, "1");
    b.again();
    b.confirmed(CACHE);
    let (flight, sent) = b.begins(CACHE, "7");
    assert_eq!(events(&b.ends(flight, &[sent])), ["7"]);
    assert!(events(&b.event(CACHE, "1")).is_empty(), "it was sent before the other was stored");
    assert_eq!(*b.late(CACHE).unwrap().data, *"7");
    let mut b = subscribed(CACHE);
    let (flight, sent) = b.begins(CACHE, "7");
    b.ends(flight, &[sent]);
    assert_eq!(misses(&b.miss(CACHE)), 0, "there is one by now");
    assert_eq!(*b.late(CACHE).unwrap().data, *"7");
}

#[test]
fn client_events_are_no_last_events() {
    let by = |event: &str, channel: &str, user: Option<&str>| frame::event(event, channel, "2", user);
    for (channel, event, is_last) in
        [(PRIVATE, "client-moved", false), (PRIVATE, "moved", true), (CACHE, "client-moved", true)]
    {
        let mut b = subscribed(channel);
        b.event(channel, "1");
        assert_eq!(events(&b.frame(&by(event, channel, None))), ["2"]);
        let last = b.late(channel).unwrap();
        assert_eq!(*last.data == *"2", is_last, "{event} on {channel}");
        b.unsubscribe(channel);
        b.frame(&by(event, channel, None));
        assert_eq!(cached(&b.subscribe(channel)) == Some("2"), is_last, "while it lingers, too");
    }
    let mut b = subscribed(PRIVATE);
    assert_eq!(events(&b.frame(&by("client-moved", PRIVATE, None))), ["2"]);
    assert_eq!(*b.late(PRIVATE).unwrap().data, *"2", "what Pusher sends as the last one is it");
}
