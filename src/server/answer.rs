//! One accepted connection: its request is read by hyper, answered, and, when upgraded, its socket taken back
//! and handed to a session.

use std::borrow::Cow;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN, USER_AGENT};
use hyper::http::request::Parts;
use hyper::http::response::Builder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::admission::{Arrival, Counted};
use super::forwarded::client_address;
use super::metrics::Refusal;
use super::presented::{Presented, presented_token, select_subprotocol};
use super::spelling::Respelled;
use super::upgrade::{NotUpgradable, check};
use super::worker::Worker;
use crate::clock::Now;
use crate::deprecation::Phase;
use crate::legacy::error::ErrorCode;
use crate::limits::address::one_client;
use crate::limits::slots::Acquire;
use crate::routes::path::{Matched, PathValues};
use crate::routes::route::{self, Route};
use crate::session;
use crate::session::opening::Upgraded;
use crate::session::slots::{AddressSlot, Holder};
use crate::text::loggable;

/// How long a refused client is asked to stay away.
const RETRY_AFTER_S: u32 = 5;
/// Time for an answer to be written and the connection to end, after which it is cut.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time left for a request when the server shuts down: a client that sends none must not hold it up.
const DRAINING_TIMEOUT: Duration = Duration::from_secs(1);
/// Refused connections of one address that are held, as `refusal = "frame"` asks; more are refused by HTTP.
const REFUSED_PER_ADDRESS_MAX: usize = 50;

/// Answers one connection's request; an upgraded connection goes on as a session. `counted` is dropped
/// with the last of both.
pub async fn serve(
    worker: Arc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    counted: Counted,
    arrival: Arrival,
) {
    let handshake = worker.door.metrics.handshake();
    let server = &worker.door.settings;
    let deadline = Instant::now() + server.header_timeout;
    let mut first = [0];
    // tokio takes what it accepted for readable until somebody has looked.
    std::future::poll_fn(|cx| Poll::Ready(stream.poll_peek(cx, &mut ReadBuf::new(&mut first)).is_ready()))
        .await;
    // Only then is there anything to read it with: who connects and is silent, and a herd that waits for its turn,
    // cost no buffers. An error is hyper's to find.
    let readable = tokio::select! {
        readable = tokio::time::timeout_at(deadline, stream.readable()) => readable.map_err(|_| Refusal::Timeout),
        () = worker.context.draining_for(DRAINING_TIMEOUT) => Err(Refusal::Draining),
        () = arrival.displaced() => Err(Refusal::Displaced),
    };
    if let Err(refusal) = readable {
        return note_cut(&worker, peer, refusal);
    }
    let upgraded: Arc<Mutex<Option<Upgraded>>> = Arc::default();
    let over = counted.admitted.over;
    let (asked, answered) = (&worker, &upgraded);
    let service = service_fn(|request: Request<Incoming>| {
        Box::pin(async move {
            let (parts, _) = request.into_parts();
            let (response, granted) = answer(asked, &parts, peer.ip(), over).await;
            *answered.lock().unwrap_or_else(PoisonError::into_inner) = granted;
            Ok::<_, Infallible>(response)
        })
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadline.saturating_duration_since(Instant::now()))
        .max_headers(server.headers_max)
        .max_buf_size(server.header_bytes_max)
        .half_close(false)
        .serve_connection(Respelled::new(TokioIo::new(stream)), service);
    let run = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx));
    let done = tokio::select! {
        done = tokio::time::timeout_at(deadline + ANSWER_TIMEOUT, run) => done.map_err(|_| Refusal::Timeout),
        () = worker.context.draining_for(DRAINING_TIMEOUT) => Err(Refusal::Draining),
        () = arrival.displaced() => Err(Refusal::Displaced),
    };
    let parts = connection.into_parts();
    let granted = upgraded.lock().unwrap_or_else(PoisonError::into_inner).take();
    drop((handshake, arrival));
    match done {
        Ok(Ok(())) => match tokio::time::timeout_at(deadline + ANSWER_TIMEOUT, parts.io.into_inner()).await {
            Ok(Ok(io)) => {
                if let Some(granted) = granted {
                    let stream = io.into_inner();
                    // A task of its own, so that nothing of the request lives on for the connection's whole life.
                    tokio::spawn(session::run(
                        worker.context.clone(),
                        stream,
                        &parts.read_buf,
                        granted,
                        counted,
                    ));
                }
            }
            Ok(Err(error)) => tracing::debug!(%peer, %error, "an answer could not be sent"),
            Err(_) => note_cut(&worker, peer, Refusal::Timeout),
        },
        Ok(Err(error)) => {
            note_unread(&worker, &error);
            tracing::debug!(%peer, %error, "a request could not be read");
        }
        Err(refusal) => note_cut(&worker, peer, refusal),
    }
}

