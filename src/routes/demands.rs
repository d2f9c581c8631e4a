//! Pure: what a route asks of the user of a good token, one by one and in order.

use std::borrow::Cow;

use super::route::Route;
use crate::auth::settings::Ownership;
use crate::auth::{Claims, Denied, has_permission, owns};
use crate::template::{CharSet, Var};

/// Something that a route asks of a user.
#[derive(Clone, Copy, Debug)]
pub enum Demand<'r> {
    /// An id of these characters.
    Characters(CharSet),
    /// An id that is not excluded.
    NotExcluded,
    /// An id that makes the channel none of another kind.
    Kind,
    /// This one.
    Permission(&'r str),
    /// A claim that has what the path names.
    Ownership(&'r Ownership),
    /// To be somebody whom Pusher takes as a member.
    Member,
}

impl Route {
    /// All that is asked, in order. A route without authentication asks nothing.
    pub fn demands(&self) -> impl Iterator<Item = Demand<'_>> {
        self.auth.iter().flat_map(|auth| {
            let characters = self.value_sets.user.map(Demand::Characters);
            let excluded = (!self.value_sets.not_user.is_empty()).then_some(Demand::NotExcluded);
            let permissions = auth.permissions.iter().map(|name| Demand::Permission(name));
            characters
                .into_iter()
                .chain(excluded)
                .chain([Demand::Kind])
                .chain(permissions)
                .chain(auth.owns.iter().map(Demand::Ownership))
                .chain(self.membership.as_ref().map(|_| Demand::Member))
        })
    }

    /// Whether the user meets one of [`Self::demands`]. `known` gives what the path says.
    ///
    /// # Errors
    /// Why not.
    pub fn meets<'a>(
        &self,
        demand: Demand<'_>,
        claims: &'a Claims,
        known: impl Fn(&Var) -> Option<Cow<'a, str>>,
    ) -> Result<(), Denied> {
        let value = |var: &Var| match var {
            Var::User => Some(Cow::Borrowed(claims.user.as_str())),
            var => known(var),
        };
        match demand {
            Demand::Characters(set) if !set.fits(&claims.user) => Err(Denied::User),
            Demand::NotExcluded if self.value_sets.not_user.iter().any(|not| not.fits(&claims.user)) => {
                Err(Denied::Excluded)
            }
            Demand::Kind => self.other_kind(value).map_or(Ok(()), |kind| Err(Denied::Kind(kind))),
            Demand::Permission(name) => has_permission(name, claims),
            Demand::Ownership(ownership) => owns(ownership, claims, value),
            Demand::Member => {
                let member = self.membership.as_ref().map(|membership| membership.of(claims));
                member.map_or(Ok(()), |member| member.map(drop))
            }
            Demand::Characters(_) | Demand::NotExcluded => Ok(()),
        }
    }
}
