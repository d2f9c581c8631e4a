//! The settings that are no route's: which of them a running bridge can change.

use crate::admin::settings::Settings as Admin;
use crate::auth::settings::{ClaimNames, Settings as Auth};
use crate::config::Config;
use crate::endpoints::settings::{Limits as EndpointLimits, Settings as Endpoints};
use crate::proxy::settings::{Limits as FallbackLimits, Settings as Fallback};
use crate::routes::change::{Key, Said, differences as of_keys, made, of_optional, plain};
use crate::routes::membership::Membership;
use crate::server::settings::Settings as Server;
use crate::upstream::members::settings as members;
use crate::upstream::settings::{App, Publish, Settings as Upstream, Times};

/// When a changed key can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    AtOnce,
    /// Something that was made of it at the start, and cannot be made anew, has it.
    AtRestart,
}

use When::{AtOnce, AtRestart};

/// The keys that do not say the same in both.
pub(super) fn differences(before: &Config, after: &Config) -> Vec<(&'static str, When)> {
    let mut keys = of_keys(&config(before), &config(after));
    keys.extend(of_keys(&upstream(&before.upstream), &upstream(&after.upstream)));
    keys.extend(of_optional((before.auth.as_ref(), after.auth.as_ref()), ("auth", AtOnce), auth));
    keys.extend(of_keys(&endpoints(&before.endpoints), &endpoints(&after.endpoints)));
    let fallbacks = (before.fallback.as_ref(), after.fallback.as_ref());
    keys.extend(of_optional(fallbacks, ("fallback", AtOnce), fallback));
    keys
}

fn config(config: &Config) -> Vec<Key<'_, When>> {
    let Config {
        server,
        admin,
        upstream: _,
        auth: _,
        endpoints: _,
        fallback: _,
        routes: _,
        tunnels: _,
        router: _,
        off: _,
    } = config;
    let Admin { listen: admin, hosts } = admin;
    let Server {
        listen,
        tls,
        health_path,
        workers,
        trusted_proxies,
        proxy_protocol,
        forwarded,
        ipv6_prefix,
        connections_max,
        buffered_bytes_max,
        header_timeout,
        header_bytes_max,
        headers_max,
        http2_streams_max,
        close_window,
        grace,
    } = server;
    vec![
        plain("server.listen", AtRestart, listen),
        plain("server.admin", AtRestart, admin),
        plain("server.admin_hosts", AtOnce, hosts),
        made("server.tls", AtRestart, tls.is_some()),
        made("server.tls.cert_file", AtOnce, tls.as_ref().map(|tls| tls.cert.clone())),
        made("server.tls.key_file", AtOnce, tls.as_ref().map(|tls| tls.key.clone())),
        made("server.tls.client_ca_file", AtOnce, tls.as_ref().and_then(|tls| tls.client_ca.clone())),
        plain("server.health_path", AtOnce, health_path),
        plain("server.workers", AtRestart, workers),
        plain("server.trusted_proxies", AtOnce, trusted_proxies),
        plain("server.proxy_protocol", AtOnce, proxy_protocol),
        plain("server.forwarded_header", AtOnce, forwarded),
        // By it everybody who is connected was counted.
        plain("server.ipv6_prefix", AtRestart, ipv6_prefix),
        plain("server.limits.connections", AtRestart, connections_max),
        plain("server.limits.buffered_bytes", AtRestart, buffered_bytes_max),
        plain("server.limits.header_timeout", AtOnce, header_timeout),
        plain("server.limits.header_bytes", AtOnce, header_bytes_max),
        plain("server.limits.headers", AtOnce, headers_max),
        plain("server.limits.http2_streams", AtOnce, http2_streams_max),
        plain("server.shutdown.close_window", AtOnce, close_window),
        plain("server.shutdown.grace", AtOnce, grace),
    ]
}

/// Links, lanes and all that is under way were made by these, but for the key.
fn upstream(upstream: &Upstream) -> Vec<Key<'_, When>> {
    let Upstream {
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
        proxies: _, // of the environment, which stays as it is
    } = upstream;
    let App { id, key, secret, other_keys, encryption_master_key, ws, api, origin, ca_file, ca_text } = app;
    let Publish { lanes, queue_messages_max, queue_bytes_max, batch_max, timeout, deadline } = publish;
    let members::Settings { links_max, dials, observer: members::Observer { user_id, user_info } } = members;
    vec![
        plain("upstream.app_id", AtRestart, id),
        // See `upstream::rotation`.
        plain("upstream.key", AtOnce, key),
        ("upstream.secret", AtOnce, Said::Secret(secret)),
        plain("upstream.other_keys", AtOnce, other_keys),
        plain("upstream.encryption_master_key", AtRestart, encryption_master_key),
        plain("upstream.ws_host", AtRestart, &ws.host),
        plain("upstream.ws_port", AtRestart, &ws.port),
        plain("upstream.ws_tls", AtRestart, &ws.tls),
        plain("upstream.ws_path", AtRestart, &ws.path),
        plain("upstream.api_host", AtRestart, &api.host),
        plain("upstream.api_port", AtRestart, &api.port),
        plain("upstream.api_tls", AtRestart, &api.tls),
        plain("upstream.api_path", AtRestart, &api.path),
        plain("upstream.origin", AtRestart, origin),
        plain("upstream.ca_file", AtRestart, ca_file),
        plain("upstream.ca_file", AtRestart, ca_text),
        plain("upstream.connections", AtRestart, connections),
        plain("upstream.standby", AtRestart, standby),
        plain("upstream.connect_timeout", AtRestart, connect_timeout),
        plain("upstream.subscribe_timeout", AtRestart, subscribe_timeout),
        plain("upstream.pong_timeout", AtRestart, pong_timeout),
        plain("upstream.linger", AtRestart, linger),
        plain("upstream.check_interval", AtRestart, check_interval),
        plain("upstream.reconnect_delay_max", AtRestart, reconnect_delay_max),
        plain("upstream.members_max", AtRestart, links_max),
        plain("upstream.member_dials", AtRestart, dials),
        plain("upstream.observer.user_id", AtRestart, user_id),
        plain("upstream.observer.user_info", AtRestart, user_info),
        plain("upstream.event_bytes", AtRestart, event_bytes_max),
        plain("upstream.frame_bytes", AtRestart, frame_bytes_max),
        plain("upstream.publish.lanes", AtRestart, lanes),
        plain("upstream.publish.queue_messages", AtRestart, queue_messages_max),
        plain("upstream.publish.queue_bytes", AtRestart, queue_bytes_max),
        plain("upstream.publish.batch", AtRestart, batch_max),
        plain("upstream.publish.timeout", AtRestart, timeout),
        plain("upstream.publish.deadline", AtRestart, deadline),
    ]
}

