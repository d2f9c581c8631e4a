//! Connects with authentication.

use super::{Context, SETTLE, TIMEOUT};
use crate::Result;
use crate::contender::Stage;
use crate::procfs::Reading;
use crate::report::Measure;

pub(super) fn run(context: &Context<'_>, stage: &mut Stage) -> Result<Vec<Measure>> {
    let connects = f64::from(context.args.connects);
    let mut swarm = context.swarm()?;
    let plans = (0..context.args.connects as usize).map(|client| stage.subscriber(client)).collect();
    std::thread::sleep(SETTLE);
    let before = Reading::take(stage.pid())?;
    let taken = swarm.connect(plans, context.args.window, TIMEOUT)?;
    let cpu = Reading::take(stage.pid())?.since(&before);
    swarm.check()?;
    Ok(vec![
        Measure::new("CPU", "µs per connect", cpu.total() / connects * 1e6),
        Measure::new("CPU, user", "µs per connect", cpu.user / connects * 1e6),
        Measure::new("CPU, system", "µs per connect", cpu.system / connects * 1e6),
        Measure::new("rate", "connects a second", connects / taken.as_secs_f64()),
        Measure::new("rate one core allows", "connects a CPU second", connects / cpu.total()),
    ])
}
