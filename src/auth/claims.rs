//! Pure: a token's claims, and the checks on them. Values are compared as JSON text, so no digits are lost.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::{Identity, TokenError};
use crate::auth::settings::{AuthKey, ClaimNames, Settings};
use crate::clock::Now;
use crate::json::{Object, scalar, string};

/// The end of the year 9999. A later `exp` counts as this, so that timers cannot overflow.
const EXPIRES_MAX: i64 = 253_402_300_799;

/// What a verified token says.
#[derive(Clone, PartialEq, Eq)]
pub struct Claims {
    /// The user's id: a string's text, or a number's digits. Not empty.
    pub user: String,
    /// The issuer, where the key that verified the token is bound to issuers; set by the verifier.
    pub issuer: Option<Arc<str>>,
    /// The place among `auth.keys` of the key that verified the token; set by the verifier.
    pub key: usize,
    /// The role, when it is a string or a number.
    pub role: Option<String>,
    pub permissions: Vec<String>,
    /// Whether there is a claim of permissions at all.
    pub names_permissions: bool,
    /// The permissions as a JSON array.
    pub permissions_json: String,
    /// `exp`: seconds since the Unix epoch, rounded down, at most the year 9999.
    pub expires_at_unix: i64,
    json: Box<str>,
}

/// The user, but not the claims: they are the token's content.
impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims")
            .field("user", &self.user)
            .field("expires_at_unix", &self.expires_at_unix)
            .finish_non_exhaustive()
    }
}

impl Claims {
    /// Whom the token speaks for.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { issuer: self.issuer.clone(), subject: self.user.clone() }
    }

    /// The value of any claim, as the JSON text that was signed. See [`Object::at`] for names with dots.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        // `json` was parsed before; a failure would only mean that there is no such claim.
        Object::parse(&self.json).ok()?.at(name)
    }

    /// Reads a verified payload. Nothing is checked but the claims' types.
    ///
    /// # Errors
    /// Not an object, a claim that is needed is missing, or one is of the wrong type.
    pub fn parse(json: String, names: &ClaimNames) -> Result<Self, TokenError> {
        let object = Object::parse(&json).map_err(|_| TokenError::Malformed)?;
        let user = needed(&object, &names.user)?;
        let user = scalar(user).filter(|user| !user.is_empty()).ok_or_else(|| bad(&names.user))?.into_owned();
        let role = present(&object, &names.role).and_then(scalar).map(|role| role.into_owned());
        let given = present(&object, &names.permissions);
        let names_permissions = given.is_some();
        let permissions = match given {
            Some(value) => permissions(value).ok_or_else(|| bad(&names.permissions))?,
            None => Vec::new(),
        };
        let permissions_json = serde_json::to_string(&permissions).map_err(|_| TokenError::Malformed)?;
        let expires_at_unix = numeric_date(needed(&object, "exp")?, f64::floor).ok_or_else(|| bad("exp"))?;
        Ok(Self {
            user,
            issuer: None,
            key: 0,
            role,
            permissions,
            names_permissions,
            permissions_json,
            expires_at_unix,
            json: json.into(),
        })
    }
}

/// What the claims of a token that a key of ours has verified have to say.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) leeway: Duration,
    /// Empty: not checked.
    pub(super) issuers: Vec<Arc<str>>,
    /// Empty: not checked.
    pub(super) audiences: Vec<String>,
}

impl Expected {
    /// What the key of these settings expects.
    pub(super) fn of(key: &AuthKey, leeway: Duration) -> Self {
        Self { leeway, issuers: key.issuers.clone(), audiences: key.audiences.clone() }
    }

    /// Reads and checks the payload of a token that the key has signed.
    pub(super) fn accept(&self, payload: String, names: &ClaimNames, now: Now) -> Result<Claims, TokenError> {
        let mut claims = Claims::parse(payload, names)?;
        claims.issuer = self.check(&claims, now)?;
        Ok(claims)
    }

