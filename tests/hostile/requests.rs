//! Attacks before the upgrade: on accepting, on reading a request, and on refusing it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::attacker::{address, bare, close_code, connect, read_to_end, status, swarm, tally, try_connect};
use crate::bystanders::login;
use crate::process::Metrics;
use crate::report::Row;
use crate::scene::{Verdict, shipped};
use crate::support::patiently;
use crate::support::raw::{request, upgrade};

const PLAIN: &str = "GET /ws/native HTTP/1.1\r\nHost: h\r\n\r\n";

/// A request behind which another may follow.
const KEPT: &str = "GET /nowhere HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n";

/// Connections without a request.
pub async fn silent_connections() -> Row {
    const COUNT: usize = 8000;
    let scene = shipped().server_limit(r#"header_timeout = "3s""#).open("silent_connections").await;
    let to = scene.bridge.address;
    let answers = swarm(COUNT, move |n, turnstile| async move {
        // Where there is TLS, before the handshake and behind it.
        let mut stream = if n / 8 % 2 == 0 {
            turnstile.pass(connect(address(n % 8), to)).await
        } else {
            turnstile.pass(bare(address(n % 8), to)).await
        };
        read_to_end(&mut stream).await.len()
    })
    .await;
    assert_eq!(tally(answers), BTreeMap::from([(0, COUNT)]), "nothing was asked, nothing is answered");
    scene.bridge.until("timeouts", |m| m.refusals("none", "timeout") == COUNT as f64).await;
    scene
        .over(Verdict {
            sent: format!("{COUNT} connections that say nothing, from 8 addresses"),
            bound_mib: 32,
            ended: "closed after `header_timeout` (3 s here); refusal `timeout`",
            closed_to_newcomers: false,
        })
        .await
}

/// Heads as large as they may be, without their end.
pub async fn half_requests() -> Row {
    const COUNT: usize = 3000;
    let scene = shipped().server_limit(r#"header_timeout = "3s""#).open("half_requests").await;
    let to = scene.bridge.address;
    let head = format!("GET /ws/native HTTP/1.1\r\nHost: h\r\nx: {}", "x".repeat(16_000));
    let head = Arc::new(head);
    let answers = swarm(COUNT, move |n, turnstile| {
        let head = head.clone();
        async move {
            let mut stream = turnstile.pass(connect(address(n % 3), to)).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            read_to_end(&mut stream).await.len()
        }
    })
    .await;
    assert_eq!(tally(answers), BTreeMap::from([(0, COUNT)]));
    scene.bridge.until("timeouts", |m| m.refusals("none", "timeout") == COUNT as f64).await;
    scene
        .over(Verdict {
            sent: format!("{COUNT} requests, each of 16,000 bytes without an end"),
            bound_mib: 112,
            ended: "closed after `header_timeout` (3 s here); refusal `timeout`",
            closed_to_newcomers: false,
        })
        .await
}

/// The time for a request is for the whole of it, not for each byte.
pub async fn a_byte_a_second() -> Row {
    const COUNT: usize = 1000;
    let scene = shipped().server_limit(r#"header_timeout = "3s""#).open("a_byte_a_second").await;
    let to = scene.bridge.address;
    let taken = swarm(COUNT, move |n, turnstile| async move {
        let mut stream = turnstile.pass(connect(address(n), to)).await;
        for (sent, byte) in PLAIN.bytes().enumerate() {
            if stream.write_all(&[byte]).await.is_err() {
                return sent;
            }
            // Nothing is answered: the read ends when the connection does.
            if tokio::time::timeout(Duration::from_secs(1), stream.read_u8()).await.is_ok() {
                return sent + 1;
            }
        }
        PLAIN.len()
    })
    .await;
    let most = *tally(taken).last_key_value().unwrap().0;
    assert!((2..=5).contains(&most), "{most} bytes were waited for");
    scene.bridge.until("timeouts", |m| m.refusals("none", "timeout") == COUNT as f64).await;
    scene
        .over(Verdict {
            sent: format!("{COUNT} requests, a byte a second"),
            bound_mib: 32,
            ended: "closed after `header_timeout` (3 s here); refusal `timeout`",
            closed_to_newcomers: false,
        })
        .await
}

/// Headers that never end, larger and more than there may be.
pub async fn headers_without_end() -> Row {
    const ATTACKERS: usize = 64;
    let scene = shipped().open("headers_without_end").await;
    let (to, end) = (scene.bridge.address, scene.end());
    let answers = swarm(ATTACKERS, move |n, _| async move {
        let mut seen = Vec::new();
        while Instant::now() < end {
            let mut stream = connect(address(n), to).await;
            let header =
                if n % 2 == 0 { format!("x-{n}: {}\r\n", "y".repeat(1000)) } else { "y: z\r\n".repeat(100) };
            let _ = stream.write_all(b"GET /ws/native HTTP/1.1\r\nHost: h\r\n").await;
            for _ in 0..1000 {
                if stream.write_all(header.as_bytes()).await.is_err() {
                    break;
                }
            }
            seen.push(status(&read_to_end(&mut stream).await));
        }
        seen
    })
    .await;
    let seen = tally(answers.into_iter().flatten());
    let count: usize = seen.values().sum();
    // A reset may overtake the answer, for much was sent that nobody read.
    assert!(seen.keys().all(|status| [0, 431].contains(status)) && seen[&431] > 0, "{seen:?}");
    scene.bridge.until("431s", |m| m.refusals("none", "malformed") == count as f64).await;
    scene
        .over(Verdict {
            sent: format!("{count} requests with headers up to 1 MB, in 2 s"),
            bound_mib: 16,
            ended: "431; refusal `malformed`",
            closed_to_newcomers: false,
        })
        .await
}

/// What is no WebSocket upgrade, and what comes behind one answer too many.
pub async fn other_protocols() -> Row {
    const AT_ONCE: usize = 60;
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];
    hello.extend((0..506).map(|n| n as u8));
    let post = |more: &str| format!("POST /ws/native HTTP/1.1\r\nHost: h\r\n{more}\r\n");
    let endless = format!("{}{}", post("Transfer-Encoding: chunked\r\n"), "4\r\nbomb\r\n".repeat(10_000));
    let twice = format!("{0}{0}", upgrade("/ws/native", &[]));
    let kinds: Vec<(Vec<u8>, u16)> = vec![
        (hello, 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(), 0),
        (b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), 400),
        (b"GET /ws/native\r\n".to_vec(), 400),
        (vec![0; 4000], 400),
        (vec![0xFF; 4000], 400),
        (PLAIN.repeat(100).into(), 426),
        (twice.into(), 101),
        (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), 404),
        (b"CONNECT example.com:443 HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), 404),
        (endless.into(), 426),
        (post("Content-Length: 99999999999999999999\r\n").into(), 400),
        (post("Content-Length: 9999999999\r\nExpect: 100-continue\r\n").into(), 426),
        (post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n").into(), 426),
        (request("GET /ws/native HTTP/1.0", &[]).into(), 400),
    ];
    let scene = shipped().open("other_protocols").await;
    let to = scene.bridge.address;
    let kinds = Arc::new(kinds);
    let mut answers = Vec::new();
    while Instant::now() < scene.end() {
        let kinds = kinds.clone();
        let round = swarm(kinds.len() * AT_ONCE, move |n, turnstile| {
            let kinds = kinds.clone();
            async move {
                let kind = n % kinds.len();
                let mut stream = turnstile.pass(connect(address(n), to)).await;
                let _ = stream.write_all(&kinds[kind].0).await;
                let answer = read_to_end(&mut stream).await;
                let code = close_code(answer.split(|b| *b == b'\n').next_back().unwrap_or_default());
                let answers = answer.windows(8).filter(|eight| eight == b"\r\nDate: ").count();
                (kind, status(&answer), answers, code)
            }
        });
        answers.extend(round.await);
    }
    let count = answers.len();
    let each = count / kinds.len();
    for (kind, status, answers, code) in answers {
        let (bytes, expected) = &kinds[kind];
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]);
        assert_eq!(status, *expected, "{what}");
        assert_eq!(answers, usize::from(*expected != 0), "one answer at most: {what}");
        assert!(code == (*expected == 101).then_some(1002), "{code:?}: {what}");
    }
    let counts = |m: &Metrics| {
        [
            m.refusals("none", "unknown_path"),
            m.refusals("native", "upgrade_required"),
            // HTTP/1.0
            m.refusals("native", "malformed"),
            // What hyper could not read.
            m.refusals("none", "malformed"),
            // A request is no frame.
            m.closes("native", "protocol_error"),
        ]
    };
    let expected = [2, 4, 1, 7, 1].map(|kinds| (kinds * each) as f64);
    scene.bridge.until("each to be counted", |m| counts(m) == expected).await;
    scene
        .over(Verdict {
            sent: format!("{count} times TLS, HTTP/2, SSH, pipelines, endless bodies, junk"),
            bound_mib: 16,
            ended: "400, 404, 426 or 1002, once each, and closed; counted by reason",
            closed_to_newcomers: false,
        })
        .await
}

