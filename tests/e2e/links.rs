//! Links that come and go while the bridge runs, beside the shared ones.

use std::sync::Arc;
use std::time::Duration;

use pusher_bridge::exchange::LinkId;
use pusher_bridge::metrics::Registry;
use pusher_bridge::sandbox::{HandshakeFault, Options, Sandbox, SandboxHandle};
use pusher_bridge::upstream::delivery::Delivery;
use pusher_bridge::upstream::link::{self, Shared, Status};
use pusher_bridge::upstream::links::LinkHandle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin::get;
use crate::support::bridge::{self, SHIPPED};
use crate::support::network::Proxy;
use crate::support::pusher::{App, Pusher as _};
use crate::support::{Bridge, OldClient, links, patiently};

const CHANNEL: &str = "private-room";

/// What links share, with one hub.
struct Stage {
    sandbox: SandboxHandle,
    shared: Arc<Shared>,
    registry: Registry,
    inbox: mpsc::Receiver<Delivery>,
}

/// A link that somebody has a handle of.
struct Link {
    handle: LinkHandle,
    connected: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Stage {
    async fn new() -> Self {
        let sandbox = Sandbox::start(Options::local()).await.unwrap();
        let settings = bridge::config(SHIPPED, &sandbox.app().environment()).upstream;
        let registry = Registry::new().unwrap();
        let (shared, inbox) = links::shared(settings, &registry);
        Self { sandbox, shared: Arc::new(shared), registry, inbox }
    }

    async fn joins(&self, name: &str) -> Link {
        let (handle, end) = LinkHandle::open();
        let (sender, mut connected) = watch::channel(false);
        let status = Status { connected: sender, gauge: self.shared.metrics.connected.named(name) };
        let task = tokio::spawn(link::run(self.shared.clone(), end, status));
        let _ = patiently("the connection", connected.wait_for(|connected| *connected)).await.unwrap();
        handle.subscribe(&CHANNEL.into(), 0);
        Link { handle, connected, task }
    }

    async fn told(&mut self) -> Delivery {
        patiently("a delivery", self.inbox.recv()).await.unwrap()
    }

    /// So many events, by the links that they came over.
    async fn events(&mut self, count: usize) -> Vec<LinkId> {
        let mut over = Vec::new();
        for _ in 0..count {
            let delivery = self.told().await;
            let Delivery::Event(event) = delivery else { panic!("{delivery:?}") };
            assert_eq!((&*event.channel, &*event.data), (CHANNEL, "1"));
            over.push(event.link);
        }
        over.sort_unstable();
        over
    }

    fn shows(&self, line: &str) -> bool {
        self.registry.render().lines().any(|shown| shown == line)
    }
}

#[tokio::test]
async fn links_join_serve_and_go() {
    let mut stage = Stage::new().await;
    let mut links = Vec::new();
    for name in ["a", "b", "c"] {
        let link = stage.joins(name).await;
        let told = stage.told().await;
        assert!(matches!(told, Delivery::Live { link: of, .. } if of == link.handle.id()), "{told:?}");
        links.push(link);
    }
    let ids: Vec<LinkId> = links.iter().map(|link| link.handle.id()).collect();
    assert_eq!(stage.sandbox.connections(), 3);
    assert!(stage.shows(r#"pusher_bridge_subscriptions{state="live"} 3"#));
    stage.sandbox.trigger(CHANNEL, "e", "1");
    assert_eq!(stage.events(3).await, ids, "one copy over each link");

    // One goes when nobody has its handle any more. Its channel is still subscribed then, as after a worker's defect.
    let Link { handle, connected, task } = links.remove(1);
    let gone = handle.id();
    drop(handle);
    patiently("its end", task).await.unwrap();
    let told = stage.told().await;
    assert!(matches!(told, Delivery::Down(of) if of == gone), "{told:?}");
    assert!(!*connected.borrow());
    for line in [
        r#"pusher_bridge_upstream_connected{link="a"} 1"#,
        r#"pusher_bridge_upstream_connected{link="b"} 0"#,
        r#"pusher_bridge_subscriptions{state="live"} 2"#,
        r#"pusher_bridge_subscriptions{state="pending"} 0"#,
    ] {
        assert!(stage.shows(line), "{line}: {}", stage.registry.render());
    }
    patiently("two connections", stage.sandbox.wait_for(|view| view.connections() == 2)).await;
    stage.sandbox.trigger(CHANNEL, "e", "1");
    assert_eq!(stage.events(2).await, [ids[0], ids[2]], "the others go on");
}

#[tokio::test]
async fn readiness_counts_the_shared_links() {
    let bridge = Bridge::with(SHIPPED, |config| config.upstream.connections = 2).await;
    let stage = Stage::new().await;
    let _link = stage.joins("another").await;
    let ready = get(bridge.running.admin_address, "/readyz").await;
    assert!(ready.body.contains("links connected: 2 of 2\n"), "{}", ready.body);
}

#[tokio::test]
async fn one_lost_link_is_told_from_all() {
    let bridge = Bridge::with(SHIPPED, |config| {
        config.upstream.connections = 2;
        config.upstream.times.reconnect_delay_max = Duration::from_secs(3600);
    })
    .await;
    let admin = bridge.running.admin_address;
    // A close by which a link does not come back soon.
    bridge.sandbox.refuse_connections(HandshakeFault::Status(503));
    bridge.sandbox.close_connections(4000);
    let both = |lost: f64| {
        let lost = ["0", "1"].map(|link| {
            bridge.metric(&format!("pusher_bridge_upstream_connected{{link=\"{link}\"}}")) == 1.0 - lost
        });
        lost == [true; 2]
    };
    let all_lost = async {
        while !both(1.0) {
            tokio::task::yield_now().await;
        }
    };
    patiently("the loss of both", all_lost).await;
    let ready = get(admin, "/readyz").await;
    assert_eq!(
        (ready.status, &*ready.body),
        (200, "ready\nlinks connected: 0 of 2, lost: 0, 1\n"),
        "at once"
    );
}

#[tokio::test]
async fn with_one_of_two_links_lost_it_is_ready() {
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let proxy = Proxy::start(sandbox.addr()).await;
    let app = App { address: proxy.address, ..sandbox.app() };
    let running = bridge::start(&app, SHIPPED, &[], |config| {
        config.upstream.connections = 2;
        config.upstream.times.reconnect_delay_max = Duration::from_secs(3600);
    })
    .await;
    let _client = OldClient::login(running.address, "/ws/plugin/p1", "1").await;
    sandbox.refuse_connections(HandshakeFault::Status(503));
    assert_eq!(proxy.cut_link_of("private-plugin-p1"), 1);
    let is_connected = |link: &str| {
        bridge::metric(&running, &format!("pusher_bridge_upstream_connected{{link=\"{link}\"}}")) == 1.0
    };
    let one_lost = async {
        while is_connected("0") && is_connected("1") {
            tokio::task::yield_now().await;
        }
    };
    patiently("the loss of one", one_lost).await;
    let lost = if is_connected("0") { "1" } else { "0" };
    let ready = get(running.admin_address, "/readyz").await;
    assert_eq!((ready.status, ready.body), (200, format!("ready\nlinks connected: 1 of 2, lost: {lost}\n")));
    running.shutdown().await;
}
