//! What the admin address knows of the configuration in force, and how it asks for another.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::clock::Now;

/// Reloads that may be waited for at once.
const ORDERS_MAX: usize = 8;

/// Somebody asks for a reload.
#[derive(Debug)]
pub struct Order {
    /// Only to be told what it would do.
    pub dry_run: bool,
    pub answer: oneshot::Sender<Told>,
}

/// What became of it.
#[derive(Debug)]
pub struct Told {
    pub status: StatusCode,
    pub body: Value,
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Of the file's text, in hexadecimal digits; `None` where it is of no file.
    pub sha256: Option<String>,
    pub since: Now,
}

/// Why the file as it is now is not in force.
#[derive(Clone, Debug)]
pub struct Failure {
    pub at: Now,
    /// As the metric calls it.
    pub result: &'static str,
    pub file: String,
    /// From 1; `None` where it is none of the file's.
    pub line: Option<usize>,
    pub reason: String,
}

/// Where the admin address and whoever reloads meet.
#[derive(Debug)]
pub struct Desk {
    orders: OnceLock<mpsc::Sender<Order>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    in_force: InForce,
    failure: Option<Failure>,
}

impl Desk {
    pub(super) fn new(since: Now) -> Self {
        let in_force = InForce { sha256: None, since };
        Self { orders: OnceLock::new(), state: Mutex::new(State { in_force, failure: None }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on orders are carried out by whoever has the receiver. To be called once.
    #[must_use]
    pub fn open(&self) -> mpsc::Receiver<Order> {
        let (sender, receiver) = mpsc::channel(ORDERS_MAX);
        let _ = self.orders.set(sender);
        receiver
    }

    /// This configuration is in force, and nothing is wrong with it.
    pub fn note_in_force(&self, in_force: InForce) {
        *self.state() = State { in_force, failure: None };
    }

    /// The file is wrong, and the configuration stays.
    pub fn note_failure(&self, failure: Failure) {
        self.state().failure = Some(failure);
    }

    /// Asks for a reload, and waits for what becomes of it.
    pub(super) async fn ask(&self, dry_run: bool) -> Told {
        let no = |status, why: &str| Told { status, body: json!({ "result": "refused", "reason": why }) };
        let Some(orders) = self.orders.get() else {
            return no(StatusCode::NOT_FOUND, "this bridge has no file to read again");
        };
        let (answer, told) = oneshot::channel();
        match orders.try_send(Order { dry_run, answer }) {
            Ok(()) => {
                told.await.unwrap_or_else(|_| no(StatusCode::SERVICE_UNAVAILABLE, "the bridge shuts down"))
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                no(StatusCode::SERVICE_UNAVAILABLE, "so many reloads are waiting already")
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                no(StatusCode::SERVICE_UNAVAILABLE, "the bridge shuts down")
            }
        }
    }

    /// The lines of `/readyz`: none while the file as it is now is in force.
    pub(super) fn lines(&self) -> String {
        self.state().failure.as_ref().map_or_else(String::new, |failure| {
            let line = failure.line.map(|line| format!(":{line}")).unwrap_or_default();
            format!("configuration not reloaded: {}{line}: {}\n", failure.file, failure.reason)
        })
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        let state = self.state();
        let failure = state.failure.as_ref().map(|failure| {
            json!({
                "at": failure.at.rfc3339(),
                "result": failure.result,
                "file": failure.file,
                "line": failure.line,
                "reason": failure.reason,
            })
        });
        json!({
            "sha256": state.in_force.sha256,
            "since": state.in_force.since.rfc3339(),
            "not_reloaded": failure,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;

    fn failure() -> Failure {
        Failure {
            at: now(),
            result: "invalid",
            file: "routes.toml".into(),
            line: Some(3),
            reason: "unknown key `litsen`".into(),
        }
    }

    #[test]
    fn a_failure_is_told_until_the_file_is_in_force() {
        let desk = Desk::new(now());
        assert_eq!((desk.lines().as_str(), &desk.json()["not_reloaded"]), ("", &Value::Null));
        desk.note_failure(failure());
        assert_eq!(desk.lines(), "configuration not reloaded: routes.toml:3: unknown key `litsen`\n");
        assert_eq!(desk.json()["not_reloaded"]["line"], 3);
        desk.note_in_force(InForce { sha256: Some("ab".into()), since: now() });
        assert_eq!((desk.lines().as_str(), &desk.json()["sha256"]), ("", &json!("ab")));
    }

    #[tokio::test]
    async fn so_many_wait_and_without_a_file_nobody_does() {
        let desk = Desk::new(now());
        assert_eq!(desk.ask(true).await.status, StatusCode::NOT_FOUND);
        let mut orders = desk.open();
        let waiting: Vec<_> = (0..ORDERS_MAX).map(|_| Box::pin(desk.ask(true))).collect();
        let mut all = futures_util::future::join_all(waiting);
        tokio::select! {
            biased;
            told = &mut all => panic!("{told:?}"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(desk.ask(false).await.status, StatusCode::SERVICE_UNAVAILABLE);
        while let Ok(order) = orders.try_recv() {
            assert!(order.dry_run);
            let _ = order.answer.send(Told { status: StatusCode::OK, body: Value::Null });
        }
        assert!(all.await.iter().all(|told| told.status == StatusCode::OK));
        drop(orders);
        assert_eq!(desk.ask(true).await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
}
