//! What a close or error code from Pusher means for the connection (pusher-websockets-protocol.md, "Error
//! codes"; where it says nothing, what pusher-js does).

/// When to connect again after a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reconnect {
    /// Not without a change on either side: connecting again the same way fails the same way.
    NotUnchanged,
    /// After at least a second, and longer each time.
    Backoff,
    /// At once.
    Immediately,
}

impl Reconnect {
    /// The class of a close code, or of a `pusher:error` that came instead of `connection_established`;
    /// `None` when the connection broke without one.
    #[must_use]
    pub const fn after(code: Option<u16>) -> Self {
        match code {
            Some(4100..=4199) => Self::Backoff,
            Some(4200..=4299) => Self::Immediately,
            Some(4000..=u16::MAX) => Self::NotUnchanged,
            Some(_) | None => Self::Backoff,
        }
    }
}

/// What a code says, for a log; `None` for codes that Pusher does not document.
#[must_use]
pub const fn meaning(code: u16) -> Option<&'static str> {
    Some(match code {
        4000 => "the app accepts TLS connections only",
        4001 => "no app has this key on this cluster",
        4003 => "the app is disabled",
        4004 => "the app is over its connection quota",
        4005 => "the path is not Pusher's",
        4006 => "the client's version is malformed",
        4007 => "the protocol version is not supported",
        4008 => "no protocol version was given",
        4009 => "the connection is not authorized",
        4100 => "the server is over capacity",
        4200 => "the server asks to reconnect",
        4201 => "no pong was received in time",
        4202 => "the connection was inactive for too long",
        4301 => "client events come too fast",
        4302 => "the watchlist is too long",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_the_protocol_and_pusher_js() {
        use Reconnect::{Backoff, Immediately, NotUnchanged};
        for (code, expected) in [
            (None, Backoff),
            (Some(0), Backoff),
            (Some(1000), Backoff),
            (Some(1001), Backoff),
            (Some(1006), Backoff),
            (Some(3999), Backoff),
            (Some(4000), NotUnchanged),
            (Some(4004), NotUnchanged),
            (Some(4099), NotUnchanged),
            (Some(4100), Backoff),
            (Some(4199), Backoff),
            (Some(4200), Immediately),
            (Some(4299), Immediately),
            (Some(4300), NotUnchanged),
            (Some(4999), NotUnchanged),
            (Some(u16::MAX), NotUnchanged),
        ] {
            assert_eq!(Reconnect::after(code), expected, "{code:?}");
        }
    }

    #[test]
    fn documented_codes_have_a_meaning() {
        assert_eq!((4000..5000).filter(|code| meaning(*code).is_some()).count(), 15);
        assert_eq!(meaning(1000), None);
    }
}
