//! The PROXY protocol on the listener.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pusher_bridge::config::Config;
use pusher_bridge::server::settings::ProxyProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::support::bridge::SHIPPED;
use crate::support::raw::{Raw, upgrade};
use crate::support::tls::{Authority, serve};
use crate::support::{Bridge, patiently, skipped, temporary_directory};

/// Version 2 for a client at 192.0.2.7.
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x30\x39\0\x50";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

async fn start(change: impl FnOnce(&mut Config)) -> Bridge {
    // One connection of each address.
    let routes = SHIPPED.to_owned()
        + "\n[[routes]]\nname = \"a\"\npath = \"/a\"\nchannel = \"a\"\ndialect = \"typed\"\n\
           limits.connections_per_address = 1\n";
    Bridge::with(&routes, |config| {
        config.server.proxy_protocol = ProxyProtocol::Required;
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        config.server.health_path = Some("/healthz".to_owned());
        change(config);
    })
    .await
}

/// The status of an upgrade behind this header.
async fn status(bridge: &Bridge, header: impl AsRef<[u8]>, changes: &[(&str, &str)]) -> (u16, Raw) {
    let mut raw = Raw::connect(bridge.address()).await;
    raw.send([header.as_ref(), upgrade("/a", changes).as_bytes()].concat()).await;
    (raw.answer().await.status, raw)
}

