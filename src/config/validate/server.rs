//! `[server]`

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use secrecy::ExposeSecret;

use super::{POSITIVE, required};
use crate::admin::settings::Settings as Admin;
use crate::config::Config;
use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::At;
use crate::routes::path::PathTemplate;
use crate::server::forwarded::ForwardedHeader;
use crate::server::settings::{PemFile, ProxyProtocol, Settings, Tls};
use crate::tls::server::{Identity, Part, fingerprint};
use crate::upstream::hubs::Hubs;

const LISTEN: &str = "127.0.0.1:8009";
const ADMIN: &str = "127.0.0.1:9009";
/// What each customer gets at least (RFC 6177 §2).
const IPV6_PREFIX: u8 = 64;
const CONNECTIONS: usize = 18_000;
const BUFFERED_BYTES: usize = 128 * 1024 * 1024;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_BYTES: usize = 16 * 1024;
/// hyper's smallest read buffer.
const HEADER_BYTES_LEAST: i64 = 8 * 1024;
const HEADERS: usize = 64;
/// A browser's handshake, and what one or two proxies add.
const HEADERS_LEAST: i64 = 16;
/// Each may hold as much as a connection.
const HTTP2_STREAMS_MAX: i64 = 10_000;
/// As many as a link can tell apart.
const WORKERS_MAX: i64 = Hubs::MAX as i64;
const CLOSE_WINDOW: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(25);

pub(super) fn server(problems: &mut Problems<'_>, raw: Option<&raw::Server>) -> (Settings, Admin) {
    let nothing = raw::Server::default();
    let raw = raw.unwrap_or(&nothing);
    let (no_limits, no_shutdown) = (raw::ServerLimits::default(), raw::Shutdown::default());
    let limits = raw.limits.as_ref().unwrap_or(&no_limits);
    let shutdown = raw.shutdown.as_ref().unwrap_or(&no_shutdown);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(64);
    let close_window = problems.duration(shutdown.close_window.as_ref(), Duration::ZERO, CLOSE_WINDOW);
    let grace = problems.duration(shutdown.grace.as_ref(), POSITIVE, GRACE);
    if close_window >= grace
        && let Some(place) = shutdown.close_window.as_ref().or(shutdown.grace.as_ref())
    {
        problems.at(place.span(), "`close_window` must be shorter than `grace`");
    }
    let listen = address(problems, raw.listen.as_ref(), LISTEN);
    let admin = address(problems, raw.admin.as_ref(), ADMIN);
    if collide(listen, admin)
        && let Some(place) = raw.admin.as_ref().or(raw.listen.as_ref())
    {
        problems.at(place.span(), format!("`listen` and `admin` cannot both have the port {}", admin.port()));
    }
    let hosts = raw.admin_hosts.iter().flatten().filter_map(|name| host_name(problems, name)).collect();
    let http2_streams_max = problems.number(limits.http2_streams.as_ref(), 0..=HTTP2_STREAMS_MAX, 0);
    let settings = Settings {
        listen,
        tls: raw.tls.as_ref().and_then(|at| tls(problems, at, http2_streams_max > 0)),
        health_path: raw.health_path.as_ref().and_then(|path| health_path(problems, path)),
        workers: problems.number(raw.workers.as_ref(), 1..=WORKERS_MAX, cores),
        trusted_proxies: raw.trusted_proxies.iter().flatten().filter_map(|p| network(problems, p)).collect(),
        proxy_protocol: proxy_protocol(problems, raw),
        forwarded: match raw.forwarded_header.as_ref().map(At::get) {
            None | Some(raw::ForwardedHeader::XForwardedFor) => ForwardedHeader::XForwardedFor,
            Some(raw::ForwardedHeader::Forwarded) => ForwardedHeader::Forwarded,
            Some(raw::ForwardedHeader::None) => ForwardedHeader::None,
        },
        ipv6_prefix: problems.number(raw.ipv6_prefix.as_ref(), 32..=128, IPV6_PREFIX),
        connections_max: problems.number(limits.connections.as_ref(), 1..=10_000_000, CONNECTIONS),
        buffered_bytes_max: problems.number(
            limits.buffered_bytes.as_ref(),
            1 << 20..=1 << 40,
            BUFFERED_BYTES,
        ),
        header_timeout: problems.duration(limits.header_timeout.as_ref(), POSITIVE, HEADER_TIMEOUT),
        header_bytes_max: problems.number(
            limits.header_bytes.as_ref(),
            HEADER_BYTES_LEAST..=1 << 20,
            HEADER_BYTES,
        ),
        headers_max: problems.number(limits.headers.as_ref(), HEADERS_LEAST..=1000, HEADERS),
        http2_streams_max,
        close_window,
        grace,
    };
    (settings, Admin { listen: admin, hosts })
}

fn proxy_protocol(problems: &mut Problems<'_>, raw: &raw::Server) -> ProxyProtocol {
    let Some(at) = &raw.proxy_protocol else { return ProxyProtocol::Off };
    match at.get() {
        raw::ProxyProtocol::Off => ProxyProtocol::Off,
        raw::ProxyProtocol::Required => {
            if raw.trusted_proxies.as_ref().is_none_or(Vec::is_empty) {
                problems.with_help(
                    at.span(),
                    "without `trusted_proxies` nobody may begin a connection so",
                    "name the proxies' addresses in `trusted_proxies`: only their headers are believed",
                );
            }
            ProxyProtocol::Required
        }
    }
}

