use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Input {
    Text(&'static str),
    Binary,
    Control,
    Verified(u8),
    Slots(bool),
    Subscribed(u32),
    Gap,
    Probe,
    Wait(u64),
}

fn input() -> impl Strategy<Value = Input> {
    let texts = prop::sample::select(vec![
        r#"{"type":"auth","token":"t"}"#,
        r#"{"type":"auth"}"#,
        r#"{"type":"subscribe","environment_id":"a"}"#,
        r#"{"type":"unsubscribe","environment_id":"a"}"#,
        r#"{"type":"subscribe","channel":"files"}"#,
        r#"{"type":"pong"}"#,
        r#"{"type":"run","data":1}"#,
        "junk",
    ]);
    prop_oneof![
        8 => texts.prop_map(Input::Text),
        1 => Just(Input::Binary),
        1 => Just(Input::Control),
        4 => (0_u8..4).prop_map(Input::Verified),
        3 => any::<bool>().prop_map(Input::Slots),
        3 => (0_u32..4).prop_map(Input::Subscribed),
        1 => Just(Input::Gap),
        1 => Just(Input::Probe),
        3 => (0_u64..40_000).prop_map(Input::Wait),
    ]
}

proptest! {
    /// Whatever happens: nothing is subscribed or published before a good token and its slots, nothing is
    /// answered after a close, and a close comes once.
    #[test]
    fn invariants_hold(path in prop::sample::select(vec!["/ws/content/c", "/ws/roblox", "/ws/plugin/p1", "/ws/agent/a"]),
                       inputs in prop::collection::vec(input(), 0..60)) {
        let mut b = Bench::open(path);
        let (mut accepted, mut slotted, mut closed) = (false, false, false);
        for input in inputs {
            let before: Instant = b.now.mono;
            match input {
                Input::Text(text) => {
                    if b.machine.wants_frames() { b.machine.text(text, b.now, &mut b.out); }
                }
                Input::Binary => if b.machine.wants_frames() { b.machine.binary(b.now, &mut b.out); },
                Input::Control => if b.machine.wants_frames() { b.machine.control(b.now, &mut b.out) },
                Input::Verified(v) => {
                    let verdict = if v == 0 { Err(None) } else { Ok(b.claims(if v == 3 { "x" } else { "123" }, 3000)) };
                    b.machine.verified(verdict, LEEWAY, b.now, &mut b.out);
                }
                Input::Slots(ok) => {
                    let waiting = matches!(b.machine.state, State::Acquiring(_));
                    b.machine.slots(if ok { Ok(()) } else { Err(ErrorCode::SessionInUse) }, b.now, &mut b.out);
                    slotted |= waiting && ok;
                }
                Input::Subscribed(id) => b.machine.subscribed(id, b.now, &mut b.out),
                Input::Gap => b.machine.gap(Duration::from_secs(3), b.now, &mut b.out),
                Input::Probe => b.machine.probe(Duration::from_secs(5), b.now, &mut b.out),
                Input::Wait(ms) => {
                    b.now = b.now.plus(Duration::from_millis(ms));
                    b.machine.timer(b.now, &mut b.out);
                }
            }
            prop_assert!(b.now.mono >= before);
            for action in b.out.drain(..) {
                prop_assert!(!closed, "after a close: {action:?}");
                match action {
                    Action::Acquire { .. } => accepted = true,
                    Action::Subscribe(_) | Action::Publish { .. } => prop_assert!(accepted && slotted),
                    Action::Release => slotted = false,
                    Action::Close(_) => closed = true,
                    _ => {}
                }
            }
            prop_assert!(!b.machine.is_live() || (accepted && slotted));
            if closed {
                prop_assert!(b.machine.deadline().is_none() && !b.machine.is_live());
            }
        }
    }
}
