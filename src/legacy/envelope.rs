//! Whole old envelopes: a publisher of the server's may send an event's frame, ready to be shown, in place of its
//! data. It is taken for one only when the dialect's own frame of the event is the same, member by member.

use crate::json::{self, Object};
use crate::legacy::dialect::EventData;
use crate::legacy::outline::{Outline, Piece, fixed};
use crate::template::Slot;

/// What a dialect's event frame looks like, to know one again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    frame: Outline,
}

impl Envelope {
    /// Of a frame with this outline; `None` when nothing in it would tell it from data: it must be an object with
    /// the data, and with the event's name, the channel or a fixed text beside it.
    #[must_use]
    pub(super) fn of(frame: Outline) -> Option<Self> {
        let mut seen = Seen::default();
        look(&frame, &mut seen);
        let known = matches!(frame, Outline::Object(_)) && !seen.names_vary && !seen.times_touch;
        (known && seen.data && seen.marks).then_some(Self { frame })
    }

    /// Whether `data` is itself the whole frame, ready to be shown: only a time may be missing, and nothing may be
    /// added, for it would be shown with the server's authority.
    #[must_use]
    pub(super) fn is_whole(&self, data: &EventData<'_>) -> bool {
        self.open(data).is_some_and(|opened| opened.nothing_else)
    }

    /// The `{data}` part of what is the whole frame, and perhaps more: a filter looks into it, so that nothing beside
    /// a publisher's data can lead it elsewhere.
    #[must_use]
    pub(super) fn payload<'a>(&self, data: &EventData<'a>) -> Option<&'a str> {
        self.open(data).map(|opened| opened.payload)
    }

    fn open<'a>(&self, data: &EventData<'a>) -> Option<Opened<'a>> {
        let (Outline::Object(members), true) = (&self.frame, data.json.trim_start().starts_with('{')) else {
            return None;
        };
        let object = Object::parse(data.json).ok()?;
        let mut inner = None;
        let found = members_of(members, &object, data, &mut inner)?;
        Some(Opened { payload: inner?, nothing_else: found == object.len() })
    }
}

struct Opened<'a> {
    payload: &'a str,
    /// It has the frame's members and no others.
    nothing_else: bool,
}

#[derive(Default)]
struct Seen {
    data: bool,
    /// Something that data would have only on purpose.
    marks: bool,
    /// A member's name has a placeholder.
    names_vary: bool,
    /// A string has several times, which cannot be told apart.
    times_touch: bool,
}

fn look(frame: &Outline, seen: &mut Seen) {
    match frame {
        Outline::Slot(Slot::Data) => seen.data = true,
        Outline::Slot(slot) => seen.marks |= matches!(slot, Slot::Event | Slot::Channel),
        Outline::Text(pieces) => {
            seen.times_touch |= pieces.iter().filter(|piece| **piece == Piece::Slot(Slot::Now)).count() > 1;
            seen.marks = true;
        }
        Outline::Scalar(_) => {}
        Outline::Object(members) => {
            for (name, value) in members {
                seen.names_vary |= fixed(name).is_none();
                look(value, seen);
            }
        }
        Outline::Array(elements) => elements.iter().for_each(|element| look(element, seen)),
    }
}

/// Whether `json` is `frame` filled with the event's name and channel, some data, which is put into `inner`, and
/// some time.
fn matches<'a>(frame: &Outline, json: &'a str, data: &EventData<'a>, inner: &mut Option<&'a str>) -> bool {
    match frame {
        Outline::Slot(Slot::Event) => json::string(json).is_some_and(|text| text == data.event),
        Outline::Slot(Slot::Channel) => json::string(json).is_some_and(|text| text == data.channel),
        Outline::Slot(Slot::Sender) => match data.sender {
            Some(sender) => json::string(json).is_some_and(|text| text == sender),
            None => json == "null",
        },
        Outline::Slot(Slot::Data) => *inner.get_or_insert(json) == json,
        // A publisher may write its time as it likes, but as no more than a time.
        Outline::Slot(_) => !json.starts_with(['{', '[']),
        Outline::Text(pieces) => json::string(json).is_some_and(|text| is_text(pieces, &text, data)),
        Outline::Scalar(scalar) => scalar == json,
        Outline::Object(members) => {
            let Ok(object) = Object::parse(json) else { return false };
            members_of(members, &object, data, inner) == Some(object.len())
        }
        Outline::Array(elements) => json::elements(json).is_some_and(|values| {
            values.len() == elements.len()
                && elements.iter().zip(values).all(|(frame, value)| matches(frame, value, data, inner))
        }),
    }
}

