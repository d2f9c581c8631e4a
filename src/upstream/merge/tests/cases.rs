use super::*;

/// Two sources and a clock.
struct Bench {
    merge: Merge<u8, u64>,
    now: Instant,
    out: Vec<Out<u8, u64>>,
}

impl Bench {
    fn new() -> Self {
        Self { merge: Merge::new(times()), now: now().mono, out: Vec::new() }
    }

    /// Both sources are certain.
    fn settled() -> Self {
        let mut bench = Self::new();
        bench.confirm(1);
        bench.confirm(2);
        bench.pass();
        assert!(!bench.merge.is_in_doubt());
        bench
    }

    fn confirm(&mut self, source: u8) {
        self.merge.confirmed(source, self.now, self.now, &mut self.out);
    }

    /// An event whose digest is its value.
    fn offer(&mut self, source: u8, event: u64) -> Verdict {
        self.now += Duration::from_millis(1);
        self.merge.offer(source, event, event, self.now, &mut self.out)
    }

    fn lose(&mut self, source: u8) -> bool {
        self.merge.lost(source, self.now, &mut self.out)
    }

    /// Time goes by, until all sources have brought everything.
    fn pass(&mut self) {
        for _ in 0..2 {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.now += SETTLE;
        self.merge.settle(self.now, &mut self.out);
    }

    /// What was delivered since this was asked last.
    fn events(&mut self) -> Vec<(u64, bool)> {
        self.out.drain(..).map(|out| (out.event, out.doubtful)).collect()
    }
}

#[test]
fn whichever_source_is_first_wins_and_equal_events_are_counted() {
    let mut b = Bench::settled();
    let verdicts = [b.offer(1, 7), b.offer(1, 7), b.offer(2, 7), b.offer(2, 7), b.offer(2, 7), b.offer(1, 7)];
    assert_eq!(
        verdicts,
        [Verdict::First, Verdict::First, Verdict::Copy, Verdict::Copy, Verdict::First, Verdict::Copy]
    );
    assert_eq!(b.events(), [(7, false); 3]);
}

#[test]
fn neighbours_may_come_in_another_order() {
    let mut b = Bench::settled();
    for event in [1, 2, 3, 4] {
        assert_eq!(b.offer(1, event), Verdict::First);
    }
    for event in [2, 1, 4, 3] {
        assert_eq!(b.offer(2, event), Verdict::Copy);
    }
    assert_eq!(b.offer(2, 1), Verdict::First);
}

#[test]
fn when_one_is_lost_nothing_is_missed_and_what_it_brought_comes_once() {
    let mut b = Bench::settled();
    b.offer(1, 1);
    b.offer(1, 2);
    b.offer(2, 1);
    assert!(!b.lose(1));
    assert_eq!(
        [b.offer(2, 2), b.offer(2, 3), b.offer(2, 3)],
        [Verdict::Copy, Verdict::First, Verdict::First]
    );
    assert_eq!(b.events(), [1, 2, 3, 3].map(|event| (event, false)));
}

#[test]
fn a_copy_in_doubt_is_held_until_a_certain_source_has_passed_it() {
    let mut b = Bench::new();
    b.confirm(1);
    b.offer(1, 1);
    b.confirm(2);
    assert_eq!(b.offer(2, 1), Verdict::Held);
    assert_eq!(b.offer(2, 2), Verdict::Held, "it must not overtake the first one, which may be new as well");
    assert_eq!(b.offer(1, 2), Verdict::First);
    b.pass();
    assert_eq!(b.merge.size().1, 0);
    assert!(!b.lose(1), "the second one is certain by now");
    assert_eq!(b.events(), [(1, false), (2, false)]);
}

#[test]
fn one_that_is_a_new_event_comes_over_the_certain_source() {
    let mut b = Bench::new();
    b.confirm(1);
    b.offer(1, 1);
    b.confirm(2);
    assert_eq!(b.offer(2, 1), Verdict::Held);
    assert_eq!(b.offer(1, 1), Verdict::First);
    b.pass();
    assert_eq!(b.offer(2, 1), Verdict::First, "a third one");
    assert_eq!(b.offer(1, 1), Verdict::Copy);
    assert_eq!(b.events().len(), 3);
}

/// The counterexample: after `1`, the subscription and `1` over it, a first `1` that is a copy and a second `1` are the
/// same to see. When the other source ends now, only one of both can be right.
#[test]
fn equal_events_around_a_subscription_with_the_other_source_lost_come_twice_rather_than_not() {
    let mut b = Bench::new();
    b.confirm(1);
    b.offer(1, 1);
    b.confirm(2);
    assert_eq!(b.offer(2, 1), Verdict::Held);
    assert_eq!(b.events(), [(1, false)]);
    assert!(b.lose(1), "what 1 did not bring may have been published before 2 was subscribed");
    assert_eq!(b.events(), [(1, true)], "it is delivered, and counted");
    assert_eq!(b.offer(2, 1), Verdict::First);
}

#[test]
fn what_a_new_source_brings_comes_in_order_when_the_other_is_lost() {
    let mut b = Bench::new();
    b.confirm(1);
    b.offer(1, 1);
    b.confirm(2);
    for event in [1, 2, 1, 3] {
        assert_eq!(b.offer(2, event), Verdict::Held);
    }
    b.lose(1);
    b.offer(2, 4);
    let events: Vec<u64> = b.events().into_iter().map(|(event, _)| event).collect();
    assert_eq!(events, [1, 1, 2, 1, 3, 4]);
}

#[test]
fn what_was_delivered_long_before_the_subscription_is_not_in_doubt() {
    let mut b = Bench::new();
    b.confirm(1);
    b.offer(1, 1);
    b.now += SKEW + Duration::from_millis(1);
    b.confirm(2);
    assert_eq!([b.offer(2, 1), b.offer(1, 1)], [Verdict::Held, Verdict::First], "it is a new one");
    b.lose(2);
    b.lose(1);
    assert_eq!(b.events().len(), 3, "whose copy is told again, for that cannot be known so soon");
}

#[test]
fn one_of_both_alone_is_told_to_have_missed_something() {
    let mut b = Bench::settled();
    assert!(!b.lose(2));
    assert!(b.lose(1));
    assert!(!b.merge.is_live());
    assert!(!b.lose(1), "once");
    b.confirm(2);
    assert_eq!(b.offer(2, 1), Verdict::First);
}

#[test]
fn a_source_that_is_confirmed_anew_without_having_been_lost_begins_again() {
    let mut b = Bench::settled();
    b.offer(1, 1);
    b.confirm(2);
    assert_eq!(b.offer(2, 1), Verdict::Held);
    b.pass();
    assert_eq!([b.offer(2, 2), b.offer(1, 2)], [Verdict::First, Verdict::Copy]);
}

#[test]
fn time_settles_when_it_is_said_to() {
    let mut b = Bench::new();
    b.confirm(1);
    assert_eq!(b.merge.deadline(), Some(b.now + SETTLE), "its own stretch");
    b.offer(1, 1);
    b.confirm(2);
    assert_eq!(b.offer(2, 1), Verdict::Held);
    for _ in 0..4 {
        let Some(deadline) = b.merge.deadline() else { break };
        b.now = deadline;
        b.merge.settle(b.now, &mut b.out);
    }
    assert!(!b.merge.is_in_doubt());
    assert!(!b.lose(1));
    assert_eq!(b.events(), [(1, false)]);
}

#[test]
fn an_own_message_comes_when_it_is_accepted_and_its_copies_do_not() {
    let mut b = Bench::settled();
    b.merge.begin(1, vec![1, 1], Some(1));
    assert_eq!([b.offer(2, 1), b.offer(2, 2)], [Verdict::Early, Verdict::First]);
    assert_eq!(b.offer(1, 1), Verdict::First, "1 is excluded: so it is somebody's");
    b.merge.accepted(1, [1, 1], b.now, &mut b.out);
    assert_eq!([b.offer(2, 1), b.offer(2, 1)], [Verdict::Copy, Verdict::Copy]);
    assert_eq!(b.offer(2, 1), Verdict::First, "a fourth one");
    assert_eq!(b.offer(1, 1), Verdict::Copy);
    let own = b.out.iter().filter(|out| out.source.is_none()).count();
    assert_eq!((own, b.events().len()), (2, 5));
}

#[test]
fn what_equals_a_message_of_a_request_that_failed_is_somebodys_and_comes_once() {
    for lost in [None, Some(1), Some(2)] {
        let mut b = Bench::settled();
        b.merge.begin(1, vec![1], None);
        assert_eq!([b.offer(1, 1), b.offer(2, 1)], [Verdict::Early, Verdict::Early]);
        if let Some(lost) = lost {
            b.lose(lost);
        }
        b.merge.failed(1, b.now, &mut b.out);
        assert_eq!(b.events(), [(1, false)]);
    }
}

#[test]
fn the_copy_of_an_own_message_by_a_source_that_is_lost_before_the_answer_does_not_come() {
    let mut b = Bench::settled();
    b.merge.begin(1, vec![1], Some(1));
    assert_eq!(b.offer(2, 1), Verdict::Early);
    b.lose(2);
    b.merge.accepted(1, [1], b.now, &mut b.out);
    assert_eq!(b.events(), [(1, false)]);
}

#[test]
fn a_new_connection_of_the_excluded_source_is_another_one() {
    let mut b = Bench::settled();
    b.merge.begin(1, vec![1], Some(1));
    b.lose(1);
    b.confirm(1);
    b.merge.accepted(1, [1], b.now, &mut b.out);
    assert_eq!(b.offer(1, 1), Verdict::Held, "it may bring the copy, or not");
    assert_eq!(b.offer(2, 1), Verdict::Copy);
    b.pass();
    assert_eq!([b.offer(2, 1), b.offer(1, 1)], [Verdict::First, Verdict::Copy]);
}

#[test]
fn the_last_event_of_a_cache_channel_comes_once() {
    let mut b = Bench::new();
    b.confirm(1);
    let last = |b: &mut Bench, source, event| b.merge.offer_last(source, event, event, b.now, &mut b.out);
    assert_eq!(last(&mut b, 1, 1), Verdict::First);
    b.confirm(2);
    assert_eq!(last(&mut b, 2, 1), Verdict::Copy);
    b.offer(1, 2);
    b.lose(2);
    b.confirm(2);
    b.offer(1, 3);
    assert_eq!(last(&mut b, 2, 2), Verdict::Copy, "what came after it is there already");
    b.lose(2);
    b.confirm(2);
    assert_eq!(last(&mut b, 2, 4), Verdict::First, "2 is quicker");
    assert_eq!(b.offer(1, 4), Verdict::Copy);
    b.pass();
    b.lose(1);
    b.lose(2);
    b.confirm(1);
    assert_eq!(last(&mut b, 1, 3), Verdict::First, "it is the last one again");
    assert_eq!(b.events(), [1, 2, 3, 4, 3].map(|event| (event, false)));
}

#[test]
fn the_log_keeps_what_a_new_subscription_may_bring_and_no_more() {
    let mut b = Bench::settled();
    for event in 0..100 {
        b.offer(1, event);
        b.offer(2, event);
    }
    b.now += CONFIRM;
    b.merge.settle(b.now, &mut b.out);
    assert_eq!(b.merge.size(), (100, 0));
    b.now += 2 * SKEW;
    b.merge.settle(b.now, &mut b.out);
    assert_eq!(b.merge.size(), (0, 0));
    b.offer(1, 200);
    b.now += CONFIRM + 2 * SKEW;
    b.merge.settle(b.now, &mut b.out);
    assert_eq!(b.merge.size(), (1, 0), "2 is to bring it yet");
    b.lose(2);
    b.merge.settle(b.now, &mut b.out);
    assert_eq!(b.merge.size(), (0, 0));
    for event in 0..2 * log::ENTRIES_MAX as u64 {
        b.offer(1, event);
    }
    assert!(b.merge.size().0 <= log::ENTRIES_MAX + 1);
    b.now += log::ENTRY_KEPT_MAX * 2;
    b.merge.settle(b.now, &mut b.out);
    assert_eq!(b.merge.size().0, 0);
}

#[test]
fn what_is_held_has_a_limit() {
    let mut b = Bench::new();
    b.confirm(1);
    for event in 0..2 * HELD_MAX as u64 {
        b.merge.offer(1, event, event, b.now, &mut b.out);
    }
    b.confirm(2);
    for event in 0..2 * HELD_MAX as u64 {
        assert_eq!(b.merge.offer(2, event, event, b.now, &mut b.out), Verdict::Held);
    }
    assert_eq!(
        (b.merge.size().1, b.merge.take_let_go(), b.merge.take_let_go()),
        (HELD_MAX, HELD_MAX as u64, 0)
    );
    b.settle();
    assert!(b.merge.clone().lost(1, b.now, &mut b.out), "what was let go may be missing");
    b.pass();
    assert!(!b.merge.is_in_doubt());
    assert!(!b.lose(1), "it was not");
}

/// A source that brought later events does not owe an earlier one for ever: an equal event would be taken for it.
#[test]
fn what_a_source_left_out_is_forgiven() {
    let mut b = Bench::settled();
    for event in [1, 2] {
        b.offer(1, event);
    }
    b.offer(2, 2);
    b.now += Duration::from_secs(11);
    assert_eq!([b.offer(2, 1), b.offer(1, 1)], [Verdict::First, Verdict::Copy]);
    b.offer(1, 1000);
    for event in 0..70 {
        b.offer(1, event);
        b.offer(2, event);
    }
    assert_eq!(b.offer(2, 1000), Verdict::First, "so far behind it is not looked for");
}

#[test]
fn many_sources_are_one_stream() {
    const MANY: u8 = 200;
    let mut b = Bench::new();
    for source in 0..MANY {
        b.confirm(source);
    }
    b.pass();
    assert!(!b.merge.is_in_doubt());
    for event in [1, 2, 1, 3] {
        for source in 0..MANY {
            b.offer((source + event as u8) % MANY, event);
        }
    }
    for source in 0..MANY - 1 {
        assert!(!b.lose(source));
    }
    assert_eq!(b.events(), [1, 2, 1, 3].map(|event| (event, false)));
}
