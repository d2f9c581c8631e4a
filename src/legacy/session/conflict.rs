//! Slots that are taken: holders are asked for a sign of life, and the newcomer waits for one to go.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::{OnConflict, SlotLimit};
use crate::legacy::conn::Notice;
use crate::limits::slots::{Acquire, Slots};
use crate::server::worker::{Holder, Key, Slot};

/// Beyond a probe's timeout, so long is waited for the dead one to be gone.
const PROBE_MARGIN: Duration = Duration::from_secs(2);

/// Takes one slot of `key`; `Err`: all are taken by connections that are alive.
pub(super) async fn take(
    slots: &Slots<Key<String>, Holder>,
    key: Option<&Key<String>>,
    limit: Option<SlotLimit>,
    holder: &Holder,
) -> Result<Option<Slot<Key<String>>>, ()> {
    let (Some(key), Some(limit)) = (key, limit) else { return Ok(None) };
    let deadline = Instant::now() + limit.probe_timeout + PROBE_MARGIN;
    let answers = Arc::new(Semaphore::new(0));
    let mut asked = None;
    loop {
        match slots.acquire(key, limit.max, holder.clone()) {
            Acquire::Granted(slot) => return Ok(Some(slot)),
            Acquire::Full { holders, waiter } => {
                match limit.on_conflict {
                    OnConflict::Refuse => return Err(()),
                    OnConflict::Probe if asked.is_none() => {
                        asked = Some(probe_all(&holders, limit.probe_timeout, Some(&answers)));
                    }
                    OnConflict::Replace => {
                        if let Some(oldest) = holders.iter().find_map(|holder| holder.get()) {
                            oldest.notify(Notice::Replaced);
                        }
                    }
                    OnConflict::Probe => {}
                }
                let waiter = waiter.ok_or(())?;
                // When every holder has shown that it lives, there is nothing to wait for.
                let all_alive = asked.filter(|asked| *asked >= limit.max).unwrap_or(u32::MAX as usize);
                tokio::select! {
                    freed = tokio::time::timeout_at(deadline, waiter) => freed.map_err(|_| ())?,
                    () = permits(&answers, all_alive) => return Err(()),
                }
            }
        }
    }
}

/// Waits until `count` permits are there.
async fn permits(answers: &Semaphore, count: usize) {
    match u32::try_from(count) {
        Ok(count) if count < u32::MAX => drop(answers.acquire_many(count).await),
        _ => std::future::pending().await,
    }
}

/// Asks every holder for a sign of life; gives how many could be asked.
pub fn probe_all(holders: &[Holder], within: Duration, answers: Option<&Arc<Semaphore>>) -> usize {
    let conns = holders.iter().filter_map(|holder| holder.get());
    conns.filter(|conn| conn.notify(Notice::Probe { within, answers: answers.cloned() })).count()
}
