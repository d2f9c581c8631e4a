//! Pusher's signatures: HMAC-SHA256 keyed with the app's secret, in lowercase hex (pusher/docs,
//! `library_auth_reference/auth-signatures.md` and `rest-api.md`).

use std::fmt;
use std::fmt::Write as _;

use aws_lc_rs::hmac;
use md5::{Digest as _, Md5};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};

/// How far a request's `auth_timestamp` may be from the server's clock, either way (rest-api.md).
pub const TIMESTAMP_TOLERANCE_S: u64 = 600;
/// The most parameters a signed query may have; a trigger has five, a channel query seven at most.
pub const QUERY_PARAMS_MAX: usize = 32;

/// All but RFC 3986 §2.3, what a query never needs to escape.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The `auth` of a subscription: `key:hex`, over `socket_id:channel` for a private channel, and over
/// `socket_id:channel:channel_data` for a presence channel, `channel_data` being the exact text sent.
#[must_use]
pub fn channel_auth(
    key: &str,
    secret: &SecretString,
    socket_id: &str,
    channel: &str,
    channel_data: Option<&str>,
) -> String {
    format!("{key}:{}", hex_hmac(secret, channel_text(socket_id, channel, channel_data).as_bytes()))
}

/// The `auth` of a sign-in: `key:hex`, over `socket_id::user::user_data`.
#[must_use]
pub fn user_auth(key: &str, secret: &SecretString, socket_id: &str, user_data: &str) -> String {
    format!("{key}:{}", hex_hmac(secret, user_text(socket_id, user_data).as_bytes()))
}

/// The `X-Pusher-Signature` of a webhook: over its raw body.
#[must_use]
pub fn webhook_signature(secret: &SecretString, body: &[u8]) -> String {
    hex_hmac(secret, body)
}

/// An app's key and secret, ready to sign with: the secret is prepared once.
pub struct Signer {
    key: String,
    secret: hmac::Key,
}

impl Signer {
    #[must_use]
    pub fn new(key: &str, secret: &SecretString) -> Self {
        Self { key: key.to_owned(), secret: hmac_key(secret) }
    }

    /// As [`channel_auth`].
    #[must_use]
    pub fn channel_auth(&self, socket_id: &str, channel: &str, channel_data: Option<&str>) -> String {
        self.auth(&channel_text(socket_id, channel, channel_data))
    }

    /// As [`user_auth`].
    #[must_use]
    pub fn user_auth(&self, socket_id: &str, user_data: &str) -> String {
        self.auth(&user_text(socket_id, user_data))
    }

    fn auth(&self, text: &str) -> String {
        format!("{}:{}", self.key, hex(hmac::sign(&self.secret, text.as_bytes()).as_ref()))
    }

    /// Whether a webhook was sent for this key and signed by its secret, in constant time.
    #[must_use]
    pub fn signed_webhook(&self, key: &str, body: &[u8], signature: &str) -> bool {
        let signature = unhex(signature).unwrap_or_default();
        hmac::verify(&self.secret, body, &signature).is_ok() && key == self.key
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.key)
    }
}

/// The query of a signed HTTP request, without its `?`. `path` begins with `/apps/` and has no query. The
/// values of `params` are plain text: signed as they are, percent-encoded in the result. `body_md5` is there
/// when `body` is not empty.
#[must_use]
pub fn signed_query(
    method: &str,
    path: &str,
    params: &[(&str, &str)],
    body: &[u8],
    key: &str,
    secret: &SecretString,
    unix_seconds: i64,
) -> String {
    let timestamp = unix_seconds.to_string();
    let md5 = hex(&Md5::digest(body));
    let mut all: Vec<(String, &str)> =
        params.iter().map(|(name, value)| (name.to_ascii_lowercase(), *value)).collect();
    all.push(("auth_key".to_owned(), key));
    all.push(("auth_timestamp".to_owned(), &timestamp));
    all.push(("auth_version".to_owned(), "1.0"));
    if !body.is_empty() {
        all.push(("body_md5".to_owned(), &md5));
    }
    all.sort();
    let signature = hex_hmac(secret, request_text(method, path, &all).as_bytes());

    let mut query = String::new();
    for (name, value) in &all {
        let _ = write!(query, "{name}={}&", utf8_percent_encode(value, ESCAPED));
    }
    query.push_str("auth_signature=");
    query.push_str(&signature);
    query
}

