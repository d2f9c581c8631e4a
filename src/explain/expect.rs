//! A file's tests, and how what happens differs from what is expected.

use std::fmt;

use super::answer::{Answer, Effect, Fate, Outcome, Outgoing, Target};
use super::compare::differences;
use super::question::Question;
use super::{Explainer, NotAUrl};
use crate::auth::{accepted, completed_claims};
use crate::clock::Now;
use crate::config::Config;
use crate::config::expected::{Expected, Publish, Test};
use crate::text::printable;

/// How long the token of a test is good, seconds.
const TOKEN_SECONDS: i64 = 3600;
/// What is sent as a token; its claims are known.
const TOKEN: &str = "the-token-of-the-test";

/// What became of a test.
#[derive(Debug, PartialEq, Eq)]
pub enum TestResult {
    Passed,
    /// Its route, of this name, is off.
    Skipped(String),
    Failed(Vec<Difference>),
}

/// Something that is not as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The test's key.
    pub key: &'static str,
    pub expected: String,
    pub found: String,
    /// Where two texts of JSON differ.
    pub places: Vec<String>,
}

impl Difference {
    fn new(key: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        let (expected, found) = (expected.into(), found.into());
        Self { key, places: differences(&expected, &found), expected, found }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, expected, found, places } = self;
        writeln!(f, "  {key}")?;
        writeln!(f, "    expected  {}", printable(expected))?;
        writeln!(f, "    found     {}", printable(found))?;
        places.iter().try_for_each(|place| writeln!(f, "              {}", printable(place)))
    }
}

/// Runs a test, as of `now` unless it says when.
#[must_use]
pub fn run(explainer: &Explainer<'_>, config: &Config, test: &Test, now: Now) -> TestResult {
    let now = test.at.map_or(now, |at| Now { unix_ms: at.saturating_mul(1000), ..now });
    let question = match question(test, now) {
        Ok(question) => question,
        Err(why) => {
            return TestResult::Failed(vec![Difference::new("url", test.url.as_str(), why.to_string())]);
        }
    };
    let answer = explainer.answer(&question, &mut |_| match &config.auth {
        // With a word of the file's, not with a key: which of them has signed it is not what is tested.
        Some(auth) => {
            let claims = test.claims.as_deref().unwrap_or("{}");
            let (key, expires) = (auth.keys.first(), now.unix_seconds() + TOKEN_SECONDS);
            let issuer = key.and_then(|key| key.issuers.first()).map(|issuer| &**issuer);
            let audience = key.and_then(|key| key.audiences.first()).map(String::as_str);
            accepted(auth, &completed_claims(claims, expires, issuer, audience), now)
        }
        None => Err(crate::auth::TokenError::KeysUnavailable),
    });
    if let Target::Off { route, .. } = &answer.target {
        return TestResult::Skipped(route.clone());
    }
    let differences = judge(test, &answer, now);
    if differences.is_empty() { TestResult::Passed } else { TestResult::Failed(differences) }
}

fn question(test: &Test, now: Now) -> Result<Question, NotAUrl> {
    let mut question = Question::of(&test.url, test.origin.as_deref(), now)?;
    question.token = test.claims.is_some().then(|| TOKEN.to_owned());
    question.messages = test.send.iter().chain(&test.message).cloned().collect();
    question.event.clone_from(&test.event);
    Ok(question)
}

/// What is not as the test expects.
fn judge(test: &Test, answer: &Answer, now: Now) -> Vec<Difference> {
    let mut found = Vec::new();
    if let Some(expected) = &test.route {
        let route = match &answer.target {
            Target::Route { name, .. } | Target::Tunnel { name, .. } => name.as_str(),
            _ => "no route",
        };
        if route != expected {
            found.push(Difference::new("route", expected.as_str(), route));
        }
    }
    if let Some(expected) = &test.channel {
        let channels: Vec<&str> = answer.subscriptions.iter().map(|known| known.channel.as_str()).collect();
        if !channels.contains(&expected.as_str()) {
            let shown = if channels.is_empty() { happened(answer) } else { channels.join(", ") };
            found.push(Difference::new("channel", expected.as_str(), shown));
        }
    }
    match &test.expected {
        None => {}
        Some(Expected::Frame(expected)) => found.extend(frame(test, answer, &with_time(expected, now))),
        Some(Expected::Publish(expected)) => found.extend(published(answer, expected, now)),
        Some(Expected::Refusal(expected)) => found.extend(refusal(test, answer, expected)),
        Some(Expected::Tunnel(expected)) => found.extend(tunnel(answer, expected)),
        Some(Expected::Nothing) => found.extend(nothing(test, answer)),
    }
    found
}

