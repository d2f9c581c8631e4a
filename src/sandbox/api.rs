//! The HTTP API: publishes and channel queries, signed; and the upgrade to a WebSocket.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, UPGRADE};
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::faults::{Fate, HandshakeFault};
use super::hub::{Hub, Inner};
use super::members::Members;
use super::rules::{self, Attributes, HttpError, Publish, WsError};
use crate::clock::Now;
use crate::http::server::{Answer, full};
use crate::pusher::channel::{ChannelKind, check_channel};
use crate::pusher::frame::string_into;
use crate::pusher::sign;

/// Largest body of a request: a batch of ten events with 10 kB of data, every byte escaped as `\u00xx`,
/// with room to spare.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How long a request's body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The connection is to be dropped without an answer.
#[derive(Debug)]
pub(super) struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dropped as asked for")
    }
}

impl std::error::Error for Dropped {}

/// Whether the URL of an upgrade is that of a WebSocket here.
type Upgrade = Result<(), WsError>;

/// Where a connection's upgrade is left for what comes after it.
#[derive(Clone, Debug, Default)]
pub(super) struct UpgradeSlot(Arc<Mutex<Option<Upgrade>>>);

impl UpgradeSlot {
    pub(super) fn take(&self) -> Option<Upgrade> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, upgrade: Upgrade) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgrade);
    }
}

/// Answers one request.
pub(super) async fn answer(
    request: Request<Incoming>,
    hub: Arc<Hub>,
    slot: UpgradeSlot,
) -> Result<Answer, Dropped> {
    if request.headers().contains_key(UPGRADE) {
        return upgrade(request, &hub, &slot);
    }
    match api(request, &hub).await {
        Ok(answer) => Ok(answer),
        Err(Failure::Http(error)) => Ok(text(error.status, error.message)),
        Err(Failure::Dropped) => Err(Dropped),
    }
}

fn upgrade(request: Request<Incoming>, hub: &Hub, slot: &UpgradeSlot) -> Result<Answer, Dropped> {
    let fault = hub.change(|inner| {
        inner.log.attempts += 1;
        inner.faults.handshake
    });
    match fault {
        HandshakeFault::None => {}
        HandshakeFault::Drop => return Err(Dropped),
        HandshakeFault::Status(status) => return Ok(text(status, "Refused by the sandbox")),
    }
    let answer = match create_response_with_body(&request, || full("")) {
        Ok(answer) => answer,
        Err(error) => return Ok(text(400, error.to_string())),
    };
    let query = request.uri().query().unwrap_or_default();
    let asked = request.uri().path().strip_prefix("/app/").unwrap_or_default();
    let (key, _) = hub.change(|inner| inner.keys.judge(asked));
    let checked = rules::check_connect(request.uri().path(), query, &key);
    slot.put(checked);
    Ok(answer)
}

enum Failure {
    Http(HttpError),
    Dropped,
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

async fn api(request: Request<Incoming>, hub: &Hub) -> Result<Answer, Failure> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let rest = app_path(path, &hub.options.app_id)?;
    let body = read_body(body).await?;
    let asked =
        head.uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("auth_key="));
    let (key, secret) = hub.change(|inner| inner.keys.judge(asked.unwrap_or_default()));
    let params = sign::verify_query(
        head.method.as_str(),
        path,
        head.uri.query().unwrap_or_default(),
        &body,
        &key,
        &secret,
        Now::read().unix_seconds(),
    )
    .map_err(|error| HttpError::new(401, error.to_string()))?;
    let param = |name: &str| params.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());

    let segments: Vec<&str> = rest.split('/').collect();
    match (&head.method, segments.as_slice()) {
        (&Method::POST, ["events"]) => publish(hub, vec![rules::parse_event(&body)?], false).await,
        (&Method::POST, ["batch_events"]) => publish(hub, rules::parse_batch(&body)?, true).await,
        (&Method::GET, ["channels"]) => {
            Ok(channels(hub, param("filter_by_prefix").unwrap_or_default(), param("info"))?)
        }
        (&Method::GET, ["channels", name]) => Ok(channel(hub, name, param("info"))?),
        (&Method::GET, ["channels", name, "users"]) => Ok(users(hub, name)?),
        (&Method::POST, ["users", user, "terminate_connections"]) => {
            let user = decoded(user)?;
            hub.change(|inner| inner.terminate(&user));
            Ok(json("{}".to_owned()))
        }
        (
            _,
            ["events" | "batch_events" | "channels"]
            | ["channels", _]
            | ["channels", _, "users"]
            | ["users", _, "terminate_connections"],
        ) => Err(HttpError::new(405, format!("{} is not for {path}", head.method)).into()),
        _ => Err(HttpError::new(404, format!("This sandbox has no {path}")).into()),
    }
}

