//! What the verifier counts: fetches of keys, and the keys' ages.

use std::sync::{Arc, Mutex, PoisonError};
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

#[derive(Clone)]
pub struct Metrics {
    /// Fetches of a JWKS document.
    pub fetches: Family<Fetch>,
    ages: Named<Gauge>,
    max_ages: Named<Gauge>,
    /// Age and largest age of each key that was ever shown.
    shown: Arc<Mutex<Vec<[Gauge; 2]>>>,
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
            shown: Arc::default(),
        }
    }

    /// Shows of each key in the file how old it is and until what age it is believed. Of places that have no key any
    /// more there is nothing to worry about: they show zeros.
    pub fn show_keys(&self, keys: impl IntoIterator<Item = (Duration, Duration)>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (index, (age, max_age)) in keys.into_iter().enumerate() {
            if index == shown.len() {
                shown.push([self.ages.named(index), self.max_ages.named(index)]);
            }
            if let Some([shown_age, shown_max_age]) = shown.get(index) {
                shown_age.set(age.as_secs_f64());
                shown_max_age.set(max_age.as_secs_f64());
            }
            count += 1;
        }
        shown.iter().skip(count).flatten().for_each(|gone| gone.set(0.0));
    }
}
