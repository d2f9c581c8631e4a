//! Pure: an event as a route's clients see it.

use std::borrow::Cow;

use crate::json;
use crate::legacy::dialect::EventData;
use crate::routes::publish::{ClientEvents, relayed_name};
use crate::routes::route::Route;
use crate::upstream::delivery::Event;

/// Whether a client wrote the event, here or elsewhere.
#[must_use]
pub fn is_by_client(event: &Event, client_events: &ClientEvents) -> bool {
    event.origin.is_some() || event.sender.is_some() || client_events.has(&event.channel, &event.name)
}

/// The event as the route's clients know it.
#[must_use]
pub fn event_data<'a>(route: &'a Route, event: &'a Event, by_client: bool) -> EventData<'a> {
    EventData {
        event: relayed_name(route, &event.name),
        channel: route.alias(&event.channel),
        json: &event.data,
        sender: event.sender.as_deref(),
        by_client,
    }
}

/// What the route's filter compares.
#[must_use]
pub fn filter_value<'a>(route: &Route, data: &EventData<'a>) -> Option<Cow<'a, str>> {
    let filter = route.filter.as_ref()?;
    json::at_path(route.dialect.out.event.payload(data), &filter.field).and_then(json::scalar)
}
