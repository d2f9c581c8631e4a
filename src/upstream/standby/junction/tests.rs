use super::*;
use crate::clock::tests::now;
use crate::exchange::ConnId;
use crate::upstream::link::client_events::{Fate, Receipt, Tries};
use crate::upstream::refused::Refused;

const CONFIRM: Duration = Duration::from_secs(10);
const LINGER: Duration = Duration::from_secs(3);
const A: &str = "private-a";
const CACHE: &str = "private-cache-a";

#[derive(Debug)]
struct NobodyAsks;

impl Receipt for NobodyAsks {
    fn settle(self: Box<Self>, _: Fate, _: Tries) {}
}

struct Bench {
    junction: Junction,
    now: Now,
    acts: Vec<Act>,
    connected: [bool; SIDES],
}

impl Bench {
    fn new() -> Self {
        let junction = Junction::new(LinkId(7), CONFIRM, LINGER);
        Self { junction, now: now(), acts: Vec::new(), connected: [true; SIDES] }
    }

    /// Hub 0 has the channel, and both sides are certain.
    fn settled(channel: &str) -> Self {
        let mut bench = Self::new();
        bench.subscribe(channel, 0);
        bench.live(0, channel);
        bench.live(1, channel);
        bench.pass(4 * SETTLE);
        assert_eq!(bench.junction.doubtful(), 0);
        bench.acts.clear();
        bench
    }

    fn command(&mut self, command: Command) {
        self.now.mono += Duration::from_millis(1);
        self.junction.command(command, self.now, &mut self.acts);
    }

    fn subscribe(&mut self, channel: &str, hub: usize) {
        self.command(Command::Subscribe(channel.into(), hub));
    }

    fn delivery(&mut self, side: usize, delivery: Delivery) {
        self.now.mono += Duration::from_millis(1);
        let other = self.connected[1 - side];
        self.junction.delivery(side, delivery, other, self.now.mono, &mut self.acts);
    }

    fn live(&mut self, side: usize, channel: &str) {
        self.connected[side] = true;
        let channel = channel.into();
        self.delivery(side, Delivery::Live { link: LinkId(side as u64), channel, gap: false, cached: None });
    }

    fn down(&mut self, side: usize) {
        self.connected[side] = false;
        self.delivery(side, Delivery::Down(LinkId(side as u64)));
    }

    fn event_of(&self, side: usize, channel: &str, data: &str) -> Event {
        Event::new(LinkId(side as u64), channel.into(), "changed", data, self.now, None)
    }

    fn event(&mut self, side: usize, channel: &str, data: &str) {
        let event = self.event_of(side, channel, data);
        self.delivery(side, Delivery::Event(Arc::new(event)));
    }

    fn refused(&mut self, side: usize, channel: &str) {
        let (link, channel) = (LinkId(side as u64), channel.into());
        self.delivery(side, Delivery::Refused { link, channel, member: None, why: Refused::Unauthorized });
    }

    /// So much time goes by.
    fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        while let Some(deadline) = self.junction.deadline().filter(|deadline| *deadline <= end) {
            assert!(deadline > self.now.mono, "it would not end");
            self.now.mono = deadline;
            self.junction.timer(deadline, &mut self.acts);
        }
        self.now.mono = end;
    }

    fn sent(channel: &str) -> Arc<Sent> {
        let (event, data) = ("changed".to_owned(), "1".to_owned());
        Arc::new(Sent { channel: channel.into(), event, data, origin: ConnId(1) })
    }

    fn begun(&mut self, flight: u64, excluded: Option<usize>) {
        let sides = [10 * flight, 10 * flight + 1];
        self.command(Command::Begun { flight, sides, excluded, batch: vec![Self::sent(A)] });
    }

    fn ended(&mut self, flight: u64, accepted: bool) {
        let accepted = if accepted { vec![Self::sent(A)] } else { Vec::new() };
        self.command(Command::Ended { flight, accepted });
    }

    /// What was decided since this was asked last.
    fn acts(&mut self) -> Vec<String> {
        self.acts.drain(..).map(|act| told(&act)).collect()
    }

    /// Whom the hubs were told of, without what is counted.
    fn tells(&mut self) -> Vec<String> {
        let tells = self.acts.drain(..).filter(|act| matches!(act, Act::Tell(..)));
        tells.map(|act| told(&act)).collect()
    }
}

