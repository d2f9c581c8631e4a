//! What `[server]` says.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ForwardedHeader, List, Num, ProxyProtocol, Str};
use crate::config::scalars::At;
use crate::config::schema as s;

/// Listening, and the limits of it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Server {
    /// Where old clients connect, ADDRESS:PORT (default 127.0.0.1:8009).
    #[schemars(extend("pattern" = s::ADDRESS))]
    pub(in crate::config) listen: Str,
    /// Where probes and metrics are served, ADDRESS:PORT (default 127.0.0.1:9009).
    #[schemars(extend("pattern" = s::ADDRESS))]
    pub(in crate::config) admin: Str,
    /// Names by which the admin address may be asked to drain, beside addresses and localhost (default none).
    #[schemars(extend("items" = s::pattern(s::HOST_NAME)))]
    pub(in crate::config) admin_hosts: List,
    /// A path on listen for load balancers: 200 while new clients are welcome, else 503 (default none).
    #[schemars(extend("pattern" = s::HEALTH_PATH, "not" = s::plain(r"/\.{1,2}(/|$)")))]
    pub(in crate::config) health_path: Str,
    /// Threads that serve clients, at most 64 (default: the machine's cores).
    #[schemars(extend("minimum" = 1, "maximum" = 64))]
    pub(in crate::config) workers: Num,
    /// Peers whose forwarding header is believed: addresses or CIDR ranges.
    #[schemars(extend("items" = s::pattern(s::CIDR)))]
    pub(in crate::config) trusted_proxies: List,
    /// Which header names the client behind a trusted proxy (default x-forwarded-for).
    pub(in crate::config) forwarded_header: Option<At<ForwardedHeader>>,
    /// Whether the trusted proxies begin connections with a header of the PROXY protocol, version 1 or 2: then all
    /// connections must, and come from them (default off).
    pub(in crate::config) proxy_protocol: Option<At<ProxyProtocol>>,
    /// So many first bits of an IPv6 address are one client: 64, 56 or 48 as networks give them (default 64).
    #[schemars(extend("minimum" = 32, "maximum" = 128))]
    pub(in crate::config) ipv6_prefix: Num,
    /// TLS on listen: for wss:// and https:// without a proxy (default none).
    pub(in crate::config) tls: Option<At<Tls>>,
    /// Bounds on connections and request heads.
    pub(in crate::config) limits: Option<ServerLimits>,
    /// How the server goes down.
    pub(in crate::config) shutdown: Option<Shutdown>,
}

/// `[server.tls]`. The files are read again when they change; who is connected keeps what was shown.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["cert_file", "key_file"]))]
pub(in crate::config) struct Tls {
    /// PEM file with the certificate, and those between it and its authority.
    #[schemars(extend("minLength" = 1))]
    pub(in crate::config) cert_file: Str,
    /// PEM file with the certificate's private key, not encrypted.
    #[schemars(extend("minLength" = 1))]
    pub(in crate::config) key_file: Str,
    /// PEM file of authorities: clients must show a certificate that one of them has signed (default none).
    pub(in crate::config) client_ca_file: Str,
}

/// `[server.limits]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ServerLimits {
    /// Connections at once, all together (default 18000).
    #[schemars(extend("minimum" = 1, "maximum" = 10_000_000))]
    pub(in crate::config) connections: Num,
    /// Bytes held for all clients together: parts of messages, and frames not yet taken (default 134217728).
    #[schemars(extend("minimum" = 1_048_576, "maximum" = 1_099_511_627_776_u64))]
    pub(in crate::config) buffered_bytes: Num,
    /// From accept to the request's last header byte (default 10s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(in crate::config) header_timeout: Str,
    /// Bytes of one request's head (default 16384).
    #[schemars(extend("minimum" = 8192, "maximum" = 1_048_576))]
    pub(in crate::config) header_bytes: Num,
    /// Header fields of one request (default 64).
    #[schemars(extend("minimum" = 1, "maximum" = 1000))]
    pub(in crate::config) headers: Num,
    /// Requests and WebSockets at once over one connection of HTTP/2; 0: HTTP/2 is not spoken (default 0).
    #[schemars(extend("minimum" = 0, "maximum" = 10_000))]
    pub(in crate::config) http2_streams: Num,
}

/// `[server.shutdown]`
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Shutdown {
    /// Closes are spread over this window (default 10s).
    #[schemars(extend("pattern" = s::DURATION_OR_ZERO))]
    pub(in crate::config) close_window: Str,
    /// After this long a shutdown is over, done or not (default 25s).
    #[schemars(extend("pattern" = s::DURATION))]
    pub(in crate::config) grace: Str,
}
