use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::error::TryRecvError;

use super::*;
use crate::config::{self, Source};
use crate::exchange::{ConnId, NamedBy};
use crate::metrics::Registry;
use crate::routes::generation::History;
use crate::upstream::link::machine::Command;
use crate::upstream::links::LinkEnd;
use crate::upstream::members::{self, MembersEnd};
use crate::upstream::metrics::LinkMetrics;
use crate::websocket;
use crate::websocket::outbox::Bounds;

const CHANNEL: &str = "c";
const BOUNDS: Bounds = Bounds { frames_max: 1024, bytes_max: 1 << 20 };
const ROUTES: &str = r#"
    [upstream]
    app_id = "1"
    key = "k"
    secret = "s"
    host = "localhost"

    [dialects.typed.in]
    type_field = "type"

    [dialects.typed.out]
    event = '{"type":{event},"data":{data}}'
    members = '{"n":{count},"all":{members},"in":{channel}}'
    member_added = '{"came":{member_id},"info":{info}}'
    error = '{"type":"error","code":{code}}'

    [[routes]]
    name = "r"
    path = "/r"
    channel = "c"
    dialect = "typed"
"#;

/// The next generation, of these routes.
fn generation(history: &mut History, routes: &str) -> Generation {
    let source = Source { name: "routes.toml".into(), text: routes.to_owned() };
    let config = config::load(&source, &|_| None).unwrap().config;
    let traffic = websocket::metrics::Metrics::new(&Registry::new().unwrap());
    history.next((&config.routes, &config.tunnels), config.router, None, |name| traffic.of(name)).unwrap()
}

struct Bench {
    hub: Hub,
    route: Arc<RouteState>,
    buffers: Arc<Budget>,
    listener: TcpListener,
    pool: MembersEnd,
}

/// A client, and the link of its own.
struct User {
    conn: Arc<Conn>,
    client: TcpStream,
    ticket: Ticket,
    end: LinkEnd,
}

impl Bench {
    async fn new() -> Self {
        let registry = Registry::new().unwrap();
        let generation = generation(&mut History::default(), ROUTES);
        let route = generation.routes()[0].clone();
        let generations = Arc::new(Generations::default());
        generations.replace(generation).tell();
        let metrics = Arc::new(Metrics::new(&registry, LinkMetrics::new(&registry).events));
        let buffers = Budget::new(1 << 20, 100);
        let ((links, _), (members, pool)) = (Links::new(1), Members::open());
        let hub = Hub::new(0, generations, Arc::default(), links, members, metrics, buffers.clone());
        Self { hub, route, buffers, listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), pool }
    }

    /// Somebody who is subscribed through this link.
    async fn subscribed(&self, link: &LinkHandle, n: u64, channel: &str) -> (Ticket, TcpStream) {
        let (conn, client) = self.connected(n).await;
        let filtered = self.route.filter.as_ref().map(|_| Interest::Value("1".to_owned()));
        let interest = filtered.unwrap_or(Interest::All);
        let subscribe =
            Subscribe { id: 0, channel: channel.to_owned(), interest, via: Via::Shared, confirm: None };
        (self.hub.attach_through(link, &self.route, subscribe, &conn).0, client)
    }

    async fn connected(&self, n: u64) -> (Arc<Conn>, TcpStream) {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = self.listener.accept().await.unwrap();
        socket.writable().await.unwrap();
        (Conn::new(ConnId(n), socket.into(), BOUNDS, &self.buffers), client)
    }

    /// Somebody who is subscribed through a link of its own.
    async fn user(&self, n: u64) -> User {
        let (conn, client) = self.connected(n).await;
        let (link, mut end) = LinkHandle::open();
        let subscribe = Subscribe {
            id: 0,
            channel: CHANNEL.to_owned(),
            interest: Interest::All,
            via: Via::Shared,
            confirm: None,
        };
        let (ticket, live) = self.hub.attach_through(&link, &self.route, subscribe, &conn);
        let Ok(Command::Subscribe(channel, 0)) = end.commands.try_recv() else {
            panic!("each link has its own subscription")
        };
        assert!(*channel == *CHANNEL && !live);
        User { conn, client, ticket, end }
    }

    fn tell(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        self.hub.carry(&mut deliveries.into_iter().collect());
    }
}

