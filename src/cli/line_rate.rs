//! A rate for log lines of one kind. How many there are is up to whoever connects, and whatever keeps a log keeps
//! only so much of it: a flood of one kind must not push everything else out.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

use crate::clock::Now;
use crate::limits::rate::Rate;
use crate::limits::rate::RateGate;

/// Seconds whose lines may come at once: when all clients leave, each is logged.
const BURST_S: u32 = 100;
/// Characters of a message that tell its kind.
const LIKE_CHARS_MAX: usize = 80;

/// One rate per kind. A kind is a place in the program.
pub(super) struct LineRate {
    rate: Option<Rate>,
    kinds: Mutex<HashMap<Identifier, Kind>>,
    left_out: Arc<AtomicU64>,
}

struct Kind {
    gate: RateGate,
    like: String,
    left_out: u64,
}

impl LineRate {
    /// `lines_per_s` of each kind, or all for 0. What is left out is added to `left_out`.
    pub(super) fn new(lines_per_s: u32, left_out: Arc<AtomicU64>) -> Self {
        let burst = lines_per_s.saturating_mul(BURST_S);
        let rate = Rate { count: lines_per_s, per: Duration::from_secs(1), burst };
        Self { rate: (lines_per_s > 0).then_some(rate), kinds: Mutex::default(), left_out }
    }

    /// Whether one more of a kind is to be written; `like` is its message.
    fn admits(&self, kind: Identifier, now: Instant, like: impl FnOnce() -> String) -> bool {
        let Some(rate) = self.rate else { return true };
        let mut kinds = self.kinds();
        let kind = kinds.entry(kind).or_insert_with(|| Kind {
            gate: RateGate::new(rate),
            like: like().escape_debug().take(LIKE_CHARS_MAX).collect(),
            left_out: 0,
        });
        let admitted = kind.gate.check(now).is_ok();
        if !admitted {
            kind.left_out += 1;
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// What was left out since this was last asked: messages, and how many of each.
    pub(super) fn take_left_out(&self) -> Vec<(String, u64)> {
        let mut kinds = self.kinds();
        let flooded = kinds.values_mut().filter(|kind| kind.left_out > 0);
        flooded.map(|kind| (kind.like.clone(), std::mem::take(&mut kind.left_out))).collect()
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<Identifier, Kind>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets through what the rate admits.
pub(super) struct Admitted(pub(super) Arc<LineRate>);

impl<S: Subscriber> Filter<S> for Admitted {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let like = || {
            let mut message = Message(String::new());
            event.record(&mut message);
            message.0
        };
        self.0.admits(event.metadata().callsite(), Now::read().mono, like)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::{Layer, registry};

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<Identifier>>>);

    impl<S: Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(event.metadata().callsite());
        }
    }

    /// The places of what `log` logs, as far as `rate` admits it.
    fn logged(rate: &Arc<LineRate>, log: impl FnOnce()) -> Vec<Identifier> {
        let seen = Seen::default();
        let layer = seen.clone().with_filter(Admitted(rate.clone()));
        tracing::subscriber::with_default(registry().with(layer), log);
        seen.0.lock().unwrap().clone()
    }

    fn kinds() -> Vec<Identifier> {
        logged(&Arc::new(LineRate::new(0, Arc::default())), || {
            tracing::info!("one");
            tracing::info!("two");
        })
    }

    #[test]
    fn places_are_told_apart_by_the_filter_too() {
        let rate = Arc::new(LineRate::new(1, Arc::default()));
        let log = || {
            for n in 0..1000 {
                tracing::info!(n, "flood");
            }
            tracing::info!("other");
        };
        let written = logged(&rate, log).len() as u64;
        let left_out = rate.take_left_out();
        assert_eq!(left_out.len(), 1, "{left_out:?}");
        assert_eq!(left_out[0].0, "flood");
        assert_eq!(written + left_out[0].1, 1001);
        assert!(left_out[0].1 > 800, "{left_out:?}");
    }

    #[test]
    fn a_flood_of_one_kind_is_thinned_and_counted() {
        let [flood, other] = kinds().try_into().unwrap();
        let left_out = Arc::<AtomicU64>::default();
        let rate = LineRate::new(2, left_out.clone());
        let start = Now::read().mono;
        let written =
            (0..1000).filter(|_| rate.admits(flood.clone(), start, || "re\u{1b}fused".into())).count();
        assert_eq!(written, 200);
        assert!(rate.admits(other, start, || "other".into()));
        assert_eq!(left_out.load(Ordering::Relaxed), 800);
        assert_eq!(rate.take_left_out(), [("re\\u{1b}fused".to_owned(), 800)]);
        assert_eq!(rate.take_left_out(), []);
        let later = start + Duration::from_secs(1);
        let written = (0..10).filter(|_| rate.admits(flood.clone(), later, String::new)).count();
        assert_eq!(written, 2);
        assert_eq!(rate.take_left_out().first().map(|(_, lines)| *lines), Some(8));
    }

    #[test]
    fn without_a_rate_all_are_written() {
        let kind = kinds().remove(0);
        let rate = LineRate::new(0, Arc::default());
        let start = Now::read().mono;
        assert!((0..100_000).all(|_| rate.admits(kind.clone(), start, String::new)));
    }
}