/// Connections that are reset at once, at three stages.
pub async fn connect_and_reset() -> Row {
    let scene = shipped().open("connect_and_reset").await;
    let (to, end) = (scene.bridge.address, scene.end());
    let resets = swarm(64, move |attacker, _| async move {
        let mut resets = 0;
        while Instant::now() < end {
            let n = attacker + resets * 64;
            let from = address(n % 3000);
            let mut stream = if n % 3 == 0 { bare(from, to).await } else { connect(from, to).await };
            let part = [String::new(), PLAIN[..20].to_owned(), upgrade("/ws/native", &[])];
            let _ = stream.write_all(part[n % 3].as_bytes()).await;
            resets += 1;
        }
        resets
    })
    .await;
    let count: usize = resets.iter().sum();
    // A connection that was reset before it was accepted is accepted all the same.
    scene.bridge.until("all to be gone", |m| m.get(HANDSHAKES) <= 1.0).await;
    scene
        .over(Verdict {
            sent: format!("{count} connections reset at once, in a request, after one, in 2 s"),
            bound_mib: 32,
            ended: "gone; accepting never failed",
            closed_to_newcomers: false,
        })
        .await
}

const HANDSHAKES: &str = r#"pusher_bridge_connections{route="none",phase="handshake"}"#;

/// Requests that are refused, as fast as they can be made.
pub async fn refused_requests() -> Row {
    let scene = shipped().open("refused_requests").await;
    let to = scene.bridge.address;
    let end = Instant::now() + Duration::from_secs(3);
    let answers = swarm(32, move |n, _| async move {
        let mut seen = Vec::new();
        while Instant::now() < end {
            let mut stream = connect(address(n), to).await;
            let (request, expected) = match seen.len() % 3 {
                0 => (PLAIN.to_owned(), 426),
                1 => (upgrade("/nowhere", &[]), 404),
                _ => (upgrade("/ws/agent/%00", &[]), 400),
            };
            stream.write_all(request.as_bytes()).await.unwrap();
            assert_eq!(status(&read_to_end(&mut stream).await), expected);
            seen.push(expected);
        }
        seen
    })
    .await;
    let seen = tally(answers.into_iter().flatten());
    let count: usize = seen.values().sum();
    let counts = |m: &Metrics| {
        [
            m.refusals("native", "upgrade_required"),
            m.refusals("none", "unknown_path"),
            m.refusals("agent", "bad_path"),
        ]
    };
    let expected = [426, 404, 400].map(|status| seen[&status] as f64);
    scene.bridge.until("each to be counted", |m| counts(m) == expected).await;
    scene
        .over(Verdict {
            sent: format!("{count} requests to be refused, in 3 s"),
            bound_mib: 16,
            ended: "426, 404, 400; refusals by reason",
            closed_to_newcomers: false,
        })
        .await
}

