//! Names that no client's event may have, for each route.

use super::RouteInput;
use crate::routes::route::{PublishAction, Route};
use crate::template::Text;

/// Clients' events may reach other routes with the same channel, so names are reserved in all their dialects.
pub(super) fn reserve(routes: &mut [(&RouteInput, Route)]) {
    for at in 0..routes.len() {
        let Some((_, route)) = routes.get(at) else { continue };
        let reserved = names(routes, &route.channel);
        let elsewhere = route.publish.iter().map(|rule| match &rule.action {
            PublishAction::Trigger { elsewhere: Some(elsewhere), .. } => names(routes, &elsewhere.channel),
            _ => Vec::new(),
        });
        let elsewhere: Vec<Vec<String>> = elsewhere.collect();
        let Some((_, route)) = routes.get_mut(at) else { continue };
        route.reserved = reserved;
        for (rule, names) in route.publish.iter_mut().zip(elsewhere) {
            if let PublishAction::Trigger { elsewhere: Some(elsewhere), .. } = &mut rule.action {
                elsewhere.reserved = names;
            }
        }
    }
}

/// Those of the dialects of all routes that may have `channel`.
fn names(routes: &[(&RouteInput, Route)], channel: &Text) -> Vec<String> {
    let shared = routes.iter().filter(|(_, other)| channel.could_equal(&other.channel));
    let mut names: Vec<String> =
        shared.flat_map(|(_, other)| other.dialect.reserved.iter().cloned()).collect();
    names.sort();
    names.dedup();
    names
}
