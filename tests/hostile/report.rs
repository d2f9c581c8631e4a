//! What an attack came to, as a row of one table.

use std::time::Duration;

/// One attack.
pub struct Row {
    pub name: String,
    pub sent: String,
    pub before_kib: u64,
    pub peak_kib: u64,
    pub bound_mib: u64,
    pub calm: Noticed,
    pub attacked: Noticed,
    pub log_lines: u64,
    pub ended: String,
}

/// What the others noticed in one phase.
#[derive(Clone, Debug)]
pub struct Noticed {
    /// Events received, by all clients together.
    pub events: usize,
    pub p50: Duration,
    pub p99: Duration,
    /// Newcomers in service.
    pub logins: usize,
    /// Newcomers that were turned away.
    pub refused: usize,
    /// The slowest login.
    pub slowest: Duration,
}

/// The smallest delay that `share` of them do not exceed.
pub fn percentile(delays: &mut [Duration], share: f64) -> Duration {
    delays.sort_unstable();
    let rank = (share * delays.len() as f64).ceil() as usize;
    delays.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// All of them in Markdown.
pub fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "| attack | what it sent | memory before → peak (MiB) | bound | others' p99 calm → attack (ms) \
         | slowest login calm → attack (ms) | how it ended |\n|---|---|--:|--:|--:|--:|---|\n",
    );
    for row in rows {
        let name = row.name.split("::").last().unwrap_or_default().replace('_', " ");
        let mib = |kib: u64| kib as f64 / 1024.0;
        let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
        let login = |noticed: &Noticed| match (noticed.logins, noticed.refused) {
            (0, 0) => "–".to_owned(),
            (0, _) => "refused".to_owned(),
            _ => ms(noticed.slowest),
        };
        out += &format!(
            "| {name} | {} | {:.1} → {:.1} | +{} | {} → {} | {} → {} | {} |\n",
            row.sent,
            mib(row.before_kib),
            mib(row.peak_kib),
            row.bound_mib,
            ms(row.calm.p99),
            ms(row.attacked.p99),
            login(&row.calm),
            login(&row.attacked),
            row.ended,
        );
    }
    out
}
