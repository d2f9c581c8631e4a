//! The scene of an attack: a bridge of its own, its Pusher, everybody else, and what is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pusher_bridge::sandbox::{Options, Sandbox, SandboxHandle};
use tokio::runtime::Runtime;

use crate::bystanders::{Bystanders, WATCHING};
use crate::process::{Bridge, CERT_FILE, KEY_FILE};
use crate::report::Row;
use crate::stream::{TLS, most_at_once};
use crate::support::bridge::SHIPPED;
use crate::support::pusher::Pusher as _;

/// What the others may notice at most: one event in a hundred later than this, the slowest login. More than twice the
/// worst that is seen, for a machine that is busy with other things is no defect.
const LATE_MAX: Duration = Duration::from_millis(if OPTIMISED { 250 } else { 600 });
const LOGIN_MAX: Duration = Duration::from_secs(if OPTIMISED { 1 } else { 2 });
const OPTIMISED: bool = !cfg!(debug_assertions);

/// An attack lasts so long at least: one that is over before the others could be late shows nothing.
const LASTS_MIN: Duration = Duration::from_secs(2);

/// Whether requests are passed on that no route takes. Those of the attacks are not, and must be answered as ever: but
/// how they are read is the other way, which is stricter and keeps connections longer.
pub static FALLBACK: AtomicBool = AtomicBool::new(false);
const PASSED_ON: &str = "[fallback]\nrules = [{ path = \"/behind/*\", to = \"http://127.0.0.1:9\" }]\n\n";
/// What stands behind, unless an attack says otherwise.
pub const NOBODY: &str = "127.0.0.1:9";

/// What encryption may cost beside: so many connections by TLS have a mebibyte more than without. One that waits holds
/// some 8 KiB, and for a handshake or a record it is more.
const CONNECTIONS_PER_MIB: usize = 64;

/// How a scene is set.
pub struct Setting {
    routes: String,
    descriptors: Option<usize>,
}

/// The shipped routes, with nothing changed.
pub fn shipped() -> Setting {
    let fallback = if FALLBACK.load(Ordering::Relaxed) { PASSED_ON } else { "" };
    let tls = TLS.get().map_or_else(String::new, |_| {
        format!("[server.tls]\ncert_file = \"{CERT_FILE}\"\nkey_file = \"{KEY_FILE}\"\n\n")
    });
    Setting { routes: format!("{fallback}{tls}{SHIPPED}"), descriptors: None }
}

impl Setting {
    /// Replaces the first `from` in the routes, which must be there.
    pub fn with(mut self, from: &str, to: &str) -> Self {
        assert!(self.routes.contains(from), "{from}");
        self.routes = self.routes.replacen(from, to, 1);
        self
    }

    /// A limit of the server's.
    pub fn server_limit(self, limit: &str) -> Self {
        let table = "[server.limits]\n";
        let setting = if self.routes.contains(table) {
            self
        } else {
            self.with("[upstream]\n", &format!("{table}\n[upstream]\n"))
        };
        setting.with(table, &format!("{table}{limit}\n"))
    }

    /// How long a client of the old typed API may take for its token.
    pub fn auth_deadline(self, deadline: &str) -> Self {
        let with = format!("auth = {{ required = true, deadline = \"{deadline}\" }}");
        self.with("auth = { required = true }", &with)
    }

    /// The bridge may have so many files open.
    pub fn descriptors(mut self, most: usize) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// Sets the scene: everybody is in service, and the calm phase is measured.
    pub async fn open(self, name: &str) -> Scene {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("bystander")
            .enable_all()
            .build()
            .unwrap();
        let sandbox = runtime.spawn(Sandbox::start(Options::local())).await.unwrap().unwrap();
        let sandbox = Arc::new(sandbox);
        let bridge = Bridge::start(&sandbox.app(), &self.routes, self.descriptors).await;
        let others = Bystanders::start(bridge.address, sandbox.clone());
        let others = runtime.spawn(others).await.unwrap();
        // A newcomer may be there for the moment: this is what there is without one, or a little more.
        let before = Figures {
            resident_kib: bridge.resident_kib(),
            descriptors: bridge.descriptors(),
            threads: bridge.threads(),
            tasks: bridge.metrics().await.tasks(),
            log_lines: bridge.log().lines.load(Ordering::Relaxed),
        };
        others.attack();
        let _ = most_at_once();
        let (name, began) = (name.to_owned(), Instant::now());
        Scene { name, bridge, sandbox, others, before, began, _world: World(Some(runtime)) }
    }
}

