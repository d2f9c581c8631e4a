//! The routes change while a connection is there.

use super::*;

fn agent_with(more: &str) -> Arc<Route> {
    let config = shipped_with(|text| {
        text.replacen("channel = \"agent-status\"", &format!("channel = \"agent-status\"\n{more}"), 1)
    });
    config.routes.iter().find(|route| &*route.name == "agent").unwrap().clone()
}

const WINDOW: Duration = Duration::from_secs(10);

#[test]
fn a_heartbeat_that_changes_begins_anew_and_one_that_does_not_goes_on() {
    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    let (ping, silence) = (b.machine.timers.get(Timer::Ping), b.machine.timers.get(Timer::Silence));
    b.now = b.now.plus(Duration::from_secs(20));
    b.machine.follow(agent_with("echo = false"), b.now);
    assert_eq!((b.machine.timers.get(Timer::Ping), b.machine.timers.get(Timer::Silence)), (ping, silence));
    b.machine.follow(agent_with("heartbeat = { every = \"5s\", timeout = \"12s\" }"), b.now);
    assert!(b.after(Duration::from_secs(6))[0].contains("ping"));
    assert_eq!(
        b.after(Duration::from_secs(6)).last().unwrap(),
        "close silent",
        "it had its whole time first"
    );

    let mut b = Bench::open("/ws/agent/a");
    b.machine.follow(agent_with("heartbeat.kind = \"none\""), b.now);
    assert!(b.machine.timers.get(Timer::Ping).is_none(), "not in service yet");
    b.authenticate();
    assert_eq!((b.machine.timers.get(Timer::Ping), b.machine.timers.get(Timer::Silence)), (None, None));
    b.machine.follow(agent_with(""), b.now);
    assert!(b.machine.timers.is_set(Timer::Ping) && b.machine.timers.is_set(Timer::Silence));
}

#[test]
fn what_was_used_of_a_rate_stays_used_while_the_rate_is_the_same() {
    let rate = |count: u32| {
        agent_with(&format!("limits.messages = {{ count = {count}, per = \"1h\", burst = {count} }}"))
    };
    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    let said = |b: &mut Bench| !b.text(r#"{"type":"x"}"#)[0].contains("RATE_LIMITED");
    b.machine.follow(rate(2), b.now);
    assert_eq!([said(&mut b), said(&mut b), said(&mut b)], [true, true, false]);
    b.machine.follow(rate(2), b.now);
    assert!(!said(&mut b), "no new bucket");
    b.machine.follow(rate(1), b.now);
    assert_eq!([said(&mut b), said(&mut b)], [true, false]);
    b.machine.follow(agent_with("limits.messages = \"unlimited\""), b.now);
    assert!((0..200).all(|_| said(&mut b)));
}

#[test]
fn who_is_left_behind_has_a_turn_which_a_route_that_comes_back_takes_from_it() {
    for path in ["/ws/agent/a", "/ws"] {
        let mut b = Bench::open(path);
        b.seen();
        b.machine.left_behind(WINDOW, b.now, &mut b.out);
        assert!(b.seen().is_empty() && b.machine.timers.is_set(Timer::Missed));
        b.machine.in_force();
        assert!(!b.machine.timers.is_set(Timer::Missed));
        b.machine.left_behind(WINDOW, b.now, &mut b.out);
        assert_eq!(b.after(WINDOW).last().unwrap(), "close route_changed");
        b.machine.left_behind(Duration::ZERO, b.now, &mut b.out);
        assert!(b.seen().is_empty(), "once");
    }
    let mut b = Bench::open("/ws");
    b.seen();
    b.machine.left_behind(Duration::ZERO, b.now, &mut b.out);
    assert_eq!(b.seen(), ["close route_changed"]);
}

#[test]
fn a_turn_for_another_reason_stays() {
    let close = "on_gap = \"close\"";
    let mut b = Bench::open("/ws/agent/a");
    b.machine.follow(agent_with(close), b.now);
    b.authenticate();
    b.machine.gap(WINDOW, b.now, &mut b.out);
    b.machine.left_behind(WINDOW, b.now, &mut b.out);
    b.machine.in_force();
    assert_eq!(b.after(WINDOW).last().unwrap(), "close gap");
}
