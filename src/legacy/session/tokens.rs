//! A token on its way through a session: slowed where its address guesses, judged, and noted.

use std::time::Duration;

use super::{Done, Session, loggable};
use crate::auth::{Claims, Refused, Verify};
use crate::clock::Now;
use crate::legacy::error::ErrorCode;
use crate::legacy::machine::Action;

/// How much later a token is judged when too many wrong ones came from its client's address.
const THROTTLE: Duration = Duration::from_secs(1);

impl Session {
    /// Where wrong tokens come too often from the client's address, each is judged a moment later: a guesser is
    /// slowed, and a neighbour behind the same address is not locked out. One that is too long is not kept.
    pub(super) fn verify(&mut self, token: String) {
        let bridge = &self.worker.bridge;
        let too_long = bridge.config.auth.as_ref().is_some_and(|auth| token.len() > auth.token_bytes_max);
        if too_long || bridge.wrong_tokens.check(self.address, Now::read().mono).is_ok() {
            return self.judge(token);
        }
        self.pending = Some(Box::pin(async move {
            tokio::time::sleep(THROTTLE).await;
            Done::Judge(token)
        }));
    }

    pub(super) fn judge(&mut self, token: String) {
        let Some(verifier) = self.worker.bridge.verifier.clone() else {
            return self.verified(Err(Refused::KeysUnavailable));
        };
        match verifier.verify(&token, Now::read()) {
            Verify::Done(verdict) => self.verified(verdict),
            Verify::NeedsKeys => {
                self.pending = Some(Box::pin(async move {
                    Done::Verified(verifier.verify_after_refresh(&token, Now::read()).await)
                }));
            }
        }
    }

    pub(super) fn verified(&mut self, verdict: Result<Claims, Refused>) {
        let now = Now::read();
        let bridge = self.worker.bridge.clone();
        let leeway = bridge.config.auth.as_ref().map_or(Duration::ZERO, |auth| auth.leeway);
        let (user, reason) = match &verdict {
            Ok(claims) => (claims.user.clone(), None),
            Err(refused) => (String::new(), Some(refused.label())),
        };
        // A wrong token is the sender's fault only when there was a key to judge it by.
        let verdict = verdict.map_err(|refused| {
            refused
                .is_tokens_fault()
                .then(|| bridge.wrong_tokens.record_failure(self.address, now.mono).err())
                .flatten()
        });
        let outcome = self.machine.verified(verdict, leeway, now, &mut self.actions);
        self.note_auth(&user, reason.unwrap_or(outcome));
    }

    /// An `auth` message that was refused before its token was looked at is an attempt too.
    pub(super) fn note_unjudged(&self) {
        match self.actions.last() {
            Some(Action::Error(ErrorCode::InvalidToken, _)) => self.note_auth("", "no_token"),
            Some(Action::Error(ErrorCode::AuthRateLimited, _)) => self.note_auth("", "rate_limited"),
            _ => {}
        }
    }

    fn note_auth(&self, user: &str, result: &'static str) {
        self.worker.bridge.metrics.auth(self.route.index, result);
        tracing::info!(
            route = &*self.route.name,
            conn = self.conn.id().0,
            client.address = %self.address,
            user = loggable(user),
            result,
            "auth"
        );
    }
}
