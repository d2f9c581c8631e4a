//! Streams of numbered events, and the texts that carry them: awkward on purpose, and known to every part.

use std::fmt::Write as _;

use crate::ledger::{ClientId, Mark, OnGap, StreamId};

/// A route of routes.toml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Content,
    Plugin,
    Agent,
    Roblox,
    Seat,
    Command,
    Channels,
    Firehose,
}

impl Route {
    pub const fn on_gap(self) -> OnGap {
        match self {
            Self::Content | Self::Roblox => OnGap::Notify,
            Self::Channels => OnGap::Close,
            _ => OnGap::Ignore,
        }
    }

    const fn is_typed(self) -> bool {
        !matches!(self, Self::Channels | Self::Firehose)
    }
}

/// What one subscription is for.
#[derive(Debug)]
pub struct Stream {
    pub id: StreamId,
    pub route: Route,
    pub channel: String,
    /// What a client puts into its path or its `subscribe` message.
    pub name: String,
}

/// Every stream there is, in proportion to the number of clients.
pub fn streams(clients: usize) -> Vec<Stream> {
    let share = |of: usize| (clients / of).max(2);
    let mut streams = Vec::new();
    let mut add = |route: Route, count: usize, channel: fn(&str) -> String| {
        for i in 0..count {
            let name = format!("{}{i}", format!("{route:?}").to_lowercase());
            streams.push(Stream { id: streams.len() as StreamId, route, channel: channel(&name), name });
        }
    };
    add(Route::Content, share(25), |name| format!("content-generation-{name}"));
    add(Route::Plugin, share(40), |name| format!("private-plugin-{name}"));
    add(Route::Agent, share(25), |_| "agent-status".to_owned());
    add(Route::Roblox, share(50), |_| "roblox-sync".to_owned());
    add(Route::Seat, share(50), |name| format!("seat-{name}"));
    add(Route::Command, share(100), |name| format!("private-command-{name}"));
    add(Route::Channels, share(60), |name| format!("room-{name}"));
    add(Route::Firehose, 1, |_| "firehose".to_owned());
    streams
}

/// The events' name.
pub const EVENT: &str = "progress_update";

impl Stream {
    /// The data of event `n` as it is published.
    pub fn published(&self, n: u32) -> String {
        let data = self.data(n);
        if self.in_envelope(n) {
            format!(r#"{{"type":"{EVENT}","data":{data},"timestamp":"2025-01-21T10:00:00Z"}}"#)
        } else {
            data
        }
    }

    /// Some publishers send the whole old envelope.
    const fn in_envelope(&self, n: u32) -> bool {
        self.route.is_typed() && n % 7 == 3
    }

    fn data(&self, n: u32) -> String {
        let mut data = format!(r#"{{"stream":{},"n":{n}"#, self.id);
        match self.route {
            Route::Agent => write!(data, r#","agent_id":"{}""#, self.name),
            Route::Roblox => write!(data, r#","environment_id":"{}""#, self.name),
            _ => Ok(()),
        }
        .expect("writing to a string");
        data.push_str(match n % 4 {
            0 => r#","progress":1.50,"big":12345678901234567890123,"small":-0.0,"far":1e400"#,
            1 => r#","text":"Grüße, 世界, \u00e9\\\"\n\t\u0000 😀 \ud83d\ude00","empty":{},"none":null"#,
            2 => " , \"spaced\" : [ 1 , 2.0 , [ ] , { \"stage\" : true } ]",
            _ => r#","n2":7,"text":"</script><!-- {data} {event} {now} -->""#,
        });
        let padding = match self.route {
            Route::Firehose => 9000,
            _ if n % 16 == 5 => 3000,
            _ => (n % 5) as usize * 40,
        };
        write!(data, r#","pad":"{}"}}"#, "x".repeat(padding)).expect("writing to a string");
        data
    }

    /// Whether `frame` is what an old client must get for event `n`: but for the time, every byte is known.
    pub fn is_frame_of(&self, n: u32, frame: &str) -> bool {
        if self.in_envelope(n) {
            return frame == self.published(n);
        }
        let data = self.data(n);
        let start = if self.route.is_typed() {
            format!(r#"{{"type":"{EVENT}","data":{data},"timestamp":""#)
        } else {
            let alias = if self.route == Route::Firehose { "firehose" } else { &self.name };
            format!(r#"{{"type":"event","channel":"{alias}","data":{data},"timestamp":""#)
        };
        is_timed(frame, &start)
    }
}

/// Whether `frame` is `start` followed by a time and the frame's end.
fn is_timed(frame: &str, start: &str) -> bool {
    let time = frame.strip_prefix(start).and_then(|rest| rest.strip_suffix("\"}"));
    time.is_some_and(|time| (20..40).contains(&time.len()) && time.ends_with('Z'))
}

/// The type of a client's message: by it an error frame names the message.
pub fn message_type(n: u32) -> String {
    format!("m{n}")
}

/// Whose message an error frame names by its type.
pub fn number_of(message_type: &str) -> Option<u32> {
    message_type.strip_prefix('m')?.parse().ok()
}

/// The data of a client's message.
pub fn message_data(from: ClientId, n: u32) -> String {
    let text = if n.is_multiple_of(2) { r#""text":"ä\u0041\n","x":1.10"# } else { r#""text":"plain""# };
    let padding = if n % 9 == 4 { 2000 } else { 10 };
    format!(r#"{{"from":{from},"n":{n},{text},"pad":"{}"}}"#, "y".repeat(padding))
}

/// Whether `frame` is what an old neighbour must get.
pub fn is_frame_of_message(from: ClientId, n: u32, frame: &str) -> bool {
    let data = message_data(from, n);
    is_timed(frame, &format!(r#"{{"type":"client-m{n}","data":{data},"timestamp":""#))
}

/// Which event a frame or its data is of.
pub fn mark_of(text: &str) -> Option<Mark> {
    let n = number_after(text, r#""n":"#)?;
    match number_after(text, r#""stream":"#) {
        Some(stream) => Some(Mark::Event { stream, n }),
        None => Some(Mark::Message { from: number_after(text, r#""from":"#)?, n }),
    }
}

fn number_after(text: &str, key: &str) -> Option<u32> {
    let rest = &text[text.find(key)? + key.len()..];
    rest[..rest.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}
