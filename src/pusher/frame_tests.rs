use super::*;
use proptest::prelude::*;

fn event_of(text: &str) -> (String, String, String) {
    match ServerFrame::decode(text).unwrap() {
        ServerFrame::Event { event, channel, data, .. } => {
            (event.into_owned(), channel.into_owned(), data_json(data).into_owned())
        }
        other => panic!("not an event: {other:?}"),
    }
}

#[test]
fn established_with_string_or_object_data() {
    let established = |socket_id: &str, seconds: Option<f64>| ServerFrame::ConnectionEstablished {
        socket_id: socket_id.to_owned(),
        activity_timeout: seconds.map(Duration::from_secs_f64),
    };
    let expected = established("123.456", Some(120.0));
    let golden = r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"123.456\",\"activity_timeout\":120}"}"#;
    assert_eq!(connection_established("123.456", 120), golden);
    assert_eq!(ServerFrame::decode(golden).unwrap(), expected);
    let object =
        r#"{"event":"pusher:connection_established","data":{"socket_id":"123.456","activity_timeout":120}}"#;
    assert_eq!(ServerFrame::decode(object).unwrap(), expected);
    // Other servers count their sockets, or name them otherwise, and time in fractions.
    for (data, socket_id, seconds) in [
        (r#"{"socket_id":"1.2"}"#, "1.2", None),
        (r#"{"socket_id":"1.2","activity_timeout":null}"#, "1.2", None),
        (r#"{"socket_id":42,"activity_timeout":"30"}"#, "42", Some(30.0)),
        (
            r#"{"socket_id":1234567890123456789.10,"activity_timeout":30.0}"#,
            "1234567890123456789.10",
            Some(30.0),
        ),
        (r#"{"socket_id":"7f3c-node:1/ü","activity_timeout":29.5}"#, "7f3c-node:1/ü", Some(29.5)),
        (r#"{"socket_id":"a b","activity_timeout":1.2e2}"#, "a b", Some(120.0)),
        (r#"{"socket_id":"a","activity_timeout":0}"#, "a", Some(0.0)),
    ] {
        let text = format!(r#"{{"event":"pusher:connection_established","data":{data}}}"#);
        assert_eq!(ServerFrame::decode(&text).unwrap(), established(socket_id, seconds), "{text}");
    }
    let endless =
        r#"{"event":"pusher:connection_established","data":{"socket_id":1,"activity_timeout":1e300}}"#;
    assert!(matches!(
        ServerFrame::decode(endless).unwrap(),
        ServerFrame::ConnectionEstablished { activity_timeout: Some(Duration::MAX), .. }
    ));
}

#[test]
fn errors_say_what_was_wrong() {
    for (text, expected) in [
        ("", "the frame is not a JSON object: EOF while parsing a value at line 1 column 0"),
        (
            "[]",
            "the frame is not a JSON object: invalid type: sequence, expected a JSON object at line 1 column 0",
        ),
        ("{}", "the frame's `event` is not a string"),
        (r#"{"event":7}"#, "the frame's `event` is not a string"),
        (
            r#"{"event":"pusher:connection_established"}"#,
            "`socket_id` of pusher:connection_established is not a number or a short text without control characters",
        ),
        (
            // With a line break in it the signature of a subscription would be that of a request.
            r#"{"event":"pusher:connection_established","data":{"socket_id":"POST\n/apps/1/events\na=b"}}"#,
            "`socket_id` of pusher:connection_established is not a number or a short text without control characters",
        ),
        (
            r#"{"event":"pusher:connection_established","data":{"socket_id":""}}"#,
            "`socket_id` of pusher:connection_established is not a number or a short text without control characters",
        ),
        (
            r#"{"event":"pusher:connection_established","data":{"socket_id":{}}}"#,
            "`socket_id` of pusher:connection_established is not a number or a short text without control characters",
        ),
        (
            r#"{"event":"pusher:connection_established","data":{"socket_id":"1.2","activity_timeout":-1}}"#,
            "`activity_timeout` of pusher:connection_established is not a number of seconds",
        ),
        (
            r#"{"event":"pusher:connection_established","data":"x"}"#,
            "`data` of pusher:connection_established is not an object",
        ),
        (
            r#"{"event":"pusher:connection_established","data":{"socket_id":"1.2","activity_timeout":"soon"}}"#,
            "`activity_timeout` of pusher:connection_established is not a number of seconds",
        ),
        (
            r#"{"event":"pusher_internal:subscription_succeeded"}"#,
            "`channel` of pusher_internal:subscription_succeeded is not a string",
        ),
        (r#"{"event":"x","channel":7}"#, "`channel` of x is not a string"),
    ] {
        assert_eq!(ServerFrame::decode(text).unwrap_err().to_string(), expected, "{text}");
    }
    for (text, expected) in [
        (r#"{"event":"pusher:subscribe","data":{}}"#, "`channel` of pusher:subscribe is not a string"),
        (r#"{"event":"pusher:subscribe","data":[]}"#, "`data` of pusher:subscribe is not an object"),
        (
            r#"{"event":"pusher:subscribe","data":{"channel":"a","auth":7}}"#,
            "`auth` of pusher:subscribe is not a string",
        ),
        (r#"{"event":"client-x","data":{}}"#, "`channel` of client-x is not a string"),
        (r#"{"event":"pusher:signin","data":{"auth":"a"}}"#, "`user_data` of pusher:signin is not a string"),
    ] {
        assert_eq!(ClientFrame::decode(text).unwrap_err().to_string(), expected, "{text}");
    }
}

#[test]
fn socket_ids_are_digits() {
    for (id, expected) in [
        ("1.2", true),
        ("123456.7890", true),
        ("1", false),
        ("1.", false),
        (".1", false),
        ("1.2.3", false),
        ("1.2:x", false),
        ("a.b", false),
        ("١.٢", false),
    ] {
        assert_eq!(is_socket_id(id), expected, "{id}");
    }
}

#[test]
fn pings_and_pongs_with_or_without_data() {
    assert_eq!(ServerFrame::decode(PING).unwrap(), ServerFrame::Ping);
    assert_eq!(ServerFrame::decode(PONG).unwrap(), ServerFrame::Pong);
    assert_eq!(ServerFrame::decode(r#"{"event":"pusher:ping"}"#).unwrap(), ServerFrame::Ping);
    assert_eq!(ServerFrame::decode(r#"{"event":"pusher:pong","data":"{}"}"#).unwrap(), ServerFrame::Pong);
    assert_eq!(ClientFrame::decode(PING).unwrap(), ClientFrame::Ping);
    assert_eq!(ClientFrame::decode(PONG).unwrap(), ClientFrame::Pong);
}

#[test]
fn errors_of_every_server() {
    let decode = |text: &str| match ServerFrame::decode(text).unwrap() {
        ServerFrame::Error { code, message } => (code, message),
        other => panic!("not an error: {other:?}"),
    };
    let hosted =
        r#"{"event":"pusher:error","data":{"message":"Existing subscription to channel a","code":null}}"#;
    assert_eq!(error(None, "Existing subscription to channel a"), hosted);
    assert_eq!(decode(hosted), (None, "Existing subscription to channel a".to_owned()));
    let reverb =
        r#"{"event":"pusher:error","data":"{\"code\":4009,\"message\":\"Connection is unauthorized\"}"}"#;
    assert_eq!(decode(reverb), (Some(4009), "Connection is unauthorized".to_owned()));
    assert_eq!(decode(&error(Some(4001), "no \"app\"")), (Some(4001), "no \"app\"".to_owned()));
    assert_eq!(decode(r#"{"event":"pusher:error","data":"broken"}"#), (None, "broken".to_owned()));
    assert_eq!(decode(r#"{"event":"pusher:error"}"#), (None, String::new()));
    assert_eq!(decode(r#"{"event":"pusher:error","data":{"code":70000}}"#), (None, String::new()));
}

#[test]
fn subscriptions() {
    let golden = r#"{"event":"pusher_internal:subscription_succeeded","channel":"a","data":"{}"}"#;
    assert_eq!(subscription_succeeded("a", "{}"), golden);
    for (text, data) in [
        (golden, Some(r#""{}""#)),
        (r#"{"event":"pusher_internal:subscription_succeeded","channel":"a","data":{}}"#, Some("{}")),
        (r#"{"event":"pusher_internal:subscription_succeeded","channel":"a"}"#, None),
    ] {
        let expected = ServerFrame::SubscriptionSucceeded { channel: "a".into(), data };
        assert_eq!(ServerFrame::decode(text).unwrap(), expected);
    }
    let soketi = r#"{"event":"pusher:subscription_error","channel":"private-a","data":{"type":"AuthError","error":"The connection is unauthorized.","status":401}}"#;
    assert_eq!(
        ServerFrame::decode(soketi).unwrap(),
        ServerFrame::SubscriptionError {
            channel: "private-a".into(),
            message: "The connection is unauthorized.".to_owned(),
            status: Some(401),
        }
    );
}

#[test]
fn other_events_of_pusher_keep_their_name() {
    for (text, event, channel, data) in [
        (r#"{"event":"pusher:cache_miss","channel":"cache-a"}"#, "pusher:cache_miss", Some("cache-a"), None),
        (
            r#"{"event":"pusher_internal:member_removed","channel":"presence-a","data":"{\"user_id\":\"7\"}"}"#,
            "pusher_internal:member_removed",
            Some("presence-a"),
            Some(r#""{\"user_id\":\"7\"}""#),
        ),
        (r#"{"event":"pusher:signin_success","data":{}}"#, "pusher:signin_success", None, Some("{}")),
        (r#"{"event":"stray","channel":null,"data":1}"#, "stray", None, Some("1")),
    ] {
        let expected = ServerFrame::Other { event: event.into(), channel: channel.map(Cow::from), data };
        assert_eq!(ServerFrame::decode(text).unwrap(), expected);
    }
}

#[test]
fn event_data_is_not_retyped() {
    for (raw, expected) in [
        // A string that holds JSON: the JSON, letter by letter.
        (
            r#""{\"n\":1.50,\"big\":12345678901234567890,\"e\":1E+2}""#,
            r#"{"n":1.50,"big":12345678901234567890,"e":1E+2}"#,
        ),
        (r#""{\"s\":\"\\u00e9\\n\\/\"}""#, r#"{"s":"\u00e9\n\/"}"#),
        (r#"" [1, 2 ] ""#, " [1, 2 ] "),
        (r#""7""#, "7"),
        (r#""\"x\"""#, r#""x""#),
        // Any other string: the string itself.
        (r#""hello\u0020\"you\"""#, r#""hello\u0020\"you\"""#),
        (r#""""#, r#""""#),
        (r#""{broken""#, r#""{broken""#),
        (r#""\ud800""#, r#""\ud800""#),
        // Not a string: as it is (Reverb's client events).
        (r#"{"n": 1.0 }"#, r#"{"n": 1.0 }"#),
        ("null", "null"),
        ("1e400", "1e400"),
    ] {
        let text = format!(r#"{{"event":"e","channel":"c","data":{raw}}}"#);
        assert_eq!(event_of(&text).2, expected, "{raw}");
    }
    assert_eq!(event_of(r#"{"event":"e","channel":"c"}"#).2, "null");
}

#[test]
fn events_carry_the_user_of_a_presence_channel() {
    let text = event("client-typing", "presence-a", "{}", Some("u\"1"));
    assert_eq!(text, r#"{"event":"client-typing","channel":"presence-a","data":"{}","user_id":"u\"1"}"#);
    assert_eq!(
        ServerFrame::decode(&text).unwrap(),
        ServerFrame::Event {
            event: "client-typing".into(),
            channel: "presence-a".into(),
            data: Some(r#""{}""#),
            user_id: Some(r#"u"1"#.into()),
        }
    );
}

#[test]
fn client_frames() {
    let subscribe_golden = r#"{"event":"pusher:subscribe","data":{"channel":"presence-a","auth":"k:s","channel_data":"{\"user_id\":\"1\"}"}}"#;
    let expected = ClientFrame::Subscribe {
        channel: "presence-a".to_owned(),
        auth: Some("k:s".to_owned()),
        channel_data: Some(r#"{"user_id":"1"}"#.to_owned()),
    };
    assert_eq!(subscribe("presence-a", Some("k:s"), Some(r#"{"user_id":"1"}"#)), subscribe_golden);
    assert_eq!(ClientFrame::decode(subscribe_golden).unwrap(), expected);
    assert_eq!(subscribe("a", None, None), r#"{"event":"pusher:subscribe","data":{"channel":"a"}}"#);
    let public = ClientFrame::Subscribe { channel: "a".to_owned(), auth: None, channel_data: None };
    for text in [
        subscribe("a", None, None).as_str(),
        r#"{"event":"pusher:subscribe","data":{"auth":"","channel":"a"}}"#,
        r#"{"event":"pusher:subscribe","data":"{\"channel\":\"a\"}"}"#,
    ] {
        assert_eq!(ClientFrame::decode(text).unwrap(), public);
    }

    assert_eq!(unsubscribe("a"), r#"{"event":"pusher:unsubscribe","data":{"channel":"a"}}"#);
    assert_eq!(
        ClientFrame::decode(&unsubscribe("a")).unwrap(),
        ClientFrame::Unsubscribe { channel: "a".to_owned() }
    );
    let signin_golden = r#"{"event":"pusher:signin","data":{"auth":"k:s","user_data":"{\"id\":\"1\"}"}}"#;
    assert_eq!(signin("k:s", r#"{"id":"1"}"#), signin_golden);
    assert_eq!(
        ClientFrame::decode(signin_golden).unwrap(),
        ClientFrame::Signin { auth: "k:s".to_owned(), user_data: r#"{"id":"1"}"#.to_owned() }
    );
    let client = client_event("client-x", "private-a", r#"{"n":1.0}"#);
    assert_eq!(client, r#"{"event":"client-x","channel":"private-a","data":{"n":1.0}}"#);
    assert_eq!(
        ClientFrame::decode(&client).unwrap(),
        ClientFrame::ClientEvent {
            event: "client-x".into(),
            channel: "private-a".into(),
            data: Some(r#"{"n":1.0}"#),
        }
    );
    assert_eq!(
        ClientFrame::decode(r#"{"event":"new-msg","channel":"a"}"#).unwrap(),
        ClientFrame::Other { event: "new-msg".into() }
    );
}

/// JSON text of every kind, with numbers and escapes that re-typing would change.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just(r#""\u00e9\/\ud83d\ude00\b\f\\\"""#.to_owned()),
        "[^\"\\\\\\x00-\\x1f]{0,12}".prop_map(|text| format!("\"{text}\"")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[ {}]", items.join(","))),
            proptest::collection::vec(("[a-z]{0,5}", inner), 0..4).prop_map(|members| {
                let members: Vec<_> = members.iter().map(|(k, v)| format!("\"{k}\" :{v}")).collect();
                format!("{{{}}}", members.join(", "))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_panics(text in ".*", json in json_text(), name in "pusher(_internal)?:[a-z_]{0,30}|client-x") {
        let _ = ServerFrame::decode(&text);
        let _ = ClientFrame::decode(&text);
        let _ = data_json(Some(&text));
        for event in [name.as_str(), "pusher:error", "pusher:subscribe", "pusher:connection_established"] {
            for channel in [None, Some("c")] {
                let frame = event_raw(event, channel, Some(&json), None);
                let _ = ServerFrame::decode(&frame);
                let _ = ClientFrame::decode(&frame);
            }
        }
    }

    #[test]
    fn json_data_survives_to_the_last_digit_and_escape(name in "[^:]*", channel in ".*", json in json_text()) {
        let frame = event(&name, &channel, &json, None);
        prop_assert_eq!(event_of(&frame), (name.clone(), channel.clone(), json.clone()));
        if !json.starts_with('"') {
            let frame = event_raw(&name, Some(&channel), Some(&json), None);
            prop_assert_eq!(event_of(&frame), (name, channel, json));
        }
    }

    #[test]
    fn text_data_survives(text in ".*") {
        prop_assume!(!json::is_json(&text));
        let frame = event("e", "c", &text, None);
        let (_, _, data) = event_of(&frame);
        prop_assert_eq!(json::string(&data).unwrap(), text);
    }

    #[test]
    fn client_frames_come_back(channel in ".*", auth in ".+", data in ".+", json in json_text()) {
        let text = subscribe(&channel, Some(&auth), Some(&data));
        let (a, d) = (Some(auth.clone()), Some(data.clone()));
        let expected = ClientFrame::Subscribe { channel: channel.clone(), auth: a, channel_data: d };
        prop_assert_eq!(ClientFrame::decode(&text).unwrap(), expected);

        let text = signin(&auth, &data);
        let expected = ClientFrame::Signin { auth, user_data: data };
        prop_assert_eq!(ClientFrame::decode(&text).unwrap(), expected);

        let text = client_event("client-e", &channel, &json);
        let (event, on) = (Cow::from("client-e"), Cow::from(channel.as_str()));
        let expected = ClientFrame::ClientEvent { event, channel: on, data: Some(&json) };
        prop_assert_eq!(ClientFrame::decode(&text).unwrap(), expected);

        let text = unsubscribe(&channel);
        let expected = ClientFrame::Unsubscribe { channel };
        prop_assert_eq!(ClientFrame::decode(&text).unwrap(), expected);
    }
}

#[test]
fn what_is_delivered_here_is_what_would_come_back() {
    for text in
        [r#"{"n":1.50}"#, "7", "null", "", "plain", r#""a string""#, "{\"broken\":", "tab\t", "\u{1F600}"]
    {
        let frame = event("e", "c", text, None);
        let ServerFrame::Event { data, .. } = ServerFrame::decode(&frame).unwrap() else { panic!("{frame}") };
        assert_eq!(text_json(text), data_json(data), "{text}");
    }
}
