//! What clients send becomes HTTP requests, and the upstream takes its time to answer.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::{Context, SETTLE, TIMEOUT};
use crate::api::Api;
use crate::contender::{Contender, Setup, Stage};
use crate::event::Id;
use crate::procfs::Reading;
use crate::report::Measure;
use crate::stub::Stub;
use crate::swarm::Swarm;
use crate::{Result, ws};

/// Requests of the one unbatched lane that the throughput is compared with.
const LANE_REQUESTS: u32 = 100;
/// Messages that a client sends at once: two such waves of the default number of clients fill half the queues
/// of the shipped routes file.
const WAVE: u32 = 5;
const LOOK_PAUSE: Duration = Duration::from_micros(500);

pub(super) fn run(context: &Context<'_>, contender: Contender) -> Result<Vec<Measure>> {
    let args = context.args;
    let stub = Stub::start(Duration::from_millis(args.answer_ms.into()))?;
    let lane = one_lane(&stub, args.bytes)?;
    let setup = Setup {
        args,
        logs: context.logs,
        routes: &args.routes,
        upstream: Some(stub.address()),
        old_api: None,
    };
    let mut stage = Stage::start(contender, &setup).map_err(|failure| match stub.published() {
        Ok(_) => failure,
        Err(cause) => format!("{cause}; {failure}").into(),
    })?;
    measure(context, &stage, &stub, lane).map_err(|failure| stage.explain(&failure))
}

fn measure(context: &Context<'_>, stage: &Stage, stub: &Stub, lane: f64) -> Result<Vec<Measure>> {
    let args = context.args;
    let mut swarm = context.swarm()?;
    let plans = (0..args.publishers as usize).map(|client| stage.publisher(client)).collect();
    swarm.connect(plans, args.window, TIMEOUT)?;
    std::thread::sleep(SETTLE);
    let before = Reading::take(stage.pid())?;
    let already = stub.published()?;
    let wave = u64::from(args.publishers * WAVE);
    let mut sent = 0;
    let start = Instant::now();
    for first in (1..=args.messages).step_by(WAVE as usize) {
        // One wave waits while another is published: the queues neither run dry nor overflow.
        wait_published(&swarm, stub, (already + sent).saturating_sub(wave))?;
        let last = args.messages.min(first + WAVE - 1);
        swarm.send(|client| frames(client, first..=last))?;
        sent += u64::from(args.publishers) * u64::from(last + 1 - first);
    }
    wait_published(&swarm, stub, already + sent)?;
    let rate = sent as f64 / start.elapsed().as_secs_f64();
    let cpu = Reading::take(stage.pid())?.since(&before);
    Ok(vec![
        Measure::new("rate", "messages a second", rate),
        Measure::new("rate, one lane without batches", "messages a second", lane),
        Measure::new("rate ÷ one lane's", "", rate / lane),
        Measure::new("CPU", "µs per message", cpu.total() / sent as f64 * 1e6),
    ])
}

fn wait_published(swarm: &Swarm, stub: &Stub, goal: u64) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while stub.published()? < goal {
        swarm.check()?;
        if Instant::now() > deadline {
            return Err(format!("only {} of {goal} messages were published", stub.published()?).into());
        }
        std::thread::sleep(LOOK_PAUSE);
    }
    Ok(())
}

/// Some of a client's numbered messages, all in one piece.
fn frames(client: usize, sequences: RangeInclusive<u32>) -> Vec<u8> {
    let frame = |sequence| {
        let message =
            format!(r#"{{"type":"progress","data":{{"mark":"@@{client}.{sequence}@@","percent":42.50}}}}"#);
        ws::masked(ws::TEXT, message.as_bytes())
    };
    sequences.flat_map(frame).collect()
}

fn one_lane(stub: &Stub, bytes: u32) -> Result<f64> {
    let mut api = Api::connect(stub.address(), bytes)?;
    let start = Instant::now();
    for sequence in 1..=LANE_REQUESTS {
        api.trigger("lane", Id { stream: u32::MAX, sequence })?;
    }
    Ok(f64::from(LANE_REQUESTS) / start.elapsed().as_secs_f64())
}
