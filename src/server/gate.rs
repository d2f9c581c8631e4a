//! Pure: who gets in. The driver finds out what there is to know of a request; here is decided what it is worth, in
//! the order in which it counts: [`upgradable`], then [`admit`], then the slot of its address, which may be waited for.

use hyper::Method;
use hyper::header::{CONNECTION, EXPECT, HeaderMap, ORIGIN, UPGRADE};

use super::refusal::{ExplainedRefusal, Refusal};
use super::upgrade::{Handshake, NotUpgradable, has_token};
use crate::deprecation::Phase;
use crate::legacy::error::ErrorCode;
use crate::proxy::settings::has_dots;
use crate::routes::origins::Origins;
use crate::routes::path::{BadValue, PathValues};
use crate::routes::route::TellRefusal;

/// What an upgrade needs of its request.
#[derive(Debug, PartialEq, Eq)]
pub struct Upgradable<'a> {
    pub values: PathValues,
    pub handshake: Handshake<'a>,
}

/// Whether the request can be upgraded at all.
///
/// # Errors
/// What is wrong with its path or, if nothing is, with its head.
pub fn upgradable<'a>(
    values: Result<PathValues, BadValue>,
    handshake: Result<Handshake<'a>, NotUpgradable>,
) -> Result<Upgradable<'a>, ExplainedRefusal> {
    let values = values.map_err(|bad| match bad {
        BadValue::Illegal(why) => Refusal::BadPath.because(why),
        BadValue::Excluded(why) => Refusal::ExcludedValue.because(why),
        BadValue::Kind(why) => Refusal::ChannelKind.because(why),
    })?;
    let handshake = handshake.map_err(|wrong| match wrong {
        NotUpgradable::UpgradeRequired(why) => Refusal::UpgradeRequired.because(why),
        NotUpgradable::Malformed(why) => Refusal::Malformed.because(why),
    })?;
    Ok(Upgradable { values, handshake })
}

/// What counts beside the request itself.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Its connection is beyond those there may be.
    pub over: bool,
    /// The server shuts down.
    pub draining: bool,
    /// How far along its route is.
    pub phase: Phase,
    /// Its route takes its origin, or asks for none.
    pub origin_allowed: bool,
}

/// Whether there is a place for the request: first what is the server's, then what is the route's.
///
/// # Errors
/// The first reason why not.
pub const fn admit(facts: Facts) -> Result<(), Refusal> {
    if facts.over {
        Err(Refusal::Overload)
    } else if facts.draining {
        Err(Refusal::Draining)
    } else if matches!(facts.phase, Phase::Gone) {
        Err(Refusal::Gone)
    } else if !facts.origin_allowed {
        Err(Refusal::Origin)
    } else {
        Ok(())
    }
}

/// Whether a route of these origins takes the request. One that names none is no browser's.
#[must_use]
pub fn origin_allowed(origins: Option<&Origins>, headers: &HeaderMap) -> bool {
    let mut named = headers.get_all(ORIGIN).iter().map(|origin| origin.to_str().unwrap_or(""));
    origins.is_none_or(|allowed| named.all(|origin| allowed.allow(origin)))
}

/// Whether a path can be passed on to an old server.
///
/// # Errors
/// Who resolves it would come to another one, which may be no route's.
pub fn passable(path: &str) -> Result<(), ExplainedRefusal> {
    if has_dots(path) {
        return Err(Refusal::BadPath.because("the path has dots for segments"));
    }
    Ok(())
}

/// The code of the frame by which a route's refusal is told; `None` where it is told by an answer.
#[must_use]
pub const fn told_by_frame(refusal: Refusal, tell: TellRefusal) -> Option<ErrorCode> {
    match tell {
        TellRefusal::Http => None,
        TellRefusal::Frame { .. } => refusal.error_code(),
    }
}

