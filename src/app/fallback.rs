//! What stands behind the bridge, put together.

use std::sync::Arc;

use super::metrics::Metrics;
use crate::config::Config;
use crate::proxy::serve::Fallback;

/// What `[fallback]` says, if the file has it. What is counted goes on.
pub(super) fn fallback(config: &Config, metrics: &Metrics) -> Option<Arc<Fallback>> {
    let settings = config.fallback.clone()?;
    Some(Arc::new(Fallback::new(settings, metrics.fallback.clone())))
}
