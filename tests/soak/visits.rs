//! What old clients do, one visit after another: come, authenticate, subscribe, publish, dawdle, and go, well
//! or badly.

use std::rc::Rc;
use std::time::Duration;

use pusher_bridge::clock::Now;
use tokio::time::{Instant, sleep};

use crate::client::{Client, Heard, Over, TOO_SLOW};
use crate::ledger::{PATIENCE, StreamId, SubId};
use crate::messages::Route;
use crate::support::bridge::token_with;
use crate::support::raw::{BINARY, TEXT, auth, frame};
use crate::vandals;
use crate::world::{Phase, World};

/// Longer than the heartbeat's timeout of 8 s: by then a silent client has been closed.
const SILENCE: Duration = Duration::from_secs(12);
/// In which a slow reader reads nothing: together with the time between two pings, less than the 15 s after
/// which it would count as silent.
const DAWDLE: Duration = Duration::from_secs(9);
/// Of the bridge's heartbeat and deadlines.
const TOKEN_EXPIRED: &str = "token expired";
const SILENT: &str = "nothing heard for too long";
const REPLACED: &str = "replaced by a newer connection";

/// One of many: makes visit after visit until the churn is over, and stays for the settling.
pub async fn seat(world: Rc<World>, number: usize, clients: usize, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed ^ (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    // Not all at once.
    sleep(Duration::from_millis(rng.u64(..1500))).await;
    while !world.is_over() {
        let mut visit = Visit { world: world.clone(), users: clients / 4 + 1, rng: rng.fork() };
        let firehose = number < clients / 200 + 2;
        if let Err(wrong) = visit.make(firehose).await {
            world.wrong(wrong);
        }
        let pause = rng.u64(..200);
        sleep(Duration::from_millis(pause)).await;
    }
}

/// A script and its chances.
pub struct Visit {
    pub world: Rc<World>,
    users: usize,
    pub rng: fastrand::Rng,
}

impl Visit {
    pub fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(..100) < percent
    }

    /// The number of one of many addresses.
    pub fn address(&mut self) -> u16 {
        self.rng.u16(..self.users as u16)
    }

    async fn make(&mut self, firehose: bool) -> Result<(), String> {
        if firehose {
            return self.dawdler().await;
        }
        match self.rng.u32(..100) {
            0..24 => self.typed(Route::Content).await,
            24..48 => self.typed(Route::Plugin).await,
            48..64 => self.typed(Route::Agent).await,
            64..72 => self.typed(Route::Roblox).await,
            72..76 => self.typed(Route::Seat).await,
            76..81 => self.typed(Route::Command).await,
            81..90 => self.channels().await,
            90..94 => self.native().await,
            _ => vandals::visit(self).await,
        }
    }

    /// The outcome of a visit: it may only end as the script says.
    fn judge(&self, client: &Client, outcome: Result<(), Over>) -> Result<(), String> {
        match outcome {
            Err(over) if !client.may_end(&over) => Err(format!("{}: ended by {over:?}", client.who())),
            _ => Ok(()),
        }
    }

    fn random_stream(&mut self, route: Route) -> (StreamId, String) {
        let streams: Vec<_> = self.world.streams_of(route).collect();
        let stream = streams[self.rng.usize(..streams.len())];
        (stream.id, stream.name.clone())
    }

    fn token(&mut self, user: &str, seconds: Option<i64>) -> String {
        let plugins: Vec<&str> = self.world.streams_of(Route::Plugin).map(|stream| &*stream.name).collect();
        token_with(user, |claims| {
            claims["plugin_ids"] = plugins.into();
            // For longer than any visit, unless it is to expire.
            claims["exp"] = (Now::read().unix_seconds() + seconds.unwrap_or(3600)).into();
        })
    }

    // ----------------------------------------------------------------------------------- the typed dialect

    async fn typed(&mut self, route: Route) -> Result<(), String> {
        let (stream, name) = self.random_stream(route);
        let path = match route {
            Route::Roblox => "/ws/roblox".to_owned(),
            route => format!("/ws/{}/{name}", format!("{route:?}").to_lowercase()),
        };
        let user = format!("u{}", self.rng.usize(..self.users));
        let seconds = self.chance(6).then(|| self.rng.i64(1..4));
        let token = self.token(&user, seconds);
        let from = self.address();
        // Some send the token along with the request.
        let early = self.chance(20);
        let bytes = if early { auth(&token) } else { Vec::new() };
        let mut client = Client::open(&self.world, Some(route), &path, from, &bytes)
            .await
            .map_err(|over| format!("{path}: not opened: {over:?}"))?;
        if route == Route::Seat {
            client.may_close.push(REPLACED);
        }
        if let Some(seconds) = seconds {
            client.may_close.push(TOKEN_EXPIRED);
            client.expires = Some(Instant::now() + Duration::from_secs(seconds as u64));
            self.world.count("client: expiring token");
        }
        let first = (route != Route::Roblox).then_some(stream);
        let outcome = self.typed_visit(&mut client, route, &user, &token, early, first).await;
        self.judge(&client, outcome)
    }

    async fn typed_visit(
        &mut self,
        client: &mut Client,
        route: Route,
        user: &str,
        token: &str,
        early: bool,
        stream: Option<StreamId>,
    ) -> Result<(), Over> {
        if !early && self.chance(12) {
            self.wrong_token(client).await?;
        }
        if !self.authenticate(client, token, early, stream).await? {
            return client.close().await;
        }
        for _ in 0..self.rng.u32(2..40) {
            client.listen(Duration::from_millis(self.rng.u64(50..500))).await?;
            if self.world.is_over() {
                return self.stay(client).await;
            }
            self.act(client, route, user).await?;
        }
        self.leave(client).await
    }

    async fn wrong_token(&mut self, client: &mut Client) -> Result<(), Over> {
        self.world.count("client: wrong token");
        // Its address may have sent many: then each is judged a second later, and the deadline is near.
        client.may_close.extend(["no valid token in time", "too many wrong tokens"]);
        let token = match self.rng.u32(..3) {
            0 => "no.token.at-all".to_owned(),
            1 => self.token("u0", Some(-3600)),
            _ => self.token("u0", None) + "x",
        };
        client.send_raw(&auth(&token)).await?;
        let answer = client.answer(|heard| matches!(heard, Heard::Refused(_) | Heard::AuthOk)).await?;
        match answer {
            Some(Heard::Refused(code)) if code == "INVALID_TOKEN" || code == "AUTH_RATE_LIMITED" => {}
            other => self.world.wrong(format!("client {}: a wrong token: {other:?}", client.id)),
        }
        Ok(())
    }

    /// Authenticates, again where Pusher cannot be reached. Whether it came to that.
    async fn authenticate(
        &mut self,
        client: &mut Client,
        token: &str,
        early: bool,
        stream: Option<StreamId>,
    ) -> Result<bool, Over> {
        const ATTEMPTS_MAX: usize = 8;
        for attempt in 0..ATTEMPTS_MAX {
            client.asked = stream;
            if attempt > 0 || !early {
                client.send_raw(&auth(token)).await?;
            }
            let answer = client.answer(|heard| matches!(heard, Heard::Refused(_) | Heard::AuthOk)).await?;
            match answer {
                Some(Heard::AuthOk) => return Ok(true),
                Some(Heard::Refused(code)) if code == "UPSTREAM_UNAVAILABLE" => {}
                // Others of the user are there, or it took so long that the token is over.
                Some(Heard::Refused(code)) if code == "TOO_MANY_CONNECTIONS" => break,
                Some(Heard::Refused(_)) if client.may_close.contains(&TOKEN_EXPIRED) => break,
                other => {
                    self.world.wrong(format!("client {}: a good token: {other:?}", client.id));
                    break;
                }
            }
            client.asked = None;
        }
        client.asked = None;
        Ok(false)
    }

    async fn act(&mut self, client: &mut Client, route: Route, user: &str) -> Result<(), Over> {
        match (route, self.rng.u32(..20)) {
            (Route::Plugin | Route::Command, 0..10) => client.publish(self.rng.u32(1..4)).await,
            (Route::Roblox, 0..8) => self.choose(client, Route::Roblox).await,
            (_, 10..13) => client.ping().await.map(drop),
            (_, 13) => self.err(client, route).await,
            (_, 14) if route != Route::Channels => self.renew(client, user).await,
            (_, 15) => {
                self.world.count("client: reads nothing for a while");
                let time = Duration::from_millis(self.rng.u64(200..2500));
                self.idle(time, Phase::Settle).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn renew(&mut self, client: &mut Client, user: &str) -> Result<(), Over> {
        let token = self.token(user, None);
        client.send_raw(&auth(&token)).await?;
        // In a race with its end, the old token may win.
        let answer = client.answer(|heard| matches!(heard, Heard::Refused(_) | Heard::AuthOk)).await?;
        match answer {
            Some(Heard::AuthOk) => {
                client.may_close.retain(|reason| *reason != TOKEN_EXPIRED);
                client.expires = None;
            }
            Some(Heard::Refused(code))
                if client.may_close.contains(&TOKEN_EXPIRED) && code == "INVALID_TOKEN" => {}
            other => self.world.wrong(format!("client {}: a renewal: {other:?}", client.id)),
        }
        Ok(())
    }

    /// A message that is refused, and for which nobody is punished.
    async fn err(&mut self, client: &mut Client, route: Route) -> Result<(), Over> {
        let deep = format!(r#"{{"type":"m0","data":{}{}}}"#, "[".repeat(80), "]".repeat(80));
        let large = format!(r#"{{"type":"m0","data":"{}"}}"#, "z".repeat(10_300));
        let unknown = r#"{"type":"m0","data":{}}"#;
        let (text, code) = match self.rng.u32(..7) {
            0 => ("no JSON", "INVALID_JSON"),
            1 => ("[1]", "NOT_AN_OBJECT"),
            2 => (r#"{"data":1}"#, "MISSING_TYPE"),
            3 => (&*deep, "MESSAGE_TOO_DEEP"),
            4 => return client.send_bad(BINARY, &[0, 1, 2], "BINARY_NOT_SUPPORTED").await,
            _ if route == Route::Plugin => (&*large, "MESSAGE_TOO_LARGE"),
            _ if route == Route::Command => ("{", "INVALID_JSON"),
            _ => (unknown, "UNKNOWN_MESSAGE_TYPE"),
        };
        client.send_bad(TEXT, text.as_bytes(), code).await
    }

    /// Subscribes to something, or ends a subscription.
    async fn choose(&mut self, client: &mut Client, route: Route) -> Result<(), Over> {
        const SUBSCRIPTIONS_MAX: usize = 4;
        let text = |verb: &str, name: &str| match route {
            Route::Roblox => format!(r#"{{"type":"{verb}","environment_id":"{name}"}}"#),
            _ => format!(r#"{{"type":"{verb}","channel":"{name}"}}"#),
        };
        let of = |client: &Client, sub: SubId| client.world.ledger.borrow().stream_of(sub);
        let (stream, name) = self.random_stream(route);
        let standing = client.subs.iter().copied().find(|sub| of(client, *sub) == stream);
        if let Some(sub) =
            standing.or(client.subs.first().copied().filter(|_| client.subs.len() >= SUBSCRIPTIONS_MAX))
        {
            let name = self.world.streams[of(client, sub) as usize].name.clone();
            return client.unsubscribe(sub, &text("unsubscribe", &name)).await;
        }
        client.asked = Some(stream);
        client.send(&text("subscribe", &name)).await?;
        let answer = client.answer(|heard| matches!(heard, Heard::Refused(_) | Heard::Subscribed)).await?;
        match answer {
            Some(Heard::Subscribed) => {}
            Some(Heard::Refused(code)) if code == "UPSTREAM_UNAVAILABLE" => client.asked = None,
            Some(Heard::Refused(_)) if client.may_close.contains(&TOKEN_EXPIRED) => client.asked = None,
            other => self.world.wrong(format!("client {}: a subscription: {other:?}", client.id)),
        }
        Ok(())
    }

    // --------------------------------------------------------------------------------------- other dialects

    async fn channels(&mut self) -> Result<(), String> {
        let from = self.address();
        let mut client = Client::open(&self.world, Some(Route::Channels), "/ws", from, &[])
            .await
            .map_err(|over| format!("/ws: not opened: {over:?}"))?;
        client.may_close.push("events may be missing, reconnect");
        let outcome = self.channels_visit(&mut client).await;
        self.judge(&client, outcome)
    }

    async fn channels_visit(&mut self, client: &mut Client) -> Result<(), Over> {
        for _ in 0..self.rng.u32(2..40) {
            client.listen(Duration::from_millis(self.rng.u64(50..500))).await?;
            if self.world.is_over() {
                return self.stay(client).await;
            }
            if self.chance(30) {
                self.choose(client, Route::Channels).await?;
            } else {
                self.act(client, Route::Channels, "").await?;
            }
        }
        self.leave(client).await
    }

    async fn native(&mut self) -> Result<(), String> {
        let from = self.address();
        let mut client = Client::open(&self.world, None, "/ws/native", from, &[])
            .await
            .map_err(|over| format!("/ws/native: not opened: {over:?}"))?;
        let outcome = self.native_visit(&mut client).await;
        self.judge(&client, outcome)
    }

    async fn native_visit(&mut self, client: &mut Client) -> Result<(), Over> {
        for number in 0..self.rng.u32(2..40) {
            for part in 0..self.rng.u32(1..4) {
                let padding = " ".repeat(self.rng.usize(..300));
                let payload = format!("frame {number}.{part} of {}{padding}", client.id).into_bytes();
                let first = if self.chance(30) { BINARY } else { TEXT };
                client.echoes.push_back((first, payload.clone()));
                client.send_raw(&frame(first, &payload)).await?;
            }
            client.listen(Duration::from_millis(self.rng.u64(50..500))).await?;
            if self.world.is_over() {
                return self.stay(client).await;
            }
        }
        // Everything sent before a ping is back before its pong.
        let ping = client.ping().await?;
        client.answer(|heard| *heard == Heard::Pong(ping)).await?;
        if !client.echoes.is_empty() {
            self.world.wrong(format!("client {}: no echo of {:?}", client.id, client.echoes));
        }
        self.leave(client).await
    }

    /// Listens to the firehose, and now and then does not.
    async fn dawdler(&mut self) -> Result<(), String> {
        let from = self.address();
        let mut client = Client::open(&self.world, Some(Route::Firehose), "/ws/firehose", from, &[])
            .await
            .map_err(|over| format!("/ws/firehose: not opened: {over:?}"))?;
        let (stream, _) = self.random_stream(Route::Firehose);
        client.subscribed(stream, false);
        let outcome = self.dawdling(&mut client).await;
        if matches!(&outcome, Err(over) if client.may_end(over)) {
            self.world.count("client: closed as too slow");
        }
        self.judge(&client, outcome)
    }

    async fn dawdling(&mut self, client: &mut Client) -> Result<(), Over> {
        for _ in 0..self.rng.u32(1..6) {
            client.listen(Duration::from_millis(self.rng.u64(500..2500))).await?;
            if self.world.is_over() {
                return self.stay(client).await;
            }
            if self.chance(40) {
                self.world.count("client: slow reader");
                client.may_close.push(TOO_SLOW);
                self.idle(DAWDLE, Phase::Settle).await;
            }
        }
        client.close().await
    }

    // --------------------------------------------------------------------------------------------- the end

    /// Does nothing for a while, or until this phase. Whether it has begun.
    async fn idle(&self, time: Duration, until: Phase) -> bool {
        let mut phase = self.world.phase.subscribe();
        let begun = phase.wait_for(|phase| *phase >= until);
        tokio::time::timeout(time, begun).await.is_ok()
    }

    /// Listens until everybody is to go.
    async fn stay(&mut self, client: &mut Client) -> Result<(), Over> {
        client.ping().await?;
        while *self.world.phase.borrow() != Phase::Leave {
            client.listen(Duration::from_millis(100)).await?;
        }
        client.close().await
    }

    async fn leave(&mut self, client: &mut Client) -> Result<(), Over> {
        let half = &frame(TEXT, &[b'x'; 100])[..40];
        match self.rng.u32(..100) {
            0..20 => {
                self.world.count("client: reset");
                client.wire.stream.set_zero_linger()?;
                Ok(())
            }
            20..30 => {
                self.world.count("client: half-closed");
                client.finish().await
            }
            30..40 => {
                self.world.count("client: killed in a frame");
                client.send_raw(half).await?;
                if self.chance(50) {
                    client.wire.stream.set_zero_linger()?;
                }
                Ok(())
            }
            40..46 => {
                self.world.count("client: silent");
                client.release();
                // It does not listen to what it is told of its messages.
                self.world.outgoing.borrow_mut().gone(client.id);
                // It reads much later what came in time.
                client.expires = None;
                if self.idle(SILENCE, Phase::Leave).await {
                    return Ok(());
                }
                // It was closed meanwhile, for this, or because its user came again and it did not answer.
                client.may_close.extend([SILENT, REPLACED]);
                client.was_deaf();
                client.listen(PATIENCE).await?;
                self.world.wrong(format!("client {}: silent, and not closed", client.id));
                Ok(())
            }
            46..73 => {
                self.hear_out(client).await?;
                client.close().await
            }
            _ => client.close().await,
        }
    }

    /// Listens until every message is published, or told not to be.
    async fn hear_out(&self, client: &mut Client) -> Result<(), Over> {
        let ping = client.ping().await?;
        client.answer(|heard| *heard == Heard::Pong(ping)).await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let unsettled = self.world.outgoing.borrow().unsettled(client.id);
            match unsettled {
                None => return Ok(()),
                Some(n) if Instant::now() > deadline => {
                    self.world.wrong(format!("{}: message {n}: neither published nor told", client.who()));
                    return Ok(());
                }
                Some(_) => client.listen(Duration::from_millis(50)).await?,
            }
        }
    }
}

/// One message by each way out, so that what the bridge makes once and keeps is there from the beginning.
pub async fn warm_up(world: Rc<World>) {
    for route in [Route::Plugin, Route::Command] {
        let mut visit = Visit { world: world.clone(), users: 1, rng: fastrand::Rng::with_seed(0) };
        let (stream, name) = visit.random_stream(route);
        let path = format!("/ws/{}/{name}", format!("{route:?}").to_lowercase());
        let token = visit.token("u0", None);
        let outcome = async {
            let mut client = Client::open(&world, Some(route), &path, 1, &[]).await?;
            visit.authenticate(&mut client, &token, false, Some(stream)).await?;
            client.publish(1).await?;
            client.close().await
        };
        let outcome: Result<(), Over> = outcome.await;
        if let Err(over) = outcome {
            world.wrong(format!("warming up {path}: {over:?}"));
        }
    }
}

/// Echoes until the server goes away, which it must say.
pub async fn until_the_end(world: Rc<World>) {
    let outcome = async {
        let mut client = Client::open(&world, None, "/ws/native", 1, &[]).await?;
        loop {
            client.listen(PATIENCE).await?;
        }
    };
    let outcome: Result<(), Over> = outcome.await;
    if !matches!(&outcome, Err(Over::Closed(1001, reason)) if reason == "server going away, reconnect") {
        world.wrong(format!("at the bridge's end: {outcome:?}"));
    }
}
