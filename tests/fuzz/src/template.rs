//! Templates of frames and of plain text, as a routes file may have them.

use std::borrow::Cow;

use pusher_bridge::legacy::dialect::{EventData, EventFrame, Frames};
use pusher_bridge::template::{Allow, Fill, Frame, Slot, Text, Var};

use super::fixture::now;
use super::input::Input;
use super::json::{assert_json, value};

const SLOTS: [&[Slot]; 6] =
    [Frames::EVENT, Frames::AUTH_OK, Frames::AUTH_ERROR, Frames::ERROR, Frames::SUBSCRIBED, Frames::BODY];
/// JSON values of every kind, of which some would show when they are put where they do not belong.
const VALUES: [&str; 7] =
    ["null", "-1.5E+3", r#""\ud800\"}""#, "{}", r#"[1,{"a":2}]"#, r#"{"type":"x","data":[]}"#, "true"];

/// A byte picks the slots, one the value; then come the template and the text that is filled in.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (slots, json) = (input.pick(&SLOTS), input.pick(&VALUES));
    let (source, text) = (input.text(), input.rest());
    frames(source, slots, json, text);
    texts(source, text);
}

/// A template that was accepted gives JSON whatever is filled in.
fn frames(source: &str, slots: &[Slot], json: &str, text: &str) {
    let Ok(frame) = Frame::parse(source, slots) else { return };
    assert_eq!(frame.source(), source);
    let mut out = String::new();
    frame.render(&mut out, |slot| match slot {
        Slot::Data | Slot::Frame | Slot::Details | Slot::Permissions => Fill::Json(json),
        _ => Fill::Text(text),
    });
    assert_json(&out);
    let used = slots.iter().any(|slot| frame.uses(*slot));
    assert!(used || out == source);
    if value(source).is_some() {
        assert!(!slots.iter().any(|slot| frame.uses(*slot) && matches!(slot, Slot::Data | Slot::Frame)));
    }
    if slots == Frames::EVENT {
        let event = EventFrame::new(frame);
        let data = EventData { event: text, channel: text, json, sender: None, by_client: false };
        assert_json(&event.render(&data, now()));
        let payload = event.payload(&data);
        assert!(json.contains(payload));
        assert_json(payload);
    }
}

/// What filled a template's only placeholder is found again.
fn texts(source: &str, filling: &str) {
    let names = ["id".to_owned(), "x".to_owned()];
    let allow = Allow { subscribe: true, user: true, message_type: true };
    let Ok(text) = Text::parse(source, &names, allow) else { return };
    let filled = text.fill(|_| Some(Cow::Borrowed(filling))).unwrap();
    assert!(filled.starts_with(text.literal_prefix()));
    let literal: usize = text.literals().map(str::len).sum();
    assert_eq!(filled.len(), literal + text.vars().count() * filling.len());
    match text.vars().count() {
        0 => assert!(filled == source && text.invert(&filled).is_none()),
        1 => assert_eq!(text.invert(&filled), Some(filling)),
        _ => assert_eq!(text.invert(&filled), None),
    }
    for var in text.vars() {
        assert_eq!(text.fill(|asked| (asked != var).then_some(Cow::Borrowed(filling))), None);
        if let Var::Path(name) = var {
            assert!(names.contains(name));
        }
    }
}
