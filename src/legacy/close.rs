//! Every reason a connection ends for, in one place: the close code and text on the wire, and the label in
//! logs and metrics.

use crate::metrics::label::labels;

labels! {
    /// Why a connection ended.
    pub enum CloseReason: "reason" {
        /// The client sent a close frame.
        ByClient = "by_client",
        /// The connection broke without a close frame.
        Lost = "lost",
        /// The server behind, which serves the route, sent a close frame.
        ByServer = "by_server",
        /// The connection to that server broke without a close frame.
        ServerLost = "server_lost",
        /// This server is shutting down.
        GoingAway = "going_away",
        /// The client broke the WebSocket protocol.
        Protocol = "protocol_error",
        /// A text message was not UTF-8.
        NotUtf8 = "not_utf8",
        /// A message was larger than the route allows.
        TooBig = "too_big",
        /// No valid token came in time.
        AuthDeadline = "auth_deadline",
        /// Too many wrong tokens.
        AuthFailures = "auth_failures",
        /// The token expired and was not renewed.
        TokenExpired = "token_expired",
        /// Too many control frames or pongs.
        ControlFlood = "control_flood",
        /// The client did not read fast enough.
        SlowReader = "slow_reader",
        /// Too much is held in memory for all clients together, and this one holds much.
        Overload = "overload",
        /// Nothing was heard from the client for too long.
        Silent = "silent",
        /// Another connection took its slot.
        Replaced = "replaced",
        /// A backend had the user's connections closed.
        Terminated = "terminated",
        /// Upstream events may have been missed, and the route asks for a close.
        Gap = "gap",
        /// An event could not be decrypted, and the route asks for a close.
        Undecryptable = "undecryptable",
        /// Its route was changed in what it cannot take over, or is gone.
        RouteChanged = "route_changed",
        /// Refused after the upgrade, as the route asks for.
        Refused = "refused",
        /// A defect here.
        Internal = "internal",
    }
}

impl CloseReason {
    /// The close code (RFC 6455 §7.4.1) this server sends; `None` where it sends none of its own.
    #[must_use]
    pub const fn code(self) -> Option<u16> {
        match self {
            Self::ByClient | Self::Lost | Self::ByServer | Self::ServerLost => None,
            Self::GoingAway | Self::Gap | Self::Undecryptable | Self::RouteChanged | Self::Silent => {
                Some(1001)
            }
            Self::Protocol => Some(1002),
            Self::NotUtf8 => Some(1007),
            Self::AuthDeadline
            | Self::AuthFailures
            | Self::TokenExpired
            | Self::ControlFlood
            | Self::SlowReader
            | Self::Replaced
            | Self::Terminated
            | Self::Refused => Some(1008),
            Self::TooBig => Some(1009),
            Self::Internal => Some(1011),
            // IANA's registry of close codes: Try Again Later.
            Self::Overload => Some(1013),
        }
    }

    /// The reason text in the close frame; at most 123 bytes (RFC 6455 §5.5).
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::ByClient | Self::Lost | Self::ByServer | Self::ServerLost => "",
            Self::GoingAway => "server going away, reconnect",
            Self::Protocol => "WebSocket protocol error",
            Self::NotUtf8 => "text message is not UTF-8",
            Self::TooBig => "message too big",
            Self::AuthDeadline => "no valid token in time",
            Self::AuthFailures => "too many wrong tokens",
            Self::TokenExpired => "token expired",
            Self::ControlFlood => "too many control frames",
            Self::SlowReader => "reading too slowly",
            Self::Overload => "too much is waiting, try again later",
            Self::Silent => "nothing heard for too long",
            Self::Replaced => "replaced by a newer connection",
            Self::Terminated => "terminated",
            Self::Gap => "events may be missing, reconnect",
            Self::Undecryptable => "an event could not be decrypted, reconnect",
            Self::RouteChanged => "route changed, reconnect",
            Self::Refused => "refused",
            Self::Internal => "internal error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_and_texts_fit() {
        let labels: std::collections::HashSet<_> = CloseReason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), CloseReason::ALL.len());
        assert!(CloseReason::ALL.iter().all(|r| r.text().len() <= 123));
    }
}
