//! A backend's answer, for the client whose message it answers: what can be passed on.

use hyper::header::HeaderValue;

use super::metrics::ReplyResult;
use crate::http::{HttpError, Response};
use crate::json;

/// Deepest nesting of an answer: as deep as a client's message may be at most.
const DEPTH_MAX: usize = 127;

/// The JSON text of an answer.
///
/// # Errors
/// Why there is none that could be passed on: what is cut, or longer than was read, may say something else than it was to.
pub(super) fn of(answer: &Result<Response, HttpError>) -> Result<String, ReplyResult> {
    let response = match answer {
        Ok(response) => response,
        Err(HttpError::TooLarge { .. }) => return Err(ReplyResult::TooLarge),
        Err(_) => return Err(ReplyResult::Incomplete),
    };
    if !response.content_type.as_ref().is_none_or(is_json_type) {
        return Err(ReplyResult::NotJson);
    }
    let body = response.body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&response.body).trim_ascii();
    let text = std::str::from_utf8(body).map_err(|_| ReplyResult::NotJson)?;
    if json::deeper_than(text, DEPTH_MAX) || !json::is_json(text) {
        return Err(ReplyResult::NotJson);
    }
    // Where nothing but the end of the connection says where the answer ends, a number may be half of one.
    if !response.readable && !text.starts_with(['{', '[', '"']) {
        return Err(ReplyResult::Incomplete);
    }
    Ok(text.to_owned())
}

/// Whether a `Content-Type` is one of JSON (RFC 8259 §11, RFC 6839 §3.1): `application/json`, or with the suffix `+json`.
fn is_json_type(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let kind = text.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    matches!(kind.as_str(), "application/json" | "text/json") || kind.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use hyper::StatusCode;

    fn answer(content_type: Option<&'static str>, body: &[u8], readable: bool) -> Response {
        Response {
            status: StatusCode::OK,
            retry_after: None,
            date: None,
            content_type: content_type.map(HeaderValue::from_static),
            readable,
            body: Bytes::copy_from_slice(body),
        }
    }

    #[test]
    fn an_answer_is_passed_on_as_it_is_or_not_at_all() {
        for (content_type, body, expected) in [
            (Some("application/json"), "{\"n\":1.50}", Ok("{\"n\":1.50}")),
            (Some("Application/JSON; charset=utf-8"), " [1] \r\n", Ok("[1]")),
            (Some("application/problem+json"), "null", Ok("null")),
            (Some("text/json"), "\"\\u00e9\"", Ok("\"\\u00e9\"")),
            (None, "7", Ok("7")),
            (None, "\u{feff}{}", Ok("{}")),
            (Some("text/html"), "{}", Err(ReplyResult::NotJson)),
            (Some("text/plain"), "{}", Err(ReplyResult::NotJson)),
            (Some("application/jsonp"), "{}", Err(ReplyResult::NotJson)),
            (None, "<p>hello</p>", Err(ReplyResult::NotJson)),
            (None, "{} {}", Err(ReplyResult::NotJson)),
            (None, "{\"a\":1", Err(ReplyResult::NotJson)),
            (None, "", Err(ReplyResult::NotJson)),
        ] {
            let found = of(&Ok(answer(content_type, body.as_bytes(), true)));
            assert_eq!(found.as_deref(), expected.as_ref().copied(), "{content_type:?} {body}");
        }
        assert_eq!(of(&Ok(answer(None, b"\"\xff\"", true))), Err(ReplyResult::NotJson));
        let deep = "[".repeat(DEPTH_MAX + 1) + &"]".repeat(DEPTH_MAX + 1);
        assert_eq!(of(&Ok(answer(None, deep.as_bytes(), true))), Err(ReplyResult::NotJson));
        assert!(of(&Ok(answer(None, &deep.as_bytes()[1..deep.len() - 1], true))).is_ok());
    }

    #[test]
    fn what_only_a_close_ends_must_end_by_itself() {
        for (body, passes) in [("{}", true), ("[1]", true), ("\"a\"", true), ("12", false), ("true", false)] {
            let expected = if passes { Ok(body.to_owned()) } else { Err(ReplyResult::Incomplete) };
            assert_eq!(of(&Ok(answer(None, body.as_bytes(), false))), expected, "{body}");
        }
    }
}
