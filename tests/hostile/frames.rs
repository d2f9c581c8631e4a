//! Attacks by frames: floods, fragments, broken ones, and JSON that is one only to look at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::attacker::{address, close_code, login, open, read_to_end, send_again, swarm, tally};
use crate::process::Metrics;
use crate::report::Row;
use crate::scene::{Scene, Verdict, shipped};
use crate::support::bridge::token;
use crate::support::raw::{BINARY, CLOSE, PING, PONG, TEXT, frame};

const PATH: &str = "/ws/content/gen_1";
const NATIVE: &str = "/ws/native";
/// The message limit of all shipped routes but `native`.
const MESSAGE_MAX: usize = 65_536;

/// Connects, floods, reads to the end, and again, until the attack is over: 32 attackers at once. All are to be
/// closed with `code`; gives how many.
async fn flood(scene: &Scene, path: &'static str, floods: Vec<Vec<u8>>, code: u16) -> usize {
    let (to, end) = (scene.bridge.address, scene.end());
    let floods = Arc::new(floods);
    let codes = swarm(32, move |n, _| {
        let floods = floods.clone();
        async move {
            let mut seen = Vec::new();
            while Instant::now() < end {
                let mut stream = open(address(n), to, path).await;
                let bytes = &floods[(n + seen.len()) % floods.len()];
                let (mut reading, mut writing) = stream.split();
                let mut answer = Vec::new();
                let (read, _) = tokio::join!(reading.read_to_end(&mut answer), writing.write_all(bytes));
                seen.push((read.is_ok(), close_code(&answer)));
            }
            seen
        }
    })
    .await;
    let seen = tally(codes.into_iter().flatten());
    assert_eq!(seen.keys().collect::<Vec<_>>(), [&(true, Some(code))], "{seen:?}");
    seen.values().sum()
}

/// WebSocket pings, of which each is owed a pong.
pub async fn ping_flood() -> Row {
    let scene = shipped().open("ping_flood").await;
    let pings = frame(PING, &[b'p'; 125]).repeat(5000);
    let count = flood(&scene, PATH, vec![pings], 1008).await;
    scene.bridge.until("closes", |m| m.closes("content", "control_flood") == count as f64).await;
    scene
        .over(Verdict {
            sent: format!("5,000 pings of 125 bytes on each of {count} connections, in 2 s"),
            bound_mib: 16,
            ended: "1008 `control_flood` after 600",
            closed_to_newcomers: false,
        })
        .await
}

