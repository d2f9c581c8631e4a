//! Waiting for what the metrics show.

use std::time::Duration;

use super::{Bridge, patiently};

/// Between two looks at the metrics.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

impl Bridge {
    /// Waits until the series has the value.
    pub async fn becomes(&self, series: &str, value: f64) {
        patiently(&format!("{series} {value}"), self.sees(|| self.metric(series) == value)).await;
    }

    /// Waits until the series has reached the value.
    pub async fn at_least(&self, series: &str, value: f64) {
        patiently(&format!("{series} of {value}"), self.sees(|| self.metric(series) >= value)).await;
    }

    /// Waits until no client is connected, whatever it was at.
    pub async fn until_empty(&self) {
        patiently("every connection to be over", self.sees(|| self.connections() == 0.0)).await;
    }

    /// Metrics tell nobody of a change, so they are looked at again and again, not so often as to take the
    /// processor from what is waited for.
    pub async fn sees(&self, holds: impl Fn() -> bool) {
        while !holds() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Connections now, of all routes and phases.
    pub fn connections(&self) -> f64 {
        let text = self.running.metrics.render();
        let series = text.lines().filter(|line| line.starts_with("pusher_bridge_connections{"));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Connections of the route that are in service.
    pub fn connections_live(&self, route: &str) -> f64 {
        self.metric(&format!(r#"pusher_bridge_connections{{route="{route}",phase="live"}}"#))
    }

    /// How many connections of the route were closed for this reason.
    pub fn closes(&self, route: &str, reason: &str) -> f64 {
        self.metric(&format!(r#"pusher_bridge_closes_total{{route="{route}",reason="{reason}"}}"#))
    }

    /// Waits until `count` connections of the route were closed for this reason.
    pub async fn until_closed(&self, route: &str, reason: &str, count: u32) {
        let series = format!(r#"pusher_bridge_closes_total{{route="{route}",reason="{reason}"}}"#);
        self.becomes(&series, count.into()).await;
    }
}
