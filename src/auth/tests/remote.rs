//! Keys at a URL.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;

const REFRESH: Duration = Duration::from_secs(3600);
const REFRESH_MIN: Duration = Duration::from_secs(10);
const MAX_AGE: Duration = Duration::from_secs(3 * 3600);

/// A JWKS endpoint that counts.
struct Server {
    url: String,
    fetches: AtomicUsize,
    answer: Mutex<(StatusCode, String)>,
}

impl Server {
    async fn start(document: String) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Arc::new(Self {
            url: format!("http://{}/jwks.json", listener.local_addr().unwrap()),
            fetches: AtomicUsize::new(0),
            answer: Mutex::new((StatusCode::OK, document)),
        });
        let this = Arc::clone(&server);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let this = Arc::clone(&this);
                let answer = service_fn(move |_| {
                    this.fetches.fetch_add(1, Ordering::SeqCst);
                    let (status, document) = this.answer.lock().unwrap().clone();
                    let mut response = Response::new(Full::new(Bytes::from(document)));
                    *response.status_mut() = status;
                    async { Ok::<_, std::convert::Infallible>(response) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), answer));
            }
        });
        server
    }

    fn answers(&self, status: StatusCode, document: String) {
        *self.answer.lock().unwrap() = (status, document);
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    fn verifier(&self, refresh: Duration, refresh_min: Duration) -> Verifier {
        self.counted(refresh, refresh_min, &metrics())
    }

    fn counted(&self, refresh: Duration, refresh_min: Duration, metrics: &Metrics) -> Verifier {
        let source = KeySource::JwksUrl { url: self.url.clone(), refresh, refresh_min, max_age: MAX_AGE };
        let auth = auth(vec![key(&[Algorithm::EdDSA], source)]);
        let http = Client::new(&crate::tls::client_config(None).unwrap());
        let verifier = Verifier::new(&auth, &Arc::new(http), metrics).unwrap();
        verifier.show(now());
        verifier
    }
}

/// A set of the one Ed25519 key there is, under each of these ids.
fn set(kids: &[&str]) -> String {
    let key = |kid: &&str| public_jwk(Algorithm::EdDSA, &pairs().ed, &format!(r#","kid":"{kid}""#));
    jwks(&kids.iter().map(key).collect::<Vec<_>>())
}

fn token(kid: &str) -> String {
    sign(Algorithm::EdDSA, Some(kid), CLAIMS)
}

/// What a session does: the fast way, and the slow one when it has to.
async fn user(verifier: &Verifier, token: &str, now: Now) -> Result<String, &'static str> {
    let result = match verifier.verify(token, now) {
        Verify::Done(result) => result,
        Verify::NeedsKeys => verifier.verify_after_refresh(token, now).await,
    };
    result.map(|claims| claims.user).map_err(|error| error.result().label())
}

fn ok() -> Result<String, &'static str> {
    Ok("user_1".to_owned())
}

#[tokio::test]
async fn the_first_token_fetches_and_the_next_does_not() {
    let server = Server::start(set(&["k1"])).await;
    let verifier = server.verifier(REFRESH, REFRESH_MIN);
    assert_eq!(server.fetches(), 0);
    assert_eq!(verifier.verify(&token("k1"), now()), Verify::NeedsKeys);
    assert_eq!(user(&verifier, &token("k1"), now()).await, ok());
    assert_eq!(verifier.user(&token("k1")), Ok("user_1".to_owned()), "now at once");
    assert_eq!(server.fetches(), 1);
}

#[tokio::test]
async fn what_was_fetched_stays_at_hand_while_its_source_is_the_same() {
    let server = Server::start(set(&["k1"])).await;
    let http = Arc::new(Client::new(&crate::tls::client_config(None).unwrap()));
    let from = |url: &str, refresh: Duration| {
        let (refresh_min, max_age) = (REFRESH_MIN, MAX_AGE);
        let source = KeySource::JwksUrl { url: url.to_owned(), refresh, refresh_min, max_age };
        key(&[Algorithm::EdDSA], source)
    };
    let before = Verifier::new(&auth(vec![from(&server.url, REFRESH)]), &http, &metrics()).unwrap();
    assert_eq!(user(&before, &token("k1"), now()).await, ok());
    let after = |keys: Vec<AuthKey>| {
        let settings = Settings { leeway: Duration::from_secs(1), ..auth(keys) };
        Verifier::after(Some(&before), &settings, &http, &metrics()).unwrap()
    };
    let stricter = AuthKey { issuers: vec!["me".into()], ..from(&server.url, REFRESH) };
    let further = vec![secret_key(SECRET, &HMAC), stricter, from(&server.url, REFRESH)];
    for keys in [vec![from(&server.url, REFRESH)], further] {
        assert_eq!(after(keys).user(&token("k1")), ok());
    }
    for other in [from(&format!("{}?", server.url), REFRESH), from(&server.url, 2 * REFRESH)] {
        assert_eq!(after(vec![other]).user(&token("k1")), Err("needs keys"));
    }
    assert_eq!(server.fetches(), 1);
}

