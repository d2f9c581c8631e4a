//! Tokens: from an `auth` message or the upgrade request, through their verdict, to the user's slots or renewal.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::phases::State;
use super::timers::Timer;
use super::{Action, Machine};
use crate::auth::{Claims, Denied, Identity, TokenError, TokenResult, token_in};
use crate::clock::Now;
use crate::exchange::Member;
use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::routes::demands::Demand;
use crate::template::Var;

/// The least time after which a client is asked to send its token again.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// How long the deadline and the expiry may be paused while tokens are judged, for all tokens of one deadline together.
/// That a token waits, where its address guesses or for keys, is not its client's doing.
pub const JUDGING_MAX: Duration = Duration::from_secs(10);

/// What is remembered of attempts to authenticate.
pub(super) struct Tokens {
    /// How long the deadline may yet be paused.
    pause_left: Duration,
    too_many_wrong: bool,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { pause_left: JUDGING_MAX, too_many_wrong: false }
    }
}

impl Tokens {
    /// With a new deadline.
    pub(super) const fn allow_pause(&mut self) {
        self.pause_left = JUDGING_MAX;
    }

    /// Why a client that is closed at its deadline had no good token by then.
    pub(super) const fn why_late(&self) -> CloseReason {
        if self.too_many_wrong { CloseReason::AuthFailures } else { CloseReason::AuthDeadline }
    }
}

/// What became of a token, for the log and the metrics.
#[derive(Debug)]
pub struct Judgement {
    /// Whose it is; empty where that is not known.
    pub user: String,
    pub result: TokenResult,
    /// What is missing or wrong: claims by their names, never a value.
    pub why: Option<String>,
}

/// What became of a verdict.
#[derive(Debug)]
pub struct Outcome {
    pub result: TokenResult,
    /// What a good token lacks for this route.
    pub denied: Option<Denied>,
}

impl Outcome {
    const fn of(result: TokenResult) -> Self {
        Self { result, denied: None }
    }
}

impl Machine {
    /// An `auth` message, or a token of the upgrade request.
    pub(super) fn auth(&mut self, token: Option<&str>, now: Now, out: &mut Vec<Action>) {
        if let Err(wait) = self.gates.auth(&self.route.limits, now.mono) {
            if self.gates.control(&self.route.limits, now.mono).is_err() {
                return self.close(CloseReason::ControlFlood, out);
            }
            out.push(Action::Unverified(TokenResult::RateLimited));
            return self.auth_error(ErrorCode::AuthRateLimited, Some(wait), now, out);
        }
        let Some(token) = token.and_then(token_in) else {
            out.push(Action::Unverified(TokenResult::NoToken));
            return self.auth_error(ErrorCode::InvalidToken, None, now, out);
        };
        self.state = State::Verifying { renewal: matches!(self.state, State::Live), since: now.mono };
        self.pause();
        out.push(Action::Verify(token.to_owned()));
    }

    /// What the verifier says of the token of [`Action::Verify`]. `retry`: when it may be asked again that has no keys;
    /// `wrong` counts a wrong token, and says how long the next must wait where there were too many.
    pub fn judged(
        &mut self,
        verdict: Result<Claims, TokenError>,
        leeway: Duration,
        (retry, wrong): (impl FnOnce() -> Duration, impl FnOnce() -> Option<Duration>),
        now: Now,
        out: &mut Vec<Action>,
    ) -> Judgement {
        let user = verdict.as_ref().map_or_else(|_| String::new(), |claims| claims.user.clone());
        let error = verdict.as_ref().err().cloned();
        let outcome = match verdict {
            // A wrong token is the sender's fault only when there was a key to judge it by.
            Err(error) if !error.is_tokens_fault() => self.unjudged(retry(), now, out),
            verdict => self.verified(verdict.map_err(|_| wrong()), leeway, now, out),
        };
        let result = error.as_ref().map_or(outcome.result, TokenError::result);
        let why = error.map(|error| error.to_string());
        Judgement { user, result, why: why.or_else(|| outcome.denied.map(|denied| denied.to_string())) }
    }