/// A request that is answered, and behind it a head as large as it may be, without its end.
pub async fn kept_connections() -> Row {
    const COUNT: usize = 3000;
    let scene = shipped().server_limit(r#"header_timeout = "3s""#).open("kept_connections").await;
    let to = scene.bridge.address;
    let bytes = format!("{KEPT}GET /ws/native HTTP/1.1\r\nHost: h\r\nx: {}", "x".repeat(16_000));
    let bytes = Arc::new(bytes);
    let answers = swarm(COUNT, move |n, turnstile| {
        let bytes = bytes.clone();
        async move {
            let mut stream = turnstile.pass(connect(address(n % 3), to)).await;
            stream.write_all(bytes.as_bytes()).await.unwrap();
            status(&read_to_end(&mut stream).await)
        }
    })
    .await;
    assert_eq!(tally(answers), BTreeMap::from([(404, COUNT)]));
    scene.bridge.until("timeouts", |m| m.refusals("none", "timeout") == COUNT as f64).await;
    scene
        .over(Verdict {
            sent: format!("{COUNT} connections with a request that is answered and 16,000 bytes of another"),
            bound_mib: 112,
            ended: "closed after `header_timeout` (3 s here); refusal `timeout`",
            closed_to_newcomers: false,
        })
        .await
}

/// More requests than a connection may have, all at once.
pub async fn pipelines() -> Row {
    const ATTACKERS: usize = 32;
    const MAX: usize = 100;
    let scene = shipped().open("pipelines").await;
    let (to, end) = (scene.bridge.address, scene.end());
    let counts = swarm(ATTACKERS, move |n, _| async move {
        let mut connections = 0;
        while Instant::now() < end {
            let mut stream = connect(address(n), to).await;
            let _ = stream.write_all(KEPT.repeat(2 * MAX).as_bytes()).await;
            let answers = read_to_end(&mut stream).await;
            let count = answers.windows(9).filter(|nine| nine == b"HTTP/1.1 ").count();
            // A reset may overtake the last of them, for more was sent than is read.
            assert!(count <= MAX, "{count} answers");
            connections += 1;
        }
        connections
    })
    .await;
    let count: usize = counts.into_iter().sum();
    scene
        .bridge
        .until("each to be counted", |m| m.refusals("none", "unknown_path") == (count * MAX) as f64)
        .await;
    scene
        .over(Verdict {
            sent: format!("{count} connections, each with {} requests at once, in 2 s", 2 * MAX),
            bound_mib: 16,
            ended: "404 a hundred times, and closed",
            closed_to_newcomers: false,
        })
        .await
}

/// More connections than the process may have files: the probes, Pusher and those in service keep theirs.
pub async fn all_descriptors() -> Row {
    const DESCRIPTORS: usize = 800;
    const COUNT: usize = 2000;
    // Otherwise the attacker would be taken for a proxy.
    let setting = shipped().with(r#"trusted_proxies = ["127.0.0.0/8", "::1/128"]"#, "trusted_proxies = []");
    let setting = setting.descriptors(DESCRIPTORS).server_limit(r#"header_timeout = "3s""#);
    let scene = setting.open("all_descriptors").await;
    let to = scene.bridge.address;
    let held = tokio::spawn(swarm(COUNT, move |_, turnstile| async move {
        let Ok(mut stream) = turnstile.pass(try_connect(address(0), to)).await else { return 0 };
        let _ = stream.write_all(&PLAIN.as_bytes()[..20]).await;
        read_to_end(&mut stream).await.len()
    }));
    let mut looks = 0;
    while !held.is_finished() {
        let metrics = scene.bridge.metrics().await;
        assert_eq!(metrics.get("pusher_bridge_accept_errors_total"), 0.0);
        looks += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(looks > 20, "the probes' address answered {looks} times");
    held.await.unwrap();
    scene
        .over(Verdict {
            sent: format!("{COUNT} half requests to a process that may have {DESCRIPTORS} files open, `trusted_proxies` empty"),
            bound_mib: 24,
            ended: "those beyond the limit closed unanswered, the others after `header_timeout` (3 s here) or for a newcomer",
            closed_to_newcomers: false,
        })
        .await
}

/// An address has all the connections it may have, of honest clients behind one router, and one more client
/// there tries and tries: each time the holders are asked for a sign of life.
pub async fn neighbours_at_their_cap() -> Row {
    const NEIGHBOURS: usize = 50;
    let scene = shipped().open("neighbours_at_their_cap").await;
    let (to, end) = (scene.bridge.address, scene.end());
    let router = address(0);
    let pings = Arc::new(AtomicUsize::new(0));
    let neighbours = swarm(NEIGHBOURS, {
        move |n, _| async move {
            let (path, user) = (format!("/ws/content/s{n}"), format!("neighbour-{}", n / 10));
            login(router, to, &path, &user).await.unwrap()
        }
    })
    .await;
    let mut serving = Vec::new();
    for mut socket in neighbours {
        let pings = pings.clone();
        serving.push(tokio::spawn(async move {
            loop {
                match socket.next().await {
                    Some(Ok(Message::Text(text))) if text.contains(r#""type":"ping""#) => {
                        pings.fetch_add(1, Ordering::Relaxed);
                        let pong = Message::text(r#"{"type":"pong"}"#);
                        socket.send(pong).await.unwrap();
                    }
                    // Its pong is sent by the library.
                    Some(Ok(Message::Ping(_))) => {}
                    Some(Ok(Message::Text(text))) if text.contains("fence") => return socket,
                    other => panic!("a neighbour got {other:?}"),
                }
            }
        }));
    }
    let answers = swarm(16, move |_, _| async move {
        let mut seen = Vec::new();
        while Instant::now() < end {
            let mut stream = connect(router, to).await;
            stream.write_all(upgrade("/ws/content/s0", &[]).as_bytes()).await.unwrap();
            seen.push(status(&read_to_end(&mut stream).await));
        }
        seen
    })
    .await;
    let answers = tally(answers.into_iter().flatten());
    assert_eq!(answers.keys().collect::<Vec<_>>(), [&429], "{answers:?}");
    let tries = answers[&429];
    for n in 0..NEIGHBOURS {
        scene.sandbox.trigger(&format!("content-generation-s{n}"), "fence", "1");
    }
    for serving in serving {
        // Still in service.
        patiently("a neighbour's event", serving).await.unwrap();
    }
    let pings = pings.load(Ordering::Relaxed);
    assert!(pings <= NEIGHBOURS * 10, "each try asked everybody: {pings} pings");
    scene
        .over(Verdict {
            sent: format!(
                "{tries} upgrades in 2 s from an address whose {NEIGHBOURS} connections are all in use"
            ),
            bound_mib: 16,
            ended: "429; the neighbours stay",
            closed_to_newcomers: false,
        })
        .await
}
