//! Pure: what can be asked.

use std::fmt;
use std::net::IpAddr;

use hyper::header::{
    CONNECTION, HOST, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Request, Uri};

use crate::clock::Now;

/// A proper `Sec-WebSocket-Key`, of 16 bytes.
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAA==";

/// What is asked: a request, what its client sends, and an event of its channel.
#[derive(Debug)]
pub struct Question {
    /// The head of the upgrade.
    pub request: Parts,
    /// Who asks, where that matters.
    pub address: Option<IpAddr>,
    /// A token that is sent by the dialect's own message.
    pub token: Option<String>,
    /// Further messages, in order.
    pub messages: Vec<String>,
    /// An event's name and its data, as its publisher wrote them.
    pub event: Option<(String, String)>,
    /// When.
    pub now: Now,
}

/// Why there is no such request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAUrl {
    /// Neither a path nor a WebSocket's URL.
    Url,
    /// What cannot be in a header.
    Origin,
    /// Not `NAME: VALUE`, or a field that makes the request an upgrade.
    Header,
}

impl fmt::Display for NotAUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Url => "must be a path, as `/ws?token=…`, or begin with `ws://` or `wss://`",
            Self::Origin => "is not a valid origin",
            Self::Header => "must be `NAME: VALUE`, and not one of those that make an upgrade",
        })
    }
}

impl std::error::Error for NotAUrl {}

impl Question {
    /// The upgrade of `url`, which may be a path alone.
    ///
    /// # Errors
    /// There is no such request.
    pub fn of(url: &str, origin: Option<&str>, now: Now) -> Result<Self, NotAUrl> {
        let uri: Uri = url.parse().map_err(|_| NotAUrl::Url)?;
        let plain = match uri.scheme_str() {
            None => uri.authority().is_none() && url.starts_with('/'),
            Some(scheme) => matches!(scheme, "ws" | "wss" | "http" | "https"),
        };
        let host = uri.authority().map_or("localhost", |authority| authority.as_str());
        let host = host.rsplit('@').next().unwrap_or(host);
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::builder()
            .uri(target)
            .header(HOST, host)
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "Upgrade")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, KEY);
        if let Some(origin) = origin {
            request = request.header(ORIGIN, HeaderValue::from_str(origin).map_err(|_| NotAUrl::Origin)?);
        }
        let request = request.body(()).map_err(|_| NotAUrl::Url)?.into_parts().0;
        let question = Self { request, address: None, token: None, messages: Vec::new(), event: None, now };
        plain.then_some(question).ok_or(NotAUrl::Url)
    }

    /// With a further field in the request's head.
    ///
    /// # Errors
    /// It is none, or one that is there already.
    pub fn add_header(&mut self, field: &str) -> Result<(), NotAUrl> {
        let (name, value) = field.split_once(':').ok_or(NotAUrl::Header)?;
        let name: HeaderName = name.trim().parse().map_err(|_| NotAUrl::Header)?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| NotAUrl::Header)?;
        let own = [HOST, UPGRADE, CONNECTION, SEC_WEBSOCKET_VERSION, SEC_WEBSOCKET_KEY, ORIGIN];
        if own.contains(&name) {
            return Err(NotAUrl::Header);
        }
        self.request.headers.append(name, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;
    use crate::server::upgrade::check;

    #[test]
    fn a_path_or_a_websockets_url_is_a_proper_upgrade() {
        for (url, path, query) in [
            ("/ws/a%20b?token=x", "/ws/a%20b", Some("token=x")),
            ("ws://localhost:8009/ws", "/ws", None),
            ("wss://user@example.com/ws?x", "/ws", Some("x")),
            ("https://[::1]:8009", "/", None),
        ] {
            let question = Question::of(url, Some("https://example.com"), now()).unwrap();
            assert_eq!((question.request.uri.path(), question.request.uri.query()), (path, query), "{url}");
            assert!(check(&question.request).is_ok(), "{url}");
        }
        for url in ["", "ws", "ftp://a/ws", "ws://", "/ws a", "localhost:8009/ws"] {
            assert_eq!(Question::of(url, None, now()).err(), Some(NotAUrl::Url), "{url}");
        }
        assert_eq!(Question::of("/ws", Some("a\nb"), now()).err(), Some(NotAUrl::Origin));
        let mut question = Question::of("/ws", None, now()).unwrap();
        for field in ["x", "Host: other", "a b: c", "x: a\nb", "Sec-WebSocket-Key: x", "Origin: x"] {
            assert_eq!(question.add_header(field), Err(NotAUrl::Header), "{field}");
        }
        question.add_header("X-Forwarded-For:10.0.0.1").unwrap();
        assert!(
            question.request.headers["x-forwarded-for"] == "10.0.0.1" && check(&question.request).is_ok()
        );
    }
}
