//! What the neighbours of a client on this bridge must get of its messages. The truth is what the API's proxy saw:
//! once it has answered well, and the bridge has surely heard it, each neighbour gets the message once, in the order
//! of the answers, and its sender does not, whatever becomes of the links. No link may carry it here: the request
//! names the socket that is to be left out. Only what Pusher does with a request after the bridge has given it up,
//! under a connection that was replaced meanwhile, may come once more, to everybody.

use std::collections::HashMap;
use std::time::Duration;

use pusher_bridge::upstream::links::stable_hash;
use tokio::time::Instant;

use crate::ledger::{ClientId, LINKS, LinkId, PATIENCE, StreamId, SubId};

/// The bridge takes an answer that comes so early for sure; its own timeout is 1 s.
pub const SURELY_HEARD: Duration = Duration::from_millis(500);
/// Longer than a request or a frame takes between the bridge and the proxy: beyond the bridge's timeout of a request.
const SURELY_EARLIER: Duration = Duration::from_secs(2);

/// A client's message: its sender, and its number there.
type Key = (ClientId, u32);

#[derive(Debug)]
struct Message {
    stream: StreamId,
    sent: Instant,
    attempts: Vec<Attempt>,
    /// Copies that each link carried.
    carried: Vec<LinkId>,
    /// Of these, the ones that the bridge may have read.
    copies: u32,
    /// It is in the stream's log.
    answered: bool,
}

/// A request with the message.
#[derive(Debug)]
struct Attempt {
    /// The link that is not to get it.
    excluded: Option<LinkId>,
    begun: Instant,
    /// Since when Pusher may carry it out, and when it has answered.
    taking: bool,
    took: Option<Instant>,
}

impl Attempt {
    /// Pusher may have carried it out when the bridge did not wait for it any more.
    fn was_late(&self, now: Instant) -> bool {
        self.taking && self.took.unwrap_or(now) > self.begun + SURELY_HEARD
    }
}

/// A good answer of the API, in the order of the answers.
#[derive(Debug)]
struct Answered {
    key: Key,
    at: Instant,
    surely: bool,
}

/// A connection of the bridge to Pusher.
#[derive(Debug, Default)]
struct Link {
    /// Which of the bridge's links it is: by the first channel that it subscribed.
    index: Option<usize>,
    /// When the bridge's first frame came.
    heard: Option<Instant>,
    /// When a request did not name it, though the bridge seemed to have it.
    unnamed: Option<Instant>,
    /// It was stalled: what comes on it may be old.
    stalled: bool,
}

#[derive(Debug)]
struct Sub {
    client: ClientId,
    stream: StreamId,
    confirmed: Option<Instant>,
    /// Where the stream's log was: what was accepted before cannot be owed.
    begin: usize,
    last: Option<usize>,
    got: HashMap<Key, u32>,
    released: bool,
}

impl Sub {
    fn next(&self) -> usize {
        self.last.map_or(self.begin, |last| self.begin.max(last + 1))
    }
}

#[derive(Debug, Default)]
pub struct Neighbours {
    messages: HashMap<Key, Message>,
    logs: HashMap<StreamId, Vec<Answered>>,
    links: Vec<Link>,
    sockets: HashMap<String, LinkId>,
    subs: HashMap<SubId, Sub>,
    /// Messages that clients got, each checked.
    pub delivered: u64,
    /// Requests that named the link to be left out, and that had none to name.
    pub named: u64,
    pub unnamed: u64,
    /// Copies that a link carried here, after their requests had been given up.
    pub late_copies: u64,
}

impl Neighbours {
    // ------------------------------------------------------------------------------------------------- links

    /// Links are numbered in the order in which they begin.
    pub fn link_begins(&mut self) {
        self.links.push(Link::default());
    }

    /// Pusher greets the link by this name.
    pub fn greeted(&mut self, link: LinkId, socket_id: &str) -> Result<(), String> {
        match self.sockets.insert(socket_id.to_owned(), link) {
            Some(other) => Err(format!("links {other} and {link} are both called {socket_id}")),
            None => Ok(()),
        }
    }

    /// The bridge sends something on the link; `channel`: which it subscribes.
    pub fn heard(&mut self, link: LinkId, channel: Option<&str>, now: Instant) -> Result<(), String> {
        let this = &mut self.links[link as usize];
        this.heard.get_or_insert(now);
        if let Some(channel) = channel {
            let index = index_of(channel);
            if *this.index.get_or_insert(index) != index {
                return Err(format!("link {link}: {channel} belongs to another"));
            }
        }
        match this.unnamed {
            Some(at) if !this.stalled && at + SURELY_EARLIER < now => {
                this.unnamed = None;
                Err(format!("link {link}: it stands, and a request of {:?} ago did not name it", now - at))
            }
            _ => Ok(()),
        }
    }

