//! `[fallback]`

use super::{Lines, duration};
use crate::proxy::settings::{Limits, Rule, Settings};

pub(super) fn fallback(out: &mut Lines, settings: &Settings) {
    let Settings {
        to,
        rules,
        connect_timeout,
        answer_timeout,
        idle_timeout,
        body_timeout,
        keep_alive,
        tunnel_timeout,
        limits,
    } = settings;
    let Limits {
        requests_max,
        requests_per_address,
        tunnels_max,
        tunnels_per_address,
        body_bytes_max,
        idle_connections_max,
    } = limits;
    let place = |to: &Option<_>| match to {
        Some(to) => format!("{to:?}"),
        None => "nowhere: 404".to_owned(),
    };
    out.fact("fallback", format!("what no route takes goes to {}", place(to)));
    for Rule { path, to } in rules {
        out.more(format!("{path} goes to {}", place(to)));
    }
    out.more(format!(
        "a connection within {}, an answer begun within {}, no pause over {}, a request's body within {}; connections \
         kept for {}, upgraded ones silent for {} at most",
        duration(*connect_timeout),
        duration(*answer_timeout),
        duration(*idle_timeout),
        duration(*body_timeout),
        duration(*keep_alive),
        duration(*tunnel_timeout),
    ));
    let body = body_bytes_max.map_or_else(|| "of any size".to_owned(), |bytes| format!("of {bytes} bytes"));
    out.more(format!(
        "{requests_max} requests at once, {requests_per_address} per address; {tunnels_max} upgraded connections, \
         {tunnels_per_address} per address; bodies {body}; {idle_connections_max} idle connections per worker",
    ));
}
