//! Single cases that the weather brings too seldom, or never.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::at;
use super::world::{LINK, TIMES};
use crate::clock::tests::now;
use crate::exchange::ConnId;
use crate::pusher::frame::{self, ServerFrame};
use crate::upstream::delivery::{Delivery, Sent};
use crate::upstream::flights::SharedFlights;
use crate::upstream::link::machine::{Action, Command, Frame, Machine, Note};
use crate::upstream::lost::{End, LostCause};
use crate::upstream::refused::Refused;

pub(super) const CACHE: &str = "cache-price";
const NO_SUBSCRIPTION: &str = "No current subscription to channel a, or subscription in progress";

pub(super) struct Bench {
    pub(super) machine: Machine,
    pub(super) now: Instant,
    pub(super) flights: SharedFlights,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let (now, flights) = (now().mono, SharedFlights::default());
        let machine = Machine::new(LINK, TIMES, flights.clone(), fastrand::Rng::with_seed(seed), now);
        Self { machine, now, flights }
    }

    pub(super) fn connected() -> Self {
        let mut b = Self::new(0);
        b.act(|machine, now, out| machine.timer(at(now), out));
        b.act(|machine, now, out| machine.connected("1.7", None, now, out));
        b
    }

    /// Of a server that is known to reject a second subscription, or to confirm it.
    fn knowing(rejects: bool) -> Self {
        let mut b = Self::connected();
        let own = b.machine.own_channel.clone();
        assert!(subscribes(&b.go_to_deadline(), &own));
        assert!(subscribes(&b.confirmed(&own), &own));
        if rejects {
            b.frame(&frame::error(None, &format!("Existing subscription to channel {own}")));
        } else {
            b.confirmed(&own);
        }
        assert_eq!(b.machine.checks.rejects(), rejects);
        b
    }

    pub(super) fn act(&mut self, input: impl FnOnce(&mut Machine, Instant, &mut Vec<Action>)) -> Vec<Action> {
        let mut out = Vec::new();
        input(&mut self.machine, self.now, &mut out);
        out
    }

    pub(super) fn go_to_deadline(&mut self) -> Vec<Action> {
        self.now = self.machine.deadline();
        self.act(|machine, now, out| machine.timer(at(now), out))
    }

    pub(super) fn frame(&mut self, text: &str) -> Vec<Action> {
        self.act(|machine, now, out| machine.frame(ServerFrame::decode(text).unwrap(), at(now), out))
    }

    pub(super) fn confirmed(&mut self, channel: &str) -> Vec<Action> {
        self.frame(&frame::subscription_succeeded(channel, "{}"))
    }

    pub(super) fn event(&mut self, channel: &str, data: &str) -> Vec<Action> {
        self.frame(&frame::event("changed", channel, data, None))
    }

    /// The server says that the channel has no last event.
    pub(super) fn miss(&mut self, channel: &str) -> Vec<Action> {
        self.frame(&frame::event_raw("pusher:cache_miss", Some(channel), None, None))
    }

    pub(super) fn subscribe(&mut self, channel: &str) -> Vec<Action> {
        self.act(|machine, now, out| machine.command(Command::Subscribe(channel.into(), 0), at(now), out))
    }

    pub(super) fn unsubscribe(&mut self, channel: &str) {
        self.act(|machine, now, out| machine.command(Command::Unsubscribe(channel.into(), 0), at(now), out));
    }

    /// A client publishes what [`Self::event`] would bring, and Pusher accepts it.
    pub(super) fn publish(&mut self, channel: &str, data: &str) -> Vec<Action> {
        let channel: Arc<str> = channel.into();
        let (flight, _) = self.flights.lock().begin(vec![channel.clone()]);
        let sent = Sent { channel, event: "changed".to_owned(), data: data.to_owned(), origin: ConnId(1) };
        let accepted = vec![Arc::new(sent)];
        self.act(|machine, now, out| machine.command(Command::Ended { flight, accepted }, at(now), out))
    }

    pub(super) fn end(&mut self, code: Option<u16>) -> Duration {
        let end = End { cause: LostCause::of_close(code), code, why: String::new() };
        let actions = self.act(|machine, now, out| machine.ended(end, now, out));
        let delay = actions.iter().find_map(|action| match action {
            Action::Note(Note::Ended(_, delay)) => Some(*delay),
            _ => None,
        });
        delay.unwrap()
    }
}

fn subscribes(actions: &[Action], channel: &str) -> bool {
    actions.iter().any(|action| matches!(action, Action::Send(Frame::Subscribe(name)) if **name == *channel))
}

