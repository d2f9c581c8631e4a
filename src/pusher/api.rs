//! Pusher's HTTP API, as far as publishing needs it, and POSTs to backends. Decides what an answer means.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, StatusCode, Uri};
use secrecy::{ExposeSecret, SecretString};

use super::publisher::Sent;
use super::sign;
use crate::clock::Now;
use crate::config::App;
use crate::http::{Client, HttpError, Request, Response};
use crate::legacy::json::Object;
use crate::template::escape_into;

/// Largest answer read, bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// As much of an answer's text as a log gets.
const WHY_CHARS_MAX: usize = 200;
/// A signature refused while the clocks are further apart than this is refused for that reason: Pusher takes 600 s
/// (Pusher docs, "HTTP API", authentication), and a `Date` may be some seconds old.
const CLOCK_DIFFERENCE_MAX_S: i64 = 300;
/// Sent with every request.
const AGENT: &str = concat!("pusher-bridge/", env!("CARGO_PKG_VERSION"));

/// The API of one app.
pub struct Api {
    app: App,
    client: Arc<Client>,
    base: String,
    path: String,
    /// What Pusher's clock is ahead of this machine's, as far as it mattered: seconds.
    clock_difference_s: AtomicI64,
}

/// A POST to a backend.
#[derive(Debug)]
pub struct Backend {
    /// Absolute.
    pub url: String,
    /// JSON.
    pub body: String,
    /// Further headers.
    pub headers: Vec<(String, SecretString)>,
}

/// What a request came to.
#[derive(Debug)]
pub enum Outcome {
    /// Accepted.
    Accepted,
    /// Refused, and will be refused again.
    Refused {
        /// For the log.
        why: String,
        /// Whether the fault may lie with one message of several.
        one_may_be_bad: bool,
    },
    /// May be tried again.
    Retry {
        /// The metric label.
        cause: &'static str,
        /// For the log.
        why: String,
        /// Whether it may have been accepted all the same.
        maybe_accepted: bool,
        /// How long the server asks to wait.
        wait: Option<Duration>,
    },
}

impl Api {
    /// The API of `app`.
    #[must_use]
    pub fn new(app: App, client: Arc<Client>) -> Self {
        let scheme = if app.tls { "https" } else { "http" };
        let port = app.port.map(|port| format!(":{port}")).unwrap_or_default();
        let base = format!("{scheme}://{}{port}", bracketed(&app.api_host));
        let path = format!("/apps/{}/batch_events", app.id);
        Self { app, client, base, path, clock_difference_s: AtomicI64::new(0) }
    }

