//! Pusher's HTTP API, as far as publishing needs it. Decides what an answer means.

use std::borrow::Cow;
mod check;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use secrecy::{ExposeSecret as _, SecretString};

use crate::clock::Now;
use crate::http::{Client, HttpError, Request, Response};
use crate::json::Object;
use crate::pusher::channel::ChannelKind;
use crate::pusher::encryption::NONCE_BYTES;
use crate::pusher::sign::{self, Signer};
use crate::template::escape_into;
use crate::upstream::delivery::Sent;
use crate::upstream::metrics::RetryCause;
use crate::upstream::settings::App;

pub use self::check::Checked;

/// Largest answer read, bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// As much of an answer's text as a log gets.
const WHY_CHARS_MAX: usize = 200;
/// A signature refused while the clocks are further apart than this is refused for that reason: Pusher takes 600 s
/// (Pusher docs, "HTTP API", authentication), and a `Date` may be some seconds old.
const CLOCK_DIFFERENCE_MAX_S: i64 = 300;

/// The API of one app.
pub struct Api {
    app: App,
    /// What requests are signed with.
    pair: ArcSwap<Pair>,
    client: Arc<Client>,
    base: String,
    batch_max: usize,
    /// The server has no `batch_events`.
    one_by_one: AtomicBool,
    /// The server signs the path with the prefix that stands before it.
    signs_prefix: AtomicBool,
    /// What the server signs has been seen: an event was accepted.
    accepted: AtomicBool,
    /// What Pusher's clock is ahead of this machine's, as far as it mattered: seconds.
    clock_difference_s: AtomicI64,
}

/// A key of an app, and its secret.
#[derive(Debug)]
pub struct Pair {
    pub key: String,
    pub secret: SecretString,
    /// The same, ready to sign with.
    pub signer: Signer,
}

impl Pair {
    /// The one that signs and connects.
    #[must_use]
    pub fn of(app: &App) -> Self {
        Self { key: app.key.clone(), secret: app.secret.clone(), signer: Signer::new(&app.key, &app.secret) }
    }

    /// Whether `app` is to be used by it.
    #[must_use]
    pub fn is_of(&self, app: &App) -> bool {
        self.key == app.key && self.secret.expose_secret() == app.secret.expose_secret()
    }
}

/// What a request came to.
#[derive(Debug)]
pub enum Outcome {
    Accepted,
    /// Refused, and will be again.
    Rejected {
        /// For the log.
        why: String,
        /// Whether the fault may lie with one message of several.
        one_may_be_bad: bool,
    },
    /// None of them was taken: the server takes one event per request.
    OneByOne,
    /// May be tried again.
    Retry {
        cause: RetryCause,
        /// For the log.
        why: String,
        /// Whether it may have been accepted all the same.
        maybe_accepted: bool,
        /// How long the server asks to wait.
        wait: Option<Duration>,
    },
}

impl Outcome {
    fn not_taken(cause: RetryCause, why: impl Into<String>) -> Self {
        Self::Retry { cause, why: why.into(), maybe_accepted: false, wait: None }
    }
}

impl Api {
    /// The API of `app`, which takes at most `batch_max` events in one request.
    #[must_use]
    pub fn new(app: App, batch_max: usize, client: Arc<Client>) -> Self {
        Self {
            base: app.api.base("http", "https"),
            pair: ArcSwap::from_pointee(Pair::of(&app)),
            app,
            client,
            batch_max,
            one_by_one: AtomicBool::new(batch_max <= 1),
            signs_prefix: AtomicBool::new(false),
            accepted: AtomicBool::new(false),
            clock_difference_s: AtomicI64::new(0),
        }
    }

    /// What requests are signed with.
    #[must_use]
    pub fn pair(&self) -> Arc<Pair> {
        self.pair.load_full()
    }

    /// From now on requests are signed with this; those under way are what they are.
    pub fn sign_by(&self, pair: Arc<Pair>) {
        self.pair.store(pair);
    }

