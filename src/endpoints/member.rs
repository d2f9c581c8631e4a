//! Pure: who a user is to Pusher: as a member of a presence channel, and signed in. It is what an old client of the user
//! would be.

use std::sync::Arc;

use crate::auth::{Claims, Denied};
use crate::exchange::Member;
use crate::pusher::channel::USER_PREFIX;
use crate::routes::membership::Membership;
use crate::routes::route::Route;
use crate::template::escape_into;

use super::authorize::{Asked, NotGiven, given};

/// The `channel_data` of a presence channel that the route gives, the very text that is signed. Where old clients are
/// no members (`presence = "observe"`), a new one is one all the same, of whom nothing is told but the id.
///
/// # Errors
/// Pusher would not take this user.
pub fn channel_data(route: &Route, claims: &Claims) -> Result<String, Denied> {
    let member = match &route.membership {
        Some(each @ Membership::EachUser { .. }) => each.of(claims)?,
        _ => Membership::EachUser { info: None }.of(claims)?,
    };
    let mut out = String::from("{\"user_id\":\"");
    escape_into(&mut out, &member.user_id);
    out.push('"');
    if let Some(info) = &member.info {
        out.push_str(",\"user_info\":");
        out.push_str(info);
    }
    out.push('}');
    Ok(out)
}

/// The `user_data` of a sign-in, the very text that is signed. Where routes give users their own channel, it is what the
/// first of them gives this user, and there must be one; else it is as `otherwise` has it.
///
/// # Errors
/// No route lets this user sign in, or Pusher would not take him.
pub fn user_data<'r, R>(
    routes: impl Iterator<Item = &'r R> + Clone,
    asked: &Asked<'_>,
    otherwise: &Membership,
) -> Result<Arc<str>, NotGiven>
where
    R: std::ops::Deref<Target = Route> + 'r,
{
    let signs_in = |route: &&R| matches!(route.membership, Some(Membership::SignedIn { .. }));
    let route = match routes.clone().any(|route| signs_in(&route)) {
        true => Some(given(routes.filter(signs_in), asked, |_| false)?),
        false => None,
    };
    let membership = route.and_then(|route| route.membership.as_ref()).unwrap_or(otherwise);
    let member: Arc<Member> = membership.of(asked.claims).map_err(NotGiven::Denied)?;
    member.user_data.clone().ok_or(NotGiven::NoRoute)
}

/// The channel of what backends send to this user.
#[must_use]
pub fn own_channel(claims: &Claims) -> String {
    format!("{USER_PREFIX}{}", claims.user)
}