fn with_time(text: &str, now: Now) -> String {
    text.replace("{now}", &now.rfc3339())
}

/// What came of what is looked at: of the message, or, without one, of all that the client sent.
fn effects<'a>(test: &Test, answer: &'a Answer) -> Vec<&'a Effect> {
    let asked = usize::from(test.claims.is_some()) + test.send.len() + usize::from(test.message.is_some());
    match (&test.message, answer.steps.last()) {
        // The connection is the first step.
        (Some(_), Some(last)) if answer.steps.len() == asked + 1 => last.effects.iter().collect(),
        (Some(_), _) => Vec::new(),
        (None, _) => answer.effects().collect(),
    }
}

/// The frames of what is looked at.
fn frames<'a>(test: &Test, answer: &'a Answer) -> Vec<&'a str> {
    if test.event.is_none() {
        return effects(test, answer).into_iter().filter_map(Effect::frame).collect();
    }
    let frame = |fate: &'a Fate| match fate {
        Fate::Frame { text } => Some(text.as_str()),
        _ => None,
    };
    answer.event.iter().filter_map(|result| frame(&result.fate)).collect()
}

fn frame(test: &Test, answer: &Answer, expected: &str) -> Option<Difference> {
    let frames = frames(test, answer);
    if frames.iter().any(|frame| differences(expected, frame).is_empty()) {
        return None;
    }
    let found = frames.last().map_or_else(|| happened(answer), |frame| (*frame).to_owned());
    Some(Difference::new("frame", expected, found))
}

fn published(answer: &Answer, expected: &Publish, now: Now) -> Vec<Difference> {
    let published = answer.steps.last().and_then(|step| {
        step.effects.iter().find_map(|effect| match effect {
            Effect::Published(published) => Some(&published.what),
            _ => None,
        })
    });
    let Publish { channel, event, data, post, body } = expected;
    let (data, body) =
        (data.as_ref().map(|data| with_time(data, now)), body.as_ref().map(|body| with_time(body, now)));
    let compared = match published {
        Some(
            Outgoing::Event { channel: on, event: name, data: with, .. }
            | Outgoing::ClientEvent { channel: on, event: name, data: with, .. },
        ) if post.is_none() && body.is_none() => [
            ("publish.channel", channel.as_deref(), on.as_str()),
            ("publish.event", event.as_deref(), name),
            ("publish.data", data.as_deref(), with),
        ],
        Some(Outgoing::Post { url, body: with, .. }) if post.is_some() || body.is_some() => [
            ("publish.post", post.as_deref(), url.as_str()),
            ("publish.body", body.as_deref(), with),
            ("publish", None, ""),
        ],
        other => {
            let what = if post.is_some() || body.is_some() { "a request to a backend" } else { "an event" };
            let found = other.map_or_else(|| happened(answer), sent);
            return vec![Difference::new("publish", what, found)];
        }
    };
    compared
        .into_iter()
        .filter_map(|(key, expected, found)| {
            let expected = expected?;
            // Only data are JSON: a name may look like a number.
            let is_json = matches!(key, "publish.data" | "publish.body");
            let same = if is_json { differences(expected, found).is_empty() } else { expected == found };
            (!same).then(|| Difference::new(key, expected, found))
        })
        .collect()
}

fn refusal(test: &Test, answer: &Answer, expected: &str) -> Option<Difference> {
    let refused = match &answer.outcome {
        Outcome::Refused { reason, .. } => *reason == expected,
        Outcome::ToldByFrame { code } => *code == expected,
        Outcome::Upgraded | Outcome::PassedOn | Outcome::NotAWebSocket => false,
    };
    let told = effects(test, answer).into_iter().any(|effect| match effect {
        Effect::Error { code, .. } => *code == expected,
        Effect::Closed { reason, .. } => *reason == expected,
        _ => false,
    });
    (!refused && !told).then(|| Difference::new("refusal", expected, happened(answer)))
}

/// Whether the old server of this URL is asked.
fn tunnel(answer: &Answer, expected: &str) -> Option<Difference> {
    let found = match (&answer.target, &answer.outcome) {
        (Target::Tunnel { to, .. }, Outcome::PassedOn) => {
            let same = to.trim_end_matches('/') == expected.trim_end_matches('/');
            return (!same).then(|| Difference::new("tunnel", expected, to.as_str()));
        }
        (Target::Route { name, .. }, _) => format!("the route {name}, which Pusher serves"),
        _ => happened(answer),
    };
    Some(Difference::new("tunnel", expected, found))
}

