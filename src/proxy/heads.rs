//! Pure: the lines of an upstream's heads. hyper's client takes a bare LF for a line's end, as it may (RFC 9112 §2.2), and
//! where others do not, the client behind us would read another answer than was sent.

/// What a connection to an upstream brings, as far as it is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    at: At,
    /// Bytes of the line that is under way, as far as it matters.
    line: u8,
    after_return: bool,
    first: Status,
    is_wrong: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    Head,
    /// A body, or nothing: no more is looked at.
    #[default]
    Beyond,
}

/// A head's first bytes, which have its status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Status([u8; 12], u8);

impl Status {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.0.get_mut(usize::from(self.1)) {
            *place = byte;
            self.1 += 1;
        }
    }

    /// Whether nothing but the end of a line has come.
    const fn is_empty(self) -> bool {
        self.1 <= 1
    }

    /// Whether it announces another (RFC 9110 §15.2).
    const fn is_interim(self) -> bool {
        let [.., space, first, second, third] = self.0;
        matches!([space, first], [b' ', b'1']) && !matches!([second, third], [b'0', b'1'])
    }
}

impl Heads {
    /// A request is sent: what comes next is the head of its answer.
    pub fn expect(&mut self) {
        *self = Self { at: At::Head, ..Self::default() };
    }

    /// Whether a head of this connection had a line that ends with LF alone.
    #[must_use]
    pub const fn is_wrong(&self) -> bool {
        self.is_wrong
    }

    /// This came. Whether it is right so far.
    #[must_use]
    pub fn read(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if self.at == At::Beyond || self.is_wrong {
                break;
            }
            self.byte(*byte);
        }
        !self.is_wrong
    }

    fn byte(&mut self, byte: u8) {
        if byte != b'\n' {
            self.after_return = byte == b'\r';
            self.line = self.line.saturating_add(u8::from(byte != b'\r'));
            self.first.push(byte);
            return;
        }
        // An empty line before the first is skipped by some, and is the end for others.
        if !self.after_return || self.line == 0 && self.first.is_empty() {
            self.is_wrong = true;
        } else if self.line == 0 {
            if self.first.is_interim() {
                self.expect();
            } else {
                self.at = At::Beyond;
            }
            return;
        }
        (self.line, self.after_return) = (0, false);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWERS: [&str; 4] = [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na\nb\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 Not Found\r\nX: a\rb\r\n\r\nx\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n\n\n",
    ];

    #[test]
    fn no_line_is_empty_before_the_first() {
        let mut heads = Heads::default();
        heads.expect();
        assert!(!heads.read(b"\r\nHTTP/1.1 200 OK\nContent-Length: 5\n\nhello"));
    }

    proptest! {
        #[test]
        fn each_line_of_each_head_ends_with_cr_lf_however_it_comes(
            answer in 0..ANSWERS.len(),
            piece in 1_usize..40,
            broken in 0_usize..10,
        ) {
            let text = ANSWERS[answer];
            let read = |text: &str| {
                let mut heads = Heads::default();
                heads.expect();
                text.as_bytes().chunks(piece).all(|part| heads.read(part))
            };
            prop_assert!(read(text), "{text:?}");
            if let Some((at, _)) = text.match_indices("\r\n").nth(broken) {
                let broken = format!("{}{}", &text[..at], &text[at + 1..]);
                prop_assert!(!read(&broken), "{broken:?}");
            }
        }
    }

    #[test]
    fn nothing_is_looked_at_behind_a_head_until_another_is_expected() {
        let mut heads = Heads::default();
        assert!(heads.read(b"junk\n"));
        heads.expect();
        assert!(heads.read(b"HTTP/1.1 200 OK\r\n\r\nbody\n\n"));
        heads.expect();
        assert!(!heads.read(b"HTTP/1.1 200 OK\n") && heads.is_wrong());
    }
}