fn publishes_probe(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::PublishProbe(_)))
}

/// The data of the events that hubs are told.
pub(super) fn events(actions: &[Action]) -> Vec<&str> {
    let data = |action| match action {
        &Action::Tell(_, Delivery::Event(ref event)) => Some(&*event.data),
        _ => None,
    };
    actions.iter().filter_map(data).collect()
}

/// The data of the last event with which hubs are told that a channel is confirmed.
pub(super) fn cached(actions: &[Action]) -> Option<&str> {
    let mut told = actions.iter().filter_map(|action| match action {
        Action::Tell(_, Delivery::Live { cached, .. }) => Some(cached.as_ref().map(|event| &*event.data)),
        _ => None,
    });
    told.next().expect("no hub is told that the channel is confirmed")
}

fn milliseconds(range: RangeInclusive<u64>) -> RangeInclusive<Duration> {
    Duration::from_millis(*range.start())..=Duration::from_millis(*range.end())
}

#[test]
fn the_delay_follows_the_code_and_how_many_failed_before() {
    let backoff = [None];
    let slower = [Some(1000), Some(1006), Some(3999), Some(4100), Some(4199)];
    let at_once = [Some(4200), Some(4201), Some(4299)];
    let unchanged = [Some(4000), Some(4001), Some(4099), Some(4300), Some(4999)];
    for (codes, attempt, expected) in [
        (&backoff[..], 0, 0..=500),
        (&backoff, 1, 0..=1000),
        (&backoff, 3, 0..=4000),
        (&backoff, u32::MAX, 0..=30_000),
        (&slower, 0, 1000..=1500),
        (&slower, 1, 1000..=2000),
        (&slower, 3, 1000..=5000),
        (&slower, u32::MAX, 1000..=31_000),
        (&at_once, 0, 0..=0),
        (&at_once, 1, 0..=1000),
        (&at_once, 3, 0..=4000),
        (&at_once, u32::MAX, 0..=30_000),
        (&unchanged, 0, 15_000..=30_000),
        (&unchanged, 1, 15_000..=30_000),
        (&unchanged, u32::MAX, 15_000..=30_000),
    ] {
        let (expected, codes) = (milliseconds(expected), codes.iter().copied());
        let (least, most) = (*expected.start(), *expected.end());
        for code in codes {
            let delays = (0..50).map(|seed| {
                let mut machine = Bench::new(seed).machine;
                machine.attempt = attempt;
                machine.delay_after(&End { code, ..End::new(LostCause::Broken, "") })
            });
            let delays: Vec<Duration> = delays.collect();
            let case = format!("{code:?} after {attempt}: {delays:?}");
            assert!(delays.iter().all(|delay| expected.contains(delay)), "{case}");
            if least == most {
                continue;
            }
            assert!(delays.iter().all(|delay| *delay > Duration::ZERO), "{case}");
            let quarter = (most - least) / 4;
            let is_spread = delays.iter().any(|delay| *delay < least + quarter)
                && delays.iter().any(|delay| *delay > most - quarter);
            assert!(is_spread, "{case}");
        }
    }
}

#[test]
fn only_the_first_close_in_a_row_that_asks_for_it_is_followed_at_once() {
    for seed in 0..50 {
        let mut b = Bench::new(seed);
        let mut delays = Vec::new();
        for _ in 0..4 {
            b.go_to_deadline();
            b.act(|machine, now, out| machine.connected("1.7", None, now, out));
            delays.push(b.end(Some(4200)));
        }
        assert_eq!(delays[0], Duration::ZERO);
        assert!(delays[1..].iter().all(|delay| *delay > Duration::ZERO), "with seed {seed}: {delays:?}");
    }
}

#[test]
fn an_unsubscription_in_vain_is_no_failed_subscription() {
    for subscribing in ["a", "b"] {
        let mut b = Bench::connected();
        b.subscribe(subscribing);
        assert!(b.frame(&frame::error(None, NO_SUBSCRIPTION)).is_empty());
        assert_eq!(cached(&b.confirmed(subscribing)), None, "it is under way still");
    }
}

#[test]
fn a_link_that_gets_events_publishes_no_probe() {
    for is_busy in [true, false] {
        let mut b = Bench::knowing(false);
        b.subscribe("a");
        b.confirmed("a");
        let end = b.now + 5 * TIMES.check_interval.unwrap();
        let mut has_probed = false;
        while b.now < end && !has_probed {
            if is_busy {
                assert_eq!(events(&b.event("a", "1")), ["1"]);
            }
            has_probed = publishes_probe(&b.go_to_deadline());
            b.frame(frame::PONG);
        }
        assert_eq!(has_probed, !is_busy);
    }
}

