//! `serve`: production.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, ServeArgs, block_on, incomplete, logging, process_env, shown, supervised};
use crate::app::reload::{File, Read, Reading, Reloads, Trigger, Unreadable};
use crate::app::{self, Shutdown};
use crate::config::diagnostics::Source;
use crate::config::{self, Config};
use crate::server::admission::{DISPLACING_MAX, REFUSING_MAX};

pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let passed = supervised::passed()?;
    let overrides = Overrides { listen: args.listen, admin: args.admin };
    let (path, no_watch) = (args.config.config.clone(), args.no_watch);
    let Reading { text, files, config, .. } = read(&path, overrides);
    let mut config = config.map_err(|why| Failure::config(why.shown))?;
    let log = logging::init(&args.log)?;
    let descriptors = descriptors();
    let configured = config.server.connections_max;
    config.server.connections_max = connections_within(descriptors, configured);
    if config.server.connections_max < configured {
        tracing::warn!(
            configured,
            fit = config.server.connections_max,
            "fewer connections than server.limits.connections: raise the limit of open files"
        );
    }
    for off in &config.off {
        let variables = off.variables.join(", ");
        tracing::info!(
            route = off.name,
            path = off.path,
            variables,
            "a route is off: its `enabled_with` is empty"
        );
    }
    block_on(async {
        let mut term = signal(SignalKind::terminate()).map_err(Failure::runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::runtime)?;
        let routes = config.routes.len() + config.tunnels.len();
        let again: Read = Arc::new(move || {
            let mut reading = read(&path, overrides);
            if let Ok(config) = &mut reading.config {
                config.server.connections_max =
                    connections_within(descriptors, config.server.connections_max);
            }
            reading
        });
        let file = File { text, files, read: again, watch: !no_watch };
        let running = app::start_from(config, Some(file), passed).await.map_err(Failure::runtime)?;
        running.metrics.watch_log(log.counts());
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = %running.address,
            admin = %running.admin_address,
            routes,
            "serving"
        );
        supervised::ready();
        tokio::spawn(supervised::feed_watchdog(running.status.clone()));
        tokio::spawn(heed_hangups(running.reloads()));
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: draining"),
            _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
        }
        supervised::stopping();
        tokio::select! {
            shutdown = running.shutdown() => match shutdown {
                Shutdown::Clean => {
                    tracing::info!("stopped");
                    Ok(())
                }
                Shutdown::Cut => Err(Failure::runtime("the grace period was over before everything was done")),
            },
            _ = term.recv() => Err(Failure::runtime("a second SIGTERM: stopped at once")),
            _ = interrupt.recv() => Err(Failure::runtime("a second SIGINT: stopped at once")),
        }
    })
}

/// What flags and the environment say instead of the file.
#[derive(Clone, Copy)]
struct Overrides {
    listen: Option<SocketAddr>,
    admin: Option<SocketAddr>,
}

/// Reads the routes file, and those that it names.
fn read(path: &Path, overrides: Overrides) -> Reading {
    let name = path.display().to_string();
    let mut files = vec![path.to_owned()];
    let (text, config) = match std::fs::read_to_string(path) {
        Ok(text) => {
            let source = Source { name, text };
            let config = load_noting(&source, &process_env, &mut files);
            (source.text, config)
        }
        Err(error) => {
            let reason = format!("cannot read {name}: {error}");
            let shown = format!("error: {reason}\n");
            (String::new(), Err(Unreadable { line: None, reason, shown }))
        }
    };
    let config = config.map(|mut config| {
        config.server.listen = overrides.listen.unwrap_or(config.server.listen);
        config.admin.listen = overrides.admin.unwrap_or(config.admin.listen);
        config
    });
    Reading { name: path.display().to_string(), text, files, config }
}

fn load_noting(
    source: &Source,
    env: config::Environment<'_>,
    files: &mut Vec<PathBuf>,
) -> Result<Config, Unreadable> {
    let loaded = config::load_noting(source, env, files).map_err(|wrong| Unreadable {
        line: wrong.first().map(|first| first.line),
        reason: wrong.first().map_or_else(String::new, |first| first.message.clone()),
        shown: shown(source, &wrong),
    })?;
    loaded.complete().map_err(|missing| Unreadable {
        line: missing.first().map(|first| first.line),
        reason: missing.first().map_or_else(String::new, |first| format!("{} is not set", first.name)),
        shown: incomplete(&missing, &source.name),
    })
}

/// SIGHUP is the oldest way to ask for a reload.
async fn heed_hangups(reloads: Reloads) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        supervised::reloading();
        reloads.ask_and_wait(Trigger::Signal).await;
        supervised::ready();
    }
}

/// Descriptors kept from the configured connections: for those beyond, and for Pusher, backends, probes and files.
const DESCRIPTORS_KEPT: usize = REFUSING_MAX + DISPLACING_MAX + 256;

/// Raises the limit of open files as far as the system lets it be.
pub(super) fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many of the configured connections fit: beyond, there would be no descriptors left for Pusher and the probes.
fn connections_within(descriptors: usize, configured: usize) -> usize {
    configured.min(descriptors.saturating_sub(DESCRIPTORS_KEPT).max(1))
}
