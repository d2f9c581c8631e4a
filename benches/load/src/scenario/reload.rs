//! The routes file is changed again and again. Clients of a route that is not touched, or whose settings alone change, must
//! not notice: that they lose nothing and get nothing twice is checked as everywhere, how long they wait is measured.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Context, SETTLE, TIMEOUT, milliseconds, quantile};
use crate::api::Api;
use crate::contender::{CHANNEL, Contender, Setup, Stage};
use crate::event::Id;
use crate::report::Measure;
use crate::swarm::Swarm;
use crate::{Result, process, procfs};

/// Reloads while events come, whatever the time is that they take.
const RELOADS: u32 = 50;
/// Memory is compared after the first so many, and after so many.
const FEW: u32 = 10;
/// What a thousand reloads may leave behind, KiB: less than a kibibyte each would be a leak that a year brings to light.
const LEFT_KIB_MAX: f64 = 2_048.0;

pub(super) fn run(context: &Context<'_>, contender: Contender) -> Result<Vec<Measure>> {
    let args = context.args;
    let file =
        File { path: context.logs.join("routes-reload.toml"), shipped: fs::read_to_string(&args.routes)? };
    fs::write(&file.path, &file.shipped)?;
    let setup = Setup { args, logs: context.logs, routes: &file.path, upstream: None, old_api: None };
    let mut stage = Stage::start(contender, &setup)?;
    measure(context, &stage, &file).map_err(|failure| stage.explain(&failure))
}

fn measure(context: &Context<'_>, stage: &Stage, file: &File) -> Result<Vec<Measure>> {
    let args = context.args;
    let admin = stage.admin.ok_or("no admin address")?;
    let swarm = context.audience(stage, args.delay_clients)?;
    let mut api = stage.api()?;
    let _ = swarm.take_delays()?;
    let events = args.delay_rate * args.reload_seconds;
    let calm = delays(context, &swarm, &mut api, 1..=events)?;
    let pause = Duration::from_secs(args.reload_seconds.into()) / RELOADS;
    let changed = std::thread::scope(|scope| {
        let reloading = scope.spawn(|| {
            (0..RELOADS).try_for_each(|number| {
                let start = Instant::now();
                file.change(admin, number)?;
                std::thread::sleep(pause.saturating_sub(start.elapsed()));
                Ok(())
            })
        });
        let changed = delays(context, &swarm, &mut api, events + 1..=2 * events);
        let reloaded: Result<()> = reloading.join().map_err(|_| "the reloading thread has ended")?;
        reloaded.and(changed)
    })?;
    let mut few = 0.0;
    for number in 0..args.reloads {
        if number == FEW {
            few = procfs::resident_kib(stage.pid())?;
        }
        file.change(admin, number)?;
    }
    std::thread::sleep(2 * SETTLE);
    let many = procfs::resident_kib(stage.pid())?;
    swarm.check()?;
    if many > few + LEFT_KIB_MAX {
        return Err(format!("{few} KiB have become {many} by {} reloads", args.reloads - FEW).into());
    }
    let (calm, changed) = (quantile(&calm, 0.99), quantile(&changed, 0.99));
    Ok(vec![
        Measure::new("99th percentile, calm", "ms", milliseconds(calm)),
        Measure::new("99th percentile, 50 reloads", "ms", milliseconds(changed)),
        Measure::new("99th percentile, 50 reloads ÷ calm", "", changed.as_secs_f64() / calm.as_secs_f64()),
        Measure::new(format!("resident memory after {} reloads", RELOADS + FEW), "MiB", few / 1_024.0),
        Measure::new(
            format!("resident memory after {} reloads", RELOADS + args.reloads),
            "MiB",
            many / 1_024.0,
        ),
    ])
}

/// One event after the other at the rate that is asked for: from trigger to client, sorted.
fn delays(
    context: &Context<'_>,
    swarm: &Swarm,
    api: &mut Api,
    sequences: std::ops::RangeInclusive<u32>,
) -> Result<Vec<Duration>> {
    let (start, first, last) = (Instant::now(), *sequences.start(), *sequences.end());
    for sequence in sequences {
        let due = start + Duration::from_secs(1) * (sequence - first) / context.args.delay_rate;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        swarm.mark_sent(sequence);
        api.trigger(CHANNEL, Id { stream: 0, sequence })?;
    }
    swarm.wait_delivered(u64::from(last) * swarm.clients() as u64, TIMEOUT)?;
    let mut delays = swarm.take_delays()?;
    delays.sort_unstable();
    Ok(delays)
}

struct File {
    path: PathBuf,
    shipped: String,
}

impl File {
    /// Makes one change of several kinds in turn, each taken back by the next, and has it taken over.
    fn change(&self, admin: SocketAddr, number: u32) -> Result<()> {
        let shipped = &self.shipped;
        let replaced = |from: &str, to: &str| match shipped.contains(from) {
            true => Ok(shipped.replace(from, to)),
            false => Err(format!("{} has no {from:?}", self.path.display())),
        };
        let (text, is_right) = match number % 7 {
            0 => (shipped.clone(), true),
            // Taken over by those who are connected.
            1 => (replaced("messages = { count = 100,", "messages = { count = 120,")?, true),
            2 => (replaced("after_sunset = \"serve\"", "after_sunset = \"refuse\"")?, true),
            // Others are replaced, added and removed.
            3 => (replaced("channel = \"test-channel\"", "channel = \"another-channel\"")?, true),
            4 => (
                format!(
                    "{shipped}\n[[routes]]\nname = \"new\"\ngroup = \"typed-api\"\npath = \"/ws/new\"\nchannel = \"new\"\n"
                ),
                true,
            ),
            5 => (replaced("path = \"/ws/native\"", "path = \"/ws/native2\"")?, true),
            _ => (format!("{shipped}\n[routes"), false),
        };
        write_at_once(&self.path, &text)?;
        let answer = process::reload(admin)?;
        let taken = answer.starts_with("HTTP/1.1 200");
        if taken == is_right { Ok(()) } else { Err(format!("reload {number}: {answer}").into()) }
    }
}

/// As configurations are swapped: nobody sees half of it.
fn write_at_once(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(&new, path)?)
}