/// Why a signature was not accepted. The texts are safe to send to whoever signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureError {
    /// A parameter is missing, repeated or unreadable.
    Malformed(String),
    /// The key is not this app's.
    Key,
    /// The timestamp is more than [`TIMESTAMP_TOLERANCE_S`] from the server's.
    Timestamp {
        /// How far, in seconds, positive when the request is from the past.
        behind_s: i64,
    },
    /// The body is not the signed one.
    BodyMd5,
    /// The signature is not the one over `signed`.
    Mismatch {
        /// The text that had to be signed.
        signed: String,
        /// The signature that came.
        got: String,
    },
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => f.write_str(what),
            Self::Key => f.write_str("Unknown auth_key: it is not this app's"),
            Self::Timestamp { behind_s } => write!(
                f,
                "Timestamp expired: it is {behind_s} s behind the server's time, and at most \
                 {TIMESTAMP_TOLERANCE_S} s either way are accepted"
            ),
            Self::BodyMd5 => f.write_str("body_md5 is not the MD5 of the body"),
            Self::Mismatch { signed, got } => {
                write!(f, "Invalid signature: Expected HMAC SHA256 hex digest of {signed}, but got {got}")
            }
        }
    }
}

impl std::error::Error for SignatureError {}

/// Checks the `auth` of a subscription, in constant time.
///
/// # Errors
/// Not `key:hex`, another key, or another signature.
pub fn verify_channel_auth(
    key: &str,
    secret: &SecretString,
    socket_id: &str,
    channel: &str,
    channel_data: Option<&str>,
    auth: &str,
) -> Result<(), SignatureError> {
    verify_auth(key, secret, channel_text(socket_id, channel, channel_data), auth)
}

/// Checks the `auth` of a sign-in, in constant time.
///
/// # Errors
/// Not `key:hex`, another key, or another signature.
pub fn verify_user_auth(
    key: &str,
    secret: &SecretString,
    socket_id: &str,
    user_data: &str,
    auth: &str,
) -> Result<(), SignatureError> {
    verify_auth(key, secret, user_text(socket_id, user_data), auth)
}

/// Checks the signature of a webhook, in constant time.
///
/// # Errors
/// Another signature.
pub fn verify_webhook(secret: &SecretString, body: &[u8], signature: &str) -> Result<(), SignatureError> {
    let signed = || "the request's body".to_owned();
    verify_hex(secret, body, signature).map_err(|()| mismatch(signed(), signature))
}

/// Checks a signed HTTP request, in constant time, and gives its parameters decoded, without those of the
/// signature itself.
///
/// # Errors
/// Any [`SignatureError`].
pub fn verify_query(
    method: &str,
    path: &str,
    query: &str,
    body: &[u8],
    key: &str,
    secret: &SecretString,
    unix_seconds: i64,
) -> Result<Vec<(String, String)>, SignatureError> {
    let mut params = decode_query(query)?;
    let take = |name: &str| -> Result<&str, SignatureError> {
        let mut found = params.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
        match (found.next(), found.next()) {
            (Some(value), None) => Ok(value),
            (None, _) => Err(SignatureError::Malformed(format!("The query has no {name}"))),
            (Some(_), Some(_)) => Err(SignatureError::Malformed(format!("The query repeats {name}"))),
        }
    };
    if take("auth_key")? != key {
        return Err(SignatureError::Key);
    }
    if take("auth_version")? != "1.0" {
        return Err(SignatureError::Malformed("auth_version is not 1.0".to_owned()));
    }
    let timestamp: i64 = take("auth_timestamp")?
        .parse()
        .map_err(|_| SignatureError::Malformed("auth_timestamp is not in whole seconds".to_owned()))?;
    let behind_s = unix_seconds.saturating_sub(timestamp);
    if behind_s.unsigned_abs() > TIMESTAMP_TOLERANCE_S {
        return Err(SignatureError::Timestamp { behind_s });
    }
    if !body.is_empty() && take("body_md5")? != hex(&Md5::digest(body)) {
        return Err(SignatureError::BodyMd5);
    }
    let signature = take("auth_signature")?.to_owned();
    params.retain(|(name, _)| name != "auth_signature");
    params.sort();
    let signed = request_text(method, path, &params);
    verify_hex(secret, signed.as_bytes(), &signature).map_err(|()| mismatch(signed, &signature))?;
    params.retain(|(name, _)| !name.starts_with("auth_") && name != "body_md5");
    Ok(params)
}

