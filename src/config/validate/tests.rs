//! `[[tests]]`

use std::ops::Range;

use super::{Problems, RouteInput, deprecation, required, unknown};
use crate::config::expected::{Expected, Publish, Test};
use crate::config::scalars::At;
use crate::config::{Config, raw};
use crate::legacy::close::CloseReason;
use crate::legacy::error::ErrorCode;
use crate::net::destination::Destination;
use crate::server::refusal::Refusal;

/// Most tests of a file.
const TESTS_MAX: usize = 1000;

/// The file's tests.
pub(in crate::config) fn tests(
    problems: &mut Problems<'_>,
    raw: Option<&Vec<At<raw::Test>>>,
    config: &Config,
) -> Vec<Test> {
    let mut tests: Vec<Test> = Vec::new();
    for raw in raw.into_iter().flatten() {
        if tests.len() == TESTS_MAX {
            problems.at(raw.span(), format!("a file has at most {TESTS_MAX} tests"));
            break;
        }
        let Some(test) = test(problems, raw, config) else { continue };
        if let (Some(other), Some(name)) =
            (tests.iter().find(|other| other.name == test.name), &raw.get().name)
        {
            problems.at(name.span(), format!("the test on line {} has this name too", other.line));
        }
        tests.push(test);
    }
    tests
}

/// What is to be said of each route that no test asks: where its name is, and what.
pub(in crate::config) fn untested(
    inputs: &[RouteInput],
    config: &Config,
    tests: &[Test],
) -> Vec<(Range<usize>, String, Option<String>)> {
    let asked: Vec<&str> =
        tests.iter().filter_map(|test| config.route_of(test.path())).map(|route| &**route.name).collect();
    let names = inputs.iter().filter_map(|input| input.route.name.as_ref());
    let untested = names.filter(|name| !asked.contains(&name.get().as_str()));
    let warning = |name: &At<String>| {
        let help = "a `[[tests]]` with a `url` that leads to it";
        (name.span(), format!("no test asks the route `{}`", name.get()), Some(help.to_owned()))
    };
    untested.map(warning).collect()
}

fn test(problems: &mut Problems<'_>, at: &At<raw::Test>, config: &Config) -> Option<Test> {
    let (raw, whole) = (at.get(), at.span());
    let text = |problems: &mut Problems<'_>, raw: &Option<At<String>>| {
        problems.text(raw.as_ref()).map(|text| text.get().clone())
    };
    let name = required(problems, raw.name.as_ref(), whole.clone(), "name");
    let url = required(problems, raw.url.as_ref(), whole.clone(), "url");
    if let Some(url) = url.filter(|url| !is_url(url.get())) {
        problems.with_help(
            url.span(),
            "this is neither a path nor the URL of a WebSocket",
            "as `/ws/content/c1?token=x`, or `ws://example.com/ws`",
        );
    }
    let claims = raw.claims.as_ref().and_then(|claims| match serde_json::to_string(claims.get()) {
        Ok(json) => Some(json),
        Err(_) => {
            problems.at(claims.span(), "claims are what JSON can hold");
            None
        }
    });
    if let Some(claims) = raw.claims.as_ref().filter(|_| config.auth.is_none()) {
        problems.at(claims.span(), "there is no [auth] to judge a token by");
    }
    let event = raw.event.as_ref().and_then(|event| {
        let name = required(problems, event.get().name.as_ref(), event.span(), "name")?.get().clone();
        let data = event.get().data.as_ref().map_or_else(|| "{}".to_owned(), |data| data.get().clone());
        Some((name, data))
    });
    if let (Some(event), Some(_)) = (&raw.event, &raw.message) {
        problems.with_help(
            event.span(),
            "a test looks at a message or at an event, and this has both",
            "what the client sends before is `send`",
        );
    }
    let expected = expected(problems, raw);
    let (route, channel) = (text(problems, &raw.route), text(problems, &raw.channel));
    if let Some(name) = raw.route.as_ref().filter(|name| is_unknown(name.get(), config)) {
        let known: Vec<&str> = config.entrances().map(|route| &**route.name).collect();
        unknown(problems, name.span(), format!("there is no route `{}`", name.get()), name.get(), &known);
    }
    if expected.is_none() && raw.route.is_none() && raw.channel.is_none() && raw.nothing.is_none() {
        problems.with_help(
            whole.clone(),
            "this test expects nothing, so nothing can be wrong",
            "one of `frame`, `publish`, `refusal`, `tunnel` and `nothing`, or `route`, or `channel`",
        );
    }
    Some(Test {
        name: name?.get().clone(),
        line: problems.line(&whole),
        url: url?.get().clone(),
        claims,
        origin: text(problems, &raw.origin),
        at: deprecation::date(problems, raw.at.as_ref()),
        send: raw.send.iter().flatten().map(|message| message.get().clone()).collect(),
        message: raw.message.as_ref().map(|message| message.get().clone()),
        event,
        route,
        channel,
        expected,
    })
}