/// What follows `/apps/{id}/`.
fn app_path<'a>(path: &'a str, app_id: &str) -> Result<&'a str, HttpError> {
    if path.starts_with("/app/") {
        return Err(HttpError::new(400, format!("{path} is for WebSockets")));
    }
    let (asked, rest) = path
        .strip_prefix("/apps/")
        .and_then(|rest| rest.split_once('/'))
        .ok_or_else(|| HttpError::new(404, format!("This sandbox has no {path}")))?;
    if asked != app_id {
        return Err(HttpError::new(404, format!("App {asked} does not exist in this sandbox")));
    }
    Ok(rest)
}

async fn read_body(body: Incoming) -> Result<Bytes, HttpError> {
    match timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(HttpError::new(413, format!("The body is larger than {BODY_BYTES_MAX} bytes")))
        }
        Ok(Err(error)) => Err(HttpError::new(400, format!("The body did not arrive: {error}"))),
        Err(_) => Err(HttpError::new(408, "The body did not arrive in time")),
    }
}

async fn publish(hub: &Hub, events: Vec<Publish>, is_batch: bool) -> Result<Answer, Failure> {
    let wanted: Vec<Wanted> = events
        .iter()
        .map(|event| Wanted { channels: event.channels.clone(), attributes: event.wants })
        .collect();
    let cut = match hub.change(|inner| inner.receive_publish(events)) {
        Fate::Process { cut } => cut,
        Fate::Fail { status, retry_after_s } => return Ok(failed(status, retry_after_s)),
        Fate::Held { released, cut } => {
            let gone = |_| HttpError::new(503, "The sandbox is shutting down");
            released.await.map_err(gone)?;
            cut
        }
    };
    if cut {
        return Err(Failure::Dropped);
    }
    Ok(json(publish_answer(hub, &wanted, is_batch)))
}

/// What the answer to an event gives, of these channels.
struct Wanted {
    channels: Vec<String>,
    attributes: Attributes,
}

