//! Publishing client messages: the entrance to the lanes. A channel has one lane, which keeps its order and sends
//! signed HTTP requests; backends have lanes of their own, so that one that is dead delays nobody else's messages.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::delivery::Sent;
use super::settings;
use crate::auth::Identity;
use crate::legacy::error::ErrorCode;
use crate::routes::publish::Outgoing;
use crate::upstream::api::Api;
use crate::upstream::backend::Backend;
use crate::upstream::lane::Item;
use crate::upstream::link::client_events::{ClientEvent, PER_SECOND_MAX};
use crate::upstream::links::{Links, stable_hash};
use crate::upstream::metrics::{PublishMetrics, PublishResult, ReplyResult};
use crate::upstream::occupancy::Occupancy;
use crate::upstream::runner::{Job, Room, Runner, Shared, Work};
use crate::upstream::told::Told;
use crate::websocket::conn::Conn;

/// A lane's entrance.
struct Entrance {
    items: mpsc::UnboundedSender<Item<Job>>,
    room: Arc<Room>,
}

/// The lanes of one place, of which a channel has one.
type Lanes = Arc<[Entrance]>;

/// The entrances of all lanes. When it is dropped the lanes finish what they have and end.
pub struct Publisher {
    /// To Pusher.
    triggers: Lanes,
    /// To backends, by scheme and authority.
    posts: ArcSwap<HashMap<Box<str>, Lanes>>,
    shared: Arc<Shared>,
    /// Of client events, for each shared link, and behind them for the links of members.
    client_events: Box<[Arc<Room>]>,
    unsettled: Arc<AtomicUsize>,
    hasher: RandomState,
    /// What is known of channels' subscribers; `None`: no webhooks come.
    occupancy: Option<Arc<Occupancy>>,
}

/// A client event to be taken, and how other clients of this bridge see who sent it.
#[derive(Debug)]
pub struct ClientMessage {
    pub event: String,
    /// Text: it leaves as a JSON string.
    pub data: String,
    /// The sender's `user_id`, where it goes by a link of its own.
    pub sender: Option<Arc<str>>,
    /// The type of the client's message, for an error's details.
    pub message_type: String,
}

impl Publisher {
    /// Starts the lanes to Pusher on the current runtime, as tasks of `tasks`.
    pub fn start(
        api: Arc<Api>,
        settings: settings::Publish,
        links: Links,
        metrics: Arc<PublishMetrics>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let client_events = (0..=links.count()).map(|_| Arc::default()).collect();
        let shared = Arc::new(Shared { api, settings, links, metrics });
        let triggers = lanes(&shared, false, tasks);
        let (posts, unsettled, hasher) = Default::default();
        Self { triggers, posts, shared, client_events, unsettled, hasher, occupancy: None }
    }

    /// With what is known of channels' subscribers, for rules that spare what nobody would get.
    #[must_use]
    pub fn with_occupancy(self, occupancy: Option<Arc<Occupancy>>) -> Self {
        Self { occupancy, ..self }
    }