fn text(address: &str) -> String {
    format!("PROXY TCP4 {address} 127.0.0.1 12345 80\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_who_the_header_says_for_every_limit() {
    let bridge = start(|_| {}).await;
    let (status_one, one) = status(&bridge, text("192.0.2.1"), &[]).await;
    let (status_two, _two) = status(&bridge, BINARY, &[]).await;
    assert_eq!((status_one, status_two), (101, 101), "two addresses");
    // Whatever it writes itself: the address that is announced is no proxy's.
    let lies = [("X-Forwarded-For", "192.0.2.9")];
    assert_eq!(status(&bridge, text("192.0.2.1"), &lies).await.0, 429);
    assert_eq!(status(&bridge, text("192.0.2.7"), &lies).await.0, 429, "both versions are one client");
    // One that is a proxy's is followed further.
    let (behind, _third) = status(&bridge, text("127.0.0.1"), &lies).await;
    assert_eq!(behind, 101);
    assert_eq!(status(&bridge, text("192.0.2.9"), &[]).await.0, 429);
    // Those whose proxy knows nothing are one client, and not believed either.
    let (unknown, _fourth) = status(&bridge, "PROXY UNKNOWN\r\n", &[("X-Forwarded-For", "192.0.2.10")]).await;
    assert_eq!(unknown, 101);
    assert_eq!(status(&bridge, "PROXY UNKNOWN\r\n", &[("X-Forwarded-For", "192.0.2.11")]).await.0, 429);
    drop(one);
    let mut check = Raw::connect(bridge.address()).await;
    check.send([LOCAL, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"].concat()).await;
    assert_eq!(check.answer().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_may_come_in_pieces_and_is_followed_by_tls() {
    let authority = Authority::new();
    let bridge = start(|config| serve(config, &authority.sign("a.example"), None)).await;
    for (header, count) in [(text("192.0.2.1").into_bytes(), 1.0), (BINARY.to_vec(), 2.0)] {
        let mut tcp = TcpStream::connect(bridge.address()).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        for byte in &header[..header.len() - 1] {
            tcp.write_all(&[*byte]).await.unwrap();
        }
        // The last of it comes with what follows.
        let mut first = std::io::Cursor::new(header[header.len() - 1..].to_vec());
        tokio::io::copy(&mut first, &mut tcp).await.unwrap();
        let name = bridge.address().ip().into();
        let connecting = TlsConnector::from(authority.plain_client()).connect(name, tcp);
        let mut stream = patiently("the handshake", connecting).await.unwrap();
        stream.write_all(upgrade("/a", &[]).as_bytes()).await.unwrap();
        bridge.becomes("pusher_bridge_connections_total{route=\"a\"}", count).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_header_a_wrong_one_or_none_in_time_is_closed_unanswered_and_counted() {
    let bridge = start(|config| config.server.header_timeout = Duration::from_millis(300)).await;
    let counted =
        |reason: &str| format!("pusher_bridge_proxy_protocol_refusals_total{{reason=\"{reason}\"}}");
    let mut broken = BINARY.to_vec();
    broken[15] = 11;
    let mut datagram = BINARY.to_vec();
    datagram[13] = 0x12;
    for (bytes, reason) in [
        (upgrade("/a", &[]).into_bytes(), "missing"),
        (b"PROXY TCP4 x\r\n".to_vec(), "malformed"),
        (broken, "malformed"),
        ([b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(), "too_long"),
        (datagram, "protocol"),
        (b"PROXY TCP4".to_vec(), "timeout"),
    ] {
        let before = bridge.metric(&counted(reason));
        let mut raw = Raw::connect(bridge.address()).await;
        raw.send(&bytes).await;
        assert_eq!(raw.rest().await, "", "{reason}");
        bridge.becomes(&counted(reason), before + 1.0).await;
    }
    let mut cut = Raw::connect(bridge.address()).await;
    cut.send("PROXY TCP4").await;
    cut.finish().await;
    cut.ended().await;
    bridge.becomes(&counted("closed"), 1.0).await;
    let mut stranger = Raw::connect_from([127, 0, 0, 5], bridge.address()).await;
    stranger.try_send(text("192.0.2.1")).await;
    assert_eq!(stranger.rest().await, "");
    bridge.becomes(&counted("untrusted"), 1.0).await;
    bridge.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_requests_of_one_announced_address_make_room_for_others() {
    let bridge = start(|config| config.server.connections_max = 20).await;
    let mut crowd = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::connect(bridge.address()).await;
        raw.send(text("192.0.2.66")).await;
        crowd.push(raw);
    }
    bridge.sees(|| bridge.connections() == 20.0).await;
    // Its client's address is read before it is turned away.
    patiently("a place", async { while status(&bridge, text("192.0.2.1"), &[]).await.0 != 101 {} }).await;
    crowd.remove(0).ended().await;
    assert_eq!(bridge.metric("pusher_bridge_refusals_total{route=\"none\",reason=\"displaced\"}"), 1.0);
}

/// A proxy of somebody else's, with a listener that was bound for it as its descriptor 3.
pub struct Proxy {
    child: Child,
    pub address: SocketAddr,
    folder: std::path::PathBuf,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Not to be killed: nginx' workers are processes of their own.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Starts the program that this variable names, with a configuration for an address.
pub fn proxy(
    variable: &str,
    arguments: &[&str],
    config: impl FnOnce(SocketAddr, &str) -> String,
) -> Option<Proxy> {
    let Some(program) = std::env::var_os(variable).filter(|path| !path.is_empty()) else {
        skipped(&format!("{variable} is not set; run tests/run"));
        return None;
    };
    let folder = temporary_directory("proxy");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::fs::write(folder.join("config"), config(address, &folder.display().to_string())).unwrap();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", r#"exec 3<&0 0</dev/null; exec "$0" "$@""#]).arg(program).args(arguments);
    // By it nginx is told of a listener that is there.
    shell.arg(folder.join("config")).current_dir(&folder).env("NGINX", "3;").env_remove("NGINX_BIN");
    let child = shell.stdin(Stdio::from(OwnedFd::from(listener))).spawn().unwrap();
    Some(Proxy { child, address, folder })
}

fn haproxy(to: SocketAddr, sends: &str) -> Option<Proxy> {
    proxy("HAPROXY", &["-db", "-f"], |_, _| {
        format!(
            "defaults\n mode tcp\n timeout connect 20s\n timeout client 60s\n timeout server 60s\n\
             listen all\n bind fd@3\n server bridge {to} {sends}\n"
        )
    })
}

fn nginx(to: SocketAddr) -> Option<Proxy> {
    proxy("NGINX_BIN", &["-e", "stderr", "-c"], |address, folder| {
        format!(
            "daemon off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\n\
             stream {{ server {{ listen {address}; proxy_pass {to}; proxy_protocol on; }} }}\n"
        )
    })
}

/// The status of an upgrade through a proxy, from this loopback address.
async fn through(proxy: &Proxy, from: u8) -> (u16, Raw) {
    let mut raw = Raw::connect_from([127, 0, 0, from], proxy.address).await;
    raw.send(upgrade("/a", &[])).await;
    (raw.answer().await.status, raw)
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_and_nginx_say_whose_connections_they_bring() {
    let bridge = start(|_| {}).await;
    let to = bridge.address();
    let proxies = [haproxy(to, "send-proxy"), haproxy(to, "send-proxy-v2"), nginx(to)];
    let mut served = Vec::new();
    for (proxy, own) in proxies.iter().zip([20, 30, 40]) {
        let Some(proxy) = proxy else { return };
        for client in [own, own + 1] {
            let (status, raw) = through(proxy, client).await;
            assert_eq!(status, 101, "{client}");
            served.push(raw);
        }
    }
    // Whichever way they come, each address has its one connection.
    for (proxy, taken) in proxies.iter().flatten().zip([30, 41, 20]) {
        assert_eq!(through(proxy, taken).await.0, 429, "{taken}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_passes_tls_on_behind_its_header() {
    let authority = Authority::new();
    let bridge = start(|config| serve(config, &authority.sign("a.example"), None)).await;
    let Some(proxy) = haproxy(bridge.address(), "send-proxy-v2") else { return };
    let mut served = Vec::new();
    for (client, expected) in [(50, "101"), (50, "429"), (51, "101")] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, client], 0))).unwrap();
        let tcp = socket.connect(proxy.address).await.unwrap();
        let connecting = TlsConnector::from(authority.plain_client()).connect(proxy.address.ip().into(), tcp);
        let mut stream = patiently("the handshake", connecting).await.unwrap();
        stream.write_all(upgrade("/a", &[]).as_bytes()).await.unwrap();
        let mut status = [0; "HTTP/1.1 101".len()];
        patiently("an answer", stream.read_exact(&mut status)).await.unwrap();
        assert_eq!(std::str::from_utf8(&status).unwrap(), format!("HTTP/1.1 {expected}"));
        served.push(stream);
    }
}