    /// Checks the time, the issuer and the audience of a verified token. Gives its issuer, where that is checked.
    pub(super) fn check(&self, claims: &Claims, now: Now) -> Result<Option<Arc<str>>, TokenError> {
        let object = Object::parse(&claims.json).map_err(|_| TokenError::Malformed)?;
        let leeway_ms = i64::try_from(self.leeway.as_millis()).unwrap_or(i64::MAX);
        // RFC 7519 §4.1.4: the current time must be before `exp`.
        let ends_ms = claims.expires_at_unix.saturating_mul(1000).saturating_add(leeway_ms);
        if now.unix_ms >= ends_ms {
            return Err(TokenError::Expired);
        }
        if let Some(value) = present(&object, "nbf") {
            let begins = numeric_date(value, f64::ceil).ok_or_else(|| bad("nbf"))?;
            if now.unix_ms.saturating_add(leeway_ms) < begins.saturating_mul(1000) {
                return Err(TokenError::NotYetValid);
            }
        }
        let mut issuer = None;
        if !self.issuers.is_empty() {
            let named = string(needed(&object, "iss")?).ok_or_else(|| bad("iss"))?;
            let known = self.issuers.iter().find(|expected| expected.as_ref() == named.as_ref());
            issuer = Some(known.ok_or(TokenError::WrongIssuer)?.clone());
        }
        if !self.audiences.is_empty() {
            let audiences = audiences(needed(&object, "aud")?).ok_or_else(|| bad("aud"))?;
            if !self.audiences.iter().any(|expected| audiences.contains(expected)) {
                return Err(TokenError::WrongAudience);
            }
        }
        Ok(issuer)
    }
}

/// What a token with these claims, a JSON object, is worth if one of the keys has signed it.
///
/// # Errors
/// What the first key says, if none may speak for it.
pub fn accepted(auth: &Settings, payload: &str, now: Now) -> Result<Claims, TokenError> {
    let mut refused = None;
    for (place, key) in auth.keys.iter().enumerate() {
        match Expected::of(key, auth.leeway).accept(payload.to_owned(), &auth.claims, now) {
            Ok(claims) => return Ok(Claims { key: place, ..claims }),
            Err(why) => refused = refused.or(Some(why)),
        }
    }
    Err(refused.unwrap_or(TokenError::UnknownKey))
}

/// A claim's value; one that is null is not there.
fn present<'a>(object: &Object<'a>, name: &str) -> Option<&'a str> {
    object.at(name).filter(|value| *value != "null")
}

fn needed<'a>(object: &Object<'a>, name: &str) -> Result<&'a str, TokenError> {
    present(object, name).ok_or_else(|| TokenError::MissingClaim(name.into()))
}

fn bad(name: &str) -> TokenError {
    TokenError::BadClaim(name.into())
}

/// An array of strings, or a string of space-separated ones as OAuth's `scope` (RFC 8693 §4.2).
fn permissions(json: &str) -> Option<Vec<String>> {
    match string(json) {
        Some(text) => Some(text.split_whitespace().map(str::to_owned).collect()),
        None => strings(json),
    }
}

/// A string, or an array of strings (RFC 7519 §4.1.3).
fn audiences(json: &str) -> Option<Vec<String>> {
    match string(json) {
        Some(text) => Some(vec![text.into_owned()]),
        None => strings(json),
    }
}

fn strings(json: &str) -> Option<Vec<String>> {
    let list: Vec<&RawValue> = serde_json::from_str(json).ok()?;
    list.iter().map(|item| string(item.get()).map(|text| text.into_owned())).collect()
}

