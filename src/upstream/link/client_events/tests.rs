//! Cases, and a server that takes so many in a second, loses its connections and is late.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;

use super::*;
use crate::clock::tests::now;
use crate::exchange::ConnId;

const LIFE: Duration = Duration::from_secs(30);

/// What became of events, by their data.
type Fates = Arc<Mutex<BTreeMap<String, (Fate, Tries)>>>;

#[derive(Debug)]
struct Noted(String, Fates);

impl Receipt for Noted {
    fn settle(self: Box<Self>, fate: Fate, tries: Tries) {
        let before = self.1.lock().unwrap_or_else(PoisonError::into_inner).insert(self.0, (fate, tries));
        assert_eq!(before, None, "settled twice");
    }
}

struct Bench {
    events: ClientEvents,
    now: Instant,
    begin: Instant,
    subscribed: BTreeSet<&'static str>,
    fates: Fates,
    delivered: Vec<String>,
}

impl Bench {
    fn new() -> Self {
        let now = now().mono;
        let subscribed = ["a", "b"].into();
        let (events, fates, delivered) = Default::default();
        Self { events, now, begin: now, subscribed, fates, delivered }
    }

    /// Gives the data of what is sent.
    fn push(&mut self, channel: &str, data: &str) -> Vec<String> {
        let (event, origin) = ("client-e".to_owned(), ConnId(1));
        let sent = Arc::new(Sent { channel: channel.into(), event, data: data.to_owned(), origin });
        let job = ClientEvent::new(sent, None, Box::new(Noted(data.to_owned(), self.fates.clone())));
        let (channel, user, bytes) = (channel.into(), 1, data.len());
        self.events.push(Item { channel, user, deadline: self.now + LIFE, bytes, job });
        self.turn()
    }

    fn turn(&mut self) -> Vec<String> {
        let mut steps = Vec::new();
        let subscribed = &self.subscribed;
        self.events.turn(self.now, |channel| subscribed.contains(channel), &mut steps);
        self.take(steps)
    }

    fn take(&mut self, steps: Vec<Step>) -> Vec<String> {
        let mut sent = Vec::new();
        for step in steps {
            match step {
                Step::Send(one) => sent.push(one.data.clone()),
                Step::Deliver(one, _) => self.delivered.push(one.data.clone()),
                Step::Settle(event, fate) => event.settle(fate),
            }
        }
        sent
    }

    /// Pings are answered; what is sent then.
    fn pongs(&mut self, count: usize) -> Vec<String> {
        let mut steps = Vec::new();
        (0..count).for_each(|_| self.events.pong(self.now, &mut steps));
        assert!(self.take(steps).is_empty());
        self.turn()
    }

    /// Goes to the next deadline.
    fn next(&mut self) -> Vec<String> {
        self.now = self.events.deadline().unwrap();
        self.turn()
    }

    fn at(&self) -> Duration {
        self.now - self.begin
    }

    fn too_fast(&mut self) -> bool {
        self.events.refused(Refusal::TooFast, "", self.now)
    }

    fn fate(&self, data: &str) -> Option<(Fate, Tries)> {
        self.fates.lock().unwrap().get(data).cloned()
    }

    fn accepted(&self, data: &str) -> bool {
        self.fate(data).is_some_and(|(fate, _)| fate == Fate::Accepted)
    }
}

#[test]
fn as_many_go_in_a_window_as_pusher_takes_over_all_channels() {
    let mut b = Bench::new();
    b.subscribed = (0..25).map(|n| &*format!("c{n}").leak()).collect();
    let sent: Vec<String> = (0..25).flat_map(|n| b.push(&format!("c{n}"), &n.to_string())).collect();
    assert_eq!(sent.len(), PER_SECOND_MAX);
    assert_eq!(b.pongs(PER_SECOND_MAX).len(), 0);
    assert_eq!((b.next().len(), b.at()), (PER_SECOND_MAX, WINDOW));
    b.pongs(PER_SECOND_MAX);
    assert_eq!((b.next().len(), b.at()), (5, 2 * WINDOW));
    b.pongs(5);
    assert!(b.events.is_empty() && b.events.deadline().is_none());
    assert_eq!(b.delivered.len(), 25);
}

#[test]
fn a_channels_next_event_waits_until_the_one_before_is_accepted() {
    let mut b = Bench::new();
    assert_eq!(b.push("a", "1"), ["1"]);
    assert!(b.push("a", "2").is_empty());
    assert_eq!(b.push("b", "3"), ["3"], "another channel does not wait");
    assert_eq!(b.pongs(1), ["2"]);
    assert!(b.accepted("1") && !b.accepted("3"));
    assert_eq!(b.delivered, ["1"]);
    b.events.pinged();
    b.pongs(3);
    assert!(b.accepted("2") && b.accepted("3"), "in the order in which pings were sent");
    b.pongs(1);
    assert!(b.events.is_empty());
}

