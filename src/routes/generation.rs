//! The routes in force, and what is made of all of them: one generation at a time, which another replaces at once.
//!
//! Who comes gets the newest generation. Who is there has an edition of its route: where the route is the same in the
//! next generation, that is the same one, and nothing has happened. Else the next generation says what becomes of those
//! who have it ([`Heir`]): they take the route's next edition over, or are closed; the edition lives as long as the last
//! of them.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, Guard};

use super::by_channel::ByChannel;
use super::change::RouteChange;
use super::edition::{Edition, RouteId, RouteIds, TooManyRoutes};
use super::path::Router;
use super::publish::ClientEvents;
use super::route::Route;
use super::tunnel::TunnelRoute;
use super::tunnelled::{Fate, TunnelState};
use crate::auth::{Judge, Verifier};
use crate::websocket::metrics::Traffic;

/// One edition of a route. Equal is only what is the same edition.
pub struct RouteState {
    edition: Edition,
    rules: Arc<Route>,
    /// Messages of all the route's editions.
    pub traffic: Traffic,
}

impl RouteState {
    #[must_use]
    pub const fn edition(&self) -> Edition {
        self.edition
    }

    #[must_use]
    pub const fn id(&self) -> RouteId {
        self.edition.route
    }

    /// What the file says of it.
    #[must_use]
    pub const fn rules(&self) -> &Arc<Route> {
        &self.rules
    }
}

impl Deref for RouteState {
    type Target = Route;

    fn deref(&self) -> &Route {
        &self.rules
    }
}

impl PartialEq for RouteState {
    fn eq(&self, other: &Self) -> bool {
        self.edition == other.edition
    }
}

impl Eq for RouteState {}

impl fmt::Debug for RouteState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} since {}", self.name, self.edition.since)
    }
}

/// What becomes of those who have an edition that is not in force any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heir {
    /// They have this one from now on.
    Next(Arc<RouteState>),
    /// They are closed: the route is gone, or has changed in what they cannot take over.
    Nobody,
}

/// What serves a route.
#[derive(Clone, Copy, Debug)]
pub enum Served<'g> {
    /// Pusher, by this bridge.
    Relay(&'g Arc<RouteState>),
    /// The old server.
    Tunnel(&'g Arc<TunnelState>),
}

/// All that is made of the routes. The empty one serves nobody.
#[derive(Debug, Default)]
pub struct Generation {
    routes: Vec<Arc<RouteState>>,
    tunnels: Vec<Arc<TunnelState>>,
    /// For those who are connected to old servers, until they are told.
    news: News,
    router: Router,
    by_channel: ByChannel,
    client_events: ClientEvents,
    judge: Option<Arc<Judge>>,
    heirs: HashMap<Edition, Heir>,
}

impl Generation {
    /// The routes that Pusher serves, in the file's order.
    #[must_use]
    pub fn routes(&self) -> &[Arc<RouteState>] {
        &self.routes
    }

    /// Those that old servers go on serving, in the file's order.
    #[must_use]
    pub fn tunnels(&self) -> &[Arc<TunnelState>] {
        &self.tunnels
    }

    /// What serves the route that the router finds at this place.
    #[must_use]
    pub fn served(&self, place: usize) -> Option<Served<'_>> {
        let tunnel = || self.tunnels.get(place.checked_sub(self.routes.len())?).map(Served::Tunnel);
        self.routes.get(place).map(Served::Relay).or_else(tunnel)
    }

    /// Finds a route's place for a path: first [`Self::routes`], behind them [`Self::tunnels`].
    #[must_use]
    pub const fn router(&self) -> &Router {
        &self.router
    }

    /// What becomes of those who have this edition; `None`: nothing, it is in force.
    #[must_use]
    pub fn heir_of(&self, edition: Edition) -> Option<&Heir> {
        self.heirs.get(&edition)
    }

    /// The routes that may have a channel of this name, in the file's order.
    pub fn of_channel(&self, channel: &str) -> impl Iterator<Item = &Arc<RouteState>> {
        self.by_channel.of_channel(channel).into_iter().filter_map(|place| self.routes.get(place))
    }

    /// Judges tokens; `None` when no route needs it.
    #[must_use]
    pub const fn judge(&self) -> Option<&Arc<Judge>> {
        self.judge.as_ref()
    }

    /// Whose keys new clients need; `None` where none are needed, or all stand in the file.
    #[must_use]
    pub fn keys_to_fetch(&self) -> Option<&Verifier> {
        let verifier = &self.judge.as_ref()?.verifier;
        let needed = self.routes.iter().any(|route| route.auth.is_some());
        (needed && verifier.fetches()).then_some(verifier)
    }

    /// What clients can cause, of this generation and of editions that were alive when it came.
    #[must_use]
    pub const fn client_events(&self) -> &ClientEvents {
        &self.client_events
    }
}

/// The generation in force.
#[derive(Debug, Default)]
pub struct Generations(ArcSwap<Generation>);

impl Generations {
    /// The one in force. To be let go soon: it is read once for a burst of events.
    pub fn current(&self) -> Guard<Arc<Generation>> {
        self.0.load()
    }

    /// The one in force, to be kept for a while.
    #[must_use]
    pub fn held(&self) -> Arc<Generation> {
        self.0.load_full()
    }

    /// From now on `next` is in force. Who is connected to an old server is still to be told.
    pub fn replace(&self, mut next: Generation) -> News {
        let news = std::mem::take(&mut next.news);
        self.0.store(Arc::new(next));
        news
    }
}