    /// From now on messages are posted to `backends`, by their URLs, and nowhere else: lanes to others begin on the
    /// current runtime, as tasks of `tasks`, and those that nobody needs any more end. While they work they are kept
    /// until the next call: a backend that comes back must not get a second lane, which would know nothing of the
    /// channels' order in the first.
    pub fn follow<'a>(&self, backends: impl Iterator<Item = &'a str>, tasks: &mut JoinSet<()>) {
        let before = self.posts.load();
        let mut posts: HashMap<Box<str>, Lanes> = HashMap::new();
        for place in backends.map(place) {
            if !posts.contains_key(place) {
                let there = before.get(place).cloned();
                posts.insert(place.into(), there.unwrap_or_else(|| lanes(&self.shared, true, tasks)));
            }
        }
        for (place, lanes) in before.iter() {
            // Whoever posts there is of an edition that is alive, and its backend is listed: nothing more comes into these.
            if !posts.contains_key(place) && lanes.iter().any(|lane| !lane.room.is_empty()) {
                posts.insert(place.clone(), lanes.clone());
            }
        }
        self.posts.store(Arc::new(posts));
    }

    /// How many messages are accepted and neither published nor reported: readable when this is gone.
    pub fn unsettled(&self) -> Arc<AtomicUsize> {
        self.unsettled.clone()
    }

    /// A backend's answer, which came in time, has reached its sender, or has not.
    pub fn replied(&self, result: ReplyResult) {
        self.shared.metrics.replies.get(result).increment(1);
    }

    /// Takes a message for publishing. `user` is who has a turn for it; without one it is the connection.
    ///
    /// # Errors
    /// [`ErrorCode::QueueFull`]: its lane has no room.
    pub fn publish(
        &self,
        conn: &Arc<Conn>,
        user: Option<&Identity>,
        channel: &str,
        outgoing: Outgoing,
        message_type: String,
    ) -> Result<(), ErrorCode> {
        let (posts, settings, metrics) = (self.posts.load(), &self.shared.settings, &self.shared.metrics);
        let mut channel: Arc<str> = channel.into();
        let (lanes, work, bytes) = match outgoing {
            Outgoing::Drop => {
                metrics.published(PublishResult::Dropped);
                return Ok(());
            }
            Outgoing::ClientEvent { event, data, member } => {
                let sender = member.as_ref().map(|member| member.user_id.clone());
                let message = ClientMessage { event, data, sender, message_type };
                let event = self.client_event(conn, user, channel, message)?;
                self.shared.links.client_event(member.as_deref(), event);
                return Ok(());
            }
            Outgoing::Trigger { event, data, elsewhere, skip_if_empty } => {
                // A message has its place in the order of the channel that it is for.
                channel = elsewhere.map_or(channel, Into::into);
                let now = Instant::now().into_std();
                let is_empty = |occupancy: &Arc<Occupancy>| occupancy.is_empty(&channel, now);
                if skip_if_empty && self.occupancy.as_ref().is_some_and(is_empty) {
                    metrics.published(PublishResult::SkippedEmpty);
                    return Ok(());
                }
                let bytes = channel.len() + event.len() + data.len();
                let sent = Sent { channel: channel.clone(), event, data, origin: conn.id() };
                (Some(&self.triggers), Work::Trigger(Arc::new(sent)), bytes)
            }
            Outgoing::Post { url, body, headers, retry_on, replies } => {
                let bytes = url.len() + body.len();
                let lanes = posts.get(place(&url));
                (lanes, Work::Post(Backend { url, body, headers, retry_on, replies }), bytes)
            }
        };
        // All of it waits: a type may be as long as a message.
        let bytes = bytes + message_type.len();
        let lane = lanes.and_then(|lanes| lanes.get(stable_hash(&channel) % lanes.len().max(1)));
        let accepted = lane.is_some_and(|lane| {
            // The job takes its bytes back when it is dropped, wherever that is.
            let (held, messages) = (lane.room.held(bytes), lane.room.place());
            let has_room = held.bytes_then <= settings.queue_bytes_max
                && messages.count_then <= settings.queue_messages_max;
            let job = Job::new(work, conn, message_type, (held, messages), &self.unsettled, metrics);
            let item = Item {
                user: self.turn_of(user, conn),
                deadline: (Instant::now() + settings.deadline).into_std(),
                channel,
                bytes,
                job,
            };
            has_room && lane.items.send(item).is_ok()
        });
        if accepted {
            Ok(())
        } else {
            metrics.published(PublishResult::QueueFull);
            Err(ErrorCode::QueueFull)
        }
    }

    /// Takes a message that is to leave as a client event, for [`LinkHandle::client_event`] of the link that carries its
    /// channel, or the pool of members. No more are taken than can leave within their deadline.
    ///
    /// [`LinkHandle::client_event`]: super::links::LinkHandle::client_event
    ///
    /// # Errors
    /// [`ErrorCode::QueueFull`]: so much waits for that link already.
    pub fn client_event(
        &self,
        conn: &Arc<Conn>,
        user: Option<&Identity>,
        channel: Arc<str>,
        message: ClientMessage,
    ) -> Result<Item<ClientEvent>, ErrorCode> {
        let ClientMessage { event, data, sender, message_type } = message;
        let Shared { settings, links, metrics, .. } = &*self.shared;
        let in_time = usize::try_from(settings.deadline.as_secs().max(1)).unwrap_or(usize::MAX);
        let of_link = settings.queue_messages_max.min(in_time.saturating_mul(PER_SECOND_MAX));
        let (at, messages_max) = match &sender {
            None => (links.place_of(&channel), of_link),
            Some(_) => (links.count(), settings.queue_messages_max),
        };
        let room = self.client_events.get(at).cloned().unwrap_or_default();
        let bytes = channel.len() + event.len() + data.len() + message_type.len();
        let (held, place) = (room.held(bytes), room.place());
        let has_room = held.bytes_then <= settings.queue_bytes_max && place.count_then <= messages_max;
        let sent = Arc::new(Sent { channel: channel.clone(), event, data, origin: conn.id() });
        let work = Work::Trigger(sent.clone());
        let job = Job::new(work, conn, message_type, (held, place), &self.unsettled, metrics);
        if !has_room {
            metrics.published(PublishResult::QueueFull);
            return Err(ErrorCode::QueueFull);
        }
        let receipt = Box::new(Told { job, metrics: metrics.clone() });
        Ok(Item {
            user: self.turn_of(user, conn),
            deadline: (Instant::now() + settings.deadline).into_std(),
            channel,
            bytes,
            job: ClientEvent::new(sent, sender, receipt),
        })
    }

    /// Whose turn a message takes.
    fn turn_of(&self, user: Option<&Identity>, conn: &Conn) -> u64 {
        match user {
            Some(user) => self.hasher.hash_one(user),
            None => self.hasher.hash_one(conn.id().0),
        }
    }
}

