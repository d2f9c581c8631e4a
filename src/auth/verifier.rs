//! Tokens are verified here: first the key, then the signature, then the claims.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::claims::Expected;
use super::jwks::{self, RemoteKeys, Times};
use super::keys::{self, AuthConfigError, Key};
use super::metrics::Metrics;
use super::settings::{AuthKey, ClaimNames, KeySource, Settings};
use super::{Claims, TokenError};
use crate::clock::Now;
use crate::http::Client;
use crate::json;

/// Verifies tokens as `[auth]` says.
pub struct Verifier {
    sources: Vec<Source>,
    metrics: Metrics,
    names: ClaimNames,
    token_bytes_max: usize,
}

/// What [`Verifier::verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verify {
    Done(Result<Claims, TokenError>),
    /// A JWKS has to be fetched first: ask [`Verifier::verify_after_refresh`].
    NeedsKeys,
}

/// One of `auth.keys`.
struct Source {
    algorithms: Vec<Algorithm>,
    keys: Keys,
    /// What the claims of its tokens must say.
    expected: Expected,
}

enum Keys {
    Fixed(Vec<Key>),
    Remote(Arc<RemoteKeys>),
}

/// The keys in the configuration itself, without those of JWKS URLs.
fn fixed_keys(key: &AuthKey) -> Result<Vec<Key>, String> {
    match &key.source {
        KeySource::Secret(secret) => keys::from_secret(secret, &key.algorithms),
        KeySource::Pem(pem) => keys::from_pem(pem, &key.algorithms),
        KeySource::JwksText(text) => keys::from_jwks_document(text, &key.algorithms),
        KeySource::JwksUrl { .. } => Ok(Vec::new()),
    }
}

/// Whether [`Verifier::new`] will take this key. Nothing is fetched.
///
/// # Errors
/// What is wrong with it, as a sentence without a full stop. Nothing of a secret is in it.
pub fn check_key(key: &AuthKey) -> Result<(), String> {
    match &key.source {
        KeySource::JwksUrl { url, .. } => jwks::uri(url).map(drop),
        _ => fixed_keys(key).map(drop),
    }
}

impl Source {
    /// Keys at a URL are those of `before`, where that has such a source.
    fn new(
        key: &AuthKey,
        leeway: Duration,
        before: Option<&Verifier>,
        http: &Arc<Client>,
        metrics: &Metrics,
    ) -> Result<Self, String> {
        let algorithms = key.algorithms.clone();
        let keys = if let KeySource::JwksUrl { url, refresh, refresh_min, max_age } = &key.source {
            let times = Times { refresh: *refresh, refresh_min: *refresh_min, max_age: *max_age };
            let (http, fetches) = (Arc::clone(http), metrics.fetches.clone());
            let new = RemoteKeys::new(url, &algorithms, times, http, fetches)?;
            let same = before.and_then(|before| before.remotes().find(|remote| remote.fetches_as(&new)));
            Keys::Remote(same.cloned().unwrap_or_else(|| Arc::new(new)))
        } else {
            Keys::Fixed(fixed_keys(key)?)
        };
        Ok(Self { algorithms, keys, expected: Expected::of(key, leeway) })
    }

    /// Zero for keys in the file.
    fn max_age(&self) -> Duration {
        self.remote().map_or(Duration::ZERO, |remote| remote.max_age())
    }

    fn remote(&self) -> Option<&Arc<RemoteKeys>> {
        match &self.keys {
            Keys::Remote(remote) => Some(remote),
            Keys::Fixed(_) => None,
        }
    }

    fn try_keys(&self, token: &Token<'_>, now: Now) -> Tried {
        match &self.keys {
            Keys::Fixed(keys) => token.try_keys(keys),
            Keys::Remote(remote) => {
                remote.with_keys(now, |keys| token.try_keys(keys)).unwrap_or(Tried::NoKeys)
            }
        }
    }
}

/// What the keys of one source say about a token's signature.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tried {
    Verified,
    /// No key verified it.
    WrongSignature,
    /// There is no key of the token's `kid`.
    NoSuchKey,
    /// Nothing was ever fetched, or not for too long.
    NoKeys,
}

/// What all sources say about a token.
enum Judged {
    /// A key's signature; and what that key's claims must say was looked at.
    Signed(Result<Claims, TokenError>),
    /// No key's signature, as far as is known.
    Unsigned(TokenError),
}

impl Judged {
    fn into_result(self) -> Result<Claims, TokenError> {
        match self {
            Self::Signed(result) => result,
            Self::Unsigned(error) => Err(error),
        }
    }
}

