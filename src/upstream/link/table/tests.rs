use super::*;
use crate::clock::tests::now;
use crate::upstream::link::pace::PER_SECOND_MAX;
use proptest::prelude::*;
use std::collections::HashSet;

const TIMEOUT: Duration = Duration::from_secs(10);
const LINGER: Duration = Duration::from_secs(1);

struct Bench {
    table: LinkTable,
    now: Instant,
    out: Vec<Op>,
}

impl Bench {
    fn new() -> Self {
        Self { table: LinkTable::new(TIMEOUT, LINGER), now: now().mono, out: Vec::new() }
    }

    fn connected() -> Self {
        let mut bench = Self::new();
        bench.table.connected(&Held::default(), bench.now, &mut bench.out);
        bench
    }

    fn subscribe(&mut self, channel: &str, hub: usize) -> Vec<Op> {
        self.table.subscribe(&Arc::from(channel), hub, self.now, &mut self.out);
        std::mem::take(&mut self.out)
    }

    fn unsubscribe(&mut self, channel: &str, hub: usize) {
        self.table.unsubscribe(&Arc::from(channel), hub, self.now);
    }

    fn succeeded(&mut self, channel: &str) -> Vec<Op> {
        self.table.succeeded(channel, self.now, &mut self.out);
        std::mem::take(&mut self.out)
    }

    fn after(&mut self, time: Duration) -> Vec<Op> {
        self.now += time;
        self.table.timer(self.now, |_| false, &mut self.out);
        std::mem::take(&mut self.out)
    }
}

fn subscribe(channel: &str) -> Op {
    Op::Subscribe(channel.into())
}

fn live<const N: usize>(hubs: [usize; N], channel: &str, gap: bool) -> Op {
    Op::TellLive { hubs: all(hubs), channel: channel.into(), gap }
}

fn refused<const N: usize>(hubs: [usize; N], channel: &str, why: Refused) -> Op {
    Op::TellRefused { hubs: all(hubs), channel: channel.into(), why }
}

fn all<const N: usize>(hubs: [usize; N]) -> Hubs {
    hubs.map(Hubs::only).into_iter().fold(Hubs::default(), Hubs::with)
}

#[test]
fn the_first_subscribes_and_all_are_told() {
    let mut b = Bench::connected();
    assert_eq!(b.subscribe("c", 0), [subscribe("c")]);
    assert_eq!(b.subscribe("c", 1), []);
    assert_eq!(b.succeeded("c"), [live([0, 1], "c", false)]);
    assert_eq!(b.subscribe("c", 2), [live([2], "c", false)]);
    assert_eq!(b.succeeded("c"), [], "a second success is nobody's");
    assert_eq!(b.table.receivers("c"), Some(("c".into(), all([0, 1, 2]))));
    assert_eq!(b.table.counts(), Counts { pending: 0, live: 1, lingering: 0 });
}

#[test]
fn the_last_unsubscribes_after_a_linger_unless_somebody_comes() {
    let mut b = Bench::connected();
    b.subscribe("c", 0);
    b.succeeded("c");
    b.unsubscribe("c", 0);
    assert_eq!(b.table.counts(), Counts { pending: 0, live: 0, lingering: 1 });
    assert_eq!(b.after(LINGER / 2), []);
    assert_eq!(b.subscribe("c", 0), [live([0], "c", false)]);
    assert_eq!(b.after(LINGER), []);
    b.unsubscribe("c", 0);
    assert_eq!(b.after(LINGER), [Op::Unsubscribe("c".into())]);
    assert_eq!(b.table.receivers("c"), None);
    assert_eq!(b.table.counts(), Counts::default());
    assert_eq!(b.subscribe("c", 0), [subscribe("c")]);
}

#[test]
fn what_left_before_its_turn_leaves_no_timer() {
    let mut b = Bench::connected();
    for n in 0..IN_FLIGHT_MAX {
        b.subscribe(&format!("c{n}"), 0);
    }
    assert_eq!(b.subscribe("late", 0), []);
    b.unsubscribe("late", 0);
    b.now += LINGER / 2;
    b.succeeded("c0");
    assert_eq!(b.subscribe("late", 0), [subscribe("late")]);
    b.succeeded("late");
    b.after(LINGER / 2);
    b.unsubscribe("late", 0);
    assert_eq!(b.after(LINGER / 2), [], "the first leaving is no matter any more");
    assert_eq!(b.after(LINGER / 2), [Op::Unsubscribe("late".into())]);
}