#[test]
fn keys_are_shown_when_they_are_in_force_and_those_that_are_gone_are_zero() {
    let registry = Registry::new().unwrap();
    let metrics = Metrics::new(&registry);
    let http = Arc::new(Client::new(&crate::tls::client_config(None).unwrap()));
    let remote = || {
        let (url, refresh, refresh_min) = ("http://127.0.0.1:1/".to_owned(), REFRESH, REFRESH_MIN);
        key(&[Algorithm::EdDSA], KeySource::JwksUrl { url, refresh, refresh_min, max_age: MAX_AGE })
    };
    let shown = |keys: &[u64]| {
        let lines = |what: &str| {
            let line =
                |(index, age): (usize, &u64)| format!("jwks_{what}_seconds{{key=\"{index}\"}} {age}\n");
            keys.iter().enumerate().map(line).collect::<Vec<_>>()
        };
        let text = registry.render();
        assert!([lines("age"), lines("max_age")].concat().iter().all(|line| text.contains(line)), "{text}");
        assert!(!text.contains(&format!("key=\"{}\"", keys.len())), "{text}");
    };
    let two = Verifier::new(&auth(vec![remote(), remote()]), &http, &metrics).unwrap();
    shown(&[]);
    two.show(now());
    shown(&[10800, 10800]);
    let one = Verifier::new(&auth(vec![remote()]), &http, &metrics).unwrap();
    shown(&[10800, 10800]);
    one.show(now());
    shown(&[10800, 0]);
    metrics.show_keys([]);
    shown(&[0, 0]);
}

#[tokio::test]
async fn good_and_failed_fetches_are_counted_and_the_keys_age_is_shown() {
    let server = Server::start(set(&["k1"])).await;
    let registry = Registry::new().unwrap();
    let verifier = server.counted(REFRESH, REFRESH_MIN, &Metrics::new(&registry));
    let shown = |line: &str| assert!(registry.render().contains(line), "{line} in {}", registry.render());
    shown("pusher_bridge_jwks_max_age_seconds{key=\"0\"} 10800\n");
    assert_eq!(user(&verifier, &token("k1"), now()).await, ok());
    server.answers(StatusCode::INTERNAL_SERVER_ERROR, String::new());
    assert_eq!(user(&verifier, &token("k2"), now().plus(REFRESH_MIN)).await, Err("unknown_key"));
    shown("pusher_bridge_jwks_fetches_total{result=\"ok\"} 1\n");
    shown("pusher_bridge_jwks_fetches_total{result=\"failed\"} 1\n");
    verifier.upkeep(now().plus(REFRESH_MIN));
    shown(&format!("pusher_bridge_jwks_age_seconds{{key=\"0\"}} {}\n", REFRESH_MIN.as_secs()));
}

#[tokio::test]
async fn an_unknown_kid_fetches_once_per_refresh_min() {
    let server = Server::start(set(&["k1"])).await;
    let verifier = server.verifier(REFRESH, REFRESH_MIN);
    assert_eq!(user(&verifier, &token("k1"), now()).await, ok());
    for _ in 0..5 {
        assert_eq!(user(&verifier, &token("k2"), now()).await, Err("unknown_key"), "too soon to ask again");
    }
    assert_eq!(server.fetches(), 1);

    let later = now().plus(REFRESH_MIN);
    for _ in 0..5 {
        assert_eq!(user(&verifier, &token("k2"), later).await, Err("unknown_key"));
    }
    assert_eq!(server.fetches(), 2);

    server.answers(StatusCode::OK, set(&["k2", "k3"]));
    let later = now().plus(REFRESH_MIN * 2);
    assert_eq!(user(&verifier, &token("k2"), later).await, ok(), "rotated");
    assert_eq!(user(&verifier, &token("k3"), later).await, ok());
    assert_eq!(user(&verifier, &token("k1"), later).await, Err("unknown_key"), "withdrawn");
    assert_eq!(server.fetches(), 3);
}

