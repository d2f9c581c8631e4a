//! What every client must receive. Of backends' events the truth is what the proxy before Pusher carried to the
//! bridge, event by event; against it each client's stream must be without loss, without repetition and in order, from
//! its confirmation to its end. Only at the loss of a link may the last events be missing, and then for everybody.
//! Of clients' messages it is what Pusher accepted (`neighbours.rs`).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::neighbours::Neighbours;

/// A sequence of events that one subscription gets: a channel, or those of a channel with one filter value.
pub type StreamId = u32;
/// A connection of an old client, also as a sender.
pub type ClientId = u32;
/// A subscription in this ledger.
pub type SubId = u32;
/// A connection of the bridge to Pusher, in the order of their beginnings.
pub type LinkId = u32;

/// Connections of the bridge to Pusher at a time (routes.toml).
pub const LINKS: usize = 2;
/// An event is late after this. Far above what a busy machine needs.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Which event it is; it stands in the event's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// Of a backend.
    Event { stream: StreamId, n: u32 },
    /// Of a client.
    Message { from: ClientId, n: u32 },
}

/// What the route promises after a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnGap {
    Ignore,
    Notify,
    Close,
}

/// An event on its way to the bridge.
#[derive(Debug)]
struct Entry {
    mark: Mark,
    /// When its publishing began.
    published: Instant,
    at: Instant,
    link: u32,
    /// Its place among all of the link.
    index: u32,
    /// The bridge had been told that the channel's subscription stands.
    standing: bool,
}

/// What was carried of one stream.
#[derive(Debug, Default)]
struct Log {
    entries: Vec<Entry>,
    /// Several where a link that was lost brings late what another has brought.
    places: HashMap<Mark, Vec<u32>>,
}

#[derive(Debug, Default)]
struct Link {
    carried: u32,
    /// Everything before this was read by the bridge, for somebody got it.
    reached: u32,
    ended: bool,
}

#[derive(Debug)]
struct Sub {
    client: ClientId,
    stream: StreamId,
    on_gap: OnGap,
    /// When the client saw the confirmation; `None` where the dialect has none.
    confirmed: Option<Instant>,
    /// What was carried before cannot be owed.
    begin: u32,
    last: Option<u32>,
    last_at: Instant,
    /// Events of which there may be several copies.
    got: HashSet<Mark>,
    /// Carried more than once and skipped here: whether that was right shows later.
    skipped: HashSet<Mark>,
    /// A gap was crossed and not told yet: since when it could have been, and when it was noticed.
    gap: Option<(Instant, Instant)>,
    told: Option<Instant>,
    /// Nothing is owed: the client does not listen, or has said that it wants no more.
    released: bool,
}

impl Sub {
    fn expects(&self, entry: &Entry) -> bool {
        let after = self.last.is_some() || self.confirmed.is_some_and(|at| entry.published > at);
        entry.standing && after
    }

    fn next(&self) -> u32 {
        self.last.map_or(self.begin, |last| last + 1)
    }
}

/// Copies of one event that a subscriber did not get.
#[derive(Debug)]
struct Uncopied {
    stream: StreamId,
    mark: Mark,
    /// Where the subscription began and ended.
    places: std::ops::Range<u32>,
    client: ClientId,
}

#[derive(Debug, Default)]
pub struct Ledger {
    logs: HashMap<StreamId, Log>,
    links: Vec<Link>,
    published: HashMap<Mark, Instant>,
    subs: HashMap<SubId, Sub>,
    next_sub: SubId,
    /// Events that a client missed at a link's loss, and one of the clients.
    tails: HashMap<(u32, u32), (Mark, ClientId)>,
    uncopied: Vec<Uncopied>,
    /// The clients' messages.
    pub neighbours: Neighbours,
    pub delivered: u64,
    /// Deliveries that were missed at a link's loss.
    pub missed: u64,
}

impl Ledger {
    // ------------------------------------------------------------------------------ the side of the upstream

    pub fn published(&mut self, mark: Mark, now: Instant) {
        self.published.insert(mark, now);
    }

    /// A connection of the bridge to Pusher begins.
    pub fn link_begins(&mut self) -> LinkId {
        self.neighbours.link_begins();
        self.links.push(Link::default());
        self.links.len() as u32 - 1
    }

    pub fn link_ends(&mut self, link: LinkId) {
        self.links[link as usize].ended = true;
    }

