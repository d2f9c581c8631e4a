//! Collects errors with their places, so that one run reports all of them; and reads plain values.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::diagnostics::{Diagnostic, Place, Source};
use super::quotes::Quotes;
use super::scalars::{At, Flag, Number};
use super::secrets;
use crate::template::TemplateError;

/// Most errors that one run reports.
const PROBLEMS_MAX: usize = 200;
/// Longest duration that any key takes.
const DURATION_MAX: Duration = Duration::from_secs(366 * 86_400);
/// Largest file that a `…_file` key may name.
const FILE_BYTES_MAX: u64 = 1 << 20;

pub(super) struct Problems<'s> {
    source: &'s Source,
    /// Values that stand in for missing variables: what is wrong with them is not the file's fault.
    stand_ins: Vec<Range<usize>>,
    /// Places of the file that must not be shown.
    secrets: Vec<Range<usize>>,
    /// Values that messages must not quote.
    quotes: Quotes,
    found: Vec<Finding>,
    /// What may be meant as it is.
    doubtful: Vec<Finding>,
    /// Those that `…_file` keys name.
    pub(super) files: Vec<PathBuf>,
}

/// A place, what is to be said of it, and what to do about it.
pub(super) type Finding = (Range<usize>, String, Option<String>);

impl<'s> Problems<'s> {
    pub(super) fn new(
        source: &'s Source,
        stand_ins: Vec<Range<usize>>,
        secrets: Vec<Range<usize>>,
        quotes: Quotes,
    ) -> Self {
        Self {
            source,
            stand_ins,
            secrets,
            quotes,
            found: Vec::new(),
            doubtful: Vec::new(),
            files: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether the value at `span` only stands in for a missing variable.
    pub(super) fn stands_in(&self, span: &Range<usize>) -> bool {
        self.stand_ins.iter().any(|s| s.start <= span.start && span.end <= s.end)
    }

    pub(super) fn at(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.push(span, message.into(), None);
    }

    pub(super) fn with_help(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(span, message.into(), Some(help.into()));
    }

    /// Something that works, and may not be what is meant: `check` shows it as a warning.
    pub(super) fn warn(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let finding = self.finding(span, message.into(), Some(help.into()));
        add(&mut self.doubtful, finding);
    }

    fn push(&mut self, span: Range<usize>, message: String, help: Option<String>) {
        if !self.stands_in(&span) {
            let finding = self.finding(span, message, help);
            add(&mut self.found, finding);
        }
    }

    fn finding(&self, span: Range<usize>, message: String, help: Option<String>) -> Finding {
        let message = self.quotes.shown(&span, &message);
        let help = help.map(|help| self.quotes.shown(&span, &help));
        (span, message, help)
    }

    /// An error within a template, at its byte offset `at`.
    pub(super) fn template(&mut self, value: &At<String>, error: TemplateError) {
        let help = error.suggestion.map(|name| format!("did you mean `{name}`?"));
        let span = self.inside(value, error.at);
        self.push(span, error.message, help);
    }

    /// The place of byte `at` of a string: exact where the string is written plainly from its start to there,
    /// or from there to its end; else the whole value.
    pub(super) fn inside(&self, value: &At<String>, at: usize) -> Range<usize> {
        let whole = value.span();
        let Some(start) = self.offset(value, at) else { return whole };
        let behind = self.source.text.get(start..whole.end).unwrap_or("");
        let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
        let placeholder = behind.strip_prefix('{').and_then(|rest| {
            let length = rest.bytes().take_while(|b| named(*b)).count();
            rest.get(length..)?.starts_with('}').then_some(length + 2)
        });
        match placeholder {
            Some(length) => start..start + length,
            // Wrong from its start is wrong as a whole.
            None if at == 0 => whole,
            None => start..start + behind.chars().next().map_or(1, char::len_utf8),
        }
    }

    fn offset(&self, value: &At<String>, at: usize) -> Option<usize> {
        let raw = self.source.text.get(value.span())?;
        let quote = raw.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let inner = raw.strip_prefix(quote)?.strip_suffix(quote)?;
        let (before, behind) = value.get().split_at_checked(at)?;
        let multi_line = inner.starts_with(quote);
        if multi_line || (before.is_empty() && !inner.starts_with(behind)) || behind.is_empty() {
            return None;
        }
        let inner_at = if inner.starts_with(before) {
            at
        } else {
            inner.ends_with(behind).then(|| inner.len().saturating_sub(behind.len()))?
        };
        Some(value.span().start + 1 + inner_at)
    }

    /// The line of a span, from 1.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        Place::of(&self.source.text, span.start).line
    }

    /// Everything that is wrong, in the file's order.
    pub(super) fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.shown(&self.found)
    }

    /// Everything that works and is doubtful, in the file's order.
    pub(super) fn warnings(&self) -> Vec<Diagnostic> {
        self.shown(&self.doubtful)
    }

    /// These, in the file's order.
    pub(super) fn shown(&self, findings: &[Finding]) -> Vec<Diagnostic> {
        let mut findings: Vec<&Finding> = findings.iter().collect();
        findings.sort_by_key(|(span, ..)| span.start);
        let text = secrets::mask(&self.source.text, &self.secrets);
        let shown = Source { name: self.source.name.clone(), text };
        let diagnostic = |(span, message, help): &Finding| {
            Diagnostic::new(&shown, span.clone(), message.clone(), help.clone())
        };
        findings.into_iter().map(diagnostic).collect()
    }

