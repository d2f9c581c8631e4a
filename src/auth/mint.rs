//! Pure: tokens for development, the demo and tests.

use std::fmt::Write as _;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::json::Object;

/// An HS256 token of the claims `claims_json`, signed as they are.
#[must_use]
pub fn mint_hs256(secret: &[u8], claims_json: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims_json));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The claims, a JSON object, with those that any token has where they are left out: when it expires, and the issuer and
/// audience that its key asks for.
#[must_use]
pub fn completed_claims(
    claims: &str,
    expires_at_unix: i64,
    issuer: Option<&str>,
    audience: Option<&str>,
) -> String {
    let Ok(object) = Object::parse(claims) else { return claims.to_owned() };
    // Only the object's own brace ends it.
    let mut out = claims.trim_end().to_owned();
    out.pop();
    let mut any = !object.is_empty();
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let expires = Some(expires_at_unix.to_string());
    for (name, value) in [("exp", expires), ("iss", issuer.map(text)), ("aud", audience.map(text))] {
        let Some(value) = value.filter(|_| object.get(name).is_none()) else { continue };
        let _ = write!(out, "{}\"{name}\":{value}", if any { "," } else { "" });
        any = true;
    }
    out + "}"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The signature was made with `openssl dgst -sha256 -hmac secret`.
    #[test]
    fn a_token_has_the_standard_form() {
        let token = mint_hs256(b"secret", r#"{"sub":"user_123"}"#);
        assert_eq!(token, EXPECTED);
    }

    const EXPECTED: &str = concat!(
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ1c2VyXzEyMyJ9",
        ".WkmIJTTXQIAI5kKbn5fxkXKAItmRyGb6fxIpTVAVzaw"
    );

    #[test]
    fn claims_have_what_any_token_has() {
        for (claims, expected) in [
            ("{}", r#"{"exp":7,"iss":"i","aud":"a"}"#),
            (r#" {"sub":"u"} "#, r#" {"sub":"u","exp":7,"iss":"i","aud":"a"}"#),
            (r#"{"exp":1,"aud":{"x":{}}}"#, r#"{"exp":1,"aud":{"x":{}},"iss":"i"}"#),
        ] {
            assert_eq!(completed_claims(claims, 7, Some("i"), Some("a")), expected);
        }
        assert_eq!(completed_claims(r#"{"a":1}"#, 7, None, None), r#"{"a":1,"exp":7}"#);
    }
}
