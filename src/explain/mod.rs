//! What becomes of a request, of what its client then says, and of an event: decided by the functions that decide it for
//! clients, with nobody there. `explain` prints it, and `test` compares it with what a file expects.

pub mod answer;
mod checks;
mod compare;
pub mod expect;
pub mod question;
mod talk;
pub mod text;

use std::borrow::Cow;
use std::sync::Arc;

use self::answer::{Answer, Client, Deprecation, Effect, Limit, Outcome, Step, Target, Value};
use self::checks::Checks;
pub use self::question::{NotAUrl, Question};
pub use self::talk::Verdict;
use self::talk::{Setting, Talk};
use crate::config::{Config, Places, Served, limits, tunnel_limits};
use crate::deprecation::Phase;
use crate::endpoints::settings::Endpoint;
use crate::legacy::error::ErrorCode;
use crate::limits::address::one_client;
use crate::routes::entrance::Entrance;
use crate::routes::path::{BadValue, Matched, PathTemplate, PathValues, Router};
use crate::routes::publish::ClientEvents;
use crate::routes::route::Route;
use crate::routes::tunnel::TunnelRoute;
use crate::server::classify::{self, classify};
use crate::server::forwarded::{client_address, is_trusted};
use crate::server::gate::{Facts, admit, origin_allowed, passable, told_by_frame, upgradable};
use crate::server::presented::presented_token;
use crate::server::upgrade::check;
use crate::session::machine::Opening;
use crate::template::{Var, closest};
use crate::websocket::reader::try_text;

/// Answers questions about one configuration.
pub struct Explainer<'c> {
    config: &'c Config,
    client_events: ClientEvents,
    places: Option<&'c Places>,
}

impl<'c> Explainer<'c> {
    /// Without lines of the file.
    #[must_use]
    pub fn new(config: &'c Config) -> Self {
        let client_events = ClientEvents::of(config.routes.iter().map(|route| &**route));
        Self { config, client_events, places: None }
    }

    /// The same, with the lines of the file that has this configuration.
    #[must_use]
    pub fn with_places(self, places: &'c Places) -> Self {
        Self { places: Some(places), ..self }
    }

    /// What becomes of all that is asked. `judge` says what a token is worth.
    pub fn answer(&self, question: &Question, judge: Verdict<'_>) -> Answer {
        let (path, config) = (question.request.uri.path(), self.config);
        let health_path = config.server.health_path.as_deref();
        match classify(path, health_path, Some(&config.endpoints), &config.router, config.fallback.as_ref()) {
            classify::Target::Route(index, values) => match config.served(index) {
                Some(Served::Relay(route)) => self.at_route(question, route, values, judge),
                Some(Served::Tunnel(route)) => self.at_tunnel(question, route, values),
                None => Answer::elsewhere(path, Target::Nothing { nearest: None }),
            },
            classify::Target::Health => Answer::elsewhere(path, Target::Health),
            classify::Target::Endpoint(endpoint) => Answer::elsewhere(path, self.endpoint(endpoint)),
            classify::Target::Fallback => Answer::elsewhere(path, self.fallback(path)),
            classify::Target::Nothing => Answer::elsewhere(path, self.nothing(path)),
        }
    }

    fn endpoint(&self, endpoint: Endpoint) -> Target {
        let key = format!("endpoints.{}", endpoint.label());
        Target::Endpoint { what: endpoint.label(), line: self.places.and_then(|places| places.of_file(&key)) }
    }

    /// Where it is passed on to, and what says so.
    fn fallback(&self, path: &str) -> Target {
        let settings = self.config.fallback.as_ref();
        let chosen = settings.map(|settings| settings.choose(path));
        let rule = chosen.and_then(|chosen| chosen.rule);
        let key = match rule {
            Some(rule) => format!("fallback.rules[{rule}].path"),
            None => "fallback.to".to_owned(),
        };
        Target::Fallback {
            to: chosen.and_then(|chosen| chosen.to).map_or_else(String::new, |to| to.source().to_owned()),
            rule: rule.and_then(|rule| Some(settings?.rules.get(rule)?.path.clone())),
            line: self.places.and_then(|places| places.of_file(&key)),
        }
    }

