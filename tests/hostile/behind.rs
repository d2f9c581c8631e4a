//! Attacks that there are only where requests are passed on: on what waits for one side while the other has more.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::attacker::{address, connect, read_to_end, status, swarm, tally, upgraded};
use crate::report::Row;
use crate::scene::{NOBODY, Setting, Verdict, shipped};
use crate::support::raw::{BINARY, frame};

static PART: [u8; 64 * 1024] = [b'x'; 64 * 1024];
/// Connections of one address, as many as it may have requests and tunnels.
const OF_ONE: usize = 40;

/// What stands behind; it is gone with this.
struct Behind(SocketAddr, JoinHandle<()>);

impl Drop for Behind {
    fn drop(&mut self) {
        self.1.abort();
    }
}

/// Hears each connection's first request, and goes on as `then` says.
async fn behind<F>(then: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Behind
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let then = Arc::new(then);
    let serving = tokio::spawn(async move {
        let mut all = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let then = then.clone();
            all.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                then(stream).await;
            });
        }
    });
    Behind(at, serving)
}

fn passed_on(to: &Behind, times: &str) -> Setting {
    shipped().with(NOBODY, &to.0.to_string()).with("[fallback]\n", &format!("[fallback]\n{times}\n"))
}

/// Endless bodies for a server that takes nothing of them.
pub async fn bodies_not_taken() -> Row {
    const COUNT: usize = 400;
    let server = behind(|stream| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let scene = passed_on(&server, r#"answer_timeout = "3s""#).open("bodies_not_taken").await;
    let to = scene.bridge.address;
    let answers = swarm(COUNT, move |n, turnstile| async move {
        let mut stream = turnstile.pass(connect(address(n / OF_ONE), to)).await;
        let head = "POST /behind/a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut from, mut out) = stream.split();
        let mut first = [0; 12];
        tokio::select! {
            biased;
            read = from.read_exact(&mut first) => { read.unwrap(); }
            () = async { while out.write_all(&PART).await.is_ok() {} } => {}
        }
        status(&first)
    })
    .await;
    // Whoever sends more than is taken behind the answer may lose it to a reset.
    let outcomes = tally(answers);
    assert!(outcomes.keys().all(|status| [0, 504].contains(status)), "{outcomes:?}");
    assert!(outcomes[&504] > COUNT / 2, "{outcomes:?}");
    scene
        .over(Verdict {
            sent: format!("{COUNT} bodies without end for a server that takes nothing"),
            bound_mib: 192,
            ended: "504 after `answer_timeout` (3 s here), and closed",
            closed_to_newcomers: false,
        })
        .await
}

/// Endless answers for clients that read nothing of them.
pub async fn answers_not_read() -> Row {
    const COUNT: usize = 400;
    let server = behind(|mut stream| async move {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
        let _ = stream.write_all(head).await;
        while stream.write_all(&PART).await.is_ok() {}
    })
    .await;
    let scene = passed_on(&server, r#"idle_timeout = "3s""#).open("answers_not_read").await;
    let to = scene.bridge.address;
    let failed =
        format!(r#"pusher_bridge_fallback_failures_total{{upstream="{}",reason="client_gone"}}"#, server.0);
    let asked = swarm(COUNT, move |n, turnstile| async move {
        let mut stream = turnstile.pass(connect(address(n / OF_ONE), to)).await;
        stream.write_all(b"GET /behind/a HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        stream
    })
    .await;
    scene.bridge.until("all to be cut", |m| m.get(&failed) == COUNT as f64).await;
    drop(asked);
    scene
        .over(Verdict {
            sent: format!("{COUNT} answers without end for clients that read nothing"),
            bound_mib: 192,
            ended: "cut after `idle_timeout` (3 s here)",
            closed_to_newcomers: false,
        })
        .await
}

/// Upgraded connections to what echoes, and nothing of the echo is read.
pub async fn echoes_behind_not_read() -> Row {
    const COUNT: usize = 100;
    let server = behind(|mut stream| async move {
        let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let _ = stream.write_all(head).await;
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await;
    let scene = passed_on(&server, r#"tunnel_timeout = "3s""#).open("echoes_behind_not_read").await;
    let to = scene.bridge.address;
    let ended = swarm(COUNT, move |n, turnstile| async move {
        let mut stream = turnstile.pass(connect(address(n / OF_ONE), to)).await;
        stream = upgraded(stream, "/behind/live").await;
        let message = frame(BINARY, &PART);
        // Until the echo, which nobody reads, has filled what there is on the way, and all stands still.
        while stream.write_all(&message).await.is_ok() {}
        read_to_end(&mut stream).await.len()
    })
    .await;
    assert_eq!(ended.len(), COUNT);
    scene
        .over(Verdict {
            sent: format!(
                "messages of 64 KiB to an echo behind the bridge, by {COUNT} clients that read nothing"
            ),
            bound_mib: 64,
            ended: "closed after `tunnel_timeout` (3 s here)",
            closed_to_newcomers: false,
        })
        .await
}
