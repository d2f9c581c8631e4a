//! One request: what it is for, whether it gets in, and what it is answered.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::header::{EXPECT, HeaderMap, USER_AGENT};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode, Version};
use tokio::time::timeout;

use super::classify::{Target, classify};
use super::forwarded::{ForwardedHeader, client_address, is_trusted};
use super::gate::{Facts, Upgradable, admit, may_go_on, origin_allowed, told_by_frame, upgradable};
use super::presented::{Presented, presented_token, select_subprotocol};
use super::refusal::{ExplainedRefusal, Refusal};
use super::respond;
use super::tunnel::{Asked, tunnel};
use super::upgrade::{NotUpgradable, check, for_http1};
use super::worker::Worker;
use crate::clock::Now;
use crate::deprecation::Phase;
use crate::endpoints::cors;
use crate::endpoints::serve::{Endpoints, Incoming};
use crate::endpoints::settings::Endpoint;
use crate::http::server::{self, Answer, Progress};
use crate::legacy::error::ErrorCode;
use crate::limits::address::one_client;
use crate::limits::slots::Acquire;
use crate::proxy::routed::Routed;
use crate::proxy::serve::{From, Passed, pass_on};
use crate::proxy::tunnel::Tunnel;
use crate::routes::edition::RouteId;
use crate::routes::entrance::Entrance;
use crate::routes::generation::{RouteState, Served};
use crate::routes::path::{BadValue, PathValues};
use crate::routes::route::Route;
use crate::session;
use crate::session::opening::Upgraded;
use crate::session::slots::{AddressSlot, Holder};
use crate::text::loggable;

/// Bytes of a request's body that are read, and thrown away, so that another request may follow.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long it is waited for: whoever is slower has the answer all the same, and it is the last.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);
/// Refused connections of one address that are held, as `refusal = "frame"` asks; more are refused by HTTP.
const REFUSED_PER_ADDRESS_MAX: usize = 50;

/// What a connection goes on as, behind its 101.
pub(super) enum Granted {
    Session(Upgraded),
    Tunnel(Box<Tunnel>),
    /// Of a route that an old server serves.
    Routed(Box<Routed>),
}

