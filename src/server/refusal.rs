//! Pure: every reason for which a request is not served, in one place: the label in metrics, the status and text of
//! its answer, when to come again, and the error code where a route tells it by a frame. (Why connections end that
//! were served is in `legacy/close.rs`; which heads hyper cannot read, all of them `malformed` here, in
//! `http/server.rs`, which serves other addresses as well.)

use std::borrow::Cow;

use crate::legacy::error::ErrorCode;
use crate::metrics::label::labels;

/// How long a client is asked to stay away, seconds, where waiting helps.
const RETRY_AFTER_S: u32 = 5;

labels! {
    /// Why a request is not served.
    pub enum Refusal: "reason" {
        /// No route has its path.
        UnknownPath = "unknown_path",
        /// A value in its path that no channel's name may have.
        BadPath = "bad_path",
        /// A value in its path that the route excludes.
        ExcludedValue = "excluded_value",
        /// Its values would select another kind of channel.
        ChannelKind = "channel_kind",
        /// No upgrade, or another one.
        UpgradeRequired = "upgrade_required",
        /// Not well-formed, or its upgrade is not.
        Malformed = "malformed",
        /// Origin not allowed.
        Origin = "origin",
        /// Too many connections from the address.
        AddressLimit = "address_limit",
        /// Too many connections at all.
        Overload = "overload",
        /// Past its sunset.
        Gone = "gone",
        /// Shutting down.
        Draining = "draining",
        /// To be passed on, by a connection that is older than the fallback: what came by it was not looked at.
        Outdated = "outdated",
        /// The old server, which serves its route, said something else than 101: that is passed on.
        Declined = "declined",
        /// The old server cannot be reached, or its answer cannot be read.
        ServerDown = "server_down",
        /// The old server does not answer in time.
        ServerLate = "server_late",
        /// Not there in time, or its answer not read.
        Timeout = "timeout",
        /// Not over when all connections were in use, and one of many of its address: a newcomer got its place.
        Displaced = "displaced",
    }
}

impl Refusal {
    /// The answer's status; `None` where the connection is cut without one, or it is not this server's.
    #[must_use]
    pub const fn status(self) -> Option<u16> {
        match self {
            Self::BadPath | Self::ExcludedValue | Self::ChannelKind | Self::Malformed => Some(400),
            Self::Origin => Some(403),
            Self::UnknownPath => Some(404),
            Self::Gone => Some(410),
            Self::UpgradeRequired => Some(426),
            Self::AddressLimit => Some(429),
            Self::ServerDown => Some(502),
            Self::Overload | Self::Draining | Self::Outdated => Some(503),
            Self::ServerLate => Some(504),
            Self::Declined | Self::Timeout | Self::Displaced => None,
        }
    }

    /// What the answer says where no more is known.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::UnknownPath => "no such endpoint",
            Self::BadPath => "the path has a value that is not acceptable",
            Self::ExcludedValue => "the path has a value that it must not have",
            Self::ChannelKind => "the path's values would select another kind of channel",
            Self::UpgradeRequired => "this endpoint speaks WebSocket only",
            Self::Malformed => "the request is malformed",
            Self::Origin => ErrorCode::OriginNotAllowed.message(),
            Self::AddressLimit => ErrorCode::AddressLimit.message(),
            Self::Overload => "too many connections",
            Self::Gone => ErrorCode::EndpointGone.message(),
            Self::Draining => "shutting down",
            Self::Outdated => {
                "this connection is older than the configuration that the request needs: connect again"
            }
            Self::Declined => "the server behind declined it",
            Self::ServerDown => "the server behind cannot be reached",
            Self::ServerLate => "the server behind has not answered in time",
            Self::Timeout => "the request took too long",
            Self::Displaced => "the place was needed",
        }
    }

    /// After how many seconds the client may try again; `None` where waiting changes nothing.
    #[must_use]
    pub const fn retry_after(self) -> Option<u32> {
        match self {
            Self::AddressLimit | Self::Overload | Self::Draining => Some(RETRY_AFTER_S),
            Self::Outdated => Some(0),
            Self::UnknownPath
            | Self::BadPath
            | Self::ExcludedValue
            | Self::ChannelKind
            | Self::UpgradeRequired
            | Self::Malformed
            | Self::Origin
            | Self::Gone
            | Self::Declined
            | Self::ServerDown
            | Self::ServerLate
            | Self::Timeout
            | Self::Displaced => None,
        }
    }

    /// What an upgraded connection is told, where the route tells refusals by a frame; `None` where they are told by
    /// HTTP all the same.
    #[must_use]
    pub const fn error_code(self) -> Option<ErrorCode> {
        match self {
            Self::Origin => Some(ErrorCode::OriginNotAllowed),
            Self::AddressLimit => Some(ErrorCode::AddressLimit),
            Self::Gone => Some(ErrorCode::EndpointGone),
            Self::UnknownPath
            | Self::BadPath
            | Self::ExcludedValue
            | Self::ChannelKind
            | Self::UpgradeRequired
            | Self::Malformed
            | Self::Overload
            | Self::Draining
            | Self::Outdated
            | Self::Declined
            | Self::ServerDown
            | Self::ServerLate
            | Self::Timeout
            | Self::Displaced => None,
        }
    }

    /// The refusal with all that is known of its cause.
    pub fn because(self, why: impl Into<Cow<'static, str>>) -> ExplainedRefusal {
        ExplainedRefusal { refusal: self, why: why.into() }
    }
}

/// A refusal and its cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedRefusal {
    pub refusal: Refusal,
    /// What the client and the log are told.
    pub why: Cow<'static, str>,
}

impl From<Refusal> for ExplainedRefusal {
    fn from(refusal: Refusal) -> Self {
        refusal.because(refusal.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_refusal_has_its_own_label_and_text() {
        let count = Refusal::ALL.len();
        assert_eq!(Refusal::ALL.iter().map(|refusal| refusal.label()).collect::<HashSet<_>>().len(), count);
        assert_eq!(Refusal::ALL.iter().map(|refusal| refusal.text()).collect::<HashSet<_>>().len(), count);
    }

    #[test]
    fn columns_agree() {
        for refusal in Refusal::ALL {
            let status = refusal.status();
            let later = matches!(status, Some(429 | 503));
            assert_eq!(refusal.retry_after().is_some(), later, "{refusal:?}: come later, and when");
            if let Some(code) = refusal.error_code() {
                assert_eq!(refusal.text(), code.message(), "{refusal:?}: one text, however it is told");
                assert!(status.is_some(), "{refusal:?}: a route that tells no frames has an answer");
            }
        }
    }
}
