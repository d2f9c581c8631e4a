//! Clients' events that old clients could take for the server's frames.

use super::sharing::{Channels, Valid};
use crate::config::problems::Problems;
use crate::legacy::lookalike;
use crate::routes::route::{PublishAction, PublishRule};

/// Rejects rules whose events could pass for the server's frames on any route that shares a channel: where only the
/// event's data tells the dialect's event frame from another.
///
/// Expects the routes of a file without other errors.
pub(super) fn check(problems: &mut Problems<'_>, routes: &[Valid<'_>]) {
    for (input, route) in routes {
        let rules = input.route.publish.iter().flatten().zip(&route.publish);
        for (raw, rule) in rules {
            let PublishRule { action: PublishAction::Trigger { data, elsewhere, .. }, .. } = rule else {
                continue;
            };
            let channel = elsewhere.as_ref().map_or(&route.channel, |elsewhere| &elsewhere.channel);
            let found = routes.iter().find_map(|(_, other)| {
                let frames = lookalike::of(&other.dialect, data.as_ref());
                let shared = || {
                    (other.name == route.name && elsewhere.is_none())
                        || Channels::by(route, channel).overlap(&Channels::of(other)).is_some()
                };
                (!frames.is_empty() && shared()).then_some((&other.dialect.name, frames))
            });
            let Some((dialect, frames)) = found else { continue };
            problems.with_help(
                raw.span(),
                format!(
                    "old clients could take this rule's events for the server's `{}`: in the dialect `{dialect}` \
                     nothing tells them apart but what clients write",
                    frames.join("`, `"),
                ),
                "put {event}, or a text that those frames have not, into `out.event`; names with other placeholders \
                 beside {event}, or in its place, tell nothing apart",
            );
        }
    }
}
