//! Tokens are verified here: first the key, then the signature, then the claims.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::claims::Expected;
use super::jwks::{self, RemoteKeys};
use super::keys::{self, AuthConfigError, Key};
use super::{Claims, FetchObserver, Refused};
use crate::clock::Now;
use crate::config::{Auth, AuthKey, ClaimNames, KeySource};
use crate::http::Client;

/// Verifies tokens as `[auth]` says.
pub struct Verifier {
    sources: Vec<Source>,
    expected: Expected,
    names: ClaimNames,
    token_bytes_max: usize,
}

/// What [`Verifier::verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verify {
    /// The answer.
    Done(Result<Claims, Refused>),
    /// A JWKS has to be fetched first: ask [`Verifier::verify_after_refresh`].
    NeedsKeys,
}

/// One of `auth.keys`.
enum Source {
    Fixed { algorithms: Vec<Algorithm>, keys: Vec<Key> },
    Remote(Arc<RemoteKeys>),
}

/// The keys that stand in the configuration itself; none of a JWKS URL.
fn fixed_keys(key: &AuthKey) -> Result<Vec<Key>, String> {
    match &key.source {
        KeySource::Secret(secret) => keys::from_secret(secret, &key.algorithms),
        KeySource::Pem(pem) => keys::from_pem(pem, &key.algorithms),
        KeySource::JwksText(text) => keys::from_jwks(text, &key.algorithms),
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
    fn new(key: &AuthKey, http: &Arc<Client>) -> Result<Self, String> {
        let algorithms = &key.algorithms;
        if let KeySource::JwksUrl { url, refresh, refresh_min } = &key.source {
            let remote = RemoteKeys::new(url, algorithms, *refresh, *refresh_min, Arc::clone(http))?;
            return Ok(Self::Remote(Arc::new(remote)));
        }
        let keys = fixed_keys(key)?;
        Ok(Self::Fixed { algorithms: algorithms.clone(), keys })
    }

    fn algorithms(&self) -> &[Algorithm] {
        match self {
            Self::Fixed { algorithms, .. } => algorithms,
            Self::Remote(remote) => &remote.algorithms,
        }
    }

    fn try_keys(&self, token: &Token<'_>) -> Tried {
        match self {
            Self::Fixed { keys, .. } => token.try_keys(keys),
            Self::Remote(remote) => remote.with_keys(|keys| token.try_keys(keys)).unwrap_or(Tried::NoKeys),
        }
    }
}

/// What the keys of one source say about a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tried {
    Verified,
    /// Keys were tried in vain.
    WrongSignature,
    /// There is no key of the token's `kid`.
    NoSuchKey,
    /// Nothing was ever fetched.
    NoKeys,
}

impl Verifier {
    /// Reads the keys. A JWKS URL is not fetched before a token needs it; see [`Verifier::upkeep`].
    ///
    /// # Errors
    /// A key that is none, or that cannot verify the algorithms it is configured for.
    pub fn new(auth: &Auth, http: &Arc<Client>) -> Result<Self, AuthConfigError> {
        let sources = auth.keys.iter().enumerate().map(|(key_index, key)| {
            Source::new(key, http).map_err(|message| AuthConfigError { key_index, message })
        });
        Ok(Self {
            sources: sources.collect::<Result<_, _>>()?,
            expected: Expected {
                leeway: auth.leeway,
                issuers: auth.issuers.clone(),
                audiences: auth.audiences.clone(),
            },
            names: auth.claims.clone(),
            token_bytes_max: auth.token_bytes_max,
        })
    }

    /// Has every fetch of a JWKS told to `observer`.
    pub fn observe_fetches(&self, observer: &FetchObserver) {
        for remote in self.remotes() {
            remote.observe(observer.clone());
        }
    }

    /// Begins to fetch each JWKS that is older than its `refresh` or was never fetched. To be called at start
    /// and then by a timer, within a tokio runtime.
    pub fn upkeep(&self, now: Now) {
        for remote in self.remotes() {
            remote.refresh_if_old(now);
        }
    }

    /// Verifies `token`, without `Bearer`, with the keys at hand.
    ///
    /// Where a JWKS is older than its `refresh`, a fetch is begun on the tokio runtime this is called from,
    /// and the old keys are used meanwhile.
    pub fn verify(&self, token: &str, now: Now) -> Verify {
        let token = match self.parse(token) {
            Ok(token) => token,
            Err(refused) => return Verify::Done(Err(refused)),
        };
        let tried = self.try_sources(&token);
        for remote in self.remotes_for(token.algorithm) {
            remote.refresh_if_old(now);
        }
        if tried != Tried::Verified && self.may_be_in_new_keys(&token, now) {
            return Verify::NeedsKeys;
        }
        Verify::Done(self.conclude(&token, tried, now))
    }

