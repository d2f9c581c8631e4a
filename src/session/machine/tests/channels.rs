//! The channel dialect's subscriptions in any order: each is answered once, and the hub has those that the client has.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

const CHANNELS: [&str; 4] = ["files", "git", "log-a", "log-b"];

/// The shipped channel dialect with both confirmations, and a list with a begun name.
fn config() -> Config {
    shipped_with(|text| {
        let text = text.replace("\"validation\", \"git\"]", "\"validation\", \"git\", \"log-*\"]");
        text.replace(
            "[dialects.channel.out]",
            "[dialects.channel.out]\nsubscribed = '{\"type\":\"subscribed\",\"channel\":{channel}}'\n\
             unsubscribed = '{\"type\":\"unsubscribed\",\"channel\":{channel}}'",
        )
    })
}

fn named(kind: &str, channel: &str) -> String {
    format!(r#"{{"type":"{kind}","channel":"{channel}"}}"#)
}

#[test]
fn each_is_confirmed_and_a_list_is_all_or_nothing() {
    let mut b = Bench::open_in(&config(), "/ws", |_| {});
    assert_eq!(
        b.text(r#"{"type":"subscribe","channel":["files","log-a","files"]}"#),
        ["subscribe 1 files All", "subscribe 2 log-a All"]
    );
    assert!(b.text(&named("subscribe", "log-a")).is_empty());
    assert_eq!(b.subscribed(1), [named("subscribed", "files")], "the second time that it was asked for");
    assert_eq!(b.subscribed(2), [named("subscribed", "log-a")]);
    assert!(b.subscribed(2).is_empty());
    assert_eq!(b.text(&named("subscribe", "files")), [named("subscribed", "files")]);
    for (wrong, code) in [
        (r#"["git","log-"]"#, "INVALID_FIELD"),
        (r#"["git",["log-a"]]"#, "INVALID_FIELD"),
        (r#"["git",null]"#, "INVALID_FIELD"),
        ("[]", "INVALID_FIELD"),
        (r#"{"0":"git"}"#, "INVALID_FIELD"),
        (r#""log-*""#, "INVALID_FIELD"),
    ] {
        let error = [format!("error {code}")];
        assert_eq!(b.text(&format!(r#"{{"type":"subscribe","channel":{wrong}}}"#)), error, "{wrong}");
    }
    let many: Vec<String> = (0..99).map(|n| format!("\"log-{n}\"")).collect();
    let many = format!(r#"{{"type":"subscribe","channel":[{}]}}"#, many.join(","));
    assert_eq!(b.text(&many), ["error TOO_MANY_SUBSCRIPTIONS"], "99 beside two, of 100");
    assert_eq!(
        b.text(r#"{"type":"unsubscribe","channel":["git","files"]}"#),
        [named("unsubscribed", "git"), "unsubscribe 1".to_owned(), named("unsubscribed", "files")]
    );
    assert_eq!(b.text(&many).len(), 99);
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(Vec<usize>),
    Unsubscribe(Vec<usize>),
    /// Pusher confirms the channel: the hub sends who waits its frame, and a notice that is read later.
    Confirm(usize),
    /// A notice is read.
    Notice,
    /// The link is lost: nothing is confirmed any more.
    Down,
    /// So long that what is not confirmed is given up.
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let channels = || prop::collection::vec(0..CHANNELS.len(), 1..4);
    prop_oneof![
        4 => channels().prop_map(Step::Subscribe),
        3 => channels().prop_map(Step::Unsubscribe),
        4 => (0..CHANNELS.len()).prop_map(Step::Confirm),
        3 => Just(Step::Notice),
        1 => Just(Step::Down),
        1 => Just(Step::Wait),
    ]
}

/// A hub, as far as one connection sees it.
#[derive(Default)]
struct Hub {
    /// By the machine's number: the channel, and the frame that is still to be sent.
    held: BTreeMap<u32, (String, Option<String>)>,
    confirmed: Vec<String>,
    notices: VecDeque<u32>,
}

/// What is right: per channel how many answers its client waits for, `None` once it is in service for it.
type Model = BTreeMap<&'static str, Option<usize>>;

struct World {
    b: Bench,
    hub: Hub,
    model: Model,
    /// Frames that the client got since the last look.
    got: Vec<String>,
    errors: usize,
}

impl World {
    /// Does what the machine asked for, as the driver does.
    fn act(&mut self) {
        while !self.b.out.is_empty() {
            for action in std::mem::take(&mut self.b.out) {
                match action {
                    Action::Send(text) => self.got.push(text),
                    Action::Error(ErrorCode::UpstreamUnavailable, _) => self.errors += 1,
                    Action::Unsubscribe(id) => assert!(self.hub.held.remove(&id).is_some(), "held once"),
                    Action::Subscribe(Subscribe { id, channel, confirm, .. }) => {
                        assert!(self.hub.held.values().all(|(held, _)| *held != channel), "{channel} twice");
                        if self.hub.confirmed.contains(&channel) {
                            self.got.extend(confirm);
                            self.hub.held.insert(id, (channel, None));
                            self.b.machine.subscribed(id, self.b.now, &mut self.b.out);
                        } else {
                            self.hub.held.insert(id, (channel, confirm));
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn say(&mut self, kind: &str, channels: &[usize]) {
        let names: Vec<&str> = channels.iter().map(|at| CHANNELS[*at]).collect();
        let text = match names.as_slice() {
            [one] => named(kind, one),
            _ => serde_json::json!({ "type": kind, "channel": names }).to_string(),
        };
        self.b.machine.text(&text, self.b.now, &mut self.b.out);
        self.act();
    }

    /// Exactly these frames, in any order of channels.
    fn expect(&mut self, mut frames: Vec<String>) {
        let mut got = std::mem::take(&mut self.got);
        got.sort();
        frames.sort();
        assert_eq!(got, frames);
        let mut held: Vec<&str> = self.hub.held.values().map(|(channel, _)| channel.as_str()).collect();
        held.sort_unstable();
        assert_eq!(held, self.model.keys().copied().collect::<Vec<_>>());
    }

    fn step(&mut self, step: Step) {
        let mut frames = Vec::new();
        match step {
            Step::Subscribe(channels) => {
                for channel in channels.iter().map(|at| CHANNELS[*at]) {
                    let is_confirmed = self.hub.confirmed.iter().any(|confirmed| confirmed == channel);
                    match self.model.get_mut(channel) {
                        Some(None) => frames.push(named("subscribed", channel)),
                        Some(Some(owed)) => *owed += 1,
                        None if is_confirmed => {
                            frames.push(named("subscribed", channel));
                            self.model.insert(channel, None);
                        }
                        None => _ = self.model.insert(channel, Some(1)),
                    }
                }
                self.say("subscribe", &channels);
            }
            Step::Unsubscribe(channels) => {
                for channel in channels.iter().map(|at| CHANNELS[*at]) {
                    self.model.remove(channel);
                    frames.push(named("unsubscribed", channel));
                }
                self.say("unsubscribe", &channels);
            }
            Step::Confirm(at) => {
                self.hub.confirmed.push(CHANNELS[at].to_owned());
                for (id, (channel, frame)) in &mut self.hub.held {
                    if channel == CHANNELS[at]
                        && let Some(frame) = frame.take()
                    {
                        frames.push(frame.clone());
                        self.got.push(frame);
                        self.hub.notices.push_back(*id);
                        *self.model.get_mut(CHANNELS[at]).unwrap().as_mut().unwrap() -= 1;
                    }
                }
            }
            Step::Notice => {
                let Some(id) = self.hub.notices.pop_front() else { return };
                if let Some((channel, _)) = self.hub.held.get(&id) {
                    let owed = self.model.get_mut(channel.as_str()).unwrap().take().unwrap();
                    frames.extend((0..owed).map(|_| named("subscribed", channel)));
                }
                self.b.machine.subscribed(id, self.b.now, &mut self.b.out);
                self.act();
            }
            Step::Down => self.hub.confirmed.clear(),
            Step::Wait => {
                let before = self.model.len();
                self.model.retain(|_, owed| owed.is_none());
                self.b.now = self.b.now.plus(Duration::from_secs(10));
                self.b.without_heartbeat();
                self.b.machine.timer(self.b.now, &mut self.b.out);
                let errors = self.errors;
                self.act();
                assert_eq!(self.errors - errors, before - self.model.len(), "each is told once");
            }
        }
        self.expect(frames);
    }
}

proptest! {
    /// Over lost links and confirmations that come late: each `subscribe` that is not taken back is answered once,
    /// each `unsubscribe` once, and the hub has what the model has.
    #[test]
    fn any_order_of_subscribing_is_answered_once(steps in prop::collection::vec(step(), 0..40)) {
        let config = config();
        let b = Bench::open_in(&config, "/ws", |_| {});
        let mut world = World { b, hub: Hub::default(), model: Model::new(), got: Vec::new(), errors: 0 };
        world.act();
        steps.into_iter().for_each(|step| world.step(step));
        for at in 0..CHANNELS.len() {
            world.step(Step::Confirm(at));
        }
        while !world.hub.notices.is_empty() {
            world.step(Step::Notice);
        }
        prop_assert!(world.model.values().all(Option::is_none), "nobody waits for an answer");
    }
}
