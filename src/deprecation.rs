//! What a date and a policy give: headers (RFC 9745, RFC 8594, RFC 5829), and whether a route still serves.

use crate::clock::Now;
use crate::metrics::label::labels;

/// A route's `deprecation`, validated: the sunset does not precede the deprecation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Unix seconds since when, or from when on, the endpoint is deprecated.
    pub deprecated_at: Option<i64>,
    /// Unix seconds at which it ends.
    pub sunset_at: Option<i64>,
    /// Whether requests after the sunset are refused with 410.
    pub refuse_after_sunset: bool,
    /// About the deprecation: `rel="deprecation"`.
    pub documentation: Option<String>,
    /// About the sunset: `rel="sunset"`.
    pub sunset_policy: Option<String>,
    /// What replaces it: `rel="successor-version"`.
    pub successor: Option<String>,
}

labels! {
    /// How far along a route is.
    pub enum Phase: "phase" {
        /// Not deprecated, or not yet.
        Current = "current",
        /// Deprecated, before its sunset.
        Deprecated = "deprecated",
        /// Past its sunset and still served.
        Sunset = "sunset",
        /// Past its sunset and refused.
        Gone = "gone",
    }
}

impl Policy {
    #[must_use]
    pub fn phase(&self, now: Now) -> Phase {
        let seconds = now.unix_seconds();
        let past = |date: Option<i64>| date.is_some_and(|at| at <= seconds);
        match (past(self.sunset_at), past(self.deprecated_at)) {
            (true, _) if self.refuse_after_sunset => Phase::Gone,
            (true, _) => Phase::Sunset,
            (false, true) => Phase::Deprecated,
            (false, false) => Phase::Current,
        }
    }

    /// The headers of every answer of the route, whatever its phase: RFC 9745 §2.1 allows a date to come.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut out = Vec::with_capacity(3);
        if let Some(at) = self.deprecated_at {
            out.push(("deprecation", format!("@{at}")));
        }
        if let Some(at) = self.sunset_at {
            out.push(("sunset", http_date(at)));
        }
        let links: Vec<String> = [
            (&self.documentation, "rel=\"deprecation\"; type=\"text/html\""),
            (&self.sunset_policy, "rel=\"sunset\""),
            (&self.successor, "rel=\"successor-version\""),
        ]
        .into_iter()
        .filter_map(|(url, parameters)| url.as_ref().map(|url| format!("<{url}>; {parameters}")))
        .collect();
        if !links.is_empty() {
            out.push(("link", links.join(", ")));
        }
        out
    }
}

/// An IMF-fixdate (RFC 9110 §5.6.7).
fn http_date(unix_seconds: i64) -> String {
    let seconds = u64::try_from(unix_seconds).unwrap_or(0);
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix_seconds: i64) -> Now {
        Now { unix_ms: unix_seconds * 1000, ..Now::read() }
    }

    fn policy() -> Policy {
        Policy {
            deprecated_at: Some(1_737_417_600),
            sunset_at: Some(1_751_327_999),
            refuse_after_sunset: false,
            documentation: Some("https://example.com/migrate".into()),
            sunset_policy: Some("https://example.com/sunset".into()),
            successor: Some("wss://example.com/new".into()),
        }
    }

    #[test]
    fn headers_have_the_standards_forms() {
        assert_eq!(
            policy().headers(),
            vec![
                ("deprecation", "@1737417600".to_owned()),
                ("sunset", "Mon, 30 Jun 2025 23:59:59 GMT".to_owned()),
                (
                    "link",
                    "<https://example.com/migrate>; rel=\"deprecation\"; type=\"text/html\", \
                 <https://example.com/sunset>; rel=\"sunset\", \
                 <wss://example.com/new>; rel=\"successor-version\""
                        .to_owned()
                ),
            ]
        );
        assert!(Policy::default().headers().is_empty());
    }

    #[test]
    fn phases_follow_the_dates() {
        let serve = policy();
        let refuse = Policy { refuse_after_sunset: true, ..policy() };
        for (seconds, serving, refusing) in [
            (1_737_417_599, Phase::Current, Phase::Current),
            (1_737_417_600, Phase::Deprecated, Phase::Deprecated),
            (1_751_327_998, Phase::Deprecated, Phase::Deprecated),
            (1_751_327_999, Phase::Sunset, Phase::Gone),
        ] {
            assert_eq!(serve.phase(at(seconds)), serving, "{seconds}");
            assert_eq!(refuse.phase(at(seconds)), refusing, "{seconds}");
        }
        assert_eq!(Policy::default().phase(at(i64::MAX / 2000)), Phase::Current);
    }
}
