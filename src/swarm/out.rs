//! Pure: what a client does about what happened to it.

use super::ws;

/// What a crew said by [`Out`].
#[derive(Default)]
pub(super) struct Said {
    pub(super) is_ready: bool,
    pub(super) leaves: bool,
    pub(super) closes: bool,
    pub(super) wake: Option<u64>,
}

/// What a client does about what happened.
pub struct Out<'a> {
    /// Now.
    pub now: u64,
    pub(super) bytes: &'a mut Vec<u8>,
    pub(super) said: &'a mut Said,
}

impl Out<'_> {
    /// Sends a text message.
    pub fn send(&mut self, text: &[u8]) {
        ws::mask_into(self.bytes, ws::TEXT, text);
    }

    /// Sends whole frames.
    pub fn send_frames(&mut self, frames: &[u8]) {
        self.bytes.extend_from_slice(frames);
    }

    /// It no longer counts as one that is being connected: another may.
    pub fn ready(&mut self) {
        self.said.is_ready = true;
    }

    /// Drops the connection as it is.
    pub fn leave(&mut self) {
        self.said.leaves = true;
    }

    /// Says goodbye, and drops the connection when that is answered.
    pub fn close(&mut self, code: u16) {
        self.bytes.extend_from_slice(&ws::close(code));
        self.said.closes = true;
    }

    /// Has [`Crew::timer`] called then, instead of at the time that was asked for before.
    pub fn wake_at(&mut self, at: u64) {
        self.said.wake = Some(at);
    }
}