fn told(act: &Act) -> String {
    match act {
        Act::Tell(hubs, delivery) => {
            let hubs: Vec<usize> = hubs.collect();
            let what = match delivery {
                Delivery::Event(event) => format!("event {}", event.data),
                Delivery::Live { link: LinkId(7), gap, cached, .. } => {
                    let cached = cached.as_ref().map_or(String::new(), |event| format!(" {}", event.data));
                    format!("{}{cached}", if *gap { "gap" } else { "live" })
                }
                Delivery::Down(LinkId(7)) => "down".to_owned(),
                Delivery::Refused { link: LinkId(7), .. } => "refused".to_owned(),
                Delivery::Undecryptable { link: LinkId(7), .. } => "undecryptable".to_owned(),
                other => format!("{other:?}"),
            };
            format!("{hubs:?} {what}")
        }
        Act::Link(side, command) => {
            let what = match command {
                Command::Subscribe(_, HUB) => "subscribe".to_owned(),
                Command::Unsubscribe(_, HUB) => "unsubscribe".to_owned(),
                Command::Subscribers(subscribers) => format!("subscribers {}", subscribers.len()),
                Command::Ended { flight, accepted } => format!("ended {flight} {}", accepted.len()),
                other => format!("{other:?}"),
            };
            format!("link {side} {what}")
        }
        Act::Count(result) => format!("{result:?}"),
        Act::Missing(channels) => format!("missing {channels}"),
        Act::Unwanted(event) => format!("unwanted {}", event.data),
        Act::Local => "local".to_owned(),
    }
}

#[test]
fn both_links_subscribe_and_the_first_that_is_confirmed_is_told() {
    let mut b = Bench::new();
    b.subscribe(A, 0);
    b.subscribe(A, 1);
    assert_eq!(b.acts(), ["link 0 subscribe", "link 1 subscribe"]);
    b.live(1, A);
    assert_eq!(b.acts(), ["[0, 1] live"]);
    b.live(0, A);
    assert_eq!(b.acts(), [""; 0], "the hubs have it");
    b.subscribe(A, 2);
    assert_eq!(b.acts(), ["[2] live"], "a later hub is told at once");
}

#[test]
fn whichever_side_brings_an_event_first_wins() {
    let mut b = Bench::settled(A);
    b.event(0, A, "1");
    b.event(1, A, "1");
    b.event(1, A, "2");
    b.event(0, A, "2");
    assert_eq!(b.acts(), ["First", "[0] event 1", "Copy", "Second", "[0] event 2", "Copy"]);
}

#[test]
fn when_one_of_both_is_lost_nobody_is_told() {
    let mut b = Bench::settled(A);
    b.down(0);
    b.event(1, A, "1");
    b.live(0, A);
    b.pass(4 * SETTLE);
    b.down(1);
    b.event(0, A, "2");
    assert_eq!(b.tells(), ["[0] event 1", "[0] event 2"]);
}

#[test]
fn when_both_are_lost_the_link_is_down_once_and_comes_back_with_a_gap() {
    let mut b = Bench::settled(A);
    b.subscribe("private-b", 1);
    b.live(0, "private-b");
    b.acts();
    b.down(1);
    assert_eq!(b.acts(), [""; 0]);
    b.down(0);
    assert_eq!(b.acts(), ["[0, 1] down"]);
    b.down(1);
    assert_eq!(b.acts(), [""; 0], "it is known");
    b.live(1, A);
    assert_eq!(b.acts(), ["missing 1", "[0] gap"]);
    b.live(0, A);
    assert_eq!(b.acts(), [""; 0], "it is not told twice");
}