/// Pongs that nobody asked for, of both kinds.
pub async fn pong_flood() -> Row {
    let scene = shipped().open("pong_flood").await;
    let floods = vec![frame(PONG, b"").repeat(20_000), frame(TEXT, br#"{"type":"pong"}"#).repeat(10_000)];
    let count = flood(&scene, PATH, floods, 1008).await;
    scene.bridge.until("closes", |m| m.closes("content", "control_flood") == count as f64).await;
    scene
        .over(Verdict {
            sent: format!("10,000 to 20,000 pongs on each of {count} connections, in 2 s"),
            bound_mib: 16,
            ended: "1008 `control_flood` after 600",
            closed_to_newcomers: false,
        })
        .await
}

/// A message of empty fragments: it never grows, and never ends.
pub async fn empty_fragments() -> Row {
    const ATTACKERS: usize = 32;
    const ROUTES: [(&str, &str); 2] = [(PATH, "content"), ("/ws", "channels")];
    let scene = shipped().open("empty_fragments").await;
    let (to, end) = (scene.bridge.address, scene.end());
    let outcomes = swarm(ATTACKERS, move |n, _| async move {
        let (path, route) = ROUTES[n % 2];
        let batch = frame(0x00, b"").repeat(2000);
        let (mut seen, mut sent) = (Vec::new(), 0);
        while Instant::now() < end {
            let mut stream = open(address(n), to, path).await;
            stream.write_all(&frame(0x01, b"")).await.unwrap();
            sent += batch.len() * send_again(&mut stream, &batch, Duration::from_secs(4)).await;
            seen.push((route, close_code(&read_to_end(&mut stream).await)));
        }
        (seen, sent)
    })
    .await;
    let sent: usize = outcomes.iter().map(|(_, bytes)| bytes).sum();
    let seen = tally(outcomes.into_iter().flat_map(|(seen, _)| seen));
    let expected = ROUTES.map(|(_, route)| (route, Some(1008)));
    let counts = expected.map(|outcome| seen.get(&outcome).copied().unwrap_or_default());
    assert!(seen.len() == 2 && counts.iter().all(|count| *count > 0), "{seen:?}");
    let closes = |m: &Metrics| ROUTES.map(|(_, route)| m.closes(route, "control_flood"));
    scene.bridge.until("closes", |m| closes(m) == counts.map(|count| count as f64)).await;
    let count: usize = counts.iter().sum();
    scene
        .over(Verdict {
            sent: format!("{} MB of empty fragments of {count} messages, in 2 s", sent / 1_000_000),
            bound_mib: 16,
            ended: "1008 `control_flood` after some 7,000 each",
            closed_to_newcomers: false,
        })
        .await
}

/// Messages that grow beyond their limit and go on, fragment by fragment.
pub async fn fragments_without_end() -> Row {
    const ATTACKERS: usize = 200;
    const SIZES: [usize; 4] = [1, 100, 1000, 16_384];
    let scene = shipped().open("fragments_without_end").await;
    let (to, end) = (scene.bridge.address, scene.end());
    let outcomes = swarm(ATTACKERS, move |n, turnstile| async move {
        let size = SIZES[n % SIZES.len()];
        let batch = frame(0x00, &vec![b'x'; size]).repeat(16_384 / size);
        let (mut codes, mut sent) = (Vec::new(), 0);
        while Instant::now() < end {
            let mut stream = turnstile.pass(open(address(n), to, PATH)).await;
            stream.write_all(&frame(0x01, b"x")).await.unwrap();
            let (mut reading, mut writing) = stream.split();
            let mut answer = Vec::new();
            let writes = async {
                while writing.write_all(&batch).await.is_ok() {
                    sent += batch.len();
                }
                // It is told before it is cut off.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                // What was sent behind the close may reset the connection: what came before that is here.
                _ = reading.read_to_end(&mut answer) => {}
                () = writes => {}
            }
            codes.push(close_code(&answer));
        }
        (codes, sent)
    })
    .await;
    let sent: usize = outcomes.iter().map(|(_, bytes)| bytes).sum();
    let codes = tally(outcomes.into_iter().flat_map(|(codes, _)| codes));
    assert_eq!(codes.keys().collect::<Vec<_>>(), [&Some(1009)], "{codes:?}");
    let count = codes[&Some(1009)];
    scene.bridge.until("closes", |m| m.closes("content", "too_big") == count as f64).await;
    scene
        .over(Verdict {
            sent: format!(
                "{} MB of fragments of {count} messages without an end, {ATTACKERS} at once",
                sent / 1_000_000
            ),
            bound_mib: 48,
            ended: "1009 after 64 KiB each",
            closed_to_newcomers: false,
        })
        .await
}

/// Messages within the limit, in fragments of one byte: they are carried.
pub async fn tiny_fragments() -> Row {
    const ATTACKERS: usize = 16;
    let scene = shipped().open("tiny_fragments").await;
    let (to, end) = (scene.bridge.address, scene.end());
    let mut message = frame(0x01, b"x");
    message.extend(frame(0x00, b"x").repeat(MESSAGE_MAX - 2));
    message.extend(frame(0x80, b"x"));
    let length = message.len();
    let message = Arc::new(message);
    let carried = swarm(ATTACKERS, move |n, _| {
        let message = message.clone();
        async move {
            let path = [PATH, NATIVE][n % 2];
            let mut stream = open(address(n), to, path).await;
            let mut carried = 0;
            while Instant::now() < end {
                stream.write_all(&message).await.unwrap();
                let expected = if n % 2 == 0 { b"{\"type\":\"error\"" } else { b"xxxxxxxxxxxxxxx" };
                let mut header = [0; 10];
                stream.read_exact(&mut header[..4]).await.unwrap();
                let length = match header[1] {
                    127 => {
                        stream.read_exact(&mut header[4..]).await.unwrap();
                        MESSAGE_MAX
                    }
                    _ => usize::from(u16::from_be_bytes([header[2], header[3]])),
                };
                let mut text = vec![0; length];
                stream.read_exact(&mut text).await.unwrap();
                assert!(text.starts_with(expected), "{}", String::from_utf8_lossy(&text));
                carried += 1;
            }
            carried
        }
    })
    .await;
    let count: usize = carried.iter().sum();
    scene
        .over(Verdict {
            sent: format!(
                "{count} messages of 64 KiB in fragments of 1 byte: {} MB",
                count * length / 1_000_000
            ),
            bound_mib: 16,
            ended: "carried: each was within the limit",
            closed_to_newcomers: false,
        })
        .await
}

/// Messages that are nearly complete and stay so, whole and in fragments.
pub async fn partial_messages() -> Row {
    const COUNT: usize = 1000;
    const PER_ADDRESS: usize = 50;
    let scene = shipped().auth_deadline("4s").open("partial_messages").await;
    let to = scene.bridge.address;
    let whole = frame(TEXT, &[b'x'; MESSAGE_MAX]);
    let whole = whole[..whole.len() - 100].to_vec();
    let parts = [frame(0x01, &[b'x'; 30_000]), frame(0x00, &[b'x'; 30_000])].concat();
    let kinds = Arc::new([whole, parts]);
    let codes = swarm(COUNT, move |n, turnstile| {
        let kinds = kinds.clone();
        async move {
            let mut stream = turnstile.pass(open(address(n / PER_ADDRESS), to, PATH)).await;
            stream.write_all(&kinds[n % 2]).await.unwrap();
            close_code(&read_to_end(&mut stream).await)
        }
    })
    .await;
    assert_eq!(tally(codes), BTreeMap::from([(Some(1008), COUNT)]));
    scene.bridge.until("closes", |m| m.closes("content", "auth_deadline") == COUNT as f64).await;
    scene
        .over(Verdict {
            sent: format!("60 KiB of an unfinished message on each of {COUNT} connections"),
            bound_mib: 128,
            ended: "closed 1008 `auth_deadline` (4 s here)",
            closed_to_newcomers: false,
        })
        .await
}

/// The head of a masked binary message of `length` bytes, its first `sent` of which are zeros.
fn begun(length: u64, sent: usize) -> Vec<u8> {
    let mut bytes = [&[0x82, 0xFF][..], &length.to_be_bytes(), &[0; 4]].concat();
    bytes.resize(bytes.len() + sent, 0);
    bytes
}

/// As much of large messages as can be held, where a route takes them: nobody else's message, though larger than
/// a share of the budget, may be turned away for it.
pub async fn large_parts_held() -> Row {
    const ATTACKERS: usize = 40;
    const MIB: usize = 1 << 20;
    let scene = shipped().open("large_parts_held").await;
    let to = scene.bridge.address;
    let part = Arc::new(begun(16 << 20, 15 * MIB));
    let held = tokio::spawn(swarm(ATTACKERS, move |_, _| {
        let part = part.clone();
        async move {
            let mut stream = open(address(0), to, NATIVE).await;
            // Some are closed while they send.
            let _ = stream.write_all(&part).await;
            let code = tokio::time::timeout(Duration::from_secs(3), read_to_end(&mut stream)).await;
            (stream, code.map_or(0, |answer| close_code(&answer).unwrap_or(1)))
        }
    }));
    scene.bridge.until("the budget to be used up", |m| m.closes("native", "overload") > 0.0).await;
    // An honest client's messages: far more than a share, far less than the attackers hold.
    let mut honest = open(address(1), to, NATIVE).await;
    let message = [begun(64 * 1024, 0), vec![0; 64 * 1024]].concat();
    let mut echoed = 0;
    while !held.is_finished() {
        for piece in message.chunks(8192) {
            honest.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut echo = vec![0; 64 * 1024 + 10];
        honest.read_exact(&mut echo).await.expect("it is not turned away");
        echoed += 1;
    }
    assert!(echoed > 5, "{echoed}");
    drop(honest);
    let outcomes = held.await.unwrap();
    let codes = tally(outcomes.iter().map(|(_, code)| *code));
    assert!(codes.contains_key(&1013) && codes.contains_key(&0), "some are closed, some hold on: {codes:?}");
    drop(outcomes);
    scene.bridge.until("the budget to be free", |m| m.get(HELD) == 0.0).await;
    scene
        .over(Verdict {
            sent: format!("15 of 16 MiB of a message on each of {ATTACKERS} connections"),
            bound_mib: 160,
            ended: "1013 `overload`, those first that hold most",
            closed_to_newcomers: false,
        })
        .await
}

const HELD: &str = "pusher_bridge_buffered_bytes";

/// Large messages whose buffers outlive them, for a byte of the next message is there already.
pub async fn buffers_kept() -> Row {
    const ATTACKERS: usize = 40;
    const SIZE: usize = 8 << 20;
    let scene = shipped().open("buffers_kept").await;
    let to = scene.bridge.address;
    let message = Arc::new([begun(SIZE as u64, SIZE), vec![0x82]].concat());
    let (mut count, mut echoed) = (0, 0);
    while Instant::now() < scene.end() {
        let message = message.clone();
        let held = swarm(ATTACKERS, move |_, _| {
            let message = message.clone();
            async move {
                let mut stream = open(address(0), to, NATIVE).await;
                let (mut reading, mut writing) = stream.split();
                let mut echo = vec![0; SIZE + 10];
                let (_, read) = tokio::join!(writing.write_all(&message), reading.read_exact(&mut echo));
                (stream, read.is_ok())
            }
        })
        .await;
        let whole = held.iter().filter(|(_, echoed)| *echoed).count();
        assert!(whole > 8, "there is room for as many, but not for all: {whole}");
        drop(held);
        scene.bridge.until("the budget to be free", |m| m.get(HELD) == 0.0).await;
        count += ATTACKERS;
        echoed += whole;
    }
    scene
        .over(Verdict {
            sent: format!(
                "{count} messages of 8 MiB, {ATTACKERS} at once, each with a byte of the next; \
                 {echoed} were echoed"
            ),
            // Twice the budget.
            bound_mib: 256,
            ended: "1013 `overload`, those first that hold most",
            closed_to_newcomers: false,
        })
        .await
}

/// Everything that RFC 6455 forbids a client to send.
pub async fn broken_frames() -> Row {
    const AT_ONCE: usize = 40;
    let wrong_key = {
        let mut bytes = frame(TEXT, &[b'a'; 40]);
        let last = bytes.len() - 1;
        // The key in the head is not the one that was used.
        bytes[2..6].copy_from_slice(&[0xAA, 0x55, 0x99, 0x66]);
        bytes[last] ^= 1;
        bytes
    };
    let claim = |length: u64| [&[0x82, 0xFF][..], &length.to_be_bytes(), &[0; 4]].concat();
    let close = |code: u16| frame(CLOSE, &code.to_be_bytes());
    let cases: Vec<(Vec<u8>, u16, &str)> = vec![
        (vec![0x81, 2, b'h', b'i'], 1002, "unmasked"),
        (wrong_key, 1007, "another key than it was masked with"),
        (frame(0xC1, b"x"), 1002, "reserved bit 1"),
        (frame(0xA1, b"x"), 1002, "reserved bit 2"),
        (frame(0x91, b"x"), 1002, "reserved bit 3"),
        (frame(0x83, b"x"), 1002, "reserved data opcode"),
        (frame(0x8B, b"x"), 1002, "reserved control opcode"),
        (frame(0x8F, b"x"), 1002, "reserved control opcode"),
        (frame(0x09, b"x"), 1002, "fragmented ping"),
        (frame(PING, &[0; 126]), 1002, "large ping"),
        (frame(0x80, b"x"), 1002, "continues nothing"),
        ([frame(0x01, b"x"), frame(TEXT, b"y")].concat(), 1002, "begins within another"),
        (frame(TEXT, &[b'a', 0xFF]), 1007, "no UTF-8"),
        (frame(TEXT, &[0xED, 0xA0, 0x80]), 1007, "a surrogate"),
        (frame(TEXT, &[0xF4, 0x90, 0x80, 0x80]), 1007, "beyond Unicode"),
        (frame(TEXT, &[0xC0, 0xAF]), 1007, "overlong"),
        ([frame(0x01, &[0xE2, 0x82]), frame(0x80, &[0xC3])].concat(), 1007, "no UTF-8, split"),
        ([frame(0x01, &[0xE2, 0x82]), frame(0x80, b"")].concat(), 1007, "UTF-8 cut short"),
        (claim(1 << 63), 1009, "2^63 bytes"),
        (claim(u64::MAX), 1009, "2^64 bytes"),
        (claim(MESSAGE_MAX as u64 + 1), 1009, "a byte too many"),
        (frame(CLOSE, b"\x03"), 1002, "half a close code"),
        (frame(CLOSE, b"\x03\xE8\xFF"), 1007, "a close reason that is no UTF-8"),
        (close(0), 1002, "close code 0"),
        (close(1005), 1002, "close code 1005"),
        (close(1006), 1002, "close code 1006"),
        (close(2999), 1002, "close code 2999"),
        (close(5000), 1002, "close code 5000"),
    ];
    let scene = shipped().open("broken_frames").await;
    let to = scene.bridge.address;
    let cases = Arc::new(cases);
    let mut codes = Vec::new();
    while Instant::now() < scene.end() {
        let cases = cases.clone();
        let round = swarm(cases.len() * AT_ONCE, move |n, turnstile| {
            let cases = cases.clone();
            async move {
                let case = n % cases.len();
                let mut stream = turnstile.pass(open(address(n), to, "/ws")).await;
                stream.write_all(&cases[case].0).await.unwrap();
                (case, close_code(&read_to_end(&mut stream).await))
            }
        });
        codes.extend(round.await);
    }
    let count = codes.len();
    let each = count / cases.len();
    for (case, code) in codes {
        let (_, expected, what) = &cases[case];
        assert_eq!(code, Some(*expected), "{what}");
    }
    let closes = |code: u16| cases.iter().filter(|case| case.1 == code && case.0[0] != CLOSE).count() * each;
    let [not_utf8, too_big] = [closes(1007), closes(1009)].map(|count| count as f64);
    scene
        .bridge
        .until("closes", |m| {
            m.closes("channels", "not_utf8") >= not_utf8 && m.closes("channels", "too_big") == too_big
        })
        .await;
    scene
        .over(Verdict {
            sent: format!("{} kinds of broken frames, {count} times", cases.len()),
            bound_mib: 16,
            ended: "1002, 1007 or 1009; closes by reason",
            closed_to_newcomers: false,
        })
        .await
}

/// JSON that is deep, wide, or not what it looks like, each as large as a message may be.
pub async fn json_bombs() -> Row {
    const USERS: usize = 2;
    const PER_USER: usize = 10;
    const ROUNDS: usize = 2;
    let pad = |start: &str, unit: &str, end: &str| {
        let room = (MESSAGE_MAX - start.len() - end.len()) / unit.len();
        format!("{start}{}{end}", unit.repeat(room))
    };
    let bombs: Vec<(String, &str)> = vec![
        ("[".repeat(MESSAGE_MAX), "MESSAGE_TOO_DEEP"),
        (pad(r#"{"type":"run","data":"#, r#"{"a":"#, ""), "MESSAGE_TOO_DEEP"),
        (pad(r#"{"type":"run","data":"#, "9", "}"), "MESSAGE_TOO_LARGE"),
        (pad(r#"{"type":"run","data":1e"#, "9", "}"), "MESSAGE_TOO_LARGE"),
        (pad(r#"{"type":"run","data":["#, "1,", "1]}"), "MESSAGE_TOO_LARGE"),
        (pad("{", r#""a":1,"#, r#""type":"run"}"#), "MESSAGE_TOO_LARGE"),
        (pad(r#"{"type":"run","#, r#""type":1,"#, r#""b":1}"#), "MISSING_TYPE"),
        (pad(r#"{"type":""#, r"\ud800", r#""}"#), "MISSING_TYPE"),
        (pad(r#"{"type":"run","data":""#, r"\u0000", r#""}"#), "MESSAGE_TOO_LARGE"),
        (pad(r#"{"type":"run","data":""#, r#"\""#, ""), "INVALID_JSON"),
        (pad("", " ", ""), "INVALID_JSON"),
        (pad(r#"{"type":"run","data":"#, "-", "}"), "INVALID_JSON"),
    ];
    let scene = shipped().open("json_bombs").await;
    let (to, end) = (scene.bridge.address, scene.end());
    let bombs = Arc::new(bombs);
    let kinds = bombs.len();
    let outcomes = swarm(USERS * PER_USER, move |n, _| {
        let bombs = bombs.clone();
        async move {
            let mut outcomes = Vec::new();
            // One that has just gone may still count: the next login is another user's.
            for login_number in 0.. {
                let user = token(&format!("bomber-{}-{login_number}", n / PER_USER));
                // Fewer than the 100 messages that may come at once.
                let mut stream = login(address(n), to, "/ws/plugin/p1", &user).await;
                for (bomb, expected) in bombs.iter().cycle().take(ROUNDS * bombs.len()) {
                    stream.write_all(&frame(TEXT, bomb.as_bytes())).await.unwrap();
                    outcomes.push((error_code(&mut stream).await, (*expected).to_owned()));
                }
                if Instant::now() >= end {
                    break;
                }
            }
            outcomes
        }
    })
    .await;
    let seen = tally(outcomes.into_iter().flatten());
    let count: usize = seen.values().sum();
    assert!(seen.keys().all(|(code, expected)| code == expected), "{seen:#?}");
    let told = scene.bridge.metrics().await.sum(r#"pusher_bridge_client_errors_total{route="plugin""#);
    assert_eq!(told, count as f64);
    let carried = scene.sandbox.published();
    assert!(carried.iter().all(|event| event.channel == "agent-status"), "none was carried");
    scene
        .over(Verdict {
            sent: format!("{count} messages of 64 KiB of {kinds} kinds of wild JSON"),
            bound_mib: 24,
            ended: "an error frame each, by its code; the connection stays",
            closed_to_newcomers: false,
        })
        .await
}

/// The error code of the next text frame, pings skipped.
async fn error_code(stream: &mut crate::stream::Stream) -> String {
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).await.unwrap();
        let length = match head[1] {
            126 => usize::from(stream.read_u16().await.unwrap()),
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        let text = String::from_utf8_lossy(&payload).into_owned();
        assert_ne!(head[0], CLOSE, "{text}");
        if let Ok(frame) = serde_json::from_str::<serde_json::Value>(&text)
            && let Some(code) = frame["data"]["error_code"].as_str()
        {
            return code.to_owned();
        }
    }
}

/// A frame that comes a byte a second, before authentication and after it.
pub async fn a_byte_a_second_in_frames() -> Row {
    const COUNT: usize = 500;
    let setting = shipped().auth_deadline("4s").with(
        r#"heartbeat = { kind = "websocket" }"#,
        r#"heartbeat = { kind = "websocket", every = "1s", timeout = "4s" }"#,
    );
    let scene = setting.open("a_byte_a_second_in_frames").await;
    let to = scene.bridge.address;
    let bytes = Arc::new(frame(TEXT, &[b'x'; 1000]));
    let codes = swarm(COUNT, move |n, turnstile| {
        let bytes = bytes.clone();
        async move {
            let path = [PATH, NATIVE][n % 2];
            let mut stream = turnstile.pass(open(address(n), to, path)).await;
            let (mut reading, mut writing) = stream.split();
            let mut answer = Vec::new();
            tokio::select! {
                read = reading.read_to_end(&mut answer) => { read.unwrap(); }
                () = async {
                    for byte in bytes.iter() {
                        if writing.write_all(&[*byte]).await.is_err() {
                            break;
                        }
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    std::future::pending().await
                } => {}
            }
            (path, close_code(&answer))
        }
    })
    .await;
    let half = COUNT / 2;
    let expected = BTreeMap::from([((PATH, Some(1008)), half), ((NATIVE, Some(1001)), half)]);
    assert_eq!(tally(codes), expected);
    let half = half as f64;
    scene
        .bridge
        .until("closes", |m| {
            m.closes("content", "auth_deadline") == half && m.closes("native", "silent") == half
        })
        .await;
    scene
        .over(Verdict {
            sent: format!("a frame at a byte a second on each of {COUNT} connections"),
            bound_mib: 16,
            ended: "1008 `auth_deadline`, 1001 `silent` (4 s here)",
            closed_to_newcomers: false,
        })
        .await
}

/// Messages as small and as many as can be, where a route limits none: they must not keep the others waiting.
pub async fn tiny_echoes() -> Row {
    const ATTACKERS: usize = 50;
    let scene = shipped().open("tiny_echoes").await;
    let (to, end) = (scene.bridge.address, scene.end());
    let echoed = swarm(ATTACKERS, move |_, _| async move {
        let mut stream = open(address(0), to, NATIVE).await;
        let (mut reading, mut writing) = stream.split();
        let batch = frame(BINARY, b"x").repeat(1000);
        let mut bytes = 0;
        let reads = async {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = reading.read(&mut buffer).await {
                bytes += read;
            }
        };
        let writes = async { while writing.write_all(&batch).await.is_ok() {} };
        // What the kernel still holds then is reset with the connection.
        let _ = tokio::time::timeout_at(end.into(), async { tokio::join!(reads, writes) }).await;
        // An echo is a head of two bytes and one byte.
        bytes / 3
    })
    .await;
    let count: usize = echoed.iter().sum();
    assert!(echoed.iter().all(|echoed| *echoed > 0));
    scene.bridge.until("closes", |m| m.closes("native", "lost") == ATTACKERS as f64).await;
    scene
        .over(Verdict {
            sent: format!("{count} messages of 1 byte to be echoed, in 2 s"),
            bound_mib: 16,
            ended: "echoed: the route sets no rate",
            closed_to_newcomers: false,
        })
        .await
}