fn channel_text(socket_id: &str, channel: &str, channel_data: Option<&str>) -> String {
    match channel_data {
        Some(data) => format!("{socket_id}:{channel}:{data}"),
        None => format!("{socket_id}:{channel}"),
    }
}

fn user_text(socket_id: &str, user_data: &str) -> String {
    format!("{socket_id}::user::{user_data}")
}

/// `params` are sorted and their names in lowercase.
fn request_text(method: &str, path: &str, params: &[(impl AsRef<str>, impl AsRef<str>)]) -> String {
    let mut text = format!("{method}\n{path}\n");
    for (at, (name, value)) in params.iter().enumerate() {
        if at > 0 {
            text.push('&');
        }
        text.push_str(name.as_ref());
        text.push('=');
        text.push_str(value.as_ref());
    }
    text
}

/// Form decoding, where `+` is a space: an SDK may encode either way, and signs what was before it.
fn decode_query(query: &str) -> Result<Vec<(String, String)>, SignatureError> {
    let decode = |text: &str| {
        percent_decode_str(&text.replace('+', " "))
            .decode_utf8()
            .map(|text| text.into_owned())
            .map_err(|_| SignatureError::Malformed("The query is not UTF-8".to_owned()))
    };
    let pairs = || query.split('&').filter(|pair| !pair.is_empty());
    if pairs().nth(QUERY_PARAMS_MAX).is_some() {
        return Err(SignatureError::Malformed(format!(
            "The query has more than {QUERY_PARAMS_MAX} parameters"
        )));
    }
    pairs()
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?.to_ascii_lowercase(), decode(value)?))
        })
        .collect()
}

fn verify_auth(key: &str, secret: &SecretString, signed: String, auth: &str) -> Result<(), SignatureError> {
    let (auth_key, signature) = auth
        .split_once(':')
        .ok_or_else(|| SignatureError::Malformed("The auth is not of the form key:signature".to_owned()))?;
    if auth_key != key {
        return Err(SignatureError::Key);
    }
    verify_hex(secret, signed.as_bytes(), signature).map_err(|()| mismatch(signed, signature))
}

/// The error repeats what came, but not at any length.
fn mismatch(signed: String, got: &str) -> SignatureError {
    const GOT_CHARS_MAX: usize = 64;
    SignatureError::Mismatch { signed, got: got.chars().take(GOT_CHARS_MAX).collect() }
}

fn verify_hex(secret: &SecretString, text: &[u8], signature: &str) -> Result<(), ()> {
    let signature = unhex(signature).ok_or(())?;
    hmac::verify(&hmac_key(secret), text, &signature).map_err(|_| ())
}

fn hex_hmac(secret: &SecretString, text: &[u8]) -> String {
    hex(hmac::sign(&hmac_key(secret), text).as_ref())
}

fn hmac_key(secret: &SecretString) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.push(char::from(if nibble < 10 { b'0' + nibble } else { b'a' - 10 + nibble }));
        }
    }
    out
}

