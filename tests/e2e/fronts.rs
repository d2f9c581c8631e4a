//! Debian's HAProxy and nginx in front of a bridge that is in front of the old API: requests, bodies and both kinds of
//! WebSockets pass all three, and each of them knows whose they are.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body, Frame};
use hyper::client::conn::http1::handshake;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use pusher_bridge::sandbox::{Options, Sandbox, SandboxHandle};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::announced::{Proxy, proxy};
use crate::browser::OldApi;
use crate::reload::route;
use crate::support::bridge::SHIPPED;
use crate::support::process::{Program, log_line};
use crate::support::tls::Authority;
use crate::support::{patiently, temporary_directory};

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

type Socket = WebSocketStream<Box<dyn Io>>;

/// A bridge in a process of its own, and what is behind it.
struct Stage {
    program: Program,
    bridge: SocketAddr,
    sandbox: SandboxHandle,
    folder: PathBuf,
    /// Who trusts what the bridge shows.
    client: Arc<ClientConfig>,
    _old: OldApi,
}

impl Stage {
    /// With `server` in the table of that name.
    async fn start(old: OldApi, server: &str, with_tls: bool) -> Self {
        let folder = temporary_directory("fronts");
        let authority = Authority::new();
        let pair = authority.sign("bridge.example");
        for (name, text) in [("ca.pem", &authority.pem()), ("cert.pem", &pair.cert), ("key.pem", &pair.key)] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let tls =
            if with_tls { "[server.tls]\ncert_file = \"cert.pem\"\nkey_file = \"key.pem\"\n\n" } else { "" };
        let trusted = "trusted_proxies = [\"127.0.0.0/8\", \"::1/128\"]";
        assert!(SHIPPED.contains(trusted));
        let only_the_proxy = format!("trusted_proxies = [\"127.0.0.1/32\"]\n{server}\n");
        let routes = [
            &*old.fallback(),
            tls,
            "[server.limits]\nhttp2_streams = 100\n\n",
            &SHIPPED.replacen(trusted, &only_the_proxy, 1),
            &route("a", ""),
        ]
        .concat();
        let file = folder.join("routes.toml");
        std::fs::write(&file, routes).unwrap();
        let sandbox = Sandbox::start(Options::local()).await.unwrap();
        let (program, bridge, _) = Program::serve(&sandbox, &["--config", file.to_str().unwrap()]).await;
        Self { program, bridge, sandbox, folder, client: authority.plain_client(), _old: old }
    }

    fn haproxy(&self, mode: &str, server: &str) -> Option<Proxy> {
        let (to, folder) = (self.bridge, self.folder.display());
        let server = server.replace("CA", &format!("{folder}/ca.pem"));
        proxy("HAPROXY", &["-db", "-f"], |_, _| {
            format!(
                "defaults\n mode {mode}\n timeout connect 20s\n timeout client 60s\n timeout server 60s\n\
                 listen all\n bind fd@3\n server bridge {to} {server}\n"
            )
        })
    }

