//! Pure: whether Pusher says that the app's credentials are wrong, and which. What may be the network's or a proxy's doing
//! is never taken for that.

use super::lost::{End, LostCause};
use crate::metrics::label::labels;

labels! {
    /// What is wrong in `[upstream]`.
    pub enum Misconfigured: "what" {
        Key = "key",
        Secret = "secret",
        /// `app_id`.
        App = "app",
        /// The app is disabled.
        Disabled = "disabled",
        /// The key is of an app in another cluster.
        Cluster = "cluster",
    }
}

/// What the end of a connection says (protocol page, "Error codes"; hosted Pusher closes with the code alone, or names the
/// cluster).
#[must_use]
pub fn by_end(end: &End) -> Option<Misconfigured> {
    match end.code {
        Some(4001) if end.why.to_lowercase().contains("cluster") => Some(Misconfigured::Cluster),
        Some(4001) => Some(Misconfigured::Key),
        Some(4003) => Some(Misconfigured::Disabled),
        _ => None,
    }
}

/// Whether the HTTP API may tell more: some servers only end the connection of a wrong key (sockudo), or refuse it with
/// HTTP's status.
#[must_use]
pub fn is_worth_asking(end: &End) -> bool {
    end.cause == LostCause::Rejected && matches!(end.code, None | Some(4009))
}

/// What the HTTP API's answer to a signed request says: a status, which is in the body where a server has 200 for
/// everything (soketi), and a text.
#[must_use]
pub fn by_answer(status: u16, text: &str) -> Option<Misconfigured> {
    let text = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    // Of a wrong clock it is "Timestamp expired"; a wrong signature's text quotes the query, with its `auth_timestamp`.
    if !matches!(status, 401 | 403 | 404) || has(&["expired", "quota", "<html"]) {
        None
    } else if has(&["signature", "secret"]) {
        Some(Misconfigured::Secret)
    } else if has(&["app_id", "app id"]) {
        Some(Misconfigured::App)
    } else if has(&["auth_key", "app key", "application key", "invalid key", "unknown key"]) {
        Some(Misconfigured::Key)
    } else if has(&["disabled"]) {
        Some(Misconfigured::Disabled)
    } else if has(&["cluster"]) {
        Some(Misconfigured::Cluster)
    } else if status == 404 && has(&["app"]) && has(&["not found", "not be found", "not exist"]) {
        Some(Misconfigured::App)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_end_of_a_connection_says_is_understood() {
        for (cause, code, why, expected, asks) in [
            (LostCause::Rejected, Some(4001), "", Some(Misconfigured::Key), false),
            (
                LostCause::Rejected,
                Some(4001),
                "App key k not in this cluster. Did you forget to specify the cluster?",
                Some(Misconfigured::Cluster),
                false,
            ),
            (LostCause::Rejected, Some(4003), "", Some(Misconfigured::Disabled), false),
            (LostCause::Rejected, None, "the connection ended before a greeting", None, true),
            (LostCause::Rejected, None, "HTTP 404", None, true),
            (LostCause::Rejected, Some(4009), "Connection is unauthorized", None, true),
            (LostCause::Rejected, Some(4004), "over quota", None, false),
            (LostCause::Connect, None, "refused", None, false),
            (LostCause::Broken, None, "reset", None, false),
            (LostCause::Tls, None, "unknown issuer", None, false),
        ] {
            let end = End { cause, code, why: why.to_owned() };
            assert_eq!((by_end(&end), is_worth_asking(&end)), (expected, asks), "{end:?}");
        }
    }

    #[test]
    fn what_the_api_says_is_understood_and_what_a_proxy_says_is_not_taken_for_it() {
        for (status, text, expected) in [
            (401, r#"{"error":"Invalid API signature"}"#, Some(Misconfigured::Secret)),
            (
                401,
                "Invalid signature: you should have sent HmacSHA256Hex(\"GET…\")",
                Some(Misconfigured::Secret),
            ),
            (401, r#"{"error":"The secret authentication failed"}"#, Some(Misconfigured::Secret)),
            (401, "Authenticated app does not match route app_id", Some(Misconfigured::App)),
            (404, "Unknown app_id", Some(Misconfigured::App)),
            (404, "App 7 does not exist", Some(Misconfigured::App)),
            (404, "The app 1 could not be found.", Some(Misconfigured::App)),
            (404, "Application key not found or invalid: Invalid app key", Some(Misconfigured::Key)),
            (401, "Unknown auth_key", Some(Misconfigured::Key)),
            (403, "The app is disabled", Some(Misconfigured::Disabled)),
            (401, "Timestamp expired: Given timestamp is not within 600s of server time", None),
            (403, "over quota: the app's key", None),
            (404, "<html>no app key here</html>", None),
            (404, "404 page not found", None),
            (401, "", None),
            (500, "signature", None),
            (200, "{\"channels\":{}}", None),
        ] {
            assert_eq!(by_answer(status, text), expected, "{status} {text}");
        }
    }
}
