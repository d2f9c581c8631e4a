//! Attacks that there are only where the listener speaks TLS: on the handshake, and by records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::attacker::{address, bare, open, read_to_end, swarm, tally};
use crate::report::Row;
use crate::scene::{Verdict, shipped};
use crate::stream::TLS;
use crate::support::raw::{BINARY, frame};

/// Types of records (RFC 8446 §5.1), and what an alert that is not encrypted takes.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const ALERT_BYTES: usize = 7;

/// The first message of a client that knows how to go on.
fn hello() -> Vec<u8> {
    let name = ServerName::try_from("bridge.example").unwrap();
    let mut client = ClientConnection::new(TLS.get().unwrap().client.clone(), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Handshakes that are not gone on with: at a half of the first message, and when the server has signed.
pub async fn unfinished_handshakes() -> Row {
    const COUNT: usize = 3000;
    let scene = shipped().server_limit(r#"header_timeout = "3s""#).open("unfinished_handshakes").await;
    let to = scene.bridge.address;
    let hello = Arc::new(hello());
    let answers = swarm(COUNT, move |n, turnstile| {
        let hello = hello.clone();
        async move {
            let mut stream = turnstile.pass(bare(address(n % 3), to)).await;
            let bytes = if n % 2 == 0 { &hello[..] } else { &hello[..hello.len() / 2] };
            stream.write_all(bytes).await.unwrap();
            let answer = read_to_end(&mut stream).await;
            (n % 2 == 0, answer.first().copied(), answer.len() > ALERT_BYTES)
        }
    })
    .await;
    // A whole first message is answered, a half is not; both are told the end.
    let expected = [(false, Some(ALERT), false), (true, Some(HANDSHAKE), true)];
    assert_eq!(tally(answers), BTreeMap::from(expected.map(|outcome| (outcome, COUNT / 2))));
    let failed = r#"pusher_bridge_tls_handshake_failures_total{reason="timeout"}"#;
    scene.bridge.until("timeouts", |m| m.get(failed) == COUNT as f64).await;
    scene
        .over(Verdict {
            sent: format!("{COUNT} handshakes that stop at or within the client's first message"),
            bound_mib: 96,
            ended: "closed after `header_timeout` (3 s here); handshake failure `timeout`",
            closed_to_newcomers: false,
        })
        .await
}

/// Messages whose every byte is a record of its own: each costs 23 bytes and a decryption.
pub async fn tiny_records() -> Row {
    const ATTACKERS: usize = 16;
    const SIZE: usize = 8192;
    let scene = shipped().open("tiny_records").await;
    let (to, end) = (scene.bridge.address, scene.end());
    let message = Arc::new(frame(BINARY, &[7; SIZE]));
    let echoed = swarm(ATTACKERS, move |n, _| {
        let message = message.clone();
        async move {
            let mut stream = open(address(n), to, "/ws/native").await;
            let mut echo = vec![0; SIZE + 4];
            let mut count = 0;
            while Instant::now() < end {
                for byte in message.iter() {
                    stream.write_all(&[*byte]).await.unwrap();
                }
                stream.read_exact(&mut echo).await.unwrap();
                count += 1;
            }
            count
        }
    })
    .await;
    assert!(echoed.iter().all(|count| *count > 0), "{echoed:?}");
    let records = echoed.iter().sum::<usize>() * SIZE;
    scene
        .over(Verdict {
            sent: format!("{records} bytes to be echoed, each a record of its own"),
            bound_mib: 16,
            ended: "echoed: each message was within the limit",
            closed_to_newcomers: false,
        })
        .await
}