/// What a generation means for those who are connected to old servers.
#[derive(Debug, Default)]
#[must_use]
pub struct News(Vec<(Arc<TunnelState>, Fate)>);

impl News {
    /// Tells them.
    pub fn tell(self) {
        for (state, fate) in self.0 {
            state.meets(fate);
        }
    }
}

/// What was, as far as it matters for what follows.
#[derive(Debug, Default)]
pub struct History {
    ids: RouteIds,
    generations: u32,
    editions: Vec<Weak<RouteState>>,
    tunnels: Vec<Weak<TunnelState>>,
}

impl History {
    /// The generation of these routes, which `router` finds by their place, those of old servers behind the others. A
    /// route that is as an edition that is still alive is that edition; `traffic` gives what counts the messages of a
    /// route by its name.
    ///
    /// # Errors
    /// Too many routes; then nothing has changed.
    pub fn next(
        &mut self,
        (routes, tunnels): (&[Arc<Route>], &[Arc<TunnelRoute>]),
        router: Router,
        judge: Option<Arc<Judge>>,
        traffic: impl Fn(&str) -> Traffic,
    ) -> Result<Generation, TooManyRoutes> {
        let names = routes.iter().map(|route| &route.name).chain(tunnels.iter().map(|route| &route.name));
        let mut ids = self.ids.of_all(names)?.into_iter();
        self.generations += 1;
        let alive: Vec<Arc<RouteState>> = self.editions().collect();
        let same = |route: &Route| alive.iter().rev().find(|edition| *edition.rules == *route).cloned();
        let routes = routes.iter().zip(ids.by_ref()).map(|(route, id)| {
            same(route).unwrap_or_else(|| {
                let edition = Edition { route: id, since: self.generations };
                Arc::new(RouteState { edition, rules: route.clone(), traffic: traffic(&route.name) })
            })
        });
        let routes: Vec<_> = routes.collect();
        let new = routes.iter().filter(|route| route.edition.since == self.generations);
        let all: Vec<&Arc<RouteState>> = alive.iter().chain(new).collect();
        self.editions = all.iter().map(|edition| Arc::downgrade(edition)).collect();
        let client_events = ClientEvents::of(all.iter().map(|edition| &*edition.rules));
        let by_channel = ByChannel::of(routes.iter().map(|route| &route.channel));
        let heirs = heirs(&alive, &routes);
        let (tunnels, news) = self.next_tunnels(tunnels, ids, traffic);
        Ok(Generation { routes, tunnels, news, router, by_channel, client_events, judge, heirs })
    }

    /// The same of what old servers serve, and what becomes of every edition that is alive.
    fn next_tunnels(
        &mut self,
        tunnels: &[Arc<TunnelRoute>],
        ids: impl Iterator<Item = RouteId>,
        traffic: impl Fn(&str) -> Traffic,
    ) -> (Vec<Arc<TunnelState>>, News) {
        let alive: Vec<Arc<TunnelState>> = self.tunnels().collect();
        let tunnels = tunnels.iter().zip(ids).map(|(route, id)| {
            let same = alive.iter().rev().find(|state| state.id() == id && *state.rules() == *route);
            same.cloned().unwrap_or_else(|| {
                let edition = Edition { route: id, since: self.generations };
                Arc::new(TunnelState::new(edition, route.clone(), traffic(&route.name)))
            })
        });
        let tunnels: Vec<_> = tunnels.collect();
        let new = tunnels.iter().filter(|state| state.edition().since == self.generations);
        self.tunnels = alive.iter().chain(new).map(Arc::downgrade).collect();
        let fate = |state: &Arc<TunnelState>| match tunnels.iter().find(|next| next.id() == state.id()) {
            Some(next) if Arc::ptr_eq(next, state) => Fate::InForce,
            Some(next) if RouteChange::between_tunnels(state.rules(), next.rules()).closes() => Fate::Closed,
            Some(next) => Fate::Next(next.clone()),
            None => Fate::Closed,
        };
        let news = alive.into_iter().map(|state| (state.clone(), fate(&state))).collect();
        (tunnels, News(news))
    }

    /// Every edition of what old servers serve that has connections, or is in force.
    pub fn tunnels(&self) -> impl Iterator<Item = Arc<TunnelState>> {
        self.tunnels.iter().filter_map(Weak::upgrade)
    }

    /// Every edition that has connections, or is in force, or about to be.
    pub fn editions(&self) -> impl Iterator<Item = Arc<RouteState>> {
        self.editions.iter().filter_map(Weak::upgrade)
    }
}

/// What becomes of the editions that were alive and are not among these routes.
fn heirs(alive: &[Arc<RouteState>], routes: &[Arc<RouteState>]) -> HashMap<Edition, Heir> {
    let by_id: HashMap<RouteId, &Arc<RouteState>> = routes.iter().map(|route| (route.id(), route)).collect();
    let heir = |edition: &Arc<RouteState>| match by_id.get(&edition.id()) {
        Some(next) if next.edition == edition.edition => None,
        Some(next) if RouteChange::between(&edition.rules, &next.rules).closes() => Some(Heir::Nobody),
        Some(next) => Some(Heir::Next(Arc::clone(next))),
        None => Some(Heir::Nobody),
    };
    alive.iter().filter_map(|edition| Some((edition.edition, heir(edition)?))).collect()
}

#[cfg(test)]
mod tests;
