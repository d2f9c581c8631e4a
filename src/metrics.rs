//! Where each room declares what it counts, and what `/metrics` is rendered from. A declaration has all there is to
//! say of a metric: its name, its help, and by its type its kind and its labels.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{KeyName, Recorder};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

pub(crate) mod label;
mod series;

pub use metrics::{Counter, Gauge, Histogram};

pub use self::label::Label;
pub use self::series::{Family, GaugeGuard, Named, Series};

/// A histogram's buckets: from 10 µs to 10 s.
const SECONDS: [f64; 13] =
    [0.000_01, 0.000_03, 0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// What a metric measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// How often something happened.
    Counter,
    /// What is now.
    Gauge,
    /// How long something took, in seconds.
    Histogram,
}

/// A label, and what it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredLabel {
    pub key: &'static str,
    /// Its values; none where they are names that are known when the bridge runs.
    pub values: Vec<&'static str>,
}

/// A metric, as it was declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Its name on `/metrics`.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// What `/metrics` says of it.
    pub help: &'static str,
    /// Its labels, in order.
    pub labels: Vec<DeclaredLabel>,
}

/// All metrics of one bridge.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    declared: Mutex<Vec<Declared>>,
    /// What sets the metrics that nobody counts as they happen.
    collectors: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
    infos: Mutex<Vec<Info>>,
}

impl Registry {
    /// An empty one.
    ///
    /// # Errors
    /// The exporter rejects the buckets; it does not.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new().set_buckets(&SECONDS)?.build_recorder();
        let handle = recorder.handle();
        Ok(Self(Arc::new(Inner {
            recorder,
            handle,
            declared: Mutex::default(),
            collectors: Mutex::default(),
            infos: Mutex::default(),
        })))
    }

    /// Declares a metric, once. Its series are there from now on.
    pub fn declare<S: Series>(&self, name: &'static str, help: &'static str) -> S {
        self.describe::<S>(name, help, S::labels());
        S::register(self.recorder(), name, Vec::new())
    }

    /// Declares a metric whose series have a label of this key before their others, with names that are known when
    /// the bridge runs.
    pub fn declare_named<S: Series>(
        &self,
        key: &'static str,
        name: &'static str,
        help: &'static str,
    ) -> Named<S> {
        let mut labels = S::labels();
        labels.insert(0, DeclaredLabel { key, values: Vec::new() });
        self.describe::<S>(name, help, labels);
        Named::new(self.clone(), name, key)
    }

    /// Declares a metric that only says something, by the value of its label.
    pub fn declare_info(&self, key: &'static str, name: &'static str, help: &'static str) -> Info {
        let labels = vec![DeclaredLabel { key, values: Vec::new() }];
        let info = Info { name, help, key, says: Arc::new(Mutex::new("none".to_owned())) };
        lock(&self.0.declared).push(Declared { name, kind: Kind::Gauge, help, labels });
        lock(&self.0.infos).push(info.clone());
        info
    }

    fn describe<S: Series>(&self, name: &'static str, help: &'static str, labels: Vec<DeclaredLabel>) {
        let key = KeyName::from_const_str(name);
        match S::KIND {
            Kind::Counter => self.0.recorder.describe_counter(key, None, help.into()),
            Kind::Gauge => self.0.recorder.describe_gauge(key, None, help.into()),
            Kind::Histogram => self.0.recorder.describe_histogram(key, None, help.into()),
        }
        lock(&self.0.declared).push(Declared { name, kind: S::KIND, help, labels });
    }

    /// What was declared so far.
    #[must_use]
    pub fn declared(&self) -> Vec<Declared> {
        lock(&self.0.declared).clone()
    }

    /// Has `collect` called before each rendering, to set what is not counted as it happens.
    pub fn before_render(&self, collect: impl Fn() + Send + Sync + 'static) {
        lock(&self.0.collectors).push(Box::new(collect));
    }

    #[must_use]
    pub fn render(&self) -> String {
        lock(&self.0.collectors).iter().for_each(|collect| collect());
        let mut text = self.0.handle.render();
        lock(&self.0.infos).iter().for_each(|info| info.render(&mut text));
        text
    }

    /// Moves the histograms' samples into their buckets; to be called every few seconds.
    pub fn upkeep(&self) {
        self.0.handle.run_upkeep();
    }

    fn recorder(&self) -> &PrometheusRecorder {
        &self.0.recorder
    }
}

/// A series of 1 that says something by its label. Other than those of [`Named`], it is one: with what it says now, what it
/// said before is gone.
#[derive(Clone, Debug)]
pub struct Info {
    name: &'static str,
    help: &'static str,
    key: &'static str,
    says: Arc<Mutex<String>>,
}

