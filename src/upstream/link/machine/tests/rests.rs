//! When a user's own link does not look at its socket.

use std::time::{Duration, Instant};

use super::at;
use super::world::{LINK, TIMES};
use crate::clock::tests::now;
use crate::upstream::flights::SharedFlights;
use crate::upstream::link::machine::member::{MESSAGES_AT_ONCE, REST_LEAST, REST_MOST};
use crate::upstream::link::machine::{Command, Machine};
use crate::upstream::lost::{End, LostCause};

/// Connected, subscribed to nothing, and nobody's reader.
fn lazy(now: Instant) -> Machine {
    let mut machine =
        Machine::new(LINK, TIMES, SharedFlights::default(), fastrand::Rng::with_seed(0), now).of_member();
    let mut out = Vec::new();
    machine.timer(at(now), &mut out);
    machine.command(Command::Dial, at(now), &mut out);
    machine.connected("1.1", None, now, &mut out);
    machine.command(Command::BeLazy(true), at(now), &mut out);
    machine
}

fn rest_after(machine: &mut Machine, messages: usize, now: Instant) -> Duration {
    machine.has_read(messages, true, now);
    assert!(!machine.reads());
    machine.deadline() - now
}

#[test]
fn it_rests_the_longer_the_less_comes() {
    let now = now().mono;
    let mut machine = lazy(now);
    let mut rest = Duration::ZERO;
    for _ in 0..10 {
        let next = rest_after(&mut machine, MESSAGES_AT_ONCE - 1, now);
        assert_eq!(next, (rest * 2).clamp(REST_LEAST, REST_MOST));
        rest = next;
    }
    assert_eq!(rest, REST_MOST);
    assert_eq!(rest_after(&mut machine, 2 * MESSAGES_AT_ONCE, now), REST_MOST, "about as many as are wanted");
    machine.has_read(2 * MESSAGES_AT_ONCE, false, now);
    assert_eq!(rest_after(&mut machine, 1, now), REST_MOST / 2, "those of several turns count together");
    for _ in 0..10 {
        rest = rest_after(&mut machine, 3 * MESSAGES_AT_ONCE, now);
    }
    assert_eq!(rest, REST_LEAST);
    machine.timer(at(now + rest), &mut Vec::new());
    assert!(machine.reads(), "its rest is over");
}

#[test]
fn it_does_not_rest_while_something_is_asked_nor_when_the_connection_is_lost() {
    let now = now().mono;
    let (mut machine, mut out) = (lazy(now), Vec::new());
    rest_after(&mut machine, 1, now);
    machine.command(Command::Subscribe("presence-a".into(), 0), at(now), &mut out);
    assert!(machine.reads(), "there is an answer to come");
    machine.has_read(1, true, now);
    assert!(machine.reads());
    let mut machine = lazy(now);
    machine.ended(End::new(LostCause::Broken, "it is lost"), now, &mut out);
    machine.has_read(1, true, now);
    assert!(machine.reads(), "the next connection is read from its beginning");
    let mut machine = lazy(now);
    rest_after(&mut machine, 1, now);
    machine.command(Command::BeLazy(false), at(now), &mut out);
    machine.has_read(1, true, now);
    assert!(machine.reads(), "it is a reader");
}
