//! `demo`: the main job with nothing else installed. The bridge with the shipped routes, the sandbox as its
//! Pusher, a publisher of progress events, a backend for command input, and a fresh token.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::{DemoArgs, Failure, block_on, complete, load, load_text, logging, print};
use crate::app;
use crate::auth::mint_hs256;
use crate::clock::Now;
use crate::config::diagnostics::Source;
use crate::http::server::{self, Answer, Limits, Progress};
use crate::sandbox::{Options, Sandbox, SandboxHandle, View};
use crate::text::printable;

/// The routes that come with the program.
const SHIPPED: &str = include_str!("../../routes.toml");
/// Between two steps of the publisher.
const STEP: Duration = Duration::from_secs(2);
/// How long the demo's token is valid.
const TOKEN_SECONDS: i64 = 24 * 3600;
/// Largest body the demo's backend reads.
const BODY_BYTES_MAX: usize = 64 * 1024;

pub(super) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let log = logging::init(&args.log)?;
    block_on(async {
        let secret: String = std::iter::repeat_with(fastrand::alphanumeric).take(32).collect();
        let options = Options { key: "demo-key".into(), secret: secret.clone().into(), ..Options::local() };
        let sandbox = Arc::new(Sandbox::start(options).await.map_err(Failure::runtime)?);
        let backend = backend(sandbox.clone()).await.map_err(Failure::runtime)?;
        let master_key = STANDARD.encode([(); 32].map(|()| fastrand::u8(..)));
        let env = |name: &str| match name {
            "PUSHER_ENCRYPTION_MASTER_KEY" => Some(master_key.clone()),
            name => demo_env(name, &sandbox, backend, &secret),
        };
        let (loaded, file) = match &args.config {
            Some(path) => (load(path, &env)?, path.display().to_string()),
            None => {
                let source = Source { name: "routes.toml (shipped)".into(), text: SHIPPED.into() };
                (load_text(&source, &env)?, source.name)
            }
        };
        let mut config = complete(loaded, &file)?;
        config.server.listen = args.listen;
        config.admin.listen = args.admin;
        let running = app::start(config).await.map_err(Failure::runtime)?;
        running.metrics.watch_log(log.counts());
        running.status.wait_ready().await;
        print(&invitation(running.address, running.admin_address, &token(&secret)))?;
        tokio::select! {
            result = publish(&sandbox) => result?,
            result = show_messages(&sandbox) => result?,
            _ = tokio::signal::ctrl_c() => {}
        }
        print("\nstopping\n")?;
        tokio::select! {
            _ = running.shutdown() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        Ok(())
    })
}

fn demo_env(name: &str, sandbox: &SandboxHandle, backend: SocketAddr, jwt: &str) -> Option<String> {
    let options = sandbox.options();
    Some(match name {
        "PUSHER_APP_ID" => options.app_id.clone(),
        "PUSHER_KEY" => options.key.clone(),
        "PUSHER_SECRET" => options.secret.expose_secret().to_owned(),
        "PUSHER_HOST" => sandbox.addr().ip().to_string(),
        "PUSHER_PORT" => sandbox.addr().port().to_string(),
        "PUSHER_TLS" => "false".to_owned(),
        "JWT_SECRET" => jwt.to_owned(),
        "BACKEND_URL" => format!("http://{backend}"),
        // Everything is on this machine.
        other if other.to_ascii_uppercase().ends_with("_PROXY") => return None,
        other => return std::env::var(other).ok(),
    })
}

/// A teacher's token, good for every route of the shipped file.
fn token(secret: &str) -> String {
    let claims = serde_json::json!({
        "sub": "123",
        "name": "Ada",
        "email": "ada@example.com",
        "role": "teacher",
        "permissions": ["content:generate", "roblox:read", "command:run"],
        "plugin_ids": ["demo"],
        "exp": Now::read().unix_seconds() + TOKEN_SECONDS,
    });
    mint_hs256(secret.as_bytes(), &claims.to_string())
}

