//! Pure: verification keys, and which of them a token may be verified with.

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::signature::RsaParameters;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::server::ParsedCertificate;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Keys in one JWKS, at most. A token without `kid` is tried with each, so this bounds its cost, too.
pub const JWKS_KEYS_MAX: usize = 64;

/// What is wrong with a configured key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfigError {
    /// The key's place in `auth.keys`.
    pub key_index: usize,
    /// What is wrong, as a sentence without a full stop. Nothing of a secret is in it.
    pub message: String,
}

impl fmt::Display for AuthConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "auth.keys[{}]: {}", self.key_index, self.message)
    }
}

impl std::error::Error for AuthConfigError {}

/// One key and what it may verify.
#[derive(Clone)]
pub(super) struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

impl Key {
    /// Whether this key is to be tried. A key without an id may be meant by any.
    pub(super) fn suits(&self, algorithm: Algorithm, kid: Option<&str>) -> bool {
        self.algorithms.contains(&algorithm)
            && match (&self.kid, kid) {
                (Some(own), Some(asked)) => own == asked,
                _ => true,
            }
    }

    /// Whether `signature` (base64url) is this key's for `message`.
    pub(super) fn verifies(&self, message: &str, signature: &str, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
            && jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.decoding, algorithm)
                .unwrap_or(false)
    }
}

/// A shared secret, for HMAC only.
pub(super) fn from_secret(secret: &SecretString, algorithms: &[Algorithm]) -> Result<Vec<Key>, String> {
    let secret = secret.expose_secret().as_bytes();
    only(algorithms, AlgorithmFamily::Hmac, "a secret")?;
    if secret.is_empty() {
        return Err("the secret is empty".to_owned());
    }
    let decoding = DecodingKey::from_secret(secret);
    Ok(vec![Key { kid: None, algorithms: algorithms.to_vec(), decoding }])
}

/// The first public key or certificate in a PEM text.
pub(super) fn from_pem(pem: &str, algorithms: &[Algorithm]) -> Result<Vec<Key>, String> {
    let text = public_pem(pem)?;
    let family = algorithms.first().ok_or("no algorithms")?.family();
    only(algorithms, family, "a public key")?;
    let decoding = match family {
        AlgorithmFamily::Hmac => return Err("a public key cannot verify HMAC; give a secret".to_owned()),
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(text.as_bytes()),
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(text.as_bytes()),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(text.as_bytes()),
    }
    .map_err(|_| format!("the key is not one for {}", names(algorithms)))?;
    let usable = usable(algorithms, &decoding);
    if usable.len() != algorithms.len() {
        return Err(format!("the key's type or size does not fit {}", names(algorithms)));
    }
    Ok(vec![Key { kid: None, algorithms: usable, decoding }])
}

/// The public key's PEM, extracted from a certificate if it is in one.
fn public_pem(pem: &str) -> Result<Cow<'_, str>, String> {
    // PKCS#1's own label, which rustls' parser does not know.
    if pem.contains("-----BEGIN RSA PUBLIC KEY-----") {
        return Ok(Cow::Borrowed(pem));
    }
    let (kind, der) = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes())
        .next()
        .ok_or("no `-----BEGIN PUBLIC KEY-----` in it")?
        .map_err(|error| format!("broken PEM: {error}"))?;
    match kind {
        SectionKind::PublicKey => Ok(pem_text(&der).into()),
        SectionKind::Certificate => {
            let der = CertificateDer::from(der);
            let certificate = ParsedCertificate::try_from(&der).map_err(|error| error.to_string())?;
            Ok(pem_text(&certificate.subject_public_key_info()).into())
        }
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
            Err("this is a private key, which has no place here: give the public one".to_owned())
        }
        other => Err(format!("neither a public key nor a certificate, but {other:?}")),
    }
}

/// Those keys of a JWKS (RFC 7517 §5) that can verify one of `algorithms`, at least one; others are passed over.
pub(super) fn from_jwks_document(text: &str, algorithms: &[Algorithm]) -> Result<Vec<Key>, String> {
    let set = jwks(text)?;
    let keys = usable_keys(&set, algorithms);
    if keys.is_empty() {
        return Err(format!("none of its {} keys can verify {}", set.len(), names(algorithms)));
    }
    Ok(keys)
}

/// Those keys of a JWKS that can verify one of `algorithms`, perhaps none.
pub(super) fn from_jwks(text: &str, algorithms: &[Algorithm]) -> Result<Vec<Key>, String> {
    Ok(usable_keys(&jwks(text)?, algorithms))
}