fn live(user: &User) -> Delivery {
    Delivery::Live { link: user.end.id, channel: CHANNEL.into(), gap: false, cached: None }
}

/// The same event, as it comes over this one's link.
fn event(user: &User) -> Delivery {
    let event = Event::new(user.end.id, CHANNEL.into(), "e", "1", Now::read(), None);
    event.expect_hubs(1);
    Delivery::Event(Arc::new(event))
}

#[tokio::test]
async fn what_comes_over_a_link_of_a_single_user_goes_to_that_user_alone() {
    const USERS: u64 = 50;
    let bench = Bench::new().await;
    let mut users = Vec::new();
    for n in 0..USERS {
        users.push(bench.user(n).await);
    }
    bench.tell(users.iter().map(live));
    let received = |users: &[User]| users.iter().map(|user| user.conn.sent().0).collect::<Vec<_>>();
    bench.tell([event(&users[7])]);
    let expected: Vec<u64> = (0..USERS).map(|n| u64::from(n == 7)).collect();
    assert_eq!(received(&users), expected, "it costs what one receiver costs");

    bench.tell(users.iter().enumerate().filter(|(n, _)| *n != 7).map(|(_, user)| event(user)));
    assert_eq!(received(&users), vec![1; USERS as usize], "each got its copy, and no other");
    for user in &mut users {
        let mut frame = [0; 64];
        let length = user.client.read(&mut frame).await.unwrap();
        assert_eq!(&frame[2..length], br#"{"type":"e","data":1}"#);
    }

    // A lost link is nobody else's matter.
    bench.tell([Delivery::Down(users[7].end.id)]);
    let (link, subscribe) = (users[7].ticket.link.clone().unwrap(), |id| Subscribe {
        id,
        channel: CHANNEL.to_owned(),
        interest: Interest::All,
        via: Via::Shared,
        confirm: None,
    });
    assert!(!bench.hub.attach_through(&link, &bench.route, subscribe(1), &users[7].conn).1);
    let other = users[8].ticket.link.clone().unwrap();
    assert!(bench.hub.attach_through(&other, &bench.route, subscribe(1), &users[8].conn).1);
}

#[tokio::test]
async fn a_link_lives_as_long_as_somebody_is_subscribed_through_it() {
    let bench = Bench::new().await;
    let (mut user, mut other) = (bench.user(1).await, bench.user(2).await);
    bench.hub.detach(&user.ticket);
    let last = user.end.commands.try_recv();
    assert!(matches!(&last, Ok(Command::Unsubscribe(channel, 0)) if **channel == *CHANNEL), "{last:?}");
    drop(user.ticket);
    assert!(user.end.commands.recv().await.is_none(), "nobody has a handle any more");
    assert!(other.end.commands.try_recv().is_err_and(|error| error == TryRecvError::Empty));
}

const ROOM: &str = "presence-room";

fn member(user_id: &str) -> Arc<Member> {
    Arc::new(Member { named_by: NamedBy::Token(None), user_id: user_id.into(), info: None, user_data: None })
}

/// A client that is subscribed as a member.
struct Person {
    conn: Arc<Conn>,
    client: TcpStream,
    member: Arc<Member>,
    ticket: Ticket,
    join: u64,
}

impl Bench {
    async fn person(&mut self, n: u64, user_id: &str) -> Person {
        let (conn, client) = self.connected(n).await;
        let member = member(user_id);
        let via = Via::Member(member.clone());
        let confirm = Some(format!("\"hello {n}\""));
        let subscribe = Subscribe { id: 0, channel: ROOM.to_owned(), interest: Interest::All, via, confirm };
        let (ticket, live) = self.hub.attach(&self.route, subscribe, &conn);
        assert!(!live, "that others are subscribed says nothing");
        let Ok(members::Command::Join { channel, member: who, hub: 0, join }) = self.pool.commands.try_recv()
        else {
            panic!("the pool is asked")
        };
        assert_eq!((&*channel, &who), (ROOM, &member));
        Person { conn, client, member, ticket, join }
    }

    fn joined(&self, person: &Person, join: u64) -> Delivery {
        let (link, channel, member) = (self.pool.id, ROOM.into(), person.member.key());
        Delivery::Joined { link, channel, member, join, members: None, count: 1, cached: None }
    }

    fn room_event(&self, data: &str) -> Delivery {
        let event = Event::new(self.pool.id, ROOM.into(), "e", data, Now::read(), None);
        event.expect_hubs(1);
        Delivery::Event(Arc::new(event))
    }
}

impl Person {
    async fn frame(&mut self) -> String {
        let mut head = [0; 2];
        self.client.read_exact(&mut head).await.unwrap();
        let mut frame = vec![0; usize::from(head[1])];
        self.client.read_exact(&mut frame).await.unwrap();
        String::from_utf8(frame).unwrap()
    }
}

#[tokio::test]
async fn a_members_subscription_is_confirmed_to_his_own_connections_and_to_nobody_else() {
    let mut bench = Bench::new().await;
    let mut ann = bench.person(1, "ann").await;
    let mut bob = bench.person(2, "bob").await;
    bench.tell([bench.room_event("1"), bench.joined(&ann, ann.join), bench.room_event("2")]);
    assert_eq!(ann.frame().await, r#""hello 1""#);
    assert_eq!(ann.frame().await, r#"{"type":"e","data":2}"#, "and nothing from before");
    assert_eq!(bob.conn.sent().0, 0, "another's confirmation is not his");

    // He comes a second time, while the answer to the first is on its way.
    let mut again = bench.person(3, "bob").await;
    bench.tell([bench.joined(&bob, bob.join), bench.room_event("3")]);
    assert_eq!(bob.frame().await, r#""hello 2""#);
    assert_eq!(bob.frame().await, r#"{"type":"e","data":3}"#);
    assert_eq!(again.conn.sent().0, 0, "what the answer says may be from before he left");
    bench.tell([bench.joined(&again, again.join), bench.room_event("4")]);
    assert_eq!(again.frame().await, r#""hello 3""#);
    for person in [&mut ann, &mut bob, &mut again] {
        while person.frame().await != r#"{"type":"e","data":4}"# {}
    }

    // Each tells the pool when it leaves.
    bench.hub.detach(&again.ticket);
    let left = bench.pool.commands.try_recv();
    assert!(
        matches!(&left, Ok(members::Command::Leave { channel, member, hub: 0 })
            if **channel == *ROOM && *member == bob.member.key()),
        "{left:?}"
    );
    // What a gap is to those who are confirmed is no confirmation for others.
    let late = bench.person(4, "cat").await;
    bench.tell([Delivery::Live { link: bench.pool.id, channel: ROOM.into(), gap: true, cached: None }]);
    assert_eq!(late.conn.sent().0, 0);
    let noticed = |conn: &Conn| conn.leave().into_iter().filter(|n| matches!(n, Notice::Gap)).count();
    assert_eq!([&ann, &bob, &late].map(|person| noticed(&person.conn)), [1, 1, 0]);
}

#[tokio::test]
async fn members_are_listed_before_events_and_nobody_is_told_of_himself() {
    let mut bench = Bench::new().await;
    let (mut ann, mut bob) = (bench.person(1, "ann").await, bench.person(2, "bob").await);
    let told = |kind, id: &str, info: &str| {
        let event = Event::new(bench.pool.id, ROOM.into(), id, info, Now::read(), None).of_kind(kind);
        event.expect_hubs(1);
        Delivery::Event(Arc::new(event))
    };
    let joined = |person: &Person, count, list: &str| {
        let (link, channel, member) = (bench.pool.id, ROOM.into(), person.member.key());
        let members = Some(list.into());
        Delivery::Joined { link, channel, member, join: person.join, members, count, cached: None }
    };
    let list = r#"[{"id":"ann","info":null}]"#;
    bench.tell([joined(&ann, 1, list), told(Kind::MemberAdded, "bob", r#"{"n":1.50}"#)]);
    assert_eq!(ann.frame().await, r#""hello 1""#);
    assert_eq!(ann.frame().await, format!(r#"{{"n":1,"all":{list},"in":"presence-room"}}"#));
    assert_eq!(ann.frame().await, r#"{"came":"bob","info":{"n":1.50}}"#);
    // His link's confirmation, and then another one's word that he has come.
    bench.tell([joined(&bob, 2, "[1,2]"), told(Kind::MemberAdded, "bob", "null"), bench.room_event("1")]);
    assert_eq!(bob.frame().await, r#""hello 2""#);
    assert_eq!(bob.frame().await, r#"{"n":2,"all":[1,2],"in":"presence-room"}"#);
    assert_eq!(bob.frame().await, r#"{"type":"e","data":1}"#);
    assert_eq!(ann.frame().await, r#"{"came":"bob","info":null}"#);
    assert_eq!(ann.frame().await, r#"{"type":"e","data":1}"#);
    // What the dialect has no frame for is not sent, and reached nobody in vain.
    let before = ann.conn.sent();
    bench.tell([told(Kind::MemberRemoved, "cat", "null")]);
    assert_eq!(ann.conn.sent(), before);
    assert_eq!(bench.hub.undelivered.json(), Undelivered::default().json());
}

#[tokio::test]
async fn a_backend_ends_one_users_connections() {
    let mut bench = Bench::new().await;
    let people = [bench.person(1, "ann").await, bench.person(2, "bob").await, bench.person(3, "ann").await];
    bench.tell([Delivery::Terminated { link: bench.pool.id, member: people[0].member.key() }]);
    let told = |conn: &Conn| conn.leave().iter().any(|notice| matches!(notice, Notice::Terminated));
    assert_eq!(people.map(|person| told(&person.conn)), [true, false, true]);
}

/// Nothing of one edition comes to clients of another, whichever hub is first, and also when it comes again from what
/// is kept of a cache channel.
#[tokio::test]
async fn each_client_sees_an_event_as_the_edition_of_its_route_shows_it() {
    let mut history = History::default();
    let before = generation(&mut history, ROUTES).routes()[0].clone();
    let filtered = ROUTES.to_owned() + "filter = { field = \"x\", equals = \"1\" }";
    let changed = filtered.replace(r#"{"type":{event},"data":{data}}"#, r#"{"new":{data},"event":{event}}"#);
    let after = generation(&mut history, &changed).routes()[0].clone();
    let mut hubs = [Bench::new().await, Bench::new().await];
    let (link, end) = LinkHandle::open();
    let mut users = Vec::new();
    for (n, route) in [&before, &after, &after, &before].into_iter().enumerate() {
        let bench = &mut hubs[n / 2];
        bench.route = route.clone();
        users.push(bench.subscribed(&link, n as u64, "cache-c").await);
    }
    let channel: Arc<str> = "cache-c".into();
    for bench in &hubs {
        bench.tell([Delivery::Live { link: end.id, channel: channel.clone(), gap: false, cached: None }]);
    }
    let data = r#"{"x":1}"#;
    let event = Arc::new(Event::new(end.id, channel, "e", data, Now::read(), None));
    event.expect_hubs(2);
    for bench in hubs.iter().rev() {
        bench.tell([Delivery::Event(event.clone())]);
    }
    // Who comes later, to either hub.
    for (n, route) in [&after, &before].into_iter().enumerate() {
        hubs[n].route = route.clone();
        users.push(hubs[n].subscribed(&link, 4 + n as u64, "cache-c").await);
    }
    let old = [b"\x81\x1b", br#"{"type":"e","data":{"x":1}}"#.as_slice()].concat();
    let new = [b"\x81\x1b", br#"{"new":{"x":1},"event":"e"}"#.as_slice()].concat();
    for ((_, client), expected) in users.iter_mut().zip([&old, &new, &new, &old, &new, &old]) {
        let mut frame = [0; 64];
        let length = client.read(&mut frame).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&frame[..length]), String::from_utf8_lossy(expected));
    }
}

/// What was refused of this connection's subscriptions: the number and the code.
fn refusals(conn: &Conn) -> Vec<(Option<u32>, &'static str)> {
    let code = |notice| match notice {
        Notice::Refused { id, code, .. } => Some((id, code.as_str())),
        _ => None,
    };
    conn.leave().into_iter().filter_map(code).collect()
}

#[tokio::test]
async fn a_refusal_is_told_to_the_channels_subscribers_and_to_nobody_else() {
    let bench = Bench::new().await;
    let users = [bench.user(1).await, bench.user(2).await, bench.user(3).await];
    bench.tell(users[1..].iter().map(live));
    let refused = |user: &User, why| {
        let (link, channel) = (user.end.id, CHANNEL.into());
        Delivery::Refused { link, channel, member: None, why }
    };
    bench.tell([Delivery::Down(users[1].end.id), refused(&users[1], Refused::Quota)]);
    bench.tell([refused(&users[0], Refused::Unauthorized)]);
    let link = users[0].ticket.link.clone().unwrap();
    let (conn, _client) = bench.connected(4).await;
    let (id, interest, confirm) = (7, Interest::All, None);
    let subscribe = Subscribe { id, channel: CHANNEL.to_owned(), interest, via: Via::Shared, confirm };
    assert!(!bench.hub.attach_through(&link, &bench.route, subscribe, &conn).1);
    assert_eq!(refusals(&conn), [(Some(7), "CHANNEL_UNAUTHORIZED")], "who comes later is told at once");
    let expected = [vec![(Some(0), "CHANNEL_UNAUTHORIZED")], vec![(None, "CHANNEL_QUOTA")], vec![]];
    assert_eq!(users.map(|user| refusals(&user.conn)), expected);
}

#[tokio::test]
async fn a_members_refusal_is_told_to_him_alone() {
    let mut bench = Bench::new().await;
    let people = [bench.person(1, "ann").await, bench.person(2, "bob").await, bench.person(3, "ann").await];
    bench.tell([bench.joined(&people[0], people[0].join)]);
    let (link, channel, member) = (bench.pool.id, ROOM.into(), Some(people[0].member.key()));
    bench.tell([Delivery::Refused { link, channel, member, why: Refused::Full }]);
    let expected = [vec![(None, "CHANNEL_FULL")], vec![], vec![(Some(0), "CHANNEL_FULL")]];
    assert_eq!(people.map(|person| refusals(&person.conn)), expected);
}

#[tokio::test]
async fn what_cannot_be_decrypted_is_told_to_who_misses_it_where_the_route_says_so() {
    for (said, told) in [("drop", false), ("notify", true), ("close", true)] {
        let routes = ROUTES
            .replace(
                "[upstream]",
                "[upstream]\nencryption_master_key = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"",
            )
            .replace(
                "channel = \"c\"",
                &format!("channel = \"private-encrypted-a\"\non_undecryptable = \"{said}\""),
            );
        let mut bench = Bench::new().await;
        bench.route = generation(&mut History::default(), &routes).routes()[0].clone();
        let (link, end) = LinkHandle::open();
        let channels = ["private-encrypted-a", "private-encrypted-b"];
        let mut clients = Vec::new();
        for (n, channel) in channels.into_iter().chain(["private-encrypted-a"]).enumerate() {
            let (conn, client) = bench.connected(n as u64).await;
            let (channel, interest, via) = (channel.to_owned(), Interest::Hold, Via::Shared);
            let subscribe = Subscribe { id: 0, channel, interest, via, confirm: None };
            clients.push((bench.hub.attach_through(&link, &bench.route, subscribe, &conn).0, conn, client));
            if n == 1 {
                bench.tell(channels.map(|channel| Delivery::Live {
                    link: end.id,
                    channel: channel.into(),
                    gap: false,
                    cached: None,
                }));
                // Who comes now waits.
                bench.tell([Delivery::Down(end.id)]);
            }
        }
        let undecryptable = || Delivery::Undecryptable { link: end.id, channel: channels[0].into() };
        bench.tell([undecryptable(), undecryptable()]);
        let heard = clients.iter().map(|(_, conn, _)| {
            conn.leave().iter().filter(|notice| matches!(notice, Notice::Undecryptable)).count()
        });
        assert_eq!(
            heard.collect::<Vec<_>>(),
            [usize::from(told), 0, 0],
            "{said}: once, and who has missed it"
        );
    }
}

/// The next frame that comes to a client.
async fn frame_to(client: &mut TcpStream) -> String {
    let mut head = [0; 2];
    client.read_exact(&mut head).await.unwrap();
    let mut frame = vec![0; usize::from(head[1])];
    client.read_exact(&mut frame).await.unwrap();
    String::from_utf8(frame).unwrap()
}

#[tokio::test]
async fn who_comes_late_is_told_the_last_event_with_its_time_or_that_there_is_none_and_of_his_channel_only() {
    let routes = ROUTES
        .replace("error =", "cache_miss = '{\"none\":{channel}}'\nerror =")
        .replace("\"data\":{data}}'", "\"data\":{data},\"at\":{now}}'")
        .replace("channel = \"c\"", "channel = \"cache-a\"");
    let mut bench = Bench::new().await;
    bench.route = generation(&mut History::default(), &routes).routes()[0].clone();
    let (link, end) = LinkHandle::open();
    let live = |channel: &str, cached| {
        let channel = channel.into();
        Delivery::Live { link: end.id, channel, gap: false, cached }
    };
    let deliver = |event: Event| {
        event.expect_hubs(1);
        Delivery::Event(Arc::new(event))
    };
    let hour_ago = Now { unix_ms: 0, ..Now::read() };
    let came = |channel: &str| Event::new(end.id, channel.into(), "e", "1", hour_ago, None);
    let (first, mut client) = bench.subscribed(&link, 1, "cache-a").await;
    let (_other, mut other) = bench.subscribed(&link, 2, "cache-b").await;
    bench.tell([live("cache-a", None), live("cache-b", None)]);
    bench.tell([deliver(Event::cache_miss(end.id, "cache-a".into(), hour_ago)), deliver(came("cache-b"))]);
    assert_eq!(frame_to(&mut client).await, r#"{"none":"cache-a"}"#);
    let e = r#"{"type":"e","data":1,"at":"1970-01-01T00:00:00Z"}"#;
    assert_eq!(frame_to(&mut other).await, e);
    let (_ticket, mut late) = bench.subscribed(&link, 3, "cache-a").await;
    assert_eq!(frame_to(&mut late).await, r#"{"none":"cache-a"}"#, "not the other channel's event");
    bench.tell([deliver(came("cache-a").passing(true)), deliver(came("cache-a"))]);
    for client in [&mut client, &mut late] {
        assert_eq!((frame_to(client).await.as_str(), frame_to(client).await.as_str()), (e, e));
    }
    let (_ticket, mut later) = bench.subscribed(&link, 4, "cache-a").await;
    assert_eq!(frame_to(&mut later).await, e, "as old as it is");
    // Lost and confirmed again, what the link knows counts.
    bench.tell([Delivery::Down(end.id)]);
    let (_ticket, mut waiting) = bench.subscribed(&link, 5, "cache-a").await;
    bench.tell([live("cache-a", Some(Arc::new(Event::cache_miss(end.id, "cache-a".into(), hour_ago))))]);
    assert_eq!(frame_to(&mut waiting).await, r#"{"none":"cache-a"}"#);
    drop(first);
}