    /// What the link holds back from now on comes late.
    pub fn stalls(&mut self, link: LinkId) {
        self.links[link as usize].stalled = true;
    }

    /// The link that a request for `channel` leaves out.
    fn excluded(
        &mut self,
        channel: &str,
        socket_id: Option<&str>,
        now: Instant,
    ) -> Result<Option<LinkId>, String> {
        let index = index_of(channel);
        let current = self.links.iter().rposition(|link| {
            link.index == Some(index) && link.heard.is_some_and(|heard| heard + SURELY_EARLIER < now)
        });
        let current = current.map(|link| link as LinkId);
        let Some(socket_id) = socket_id else {
            self.unnamed += 1;
            if let Some(current) = current {
                self.links[current as usize].unnamed.get_or_insert(now);
            }
            return Ok(None);
        };
        self.named += 1;
        let Some(&link) = self.sockets.get(socket_id) else {
            return Err(format!("{channel}: {socket_id} is left out, which no link ever was"));
        };
        if self.links[link as usize].index.is_some_and(|other| other != index) {
            return Err(format!("{channel}: link {link} is left out, which does not carry it"));
        }
        match current {
            Some(current) if link < current => {
                Err(format!("{channel}: link {link} is left out, and link {current} has replaced it"))
            }
            _ => Ok(Some(link)),
        }
    }

    // ---------------------------------------------------------------------------------------------- messages

    /// A client is about to send a message, on its stream.
    pub fn sent(&mut self, key: Key, stream: StreamId, now: Instant) {
        let message = Message {
            stream,
            sent: now,
            attempts: Vec::new(),
            carried: Vec::new(),
            copies: 0,
            answered: false,
        };
        self.messages.insert(key, message);
    }

    /// The bridge asks Pusher to publish the message, but not to this socket.
    pub fn attempt(
        &mut self,
        key: Key,
        stream: StreamId,
        channel: &str,
        socket_id: Option<&str>,
        now: Instant,
    ) -> Result<(), String> {
        let (excluded, wrong) = match self.excluded(channel, socket_id, now) {
            Ok(excluded) => (excluded, Ok(())),
            Err(wrong) => (None, Err(wrong)),
        };
        let Some(message) = self.messages.get_mut(&key) else { return Err(format!("{key:?}: never sent")) };
        message.attempts.push(Attempt { excluded, begun: now, taking: false, took: None });
        if message.stream != stream {
            return Err(format!("{key:?}: published on {channel}, which is not its sender's"));
        }
        wrong
    }

    /// How many requests with the message there were.
    pub fn attempts(&self, key: Key) -> usize {
        self.messages.get(&key).map_or(0, |message| message.attempts.len())
    }

    /// Pusher gets the message's request of this number, from 1, and may carry it out.
    pub fn taking(&mut self, key: Key, number: usize) {
        if let Some(attempt) = self.attempt_of(key, number) {
            attempt.taking = true;
        }
    }

    /// Pusher has answered it.
    pub fn took(&mut self, key: Key, number: usize, now: Instant) {
        if let Some(attempt) = self.attempt_of(key, number) {
            attempt.took = Some(now);
        }
    }

    fn attempt_of(&mut self, key: Key, number: usize) -> Option<&mut Attempt> {
        self.messages.get_mut(&key)?.attempts.get_mut(number.checked_sub(1)?)
    }

    /// The bridge is told that Pusher has accepted it; `surely`: it still listens.
    pub fn answered(&mut self, key: Key, surely: bool, now: Instant) {
        if let Some(message) = self.messages.get_mut(&key) {
            message.answered = true;
            self.logs.entry(message.stream).or_default().push(Answered { key, at: now, surely });
        }
    }

