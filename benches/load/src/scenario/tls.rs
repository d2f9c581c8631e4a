//! Clients by TLS: to the bridge itself, and to proxies before it that take TLS off; and the same plain.

use std::fs;
use std::path::PathBuf;

use super::{Context, SETTLE, TIMEOUT, fanout};
use crate::Result;
use crate::contender::{Contender, Setup, Stage};
use crate::identity::Identity;
use crate::procfs::{self, Reading};
use crate::report::Measure;

pub(super) fn run(context: &Context<'_>, contender: Contender) -> Result<Vec<Measure>> {
    let args = context.args;
    let identity = Identity::create(context.logs)?;
    let front = match contender {
        Contender::Haproxy => Some(("haproxy", args.haproxy.as_deref().ok_or("--haproxy FILE is missing")?)),
        Contender::Nginx => Some(("nginx", args.nginx.as_deref().ok_or("--nginx FILE is missing")?)),
        _ => None,
    };
    let by_itself = secured_routes(context, &identity)?;
    let mut measures = Vec::new();
    for (how, is_plain) in [("by TLS", false), ("plain", true)] {
        if is_plain && front.is_some() {
            continue;
        }
        // What one has left behind would be reused by the next.
        for measure in [connects, idle, fan_out] {
            let routes = if is_plain || front.is_some() { &args.routes } else { &by_itself };
            let setup = Setup { args, logs: context.logs, routes, upstream: None, old_api: None };
            let mut stage = Stage::start(Contender::Bridge, &setup)?;
            if !is_plain {
                stage.secure(&identity, front)?;
            }
            std::thread::sleep(SETTLE);
            measures.push(measure(context, &stage, how).map_err(|failure| stage.explain(&failure))?);
        }
    }
    Ok(measures)
}

/// The shipped file, with a certificate.
fn secured_routes(context: &Context<'_>, Identity { certificate, key, .. }: &Identity) -> Result<PathBuf> {
    let shipped = fs::read_to_string(&context.args.routes)?;
    let path = context.logs.join("routes-tls.toml");
    let tls = format!("\n[server.tls]\ncert_file = {certificate:?}\nkey_file = {key:?}\n");
    fs::write(&path, shipped + &tls)?;
    Ok(path)
}

/// All processes of the stage together.
struct Readings(Vec<(u32, Reading)>);

impl Readings {
    fn take(stage: &Stage) -> Result<Self> {
        let one = |pid| Ok((pid, Reading::take(pid)?));
        Ok(Self(stage.pids().map(one).collect::<Result<_>>()?))
    }

    /// CPU seconds from then to now.
    fn cpu(&self) -> Result<f64> {
        self.0.iter().map(|(pid, before)| Ok(Reading::take(*pid)?.since(before).total())).sum()
    }
}

fn resident_kib(stage: &Stage) -> Result<f64> {
    stage.pids().map(procfs::resident_kib).sum()
}

fn connects(context: &Context<'_>, stage: &Stage, how: &str) -> Result<Measure> {
    let connects = context.args.connects;
    let mut swarm = context.swarm()?;
    let plans = (0..connects as usize).map(|client| stage.subscriber(client)).collect();
    let before = Readings::take(stage)?;
    swarm.connect(plans, context.args.window, TIMEOUT)?;
    let cpu = before.cpu()?;
    swarm.check()?;
    Ok(Measure::new(format!("CPU, connects {how}"), "µs per connect", cpu / f64::from(connects) * 1e6))
}

fn idle(context: &Context<'_>, stage: &Stage, how: &str) -> Result<Measure> {
    let clients = context.args.tls_clients;
    let before = resident_kib(stage)?;
    let mut swarm = context.swarm()?;
    let plans = (0..clients as usize).map(|client| stage.subscriber(client)).collect();
    swarm.connect(plans, context.args.window, TIMEOUT)?;
    std::thread::sleep(4 * SETTLE);
    let after = resident_kib(stage)?;
    swarm.check()?;
    let each = (after - before) / f64::from(clients);
    Ok(Measure::new(format!("resident memory, {how}"), "KiB per client", each))
}

fn fan_out(context: &Context<'_>, stage: &Stage, how: &str) -> Result<Measure> {
    let args = context.args;
    let swarm = context.audience(stage, args.clients)?;
    let mut api = stage.api()?;
    let before = Readings::take(stage)?;
    fanout::one_by_one(&swarm, &mut api, args.events)?;
    let cpu = before.cpu()?;
    std::thread::sleep(SETTLE);
    swarm.check()?;
    let millions = f64::from(args.clients) * f64::from(args.events) / 1e6;
    Ok(Measure::new(format!("CPU, fan-out {how}"), "s per million deliveries", cpu / millions))
}