/// Lowercase only, as Pusher compares.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "278d425bdf160c739803";

    fn secret(text: &str) -> SecretString {
        SecretString::from(text)
    }

    fn docs_secret() -> SecretString {
        secret("7ad3773142a6692b25b8")
    }

    #[test]
    fn published_channel_vectors() {
        let mr_pusher = r#"{"user_id":"10","user_info":{"name":"Mr. Pusher"}}"#;
        let numeric = r#"{"user_id":10,"user_info":{"name":"Mr. Pusher"}}"#;
        for (channel, data, expected) in [
            ("private-foobar", None, "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"),
            (
                "presence-foobar",
                Some(mr_pusher),
                "48dac51d2d7569e1e9c0f48c227d4b26f238fa68e5c0bb04222c966909c4f7c4",
            ),
            (
                "presence-foobar",
                Some(numeric),
                "afaed3695da2ffd16931f457e338e6c9f2921fa133ce7dac49f529792be6304c",
            ),
        ] {
            let auth = channel_auth(KEY, &docs_secret(), "1234.1234", channel, data);
            assert_eq!(auth, format!("{KEY}:{expected}"));
            assert_eq!(auth, Signer::new(KEY, &docs_secret()).channel_auth("1234.1234", channel, data));
            assert_eq!(verify_channel_auth(KEY, &docs_secret(), "1234.1234", channel, data, &auth), Ok(()));
        }
        assert_eq!(
            channel_auth("k", &secret("tofu"), "123.456", "test", None),
            "k:efa6cf7644a0b35cba36aa0f776f3cbf7bb60e95ea2696bde1dbe8403b61bd7c"
        );
    }

    #[test]
    fn published_user_vectors() {
        for (secret, socket_id, data, expected) in [
            (
                docs_secret(),
                "1234.1234",
                r#"{"id":"12345"}"#,
                "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba",
            ),
            (
                secret("tofu"),
                "1.1",
                r#"{"id":"ą§¶™€łü€ß£"}"#,
                "620494cee53d6c568b49598313194088afda37218f0d059af03c0c898ed61ff4",
            ),
        ] {
            let auth = user_auth("k", &secret, socket_id, data);
            assert_eq!(auth, format!("k:{expected}"));
            assert_eq!(verify_user_auth("k", &secret, socket_id, data, &auth), Ok(()));
        }
    }

    #[test]
    fn published_request_vectors() {
        let body = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
        assert_eq!(
            signed_query("POST", "/apps/3/events", &[], body, KEY, &docs_secret(), 1_353_088_179),
            "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0\
             &body_md5=ec365a775a4cd0599faeb73354201b6f\
             &auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
        );
        let params = [("info", "user_count"), ("filter_by_prefix", "presence-")];
        let query = signed_query(
            "GET",
            "/apps/102015/channels",
            &params,
            b"",
            "d41a439c438a100756f5",
            &secret("4bf35003e819bb138249"),
            1_427_034_994,
        );
        assert_eq!(
            query,
            "auth_key=d41a439c438a100756f5&auth_timestamp=1427034994&auth_version=1.0\
             &filter_by_prefix=presence-&info=user_count\
             &auth_signature=4d8a02edcc8a758b0162cd6da690a9a45fb8ae326a276dca1e06a0bc42796c11"
        );
    }

    #[test]
    fn published_webhook_vector() {
        let body =
            br#"{"time_ms":1403175510755,"events":[{"channel":"test_channel","name":"channel_vacated"}]}"#;
        let expected = "c17257e92037cd7de407ebc1ed174ceb7b2e518db127f44411b9ffc4f5b28cc5";
        assert_eq!(webhook_signature(&secret("tofu"), body), expected);
        assert_eq!(verify_webhook(&secret("tofu"), body, expected), Ok(()));
        assert!(verify_webhook(&secret("tofu"), b"{}", expected).is_err());
        assert!(verify_webhook(&secret("tofu"), body, &expected.to_uppercase()).is_err());
    }

    #[test]
    fn values_are_signed_plain_and_sent_encoded() {
        let params = [("filter_by_prefix", "a b&=+%é"), ("Info", "user_count,cache")];
        let query = signed_query("GET", "/apps/1/channels", &params, b"", "k", &secret("s"), 1000);
        assert!(
            query.contains("filter_by_prefix=a%20b%26%3D%2B%25%C3%A9&info=user_count%2Ccache&"),
            "{query}"
        );
        let verify =
            |query: &str, now| verify_query("GET", "/apps/1/channels", query, b"", "k", &secret("s"), now);
        let expected = vec![
            ("filter_by_prefix".to_owned(), "a b&=+%é".to_owned()),
            ("info".to_owned(), "user_count,cache".to_owned()),
        ];
        assert_eq!(verify(&query, 1000), Ok(expected.clone()));
        assert_eq!(verify(&query.replace("%20", "+"), 1000), Ok(expected.clone()), "a form's space");
        assert_eq!(verify(&query, 1600), Ok(expected.clone()));
        assert_eq!(verify(&query, 400), Ok(expected));
        assert_eq!(verify(&query, 1601), Err(SignatureError::Timestamp { behind_s: 601 }));
        assert_eq!(verify(&query, 399), Err(SignatureError::Timestamp { behind_s: -601 }));
    }

    #[test]
    fn anything_altered_is_refused() {
        let (path, body) = ("/apps/1/events", b"{}".as_slice());
        let query = signed_query("POST", path, &[], body, "k", &secret("s"), 1000);
        let verify = |method, path, query: &str, body: &[u8], secret_text| {
            verify_query(method, path, query, body, "k", &secret(secret_text), 1000)
        };
        assert_eq!(verify("POST", path, &query, body, "s"), Ok(vec![]));
        assert!(matches!(verify("GET", path, &query, body, "s"), Err(SignatureError::Mismatch { .. })));
        assert!(matches!(
            verify("POST", "/apps/2/events", &query, body, "s"),
            Err(SignatureError::Mismatch { .. })
        ));
        assert!(matches!(verify("POST", path, &query, body, "t"), Err(SignatureError::Mismatch { .. })));
        assert_eq!(verify("POST", path, &query, b"{ }", "s"), Err(SignatureError::BodyMd5));
        assert_eq!(
            verify("POST", path, &query.replace("auth_key=k", "auth_key=j"), body, "s"),
            Err(SignatureError::Key)
        );
        let cut = query.split_once("&auth_signature").unwrap().0;
        assert_eq!(
            verify("POST", path, cut, body, "s"),
            Err(SignatureError::Malformed("The query has no auth_signature".to_owned()))
        );
        let twice = format!("{query}&auth_signature=00");
        assert_eq!(
            verify("POST", path, &twice, body, "s"),
            Err(SignatureError::Malformed("The query repeats auth_signature".to_owned()))
        );
        let many = "a=b&".repeat(QUERY_PARAMS_MAX + 1);
        assert!(matches!(verify("POST", path, &many, body, "s"), Err(SignatureError::Malformed(_))));
    }

    #[test]
    fn a_wrong_channel_signature_is_explained_without_the_right_one() {
        let error =
            verify_channel_auth("k", &secret("tofu"), "1.2", "private-a", None, "k:abcd").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Invalid signature: Expected HMAC SHA256 hex digest of 1.2:private-a, but got abcd"
        );
        assert_eq!(
            verify_channel_auth("k", &secret("tofu"), "1.2", "private-a", None, "j:abcd"),
            Err(SignatureError::Key)
        );
        assert!(matches!(
            verify_channel_auth("k", &secret("tofu"), "1.2", "private-a", None, "abcd"),
            Err(SignatureError::Malformed(_))
        ));
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies(name in "[a-z_]{1,10}", value in ".*", body in proptest::collection::vec(any::<u8>(), 0..50)) {
            prop_assume!(!name.starts_with("auth_") && name != "body_md5");
            let query = signed_query("POST", "/p", &[(&name, &value)], &body, "k", &secret("s"), 5);
            prop_assert!(query.is_ascii());
            let params = verify_query("POST", "/p", &query, &body, "k", &secret("s"), 5);
            prop_assert_eq!(params, Ok(vec![(name, value)]));
        }

        #[test]
        fn nothing_panics(query in ".*", auth in ".*") {
            let _ = verify_query("POST", "/p", &query, b"x", "k", &secret("s"), 5);
            let _ = verify_channel_auth("k", &secret("s"), "1.1", "private-a", None, &auth);
            let _ = verify_webhook(&secret("s"), b"x", &auth);
        }
    }
}
