//! Pure: the header of the PROXY protocol, versions 1 and 2, by which a proxy says whose connection it brings. The crate
//! `ppp` knows its form; here it is bounded, judged, and told from what is no header.

use std::net::{IpAddr, SocketAddr};

use ppp::v2::{Command, Protocol};
use ppp::{PartialResult, v1, v2};

use crate::metrics::label::labels;

/// Longest header of version 1, bytes, its end included (specification §2.1).
pub const TEXT_BYTES_MAX: usize = 107;
/// Longest header of version 2 that is taken, bytes: addresses, and what proxies put behind them. The form allows 64 KiB.
pub const BINARY_BYTES_MAX: usize = 4096;
/// Bytes of version 2 before what their last two say the length of (§2.2).
const BINARY_FIXED_BYTES: usize = 16;
/// A checksum of the whole header (§2.2.1, `PP2_TYPE_CRC32C`).
const CRC32C: u8 = 3;

labels! {
    /// Why a connection is closed before it is heard.
    pub enum Unannounced: "reason" {
        /// The peer is no trusted proxy.
        Untrusted = "untrusted",
        /// It begins with something else.
        Missing = "missing",
        /// It is not well-formed.
        Malformed = "malformed",
        /// It is longer than it may be.
        TooLong = "too_long",
        /// Its checksum is another.
        Checksum = "checksum",
        /// It is of something else than a TCP connection.
        Protocol = "protocol",
        /// It was not whole in time.
        Timeout = "timeout",
        /// The peer ended the connection.
        Closed = "closed",
    }
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// This client's.
    Client(SocketAddr),
    /// The proxy's own, a health check perhaps.
    Peer,
    /// The proxy cannot say whose, or it is one of its own machine's.
    Unknown,
}

/// What to do with the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More of the header must come.
    More(Want),
    /// The header is whole, and was all that there is.
    Done(Announced),
    Refused(Unannounced),
}

/// What may be read, so that nothing is of what follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// At most so many bytes.
    Bytes(usize),
    /// The same, and no further than a line's end.
    Line(usize),
}

impl Want {
    /// The most.
    #[must_use]
    pub const fn bytes_max(self) -> usize {
        match self {
            Self::Bytes(max) | Self::Line(max) => max,
        }
    }

    /// How much of what is there.
    #[must_use]
    pub fn of(self, there: &[u8]) -> usize {
        let line = there.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        match self {
            Self::Bytes(max) => there.len().min(max),
            Self::Line(max) => line.unwrap_or(there.len()).min(max),
        }
    }
}

/// Looks at a header's first bytes: all that were read, and no more than it asked for.
#[must_use]
pub fn step(bytes: &[u8]) -> Step {
    let begins = |prefix: &[u8]| bytes.iter().zip(prefix).all(|(byte, expected)| byte == expected);
    if bytes.is_empty() {
        // Version 2 has a line's end in its first bytes.
        Step::More(Want::Line(TEXT_BYTES_MAX))
    } else if begins(v2::PROTOCOL_PREFIX) {
        binary(bytes)
    } else if begins(v1::PROTOCOL_PREFIX.as_bytes()) {
        text(bytes)
    } else {
        Step::Refused(Unannounced::Missing)
    }
}

fn text(bytes: &[u8]) -> Step {
    if !bytes.ends_with(b"\n") {
        return match TEXT_BYTES_MAX - bytes.len().min(TEXT_BYTES_MAX) {
            0 => Step::Refused(Unannounced::TooLong),
            left => Step::More(Want::Line(left)),
        };
    }
    match v1::Header::try_from(bytes) {
        // The crate stops at the first carriage return, and behind `UNKNOWN` takes a space for one.
        Ok(header) if header.header.len() == bytes.len() && bytes.ends_with(b"\r\n") => {
            match header.addresses {
                v1::Addresses::Tcp4(of) => client(of.source_address.into(), of.source_port),
                v1::Addresses::Tcp6(of) => client(of.source_address.into(), of.source_port),
                v1::Addresses::Unknown => Step::Done(Announced::Unknown),
            }
        }
        _ => Step::Refused(Unannounced::Malformed),
    }
}

fn binary(bytes: &[u8]) -> Step {
    let Some(length) = bytes.get(BINARY_FIXED_BYTES - 2..BINARY_FIXED_BYTES) else {
        return Step::More(Want::Bytes(BINARY_FIXED_BYTES - bytes.len()));
    };
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let whole = BINARY_FIXED_BYTES + length;
    if whole > BINARY_BYTES_MAX {
        return Step::Refused(Unannounced::TooLong);
    }
    let header = v2::Header::try_from(bytes);
    if header.is_incomplete() {
        return Step::More(Want::Bytes(whole - bytes.len()));
    }
    let Ok(header) = header else { return Step::Refused(Unannounced::Malformed) };
    if let Err(why) = checked(&header) {
        return Step::Refused(why);
    }
    if header.command == Command::Local {
        return Step::Done(Announced::Peer);
    }
    match (header.addresses, header.protocol) {
        (v2::Addresses::IPv4(of), Protocol::Stream) => client(of.source_address.into(), of.source_port),
        (v2::Addresses::IPv6(of), Protocol::Stream) => client(of.source_address.into(), of.source_port),
        (v2::Addresses::Unix(_), Protocol::Stream) | (v2::Addresses::Unspecified, Protocol::Unspecified) => {
            Step::Done(Announced::Unknown)
        }
        _ => Step::Refused(Unannounced::Protocol),
    }
}

const fn client(address: IpAddr, port: u16) -> Step {
    Step::Done(Announced::Client(SocketAddr::new(address, port)))
}

/// What is behind the addresses has its form, and the checksum, if there is one, is that of the header with zeros in its
/// place.
fn checked(header: &v2::Header<'_>) -> Result<(), Unannounced> {
    let all = header.as_bytes();
    let mut at = all.len() - header.tlv_bytes().len();
    while at < all.len() {
        let fixed = all.get(at..at + 3).ok_or(Unannounced::Malformed)?;
        let [kind, high, low] = fixed else { return Err(Unannounced::Malformed) };
        let value = at + 3..at + 3 + usize::from(u16::from_be_bytes([*high, *low]));
        let said = all.get(value.clone()).ok_or(Unannounced::Malformed)?;
        if *kind == CRC32C {
            let said: [u8; 4] = said.try_into().map_err(|_| Unannounced::Malformed)?;
            let zeroed = all.iter().enumerate().map(|(at, byte)| if value.contains(&at) { 0 } else { *byte });
            if crc32c(zeroed) != u32::from_be_bytes(said) {
                return Err(Unannounced::Checksum);
            }
        }
        at = value.end;
    }
    Ok(())
}

/// RFC 4960, appendix B: Castagnoli's polynomial, bits reflected.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    !bytes.fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (POLYNOMIAL & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests;
