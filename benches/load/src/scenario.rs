//! What is measured. Each scenario starts its contender afresh, so that no run inherits another's memory.

mod authorize;
mod channels;
mod connect;
mod decrypt;
mod delay;
mod fanout;
mod filter;
mod herd;
mod idle;
mod late;
mod presence;
mod proxy;
mod publish;
mod reload;
mod single;
mod tls;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;

use crate::args::RunArgs;
use crate::contender::{Contender, Setup, Stage};
use crate::event::Id;
use crate::report::{Measure, Report};
use crate::swarm::Swarm;
use crate::{Result, contender, machine};

/// Nothing that is waited for takes longer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// From the last of a phase to the next measurement: buffers, timers and allocators come to rest.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// CPU per delivery: many clients of one channel, one event at a time and in bursts
    Fanout,
    /// Memory per silent client
    Idle,
    /// Connects with authentication a second, and the CPU of each
    Connect,
    /// The same one at a time
    Single,
    /// Thousands of connects with authentication at once
    Herd,
    /// From trigger to client, at a fixed modest rate
    Delay,
    /// CPU per event of a channel that all share and each gets a part of
    Filter,
    /// CPU of many channels at once
    Channels,
    /// Client messages published, while the upstream takes its time
    Publish,
    /// New clients' channels authorized over HTTP
    Authorize,
    /// Clients who come to a cache channel after its last event
    Late,
    /// Memory and CPU of presence channels, beside channels without members
    Presence,
    /// CPU per event of an encrypted channel, beside one in clear
    Decrypt,
    /// CPU and memory of what is passed on to the old API, beside HAProxy and nginx
    Proxy,
    /// Connects, memory and fan-out by TLS, beside plain, and beside proxies that take TLS off
    Tls,
    /// Events while the routes file is changed all the time, and memory after a thousand reloads
    Reload,
}

impl Scenario {
    pub(crate) const DEFAULT: [Self; 16] = [
        Self::Fanout,
        Self::Idle,
        Self::Connect,
        Self::Single,
        Self::Herd,
        Self::Delay,
        Self::Filter,
        Self::Channels,
        Self::Publish,
        Self::Authorize,
        Self::Late,
        Self::Presence,
        Self::Decrypt,
        Self::Proxy,
        Self::Tls,
        Self::Reload,
    ];

    /// `None`: it makes no sense for this contender.
    fn measure(self, context: &Context<'_>, contender: Contender) -> Option<Result<Vec<Measure>>> {
        use Contender as C;
        if self == Self::Proxy {
            let proxies = matches!(contender, C::Bridge | C::Before | C::Haproxy | C::Nginx);
            return proxies.then(|| proxy::run(context, contender));
        }
        if self == Self::Tls {
            let speaks = matches!(contender, C::Bridge | C::Haproxy | C::Nginx);
            return speaks.then(|| tls::run(context, contender));
        }
        if matches!(contender, C::Haproxy | C::Nginx) {
            return None;
        }
        let run: fn(&Context<'_>, &mut Stage) -> Result<Vec<Measure>> = match (self, contender) {
            (Self::Fanout, _) => fanout::run,
            (Self::Idle, _) => idle::run,
            (Self::Connect, _) => connect::run,
            (Self::Single, _) => single::run,
            (Self::Herd, _) => herd::run,
            (Self::Delay, _) => delay::run,
            (Self::Filter, C::Floor | C::Node | C::Before | C::Bridge) => {
                return Some(filter::run(context, contender));
            }
            (Self::Channels, C::Direct | C::Node | C::Before | C::Bridge) => {
                return Some(channels::run(context, contender));
            }
            (Self::Authorize, C::Node | C::Before | C::Bridge) => authorize::run,
            (Self::Late, C::Node | C::Before | C::Bridge) => late::run,
            (Self::Reload, C::Bridge) => return Some(reload::run(context, contender)),
            (Self::Publish, C::Before | C::Bridge) => return Some(publish::run(context, contender)),
            (Self::Decrypt, C::Node | C::Before | C::Bridge) => {
                return Some(decrypt::run(context, contender));
            }
            (Self::Presence, C::Node | C::Before | C::Bridge) => {
                return Some(presence::run(context, contender));
            }
            _ => return None,
        };
        Some(context.on_stage(contender, &context.args.routes, run))
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fanout => "fanout",
            Self::Idle => "idle",
            Self::Connect => "connect",
            Self::Single => "single",
            Self::Herd => "herd",
            Self::Delay => "delay",
            Self::Filter => "filter",
            Self::Channels => "channels",
            Self::Publish => "publish",
            Self::Authorize => "authorize",
            Self::Late => "late",
            Self::Presence => "presence",
            Self::Decrypt => "decrypt",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Reload => "reload",
        })
    }
}

