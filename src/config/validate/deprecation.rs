//! `deprecation`

use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::At;
use crate::deprecation::Policy;
use crate::net::host;

pub(super) fn deprecation(problems: &mut Problems<'_>, raw: Option<&raw::Deprecation>) -> Option<Policy> {
    let raw = raw?;
    let deprecated_at = date(problems, raw.deprecated_at.as_ref());
    let sunset_at = date(problems, raw.sunset_at.as_ref());
    if let (Some(deprecated), Some(sunset), Some(place)) = (deprecated_at, sunset_at, &raw.sunset_at)
        && sunset < deprecated
    {
        problems.at(place.span(), "the sunset comes before the deprecation (RFC 9745 §4)");
    }
    let refuse = raw.after_sunset.as_ref().filter(|after| *after.get() == raw::AfterSunset::Refuse);
    if let Some(place) = refuse.filter(|_| raw.sunset_at.is_none()) {
        problems.at(place.span(), "`after_sunset = \"refuse\"` needs `sunset_at`");
    }
    let policy = Policy {
        deprecated_at,
        sunset_at,
        refuse_after_sunset: refuse.is_some(),
        documentation: link(problems, raw.documentation.as_ref()),
        sunset_policy: link(problems, raw.sunset_policy.as_ref()),
        successor: link(problems, raw.successor.as_ref()),
    };
    (policy != Policy::default()).then_some(policy)
}

pub(super) fn date(problems: &mut Problems<'_>, raw: Option<&At<String>>) -> Option<i64> {
    let raw = raw?;
    match raw.get().parse::<jiff::Timestamp>() {
        Ok(date) if date.as_second() < 0 => {
            problems.at(raw.span(), "a date before 1970 cannot be told to clients");
            None
        }
        Ok(date) => Some(date.as_second()),
        Err(_) => {
            problems.with_help(
                raw.span(),
                format!("`{}` is not a date with a time and an offset", raw.get()),
                "as in RFC 3339: 2025-06-30T23:59:59Z",
            );
            None
        }
    }
}

/// A link goes into a header between `<` and `>`.
fn link(problems: &mut Problems<'_>, raw: Option<&At<String>>) -> Option<String> {
    let raw = raw?;
    let (scheme, rest) = raw.get().split_once("://").unwrap_or(("", ""));
    let scheme_legal = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+.-".contains(&b));
    let rest_legal =
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"{}".contains(&b));
    if !(scheme_legal && rest_legal) {
        problems.at(raw.span(), format!("`{}` is not a valid URL", raw.get()));
        return None;
    }
    // What follows an app's own scheme is up to the app.
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    if matches!(scheme, "http" | "https" | "ws" | "wss")
        && let Err(why) = host::authority(authority)
    {
        problems.at(raw.span(), format!("this is not a valid URL: {why}"));
        return None;
    }
    Some(raw.get().clone())
}
