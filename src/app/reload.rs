//! Reloads, one at a time: the file is read, compared with what is in force, and put in its place as a whole, or not at
//! all.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::StatusCode;
use serde_json::json;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::StartError;
use super::endpoints;
use super::fallback;
use super::files::{Watch, entries_of, settled};
use super::metrics::Metrics;
use super::succession::Succession;
use super::tasks::Tasks;
use crate::admin::reload::{Failure, InForce, Order, Told};
use crate::clock::Now;
use crate::config::Config;
use crate::config::plan::{Clients, Fate, Plan, line_of};
use crate::metrics::label::labels;
use crate::metrics::{Family, Gauge, Info, Registry};
use crate::server::worker::Door;
use crate::session::context::{self, Context, Reloaded};
use crate::upstream::api::{Api, Pair};
use crate::upstream::occupancy::Occupancy;
use crate::upstream::rotation::Rotation;
use crate::upstream::settings::App;

/// How long a worker may take to tell its connections. It is not waited for any longer; they are told all the same.
const TELLING_MAX: Duration = Duration::from_secs(10);

labels! {
    /// What became of a reload.
    pub enum ReloadResult: "result" {
        /// What the file says now is in force.
        Applied = "applied",
        /// It says what it said before.
        Unchanged = "unchanged",
        /// It has an error, or cannot be read, or needs what is not there.
        Invalid = "invalid",
        /// It changes what cannot be changed at run time.
        NeedsRestart = "needs_restart",
        /// The bridge shuts down.
        Draining = "draining",
    }
}

/// What asks for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// SIGHUP.
    Signal,
    /// `POST /reload`.
    Admin,
    /// A file has changed.
    Files,
}

impl Trigger {
    const fn label(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Admin => "admin",
            Self::Files => "files",
        }
    }
}

/// What a file said when it was read.
#[derive(Debug)]
pub struct Reading {
    /// The file, as it is called in messages.
    pub name: String,
    /// What it said.
    pub text: String,
    /// It, and every file that it names.
    pub files: Vec<PathBuf>,
    /// What that means.
    pub config: Result<Config, Unreadable>,
}

/// Why there is no configuration.
#[derive(Debug)]
pub struct Unreadable {
    /// From 1.
    pub line: Option<usize>,
    /// The first of what is wrong, in a sentence.
    pub reason: String,
    /// All of it, with lines and carets.
    pub shown: String,
}

/// Reads the file again. It may wait for a disk.
pub type Read = Arc<dyn Fn() -> Reading + Send + Sync>;

/// Where a configuration is from.
pub struct File {
    /// What the file said.
    pub text: String,
    /// It, and every file that it names.
    pub files: Vec<PathBuf>,
    /// Reads it again.
    pub read: Read,
    /// Whether it is read again when one of the files has changed.
    pub watch: bool,
}

pub(super) struct ReloadMetrics {
    results: Family<ReloadResult>,
    timestamp: Gauge,
    current: Gauge,
    info: Info,
}

impl ReloadMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            results: registry
                .declare("pusher_bridge_reloads_total", "Reloads of the configuration, by result"),
            timestamp: registry.declare(
                "pusher_bridge_config_timestamp_seconds",
                "Since when the configuration is in force, Unix time",
            ),
            current: registry.declare(
                "pusher_bridge_config_current",
                "1 while what is in force is the file as it was last read",
            ),
            info: registry.declare_info(
                "sha256",
                "pusher_bridge_config_info",
                "Always 1; the label is of the file that is in force",
            ),
        }
    }
}

/// Asks for reloads.
#[derive(Clone)]
pub struct Reloads(mpsc::Sender<Message>);

enum Message {
    /// And whom to tell when it is over.
    Reload(Trigger, Option<oneshot::Sender<()>>),
    Replace(Box<Config>, oneshot::Sender<Result<Plan, StartError>>),
    Stop(oneshot::Sender<Tasks>),
}

impl Reloads {
    /// Asks for a reload, and does not wait for it. One that is asked for already is enough.
    pub fn ask(&self, trigger: Trigger) {
        let _ = self.0.try_send(Message::Reload(trigger, None));
    }

    /// Asks for a reload, and waits until it is over, whatever became of it.
    pub async fn ask_and_wait(&self, trigger: Trigger) {
        let (over, told) = oneshot::channel();
        if self.0.send(Message::Reload(trigger, Some(over))).await.is_ok() {
            let _ = told.await;
        }
    }

