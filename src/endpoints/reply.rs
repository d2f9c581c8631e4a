//! Pure: every way in which a request to an endpoint ends, in one place: the label in metrics and the audit line, and
//! the status of the answer.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::metrics::label::labels;

labels! {
    /// What became of a request to an endpoint.
    pub enum EndpointResult: "result" {
        /// Signed, published or taken.
        Ok = "ok",
        /// A browser asks whether its page may ask.
        Preflight = "preflight",
        /// A webhook that has come before.
        Repeated = "repeated",
        /// Not well-formed, or fields are missing or wrong.
        Malformed = "malformed",
        /// A webhook whose time is not now.
        Stale = "stale",
        NoToken = "no_token",
        /// A token or signature that is not right.
        WrongToken = "wrong_token",
        /// The same, and too many of them came from the address.
        RateLimited = "rate_limited",
        /// A right token, but too many requests of its user.
        UserRateLimited = "user_rate_limited",
        /// No route gives this channel to this user, or nothing lets this user sign in.
        Forbidden = "forbidden",
        /// The page's origin is not listed.
        Origin = "origin",
        Method = "method",
        /// The body did not come in time.
        Timeout = "timeout",
        TooLarge = "too_large",
        /// Pusher refused it.
        Refused = "refused",
        /// Pusher, the keys or this bridge cannot serve it now.
        Unavailable = "unavailable",
    }
}

impl EndpointResult {
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Ok | Self::Repeated => 200,
            Self::Preflight => 204,
            Self::Malformed | Self::Stale => 400,
            Self::NoToken | Self::WrongToken => 401,
            Self::Forbidden | Self::Origin => 403,
            Self::Method => 405,
            Self::Timeout => 408,
            Self::TooLarge => 413,
            Self::RateLimited | Self::UserRateLimited => 429,
            Self::Refused => 502,
            Self::Unavailable => 503,
        }
    }

    /// What the answer says where no more is known.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Preflight => "the page may ask",
            Self::Repeated => "it has come before",
            Self::Malformed => "the request is malformed",
            Self::Stale => "it is too old, or from the future",
            Self::NoToken => "a token is needed: Authorization: Bearer",
            Self::WrongToken => "the token is invalid or expired",
            Self::RateLimited => "too many wrong tokens",
            Self::UserRateLimited => "too many requests",
            Self::Forbidden => "this is not for this user",
            Self::Origin => "this origin is not allowed",
            Self::Method => "only POST is served here",
            Self::Timeout => "the body did not come in time",
            Self::TooLarge => "the body is too large",
            Self::Refused => "Pusher refused it",
            Self::Unavailable => "not available now",
        }
    }
}

/// An answer, and what is told of it elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub result: EndpointResult,
    /// JSON.
    pub body: String,
    /// After how long it may be tried again.
    pub retry_after: Option<Duration>,
    /// For the audit line.
    pub why: Option<Cow<'static, str>>,
}

impl Reply {
    /// Success, with this JSON.
    #[must_use]
    pub const fn ok(body: String) -> Self {
        Self { result: EndpointResult::Ok, body, retry_after: None, why: None }
    }

    /// A refusal with what is known of its cause.
    pub fn because(result: EndpointResult, why: impl Into<Cow<'static, str>>) -> Self {
        Self::with(result, why, Map::new())
    }

    /// The same, with further members in its JSON.
    pub fn with(
        result: EndpointResult,
        why: impl Into<Cow<'static, str>>,
        mut members: Map<String, Value>,
    ) -> Self {
        let why = why.into();
        members.insert("success".to_owned(), json!(false));
        members.insert("error".to_owned(), json!(result.label()));
        members.insert("message".to_owned(), json!(why));
        Self { result, body: Value::Object(members).to_string(), retry_after: None, why: Some(why) }
    }

    /// With `Retry-After`.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// Whole seconds, at least one.
    #[must_use]
    pub fn retry_after_s(&self) -> Option<u64> {
        self.retry_after.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).map(|s| s.max(1))
    }
}

impl From<EndpointResult> for Reply {
    fn from(result: EndpointResult) -> Self {
        Self::because(result, result.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_result_has_its_own_label_and_text() {
        let count = EndpointResult::ALL.len();
        assert_eq!(
            EndpointResult::ALL.map(EndpointResult::label).iter().collect::<HashSet<_>>().len(),
            count
        );
        assert_eq!(EndpointResult::ALL.map(EndpointResult::text).iter().collect::<HashSet<_>>().len(), count);
    }

    #[test]
    fn an_answer_is_json_and_says_when_to_come_again() {
        let reply = Reply::because(EndpointResult::RateLimited, "a \"b\"").after(Duration::from_millis(1200));
        let body: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(body, json!({ "success": false, "error": "rate_limited", "message": "a \"b\"" }));
        assert_eq!(reply.retry_after_s(), Some(2));
        assert_eq!(Reply::from(EndpointResult::Unavailable).after(Duration::ZERO).retry_after_s(), Some(1));
    }
}