/// Answers a request from `peer`: by an upgrade, or by what there is instead. `over`: its connection is beyond those
/// there may be.
pub(super) async fn answer(
    worker: &Worker,
    request: Request<hyper::body::Incoming>,
    peer: IpAddr,
    over: bool,
    progress: &Arc<Progress>,
) -> (Answer, Option<Granted>) {
    let door = &worker.door;
    let (request, mut body) = request.into_parts();
    // Another one that comes meanwhile is for the next request.
    let generation = door.generations.held();
    let server = door.settings.load_full();
    let (path, health_path) = (request.uri.path(), server.health_path.as_deref());
    let endpoints = door.endpoints.load_full();
    let endpoints = endpoints.as_deref();
    let settings = endpoints.map(Endpoints::settings);
    let fallback = door.fallback.load_full();
    let behind = fallback.as_deref().map(|fallback| &fallback.settings);
    let target = classify(path, health_path, settings, generation.router(), behind);
    let is_http2 = request.version == Version::HTTP_2;
    let unasked =
        request.version == Version::HTTP_11 && matches!(target, Target::Endpoint(_) | Target::Fallback);
    let mut answer = match target {
        Target::Health => respond::health(&request.method, door.status.is_ready()),
        Target::Route(index, values) => match generation.served(index) {
            Some(Served::Relay(route)) => match upgrade(worker, route, &request, values, peer, over).await {
                Ok((answer, upgraded)) => return (answer, Some(Granted::Session(upgraded))),
                Err(answer) => answer,
            },
            Some(Served::Tunnel(route)) => {
                let asked = Asked { route, values, peer, over };
                return match tunnel(worker, asked, (request, body), progress).await {
                    (answer, Some(routed)) => (answer, Some(Granted::Routed(Box::new(routed)))),
                    (mut answer, None) => {
                        // As old clients have it, that was all.
                        if !is_http2 {
                            server::close(&mut answer);
                        }
                        (answer, None)
                    }
                };
            }
            None => nothing(worker),
        },
        Target::Endpoint(endpoint) => match endpoints {
            Some(endpoints) => {
                let turned_away = over || door.status.is_draining();
                let asked = Incoming {
                    headers: &request.headers,
                    body: &mut body,
                    address: client(worker, &request.headers, peer),
                    is_post: request.method == Method::POST,
                    generation: &generation,
                    turned_away,
                };
                serve(endpoints, endpoint, &request.method, asked).await
            }
            None => nothing(worker),
        },
        Target::Fallback => match fallback {
            Some(fallback) if !over && !door.status.is_draining() && (is_http2 || progress.is_strict()) => {
                let goes_on = may_go_on(&request.method, &request.headers, unasked)
                    || request.headers.contains_key(EXPECT) && unasked;
                let from = from(worker, &request.headers, peer);
                let mut request = request;
                if is_http2
                    && let Err(NotUpgradable::Malformed(why) | NotUpgradable::UpgradeRequired(why)) =
                        for_http1(&mut request, std::array::from_fn(|_| fastrand::u8(..)))
                {
                    door.metrics.refused(None, Refusal::Malformed);
                    return (respond::refusal(&Refusal::Malformed.because(why), None), None);
                }
                return match pass_on(&fallback, &worker.pool, (request, body), from, progress).await {
                    Passed::Answered(mut answer) => {
                        if !goes_on || door.status.is_draining() {
                            server::close(&mut answer);
                        }
                        (answer, None)
                    }
                    Passed::Upgraded(answer, tunnel) => (answer, Some(Granted::Tunnel(tunnel))),
                    Passed::Nowhere => (nothing(worker), None),
                };
            }
            // What came by this connection before was not looked at.
            Some(_) if !over && !door.status.is_draining() => {
                let mut answer = refused(worker, Refusal::Outdated);
                server::close(&mut answer);
                return (answer, None);
            }
            Some(_) => refused(worker, if over { Refusal::Overload } else { Refusal::Draining }),
            None => nothing(worker),
        },
        Target::Nothing => nothing(worker),
    };
    // There each request has its own end, and none says anything of the connection.
    if is_http2 {
        return (answer, None);
    }
    let goes_on =
        !over && !door.status.is_draining() && may_go_on(&request.method, &request.headers, unasked);
    if !goes_on || !is_read_to_its_end(body).await {
        server::close(&mut answer);
    }
    (answer, None)
}

/// Answers a request to an endpoint, for pages from elsewhere too.
async fn serve(
    endpoints: &Endpoints,
    endpoint: Endpoint,
    method: &Method,
    asked: Incoming<'_, hyper::body::Incoming>,
) -> Answer {
    let (headers, origins) = (asked.headers, &endpoints.settings().origins);
    let mut page = HeaderMap::new();
    cors::answered(headers, origins, &mut page);
    let reply = if *method == Method::OPTIONS && cors::is_preflight(headers) {
        let allowed = cors::preflight(headers, origins, &mut page);
        endpoints.note_preflight(endpoint, asked.address, allowed)
    } else {
        endpoints.answer(endpoint, asked).await
    };
    let mut answer = respond::endpoint(reply);
    answer.headers_mut().extend(page);
    answer
}

/// The client's address, as far as proxies can be believed.
pub(super) fn client(worker: &Worker, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
    let settings = worker.door.settings.load();
    if let Some(network) = worker.door.untrusted_forwarders.first_of(peer, headers, &settings) {
        tracing::warn!(
            peer.network = %network,
            "a peer that is no trusted proxy wrote a forwarding header: all its clients count as one address. If it \
             is a proxy of yours, name it in `server.trusted_proxies`"
        );
    }
    client_address(peer, headers, settings.forwarded, &settings.trusted_proxies)
}