fn jwks(text: &str) -> Result<Vec<&RawValue>, String> {
    // An array would be read as the members' values in order.
    if !text.trim_start().starts_with('{') {
        return Err("not a JWKS: no JSON object".to_owned());
    }
    let set: JwkSet<'_> = serde_json::from_str(text).map_err(|error| format!("not a JWKS: {error}"))?;
    if set.keys.len() > JWKS_KEYS_MAX {
        return Err(format!("{} keys; at most {JWKS_KEYS_MAX} are taken", set.keys.len()));
    }
    Ok(set.keys)
}

fn usable_keys(set: &[&RawValue], algorithms: &[Algorithm]) -> Vec<Key> {
    let jwks = set.iter().filter_map(|raw| serde_json::from_str::<Jwk>(raw.get()).ok());
    jwks.filter_map(|jwk| jwk.into_key(algorithms)).collect()
}

#[derive(Deserialize)]
struct JwkSet<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// What matters here of a JWK (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

impl Jwk {
    /// `None` when the key is for something else, is not understood, or cannot verify one of `algorithms`.
    fn into_key(self, algorithms: &[Algorithm]) -> Option<Key> {
        let signs = self.usage.as_deref().is_none_or(|usage| usage == "sig")
            && self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !signs {
            return None;
        }
        let decoding = self.decoding()?;
        // `alg` is optional (RFC 7517 §4.4): without it, what is configured counts alone.
        let mut algorithms = usable(algorithms, &decoding);
        if let Some(alg) = &self.alg {
            let own = algorithm(alg);
            algorithms.retain(|algorithm| Some(*algorithm) == own);
        }
        (!algorithms.is_empty()).then_some(Key { kid: self.kid, algorithms, decoding })
    }

    fn decoding(&self) -> Option<DecodingKey> {
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (unsigned(self.n.as_ref()?)?, unsigned(self.e.as_ref()?)?);
                Some(DecodingKey::from_rsa_raw_components(&n, &e))
            }
            ("EC", Some("P-256" | "P-384")) => {
                DecodingKey::from_ec_components(self.x.as_ref()?, self.y.as_ref()?).ok()
            }
            ("OKP", Some("Ed25519")) => DecodingKey::from_ed_components(self.x.as_ref()?).ok(),
            ("oct", _) => {
                let secret = URL_SAFE_NO_PAD.decode(self.k.as_ref()?).ok()?;
                (!secret.is_empty()).then(|| DecodingKey::from_secret(&secret))
            }
            _ => None,
        }
    }
}

/// Base64urlUInt without the leading zeros that some issuers write.
fn unsigned(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let from = bytes.iter().position(|byte| *byte != 0)?;
    bytes.get(from..).map(<[u8]>::to_vec)
}

/// The algorithm of this name, as headers and JWKs have it. `Ed25519` is RFC 9864's name for what RFC 8037
/// called `EdDSA`.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    if name == "Ed25519" { Some(Algorithm::EdDSA) } else { name.parse().ok() }
}

/// Sizes of RSA keys that aws-lc-rs verifies with; RFC 7518 §3.3 demands 2048 at least.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Those of `algorithms` that the key can verify, by its family, curve and size.
fn usable(algorithms: &[Algorithm], key: &DecodingKey) -> Vec<Algorithm> {
    use jsonwebtoken::DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
    let fits = |algorithm: &Algorithm| match (key.family(), key.kind()) {
        (AlgorithmFamily::Hmac, _) => true,
        (AlgorithmFamily::Rsa, RsaModulusExponent { n, .. }) => {
            let spare = n.first().map_or(0, |byte| byte.leading_zeros() as usize);
            RSA_BITS.contains(&(n.len() * 8 - spare))
        }
        (AlgorithmFamily::Rsa, SecretOrDer(pkcs1)) => RsaParameters::public_modulus_len(pkcs1)
            .is_ok_and(|bits| usize::try_from(bits).is_ok_and(|bits| RSA_BITS.contains(&bits))),
        (AlgorithmFamily::Ec, SecretOrDer(point)) => match algorithm {
            Algorithm::ES256 => point.len() == 65,
            _ => point.len() == 97,
        },
        (AlgorithmFamily::Ed, SecretOrDer(point)) => point.len() == 32,
        (AlgorithmFamily::Ec | AlgorithmFamily::Ed, RsaModulusExponent { .. }) => false,
    };
    algorithms.iter().copied().filter(|a| a.family() == key.family() && fits(a)).collect()
}

fn only(algorithms: &[Algorithm], family: AlgorithmFamily, what: &str) -> Result<(), String> {
    if algorithms.is_empty() {
        return Err("no algorithms".to_owned());
    }
    match algorithms.iter().find(|algorithm| algorithm.family() != family) {
        Some(other) => Err(format!("{what} of {family:?} cannot verify {other:?}")),
        None => Ok(()),
    }
}

fn names(algorithms: &[Algorithm]) -> String {
    algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect::<Vec<_>>().join(", ")
}

fn pem_text(der: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
}
