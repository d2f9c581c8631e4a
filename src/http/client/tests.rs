use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Far beyond what any of these takes. A test of time-outs lets it pass by pausing tokio's clock, which then
/// jumps to the next timer.
const LONG: Duration = Duration::from_secs(30);

fn client() -> Client {
    Client::new(&crate::tls::client_config(None).unwrap())
}

fn post(uri: &str, body: &'static str) -> Request {
    Request {
        method: Method::POST,
        uri: uri.parse().unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::from_static(body.as_bytes()),
    }
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/path?auth_signature=SECRET", listener.local_addr().unwrap());
    (listener, url)
}

/// Reads one request whose body is `end`, or whatever comes before the stream's end.
async fn read_request(stream: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk).await.unwrap() {
            0 => break,
            n => seen.extend_from_slice(&chunk[..n]),
        }
    }
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn a_request_is_answered_and_its_connection_used_again() {
    let (listener, url) = listener().await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let echo = service_fn(|request: hyper::Request<Incoming>| async move {
                let header = request.headers().get("x-test").cloned().unwrap();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut response = hyper::Response::new(Full::new(body));
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                response.headers_mut().insert("x-test", header);
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("7"));
                Ok::<_, std::convert::Infallible>(response)
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), echo),
            );
        }
    });
    let client = client();
    for _ in 0..3 {
        let mut request = post(&url, "hello");
        request.headers.insert("x-test", HeaderValue::from_static("1"));
        let response = client.send(request, LONG, 5).await.unwrap();
        assert_eq!(response.status, 429, "a refusal is an answer");
        assert_eq!(response.retry_after, Some(Duration::from_secs(7)));
        assert_eq!(response.body, "hello");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_refused_connection_is_not_sent() {
    let (listener, url) = listener().await;
    drop(listener);
    let error = client().send(post(&url, "x"), LONG, 10).await.unwrap_err();
    assert!(matches!(error, HttpError::NotSent(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("could not connect to http://127.0.0.1:"), "{text}");
    assert!(text.to_lowercase().contains("refused"), "the cause is told: {text}");
    assert!(!text.contains("SECRET") && !text.contains("/path"), "{text}");
    assert!(error.source().is_some());
}

#[tokio::test]
async fn a_uri_without_a_host_is_not_sent() {
    let error = client().send(post("/relative", "x"), LONG, 10).await.unwrap_err();
    assert!(matches!(error, HttpError::NotSent(_)), "{error:?}");
}

#[tokio::test]
async fn a_close_after_the_request_is_ambiguous() {
    let (listener, url) = listener().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream, "BODY").await
    });
    let error = client().send(post(&url, "BODY"), LONG, 10).await.unwrap_err();
    assert!(matches!(error, HttpError::Ambiguous(_)), "{error:?}");
    assert!(server.await.unwrap().ends_with("BODY"));
}

/// Whatever becomes of the body, the status has said what became of the request.
#[tokio::test]
async fn a_body_that_breaks_off_is_an_answer() {
    for (head, sent) in [
        ("200 OK\r\ncontent-length: 9", "short"),
        ("200 OK\r\ncontent-length: 9", ""),
        ("200 OK\r\ntransfer-encoding: chunked", "5\r\nsho"),
        ("200 OK\r\ntransfer-encoding: chunked", "zz\r\n"),
        ("503 Service Unavailable\r\nretry-after: 7\r\ncontent-length: 9", "short"),
    ] {
        let (listener, url) = listener().await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream, "BODY").await;
            stream.write_all(format!("HTTP/1.1 {head}\r\n\r\n{sent}").as_bytes()).await.unwrap();
        });
        let error = client().send(post(&url, "BODY"), LONG, 10).await.unwrap_err();
        let text = error.to_string();
        let HttpError::BrokenOff { answer, .. } = error else { panic!("{head}: {text}") };
        assert!(
            text.contains("but its body broke off") && text.contains(&answer.status.to_string()),
            "{text}"
        );
        assert_eq!(answer.retry_after, (answer.status == 503).then_some(Duration::from_secs(7)));
    }
}

/// A body that ends with its connection may have been cut.
#[tokio::test]
async fn a_body_is_readable_when_its_end_was_told() {
    for (answer, readable) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", true),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}", true),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", true),
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"ba", false),
        ("HTTP/1.0 200 OK\r\n\r\n{\"ba", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-encoding: gzip\r\n\r\n{}", false),
    ] {
        let (listener, url) = listener().await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream, "BODY").await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let response = client().send(post(&url, "BODY"), LONG, 10).await.unwrap();
        assert_eq!(response.readable, readable, "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_end_in_time_is_an_answer() {
    let (listener, url) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream, "BODY").await;
        stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 9\r\n\r\nshort").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let error = client().send(post(&url, "BODY"), Duration::from_millis(500), 10).await.unwrap_err();
    assert!(error.to_string().contains("not all of it within 500ms"), "{error}");
    assert!(matches!(error, HttpError::BrokenOff { answer, .. } if answer.status == 202));
}

/// Without `close_notify` nobody knows whether a body that ends with the connection is whole.
#[tokio::test]
async fn a_tls_stream_cut_within_the_body_is_an_answer() {
    let (ca_pem, address) = tls_server(|mut stream| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{}").await.unwrap();
        stream.flush().await.unwrap();
        // The socket alone is closed.
    })
    .await;
    let url = format!("https://localhost:{}/", address.port());
    let error = trusting(&ca_pem, "cut").send(post(&url, "BODY"), LONG, 100).await.unwrap_err();
    assert!(matches!(error, HttpError::BrokenOff { ref answer, .. } if answer.status == 200), "{error:?}");
}

