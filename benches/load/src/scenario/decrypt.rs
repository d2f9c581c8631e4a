//! An encrypted channel beside one in clear, with as many clients: what decrypting an event costs must not depend on how
//! many get it.

use super::{Context, SETTLE, TIMEOUT};
use crate::Result;
use crate::api::Api;
use crate::contender::{CHANNEL, Contender, SECURE_CHANNEL, Stage};
use crate::event::Id;
use crate::procfs::Reading;
use crate::report::Measure;
use crate::swarm::Swarm;

/// The channels take turns, or what the machine does meanwhile would meet one of them only.
const TURNS: u32 = 10;
/// In clear and encrypted; the number of each is its stream.
const CHANNELS: [&str; 2] = [CHANNEL, SECURE_CHANNEL];

pub(super) fn run(context: &Context<'_>, contender: Contender) -> Result<Vec<Measure>> {
    let mut measures = Vec::new();
    for clients in [1, context.args.clients] {
        let [clear, encrypted] = context
            .on_stage(contender, &context.args.routes, |context, stage| measure(context, stage, clients))?;
        let mut add = |what: &str, unit: &'static str, value: f64| {
            measures.push(Measure::new(format!("{clients} clients, {what}"), unit, value));
        };
        add("CPU, encrypted", "µs per event", encrypted);
        add("CPU, encrypted ÷ in clear", "", encrypted / clear);
    }
    Ok(measures)
}

/// CPU µs per event, of each channel.
fn measure(context: &Context<'_>, stage: &Stage, clients: u32) -> Result<[f64; 2]> {
    let mut swarm = context.swarm()?;
    let plans = (0..clients as usize)
        .flat_map(|client| [stage.subscriber(2 * client), stage.secure_subscriber(2 * client + 1)]);
    swarm.connect(plans.collect(), context.args.window, TIMEOUT)?;
    let mut api = stage.api()?;
    swarm.warm_up(swarm.clients(), TIMEOUT, || {
        let warm_up = |(stream, channel)| (channel, Id { stream, sequence: 0 });
        api.trigger_all((0..).zip(CHANNELS).map(warm_up))
    })?;
    std::thread::sleep(SETTLE);
    let each = context.args.events.div_ceil(TURNS);
    let (mut sequences, mut seconds) = ([0; 2], [0.0; 2]);
    for _ in 0..TURNS {
        for ((stream, channel), (sequence, seconds)) in
            (0..).zip(CHANNELS).zip(sequences.iter_mut().zip(&mut seconds))
        {
            let before = Reading::take(stage.pid())?;
            let ids = (1..=each).map(|event| Id { stream, sequence: *sequence + event });
            one_by_one(&swarm, &mut api, channel, ids, clients)?;
            *seconds += Reading::take(stage.pid())?.since(&before).total();
            *sequence += each;
        }
    }
    std::thread::sleep(SETTLE);
    // What comes twice comes late.
    swarm.wait_delivered(swarm.delivered(), TIMEOUT)?;
    swarm.check()?;
    Ok(seconds.map(|seconds| seconds / f64::from(TURNS * each) * 1e6))
}

/// The next event only when every client of the channel has the last.
fn one_by_one(
    swarm: &Swarm,
    api: &mut Api,
    channel: &str,
    ids: impl Iterator<Item = Id>,
    clients: u32,
) -> Result<()> {
    let mut delivered = swarm.delivered();
    for id in ids {
        delivered += u64::from(clients);
        swarm.expect(delivered);
        api.trigger(channel, id)?;
        swarm.wait_delivered(delivered, TIMEOUT)?;
    }
    Ok(())
}