    /// Most events in one request, as far as it is known.
    #[must_use]
    pub fn batch_max(&self) -> usize {
        if self.one_by_one.load(Ordering::Relaxed) { 1 } else { self.batch_max }
    }

    /// Publishes events in one request (Pusher docs, "HTTP API", POST batch events: at most 10). Not every server has
    /// that: then by POST event, one at a time.
    ///
    /// `excluded` gives the socket id that must not get the events of a channel.
    pub async fn trigger<'a>(
        &self,
        batch: &[Arc<Sent>],
        excluded: impl Fn(&str) -> Option<&'a str>,
        timeout: Duration,
    ) -> Outcome {
        let Some(data) = self.data_of(batch) else {
            return rejected("there is no key to encrypt with".to_owned(), true);
        };
        if !self.one_by_one.load(Ordering::Relaxed) {
            match self.call("batch_events", batch_body(batch, &data, &excluded), timeout).await {
                Ok(response) if !is_unknown_place(response.status) => return judge(&response),
                Ok(_) => {}
                Err(outcome) => return outcome,
            }
        }
        let ([sent], [data]) = (batch, data.as_slice()) else { return Outcome::OneByOne };
        match self.call("events", event_body(sent, data, excluded), timeout).await {
            Ok(response) => {
                let outcome = judge(&response);
                // Only now is it known that it was not the app, or a proxy, that was not found.
                if matches!(outcome, Outcome::Accepted) && !self.one_by_one.swap(true, Ordering::Relaxed) {
                    tracing::warn!("the server has no batch_events: events are published one by one");
                }
                outcome
            }
            Err(outcome) => outcome,
        }
    }

    /// The events' data as it is published: that of encrypted channels sealed, under a nonce of its own each time. `None`:
    /// it cannot be, and nothing may leave in clear.
    fn data_of<'s>(&self, batch: &'s [Arc<Sent>]) -> Option<Vec<Cow<'s, str>>> {
        let data = batch.iter().map(|sent| {
            if ChannelKind::of(&sent.channel) != ChannelKind::Encrypted {
                return Some(Cow::Borrowed(sent.data.as_str()));
            }
            let key = self.app.encryption_master_key.as_ref()?.of_channel(&sent.channel);
            let mut nonce = [0; NONCE_BYTES];
            aws_lc_rs::rand::fill(&mut nonce).ok()?;
            Some(Cow::Owned(key.seal(nonce, &sent.data)))
        });
        data.collect()
    }

    /// POSTs to one of the app's resources.
    ///
    /// # Errors
    /// What it means that there is no answer of Pusher's to judge.
    pub(super) async fn call(
        &self,
        resource: &str,
        body: String,
        timeout: Duration,
    ) -> Result<Response, Outcome> {
        let here = Now::read().unix_seconds();
        let seconds = here.saturating_add(self.clock_difference_s.load(Ordering::Relaxed));
        let path = format!("/apps/{}/{resource}", self.app.id);
        let with_prefix = self.signs_prefix.load(Ordering::Relaxed);
        let prefix = if with_prefix { self.app.api.path.as_str() } else { "" };
        let pair = self.pair.load();
        let query = sign::signed_query(
            "POST",
            &format!("{prefix}{path}"),
            &[],
            body.as_bytes(),
            &pair.key,
            &pair.secret,
            seconds,
        );
        let response =
            self.send(format!("{}{path}?{query}", self.base), body, HeaderMap::new(), timeout).await?;
        if self.learns_time(&response, seconds, here) {
            return Err(Outcome::not_taken(
                RetryCause::Clock,
                "signed by a clock that differs from Pusher's",
            ));
        }
        if self.learns_prefix(&response, with_prefix) {
            return Err(Outcome::not_taken(RetryCause::Path, "the server signs its path with the prefix"));
        }
        if !may_be_pushers(&response) {
            return Err(Outcome::Retry {
                cause: RetryCause::NoAnswer,
                why: format!("HTTP {}, which is not Pusher's answer", response.status.as_u16()),
                maybe_accepted: true,
                wait: None,
            });
        }
        if response.status.is_success() {
            self.accepted.store(true, Ordering::Relaxed);
        }
        Ok(response)
    }

    /// A proxy takes the prefix away, and the server signs what is left; a server that has the prefix itself may sign
    /// all of the path. Whether a request was refused because this was the other kind is found by one more of them.
    fn learns_prefix(&self, response: &Response, with_prefix: bool) -> bool {
        if response.status != StatusCode::UNAUTHORIZED
            || self.app.api.path.is_empty()
            || self.accepted.load(Ordering::Relaxed)
        {
            return false;
        }
        self.signs_prefix.store(!with_prefix, Ordering::Relaxed);
        !with_prefix
    }

    /// Whether a request signed at `seconds` was refused because of this machine's clock; then the next ones are
    /// signed by Pusher's.
    fn learns_time(&self, response: &Response, seconds: i64, here: i64) -> bool {
        let Some(date) = response.date.filter(|_| response.status == StatusCode::UNAUTHORIZED) else {
            return false;
        };
        if date.abs_diff(seconds) <= CLOCK_DIFFERENCE_MAX_S.unsigned_abs() {
            return false;
        }
        let difference_s = date.saturating_sub(here);
        self.clock_difference_s.store(difference_s, Ordering::Relaxed);
        tracing::warn!(
            difference_s,
            "this machine's clock differs from Pusher's, by which requests are signed now"
        );
        true
    }

    /// What the server said. Of an answer whose body is too large or did not come to its end there is the status,
    /// which is what counts.
    ///
    /// # Errors
    /// What it means that it said nothing.
    async fn send(
        &self,
        url: String,
        body: String,
        headers: HeaderMap,
        timeout: Duration,
    ) -> Result<Response, Outcome> {
        answered(self.request(url, body, headers, timeout).await?)
    }

    /// # Errors
    /// Nothing can be sent there.
    pub(super) async fn request(
        &self,
        url: String,
        body: String,
        mut headers: HeaderMap,
        timeout: Duration,
    ) -> Result<Result<Response, HttpError>, Outcome> {
        let uri: Uri =
            url.parse().map_err(|error| rejected(format!("the URL is not usable: {error}"), false))?;
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        let request = Request { method: Method::POST, uri, headers, body: Bytes::from(body) };
        Ok(self.client.send(request, timeout, ANSWER_BYTES_MAX).await)
    }
}

