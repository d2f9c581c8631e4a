//! Where a request that is passed on ends early.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fallback::{start, start_with};
use crate::support::{Raw, patiently};

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
