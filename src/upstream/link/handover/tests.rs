use super::*;
use crate::clock::Now;
use crate::clock::tests::now;
use crate::exchange::{ConnId, LinkId};

const CONFIRM: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);

fn event(at: Now, data: &str) -> Arc<Event> {
    Arc::new(Event::new(LinkId(0), "a".into(), "news", data, at, None))
}

fn sent(data: &str) -> Arc<Sent> {
    let (event, data, origin) = ("news".to_owned(), data.to_owned(), ConnId(7));
    Arc::new(Sent { channel: "a".into(), event, data, origin })
}

/// What was delivered, in order.
fn said(outs: &mut Outs) -> Vec<String> {
    outs.drain(..).map(|out| out.event.data.to_string()).collect()
}

/// Both connections have the channel, and the new one is certain of it.
fn certain(at: Now) -> (Handover, Instant) {
    let mut handover = Handover::begin(["a".into()], [], CONFIRM, at.mono);
    let mut now = at.mono + DELIVERY_TIME;
    assert_eq!(handover.subscribe(now), ["a".into()]);
    let mut outs = Outs::new();
    handover.new_has("a", false, now + MS, &mut outs);
    while !handover.may_move() {
        now = handover.deadline(now);
        handover.timer(now, &mut outs);
    }
    let took = now - at.mono - DELIVERY_TIME;
    assert!(took > 2 * SETTLE && took < 3 * SETTLE && outs.is_empty(), "{took:?}");
    (handover, now)
}

#[test]
fn nothing_is_asked_of_the_new_one_before_it_is_known_what_it_may_bring() {
    let at = now();
    let mut handover = Handover::begin(["a".into()], [3, 4], CONFIRM, at.mono);
    let late = at.mono + 60 * 1000 * MS;
    assert!(handover.subscribe(late).is_empty(), "requests are under way that nobody told of");
    let mut outs = Outs::new();
    handover.ended(3, &[], late, &mut outs);
    handover.ended(4, &[event(at, "own")], late, &mut outs);
    assert_eq!(said(&mut outs), ["own"]);
    assert!(handover.subscribe(late).is_empty(), "their copies may still come");
    assert_eq!(handover.subscribe(late + DELIVERY_TIME).len(), 1);
    assert!(handover.subscribe(late + DELIVERY_TIME).is_empty(), "once");
}

#[test]
fn whichever_brings_an_event_it_goes_on_once() {
    let at = now();
    let (mut handover, time) = certain(at);
    let mut outs = Outs::new();
    for (side, data) in [(OLD, "1"), (NEW, "1"), (OLD, "2"), (OLD, "3"), (NEW, "2"), (NEW, "3"), (OLD, "4")] {
        handover.event(side, event(at, data), time, &mut outs);
    }
    assert_eq!(said(&mut outs), ["1", "2", "3", "4"]);
    assert!(handover.may_move());
    handover.moves(time, &mut outs);
    for data in ["4", "5"] {
        handover.event(NEW, event(at, data), time, &mut outs);
    }
    assert_eq!(said(&mut outs), ["5"]);
    assert!(!handover.is_over(time) && handover.is_over(time + SETTLE));
}

#[test]
fn an_own_message_that_the_old_one_was_excluded_from_does_not_come_back_over_the_new_one() {
    let at = now();
    let (mut handover, time) = certain(at);
    let mut outs = Outs::new();
    handover.begun(1, vec![sent("1")], Some(OLD));
    handover.begun(2, vec![sent("2")], Some(OLD));
    handover.event(NEW, event(at, "1"), time, &mut outs);
    assert!(outs.is_empty(), "it waits for the answer");
    handover.ended(1, &[event(at, "1")], time, &mut outs);
    assert_eq!(said(&mut outs), ["1"]);
    handover.moves(time, &mut outs);
    assert!(!handover.is_over(time + SETTLE), "a request is under way that excludes the old one");
    handover.ended(2, &[event(at, "2")], time, &mut outs);
    handover.event(NEW, event(at, "2"), time, &mut outs);
    handover.begun(3, vec![sent("3")], Some(NEW));
    handover.ended(3, &[event(at, "3")], time, &mut outs);
    assert_eq!(said(&mut outs), ["2", "3"]);
    assert!(handover.is_over(time + SETTLE));
}

