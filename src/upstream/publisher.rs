//! Publishing client messages: the entrance to the lanes. A channel has one lane, which keeps its order and sends
//! signed HTTP requests; backends have lanes of their own, so that one that is dead delays nobody else's messages.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::delivery::Sent;
use super::settings;
use crate::auth::Identity;
use crate::legacy::error::ErrorCode;
use crate::routes::publish::Outgoing;
use crate::upstream::api::{Api, Backend};
use crate::upstream::lane::Item;
use crate::upstream::links::{Links, stable_hash};
use crate::upstream::metrics::{PublishMetrics, PublishResult};
use crate::upstream::runner::{Job, Room, Runner, Shared, Work};
use crate::websocket::conn::Conn;

/// A lane's entrance.
struct Entrance {
    items: mpsc::UnboundedSender<Item<Job>>,
    room: Arc<Room>,
}

/// The entrances of all lanes. When it is dropped the lanes finish what they have and end.
pub struct Publisher {
    /// To Pusher.
    triggers: Vec<Entrance>,
    /// To backends, by scheme and authority.
    posts: HashMap<Box<str>, Vec<Entrance>>,
    settings: settings::Publish,
    metrics: Arc<PublishMetrics>,
    unsettled: Arc<AtomicUsize>,
    hasher: RandomState,
}

impl Publisher {
    /// Starts the lanes on the current runtime, as tasks of `tasks`; `backends` are the URLs that rules post to.
    pub fn start<'a>(
        api: Arc<Api>,
        settings: settings::Publish,
        backends: impl Iterator<Item = &'a str>,
        links: Links,
        metrics: Arc<PublishMetrics>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let shared = Arc::new(Shared { api, settings: settings.clone(), links, metrics: metrics.clone() });
        let mut lanes = |to_backend| -> Vec<Entrance> {
            let lane = |_| {
                let (items, receiver) = mpsc::unbounded_channel();
                tasks.spawn(Runner::new(shared.clone(), to_backend).run(receiver));
                Entrance { items, room: Arc::default() }
            };
            (0..settings.lanes).map(lane).collect()
        };
        let triggers = lanes(false);
        let mut posts: HashMap<Box<str>, Vec<Entrance>> = HashMap::new();
        for url in backends {
            posts.entry(place(url).into()).or_insert_with(|| lanes(true));
        }
        Self { triggers, posts, settings, metrics, unsettled: Arc::default(), hasher: RandomState::new() }
    }

    /// How many messages are accepted and neither published nor reported: readable when this is gone.
    pub fn unsettled(&self) -> Arc<AtomicUsize> {
        self.unsettled.clone()
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
        let channel: Arc<str> = channel.into();
        let (lanes, work, bytes) = match outgoing {
            Outgoing::Trigger { event, data } => {
                let bytes = channel.len() + event.len() + data.len();
                let sent = Sent { channel: channel.clone(), event, data, origin: conn.id() };
                (Some(&self.triggers), Work::Trigger(Arc::new(sent)), bytes)
            }
            Outgoing::Post { url, body, headers, retry_on } => {
                let bytes = url.len() + body.len();
                let lanes = self.posts.get(place(&url));
                (lanes, Work::Post(Backend { url, body, headers, retry_on }), bytes)
            }
        };
        // All of it waits: a type may be as long as a message.
        let bytes = bytes + message_type.len();
        let lane = lanes.and_then(|lanes| lanes.get(stable_hash(&channel) % lanes.len().max(1)));
        let accepted = lane.is_some_and(|lane| {
            // The job takes its bytes back when it is dropped, wherever that is.
            let (held, messages) = (lane.room.held(bytes), lane.room.place());
            let has_room = held.bytes_then <= self.settings.queue_bytes_max
                && messages.count_then <= self.settings.queue_messages_max;
            let job = Job::new(work, conn, message_type, (held, messages), &self.unsettled, &self.metrics);
            let item = Item {
                user: match user {
                    Some(user) => self.hasher.hash_one(user),
                    None => self.hasher.hash_one(conn.id().0),
                },
                deadline: (Instant::now() + self.settings.deadline).into_std(),
                channel,
                bytes,
                job,
            };
            has_room && lane.items.send(item).is_ok()
        });
        if accepted {
            Ok(())
        } else {
            self.metrics.published(PublishResult::QueueFull);
            Err(ErrorCode::QueueFull)
        }
    }
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
    use super::*;

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
