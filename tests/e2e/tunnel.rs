//! Routes that the old server goes on serving: to a server that is a plain socket, so that every byte is seen, and to one
//! that is a WebSocket's.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use pusher_bridge::app::Shutdown;
use pusher_bridge::config::Config;
use pusher_bridge::sandbox::{Options, Sandbox};
use pusher_bridge::server::settings::ProxyProtocol;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

use crate::fallback::Upstream;
use crate::http2;
use crate::reload::next;
use crate::support::bridge::SHIPPED;
use crate::support::process::{Program, file, log_line};
use crate::support::raw::{BINARY, CLOSE, Frame, PING, PONG, TEXT, frame, plain, upgrade};
use crate::support::tls::{Authority, connect, serve};
use crate::support::{Bridge, OldClient, Raw, patiently, skipped};

const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: v1\r\n\
     Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
const LIVE: &str = r#"pusher_bridge_connections{route="old",phase="live"}"#;
const MIB: usize = 1 << 20;

/// The shipped routes, and `/old/{id}` of this server.
fn routes(to: &str, more: &str) -> String {
    format!(
        "{SHIPPED}\n[[routes]]\nname = \"old\"\npath = \"/old/{{id}}\"\nmode = \"tunnel\"\nto = \"{to}\"\n{more}\n"
    )
}

/// A route of the same name and path that Pusher serves.
fn relayed() -> String {
    format!(
        "{SHIPPED}\n[[routes]]\nname = \"old\"\npath = \"/old/{{id}}\"\nchannel = \"old-{{id}}\"\n\
         dialect = \"typed\"\n"
    )
}

async fn start_with(more: &str, change: impl FnOnce(&mut Config)) -> (Bridge, Upstream) {
    let server = Upstream::start().await;
    let bridge = Bridge::with(&routes(server.to.source(), more), |config: &mut Config| {
        config.server.close_window = Duration::from_millis(50);
        config.server.trusted_proxies.clear();
        config.server.workers = 1;
        change(config);
    })
    .await;
    (bridge, server)
}

async fn start(more: &str) -> (Bridge, Upstream) {
    start_with(more, |_| {}).await
}

/// A client that is connected, and the old server's end of it.
async fn pair(bridge: &Bridge, server: &Upstream) -> (Raw, Raw) {
    let mut client = Raw::connect(bridge.address()).await;
    client.send(upgrade("/old/1", &[])).await;
    let (mut behind, _) = server.asked().await;
    behind.send(SWITCHES).await;
    assert_eq!(client.answer().await.status, 101);
    (client, behind)
}

