//! Many channels at once, a few of them to each client.

use std::time::{Duration, Instant};

use super::{Context, SETTLE, TIMEOUT};
use crate::Result;
use crate::contender::{Contender, Stage, numbered};
use crate::event::Id;
use crate::process;
use crate::procfs::Reading;
use crate::report::Measure;
use crate::script::Plan;
use crate::swarm::Swarm;

/// Each step, with this many channels.
const STEP_TIMEOUT: Duration = Duration::from_secs(180);
/// Between two looks at the upstream's channels.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Channels that an event is sent to, spread over all.
const PROBED: u32 = 100;

pub(super) fn run(context: &Context<'_>, contender: Contender) -> Result<Vec<Measure>> {
    let mut measures = Vec::new();
    for channels in context.args.channels.iter().copied() {
        let routes = &context.args.channel_routes;
        measures.extend(context.on_stage(contender, routes, |context, stage| {
            measure(context, stage, channels)
                .map_err(|failure| format!("{channels} channels: {failure}").into())
        })?);
    }
    Ok(measures)
}

fn measure(context: &Context<'_>, stage: &mut Stage, channels: u32) -> Result<Vec<Measure>> {
    let mut measures = Vec::new();
    let mut swarm = context.swarm()?;
    let plans = plans(stage, channels, context.args.subscriptions);
    std::thread::sleep(SETTLE);
    measures.push(step(stage, channels, "connect and subscribe", |stage| {
        swarm.connect(plans, context.args.window, STEP_TIMEOUT)?;
        wait_occupied(stage, channels)
    })?);
    probe(stage, &swarm, channels, 1)?;
    if let Some(admin) = stage.admin {
        let before = Reading::take(stage.pid())?;
        process::get(admin, "/metrics")?;
        let cpu = Reading::take(stage.pid())?.since(&before);
        measures.push(Measure::new(
            format!("{channels} channels, metrics scrape"),
            "CPU ms",
            cpu.total() * 1e3,
        ));
    }
    if stage.contender != Contender::Direct {
        measures.push(step(stage, channels, "resubscribe", |stage| {
            stage.restart_upstream()?;
            wait_occupied(stage, channels)
        })?);
        probe(stage, &swarm, channels, 2)?;
    }
    measures.push(step(stage, channels, "disconnect", |stage| {
        swarm.close()?;
        wait_occupied(stage, 0)
    })?);
    Ok(measures)
}

fn plans(stage: &Stage, channels: u32, subscriptions: u32) -> Vec<Plan> {
    let all: Vec<u32> = (0..channels).collect();
    let clients = all.chunks(subscriptions as usize).enumerate();
    clients.map(|(client, own)| stage.many(client, own)).collect()
}

fn step(
    stage: &mut Stage,
    channels: u32,
    what: &str,
    act: impl FnOnce(&mut Stage) -> Result<()>,
) -> Result<Measure> {
    let before = Reading::take(stage.pid())?;
    act(stage).map_err(|failure| format!("{what}: {failure}"))?;
    let cpu = Reading::take(stage.pid())?.since(&before);
    let each = cpu.total() / f64::from(channels) * 1e6;
    Ok(Measure::new(format!("{channels} channels, {what}"), "CPU µs per channel", each))
}

/// Waits until the upstream has exactly so many channels with subscribers.
fn wait_occupied(stage: &Stage, channels: u32) -> Result<()> {
    let mut api = stage.api()?;
    let deadline = Instant::now() + STEP_TIMEOUT;
    loop {
        let occupied = api.occupied_channels()?;
        if occupied == channels as usize {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("the upstream has {occupied} channels instead of {channels}").into());
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

/// Some of the channels get their `sequence`th event.
fn probe(stage: &Stage, swarm: &Swarm, channels: u32, sequence: u32) -> Result<()> {
    let mut api = stage.api()?;
    let probed: Vec<u32> = (0..channels).step_by(channels.div_ceil(PROBED).max(1) as usize).collect();
    let goal = swarm.delivered() + probed.len() as u64;
    for channel in probed {
        api.trigger(&numbered(channel), Id { stream: channel, sequence })?;
    }
    swarm.wait_delivered(goal, TIMEOUT)
}
