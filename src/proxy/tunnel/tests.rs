use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;

fn half(pending: &'static str) -> Half<()> {
    Half::new(Bytes::from_static(pending.as_bytes()), Counter::noop(), ())
}

/// A direction carries all there is, in order, whatever the other side takes at once, and holds a bounded part of it.
#[tokio::test]
async fn a_direction_carries_everything_and_then_the_end() {
    for room in [1, 7, BUFFER_BYTES, 3 * BUFFER_BYTES] {
        let (mut source, mut from) = duplex(64 * 1024);
        let (mut to, mut sink) = duplex(room);
        let sent: Vec<u8> = (0..60_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        source.write_all(&sent).await.unwrap();
        source.shutdown().await.unwrap();
        let mut direction = half("early");
        let carrying = poll_fn(|cx| {
            let polled = direction.poll(cx, &mut from, &mut to);
            assert!(direction.pending.len() <= BUFFER_BYTES);
            polled
        });
        let mut got = Vec::new();
        let (carried, read) = tokio::join!(carrying, sink.read_to_end(&mut got));
        carried.unwrap();
        read.unwrap();
        assert_eq!(&got[..5], b"early");
        assert!(got[5..] == sent[..], "with room for {room}");
        assert_eq!(direction.bytes, 60_005);
    }
}

/// Who takes nothing is sent nothing more: no more is read for it than one buffer.
#[tokio::test]
async fn what_nobody_takes_is_not_read() {
    let (mut source, mut from) = duplex(1 << 20);
    let (mut to, _sink) = duplex(10);
    source.write_all(&vec![0; 1 << 20]).await.unwrap();
    let mut direction = half("");
    for _ in 0..3 {
        let polled = poll_fn(|cx| Poll::Ready(direction.poll(cx, &mut from, &mut to))).await;
        assert!(polled.is_pending());
    }
    assert_eq!((direction.bytes, direction.pending.len()), (10, BUFFER_BYTES - 10));
}