fn closing(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

/// Waits until so many connections are closed for this reason.
async fn closed(bridge: &Bridge, reason: &str, count: f64) {
    let series = format!(r#"pusher_bridge_closes_total{{route="old",reason="{reason}"}}"#);
    bridge.becomes(&series, count).await;
}

fn refused(bridge: &Bridge, reason: &str) -> f64 {
    bridge.metric(&format!(r#"pusher_bridge_refusals_total{{route="old",reason="{reason}"}}"#))
}

/// What passes is passed on as it is, in both directions.
async fn passes(client: &mut Raw, behind: &mut Raw) {
    let (up, down) = (frame(TEXT, b"up"), plain(TEXT, b"down"));
    client.send(&up).await;
    assert_eq!(behind.exactly(up.len()).await, up);
    behind.send(&down).await;
    assert_eq!(client.exactly(down.len()).await, down);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_passes_as_it_is_and_is_counted_as_on_any_route() {
    let (bridge, server) = start("").await;
    let mut client = Raw::connect(bridge.address()).await;
    let extensions = ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits");
    client
        .send(upgrade(
            "/old/a%20b?token=secret",
            &[
                extensions,
                ("Sec-WebSocket-Protocol", "v2, v1"),
                ("Cookie", "a=b"),
                ("X-Forwarded-For", "192.0.2.1"),
            ],
        ))
        .await;
    let (mut behind, head) = server.asked().await;
    assert!(head.starts_with("GET /old/a%20b?token=secret HTTP/1.1\r\n"), "{head}");
    for field in [
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Sec-WebSocket-Protocol: v2, v1",
        "Cookie: a=b",
        "Host: legacy.example.com",
        "X-Forwarded-For: 127.0.0.1",
        "Forwarded: for=127.0.0.1;host=legacy.example.com;proto=http",
    ] {
        assert!(
            head.to_lowercase().contains(&format!("\r\n{}\r\n", field.to_lowercase())),
            "{field}: {head}"
        );
    }
    // What comes right behind the 101 is the client's, too.
    let early = plain(TEXT, b"early");
    behind.send([SWITCHES.as_bytes(), &early].concat()).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(answer.header("sec-websocket-protocol"), "v1");
    assert_eq!(answer.header("sec-websocket-extensions"), "permessage-deflate");
    assert_eq!(client.exactly(early.len()).await, early);
    bridge.becomes(LIVE, 1.0).await;
    let large = vec![b'x'; 70_000];
    let frames: [(u8, &[u8]); 11] = [
        (TEXT, b"text"),
        (BINARY, &[0, 255, 1]),
        (0x01, b"a message "),
        (PING, b"between its parts"),
        (0x00, b"in three "),
        (0x80, b"fragments"),
        // Compressed, or not even that: its meaning is theirs.
        (0xC1, &[0xF2, 0x48, 0xCD]),
        (PONG, b""),
        (BINARY, &large),
        (TEXT, b""),
        (0xFB, b"of no meaning"),
    ];
    for (first, payload) in frames {
        let (up, down) = (frame(first, payload), plain(first, payload));
        // In pieces, wherever they are cut.
        for piece in up.chunks(up.len() / 3 + 1) {
            client.send(piece).await;
        }
        assert_eq!(behind.exactly(up.len()).await, up);
        behind.send(&down).await;
        assert_eq!(client.exactly(down.len()).await, down);
    }
    let close = frame(CLOSE, &closing(4001, "done"));
    client.send(&close).await;
    assert_eq!(behind.exactly(close.len()).await, close);
    behind.send(plain(CLOSE, &closing(4001, "done"))).await;
    drop(behind);
    assert_eq!(client.close_code().await, Some(4001));
    bridge.becomes(LIVE, 0.0).await;
    closed(&bridge, "by_client", 1.0).await;
    assert_eq!(bridge.metric(r#"pusher_bridge_connections_total{route="old"}"#), 1.0);
    // Messages that have come to their end: five, and one that came early.
    for (direction, early) in [("in", 0.0), ("out", 1.0)] {
        let of = |family: &str| {
            bridge.metric(&format!(r#"pusher_bridge_{family}_total{{route="old",direction="{direction}"}}"#))
        };
        assert_eq!(of("frames"), 6.0 + early, "{direction}");
        let bytes = 4 + 3 + "a message in three fragments".len() + 3 + 70_000;
        assert_eq!(of("frame_bytes"), bytes as f64 + 5.0 * early, "{direction}");
    }
    assert_eq!(server.metric(&bridge, "tunnels", ""), 0.0);
    assert_eq!(server.metric(&bridge, "tunnels_opened_total", ""), 1.0);
}

/// Who does not read holds up whoever writes to him, and nothing is lost by it.
#[tokio::test(flavor = "multi_thread")]
async fn large_messages_wait_for_who_reads() {
    const ALL: usize = 96;
    const HELD_MAX: usize = 48;
    let (bridge, server) = start("").await;
    for upwards in [true, false] {
        let (client, behind) = pair(&bridge, &server).await;
        let (mut from, mut to) = if upwards { (client, behind) } else { (behind, client) };
        let message = move |n: usize| {
            let payload = vec![n as u8; MIB];
            if upwards { frame(BINARY, &payload) } else { plain(BINARY, &payload) }
        };
        let (told, mut sent) = tokio::sync::watch::channel(0);
        let writing = tokio::spawn(async move {
            for n in 0..ALL {
                from.send(message(n)).await;
                told.send_replace(n + 1);
            }
            from
        });
        // Until it is held up: what is taken is the sockets' buffers and little more.
        while timeout(Duration::from_secs(1), sent.changed()).await.is_ok() {}
        assert!(*sent.borrow() < HELD_MAX, "{} MiB were taken", *sent.borrow());
        for n in 0..ALL {
            let expected = message(n);
            assert!(to.exactly(expected.len()).await == expected, "message {n}");
        }
        drop(writing.await.unwrap());
        to.ended().await;
    }
    bridge.becomes(LIVE, 0.0).await;
    let passed =
        |direction| server.metric(&bridge, "tunnel_bytes_total", &format!(r#"direction="{direction}""#));
    assert_eq!(passed("in"), (ALL * (MIB + 14)) as f64);
    assert_eq!(passed("out"), (ALL * (MIB + 10)) as f64);
    for direction in ["in", "out"] {
        let series = format!(r#"pusher_bridge_frames_total{{route="old",direction="{direction}"}}"#);
        assert_eq!(bridge.metric(&series), ALL as f64);
    }
}

/// Which side ends it, and how, is what the other one sees, and what is counted.
#[tokio::test(flavor = "multi_thread")]
async fn who_ends_it_is_told_to_the_other_side_as_it_is() {
    let (bridge, server) = start("").await;
    // The old server closes, and the client answers.
    let (mut client, mut behind) = pair(&bridge, &server).await;
    behind.send([plain(TEXT, b"last"), plain(CLOSE, &closing(4002, "why"))].concat()).await;
    assert_eq!(client.frame().await.text(), "last");
    assert_eq!(client.frame().await, Frame(CLOSE, closing(4002, "why")));
    let answer = frame(CLOSE, &closing(4002, ""));
    client.send(&answer).await;
    assert_eq!(behind.exactly(answer.len()).await, answer);
    drop(behind);
    client.ended().await;
    bridge.becomes(LIVE, 0.0).await;
    closed(&bridge, "by_server", 1.0).await;
    // It closes without a code.
    let (mut client, mut behind) = pair(&bridge, &server).await;
    behind.send(plain(CLOSE, b"")).await;
    assert_eq!(client.frame().await, Frame(CLOSE, Vec::new()));
    drop((client, behind));
    bridge.becomes(LIVE, 0.0).await;
    closed(&bridge, "by_server", 2.0).await;
    // It is gone, with something still to be read: the client sees no close frame, as without the bridge.
    let (mut client, mut behind) = pair(&bridge, &server).await;
    behind.send(plain(TEXT, b"a word")).await;
    drop(behind);
    assert_eq!(client.frame().await.text(), "a word");
    assert_eq!(client.close_code().await, None);
    bridge.becomes(LIVE, 0.0).await;
    closed(&bridge, "server_lost", 1.0).await;
    // The client is gone, with a frame half sent.
    let (mut client, mut behind) = pair(&bridge, &server).await;
    client.send(&frame(TEXT, b"half")[..7]).await;
    behind.exactly(7).await;
    client.reset();
    behind.ended().await;
    let (client, behind) = pair(&bridge, &server).await;
    drop(client);
    behind.ended().await;
    bridge.becomes(LIVE, 0.0).await;
    closed(&bridge, "lost", 2.0).await;
    let all = bridge.metric(r#"pusher_bridge_connections_total{route="old"}"#);
    assert_eq!(all, 5.0);
}

const DEPRECATED: &str = "[routes.deprecation]\ndeprecated_at = \"2025-01-21T00:00:00Z\"\n\
     sunset_at = \"2125-06-30T23:59:59Z\"\nsuccessor = \"https://example.com/new\"";

/// Whatever is answered: by the old server, or in its place.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_old_server_says_passes_with_the_bridges_word_of_the_end() {
    let (bridge, server) = start_with(DEPRECATED, |config| {
        // A route has the times of a fallback, and its defaults where there is none.
        config.fallback = Some(pusher_bridge::proxy::settings::Settings {
            answer_timeout: Duration::from_millis(300),
            ..pusher_bridge::proxy::settings::Settings::of_nothing()
        });
    })
    .await;
    let is_told = |answer: &crate::support::raw::Answer| {
        assert_eq!(answer.header("deprecation"), "@1737417600");
        assert_eq!(answer.header("sunset"), "Sat, 30 Jun 2125 23:59:59 GMT");
        assert!(answer.header("link").contains("https://example.com/new"), "{answer:?}");
    };
    let ask = async || {
        let mut client = Raw::connect(bridge.address()).await;
        client.send(upgrade("/old/1", &[])).await;
        let (behind, _) = server.asked().await;
        (client, behind)
    };
    let (mut client, mut behind) = ask().await;
    // Its own word of the same does not stand beside the bridge's; links do.
    let own = SWITCHES.replace("\r\n\r\n", "\r\nDeprecation: @1\r\nLink: </own>; rel=\"help\"\r\n\r\n");
    behind.send(own).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 101);
    is_told(&answer);
    assert!(answer.header("link").contains("</own>"), "{answer:?}");
    passes(&mut client, &mut behind).await;
    let (mut client, mut behind) = ask().await;
    behind
        .send("HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nWWW-Authenticate: Bearer\r\nContent-Type: text/x\r\nContent-Length: 5\r\n\r\nno, x")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (401, "no, x"));
    assert_eq!(
        (answer.header("www-authenticate"), answer.header("content-type")),
        ("Bearer".into(), "text/x".into())
    );
    is_told(&answer);
    client.ended().await;
    assert_eq!(refused(&bridge, "declined"), 1.0);
    let problem = |answer: &crate::support::raw::Answer, status: u16| {
        assert_eq!(
            (answer.status, answer.header("content-type").as_str()),
            (status, "application/problem+json")
        );
        is_told(answer);
    };
    // It says nothing in time, or nothing that can be read, or what nobody asked for.
    let (mut client, _behind) = ask().await;
    problem(&client.answer().await, 504);
    assert_eq!(refused(&bridge, "server_late"), 1.0);
    for wrong in ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"]
    {
        let (mut client, mut behind) = ask().await;
        behind.send(wrong).await;
        problem(&client.answer().await, 502);
    }
    let (mut client, behind) = ask().await;
    drop(behind);
    problem(&client.answer().await, 502);
    assert_eq!(refused(&bridge, "server_down"), 3.0);
    // It is away.
    let Upstream { listener, to } = server;
    drop(listener);
    problem(&Raw::ask(bridge.address(), upgrade("/old/1", &[])).await, 502);
    assert_eq!(refused(&bridge, "server_down"), 4.0);
    let failed =
        format!(r#"pusher_bridge_fallback_failures_total{{upstream="{}",reason="connect"}}"#, to.name);
    assert_eq!(bridge.metric(&failed), 1.0);
    // All of them were requests to a deprecated endpoint.
    let series = r#"pusher_bridge_deprecated_requests_total{route="old",phase="deprecated"}"#;
    assert_eq!(bridge.metric(series), 7.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_not_the_old_servers_to_see() {
    let more = "origins = [\"https://app.example.com\"]\n\
                limits = { connections = 3, connections_per_address = 2 }";
    let (bridge, server) = start(more).await;
    let status =
        async |changes: &[(&str, &str)]| Raw::ask(bridge.address(), upgrade("/old/1", changes)).await.status;
    assert_eq!(status(&[("Origin", "https://other.example.com")]).await, 403);
    assert_eq!(status(&[("Upgrade", "")]).await, 426);
    assert_eq!(status(&[("Sec-WebSocket-Version", "8")]).await, 426);
    assert_eq!(status(&[("Sec-WebSocket-Key", "short")]).await, 400);
    assert_eq!(status(&[("Content-Length", "5")]).await, 400);
    for path in ["/old/..", "/old/%2e%2E", "/old/a%00b"] {
        assert_eq!(Raw::ask(bridge.address(), upgrade(path, &[])).await.status, 400, "{path}");
    }
    assert_eq!(refused(&bridge, "bad_path"), 3.0);
    let first = pair(&bridge, &server).await;
    let second = pair(&bridge, &server).await;
    let answer = Raw::ask(bridge.address(), upgrade("/old/1", &[])).await;
    assert_eq!((answer.status, answer.header("retry-after").as_str()), (429, "5"));
    // Another address has room, and then the route is full.
    let mut third = Raw::connect_from([127, 0, 0, 2], bridge.address()).await;
    third.send(upgrade("/old/1", &[("Origin", "https://app.example.com")])).await;
    let (mut behind, _) = server.asked().await;
    behind.send(SWITCHES).await;
    assert_eq!(third.answer().await.status, 101);
    let mut fourth = Raw::connect_from([127, 0, 0, 2], bridge.address()).await;
    fourth.send(upgrade("/old/1", &[])).await;
    let answer = fourth.answer().await;
    assert_eq!((answer.status, answer.header("retry-after").as_str()), (503, "5"));
    assert_eq!((refused(&bridge, "address_limit"), refused(&bridge, "overload")), (1.0, 1.0));
    // One that goes makes room, and an old server that declines holds no place.
    drop(first);
    bridge.becomes(LIVE, 2.0).await;
    let mut declined = Raw::connect(bridge.address()).await;
    declined.send(upgrade("/old/1", &[])).await;
    let (mut behind, _) = server.asked().await;
    behind.send("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(declined.answer().await.status, 403);
    declined.ended().await;
    let _fifth = pair(&bridge, &server).await;
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_sunset_it_may_be_gone() {
    let gone = DEPRECATED.replace("2125", "2025") + "\nafter_sunset = \"refuse\"";
    let (bridge, _server) = start(&gone).await;
    assert_eq!(Raw::ask(bridge.address(), upgrade("/old/1", &[])).await.status, 410);
    assert_eq!(refused(&bridge, "gone"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_the_limit_is_closed_and_does_not_pass() {
    let (bridge, server) = start("limits.message_bytes = 1000").await;
    let (mut client, mut behind) = pair(&bridge, &server).await;
    let fits = frame(TEXT, &[b'a'; 1000]);
    client.send(&fits).await;
    assert_eq!(behind.exactly(fits.len()).await, fits);
    let part = frame(0x01, &[b'a'; 600]);
    client.send(&part).await;
    assert_eq!(behind.exactly(part.len()).await, part);
    client.send(frame(0x80, &[b'a'; 401])).await;
    assert_eq!(client.frame().await, Frame(CLOSE, closing(1009, "message too big")));
    client.send(frame(CLOSE, &closing(1009, ""))).await;
    client.ended().await;
    behind.ended().await;
    bridge.becomes(LIVE, 0.0).await;
    closed(&bridge, "too_big", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_silent_for_too_long_is_closed() {
    let (bridge, server) = start_with("", |config| {
        config.fallback = Some(pusher_bridge::proxy::settings::Settings {
            tunnel_timeout: Duration::from_millis(300),
            ..pusher_bridge::proxy::settings::Settings::of_nothing()
        });
    })
    .await;
    let (mut client, behind) = pair(&bridge, &server).await;
    assert_eq!(client.frame().await, Frame(CLOSE, closing(1001, "nothing heard for too long")));
    drop(client);
    behind.ended().await;
    bridge.becomes(LIVE, 0.0).await;
    closed(&bridge, "silent", 1.0).await;
}

/// The first step back, and the next one: a route goes to Pusher, and to the old server again.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_changes_hands_closes_its_clients_between_two_frames_and_nobody_elses() {
    let (bridge, server) = start("").await;
    let other = format!(
        "\n[[routes]]\nname = \"other\"\npath = \"/other\"\nmode = \"tunnel\"\nto = \"{}\"\n",
        server.to.source()
    );
    let tunnelled = routes(server.to.source(), "") + &other;
    bridge.reload(next(&bridge, &tunnelled)).await;
    let (mut client, mut behind) = pair(&bridge, &server).await;
    passes(&mut client, &mut behind).await;
    let mut bystander = Raw::connect(bridge.address()).await;
    bystander.send(upgrade("/other", &[])).await;
    let (mut behind_bystander, _) = server.asked().await;
    behind_bystander.send(SWITCHES).await;
    assert_eq!(bystander.answer().await.status, 101);
    // In the middle of a frame, in both directions.
    let (down, up) = (plain(TEXT, b"to its end"), frame(TEXT, b"to its end"));
    behind.send(&down[..5]).await;
    client.send(&up[..5]).await;
    assert_eq!(client.exactly(5).await, down[..5]);
    assert_eq!(behind.exactly(5).await, up[..5]);
    bridge.reload(next(&bridge, &(relayed() + &other))).await;
    bridge.becomes(LIVE, 0.0).await;
    // What comes behind that frame is not passed on; what the client says, is.
    behind.send([&down[5..], &plain(TEXT, b"too late")].concat()).await;
    assert_eq!(client.exactly(down.len() - 5).await, down[5..]);
    assert_eq!(client.frame().await, Frame(CLOSE, closing(1001, "route changed, reconnect")));
    let answer = frame(CLOSE, &closing(1001, ""));
    client.send([&up[5..], &answer].concat()).await;
    assert_eq!(behind.exactly(up.len() - 5 + answer.len()).await, [&up[5..], &answer].concat());
    behind.send(plain(CLOSE, &closing(1001, ""))).await;
    client.ended().await;
    behind.ended().await;
    closed(&bridge, "route_changed", 1.0).await;
    passes(&mut bystander, &mut behind_bystander).await;
    // Whoever comes now is Pusher's.
    let mut relayed = OldClient::connect(bridge.address(), "/old/1").await;
    bridge.becomes(LIVE, 1.0).await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 1.0).await;
    bridge.sandbox.trigger("old-1", "e", "1");
    assert_eq!(relayed.json().await["type"], "e");
    // And back.
    bridge.reload(next(&bridge, &tunnelled)).await;
    assert_eq!(relayed.closed().await.map(|(code, _)| code), Some(1001));
    let (mut client, mut behind) = pair(&bridge, &server).await;
    passes(&mut client, &mut behind).await;
    passes(&mut bystander, &mut behind_bystander).await;
    // One that is no route any more.
    bridge.reload(next(&bridge, &(SHIPPED.to_owned() + &other))).await;
    assert_eq!(client.close_code().await, Some(1001));
    closed(&bridge, "route_changed", 3.0).await;
    passes(&mut bystander, &mut behind_bystander).await;
}

/// A change of what only newcomers meet closes nobody, and one that is taken back in time neither.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_connected_stays_with_the_server_that_has_him() {
    let (bridge, server) = start("").await;
    let (mut client, mut behind) = pair(&bridge, &server).await;
    let successor = Upstream::start().await;
    let more = "limits = { connections = 2, connections_per_address = 1 }";
    bridge.reload(next(&bridge, &routes(successor.to.source(), more))).await;
    passes(&mut client, &mut behind).await;
    // Who is there counts.
    assert_eq!(Raw::ask(bridge.address(), upgrade("/old/1", &[])).await.status, 429);
    let mut newcomer = Raw::connect_from([127, 0, 0, 2], bridge.address()).await;
    newcomer.send(upgrade("/old/1", &[])).await;
    let (mut behind_newcomer, _) = successor.asked().await;
    behind_newcomer.send(SWITCHES).await;
    assert_eq!(newcomer.answer().await.status, 101);
    let mut third = Raw::connect_from([127, 0, 0, 3], bridge.address()).await;
    third.send(upgrade("/old/1", &[])).await;
    assert_eq!(third.answer().await.status, 503);
    passes(&mut client, &mut behind).await;
    // It goes to Pusher, slowly, and comes back before anybody's turn has come.
    let slowly = |config: Config| {
        let mut config = config;
        config.server.close_window = Duration::from_secs(3600);
        config
    };
    bridge.reload(slowly(next(&bridge, &relayed()))).await;
    bridge.reload(slowly(next(&bridge, &routes(successor.to.source(), more)))).await;
    let mut quickly = next(&bridge, &routes(successor.to.source(), more));
    quickly.server.close_window = Duration::ZERO;
    bridge.reload(quickly).await;
    passes(&mut client, &mut behind).await;
    passes(&mut newcomer, &mut behind_newcomer).await;
    bridge.reload(next(&bridge, SHIPPED)).await;
    assert_eq!(client.close_code().await, Some(1001));
    assert_eq!(newcomer.close_code().await, Some(1001));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_closes_between_two_frames_and_waits_for_no_frame_for_ever() {
    let (bridge, server) = start("").await;
    let (mut client, mut behind) = pair(&bridge, &server).await;
    let (mut halfway, mut behind_halfway) = pair(&bridge, &server).await;
    behind_halfway.send(&plain(TEXT, b"never ends")[..5]).await;
    halfway.exactly(5).await;
    let leaving = async {
        assert_eq!(client.frame().await, Frame(CLOSE, closing(1001, "server going away, reconnect")));
        let answer = frame(CLOSE, &closing(1001, ""));
        client.send(&answer).await;
        assert_eq!(behind.exactly(answer.len()).await, answer);
        drop(behind);
        client.ended().await;
        // Nothing may be put in there: it just ends.
        assert_eq!(halfway.rest().await, "");
        behind_halfway.ended().await;
    };
    let (ended, ()) = tokio::join!(bridge.shutdown(), leaving);
    assert_eq!(ended, Shutdown::Clean);
}

/// Who is there, where they come from and how they left: what a migration begins with.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_who_comes_and_how_it_ended() {
    let (url, _serving) = echo().await;
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let config = file("tunnel.toml", &routes(&url, ""));
    let (mut program, address, _) = Program::serve(&sandbox, &["--config", &config]).await;
    let mut client = Raw::connect(address).await;
    client.send(upgrade("/old/1?token=hidden", &[("User-Agent", "OldApp/1.0")])).await;
    assert_eq!(client.answer().await.status, 101);
    client.send(frame(TEXT, b"hello")).await;
    assert_eq!(client.frame().await.text(), "hello");
    client.send(frame(CLOSE, &closing(4001, ""))).await;
    assert_eq!(client.close_code().await, Some(4001));
    let opened = log_line(&program.stderr.find("\"tunnelled\"").await);
    let closed = log_line(&program.stderr.find("\"closed\"").await);
    for line in [&opened, &closed] {
        assert_eq!((&line["route"], &line["conn"]), (&json!("old"), &json!(1)));
        assert_eq!(
            (&line["client.address"], &line["user_agent.original"]),
            (&json!("127.0.0.1"), &json!("OldApp/1.0"))
        );
        assert_eq!(line["upstream"], url.trim_start_matches("http://"));
    }
    assert_eq!((&closed["reason"], &closed["code"]), (&json!("by_client"), &json!(4001)));
    assert_eq!((&closed["frames_in"], &closed["frames_out"]), (&json!(1), &json!(1)));
    assert_eq!((&closed["bytes_in"], &closed["bytes_out"]), (&json!(11 + 8), &json!(7 + 4)));
    program.signal("TERM");
    let ended = patiently("the end", program.ended()).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("hidden"), "no query is in the log");
}

/// An old server that says everything twice.
async fn echo() -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut socket = accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if matches!(message, Message::Text(_) | Message::Binary(_)) {
                        socket.send(message).await.unwrap();
                    }
                }
            });
        }
    });
    (url, serving)
}

fn large() -> Message {
    Message::text("x".repeat(MIB))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_the_proxy_protocol_are_as_on_other_routes() {
    let (url, _serving) = echo().await;
    let authority = Authority::new();
    let bridge =
        Bridge::with(&routes(&url, ""), |config| serve(config, &authority.sign("a.example"), None)).await;
    let mut client = connect(bridge.address(), &authority.plain_client(), "/old/1").await;
    client.send(large()).await.unwrap();
    assert_eq!(patiently("an echo", client.next()).await.unwrap().unwrap(), large());
    client.close(None).await.unwrap();
    while let Some(Ok(_)) = patiently("the end", client.next()).await {}
    bridge.becomes(LIVE, 0.0).await;
    let (bridge, server) = start_with("limits.connections_per_address = 1", |config| {
        config.server.proxy_protocol = ProxyProtocol::Required;
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let ask = async |address: &str| {
        let mut raw = Raw::connect(bridge.address()).await;
        raw.send(format!("PROXY TCP4 {address} 127.0.0.1 12345 80\r\n{}", upgrade("/old/1", &[]))).await;
        raw
    };
    let mut client = ask("192.0.2.7").await;
    let (mut behind, head) = server.asked().await;
    assert!(head.to_lowercase().contains("\r\nx-forwarded-for: 192.0.2.7\r\n"), "{head}");
    behind.send(SWITCHES).await;
    assert_eq!(client.answer().await.status, 101);
    passes(&mut client, &mut behind).await;
    assert_eq!(ask("192.0.2.7").await.answer().await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_http2_are_tunnelled_each_for_itself() {
    let (url, _serving) = echo().await;
    let bridge = Bridge::with(&routes(&url, DEPRECATED), |config| {
        config.server.http2_streams_max = 10;
        config.server.close_window = Duration::from_millis(50);
    })
    .await;
    let mut proxy = http2::Proxy::connect(bridge.address()).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let client = proxy.client("/old/1").await;
        assert!(client.is_deprecated);
        clients.push(client);
    }
    bridge.becomes(LIVE, 3.0).await;
    for client in &mut clients {
        client.socket.send(large()).await.unwrap();
        assert_eq!(patiently("an echo", client.socket.next()).await.unwrap().unwrap(), large());
    }
    let mut first = clients.remove(0);
    first.socket.close(None).await.unwrap();
    while let Some(Ok(_)) = patiently("the end", first.socket.next()).await {}
    bridge.becomes(LIVE, 2.0).await;
    bridge.reload(next(&bridge, SHIPPED)).await;
    for mut client in clients {
        let Message::Close(Some(close)) = patiently("a close", client.socket.next()).await.unwrap().unwrap()
        else {
            panic!("no close frame with a code");
        };
        assert_eq!(u16::from(close.code), 1001);
    }
}

/// Python's `websockets` on both sides, which agree on compression with each other.
#[tokio::test(flavor = "multi_thread")]
async fn compression_is_between_the_client_and_the_old_server() {
    let Some(python) = std::env::var_os("PYTHON") else {
        return skipped("PYTHON is not set; run tests/run");
    };
    let mut script = Command::new(python)
        .arg("tests/clients/old_server.py")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(script.stdout.take().unwrap());
    let port = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        line
    });
    let port = patiently("the old server", port).await.unwrap();
    let bridge = Bridge::with(&routes(&format!("http://127.0.0.1:{}", port.trim()), ""), |_| {}).await;
    writeln!(script.stdin.take().unwrap(), "ws://{}/old/1", bridge.address()).unwrap();
    let ended = tokio::task::spawn_blocking(move || script.wait().unwrap());
    let ended = patiently("its clients", ended).await.unwrap();
    assert!(ended.success(), "{ended}");
    bridge.becomes(LIVE, 0.0).await;
    let passed: f64 = ["in", "out"]
        .map(|direction| {
            bridge
                .metric(&format!(r#"pusher_bridge_frame_bytes_total{{route="old",direction="{direction}"}}"#))
        })
        .iter()
        .sum();
    assert!(passed < 100_000.0, "2 MiB of the same letter passed as {passed} bytes");
}

/// The address that the file gives in place of `to`.
#[tokio::test(flavor = "multi_thread")]
async fn the_fallbacks_server_serves_a_route_without_its_own() {
    let server = Upstream::start().await;
    let routes = routes("http://127.0.0.1:1", "").replace("to = \"http://127.0.0.1:1\"", "")
        + &format!("\n[fallback]\nto = \"{}\"\n", server.to.source());
    let bridge = Bridge::with(&routes, |_| {}).await;
    let (mut client, mut behind) = pair(&bridge, &server).await;
    passes(&mut client, &mut behind).await;
    // What no route has passes as ever, and is no route's.
    let mut page = Raw::connect(bridge.address()).await;
    page.send("GET /page HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut behind, head) = server.asked().await;
    assert!(head.starts_with("GET /page "), "{head}");
    behind.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(page.answer().await.body, "ok");
    assert_eq!(bridge.metric(r#"pusher_bridge_connections_total{route="old"}"#), 1.0);
}