fn tls(problems: &mut Problems<'_>, at: &At<raw::Tls>, with_http2: bool) -> Option<Tls> {
    let raw = at.get();
    let cert_file = required(problems, raw.cert_file.as_ref(), at.span(), "cert_file");
    let key_file = required(problems, raw.key_file.as_ref(), at.span(), "key_file");
    let ca_file = raw.client_ca_file.as_ref().filter(|file| !file.get().is_empty());
    // All of them are read, so that all are watched when one is wrong.
    let chain = cert_file.and_then(|file| problems.file(file));
    let key = key_file.and_then(|file| problems.secret_file(file));
    let client_ca = ca_file.map(|file| problems.file(file));
    let (cert_file, key_file, chain, key) = (cert_file?, key_file?, chain?, key?);
    let client_ca = match client_ca {
        Some(read) => Some(read?),
        None => None,
    };
    let identity = Identity::new(&chain, &key, client_ca.as_deref(), with_http2).map_err(|(part, why)| {
        let at = match part {
            Part::Chain => cert_file,
            Part::Key => key_file,
            Part::ClientCa => ca_file.unwrap_or(cert_file),
        };
        let path = problems.resolve(at.get());
        problems.at(at.span(), format!("`{}`: {why}", path.display()));
    });
    let file = |at: &At<String>, text: &str| PemFile {
        path: problems.resolve(at.get()),
        fingerprint: fingerprint(text),
    };
    Some(Tls {
        cert: file(cert_file, &chain),
        key: file(key_file, key.expose_secret()),
        client_ca: ca_file.zip(client_ca.as_deref()).map(|(at, text)| file(at, text)),
        identity: identity.ok()?,
    })
}

fn address(problems: &mut Problems<'_>, raw: Option<&At<String>>, default: &str) -> SocketAddr {
    let unspecified = || SocketAddr::from(([127, 0, 0, 1], 0));
    let default = default.parse().unwrap_or_else(|_| unspecified());
    let Some(raw) = raw else { return default };
    raw.get().parse().unwrap_or_else(|_| {
        problems.with_help(
            raw.span(),
            format!("`{}` is not a valid address", raw.get()),
            "an IP address and a port: \"127.0.0.1:8009\", \"0.0.0.0:8009\", \"[::]:8009\"",
        );
        default
    })
}

/// Whether both cannot be bound. An unspecified address covers all interfaces, and that of IPv6 covers IPv4 too.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let takes = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && one.port() != 0 && (a == b || takes(a, b) || takes(b, a))
}

/// A name as in a `Host` header, without a port: any port is accepted.
fn host_name(problems: &mut Problems<'_>, raw: &At<String>) -> Option<String> {
    let legal = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if raw.get().split('.').all(legal) {
        return Some(raw.get().to_ascii_lowercase());
    }
    problems.with_help(
        raw.span(),
        format!("`{}` is not a valid host name", raw.get()),
        "a name alone, without a port: \"pusher-bridge.internal\"; addresses and `localhost` need not be listed",
    );
    None
}

fn health_path(problems: &mut Problems<'_>, raw: &At<String>) -> Option<String> {
    match PathTemplate::parse(raw.get()) {
        Ok(path) if path.names().is_empty() => return Some(raw.get().clone()),
        Ok(_) => problems.at(raw.span(), "`health_path` is one path, without placeholders"),
        Err(error) => {
            let span = problems.inside(raw, error.at);
            problems.at(span, error.message);
        }
    }
    None
}

/// `health_path` must not be a path of a route.
pub(super) fn check_health_path(problems: &mut Problems<'_>, raw: Option<&raw::Server>, config: &Config) {
    let Some(raw) = raw.and_then(|server| server.health_path.as_ref()) else { return };
    if let Some(route) = config.route_of(raw.get()) {
        let (path, name) = (route.path.source(), &route.name);
        problems.at(raw.span(), format!("this is also a path of the route `{name}`, `{path}`"));
    }
}

fn network(problems: &mut Problems<'_>, raw: &At<String>) -> Option<IpNet> {
    let text = raw.get();
    let parsed = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    if parsed.is_none() {
        problems.with_help(
            raw.span(),
            format!("`{text}` is not a valid address or range of addresses"),
            "in CIDR notation: \"10.0.0.0/8\", \"::1/128\"",
        );
    }
    let network = parsed?;
    let unmapped = unmapped(network);
    if unmapped.is_none() {
        problems.with_help(
            raw.span(),
            format!("`{text}` is cut within what IPv4 addresses are mapped to, and would match none of them"),
            "peers with an IPv4 address have just that: write the range as IPv4, or with a length of 96 or more",
        );
    }
    unmapped
}

/// An IPv4-mapped range as IPv4, which is how peers are compared; `None`: it has such addresses and others.
fn unmapped(network: IpNet) -> Option<IpNet> {
    let IpNet::V6(v6) = network else { return Some(network) };
    let Some(first) = v6.network().to_ipv4_mapped() else {
        // `::/0` means all of IPv6.
        let mapped = std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
        return (v6.prefix_len() == 0 || !v6.contains(&mapped)).then_some(network);
    };
    let length = v6.prefix_len().checked_sub(96)?;
    Ipv4Net::new(first, length).ok().map(IpNet::V4)
}
