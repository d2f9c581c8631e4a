//! Pure: pages from elsewhere (WHATWG Fetch, "CORS protocol"). An origin is answered by its own name, never by `*`.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
};

use crate::routes::origins::Origins;

/// How long a browser may remember that a page may ask.
const MAX_AGE: &str = "600";
/// Bytes of a list of headers that a page may ask for.
const ASKED_HEADERS_BYTES_MAX: usize = 1024;
/// What pages send in any case.
const HEADERS: &str = "authorization, content-type";

/// The `Origin` of a request, where it is one of `origins`.
fn allowed<'h>(headers: &'h HeaderMap, origins: &Origins) -> Option<&'h HeaderValue> {
    let mut all = headers.get_all(ORIGIN).iter();
    let origin = all.next()?;
    let listed = all.next().is_none() && origin.to_str().is_ok_and(|origin| origins.allow(origin));
    listed.then_some(origin)
}

/// Whether a request asks only whether a page may ask.
#[must_use]
pub fn is_preflight(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// What every answer says of pages; nothing where no origin is listed.
pub fn answered(request: &HeaderMap, origins: &Origins, answer: &mut HeaderMap) {
    if origins.list().is_empty() {
        return;
    }
    answer.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = allowed(request, origins) {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// Whether the page of a preflight may POST here; then `answer` says so, beside what [`answered`] does.
pub fn preflight(request: &HeaderMap, origins: &Origins, answer: &mut HeaderMap) -> bool {
    if allowed(request, origins).is_none() {
        return false;
    }
    answer.append(VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    // A listed page may send what it likes: nothing is decided by headers but the token.
    let legal = |text: &str| {
        text.len() <= ASKED_HEADERS_BYTES_MAX
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-, ".contains(&b))
    };
    let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS);
    let asked = asked.filter(|asked| asked.to_str().is_ok_and(legal)).cloned();
    let asked = asked.unwrap_or(HeaderValue::from_static(HEADERS));
    answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(list: &[&str]) -> Origins {
        Origins::new(list.iter().map(|origin| Origins::check(origin).unwrap()).collect())
    }

    fn request(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn listed_origins_are_answered_by_their_name_and_others_by_nothing() {
        let listed = origins(&["https://app.example.com", "https://*.example.org"]);
        for (origin, allowed) in [
            (&["https://app.example.com"][..], true),
            (&["https://a.example.org"], true),
            (&["https://evil.example"], false),
            (&["https://app.example.com.evil.example"], false),
            (&["null"], false),
            (&["*"], false),
            (&["https://app.example.com", "https://evil.example"], false),
            (&[], false),
        ] {
            let request = request(&origin.iter().map(|origin| ("origin", *origin)).collect::<Vec<_>>());
            let mut answer = HeaderMap::new();
            answered(&request, &listed, &mut answer);
            assert_eq!(answer.get(VARY).unwrap(), "Origin", "{origin:?}");
            let named = answer.get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap());
            assert_eq!(named, allowed.then(|| origin[0]), "{origin:?}");
            assert_eq!(answer.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS), allowed);
        }
        let mut answer = HeaderMap::new();
        answered(&request(&[("origin", "https://app.example.com")]), &origins(&[]), &mut answer);
        assert!(answer.is_empty());
    }

    #[test]
    fn a_preflight_is_answered_for_listed_pages() {
        let listed = origins(&["https://app.example.com"]);
        let ask = |origin: &str, more: &[(&'static str, &str)]| {
            let mut pairs = vec![("origin", origin), ("access-control-request-method", "POST")];
            pairs.extend_from_slice(more);
            let (request, mut answer) = (request(&pairs), HeaderMap::new());
            assert!(is_preflight(&request));
            preflight(&request, &listed, &mut answer).then_some(answer)
        };
        let answer = ask("https://app.example.com", &[]).unwrap();
        assert_eq!(answer.get(ACCESS_CONTROL_ALLOW_METHODS).unwrap(), "POST");
        assert_eq!(answer.get(ACCESS_CONTROL_ALLOW_HEADERS).unwrap(), HEADERS);
        let asked = ("access-control-request-headers", "authorization,x-csrf-token");
        let answer = ask("https://app.example.com", &[asked]).unwrap();
        assert_eq!(answer.get(ACCESS_CONTROL_ALLOW_HEADERS).unwrap(), asked.1);
        let long = "x".repeat(ASKED_HEADERS_BYTES_MAX + 1);
        let answer = ask("https://app.example.com", &[("access-control-request-headers", &long)]).unwrap();
        assert_eq!(answer.get(ACCESS_CONTROL_ALLOW_HEADERS).unwrap(), HEADERS);
        assert!(ask("https://evil.example", &[]).is_none());
        assert!(!is_preflight(&request(&[("origin", "https://app.example.com")])));
    }
}
