//! Where a request that is passed on ends early.

use crate::fallback::start;
use crate::support::Raw;

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
