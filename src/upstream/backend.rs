//! POSTs of clients' messages to backends, and what their answers mean.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::api::{Api, Outcome, answered, passing, rejected, why};
use super::metrics::{ReplyResult, RetryCause};
use super::reply;
use crate::http::Response;

/// A POST to a backend.
#[derive(Debug)]
pub struct Backend {
    /// Absolute.
    pub url: String,
    /// JSON.
    pub body: String,
    /// Further headers.
    pub headers: Vec<(String, SecretString)>,
    /// Statuses by which it says that it did not take the message, and may be asked again.
    pub retry_on: Vec<u16>,
    /// Whether its answer goes back to the sender.
    pub replies: bool,
}

impl Api {
    /// POSTs a client's message to a backend. Where the rule wants its answer, this gives what there is to pass on.
    pub async fn post(
        &self,
        backend: &Backend,
        timeout: Duration,
    ) -> (Outcome, Option<Result<String, ReplyResult>>) {
        let mut headers = HeaderMap::new();
        for (name, value) in &backend.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_str(value.expose_secret());
            let (Ok(name), Ok(mut value)) = (name, value) else {
                return (rejected("a configured header is not sendable".to_owned(), false), None);
            };
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let answer = match self.request(backend.url.clone(), backend.body.clone(), headers, timeout).await {
            Ok(answer) => answer,
            Err(outcome) => return (outcome, None),
        };
        let reply = backend.replies.then(|| reply::of(&answer));
        let outcome = match answered(answer) {
            Ok(mut response) => {
                if backend.replies {
                    // It was for the sender, and may say what no log should.
                    response.body = Bytes::new();
                }
                judge_backends(&response, &backend.retry_on)
            }
            Err(outcome) => outcome,
        };
        (outcome, reply)
    }
}

/// What a backend's answer means: a success is one whatever it says, for its text is its own affair. No other status
/// says for certain that nothing was done, but where the rule knows better.
fn judge_backends(response: &Response, retry_on: &[u16]) -> Outcome {
    let status = response.status;
    let why = || why(status, &String::from_utf8_lossy(&response.body));
    if status.is_success() {
        Outcome::Accepted
    } else if retry_on.contains(&status.as_u16()) {
        let cause = passing(status).unwrap_or(RetryCause::Rejected);
        Outcome::Retry { cause, why: why(), maybe_accepted: false, wait: response.retry_after }
    } else if let Some(cause) = passing(status) {
        Outcome::Retry { cause, why: why(), maybe_accepted: true, wait: None }
    } else {
        rejected(why(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::api::tests::{response, said};

    #[test]
    fn of_a_backends_answers_only_the_status_counts() {
        for (status, body, retry_on, expected) in [
            (200, "{}", [0, 0], "accepted"),
            (204, "", [0, 0], "accepted"),
            (200, r#"{"error":"no","code":503}"#, [0, 0], "accepted"),
            (200, r#"{"error":"no","code":413}"#, [413, 503], "accepted"),
            (202, "(a large answer)", [0, 0], "accepted"),
            (400, "", [0, 0], "refused, all"),
            (409, "", [0, 0], "refused, all"),
            (409, "", [409, 0], "retry refused not taken 7s"),
            (301, "", [0, 0], "refused, all"),
            (429, "", [0, 0], "retry rate_limited maybe -"),
            (429, "", [503, 429], "retry rate_limited not taken 7s"),
            (503, "", [0, 0], "retry unavailable maybe -"),
            (503, "", [502, 0], "retry unavailable maybe -"),
            (503, "", [503, 429], "retry unavailable not taken 7s"),
            (500, "", [503, 429], "retry server_error maybe -"),
            (502, "", [0, 0], "retry server_error maybe -"),
        ] {
            let outcome = judge_backends(&response(status, body), &retry_on);
            assert_eq!(said(&outcome), expected, "{status} {body} {retry_on:?}");
        }
    }
}
