//! Which tokens are accepted, with keys at hand.

use super::*;

/// Changes the payload and keeps the signature.
fn tampered(token: &str) -> String {
    let payload = URL_SAFE_NO_PAD.encode(CLAIMS.replace("user_1", "user_2"));
    let parts: Vec<&str> = token.split('.').collect();
    format!("{}.{payload}.{}", parts[0], parts[2])
}

#[test]
fn every_algorithm_is_verified_by_its_key_alone() {
    for algorithm in HMAC {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = sign_raw(&format!(r#"{{"alg":"{algorithm:?}"}}"#), CLAIMS, &key, algorithm);
        let verifier = verifier(vec![secret_key(SECRET, &[algorithm])]);
        assert_eq!(verifier.user(&token), Ok("user_1".to_owned()), "{algorithm:?}");
        assert_eq!(verifier.user(&tampered(&token)), Err("bad_signature"), "{algorithm:?}");
        for other in HMAC.into_iter().filter(|other| *other != algorithm) {
            let verifier = super::verifier(vec![secret_key(SECRET, &[other])]);
            assert_eq!(verifier.user(&token), Err("unsupported_algorithm"), "{algorithm:?} {other:?}");
        }
    }
    for algorithm in PUBLIC {
        let token = sign(algorithm, Some("k1"), CLAIMS);
        let set = |kid: &str| {
            let further = format!(r#","kid":"{kid}","use":"sig""#);
            let source = KeySource::JwksText(jwks(&[public_jwk(algorithm, pair(algorithm), &further)]));
            vec![key(&[algorithm], source)]
        };
        for keys in [vec![pem_key(pair(algorithm), &[algorithm])], set("k1")] {
            let verifier = verifier(keys);
            assert_eq!(verifier.user(&token), Ok("user_1".to_owned()), "{algorithm:?}");
            assert_eq!(verifier.user(&tampered(&token)), Err("bad_signature"), "{algorithm:?}");
            let no_kid = sign(algorithm, None, CLAIMS);
            assert_eq!(verifier.user(&no_kid), Ok("user_1".to_owned()), "{algorithm:?}");
        }
        assert_eq!(verifier(set("k2")).user(&token), Err("unknown_key"), "{algorithm:?}");
    }
}

#[test]
fn another_pairs_signature_is_wrong() {
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let verifier = verifier(vec![pem_key(&pairs().p256, &[Algorithm::ES256])]);
    let forged = sign_with(&other, Algorithm::ES256, None, CLAIMS);
    assert_eq!(verifier.user(&forged), Err("bad_signature"));
}

/// The classic forgeries: the header names an algorithm that makes a public thing a key.
#[test]
fn the_header_never_chooses_beyond_the_configuration() {
    let public_pem = pairs().rsa.public_key_pem();
    let confused = mint_hs256(public_pem.as_bytes(), CLAIMS);
    let hmac = EncodingKey::from_secret(SECRET.as_bytes());
    let rsa = || pem_key(&pairs().rsa, &[Algorithm::RS256, Algorithm::PS256]);
    let own = EncodingKey::from_ed_pem(pairs().ed.serialize_pem().as_bytes()).unwrap();
    let embedded = format!(r#"{{"alg":"EdDSA","jwk":{}}}"#, public_jwk(Algorithm::EdDSA, &pairs().ed, ""));
    let embedded = sign_raw(&embedded, CLAIMS, &own, Algorithm::EdDSA);
    let other_ed = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let none = |alg: &str, signature: &str| {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}"}}"#));
        format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(CLAIMS))
    };
    for (what, keys, token, expected) in [
        ("the RSA key as a secret", vec![rsa()], confused.clone(), "unsupported_algorithm"),
        (
            "the RSA key as a secret, where HS256 is allowed for another key",
            vec![rsa(), secret_key(SECRET, &[Algorithm::HS256])],
            confused,
            "bad_signature",
        ),
        (
            "signed with HS256, said to be RS256",
            vec![rsa(), secret_key(SECRET, &[Algorithm::HS256])],
            sign_raw(r#"{"alg":"RS256"}"#, CLAIMS, &hmac, Algorithm::HS256),
            "bad_signature",
        ),
        (
            "signed with RS256, said to be PS256",
            vec![rsa()],
            sign_raw(
                r#"{"alg":"PS256"}"#,
                CLAIMS,
                &signing_key(Algorithm::RS256, &pairs().rsa),
                Algorithm::RS256,
            ),
            "bad_signature",
        ),
        ("none", vec![rsa()], none("none", ""), "unsupported_algorithm"),
        ("None", vec![secret_key(SECRET, &HMAC)], none("None", ""), "unsupported_algorithm"),
        ("no signature", vec![secret_key(SECRET, &HMAC)], none("HS256", ""), "bad_signature"),
        ("no signature", vec![rsa()], none("RS256", ""), "bad_signature"),
        (
            "zeros",
            vec![pem_key(&pairs().p256, &[Algorithm::ES256])],
            none("ES256", &"A".repeat(86)),
            "bad_signature",
        ),
        ("not base64", vec![secret_key(SECRET, &HMAC)], none("HS256", "====.."), "malformed"),
        ("not base64", vec![secret_key(SECRET, &HMAC)], none("HS256", "===="), "bad_signature"),
        ("a key in the header", vec![pem_key(&other_ed, &[Algorithm::EdDSA])], embedded, "bad_signature"),
    ] {
        assert_eq!(verifier(keys).user(&token), Err(expected), "{what}");
    }
}

#[test]
fn what_is_no_token_is_malformed() {
    let verifier = verifier(vec![secret_key(SECRET, &HMAC)]);
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signed = |header: &str, payload: &str| sign_raw(header, payload, &key, Algorithm::HS256);
    let hs256 = r#"{"alg":"HS256"}"#;
    let good = signed(hs256, CLAIMS);
    assert!(verifier.user(&good).is_ok());
    for (token, expected) in [
        (String::new(), "malformed"),
        ("..".to_owned(), "malformed"),
        ("a.b".to_owned(), "malformed"),
        (format!("{good}.x"), "malformed"),
        (format!("{good}\n"), "bad_signature"),
        (format!("Bearer {good}"), "malformed"),
        (signed("[]", CLAIMS), "malformed"),
        (signed("{}", CLAIMS), "malformed"),
        (signed(r#"{"alg":256}"#, CLAIMS), "malformed"),
        (signed(r#"{"alg":"HS256","alg":"HS256"}"#, CLAIMS), "malformed"),
        (signed(r#"{"alg":"HS256","kid":7}"#, CLAIMS), "malformed"),
        (signed(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, CLAIMS), "unsupported_header"),
        (signed(hs256, "not json"), "malformed"),
        (signed(hs256, r#"["sub"]"#), "malformed"),
        (signed(hs256, r#"{"exp":1737453660}"#), "missing_claim"),
        (signed(hs256, r#"{"sub":"u"}"#), "missing_claim"),
        (signed(hs256, r#"{"sub":"u","exp":"soon"}"#), "bad_claim"),
        (signed(hs256, r#"{"sub":"u","exp":1737453590}"#), "expired"),
        (signed(hs256, r#"{"sub":"u","exp":1737453660,"nbf":1737453611}"#), "not_yet_valid"),
    ] {
        assert_eq!(verifier.user(&token), Err(expected), "{token}");
    }
}

#[test]
fn the_lengths_limit_is_the_configured_one() {
    let token = mint_hs256(SECRET.as_bytes(), CLAIMS);
    let http = Arc::new(Client::new(&crate::tls::client_config(None).unwrap()));
    let mut auth = auth(vec![secret_key(SECRET, &HMAC)]);
    auth.token_bytes_max = token.len();
    assert!(Verifier::new(&auth, &http, &metrics()).unwrap().user(&token).is_ok());
    auth.token_bytes_max = token.len() - 1;
    assert_eq!(Verifier::new(&auth, &http, &metrics()).unwrap().user(&token), Err("too_long"));
}

/// A secret bound to these issuers and audiences.
fn bound(secret: &str, issuers: &[&str], audiences: &[&str]) -> AuthKey {
    AuthKey {
        issuers: issuers.iter().map(|&issuer| issuer.into()).collect(),
        audiences: audiences.iter().map(|&audience| audience.to_owned()).collect(),
        ..secret_key(secret, &[Algorithm::HS256])
    }
}

fn claims(rest: &str) -> String {
    format!(r#"{{"sub":"u","exp":{}{rest}}}"#, NOW_UNIX + 1)
}

#[test]
fn issuer_and_audience_are_those_configured() {
    let verifier = verifier(vec![bound(SECRET, &["https://issuer"], &["bridge"])]);
    for (rest, expected) in [
        (r#","iss":"https://issuer","aud":["bridge","x"]"#, Ok("u".to_owned())),
        (r#","iss":"https://issuer""#, Err("missing_claim")),
        (r#","aud":"bridge""#, Err("missing_claim")),
        (r#","iss":"https://issuer/","aud":"bridge""#, Err("wrong_issuer")),
        (r#","iss":"https://issuer","aud":"x""#, Err("wrong_audience")),
    ] {
        assert_eq!(verifier.user(&mint_hs256(SECRET.as_bytes(), &claims(rest))), expected, "{rest}");
    }
}

#[test]
fn a_key_speaks_for_its_own_issuer_alone() {
    let verifier = verifier(vec![
        bound("a's", &["https://a"], &["app"]),
        bound("b's", &["https://b", "https://b2"], &[]),
        bound("free", &[], &[]),
    ]);
    for (secret, rest, expected) in [
        ("a's", r#","iss":"https://a","aud":"app""#, Ok(Some("https://a"))),
        ("a's", r#","iss":"https://b","aud":"app""#, Err("wrong_issuer")),
        ("a's", r#","iss":"https://a","aud":"other""#, Err("wrong_audience")),
        ("b's", r#","iss":"https://b""#, Ok(Some("https://b"))),
        ("b's", r#","iss":"https://b2""#, Ok(Some("https://b2"))),
        ("b's", r#","iss":"https://a","aud":"app""#, Err("wrong_issuer")),
        ("b's", "", Err("missing_claim")),
        // Nobody says who it is; it becomes none of those who are bound.
        ("free", r#","iss":"https://a","aud":"app""#, Ok(None)),
        ("free", "", Ok(None)),
    ] {
        let token = mint_hs256(secret.as_bytes(), &claims(rest));
        let Verify::Done(result) = verifier.verify(&token, now()) else { panic!("nothing is fetched") };
        let issuer = result.as_ref().map(|claims| claims.issuer.as_deref());
        assert_eq!(issuer.map_err(|error| error.result().label()), expected, "{secret} {rest}");
    }
}

/// Two issuers, or one issuer's two audiences, may sign with the same key.
#[test]
fn the_same_key_may_stand_there_twice() {
    let twice = verifier(vec![bound(SECRET, &["a"], &["x"]), bound(SECRET, &["b"], &["y"])]);
    let user = |rest: &str| twice.user(&mint_hs256(SECRET.as_bytes(), &claims(rest)));
    assert_eq!(user(r#","iss":"a","aud":"x""#), Ok("u".to_owned()));
    assert_eq!(user(r#","iss":"b","aud":"y""#), Ok("u".to_owned()));
    assert_eq!(user(r#","iss":"a","aud":"y""#), Err("wrong_audience"));
    assert_eq!(user(r#","iss":"c","aud":"y""#), Err("wrong_issuer"));
}

#[test]
fn several_keys_of_one_algorithm_are_tried_in_turn() {
    let keys = ["the old secret", "the new secret"].map(|secret| secret_key(secret, &[Algorithm::HS256]));
    let verifier = verifier(keys.to_vec());
    for (secret, expected) in [
        ("the old secret", Ok("user_1".to_owned())),
        ("the new secret", Ok("user_1".to_owned())),
        ("x", Err("bad_signature")),
    ] {
        assert_eq!(verifier.user(&mint_hs256(secret.as_bytes(), CLAIMS)), expected);
    }
}

#[test]
fn nothing_of_a_token_or_a_secret_is_shown() {
    let verifier = verifier(vec![secret_key(SECRET, &HMAC)]);
    let token = mint_hs256(SECRET.as_bytes(), r#"{"sub":"u","exp":9999999999,"email":"private"}"#);
    let outcome = verifier.verify(&token, now());
    let verdict = verifier.verify(&token.replace('.', ".x"), now());
    let shown = format!("{verifier:?} {outcome:?} {verdict:?}");
    let parts = token.split('.').chain([SECRET, "private"]);
    for part in parts {
        assert!(!shown.contains(part), "{shown}");
    }
}
