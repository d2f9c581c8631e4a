//! `serve`: production.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, ServeArgs, block_on, complete, load, logging, process_env};
use crate::app::{self, Shutdown};
use crate::server::admission::{DISPLACING_MAX, REFUSING_MAX};

pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let path = &args.config.config;
    let mut config = complete(load(path, &process_env)?, &path.display().to_string())?;
    config.server.listen = args.listen.unwrap_or(config.server.listen);
    config.admin.listen = args.admin.unwrap_or(config.admin.listen);
    let log = logging::init(&args.log)?;
    let most = connections_within_descriptors(config.server.connections_max);
    config.server.connections_max = most;
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
        let routes = config.routes.len();
        let running = app::start(config).await.map_err(Failure::runtime)?;
        running.metrics.watch_log(log.counts());
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = %running.address,
            admin = %running.admin_address,
            routes,
            "serving"
        );
        tokio::spawn(heed_hangups());
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: draining"),
            _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
        }
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

/// A SIGHUP must not end the program, as it would by default.
async fn heed_hangups() {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        tracing::warn!("SIGHUP: the configuration is read at start only; restart to change it");
    }
}

/// Descriptors kept from the configured connections: for those beyond, and for Pusher, backends, probes and files.
const DESCRIPTORS_KEPT: usize = REFUSING_MAX + DISPLACING_MAX + 256;

/// Raises the limit of open files as far as the system lets it be, and gives how many of the configured
/// connections fit: beyond, there would be none left for Pusher and the probes.
fn connections_within_descriptors(configured: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    let fit = current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let fit = fit.saturating_sub(DESCRIPTORS_KEPT).max(1);
    if fit < configured {
        tracing::warn!(
            configured,
            fit,
            "fewer connections than server.limits.connections: raise the limit of open files"
        );
    }
    configured.min(fit)
}
