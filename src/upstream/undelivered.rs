//! Events that no client got, and why: counted, and the last of each route kept for who asks "where is it?". What
//! they said is not kept. Nothing is done for an event that reaches somebody on each route that wants it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::clock::Now;
use crate::metrics::label::labels;
use crate::routes::edition::RouteId;
use crate::routes::route::Route;
use crate::template::escape_into;

/// Kept of each route; the oldest goes first.
const PER_ROUTE_MAX: usize = 32;
/// As much of a name as is kept; Pusher's own limits are below it.
const NAME_CHARS_MAX: usize = 200;

labels! {
    /// Why an event reached nobody on a route. Of several, the greatest came nearest to somebody.
    #[derive(PartialOrd, Ord)]
    pub enum Reason: "result" {
        /// Nobody is subscribed to the channel, or nobody's subscription had been confirmed.
        NoSubscriber = "no_subscriber",
        /// The route's filter looks into its data, and that is text.
        NotJson = "not_json",
        /// The data has not the filter's field, or no string or number there.
        FieldMissing = "field_missing",
        /// No client's filter has the value that is there.
        Filtered = "filtered",
    }
}

impl Reason {
    /// Of an event with this data, which the route's filter found this value in.
    #[must_use]
    pub fn of(value: Option<&str>, data: &str) -> Self {
        match value {
            Some(_) => Self::Filtered,
            None if data.trim_start().starts_with('"') => Self::NotJson,
            None => Self::FieldMissing,
        }
    }
}

#[derive(Debug)]
struct Entry {
    channel: Box<str>,
    event: Box<str>,
    reason: Reason,
    at: Now,
}

/// The last of each route.
#[derive(Debug, Default)]
pub struct Undelivered(ArcSwap<Vec<OfRoute>>);

#[derive(Debug)]
struct OfRoute {
    id: RouteId,
    route: Arc<Route>,
    /// Locked only when an event reached nobody, and by who asks.
    kept: Arc<Mutex<VecDeque<Entry>>>,
}

impl Undelivered {
    /// From now on these are the routes, in this order. What is kept of one that was there before stays.
    pub fn follow(&self, routes: impl IntoIterator<Item = (RouteId, Arc<Route>)>) {
        let before = self.0.load();
        let kept = |id| before.iter().find(|of| of.id == id).map(|of| of.kept.clone()).unwrap_or_default();
        let routes = routes.into_iter().map(|(id, route)| OfRoute { id, route, kept: kept(id) });
        self.0.store(Arc::new(routes.collect()));
    }

    /// An event reached nobody on a route.
    pub fn note(&self, route: RouteId, channel: &str, event: &str, reason: Reason, at: Now) {
        if let Some(of) = self.0.load().iter().find(|of| of.id == route) {
            of.note(channel, event, reason, at);
        }
    }

    /// Nobody is subscribed to the channel: noted for each route whose clients could be.
    pub fn note_unwanted(&self, channel: &str, event: &str, at: Now) {
        for of in self.0.load().iter().filter(|of| of.route.channel.could_be(channel)) {
            of.note(channel, event, Reason::NoSubscriber, at);
        }
    }