    /// No route takes the path: one may that is off, or one is nearly of this name.
    fn nothing(&self, path: &str) -> Target {
        let has_path = |template: &str| {
            let template = PathTemplate::parse(template).ok()?;
            (Router::new(vec![template]).find(path) != Matched::Nothing).then_some(())
        };
        if let Some(off) = self.config.off.iter().find(|off| has_path(&off.path).is_some()) {
            return Target::Off { route: off.name.clone(), variables: off.variables.clone() };
        }
        // By what the file says of it: what is in a placeholder's place is as it should be.
        let segments: Vec<&str> = path.split('/').collect();
        let like = |template: &str| -> String {
            let filled = template.split('/').zip(segments.iter().chain(std::iter::repeat(&"")));
            let filled = filled.map(|(own, asked)| if own.starts_with('{') { asked } else { own });
            filled.collect::<Vec<_>>().join("/")
        };
        let known: Vec<(String, &str)> =
            self.config.entrances().map(|route| (like(route.path.source()), route.path.source())).collect();
        let nearest = closest(path, known.iter().map(|(like, _)| like.as_str()));
        let nearest = known.iter().find(|(like, _)| Some(like.as_str()) == nearest);
        Target::Nothing { nearest: nearest.map(|(_, path)| (*path).to_owned()) }
    }

    /// The line of a key: of the route's, of its dialect's, or of tokens'.
    fn line(&self, route: &str, key: &str) -> Option<usize> {
        let places = self.places?;
        let is_files = key.starts_with("dialects.") || key.starts_with("auth.keys[");
        if is_files { places.of_file(key) } else { places.of_route(route, key) }
    }