/// See [`Api::send`].
pub(super) fn answered(answer: Result<Response, HttpError>) -> Result<Response, Outcome> {
    match answer {
        Ok(response) => Ok(response),
        Err(HttpError::TooLarge { answer, .. }) => {
            Ok(Response { readable: false, body: Bytes::from_static(b"(a large answer)"), ..answer })
        }
        Err(HttpError::BrokenOff { answer, .. }) => Ok(answer),
        Err(error @ HttpError::NotSent(_)) => Err(Outcome::not_taken(RetryCause::NotSent, error.to_string())),
        Err(error @ HttpError::Ambiguous(_)) => Err(Outcome::Retry {
            cause: RetryCause::NoAnswer,
            why: error.to_string(),
            maybe_accepted: true,
            wait: None,
        }),
    }
}

/// Whether a server says by this that it has no such resource.
fn is_unknown_place(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
}

/// `excluded` gives the socket id that must not get the events of a channel.
fn batch_body<'a>(
    batch: &[Arc<Sent>],
    data: &[Cow<'_, str>],
    excluded: impl Fn(&str) -> Option<&'a str>,
) -> String {
    let mut body = String::from("{\"batch\":[");
    for (i, (sent, data)) in batch.iter().zip(data).enumerate() {
        body.push_str(if i == 0 { "{\"channel\":\"" } else { ",{\"channel\":\"" });
        escape_into(&mut body, &sent.channel);
        body.push('"');
        rest_into(&mut body, sent, data, excluded(&sent.channel));
    }
    body.push_str("]}");
    body
}

