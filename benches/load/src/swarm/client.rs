//! One client: bytes in, counts and bytes out.

use std::io::{ErrorKind, Read, Write};

use mio::net::TcpStream;

use super::shared::{Shared, Turn};
use crate::event::{Id, Shape};
use crate::script::{Heard, Plan, Script};
use crate::{Result, socket, ws};

pub(super) struct Client {
    pub(super) socket: TcpStream,
    script: Script,
    phase: Phase,
    request: String,
    /// An incomplete frame or head.
    input: Vec<u8>,
    /// What the socket has not taken yet.
    output: Vec<u8>,
    /// The streams it must get, and the last sequence of each.
    streams: Box<[(u32, u32)]>,
    warm: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Upgrading,
    /// So many answers are missing.
    Greeting(usize),
    Ready,
}

/// What all clients of a worker share.
pub(super) struct Context<'a> {
    pub(super) shared: &'a Shared,
    pub(super) turn: &'a mut Turn,
    pub(super) verified: &'a mut Verified,
    pub(super) delays: &'a mut Vec<u64>,
}

impl Client {
    pub(super) fn open(plan: Plan) -> Result<Self> {
        Ok(Self {
            socket: socket::connect(plan.source, plan.target)?,
            request: ws::upgrade_request(&plan.path),
            script: plan.script,
            phase: Phase::Connecting,
            input: Vec::new(),
            output: Vec::new(),
            streams: plan.streams.into_iter().map(|stream| (stream, 0)).collect(),
            warm: false,
        })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    pub(super) fn writable(&mut self) -> Result<()> {
        if self.phase == Phase::Connecting {
            if let Some(error) = self.socket.take_error()? {
                return Err(error.into());
            }
            if self.socket.peer_addr().is_err() {
                return Ok(());
            }
            self.phase = Phase::Upgrading;
            let request = std::mem::take(&mut self.request);
            self.output.extend_from_slice(request.as_bytes());
        }
        self.flush()
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.extend_from_slice(bytes);
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(written) => drop(self.output.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.output = Vec::new();
        Ok(())
    }

    /// Reads what is there. `closed`: the end may follow at once, so a short read does not mean the last one.
    pub(super) fn readable(
        &mut self,
        closed: bool,
        scratch: &mut [u8],
        context: &mut Context<'_>,
    ) -> Result<()> {
        loop {
            match self.socket.read(scratch) {
                Ok(0) => return Err("the connection was closed".into()),
                Ok(length) => {
                    self.take(scratch.get(..length).unwrap_or_default(), context)?;
                    if length < scratch.len() && !closed {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Result<()> {
        if self.input.is_empty() {
            let used = self.digest(bytes, context)?;
            self.input.extend_from_slice(bytes.get(used..).unwrap_or_default());
        } else {
            let mut input = std::mem::take(&mut self.input);
            input.extend_from_slice(bytes);
            let used = self.digest(&input, context)?;
            if used < input.len() {
                input.drain(..used);
                self.input = input;
            }
        }
        Ok(())
    }

    /// Handles what is complete, and says how many bytes that was.
    fn digest(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Result<usize> {
        let now = context.shared.now();
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            if self.phase == Phase::Upgrading {
                let Some(end) = ws::head_end(rest) else { return Ok(used) };
                ws::check_upgrade(rest.get(..end).unwrap_or_default())?;
                used += end;
                self.upgraded(context)?;
            } else {
                let Some(frame) = ws::parse(rest)? else { return Ok(used) };
                used += frame.length;
                self.frame(&frame, now, context)?;
            }
        }
    }

    fn upgraded(&mut self, context: &mut Context<'_>) -> Result<()> {
        self.phase = Phase::Greeting(self.script.answers());
        let hello = self.script.hello().to_vec();
        self.greeted(0, context);
        self.send(&hello)
    }

    fn greeted(&mut self, answers: usize, context: &mut Context<'_>) {
        if let Phase::Greeting(missing) = self.phase {
            let missing = missing.saturating_sub(answers);
            self.phase = Phase::Greeting(missing);
            if missing == 0 {
                self.phase = Phase::Ready;
                context.turn.ready += 1;
            }
        }
    }

    fn frame(&mut self, frame: &ws::Frame<'_>, now: u64, context: &mut Context<'_>) -> Result<()> {
        match frame.opcode {
            ws::TEXT => match Id::find(frame.payload) {
                Some(id) => self.event(id, frame.payload, now, context),
                None => match self.script.hear(frame.payload)? {
                    Heard::Answer => {
                        self.greeted(1, context);
                        Ok(())
                    }
                    Heard::Reply(reply) => self.send(&reply),
                    Heard::Nothing => Ok(()),
                },
            },
            ws::PING => self.send(&ws::masked(ws::PONG, frame.payload)),
            ws::CLOSE => {
                let code = frame.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(frame.payload.get(2..).unwrap_or_default());
                Err(format!("closed by the server: {code} {reason}").into())
            }
            opcode => Err(format!("frame with opcode {opcode}").into()),
        }
    }

    fn event(&mut self, id: Id, payload: &[u8], now: u64, context: &mut Context<'_>) -> Result<()> {
        let Some((_, last)) = self.streams.iter_mut().find(|(stream, _)| *stream == id.stream) else {
            return Err(format!("got another's event: {id:?}").into());
        };
        context.verified.check(self.script.shape(), payload, id, context.shared.event_bytes)?;
        if id.sequence == 0 && *last == 0 {
            context.turn.warm += usize::from(!self.warm);
            self.warm = true;
            return Ok(());
        }
        if id.sequence != *last + 1 {
            return Err(format!("got event {} of stream {} after {last}", id.sequence, id.stream).into());
        }
        *last = id.sequence;
        context.turn.delivered += 1;
        context.turn.last = now;
        if context.delays.len() < DELAYS_MAX {
            context.delays.push(now.saturating_sub(context.shared.sent(id.sequence)));
        }
        Ok(())
    }
}

/// Frames that were checked field by field lately: the same frame for the next client is compared only.
pub(super) struct Verified(Vec<Option<(Id, Vec<u8>)>>);

impl Verified {
    pub(super) fn new() -> Self {
        Self(vec![None; VERIFIED_FRAMES])
    }

    fn check(&mut self, shape: Shape, payload: &[u8], id: Id, bytes: usize) -> Result<()> {
        // Neither the events of one stream nor one of each stream displace each other.
        let slot = (id.sequence as usize).wrapping_add(id.stream as usize * 50) % VERIFIED_FRAMES;
        let Some(slot) = self.0.get_mut(slot) else { return Ok(()) };
        if slot.as_ref().is_none_or(|(known, frame)| *known != id || frame != payload) {
            shape.check(payload, id, bytes)?;
            *slot = Some((id, payload.to_vec()));
        }
        Ok(())
    }
}

/// More than the events of one burst.
const VERIFIED_FRAMES: usize = 1_024;
/// Delays kept between two calls of `take_delays`, per worker: 64 MiB.
const DELAYS_MAX: usize = 8 << 20;
