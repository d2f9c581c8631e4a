//! What became of every message that a client sent: published or posted, or its sender told that it was not.
//! Never after it was accepted is it sent again, and never out of order.

use std::collections::HashMap;

use crate::ledger::ClientId;

#[derive(Debug, Default)]
struct Message {
    tried: bool,
    /// The network has held it back once: it may come when the bridge has given it up.
    held: bool,
    /// How often the other side may have taken it.
    taken: u32,
    /// The other side has answered well, if perhaps too late.
    answered: bool,
    /// And the bridge has certainly heard it.
    accepted: bool,
    told: bool,
    /// How often the observer at Pusher has seen it.
    seen: u32,
    /// In which time of the observer's the other side got it last.
    watched: Option<u32>,
}

#[derive(Debug)]
struct Sender {
    /// To a backend, rather than to Pusher.
    posts: bool,
    messages: Vec<Message>,
    /// Of these the bridge certainly has read each.
    read: u32,
    /// The connection is over: nothing can be told any more.
    gone: bool,
    /// The highest that was tried, and that was seen.
    tried: Option<u32>,
    seen: Option<u32>,
}

#[derive(Debug, Default)]
pub struct Outgoing {
    senders: HashMap<ClientId, Sender>,
    /// The time since which the observer watches without a break.
    watch: u32,
    watching: bool,
    pub sent: u64,
    pub observed: u64,
}

/// What `pusher_bridge_publish_total` says since the last audit.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub ok: u64,
    pub failed: u64,
}

impl Message {
    /// Nobody needs to be told any more.
    const fn is_settled(&self) -> bool {
        self.answered || self.told
    }
}

impl Outgoing {
    pub fn begin(&mut self, client: ClientId, posts: bool) {
        let sender = Sender { posts, messages: Vec::new(), read: 0, gone: false, tried: None, seen: None };
        self.senders.insert(client, sender);
    }

    fn message(&mut self, client: ClientId, n: u32) -> Option<&mut Message> {
        self.senders.get_mut(&client)?.messages.get_mut(n as usize)
    }

    /// The number of the client's next message, which is about to be sent.
    pub fn send(&mut self, client: ClientId) -> u32 {
        self.sent += 1;
        let sender = self.senders.get_mut(&client).expect("a sender");
        sender.messages.push(Message::default());
        sender.messages.len() as u32 - 1
    }

    /// How many the client has sent.
    pub fn count(&self, client: ClientId) -> u32 {
        self.senders.get(&client).map_or(0, |sender| sender.messages.len() as u32)
    }

    /// The bridge has read the first `count`.
    pub fn read(&mut self, client: ClientId, count: u32) {
        if let Some(sender) = self.senders.get_mut(&client) {
            sender.read = sender.read.max(count);
        }
    }

    pub fn gone(&mut self, client: ClientId) {
        if let Some(sender) = self.senders.get_mut(&client) {
            sender.gone = true;
        }
    }

    /// A message of the client that was read, and neither published nor told.
    pub fn unsettled(&self, client: ClientId) -> Option<usize> {
        let sender = self.senders.get(&client)?;
        sender.messages.iter().take(sender.read as usize).position(|message| !message.is_settled())
    }

    /// The client was told that its message was not carried.
    pub fn told(&mut self, client: ClientId, n: u32) -> Result<(), String> {
        match self.message(client, n) {
            None => Err(format!("client {client}: told of message {n}, which it never sent")),
            Some(message) if message.told => Err(format!("client {client}: told twice of message {n}")),
            Some(message) if message.accepted => {
                Err(format!("client {client}: told that message {n} failed, and it was accepted"))
            }
            Some(message) => {
                message.told = true;
                Ok(())
            }
        }
    }

