//! CPU time and memory of a process, from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::Result;

/// Ticks of /proc/PID/stat a second: `USER_HZ`, 100 on every Linux that Rust has a tier-1 target for.
const TICKS_A_SECOND: f64 = 100.0;
/// Where threads have ended, their time is only in the ticks; less than this is rounding.
const ENDED_THREADS_SECONDS: f64 = 0.05;

/// CPU time, seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl Cpu {
    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }
}

/// A process's CPU time so far.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    user_ticks: f64,
    system_ticks: f64,
    /// Seconds on a CPU by thread: to the nanosecond, where ticks are too coarse.
    threads: BTreeMap<u32, (String, f64)>,
}

impl Reading {
    pub(crate) fn take(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let [user_ticks, system_ticks] = ticks(&stat).ok_or("/proc/PID/stat is not as proc(5) says")?;
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = entry?.path();
            let id = task.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or_default();
            // A thread may end between the listing and the reading.
            let Ok(schedstat) = fs::read_to_string(task.join("schedstat")) else { continue };
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default().trim().to_owned();
            let on_cpu = schedstat.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
            threads.insert(id, (name, Duration::from_nanos(on_cpu).as_secs_f64()));
        }
        Ok(Self { user_ticks, system_ticks, threads })
    }

    /// CPU time between `earlier` and this: the sum from the scheduler's own count, its split from the ticks.
    pub(crate) fn since(&self, earlier: &Self) -> Cpu {
        let user = (self.user_ticks - earlier.user_ticks) / TICKS_A_SECOND;
        let system = (self.system_ticks - earlier.system_ticks) / TICKS_A_SECOND;
        let by_ticks = user + system;
        let by_threads: f64 = self.threads_since(earlier).iter().map(|(_, seconds)| seconds).sum();
        if by_ticks > by_threads + ENDED_THREADS_SECONDS || by_ticks <= 0.0 {
            return if by_ticks > 0.0 { Cpu { user, system } } else { Cpu { user: by_threads, system: 0.0 } };
        }
        Cpu { user: by_threads * user / by_ticks, system: by_threads * system / by_ticks }
    }

    /// CPU seconds by thread, most first; threads without any are left out.
    pub(crate) fn threads_since(&self, earlier: &Self) -> Vec<(String, f64)> {
        let before = |id| earlier.threads.get(id).map_or(0.0, |(_, seconds)| *seconds);
        let mut threads: Vec<(String, f64)> = self
            .threads
            .iter()
            .map(|(id, (name, seconds))| (name.clone(), seconds - before(id)))
            .filter(|(_, seconds)| *seconds > 0.0)
            .collect();
        threads.sort_by(|a, b| b.1.total_cmp(&a.1));
        threads
    }
}

/// Resident memory, KiB.
pub(crate) fn resident_kib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).ok_or("smaps_rollup without Rss")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// utime and stime, the 14th and 15th fields; the second may hold anything, but ends with the last parenthesis.
fn ticks(stat: &str) -> Option<[f64; 2]> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().skip(11);
    Some([fields.next()?.parse().ok()?, fields.next()?.parse().ok()?])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 123 45 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some([123.0, 45.0]));
    }

    #[test]
    fn our_own_work_is_seen() {
        let before = Reading::take(std::process::id()).unwrap();
        let mut sum = 0_u64;
        for number in 0..200_000_000_u64 {
            sum = sum.wrapping_add(std::hint::black_box(number));
        }
        let cpu = Reading::take(std::process::id()).unwrap().since(&before);
        assert!(cpu.total() > 0.001, "{cpu:?} for a sum of {sum}");
        assert!(resident_kib(std::process::id()).unwrap() > 100.0);
    }
}
