//! Two connections to Pusher on the same channels: when either is lost, nothing is missed and nothing comes twice.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pusher_bridge::app::Running;
use pusher_bridge::config::Config;
use pusher_bridge::routes::route::OnGap;
use pusher_bridge::sandbox::{Options, Sandbox, SandboxHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::near_and_far;
use crate::support::bridge::{self, SHIPPED, metric};
use crate::support::pusher::{App, Pusher as _};
use crate::support::sockudo::Sockudo;
use crate::support::{Bridge, OldClient, patiently};

const PLUGIN: &str = "private-plugin-p1";
const DOUBTFUL_CHANNELS: &str = "pusher_bridge_standby_doubtful_channels";
const LIVE: &str = r#"pusher_bridge_subscriptions{state="live"}"#;
const PAUSE: Duration = Duration::from_millis(5);

fn with_standby(config: &mut Config) {
    config.upstream.standby = true;
    config.upstream.times.reconnect_delay_max = Duration::from_millis(20);
}

fn events(running: &Running, result: &str) -> f64 {
    metric(running, &format!("pusher_bridge_standby_events_total{{result=\"{result}\"}}"))
}

/// A proxy that resets each of its WebSockets at the byte that it is told.
struct Cutter {
    address: SocketAddr,
    lines: Arc<Mutex<Vec<Arc<Line>>>>,
    /// How many bytes the server may say on each of the next ones.
    plan: Arc<Mutex<VecDeque<usize>>>,
}

/// One WebSocket.
struct Line {
    /// Bytes that the server may say yet.
    left: AtomicUsize,
    said: Mutex<Vec<u8>>,
    cut: Notify,
    over: AtomicBool,
}

impl Cutter {
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let lines: Arc<Mutex<Vec<Arc<Line>>>> = Arc::default();
        let plan: Arc<Mutex<VecDeque<usize>>> = Arc::default();
        let (all, of_all) = (lines.clone(), plan.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (all, plan) = (all.clone(), of_all.clone());
                tokio::spawn(async move { Self::carry(client, to, &all, &plan).await });
            }
        });
        Self { address, lines, plan }
    }

    async fn carry(
        mut client: TcpStream,
        to: SocketAddr,
        all: &Mutex<Vec<Arc<Line>>>,
        plan: &Mutex<VecDeque<usize>>,
    ) {
        let Ok(mut server) = TcpStream::connect(to).await else { return };
        let (mut first, mut said) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
        let Ok(read) = client.read(&mut first).await else { return };
        let left = AtomicUsize::new(usize::MAX);
        let over = AtomicBool::new(false);
        let line = Arc::new(Line { left, said: Mutex::default(), cut: Notify::new(), over });
        if first.starts_with(b"GET /app/") {
            let planned = plan.lock().unwrap().pop_front();
            line.left.store(planned.unwrap_or(usize::MAX), Ordering::Relaxed);
            all.lock().unwrap().push(line.clone());
        }
        if server.write_all(&first[..read]).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                read = client.read(&mut first) => match read {
                    Ok(1..) if server.write_all(&first[..read.unwrap()]).await.is_ok() => {}
                    _ => break,
                },
                read = server.read(&mut said) => {
                    let Ok(read @ 1..) = read else { break };
                    let left = line.left.load(Ordering::Relaxed);
                    let goes = read.min(left);
                    line.left.store(left - goes, Ordering::Relaxed);
                    let is_over = goes < read || left == goes;
                    {
                        let mut all = line.said.lock().unwrap();
                        all.extend(&said[..goes]);
                        line.over.store(is_over, Ordering::Relaxed);
                    }
                    if client.write_all(&said[..goes]).await.is_err() || is_over {
                        break;
                    }
                }
                () = line.cut.notified() => break,
            }
        }
        // What was let through arrives.
        let _ = client.shutdown().await;
        line.over.store(true, Ordering::Relaxed);
    }

    fn lines(&self) -> Vec<Arc<Line>> {
        self.lines.lock().unwrap().clone()
    }

    /// The connection after so many.
    async fn line(&self, number: usize) -> Arc<Line> {
        let made = async {
            loop {
                if let Some(line) = self.lines().get(number) {
                    return line.clone();
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        patiently("a new connection", made).await
    }

    /// Waits for the connection after so many, and until the channel stands on two.
    async fn are(&self, count: usize, running: &Running) {
        let stands = async {
            while self.lines().len() < count || metric(running, LIVE) < 2.0 {
                tokio::time::sleep(PAUSE).await;
            }
        };
        patiently("a new connection", stands).await;
    }
}

impl Line {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Whether the server has said all of the event with this name.
    fn has_said(&self, event: &str) -> bool {
        let said = self.said.lock().unwrap();
        said.ends_with(b"}") && said.windows(event.len()).any(|part| part == event.as_bytes())
    }

    /// Waits until this holds, or the connection has ended.
    async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let held = async {
            while !self.is_over() && !holds() {
                tokio::time::sleep(PAUSE).await;
            }
        };
        patiently(what, held).await;
    }
}

async fn becomes(running: &Running, series: &str, value: f64) {
    let is = async {
        while metric(running, series) != value {
            tokio::time::sleep(PAUSE).await;
        }
    };
    patiently(&format!("{series} {value}"), is).await;
}

/// A stream of numbered and of equal events, while one connection after the other is cut at any byte.
async fn loses_nothing_and_repeats_nothing(app: &App, bytes: impl IntoIterator<Item = usize>) {
    let cutter = Cutter::start(app.address).await;
    let through = App { address: cutter.address, ..app.clone() };
    let running = bridge::start(&through, SHIPPED, &[], with_standby).await;
    let mut client = OldClient::login(running.address, "/ws/plugin/p1", "1").await;
    cutter.are(2, &running).await;
    becomes(&running, DOUBTFUL_CHANNELS, 0.0).await;
    let bytes: Vec<usize> = bytes.into_iter().collect();
    for side in [1, 0] {
        let mut victim = cutter.lines()[side].clone();
        for &byte in &bytes {
            let before = cutter.lines().len();
            victim.left.store(byte, Ordering::Relaxed);
            let numbered = format!("n{byte}");
            for event in ["tick", &numbered, "tick"] {
                app.trigger(PLUGIN, event, "1").await;
            }
            for event in ["tick", &numbered, "tick"] {
                assert_eq!(client.json().await["type"], event, "cut after {byte} bytes");
            }
            victim.cut.notify_one();
            cutter.are(before + 1, &running).await;
            victim = cutter.lines().last().unwrap().clone();
        }
        becomes(&running, DOUBTFUL_CHANNELS, 0.0).await;
        // Nothing is left that would come twice.
        app.trigger(PLUGIN, "last", "1").await;
        assert_eq!(client.json().await["type"], "last");
    }
    assert_eq!(events(&running, "doubtful"), 0.0);
    assert!(events(&running, "copy") > 0.0);
    assert!(events(&running, "first") > 0.0 && events(&running, "second") > 0.0);
    assert_eq!(metric(&running, "pusher_bridge_upstream_gaps_total"), 0.0);
    running.shutdown().await;
}

near_and_far!(either_side_is_cut_at_any_byte);
async fn either_side_is_cut_at_any_byte() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    // Three frames are about 250 bytes.
    loses_nothing_and_repeats_nothing(&sandbox.app(), (1..280).step_by(9)).await;
}

