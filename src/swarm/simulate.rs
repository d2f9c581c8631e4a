//! The crew of `simulate`: a script's clients, and what became of them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::actor::{Actor, Standing, Troupe};
use super::script::{Script, Text, Values};
use super::socket::Secured;
use super::tally::Tally;
use super::{Crew, Dial, End, Out, ws};
use crate::clock::Now;

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// Where clients connect, and how.
pub struct Target {
    pub address: SocketAddr,
    pub secured: Option<Secured>,
    /// For the `Host` field.
    pub host: String,
    pub path: Text,
    /// Further fields of the request.
    pub fields: Vec<(String, String)>,
    /// Clients of one source address, where a loopback address is called; 0: they all have the usual one.
    pub per_address: u32,
}

impl Target {
    /// The address that a client comes from: 127.0.0.0/8 is this machine's own, all of it.
    fn source(&self, number: u32) -> Option<IpAddr> {
        let block = number.checked_div(self.per_address)?;
        if !self.address.is_ipv4() || !self.address.ip().is_loopback() {
            return None;
        }
        let [.., b, c, d] = block.saturating_add(256).to_be_bytes();
        // Not 127.0.0.0/16: servers are there.
        Some(Ipv4Addr::new(127, b.saturating_add(1), c, d).into())
    }
}

/// How far the clients of a thread are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// By [`Standing`].
    pub standing: [usize; 4],
    pub unconnected: u64,
    pub sent: u64,
    pub received: u64,
}

impl Progress {
    /// Those of several threads together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let [a, b, c, d] = self.standing;
        let [e, f, g, h] = other.standing;
        Self {
            standing: [a + e, b + f, c + g, d + h],
            unconnected: self.unconnected + other.unconnected,
            sent: self.sent + other.sent,
            received: self.received + other.received,
        }
    }

    #[must_use]
    pub fn standing(&self, standing: Standing) -> usize {
        self.standing.get(standing as usize).copied().unwrap_or_default()
    }

    #[must_use]
    pub fn connected(&self) -> usize {
        self.standing(Standing::Acting) + self.standing(Standing::Through)
    }
}

/// The clients of one thread.
pub struct Simulated {
    target: Arc<Target>,
    troupe: Troupe,
    epoch: Instant,
    progress: Arc<Mutex<Progress>>,
}

impl Simulated {
    #[must_use]
    pub fn new(target: Arc<Target>, script: Arc<Script>, epoch: Instant) -> Self {
        Self { target, troupe: Troupe::new(script), epoch, progress: Arc::default() }
    }

    /// Where its progress can be seen.
    #[must_use]
    pub fn progress(&self) -> Arc<Mutex<Progress>> {
        Arc::clone(&self.progress)
    }

    /// One more client.
    #[must_use]
    pub fn join(&mut self, number: u32) -> Actor {
        self.troupe.join(number)
    }

    /// What became of all of them.
    #[must_use]
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.troupe.tally)
    }
}

impl Crew for Simulated {
    type Client = Actor;

    const CONNECT_MAX: Option<Duration> = Some(CONNECT_MAX);

    fn dial(&mut self, client: &mut Actor) -> Dial {
        let now = Now::read();
        let since = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let number = self.troupe.dialled(client, since, now);
        let values = Values { number, token: "", sequence: 0, since, now };
        let target = &self.target;
        Dial {
            source: target.source(number),
            target: target.address,
            secured: target.secured.clone(),
            request: ws::upgrade_request(&target.host, &target.path.fill(&values), &target.fields),
        }
    }

    fn opened(&mut self, client: &mut Actor, out: &mut Out<'_>) {
        out.ready();
        self.troupe.opened(client, out, Now::read());
    }

    fn text(&mut self, client: &mut Actor, text: &[u8], out: &mut Out<'_>) -> Result<(), String> {
        self.troupe.heard(client, text, out, Now::read());
        Ok(())
    }

    fn timer(&mut self, client: &mut Actor, out: &mut Out<'_>) {
        self.troupe.woken(client, out, Now::read());
    }

    fn ended(&mut self, client: &mut Actor, end: End, now: u64) -> Option<u64> {
        self.troupe.ended(client, end, now)
    }

    fn turned(&mut self) {
        let tally = &self.troupe.tally;
        let progress = Progress {
            standing: self.troupe.standing,
            unconnected: tally.unconnected(),
            sent: tally.sent,
            received: tally.received,
        };
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_come_from_many_addresses_of_this_machine() {
        let target = |address: &str, per_address| Target {
            address: address.parse().unwrap(),
            secured: None,
            host: String::new(),
            path: Text::parse("/", &[]).unwrap(),
            fields: Vec::new(),
            per_address,
        };
        let local = target("127.0.0.1:1", 50);
        for (number, source) in
            [(0, "127.1.1.0"), (49, "127.1.1.0"), (50, "127.1.1.1"), (50 * 256, "127.1.2.0")]
        {
            assert_eq!(local.source(number).unwrap().to_string(), source);
        }
        for (address, per_address) in [("127.0.0.1:1", 0), ("[::1]:1", 50), ("10.0.0.1:1", 50)] {
            assert_eq!(target(address, per_address).source(0), None, "{address}");
        }
    }
}
