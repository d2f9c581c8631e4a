//! What outgoing TLS trusts: Mozilla's authorities, and those of a file; and what the listener shows.

pub mod server;
mod validity;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Largest CA file that is read, bytes. A whole system's bundle has some 250 KiB.
pub const CA_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why no TLS configuration could be made.
#[derive(Debug)]
pub struct TlsError {
    file: Option<PathBuf>,
    message: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "CA file {}: {}", file.display(), self.message),
            None => write!(f, "TLS: {}", self.message),
        }
    }
}

impl std::error::Error for TlsError {}

/// A client configuration that trusts webpki-roots and, beside them, every certificate in the PEM file
/// `ca_file`: as an authority, and as a server's own. TLS 1.2 and 1.3 on aws-lc-rs, given explicitly so that no process-wide default matters; no
/// ALPN, for the same configuration serves HTTP/1 and WebSocket.
///
/// # Errors
/// The file cannot be read, is larger than [`CA_FILE_BYTES_MAX`], or holds no or a broken certificate.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let own = match ca_file {
        Some(path) => {
            add_file(&mut roots, path).map_err(|message| TlsError { file: Some(path.to_owned()), message })?
        }
        None => Vec::new(),
    };
    let failed = |error: &dyn fmt::Display| TlsError { file: None, message: error.to_string() };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?;
    let config = if own.is_empty() {
        builder.with_root_certificates(roots).with_no_client_auth()
    } else {
        let by_authority = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| failed(&error))?;
        let verifier = Arc::new(OwnOrSigned { own, by_authority });
        // "Dangerous" is every verifier but rustls' own; this one asks that first.
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    };
    Ok(Arc::new(config))
}

/// Takes what an authority has signed, and the very certificates of the file. A server's self-signed certificate is
/// usually marked as an authority's (`openssl req -x509`), and then no server's by the rules of authorities.
#[derive(Debug)]
struct OwnOrSigned {
    own: Vec<CertificateDer<'static>>,
    by_authority: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for OwnOrSigned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.by_authority.verify_server_cert(certificate, intermediates, name, ocsp, now);
        let Err(rustls::Error::InvalidCertificate(
            // Who has signed it, and as what. That it is out of date is found before these, and told.
            CertificateError::UnknownIssuer | CertificateError::Other(_),
        )) = &verified
        else {
            return verified;
        };
        if !self.own.iter().any(|own| own == certificate) {
            return verified;
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authority.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authority.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

/// Gives the file's certificates, which it makes authorities.
fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CA_FILE_BYTES_MAX + 1).read_to_end(&mut pem))
        .map_err(|error| error.to_string())?;
    if u64::try_from(pem.len()).is_ok_and(|length| length > CA_FILE_BYTES_MAX) {
        return Err(format!("larger than {CA_FILE_BYTES_MAX} bytes"));
    }
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let place = certificates.len() + 1;
        let certificate = certificate
            .map_err(|error| error.to_string())
            .and_then(|der| roots.add(der.clone()).map_err(|error| error.to_string()).map(|()| der))
            .map_err(|error| format!("certificate {place}: {error}"))?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err("no `-----BEGIN CERTIFICATE-----` in it".to_owned());
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of its own below the system's temporary directory, gone when dropped.
    struct TempFile(PathBuf);

    impl TempFile {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pusher-bridge-{}-{name}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            Self(path)
        }
    }

    impl Drop for TempFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn roots_are_trusted_without_a_file() {
        let config = client_config(None).unwrap();
        assert!(config.alpn_protocols.is_empty());
    }

    /// A certificate that signs itself, of this name, valid for these years, and for an authority or not.
    fn self_signed(name: &str, (from, to): (i32, i32), is_ca: bool) -> rcgen::Certificate {
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        if is_ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap()
    }

    /// What the verifier for a file of these certificates says of one, for a server of this name, in 2026.
    fn verified(file: &[&rcgen::Certificate], shown: &rcgen::Certificate, name: &str) -> String {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let own: Vec<_> = file.iter().map(|certificate| certificate.der().clone()).collect();
        own.iter().for_each(|certificate| roots.add(certificate.clone()).unwrap());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let by_authority =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_780_000_000));
        match (OwnOrSigned { own, by_authority }).verify_server_cert(shown.der(), &[], &name, &[], now) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_servers_own_certificate_is_taken_and_nothing_else_is_loosened() {
        let years = (2020, 2040);
        for is_ca in [true, false] {
            let own = self_signed("pusher.internal", years, is_ca);
            let other = self_signed("pusher.internal", years, is_ca);
            let authority = self_signed("authority", years, true);
            assert_eq!(verified(&[&own], &own, "pusher.internal"), "accepted", "{is_ca}");
            assert_eq!(verified(&[&authority, &own], &own, "pusher.internal"), "accepted", "{is_ca}");
            for (file, shown, name, why) in [
                (&own, &own, "other.internal", "not valid for name"),
                (&other, &own, "pusher.internal", "invalid peer certificate"),
                (&authority, &own, "pusher.internal", "invalid peer certificate"),
            ] {
                let text = verified(&[file], shown, name);
                assert!(text.contains(why), "{is_ca} {name}: {text}");
            }
            for years in [(2010, 2020), (2035, 2040)] {
                let untimely = self_signed("pusher.internal", years, is_ca);
                let text = verified(&[&untimely], &untimely, "pusher.internal");
                assert!(text.contains("expired") || text.contains("not valid yet"), "{is_ca}: {text}");
            }
        }
    }

    #[test]
    fn a_wrong_file_is_told_by_its_name_and_its_fault() {
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (name, text, expected) in [
            ("empty.pem", "", "no `-----BEGIN CERTIFICATE-----`"),
            ("prose.pem", "not a certificate", "no `-----BEGIN CERTIFICATE-----`"),
            ("broken.pem", broken, "certificate 1: "),
        ] {
            let file = TempFile::new(name, text);
            let error = client_config(Some(&file.0)).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(expected), "{error}");
        }
        let error = client_config(Some(Path::new("/nonexistent/ca.pem"))).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/ca.pem"), "{error}");
    }
}
