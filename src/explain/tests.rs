use proptest::prelude::*;

use super::answer::{CheckResult, Fate, Outgoing, Wanted};
use super::*;
use crate::auth::TokenError;
use crate::auth::tests_support::claims;
use crate::clock::Now;
use crate::clock::tests::now;
use crate::config::{Loaded, Source, load_with_places};

const SHIPPED: &str = include_str!("../../routes.toml");

fn load(text: String) -> (Loaded, Places) {
    let source = Source { name: "routes.toml".into(), text };
    load_with_places(&source, &|_| None).unwrap_or_else(|errors| panic!("{}", errors[0]))
}

/// The shipped routes with `more`, asked as of 2025-01-21; the token `u` is good, and of a user of this name.
fn ask(more: &str, url: &str, change: impl FnOnce(&mut Question)) -> Answer {
    let (loaded, places) = load(format!("{SHIPPED}\n{more}"));
    let mut question = Question::of(url, None, now()).unwrap();
    change(&mut question);
    let explainer = Explainer::new(&loaded.config).with_places(&places);
    explainer.answer(&question, &mut |token| {
        let (user, permissions) = token.split_once(':').unwrap_or((token, "content:generate"));
        let permissions: Vec<&str> = permissions.split_whitespace().collect();
        let expires = now().unix_seconds() + 60;
        match user {
            "bad" | "" => Err(TokenError::BadSignature),
            user => Ok(claims(user, &permissions, expires, r#"{"plugin_ids":["p1","p2"],"name":"Ada"}"#)),
        }
    })
}

/// Verdict, key and whether the file has a line for it, of every check.
fn checks(answer: &Answer) -> Vec<String> {
    let verdict = |check: &answer::Check| match check.verdict {
        CheckResult::Passed => "ok",
        CheckResult::Failed => "no",
        CheckResult::Open => "open",
    };
    answer.checks.iter().map(|check| format!("{} {}", verdict(check), check.key)).collect()
}

fn line(text: &str) -> Option<usize> {
    Some(SHIPPED.lines().position(|line| line == text).unwrap() + 1)
}

#[test]
fn a_route_is_named_with_its_values_channel_and_lines() {
    let answer = ask("", "ws://old.example/ws/plugin/p1?x=1", |q| q.token = Some("u".into()));
    assert_eq!(
        answer.target,
        Target::Route {
            name: "plugin".into(),
            path: "/ws/plugin/{plugin_id}".into(),
            line: answer.checks[0].line.map(|line| line - 3)
        }
    );
    assert_eq!(answer.values, [Value { name: "plugin_id".into(), value: "p1".into() }]);
    assert_eq!(answer.channel.as_deref(), Some("private-plugin-p1"));
    assert_eq!(
        checks(&answer),
        ["ok path", "ok deprecation", "ok auth.keys[0]", "ok channel", "ok auth.owns[0]"]
    );
    assert!(answer.is_live && answer.outcome == Outcome::Upgraded);
    let at = |key: &str| answer.checks.iter().find(|check| check.key == key).unwrap().line;
    assert_eq!(at("path"), line(r#"path = "/ws/plugin/{plugin_id}""#));
    assert_eq!(
        at("auth.owns[0]"),
        line(r#"auth = { owns = [{ claim = "plugin_ids", contains = "{plugin_id}" }] }"#)
    );
    assert_eq!(at("auth.keys[0]"), line("[[auth.keys]]"));
    assert_eq!(at("deprecation"), line("[groups.typed-api.deprecation]"), "it is the group's");
    let limit = |key: &str| answer.limits.iter().find(|limit| limit.key == key).unwrap();
    assert_eq!(limit("limits.messages").line, line(r#"messages = { count = 100, per = "1m", burst = 100 }"#));
    assert_eq!(limit("limits.depth").line, None, "the default");
    let subscribed = &answer.subscriptions[0];
    assert_eq!((subscribed.channel.as_str(), &subscribed.events), ("private-plugin-p1", &Wanted::All));
}

#[test]
fn all_that_fails_is_told_and_what_is_met_first_happens() {
    let answer = ask("", "/ws/plugin/p9", |q| q.token = Some("u".into()));
    assert_eq!(answer.channel.as_deref(), Some("private-plugin-p9"), "also of whom it is kept from");
    assert_eq!(checks(&answer).last().unwrap(), "no auth.owns[0]");
    assert!(!answer.is_live && answer.subscriptions.is_empty());
    assert!(
        matches!(answer.effects().last(), Some(Effect::Error { code: "NOT_OWNER", text }) if text.contains("auth_error"))
    );
    let content = |token: &str| ask("", "/ws/content/c1", |q| q.token = Some(token.into()));
    assert_eq!(checks(&content("u:other"))[2..], ["ok auth.keys[0]", "ok channel", "no auth.permissions[0]"]);
    assert_eq!(
        checks(&content("bad"))[2..],
        ["no auth.required", "open channel", "open auth.permissions[0]"]
    );
    let unasked = ask("", "/ws", |q| q.token = Some("u".into()));
    assert_eq!(checks(&unasked), ["ok path", "open auth.required"], "the token is not what counts");
    let without = ask("", "/ws/content/c1", |q| q.messages.push("{\"type\":\"x\"}".into()));
    assert_eq!(checks(&without)[2..], ["open auth.required", "open channel", "open auth.permissions[0]"]);
    assert!(matches!(without.effects().last(), Some(Effect::Error { code: "WEBSOCKET_AUTH_REQUIRED", .. })));
    let excluded = ask("", "/ws/agent-session/status", |_| {});
    assert_eq!(checks(&excluded)[0], "no exclude");
    assert!(matches!(excluded.outcome, Outcome::Refused { reason: "excluded_value", status: Some(400), .. }));
}

const STRICT: &str = r#"
[[routes]]
name = "strict"
path = "/strict/{id}"
channel = "strict-{id}"
dialect = "typed"
origins = ["https://app.example.com"]
auth = { required = true, permissions = ["a", "b"], also_from = ["query:token"] }
values = { "auth.user" = "[a-z]+" }
exclude = { "auth.user" = ["root"] }
limits = { message_bytes = 256 }
deprecation = { sunset_at = "2026-01-01T00:00:00Z", after_sunset = "refuse" }
events = [{ match = "debug*", drop = true }, { match = "old_*", as = "new_*" }]
[[routes.publish]]
types = ["note"]
post = "http://127.0.0.1:1/{id}"
body = '{"by":{user},"data":{data}}'
[[routes.publish]]
types = ["say"]
"#;

#[test]
fn the_door_is_tried_by_origin_and_date() {
    let by = |origin: &str, at: i64| {
        let mut question = Question::of("/strict/1", Some(origin), now()).unwrap();
        question.now.unix_ms = at * 1000;
        let (loaded, places) = load(format!("{SHIPPED}\n{STRICT}"));
        Explainer::new(&loaded.config)
            .with_places(&places)
            .answer(&question, &mut |_| Err(TokenError::Malformed))
    };
    let (good, bad) = ("https://app.example.com", "https://evil.example");
    assert_eq!(by(good, 1_737_453_660).outcome, Outcome::Upgraded);
    let refused = by(bad, 1_737_453_660);
    assert!(matches!(refused.outcome, Outcome::Refused { reason: "origin", status: Some(403), .. }));
    assert_eq!(checks(&refused)[..3], ["ok path", "ok deprecation", "no origins"]);
    let gone = by(bad, 1_800_000_000);
    assert!(matches!(gone.outcome, Outcome::Refused { reason: "gone", status: Some(410), .. }));
    assert_eq!(checks(&gone)[..3], ["ok path", "no deprecation", "no origins"], "each for itself");
    assert_eq!(gone.deprecation.unwrap().phase, "gone");
}

#[test]
fn a_token_is_found_where_the_route_takes_one() {
    // `e30` is `{}`, the least header of a token.
    let answer = ask(STRICT, "/strict/1?token=e30.a.b", |_| {});
    assert!(
        matches!(&answer.steps[..], [only] if only.sent.is_none() && !only.effects.is_empty()),
        "{answer:?}"
    );
    let header = STRICT.replace("query:token", "header");
    let by_header = |name: &'static str| {
        ask(&header, "/strict/1", |q| _ = q.request.headers.insert(name, "Bearer e30.a.b".parse().unwrap()))
    };
    assert!(matches!(by_header("authorization").effects().next(), Some(Effect::Token { .. })));
    assert!(by_header("x-other").effects().next().is_none());
}

#[test]
fn a_message_goes_where_its_rule_sends_it_and_no_further_than_it_may() {
    // The header of a token, and a name for `ask`.
    let say = |message: &str| {
        ask(STRICT, "/strict/1", |q| {
            q.token = Some("ada:a b".into());
            q.messages.push(message.into());
        })
    };
    let published = |answer: &Answer| {
        answer.effects().find_map(|effect| match effect {
            Effect::Published(published) => Some((**published).clone()),
            _ => None,
        })
    };
    let posted = published(&say(r#"{"type":"note","data":1.50}"#)).unwrap();
    assert_eq!(
        posted.what,
        Outgoing::Post {
            url: "http://127.0.0.1:1/1".into(),
            body: r#"{"by":"ada","data":1.50}"#.into(),
            headers: Vec::new(),
            replies: false
        }
    );
    let said = published(&say(r#"{"type":"say","data":1.50}"#)).unwrap();
    assert_eq!(
        said.what,
        Outgoing::Event {
            channel: "strict-1".into(),
            event: "client-say".into(),
            data: "1.50".into(),
            skip_if_empty: false
        }
    );
    assert_eq!((posted.rule, said.rule), (Some(0), Some(1)));
    assert!(said.line > posted.line && posted.line.is_some());
    assert_eq!(
        said.neighbours_see.as_deref(),
        Some(r#"{"type":"client-say","data":1.50,"timestamp":"2025-01-21T10:01:00Z"}"#)
    );
    for (message, code) in [
        (r#"{"type":"other"}"#, "MESSAGE_TYPE_NOT_PUBLISHED"),
        ("{", "INVALID_JSON"),
        ("[]", "NOT_AN_OBJECT"),
    ] {
        let answer = say(message);
        assert!(
            matches!(answer.effects().last(), Some(Effect::Error { code: told, .. }) if *told == code),
            "{message}"
        );
        assert_eq!(published(&answer), None);
    }
    let large = say(&format!(r#"{{"type":"say","data":"{}"}}"#, "x".repeat(240)));
    assert!(matches!(large.effects().last(), Some(Effect::Closed { code: Some(1009), .. })));
    let echoed = ask("", "/ws/native", |q| q.messages.push("any thing".into()));
    assert_eq!(echoed.effects().last(), Some(&Effect::Echoed { text: "any thing".into() }));
}

#[test]
fn an_event_is_shown_as_its_clients_get_it() {
    let fates = |url: &str, name: &str, data: &str, messages: &[&str]| -> Vec<Fate> {
        let answer = ask(STRICT, url, |q| {
            q.token = Some("ada:a b".into());
            q.messages = messages.iter().map(|&message| message.to_owned()).collect();
            q.event = Some((name.to_owned(), data.to_owned()));
        });
        answer.event.into_iter().map(|result| result.fate).collect()
    };
    let frame = |text: &str| vec![Fate::Frame { text: text.to_owned() }];
    assert_eq!(
        fates("/strict/1", "old_x", "1.50", &[]),
        frame(r#"{"type":"new_x","data":1.50,"timestamp":"2025-01-21T10:01:00Z"}"#)
    );
    assert_eq!(
        fates("/strict/1", "x", "not JSON", &[]),
        frame(r#"{"type":"x","data":"not JSON","timestamp":"2025-01-21T10:01:00Z"}"#)
    );
    assert_eq!(fates("/strict/1", "debug_x", "1", &[]), [Fate::Dropped]);
    assert_eq!(fates("/strict/1", "pusher:x", "1", &[]), [Fate::PushersOwn]);
    let other = |value: Option<&str>| {
        vec![Fate::NotForClient { field: "agent_id".into(), value: value.map(str::to_owned) }]
    };
    assert_eq!(fates("/ws/agent/a1", "x", r#"{"agent_id":"a2"}"#, &[]), other(Some("a2")));
    assert_eq!(fates("/ws/agent/a1", "x", "{}", &[]), other(None));
    assert!(matches!(fates("/ws/agent/a1", "x", r#"{"agent_id":"a1"}"#, &[])[..], [Fate::Frame { .. }]));
    let subscribe = r#"{"type":"subscribe","channel":["files","git"]}"#;
    assert_eq!(fates("/ws", "x", "{}", &[subscribe]).len(), 2);
    assert_eq!(fates("/ws", "x", "{}", &[]), [], "nothing is subscribed");
    let gone = r#"{"type":"unsubscribe","channel":"git"}"#;
    assert_eq!(fates("/ws", "x", "{}", &[subscribe, gone]).len(), 1);
}

#[test]
fn what_is_no_routes_is_told_for_what_it_is() {
    let target = |url: &str| ask("", url, |_| {}).target;
    assert!(matches!(target("/pusher/auth"), Target::Endpoint { what: "channel_auth", line: Some(_) }));
    assert!(matches!(target("/ws/secure/x"), Target::Off { route, .. } if route == "secure"));
    for (asked, nearest) in [("/ws/nativ", "/ws/native"), ("/ws/plugi/p1", "/ws/plugin/{plugin_id}")] {
        assert_eq!(target(asked), Target::Nothing { nearest: Some(nearest.into()) });
    }
    let nothing = ask("", "/elsewhere/entirely", |_| {});
    assert_eq!(nothing.target, Target::Nothing { nearest: None });
    assert!(matches!(nothing.outcome, Outcome::Refused { reason: "unknown_path", status: Some(404), .. }));
    let from = ask("", "/ws", |q| q.address = Some("2001:db8::1:2".parse().unwrap()));
    assert_eq!(from.client.unwrap().counts_as, "2001:db8::");
    assert!(
        ask("", "/ws", |q| q.address = Some("127.0.0.9".parse().unwrap())).client.unwrap().is_trusted_proxy
    );
}

#[test]
fn text_has_no_token_and_nothing_that_a_terminal_obeys() {
    let answer = ask("", "/ws/plugin/p1", |q| {
        q.token = Some("secret-user-token".into());
        q.messages.push("{\"type\":\"run\",\"data\":\"\u{202e}\"}".into());
        q.event = Some(("x\u{1b}".into(), "1".into()));
    });
    let text = text::Text { answer: &answer, file: "routes.toml" }.to_string();
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()) && !text.contains('\u{202e}'), "{text}");
    assert!(text.contains("routes.toml:") && text.contains("private-plugin-p1"), "{text}");
    let sent = |step: &Step| step.sent.as_ref().is_some_and(|sent| sent.contains("secret-user-token"));
    assert!(!answer.steps.iter().any(sent));
    let json = serde_json::to_value(&answer).unwrap();
    assert_eq!(json["target"]["route"]["name"], "plugin");
    assert_eq!(json["checks"][0]["verdict"], "passed");
}

proptest! {
    /// Whatever is asked, it is answered, as text and as JSON.
    #[test]
    fn nothing_that_is_asked_breaks_it(
        path in "/(ws/)?(content|plugin|agent|room|native)?/?[a-zA-Z0-9%._{}\\[\\]?=&-]{0,12}",
        token in prop::option::of("[a-z:. ]{0,8}"),
        messages in prop::collection::vec("[\\PC]{0,20}|\\{\"type\":\"[a-z]{0,9}\",\"channel\":[\\[\"a-z,\\]]{0,9}\\}", 0..4),
        event in prop::option::of(("[\\PC]{0,9}", "[\\PC]{0,20}|\\{\"agent_id\":\"a\"\\}")),
    ) {
        let asked = Question::of(&path, None, now());
        prop_assume!(asked.is_ok());
        let answer = ask(STRICT, &path, |q| {
            q.token = token;
            q.messages = messages;
            q.event = event;
        });
        let text = text::Text { answer: &answer, file: "routes.toml" }.to_string();
        prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        prop_assert!(serde_json::to_string(&answer).is_ok());
    }

    /// A client is in service exactly where nothing that was looked at fails, or is open.
    #[test]
    fn checks_and_the_session_agree(
        user in prop::sample::select(vec!["ada", "root", "Ada", "a-b", "7"]),
        permissions in prop::sample::select(vec!["", "a", "b a", "b", "a b c"]),
        origin in prop::sample::select(vec![None, Some("https://app.example.com"), Some("https://evil.example")]),
        id in prop::sample::select(vec!["1", "x", "a%20b", "private-x"]),
        year in 2024..2028_i64,
        with_token: bool,
        member: bool,
    ) {
        let presence = if member { "presence = \"each_user\"\nshares = [\"room\"]" } else { "" };
        let kind = if member { "presence-s" } else { "s" };
        let more = STRICT.replace("channel = \"strict-{id}\"", &format!("{presence}\nchannel = \"{kind}-{{id}}\""));
        let (loaded, places) = load(format!("{SHIPPED}\n{more}"));
        let at = Now { unix_ms: (year - 1970) * 31_557_600_000, ..now() };
        let mut question = Question::of(&format!("/strict/{id}"), origin, at).unwrap();
        question.token = with_token.then(|| "t".to_owned());
        let permissions: Vec<&str> = permissions.split_whitespace().collect();
        let given = claims(user, &permissions, at.unix_seconds() + 60, "{}");
        let explainer = Explainer::new(&loaded.config).with_places(&places);
        let answer = explainer.answer(&question, &mut |_| Ok(given.clone()));
        let all_passed = answer.checks.iter().all(|check| check.verdict == CheckResult::Passed);
        prop_assert_eq!(answer.is_live, all_passed, "{:?}", answer);
        prop_assert_eq!(answer.is_live, !answer.subscriptions.is_empty());
    }
}

const TUNNELS: &str = r#"
[[routes]]
name = "old"
path = "/old/{id}"
mode = "tunnel"
to = "http://127.0.0.1:8010"
origins = ["https://app.example.com"]
limits = { connections = 9, connections_per_address = 3, message_bytes = 500 }
deprecation = { sunset_at = "2025-01-01T00:00:00Z", after_sunset = "refuse" }
"#;

#[test]
fn a_tunnelled_route_tells_where_to_and_what_is_asked_here() {
    let open = TUNNELS.replace("2025", "2030");
    let answer = ask(&open, "/old/7", |_| {});
    let Target::Tunnel { name, to, line, .. } = &answer.target else { panic!("{:?}", answer.target) };
    assert_eq!((name.as_str(), to.as_str(), line.is_some()), ("old", "http://127.0.0.1:8010", true));
    assert_eq!(answer.outcome, Outcome::PassedOn);
    assert_eq!(checks(&answer), ["ok path", "ok deprecation", "ok origins"]);
    assert_eq!(answer.values, [Value { name: "id".into(), value: "7".into() }]);
    let limits: Vec<&str> = answer.limits.iter().map(|limit| limit.what.as_str()).collect();
    assert_eq!(
        limits,
        ["9 connections", "3 per address", "counted over the route old", "500 bytes a message"]
    );
    assert!(answer.limits.iter().filter(|limit| limit.key != "group").all(|limit| limit.line.is_some()));
    assert_eq!((answer.channel, answer.is_live), (None, false));
    let text = text::Text { answer: &ask(&open, "/old/7", |_| {}), file: "routes.toml" }.to_string();
    for line in ["  tunnel       to http://127.0.0.1:8010, which goes on serving it", "  passed on    "] {
        assert!(text.contains(line), "{text}");
    }
    let origin = |q: &mut Question| q.request.headers.insert("origin", "https://x.example".parse().unwrap());
    let refused = ask(&open, "/old/7", |q| _ = origin(q));
    assert!(matches!(refused.outcome, Outcome::Refused { reason: "origin", status: Some(403), .. }));
    let dots = ask(&open, "/old/%2e%2e", |_| {});
    assert!(matches!(dots.outcome, Outcome::Refused { reason: "bad_path", status: Some(400), .. }));
    let gone = ask(TUNNELS, "/old/7", |_| {});
    assert!(matches!(gone.outcome, Outcome::Refused { reason: "gone", status: Some(410), .. }));
    // A path that is nearly one of its.
    let near = ask(&open, "/olt/7", |_| {});
    assert_eq!(near.target, Target::Nothing { nearest: Some("/old/{id}".into()) });
}

#[test]
fn a_test_can_expect_the_old_server() {
    let test = |url: &str, more: &str| format!("\n[[tests]]\nname = \"asked\"\nurl = \"{url}\"\n{more}\n");
    let open = TUNNELS.replace("2025", "2030");
    for (url, more, found) in [
        ("/old/7", "tunnel = 'http://127.0.0.1:8010'", None),
        ("/old/7", "tunnel = 'http://127.0.0.1:8010/'\nroute = 'old'", None),
        ("/old/7", "route = 'plugin'", Some("old")),
        ("/old/7", "tunnel = 'http://127.0.0.1:8011'", Some("http://127.0.0.1:8010")),
        ("/old/7", "frame = '{}'", Some("the old server is asked")),
        (
            "/old/7",
            "origin = 'https://x.example'\ntunnel = 'http://127.0.0.1:8010'",
            Some("refused: Connections from this origin are not allowed (origin)"),
        ),
        ("/old/7", "origin = 'https://x.example'\nrefusal = 'origin'", None),
        ("/ws/plugin/p1", "tunnel = 'http://127.0.0.1:8010'", Some("plugin, which Pusher serves")),
    ] {
        let (loaded, _) = load(format!("{SHIPPED}\n{open}{}", test(url, more)));
        let test = loaded.tests.last().unwrap();
        let result = expect::run(&Explainer::new(&loaded.config), &loaded.config, test, now());
        match (found, result) {
            (None, expect::TestResult::Passed) => {}
            (Some(found), expect::TestResult::Failed(differences)) => {
                assert!(differences[0].found.contains(found), "{more}: {differences:?}");
            }
            (_, other) => panic!("{more}: {other:?}"),
        }
    }
}
