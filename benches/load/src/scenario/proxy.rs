//! What no route takes is passed on to the old API.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Context, SETTLE, TIMEOUT};
use crate::asker::{Answer, Askers};
use crate::contender::{Contender, Setup, Stage};
use crate::old_api::OldApi;
use crate::procfs::{self, Reading};
use crate::report::Measure;
use crate::stub::Stub;
use crate::{Result, script, ws};

const SMALL_BYTES: usize = 1 << 10;
const LARGE_BYTES: usize = 1 << 20;
/// Connections of what is asked, and of what is echoed. Many pass on more at once than there are kept connections.
const CONNECTIONS: u32 = 30;
/// What is passed on as bytes, and what a route has with `mode = "tunnel"`.
const UNROUTED: &str = "/live";
const ROUTED: &str = "/ws/live";
/// Bytes of an echoed message.
const ECHO_BYTES: usize = 300;
/// The warm-up is a tenth of what is measured.
const WARM_UP: u32 = 10;

pub(super) fn run(context: &Context<'_>, contender: Contender) -> Result<Vec<Measure>> {
    let args = context.args;
    let old_api = OldApi::start()?;
    // Nothing is relayed, so that no more of Pusher is needed than that it is there.
    let pusher = Stub::start(Duration::ZERO)?;
    let setup = Setup {
        args,
        logs: context.logs,
        routes: &args.proxy_routes,
        upstream: Some(pusher.address()),
        old_api: Some(old_api.address()),
    };
    let mut measures = Vec::new();
    // What one has left behind would be reused by the other.
    for of in [idle_kept, idle_upgraded, passed_on] {
        let mut stage = Stage::start(contender, &setup)?;
        std::thread::sleep(SETTLE);
        measures.extend(of(context, &stage).map_err(|failure| stage.explain(&failure))?);
    }
    Ok(measures)
}

fn passed_on(context: &Context<'_>, stage: &Stage) -> Result<Vec<Measure>> {
    let args = context.args;
    let mut measures = Vec::new();
    for (what, requests, bytes, brings) in [
        ("answers of 1 KiB", args.small_requests, SMALL_BYTES, false),
        ("bodies of 1 KiB", args.small_requests, SMALL_BYTES, true),
        ("answers of 1 MiB", args.large_requests, LARGE_BYTES, false),
        ("bodies of 1 MiB", args.large_requests, LARGE_BYTES, true),
    ] {
        let (cpu, rate) = requests_of(stage, requests, bytes, brings)?;
        measures.push(Measure::new(format!("CPU, {what}"), "µs per request", cpu));
        measures.push(Measure::new(format!("rate, {what}"), "requests a second", rate));
    }
    for (what, path) in [("WebSocket messages", UNROUTED), ("WebSocket messages of a route", ROUTED)] {
        let cpu = echoes(stage, path, args.echoes)?;
        measures.push(Measure::new(format!("CPU, {what}"), "µs per message and its echo", cpu));
    }
    Ok(measures)
}

/// CPU of each, µs, and how many a second.
fn requests_of(stage: &Stage, requests: u32, bytes: usize, brings: bool) -> Result<(f64, f64)> {
    let request = if brings { post(bytes) } else { get(bytes) };
    let mut askers = Askers::new(stage.target, CONNECTIONS)?;
    let expected = if brings { bytes.to_string().len() } else { bytes };
    let check = |_: usize, answer: &Answer<'_>| is_answer(answer, expected);
    askers.ask(&vec![request.clone(); (requests / WARM_UP) as usize], TIMEOUT, check)?;
    std::thread::sleep(SETTLE);
    let requests = vec![request; requests as usize];
    let before = Reading::take(stage.pid())?;
    let taken = askers.ask(&requests, TIMEOUT, check)?;
    let cpu = Reading::take(stage.pid())?.since(&before).total();
    let requests = requests.len() as f64;
    Ok((cpu / requests * 1e6, requests / taken.as_secs_f64()))
}

