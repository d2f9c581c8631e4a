//! A session under a driver that does what the machine asks, when and how the fuzzer likes, beside a model of
//! what the session may do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pusher_bridge::auth::{TokenResult, token_in};
use pusher_bridge::clock::Now;
use pusher_bridge::exchange::{Interest, Subscribe};
use pusher_bridge::legacy::close::CloseReason;
use pusher_bridge::legacy::dialect::ClientMessage;
use pusher_bridge::legacy::error::ErrorCode;
use pusher_bridge::limits::rate::Rate;
use pusher_bridge::pusher::channel::{ChannelKind, DATA_BYTES_MAX, check_channel};
use pusher_bridge::routes::publish::Outgoing;
use pusher_bridge::routes::route::{HeartbeatKind, OnGap, Route};
use pusher_bridge::session::machine::{Action, Handled, JUDGING_MAX, Machine, PINGS_OWED_MAX};
use serde_json::Value;

use super::fixture::{claims, config, find, now, opening};
use super::input::Input;
use super::json::assert_json;

const LEEWAY: Duration = Duration::from_secs(1);
const SUBSCRIBE_WAIT: Duration = Duration::from_secs(10);
const STEPS_MAX: usize = 400;

const PATHS: [&str; 9] = [
    "/plugin/p1",
    "/own",
    "/environment",
    "/agent/7",
    "/rooms",
    "/files",
    "/echo",
    "/plain/x",
    "/plugin/private-",
];
const USERS: [&str; 4] = ["123", "124", "no channel's", "presence-"];
const TEXTS: [&str; 30] = [
    r#"{"type":"auth","token":"Bearer t.o.k"}"#,
    r#"{"op":"login","jwt":"t"}"#,
    r#"{"type":"auth"}"#,
    r#"{"op":"login","jwt":7}"#,
    r#"{"type":"subscribe","channel":"files"}"#,
    r#"{"type":"subscribe","channel":"private-diagnostics"}"#,
    r#"{"type":"subscribe","channel":"presence-x"}"#,
    r#"{"type":"unsubscribe","channel":"files"}"#,
    r#"{"type":"subscribe","environment_id":"e1"}"#,
    r#"{"type":"subscribe","environment_id":2}"#,
    r#"{"type":"subscribe","environment_id":""}"#,
    r#"{"type":"unsubscribe","environment_id":"e1"}"#,
    r#"{"op":"join","room":"a"}"#,
    r#"{"op":"join","room":"b"}"#,
    r#"{"op":"join","room":"c"}"#,
    r#"{"op":"join","room":"d"}"#,
    r#"{"op":"join","room":"not legal"}"#,
    r#"{"op":"leave","room":"a"}"#,
    r#"{"op":"say","room":"a","data":1}"#,
    r#"{"op":"hello"}"#,
    r#"{"op":"tock"}"#,
    r#"{"type":"pong","timestamp":"t"}"#,
    r#"{"type":"cursor","data":{"x":1.50}}"#,
    r#"{"type":"input","data":"ls\n"}"#,
    r#"{"type":"run","channel":"files","data":null}"#,
    r#"{"type":"run","speed":2}"#,
    r#"{"type":1}"#,
    r#"[]"#,
    "junk",
    r#"{"type":"run","data":[[[[[[[]]]]]]]}"#,
];

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::open(&mut input);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    world.end();
}

/// A bucket by the book (GCRA): `burst` at once, then one each `per / count`.
struct Bucket {
    rate: Option<Rate>,
    /// When the bucket will be full again.
    full_at: Option<Instant>,
}

impl Bucket {
    fn new(rate: Option<Rate>) -> Self {
        Self { rate, full_at: None }
    }

    fn take(&mut self, now: Instant) -> bool {
        let Some(Rate { count, per, burst }) = self.rate else { return true };
        let each = per / count;
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + each;
        let granted = full_at <= now + each * burst;
        if granted {
            self.full_at = Some(full_at);
        }
        granted
    }
}

/// What the machine has asked for and waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Verdict,
    Slots,
}

