//! Reloads of every kind while numbered messages and events go both ways: each comes once and in order, on routes that are
//! the same and on those whose change is taken over; and nothing is left of what was replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use pusher_bridge::config::Config;
use pusher_bridge::sandbox::HandshakeFault;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

use crate::reload::{in_service, next, route};
use crate::support::bridge::SHIPPED;
use crate::support::{Bridge, OldClient, patiently};

/// Clients of each room.
pub const CLIENTS: usize = 3;
/// So many messages of one sender may be under way.
const WINDOW: usize = 20;
/// Reloads of the test under load.
const RELOADS: usize = 120;
/// Reloads of the test of what is left.
const MANY: usize = 250;

/// What others have got of each sender in one channel: `got[receiver][sender]`. The last sender is Pusher.
pub struct Room {
    path: &'static str,
    channel: &'static str,
    got: [[AtomicUsize; CLIENTS + 1]; CLIENTS],
    moved: watch::Sender<()>,
    began: Instant,
    /// How long each event took, microseconds.
    took: std::sync::Mutex<Vec<u64>>,
    /// Between two messages of one sender.
    pace: Option<Duration>,
}

impl Room {
    pub fn new(path: &'static str, channel: &'static str) -> Self {
        let (got, took) = Default::default();
        let (moved, began) = (watch::Sender::new(()), Instant::now());
        Self { path, channel, got, moved, began, took, pace: None }
    }

    /// The same, where each says something every 20 ms.
    pub fn paced(self) -> Self {
        Self { pace: Some(Duration::from_millis(20)), ..self }
    }

    /// Waits until so many more messages have come.
    pub async fn goes_on(&self, messages: usize) {
        let mut moved = self.moved.subscribe();
        for _ in 0..messages {
            patiently("the talk", moved.changed()).await.unwrap();
        }
    }

    /// The number of the next message, when it may be sent.
    async fn may_send(&self, sender: usize, n: usize) {
        let mut moved = self.moved.subscribe();
        let others = || self.got.iter().enumerate().filter(|(receiver, _)| *receiver != sender);
        while !others().all(|(_, got)| got[sender].load(Ordering::SeqCst) + WINDOW > n) {
            patiently("the room to move", moved.changed()).await.unwrap();
        }
    }

    fn body(&self, sender: usize, n: usize, is_last: bool) -> Value {
        json!({ "from": sender, "n": n, "last": is_last, "at": self.began.elapsed().as_micros() as u64 })
    }

    /// Says one thing after the other until `done`.
    pub async fn send(&self, sender: usize, done: watch::Receiver<bool>, mut say: impl AsyncFnMut(Value)) {
        let mut pace = tokio::time::interval(self.pace.unwrap_or(Duration::from_secs(1)));
        for n in 0.. {
            self.may_send(sender, n).await;
            if self.pace.is_some() {
                pace.tick().await;
            }
            let is_last = *done.borrow();
            say(self.body(sender, n, is_last)).await;
            if is_last {
                return;
            }
        }
    }

    /// Takes what all others say, to the last of each.
    async fn receive(&self, receiver: usize, mut next: impl AsyncFnMut() -> Value) {
        let mut going_on = CLIENTS;
        while going_on > 0 {
            let frame = next().await;
            let data = &frame["data"];
            let number = |name: &str| data[name].as_u64().unwrap_or_else(|| panic!("{frame}")) as usize;
            let (from, n) = (number("from"), number("n"));
            let got = self.got[receiver][from].fetch_add(1, Ordering::SeqCst);
            assert_eq!(n, got, "{}: of {from} to {receiver}", self.channel);
            if from == CLIENTS {
                let now = self.began.elapsed().as_micros() as u64;
                self.took.lock().unwrap().push(now.saturating_sub(data["at"].as_u64().unwrap()));
            }
            going_on -= usize::from(data["last"] == true);
            self.moved.send_replace(());
        }
    }