    /// The verdict on the token of [`Action::Verify`]. `Err(Some(wait))`: the client's address has sent so many wrong
    /// tokens that the next may come only after `wait`.
    pub fn verified(
        &mut self,
        verdict: Result<Claims, Option<Duration>>,
        leeway: Duration,
        now: Now,
        out: &mut Vec<Action>,
    ) -> Outcome {
        let State::Verifying { renewal, since } = self.state else { return Outcome::of(TokenResult::Late) };
        let came_at = self.resume(renewal, since, verdict.is_err(), now);
        let claims = match verdict {
            Ok(claims) => claims,
            Err(wait) => {
                self.tokens.too_many_wrong |= wait.is_some();
                let code = wait.map_or(ErrorCode::InvalidToken, |_| ErrorCode::AuthRateLimited);
                self.auth_error(code, wait, now, out);
                return Outcome::of(TokenResult::Refused);
            }
        };
        let member = self.permitted(&claims).and_then(|()| self.member_of(&claims));
        let member = match member {
            Ok(member) => member,
            Err(denied) => {
                let code = match denied {
                    Denied::Permission(_) | Denied::NoPermissions(_) => ErrorCode::MissingPermission,
                    Denied::Ownership(_) | Denied::NoClaim(_) => ErrorCode::NotOwner,
                    Denied::User => ErrorCode::InvalidField,
                    Denied::Excluded => ErrorCode::ValueExcluded,
                    Denied::Kind(_) => ErrorCode::ChannelKind,
                    Denied::UserId => ErrorCode::InvalidUserId,
                    Denied::UserInfo(_) | Denied::Watchlist(_) => ErrorCode::UserInfoTooLarge,
                };
                self.auth_error(code, None, now, out);
                return Outcome { result: denied.result(), denied: Some(denied) };
            }
        };
        if renewal && self.user.as_ref() != Some(&claims.identity()) {
            self.auth_error(ErrorCode::OtherUser, None, now, out);
            return Outcome::of(TokenResult::OtherUser);
        }
        // What it took to judge the token is not taken from its life.
        self.timers.put(Timer::Expiry, expiry(claims.expires_at_unix, leeway, came_at));
        if renewal {
            out.extend(self.auth_ok(&claims, now).map(Action::Send));
            return Outcome::of(TokenResult::Renewed);
        }
        // A later token does not change what is told of him: Pusher knows no other way than to leave and come again.
        self.member = member;
        out.push(Action::Acquire {
            user: claims.identity(),
            exclusive: self.exclusive_of(&claims.user, claims.issuer.as_ref()),
        });
        self.timers.clear(Timer::Phase);
        self.state = State::Acquiring(Box::new(claims));
        Outcome::of(TokenResult::Accepted)
    }

    /// The token of [`Action::Verify`] could not be judged, for want of keys, which may be there after `retry`. That
    /// is no fault of the client's: it is told by an error frame, for an `auth_error` would send it to log in.
    pub fn unjudged(&mut self, retry: Duration, now: Now, out: &mut Vec<Action>) -> Outcome {
        let State::Verifying { renewal, since } = self.state else { return Outcome::of(TokenResult::Late) };
        self.resume(renewal, since, false, now);
        // Whoever comes again when told must not meet the limit of attempts.
        let spacing = self.route.limits.auth_attempts.map_or(Duration::ZERO, |rate| rate.per / rate.count);
        let wait = retry.max(spacing).max(RETRY_AFTER_MIN);
        self.wait_error(ErrorCode::Unavailable, wait, now, out);
        Outcome::of(TokenResult::KeysUnavailable)
    }

