//! `presence`, `user_info` and `watchlist`: as whom a route's clients are subscribed.

use std::sync::Arc;

use super::member;
use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::At;
use crate::exchange::Member;
use crate::pusher::channel::{ChannelKind, USER_CHANNEL};
use crate::routes::channel::begins;
use crate::routes::membership::Membership;
use crate::routes::route::Listed;
use crate::template::{Allow, ClaimsText, Text};

/// The channel of what backends send to a user. It is the one that begins with `#`.
pub(super) fn user_channel(
    problems: &mut Problems<'_>,
    raw: &At<String>,
    authenticated: bool,
) -> Option<Text> {
    let long = format!("{USER_CHANNEL}-{{auth.user}}");
    if *raw.get() != USER_CHANNEL && *raw.get() != long {
        problems.with_help(
            raw.span(),
            "`#` begins one channel only, that of what backends send to the client's user",
            format!("channel = \"{USER_CHANNEL}\""),
        );
        return None;
    }
    if !authenticated {
        problems.at(
            raw.span(),
            "what is sent to a user needs a route with `auth.required = true`: nobody has a name",
        );
        return None;
    }
    Text::parse(&long, &[], Allow { user: true, ..Allow::default() }).ok()
}

pub(super) fn membership(
    problems: &mut Problems<'_>,
    raw: &raw::Route,
    (channel, listed): (&Text, &[Listed]),
    authenticated: bool,
    observer: &Arc<Member>,
) -> Option<Membership> {
    let is_users = channel.literal_prefix().starts_with(USER_CHANNEL);
    let has_members = has_members(channel, listed);
    let place = raw.channel.as_ref().map(At::span).unwrap_or_default();
    let info = raw
        .user_info
        .as_ref()
        .and_then(|at| ClaimsText::parse(at.get()).map_err(|error| problems.template(at, error)).ok());
    let watchlist = member(problems, raw.watchlist.as_ref()).map(|claim| claim.get().clone());
    let presence = raw.presence.as_ref().map(|at| (at.span(), *at.get()));
    if let Some((span, _)) = presence.clone().filter(|_| !has_members) {
        problems.at(span, "only a `presence-` channel has members");
    }
    if let Some(at) = raw.watchlist.as_ref().filter(|_| !is_users) {
        problems.at(
            at.span(),
            "only who is signed in watches others: on the channel of what backends send to a user",
        );
    }
    let each_user = presence.as_ref().is_some_and(|(_, presence)| *presence == raw::Presence::EachUser);
    if let Some(at) = raw.user_info.as_ref().filter(|_| !is_users && !each_user) {
        problems.at(
            at.span(),
            "nothing is told of users here: it goes with `presence = \"each_user\"`, and with what backends send to a user",
        );
    }
    if is_users {
        publishes_nowhere(problems, raw);
        return Some(Membership::SignedIn { info, watchlist });
    }
    if !has_members {
        return None;
    }
    match presence {
        None => {
            problems.with_help(
                place,
                "`presence` is missing: it says who the members of this channel are",
                "\"each_user\": every user is one, by a connection to Pusher of his own; \"observe\": this bridge is \
                 one, and its clients are none",
            );
            None
        }
        Some((span, raw::Presence::EachUser)) if !authenticated => {
            problems.with_help(
                span,
                "`each_user` needs a route with `auth.required = true`: nobody has a name",
                "presence = \"observe\" needs no names",
            );
            None
        }
        Some((_, raw::Presence::EachUser)) => Some(Membership::EachUser { info }),
        Some((_, raw::Presence::Observe)) => Some(Membership::Observe(observer.clone())),
    }
}

/// Whether any of the route's channels is a presence channel.
fn has_members(channel: &Text, listed: &[Listed]) -> bool {
    begins(channel, listed).iter().any(|(begin, _)| ChannelKind::of(begin) == ChannelKind::Presence)
}

/// What a client writes would come back to its own user alone.
fn publishes_nowhere(problems: &mut Problems<'_>, raw: &raw::Route) {
    for rule in raw.publish.iter().flatten() {
        let (span, rule) = (rule.span(), rule.get());
        let dropped = rule.via.as_ref().is_some_and(|via| *via.get() == raw::Via::Drop);
        if rule.post.is_none() && rule.channel.is_none() && !dropped {
            problems.with_help(
                rule.types.iter().flatten().next().map_or(span, At::span),
                "only backends send to a user by this channel",
                "`post` it to a backend, or name the `channel` that it is for",
            );
        }
    }
}
