//! Tokens judged on the command line, by the keys that serving has.

use std::collections::HashMap;
use std::sync::Arc;

use super::Failure;
use crate::auth::metrics::Metrics;
use crate::auth::{Claims, TokenError, Verifier, Verify};
use crate::clock::Now;
use crate::config::Loaded;
use crate::metrics::Registry;
use crate::{http, tls};

/// The keys of a file.
pub(super) struct Judge {
    /// `None`: no route asks for a token.
    verifier: Option<Verifier>,
    /// Why no token can be judged.
    unusable: Option<String>,
    known: HashMap<String, Result<Claims, TokenError>>,
}

/// What was asked while something was answered.
pub(super) enum Asked {
    Nothing,
    /// Keys have to be fetched for this token.
    Keys(String),
    /// A key's variable has no value.
    Unusable(String),
}

impl Judge {
    /// Nothing is fetched before a token needs it. To be called in a runtime.
    pub(super) fn new(loaded: &Loaded) -> Result<Self, Failure> {
        let missing = loaded.missing.iter().find(|missing| missing.key.starts_with("auth."));
        let unusable = missing.map(|missing| {
            format!(
                "no token can be judged: {} is not set ({}, line {})",
                missing.name, missing.key, missing.line
            )
        });
        let upstream = &loaded.config.upstream;
        let verifier = match &loaded.config.auth {
            Some(auth) if unusable.is_none() => {
                let tls = tls::client_config(upstream.app.ca_file.as_deref()).map_err(Failure::runtime)?;
                let client = Arc::new(http::Client::by(upstream.proxies.clone(), &tls));
                let metrics = Metrics::new(&Registry::new().map_err(Failure::runtime)?);
                Some(Verifier::new(auth, &client, &metrics).map_err(Failure::runtime)?)
            }
            _ => None,
        };
        Ok(Self { verifier, unusable, known: HashMap::new() })
    }

    /// What `token` is worth with the keys at hand; what it would take to tell is noted in `asked`.
    pub(super) fn judge(&self, token: &str, now: Now, asked: &mut Asked) -> Result<Claims, TokenError> {
        if let Some(why) = &self.unusable {
            *asked = Asked::Unusable(why.clone());
        }
        match (&self.verifier, self.known.get(token)) {
            (_, Some(known)) => known.clone(),
            (None, None) => Err(TokenError::KeysUnavailable),
            (Some(verifier), None) => match verifier.verify(token, now) {
                Verify::Done(verdict) => verdict,
                Verify::NeedsKeys => {
                    *asked = Asked::Keys(token.to_owned());
                    Err(TokenError::KeysUnavailable)
                }
            },
        }
    }

    /// Answers by `answer`, which judges by what it is given; again when keys had to be fetched.
    pub(super) async fn with<T>(
        &mut self,
        now: Now,
        mut answer: impl FnMut(&mut dyn FnMut(&str) -> Result<Claims, TokenError>) -> T,
    ) -> Result<T, Failure> {
        loop {
            let mut asked = Asked::Nothing;
            let answered = answer(&mut |token| self.judge(token, now, &mut asked));
            match (asked, &self.verifier) {
                (Asked::Unusable(why), _) => return Err(Failure::config(format!("error: {why}\n"))),
                (Asked::Keys(token), Some(verifier)) if !self.known.contains_key(&token) => {
                    let verdict = verifier.verify_after_refresh(&token, now).await;
                    self.known.insert(token, verdict);
                }
                _ => return Ok(answered),
            }
        }
    }
}
