//! Asking Pusher whether it takes the app's credentials.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderMap;

use super::{ANSWER_BYTES_MAX, Api, Pair, WHY_CHARS_MAX};
use crate::clock::Now;
use crate::http::{Request, Response};
use crate::json::{self, Object};
use crate::pusher::sign;
use crate::text::loggable;
use crate::upstream::misconfigured::{self, Misconfigured};
use std::sync::atomic::Ordering;

/// What Pusher says of the credentials.
#[derive(Debug, PartialEq, Eq)]
pub enum Checked {
    Fine,
    Misconfigured(Misconfigured, String),
    /// Nothing that means either.
    Unknown,
}

impl Api {
    /// Asks for the app's channels (Pusher docs, "HTTP API", GET channels).
    pub async fn check(&self, timeout: Duration) -> Checked {
        self.check_pair(&self.pair(), timeout).await
    }

    /// The same, signed with another pair than requests are.
    pub async fn check_pair(&self, pair: &Pair, timeout: Duration) -> Checked {
        // Its clock and what it signs may have to be learned first.
        for _ in 0..3 {
            let here = Now::read().unix_seconds();
            let seconds = here.saturating_add(self.clock_difference_s.load(Ordering::Relaxed));
            let path = format!("/apps/{}/channels", self.app.id);
            let with_prefix = self.signs_prefix.load(Ordering::Relaxed);
            let prefix = if with_prefix { self.app.api.path.as_str() } else { "" };
            let (key, secret) = (&pair.key, &pair.secret);
            let signed = format!("{prefix}{path}");
            let query = sign::signed_query("GET", &signed, &[], b"", key, secret, seconds);
            let Ok(uri) = format!("{}{path}?{query}", self.base).parse() else { return Checked::Unknown };
            let (headers, body) = (HeaderMap::new(), Bytes::new());
            let request = Request { method: Method::GET, uri, headers, body };
            let Ok(response) = self.client.send(request, timeout, ANSWER_BYTES_MAX).await else {
                return Checked::Unknown;
            };
            if !self.learns_time(&response, seconds, here) && !self.learns_prefix(&response, with_prefix) {
                return judge(&response);
            }
        }
        Checked::Unknown
    }
}

fn judge(response: &Response) -> Checked {
    let text = String::from_utf8_lossy(&response.body);
    let object = Object::parse(&text).ok();
    let code = object.as_ref().and_then(|object| json::scalar(object.get("code")?)?.parse().ok());
    let status = match code {
        Some(code) if response.status.is_success() => code,
        _ => response.status.as_u16(),
    };
    let why = object.as_ref().and_then(|object| object.string("error"));
    let why = why.unwrap_or_else(|| text.as_ref().into());
    match misconfigured::by_answer(status, &why) {
        Some(what) => {
            let why: String = why.chars().take(WHY_CHARS_MAX).collect();
            Checked::Misconfigured(what, loggable(&why))
        }
        None if status == 200 && object.is_some_and(|object| object.get("channels").is_some()) => {
            Checked::Fine
        }
        None => Checked::Unknown,
    }
}