    /// An event is handed to the bridge.
    pub fn carried(&mut self, link: LinkId, stream: StreamId, mark: Mark, standing: bool, now: Instant) {
        let published = self.published.get(&mark).copied().unwrap_or(now);
        let log = self.logs.entry(stream).or_default();
        let counts = &mut self.links[link as usize];
        log.places.entry(mark).or_default().push(log.entries.len() as u32);
        log.entries.push(Entry { mark, published, at: now, link, index: counts.carried, standing });
        counts.carried += 1;
    }

    // ------------------------------------------------------------------------------- the side of the clients

    /// A subscription stands; `confirmed`: the client has been told so.
    pub fn subscribe(
        &mut self,
        client: ClientId,
        stream: StreamId,
        on_gap: OnGap,
        confirmed: bool,
        now: Instant,
    ) -> SubId {
        let begin = self.logs.entry(stream).or_default().entries.len() as u32;
        let sub = Sub {
            client,
            stream,
            on_gap,
            confirmed: confirmed.then_some(now),
            begin,
            last: None,
            last_at: now,
            got: HashSet::new(),
            skipped: HashSet::new(),
            gap: None,
            told: None,
            released: false,
        };
        self.next_sub += 1;
        self.neighbours.subscribe(self.next_sub, client, stream, sub.confirmed);
        self.subs.insert(self.next_sub, sub);
        self.next_sub
    }

    pub fn stream_of(&self, sub: SubId) -> StreamId {
        self.subs[&sub].stream
    }

    /// The client got an event by this subscription.
    pub fn received(&mut self, id: SubId, mark: Mark, now: Instant) -> Result<(), String> {
        if let Mark::Message { from, n } = mark {
            return self.neighbours.received(id, (from, n));
        }
        let sub = self.subs.get_mut(&id).expect("a subscription of the ledger");
        let log = self.logs.get(&sub.stream).expect("a log of each stream");
        let who = format!("client {}, stream {}: {mark:?}", sub.client, sub.stream);
        let Some(places) = log.places.get(&mark) else {
            return Err(format!("{who}: no link carried it here"));
        };
        if !sub.got.insert(mark) {
            return Err(format!("{who}: again"));
        }
        // Where there is no confirmation, or it is still unread, what was carried before may come too.
        let least = sub.last.map_or(0, |last| last + 1);
        let Some(&place) = places.iter().find(|place| **place >= least) else {
            return Err(format!("{who}: out of order"));
        };
        self.delivered += 1;
        let entry = &log.entries[place as usize];
        let mut lost = Vec::new();
        for skipped in log.entries.get(sub.next() as usize..place as usize).unwrap_or(&[]) {
            if !sub.expects(skipped) {
            } else if log.places[&skipped.mark].len() > 1 {
                sub.skipped.insert(skipped.mark);
            } else if skipped.link == entry.link {
                lost.push(skipped.mark);
            } else {
                self.missed += 1;
                self.tails.insert((skipped.link, skipped.index), (skipped.mark, sub.client));
            }
        }
        let crossed = sub.last.is_some_and(|last| log.entries[last as usize].link != entry.link);
        if crossed && sub.on_gap != OnGap::Ignore && sub.told.is_none_or(|told| told < sub.last_at) {
            sub.gap = Some((sub.last_at, now));
        }
        sub.last = Some(place);
        sub.last_at = now;
        let link = &mut self.links[entry.link as usize];
        link.reached = link.reached.max(entry.index + 1);
        if lost.is_empty() { Ok(()) } else { Err(format!("{who}: lost before it: {lost:?}")) }
    }

    /// The client was told that events may be missing.
    pub fn gap_told(&mut self, id: SubId, now: Instant) -> Result<(), String> {
        let sub = self.subs.get_mut(&id).expect("a subscription of the ledger");
        sub.gap = None;
        sub.told = Some(now);
        // One that the bridge has given up may be stalled here still.
        if self.links.len() > LINKS || self.links.iter().any(|link| link.ended) {
            Ok(())
        } else {
            Err(format!("client {}: a gap was told, and no link was ever lost", sub.client))
        }
    }

    /// From now on nothing is owed to this subscription; what comes is checked all the same.
    pub fn release(&mut self, id: SubId) {
        self.subs.get_mut(&id).expect("a subscription of the ledger").released = true;
        self.neighbours.release(id);
    }