fn nothing(test: &Test, answer: &Answer) -> Option<Difference> {
    let came = if test.event.is_some() {
        frames(test, answer).first().map(|frame| (*frame).to_owned())
    } else {
        effects(test, answer).into_iter().find_map(said)
    };
    // A client that is not there gets nothing, and that is not what is meant.
    let absent = (!answer.is_live).then(|| happened(answer));
    came.or(absent).map(|found| Difference::new("nothing", "nothing", found))
}

/// An effect that somebody notices.
fn said(effect: &Effect) -> Option<String> {
    match effect {
        Effect::Frame { text } | Effect::Echoed { text } => Some(text.clone()),
        Effect::Error { code, text } => Some(format!("{code} {text}")),
        Effect::Closed { reason, code, .. } => {
            Some(format!("a close: {reason}{}", code.map_or_else(String::new, |code| format!(" ({code})"))))
        }
        Effect::Published(published) if published.what == Outgoing::Nothing => None,
        Effect::Published(published) => Some(sent(&published.what)),
        Effect::Token { .. } | Effect::Subscribed(_) | Effect::Unsubscribed { .. } => None,
    }
}

fn sent(what: &Outgoing) -> String {
    match what {
        Outgoing::Event { channel, event, data, .. } => format!("the event {event} on {channel}: {data}"),
        Outgoing::ClientEvent { channel, event, data, .. } => {
            format!("the client event {event} on {channel}: {data}")
        }
        Outgoing::Post { url, body, .. } => format!("POST {} {body}", crate::config::masked_url(url)),
        Outgoing::Nothing => "nothing: a rule drops it".to_owned(),
    }
}