fn auth(auth: &Auth) -> Vec<Key<'_, When>> {
    let Auth { keys, leeway, claims, token_bytes_max, failures_per_address } = auth;
    let ClaimNames { user, role, permissions } = claims;
    vec![
        plain("auth.keys", AtOnce, keys),
        plain("auth.leeway", AtOnce, leeway),
        plain("auth.claims.user", AtOnce, user),
        plain("auth.claims.role", AtOnce, role),
        plain("auth.claims.permissions", AtOnce, permissions),
        plain("auth.token_bytes", AtOnce, token_bytes_max),
        plain("auth.failures_per_address", AtOnce, failures_per_address),
    ]
}

fn endpoints(endpoints: &Endpoints) -> Vec<Key<'_, When>> {
    let Endpoints { channel_auth, user_auth, notify, webhooks, origins, signed_in, filtered, limits } =
        endpoints;
    let EndpointLimits {
        body_bytes_max,
        bodies_bytes_max,
        body_timeout,
        vacated_max_age,
        unproven_per_address,
        requests_per_user,
    } = limits;
    let (info, watchlist) = match signed_in {
        Membership::SignedIn { info, watchlist } => (info.as_ref(), watchlist.as_ref()),
        Membership::EachUser { .. } | Membership::Observe(_) => (None, None),
    };
    let token = notify.as_ref().and_then(|notify| notify.token.as_ref());
    let mut keys = vec![
        plain("endpoints.channel_auth", AtOnce, channel_auth),
        plain("endpoints.user_auth", AtOnce, user_auth),
        made("endpoints.notify.path", AtOnce, notify.as_ref().map(|notify| notify.path.clone())),
        match token {
            Some(token) => ("endpoints.notify.token", AtOnce, Said::Secret(token)),
            None => made("endpoints.notify.token", AtOnce, ()),
        },
        // Who keeps count of what webhooks tell is there from the start, or not at all.
        made("endpoints.webhooks", AtRestart, webhooks.is_some()),
        plain("endpoints.webhooks", AtOnce, webhooks),
        plain("endpoints.origins", AtOnce, origins),
        made("endpoints.user_info", AtOnce, info.cloned()),
        made("endpoints.watchlist", AtOnce, watchlist.cloned()),
        plain("endpoints.filtered", AtOnce, filtered),
    ];
    keys.extend([
        plain("endpoints.limits.body_bytes", AtOnce, body_bytes_max),
        plain("endpoints.limits.bodies_bytes", AtOnce, bodies_bytes_max),
        plain("endpoints.limits.body_timeout", AtOnce, body_timeout),
        plain("endpoints.limits.vacated_max_age", AtRestart, vacated_max_age),
        plain("endpoints.limits.unproven_per_address", AtOnce, unproven_per_address),
        plain("endpoints.limits.requests_per_user", AtOnce, requests_per_user),
    ]);
    keys
}

/// Who comes meets what is in force; what is under way goes on as it began.
fn fallback(fallback: &Fallback) -> Vec<Key<'_, When>> {
    let Fallback {
        to,
        rules,
        connect_timeout,
        answer_timeout,
        idle_timeout,
        body_timeout,
        keep_alive,
        tunnel_timeout,
        limits,
    } = fallback;
    let FallbackLimits {
        requests_max,
        requests_per_address,
        tunnels_max,
        tunnels_per_address,
        body_bytes_max,
        idle_connections_max,
    } = limits;
    vec![
        plain("fallback.to", AtOnce, to),
        plain("fallback.rules", AtOnce, rules),
        plain("fallback.connect_timeout", AtOnce, connect_timeout),
        plain("fallback.answer_timeout", AtOnce, answer_timeout),
        plain("fallback.idle_timeout", AtOnce, idle_timeout),
        plain("fallback.body_timeout", AtOnce, body_timeout),
        plain("fallback.keep_alive", AtOnce, keep_alive),
        plain("fallback.tunnel_timeout", AtOnce, tunnel_timeout),
        plain("fallback.limits.requests", AtOnce, requests_max),
        plain("fallback.limits.requests_per_address", AtOnce, requests_per_address),
        plain("fallback.limits.tunnels", AtOnce, tunnels_max),
        plain("fallback.limits.tunnels_per_address", AtOnce, tunnels_per_address),
        plain("fallback.limits.body_bytes", AtOnce, body_bytes_max),
        plain("fallback.limits.idle_connections", AtOnce, idle_connections_max),
    ]
}