/// Seconds since the Unix epoch (RFC 7519 §2), an integer or not, clamped to ± [`EXPIRES_MAX`].
fn numeric_date(json: &str, round: fn(f64) -> f64) -> Option<i64> {
    if let Ok(seconds) = json.parse::<i64>() {
        return Some(seconds.clamp(-EXPIRES_MAX, EXPIRES_MAX));
    }
    // The first byte tells a JSON number from `inf`, `nan` and whatever else Rust parses.
    if !json.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return None;
    }
    let seconds = round(json.parse::<f64>().ok().filter(|seconds| !seconds.is_nan())?);
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let seconds = seconds.clamp(-EXPIRES_MAX as f64, EXPIRES_MAX as f64) as i64;
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> ClaimNames {
        ClaimNames { user: "user_id".to_owned(), role: "role".to_owned(), permissions: "scope".to_owned() }
    }

    fn parse(json: &str) -> Result<Claims, TokenError> {
        Claims::parse(json.to_owned(), &names())
    }

    #[test]
    fn claims_are_read_by_their_configured_names() {
        let json =
            r#"{"sub":"no","user_id":"u\u0031","role":"admin","scope":["a b","c"],"exp":17.9,"x":[1.50]}"#;
        let claims = parse(json).unwrap();
        assert_eq!(claims.user, "u1");
        assert_eq!(claims.role.as_deref(), Some("admin"));
        assert_eq!(claims.permissions, ["a b", "c"]);
        assert_eq!(claims.permissions_json, r#"["a b","c"]"#);
        assert_eq!(claims.expires_at_unix, 17);
        assert_eq!(claims.get("x"), Some("[1.50]"));
        assert_eq!(claims.get("y"), None);
    }

    #[test]
    fn forms_of_claims() {
        let user = |json: &str| parse(&format!(r#"{{"exp":1,"user_id":{json}}}"#)).map(|c| c.user);
        assert_eq!(user("12345678901234567890").as_deref(), Ok("12345678901234567890"));
        assert_eq!(user(r#""""#), Err(bad("user_id")));
        assert_eq!(user("null"), Err(TokenError::MissingClaim("user_id".into())));
        assert_eq!(user("[1]"), Err(bad("user_id")));
        assert_eq!(user("true"), Err(bad("user_id")));

        let scope = |json: &str| {
            parse(&format!(r#"{{"exp":1,"user_id":1,"scope":{json}}}"#)).map(|c| c.permissions_json)
        };
        assert_eq!(scope(r#"" a  b:c ""#).as_deref(), Ok(r#"["a","b:c"]"#));
        assert_eq!(scope("[]").as_deref(), Ok("[]"));
        assert_eq!(scope("null").as_deref(), Ok("[]"));
        assert_eq!(scope(r#"["a",1]"#), Err(bad("scope")));
        assert_eq!(scope("1"), Err(bad("scope")));

        assert_eq!(parse(r#"{"user_id":1}"#), Err(TokenError::MissingClaim("exp".into())));
        assert_eq!(parse(r#"{"user_id":1,"exp":null}"#), Err(TokenError::MissingClaim("exp".into())));
        assert_eq!(parse("[]"), Err(TokenError::Malformed));
        assert_eq!(parse(""), Err(TokenError::Malformed));
        let twice = parse(r#"{"user_id":"a","user_id":"b","exp":1}"#).unwrap();
        assert_eq!((twice.user.as_str(), twice.get("user_id")), ("b", Some(r#""b""#)), "one rule for both");
    }

    #[test]
    fn dates_are_integers_or_floats_and_never_overflow() {
        for (json, expected) in [
            ("1700000000", Some(1_700_000_000)),
            ("1700000000.75", Some(1_700_000_000)),
            ("1.7e9", Some(1_700_000_000)),
            ("-1", Some(-1)),
            ("-0.5", Some(-1)),
            ("1e300", Some(EXPIRES_MAX)),
            ("1e999", Some(EXPIRES_MAX)),
            ("-1e999", Some(-EXPIRES_MAX)),
            ("9223372036854775807", Some(EXPIRES_MAX)),
            ("99999999999999999999", Some(EXPIRES_MAX)),
            (r#""1700000000""#, None),
            ("true", None),
            ("[1]", None),
        ] {
            let claims = parse(&format!(r#"{{"user_id":1,"exp":{json}}}"#));
            assert_eq!(claims.map(|c| c.expires_at_unix), expected.ok_or(bad("exp")), "{json}");
        }
        assert_eq!(numeric_date("0.1", f64::ceil), Some(1));
    }

    #[test]
    fn a_claim_may_stand_within_others() {
        let nested = ClaimNames {
            user: "https://example.com/ids.user".to_owned(),
            role: "a.b.c".to_owned(),
            permissions: "realm_access.roles".to_owned(),
        };
        let parse = |json: &str| Claims::parse(json.to_owned(), &nested);
        let ids = r#""exp":1,"https://example.com/ids":{"user":"u"}"#;
        let claims = parse(&format!(r#"{{{ids},"realm_access":{{"roles":["r","s"]}}}}"#)).unwrap();
        assert_eq!((claims.user.as_str(), claims.permissions_json.as_str()), ("u", r#"["r","s"]"#));
        assert_eq!(claims.get("realm_access.roles"), Some(r#"["r","s"]"#));
        assert!(claims.role.is_none() && claims.names_permissions);
        let claims =
            parse(&format!(r#"{{{ids},"realm_access.roles":"literal","realm_access":{{"roles":["r"]}}}}"#));
        assert_eq!(claims.unwrap().permissions, ["literal"], "a claim of that very name comes first");
        for (json, role) in [
            (r#""a":{"b":{"c":1}}"#, Some("1")),
            (r#""a.b":{"c":2},"a":{"b":{"c":1}}"#, Some("2")),
            (r#""a":{"b.c":3}"#, Some("3")),
            (r#""a":{"b":[{"c":1}]}"#, None),
            (r#""a":{"b":"c"}"#, None),
            (r#""a":null"#, None),
        ] {
            assert_eq!(parse(&format!("{{{ids},{json}}}")).unwrap().role.as_deref(), role, "{json}");
        }
        for none in ["", r#","realm_access":{}"#, r#","realm_access":{"roles":null}"#] {
            assert!(!parse(&format!("{{{ids}{none}}}")).unwrap().names_permissions, "{none}");
        }
        assert_eq!(
            parse(&format!(r#"{{{ids},"realm_access":{{"roles":7}}}}"#)),
            Err(bad("realm_access.roles"))
        );
    }

    #[test]
    fn debug_shows_no_claims() {
        let claims = parse(r#"{"user_id":"u","exp":1,"email":"SECRET"}"#).unwrap();
        assert!(!format!("{claims:?}").contains("SECRET"));
    }

    #[test]
    fn time_issuer_and_audience_are_checked() {
        let now = Now { mono: Now::read().mono, unix_ms: 1_000_000 };
        let check = |leeway_s: u64, issuers: &[&str], audiences: &[&str], rest: &str| {
            let expected = Expected {
                leeway: Duration::from_secs(leeway_s),
                issuers: issuers.iter().map(|&s| s.into()).collect(),
                audiences: audiences.iter().map(|&s| s.to_owned()).collect(),
            };
            expected.check(&parse(&format!(r#"{{"user_id":1{rest}}}"#)).unwrap(), now).map(drop)
        };
        use TokenError::{Expired, MissingClaim, NotYetValid, WrongAudience, WrongIssuer};
        let none: &[&str] = &[];
        for (leeway, issuers, audiences, rest, expected) in [
            (0, none, none, r#","exp":1001"#, Ok(())),
            (0, none, none, r#","exp":1000"#, Err(Expired)),
            (0, none, none, r#","exp":1000.9"#, Err(Expired)),
            (10, none, none, r#","exp":991"#, Ok(())),
            (10, none, none, r#","exp":990"#, Err(Expired)),
            (10, none, none, r#","exp":-9223372036854775808"#, Err(Expired)),
            (u64::MAX, none, none, r#","exp":9223372036854775807,"nbf":9223372036854775807"#, Ok(())),
            (0, none, none, r#","exp":2000,"nbf":1000"#, Ok(())),
            (0, none, none, r#","exp":2000,"nbf":1000.5"#, Err(NotYetValid)),
            (10, none, none, r#","exp":2000,"nbf":1010"#, Ok(())),
            (10, none, none, r#","exp":2000,"nbf":1011"#, Err(NotYetValid)),
            (10, none, none, r#","exp":2000,"nbf":1e999"#, Err(NotYetValid)),
            (0, none, none, r#","exp":2000,"nbf":null"#, Ok(())),
            (0, none, none, r#","exp":2000,"nbf":"1""#, Err(bad("nbf"))),
            (0, none, none, r#","exp":2000,"iss":7,"aud":7"#, Ok(())),
            (0, &["a", "b"], none, r#","exp":2000,"iss":"b""#, Ok(())),
            (0, &["a"], none, r#","exp":2000,"iss":"b""#, Err(WrongIssuer)),
            (0, &["a"], none, r#","exp":2000,"iss":["a"]"#, Err(bad("iss"))),
            (0, &["a"], none, r#","exp":2000"#, Err(MissingClaim("iss".into()))),
            (0, &["a"], none, r#","exp":2000,"iss":null"#, Err(MissingClaim("iss".into()))),
            (0, none, &["a", "b"], r#","exp":2000,"aud":"b""#, Ok(())),
            (0, none, &["a"], r#","exp":2000,"aud":["x","a"]"#, Ok(())),
            (0, none, &["a"], r#","exp":2000,"aud":["x","a a"]"#, Err(WrongAudience)),
            (0, none, &["a"], r#","exp":2000,"aud":[]"#, Err(WrongAudience)),
            (0, none, &["a"], r#","exp":2000,"aud":["a",1]"#, Err(bad("aud"))),
            (0, none, &["a"], r#","exp":2000"#, Err(MissingClaim("aud".into()))),
        ] {
            assert_eq!(check(leeway, issuers, audiences, rest), expected, "{rest}, leeway {leeway}");
        }
    }
}