/// What a header says of keys elsewhere steers no request: nothing in it is to be believed before its signature.
#[tokio::test]
async fn a_token_chooses_no_place_to_fetch_from() {
    let ours = Server::start(set(&["k1"])).await;
    let theirs = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let kid = r#","kid":"evil""#;
    let attackers = Server::start(jwks(&[public_jwk(Algorithm::EdDSA, &theirs, kid)])).await;
    let verifier = ours.verifier(REFRESH, REFRESH_MIN);
    let url = &attackers.url;
    let mut later = now();
    for header in [
        format!(r#"{{"alg":"EdDSA","kid":"evil","jku":"{url}"}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"evil","x5u":"{url}"}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"{url}"}}"#),
        r#"{"alg":"EdDSA","kid":"../evil?x=y"}"#.to_owned(),
    ] {
        let claims = format!(r#"{{"sub":"user_1","exp":1737457200,"iss":"{url}"}}"#);
        let token = sign_raw(&header, &claims, &signing_key(Algorithm::EdDSA, &theirs), Algorithm::EdDSA);
        assert_eq!(user(&verifier, &token, later).await, Err("unknown_key"), "{header}");
        later = later.plus(REFRESH_MIN);
    }
    assert_eq!((ours.fetches(), attackers.fetches()), (4, 0), "the configured place alone was asked");
}

#[tokio::test]
async fn a_wrong_signature_under_a_known_kid_fetches_once_per_refresh_min() {
    let server = Server::start(set(&["k1"])).await;
    let verifier = server.verifier(REFRESH, REFRESH_MIN);
    assert_eq!(user(&verifier, &token("k1"), now()).await, ok());
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let forged = sign_with(&other, Algorithm::EdDSA, Some("k1"), CLAIMS);
    for _ in 0..20 {
        assert_eq!(user(&verifier, &forged, now()).await, Err("bad_signature"));
    }
    let expired = sign(Algorithm::EdDSA, Some("k1"), &CLAIMS.replace("1737453660", "1"));
    let later = at(REFRESH_MIN);
    assert_eq!(user(&verifier, &expired, later).await, Err("expired"));
    let unsupported = mint_hs256(SECRET.as_bytes(), CLAIMS);
    assert_eq!(user(&verifier, &unsupported, later).await, Err("unsupported_algorithm"));
    assert_eq!(server.fetches(), 1, "what no key could make good asks for none");
    for _ in 0..20 {
        assert_eq!(user(&verifier, &forged, later).await, Err("bad_signature"));
    }
    assert_eq!(server.fetches(), 2);
    assert_eq!(user(&verifier, &token("k1"), later).await, ok(), "and nobody else is kept waiting");
}

#[tokio::test]
async fn a_key_replaced_under_its_own_kid_is_found() {
    let server = Server::start(set(&["k1"])).await;
    let verifier = server.verifier(REFRESH, REFRESH_MIN);
    assert_eq!(user(&verifier, &token("k1"), now()).await, ok());
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    server.answers(StatusCode::OK, jwks(&[public_jwk(Algorithm::EdDSA, &other, r#","kid":"k1""#)]));
    let new = sign_with(&other, Algorithm::EdDSA, Some("k1"), CLAIMS);
    assert_eq!(user(&verifier, &new, at(REFRESH_MIN)).await, ok());
    assert_eq!(user(&verifier, &token("k1"), at(REFRESH_MIN)).await, Err("bad_signature"));
    assert_eq!(server.fetches(), 2);
}

/// That much later, by the clock that keys go by; tokens do not expire.
fn at(later: Duration) -> Now {
    Now { mono: now().mono + later, ..now() }
}

/// A set is an answer, whatever it lacks.
#[tokio::test]
async fn withdrawn_keys_are_not_believed_any_more() {
    let p256 = public_jwk(Algorithm::ES256, &pairs().p256, r#","kid":"other""#);
    for document in
        [r#"{"keys":[]}"#.to_owned(), set(&["k2"]), jwks(&[p256]), r#"{"keys":[7],"x":1}"#.to_owned()]
    {
        let server = Server::start(set(&["k1"])).await;
        let verifier = server.verifier(REFRESH, REFRESH_MIN);
        assert_eq!(user(&verifier, &token("k1"), now()).await, ok());
        server.answers(StatusCode::OK, document.clone());
        verifier.upkeep(at(REFRESH));
        // Joins the fetch that upkeep has begun.
        let _ = verifier.verify_after_refresh(&token("none"), at(REFRESH)).await;
        assert_eq!(user(&verifier, &token("k1"), at(REFRESH)).await, Err("unknown_key"), "{document}");
        assert!(verifier.has_had_keys(now()));
        assert_eq!(verifier.keys_at_hand(at(REFRESH)), (1, 1), "that there are none is known");
        server.answers(StatusCode::OK, set(&["k1"]));
        assert_eq!(user(&verifier, &token("k1"), at(REFRESH + REFRESH_MIN)).await, ok(), "and back again");
    }
}

#[tokio::test]
async fn kept_keys_have_an_end() {
    let failures = [
        (StatusCode::NOT_FOUND, r#"{"keys":[]}"#),
        (StatusCode::GONE, ""),
        (StatusCode::INTERNAL_SERVER_ERROR, ""),
        (StatusCode::OK, "<html>"),
        (StatusCode::OK, "{}"),
    ];
    for (status, document) in failures {
        let server = Server::start(set(&["k1"])).await;
        let verifier = server.verifier(REFRESH, REFRESH_MIN);
        assert_eq!(verifier.keys_at_hand(now()), (0, 1));
        assert!(!verifier.has_had_keys(now()));
        assert_eq!(user(&verifier, &token("k1"), now()).await, ok());
        server.answers(status, document.to_owned());
        let last = MAX_AGE - Duration::from_millis(1);
        assert_eq!(user(&verifier, &token("k1"), at(last)).await, ok(), "{status}: kept");
        let ages: Vec<_> = verifier.key_ages(at(last)).collect();
        assert_eq!(ages, [(Some(last), MAX_AGE)], "{status}");
        assert_eq!(user(&verifier, &token("k1"), at(MAX_AGE)).await, Err("keys_unavailable"), "{status}");
        assert_eq!(verifier.keys_at_hand(at(MAX_AGE)), (0, 1));
        assert!(verifier.has_had_keys(at(MAX_AGE)));
        server.answers(StatusCode::OK, set(&["k1"]));
        assert_eq!(
            user(&verifier, &token("k1"), at(MAX_AGE + REFRESH_MIN)).await,
            ok(),
            "{status}: and again"
        );
    }
}

/// An issuer that names no keys can rotate, too.
#[tokio::test]
async fn a_token_without_kid_finds_a_new_key() {
    let server = Server::start(set(&["k1"])).await;
    let verifier = server.verifier(REFRESH, REFRESH_MIN);
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let token = sign_with(&other, Algorithm::EdDSA, None, CLAIMS);
    assert_eq!(user(&verifier, &token, now()).await, Err("bad_signature"));
    server.answers(StatusCode::OK, jwks(&[public_jwk(Algorithm::EdDSA, &other, "")]));
    assert_eq!(user(&verifier, &token, now()).await, Err("bad_signature"), "too soon");
    assert_eq!(user(&verifier, &token, now().plus(REFRESH_MIN)).await, ok());
    assert_eq!(server.fetches(), 2);
}

#[tokio::test]
async fn a_failed_refresh_keeps_the_old_keys() {
    let server = Server::start(set(&["k1"])).await;
    let verifier = server.verifier(REFRESH, REFRESH_MIN);
    assert_eq!(user(&verifier, &token("k1"), now()).await, ok());
    let failures = [
        (StatusCode::INTERNAL_SERVER_ERROR, set(&["k2"])),
        (StatusCode::FOUND, set(&["k2"])),
        (StatusCode::OK, "<html>".to_owned()),
        (StatusCode::NOT_FOUND, r#"{"keys":[]}"#.to_owned()),
        (StatusCode::OK, "[[]]".to_owned()),
        (StatusCode::OK, r#"{"keys":{}}"#.to_owned()),
        (StatusCode::OK, jwks(&vec![public_jwk(Algorithm::EdDSA, &pairs().ed, ""); JWKS_KEYS_MAX + 1])),
        (StatusCode::OK, format!("{}{}", set(&["k2"]), " ".repeat(JWKS_BYTES_MAX))),
    ];
    for (n, (status, document)) in (1..).zip(failures) {
        server.answers(status, document);
        let later = now().plus(REFRESH_MIN * n);
        assert_eq!(user(&verifier, &token("k2"), later).await, Err("unknown_key"), "{n}");
        assert_eq!(server.fetches(), 1 + n as usize, "a failure is bounded by refresh_min, too");
        assert_eq!(verifier.user(&token("k1")), Ok("user_1".to_owned()), "{n}");
    }
}

#[tokio::test]
async fn without_any_keys_the_token_is_not_to_blame() {
    let server = Server::start(String::new()).await;
    let verifier = server.verifier(REFRESH, REFRESH_MIN);
    for _ in 0..3 {
        assert_eq!(user(&verifier, &token("k1"), now()).await, Err("keys_unavailable"));
    }
    assert_eq!(server.fetches(), 1);
    assert!(!TokenError::KeysUnavailable.is_tokens_fault());
    assert_eq!(verifier.retry_after(now()), REFRESH_MIN);
    assert_eq!(verifier.retry_after(at(Duration::from_secs(7))), Duration::from_secs(3));
    assert_eq!(verifier.retry_after(at(REFRESH)), Duration::ZERO);
    server.answers(StatusCode::OK, set(&["k1"]));
    assert_eq!(user(&verifier, &token("k1"), now().plus(REFRESH_MIN)).await, ok());
}

#[tokio::test]
async fn an_unreachable_set_does_not_hide_another_key() {
    let server = Server::start(String::new()).await;
    let source = KeySource::JwksUrl {
        url: server.url.clone(),
        refresh: REFRESH,
        refresh_min: REFRESH_MIN,
        max_age: MAX_AGE,
    };
    let remote = key(&[Algorithm::EdDSA], source);
    let verifier = verifier(vec![remote, pem_key(&pairs().ed, &[Algorithm::EdDSA])]);
    assert_eq!(verifier.user(&token("any")), Ok("user_1".to_owned()), "at once");
}

#[tokio::test]
async fn old_keys_serve_while_they_are_renewed() {
    let server = Server::start(set(&["k1"])).await;
    let verifier = server.verifier(REFRESH, REFRESH_MIN);
    assert_eq!(user(&verifier, &token("k1"), now()).await, ok());
    server.answers(StatusCode::OK, set(&["k2"]));

    let old = now().plus(REFRESH);
    // The token's own times are not what is tested here.
    let at = Now { unix_ms: now().unix_ms, ..old };
    assert!(matches!(verifier.verify(&token("k1"), at), Verify::Done(Ok(_))), "nobody waits");
    // Joins the fetch that the line above has begun.
    let joined = verifier.verify_after_refresh(&token("k2"), at).await;
    assert_eq!(joined.map(|claims| claims.user).as_deref(), Ok("user_1"));
    assert_eq!(server.fetches(), 2);
    assert_eq!(verifier.user(&token("k1")), Err("unknown_key"));
}

#[tokio::test]
async fn upkeep_fetches_ahead_of_the_first_token() {
    let server = Server::start(set(&["k1"])).await;
    let verifier = server.verifier(REFRESH, REFRESH_MIN);
    verifier.upkeep(now());
    verifier.upkeep(now());
    assert!(verifier.verify_after_refresh(&token("k1"), now()).await.is_ok());
    verifier.upkeep(now());
    assert_eq!(server.fetches(), 1);
}

#[tokio::test]
async fn concurrent_refreshes_are_one() {
    let server = Server::start(set(&["k1"])).await;
    // Nothing but the coalescing bounds this one.
    let verifier = server.verifier(REFRESH, Duration::ZERO);
    let token = token("k1");
    let all = (0..50).map(|_| verifier.verify_after_refresh(&token, now()));
    let results = futures_util::future::join_all(all).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(server.fetches(), 1);
}

/// The one who began the fetch may go; those who joined get their keys.
#[tokio::test]
async fn a_fetch_outlives_who_began_it() {
    let server = Server::start(set(&["k1"])).await;
    let verifier = server.verifier(REFRESH, REFRESH_MIN);
    let token = token("k1");
    let mut beginner = Box::pin(verifier.verify_after_refresh(&token, now()));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(beginner.as_mut().poll(&mut cx).is_pending());
    drop(beginner);
    assert!(verifier.verify_after_refresh(&token, now()).await.is_ok());
    assert_eq!(server.fetches(), 1);
}
