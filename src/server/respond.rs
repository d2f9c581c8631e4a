//! What requests are answered with.

use bytes::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use hyper::{Method, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::refusal::{ExplainedRefusal, Refusal};
use super::upgrade::Handshake;
use crate::deprecation::Policy;
use crate::endpoints::reply::{EndpointResult, Reply};
use crate::http::server::{Answer, full, problem};
use crate::routes::entrance::Entrance;
use crate::routes::route::Route;

/// The upgrade, or 200 where a WebSocket is a stream of HTTP/2 (RFC 8441 §5); `None` when `protocol` cannot stand in a
/// header.
pub(super) fn switching_protocols(
    route: &Route,
    handshake: Handshake<'_>,
    protocol: Option<String>,
) -> Option<Answer> {
    let mut answer = Answer::new(full(Bytes::new()));
    add_deprecation(&mut answer, route.deprecation.as_ref());
    if let Handshake::Upgrade(key) = handshake {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key).parse().ok()?);
    }
    let headers = answer.headers_mut();
    if let Some(protocol) = protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol.parse().ok()?);
    }
    Some(answer)
}

/// A refusal, of a route where its path was one's.
pub(super) fn refusal(explained: &ExplainedRefusal, route: Option<&Entrance<'_>>) -> Answer {
    let ExplainedRefusal { refusal, why } = explained;
    let status = refusal.status().and_then(|status| StatusCode::from_u16(status).ok());
    let mut answer = problem(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), why).map(full);
    if let Some(route) = route {
        add_deprecation(&mut answer, route.deprecation);
    }
    let headers = answer.headers_mut();
    if let Some(seconds) = refusal.retry_after() {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    if *refusal == Refusal::UpgradeRequired {
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    answer
}

/// What an endpoint says.
pub(super) fn endpoint(reply: Reply) -> Answer {
    let (result, retry_after_s) = (reply.result, reply.retry_after_s());
    let no_content = result == EndpointResult::Preflight;
    let mut answer = Answer::new(full(if no_content { Bytes::new() } else { Bytes::from(reply.body) }));
    *answer.status_mut() = StatusCode::from_u16(result.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = answer.headers_mut();
    // It is for who asked, and for now.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !no_content {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some(seconds) = retry_after_s {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    match result {
        EndpointResult::Method => _ = headers.insert(ALLOW, HeaderValue::from_static("POST, OPTIONS")),
        EndpointResult::NoToken | EndpointResult::WrongToken => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    answer
}

/// What a load balancer asks for. It is no client: no limit of clients counts it, and it is told also where those are
/// turned away.
pub(super) fn health(method: &Method, ready: bool) -> Answer {
    let (status, body) = match *method {
        Method::GET | Method::HEAD if ready => (StatusCode::OK, "ready\n"),
        Method::GET | Method::HEAD => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        _ => (StatusCode::METHOD_NOT_ALLOWED, ""),
    };
    let mut answer = Answer::new(full(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    answer
}

/// What a route's `deprecation` says. Where an old server says it, too, this is what counts; links are one more.
pub(super) fn add_deprecation(answer: &mut Answer, policy: Option<&Policy>) {
    let headers = answer.headers_mut();
    for (name, value) in policy.iter().flat_map(|policy| policy.headers()) {
        match HeaderValue::try_from(value) {
            Ok(value) if name == "link" => _ = headers.append(name, value),
            Ok(value) => _ = headers.insert(name, value),
            Err(_) => {}
        }
    }
}