/// `{}`, but with `info`, what it asks for: of the channels, or in a batch, of each event.
fn publish_answer(hub: &Hub, wanted: &[Wanted], is_batch: bool) -> String {
    if !wanted.iter().any(|wanted| wanted.attributes.any()) {
        return "{}".to_owned();
    }
    let described = |channel: &str, wants: Attributes| {
        format!("{{{}}}", hub.look(|inner| describe(inner, channel, wants)).join(","))
    };
    if is_batch {
        let of_event = |wanted: &Wanted| {
            let channel = wanted.channels.first();
            channel.map_or("{}".to_owned(), |channel| described(channel, wanted.attributes))
        };
        let batch: Vec<String> = wanted.iter().map(of_event).collect();
        return format!(r#"{{"batch":[{}]}}"#, batch.join(","));
    }
    let members = wanted.iter().flat_map(|wanted| {
        wanted.channels.iter().map(|channel| (channel.as_str(), described(channel, wanted.attributes)))
    });
    format!(r#"{{"channels":{}}}"#, object(members))
}

/// What is asked for of a channel, as members of an object.
fn describe(inner: &Inner, channel: &str, wants: Attributes) -> Vec<String> {
    let mut out = Vec::new();
    if wants.subscription_count {
        out.push(format!(r#""subscription_count":{}"#, inner.state.count(channel)));
    }
    if wants.user_count {
        let count = inner.state.members(channel).map_or(0, Members::len);
        out.push(format!(r#""user_count":{count}"#));
    }
    if wants.cache {
        out.push(match inner.cached(channel) {
            Some((data, ttl)) => {
                let mut text = String::from(r#""cache":{"data":"#);
                string_into(&mut text, data);
                text + &format!(r#","ttl":{ttl}}}"#)
            }
            None => r#""cache":null"#.to_owned(),
        });
    }
    out
}

fn channels(hub: &Hub, prefix: &str, info: Option<&str>) -> Result<Answer, HttpError> {
    let mut wants = Attributes::default();
    if let Some(info) = info.filter(|info| !info.is_empty()) {
        let presence_only = info.split(',').all(|name| name == "user_count");
        if !presence_only || !prefix.starts_with("presence-") {
            return Err(HttpError::new(
                400,
                "info is user_count here, and needs a filter_by_prefix of presence-",
            ));
        }
        wants.user_count = true;
    }
    let members = hub.look(|inner| {
        let named = inner.state.channels().filter(|(name, _)| name.starts_with(prefix));
        object(named.map(|(name, _)| (name, format!("{{{}}}", describe(inner, name, wants).join(",")))))
    });
    Ok(json(format!(r#"{{"channels":{members}}}"#)))
}

fn channel(hub: &Hub, encoded: &str, info: Option<&str>) -> Result<Answer, HttpError> {
    let name = channel_name(encoded)?;
    let wants = rules::attributes(info, &name)?;
    let members = hub.look(|inner| {
        let mut members = vec![format!(r#""occupied":{}"#, inner.state.count(&name) > 0)];
        members.extend(describe(inner, &name, wants));
        members
    });
    Ok(json(format!("{{{}}}", members.join(","))))
}

/// The members of a presence channel.
fn users(hub: &Hub, encoded: &str) -> Result<Answer, HttpError> {
    let name = channel_name(encoded)?;
    if ChannelKind::of(&name) != ChannelKind::Presence {
        return Err(HttpError::new(400, "Users can be retrieved only for presence channels"));
    }
    let users: Vec<String> = hub.look(|inner| {
        let ids = inner.state.members(&name).into_iter().flat_map(Members::ids);
        ids.map(|id| object(std::iter::once(("id", quoted(id))))).collect()
    });
    Ok(json(format!(r#"{{"users":[{}]}}"#, users.join(","))))
}

fn channel_name(encoded: &str) -> Result<String, HttpError> {
    let name = decoded(encoded)?;
    check_channel(&name).map_err(|why| HttpError::new(400, format!("Invalid channel name: {why}")))?;
    Ok(name)
}

fn decoded(encoded: &str) -> Result<String, HttpError> {
    let decoded = percent_decode_str(encoded).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| HttpError::new(400, "The path is not UTF-8"))
}

fn quoted(text: &str) -> String {
    let mut out = String::new();
    string_into(&mut out, text);
    out
}

fn object<'a>(members: impl Iterator<Item = (&'a str, String)>) -> String {
    let mut out = String::from("{");
    for (at, (name, value)) in members.enumerate() {
        if at > 0 {
            out.push(',');
        }
        string_into(&mut out, name);
        out.push(':');
        out.push_str(&value);
    }
    out.push('}');
    out
}

fn failed(status: u16, retry_after_s: Option<u64>) -> Answer {
    let mut answer = text(status, "Failed as asked for");
    if let Some(seconds) = retry_after_s {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

fn json(body: String) -> Answer {
    answer_with(StatusCode::OK, "application/json", body)
}

/// Pusher's errors are plain text.
fn text(status: u16, message: impl Into<String>) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer_with(status, "text/plain; charset=utf-8", message.into() + "\n")
}

fn answer_with(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Answer::new(full(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
