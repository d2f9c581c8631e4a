//! From trigger to client, at a rate that leaves the machine idle most of the time.

use std::time::{Duration, Instant};

use super::{Context, TIMEOUT, milliseconds, quantile};
use crate::Result;
use crate::contender::{CHANNEL, Stage};
use crate::event::Id;
use crate::report::Measure;

pub(super) fn run(context: &Context<'_>, stage: &mut Stage) -> Result<Vec<Measure>> {
    let args = context.args;
    let swarm = context.audience(stage, args.delay_clients)?;
    let mut api = stage.api()?;
    let _ = swarm.take_delays()?;
    let events = args.delay_rate * args.delay_seconds;
    let start = Instant::now();
    for sequence in 1..=events {
        let due = start + Duration::from_secs(1) * (sequence - 1) / args.delay_rate;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        swarm.mark_sent(sequence);
        api.trigger(CHANNEL, Id { stream: 0, sequence })?;
    }
    swarm.wait_delivered(u64::from(events) * swarm.clients() as u64, TIMEOUT)?;
    let mut delays = swarm.take_delays()?;
    delays.sort_unstable();
    let measure = |name: &str, share| Measure::new(name, "ms", milliseconds(quantile(&delays, share)));
    Ok(vec![measure("median", 0.5), measure("99th percentile", 0.99), measure("longest", 1.0)])
}