fn is_unknown(name: &str, config: &Config) -> bool {
    !config.entrances().any(|route| **route.name == *name) && !config.off.iter().any(|off| off.name == name)
}

fn is_url(text: &str) -> bool {
    let schemes = ["ws://", "wss://", "http://", "https://"];
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    let begins = text.starts_with('/') || rest.is_some_and(|rest| !rest.is_empty());
    begins && text.bytes().all(|b| b.is_ascii_graphic())
}

fn expected(problems: &mut Problems<'_>, raw: &raw::Test) -> Option<Expected> {
    let nothing = problems.flag(raw.nothing.as_ref(), false);
    let nothing = raw.nothing.as_ref().filter(|_| nothing);
    if let Some(nothing) = nothing.filter(|_| raw.message.is_none() && raw.event.is_none()) {
        problems.at(nothing.span(), "`nothing` is said of a `message` or of an `event`");
    }
    if let Some(publish) = raw.publish.as_ref().filter(|_| raw.message.is_none()) {
        problems.at(publish.span(), "`publish` is what a `message` becomes, and there is none");
    }
    let given = [
        raw.frame.as_ref().map(|frame| (frame.span(), Expected::Frame(frame.get().clone()))),
        raw.publish.as_ref().map(|publish| (publish.span(), Expected::Publish(published(problems, publish)))),
        raw.refusal.as_ref().map(|refusal| (refusal.span(), Expected::Refusal(refusal.get().clone()))),
        raw.tunnel.as_ref().map(|to| (to.span(), Expected::Tunnel(to.get().clone()))),
        nothing.map(|nothing| (nothing.span(), Expected::Nothing)),
    ];
    problems.text(raw.frame.as_ref());
    if let Some(to) = problems.text(raw.tunnel.as_ref())
        && let Err(why) = Destination::parse(to.get())
    {
        problems.at(to.span(), why);
    }
    if let Some(refusal) = &raw.refusal {
        known_refusal(problems, refusal);
    }
    let mut given = given.into_iter().flatten();
    let first = given.next();
    if let Some((span, _)) = given.next() {
        problems.at(span, "a test expects one of `frame`, `publish`, `refusal`, `tunnel` and `nothing`");
    }
    first.map(|(_, expected)| expected)
}

fn published(problems: &mut Problems<'_>, at: &At<raw::TestPublish>) -> Publish {
    let raw::TestPublish { channel, event, data, post, body } = at.get();
    let text = |key: &Option<At<String>>| key.as_ref().map(|text| text.get().clone());
    let publish = Publish {
        channel: text(channel),
        event: text(event),
        data: text(data),
        post: text(post),
        body: text(body),
    };
    if publish == Publish::default() {
        problems.at(at.span(), "one of `channel`, `event` and `data`, or of `post` and `body`, is needed");
    }
    let posted = post.as_ref().or(body.as_ref());
    if let Some(posted) = posted.filter(|_| channel.is_some() || event.is_some() || data.is_some()) {
        problems.at(posted.span(), "a message becomes an event, or is posted to a backend");
    }
    publish
}

/// The reasons that metrics have, and the codes that clients are told.
fn known_refusal(problems: &mut Problems<'_>, refusal: &At<String>) {
    let reasons = Refusal::ALL.iter().map(|refusal| refusal.label());
    let closes = CloseReason::ALL.iter().map(|reason| reason.label());
    let codes = ErrorCode::ALL.iter().map(|code| code.as_str());
    let known: Vec<&str> = reasons.chain(closes).chain(codes).collect();
    if !known.contains(&refusal.get().as_str()) {
        let message = format!("`{}` is neither a reason nor a code", refusal.get());
        unknown(problems, refusal.span(), message, refusal.get(), &known);
    }
}
