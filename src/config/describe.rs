//! What a configuration means, for people: the resolved route table. No secret is in it.

use std::fmt::Write as _;
use std::time::Duration;

use super::Config;
use super::mask;
use crate::auth::settings::{KeySource, TokenPlace};
use crate::deprecation::Policy;
use crate::legacy::dialect::Dialect;
use crate::limits::rate::Rate;
use crate::limits::slots::{OnConflict, Scope, SlotLimit};
use crate::routes::route::{HeartbeatKind, OnGap, PublishAction, PublishRule, Refusal, Route, TypeSet};
use crate::text::printable;

/// Widest line.
const COLUMNS: usize = 110;
/// Where a fact begins, behind its label.
const INDENT: usize = 15;

/// The configuration as text: listening, upstream, keys, and every route with its group's and the defaults'
/// keys in it.
#[must_use]
pub fn describe(config: &Config) -> String {
    let mut out = String::new();
    let server = &config.server;
    let proxies: Vec<String> = server.trusted_proxies.iter().map(ToString::to_string).collect();
    fact(
        &mut out,
        "listen",
        &format!("{} (admin {}), {} workers", server.listen, config.admin.listen, server.workers),
    );
    if !config.admin.hosts.is_empty() {
        fact(&mut out, "", &format!("drained by the names {}, too", config.admin.hosts.join(", ")));
    }
    if let Some(path) = &server.health_path {
        fact(&mut out, "health", &format!("{path}, for load balancers"));
    }
    fact(
        &mut out,
        "proxies",
        if proxies.is_empty() { "none trusted".into() } else { proxies.join(", ") }.as_str(),
    );
    let app = &config.upstream.app;
    let origin = app.origin.as_ref().map(|origin| format!(" from {origin}")).unwrap_or_default();
    fact(
        &mut out,
        "upstream",
        &format!(
            "{}{origin}, app {}, {} connection(s); events of at most {} bytes to {}, {}",
            app.ws.base("ws", "wss"),
            app.id,
            config.upstream.connections,
            config.upstream.event_bytes_max,
            app.api.base("http", "https"),
            if config.upstream.publish.batch_max == 1 { "one by one" } else { "in batches" },
        ),
    );
    for (what, there) in [("the WebSocket", &app.ws), ("the HTTP API", &app.api)] {
        let port = there.port.unwrap_or(if there.tls { 443 } else { 80 });
        if let Ok(Some(proxy)) = config.upstream.proxies.of_host(there.tls, &there.host, port) {
            fact(&mut out, "", &format!("{what} by the proxy {proxy}"));
        }
    }
    for key in config.auth.iter().flat_map(|auth| &auth.keys) {
        let algorithms: Vec<String> = key.algorithms.iter().map(|a| format!("{a:?}")).collect();
        let source = match &key.source {
            KeySource::Secret(_) => "a secret".to_owned(),
            KeySource::Pem(_) => "a public key".to_owned(),
            KeySource::JwksText(_) => "a JWKS document".to_owned(),
            KeySource::JwksUrl { url, .. } => mask::url(url),
        };
        let mut text = format!("{} by {source}", algorithms.join(", "));
        if let KeySource::JwksUrl { refresh, max_age, .. } = &key.source {
            let _ = write!(text, ", asked every {}, believed for {}", duration(*refresh), duration(*max_age));
        }
        if !key.issuers.is_empty() {
            let _ = write!(text, "; of issuer {}", shown(&key.issuers));
        }
        if !key.audiences.is_empty() {
            let _ = write!(text, "; for audience {}", shown(&key.audiences));
        }
        fact(&mut out, "tokens", &text);
    }
    for route in &config.routes {
        out.push('\n');
        describe_route(&mut out, route);
    }
    out
}

/// Names that often are URLs.
fn shown(names: &[impl AsRef<str>]) -> String {
    names.iter().map(|name| mask::url(name.as_ref())).collect::<Vec<_>>().join(" or ")
}

