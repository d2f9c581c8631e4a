//! Pure: what a simulated client does, step by step. A file of it is read by `config`.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use crate::auth::{completed_claims, mint_hs256};
use crate::clock::Now;
use crate::template::{TemplateError, closest};

/// What each client does.
#[derive(Debug)]
pub struct Script {
    /// Where it connects, instead of the URL's path.
    pub path: Option<Text>,
    pub token: Option<Token>,
    /// What it answers at any time: to a frame like this, this.
    pub answers: Vec<(Pattern, Text)>,
    /// Whether it comes again when its connection is lost.
    pub reconnect: Option<Reconnect>,
    pub steps: Vec<Step>,
}

/// One thing after the other.
#[derive(Debug)]
pub enum Step {
    Send(Text),
    /// From now on, until the connection ends.
    Every(Text, Duration),
    /// For a frame like this, no longer than that.
    Wait(Pattern, Duration),
    Pause(Duration),
    /// And the script begins anew after this time, if any.
    Close(u16, Option<Duration>),
}

/// What a client authenticates with.
#[derive(Debug)]
pub enum Token {
    /// The same for all.
    Given(SecretString),
    /// Each has its own, an HS256 token of these claims.
    Minted { secret: SecretString, claims: Text, expires: Duration },
}

/// How long a client stays away: each time in a row twice as long as before.
#[derive(Clone, Copy, Debug)]
pub struct Reconnect {
    pub first: Duration,
    pub max: Duration,
    /// In a row, before it gives up.
    pub times: u32,
}

impl Reconnect {
    /// After the `attempt`th loss in a row, from 0; `None`: it gives up.
    #[must_use]
    pub fn delay(&self, attempt: u32) -> Option<Duration> {
        let grown = self.first.saturating_mul(2_u32.saturating_pow(attempt)).min(self.max);
        (attempt < self.times).then_some(grown)
    }
}

/// Text with placeholders. A brace that begins none stands for itself, as JSON needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Plain(String),
    Slot(Slot),
}

/// A placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The client's number, from 0.
    Number,
    Token,
    /// How many messages with this or with the mark the client has sent, this one with them.
    Sequence,
    /// Client, sequence and time, which others of these clients find in whatever becomes of the message.
    Mark,
    /// RFC 3339.
    Now,
    UnixMs,
}

impl Slot {
    const ALL: [(&'static str, Self); 6] = [
        ("n", Self::Number),
        ("token", Self::Token),
        ("seq", Self::Sequence),
        ("mark", Self::Mark),
        ("now", Self::Now),
        ("unix_ms", Self::UnixMs),
    ];

    const fn is_numbered(self) -> bool {
        matches!(self, Self::Sequence | Self::Mark)
    }
}

/// What placeholders become.
#[derive(Clone, Copy, Debug)]
pub struct Values<'v> {
    pub number: u32,
    pub token: &'v str,
    pub sequence: u32,
    /// Nanoseconds since the swarm began.
    pub since: u64,
    pub now: Now,
}

