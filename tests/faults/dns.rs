//! Names that do not resolve, and names whose first address is dead.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use pusher_bridge::sandbox::{Options, Sandbox};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::proxied::Proxied;
use crate::stage::{Launch, Metrics};
use crate::support::network::Proxy;
use crate::support::{skipped, temporary_directory};

/// Where the test's own names do not have it, no name server does (RFC 6761 §6.4).
const HOST: &str = "pusher.invalid";

/// What the program's names resolve to, changed while it runs (libnss_wrapper).
struct Names {
    library: String,
    directory: PathBuf,
    written: u64,
}

impl Names {
    fn new() -> Option<Self> {
        let Ok(library) = std::env::var("NSS_WRAPPER_LIB") else {
            skipped("NSS_WRAPPER_LIB is not set; run tests/run");
            return None;
        };
        Some(Self { library, directory: temporary_directory("names"), written: 0 })
    }

    fn file(&self) -> PathBuf {
        self.directory.join("hosts")
    }

    /// The file is read again when it has become newer, by whole seconds.
    fn resolve_to(&mut self, addresses: &[IpAddr]) {
        let lines: String = addresses.iter().map(|address| format!("{address} {HOST}\n")).collect();
        std::fs::write(self.file(), format!("127.0.0.1 another\n{lines}")).unwrap();
        self.written += 10;
        let newer = SystemTime::now() + Duration::from_secs(self.written);
        File::options().append(true).open(self.file()).unwrap().set_modified(newer).unwrap();
    }

    fn launch(&self, launch: Launch) -> Launch {
        launch
            .env("PUSHER_HOST", HOST)
            // A name server that is silent is given up soon.
            .env("RES_OPTIONS", "timeout:1 attempts:1")
            .env("NSS_WRAPPER_HOSTS", self.file().display().to_string())
            .env("LD_PRELOAD", &*self.library)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

const ALIVE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const DEAD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 9));

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_resolve_for_a_while() {
    let Some(mut names) = Names::new() else { return };
    names.resolve_to(&[ALIVE]);
    let mut stage = Proxied::start("dns", |launch| names.launch(launch)).await;
    names.resolve_to(&[]);
    stage.proxy.cut();
    let noticed = |metrics: &Metrics| {
        // `connect`, or `connect_timeout` where the name server is silent.
        metrics.sum(r#"pusher_bridge_upstream_reconnects_total{cause="connect"#) >= 3.0
            && metrics.sum(r#"pusher_bridge_publish_total{result="expired"}"#) >= 10.0
    };
    stage.run.served.until_metric("it to be noticed", noticed).await;
    names.resolve_to(&[ALIVE]);
    stage.run.flow("afterwards", 40).await;
    let over = stage.finish("DNS fails, and is back").await;
    over.only_pushers();
    assert!(over.missed() > 0 && over.codes["UPSTREAM_UNAVAILABLE"] >= 10);
    let in_vain: usize = over.accounts.values().map(|account| account.told_in_vain).sum();
    let unknown = over.metrics.sum(r#"pusher_bridge_publish_total{result="unknown"}"#);
    assert!(in_vain <= unknown as usize, "what was never sent does not come");
}

/// As long as one address answers, a dead one is a matter of milliseconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_whose_first_address_is_dead() {
    let Some(mut names) = Names::new() else { return };
    names.resolve_to(&[DEAD, ALIVE]);
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let proxy = Proxy::start(sandbox.addr()).await;
    let _hole = black_hole(SocketAddr::new(DEAD, proxy.address.port())).await;
    let stage = Proxied::between("dead-address", sandbox, proxy, |launch| names.launch(launch)).await;
    stage.proxy.cut();
    stage.run.flow("after a cut", 40).await;
    let over = stage.finish("the first address is dead").await;
    over.only_pushers();
    assert_eq!(over.codes.len(), 0);
    let metrics = &over.metrics;
    let lost = metrics.moved("pusher_bridge_upstream_reconnects_total");
    assert_eq!(lost, [r#"pusher_bridge_upstream_reconnects_total{cause="broken"} 1"#]);
}

/// An address that answers nothing: its queue of connections is full.
async fn black_hole(address: SocketAddr) -> impl Sized {
    const SILENCE: Duration = Duration::from_millis(250);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(0).unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(SILENCE, TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }
    (socket, queued)
}
