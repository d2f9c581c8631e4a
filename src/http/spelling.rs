//! Pure: header names as the RFCs spell them. HTTP does not care (RFC 9110 §5.1), but clients written by hand, in C,
//! Java or LabVIEW, compare `Sec-WebSocket-Accept` byte for byte; hyper writes names in lower case, or with each
//! word's first letter in upper case.

/// Names whose spelling is more than a capital for each word (RFC 6455 §11.3, RFC 9110 §11.6.1).
const SPECIAL: &[&str] = &[
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Version",
    "WWW-Authenticate",
    "ETag",
];

/// Spells the header names of a whole head, status line included. Its length stays the same.
pub(super) fn respell(head: &mut [u8]) {
    for line in head.split_mut(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, _) = line.split_at_mut(colon);
        if let Some(special) = SPECIAL.iter().find(|special| special.as_bytes().eq_ignore_ascii_case(name)) {
            name.copy_from_slice(special.as_bytes());
            continue;
        }
        let mut first = true;
        for byte in name {
            if first {
                byte.make_ascii_uppercase();
            }
            first = *byte == b'-';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_head_loses_a_byte(head in "[ -~\r\n:]{0,200}") {
            let mut spelled = head.clone().into_bytes();
            respell(&mut spelled);
            prop_assert!(spelled.eq_ignore_ascii_case(head.as_bytes()));
        }
    }
}
