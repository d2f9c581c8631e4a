//! What a run has to show: one row for each checkpoint, and what happened how often.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::memory;
use crate::process::Held;

/// A checkpoint: all since the start.
#[derive(Debug, Serialize)]
pub struct Row {
    pub seconds: u64,
    pub connections: u64,
    /// Events that clients got, each checked.
    pub delivered: u64,
    /// Those that clients missed where a link was lost.
    pub missed: u64,
    pub published: u64,
    /// Messages of clients.
    pub sent: u64,
    /// Those that their neighbours got, each checked.
    pub relayed: u64,
    /// Those that a link brought back, when their requests had been given up.
    pub late_copies: u64,
    pub observed: u64,
    pub echoed: u64,
    pub faults: u64,
    pub held: Held,
}

pub const HEADER: &str = "    time connections  delivered   missed published     sent relayed  copies observed   echoed  faults  Rss KiB  fds threads tasks";

impl Row {
    pub fn print(&self) {
        let Held { rss_kib, descriptors, threads, tasks } = self.held;
        println!(
            "{:>6} s {:>11} {:>10} {:>8} {:>9} {:>8} {:>7} {:>7} {:>8} {:>8} {:>7} {:>8} {:>4} {:>7} {:>5}",
            self.seconds,
            self.connections,
            self.delivered,
            self.missed,
            self.published,
            self.sent,
            self.relayed,
            self.late_copies,
            self.observed,
            self.echoed,
            self.faults,
            rss_kib,
            descriptors,
            threads,
            tasks
        );
    }
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub seed: u64,
    pub clients: usize,
    pub rows: Vec<Row>,
    pub faults: BTreeMap<&'static str, u64>,
    /// What the bridge counted, by label.
    pub counted: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// Messages in publishing requests that named a link to be left out, and that named none.
    pub named: [u64; 2],
    pub wrong: Vec<String>,
}

impl Report {
    pub fn check_memory(&self) -> Result<(), String> {
        // The first row is the start.
        let rests: Vec<u64> = self.rows.iter().skip(1).map(|row| row.held.rss_kib).collect();
        memory::judge(&rests)
    }

    pub fn print(&self) {
        println!("\n{HEADER}");
        self.rows.iter().for_each(Row::print);
        println!("\nfaults: {}", counts(&self.faults));
        let [named, unnamed] = self.named;
        println!("\nmessages published with a link to leave out: {named}, with none: {unnamed}");
        for (what, by_label) in &self.counted {
            println!("\n{what}: {}", counts(by_label));
        }
        let verdict = if self.wrong.is_empty() { "passed" } else { "FAILED" };
        println!(
            "\nsoak: {verdict} (seed {}, {} clients, {} wrong)",
            self.seed,
            self.clients,
            self.wrong.len()
        );
    }

    pub fn write(&self, file: &Path) {
        let text = serde_json::to_string_pretty(self).expect("a report is JSON");
        std::fs::write(file, text + "\n").expect("the report to be written");
    }
}

fn counts<K: std::fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    counts.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
}
