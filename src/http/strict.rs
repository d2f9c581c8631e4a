//! Pure: what a client sends, read beside hyper and more strictly, as it must be where it is passed on. Two who read
//! one stream of bytes must agree where a request ends (RFC 9112 §11.2): what some take in one way and some in
//! another is wrong here, even where hyper would make something of it.

/// Bytes of the chunk extensions of one body; nobody sends any.
const EXTENSION_BYTES_MAX: usize = 1024;
/// Bytes of the fields behind a chunked body.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Digits of a chunk's size: what a `u64` holds.
const SIZE_DIGITS_MAX: u8 = 16;
const END: &[u8] = b"\r\n\r\n";
/// Bytes of a head that are read at once. hyper gives a larger buffer to who fills its first one, of 8 KiB, and what has
/// begun a large head and sends no more is to cost no more than that.
const HEAD_READ_BYTES_MAX: usize = 8 * 1024 - 1;
/// Bytes of a body that are read at once: with fewer, a large one costs three times the system calls.
pub const BODY_READ_BYTES: usize = 64 * 1024;
/// Bytes of a part of a head, beyond which what is known to be harmless is not kept: hyper has it, too.
const COLLECTED_BYTES: usize = 1024;
/// Fields whose values are looked at.
const LOOKED_AT: &[&str] = &["connection", "content-length", "host", "transfer-encoding", "upgrade"];
/// Fields that `Connection` must not name: whoever takes them away changes what the request is, or whose.
const END_TO_END: &[&str] = &[
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "origin",
    "range",
    "transfer-encoding",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];
/// Fields that say how a message is to be read: behind its body they come too late.
const FRAMING: &[&str] =
    &["connection", "content-length", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"];

/// Why a request is not passed on.
pub type Wrong = &'static str;

/// What one connection's client sends.
#[derive(Debug)]
pub struct Strict {
    state: State,
    head_bytes_max: usize,
    /// Of the head that is under way; where no more is looked at, of what came since the last one's end was found.
    head_bytes: usize,
    /// Heads that are whole, and not wrong.
    heads: usize,
    /// From this request on, counted from 1, none can be told from the next.
    wrong: Option<(usize, Wrong)>,
}

#[derive(Debug)]
enum State {
    Head(Vec<u8>),
    /// So many bytes of a body are left.
    Body(u64),
    Chunked {
        at: Chunk,
        extension_bytes: usize,
    },
    /// Behind an upgrade, or something wrong: no more is looked at.
    Over,
}

#[derive(Debug)]
enum Chunk {
    Size { size: u64, digits: u8 },
    Extension { size: u64 },
    SizeEnd { size: u64 },
    Data(u64),
    DataEnd { is_line_feed: bool },
    Trailer(Vec<u8>),
}

const SIZE: Chunk = Chunk::Size { size: 0, digits: 0 };

/// What is behind a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    /// No HTTP any more, if it is granted; and if not, nothing.
    Upgrade,
}

impl Strict {
    /// Nothing has come yet.
    #[must_use]
    pub const fn new(head_bytes_max: usize) -> Self {
        Self { state: State::Head(Vec::new()), head_bytes_max, head_bytes: 0, heads: 0, wrong: None }
    }

    /// What is wrong with the `request`th, counted from 1, as far as it has come.
    #[must_use]
    pub fn wrong(&self, request: usize) -> Option<Wrong> {
        match self.wrong {
            Some((first, why)) if first <= request => Some(why),
            // hyper has found the end of a head where there is none.
            _ if self.heads < request && !matches!(self.state, State::Over) => {
                Some("its head does not end as a head does")
            }
            _ => None,
        }
    }

    /// How many bytes may be read at once for no head to become larger than it may be; 0: one is.
    #[must_use]
    pub fn room(&self) -> usize {
        let of_a_body =
            |left: u64| usize::try_from(left).map_or(BODY_READ_BYTES, |left| left.min(BODY_READ_BYTES));
        match self.state {
            State::Head(_) | State::Over => {
                self.head_bytes_max.saturating_sub(self.head_bytes).min(HEAD_READ_BYTES_MAX)
            }
            State::Body(left) => of_a_body(left),
            State::Chunked { at: Chunk::Data(left), .. } => of_a_body(left).max(self.head_bytes_max),
            State::Chunked { .. } => self.head_bytes_max,
        }
    }

