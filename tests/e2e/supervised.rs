//! What systemd has to do with the program: by the same protocols, without it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use pusher_bridge::sandbox::{Options, Sandbox};

use crate::admin::get;
use crate::reload::folder;
use crate::support::bridge::SHIPPED;
use crate::support::process::{Program, command};
use crate::support::{OldClient, PATIENCE, patiently};

/// A socket that is told, as systemd's is.
struct Notified(UnixDatagram, PathBuf);

impl Notified {
    fn at(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket, path)
    }

    /// The next that is told, but for the watchdog's food.
    fn next(&self) -> String {
        loop {
            let told = self.any();
            if told != "WATCHDOG=1\n" {
                return told;
            }
        }
    }

    fn any(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.0.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }
}

const SERVE: [&str; 6] = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"];

#[tokio::test(flavor = "multi_thread")]
async fn whoever_starts_it_is_told_that_it_serves_reloads_moves_and_stops() {
    let folder = folder("notified");
    let notified = Notified::at(&folder);
    let file = folder.join("routes.toml").display().to_string();
    std::fs::write(&file, SHIPPED).unwrap();
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let mut env = crate::support::pusher::Pusher::app(&sandbox).environment();
    env.insert("NOTIFY_SOCKET".to_owned(), notified.1.display().to_string());
    env.insert("WATCHDOG_USEC".to_owned(), "60000".to_owned());
    let args = [&["serve", "--no-watch", "--config", &file][..], &SERVE].concat();
    let mut program = Program::start(&args, &env);
    assert_eq!(notified.next(), "READY=1\n");
    let (address, _) = program.serves().await;
    OldClient::connect(address, "/ws/plugin/p1").await;
    while notified.any() != "WATCHDOG=1\n" {}
    // Whatever becomes of it, whoever waits is told that it is over.
    for text in [SHIPPED, "junk"] {
        std::fs::write(&file, text).unwrap();
        program.signal("HUP");
        let reloading = notified.next();
        let since =
            reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading}"));
        assert!(since.trim_end().parse::<u64>().unwrap() > 0);
        assert_eq!(notified.next(), "READY=1\n");
    }
    program.signal("TERM");
    assert_eq!(notified.next(), "STOPPING=1\n");
    assert_eq!(program.ended().await.code, Some(0));
    std::fs::remove_dir_all(folder).unwrap();
}

/// The program with two listeners as systemd passes them, under these names. A shell puts them where they must be.
fn passed(
    names: &str,
    listeners: [TcpListener; 2],
    env: &std::collections::HashMap<String, String>,
) -> Program {
    let program = command(&[], env);
    let script =
        r#"exec 3<&0 4<&1 0</dev/null 1>/dev/null; export LISTEN_PID=$$ LISTEN_FDS=2; exec "$0" "$@""#;
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", script]).arg(program.get_program());
    shell.args([&["serve"][..], &SERVE].concat()).env_clear().envs(env).env("LISTEN_FDNAMES", names);
    let [one, other] = listeners.map(|listener| Stdio::from(OwnedFd::from(listener)));
    shell.stdin(one).stdout(other).stderr(Stdio::piped());
    Program::spawn(shell)
}

fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_that_are_passed_are_served_by_their_names() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let env = crate::support::pusher::Pusher::app(&sandbox).environment();
    let ((one, admin), (other, listen)) = (bound(), bound());
    let mut program = passed("admin:listen", [one, other], &env);
    assert_eq!(program.serves().await, (listen, admin));
    OldClient::connect(listen, "/ws/plugin/p1").await;
    assert_eq!(patiently("an answer", get(admin, "/healthz")).await.status, 200);
    program.signal("TERM");
    assert_eq!(program.ended().await.code, Some(0));

    for (names, message) in [
        ("listen:other", "a socket named `other` was passed"),
        ("listen:listen", "two sockets named `listen` were passed"),
        ("listen", "a socket named `` was passed"),
    ] {
        let ended = passed(names, [bound().0, bound().0], &env).ended().await;
        assert!(ended.code == Some(1) && ended.stderr.contains(message), "{ended:?}");
    }
}