    /// A link carries the message to this bridge.
    pub fn carried(&mut self, link: LinkId, key: Key, now: Instant) -> Result<(), String> {
        let Some(message) = self.messages.get_mut(&key) else {
            return Err(format!("{key:?}: carried by a link, and never sent"));
        };
        message.carried.push(link);
        let carried = message.carried.iter().filter(|other| **other == link).count();
        // It stood before the request was made, which names its successor, or none: so the bridge had given it up.
        let heard = self.links[link as usize].heard;
        let is_old = |attempt: &&Attempt| match attempt.excluded {
            Some(excluded) => excluded > link,
            None => heard.is_some_and(|heard| heard < attempt.begun),
        };
        let unread = message.attempts.iter().filter(is_old).count();
        let is_late =
            |attempt: &&Attempt| !is_old(attempt) && attempt.excluded != Some(link) && attempt.was_late(now);
        let late = message.attempts.iter().filter(is_late).count();
        if carried > late + unread {
            return Err(format!("{key:?}: link {link} carried it here: {message:?}"));
        }
        if carried <= late {
            message.copies += 1;
            self.late_copies += 1;
        }
        Ok(())
    }

    // ------------------------------------------------------------------------------------------- subscribers

    pub fn subscribe(&mut self, id: SubId, client: ClientId, stream: StreamId, confirmed: Option<Instant>) {
        let begin = self.logs.entry(stream).or_default().len();
        let sub = Sub { client, stream, confirmed, begin, last: None, got: HashMap::new(), released: false };
        self.subs.insert(id, sub);
    }

    pub fn release(&mut self, id: SubId) {
        if let Some(sub) = self.subs.get_mut(&id) {
            sub.released = true;
        }
    }

    /// A client got a message by this subscription.
    pub fn received(&mut self, id: SubId, key: Key) -> Result<(), String> {
        let sub = self.subs.get_mut(&id).expect("a subscription of the ledger");
        let who = format!("client {}, stream {}: {key:?}", sub.client, sub.stream);
        let Some(message) = self.messages.get(&key) else { return Err(format!("{who}: never sent")) };
        if message.stream != sub.stream {
            return Err(format!("{who}: sent on stream {}", message.stream));
        }
        let own = key.0 == sub.client;
        let times = sub.got.entry(key).or_default();
        *times += 1;
        let local = u32::from(message.answered && !own);
        if *times > local + message.copies {
            return Err(match () {
                () if own => format!("{who}: its own message came back"),
                () if *times > 1 => format!("{who}: for the {times}. time, with {} copies", message.copies),
                () => format!("{who}: it came, and Pusher has not accepted it"),
            });
        }
        self.delivered += 1;
        if message.copies > 0 {
            // Who knows which this is: a copy has no place in the order.
            return Ok(());
        }
        let log = &self.logs[&sub.stream];
        // While its confirmation is unread, what was accepted before may come too.
        let least = sub.last.map_or(0, |last| last + 1);
        let Some(place) = log.iter().skip(least).position(|answered| answered.key == key) else {
            return Err(format!("{who}: out of order"));
        };
        let place = least + place;
        let skipped = log.get(sub.next()..place).unwrap_or(&[]);
        let lost: Vec<Key> = owed(&self.messages, sub, skipped).map(|answered| answered.key).collect();
        sub.last = Some(place);
        if lost.is_empty() { Ok(()) } else { Err(format!("{who}: lost before it: {lost:?}")) }
    }

    /// The subscription is over. What it should have had long ago is missing now.
    pub fn end(&mut self, id: SubId, now: Instant) -> Result<(), String> {
        let Some(sub) = self.subs.remove(&id) else { return Ok(()) };
        let rest = owed(&self.messages, &sub, &self.logs[&sub.stream][sub.next()..]);
        let lost: Vec<Key> =
            rest.filter(|answered| answered.at + PATIENCE < now).map(|answered| answered.key).collect();
        if lost.is_empty() || sub.released {
            return Ok(());
        }
        Err(format!("client {}, stream {}: accepted, and never delivered: {lost:?}", sub.client, sub.stream))
    }

    /// What is still owed to somebody, if anything.
    pub fn owed(&self) -> Option<String> {
        self.subs.values().filter(|sub| !sub.released).find_map(|sub| {
            let owed = owed(&self.messages, sub, &self.logs[&sub.stream][sub.next()..]).next()?;
            Some(format!("client {}, stream {}: message {:?}", sub.client, sub.stream, owed.key))
        })
    }

    /// Forgets all messages. To be called when nobody is subscribed.
    pub fn settle(&mut self) {
        assert!(self.subs.is_empty(), "somebody is subscribed");
        self.messages.clear();
        self.logs.clear();
    }
}

