//! What the file says of the admin address.

use std::net::SocketAddr;

/// `server.admin` and what belongs to it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where probes and metrics are served: `server.admin`.
    pub listen: SocketAddr,
    /// Names by which this address may be asked to do something, in lower case; addresses and loopback's names always
    /// are: `server.admin_hosts`.
    pub hosts: Vec<String>,
}
