//! `[upstream]`

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::{POSITIVE, rate, required};
use crate::config::problems::Problems;
use crate::config::raw;
use crate::config::scalars::{At, Number};
use crate::json;
use crate::limits::rate::Rate;
use crate::net::host::check_host;
use crate::pusher::channel::{DATA_BYTES_MAX, USER_ID_BYTES_MAX, USER_INFO_BYTES_MAX};
use crate::pusher::encryption::{KEY_BYTES, MasterKey};
use crate::upstream::members::settings as members;
use crate::upstream::settings::{App, Endpoint, OtherKey, Publish, Settings, Times};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pusher docs, "Ping and pong messages".
const PONG_TIMEOUT: Duration = Duration::from_secs(30);
const LINGER: Duration = Duration::from_secs(1);
const CHECK_INTERVAL: Duration = Duration::from_secs(5 * 60);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(30);
const FRAME_BYTES: usize = 256 * 1024;
const FRAME_BYTES_MAX: i64 = 64 << 20;
/// The hosted service's limit; dedicated clusters and other servers may take more.
const EVENT_BYTES: i64 = DATA_BYTES_MAX as i64;
/// The longest escape of a byte in JSON (RFC 8259 §7): `\u0000`.
const ESCAPED_BYTES_MAX: i64 = 6;
/// What a frame has beside its event's data: the channel's and the event's name, a user's id, all of it escaped, and
/// the members' names.
const ENVELOPE_BYTES_MAX: i64 = 4096;
const LANES: usize = 4;
const QUEUE_MESSAGES: usize = 1_000;
const QUEUE_BYTES: usize = 4 << 20;
/// Pusher's own limit (Pusher docs, "HTTP API": batch events).
const BATCH: usize = 10;
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest id or key of an app: Pusher's have 20 characters, those of others may be UUIDs.
const IDENTIFIER_BYTES_MAX: usize = 256;
/// As many connections as the hosted service's plan Startup has.
const MEMBERS: usize = 500;
const MEMBER_DIALS: Rate = Rate { count: 50, per: Duration::from_secs(1), burst: 50 };
/// Keys of an app beside the one that is used; the hosted service's apps have fewer.
const OTHER_KEYS_MAX: usize = 8;
const OBSERVER: &str = "pusher-bridge";
const PUBLISH_DEADLINE: Duration = Duration::from_secs(30);

pub(super) fn upstream(problems: &mut Problems<'_>, raw: Option<&At<raw::Upstream>>) -> Settings {
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
    let event_bytes: i64 = problems.number(raw.event_bytes.as_ref(), 1024..=8 << 20, EVENT_BYTES);
    // The data is a string within the frame; its limit counts the text before escaping.
    let frame_bytes_least = event_bytes * ESCAPED_BYTES_MAX + ENVELOPE_BYTES_MAX;
    Settings {
        app: app.unwrap_or_else(stand_in),
        connections: problems.number(raw.connections.as_ref(), 1..=64, 1),
        standby: problems.flag(raw.standby.as_ref(), false),
        times: Times {
            connect_timeout: problems.duration(raw.connect_timeout.as_ref(), POSITIVE, CONNECT_TIMEOUT),
            subscribe_timeout: problems.duration(raw.subscribe_timeout.as_ref(), POSITIVE, SUBSCRIBE_TIMEOUT),
            pong_timeout: problems.duration(raw.pong_timeout.as_ref(), POSITIVE, PONG_TIMEOUT),
            linger: problems.duration(raw.linger.as_ref(), Duration::ZERO, LINGER),
            check_interval: Some(problems.duration(
                raw.check_interval.as_ref(),
                Duration::ZERO,
                CHECK_INTERVAL,
            ))
            .filter(|interval| !interval.is_zero()),
            reconnect_delay_max: problems.duration(
                raw.reconnect_delay_max.as_ref(),
                POSITIVE,
                RECONNECT_DELAY_MAX,
            ),
        },
        event_bytes_max: usize::try_from(event_bytes).unwrap_or(DATA_BYTES_MAX),
        frame_bytes_max: frame_bytes(problems, raw, frame_bytes_least),
        publish: publish(problems, raw.publish.as_ref(), event_bytes),
        members: members(problems, raw),
        // Set by the loader, which knows the environment.
        proxies: Arc::default(),
    }
}