/// Bridges that share the bytes among themselves.
const LANES: usize = 6;
/// More than the server says.
const BYTES_MAX: usize = 4096;

/// Each byte of all that a server says on a connection: from before the first one of its answer to the upgrade to the
/// last one of the last of several events, some of which come while the connection is made.
#[tokio::test(flavor = "multi_thread")]
async fn either_side_is_cut_at_every_byte() {
    let cuts = futures_util::future::join_all((0..LANES).map(cut_at_every_byte_of_a_lane)).await;
    for side in [0, 1] {
        let mut bytes: Vec<usize> = cuts.iter().flat_map(|sides| sides[side].clone()).collect();
        bytes.sort_unstable();
        let ends = cuts.iter().map(|sides| sides[side].len()).min().unwrap();
        assert!(bytes.iter().take(ends * LANES).copied().eq(0..ends * LANES), "none is left out: {bytes:?}");
        // The answer, the greeting, the confirmation and four events.
        assert!(ends * LANES > 600, "{ends}");
    }
}

/// At which bytes each of the two sides was cut.
async fn cut_at_every_byte_of_a_lane(lane: usize) -> [Vec<usize>; 2] {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let cutter = Cutter::start(sandbox.addr()).await;
    let app = App { address: cutter.address, ..sandbox.app() };
    let running = bridge::start(&app, SHIPPED, &[], with_standby).await;
    let mut clients = Vec::new();
    for user in ["1", "2"] {
        clients.push(OldClient::login(running.address, "/ws/plugin/p1", user).await);
    }
    cutter.are(2, &running).await;
    let sides = cutter.lines();
    let mut cuts = [Vec::new(), Vec::new()];
    for (line, cuts) in sides.iter().zip(&mut cuts) {
        // The other side has brought everything.
        becomes(&running, DOUBTFUL_CHANNELS, 0.0).await;
        let first = cutter.lines().len();
        let bytes = || (lane..BYTES_MAX).step_by(LANES);
        cutter.plan.lock().unwrap().extend(bytes());
        line.cut.notify_one();
        for (number, byte) in bytes().enumerate() {
            let line = cutter.line(first + number).await;
            let [early, late, last] = ["early", "late", "last"].map(|name| format!("{name}-{byte}"));
            let sent = ["tick", &early, "tick", "tick", &late, "tick", &last];
            let (at_once, subscribed) = sent.split_at(3);
            at_once.iter().for_each(|event| sandbox.trigger(PLUGIN, event, "1"));
            line.until("the subscription", || metric(&running, LIVE) >= 2.0).await;
            subscribed.iter().for_each(|event| sandbox.trigger(PLUGIN, event, "1"));
            for (at, event) in sent.iter().enumerate() {
                for client in &mut clients {
                    let got = client.json().await;
                    assert_eq!(got["type"], **event, "cut after {byte} bytes, event {at}");
                }
            }
            line.until("the last event", || line.has_said(&last)).await;
            if !line.is_over() {
                // It stays.
                line.left.store(usize::MAX, Ordering::Relaxed);
                cutter.plan.lock().unwrap().clear();
                break;
            }
            let said = line.said.lock().unwrap().len();
            assert_eq!(said, byte, "it was cut there");
            cuts.push(said);
        }
    }
    sandbox.trigger(PLUGIN, "end", "1");
    for client in &mut clients {
        assert_eq!(client.json().await["type"], "end", "and nothing comes twice");
    }
    let [first, second, held, doubtful] =
        ["first", "second", "held", "doubtful"].map(|result| events(&running, result));
    assert!(first > 0.0 && second > 0.0 && held > 0.0, "each had its turn, and the other's copies came");
    assert_eq!((doubtful, metric(&running, "pusher_bridge_upstream_gaps_total")), (0.0, 0.0));
    running.shutdown().await;
    cuts
}

