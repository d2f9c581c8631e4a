use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::Now;

const MOST: Most = Most { items: 10, bytes: 1000 };

fn item(channel: &str, user: u64, deadline: Instant, job: usize) -> Item<usize> {
    Item { channel: channel.into(), user, deadline, bytes: 100, job }
}

fn jobs(items: &[Item<usize>]) -> Vec<usize> {
    items.iter().map(|item| item.job).collect()
}

/// A lane, and the time.
struct Stage {
    lane: Lane<usize>,
    now: Instant,
}

impl Stage {
    fn new() -> Self {
        Self { lane: Lane::default(), now: Now::read().mono }
    }

    fn push(&mut self, channel: &str, user: u64, jobs: impl IntoIterator<Item = usize>) {
        let deadline = self.now + Duration::from_secs(30);
        jobs.into_iter().for_each(|job| self.lane.push(item(channel, user, deadline, job)));
    }

    fn after(&self, ms: u64) -> Instant {
        self.now + Duration::from_millis(ms)
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.after(ms);
        self.lane.wake(self.now);
    }

    /// A request with all of these ended badly.
    fn fail(&mut self, items: Vec<Item<usize>>, until: Instant) {
        let mut by_channel: Vec<(Arc<str>, Vec<Item<usize>>)> = Vec::new();
        for item in items {
            match by_channel.iter_mut().find(|(name, _)| *name == item.channel) {
                Some((_, list)) => list.push(item),
                None => by_channel.push((item.channel.clone(), vec![item])),
            }
        }
        for (name, items) in by_channel {
            self.lane.ended(&name, items, Ended::Badly(until));
        }
    }

    fn well(&mut self, items: &[Item<usize>]) {
        for item in items {
            self.lane.ended(&item.channel, Vec::new(), Ended::Well);
        }
    }
}

#[test]
fn users_have_turns_and_channels_keep_their_order() {
    let mut stage = Stage::new();
    stage.push("a", 1, 0..50);
    stage.push("b", 1, 100..150);
    stage.push("c", 2, [200, 201]);
    stage.push("d", 3, [300]);
    // The flood of one user is half of what goes, and no more as long as others have something.
    assert_eq!(jobs(&stage.lane.take(MOST, stage.now)), [0, 200, 300, 100, 201, 1, 101, 2, 102, 3]);
    assert!(stage.lane.take(MOST, stage.now).is_empty(), "all channels are under way");
    stage.push("e", 4, [400]);
    assert_eq!(jobs(&stage.lane.take(MOST, stage.now)), [400]);
}

#[test]
fn a_newcomers_message_is_in_the_next_request() {
    let mut stage = Stage::new();
    for channel in 0..100 {
        stage.push(&format!("flood-{channel}"), 1, [channel]);
    }
    let first = stage.lane.take(MOST, stage.now);
    assert_eq!(first.len(), 10);
    stage.push("own", 2, [1000]);
    let second = stage.lane.take(MOST, stage.now);
    assert!(jobs(&second).contains(&1000), "{:?}", jobs(&second));
}

#[test]
fn of_one_channel_two_users_messages_keep_their_order() {
    let mut stage = Stage::new();
    for n in 0..6 {
        stage.push("a", n % 2, [n as usize]);
    }
    stage.push("b", 1, [10]);
    let taken = jobs(&stage.lane.take(MOST, stage.now));
    let of_a: Vec<usize> = taken.iter().copied().filter(|job| *job < 10).collect();
    assert_eq!(of_a, [0, 1, 2, 3, 4, 5]);
    assert!(taken.contains(&10));
}

#[test]
fn a_retry_holds_up_its_own_channel_only() {
    let mut stage = Stage::new();
    stage.push("a", 1, [0, 1]);
    let most = Most { items: 1, bytes: 1000 };
    let taken = stage.lane.take(most, stage.now);
    stage.fail(taken, stage.after(500));
    stage.push("b", 1, [10]);
    assert_eq!(jobs(&stage.lane.take(most, stage.now)), [10]);
    assert!(stage.lane.take(most, stage.now).is_empty(), "1 waits for 0");
    assert!(stage.lane.take_again(most, stage.now).is_empty(), "it is not time");
    assert_eq!(stage.lane.next_wake(), Some(stage.after(500)));
    stage.pass(500);
    let again = stage.lane.take_again(MOST, stage.now);
    assert_eq!(jobs(&again), [0, 1]);
    stage.well(&again);
    assert!(stage.lane.take_again(MOST, stage.now).is_empty());
}