/// Counts a request that is cut before it was over.
fn note_cut(worker: &Worker, peer: SocketAddr, refusal: Refusal) {
    worker.door.metrics.refused(None, refusal);
    tracing::debug!(%peer, reason = refusal.label(), "a request was not over in time");
}

/// Counts what hyper refused by itself. A connection that merely went away is none of it.
fn note_unread(worker: &Worker, error: &hyper::Error) {
    if error.is_parse() {
        worker.door.metrics.refused(None, Refusal::Malformed);
    } else if error.is_timeout() {
        worker.door.metrics.refused(None, Refusal::Timeout);
    }
}

type Answer = Response<Full<Bytes>>;

/// Why a request is refused.
struct Denial {
    refusal: Refusal,
    status: StatusCode,
    why: Cow<'static, str>,
}

impl Denial {
    fn new(refusal: Refusal, status: StatusCode, why: impl Into<Cow<'static, str>>) -> Self {
        Self { refusal, status, why: why.into() }
    }
}

/// Answers a request: by an upgrade, or by a refusal that says why.
async fn answer(
    worker: &Arc<Worker>,
    request: &Parts,
    peer: IpAddr,
    over: bool,
) -> (Answer, Option<Upgraded>) {
    let door = &worker.door;
    if door.settings.health_path.as_deref() == Some(request.uri.path()) {
        return (health(&request.method, door.status.is_ready()), None);
    }
    let (index, values) = match door.router.find(request.uri.path()) {
        Matched::Route(index, values) => (index, Ok(values)),
        Matched::BadValue(index, why) => (index, Err(why)),
        Matched::Nothing => {
            door.metrics.refused(None, Refusal::UnknownPath);
            return (problem(StatusCode::NOT_FOUND, "no such endpoint", None), None);
        }
    };
    let Some(route) = door.routes.get(index) else {
        return (problem(StatusCode::INTERNAL_SERVER_ERROR, "no such route", None), None);
    };
    let server = &door.settings;
    let address = client_address(peer, &request.headers, server.forwarded, &server.trusted_proxies);
    if let Some(network) = door.unbelieved.first_of(peer, &request.headers, server) {
        tracing::warn!(
            peer.network = %network,
            "a peer that is no trusted proxy wrote a forwarding header: all its clients count as one address. If it \
             is a proxy of yours, name it in `server.trusted_proxies`"
        );
    }
    let user_agent = user_agent(&request.headers);
    let phase = note_deprecated(worker, route, address, &user_agent);
    match decide(worker, route, request, values, (address, phase, over)).await {
        Ok((response, mut granted)) => {
            granted.user_agent = user_agent;
            (response, Some(granted))
        }
        Err(Denial { refusal, status, why }) => {
            door.metrics.refused(Some(index), refusal);
            tracing::info!(
                route = &*route.name,
                client.address = %address,
                user_agent.original = user_agent,
                status = status.as_u16(),
                why = &*why,
                "refused"
            );
            (problem(status, &why, Some(route)), None)
        }
    }
}

async fn decide(
    worker: &Arc<Worker>,
    route: &Arc<Route>,
    request: &Parts,
    values: Result<PathValues, String>,
    (address, phase, over): (IpAddr, Phase, bool),
) -> Result<(Answer, Upgraded), Denial> {
    let values = values.map_err(|why| Denial::new(Refusal::BadPath, StatusCode::BAD_REQUEST, why))?;
    let key = check(request).map_err(|wrong| match wrong {
        NotUpgradable::UpgradeRequired(why) => {
            Denial::new(Refusal::UpgradeRequired, StatusCode::UPGRADE_REQUIRED, why)
        }
        NotUpgradable::Malformed(why) => Denial::new(Refusal::Malformed, StatusCode::BAD_REQUEST, why),
    })?;
    if over {
        return Err(Denial::new(Refusal::Overload, StatusCode::SERVICE_UNAVAILABLE, "too many connections"));
    }
    if worker.context.is_draining() {
        return Err(Denial::new(Refusal::Draining, StatusCode::SERVICE_UNAVAILABLE, "shutting down"));
    }
    let holder = Holder::default();
    let (refused, address_slot) = match admit(worker, route, request, phase, address, &holder).await {
        Ok(slot) => (None, slot),
        Err((refusal, status, code)) => match route.refusal {
            route::Refusal::Http => return Err(Denial::new(refusal, status, code.message())),
            route::Refusal::Frame { .. } => {
                let prefix = worker.door.settings.ipv6_prefix;
                // Held refusals are counted too, or one address could hold every connection there is.
                let held = worker.door.refused_slots.acquire(
                    &one_client(address, prefix),
                    REFUSED_PER_ADDRESS_MAX,
                    (),
                );
                let Acquire::Granted(held) = held else {
                    return Err(Denial::new(refusal, status, code.message()));
                };
                worker.door.metrics.refused(Some(route.index), refusal);
                (Some(code), AddressSlot::Refused(held))
            }
        },
    };
    let places = route.auth.as_ref().map_or(&[][..], |auth| &auth.also_from);
    let query = request.uri.query().unwrap_or("");
    let Presented { token, protocol } = presented_token(&request.headers, query, places);
    let protocol = select_subprotocol(&request.headers, &route.subprotocols, protocol);
    let response = switching_protocols(route, key, protocol).map_err(|_| {
        Denial::new(Refusal::Malformed, StatusCode::BAD_REQUEST, "a subprotocol cannot be selected")
    })?;
    let granted = Upgraded {
        route: route.clone(),
        endpoint: request.uri.path().to_owned(),
        values,
        token,
        refused,
        address,
        user_agent: String::new(),
        holder,
        address_slot,
    };
    Ok((response, granted))
}

