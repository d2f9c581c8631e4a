//! Links without the rest of a bridge.

use std::sync::Arc;

use pusher_bridge::http::Client;
use pusher_bridge::metrics::Registry;
use pusher_bridge::tls;
use pusher_bridge::upstream::api::Api;
use pusher_bridge::upstream::credentials::{Credentials, Findings};
use pusher_bridge::upstream::delivery::Delivery;
use pusher_bridge::upstream::link::Shared;
use pusher_bridge::upstream::metrics::LinkMetrics;
use pusher_bridge::upstream::settings::Settings;
use tokio::sync::mpsc;

/// What links share, counted in `registry`, and the inbox of the one hub that there is.
pub fn shared(settings: Settings, registry: &Registry) -> (Shared, mpsc::Receiver<Delivery>) {
    let tls = tls::client_config(None).unwrap();
    let client = Arc::new(Client::by(settings.proxies.clone(), &tls));
    let (hub, inbox) = mpsc::channel(64);
    let shared = Shared {
        api: Arc::new(Api::new(settings.app.clone(), settings.publish.batch_max, client)),
        settings: Arc::new(settings),
        tls,
        hubs: vec![hub],
        undelivered: Arc::default(),
        metrics: Arc::new(LinkMetrics::new(registry)),
        credentials: Credentials::unwatched(Findings::new(registry)),
    };
    (shared, inbox)
}