/// What is known of who asks for what stands behind the bridge.
pub(super) fn from(worker: &Worker, headers: &HeaderMap, peer: IpAddr) -> From {
    let settings = worker.door.settings.load();
    let client = client(worker, headers, peer);
    From {
        peer,
        is_trusted: is_trusted(peer, &settings.trusted_proxies),
        believes_forwarded: settings.forwarded == ForwardedHeader::Forwarded,
        believes_x_forwarded_for: settings.forwarded == ForwardedHeader::XForwardedFor,
        client,
        counts_as: one_client(client, settings.ipv6_prefix),
        scheme: if settings.tls.is_some() { "https" } else { "http" },
    }
}

/// Answers a request that no route has by a refusal.
fn refused(worker: &Worker, refusal: Refusal) -> Answer {
    worker.door.metrics.refused(None, refusal);
    respond::refusal(&refusal.into(), None)
}

/// Answers a request for what is not here.
fn nothing(worker: &Worker) -> Answer {
    refused(worker, Refusal::UnknownPath)
}

/// Reads what is left of a body; whether it came to its end within its limits.
async fn is_read_to_its_end(body: hyper::body::Incoming) -> bool {
    let mut body = Limited::new(body, BODY_BYTES_MAX);
    let read = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    timeout(BODY_TIMEOUT, read).await.unwrap_or(false)
}

/// Answers a request for a route; `Err`: by a refusal.
async fn upgrade(
    worker: &Worker,
    route: &Arc<RouteState>,
    request: &Parts,
    values: Result<PathValues, BadValue>,
    peer: IpAddr,
    over: bool,
) -> Result<(Answer, Upgraded), Answer> {
    let met = Meeting::of(worker, (route.id(), route.entrance()), &request.headers, peer, over);
    match grant(worker, route, request, values, met.address, met.facts).await {
        Ok((answer, granted)) => Ok((answer, Upgraded { user_agent: met.user_agent, ..granted })),
        Err(explained) => Err(met.refuse(worker, &explained)),
    }
}

/// A request that has come to a route, whatever serves it.
pub(super) struct Meeting<'r> {
    id: RouteId,
    pub(super) entrance: Entrance<'r>,
    pub(super) address: IpAddr,
    pub(super) user_agent: String,
    pub(super) facts: Facts,
}

