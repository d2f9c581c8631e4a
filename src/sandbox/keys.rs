//! The keys of the app, of which it may have several while one takes another's place.

use std::collections::HashMap;

use secrecy::SecretString;

use super::SandboxHandle;
use super::hub::Inner;

/// Most keys; further ones are not taken.
const KEYS_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Keys {
    taken: Vec<(String, SecretString)>,
    /// How often each was used, whether it was taken or not; of the first that came.
    uses: HashMap<String, u64>,
}

impl Keys {
    pub(super) fn of(key: &str, secret: &SecretString) -> Self {
        Self { taken: vec![(key.to_owned(), secret.clone())], uses: HashMap::new() }
    }

    /// The key and the secret that something by `asked` is judged by; one that is not taken is compared with another.
    pub(super) fn judge(&mut self, asked: &str) -> (String, SecretString) {
        if self.uses.len() < KEYS_MAX || self.uses.contains_key(asked) {
            *self.uses.entry(asked.to_owned()).or_default() += 1;
        }
        let found = self.taken.iter().find(|(key, _)| key == asked).or(self.taken.first());
        found.cloned().unwrap_or_else(|| (String::new(), SecretString::from(String::new())))
    }
}

impl Inner {
    /// By what the `key:signature` of a subscription or a sign-in is judged.
    pub(super) fn judge_auth(&mut self, auth: Option<&str>) -> (String, SecretString) {
        let key = auth.and_then(|auth| auth.split(':').next());
        self.keys.judge(key.unwrap_or_default())
    }
}

impl SandboxHandle {
    /// From now on the app has this key, too.
    pub fn add_key(&self, key: &str, secret: &str) {
        self.hub().change(|inner| {
            if inner.keys.taken.len() < KEYS_MAX {
                inner.keys.taken.push((key.to_owned(), SecretString::from(secret.to_owned())));
            }
        });
    }

    /// From now on this key is none of the app's. Connections by it stay.
    pub fn withdraw_key(&self, key: &str) {
        self.hub().change(|inner| inner.keys.taken.retain(|(other, _)| other != key));
    }

    /// How often it was used: for connections, subscriptions, sign-ins and requests.
    #[must_use]
    pub fn key_uses(&self, key: &str) -> u64 {
        self.hub().look(|inner| inner.keys.uses.get(key).copied().unwrap_or(0))
    }
}
