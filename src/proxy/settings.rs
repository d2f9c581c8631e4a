//! Pure: what `[fallback]` says, and where it sends a path.

use std::sync::Arc;
use std::time::Duration;

use crate::net::destination::Destination;

/// `[fallback]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where goes what no rule takes (default: nowhere).
    pub to: Option<Arc<Destination>>,
    /// The most exact one counts, whatever their order.
    pub rules: Vec<Rule>,
    /// For a connection, with TLS if it has that (default 5 s).
    pub connect_timeout: Duration,
    /// Without a sign of the upstream: until its answer begins, counted from the last byte of the request that it took
    /// (default 60 s).
    pub answer_timeout: Duration,
    /// Without a byte of a body: from the client, from the upstream, or taken by the client (default 60 s).
    pub idle_timeout: Duration,
    /// For a request's whole body (default 10 minutes).
    pub body_timeout: Duration,
    /// How long a connection of a client, or to an upstream, is kept without a request (default 60 s).
    pub keep_alive: Duration,
    /// Without a byte in either direction of an upgraded connection (default 1 h).
    pub tunnel_timeout: Duration,
    pub limits: Limits,
}

/// `[fallback.limits]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests under way at once (default 2048). More are answered 503.
    pub requests_max: usize,
    /// Those of one address (default 64). More are answered 429.
    pub requests_per_address: usize,
    /// Upgraded connections at once (default 10,000). More are answered 503.
    pub tunnels_max: usize,
    /// Those of one address (default 64). More are answered 429.
    pub tunnels_per_address: usize,
    /// Largest body of a request, bytes; `None`: what the upstream takes (default).
    pub body_bytes_max: Option<u64>,
    /// Connections to each upstream that a worker keeps without a request (default 32).
    pub idle_connections_max: usize,
}

/// `[[fallback.rules]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A path, or with `/*` at its end that and all below it.
    pub path: String,
    /// Where it goes; `None`: nowhere, it is answered 404.
    pub to: Option<Arc<Destination>>,
}

impl Rule {
    /// What the path begins with, where all below it is meant.
    fn prefix(&self) -> Option<&str> {
        self.path.strip_suffix("/*")
    }

    fn takes(&self, path: &str) -> bool {
        match self.prefix() {
            Some(prefix) => {
                path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            None => path == self.path,
        }
    }

    /// An exact path before all below one, and the longer before the shorter.
    fn rank(&self) -> (bool, usize) {
        (self.prefix().is_none(), self.path.len())
    }
}

/// What becomes of a path that no route has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen<'s> {
    /// The rule that takes it, by its place; `None`: none does.
    pub rule: Option<usize>,
    /// Where it goes; `None`: nowhere.
    pub to: Option<&'s Arc<Destination>>,
}

impl Settings {
    /// Where a request for `path` goes.
    #[must_use]
    pub fn choose(&self, path: &str) -> Chosen<'_> {
        let takes = self.rules.iter().enumerate().filter(|(_, rule)| rule.takes(path));
        match takes.max_by_key(|(_, rule)| rule.rank()) {
            Some((index, rule)) => Chosen { rule: Some(index), to: rule.to.as_ref() },
            None => Chosen { rule: None, to: self.to.as_ref() },
        }
    }

    /// Every upstream, with the key that names it.
    pub fn destinations(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.to.iter().chain(self.rules.iter().filter_map(|rule| rule.to.as_ref()))
    }
}

/// Whether a path has segments that name other ones (RFC 3986 §5.2.4), written plainly or not. Who has them removed may
/// be led past a rule by them, and clients remove them before they ask.
#[must_use]
pub fn has_dots(path: &str) -> bool {
    path.split(['/', '\\']).any(|segment| {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        plain.split("%2f").flat_map(|part| part.split("%5c")).any(|part| matches!(part, "." | ".."))
    })
}

impl Settings {
    /// No destination, and the defaults.
    #[must_use]
    pub const fn of_nothing() -> Self {
        Self {
            to: None,
            rules: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(600),
            keep_alive: Duration::from_secs(60),
            tunnel_timeout: Duration::from_secs(3600),
            limits: Limits {
                requests_max: 2048,
                requests_per_address: 64,
                tunnels_max: 10_000,
                tunnels_per_address: 64,
                body_bytes_max: None,
                idle_connections_max: 32,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(to: Option<&str>, rules: &[(&str, Option<&str>)]) -> Settings {
        let destination = |url: &str| Arc::new(Destination::parse(url).unwrap());
        Settings {
            to: to.map(destination),
            rules: rules
                .iter()
                .map(|(path, to)| Rule { path: (*path).to_owned(), to: to.map(destination) })
                .collect(),
            ..Settings::of_nothing()
        }
    }

    #[test]
    fn the_most_exact_rule_takes_a_path() {
        let rules = [
            ("/*", Some("http://root")),
            ("/a/*", Some("http://a")),
            ("/a/b/*", Some("http://b")),
            ("/a/b", Some("http://exact")),
            ("/private/*", None),
        ];
        for rules in [rules.to_vec(), rules.iter().rev().copied().collect()] {
            let settings = settings(Some("http://rest"), &rules);
            for (path, to) in [
                ("/", Some("http://root")),
                ("/x", Some("http://root")),
                ("/ab", Some("http://root")),
                ("/a", Some("http://a")),
                ("/a/", Some("http://a")),
                ("/a/c", Some("http://a")),
                ("/a/b", Some("http://exact")),
                ("/a/b/", Some("http://b")),
                ("/a/b/c", Some("http://b")),
                ("/private", None),
                ("/private/x", None),
                ("*", Some("http://rest")),
            ] {
                let chosen = settings.choose(path).to.map(|to| to.source());
                assert_eq!(chosen, to, "{path}");
            }
        }
        let nothing = settings(None, &[("/a", Some("http://a"))]);
        assert_eq!(nothing.choose("/b"), Chosen { rule: None, to: None });
        assert_eq!(nothing.choose("/a").rule, Some(0));
    }

    #[test]
    fn dots_are_found_however_they_are_written() {
        for path in
            ["/a/../b", "/..", "/./a", "/a/%2e%2E/b", "/a/.%2e", "/a%2f..%2fb", "/a\\..\\b", "/%5c..%5c"]
        {
            assert!(has_dots(path), "{path}");
        }
        for path in ["/", "/a.b", "/...", "/a/.well-known", "/a%2fb", "/..a", "*"] {
            assert!(!has_dots(path), "{path}");
        }
    }
}
