//! Pure: whether some route would have given a user a channel. What an old client asks by the path that it opens, a new
//! one asks by the channel's name: so a route's template is read backwards, and every path, and every in-band choice,
//! that leads to the channel is tried against the rules that the door and the session have.

use std::borrow::Cow;

use crate::auth::settings::Ownership;
use crate::auth::{Claims, Denied, contained, has_permissions};
use crate::clock::Now;
use crate::deprecation::Phase;
use crate::routes::route::Route;
use crate::template::Var;

/// Texts of claims that are compared for one answer, at most. Only claims of many values on routes whose filters are
/// left out need more than a few.
const COMPARISONS_MAX: u32 = 65_536;

/// What is asked, by whom.
pub struct Asked<'a> {
    pub channel: &'a str,
    pub claims: &'a Claims,
    /// The `Origin`s of the request: a route has its own list.
    pub origins: &'a [&'a str],
    pub now: Now,
}

/// Why a route, or no route, gives the channel. The later, the nearer it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotGiven {
    /// No route has such a channel, whoever asks.
    NoRoute,
    /// One has, and is past its sunset.
    Gone,
    /// One has, for pages of other origins.
    Origin,
    /// One has, for other users.
    Denied(Denied),
    /// One has, and shows each client a part of it only, which Pusher cannot.
    Filtered,
}

impl NotGiven {
    const fn rank(&self) -> u8 {
        match self {
            Self::NoRoute => 0,
            Self::Gone => 1,
            Self::Origin => 2,
            Self::Denied(_) => 3,
            Self::Filtered => 4,
        }
    }
}

/// The first of `routes` that would have given the channel to who asks. `unfiltered`: whether a route's filter is left
/// out.
///
/// # Errors
/// The nearest reason why none does.
pub fn given<'r, R>(
    routes: impl Iterator<Item = &'r R>,
    asked: &Asked<'_>,
    unfiltered: impl Fn(&Route) -> bool,
) -> Result<&'r R, NotGiven>
where
    R: std::ops::Deref<Target = Route>,
{
    let mut nearest = NotGiven::NoRoute;
    for route in routes {
        match gives(route, asked, unfiltered(route)) {
            Ok(()) => return Ok(route),
            Err(why) if why.rank() > nearest.rank() => nearest = why,
            Err(_) => {}
        }
    }
    Err(nearest)
}

/// Whether the route would have given the channel.
///
/// # Errors
/// Why not.
pub fn gives(route: &Route, asked: &Asked<'_>, unfiltered: bool) -> Result<(), NotGiven> {
    let mut nearest = NotGiven::NoRoute;
    let mut judged = None;
    let claims = asked.claims;
    let user = route.auth.is_some().then_some(claims.user.as_str());
    let known = |var: &Var| (*var == Var::User).then_some(user).flatten();
    route
        .channel
        .invert_all(asked.channel, &known, &|var, value| fits(route, var, value), &mut |bound| {
            if !is_one_of(route, asked, bound) {
                return false;
            }
            // What does not depend on the values is looked at once there is a reading.
            let why = judged.get_or_insert_with(|| whoever_asks(route, asked)).clone();
            let why = why.and_then(|()| {
                owned(route, claims, bound)
                    .then_some(())
                    .ok_or_else(|| NotGiven::Denied(denied(route, claims)))
            });
            let whole = unfiltered || route.filter.is_none();
            let why = why.and(if whole { Ok(()) } else { Err(NotGiven::Filtered) });
            match why {
                Ok(()) => true,
                Err(why) => {
                    if why.rank() > nearest.rank() {
                        nearest = why;
                    }
                    false
                }
            }
        })
        .then_some(())
        .ok_or(nearest)
}

