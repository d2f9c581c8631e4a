//! Heartbeats, silence, probes, and what others tell a connection.

use super::*;

#[test]
fn heartbeats_come_in_time_and_silence_closes() {
    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    let first = b.machine.timers.get(Timer::Ping).unwrap() - b.now.mono;
    assert!(first >= Duration::from_secs(27) && first <= Duration::from_secs(33), "{first:?}");
    let ping = b.after(Duration::from_secs(33));
    assert!(ping[0].starts_with(r#"{"type":"ping","timestamp":""#), "{ping:?}");
    b.text(r#"{"type":"pong","timestamp":"x"}"#);
    assert!(!b.after(Duration::from_secs(74)).iter().any(|a| a.starts_with("close")));
    assert_eq!(b.after(Duration::from_secs(1)), ["close silent"]);

    let mut b = Bench::open("/ws");
    assert_eq!(b.machine.route.heartbeat.kind, HeartbeatKind::WebSocket);
    assert_eq!(b.after(Duration::from_secs(33)), ["ws ping"]);
    b.machine.control(b.now, &mut b.out);
    assert!(!b.after(Duration::from_secs(50)).iter().any(|a| a.starts_with("close")));
    assert_eq!(b.after(Duration::from_secs(10)), ["close silent"]);
}

#[test]
fn a_client_is_not_silent_while_its_token_is_verified() {
    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    b.text(r#"{"type":"auth","token":"t"}"#);
    assert!(!b.after(Duration::from_secs(75)).iter().any(|a| a.starts_with("close")));
    b.verified(Ok(b.claims("123", 7200)));
    assert!(!b.after(Duration::from_secs(74)).iter().any(|a| a.starts_with("close")));
    assert_eq!(b.after(Duration::from_secs(1)), ["close silent"]);
}

#[test]
fn probes_shutdowns_and_gaps() {
    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    b.machine.probe(Duration::from_secs(5), b.now, &mut b.out);
    assert_eq!(b.seen().last().unwrap(), "ws ping");
    b.machine.control(b.now, &mut b.out);
    assert!(b.after(Duration::from_secs(5)).is_empty(), "alive");
    b.machine.probe(Duration::from_secs(5), b.now, &mut b.out);
    b.seen();
    assert_eq!(b.after(Duration::from_secs(5)), ["close replaced"]);

    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    b.machine.drain(Duration::from_secs(3), b.now);
    assert_eq!(b.machine.deadline(), Some(b.now.mono + Duration::from_secs(3)));
    assert_eq!(b.after(Duration::from_secs(3)), ["close going_away"]);

    for (on_gap, expected) in [
        (OnGap::Ignore, &[][..]),
        (OnGap::Notify, &["error EVENTS_MAY_BE_MISSING"]),
        (OnGap::Close, &["close gap"]),
    ] {
        let name = format!("{on_gap:?}").to_lowercase();
        let config = shipped(&format!(
            "[[routes]]\nname = \"g\"\npath = \"/g\"\ngroup = \"typed-api\"\nchannel = \"g\"\non_gap = \"{name}\"\n"
        ));
        let mut b = Bench::open_in(&config, "/g", |_| {});
        b.authenticate();
        b.machine.gap(Duration::ZERO, b.now, &mut b.out);
        assert_eq!(b.seen(), expected, "{on_gap:?}");
    }
}

#[test]
fn closes_for_a_gap_are_spread_and_a_second_gap_moves_none() {
    const CLIENTS: u64 = 200;
    let window = Duration::from_secs(10);
    let config = shipped(
        "[[routes]]\nname = \"g\"\npath = \"/g\"\ngroup = \"typed-api\"\nchannel = \"g\"\non_gap = \"close\"\n",
    );
    let mut turns = Vec::new();
    for seed in 0..CLIENTS {
        let mut b = Bench::open_in(&config, "/g", |opening| opening.seed = seed);
        b.authenticate();
        b.machine.gap(window, b.now, &mut b.out);
        assert!(b.seen().is_empty() && b.machine.is_live(), "until then it is in service");
        let turn = b.machine.timers.get(Timer::Missed).unwrap();
        b.now = b.now.plus(Duration::from_millis(1));
        b.machine.gap(window, b.now, &mut b.out);
        assert_eq!(
            b.machine.timers.get(Timer::Missed),
            Some(turn),
            "or a link that flaps would keep it for ever"
        );
        let left = turn.saturating_duration_since(b.now.mono);
        assert_eq!(b.after(left).last().map(String::as_str), Some("close gap"));
        turns.push(left);
    }
    for second in 0..10 {
        let at = Duration::from_secs(second)..Duration::from_secs(second + 1);
        let closed = turns.iter().filter(|turn| at.contains(*turn)).count();
        assert!((8..=40).contains(&closed), "{closed} of {CLIENTS} in second {second}");
    }
}

#[test]
fn answers_to_our_pings_are_no_flood() {
    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    // Others try for its slot, far more often than a client may send pongs.
    for _ in 0..5000 {
        b.machine.probe(Duration::from_secs(5), b.now, &mut b.out);
        assert_eq!(b.seen().len(), 2, "a JSON ping and a WebSocket ping");
        b.machine.control(b.now, &mut b.out);
        assert!(b.text(r#"{"type":"pong"}"#).is_empty());
    }
    // What was not asked for still is one, and pings that were never answered are no credit for it.
    for _ in 0..1000 {
        b.machine.probe(Duration::from_secs(5), b.now, &mut b.out);
        b.machine.heard(b.now);
    }
    b.seen();
    let free = (0..).take_while(|_| b.text(r#"{"type":"pong"}"#).is_empty()).count();
    assert_eq!(free, 600 + usize::from(PINGS_OWED_MAX));
}

#[test]
fn a_probe_is_judged_only_while_the_answer_would_be_heard() {
    let mut b = Bench::open("/ws/content/gen_1");
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Ok(b.claims("123", 60)));
    b.slots(Ok(()));
    b.machine.probe(Duration::from_secs(5), b.now, &mut b.out);
    b.seen();
    assert!(b.after(Duration::from_secs(5)).is_empty(), "it waits for its subscription, and is not read");
    b.subscribed(FIXED);
    b.machine.probe(Duration::from_secs(5), b.now, &mut b.out);
    b.seen();
    assert_eq!(b.after(Duration::from_secs(5)), ["close replaced"]);
}

#[test]
fn who_misses_what_cannot_be_decrypted_is_told_as_the_route_says() {
    for (route, told, window, then) in [
        ("", &[][..], 0, &[][..]),
        ("on_undecryptable = \"drop\"", &[], 0, &[]),
        ("on_undecryptable = \"notify\"", &["error EVENT_NOT_DECRYPTED"], 0, &[]),
        ("on_undecryptable = \"close\"", &["close undecryptable"], 0, &[]),
        ("on_undecryptable = \"close\"\non_gap = \"close\"", &[], 3, &["close undecryptable"]),
    ] {
        let config = shipped_with_key(&format!(
            "[[routes]]\nname = \"s\"\npath = \"/s\"\ngroup = \"typed-api\"\nchannel = \"private-encrypted-s\"\n{route}\n"
        ));
        let mut b = Bench::open_in(&config, "/s", |_| {});
        b.authenticate();
        let window = Duration::from_secs(window);
        b.machine.undecryptable(window, b.now, &mut b.out);
        b.machine.gap(window, b.now, &mut b.out);
        assert_eq!(b.seen(), told, "{route}");
        let ends: Vec<String> =
            b.after(window).into_iter().filter(|action| action.starts_with("close")).collect();
        assert_eq!(ends, then, "{route}: the first reason counts");
    }
}