    pub async fn talk(&self, client: OldClient, me: usize, done: watch::Receiver<bool>) -> OldClient {
        let (mut sink, mut stream) = client.socket.split();
        let say = async |data: Value| {
            sink.send(Message::text(json!({ "type": "say", "data": data }).to_string())).await.unwrap();
        };
        let hear = async || loop {
            match patiently("a message", stream.next()).await.expect("no close").unwrap() {
                Message::Text(text) if text.starts_with(r#"{"type":"ping""#) => {}
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) => {}
                other => panic!("{me} got {other:?}"),
            }
        };
        tokio::join!(self.send(me, done, say), self.receive(me, hear));
        OldClient { socket: sink.reunite(stream).unwrap(), response: client.response }
    }

    /// The slowest of a hundred events, microseconds, and begins anew.
    fn p99(&self) -> u64 {
        let mut took = std::mem::take(&mut *self.took.lock().unwrap());
        took.sort_unstable();
        took.get(took.len() * 99 / 100).copied().unwrap_or(0)
    }
}

/// What live connections take over, one after the other.
const TAKEN_OVER: [&str; 8] = [
    "",
    "limits.message_bytes = 4096\nlimits.depth = 9\nlimits.outbox_frames = 900",
    "heartbeat = { kind = \"both\", every = \"1s\", timeout = \"70s\" }",
    "[[routes.events]]\nmatch = \"news\"\nas = \"olds\"",
    "limits.connections_per_address = 30\nlimits.messages = { count = 900000, per = \"1m\", burst = 900000 }",
    "[[routes.publish]]\ntypes = [\"quiet\"]\nevent = \"client-hush\"",
    "origins = [\"https://a.example\"]\ndeprecation = { sunset_at = \"2039-01-01T00:00:00Z\" }",
    "on_gap = \"close\"\nauth = { required = false, also_from = [] }",
];

/// What they cannot, one after the other; `None`: the route is not there.
const CLOSING: [Option<&str>; 4] = [
    Some(""),
    Some("filter = { field = \"f\", equals = \"1\" }"),
    None,
    Some("values = { room = \"[0-9]+\" }"),
];

/// The file of the `n`th reload: each is another than the one before, but for each eighth.
fn file(n: usize) -> String {
    let n = n - n / 8;
    let unlimited = |more: &str| {
        if more.contains("limits.messages") {
            more.to_owned()
        } else {
            format!("limits.messages = \"unlimited\"\n{more}")
        }
    };
    let still = route("still", &unlimited(""));
    let adjusted = route("adjusted", &unlimited(TAKEN_OVER[n % TAKEN_OVER.len()]));
    let closing = CLOSING[n % CLOSING.len()].map(|more| route("closing", more)).unwrap_or_default();
    // They change places, too.
    let routes = if n.is_multiple_of(2) { [still, adjusted, closing] } else { [closing, still, adjusted] };
    let shipped = SHIPPED.replacen("leeway = \"10s\"", &format!("leeway = \"{}s\"", 10 + n % 3), 1);
    shipped + &routes.concat()
}

