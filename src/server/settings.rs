//! What `[server]` says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::forwarded::ForwardedHeader;
use crate::tls::server::Identity;

/// `[server]`
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where old clients connect.
    pub listen: SocketAddr,
    /// What is shown there; `None`: connections are plain.
    pub tls: Option<Tls>,
    /// A path of `listen` that tells load balancers whether new clients are welcome; `None`: there is none.
    pub health_path: Option<String>,
    /// Threads that serve clients; at least 1. Default: the machine's cores.
    pub workers: usize,
    /// Peers whose forwarding header is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether those say by a header whose connection it is.
    pub proxy_protocol: ProxyProtocol,
    /// Which header names the client behind a trusted proxy.
    pub forwarded: ForwardedHeader,
    /// So many first bits of an IPv6 address are one client: 32 to 128 (default 64).
    pub ipv6_prefix: u8,
    /// Connections at once, all together (default 18,000). More are answered 503 with `Retry-After`.
    pub connections_max: usize,
    /// Bytes held for all clients together: parts of messages that are not complete, and frames that their
    /// readers have not taken, a frame for many once (default 128 MiB, least 1 MiB).
    pub buffered_bytes_max: usize,
    /// From accept to the request's last header byte (default 10 s).
    pub header_timeout: Duration,
    /// Bytes of one request's head (default 16 KiB, least 8 KiB).
    pub header_bytes_max: usize,
    /// Header fields of one request (default 64).
    pub headers_max: usize,
    /// Requests and WebSockets at once over one connection of HTTP/2; 0 (the default): HTTP/2 is not spoken.
    pub http2_streams_max: u32,
    /// On shutdown, closes are spread over this window (default 10 s).
    pub close_window: Duration,
    /// After this long a shutdown is over, done or not (default 25 s).
    pub grace: Duration,
}

/// Whether connections begin with a header of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    Off,
    /// All come from trusted proxies, and all have one.
    Required,
}

/// `[server.tls]`
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate, and those between it and its authority.
    pub cert: PemFile,
    /// Its private key.
    pub key: PemFile,
    /// The authorities of clients' certificates; `None`: clients need none.
    pub client_ca: Option<PemFile>,
    /// What the three say.
    pub identity: Arc<Identity>,
}

/// A file, and what it said when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PemFile {
    pub path: PathBuf,
    /// SHA-256.
    pub fingerprint: [u8; 32],
}
