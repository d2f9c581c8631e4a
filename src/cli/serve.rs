//! `serve`: production.

use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, ServeArgs, complete, load, logging, process_env, runtime};
use crate::app::{self, Shutdown};

pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let path = &args.config.config;
    let mut config = complete(load(path, &process_env)?, &path.display().to_string())?;
    config.server.listen = args.listen.unwrap_or(config.server.listen);
    config.server.admin = args.admin.unwrap_or(config.server.admin);
    logging::init(&args.log)?;
    runtime()?.block_on(async {
        let mut term = signal(SignalKind::terminate()).map_err(Failure::runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::runtime)?;
        let routes = config.routes.len();
        let running = app::start(config).await.map_err(Failure::runtime)?;
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
