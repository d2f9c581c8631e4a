//! Tasks that end by themselves once they have nothing left to do.

use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

#[derive(Debug, Default)]
pub(super) struct Tasks {
    pub(super) running: JoinSet<()>,
    /// Some that were joined had ended by a defect.
    failed: bool,
}

impl Tasks {
    /// Joins those that have ended: until then a set keeps them.
    pub(super) fn join_ended(&mut self) {
        while let Some(ended) = self.running.try_join_next() {
            self.note(&ended);
        }
    }

    /// Whether all ended in time, and none, ever, by a defect.
    pub(super) async fn all_done(&mut self, end: Instant) -> bool {
        let done = async {
            while let Some(ended) = self.running.join_next().await {
                self.note(&ended);
            }
        };
        timeout_at(end, done).await.is_ok() && !self.failed
    }

    fn note(&mut self, ended: &Result<(), JoinError>) {
        self.failed |= ended.is_err();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_has_ended_is_joined_and_a_defect_is_not_forgotten() {
        let mut tasks = Tasks::default();
        tasks.running.spawn(async {});
        tasks.running.spawn(std::future::pending());
        tokio::task::yield_now().await;
        tasks.join_ended();
        assert_eq!(tasks.running.len(), 1);
        tasks.running.abort_all();
        tokio::task::yield_now().await;
        tasks.join_ended();
        assert_eq!(tasks.running.len(), 0);
        assert!(!tasks.all_done(Instant::now()).await, "one did not end by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_done_when_the_last_is_if_that_is_in_time() {
        for (ends, well) in [(1, true), (3, false)] {
            let mut tasks = Tasks::default();
            tasks.running.spawn(async {});
            tasks.running.spawn(tokio::time::sleep(Duration::from_secs(ends)));
            assert_eq!(tasks.all_done(Instant::now() + Duration::from_secs(2)).await, well);
        }
    }
}
