//! Waiting for what the metrics show.

use super::{Bridge, patiently};

impl Bridge {
    /// Waits until the series has this value.
    pub async fn until(&self, series: &str, value: f64) {
        patiently(&format!("{series} to be {value}"), async {
            while self.metric(series) != value {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Waits until no client is connected, whatever it was at.
    pub async fn until_empty(&self) {
        patiently("every connection to be over", async {
            while self.connections() != 0.0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
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
        self.until(&series, count.into()).await;
    }
}
