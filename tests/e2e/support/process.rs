//! The program itself, as its users start it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use pusher_bridge::sandbox::SandboxHandle;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::patiently;
use super::pusher::Pusher as _;

pub const BINARY: &str = env!("CARGO_BIN_EXE_pusher-bridge");

/// A running program; killed on drop.
pub struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    pub stdout: Lines,
    pub stderr: Lines,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The lines of one output.
pub struct Lines {
    coming: mpsc::UnboundedReceiver<String>,
    seen: String,
}

impl Lines {
    fn of(source: impl std::io::Read + Send + 'static) -> Self {
        let (sender, coming) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Self { coming, seen: String::new() }
    }

    fn none() -> Self {
        Self { coming: mpsc::unbounded_channel().1, seen: String::new() }
    }

    /// The next line with `part` in it.
    pub async fn find(&mut self, part: &str) -> String {
        loop {
            match patiently(&format!("a line with {part}"), self.coming.recv()).await {
                Some(line) => {
                    check_line(&line);
                    self.seen.push_str(&line);
                    if line.contains(part) {
                        return line.trim_end().to_owned();
                    }
                }
                None => panic!("ended without {part}:\n{}", self.seen),
            }
        }
    }

    async fn rest(&mut self) -> String {
        while let Some(line) = patiently("the program's end", self.coming.recv()).await {
            check_line(&line);
            self.seen.push_str(&line);
        }
        std::mem::take(&mut self.seen)
    }
}

/// A line in JSON must be understood alike by every parser: no object in it has a key twice.
fn check_line(line: &str) {
    if line.starts_with("{\"timestamp\"") {
        log_line(line);
    }
}

/// A line of the log in JSON.
pub fn log_line(line: &str) -> Map<String, Value> {
    struct Unique;
    impl<'de> serde::de::Visitor<'de> for Unique {
        type Value = Map<String, Value>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object without a key twice")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut unique = Map::new();
            while let Some((key, value)) = map.next_entry::<String, Value>()? {
                if unique.contains_key(&key) {
                    return Err(serde::de::Error::custom(format!("`{key}` twice")));
                }
                unique.insert(key, value);
            }
            Ok(unique)
        }
    }
    let mut parser = serde_json::Deserializer::from_str(line);
    let parsed =
        serde::Deserializer::deserialize_map(&mut parser, Unique).and_then(|map| parser.end().map(|()| map));
    parsed.unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// The program with these arguments, and nothing in its environment but `env`.
pub fn command(args: &[&str], env: &HashMap<String, String>) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).env_clear().envs(env);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Program {
    pub fn start(args: &[&str], env: &HashMap<String, String>) -> Self {
        Self::spawn(command(args, env))
    }

    /// Of an output that is no pipe there are no lines.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().map_or_else(Lines::none, Lines::of),
            stderr: child.stderr.take().map_or_else(Lines::none, Lines::of),
            child,
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// `serve` with JSON logs on free ports, and where it then serves: clients and admin.
    pub async fn serve(sandbox: &SandboxHandle, args: &[&str]) -> (Self, SocketAddr, SocketAddr) {
        let ports = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"];
        let mut program = Self::start(&[&ports, args].concat(), &sandbox.app().environment());
        let (address, admin) = program.serves().await;
        (program, address, admin)
    }

    /// Where it says, in JSON, that it serves: clients and admin.
    pub async fn serves(&mut self) -> (SocketAddr, SocketAddr) {
        let line = self.stderr.find("\"serving\"").await;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| line[name].as_str().unwrap().parse().unwrap();
        (address("listen"), address("admin"))
    }

    pub fn type_line(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Waits for the end.
    pub async fn ended(mut self) -> Ended {
        self.stdin = None;
        let (stdout, stderr) = (self.stdout.rest().await, self.stderr.rest().await);
        // Its outputs have ended, so it is about to.
        let code = self.child.wait().unwrap().code();
        Ended { code, stdout, stderr }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the program to its end.
pub async fn run(args: &[&str], env: &HashMap<String, String>) -> Ended {
    Program::start(args, env).ended().await
}

/// A file of this content, for the test of this name alone.
pub fn file(name: &str, content: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}
