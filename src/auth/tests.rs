mod keys;
mod remote;
mod tokens;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rcgen::KeyPair;
use secrecy::SecretString;

use super::metrics::Metrics;
use super::*;
use crate::auth::settings::{AuthKey, ClaimNames, KeySource, Settings};
use crate::clock::Now;
use crate::http::Client;
use crate::limits::rate::Rate;
use crate::metrics::Registry;

const SECRET: &str = "a secret of at least thirty-two bytes";
/// 2025-01-21T10:00:00Z
const NOW_UNIX: i64 = 1_737_453_600;
const CLAIMS: &str = r#"{"sub":"user_1","exp":1737453660,"permissions":["agents:read"]}"#;

fn now() -> Now {
    static MONO: OnceLock<std::time::Instant> = OnceLock::new();
    Now { mono: *MONO.get_or_init(|| Now::read().mono), unix_ms: NOW_UNIX * 1000 }
}

/// One key pair per family, made once per run.
struct Pairs {
    rsa: KeyPair,
    p256: KeyPair,
    p384: KeyPair,
    ed: KeyPair,
}

fn pairs() -> &'static Pairs {
    static PAIRS: OnceLock<Pairs> = OnceLock::new();
    PAIRS.get_or_init(|| Pairs {
        rsa: KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap(),
        p256: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
        p384: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        ed: KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
    })
}

const HMAC: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const PUBLIC: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

fn pair(algorithm: Algorithm) -> &'static KeyPair {
    match algorithm {
        Algorithm::ES256 => &pairs().p256,
        Algorithm::ES384 => &pairs().p384,
        Algorithm::EdDSA => &pairs().ed,
        _ => &pairs().rsa,
    }
}

fn signing_key(algorithm: Algorithm, pair: &KeyPair) -> EncodingKey {
    let pem = pair.serialize_pem();
    match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem.as_bytes()),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
        _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
    }
    .unwrap()
}

fn public_jwk(algorithm: Algorithm, pair: &KeyPair, further: &str) -> String {
    let pem = pair.public_key_pem();
    let key = match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(pem.as_bytes()),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(pem.as_bytes()),
        _ => DecodingKey::from_rsa_pem(pem.as_bytes()),
    }
    .unwrap();
    let jwk = jsonwebtoken::jwk::Jwk::from_decoding_key(&key, None).unwrap();
    let json = serde_json::to_string(&jwk).unwrap();
    format!("{}{further}}}", json.strip_suffix('}').unwrap())
}

fn jwks(keys: &[String]) -> String {
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

/// Signs any header and payload, whatever they say.
fn sign_raw(header: &str, payload: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn sign(algorithm: Algorithm, kid: Option<&str>, payload: &str) -> String {
    sign_with(pair(algorithm), algorithm, kid, payload)
}

fn sign_with(pair: &KeyPair, algorithm: Algorithm, kid: Option<&str>, payload: &str) -> String {
    let kid = kid.map(|kid| format!(r#","kid":"{kid}""#)).unwrap_or_default();
    let header = format!(r#"{{"alg":"{algorithm:?}"{kid}}}"#);
    sign_raw(&header, payload, &signing_key(algorithm, pair), algorithm)
}

/// A key that is bound to nobody.
fn key(algorithms: &[Algorithm], source: KeySource) -> AuthKey {
    AuthKey { algorithms: algorithms.to_vec(), source, issuers: Vec::new(), audiences: Vec::new() }
}

fn secret_key(secret: &str, algorithms: &[Algorithm]) -> AuthKey {
    key(algorithms, KeySource::Secret(SecretString::from(secret)))
}

fn pem_key(pair: &KeyPair, algorithms: &[Algorithm]) -> AuthKey {
    key(algorithms, KeySource::Pem(pair.public_key_pem()))
}

fn auth(keys: Vec<AuthKey>) -> Settings {
    Settings {
        keys,
        leeway: Duration::from_secs(10),
        claims: ClaimNames {
            user: "sub".to_owned(),
            role: "role".to_owned(),
            permissions: "permissions".to_owned(),
        },
        token_bytes_max: 8192,
        failures_per_address: Rate { count: 20, per: Duration::from_secs(60), burst: 20 },
    }
}

/// Metrics that nobody looks at.
fn metrics() -> Metrics {
    Metrics::new(&Registry::new().unwrap())
}

fn try_verifier(keys: Vec<AuthKey>) -> Result<Verifier, AuthConfigError> {
    let http = Client::new(&crate::tls::client_config(None).unwrap());
    Verifier::new(&auth(keys), &Arc::new(http), &metrics())
}

fn verifier(keys: Vec<AuthKey>) -> Verifier {
    try_verifier(keys).unwrap()
}

impl Verifier {
    /// The user, or the refusal's label.
    fn user(&self, token: &str) -> Result<String, &'static str> {
        match self.verify(token, now()) {
            Verify::Done(result) => result.map(|claims| claims.user).map_err(|error| error.result().label()),
            Verify::NeedsKeys => Err("needs keys"),
        }
    }
}

#[test]
fn bearer_is_stripped() {
    for (text, expected) in [
        ("a.b.c", "a.b.c"),
        ("Bearer a.b.c", "a.b.c"),
        ("bEARER   a.b.c ", "a.b.c"),
        ("  Bearer a.b.c", "a.b.c"),
        ("Bearera.b.c", "Bearera.b.c"),
        ("Basic a.b.c", "Basic a.b.c"),
        ("Bearer", "Bearer"),
        ("Bearer ", "Bearer"),
        ("", ""),
        ("Ünïcödé x", "Ünïcödé x"),
    ] {
        assert_eq!(strip_bearer(text), expected, "{text:?}");
    }
}

#[test]
fn tokens_are_told_by_their_looks() {
    for (text, token) in
        [("Bearer a.b.c", Some("a.b.c")), ("a", Some("a")), ("Bearer", None), (" bearer ", None), ("", None)]
    {
        assert_eq!(token_in(text), token, "{text:?}");
    }
    let header = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let good = header(r#"{"alg":"none","x":[{}]}"#);
    for (text, looks) in [
        (format!("{good}.b.c"), true),
        (format!("{good}.-_9."), true),
        (format!("{}.b.c", header(" { } ")), true),
        (format!("{good}.b"), false),
        (format!("{good}.b.c.d"), false),
        (format!("{good}..c"), false),
        (format!(".{good}.c"), false),
        (format!("{good}.b=.c"), false),
        (format!("{good}.b.c "), false),
        (format!("{}=.b.c", header("{}  ")), false),
        (format!("{}.b.c", header("[]")), false),
        (format!("{}.b.c", header("{")), false),
        (format!("{}.b.c", header("{}{}")), false),
        (format!("{}.b.c", header(r#"{"alg"}"#)), false),
        (format!("{}.b.c", header("\"{}\"")), false),
        ("a.b.c".to_owned(), false),
        ("1.2.3".to_owned(), false),
        ("wamp.2.json".to_owned(), false),
        ("s1.opaque.session".to_owned(), false),
        ("v1.app.eyJ9".to_owned(), false),
        ("undefined".to_owned(), false),
        (String::new(), false),
    ] {
        assert_eq!(looks_like_a_token(&text), looks, "{text:?}");
    }
}
