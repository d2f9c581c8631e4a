//! Pure: what is looked at, one by one: so that all that fails is told, and not only what is met first.

use crate::auth::Claims;
use crate::deprecation::Phase;
use crate::explain::answer::{Check, CheckResult, Effect};
use crate::routes::demands::Demand;
use crate::routes::entrance::Entrance;
use crate::routes::path::{BadValue, PathValues};
use crate::routes::route::Route;
use crate::server::gate::{Facts, admit};
use crate::template::Var;

pub(super) struct Checks<'a> {
    pub(super) entrance: Entrance<'a>,
    /// The line of a key of the route's.
    pub(super) line: &'a dyn Fn(&str) -> Option<usize>,
    pub(super) list: Vec<Check>,
}

impl Checks<'_> {
    fn push(&mut self, verdict: CheckResult, key: impl Into<String>, found: impl Into<String>) {
        let (key, found) = (key.into(), found.into());
        let line = (self.line)(&key);
        self.list.push(Check { verdict, key, found, line });
    }

    /// What a request meets before there is a connection.
    pub(super) fn door(&mut self, values: &Result<PathValues, BadValue>, phase: Phase, origin_allowed: bool) {
        let template = self.entrance.path.source().to_owned();
        match values {
            Ok(_) => self.push(CheckResult::Passed, "path", template),
            Err(BadValue::Excluded(why)) => self.push(CheckResult::Failed, "exclude", why.clone()),
            Err(BadValue::Illegal(why) | BadValue::Kind(why)) => {
                self.push(CheckResult::Failed, "path", why.clone());
            }
        }
        // Each by itself: what the other is does not count.
        let fine = Facts { over: false, draining: false, phase: Phase::Current, origin_allowed: true };
        if self.entrance.deprecation.is_some() {
            let found = format!("the route is {}", phase.label());
            self.push(verdict(admit(Facts { phase, ..fine }).is_ok()), "deprecation", found);
        }
        if let Some(origins) = self.entrance.origins {
            let found = format!("of {}", origins.list().join(", "));
            let allowed = admit(Facts { origin_allowed, ..fine }).is_ok();
            self.push(
                verdict(allowed),
                "origins",
                if allowed { "allowed".to_owned() } else { format!("not one {found}") },
            );
        }
    }

    /// What is asked of the user: his token, and who he is.
    pub(super) fn user(
        &mut self,
        route: &Route,
        has_token: bool,
        token: Option<&Effect>,
        claims: Option<(&Claims, &PathValues)>,
    ) {
        let Some(auth) = &route.auth else {
            if has_token {
                self.push(CheckResult::Open, "auth.required", "the route asks for no token");
            }
            return;
        };
        match token {
            _ if let Some((claims, _)) = claims => {
                let key = format!("auth.keys[{}]", claims.key);
                self.push(CheckResult::Passed, key, format!("it verified the token of {}", claims.user));
            }
            Some(Effect::Token { result, why }) => {
                let found = why.clone().unwrap_or_else(|| (*result).to_owned());
                self.push(CheckResult::Failed, "auth.required", found);
            }
            _ => {
                let found = format!("no token: one is waited for, {} s", auth.deadline.as_secs());
                self.push(CheckResult::Open, "auth.required", found);
            }
        }
        let (mut permissions, mut ownerships) = (0, 0);
        for demand in route.demands() {
            let (key, asked) = match demand {
                Demand::Characters(set) => ("values.auth.user".to_owned(), format!("a user's id is {set}")),
                Demand::NotExcluded => ("exclude.auth.user".to_owned(), "not an excluded user".to_owned()),
                Demand::Kind => ("channel".to_owned(), "the channel is of the route's kind".to_owned()),
                Demand::Permission(name) => {
                    permissions += 1;
                    (format!("auth.permissions[{}]", permissions - 1), format!("the permission `{name}`"))
                }
                Demand::Ownership(own) => {
                    ownerships += 1;
                    let asked = format!("the claim `{}` has {}", own.claim, own.contains.source());
                    (format!("auth.owns[{}]", ownerships - 1), asked)
                }
                Demand::Member => ("presence".to_owned(), "the user can be a member at Pusher".to_owned()),
            };
            let Some((claims, values)) = claims else {
                self.push(CheckResult::Open, key, asked);
                continue;
            };
            let known = |var: &Var| match var {
                Var::Path(name) => values.get(name).map(std::borrow::Cow::Borrowed),
                _ => None,
            };
            match route.meets(demand, claims, known) {
                Ok(()) => self.push(CheckResult::Passed, key, asked),
                Err(denied) => self.push(CheckResult::Failed, key, denied.to_string()),
            }
        }
    }
}

const fn verdict(passed: bool) -> CheckResult {
    if passed { CheckResult::Passed } else { CheckResult::Failed }
}
