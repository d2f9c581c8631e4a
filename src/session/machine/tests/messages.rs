//! Messages: published, echoed, limited.

use super::*;

#[test]
fn messages_are_published_as_the_rules_say() {
    let mut b = Bench::open("/ws/plugin/p1");
    b.authenticate();
    for (text, expected) in [
        (r#"{"type":"run","data":{"n":1.50}}"#, r#"trigger private-plugin-p1 client-run {"n":1.50}"#),
        (r#"{"type":"run","data":1,"timestamp":"t"}"#, "trigger private-plugin-p1 client-run 1"),
        (r#"{"type":"run","speed":2}"#, r#"trigger private-plugin-p1 client-run {"type":"run","speed":2}"#),
        (r#"{"type":"run\u0000"}"#, "error INVALID_FIELD"),
        ("{}", "error MISSING_TYPE"),
        ("[]", "error NOT_AN_OBJECT"),
    ] {
        assert_eq!(b.text(text), [expected], "{text}");
    }
    let large = format!(r#"{{"type":"run","data":"{}"}}"#, "x".repeat(10_240));
    assert_eq!(b.text(&large), ["error MESSAGE_TOO_LARGE"]);
    assert_eq!(
        b.text(&format!(r#"{{"type":"run","data":{}1{}}}"#, "[".repeat(99), "]".repeat(99))),
        ["error MESSAGE_TOO_DEEP"]
    );

    let mut b = Bench::open("/ws/command/s.1");
    b.authenticate();
    assert_eq!(
        b.text(r#"{"type":"input","data":"ls\n"}"#),
        [r#"post http://127.0.0.1:3000/commands/s.1/input {"input":"ls\n"}"#.to_owned()]
    );
    assert_eq!(b.text(r#"{"type":"input"}"#), ["error INVALID_FIELD"]);
    assert_eq!(b.text(r#"{"type":"other"}"#), ["error MESSAGE_TYPE_NOT_PUBLISHED"]);

    let mut b = Bench::open("/ws/content/c");
    b.authenticate();
    assert_eq!(b.text(r#"{"type":"run"}"#), ["error UNKNOWN_MESSAGE_TYPE"]);
    assert_eq!(b.text(r#"{"type":"subscribe","channel":"x"}"#), ["error UNKNOWN_MESSAGE_TYPE"]);
}

#[test]
fn what_is_sealed_counts_and_not_what_it_says() {
    let config = shipped_with_key(
        "[[routes]]\nname = \"s\"\npath = \"/s\"\ngroup = \"typed-api\"\nchannel = \"private-encrypted-s\"\npublish = [{ types = [\"run\"] }]\n",
    );
    let mut b = Bench::open_in(&config, "/s", |_| {});
    b.authenticate();
    let mut say = |bytes: usize| {
        let data = format!("\"{}\"", "x".repeat(bytes - 2));
        let said = b.text(&format!(r#"{{"type":"run","data":{data}}}"#));
        said == [format!("trigger private-encrypted-s client-run {data}")]
            || said.iter().any(|said| said != "error MESSAGE_TOO_LARGE")
    };
    // 10,240 bytes are `{"nonce":"…","ciphertext":"…"}` around 32 and 10,180: base64 of 16 and this many.
    let most = 10_180 / 4 * 3 - 16;
    assert!(say(most) && !say(most + 1));
}

#[test]
fn no_value_leads_out_of_its_segment_of_a_url() {
    let config = shipped(
        "[[routes]]\nname = \"p\"\npath = \"/p/{id}\"\ndialect = \"typed\"\nchannel = \"p-{id}\"\nauth = { required = false }\n[[routes.publish]]\ntypes = [\"*\"]\npost = \"http://127.0.0.1:3000/{id}/{type}\"\nbody = '{frame}'\n",
    );
    let say = |id: &str, message_type: &str| {
        let text = format!(r#"{{"type":"{message_type}"}}"#);
        let said = Bench::open_in(&config, &format!("/p/{id}"), |_| {}).text(&text);
        said.last().unwrap().replace(&text, "…")
    };
    assert_eq!(say("1", "auth0|a b"), "post http://127.0.0.1:3000/1/auth0%7Ca%20b …");
    let leading_out = ["a/../../b?c#d", "a/b", r"a\\b", "%2e%2e", "%2F", "%252f", "a?b", "a#b"];
    for (id, message_type) in leading_out.map(|message_type| ("1", message_type)) {
        assert_eq!(say(id, message_type), "error INVALID_FIELD", "{id} {message_type}");
    }
    for (id, message_type) in [("1", ""), ("1", "."), ("1", ".."), (".", "a"), ("..", "a")] {
        assert_eq!(say(id, message_type), "error INVALID_FIELD", "{id} {message_type}");
    }
}

#[test]
fn messages_are_limited_and_pongs_are_free_up_to_a_ceiling() {
    let mut b = Bench::open("/ws/plugin/p1");
    b.authenticate();
    for _ in 0..100 {
        assert!(b.text(r#"{"type":"run"}"#)[0].starts_with("trigger"));
    }
    b.machine.text(r#"{"type":"run"}"#, b.now, &mut b.out);
    let Some(Action::Error(ErrorCode::RateLimited, frame)) = b.out.pop() else { panic!("{:?}", b.out) };
    assert!(frame.contains(r#""retry_after_ms":600"#), "{frame}");
    b.now = b.now.plus(Duration::from_millis(600));
    assert!(b.text(r#"{"type":"run"}"#)[0].starts_with("trigger"));
    for _ in 0..500 {
        assert!(b.text(r#"{"type":"pong"}"#).is_empty());
    }
    let flood: Vec<String> = (0..200).flat_map(|_| b.text(r#"{"type":"pong"}"#)).collect();
    assert_eq!(flood, ["close control_flood"]);
}

#[test]
fn native_echoes_everything_and_says_nothing_itself() {
    let mut b = Bench::open("/ws/native");
    assert_eq!(b.seen(), ["subscribe 0 test-channel All"]);
    for text in ["hello", r#"{"type":"auth"}"#, "", "{"] {
        assert_eq!(b.text(text), ["echo"]);
    }
    assert_eq!(b.binary(), ["echo"]);
    b.machine.publish_failed(ErrorCode::QueueFull, "x", b.now, &mut b.out);
    b.machine.gap(Duration::ZERO, b.now, &mut b.out);
    assert!(b.seen().is_empty());
}
