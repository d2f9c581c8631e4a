//! Pure: why a token was not accepted.

use std::fmt;
use std::sync::Arc;

/// Why a token was not accepted. Nothing of the token itself is in it but claim names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
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
    /// `nbf` is to come, leeway included.
    NotYetValid,
    /// `iss` is none of the configured ones.
    WrongIssuer,
    /// `aud` has none of the configured ones.
    WrongAudience,
    /// A claim that is needed is not there.
    MissingClaim(Arc<str>),
    /// A claim is of the wrong type.
    BadClaim(Arc<str>),
    /// The keys could not be fetched, or not for so long that the kept ones are not believed any more: nothing
    /// is known about the token.
    KeysUnavailable,
}

impl Refused {
    /// The label in metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::UnsupportedHeader => "unsupported_header",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::UnknownKey => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::MissingClaim(_) => "missing_claim",
            Self::BadClaim(_) => "bad_claim",
            Self::KeysUnavailable => "keys_unavailable",
        }
    }

    /// Whether the token is to blame: `false` when the fault is on our side, and is not to be counted
    /// against the client.
    #[must_use]
    pub const fn is_tokens_fault(&self) -> bool {
        !matches!(self, Self::KeysUnavailable)
    }
}

/// For the log. A client is told less.
impl fmt::Display for Refused {
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

impl std::error::Error for Refused {}