fn invitation(address: SocketAddr, admin: SocketAddr, token: &str) -> String {
    format!(
        "
The bridge serves old clients on ws://{address}; its Pusher is in this process.
Metrics and probes: http://{admin}/metrics, /healthz, /readyz

Paste into a second terminal, to be an old client:

  TOKEN={token}
  cargo run -q --release -- connect ws://{address}/ws/content/demo --token $TOKEN

or, with another path:
  /ws/roblox --token $TOKEN        and type  {{\"type\":\"subscribe\",\"environment_id\":\"env_456\"}}
  /ws/agent/agent_7 --token $TOKEN
  /ws/agent-session/demo --token $TOKEN
  /ws/state/demo --token $TOKEN    its last event comes first
  /ws/feed --token $TOKEN
  /ws/room/demo --token $TOKEN     who is there, comes and goes
  /ws/secure/demo --token $TOKEN   twice, and type  {{\"type\":\"say\",\"data\":\"hello\"}}  (Pusher sees it encrypted)
  /ws/plugin/demo --token $TOKEN   and type  {{\"type\":\"run\",\"data\":{{\"speed\":1.50}}}}
  /ws/command/demo --token $TOKEN  and type  {{\"type\":\"input\",\"data\":\"ls\"}}
  /ws                              and type  {{\"type\":\"subscribe\",\"channel\":\"files\"}}
  /ws/native                       and type  anything

What the backend and its clients publish from now on (Ctrl-C ends):

"
    )
}

/// What a backend would publish: one content session after another, an environment, two agents.
async fn publish(sandbox: &SandboxHandle) -> Result<(), Failure> {
    let stages = ["outline", "script", "assets", "review"];
    for turn in 0_usize.. {
        let step = turn % (stages.len() + 1);
        let percent = step * 25;
        let (event, data) = match stages.get(step) {
            Some(stage) => (
                "progress_update",
                format!(
                    r#"{{"session_id":"demo","stage":"{stage}","progress_percent":{percent}.0,"message":"Working on the {stage}","estimated_completion":"{}"}}"#,
                    Now::read().plus(STEP * 4).rfc3339()
                ),
            ),
            None => (
                "generation_complete",
                r#"{"session_id":"demo","content_id":"content_789","download_url":"https://example.com/content_789","summary":{"lessons":3}}"#.to_owned(),
            ),
        };
        trigger(sandbox, "content-generation-demo", event, &data)?;
        trigger(
            sandbox,
            "roblox-sync",
            "environment_status",
            &format!(
                r#"{{"environment_id":"env_456","status":"building","progress":{percent},"components":{{"terrain":"done"}}}}"#
            ),
        )?;
        trigger(
            sandbox,
            "files",
            "change",
            &format!(r#"{{"file":"src/main.ts","event":"change","timestamp":"{}"}}"#, Now::read().rfc3339()),
        )?;
        let agent = if turn % 2 == 0 { "agent_7" } else { "agent_8" };
        trigger(
            sandbox,
            "agent-status",
            "agent_status",
            &format!(
                r#"{{"agent_id":"{agent}","status":"busy","current_task":"task_{turn}","queue_length":{step},"last_activity":"{}"}}"#,
                Now::read().rfc3339()
            ),
        )?;
        let session = format!(r#"{{"session_id":"demo","task":"task_{turn}"}}"#);
        trigger(sandbox, "agent-demo", "task_started", &session)?;
        // Seldom, so that who comes has something from before.
        if turn.is_multiple_of(30) {
            trigger(sandbox, "private-cache-state-demo", "state", &format!(r#"{{"version":{turn}}}"#))?;
        }
        trigger(sandbox, "user-123", "mail", &format!(r#"{{"unread":{step}}}"#))?;
        tokio::time::sleep(STEP).await;
    }
    Ok(())
}

/// Prints what clients send and the bridge publishes.
async fn show_messages(sandbox: &SandboxHandle) -> Result<(), Failure> {
    let from_clients = |view: &View<'_>| view.published().filter(|p| p.event.starts_with("client-")).count();
    let mut shown = 0;
    loop {
        sandbox.wait_for(|view| from_clients(view) != shown).await;
        let published = sandbox.published();
        let messages: Vec<_> = published.iter().filter(|p| p.event.starts_with("client-")).collect();
        for message in messages.iter().skip(shown) {
            print(&format!("{}  {}  {}\n", message.channel, message.event, printable(&message.data)))?;
        }
        shown = messages.len();
    }
}

fn trigger(sandbox: &SandboxHandle, channel: &str, event: &str, data: &str) -> Result<(), Failure> {
    sandbox.trigger(channel, event, data);
    print(&format!("{channel}  {event}  {data}\n"))
}

/// The backend of the command route: what is typed comes back as output.
async fn backend(sandbox: Arc<SandboxHandle>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sandbox = sandbox.clone();
            let service = move |request: Request<Incoming>| {
                let sandbox = sandbox.clone();
                async move { Ok::<_, Infallible>(input(request, &sandbox).await) }
            };
            tokio::spawn(async move {
                let limits = Limits::default();
                let progress = Progress::new(Instant::now() + limits.head_timeout, &limits);
                server::serve(stream.into(), &progress, &limits, service, server::explain).await;
            });
        }
    });
    Ok(address)
}

async fn input(request: Request<Incoming>, sandbox: &SandboxHandle) -> Answer {
    let session = request
        .uri()
        .path()
        .strip_prefix("/commands/")
        .and_then(|rest| rest.strip_suffix("/input"))
        .map(str::to_owned);
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
    let typed = body.ok().and_then(|body| {
        let value: serde_json::Value = serde_json::from_slice(&body.to_bytes()).ok()?;
        Some(value.get("input")?.as_str()?.to_owned())
    });
    let mut response = Answer::new(server::full(""));
    match (session, typed) {
        (Some(session), Some(typed)) => {
            let data = serde_json::json!({ "type": "stdout", "data": format!("$ {typed}\n") });
            let _ = print(&format!("backend: input for {} : {}\n", printable(&session), printable(&typed)));
            sandbox.trigger(&format!("private-command-{session}"), "output", &data.to_string());
        }
        _ => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}
