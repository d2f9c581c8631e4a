//! Pusher cut, hung, slow, wrong, dead and restarted.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pusher_bridge::sandbox::Options;
use pusher_bridge::upstream::links::stable_hash;

use crate::account::Mark;
use crate::proxied::Proxied;
use crate::stage::{BESIDE, DOWN, Launch, Metrics, Over, Run, Seen, UP, number_in};
use crate::support::network::{Kind, Mode};
use crate::support::patiently;
use crate::support::pusher::{App, Pusher as _};
use crate::support::sockudo::Sockudo;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fault_every_stream_is_clean() {
    let stage = Proxied::start("none", |launch| launch).await;
    stage.run.flow("for a while", 50).await;
    let over = stage.finish("no fault").await;
    over.only(&[]);
    assert_eq!(over.accounts.len(), 9);
}

/// Both ends of a link's life: all that stood is a gap, and told as one.
#[tokio::test(flavor = "multi_thread")]
async fn cut_twice() {
    let stage = Proxied::start("cut", |launch| launch).await;
    for time in ["after a cut", "after another"] {
        stage.proxy.cut();
        stage.run.flow(time, 40).await;
    }
    let over = stage.finish("cut twice").await;
    over.only_pushers();
    assert_eq!(over.codes.len(), 0, "a cut is over sooner than any deadline");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_link_of_two_is_cut() {
    let two = |launch: Launch| launch.replace("connections = 1", "connections = 2");
    let stage = Proxied::start("one-link", two).await;
    assert_eq!(stage.proxy.cut_link_of("watch-a"), 1);
    stage.run.flow("after the cut", 40).await;
    let over = stage.finish("one link of two cut").await;
    let link = |channel: &str| stable_hash(channel) % 2;
    let (mut affected, mut others) = (Vec::new(), 0);
    for (channel, _) in DOWN {
        if link(channel) == link("watch-a") {
            affected.push(channel);
            assert_eq!(over.get(channel).gaps, 1, "{channel}");
        } else {
            others += 1;
        }
    }
    assert!(others > 0, "both links carry something");
    over.only(&affected);
}

/// It accepts and never answers, and is then killed.
#[tokio::test(flavor = "multi_thread")]
async fn hung() {
    let stage = Proxied::with("hung", quick_pings(), |launch| launch).await;
    let mut stage = stage;
    stage.proxy.set_both(Mode::Hang);
    let hung = |metrics: &Metrics| {
        metrics.sum(r#"pusher_bridge_upstream_reconnects_total{cause="connect_timeout"}"#) >= 1.0
            && metrics.sum(r#"pusher_bridge_publish_total{result="unknown"}"#) >= 10.0
    };
    stage.run.served.until_metric("it to be noticed", hung).await;
    stage.proxy.set_both(Mode::Pass);
    stage.run.flow("afterwards", 40).await;
    let over = stage.finish("hung, then killed").await;
    over.only_pushers();
    assert!(over.missed() > 0 && over.codes["UPSTREAM_UNAVAILABLE"] >= 10);
}

/// What was on the way arrives when the network is back, late.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_dead_network() {
    let mut stage = Proxied::with("dead-network", quick_pings(), |launch| launch).await;
    stage.proxy.set_both(Mode::Freeze);
    let noticed = |metrics: &Metrics| {
        metrics.sum(r#"pusher_bridge_upstream_reconnects_total{cause="pong_timeout"}"#) >= 1.0
            && metrics.sum(r#"pusher_bridge_publish_total{result="unknown"}"#) >= 10.0
    };
    stage.run.served.until_metric("it to be noticed", noticed).await;
    stage.proxy.set_both(Mode::Pass);
    stage.run.flow("afterwards", 40).await;
    let over = stage.finish("dead network").await;
    over.only_pushers();
    assert!(over.missed() > 0 && over.codes["UPSTREAM_UNAVAILABLE"] >= 10);
}

/// Slowness alone costs nobody anything.
#[tokio::test(flavor = "multi_thread")]
async fn slow() {
    let stage = Proxied::start("slow", |launch| launch).await;
    stage.proxy.set(Kind::Link, Mode::Slow(500, Duration::from_millis(5)));
    stage.proxy.set(Kind::Api, Mode::Slow(1000, Duration::from_millis(30)));
    stage.run.flow("slowly", 100).await;
    let over = stage.finish("slow").await;
    over.only(&[]);
}

fn quick_pings() -> Options {
    Options { activity_timeout: Duration::from_secs(1), ..Options::local() }
}

// ------------------------------------------------------------------------------------------------- wrong

#[tokio::test(flavor = "multi_thread")]
async fn wrong_frames_are_passed_over() {
    let stage = Proxied::start("wrong-frames", |launch| launch).await;
    let wrong = [
        "",
        "not JSON",
        "[]",
        "{}",
        r#"{"event":1}"#,
        r#"{"event":"number","channel":"watch-a","data":}"#,
        r#"{"event":"number","channel":"watch-a"} trailing"#,
        r#"{"event":"number","channel":"nobodys","data":"{\"n\":1}"}"#,
        r#"{"event":"number","data":"{\"n\":1}"}"#,
        r#"{"event":"pusher:error","data":{"code":null,"message":"what?"}}"#,
        r#"{"event":"pusher_internal:subscription_succeeded","channel":"nobodys","data":"{}"}"#,
        r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.1\"}"}"#,
    ];
    for _ in 0..10 {
        for frame in wrong {
            stage.sandbox.raw_frame_to_all(frame);
        }
        stage.run.flow("among wrong frames", 5).await;
    }
    let over = stage.finish("wrong frames").await;
    over.only(&[]);
    let counted = &over.metrics;
    assert!(counted.sum(r#"pusher_bridge_upstream_events_total{result="malformed"}"#) >= 70.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_frame_costs_a_gap() {
    let stage = Proxied::start("huge", |launch| launch).await;
    let huge = "x".repeat(300_000);
    stage.sandbox.raw_frame_to_all(&format!(r#"{{"event":"e","channel":"watch-a","data":"{huge}"}}"#));
    stage.run.ear("watch-a").until("the gap to be told", |heard| heard.log.contains(&Seen::Gap)).await;
    stage.run.flow("afterwards", 40).await;
    let over = stage.finish("a huge frame").await;
    over.only(&DOWN.map(|(channel, _)| channel));
    assert_eq!(over.codes.len(), 0);
}

/// Something else answers in Pusher's place.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_answers() {
    let answers: [&[u8]; 6] = [
        b"\x00\xFF\x16\x03\x01 no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<p>Welcome!</p>",
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 1000\r\n\r\n{",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x00",
        b"",
    ];
    let mut stage = Proxied::start("wrong-answers", |launch| launch).await;
    for (number, answer) in answers.into_iter().enumerate() {
        stage.proxy.set_both(Mode::Answer(answer));
        stage.proxy.cut();
        let again = move |metrics: &Metrics| {
            metrics.sum("pusher_bridge_upstream_reconnects_total") >= 3.0 * (number + 1) as f64
        };
        stage.run.served.until_metric("several attempts", again).await;
        stage.proxy.set_both(Mode::Pass);
        stage.run.flow("after a wrong answer", 10).await;
    }
    let over = stage.finish("wrong answers").await;
    over.only_pushers();
}

/// What may pass is tried again; a refusal is told.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_statuses() {
    const PASSING: [&[u8]; 4] = [
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n",
    ];
    const FINAL: [&[u8]; 4] = [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n",
    ];
    let mut stage = Proxied::start("wrong-statuses", |launch| launch).await;
    for (number, answer) in PASSING.into_iter().enumerate() {
        stage.proxy.set(Kind::Api, Mode::Answer(answer));
        let again = move |metrics: &Metrics| {
            metrics.sum("pusher_bridge_publish_retries_total") >= 3.0 * (number + 1) as f64
        };
        stage.run.served.until_metric("several attempts", again).await;
        stage.proxy.set(Kind::Api, Mode::Pass);
        stage.run.flow("after refusals that pass", 10).await;
    }
    assert_eq!([0, 1].map(|index| stage.run.sender(index).told().len()), [0, 0]);
    for answer in FINAL {
        let before = stage.run.sender(0).told().len();
        stage.proxy.set(Kind::Api, Mode::Answer(answer));
        stage.run.sender(0).until("a refusal", |heard| heard.told() > before).await;
        stage.proxy.set(Kind::Api, Mode::Pass);
        stage.run.flow("after a refusal", 10).await;
    }
    let over = stage.finish("wrong statuses").await;
    over.only(&[UP, BESIDE].concat());
    // What was refused after an attempt that may have been accepted.
    let unknown = over.metrics.sum(r#"pusher_bridge_publish_total{result="unknown"}"#);
    let mut codes = over.codes;
    assert_eq!(codes.remove("UPSTREAM_UNAVAILABLE").unwrap_or(0) as f64, unknown);
    assert_eq!(codes.keys().collect::<Vec<_>>(), ["UPSTREAM_REFUSED"]);
}

// --------------------------------------------------------------------------------------------- restarted

/// A client of Pusher itself that comes back: what it got of a channel.
fn observe(app: App, channel: &'static str) -> Arc<Mutex<Vec<Mark>>> {
    let marks: Arc<Mutex<Vec<Mark>>> = Arc::default();
    let noted = marks.clone();
    tokio::spawn(async move {
        loop {
            let Ok(mut native) = app.try_native(channel).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            while let Some((event, data)) = native.try_event().await {
                if event.starts_with("client-u") {
                    noted.lock().unwrap().push(number_in(&data));
                }
            }
            noted.lock().unwrap().push(Mark::Gap);
        }
    });
    marks
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_one_is_killed_and_restarted() {
    let Some(mut sockudo) = Sockudo::start().await else { return };
    restarted_twice_by("KILL", "killed", &mut sockudo).await;
}

/// It says goodbye to its links first.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_one_is_restarted_in_order() {
    let Some(mut sockudo) = Sockudo::start().await else { return };
    let over = restarted_twice_by("TERM", "restarted", &mut sockudo).await;
    let goodbyes = over.metrics.sum(r#"pusher_bridge_upstream_reconnects_total{cause="closed_4200"}"#);
    assert_eq!(goodbyes, 2.0);
}

async fn restarted_twice_by(signal: &str, name: &str, sockudo: &mut Sockudo) -> Over {
    let app = sockudo.app();
    let observed =
        ["private-talk-a", "private-talk-b"].map(|channel| (channel, observe(app.clone(), channel)));
    let all = || observed.iter().map(|(_, marks)| marks.lock().unwrap().len()).min().unwrap();
    let run = Run::start(name, &app, Launch::new(&app, app.address)).await;
    for time in ["after a restart", "after another"] {
        sockudo.restart_by(signal).await;
        run.flow(time, 40).await;
        let before = all();
        let coming = async {
            while all() < before + 10 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        patiently("the observers' numbers", coming).await;
    }
    let taken = async |channel: &str| {
        let (_, marks) = observed.iter().find(|(name, _)| *name == channel)?;
        Some(marks.lock().unwrap().clone())
    };
    let over = run.finish(&format!("sockudo {name} twice"), taken).await;
    over.only_pushers();
    for (channel, _) in DOWN {
        assert_eq!(over.get(channel).gaps, 2, "{channel}");
    }
    over
}