/// What of this part of the stream's log the subscriber should have, and has not.
fn owed<'a>(
    messages: &HashMap<Key, Message>,
    sub: &Sub,
    log: &'a [Answered],
) -> impl Iterator<Item = &'a Answered> {
    log.iter().filter(|answered| {
        let after = || sub.confirmed.is_some_and(|at| messages[&answered.key].sent > at);
        answered.surely && answered.key.0 != sub.client && !sub.got.contains_key(&answered.key) && after()
    })
}

/// Which of the bridge's links carries a channel.
fn index_of(channel: &str) -> usize {
    stable_hash(channel) % LINKS
}

// ------------------------------------------------------------------------------------------------- its proof

/// Shows that each check finds what it is for, and nothing else.
pub fn prove() {
    prove_deliveries();
    prove_copies();
    prove_names();
}

const CHANNEL: &str = "c";
const STREAM: StreamId = 1;

/// One link, greeted and heard; a sender and two neighbours, whose subscriptions are 9, 1 and 2.
fn begun(now: Instant) -> Neighbours {
    let mut all = Neighbours::default();
    all.link_begins();
    all.greeted(0, "0.1").unwrap();
    all.heard(0, Some(CHANNEL), now).unwrap();
    for client in [9, 1, 2] {
        all.subscribe(client, client, STREAM, Some(now));
    }
    all
}

impl Neighbours {
    /// One message through all of it.
    fn goes(&mut self, n: u32, surely: bool, now: Instant) {
        self.sent((9, n), STREAM, now);
        self.attempt((9, n), STREAM, CHANNEL, Some("0.1"), now).unwrap();
        self.taking((9, n), 1);
        self.took((9, n), 1, now);
        self.answered((9, n), surely, now);
    }
}

#[track_caller]
fn fails(result: Result<(), String>, why: &str) {
    let wrong = result.unwrap_err();
    assert!(wrong.contains(why), "{why}: {wrong}");
}

fn prove_deliveries() {
    let now = Instant::now();
    let sent = now + Duration::from_millis(1);
    let late = sent + PATIENCE * 2;
    // Four messages are answered, of which the bridge may not have heard of 1, and 9 is not.
    let some = || {
        let mut all = begun(now);
        (0..4).for_each(|n| all.goes(n, n != 1, sent));
        all.sent((9, 9), STREAM, sent);
        all.attempt((9, 9), STREAM, CHANNEL, Some("0.1"), sent).unwrap();
        all.taking((9, 9), 1);
        all
    };
    let got = |numbers: &[u32]| {
        let mut all = some();
        let mut results: Vec<_> = numbers.iter().map(|n| all.received(1, (9, *n))).collect();
        results.push(all.end(1, late));
        results.into_iter().collect::<Result<(), String>>()
    };
    got(&[0, 1, 2, 3]).unwrap();
    got(&[0, 2, 3]).unwrap();
    fails(got(&[0, 3]), "lost before it: [(9, 2)]");
    fails(got(&[0, 1, 2]), "never delivered: [(9, 3)]");
    fails(got(&[]), "never delivered: [(9, 0), (9, 2), (9, 3)]");
    fails(got(&[0, 0, 2, 3]), "for the 2. time");
    fails(got(&[0, 2, 1, 3]), "out of order");
    fails(got(&[2, 0, 3]), "lost before it: [(9, 0)]");
    fails(got(&[0, 1, 2, 3, 9]), "Pusher has not accepted it");
    fails(got(&[0, 1, 2, 3, 7]), "never sent");
    fails(some().received(9, (9, 0)), "its own message came back");
    // It is owed as long as somebody is there, also before it is late; but not to who does not listen.
    let mut all = some();
    assert!(all.owed().is_some());
    all.end(1, sent + PATIENCE / 2).unwrap();
    all.release(2);
    assert_eq!(all.owed(), None);
    all.end(2, late).unwrap();
    // Who came later is owed nothing, and may get it, in order.
    all.subscribe(3, 3, STREAM, Some(late));
    assert_eq!(all.owed(), None);
    all.received(3, (9, 2)).unwrap();
    all.received(3, (9, 3)).unwrap();
    fails(all.received(3, (9, 1)), "out of order");
    all.subscribe(4, 4, STREAM + 1, Some(now));
    fails(all.received(4, (9, 3)), "sent on stream 1");
    fails(all.attempt((9, 3), STREAM + 1, "d", None, sent), "not its sender's");
}

