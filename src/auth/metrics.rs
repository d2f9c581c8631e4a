//! What the verifier counts: fetches of keys, and the keys' ages.

use std::time::Duration;

use crate::metrics::label::labels;
use crate::metrics::{Family, Gauge, Named, Registry};

labels! {
    /// How a fetch of a JWKS ended.
    pub enum Fetch: "result" {
        Ok = "ok",
        Failed = "failed",
    }
}

pub struct Metrics {
    /// Fetches of a JWKS document.
    pub fetches: Family<Fetch>,
    ages: Named<Gauge>,
    max_ages: Named<Gauge>,
}

impl Metrics {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            fetches: registry.declare("pusher_bridge_jwks_fetches_total", "Fetches of a JWKS document"),
            ages: registry.declare_named(
                "key",
                "pusher_bridge_jwks_age_seconds",
                "Since a key of auth.keys was fetched; 0 for one in the file",
            ),
            max_ages: registry.declare_named(
                "key",
                "pusher_bridge_jwks_max_age_seconds",
                "At what age it is not believed any more; 0 for one in the file",
            ),
        }
    }

    /// Shows until what age the key at this place in the file is believed. Gives the gauge of its age.
    pub fn age_of_key(&self, index: usize, max_age: Duration) -> Gauge {
        self.max_ages.named(index).set(max_age.as_secs_f64());
        self.ages.named(index)
    }
}
