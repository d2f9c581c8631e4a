//! Clients who come to a cache channel after its last event, beside those who come to a plain one.

use super::{Context, SETTLE, TIMEOUT};
use crate::Result;
use crate::contender::{STATE_CHANNEL, Stage};
use crate::event::Id;
use crate::procfs::Reading;
use crate::report::Measure;
use crate::script::Plan;
use crate::swarm::Swarm;

/// They come in turns, or what the machine does meanwhile would meet one kind only.
const TURNS: u32 = 4;
/// The stream of the cache channel's events.
const STREAM: u32 = 1;
const LAST: Id = Id { stream: STREAM, sequence: 1 };
const FURTHER: Id = Id { stream: STREAM, sequence: 2 };

pub(super) fn run(context: &Context<'_>, stage: &mut Stage) -> Result<Vec<Measure>> {
    let each = context.args.late_joiners.div_ceil(TURNS);
    let mut swarm = context.swarm()?;
    // Somebody stands on each channel before: who comes subscribes nothing.
    swarm.connect(vec![stage.subscriber(0), stage.state_subscriber(1)], 1, TIMEOUT)?;
    let mut api = stage.api()?;
    let nothing = Id { sequence: 0, ..LAST };
    swarm.warm_up(1, TIMEOUT, || api.trigger(STATE_CHANNEL, nothing))?;
    std::thread::sleep(SETTLE);
    let mut delivered = 1;
    swarm.expect(delivered);
    api.trigger(STATE_CHANNEL, LAST)?;
    swarm.wait_delivered(delivered, TIMEOUT)?;

    let (mut plain, mut late) = (0.0, 0.0);
    for turn in 0..TURNS {
        let first = 2 + 2 * turn * each;
        let plans = (first..first + each).map(|client| stage.subscriber(client as usize)).collect();
        plain += connect(context, stage, &mut swarm, plans, delivered)?;
        delivered += u64::from(each);
        let plans = (first + each..first + 2 * each).map(|client| stage.state_subscriber(client as usize));
        late += connect(context, stage, &mut swarm, plans.collect(), delivered)?;
    }
    delivered += u64::from(TURNS * each) + 1;
    swarm.expect(delivered);
    api.trigger(STATE_CHANNEL, FURTHER)?;
    swarm.wait_delivered(delivered, TIMEOUT)?;
    std::thread::sleep(SETTLE);
    // What comes twice comes late.
    swarm.wait_delivered(delivered, TIMEOUT)?;
    swarm.check()?;
    let clients = f64::from(TURNS * each);
    Ok(vec![
        Measure::new("CPU", "µs per late joiner", late / clients * 1e6),
        Measure::new("CPU, plain channel", "µs per connect", plain / clients * 1e6),
        Measure::new("CPU ÷ plain channel's", "", late / plain),
    ])
}

/// CPU seconds until all are ready and there have been so many deliveries.
fn connect(
    context: &Context<'_>,
    stage: &Stage,
    swarm: &mut Swarm,
    plans: Vec<Plan>,
    delivered: u64,
) -> Result<f64> {
    std::thread::sleep(SETTLE);
    let before = Reading::take(stage.pid())?;
    swarm.expect(delivered);
    swarm.connect(plans, context.args.window, TIMEOUT)?;
    swarm.wait_delivered(delivered, TIMEOUT)?;
    // What comes after the answer, such as log lines, belongs to it.
    std::thread::sleep(SETTLE);
    Ok(Reading::take(stage.pid())?.since(&before).total())
}
