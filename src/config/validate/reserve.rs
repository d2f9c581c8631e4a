//! Names that no client's event may have, for each route.

use super::RouteInput;
use crate::routes::route::Route;

/// Clients' events may reach other routes with the same channel, so names are reserved in all their dialects.
pub(super) fn reserve(routes: &mut [(&RouteInput, Route)]) {
    for at in 0..routes.len() {
        let Some((_, route)) = routes.get(at) else { continue };
        let shared = routes.iter().filter(|(_, other)| route.channel.could_equal(&other.channel));
        let mut names: Vec<String> =
            shared.flat_map(|(_, other)| other.dialect.reserved.iter().cloned()).collect();
        names.sort();
        names.dedup();
        if let Some((_, route)) = routes.get_mut(at) {
            route.reserved = names;
        }
    }
}
