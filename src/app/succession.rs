//! One generation after another: who has to know of it, in which order.

use std::sync::{Arc, Weak};

use super::metrics::Metrics;
use super::tasks::Tasks;
use super::{StartError, failed};
use crate::auth::Judge;
use crate::clock::Now;
use crate::config::Config;
use crate::http;
use crate::routes::generation::{Generations, History, News, RouteState};
use crate::routes::route::PublishAction;
use crate::session::context::Shared;
use crate::upstream::undelivered::Undelivered;

/// What it takes to replace the generation in force.
pub(super) struct Succession {
    pub(super) history: History,
    pub(super) generations: Arc<Generations>,
    pub(super) undelivered: Arc<Undelivered>,
    pub(super) metrics: Arc<Metrics>,
    /// Fetches keys.
    pub(super) http: Arc<http::Client>,
    pub(super) ipv6_prefix: u8,
    /// Not owned: with the last session the publisher's entrance is gone.
    pub(super) sessions: Weak<Shared>,
}

impl Succession {
    /// From now on the routes and `[auth]` of `config` are in force, and all of them at once: what they need is there
    /// before they are seen, and what may fail comes before anything is changed. Publishing to new backends is done
    /// by tasks of `publishing`. What it means for those who are connected to old servers is to be told when all is done.
    pub(super) fn replace(&mut self, config: &Config, publishing: &mut Tasks) -> Result<News, StartError> {
        publishing.join_ended();
        let Some(sessions) = self.sessions.upgrade() else { return Ok(News::default()) };
        let before = self.generations.held();
        let now = Now::read();
        let judged_by = (self.ipv6_prefix, now.mono);
        let judge = config.auth.as_ref().map(|auth| {
            Judge::after(before.judge(), auth, &self.http, &self.metrics.auth, judged_by)
                .map_err(failed("keys"))
        });
        let judge = judge.transpose()?;
        let traffic = |route: &str| self.metrics.websocket.of(route);
        let next = self
            .history
            .next((&config.routes, &config.tunnels), config.router.clone(), judge, traffic)
            .map_err(failed("routes"))?;
        for route in next.routes() {
            self.metrics.expect_route(route.id(), &route.name);
        }
        for route in next.tunnels() {
            self.metrics.expect_route(route.id(), &route.rules().name);
        }
        let editions: Vec<_> = self.history.editions().collect();
        let backends = editions.iter().flat_map(|edition| backends(edition));
        sessions.publisher.follow(backends, &mut publishing.running);
        self.undelivered.follow(next.routes().iter().map(|route| (route.id(), route.rules().clone())));
        let judge = next.judge().cloned();
        let news = self.generations.replace(next);
        match judge {
            Some(judge) => judge.verifier.show(now),
            None => self.metrics.auth.show_keys([]),
        }
        Ok(news)
    }
}

/// The URLs, with their placeholders, that a route's messages are posted to.
fn backends(route: &RouteState) -> impl Iterator<Item = &str> {
    route.publish.iter().filter_map(|rule| match &rule.action {
        PublishAction::Post { url, .. } => Some(url.source()),
        PublishAction::Trigger { .. } | PublishAction::Drop => None,
    })
}
