//! Signatures: tokens verified, requests to Pusher signed.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use md5::{Digest as _, Md5};
use pusher_bridge::auth::metrics::Metrics;
use pusher_bridge::auth::settings::{AuthKey, ClaimNames, KeySource, Settings};
use pusher_bridge::auth::{Verifier, Verify};
use pusher_bridge::http::Client;
use pusher_bridge::limits::rate::Rate;
use pusher_bridge::metrics::Registry;
use pusher_bridge::pusher::sign;
use pusher_bridge::tls;
use rcgen::KeyPair;
use secrecy::SecretString;
use serde_json::Value;

use super::{SECRET, data, now};

/// A verifier with this key alone.
pub fn verifier(algorithm: Algorithm, source: KeySource) -> Verifier {
    let claims = |name: &str| name.to_owned();
    let auth = Settings {
        keys: vec![AuthKey {
            algorithms: vec![algorithm],
            source,
            issuers: Vec::new(),
            audiences: Vec::new(),
        }],
        leeway: Duration::from_secs(10),
        claims: ClaimNames { user: claims("sub"), role: claims("role"), permissions: claims("permissions") },
        token_bytes_max: 8192,
        failures_per_address: Rate { count: 20, per: Duration::from_secs(60), burst: 20 },
    };
    let client = Arc::new(Client::new(&tls::client_config(None).unwrap()));
    Verifier::new(&auth, &client, &Metrics::new(&Registry::new().unwrap())).unwrap()
}

/// A token as the old clients have it, valid for an hour.
pub fn claims() -> Value {
    serde_json::json!({
        "sub": "123",
        "role": "teacher",
        "permissions": ["content:generate", "roblox:read", "command:run"],
        "plugin_ids": ["p1", "p2"],
        "exp": now().unix_seconds() + 3600,
    })
}

/// One token, from its text to its claims. Compared with `jsonwebtoken::decode` into a `Value`.
pub fn verify(c: &mut Criterion) {
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let (secret, rsa_pem, p256_pem) = (SECRET.as_bytes(), rsa.serialize_pem(), p256.serialize_pem());
    let mut group = c.benchmark_group("verify a token");
    for (algorithm, source, signing, verifying) in [
        (
            Algorithm::HS256,
            KeySource::Secret(SecretString::from(SECRET)),
            EncodingKey::from_secret(secret),
            DecodingKey::from_secret(secret),
        ),
        (
            Algorithm::ES256,
            KeySource::Pem(p256.public_key_pem()),
            EncodingKey::from_ec_pem(p256_pem.as_bytes()).unwrap(),
            DecodingKey::from_ec_pem(p256.public_key_pem().as_bytes()).unwrap(),
        ),
        (
            Algorithm::RS256,
            KeySource::Pem(rsa.public_key_pem()),
            EncodingKey::from_rsa_pem(rsa_pem.as_bytes()).unwrap(),
            DecodingKey::from_rsa_pem(rsa.public_key_pem().as_bytes()).unwrap(),
        ),
    ] {
        let token = jsonwebtoken::encode(&Header::new(algorithm), &claims(), &signing).unwrap();
        let (verifier, now) = (verifier(algorithm, source), now());
        assert!(matches!(verifier.verify(&token, now), Verify::Done(Ok(_))));
        group.bench_function(format!("{algorithm:?}"), |b| {
            b.iter(|| matches!(verifier.verify(black_box(&token), now), Verify::Done(Ok(_))));
        });
        let mut validation = Validation::new(algorithm);
        // The benchmark's clock stands still, the library's does not.
        validation.validate_exp = false;
        group.bench_function(format!("{algorithm:?}, jsonwebtoken::decode"), |b| {
            b.iter(|| jsonwebtoken::decode::<Value>(black_box(&token), &verifying, &validation).unwrap());
        });
    }
    group.finish();
}

/// A request with ten events, signed. Compared with the MD5 of its body, which Pusher demands.
pub fn sign(c: &mut Criterion) {
    let event =
        serde_json::json!({ "channel": "private-plugin-p1", "name": "client-run", "data": data(300) });
    let body = serde_json::json!({ "batch": vec![event; 10] }).to_string();
    let secret = SecretString::from("7ad3773142a6692b25b8");
    let path = "/apps/3/batch_events";
    let mut group = c.benchmark_group("sign a request of 10 events");
    group.bench_function("ours", |b| {
        b.iter(|| {
            let body = black_box(body.as_bytes());
            sign::signed_query("POST", path, &[], body, "278d425bdf160c739803", &secret, 1_353_088_179)
        });
    });
    group.bench_function("MD5 of its body", |b| b.iter(|| Md5::digest(black_box(body.as_bytes()))));
    group.finish();
}