#[test]
fn down_is_not_told_while_a_side_has_any_channel() {
    let mut b = Bench::settled(A);
    b.subscribe("private-b", 1);
    b.live(0, "private-b");
    b.acts();
    b.down(0);
    assert_eq!(b.acts(), [""; 0], "1 has the other channel, and subscribes to this one yet");
    b.live(1, "private-b");
    assert_eq!(b.acts(), ["missing 1", "[1] gap"], "of the channel that no side had");
}

/// The other side has the channel, and nobody knows what was published between its subscription and the loss.
#[test]
fn a_loss_while_the_other_side_is_in_doubt_is_a_gap_and_what_it_held_is_flagged() {
    let mut b = Bench::settled(A);
    b.event(0, A, "1");
    b.event(1, A, "1");
    b.down(1);
    b.live(1, A);
    b.event(1, A, "1");
    b.acts();
    assert_eq!(b.junction.doubtful(), 1);
    b.down(0);
    assert_eq!(b.acts(), ["Doubtful", "[0] event 1", "missing 1", "[0] gap"]);
}

/// A connection may be silent for long before it is given up.
#[test]
fn what_a_new_side_brings_and_the_certain_one_does_not_is_delivered_after_a_while() {
    let mut b = Bench::settled(A);
    b.down(1);
    b.live(1, A);
    b.event(1, A, "1");
    assert_eq!(b.acts(), ["Held"]);
    b.pass(2 * SETTLE);
    assert_eq!(b.acts(), ["Doubtful", "[0] event 1"]);
    b.event(0, A, "1");
    assert_eq!(b.acts(), ["Copy"], "it was behind");
}

#[test]
fn a_channel_that_nobody_wants_lingers_and_is_left_at_both_sides() {
    let mut b = Bench::settled(A);
    b.subscribe(A, 1);
    b.acts();
    b.command(Command::Unsubscribe(A.into(), 0));
    b.pass(2 * LINGER);
    assert_eq!(b.acts(), [""; 0], "the other hub wants it");
    b.command(Command::Unsubscribe(A.into(), 1));
    b.event(0, A, "1");
    assert_eq!(b.acts(), ["First", "unwanted 1"]);
    b.pass(LINGER / 2);
    b.subscribe(A, 0);
    b.pass(2 * LINGER);
    assert_eq!(b.acts(), ["[0] live"], "it was wanted again in time");
    b.command(Command::Unsubscribe(A.into(), 0));
    b.pass(2 * LINGER);
    assert_eq!(b.acts(), ["link 0 unsubscribe", "link 1 unsubscribe"]);
    b.event(0, A, "2");
    assert_eq!(b.acts(), [""; 0]);
}

#[test]
fn a_refusal_is_told_when_no_side_may_carry_the_channel() {
    let mut b = Bench::new();
    b.subscribe(A, 0);
    b.acts();
    b.refused(0, A);
    assert_eq!(b.acts(), [""; 0], "the other may be confirmed");
    b.refused(1, A);
    assert_eq!(b.acts(), ["[0] refused"]);
    b.live(0, A);
    b.refused(1, A);
    assert_eq!(b.tells(), ["[0] live"]);
    let mut b = Bench::new();
    b.connected = [true, false];
    b.subscribe(A, 0);
    b.refused(0, A);
    assert_eq!(b.tells(), ["[0] refused"], "there is no other");
}

#[test]
fn an_own_message_goes_to_the_hubs_when_it_is_accepted_and_its_copy_does_not() {
    let mut b = Bench::settled(A);
    b.begun(1, Some(0));
    b.event(1, A, "1");
    assert_eq!(b.acts(), ["Held"], "it may be the copy");
    b.ended(1, true);
    assert_eq!(b.acts(), ["link 0 ended 10 0", "link 1 ended 11 0", "local", "[0] event 1"]);
    b.begun(2, Some(0));
    b.ended(2, true);
    b.event(1, A, "1");
    b.event(0, A, "1");
    assert_eq!(b.tells(), ["[0] event 1", "[0] event 1"], "the last one is somebody's, for 0 is excluded");
    b.event(1, A, "1");
    b.begun(3, None);
    b.event(0, A, "1");
    b.event(1, A, "1");
    b.acts();
    b.ended(3, false);
    assert_eq!(b.tells(), ["[0] event 1"], "what equals a message that failed is somebody's, and comes once");
}

