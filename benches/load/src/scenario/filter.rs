//! One channel that all agents share; each event is for one of them.

use super::{Context, SETTLE, TIMEOUT};
use crate::Result;
use crate::api::Api;
use crate::contender::{AGENT_CHANNEL, CHANNEL, Contender, Stage};
use crate::event::Id;
use crate::procfs::Reading;
use crate::report::Measure;
use crate::swarm::Swarm;

/// Coprime with every number of agents in use: all get their turn, and neighbours never follow each other.
const STRIDE: u32 = 7_919;

pub(super) fn run(context: &Context<'_>, contender: Contender) -> Result<Vec<Measure>> {
    let args = context.args;
    let mut measures = Vec::new();
    let alone = context.on_stage(contender, &args.routes, |context, stage| {
        let swarm = context.audience(stage, 1)?;
        let events: Vec<_> =
            (1..=args.agent_events).map(|sequence| (CHANNEL, Id { stream: 0, sequence })).collect();
        measure(stage, &swarm, &events, "CPU, no filter, 1 client")
    })?;
    measures.extend(alone);
    if contender == Contender::Floor {
        return Ok(measures);
    }
    for agents in args.agents.iter().copied().filter(|agents| *agents > 0) {
        measures.extend(context.on_stage(contender, &args.routes, |context, stage| {
            let swarm = connected(context, stage, agents)?;
            let events: Vec<_> = addressed(args.agent_events, agents);
            measure(stage, &swarm, &events, &format!("CPU, {agents} agents"))
        })?);
    }
    Ok(measures)
}

fn connected(context: &Context<'_>, stage: &Stage, agents: u32) -> Result<Swarm> {
    let mut swarm = context.swarm()?;
    let plans = (0..agents as usize).map(|agent| stage.agent(agent)).collect::<Result<_>>()?;
    swarm.connect(plans, context.args.window, TIMEOUT)?;
    let mut api = stage.api()?;
    swarm.warm_up(1, TIMEOUT, || api.trigger(AGENT_CHANNEL, Id { stream: 0, sequence: 0 }))?;
    std::thread::sleep(SETTLE);
    Ok(swarm)
}

/// Events for the agents in turn.
fn addressed(events: u32, agents: u32) -> Vec<(&'static str, Id)> {
    let mut sequences = vec![0; agents as usize];
    let mut address = |event: u32| {
        let stream =
            u32::try_from(u64::from(event) * u64::from(STRIDE) % u64::from(agents)).unwrap_or_default();
        let sequence = sequences.get_mut(stream as usize).map_or(0, |sequence: &mut u32| {
            *sequence += 1;
            *sequence
        });
        (AGENT_CHANNEL, Id { stream, sequence })
    };
    (0..events).map(&mut address).collect()
}

/// One at a time, or several events would share the cost of a wake-up, and how many would be chance.
fn measure(stage: &Stage, swarm: &Swarm, events: &[(&str, Id)], name: &str) -> Result<Vec<Measure>> {
    let mut api = stage.api()?;
    let before = Reading::take(stage.pid())?;
    trigger(swarm, &mut api, events)?;
    let cpu = Reading::take(stage.pid())?.since(&before);
    std::thread::sleep(SETTLE);
    swarm.wait_delivered(events.len() as u64, TIMEOUT)?;
    Ok(vec![Measure::new(name, "µs per event", cpu.total() / events.len() as f64 * 1e6)])
}

fn trigger(swarm: &Swarm, api: &mut Api, events: &[(&str, Id)]) -> Result<()> {
    for (number, (channel, id)) in (1..).zip(events) {
        swarm.expect(number);
        api.trigger(channel, *id)?;
        swarm.wait_delivered(number, TIMEOUT)?;
    }
    Ok(())
}
