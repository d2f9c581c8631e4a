//! Keepalives, binary messages, and a channel that is not subscribed.

use super::*;

#[test]
fn plain_keepalives_are_answered_or_ignored_and_are_no_messages() {
    let keepalives = "[dialects.typed.in]\nkeepalives = { \"ping\" = \"pong\", \"hb\" = \"\" }\n";
    let config = shipped_with(|text| text.replacen("[dialects.typed.in]\n", keepalives, 1));
    let mut b = Bench::open_in(&config, "/ws/plugin/p1", |_| {});
    assert_eq!(b.text("ping"), ["pong"], "before authentication too");
    assert!(b.text("hb").is_empty());
    assert_eq!(b.text("Ping"), ["error WEBSOCKET_AUTH_REQUIRED"]);
    b.authenticate();
    for _ in 0..250 {
        assert_eq!(b.text("ping"), ["pong"]);
        assert!(b.text("hb").is_empty());
    }
    for other in ["ping ", "PING", "\"ping\"", ""] {
        assert!(b.text(other)[0].starts_with("error INVALID_JSON") || other == "\"ping\"", "{other}");
    }
    assert!(b.text(r#"{"type":"run"}"#)[0].starts_with("trigger"), "none of them was a message");
    let flood: Vec<String> = (0..700).flat_map(|_| b.text("hb")).collect();
    assert_eq!(flood, ["close control_flood"]);
    let mut echo = Bench::open_in(&config, "/ws/native", |_| {});
    echo.seen();
    assert_eq!(echo.text("ping"), ["echo"], "an echo route returns every frame");
    let mut without = Bench::open("/ws");
    assert_eq!(without.text("ping"), ["error INVALID_JSON"]);
}

#[test]
fn binary_messages_are_json_where_the_dialect_says_so() {
    let binary = "[dialects.typed.in]\nbinary = \"json\"\n";
    let config = shipped_with(|text| text.replacen("[dialects.typed.in]\n", binary, 1));
    let mut b = Bench::open_in(&config, "/ws/plugin/p1", |_| {});
    let say = |b: &mut Bench, bytes: &[u8]| b.binary_text(bytes);
    assert_eq!(say(&mut b, br#"{"type":"run"}"#), ["error WEBSOCKET_AUTH_REQUIRED"]);
    assert_eq!(say(&mut b, b"\xFF"), ["error INVALID_JSON"]);
    assert_eq!(say(&mut b, br#"{"type":"auth","token":"t"}"#), ["verify t"]);
    b.verified(Ok(b.claims("123", 60)));
    b.slots(Ok(()));
    b.subscribed(FIXED);
    assert_eq!(say(&mut b, br#"{"type":"run","data":1}"#), ["trigger private-plugin-p1 client-run 1"]);
    assert_eq!(say(&mut b, b"{\"type\":\"\xC3\"}"), ["error INVALID_JSON"]);
    let mut echo = Bench::open_in(&config, "/ws/native", |_| {});
    echo.seen();
    assert_eq!(say(&mut echo, b"\xFF"), ["echo"]);
    assert_eq!(say(&mut echo, b"{}"), ["echo"]);
}

#[test]
fn before_authentication_a_binary_message_is_told_what_it_is() {
    let mut b = Bench::open("/ws/content/gen_1");
    assert_eq!(b.binary(), ["error BINARY_NOT_SUPPORTED"]);
}

#[test]
fn without_authentication_a_client_is_told_when_its_channel_is_not_subscribed() {
    let route = "[[routes]]\nname = \"open\"\npath = \"/open/{id}\"\ndialect = \"channel\"\nchannel = \"open-{id}\"\nauth = { required = false }\nheartbeat = { kind = \"none\" }\n";
    let config = shipped(route);
    let open = || {
        let mut b = Bench::open_in(&config, "/open/1", |_| {});
        assert_eq!(b.seen(), ["subscribe 0 open-1 All"]);
        b
    };
    let mut b = open();
    assert!(b.after(Duration::from_secs(9)).is_empty());
    b.machine.timer(b.now.plus(Duration::from_secs(1)), &mut b.out);
    let Some(Action::Error(ErrorCode::UpstreamUnavailable, frame)) = b.out.pop() else {
        panic!("{:?}", b.out)
    };
    assert!(frame.contains(r#""details":{"channel":"open-1"}"#), "{frame}");
    assert!(b.machine.is_live() && b.out.is_empty(), "it stays, and its subscription with it");
    assert_eq!(b.machine.deadline(), None, "once is enough");
    assert!(b.subscribed(FIXED).is_empty());

    let mut b = open();
    assert!(b.subscribed(FIXED).is_empty());
    assert_eq!(b.machine.deadline(), None);
    assert!(b.after(Duration::from_secs(60)).is_empty());
}
