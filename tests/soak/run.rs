//! A run: rounds of churn and faults, and after each a checkpoint where everything has come to rest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use crate::args::{Args, Which};
use crate::backend::{self, Publisher};
use crate::faults::{Deck, storm};
use crate::ledger::{LINKS, PATIENCE};
use crate::outgoing::Counted;
use crate::process::{Bridge, Held, Upstream};
use crate::report::{HEADER, Report, Row};
use crate::world::{Phase, World};
use crate::{observer, proxy, support, visits};

/// For one checkpoint, when everything takes as long as it may.
pub const OVERHEAD_MAX: Duration = Duration::from_secs(200);
/// Until the last visit is over: the longest patience of a client, and silence.
const LEAVING_MAX: Duration = Duration::from_secs(40);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const ROUTES: &str = include_str!("routes.toml");
/// Counters of the bridge that the report shows, by label.
const COUNTED: [(&str, &str); 8] = [
    ("pusher_bridge_auth_total", "result"),
    ("pusher_bridge_client_errors_total", "code"),
    ("pusher_bridge_closes_total", "reason"),
    ("pusher_bridge_publish_total", "result"),
    ("pusher_bridge_publish_retries_total", "cause"),
    ("pusher_bridge_refusals_total", "reason"),
    ("pusher_bridge_upstream_events_total", "result"),
    ("pusher_bridge_upstream_reconnects_total", "cause"),
];

pub async fn run(args: &Args) -> bool {
    raise_descriptors();
    let directory = support::temporary_directory("soak");
    let Some((upstream, app)) = start_upstream(args, &directory).await else { return true };
    let proxy = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let backend = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let mut env = app.environment();
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port().to_string();
    // The proxy stands before the upstream, which may have another address.
    env.insert("PUSHER_HOST".into(), "127.0.0.1".into());
    env.insert("PUSHER_PORT".into(), port(&proxy));
    env.insert("BACKEND_URL".into(), format!("http://127.0.0.1:{}", port(&backend)));

    let world = Rc::new(World::new(app, args.clients));
    spawn_local(proxy::serve(world.clone(), proxy));
    spawn_local(backend::serve(world.clone(), backend));
    let watching = spawn_local(observer::watch(world.clone()));
    let bridge = Bridge::start(ROUTES, &env, &directory).await;
    world.bridge.set(bridge.address);
    let mut soak = Soak {
        publisher: Publisher::new(world.clone(), args.seed),
        deck: Deck::new(args.seed),
        started: Instant::now(),
        counted: Counted { ok: 0, failed: 0 },
        gaps: 0.0,
        world,
        upstream,
        bridge,
        args,
        rows: Vec::new(),
        totals: BTreeMap::new(),
    };
    soak.all().await;
    watching.abort();
    let passed = soak.report(directory.join("bridge.log"));
    if passed {
        // It may be gone already.
        let _ = std::fs::remove_dir_all(directory);
    }
    passed
}

async fn start_upstream(
    args: &Args,
    directory: &std::path::Path,
) -> Option<(Upstream, support::pusher::App)> {
    match args.upstream {
        Which::Sandbox => Some(Upstream::sandbox(directory).await),
        Which::Sockudo => Upstream::sockudo().await,
    }
}

/// As many as the system lets us have: each client is one.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("more descriptors");
}

struct Soak<'a> {
    world: Rc<World>,
    upstream: Upstream,
    bridge: Bridge,
    publisher: Publisher,
    deck: Deck,
    args: &'a Args,
    started: Instant,
    rows: Vec<Row>,
    /// What the bridge had counted at the checkpoint before.
    counted: Counted,
    gaps: f64,
    totals: BTreeMap<&'static str, BTreeMap<String, u64>>,
}

