//! `simulate`: the program's many clients against a bridge.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::bridge::SHIPPED;
use crate::support::process::{BINARY, Ended, Program, file, run};
use crate::support::tls::{Authority, serve};
use crate::support::{Bridge, patiently};

/// Authenticates as a user of its own.
const LOGIN: &str = r#"
[token]
secret = "${JWT_SECRET}"
claims = '{"sub":"user-{n}","plugin_ids":["p1"]}'
[[steps]]
send = '{"type":"auth","token":"Bearer {token}"}'
[[steps]]
wait = '{"type":"auth_response","data":{"authenticated":true}}'
"#;

fn env(bridge: &Bridge) -> HashMap<String, String> {
    bridge.app().environment()
}

/// The summary, as JSON.
fn summary(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

fn url(bridge: &Bridge, path: &str) -> String {
    format!("ws://{}{path}", bridge.address())
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let looking = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    patiently(what, looking).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_go_through_their_script_and_are_counted() {
    let bridge = Bridge::start().await;
    let mut watching = bridge.app().native("private-plugin-p1").await;
    let more = r#"
[[steps]]
send = '{"type":"here","data":{}}'
[[steps]]
wait = '{"type":"go"}'
[[steps]]
send = '{"type":"run","data":{"speed":1.50,"mark":"{mark}"}}'
[[steps]]
wait = '{"type":"client-run","data":{"speed":1.5}}'
[[steps]]
close = 1000
"#;
    let script = file("simulate-marks.toml", &format!("{LOGIN}{more}"));
    let url = url(&bridge, "/ws/plugin/p1");
    let args =
        ["simulate", &url, "--clients", "2", "--script", &script, "--format", "json", "--threads", "2"];
    let program = Program::start(&args, &env(&bridge));
    // Each has been confirmed: both get what comes now.
    for _ in 0..2 {
        assert_eq!(watching.event().await.0, "client-here");
    }
    bridge.app().trigger("private-plugin-p1", "go", "{}").await;
    let ended = patiently("its end", program.ended()).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let summary = summary(&ended);
    for (key, value) in [("sent", 6), ("lost", 0), ("twice", 0), ("failures", 0), ("left", 2)] {
        assert_eq!(summary[key], value, "{key}: {summary:#}");
    }
    assert_eq!(summary["connected"]["count"], 2);
    assert_eq!(summary["delays"]["count"], 2);
    assert_eq!(summary["waits"]["6"]["count"], 2, "{summary:#}");
    assert!(summary["received"].as_u64().unwrap() >= 6, "{summary:#}");
    assert!(summary["delays"]["p99_ms"].as_f64().unwrap() > 0.0);
    assert_eq!((&summary["closed"], &summary["refused"]), (&json!({}), &json!({})));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_told_and_is_exit_code_1_unless_it_may() {
    let bridge = Bridge::start().await;
    let env = env(&bridge);
    let pause = file("simulate-pause.toml", "[[steps]]\npause = \"1ms\"\n");
    let nowhere = url(&bridge, "/nowhere/{n}");
    let args = ["simulate", &nowhere, "--clients", "3", "--script", &pause];
    let ended = run(&args, &env).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stdout.contains("refused      3 with HTTP 404\n"), "{ended:?}");
    assert!(ended.stderr.contains("3 failures, of at most 0"), "{ended:?}");
    let ended = run(&[&args[..], &["--allow-failures", "3"]].concat(), &env).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");

    // Nobody is there, however often it is tried.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = format!("ws://{}/", taken.local_addr().unwrap());
    drop(taken);
    let again = file(
        "simulate-again.toml",
        "reconnect = { first = \"1ms\", times = 2 }\n[[steps]]\npause = \"1ms\"\n",
    );
    let ended =
        run(&["simulate", &gone, "--clients", "1", "--script", &again, "--format", "json"], &env).await;
    let reasons = summary(&ended)["unreachable"].as_object().unwrap().clone();
    assert!(ended.code == Some(1) && reasons.values().map(|count| count.as_u64().unwrap()).sum::<u64>() == 3);

    // A wrong token leaves the connection open: what is waited for does not come.
    let wrong = LOGIN.replace("${JWT_SECRET}", "another secret, as long as it has to be");
    let wrong = file("simulate-wrong.toml", &(wrong + "within = \"300ms\"\n"));
    let plugin = url(&bridge, "/ws/plugin/p1");
    let ended = run(&["simulate", &plugin, "--clients", "2", "--script", &wrong], &env).await;
    assert!(
        ended.code == Some(1) && ended.stdout.contains("step 2       waited 2 times in vain\n"),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn closes_are_counted_by_code_and_clients_come_again() {
    let bridge = Bridge::start().await;
    let script = format!("reconnect = {{ first = \"1ms\", max = \"5ms\", times = 1 }}\n{LOGIN}");
    let script = file("simulate-closed.toml", &script);
    let url = url(&bridge, "/ws/plugin/p1");
    let args =
        ["simulate", &url, "--clients", "4", "--script", &script, "--duration", "1m", "--format", "json"];
    let program = Program::start(&args, &env(&bridge));
    until("all of them", || {
        bridge.metric(r#"pusher_bridge_auth_total{route="plugin",result="accepted"}"#) >= 4.0
    })
    .await;
    bridge.shutdown().await;
    let ended = patiently("its end", program.ended()).await;
    let summary = summary(&ended);
    assert_eq!(summary["closed"], json!({"1001": 4}), "{summary:#}");
    // They came again, once each, to nobody.
    assert_eq!((ended.code, &summary["failures"]), (Some(1), &json!(4)), "{summary:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_begins_anew_as_often_as_it_says() {
    let bridge = Bridge::start().await;
    let script = file("simulate-anew.toml", &format!("{LOGIN}[[steps]]\nclose = 1000\nagain = \"1ms\"\n"));
    let url = url(&bridge, "/ws/plugin/p1");
    let args =
        ["simulate", &url, "--clients", "2", "--script", &script, "--duration", "1m", "--format", "json"];
    let program = Program::start(&args, &env(&bridge));
    until("coming and going", || {
        bridge.metric(r#"pusher_bridge_auth_total{route="plugin",result="accepted"}"#) >= 10.0
    })
    .await;
    program.signal("INT");
    let ended = patiently("its end", program.ended()).await;
    let summary = summary(&ended);
    assert_eq!((ended.code, &summary["failures"]), (Some(0), &json!(0)), "{summary:#}");
    assert!(summary["connected_again"].as_u64().unwrap() >= 7, "{summary:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_speak_tls_and_have_fields_of_their_own() {
    let authority = Authority::new();
    let routes = SHIPPED.replace(
        "path = \"/ws/plugin/{plugin_id}\"",
        "path = \"/ws/plugin/{plugin_id}\"\norigins = [\"https://a.example\"]",
    );
    let bridge = Bridge::with(&routes, |config| serve(config, &authority.sign("a.example"), None)).await;
    let ca = file("simulate-ca.pem", &authority.pem());
    let script = file("simulate-tls.toml", LOGIN);
    let url = format!("wss://{}/ws/plugin/p1", bridge.address());
    let args = ["simulate", &url, "--clients", "3", "--script", &script, "--format", "json"];
    for (more, code, connected) in [
        (&["--ca-file", &ca, "--origin", "https://a.example"][..], 0, 3),
        (&["--ca-file", &ca, "--header", "Origin: https://b.example"], 1, 0),
        (&["--origin", "https://a.example"], 1, 0),
    ] {
        let ended = run(&[&args[..], more].concat(), &env(&bridge)).await;
        let summary = summary(&ended);
        assert_eq!(
            (ended.code, &summary["connected"]["count"]),
            (Some(code), &json!(connected)),
            "{summary:#}"
        );
        assert_eq!(summary["sent"], connected, "{summary:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_or_should_not_be_is_refused_before_anything_is_connected() {
    let none = HashMap::new();
    let pause = file("simulate-usage.toml", "[[steps]]\npause = \"1ms\"\n");
    let every = file("simulate-every.toml", "[[steps]]\nsend = \"x\"\nevery = \"1s\"\n");
    let wrong = file("simulate-bad.toml", "[[steps]]\nsned = \"x\"\n");
    let local = "ws://127.0.0.1:1/";
    for (url, script, more, code, told) in [
        ("ws://192.0.2.1/", &pause, &[][..], 2, "--this-server-is-mine"),
        ("http://127.0.0.1/", &pause, &[], 2, "ws:// or wss://"),
        ("ws://127.0.0.1:1/{m}", &pause, &[], 2, "there is no placeholder {m} here"),
        (local, &every, &[], 2, "`--duration` says how long"),
        (local, &pause, &["--duration", "soon"], 2, "`--duration` is a whole number"),
        (local, &pause, &["--header", "a b: c"], 2, "is not a header field"),
        (local, &pause, &["--header", "a: b\r\nc: d"], 2, "is not a header field"),
        (local, &wrong, &[], 78, "did you mean `send`?"),
        (local, &"/nowhere/x.toml".to_owned(), &[], 78, "cannot read /nowhere/x.toml"),
    ] {
        let args = [&["simulate", url, "--clients", "1", "--script", script.as_str()], more].concat();
        let ended = run(&args, &none).await;
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(told) && ended.stdout.is_empty(), "{args:?}: {ended:?}");
    }
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args([
        "-c",
        r#"ulimit -n 200; exec "$0" "$@""#,
        BINARY,
        "simulate",
        local,
        "--clients",
        "500",
        "--script",
    ]);
    let shell = shell.arg(&pause).output().unwrap();
    let told = String::from_utf8_lossy(&shell.stderr);
    assert_eq!(shell.status.code(), Some(1));
    assert!(told.contains("500 clients need 564 open files, and no more than 200 are allowed"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_a_script_for_each_shipped_route_and_it_works() {
    let key = "YS1tYXN0ZXIta2V5LW9mLXRoaXJ0eS10d28tYnl0ZXM=";
    let bridge = Bridge::with_env(SHIPPED, &[("PUSHER_ENCRYPTION_MASTER_KEY", key)], |_| {}).await;
    let env = env(&bridge);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/simulate");
    let scripts: BTreeSet<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".toml").to_owned())
        .collect();
    let routes = SHIPPED.split("[[routes]]\nname = \"").skip(1).map(|rest| rest.split('"').next().unwrap());
    assert_eq!(scripts.iter().map(String::as_str).collect::<BTreeSet<_>>(), routes.collect());
    let url = url(&bridge, "/");
    // What goes on and on is done once, or a slow machine would be late.
    let once = |text: String| {
        let lines =
            text.lines().filter(|line| !line.starts_with("every = ") && !line.starts_with("again = "));
        lines.collect::<Vec<_>>().join("\n").replace("pause = \"1m\"", "pause = \"1ms\"")
    };
    let one = async |script: &String| {
        let whole = folder.join(script).with_extension("toml").display().to_string();
        let part = file(&format!("simulate-{script}.toml"), &once(std::fs::read_to_string(&whole).unwrap()));
        let args = ["simulate", &url, "--clients", "3", "--format", "json", "--script"];
        // As it is, it is right, too.
        let played = run(&[&args[..], &[&whole, "--duration", "1ms"]].concat(), &env).await;
        assert!(played.stdout.starts_with('{'), "{script}: {played:?}");
        (script.clone(), run(&[&args[..], &[&part]].concat(), &env).await)
    };
    for (script, ended) in futures_util::future::join_all(scripts.iter().map(one)).await {
        let summary = summary(&ended);
        assert_eq!(
            (ended.code, &summary["connected"]["count"]),
            (Some(0), &json!(3)),
            "{script}: {summary:#}"
        );
        assert_eq!((&summary["closed"], &summary["cut"]), (&json!({}), &json!(0)), "{script}: {summary:#}");
        let waits = summary["waits"].as_object().unwrap();
        assert!(waits.values().all(|wait| wait["count"] == 3), "{script}: {summary:#}");
    }
}
