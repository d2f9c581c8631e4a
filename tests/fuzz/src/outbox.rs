//! The outbox, before a socket that takes as much as it likes.

use std::io::{self, IoSlice};

use bytes::Bytes;
use pusher_bridge::websocket::outbox::{Bounds, Flushed, Opcode, Outbox, Pushed, encode_close, encode_frame};

use super::input::Input;

const STEPS_MAX: usize = 400;

/// A socket by the fuzzer: it takes a part, nothing for now, is interrupted, or breaks.
struct Socket {
    room: usize,
    /// Most bytes in one write.
    mouthful: usize,
    interrupts: bool,
    broken: bool,
    got: Vec<u8>,
}

impl Socket {
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(slices.len() <= 1024, "more than the system takes");
        assert!(slices.iter().any(|slice| !slice.is_empty()), "an empty write says nothing");
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if std::mem::take(&mut self.interrupts) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = self.got.len();
        for slice in slices {
            let part = slice.len().min(self.room).min(self.mouthful - (self.got.len() - before));
            self.got.extend_from_slice(&slice[..part]);
            self.room -= part;
        }
        Ok(self.got.len() - before)
    }
}

/// What must have left, or wait, after all that was accepted.
#[derive(Default)]
struct Model {
    /// Accepted bytes, in order.
    bytes: Vec<u8>,
    /// Where each accepted frame ends in them.
    ends: Vec<usize>,
    largest: usize,
    shut: bool,
    overflowed: bool,
    /// Bytes that left, as far as they were compared.
    compared: usize,
}

impl Model {
    fn accept(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.ends.push(self.bytes.len());
        self.largest = self.largest.max(frame.len());
    }

    /// Frames and bytes that wait when so many bytes have left.
    fn waiting(&self, gone: usize) -> (usize, usize) {
        (self.ends.len() - self.whole(gone), self.bytes.len() - gone)
    }

    /// Frames that have left whole.
    fn whole(&self, gone: usize) -> usize {
        self.ends.partition_point(|end| *end <= gone)
    }

    /// Whole frames only: those that are gone, and the one under way.
    fn drop_waiting(&mut self, gone: usize) {
        let before = self.ends[..self.whole(gone)].last().copied().unwrap_or(0);
        let kept = self.whole(gone) + usize::from(gone > before);
        self.ends.truncate(kept);
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let bounds = Bounds { frames_max: 1 + input.below(70), bytes_max: 1 + input.number() % 600 };
    let mut outbox = Outbox::new(bounds);
    let mut socket =
        Socket { room: 0, mouthful: usize::MAX, interrupts: false, broken: false, got: Vec::new() };
    let mut model = Model::default();
    let mut next: u8 = 0;
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let op = input.byte();
        match op % 10 {
            0..=4 => {
                next = next.wrapping_add(1);
                let frame = Bytes::from(encode_frame(Opcode::Binary, &vec![next; frame_length(&mut input)]));
                let waiting = model.waiting(socket.got.len());
                let (pushed, tried) = match op % 10 {
                    0..=2 => (outbox.push(frame.clone(), |slices| socket.write(slices)), true),
                    3 => {
                        outbox.make_room(frame.len(), |slices| socket.write(slices));
                        (outbox.queue_only(frame.clone()), true)
                    }
                    _ => (outbox.queue_only(frame.clone()), false),
                };
                match pushed {
                    Pushed::Written => assert!(outbox.is_empty()),
                    Pushed::Queued => assert!(!outbox.is_empty()),
                    Pushed::Overflow if !model.overflowed => {
                        let (frames, bytes) = waiting;
                        assert!(frames > 0, "one frame always fits");
                        assert!(frames >= bounds.frames_max || bytes + frame.len() > bounds.bytes_max);
                        assert!(!tried || socket.room == 0, "a reader that takes everything is not slow");
                    }
                    Pushed::Overflow => {}
                    Pushed::Closed => assert!(model.shut || outbox.broken()),
                }
                match pushed {
                    Pushed::Written | Pushed::Queued => {
                        assert!(!model.shut && !model.overflowed);
                        model.accept(&frame);
                    }
                    Pushed::Overflow => model.overflowed = true,
                    Pushed::Closed => {}
                }
            }
            5 => match outbox.flush(|slices| socket.write(slices)) {
                Flushed::Empty => assert!(outbox.is_empty()),
                Flushed::Blocked => assert!(socket.room == 0 && !outbox.is_empty()),
                Flushed::Broken => assert!(outbox.broken()),
            },
            6 => socket.room += input.number() % 2048,
            7 => socket.mouthful = 1 + input.number() % 900,
            8 => match input.below(16) {
                0 => socket.broken = true,
                1 => {
                    outbox.give_up();
                    model.overflowed |= !model.shut && !outbox.broken();
                }
                2 | 3 => finish(&mut outbox, &mut model, &socket),
                _ => socket.interrupts = true,
            },
            _ => socket.room = 0,
        }
        check(&outbox, &mut model, &socket, bounds);
    }
    // However it went, what was accepted leaves in the end.
    socket.room = usize::MAX / 2;
    let flushed = outbox.flush(|slices| socket.write(slices));
    if !outbox.broken() {
        assert_eq!(flushed, Flushed::Empty);
        assert_eq!(socket.got, model.bytes, "every accepted byte, once and in order");
        assert_eq!(outbox.bytes_out, outbox.taken());
    }
}

fn frame_length(input: &mut Input<'_>) -> usize {
    match input.byte() {
        length @ 0..=249 => usize::from(length) % 60,
        _ => input.number() % 1500,
    }
}

fn finish(outbox: &mut Outbox, model: &mut Model, socket: &Socket) {
    let last = Bytes::from(encode_close(1001, "server going away, reconnect"));
    if !outbox.broken() && !model.shut {
        if model.overflowed {
            model.drop_waiting(socket.got.len());
        }
        model.accept(&last);
        model.shut = true;
    }
    outbox.finish(last);
}

fn check(outbox: &Outbox, model: &mut Model, socket: &Socket, bounds: Bounds) {
    assert_eq!(outbox.taken(), socket.got.len() as u64);
    if outbox.broken() {
        return assert!(outbox.is_empty() && socket.broken);
    }
    let gone = socket.got.len();
    assert!(gone <= model.bytes.len(), "more left than was accepted");
    assert_eq!(socket.got[model.compared..], model.bytes[model.compared..gone], "in order, and as it came");
    model.compared = gone;
    let (frames, bytes) = model.waiting(gone);
    assert_eq!(outbox.is_empty(), bytes == 0);
    assert_eq!(outbox.overflowed(), model.overflowed && !model.shut);
    // The last frame comes on top, and one frame may always wait.
    let extra = usize::from(model.shut);
    assert!(frames <= bounds.frames_max.max(1) + extra, "{frames} frames wait");
    assert!(bytes <= bounds.bytes_max + model.largest + extra * 64, "{bytes} bytes wait");
    if bytes == 0 {
        assert!(!outbox.congested());
    }
    if bytes > bounds.bytes_max / 2 || frames > bounds.frames_max / 2 {
        assert!(outbox.congested());
    }
}
