use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::net::socket::Socket;

/// Enough for any handshake here.
const HANDSHAKE_BYTES: usize = 16 * 1024;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server's configuration, and that of a client which trusts it.
fn configs(alpn: &[&[u8]]) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    (Arc::new(server), Arc::new(client))
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0, client)
}

async fn pair() -> (Socket, TlsStream<TcpStream>) {
    let (server, client) = configs(&[b"http/1.1"]);
    let (tcp, theirs) = tcp().await;
    let name = ServerName::try_from("localhost").unwrap();
    let connecting = TlsConnector::from(client).connect(name, theirs);
    let (socket, client) = tokio::join!(Socket::secure(tcp, server, HANDSHAKE_BYTES), connecting);
    (socket.unwrap(), client.unwrap())
}

async fn failure(first: &[u8], bytes_max: usize) -> Failure {
    let (server, _) = configs(&[]);
    let (tcp, mut client) = tcp().await;
    client.write_all(first).await.unwrap();
    client.shutdown().await.unwrap();
    Socket::secure(tcp, server, bytes_max).await.unwrap_err()
}

#[tokio::test]
async fn what_is_written_arrives_and_what_comes_is_read_however_it_is_asked_for() {
    let (mut socket, mut client) = pair().await;
    assert_eq!(socket.tls_version(), Some(ProtocolVersion::TLSv1_3));
    let large: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    let mut read = vec![0; large.len()];
    let (written, got) = tokio::join!(
        async {
            socket.write_all(&large).await?;
            socket.flush().await
        },
        client.read_exact(&mut read),
    );
    written.unwrap();
    got.unwrap();
    assert!(read == large);
    assert_eq!(socket.waiting_bytes(), 0);
    client.write_all(&large).await.unwrap_or_default();
    let mut small = [0; 10];
    for at in (0..large.len()).step_by(small.len()) {
        // By turns: what is decrypted already is ready, whatever the kernel says.
        if at % 20 == 0 {
            std::future::poll_fn(|cx| socket.poll_read_ready(cx)).await.unwrap();
        }
        socket.read_exact(&mut small).await.unwrap();
        assert_eq!(small, large[at..at + small.len()]);
    }
    socket.shut_write();
    assert_eq!(client.read(&mut small).await.unwrap(), 0, "a goodbye, or it would be an error");
}

#[tokio::test]
async fn what_the_kernel_does_not_take_waits_bounded_and_leaves_when_it_does() {
    let (socket, mut client) = pair().await;
    let chunk = vec![7; 100_000];
    let mut taken = 0;
    while let Ok(bytes) = socket.try_write(&chunk) {
        assert!(bytes <= RECORD_BYTES_MAX);
        taken += bytes;
    }
    let waiting = socket.waiting_bytes();
    assert!(waiting > 0 && waiting < RECORD_BYTES_MAX + 1024, "{waiting}");
    let before = socket.wire_bytes().unwrap();
    let mut got = vec![0; taken];
    let (flushed, read) =
        tokio::join!(std::future::poll_fn(|cx| socket.poll_write_ready(cx)), client.read_exact(&mut got),);
    flushed.unwrap();
    read.unwrap();
    assert!(got.iter().all(|byte| *byte == 7));
    assert_eq!((socket.waiting_bytes(), socket.wire_bytes().unwrap() - before), (0, waiting as u64));
}

#[tokio::test]
async fn several_slices_are_written_as_one() {
    let (socket, mut client) = pair().await;
    let slices = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"c")];
    assert_eq!(socket.try_write_vectored(&slices).unwrap(), 3);
    let mut got = [0; 3];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"abc");
}

#[tokio::test]
async fn a_connection_that_is_dropped_says_goodbye_and_one_that_is_cut_just_ends() {
    let (socket, mut client) = pair().await;
    drop(socket);
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    let (mut socket, mut client) = pair().await;
    client.write_all(b"x").await.unwrap();
    client.get_mut().0.shutdown().await.unwrap();
    let mut got = Vec::new();
    socket.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"x");
}

#[tokio::test]
async fn why_there_is_no_tls_is_told_apart() {
    use HandshakeFailure as Why;
    let junk = [HANDSHAKE_RECORD, 3, 1, 0, 5, 1, 0, 0, 1, 0];
    for (first, why) in [
        (&b""[..], Why::Closed),
        (&junk[..4], Why::Closed),
        (&[HANDSHAKE_RECORD, 3, 1, 0, 5, 9, 0, 0, 1, 0][..], Why::Malformed),
        // A `ClientHello` that goes on for as long as one may.
        (
            &[&[HANDSHAKE_RECORD, 3, 1, 0x40, 0, 1, 0, 0xff, 0][..], &[0; 0x3ffc][..]].concat()[..],
            Why::TooLarge,
        ),
    ] {
        let failure = failure(first, 10_000).await;
        assert_eq!(failure.why, why, "{failure:?}");
    }
    let (server, client) = configs(&[b"h3"]);
    let (tcp, theirs) = tcp().await;
    let connecting = TlsConnector::from(client).connect(ServerName::try_from("localhost").unwrap(), theirs);
    let (socket, client) = tokio::join!(Socket::secure(tcp, server, HANDSHAKE_BYTES), connecting);
    assert_eq!(socket.unwrap_err().why, Why::Alpn);
    assert!(client.is_err(), "it is told");
    for (first, why) in [
        (HANDSHAKE_RECORD, None),
        (b'G', Some(Why::PlainHttp)),
        (0, Some(Why::NotTls)),
        (b'g', Some(Why::NotTls)),
    ] {
        assert_eq!(not_tls(first), why);
    }
}

#[tokio::test]
async fn a_handshake_that_is_given_up_leaves_nothing() {
    let (server, _) = configs(&[]);
    let (tcp, _silent) = tcp().await;
    let handshake = Socket::secure(tcp, server.clone(), HANDSHAKE_BYTES);
    assert!(tokio::time::timeout(Duration::from_millis(1), handshake).await.is_err());
    assert_eq!(Arc::strong_count(&server), 1);
}
