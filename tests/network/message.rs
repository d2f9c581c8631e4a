//! What people say, and how it is known when it comes.

use serde_json::Value;

/// Messages that everybody says in the very same bytes, and what a server triggers that is equal to them: type, frame,
/// data.
const EQUAL: [(&str, &str, &str); 2] = [
    ("typing", r#"{"type":"typing"}"#, r#"{"type":"typing"}"#),
    ("seen", r#"{"type":"seen","data":{"all":true}}"#, r#"{"all":true}"#),
];

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    Equal(usize),
    Unique(u64),
}

pub const TYPING: Content = Content::Equal(0);
pub const SEEN: Content = Content::Equal(1);

impl Content {
    /// The type a client gives it.
    fn kind(self) -> String {
        match self {
            Self::Equal(which) => EQUAL[which].0.to_owned(),
            Self::Unique(n) => format!("say{n}"),
        }
    }

    pub fn of_kind(kind: &str) -> Option<Self> {
        let equal = EQUAL.iter().position(|(name, ..)| *name == kind).map(Self::Equal);
        equal.or_else(|| Some(Self::Unique(kind.strip_prefix("say")?.parse().ok()?)))
    }

    /// A client's frame.
    pub fn frame(self) -> String {
        match self {
            Self::Equal(which) => EQUAL[which].1.to_owned(),
            Self::Unique(n) => format!(r#"{{"type":"say{n}","data":{n}}}"#),
        }
    }

    /// The event of a place: its name and its data.
    pub fn event(self, place: Place) -> (String, String) {
        let data = match self {
            Self::Equal(which) => EQUAL[which].2.to_owned(),
            Self::Unique(n) => n.to_string(),
        };
        (format!("{}{}", place.event_prefix(), self.kind()), data)
    }

    /// What an event's name says.
    pub fn of_event(event: &str) -> Option<Self> {
        Self::of_kind(event.strip_prefix("client-").or_else(|| event.strip_prefix("said-"))?)
    }
}

/// The kinds of rooms, each with a route of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Events are `client-` ones.
    Parlour,
    /// Clients' events have names like a server's.
    Hall,
    /// Without authentication, so that whoever comes speaks before its subscription stands.
    Yard,
}

impl Place {
    pub const ALL: [Self; 3] = [Self::Parlour, Self::Hall, Self::Yard];

    pub const ROUTES: &str = r#"
[groups.network]
dialect = "typed"
on_gap = "notify"
limits = { messages = "unlimited", connections_per_user = 10000, connections_per_address = 10000 }

[[routes]]
name = "parlour"
group = "network"
path = "/parlour/{room}"
channel = "private-parlour-{room}"
auth = { required = true }
[[routes.publish]]
types = ["*"]

[[routes]]
name = "hall"
group = "network"
path = "/hall/{room}"
channel = "hall-{room}"
auth = { required = true }
[[routes.publish]]
types = ["*"]
event = "said-{type}"

[[routes]]
name = "yard"
group = "network"
path = "/yard/{room}"
channel = "private-yard-{room}"
auth = { required = false }
[[routes.publish]]
types = ["*"]
"#;

    pub fn path(self, room: &str) -> String {
        match self {
            Self::Parlour => format!("/parlour/{room}"),
            Self::Hall => format!("/hall/{room}"),
            Self::Yard => format!("/yard/{room}"),
        }
    }

    pub fn channel(self, room: &str) -> String {
        match self {
            Self::Parlour => format!("private-parlour-{room}"),
            Self::Hall => format!("hall-{room}"),
            Self::Yard => format!("private-yard-{room}"),
        }
    }

    const fn event_prefix(self) -> &'static str {
        match self {
            Self::Hall => "said-",
            Self::Parlour | Self::Yard => "client-",
        }
    }

    pub const fn needs_token(self) -> bool {
        !matches!(self, Self::Yard)
    }
}

/// The name of the events that show that everything before them has come.
pub const FENCE: &str = "fence";

/// A frame to an old client.
#[derive(Debug)]
pub enum Frame {
    Content(Content),
    Fence(u64),
    Confirmed,
    Refused(String),
    Gap,
    Told(Content),
    Other,
}

impl Frame {
    pub fn of(text: &str) -> Self {
        let json: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let kind = json["type"].as_str().unwrap_or_else(|| panic!("{text}"));
        if let Some(content) = Content::of_event(kind) {
            return Self::Content(content);
        }
        match kind {
            FENCE => Self::Fence(json["data"].as_u64().unwrap_or_else(|| panic!("{text}"))),
            "auth_response" => Self::Confirmed,
            "auth_error" => Self::Refused(json["data"]["error"].to_string()),
            "error" if json["data"]["error_code"] == "EVENTS_MAY_BE_MISSING" => Self::Gap,
            "error" => {
                let told = json["data"]["details"]["type"].as_str().and_then(Content::of_kind);
                told.map_or(Self::Other, Self::Told)
            }
            "ping" => Self::Other,
            _ => panic!("nobody said {text}"),
        }
    }
}
