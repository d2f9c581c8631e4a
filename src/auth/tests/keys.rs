//! Which keys are taken from the configuration.

use super::*;

/// `openssl genrsa 1024 | openssl rsa -pubout`
const RSA_1024: &str = "\
-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC9Nzetzt0WNRpoet7BvKsFzrGx
KNpYOttc/9i4A2szImuQmHQqnSCNhllaxDpdab22GMjGFPvamUcpC2+nUS7qiPxy
0pWBtt2EeU3CQduwvUnqofE1Z+9jA4VaLyZ6enK3+t/twtXQkmwD5AYJb8q8Tj7L
9mUpldST1ShYXlP/YQIDAQAB
-----END PUBLIC KEY-----
";

fn error(source: KeySource, algorithms: &[Algorithm]) -> String {
    let fine = secret_key(SECRET, &HMAC);
    let wrong = key(algorithms, source);
    let error = try_verifier(vec![fine, wrong]).unwrap_err();
    assert_eq!(error.key_index, 1);
    let text = error.to_string();
    assert!(text.starts_with("auth.keys[1]: "), "{text}");
    text
}

#[test]
fn a_certificates_key_is_taken() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let source = KeySource::Pem(params.self_signed(pair(algorithm)).unwrap().pem());
        let verifier = verifier(vec![key(&[algorithm], source)]);
        assert_eq!(verifier.user(&sign(algorithm, None, CLAIMS)), Ok("user_1".to_owned()), "{algorithm:?}");
    }
}

#[test]
fn an_rsa_key_in_its_old_form_is_taken() {
    let der = base64::engine::general_purpose::STANDARD.encode(pairs().rsa.public_key_raw());
    let pem = format!("-----BEGIN RSA PUBLIC KEY-----\n{der}\n-----END RSA PUBLIC KEY-----\n");
    let algorithms = vec![Algorithm::RS256, Algorithm::PS512];
    let verifier = verifier(vec![key(&algorithms, KeySource::Pem(pem))]);
    for algorithm in [Algorithm::RS256, Algorithm::PS512] {
        assert_eq!(verifier.user(&sign(algorithm, None, CLAIMS)), Ok("user_1".to_owned()));
    }
}

