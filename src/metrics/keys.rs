//! How old the keys are that tokens are judged by.

use std::time::Duration;

use metrics::Gauge;

use super::{Metrics, gauge, names};

/// The ages of `auth.keys`, in the file's order.
pub struct KeyAges(Vec<Gauge>);

impl Metrics {
    /// Registers the keys, each by its place in the file, with the age at which it is not believed any more.
    pub fn key_ages(&self, max_ages: impl Iterator<Item = Duration>) -> KeyAges {
        let ages = max_ages.enumerate().map(|(index, max_age)| {
            let label = [("key", index.to_string().into())];
            gauge(&self.recorder, names::JWKS_MAX_AGE_SECONDS, &label).set(max_age.as_secs_f64());
            gauge(&self.recorder, names::JWKS_AGE_SECONDS, &label)
        });
        KeyAges(ages.collect())
    }
}

impl KeyAges {
    /// The ages now.
    pub fn set(&self, ages: impl Iterator<Item = Duration>) {
        for (gauge, age) in self.0.iter().zip(ages) {
            gauge.set(age.as_secs_f64());
        }
    }
}
