//! The bridge as a process of its own, looked at from outside.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::stream::{TLS, Tls};
use crate::support::pusher::App;
use crate::support::raw::Raw;
use crate::support::{patiently, temporary_directory};

/// Between two looks at what a process shows.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What the listener shows, beside the routes.
pub const CERT_FILE: &str = "bridge.crt";
pub const KEY_FILE: &str = "bridge.key";

/// A running bridge; killed on drop.
pub struct Bridge {
    child: Child,
    directory: PathBuf,
    log: Arc<Log>,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

/// What came out of its standard error.
#[derive(Default)]
pub struct Log {
    pub lines: AtomicU64,
    pub bytes: AtomicU64,
    /// Lines that tell a defect of the program.
    pub defects: Mutex<Vec<String>>,
}

impl Bridge {
    /// With these routes; with `descriptors` as its hard limit of open files.
    pub async fn start(app: &App, routes: &str, descriptors: Option<usize>) -> Self {
        let directory = temporary_directory("hostile");
        let file = directory.join("routes.toml");
        std::fs::write(&file, routes).unwrap();
        if let Some(Tls { pair, .. }) = TLS.get() {
            std::fs::write(directory.join(CERT_FILE), &pair.cert).unwrap();
            std::fs::write(directory.join(KEY_FILE), &pair.key).unwrap();
        }
        let limit = descriptors.map_or_else(String::new, |most| format!("ulimit -n {most} && "));
        let mut child = Command::new("sh")
            .args(["-c", &format!("{limit}exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_pusher-bridge")])
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"])
            .args(["--config".as_ref(), file.as_os_str()])
            .env_clear()
            .envs(app.environment())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        let (sender, serving) = oneshot::channel();
        let stderr = child.stderr.take().unwrap();
        let shared = log.clone();
        std::thread::spawn(move || shared.follow(stderr, sender));
        let line = patiently("the bridge to serve", serving).await.expect("it ended");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| line[name].as_str().unwrap().parse().unwrap();
        let bridge = Self { child, directory, log, address: address("listen"), admin: address("admin") };
        bridge.until("the bridge to be ready", |m| m.get("pusher_bridge_ready") == 1.0).await;
        bridge
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Resident memory now, in KiB: `Rss` of smaps_rollup, which is exact where `statm` is an estimate.
    pub fn resident_kib(&self) -> u64 {
        self.figure("smaps_rollup", "Rss:")
    }

    /// The most resident memory it ever had, in KiB.
    pub fn peak_kib(&self) -> u64 {
        self.figure("status", "VmHWM:")
    }

    pub fn threads(&self) -> u64 {
        self.figure("status", "Threads:")
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).unwrap().count()
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }

    fn figure(&self, file: &str, name: &str) -> u64 {
        let text = std::fs::read_to_string(self.proc(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub async fn metrics(&self) -> Metrics {
        let request = "GET /metrics HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\n\r\n";
        let answer = Raw::ask(self.admin, request).await;
        assert_eq!(answer.status, 200);
        Metrics(answer.body)
    }

    /// Waits until the metrics show it.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Metrics) -> bool) -> Metrics {
        patiently(what, async {
            loop {
                let metrics = self.metrics().await;
                if holds(&metrics) {
                    return metrics;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await
    }

    /// Waits until a figure of the process is at most this again.
    pub async fn settles<T: PartialOrd + std::fmt::Debug>(
        &self,
        what: &str,
        most: T,
        figure: impl Fn(&Self) -> T,
    ) {
        patiently(&format!("{what} of at most {most:?}, last {:?}", figure(self)), async {
            while figure(self) > most {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
        .await;
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Log {
    fn follow(&self, source: impl std::io::Read, serving: oneshot::Sender<String>) {
        let mut serving = Some(serving);
        let mut source = BufReader::new(source);
        let mut line = String::new();
        while source.read_line(&mut line).is_ok_and(|read| read > 0) {
            self.lines.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(line.len() as u64, Ordering::Relaxed);
            if line.contains("\"serving\"") {
                serving.take().map(|serving| serving.send(line.clone()));
            }
            if line.contains("a defect of this program") {
                self.defects.lock().unwrap().push(line.clone());
            }
            line.clear();
        }
    }
}

/// A text of `/metrics`.
pub struct Metrics(String);

impl Metrics {
    /// The value of the series written so; 0 when it is not there.
    pub fn get(&self, series: &str) -> f64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// The sum over all series whose line starts so.
    pub fn sum(&self, start: &str) -> f64 {
        let lines = self.0.lines().filter(|line| line.starts_with(start));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Connections of all routes and phases.
    pub fn connections(&self) -> f64 {
        self.sum("pusher_bridge_connections{")
    }

    /// Tasks of all threads.
    pub fn tasks(&self) -> f64 {
        self.sum("pusher_bridge_tasks{")
    }

    /// How connections of the route ended, for messages of failed assertions.
    pub fn closes_of(&self, route: &str) -> Vec<&str> {
        let start = format!("pusher_bridge_closes_total{{route=\"{route}\"");
        let lines = self.0.lines().filter_map(|line| line.strip_prefix(start.as_str()));
        lines.filter(|line| !line.ends_with(" 0")).collect()
    }

    /// Sessions that a defect ended.
    pub fn defects(&self) -> f64 {
        let lines = self.0.lines().filter(|line| line.starts_with("pusher_bridge_closes_total{"));
        lines.filter(|line| line.contains(r#"reason="internal""#) && !line.ends_with(" 0")).count() as f64
    }

    pub fn closes(&self, route: &str, reason: &str) -> f64 {
        self.get(&format!(r#"pusher_bridge_closes_total{{route="{route}",reason="{reason}"}}"#))
    }

    pub fn refusals(&self, route: &str, reason: &str) -> f64 {
        self.get(&format!(r#"pusher_bridge_refusals_total{{route="{route}",reason="{reason}"}}"#))
    }

    pub fn errors(&self, route: &str, code: &str) -> f64 {
        self.get(&format!(r#"pusher_bridge_client_errors_total{{route="{route}",code="{code}"}}"#))
    }

    pub fn tokens(&self, route: &str, result: &str) -> f64 {
        self.get(&format!(r#"pusher_bridge_auth_total{{route="{route}",result="{result}"}}"#))
    }
}