struct Context<'a> {
    args: &'a RunArgs,
    logs: &'a Path,
}

impl Context<'_> {
    fn on_stage<T>(
        &self,
        contender: Contender,
        routes: &Path,
        run: impl FnOnce(&Self, &mut Stage) -> Result<T>,
    ) -> Result<T> {
        let setup = Setup { args: self.args, logs: self.logs, routes, upstream: None, old_api: None };
        let mut stage = Stage::start(contender, &setup)?;
        run(self, &mut stage).map_err(|failure| stage.explain(&failure))
    }

    fn swarm(&self) -> Result<Swarm> {
        Swarm::new(self.args.threads, self.args.bytes)
    }

    /// Subscribers of the one channel, each of which has got an event.
    fn audience(&self, stage: &Stage, clients: u32) -> Result<Swarm> {
        let mut swarm = self.swarm()?;
        let plans = (0..clients as usize).map(|client| stage.subscriber(client)).collect();
        swarm.connect(plans, self.args.window, TIMEOUT)?;
        let mut api = stage.api()?;
        let warm_up = Id { stream: 0, sequence: 0 };
        swarm.warm_up(clients as usize, TIMEOUT, || api.trigger(contender::CHANNEL, warm_up))?;
        std::thread::sleep(SETTLE);
        Ok(swarm)
    }
}

/// Everything that was asked for; fails if any of it did.
pub(crate) fn run_all(args: &RunArgs) -> Result<()> {
    let args = args.scaled();
    let logs = LogDirectory::create()?;
    let context = Context { args: &args, logs: &logs.0 };
    let facts = machine::describe(&args);
    let mut report = Report::default();
    for round in 0..args.rounds {
        for scenario in &args.scenarios {
            for contender in order(&args.contenders, round) {
                let Some(outcome) = scenario.measure(&context, contender) else { continue };
                eprintln!(
                    "round {} of {}: {scenario}, {contender}: {}",
                    round + 1,
                    args.rounds,
                    brief(&outcome)
                );
                match outcome {
                    Ok(measures) => report.add(*scenario, contender, measures),
                    Err(failure) => report.fail(*scenario, contender, &failure),
                }
            }
        }
    }
    println!("{}", report.table(&facts));
    if let Some(path) = &args.json {
        fs::write(path, format!("{:#}\n", report.json(&facts)))?;
    }
    match report.failures() {
        0 => Ok(()),
        failures => Err(format!("{failures} measurements failed").into()),
    }
}

/// Another contender begins each round: what one leaves behind does not always meet the same.
fn order(contenders: &[Contender], round: u32) -> Vec<Contender> {
    let mut contenders = contenders.to_vec();
    let first = round as usize % contenders.len().max(1);
    contenders.rotate_left(first);
    contenders
}

fn brief(outcome: &Result<Vec<Measure>>) -> String {
    match outcome {
        Ok(measures) => {
            let figures = measures.iter().map(|measure| format!("{} {:.2}", measure.name, measure.value));
            figures.collect::<Vec<_>>().join(", ")
        }
        Err(failure) => format!("FAILED: {failure}"),
    }
}

/// What the contenders print; removed at the end.
struct LogDirectory(PathBuf);

impl LogDirectory {
    fn create() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("pusher-bridge-load-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for LogDirectory {
    fn drop(&mut self) {
        // An error: somebody else has removed it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The value that the given share of `sorted` is not above.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