struct World {
    machine: Machine,
    route: std::sync::Arc<Route>,
    path_value: String,
    now: Now,
    out: Vec<Action>,
    messages: Bucket,
    auth: Bucket,
    control: Bucket,
    /// Pings to which an answer is no flood.
    pings_owed: u8,
    asked: Option<Asked>,
    /// The claims that were accepted, while slots are being taken.
    accepted: Option<(&'static str, i64)>,
    /// Slots are held: the user, and the token's end.
    granted: Option<(&'static str, i64)>,
    /// Subscriptions made and not ended, and whether they stand.
    subscriptions: BTreeMap<u32, (Subscribe, bool)>,
    heard: Instant,
    /// Until when the client's frames were kept unread last: for a verdict, or before it was in service.
    deaf: Instant,
    drain_at: Option<Instant>,
    /// By when a gap must have closed it.
    gap_by: Option<Instant>,
    refused: bool,
    closed: Option<CloseReason>,
}

impl World {
    fn open(input: &mut Input<'_>) -> Self {
        let path = input.pick(&PATHS);
        let (route, values) = find(config(), path).unwrap();
        let (now, mut out) = (now(), Vec::new());
        let limits = &route.limits;
        let mut opening = opening(route, values);
        let how = input.byte();
        opening.token = (how & 1 == 1).then(|| "t".to_owned());
        opening.refusal = (how & 14 == 14).then_some(ErrorCode::EndpointGone);
        opening.seed = u64::from(how);
        let refused = opening.refusal.is_some();
        let machine = Machine::open(opening, now, &mut out);
        let mut world = Self {
            machine,
            route: route.clone(),
            path_value: path.rsplit('/').next().unwrap().to_owned(),
            now,
            out,
            messages: Bucket::new(limits.messages),
            auth: Bucket::new(limits.auth_attempts),
            control: Bucket::new(Some(limits.control_frames)),
            pings_owed: 0,
            asked: None,
            accepted: None,
            granted: None,
            subscriptions: BTreeMap::new(),
            heard: now.mono,
            deaf: now.mono,
            drain_at: None,
            gap_by: None,
            refused,
            closed: None,
        };
        if how & 1 == 1 && world.route.auth.is_some() && !refused {
            assert!(world.auth.take(now.mono));
        }
        world.settle();
        world
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(16) {
            0..=4 => self.text(input.pick(&TEXTS)),
            5 => {
                let text = input.text();
                self.text(text);
            }
            6 => self.frame(Machine::binary, Some(true)),
            7 => {
                let control = |machine: &mut Machine, now, out: &mut _| {
                    machine.control(now, out);
                    Handled::Consumed
                };
                self.frame(control, None);
            }
            8 | 9 => self.answer(input),
            10 => self.stands(input),
            11 | 12 => self.wait(input),
            13 => self.notice(input),
            14 => {
                self.hear();
                self.machine.heard(self.now);
            }
            _ => {
                // A timer that is not due, or that comes late.
                self.machine.timer(self.now, &mut self.out);
                self.timed();
            }
        }
        self.settle();
    }

    fn needs_auth(&self) -> bool {
        self.route.auth.is_some()
    }

    fn hear(&mut self) {
        self.heard = self.now.mono;
    }

    // ------------------------------------------------------------------------------------- what comes in

    /// A client's text, when it is read: it is judged by the model before the machine is asked.
    fn text(&mut self, text: &str) {
        if !self.machine.wants_frames() {
            return;
        }
        self.hear();
        let now = self.now.mono;
        let message = self.route.dialect.decode(text, self.route.limits.depth_max);
        let (is_auth, free) = match &message {
            Ok(ClientMessage::Auth(_)) => (self.needs_auth(), false),
            Ok(ClientMessage::Pong) => (false, true),
            Ok(ClientMessage::Ping) => (false, self.machine.is_live()),
            _ => (false, false),
        };
        let handled = self.machine.text(text, self.now, &mut self.out);
        let echoes = handled == Handled::Echo;
        assert!(!echoes || self.route.echo);
        if self.refused || free && !self.route.echo {
            self.expect_flood_control();
        } else if is_auth && !self.route.echo {
            let token = matches!(message, Ok(ClientMessage::Auth(Some(text))) if token_in(&text).is_some());
            self.expect_auth(token, now);
        } else {
            let within = self.expect_message(now);
            if within {
                let silent =
                    matches!(message, Ok(ClientMessage::Subscribe(_) | ClientMessage::Unsubscribe(_)));
                assert!(silent || echoes || !self.out.is_empty(), "neither carried nor answered: {text}");
                assert!(!self.out.iter().any(|action| matches!(action, Action::Close(_))));
                if self.route.echo && self.machine.is_live() {
                    assert!(echoes && self.out.is_empty());
                }
            }
        }
    }

    /// Another frame: a message, or a control frame.
    fn frame(&mut self, hand: fn(&mut Machine, Now, &mut Vec<Action>) -> Handled, message: Option<bool>) {
        if !self.machine.wants_frames() {
            return;
        }
        self.hear();
        let now = self.now.mono;
        let echoes = hand(&mut self.machine, self.now, &mut self.out) == Handled::Echo;
        assert!(!echoes || self.route.echo);
        if message.is_none() || self.refused {
            self.expect_flood_control();
        } else if self.expect_message(now) {
            assert!(echoes || !self.out.is_empty(), "neither carried nor answered");
        }
    }

    fn expect_flood_control(&mut self) {
        let answers = self.pings_owed > 0;
        self.pings_owed = self.pings_owed.saturating_sub(1);
        let within = answers || self.control.take(self.now.mono);
        assert_eq!(within, !self.out.iter().any(|a| matches!(a, Action::Close(CloseReason::ControlFlood))));
    }

    fn expect_message(&mut self, now: Instant) -> bool {
        let within = self.messages.take(now);
        if !within {
            match self.out.as_slice() {
                [Action::Error(ErrorCode::RateLimited, _)] => assert!(self.control.take(now)),
                [Action::Close(CloseReason::ControlFlood)] => assert!(!self.control.take(now)),
                other => panic!("beyond the rate of messages: {other:?}"),
            }
        }
        within
    }

    fn expect_auth(&mut self, token: bool, now: Instant) {
        let within = self.auth.take(now);
        match self.out.as_slice() {
            [Action::Verify(token)] => assert!(within && !token.starts_with("Bearer")),
            [Action::Unverified(TokenResult::NoToken), Action::Error(ErrorCode::InvalidToken, _)] => {
                assert!(within && !token);
            }
            [Action::Unverified(TokenResult::RateLimited), Action::Error(ErrorCode::AuthRateLimited, _)] => {
                assert!(!within && self.control.take(now));
            }
            [Action::Close(CloseReason::ControlFlood)] => assert!(!within && !self.control.take(now)),
            other => panic!("an auth message: {other:?}"),
        }
    }

    /// The answer to what the machine waits for; now and then one that it does not wait for.
    fn answer(&mut self, input: &mut Input<'_>) {
        let odd = input.below(8) == 7;
        match self.asked {
            Some(Asked::Verdict) if !odd => self.verdict(input),
            Some(Asked::Slots) if !odd => self.slots(input),
            asked => {
                // Late, because the session went on without it.
                if asked != Some(Asked::Verdict) {
                    let late = claims("123", r#"["use"]"#, r#"["p1"]"#, self.now.unix_seconds() + 60);
                    self.machine.verified(Ok(late), LEEWAY, self.now, &mut self.out);
                }
                assert!(self.out.is_empty());
            }
        }
    }

    fn verdict(&mut self, input: &mut Input<'_>) {
        self.asked = None;
        self.deaf = self.now.mono;
        let (what, user) = (input.byte(), input.pick(&USERS));
        if what & 7 == 7 && what & 8 == 8 {
            self.machine.unjudged(Duration::from_secs(3), self.now, &mut self.out);
            return assert!(matches!(self.out.as_slice(), [Action::Error(ErrorCode::Unavailable, _)]));
        }
        if what & 3 == 3 {
            let wait = (what & 4 == 4).then_some(Duration::from_millis(300));
            self.machine.verified(Err(wait), LEEWAY, self.now, &mut self.out);
            return assert!(matches!(
                self.out.as_slice(),
                [Action::Error(ErrorCode::InvalidToken | ErrorCode::AuthRateLimited, _)]
            ));
        }
        let lasts = i64::from(what >> 3) - 3;
        let ends = self.now.unix_seconds() + lasts;
        let permissions = if what & 4 == 4 { r#"["x"]"# } else { r#"["use","x"]"# };
        let plugins = if what & 3 == 1 { r#"["p2"]"# } else { r#"["p1","private-"]"# };
        let renewal = self.machine.is_live();
        let claims = claims(user, permissions, plugins, ends);
        self.machine.verified(Ok(claims), LEEWAY, self.now, &mut self.out);
        let auth = self.route.auth.as_ref().unwrap();
        let permitted =
            (auth.permissions.is_empty() || what & 4 == 0) && (auth.owns.is_empty() || what & 3 != 1);
        match (self.out.as_slice(), permitted) {
            ([Action::Error(ErrorCode::MissingPermission | ErrorCode::NotOwner, _)], false) => {}
            ([Action::Error(ErrorCode::OtherUser, _)], true) => {
                assert!(renewal && self.granted.unwrap().0 != user);
            }
            ([Action::Send(_)], true) if renewal => {
                assert_eq!(self.granted.unwrap().0, user);
                self.granted = Some((user, ends));
            }
            ([Action::Acquire { user: named, exclusive }], true) if !renewal => {
                assert_eq!(named.subject, user);
                let key = format!("{}/{user}", self.path_value);
                let exclusive = exclusive.as_ref().map(|exclusive| &exclusive.subject);
                assert_eq!(exclusive, self.route.limits.exclusive.as_ref().map(|_| &key));
                self.accepted = Some((user, ends));
            }
            (other, permitted) => panic!("permitted: {permitted}, renewal: {renewal}, {other:?}"),
        }
    }

    fn slots(&mut self, input: &mut Input<'_>) {
        self.asked = None;
        self.deaf = self.now.mono;
        let accepted = self.accepted.take();
        if input.below(4) == 3 {
            self.machine.slots(Err(ErrorCode::SessionInUse), self.now, &mut self.out);
            assert!(matches!(self.out.as_slice(), [Action::Error(ErrorCode::SessionInUse, _)]));
        } else {
            self.granted = accepted;
            self.machine.slots(Ok(()), self.now, &mut self.out);
        }
    }

    /// One of the subscriptions stands; or one that never was does.
    fn stands(&mut self, input: &mut Input<'_>) {
        let waiting: Vec<u32> =
            self.subscriptions.iter().filter(|(_, (_, stands))| !stands).map(|(id, _)| *id).collect();
        let id = match waiting.get(input.below(4)) {
            Some(id) => *id,
            None => 1000 + u32::from(input.byte()),
        };
        if !self.machine.is_live() {
            self.deaf = self.now.mono;
        }
        self.machine.subscribed(id, self.now, &mut self.out);
        // Who asked for it again meanwhile is answered as often; its own confirmation is the hub's.
        let again = self.subscriptions.get_mut(&id).and_then(|(subscribe, stands)| {
            *stands = true;
            self.route.dialect.render_subscribed(self.route.alias(&subscribe.channel), self.now)
        });
        let is_answer =
            |action: &Action| matches!(action, Action::Send(text) if again.as_ref() == Some(text));
        assert!(self.out.iter().all(is_answer), "{:?}", self.out);
    }

    fn notice(&mut self, input: &mut Input<'_>) {
        match input.below(8) {
            0..=2 => self.machine.probe(Duration::from_secs(2), self.now, &mut self.out),
            3 | 4 => {
                let live = self.machine.is_live();
                self.machine.publish_failed(ErrorCode::QueueFull, "\"t\"", self.now, &mut self.out);
                assert_eq!(self.out.len(), usize::from(live && !self.route.echo));
            }
            5 => {
                let window = Duration::from_secs(input.below(3) as u64);
                self.machine.gap(window, self.now, &mut self.out);
                if self.machine.is_live() && self.route.on_gap == OnGap::Close {
                    self.gap_by.get_or_insert(self.now.mono + window);
                }
            }
            6 => {
                let after = Duration::from_secs(input.below(10) as u64);
                self.machine.drain(after, self.now);
                self.drain_at = Some(self.now.mono + after);
            }
            _ => {
                self.machine.replaced(&mut self.out);
                assert!(
                    self.closed.is_some()
                        || matches!(self.out.as_slice(), [Action::Close(CloseReason::Replaced)])
                );
            }
        }
    }

    // -------------------------------------------------------------------------------------------- time

    /// Time passes: with a timer for every deadline on the way, or, on a busy machine, one late for all.
    fn wait(&mut self, input: &mut Input<'_>) {
        let (how, time) = (input.byte(), Duration::from_millis(input.number() as u64 / 4));
        let until = self.now.plus(time);
        if how & 3 == 0 {
            self.now = until;
            self.machine.timer(self.now, &mut self.out);
            return self.timed();
        }
        while let Some(at) = self.machine.deadline().filter(|at| *at <= until.mono) {
            self.now = self.now.plus(at.saturating_duration_since(self.now.mono));
            self.machine.timer(self.now, &mut self.out);
            self.timed();
            self.settle();
        }
        self.now = until;
    }

    /// Right after a timer: what was due is done, and the next deadline is still to come.
    fn timed(&mut self) {
        let (now, closing) = (self.now, self.out.iter().find_map(closed));
        let Some(reason) = closing else {
            let next = self.machine.deadline();
            assert!(next.is_none_or(|at| at > now.mono), "a timer that fires for ever");
            if self.closed.is_some() {
                return;
            }
            assert!(self.drain_at.is_none_or(|at| at > now.mono), "its turn to go has come");
            assert!(self.gap_by.is_none_or(|by| by > now.mono), "a gap was to close it");
            let released = self.out.iter().any(|action| matches!(action, Action::Release));
            if let Some((_, ends)) = self.granted.filter(|_| !released) {
                // For as long as it was judged, or another is, it has not aged.
                let forgiven = (LEEWAY + JUDGING_MAX * 2).as_millis() as i64;
                assert!(now.unix_ms < ends * 1000 + forgiven, "the token has expired");
            }
            let heartbeat = self.route.heartbeat;
            if self.machine.is_live() && self.asked.is_none() && heartbeat.kind != HeartbeatKind::None {
                assert!(now.mono < self.heard.max(self.deaf) + heartbeat.timeout, "the client is silent");
            }
            return;
        };
        let silent_for = now.mono - self.heard;
        match reason {
            CloseReason::Silent => {
                assert!(silent_for >= self.route.heartbeat.timeout);
                assert!(self.asked.is_none(), "what the client says is not read meanwhile");
            }
            CloseReason::TokenExpired => assert!(self.granted.or(self.accepted).is_some()),
            CloseReason::GoingAway => assert!(self.drain_at.unwrap() <= now.mono),
            CloseReason::Gap => assert!(self.gap_by.is_some()),
            CloseReason::AuthDeadline | CloseReason::AuthFailures => {
                assert!(self.needs_auth() && self.granted.is_none())
            }
            CloseReason::Replaced => assert!(silent_for >= Duration::from_secs(2) && self.asked.is_none()),
            CloseReason::Refused => assert!(self.refused),
            other => panic!("no timer closes for {other:?}"),
        }
    }

    // -------------------------------------------------------------------------------- what is asked for

    /// Carries out what the machine asked for, as the driver does, and looks at the whole.
    fn settle(&mut self) {
        let actions = std::mem::take(&mut self.out);
        // Of frames there is at most one for each message, also where many are answered at once.
        let frames = actions.iter().filter(|action| matches!(action, Action::Send(_))).count();
        assert!(frames <= STEPS_MAX, "{actions:?}");
        assert!(actions.len() - frames <= 8 + self.subscriptions.len() * 2, "{actions:?}");
        for action in actions {
            assert_eq!(self.closed, None, "after the close: {action:?}");
            self.carry_out(action);
        }
        let machine = &self.machine;
        if self.closed.is_some() {
            assert!(machine.deadline().is_none() && !machine.is_live() && !machine.wants_frames());
            return;
        }
        let may_be_live = !self.needs_auth() || self.granted.is_some();
        assert!(!machine.is_live() || may_be_live && !self.refused);
        assert_eq!(machine.user(), self.granted.map(|(user, _)| user));
        assert!(!machine.wants_frames() || self.asked.is_none(), "frames wait for the answer");
        // Whoever waits for something has an end set.
        if !machine.is_live() && self.asked != Some(Asked::Slots) {
            let latest = self.now.mono + SUBSCRIBE_WAIT.max(Duration::from_secs(30) + JUDGING_MAX);
            assert!(machine.deadline().is_some_and(|at| at <= latest));
        }
        let chosen = self.subscriptions.keys().filter(|id| **id != 0).count();
        assert!(chosen <= self.route.limits.subscriptions_max);
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Send(text) => {
                assert_json(&text);
                if self.route.dialect.render_ping(self.now).as_ref() == Some(&text) {
                    self.owe_ping();
                }
            }
            Action::Error(code, text) => {
                assert_json(&text);
                assert!(text.contains(self.route.dialect.code(code)));
            }
            Action::WsPing => self.owe_ping(),
            Action::Verify(_) => {
                assert!(self.needs_auth());
                assert!(self.asked.replace(Asked::Verdict).is_none());
            }
            Action::Unverified(_) => assert!(self.needs_auth()),
            Action::Acquire { .. } => assert!(self.asked.replace(Asked::Slots).is_none()),
            Action::Release => {
                assert!(self.subscriptions.is_empty(), "back at no token, and still subscribed");
                self.granted = None;
            }
            Action::Subscribe(subscribe) => self.subscribe(subscribe),
            Action::Unsubscribe(id) => {
                // The one of the path may be given up before it was made.
                assert!(self.subscriptions.remove(&id).is_some() || id == 0);
            }
            Action::Publish { outgoing, channel, .. } => self.publish(&outgoing, &channel),
            Action::Close(reason) => {
                self.closed = Some(reason);
                self.asked = None;
                self.subscriptions.clear();
            }
        }
    }

    fn owe_ping(&mut self) {
        self.pings_owed = (self.pings_owed + 1).min(PINGS_OWED_MAX);
    }

    fn subscribe(&mut self, subscribe: Subscribe) {
        assert!(!self.needs_auth() || self.granted.is_some(), "subscribed before a good token");
        check_channel(&subscribe.channel).unwrap();
        assert!(matches!(ChannelKind::of(&subscribe.channel), ChannelKind::Public | ChannelKind::Private));
        assert!(subscribe.channel.starts_with(self.route.channel.literal_prefix()));
        if let Some(confirm) = &subscribe.confirm {
            assert_json(confirm);
        }
        match &subscribe.interest {
            Interest::All => assert!(self.route.filter.is_none()),
            Interest::Value(value) => assert!(self.route.filter.is_some() && !value.is_empty()),
            Interest::Hold => assert!(self.route.filter_is_chosen() && subscribe.id == 0),
        }
        let same = |other: &Subscribe| {
            other.id != 0 && other.channel == subscribe.channel && other.interest == subscribe.interest
        };
        assert!(!self.subscriptions.values().any(|(other, _)| same(other)), "subscribed twice");
        assert!(self.subscriptions.insert(subscribe.id, (subscribe, false)).is_none());
    }

    fn publish(&mut self, outgoing: &Outgoing, channel: &str) {
        assert!(self.machine.is_live() && (!self.needs_auth() || self.granted.is_some()));
        if matches!(outgoing, Outgoing::Drop) {
            return;
        }
        check_channel(channel).unwrap();
        assert!(
            !self.route.channel_is_chosen() || self.subscriptions.values().any(|(s, _)| s.channel == channel),
            "published to a channel that the client is not subscribed to"
        );
        match outgoing {
            Outgoing::Trigger { data, .. } | Outgoing::ClientEvent { data, .. } => {
                assert_json(data);
                assert!(data.len() <= DATA_BYTES_MAX);
            }
            Outgoing::Drop => {}
            Outgoing::Post { body, .. } => {
                assert_json(body);
                let body: Value = serde_json::from_str(body).unwrap_or_default();
                assert!(body.is_object() || body.is_null());
            }
        }
    }

    /// A client that says nothing more is gone in the end, unless nothing asks it to speak.
    fn end(&mut self) {
        if self.asked == Some(Asked::Slots) {
            self.asked = None;
            self.accepted = None;
            self.machine.slots(Err(ErrorCode::TooManyConnections), self.now, &mut self.out);
            self.settle();
        }
        for _ in 0..200 {
            let Some(at) = self.machine.deadline() else { break };
            // While a verdict is awaited nothing else may end the session than its deadlines.
            self.now = self.now.plus(at.saturating_duration_since(self.now.mono));
            self.machine.timer(self.now, &mut self.out);
            self.timed();
            self.settle();
        }
        let quiet = self.route.heartbeat.kind == HeartbeatKind::None || self.asked.is_some();
        assert!(self.closed.is_some() || quiet && self.machine.is_live(), "kept for ever");
    }
}

fn closed(action: &Action) -> Option<CloseReason> {
    match action {
        Action::Close(reason) => Some(*reason),
        _ => None,
    }
}
