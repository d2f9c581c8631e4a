//! Figures of all rounds, and the table made of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::contender::Contender;
use crate::scenario::Scenario;

/// Who the others are compared with.
const BASES: [Contender; 5] =
    [Contender::Floor, Contender::FloorMt, Contender::Node, Contender::Haproxy, Contender::Nginx];

/// One figure of one round.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
}

impl Measure {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), unit, value }
    }
}

/// What is known about one figure.
struct Row {
    scenario: Scenario,
    name: String,
    unit: &'static str,
    /// Each contender's values, one per round.
    values: BTreeMap<Contender, Vec<f64>>,
}

/// All of it.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    /// What could not be measured, and why.
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, scenario: Scenario, contender: Contender, measures: Vec<Measure>) {
        let mut next =
            self.rows.iter().rposition(|row| row.scenario == scenario).map_or(self.rows.len(), |at| at + 1);
        for Measure { name, unit, value } in measures {
            let known = self.rows.iter().position(|row| row.scenario == scenario && row.name == name);
            // A new figure stands where it stands among its contender's.
            let at = known.unwrap_or(next);
            if known.is_none() {
                self.rows.insert(at, Row { scenario, name, unit, values: BTreeMap::new() });
            }
            if let Some(row) = self.rows.get_mut(at) {
                row.values.entry(contender).or_default().push(value);
            }
            next = at + 1;
        }
    }

    pub(crate) fn fail(&mut self, scenario: Scenario, contender: Contender, why: &crate::Failure) {
        self.failures.push(format!("{scenario}, {contender}: {why}"));
    }

    pub(crate) fn failures(&self) -> usize {
        self.failures.len()
    }

    /// Markdown.
    pub(crate) fn table(&self, facts: &[(&'static str, String)]) -> String {
        let mut text = String::new();
        for (name, fact) in facts {
            let _ = writeln!(text, "- {name}: {fact}");
        }
        // Beside whom it is shown: those that any figure has.
        let is_there = |base: &Contender| self.rows.iter().any(|row| row.values.contains_key(base));
        let bases: Vec<Contender> = BASES.into_iter().filter(is_there).collect();
        let titles: String = bases.iter().map(|base| format!(" × {base} |")).collect();
        let _ = writeln!(text, "\n| what | unit | contender | median | lowest–highest |{titles}");
        let _ = writeln!(text, "|---|---|---|--:|--:|{}", "--:|".repeat(bases.len()));
        for row in &self.rows {
            for (contender, values) in &row.values {
                let (middle, low, high) = spread(values);
                let ratio = |other: &Contender| {
                    row.ratio(*contender, *other)
                        .map_or(" – |".to_owned(), |ratio| format!(" {ratio:.2} |"))
                };
                let _ = writeln!(
                    text,
                    "| {}: {} | {} | {contender} | {} | {}–{} |{}",
                    row.scenario,
                    row.name,
                    row.unit,
                    figure(middle),
                    figure(low),
                    figure(high),
                    bases.iter().map(ratio).collect::<String>(),
                );
            }
        }
        for failure in &self.failures {
            let _ = writeln!(text, "\nFAILED: {failure}");
        }
        text
    }

    pub(crate) fn json(&self, facts: &[(&'static str, String)]) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .flat_map(|row| {
                row.values.iter().map(move |(contender, values)| {
                    json!({
                        "scenario": row.scenario.to_string(),
                        "name": row.name,
                        "unit": row.unit,
                        "contender": contender.to_string(),
                        "rounds": values,
                        "median": spread(values).0,
                        "to_floor": row.ratio(*contender, Contender::Floor),
                        "to_floor_mt": row.ratio(*contender, Contender::FloorMt),
                        "to_node": row.ratio(*contender, Contender::Node),
                        "to_haproxy": row.ratio(*contender, Contender::Haproxy),
                        "to_nginx": row.ratio(*contender, Contender::Nginx),
                    })
                })
            })
            .collect();
        let facts: serde_json::Map<String, Value> =
            facts.iter().map(|(name, fact)| ((*name).to_owned(), fact.clone().into())).collect();
        json!({"facts": facts, "figures": rows, "failures": self.failures})
    }
}

impl Row {
    fn ratio(&self, contender: Contender, other: Contender) -> Option<f64> {
        let (own, base) = (spread(self.values.get(&contender)?).0, spread(self.values.get(&other)?).0);
        (base > 0.0).then(|| own / base)
    }
}

/// Median, lowest and highest.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    let middle = sorted.len() / 2;
    let median =
        if sorted.len() % 2 == 1 { at(middle) } else { (at(middle.wrapping_sub(1)) + at(middle)) / 2.0 };
    (median, at(0), at(sorted.len().wrapping_sub(1)))
}

/// Three digits or more.
fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_table_shows_medians_and_their_ratios() {
        let mut report = Report::default();
        for (contender, values) in [
            (Contender::Floor, [2.0, 9.0, 4.0]),
            (Contender::FloorMt, [3.0, 3.0, 1.0]),
            (Contender::Node, [8.0, 8.0, 8.0]),
            (Contender::Bridge, [6.0, 5.0, 7.0]),
        ] {
            for value in values {
                report.add(Scenario::Fanout, contender, vec![Measure::new("CPU", "s", value)]);
            }
        }
        let table = report.table(&[]);
        assert!(
            table.contains("| fanout: CPU | s | bridge | 6.00 | 5.00–7.00 | 1.50 | 2.00 | 0.75 |"),
            "{table}"
        );
        assert_eq!(report.json(&[])["figures"][3]["rounds"], json!([6.0, 5.0, 7.0]));
    }

    #[test]
    fn an_even_number_of_rounds_has_a_median_too() {
        assert_eq!(spread(&[4.0, 1.0]), (2.5, 1.0, 4.0));
    }
}