#[test]
fn each_leaving_lingers_in_full() {
    let mut b = Bench::connected();
    b.subscribe("c", 0);
    b.succeeded("c");
    b.unsubscribe("c", 0);
    b.after(LINGER / 2);
    b.subscribe("c", 0);
    b.unsubscribe("c", 0);
    assert_eq!(b.after(LINGER / 2), [], "the first leaving's time is over, not the second's");
    assert_eq!(b.after(LINGER / 2), [Op::Unsubscribe("c".into())]);
}

#[test]
fn what_is_confirmed_after_everybody_gave_up_is_ended() {
    let mut b = Bench::connected();
    assert_eq!(b.succeeded("c"), [Op::Unsubscribe("c".into())]);
    b.table.disconnected();
    assert_eq!(b.succeeded("c"), []);
}

#[test]
fn a_subscription_under_way_is_not_given_up_before_its_answer() {
    let mut b = Bench::connected();
    b.subscribe("c", 0);
    b.unsubscribe("c", 0);
    assert_eq!(b.after(LINGER), []);
    assert_eq!(b.succeeded("c"), []);
    assert_eq!(b.after(LINGER), [Op::Unsubscribe("c".into())]);
}

#[test]
fn after_a_loss_everything_is_subscribed_anew_and_the_gap_is_told() {
    let mut b = Bench::connected();
    b.subscribe("before", 0);
    b.succeeded("before");
    b.subscribe("pending", 1);
    b.subscribe("left", 0);
    b.succeeded("left");
    b.unsubscribe("left", 0);
    assert_eq!(b.table.disconnected(), Lost { channels: 1, hubs: all([0, 1]) });
    assert_eq!(b.table.receivers("left"), None);
    assert_eq!(b.subscribe("new", 0), [], "nothing is sent while there is no connection");
    b.table.connected(&Held::default(), b.now, &mut b.out);
    let asked: HashSet<Arc<str>> = b
        .out
        .drain(..)
        .map(|op| match op {
            Op::Subscribe(channel) => channel,
            op => panic!("{op:?}"),
        })
        .collect();
    assert_eq!(asked, HashSet::from(["before".into(), "pending".into(), "new".into()]));
    assert_eq!(b.succeeded("before"), [live([0], "before", true)]);
    assert_eq!(b.succeeded("pending"), [live([1], "pending", false)]);
}

#[test]
fn timers_of_the_past_do_nothing_and_do_not_pile_up() {
    let mut b = Bench::connected();
    b.subscribe("c", 0);
    b.succeeded("c");
    for _ in 0..10 {
        b.unsubscribe("c", 0);
        b.after(LINGER / 4);
        b.subscribe("c", 0);
    }
    b.unsubscribe("c", 0);
    assert_eq!(b.table.timers.len(), 1);
    assert_eq!(b.after(LINGER * 3 / 4), [], "the linger counts from the last leaving");
    assert_eq!(b.after(LINGER / 4), [Op::Unsubscribe("c".into())]);

    b.subscribe("d", 0);
    b.table.failed("d", Refused::Other, b.now, &mut b.out);
    assert_eq!(std::mem::take(&mut b.out), [refused([0], "d", Refused::Other)]);
    assert_eq!(b.after(RETRY_DELAY_MIN), [subscribe("d")]);
    assert_eq!(b.after(TIMEOUT - RETRY_DELAY_MIN), [], "the first attempt's time is not the second's");
    assert_eq!(b.table.timers.len(), 1);
}

#[test]
fn clients_that_come_and_go_during_an_outage_leave_nothing_behind() {
    let mut b = Bench::new();
    for n in 0..1000 {
        b.subscribe(&format!("c{n}"), 0);
        b.unsubscribe(&format!("c{n}"), 0);
        b.after(LINGER);
    }
    assert_eq!((b.table.queue.len(), b.table.channels.len(), b.table.timers.len()), (0, 0, 0));
    b.subscribe("c", 0);
    b.table.connected(&Held::default(), b.now, &mut b.out);
    assert_eq!(b.out, [subscribe("c")]);
}

