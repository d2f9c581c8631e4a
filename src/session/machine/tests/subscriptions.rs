//! Subscriptions that clients choose.

use super::*;

#[test]
fn agents_are_filtered_by_their_path_and_environments_by_choice() {
    let mut b = Bench::open("/ws/agent/agent_7");
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Ok(b.claims("123", 60)));
    assert_eq!(b.slots(Ok(())), [r#"subscribe 0 agent-status Value("agent_7")"#]);

    let mut b = Bench::open("/ws/roblox");
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Ok(b.claims("123", 60)));
    assert_eq!(b.slots(Ok(())), ["subscribe 0 roblox-sync Hold"]);
    b.subscribed(FIXED);
    let subscribe = r#"{"type":"subscribe","environment_id":"env_456"}"#;
    assert_eq!(b.text(subscribe), [r#"subscribe 1 roblox-sync Value("env_456")"#]);
    assert!(b.text(subscribe).is_empty(), "once is enough");
    assert_eq!(
        b.text(r#"{"type":"subscribe","environment_id":7}"#),
        [r#"subscribe 2 roblox-sync Value("7")"#]
    );
    assert_eq!(b.text(r#"{"type":"subscribe"}"#), ["error INVALID_FIELD"]);
    assert_eq!(b.text(r#"{"type":"unsubscribe","environment_id":"env_456"}"#), ["unsubscribe 1"]);
    b.subscribed(2);
    assert!(b.after(Duration::from_secs(11)).is_empty());
    assert_eq!(
        b.text(r#"{"type":"subscribe","environment_id":"x"}"#),
        [r#"subscribe 3 roblox-sync Value("x")"#]
    );
    assert_eq!(b.after(Duration::from_secs(10)), ["unsubscribe 3", "error UPSTREAM_UNAVAILABLE"]);
}

#[test]
fn channels_are_chosen_from_a_closed_list() {
    let mut b = Bench::open("/ws");
    assert!(b.machine.is_live());
    assert_eq!(b.text(r#"{"type":"subscribe","channel":"files"}"#), ["subscribe 1 files All"]);
    assert_eq!(b.text(r#"{"type":"subscribe","channel":"private-x"}"#), ["error INVALID_FIELD"]);
    assert_eq!(b.text("junk"), ["error INVALID_JSON"]);
    assert_eq!(b.text(r#"{"type":"unsubscribe","channel":"files"}"#), ["unsubscribe 1"]);
    assert_eq!(b.text(r#"{"type":"run"}"#), ["error UNKNOWN_MESSAGE_TYPE"]);
}

#[test]
fn a_user_and_a_field_have_the_characters_that_they_may_have() {
    let config = |user: &str| {
        shipped(&format!(
            "[[routes]]\nname = \"f\"\npath = \"/f\"\ndialect = \"typed\"\nchannel = \"f\"\nauth.required = true\n\
             filter = {{ field = \"k\", equals = \"{{auth.user}}-{{subscribe.env}}\" }}\n\
             values = {{ \"auth.user\" = \"{user}\", \"subscribe.env\" = \"[a-z]+\" }}\n"
        ))
    };
    let mut b = Bench::open_in(&config("[A-Z]+"), "/f", |_| {});
    b.text(r#"{"type":"auth","token":"t"}"#);
    assert_eq!(b.verified(Ok(b.claims("u1", 60))), ["error INVALID_FIELD"]);
    let mut b = Bench::open_in(&config("[a-z0-9]+"), "/f", |_| {});
    b.authenticate();
    assert_eq!(b.text(r#"{"type":"subscribe","env":"a-b"}"#), ["error INVALID_FIELD"]);
    assert_eq!(b.text(r#"{"type":"subscribe","env":"ab"}"#).len(), 1);
}

#[test]
fn with_chosen_channels_a_message_names_its_own() {
    let config = shipped(
        "[[routes]]\nname = \"c\"\npath = \"/c\"\ndialect = \"channel\"\nchannel = \"x-{subscribe.channel}\"\nauth = { required = false }\n[[routes.publish]]\ntypes = [\"say\"]\n",
    );
    let mut b = Bench::open_in(&config, "/c", |_| {});
    let say = r#"{"type":"say","channel":"a","data":1}"#;
    assert_eq!(b.text(say), ["error MESSAGE_TYPE_NOT_PUBLISHED"], "not subscribed");
    assert_eq!(b.text(r#"{"type":"subscribe","channel":"a"}"#), ["subscribe 1 x-a All"]);
    assert_eq!(b.text(say), ["trigger x-a client-say 1"]);
    assert_eq!(b.text(r#"{"type":"say","data":1}"#), ["error MESSAGE_TYPE_NOT_PUBLISHED"]);
}
