//! Standard error that is full, stuck or gone: it is a matter of the log alone.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, PipeReader};
use std::process::Stdio;

use serde_json::Value;
use tokio::sync::mpsc;

use futures_util::future::join_all;
use pusher_bridge::sandbox::{Options, Sandbox};

use crate::proxied::published;
use crate::stage::{Launch, Metrics, Run};
use crate::support::pusher::Pusher as _;
use crate::support::raw::request;
use crate::support::{Raw, patiently};

const LOST: &str = "pusher_bridge_log_lines_lost_total";
/// Requests sent at once.
const ROUND: usize = 100;

/// Runs the streams with the log going to `stderr`, has it filled by refusals until `enough`, then ends the program.
/// Gives how many lines were lost in the end.
async fn log_to(
    name: &str,
    stderr: impl Into<Stdio>,
    enough: impl Fn(&Metrics) -> bool,
    then: impl AsyncFnOnce(),
) {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let app = sandbox.app();
    let run = Run::start(name, &app, Launch::new(&app, app.address).log_to(stderr)).await;
    // A refusal is a line in the log, and what it says of the client doubles in JSON.
    let agent = r"\".repeat(200);
    let refused = request("GET /watch/a HTTP/1.1", &[("Upgrade", ""), ("User-Agent", &agent)]);
    let mut rounds = 0;
    while !enough(&run.served.metrics().await) {
        rounds += 1;
        assert!(rounds < 200, "nothing is ever lost");
        let asking = (0..ROUND).map(|_| Raw::ask(run.served.address, &refused));
        for answer in join_all(asking).await {
            assert_eq!(answer.status, 426);
        }
    }
    run.flow("with the log as it is", 20).await;
    then().await;
    let over = run.finish(name, async |channel| Some(published(&sandbox, channel))).await;
    over.only(&[]);
    let lost = over.metrics.sum(LOST);
    println!("  log lines lost: {lost}");
    over.served.program.signal("TERM");
    let ended = over.served.program.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

fn some_lost(metrics: &Metrics) -> bool {
    metrics.sum(LOST) > 0.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    log_to("log-full", full, some_lost, async || {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_gone() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    log_to("log-gone", writer, some_lost, async || {}).await;
}

/// Not even at the end is anybody kept waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read() {
    let (reader, writer) = std::io::pipe().unwrap();
    log_to("log-stuck", writer, some_lost, async || {}).await;
    drop(reader);
}

/// Then what was waiting is written, whole and in order, and how much is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_reads_again() {
    let (reader, writer) = std::io::pipe().unwrap();
    let again = async || {
        let mut lines = lines(reader);
        let told = async {
            loop {
                let line: Value = serde_json::from_str(&lines.recv().await.unwrap()).unwrap();
                if line["message"] == "log lines were lost" {
                    return line["lines"].as_u64().unwrap();
                }
            }
        };
        assert!(patiently("the loss to be told", told).await > 0);
        // The rest must be read too.
        tokio::spawn(async move { while lines.recv().await.is_some() {} });
    };
    log_to("log-again", writer, some_lost, again).await;
}

fn lines(reader: PipeReader) -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).lines() {
            if sender.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    lines
}