#[tokio::test]
async fn a_slow_answer_is_ambiguous() {
    let (listener, url) = listener().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_request(&mut stream, "BODY").await;
        tokio::time::pause();
        // Returns when the client gives up: nothing is answered.
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        request
    });
    let error = client().send(post(&url, "BODY"), LONG, 10).await.unwrap_err();
    assert!(matches!(error, HttpError::Ambiguous(_)), "{error:?}");
    assert!(error.to_string().contains("did not answer within 30s"), "{error}");
    assert!(server.await.unwrap().ends_with("BODY"));
}

#[tokio::test]
async fn a_tls_handshake_that_hangs_is_not_sent() {
    let (listener, url) = listener().await;
    let url = url.replace("http:", "https:");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::time::pause();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let error = client().send(post(&url, "x"), LONG, 10).await.unwrap_err();
    assert!(matches!(error, HttpError::NotSent(_)), "{error:?}");
    assert!(error.to_string().contains("no connection to https://127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_told_with_its_status() {
    for head in ["content-length: 11", "transfer-encoding: chunked"] {
        let (listener, url) = listener().await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream, "BODY").await;
            let body = if head.contains("chunked") { "b\r\n01234567890\r\n0\r\n\r\n" } else { "01234567890" };
            let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        let error = client().send(post(&url, "BODY"), LONG, 10).await.unwrap_err();
        assert!(
            matches!(error, HttpError::TooLarge { ref answer, .. } if answer.status == 200),
            "{head}: {error:?}"
        );
    }
}

/// The server answers one request, then reads a second one on the same connection and closes without an
/// answer. The second may have been processed, so it must come exactly once.
#[tokio::test]
async fn a_request_on_a_reused_connection_is_never_repeated() {
    let (listener, url) = listener().await;
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream, "BODY").await;
            if counter.fetch_add(1, Ordering::SeqCst) == 0 {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                read_request(&mut stream, "BODY").await;
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let client = client();
    client.send(post(&url, "BODY"), LONG, 10).await.unwrap();
    let error = client.send(post(&url, "BODY"), LONG, 10).await.unwrap_err();
    assert!(matches!(error, HttpError::Ambiguous(_)), "{error:?}");
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}

/// A kept-alive connection that the server closed while idle costs the next request nothing.
#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced() {
    let (listener, url) = listener().await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream, "BODY").await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    });
    let client = client();
    for _ in 0..20 {
        match client.send(post(&url, "BODY"), LONG, 10).await {
            Ok(response) => assert_eq!(response.status, 200),
            // The close may overtake the request only after its first byte went out, and is told so.
            Err(error) => assert!(matches!(error, HttpError::Ambiguous(_)), "{error:?}"),
        }
    }
}

/// A client that trusts this authority; `name` is the caller's own.
fn trusting(ca_pem: &str, name: &str) -> Client {
    let file = std::env::temp_dir().join(format!("pusher-bridge-{}-http-{name}.pem", std::process::id()));
    std::fs::write(&file, ca_pem).unwrap();
    let client = Client::new(&crate::tls::client_config(Some(&file)).unwrap());
    std::fs::remove_file(&file).unwrap();
    client
}

#[tokio::test]
async fn tls_trusts_the_files_authority_and_no_other() {
    let (ca_pem, address) = tls_server(|stream| async move {
        let echo = service_fn(|request: hyper::Request<Incoming>| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::new(body)))
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), echo).await;
    })
    .await;
    let trusting = trusting(&ca_pem, "ca");
    let url = format!("https://localhost:{}/", address.port());

    let response = trusting.send(post(&url, "over TLS"), LONG, 100).await.unwrap();
    assert_eq!(response.body, "over TLS");

    let error = client().send(post(&url, "x"), LONG, 100).await.unwrap_err();
    assert!(matches!(error, HttpError::NotSent(_)), "{error:?}");
    assert!(error.to_string().contains("certificate"), "{error}");

    let url = format!("https://127.0.0.1:{}/", address.port());
    let error = trusting.send(post(&url, "x"), LONG, 100).await.unwrap_err();
    assert!(matches!(error, HttpError::NotSent(_)), "the certificate is for localhost: {error:?}");
}

/// Serves connections over TLS as `localhost`, under an authority made for this call.
async fn tls_server<F>(
    serve: impl Fn(tokio_rustls::server::TlsStream<TcpStream>) -> F + Send + 'static,
) -> (String, SocketAddr)
where
    F: Future<Output = ()> + Send + 'static,
{
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(serve(stream));
            }
        }
    });
    (ca_pem, address)
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = Now { mono: Now::read().mono, unix_ms: 784_111_777_000 };
    for (value, expected) in [
        ("120", Some(Duration::from_secs(120))),
        (" 0 ", Some(Duration::ZERO)),
        ("Sun, 06 Nov 1994 08:50:37 GMT", Some(Duration::from_secs(60))),
        ("Sun, 06 Nov 1994 08:49:36 GMT", Some(Duration::ZERO)),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("soon", None),
        ("99999999999999999999999", None),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        assert_eq!(retry_after(&headers, now), expected, "{value:?}");
    }
    assert_eq!(retry_after(&HeaderMap::new(), now), None);
}

#[test]
fn debug_shows_no_secret() {
    let mut request = post("https://user:SECRET@example.com:8443/x?auth_signature=SECRET", "SECRET");
    request.headers.insert("authorization", HeaderValue::from_static("SECRET"));
    assert_eq!(format!("{request:?}"), "POST https://example.com:8443 (6 bytes)");
}
