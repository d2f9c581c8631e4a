//! `healthcheck`: what a probe would ask, for images that have nothing else to ask it with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Method, Uri};

use super::{Failure, HealthArgs, block_on, load, print, process_env};
use crate::http::{Client, Request};
use crate::text::printable;
use crate::tls;

/// Largest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

pub(super) fn run(args: &HealthArgs) -> Result<(), Failure> {
    let admin = match args.admin {
        Some(admin) => admin,
        None => load(&args.config.config, &process_env)?.config.admin.listen,
    };
    let path = if args.live { "healthz" } else { "readyz" };
    let place = format!("http://{}/{path}", reachable(admin));
    block_on(async {
        let uri: Uri = place.parse().map_err(Failure::runtime)?;
        let request = Request { method: Method::GET, uri, headers: HeaderMap::new(), body: Bytes::new() };
        // Directly: a proxy is for what is elsewhere.
        let client = Client::new(&tls::client_config(None).map_err(Failure::runtime)?);
        let timeout = Duration::from_secs(args.timeout.into());
        let answer = client.send(request, timeout, ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|error| Failure::runtime(format!("{place}: {error}")))?;
        let body = String::from_utf8_lossy(&answer.body);
        let body: Vec<String> = body.trim_end().lines().map(printable).collect();
        if answer.status.is_success() {
            return print(&format!("{}\n", body.join("\n")));
        }
        Err(Failure::runtime(format!("{place}: {}\n{}", answer.status, body.join("\n"))))
    })
}

/// Where this machine reaches what listens on `listen`.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(address, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_reached_here() {
        for (listen, asked) in
            [("0.0.0.0:9009", "127.0.0.1:9009"), ("[::]:1", "[::1]:1"), ("10.0.0.1:2", "10.0.0.1:2")]
        {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }
}
