use super::*;
use proptest::prelude::*;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    map
}

/// All fields, sorted, several of a name as they are.
fn shown(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut fields: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    fields.sort();
    fields
}

const CLIENT: Asked<'static> = Asked {
    version: Version::HTTP_11,
    peer: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    is_trusted: false,
    believes_forwarded: false,
    believes_x_forwarded_for: true,
    client: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    scheme: "http",
    authority: None,
    has_body: false,
};

/// A proxy that says who its client is.
const PROXY: Asked<'static> =
    Asked { is_trusted: true, client: IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7)), ..CLIENT };

fn passed_on(fields: &[(&str, &str)], asked: &Asked<'_>) -> HeaderMap {
    let mut headers = map(fields);
    request(&mut headers, asked);
    headers
}

#[test]
fn what_is_of_one_connection_does_not_pass_and_all_else_does() {
    let headers = passed_on(
        &[
            ("host", "h:80"),
            ("connection", "keep-alive, x-mine"),
            ("connection", "X-Other"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("x-mine", "1"),
            ("x-other", "2"),
            ("te", "gzip;q=0.5, Trailers"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x-sum"),
            ("expect", "100-continue"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
            ("x-kept", "caf\u{e9}"),
        ],
        &CLIENT,
    );
    let expected = [
        ("connection", "TE"),
        ("cookie", "a=b"),
        ("cookie", "c=d"),
        ("expect", "100-continue"),
        ("forwarded", "for=192.0.2.1;host=\"h:80\";proto=http"),
        ("host", "h:80"),
        ("te", "trailers"),
        ("trailer", "x-sum"),
        ("via", "1.1 pusher-bridge"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-host", "h:80"),
        ("x-forwarded-proto", "http"),
        ("x-kept", "caf\u{e9}"),
    ];
    assert_eq!(shown(&headers), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn a_trusted_proxys_word_is_continued_and_of_others_nothing_passes() {
    let said: &[(&str, &str)] = &[
        ("host", "h"),
        ("x-forwarded-for", "203.0.113.9, 198.51.100.7"),
        ("x-forwarded-for", "198.51.100.8"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "api"),
        ("x-real-ip", "203.0.113.9"),
        ("forwarded", "for=203.0.113.9"),
        ("via", "1.1 edge"),
    ];
    let field = |headers: &HeaderMap, name: &str| {
        headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
    };
    let by_proxy = passed_on(said, &PROXY);
    for (name, value) in [
        ("x-forwarded-for", "203.0.113.9, 198.51.100.7, 198.51.100.8, 192.0.2.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "api"),
        ("x-real-ip", "203.0.113.9"),
        // Of this one it says nothing, so it is the client's own word.
        ("forwarded", "for=198.51.100.7;host=h;proto=http"),
        ("via", "1.1 edge, 1.1 pusher-bridge"),
    ] {
        assert_eq!(field(&by_proxy, name), value, "{name} by a proxy");
    }
    let other = Asked { believes_forwarded: true, believes_x_forwarded_for: false, ..PROXY };
    let other = passed_on(said, &other);
    assert_eq!(field(&other, "forwarded"), "for=203.0.113.9, for=192.0.2.1;host=h;proto=http");
    assert_eq!(field(&other, "x-forwarded-for"), "198.51.100.7");
    let by_client = passed_on(said, &CLIENT);
    for (name, value) in [
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "h"),
        ("x-real-ip", ""),
        ("forwarded", "for=192.0.2.1;host=h;proto=http"),
    ] {
        assert_eq!(field(&by_client, name), value, "{name} by a client");
    }
    let v6 = Asked { client: "2001:db8::1".parse().unwrap(), ..CLIENT };
    assert_eq!(
        field(&passed_on(&[("host", "h")], &v6), "forwarded"),
        "for=\"[2001:db8::1]\";host=h;proto=http"
    );
    let absolute = Asked { authority: Some("g:81"), ..CLIENT };
    assert_eq!(field(&passed_on(&[("host", "G:81")], &absolute), "host"), "g:81");
}

#[test]
fn upgrades_pass_but_for_another_http() {
    let websocket: &[(&str, &str)] = &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
    let mut headers = map(websocket);
    assert!(request(&mut headers, &CLIENT));
    assert_eq!(headers[UPGRADE], "websocket");
    assert_eq!(headers[CONNECTION], "Upgrade");
    for (fields, asked) in [
        (
            &[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "x")][..],
            CLIENT,
        ),
        (&[("connection", "Upgrade"), ("upgrade", "websocket, h2c")], CLIENT),
        (&[("connection", "Upgrade"), ("upgrade", "a"), ("upgrade", "b")], CLIENT),
        (&[("upgrade", "websocket")], CLIENT),
        (websocket, Asked { version: Version::HTTP_10, ..CLIENT }),
        (websocket, Asked { has_body: true, ..CLIENT }),
    ] {
        let mut headers = map(fields);
        assert!(!request(&mut headers, &asked), "{fields:?}");
        for name in ["upgrade", "connection", "http2-settings"] {
            assert!(!headers.contains_key(name), "{fields:?}");
        }
    }
    let mut switched = map(&[("connection", "upgrade, x-a"), ("upgrade", "websocket"), ("x-a", "1")]);
    answer(&mut switched, Version::HTTP_11, true);
    assert_eq!(shown(&switched).len(), 3, "{switched:?}");
    let mut refused = map(&[("connection", "upgrade"), ("upgrade", "websocket"), ("keep-alive", "x")]);
    answer(&mut refused, Version::HTTP_10, false);
    assert_eq!(shown(&refused), [("via".to_owned(), "1.0 pusher-bridge".to_owned())]);
    for (method, before, after) in [
        (Method::OPTIONS, "5", Some("4")),
        (Method::TRACE, "1", Some("0")),
        (Method::TRACE, "0", None),
        (Method::OPTIONS, "000", None),
        (Method::OPTIONS, "99999999999999999999", Some("4294967294")),
        (Method::OPTIONS, "-1", Some("-1")),
        (Method::OPTIONS, "", Some("")),
        (Method::GET, "0", Some("0")),
    ] {
        let mut headers = map(&[("max-forwards", before)]);
        assert_eq!(may_go_further(&method, &mut headers), after.is_some(), "{method} {before}");
        assert!(after.is_none_or(|after| headers["max-forwards"] == after), "{method} {before}: {headers:?}");
    }
    assert!(may_go_further(&Method::TRACE, &mut map(&[])));
    let mut multiplexed = map(&[]);
    request(&mut multiplexed, &Asked { version: Version::HTTP_2, ..CLIENT });
    assert_eq!(multiplexed["via"], "2.0 pusher-bridge");
}

#[test]
fn an_answer_that_can_be_read_in_two_ways_is_wrong() {
    let ok = StatusCode::OK;
    for fields in [&[][..], &[("content-length", "5")], &[("transfer-encoding", "Chunked")]] {
        assert_eq!(wrong_answer(Version::HTTP_11, ok, &map(fields), false), None);
    }
    for fields in [
        &[("content-length", "5"), ("content-length", "5")][..],
        &[("content-length", "5, 5")],
        &[("content-length", "+5")],
        &[("content-length", "")],
        &[("content-length", "5"), ("transfer-encoding", "chunked")],
        &[("transfer-encoding", "chunked, identity")],
        &[("transfer-encoding", "xchunked")],
        &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
    ] {
        assert!(wrong_answer(Version::HTTP_11, ok, &map(fields), false).is_some(), "{fields:?}");
    }
    let chunked = map(&[("transfer-encoding", "chunked")]);
    assert!(wrong_answer(Version::HTTP_10, ok, &chunked, false).is_some());
    let switching = StatusCode::SWITCHING_PROTOCOLS;
    assert!(wrong_answer(Version::HTTP_11, switching, &map(&[]), false).is_some());
    assert!(wrong_answer(Version::HTTP_11, switching, &map(&[]), true).is_none());
}

proptest! {
    /// Whatever a client sends: what is of its connection is gone, and who it is, is this bridge's word alone.
    #[test]
    fn no_client_says_who_it_is(
        fields in proptest::collection::vec(("[a-z-]{1,8}|x-forwarded-for|forwarded|x-real-ip|via|te|connection|upgrade", "[ -~]{0,20}"), 0..12),
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in &fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers.insert(HOST, HeaderValue::from_static("h"));
        let upgrades = request(&mut headers, &CLIENT);
        let only = |name: HeaderName| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        prop_assert_eq!(only(X_FORWARDED_FOR), ["192.0.2.1"]);
        prop_assert_eq!(only(FORWARDED), ["for=192.0.2.1;host=h;proto=http"]);
        prop_assert!(only(HeaderName::from_static("x-real-ip")).is_empty());
        prop_assert_eq!(headers.contains_key(UPGRADE), upgrades);
        prop_assert!(!headers.contains_key(TRANSFER_ENCODING));
        for option in tokens(&headers, &CONNECTION) {
            prop_assert!(["TE", "Upgrade"].contains(&option));
        }
    }
}