#[test]
fn nothing_is_received_before_the_channel_is_confirmed() {
    let mut b = Bench::connected();
    b.subscribe("c", 0);
    assert_eq!(b.table.receivers("c"), None);
    b.succeeded("c");
    assert!(b.table.receivers("c").is_some());
}

#[test]
fn failures_are_tried_again_ever_more_slowly() {
    let mut b = Bench::connected();
    b.subscribe("c", 0);
    for delay in [1, 2, 4, 8, 16, 32, 60, 60] {
        b.table.failed("c", Refused::Quota, b.now, &mut b.out);
        let told = (delay == 1).then(|| refused([0], "c", Refused::Quota));
        assert_eq!(b.out.drain(..).collect::<Vec<_>>(), Vec::from_iter(told), "told once");
        assert_eq!(b.after(Duration::from_millis(delay * 1000 - 1)), [], "{delay}");
        assert_eq!(b.after(Duration::from_millis(1)), [subscribe("c")]);
    }
    b.now += TIMEOUT;
    assert_eq!(b.table.timer(b.now, |_| false, &mut b.out), [Arc::from("c")], "no answer is a failure");
}

#[test]
fn an_answer_that_is_late_may_be_of_a_subscription_that_was_ended() {
    let mut b = Bench::connected();
    b.subscribe("c", 0);
    let unanswered = refused([0], "c", Refused::Unanswered);
    assert_eq!(b.after(TIMEOUT), [Op::Unsubscribe("c".into()), unanswered]);
    assert_eq!(b.after(RETRY_DELAY_MIN), [subscribe("c")]);
    assert_eq!(b.succeeded("c"), [live([0], "c", false)], "to the first one, perhaps");
    assert_eq!(
        b.succeeded("c"),
        [live([0], "c", true)],
        "to the second one, and it was not subscribed between"
    );
    assert_eq!(b.succeeded("c"), []);
}

impl Bench {
    fn blame(&mut self, text: &str) -> bool {
        self.table.blame((Some(4009), text.to_owned()))
    }

    /// Those that are known to be refused, which then fail.
    fn blamed(&mut self) -> Vec<(String, String)> {
        let mut blamed = Vec::new();
        while let Some((channel, (_, text))) = self.table.blamed(self.now) {
            self.table.failed(&channel, Refused::Unauthorized, self.now, &mut self.out);
            blamed.push((channel.to_string(), text));
        }
        self.out.clear();
        blamed
    }
}

#[test]
fn an_error_finds_the_subscription_that_its_text_names() {
    let mut b = Bench::connected();
    b.subscribe("private-a", 0);
    b.subscribe("private-ab", 0);
    let named = |b: &Bench, text: &str| b.table.named_by(text);
    assert_eq!(named(&b, "Invalid signature"), None);
    assert_eq!(named(&b, "Auth info required to subscribe to private-ab"), Some("private-ab".into()));
    b.succeeded("private-ab");
    assert_eq!(named(&b, "Auth info required to subscribe to private-ab"), None, "it was not that one");
}

#[test]
fn an_error_without_a_channel_is_about_what_is_left_when_the_others_are_confirmed() {
    let mut b = Bench::connected();
    let all: Vec<String> = (0..IN_FLIGHT_MAX).map(|n| format!("c{n}")).collect();
    all.iter().for_each(|channel| drop(b.subscribe(channel, 0)));
    assert!(b.blame("first") && b.blame("second"));
    b.now += Duration::from_secs(1);
    b.succeeded("c0");
    // Sent after the errors: they are not about these.
    b.subscribe("later", 0);
    for channel in &all {
        assert_eq!(b.blamed(), []);
        if !["c0", "c7", "c9"].contains(&channel.as_str()) {
            b.succeeded(channel);
        }
    }
    let blamed = [("c7", "first"), ("c9", "second")].map(|(c, text)| (c.to_owned(), text.to_owned()));
    assert_eq!(b.blamed(), blamed);
    assert!(b.blame("third"));
    assert_eq!(b.blamed(), [("later".to_owned(), "third".to_owned())], "the only one there is");
    assert!(!b.blame("fourth"), "nothing is under way");
    assert_eq!(b.succeeded("c1"), []);
}

