//! `[upstream]`

use super::{Lines, duration, rate};
use crate::upstream::members::settings as members;
use crate::upstream::settings::{App, Publish, Settings, Times};

pub(super) fn upstream(out: &mut Lines, settings: &Settings) {
    let Settings {
        app,
        connections,
        standby,
        times:
            Times {
                connect_timeout,
                subscribe_timeout,
                pong_timeout,
                linger,
                check_interval,
                reconnect_delay_max,
            },
        event_bytes_max,
        frame_bytes_max,
        publish,
        members,
        proxies,
    } = settings;
    let App { id, key, secret: _, other_keys, encryption_master_key, ws, api, origin, ca_file, ca_text: _ } =
        app;
    let Publish { lanes, queue_messages_max, queue_bytes_max, batch_max, timeout, deadline } = publish;
    let origin = origin.as_ref().map(|origin| format!(" from {origin}")).unwrap_or_default();
    let standby =
        if *standby { format!(", each with a standby: {} in all", connections * 2) } else { String::new() };
    out.fact(
        "upstream",
        format!(
            "{}{origin}, app {id}, key {key}, {connections} connection(s){standby}; events of at most {event_bytes_max} bytes to \
             {}, {}",
            ws.base("ws", "wss"),
            api.base("http", "https"),
            if *batch_max == 1 { "one by one".to_owned() } else { format!("in batches of {batch_max}") },
        ),
    );
    for (what, there) in [("the WebSocket", ws), ("the HTTP API", api)] {
        let port = there.port.unwrap_or(if there.tls { 443 } else { 80 });
        if let Ok(Some(proxy)) = proxies.of_host(there.tls, &there.host, port) {
            out.more(format!("{what} by the proxy {proxy}"));
        }
    }
    if !other_keys.is_empty() {
        let keys: Vec<&str> = other_keys.iter().map(|other| other.key.as_str()).collect();
        out.more(format!("webhooks by other keys are taken, too: {}", keys.join(", ")));
    }
    if encryption_master_key.is_some() {
        out.more("encrypted channels have a master key");
    }
    if let Some(file) = ca_file {
        out.more(format!("the certificates in {} are trusted, too", file.display()));
    }
    let checks =
        check_interval.map_or_else(|| "never".to_owned(), |every| format!("every {}", duration(every)));
    out.more(format!(
        "connected within {}, subscribed within {}, pongs within {}; unused channels linger {}; checked {checks}; \
         reconnects at most {} apart; frames of at most {frame_bytes_max} bytes",
        duration(*connect_timeout),
        duration(*subscribe_timeout),
        duration(*pong_timeout),
        duration(*linger),
        duration(*reconnect_delay_max),
    ));
    let members::Settings { links_max, dials, observer: members::Observer { user_id, user_info } } = members;
    out.more(format!(
        "users on presence and user channels have connections of their own, {links_max} at most, dialled at {}; the \
         bridge itself is `{user_id}` {user_info}",
        rate(Some(*dials)),
    ));
    out.fact(
        "publishing",
        format!(
            "{lanes} lanes, in each {queue_messages_max} messages or {queue_bytes_max} bytes; a request within {}, a \
             message within {}",
            duration(*timeout),
            duration(*deadline),
        ),
    );
}
