//! Out of descriptors, and out of memory.

use std::fmt::Write as _;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::time::{Duration, Instant};

use crate::proxied::Proxied;
use crate::stage::{Launch, Metrics};
use crate::support::bridge::token_with;
use crate::support::process::Program;
use crate::support::raw::{BINARY, frame, upgrade};
use crate::support::{Raw, patiently};

/// Sets one of a running program's limits; the hard one stays, so that it can be raised again.
fn limit(program: &Program, resource: Resource, current: Option<u64>) {
    let pid = Pid::from_raw(program.id().try_into().unwrap());
    let maximum = getrlimit(resource).maximum;
    prlimit(pid, resource, Rlimit { current, maximum }).unwrap();
}

fn open_descriptors(program: &Program) -> u64 {
    std::fs::read_dir(format!("/proc/{}/fd", program.id())).unwrap().count().try_into().unwrap()
}

/// A line of the program's status, in bytes.
fn status(program: &Program, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let line = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap() * 1024
}

/// Processor time the program has had.
fn processor_time(program: &Program) -> Duration {
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.id())).unwrap();
    // After the name, which may have anything in it: field 3 and on.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

const ACCEPT_ERRORS: &str = "pusher_bridge_accept_errors_total";

/// Takes every descriptor that the program has left, and some that it has not.
async fn exhaust(stage: &mut Proxied) -> Vec<Raw> {
    let served = &mut stage.run.served;
    limit(&served.program, Resource::Nofile, Some(open_descriptors(&served.program) + 8));
    let mut waiting = Vec::new();
    for _ in 0..40 {
        waiting.push(Raw::connect(served.address).await);
    }
    // Probes need descriptors as well: what they said last is seen when there are some again.
    waiting
}

async fn give_back(stage: &mut Proxied, waiting: Vec<Raw>) {
    let program = &stage.run.served.program;
    limit(program, Resource::Nofile, getrlimit(Resource::Nofile).maximum);
    drop(waiting);
    let failed = |metrics: &Metrics| metrics.sum(ACCEPT_ERRORS) >= 1.0;
    stage.run.served.until_metric("failures to accept", failed).await;
    let token = token_with("1", |claims| claims["exp"] = crate::stage::FAR.into());
    Raw::login(stage.run.served.address, "/watch/new", &token).await;
}

/// Who is connected notices nothing; the door neither spins nor stays shut.
#[tokio::test(flavor = "multi_thread")]
async fn out_of_descriptors() {
    let mut stage = Proxied::start("descriptors", |launch| launch).await;
    let waiting = exhaust(&mut stage).await;
    let (begin, before) = (Instant::now(), processor_time(&stage.run.served.program));
    stage.run.flow("without descriptors", 80).await;
    let (took, used) = (begin.elapsed(), processor_time(&stage.run.served.program) - before);
    give_back(&mut stage, waiting).await;
    stage.run.flow("afterwards", 20).await;
    let over = stage.finish("out of descriptors").await;
    over.only(&[]);
    let errors = over.metrics.sum(ACCEPT_ERRORS);
    println!("  {errors} failures to accept; {used:?} of processor time in {took:?}");
    // One every 50 ms, and as many again for what came before and after.
    assert!(errors <= 2.0 * took.as_secs_f64() / 0.05 + 20.0, "{errors} in {took:?}");
    assert!(used < took.mul_f64(0.8), "it spins: {used:?} of {took:?}");
}

/// How long there are none.
const WITHOUT: Duration = Duration::from_secs(1);

/// Without descriptors there is no connecting anew; with them there is again.
#[tokio::test(flavor = "multi_thread")]
async fn out_of_descriptors_when_pusher_is_lost() {
    let mut stage = Proxied::start("descriptors-cut", |launch| launch).await;
    let waiting = exhaust(&mut stage).await;
    stage.proxy.cut();
    let seen = stage.sandbox.wait_for(|view| view.connections() == 0);
    patiently("Pusher to see the end", seen).await;
    tokio::time::sleep(WITHOUT).await;
    give_back(&mut stage, waiting).await;
    stage.run.flow("afterwards", 40).await;
    let over = stage.finish("out of descriptors, Pusher cut").await;
    over.only_pushers();
}

