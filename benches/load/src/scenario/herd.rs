//! All clients at once, to a process that has none, and again when all have just been cut: none may be refused.

use super::{Context, SETTLE, TIMEOUT};
use crate::Result;
use crate::contender::{Contender, Stage};
use crate::procfs::{self, Reading};
use crate::report::Measure;

pub(super) fn run(context: &Context<'_>, stage: &mut Stage) -> Result<Vec<Measure>> {
    let clients = context.args.herd_clients;
    let mut swarm = context.swarm()?;
    let plans: Vec<_> = (0..clients as usize).map(|client| stage.subscriber(client)).collect();
    let again = plans.clone();
    std::thread::sleep(SETTLE);
    let before = Reading::take(stage.pid())?;
    // A refusal fails the measurement.
    let taken = swarm.connect(plans, clients, TIMEOUT)?;
    let cpu = Reading::take(stage.pid())?.since(&before);
    let resident = procfs::resident_kib(stage.pid())?;
    swarm.check()?;
    let mut measures = vec![
        Measure::new("all of them served after", "s", taken.as_secs_f64()),
        Measure::new("CPU", "µs per connect", cpu.total() / f64::from(clients) * 1e6),
        Measure::new("resident memory then", "MiB", resident / 1_024.0),
    ];
    // sockudo takes a quarter of a minute for the first.
    if stage.contender != Contender::Direct {
        swarm.close()?;
        let taken = swarm.connect(again, clients, TIMEOUT)?;
        swarm.check()?;
        measures.push(Measure::new("cut, and all of them served again after", "s", taken.as_secs_f64()));
    }
    Ok(measures)
}
