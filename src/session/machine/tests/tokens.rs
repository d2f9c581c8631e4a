//! Tokens while they are judged, and whom they speak for.

use super::*;

const AUTH: &str = r#"{"type":"auth","token":"t"}"#;
const SECOND: Duration = Duration::from_secs(1);

/// Time passes without a look at the timers.
fn pass(b: &mut Bench, time: Duration) {
    b.now = b.now.plus(time);
}

#[test]
fn the_deadline_is_paused_while_tokens_are_judged_within_a_bound() {
    let mut b = Bench::open("/ws/content/gen_1");
    pass(&mut b, SECOND * 29);
    b.text(AUTH);
    assert!(b.after(SECOND * 5).is_empty(), "it has waited for us");
    b.machine.unjudged(SECOND, b.now, &mut b.out);
    b.seen();
    assert!(b.after(Duration::from_millis(999)).is_empty());
    assert_eq!(b.after(Duration::from_millis(1)), ["close auth_deadline"], "the second that was left");

    let mut b = Bench::open("/ws/content/gen_1");
    b.text(AUTH);
    assert!(b.after(SECOND * 39).is_empty());
    assert_eq!(b.after(SECOND), ["close auth_deadline"], "judged without end");

    let mut b = Bench::open("/ws/content/gen_1");
    for _ in 0..5 {
        b.text(AUTH);
        pass(&mut b, SECOND * 4);
        b.verified(Err(Some(SECOND)));
    }
    assert!(b.after(SECOND * 9).is_empty());
    assert_eq!(b.after(SECOND), ["close auth_failures"], "wrong ones move nothing");
}

