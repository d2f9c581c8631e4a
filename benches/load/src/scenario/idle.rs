//! Memory of clients that are connected, authenticated and silent.

use super::{Context, SETTLE, TIMEOUT};
use crate::Result;
use crate::contender::Stage;
use crate::procfs;
use crate::report::Measure;

pub(super) fn run(context: &Context<'_>, stage: &mut Stage) -> Result<Vec<Measure>> {
    let clients = context.args.idle_clients;
    std::thread::sleep(SETTLE);
    let before = procfs::resident_kib(stage.pid())?;
    let mut swarm = context.swarm()?;
    let plans = (0..clients as usize).map(|client| stage.subscriber(client)).collect();
    swarm.connect(plans, context.args.window, TIMEOUT)?;
    std::thread::sleep(4 * SETTLE);
    let after = procfs::resident_kib(stage.pid())?;
    swarm.check()?;
    Ok(vec![
        Measure::new("resident memory", "KiB per client", (after - before) / f64::from(clients)),
        Measure::new("resident memory before any client", "MiB", before / 1_024.0),
    ])
}
