//! Runs attacks by name, one after the other. It takes the arguments of Rust's own test harness, as far as they
//! make sense here, for `cargo test` hands the same ones to every test binary.

use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::report::{Row, table};
use crate::scene;
use crate::stream::{TLS, Tls};

/// An attack that takes longer than this has failed, with all its waiting.
const PATIENCE: Duration = Duration::from_secs(90);

type Running = Pin<Box<dyn Future<Output = Row> + Send>>;

pub struct Attack {
    pub name: &'static str,
    pub run: fn() -> Running,
}

macro_rules! attacks {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$($crate::runner::Attack {
            name: concat!(stringify!($module), "::", stringify!($name)),
            run: || Box::pin($crate::$module::$name()),
        }),*]
    };
}
pub(crate) use attacks;

#[derive(Default)]
struct Arguments {
    names: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
    fallback: bool,
    tls: bool,
    ignored: bool,
}

impl Arguments {
    fn read() -> Self {
        let mut found = Self::default();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => found.list = true,
                "--fallback" => found.fallback = true,
                "--tls" => found.tls = true,
                "--exact" => found.exact = true,
                "--ignored" => found.ignored = true,
                "--skip" => found.skipped.extend(arguments.next()),
                "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" => {
                    arguments.next();
                }
                option if option.starts_with('-') => {}
                name => found.names.push(name.to_owned()),
            }
        }
        found
    }

    fn want(&self, name: &str) -> bool {
        let matches =
            |wanted: &String| if self.exact { name == *wanted } else { name.contains(wanted.as_str()) };
        let named = self.names.is_empty() || self.names.iter().any(matches);
        named && !self.ignored && !self.skipped.iter().any(matches)
    }
}

/// Runs what is asked for: of `attacks`, of those `by_tls` where that is spoken, and of those on what is `passed_on`.
pub fn run(attacks: &[Attack], by_tls: &[Attack], passed_on: &[Attack]) -> ExitCode {
    let arguments = Arguments::read();
    let by_tls = if arguments.tls { by_tls } else { &[] };
    let passed_on = if arguments.fallback { passed_on } else { &[] };
    let wanted: Vec<&Attack> =
        attacks.iter().chain(by_tls).chain(passed_on).filter(|attack| arguments.want(attack.name)).collect();
    if arguments.list {
        wanted.iter().for_each(|attack| println!("{}: test", attack.name));
        return ExitCode::SUCCESS;
    }
    if wanted.is_empty() {
        return ExitCode::SUCCESS;
    }
    raise_descriptors();
    scene::FALLBACK.store(arguments.fallback, Ordering::Relaxed);
    if arguments.tls {
        TLS.get_or_init(Tls::new);
    }
    let fallback = if arguments.fallback { ", with a fallback" } else { "" };
    let tls = if arguments.tls { ", over TLS" } else { "" };
    println!("running {} attacks{fallback}{tls}", wanted.len());
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    let started = Instant::now();
    for attack in &wanted {
        print!("attack {} ... ", attack.name);
        let _ = std::io::stdout().flush();
        let began = Instant::now();
        match run_one(attack) {
            Ok(row) => {
                println!("ok ({:.1} s, {} log lines)", began.elapsed().as_secs_f64(), row.log_lines);
                rows.push(row);
            }
            Err(why) => {
                println!("FAILED ({:.1} s): {why}", began.elapsed().as_secs_f64());
                failed.push(attack.name);
            }
        }
    }
    println!("\n{}", table(&rows));
    let verdict = if failed.is_empty() { "ok".to_owned() } else { format!("FAILED: {}", failed.join(", ")) };
    println!("attack result: {verdict}; {} borne, {:.0} s", rows.len(), started.elapsed().as_secs_f64());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Each attack has a runtime of its own, so that nothing of one goes on in the next.
fn run_one(attack: &Attack) -> Result<Row, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("attacker")
        .enable_all()
        .build()
        .unwrap();
    let running = runtime.spawn((attack.run)());
    let outcome = runtime.block_on(async { tokio::time::timeout(PATIENCE, running).await });
    runtime.shutdown_timeout(Duration::from_secs(5));
    match outcome {
        Ok(Ok(row)) => Ok(row),
        Ok(Err(panic)) => Err(panic.to_string()),
        Err(_) => Err(format!("not over after {} s", PATIENCE.as_secs())),
    }
}

/// Ten thousand sockets are more than the usual soft limit.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}
