//! From the upgrade to service: authentication, slots, the fixed subscription, and refusals.

use super::*;

#[test]
fn a_client_authenticates_and_is_told_when_its_channel_is_subscribed() {
    let mut b = Bench::open("/ws/content/gen_1");
    assert!(b.seen().is_empty());
    assert_eq!(b.text(r#"{"type":"auth","token":"Bearer t.o.k"}"#), ["verify t.o.k"]);
    assert!(!b.machine.wants_frames(), "frames sent back to back with auth wait their turn");
    assert_eq!(b.verified(Ok(b.claims("123", 60))), [r#"acquire 123 Some("gen_1")"#]);
    b.machine.slots(Ok(()), b.now, &mut b.out);
    let Some(Action::Subscribe(subscribe)) = b.out.pop() else { panic!("{:?}", b.out) };
    assert_eq!(subscribe.channel, "content-generation-gen_1");
    assert!(
        subscribe
            .confirm
            .unwrap()
            .starts_with(r#"{"type":"auth_response","data":{"authenticated":true,"user_id":"123""#)
    );
    assert!(!b.machine.wants_frames() && !b.machine.is_live());
    b.subscribed(FIXED);
    assert!(b.machine.wants_frames() && b.machine.is_live());
}

#[test]
fn before_authentication_only_auth_and_pong_pass() {
    let mut b = Bench::open("/ws/content/gen_1");
    assert!(b.text(r#"{"type":"pong"}"#).is_empty());
    b.machine.text(r#"{"type":"subscribe"}"#, b.now, &mut b.out);
    let Some(Action::Error(ErrorCode::AuthRequired, frame)) = b.out.pop() else { panic!("{:?}", b.out) };
    assert_eq!(
        frame,
        r#"{"type":"error","data":{"error_code":"WEBSOCKET_AUTH_REQUIRED","message":"Authentication required for this WebSocket endpoint","details":{"endpoint":"/ws/content/gen_1","required_permissions":["content:generate"]}}}"#
    );
    assert_eq!(b.text("junk"), ["error WEBSOCKET_AUTH_REQUIRED"]);
    assert_eq!(b.binary(), ["error BINARY_NOT_SUPPORTED"]);
    assert_eq!(b.after(Duration::from_secs(30)), ["close auth_deadline"]);
    assert!(b.text(r#"{"type":"auth","token":"t"}"#).is_empty(), "nothing is answered after a close");
}

#[test]
fn wrong_tokens_leave_the_client_a_chance_until_the_deadline() {
    let mut b = Bench::open("/ws/content/gen_1");
    b.text(r#"{"type":"auth","token":"t"}"#);
    assert_eq!(b.verified(Err(None)), ["error INVALID_TOKEN"]);
    assert_eq!(b.text(r#"{"type":"auth"}"#), ["error INVALID_TOKEN"]);
    b.text(r#"{"type":"auth","token":"t"}"#);
    let poor = claims("123", &["roblox:read"], b.now.unix_seconds() + 60, "{}");
    assert_eq!(b.verified(Ok(poor)), ["error MISSING_PERMISSION"]);
    b.text(r#"{"type":"auth","token":"t"}"#);
    assert_eq!(b.verified(Err(Some(Duration::from_secs(3)))), ["error AUTH_RATE_LIMITED"]);
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Err(None));
    assert_eq!(
        b.text(r#"{"type":"auth","token":"t"}"#),
        ["error AUTH_RATE_LIMITED"],
        "the sixth in a minute"
    );
    assert_eq!(b.after(Duration::from_secs(30)), ["close auth_failures"]);
}

#[test]
fn what_the_path_names_must_be_the_users() {
    for (path, outcome) in [
        ("/ws/plugin/p1", "acquire 123 None"),
        ("/ws/plugin/7", "acquire 123 None"),
        ("/ws/plugin/p2", "error NOT_OWNER"),
    ] {
        let mut b = Bench::open(path);
        b.text(r#"{"type":"auth","token":"t"}"#);
        assert_eq!(b.verified(Ok(b.claims("123", 60))), [outcome], "{path}");
    }
}

#[test]
fn full_slots_are_told_and_may_be_tried_again() {
    let mut b = Bench::open("/ws/content/gen_1");
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Ok(b.claims("123", 3600)));
    b.now = b.now.plus(Duration::from_secs(40));
    assert_eq!(b.slots(Err(ErrorCode::SessionInUse)), ["error SESSION_IN_USE"]);
    assert!(b.after(Duration::from_secs(29)).is_empty(), "the deadline runs anew: no fast reconnect loop");
    assert_eq!(b.text(r#"{"type":"auth","token":"t"}"#), ["verify t"]);
}

#[test]
fn a_subscription_that_is_not_confirmed_is_told() {
    let mut b = Bench::open("/ws/content/gen_1");
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Ok(b.claims("123", 3600)));
    b.slots(Ok(()));
    assert_eq!(b.after(Duration::from_secs(10)), ["unsubscribe 0", "release", "error UPSTREAM_UNAVAILABLE"]);
    assert!(b.subscribed(FIXED).is_empty());
    assert!(!b.machine.is_live(), "a late confirmation changes nothing");
    assert_eq!(b.after(Duration::from_secs(30)), ["close auth_deadline"]);
}

#[test]
fn expiry_ends_the_connection_unless_renewed_by_the_same_user() {
    let mut b = Bench::open("/ws/agent/a");
    b.authenticate();
    let renew = |b: &mut Bench, user: &str| {
        b.text(r#"{"type":"auth","token":"t"}"#);
        b.verified(Ok(b.claims(user, 7200)))
    };
    assert_eq!(renew(&mut b, "124"), ["error OTHER_USER"]);
    assert!(renew(&mut b, "123")[0].starts_with(r#"{"type":"auth_response""#));
    b.machine.timers.clear(Timer::Silence);
    assert!(!b.after(Duration::from_secs(3700)).iter().any(|a| a.starts_with("close")));
    b.machine.timers.clear(Timer::Silence);
    let end = b.after(Duration::from_secs(3600));
    assert_eq!(end, ["error INVALID_TOKEN", "close token_expired"]);
}

#[test]
fn a_refusal_by_frame_is_held_before_the_close() {
    let config = shipped(
        "[[routes]]\nname = \"g\"\npath = \"/g\"\ngroup = \"typed-api\"\nchannel = \"g\"\nrefusal = \"frame\"\nrefusal_hold = \"20s\"\n",
    );
    let mut b = Bench::open_in(&config, "/g", |o| o.refusal = Some(ErrorCode::EndpointGone));
    assert_eq!(b.seen(), ["error ENDPOINT_GONE"]);
    assert!(b.text(r#"{"type":"auth","token":"t"}"#).is_empty());
    assert!(b.after(Duration::from_secs(19)).is_empty());
    assert_eq!(b.after(Duration::from_secs(1)), ["close refused"]);
}

#[test]
fn a_token_of_the_upgrade_request_needs_no_message() {
    let config = shipped("");
    let b = Bench::open_in(&config, "/ws/agent/a", |o| o.token = Some("t".into()));
    assert_eq!(b.out.iter().map(short).collect::<Vec<_>>(), ["verify t"]);
}

#[test]
fn a_token_that_expires_before_its_channel_is_subscribed_ends_the_connection() {
    let mut b = Bench::open("/ws/content/gen_1");
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Ok(b.claims("123", -5)));
    // Five of the ten seconds of leeway are gone already.
    assert!(b.machine.deadline().unwrap() <= b.now.mono + Duration::from_secs(5));
    assert_eq!(b.after(Duration::from_secs(5)), ["error INVALID_TOKEN", "close token_expired"]);
    assert_eq!(b.machine.deadline(), None, "no timer is left that would fire for ever");
}