    /// hyper has read the head of the `request`th, or waits for the next one.
    pub fn found(&mut self, request: usize) {
        if let Some(why) = self.wrong(request)
            && !matches!(self.state, State::Over)
        {
            // Where its end is not known here, neither is where the next one begins.
            self.wrong.get_or_insert((request, why));
            self.state = State::Over;
        }
        if matches!(self.state, State::Over) {
            self.head_bytes = 0;
        }
    }

    /// Whether no more is looked at.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Whether something of a head has come, but not all of it.
    #[must_use]
    pub const fn is_within_a_head(&self) -> bool {
        matches!(self.state, State::Head(_)) && self.head_bytes > 0
    }

    /// Whether more of a body is to come.
    #[must_use]
    pub const fn is_within_a_body(&self) -> bool {
        matches!(self.state, State::Body(_) | State::Chunked { .. })
    }

    /// More has come.
    pub fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.step(bytes) {
                Ok(used) => bytes = bytes.get(used..).unwrap_or(&[]),
                Err(why) => {
                    // A body belongs to the head before it.
                    let is_head = matches!(self.state, State::Head(_));
                    self.wrong = Some((self.heads + usize::from(is_head), why));
                    self.state = State::Over;
                }
            }
        }
    }

    /// Takes what it can of `bytes`: how many.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Wrong> {
        match &mut self.state {
            State::Over => {
                self.head_bytes = self.head_bytes.saturating_add(bytes.len());
                Ok(bytes.len())
            }
            State::Head(begun) => {
                let before = begun.len();
                let framing = if before == 0
                    && let Some(end) = end_of(bytes)
                {
                    let framing = head(bytes.get(..end).unwrap_or(&[]))?;
                    (framing, end)
                } else {
                    begun.extend_from_slice(bytes);
                    // It may have begun with the bytes before.
                    let from = before.saturating_sub(END.len() - 1);
                    let Some(end) = end_of(begun.get(from..).unwrap_or(&[])) else {
                        self.head_bytes += bytes.len();
                        if self.head_bytes > self.head_bytes_max {
                            return Err("its head is too large");
                        }
                        if begun.len() > COLLECTED_BYTES {
                            *begun = needed(begun)?;
                        }
                        return Ok(bytes.len());
                    };
                    let end = from + end;
                    let framing = head(begun.get(..end).unwrap_or(&[]))?;
                    (framing, end - before)
                };
                self.heads += 1;
                self.head_bytes = 0;
                self.state = match framing.0 {
                    Framing::Length(0) => State::Head(Vec::new()),
                    Framing::Length(length) => State::Body(length),
                    Framing::Chunked => State::Chunked { at: SIZE, extension_bytes: 0 },
                    Framing::Upgrade => State::Over,
                };
                Ok(framing.1)
            }
            State::Body(left) => {
                let used = taken(left, bytes);
                if *left == 0 {
                    self.state = State::Head(Vec::new());
                }
                Ok(used)
            }
            State::Chunked { at: Chunk::Data(left), .. } if *left > 0 => Ok(taken(left, bytes)),
            State::Chunked { at, extension_bytes } => {
                let byte = bytes.first().copied().unwrap_or(0);
                match chunk(at, extension_bytes, byte)? {
                    Some(next) => *at = next,
                    None => self.state = State::Head(Vec::new()),
                }
                Ok(1)
            }
        }
    }
}

/// Takes what belongs to a body of which so much is left.
fn taken(left: &mut u64, bytes: &[u8]) -> usize {
    let used = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    *left -= u64::try_from(used).unwrap_or(*left);
    used
}