/// Comes again and again, and is closed only as it should be.
async fn visit(bridge: &Bridge, mut reloaded: watch::Receiver<usize>, done: watch::Receiver<bool>) -> usize {
    let mut closed = 0;
    while !*done.borrow() {
        let Ok(mut client) = OldClient::try_connect(bridge.address(), "/closing/1").await else {
            let _ = reloaded.changed().await;
            continue;
        };
        tokio::select! {
            end = client.closed() => {
                assert_eq!(end, Some((1001, "route changed, reconnect".to_owned())));
                closed += 1;
            }
            _ = async { done.clone().wait_for(|done| *done).await.map(|_| ()) } => {}
        }
    }
    closed
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_every_message_comes_once_and_nobody_else_is_closed() {
    let change = |config: &mut Config| {
        config.server.workers = 2;
        config.server.close_window = Duration::from_millis(10);
    };
    let bridge = Bridge::with(&file(0), change).await;
    let rooms = [Room::new("/still/1", "private-still-1"), Room::new("/adjusted/1", "private-adjusted-1")];
    // Read before, for that takes this thread's time.
    let mut configs = (1..=RELOADS).flat_map(|n| [next(&bridge, &file(n)), next(&bridge, &file(n))]);
    let configs: Vec<[Config; 2]> = std::iter::from_fn(|| Some([configs.next()?, configs.next()?])).collect();
    let mut configs = configs.into_iter();
    let (done, is_done) = watch::channel(false);
    let (count, reloaded) = watch::channel(0);
    let mut talks = Vec::new();
    for room in &rooms {
        let name = room.path.split('/').nth(1).unwrap();
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            clients.push(in_service(&bridge, room.path, name, (n + 1) as f64).await);
        }
        let channel = room.channel;
        patiently("the channel", bridge.sandbox.wait_for(|view| view.subscribed(channel) == 1)).await;
        let confirmed = if name == "still" { 1.0 } else { 2.0 };
        bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, confirmed).await;
        for (me, client) in clients.into_iter().enumerate() {
            talks.push(room.talk(client, me, is_done.clone()));
        }
    }
    let pusher = async |room: &Room| {
        let say = async |data: Value| bridge.sandbox.trigger(room.channel, "news", &data.to_string());
        room.send(CLIENTS, is_done.clone(), say).await;
    };
    let reloads = async {
        // As it is without reloads.
        let mut moved = rooms[0].moved.subscribe();
        for _ in 0..2000 {
            patiently("the talk", moved.changed()).await.unwrap();
        }
        let calm = rooms[0].p99();
        let mut outcomes = [0; 2];
        for n in 1..=RELOADS {
            let [config, again] = configs.next().unwrap();
            if n.is_multiple_of(5) {
                // Two at once: one after the other.
                let (one, other) =
                    tokio::join!(bridge.running.replace(config), bridge.running.replace(again));
                assert!(one.is_ok() && other.unwrap().is_nothing());
            } else {
                let plan = bridge.running.replace(config).await.unwrap();
                outcomes[usize::from(plan.is_nothing())] += 1;
                // What needs a restart changes nothing.
                let mut refused = again;
                refused.upstream.connections += 1;
                assert!(bridge.running.replace(refused).await.is_err());
            }
            count.send_replace(n);
            for _ in 0..5 {
                patiently("the talk", moved.changed()).await.unwrap();
            }
        }
        assert!(outcomes.iter().all(|count| *count > 10), "{outcomes:?}");
        eprintln!(
            "p99 of events to clients of the same route, µs: calm {calm}, while reloading {}",
            rooms[0].p99()
        );
        done.send_replace(true);
        // Whoever waits for a reload.
        count.send_replace(RELOADS + 1);
    };
    let visits =
        futures_util::future::join_all((0..3).map(|_| visit(&bridge, reloaded.clone(), is_done.clone())));
    let talks = futures_util::future::join_all(talks);
    let (closed, clients, (), (), ()) =
        tokio::join!(visits, talks, reloads, pusher(&rooms[0]), pusher(&rooms[1]));
    assert_eq!(clients.len(), 2 * CLIENTS);
    assert!(closed.iter().all(|closed| *closed >= 10), "{closed:?}");
    for name in ["still", "adjusted"] {
        assert_eq!(bridge.connections_live(name), CLIENTS as f64);
        let ever = bridge.sandbox.ever_subscribed();
        let channel = format!("private-{name}-1");
        assert_eq!(ever.iter().filter(|name| **name == channel).count(), 1, "{name} was never left");
    }
    assert_eq!(bridge.metric("pusher_bridge_upstream_gaps_total"), 0.0);
    let least =
        rooms.iter().flat_map(|room| &room.got).flat_map(|got| got.iter().map(|n| n.load(Ordering::SeqCst)));
    assert!(least.filter(|n| *n > 0).min().unwrap() > RELOADS / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_what_was_replaced_but_what_somebody_has() {
    // Whoever has to go has a turn that does not come here.
    let change = |config: &mut Config| config.server.close_window = Duration::from_secs(3600);
    let bridge = Bridge::with(&file(0), change).await;
    let mut still = in_service(&bridge, "/still/1", "still", 1.0).await;
    let mut adjusted = in_service(&bridge, "/adjusted/1", "adjusted", 1.0).await;
    let _closing = in_service(&bridge, "/closing/1", "closing", 1.0).await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 3.0).await;
    let first = bridge.running.generation();
    let of_closing = first.routes().iter().find(|route| &*route.name == "closing").unwrap().edition();
    let mut generations = vec![Arc::downgrade(&first)];
    let mut editions: Vec<_> = first.routes().iter().map(Arc::downgrade).collect();
    drop(first);
    let mut series = Vec::new();
    for n in 1..=MANY {
        bridge.running.replace(next(&bridge, &file(n))).await.unwrap();
        let generation = bridge.running.generation();
        generations.push(Arc::downgrade(&generation));
        editions.extend(generation.routes().iter().map(Arc::downgrade));
        if n == 10 || n == MANY {
            series.push(bridge.running.metrics.render().lines().count());
        }
    }
    assert_eq!(series[0], series[1], "lines of /metrics");
    // What each client says and gets goes by what is in force.
    for (name, client) in [("still", &mut still), ("adjusted", &mut adjusted)] {
        bridge.sandbox.trigger(&format!("private-{name}-1"), "news", "1");
        assert_eq!(client.json().await["data"], 1);
    }
    let last = bridge.running.generation();
    let alive = || {
        let alive = editions.iter().filter_map(std::sync::Weak::upgrade);
        let mut alive: Vec<_> = alive.map(|route| route.edition()).collect();
        alive.sort_unstable_by_key(|edition| (edition.route, edition.since));
        alive.dedup();
        alive
    };
    let mut expected: Vec<_> =
        last.routes().iter().map(|route| route.edition()).chain([of_closing]).collect();
    expected.sort_unstable_by_key(|edition| (edition.route, edition.since));
    expected.dedup();
    let of_generations = || generations.iter().filter_map(std::sync::Weak::upgrade).count();
    drop(last);
    let has_gone = || alive() == expected && of_generations() == 1;
    patiently("the replaced ones to go", bridge.sees(has_gone)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_while_pusher_is_away_holds_when_it_is_back() {
    let change = |config: &mut Config| config.server.close_window = Duration::from_millis(5);
    let bridge = Bridge::with(&file(0), change).await;
    let mut still = in_service(&bridge, "/still/1", "still", 1.0).await;
    let mut adjusted = in_service(&bridge, "/adjusted/1", "adjusted", 1.0).await;
    let mut closing = in_service(&bridge, "/closing/1", "closing", 1.0).await;
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 3.0).await;
    bridge.sandbox.refuse_connections(HandshakeFault::Drop);
    bridge.sandbox.cut_connections();
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 0.0).await;
    let renamed = route("adjusted", "[[routes.events]]\nmatch = \"news\"\nas = \"olds\"");
    let routes = SHIPPED.to_owned()
        + &route("still", "limits.messages = \"unlimited\"")
        + &renamed
        + &route("added", "");
    bridge.reload(next(&bridge, &routes)).await;
    assert_eq!(closing.closed().await.unwrap().0, 1001);
    let mut added = in_service(&bridge, "/added/1", "added", 1.0).await;
    bridge.sandbox.refuse_connections(HandshakeFault::None);
    bridge.becomes(r#"pusher_bridge_subscriptions{state="live"}"#, 3.0).await;
    for (name, kind, client) in
        [("still", "news", &mut still), ("adjusted", "olds", &mut adjusted), ("added", "news", &mut added)]
    {
        bridge.sandbox.trigger(&format!("private-{name}-1"), "news", "1");
        let frame = client.json().await;
        assert_eq!((&frame["type"], &frame["data"]), (&json!(kind), &json!(1)), "{name}");
    }
}
