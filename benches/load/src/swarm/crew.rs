//! What the clients of one thread say and hear: an event lost, doubled, out of order, a neighbour's or changed is a failure,
//! and so is all that is not expected.

use std::sync::Arc;

use pusher_bridge::swarm::{self, Dial, End, Out, ws};

use super::shared::{Shared, Turn};
use crate::Result;
use crate::event::{Id, Shape};
use crate::script::{Heard, Plan};

/// One client.
pub(super) struct Client {
    plan: Plan,
    /// How many answers are missing until it is ready.
    missing: usize,
    is_ready: bool,
    /// The last sequence of each of its streams.
    last: Box<[u32]>,
    warm: bool,
}

impl Client {
    pub(super) fn new(plan: Plan) -> Self {
        let last = vec![0; plan.streams.len()].into();
        Self { plan, missing: 0, is_ready: false, last, warm: false }
    }
}

/// What all clients of a thread share.
pub(super) struct Crew {
    shared: Arc<Shared>,
    turn: Turn,
    verified: Verified,
    pub(super) delays: Vec<u64>,
    /// Each as soon as it is ready.
    pub(super) leaves: bool,
}

impl Crew {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, turn: Turn::default(), verified: Verified::new(), delays: Vec::new(), leaves: false }
    }

    fn greeted(&mut self, client: &mut Client, answers: usize, out: &mut Out<'_>) {
        if client.is_ready {
            return;
        }
        client.missing = client.missing.saturating_sub(answers);
        if client.missing == 0 {
            client.is_ready = true;
            self.turn.ready += 1;
            out.ready();
            if self.leaves {
                out.leave();
            }
        }
    }

    fn event(&mut self, client: &mut Client, id: Id, payload: &[u8], now: u64) -> Result<()> {
        let place = client.plan.streams.iter().position(|stream| *stream == id.stream);
        let Some(last) = place.and_then(|place| client.last.get_mut(place)) else {
            return Err(format!("got another's event: {id:?}").into());
        };
        self.verified.check(client.plan.script.shape(), payload, id, self.shared.event_bytes)?;
        if id.sequence == 0 && *last == 0 {
            self.turn.warm += usize::from(!client.warm);
            client.warm = true;
            return Ok(());
        }
        if id.sequence != *last + 1 {
            return Err(format!("got event {} of stream {} after {last}", id.sequence, id.stream).into());
        }
        *last = id.sequence;
        self.turn.delivered += 1;
        self.turn.last = now;
        if self.delays.len() < DELAYS_MAX {
            self.delays.push(now.saturating_sub(self.shared.sent(id.sequence)));
        }
        Ok(())
    }
}

impl swarm::Crew for Crew {
    type Client = Client;

    fn dial(&mut self, client: &mut Client) -> Dial {
        Dial {
            source: Some(client.plan.source.into()),
            target: client.plan.target,
            secured: client.plan.secured.clone(),
            request: ws::upgrade_request("127.0.0.1", &client.plan.path, &[]),
        }
    }

    fn opened(&mut self, client: &mut Client, out: &mut Out<'_>) {
        client.missing = client.plan.script.answers();
        out.send_frames(client.plan.script.hello());
        self.greeted(client, 0, out);
    }

    fn text(&mut self, client: &mut Client, text: &[u8], out: &mut Out<'_>) -> Result<(), String> {
        if let Some(id) = Id::find(text) {
            return self.event(client, id, text, out.now).map_err(|failure| failure.to_string());
        }
        match client.plan.script.hear(text).map_err(|failure| failure.to_string())? {
            Heard::Answer => self.greeted(client, 1, out),
            Heard::Reply(reply) => out.send_frames(&reply),
            Heard::Nothing => {}
        }
        Ok(())
    }

    fn ended(&mut self, client: &mut Client, end: End, _: u64) -> Option<u64> {
        if end != End::Left {
            let who = if client.is_ready { "a ready client" } else { "a connecting client" };
            self.shared.fail(format!("{who}: {end}"));
        }
        None
    }

    fn turned(&mut self) {
        self.shared.add(&std::mem::take(&mut self.turn));
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