#[test]
fn nothing_is_sent_over_a_connection_that_is_given_up() {
    let mut b = Bench::knowing(true);
    b.subscribe("a");
    b.confirmed("a");
    while !subscribes(&b.go_to_deadline(), "a") {
        b.frame(frame::PONG);
    }
    // Neither this nor the check of the other is answered, and both times are over at once.
    assert!(subscribes(&b.subscribe("b"), "b"));
    let actions = loop {
        let actions = b.go_to_deadline();
        if actions.iter().any(|action| matches!(action, Action::HangUp)) {
            break actions;
        }
        b.frame(frame::PONG);
    };
    let given_up = Note::SubscriptionFailed { channel: "b".into(), why: Refused::Unanswered, text: None };
    assert!(actions.iter().any(|action| matches!(action, Action::Note(note) if *note == given_up)));
    let after = actions.iter().skip_while(|action| !matches!(action, Action::HangUp));
    assert!(!after.into_iter().any(|action| matches!(action, Action::Send(_))), "{actions:?}");
}

#[test]
fn what_a_stranger_publishes_after_a_client_is_no_last_event_sent_anew() {
    let mut b = Bench::connected();
    b.subscribe(CACHE);
    b.confirmed(CACHE);
    b.miss(CACHE);
    assert_eq!(events(&b.publish(CACHE, "1")), ["1"]);
    assert_eq!(events(&b.event(CACHE, "1")), ["1"]);
}

#[test]
fn a_channel_that_was_let_go_has_no_last_event() {
    let mut b = Bench::connected();
    b.subscribe(CACHE);
    b.confirmed(CACHE);
    b.event(CACHE, "1");
    b.unsubscribe(CACHE);
    b.go_to_deadline();
    assert!(subscribes(&b.subscribe(CACHE), CACHE));
    assert_eq!(cached(&b.confirmed(CACHE)), None, "it may be an older one by now");
    assert_eq!(events(&b.event(CACHE, "1")), ["1"], "and whoever came has none yet");
}

#[test]
fn a_channel_that_was_let_go_while_there_is_no_connection_has_no_last_event() {
    let mut b = Bench::connected();
    b.subscribe(CACHE);
    b.confirmed(CACHE);
    b.event(CACHE, "1");
    b.end(None);
    b.unsubscribe(CACHE);
    b.subscribe(CACHE);
    b.go_to_deadline();
    b.act(|machine, now, out| machine.connected("2.7", None, now, out));
    assert_eq!(cached(&b.confirmed(CACHE)), None);
}

#[test]
fn who_comes_while_a_channel_lingers_gets_its_last_event() {
    let (by_a_stranger, by_a_client) = (Bench::event, Bench::publish);
    for publish in [by_a_stranger as fn(&mut Bench, &str, &str) -> Vec<Action>, by_a_client] {
        let mut b = Bench::connected();
        b.subscribe(CACHE);
        b.confirmed(CACHE);
        assert_eq!(events(&b.event(CACHE, "1")), ["1"]);
        b.unsubscribe(CACHE);
        assert!(events(&publish(&mut b, CACHE, "2")).is_empty());
        assert_eq!(cached(&b.subscribe(CACHE)), Some("2"));
    }
}

/// What is not wanted at that moment is not subscribed on the connection that takes over.
#[test]
fn a_channel_that_lingers_when_the_connection_is_replaced_is_subscribed_anew() {
    let mut b = Bench::connected();
    for channel in ["a", "b"] {
        assert!(subscribes(&b.subscribe(channel), channel));
        b.confirmed(channel);
    }
    b.unsubscribe("a");
    assert!(b.machine.may_move(b.now));
    let actions = b.act(|machine, now, out| machine.moved("2.7", None, now, out));
    let leaves = |action: &Action| matches!(action, Action::Send(Frame::Unsubscribe(name)) if **name == *"a");
    assert!(actions.iter().any(leaves), "it may be there yet: {actions:?}");
    let counts = b.machine.table().counts();
    assert_eq!((counts.pending, counts.live, counts.lingering), (0, 1, 0));
    let actions = b.subscribe("a");
    assert!(subscribes(&actions, "a"), "{actions:?}");
    let live = |action: &Action| matches!(action, Action::Tell(_, Delivery::Live { .. }));
    assert!(!actions.iter().any(live), "it is not confirmed: {actions:?}");
    assert!(b.confirmed("a").iter().any(live));
    assert!(b.subscribe("b").iter().any(live), "what was wanted is there");
}
