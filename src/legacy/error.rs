//! Every error code that a client can be told, in one place.

use crate::metrics::label::labels;

labels! {
    /// Why a client's message or token was not accepted. The code is the `error_code` of an error frame, or the
    /// `error` of an `auth_error`.
    pub enum ErrorCode: "code" {
        /// Anything but `auth` before authentication.
        AuthRequired = "WEBSOCKET_AUTH_REQUIRED",
        /// The token is invalid or expired.
        InvalidToken = "INVALID_TOKEN",
        /// The token is good, but lacks a permission that the route asks for.
        MissingPermission = "MISSING_PERMISSION",
        /// The token is good, but what the path names is not the user's.
        NotOwner = "NOT_OWNER",
        /// The user's id is none that a member may have.
        InvalidUserId = "INVALID_USER_ID",
        /// What is told of the user is more than Pusher takes.
        UserInfoTooLarge = "USER_INFO_TOO_LARGE",
        /// A renewal on a live connection named another user.
        OtherUser = "OTHER_USER",
        /// No token can be judged at the moment: the keys cannot be fetched.
        Unavailable = "UNAVAILABLE",
        /// Too many `auth` messages or wrong tokens.
        AuthRateLimited = "AUTH_RATE_LIMITED",
        /// Too many messages.
        RateLimited = "RATE_LIMITED",
        /// Too many connections of this user.
        TooManyConnections = "TOO_MANY_CONNECTIONS",
        /// Too many connections of this client address.
        AddressLimit = "TOO_MANY_CONNECTIONS_FROM_ADDRESS",
        /// The session is open elsewhere.
        SessionInUse = "SESSION_IN_USE",
        /// Too many in-band subscriptions.
        TooManySubscriptions = "TOO_MANY_SUBSCRIPTIONS",
        /// The text is not JSON.
        InvalidJson = "INVALID_JSON",
        /// JSON, but no object.
        NotAnObject = "NOT_AN_OBJECT",
        /// No `type`, or one that is no string.
        MissingType = "MISSING_TYPE",
        /// A type that nothing here understands.
        UnknownType = "UNKNOWN_MESSAGE_TYPE",
        /// A type that this route does not publish.
        NotPublished = "MESSAGE_TYPE_NOT_PUBLISHED",
        /// A control message lacks a field, or has a value that is not acceptable.
        InvalidField = "INVALID_FIELD",
        /// A value that this endpoint excludes.
        ValueExcluded = "VALUE_NOT_ALLOWED",
        /// The value would select another kind of channel.
        ChannelKind = "CHANNEL_KIND_NOT_ALLOWED",
        /// Too large to be carried.
        TooLarge = "MESSAGE_TOO_LARGE",
        /// Nested too deeply.
        TooDeep = "MESSAGE_TOO_DEEP",
        /// A binary message where text is expected.
        BinaryNotSupported = "BINARY_NOT_SUPPORTED",
        /// Pusher cannot be reached, or did not confirm in time.
        UpstreamUnavailable = "UPSTREAM_UNAVAILABLE",
        /// Pusher refused.
        UpstreamRefused = "UPSTREAM_REFUSED",
        /// Pusher does not accept the channel's signature.
        ChannelUnauthorized = "CHANNEL_UNAUTHORIZED",
        /// Pusher says that a limit is reached.
        ChannelQuota = "CHANNEL_QUOTA",
        /// Pusher has a feature switched off that the channel needs.
        ChannelFeatureOff = "CHANNEL_FEATURE_OFF",
        /// The channel has as many members as it may.
        ChannelFull = "CHANNEL_FULL",
        /// Pusher does not carry the channel, for another reason.
        ChannelRefused = "CHANNEL_REFUSED",
        /// A backend took the message, and its answer cannot be passed on.
        NoReply = "NO_REPLY",
        /// The queue to Pusher is full.
        QueueFull = "QUEUE_FULL",
        /// Events may have been missed.
        Gap = "EVENTS_MAY_BE_MISSING",
        /// An event of an encrypted channel could not be decrypted.
        Undecryptable = "EVENT_NOT_DECRYPTED",
        /// The endpoint is gone.
        EndpointGone = "ENDPOINT_GONE",
        /// The origin is not allowed.
        OriginNotAllowed = "ORIGIN_NOT_ALLOWED",
        /// Something failed here.
        Internal = "INTERNAL_ERROR",
    }
}

impl ErrorCode {
    /// The code on the wire, unless a dialect's `error_codes` renames it. The first two are the old server's.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.label()
    }

    /// What the client is told beside the code. The first two are the old server's words.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::AuthRequired => "Authentication required for this WebSocket endpoint",
            Self::InvalidToken => "JWT token is invalid or expired",
            Self::MissingPermission => "The token lacks a permission that this endpoint requires",
            Self::NotOwner => "This endpoint's resource does not belong to the token's user",
            Self::InvalidUserId => "The token's user has an id that the message service does not take",
            Self::UserInfoTooLarge => {
                "What the token says of its user is more than the message service takes"
            }
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
            Self::ValueExcluded => "This endpoint does not accept this value",
            Self::ChannelKind => "The value would select a channel of another kind",
            Self::TooLarge => "The message is too large to be carried",
            Self::TooDeep => "The message is nested too deeply",
            Self::BinaryNotSupported => "Binary messages are not accepted on this endpoint",
            Self::UpstreamUnavailable => "The message service cannot be reached at the moment",
            Self::UpstreamRefused => "The message service refused the message",
            Self::ChannelUnauthorized => "The message service does not authorize this channel",
            Self::ChannelQuota => "The message service has reached a limit for this channel",
            Self::ChannelFeatureOff => {
                "The message service has a feature switched off that this channel needs"
            }
            Self::ChannelFull => "This channel has as many members as it may have",
            Self::ChannelRefused => "The message service refused this channel",
            Self::NoReply => "The message was taken, but there is no answer that could be passed on",
            Self::QueueFull => "Too many messages are waiting to be sent",
            Self::Gap => "Events may have been missed",
            Self::Undecryptable => "An event could not be decrypted",
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
