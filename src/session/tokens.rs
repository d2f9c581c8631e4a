//! A token on its way through a session: slowed where its address guesses, judged, and noted.

use std::time::Duration;

use super::{Completion, Session};
use crate::auth::{Claims, TokenError, TokenResult, Verify};
use crate::clock::Now;
use crate::session::machine::JUDGING_MAX;
use crate::text::loggable;

/// How much later a token is judged when too many wrong ones came from its client's address.
const THROTTLE: Duration = Duration::from_secs(1);

impl Session {
    /// Where wrong tokens come too often from the client's address, each is judged a moment later: a guesser is
    /// slowed, and a neighbour behind the same address is not locked out. One that is too long is not kept.
    pub(super) fn verify(&mut self, token: String) {
        let came_at = Now::read();
        let slowed = self.context.shared.judge().is_some_and(|judge| {
            token.len() <= judge.settings.token_bytes_max
                && judge.wrong_tokens.check(self.client.address, came_at.mono).is_err()
        });
        if !slowed {
            return self.judge(token, came_at);
        }
        self.pending = Some(Box::pin(async move {
            tokio::time::sleep(THROTTLE).await;
            Completion::Judge(token, came_at)
        }));
    }

    /// Judges a token that came at `came_at`, as of then.
    pub(super) fn judge(&mut self, token: String, came_at: Now) {
        let Some(judge) = self.context.shared.judge() else {
            return self.verified(Err(TokenError::KeysUnavailable));
        };
        let now = Now::read();
        let waited = now.mono.saturating_duration_since(came_at.mono).min(JUDGING_MAX);
        let as_of = now.with_wall_earlier(waited);
        match judge.verifier.verify(&token, as_of) {
            Verify::Done(verdict) => self.verified(verdict),
            Verify::NeedsKeys => {
                self.pending = Some(Box::pin(async move {
                    Completion::Verified(judge.verifier.verify_after_refresh(&token, as_of).await)
                }));
            }
        }
    }

    pub(super) fn verified(&mut self, verdict: Result<Claims, TokenError>) {
        let now = Now::read();
        let judge = self.context.shared.judge();
        let leeway = judge.as_ref().map_or(Duration::ZERO, |judge| judge.settings.leeway);
        let retry = || judge.as_ref().map_or(Duration::ZERO, |judge| judge.verifier.retry_after(now));
        let wrong = || judge.as_ref()?.wrong_tokens.record_failure(self.client.address, now.mono).err();
        let judgement = self.machine.judged(verdict, leeway, (retry, wrong), now, &mut self.actions);
        self.note_auth(&judgement.user, judgement.result, judgement.why);
    }

    /// `why` names the claim that is missing or wrong, never its value.
    pub(super) fn note_auth(&self, user: &str, result: TokenResult, why: Option<String>) {
        self.metrics.tokens.get(result).increment(1);
        tracing::info!(
            route = &*self.route.name,
            conn = self.conn.id().0,
            client.address = %self.client.address,
            user = loggable(user),
            result = result.label(),
            why = why.as_deref().map(loggable),
            "auth"
        );
    }
}