#[test]
fn nobody_is_blamed_while_one_does_not_answer_at_all() {
    let mut b = Bench::connected();
    b.subscribe("silent", 0);
    b.now += TIMEOUT / 2;
    b.subscribe("refused", 0);
    assert!(b.blame("no"));
    assert_eq!(b.blamed(), []);
    b.after(TIMEOUT / 2);
    assert_eq!(b.blamed(), [], "either may be meant");
    b.after(TIMEOUT / 2);
    assert_eq!(b.blamed(), []);
}

#[test]
fn thousands_are_not_subscribed_in_one_burst_and_those_with_most_subscribers_first() {
    const CHANNELS: usize = 3000;
    let mut b = Bench::new();
    let names: Vec<Arc<str>> = (0..CHANNELS).map(|n| format!("c{n}").into()).collect();
    names.iter().for_each(|name| drop(b.subscribe(name, 0)));
    b.table.disconnected();
    let counted: Vec<_> = names.iter().enumerate().map(|(n, name)| (name.clone(), n)).collect();
    b.table.count_subscribers(&counted[..10]);
    b.table.count_subscribers(&counted);
    b.table.connected(&Held::default(), b.now, &mut b.out);
    let (begin, mut order) = (b.now, Vec::new());
    while order.len() < CHANNELS {
        // Each is answered at once.
        while let Some(op) = (!b.out.is_empty()).then(|| b.out.remove(0)) {
            if let Op::Subscribe(channel) = op {
                b.table.succeeded(&channel, b.now, &mut b.out);
                order.push(channel);
            }
        }
        let sent = order.len() - IN_FLIGHT_MAX.min(order.len());
        assert!(sent as f64 <= (b.now - begin).as_secs_f64() * f64::from(PER_SECOND_MAX) + 1.0, "{sent}");
        if order.len() < CHANNELS {
            b.now = b.table.deadline().unwrap();
            b.table.timer(b.now, |_| false, &mut b.out);
        }
    }
    let took = (b.now - begin).as_secs_f64();
    assert!((2.7..3.0).contains(&took), "{took} s");
    let most: Vec<Arc<str>> = counted.iter().rev().map(|(name, _)| name.clone()).collect();
    assert_eq!(order[..CHANNELS - 20], most[..CHANNELS - 20]);
    b.subscribe("one", 0);
    b.table.disconnected();
    b.table.connected(&Held::default(), b.now, &mut b.out);
    assert!(b.table.deadline().is_some());
}

#[test]
fn what_is_refused_for_good_is_not_tried_again_over_this_connection() {
    let mut b = Bench::connected();
    b.subscribe("c", 0);
    b.table.failed("c", Refused::Unauthorized, b.now, &mut b.out);
    assert_eq!(std::mem::take(&mut b.out), [refused([0], "c", Refused::Unauthorized)]);
    assert_eq!(b.after(Duration::from_secs(3600)), []);
    assert_eq!(b.subscribe("c", 1), [refused([1], "c", Refused::Unauthorized)], "who comes later is told");
    b.table.disconnected();
    b.table.connected(&Held::default(), b.now, &mut b.out);
    assert_eq!(std::mem::take(&mut b.out), [subscribe("c")]);
    b.table.failed("c", Refused::Unauthorized, b.now, &mut b.out);
    assert_eq!(std::mem::take(&mut b.out), [refused([0, 1], "c", Refused::Unauthorized)]);
    (0..2).for_each(|hub| b.unsubscribe("c", hub));
    assert_eq!(b.after(LINGER), [], "there is nothing to end");
    assert_eq!(b.table.counts(), Counts::default());
    assert_eq!(b.subscribe("c", 0), [subscribe("c")], "whoever comes after all have left asks anew");
    b.unsubscribe("c", 0);
    b.after(LINGER);
    b.table.failed("c", Refused::Name, b.now, &mut b.out);
    assert_eq!(std::mem::take(&mut b.out), [], "nobody is there to be told");
    b.after(LINGER);
    assert_eq!(b.table.counts(), Counts::default());
}

#[test]
fn what_was_only_thought_to_be_refused_is_confirmed() {
    let mut b = Bench::connected();
    b.subscribe("c", 0);
    b.table.failed("c", Refused::Name, b.now, &mut b.out);
    b.out.clear();
    assert_eq!(b.succeeded("c"), [live([0], "c", false)]);
    assert_eq!(b.table.counts(), Counts { live: 1, ..Counts::default() });
}

