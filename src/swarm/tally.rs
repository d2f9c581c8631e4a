//! Pure: what became of simulated clients, counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::end::End;
use crate::text::printable;

/// Different texts that are kept; further ones are counted as one.
const REASONS_MAX: usize = 20;
/// Under this name.
const OTHER: &str = "others";

/// How long things took: counted in classes, each at most 1/32 wider than its beginning.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// By class; as long as the largest needs.
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

/// Classes from one power of two to the next.
const CLASSES: u64 = 32;

impl Histogram {
    pub fn add(&mut self, nanoseconds: u64) {
        let micros = nanoseconds / 1_000;
        let class = class(micros);
        if self.counts.len() <= class {
            self.counts.resize(class + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(class) {
            *count += 1;
        }
        self.total += 1;
        self.max = self.max.max(micros);
    }

    fn merge(&mut self, other: &Self) {
        let length = self.counts.len().max(other.counts.len());
        self.counts.resize(length, 0);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    #[must_use]
    pub const fn count(&self) -> u64 {
        self.total
    }

    /// What the given share took no longer than, milliseconds.
    fn quantile(&self, share: f64) -> f64 {
        let rank = (self.total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (class, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(class).min(self.max) as f64 / 1_000.0;
            }
        }
        self.max as f64 / 1_000.0
    }

    fn text(&self) -> String {
        let at = |share| milliseconds(self.quantile(share));
        format!(
            "median {}, 90 % {}, 99 % {}, longest {} ms",
            at(0.5),
            at(0.9),
            at(0.99),
            milliseconds(self.max as f64 / 1_000.0)
        )
    }

    fn json(&self) -> Value {
        json!({
            "count": self.total, "p50_ms": self.quantile(0.5), "p90_ms": self.quantile(0.9),
            "p99_ms": self.quantile(0.99), "max_ms": self.max as f64 / 1_000.0,
        })
    }
}

fn milliseconds(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// Below `CLASSES` each number has its own.
fn class(micros: u64) -> usize {
    let shift = (u64::BITS - micros.leading_zeros()).saturating_sub(CLASSES.trailing_zeros() + 1);
    let class = u64::from(shift) * CLASSES + (micros >> shift);
    usize::try_from(class).unwrap_or(usize::MAX)
}

/// The largest of a class.
fn upper(class: usize) -> u64 {
    let class = class as u64;
    if class < 2 * CLASSES {
        return class;
    }
    let shift = class / CLASSES - 1;
    (((class % CLASSES + CLASSES + 1) << shift) - 1).max(class)
}

/// What became of the clients of one thread, or of all.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// From the first packet to the answered upgrade.
    pub connects: Histogram,
    /// Of these not the first of their client.
    pub again: u64,
    pub refused: BTreeMap<u16, u64>,
    pub unreachable: BTreeMap<String, u64>,
    pub closed: BTreeMap<u16, u64>,
    pub cut: u64,
    pub misspoken: BTreeMap<String, u64>,
    pub left: u64,
    pub sent: u64,
    pub received: u64,
    /// By step: how long it was waited, and how often in vain.
    pub waits: BTreeMap<usize, (Histogram, u64)>,
    /// From sending to another client's hearing it.
    pub delays: Histogram,
    /// Numbered messages that a client did not get between others.
    pub lost: u64,
    /// And that it got again, or late.
    pub twice: u64,
    /// Whose client had too many senders to follow each.
    pub unfollowed: u64,
}

impl Tally {
    pub fn end(&mut self, end: End) {
        match end {
            End::Unreachable(why) => count(&mut self.unreachable, &why),
            End::Refused(status) => *self.refused.entry(status).or_default() += 1,
            End::Closed { code, .. } => *self.closed.entry(code).or_default() += 1,
            End::Cut(_) => self.cut += 1,
            End::Misspoken(what) => count(&mut self.misspoken, &what),
            End::Left => self.left += 1,
        }
    }

    pub fn merge(&mut self, other: &Self) {
        let Self {
            connects,
            again,
            refused,
            unreachable,
            closed,
            cut,
            misspoken,
            left,
            sent,
            received,
            waits,
            delays,
            lost,
            twice,
            unfollowed,
        } = other;
        self.connects.merge(connects);
        self.delays.merge(delays);
        for (own, more) in [(&mut self.refused, refused), (&mut self.closed, closed)] {
            more.iter().for_each(|(code, count)| *own.entry(*code).or_default() += count);
        }
        for (own, more) in [(&mut self.unreachable, unreachable), (&mut self.misspoken, misspoken)] {
            more.iter().for_each(|(why, count)| add(own, why, *count));
        }
        for (step, (histogram, vain)) in waits {
            let own = self.waits.entry(*step).or_default();
            own.0.merge(histogram);
            own.1 += vain;
        }
        for (own, more) in [
            (&mut self.again, again),
            (&mut self.cut, cut),
            (&mut self.left, left),
            (&mut self.sent, sent),
            (&mut self.received, received),
            (&mut self.lost, lost),
            (&mut self.twice, twice),
            (&mut self.unfollowed, unfollowed),
        ] {
            *own += more;
        }
    }

    /// Connections that were not made.
    #[must_use]
    pub fn unconnected(&self) -> u64 {
        self.refused.values().chain(self.unreachable.values()).sum()
    }

    /// All that a server should not do to clients: connections that were not made, what was waited for in vain, what was
    /// not understood, numbered messages lost or doubled. A close is none: it may be what a script is about.
    #[must_use]
    pub fn failures(&self) -> u64 {
        let vain: u64 = self.waits.values().map(|(_, vain)| vain).sum();
        let misspoken: u64 = self.misspoken.values().sum();
        self.unconnected() + vain + misspoken + self.lost + self.twice
    }

    /// For people.
    #[must_use]
    pub fn text(&self, took: Duration) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<13}{value}");
        };
        line("connected", self.connects.count().to_string());
        if self.connects.count() > 0 {
            line("", format!("within {}", self.connects.text()));
        }
        if self.again > 0 {
            line("", format!("{} of these again", self.again));
        }
        for (status, count) in &self.refused {
            line("refused", format!("{count} with HTTP {status}"));
        }
        for (why, count) in &self.unreachable {
            line("unreachable", format!("{count}: {}", printable(why)));
        }
        for (code, count) in &self.closed {
            line("closed", format!("{count} with {code}"));
        }
        if self.cut > 0 {
            line("cut", format!("{} without a close frame", self.cut));
        }
        for (what, count) in &self.misspoken {
            line("not expected", format!("{count}: {}", printable(what)));
        }
        line("messages", format!("{} sent, {} received", self.sent, self.received));
        for (step, (histogram, vain)) in &self.waits {
            let name = format!("step {}", step + 1);
            if histogram.count() > 0 {
                line(&name, format!("waited {} times: {}", histogram.count(), histogram.text()));
            }
            if *vain > 0 {
                line(&name, format!("waited {vain} times in vain"));
            }
        }
        if self.delays.count() > 0 {
            line("delays", format!("{} marked messages: {}", self.delays.count(), self.delays.text()));
            line("numbers", format!("{} lost, {} twice or late", self.lost, self.twice));
        }
        if self.unfollowed > 0 {
            line("", format!("{} not followed: too many senders for one client", self.unfollowed));
        }
        line("failures", self.failures().to_string());
        line("took", format!("{:.1} s", took.as_secs_f64()));
        out
    }

