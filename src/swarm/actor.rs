//! Pure: one simulated client, from what happens to it to what it says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::end::End;
use super::out::Out;
use super::script::{Mark, Script, Step, Text, Values};
use super::tally::Tally;
use crate::clock::Now;

/// Senders that one client follows by their numbers.
const SENDERS_MAX: usize = 1_000;
/// How a client says goodbye, RFC 6455 §7.4.1.
const NORMAL: u16 = 1000;

/// One client.
#[derive(Debug)]
pub struct Actor {
    number: u32,
    token: String,
    /// When it began to connect, and whether it ever was connected.
    dialled: u64,
    was_connected: bool,
    /// Connections in a row that did not last to the script's end or could not be made.
    losses: u32,
    step: usize,
    /// When the step that is waited at began, and until when.
    waiting: Option<(u64, u64)>,
    /// Messages of steps that are repeated, by step, and when each is due.
    every: Vec<(usize, u64)>,
    sequence: u32,
    /// The last sequence from each sender.
    heard: HashMap<u32, u32>,
    /// It has closed the connection itself.
    goodbye: Option<Goodbye>,
    standing: Standing,
}

/// Why a client closes its connection.
#[derive(Clone, Copy, Debug)]
enum Goodbye {
    /// Its script says so; it comes again after this time.
    Meant(Option<Duration>),
    /// It has waited in vain, and that is a loss like any other.
    InVain,
}

/// How far a client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It has connected never yet, or not again.
    #[default]
    Away,
    /// It goes through its steps.
    Acting,
    /// It has gone through its steps, and stays.
    Through,
    /// It does not come again.
    Over,
}

/// What all clients of a thread have in common.
#[derive(Debug)]
pub struct Troupe {
    pub script: Arc<Script>,
    pub tally: Tally,
    /// How many stand where.
    pub standing: [usize; 4],
}

impl Troupe {
    #[must_use]
    pub fn new(script: Arc<Script>) -> Self {
        Self { script, tally: Tally::default(), standing: [0; 4] }
    }

    /// One more of them.
    #[must_use]
    pub fn join(&mut self, number: u32) -> Actor {
        if let Some(count) = self.standing.get_mut(Standing::Away as usize) {
            *count += 1;
        }
        Actor {
            number,
            token: String::new(),
            dialled: 0,
            was_connected: false,
            losses: 0,
            step: 0,
            waiting: None,
            every: Vec::new(),
            sequence: 0,
            heard: HashMap::new(),
            goodbye: None,
            standing: Standing::Away,
        }
    }

    fn stand(&mut self, actor: &mut Actor, standing: Standing) {
        for (place, more) in [(actor.standing, false), (standing, true)] {
            if let Some(count) = self.standing.get_mut(place as usize) {
                *count = if more { *count + 1 } else { count.saturating_sub(1) };
            }
        }
        actor.standing = standing;
    }

    /// It begins to connect; what it is called by.
    pub fn dialled(&mut self, actor: &mut Actor, since: u64, now: Now) -> u32 {
        actor.dialled = since;
        actor.token =
            self.script.token.as_ref().map_or_else(String::new, |token| token.of(actor.number, now));
        actor.number
    }

    pub fn opened(&mut self, actor: &mut Actor, out: &mut Out<'_>, now: Now) {
        self.tally.connects.add(out.now.saturating_sub(actor.dialled));
        self.tally.again += u64::from(actor.was_connected);
        actor.was_connected = true;
        actor.step = 0;
        actor.waiting = None;
        actor.every.clear();
        actor.heard.clear();
        actor.goodbye = None;
        self.stand(actor, Standing::Acting);
        self.go_on(actor, out, now);
    }

    /// As many steps as can be gone at once.
    fn go_on(&mut self, actor: &mut Actor, out: &mut Out<'_>, now: Now) {
        let script = Arc::clone(&self.script);
        while actor.goodbye.is_none() && actor.waiting.is_none() {
            match script.steps.get(actor.step) {
                Some(Step::Send(text)) => self.send(actor, text, out, now),
                Some(Step::Every(_, interval)) => {
                    actor.every.push((actor.step, out.now + spread(actor.number, *interval)));
                }
                Some(Step::Wait(_, within)) => {
                    actor.waiting = Some((out.now, out.now + nanoseconds(*within)));
                    break;
                }
                Some(Step::Pause(time)) => {
                    actor.waiting = Some((out.now, out.now + nanoseconds(*time)));
                    break;
                }
                Some(Step::Close(code, again)) => close(actor, *code, Goodbye::Meant(*again), out),
                None => {
                    actor.losses = 0;
                    self.stand(actor, Standing::Through);
                    break;
                }
            }
            actor.step += 1;
        }
        let times = actor.every.iter().map(|(_, due)| *due).chain(actor.waiting.map(|(_, until)| until));
        if let Some(next) = times.min() {
            out.wake_at(next);
        }
    }

