//! How long no link to Pusher has been connected.

use std::time::{Duration, Instant};

/// Without any link for so long the bridge is unready: elsewhere newcomers may fare better.
pub(super) const ALL_LOST_MAX: Duration = Duration::from_secs(30);

/// Since when it lasts, as far as anybody looked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outage(Option<Instant>);

impl Outage {
    /// Whether it has lasted for [`ALL_LOST_MAX`]. `all_lost`: no link is connected, though all were once.
    pub(super) fn is_long(&mut self, all_lost: bool, now: Instant) -> bool {
        self.0 = all_lost.then(|| self.0.unwrap_or(now));
        self.0.is_some_and(|since| now.saturating_duration_since(since) >= ALL_LOST_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::now;

    #[test]
    fn only_an_outage_of_all_links_without_a_break_is_long() {
        let (mut outage, begin) = (Outage::default(), now().mono);
        let at = |second: u64| begin + Duration::from_secs(second);
        for (second, all_lost, is_long) in [
            (0, false, false),
            (100, true, false),
            (129, true, false),
            // One came back for a moment.
            (129, false, false),
            (130, true, false),
            (159, true, false),
            (160, true, true),
            (1000, true, true),
            (1001, false, false),
            (1002, true, false),
        ] {
            assert_eq!(outage.is_long(all_lost, at(second)), is_long, "{second}");
        }
    }
}
