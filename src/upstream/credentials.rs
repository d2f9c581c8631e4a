//! Whether the app's credentials are taken: what links see, and what Pusher's HTTP API says when it is asked. It is asked
//! once at the start, and when a link is refused in a way that may be the credentials' fault.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::api::{Api, Checked};
use super::lost::End;
use super::misconfigured::{self, Misconfigured};
use super::refused::Refused;
use crate::metrics::{Family, Gauge, Registry};

/// Between two questions to the API at least.
const ASKED_EVERY_MIN: Duration = Duration::from_secs(2);
/// After an answer by which something is wrong, until it is asked again whether that was set right.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// What is wrong, as far as it is known.
#[derive(Debug)]
pub struct Findings {
    gauges: Family<Misconfigured, Gauge>,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    by_link: Option<(Misconfigured, String)>,
    by_api: Option<(Misconfigured, String)>,
    /// Of credentials that are to take the place of those that are used.
    by_rotation: Option<(Misconfigured, String)>,
}

impl Findings {
    #[must_use]
    pub fn new(registry: &Registry) -> Arc<Self> {
        let gauges = registry.declare(
            "pusher_bridge_upstream_misconfigured",
            "1 while Pusher says that this of the app's credentials is wrong",
        );
        Arc::new(Self { gauges, found: Mutex::default() })
    }

    /// What is wrong, with Pusher's text: one line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let found = self.found();
        let mut lines: Vec<String> = Vec::new();
        let new = found.by_rotation.as_ref();
        lines.extend(new.map(|(what, why)| {
            format!("the new key is not taken, and the old one serves on: {} ({why})", what.label())
        }));
        for (what, why) in [&found.by_link, &found.by_api].into_iter().flatten() {
            let line = format!("misconfigured: {}", what.label());
            if !lines.iter().any(|before| before.starts_with(&line)) {
                lines.push(if why.is_empty() { line } else { format!("{line} ({why})") });
            }
        }
        lines
    }

    /// Pusher does not take the credentials that are to be used from now on.
    pub fn refused_rotation(&self, what: Misconfigured, why: String) {
        self.change(|found| found.by_rotation = Some((what, why)));
    }

    /// There are none such any more.
    pub fn rotated(&self) {
        self.change(|found| found.by_rotation = None);
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Found)) {
        let whats = |found: &Found| {
            [&found.by_link, &found.by_api, &found.by_rotation].map(|one| one.as_ref().map(|(what, _)| *what))
        };
        let mut found = self.found();
        let before = whats(&found);
        change(&mut found);
        let after = whats(&found);
        for what in Misconfigured::ALL {
            let is_wrong = after.contains(&Some(what));
            self.gauges.get(what).set(f64::from(u8::from(is_wrong)));
            if is_wrong && !before.contains(&Some(what)) {
                let texts = [&found.by_link, &found.by_api, &found.by_rotation].into_iter().flatten();
                let why = texts.filter(|(of, _)| *of == what).map(|(_, why)| why.as_str()).next();
                tracing::error!(
                    what = what.label(),
                    why,
                    "upstream is misconfigured: Pusher does not take this"
                );
            } else if !is_wrong && before.contains(&Some(what)) {
                tracing::info!(what = what.label(), "upstream is not misconfigured any more");
            }
        }
    }
}

/// By which links say what they see.
#[derive(Clone, Debug)]
pub struct Credentials {
    findings: Arc<Findings>,
    /// `None`: nobody asks the API.
    asks: Option<mpsc::Sender<()>>,
}

impl Credentials {
    /// What links say goes to `findings`; the API is asked by what is returned beside it, which ends when nobody can want
    /// to know any more.
    pub fn watched(
        findings: Arc<Findings>,
        api: Arc<Api>,
        timeout: Duration,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (asks, asked) = mpsc::channel(1);
        let watching = watch(findings.clone(), api, timeout, asked);
        let _ = asks.try_send(());
        (Self { findings, asks: Some(asks) }, watching)
    }

    /// The same, and nobody asks the API.
    #[must_use]
    pub const fn unwatched(findings: Arc<Findings>) -> Self {
        Self { findings, asks: None }
    }

    /// A link is connected: the key is right.
    pub fn connected(&self) {
        if self.findings.found().by_link.is_some() {
            self.findings.change(|found| found.by_link = None);
        }
    }

    /// A connection has ended, or did not come about.
    pub fn ended(&self, end: &End) {
        if let Some(what) = misconfigured::by_end(end) {
            self.findings.change(|found| found.by_link = Some((what, end.why.clone())));
        } else if misconfigured::is_worth_asking(end) {
            self.ask();
        }
    }

    /// A subscription was refused.
    pub fn refused(&self, why: Refused) {
        if why == Refused::Unauthorized {
            self.ask();
        }
    }

    fn ask(&self) {
        if let Some(asks) = &self.asks {
            // Full: it will be asked.
            let _ = asks.try_send(());
        }
    }
}

async fn watch(findings: Arc<Findings>, api: Arc<Api>, one: Duration, mut asked: mpsc::Receiver<()>) {
    loop {
        let is_wrong = findings.found().by_api.is_some();
        let next = if is_wrong {
            timeout(ASKED_AGAIN_AFTER, asked.recv()).await.unwrap_or(Some(()))
        } else {
            asked.recv().await
        };
        if next.is_none() {
            return;
        }
        match api.check(one).await {
            Checked::Fine => findings.change(|found| found.by_api = None),
            Checked::Misconfigured(what, why) => {
                findings.change(|found| found.by_api = Some((what, why)));
            }
            Checked::Unknown => {}
        }
        sleep(ASKED_EVERY_MIN).await;
    }
}
