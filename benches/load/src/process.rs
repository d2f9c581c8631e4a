//! Children that never outlive the harness.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::Result;

/// From a child's start until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const READY_PAUSE: Duration = Duration::from_millis(20);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const LOG_TAIL_BYTES: usize = 600;

/// A child, killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    name: &'static str,
    log: PathBuf,
}

impl Process {
    /// Starts `program`, its output to a file in `logs`.
    pub(crate) fn start(
        name: &'static str,
        program: &Path,
        logs: &Path,
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let output = File::create(&log)?;
        let mut command = tied_to_us(program);
        command.env_clear();
        for inherited in ["PATH", "HOME", "LANG"] {
            if let Some(value) = std::env::var_os(inherited) {
                command.env(inherited, value);
            }
        }
        prepare(&mut command);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().map_err(|error| format!("{name}: {}: {error}", program.display()))?;
        Ok(Self { child, name, log })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says so.
    pub(crate) fn wait_ready(&mut self, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while !ready() {
            self.check()?;
            if Instant::now() > deadline {
                return Err(self.explain("is not ready after 30 s"));
            }
            std::thread::sleep(READY_PAUSE);
        }
        self.check()
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => Err(self.explain(&format!("has ended: {status}"))),
            None => Ok(()),
        }
    }

    /// Waits until so many lines of its output have this.
    ///
    /// # Errors
    /// They are fewer for too long, or more.
    pub(crate) fn wait_logged(&self, text: &str, lines: usize) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let log = fs::read_to_string(&self.log)?;
            let logged = log.lines().filter(|line| line.contains(text)).count();
            if logged == lines {
                return Ok(());
            }
            if logged > lines || Instant::now() > deadline {
                return Err(format!("{logged} lines with {text:?} instead of {lines}").into());
            }
            std::thread::sleep(READY_PAUSE);
        }
    }

    fn explain(&self, what: &str) -> crate::Failure {
        format!("{} {what}; the end of its output:\n{}", self.name, self.log_tail()).into()
    }

    pub(crate) fn log_tail(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(bytes.len().saturating_sub(LOG_TAIL_BYTES)..).unwrap_or_default())
            .into()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors: it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The kernel kills the child when we are killed and nothing of ours runs any more. `setpriv` becomes the
/// program, so that the process's id is the program's.
fn tied_to_us(program: &Path) -> Command {
    let found = Command::new("setpriv").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        return command;
    }
    Command::new(program)
}

/// A free address, outside the range that connecting sockets get theirs from.
pub(crate) fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    let start = (std::process::id() % u32::from(PORTS.end - PORTS.start)) as u16;
    for _ in PORTS {
        let offset = (start + NEXT.fetch_add(7, Ordering::Relaxed) % 12_000) % 12_000;
        let address = SocketAddr::from(([127, 0, 0, 1], PORTS.start + offset));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err("no free port between 20000 and 32000".into())
}

/// Whether somebody listens.
pub(crate) fn listens(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, PROBE_TIMEOUT).is_ok()
}

/// Whether `GET path` is answered 200.
pub(crate) fn answers(address: SocketAddr, path: &str) -> bool {
    get(address, path).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// The whole answer to `GET path`, head and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    ask(address, "GET", path, "")
}

/// The same of `POST /reload` at an admin address.
pub(crate) fn reload(admin: SocketAddr) -> Result<String> {
    ask(admin, "POST", "/reload", "X-Pusher-Bridge: reload\r\nContent-Length: 0\r\n")
}

fn ask(address: SocketAddr, method: &str, path: &str, fields: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error.into()),
        _ => Ok(String::from_utf8_lossy(&answer).into()),
    }
}