/// What equals it may be its copy, or somebody's, and the message may have been published before the subscription.
#[test]
fn what_equals_a_message_whose_request_began_before_the_channel_was_confirmed_is_flagged() {
    let mut b = Bench::new();
    b.begun(1, None);
    b.subscribe(A, 0);
    b.live(0, A);
    b.event(0, A, "1");
    b.acts();
    b.ended(1, true);
    assert_eq!(b.acts()[2..], ["local", "[0] event 1", "Doubtful", "[0] event 1"]);
}

#[test]
fn a_client_event_goes_to_the_hubs_when_it_is_accepted_and_its_copy_over_the_other_side_does_not() {
    let mut b = Bench::settled(A);
    let item = |now: Now| {
        let job = ClientEvent::new(Bench::sent(A), None, Box::new(NobodyAsks));
        Item { channel: A.into(), user: 1, deadline: now.mono + CONFIRM, bytes: 1, job }
    };
    b.junction.client_event(0, &item(b.now));
    b.event(1, A, "1");
    assert_eq!(b.acts(), ["Held"]);
    let own = Event::new(LinkId(0), A.into(), "changed", "1", b.now, Some(ConnId(1))).passing(true);
    b.delivery(0, Delivery::Event(Arc::new(own)));
    assert_eq!(b.acts(), ["local", "[0] event 1"]);
    let refused = b.junction.client_event(0, &item(b.now));
    b.event(1, A, "1");
    b.acts();
    b.junction.client_event_ended(refused, b.now, &mut b.acts);
    assert_eq!(b.acts(), ["Second", "[0] event 1"], "it was refused: so the equal one is somebody's");
}

#[test]
fn a_client_event_is_no_last_event_of_a_cache_channel() {
    let mut b = Bench::settled(CACHE);
    b.event(0, CACHE, "1");
    let passing = b.event_of(0, CACHE, "2").passing(true);
    b.delivery(0, Delivery::Event(Arc::new(passing)));
    let count = b.event_of(0, CACHE, "3").of_kind(Kind::SubscriptionCount);
    b.delivery(0, Delivery::Event(Arc::new(count)));
    b.acts();
    b.subscribe(CACHE, 1);
    assert_eq!(b.acts(), ["[1] live 1"]);
}

#[test]
fn the_last_event_of_a_cache_channel_comes_once_and_a_miss_too() {
    let mut b = Bench::new();
    b.subscribe(CACHE, 0);
    b.live(0, CACHE);
    let miss = |b: &mut Bench, side| {
        let miss = Event::cache_miss(LinkId(side as u64), CACHE.into(), b.now);
        b.delivery(side, Delivery::Event(Arc::new(miss)));
    };
    miss(&mut b, 0);
    b.live(1, CACHE);
    miss(&mut b, 1);
    assert_eq!(b.tells(), ["[0] live", "[0] event null"]);
    b.subscribe(CACHE, 1);
    assert_eq!(b.tells(), ["[1] live null"], "a later hub knows it as well");
    b.event(0, CACHE, "1");
    b.down(1);
    b.live(1, CACHE);
    let replay = b.event_of(1, CACHE, "1").as_replay(true);
    b.delivery(1, Delivery::Event(Arc::new(replay)));
    assert_eq!(b.acts(), ["First", "[0, 1] event 1", "Copy"]);
}

#[test]
fn an_undecryptable_event_is_told_once() {
    let mut b = Bench::settled(A);
    let undecryptable = |side: u64| Delivery::Undecryptable { link: LinkId(side), channel: A.into() };
    b.delivery(0, undecryptable(0));
    b.delivery(1, undecryptable(1));
    assert_eq!(b.acts(), ["[0] undecryptable"]);
    b.down(0);
    b.delivery(1, undecryptable(1));
    assert_eq!(b.acts(), ["[0] undecryptable"]);
}