    /// All that is kept, the newest first, as a JSON object with an array for each route.
    #[must_use]
    pub fn json(&self) -> String {
        let mut out = String::from("{");
        for (index, OfRoute { route, kept, .. }) in self.0.load().iter().enumerate() {
            out.push_str(if index == 0 { "\n" } else { ",\n" });
            text(&mut out, &route.name);
            out.push_str(": [");
            let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            for (at, entry) in kept.iter().rev().enumerate() {
                out.push_str(if at == 0 { "\n  " } else { ",\n  " });
                let _ = write!(
                    out,
                    r#"{{"at":"{}","reason":"{}","channel":"#,
                    entry.at.rfc3339(),
                    entry.reason.label()
                );
                text(&mut out, &entry.channel);
                out.push_str(r#","event":"#);
                text(&mut out, &entry.event);
                // Of the filter: what a publisher has to look at.
                if let Some(filter) = route.filter.as_ref().filter(|_| entry.reason != Reason::NoSubscriber) {
                    out.push_str(r#","field":"#);
                    text(&mut out, &filter.field.join("."));
                }
                out.push('}');
            }
            out.push(']');
        }
        out.push_str("\n}\n");
        out
    }
}

impl OfRoute {
    fn note(&self, channel: &str, event: &str, reason: Reason, at: Now) {
        let short = |name: &str| name.chars().take(NAME_CHARS_MAX).collect::<String>().into_boxed_str();
        let entry = Entry { channel: short(channel), event: short(event), reason, at };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= PER_ROUTE_MAX {
            kept.pop_front();
        }
        kept.push_back(entry);
    }
}

fn text(out: &mut String, text: &str) {
    out.push('"');
    escape_into(out, text);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;
    use crate::config::{self, diagnostics::Source};
    use crate::routes::edition::RouteIds;

    fn routes(ids: &mut RouteIds) -> Vec<(RouteId, Arc<Route>)> {
        let text = include_str!("../../routes.toml").to_owned();
        let source = Source { name: "routes.toml".into(), text };
        let routes = config::load(&source, &|_| None).unwrap().config.routes;
        routes.into_iter().map(|route| (ids.of(&route.name).unwrap(), route)).collect()
    }

    #[test]
    fn reasons_are_told_apart_and_come_in_order() {
        for (value, data, reason) in [
            (Some("7"), r#"{"agent_id":7}"#, Reason::Filtered),
            (None, "{}", Reason::FieldMissing),
            (None, "[1]", Reason::FieldMissing),
            (None, "null", Reason::FieldMissing),
            (None, "\"text\"", Reason::NotJson),
        ] {
            assert_eq!(Reason::of(value, data), reason, "{data}");
        }
        assert!(Reason::ALL.windows(2).all(|pair| pair[0] < pair[1]));
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    #[test]
    fn the_last_are_kept_and_told_without_their_data() {
        let (undelivered, mut ids) = (Undelivered::default(), RouteIds::default());
        let routes = routes(&mut ids);
        undelivered.follow(routes.clone());
        let agent = ids.of(&"agent".into()).unwrap();
        for n in 0..PER_ROUTE_MAX + 3 {
            undelivered.note(agent, "agent-status", &format!("e{n}\"\u{1b}"), Reason::Filtered, now());
        }
        undelivered.note_unwanted("content-generation-x", "e", now());
        undelivered.note(agent, &"x".repeat(5000), "e", Reason::NoSubscriber, now());
        undelivered.note(ids.of(&"no such route".into()).unwrap(), "c", "e", Reason::Filtered, now());
        let all: serde_json::Value = serde_json::from_str(&undelivered.json()).unwrap();
        let kept = all["agent"].as_array().unwrap();
        assert_eq!(kept.len(), PER_ROUTE_MAX);
        assert_eq!(kept[0]["channel"].as_str().map(str::len), Some(NAME_CHARS_MAX));
        assert!(kept[0].get("field").is_none());
        let expected = serde_json::json!({
            "at": "2025-01-21T10:01:00Z", "reason": "filtered", "channel": "agent-status",
            "event": format!("e{}\"\u{1b}", PER_ROUTE_MAX + 2), "field": "agent_id",
        });
        assert_eq!(kept[1], expected, "the newest first");
        assert_eq!(all["content"][0]["reason"], "no_subscriber");
        // A channel that clients choose can be any.
        assert_eq!(all["plugin"], serde_json::json!([]));
        assert_eq!(all.as_object().unwrap().len(), routes.len());
    }

    #[test]
    fn what_is_kept_stays_with_the_route_while_there_is_one_of_its_name() {
        let (undelivered, mut ids) = (Undelivered::default(), RouteIds::default());
        let mut routes = routes(&mut ids);
        undelivered.follow(routes.clone());
        let agent = ids.of(&"agent".into()).unwrap();
        let kept = |name: &str| {
            let all: serde_json::Value = serde_json::from_str(&undelivered.json()).unwrap();
            all.get(name).map(|kept| kept.as_array().unwrap().len())
        };
        undelivered.note(agent, "agent-status", "e", Reason::Filtered, now());
        routes.rotate_left(3);
        undelivered.follow(routes.clone());
        undelivered.note(agent, "agent-status", "e", Reason::Filtered, now());
        assert_eq!((kept("agent"), kept("content")), (Some(2), Some(0)));
        routes.retain(|(id, _)| *id != agent);
        undelivered.follow(routes.clone());
        undelivered.note(agent, "agent-status", "e", Reason::Filtered, now());
        assert_eq!((kept("agent"), kept("content")), (None, Some(0)));
    }
}
