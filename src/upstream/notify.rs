//! An event that a backend hands over: published by one request, and its answer told. It excludes no link, so it comes
//! back to this bridge as every server's event does.

use std::sync::Arc;
use std::time::Duration;

use super::api::{Api, Outcome, judge};
use super::delivery::Sent;
use super::metrics::RetryCause;
use crate::exchange::ConnId;
use crate::template::escape_into;

/// Requests of which the first ones only show how the server wants them signed.
const ATTEMPTS_MAX: usize = 3;

impl Api {
    /// Publishes one event on all of `channels`, of which there is at least one, and more only of those that are not
    /// encrypted. It is not repeated when it fails: who asked is there to do that.
    pub async fn notify(
        &self,
        channels: &[String],
        event: &str,
        data: &str,
        socket_id: Option<&str>,
        timeout: Duration,
    ) -> Outcome {
        let mut outcome = self.notify_once(channels, event, data, socket_id, timeout).await;
        for _ in 1..ATTEMPTS_MAX {
            let Outcome::Retry { cause: RetryCause::Clock | RetryCause::Path, .. } = outcome else { break };
            outcome = self.notify_once(channels, event, data, socket_id, timeout).await;
        }
        outcome
    }

    async fn notify_once(
        &self,
        channels: &[String],
        event: &str,
        data: &str,
        socket_id: Option<&str>,
        timeout: Duration,
    ) -> Outcome {
        if let [channel] = channels {
            let sent = Sent {
                channel: Arc::from(channel.as_str()),
                event: event.to_owned(),
                data: data.to_owned(),
                origin: ConnId(0),
            };
            return self.trigger(&[Arc::new(sent)], |_| socket_id, timeout).await;
        }
        let answer = self.call("events", body(channels, event, data, socket_id), timeout).await;
        answer.map_or_else(|outcome| outcome, |response| judge(&response))
    }
}

/// The body of POST event for several channels.
fn body(channels: &[String], event: &str, data: &str, socket_id: Option<&str>) -> String {
    let mut body = String::from("{\"channels\":[");
    for (at, channel) in channels.iter().enumerate() {
        body.push_str(if at == 0 { "\"" } else { ",\"" });
        escape_into(&mut body, channel);
        body.push('"');
    }
    let members = [("name", Some(event)), ("data", Some(data)), ("socket_id", socket_id)];
    body.push(']');
    for (name, value) in members {
        let Some(value) = value else { continue };
        body.push_str(",\"");
        body.push_str(name);
        body.push_str("\":\"");
        escape_into(&mut body, value);
        body.push('"');
    }
    body.push('}');
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_names_all_its_channels() {
        let channels = ["a".to_owned(), "private-b".to_owned()];
        let value = |socket_id| -> serde_json::Value {
            serde_json::from_str(&body(&channels, "e\"", "{\"n\": 1.50}", socket_id)).unwrap()
        };
        let expected =
            serde_json::json!({"channels": ["a", "private-b"], "name": "e\"", "data": "{\"n\": 1.50}"});
        assert_eq!(value(None), expected);
        assert_eq!(value(Some("1.2"))["socket_id"], "1.2");
    }
}
