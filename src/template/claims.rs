//! A JSON text with placeholders for what a token says.

use super::frame::{ends_in_string, escape_into};
use super::{Piece, TemplateError, pieces};
use crate::json;

/// What a placeholder of a [`ClaimsText`] means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Var {
    /// `{auth.user}`: the user's id.
    User,
    /// `{claim.a.b}`: a claim, or the path to a member of one.
    Claim(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// In place of a JSON value.
    Value(Var),
    InString(Var),
}

/// A JSON text with `{claim.NAME}` and `{auth.user}`. Outside of a string a claim is put in as it was signed, and one that
/// is not there is null; inside of one it is the text of a string or a number, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimsText {
    source: String,
    parts: Vec<Part>,
}

impl ClaimsText {
    /// Parses a JSON template.
    ///
    /// # Errors
    /// An unknown placeholder, or text that is not JSON once the placeholders are filled.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let (mut parts, mut sample, mut in_string) = (Vec::new(), String::new(), false);
        for piece in pieces(source, true)? {
            match piece {
                Piece::Literal(text) => {
                    in_string = ends_in_string(text, in_string);
                    sample.push_str(text);
                    parts.push(Part::Literal(text.to_owned()));
                }
                Piece::Name { at, name } => {
                    let var = var(at, name)?;
                    sample.push_str(if in_string { "x" } else { "null" });
                    parts.push(if in_string { Part::InString(var) } else { Part::Value(var) });
                }
            }
        }
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&sample) {
            let message = format!("the template is not JSON once its placeholders are filled: {error}");
            return Err(TemplateError::new(0, message));
        }
        Ok(Self { source: source.to_owned(), parts })
    }

    /// The template as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text for this user; `claim` gives a claim's JSON.
    #[must_use]
    pub fn fill<'c>(&self, user: &str, claim: impl Fn(&str) -> Option<&'c str>) -> String {
        let mut out = String::with_capacity(self.source.len());
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Value(Var::User) => {
                    out.push('"');
                    escape_into(&mut out, user);
                    out.push('"');
                }
                Part::Value(Var::Claim(name)) => out.push_str(claim(name).unwrap_or("null")),
                Part::InString(Var::User) => escape_into(&mut out, user),
                Part::InString(Var::Claim(name)) => {
                    escape_into(&mut out, &claim(name).and_then(json::scalar).unwrap_or_default());
                }
            }
        }
        out
    }
}

fn var(at: usize, name: &str) -> Result<Var, TemplateError> {
    match name.strip_prefix("claim.") {
        _ if name == "auth.user" => Ok(Var::User),
        Some(path) if path.split('.').all(|name| !name.is_empty()) => Ok(Var::Claim(path.to_owned())),
        Some(_) => Err(TemplateError::new(at, "a name beside a `.` of this placeholder is empty")),
        // No suggestion: what stands here may come from a variable that hides it.
        None => Err(TemplateError {
            at,
            message: format!(
                "unknown placeholder `{{{name}}}`: here there are {{claim.NAME}} and {{auth.user}}"
            ),
            suggestion: None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Object;
    use proptest::prelude::*;

    fn fill(template: &str, user: &str, claims: &str) -> String {
        let claims = Object::parse(claims).unwrap();
        ClaimsText::parse(template).unwrap().fill(user, |name| claims.at(name))
    }

    #[test]
    fn claims_keep_their_text_and_what_is_not_there_is_null() {
        let claims = r#"{"name":"A\u00e9","n":1.50,"a":{"b":{"c":[1, 2]}},"x.y":true,"none":null}"#;
        for (template, expected) in [
            (r#"{"name":{claim.name},"role":{claim.role}}"#, r#"{"name":"A\u00e9","role":null}"#),
            ("{claim.a.b.c}", "[1, 2]"),
            (r#"[{claim.n},{claim.x.y},{claim.none},{claim.a.q}]"#, "[1.50,true,null,null]"),
            (
                r#"{"who":{auth.user},"both":"{claim.name} <{claim.n}{claim.q}{claim.a}>"}"#,
                r#"{"who":"u\"1","both":"Aé <1.50>"}"#,
            ),
            ("{}", "{}"),
        ] {
            assert_eq!(fill(template, "u\"1", claims), expected, "{template}");
        }
    }

    #[test]
    fn what_is_no_json_or_no_claim_is_told() {
        for (bad, at, what) in [
            (r#"{"a":{name}}"#, 5, "unknown placeholder `{name}`"),
            (r#"{"a":{claim.a..b}}"#, 5, "is empty"),
            (r#"{"a":{claim.a}"#, 0, "not JSON"),
            ("", 0, "not JSON"),
        ] {
            let error = ClaimsText::parse(bad).unwrap_err();
            assert!(error.at == at && error.message.contains(what), "{bad}: {error:?}");
        }
    }

    proptest! {
        #[test]
        fn it_is_json_whatever_the_claims_say(user in ".*", name in ".*") {
            let claims = serde_json::json!({ "name": name }).to_string();
            let text = fill(r#"{"u":{auth.user},"n":{claim.name},"s":"{auth.user}/{claim.name}"}"#, &user, &claims);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(value, serde_json::json!({ "u": user, "n": name, "s": format!("{user}/{name}") }));
        }
    }
}
