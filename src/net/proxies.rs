//! Forward proxies as the environment names them: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in capitals or
//! not, as curl and most others read them.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use secrecy::SecretString;

/// A proxy that takes `CONNECT` (RFC 9110 §9.3.6).
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Its name or address; an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
    /// The value of `Proxy-Authorization`.
    pub authorization: Option<SecretString>,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bracketed = self.host.contains(':');
        let (open, close) = if bracketed { ("[", "]") } else { ("", "") };
        write!(f, "http://{open}{}{close}:{}", self.host, self.port)
    }
}

/// A variable that is set, and what it says.
#[derive(Clone, Debug)]
struct Named {
    variable: &'static str,
    /// The proxy, or why it cannot be used.
    proxy: Result<Proxy, &'static str>,
}

/// A host that has a proxy which cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The variable that names it.
    pub variable: &'static str,
    /// What is wrong with it. It does not quote the value, in which there may be a password.
    pub why: &'static str,
}

/// Which hosts are reached by which proxy. Without the variables, none.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    plain: Option<Named>,
    over_tls: Option<Named>,
    direct: Vec<Direct>,
}

/// An entry of `NO_PROXY`.
#[derive(Clone, Debug)]
struct Direct {
    hosts: Hosts,
    /// `None`: any.
    port: Option<u16>,
}

#[derive(Clone, Debug)]
enum Hosts {
    All,
    Net(IpNet),
    /// The name and all names below it.
    Name(String),
}

impl Proxies {
    #[must_use]
    pub fn of(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| {
                let value = env(name)?;
                let value = value.trim();
                (!value.is_empty()).then(|| (name, value.to_owned()))
            })
        };
        let named = |names| set(names).map(|(variable, value)| Named { variable, proxy: parse(&value) });
        let all = named(["ALL_PROXY", "all_proxy"]);
        let direct = set(["NO_PROXY", "no_proxy"]);
        Self {
            plain: named(["HTTP_PROXY", "http_proxy"]).or_else(|| all.clone()),
            over_tls: named(["HTTPS_PROXY", "https_proxy"]).or(all),
            direct: direct
                .iter()
                .flat_map(|(_, list)| list.split([',', ' ']))
                .filter_map(Direct::of)
                .collect(),
        }
    }

    /// The proxy by which a host is reached; `None`: directly.
    ///
    /// # Errors
    /// It has one, which cannot be used.
    pub fn of_host(&self, tls: bool, host: &str, port: u16) -> Result<Option<&Proxy>, Unusable> {
        let named = if tls { &self.over_tls } else { &self.plain };
        let Some(named) = named else { return Ok(None) };
        if self.direct.iter().any(|direct| direct.has(host, port)) {
            return Ok(None);
        }
        match &named.proxy {
            Ok(proxy) => Ok(Some(proxy)),
            Err(why) => Err(Unusable { variable: named.variable, why }),
        }
    }

    /// Whether the environment names any.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.plain.is_none() && self.over_tls.is_none()
    }
}

impl Direct {
    fn of(entry: &str) -> Option<Self> {
        let entry = entry.trim();
        if entry == "*" {
            return Some(Self { hosts: Hosts::All, port: None });
        }
        let net = |text: &str| {
            let text = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
            text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        };
        if let Some(net) = net(entry) {
            return Some(Self { hosts: Hosts::Net(net), port: None });
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (entry, None),
        };
        if let Some(net) = net(host) {
            return Some(Self { hosts: Hosts::Net(net), port });
        }
        let name = host.trim_start_matches('*').trim_start_matches('.').trim_end_matches('.');
        (!name.is_empty()).then(|| Self { hosts: Hosts::Name(name.to_ascii_lowercase()), port })
    }

    fn has(&self, host: &str, port: u16) -> bool {
        if self.port.is_some_and(|only| only != port) {
            return false;
        }
        match &self.hosts {
            Hosts::All => true,
            Hosts::Net(net) => host.parse::<IpAddr>().is_ok_and(|address| net.contains(&address)),
            Hosts::Name(name) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        }
    }
}

