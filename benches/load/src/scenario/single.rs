//! Connects with authentication, each begun when the one before is ready: nobody's wake-up serves two.

use std::time::Duration;

use super::{Context, SETTLE, TIMEOUT};
use crate::Result;
use crate::contender::Stage;
use crate::procfs::Reading;
use crate::report::Measure;
use crate::script::Plan;

pub(super) fn run(context: &Context<'_>, stage: &mut Stage) -> Result<Vec<Measure>> {
    let connects = context.args.singles;
    let mut swarm = context.swarm()?;
    // First those who stay, so that neither threads nor channels begin from nothing with each that leaves.
    let (staying, taken) = measure(stage, 0..connects, |plans| swarm.connect(plans, 1, TIMEOUT))?;
    let (leaving, _) = measure(stage, connects..2 * connects, |plans| swarm.visit(plans, 1, TIMEOUT))?;
    swarm.check()?;
    Ok(vec![
        Measure::new("CPU of one that stays", "µs per connect", staying),
        Measure::new("CPU of one that leaves at once", "µs per connect", leaving),
        Measure::new("from the first packet to the answer", "µs", taken.as_secs_f64() * 1e6),
    ])
}

/// CPU µs and time per connect.
fn measure(
    stage: &Stage,
    clients: std::ops::Range<u32>,
    connect: impl FnOnce(Vec<Plan>) -> Result<Duration>,
) -> Result<(f64, Duration)> {
    let count = clients.len() as u32;
    let plans = clients.map(|client| stage.subscriber(client as usize)).collect();
    std::thread::sleep(SETTLE);
    let before = Reading::take(stage.pid())?;
    let taken = connect(plans)?;
    // What comes after the answer, such as log lines and the work of leaving, belongs to it.
    std::thread::sleep(SETTLE);
    let cpu = Reading::take(stage.pid())?.since(&before);
    Ok((cpu.total() / f64::from(count) * 1e6, taken / count))
}
