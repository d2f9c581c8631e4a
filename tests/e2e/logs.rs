//! What the log says, and that whatever reads it understands it.

use std::collections::BTreeSet;

use pusher_bridge::sandbox::{Options, Sandbox};

use crate::support::backend::Backend;
use crate::support::bridge::{SHIPPED, token};
use crate::support::patiently;
use crate::support::process::{Program, file, log_line};
use crate::support::pusher::Pusher as _;
use crate::support::raw::{Raw, TEXT, auth, frame, request};

/// Every kind of line that clients and Pusher can cause, and those of the program's own life.
const KINDS: &[&str] = &[
    "Pusher refused a subscription",
    "Pusher reports an error",
    "a backend refused a message",
    "a client still uses an endpoint past its sunset",
    "a frame from Pusher makes no sense",
    "a request could not be read",
    "auth",
    "closed",
    "connected to Pusher",
    "no slot",
    "not connected to Pusher",
    "publishing was refused",
    "refused",
    "serving",
    "SIGTERM: draining",
    "stopped",
    "the configuration is as it was",
];

/// A parser keeps the first of two equal keys, or the last, or refuses the line.
#[tokio::test(flavor = "multi_thread")]
async fn no_line_of_any_kind_has_a_key_twice() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let backend = Backend::start().await;
    let at_once = "[server.shutdown]\nclose_window = \"0s\"\n\n[upstream]";
    let routes = SHIPPED.replacen("[upstream]", at_once, 1).replacen(
        "on_conflict = \"probe\"",
        "on_conflict = \"refuse\"",
        1,
    );
    let file = file("log-kinds.toml", &routes);
    let mut env = sandbox.app().environment();
    env.insert("BACKEND_URL".to_owned(), backend.url());
    let args = ["serve", "--config", &file, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let args = [&args[..], &["--log-format", "json", "--log", "debug"]].concat();
    let mut program = Program::start(&args, &env);
    let (address, _) = program.serves().await;
    program.stderr.find("\"connected to Pusher\"").await;

    // Requests.
    let no_upgrade = request("GET /ws/content/a HTTP/1.1", &[("Upgrade", "")]);
    assert_eq!(Raw::ask(address, no_upgrade).await.status, 426);
    assert_eq!(Raw::ask(address, "no request\r\n\r\n").await.status, 400);
    let token = token("123");
    let login = async |path: &str| Raw::login(address, path, &token).await;
    let holder = login("/ws/content/a").await;
    let mut second = Raw::open(address, "/ws/content/a").await;
    second.send(auth(&token)).await;
    assert_eq!(second.frame().await.json()["data"]["error_code"], "SESSION_IN_USE");
    drop((holder, second));

    // Messages.
    sandbox.fail_publishes(2, 400, None);
    backend.answer_next([400]);
    let mut publisher = login("/ws/plugin/p1").await;
    publisher.send(frame(TEXT, br#"{"type":"run","data":1}"#)).await;
    program.stderr.find("publishing was refused").await;
    let mut command = login("/ws/command/a").await;
    command.send(frame(TEXT, br#"{"type":"input","data":1}"#)).await;
    program.stderr.find("a backend refused a message").await;

    // Pusher.
    for text in [
        "not JSON",
        r#"{"event":"pusher:error","data":{"code":4301,"message":"what?"}}"#,
        r#"{"event":"pusher:subscription_error","channel":"private-plugin-p1","data":{"error":"no"}}"#,
        r#"{"event":"pusher:error","data":{"code":4200,"message":"restart"}}"#,
    ] {
        sandbox.raw_frame_to_all(text);
    }
    program.stderr.find("\"not connected to Pusher\"").await;

    // The end.
    drop((publisher, command));
    program.signal("HUP");
    program.stderr.find("the configuration is as it was").await;
    program.signal("TERM");
    let ended = patiently("the end", program.ended()).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().map(log_line).collect();
    let kinds: BTreeSet<&str> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    for kind in KINDS {
        assert!(kinds.contains(kind), "no line `{kind}` in {kinds:#?}");
    }
    let why = |message: &str| &lines.iter().find(|line| line["message"] == message).unwrap()["why"];
    assert_eq!(why("Pusher reports an error"), "what?");
    assert_eq!(why("Pusher refused a subscription"), "no");
}
