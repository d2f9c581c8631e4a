//! Pure: what Pusher's webhooks tell (Pusher docs, "Webhooks"), and which of them are news. Pusher sends one again, with
//! the same body, until it is answered by a 2xx, for five minutes.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::json::{Object, elements};
use crate::metrics::label::labels;
use crate::pusher::channel::check_channel;

/// How far a webhook's `time_ms` may be from this machine's clock, either way: what Pusher takes of others
/// (rest-api.md), and twice as long as it sends one again. An older one could only be a replay.
pub const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(600);
/// Bodies that are known again, at most, each for as long as its time can be right.
pub const SEEN_MAX: usize = 65_536;
/// Events of one webhook; Pusher sends 20 at most.
pub const EVENTS_MAX: usize = 1_000;

labels! {
    /// What a webhook tells of.
    pub enum WebhookEvent: "event" {
        ChannelOccupied = "channel_occupied",
        ChannelVacated = "channel_vacated",
        MemberAdded = "member_added",
        MemberRemoved = "member_removed",
        CacheMiss = "cache_miss",
        ClientEvent = "client_event",
        SubscriptionCount = "subscription_count",
        /// One that is not known here.
        Other = "other",
    }
}

/// What one webhook tells.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// When it was made, by Pusher's clock.
    pub time_ms: i64,
    /// Each with its channel, where that is one.
    pub events: Vec<(WebhookEvent, Option<String>)>,
}

impl Batch {
    /// Reads a body whose signature is right.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(body: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(body).map_err(|_| "the body is not UTF-8")?;
        let object = Object::parse(text).map_err(|_| "the body is not a JSON object")?;
        let time_ms = object.get("time_ms").and_then(|time| time.parse().ok());
        let time_ms = time_ms.ok_or("`time_ms` is not a whole number")?;
        let events = object.get("events").and_then(elements).ok_or("`events` is not a list")?;
        if events.len() > EVENTS_MAX {
            return Err("there are too many events");
        }
        let events = events.into_iter().map(|event| {
            let event = Object::parse(event).map_err(|_| "an event is not an object")?;
            let name = event.string("name").ok_or("an event has no name")?;
            let kind = WebhookEvent::ALL.into_iter().find(|kind| kind.label() == name);
            let channel = event.string("channel").filter(|name| check_channel(name).is_ok());
            Ok((kind.unwrap_or(WebhookEvent::Other), channel.map(|name| name.into_owned())))
        });
        Ok(Self { time_ms, events: events.collect::<Result<_, &'static str>>()? })
    }

    /// Whether its time can be right.
    #[must_use]
    pub fn is_of_now(&self, unix_ms: i64) -> bool {
        u128::from(self.time_ms.abs_diff(unix_ms)) <= CLOCK_DIFFERENCE_MAX.as_millis()
    }

    /// Which channels it leaves occupied (`true`) or vacated: what its last event of each says.
    #[must_use]
    pub fn occupancy(&self) -> Vec<(&str, bool)> {
        let mut out: Vec<(&str, bool)> = Vec::new();
        for (kind, channel) in &self.events {
            let (occupied, Some(channel)) = (*kind == WebhookEvent::ChannelOccupied, channel) else {
                continue;
            };
            if !occupied && *kind != WebhookEvent::ChannelVacated {
                continue;
            }
            match out.iter_mut().find(|(known, _)| known == channel) {
                Some((_, state)) => *state = occupied,
                None => out.push((channel, occupied)),
            }
        }
        out
    }
}

/// The bodies that came lately.
#[derive(Debug, Default)]
pub struct Seen {
    order: VecDeque<(Instant, u128)>,
    digests: HashSet<u128>,
}

impl Seen {
    /// Whether the body of this signature is new; from now on it is known.
    pub fn is_new(&mut self, signature: &str, now: Instant) -> bool {
        // A signature that is right is the digest of its body.
        let digest = signature.get(..32).and_then(|hex| u128::from_str_radix(hex, 16).ok()).unwrap_or(0);
        let known_for = CLOCK_DIFFERENCE_MAX * 2;
        while let Some((at, old)) = self.order.front().copied() {
            if now.saturating_duration_since(at) < known_for && self.order.len() < SEEN_MAX {
                break;
            }
            self.order.pop_front();
            self.digests.remove(&old);
        }
        let new = self.digests.insert(digest);
        if new {
            self.order.push_back((now, digest));
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;

    #[test]
    fn a_webhook_is_read_as_pusher_documents_it() {
        let body =
            br#"{"time_ms":1403175510755,"events":[{"channel":"test_channel","name":"channel_vacated"},
            {"name":"member_added","channel":"presence-a","user_id":"1"},{"name":"new","x":1},
            {"name":"cache_miss","channel":"bad channel"}]}"#;
        let batch = Batch::read(body).unwrap();
        assert_eq!(batch.time_ms, 1_403_175_510_755);
        let told: Vec<_> = batch.events.iter().map(|(kind, c)| (kind.label(), c.as_deref())).collect();
        assert_eq!(
            told,
            [
                ("channel_vacated", Some("test_channel")),
                ("member_added", Some("presence-a")),
                ("other", None),
                ("cache_miss", None)
            ]
        );
        for bad in [
            &b"\xff"[..],
            b"",
            b"[]",
            b"{}",
            br#"{"time_ms":"1","events":[]}"#,
            br#"{"time_ms":1,"events":{}}"#,
            br#"{"time_ms":1,"events":[1]}"#,
            br#"{"time_ms":1,"events":[{}]}"#,
            br#"{"time_ms":1.5,"events":[]}"#,
        ] {
            assert!(Batch::read(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn the_last_word_on_a_channel_counts() {
        let event =
            |name: &str, channel: &str| format!(r#"{{"name":"channel_{name}","channel":"{channel}"}}"#);
        let events =
            [event("occupied", "a"), event("vacated", "b"), event("vacated", "a"), event("occupied", "b")];
        let body = format!(r#"{{"time_ms":1,"events":[{}]}}"#, events.join(","));
        assert_eq!(Batch::read(body.as_bytes()).unwrap().occupancy(), [("a", false), ("b", true)]);
    }

    #[test]
    fn a_time_that_is_not_now_is_told() {
        let batch = |time_ms| Batch { time_ms, events: Vec::new() };
        let here = 1_700_000_000_000;
        for (time_ms, of_now) in [
            (here, true),
            (here - 600_000, true),
            (here - 600_001, false),
            (here + 600_000, true),
            (here + 600_001, false),
            (i64::MIN, false),
            (i64::MAX, false),
        ] {
            assert_eq!(batch(time_ms).is_of_now(here), of_now, "{time_ms}");
        }
    }

    #[test]
    fn a_body_is_new_once_while_its_time_can_be_right() {
        let (mut seen, now) = (Seen::default(), now().mono);
        let (a, b) = ("0a".repeat(32), "0b".repeat(32));
        assert!(seen.is_new(&a, now) && seen.is_new(&b, now));
        assert!(!seen.is_new(&a, now + Duration::from_secs(1199)));
        assert!(seen.is_new(&a, now + Duration::from_secs(1200)));
        for n in 0..SEEN_MAX * 2 {
            seen.is_new(&format!("{n:032x}"), now + Duration::from_secs(1200));
        }
        assert_eq!((seen.order.len(), seen.digests.len()), (SEEN_MAX, SEEN_MAX));
    }
}
