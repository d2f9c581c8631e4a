//! Pure: tokens for the demo and for tests.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// An HS256 token of the claims `claims_json`, signed as they are.
#[must_use]
pub fn mint_hs256(secret: &[u8], claims_json: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims_json));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
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
}
