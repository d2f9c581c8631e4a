//! Slots that are all held: holders are probed for a sign of life, and the newcomer waits for one to go.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::slots::{Holder, Key, Slot};
use crate::auth::Identity;
use crate::limits::slots::{Acquire, HOLDERS_SHOWN_MAX, OnConflict, SlotLimit, Slots};
use crate::websocket::conn::Notice;

/// How long beyond a probe's timeout a dead holder may take to be gone.
const PROBE_MARGIN: Duration = Duration::from_secs(2);
/// When some holders could not be probed, not being upgraded yet or just leaving, all are probed again after this.
const PROBE_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long a connection that keeps others of its address out has to answer a probe.
const ADDRESS_PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Who was heard within this is not pinged for such a probe: whoever tries and tries for a slot of its address must not
/// have all its neighbours pinged each time.
const ADDRESS_PROBE_EVERY: Duration = Duration::from_secs(1);

/// Acquires one of the `max` slots of an address. After an outage the holders may be dead, and the newcomers the same
/// clients again: they wait until that is known. `Err`: all are held by connections that are alive.
pub async fn acquire_address(
    slots: &Slots<Key<IpAddr>, Holder>,
    key: &Key<IpAddr>,
    max: usize,
    holder: &Holder,
) -> Result<Slot<Key<IpAddr>>, ()> {
    if let Acquire::Granted(slot) = slots.acquire(key, max, holder.clone()) {
        return Ok(slot);
    }
    let limit = SlotLimit { max, on_conflict: OnConflict::Probe, probe_timeout: ADDRESS_PROBE_TIMEOUT };
    // Seldom needed, so it is not part of every request's future.
    Box::pin(wait_for_one(slots, key, limit, ADDRESS_PROBE_EVERY, holder)).await
}

/// Acquires one slot of `key`; `Err`: all are held by connections that are alive.
pub(super) async fn acquire(
    slots: &Slots<Key<Identity>, Holder>,
    key: Option<&Key<Identity>>,
    limit: Option<SlotLimit>,
    holder: &Holder,
) -> Result<Option<Slot<Key<Identity>>>, ()> {
    let (Some(key), Some(limit)) = (key, limit) else { return Ok(None) };
    wait_for_one(slots, key, limit, Duration::ZERO, holder).await.map(Some)
}

/// `heard_within`: a sign of life this recent needs no probe.
async fn wait_for_one<K: Eq + Hash + Clone>(
    slots: &Slots<K, Holder>,
    key: &K,
    limit: SlotLimit,
    heard_within: Duration,
    holder: &Holder,
) -> Result<Slot<K>, ()> {
    let deadline = Instant::now() + limit.probe_timeout + PROBE_MARGIN;
    let mut answers = Arc::new(Semaphore::new(0));
    let mut probes = None;
    loop {
        match slots.acquire(key, limit.max, holder.clone()) {
            Acquire::Granted(slot) => return Ok(slot),
            Acquire::Full { holders, waiter } => {
                match limit.on_conflict {
                    OnConflict::Refuse => return Err(()),
                    OnConflict::Probe if probes.is_none() => {
                        probes = Some(probe_all(&holders, limit.probe_timeout, heard_within, &answers));
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
                let all_alive = probes.filter(|probes| *probes >= limit.max).unwrap_or(u32::MAX as usize);
                let some_unreached = probes.is_some_and(|probes| probes < limit.max.min(HOLDERS_SHOWN_MAX));
                tokio::select! {
                    freed = tokio::time::timeout_at(deadline, waiter) => freed.map_err(|_| ())?,
                    () = permits(&answers, all_alive) => return Err(()),
                    () = tokio::time::sleep(PROBE_AGAIN_AFTER), if some_unreached => {
                        (answers, probes) = (Arc::new(Semaphore::new(0)), None);
                    }
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

/// Asks every holder for a sign of life; gives how many could be reached.
fn probe_all(
    holders: &[Holder],
    within: Duration,
    heard_within: Duration,
    answers: &Arc<Semaphore>,
) -> usize {
    let conns = holders.iter().filter_map(|holder| holder.get());
    conns.filter(|conn| conn.notify(Notice::Probe { within, heard_within, answers: answers.clone() })).count()
}