/// A larger frame ends the link, so what one client may publish must fit, or it would disconnect everybody.
fn frame_bytes(problems: &mut Problems<'_>, raw: &raw::Upstream, least: i64) -> usize {
    let default = FRAME_BYTES.max(usize::try_from(least).unwrap_or(FRAME_BYTES));
    problems.number(raw.frame_bytes.as_ref(), least..=FRAME_BYTES_MAX, default)
}

fn publish(problems: &mut Problems<'_>, raw: Option<&raw::UpstreamPublish>, event_bytes: i64) -> Publish {
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
        queue_bytes_max: problems.number(
            raw.queue_bytes.as_ref(),
            (event_bytes + ENVELOPE_BYTES_MAX).max(16_384)..=1 << 30,
            QUEUE_BYTES.max(usize::try_from(event_bytes * 2).unwrap_or(QUEUE_BYTES)),
        ),
        batch_max: problems.number(raw.batch.as_ref(), 1..=10, BATCH),
        timeout,
        deadline,
    }
}

fn members(problems: &mut Problems<'_>, raw: &raw::Upstream) -> members::Settings {
    let dials = raw.member_dials.as_ref().map_or(MEMBER_DIALS, |raw| rate(problems, raw, MEMBER_DIALS));
    members::Settings {
        links_max: problems.number(raw.members_max.as_ref(), 1..=100_000, MEMBERS),
        dials,
        observer: observer(problems, raw.observer.as_ref()),
    }
}

fn observer(problems: &mut Problems<'_>, raw: Option<&At<raw::Observer>>) -> members::Observer {
    let nothing = raw::Observer::default();
    let raw = raw.map_or(&nothing, At::get);
    let mut user_id = OBSERVER;
    if let Some(id) = &raw.user_id {
        user_id = id.get();
        if user_id.is_empty() || user_id.len() > USER_ID_BYTES_MAX {
            let (is, most) = (user_id.len(), USER_ID_BYTES_MAX);
            problems.at(id.span(), format!("a member's id has 1 to {most} bytes, and this has {is}"));
        }
    }
    let mut user_info = "{}";
    if let Some(info) = &raw.user_info {
        user_info = info.get();
        if user_info.len() > USER_INFO_BYTES_MAX {
            let (is, most) = (user_info.len(), USER_INFO_BYTES_MAX);
            problems.at(info.span(), format!("a member's info has {is} bytes of at most {most}"));
        } else if !json::is_json(user_info) {
            problems.with_help(
                info.span(),
                "a member's info is JSON, and this is not",
                r#"for one: '{"name":"the bridge"}'"#,
            );
        }
    }
    members::Observer { user_id: user_id.into(), user_info: user_info.into() }
}

fn stand_in() -> App {
    let nowhere = || Endpoint { host: String::new(), port: None, tls: false, path: String::new() };
    App {
        id: String::new(),
        key: String::new(),
        secret: SecretString::from(String::new()),
        other_keys: Vec::new(),
        encryption_master_key: None,
        ws: nowhere(),
        api: nowhere(),
        origin: None,
        ca_file: None,
        ca_text: None,
    }
}

fn app(problems: &mut Problems<'_>, at: &At<raw::Upstream>) -> App {
    let raw = at.get();
    let id = identifier(problems, raw.app_id.as_ref(), at.span(), "app_id");
    let key = identifier(problems, raw.key.as_ref(), at.span(), "key");
    let secret = secret(problems, (raw.secret.as_ref(), raw.secret_file.as_ref()), at.span());
    let other_keys = other_keys(problems, raw, &key);
    let (ws_host, api_host) = hosts(problems, at);
    let tls = problems.flag(raw.tls.as_ref(), true);
    let port = port(problems, raw.port.as_ref(), None);
    let path = prefix(problems, raw.path.as_ref(), "");
    let ws = Endpoint {
        host: ws_host,
        port: self::port(problems, raw.ws_port.as_ref(), port),
        tls: problems.flag(raw.ws_tls.as_ref(), tls),
        path: prefix(problems, raw.ws_path.as_ref(), &path),
    };
    let api = Endpoint {
        host: api_host,
        port: self::port(problems, raw.api_port.as_ref(), port),
        tls: problems.flag(raw.api_tls.as_ref(), tls),
        path: prefix(problems, raw.api_path.as_ref(), &path),
    };
    let ca_file = raw.ca_file.as_ref().filter(|f| !f.get().is_empty()).map(|f| problems.resolve(f.get()));
    App {
        id,
        key,
        secret,
        other_keys,
        encryption_master_key: master_key(problems, raw),
        ws,
        api,
        origin: origin(problems, raw.origin.as_ref()),
        ca_text: ca_file.as_ref().and_then(|file| problems.watched(file)),
        ca_file,
    }
}

