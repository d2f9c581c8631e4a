//! Who may change something by the admin address, or read what is nobody else's business. It has no password, and a
//! browser within its reach sends whatever any page asks for. So such a request names its purpose in a header, which
//! no image, link or form can send, and which a script may send to its own site only; and its `Host` is one that no
//! stranger's domain can be, or a page whose name comes to lead here would be of that site.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hyper::Uri;
use hyper::header::{HOST, HeaderMap, HeaderName, ORIGIN};

/// The header that names what a request is for.
const PURPOSE: HeaderName = HeaderName::from_static("x-pusher-bridge");
/// What a request changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// By `/drain`.
    Drain,
    /// By `/reload`.
    Reload,
}

impl Purpose {
    /// What the header says.
    const fn text(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Reload => "reload",
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// A browser sent it.
    Browser,
    /// Its `Host` is none of the admin address's names.
    Host,
    /// It does not name its purpose, which is this.
    Purpose(Purpose),
}

impl Denied {
    /// What whoever asked is told.
    #[must_use]
    pub(super) fn text(self) -> String {
        match self {
            Self::Browser => "not for browsers\n".to_owned(),
            Self::Host => {
                "`Host` must be there once, and be `localhost`, an IP address, or one of server.admin_hosts\n"
                    .to_owned()
            }
            Self::Purpose(purpose) => {
                format!("this takes the header `X-Pusher-Bridge: {}`\n", purpose.text())
            }
        }
    }
}

/// Whether the request may have what is not for everybody who can make one: not by a browser, and to a host that is
/// ours. `hosts` are further names, in lower case.
///
/// # Errors
/// What is wrong.
pub(super) fn check(uri: &Uri, headers: &HeaderMap, hosts: &[String]) -> Result<(), Denied> {
    if headers.contains_key(ORIGIN) || headers.keys().any(|name| name.as_str().starts_with("sec-fetch-")) {
        return Err(Denied::Browser);
    }
    let mut named = headers.get_all(HOST).iter();
    let host = named.next().and_then(|host| host.to_str().ok()).ok_or(Denied::Host)?;
    let also = uri.authority().is_none_or(|authority| is_ours(authority.as_str(), hosts));
    if named.next().is_some() || !also || !is_ours(host, hosts) { Err(Denied::Host) } else { Ok(()) }
}

/// The same of a request that changes something.
///
/// # Errors
/// What is wrong.
pub(super) fn check_purpose(
    uri: &Uri,
    headers: &HeaderMap,
    hosts: &[String],
    purpose: Purpose,
) -> Result<(), Denied> {
    check(uri, headers, hosts)?;
    let mut purposes = headers.get_all(&PURPOSE).iter();
    let named = purposes.next().is_some_and(|named| named == purpose.text()) && purposes.next().is_none();
    if named { Ok(()) } else { Err(Denied::Purpose(purpose)) }
}

/// A loopback name, an address, or one of `hosts`; with a port, which does not matter, or without.
fn is_ours(host: &str, hosts: &[String]) -> bool {
    if host.parse::<IpAddr>().is_ok() || host.parse::<SocketAddr>().is_ok() {
        return true;
    }
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) => return false,
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    // RFC 6761 §6.3: names below `localhost` are loopback's, too.
    name == "localhost" || name.ends_with(".localhost") || hosts.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(uri: &str, headers: &[(&str, &str)]) -> Result<(), Denied> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        check_purpose(&uri.parse().unwrap(), &map, &["bridge.internal".to_owned()], Purpose::Drain)
    }

    #[test]
    fn only_hosts_that_no_stranger_can_name_are_ours() {
        for (host, ours) in [
            ("localhost", true),
            ("LocalHost:9009", true),
            ("localhost.", true),
            ("a.localhost:1", true),
            ("127.0.0.1", true),
            ("10.1.2.3:9009", true),
            ("[::1]:9009", true),
            ("[::1]", true),
            ("bridge.internal:9009", true),
            ("Bridge.Internal", true),
            ("evil.example", false),
            ("evil.example:9009", false),
            ("localhost.evil.example", false),
            ("evillocalhost", false),
            ("127.0.0.1.evil.example", false),
            ("x.bridge.internal", false),
            ("localhost:9009@evil.example", false),
            ("localhost:", true),
            ("[evil.example]", false),
            ("0x7f000001", false),
            ("", false),
        ] {
            let judged = judge("/drain", &[("host", host), ("x-pusher-bridge", "drain")]);
            assert_eq!(judged, if ours { Ok(()) } else { Err(Denied::Host) }, "{host}");
        }
    }

    #[test]
    fn nothing_a_page_can_send_drains() {
        let (host, purpose) = (("host", "localhost"), ("x-pusher-bridge", "drain"));
        for (uri, headers, judged) in [
            ("/drain", &[host, purpose][..], Ok(())),
            ("/drain", &[host], Err(Denied::Purpose(Purpose::Drain))),
            ("/drain", &[host, ("x-pusher-bridge", "")], Err(Denied::Purpose(Purpose::Drain))),
            ("/drain", &[host, ("x-pusher-bridge", "Drain")], Err(Denied::Purpose(Purpose::Drain))),
            ("/drain", &[host, purpose, purpose], Err(Denied::Purpose(Purpose::Drain))),
            ("/drain", &[purpose], Err(Denied::Host)),
            ("/drain", &[host, host, purpose], Err(Denied::Host)),
            ("/drain", &[host, ("host", "evil.example"), purpose], Err(Denied::Host)),
            ("http://evil.example/drain", &[host, purpose], Err(Denied::Host)),
            ("http://localhost:9009/drain", &[host, purpose], Ok(())),
            ("/drain", &[host, purpose, ("origin", "null")], Err(Denied::Browser)),
            ("/drain", &[host, purpose, ("sec-fetch-mode", "no-cors")], Err(Denied::Browser)),
            ("/drain", &[host, purpose, ("sec-fetch-site", "none")], Err(Denied::Browser)),
        ] {
            assert_eq!(judge(uri, headers), judged, "{uri} {headers:?}");
        }
    }
}
