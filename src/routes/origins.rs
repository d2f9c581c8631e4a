//! `origins`: whose pages may connect (RFC 6454 §7).

use std::net::{IpAddr, Ipv6Addr};

use crate::net::host;

/// The origins a route takes. An empty list takes none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Takes these, each as [`Self::check`] gave it.
    #[must_use]
    pub(crate) const fn new(origins: Vec<String>) -> Self {
        Self(origins)
    }

    /// The list, in lower case.
    #[must_use]
    pub fn list(&self) -> &[String] {
        &self.0
    }

    /// Reads one: `null`, `https://app.example.com`, `https://*.example.com` for all its subdomains, `file://`, or one
    /// of an app's own scheme, such as `capacitor://localhost`.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn check(text: &str) -> Result<String, String> {
        let none = || format!("`{text}` is not a valid origin");
        if text == "null" {
            return Ok(text.to_owned());
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(none)?;
        let scheme_legal = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b));
        let (wildcard, host) = rest.strip_prefix("*.").map_or((false, rest), |domain| (true, domain));
        let legal = host.bytes().all(|b| b.is_ascii_graphic() && !b"/\\?#@*\"<>{}".contains(&b));
        if !scheme_legal || !legal || (wildcard && host.is_empty()) {
            return Err(none());
        }
        let text = text.to_ascii_lowercase();
        let default_port = match scheme.to_ascii_lowercase().as_str() {
            "http" | "ws" => ":80",
            "https" | "wss" => ":443",
            // An app's own scheme has what it likes behind it, or nothing.
            _ => return Ok(text),
        };
        let authority = host::authority(host).map_err(|why| format!("{}: {why}", none()))?;
        let inner = authority.host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address = inner.unwrap_or(authority.host).parse::<IpAddr>().ok();
        if wildcard && address.is_some() {
            return Err(format!("{}: an address has no subdomains", none()));
        }
        // Browsers write an address and a port in their shortest form, and no port that the scheme has anyway
        // (RFC 6454 §6.2, RFC 5952).
        let star = if wildcard { "*." } else { "" };
        let host = match address {
            Some(IpAddr::V6(address)) => format!("[{}]", serialized(address)),
            _ => authority.host.to_ascii_lowercase(),
        };
        let port = authority.port.map(|port| format!(":{port}")).filter(|port| port != default_port);
        Ok(format!("{}://{star}{host}{}", scheme.to_ascii_lowercase(), port.unwrap_or_default()))
    }

    /// Whether pages of `origin` may connect: it is equal to one, but for case, or under one with `*.`.
    #[must_use]
    pub fn allow(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        self.0.iter().any(|allowed| match allowed.split_once("*.") {
            None => *allowed == origin,
            Some((scheme, domain)) => {
                origin.strip_prefix(scheme).and_then(|host| host.strip_suffix(domain)).is_some_and(|label| {
                    label.len() > 1 && label.ends_with('.') && !label.contains(['/', '@', ':'])
                })
            }
        })
    }
}

/// As browsers do (WHATWG URL, "IPv6 serializer"): no part of it in the form of IPv4.
fn serialized(address: Ipv6Addr) -> String {
    let Some(mapped) = address.to_ipv4_mapped() else { return address.to_string() };
    let [a, b, c, d] = mapped.octets();
    format!("::ffff:{:x}:{:x}", u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(list: &[&str]) -> Origins {
        Origins::new(list.iter().map(|text| Origins::check(text).unwrap()).collect())
    }

    #[test]
    fn origins_match_exactly_or_by_subdomain() {
        let allowed = origins(&["https://app.example.com", "https://*.example.org", "http://localhost:3000"]);
        for (origin, expected) in [
            ("https://app.example.com", true),
            ("https://APP.example.com", true),
            ("http://app.example.com", false),
            ("https://app.example.com:8443", false),
            ("http://localhost:3000", true),
            ("http://localhost", false),
            ("https://a.example.org", true),
            ("https://a.b.example.org", true),
            ("https://example.org", false),
            ("https://.example.org", false),
            ("https://evilexample.org", false),
            ("https://evil.com/.example.org", false),
            ("null", false),
            ("file://", false),
            ("", false),
        ] {
            assert_eq!(allowed.allow(origin), expected, "{origin}");
        }
        assert!(!Origins::default().allow("https://app.example.com"), "none is none");
    }

    #[test]
    fn what_apps_call_themselves_can_be_listed() {
        for text in [
            "null",
            "file://",
            "app://localhost",
            "app://.",
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost",
            "chrome-extension://abcdefghijklmnop",
            "moz-extension://9B2C1B9E-0000-4000-8000-000000000000",
            "ms-appx-web://Contoso.App_1",
            "http://[::1]:8080",
            "https://xn--bcher-kva.example",
            "https://*.example.org:8443",
        ] {
            assert!(origins(&[text]).allow(&text.replace('*', "a")), "{text}");
            assert!(!origins(&[text]).allow(&format!("{text}x")), "{text}");
        }
        assert!(origins(&["https://example.com:443"]).allow("https://example.com"));
        assert!(origins(&["https://example.com:0443"]).allow("https://example.com"));
        assert!(origins(&["http://example.com:08080"]).allow("http://example.com:8080"));
        assert!(origins(&["http://[0:0:0::1]:80"]).allow("http://[::1]"));
        assert!(origins(&["http://[::FFFF:10.0.0.1]"]).allow("http://[::ffff:a00:1]"));
        assert!(!origins(&["file://"]).allow("null"));
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "Null",
            "*",
            "app.example.com",
            "://x",
            "1a://x",
            "https://",
            "https://*",
            "https://*.",
            "https://a.*.example.com",
            "https://app.example.com/",
            "https://app.example.com/app",
            "file:///",
            "https://user@example.com",
            "https://example.com?x",
            "https://a b",
            "https://example.com:99999",
            "https://bücher.example",
            "https://*.[::1]",
            "https://*.1.2.3.4",
            "app://a\\b",
        ] {
            assert!(Origins::check(text).is_err(), "{text}");
        }
    }
}