/// How many of the object's members are the frame's; `None` when one is missing or not as it must be.
fn members_of<'a>(
    members: &[(Vec<Piece>, Outline)],
    object: &Object<'a>,
    data: &EventData<'a>,
    inner: &mut Option<&'a str>,
) -> Option<usize> {
    let mut found = 0;
    for (name, frame) in members {
        let name = fixed(name)?;
        // A second one would name one type to us and another to its readers.
        match object.only(name) {
            Some(value) if matches(frame, value, data, inner) => found += 1,
            None if *frame == Outline::Slot(Slot::Now) && object.get(name).is_none() => {}
            _ => return None,
        }
    }
    Some(found)
}

/// Whether `text` is `pieces` filled in. There is at most one time among them, which may be anything.
fn is_text(pieces: &[Piece], text: &str, data: &EventData<'_>) -> bool {
    let literal = |piece: &'_ Piece| match piece {
        Piece::Literal(text) => Some(text.clone()),
        Piece::Slot(Slot::Event) => Some(data.event.to_owned()),
        Piece::Slot(Slot::Channel) => Some(data.channel.to_owned()),
        Piece::Slot(Slot::Sender) => Some(data.sender.unwrap_or("null").to_owned()),
        Piece::Slot(_) => None,
    };
    let before: String = pieces.iter().map_while(literal).collect();
    let has_time = pieces.iter().any(|piece| literal(piece).is_none());
    if !has_time {
        return text == before;
    }
    let mut after: Vec<String> = pieces.iter().rev().map_while(literal).collect();
    after.reverse();
    text.strip_prefix(before.as_str()).is_some_and(|rest| rest.ends_with(&after.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legacy::dialect::Frames;
    use crate::template::Frame;
    use proptest::prelude::*;

    fn envelope(source: &str) -> Option<Envelope> {
        Envelope::of(Outline::of(&Frame::parse(source, Frames::EVENT).unwrap()).unwrap())
    }

    fn open<'a>(source: &str, json: &'a str) -> Option<&'a str> {
        let data = EventData { event: "run", channel: "files", json, sender: None, by_client: false };
        let envelope = envelope(source).unwrap();
        envelope.payload(&data).filter(|_| envelope.is_whole(&data))
    }

    #[test]
    fn a_filter_looks_into_an_envelope_that_says_more() {
        let frame = envelope(r#"{"type":{event},"data":{data},"at":{now}}"#).unwrap();
        let json = r#"{"type":"run","agent":7,"data":{"agent":9}}"#;
        let data = EventData { event: "run", channel: "c", json, sender: None, by_client: false };
        assert_eq!((frame.payload(&data), frame.is_whole(&data)), (Some(r#"{"agent":9}"#), false));
    }

    #[test]
    fn an_envelope_has_the_frames_members_and_no_others() {
        for (frame, json, inner) in [
            (r#"{"event":{event},"data":{data}}"#, r#"{"data":[1.50],"event":"run"}"#, Some("[1.50]")),
            (r#"{"event":{event},"data":{data}}"#, r#"{"event":"run","data":1,"error":"x"}"#, None),
            (r#"{"event":{event},"data":{data}}"#, r#"{"event":"run","data":1,"data":1}"#, None),
            (r#"{"event":{event},"data":{data}}"#, r#"{"event":"run","data":1,"\u0065vent":"run"}"#, None),
            (r#"{"event":{event},"data":{data}}"#, r#"{"event":"stop","data":1}"#, None),
            (r#"{"event":{event},"data":{data}}"#, r#"{"event":"run"}"#, None),
            (r#"{"event":{event},"data":{data}}"#, r#"{}"#, None),
            (r#"{"event":{event},"data":{data},"at":{now}}"#, r#"{"event":"run","data":1}"#, Some("1")),
            (
                r#"{"event":{event},"data":{data},"at":{now}}"#,
                r#"{"event":"run","data":1,"at":7}"#,
                Some("1"),
            ),
            (r#"{"event":{event},"data":{data},"at":{now}}"#, r#"{"event":"run","data":1,"at":{}}"#, None),
            (
                r#"{"event":{event},"data":{data},"at":{now}}"#,
                r#"{"event":"run","data":1,"at":"a","at":"b"}"#,
                None,
            ),
            (r#"{"meta":{"name":{event}},"data":{data}}"#, r#"{"meta":{"name":"run"},"data":1}"#, Some("1")),
            (
                r#"{"meta":{"name":{event}},"data":{data}}"#,
                r#"{"meta":{"name":"auth_error"},"data":1}"#,
                None,
            ),
            (
                r#"{"meta":{"name":{event}},"data":{data}}"#,
                r#"{"meta":{"name":"run","error":1},"data":1}"#,
                None,
            ),
            (
                r#"{"kind":"event","meta":{"name":{event}},"data":{data}}"#,
                r#"{"kind":"event","data":1}"#,
                None,
            ),
            (r#"{"name":"evt:{event}","data":{data}}"#, r#"{"name":"evt:run","data":1}"#, Some("1")),
            (r#"{"name":"evt:{event}","data":{data}}"#, r#"{"name":"evt:stop","data":1}"#, None),
            (r#"{"name":"evt:{event}","data":{data}}"#, r#"{"name":"error","data":1}"#, None),
            (r#"{"name":"{event} at {now}.","data":{data}}"#, r#"{"name":"run at 7.","data":1}"#, Some("1")),
            (r#"{"name":"{event} at {now}.","data":{data}}"#, r#"{"name":"stop at 7.","data":1}"#, None),
            (
                r#"{"v":1,"e":[{event}],"d":{"x":{data}}}"#,
                r#"{"v":1,"e":["run"],"d":{"x":null}}"#,
                Some("null"),
            ),
            (r#"{"v":1,"e":[{event}],"d":{"x":{data}}}"#, r#"{"v":1.0,"e":["run"],"d":{"x":null}}"#, None),
            (r#"{"v":1,"e":[{event}],"d":{"x":{data}}}"#, r#"{"v":1,"e":["run",2],"d":{"x":null}}"#, None),
            (r#"{"e":{event},"d":{data},"again":{data}}"#, r#"{"e":"run","d":1,"again":1}"#, Some("1")),
            (r#"{"e":{event},"d":{data},"again":{data}}"#, r#"{"e":"run","d":1,"again":2}"#, None),
            (r#"{"c":{channel},"d":{data}}"#, r#"{"c":"files","d":1}"#, Some("1")),
            (r#"{"c":{channel},"d":{data}}"#, r#"{"c":"git","d":1}"#, None),
            (r#"{"c":{channel},"d":{data}}"#, r#"["files",1]"#, None),
        ] {
            assert_eq!(open(frame, json), inner, "{frame} {json}");
        }
    }

    #[test]
    fn a_frame_that_data_could_be_by_chance_has_no_envelope() {
        for frame in [
            r#"{"data":{data}}"#,
            r#"{"data":{data},"at":{now}}"#,
            r#"{"event":{event}}"#,
            r#"[{event},{data}]"#,
            r#"{"{event}":{data}}"#,
            r#"{"event":{event},"at":"{now}{now}","data":{data}}"#,
            "{data}",
        ] {
            assert!(envelope(frame).is_none(), "{frame}");
        }
    }

    proptest! {
        /// Whatever is added to a frame, or taken from it but for its time, it is none any more.
        #[test]
        fn nothing_passes_beside_the_frame(name in "[a-z]{1,6}", value in prop::sample::select(vec!["1", "{}", "\"run\""])) {
            const FRAME: &str = r#"{"type":{event},"data":{data},"timestamp":{now}}"#;
            let with = |more: &str| format!(r#"{{"type":"run",{more}"data":1,"timestamp":"t"}}"#);
            prop_assert!(open(FRAME, &with("")).is_some());
            let more = format!("\"{name}\":{value},");
            prop_assert!(open(FRAME, &with(&more)).is_none());
        }
    }
}