#[test]
fn what_came_too_fast_is_sent_again_first_and_the_rest_more_slowly() {
    let mut b = Bench::new();
    b.push("a", "1");
    b.push("a", "2");
    b.push("b", "3");
    assert!(b.too_fast(), "the first is meant");
    assert!(b.pongs(2).is_empty(), "nothing goes for a while");
    assert!(!b.accepted("1") && b.accepted("3"));
    assert_eq!((b.next(), b.at()), (vec!["1".to_owned()], PAUSE));
    assert_eq!(b.pongs(1), ["2"]);
    assert_eq!(b.fate("1"), Some((Fate::Accepted, Tries { repeated: 0, rate_limited: 1 })));
    b.subscribed = (0..20).map(|n| &*format!("c{n}").leak()).collect();
    b.now += WINDOW;
    let sent =
        |b: &mut Bench| (0..20).map(|n| b.push(&format!("c{n}"), &format!("x{n}")).len()).sum::<usize>();
    assert_eq!(sent(&mut b), PER_SECOND_MAX / 2);
    assert_eq!(b.delivered, ["3", "1"], "each once");
    for _ in 0..5 {
        b.now += RECOVERY;
        b.turn();
    }
    assert_eq!(b.events.held_back, 0);
}

#[test]
fn events_wait_for_their_channel_and_are_told_when_their_time_is_over() {
    let mut b = Bench::new();
    b.subscribed.clear();
    assert!(b.push("a", "1").is_empty());
    b.now += LIFE / 2;
    assert!(b.push("a", "2").is_empty());
    b.now += LIFE / 2;
    assert!(b.turn().is_empty());
    assert_eq!(b.fate("1").unwrap().0, Fate::Expired { maybe_accepted: false });
    assert_eq!(b.fate("2"), None);
    b.subscribed.insert("a");
    b.events.subscribed("a");
    assert_eq!(b.turn(), ["2"]);
    b.pongs(1);
    assert!(b.accepted("2") && b.events.is_empty());
}

#[test]
fn what_was_under_way_when_the_connection_was_lost_is_sent_again() {
    let mut b = Bench::new();
    b.push("a", "1");
    b.push("a", "2");
    b.push("b", "3");
    b.events.refused(Refusal::NotSubscribed, "", b.now);
    b.events.disconnected();
    b.subscribed.clear();
    assert!(b.turn().is_empty());
    b.subscribed = ["a", "b"].into();
    ["a", "b"].iter().for_each(|channel| b.events.subscribed(channel));
    assert_eq!(b.turn(), ["1", "3"]);
    b.pongs(2);
    b.pongs(1);
    let once = Tries { repeated: 0, rate_limited: 0 };
    assert_eq!(b.fate("1"), Some((Fate::Accepted, once)), "it was refused before");
    assert_eq!(b.fate("3"), Some((Fate::Accepted, Tries { repeated: 1, ..once })), "it may come twice");
    b.push("a", "4");
    b.events.disconnected();
    b.now += LIFE;
    b.turn();
    assert_eq!(b.fate("4").unwrap().0, Fate::Expired { maybe_accepted: true });
}

#[test]
fn what_is_refused_for_good_is_told_and_the_next_goes() {
    let mut b = Bench::new();
    b.push("a", "1");
    b.push("a", "2");
    assert!(b.events.refused(Refusal::ForGood, "not enabled", b.now));
    assert_eq!(b.pongs(1), ["2"]);
    assert_eq!(b.fate("1").unwrap().0, Fate::Refused("not enabled".to_owned()));
    assert!(b.delivered.is_empty(), "its neighbours do not see what nobody else sees");
    assert!(!Bench::new().events.refused(Refusal::ForGood, "", b.now), "there is none");
}

#[test]
fn a_word_that_comes_late_is_about_what_seemed_to_be_accepted_last() {
    let mut b = Bench::new();
    b.push("a", "1");
    b.pongs(1);
    assert!(b.too_fast());
    assert!(!b.too_fast(), "there is no other");
    assert_eq!(b.next(), ["1"]);
    b.pongs(1);
    assert_eq!(b.delivered, ["1"], "its neighbours have it");
    b.now += WINDOW;
    assert!(!b.too_fast(), "that was long ago");
}

#[test]
fn a_server_that_answers_no_ping_has_accepted_what_it_does_not_refuse() {
    let mut b = Bench::new();
    b.push("a", "1");
    b.push("a", "2");
    assert_eq!((b.next(), b.at()), (vec!["2".to_owned()], ANSWER_TIMEOUT));
    assert!(b.accepted("1"));
}

#[test]
fn what_servers_say_of_client_events_is_understood() {
    for (code, message, expected) in [
        (Some(4301), "Client event rejected due to rate limit", Some(Refusal::TooFast)),
        (Some(4301), "", Some(Refusal::TooFast)),
        (Some(4301), "The rate limit for sending client events exceeded the quota.", Some(Refusal::TooFast)),
        (
            Some(4301),
            "Client event error: Client events are not enabled for this app",
            Some(Refusal::ForGood),
        ),
        (
            None,
            "To send client events, you must enable this feature in the Settings page of your dashboard.",
            Some(Refusal::ForGood),
        ),
        (
            None,
            "Cannot broadcast client event (connection not subscribed to channel private-a)",
            Some(Refusal::NotSubscribed),
        ),
        (None, "Invalid signature", None),
        (Some(4009), "Connection is unauthorized", None),
    ] {
        assert_eq!(Refusal::of(code, message), expected, "{message}");
    }
}

