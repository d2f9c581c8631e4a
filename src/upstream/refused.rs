//! Pure: why Pusher does not carry a channel's subscription, told from what it says.

use crate::legacy::error::ErrorCode;
use crate::metrics::label::labels;

labels! {
    /// Why a subscription is not carried.
    pub enum Refused: "reason" {
        /// The signature is not accepted, or there should be one.
        Unauthorized = "unauthorized",
        /// The app, or the connection, has as much as it may.
        Quota = "quota",
        /// The app has a feature switched off that the channel needs.
        FeatureOff = "feature_off",
        /// A presence channel has as many members as it may.
        Full = "full",
        /// The server does not like the channel's name.
        Name = "name",
        Other = "other",
        /// There was no answer in time.
        Unanswered = "unanswered",
    }
}

/// What servers say of each, in lower case, in the order in which it is looked at: an error about a name may speak of a
/// limit, and one about members too.
const WORDS: [(Refused, &[&str]); 6] = [
    (Refused::Unauthorized, &["signature", "auth info required", "requires authentication"]),
    (Refused::Name, &["channel name", "invalid channel", "invalid characters"]),
    (
        Refused::FeatureOff,
        &["not enabled", "enable this feature", "disabled", "not supported", "only supported"],
    ),
    (
        Refused::Full,
        &["maximum members", "too many members", "members limit", "member limit", "members reached"],
    ),
    (Refused::Quota, &["quota", "limit", "over capacity", "too many"]),
    (Refused::Unauthorized, &["unauthor", "not authorized", "authoriz", "forbidden"]),
];

impl Refused {
    /// What an error means that refuses a subscription of `channel`: by its words first, because servers have few codes
    /// for much (soketi says 4009 for a name and for a signature).
    #[must_use]
    pub fn of(channel: &str, code: Option<u16>, message: &str) -> Self {
        // A channel may be named after any word.
        let words = without(message, channel).to_lowercase();
        let has = |(_, words_of): &&(Self, &[&str])| words_of.iter().any(|word| words.contains(word));
        if let Some((refused, _)) = WORDS.iter().find(has) {
            return *refused;
        }
        match code {
            Some(401 | 403 | 4009) => Self::Unauthorized,
            Some(429 | 4004 | 4100 | 4301) => Self::Quota,
            _ => Self::Other,
        }
    }

    /// Whether the same may be accepted a while later over the same connection.
    #[must_use]
    pub const fn is_retried(self) -> bool {
        match self {
            Self::Quota | Self::Full | Self::Other | Self::Unanswered => true,
            Self::Unauthorized | Self::FeatureOff | Self::Name => false,
        }
    }

    /// What its subscribers are told.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Unauthorized => ErrorCode::ChannelUnauthorized,
            Self::Quota => ErrorCode::ChannelQuota,
            Self::FeatureOff => ErrorCode::ChannelFeatureOff,
            Self::Full => ErrorCode::ChannelFull,
            Self::Name | Self::Other => ErrorCode::ChannelRefused,
            Self::Unanswered => ErrorCode::UpstreamUnavailable,
        }
    }
}

/// Whether a text names the channel, and not one whose name is longer.
#[must_use]
pub fn names(text: &str, channel: &str) -> bool {
    mentions(text, channel).next().is_some()
}

fn without(text: &str, channel: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for at in mentions(text, channel) {
        out.push_str(text.get(from..at).unwrap_or_default());
        from = at + channel.len();
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out
}

/// Where a text names the channel.
fn mentions(text: &str, channel: &str) -> impl Iterator<Item = usize> {
    // Punctuation may be part of a name, or of the sentence.
    let is_punctuation = |c: char| matches!(c, ',' | '.' | ';');
    let is_part = move |c: char| c.is_ascii_alphanumeric() || is_punctuation(c) || "_-=@#".contains(c);
    text.match_indices(channel).map(|(at, _)| at).filter(move |at| {
        let before = text.get(..*at).and_then(|before| before.chars().next_back());
        let behind = text.get(at + channel.len()..).unwrap_or_default().trim_start_matches(is_punctuation);
        !channel.is_empty() && !before.is_some_and(is_part) && !behind.chars().next().is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_is_understood() {
        for (channel, code, message, expected) in [
            (
                "private-limit",
                None,
                "Invalid signature: Expected HMAC SHA256 hex digest of 1.2:private-limit, but got 00",
                Refused::Unauthorized,
            ),
            ("private-a", None, "Auth info required to subscribe to private-a", Refused::Unauthorized),
            ("private-a", Some(4009), "Connection is unauthorized", Refused::Unauthorized),
            ("private-a", Some(4009), "Invalid signature", Refused::Unauthorized),
            ("private-a", Some(401), "The connection is unauthorized.", Refused::Unauthorized),
            ("private-a", Some(4009), "", Refused::Unauthorized),
            ("a", Some(4009), "The channel name is longer than the allowed 164 characters.", Refused::Name),
            ("a", None, "Channel name contains invalid characters", Refused::Name),
            (
                "presence-a",
                Some(4100),
                "The maximum members per presence channel limit was reached",
                Refused::Full,
            ),
            ("a", Some(4004), "", Refused::Quota),
            ("a", None, "Application is over connection quota", Refused::Quota),
            ("a", Some(4100), "Over capacity", Refused::Quota),
            ("a", None, "Presence is not enabled for this app", Refused::FeatureOff),
            ("quota-signature", None, "Not now: quota-signature", Refused::Other),
            ("a", Some(503), "", Refused::Other),
        ] {
            assert_eq!(Refused::of(channel, code, message), expected, "{code:?} {message}");
        }
    }

    #[test]
    fn a_text_names_a_channel_and_not_a_longer_one() {
        for (text, channel, expected) in [
            ("Existing subscription to channel a", "a", true),
            ("digest of 1.2:private-a, but got", "private-a", true),
            ("not private-a.", "private-a", true),
            ("not private-a.b", "private-a", false),
            ("not private-ab", "private-a", false),
            ("not my-private-a", "private-a", false),
            ("not private-ab nor private-a", "private-a", true),
            ("a", "", false),
        ] {
            assert_eq!(names(text, channel), expected, "{text}: {channel}");
        }
        assert_eq!(without("a: an a, a.", "a"), ": an , .");
    }
}
