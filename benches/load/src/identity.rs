//! The certificate that servers show in the runs by TLS.

use std::fs;
use std::path::{Path, PathBuf};

use pusher_bridge::swarm::socket::Secured;
use pusher_bridge::tls;
use rustls::pki_types::ServerName;

use crate::Result;

const NAME: &str = "bridge.example";

/// Its files.
pub(crate) struct Identity {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// One behind the other.
    pub(crate) both: PathBuf,
}

impl Identity {
    /// One that signs itself, for P-256.
    pub(crate) fn create(directory: &Path) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let place = |name: &str, text: String| -> Result<PathBuf> {
            let path = directory.join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        let both = place("both.pem", format!("{certificate}{key}"))?;
        Ok(Self { certificate: place("certificate.pem", certificate)?, key: place("key.pem", key)?, both })
    }

    /// What clients trust. Each handshake is a whole one: nothing is resumed.
    pub(crate) fn trusted(&self) -> Result<Secured> {
        let mut config = tls::client_config(Some(&self.certificate))?;
        std::sync::Arc::make_mut(&mut config).resumption = rustls::client::Resumption::disabled();
        Ok((config, ServerName::try_from(NAME)?))
    }
}