struct Figures {
    resident_kib: u64,
    descriptors: usize,
    threads: u64,
    tasks: f64,
    log_lines: u64,
}

/// An attack under way.
pub struct Scene {
    name: String,
    pub bridge: Bridge,
    pub sandbox: Arc<SandboxHandle>,
    others: Bystanders,
    before: Figures,
    began: Instant,
    _world: World,
}

/// How an attack is to be judged.
pub struct Verdict {
    /// What was sent, for the table.
    pub sent: String,
    /// Memory that the attack may have cost at its height, without TLS.
    pub bound_mib: u64,
    /// How it ended, for the table.
    pub ended: &'static str,
    /// Whether newcomers may have been turned away.
    pub closed_to_newcomers: bool,
}

impl Scene {
    /// When the attack has lasted long enough.
    pub fn end(&self) -> Instant {
        self.began + LASTS_MIN
    }

    /// The attack is over: everything goes back to where it was, and nobody else has noticed much.
    pub async fn over(mut self, verdict: Verdict) -> Row {
        assert!(Instant::now() >= self.end(), "it was over after {:?}", self.began.elapsed());
        self.others.attack_over();
        self.others.stop_newcomers(self.bridge.address).await;
        self.bridge.until("only the others to be connected", |m| m.connections() == WATCHING as f64).await;
        self.bridge.settles("descriptors", self.before.descriptors, Bridge::descriptors).await;
        self.bridge.settles("threads", self.before.threads, Bridge::threads).await;
        let metrics = self.bridge.until("no more tasks", |m| m.tasks() <= self.before.tasks).await;
        assert_eq!(metrics.get("pusher_bridge_accept_errors_total"), 0.0, "accepting never failed");
        assert_eq!(metrics.defects(), 0.0, "no session ended by a defect");
        assert_eq!(*self.bridge.log().defects.lock().unwrap(), Vec::<String>::new());
        let [calm, attacked] = self.others.finish().await;
        assert!(attacked.p99 <= LATE_MAX, "the others' events came late: {attacked:?}, calm {calm:?}");
        // A newcomer's handshake waits in the same queue as theirs.
        let login_max = if TLS.get().is_some() { LOGIN_MAX * 3 / 2 } else { LOGIN_MAX };
        assert!(attacked.slowest <= login_max, "newcomers waited: {attacked:?}, calm {calm:?}");
        assert!(verdict.closed_to_newcomers || attacked.refused == 0, "newcomers were refused: {attacked:?}");
        let peak_kib = self.bridge.peak_kib();
        let cost_kib = peak_kib.saturating_sub(self.before.resident_kib);
        let bound_mib = verdict.bound_mib + most_at_once().div_ceil(CONNECTIONS_PER_MIB) as u64;
        assert!(cost_kib <= bound_mib * 1024, "it cost {cost_kib} KiB of memory, {bound_mib} MiB at most");
        Row {
            name: self.name,
            sent: verdict.sent,
            before_kib: self.before.resident_kib,
            peak_kib,
            bound_mib,
            calm,
            attacked,
            log_lines: self.bridge.log().lines.load(Ordering::Relaxed) - self.before.log_lines,
            ended: verdict.ended.to_owned(),
        }
    }
}

/// A runtime that may be dropped within another one, as it is when an attack fails: nothing waits for it.
struct World(Option<Runtime>);

impl Drop for World {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
