//! A bridge between proxies, or several: their Pusher behind the one, their clients behind the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use pusher_bridge::app::Running;
use pusher_bridge::config::Config;
use pusher_bridge::http::Client;
use pusher_bridge::sandbox::{Options, Sandbox, SandboxHandle};
use tokio::time::{Instant, sleep};

use crate::account::Account;
use crate::message::{Content, FENCE, Place};
use crate::room::Room;
use crate::support::bridge::{self, SHIPPED, metric};
use crate::support::network::{Profile, Proxy};
use crate::support::patiently;
use crate::support::pusher::{App, Pusher as _};
use crate::support::sockudo::Sockudo;

/// Between two looks at what tells nobody of its changes.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// After which a fence that fell into a gap is set again.
const FENCE_AGAIN: Duration = Duration::from_millis(700);

/// Which Pusher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    Sandbox,
    Sockudo,
}

enum Behind {
    Sandbox(SandboxHandle),
    Sockudo(Sockudo),
}

/// A backend that publishes, past every proxy.
#[derive(Clone)]
pub struct Server {
    app: App,
    client: Arc<Client>,
}

impl Server {
    pub async fn trigger(&self, channel: &str, event: &str, data: &str) {
        let response = self.app.try_trigger(&self.client, &[channel], event, data).await.unwrap();
        assert_eq!(response.status, 200, "{:?}", response.body);
    }
}

pub struct Scene {
    pub bridges: Vec<Running>,
    /// Between the bridges and their Pusher.
    pub network: Proxy,
    pub app: App,
    server: Server,
    fences: AtomicU64,
    /// How many messages without an answer have been accounted for.
    unanswered: usize,
    extra: usize,
    _upstream: Behind,
}

impl Scene {
    /// With one bridge. `None`: this Pusher is not installed.
    pub async fn start(upstream: Upstream, profile: Profile, change: impl Fn(&mut Config)) -> Option<Self> {
        Self::replicated(upstream, profile, 1, change).await
    }

    /// With so many, among which people are dealt out.
    pub async fn replicated(
        upstream: Upstream,
        profile: Profile,
        replicas: usize,
        change: impl Fn(&mut Config),
    ) -> Option<Self> {
        let upstream = match upstream {
            Upstream::Sandbox => Behind::Sandbox(Sandbox::start(Options::local()).await.unwrap()),
            Upstream::Sockudo => Behind::Sockudo(Sockudo::start().await?),
        };
        let app = match &upstream {
            Behind::Sandbox(sandbox) => sandbox.app(),
            Behind::Sockudo(sockudo) => sockudo.app(),
        };
        let network = Proxy::with(profile, app.address).await;
        let near = App { address: network.address, ..app.clone() };
        let routes = format!("{SHIPPED}\n{}", Place::ROUTES);
        let mut bridges = Vec::new();
        for _ in 0..replicas {
            let mut bridge = bridge::start(&near, &routes, &[], |config| {
                config.server.workers = 2;
                config.server.close_window = Duration::ZERO;
                config.upstream.times.reconnect_delay_max = Duration::from_millis(50);
                change(config);
            })
            .await;
            bridge.address = profile.put_before_bridge(bridge.address).await;
            bridges.push(bridge);
        }
        let client = Arc::new(Client::new(&pusher_bridge::tls::client_config(None).unwrap()));
        let server = Server { app: app.clone(), client };
        let fences = AtomicU64::new(1);
        Some(Self { bridges, network, app, server, fences, unanswered: 0, extra: 0, _upstream: upstream })
    }

    pub fn room(&self, place: Place, name: &str) -> Room {
        Room::new(
            place,
            name,
            self.bridges.iter().map(|bridge| bridge.address).collect(),
            self.server.clone(),
        )
    }

    /// The value of a series, of all bridges together.
    pub fn metric(&self, series: &str) -> f64 {
        self.bridges.iter().map(|bridge| metric(bridge, series)).sum()
    }

    fn sum(&self, series: &str) -> f64 {
        let text: String = self.bridges.iter().map(|bridge| bridge.metrics.render()).collect();
        let lines = text.lines().filter(|line| line.starts_with(series));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Clients that are connected.
    pub fn connections(&self) -> f64 {
        self.sum("pusher_bridge_connections{")
    }

    /// Waits until it holds.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let holding = async {
            while !holds(self) {
                sleep(LOOK_AGAIN).await;
            }
        };
        patiently(what, holding).await;
    }

    /// Waits for what happens at once if it happens at all.
    pub async fn perhaps(&self, event: impl Future) {
        let _ = tokio::time::timeout(Duration::from_millis(400), event).await;
    }

    /// Waits until everything that was said has come to an end: read, published or told, and delivered.
    pub async fn rest(&self, phase: &str, rooms: &mut [Room]) {
        join_all(rooms.iter_mut().map(Room::is_read)).await;
        let present: usize = rooms.iter().map(Room::count).sum();
        self.until("those who left to be gone", |scene| scene.connections() <= present as f64).await;
        self.until("every message to be settled", |scene| {
            scene.metric("pusher_bridge_publish_queue_messages") == 0.0
        })
        .await;
        let begin = Instant::now();
        let mut last = None;
        let fence = self.fences.load(Ordering::Relaxed) + 1;
        let fenced = async {
            loop {
                let left: Vec<&Room> = rooms.iter().filter(|room| !room.is_fenced(fence)).collect();
                if left.is_empty() {
                    return;
                }
                if last.is_none_or(|last: Instant| last.elapsed() >= FENCE_AGAIN) {
                    last = Some(Instant::now());
                    let n = self.fences.fetch_add(1, Ordering::Relaxed) + 1;
                    let data = n.to_string();
                    let set = left.iter().map(async |room| {
                        self.server.trigger(&room.channel(), FENCE, &data).await;
                    });
                    join_all(set).await;
                }
                sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(crate::support::PATIENCE, fenced).await.is_err() {
            let left: Vec<&str> =
                rooms.iter().filter(|room| !room.is_fenced(fence)).map(|room| &*room.name).collect();
            panic!("{phase}: nothing reaches {left:?} for {:?}", begin.elapsed());
        }
    }

    /// Lets everything come to rest, and fails where an account is wrong.
    pub async fn check(&mut self, phase: &str, rooms: &mut [Room]) {
        self.rest(phase, rooms).await;
        let all = self.network.unanswered();
        let mut wrong = String::new();
        for room in rooms.iter_mut() {
            let channel = room.channel();
            let mut unanswered: BTreeMap<Content, usize> = BTreeMap::new();
            for lost in all[self.unanswered..].iter().filter(|lost| lost.channel == channel) {
                let content = Content::of_event(&lost.event).unwrap_or_else(|| panic!("{lost:?}"));
                *unanswered.entry(content).or_default() += 1;
            }
            let account: Account = room.account(&unanswered);
            self.extra += account.extra();
            if !account.is_right() {
                wrong.push_str(&format!("{phase}, {:?} {}:\n{account}", room.place, room.name));
            }
        }
        self.unanswered = all.len();
        assert!(wrong.is_empty(), "\n{wrong}");
        let retries = self.sum("pusher_bridge_publish_retries_total{");
        assert!(self.extra as f64 <= 10.0 * retries, "{} copies more, {retries} retries counted", self.extra);
    }
}
