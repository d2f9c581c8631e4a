//! What a route makes of its channel's events on their way down: `[[routes.events]]`. The first rule that matches is taken,
//! by the name that the event was published by.

use std::borrow::Cow;

use crate::clock::Now;
use crate::legacy::dialect::EventData;
use crate::routes::route::Route;
use crate::template::{Fill, Frame, Slot};

/// `[[routes.events]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRule {
    /// Which events it is for.
    pub names: NamePattern,
    pub action: EventAction,
}

/// What becomes of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventAction {
    /// The route's clients do not get it.
    Drop,
    Show {
        /// Its name there; a `*` is what the rule's own stood for. `None`: as it was.
        name: Option<NamePattern>,
        /// Its data there; `None`: as they were.
        data: Option<Frame>,
    },
}

/// A name, in which a `*` may stand for any text, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    before: String,
    /// What comes behind the `*`.
    after: Option<String>,
}

impl NamePattern {
    /// `None`: more than one `*`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('*') {
            None => Some(Self { before: text.to_owned(), after: None }),
            Some((_, after)) if after.contains('*') => None,
            Some((before, after)) => Some(Self { before: before.to_owned(), after: Some(after.to_owned()) }),
        }
    }

    #[must_use]
    pub const fn has_star(&self) -> bool {
        self.after.is_some()
    }

    /// What the `*` stands for in `name`, if it matches.
    #[must_use]
    pub fn part<'a>(&self, name: &'a str) -> Option<&'a str> {
        match &self.after {
            None => (self.before == name).then_some(""),
            Some(after) => name.strip_prefix(self.before.as_str())?.strip_suffix(after.as_str()),
        }
    }

    /// Whether each name that `other` matches is matched by this.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (&self.after, &other.after) {
            (_, None) => self.part(&other.before).is_some(),
            (None, Some(_)) => false,
            (Some(after), Some(others)) => {
                other.before.starts_with(&self.before) && others.ends_with(after.as_str())
            }
        }
    }

    /// The name with this in place of the `*`.
    #[must_use]
    pub fn with(&self, part: &str) -> Cow<'_, str> {
        match &self.after {
            None => Cow::Borrowed(&self.before),
            Some(after) => Cow::Owned([self.before.as_str(), part, after].concat()),
        }
    }
}

fn rule_of<'r, 'e>(route: &'r Route, published: &'e str) -> Option<(usize, &'r EventAction, &'e str)> {
    let mut rules = route.events.iter().enumerate();
    rules.find_map(|(place, rule)| Some((place, &rule.action, rule.names.part(published)?)))
}

/// The place among the route's rules of the one for events of this name.
#[must_use]
pub fn place_of(route: &Route, published: &str) -> Option<usize> {
    rule_of(route, published).map(|(place, ..)| place)
}

/// Whether the route's clients do not get events of this name.
#[must_use]
pub fn drops(route: &Route, published: &str) -> bool {
    !route.events.is_empty() && matches!(rule_of(route, published), Some((_, EventAction::Drop, _)))
}

