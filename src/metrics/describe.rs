//! What `/metrics` says of each metric.

use metrics::{KeyName, Recorder, Unit};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::names;

/// Gives every metric its help.
pub(super) fn describe(recorder: &PrometheusRecorder) {
    let counters = [
        (names::CONNECTIONS_TOTAL, "Connections upgraded"),
        (names::REFUSALS_TOTAL, "Requests refused instead of being upgraded"),
        (names::CLOSES_TOTAL, "Connections closed, by reason"),
        (names::AUTH_TOTAL, "Tokens judged, by result"),
        (names::FRAMES_TOTAL, "WebSocket messages from (in) and to (out) old clients"),
        (names::FRAME_BYTES_TOTAL, "Bytes of those messages"),
        (names::CLIENT_ERRORS_TOTAL, "Error frames sent to old clients, by code"),
        (names::PUBLISH_TOTAL, "Client messages, by what became of them"),
        (names::PUBLISH_RETRIES_TOTAL, "Publishing requests sent again, by cause"),
        (names::UPSTREAM_RECONNECTS_TOTAL, "Connections to Pusher lost or refused, by cause"),
        (
            names::UPSTREAM_GAPS_TOTAL,
            "Channels that were subscribed when a connection was lost, or forgotten by Pusher: each may miss events",
        ),
        (names::UPSTREAM_EVENTS_TOTAL, "Events received from Pusher"),
        (
            names::LOCAL_EVENTS_TOTAL,
            "Client messages delivered to clients of this bridge, after Pusher accepted them",
        ),
        (
            names::PUBLISH_REPEATED_TOTAL,
            "Client messages sent again though Pusher may have accepted them before",
        ),
        (names::SUBSCRIPTION_FAILURES_TOTAL, "Subscriptions that Pusher refused or did not answer"),
        (names::DEPRECATED_REQUESTS_TOTAL, "Requests to deprecated endpoints, by phase"),
        (names::ACCEPT_ERRORS_TOTAL, "Failures to accept a connection"),
        (names::JWKS_FETCHES_TOTAL, "Fetches of a JWKS document"),
        (names::LOG_LINES_LOST_TOTAL, "Log lines that could not be written"),
        (names::LOG_LINES_LEFT_OUT_TOTAL, "Log lines beyond the rate of their kind"),
    ];
    for (name, help) in counters {
        recorder.describe_counter(KeyName::from_const_str(name), None, help.into());
    }
    let gauges = [
        (names::CONNECTIONS, "Connections now, by route and phase"),
        (names::BUFFERED_BYTES, "Bytes held for clients: parts of messages, and frames not yet taken"),
        (names::PUBLISH_QUEUE_MESSAGES, "Client messages waiting to be published"),
        (names::PUBLISH_QUEUE_BYTES, "Bytes of those messages"),
        (names::UPSTREAM_CONNECTED, "1 while the link to Pusher is connected"),
        (names::SUBSCRIPTIONS, "Channels by the state of their subscription"),
        (names::JWKS_AGE_SECONDS, "Since a key of auth.keys was fetched; 0 for one that stands in the file"),
        (
            names::JWKS_MAX_AGE_SECONDS,
            "At what age it is not believed any more; 0 for one that stands in the file",
        ),
        (names::READY, "1 while new clients are welcome"),
        (names::TASKS, "Asynchronous tasks now, by thread"),
        (names::BUILD_INFO, "Always 1; the version is a label"),
    ];
    for (name, help) in gauges {
        recorder.describe_gauge(KeyName::from_const_str(name), None, help.into());
    }
    let histograms = [
        (names::DELIVERY_DELAY_SECONDS, "From an event read from Pusher to its frames given to the sockets"),
        (names::PUBLISH_SECONDS, "One publishing request, from sending to its answer"),
    ];
    for (name, help) in histograms {
        recorder.describe_histogram(KeyName::from_const_str(name), Some(Unit::Seconds), help.into());
    }
}
