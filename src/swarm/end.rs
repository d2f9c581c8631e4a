//! Pure: how a connection can end.

use std::fmt;

/// Why a client is no longer connected, or never was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// No connection was made, neither TCP nor TLS.
    Unreachable(String),
    /// The upgrade was answered with another status.
    Refused(u16),
    /// The server's close frame.
    Closed { code: u16, reason: String },
    /// It ended without one.
    Cut(String),
    /// The server said what cannot be understood, or not be lived with.
    Misspoken(String),
    /// The client's own will.
    Left,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "not connected: {why}"),
            Self::Refused(status) => write!(f, "upgrade refused: HTTP {status}"),
            Self::Closed { code, reason } => write!(f, "closed by the server: {code} {reason}"),
            Self::Cut(why) => write!(f, "the connection was cut: {why}"),
            Self::Misspoken(what) => f.write_str(what),
            Self::Left => f.write_str("it left"),
        }
    }
}

impl std::error::Error for End {}