/// Whether another request may follow on the connection. Old clients have to say so, as one may wait for the end; who
/// asks an endpoint is a library or a proxy, and it is so `unasked` (RFC 9112 §9.3). Never behind what asks for an
/// upgrade, for that may be its frames.
#[must_use]
pub fn may_go_on(method: &Method, headers: &HeaderMap, unasked: bool) -> bool {
    (has_token(headers, &CONNECTION, "keep-alive") || unasked && !has_token(headers, &CONNECTION, "close"))
        && !has_token(headers, &CONNECTION, "upgrade")
        && !headers.contains_key(UPGRADE)
        // Its body would have to be asked for, only to be thrown away.
        && !headers.contains_key(EXPECT)
        && method != Method::CONNECT
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderName;
    use std::time::Duration;

    const KEY: Handshake<'_> = Handshake::Upgrade(b"dGhlIHNhbXBsZSBub25jZQ==");

    #[test]
    fn what_is_no_upgrade_is_refused_by_its_path_first() {
        let values = PathValues::default;
        assert_eq!(upgradable(Ok(values()), Ok(KEY)), Ok(Upgradable { values: values(), handshake: KEY }));
        let bad = |bad: fn(String) -> BadValue| Err(bad("why".to_owned()));
        for (values, key, refusal) in [
            (bad(BadValue::Illegal), Ok(KEY), Refusal::BadPath.because("why")),
            (bad(BadValue::Excluded), Ok(KEY), Refusal::ExcludedValue.because("why")),
            (bad(BadValue::Kind), Ok(KEY), Refusal::ChannelKind.because("why")),
            (
                bad(BadValue::Illegal),
                Err(NotUpgradable::UpgradeRequired("no")),
                Refusal::BadPath.because("why"),
            ),
            (Ok(values()), Err(NotUpgradable::UpgradeRequired("no")), Refusal::UpgradeRequired.because("no")),
            (Ok(values()), Err(NotUpgradable::Malformed("no")), Refusal::Malformed.because("no")),
        ] {
            assert_eq!(upgradable(values, key), Err(refusal));
        }
    }

    #[test]
    fn the_first_reason_counts() {
        use Phase::{Current, Deprecated, Gone, Sunset};
        for (over, draining, phase, origin_allowed, expected) in [
            (false, false, Current, true, Ok(())),
            (false, false, Deprecated, true, Ok(())),
            (false, false, Sunset, true, Ok(())),
            (true, true, Gone, false, Err(Refusal::Overload)),
            (false, true, Gone, false, Err(Refusal::Draining)),
            (false, false, Gone, false, Err(Refusal::Gone)),
            (false, false, Sunset, false, Err(Refusal::Origin)),
        ] {
            assert_eq!(admit(Facts { over, draining, phase, origin_allowed }), expected);
        }
    }

    #[test]
    fn frames_tell_what_has_a_code_where_the_route_says_so() {
        let frame = TellRefusal::Frame { hold: Duration::ZERO };
        for refusal in Refusal::ALL {
            assert_eq!(told_by_frame(refusal, TellRefusal::Http), None);
            let told = matches!(refusal, Refusal::Gone | Refusal::Origin | Refusal::AddressLimit);
            assert_eq!(told_by_frame(refusal, frame).is_some(), told, "{refusal:?}");
        }
    }

    #[test]
    fn a_connection_goes_on_where_the_client_says_so_or_asks_an_endpoint_and_never_behind_an_upgrade() {
        for (method, headers, goes_on, endpoints) in [
            ("GET", &[][..], false, true),
            ("GET", &[("connection", "keep-alive")], true, true),
            ("POST", &[("connection", "TE, Keep-Alive"), ("content-length", "3")], true, true),
            ("POST", &[("connection", "TE")], false, true),
            ("GET", &[("connection", "close")], false, false),
            ("GET", &[("connection", "keep-alive, Upgrade")], false, false),
            ("GET", &[("connection", "keep-alive"), ("upgrade", "h2c")], false, false),
            ("GET", &[("upgrade", "h2c")], false, false),
            ("POST", &[("connection", "keep-alive"), ("expect", "100-continue")], false, false),
            ("CONNECT", &[("connection", "keep-alive")], false, false),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(HeaderName::from_static(name), value.parse().unwrap());
            }
            let method = method.parse().unwrap();
            assert_eq!(may_go_on(&method, &map, false), goes_on, "{method} {headers:?}");
            assert_eq!(may_go_on(&method, &map, true), endpoints, "{method} {headers:?}");
        }
    }
}