/// What the route asks whatever the path says.
fn whoever_asks(route: &Route, asked: &Asked<'_>) -> Result<(), NotGiven> {
    if route.deprecation.as_ref().is_some_and(|policy| policy.phase(asked.now) == Phase::Gone) {
        return Err(NotGiven::Gone);
    }
    let allowed = |origin: &&str| route.origins.as_ref().is_none_or(|allowed| allowed.allow(origin));
    if !asked.origins.iter().all(allowed) {
        return Err(NotGiven::Origin);
    }
    let Some(auth) = &route.auth else { return Ok(()) };
    if route.value_sets.user.is_some_and(|set| !set.fits(&asked.claims.user)) {
        return Err(NotGiven::Denied(Denied::User));
    }
    if route.value_sets.not_user.iter().any(|not| not.fits(&asked.claims.user)) {
        return Err(NotGiven::Denied(Denied::Excluded));
    }
    has_permissions(auth, asked.claims).map_err(NotGiven::Denied)?;
    // Whom Pusher would not take as a member is told so at authentication.
    let member = route.membership.as_ref().map(|membership| membership.of(asked.claims)).transpose();
    member.map(drop).map_err(NotGiven::Denied)
}

/// Whether a path, or an in-band message, could have this value there.
fn fits(route: &Route, var: &Var, value: &str) -> bool {
    match var {
        Var::Path(name) => route.path.takes(name, value),
        Var::Subscribe(field) => route.takes_in_band(field, value),
        Var::User | Var::Type => false,
    }
}

/// Whether the values lead to this channel at the door too: none of them makes it one of another kind.
fn is_one_of(route: &Route, asked: &Asked<'_>, bound: &[(&Var, &str)]) -> bool {
    let value = |var: &Var| match var {
        Var::User => Some(asked.claims.user.as_str()),
        var => value_in(bound, var),
    };
    route.channel_with(|var| value(var).map(Cow::Borrowed)).is_ok_and(|name| name == asked.channel)
}

fn value_in<'b>(bound: &[(&Var, &'b str)], var: &Var) -> Option<&'b str> {
    bound.iter().find(|(known, _)| *known == var).map(|(_, value)| *value)
}

/// Whether the claims hold what the path names: the values of the channel's, and some values of what the channel does
/// not show.
fn owned(route: &Route, claims: &Claims, bound: &[(&Var, &str)]) -> bool {
    let Some(auth) = &route.auth else { return true };
    if auth.owns.is_empty() {
        return true;
    }
    let claimed: Vec<Vec<Cow<'_, str>>> = auth.owns.iter().map(|own| contained(claims, &own.claim)).collect();
    let mut comparisons = COMPARISONS_MAX;
    hold(route, &claims.user, (&auth.owns, &claimed), bound, &mut comparisons)
}

fn hold(
    route: &Route,
    user: &str,
    (owns, claimed): (&[Ownership], &[Vec<Cow<'_, str>>]),
    bound: &[(&Var, &str)],
    comparisons: &mut u32,
) -> bool {
    let (Some((own, owns)), Some((texts, claimed))) = (owns.split_first(), claimed.split_first()) else {
        return true;
    };
    let known = |var: &Var| match var {
        Var::User => Some(user),
        var => value_in(bound, var),
    };
    texts.iter().any(|text| {
        let Some(left) = comparisons.checked_sub(1) else { return false };
        *comparisons = left;
        let fits = |var: &Var, value: &str| matches!(var, Var::Path(_)) && fits(route, var, value);
        own.contains.invert_all(text, &known, &fits, &mut |more| {
            let bound: Vec<(&Var, &str)> = bound.iter().chain(more).copied().collect();
            hold(route, user, (owns, claimed), &bound, comparisons)
        })
    })
}

/// Which of the route's ownerships to tell: the first whose claim is not there, or the first.
fn denied(route: &Route, claims: &Claims) -> Denied {
    let mut names = route.auth.iter().flat_map(|auth| &auth.owns).map(|own| &own.claim);
    let first = names.clone().next().cloned().unwrap_or_default();
    match names.find(|claim| claims.get(claim).is_none()) {
        Some(missing) => Denied::NoClaim(missing.clone()),
        None => Denied::Ownership(first),
    }
}

#[cfg(test)]
mod tests;