    /// For programs.
    #[must_use]
    pub fn json(&self, took: Duration) -> Value {
        let waits: BTreeMap<String, Value> = self
            .waits
            .iter()
            .map(|(step, (histogram, vain))| {
                let mut value = histogram.json();
                if let Value::Object(members) = &mut value {
                    members.insert("in_vain".to_owned(), (*vain).into());
                }
                ((step + 1).to_string(), value)
            })
            .collect();
        json!({
            "connected": self.connects.json(), "connected_again": self.again, "refused": self.refused,
            "unreachable": self.unreachable, "closed": self.closed, "cut": self.cut,
            "not_expected": self.misspoken, "left": self.left, "sent": self.sent, "received": self.received,
            "waits": waits, "delays": self.delays.json(), "lost": self.lost, "twice": self.twice,
            "not_followed": self.unfollowed, "failures": self.failures(), "seconds": took.as_secs_f64(),
        })
    }
}

fn count(reasons: &mut BTreeMap<String, u64>, why: &str) {
    add(reasons, why, 1);
}

fn add(reasons: &mut BTreeMap<String, u64>, why: &str, more: u64) {
    let is_kept = reasons.contains_key(why) || reasons.len() < REASONS_MAX;
    *reasons.entry(if is_kept { why } else { OTHER }.to_owned()).or_default() += more;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_class_holds_what_is_counted_in_it(micros in 0_u64..1 << 50) {
            let (class, upper) = (class(micros), upper(class(micros)));
            prop_assert!(micros <= upper && (upper - micros) * CLASSES <= micros.max(1), "{micros}: {class} {upper}");
            prop_assert!(super::class(upper) == class && super::class(upper + 1) == class + 1);
        }

        #[test]
        fn merging_is_adding(one in prop::collection::vec(any::<u32>(), 0..50), other in prop::collection::vec(any::<u32>(), 0..50)) {
            let of = |values: &[u32]| {
                let mut histogram = Histogram::default();
                values.iter().for_each(|value| histogram.add(u64::from(*value) * 1_000));
                histogram
            };
            let mut merged = of(&one);
            merged.merge(&of(&other));
            let all = of(&[one, other].concat());
            prop_assert_eq!(merged.json(), all.json());
        }
    }

    #[test]
    fn quantiles_are_near_what_was_added() {
        let mut histogram = Histogram::default();
        (1..=1_000_u64).for_each(|ms| histogram.add(ms * 1_000_000));
        for (share, ms) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let found = histogram.quantile(share);
            assert!(found >= ms && found <= ms * 1.04, "{share}: {found}");
        }
        assert!(Histogram::default().quantile(0.5).abs() < f64::EPSILON);
    }

    #[test]
    fn failures_are_what_a_server_should_not_do() {
        let mut tally = Tally { lost: 1, twice: 2, ..Tally::default() };
        for (end, failures) in [
            (End::Left, 3),
            (End::Closed { code: 1001, reason: String::new() }, 3),
            (End::Cut(String::new()), 3),
            (End::Refused(429), 4),
            (End::Unreachable("connection refused".into()), 5),
            (End::Misspoken("a frame".into()), 6),
        ] {
            tally.end(end);
            assert_eq!(tally.failures(), failures);
        }
        tally.waits.entry(1).or_default().1 = 4;
        let mut both = tally.clone();
        both.merge(&tally);
        assert_eq!((both.failures(), both.unconnected()), (20, 4));
        let text = both.text(Duration::from_secs(1));
        for line in [
            "refused      2 with HTTP 429",
            "closed       2 with 1001",
            "step 2       waited 8 times in vain",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert_eq!(both.json(Duration::ZERO)["unreachable"]["connection refused"], 2);
    }

    #[test]
    fn no_server_makes_the_reasons_many() {
        let mut tally = Tally::default();
        (0..1_000).for_each(|n| tally.end(End::Unreachable(n.to_string())));
        assert!(
            tally.unreachable.len() == REASONS_MAX + 1
                && tally.unreachable[OTHER] == 1_000 - REASONS_MAX as u64
        );
    }
}