    /// The subscription is over. What it should have had long ago is missing now.
    pub fn end(&mut self, id: SubId, now: Instant) -> Result<(), String> {
        self.end_of_events(id, now).and(self.neighbours.end(id, now))
    }

    fn end_of_events(&mut self, id: SubId, now: Instant) -> Result<(), String> {
        let sub = self.subs.remove(&id).expect("a subscription of the ledger");
        let log = &self.logs[&sub.stream];
        let mut lost = Vec::new();
        let rest = log.entries.get(sub.next() as usize..).unwrap_or(&[]);
        for entry in rest.iter().filter(|entry| !sub.released && sub.expects(entry)) {
            let link = &self.links[entry.link as usize];
            if log.places[&entry.mark].len() > 1 || entry.at + PATIENCE > now {
            } else if link.ended {
                self.missed += 1;
                self.tails.insert((entry.link, entry.index), (entry.mark, sub.client));
            } else {
                lost.push(entry.mark);
            }
        }
        let places = sub.begin..log.entries.len() as u32;
        let uncopied = sub.skipped.iter().filter(|mark| !sub.got.contains(mark));
        self.uncopied.extend(uncopied.map(|mark| Uncopied {
            stream: sub.stream,
            mark: *mark,
            places: places.clone(),
            client: sub.client,
        }));
        let who = format!("client {}, stream {}", sub.client, sub.stream);
        if !lost.is_empty() {
            return Err(format!("{who}: never delivered: {lost:?}"));
        }
        match sub.gap {
            Some((_, noticed)) if noticed + PATIENCE < now && !sub.released => {
                Err(format!("{who}: a gap was not told"))
            }
            _ => Ok(()),
        }
    }

    // ---------------------------------------------------------------------------------------- the whole of it

    /// What is still owed to somebody, if anything. With the publishing stopped it must come to nothing.
    pub fn owed(&self) -> Option<String> {
        self.neighbours.owed().or_else(|| self.owed_event())
    }

    fn owed_event(&self) -> Option<String> {
        self.subs.values().filter(|sub| !sub.released).find_map(|sub| {
            let who = || format!("client {}, stream {}", sub.client, sub.stream);
            let log = &self.logs[&sub.stream];
            let rest = log.entries.get(sub.next() as usize..).unwrap_or(&[]);
            let owed = rest.iter().find(|entry| {
                let link = &self.links[entry.link as usize];
                let single = log.places[&entry.mark].len() == 1;
                sub.expects(entry) && single && (!link.ended || entry.index < link.reached)
            });
            owed.map(|entry| format!("{}: {:?}", who(), entry.mark))
                .or_else(|| sub.gap.map(|_| format!("{}: the notice of a gap", who())))
        })
    }

    pub fn subscriptions(&self) -> usize {
        self.subs.len()
    }

    /// Judges what could not be judged before, and forgets everything. To be called when nobody is subscribed.
    pub fn settle(&mut self) -> Vec<String> {
        assert!(self.subs.is_empty(), "somebody is subscribed");
        let read = |link: u32, index: u32| index < self.links[link as usize].reached;
        let mut wrong = Vec::new();
        for ((link, index), (mark, client)) in self.tails.drain() {
            if read(link, index) {
                wrong.push(format!(
                    "client {client}: {mark:?} was lost, though link {link} brought later events"
                ));
            }
        }
        for Uncopied { stream, mark, places, client } in self.uncopied.drain(..) {
            let log = &self.logs[&stream];
            // The first copy that the bridge has read is the one that counts.
            let taken = log.places[&mark].iter().find(|place| {
                let entry = &log.entries[**place as usize];
                entry.standing && read(entry.link, entry.index)
            });
            if taken.is_some_and(|place| places.contains(place)) {
                wrong.push(format!("client {client}, stream {stream}: {mark:?}: none of its copies came"));
            }
        }
        self.logs.clear();
        self.published.clear();
        self.neighbours.settle();
        wrong
    }
}

// ------------------------------------------------------------------------------------------------- its proof

