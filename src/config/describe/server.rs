//! `[server]`

use super::{Lines, duration};
use crate::admin::settings::Settings as Admin;
use crate::server::forwarded::ForwardedHeader;
use crate::server::settings::{PemFile, ProxyProtocol, Settings, Tls};
use crate::tls::server::Identity;

pub(super) fn server(out: &mut Lines, settings: &Settings, admin: &Admin) {
    let Admin { listen: admin, hosts } = admin;
    let Settings {
        listen,
        tls,
        health_path,
        workers,
        trusted_proxies,
        proxy_protocol,
        forwarded,
        ipv6_prefix,
        connections_max,
        buffered_bytes_max,
        header_timeout,
        header_bytes_max,
        headers_max,
        http2_streams_max,
        close_window,
        grace,
    } = settings;
    out.fact("listen", format!("{listen} (admin {admin}), {workers} workers"));
    if !hosts.is_empty() {
        out.more(format!("may be drained under the names {}, too", hosts.join(", ")));
    }
    if let Some(settings) = tls {
        self::tls(out, settings);
    }
    if let Some(path) = health_path {
        out.fact("health", format!("{path}, for load balancers"));
    }
    let proxies: Vec<String> = trusted_proxies.iter().map(ToString::to_string).collect();
    let header = match forwarded {
        ForwardedHeader::XForwardedFor => "clients named by X-Forwarded-For",
        ForwardedHeader::Forwarded => "clients named by Forwarded",
        ForwardedHeader::None => "no header names their clients",
    };
    if proxies.is_empty() {
        out.fact("proxies", "none trusted");
    } else {
        out.fact("proxies", format!("{}; {header}", proxies.join(", ")));
    }
    if *proxy_protocol == ProxyProtocol::Required {
        out.more("every connection comes from them, with a header of the PROXY protocol");
    }
    out.fact(
        "limits",
        format!(
            "{connections_max} connections; {buffered_bytes_max} bytes buffered; a request's head within {}, of \
             {header_bytes_max} bytes and {headers_max} fields; IPv6 clients counted by {ipv6_prefix} bits",
            duration(*header_timeout),
        ),
    );
    if *http2_streams_max > 0 {
        out.more(format!("HTTP/2 with {http2_streams_max} streams a connection"));
    }
    out.fact(
        "shutdown",
        format!("connections closed over {}, over after {}", duration(*close_window), duration(*grace)),
    );
}

fn tls(out: &mut Lines, settings: &Tls) {
    let Tls { cert, key, client_ca, identity } = settings;
    let Identity { config: _, not_after } = &**identity;
    let shown = |file: &PemFile| {
        let PemFile { path, fingerprint: _ } = file;
        path.display().to_string()
    };
    let until = jiff::Timestamp::from_second(*not_after).map_or_else(|_| "?".to_owned(), |at| at.to_string());
    out.fact("tls", format!("certificate {}, until {until}; key {}", shown(cert), shown(key)));
    if let Some(file) = client_ca {
        out.more(format!("clients show a certificate of the authorities in {}", shown(file)));
    }
}
