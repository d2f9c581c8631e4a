//! Pure: an event as a route's clients see it.

use std::borrow::Cow;

use crate::json;
use crate::legacy::dialect::EventData;
use crate::routes::events;
use crate::routes::publish::{ClientEvents, relayed_name};
use crate::routes::route::Route;
use crate::upstream::delivery::Event;

/// Whether a client wrote the event, here or elsewhere.
#[must_use]
#[inline]
pub fn is_by_client(event: &Event, client_events: &ClientEvents) -> bool {
    event.origin.is_some() || event.sender.is_some() || client_events.has(&event.channel, &event.name)
}

/// The event as the route's clients know it.
#[must_use]
#[inline]
pub fn event_data<'a>(route: &'a Route, event: &'a Event, by_client: bool) -> EventData<'a> {
    EventData {
        event: relayed_name(route, &event.name),
        channel: route.alias(&event.channel),
        json: &event.data,
        sender: event.sender.as_deref(),
        by_client,
    }
}

/// What there is of an event for a route's clients.
pub struct View<'a> {
    pub data: EventData<'a>,
    /// What the route's filter compares.
    pub value: Option<Cow<'a, str>>,
}

/// What there is of the event for the route's clients; `None`: a rule drops it.
#[must_use]
#[inline]
pub fn view<'a>(route: &'a Route, event: &'a Event, by_client: bool) -> Option<View<'a>> {
    if events::drops(route, &event.name) {
        return None;
    }
    let data = event_data(route, event, by_client);
    Some(View { value: filter_value(route, &data), data })
}

/// The text of the event's frame for the route's clients.
#[must_use]
pub fn render(route: &Route, event: &Event, data: &EventData<'_>) -> String {
    events::render(route, &event.name, data, event.received)
}

/// What the route's filter compares.
#[must_use]
#[inline]
pub fn filter_value<'a>(route: &Route, data: &EventData<'a>) -> Option<Cow<'a, str>> {
    let filter = route.filter.as_ref()?;
    json::at_path(route.dialect.out.event.payload(data), &filter.field).and_then(json::scalar)
}