/// The event's frame for the route's clients. `published` is its name at Pusher, `data` what they would see without rules:
/// by whom it was written stays as it is, whatever it is called.
#[must_use]
pub fn render(route: &Route, published: &str, data: &EventData<'_>, at: Now) -> String {
    let frame = &route.dialect.out.event;
    let rule = if route.events.is_empty() { None } else { rule_of(route, published) };
    let Some((_, EventAction::Show { name, data: template }, part)) = rule else {
        return frame.render(data, at);
    };
    // What a publisher wrote as a whole envelope is that of the old name: the new one is made of what is in it.
    let inner = frame.contents(data);
    let name = name.as_ref().map(|name| name.with(part));
    // The part that comes from the event's name must not make it a name of the server's.
    let name = name.filter(|name| !route.dialect.reserved.iter().any(|reserved| *reserved == **name));
    let reshaped = template.as_ref().map(|template| {
        let timestamp = at.rfc3339();
        let mut out = String::with_capacity(template.source().len() + inner.len());
        template.render(&mut out, |slot| match slot {
            Slot::Data => Fill::Json(inner),
            Slot::Event => Fill::Text(published),
            Slot::Channel => Fill::Text(data.channel),
            Slot::Sender => data.sender.map_or(Fill::Json("null"), Fill::Text),
            _ => Fill::Text(&timestamp),
        });
        out
    });
    let shown = EventData {
        event: name.as_deref().unwrap_or(data.event),
        json: reshaped.as_deref().unwrap_or(inner),
        ..*data
    };
    frame.render_data(&shown, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;
    use crate::config::{self, diagnostics::Source};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn route(rules: &str) -> Arc<Route> {
        let text = format!(
            "{}\n[[routes]]\nname = \"r\"\ndialect = \"typed\"\npath = \"/r\"\nchannel = \"r\"\n{rules}",
            include_str!("../../routes.toml"),
        );
        let source = Source { name: "routes.toml".into(), text };
        let loaded = config::load(&source, &|_| None).unwrap_or_else(|errors| panic!("{}", errors[0]));
        loaded.config.routes.last().unwrap().clone()
    }

    fn shown(route: &Route, published: &str, json: &str, by_client: bool) -> String {
        let data = EventData { event: published, channel: "c", json, sender: None, by_client };
        let text = render(route, published, &data, now());
        text.strip_suffix(r#","timestamp":"2025-01-21T10:01:00Z"}"#).unwrap_or(&text).to_owned()
    }

    #[test]
    fn the_first_rule_that_matches_names_and_shapes_an_event() {
        let route = route(
            r#"
[[routes.events]]
match = "progress_done"
as = "done"
[[routes.events]]
match = "progress_*"
as = "step-*"
data = '{"was":{event},"of":{channel},"value":{data},"by":{sender}}'
[[routes.events]]
match = "debug*"
drop = true
[[routes.events]]
match = "x*y"
data = '[{data}]'
[[routes.events]]
match = "server_*"
as = "*"
"#,
        );
        for (name, json, expected) in [
            ("progress_done", "1.50", r#"{"type":"done","data":1.50"#),
            (
                "progress_a",
                "1.50",
                r#"{"type":"step-a","data":{"was":"progress_a","of":"c","value":1.50,"by":null}"#,
            ),
            ("xy", "{}", r#"{"type":"xy","data":[{}]"#),
            ("x", "{}", r#"{"type":"x","data":{}"#),
            ("other", "{}", r#"{"type":"other","data":{}"#),
            // A name that is the server's is never made of an event's.
            ("server_error", "1", r#"{"type":"server_error","data":1"#),
            ("server_hello", "1", r#"{"type":"hello","data":1"#),
            // A whole envelope of the old name is opened.
            (
                "progress_done",
                r#"{"type":"progress_done","data":[7],"timestamp":"t"}"#,
                r#"{"type":"done","data":[7]"#,
            ),
            // What only looks like one of the new name is data.
            (
                "progress_done",
                r#"{"type":"done","data":[7],"timestamp":"t"}"#,
                r#"{"type":"done","data":{"type":"done","data":[7],"timestamp":"t"}"#,
            ),
        ] {
            assert_eq!(shown(&route, name, json, false), expected, "{name} {json}");
        }
        for (name, dropped) in [("debug", true), ("debug_x", true), ("progress_a", false), ("other", false)] {
            assert_eq!(drops(&route, name), dropped, "{name}");
        }
    }

    #[test]
    fn what_a_client_wrote_is_a_clients_by_any_name() {
        let route = route("[[routes.events]]\nmatch = \"client-*\"\nas = \"*\"");
        let whole = r#"{"type":"client-run","data":1,"timestamp":"t"}"#;
        assert_eq!(shown(&route, "client-run", whole, false), r#"{"type":"run","data":1"#);
        assert_eq!(shown(&route, "client-run", whole, true), format!(r#"{{"type":"run","data":{whole}"#));
        assert_eq!(shown(&route, "client-error", "1", true), r#"{"type":"client-error","data":1"#);
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_it_makes_and_covers_no_more_than_it_matches(
            (a, b) in ("[ab]{0,3}\\*?[ab]{0,2}", "[ab]{0,3}\\*?[ab]{0,2}"),
            parts in prop::collection::vec("[ab]{0,3}", 6),
        ) {
            let (one, other) = (NamePattern::parse(&a).unwrap(), NamePattern::parse(&b).unwrap());
            for part in &parts {
                let name = other.with(part);
                prop_assert_eq!(other.part(&name), Some(if other.has_star() { part.as_str() } else { "" }));
                prop_assert!(!one.covers(&other) || one.part(&name).is_some(), "{} {} {}", a, b, name);
            }
            prop_assert!(NamePattern::parse("*").unwrap().covers(&one));
        }
    }
}
