//! Pure: whether claims suffice for a route.

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

use super::{Claims, TokenResult};
use crate::auth::settings::{Ownership, RouteAuth};
use crate::json::scalar;
use crate::template::Var;

/// Why an authenticated user may not use a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    Permission(String),
    /// This permission is missing, as the token has no claim of permissions at all.
    NoPermissions(String),
    /// This claim does not contain what the path names.
    Ownership(String),
    /// This claim, which must contain what the path names, is not there.
    NoClaim(String),
    /// The user's id has characters that the route's names cannot hold.
    User,
    /// The route excludes this user's id.
    Excluded,
    /// The user's id would make the route's channel one of this kind.
    Kind(&'static str),
    /// The user's id is none that Pusher takes for a member's.
    UserId,
    /// So many bytes would be told of the user.
    UserInfo(usize),
    /// This claim is no list of users, or of too many.
    Watchlist(String),
}

impl Denied {
    /// What became of the token, for its label.
    #[must_use]
    pub const fn result(&self) -> TokenResult {
        match self {
            Self::Permission(_) | Self::NoPermissions(_) => TokenResult::MissingPermission,
            Self::Ownership(_) | Self::NoClaim(_) => TokenResult::NotOwner,
            Self::User | Self::UserId | Self::UserInfo(_) | Self::Watchlist(_) => TokenResult::BadClaim,
            Self::Excluded => TokenResult::ExcludedUser,
            Self::Kind(_) => TokenResult::ChannelKind,
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permission(name) => write!(f, "the permission `{name}` is missing"),
            Self::NoPermissions(name) => {
                write!(f, "the permission `{name}` is missing: the token has no claim of permissions")
            }
            Self::User => f.write_str("the user's id has characters that the route's names cannot hold"),
            Self::Excluded => f.write_str("the route excludes the user's id"),
            Self::Kind(kind) => write!(f, "with the user's id the channel would be a `{kind}` channel"),
            Self::UserId => f.write_str("the user's id is none that Pusher takes for a member's"),
            Self::UserInfo(bytes) => write!(f, "what would be told of the user has {bytes} bytes"),
            Self::Watchlist(claim) => write!(f, "the claim `{claim}` is no list of at most 100 users"),
            Self::NoClaim(claim) => write!(f, "the token lacks the claim `{claim}`"),
            Self::Ownership(claim) => write!(f, "the claim `{claim}` does not contain what the path names"),
        }
    }
}

impl std::error::Error for Denied {}

/// Whether `claims` have all of the route's permissions.
///
/// # Errors
/// The first that is missing.
pub fn has_permissions(route: &RouteAuth, claims: &Claims) -> Result<(), Denied> {
    route.permissions.iter().try_for_each(|needed| has_permission(needed, claims))
}

/// Whether `claims` have this permission.
///
/// # Errors
/// They have not.
pub fn has_permission(needed: &str, claims: &Claims) -> Result<(), Denied> {
    if claims.permissions.iter().any(|permission| permission == needed) {
        return Ok(());
    }
    let missing = needed.to_owned();
    Err(if claims.names_permissions { Denied::Permission(missing) } else { Denied::NoPermissions(missing) })
}

/// Whether a claim holds what the path names, whose text `fill` fills in. One that cannot be filled is held by nobody.
///
/// # Errors
/// It does not.
pub fn owns<'a>(
    ownership: &Ownership,
    claims: &Claims,
    fill: impl Fn(&Var) -> Option<Cow<'a, str>>,
) -> Result<(), Denied> {
    let Ownership { claim, contains } = ownership;
    let wanted = contains.fill(fill);
    if wanted.is_some_and(|wanted| contained(claims, claim).contains(&Cow::Borrowed(wanted.as_str()))) {
        return Ok(());
    }
    let claim = claim.clone();
    Err(if claims.get(&claim).is_none() { Denied::NoClaim(claim) } else { Denied::Ownership(claim) })
}