/// A secret, or the file that has it, of the table that stands at `table`.
fn secret(
    problems: &mut Problems<'_>,
    given: (Option<&At<String>>, Option<&At<String>>),
    table: Range<usize>,
) -> SecretString {
    let secret = match given {
        (Some(_), Some(file)) => {
            problems.at(file.span(), "`secret` and `secret_file` are both set: leave one out");
            None
        }
        (None, Some(file)) => problems.secret_file(file),
        (secret, None) => required(problems, secret, table, "secret").map(|secret| problems.secret(secret)),
    };
    secret.unwrap_or_else(|| SecretString::from(String::new()))
}

fn other_keys(problems: &mut Problems<'_>, raw: &raw::Upstream, used: &str) -> Vec<OtherKey> {
    let mut keys: Vec<OtherKey> = Vec::new();
    for at in raw.other_keys.iter().flatten() {
        let raw = at.get();
        let key = identifier(problems, raw.key.as_ref(), at.span(), "key");
        let secret = secret(problems, (raw.secret.as_ref(), raw.secret_file.as_ref()), at.span());
        if let Some(place) = &raw.key {
            if key == used {
                problems.with_help(
                    place.span(),
                    "this is `upstream.key`, which is the one that is used",
                    "`other_keys` are those beside it; one key has one secret",
                );
            } else if keys.iter().any(|other| other.key == key) {
                problems.at(place.span(), format!("the key `{key}` is here twice"));
            } else if keys.len() == OTHER_KEYS_MAX {
                problems.at(place.span(), format!("there are more than {OTHER_KEYS_MAX} other keys"));
            }
        }
        keys.push(OtherKey { key, secret });
    }
    keys
}

/// The master key of encrypted channels. One that is wrong, or is not known yet, is one all the same: that a route lacks
/// it would be no help.
fn master_key(problems: &mut Problems<'_>, raw: &raw::Upstream) -> Option<MasterKey> {
    let set = |raw: &'_ Option<At<String>>| raw.clone().filter(|raw| !raw.get().is_empty());
    if let (Some(_), Some(file)) = (&raw.encryption_master_key, &raw.encryption_master_key_file) {
        problems.at(
            file.span(),
            "`encryption_master_key` and `encryption_master_key_file` are both set: leave one out",
        );
    }
    let before = problems.len();
    let (at, key) = match (set(&raw.encryption_master_key), set(&raw.encryption_master_key_file)) {
        (Some(raw), _) => (raw.span(), Some(problems.secret(&raw))),
        (None, Some(file)) => (file.span(), problems.secret_file(&file)),
        (None, None) => return None,
    };
    let parsed = key.map(|key| MasterKey::parse(key.expose_secret()));
    if let (Some(Err(why)), true) = (&parsed, problems.len() == before) {
        problems.with_help(
            at,
            why.clone(),
            "`openssl rand -base64 32` makes one; Pusher's libraries need the same",
        );
    }
    parsed.and_then(Result::ok).or_else(|| Some(MasterKey::new([0; KEY_BYTES])))
}

fn port(problems: &mut Problems<'_>, raw: Option<&At<Number>>, otherwise: Option<u16>) -> Option<u16> {
    Some(problems.number(raw, 1..=65_535, otherwise.unwrap_or(0))).filter(|port| *port != 0)
}

