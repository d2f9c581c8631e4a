//! `[upstream]`

use std::time::Duration;

use secrecy::SecretString;

use super::{POSITIVE, required};
use crate::config::host::check_host;
use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::At;
use crate::config::{App, Publish, Upstream};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pusher docs, "Ping and pong messages".
const PONG_TIMEOUT: Duration = Duration::from_secs(30);
const LINGER: Duration = Duration::from_secs(1);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(30);
const FRAME_BYTES: usize = 256 * 1024;
const LANES: usize = 4;
const QUEUE_MESSAGES: usize = 1_000;
const QUEUE_BYTES: usize = 4 << 20;
/// Pusher's own limit (Pusher docs, "HTTP API": batch events).
const BATCH: usize = 10;
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest id or key of an app: Pusher's have 20 characters, those of others may be UUIDs.
const IDENTIFIER_BYTES_MAX: usize = 256;
const PUBLISH_DEADLINE: Duration = Duration::from_secs(30);

pub(super) fn upstream(problems: &mut Problems<'_>, raw: Option<&At<raw::Upstream>>) -> Upstream {
    let nothing = raw::Upstream::default();
    if raw.is_none() {
        problems.with_help(
            0..0,
            "`[upstream]` is missing",
            "it names the Pusher app: app_id, key, secret, cluster",
        );
    }
    let app = raw.map(|raw| app(problems, raw));
    let raw = raw.map_or(&nothing, At::get);
    Upstream {
        app: app.unwrap_or_else(|| stand_in(false)),
        connections: problems.number(raw.connections.as_ref(), 1..=64, 1),
        connect_timeout: problems.duration(raw.connect_timeout.as_ref(), POSITIVE, CONNECT_TIMEOUT),
        subscribe_timeout: problems.duration(raw.subscribe_timeout.as_ref(), POSITIVE, SUBSCRIBE_TIMEOUT),
        pong_timeout: problems.duration(raw.pong_timeout.as_ref(), POSITIVE, PONG_TIMEOUT),
        linger: problems.duration(raw.linger.as_ref(), Duration::ZERO, LINGER),
        reconnect_delay_max: problems.duration(
            raw.reconnect_delay_max.as_ref(),
            POSITIVE,
            RECONNECT_DELAY_MAX,
        ),
        frame_bytes_max: problems.number(raw.frame_bytes.as_ref(), 16_384..=64 << 20, FRAME_BYTES),
        publish: publish(problems, raw.publish.as_ref()),
    }
}

fn publish(problems: &mut Problems<'_>, raw: Option<&raw::UpstreamPublish>) -> Publish {
    let nothing = raw::UpstreamPublish::default();
    let raw = raw.unwrap_or(&nothing);
    let timeout = problems.duration(raw.timeout.as_ref(), POSITIVE, PUBLISH_TIMEOUT);
    let deadline = problems.duration(raw.deadline.as_ref(), POSITIVE, PUBLISH_DEADLINE);
    if deadline < timeout
        && let Some(place) = raw.deadline.as_ref().or(raw.timeout.as_ref())
    {
        problems.at(place.span(), "`deadline` covers retries too and cannot be shorter than `timeout`");
    }
    Publish {
        lanes: problems.number(raw.lanes.as_ref(), 1..=256, LANES),
        queue_messages_max: problems.number(raw.queue_messages.as_ref(), 1..=1_000_000, QUEUE_MESSAGES),
        queue_bytes_max: problems.number(raw.queue_bytes.as_ref(), 16_384..=1 << 30, QUEUE_BYTES),
        batch_max: problems.number(raw.batch.as_ref(), 1..=10, BATCH),
        timeout,
        deadline,
    }
}

fn stand_in(tls: bool) -> App {
    App {
        id: String::new(),
        key: String::new(),
        secret: SecretString::from(String::new()),
        ws_host: String::new(),
        api_host: String::new(),
        port: None,
        tls,
        ca_file: None,
    }
}

fn app(problems: &mut Problems<'_>, at: &At<raw::Upstream>) -> App {
    let raw = at.get();
    let id = identifier(problems, raw.app_id.as_ref(), at, "app_id");
    let key = identifier(problems, raw.key.as_ref(), at, "key");
    let secret = match (&raw.secret, &raw.secret_file) {
        (Some(_), Some(file)) => {
            problems.at(file.span(), "`secret` and `secret_file` are both set: leave one out");
            None
        }
        (None, Some(file)) => problems.file(file),
        (secret, None) => required(problems, secret.as_ref(), at.span(), "secret").map(|s| s.get().clone()),
    };
    let (ws_host, api_host) = hosts(problems, at);
    let tls = problems.flag(raw.tls.as_ref(), true);
    let port = raw.port.as_ref().map(|_| problems.number(raw.port.as_ref(), 1..=65_535, 0_u16));
    App {
        id,
        key,
        secret: SecretString::from(secret.unwrap_or_default()),
        ws_host,
        api_host,
        port: port.filter(|port| *port != 0),
        tls,
        ca_file: raw.ca_file.as_ref().filter(|f| !f.get().is_empty()).map(|f| problems.resolve(f.get())),
    }
}

/// The id and the key stand in URLs.
fn identifier(
    problems: &mut Problems<'_>,
    raw: Option<&At<String>>,
    table: &At<raw::Upstream>,
    key: &str,
) -> String {
    let Some(raw) = required(problems, raw, table.span(), key) else { return String::new() };
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if !raw.get().bytes().all(legal) {
        problems
            .at(raw.span(), format!("`{key}` has a character other than letters, digits, `_`, `-` and `.`"));
    } else if matches!(raw.get().as_str(), "." | "..") {
        problems.at(raw.span(), format!("`{key}` stands in a URL's path, where `.` and `..` lead elsewhere"));
    } else if raw.get().len() > IDENTIFIER_BYTES_MAX {
        problems.at(
            raw.span(),
            format!("`{key}` has {} bytes of at most {IDENTIFIER_BYTES_MAX}", raw.get().len()),
        );
    }
    raw.get().clone()
}

fn hosts(problems: &mut Problems<'_>, at: &At<raw::Upstream>) -> (String, String) {
    let raw = at.get();
    let set = |host: &Option<At<String>>| host.clone().filter(|h| !h.get().is_empty());
    match (set(&raw.host), set(&raw.cluster)) {
        (Some(host), _) => {
            if let Err(why) = check_host(host.get()) {
                problems.with_help(
                    host.span(),
                    format!("`host` is a host's name or address alone: {why}"),
                    "no scheme, no path; the port is `port`",
                );
            }
            (host.get().clone(), host.get().clone())
        }
        (None, Some(cluster)) => {
            let (ws, api) =
                (format!("ws-{}.pusher.com", cluster.get()), format!("api-{}.pusher.com", cluster.get()));
            let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if !cluster.get().bytes().all(legal) || check_host(&ws).and(check_host(&api)).is_err() {
                problems
                    .at(cluster.span(), "a cluster's name is lower-case letters, digits and `-`: mt1, eu");
            }
            (ws, api)
        }
        (None, None) => {
            problems.at(at.span(), "`cluster` is missing (or `host`, for a self-hosted server)");
            (String::new(), String::new())
        }
    }
}