#[test]
fn a_pem_that_does_not_fit_is_told() {
    use Algorithm::{ES256, ES384, EdDSA, HS256, PS256, RS256};
    let Pairs { rsa, p256, p384, ed } = pairs();
    for (pem, algorithms, expected) in [
        (String::new(), &[RS256][..], "no `-----BEGIN PUBLIC KEY-----`"),
        ("-----BEGIN PUBLIC KEY-----\n!\n".to_owned(), &[RS256], "broken PEM"),
        (rsa.serialize_pem(), &[RS256], "private key"),
        (rsa.public_key_pem(), &[HS256], "cannot verify HMAC"),
        (rsa.public_key_pem(), &[ES256], "not one for ES256"),
        (rsa.public_key_pem(), &[RS256, EdDSA], "cannot verify EdDSA"),
        (RSA_1024.to_owned(), &[RS256, PS256], "size does not fit RS256, PS256"),
        (p256.public_key_pem(), &[ES384], "size does not fit ES384"),
        (p384.public_key_pem(), &[ES256], "size does not fit ES256"),
        (p256.public_key_pem(), &[ES256, ES384], "size does not fit ES256, ES384"),
        (ed.public_key_pem(), &[RS256], "not one for RS256"),
        (ed.public_key_pem(), &[], "no algorithms"),
    ] {
        let text = error(KeySource::Pem(pem), algorithms);
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn a_secret_that_does_not_fit_is_told_without_it() {
    for (secret, algorithms, expected) in [
        ("", &[Algorithm::HS256][..], "empty"),
        (SECRET, &[Algorithm::RS256], "cannot verify RS256"),
        (SECRET, &[Algorithm::HS256, Algorithm::ES256], "cannot verify ES256"),
        (SECRET, &[], "no algorithms"),
    ] {
        let text = error(KeySource::Secret(SecretString::from(secret)), algorithms);
        assert!(text.contains(expected) && !text.contains(SECRET), "{expected}: {text}");
    }
}

#[test]
fn a_jwks_that_does_not_fit_is_told() {
    let ed = public_jwk(Algorithm::EdDSA, &pairs().ed, "");
    for (text, expected) in [
        ("", "not a JWKS"),
        ("{}", "not a JWKS"),
        (r#"{"keys":[]}"#, "none of its 0 keys can verify RS256"),
        (&jwks(std::slice::from_ref(&ed)), "none of its 1 keys can verify RS256"),
        (&jwks(&vec![ed; JWKS_KEYS_MAX + 1]), "65 keys; at most 64"),
    ] {
        let text = error(KeySource::JwksText(text.to_owned()), &[Algorithm::RS256]);
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn a_jwks_url_must_be_one() {
    for url in ["", "jwks.json", "/jwks", "ftp://host/jwks", "https://"] {
        let second = Duration::from_secs(1);
        let source =
            KeySource::JwksUrl { url: url.to_owned(), refresh: second, refresh_min: second, max_age: second };
        assert!(error(source, &[Algorithm::RS256]).contains("JWKS URL"), "{url}");
    }
}

/// A real set has keys for other purposes, of unknown kinds, and without the optional members.
#[test]
fn keys_of_a_set_are_taken_for_what_they_are() {
    let p256 = |further: &str| public_jwk(Algorithm::ES256, &pairs().p256, further);
    let token = |kid: &str| sign(Algorithm::ES256, Some(kid), CLAIMS);
    let set = [
        r#"{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA","kid":"unknown-curve"}"#.to_owned(),
        r#"{"kty":"quantum","kid":"unknown-kind"}"#.to_owned(),
        "7".to_owned(),
        r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA","kid":"short"}"#.to_owned(),
        r#"{"kty":"oct","k":"","kid":"empty"}"#.to_owned(),
        p256(r#","kid":"encrypts","use":"enc""#),
        p256(r#","kid":"only-signs","key_ops":["sign"]"#),
        p256(r#","kid":"other-alg","alg":"ES384""#),
        p256(r#","kid":"plain""#),
        p256(r#","kid":"full","alg":"ES256","use":"sig","key_ops":["verify"],"x5c":["AA"]"#),
    ];
    let source = KeySource::JwksText(jwks(&set));
    let verifier = verifier(vec![key(&[Algorithm::ES256], source)]);
    for kid in ["plain", "full"] {
        assert_eq!(verifier.user(&token(kid)), Ok("user_1".to_owned()), "{kid}");
    }
    for kid in ["unknown-curve", "short", "encrypts", "only-signs", "other-alg", "nobody"] {
        assert_eq!(verifier.user(&token(kid)), Err("unknown_key"), "{kid}");
    }
}

#[test]
fn a_symmetric_key_in_a_set_serves_hmac_only() {
    let set = format!(r#"{{"kty":"oct","kid":"s","k":"{}"}}"#, URL_SAFE_NO_PAD.encode(SECRET));
    let rsa = public_jwk(Algorithm::RS256, &pairs().rsa, r#","kid":"r""#);
    let set = jwks(&[set, rsa]);
    let key = |algorithm| super::key(&[algorithm], KeySource::JwksText(set.clone()));
    let token = mint_hs256(SECRET.as_bytes(), CLAIMS);
    assert_eq!(verifier(vec![key(Algorithm::HS256)]).user(&token), Ok("user_1".to_owned()));
    assert_eq!(verifier(vec![key(Algorithm::RS256)]).user(&token), Err("unsupported_algorithm"));
}

/// Two algorithms are configured, but the set's key says that it is for one.
#[test]
fn a_keys_own_algorithm_narrows_the_configured_ones() {
    let jwk = public_jwk(Algorithm::RS256, &pairs().rsa, r#","kid":"r","alg":"RS256""#);
    let algorithms = vec![Algorithm::RS256, Algorithm::PS256];
    let verifier = verifier(vec![key(&algorithms, KeySource::JwksText(jwks(&[jwk])))]);
    assert_eq!(verifier.user(&sign(Algorithm::RS256, Some("r"), CLAIMS)), Ok("user_1".to_owned()));
    assert_eq!(verifier.user(&sign(Algorithm::PS256, Some("r"), CLAIMS)), Err("unknown_key"));
}

#[test]
fn leading_zeros_of_an_rsa_key_do_not_matter() {
    let jwk = public_jwk(Algorithm::RS256, &pairs().rsa, "");
    let mut value: serde_json::Value = serde_json::from_str(&jwk).unwrap();
    let mut n = vec![0];
    n.extend(URL_SAFE_NO_PAD.decode(value["n"].as_str().unwrap()).unwrap());
    value["n"] = URL_SAFE_NO_PAD.encode(n).into();
    let source = KeySource::JwksText(jwks(&[value.to_string()]));
    let verifier = verifier(vec![key(&[Algorithm::RS256], source)]);
    assert_eq!(verifier.user(&sign(Algorithm::RS256, None, CLAIMS)), Ok("user_1".to_owned()));
}
