//! The backends: one publishes numbered events on every stream, one takes the commands' POSTs.

use std::rc::Rc;
use std::time::Duration;

use pusher_bridge::clock::Now;
use pusher_bridge::pusher::sign;
use tokio::net::TcpListener;
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::faults::HttpFault;
use crate::ledger::Mark;
use crate::messages::{EVENT, Route, message_type};
use crate::proxy::{answer, next_head};
use crate::wire::Wire;
use crate::world::World;

/// Pusher takes so many events at once.
const BATCH_MAX: usize = 10;
const TICK: Duration = Duration::from_millis(50);

/// Publishes on the upstream's HTTP API, past the proxy.
pub struct Publisher {
    world: Rc<World>,
    /// The next number of each stream.
    next: Vec<u32>,
    rng: fastrand::Rng,
}

impl Publisher {
    pub fn new(world: Rc<World>, seed: u64) -> Self {
        let next = vec![0; world.streams.len()];
        Self { world, next, rng: fastrand::Rng::with_seed(seed) }
    }

    /// Publishes `rate` events a second, on streams by chance, until the churn is over.
    pub async fn run(&mut self, rate: f64) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due = 0.0;
        let firehose = self.world.streams_of(Route::Firehose).map(|stream| stream.id).collect::<Vec<_>>();
        while !self.world.is_over() {
            ticks.tick().await;
            due += rate * TICK.as_secs_f64();
            // Enough for a slow reader's buffers to be full within seconds.
            let mut streams = firehose.repeat(4);
            while due >= 1.0 {
                due -= 1.0;
                streams.push(self.rng.u32(..self.next.len() as u32));
            }
            for streams in streams.chunks(BATCH_MAX) {
                self.publish(streams).await;
            }
        }
    }

    /// One more event on each stream: whatever came before and is missing shows by it.
    pub async fn last_call(&mut self) {
        let all: Vec<u32> = (0..self.next.len() as u32).collect();
        for streams in all.chunks(BATCH_MAX) {
            self.publish(streams).await;
        }
    }

    async fn publish(&mut self, streams: &[u32]) {
        let world = self.world.clone();
        let mut batch = Vec::new();
        for id in streams {
            let n = self.next[*id as usize];
            self.next[*id as usize] += 1;
            let stream = &world.streams[*id as usize];
            let data = stream.published(n);
            batch.push(serde_json::json!({ "channel": stream.channel, "name": EVENT, "data": data }));
            world.ledger.borrow_mut().published(Mark::Event { stream: *id, n }, Instant::now());
        }
        let body = serde_json::json!({ "batch": batch }).to_string();
        let app = &world.app;
        let path = format!("/apps/{}/batch_events", app.id);
        let seconds = Now::read().unix_seconds();
        let query = sign::signed_query("POST", &path, &[], body.as_bytes(), &app.key, &app.secret, seconds);
        match world.ask_upstream(hyper::Method::POST, &format!("{path}?{query}"), body).await {
            Ok(response) if response.status == 200 => {
                world.published.set(world.published.get() + streams.len() as u64);
            }
            Ok(response) => {
                world.wrong(format!("Pusher refuses to publish: {} {:?}", response.status, response.body))
            }
            // It is being restarted. Whether it took these shows on the links.
            Err(_) => sleep(TICK).await,
        }
    }
}

/// Takes the POSTs of the command route.
pub async fn serve(world: Rc<World>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        spawn_local(posts(world.clone(), Wire::new(stream)));
    }
}

async fn posts(world: Rc<World>, mut wire: Wire) {
    while let Some(head) = next_head(&world, &mut wire).await {
        let Ok(body) = wire.body(&head).await else { return };
        let Some((client, n)) = understood(&world, &head, &body) else { return };
        world.check(world.outgoing.borrow_mut().attempt(client, n));
        let take = || world.outgoing.borrow_mut().taken(client, n);
        let accept = || {
            take();
            world.outgoing.borrow_mut().accepted(client, n, true);
        };
        let lives = match world.switches.next_post() {
            None => {
                accept();
                answer(&mut wire, 200, "", "{}").await
            }
            Some(HttpFault::Slow(time)) => {
                sleep(time).await;
                accept();
                answer(&mut wire, 200, "", "{}").await
            }
            Some(HttpFault::Answer(status, headers)) => answer(&mut wire, status, headers, "no").await,
            Some(HttpFault::TakeAndAnswer(status)) => {
                take();
                answer(&mut wire, status, "", "no").await
            }
            Some(HttpFault::TakeAndCut) => {
                take();
                false
            }
            Some(HttpFault::Cut) => false,
            Some(HttpFault::Hold(time)) => {
                take();
                sleep(time).await;
                false
            }
        };
        if !lives {
            return;
        }
    }
}

fn understood(world: &World, head: &str, body: &[u8]) -> Option<(u32, u32)> {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let body = String::from_utf8_lossy(body);
    let data = body.strip_prefix(r#"{"input":"#).and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
    let Some(Mark::Message { from, n }) = world.recognise(data, "to the backend") else { return None };
    let known = path.strip_prefix("/commands/").and_then(|rest| rest.split_once('/'));
    if known.is_none_or(|(_, message)| message != message_type(n)) {
        world.wrong(format!("to the backend: message {n} of client {from} at {path}"));
    }
    Some((from, n))
}
