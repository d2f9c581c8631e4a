//! A client's life, told by what happens to it.

use super::*;
use crate::clock::tests::now;
use crate::swarm::out::Said;
use crate::swarm::script::{Pattern, Reconnect, Token};
use crate::swarm::ws;

const S: u64 = 1_000_000_000;

fn text(source: &str) -> Text {
    Text::parse(source, &Text::ANY).unwrap()
}

fn pattern(json: &str) -> Pattern {
    Pattern::parse(json).unwrap()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

struct Stage {
    troupe: Troupe,
    actor: Actor,
}

/// What it said: messages, whether it closed, and when it is to be woken.
#[derive(Debug, PartialEq)]
struct Done(Vec<String>, bool, Option<u64>);

impl Stage {
    fn new(steps: Vec<Step>, reconnect: Option<Reconnect>) -> Self {
        let script = Script {
            path: None,
            token: Some(Token::Given("t".into())),
            answers: vec![(pattern(r#"{"type":"ping"}"#), text("pong {n}"))],
            reconnect,
            steps,
        };
        let mut troupe = Troupe::new(Arc::new(script));
        let actor = troupe.join(7);
        Self { troupe, actor }
    }

    fn at(&mut self, at: u64, what: impl FnOnce(&mut Troupe, &mut Actor, &mut Out<'_>)) -> Done {
        let (mut bytes, mut said) = (Vec::new(), Said::default());
        what(&mut self.troupe, &mut self.actor, &mut Out { now: at, bytes: &mut bytes, said: &mut said });
        let mut messages = Vec::new();
        while let Some(length) = ws::unmask(&mut bytes) {
            let frame = ws::parse(&bytes).unwrap().unwrap();
            if frame.opcode == ws::TEXT {
                messages.push(String::from_utf8(frame.payload.to_vec()).unwrap());
            }
            bytes.drain(..length);
        }
        Done(messages, said.closes, said.wake)
    }

    fn open(&mut self, at: u64) -> Done {
        self.troupe.dialled(&mut self.actor, at - 1, now());
        self.at(at, |troupe, actor, out| troupe.opened(actor, out, now()))
    }

    fn hear(&mut self, at: u64, frame: &str) -> Done {
        self.at(at, |troupe, actor, out| troupe.heard(actor, frame.as_bytes(), out, now()))
    }

    fn wake(&mut self, at: u64) -> Done {
        self.at(at, |troupe, actor, out| troupe.woken(actor, out, now()))
    }

    fn end(&mut self, at: u64, end: End) -> Option<u64> {
        self.troupe.ended(&mut self.actor, end, at)
    }
}

fn said(messages: &[&str], closes: bool, wake: Option<u64>) -> Done {
    Done(messages.iter().map(|text| (*text).to_owned()).collect(), closes, wake)
}

#[test]
fn it_goes_through_its_steps_and_answers_meanwhile() {
    let mut stage = Stage::new(
        vec![
            Step::Send(text("auth {token}")),
            Step::Wait(pattern(r#"{"type":"ok"}"#), seconds(10)),
            Step::Pause(seconds(3)),
            Step::Send(text("bye {seq}")),
            Step::Close(1000, Some(seconds(60))),
        ],
        None,
    );
    assert_eq!(stage.open(S), said(&["auth t"], false, Some(11 * S)));
    assert_eq!(stage.hear(2 * S, r#"{"type":"ping"}"#), said(&["pong 7"], false, None));
    assert_eq!(stage.hear(2 * S, "no JSON"), said(&[], false, None));
    assert_eq!(stage.hear(3 * S, r#"{"type":"ok","more":1}"#), said(&[], false, Some(6 * S)));
    // A frame like the one it waited for is nothing to it now.
    assert_eq!(stage.hear(4 * S, r#"{"type":"ok"}"#), said(&[], false, None));
    assert_eq!(stage.wake(6 * S), said(&["bye 1"], true, None));
    assert_eq!(stage.wake(7 * S), said(&[], false, None));
    assert_eq!(stage.end(8 * S, End::Left), Some(68 * S));
    assert_eq!(stage.open(68 * S), said(&["auth t"], false, Some(78 * S)));
    let tally = &stage.troupe.tally;
    assert_eq!((tally.connects.count(), tally.again, tally.left, tally.failures()), (2, 1, 1, 0));
    assert_eq!((tally.sent, tally.received, tally.waits[&1].0.count()), (4, 4, 1));
}

#[test]
fn what_it_waits_for_in_vain_ends_its_connection_and_counts_as_a_loss() {
    let reconnect = Reconnect { first: seconds(1), max: seconds(2), times: 3 };
    let wait = || vec![Step::Wait(pattern(r#"{"type":"ok"}"#), seconds(10)), Step::Send(text("never"))];
    let mut stage = Stage::new(wait(), Some(reconnect));
    for (at, again) in [(0, Some(1)), (100, Some(2)), (200, Some(2)), (300, None)] {
        stage.open((at + 1) * S);
        assert_eq!(stage.wake((at + 11) * S), said(&[], true, None));
        assert_eq!(stage.end((at + 11) * S, End::Left), again.map(|delay: u64| (at + 11 + delay) * S));
    }
    assert_eq!(stage.troupe.standing, [0, 0, 0, 1]);
    assert_eq!(stage.troupe.tally.failures(), 4);
    // Once through its steps, it begins with the first delay again.
    let mut stage = Stage::new(wait(), Some(reconnect));
    for _ in 0..2 {
        assert!(stage.end(S, End::Refused(503)).is_some());
    }
    stage.open(2 * S);
    stage.hear(3 * S, r#"{"type":"ok"}"#);
    assert_eq!(stage.troupe.standing, [0, 0, 1, 0]);
    assert_eq!(stage.end(4 * S, End::Cut(String::new())), Some(5 * S));
}

#[test]
fn repeated_messages_come_in_their_interval_beside_the_steps_and_not_all_at_once_later() {
    let mut stage = Stage::new(
        vec![Step::Every(text("{seq}"), seconds(10)), Step::Pause(seconds(100)), Step::Close(1000, None)],
        None,
    );
    let Done(messages, false, Some(first)) = stage.open(S) else { panic!() };
    assert!(messages.is_empty() && first > S && first < 11 * S, "{first}");
    assert_eq!(stage.wake(first), said(&["1"], false, Some(first + 10 * S)));
    // The machine slept.
    assert_eq!(stage.wake(first + 55 * S), said(&["2"], false, Some(first + 55 * S + 1)));
    let Done(messages, _, Some(next)) = stage.wake(first + 55 * S + 1) else { panic!() };
    assert_eq!((messages, next), (vec!["3".to_owned()], first + 65 * S + 1));
    let Done(_, closes, _) = stage.wake(101 * S);
    assert!(closes);
    assert_eq!(stage.end(102 * S, End::Left), None);
    assert_eq!(stage.troupe.standing, [0, 0, 0, 1]);
}

#[test]
fn neighbours_do_not_send_together() {
    let mut firsts: Vec<u64> = (0..100).map(|number| spread(number, seconds(100))).collect();
    firsts.sort_unstable();
    let widest = firsts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(firsts[0] > 0 && widest < 3 * S, "{widest}");
}

#[test]
fn numbered_messages_tell_what_is_lost_twice_or_late() {
    let mut stage = Stage::new(vec![Step::Close(1000, None)], None);
    let mark = |client, sequence| Mark { client, sequence, since: S }.to_string();
    for (client, sequence, lost, twice) in
        [(1, 5, 0, 0), (1, 6, 0, 0), (2, 1, 0, 0), (1, 9, 2, 0), (1, 9, 2, 1), (1, 8, 2, 2), (2, 2, 2, 2)]
    {
        stage.hear(3 * S, &mark(client, sequence));
        let tally = &stage.troupe.tally;
        assert_eq!((tally.lost, tally.twice), (lost, twice), "{client}.{sequence}");
    }
    assert_eq!(stage.troupe.tally.delays.count(), 7);
    // What was sent while it was away is not lost.
    stage.open(4 * S);
    stage.hear(5 * S, &mark(1, 100));
    assert_eq!(stage.troupe.tally.lost, 2);
    for client in 0..SENDERS_MAX as u32 + 10 {
        stage.hear(6 * S, &mark(client, 1_000));
    }
    assert!(stage.troupe.tally.unfollowed >= 10 && stage.actor.heard.len() == SENDERS_MAX);
}
