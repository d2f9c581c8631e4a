//! Users' own connections to Pusher, and the pool that makes one link of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pusher_bridge::exchange::{Member, NamedBy};
use pusher_bridge::metrics::Registry;
use pusher_bridge::sandbox::{Options, Sandbox, SandboxHandle};
use pusher_bridge::upstream::delivery::{Delivery, Event, Kind};
use pusher_bridge::upstream::members::{Members, driver, metrics};
use pusher_bridge::upstream::refused::Refused;
use pusher_bridge::upstream::settings::Settings;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::support::bridge::{self, SHIPPED};
use crate::support::pusher::{App, Pusher as _};
use crate::support::sockudo::Sockudo;
use crate::support::{links, patiently};

const ROOM: &str = "presence-room";

/// A pool with one hub.
struct Pool {
    members: Members,
    inbox: mpsc::Receiver<Delivery>,
    /// What came before what was waited for.
    passed: VecDeque<Delivery>,
    registry: Registry,
    task: JoinHandle<()>,
    joins: u64,
}

fn member(id: &str) -> Arc<Member> {
    let info = format!(r#"{{"name":"{id}"}}"#);
    Arc::new(Member {
        named_by: NamedBy::Token(None),
        user_id: id.into(),
        info: Some(info.into()),
        user_data: None,
    })
}

fn user(id: &str) -> Arc<Member> {
    let data = format!(r#"{{"id":"{id}"}}"#);
    Arc::new(Member { user_data: Some(data.into()), ..(*member(id)).clone() })
}

impl Pool {
    fn new(app: &App, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = bridge::config(SHIPPED, &app.environment()).upstream;
        settings.times.linger = Duration::from_millis(50);
        change(&mut settings);
        let registry = Registry::new().unwrap();
        let (shared, inbox) = links::shared(settings, &registry);
        let counted = Arc::new(metrics::Metrics::new(&registry));
        let (members, end) = Members::open();
        let task = tokio::spawn(async move { driver::run(&shared, end, counted).await });
        Self { members, inbox, passed: VecDeque::new(), registry, task, joins: 0 }
    }

    fn asks(&mut self, channel: &str, member: &Arc<Member>) {
        self.joins += 1;
        self.members.join(&channel.into(), member, 0, self.joins);
    }

    fn leaves(&self, channel: &str, member: &Member) {
        self.members.leave(&channel.into(), member.key(), 0);
    }

    /// Waits for what `is_it` finds; what comes before that is passed.
    async fn told<T>(&mut self, what: &str, is_it: impl Fn(&Delivery) -> Option<T>) -> T {
        patiently(what, async {
            loop {
                let delivery = self.inbox.recv().await.unwrap();
                if let Some(found) = is_it(&delivery) {
                    return found;
                }
                self.passed.push_back(delivery);
            }
        })
        .await
    }

    /// Joins, and gives the list of members.
    async fn joins(&mut self, channel: &str, member: &Arc<Member>) -> Option<String> {
        self.asks(channel, member);
        self.joined(member).await
    }

    async fn joined(&mut self, of: &Arc<Member>) -> Option<String> {
        let joined = |delivery: &Delivery| match delivery {
            Delivery::Joined { member, members, .. } if of.has_key(member) => {
                Some(members.as_ref().map(ToString::to_string))
            }
            _ => None,
        };
        self.told("the confirmation", joined).await
    }

    async fn event(&mut self, kind: Kind, name: &str) -> Arc<Event> {
        let is_it = |delivery: &Delivery| match delivery {
            Delivery::Event(event) if event.kind == kind && *event.name == *name => Some(event.clone()),
            _ => None,
        };
        self.told(name, is_it).await
    }

    /// How many events of this name have come and were not waited for.
    fn passed(&self, name: &str) -> usize {
        let is_it = |delivery: &&Delivery| matches!(delivery, Delivery::Event(event) if *event.name == *name);
        self.passed.iter().filter(is_it).count()
    }

    fn shows(&self, line: &str) -> bool {
        self.registry.render().lines().any(|shown| shown == line)
    }
}

async fn sandbox() -> SandboxHandle {
    Sandbox::start(Options::local()).await.unwrap()
}

/// Each with a connection of its own, and each event once.
async fn is_one_room(app: &App) {
    let mut pool = Pool::new(app, |_| {});
    let [first, second, third] = ["1", "2", "3"].map(member);
    assert_eq!(pool.joins(ROOM, &first).await.unwrap(), r#"[{"id":"1","info":{"name":"1"}}]"#);
    let list = pool.joins(ROOM, &second).await.unwrap();
    assert_eq!(list, r#"[{"id":"1","info":{"name":"1"}},{"id":"2","info":{"name":"2"}}]"#);
    pool.joins(ROOM, &third).await;
    for (name, count) in [("a", 5), ("b", 5)] {
        for n in 0..count {
            app.trigger(ROOM, name, &format!(r#"{{"n":{}}}"#, n % 2)).await;
        }
    }
    app.trigger(ROOM, "last", "{}").await;
    let last = pool.event(Kind::Channel, "last").await;
    assert_eq!((&*last.data, last.link), ("{}", pool.members.id()));
    pool.leaves(ROOM, &second);
    let left = pool.event(Kind::MemberRemoved, "2").await;
    assert_eq!(&*left.data, r#"{"name":"2"}"#);
    // By then all copies have come.
    app.trigger(ROOM, "end", "{}").await;
    pool.event(Kind::Channel, "end").await;
    assert_eq!((pool.passed("a"), pool.passed("b"), pool.passed("last")), (5, 5, 0));
    assert!(pool.shows("pusher_bridge_member_links_connected 2"));
    assert!(pool.shows("pusher_bridge_member_dials_total 3"));
    let Pool { members, task, .. } = pool;
    drop(members);
    patiently("its end", task).await.unwrap();
}

#[tokio::test]
async fn members_of_a_channel_know_each_other_and_get_each_event_once() {
    let sandbox = sandbox().await;
    is_one_room(&sandbox.app()).await;
    patiently("nobody", sandbox.wait_for(|view| view.connections() == 0)).await;
}

#[tokio::test]
async fn sockudo_has_members() {
    if let Some(sockudo) = Sockudo::start().await {
        is_one_room(&sockudo.app()).await;
    }
}

#[tokio::test]
async fn beyond_the_cap_a_member_is_refused_until_a_place_is_free() {
    let sandbox = sandbox().await;
    let mut pool = Pool::new(&sandbox.app(), |settings| settings.members.links_max = 1);
    let [first, second] = ["1", "2"].map(member);
    pool.joins(ROOM, &first).await;
    pool.asks(ROOM, &second);
    let refused = |delivery: &Delivery| match delivery {
        Delivery::Refused { member: Some(member), why, .. } if second.has_key(member) => Some(*why),
        _ => None,
    };
    assert_eq!(pool.told("the refusal", refused).await, Refused::Quota);
    assert!(pool.shows(r#"pusher_bridge_member_refusals_total{reason="no_place"} 1"#));
    pool.leaves(ROOM, &first);
    let list = pool.joined(&second).await.unwrap();
    assert_eq!(list, r#"[{"id":"2","info":{"name":"2"}}]"#);
    assert_eq!(sandbox.view(|view| view.members(ROOM)), ["2"]);
}

/// By the server's count of connections against the time that has passed: a busy machine makes it slower only.
#[tokio::test]
async fn a_herd_of_users_does_not_dial_faster_than_the_pace() {
    let sandbox = sandbox().await;
    let mut pool = Pool::new(&sandbox.app(), |settings| {
        let dials = &mut settings.members.dials;
        (dials.count, dials.per, dials.burst) = (10, Duration::from_millis(100), 10);
    });
    let began = Instant::now();
    let herd: Vec<_> = (0..40).map(|n| member(&n.to_string())).collect();
    herd.iter().for_each(|member| pool.asks(ROOM, member));
    for member in &herd {
        pool.joined(member).await;
        let allowed = 10.0 + began.elapsed().as_secs_f64() * 100.0;
        assert!(sandbox.view(|view| view.attempts()) as f64 <= allowed + 1.0);
    }
    assert_eq!(sandbox.view(|view| view.members(ROOM).len()), 40);
}

/// What a backend sends to a user comes over the user's own link, once it is signed in; and a backend can have it closed.
async fn has_users(app: &App) -> Pool {
    let mut pool = Pool::new(app, |_| {});
    assert_eq!(pool.joins("#server-to-user-7", &user("7")).await, None);
    app.trigger("#server-to-user-7", "hello", r#"{"n":1.50}"#).await;
    assert_eq!(&*pool.event(Kind::Channel, "hello").await.data, r#"{"n":1.50}"#);
    pool
}

#[tokio::test]
async fn users_are_signed_in_and_can_be_terminated() {
    let sandbox = sandbox().await;
    let mut pool = has_users(&sandbox.app()).await;
    assert_eq!(sandbox.view(|view| view.signed_in("7")), 1);
    sandbox.terminate_connections("7");
    let terminated = |delivery: &Delivery| match delivery {
        Delivery::Terminated { member, .. } => Some(member.clone()),
        _ => None,
    };
    assert_eq!(pool.told("the end", terminated).await, user("7").key());
    assert!(pool.shows("pusher_bridge_member_links 0"));
    // The clients that are closed leave, and one that comes after it is served.
    pool.leaves("#server-to-user-7", &user("7"));
    pool.joins("#server-to-user-7", &user("7")).await;
    assert_eq!(sandbox.connections(), 1);
}

#[tokio::test]
async fn sockudo_signs_users_in() {
    if let Some(sockudo) = Sockudo::start().await {
        has_users(&sockudo.app()).await;
    }
}

/// The link that is the first to deliver is lost in the middle of a stream of equal messages.
#[tokio::test]
async fn when_a_link_dies_each_message_comes_once_all_the_same() {
    let sandbox = sandbox().await;
    let mut pool = Pool::new(&sandbox.app(), |_| {});
    let members: Vec<_> = (0..3).map(|n| member(&n.to_string())).collect();
    for member in &members {
        pool.joins(ROOM, member).await;
    }
    for n in 0..60 {
        sandbox.trigger(ROOM, if n % 3 == 0 { "a" } else { "b" }, "{}");
        if n == 30 {
            // It is the one that was there first, and so the reader.
            pool.leaves(ROOM, &members[0]);
            pool.event(Kind::MemberRemoved, "0").await;
        }
    }
    sandbox.trigger(ROOM, "end", "{}");
    pool.event(Kind::Channel, "end").await;
    assert_eq!((pool.passed("a"), pool.passed("b")), (20, 40));
    assert!(pool.shows("pusher_bridge_member_events_doubtful_total 0"));
}
