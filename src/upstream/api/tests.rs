use super::*;
use crate::exchange::ConnId;
use crate::pusher::encryption::{KEY_BYTES, MasterKey};
use crate::upstream::settings::Endpoint;

/// An app whose socket and API are both there.
pub(in crate::upstream) fn app(there: Endpoint) -> App {
    App {
        id: "1".into(),
        key: "k".into(),
        secret: "s".into(),
        other_keys: Vec::new(),
        encryption_master_key: None,
        ws: there.clone(),
        api: there,
        origin: None,
        ca_file: None,
        ca_text: None,
    }
}

fn api(path: &str) -> Api {
    let there = Endpoint { host: "localhost".into(), port: None, tls: false, path: path.into() };
    Api::new(app(there), 10, Arc::new(Client::new(&crate::tls::client_config(None).unwrap())))
}

pub(in crate::upstream) fn response(status: u16, body: &str) -> Response {
    Response {
        status: StatusCode::from_u16(status).unwrap(),
        retry_after: Some(Duration::from_secs(7)),
        date: None,
        content_type: None,
        readable: true,
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

#[test]
fn a_whole_body_that_is_no_json_is_not_pushers_success() {
    for (status, body, may_be) in [
        (200, "{}", true),
        (200, " {\"batch\":[{}]}\n", true),
        (200, "", true),
        (400, "plain text", true),
        (502, "<p>Bad gateway</p>", true),
        (200, "<p>Welcome!</p>", false),
        (200, "Welcome", false),
        (200, "{} {", false),
        (101, "", false),
        // It has begun as Pusher's do.
        (200, "{\"ba", true),
        (200, "{", true),
        (200, "{\"batch\":[{}", true),
        (200, "\u{FEFF}{}", true),
    ] {
        assert_eq!(may_be_pushers(&response(status, body)), may_be, "{status} {body}");
    }
    let bytes = |body: &'static [u8]| Response { body: Bytes::from_static(body), ..response(200, "") };
    for (body, may_be) in
        [(&b"{\"a\":\"\xFF\"}"[..], true), (b"\xFF\xFE{\0}\0", true), (b"<p>f\xFCr</p>", false)]
    {
        assert_eq!(may_be_pushers(&bytes(body)), may_be, "{body:?}");
    }
    // Nobody knows whether it is whole, or what it says.
    for body in ["{\"ba", "<p>Welcome!</p>", "(a large answer)"] {
        let answer = |status| Response { readable: false, ..response(status, body) };
        assert!(may_be_pushers(&answer(200)) && !may_be_pushers(&answer(101)), "{body}");
    }
}

#[test]
fn answers_are_judged() {
    for (status, body, expected) in [
        (200, "{}", "accepted"),
        (202, "", "accepted"),
        (200, r#"{"ok":true}"#, "accepted"),
        (200, r#"{"error":"The payload is too large","code":413}"#, "refused, one"),
        (400, "bad", "refused, one"),
        (401, "", "refused, all"),
        (403, "over quota", "refused, all"),
        (413, "", "refused, one"),
        (422, "", "refused, one"),
        (301, "", "refused, one"),
        (429, "", "retry rate_limited maybe 7s"),
        (503, "", "retry unavailable maybe 7s"),
        (500, "", "retry server_error maybe 7s"),
        (502, "", "retry server_error maybe 7s"),
        (504, "", "retry server_error maybe 7s"),
        (200, r#"{"error":"Too many","code":429}"#, "retry rate_limited not taken 7s"),
        (200, r#"{"error":"Away","code":503}"#, "retry unavailable not taken 7s"),
    ] {
        assert_eq!(said(&judge(&response(status, body))), expected, "{status} {body}");
    }
}

pub(in crate::upstream) fn said(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted => "accepted".to_owned(),
        Outcome::OneByOne => "one by one".to_owned(),
        Outcome::Rejected { one_may_be_bad, .. } => {
            format!("refused, {}", if *one_may_be_bad { "one" } else { "all" })
        }
        Outcome::Retry { cause, maybe_accepted, wait, .. } => {
            let taken = if *maybe_accepted { "maybe" } else { "not taken" };
            let wait = wait.map_or("-".to_owned(), |wait| format!("{wait:?}"));
            format!("retry {} {taken} {wait}", cause.label())
        }
    }
}

#[test]
fn only_a_refused_signature_far_from_pushers_time_teaches_it() {
    let api = api("");
    let here = 1_000_000;
    for (status, date, signed, learns, difference) in [
        (200, Some(here + 7200), here, false, 0),
        (401, None, here, false, 0),
        (401, Some(here + 300), here, false, 0),
        (401, Some(here + 7200), here, true, 7200),
        (401, Some(here + 7201), here + 7200, false, 7200),
        (401, Some(here - 9000), here + 7200, true, -9000),
        (401, Some(i64::MIN), i64::MAX, true, i64::MIN),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let response = Response { status, date, ..response(200, "") };
        assert_eq!(api.learns_time(&response, signed, here), learns, "{date:?}");
        assert_eq!(api.clock_difference_s.load(Ordering::Relaxed), difference, "{date:?}");
    }
}

#[test]
fn what_the_server_signs_is_found_by_two_refusals_at_most() {
    let (refusal, success) = (response(401, ""), response(200, "{}"));
    let plain = api("");
    assert!(!plain.learns_prefix(&refusal, false), "there is nothing else to sign");
    let prefixed = api("/pusher");
    for _ in 0..3 {
        assert!(!prefixed.learns_prefix(&success, false));
        assert!(prefixed.learns_prefix(&refusal, false), "tried once more, with the prefix");
        assert!(prefixed.signs_prefix.load(Ordering::Relaxed));
        assert!(!prefixed.learns_prefix(&refusal, true), "it is the key, then");
        assert!(!prefixed.signs_prefix.load(Ordering::Relaxed));
    }
    prefixed.accepted.store(true, Ordering::Relaxed);
    assert!(!prefixed.learns_prefix(&refusal, false), "it is known what is signed");
}

#[test]
fn bodies_carry_data_as_a_string_and_keep_its_text() {
    let sent = |channel: &str, data: &str| {
        Arc::new(Sent {
            channel: channel.into(),
            event: "client-\"e".into(),
            data: data.into(),
            origin: ConnId(1),
        })
    };
    let data = "{\"n\": 1.50, \"s\":\"a\\n\\u00e9\u{1F600}\"}";
    let batch = [sent("private-c", data), sent("d", "7")];
    let clear = api("").data_of(&batch).unwrap();
    let body = batch_body(&batch, &clear, |channel| (channel == "d").then_some("1.\"2"));
    let value: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(value["batch"][0]["data"].as_str(), Some(data));
    assert_eq!(value["batch"][0]["name"].as_str(), Some("client-\"e"));
    assert_eq!(value["batch"][1]["data"].as_str(), Some("7"));
    assert_eq!(value["batch"][0].get("socket_id"), None);
    assert_eq!(value["batch"][1]["socket_id"].as_str(), Some("1.\"2"));
    assert_eq!(value["batch"].as_array().unwrap().len(), 2);

    let value: serde_json::Value =
        serde_json::from_str(&event_body(&batch[0], &clear[0], |_| Some("1.2"))).unwrap();
    let expected = serde_json::json!({"channels": ["private-c"], "name": "client-\"e", "data": data, "socket_id": "1.2"});
    assert_eq!(value, expected);
}

#[test]
fn data_of_encrypted_channels_leaves_sealed_under_a_new_nonce_or_not_at_all() {
    let sent = |channel: &str| {
        Arc::new(Sent {
            channel: channel.into(),
            event: "client-e".into(),
            data: "{\"n\":1}".into(),
            origin: ConnId(1),
        })
    };
    let batch = [sent("private-encrypted-c"), sent("private-c"), sent("private-encrypted-cache-c")];
    let mut api = api("");
    assert_eq!(api.data_of(&batch), None, "without a key nothing leaves in clear");
    assert!(api.data_of(&batch[1..2]).is_some());
    let key = MasterKey::new([7; KEY_BYTES]);
    api.app.encryption_master_key = Some(key.clone());
    let [once, again] = [(); 2].map(|()| api.data_of(&batch).unwrap());
    assert_eq!(once[1], "{\"n\":1}");
    for at in [0, 2] {
        assert_ne!(once[at], again[at]);
        assert_eq!(key.of_channel(&batch[at].channel).open(&once[at]).unwrap(), "{\"n\":1}");
    }
    let value: serde_json::Value = serde_json::from_str(&batch_body(&batch, &once, |_| None)).unwrap();
    assert_eq!(value["batch"][0]["data"].as_str(), Some(&*once[0]));
}

#[tokio::test]
async fn what_cannot_be_sealed_is_refused() {
    let sent = Sent {
        channel: "private-encrypted-c".into(),
        event: "e".into(),
        data: "1".into(),
        origin: ConnId(1),
    };
    let outcome = api("").trigger(&[Arc::new(sent)], |_| None, Duration::from_secs(1)).await;
    assert_eq!(said(&outcome), "refused, one");
}