#[test]
fn a_renewal_that_waits_for_us_is_not_late() {
    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    b.without_heartbeat();
    // An hour and the leeway, less 0.7 s.
    pass(&mut b, Duration::from_millis(3_609_300));
    b.text(AUTH);
    assert!(b.after(SECOND).is_empty());
    let renewed = b.claims("123", 3600);
    assert!(b.verified(Ok(renewed))[0].starts_with(r#"{"type":"auth_response""#));
    assert!(b.machine.is_live());

    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    b.without_heartbeat();
    pass(&mut b, Duration::from_millis(3_609_300));
    b.text(AUTH);
    pass(&mut b, SECOND);
    assert_eq!(b.verified(Err(None)), ["error INVALID_TOKEN"]);
    let end = ["error INVALID_TOKEN", "close token_expired"];
    assert_eq!(b.after(Duration::ZERO), end, "a wrong one moves nothing");

    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    b.without_heartbeat();
    pass(&mut b, Duration::from_millis(3_609_300));
    b.text(AUTH);
    assert_eq!(b.after(JUDGING_MAX + SECOND), end, "within a bound");
}

#[test]
fn a_token_does_not_age_while_it_is_judged() {
    let mut b = Bench::open("/ws/content/gen_1");
    let claims = b.claims("123", -9);
    b.text(AUTH);
    pass(&mut b, SECOND * 3);
    b.verified(Ok(claims));
    assert_eq!(
        b.machine.timers.get(Timer::Expiry),
        Some(b.now.mono + SECOND),
        "what was left of its leeway when it came"
    );
}

#[test]
fn want_of_keys_is_told_as_ours_with_a_time_to_come_again() {
    let mut b = Bench::open("/ws/content/gen_1");
    for _ in 0..12 {
        assert_eq!(b.text(AUTH), ["verify t"], "who comes when told to is heard");
        let outcome = b.machine.unjudged(SECOND * 3, b.now, &mut b.out);
        assert_eq!((outcome.result.label(), outcome.denied), ("keys_unavailable", None));
        let Some(Action::Error(ErrorCode::Unavailable, frame)) = b.out.pop() else { panic!("{:?}", b.out) };
        assert_eq!(
            frame,
            r#"{"type":"error","data":{"error_code":"UNAVAILABLE","message":"Tokens cannot be verified at the moment: wait 12000 ms","details":{"retry_after_ms":12000}}}"#
        );
        assert!(b.machine.wants_frames() && b.out.is_empty());
        pass(&mut b, SECOND * 12);
    }
    b.text(AUTH);
    b.machine.unjudged(SECOND * 40, b.now, &mut b.out);
    let Some(Action::Error(_, frame)) = b.out.pop() else { panic!("{:?}", b.out) };
    assert!(frame.contains(r#"{"retry_after_ms":40000}"#), "{frame}");

    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    b.text(AUTH);
    b.machine.unjudged(SECOND, b.now, &mut b.out);
    assert_eq!(b.seen(), ["error UNAVAILABLE"]);
    assert!(b.machine.is_live(), "its own token is as good as before");
}

#[test]
fn what_is_no_token_is_told_and_not_judged() {
    for text in [r#"{"type":"auth","token":""}"#, r#"{"type":"auth","token":"Bearer "}"#] {
        assert_eq!(Bench::open("/ws/agent/a").text(text), ["error INVALID_TOKEN"], "{text}");
    }
    let mut b = Bench::open_in(&shipped(""), "/ws/agent/a", |o| o.token = Some(String::new()));
    assert_eq!(b.seen(), ["error INVALID_TOKEN"]);
}

#[test]
fn attempts_that_come_to_no_verdict_are_noted() {
    let mut b = Bench::open_in(&shipped(""), "/ws/agent/a", |o| o.token = Some(String::new()));
    let all = |b: &mut Bench| std::mem::take(&mut b.out).iter().map(short).collect::<Vec<_>>();
    assert_eq!(all(&mut b), ["unverified no_token", "error INVALID_TOKEN"]);
    for _ in 1..5 {
        b.text(r#"{"type":"auth"}"#);
    }
    b.machine.text(AUTH, b.now, &mut b.out);
    assert_eq!(all(&mut b), ["unverified rate_limited", "error AUTH_RATE_LIMITED"]);

    let mut b = Bench::open("/ws/agent/a");
    b.text(AUTH);
    b.machine.verified(Err(None), LEEWAY, b.now, &mut b.out);
    assert_eq!(all(&mut b), ["error INVALID_TOKEN"], "of a verdict its outcome is the note");
}

#[test]
fn one_subject_of_two_issuers_is_two_users() {
    let of = |b: &Bench, issuer: Option<&str>| {
        let mut claims = b.claims("123", 7200);
        claims.issuer = issuer.map(Into::into);
        claims
    };
    for (first, second, result) in [
        (Some("a"), Some("a"), "renewed"),
        (Some("a"), Some("b"), "other_user"),
        (Some("a"), None, "other_user"),
        (None, Some("a"), "other_user"),
        (None, None, "renewed"),
    ] {
        let mut b = Bench::open("/ws/agent/a");
        b.text(AUTH);
        let claims = of(&b, first);
        b.machine.verified(Ok(claims), LEEWAY, b.now, &mut b.out);
        let Some(Action::Acquire { user, .. }) = b.out.pop() else { panic!("{:?}", b.out) };
        assert_eq!((user.issuer.as_deref(), user.subject.as_str()), (first, "123"));
        b.slots(Ok(()));
        b.subscribed(FIXED);
        b.text(AUTH);
        let claims = of(&b, second);
        let outcome = b.machine.verified(Ok(claims), LEEWAY, b.now, &mut b.out);
        assert_eq!(outcome.result.label(), result, "{first:?} {second:?}");
    }
}

#[test]
fn an_exclusive_key_with_the_user_in_it_has_his_issuer() {
    for (key, issuer, subject) in [("of {auth.user}", Some("a"), "of 123"), ("{agent_id}", None, "x")] {
        let config = shipped(&format!(
            "[[routes]]\nname = \"e\"\npath = \"/e/{{agent_id}}\"\ngroup = \"typed-api\"\nchannel = \"e\"\nlimits.exclusive = {{ key = \"{key}\" }}\n"
        ));
        let mut b = Bench::open_in(&config, "/e/x", |_| {});
        b.text(AUTH);
        let mut claims = b.claims("123", 60);
        claims.issuer = Some("a".into());
        b.machine.verified(Ok(claims), LEEWAY, b.now, &mut b.out);
        let Some(Action::Acquire { exclusive: Some(exclusive), .. }) = b.out.pop() else {
            panic!("{:?}", b.out)
        };
        assert_eq!((exclusive.issuer.as_deref(), exclusive.subject.as_str()), (issuer, subject));
    }
}

#[test]
fn the_claim_that_is_missing_is_named() {
    let mut b = Bench::open("/ws/plugin/p9");
    b.text(AUTH);
    let claims = b.claims("123", 60);
    let outcome = b.machine.verified(Ok(claims), LEEWAY, b.now, &mut b.out);
    assert_eq!(outcome.result.label(), "not_owner");
    assert_eq!(
        outcome.denied.unwrap().to_string(),
        "the claim `plugin_ids` does not contain what the path names"
    );
}

#[test]
fn fields_of_messages_may_stand_within_others() {
    let config = shipped(
        r#"
[dialects.nested.in]
type_field = "head.type"
auth = { type = "auth", token = "payload.token" }
subscribe = { type = "subscribe" }
unsubscribe = { type = "unsubscribe" }
[dialects.nested.out]
event = '{"type":{event},"data":{data}}'
error = '{"type":"error","error_code":{code}}'
[[routes]]
name = "n"
path = "/n"
dialect = "nested"
channel = "n-{subscribe.data.channel}"
auth = { required = true }
[routes.subscribe]
"data.channel" = ["a", "b"]
[[routes.publish]]
types = ["*"]
"#,
    );
    let mut b = Bench::open_in(&config, "/n", |_| {});
    assert_eq!(b.text(r#"{"head":{"type":"auth"},"payload":{"token":"Bearer t.o.k"}}"#), ["verify t.o.k"]);
    b.verified(Ok(b.claims("123", 3600)));
    b.slots(Ok(()));
    for (text, expected) in [
        (r#"{"head":{"type":"subscribe"},"data":{"channel":"a"}}"#, "subscribe 1 n-a All"),
        (r#"{"head.type":"subscribe","data.channel":"b"}"#, "subscribe 2 n-b All"),
        (r#"{"head":{"type":"subscribe"},"data":{"channel":"c"}}"#, "error INVALID_FIELD"),
        (r#"{"head":{"type":"subscribe"},"data":"channel"}"#, "error INVALID_FIELD"),
        (r#"{"head":"type","data":{"channel":"a"}}"#, "error MISSING_TYPE"),
        (
            r#"{"head":{"type":"say"},"data":{"channel":"a"}}"#,
            r#"trigger n-a client-say {"head":{"type":"say"},"data":{"channel":"a"}}"#,
        ),
        (r#"{"head":{"type":"unsubscribe"},"data":{"channel":"a"}}"#, "unsubscribe 1"),
    ] {
        assert_eq!(b.text(text), [expected], "{text}");
    }
}