impl Verifier {
    /// Reads the keys. A JWKS URL is not fetched before a token needs it; see [`Verifier::upkeep`].
    ///
    /// # Errors
    /// A key that is none, or that cannot verify the algorithms it is configured for.
    pub fn new(auth: &Settings, http: &Arc<Client>, metrics: &Metrics) -> Result<Self, AuthConfigError> {
        Self::after(None, auth, http, metrics)
    }

    /// As [`Self::new`], but what `before` has fetched, or is fetching, from a URL stays at hand where this would
    /// fetch the same in the same way. Nothing is shown yet; see [`Self::show`].
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn after(
        before: Option<&Self>,
        auth: &Settings,
        http: &Arc<Client>,
        metrics: &Metrics,
    ) -> Result<Self, AuthConfigError> {
        let sources = auth.keys.iter().enumerate().map(|(key_index, key)| {
            Source::new(key, auth.leeway, before, http, metrics)
                .map_err(|message| AuthConfigError { key_index, message })
        });
        let sources = sources.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            sources,
            metrics: metrics.clone(),
            names: auth.claims.clone(),
            token_bytes_max: auth.token_bytes_max,
        })
    }

    /// Begins to fetch each JWKS that is older than its `refresh` or was never fetched, and shows the keys' ages. To be
    /// called at start and then by a timer, within a tokio runtime.
    pub fn upkeep(&self, now: Now) {
        for remote in self.remotes() {
            remote.refresh_if_old(now);
        }
        self.show(now);
    }

    /// Begins to fetch each JWKS, however old it is, but no sooner than `refresh_min` after the last time.
    pub fn fetch_again(&self, now: Now) {
        self.remotes().for_each(|remote| remote.fetch_again(now));
    }

    /// Shows the keys' ages on `/metrics`, and no other verifier's any more.
    pub fn show(&self, now: Now) {
        // One that was never fetched is as good as one that is too old.
        let ages = self.key_ages(now).map(|(age, max_age)| (age.unwrap_or(max_age), max_age));
        self.metrics.show_keys(ages);
    }

    /// Verifies `token`, without `Bearer`, with the keys at hand.
    ///
    /// Where a JWKS is older than its `refresh`, a fetch is begun on the tokio runtime this is called from,
    /// and the old keys are used meanwhile. Of `now` the wall clock is for the token, the other for the keys.
    pub fn verify(&self, token: &str, now: Now) -> Verify {
        let token = match self.parse(token) {
            Ok(token) => token,
            Err(error) => return Verify::Done(Err(error)),
        };
        let judged = self.try_sources(&token, now);
        for remote in self.remotes_for(token.algorithm) {
            remote.refresh_if_old(now);
        }
        // New keys may have another of its `kid`, too: an issuer can replace a key under its old name.
        let unsigned = matches!(judged, Judged::Unsigned(_));
        if unsigned && self.remotes_for(token.algorithm).any(|remote| remote.may_refresh(now)) {
            return Verify::NeedsKeys;
        }
        Verify::Done(judged.into_result())
    }

    /// Verifies a token for which [`Verifier::verify`] said [`Verify::NeedsKeys`]: waits for the keys, at
    /// most [`super::JWKS_TIMEOUT`], and then answers in any case. Cancel-safe.
    ///
    /// # Errors
    /// The token is not accepted.
    pub async fn verify_after_refresh(&self, token: &str, now: Now) -> Result<Claims, TokenError> {
        let token = self.parse(token)?;
        join_all(self.remotes_for(token.algorithm).map(|remote| remote.refresh(now))).await;
        self.try_sources(&token, now).into_result()
    }

    /// When a token that is refused for [`TokenError::KeysUnavailable`] may be judged: not before keys are asked for
    /// again.
    #[must_use]
    pub fn retry_after(&self, now: Now) -> Duration {
        let without = self.remotes().filter(|remote| remote.with_keys(now, |_| ()).is_none());
        without.map(|remote| remote.retry_after(now)).min().unwrap_or_default()
    }

    /// Whether any key has to be fetched.
    #[must_use]
    pub fn fetches(&self) -> bool {
        self.remotes().next().is_some()
    }

    /// Of the keys in the file how many can be used now, and how many there are. A JWKS counts as one.
    #[must_use]
    pub fn keys_at_hand(&self, now: Now) -> (usize, usize) {
        let remote =
            |source: &Source| source.remote().is_none_or(|remote| remote.with_keys(now, |_| ()).is_some());
        (self.sources.iter().filter(|source| remote(source)).count(), self.sources.len())
    }

    /// Whether there was ever a key to judge a token by: one in the file, or a JWKS that was fetched.
    #[must_use]
    pub fn has_had_keys(&self, now: Now) -> bool {
        self.sources.iter().any(|source| source.remote().is_none_or(|remote| remote.age(now).is_some()))
    }

    /// For each key in the file its age and when it is not believed any more: a JWKS's since it was fetched, `None`
    /// when it never was. Zero for keys in the file.
    pub(super) fn key_ages(&self, now: Now) -> impl Iterator<Item = (Option<Duration>, Duration)> {
        self.sources.iter().map(move |source| {
            let age = source.remote().map_or(Some(Duration::ZERO), |remote| remote.age(now));
            (age, source.max_age())
        })
    }

    fn parse<'a>(&self, token: &'a str) -> Result<Token<'a>, TokenError> {
        if token.len() > self.token_bytes_max {
            return Err(TokenError::TooLong);
        }
        let token = Token::parse(token)?;
        if !self.sources.iter().any(|source| source.algorithms.contains(&token.algorithm)) {
            return Err(TokenError::UnsupportedAlgorithm);
        }
        Ok(token)
    }

    /// The best that any source of the token's algorithm says: a signature, with claims that its key may speak for,
    /// before all. Else, where one has no keys, that outdoes the others' refusals: nobody knows what its keys would
    /// say.
    fn try_sources(&self, token: &Token<'_>, now: Now) -> Judged {
        let mut best = Tried::NoSuchKey;
        let mut signed = None;
        let sources = self.sources.iter().enumerate();
        for (place, source) in sources.filter(|(_, source)| source.algorithms.contains(&token.algorithm)) {
            match source.try_keys(token, now) {
                Tried::Verified => match self.claims(token, source, now) {
                    Ok(mut claims) => {
                        claims.key = place;
                        return Judged::Signed(Ok(claims));
                    }
                    Err(error) => signed = signed.or(Some(error)),
                },
                Tried::NoKeys => best = Tried::NoKeys,
                Tried::WrongSignature if best != Tried::NoKeys => best = Tried::WrongSignature,
                Tried::WrongSignature | Tried::NoSuchKey => {}
            }
        }
        match (signed, best) {
            (Some(error), _) => Judged::Signed(Err(error)),
            (None, Tried::NoKeys) => Judged::Unsigned(TokenError::KeysUnavailable),
            (None, Tried::WrongSignature) => Judged::Unsigned(TokenError::BadSignature),
            (None, Tried::NoSuchKey | Tried::Verified) => Judged::Unsigned(TokenError::UnknownKey),
        }
    }

    /// The claims of a token that a key of `source` has verified, if that key may speak for them.
    fn claims(&self, token: &Token<'_>, source: &Source, now: Now) -> Result<Claims, TokenError> {
        let payload = decode(token.payload).ok_or(TokenError::Malformed)?;
        source.expected.accept(payload, &self.names, now)
    }

    fn remotes(&self) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        self.sources.iter().filter_map(Source::remote)
    }

    fn remotes_for(&self, algorithm: Algorithm) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        self.remotes().filter(move |remote| remote.algorithms.contains(&algorithm))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} keys)", self.sources.len())
    }
}

