//! Pure: why there is no connection to Pusher.

use crate::metrics::label::labels;

labels! {
    /// How a connection ended, or at which step there came to be none.
    pub enum LostCause: "cause" {
        /// TCP, or a proxy on the way.
        Connect = "connect",
        ConnectTimeout = "connect_timeout",
        Tls = "tls",
        Handshake = "handshake",
        /// Pusher said no.
        Rejected = "refused",
        Broken = "broken",
        /// Pusher closed it, and gave no code.
        Closed = "closed",
        /// With a code by which it is of no use to connect again the same way.
        Closed4000 = "closed_4000",
        /// With one that asks to wait.
        Closed4100 = "closed_4100",
        /// With one that asks to connect again at once.
        Closed4200 = "closed_4200",
        /// With another.
        ClosedOther = "closed_other",
        /// It delivers nothing any more.
        Deaf = "deaf",
        /// No pong came in time.
        PongTimeout = "pong_timeout",
        /// A write took too long.
        WriteTimeout = "write_timeout",
        /// The bridge left it, for the app's key has been replaced.
        Rotated = "rotated",
    }
}

impl LostCause {
    /// Of a close, or an error that comes before one.
    #[must_use]
    pub const fn of_close(code: Option<u16>) -> Self {
        match code {
            None => Self::Closed,
            Some(4000..=4099) => Self::Closed4000,
            Some(4100..=4199) => Self::Closed4100,
            Some(4200..=4299) => Self::Closed4200,
            Some(_) => Self::ClosedOther,
        }
    }
}

/// Why a connection ended, or did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub cause: LostCause,
    /// Pusher's code, when it gave one.
    pub code: Option<u16>,
    /// For the log, and fit for it.
    pub why: String,
}

impl End {
    /// Without a code.
    #[must_use]
    pub fn new(cause: LostCause, why: impl ToString) -> Self {
        Self { cause, code: None, why: why.to_string() }
    }

    /// Pusher closed the connection.
    #[must_use]
    pub fn closed(code: Option<u16>, why: String) -> Self {
        Self { cause: LostCause::of_close(code), code, why }
    }
}