#[test]
fn both_sides_get_the_answer_about_subscribers() {
    let mut b = Bench::settled(A);
    b.command(Command::Subscribers(vec![(A.into(), 3)]));
    assert_eq!(b.acts(), ["link 0 subscribers 1", "link 1 subscribers 1"]);
}

/// A channel that is not held up by anything is certain in a bounded time, also while messages of its own come.
#[test]
fn own_messages_do_not_keep_a_channel_in_doubt() {
    let mut b = Bench::settled(A);
    b.down(1);
    b.live(1, A);
    for flight in 0..60 {
        b.begun(flight, Some(0));
        b.event(1, A, "1");
        b.pass(Duration::from_millis(500));
        b.ended(flight, true);
    }
    assert_eq!(b.junction.doubtful(), 0);
    assert_eq!(b.tells().len(), 60);
}

#[test]
fn a_side_may_be_left_when_the_other_is_certain_of_all_that_it_has() {
    let mut b = Bench::settled(A);
    assert!(b.junction.may_leave(0, false) && b.junction.may_leave(1, false));
    b.down(1);
    b.live(1, A);
    assert!(!b.junction.may_leave(0, true), "something may be missed");
    assert!(b.junction.may_leave(1, false), "the other one is certain");
    b.pass(SETTLE + SETTLE / 4);
    assert!(b.junction.may_leave(0, true) && !b.junction.may_leave(0, false), "something may come twice");
    b.pass(SETTLE);
    assert!(b.junction.may_leave(0, false));
    b.subscribe("private-b", 0);
    b.live(0, "private-b");
    assert!(!b.junction.may_leave(0, true), "it alone has this one");
    assert!(b.junction.may_leave(1, false));
}

/// As clients' heartbeats do, say.
#[test]
fn equal_events_without_end_do_not_keep_a_channel_in_doubt() {
    let mut b = Bench::settled(A);
    b.down(1);
    b.live(1, A);
    for _ in 0..200 {
        b.event(0, A, "1");
        b.pass(Duration::from_millis(20));
        b.event(1, A, "1");
        b.pass(Duration::from_millis(180));
    }
    assert_eq!(b.junction.doubtful(), 0);
    b.down(0);
    b.event(1, A, "1");
    assert_eq!(b.tells().len(), 201);
}

/// What the bench's sides are asked for.
fn asked(bench: &mut Bench) -> Vec<(usize, Arc<str>)> {
    let acts = bench.acts.drain(..).filter_map(|act| match act {
        Act::Link(side, Command::Subscribe(channel, HUB)) => Some((side, channel)),
        _ => None,
    });
    acts.collect()
}

#[test]
fn a_side_that_is_about_to_be_left_is_asked_for_new_channels_later() {
    let mut bench = Bench::settled(A);
    bench.junction.spare(Some(1), &mut bench.acts);
    bench.subscribe("b", 0);
    assert_eq!(asked(&mut bench), [(HUB, "b".into())]);
    bench.live(HUB, "b");
    bench.pass(4 * SETTLE);
    assert!(bench.junction.may_leave(1, false), "it does not have that one");
    bench.subscribe("c", 0);
    bench.command(Command::Unsubscribe("c".into(), 0));
    bench.pass(2 * LINGER);
    bench.acts.clear();
    bench.junction.spare(None, &mut bench.acts);
    assert_eq!(asked(&mut bench), [(1, "b".into())], "what is wanted still");
    bench.subscribe("d", 0);
    assert_eq!(asked(&mut bench).len(), SIDES);
}

#[test]
fn a_side_is_asked_at_once_for_what_the_other_one_does_not_carry() {
    for refuses in [false, true] {
        let mut bench = Bench::settled(A);
        bench.junction.spare(Some(1), &mut bench.acts);
        bench.subscribe("b", 0);
        assert_eq!(asked(&mut bench), [(HUB, "b".into())]);
        let (link, channel) = (LinkId(7), "b".into());
        let why = Refused::Unanswered;
        bench.delivery(
            HUB,
            if refuses {
                Delivery::Refused { link, channel, member: None, why }
            } else {
                Delivery::Down(link)
            },
        );
        assert_eq!(asked(&mut bench), [(1, "b".into())]);
    }
}
