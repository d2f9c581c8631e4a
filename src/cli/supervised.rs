//! What systemd, or whoever speaks as it does, has to do with the program: sockets that it passes (`sd_listen_fds(3)`), and
//! what it is told (`sd_notify(3)`). Without it all of this is nothing.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use super::Failure;
use crate::admin::Status;
use crate::app::Passed;

/// The names of the passed sockets, separated by colons.
const NAMES: &str = "LISTEN_FDNAMES";
/// Of the watchdog's time, it is fed so often.
const FEEDINGS: u32 = 3;

/// The sockets that were passed to this process. To be asked before there are threads: it takes them out of the
/// environment.
///
/// # Errors
/// One that is no listener, or whose name says not what it is for.
pub(super) fn passed() -> Result<Passed, Failure> {
    let names = std::env::var(NAMES).unwrap_or_default();
    let mut sockets = ListenFd::from_env();
    let mut passed = Passed::default();
    for index in 0..sockets.len() {
        let listener = sockets.take_tcp_listener(index).map_err(Failure::runtime)?;
        let name = names.split(':').nth(index).unwrap_or_default();
        let place = match name {
            "listen" => &mut passed.listen,
            "admin" => &mut passed.admin,
            _ => return Err(unknown(name)),
        };
        put(place, listener, name)?;
    }
    Ok(passed)
}

fn put(place: &mut Option<TcpListener>, listener: Option<TcpListener>, name: &str) -> Result<(), Failure> {
    if place.is_some() {
        return Err(Failure::runtime(format!("two sockets named `{name}` were passed")));
    }
    *place = listener;
    Ok(())
}

fn unknown(name: &str) -> Failure {
    Failure::runtime(format!(
        "a socket named `{name}` was passed: FileDescriptorName must be `listen` or `admin`"
    ))
}

/// Tells it, if it is there.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "NOTIFY_SOCKET cannot be told");
    }
}

/// Whoever waits for the start may go on, as may who waited for a reload.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload has begun; [`ready`] ends it.
pub(super) fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    tell(&states);
}

/// No clients are welcome any more.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds the watchdog while every worker moves, until the future is dropped; and this thread must, too.
pub(super) async fn feed_watchdog(status: Arc<Status>) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    feed(patience, || status.is_alive(), || tell(&[NotifyState::Watchdog])).await;
}

async fn feed(patience: Duration, is_alive: impl Fn() -> bool, give: impl Fn()) {
    let mut ticks = interval(patience / FEEDINGS);
    // Who was stuck is not fed for the time that is over.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if is_alive() {
            give();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::{advance, timeout};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// How often it is fed within this time.
    async fn fed(time: Duration, is_alive: impl Fn() -> bool) -> u32 {
        let meals = Cell::new(0);
        let feeding = feed(PATIENCE, is_alive, || meals.set(meals.get() + 1));
        assert!(timeout(time, feeding).await.is_err(), "it goes on");
        meals.get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_watchdog_is_fed_in_time_while_all_workers_move_and_starves_while_one_does_not() {
        let (almost, begun) = (PATIENCE * 10 - Duration::from_secs(1), tokio::time::Instant::now());
        assert_eq!(fed(almost, || true).await, 10 * FEEDINGS);
        assert_eq!(fed(almost, || false).await, 0);
        // It is stuck for a while, and moves again.
        let stuck = begun + 2 * almost + PATIENCE * 2..begun + 2 * almost + PATIENCE * 5;
        assert_eq!(fed(almost, || !stuck.contains(&tokio::time::Instant::now())).await, 7 * FEEDINGS);
    }

    /// The thread that feeds it is itself one that must move.
    #[tokio::test(start_paused = true)]
    async fn a_watchdog_starves_while_the_main_thread_does_not_move() {
        let meals = Cell::new(0);
        let mut feeding = std::pin::pin!(feed(PATIENCE, || true, || meals.set(meals.get() + 1)));
        assert!(timeout(Duration::from_secs(1), feeding.as_mut()).await.is_err());
        assert_eq!(meals.get(), 1);
        // Nothing of the runtime runs meanwhile; its clock, which stands still, is told what passed.
        advance(PATIENCE * 4).await;
        assert_eq!(meals.get(), 1);
        assert!(timeout(Duration::from_secs(1), feeding.as_mut()).await.is_err());
        assert_eq!(meals.get(), 2, "one meal, not twelve");
    }
}