/// The texts that a claim contains: those of a list's strings and numbers, or its own.
#[must_use]
pub fn contained<'c>(claims: &'c Claims, claim: &str) -> Vec<Cow<'c, str>> {
    let Some(claim) = claims.get(claim) else { return Vec::new() };
    match serde_json::from_str::<Vec<&RawValue>>(claim) {
        Ok(list) => list.iter().filter_map(|item| scalar(item.get())).collect(),
        Err(_) => scalar(claim).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::settings::ClaimNames;
    use crate::template::{Allow, Text};
    use std::time::Duration;

    fn names() -> ClaimNames {
        ClaimNames { user: "sub".into(), role: "role".into(), permissions: "permissions".into() }
    }

    fn claims(json: &str) -> Claims {
        Claims::parse(json.to_owned(), &names()).unwrap()
    }

    fn route(permissions: &[&str], owns: &[(&str, &str)]) -> RouteAuth {
        let allow = Allow { user: true, ..Allow::default() };
        RouteAuth {
            permissions: permissions.iter().map(|&p| p.to_owned()).collect(),
            owns: owns
                .iter()
                .map(|(claim, text)| Ownership {
                    claim: (*claim).to_owned(),
                    contains: Text::parse(text, &["id".to_owned()], allow).unwrap(),
                })
                .collect(),
            deadline: Duration::from_secs(30),
            also_from: Vec::new(),
        }
    }

    /// What a route asks beside an id, in the order in which it asks.
    fn permits<'a>(
        route: &RouteAuth,
        claims: &Claims,
        fill: impl Fn(&Var) -> Option<Cow<'a, str>>,
    ) -> Result<(), Denied> {
        has_permissions(route, claims)?;
        route.owns.iter().try_for_each(|ownership| owns(ownership, claims, &fill))
    }

    #[test]
    fn all_permissions_are_needed() {
        let claims = claims(r#"{"sub":"u","exp":1,"permissions":["a","b"]}"#);
        let fill = |_: &Var| None;
        assert_eq!(permits(&route(&[], &[]), &claims, fill), Ok(()));
        assert_eq!(permits(&route(&["b", "a"], &[]), &claims, fill), Ok(()));
        let denied = permits(&route(&["a", "c"], &[]), &claims, fill).unwrap_err();
        assert_eq!(denied, Denied::Permission("c".to_owned()));
        assert_eq!(denied.result().label(), "missing_permission");
        let none = Claims::parse(r#"{"sub":"u","exp":1}"#.to_owned(), &names()).unwrap();
        let denied = permits(&route(&["c"], &[]), &none, fill).unwrap_err();
        assert_eq!(
            denied.to_string(),
            "the permission `c` is missing: the token has no claim of permissions",
            "that is what to look for"
        );
    }

    #[test]
    fn a_claim_owns_what_it_contains() {
        for (claim, wanted, owned) in [
            (r#""agent_7""#, "agent_7", true),
            (r#""agent\u005f7""#, "agent_7", true),
            (r#""agent_7""#, "agent_77", false),
            (r#""agent_7 agent_8""#, "agent_8", false),
            ("7", "7", true),
            ("7.0", "7", false),
            ("12345678901234567890", "12345678901234567890", true),
            ("12345678901234567890", "12345678901234567891", false),
            (r#"["agent_1", "agent_7", 8]"#, "agent_7", true),
            (r#"["agent_1", "agent_7", 8]"#, "8", true),
            (r#"["agent_1", ["agent_7"], {"a":"agent_7"}, null, true]"#, "agent_7", false),
            (r#"[null, true]"#, "null", false),
            (r#"["\ud800", "x"]"#, "x", true),
            ("[]", "", false),
            ("null", "null", false),
            ("true", "true", false),
            (r#"{"agent_7":1}"#, "agent_7", false),
        ] {
            let claims = claims(&format!(r#"{{"sub":"u","exp":1,"agents":{claim}}}"#));
            let fill = |var: &Var| (*var == Var::Path("id".to_owned())).then_some(Cow::Borrowed(wanted));
            let expected = if owned { Ok(()) } else { Err(Denied::Ownership("agents".to_owned())) };
            assert_eq!(
                permits(&route(&[], &[("agents", "{id}")]), &claims, fill),
                expected,
                "{claim} {wanted}"
            );
        }
    }

    #[test]
    fn every_ownership_must_hold() {
        let claims = claims(r#"{"sub":"u","exp":1,"tenant":"t1"}"#);
        let fill = |var: &Var| match var {
            Var::Path(_) => Some(Cow::Borrowed("1")),
            Var::User => Some(Cow::Borrowed("u")),
            _ => None,
        };
        assert_eq!(
            permits(&route(&[], &[("tenant", "t{id}"), ("sub", "{auth.user}")]), &claims, fill),
            Ok(())
        );
        for (owns, failing) in [
            (&[("tenant", "t{id}"), ("sub", "x{id}")][..], Denied::Ownership("sub".to_owned())),
            (&[("absent", "{id}")], Denied::NoClaim("absent".to_owned())),
        ] {
            let denied = permits(&route(&[], owns), &claims, fill).unwrap_err();
            assert_eq!((denied.result().label(), &denied), ("not_owner", &failing));
        }
        let unfilled = permits(&route(&[], &[("tenant", "t{id}")]), &claims, |_| None).unwrap_err();
        assert_eq!(unfilled.result().label(), "not_owner");
    }
}