#[test]
fn what_failed_together_is_tried_together_once_and_then_alone() {
    let mut stage = Stage::new();
    for (job, channel) in ["a", "b", "c"].into_iter().enumerate() {
        stage.push(channel, 1, [job]);
    }
    let taken = stage.lane.take(MOST, stage.now);
    stage.fail(taken, stage.after(100));
    stage.pass(100);
    let taken = stage.lane.take_again(MOST, stage.now);
    assert_eq!(jobs(&taken), [0, 1, 2]);
    stage.fail(taken, stage.after(100));
    stage.pass(100);
    for job in 0..3 {
        let taken = stage.lane.take_again(MOST, stage.now);
        assert_eq!(jobs(&taken), [job]);
        if job == 0 {
            // Never taken, whatever it is: others are not kept by it.
            stage.fail(taken, stage.after(100));
        } else {
            stage.well(&taken);
        }
    }
    assert!(!stage.lane.is_empty());
    stage.push("b", 1, [7]);
    assert_eq!(jobs(&stage.lane.take(MOST, stage.now)), [7], "its channel is well again");
}

#[test]
fn a_deadline_comes_before_a_late_retry() {
    let mut stage = Stage::new();
    let deadline = stage.after(1000);
    stage.lane.push(item("a", 1, deadline, 0));
    stage.lane.push(item("a", 1, stage.after(2000), 1));
    let taken = stage.lane.take(Most { items: 1, bytes: 1 }, stage.now);
    stage.fail(taken, stage.after(1_000_000));
    assert_eq!(stage.lane.next_wake(), Some(deadline));
    stage.pass(1000);
    assert_eq!(jobs(&stage.lane.take_late()), [0]);
    assert_eq!(stage.lane.next_wake(), Some(stage.after(1000)));
    stage.pass(1000);
    assert_eq!(jobs(&stage.lane.take_late()), [1]);
    assert!(stage.lane.is_empty());
}

#[test]
fn what_waited_too_long_for_its_turn_is_late() {
    let mut stage = Stage::new();
    stage.push("a", 1, [0]);
    stage.push("b", 1, [1]);
    stage.now = stage.after(30_000);
    stage.push("a", 1, [2]);
    assert_eq!(jobs(&stage.lane.take(MOST, stage.now)), [2]);
    assert_eq!(jobs(&stage.lane.take_late()), [0, 1]);
}