    /// Publishes events in one request (Pusher docs, "HTTP API", POST batch events: at most 10).
    pub async fn trigger(&self, batch: &[&Sent], timeout: Duration) -> Outcome {
        let body = batch_body(batch);
        let here = Now::read().unix_seconds();
        let seconds = here.saturating_add(self.clock_difference_s.load(Ordering::Relaxed));
        let query = sign::signed_query(
            "POST",
            &self.path,
            &[],
            body.as_bytes(),
            &self.app.key,
            &self.app.secret,
            seconds,
        );
        let url = format!("{}{}?{query}", self.base, self.path);
        match self.send(url, body, HeaderMap::new(), timeout).await {
            Ok(response) if self.learns_time(&response, seconds, here) => Outcome::Retry {
                cause: "clock",
                why: "signed by a clock that differs from Pusher's".to_owned(),
                maybe_accepted: false,
                wait: None,
            },
            Ok(response) if !may_be_pushers(&response) => Outcome::Retry {
                cause: "no_answer",
                why: format!("HTTP {}, which is not Pusher's answer", response.status.as_u16()),
                maybe_accepted: true,
                wait: None,
            },
            Ok(response) => judge(&response),
            Err(outcome) => outcome,
        }
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

    /// POSTs a client's message to a backend.
    pub async fn post(&self, backend: &Backend, timeout: Duration) -> Outcome {
        let mut headers = HeaderMap::new();
        for (name, value) in &backend.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_str(value.expose_secret());
            let (Ok(name), Ok(mut value)) = (name, value) else {
                return refused("a configured header is not sendable".to_owned(), false);
            };
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let sent = self.send(backend.url.clone(), backend.body.clone(), headers, timeout).await;
        sent.map_or_else(|outcome| outcome, |response| judge(&response))
    }

    /// What the server said.
    ///
    /// # Errors
    /// What it means that it said nothing.
    async fn send(
        &self,
        url: String,
        body: String,
        mut headers: HeaderMap,
        timeout: Duration,
    ) -> Result<Response, Outcome> {
        let uri: Uri =
            url.parse().map_err(|error| refused(format!("the URL is not usable: {error}"), false))?;
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let request = Request { method: Method::POST, uri, headers, body: Bytes::from(body) };
        match self.client.send(request, timeout, ANSWER_BYTES_MAX).await {
            Ok(response) => Ok(response),
            // The answer is known, if not all of its text.
            Err(HttpError::TooLarge { status, .. }) => {
                let body = Bytes::from_static(b"(a large answer)");
                Ok(Response { status, retry_after: None, date: None, body })
            }
            Err(error) => {
                let maybe_accepted = !matches!(error, HttpError::NotSent(_));
                let cause = if maybe_accepted { "no_answer" } else { "not_sent" };
                Err(Outcome::Retry { cause, why: error.to_string(), maybe_accepted, wait: None })
            }
        }
    }
}

/// Brackets around an IPv6 literal (RFC 3986 §3.2.2).
#[must_use]
pub fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

fn batch_body(batch: &[&Sent]) -> String {
    let mut body = String::from("{\"batch\":[");
    for (i, sent) in batch.iter().enumerate() {
        body.push_str(if i == 0 { "{\"channel\":\"" } else { ",{\"channel\":\"" });
        escape_into(&mut body, &sent.channel);
        body.push_str("\",\"name\":\"");
        escape_into(&mut body, &sent.event);
        // The data is a string whose text is the JSON, as Pusher wants it.
        body.push_str("\",\"data\":\"");
        escape_into(&mut body, &sent.data);
        body.push_str("\"}");
    }
    body.push_str("]}");
    body
}

/// Pusher's successes are JSON (Pusher docs, "HTTP API"): others, such as a proxy's welcome page, carry nothing on.
fn may_be_pushers(response: &Response) -> bool {
    let body = response.body.trim_ascii();
    let is_json = || body.is_empty() || serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok();
    match response.status {
        status if status.is_informational() => false,
        status => !status.is_success() || is_json(),
    }
}

/// What an answer means: 429 and 5xx may pass, all other refusals are final.
fn judge(response: &Response) -> Outcome {
    let text = String::from_utf8_lossy(&response.body);
    let status = real_status(response.status, &text);
    let why = || {
        let said: String = text.chars().filter(|c| !c.is_control()).take(WHY_CHARS_MAX).collect();
        format!("HTTP {}: {said}", status.as_u16())
    };
    if status.is_success() {
        Outcome::Accepted
    } else if status == StatusCode::TOO_MANY_REQUESTS {
        Outcome::Retry {
            cause: "rate_limited",
            why: why(),
            maybe_accepted: false,
            wait: response.retry_after,
        }
    } else if status == StatusCode::SERVICE_UNAVAILABLE {
        Outcome::Retry { cause: "unavailable", why: why(), maybe_accepted: false, wait: response.retry_after }
    } else if status.is_server_error() {
        Outcome::Retry { cause: "server_error", why: why(), maybe_accepted: true, wait: response.retry_after }
    } else {
        let about_the_app = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        refused(why(), !about_the_app)
    }
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

fn refused(why: String, one_may_be_bad: bool) -> Outcome {
    Outcome::Refused { why, one_may_be_bad }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legacy::id::ConnId;

    fn answer(status: u16, body: &str) -> Outcome {
        judge(&response(status, body))
    }

    fn response(status: u16, body: &str) -> Response {
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: Some(Duration::from_secs(7)),
            date: None,
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn what_is_no_json_is_not_pushers_success() {
        for (status, body, may_be) in [
            (200, "{}", true),
            (200, " {\"batch\":[{}]}\n", true),
            (200, "", true),
            (400, "plain text", true),
            (502, "<p>Bad gateway</p>", true),
            (200, "<p>Welcome!</p>", false),
            (200, "(a large answer)", false),
            (200, "{} {", false),
            (101, "", false),
        ] {
            assert_eq!(may_be_pushers(&response(status, body)), may_be, "{status} {body}");
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
            (429, "", "retry rate_limited false"),
            (503, "", "retry unavailable false"),
            (500, "", "retry server_error true"),
            (504, "", "retry server_error true"),
        ] {
            let outcome = match answer(status, body) {
                Outcome::Accepted => "accepted".to_owned(),
                Outcome::Refused { one_may_be_bad, .. } => {
                    format!("refused, {}", if one_may_be_bad { "one" } else { "all" })
                }
                Outcome::Retry { cause, maybe_accepted, wait, .. } => {
                    assert_eq!(wait, Some(Duration::from_secs(7)));
                    format!("retry {cause} {maybe_accepted}")
                }
            };
            assert_eq!(outcome, expected, "{status} {body}");
        }
    }

    #[test]
    fn only_a_refused_signature_far_from_pushers_time_teaches_it() {
        let app = App {
            id: "1".into(),
            key: "k".into(),
            secret: "s".into(),
            api_host: "localhost".into(),
            ws_host: "localhost".into(),
            port: None,
            tls: false,
            ca_file: None,
        };
        let api = Api::new(app, Arc::new(Client::new(&crate::tls::client_config(None).unwrap())));
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
            let response = Response { status, retry_after: None, date, body: Bytes::new() };
            assert_eq!(api.learns_time(&response, signed, here), learns, "{date:?}");
            assert_eq!(api.clock_difference_s.load(Ordering::Relaxed), difference, "{date:?}");
        }
    }

    #[test]
    fn bodies_carry_data_as_a_string_and_keep_its_text() {
        let sent = |data: &str| Sent {
            id: 1,
            channel: "private-c".into(),
            event: "client-\"e".into(),
            data: data.into(),
            origin: ConnId(1),
        };
        let data = "{\"n\": 1.50, \"s\":\"a\\n\\u00e9\u{1F600}\"}";
        let (one, two) = (sent(data), sent("7"));
        let body = batch_body(&[&one, &two]);
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["batch"][0]["data"].as_str(), Some(data));
        assert_eq!(value["batch"][0]["name"].as_str(), Some("client-\"e"));
        assert_eq!(value["batch"][1]["data"].as_str(), Some("7"));
        assert_eq!(value["batch"].as_array().unwrap().len(), 2);
    }
}
