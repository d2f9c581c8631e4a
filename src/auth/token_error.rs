//! Pure: why a token was not accepted.

use std::fmt;
use std::sync::Arc;

use crate::metrics::label::labels;

labels! {
    /// The result of verifying a token, or of an attempt without one.
    pub enum TokenResult: "result" {
        Accepted = "accepted",
        /// Accepted, on a connection in service.
        Renewed = "renewed",
        /// Valid, without a permission that the route requires.
        MissingPermission = "missing_permission",
        /// Valid, of a user who does not own what the path names.
        NotOwner = "not_owner",
        /// Valid, of a user whom the route excludes.
        ExcludedUser = "excluded_user",
        /// Valid, of a user whose id would select another kind of channel.
        ChannelKind = "channel_kind",
        /// Valid, of another user than the connection's.
        OtherUser = "other_user",
        /// Nobody waited for the result any more.
        Late = "late",
        /// Not accepted for another reason.
        Refused = "refused",
        Malformed = "malformed",
        TooLong = "too_long",
        UnsupportedHeader = "unsupported_header",
        UnsupportedAlgorithm = "unsupported_algorithm",
        UnknownKey = "unknown_key",
        BadSignature = "bad_signature",
        Expired = "expired",
        NotYetValid = "not_yet_valid",
        WrongIssuer = "wrong_issuer",
        WrongAudience = "wrong_audience",
        MissingClaim = "missing_claim",
        /// A claim is not what it must be.
        BadClaim = "bad_claim",
        /// There are no keys to verify it with.
        KeysUnavailable = "keys_unavailable",
        /// An attempt without a token.
        NoToken = "no_token",
        /// An attempt too many.
        RateLimited = "rate_limited",
    }
}

/// Why a token was not accepted. Nothing of the token itself is in it but claim names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Not three parts of base64url (RFC 7515 §3.1), or their content is not the JSON it has to be.
    Malformed,
    /// Longer than `token_bytes_max`.
    TooLong,
    /// The header demands an extension (`crit`) that is not known here.
    UnsupportedHeader,
    /// No configured key has the header's algorithm; `none` is such a case.
    UnsupportedAlgorithm,
    /// No key has the header's `kid`.
    UnknownKey,
    /// The signature is not that of any key in question.
    BadSignature,
    /// `exp` is past, leeway included.
    Expired,
    /// `nbf` is in the future, leeway included.
    NotYetValid,
    /// `iss` is none of the configured ones.
    WrongIssuer,
    /// `aud` has none of the configured ones.
    WrongAudience,
    /// A claim that is needed is not there.
    MissingClaim(Arc<str>),
    /// A claim is of the wrong type.
    BadClaim(Arc<str>),
    /// The keys could not be fetched, or not for so long that the cached ones have expired: nothing
    /// is known about the token.
    KeysUnavailable,
}

impl TokenError {
    /// The result as a metric's label.
    #[must_use]
    pub const fn result(&self) -> TokenResult {
        match self {
            Self::Malformed => TokenResult::Malformed,
            Self::TooLong => TokenResult::TooLong,
            Self::UnsupportedHeader => TokenResult::UnsupportedHeader,
            Self::UnsupportedAlgorithm => TokenResult::UnsupportedAlgorithm,
            Self::UnknownKey => TokenResult::UnknownKey,
            Self::BadSignature => TokenResult::BadSignature,
            Self::Expired => TokenResult::Expired,
            Self::NotYetValid => TokenResult::NotYetValid,
            Self::WrongIssuer => TokenResult::WrongIssuer,
            Self::WrongAudience => TokenResult::WrongAudience,
            Self::MissingClaim(_) => TokenResult::MissingClaim,
            Self::BadClaim(_) => TokenResult::BadClaim,
            Self::KeysUnavailable => TokenResult::KeysUnavailable,
        }
    }

    /// Whether the token is at fault: `false` when the fault is on our side and must not count against the client.
    #[must_use]
    pub const fn is_tokens_fault(&self) -> bool {
        !matches!(self, Self::KeysUnavailable)
    }
}

/// For the log. A client is told less.
impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the token is not a JWT"),
            Self::TooLong => f.write_str("the token is longer than auth.token_bytes_max"),
            Self::UnsupportedHeader => f.write_str("the token's header demands an unknown extension (crit)"),
            Self::UnsupportedAlgorithm => f.write_str("no configured key has the token's algorithm"),
            Self::UnknownKey => f.write_str("no key has the token's key id (kid)"),
            Self::BadSignature => f.write_str("the token's signature is wrong"),
            Self::Expired => f.write_str("the token is expired (exp)"),
            Self::NotYetValid => f.write_str("the token is not valid yet (nbf)"),
            Self::WrongIssuer => f.write_str("the token's issuer (iss) is not one of its key's"),
            Self::WrongAudience => f.write_str("the token's audience (aud) is not one of its key's"),
            Self::MissingClaim(name) => write!(f, "the token lacks the claim `{name}`"),
            Self::BadClaim(name) => write!(f, "the token's claim `{name}` has the wrong type"),
            Self::KeysUnavailable => f.write_str("there are no keys: the JWKS could not be fetched"),
        }
    }
}

impl std::error::Error for TokenError {}
