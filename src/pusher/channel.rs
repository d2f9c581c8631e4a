//! What a channel may be called, what kinds there are, and how much an event may hold.

/// Longest channel name, in bytes, with its prefix (Pusher docs, "Channel naming conventions").
pub const CHANNEL_BYTES_MAX: usize = 164;
/// Longest event name, in bytes (Pusher's HTTP libraries refuse longer ones).
pub const EVENT_BYTES_MAX: usize = 200;
/// Most bytes of data in one event (Pusher docs, "HTTP API": 413 above 10 kB).
pub const DATA_BYTES_MAX: usize = 10_240;

/// Prefixes by which Pusher tells channel kinds apart.
pub(crate) const KIND_PREFIXES: [&str; 7] = [
    "private-encrypted-cache-",
    "private-encrypted-",
    "private-cache-",
    "private-",
    "presence-cache-",
    "presence-",
    "cache-",
];

/// What kind of channel a name selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// Anyone may subscribe.
    Public,
    /// A subscription is signed.
    Private,
    /// A subscription is signed and names its member.
    Presence,
    /// Private, and its events are encrypted.
    Encrypted,
}

impl ChannelKind {
    #[must_use]
    pub fn of(channel: &str) -> Self {
        if channel.starts_with("private-encrypted-") {
            Self::Encrypted
        } else if channel.starts_with("private-") {
            Self::Private
        } else if channel.starts_with("presence-") {
            Self::Presence
        } else {
            Self::Public
        }
    }
}

/// How the channel begins that has the events of one user's own (Pusher docs, "Sending events to users").
pub const USER_PREFIX: &str = "#server-to-user-";

/// The user whose own channel this is.
#[must_use]
pub fn user_of(channel: &str) -> Option<&str> {
    channel.strip_prefix(USER_PREFIX)
}

/// Whether Pusher keeps the last event of `channel` for new subscribers (Pusher docs, "Cache channels").
#[must_use]
pub fn is_cache(channel: &str) -> bool {
    ["cache-", "private-cache-", "private-encrypted-cache-", "presence-cache-"]
        .iter()
        .any(|prefix| channel.starts_with(prefix))
}

/// The prefix by which Pusher knows the kind of `channel`; none for a public one.
#[must_use]
pub fn kind_prefix(channel: &str) -> &'static str {
    KIND_PREFIXES.into_iter().find(|prefix| channel.starts_with(prefix)).unwrap_or("")
}

/// Whether `byte` may stand in a channel name (Pusher docs, "Channel naming conventions").
#[must_use]
pub const fn is_channel_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'=' | b'@' | b',' | b'.' | b';')
}

/// Why `name` is no channel name, if it is none.
///
/// # Errors
/// Empty, longer than [`CHANNEL_BYTES_MAX`], or a character Pusher does not allow.
pub fn check_channel(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the channel's name is empty".to_owned());
    }
    if name.len() > CHANNEL_BYTES_MAX {
        return Err(format!("the channel's name has {} bytes of at most {CHANNEL_BYTES_MAX}", name.len()));
    }
    match name.chars().find(|c| !(c.is_ascii() && is_channel_byte(*c as u8))) {
        Some(c) => Err(format!("{c:?} may not stand in a channel's name (letters, digits, `_-=@,.;` may)")),
        None => Ok(()),
    }
}

/// Whether a value put behind `literal_prefix` could make the name one of another kind: the kind prefix it
/// could complete.
#[must_use]
pub fn kind_a_value_could_select(literal_prefix: &str) -> Option<&'static str> {
    KIND_PREFIXES
        .into_iter()
        .rev()
        .find(|kind| kind.len() > literal_prefix.len() && kind.starts_with(literal_prefix))
}