impl Info {
    /// From now on it says this; before it was told anything, it says `none`.
    pub fn say(&self, what: impl Into<String>) {
        *lock(&self.says) = what.into();
    }

    fn render(&self, out: &mut String) {
        let Self { name, help, key, says } = self;
        let value = lock(says).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name}{{{key}=\"{value}\"}} 1\n\n");
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registry({} metrics)", lock(&self.0.declared).len())
    }
}

/// Valid between any two calls, whatever panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::label::labels;
    use super::*;

    labels! {
        /// A label to test with.
        enum Colour: "colour" {
            Red = "red",
            Blue = "blue",
        }
    }

    labels! {
        enum Side: "side" {
            Left = "left",
            Right = "right",
        }
    }

    #[test]
    fn every_series_is_there_from_the_start_with_its_kind_and_help() {
        let registry = Registry::new().unwrap();
        let plain: Counter = registry.declare("a_total", "Plain");
        let family: Family<Colour, Gauge> = registry.declare("b", "By colour");
        let routes: Named<Family<Side, Family<Colour>>> =
            registry.declare_named("route", "c_total", "By route, side and colour");
        let seconds: Histogram = registry.declare("d_seconds", "Time");
        let shown = |line: &str| {
            let text = registry.render();
            assert!(text.lines().any(|shown| shown == line), "{line} is not in {text}");
        };
        for line in ["# HELP a_total Plain", "# TYPE a_total counter", "a_total 0"] {
            shown(line);
        }
        assert!(!registry.render().contains("c_total"), "no route is known");
        let route = routes.named("r");
        for line in [
            "# TYPE b gauge",
            r#"b{colour="red"} 0"#,
            r#"b{colour="blue"} 0"#,
            r#"c_total{route="r",side="left",colour="red"} 0"#,
            r#"c_total{route="r",side="right",colour="blue"} 0"#,
            "# TYPE d_seconds histogram",
            r#"d_seconds_bucket{le="0.00001"} 0"#,
            r#"d_seconds_bucket{le="10"} 0"#,
        ] {
            shown(line);
        }
        plain.increment(1);
        family.get(Colour::Blue).set(2.0);
        route.get(Side::Left).get(Colour::Red).increment(3);
        routes.named("r").get(Side::Left).get(Colour::Red).increment(1);
        seconds.record(0.002);
        for line in [
            "a_total 1",
            r#"b{colour="blue"} 2"#,
            r#"c_total{route="r",side="left",colour="red"} 4"#,
            r#"d_seconds_bucket{le="0.001"} 0"#,
            r#"d_seconds_bucket{le="0.003"} 1"#,
        ] {
            shown(line);
        }
    }

    #[test]
    fn a_value_is_at_its_place_and_has_its_text() {
        assert_eq!(Colour::VALUES.iter().map(|colour| colour.index()).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(Colour::ALL.map(Colour::label), ["red", "blue"]);
    }

    #[test]
    fn a_declaration_tells_kind_help_and_labels() {
        let registry = Registry::new().unwrap();
        let _: Named<Family<Colour, Gauge>> = registry.declare_named("route", "a", "Help");
        let colours = DeclaredLabel { key: "colour", values: vec!["red", "blue"] };
        let labels = vec![DeclaredLabel { key: "route", values: vec![] }, colours];
        let declared = vec![Declared { name: "a", kind: Kind::Gauge, help: "Help", labels }];
        assert_eq!(registry.declared(), declared);
    }

    #[test]
    fn of_a_name_there_may_be_some_values_only_and_the_others_count_nothing() {
        let registry = Registry::new().unwrap();
        let routes: Named<Family<Colour, Gauge>> = registry.declare_named("route", "a", "Help");
        let red = routes.with_only("none", &[Colour::Red]);
        red.get(Colour::Red).increment(1.0);
        red.get(Colour::Blue).increment(1.0);
        let text = registry.render();
        assert!(text.contains("a{route=\"none\",colour=\"red\"} 1\n") && !text.contains("blue"), "{text}");
    }

    #[test]
    fn a_guard_gives_its_share_back_and_collectors_run_before_each_rendering() {
        let registry = Registry::new().unwrap();
        let gauge: Gauge = registry.declare("a", "Help");
        let guard = GaugeGuard::new(&gauge, 2.0);
        assert!(registry.render().contains("\na 2\n"));
        drop(guard);
        assert!(registry.render().contains("\na 0\n"));
        let scrapes = std::sync::atomic::AtomicU32::new(0);
        registry.before_render(move || gauge.set(scrapes.fetch_add(1, std::sync::atomic::Ordering::Relaxed)));
        assert!(registry.render().contains("\na 0\n"));
        assert!(registry.render().contains("\na 1\n"));
    }
}
