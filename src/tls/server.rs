//! What the listener shows: a certificate with its key, and whose certificates clients must have.

use std::fmt;
use std::panic::RefUnwindSafe;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{Error, InconsistentKeys, RootCertStore, ServerConfig};
use secrecy::{ExposeSecret, SecretString};

use super::validity::not_after;

/// Certificates in a chain: each client gets all of them. Authorities have one or two between.
const CHAIN_MAX: usize = 10;
/// What is spoken behind TLS (RFC 7301 §6, RFC 9113 §3.2), what is rather spoken first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Chain,
    Key,
    ClientCa,
}

/// Made of three files' texts.
pub struct Identity {
    /// For each connection.
    pub config: Arc<ServerConfig>,
    /// When the certificate expires, Unix time, seconds.
    pub not_after: i64,
}

/// Nothing in it changes.
impl RefUnwindSafe for Identity {}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Identity {
    /// TLS 1.2 and 1.3 on aws-lc-rs, by this PEM text of a certificate with those between it and its authority, and of
    /// its key; with `client_ca` clients must show a certificate that one of its authorities has signed. HTTP/2 is offered
    /// or not.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn new(
        chain: &str,
        key: &SecretString,
        client_ca: Option<&str>,
        with_http2: bool,
    ) -> Result<Arc<Self>, (Part, String)> {
        let chain = certificates(chain).map_err(|why| (Part::Chain, why))?;
        if chain.len() > CHAIN_MAX {
            return Err((Part::Chain, format!("more than {CHAIN_MAX} certificates in it")));
        }
        let not_after = chain.first().and_then(|first| not_after(first));
        let not_after = not_after.ok_or_else(|| (Part::Chain, "certificate 1 is broken".to_owned()))?;
        let key = private_key(key).map_err(|why| (Part::Key, why))?;
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| (Part::Chain, error.to_string()))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let verifier = roots(pem).and_then(|roots| {
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|error| error.to_string())
                });
                builder.with_client_cert_verifier(verifier.map_err(|why| (Part::ClientCa, why))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                (Part::Key, "this key is not the certificate's".to_owned())
            }
            Error::InvalidCertificate(_) => (Part::Chain, format!("certificate 1: {error}")),
            _ => (Part::Key, error.to_string()),
        })?;
        config.alpn_protocols =
            PROTOCOLS.iter().skip(usize::from(!with_http2)).map(|name| name.to_vec()).collect();
        // Who comes back needs no key exchange, and leaves nothing here: what is to be remembered is in its ticket.
        config.ticketer = Ticketer::new().map_err(|error| (Part::Chain, error.to_string()))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        Ok(Arc::new(Self { config: Arc::new(config), not_after }))
    }
}

/// By which it is seen whether a file says the same.
#[must_use]
pub fn fingerprint(text: &str) -> [u8; 32] {
    let mut print = [0; 32];
    print.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    print
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|error| error.to_string())?;
    if all.is_empty() {
        return Err("no `-----BEGIN CERTIFICATE-----` in it".to_owned());
    }
    Ok(all)
}

fn roots(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates(pem)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| format!("certificate {}: {error}", index + 1))?;
    }
    Ok(roots)
}

fn private_key(pem: &SecretString) -> Result<PrivateKeyDer<'static>, String> {
    let pem = pem.expose_secret();
    if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        return Err("this key is encrypted: `openssl pkey -in KEY -out PLAIN` decrypts it".to_owned());
    }
    // What is wrong inside is nobody's to see.
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| "no private key that can be read in it (PKCS #8, PKCS #1 or SEC 1, PEM)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn pair() -> (String, SecretString) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["a.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem().into())
    }

    fn wrong(chain: &str, key: &SecretString, client_ca: Option<&str>) -> (Part, String) {
        Identity::new(chain, key, client_ca, false).unwrap_err()
    }

    #[test]
    fn a_pair_is_taken_and_what_is_wrong_is_told() {
        let (chain, key) = pair();
        let (other, other_key) = pair();
        let identity =
            |with_http2| Identity::new(&format!("{chain}{other}"), &key, Some(&other), with_http2).unwrap();
        assert_eq!(identity(true).config.alpn_protocols, PROTOCOLS);
        let identity = identity(false);
        assert_eq!(identity.config.alpn_protocols, [b"http/1.1"]);
        assert!(!format!("{identity:?}").contains("key"));
        assert_eq!(wrong(&chain, &other_key, None), (Part::Key, "this key is not the certificate's".into()));
        for (part, (chain, key, ca)) in [
            (Part::Chain, ("", &key, None)),
            (Part::Chain, ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key, None)),
            (Part::Chain, ("-----BEGIN CERTIFICATE-----\nAAAA\n", &key, None)),
            (Part::Chain, (&*chain.repeat(CHAIN_MAX + 1), &key, None)),
            (Part::Key, (&*chain, &"".into(), None)),
            (Part::Key, (&*chain, &chain.clone().into(), None)),
            (Part::Key, (&*chain, &"-----BEGIN ENCRYPTED PRIVATE KEY-----\n".into(), None)),
            (Part::ClientCa, (&*chain, &key, Some(""))),
            (
                Part::ClientCa,
                (&*chain, &key, Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
            ),
        ] {
            let (found, why) = wrong(chain, key, ca);
            assert_eq!(found, part, "{why}");
        }
    }
}