    /// The bridge sends a message on.
    pub fn attempt(&mut self, client: ClientId, n: u32) -> Result<(), String> {
        let who = format!("client {client}, message {n}");
        let Some(sender) = self.senders.get_mut(&client) else {
            return Err(format!("{who}: nobody sent it"));
        };
        let before = sender.tried;
        let Some(message) = sender.messages.get_mut(n as usize) else {
            return Err(format!("{who}: it was never sent"));
        };
        if message.accepted {
            return Err(format!("{who}: sent again after it was accepted"));
        }
        if sender.posts && message.taken > 0 {
            return Err(format!("{who}: posted again, though the backend may have taken it"));
        }
        sender.tried = before.max(Some(n));
        if !std::mem::replace(&mut message.tried, true) && before.is_some_and(|before| n < before) {
            return Err(format!("{who}: out of order, after {before:?}"));
        }
        Ok(())
    }

    /// The message is held back.
    pub fn held(&mut self, client: ClientId, n: u32) {
        if let Some(message) = self.message(client, n) {
            message.held = true;
        }
    }

    /// The other side gets the message, and may take it.
    pub fn taken(&mut self, client: ClientId, n: u32) {
        let watched = self.watching.then_some(self.watch);
        if let Some(message) = self.message(client, n) {
            message.taken += 1;
            message.watched = watched;
        }
    }

    /// The bridge is told that the other side has taken it; `surely`: it still listens.
    pub fn accepted(&mut self, client: ClientId, n: u32, surely: bool) {
        if let Some(message) = self.message(client, n) {
            message.answered = true;
            message.accepted |= surely;
        }
    }

    /// The observer begins to watch, or was interrupted.
    pub fn observing(&mut self, watching: bool) {
        self.watching = watching;
        self.watch += 1;
    }

    /// The observer at Pusher has got the message.
    pub fn observe(&mut self, client: ClientId, n: u32) -> Result<(), String> {
        self.observed += 1;
        let who = format!("client {client}, message {n}");
        let Some(sender) = self.senders.get_mut(&client) else {
            return Err(format!("{who}: observed, and nobody sent it"));
        };
        let before = sender.seen;
        let Some(message) = sender.messages.get_mut(n as usize) else {
            return Err(format!("{who}: observed, and never sent"));
        };
        message.seen += 1;
        sender.seen = before.max(Some(n));
        if message.seen > message.taken {
            return Err(format!("{who}: observed {} times, published {}", message.seen, message.taken));
        }
        // Of several copies the first may have come while nobody was watching.
        let excused = message.held || message.taken > 1;
        if message.seen == 1 && before.is_some_and(|before| n < before) && !excused {
            return Err(format!("{who}: observed out of order, after {before:?}"));
        }
        Ok(())
    }

    /// Judges every message, when nothing is on its way and every sender that is still there has been asked;
    /// `counted` is what the bridge itself says.
    pub fn audit(&mut self, counted: Counted) -> Vec<String> {
        let mut wrong = Vec::new();
        let (mut read, mut sent, mut told, mut untold) = (0, 0, 0, 0);
        let (mut accepted, mut answered) = (0, 0);
        for (client, sender) in &self.senders {
            sent += sender.messages.len() as u64;
            read += u64::from(sender.read);
            for (n, message) in sender.messages.iter().enumerate() {
                told += u64::from(message.told);
                accepted += u64::from(message.accepted);
                answered += u64::from(message.answered);
                let watched = self.watching && message.watched == Some(self.watch);
                if message.accepted && !sender.posts && message.seen == 0 && watched {
                    wrong.push(format!("client {client}, message {n}: published, and never observed"));
                }
                if message.is_settled() || n >= sender.read as usize {
                    continue;
                }
                untold += 1;
                if !sender.gone {
                    wrong.push(format!(
                        "client {client}, message {n}: neither published nor told: {message:?}"
                    ));
                }
            }
        }
        // Whoever had gone could not be told; but each is counted.
        if told + untold > counted.failed {
            wrong.push(format!(
                "{told} messages were told as failed and {untold} are nowhere; the bridge counts {counted:?}"
            ));
        }
        if !(accepted..=answered).contains(&counted.ok) {
            wrong.push(format!(
                "{accepted} messages were accepted, or {answered} if all answers came in time; the bridge counts \
                 {counted:?}"
            ));
        }
        let all = counted.ok + counted.failed;
        if all < read || all > sent {
            wrong.push(format!(
                "{sent} messages were sent, {read} certainly read; the bridge counts {counted:?}"
            ));
        }
        wrong
    }

