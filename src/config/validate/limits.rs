//! A route's `limits`

use std::time::Duration;

use super::route::Context;
use super::values::Place;
use super::{POSITIVE, rate, rate_or_none, required, template};
use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::{At, Either, Number};
use crate::limits::rate::Rate;
use crate::limits::slots::{OnConflict, Scope, SlotLimit};
use crate::routes::route::{Exclusive, Limits};
use crate::template::Allow;

const MINUTE: Duration = Duration::from_secs(60);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// The old server's limits.
const MESSAGES: Rate = Rate { count: 100, per: MINUTE, burst: 100 };
/// The old server's limits.
const AUTH_ATTEMPTS: Rate = Rate { count: 5, per: MINUTE, burst: 5 };
const CONTROL_FRAMES: Rate = Rate { count: 600, per: MINUTE, burst: 600 };
const MESSAGE_BYTES: usize = 64 * 1024;
const DEPTH: usize = 64;
const SUBSCRIPTIONS: usize = 100;
const OUTBOX_FRAMES: usize = 1024;
const OUTBOX_BYTES: usize = 1 << 20;
/// The smallest `auth` message that can have a token.
const AUTH_MESSAGE_BYTES_LEAST: i64 = 256;
/// A message is an object, and its data may be one.
const AUTH_DEPTH_LEAST: i64 = 2;
const SLOTS_MAX: i64 = 1_000_000;

pub(super) fn limits(
    problems: &mut Problems<'_>,
    raw: Option<&raw::Limits>,
    context: &Context<'_>,
    scope: Scope,
    event_bytes_max: usize,
) -> Limits {
    let nothing = raw::Limits::default();
    let raw = raw.unwrap_or(&nothing);
    let per_address = raw.connections_per_address.as_ref().filter(|at| !at.get().is_unset());
    let control = raw.control_frames.as_ref();
    // A client that is reading the largest event is not slow.
    let outbox_bytes = OUTBOX_BYTES.max(event_bytes_max.saturating_mul(2));
    // A client that can send no token can do nothing.
    let (bytes_least, depth_least) =
        if context.authenticated { (AUTH_MESSAGE_BYTES_LEAST, AUTH_DEPTH_LEAST) } else { (1, 1) };
    Limits {
        connections_per_user: raw.connections_per_user.as_ref().and_then(|at| match at.get() {
            Either::Short(number) if number.is_unset() => None,
            Either::Short(number) => {
                let max = problems.number(Some(&at.with(number.clone())), 1..=SLOTS_MAX, 1);
                Some(SlotLimit { max, on_conflict: OnConflict::Probe, probe_timeout: PROBE_TIMEOUT })
            }
            Either::Long(table) => {
                if table.max.is_none() {
                    problems.at(at.span(), "`max` is missing");
                }
                let (on_conflict, timeout) = (table.on_conflict.as_ref(), table.probe_timeout.as_ref());
                Some(slots(problems, table.max.as_ref(), on_conflict, timeout))
            }
        }),
        connections_per_address: per_address.map(|n| problems.number(Some(n), 1..=SLOTS_MAX, 1)),
        exclusive: raw.exclusive.as_ref().and_then(|table| exclusive(problems, table, context)),
        scope,
        messages: rate_or_none(problems, raw.messages.as_ref(), MESSAGES),
        messages_per_user: raw
            .messages_per_user
            .as_ref()
            .and_then(|raw| rate_or_none(problems, Some(raw), MESSAGES)),
        auth_attempts: rate_or_none(problems, raw.auth_attempts.as_ref(), AUTH_ATTEMPTS),
        control_frames: control.map_or(CONTROL_FRAMES, |raw| rate(problems, raw, CONTROL_FRAMES)),
        message_bytes_max: problems.number(raw.message_bytes.as_ref(), bytes_least..=64 << 20, MESSAGE_BYTES),
        depth_max: problems.number(raw.depth.as_ref(), depth_least..=127, DEPTH),
        subscriptions_max: problems.number(raw.subscriptions.as_ref(), 1..=10_000, SUBSCRIPTIONS),
        outbox_frames_max: problems.number(raw.outbox_frames.as_ref(), 1..=1_000_000, OUTBOX_FRAMES),
        outbox_bytes_max: problems.number(raw.outbox_bytes.as_ref(), 16_384..=1 << 30, outbox_bytes),
    }
}

fn slots(
    problems: &mut Problems<'_>,
    max: Option<&At<Number>>,
    on_conflict: Option<&At<raw::OnConflict>>,
    probe_timeout: Option<&At<String>>,
) -> SlotLimit {
    SlotLimit {
        max: problems.number(max, 1..=SLOTS_MAX, 1),
        on_conflict: match on_conflict.map(At::get) {
            None | Some(raw::OnConflict::Probe) => OnConflict::Probe,
            Some(raw::OnConflict::Refuse) => OnConflict::Refuse,
            Some(raw::OnConflict::Replace) => OnConflict::Replace,
        },
        probe_timeout: problems.duration(probe_timeout, POSITIVE, PROBE_TIMEOUT),
    }
}

fn exclusive(problems: &mut Problems<'_>, raw: &raw::Exclusive, context: &Context<'_>) -> Option<Exclusive> {
    let place = raw.max.as_ref().map(At::span).or(raw.on_conflict.as_ref().map(At::span));
    let key = required(problems, raw.key.as_ref(), place.unwrap_or(0..0), "key")?;
    let allow = Allow { user: true, ..Allow::default() };
    let text = template(problems, key, context.path_names, allow, context.authenticated)?;
    if !context.authenticated {
        problems.with_help(
            key.span(),
            "`exclusive` has no meaning without `auth.required = true`: its slots are taken with the token",
            "an unknown client could keep anybody out; for addresses there is `connections_per_address`",
        );
        return None;
    }
    context.placeholders.check(problems, key, &text, None, Place::Plain);
    Some(Exclusive {
        key: text,
        slots: slots(problems, raw.max.as_ref(), raw.on_conflict.as_ref(), raw.probe_timeout.as_ref()),
    })
}
