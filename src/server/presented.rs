//! Pure: the token that an upgrade request carries, and the subprotocol that the answer selects for it.

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use percent_encoding::percent_decode_str;

use crate::auth::settings::TokenPlace;
use crate::auth::{looks_like_a_token, token_in};

/// What was found in the places where a route accepts a token.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Presented {
    /// The first that looks like a token, without `Bearer`; empty when there is only what does not.
    pub token: Option<String>,
    /// The subprotocol that announces it: a browser that offers any fails the connection when none is selected.
    pub protocol: Option<String>,
}

/// Looks at each of `places` in order. What does not look like a token (nothing, another scheme's credentials,
/// `undefined`) hides nothing behind it.
#[must_use]
pub fn presented_token(headers: &HeaderMap, query: &str, places: &[TokenPlace]) -> Presented {
    let mut found = Presented::default();
    let mut look = |text: &str| {
        let Some(token) = token_in(text) else { return };
        if found.token.as_ref().is_none_or(String::is_empty) {
            found.token = Some(if looks_like_a_token(token) { token.to_owned() } else { String::new() });
        }
    };
    let mut protocol = None;
    for place in places {
        match place {
            TokenPlace::Header => {
                let values = headers.get_all(AUTHORIZATION).iter().filter_map(|value| value.to_str().ok());
                values.filter(|value| is_ours(value)).for_each(&mut look);
            }
            TokenPlace::Query(name) => {
                let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                let values = pairs.filter(|(key, _)| decoded(key) == *name).map(|(_, value)| decoded(value));
                values.for_each(|value| look(&value));
            }
            TokenPlace::Subprotocol(name) => {
                let mut offered = offered(headers).skip_while(|item| item != name);
                if offered.next().is_some() {
                    protocol.get_or_insert_with(|| name.clone());
                    // Other subprotocols may come in between.
                    let mut rest = offered.peekable();
                    let first = rest.peek().copied().unwrap_or("");
                    look(rest.find(|item| looks_like_a_token(item)).unwrap_or(first));
                }
            }
        }
    }
    found.protocol = protocol;
    found
}

fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// The subprotocol to select (RFC 6455 §4.2.2): the first that the client offers and the route knows; else the one by
/// which a token was `presented`.
#[must_use]
pub fn select_subprotocol(
    headers: &HeaderMap,
    known: &[String],
    presented: Option<String>,
) -> Option<String> {
    let first = offered(headers).find(|item| known.iter().any(|known| known == item));
    first.map(str::to_owned).or(presented)
}

/// Whether `Authorization` has a token: of the scheme `Bearer` (RFC 6750 §2.1), or a bare one, as some clients
/// write it. Other schemes are for others on the way.
fn is_ours(value: &str) -> bool {
    let value = value.trim();
    let scheme = value.split(char::is_whitespace).next().unwrap_or("");
    scheme.eq_ignore_ascii_case("bearer") || looks_like_a_token(value)
}

