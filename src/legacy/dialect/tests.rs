use super::*;
use crate::clock::tests::now;
use proptest::prelude::*;

/// The typed dialect, as the shipped routes.toml has it.
pub(crate) fn typed() -> Dialect {
    let frame = |text: &str, slots| Some(Frame::parse(text, slots).unwrap());
    Dialect {
        name: "typed".into(),
        type_field: "type".into(),
        auth: Some(AuthMessage { message_type: "auth".into(), token: "token".into() }),
        subscribe: Some("subscribe".into()),
        unsubscribe: Some("unsubscribe".into()),
        pong: Some("pong".into()),
        ping: None,
        keepalives: Vec::new(),
        binary_is_json: false,
        subprotocols: Vec::new(),
        out: Frames {
            event: EventFrame::new(
                Frame::parse(r#"{"type":{event},"data":{data},"timestamp":{now}}"#, Frames::EVENT).unwrap(),
            ),
            auth_ok: frame(
                r#"{"type":"auth_response","data":{"authenticated":true,"user_id":{user},"role":{role},"permissions":{permissions}}}"#,
                Frames::AUTH_OK,
            ),
            auth_error: frame(
                r#"{"type":"auth_error","data":{"error":{code},"message":{message}}}"#,
                Frames::AUTH_ERROR,
            ),
            error: Frame::parse(
                r#"{"type":"error","data":{"error_code":{code},"message":{message},"details":{details}}}"#,
                Frames::ERROR,
            )
            .unwrap(),
            ping: frame(r#"{"type":"ping","timestamp":{now}}"#, Frames::PING),
            pong: None,
            subscribed: None,
            unsubscribed: None,
            members: frame(
                r#"{"type":"presence_members","data":{"count":{count},"members":{members}}}"#,
                Frames::MEMBERS,
            ),
            member_added: frame(
                r#"{"type":"member_added","data":{"id":{member_id},"info":{info}}}"#,
                Frames::MEMBER,
            ),
            member_removed: frame(r#"{"type":"member_removed","data":{"id":{member_id}}}"#, Frames::MEMBER),
            cache_miss: None,
            reply: frame(r#"{"type":"reply","to":{type},"data":{data},"timestamp":{now}}"#, Frames::REPLY),
        },
        error_codes: Vec::new(),
        reserved: [
            "auth_error",
            "auth_response",
            "error",
            "member_added",
            "member_removed",
            "ping",
            "presence_members",
            "reply",
        ]
        .map(str::to_owned)
        .to_vec(),
    }
}

fn channel_event() -> EventFrame {
    EventFrame::new(
        Frame::parse(
            r#"{"type":"event","channel":{channel},"data":{data},"timestamp":{now}}"#,
            Frames::EVENT,
        )
        .unwrap(),
    )
}

fn data<'a>(event: &'a str, json: &'a str) -> EventData<'a> {
    EventData { event, channel: "files", json, sender: None, by_client: false }
}

#[test]
fn an_event_names_its_sender_where_there_is_one() {
    let frame = Frame::parse(r#"{"type":{event},"data":{data},"by":{sender}}"#, Frames::EVENT).unwrap();
    let event = EventFrame::new(frame);
    let from = |sender, json| event.render(&EventData { sender, ..data("e", json) }, now());
    assert_eq!(from(Some("a\"b"), "1"), r#"{"type":"e","data":1,"by":"a\"b"}"#);
    assert_eq!(from(None, "1"), r#"{"type":"e","data":1,"by":null}"#);
    // A whole envelope speaks for nobody else.
    let whole = r#"{"type":"e","data":1,"by":null}"#;
    assert_eq!(from(None, whole), whole);
    let forged = r#"{"type":"e","data":1,"by":"ann"}"#;
    assert_eq!(from(None, forged), format!(r#"{{"type":"e","data":{forged},"by":null}}"#));
}

#[test]
fn members_come_as_the_dialect_has_them() {
    let typed = typed();
    assert_eq!(
        typed.render_members("c", 2, r#"[{"id":"1","info":{"n":1.50}}]"#, now()).unwrap(),
        r#"{"type":"presence_members","data":{"count":2,"members":[{"id":"1","info":{"n":1.50}}]}}"#
    );
    assert_eq!(
        typed.render_member(true, "c", ("a\"b", "null"), now()).unwrap(),
        r#"{"type":"member_added","data":{"id":"a\"b","info":null}}"#
    );
    assert_eq!(
        typed.render_member(false, "c", ("1", "null"), now()).unwrap(),
        r#"{"type":"member_removed","data":{"id":"1"}}"#
    );
}

#[test]
fn bare_data_gets_one_envelope_and_keeps_its_text() {
    let event = typed().out.event;
    let json = r#"{ "n": 1.50, "s":"\u00e9\n", "big": 123456789012345678901234567890 }"#;
    assert_eq!(
        event.render(&data("progress_update", json), now()),
        format!(r#"{{"type":"progress_update","data":{json},"timestamp":"2025-01-21T10:01:00Z"}}"#)
    );
}

#[test]
fn a_whole_envelope_passes_as_it_is() {
    let event = typed().out.event;
    let whole = r#"{"timestamp":"t","type":"progress_update","data":{"a":1}}"#;
    assert_eq!(event.render(&data("progress_update", whole), now()), whole);
    assert_eq!(event.payload(&data("progress_update", whole)), r#"{"a":1}"#);
    let channel = channel_event();
    let whole = r#"{"type":"event","channel":"files","data":1,"timestamp":"t"}"#;
    assert_eq!(channel.render(&data("anything", whole), now()), whole);
}

#[test]
fn data_that_only_resembles_an_envelope_is_data() {
    let event = typed().out.event;
    for json in [
        r#"{"type":"stdout","data":"x"}"#,
        r#"{"type":"output"}"#,
        r#"{"type":7,"data":1}"#,
        r#"{"type":"auth_error","type":"output","data":1}"#,
        r#"{"type":"output","data":1,"t\u0079pe":"auth_error"}"#,
        r#"{"type":"output","data":1,"data":2}"#,
        r#"{"type":"output","data":1,"timestamp":"t","error":"x"}"#,
        r#"["output"]"#,
        "\"output\"",
        "null",
    ] {
        let rendered = event.render(&data("output", json), now());
        assert!(rendered.starts_with(&format!(r#"{{"type":"output","data":{json},"#)), "{rendered}");
    }
    let other_channel = r#"{"type":"event","channel":"git","data":1}"#;
    assert!(channel_event().render(&data("e", other_channel), now()).contains(r#""data":{"type""#));
}

#[test]
fn a_clients_envelope_is_data() {
    let whole = r#"{"type":"client-run","data":{"a":1},"timestamp":"t"}"#;
    let event = typed().out.event;
    let by_client = EventData { by_client: true, ..data("client-run", whole) };
    assert!(
        event.render(&by_client, now()).starts_with(&format!(r#"{{"type":"client-run","data":{whole},"#))
    );
    assert_eq!(event.payload(&by_client), whole, "and a filter looks into it as data");
}

#[test]
fn messages_are_told_apart() {
    let dialect = typed();
    let kind = |text: &str| match dialect.decode(text, 8) {
        Ok(ClientMessage::Auth(token)) => format!("auth {token:?}"),
        Ok(ClientMessage::Subscribe(o)) => format!("subscribe {:?}", o.get("environment_id")),
        Ok(ClientMessage::Unsubscribe(_)) => "unsubscribe".into(),
        Ok(ClientMessage::Pong) => "pong".into(),
        Ok(ClientMessage::Ping) => "ping".into(),
        Ok(ClientMessage::Application { message_type, .. }) => format!("application {message_type}"),
        Err(code) => code.as_str().into(),
    };
    for (text, expected) in [
        (r#"{"type":"auth","token":"Bearer x"}"#, "auth Some(\"Bearer x\")"),
        (r#"{"type":"auth"}"#, "auth None"),
        (r#"{"type":"auth","token":7}"#, "auth None"),
        (r#"{"type":"subscribe","environment_id":"env_456"}"#, r#"subscribe Some("\"env_456\"")"#),
        (r#"{"type":"unsubscribe"}"#, "unsubscribe"),
        (r#"{"type":"pong","timestamp":"…"}"#, "pong"),
        (r#"{"type":"ping"}"#, "application ping"),
        (r#"{"type":"run","x":1}"#, "application run"),
        (r#"{"type":"r\u0075n"}"#, "application run"),
        ("hello", "INVALID_JSON"),
        ("", "INVALID_JSON"),
        ("{\"type\":\"a\"", "INVALID_JSON"),
        ("[]", "NOT_AN_OBJECT"),
        ("\"auth\"", "NOT_AN_OBJECT"),
        ("{}", "MISSING_TYPE"),
        (r#"{"type":1}"#, "MISSING_TYPE"),
        (r#"{"type":"a","d":[[[[[[[[1]]]]]]]]}"#, "MESSAGE_TOO_DEEP"),
    ] {
        assert_eq!(kind(text), expected, "{text}");
    }
}

#[test]
fn frames_are_the_contracts() {
    let dialect = typed();
    assert_eq!(
        dialect
            .render_auth_ok("123", Some("teacher"), r#"["content:generate","roblox:read"]"#, now())
            .unwrap(),
        r#"{"type":"auth_response","data":{"authenticated":true,"user_id":"123","role":"teacher","permissions":["content:generate","roblox:read"]}}"#
    );
    assert_eq!(
        dialect.render_auth_error(ErrorCode::InvalidToken, "JWT token is invalid or expired", "{}", now()),
        r#"{"type":"auth_error","data":{"error":"INVALID_TOKEN","message":"JWT token is invalid or expired"}}"#
    );
    assert_eq!(dialect.render_ping(now()).unwrap(), r#"{"type":"ping","timestamp":"2025-01-21T10:01:00Z"}"#);
    let renamed = Dialect { error_codes: vec![(ErrorCode::RateLimited, "SLOW_DOWN".into())], ..typed() };
    assert!(renamed.render_error(ErrorCode::RateLimited, "m", "{}", now()).contains("\"SLOW_DOWN\""));
}

proptest! {
    #[test]
    fn whatever_the_data_one_envelope_comes_out(event in ".{1,20}", text in ".{0,60}") {
        let json = serde_json::to_string(&text).unwrap();
        let rendered = typed().out.event.render(&data(&event, &json), now());
        let object = Object::parse(&rendered).unwrap();
        prop_assert_eq!(object.string("type").unwrap(), event.as_str());
        prop_assert_eq!(object.get("data").unwrap(), json.as_str());
    }

    #[test]
    fn no_frame_panics_the_decoder(text in ".*") {
        let _ = typed().decode(&text, 64);
    }
}
