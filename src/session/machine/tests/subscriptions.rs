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

fn refused(b: &mut Bench, id: Option<u32>, channel: &str, code: ErrorCode, is_retried: bool) -> Vec<String> {
    b.machine.subscription_refused(id, channel, code, is_retried, b.now, &mut b.out);
    b.seen()
}

#[test]
fn who_is_refused_for_good_is_told_why_and_may_try_again() {
    let mut b = Bench::open("/ws/content/gen_1");
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Ok(b.claims("123", 3600)));
    b.slots(Ok(()));
    let seen =
        refused(&mut b, Some(FIXED), "content-generation-gen_1", ErrorCode::ChannelUnauthorized, false);
    assert_eq!(seen, ["unsubscribe 0", "release", "error CHANNEL_UNAUTHORIZED"]);
    assert!(b.after(Duration::from_secs(29)).is_empty(), "it stays, or it would be back in a second");
    assert_eq!(b.text(r#"{"type":"auth","token":"t"}"#), ["verify t"]);
}

#[test]
fn who_is_refused_for_now_is_told_and_confirmed_when_it_is_accepted() {
    let mut b = Bench::open("/ws/content/gen_1");
    b.text(r#"{"type":"auth","token":"t"}"#);
    b.verified(Ok(b.claims("123", 3600)));
    b.slots(Ok(()));
    let channel = "content-generation-gen_1";
    assert_eq!(refused(&mut b, Some(FIXED), channel, ErrorCode::ChannelQuota, true), ["error CHANNEL_QUOTA"]);
    assert!(refused(&mut b, Some(FIXED), channel, ErrorCode::UpstreamUnavailable, true).is_empty());
    b.subscribed(FIXED);
    assert!(b.machine.is_live());
    assert!(refused(&mut b, Some(FIXED), channel, ErrorCode::ChannelQuota, true).is_empty(), "too late");
    let again = refused(&mut b, None, channel, ErrorCode::ChannelUnauthorized, false);
    assert_eq!(again, ["error CHANNEL_UNAUTHORIZED"], "after a lost connection");
    assert!(b.machine.is_live(), "it is in service");
}

#[test]
fn one_chosen_channel_fails_and_the_others_stay() {
    let mut b = Bench::open("/ws");
    for channel in ["files", "git", "search"] {
        b.text(&format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#));
    }
    b.subscribed(1);
    let seen = refused(&mut b, Some(2), "git", ErrorCode::ChannelRefused, false);
    assert_eq!(seen, ["unsubscribe 2", "error CHANNEL_REFUSED"]);
    assert_eq!(refused(&mut b, Some(3), "search", ErrorCode::ChannelQuota, true), ["error CHANNEL_QUOTA"]);
    b.subscribed(3);
    assert!(b.after(Duration::from_secs(10)).is_empty(), "nothing is waited for any more");
    assert_eq!(b.text(r#"{"type":"subscribe","channel":"git"}"#), ["subscribe 4 git All"]);
    assert!(refused(&mut b, Some(2), "git", ErrorCode::ChannelRefused, false).is_empty(), "it is gone");
}

#[test]
fn without_authentication_a_refusal_is_told_once() {
    let config = shipped(
        "[[routes]]\nname = \"o\"\npath = \"/o\"\ndialect = \"typed\"\nchannel = \"o\"\nauth.required = false\n",
    );
    let mut b = Bench::open_in(&config, "/o", |_| {});
    assert_eq!(b.seen(), ["subscribe 0 o All"]);
    let seen = refused(&mut b, Some(FIXED), "o", ErrorCode::ChannelFeatureOff, false);
    assert_eq!(seen, ["error CHANNEL_FEATURE_OFF"]);
    assert!(b.after(Duration::from_secs(11)).iter().all(|action| !action.starts_with("error")));
    assert!(b.machine.is_live());
}

#[test]
fn values_that_select_another_kind_or_are_excluded_get_errors_of_their_own() {
    let config = shipped(
        "[[routes]]\nname = \"k\"\npath = \"/k\"\ndialect = \"channel\"\nauth = { required = false }\n\
         channel = \"private-{subscribe.channel}\"\nexclude = { \"subscribe.channel\" = [\"secret\", \"s-*\", \"plugin-*\", \"command-*\"] }\n\
         [[routes]]\nname = \"l\"\npath = \"/l\"\ndialect = \"channel\"\nauth = { required = false }\n\
         channel = \"l{subscribe.channel}\"\nsubscribe.channel = [\"og-*\", \"x\"]\n\
         [[routes]]\nname = \"u\"\npath = \"/u/{id}\"\ndialect = \"typed\"\nauth = { required = true }\n\
         channel = \"private-{id}{auth.user}\"\nshares = [\"k\"]\n\
         exclude = { \"auth.user\" = [\"0\"] }\nvalues = { id = \"[acx]+\", \"auth.user\" = \"[0-9eh-]+\" }\n",
    );
    let mut b = Bench::open_in(&config, "/k", |_| {});
    for (channel, seen) in [
        ("x", "subscribe 1 private-x All"),
        ("cache-x", "error CHANNEL_KIND_NOT_ALLOWED"),
        ("encrypted-x", "error CHANNEL_KIND_NOT_ALLOWED"),
        ("encrypted-cache-x", "error CHANNEL_KIND_NOT_ALLOWED"),
        ("secret", "error VALUE_NOT_ALLOWED"),
        ("s-1", "error VALUE_NOT_ALLOWED"),
        ("s-", "subscribe 2 private-s- All"),
        ("a b", "error INVALID_FIELD"),
    ] {
        for kind in ["subscribe", "unsubscribe"] {
            let text = format!(r#"{{"type":"{kind}","channel":"{channel}"}}"#);
            let expected = match (kind, seen.strip_prefix("subscribe ")) {
                ("unsubscribe", Some(id)) => format!("unsubscribe {}", &id[..1]),
                _ => seen.to_owned(),
            };
            assert_eq!(b.text(&text), [expected], "{kind} {channel}");
        }
    }
    let mut b = Bench::open_in(&config, "/l", |_| {});
    for (channel, seen) in [
        ("og-a", "subscribe 1 log-a All"),
        ("x", "subscribe 2 lx All"),
        ("og-", "error INVALID_FIELD"),
        ("og-*", "error INVALID_FIELD"),
        ("y", "error INVALID_FIELD"),
    ] {
        assert_eq!(b.text(&format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#)), [seen], "{channel}");
    }
    for (path, user, seen) in [
        ("/u/x", "1", "acquire"),
        ("/u/x", "0", "error VALUE_NOT_ALLOWED"),
        ("/u/cac", "he-1", "error CHANNEL_KIND_NOT_ALLOWED"),
        ("/u/cac", "he", "acquire"),
    ] {
        let mut b = Bench::open_in(&config, path, |_| {});
        b.text(r#"{"type":"auth","token":"t"}"#);
        let got = b.verified(Ok(b.claims(user, 60)));
        assert!(got.len() == 1 && got[0].starts_with(seen), "{path} {user}: {got:?}");
    }
}
