//! Certificates, and clients that speak TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use pusher_bridge::config::Config;
use pusher_bridge::server::settings::{PemFile, Tls};
use pusher_bridge::tls::server::Identity;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::patiently;

/// Whoever signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, as PEM.
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "an authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `127.0.0.1` and this name.
    pub fn sign(&self, name: &str) -> Pair {
        let names = [name.to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &self.0).unwrap();
        Pair { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// Who trusts this authority, and shows `own`.
    pub fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<&Pair>,
    ) -> Arc<ClientConfig> {
        use rustls::pki_types::pem::PemObject;
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(Pair { cert, key }) => {
                let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                    .unwrap()
            }
        })
    }

    /// The same with what is usual.
    pub fn plain_client(&self) -> Arc<ClientConfig> {
        self.client(rustls::DEFAULT_VERSIONS, None)
    }
}

/// Has the listener show a certificate, and offer HTTP/2 where that is spoken by now.
pub fn serve(config: &mut Config, pair: &Pair, client_ca: Option<&Authority>) {
    let file = || PemFile { path: "test.pem".into(), fingerprint: [0; 32] };
    let client_ca = client_ca.map(Authority::pem);
    let with_http2 = config.server.http2_streams_max > 0;
    config.server.tls = Some(Tls {
        cert: file(),
        key: file(),
        client_ca: client_ca.as_ref().map(|_| file()),
        identity: Identity::new(&pair.cert, &pair.key.clone().into(), client_ca.as_deref(), with_http2)
            .unwrap(),
    });
}

/// Connected, or why not.
pub async fn try_connect(
    address: SocketAddr,
    client: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let name = ServerName::from(address.ip());
    patiently("the handshake", TlsConnector::from(client.clone()).connect(name, tcp)).await
}

/// An old client at `path`, by `wss://`.
pub async fn connect(
    address: SocketAddr,
    client: &Arc<ClientConfig>,
    path: &str,
) -> WebSocketStream<TlsStream<TcpStream>> {
    let stream = try_connect(address, client).await.unwrap();
    let opening = Box::pin(client_async(format!("ws://{address}{path}"), stream));
    patiently("the upgrade", opening).await.unwrap().0
}