    fn send(&mut self, actor: &mut Actor, text: &Text, out: &mut Out<'_>, now: Now) {
        if text.is_numbered() {
            actor.sequence = actor.sequence.wrapping_add(1);
        }
        let values = Values {
            number: actor.number,
            token: &actor.token,
            sequence: actor.sequence,
            since: out.now,
            now,
        };
        out.send(text.fill(&values).as_bytes());
        self.tally.sent += 1;
    }

    pub fn heard(&mut self, actor: &mut Actor, text: &[u8], out: &mut Out<'_>, now: Now) {
        self.tally.received += 1;
        if let Some(mark) = Mark::find(text) {
            self.marked(actor, mark, out.now);
        }
        let script = Arc::clone(&self.script);
        let awaited = match (script.steps.get(actor.step), actor.waiting) {
            (Some(Step::Wait(pattern, _)), Some((began, _))) => Some((pattern, began)),
            _ => None,
        };
        if awaited.is_none() && script.answers.is_empty() {
            return;
        }
        let Ok(frame) = serde_json::from_slice::<Value>(text) else { return };
        if let Some((_, answer)) = script.answers.iter().find(|(pattern, _)| pattern.fits(&frame)) {
            self.send(actor, answer, out, now);
        }
        if let Some((_, began)) = awaited.filter(|(pattern, _)| pattern.fits(&frame)) {
            self.tally.waits.entry(actor.step).or_default().0.add(out.now.saturating_sub(began));
            actor.waiting = None;
            actor.step += 1;
            self.go_on(actor, out, now);
        }
    }

    fn marked(&mut self, actor: &mut Actor, mark: Mark, now: u64) {
        self.tally.delays.add(now.saturating_sub(mark.since));
        let senders = actor.heard.len();
        let Some(last) = actor.heard.get_mut(&mark.client) else {
            if senders < SENDERS_MAX {
                actor.heard.insert(mark.client, mark.sequence);
            } else {
                self.tally.unfollowed += 1;
            }
            return;
        };
        match mark.sequence.checked_sub(*last) {
            None | Some(0) => self.tally.twice += 1,
            Some(ahead) => {
                self.tally.lost += u64::from(ahead - 1);
                *last = mark.sequence;
            }
        }
    }

    /// The time has come that was asked for.
    pub fn woken(&mut self, actor: &mut Actor, out: &mut Out<'_>, now: Now) {
        if actor.goodbye.is_some() {
            return;
        }
        let script = Arc::clone(&self.script);
        let mut every = std::mem::take(&mut actor.every);
        let at = out.now;
        for (step, due) in every.iter_mut().filter(|(_, due)| *due <= at) {
            if let Some(Step::Every(text, interval)) = script.steps.get(*step) {
                self.send(actor, text, out, now);
                // What could not be sent in time is left out: nobody sends it later all at once.
                *due = (*due + nanoseconds(*interval)).max(at + 1);
            }
        }
        actor.every = every;
        if actor.waiting.is_some_and(|(_, until)| until <= out.now) {
            actor.waiting = None;
            if matches!(script.steps.get(actor.step), Some(Step::Wait(..))) {
                self.tally.waits.entry(actor.step).or_default().1 += 1;
                return close(actor, NORMAL, Goodbye::InVain, out);
            }
            actor.step += 1;
        }
        self.go_on(actor, out, now);
    }

    /// When it connects again, if it does.
    pub fn ended(&mut self, actor: &mut Actor, end: End, now: u64) -> Option<u64> {
        self.tally.end(end);
        actor.waiting = None;
        let away = match actor.goodbye.take() {
            Some(Goodbye::Meant(again)) => {
                actor.losses = 0;
                again
            }
            Some(Goodbye::InVain) | None => {
                let delay = self.script.reconnect.and_then(|reconnect| reconnect.delay(actor.losses));
                actor.losses = actor.losses.saturating_add(1);
                delay
            }
        };
        self.stand(actor, if away.is_some() { Standing::Away } else { Standing::Over });
        away.map(|away| now + nanoseconds(away))
    }
}

fn close(actor: &mut Actor, code: u16, goodbye: Goodbye, out: &mut Out<'_>) {
    actor.goodbye = Some(goodbye);
    actor.every.clear();
    out.close(code);
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// When within its interval a client sends for the first time: clients of neighbouring numbers far from each other.
fn spread(number: u32, interval: Duration) -> u64 {
    /// 2³² divided by the golden ratio.
    const STEP: u32 = 2_654_435_769;
    let share = f64::from(number.wrapping_mul(STEP)) / f64::from(u32::MAX);
    nanoseconds(crate::clock::spread(interval, share)).max(1)
}

#[cfg(test)]
mod tests;
