//! Every error code that a client can be told, in one place.

/// Why a client's message or token was not accepted. The code is the `error_code` of an error frame, or the
/// `error` of an `auth_error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Anything but `auth` before authentication.
    AuthRequired,
    /// The token is invalid or expired.
    InvalidToken,
    /// The token is good, but lacks a permission that the route asks for.
    MissingPermission,
    /// The token is good, but what the path names is not the user's.
    NotOwner,
    /// A renewal on a live connection named another user.
    OtherUser,
    /// No token can be judged at the moment: the keys cannot be fetched.
    Unavailable,
    /// Too many `auth` messages or wrong tokens.
    AuthRateLimited,
    /// Too many messages.
    RateLimited,
    /// Too many connections of this user.
    TooManyConnections,
    /// Too many connections of this client address.
    AddressLimit,
    /// The session is open elsewhere.
    SessionInUse,
    /// Too many in-band subscriptions.
    TooManySubscriptions,
    /// The text is not JSON.
    InvalidJson,
    /// JSON, but no object.
    NotAnObject,
    /// No `type`, or one that is no string.
    MissingType,
    /// A type that nothing here understands.
    UnknownType,
    /// A type that this route does not publish.
    NotPublished,
    /// A control message lacks a field, or has a value that is not acceptable.
    InvalidField,
    /// Too large to be carried.
    TooLarge,
    /// Nested too deeply.
    TooDeep,
    /// A binary message where text is expected.
    BinaryNotSupported,
    /// Pusher cannot be reached, or did not confirm in time.
    UpstreamUnavailable,
    /// Pusher refused.
    UpstreamRefused,
    /// The queue to Pusher is full.
    QueueFull,
    /// Events may have been missed.
    Gap,
    /// The endpoint is gone.
    EndpointGone,
    /// The origin is not allowed.
    OriginNotAllowed,
    /// Something failed here.
    Internal,
}

impl ErrorCode {
    /// Every code, for metrics that exist from the start and for configuration.
    pub const ALL: [Self; 28] = [
        Self::AuthRequired,
        Self::InvalidToken,
        Self::MissingPermission,
        Self::NotOwner,
        Self::OtherUser,
        Self::Unavailable,
        Self::AuthRateLimited,
        Self::RateLimited,
        Self::TooManyConnections,
        Self::AddressLimit,
        Self::SessionInUse,
        Self::TooManySubscriptions,
        Self::InvalidJson,
        Self::NotAnObject,
        Self::MissingType,
        Self::UnknownType,
        Self::NotPublished,
        Self::InvalidField,
        Self::TooLarge,
        Self::TooDeep,
        Self::BinaryNotSupported,
        Self::UpstreamUnavailable,
        Self::UpstreamRefused,
        Self::QueueFull,
        Self::Gap,
        Self::EndpointGone,
        Self::OriginNotAllowed,
        Self::Internal,
    ];

    /// The code on the wire, unless a dialect's `error_codes` renames it. The first two are the old server's.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthRequired => "WEBSOCKET_AUTH_REQUIRED",
            Self::InvalidToken => "INVALID_TOKEN",
            Self::MissingPermission => "MISSING_PERMISSION",
            Self::NotOwner => "NOT_OWNER",
            Self::OtherUser => "OTHER_USER",
            Self::Unavailable => "UNAVAILABLE",
            Self::AuthRateLimited => "AUTH_RATE_LIMITED",
            Self::RateLimited => "RATE_LIMITED",
            Self::TooManyConnections => "TOO_MANY_CONNECTIONS",
            Self::AddressLimit => "TOO_MANY_CONNECTIONS_FROM_ADDRESS",
            Self::SessionInUse => "SESSION_IN_USE",
            Self::TooManySubscriptions => "TOO_MANY_SUBSCRIPTIONS",
            Self::InvalidJson => "INVALID_JSON",
            Self::NotAnObject => "NOT_AN_OBJECT",
            Self::MissingType => "MISSING_TYPE",
            Self::UnknownType => "UNKNOWN_MESSAGE_TYPE",
            Self::NotPublished => "MESSAGE_TYPE_NOT_PUBLISHED",
            Self::InvalidField => "INVALID_FIELD",
            Self::TooLarge => "MESSAGE_TOO_LARGE",
            Self::TooDeep => "MESSAGE_TOO_DEEP",
            Self::BinaryNotSupported => "BINARY_NOT_SUPPORTED",
            Self::UpstreamUnavailable => "UPSTREAM_UNAVAILABLE",
            Self::UpstreamRefused => "UPSTREAM_REFUSED",
            Self::QueueFull => "QUEUE_FULL",
            Self::Gap => "EVENTS_MAY_BE_MISSING",
            Self::EndpointGone => "ENDPOINT_GONE",
            Self::OriginNotAllowed => "ORIGIN_NOT_ALLOWED",
            Self::Internal => "INTERNAL_ERROR",
        }
    }

    /// What the client is told beside the code. The first two are the old server's words.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::AuthRequired => "Authentication required for this WebSocket endpoint",
            Self::InvalidToken => "JWT token is invalid or expired",
            Self::MissingPermission => "The token lacks a permission that this endpoint requires",
            Self::NotOwner => "This endpoint's resource does not belong to the token's user",
            Self::OtherUser => "A live connection can be renewed only by a token of the same user",
            Self::Unavailable => "Tokens cannot be verified at the moment",
            Self::AuthRateLimited => "Too many authentication attempts",
            Self::RateLimited => "Too many messages",
            Self::TooManyConnections => "Too many connections of this user",
            Self::AddressLimit => "Too many connections from this address",
            Self::SessionInUse => "This session is open on another connection",
            Self::TooManySubscriptions => "Too many subscriptions on this connection",
            Self::InvalidJson => "The message is not JSON",
            Self::NotAnObject => "The message is not a JSON object",
            Self::MissingType => "The message has no type",
            Self::UnknownType => "The message's type is not known on this endpoint",
            Self::NotPublished => "Messages of this type are not accepted on this endpoint",
            Self::InvalidField => "A field of the message is missing or not acceptable",
            Self::TooLarge => "The message is too large to be carried",
            Self::TooDeep => "The message is nested too deeply",
            Self::BinaryNotSupported => "Binary messages are not accepted on this endpoint",
            Self::UpstreamUnavailable => "The message service cannot be reached at the moment",
            Self::UpstreamRefused => "The message service refused the message",
            Self::QueueFull => "Too many messages are waiting to be sent",
            Self::Gap => "Events may have been missed",
            Self::EndpointGone => "This endpoint has been switched off",
            Self::OriginNotAllowed => "Connections from this origin are not allowed",
            Self::Internal => "Something failed in the server",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_all_listed_and_distinct() {
        let names: std::collections::HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }
}
