//! Client events that cannot leave as fast as the file lets them come.

use super::sharing::Valid;
use crate::config::problems::Problems;
use crate::limits::rate::Rate;
use crate::routes::membership::Membership;
use crate::routes::route::{PublishAction, Route, Way};
use crate::upstream::link::client_events::PER_SECOND_MAX;

/// What bounds how many clients there are.
#[derive(Clone, Copy)]
pub(super) struct Caps {
    /// `server.limits.connections`
    pub(super) connections: usize,
    /// `upstream.connections`
    pub(super) links: usize,
}

/// Warns of each rule that lets clients send more client events than Pusher takes of the connection that they leave by.
pub(super) fn check(problems: &mut Problems<'_>, routes: &[Valid<'_>], caps: Caps) {
    for (input, route) in routes {
        let rules = input.route.publish.iter().flatten().zip(&route.publish);
        for (raw, rule) in rules {
            let PublishAction::Trigger { way: Way::ClientEvent, .. } = &rule.action else { continue };
            let Some(via) = &raw.get().via else { continue };
            if let Some(why) = too_fast(route, caps) {
                problems.warn(
                    via.span(),
                    why,
                    "what comes faster waits in order, and is told as QUEUE_FULL or UPSTREAM_UNAVAILABLE when it waits too \
                     long: lower `limits.messages`, or let it leave by the API",
                );
            }
        }
    }
}

fn too_fast(route: &Route, caps: Caps) -> Option<String> {
    let limits = &route.limits;
    let of_member = matches!(route.membership, Some(Membership::EachUser { .. }));
    // A member's link carries one user's connections, a shared one those of all its channels.
    let (whose, clients) = if of_member {
        let of_user = limits.connections_per_user.as_ref().map_or(caps.connections, |slots| slots.max);
        ("one user", of_user)
    } else if route.membership.is_some() || route.channel.vars().next().is_none() {
        ("one link", caps.connections)
    } else {
        ("one link", caps.connections.div_ceil(caps.links.max(1)))
    };
    let takes = format!("Pusher takes {PER_SECOND_MAX} client events a second of one connection");
    let Some(each) = limits.messages else {
        return Some(format!(
            "{takes}, and `limits.messages` lets each client of this route send any number"
        ));
    };
    let mut all = per_second(each) * clients as f64;
    if let (true, Some(of_user)) = (of_member, limits.messages_per_user) {
        all = all.min(per_second(of_user));
    }
    let full = (PER_SECOND_MAX as f64 / per_second(each)).floor();
    (all > PER_SECOND_MAX as f64).then(|| {
        format!(
            "{takes}: {full} clients that send all that `limits.messages` lets them fill that, and {whose} may have \
             {clients}"
        )
    })
}

fn per_second(rate: Rate) -> f64 {
    rate.count as f64 / rate.per.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use crate::config::{self, diagnostics::Source};

    fn warnings(limits: &str) -> Vec<String> {
        let text = format!(
            "{}\n[server.limits]\nconnections = 40\n\n[[routes]]\nname = \"r\"\ndialect = \"typed\"\n\
             path = \"/r/{{id}}\"\nchannel = \"private-r-{{id}}\"\nauth.required = true\n{limits}\n\
             [[routes.publish]]\ntypes = [\"*\"]\nvia = \"client_event\"\n",
            include_str!("../../../routes.toml"),
        );
        let source = Source { name: "routes.toml".into(), text };
        let loaded = config::load(&source, &|_| None).unwrap_or_else(|errors| panic!("{}", errors[0]));
        let about = loaded.warnings.into_iter().map(|warning| warning.message);
        // The shipped room has one of its own, with the limits of its group.
        about.filter(|message| message.contains("client events") && !message.contains("one user")).collect()
    }

    #[test]
    fn a_rate_that_cannot_fit_is_warned_of() {
        let found = warnings("");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(": 6 clients") && found[0].ends_with("one link may have 40"), "{found:?}");
        assert!(warnings("limits.messages = \"unlimited\"")[0].contains("any number"));
        assert!(
            warnings("limits.messages = { count = 15, per = \"1m\" }").is_empty(),
            "40 of them fit exactly"
        );
        assert_eq!(warnings("limits.messages = { count = 16, per = \"1m\" }").len(), 1);
    }
}
