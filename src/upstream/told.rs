//! What senders of client events learn from the link that carries these: see [`super::link::client_events`].

use std::fmt;
use std::sync::Arc;

use super::link::client_events::{Fate, Receipt, Tries};
use super::metrics::{PublishMetrics, PublishResult, RetryCause};
use super::publisher::note_untold;
use super::runner::Job;
use crate::legacy::error::ErrorCode;
use crate::text::loggable;

/// A client event's sender.
pub(super) struct Told {
    pub(super) job: Job,
    pub(super) metrics: Arc<PublishMetrics>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").finish_non_exhaustive()
    }
}

impl Receipt for Told {
    fn settle(self: Box<Self>, fate: Fate, tries: Tries) {
        let Self { job, metrics } = *self;
        metrics.repeated.increment(tries.repeated);
        metrics.retries.get(RetryCause::RateLimited).increment(tries.rate_limited);
        let (result, code) = match fate {
            Fate::Accepted => return metrics.published(PublishResult::Ok),
            Fate::Refused(why) => {
                tracing::warn!(why = loggable(&why), "a client event was refused");
                (PublishResult::Rejected, ErrorCode::UpstreamRefused)
            }
            Fate::Expired { maybe_accepted: true } => {
                (PublishResult::Unknown, ErrorCode::UpstreamUnavailable)
            }
            Fate::Expired { maybe_accepted: false } => {
                (PublishResult::Expired, ErrorCode::UpstreamUnavailable)
            }
        };
        metrics.published(result);
        if !job.tell(code) {
            note_untold(1, code);
        }
    }
}
