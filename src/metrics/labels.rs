//! The labels that other parts name by their text: closed sets, so that each series exists from the start.

/// What [`super::Metrics::auth`] may be told: the labels of `auth::Refused`, the session machine's words, and
/// those of attempts that have no token to judge.
pub const AUTH_RESULTS: [&str; 22] = [
    "accepted",
    "renewed",
    "missing_permission",
    "not_owner",
    "other_user",
    "late",
    "refused",
    "malformed",
    "too_long",
    "unsupported_header",
    "unsupported_algorithm",
    "unknown_key",
    "bad_signature",
    "expired",
    "not_yet_valid",
    "wrong_issuer",
    "wrong_audience",
    "missing_claim",
    "bad_claim",
    "keys_unavailable",
    "no_token",
    "rate_limited",
];

/// What [`super::Metrics::publish_retry`] may be told: the causes of `pusher::api`.
pub const RETRY_CAUSES: [&str; 8] =
    ["rate_limited", "unavailable", "server_error", "refused", "no_answer", "not_sent", "clock", "path"];

/// What [`super::Metrics::reconnect`] may be told: the causes of `pusher::dial` and `pusher::link`.
pub const RECONNECT_CAUSES: [&str; 14] = [
    "connect",
    "connect_timeout",
    "tls",
    "handshake",
    "refused",
    "broken",
    "closed",
    "closed_4000",
    "closed_4100",
    "closed_4200",
    "closed_other",
    "deaf",
    "pong_timeout",
    "write_timeout",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_of_labels_are_complete() {
        let listed = |source: &str, marks: &[&str], list: &[&str]| {
            let mut found = 0;
            let source = source.split("#[cfg(test)]").next().unwrap();
            for mark in marks {
                for label in source.split(mark).skip(1).filter_map(|rest| rest.split('"').next()) {
                    assert!(list.contains(&label), "{label}");
                    found += 1;
                }
            }
            assert!(found > 2, "{marks:?}");
        };
        listed(
            include_str!("../upstream/link.rs"),
            &["End::new(\"", "=> \"closed"],
            &[&RECONNECT_CAUSES[..], &["", "_4000", "_4100", "_4200", "_other"]].concat(),
        );
        listed(include_str!("../upstream/dial.rs"), &["Failed::new(\"", "cause: \""], &RECONNECT_CAUSES);
        listed(
            include_str!("../upstream/api.rs"),
            &["cause: \"", "not_taken(\"", "Some(\"", "unwrap_or(\""],
            &RETRY_CAUSES,
        );
        let refusals = concat!(include_str!("../auth/refused.rs"), include_str!("../auth/permits.rs"));
        listed(refusals, &["=> \""], &AUTH_RESULTS);
        listed(include_str!("../session/machine/tokens.rs"), &["Outcome::of(\""], &AUTH_RESULTS);
    }
}
