//! One `[auth]` at work: its keys, and the addresses that send wrong tokens.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::metrics::Metrics;
use super::settings::Settings;
use super::{AuthConfigError, Verifier};
use crate::http::Client;
use crate::limits::address::AddressGate;

/// Judges tokens, and counts the wrong ones.
pub struct Judge {
    /// What the file says.
    pub settings: Settings,
    /// Judges tokens.
    pub verifier: Verifier,
    /// Wrong tokens of each client address.
    pub wrong_tokens: Arc<AddressGate>,
}

impl Judge {
    /// The judge by `settings`, after the one `before`: the same where they are; else fetched keys stay at hand where
    /// their source does, and a guesser begins anew only where other guesses are borne. Nothing is shown of it yet.
    ///
    /// # Errors
    /// As [`Verifier::new`].
    pub fn after(
        before: Option<&Arc<Self>>,
        settings: &Settings,
        http: &Arc<Client>,
        metrics: &Metrics,
        (ipv6_prefix, now): (u8, Instant),
    ) -> Result<Arc<Self>, AuthConfigError> {
        if let Some(same) = before.filter(|before| before.settings == *settings) {
            return Ok(same.clone());
        }
        let rate = settings.failures_per_address;
        let counted = before.filter(|before| before.settings.failures_per_address == rate);
        Ok(Arc::new(Self {
            settings: settings.clone(),
            verifier: Verifier::after(before.map(|before| &before.verifier), settings, http, metrics)?,
            wrong_tokens: counted.map_or_else(
                || Arc::new(AddressGate::new(rate, ipv6_prefix, now)),
                |before| before.wrong_tokens.clone(),
            ),
        }))
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Judge({:?})", self.settings)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use super::*;
    use crate::auth::settings::{AuthKey, ClaimNames, KeySource};
    use crate::clock::tests::now;
    use crate::limits::rate::Rate;
    use crate::metrics::Registry;
    use crate::tls;

    fn settings(secret: &str, failures: u32) -> Settings {
        let claims = ClaimNames { user: "sub".into(), role: "role".into(), permissions: "p".into() };
        let source = KeySource::Secret(secret.to_owned().into());
        let algorithms = vec![jsonwebtoken::Algorithm::HS256];
        Settings {
            keys: vec![AuthKey { algorithms, source, issuers: Vec::new(), audiences: Vec::new() }],
            leeway: Duration::ZERO,
            claims,
            token_bytes_max: 100,
            failures_per_address: Rate { count: failures, per: Duration::from_secs(60), burst: failures },
        }
    }

    #[test]
    fn a_judge_stays_while_nothing_changes_and_its_counts_while_their_rate_does_not() {
        let http = Arc::new(Client::new(&tls::client_config(None).unwrap()));
        let metrics = Metrics::new(&Registry::new().unwrap());
        let after = |before: Option<&Arc<Judge>>, settings: &Settings| {
            Judge::after(before, settings, &http, &metrics, (64, now().mono)).unwrap()
        };
        let secret = |n: u8| format!("{n}-of-at-least-thirty-two-bytes-or-more");
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let first = after(None, &settings(&secret(1), 1));
        first.wrong_tokens.record_failure(address, now().mono).unwrap();
        assert!(Arc::ptr_eq(&first, &after(Some(&first), &settings(&secret(1), 1))));
        let rotated = after(Some(&first), &settings(&secret(2), 1));
        assert!(!Arc::ptr_eq(&first, &rotated));
        assert!(rotated.wrong_tokens.check(address, now().mono).is_err(), "a new key is no pardon");
        let milder = after(Some(&rotated), &settings(&secret(2), 5));
        assert!(milder.wrong_tokens.check(address, now().mono).is_ok());
    }
}
