//! Pure: until when a certificate is valid. Nothing else of it is read, and nothing is verified.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`: the version, where it is not the first.
const VERSION: u8 = 0xa0;

/// The second in which the certificate expires, Unix time; `None`: it is none (RFC 5280 §4.1).
#[must_use]
pub(super) fn not_after(certificate: &[u8]) -> Option<i64> {
    let (SEQUENCE, certificate, _) = element(certificate)? else { return None };
    let (SEQUENCE, mut fields, _) = element(certificate)? else { return None };
    if let (VERSION, _, rest) = element(fields)? {
        fields = rest;
    }
    // The serial number, the signature's algorithm and the issuer.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (SEQUENCE, validity, _) = element(fields)? else { return None };
    let (tag, time, _) = element(element(validity)?.2)?;
    seconds(tag, time)
}

/// The first element of DER (X.690 §8.1): its tag, what is in it, and what is behind it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (inner, behind) = rest.split_at_checked(length)?;
    Some((tag, inner, behind))
}

/// `YYMMDDHHMMSSZ` or, with four digits of the year, the same (RFC 5280 §4.1.2.5).
fn seconds(tag: u8, time: &[u8]) -> Option<i64> {
    let digits = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let year_digits = match (tag, digits.len()) {
        (UTC_TIME, 12) => 2,
        (GENERALIZED_TIME, 14) => 4,
        _ => return None,
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = digits.split_at_checked(year_digits)?;
    let year: i16 = year.parse().ok()?;
    let year = match (tag, year) {
        (UTC_TIME, 50..) => 1900 + year,
        (UTC_TIME, _) => 2000 + year,
        _ => year,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let time = DateTime::new(year, part(0)?, part(2)?, part(4)?, part(6)?, part(8)?, 0).ok()?;
    Some(TimeZone::UTC.to_timestamp(time).ok()?.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn until(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, month, day);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn its_end_is_found_however_it_is_written() {
        for (year, month, day) in [(1999, 12, 31), (2026, 2, 28), (2049, 12, 31), (2050, 1, 1), (4096, 1, 1)]
        {
            let expected = date_time_ymd(year, month, day).unix_timestamp();
            assert_eq!(not_after(&until(year, month, day)), Some(expected), "{year}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (GENERALIZED_TIME, "19700101000001Z", Some(1)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, "19700101000001Z", None),
            (UTC_TIME, "7001010000000", None),
            (UTC_TIME, "701301000000Z", None),
            (UTC_TIME, "+00101000000Z", None),
            (GENERALIZED_TIME, "19700101000001", None),
            (2, "700101000000Z", None),
        ] {
            assert_eq!(seconds(tag, text.as_bytes()), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_and_no_part_of_a_certificate_do_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cut in 0..600_usize,
            (at, byte) in (0..300_usize, any::<u8>()),
        ) {
            let _ = not_after(&bytes);
            let mut certificate = until(2030, 1, 1);
            prop_assert_eq!(not_after(&certificate[..cut.min(certificate.len() - 1)]), None);
            let at = at.min(certificate.len() - 1);
            certificate[at] = byte;
            let _ = not_after(&certificate);
        }
    }
}