    fn nginx(&self, scheme: &str) -> Option<Proxy> {
        let (to, ca) = (self.bridge, self.folder.join("ca.pem"));
        proxy("NGINX_BIN", &["-e", "stderr", "-c"], |address, folder| {
            let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .iter()
                .map(|what| format!("{what}_temp_path {folder}/{what};\n"))
                .collect();
            format!(
                "daemon off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\n\
                 http {{\n access_log off;\n {places}\
                 map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n\
                 upstream bridge {{ server {to}; keepalive 8; }}\n\
                 server {{ listen {address}; location / {{\n\
                 proxy_pass {scheme}://bridge;\n proxy_http_version 1.1;\n proxy_request_buffering off;\n\
                 proxy_ssl_trusted_certificate {};\n proxy_ssl_verify on;\n proxy_ssl_name bridge.example;\n\
                 proxy_set_header Host $http_host;\n proxy_set_header Upgrade $http_upgrade;\n\
                 proxy_set_header Connection $connection_upgrade;\n\
                 proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
                 proxy_set_header X-Forwarded-Proto $scheme;\n }} }} }}\n",
                ca.display()
            )
        })
    }

    /// A client at 127.0.0.`from` uses everything that there is, through `front`. `seen`: what the old API is to see of
    /// it.
    async fn serves(&mut self, front: &Proxy, from: u8, with_tls: bool, seen: Value) {
        let to = Client { from, front: front.address, tls: with_tls.then(|| self.client.clone()) };
        let mut me = to.ask(Request::get("/api/me").body(Full::default()).unwrap()).await;
        me.as_object_mut().unwrap().retain(|name, _| seen.get(name).is_some());
        assert_eq!(me, seen);
        let parts =
            ["one ", "two ", "three"].map(|part| Ok::<_, std::io::Error>(Frame::data(Bytes::from(part))));
        let body = StreamBody::new(futures_util::stream::iter(parts));
        let dictation = to.ask(Request::post("/api/dictation").body(body).unwrap()).await;
        assert_eq!(dictation["parts"], "one two three");

        let mut live = to.open("/live").await;
        let greeting: Value = serde_json::from_str(&text(&mut live).await).unwrap();
        assert_eq!(greeting["address"], seen["by"]);
        let large = "é".repeat(100_000);
        live.send(Message::text(large.clone())).await.unwrap();
        assert!(text(&mut live).await == large);
        live.send(Message::text("bye")).await.unwrap();
        match patiently("its end", live.next()).await.unwrap().unwrap() {
            Message::Close(Some(close)) => {
                assert_eq!((u16::from(close.code), &*close.reason), (4001, "later"));
            }
            other => panic!("{other:?}"),
        }

        let mut routed = to.open("/a/1").await;
        patiently("the channel", self.sandbox.wait_for(|view| view.subscribed("private-a-1") == 1)).await;
        self.sandbox.trigger("private-a-1", "news", &from.to_string());
        let news: Value = serde_json::from_str(&text(&mut routed).await).unwrap();
        assert_eq!((&news["type"], &news["data"]), (&json!("news"), &json!(from)));
        let data = format!(r#"{{"n":1.50,"of":{from}}}"#);
        routed.send(Message::text(format!(r#"{{"type":"say","data":{data}}}"#))).await.unwrap();
        let said = self
            .sandbox
            .wait_for(|view| view.published().any(|one| one.event == "client-say" && one.data == data));
        patiently("its message", said).await;
        routed.close(None).await.unwrap();
        let line = log_line(&self.program.stderr.find("\"closed\"").await);
        assert_eq!(
            (&line["route"], &line["client.address"]),
            (&json!("a"), &json!(format!("127.0.0.{from}")))
        );
        patiently("nobody", self.sandbox.wait_for(|view| view.subscribed("private-a-1") == 0)).await;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Where it comes from, and what it connects to.
struct Client {
    from: u8,
    front: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl Client {
    async fn connect(&self) -> Box<dyn Io> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, self.from], 0))).unwrap();
        let tcp = socket.connect(self.front).await.unwrap();
        match &self.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let connecting = TlsConnector::from(tls.clone()).connect(self.front.ip().into(), tcp);
                Box::new(patiently("the handshake", connecting).await.unwrap())
            }
        }
    }

    async fn ask<B>(&self, mut request: Request<B>) -> Value
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
    {
        let (mut sender, connection) = handshake(TokioIo::new(self.connect().await)).await.unwrap();
        tokio::spawn(connection);
        request.headers_mut().insert("host", "api.example".parse().unwrap());
        let answer = patiently("an answer", sender.send_request(request)).await.unwrap();
        let (status, body) = (answer.status(), answer.into_body());
        let body = patiently("the body", body.collect()).await.unwrap().to_bytes();
        assert_eq!(status, StatusCode::OK, "{body:?}");
        serde_json::from_slice(&body).unwrap()
    }

    async fn open(&self, path: &str) -> Socket {
        let opening = Box::pin(client_async(format!("ws://api.example{path}"), self.connect().await));
        patiently("the upgrade", opening).await.unwrap().0
    }
}

async fn text(socket: &mut Socket) -> String {
    loop {
        match patiently("a frame", socket.next()).await.unwrap().unwrap() {
            Message::Text(text) if !text.contains(r#""type":"ping""#) => return text.to_string(),
            Message::Close(close) => panic!("{close:?}"),
            _ => {}
        }
    }
}

fn seen(by: &str, proto: &str, via: &str) -> Value {
    json!({ "by": by, "proto": proto, "via": via, "host": "api.example" })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_proxy_in_front_names_the_client_in_a_field() {
    let Some(old) = OldApi::start().await else { return };
    let mut stage = Stage::start(old, "", false).await;
    for (from, front, via) in [
        (50, stage.haproxy("http\n option forwardfor", ""), "1.1"),
        // A stream for each request, and for each WebSocket.
        (51, stage.haproxy("http\n option forwardfor", "proto h2"), "2.0"),
        (52, stage.nginx("http"), "1.1"),
    ] {
        let Some(front) = front else { return };
        let seen = seen(&format!("127.0.0.{from}, 127.0.0.1"), "http", &format!("{via} pusher-bridge"));
        stage.serves(&front, from, false, seen).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_speaks_tls_to_a_bridge_before_python() {
    let Some(old) = OldApi::python().await else { return };
    let mut stage = Stage::start(old, "", true).await;
    let Some(front) = stage.nginx("https") else { return };
    // The client spoke none with nginx, which is believed.
    stage.serves(&front, 60, false, seen("127.0.0.60, 127.0.0.1", "http", "1.1 pusher-bridge")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_the_proxy_protocol_the_client_is_who_it_says_everywhere() {
    let Some(old) = OldApi::start().await else { return };
    let mut stage = Stage::start(old, "proxy_protocol = \"required\"", true).await;
    let bytes = [(70, stage.haproxy("tcp", "send-proxy")), (71, stage.haproxy("tcp", "send-proxy-v2"))];
    for (from, front) in bytes {
        let Some(front) = front else { return };
        let seen = seen(&format!("127.0.0.{from}"), "https", "1.1 pusher-bridge");
        stage.serves(&front, from, true, seen).await;
    }
    // All at once: its header, TLS, and HTTP/2 within. What it writes into requests is not believed of such a client.
    let both = "send-proxy-v2 ssl verify required ca-file CA alpn h2";
    let Some(front) = stage.haproxy("http\n option forwardfor", both) else { return };
    stage.serves(&front, 72, false, seen("127.0.0.72", "https", "2.0 pusher-bridge")).await;
}