/// Connections that have asked once and are kept: what each adds.
fn idle_kept(context: &Context<'_>, stage: &Stage) -> Result<Vec<Measure>> {
    let connections = context.args.idle_connections;
    let before = procfs::resident_kib(stage.pid())?;
    let mut askers = Askers::new(stage.target, connections)?;
    let check = |_: usize, answer: &Answer<'_>| is_answer(answer, SMALL_BYTES);
    // In turns, so that what many at once need is not taken for what each keeps.
    askers.ask_in_turns(&vec![get(SMALL_BYTES); connections as usize], TIMEOUT, check)?;
    std::thread::sleep(4 * SETTLE);
    let after = procfs::resident_kib(stage.pid())?;
    Ok(vec![Measure::new(
        "resident memory, idle connections",
        "KiB each",
        (after - before) / f64::from(connections),
    )])
}

/// Upgraded connections that say nothing: what each adds, both its sides taken together.
fn idle_upgraded(context: &Context<'_>, stage: &Stage) -> Result<Vec<Measure>> {
    let connections = context.args.idle_connections;
    let before = procfs::resident_kib(stage.pid())?;
    let sockets: Vec<_> = (0..connections as usize)
        .map(|client| upgrade(stage.target, UNROUTED, client))
        .collect::<Result<_>>()?;
    std::thread::sleep(4 * SETTLE);
    let after = procfs::resident_kib(stage.pid())?;
    drop(sockets);
    Ok(vec![Measure::new(
        "resident memory, idle WebSockets",
        "KiB each",
        (after - before) / f64::from(connections),
    )])
}

/// CPU of a message to the old API and of its echo, µs.
fn echoes(stage: &Stage, path: &str, messages: u32) -> Result<f64> {
    let mut sockets: Vec<_> =
        (0..CONNECTIONS as usize).map(|client| upgrade(stage.target, path, client)).collect::<Result<_>>()?;
    let message = ws::masked(ws::TEXT, &[b'x'; ECHO_BYTES]);
    let echo = ws::unmasked(ws::TEXT, &[b'x'; ECHO_BYTES]);
    let mut round = |rounds: u32| -> Result<()> {
        let mut echoed = vec![0; echo.len()];
        for _ in 0..rounds {
            for socket in &mut sockets {
                socket.write_all(&message)?;
            }
            for socket in &mut sockets {
                socket.read_exact(&mut echoed)?;
                if echoed != echo {
                    return Err("something else was echoed".into());
                }
            }
        }
        Ok(())
    };
    let rounds = (messages / CONNECTIONS).max(1);
    round(rounds / WARM_UP)?;
    let before = Reading::take(stage.pid())?;
    round(rounds)?;
    let cpu = Reading::take(stage.pid())?.since(&before).total();
    Ok(cpu / f64::from(rounds * CONNECTIONS) * 1e6)
}

fn is_answer(answer: &Answer<'_>, bytes: usize) -> Result<()> {
    match (answer.status, answer.body.len()) {
        (200, length) if length == bytes => Ok(()),
        (status, length) => Err(format!("{status} with {length} bytes instead of {bytes}").into()),
    }
}

fn get(bytes: usize) -> Vec<u8> {
    format!(
        "GET /reports/{bytes} HTTP/1.1\r\nHost: api.example\r\nUser-Agent: old-client/1.0\r\nAccept: */*\r\n\r\n"
    )
    .into_bytes()
}

fn post(bytes: usize) -> Vec<u8> {
    let mut request = format!(
        "POST /reports HTTP/1.1\r\nHost: api.example\r\nUser-Agent: old-client/1.0\r\nAccept: */*\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {bytes}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + bytes, b'x');
    request
}

fn upgrade(target: SocketAddr, path: &str, client: usize) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((script::source(client), 0)).into())?;
    socket.connect(&target.into())?;
    let mut socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.write_all(ws::upgrade_request("api.example", path, &[]).as_bytes())?;
    let mut head = Vec::new();
    let mut byte = [0];
    while ws::head_end(&head).is_none() {
        socket.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    ws::check_upgrade(&head).map_err(|end| format!("{end:?}"))?;
    Ok(socket)
}