/// A prefix of paths: whole segments without `.` and `..`.
fn prefix(problems: &mut Problems<'_>, raw: Option<&At<String>>, otherwise: &str) -> String {
    let Some(raw) = raw else { return otherwise.to_owned() };
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%".contains(&b);
    let segment = |s: &str| !matches!(s, "" | "." | "..") && s.bytes().all(legal);
    let text = raw.get();
    let well = text.is_empty() || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(segment));
    if !well {
        problems.with_help(
            raw.span(),
            format!("`{text}` cannot precede a path"),
            "it begins with `/` and ends without one: \"/pusher\"; `/app/…` and `/apps/…` are added",
        );
    }
    text.clone()
}

fn origin(problems: &mut Problems<'_>, raw: Option<&At<String>>) -> Option<String> {
    let raw = raw.filter(|raw| !raw.get().is_empty())?;
    let (scheme, host) = raw.get().split_once("://").unwrap_or_default();
    let legal = |b: u8| b.is_ascii_graphic() && !b"/?#@\\".contains(&b);
    if scheme.is_empty() || host.is_empty() || !scheme.bytes().chain(host.bytes()).all(legal) {
        problems.with_help(
            raw.span(),
            format!("`{}` is not a valid origin", raw.get()),
            "a scheme and a host, no path: \"https://app.example.com\"",
        );
    }
    Some(raw.get().clone())
}

/// The id and the key are parts of URLs.
fn identifier(
    problems: &mut Problems<'_>,
    raw: Option<&At<String>>,
    table: Range<usize>,
    key: &str,
) -> String {
    let Some(raw) = required(problems, raw, table, key) else { return String::new() };
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if !raw.get().bytes().all(legal) {
        problems
            .at(raw.span(), format!("`{key}` has a character other than letters, digits, `_`, `-` and `.`"));
    } else if matches!(raw.get().as_str(), "." | "..") {
        problems
            .at(raw.span(), format!("`{key}` is part of a URL's path, where `.` and `..` lead elsewhere"));
    } else if raw.get().len() > IDENTIFIER_BYTES_MAX {
        problems.at(
            raw.span(),
            format!("`{key}` has {} bytes of at most {IDENTIFIER_BYTES_MAX}", raw.get().len()),
        );
    }
    raw.get().clone()
}

/// The hosts of the WebSocket and of the API.
fn hosts(problems: &mut Problems<'_>, at: &At<raw::Upstream>) -> (String, String) {
    let raw = at.get();
    fn set(host: &Option<At<String>>) -> Option<&At<String>> {
        host.as_ref().filter(|host| !host.get().is_empty())
    }
    let (ws, api) = (set(&raw.ws_host), set(&raw.api_host));
    let both = match (set(&raw.host), set(&raw.cluster)) {
        (Some(both), _) => {
            let host = host(problems, both, "host");
            (host.clone(), host)
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
            if ws.is_none() || api.is_none() {
                problems.at(at.span(), "`cluster` is missing (or `host`, for a self-hosted server)");
            }
            (String::new(), String::new())
        }
    };
    (
        ws.map_or(both.0, |own| host(problems, own, "ws_host")),
        api.map_or(both.1, |own| host(problems, own, "api_host")),
    )
}

/// A host's name or its address, an IPv6 address with or without brackets.
fn host(problems: &mut Problems<'_>, raw: &At<String>, key: &str) -> String {
    if let Err(why) = check_host(raw.get()) {
        problems.with_help(
            raw.span(),
            format!("`{key}` is a host's name or address alone: {why}"),
            "no scheme, no path; the port is `port`",
        );
    }
    let address = raw.get().trim_start_matches('[').trim_end_matches(']');
    if check_host(raw.get()).is_ok() && is_nobodys(address) {
        problems.at(raw.span(), format!("`{key}` cannot be a server's address"));
    }
    address.to_owned()
}

/// Whether this is an address that no single host has.
fn is_nobodys(text: &str) -> bool {
    text.parse::<IpAddr>().map(|address| address.to_canonical()).is_ok_and(|address| {
        address.is_unspecified() || address.is_multicast() || address == IpAddr::from(Ipv4Addr::BROADCAST)
    })
}