/// A name or value of a query, as forms encode it (WHATWG URL, application/x-www-form-urlencoded parsing).
fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    // `e30` is `{}`, the least header of a token.
    const ALL: &str = "header query:token subprotocol:bearer";

    fn places(text: &str) -> Vec<TokenPlace> {
        text.split(' ')
            .map(|place| match place.split_once(':') {
                Some(("query", name)) => TokenPlace::Query(name.replace('_', " ")),
                Some((_, name)) => TokenPlace::Subprotocol(name.into()),
                None => TokenPlace::Header,
            })
            .collect()
    }

    fn found(
        places: &str,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> (Option<String>, Option<String>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let found = presented_token(&map, query, &self::places(places));
        (found.token, found.protocol)
    }

    #[test]
    fn the_first_place_with_a_token_counts() {
        let authorization = ("authorization", "Bearer e30.h.h");
        let protocols = ("sec-websocket-protocol", "x, bearer, e30.s.s");
        let all = [authorization, protocols];
        for (places, token, protocol) in [
            (ALL, "e30.h.h", Some("bearer")),
            ("query:token header", "e30.q.q", None),
            ("query:other header", "e30.h.h", None),
            ("subprotocol:bearer header", "e30.s.s", Some("bearer")),
            ("subprotocol:other query:token", "e30.q.q", None),
        ] {
            let (found, selected) = found(places, "token=e30.q.q", &all);
            assert_eq!((found.as_deref(), selected.as_deref()), (Some(token), protocol), "{places}");
        }
        let nothing = presented_token(&HeaderMap::new(), "token=e30.q.q", &[]);
        assert_eq!(nothing, Presented::default());
    }

    #[test]
    fn what_is_no_token_hides_none() {
        let good = ("sec-websocket-protocol", "bearer, e30.s.s");
        for query in [
            "",
            "token=",
            "token",
            "token=undefined",
            "token=Bearer+",
            "token=e30.b",
            "token=e30.b.c.d",
            "token=1.2.3",
            "token=s1.opaque.session",
            "token=..",
            "other=e30.b.c",
            "TOKEN=e30.b.c",
        ] {
            for authorization in [
                "Basic dXNlcjpwYXNz",
                "Bearer",
                "Bearer ",
                "Bearer undefined",
                "Negotiate e30.b.c",
                "Bearer s1.opaque.session",
                "s1.opaque.session",
                "dXNlcg==",
                "Digest username=\"e30.b.c\"",
                "",
            ] {
                let headers = [("authorization", authorization), good];
                assert_eq!(
                    found(ALL, query, &headers).0.as_deref(),
                    Some("e30.s.s"),
                    "{query} {authorization}"
                );
            }
        }
        let two = [("authorization", "Basic dXNlcg=="), ("authorization", "bearer  e30.h.h")];
        assert_eq!(found(ALL, "", &two).0.as_deref(), Some("e30.h.h"));
        assert_eq!(
            found(ALL, "token=&token=e30.q.", &[]).0.as_deref(),
            Some("e30.q."),
            "told that it has no signature"
        );
    }

    #[test]
    fn without_any_the_client_is_told_of_what_stood_in_its_place() {
        for (query, headers, told) in [
            ("token=undefined", &[][..], true),
            ("", &[("authorization", "Bearer opaque")], true),
            ("", &[("authorization", "Bearer s1.opaque.session")], true),
            ("token=1.2.3", &[], true),
            ("", &[("sec-websocket-protocol", "bearer, opaque")], true),
            ("token=", &[], false),
            ("", &[("authorization", "Basic opaque")], false),
            ("", &[("authorization", "Bearer")], false),
            ("", &[("sec-websocket-protocol", "bearer")], false),
        ] {
            let token = found(ALL, query, headers).0;
            assert_eq!(token.as_deref(), told.then_some(""), "{query} {headers:?}");
        }
    }

    #[test]
    fn queries_are_decoded_as_forms_are() {
        for (places, query) in [
            ("query:token", "x=1&token=e30%2Eb%2ec"),
            ("query:token", "%74oken=e30.b.c"),
            ("query:token", "token=Bearer+e30.b.c"),
            ("query:token", "token=Bearer%20e30.b.c"),
            ("query:token", "token=+e30.b.c+"),
            ("query:access_token", "access+token=e30.b.c"),
            ("query:access_token", "access%20token=e30.b.c"),
            ("query:token", "&&=&token=&token=e30.b.c"),
        ] {
            assert_eq!(found(places, query, &[]).0.as_deref(), Some("e30.b.c"), "{query}");
        }
        assert_eq!(found("query:token", "token=%FF", &[]).0.as_deref(), Some(""));
    }

    #[test]
    fn an_offered_subprotocol_is_selected_and_the_token_never() {
        for (offered, token, protocol) in [
            (&["bearer, e30.s.s"][..], Some("e30.s.s"), Some("bearer")),
            (&["v1.app, bearer,e30.s.s"], Some("e30.s.s"), Some("bearer")),
            (&["bearer", "e30.s.s"], Some("e30.s.s"), Some("bearer")),
            (&["bearer, chat, e30.s.s"], Some("e30.s.s"), Some("bearer")),
            (&["bearer, wamp.2.json, e30.s.s"], Some("e30.s.s"), Some("bearer")),
            (&["bearer, wamp.2.json"], Some(""), Some("bearer")),
            (&["bearer"], None, Some("bearer")),
            (&["e30.s.s, bearer"], None, Some("bearer")),
            (&["Bearer, e30.s.s"], None, None),
            (&["chat"], None, None),
        ] {
            let headers: Vec<_> = offered.iter().map(|value| ("sec-websocket-protocol", *value)).collect();
            let (found, selected) = found(ALL, "", &headers);
            assert_eq!((found.as_deref(), selected.as_deref()), (token, protocol), "{offered:?}");
        }
    }

    #[test]
    fn the_first_offer_that_is_known_is_selected_and_never_a_token() {
        let known = ["v2.app".to_owned(), "v1.app".to_owned()];
        let places = places("subprotocol:bearer");
        for (offers, selected) in [
            (&[][..], None),
            (&["v1.app"], Some("v1.app")),
            (&["v3.app, v1.app,v2.app"], Some("v1.app")),
            (&["v3.app", "v2.app"], Some("v2.app")),
            (&["V1.APP"], None),
            (&["bearer, e30.t.t"], Some("bearer")),
            (&["bearer, e30.t.t, v2.app"], Some("v2.app")),
            (&["e30.t.t, x"], None),
            (&[", ,"], None),
        ] {
            let mut headers = HeaderMap::new();
            for offer in offers {
                headers.append(SEC_WEBSOCKET_PROTOCOL, offer.parse().unwrap());
            }
            let select = |known: &[String], places: &[TokenPlace]| {
                select_subprotocol(&headers, known, presented_token(&headers, "", places).protocol)
            };
            assert_eq!(select(&known, &places).as_deref(), selected, "{offers:?}");
            assert_eq!(select(&[], &[]), None, "a route that knows none selects none");
        }
    }
}