fn switching_protocols(route: &Route, key: &[u8], protocol: Option<String>) -> hyper::http::Result<Answer> {
    let mut response = with_deprecation(Response::builder(), route)
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key));
    if let Some(protocol) = protocol {
        response = response.header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response.body(Full::default())
}

/// The checks whose refusal a route may want told by a frame.
async fn admit(
    worker: &Worker,
    route: &Route,
    request: &Parts,
    phase: Phase,
    address: IpAddr,
    holder: &Holder,
) -> Result<AddressSlot, (Refusal, StatusCode, ErrorCode)> {
    if phase == Phase::Gone {
        return Err((Refusal::Gone, StatusCode::GONE, ErrorCode::EndpointGone));
    }
    let mut origins = request.headers.get_all(ORIGIN).iter().map(|origin| origin.to_str().unwrap_or(""));
    if route.origins.as_ref().is_some_and(|allowed| origins.any(|origin| !allowed.allow(origin))) {
        return Err((Refusal::Origin, StatusCode::FORBIDDEN, ErrorCode::OriginNotAllowed));
    }
    let Some(max) = route.limits.connections_per_address else { return Ok(AddressSlot::Uncounted) };
    let key = (route.limits.scope.clone(), one_client(address, worker.door.settings.ipv6_prefix));
    session::take_address(&worker.door.address_slots, &key, max, holder)
        .await
        .map(AddressSlot::Counted)
        .map_err(|()| (Refusal::AddressLimit, StatusCode::TOO_MANY_REQUESTS, ErrorCode::AddressLimit))
}

/// Counts and logs a request to a deprecated endpoint, louder after its sunset.
fn note_deprecated(worker: &Worker, route: &Route, address: IpAddr, user_agent: &str) -> Phase {
    let phase = route.deprecation.as_ref().map_or(Phase::Current, |policy| policy.phase(Now::read()));
    if let Some(metrics) = worker.door.metrics.route(route.index) {
        metrics.deprecated_request(phase);
    }
    if phase == Phase::Sunset {
        tracing::warn!(
            route = &*route.name,
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

fn with_deprecation(mut builder: Builder, route: &Route) -> Builder {
    for (name, value) in route.deprecation.iter().flat_map(crate::deprecation::Policy::headers) {
        builder = builder.header(name, value);
    }
    builder
}

/// What a load balancer asks for. It is no client: no limit of clients counts it, and it is told also where those are
/// turned away.
fn health(method: &Method, ready: bool) -> Answer {
    let builder =
        Response::builder().header(header::CONNECTION, "close").header(header::CACHE_CONTROL, "no-store");
    let (builder, body) = match *method {
        Method::GET | Method::HEAD if ready => (builder.status(StatusCode::OK), "ready\n"),
        Method::GET | Method::HEAD => (builder.status(StatusCode::SERVICE_UNAVAILABLE), "not ready\n"),
        _ => (builder.status(StatusCode::METHOD_NOT_ALLOWED).header(header::ALLOW, "GET, HEAD"), ""),
    };
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    builder
        .header(CONTENT_TYPE, kind)
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap_or_else(|_| Response::new(Full::default()))
}

/// A refusal as `application/problem+json` (RFC 9457).
fn problem(status: StatusCode, detail: &str, route: Option<&Route>) -> Answer {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut builder = Response::builder();
    if let Some(route) = route {
        builder = with_deprecation(builder, route);
    }
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        builder = builder.header(header::RETRY_AFTER, RETRY_AFTER_S);
    }
    if status == StatusCode::UPGRADE_REQUIRED {
        builder = builder
            .header(header::UPGRADE, "websocket")
            .header(header::CONNECTION, "Upgrade, close")
            .header(header::SEC_WEBSOCKET_VERSION, "13");
    } else {
        builder = builder.header(header::CONNECTION, "close");
    }
    let body = Full::new(Bytes::from(body.to_string()));
    builder
        .status(status)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))
        .body(body)
        .unwrap_or_else(|_| Response::new(Full::default()))
}