#[test]
fn memory_is_given_back() {
    let mut stage = Stage::new();
    for channel in 0..10_000 {
        stage.push(&format!("{channel}"), channel as u64, [channel]);
    }
    loop {
        let taken = stage.lane.take(MOST, stage.now);
        if taken.is_empty() {
            break;
        }
        stage.well(&taken);
    }
    assert!(stage.lane.is_empty());
    assert!(stage.lane.channels.capacity() <= 4 * CHANNELS_KEPT, "{}", stage.lane.channels.capacity());
    assert!(stage.lane.users.is_empty() && stage.lane.turns.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Push { channel: u8, user: u8, patience_ms: u16 },
    Take { items: usize, bytes: usize },
    TakeAgain { items: usize, bytes: usize },
    End { request: usize, well: bool, back: usize, wait_ms: u16 },
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let most = || (1_usize..12, 1_usize..1500);
    prop_oneof![
        6 => (0_u8..5, 0_u8..3, 1_u16..3000)
            .prop_map(|(channel, user, patience_ms)| Step::Push { channel, user, patience_ms }),
        3 => most().prop_map(|(items, bytes)| Step::Take { items, bytes }),
        3 => most().prop_map(|(items, bytes)| Step::TakeAgain { items, bytes }),
        5 => (any::<usize>(), any::<bool>(), 0_usize..10, 0_u16..2000)
            .prop_map(|(request, well, back, wait_ms)| Step::End { request, well, back, wait_ms }),
        2 => (0_u16..2000).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever happens: each message comes out once or is late, each channel's in order, and only one request at a
    /// time has any of a channel's.
    #[test]
    fn nothing_is_lost_doubled_or_out_of_order(steps in prop::collection::vec(step(), 1..200)) {
        let mut stage = Stage::new();
        let mut next = 0;
        let mut under_way: Vec<Vec<Item<usize>>> = Vec::new();
        // By channel: what is not settled yet, in order.
        let mut open: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        let settle = |open: &mut HashMap<Arc<str>, Vec<usize>>, item: &Item<usize>, first: bool| {
            let list = open.get_mut(&item.channel).unwrap();
            let at = list.iter().position(|job| *job == item.job).unwrap();
            assert!(!first || at == 0, "{} of {list:?}", item.job);
            list.remove(at);
        };
        let check = |taken: &[Item<usize>], open: &HashMap<Arc<str>, Vec<usize>>,
                     under_way: &[Vec<Item<usize>>], now: Instant| {
            let mut seen: HashMap<&str, usize> = HashMap::new();
            for item in taken {
                assert!(item.deadline > now);
                assert!(under_way.iter().flatten().all(|other| other.channel != item.channel));
                let at = seen.entry(&item.channel).or_default();
                assert_eq!(open[&item.channel][*at], item.job, "in order");
                *at += 1;
            }
        };
        for step in steps {
            match step {
                Step::Push { channel, user, patience_ms } => {
                    let name: Arc<str> = format!("c{channel}").into();
                    open.entry(name.clone()).or_default().push(next);
                    let deadline = stage.after(u64::from(patience_ms));
                    stage.lane.push(item(&name, u64::from(user), deadline, next));
                    next += 1;
                }
                Step::Take { items, bytes } | Step::TakeAgain { items, bytes } => {
                    let most = Most { items, bytes };
                    let taken = match step {
                        Step::Take { .. } => stage.lane.take(most, stage.now),
                        _ => stage.lane.take_again(most, stage.now),
                    };
                    for late in stage.lane.take_late() {
                        prop_assert!(late.deadline <= stage.now);
                        settle(&mut open, &late, false);
                    }
                    prop_assert!(taken.len() <= items);
                    check(&taken, &open, &under_way, stage.now);
                    under_way.extend((!taken.is_empty()).then_some(taken));
                }
                Step::End { request, well, back, wait_ms } => {
                    if under_way.is_empty() {
                        continue;
                    }
                    let request = under_way.swap_remove(request % under_way.len());
                    let mut by_channel: HashMap<Arc<str>, Vec<Item<usize>>> = HashMap::new();
                    for item in request {
                        by_channel.entry(item.channel.clone()).or_default().push(item);
                    }
                    for (name, mut items) in by_channel {
                        // The last ones come back, as when the first of them were accepted.
                        let kept = if well { items.len() } else { items.len().saturating_sub(back) };
                        let rest = items.split_off(kept);
                        items.iter().for_each(|item| settle(&mut open, item, true));
                        let until = stage.after(u64::from(wait_ms));
                        stage.lane.ended(&name, rest, if well { Ended::Well } else { Ended::Badly(until) });
                    }
                }
                Step::Pass(ms) => {
                    stage.pass(u64::from(ms));
                    for late in stage.lane.take_late() {
                        settle(&mut open, &late, false);
                    }
                }
            }
        }
        // In the end all of it comes.
        for request in under_way {
            for item in &request {
                settle(&mut open, item, true);
            }
            stage.well(&request);
        }
        for _ in 0..1000 {
            for taken in [stage.lane.take(MOST, stage.now), stage.lane.take_again(MOST, stage.now)] {
                taken.iter().for_each(|item| settle(&mut open, item, false));
                stage.well(&taken);
            }
            stage.pass(100);
            for late in stage.lane.take_late() {
                settle(&mut open, &late, false);
            }
        }
        prop_assert!(stage.lane.is_empty() && open.values().all(Vec::is_empty), "{open:?}");
    }
}
