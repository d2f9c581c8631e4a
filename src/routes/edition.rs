//! Which route, and which edition of it: the key of all state kept per route.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// Routes by different names in the life of a process, at most: a name keeps its id, its metrics and their memory.
pub const ROUTES_EVER_MAX: usize = 1 << 16;

/// A route, by its name: whatever a route of that name becomes, it keeps this id, and no other ever has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(u32);

/// A route from the generation on that brought or changed it, until another changes it. Two editions of a route have
/// nothing in common but its name: an event is rendered for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edition {
    pub route: RouteId,
    /// The number of that generation.
    pub since: u32,
}

/// There were more than [`ROUTES_EVER_MAX`] routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRoutes;

impl fmt::Display for TooManyRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {ROUTES_EVER_MAX} routes by different names since the start")
    }
}

impl std::error::Error for TooManyRoutes {}

/// The ids that were given.
#[derive(Debug, Default)]
pub struct RouteIds(HashMap<Arc<str>, RouteId>);

impl RouteIds {
    /// The ids of the routes of these names, none of which comes twice. All of them are given, or none.
    ///
    /// # Errors
    /// There are not enough left.
    pub fn of_all<'a>(
        &mut self,
        names: impl Iterator<Item = &'a Arc<str>> + Clone,
    ) -> Result<Vec<RouteId>, TooManyRoutes> {
        let new = names.clone().filter(|name| !self.0.contains_key(*name)).count();
        if self.0.len() + new > ROUTES_EVER_MAX {
            return Err(TooManyRoutes);
        }
        names.map(|name| self.of(name)).collect()
    }

    /// The id of the routes of this name.
    ///
    /// # Errors
    /// There is none left.
    pub fn of(&mut self, name: &Arc<str>) -> Result<RouteId, TooManyRoutes> {
        if let Some(id) = self.0.get(name) {
            return Ok(*id);
        }
        let next = u32::try_from(self.0.len()).map_err(|_| TooManyRoutes)?;
        if self.0.len() >= ROUTES_EVER_MAX {
            return Err(TooManyRoutes);
        }
        self.0.insert(name.clone(), RouteId(next));
        Ok(RouteId(next))
    }
}

/// Something of each route, whatever its edition: made once, and kept. Looking it up takes no lock.
#[derive(Debug)]
pub struct PerRoute<T>(ArcSwap<Vec<Option<Arc<T>>>>);

impl<T> Default for PerRoute<T> {
    fn default() -> Self {
        Self(ArcSwap::default())
    }
}

impl<T> PerRoute<T> {
    /// What there is of `route`; when there is nothing yet, what `make` gives. Of two that are made at the same time
    /// one is kept.
    pub fn get_or_make(&self, route: RouteId, make: impl FnOnce() -> T) -> Arc<T> {
        let at = route.0 as usize;
        let find = |all: &[Option<Arc<T>>]| all.get(at).cloned().flatten();
        if let Some(found) = find(&self.0.load()) {
            return found;
        }
        let made = Arc::new(make());
        self.0.rcu(|all| {
            let mut all = Vec::clone(all);
            if all.len() <= at {
                all.resize(at + 1, None);
            }
            if let Some(place) = all.get_mut(at) {
                place.get_or_insert_with(|| made.clone());
            }
            all
        });
        find(&self.0.load()).unwrap_or(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_id_and_shares_it_with_no_other() {
        let mut ids = RouteIds::default();
        let mut of = |names: &[&str]| {
            let names: Vec<Arc<str>> = names.iter().map(|&name| name.into()).collect();
            ids.of_all(names.iter())
        };
        let first = of(&["a"]).unwrap();
        let second = of(&["b"]).unwrap();
        assert_ne!(first, second);
        assert_eq!(of(&["a"]), Ok(first));
        for n in 3..ROUTES_EVER_MAX {
            assert!(of(&[&n.to_string()]).is_ok());
        }
        assert_eq!(of(&["the last", "one too many"]), Err(TooManyRoutes));
        assert!(of(&["another"]).is_ok(), "the last was not given");
        assert_eq!(of(&["one too many"]), Err(TooManyRoutes));
        assert_eq!(of(&["b"]), Ok(second), "who has an id keeps it");
    }

    #[test]
    fn what_is_kept_of_a_route_is_made_once() {
        let (routes, made) = (PerRoute::default(), std::cell::Cell::new(0));
        let get = |id| {
            let make = || {
                made.set(made.get() + 1);
                (id, made.get())
            };
            *routes.get_or_make(RouteId(id), make)
        };
        assert_eq!([get(3), get(0), get(3), get(0)], [(3, 1), (0, 2), (3, 1), (0, 2)]);
    }
}
