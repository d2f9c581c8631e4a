//! Tokens: from an `auth` message or the upgrade request, through their verdict, to the user's slots or renewal.

use std::borrow::Cow;
use std::time::Duration;

use super::{Action, Machine, State};
use crate::auth::{Claims, Denied, permits, strip_bearer};
use crate::clock::Now;
use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::template::Var;

impl Machine {
    /// An `auth` message, or a token of the upgrade request.
    pub(super) fn auth(&mut self, token: Option<&str>, now: Now, out: &mut Vec<Action>) {
        if let Err(wait) = self.gates.auth(&self.route.limits, now.mono) {
            if self.gates.control(&self.route.limits, now.mono).is_err() {
                return self.close(CloseReason::ControlFlood, out);
            }
            return self.auth_error(ErrorCode::AuthRateLimited, Some(wait), now, out);
        }
        let Some(token) = token else {
            return self.auth_error(ErrorCode::InvalidToken, None, now, out);
        };
        self.state = State::Verifying { renewal: matches!(self.state, State::Live) };
        out.push(Action::Verify(strip_bearer(token).to_owned()));
    }

    fn permitted(&self, claims: &Claims) -> Result<(), ErrorCode> {
        let Some(auth) = &self.route.auth else { return Ok(()) };
        if self.route.value_sets.user.is_some_and(|set| !set.fits(&claims.user)) {
            return Err(ErrorCode::InvalidField);
        }
        permits(auth, claims, |var| match var {
            Var::User => Some(Cow::Owned(claims.user.clone())),
            var => self.value_of(var, None),
        })
        .map_err(|denied| match denied {
            Denied::Permission(_) => ErrorCode::MissingPermission,
            Denied::Ownership(_) => ErrorCode::NotOwner,
        })
    }

    /// A new token for a live connection: of the same user, it moves the expiry.
    fn renew(&mut self, claims: &Claims, leeway: Duration, now: Now, out: &mut Vec<Action>) -> &'static str {
        if self.user.as_deref() != Some(claims.user.as_str()) {
            self.auth_error(ErrorCode::OtherUser, None, now, out);
            return "other_user";
        }
        self.timers.expire_at(claims.expires_at_unix, leeway, now);
        out.extend(self.auth_ok(claims, now).map(Action::Send));
        "renewed"
    }

    pub(super) fn auth_ok(&self, claims: &Claims, now: Now) -> Option<String> {
        self.route.dialect.render_auth_ok(&claims.user, claims.role.as_deref(), &claims.permissions_json, now)
    }

    /// The verdict on the token of [`Action::Verify`]; `wait`: the client's address has sent so many wrong
    /// tokens that the next may come only after it. Gives a word for the log and the metrics.
    pub fn verified(
        &mut self,
        verdict: Result<Claims, Option<Duration>>,
        leeway: Duration,
        now: Now,
        out: &mut Vec<Action>,
    ) -> &'static str {
        let State::Verifying { renewal } = self.state else { return "late" };
        self.state = if renewal { State::Live } else { State::Unauthenticated };
        let claims = match verdict {
            Ok(claims) => claims,
            Err(wait) => {
                self.too_many_wrong_tokens |= wait.is_some();
                let code = wait.map_or(ErrorCode::InvalidToken, |_| ErrorCode::AuthRateLimited);
                self.auth_error(code, wait, now, out);
                return "refused";
            }
        };
        if let Err(code) = self.permitted(&claims) {
            self.auth_error(code, None, now, out);
            return match code {
                ErrorCode::NotOwner => "not_owner",
                ErrorCode::InvalidField => "bad_claim",
                _ => "missing_permission",
            };
        }
        if renewal {
            return self.renew(&claims, leeway, now, out);
        }
        self.timers.expire_at(claims.expires_at_unix, leeway, now);
        let exclusive = self.route.limits.exclusive.as_ref().and_then(|exclusive| {
            exclusive.key.fill(|var| match var {
                Var::User => Some(Cow::Borrowed(claims.user.as_str())),
                var => self.value_of(var, None),
            })
        });
        out.push(Action::Acquire { user: claims.user.clone(), exclusive });
        self.timers.phase = None;
        self.state = State::Acquiring(Box::new(claims));
        "accepted"
    }
}