fn lanes(shared: &Arc<Shared>, to_backend: bool, tasks: &mut JoinSet<()>) -> Lanes {
    let lane = |_| {
        let (items, receiver) = mpsc::unbounded_channel();
        tasks.spawn(Runner::new(shared.clone(), to_backend).run(receiver));
        Entrance { items, room: Arc::default() }
    };
    (0..shared.settings.lanes).map(lane).collect()
}

/// Scheme and authority of a URL, whose path may be a template.
fn place(url: &str) -> &str {
    let authority = url.find("://").map_or(0, |at| at + 3);
    let behind = url.get(authority..).and_then(|rest| rest.find(['/', '?', '#']));
    behind.and_then(|length| url.get(..authority + length)).unwrap_or(url)
}

/// Messages could not be carried, and there is nobody to be told but the log's reader.
pub fn note_untold(messages: usize, code: ErrorCode) {
    tracing::warn!(messages, code = code.as_str(), "messages were not carried, and their senders are gone");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Registry;
    use crate::upstream::runner::tests::{item, shared};

    const LANES: usize = 2;

    fn publisher(tasks: &mut JoinSet<()>) -> Publisher {
        let shared = shared(&Registry::new().unwrap());
        let settings = settings::Publish { lanes: LANES, ..shared.settings.clone() };
        Publisher::start(shared.api.clone(), settings, shared.links.clone(), shared.metrics.clone(), tasks)
    }

    #[tokio::test]
    async fn lanes_to_a_backend_that_is_gone_end() {
        let mut tasks = JoinSet::new();
        let publisher = publisher(&mut tasks);
        publisher.follow(["http://a/x", "http://b"].into_iter(), &mut tasks);
        assert_eq!(tasks.len(), 3 * LANES);
        publisher.follow(["http://b/y"].into_iter(), &mut tasks);
        for _ in 0..LANES {
            tasks.join_next().await.unwrap().unwrap();
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(tasks.try_join_next().is_none(), "the others go on");
        drop(publisher);
        assert_eq!(tasks.join_all().await.len(), 2 * LANES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_comes_back_while_its_lane_works_has_the_same_lane() {
        let mut tasks = JoinSet::new();
        let publisher = publisher(&mut tasks);
        let mut follow = |backends: &[&str]| publisher.follow(backends.iter().copied(), &mut tasks);
        follow(&["http://a/x"]);
        let lanes = Arc::downgrade(&publisher.posts.load()["http://a"]);
        {
            let lane = &lanes.upgrade().unwrap()[0];
            lane.items.send(item("c", 60, &publisher.shared, &lane.room)).ok().unwrap();
        }
        follow(&[]);
        follow(&["http://a/y"]);
        assert!(Arc::ptr_eq(&lanes.upgrade().unwrap(), &publisher.posts.load()["http://a"]));
        follow(&[]);
        assert!(lanes.upgrade().is_some());
        tokio::time::sleep(Duration::from_secs(70)).await;
        follow(&[]);
        assert!(lanes.upgrade().is_none(), "the message was given up");
        for _ in 0..LANES {
            tasks.join_next().await.unwrap().unwrap();
        }
        assert_eq!(tasks.len(), LANES);
    }

    #[test]
    fn a_backend_is_its_scheme_and_authority() {
        for (url, expected) in [
            ("http://b", "http://b"),
            ("http://b:1/x/{id}?a=http://c", "http://b:1"),
            ("https://[::1]:8443?x", "https://[::1]:8443"),
            ("", ""),
        ] {
            assert_eq!(place(url), expected);
        }
    }
}
