//! The bridge and its Pusher as processes, and what the system and `/metrics` tell of the bridge.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::support::pusher::{App, Pusher as _};
use crate::support::sockudo::Sockudo;
use crate::wire::Wire;

const BINARY: &str = env!("CARGO_BIN_EXE_pusher-bridge");
/// For a process to start or end.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A process that writes to a file; killed on drop.
pub struct Process {
    child: Child,
    output: PathBuf,
}

impl Process {
    fn start(args: &[&str], env: &HashMap<String, String>, output: PathBuf) -> Self {
        let file = fs::File::create(&output).expect("a file for the output");
        let child = Command::new(BINARY)
            .args(args)
            .env_clear()
            .envs(env)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("the file again"))
            .stderr(file)
            .spawn()
            .expect("the program to start");
        Self { child, output }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// The first line of its output with `part` in it.
    async fn line(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.text();
            let ended = self.child.try_wait().expect("a child");
            let complete = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(line) = complete.into_iter().find(|line| line.contains(part)) {
                return line.to_owned();
            }
            assert!(ended.is_none() && Instant::now() < deadline, "no {part} ({ended:?}) in:\n{text}");
            sleep(LOOK_AGAIN).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server in Pusher's place.
pub enum Upstream {
    Sandbox { process: Process, directory: PathBuf },
    Sockudo(Box<Sockudo>),
}

impl Upstream {
    /// The program's own sandbox.
    pub async fn sandbox(directory: &Path) -> (Self, App) {
        let (process, address) = sandbox(directory).await;
        let app = App {
            address,
            id: "1".into(),
            key: "sandbox-key".into(),
            secret: "sandbox-secret".to_owned().into(),
        };
        (Self::Sandbox { process, directory: directory.to_owned() }, app)
    }

    /// The server that others wrote; `None`: it is not installed.
    pub async fn sockudo() -> Option<(Self, App)> {
        let sockudo = Sockudo::start().await?;
        let app = sockudo.app();
        Some((Self::Sockudo(Box::new(sockudo)), app))
    }

    /// Kills it and starts it again. Gives where it is then.
    pub async fn restart(&mut self) -> SocketAddr {
        match self {
            Self::Sandbox { process, directory } => {
                process.child.kill().expect("a running sandbox");
                process.child.wait().expect("its end");
                let (again, address) = sandbox(directory).await;
                *process = again;
                address
            }
            Self::Sockudo(sockudo) => {
                sockudo.restart_by("KILL").await;
                sockudo.app().address
            }
        }
    }
}

async fn sandbox(directory: &Path) -> (Process, SocketAddr) {
    let args = ["sandbox", "--listen", "127.0.0.1:0", "--log", "error"];
    let mut process = Process::start(&args, &HashMap::new(), directory.join("sandbox.log"));
    let line = process.line("PUSHER_PORT=").await;
    let port: u16 = line.trim().trim_start_matches("PUSHER_PORT=").parse().expect("a port");
    (process, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// `serve`, with the soak's routes.
pub struct Bridge {
    process: Process,
    pub address: SocketAddr,
    admin: SocketAddr,
}

/// What the bridge holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    pub rss_kib: u64,
    pub descriptors: u64,
    pub threads: u64,
    pub tasks: u64,
}

impl Held {
    /// Whether descriptors, threads and tasks are as in the `beginning`. A task of the HTTP client's pool, there
    /// in the beginning, ends when the pool has been empty for 30 s.
    pub fn is_as(&self, beginning: &Self) -> bool {
        self.descriptors == beginning.descriptors
            && self.threads == beginning.threads
            && (self.tasks == beginning.tasks || self.tasks + 1 == beginning.tasks)
    }
}

/// The values of `/metrics`, by series.
pub struct Metrics(HashMap<String, f64>);

impl Metrics {
    /// The sum of all series of this name, of which the labels contain `label`.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let of_it = |series: &str| {
            series.strip_prefix(name).is_some_and(|labels| {
                (labels.is_empty() || labels.starts_with('{')) && labels.contains(label)
            })
        };
        self.0.iter().filter(|(series, _)| of_it(series)).map(|(_, value)| value).sum()
    }

    /// All series of this name.
    pub fn series(&self, name: &str) -> Vec<String> {
        let of_it = self.0.iter().filter(|(series, _)| series.starts_with(name));
        let mut lines: Vec<_> = of_it.map(|(series, value)| format!("{series} {value}")).collect();
        lines.sort();
        lines
    }

    /// The sums of this name by one of its labels, but for those that are zero.
    pub fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (series, value) in
            self.0.iter().filter(|(series, value)| series.starts_with(name) && **value > 0.0)
        {
            let of_it = series.split(&format!("{label}=\"")).nth(1).and_then(|rest| rest.split('"').next());
            *sums.entry(of_it.unwrap_or_default().to_owned()).or_default() += *value as u64;
        }
        sums
    }

