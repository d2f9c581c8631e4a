//! Clients that were written by hand, long ago: what they compare byte for byte, and what they send that others do
//! not.

use crate::support::Bridge;
use crate::support::raw::{Raw, upgrade};

/// The head of the answer, but for the date.
async fn head_of(bridge: &Bridge, request: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::connect(bridge.address()).await;
    raw.send(request).await;
    let head = raw.head().await;
    let date = head.lines().find(|line| line.starts_with("Date: "));
    let date = date.unwrap_or_else(|| panic!("{head}")).to_owned();
    head.replace(&format!("{date}\r\n"), "")
}

#[tokio::test(flavor = "multi_thread")]
async fn header_names_leave_as_the_rfcs_spell_them() {
    let bridge = Bridge::start().await;
    assert_eq!(
        head_of(&bridge, upgrade("/ws", &[])).await,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
    let path = "/ws/content/1";
    for (request, names) in [
        (
            upgrade(path, &[]),
            &["Deprecation", "Sunset", "Link", "Connection", "Upgrade", "Sec-WebSocket-Accept"][..],
        ),
        (
            upgrade(path, &[("Sec-WebSocket-Version", "8")]),
            &[
                "Deprecation",
                "Sunset",
                "Link",
                "Upgrade",
                "Connection",
                "Sec-WebSocket-Version",
                "Content-Type",
                "Content-Length",
            ],
        ),
        (
            upgrade(path, &[("Sec-WebSocket-Key", "")]),
            &["Deprecation", "Sunset", "Link", "Connection", "Content-Type", "Content-Length"],
        ),
        (upgrade("/elsewhere", &[]), &["Connection", "Content-Type", "Content-Length"]),
        ("junk\r\n\r\n".to_owned(), &["Connection", "Content-Length"]),
        (upgrade(path, &[("X", &"x".repeat(20_000))]), &["Connection", "Content-Length"]),
    ] {
        let head = head_of(&bridge, &request).await;
        let mut sent: Vec<&str> =
            head.trim_end().split("\r\n").skip(1).map(|line| line.split_once(": ").unwrap().0).collect();
        let mut expected = names.to_vec();
        sent.dedup();
        sent.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sent, expected, "{head}");
    }
}
