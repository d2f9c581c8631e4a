//! Pusher's HTTP API, as far as publishing needs it. Decides what an answer means.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode, Uri};

use crate::clock::Now;
use crate::http::{Client, HttpError, Request, Response};
use crate::json::Object;
use crate::pusher::sign;
use crate::template::escape_into;
use crate::upstream::delivery::Sent;
use crate::upstream::metrics::RetryCause;
use crate::upstream::settings::App;

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
            app,
            client,
            batch_max,
            one_by_one: AtomicBool::new(batch_max <= 1),
            signs_prefix: AtomicBool::new(false),
            accepted: AtomicBool::new(false),
            clock_difference_s: AtomicI64::new(0),
        }
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
        if !self.one_by_one.load(Ordering::Relaxed) {
            match self.call("batch_events", batch_body(batch, &excluded), timeout).await {
                Ok(response) if !is_unknown_place(response.status) => return judge(&response),
                Ok(_) => {}
                Err(outcome) => return outcome,
            }
        }
        let [sent] = batch else { return Outcome::OneByOne };
        match self.call("events", event_body(sent, excluded), timeout).await {
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

    /// POSTs to one of the app's resources.
    ///
    /// # Errors
    /// What it means that there is no answer of Pusher's to judge.
    async fn call(&self, resource: &str, body: String, timeout: Duration) -> Result<Response, Outcome> {
        let here = Now::read().unix_seconds();
        let seconds = here.saturating_add(self.clock_difference_s.load(Ordering::Relaxed));
        let path = format!("/apps/{}/{resource}", self.app.id);
        let with_prefix = self.signs_prefix.load(Ordering::Relaxed);
        let prefix = if with_prefix { self.app.api.path.as_str() } else { "" };
        let query = sign::signed_query(
            "POST",
            &format!("{prefix}{path}"),
            &[],
            body.as_bytes(),
            &self.app.key,
            &self.app.secret,
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
fn batch_body<'a>(batch: &[Arc<Sent>], excluded: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut body = String::from("{\"batch\":[");
    for (i, sent) in batch.iter().enumerate() {
        body.push_str(if i == 0 { "{\"channel\":\"" } else { ",{\"channel\":\"" });
        escape_into(&mut body, &sent.channel);
        body.push('"');
        rest_into(&mut body, sent, excluded(&sent.channel));
    }
    body.push_str("]}");
    body
}

/// The body of POST event. All servers take `channels`, some of them `channel` too.
fn event_body<'a>(sent: &Sent, excluded: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut body = String::from("{\"channels\":[\"");
    escape_into(&mut body, &sent.channel);
    body.push_str("\"]");
    rest_into(&mut body, sent, excluded(&sent.channel));
    body
}

/// Name, data, and the socket id to exclude.
fn rest_into(body: &mut String, sent: &Sent, excluded: Option<&str>) {
    body.push_str(",\"name\":\"");
    escape_into(body, &sent.event);
    // The data is a string whose text is the JSON, as Pusher wants it.
    body.push_str("\",\"data\":\"");
    escape_into(body, &sent.data);
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
fn judge(response: &Response) -> Outcome {
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
pub(super) mod tests {
    use super::*;
    use crate::exchange::ConnId;
    use crate::upstream::settings::Endpoint;

    /// An app whose socket and API are both there.
    pub(in crate::upstream) fn app(there: Endpoint) -> App {
        App {
            id: "1".into(),
            key: "k".into(),
            secret: "s".into(),
            ws: there.clone(),
            api: there,
            origin: None,
            ca_file: None,
        }
    }

    fn api(path: &str) -> Api {
        let there = Endpoint { host: "localhost".into(), port: None, tls: false, path: path.into() };
        Api::new(app(there), 10, Arc::new(Client::new(&crate::tls::client_config(None).unwrap())))
    }

    pub(in crate::upstream) fn response(status: u16, body: &str) -> Response {
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: Some(Duration::from_secs(7)),
            date: None,
            content_type: None,
            readable: true,
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn a_whole_body_that_is_no_json_is_not_pushers_success() {
        for (status, body, may_be) in [
            (200, "{}", true),
            (200, " {\"batch\":[{}]}\n", true),
            (200, "", true),
            (400, "plain text", true),
            (502, "<p>Bad gateway</p>", true),
            (200, "<p>Welcome!</p>", false),
            (200, "Welcome", false),
            (200, "{} {", false),
            (101, "", false),
            // It has begun as Pusher's do.
            (200, "{\"ba", true),
            (200, "{", true),
            (200, "{\"batch\":[{}", true),
            (200, "\u{FEFF}{}", true),
        ] {
            assert_eq!(may_be_pushers(&response(status, body)), may_be, "{status} {body}");
        }
        let bytes = |body: &'static [u8]| Response { body: Bytes::from_static(body), ..response(200, "") };
        for (body, may_be) in
            [(&b"{\"a\":\"\xFF\"}"[..], true), (b"\xFF\xFE{\0}\0", true), (b"<p>f\xFCr</p>", false)]
        {
            assert_eq!(may_be_pushers(&bytes(body)), may_be, "{body:?}");
        }
        // Nobody knows whether it is whole, or what it says.
        for body in ["{\"ba", "<p>Welcome!</p>", "(a large answer)"] {
            let answer = |status| Response { readable: false, ..response(status, body) };
            assert!(may_be_pushers(&answer(200)) && !may_be_pushers(&answer(101)), "{body}");
        }
    }

    #[test]
    fn answers_are_judged() {
        for (status, body, expected) in [
            (200, "{}", "accepted"),
            (202, "", "accepted"),
            (200, r#"{"ok":true}"#, "accepted"),
            (200, r#"{"error":"The payload is too large","code":413}"#, "refused, one"),
            (400, "bad", "refused, one"),
            (401, "", "refused, all"),
            (403, "over quota", "refused, all"),
            (413, "", "refused, one"),
            (422, "", "refused, one"),
            (301, "", "refused, one"),
            (429, "", "retry rate_limited maybe 7s"),
            (503, "", "retry unavailable maybe 7s"),
            (500, "", "retry server_error maybe 7s"),
            (502, "", "retry server_error maybe 7s"),
            (504, "", "retry server_error maybe 7s"),
            (200, r#"{"error":"Too many","code":429}"#, "retry rate_limited not taken 7s"),
            (200, r#"{"error":"Away","code":503}"#, "retry unavailable not taken 7s"),
        ] {
            assert_eq!(said(&judge(&response(status, body))), expected, "{status} {body}");
        }
    }

    pub(in crate::upstream) fn said(outcome: &Outcome) -> String {
        match outcome {
            Outcome::Accepted => "accepted".to_owned(),
            Outcome::OneByOne => "one by one".to_owned(),
            Outcome::Rejected { one_may_be_bad, .. } => {
                format!("refused, {}", if *one_may_be_bad { "one" } else { "all" })
            }
            Outcome::Retry { cause, maybe_accepted, wait, .. } => {
                let taken = if *maybe_accepted { "maybe" } else { "not taken" };
                let wait = wait.map_or("-".to_owned(), |wait| format!("{wait:?}"));
                format!("retry {} {taken} {wait}", cause.label())
            }
        }
    }

    #[test]
    fn only_a_refused_signature_far_from_pushers_time_teaches_it() {
        let api = api("");
        let here = 1_000_000;
        for (status, date, signed, learns, difference) in [
            (200, Some(here + 7200), here, false, 0),
            (401, None, here, false, 0),
            (401, Some(here + 300), here, false, 0),
            (401, Some(here + 7200), here, true, 7200),
            (401, Some(here + 7201), here + 7200, false, 7200),
            (401, Some(here - 9000), here + 7200, true, -9000),
            (401, Some(i64::MIN), i64::MAX, true, i64::MIN),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let response = Response { status, date, ..response(200, "") };
            assert_eq!(api.learns_time(&response, signed, here), learns, "{date:?}");
            assert_eq!(api.clock_difference_s.load(Ordering::Relaxed), difference, "{date:?}");
        }
    }

    #[test]
    fn what_the_server_signs_is_found_by_two_refusals_at_most() {
        let (refusal, success) = (response(401, ""), response(200, "{}"));
        let plain = api("");
        assert!(!plain.learns_prefix(&refusal, false), "there is nothing else to sign");
        let prefixed = api("/pusher");
        for _ in 0..3 {
            assert!(!prefixed.learns_prefix(&success, false));
            assert!(prefixed.learns_prefix(&refusal, false), "tried once more, with the prefix");
            assert!(prefixed.signs_prefix.load(Ordering::Relaxed));
            assert!(!prefixed.learns_prefix(&refusal, true), "it is the key, then");
            assert!(!prefixed.signs_prefix.load(Ordering::Relaxed));
        }
        prefixed.accepted.store(true, Ordering::Relaxed);
        assert!(!prefixed.learns_prefix(&refusal, false), "it is known what is signed");
    }

    #[test]
    fn bodies_carry_data_as_a_string_and_keep_its_text() {
        let sent = |channel: &str, data: &str| {
            Arc::new(Sent {
                channel: channel.into(),
                event: "client-\"e".into(),
                data: data.into(),
                origin: ConnId(1),
            })
        };
        let data = "{\"n\": 1.50, \"s\":\"a\\n\\u00e9\u{1F600}\"}";
        let batch = [sent("private-c", data), sent("d", "7")];
        let body = batch_body(&batch, |channel| (channel == "d").then_some("1.\"2"));
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["batch"][0]["data"].as_str(), Some(data));
        assert_eq!(value["batch"][0]["name"].as_str(), Some("client-\"e"));
        assert_eq!(value["batch"][1]["data"].as_str(), Some("7"));
        assert_eq!(value["batch"][0].get("socket_id"), None);
        assert_eq!(value["batch"][1]["socket_id"].as_str(), Some("1.\"2"));
        assert_eq!(value["batch"].as_array().unwrap().len(), 2);

        let value: serde_json::Value = serde_json::from_str(&event_body(&batch[0], |_| Some("1.2"))).unwrap();
        let expected = serde_json::json!({"channels": ["private-c"], "name": "client-\"e", "data": data, "socket_id": "1.2"});
        assert_eq!(value, expected);
    }
}