/// `[http://][user:password@]host[:port][/]`
fn parse(value: &str) -> Result<Proxy, &'static str> {
    let rest = match value.split_once("://") {
        None => value,
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some(_) => return Err("names a proxy of another kind than http://"),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, rest),
    };
    let malformed = "is not of the form http://HOST:PORT";
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| malformed)?;
            (address, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(malformed)?) })
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    if host.is_empty() || !host.bytes().all(legal) {
        return Err(malformed);
    }
    let port = match port {
        None => 80,
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(malformed)?,
    };
    let authorization = user.map(|user| {
        let mut plain: Vec<u8> = percent_decode_str(user).collect();
        if !user.contains(':') {
            plain.push(b':');
        }
        SecretString::from(format!("Basic {}", BASE64_STANDARD.encode(plain)))
    });
    Ok(Proxy { host: host.to_owned(), port, authorization })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::of(&|name| {
            variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn shown(proxies: &Proxies, tls: bool, host: &str) -> String {
        match proxies.of_host(tls, host, 443) {
            Ok(None) => "direct".to_owned(),
            Ok(Some(proxy)) => proxy.to_string(),
            Err(unusable) => format!("{} {}", unusable.variable, unusable.why),
        }
    }

    #[test]
    fn each_scheme_has_its_variable() {
        let none = proxies(&[("NO_PROXY", "x"), ("HTTP_PROXY", " ")]);
        assert!(none.are_none());
        assert_eq!(shown(&none, true, "h"), "direct");
        for (variables, plain, over_tls) in [
            (&[("HTTPS_PROXY", "p:3128")][..], "direct", "http://p:3128"),
            (&[("https_proxy", "http://p:3128/")], "direct", "http://p:3128"),
            (&[("HTTP_PROXY", "http://p")], "http://p:80", "direct"),
            (&[("ALL_PROXY", "HTTP://p:1")], "http://p:1", "http://p:1"),
            (&[("all_proxy", "p:1"), ("HTTPS_PROXY", "[::1]:2")], "http://p:1", "http://[::1]:2"),
            (&[("HTTPS_PROXY", ""), ("https_proxy", "p:1")], "direct", "http://p:1"),
        ] {
            let proxies = proxies(variables);
            let got = (shown(&proxies, false, "h"), shown(&proxies, true, "h"));
            assert_eq!(got, (plain.to_owned(), over_tls.to_owned()), "{variables:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_where_it_applies() {
        for value in [
            "https://p:3128",
            "socks5://u:SECRET@p:1080",
            "http://",
            "http://p:0",
            "http://p:99999",
            "http://p:x",
            "http://[::g]:1",
            "http://[::1]1",
            "http://a b:1",
            "http://a/b:1",
            "a:b:c",
        ] {
            let proxies = proxies(&[("HTTPS_PROXY", value), ("NO_PROXY", "inside")]);
            assert!(shown(&proxies, true, "h").starts_with("HTTPS_PROXY "), "{value}");
            assert!(!shown(&proxies, true, "h").contains("SECRET"));
            assert_eq!(shown(&proxies, true, "inside"), "direct");
            assert_eq!(shown(&proxies, false, "h"), "direct");
        }
    }

    #[test]
    fn no_proxy_names_hosts_nets_and_ports() {
        for (list, direct, not) in [
            ("*", &["a", "::1", "10.0.0.1"][..], &[][..]),
            (
                "pusher.com",
                &["pusher.com", "api-eu.pusher.com", "API.PUSHER.COM."],
                &["notpusher.com", "com"],
            ),
            (".pusher.com", &["pusher.com", "ws.pusher.com"], &["xpusher.com"]),
            ("*.svc", &["a.svc"], &["svcs"]),
            ("a, b,,c d", &["a", "b", "c", "d"], &["e"]),
            ("10.0.0.0/8,::1,[fe80::1]", &["10.9.8.7", "::1", "fe80::1"], &["11.0.0.1", "localhost", "::2"]),
            ("a:443,10.0.0.1:443", &["a", "10.0.0.1"], &["b"]),
            ("a:80,10.0.0.1:80,a:x", &[], &["a", "10.0.0.1"]),
        ] {
            let proxies = proxies(&[("HTTPS_PROXY", "p:1"), ("no_proxy", list)]);
            for host in direct {
                assert_eq!(shown(&proxies, true, host), "direct", "{list}: {host}");
            }
            for host in not {
                assert_eq!(shown(&proxies, true, host), "http://p:1", "{list}: {host}");
            }
        }
    }

    #[test]
    fn credentials_are_decoded_and_not_shown() {
        for (user, plain) in [("u:p%40ss", "u:p@ss"), ("u", "u:"), ("u:", "u:"), ("u:a:b@c", "u:a:b@c")] {
            let proxies = proxies(&[("HTTPS_PROXY", &format!("http://{user}@p:1"))]);
            let proxy = proxies.of_host(true, "h", 443).unwrap().unwrap();
            let expected = format!("Basic {}", BASE64_STANDARD.encode(plain));
            assert_eq!(proxy.authorization.as_ref().unwrap().expose_secret(), expected, "{user}");
            assert_eq!(proxy.to_string(), "http://p:1");
            assert!(!format!("{proxies:?}").contains(&expected));
        }
    }
}