    /// Forgets every sender. To be called when all are gone and nothing is on its way.
    pub fn settle(&mut self) {
        self.senders.clear();
    }
}

/// Shows that each check finds what it is for, and nothing else.
pub fn prove() {
    let fails = |result: Result<(), String>, why: &str| {
        assert!(result.as_ref().is_err_and(|wrong| wrong.contains(why)), "{why}: {result:?}");
    };
    // Five messages that were read: accepted, told, answered too late, posted elsewhere, and gone.
    let some = || {
        let mut all = Outgoing::default();
        all.observing(true);
        all.begin(1, false);
        (0..5).for_each(|n| assert_eq!(all.send(1), n));
        all.read(1, 4);
        for n in [0, 2, 3] {
            all.attempt(1, n).unwrap();
            all.taken(1, n);
        }
        for (n, surely) in [(0, true), (2, false), (3, true)] {
            all.accepted(1, n, surely);
        }
        [0, 2, 3].into_iter().for_each(|n| all.observe(1, n).unwrap());
        all.told(1, 1).unwrap();
        all
    };
    for ok in [2, 3] {
        assert_eq!(some().audit(Counted { ok, failed: 4 - ok }), [""; 0]);
    }
    let audit = |all: &mut Outgoing, ok, failed| {
        let wrong = all.audit(Counted { ok, failed });
        Err(wrong.join("; "))
    };
    fails(audit(&mut some(), 1, 3), "2 messages were accepted, or 3");
    fails(audit(&mut some(), 4, 1), "2 messages were accepted, or 3");
    fails(audit(&mut some(), 3, 0), "1 messages were told as failed");
    fails(audit(&mut some(), 2, 1), "4 certainly read");
    fails(audit(&mut some(), 3, 3), "5 messages were sent");
    let mut all = some();
    all.read(1, 5);
    fails(audit(&mut all, 3, 2), "message 4: neither published nor told");
    all.gone(1);
    assert_eq!(all.audit(Counted { ok: 3, failed: 2 }), [""; 0], "nobody could be told");
    fails(audit(&mut all, 3, 1), "1 are nowhere");
    let mut all = some();
    assert_eq!(all.unsettled(1), None, "an answer settles it, though it came late");
    // Its answer was lost: it is neither settled, nor may it not be sent again.
    all.attempt(1, 4).unwrap();
    all.taken(1, 4);
    all.read(1, 5);
    assert_eq!(all.unsettled(1), Some(4));
    all.observe(1, 4).unwrap();
    fails(all.observe(1, 4), "observed 2 times, published 1");
    all.attempt(1, 4).unwrap();
    all.taken(1, 4);
    all.accepted(1, 4, true);
    fails(all.attempt(1, 4), "after it was accepted");
    fails(all.told(1, 4), "failed, and it was accepted");
    fails(all.told(1, 1), "told twice");
    fails(all.told(1, 7), "never sent");
    fails(all.attempt(1, 1), "out of order");
    fails(all.attempt(1, 7), "never sent");
    fails(all.attempt(2, 0), "nobody sent it");
    all.begin(2, true);
    all.send(2);
    all.attempt(2, 0).unwrap();
    all.taken(2, 0);
    fails(all.attempt(2, 0), "posted again");
    let mut all = Outgoing::default();
    all.observing(true);
    all.begin(1, false);
    for n in 0..3 {
        all.send(1);
        all.attempt(1, n).unwrap();
        all.taken(1, n);
    }
    all.observe(1, 2).unwrap();
    fails(all.observe(1, 1), "observed out of order");
    all.accepted(1, 0, true);
    fails(audit(&mut all, 1, 0), "message 0: published, and never observed");
}
