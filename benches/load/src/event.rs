//! The events of a run: each says which one it is, and what it must look like when it arrives.

use serde_json::{Value, json};

use crate::Result;

/// The event's name, which old clients see as its type.
pub(crate) const NAME: &str = "stage_complete";

/// One event: the `sequence`th of `stream`. Sequence 0 may come any number of times, before all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    pub(crate) stream: u32,
    pub(crate) sequence: u32,
}

impl Id {
    /// The event's data, JSON of exactly `bytes` bytes (or a little more, if that is too few).
    /// `agent_id` is what a filtered channel is filtered by.
    pub(crate) fn data(self, bytes: usize) -> String {
        let Self { stream, sequence } = self;
        let text = |padding: &str| {
            format!(
                "{{\"mark\":\"@@{stream}.{sequence}@@\",\"agent_id\":\"agent_{stream}\",\"progress_percent\":42.50,\
                 \"results\":{{\"ok\":true,\"note\":\"{padding}\"}}}}"
            )
        };
        let padding = bytes.saturating_sub(text("").len());
        text(&"Lorem ipsum dolor sit amet. ".chars().cycle().take(padding).collect::<String>())
    }

    /// Which event a frame's payload carries, whatever is around it; `None` if it carries none.
    pub(crate) fn find(payload: &[u8]) -> Option<Self> {
        let start = payload.windows(2).position(|pair| pair == b"@@")? + 2;
        let rest = payload.get(start..)?;
        let end = rest.iter().take(24).position(|byte| *byte == b'@')?;
        let (stream, sequence) = std::str::from_utf8(rest.get(..end)?).ok()?.split_once('.')?;
        Some(Self { stream: stream.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

/// What a frame that carries an event looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `{"type","data","timestamp"}`
    Typed,
    /// `{"type":"event","channel","data","timestamp"}`
    Channel,
    /// `{"event","channel","data":"<JSON>"}`
    Pusher,
}

impl Shape {
    /// Checks every field of the frame.
    pub(crate) fn check(self, payload: &[u8], id: Id, bytes: usize) -> Result<()> {
        let frame: Value = serde_json::from_slice(payload)?;
        let sent: Value = serde_json::from_str(&id.data(bytes))?;
        let right = match self {
            Self::Typed => frame["type"] == NAME && frame["data"] == sent && frame["timestamp"].is_string(),
            Self::Channel => {
                frame["type"] == "event"
                    && frame["channel"].is_string()
                    && frame["data"] == sent
                    && frame["timestamp"].is_string()
            }
            Self::Pusher => frame["event"] == NAME && frame["data"] == json!(id.data(bytes)),
        };
        if right { Ok(()) } else { Err(format!("not the event that was sent: {frame}").into()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ID: Id = Id { stream: 7, sequence: 4_294_967_295 };

    #[test]
    fn an_event_has_its_size_and_is_found_in_every_shape() {
        let data = ID.data(300);
        assert_eq!(data.len(), 300);
        serde_json::from_str::<Value>(&data).unwrap();
        let quoted = json!({"event": NAME, "channel": "c", "data": data}).to_string();
        assert_eq!(Id::find(quoted.as_bytes()), Some(ID));
        Shape::Pusher.check(quoted.as_bytes(), ID, 300).unwrap();
        let typed = format!(r#"{{"type":"{NAME}","data":{data},"timestamp":"t"}}"#);
        assert_eq!(Id::find(typed.as_bytes()), Some(ID));
        Shape::Typed.check(typed.as_bytes(), ID, 300).unwrap();
        assert!(Shape::Typed.check(typed.replace("42.50", "42.6").as_bytes(), ID, 300).is_err());
        assert!(Shape::Typed.check(typed.replace(NAME, "x").as_bytes(), ID, 300).is_err());
        assert_eq!(Id::find(b"{\"type\":\"ping\"}"), None);
    }
}
