//! One connection of one client: bytes in, messages to its crew, bytes out.

use std::io::{self, ErrorKind};
use std::time::Instant;

use super::out::Said;
use super::socket::{self, Link};
use super::{Crew, Dial, End, Out, ws};

/// Largest head of an answer, bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

pub(super) struct Conn {
    pub(super) link: Link,
    phase: Phase,
    request: String,
    /// An incomplete frame or head.
    input: Vec<u8>,
    /// A message of which more is to come.
    message: Option<Vec<u8>>,
    /// What the socket has not taken yet.
    output: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Upgrading,
    Open,
    /// The client's close frame is under way.
    Closing,
}

/// Nanoseconds since then.
pub(super) fn since(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Conn {
    pub(super) fn open(dial: Dial) -> io::Result<Self> {
        Ok(Self {
            link: Link::new(socket::connect(dial.source, dial.target)?, dial.secured)?,
            phase: Phase::Connecting,
            request: dial.request,
            input: Vec::new(),
            message: None,
            output: Vec::new(),
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// What it means that the time for what it does is over, if it does anything that has a time.
    pub(super) fn overdue(&self) -> Option<End> {
        match self.phase {
            Phase::Connecting | Phase::Upgrading => Some(End::Unreachable("no answer in time".to_owned())),
            Phase::Open => None,
            Phase::Closing => Some(End::Left),
        }
    }

    pub(super) fn writable(&mut self) -> Result<(), End> {
        if self.phase == Phase::Connecting {
            if let Some(error) = self.link.socket().take_error().unwrap_or_else(Some) {
                return Err(End::Unreachable(error.to_string()));
            }
            if self.link.socket().peer_addr().is_err() {
                return Ok(());
            }
            self.phase = Phase::Upgrading;
            self.output = std::mem::take(&mut self.request).into_bytes();
        }
        self.flush()
    }

    /// Has the crew act on an open connection.
    pub(super) fn act(
        &mut self,
        now: u64,
        said: &mut Said,
        act: impl FnOnce(&mut Out<'_>),
    ) -> Result<(), End> {
        act(&mut Out { now, bytes: &mut self.output, said });
        self.flush()?;
        self.heed(said)
    }

    fn heed(&mut self, said: &Said) -> Result<(), End> {
        if said.closes {
            self.phase = Phase::Closing;
        }
        if said.leaves { Err(End::Left) } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), End> {
        self.link.flush().map_err(|error| self.failed(&error))?;
        if self.output.is_empty() {
            return Ok(());
        }
        let mut written = 0;
        while let Some(rest @ [_, ..]) = self.output.get(written..) {
            match self.link.write(rest) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.output.drain(..written);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
        self.output = Vec::new();
        Ok(())
    }

    /// What it means that the socket, or TLS, has failed.
    fn failed(&self, error: &io::Error) -> End {
        match self.phase {
            Phase::Connecting | Phase::Upgrading => End::Unreachable(error.to_string()),
            Phase::Open => End::Cut(error.to_string()),
            Phase::Closing => End::Left,
        }
    }

    /// Reads what is there. `closed`: the end may follow at once, so a short read does not mean the last one.
    pub(super) fn readable<C: Crew>(
        &mut self,
        closed: bool,
        scratch: &mut [u8],
        (crew, client, said): (&mut C, &mut C::Client, &mut Said),
        epoch: Instant,
    ) -> Result<(), End> {
        loop {
            match self.link.read(scratch) {
                Ok(0) => return Err(self.failed(&ErrorKind::UnexpectedEof.into())),
                Ok(length) => {
                    let mut hearing = Hearing { crew, client, said, now: since(epoch) };
                    self.take(scratch.get(..length).unwrap_or_default(), &mut hearing)?;
                    if length < scratch.len() && !closed && self.link.is_plain() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }

    fn take<C: Crew>(&mut self, bytes: &[u8], hearing: &mut Hearing<'_, C>) -> Result<(), End> {
        if self.input.is_empty() {
            let used = self.digest(bytes, hearing)?;
            self.input.extend_from_slice(bytes.get(used..).unwrap_or_default());
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(bytes);
            let used = self.digest(&input, hearing)?;
            if used < input.len() {
                input.drain(..used);
                self.input = input;
            }
        }
        if self.output.is_empty() {
            return Ok(());
        }
        self.flush()
    }

    /// Handles what is complete, and says how many bytes that was.
    fn digest<C: Crew>(&mut self, bytes: &[u8], hearing: &mut Hearing<'_, C>) -> Result<usize, End> {
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            if self.phase == Phase::Upgrading {
                let Some(end) = ws::head_end(rest) else {
                    let is_too_long = rest.len() > HEAD_BYTES_MAX;
                    return if is_too_long {
                        Err(End::Misspoken("the answer has no end".into()))
                    } else {
                        Ok(used)
                    };
                };
                ws::check_upgrade(rest.get(..end).unwrap_or_default())?;
                used += end;
                self.phase = Phase::Open;
                let mut out = Out { now: hearing.now, bytes: &mut self.output, said: hearing.said };
                hearing.crew.opened(hearing.client, &mut out);
                self.heed(hearing.said)?;
            } else {
                let Some(frame) = ws::parse(rest).map_err(End::Misspoken)? else { return Ok(used) };
                used += frame.length;
                self.frame(&frame, hearing)?;
            }
        }
    }

    fn frame<C: Crew>(&mut self, frame: &ws::Frame<'_>, hearing: &mut Hearing<'_, C>) -> Result<(), End> {
        match (frame.opcode, frame.is_last, &mut self.message) {
            (ws::TEXT, true, None) => self.text(frame.payload, hearing),
            (ws::TEXT, false, None) => {
                self.message = Some(frame.payload.to_vec());
                Ok(())
            }
            (ws::CONTINUATION, is_last, Some(message)) => {
                if message.len() + frame.payload.len() > ws::MESSAGE_BYTES_MAX {
                    return Err(End::Misspoken("a message without end".into()));
                }
                message.extend_from_slice(frame.payload);
                match is_last.then(|| self.message.take()).flatten() {
                    Some(message) => self.text(&message, hearing),
                    None => Ok(()),
                }
            }
            (ws::PING, true, _) => {
                ws::mask_into(&mut self.output, ws::PONG, frame.payload);
                Ok(())
            }
            (ws::PONG, true, _) => Ok(()),
            (ws::CLOSE, true, _) => {
                if self.phase == Phase::Closing {
                    return Err(End::Left);
                }
                ws::mask_into(&mut self.output, ws::CLOSE, frame.payload.get(..2).unwrap_or_default());
                // Whether it is taken is of no consequence.
                let _ = self.flush();
                Err(ws::closed(frame.payload))
            }
            (opcode, ..) => Err(End::Misspoken(format!("a frame with opcode {opcode} out of place"))),
        }
    }

    fn text<C: Crew>(&mut self, text: &[u8], hearing: &mut Hearing<'_, C>) -> Result<(), End> {
        let mut out = Out { now: hearing.now, bytes: &mut self.output, said: hearing.said };
        hearing.crew.text(hearing.client, text, &mut out).map_err(End::Misspoken)?;
        self.heed(hearing.said)
    }
}

/// Who hears what comes.
struct Hearing<'a, C: Crew> {
    crew: &'a mut C,
    client: &'a mut C::Client,
    said: &'a mut Said,
    now: u64,
}