fn describe_route(out: &mut String, route: &Route) {
    let _ = writeln!(out, "{}", route.name);
    let slash = if route.path.has_either_slash() { ", with a `/` at its end or without" } else { "" };
    fact(out, "path", &format!("{}{slash}", route.path.source()));
    fact(out, "channel", route.channel.source());
    for (field, values) in &route.subscribe_values {
        fact(out, "", &format!("{{subscribe.{field}}} is one of {}", values.join(", ")));
    }
    if !route.shares.is_empty() {
        fact(out, "", &format!("may be one of {} too, whose rules differ", route.shares.join(", ")));
    }
    fact(out, "dialect", &dialect(&route.dialect));
    fact(out, "auth", &auth(route));
    if let Some(filter) = &route.filter {
        fact(
            out,
            "filter",
            &format!("only events whose {} is {}", filter.field.join("."), filter.equals.source()),
        );
    }
    if route.echo {
        fact(out, "publish", "nothing: every frame is returned to its sender");
    } else if route.publish.is_empty() {
        fact(out, "publish", "nothing");
    }
    for (index, rule) in route.publish.iter().enumerate() {
        fact(out, if index == 0 { "publish" } else { "" }, &publish(rule));
    }
    fact(out, "heartbeat", &heartbeat(route));
    fact(out, "limits", &limits(route));
    if let Some(policy) = &route.deprecation {
        deprecation(out, policy);
    }
    if !route.subprotocols.is_empty() {
        fact(out, "subprotocols", &route.subprotocols.join(", "));
    }
    if let Some(origins) = &route.origins {
        let none = "none: a request with an Origin is refused".to_owned();
        fact(out, "origins", &if origins.list().is_empty() { none } else { origins.list().join(", ") });
    }
    if let Refusal::Frame { hold } = route.refusal {
        fact(out, "refusal", &format!("by an error frame, and a close after {}", duration(hold)));
    }
    match route.on_gap {
        OnGap::Ignore => {}
        OnGap::Notify => fact(out, "on a gap", "clients are told"),
        OnGap::Close => fact(out, "on a gap", "clients are closed"),
    }
}

fn dialect(dialect: &Dialect) -> String {
    let mut text = dialect.name.to_string();
    for (keepalive, answer) in &dialect.keepalives {
        let answer =
            if answer.is_empty() { "not answered".to_owned() } else { format!("answered by {answer:?}") };
        let _ = write!(text, "; {keepalive:?} is {answer}");
    }
    if dialect.binary_is_json {
        text.push_str("; binary messages are JSON");
    }
    text
}

fn auth(route: &Route) -> String {
    let Some(auth) = &route.auth else { return "none".to_owned() };
    let mut text = format!("a token within {}", duration(auth.deadline));
    if !auth.permissions.is_empty() {
        let _ = write!(text, "; permissions {}", auth.permissions.join(", "));
    }
    for own in &auth.owns {
        let _ = write!(text, "; {} must contain {}", own.claim, own.contains.source());
    }
    for place in &auth.also_from {
        match place {
            TokenPlace::Header => text.push_str("; also from Authorization"),
            TokenPlace::Query(name) => _ = write!(text, "; also from ?{name}="),
            TokenPlace::Subprotocol(name) => _ = write!(text, "; also from the subprotocol {name}"),
        }
    }
    text
}

fn publish(rule: &PublishRule) -> String {
    let types = match &rule.types {
        TypeSet::Any => "every type".to_owned(),
        TypeSet::Listed(types) => types.join(", "),
    };
    match &rule.action {
        PublishAction::Trigger { event, relay_as_sent, .. } => {
            let relay = if *relay_as_sent { ", relayed as sent" } else { "" };
            format!("{types} as the event {}{relay}", event.source())
        }
        PublishAction::Post { url, retry_on, .. } => {
            let statuses: Vec<String> = retry_on.iter().map(ToString::to_string).collect();
            let again =
                if retry_on.is_empty() { String::new() } else { ", again after a status of ".to_owned() };
            format!("{types} by POST {}{again}{}", mask::url(url.source()), statuses.join(" or "))
        }
    }
}

fn heartbeat(route: &Route) -> String {
    let heartbeat = route.heartbeat;
    let kind = match heartbeat.kind {
        HeartbeatKind::Json => "json ping",
        HeartbeatKind::WebSocket => "WebSocket ping",
        HeartbeatKind::Both => "json and WebSocket ping",
        HeartbeatKind::None => return "none".to_owned(),
    };
    format!(
        "{kind} every {}, closed after {} of silence",
        duration(heartbeat.every),
        duration(heartbeat.timeout)
    )
}

