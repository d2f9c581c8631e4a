//! What the command line asks for.

use std::path::PathBuf;
use std::time::Duration;

/// With `cargo test`: as long as it takes to see everything, with as many clients as a debug build carries.
const SHORT: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(13)];
/// The longest churn without a checkpoint, and how many there are at least: the first is to compare with.
const ROUND_MAX: Duration = Duration::from_secs(180);
const ROUNDS_MIN: f64 = 3.0;
const SHORT_CLIENTS: usize = 150;
const LONG_CLIENTS: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Sandbox,
    Sockudo,
}

#[derive(Debug)]
pub struct Args {
    /// Of churn, each with a checkpoint after it.
    pub rounds: Vec<Duration>,
    pub clients: usize,
    pub seed: u64,
    pub fault_every: Duration,
    pub upstream: Which,
    pub report: Option<PathBuf>,
}

impl Args {
    /// `None`: the arguments ask for other tests.
    pub fn of_process() -> Result<Option<Self>, String> {
        Self::parse(std::env::args().skip(1))
    }

    fn parse(args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let (mut minutes, mut clients, mut seed, mut every) = (None, None, None, None);
        let (mut upstream, mut report, mut filters) = (None, None, Vec::new());
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--minutes" => minutes = Some(number::<f64>(&value()?)?),
                "--clients" => clients = Some(number(&value()?)?),
                "--seed" => seed = Some(number(&value()?)?),
                "--fault-every" => every = Some(number::<f64>(&value()?)?),
                "--report" => report = Some(PathBuf::from(value()?)),
                "--upstream" => {
                    upstream = Some(match value()?.as_str() {
                        "sandbox" => Which::Sandbox,
                        "sockudo" => Which::Sockudo,
                        other => return Err(format!("--upstream is sandbox or sockudo, not {other}")),
                    });
                }
                // What else Cargo hands to every test binary.
                "--list" | "--ignored" => return Ok(None),
                "--test-threads" | "--skip" | "--format" | "--color" | "--logfile" => drop(value()?),
                flag if flag.starts_with('-') => {}
                filter => filters.push(filter.to_owned()),
            }
        }
        if !filters.is_empty() && !filters.iter().any(|filter| "soak".contains(filter.as_str())) {
            return Ok(None);
        }
        let long = minutes.is_some();
        let sockudo = long && std::env::var_os("SOCKUDO_BIN").is_some();
        Ok(Some(Self {
            rounds: minutes.map_or(SHORT.to_vec(), rounds),
            clients: clients.unwrap_or(if long { LONG_CLIENTS } else { SHORT_CLIENTS }),
            seed: seed.unwrap_or(1),
            fault_every: Duration::from_secs_f64(every.unwrap_or(if long { 3.0 } else { 0.7 })),
            upstream: upstream.unwrap_or(if sockudo { Which::Sockudo } else { Which::Sandbox }),
            report,
        }))
    }
}

fn rounds(minutes: f64) -> Vec<Duration> {
    let time = Duration::from_secs_f64(minutes * 60.0);
    let count = time.div_duration_f64(ROUND_MAX).ceil().max(ROUNDS_MIN);
    vec![time.div_f64(count); count as usize]
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}
