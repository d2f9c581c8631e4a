//! What is served beside WebSockets, put together.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::metrics::Metrics;
use crate::clock::Now;
use crate::config::Config;
use crate::endpoints::serve::{Endpoints, Parts};
use crate::pusher::sign::Signer;
use crate::upstream::api::Api;
use crate::upstream::occupancy::Occupancy;

/// What tells which channels are vacated; `None` where no webhooks come.
pub(super) fn occupancy(config: &Config) -> Option<Arc<Occupancy>> {
    let believed_for = config.endpoints.limits.vacated_max_age;
    config.endpoints.webhooks.as_ref().map(|_| Arc::new(Occupancy::new(believed_for)))
}

/// The endpoints that are on, if any is, after those `before`. Requests to Pusher are made on the current runtime.
pub(super) fn endpoints(
    before: Option<&Endpoints>,
    config: &Config,
    api: Arc<Api>,
    occupancy: Option<Arc<Occupancy>>,
    metrics: &Metrics,
) -> Option<Arc<Endpoints>> {
    config.endpoints.paths().next()?;
    let app = &config.upstream.app;
    let parts = Parts {
        settings: config.endpoints.clone(),
        signers: app.pairs().map(|(key, secret)| Signer::new(key, secret)).collect(),
        master_key: app.encryption_master_key.clone(),
        api,
        main: Handle::current(),
        publish_timeout: config.upstream.publish.timeout,
        event_bytes_max: config.upstream.event_bytes_max,
        occupancy,
        metrics: metrics.endpoints.clone(),
        ipv6_prefix: config.server.ipv6_prefix,
    };
    Some(Arc::new(Endpoints::after(before, parts, Now::read().mono)))
}
