//! What goes over the old clients' sockets, and what is held for them.

use crate::metrics::label::labels;
use crate::metrics::{Counter, Family, Gauge, Named, Registry};

labels! {
    /// Which way a message goes.
    pub enum Direction: "direction" {
        /// From a client.
        In = "in",
        /// To a client.
        Out = "out",
    }
}

#[derive(Clone, Debug)]
pub struct Metrics {
    frames: Named<Family<Direction>>,
    bytes: Named<Family<Direction>>,
    /// Bytes held for clients.
    pub buffered_bytes: Gauge,
}

/// Messages of one route, and their bytes.
#[derive(Clone, Debug)]
pub struct Traffic {
    frames_in: Counter,
    bytes_in: Counter,
    frames_out: Counter,
    bytes_out: Counter,
}

impl Metrics {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            frames: registry.declare_named(
                "route",
                "pusher_bridge_frames_total",
                "WebSocket messages from (in) and to (out) old clients",
            ),
            bytes: registry.declare_named(
                "route",
                "pusher_bridge_frame_bytes_total",
                "Bytes of those messages",
            ),
            buffered_bytes: registry.declare(
                "pusher_bridge_buffered_bytes",
                "Bytes held for clients: parts of messages, and frames not yet taken",
            ),
        }
    }

    /// The traffic of the route of this name.
    #[must_use]
    pub fn of(&self, route: &str) -> Traffic {
        let (frames, bytes) = (self.frames.named(route), self.bytes.named(route));
        Traffic {
            frames_in: frames.get(Direction::In).clone(),
            bytes_in: bytes.get(Direction::In).clone(),
            frames_out: frames.get(Direction::Out).clone(),
            bytes_out: bytes.get(Direction::Out).clone(),
        }
    }
}

impl Traffic {
    /// A message of `bytes` came.
    pub fn received(&self, bytes: usize) {
        self.frames_in.increment(1);
        self.bytes_in.increment(bytes as u64);
    }

    /// So many messages passed in this direction, and so many bytes of messages, which nobody looked at.
    pub fn passed(&self, direction: Direction, messages: u64, bytes: u64) {
        let (frames, sizes) = match direction {
            Direction::In => (&self.frames_in, &self.bytes_in),
            Direction::Out => (&self.frames_out, &self.bytes_out),
        };
        frames.increment(messages);
        sizes.increment(bytes);
    }

    /// So many frames of `length` bytes were sent.
    pub fn sent(&self, frames: usize, length: usize) {
        if frames > 0 {
            self.frames_out.increment(frames as u64);
            self.bytes_out.increment((frames * length) as u64);
        }
    }
}