    /// What is said of a request that meets a route, whatever serves it.
    fn at_entrance(
        &self,
        question: &Question,
        (entrance, target): (Entrance<'_>, Target),
        values: &Result<PathValues, BadValue>,
    ) -> Answer {
        let name_and_value = |name: &String| {
            let value = values.as_ref().ok()?.get(name)?;
            Some(Value { name: name.clone(), value: value.to_owned() })
        };
        Answer {
            values: entrance.path.names().iter().filter_map(name_and_value).collect(),
            deprecation: entrance.deprecation.map(|policy| Deprecation {
                phase: policy.phase(question.now).label(),
                headers: policy.headers(),
                line: self.line(entrance.name, "deprecation"),
            }),
            client: question.address.map(|address| self.client(question, address)),
            ..Answer::elsewhere(question.request.uri.path(), target)
        }
    }

    /// An old server is asked, unless the request is turned away here.
    fn at_tunnel(
        &self,
        question: &Question,
        route: &TunnelRoute,
        values: Result<PathValues, BadValue>,
    ) -> Answer {
        let entrance = route.entrance();
        let limit = |(key, what)| Limit { key, what, line: self.line(&route.name, key) };
        let target = Target::Tunnel {
            name: route.name.to_string(),
            path: route.path.source().to_owned(),
            to: route.to.source().to_owned(),
            line: self.line(&route.name, ""),
        };
        let mut answer = Answer {
            limits: tunnel_limits(route).into_iter().map(limit).collect(),
            ..self.at_entrance(question, (entrance, target), &values)
        };
        let facts = facts(question, entrance);
        let mut checks = Checks { entrance, line: &|key| self.line(&route.name, key), list: Vec::new() };
        checks.door(&values, facts.phase, facts.origin_allowed);
        answer.checks = checks.list;
        let path = question.request.uri.path();
        let admitted = upgradable(values, check(&question.request)).and_then(|_| {
            admit(facts)?;
            passable(path)
        });
        answer.outcome = match admitted {
            Ok(()) => Outcome::PassedOn,
            Err(refused) => Outcome::refused(&refused),
        };
        answer
    }

    fn at_route(
        &self,
        question: &Question,
        route: &Arc<Route>,
        values: Result<PathValues, BadValue>,
        judge: Verdict<'_>,
    ) -> Answer {
        let channel = route.channel_with(|var| match var {
            Var::Path(name) => values.as_ref().ok()?.get(name).map(Cow::Borrowed),
            _ => None,
        });
        let target = Target::Route {
            name: route.name.to_string(),
            path: route.path.source().to_owned(),
            line: self.line(&route.name, ""),
        };
        let entrance = route.entrance();
        let mut answer = Answer {
            channel: Some(channel.unwrap_or_else(|_| route.channel.source().to_owned())),
            limits: self.limits(route),
            ..self.at_entrance(question, (entrance, target), &values)
        };
        let facts = facts(question, entrance);
        let mut checks = Checks { entrance, line: &|key| self.line(&route.name, key), list: Vec::new() };
        checks.door(&values, facts.phase, facts.origin_allowed);
        let admitted = upgradable(values, check(&question.request)).and_then(|upgradable| {
            let told = match admit(facts) {
                Ok(()) => None,
                Err(refusal) => Some(told_by_frame(refusal, route.refusal).ok_or(refusal)?),
            };
            Ok((upgradable.values, told))
        });
        match admitted {
            Err(refused) => {
                answer.outcome = Outcome::refused(&refused);
                checks.user(route, question.token.is_some(), None, None);
                answer.checks = checks.list;
            }
            Ok((values, told)) => {
                answer.outcome =
                    told.map_or(Outcome::Upgraded, |code| Outcome::ToldByFrame { code: code.as_str() });
                self.talk(question, &mut answer, (route, values, told), judge, checks);
            }
        }
        answer
    }

    /// The connection is there: what its client says, and what comes.
    fn talk(
        &self,
        question: &Question,
        answer: &mut Answer,
        (route, values, refusal): (&Arc<Route>, PathValues, Option<ErrorCode>),
        judge: Verdict<'_>,
        mut checks: Checks<'_>,
    ) {
        let places = route.auth.as_ref().map_or(&[][..], |auth| &auth.also_from);
        let query = question.request.uri.query().unwrap_or("");
        let presented = presented_token(&question.request.headers, query, places);
        let known = values.clone();
        let opening = Opening {
            route: route.clone(),
            endpoint: question.request.uri.path().to_owned(),
            values,
            token: presented.token,
            refusal,
            subscribe_wait: self.config.upstream.times.subscribe_timeout,
            seed: 0,
        };
        let setting = Setting {
            route,
            client_events: &self.client_events,
            leeway: self.config.auth.as_ref().map_or(std::time::Duration::ZERO, |auth| auth.leeway),
            now: question.now,
            line: &|key| self.line(&route.name, key),
        };
        let (mut talk, effects) = Talk::open(opening, setting, judge);
        answer.steps.push(Step { sent: None, effects });
        if let Some(message) = question.token.as_ref().and_then(|token| talk.auth_message(token)) {
            let effects = talk.say(&message);
            answer.steps.push(Step { sent: talk.auth_message("…"), effects });
        }
        for message in &question.messages {
            let effects = match try_text(message, route.limits.message_bytes_max) {
                Ok(()) => talk.say(message),
                Err(reason) => vec![Effect::closed(reason)],
            };
            let ended = effects.iter().any(|effect| matches!(effect, Effect::Closed { .. }));
            answer.steps.push(Step { sent: Some(message.clone()), effects });
            if ended {
                break;
            }
        }
        answer.subscriptions = talk.subscriptions();
        if let Some(channel) = talk.channel() {
            answer.channel = Some(channel);
        }
        if let Some((name, data)) = &question.event {
            answer.event = talk.event(name, data);
        }
        checks.user(
            route,
            question.token.is_some(),
            talk.token(),
            talk.claims().map(|claims| (claims, &known)),
        );
        answer.checks = checks.list;
        answer.is_live = talk.is_live();
    }

    fn client(&self, question: &Question, address: std::net::IpAddr) -> Client {
        let server = &self.config.server;
        let (headers, trusted) = (&question.request.headers, &server.trusted_proxies);
        let client = client_address(address, headers, server.forwarded, trusted);
        Client {
            address: client.to_string(),
            counts_as: one_client(client, server.ipv6_prefix).to_string(),
            is_trusted_proxy: is_trusted(address, trusted),
        }
    }

    fn limits(&self, route: &Route) -> Vec<Limit> {
        let limit = |(key, what)| Limit { key, what, line: self.line(&route.name, key) };
        limits(route).into_iter().map(limit).collect()
    }
}

/// What counts beside the request itself: there is room, and nobody shuts down.
fn facts(question: &Question, entrance: Entrance<'_>) -> Facts {
    let phase = entrance.deprecation.map_or(Phase::Current, |policy| policy.phase(question.now));
    let origin_allowed = origin_allowed(entrance.origins, &question.request.headers);
    Facts { over: false, draining: false, phase, origin_allowed }
}

#[cfg(test)]
mod tests;