/// The body of POST event. All servers take `channels`, some of them `channel` too.
fn event_body<'a>(sent: &Sent, data: &str, excluded: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut body = String::from("{\"channels\":[\"");
    escape_into(&mut body, &sent.channel);
    body.push_str("\"]");
    rest_into(&mut body, sent, data, excluded(&sent.channel));
    body
}

/// Name, data, and the socket id to exclude.
fn rest_into(body: &mut String, sent: &Sent, data: &str, excluded: Option<&str>) {
    body.push_str(",\"name\":\"");
    escape_into(body, &sent.event);
    // The data is a string whose text is the JSON, as Pusher wants it.
    body.push_str("\",\"data\":\"");
    escape_into(body, data);
    if let Some(socket_id) = excluded {
        body.push_str("\",\"socket_id\":\"");
        escape_into(body, socket_id);
    }
    body.push_str("\"}");
}

/// Pusher's successes are JSON (Pusher docs, "HTTP API"): others, such as a proxy's welcome page, carry nothing on.
/// What was published must not be published again for want of an answer's end, so only a whole body that is something
/// else is no answer of Pusher's.
fn may_be_pushers(response: &Response) -> bool {
    match response.status {
        status if status.is_informational() => false,
        status if status.is_success() => !(response.readable && is_something_else(&response.body)),
        _ => true,
    }
}

/// Whether `body` is neither JSON nor its beginning. Of bytes that are no text only markup is known to be something
/// else.
fn is_something_else(body: &[u8]) -> bool {
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body).trim_ascii();
    if std::str::from_utf8(body).is_err() {
        return body.starts_with(b"<");
    }
    let error = serde_json::from_slice::<serde::de::IgnoredAny>(body).err();
    error.is_some_and(|error| !error.is_eof())
}

/// What an answer of Pusher's means: 429 and 5xx may pass, all other refusals are final. Both are said by proxies as
/// well, also of requests that they have passed on, so the event may have been accepted.
pub(super) fn judge(response: &Response) -> Outcome {
    let text = String::from_utf8_lossy(&response.body);
    let status = real_status(response.status, &text);
    let why = || why(status, &text);
    if status.is_success() {
        Outcome::Accepted
    } else if let Some(cause) = passing(status) {
        // What only the server itself writes is its own word.
        let maybe_accepted = status == response.status;
        Outcome::Retry { cause, why: why(), maybe_accepted, wait: response.retry_after }
    } else {
        let about_the_app = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        rejected(why(), !about_the_app)
    }
}

/// Why a request that was answered by this status may pass the next time.
pub(super) fn passing(status: StatusCode) -> Option<RetryCause> {
    match status {
        StatusCode::TOO_MANY_REQUESTS => Some(RetryCause::RateLimited),
        StatusCode::SERVICE_UNAVAILABLE => Some(RetryCause::Unavailable),
        status if status.is_server_error() => Some(RetryCause::ServerError),
        _ => None,
    }
}

pub(super) fn why(status: StatusCode, text: &str) -> String {
    let said: String = text.chars().filter(|c| !c.is_control()).take(WHY_CHARS_MAX).collect();
    format!("HTTP {}: {said}", status.as_u16())
}

/// soketi answers errors with 200 and `{"error":…,"code":…}`.
fn real_status(status: StatusCode, text: &str) -> StatusCode {
    if status != StatusCode::OK || !text.contains("\"error\"") {
        return status;
    }
    Object::parse(text)
        .ok()
        .filter(|object| object.get("error").is_some())
        .and_then(|object| object.get("code")?.parse::<u16>().ok())
        .and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(status)
}

pub(super) fn rejected(why: String, one_may_be_bad: bool) -> Outcome {
    Outcome::Rejected { why, one_may_be_bad }
}

#[cfg(test)]
pub(super) mod tests;