    // ------------------------------------------------------------------------------------ plain values

    /// A whole number within `range`; `default` where there is none or it is wrong.
    pub(super) fn number<T: TryFrom<i64>>(
        &mut self,
        raw: Option<&At<Number>>,
        range: RangeInclusive<i64>,
        default: T,
    ) -> T {
        let Some(raw) = raw else { return default };
        let value = match raw.get() {
            Number::Integer(value) => Some(*value),
            number if number.is_unset() => return default,
            Number::Text(text) => text.trim().parse().ok(),
        };
        match value {
            Some(value) if range.contains(&value) => return T::try_from(value).unwrap_or(default),
            Some(value) if value < *range.start() => {
                self.at(raw.span(), format!("must be at least {}, not {value}", range.start()));
            }
            Some(value) => self.at(raw.span(), format!("must be at most {}, not {value}", range.end())),
            None => self.at(raw.span(), "must be a whole number"),
        }
        default
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, raw: Option<&At<Flag>>, default: bool) -> bool {
        match raw.map(|raw| (raw.get(), raw.span())) {
            None => default,
            Some((Flag::Is(value), _)) => *value,
            Some((Flag::Text(text), span)) => match text.as_str() {
                "true" => true,
                "false" => false,
                "" => default,
                _ => {
                    self.at(span, "must be true or false");
                    default
                }
            },
        }
    }

    /// A duration of at least `least`.
    pub(super) fn duration(
        &mut self,
        raw: Option<&At<String>>,
        least: Duration,
        default: Duration,
    ) -> Duration {
        let Some(raw) = raw else { return default };
        match duration(raw.get()) {
            None => self.with_help(
                raw.span(),
                format!("`{}` is not a valid duration", raw.get()),
                "a whole number and one of ms, s, m, h, d: \"500ms\", \"30s\", \"5m\"",
            ),
            Some(value) if value.is_zero() && !least.is_zero() => {
                self.at(raw.span(), "must be longer than 0")
            }
            Some(value) if value < least => {
                self.at(raw.span(), format!("must be at least {}ms", least.as_millis()));
            }
            Some(value) if value > DURATION_MAX => self.at(raw.span(), "must be at most 366 days"),
            Some(value) => return value,
        }
        default
    }

    /// A duration of at most `most`.
    pub(super) fn duration_up_to(
        &mut self,
        raw: Option<&At<String>>,
        most: Duration,
        default: Duration,
    ) -> Duration {
        let value = self.duration(raw, Duration::ZERO, default);
        if let Some(raw) = raw.filter(|_| value > most) {
            self.at(raw.span(), format!("must be at most {} minutes", most.as_secs() / 60));
        }
        value.min(most)
    }

    /// The text of a key where it is not empty.
    pub(super) fn text<'r>(&mut self, raw: Option<&'r At<String>>) -> Option<&'r At<String>> {
        let raw = raw?;
        if raw.get().is_empty() {
            self.at(raw.span(), "must not be empty");
            return None;
        }
        Some(raw)
    }

    /// `path`, from the folder of this file.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        let folder = std::path::Path::new(&self.source.name).parent();
        folder.map_or_else(|| PathBuf::from(path), |folder| folder.join(path))
    }

    /// A secret in the file or from a variable. White space around it is never intended, and would silently become
    /// part of it.
    pub(super) fn secret(&mut self, raw: &At<String>) -> SecretString {
        if secrets::trimmed(raw.get()) != raw.get() {
            self.with_help(
                raw.span(),
                "the secret has white space around it, which would be part of it",
                "a variable often ends with a newline that its file had; in a `…_file` it does no harm",
            );
        }
        SecretString::from(raw.get().clone())
    }

    /// The secret in the file that a `…_file` key names, without white space around it.
    pub(super) fn secret_file(&mut self, raw: &At<String>) -> Option<SecretString> {
        let text = self.file(raw)?;
        let secret = secrets::trimmed(&text);
        if secret.is_empty() {
            self.at(raw.span(), "the secret in this file is empty");
        }
        Some(SecretString::from(secret.to_owned()))
    }

    /// The text of a file that is read at the start, if it can be read: until then it need not be there.
    pub(super) fn watched(&mut self, path: &std::path::Path) -> Option<std::sync::Arc<str>> {
        self.files.push(path.to_owned());
        read(path).ok().map(Into::into)
    }

    /// The text of the file that a `…_file` key names.
    pub(super) fn file(&mut self, raw: &At<String>) -> Option<String> {
        if self.stands_in(&raw.span()) {
            return None;
        }
        let path = self.resolve(raw.get());
        self.files.push(path.clone());
        match read(&path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.at(raw.span(), format!("cannot read `{}`: {error}", path.display()));
                None
            }
        }
    }
}

/// Adds a finding that is not there yet.
fn add(findings: &mut Vec<Finding>, finding: Finding) {
    let known = findings.iter().any(|(span, message, _)| *span == finding.0 && *message == finding.1);
    if !known && findings.len() < PROBLEMS_MAX {
        findings.push(finding);
    }
}

fn read(path: &std::path::Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a file"));
    }
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// A whole number and a unit.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(86_400),
        _ => None,
    }
}