fn prove_copies() {
    let now = Instant::now();
    let sent = now + Duration::from_millis(1);
    let key = (9, 0);
    // A request that names the first link; then this many links begin, and it is carried out after so long.
    let run = |links: u32, excluded: Option<&str>, took: Duration| {
        let mut all = begun(now);
        all.sent(key, STREAM, sent);
        all.attempt(key, STREAM, CHANNEL, excluded, sent).unwrap();
        for link in 1..=links {
            all.link_begins();
            all.greeted(link, &format!("{link}.1")).unwrap();
            all.heard(link, Some(CHANNEL), sent + Duration::from_millis(1)).unwrap();
        }
        all.taking(key, all.attempts(key));
        all.took(key, 1, sent + took);
        all
    };
    let late = SURELY_HEARD * 2;
    // The link that is left out must not carry it, nor another while the bridge waits.
    fails(run(0, Some("0.1"), late).carried(0, key, sent + late), "carried it here");
    fails(run(1, Some("0.1"), SURELY_HEARD / 2).carried(1, key, sent + late), "carried it here");
    // What was given up may come on the next link, once, to everybody.
    let mut all = run(1, Some("0.1"), late);
    fails(all.received(9, key), "its own");
    all.carried(1, key, sent + late).unwrap();
    fails(all.carried(1, key, sent + late), "carried it here");
    assert_eq!(all.late_copies, 1);
    all.subscribe(10, 9, STREAM, Some(now));
    all.received(10, key).unwrap();
    fails(all.received(10, key), "its own");
    all.received(1, key).unwrap();
    fails(all.received(1, key), "for the 2. time, with 1 copies");
    // Tried again and answered, it comes twice: the copy, and the bridge's own.
    all.attempt(key, STREAM, CHANNEL, Some("1.1"), sent).unwrap();
    all.answered(key, true, sent + late);
    all.received(2, key).unwrap();
    all.received(2, key).unwrap();
    fails(all.received(2, key), "for the 3. time");
    // A link that the bridge has given up may carry it, for nobody reads that.
    let mut all = run(1, Some("0.1"), Duration::ZERO);
    all.attempt(key, STREAM, CHANNEL, Some("1.1"), sent).unwrap();
    all.carried(0, key, sent).unwrap();
    assert_eq!(all.late_copies, 0);
    fails(all.received(1, key), "has not accepted");
    fails(all.carried(0, key, sent), "carried it here");
    run(0, None, Duration::ZERO).carried(0, key, sent).unwrap();
    fails(run(1, None, Duration::ZERO).carried(1, key, sent), "carried it here");
}

fn prove_names() {
    let now = Instant::now();
    let (sent, later) = (now + Duration::from_millis(1), now + SURELY_EARLIER * 2);
    let other = (0..).map(|n| format!("d{n}")).find(|other| index_of(other) != index_of(CHANNEL)).unwrap();
    let begun = || {
        let mut all = begun(now);
        all.sent((9, 0), STREAM, sent);
        all
    };
    let attempt = |all: &mut Neighbours, channel: &str, socket_id: Option<&str>, at| {
        all.attempt((9, 0), STREAM, channel, socket_id, at)
    };
    let mut all = begun();
    attempt(&mut all, CHANNEL, Some("0.1"), later).unwrap();
    fails(attempt(&mut all, CHANNEL, Some("7.7"), later), "which no link ever was");
    fails(attempt(&mut all, &other, Some("0.1"), later), "does not carry it");
    fails(all.heard(0, Some(&other), later), "belongs to another");
    fails(all.greeted(0, "0.1"), "are both called");
    // The first link has been replaced long ago, or just now.
    all.link_begins();
    all.greeted(1, "1.1").unwrap();
    all.heard(1, Some(CHANNEL), later).unwrap();
    attempt(&mut all, CHANNEL, Some("0.1"), later).unwrap();
    fails(attempt(&mut all, CHANNEL, Some("0.1"), later + SURELY_EARLIER * 2), "has replaced it");
    // None is named, though the link was there before and still is.
    let mut all = begun();
    attempt(&mut all, CHANNEL, None, sent).unwrap();
    all.heard(0, None, later).unwrap();
    attempt(&mut all, CHANNEL, None, later).unwrap();
    all.heard(0, None, later).unwrap();
    fails(all.heard(0, None, later + SURELY_EARLIER * 2), "did not name it");
    assert_eq!([all.named, all.unnamed], [0, 2]);
    attempt(&mut all, CHANNEL, None, later).unwrap();
    all.stalls(0);
    all.heard(0, None, later + SURELY_EARLIER * 2).unwrap();
}