    /// Gauges that are not zero when they should be, when nothing is connected.
    pub fn leftovers(&self) -> Vec<String> {
        let idle = [
            "pusher_bridge_connections{",
            "pusher_bridge_subscriptions{",
            "pusher_bridge_publish_queue_messages",
            "pusher_bridge_publish_queue_bytes",
        ];
        idle.iter().flat_map(|name| self.series(name)).filter(|line| !line.ends_with(" 0")).collect()
    }
}

impl Bridge {
    pub async fn start(routes: &str, env: &HashMap<String, String>, directory: &Path) -> Self {
        let file = directory.join("routes.toml");
        fs::write(&file, routes).expect("the routes to be written");
        let config = file.display().to_string();
        // Of each connection's line in the log there would be a gigabyte.
        let log = "warn,pusher_bridge::cli=info";
        let args = ["serve", "--config", &config, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let args = [&args[..], &["--log-format", "json", "--log", log]].concat();
        let mut process = Process::start(&args, env, directory.join("bridge.log"));
        let line = process.line("\"serving\"").await;
        let line: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
        let address =
            |name: &str| line[name].as_str().and_then(|text| text.parse().ok()).expect("an address");
        let (listen, admin) = (address("listen"), address("admin"));
        Self { process, address: listen, admin }
    }

    pub async fn metrics(&self) -> Metrics {
        let text = timeout(PATIENCE, self.get("/metrics")).await.expect("an answer").expect("the metrics");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let values = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Metrics(values.collect())
    }

    async fn get(&self, path: &str) -> std::io::Result<String> {
        let stream = tokio::net::TcpStream::connect(self.admin).await?;
        let mut wire = Wire::new(stream);
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await?;
        let head = wire.head().await?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&wire.body(&head).await?).into_owned())
    }

    pub async fn is_ready(&self) -> bool {
        self.get("/readyz").await.is_ok_and(|answer| answer.starts_with("ready"))
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.process.child.try_wait(), Ok(None))
    }

    /// What it holds now.
    pub async fn held(&self) -> Held {
        let tasks = self.metrics().await.sum("pusher_bridge_tasks", "") as u64;
        let proc = PathBuf::from(format!("/proc/{}", self.process.child.id()));
        let number = |file: &str, key: &str| -> u64 {
            let text = fs::read_to_string(proc.join(file)).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let digits = line.and_then(|rest| rest.split_whitespace().next());
            digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no {key} in {file}"))
        };
        Held {
            rss_kib: number("smaps_rollup", "Rss:"),
            descriptors: fs::read_dir(proc.join("fd")).map_or(0, |all| all.count() as u64),
            threads: number("status", "Threads:"),
            tasks,
        }
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.process.child), Signal::TERM).expect("a running bridge");
    }

    /// Waits for its end; `None`: it does not come.
    pub async fn ended(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.process.child.try_wait().expect("a child") {
                return Some(status);
            }
            sleep(LOOK_AGAIN).await;
        }
        None
    }

    pub fn log(&self) -> String {
        self.process.text()
    }
}
