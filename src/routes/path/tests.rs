use super::*;
use proptest::prelude::*;

fn router(templates: &[&str]) -> Router {
    Router::new(templates.iter().map(|t| PathTemplate::parse(t).unwrap()).collect())
}

#[test]
fn paths_find_their_route_and_values() {
    let router = router(&["/ws", "/ws/roblox", "/ws/content/{id}", "/a/{x}/b/{y}"]);
    let values = |pairs: &[(&str, &str)]| {
        PathValues(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    };
    let cases = [
        ("/ws", Matched::Route(0, values(&[]))),
        ("/ws/roblox", Matched::Route(1, values(&[]))),
        ("/ws/content/gen_1", Matched::Route(2, values(&[("id", "gen_1")]))),
        ("/ws/content/a%2Db", Matched::Route(2, values(&[("id", "a-b")]))),
        ("/a/1/b/2", Matched::Route(3, values(&[("x", "1"), ("y", "2")]))),
        ("/", Matched::Nothing),
        ("", Matched::Nothing),
        ("ws", Matched::Nothing),
        ("/ws/", Matched::Nothing),
        ("/ws/content", Matched::Nothing),
        ("/ws/content/a/b", Matched::Nothing),
        ("/WS/roblox", Matched::Nothing),
    ];
    for (path, expected) in cases {
        assert_eq!(router.find(path), expected, "{path}");
    }
}

#[test]
fn values_that_no_channel_can_hold_are_refused() {
    let router = router(&["/ws/content/{id}"]);
    for bad in ["", "a%2Fb", "a%00", "%FF", "a b", "%23x", "a:b", "%C3%A9", "a%", &"x".repeat(165)] {
        let found = router.find(&format!("/ws/content/{bad}"));
        assert!(matches!(found, Matched::BadValue(0, _)), "{bad}: {found:?}");
    }
}

#[test]
fn a_slash_at_the_end_is_another_path_or_the_same() {
    let router = |either: bool| {
        let templates = ["/", "/ws", "/old/", "/x/{id}", "/y/{id}/"];
        let parse = |t: &&str| PathTemplate::parse(t).unwrap().with_either_slash(either);
        Router::new(templates.iter().map(parse).collect())
    };
    for (path, exact, either) in [
        ("/", Some(0), Some(0)),
        ("/ws", Some(1), Some(1)),
        ("/ws/", None, Some(1)),
        ("/ws//", None, None),
        ("//ws", None, None),
        ("//", None, None),
        ("/old/", Some(2), Some(2)),
        ("/old", None, Some(2)),
        ("/x/1", Some(3), Some(3)),
        ("/x/1/", None, Some(3)),
        ("/x/1%2F", None, None),
        ("/y/1/", Some(4), Some(4)),
        ("/y/1", None, Some(4)),
        ("/y", None, None),
    ] {
        let found = |either: bool| match router(either).find(path) {
            Matched::Route(index, _) => Some(index),
            _ => None,
        };
        assert_eq!((found(false), found(true)), (exact, either), "{path}");
    }
    let t = |s: &str, either| PathTemplate::parse(s).unwrap().with_either_slash(either);
    for (a, b) in [("/ws", "/ws/"), ("/x/{a}/", "/x/{b}")] {
        assert!(!t(a, false).overlaps(&t(b, false)) && t(a, true).overlaps(&t(b, false)), "{a} {b}");
        assert!(t(a, false).overlaps(&t(b, true)) && t(a, true).overlaps(&t(b, true)), "{a} {b}");
    }
    assert!(!t("/", true).overlaps(&t("/ws", true)));
    assert!(!t("/ws", true).overlaps(&t("/ws/{a}", true)));
}

#[test]
fn a_literal_may_come_percent_encoded() {
    let router = router(&["/open", "/a:b/{x:[0-9]+}", "/{n:[0-9]+}/x"]);
    for (path, index) in [
        ("/open", Some(0)),
        ("/%6Fpen", Some(0)),
        ("/%6f%70%65%6E", Some(0)),
        ("/a%3Ab/1", Some(1)),
        ("/%31/%78", Some(2)),
        ("/%4Fpen", None),
        ("/%256Fpen", None),
        ("/%6open", None),
        ("/open%", None),
        ("/open%00", None),
        ("%2Fopen", None),
        ("/%2Fopen", None),
        ("/open%2F", None),
        ("/a:b%2F1", None),
    ] {
        let found = match router.find(path) {
            Matched::Route(index, _) => Some(index),
            _ => None,
        };
        assert_eq!(found, index, "{path}");
    }
}

#[test]
fn a_free_value_has_any_character_but_control_characters() {
    let template = PathTemplate::parse("/{mac}/{room}").unwrap().with_free_values(vec!["mac".into()]);
    let router = Router::new(vec![template]);
    for (path, mac) in [
        ("/AA:BB:CC/r", Some("AA:BB:CC")),
        ("/AA%3ABB/r", Some("AA:BB")),
        ("/caf%C3%A9%20%2F/r", Some("caf\u{e9} /")),
        ("//r", None),
        ("/%00/r", None),
        ("/%C2%85/r", None),
        ("/%FF/r", None),
        ("/AA:BB/r:1", None),
    ] {
        match (router.find(path), mac) {
            (Matched::Route(0, values), Some(mac)) => assert_eq!(values.get("mac"), Some(mac)),
            (Matched::BadValue(0, _), None) => {}
            other => panic!("{path}: {other:?}"),
        }
    }
    let long = |n: usize| router.find(&format!("/{}/r", "x".repeat(n)));
    assert!(matches!(long(256), Matched::Route(..)) && matches!(long(257), Matched::BadValue(..)));
}

#[test]
fn a_value_has_the_characters_that_it_may_have() {
    let router = router(&["/{tenant:[a-z0-9]+}/{doc}", "/{n:[0-9-]+}", "/{name:[a-z]+}"]);
    assert!(matches!(router.find("/acme/corp-plan"), Matched::Route(0, _)));
    assert!(matches!(router.find("/acme%2Dcorp/plan"), Matched::BadValue(0, _)));
    assert!(matches!(router.find("/acme-corp/plan"), Matched::BadValue(0, _)));
    assert!(matches!(router.find("/1-2"), Matched::Route(1, _)));
    assert!(matches!(router.find("/ab"), Matched::Route(2, _)));
    assert!(matches!(router.find("/A"), Matched::BadValue(1, _)));
}

#[test]
fn an_excluded_value_is_none() {
    let excluded = |source: &str, not: &[&str]| {
        let mut template = PathTemplate::parse(source).unwrap();
        let not = not.iter().map(|not| Choice::parse(not, CharSet::ANY).unwrap()).collect();
        assert!(template.exclude("id", not) && !template.exclude("other", Vec::new()));
        template
    };
    let template = excluded("/agent/{id}", &["status", "admin-*"]);
    let router = Router::new(vec![template.clone(), PathTemplate::parse("/agent/status").unwrap()]);
    for (path, expected) in [
        ("/agent/a", Some(0)),
        ("/agent/Status", Some(0)),
        ("/agent/statu", Some(0)),
        ("/agent/status-", Some(0)),
        ("/agent/admin-", Some(0)),
        ("/agent/status", Some(1)),
        ("/agent/%73tatus", Some(1)),
        ("/agent/admin-x", None),
        ("/agent/%61dmin%2Dx", None),
    ] {
        match (router.find(path), expected) {
            (Matched::Route(found, _), Some(index)) => assert_eq!(found, index, "{path}"),
            (Matched::BadValue(0, BadValue::Excluded(why)), None) => assert!(why.contains("`id`"), "{path}"),
            (other, _) => panic!("{path}: {other:?}"),
        }
    }
    assert!(!template.overlaps(&PathTemplate::parse("/agent/status").unwrap()));
    assert!(template.overlaps(&PathTemplate::parse("/agent/other").unwrap()));
}

#[test]
fn path_values_do_not_choose_the_kind_of_channel() {
    let allow = crate::template::Allow { subscribe: true, user: true, message_type: false };
    for (channel, path, kind) in [
        ("private-{a}", "/x/1", None),
        ("private-{a}", "/cache-x/1", Some("private-cache-")),
        ("private-{a}", "/cache/1", None),
        ("private-{a}", "/encrypted-x/1", Some("private-encrypted-")),
        ("private-{a}", "/encrypted-cache-x/1", Some("private-encrypted-cache-")),
        ("private-{a}{b}", "/enc/rypted-x", Some("private-encrypted-")),
        ("private-{a}-{b}", "/encrypted/x", Some("private-encrypted-")),
        ("private-{a}-{b}", "/encrypted/cache-x", Some("private-encrypted-cache-")),
        ("private-{b}{a}", "/ache-x/c", Some("private-cache-")),
        ("private-x{a}", "/cache-/1", None),
        ("presence-{a}", "/cache-x/1", Some("presence-cache-")),
        ("presence-{a}", "/encrypted-x/1", None),
        ("private-encrypted-{a}", "/cache-x/1", Some("private-encrypted-cache-")),
        ("private-encrypted-cache-{a}", "/cache-x/1", None),
        ("cache-{a}", "/cache-x/1", None),
        // What is not known yet ends what is looked at.
        ("private-{auth.user}{a}", "/cache-/1", None),
        ("private-{a}{auth.user}", "/cache/1", None),
        ("private-{a}{auth.user}", "/cache-/1", Some("private-cache-")),
    ] {
        let names = ["a", "b"].map(str::to_owned);
        let channel = Text::parse(channel, &names, allow).unwrap();
        let template = PathTemplate::parse("/{a}/{b}").unwrap().with_channel(channel.clone());
        match (Router::new(vec![template]).find(path), kind) {
            (Matched::Route(0, _), None) => {}
            (Matched::BadValue(0, BadValue::Kind(why)), Some(kind)) => {
                assert!(why.contains(&format!("`{kind}`")), "{why}");
            }
            (other, _) => panic!("{} {path}: {other:?}", channel.source()),
        }
    }
}

#[test]
fn bad_templates_say_where() {
    for (bad, at) in [
        ("ws", 0),
        ("", 0),
        ("//", 1),
        ("/ws//x", 4),
        ("/ws/x//", 6),
        ("/ws/a{b}", 5),
        ("/ws/{}", 4),
        ("/ws/{1a}", 4),
        ("/{a}/{a}", 5),
        ("/ws/a b", 5),
        ("/a/..", 3),
        ("/a/{x:}", 3),
        ("/a/{x:[a-z]*}", 3),
        ("/a/{:[a-z]+}", 3),
    ] {
        assert_eq!(PathTemplate::parse(bad).unwrap_err().at, at, "{bad}");
    }
}

#[test]
fn overlap_is_symmetric_and_exact() {
    let t = |s: &str| PathTemplate::parse(s).unwrap();
    for (a, b, overlap) in [
        ("/ws/{a}", "/ws/native", true),
        ("/ws/{a}", "/ws/{b}", true),
        ("/{a}/x", "/ws/{b}", true),
        ("/ws/a", "/ws/b", false),
        ("/ws", "/ws/{b}", false),
        ("/{a}/x", "/{b}/y", false),
        ("/", "/", true),
        ("/", "/ws", false),
        ("/ws", "/ws/", false),
        ("/ws/", "/ws/{a}", false),
        ("/ws/{a}/", "/ws/{a}", false),
        ("/", "/{a}", false),
        ("/{a:[0-9]+}", "/{b:[a-z]+}", false),
        ("/{a:[0-9]+}", "/{b:[0a]+}", true),
        ("/{a:[0-9]+}", "/{b}", true),
        ("/{a:[0-9]+}", "/native", false),
        ("/{a:[a-z]+}", "/native", true),
    ] {
        assert_eq!(t(a).overlaps(&t(b)), overlap, "{a} {b}");
        assert_eq!(t(b).overlaps(&t(a)), overlap, "{b} {a}");
    }
}

proptest! {
    #[test]
    fn any_path_is_matched_without_panic(path in ".*") {
        let _ = router(&["/ws/{a}", "/{b}"]).find(&path);
        let _ = PathTemplate::parse(&path);
    }

    #[test]
    fn accepted_values_are_legal_in_channels(part in "[ -~]{0,40}") {
        if let Matched::Route(_, values) = router(&["/ws/{a}"]).find(&format!("/ws/{part}")) {
            prop_assert!(check_channel(values.get("a").unwrap()).is_ok());
        }
    }
}