    /// Verifies a token for which [`Verifier::verify`] said [`Verify::NeedsKeys`]: waits for the keys, at
    /// most [`super::JWKS_TIMEOUT`] per JWKS URL, and then answers in any case. Cancel-safe.
    ///
    /// # Errors
    /// The token is refused.
    pub async fn verify_after_refresh(&self, token: &str, now: Now) -> Result<Claims, Refused> {
        let token = self.parse(token)?;
        for remote in self.remotes_for(token.algorithm) {
            if token.may_be_in_new_keys_of(remote) {
                remote.refresh(now).await;
            }
        }
        self.conclude(&token, self.try_sources(&token), now)
    }

    fn parse<'a>(&self, token: &'a str) -> Result<Token<'a>, Refused> {
        if token.len() > self.token_bytes_max {
            return Err(Refused::TooLong);
        }
        let token = Token::parse(token)?;
        if !self.sources.iter().any(|source| source.algorithms().contains(&token.algorithm)) {
            return Err(Refused::UnsupportedAlgorithm);
        }
        Ok(token)
    }

    /// The best that any source of the token's algorithm says. Where one has no keys yet, that outdoes the
    /// others' refusals: nobody knows what its keys would say.
    fn try_sources(&self, token: &Token<'_>) -> Tried {
        let mut best = Tried::NoSuchKey;
        for source in self.sources.iter().filter(|source| source.algorithms().contains(&token.algorithm)) {
            match source.try_keys(token) {
                Tried::Verified => return Tried::Verified,
                Tried::NoKeys => best = Tried::NoKeys,
                Tried::WrongSignature if best != Tried::NoKeys => best = Tried::WrongSignature,
                Tried::WrongSignature | Tried::NoSuchKey => {}
            }
        }
        best
    }

    fn may_be_in_new_keys(&self, token: &Token<'_>, now: Now) -> bool {
        self.remotes_for(token.algorithm)
            .any(|remote| token.may_be_in_new_keys_of(remote) && remote.may_refresh(now))
    }

    fn conclude(&self, token: &Token<'_>, tried: Tried, now: Now) -> Result<Claims, Refused> {
        match tried {
            Tried::Verified => {
                let payload = decode(token.payload).ok_or(Refused::Malformed)?;
                let claims = Claims::parse(payload, &self.names)?;
                self.expected.check(&claims, now)?;
                Ok(claims)
            }
            Tried::WrongSignature => Err(Refused::BadSignature),
            Tried::NoSuchKey => Err(Refused::UnknownKey),
            Tried::NoKeys => Err(Refused::KeysUnavailable),
        }
    }

    fn remotes(&self) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        self.sources.iter().filter_map(|source| match source {
            Source::Remote(remote) => Some(remote),
            Source::Fixed { .. } => None,
        })
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

/// A token taken apart (RFC 7515 §3.1). Nothing in it is to be believed before its signature.
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
    fn parse(token: &'a str) -> Result<Self, Refused> {
        let (message, signature) = token.rsplit_once('.').ok_or(Refused::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(Refused::Malformed)?;
        if payload.contains('.') {
            return Err(Refused::Malformed);
        }
        let header = decode(header).ok_or(Refused::Malformed)?;
        let header: Header = serde_json::from_str(&header).map_err(|_| Refused::Malformed)?;
        // RFC 7515 §4.1.11: what is critical and not understood makes the token invalid.
        if header.crit.is_some() {
            return Err(Refused::UnsupportedHeader);
        }
        let algorithm = keys::algorithm(&header.alg).ok_or(Refused::UnsupportedAlgorithm)?;
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

    /// Whether a fetch could make the token good: its `kid` is unknown, or it names none. A wrong signature
    /// under a known `kid` stays wrong.
    fn may_be_in_new_keys_of(&self, remote: &RemoteKeys) -> bool {
        let Some(kid) = &self.kid else { return true };
        remote.with_keys(|keys| !keys.iter().any(|key| key.is_named(kid))).unwrap_or(true)
    }
}

fn decode(base64url: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(base64url).ok()?).ok()
}
