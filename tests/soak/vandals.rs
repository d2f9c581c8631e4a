//! Those who never were clients: scanners, broken programs, and guessers. Each is shown out in its own way.

use std::time::Duration;

use pusher_bridge::session::machine::JUDGING_MAX;
use tokio::time::{Instant, timeout, timeout_at};

use crate::client::{Client, Heard, Over};
use crate::ledger::PATIENCE;
use crate::messages::Route;
use crate::support::raw::{TEXT, auth, frame, upgrade};
use crate::visits::Visit;
use crate::wire::{Wire, status};

/// Kinds of them.
const KINDS: u32 = 14;

pub async fn visit(visit: &mut Visit) -> Result<(), String> {
    let content = "/ws/content/content0";
    let protocol = "WebSocket protocol error";
    match visit.rng.u32(..KINDS) {
        0 => refused(visit, &upgrade("/nothing/here", &[]), 404).await,
        1 => refused(visit, &upgrade("/ws/content/%20", &[]), 400).await,
        2 => refused(visit, &upgrade(content, &[("Upgrade", "")]), 426).await,
        3 => refused(visit, &upgrade(content, &[("Sec-WebSocket-Key", "short")]), 400).await,
        4 => refused(visit, "\x16\x03\x01 this is no HTTP\r\n\r\n", 400).await,
        5 => never_asks(visit).await,
        6 => cut_off(visit).await,
        // Not masked, a reserved opcode, no UTF-8, too large: RFC 6455 §5.1, §5.2, §8.1, §7.4.1.
        7 => closed(visit, &[TEXT, 2, b'h', b'i'], 1002, protocol).await,
        8 => closed(visit, &frame(0x83, b"x"), 1002, protocol).await,
        9 => closed(visit, &frame(TEXT, &[0xC0, 0xAF]), 1007, "text message is not UTF-8").await,
        10 => {
            let head = [&[TEXT, 0xFF][..], &(1_u64 << 40).to_be_bytes(), &[1, 2, 3, 4]].concat();
            closed(visit, &head, 1009, "message too big").await
        }
        11 => {
            let flood = frame(0x8A, b"").repeat(700);
            closed(visit, &flood, 1008, "too many control frames").await
        }
        12 => closed(visit, b"", 1008, "no valid token in time").await,
        _ => guesser(visit).await,
    }
}

async fn connect(visit: &mut Visit) -> Result<Wire, String> {
    let from = visit.address();
    Wire::connect(visit.world.bridge.get(), from, false)
        .await
        .map_err(|error| format!("not connected: {error}"))
}

/// A request that is answered by this status, and then the end.
async fn refused(visit: &mut Visit, request: &str, expected: u16) -> Result<(), String> {
    visit.world.count("vandal: refused request");
    let mut wire = connect(visit).await?;
    let answered = timeout(PATIENCE, async {
        wire.send(request).await?;
        let head = wire.head().await?;
        while wire.more().await? {}
        Ok::<_, std::io::Error>(head)
    });
    match answered.await {
        Ok(Ok(Some(head))) if status(&head) == expected => Ok(()),
        other => Err(format!("{request:?} is answered by {other:?}, not {expected}")),
    }
}

/// Half a request, and then nothing: the header timeout of 3 s is for it.
async fn never_asks(visit: &mut Visit) -> Result<(), String> {
    visit.world.count("vandal: never asks");
    let mut wire = connect(visit).await?;
    let ended = timeout(PATIENCE, async {
        wire.send("GET /ws/native HTTP/1.1\r\nHost: ").await?;
        while wire.more().await? {}
        Ok::<_, std::io::Error>(())
    });
    ended.await.map(drop).map_err(|_| "half a request is waited on for too long".to_owned())
}

/// Gone before anything was answered.
async fn cut_off(visit: &mut Visit) -> Result<(), String> {
    visit.world.count("vandal: cut off");
    let mut wire = connect(visit).await?;
    let request = upgrade("/ws/native", &[]);
    let part = &request[..visit.rng.usize(..=request.len())];
    // The other side may not even have seen it.
    let _ = wire.send(part).await;
    if visit.chance(50) {
        wire.reset();
    }
    Ok(())
}

async fn open(visit: &mut Visit) -> Result<Client, String> {
    let from = visit.address();
    let path = "/ws/content/content0";
    let opened = Client::open(&visit.world, Some(Route::Content), path, from, &[]).await;
    opened.map_err(|over| format!("not opened: {over:?}"))
}

/// Upgraded, sends these bytes, and is closed for them.
async fn closed(visit: &mut Visit, bytes: &[u8], code: u16, reason: &str) -> Result<(), String> {
    visit.world.count("vandal: closed");
    let mut client = open(visit).await?;
    let outcome = async {
        client.send_raw(bytes).await?;
        client.read_to_end().await
    };
    match outcome.await {
        Ok(Some((c, r))) if (c, r.as_str()) == (code, reason) => Ok(()),
        other => Err(format!("{:?}… ends by {other:?}, not {code} {reason}", &bytes[..bytes.len().min(8)])),
    }
}

/// One wrong token after another, all from one address: each refused, and in the end a close.
async fn guesser(visit: &mut Visit) -> Result<(), String> {
    const ADDRESS: u16 = 0xFFFF;
    visit.world.count("vandal: guesser");
    let opened = Client::open(&visit.world, Some(Route::Content), "/ws/content/content0", ADDRESS, &[]).await;
    let mut client = match opened {
        Ok(client) => client,
        // Many of them are held until their deadlines.
        Err(Over::NotUpgraded(429)) => return Ok(()),
        Err(over) => return Err(format!("a guesser is not opened: {over:?}")),
    };
    // Its deadline stands still while its tokens wait to be judged.
    let until = Instant::now() + PATIENCE + JUDGING_MAX;
    let guessing = async {
        loop {
            client.send_raw(&auth("a.guessed.token")).await?;
            let refused = |heard: &Heard| matches!(heard, Heard::Refused(_) | Heard::AuthOk);
            if client.answer(refused).await? == Some(Heard::AuthOk) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let outcome: Result<Result<(), Over>, _> = timeout_at(until, guessing).await;
    match outcome {
        Ok(Err(Over::Closed(1008, reason)))
            if reason == "too many wrong tokens" || reason == "no valid token in time" =>
        {
            Ok(())
        }
        other => Err(format!("a guesser ends by {other:?}")),
    }
}
