//! Where a request that is passed on ends early.

use std::sync::Arc;

use pusher_bridge::net::destination::Destination;
use pusher_bridge::proxy::settings::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::fallback::{CUT, OK, start, start_with};
use crate::support::raw::upgrade;
use crate::support::{Raw, patiently};

const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_question_goes_as_far_as_its_client_wants() {
    let (bridge, upstream) = start().await;
    for (method, status) in [("OPTIONS", 204), ("TRACE", 501)] {
        let ask = |hops: u32| format!("{method} /a HTTP/1.1\r\nHost: a\r\nMax-Forwards: {hops}\r\n\r\n");
        assert_eq!(Raw::ask(bridge.address(), ask(0)).await.status, status);
        let mut client = Raw::connect(bridge.address()).await;
        client.send(ask(1)).await;
        let (mut behind, head) = upstream.asked().await;
        assert!(
            head.starts_with(&format!("{method} /a ")) && head.contains("\r\nMax-Forwards: 0\r\n"),
            "{head}"
        );
        behind.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(client.answer().await.body, "ok");
    }
    assert_eq!(upstream.metric(&bridge, "failures_total", r#"reason="max_forwards""#), 2.0);
}

/// A client that has begun to send may go on for a while, and reads the answer to its end, which is no reset.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_body_is_not_lost() {
    const HALF: usize = 300_000;
    let (bridge, _upstream) = start_with(|settings| settings.limits.body_bytes_max = Some(10)).await;
    for length in [format!("Content-Length: {}", 2 * HALF), "Transfer-Encoding: chunked".to_owned()] {
        let mut client = TcpStream::connect(bridge.address()).await.unwrap();
        let head = format!("POST /a HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        if length.ends_with("chunked") {
            client.write_all(format!("{:x}\r\n", 2 * HALF).as_bytes()).await.unwrap();
        }
        let half = vec![b'x'; HALF];
        patiently("the first half", client.write_all(&half)).await.unwrap();
        let mut status = [0; "HTTP/1.1 413".len()];
        patiently("the answer", client.read_exact(&mut status)).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 413", "{length}");
        patiently("the second half", client.write_all(&half)).await.unwrap();
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        patiently("the end", client.read_to_end(&mut rest)).await.unwrap();
        assert!(String::from_utf8_lossy(&rest).contains("too large"), "{length}");
    }
}

/// Each limit by itself: whoever is one too many is told, and has room when another has gone.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_one_too_many_is_told_by_which_limit() {
    let cases: [(fn(&mut Limits), _, _, _); 3] = [
        (|limits| limits.requests_max = 1, GET.to_owned(), 503, "requests"),
        (|limits| limits.tunnels_max = 1, upgrade("/live", &[]), 503, "tunnels"),
        (|limits| limits.tunnels_per_address = 1, upgrade("/live", &[]), 429, "tunnels_per_address"),
    ];
    for (limit, ask, status, reason) in cases {
        let (bridge, upstream) = start_with(|settings| limit(&mut settings.limits)).await;
        let upgrades = ask != GET;
        let mut first = Raw::connect(bridge.address()).await;
        first.send(&ask).await;
        let (mut behind, _) = upstream.asked().await;
        if upgrades {
            behind.send(SWITCHED).await;
            first.head().await;
        }
        let refused = Raw::ask(bridge.address(), &ask).await;
        assert_eq!((refused.status, refused.header("retry-after").as_str()), (status, "5"), "{reason}");
        assert_eq!(upstream.metric(&bridge, "failures_total", &format!("reason={reason:?}")), 1.0);
        if upgrades {
            drop(behind);
            first.ended().await;
        } else {
            behind.send(LAST).await;
            assert_eq!(first.answer().await.status, 200);
        }
        let mut next = Raw::connect(bridge.address()).await;
        next.send(&ask).await;
        upstream.asked().await.0.send(if upgrades { SWITCHED } else { LAST }).await;
        assert!(next.head().await.starts_with(if upgrades { "HTTP/1.1 101 " } else { "HTTP/1.1 200 " }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_connections_that_are_kept_the_oldest_makes_room() {
    let (bridge, upstream) = start_with(|settings| settings.limits.idle_connections_max = 1).await;
    let mut asking = Vec::new();
    for _ in 0..2 {
        let mut client = Raw::connect(bridge.address()).await;
        client.send(GET).await;
        asking.push((client, upstream.asked().await.0));
    }
    for (client, behind) in &mut asking {
        behind.send(OK).await;
        assert_eq!(client.answer().await.status, 200);
    }
    let (_, second) = asking.pop().unwrap();
    let (mut client, first) = asking.pop().unwrap();
    first.ended().await;
    client.send(GET).await;
    let mut second = second;
    assert!(second.head().await.starts_with("GET /a "), "it was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_told_by_its_time() {
    let (bridge, upstream) = start_with(|settings| settings.body_timeout = CUT).await;
    let mut slow = Raw::connect(bridge.address()).await;
    slow.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc").await;
    let (behind, _) = upstream.asked().await;
    assert_eq!(slow.answer().await.status, 408);
    behind.ended().await;
    assert_eq!(upstream.metric(&bridge, "failures_total", r#"reason="body_timeout""#), 1.0);
    // Whoever accepts nothing more, as its backlog is full, lets connections wait.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = timeout(CUT, TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    let to = Arc::new(Destination::parse(&format!("http://{address}")).unwrap());
    let (bridge, upstream) = start_with(|settings| {
        settings.to = Some(to);
        settings.connect_timeout = CUT;
    })
    .await;
    let answer = Raw::ask(bridge.address(), GET).await;
    assert_eq!((answer.status, answer.header("content-type").as_str()), (504, "application/problem+json"));
    let failed =
        format!(r#"pusher_bridge_fallback_failures_total{{upstream="{address}",reason="connect_timeout"}}"#);
    assert_eq!(bridge.metric(&failed), 1.0);
    drop((upstream, waiting));
}

/// An upstream that does not know of `Expect` says nothing, and gets the body all the same (RFC 9110 §10.1.1).
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_asks_for_is_sent_after_a_while() {
    let (bridge, upstream) = start().await;
    let mut client = Raw::connect(bridge.address()).await;
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").await;
    let (mut behind, head) = upstream.asked().await;
    assert!(head.contains("\r\nExpect: 100-continue\r\n"), "{head}");
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc").await;
    assert_eq!(behind.until("abc").await, "abc");
    behind.send(OK).await;
    assert_eq!(client.answer().await.status, 200);
}
