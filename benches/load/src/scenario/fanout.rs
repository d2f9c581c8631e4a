//! Many clients of one channel.

use std::time::Duration;

use super::{Context, SETTLE, TIMEOUT, milliseconds, quantile};
use crate::Result;
use crate::api::Api;
use crate::contender::{CHANNEL, Contender, Stage, cores};
use crate::event::Id;
use crate::procfs::{Cpu, Reading};
use crate::report::Measure;
use crate::swarm::Swarm;

pub(super) fn run(context: &Context<'_>, stage: &mut Stage) -> Result<Vec<Measure>> {
    let args = context.args;
    let swarm = context.audience(stage, args.clients)?;
    let mut api = stage.api()?;
    let mut measures = Vec::new();

    let before = Reading::take(stage.pid())?;
    let last_delays = one_by_one(&swarm, &mut api, args.events)?;
    let after = Reading::take(stage.pid())?;
    measures.extend(cpu("one by one", after.since(&before), &swarm, args.events));
    if !matches!(stage.contender, Contender::Floor | Contender::Node) {
        measures.push(Measure::new("one by one, busiest ÷ idlest thread", "", imbalance(&after, &before)));
    }
    measures.push(Measure::new(
        "one by one, last client",
        "ms, median",
        milliseconds(quantile(&last_delays, 0.5)),
    ));

    std::thread::sleep(SETTLE);
    let before = Reading::take(stage.pid())?;
    let events = in_bursts(&swarm, &mut api, args.events, args.burst)?;
    let after = Reading::take(stage.pid())?;
    measures.extend(cpu("in bursts", after.since(&before), &swarm, events));
    if !matches!(stage.contender, Contender::Floor | Contender::Node) {
        measures.push(Measure::new("in bursts, busiest ÷ idlest thread", "", imbalance(&after, &before)));
    }

    std::thread::sleep(SETTLE);
    // What comes twice comes late.
    swarm.check()?;
    Ok(measures)
}

/// The next event only when every client has the last; how long the last client waited for each.
pub(super) fn one_by_one(swarm: &Swarm, api: &mut Api, events: u32) -> Result<Vec<Duration>> {
    let clients = swarm.clients() as u64;
    let mut delays = Vec::new();
    for sequence in 1..=events {
        swarm.expect(u64::from(sequence) * clients);
        swarm.mark_sent(sequence);
        api.trigger(CHANNEL, Id { stream: 0, sequence })?;
        swarm.wait_delivered(u64::from(sequence) * clients, TIMEOUT)?;
        delays.push(swarm.last_delay(sequence));
    }
    delays.sort_unstable();
    Ok(delays)
}

/// Whole bursts, at least `events`; the next only when every client has the last. How many events it were.
fn in_bursts(swarm: &Swarm, api: &mut Api, events: u32, burst: u32) -> Result<u32> {
    let clients = swarm.clients() as u64;
    let mut delivered = swarm.delivered();
    let mut sequence = u32::try_from(delivered / clients)?;
    let bursts = events.div_ceil(burst);
    for _ in 0..bursts {
        delivered += u64::from(burst) * clients;
        swarm.expect(delivered);
        api.trigger_all((1..=burst).map(|event| (CHANNEL, Id { stream: 0, sequence: sequence + event })))?;
        swarm.wait_delivered(delivered, TIMEOUT)?;
        sequence += burst;
    }
    Ok(bursts * burst)
}

fn cpu(how: &str, cpu: Cpu, swarm: &Swarm, events: u32) -> [Measure; 3] {
    let millions = swarm.clients() as f64 * f64::from(events) / 1e6;
    let measure = |what: &str, seconds: f64| {
        Measure::new(format!("{how}, CPU{what}"), "s per million deliveries", seconds / millions)
    };
    [measure("", cpu.total()), measure(", user", cpu.user), measure(", system", cpu.system)]
}

/// Of as many threads as there are cores, the busiest: 1 if they did as much as each other.
fn imbalance(after: &Reading, before: &Reading) -> f64 {
    let threads = after.threads_since(before);
    let seconds = |index: usize| threads.get(index).map_or(0.0, |(_, seconds)| *seconds);
    seconds(0) / seconds(cores() - 1)
}