/// Shows that the ledger finds what it is for, and nothing else. A check that cannot fail proves nothing.
pub fn prove() {
    let now = Instant::now();
    let event = |n| Mark::Event { stream: 1, n };
    // Two clients, of which the second gets everything; five events on link 0, five on link 1.
    let begin = |on_gap| {
        let mut ledger = Ledger::default();
        let (first, second) = (ledger.link_begins(), 1);
        for n in 0..10 {
            ledger.published(event(n), now + Duration::from_millis(1));
        }
        let a = ledger.subscribe(1, 1, on_gap, true, now);
        let b = ledger.subscribe(2, 1, OnGap::Ignore, true, now);
        (0..5).for_each(|n| ledger.carried(first, 1, event(n), true, now));
        (0..3).for_each(|n| ledger.received(b, event(n), now).unwrap());
        ledger.link_ends(first);
        assert_eq!(ledger.link_begins(), second);
        (5..10).for_each(|n| ledger.carried(second, 1, event(n), true, now));
        (5..10).for_each(|n| ledger.received(b, event(n), now).unwrap());
        (ledger, a, b)
    };
    let judge = |on_gap, got: &[u32], told: bool| {
        let (mut ledger, a, b) = begin(on_gap);
        let mut wrong: Vec<String> =
            got.iter().filter_map(|n| ledger.received(a, event(*n), now).err()).collect();
        if told {
            ledger.gap_told(a, now).unwrap();
        }
        let late = now + PATIENCE * 2;
        wrong.extend([ledger.end(a, late).err(), ledger.end(b, late).err()].into_iter().flatten());
        wrong.extend(ledger.settle());
        wrong
    };
    let passes = |got: &[u32]| assert_eq!(judge(OnGap::Ignore, got, false), [""; 0], "{got:?}");
    let fails = |got: &[u32], why: &str| {
        let wrong = judge(OnGap::Ignore, got, false);
        assert!(wrong.iter().any(|wrong| wrong.contains(why)), "{got:?}: {wrong:?}");
    };
    // The tail of the lost link, which nobody got; and then, which the first got and the second is owed.
    let most = [0, 1, 2, 5, 6, 7, 8, 9];
    passes(&most);
    fails(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "client 2: Event { stream: 1, n: 4 } was lost");
    fails(&[0, 1, 5, 6, 7, 8, 9], "brought later events");
    fails(&[0, 1, 2, 5, 6, 8, 9], "lost before it");
    fails(&[0, 1, 2, 5, 6, 7, 8], "never delivered");
    fails(&[], "never delivered");
    fails(&[0, 1, 1, 2, 5, 6, 7, 8, 9], "again");
    fails(&[0, 2, 1, 5, 6, 7, 8, 9], "out of order");
    fails(&[0, 1, 2, 5, 6, 7, 8, 9, 11], "no link carried it");
    assert_eq!(judge(OnGap::Notify, &most, true), [""; 0]);
    assert!(judge(OnGap::Notify, &most, false).iter().any(|wrong| wrong.contains("not told")));

    // Two copies of 10, of which the bridge has read the first; then 11. And what a lost link brings late is no loss.
    let copied = |got: &[u32]| {
        let (mut ledger, a, b) = begin(OnGap::Ignore);
        for (link, n) in [(1, 10), (0, 9), (1, 10), (1, 11)] {
            ledger.published(event(n), now + Duration::from_millis(1));
            ledger.carried(link, 1, event(n), true, now);
        }
        most.iter().chain(got).for_each(|n| ledger.received(a, event(*n), now).unwrap());
        [10, 11].iter().for_each(|n| ledger.received(b, event(*n), now).unwrap());
        for sub in [a, b] {
            ledger.end(sub, now).unwrap();
        }
        ledger.settle()
    };
    assert_eq!(copied(&[10, 11]), [""; 0]);
    let wrong = copied(&[11]);
    assert!(wrong.len() == 1 && wrong[0].contains("none of its copies"), "{wrong:?}");

    // A client's message is not the links' affair, and is owed all the same.
    let (mut ledger, a, b) = begin(OnGap::Ignore);
    let key = (9, 0);
    let sent = now + Duration::from_millis(1);
    ledger.neighbours.sent(key, 1, sent);
    ledger.neighbours.answered(key, true, sent);
    ledger.received(b, Mark::Message { from: 9, n: 0 }, sent).unwrap();
    most.iter().for_each(|n| ledger.received(a, event(*n), now).unwrap());
    assert!(ledger.owed().unwrap().contains("message (9, 0)"));
    assert!(ledger.end(a, sent + PATIENCE * 2).unwrap_err().contains("accepted, and never delivered"));
    ledger.release(b);
    assert_eq!(ledger.owed(), None);
    ledger.end(b, sent + PATIENCE * 2).unwrap();
    assert_eq!(ledger.settle(), [""; 0]);
}