/// In short, what happened instead.
fn happened(answer: &Answer) -> String {
    match &answer.outcome {
        Outcome::Refused { reason, why, .. } => return format!("refused: {why} ({reason})"),
        Outcome::NotAWebSocket => return "answered by HTTP: the path is no route's".to_owned(),
        Outcome::ToldByFrame { code } => return format!("refused by a frame: {code}"),
        Outcome::PassedOn => return "the old server is asked".to_owned(),
        Outcome::Upgraded => {}
    }
    let token = answer.effects().find_map(|effect| match effect {
        Effect::Token { result, why: Some(why) } => Some(format!("the token is {result}: {why}")),
        _ => None,
    });
    if let Some(token) = token.filter(|_| !answer.is_live) {
        return token;
    }
    if let Some(result) = answer.event.last() {
        return match &result.fate {
            Fate::Frame { text } => text.clone(),
            Fate::Dropped => "nothing: a rule drops the event".to_owned(),
            Fate::NotForClient { field, value } => {
                let value = value.as_deref().unwrap_or("missing");
                format!("nothing: the event is for others, its {field} is {value}")
            }
            Fate::PushersOwn => "nothing: events by such names are Pusher's own".to_owned(),
        };
    }
    answer.steps.last().and_then(|step| step.effects.iter().rev().find_map(said)).unwrap_or_else(|| {
        if answer.is_live { "nothing".to_owned() } else { "nothing: the client has no token".to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;
    use crate::config::{Source, load};

    /// Runs these tests behind the shipped file, each shown as `ok`, `skip` or its differences.
    fn results(tests: &str) -> Vec<String> {
        let text =
            format!("{}\n{tests}", include_str!("../../routes.toml").split("[[tests]]").next().unwrap());
        let source = Source { name: "routes.toml".into(), text };
        let loaded = load(&source, &|_| None).unwrap_or_else(|errors| panic!("{}", errors[0]));
        let explainer = Explainer::new(&loaded.config);
        let show = |test: &Test| match run(&explainer, &loaded.config, test, now()) {
            TestResult::Passed => "ok".to_owned(),
            TestResult::Skipped(route) => format!("skip {route}"),
            TestResult::Failed(differences) => {
                let lines: Vec<String> =
                    differences.iter().map(|d| format!("{}: {}", d.key, d.found)).collect();
                lines.join("; ")
            }
        };
        loaded.tests.iter().map(show).collect()
    }

    fn result(test: &str) -> String {
        let mut results = results(&format!("[[tests]]\nname = \"t\"\n{test}"));
        assert_eq!(results.len(), 1);
        results.remove(0)
    }

    const PLUGIN: &str = "url = \"/ws/plugin/p1\"\nclaims = { sub = \"u\", plugin_ids = [\"p1\"] }\n";

    #[test]
    fn what_happens_is_compared_with_what_is_expected() {
        for (test, found) in [
            (
                "event = { name = \"x\", data = \"1.50\" }\nframe = '{ \"data\": 1.50, \"type\": \"x\", \"timestamp\": \"{now}\" }'",
                "ok",
            ),
            (
                "event = { name = \"x\", data = \"1.5\" }\nframe = '{\"type\":\"x\",\"data\":1.50,\"timestamp\":\"{now}\"}'",
                r#"frame: {"type":"x","data":1.5,"timestamp":"2025-01-21T10:01:00Z"}"#,
            ),
            ("event = { name = \"pusher:x\" }\nnothing = true", "ok"),
            (
                "event = { name = \"x\" }\nnothing = true",
                r#"nothing: {"type":"x","data":{},"timestamp":"2025-01-21T10:01:00Z"}"#,
            ),
            (
                "message = '{\"type\":\"run\",\"data\":1}'\npublish = { channel = \"private-plugin-p1\", event = \"client-run\", data = \"1\" }",
                "ok",
            ),
            (
                "message = '{\"type\":\"run\",\"data\":1}'\npublish = { event = \"run\", data = \"1.0\" }",
                "publish.event: client-run; publish.data: 1",
            ),
            (
                "message = '{\"type\":\"run\",\"data\":1}'\npublish = { post = \"http://x\" }",
                "publish: the event client-run on private-plugin-p1: 1",
            ),
            ("message = '{\"type\":\"error\"}'\nrefusal = \"MESSAGE_TYPE_NOT_PUBLISHED\"", "publish"),
            ("message = 'x'\nrefusal = \"INVALID_JSON\"", "ok"),
            ("message = 'x'\nnothing = true", "nothing: INVALID_JSON"),
            ("message = 'x'\npublish = { event = \"x\" }", "publish: INVALID_JSON"),
            ("route = \"plugin\"\nchannel = \"private-plugin-p1\"", "ok"),
            (
                r#"frame = '{"type":"auth_response","data":{"authenticated":true,"user_id":"u","role":null,"permissions":[]}}'"#,
                "ok",
            ),
            (
                "route = \"agent\"\nchannel = \"private-plugin-p2\"",
                "route: plugin; channel: private-plugin-p1",
            ),
        ] {
            let result = result(&format!("{PLUGIN}{test}"));
            match found {
                // `error` is published as `client-error`, which is nobody's name.
                "publish" => {
                    assert!(result.starts_with("refusal: the event client-error"), "{test}: {result}")
                }
                found if found.ends_with("INVALID_JSON") => {
                    assert!(result.starts_with(found), "{test}: {result}")
                }
                found => assert_eq!(result, found, "{test}"),
            }
        }
    }

    #[test]
    fn a_client_that_is_not_let_in_is_told_of() {
        for (test, found) in [
            ("url = \"/ws/content/c\"\nclaims = { sub = \"u\" }\nrefusal = \"MISSING_PERMISSION\"", "ok"),
            ("url = \"/ws/content/c\"\nclaims = { sub = \"u\", exp = 1 }\nrefusal = \"INVALID_TOKEN\"", "ok"),
            ("url = \"/ws/content/c\"\nmessage = '{}'\nrefusal = \"WEBSOCKET_AUTH_REQUIRED\"", "ok"),
            (
                "url = \"/ws/content/c\"\nevent = { name = \"x\" }\nnothing = true",
                "nothing: nothing: the client has no token",
            ),
            (
                "url = \"/ws/content/c\"\nclaims = { sub = \"u\" }\nchannel = \"content-generation-c\"",
                "channel: the token is missing_permission: the permission `content:generate` is missing: the token has no claim of permissions",
            ),
            ("url = \"/ws/agent-session/status\"\nrefusal = \"excluded_value\"", "ok"),
            (
                "url = \"/ws/agent-session/status\"\nrefusal = \"bad_path\"",
                "refusal: refused: `session_id` in the path has a value that it must not have (excluded_value)",
            ),
            ("url = \"/elsewhere\"\nrefusal = \"unknown_path\"", "ok"),
            (
                "url = \"/pusher/auth\"\nrefusal = \"unknown_path\"",
                "refusal: answered by HTTP: the path is no route's",
            ),
            ("url = \"/ws/secure/x\"\nroute = \"secure\"", "skip secure"),
            (
                "url = \"/ws\"\nsend = ['{\"type\":\"subscribe\",\"channel\":\"files\"}']\nevent = { name = \"x\" }\nframe = '{\"type\":\"event\",\"channel\":\"files\",\"data\":{},\"timestamp\":\"{now}\"}'",
                "ok",
            ),
            (
                "url = \"/ws/agent/a\"\nclaims = { sub = \"u\" }\nat = \"2020-01-01T00:00:00Z\"\nevent = { name = \"x\", data = '{\"agent_id\":\"b\"}' }\nframe = '{}'",
                "frame: nothing: the event is for others, its agent_id is b",
            ),
            ("url = \"/ws/native\"\nmessage = 'as it is'\nframe = 'as it is'", "ok"),
        ] {
            assert_eq!(result(test), found, "{test}");
        }
    }
}
