//! The configuration is changed while clients are connected: by a signal, by the admin address, by the file itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use pusher_bridge::config::Config;
use pusher_bridge::sandbox::{Options, Sandbox, SandboxHandle, View};
use serde_json::{Value, json};

use crate::admin::get;
use crate::generations::jwks;
use crate::support::bridge::{SHIPPED, config};
use crate::support::process::Program;
use crate::support::raw::Raw;
use crate::support::{Bridge, OldClient, patiently};

/// Between two looks at what changes by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A route of this name, whose clients' messages are published.
pub fn route(name: &str, more: &str) -> String {
    format!(
        r#"
[[routes]]
name = "{name}"
path = "/{name}/{{room}}"
channel = "private-{name}-{{room}}"
dialect = "typed"
{more}
[[routes.publish]]
types = ["*"]
"#
    )
}

pub fn next(bridge: &Bridge, routes: &str) -> Config {
    let config = config(routes, &bridge.app().environment());
    Config { server: bridge.running.config().server.clone(), ..config }
}

pub async fn in_service(bridge: &Bridge, path: &str, route: &str, count: f64) -> OldClient {
    let client = bridge.connect(path).await;
    bridge.becomes(&format!(r#"pusher_bridge_connections{{route="{route}",phase="live"}}"#), count).await;
    client
}

/// Waits until so many messages of clients are published.
async fn until_said(bridge: &Bridge, count: usize) {
    let said = |view: &View<'_>| {
        view.published().filter(|published| published.event == "client-say").count() == count
    };
    patiently("the message", bridge.sandbox.wait_for(said)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_connected_takes_limits_rules_and_frames_over() {
    let first = SHIPPED.to_owned() + &route("a", "limits.messages = \"unlimited\"") + &route("b", "");
    let bridge = Bridge::with(&first, |config| config.server.workers = 2).await;
    let mut client = in_service(&bridge, "/a/1", "a", 1.0).await;
    let mut other = in_service(&bridge, "/b/1", "b", 1.0).await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 2.0).await;

    let rules = "limits.messages = { count = 1, per = \"1h\", burst = 2 }\nlimits.message_bytes = 1024\n\
                 limits.depth = 3\n[[routes.events]]\nmatch = \"news\"\nas = \"olds\"\n";
    bridge.reload(next(&bridge, &(SHIPPED.to_owned() + &route("a", rules) + &route("b", "")))).await;
    bridge.sandbox.trigger("private-a-1", "news", "1");
    assert_eq!(client.json().await["type"], "olds");
    client.send(r#"{"type":"say","data":[[[[1]]]]}"#).await;
    assert_eq!(client.error_code().await, "MESSAGE_TOO_DEEP");
    client.send(r#"{"type":"say","data":1}"#).await;
    client.send(r#"{"type":"say","data":2}"#).await;
    assert_eq!(client.error_code().await, "RATE_LIMITED");
    until_said(&bridge, 1).await;

    // As it was before.
    bridge.reload(next(&bridge, &first)).await;
    client.send(r#"{"type":"say","data":[[[[3]]]]}"#).await;
    until_said(&bridge, 2).await;
    bridge.sandbox.trigger("private-a-1", "news", "2");
    assert_eq!(client.json().await["type"], "news");
    bridge.sandbox.trigger("private-b-1", "news", "3");
    assert_eq!(other.json().await["data"], 3);
    let subscribed = bridge.sandbox.ever_subscribed();
    for channel in ["private-a-1", "private-b-1"] {
        assert_eq!(subscribed.iter().filter(|name| *name == channel).count(), 1, "{channel} was never left");
    }
    // What is larger than the file allows ends it only while the file says so.
    client.send(&format!(r#"{{"type":"say","data":"{}"}}"#, "x".repeat(2000))).await;
    until_said(&bridge, 3).await;
    bridge.reload(next(&bridge, &(SHIPPED.to_owned() + &route("a", rules) + &route("b", "")))).await;
    client.send(&format!(r#"{{"type":"say","data":"{}"}}"#, "x".repeat(2000))).await;
    assert_eq!(client.closed().await.unwrap().0, 1009);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_they_cannot_take_over_closes_its_own_clients_and_nobody_elses() {
    let routes = |of_a: &str, also: &str| SHIPPED.to_owned() + &route("a", of_a) + &route("b", "") + also;
    let change = |config: &mut Config| {
        config.server.workers = 2;
        config.server.close_window = Duration::from_millis(20);
    };
    let bridge = Bridge::with(&routes("", &route("c", "")), change).await;
    let mut of_a = Vec::new();
    for n in 1..=4 {
        of_a.push(in_service(&bridge, "/a/1", "a", n.into()).await);
    }
    let mut of_b = in_service(&bridge, "/b/1", "b", 1.0).await;
    let mut of_c = in_service(&bridge, "/c/1", "c", 1.0).await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 3.0).await;
    bridge.reload(next(&bridge, &routes("filter = { field = \"f\", equals = \"1\" }", ""))).await;
    for client in of_a.iter_mut().chain([&mut of_c]) {
        assert_eq!(client.closed().await.unwrap(), (1001, "route changed, reconnect".to_owned()));
    }
    bridge.until_closed("a", "route_changed", 4).await;
    bridge.until_closed("c", "route_changed", 1).await;
    let mut filtered = in_service(&bridge, "/a/1", "a", 1.0).await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 2.0).await;
    bridge.sandbox.trigger("private-a-1", "news", r#"{"f":2}"#);
    bridge.sandbox.trigger("private-a-1", "news", r#"{"f":1}"#);
    assert_eq!(filtered.json().await["data"]["f"], 1);
    of_b.send(r#"{"type":"say","data":1}"#).await;
    until_said(&bridge, 1).await;
    assert_eq!(bridge.closes("b", "route_changed"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_connected_counts_under_a_limit_that_comes_later() {
    let with = |limits: &str| SHIPPED.to_owned() + &route("a", limits);
    let bridge = Bridge::with(&with(""), |_| {}).await;
    let _there = [in_service(&bridge, "/a/1", "a", 1.0).await, in_service(&bridge, "/a/1", "a", 2.0).await];
    bridge.reload(next(&bridge, &with("limits.connections_per_address = 2"))).await;
    let refused = OldClient::try_connect(bridge.address(), "/a/1").await.err().unwrap();
    assert!(refused.to_string().contains("429"), "{refused}");
    bridge.reload(next(&bridge, &with("limits.connections_per_address = 3"))).await;
    let _third = in_service(&bridge, "/a/1", "a", 3.0).await;
    assert!(OldClient::try_connect(bridge.address(), "/a/1").await.is_err());
    bridge.reload(next(&bridge, &with(""))).await;
    in_service(&bridge, "/a/1", "a", 4.0).await;
}

/// The program with a file of its own, in a folder of its own.
pub struct Served {
    pub program: Program,
    pub sandbox: SandboxHandle,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub folder: PathBuf,
}

/// An empty folder for the test of this name alone.
pub fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

impl Served {
    pub async fn start(folder: PathBuf, routes: &str) -> Self {
        std::fs::write(folder.join("routes.toml"), routes).unwrap();
        Self::start_in(folder).await
    }

    /// With the `routes.toml` that is there.
    pub async fn start_in(folder: PathBuf) -> Self {
        Self::start_by(folder, &[]).await
    }

    /// The same with more arguments.
    async fn start_by(folder: PathBuf, more: &[&str]) -> Self {
        let sandbox = Sandbox::start(Options::local()).await.unwrap();
        let file = folder.join("routes.toml").display().to_string();
        let arguments = [&["--config", &file][..], more].concat();
        let (program, address, admin) = Program::serve(&sandbox, &arguments).await;
        patiently("it to be ready", async {
            while get(admin, "/readyz").await.status != 200 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await;
        Self { program, sandbox, address, admin, folder }
    }

    pub fn write(&self, routes: &str) {
        // As editors do, and whoever wants nobody to read the half of it.
        let beside = self.folder.join("routes.toml.new");
        std::fs::write(&beside, routes).unwrap();
        std::fs::rename(beside, self.folder.join("routes.toml")).unwrap();
    }

    pub async fn post(&self, path: &str) -> (u16, Value) {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Pusher-Bridge: reload\r\nContent-Length: 0\r\n\r\n"
        );
        let answer = Raw::ask(self.admin, request).await;
        (answer.status, serde_json::from_str(&answer.body).unwrap_or(Value::Null))
    }

    pub async fn ready(&self) -> Value {
        let answer = get(self.admin, "/readyz?format=json").await;
        serde_json::from_str(&answer.body).unwrap()
    }

    pub async fn reloads(&self, result: &str) -> u64 {
        let text = get(self.admin, "/metrics").await.body;
        let series = format!("pusher_bridge_reloads_total{{result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    }

    /// Waits until so many reloads had this result.
    pub async fn until(&self, result: &str, count: u64) {
        patiently(&format!("{count} {result}"), async {
            while self.reloads(result).await != count {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_is_asked_for_told_of_and_tried_first() {
    let first = SHIPPED.to_owned() + &route("a", "") + &route("b", "");
    let folder = folder("reload-asked");
    std::fs::write(folder.join("routes.toml"), &first).unwrap();
    // Only who asks: what is written here is not to be in force before.
    let mut served = Served::start_by(folder, &["--no-watch"]).await;
    let mut of_a = OldClient::connect(served.address, "/a/1").await;
    let mut of_b = OldClient::connect(served.address, "/b/1").await;
    let subscribed =
        |view: &View<'_>| view.subscribed("private-b-1") == 1 && view.subscribed("private-a-1") == 1;
    patiently("the channels", served.sandbox.wait_for(subscribed)).await;
    let before = served.ready().await;
    let sha256 = before["configuration"]["sha256"].as_str().unwrap().to_owned();
    assert_eq!(sha256.len(), 64);
    assert!(
        get(served.admin, "/metrics")
            .await
            .body
            .contains(&format!("pusher_bridge_config_info{{sha256=\"{sha256}\"}} 1\n"))
    );

    // What it would do is told, and not done.
    let window = "[server.shutdown]\nclose_window = \"10ms\"\n\n[server]\n";
    let second = first.replacen("[server]\n", window, 1).replace("path = \"/a/", "path = \"/aa/");
    served.write(&second);
    let (status, told) = served.post("/reload?dry_run=true").await;
    assert_eq!((status, &told["result"], &told["dry_run"]), (200, &json!("applied"), &json!(true)), "{told}");
    let of = |name: &str| {
        told["plan"]["routes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|route| route["route"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!((&of("a")["fate"], &of("a")["closed_clients"]), (&json!("replaced"), &json!(1)));
    assert_eq!((&of("b")["fate"], &of("b")["clients"]), (&json!("unchanged"), &json!(1)));
    assert_eq!(served.ready().await, before);
    served.sandbox.trigger("private-a-1", "still", "1");
    assert_eq!(of_a.json().await["type"], "still");

    // A file with an error changes nothing, and says where it is.
    served.write(&second.replace("name = \"b\"", "nam = \"b\""));
    let (status, told) = served.post("/reload").await;
    assert_eq!((status, &told["result"]), (422, &json!("invalid")), "{told}");
    assert!(told["shown"].as_str().unwrap().contains("^^^"), "{told}");
    let ready = served.ready().await;
    let line = ready["configuration"]["not_reloaded"]["line"].as_u64().unwrap() as usize;
    assert_eq!(second.lines().nth(line - 1), Some("name = \"b\""));
    assert_eq!((&ready["ready"], &ready["configuration"]["sha256"]), (&json!(true), &json!(sha256)));
    let text = get(served.admin, "/readyz").await;
    assert!(
        text.status == 200 && text.body.contains(&format!("routes.toml:{line}: unknown key `nam`")),
        "{}",
        text.body
    );
    served.program.stderr.find("the configuration was not reloaded").await;
    assert!(get(served.admin, "/metrics").await.body.contains("\npusher_bridge_config_current 0\n"));

    // So does what needs a restart.
    served.write(&second.replace("[upstream]\n", "[upstream]\nlinger = \"7s\"\n"));
    let (status, told) = served.post("/reload").await;
    assert_eq!((status, &told["plan"]["needs_restart"]), (409, &json!(["upstream.linger"])), "{told}");
    let line = told["line"].as_u64().unwrap() as usize;
    assert_eq!(served.ready().await["configuration"]["not_reloaded"]["result"], "needs_restart");
    let text = std::fs::read_to_string(served.folder.join("routes.toml")).unwrap();
    assert_eq!(text.lines().nth(line - 1), Some("linger = \"7s\""));

    served.write(&second);
    served.program.signal("HUP");
    served.until("applied", 1).await;
    assert_eq!(of_a.closed().await.unwrap().0, 1001);
    of_a = OldClient::connect(served.address, "/aa/1").await;
    patiently("the channel", served.sandbox.wait_for(subscribed)).await;
    served.sandbox.trigger("private-b-1", "still", "1");
    assert_eq!(of_b.json().await["type"], "still");
    assert_eq!(served.ready().await["configuration"]["not_reloaded"], Value::Null);
    assert!(get(served.admin, "/metrics").await.body.contains("\npusher_bridge_config_current 1\n"));
    let (status, told) = served.post("/reload").await;
    assert_eq!((status, &told["result"]), (200, &json!("unchanged")));
    assert_eq!((served.reloads("invalid").await, served.reloads("needs_restart").await), (1, 1));
    drop(of_a);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_is_not_for_browsers_and_none_begins_while_the_bridge_drains() {
    let served = Served::start(folder("reload-guarded"), SHIPPED).await;
    for (request, status) in [
        ("GET /reload HTTP/1.1\r\nHost: localhost\r\nX-Pusher-Bridge: reload\r\n\r\n", 405),
        ("POST /reload HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
        ("POST /reload HTTP/1.1\r\nHost: localhost\r\nX-Pusher-Bridge: drain\r\n\r\n", 403),
        ("POST /reload HTTP/1.1\r\nHost: evil.example\r\nX-Pusher-Bridge: reload\r\n\r\n", 403),
    ] {
        assert_eq!(Raw::ask(served.admin, request.to_owned()).await.status, status, "{request}");
    }
    let _client = OldClient::connect(served.address, "/ws/plugin/p1").await;
    Raw::ask(
        served.admin,
        "POST /drain HTTP/1.1\r\nHost: localhost\r\nX-Pusher-Bridge: drain\r\n\r\n".to_owned(),
    )
    .await;
    let (status, told) = served.post("/reload").await;
    assert_eq!((status, &told["result"]), (503, &json!("draining")));
    assert_eq!(served.reloads("draining").await, 1);
    served.program.signal("HUP");
    served.until("draining", 2).await;
    served.program.signal("TERM");
    let ended = served.program.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_at_once_each_is_told_what_became_of_it() {
    let served = Served::start(folder("reload-at-once"), SHIPPED).await;
    // The watch sees it, too, and says nothing of what is in force already.
    served.write(&(SHIPPED.to_owned() + &route("a", "")));
    let all = futures_util::future::join_all((0..5).map(|_| served.post("/reload"))).await;
    let results: Vec<_> =
        all.iter().map(|(status, told)| (*status, told["result"].as_str().unwrap())).collect();
    assert!(results.iter().all(|(status, _)| *status == 200), "{results:?}");
    assert!(results.iter().filter(|(_, result)| *result == "applied").count() <= 1, "{results:?}");
    OldClient::connect(served.address, "/a/1").await;
    assert_eq!(served.reloads("applied").await, 1);
    assert_eq!(served.reloads("invalid").await, 0);
}

/// Puts what is in folder `to` in the place of what was there, as Kubernetes does with a ConfigMap or a Secret.
fn swap(folder: &Path, to: &str) {
    std::os::unix::fs::symlink(to, folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configmap_that_is_swapped_is_one_reload_and_one_that_says_the_same_is_none() {
    let folder = folder("reload-configmap");
    let secrets = ["the first secret, as long as it has to be", "another secret, as long as it has to be"];
    let routes = |secret: &str| {
        let of_file = format!("secret_file = \"{secret}\"  # or secret");
        SHIPPED.replacen("secret = \"${JWT_SECRET}\"           # or secret_file", &of_file, 1)
            + &route("a", "")
    };
    for (version, secret) in [("..1", 0), ("..2", 1), ("..3", 1)] {
        std::fs::create_dir(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("routes.toml"), routes("jwt")).unwrap();
        std::fs::write(folder.join(version).join("jwt"), secrets[secret]).unwrap();
    }
    swap(&folder, "..1");
    for name in ["routes.toml", "jwt"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), folder.join(name)).unwrap();
    }
    let served = Served::start_in(folder.clone()).await;
    let token = |secret: &str| {
        let expiry = pusher_bridge::clock::Now::read().unix_seconds() + 3600;
        let claims = json!({ "sub": "123", "plugin_ids": ["p1"], "exp": expiry });
        pusher_bridge::auth::mint_hs256(secret.as_bytes(), &claims.to_string())
    };
    let mut there = OldClient::connect(served.address, "/ws/plugin/p1").await;
    there.auth(&token(secrets[0])).await;
    assert_eq!(there.json().await["type"], "auth_response");

    swap(&folder, "..2");
    std::fs::remove_dir_all(folder.join("..1")).unwrap();
    served.until("applied", 1).await;
    let mut newcomer = OldClient::connect(served.address, "/ws/plugin/p1").await;
    newcomer.auth(&token(secrets[0])).await;
    assert_eq!(newcomer.json().await["type"], "auth_error");
    newcomer.auth(&token(secrets[1])).await;
    assert_eq!(newcomer.json().await["type"], "auth_response");
    served.sandbox.trigger("private-plugin-p1", "news", "1");
    for client in [&mut there, &mut newcomer] {
        assert_eq!(client.json().await["type"], "news", "and nobody is closed");
    }
    // The same once more is no reload: what comes behind it is the second.
    swap(&folder, "..3");
    std::fs::write(folder.join("..3/jwt"), secrets[0]).unwrap();
    served.until("applied", 2).await;
    let mut last = OldClient::connect(served.address, "/ws/plugin/p1").await;
    last.auth(&token(secrets[0])).await;
    assert_eq!(last.json().await["type"], "auth_response");
    for result in ["unchanged", "invalid", "needs_restart"] {
        assert_eq!(served.reloads(result).await, 0, "{result}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_an_error_between_two_good_ones_changes_nothing() {
    let first = SHIPPED.to_owned() + &route("a", "");
    let served = Served::start(folder("reload-watched"), &first).await;
    let mut client = OldClient::connect(served.address, "/a/1").await;
    patiently("the channel", served.sandbox.wait_for(|view| view.subscribed("private-a-1") == 1)).await;
    served.write(&(first.clone() + &route("b", "")));
    served.until("applied", 1).await;
    OldClient::connect(served.address, "/b/1").await;
    served.write(&(first.clone() + &route("b", "") + "[[routes]]\nnam"));
    served.until("invalid", 1).await;
    assert!(served.ready().await["configuration"]["not_reloaded"]["reason"].is_string());
    OldClient::connect(served.address, "/b/1").await;
    std::fs::remove_file(served.folder.join("routes.toml")).unwrap();
    served.until("invalid", 2).await;
    served.write(&(first + &route("c", "")));
    served.until("applied", 2).await;
    assert_eq!(served.ready().await["configuration"]["not_reloaded"], Value::Null);
    assert!(OldClient::try_connect(served.address, "/b/1").await.is_err());
    OldClient::connect(served.address, "/c/1").await;
    served.sandbox.trigger("private-a-1", "news", "1");
    assert_eq!(client.json().await["type"], "news");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_watching_a_reload_has_to_be_asked_for() {
    let folder = folder("reload-unwatched");
    std::fs::write(folder.join("routes.toml"), SHIPPED).unwrap();
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let file = folder.join("routes.toml").display().to_string();
    let (mut program, address, _) = Program::serve(&sandbox, &["--config", &file, "--no-watch"]).await;
    std::fs::write(&file, SHIPPED.to_owned() + &route("a", "")).unwrap();
    program.signal("HUP");
    let line = program.stderr.find("the configuration was reloaded").await;
    assert!(line.contains("\"trigger\":\"signal\""), "{line}");
    OldClient::connect(address, "/a/1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_at_a_url_are_fetched_again_by_who_asks_for_a_reload() {
    let (url, asked) = jwks().await;
    let source = format!("algorithms = [\"RS256\"]\njwks_url = \"{url}\"\nrefresh_min = \"1ms\"\n#");
    let (before, behind) = SHIPPED.split_once("algorithms = [\"HS256\"]").unwrap();
    let (_, behind) = behind.split_once("secret = \"${JWT_SECRET}\"").unwrap();
    let served = Served::start(folder("reload-jwks"), &format!("{before}{source}{behind}")).await;
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(served.post("/reload?dry_run=true").await.0, 200);
    assert_eq!(served.post("/reload").await.0, 200);
    patiently("another request", async {
        while asked.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    })
    .await;
    assert_eq!(asked.load(Ordering::SeqCst), 2, "the dry run asked for nothing");
}