near_and_far!(sockudo_either_side_is_cut_at_any_byte);
async fn sockudo_either_side_is_cut_at_any_byte() {
    // A sample: every byte is the sandbox's.
    if let Some(sockudo) = Sockudo::start().await {
        loses_nothing_and_repeats_nothing(&sockudo.app(), (1..280).step_by(31)).await;
    }
}

async fn bridge_with(change: impl FnOnce(&mut Config)) -> Bridge {
    Bridge::with(SHIPPED, |config| {
        with_standby(config);
        change(config);
    })
    .await
}

async fn subscribed_twice(sandbox: &SandboxHandle) {
    patiently("two subscriptions", sandbox.wait_for(|view| view.subscribed(PLUGIN) == 2)).await;
}

near_and_far!(when_both_are_lost_clients_are_told);
async fn when_both_are_lost_clients_are_told() {
    let bridge = bridge_with(|config| {
        for route in &mut config.routes {
            Arc::get_mut(route).unwrap().on_gap = OnGap::Notify;
        }
    })
    .await;
    let mut client = bridge.login("/ws/plugin/p1").await;
    subscribed_twice(&bridge.sandbox).await;
    // Else the loss of the first would be a gap of its own.
    becomes(&bridge.running, DOUBTFUL_CHANNELS, 0.0).await;
    bridge.sandbox.cut_connections();
    assert_eq!(client.error_code().await, "EVENTS_MAY_BE_MISSING");
    bridge.sandbox.trigger(PLUGIN, "e", "1");
    assert_eq!(client.json().await["type"], "e", "and it is told once");
}