impl<'r> Meeting<'r> {
    /// Finds out what counts of it, and counts it where the route is deprecated.
    pub(super) fn of(
        worker: &Worker,
        (id, entrance): (RouteId, Entrance<'r>),
        headers: &HeaderMap,
        peer: IpAddr,
        over: bool,
    ) -> Self {
        let address = client(worker, headers, peer);
        let user_agent = user_agent(headers);
        let phase = note_deprecated(worker, (id, &entrance), address, &user_agent);
        let facts = Facts {
            over,
            draining: worker.door.status.is_draining(),
            phase,
            origin_allowed: origin_allowed(entrance.origins, headers),
        };
        Self { id, entrance, address, user_agent, facts }
    }

    /// Answers it by a refusal.
    pub(super) fn refuse(&self, worker: &Worker, explained: &ExplainedRefusal) -> Answer {
        let answer = respond::refusal(explained, Some(&self.entrance));
        self.note_refused(worker, explained.refusal, &explained.why, answer.status());
        answer
    }

    /// Counts and logs that it was refused, by whomever.
    pub(super) fn note_refused(&self, worker: &Worker, refusal: Refusal, why: &str, status: StatusCode) {
        worker.door.metrics.refused(Some((self.id, self.entrance.name)), refusal);
        tracing::info!(
            route = &**self.entrance.name,
            client.address = %self.address,
            user_agent.original = self.user_agent,
            status = status.as_u16(),
            why,
            "refused"
        );
    }
}

async fn grant(
    worker: &Worker,
    route: &Arc<RouteState>,
    request: &Parts,
    values: Result<PathValues, BadValue>,
    address: IpAddr,
    facts: Facts,
) -> Result<(Answer, Upgraded), ExplainedRefusal> {
    let Upgradable { values, handshake } = upgradable(values, check(request))?;
    let holder = Holder::default();
    let slot = match admit(facts) {
        Ok(()) => address_slot(worker, route, address, &holder).await,
        Err(refusal) => Err(refusal),
    };
    let (refusal, address_slot) = match slot {
        Ok(slot) => (None, slot),
        Err(refusal) => {
            let (code, slot) = held_slot(worker, route, address, refusal).ok_or(refusal)?;
            worker.door.metrics.refused(Some((route.id(), &route.name)), refusal);
            (Some(code), slot)
        }
    };
    let places = route.auth.as_ref().map_or(&[][..], |auth| &auth.also_from);
    let query = request.uri.query().unwrap_or("");
    let Presented { token, protocol } = presented_token(&request.headers, query, places);
    let protocol = select_subprotocol(&request.headers, &route.subprotocols, protocol);
    let answer = respond::switching_protocols(route, handshake, protocol)
        .ok_or_else(|| Refusal::Malformed.because("a subprotocol cannot be selected"))?;
    let granted = Upgraded {
        route: route.clone(),
        endpoint: request.uri.path().to_owned(),
        values,
        token,
        refusal,
        address,
        user_agent: String::new(),
        holder,
        address_slot,
    };
    Ok((answer, granted))
}

/// A slot among those of the address that are in service.
async fn address_slot(
    worker: &Worker,
    route: &Route,
    address: IpAddr,
    holder: &Holder,
) -> Result<AddressSlot, Refusal> {
    let Some(max) = route.limits.connections_per_address else { return Ok(AddressSlot::Uncounted) };
    let shared = &worker.context.shared;
    let client = one_client(address, shared.ipv6_prefix);
    let key = (route.limits.scope.clone(), client);
    session::acquire_address(&shared.address_slots, &key, max, holder)
        .await
        .map(AddressSlot::Counted)
        .map_err(|()| Refusal::AddressLimit)
}

/// A slot among those of the address that are held to be told a refusal by a frame, and the frame's code; `None`
/// where it is told by an answer. They are counted, or one address could hold every connection there is.
fn held_slot(
    worker: &Worker,
    route: &Route,
    address: IpAddr,
    refusal: Refusal,
) -> Option<(ErrorCode, AddressSlot)> {
    let code = told_by_frame(refusal, route.refusal)?;
    let client = one_client(address, worker.context.shared.ipv6_prefix);
    match worker.door.refused_slots.acquire(&client, REFUSED_PER_ADDRESS_MAX, ()) {
        Acquire::Granted(slot) => Some((code, AddressSlot::ForRefusal(slot))),
        Acquire::Full { .. } => None,
    }
}

/// Counts and logs a request to a deprecated endpoint, louder after its sunset.
fn note_deprecated(
    worker: &Worker,
    (id, route): (RouteId, &Entrance<'_>),
    address: IpAddr,
    user_agent: &str,
) -> Phase {
    let phase = route.deprecation.map_or(Phase::Current, |policy| policy.phase(Now::read()));
    worker.door.metrics.deprecated_request((id, route.name), phase);
    if phase == Phase::Sunset {
        tracing::warn!(
            route = &**route.name,
            url.path = route.path.source(),
            client.address = %address,
            user_agent.original = user_agent,
            "a client still uses an endpoint past its sunset"
        );
    }
    phase
}

fn user_agent(headers: &HeaderMap) -> String {
    headers
        .get(USER_AGENT)
        .map(|agent| loggable(&String::from_utf8_lossy(agent.as_bytes())))
        .unwrap_or_default()
}
