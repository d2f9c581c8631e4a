//! The script of `simulate`: read by the same means as routes.toml, to the room that plays it.

use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use toml::de::DeTable;

use super::diagnostics::{Diagnostic, Source};
use super::interpolate;
use super::load::{Environment, deserialize_all};
use super::problems::Problems;
use super::quotes::Quotes;
use super::scalars::{At, Number};
use crate::swarm::script::{Pattern, Reconnect, Script, Slot, Step, Text, Token};

/// Most steps, and most answers, of a script.
const STEPS_MAX: usize = 1_000;
/// How long a frame is waited for.
const WITHIN: Duration = Duration::from_secs(10);
/// How long a token is good.
const EXPIRES: Duration = Duration::from_secs(24 * 3_600);
/// The shortest interval of what is sent again and again.
const EVERY_MIN: Duration = Duration::from_millis(1);
/// How old clients answer a heartbeat.
const PING: (&str, &str) = (r#"{"type":"ping"}"#, r#"{"type":"pong","timestamp":"{now}"}"#);
/// Codes that a client may close with, RFC 6455 §7.4.
const CLOSE_CODES: std::ops::RangeInclusive<i64> = 1000..=4999;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScript {
    path: Option<At<String>>,
    token: Option<At<RawToken>>,
    answers: Option<Vec<At<RawAnswer>>>,
    reconnect: Option<RawReconnect>,
    steps: Option<At<Vec<At<RawStep>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawToken {
    text: Option<At<String>>,
    secret: Option<At<String>>,
    secret_file: Option<At<String>>,
    claims: Option<At<String>>,
    expires: Option<At<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAnswer {
    to: At<String>,
    send: At<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReconnect {
    first: Option<At<String>>,
    max: Option<At<String>>,
    times: Option<At<Number>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    send: Option<At<String>>,
    every: Option<At<String>>,
    wait: Option<At<String>>,
    within: Option<At<String>>,
    pause: Option<At<String>>,
    close: Option<At<Number>>,
    again: Option<At<String>>,
}

/// Loads a script. Reads the file that `token.secret_file` names, and nothing else.
///
/// # Errors
/// Everything that is wrong with it, in its order.
pub fn load_script(source: &Source, env: Environment<'_>) -> Result<Script, Vec<Diagnostic>> {
    let mut tree = DeTable::parse(&source.text).map_err(|error| {
        vec![Diagnostic::new(source, error.span().unwrap_or(0..0), error.message().to_owned(), None)]
    })?;
    let outcome = interpolate::table(tree.get_mut(), env);
    let secrets = super::secrets::spans(tree.get_ref(), &source.text);
    let quotes = Quotes::of(tree.get_ref(), outcome.taken);
    let mut problems = Problems::new(source, Vec::new(), secrets, quotes);
    for (span, message) in outcome.errors {
        problems.at(span, message);
    }
    for (name, _, span) in outcome.missing {
        problems.with_help(
            span,
            format!("the variable `{name}` is not set"),
            "a default is `${NAME:-default}`",
        );
    }
    let raw = deserialize_all::<RawScript>(tree.into_inner(), &[], &mut problems);
    let script = raw.map(|raw| script(&raw, &mut problems));
    match script {
        Some(script) if problems.is_empty() => Ok(script),
        _ => Err(problems.into_diagnostics()),
    }
}

fn script(raw: &RawScript, problems: &mut Problems<'_>) -> Script {
    let path = problems.text(raw.path.as_ref()).and_then(|path| {
        if !path.get().starts_with('/') {
            problems.at(path.span(), "a path begins with `/`");
        }
        text(path, &[Slot::Number], problems)
    });
    let token = raw.token.as_ref().and_then(|raw| token(raw, problems));
    let answers = match &raw.answers {
        None => Pattern::parse(PING.0).zip(Text::parse(PING.1, &Text::ANY).ok()).into_iter().collect(),
        Some(all) => all
            .iter()
            .take(STEPS_MAX)
            .filter_map(|raw| {
                let to = pattern(&raw.get().to, problems);
                to.zip(message(&raw.get().send, token.is_some(), problems))
            })
            .collect(),
    };
    let reconnect = raw.reconnect.as_ref().map(|raw| {
        let first = problems.duration(raw.first.as_ref(), EVERY_MIN, Duration::from_secs(1));
        let max = problems.duration(raw.max.as_ref(), EVERY_MIN, Duration::from_secs(30).max(first));
        if let Some(at) = raw.max.as_ref().filter(|_| max < first) {
            problems.at(at.span(), "must be at least `first`");
        }
        Reconnect { first, max, times: problems.number(raw.times.as_ref(), 1..=1_000_000, u32::MAX) }
    });
    let steps = steps(raw, token.is_some(), problems);
    Script { path, token, answers, reconnect, steps }
}

fn steps(raw: &RawScript, has_token: bool, problems: &mut Problems<'_>) -> Vec<Step> {
    let Some(all) = raw.steps.as_ref().filter(|steps| !steps.get().is_empty()) else {
        problems.with_help(0..0, "the script has no steps", "each begins with `[[steps]]`");
        return Vec::new();
    };
    if let Some(one) = all.get().get(STEPS_MAX) {
        problems.at(one.span(), format!("a script has at most {STEPS_MAX} steps"));
    }
    let mut steps = Vec::new();
    for raw in all.get().iter().take(STEPS_MAX) {
        if let Some(Step::Close(..)) = steps.last() {
            problems.at(raw.span(), "nothing comes after `close`: with `again` the script begins anew");
            break;
        }
        steps.extend(step(raw, has_token, problems));
    }
    steps
}

fn step(at: &At<RawStep>, has_token: bool, problems: &mut Problems<'_>) -> Option<Step> {
    let raw = at.get();
    let belongs =
        |problems: &mut Problems<'_>, key: &str, raw: Option<Range<usize>>, to: &str, there: bool| {
            if let Some(span) = raw.filter(|_| !there) {
                problems.at(span, format!("`{key}` belongs to `{to}`"));
            }
        };
    belongs(problems, "every", raw.every.as_ref().map(At::span), "send", raw.send.is_some());
    belongs(problems, "within", raw.within.as_ref().map(At::span), "wait", raw.wait.is_some());
    belongs(problems, "again", raw.again.as_ref().map(At::span), "close", raw.close.is_some());
    match (&raw.send, &raw.wait, &raw.pause, &raw.close) {
        (Some(send), None, None, None) => {
            let text = message(send, has_token, problems);
            let every = raw.every.as_ref().map(|every| problems.duration(Some(every), EVERY_MIN, EVERY_MIN));
            text.map(|text| match every {
                Some(every) => Step::Every(text, every),
                None => Step::Send(text),
            })
        }
        (None, Some(wait), None, None) => {
            let within = problems.duration(raw.within.as_ref(), EVERY_MIN, WITHIN);
            pattern(wait, problems).map(|pattern| Step::Wait(pattern, within))
        }
        (None, None, Some(pause), None) => {
            Some(Step::Pause(problems.duration(Some(pause), EVERY_MIN, WITHIN)))
        }
        (None, None, None, Some(close)) => {
            let again = raw
                .again
                .as_ref()
                .map(|again| problems.duration(Some(again), Duration::ZERO, Duration::ZERO));
            Some(Step::Close(problems.number(Some(close), CLOSE_CODES, 1000), again))
        }
        _ => {
            problems.at(at.span(), "a step is one of `send`, `wait`, `pause` and `close`");
            None
        }
    }
}

fn token(at: &At<RawToken>, problems: &mut Problems<'_>) -> Option<Token> {
    let raw = at.get();
    let secret = match (&raw.text, &raw.secret, &raw.secret_file) {
        (Some(text), None, None) => {
            for (key, extra) in [("claims", &raw.claims), ("expires", &raw.expires)] {
                if let Some(extra) = extra {
                    problems
                        .at(extra.span(), format!("`{key}` belongs to a token that is made, by a `secret`"));
                }
            }
            return problems.text(Some(text)).map(|text| Token::Given(text.get().clone().into()));
        }
        (None, Some(secret), None) => problems.secret(secret),
        (None, None, Some(file)) => problems.secret_file(file)?,
        _ => {
            problems.with_help(
                at.span(),
                "a token is one of `text`, `secret` and `secret_file`",
                "`text` is a token for all; by a secret each client has its own, of the `claims`",
            );
            return None;
        }
    };
    let expires = problems.duration(raw.expires.as_ref(), Duration::from_secs(1), EXPIRES);
    let Some(at) = &raw.claims else {
        problems.at(at.span(), "a token that is made needs `claims`, a JSON object");
        return None;
    };
    let claims = text(at, &[Slot::Number, Slot::UnixMs], problems)?;
    // As it is for a client: a number stands where a placeholder is.
    if Pattern::parse(&at.get().replace("{n}", "0").replace("{unix_ms}", "0")).is_none() {
        problems.at(at.span(), "the claims must be a JSON object");
        return None;
    }
    Some(Token::Minted { secret, claims, expires })
}

fn message(at: &At<String>, has_token: bool, problems: &mut Problems<'_>) -> Option<Text> {
    let text = text(at, &Text::ANY, problems)?;
    if let Some(place) = at.get().find("{token}").filter(|_| !has_token) {
        let span = problems.inside(at, place);
        problems.with_help(span, "the script has no token", "`[token]` says which");
    }
    Some(text)
}

fn text(at: &At<String>, allowed: &[Slot], problems: &mut Problems<'_>) -> Option<Text> {
    match Text::parse(at.get(), allowed) {
        Ok(text) => Some(text),
        Err(error) => {
            problems.template(at, error);
            None
        }
    }
}

fn pattern(at: &At<String>, problems: &mut Problems<'_>) -> Option<Pattern> {
    let pattern = Pattern::parse(at.get());
    if pattern.is_none() {
        problems.with_help(
            at.span(),
            "what a frame must have is a JSON object",
            "'{\"type\":\"auth_response\"}' is any frame with this type",
        );
    }
    pattern
}

#[cfg(test)]
mod tests;