/// A token taken apart (RFC 7515 §3.1). Nothing in it can be trusted before its signature is verified.
struct Token<'a> {
    algorithm: Algorithm,
    kid: Option<String>,
    message: &'a str,
    payload: &'a str,
    signature: &'a str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl<'a> Token<'a> {
    fn parse(token: &'a str) -> Result<Self, TokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        if payload.contains('.') {
            return Err(TokenError::Malformed);
        }
        let header = decode(header).ok_or(TokenError::Malformed)?;
        let header: Header = serde_json::from_str(&header).map_err(|_| TokenError::Malformed)?;
        // RFC 7515 §4.1.11: what is critical and not understood makes the token invalid.
        if header.crit.is_some() {
            return Err(TokenError::UnsupportedHeader);
        }
        let algorithm = keys::algorithm(&header.alg).ok_or(TokenError::UnsupportedAlgorithm)?;
        Ok(Self { algorithm, kid: header.kid, message, payload, signature })
    }

    fn try_keys(&self, keys: &[Key]) -> Tried {
        let mut outcome = Tried::NoSuchKey;
        for key in keys.iter().filter(|key| key.suits(self.algorithm, self.kid.as_deref())) {
            if key.verifies(self.message, self.signature, self.algorithm) {
                return Tried::Verified;
            }
            outcome = Tried::WrongSignature;
        }
        outcome
    }
}

/// A token's header and claims, which nobody has verified; `None`: it is none.
#[must_use]
pub fn unverified(token: &str) -> Option<(String, String)> {
    let (message, _) = token.rsplit_once('.')?;
    let (header, payload) = message.split_once('.')?;
    let (header, payload) = (decode(header)?, decode(payload)?);
    (json::is_json(&header) && json::is_json(&payload)).then_some((header, payload))
}

fn decode(base64url: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(base64url).ok()?).ok()
}