fn limits(route: &Route) -> String {
    let limits = &route.limits;
    let mut facts = Vec::new();
    if let Some(slots) = limits.connections_per_user.filter(|_| route.auth.is_some()) {
        facts.push(format!("{} per user", slot_limit(&slots)));
    }
    if let Some(max) = limits.connections_per_address {
        facts.push(format!("{max} per address"));
    }
    if !facts.is_empty() {
        facts.push(format!("counted over {}", scope(&limits.scope)));
    }
    if let Some(exclusive) = &limits.exclusive {
        facts.push(format!("{} per {}", slot_limit(&exclusive.slots), exclusive.key.source()));
    }
    facts.push(format!("messages {}", rate(limits.messages)));
    if let Some(messages) = limits.messages_per_user.filter(|_| route.auth.is_some()) {
        facts.push(format!("{} per user, counted over {}", rate(Some(messages)), scope(&limits.scope)));
    }
    if route.auth.is_some() {
        facts.push(format!("auth {}", rate(limits.auth_attempts)));
    }
    facts.push(format!("{} bytes a message", limits.message_bytes_max));
    facts.push(format!("outbox {} frames or {} bytes", limits.outbox_frames_max, limits.outbox_bytes_max));
    facts.join("; ")
}

fn scope(scope: &Scope) -> String {
    match scope {
        Scope::Group(name) => format!("the group {name}"),
        Scope::Route(name) => format!("the route {name}"),
    }
}

fn slot_limit(slots: &SlotLimit) -> String {
    let conflict = match slots.on_conflict {
        OnConflict::Probe => "probe",
        OnConflict::Refuse => "refuse",
        OnConflict::Replace => "replace",
    };
    format!("{} ({conflict})", slots.max)
}

fn rate(rate: Option<Rate>) -> String {
    rate.map_or_else(
        || "unlimited".to_owned(),
        |rate| format!("{} per {}, {} at once", rate.count, duration(rate.per), rate.burst),
    )
}

fn deprecation(out: &mut String, policy: &Policy) {
    let mut dates = Vec::new();
    if let Some(at) = policy.deprecated_at {
        dates.push(format!("since {}", date(at)));
    }
    if let Some(at) = policy.sunset_at {
        let then = if policy.refuse_after_sunset { "then refused" } else { "then still served" };
        dates.push(format!("sunset {}, {then}", date(at)));
    }
    fact(out, "deprecated", if dates.is_empty() { "no dates".into() } else { dates.join("; ") }.as_str());
    for (name, url) in
        [("see", &policy.documentation), ("policy", &policy.sunset_policy), ("successor", &policy.successor)]
    {
        if let Some(url) = url {
            fact(out, "", &format!("{name} {}", mask::url(url)));
        }
    }
}

fn date(unix_seconds: i64) -> String {
    jiff::Timestamp::from_second(unix_seconds).map_or_else(|_| unix_seconds.to_string(), |at| at.to_string())
}

fn duration(value: Duration) -> String {
    let ms = value.as_millis();
    for (unit, each) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if ms != 0 && ms.is_multiple_of(each) {
            return format!("{}{unit}", ms / each);
        }
    }
    format!("{ms}ms")
}

/// One labelled fact, wrapped at spaces; what has none is cut at the width.
fn fact(out: &mut String, label: &str, text: &str) {
    let width = COLUMNS - INDENT;
    let text = printable(text);
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        while !word.is_empty() {
            let Some(line) = lines.last_mut() else { break };
            let used = line.chars().count();
            let gap = usize::from(used > 0);
            if used + gap + word.len() <= width {
                line.push_str(if gap == 1 { " " } else { "" });
                line.extend(word.drain(..));
            } else if used == 0 {
                line.extend(word.drain(..width));
                lines.push(String::new());
            } else {
                lines.push(String::new());
            }
        }
    }
    for (index, line) in lines.iter().filter(|line| !line.is_empty()).enumerate() {
        let label = if index == 0 { label } else { "" };
        let _ = writeln!(out, "  {label:<pad$}{line}", pad = INDENT - 2);
    }
}
