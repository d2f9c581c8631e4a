//! Pure: whether text that comes in pieces can still be UTF-8 (RFC 6455 §8.1).

/// Text up to the last piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8 {
    /// The first bytes of a character that was cut.
    partial: [u8; 4],
    partial_len: usize,
    invalid: bool,
}

impl Utf8 {
    /// Takes the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while self.partial_len > 0 && !self.invalid {
            let Some((&byte, rest)) = bytes.split_first() else { return };
            bytes = rest;
            let mut character = self.partial;
            if let Some(place) = character.get_mut(self.partial_len) {
                *place = byte;
            }
            let length = self.partial_len + 1;
            self.judge(character.get(..length).unwrap_or(&[]));
        }
        self.judge(bytes);
    }

    fn judge(&mut self, bytes: &[u8]) {
        self.partial_len = 0;
        if let Err(error) = std::str::from_utf8(bytes) {
            self.invalid |= error.error_len().is_some();
            let cut = bytes.get(error.valid_up_to()..).unwrap_or(&[]);
            for (place, byte) in self.partial.iter_mut().zip(cut) {
                *place = *byte;
                self.partial_len += 1;
            }
        }
    }

    /// Whether no continuation makes it UTF-8.
    #[must_use]
    pub const fn is_invalid(&self) -> bool {
        self.invalid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// After how many bytes of it a text is known to be invalid.
    fn found_after(bytes: &[u8], cut: usize) -> Option<usize> {
        let mut text = Utf8::default();
        let mut fed = 0;
        for piece in bytes.chunks(cut) {
            text.feed(piece);
            fed += piece.len();
            if text.is_invalid() {
                return Some(fed);
            }
        }
        None
    }

    #[test]
    fn it_is_found_at_the_first_impossible_byte() {
        for (bytes, after) in [
            (&b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xF4\x90\x80\x80edited"[..], Some(13)),
            (b"a\xFF", Some(2)),
            (b"a\x80", Some(2)),
            (b"\xC0\xAF", Some(1)),
            (b"\xED\xA0\x80", Some(2)),
            (b"\xE2\x82a", Some(3)),
            (b"\xF0\x9F\x98\x80", None),
            (b"\xF0\x9F\x98", None),
            (b"", None),
        ] {
            assert_eq!(found_after(bytes, 1), after, "{bytes:?}");
            assert_eq!(found_after(bytes, 100).is_some(), after.is_some(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_standard_library(
            text in prop::collection::vec(prop_oneof![9 => any::<char>().prop_map(String::from), 1 => Just("x".repeat(300))], 0..40),
            change in prop::option::weighted(0.5, (any::<prop::sample::Index>(), any::<u8>())),
            cut in 1_usize..600,
        ) {
            let mut bytes = text.concat().into_bytes();
            if let Some((at, byte)) = change && !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let invalid = std::str::from_utf8(&bytes).is_err_and(|error| error.error_len().is_some());
            prop_assert_eq!(found_after(&bytes, cut).is_some(), invalid);
        }
    }
}
