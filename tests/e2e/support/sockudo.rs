//! A real Pusher-compatible server that others wrote.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::sleep;

use super::patiently;
use super::pusher::{App, Pusher};

/// Between two looks whether it is there: it says so in no other way.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

const CONFIG: &str = r#"
host = "{host}"
port = {port}
shutdown_grace_period = 1
[adapter]
driver = "local"
[cache]
driver = "memory"
[queue]
driver = "memory"
[rate_limiter]
enabled = false
[metrics]
enabled = false
[history]
enabled = false
[websocket]
max_messages = 1000
[app_manager]
driver = "memory"
[[app_manager.array.apps]]
id = "1001"
key = "test-key"
secret = "test-secret"
enabled = true
[app_manager.array.apps.policy.limits]
max_connections = 1000
max_client_events_per_second = 10
[app_manager.array.apps.policy.features]
enable_client_messages = true
enable_user_authentication = true
"#;

/// A running sockudo; killed on drop.
pub struct Sockudo {
    binary: PathBuf,
    directory: PathBuf,
    address: SocketAddr,
    process: Child,
    key: String,
    secret: String,
}

impl Sockudo {
    /// `None`: it is not installed, which is said, and no test may be skipped in a complete run.
    pub async fn start() -> Option<Self> {
        let Some(binary) = std::env::var_os("SOCKUDO_BIN") else {
            super::skipped("SOCKUDO_BIN is not set; run tests/run");
            return None;
        };
        let address = free_address();
        let directory = super::temporary_directory("sockudo");
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let config = CONFIG.replace("{host}", &host).replace("{port}", &port);
        std::fs::write(directory.join("config.toml"), config).unwrap();
        let binary = PathBuf::from(binary);
        let process = spawn(&binary, &directory, address);
        let (key, secret) = ("test-key".to_owned(), "test-secret".to_owned());
        let mut sockudo = Self { binary, directory, address, process, key, secret };
        patiently("sockudo", sockudo.up()).await;
        Some(sockudo)
    }

    /// Ends it by SIGTERM, and starts it again on the same port.
    pub async fn restart(&mut self) {
        self.restart_by("TERM").await;
    }

    /// The same by another signal.
    pub async fn restart_by(&mut self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
        let ended = async {
            while self.process.try_wait().unwrap().is_none() {
                sleep(LOOK_AGAIN).await;
            }
        };
        patiently("sockudo's end", ended).await;
        self.process = spawn(&self.binary, &self.directory, self.address);
        patiently("sockudo again", self.up()).await;
    }

    /// From its next start on its app has this key, and no other.
    pub fn has_key(&mut self, key: &str, secret: &str) {
        let file = self.directory.join("config.toml");
        let config = std::fs::read_to_string(&file).unwrap();
        let (old, old_secret) = (format!("key = \"{}\"", self.key), format!("secret = \"{}\"", self.secret));
        let config = config.replace(&old, &format!("key = \"{key}\""));
        std::fs::write(file, config.replace(&old_secret, &format!("secret = \"{secret}\""))).unwrap();
        (self.key, self.secret) = (key.to_owned(), secret.to_owned());
    }

    async fn up(&mut self) {
        while !self.is_up() {
            assert!(self.process.try_wait().unwrap().is_none(), "sockudo does not start: {}", self.log());
            sleep(LOOK_AGAIN).await;
        }
    }

    /// `GET /up` says OK.
    fn is_up(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address) else { return false };
        let request = format!("GET /up HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address);
        let mut status = String::new();
        let answered = std::io::Write::write_all(&mut stream, request.as_bytes())
            .and_then(|()| BufReader::new(stream).read_line(&mut status));
        answered.is_ok() && status.starts_with("HTTP/1.1 200")
    }

    fn log(&self) -> String {
        let mut text = String::new();
        let _ = std::fs::File::open(self.directory.join("log")).map(|mut log| log.read_to_string(&mut text));
        text
    }
}

impl Pusher for Sockudo {
    fn app(&self) -> App {
        App {
            address: self.address,
            id: "1001".into(),
            key: self.key.clone(),
            secret: SecretString::from(self.secret.clone()),
        }
    }
}

impl Drop for Sockudo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// For a program that cannot choose its port itself, or not say which, or must have it again: on a loopback address
/// that nobody else has, where nobody's outgoing connection can take it in between.
pub fn free_address() -> SocketAddr {
    let address = Ipv4Addr::new(127, fastrand::u8(1..), fastrand::u8(..), fastrand::u8(1..255));
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap()
}

fn spawn(binary: &PathBuf, directory: &PathBuf, address: SocketAddr) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("log")).unwrap();
    Command::new(binary)
        .arg("-c")
        .arg(directory.join("config.toml"))
        .current_dir(directory)
        .env("HOST", address.ip().to_string())
        .env("PORT", address.port().to_string())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", binary.display()))
}