impl Text {
    /// A text of the file, with those of the placeholders that make sense there.
    ///
    /// # Errors
    /// It has another placeholder.
    pub fn parse(source: &str, allowed: &[Slot]) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let (mut plain, mut at) = (String::new(), 0);
        while let Some(rest) = source.get(at..).filter(|rest| !rest.is_empty()) {
            let next = rest.find('{').unwrap_or(rest.len());
            let (before, behind) = rest.split_at(next);
            plain.push_str(before);
            at += next;
            let Some(name) = named(behind) else {
                let brace = if behind.is_empty() { "" } else { "{" };
                plain.push_str(brace);
                at += brace.len();
                continue;
            };
            let known = || Slot::ALL.iter().filter(|(_, slot)| allowed.contains(slot));
            let Some((_, slot)) = known().find(|(known, _)| *known == name) else {
                let names: Vec<String> = known().map(|(name, _)| format!("{{{name}}}")).collect();
                return Err(TemplateError {
                    at,
                    message: format!("there is no placeholder {{{name}}} here, but {}", names.join(", ")),
                    suggestion: closest(name, known().map(|(name, _)| *name))
                        .map(|name| format!("{{{name}}}")),
                });
            };
            if !plain.is_empty() {
                parts.push(Part::Plain(std::mem::take(&mut plain)));
            }
            parts.push(Part::Slot(*slot));
            at += name.len() + 2;
        }
        if !plain.is_empty() {
            parts.push(Part::Plain(plain));
        }
        Ok(Self(parts))
    }

    /// All placeholders.
    pub const ANY: [Slot; 6] =
        [Slot::Number, Slot::Token, Slot::Sequence, Slot::Mark, Slot::Now, Slot::UnixMs];

    /// Whether each that is sent has a number of its own.
    #[must_use]
    pub fn is_numbered(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Slot(slot) if slot.is_numbered()))
    }

    /// The text itself.
    #[must_use]
    pub fn fill(&self, values: &Values<'_>) -> String {
        let one = |part: &Part| match part {
            Part::Plain(text) => text.clone(),
            Part::Slot(Slot::Number) => values.number.to_string(),
            Part::Slot(Slot::Token) => values.token.to_owned(),
            Part::Slot(Slot::Sequence) => values.sequence.to_string(),
            Part::Slot(Slot::Mark) => {
                let mark = Mark { client: values.number, sequence: values.sequence, since: values.since };
                mark.to_string()
            }
            Part::Slot(Slot::Now) => values.now.rfc3339(),
            Part::Slot(Slot::UnixMs) => values.now.unix_ms.to_string(),
        };
        self.0.iter().map(one).collect()
    }
}

/// The name of the placeholder that this begins with: a lower-case word in braces. JSON has no such thing.
fn named(text: &str) -> Option<&str> {
    let (name, _) = text.strip_prefix('{')?.split_once('}')?;
    (!name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')).then_some(name)
}

impl Token {
    /// The token of one client.
    #[must_use]
    pub fn of(&self, number: u32, now: Now) -> String {
        match self {
            Self::Given(token) => token.expose_secret().to_owned(),
            Self::Minted { secret, claims, expires } => {
                let values = Values { number, token: "", sequence: 0, since: 0, now };
                let expires = i64::try_from(expires.as_secs()).unwrap_or(i64::MAX);
                let at = now.unix_seconds().saturating_add(expires);
                let claims = completed_claims(&claims.fill(&values), at, None, None);
                mint_hs256(secret.expose_secret().as_bytes(), &claims)
            }
        }
    }
}

/// What a numbered message carries, to be found in any frame that it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub client: u32,
    pub sequence: u32,
    /// When it was sent, nanoseconds since the swarm began.
    pub since: u64,
}

/// Around a mark.
const MARK: &[u8] = b"@@";
/// Longest text of a mark.
const MARK_BYTES_MAX: usize = 44;

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "@@{}.{}.{}@@", self.client, self.sequence, self.since)
    }
}

impl Mark {
    /// The first mark in a frame.
    #[must_use]
    pub fn find(frame: &[u8]) -> Option<Self> {
        let start = frame.windows(MARK.len()).position(|bytes| bytes == MARK)? + MARK.len();
        let rest = frame.get(start..)?;
        let end = rest.windows(MARK.len()).take(MARK_BYTES_MAX).position(|bytes| bytes == MARK)?;
        let mut numbers = std::str::from_utf8(rest.get(..end)?).ok()?.split('.');
        let mut next = || numbers.next();
        let mark = Self {
            client: next()?.parse().ok()?,
            sequence: next()?.parse().ok()?,
            since: next()?.parse().ok()?,
        };
        next().is_none().then_some(mark)
    }
}

/// What a frame must have: all these members, with these values; others do not matter.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern(Value);

impl Pattern {
    /// A pattern written as JSON; `None`: it is not an object.
    #[must_use]
    pub fn parse(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok().filter(Value::is_object).map(Self)
    }

    /// Whether a frame is like this.
    #[must_use]
    pub fn fits(&self, frame: &Value) -> bool {
        has(frame, &self.0)
    }
}

