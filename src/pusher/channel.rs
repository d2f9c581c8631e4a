//! What a channel may be called, what kinds there are, and how much an event may hold.

/// Longest channel name, in bytes, with its prefix (Pusher docs, "Channel naming conventions").
pub const CHANNEL_BYTES_MAX: usize = 164;
/// Longest event name, in bytes (Pusher's HTTP libraries refuse longer ones).
pub const EVENT_BYTES_MAX: usize = 200;
/// Most bytes of data in one event (Pusher docs, "HTTP API": 413 above 10 kB).
pub const DATA_BYTES_MAX: usize = 10_240;

/// Longest id of a presence channel's member, in bytes (Pusher docs, "Presence channels": 128 characters).
pub const USER_ID_BYTES_MAX: usize = 128;
/// Longest info of a presence channel's member, in bytes (Pusher docs, "Presence channels": 1 kB).
pub const USER_INFO_BYTES_MAX: usize = 1024;

/// Prefixes by which Pusher tells channel kinds apart, each before those that it begins with.
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

/// That channel, whoever's it is.
pub const USER_CHANNEL: &str = "#server-to-user";

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

/// A kind's prefix that `begin` is cut short of: whatever follows would have to be looked at to know the kind at all.
/// `None` for what has a kind already, also where a longer prefix begins with it: there it is the exception that what
/// follows is another kind.
#[must_use]
pub fn cut_kind_prefix(begin: &str) -> Option<&'static str> {
    let cut = |kind: &&str| kind.len() > begin.len() && kind.starts_with(begin);
    if KIND_PREFIXES.contains(&begin) { None } else { KIND_PREFIXES.into_iter().rev().find(cut) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_is_the_kind() {
        for (channel, kind) in [
            ("x", ""),
            ("", ""),
            ("private", ""),
            ("Private-x", ""),
            ("xprivate-", ""),
            ("private-", "private-"),
            ("private-x", "private-"),
            ("private-cache", "private-"),
            ("private-cache-", "private-cache-"),
            ("private-encrypted", "private-"),
            ("private-encrypted-x", "private-encrypted-"),
            ("private-encrypted-cache-x", "private-encrypted-cache-"),
            ("private-cache-encrypted-x", "private-cache-"),
            ("presence-x", "presence-"),
            ("presence-encrypted-x", "presence-"),
            ("presence-cache-x", "presence-cache-"),
            ("cache-private-x", "cache-"),
        ] {
            assert_eq!(kind_prefix(channel), kind, "{channel}");
        }
    }

    #[test]
    fn what_is_cut_short_of_a_prefix_has_no_kind_yet() {
        for (begin, cut) in [
            ("", Some("cache-")),
            ("p", Some("presence-")),
            ("pr", Some("presence-")),
            ("pri", Some("private-")),
            ("private", Some("private-")),
            ("private-", None),
            ("private-c", Some("private-cache-")),
            ("private-enc", Some("private-encrypted-")),
            ("private-encrypted", Some("private-encrypted-")),
            ("private-encrypted-", None),
            ("private-encrypted-cache", Some("private-encrypted-cache-")),
            ("private-encrypted-cache-", None),
            ("presence-", None),
            ("presence-cach", Some("presence-cache-")),
            ("cach", Some("cache-")),
            ("cache-", None),
            ("private-plugin-", None),
            ("content-generation-", None),
            ("x", None),
        ] {
            assert_eq!(cut_kind_prefix(begin), cut, "{begin:?}");
        }
    }
}