/// One byte between the data of chunks (RFC 9112 §7.1); `None` behind the last.
fn chunk(at: &mut Chunk, extension_bytes: &mut usize, byte: u8) -> Result<Option<Chunk>, Wrong> {
    const ODD: Wrong = "a chunk's size is odd";
    Ok(Some(match at {
        Chunk::Size { size, digits } => match (char::from(byte).to_digit(16), byte) {
            (Some(digit), _) if *digits < SIZE_DIGITS_MAX => {
                Chunk::Size { size: *size << 4 | u64::from(digit), digits: *digits + 1 }
            }
            (None, b'\r') if *digits > 0 => Chunk::SizeEnd { size: *size },
            (None, b';') if *digits > 0 => Chunk::Extension { size: *size },
            _ => return Err(ODD),
        },
        Chunk::Extension { size } => {
            *extension_bytes += 1;
            match byte {
                b'\r' => Chunk::SizeEnd { size: *size },
                _ if *extension_bytes > EXTENSION_BYTES_MAX => {
                    return Err("its chunks have too many extensions");
                }
                b'\t' | b' '..=b'~' => Chunk::Extension { size: *size },
                _ => return Err(ODD),
            }
        }
        Chunk::SizeEnd { size } => match (byte, *size) {
            (b'\n', 0) => Chunk::Trailer(Vec::new()),
            (b'\n', size) => Chunk::Data(size),
            _ => return Err(ODD),
        },
        Chunk::Data(_) if byte == b'\r' => Chunk::DataEnd { is_line_feed: true },
        Chunk::DataEnd { is_line_feed: true } if byte == b'\n' => SIZE,
        Chunk::Data(_) | Chunk::DataEnd { .. } => return Err("a chunk is not as long as it says"),
        Chunk::Trailer(fields) => {
            fields.push(byte);
            if fields == b"\r\n" {
                return Ok(None);
            }
            if fields.ends_with(END) {
                for line in lines(fields.get(..fields.len() - END.len()).unwrap_or(&[])) {
                    let (name, _) = field(line)?;
                    if FRAMING.iter().any(|framing| name.eq_ignore_ascii_case(framing.as_bytes())) {
                        return Err("a field behind its body says how to read it");
                    }
                }
                return Ok(None);
            }
            if fields.len() > TRAILER_BYTES_MAX {
                return Err("the fields behind its body are too large");
            }
            Chunk::Trailer(std::mem::take(fields))
        }
    }))
}

/// Behind the end of a head.
fn end_of(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, END).map(|at| at + END.len())
}

/// Of a part of a head, what is needed when the rest has come.
fn needed(part: &[u8]) -> Result<Vec<u8>, Wrong> {
    let mut kept = Vec::new();
    let mut all = lines(part).peekable();
    // The first line, and what may be empty before it.
    let mut first = true;
    while let Some(line) = all.next() {
        let is_whole = all.peek().is_some();
        let colon = line.iter().position(|byte| *byte == b':');
        let name = colon.and_then(|colon| line.get(..colon));
        let is_looked_at = |name: &[u8]| {
            LOOKED_AT.iter().any(|known| name.trim_ascii().eq_ignore_ascii_case(known.as_bytes()))
        };
        match (name, colon) {
            (Some(name), Some(colon)) if !first && !is_looked_at(name) => {
                // What may yet be followed by what ends the line is not judged.
                let judged = if is_whole { line } else { line.strip_suffix(b"\r").unwrap_or(line) };
                field(judged)?;
                if !is_whole {
                    kept.extend_from_slice(line.get(..=colon).unwrap_or(&[]));
                    kept.extend_from_slice(line.get(judged.len()..).unwrap_or(&[]));
                }
            }
            _ => {
                kept.extend_from_slice(line);
                if is_whole {
                    kept.extend_from_slice(b"\r\n");
                }
            }
        }
        first &= line.is_empty();
    }
    Ok(kept)
}

/// Lines, without what ends them.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = text.windows(2).position(|two| two == b"\r\n");
        rest = end.and_then(|end| text.get(end + 2..));
        Some(end.and_then(|end| text.get(..end)).unwrap_or(text))
    })
}

