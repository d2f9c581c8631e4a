//! `[endpoints]`

use super::{Lines, duration, one_line, rate};
use crate::endpoints::settings::{Limits, Notify, Settings};
use crate::routes::membership::Membership;

pub(super) fn endpoints(out: &mut Lines, settings: &Settings) {
    let Settings { channel_auth, user_auth, notify, webhooks, origins, signed_in, filtered, limits } =
        settings;
    let Limits {
        body_bytes_max,
        bodies_bytes_max,
        body_timeout,
        vacated_max_age,
        unproven_per_address,
        requests_per_user,
    } = limits;
    let mut facts: Vec<String> = Vec::new();
    if !channel_auth.is_empty() {
        facts.push(format!("channels authorized at {}", channel_auth.join(", ")));
    }
    if let Some(path) = user_auth {
        facts.push(format!("sign-ins authorized at {path}"));
    }
    if let Some(Notify { path, token }) = notify {
        let off = if token.is_none() { ": off, for it has no token" } else { "" };
        facts.push(format!("events of backends at {path}{off}"));
    }
    if let Some(path) = webhooks {
        facts.push(format!("webhooks of Pusher at {path}"));
    }
    if facts.is_empty() {
        return;
    }
    if let Membership::SignedIn { info, watchlist } = signed_in {
        if let Some(info) = info {
            facts.push(format!("of who signs in is told {}", one_line(info.source())));
        }
        if let Some(claim) = watchlist {
            facts.push(format!("who signs in watches those of the claim {claim}"));
        }
    }
    if !filtered.is_empty() {
        facts.push(format!("authorized without their filter: channels of {}", filtered.join(", ")));
    }
    if !origins.list().is_empty() {
        facts.push(format!("for pages of {}", origins.list().join(", ")));
    }
    facts.push(format!(
        "a body of {body_bytes_max} bytes within {}, {bodies_bytes_max} bytes of them at once; per user {}; of an address \
         without right tokens {}; vacated channels are believed to be for {}",
        duration(*body_timeout),
        rate(*requests_per_user),
        rate(*unproven_per_address),
        duration(*vacated_max_age),
    ));
    for (index, fact) in facts.iter().enumerate() {
        out.fact(if index == 0 { "endpoints" } else { "" }, fact);
    }
}
