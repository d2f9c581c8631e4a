//! A request's body, within its limits: its own bytes, all bodies' bytes together, and time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body as HttpBody;
use hyper::header::{CONTENT_LENGTH, HeaderMap};
use tokio::time::timeout;

use super::reply::{EndpointResult, Reply};
use crate::http::BoxError;

/// What is read here.
pub trait Body: HttpBody<Data = Bytes, Error: Into<BoxError>> + Unpin {}

impl<B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for B {}

/// Bytes that all bodies may take together.
#[derive(Debug)]
pub struct Bodies {
    bytes_max: usize,
    taken: AtomicUsize,
}

/// A body, and its share of them.
pub struct Held {
    pub bytes: Bytes,
    _share: Share,
}

struct Share {
    bodies: Arc<Bodies>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.bodies.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Bodies {
    #[must_use]
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, taken: AtomicUsize::new(0) })
    }

    fn take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let taken = self.taken.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let share = Share { bodies: self.clone(), bytes };
        (taken <= self.bytes_max).then_some(share)
    }
}

/// Reads a body of at most `bytes_max` bytes.
///
/// # Errors
/// The answer that says why not.
pub async fn read<B: Body>(
    headers: &HeaderMap,
    body: &mut B,
    bytes_max: usize,
    within: Duration,
    bodies: &Arc<Bodies>,
) -> Result<Held, Reply> {
    let too_large =
        || Reply::because(EndpointResult::TooLarge, format!("the body has more than {bytes_max} bytes"));
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > bytes_max) {
        return Err(too_large());
    }
    let share = bodies.take(length.unwrap_or(bytes_max)).ok_or_else(|| {
        Reply::because(EndpointResult::Unavailable, "too many bodies at once").after(Duration::from_secs(1))
    })?;
    match timeout(within, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(collected)) => Ok(Held { bytes: collected.to_bytes(), _share: share }),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Reply::because(EndpointResult::Malformed, "the body did not come to its end")),
        Err(_) => Err(EndpointResult::Timeout.into()),
    }
}