near_and_far!(what_one_client_says_its_neighbours_get_once_and_it_does_not);
async fn what_one_client_says_its_neighbours_get_once_and_it_does_not() {
    const MESSAGES: usize = 60;
    let bridge = bridge_with(|_| {}).await;
    let mut sender = bridge.login_as("/ws/plugin/p1", "1").await;
    let mut neighbour = bridge.login_as("/ws/plugin/p1", "2").await;
    subscribed_twice(&bridge.sandbox).await;
    for n in 0..MESSAGES {
        // Equal ones among them.
        sender.send(&format!(r#"{{"type":"m","data":{}}}"#, n / 3)).await;
    }
    for n in 0..MESSAGES {
        assert_eq!(neighbour.json().await["data"], n / 3);
    }
    bridge.becomes(r#"pusher_bridge_publish_total{result="ok"}"#, MESSAGES as f64).await;
    bridge.sandbox.trigger(PLUGIN, "e", "1");
    for client in [&mut sender, &mut neighbour] {
        assert_eq!(client.json().await["type"], "e");
    }
}

near_and_far!(a_copy_that_comes_before_the_answer_waits_for_it);
async fn a_copy_that_comes_before_the_answer_waits_for_it() {
    let bridge = bridge_with(|_| {}).await;
    let mut sender = bridge.login_as("/ws/plugin/p1", "1").await;
    let mut neighbour = bridge.login_as("/ws/plugin/p1", "2").await;
    subscribed_twice(&bridge.sandbox).await;
    let hold = bridge.sandbox.hold_publishes();
    sender.send(r#"{"type":"m","data":1}"#).await;
    patiently("the request", bridge.sandbox.wait_for(|view| view.held_publishes() == 1)).await;
    // Somebody else says the same at that time: one of the two is the copy, whichever comes first.
    bridge.sandbox.trigger(PLUGIN, "client-m", "1");
    bridge.sandbox.trigger(PLUGIN, "e", "2");
    drop(hold);
    let mut all: Vec<_> = Vec::new();
    for _ in 0..3 {
        all.push(neighbour.json().await["type"].as_str().unwrap().to_owned());
    }
    all.sort_unstable();
    assert_eq!(all, ["client-m", "client-m", "e"]);
    bridge.sandbox.trigger(PLUGIN, "last", "1");
    let mut of_sender = Vec::new();
    while of_sender.last().is_none_or(|event| event != "last") {
        of_sender.push(sender.json().await["type"].as_str().unwrap().to_owned());
    }
    of_sender.sort_unstable();
    assert_eq!(of_sender, ["client-m", "e", "last"], "his own message does not come back to him");
    assert_eq!(neighbour.json().await["type"], "last");
}

near_and_far!(a_late_joiner_gets_the_last_event_of_a_cache_channel_once);
async fn a_late_joiner_gets_the_last_event_of_a_cache_channel_once() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let running = bridge::start(&sandbox.app(), SHIPPED, &[], with_standby).await;
    let channel = "private-cache-state-1";
    sandbox.trigger(channel, "before", "1");
    let mut first = OldClient::login(running.address, "/ws/state/1", "1").await;
    assert_eq!(first.json().await["type"], "before");
    patiently("two", sandbox.wait_for(|view| view.subscribed(channel) == 2)).await;
    sandbox.trigger(channel, "now", "1");
    assert_eq!(first.json().await["type"], "now", "once");
    let mut second = OldClient::login(running.address, "/ws/state/1", "2").await;
    assert_eq!(second.json().await["type"], "now");
    sandbox.trigger(channel, "next", "1");
    for client in [&mut first, &mut second] {
        assert_eq!(client.json().await["type"], "next");
    }
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_while_either_is_connected() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let cutter = Cutter::start(sandbox.addr()).await;
    let app = App { address: cutter.address, ..sandbox.app() };
    let running = bridge::start(&app, SHIPPED, &[], |config| {
        with_standby(config);
        config.upstream.times.reconnect_delay_max = Duration::from_secs(3600);
    })
    .await;
    let link = |name: &str| format!("pusher_bridge_upstream_connected{{link=\"{name}\"}}");
    for name in ["0", "0-standby"] {
        becomes(&running, &link(name), 1.0).await;
    }
    sandbox.refuse_connections(pusher_bridge::sandbox::HandshakeFault::Drop);
    cutter.lines()[0].cut.notify_one();
    let down = async {
        while metric(&running, &link("0")) + metric(&running, &link("0-standby")) != 1.0 {
            tokio::time::sleep(PAUSE).await;
        }
    };
    patiently("one to be down", down).await;
    assert_eq!(crate::admin::get(running.admin_address, "/readyz").await.status, 200);
}
