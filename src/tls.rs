//! What outgoing TLS trusts: Mozilla's authorities, and those of a file.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

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
/// `ca_file`. TLS 1.2 and 1.3 on aws-lc-rs, given explicitly so that no process-wide default matters; no
/// ALPN, for the same configuration serves HTTP/1 and WebSocket.
///
/// # Errors
/// The file cannot be read, is larger than [`CA_FILE_BYTES_MAX`], or holds no or a broken certificate.
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca_file {
        add_file(&mut roots, path).map_err(|message| TlsError { file: Some(path.to_owned()), message })?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError { file: None, message: error.to_string() })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CA_FILE_BYTES_MAX + 1).read_to_end(&mut pem))
        .map_err(|error| error.to_string())?;
    if u64::try_from(pem.len()).is_ok_and(|length| length > CA_FILE_BYTES_MAX) {
        return Err(format!("larger than {CA_FILE_BYTES_MAX} bytes"));
    }
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        count += 1;
        certificate
            .map_err(|error| error.to_string())
            .and_then(|der| roots.add(der).map_err(|error| error.to_string()))
            .map_err(|error| format!("certificate {count}: {error}"))?;
    }
    if count == 0 {
        return Err("no `-----BEGIN CERTIFICATE-----` in it".to_owned());
    }
    Ok(())
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