fn has(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Object(value), Value::Object(wanted)) => {
            wanted.iter().all(|(name, wanted)| value.get(name).is_some_and(|value| has(value, wanted)))
        }
        _ => value == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;

    fn text(source: &str) -> Text {
        Text::parse(source, &Text::ANY).unwrap()
    }

    #[test]
    fn placeholders_are_filled_and_other_braces_stay() {
        let values = Values { number: 7, token: "t.t", sequence: 3, since: 9, now: now() };
        for (source, filled) in [
            ("", ""),
            ("{n}", "7"),
            (r#"{"a":{"n":{n},"b":{}}}"#, r#"{"a":{"n":7,"b":{}}}"#),
            (r#"{"token":"Bearer {token}","s":{seq}}{"#, r#"{"token":"Bearer t.t","s":3}{"#),
            ("{mark}|{now}|{unix_ms}", "@@7.3.9@@|2025-01-21T10:01:00Z|1737453660000"),
            ("{N} {n x} {{n}}", "{N} {n x} {7}"),
        ] {
            assert_eq!(text(source).fill(&values), filled);
        }
        assert!(
            text("{seq}").is_numbered()
                && text("a {mark}").is_numbered()
                && !text("{n}{token}").is_numbered()
        );
    }

    #[test]
    fn an_unknown_placeholder_is_an_error_with_its_place() {
        let error = Text::parse("ab{tokn}", &Text::ANY).unwrap_err();
        assert_eq!((error.at, error.suggestion.as_deref()), (2, Some("{token}")));
        let error = Text::parse("/ws/{token}", &[Slot::Number]).unwrap_err();
        assert_eq!(error.message, "there is no placeholder {token} here, but {n}");
    }

    #[test]
    fn a_mark_is_found_in_whatever_it_became() {
        let mark = Mark { client: u32::MAX, sequence: 5, since: u64::MAX };
        for frame in [format!("{mark}"), format!(r#"{{"d":"{{\"m\":\"{mark}\"}}","x":"@@1.1.1@@"}}"#)] {
            assert_eq!(Mark::find(frame.as_bytes()), Some(mark));
        }
        for none in
            ["", "@@", "@@1.2@@", "@@1.2.3.4@@", "@@1.2.3@", "@@a.b.c@@", &format!("@@{}@@", "1".repeat(60))]
        {
            assert_eq!(Mark::find(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn a_pattern_asks_for_what_it_has_and_no_more() {
        let frame = serde_json::json!({"type": "a", "data": {"ok": true, "n": 1.5}, "more": []});
        for (pattern, fits) in [
            ("{}", true),
            (r#"{"type":"a"}"#, true),
            (r#"{"type":"a","data":{"ok":true}}"#, true),
            (r#"{"more":[]}"#, true),
            (r#"{"type":"b"}"#, false),
            (r#"{"data":{"ok":true,"x":1}}"#, false),
            (r#"{"data":true}"#, false),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().fits(&frame), fits, "{pattern}");
        }
        assert!(Pattern::parse("[]").is_none() && Pattern::parse("auth").is_none());
    }

    #[test]
    fn clients_stay_away_twice_as_long_each_time() {
        let reconnect = Reconnect { first: Duration::from_secs(1), max: Duration::from_secs(5), times: 5 };
        let delays: Vec<_> =
            (0..6).map(|attempt| reconnect.delay(attempt).map(|delay| delay.as_secs())).collect();
        assert_eq!(delays, [Some(1), Some(2), Some(4), Some(5), Some(5), None]);
        assert_eq!(Reconnect { times: u32::MAX, ..reconnect }.delay(500), Some(reconnect.max));
    }

    #[test]
    fn each_client_has_a_token_of_its_own() {
        let token = Token::Minted {
            secret: "secret".into(),
            claims: text(r#"{"sub":"u{n}"}"#),
            expires: Duration::from_secs(60),
        };
        let expected = mint_hs256(b"secret", r#"{"sub":"u4","exp":1737453720}"#);
        assert_eq!(token.of(4, now()), expected);
        assert!(!format!("{token:?}").contains("secret\""), "{token:?}");
        assert_eq!(Token::Given("x".into()).of(4, now()), "x");
    }
}
