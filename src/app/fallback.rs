//! What stands behind the bridge, put together.

use std::sync::Arc;

use super::metrics::Metrics;
use crate::config::Config;
use crate::proxy::serve::Fallback;
use crate::proxy::settings::Settings;

/// How old servers of routes are asked: as `[fallback]` says, or by its defaults.
pub(super) fn tunnels(config: &Config, metrics: &Metrics) -> Arc<Fallback> {
    let settings = config.fallback.clone().unwrap_or_else(Settings::of_nothing);
    Arc::new(Fallback::new(settings, metrics.fallback.clone()))
}

/// What `[fallback]` says, if the file has it. What is counted goes on.
pub(super) fn fallback(config: &Config, metrics: &Metrics) -> Option<Arc<Fallback>> {
    let settings = config.fallback.clone()?;
    Some(Arc::new(Fallback::new(settings, metrics.fallback.clone())))
}
