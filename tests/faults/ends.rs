//! The program's own end under load: asked to go, and killed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::account::{Account, Mark};
use crate::proxied::{Proxied, published};
use crate::stage::{BATCH_MAX, BESIDE, DOWN, Launch, POST, Run, UP};
use crate::support::network::{Kind, Mode};
use crate::support::patiently;
use crate::support::process::Ended;
use crate::support::pusher::Pusher as _;
use crate::support::sockudo::free_address;

/// The log's lines with this message.
fn lines(ended: &Ended, message: &str) -> Vec<Value> {
    let lines = ended.stderr.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    lines.filter(|line| line["message"] == message).collect()
}

/// How many messages the program read from the senders on these routes: all but their `auth`.
fn read(ended: &Ended, routes: &[&str]) -> usize {
    let frames = |line: &Value| usize::try_from(line["frames_in"].as_u64().unwrap()).unwrap() - 1;
    let closed = lines(ended, "closed");
    let on_routes = closed.iter().filter(|line| routes.contains(&line["route"].as_str().unwrap()));
    on_routes.map(frames).sum()
}

fn delivered(accounts: &BTreeMap<&'static str, Account>, names: &[&str]) -> usize {
    names.iter().map(|name| accounts[name].delivered).sum()
}

impl Proxied {
    async fn asked_to_go(self, fault: &str) -> (BTreeMap<&'static str, Account>, Ended) {
        self.run.served.program.signal("TERM");
        for (channel, _) in DOWN {
            assert_eq!(self.run.ear(channel).over().await, Some(1001), "{channel}");
        }
        let sandbox = self.sandbox;
        let (accounts, ended) =
            self.run.finish_ended(fault, async |channel| Some(published(&sandbox, channel))).await;
        for account in accounts.values() {
            account.is_honest();
        }
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(lines(&ended, "stopped").len(), 1, "{ended:?}");
        (accounts, ended)
    }
}

/// Whatever was read from a client is published, though Pusher is slow.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm() {
    let stage = Proxied::start("sigterm", |launch| launch).await;
    stage.proxy.set(Kind::Api, Mode::Slow(500, Duration::from_millis(50)));
    stage.run.flow("slowly", 10).await;
    let (accounts, ended) = stage.asked_to_go("SIGTERM, Pusher slow").await;
    assert_eq!(delivered(&accounts, &UP), read(&ended, &["talk"]));
    assert_eq!(delivered(&accounts, &[POST]), read(&ended, &["post"]));
}

/// What cannot be published any more, and whose sender is gone, is in the log.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_pusher_is_away() {
    let stage = Proxied::start("sigterm-away", |launch| launch).await;
    stage.proxy.set(Kind::Api, Mode::Refuse);
    stage.proxy.cut();
    stage.run.flow_on("watch-a", 10).await;
    let (accounts, ended) = stage.asked_to_go("SIGTERM, Pusher away").await;
    let untold = lines(&ended, "messages were not carried, and their senders are gone");
    let untold: u64 = untold.iter().map(|line| line["messages"].as_u64().unwrap()).sum();
    let (read, published) = (read(&ended, &["talk"]), delivered(&accounts, &UP));
    let (untold, lost) = (usize::try_from(untold).unwrap(), read - published);
    // Of what was under way at the cut, a request in each of two lanes, nobody knows whether it was taken.
    assert!(lost > 0 && (lost..=lost + 2 * BATCH_MAX).contains(&untold), "{read} {published} {untold}");
    assert_eq!(delivered(&accounts, &[POST]), self::read(&ended, &["post"]));
}

/// Of what a killed one had read, a tail may be lost; nothing else. The next one serves as if nothing had been.
#[tokio::test(flavor = "multi_thread")]
async fn sigkill() {
    let addresses = [free_address(), free_address()];
    let Proxied { run, proxy, sandbox } = Proxied::start("sigkill", |launch| launch.at(addresses)).await;
    proxy.set(Kind::Api, Mode::Slow(500, Duration::from_millis(50)));
    run.flow("slowly", 10).await;
    run.served.program.signal("KILL");
    for (channel, _) in DOWN {
        assert_eq!(run.ear(channel).over().await, None, "{channel}");
    }
    patiently("the upstream to see its end", sandbox.wait_for(|view| view.connections() == 0)).await;
    let before = async |channel: &str| Some(published(&sandbox, channel));
    let (accounts, ended) = run.finish_ended("SIGKILL", before).await;
    assert_eq!(ended.code, None);
    for account in accounts.values() {
        account.is_honest();
    }
    for name in UP.iter().chain(&BESIDE).chain(&[POST]) {
        assert!(accounts[name].missed < 100, "only what was under way: {:?}", accounts[name]);
    }

    // What is still on the way would come among the next one's.
    proxy.cut();
    proxy.set(Kind::Api, Mode::Pass);
    let app = sandbox.app();
    let launch = Launch::new(&app, proxy.address).at(addresses);
    let again = Run::start("sigkill-again", &app, launch).await;
    again.flow("again", 20).await;
    let after = async |channel: &str| {
        let mut marks = published(&sandbox, channel);
        let first = marks.iter().rposition(|mark| *mark == Mark::Number(1));
        Some(marks.split_off(first.unwrap()))
    };
    let over = again.finish("SIGKILL, the next one", after).await;
    over.only(&[]);
}