/// A request's head, with its end.
fn head(bytes: &[u8]) -> Result<Framing, Wrong> {
    let bytes = bytes.strip_suffix(END).unwrap_or(bytes);
    // One empty line is forgiven, as old browsers sent one behind a body (RFC 9112 §2.2).
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let mut lines = lines(bytes);
    let (authority, is_1_1) = request_line(lines.next().unwrap_or(&[]))?;
    let (mut length, mut coding, mut host, mut upgrades) = (None, None, None, false);
    for line in lines {
        let (name, value) = field(line)?;
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("content-length") {
            if length.is_some() || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Err("its `Content-Length` is not one number");
            }
            let digits = std::str::from_utf8(value).ok().and_then(|digits| digits.parse::<u64>().ok());
            length = Some(digits.ok_or("its `Content-Length` is too large")?);
        } else if is("transfer-encoding") {
            if coding.is_some() || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("its `Transfer-Encoding` is not `chunked`, once");
            }
            coding = Some(());
        } else if is("host") {
            if host.is_some() || !is_host(value) {
                return Err("its `Host` is not one host");
            }
            host = Some(value);
        } else if is("connection") {
            let named = |option: &[u8]| {
                END_TO_END.iter().any(|field| option.trim_ascii().eq_ignore_ascii_case(field.as_bytes()))
            };
            if value.split(|byte| *byte == b',').any(named) {
                return Err("its `Connection` names a field that is not the connection's");
            }
        } else if is("upgrade") {
            upgrades = true;
        }
    }
    match (host, authority) {
        (None, _) if is_1_1 => return Err("it has no `Host`"),
        (Some(host), Some(authority)) if !host.eq_ignore_ascii_case(authority) => {
            return Err("its `Host` is not its target's");
        }
        _ => {}
    }
    match (length, coding) {
        (Some(_), Some(())) => Err("it has a `Content-Length` and a `Transfer-Encoding`"),
        (None, Some(())) if !is_1_1 => Err("HTTP/1.0 has no `Transfer-Encoding`"),
        (None, Some(())) => Ok(Framing::Chunked),
        (None | Some(0), None) if upgrades => Ok(Framing::Upgrade),
        (length, None) => Ok(Framing::Length(length.unwrap_or(0))),
    }
}

/// `METHOD SP TARGET SP HTTP/1.x` (RFC 9112 §3): the target's own authority, if it has one, and whether it is HTTP/1.1.
fn request_line(line: &[u8]) -> Result<(Option<&[u8]>, bool), Wrong> {
    const ODD: Wrong = "its first line is odd";
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(ODD);
    };
    let is_1_1 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err(ODD),
    };
    let is_visible = |byte: &u8| byte.is_ascii_graphic() && *byte != b'#';
    if !is_token(method) || target.is_empty() || !target.iter().all(is_visible) {
        return Err(ODD);
    }
    if target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS") {
        return Ok((None, is_1_1));
    }
    let scheme_end = target.windows(3).position(|three| three == b"://");
    let (scheme, rest) = match scheme_end.and_then(|at| Some((target.get(..at)?, target.get(at + 3..)?))) {
        Some(parts) if method != b"CONNECT" => parts,
        _ => return Err("its target is none of this server's"),
    };
    let authority = rest.split(|byte| matches!(byte, b'/' | b'?')).next().unwrap_or(&[]);
    let is_http = scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https");
    if !is_http || !is_host(authority) {
        return Err("its target is none of this server's");
    }
    Ok((Some(authority), is_1_1))
}

/// A field's name and value (RFC 9112 §5).
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Wrong> {
    if line.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)) {
        return Err("a field has control characters, or a line that does not end as lines do");
    }
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err("a field goes on in the next line");
    }
    let colon = line.iter().position(|byte| *byte == b':').ok_or("a field has no name")?;
    let (name, value) = line.split_at(colon);
    if !is_token(name) {
        return Err("a field's name is odd");
    }
    Ok((name, value.get(1..).unwrap_or(&[]).trim_ascii()))
}

/// RFC 9110 §5.6.2
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// A host and perhaps a port, checked only as far as junk requires; no user.
fn is_host(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:[]".contains(b))
}

#[cfg(test)]
mod tests;
