//! What a declaration gives: handles, made once, so that counting looks nothing up.

use std::marker::PhantomData;

use metrics::{Counter, Gauge, Histogram, Key, Label as Pair, Level, Metadata, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::{DeclaredLabel, Kind, Label, Registry};

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Something that can be declared: a handle, or one for each value of a label.
pub trait Series: Sized {
    /// The metric's kind.
    const KIND: Kind;

    /// The labels, beyond those that are given when it is made.
    fn labels() -> Vec<DeclaredLabel>;

    /// The handle of the series with these labels, which is there from now on.
    fn register(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Pair>) -> Self;

    /// One that counts nothing.
    fn noop() -> Self;
}

macro_rules! handles {
    ($($handle:ident, $register:ident;)+) => {
        $(impl Series for $handle {
            const KIND: Kind = Kind::$handle;

            fn labels() -> Vec<DeclaredLabel> {
                Vec::new()
            }

            fn register(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Pair>) -> Self {
                recorder.$register(&Key::from_parts(name, labels), &METADATA)
            }

            fn noop() -> Self {
                $handle::noop()
            }
        })+
    };
}
handles! {
    Counter, register_counter;
    Gauge, register_gauge;
    Histogram, register_histogram;
}

/// One series for each value of a label. All are there from the start: one that begins with its first event hides
/// that event from `increase()`.
#[derive(Clone, Debug)]
pub struct Family<L, S = Counter> {
    series: Box<[S]>,
    noop: S,
    label: PhantomData<fn(L)>,
}

impl<L: Label, S: Series> Family<L, S> {
    /// The series of this value.
    pub fn get(&self, value: L) -> &S {
        self.series.get(value.index()).unwrap_or(&self.noop)
    }

    fn of(recorder: &PrometheusRecorder, name: &'static str, labels: &[Pair], values: &[L]) -> Self {
        let series = L::VALUES.iter().map(|value| {
            if !values.iter().any(|wanted| wanted.index() == value.index()) {
                return S::noop();
            }
            S::register(recorder, name, [labels, &[Pair::new(L::KEY, value.text())]].concat())
        });
        Self { series: series.collect(), noop: S::noop(), label: PhantomData }
    }
}

impl<L: Label, S: Series> Series for Family<L, S> {
    const KIND: Kind = S::KIND;

    fn labels() -> Vec<DeclaredLabel> {
        let own = DeclaredLabel { key: L::KEY, values: L::VALUES.iter().map(|value| value.text()).collect() };
        [vec![own], S::labels()].concat()
    }

    fn register(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Pair>) -> Self {
        Self::of(recorder, name, &labels, L::VALUES)
    }

    fn noop() -> Self {
        Self { series: Box::default(), noop: S::noop(), label: PhantomData }
    }
}

/// Series told apart by a name that is known when the bridge runs: of a route, of a link, never of something that a
/// client sent.
#[derive(Clone, Debug)]
pub struct Named<S> {
    registry: Registry,
    name: &'static str,
    key: &'static str,
    series: PhantomData<fn() -> S>,
}

impl<S: Series> Named<S> {
    pub(super) fn new(registry: Registry, name: &'static str, key: &'static str) -> Self {
        Self { registry, name, key, series: PhantomData }
    }

    /// The series of this name, which are there from now on. To be asked for once and kept.
    pub fn named(&self, name: impl ToString) -> S {
        S::register(self.registry.recorder(), self.name, vec![Pair::new(self.key, name.to_string())])
    }
}

impl<L: Label, S: Series> Named<Family<L, S>> {
    /// As [`Self::named`], where only these values can come.
    pub fn with_only(&self, name: impl ToString, values: &[L]) -> Family<L, S> {
        let labels = [Pair::new(self.key, name.to_string())];
        Family::of(self.registry.recorder(), self.name, &labels, values)
    }
}

/// A gauge's share, taken back on drop.
#[derive(Debug)]
pub struct GaugeGuard {
    gauge: Gauge,
    share: f64,
}

impl GaugeGuard {
    /// Adds `share` to the gauge.
    pub fn new(gauge: &Gauge, share: f64) -> Self {
        gauge.increment(share);
        Self { gauge: gauge.clone(), share }
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.gauge.decrement(self.share);
    }
}