/// A server in order: events and pings are answered in the order in which they came, and of events it takes `takes` in
/// any second.
struct Server {
    takes: usize,
    /// When events were sent to it over this connection.
    sent_at: VecDeque<Instant>,
    taken_at: VecDeque<Instant>,
    /// What it has of each channel.
    has: BTreeMap<String, Vec<u32>>,
    /// Its answers, and when they arrive: whether an event came too fast, before the pong.
    answers: VecDeque<(Instant, bool)>,
}

impl Server {
    fn receive(&mut self, channel: &str, data: &str, at: Instant, arrives: Instant) {
        while self.taken_at.front().is_some_and(|taken| at - *taken >= Duration::from_secs(1)) {
            self.taken_at.pop_front();
        }
        let takes = self.taken_at.len() < self.takes;
        if takes {
            self.taken_at.push_back(at);
            self.has.entry(channel.to_owned()).or_default().push(data.parse().unwrap());
        }
        self.answers.push_back((arrives, !takes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    /// Each event arrives once, but for those that a lost connection may have carried, and in its channel's order.
    #[test]
    fn events_arrive_in_order_and_once_whatever_the_server_takes(
        takes in 2_usize..12,
        latency in 0_u64..400,
        steps in proptest::collection::vec((0_u8..20, 0_u64..400), 1..60),
    ) {
        let latency = Duration::from_millis(latency);
        let mut b = Bench::new();
        let (sent_at, taken_at, has, answers) = Default::default();
        let mut server = Server { takes, sent_at, taken_at, has, answers };
        let (mut pushed, mut losses) = (0_u32, 0);
        let carry = |b: &mut Bench, server: &mut Server, sent: Vec<String>| {
            for data in sent {
                let channel = if data.parse::<u32>().unwrap() % 2 == 0 { "a" } else { "b" };
                server.sent_at.push_back(b.now);
                let of_window = server.sent_at.iter().filter(|at| b.now - **at < WINDOW).count();
                assert!(of_window <= PER_SECOND_MAX, "too many in a window");
                server.receive(channel, &data, b.now + latency / 2, b.now + latency);
            }
        };
        let pass = |b: &mut Bench, server: &mut Server, until: Instant, carry: &dyn Fn(&mut Bench, &mut Server, Vec<String>)| {
            loop {
                let answer = server.answers.front().map(|(at, _)| *at);
                let next = [answer, b.events.deadline()].into_iter().flatten().min();
                let Some(at) = next.filter(|at| *at <= until) else { break };
                b.now = b.now.max(at);
                if answer == Some(at) && let Some((_, too_fast)) = server.answers.pop_front() {
                    if too_fast {
                        assert!(b.too_fast());
                    }
                    let sent = b.pongs(1);
                    carry(b, server, sent);
                } else {
                    let sent = b.turn();
                    carry(b, server, sent);
                }
            }
            b.now = until;
        };
        for (step, wait) in steps {
            if step == 0 {
                losses += 1;
                b.events.disconnected();
                server.answers.clear();
                server.taken_at.clear();
                server.sent_at.clear();
                ["a", "b"].iter().for_each(|channel| b.events.subscribed(channel));
                let sent = b.turn();
                carry(&mut b, &mut server, sent);
            } else {
                let channel = if pushed.is_multiple_of(2) { "a" } else { "b" };
                let sent = b.push(channel, &pushed.to_string());
                pushed += 1;
                carry(&mut b, &mut server, sent);
            }
            let until = b.now + Duration::from_millis(wait);
            pass(&mut b, &mut server, until, &carry);
        }
        let until = b.now + LIFE + Duration::from_secs(1);
        pass(&mut b, &mut server, until, &carry);
        prop_assert!(b.events.is_empty() && b.events.deadline().is_none());
        let fates = b.fates.lock().unwrap();
        prop_assert_eq!(fates.len(), pushed as usize, "each is settled");
        for numbers in server.has.values() {
            let mut once = numbers.clone();
            once.dedup();
            prop_assert!(once.is_sorted(), "out of order: {:?}", numbers);
            prop_assert!(losses > 0 || once == *numbers, "twice: {:?}", numbers);
        }
        for (data, (fate, _)) in &*fates {
            let number: u32 = data.parse().unwrap();
            let arrived = server.has.values().flatten().any(|one| *one == number);
            match fate {
                Fate::Accepted => prop_assert!(arrived, "{} is lost", number),
                Fate::Expired { maybe_accepted } => prop_assert!(!arrived || *maybe_accepted),
                Fate::Refused(_) => prop_assert!(false, "nothing is refused for good"),
            }
            prop_assert_eq!(b.delivered.contains(data), *fate == Fate::Accepted);
        }
    }
}