    pub fn slots(&mut self, outcome: Result<(), ErrorCode>, now: Now, out: &mut Vec<Action>) {
        let claims = match std::mem::replace(&mut self.state, State::Closed) {
            State::Acquiring(claims) => claims,
            other => return self.state = other,
        };
        if let Err(code) = outcome {
            self.timers.clear(Timer::Expiry);
            self.error(code, None, now, out);
            return self.await_token(now);
        }
        self.user = Some(claims.identity());
        let confirm = self.auth_ok(&claims, now);
        if self.route.channel_is_chosen() {
            out.extend(confirm.map(Action::Send));
            return self.go_live(now);
        }
        self.state = State::Subscribing;
        if !self.subscribe_fixed(confirm, now, out) {
            self.give_up_subscribing(ErrorCode::UpstreamUnavailable, now, out);
        }
    }

    pub(super) fn token_expired(&mut self, now: Now, out: &mut Vec<Action>) {
        self.auth_error(ErrorCode::InvalidToken, None, now, out);
        self.close(CloseReason::TokenExpired, out);
    }

    /// A token is being judged: the deadline and the expiry are paused, as long as they may be.
    fn pause(&mut self) {
        self.timers.postpone(Timer::Phase, self.tokens.pause_left);
        self.timers.postpone(Timer::Expiry, JUDGING_MAX);
    }

    /// It has been judged: the deadline goes on from where it was paused, but for a token that was `wrong`, and the
    /// expiry is the old one again: whoever guesses gains no time by it. Gives `now`, its wall clock as it was when the
    /// token came, as far as the time since then counts.
    fn resume(&mut self, renewal: bool, since: Instant, wrong: bool, now: Now) -> Now {
        self.state = if renewal { State::Live } else { State::Unauthenticated };
        let waited = now.mono.saturating_duration_since(since);
        let paused = if wrong { Duration::ZERO } else { waited.min(self.tokens.pause_left) };
        self.timers.advance(Timer::Phase, self.tokens.pause_left - paused);
        self.tokens.pause_left -= paused;
        self.timers.advance(Timer::Expiry, JUDGING_MAX);
        now.with_wall_earlier(waited.min(JUDGING_MAX))
    }

    /// Whether the route takes this user for this path.
    fn permitted(&self, claims: &Claims) -> Result<(), Denied> {
        // As whom Pusher takes him is needed, not only whether.
        let mut demands = self.route.demands().filter(|demand| !matches!(demand, Demand::Member));
        demands.try_for_each(|demand| self.route.meets(demand, claims, |var| self.value_of(var, None)))
    }

    /// Who the client is to Pusher, where the route's clients are not all one.
    fn member_of(&self, claims: &Claims) -> Result<Option<Arc<Member>>, Denied> {
        self.route.membership.as_ref().map(|membership| membership.of(claims)).transpose()
    }

    /// The filled key of `limits.exclusive`; of one that names the user, his issuer is part.
    pub(super) fn exclusive_of(&self, user: &str, issuer: Option<&Arc<str>>) -> Option<Identity> {
        let key = &self.route.limits.exclusive.as_ref()?.key;
        let subject = key.fill(|var| match var {
            Var::User => Some(Cow::Borrowed(user)),
            var => self.value_of(var, None),
        })?;
        let names_user = key.vars().any(|var| *var == Var::User);
        Some(Identity { issuer: issuer.cloned().filter(|_| names_user), subject })
    }

    fn auth_ok(&self, claims: &Claims, now: Now) -> Option<String> {
        self.route.dialect.render_auth_ok(&claims.user, claims.role.as_deref(), &claims.permissions_json, now)
    }
}

/// When a token ends whose `exp` is this, in Unix seconds; `None`: further ahead than clocks can tell.
fn expiry(exp: i64, leeway: Duration, now: Now) -> Option<Instant> {
    let leeway_ms = i64::try_from(leeway.as_millis()).unwrap_or(i64::MAX);
    let end_ms = exp.saturating_mul(1000).saturating_add(leeway_ms);
    let left = Duration::from_millis(u64::try_from(end_ms.saturating_sub(now.unix_ms)).unwrap_or(0));
    now.mono.checked_add(left)
}