/// What is in doubt may come twice, and is told as such.
#[test]
fn equal_events_without_a_pause_do_not_keep_the_old_one_for_ever() {
    let at = now();
    let mut handover = Handover::begin(["a".into()], [], CONFIRM, at.mono);
    let mut now = at.mono + DELIVERY_TIME;
    assert_eq!(handover.subscribe(now).len(), 1);
    let (began, mut outs) = (now, Outs::new());
    handover.new_has("a", false, now, &mut outs);
    let mut published = 0;
    while !handover.may_move() {
        assert!(now < began + DOUBT_MAX + LOOK_EVERY);
        now += 20 * MS;
        published += 1;
        handover.event(OLD, event(at, "same"), now, &mut outs);
        // It is behind.
        handover.event(NEW, event(at, "same"), now + 10 * MS, &mut outs);
        handover.timer(now, &mut outs);
    }
    assert!(now >= began + DOUBT_MAX);
    handover.moves(now, &mut outs);
    let doubtful = outs.iter().filter(|out| out.doubtful).count();
    assert!(
        outs.len() >= published && outs.len() <= published + doubtful,
        "{published}, {doubtful}: {}",
        outs.len()
    );
}

/// Both have two channels at first; then more come, and the new connection gets some of them.
#[test]
fn others_wait_only_for_a_new_connection_that_has_all_and_not_for_ever() {
    let at = now();
    let mut handover = Handover::begin(["a".into()], [], CONFIRM, at.mono);
    let (began, mut outs) = (at.mono + DELIVERY_TIME, Outs::new());
    assert_eq!(handover.subscribe(began).len(), 1);
    let late = began + OTHERS_WAIT_AFTER;
    handover.timer(late, &mut outs);
    assert!(!handover.have_others_wait(late), "it has none itself");
    handover.new_has("a", false, late, &mut outs);
    handover.timer(late + LOOK_EVERY, &mut outs);
    assert!(!handover.have_others_wait(late - MS) && handover.have_others_wait(late + LOOK_EVERY));
    let end = late + OTHERS_WAIT_MAX;
    assert!(handover.have_others_wait(end - MS) && !handover.have_others_wait(end));
    assert!(handover.have_others_wait(end + OTHERS_WAIT_AFTER), "and again");
    handover.new_is_down(late + LOOK_EVERY, &mut outs);
    assert!(!handover.have_others_wait(late + LOOK_EVERY), "nobody knows when it is back");
}

#[test]
fn what_could_not_be_done_is_not_tried_at_once_again() {
    let at = now();
    let (mut handover, time) = certain(at);
    handover.does_not_move();
    assert!(!handover.may_move());
    let (next, mut outs) = (handover.deadline(time), Outs::new());
    assert!(next > time && next <= time + LOOK_EVERY);
    handover.timer(next, &mut outs);
    assert!(handover.may_move());
    handover.new_has("b", false, next, &mut outs);
    assert!(handover.may_move(), "that channel was left");
    handover.new_has("a", true, next, &mut outs);
    assert!(!handover.may_move(), "it may have missed something");
}

#[test]
fn what_a_connection_brought_that_is_given_up_does_not_come_again() {
    let at = now();
    let (mut handover, time) = certain(at);
    let mut outs = Outs::new();
    handover.event(NEW, event(at, "1"), time, &mut outs);
    handover.gives_up(time, &mut outs);
    for data in ["1", "2"] {
        handover.event(OLD, event(at, data), time, &mut outs);
    }
    assert_eq!(said(&mut outs), ["1", "2"]);
    assert!(!handover.may_move() && handover.side() == OLD && handover.subscribe(time).is_empty());
    let end = time + SETTLE;
    assert!(!handover.is_over(end - MS) && handover.is_over(end));
    handover.begun(1, vec![sent("3")], Some(OLD));
    assert!(handover.is_over(end), "no copy of it comes");
}

#[test]
fn a_request_that_began_before_is_not_one_that_excludes_the_new_connection() {
    let at = now();
    let mut handover = Handover::begin(["a".into()], [3], CONFIRM, at.mono);
    let mut outs = Outs::new();
    // Said under the hand-over before, whose new connection is the old one now.
    handover.begun(3, vec![sent("1")], Some(NEW));
    handover.event(OLD, event(at, "1"), at.mono, &mut outs);
    assert_eq!(said(&mut outs), ["1"], "somebody's");
    handover.ended(3, &[event(at, "1")], at.mono, &mut outs);
    assert_eq!(said(&mut outs), ["1"]);
}

/// A request costs what it carries, and each of its channels knows of it once.
#[test]
fn a_request_is_known_to_the_channels_that_it_has_messages_on() {
    let at = now();
    let mut handover = Handover::begin(["a".into(), "b".into()], [], CONFIRM, at.mono);
    let mut outs = Outs::new();
    handover.begun(1, vec![sent("1"), sent("1")], None);
    for _ in 0..3 {
        handover.event(OLD, event(at, "1"), at.mono, &mut outs);
    }
    assert_eq!(said(&mut outs), ["1"], "two may be its copies");
    let other = Event::new(LinkId(0), "b".into(), "news", "1", at, None);
    handover.event(OLD, Arc::new(other), at.mono, &mut outs);
    assert_eq!(said(&mut outs), ["1"]);
}