    /// Puts `config` in force.
    pub(super) async fn replace(&self, config: Config) -> Result<Plan, StartError> {
        let (answer, told) = oneshot::channel();
        let _ = self.0.send(Message::Replace(Box::new(config), answer)).await;
        told.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Ends it; gives what publishes.
    pub(super) async fn stop(&self) -> Option<Tasks> {
        let (answer, told) = oneshot::channel();
        self.0.send(Message::Stop(answer)).await.ok()?;
        told.await.ok()
    }
}

fn ended() -> StartError {
    super::failed("reload")("the bridge shuts down")
}

/// What it takes to reload.
pub(super) struct Reloader {
    pub(super) read: Option<Read>,
    pub(super) in_force: Arc<ArcSwap<Config>>,
    pub(super) succession: Succession,
    pub(super) publishing: Tasks,
    pub(super) door: Arc<Door>,
    /// Of each worker. Not owned: with the last session the publisher's entrance is gone.
    pub(super) contexts: Vec<Weak<Context>>,
    pub(super) workers: Vec<mpsc::Sender<Reloaded>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) api: Arc<Api>,
    pub(super) rotation: Arc<Rotation>,
    pub(super) tls: Arc<rustls::ClientConfig>,
    /// The one that is under way; it ends with this.
    pub(super) rotating: JoinSet<()>,
    pub(super) occupancy: Option<Arc<Occupancy>>,
    pub(super) watch: Option<Watch>,
    /// What the file said when it was last read, and what was wrong with it.
    pub(super) last: Option<(String, Option<String>)>,
}

/// What became of a reload, for whoever asked.
struct Outcome {
    result: ReloadResult,
    plan: Option<Plan>,
    failure: Option<Wrong>,
}

struct Wrong {
    failure: Failure,
    /// As `check` shows it.
    shown: String,
}

impl Outcome {
    const fn of(result: ReloadResult) -> Self {
        Self { result, plan: None, failure: None }
    }
}