/// Bytes of the routes' limit for all clients' buffers.
const BUFFERED: u64 = 16 * 1024 * 1024;
/// Beyond those: the publisher's queues, heads, tables, the allocator's own.
const SLACK: u64 = 48 * 1024 * 1024;

fn buffered(launch: Launch) -> Launch {
    launch.replace("connections = 500\n", format!("connections = 500\nbuffered_bytes = {BUFFERED}\n"))
}

/// Clients that fill every buffer there is, several times what the program may have: it sheds them, and stays.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_fill_every_buffer() {
    let mut stage = Proxied::start("memory", buffered).await;
    let (program, address) = (&stage.run.served.program, stage.run.served.address);
    let before = status(program, "VmSize:");
    limit(program, Resource::As, Some(before + BUFFERED + SLACK));
    let mut clients = Vec::new();
    let large = frame(BINARY, &vec![0; 4 * 1024 * 1024 - 1]);
    let mut head = upgrade("/watch/a", &[]).replace("\r\n\r\n", "\r\n");
    let _ = write!(head, "X: {}", "x".repeat(15_000));
    for n in 0..200 {
        let mut client = Raw::connect_small(address).await;
        match n % 4 {
            // A head without an end.
            0 => drop(client.try_send(&head).await),
            // A message without an end.
            1 | 2 => {
                client.upgrade("/echo").await;
                client.try_send(&large[..large.len() - 1]).await;
            }
            // Echoes that nobody reads.
            _ => {
                client.upgrade("/echo").await;
                client.try_send(frame(BINARY, &vec![0; 512 * 1024]).repeat(2)).await;
            }
        }
        clients.push(client);
    }
    stage.run.flow("among them", 40).await;
    // It waits for the goodbye of each, and then counts it.
    let shed =
        |metrics: &Metrics| metrics.sum(r#"pusher_bridge_closes_total{route="echo",reason="overload"}"#);
    stage.run.served.until_metric("many to be closed", |metrics| shed(metrics) >= 50.0).await;
    let shed = shed(&stage.run.served.metrics().await);
    let program = &stage.run.served.program;
    let (grown, peak) = (status(program, "VmSize:") - before, status(program, "VmHWM:"));
    println!("  shed {shed} of 200; address space grown by {} KiB, peak {} KiB", grown / 1024, peak / 1024);
    drop(clients);
    stage.run.flow("afterwards", 20).await;
    stage.finish("every buffer filled").await.only(&[]);
}

/// With less than its limits need, it ends; but it says why, and Pusher and clients see it.
#[tokio::test(flavor = "multi_thread")]
async fn no_memory_at_all_is_told() {
    let stage = Proxied::start("no-memory", |launch| launch).await;
    let address = stage.run.served.address;
    limit(&stage.run.served.program, Resource::As, Some(1));
    let mut clients = Vec::new();
    let large = frame(BINARY, &vec![0; 4 * 1024 * 1024 - 1]);
    // More than the allocator may have kept for each thread.
    for _ in 0..64 {
        if stage.run.sender(0).is_over() {
            break;
        }
        let Some(mut client) = Raw::try_connect(address).await else { break };
        // It may be gone already.
        if client.try_send(upgrade("/echo", &[])).await {
            client.try_send(&large[..large.len() - 1]).await;
        }
        clients.push(client);
    }
    let Proxied { run, sandbox, .. } = stage;
    let taken = async |channel: &str| Some(crate::proxied::published(&sandbox, channel));
    let (accounts, ended) = run.finish_ended("no memory at all", taken).await;
    for account in accounts.values() {
        account.is_honest();
    }
    assert_eq!(ended.code, None, "ended by a signal: {ended:?}");
    assert!(ended.stderr.contains("memory allocation of"), "{ended:?}");
}