impl Soak<'_> {
    async fn all(&mut self) {
        let args = self.args;
        while !self.bridge.is_ready().await {
            sleep(LOOK_AGAIN).await;
        }
        visits::warm_up(self.world.clone()).await;
        self.settle().await;
        println!("{HEADER}");
        let begin = self.come_to_rest().await;
        self.row(begin);
        for round in &args.rounds {
            self.churn(*round).await;
            self.settle().await;
            self.checkpoint(begin).await;
            if !self.world.all_wrong().is_empty() {
                break;
            }
        }
        self.farewell().await;
    }

    /// Clients come and go, and everything breaks.
    async fn churn(&mut self, time: Duration) {
        let (world, args) = (self.world.clone(), self.args);
        world.phase.send_replace(Phase::Churn);
        let seed = args.seed.wrapping_add(self.rows.len() as u64 * 1_000_003);
        let mut seats = JoinSet::new();
        for number in 0..args.clients {
            seats.spawn_local(visits::seat(world.clone(), number, args.clients, seed));
        }
        let rate = args.clients as f64 * 0.2;
        let over = async {
            sleep(time).await;
            world.phase.send_replace(Phase::Settle);
        };
        tokio::join!(
            storm(&world, &mut self.upstream, args.fault_every, &mut self.deck),
            self.publisher.run(rate),
            over
        );
        world.switches.clear();
        self.listen_out().await;
        world.phase.send_replace(Phase::Leave);
        let left = timeout(LEAVING_MAX, async {
            while let Some(seat) = seats.join_next().await {
                if let Err(error) = seat {
                    world.wrong(format!("a client of the soak: {error}"));
                }
            }
        });
        if left.await.is_err() {
            world.wrong(format!("{} clients do not come to an end", seats.len()));
            seats.shutdown().await;
        }
    }

    /// Nobody comes any more, and nothing breaks: whoever is there gets all that is owed.
    async fn listen_out(&mut self) {
        let world = self.world.clone();
        let whole = async |metrics: crate::process::Metrics| {
            metrics.sum("pusher_bridge_upstream_connected", "") == LINKS as f64
                && metrics.sum("pusher_bridge_subscriptions", "pending") == 0.0
                && !world.switches.is_any_held()
        };
        self.becomes("the links to stand again", whole).await;
        self.publisher.last_call().await;
        // What is accepted until everything is settled is owed as well.
        self.audit("while clients are connected").await;
        if !world.until(PATIENCE * 2, || world.ledger.borrow().owed().is_none()).await {
            let owed = world.ledger.borrow().owed();
            world.wrong(format!("never delivered: {owed:?}"));
        }
    }

    /// Waits until the metrics are so.
    async fn becomes(&self, what: &str, holds: impl AsyncFn(crate::process::Metrics) -> bool) {
        let deadline = Instant::now() + PATIENCE * 2;
        while !holds(self.bridge.metrics().await).await {
            if Instant::now() > deadline {
                return self.world.wrong(format!("waited in vain for {what}"));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Every message of a client was published or told. What is on its way comes to rest first.
    async fn audit(&self, when: &str) {
        let deadline = Instant::now() + PATIENCE * 2;
        loop {
            let counted = self.counted().await;
            let since =
                Counted { ok: counted.ok - self.counted.ok, failed: counted.failed - self.counted.failed };
            let wrong = self.world.outgoing.borrow_mut().audit(since);
            if wrong.is_empty() {
                return;
            }
            if Instant::now() > deadline {
                return wrong.into_iter().for_each(|wrong| self.world.wrong(format!("{when}: {wrong}")));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn counted(&self) -> Counted {
        let metrics = self.bridge.metrics().await;
        let total = |label: &str| metrics.sum("pusher_bridge_publish_total", label) as u64;
        let ok = total("\"ok\"");
        Counted { ok, failed: total("") - ok }
    }

    /// Nobody is connected: the books are closed.
    async fn settle(&mut self) {
        let world = self.world.clone();
        if world.ledger.borrow().subscriptions() > 0 {
            return world.wrong("somebody is subscribed still");
        }
        self.audit("when all had left").await;
        self.counted = self.counted().await;
        world.outgoing.borrow_mut().settle();
        let missed = world.ledger.borrow().missed;
        let wrong = world.ledger.borrow_mut().settle();
        wrong.into_iter().for_each(|wrong| world.wrong(wrong));

        let metrics = self.bridge.metrics().await;
        let gaps = metrics.sum("pusher_bridge_upstream_gaps_total", "");
        let missed_before = self.rows.last().map_or(0, |row| row.missed);
        if missed > missed_before && gaps == self.gaps {
            world.wrong(format!("{} deliveries were missed, and no gap is counted", missed - missed_before));
        }
        self.gaps = gaps;
    }

    /// The bridge must be as it was before anybody came.
    async fn checkpoint(&mut self, begin: Held) {
        let mut held = self.come_to_rest().await;
        let deadline = Instant::now() + PATIENCE * 2;
        while !held.is_as(&begin) && Instant::now() < deadline {
            held = self.at_rest().await;
        }
        if !held.is_as(&begin) {
            let tasks = self.bridge.metrics().await.series("pusher_bridge_tasks");
            self.world.wrong(format!("at the beginning {begin:?}, now {held:?}, {tasks:?}"));
        }
        self.row(held);
    }

    /// Nobody is connected: every gauge is back at zero, and every connection is in the counters twice.
    async fn come_to_rest(&self) -> Held {
        let world = &self.world;
        self.becomes("all gauges to be zero", async |metrics| metrics.leftovers().is_empty()).await;
        let metrics = self.bridge.metrics().await;
        for left in metrics.leftovers() {
            world.wrong(format!("left over: {left}"));
        }
        let opened = metrics.sum("pusher_bridge_connections_total", "");
        let closed = metrics.sum("pusher_bridge_closes_total", "");
        let ours = world.connections.get();
        if opened != closed || opened < ours as f64 {
            world.wrong(format!("{ours} connections were made; {opened} are counted, and {closed} closes"));
        }
        world.switches.close_idle();
        self.at_rest().await
    }

    /// What the bridge holds, when that does not change any more.
    async fn at_rest(&self) -> Held {
        let mut before = self.bridge.held().await;
        for _ in 0..20 {
            sleep(LOOK_AGAIN).await;
            let now = self.bridge.held().await;
            if now.is_as(&before) {
                return now;
            }
            before = now;
        }
        before
    }

    fn row(&mut self, held: Held) {
        let world = &self.world;
        let (ledger, outgoing) = (world.ledger.borrow(), world.outgoing.borrow());
        let row = Row {
            seconds: self.started.elapsed().as_secs(),
            connections: world.connections.get(),
            delivered: ledger.delivered,
            relayed: ledger.neighbours.delivered,
            late_copies: ledger.neighbours.late_copies,
            missed: ledger.missed,
            published: world.published.get(),
            sent: outgoing.sent,
            observed: outgoing.observed,
            echoed: world.echoed.get(),
            faults: world.faults.borrow().values().sum(),
            held,
        };
        row.print();
        self.rows.push(row);
    }

    /// The bridge is told to end, with clients connected: each is told, and it ends well.
    async fn farewell(&mut self) {
        let metrics = self.bridge.metrics().await;
        self.totals = COUNTED.map(|(name, label)| (name, metrics.by_label(name, label))).into();
        let mut last = JoinSet::new();
        for _ in 0..20 {
            last.spawn_local(visits::until_the_end(self.world.clone()));
        }
        let connected =
            async |metrics: crate::process::Metrics| metrics.sum("pusher_bridge_connections", "live") >= 20.0;
        self.becomes("the last clients", connected).await;
        self.bridge.terminate();
        while last.join_next().await.is_some() {}
        match self.bridge.ended().await {
            Some(status) if status.success() => {}
            other => self.world.wrong(format!("the bridge ends by {other:?}")),
        }
        if !self.bridge.is_running() {
            for line in self.bridge.log().lines().filter(|line| line.contains(r#""level":"ERROR""#)) {
                self.world.wrong(format!("in the bridge's log: {line}"));
            }
        }
    }

    fn report(self, log: PathBuf) -> bool {
        let neighbours = &self.world.ledger.borrow().neighbours;
        let named = [neighbours.named, neighbours.unnamed];
        let mut report = Report {
            seed: self.args.seed,
            clients: self.args.clients,
            rows: self.rows,
            faults: self.world.faults.borrow().clone(),
            counted: self.totals,
            named,
            wrong: self.world.all_wrong(),
        };
        report.wrong.extend(report.check_memory().err());
        report.print();
        for wrong in report.wrong.iter().take(100) {
            println!("wrong: {wrong}");
        }
        if let Some(file) = &self.args.report {
            report.write(file);
        }
        if !report.wrong.is_empty() {
            println!("the bridge's log: {}", log.display());
        }
        report.wrong.is_empty()
    }
}