impl Reloader {
    /// Begins to take orders on the current runtime. `file` is where the configuration in force is from.
    pub(super) fn start(mut self, file: Option<File>) -> Reloads {
        let (sender, mut messages) = mpsc::channel(1);
        let mut orders = mpsc::channel(1).1;
        match file {
            Some(File { text, files, read, watch }) => {
                orders = self.door.status.reloads.open();
                self.note_in_force(Some(text), Now::read());
                if watch {
                    self.watch(&files, &read, sender.clone());
                }
                self.read = Some(read);
            }
            None => self.note_in_force(None, Now::read()),
        }
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = messages.recv() => message,
                    Some(order) = orders.recv() => {
                        self.carry_out(order).await;
                        continue;
                    }
                };
                match message {
                    Some(Message::Reload(trigger, over)) => {
                        self.reload(trigger, false).await;
                        over.map(|over| over.send(()));
                    }
                    Some(Message::Replace(config, answer)) => {
                        let plan = Plan::between(&self.in_force.load(), &config);
                        _ = answer.send(self.apply(*config, &plan).await.map(|()| plan));
                    }
                    Some(Message::Stop(answer)) => {
                        _ = answer.send(self.publishing);
                        return;
                    }
                    // Whoever could shut the bridge down is gone.
                    None => return,
                }
            }
        });
        Reloads(sender)
    }

    /// From now on changes of files are told to `reloads`.
    fn watch(&mut self, files: &[PathBuf], read: &Read, reloads: mpsc::Sender<Message>) {
        let changed = Arc::new(Notify::new());
        match Watch::start(changed.clone()) {
            Ok(mut watch) => {
                watch.follow(entries_of(files));
                // They may have changed before they were watched. Here and now, for nobody is served yet: a reload would
                // have a thread made for it.
                let is_old = |config: &Config| Plan::between(&self.in_force.load(), config).is_nothing();
                if !read().config.is_ok_and(|config| is_old(&config)) {
                    watch.read_again();
                }
                self.watch = Some(watch);
                tokio::spawn(async move {
                    loop {
                        settled(&changed).await;
                        if reloads.send(Message::Reload(Trigger::Files, None)).await.is_err() {
                            return;
                        }
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "files cannot be watched: ask for reloads by SIGHUP or `POST /reload`");
            }
        }
    }

    async fn carry_out(&mut self, Order { dry_run, answer }: Order) {
        // Before: those that are closed are gone behind it.
        let clients = self.clients();
        let Outcome { result, plan, failure } = self.reload(Trigger::Admin, dry_run).await;
        let status = match result {
            ReloadResult::Applied | ReloadResult::Unchanged => StatusCode::OK,
            ReloadResult::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ReloadResult::NeedsRestart => StatusCode::CONFLICT,
            ReloadResult::Draining => StatusCode::SERVICE_UNAVAILABLE,
        };
        let plan = plan.map(|plan| plan.json(Some(&clients)));
        let mut body = json!({ "result": result.label(), "dry_run": dry_run, "plan": plan });
        if let (Some(wrong), Some(body)) = (failure, body.as_object_mut()) {
            body.insert("file".to_owned(), wrong.failure.file.into());
            body.insert("line".to_owned(), wrong.failure.line.into());
            body.insert("reason".to_owned(), wrong.failure.reason.into());
            body.insert("shown".to_owned(), wrong.shown.into());
        }
        let _ = answer.send(Told { status, body });
    }

    /// Reads the file, and puts it in force if nothing is wrong with it. A dry run only says what would be.
    async fn reload(&mut self, trigger: Trigger, dry_run: bool) -> Outcome {
        let Some(read) = self.read.clone() else { return Outcome::of(ReloadResult::Unchanged) };
        if self.door.status.is_draining() {
            if !dry_run {
                tracing::warn!(trigger = trigger.label(), "no reload: the bridge shuts down");
                self.metrics.reloads.results.get(ReloadResult::Draining).increment(1);
            }
            return Outcome::of(ReloadResult::Draining);
        }
        // Files may be slow, and links and lanes live on this thread.
        let read = move || {
            let reading = read();
            (entries_of(&reading.files), reading)
        };
        let Ok((entries, reading)) = tokio::task::spawn_blocking(read).await else {
            return Outcome::of(ReloadResult::Invalid);
        };
        if let Some(watch) = &mut self.watch
            && watch.follow(entries)
        {
            watch.read_again();
        }
        let Reading { name, text, files: _, config } = reading;
        let outcome = self.put_in_force(name, &text, config, dry_run).await;
        if !dry_run {
            self.note(trigger, text, &outcome);
            // Who asks may have rotated them just now.
            let asked = trigger != Trigger::Files && outcome.failure.is_none();
            if let Some(judge) = self.succession.generations.current().judge().filter(|_| asked) {
                judge.verifier.fetch_again(Now::read());
            }
        }
        outcome
    }

    async fn put_in_force(
        &mut self,
        file: String,
        text: &str,
        config: Result<Config, Unreadable>,
        dry_run: bool,
    ) -> Outcome {
        let failed = |result: ReloadResult, plan, Unreadable { line, reason, shown }| {
            let failure = Failure { at: Now::read(), result: result.label(), file, line, reason };
            Outcome { result, plan, failure: Some(Wrong { failure, shown }) }
        };
        let config = match config {
            Ok(config) => config,
            Err(wrong) => return failed(ReloadResult::Invalid, None, wrong),
        };
        let plan = Plan::between(&self.in_force.load(), &config);
        if !plan.fixed.is_empty() {
            let line = plan.fixed.iter().find_map(|key| line_of(text, key));
            let reason = format!("cannot be changed at run time: {}", plan.fixed.join(", "));
            let shown = plan.text(None);
            return failed(ReloadResult::NeedsRestart, Some(plan), Unreadable { line, reason, shown });
        }
        let result = if plan.is_nothing() { ReloadResult::Unchanged } else { ReloadResult::Applied };
        if !dry_run && let Err(error) = self.apply(config, &plan).await {
            let shown = format!("error: {error}\n");
            let wrong = Unreadable { line: None, reason: error.to_string(), shown };
            return failed(ReloadResult::Invalid, Some(plan), wrong);
        }
        Outcome { result, plan: Some(plan), failure: None }
    }

    /// Counts, logs and shows what became of a reload. A file may change without saying anything else, by another time
    /// or another owner, and then that is not worth a word.
    fn note(&mut self, trigger: Trigger, text: String, outcome: &Outcome) {
        let reason = outcome.failure.as_ref().map(|wrong| wrong.failure.reason.clone());
        let is_same = self.last.as_ref().is_some_and(|(last, _)| *last == text);
        let was_wrong = self.last.as_ref().and_then(|(_, wrong)| wrong.clone());
        let is_old = is_same && outcome.result != ReloadResult::Applied && was_wrong == reason;
        let says_nothing = trigger == Trigger::Files && is_old;
        if !says_nothing {
            self.metrics.reloads.results.get(outcome.result).increment(1);
        }
        match (&outcome.failure, &outcome.plan) {
            _ if says_nothing => {}
            (Some(Wrong { failure, .. }), _) => {
                tracing::error!(
                    trigger = trigger.label(),
                    result = outcome.result.label(),
                    file = failure.file,
                    line = failure.line,
                    reason = failure.reason,
                    "the configuration was not reloaded"
                );
                self.metrics.reloads.current.set(0.0);
                self.door.status.reloads.note_failure(failure.clone());
            }
            (None, Some(plan)) if outcome.result == ReloadResult::Applied => {
                let count = |is: fn(&Fate) -> bool| plan.routes.iter().filter(|(_, fate)| is(fate)).count();
                tracing::info!(
                    trigger = trigger.label(),
                    adjusted = count(|fate| matches!(fate, Fate::Adjusted(_))),
                    closing = count(Fate::closes),
                    added = count(|fate| matches!(fate, Fate::Added)),
                    keys = plan.applied.join(", "),
                    "the configuration was reloaded"
                );
            }
            (None, _) => tracing::info!(trigger = trigger.label(), "the configuration is as it was"),
        }
        match reason {
            Some(reason) => self.last = Some((text, Some(reason))),
            None if is_old => {}
            None => self.note_in_force(Some(text), Now::read()),
        }
    }

    fn note_in_force(&mut self, text: Option<String>, since: Now) {
        let sha256 = text.as_deref().map(sha256);
        self.metrics.reloads.timestamp.set(since.unix_ms as f64 / 1000.0);
        self.metrics.reloads.current.set(1.0);
        self.metrics.reloads.info.say(sha256.as_deref().unwrap_or("none"));
        self.door.status.reloads.note_in_force(InForce { sha256, since });
        self.last = text.map(|text| (text, None));
    }

    /// Puts `config` in force: for who comes, and for who is there. What changes nothing touches nothing.
    async fn apply(&mut self, config: Config, plan: &Plan) -> Result<(), StartError> {
        if !plan.fixed.is_empty() {
            return Err(super::failed("cannot be changed at run time")(plan.fixed.join(", ")));
        }
        let config = Arc::new(config);
        if plan.is_nothing() {
            self.in_force.store(config);
            return Ok(());
        }
        let before = self.succession.generations.held();
        let news = self.succession.replace(&config, &mut self.publishing)?;
        let after = self.succession.generations.held();
        let endpoints = {
            let before = self.door.endpoints.load();
            let (api, occupancy) = (self.api.clone(), self.occupancy.clone());
            endpoints::endpoints(before.as_deref(), &config, api, occupancy, &self.metrics)
        };
        self.door.endpoints.store(endpoints);
        self.door.fallback.store(fallback::fallback(&config, &self.metrics));
        self.door.tunnels.store(fallback::tunnels(&config, &self.metrics));
        self.door.settings.store(Arc::new(config.server.clone()));
        self.metrics.server.tls_expires(super::expiry(&config));
        self.door.status.follow(&config.admin, config.server.close_window);
        if let Some(shared) = self.succession.sessions.upgrade() {
            shared.settings.store(Arc::new(sessions(&config)));
        }
        let app = config.upstream.app.clone();
        let in_force = self.in_force.swap(config);
        self.rotate(&in_force.upstream.app, app);
        // The window in which they close is known by now.
        news.tell();
        let telling = self.workers.iter().map(async |worker| {
            let (done, told) = oneshot::channel();
            let reloaded = Reloaded { before: before.clone(), after: after.clone(), done };
            // One that has ended has no connections.
            if worker.send(reloaded).await.is_ok() {
                let _ = told.await;
            }
        });
        if timeout(TELLING_MAX, futures_util::future::join_all(telling)).await.is_err() {
            tracing::warn!("a worker is slow to tell its connections of the new configuration");
        }
        Ok(())
    }

    /// Has other credentials used, if they are others.
    fn rotate(&mut self, before: &App, after: App) {
        if Pair::of(before).is_of(&after) {
            return;
        }
        // One that is not done yet is not done.
        self.rotating = JoinSet::new();
        self.rotation.findings.rotated();
        let (rotation, tls) = (self.rotation.clone(), self.tls.clone());
        self.rotating.spawn(async move { rotation.to(after, tls).await });
    }

    /// How many clients each route has now.
    fn clients(&self) -> Clients {
        let generation = self.succession.generations.held();
        let mut clients = Clients::new();
        for context in self.contexts.iter().filter_map(Weak::upgrade) {
            for (id, count) in context.clients() {
                let route = generation.routes().iter().find(|route| route.id() == id);
                if let Some(route) = route {
                    *clients.entry(route.name.clone()).or_default() += count;
                }
            }
        }
        for route in self.succession.history.tunnels() {
            *clients.entry(route.rules().name.clone()).or_default() += route.open();
        }
        clients
    }
}

/// What sessions need of the configuration beside their routes.
pub(super) fn sessions(config: &Config) -> context::Settings {
    context::Settings {
        subscribe_wait: config.upstream.times.subscribe_timeout,
        close_window: config.server.close_window,
    }
}

/// In hexadecimal digits, as `sha256sum` has it.
fn sha256(text: &str) -> String {
    use std::fmt::Write as _;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}