#[test]
fn no_more_are_under_way_than_allowed() {
    let mut b = Bench::new();
    for i in 0..IN_FLIGHT_MAX + 10 {
        b.subscribe(&format!("c{i}"), 0);
    }
    b.table.connected(&Held::default(), b.now, &mut b.out);
    assert_eq!(b.out.len(), IN_FLIGHT_MAX);
    let Some(Op::Subscribe(first)) = b.out.first() else { panic!() };
    let first = first.clone();
    b.out.clear();
    b.now += Duration::from_secs(1);
    assert_eq!(b.succeeded(&first).len(), 2, "told, and the next one sent");
}

#[test]
fn what_a_request_holds_is_subscribed_a_moment_after_its_end() {
    let mut b = Bench::new();
    let held: Vec<Arc<str>> = vec!["held".into(), "held".into(), "later".into()];
    let by_requests = Held { by_requests: held.clone(), ..Held::default() };
    b.subscribe("held", 0);
    b.subscribe("free", 0);
    b.table.connected(&by_requests, b.now, &mut b.out);
    assert_eq!(std::mem::take(&mut b.out), [subscribe("free")]);
    assert_eq!(b.subscribe("later", 0), [], "wanted while it is held");
    b.table.release(&held[1..], b.now);
    assert_eq!(b.after(DELIVERY_TIME), [subscribe("later")], "two requests held the other");
    b.table.release(&held[..1], b.now);
    assert_eq!(b.after(DELIVERY_TIME / 2), []);
    assert_eq!(b.after(DELIVERY_TIME / 2), [subscribe("held")]);

    b.table.disconnected();
    b.table.connected(&by_requests, b.now, &mut b.out);
    b.table.disconnected();
    b.out.clear();
    b.table.connected(&Held::default(), b.now, &mut b.out);
    assert_eq!(b.out.len(), 3, "what held before a loss holds nothing after it");

    b.table.disconnected();
    b.out.clear();
    let for_a_moment = Held { for_a_moment: held[..1].to_vec(), ..Held::default() };
    b.table.connected(&for_a_moment, b.now, &mut b.out);
    assert_eq!(std::mem::take(&mut b.out).len(), 2);
    assert_eq!(b.after(DELIVERY_TIME), [subscribe("held")]);
}

proptest! {
    /// Whatever happens, the counts agree with the channels, and a channel is subscribed at most once.
    #[test]
    fn counts_agree(steps in proptest::collection::vec((0_u8..8, 0_u8..4, 0_usize..3), 0..150)) {
        let mut b = Bench::new();
        let (mut connected, mut sent) = (false, HashSet::<Arc<str>>::new());
        for (step, channel, hub) in steps {
            let name = format!("c{channel}");
            match step {
                0 | 1 => b.table.subscribe(&Arc::from(name.as_str()), hub, b.now, &mut b.out),
                2 => b.unsubscribe(&name, hub),
                3 if sent.contains(name.as_str()) => b.table.succeeded(&name, b.now, &mut b.out),
                4 => {
                    let asked = b.table.channels.get(name.as_str());
                    if asked.is_some_and(|entry| entry.state == State::Subscribing) {
                        sent.remove(name.as_str());
                    }
                    let why = if hub == 0 { Refused::Unauthorized } else { Refused::Quota };
                    b.table.failed(&name, why, b.now, &mut b.out);
                }
                5 if connected => {
                    b.table.disconnected();
                    sent.clear();
                    connected = false;
                }
                5 => {
                    b.table.connected(&Held::default(), b.now, &mut b.out);
                    connected = true;
                }
                _ => {
                    b.now += Duration::from_millis(700);
                    b.table.timer(b.now, |_| false, &mut b.out);
                }
            }
            for op in b.out.drain(..) {
                let is_told = matches!(op, Op::TellLive { .. } | Op::TellRefused { .. });
                prop_assert!(connected || is_told, "sent while not connected");
                match op {
                    Op::Subscribe(channel) => prop_assert!(sent.insert(channel)),
                    Op::Unsubscribe(channel) => prop_assert!(sent.remove(&channel)),
                    Op::TellLive { .. } | Op::TellRefused { .. } => {}
                }
            }
            let mut counts = Counts::default();
            for entry in b.table.channels.values() {
                counts.enter(entry);
            }
            prop_assert_eq!(b.table.counts(), counts);
        }
    }
}
