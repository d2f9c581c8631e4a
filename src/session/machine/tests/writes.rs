//! What a client may write, and to whom.

use super::*;
use crate::routes::publish;

/// A route of every kind of filter, all on one channel, with these publish rules.
fn filtered(rules: &str) -> Config {
    let route = |name: &str, path: &str, filter: &str, shares: &str| {
        format!(
            "[[routes]]\nname = \"{name}\"\ngroup = \"typed-api\"\npath = \"{path}\"\nchannel = \"agents\"\n\
             shares = [{shares}]\nfilter = {{ {filter} }}\n{rules}\n"
        )
    };
    shipped(&format!(
        "{}{}{}{}",
        route("f-path", "/f/{id}", r#"field = "agent_id", equals = "{id}""#, ""),
        route("f-user", "/user", r#"field = "by.user", equals = "{auth.user}""#, r#""f-path""#),
        route("f-chosen", "/chosen", r#"field = "env", equals = "{subscribe.env}""#, r#""f-path", "f-user""#),
        "[[routes]]\nname = \"f-room\"\ndialect = \"typed\"\npath = \"/room\"\nchannel = \"room-{subscribe.room}\"\n\
         filter = { field = \"env\", equals = \"{subscribe.env}\" }\n[[routes.publish]]\ntypes = [\"*\"]\n",
    ))
}

#[test]
fn on_a_filtered_route_a_client_writes_only_to_its_own_kind() {
    let config = filtered("[[routes.publish]]\ntypes = [\"*\"]");
    let mut b = Bench::open_in(&config, "/f/1", |_| {});
    b.authenticate();
    let own = ["error INVALID_FIELD"];
    for (data, passes) in [
        (r#"{"agent_id":"1","n":1.50}"#, true),
        (r#"{"agent_id":1}"#, true),
        (r#"{"\u0061gent_id":"\u0031"}"#, true),
        (r#"{"agent_id":"2"}"#, false),
        (r#"{"agent_id":2}"#, false),
        (r#"{"agent_id":1.0}"#, false),
        (r#"{"agent_id":"1 "}"#, false),
        (r#"{"agent_id":""}"#, false),
        (r#"{"agent_id":null}"#, false),
        (r#"{"agent_id":["1"]}"#, false),
        (r#"{"agent_id":{"agent_id":"1"}}"#, false),
        (r#"{"agent_id":"1","agent_id":"2"}"#, false),
        (r#"{"agent_id":"2","agent_id":"1"}"#, false),
        (r#"{"agent_id":"1","agent_id":"1"}"#, false),
        (r#"{"agent_id":"2","\u0061gent_id":"1"}"#, false),
        (r#"{"n":1}"#, false),
        (r#"{"data":{"agent_id":"1"}}"#, false),
        // Data that looks like a whole old envelope is a client's data all the same.
        (r#"{"type":"client-run","data":{"agent_id":"1"}}"#, false),
        (r#"{"type":"client-run","agent_id":"1","data":{"agent_id":"2"},"timestamp":"t"}"#, true),
        (r#""{\"agent_id\":\"1\"}""#, false),
        (r#"["1"]"#, false),
        ("1", false),
        ("null", false),
    ] {
        let expected =
            if passes { [format!("trigger agents client-run {data}")] } else { own.map(str::to_owned) };
        assert_eq!(b.text(&format!(r#"{{"type":"run","data":{data}}}"#)), expected, "{data}");
    }
    // Without a member for data, the whole frame is the data.
    assert_eq!(b.text(r#"{"type":"run","agent_id":"2"}"#), own);
    assert!(b.text(r#"{"type":"run","agent_id":"1"}"#)[0].starts_with("trigger"));
    b.machine.text(r#"{"type":"run","data":{}}"#, b.now, &mut b.out);
    let Some(Action::Error(_, frame)) = b.out.pop() else { panic!("{:?}", b.out) };
    assert!(frame.contains(r#""details":{"field":"agent_id","type":"run"}"#), "{frame}");

    let mut b = Bench::open_in(&config, "/user", |_| {});
    b.authenticate();
    assert!(b.text(r#"{"type":"run","data":{"by":{"user":"123"}}}"#)[0].starts_with("trigger"));
    for data in [
        r#"{"by":{"user":"124"}}"#,
        r#"{"by":{"user":"123","user":"124"}}"#,
        r#"{"by":{"user":"123"},"by":{"user":"123"}}"#,
        r#"{"by.user":"123"}"#,
    ] {
        assert_eq!(b.text(&format!(r#"{{"type":"run","data":{data}}}"#)), own, "{data}");
    }
}

#[test]
fn values_chosen_in_band_bind_what_a_client_writes() {
    let config = filtered("[[routes.publish]]\ntypes = [\"*\"]");
    let say = |env: &str| format!(r#"{{"type":"say","data":{{"env":"{env}"}}}}"#);
    let mut b = Bench::open_in(&config, "/chosen", |_| {});
    b.authenticate();
    assert_eq!(b.text(&say("a")), ["error INVALID_FIELD"], "none is chosen yet");
    b.text(r#"{"type":"subscribe","env":"a"}"#);
    b.text(r#"{"type":"subscribe","env":"b"}"#);
    for env in ["a", "b"] {
        assert!(b.text(&say(env))[0].starts_with("trigger"));
    }
    assert_eq!(b.text(&say("c")), ["error INVALID_FIELD"]);
    b.text(r#"{"type":"unsubscribe","env":"a"}"#);
    assert_eq!(b.text(&say("a")), ["error INVALID_FIELD"]);
    // What says which channel a message is for says nothing of the filter.
    let mut b = Bench::open_in(&config, "/room", |_| {});
    b.text(r#"{"type":"subscribe","room":"1","env":"a"}"#);
    b.text(r#"{"type":"subscribe","room":"2","env":"b"}"#);
    for (room, env, passes) in [("1", "a", true), ("1", "b", false), ("2", "b", true), ("2", "a", false)] {
        let seen = b.text(&format!(r#"{{"type":"say","room":"{room}","env":"{env}"}}"#));
        assert_eq!(seen[0].starts_with("trigger"), passes, "{room} {env}");
    }
}

#[test]
fn a_rules_template_and_a_backend_are_judged_by_what_leaves() {
    let rule = |data: &str| format!("[[routes.publish]]\ntypes = [\"*\"]\ndata = '{data}'");
    for (template, data, passes) in [
        (r#"{"agent_id":{user},"d":{data}}"#, r#"{"agent_id":"1"}"#, false),
        (r#"{"agent_id":{data}}"#, r#""1""#, true),
        (r#"{"agent_id":{data}}"#, r#""2""#, false),
        (r#"{"agent_id":{data},"agent_id":{user}}"#, r#""1""#, false),
        ("{data}", r#"{"agent_id":"1"}"#, true),
    ] {
        let route = format!(
            "[[routes]]\nname = \"f\"\ngroup = \"typed-api\"\npath = \"/f/{{id}}\"\nchannel = \"agents\"\n\
             filter = {{ field = \"agent_id\", equals = \"{{id}}\" }}\n{}\n",
            rule(template)
        );
        let mut b = Bench::open_in(&shipped(&route), "/f/1", |_| {});
        b.authenticate();
        let seen = b.text(&format!(r#"{{"type":"run","data":{data}}}"#));
        assert_eq!(seen[0].starts_with("trigger"), passes, "{template} {data}");
    }
    let config =
        filtered("[[routes.publish]]\ntypes = [\"*\"]\npost = \"http://127.0.0.1:1/x\"\nbody = '{data}'");
    let mut b = Bench::open_in(&config, "/f/1", |_| {});
    b.authenticate();
    assert!(b.text(r#"{"type":"run","data":{"agent_id":"2"}}"#)[0].starts_with("post"));
}

#[test]
fn no_client_takes_a_name_of_the_servers() {
    let other = r#"
[dialects.other.in]
type_field = "op"

[dialects.other.out]
event = '{"op":{event},"body":{data}}'
error = '{"op":"oops","why":{code}}'
ping = '{"op":"tick"}'

[[routes]]
name = "o"
path = "/o"
channel = "shared-1"
dialect = "other"
"#;
    let config = |rule: &str| {
        shipped(&format!(
            "{other}\n[[routes]]\nname = \"t\"\ndialect = \"typed\"\npath = \"/t/{{n}}\"\n\
             channel = \"shared-{{n}}\"\nshares = [\"o\"]\n[[routes.publish]]\ntypes = [\"*\"]\n{rule}\n"
        ))
    };
    let not_published = ["error MESSAGE_TYPE_NOT_PUBLISHED"];
    let as_sent = config("relay = \"as_sent\"");
    let open = |config: &Config| {
        let mut b = Bench::open_in(config, "/t/1", |_| {});
        b.seen();
        b
    };
    let mut b = open(&as_sent);
    for name in ["auth_error", "auth_response", "error", "ping", r"e\u0072ror", "oops", "tick"] {
        assert_eq!(b.text(&format!(r#"{{"type":"{name}","data":1}}"#)), not_published, "{name}");
    }
    for name in ["run", "Error", "error ", "client-error"] {
        assert!(b.text(&format!(r#"{{"type":"{name}","data":1}}"#))[0].starts_with("trigger"), "{name}");
    }
    // As it is published, nobody can take it for the server's; but a name without the prefix may be made to.
    let mut b = open(&config(""));
    assert_eq!(b.text(r#"{"type":"error","data":1}"#), ["trigger shared-1 client-error 1"]);
    let mut b = open(&config("event = \"auth_{type}\""));
    assert_eq!(b.text(r#"{"type":"error","data":1}"#), not_published);
    assert_eq!(b.text(r#"{"type":"x","data":1}"#), ["trigger shared-1 auth_x 1"]);
    // What comes from elsewhere keeps the name that it was published by.
    let route = as_sent.routes.last().unwrap();
    for (event, shown) in [
        ("client-run", "run"),
        ("client-error", "client-error"),
        ("client-ping", "client-ping"),
        ("client-oops", "oops"),
        ("run", "run"),
    ] {
        assert_eq!(publish::relayed_name(route, event), shown);
    }
}

#[test]
fn events_of_clients_are_known_by_the_rules_of_all_routes() {
    let config = shipped(
        r#"
[[routes]]
name = "t"
dialect = "typed"
path = "/t/{n}"
channel = "shared-{n}"
[[routes.publish]]
types = ["go", "stop"]
event = "{type}-{n}"
[[routes.publish]]
types = ["*"]
event = "by-{type}"
"#,
    );
    let events = publish::ClientEvents::of(config.routes.iter().map(AsRef::as_ref));
    for (channel, name, by_client) in [
        ("shared-1", "go-1", true),
        ("shared-1", "by-anything", true),
        ("shared-1", "halt-1", false),
        ("shared-1", "progress_update", false),
        ("elsewhere", "go-1", false),
        ("elsewhere", "client-go", true),
        ("elsewhere", "client", false),
    ] {
        assert_eq!(events.has(channel, name), by_client, "{channel} {name}");
    }
}

#[test]
fn what_is_for_another_channel_has_that_channels_rules() {
    let config = shipped(
        r#"
[[routes]]
name = "asked"
dialect = "typed"
path = "/w/{id:[0-9]+}/{other}"
channel = "room-{subscribe.room}"
filter = { field = "env", equals = "{other}" }
[[routes.publish]]
types = ["ask"]
channel = "private-asked-{id}-{subscribe.room}"
event = "{type}-{id}"
[[routes.publish]]
types = ["oops"]
channel = "plain-{other}"
event = "{type}"
[[routes.publish]]
types = ["quiet"]
via = "drop"

[dialects.plain.in]
subscribe = { type = "subscribe" }
[dialects.plain.out]
event = '{"type":{event},"data":{data}}'
error = '{"type":"oops","why":{code}}'

[[routes]]
name = "plain"
dialect = "plain"
path = "/plain/{x}"
channel = "plain-{x}"
"#,
    );
    let mut b = Bench::open_in(&config, "/w/1/a", |_| {});
    let ask = |room: &str| format!(r#"{{"type":"ask","room":"{room}"}}"#);
    assert_eq!(b.text(&ask("r")), ["error MESSAGE_TYPE_NOT_PUBLISHED"], "not subscribed with it");
    b.text(r#"{"type":"subscribe","room":"r"}"#);
    let sent = b.text(&ask("r"));
    assert_eq!(sent, [format!("trigger private-asked-1-r ask-1 {}", ask("r"))], "without the filter's value");
    assert_eq!(b.text(&ask("s")), ["error MESSAGE_TYPE_NOT_PUBLISHED"]);
    // A name of the server's in a dialect that is read there, and not here.
    assert_eq!(b.text(r#"{"type":"oops","room":"r"}"#), ["error MESSAGE_TYPE_NOT_PUBLISHED"]);
    assert_eq!(b.text(r#"{"type":"quiet"}"#), ["drop"]);
    let events = publish::ClientEvents::of(config.routes.iter().map(AsRef::as_ref));
    for (channel, name, by_client) in
        [("private-asked-1-r", "ask-1", true), ("room-r", "ask-1", false), ("plain-a", "oops", true)]
    {
        assert_eq!(events.has(channel, name), by_client, "{channel} {name}");
    }
    // A value of the path that no channel may have.
    let mut b = Bench::open_in(&config, "/w/1/a%2Fb", |_| {});
    b.text(r#"{"type":"subscribe","room":"r"}"#);
    let plain = r#"{"type":"oops","room":"r"}"#;
    assert!(b.text(plain)[0].starts_with("error"), "{plain}");
}
