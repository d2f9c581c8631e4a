//! Presence channels, whose every user has a connection to the upstream of its own, beside as many private channels with
//! as many clients, which share one.

use std::time::{Duration, Instant};

use super::{Context, SETTLE};
use crate::Result;
use crate::api::Api;
use crate::contender::{Contender, Stage};
use crate::event::Id;
use crate::procfs::{self, Reading};
use crate::report::Measure;
use crate::swarm::Swarm;

/// All members of a channel are told of each one that comes.
const JOIN_TIMEOUT: Duration = Duration::from_secs(300);
const EVENTS_TIMEOUT: Duration = Duration::from_secs(120);

/// What a client costs.
struct Costs {
    memory_kib: f64,
    joining_us: f64,
    /// Per delivery.
    event_us: f64,
}

pub(super) fn run(context: &Context<'_>, contender: Contender) -> Result<Vec<Measure>> {
    let mut measures = Vec::new();
    for size in context.args.room_members.iter().copied().filter(|size| *size > 0) {
        let costs = |is_member| {
            context.on_stage(contender, &context.args.presence_routes, |context, stage| {
                measure(context, stage, size, is_member)
            })
        };
        let (presence, plain) = (costs(true)?, costs(false)?);
        let mut add = |what: &str, unit: &'static str, value: f64| {
            measures.push(Measure::new(format!("{size} to a channel, {what}"), unit, value));
        };
        add("memory", "KiB per member", presence.memory_kib);
        add("memory without members", "KiB per client", plain.memory_kib);
        add("joining", "CPU µs per member", presence.joining_us);
        add("events", "CPU µs per delivery", presence.event_us);
        add("events, ÷ those without members", "", presence.event_us / plain.event_us);
    }
    Ok(measures)
}

fn measure(context: &Context<'_>, stage: &Stage, size: u32, is_member: bool) -> Result<Costs> {
    let args = context.args;
    std::thread::sleep(SETTLE);
    let (start, memory) = (Reading::take(stage.pid())?, procfs::resident_kib(stage.pid())?);
    let mut swarm = context.swarm()?;
    // In turn, as users come.
    let rooms = args.members.div_ceil(size);
    let plans = (0..args.members).map(|client| stage.roommate(client as usize, client % rooms, is_member));
    swarm.connect(plans.collect(), args.window, JOIN_TIMEOUT)?;
    std::thread::sleep(4 * SETTLE);
    let (joined, memory_after) = (Reading::take(stage.pid())?, procfs::resident_kib(stage.pid())?);

    let mut stream = Stream { api: stage.api()?, names: names(rooms, is_member), sequence: 0 };
    swarm.warm_up(args.members as usize, EVENTS_TIMEOUT, || stream.send(0))?;
    std::thread::sleep(SETTLE);
    let paced = stream.paced(&swarm, args.room_rate, Duration::from_secs(args.room_seconds.into()), stage)?;
    std::thread::sleep(SETTLE);
    swarm.check()?;
    let members = f64::from(args.members);
    Ok(Costs {
        memory_kib: (memory_after - memory) / members,
        joining_us: joined.since(&start).total() / members * 1e6,
        event_us: paced,
    })
}

fn names(rooms: u32, is_member: bool) -> Vec<String> {
    let kind = if is_member { "presence" } else { "private-plugin" };
    (0..rooms).map(|room| format!("{kind}-r{room}")).collect()
}

/// The events of all channels, the same number on each.
struct Stream {
    api: Api,
    names: Vec<String>,
    sequence: u32,
}

impl Stream {
    /// The `sequence`th event of each channel.
    fn send(&mut self, sequence: u32) -> Result<()> {
        let events = (0..).zip(&self.names).map(|(stream, name)| (name.as_str(), Id { stream, sequence }));
        self.api.trigger_all(events)
    }

    /// At a steady rate, for with so many connections an upstream makes a steady stream of any burst. CPU µs per
    /// delivery.
    fn paced(&mut self, swarm: &Swarm, rate: u32, time: Duration, stage: &Stage) -> Result<f64> {
        let before = Reading::take(stage.pid())?;
        let (start, step) = (Instant::now(), Duration::from_secs(1) / rate);
        let events = (time.as_secs_f64() * f64::from(rate)) as u32;
        for event in 0..events {
            std::thread::sleep((start + step * event).saturating_duration_since(Instant::now()));
            self.sequence += 1;
            self.send(self.sequence)?;
        }
        self.delivered(swarm, events, &before, stage)
    }

    /// When all that was sent has come, and with it the copies that came over each member's connection.
    fn delivered(&self, swarm: &Swarm, events: u32, before: &Reading, stage: &Stage) -> Result<f64> {
        swarm.wait_delivered(self.goal(swarm), EVENTS_TIMEOUT)?;
        std::thread::sleep(SETTLE);
        let cpu = Reading::take(stage.pid())?.since(before);
        Ok(cpu.total() / (swarm.clients() as f64 * f64::from(events)) * 1e6)
    }

    fn goal(&self, swarm: &Swarm) -> u64 {
        u64::from(self.sequence) * swarm.clients() as u64
    }
}
