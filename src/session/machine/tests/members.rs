//! As whom a client is subscribed to presence channels, and to what backends send to its user.

use super::*;

const ROUTES: &str = r##"
[[routes]]
name = "team"
path = "/team/{id}"
channel = "presence-team-{id}"
dialect = "typed"
auth = { required = true }
presence = "each_user"
user_info = '{"plugins":{claim.plugin_ids},"name":{claim.name}}'

[[routes]]
name = "rooms"
path = "/rooms"
channel = "{subscribe.room}"
dialect = "typed"
auth = { required = true }
presence = "each_user"
subscribe.room = ["presence-red", "private-blue"]

[[routes]]
name = "mine"
path = "/mine"
channel = "#server-to-user"
dialect = "typed"
auth = { required = true }
watchlist = "plugin_ids"

[[routes]]
name = "lobby"
path = "/lobby"
channel = "presence-lobby"
dialect = "typed"
presence = "observe"
"##;

fn open(path: &str) -> Bench {
    // Without the shipped routes, whose room would share its channels.
    let head = |text: &str| text.split("[[routes]]").next().map(str::to_owned).unwrap_or_default();
    Bench::open_in(&shipped_with(|text| head(text) + ROUTES), path, |_| {})
}

/// Authenticates, and gives the subscription that comes of it.
fn authenticated(b: &mut Bench, user: &str) -> Option<Subscribe> {
    b.text(r#"{"type":"auth","token":"t"}"#);
    let claims = b.claims(user, 3600);
    assert_eq!(b.verified(Ok(claims)), [format!("acquire {user} None")]);
    b.machine.slots(Ok(()), b.now, &mut b.out);
    subscription(b)
}

fn subscription(b: &mut Bench) -> Option<Subscribe> {
    b.out.drain(..).find_map(|action| match action {
        Action::Subscribe(subscribe) => Some(subscribe),
        _ => None,
    })
}

fn member(via: Via) -> Arc<Member> {
    match via {
        Via::Member(member) => member,
        Via::Shared => panic!("it takes part in everybody's"),
    }
}

#[test]
fn each_user_is_subscribed_as_a_member_of_his_own() {
    let subscribe = authenticated(&mut open("/team/7"), "ann").unwrap();
    assert_eq!(subscribe.channel, "presence-team-7");
    let member = member(subscribe.via);
    assert_eq!((&*member.user_id, member.user_data.as_deref()), ("ann", None));
    assert_eq!(member.info.as_deref(), Some(r#"{"plugins":["p1",7],"name":null}"#));
}

#[test]
fn of_several_channels_those_with_members_are_his_own() {
    let mut b = open("/rooms");
    assert!(authenticated(&mut b, "ann").is_none());
    for (room, own) in [("presence-red", true), ("private-blue", false)] {
        b.machine.text(&format!(r#"{{"type":"subscribe","room":"{room}"}}"#), b.now, &mut b.out);
        let via = subscription(&mut b).unwrap().via;
        assert_eq!(matches!(via, Via::Member(_)), own, "{room}");
    }
}

#[test]
fn what_backends_send_to_a_user_comes_to_who_is_signed_in() {
    let mut b = open("/mine");
    let subscribe = authenticated(&mut b, "ann").unwrap();
    assert_eq!(subscribe.channel, "#server-to-user-ann");
    assert_eq!(member(subscribe.via).user_data.as_deref(), Some(r#"{"id":"ann","watchlist":["p1","7"]}"#));
    b.subscribed(FIXED);
    b.machine.terminated(&mut b.out);
    assert_eq!(b.seen(), ["close terminated"]);
    b.machine.terminated(&mut b.out);
    assert!(b.seen().is_empty(), "a connection is closed once");
}

#[test]
fn whom_pusher_would_not_take_is_told_and_may_try_again() {
    let (long, many) = ("x".repeat(129), "y".repeat(1024));
    for (path, user, more, code) in [
        ("/team/7", long.as_str(), "{}".to_owned(), "INVALID_USER_ID"),
        ("/mine", "a b", "{}".to_owned(), "INVALID_USER_ID"),
        ("/team/7", "ann", format!(r#"{{"name":"{many}"}}"#), "USER_INFO_TOO_LARGE"),
        ("/mine", "ann", r#"{"plugin_ids":1}"#.to_owned(), "USER_INFO_TOO_LARGE"),
    ] {
        let mut b = open(path);
        b.text(r#"{"type":"auth","token":"t"}"#);
        let outcome = b.machine.verified(
            Ok(claims(user, &[], b.now.unix_seconds() + 60, &more)),
            LEEWAY,
            b.now,
            &mut b.out,
        );
        assert!(outcome.result == TokenResult::BadClaim && outcome.denied.is_some());
        let Some(Action::Error(_, frame)) = b.out.pop() else { panic!("{:?}", b.out) };
        assert!(frame.starts_with(&format!(r#"{{"type":"auth_error","data":{{"error":"{code}""#)), "{frame}");
        assert!(authenticated(&mut b, "bob").is_some(), "it is open to its deadline");
    }
}

#[test]
fn where_the_bridge_observes_its_clients_are_no_members() {
    let subscribe = subscription(&mut open("/lobby")).unwrap();
    assert_eq!((&*subscribe.channel, &*member(subscribe.via).user_id), ("presence-lobby", "pusher-bridge"));
}
