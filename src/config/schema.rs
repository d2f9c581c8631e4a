//! The file's JSON Schema (draft-07): generated from the raw types, with the patterns of their values below. A
//! string with `${` in it passes everywhere, because only the environment knows what it will be.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::raw::File;
use crate::legacy::error::ErrorCode;
use crate::template::Slot;

pub(super) const NAME: &str = r"^[a-z0-9_-]{1,64}$|\$\{";
pub(super) const ADDRESS: &str = r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.]+\]):0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$|\$\{";
pub(super) const CIDR: &str = r"^([0-9]{1,3}(\.[0-9]{1,3}){3}(/([0-9]|[12][0-9]|3[0-2]))?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(/[0-9]{1,3})?)$|\$\{";
pub(super) const DURATION: &str = r"^0*[1-9][0-9]*(ms|s|m|h|d)$|\$\{";
pub(super) const DURATION_OR_ZERO: &str = r"^[0-9]+(ms|s|m|h|d)$|\$\{";
pub(super) const ID: &str = r"^[A-Za-z0-9_.-]+$|\$\{";
pub(super) const MASTER_KEY: &str = r"^([A-Za-z0-9+/]{43}=)?$|\$\{";
pub(super) const CLUSTER: &str = r"^[a-z0-9-]*$|\$\{";
pub(super) const HOST: &str = r"^(\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]+|[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?)?$|\$\{";
pub(super) const PREFIX: &str = r"^(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*$|\$\{";
pub(super) const OWN_ORIGIN: &str = r"^([!-.0->A-\[\]-~]+://[!-.0->A-\[\]-~]+)?$|\$\{";
pub(super) const PEM: &str = r"-----BEGIN |\$\{";
pub(super) const JWKS_URL: &str = r"^(https://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?|http://(localhost|127(\.[0-9]+){3}|\[::1\]|[A-Za-z0-9_-]+|[A-Za-z0-9_.-]+\.(svc|local|internal|localhost)|[A-Za-z0-9_.-]+\.svc\.cluster\.local)(:[0-9]{1,5})?)([/?]([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?$|\$\{";
pub(super) const TEXT: &str = r"^([^{}]|\{(auth\.user|[A-Za-z_][A-Za-z0-9_]*)\})+$|\$\{";
pub(super) const TEXT_SUBSCRIBE: &str =
    r"^([^{}]|\{(auth\.user|subscribe(\.[A-Za-z0-9_]+)+|[A-Za-z_][A-Za-z0-9_]*)\})+$|\$\{";
pub(super) const MEMBER: &str = r"^(?!\$[.\[]|/)[^.\[\]]+(\.[^.\[\]]+)*$|\$\{";
pub(super) const FIELD: &str = r"^[^.]+(\.[^.]+)*$|\$\{";
pub(super) const EVENT: &str = r"^([^{}]|\{(auth\.user|[A-Za-z_][A-Za-z0-9_]*)\}){1,200}$|\$\{";
pub(super) const EVENT_NAME: &str = r"^[^*]{0,200}\*?[^*]{0,200}$|\$\{";
pub(super) const POST_URL: &str = r"^https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?([/?]([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2}|\{(auth\.user|[A-Za-z_][A-Za-z0-9_]*)\})*)?$|\$\{";
pub(super) const TOKEN_PLACE: &str =
    r"^(header|query:[A-Za-z0-9_.~-]+|subprotocol:[A-Za-z0-9!#$%&'*+.^_`|~-]+)$|\$\{";
pub(super) const DATE: &str = r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]+)?)?([Zz]|[+-][0-2][0-9]:?[0-5][0-9])$|\$\{";
pub(super) const LINK: &str = r#"^[a-z][a-z0-9+.-]*://[^\s<>"{}]+$|\$\{"#;
pub(super) const ORIGIN: &str = r#"^(?!([Hh][Tt][Tt][Pp]|[Ww][Ss])[Ss]?://$)(null|[A-Za-z][A-Za-z0-9+.-]*://(\*\.[^/\\?#@*"<>{}\s]+|[^/\\?#@*"<>{}\s]*))$|\$\{"#;
pub(super) const SUBPROTOCOL: &str = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$|\$\{";
pub(super) const PATH: &str =
    r"^(/(\{[A-Za-z_][A-Za-z0-9_]*(:\[[^\]/\\^]+\]\+)?\}|[A-Za-z0-9._~!$&'()*+,;=:@-]+))+/?$|^/$|\$\{";
const CHANNEL: &str =
    r"^([A-Za-z0-9_=@,.;-]|\{(auth\.user|subscribe(\.[A-Za-z0-9_]+)+|[A-Za-z_][A-Za-z0-9_]*)\})+$|\$\{";
pub(super) const HOST_NAME: &str = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$|\$\{";
pub(super) const FALLBACK_PATH: &str =
    r"^((/[A-Za-z0-9._~!$&'()+,;=:@%-]+)+/?|(/[A-Za-z0-9._~!$&'()+,;=:@%-]+)*/\*|/)$|\$\{";
pub(super) const UPSTREAM_OR_NONE: &str =
    r"^(https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?/?)?$|\$\{";
pub(super) const UPSTREAM: &str = r"^https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?/?$|\$\{";
pub(super) const HEALTH_PATH: &str = r"^(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+$|\$\{";
/// The same, or nothing.
pub(super) const ENDPOINT_PATH: &str = r"^((/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+/?)?$|\$\{";

pub(super) const TEST_URL: &str = r"^((ws|http)s?://[!-~]+|/[!-~]*)$|\$\{";

/// The sources of a key, of which each key has one.
pub(super) const KEY_SOURCES: &[&str] =
    &["secret", "secret_file", "pem", "pem_file", "jwks", "jwks_file", "jwks_url"];

/// Where the master key is, of which there is one.
pub(super) const MASTER_KEYS: &[&str] = &["encryption_master_key", "encryption_master_key_file"];

/// The JSON Schema of routes.toml.
#[must_use]
pub fn json_schema() -> Value {
    let schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<File>();
    let mut value = schema.to_value();
    drop_nulls(&mut value);
    value
}

/// TOML has no null; an optional key is one that is not there.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(any)) = map.get_mut("anyOf") {
                any.retain(|schema| *schema != json!({ "type": "null" }));
            }
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

pub(super) fn pattern(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

pub(super) fn name() -> Value {
    json!({ "pattern": r"^[a-z0-9_-]{1,64}$" })
}

/// Exactly one of these keys.
pub(super) fn one_of(keys: &[&str]) -> Value {
    keys.iter().map(|key| json!({ "required": [key] })).collect()
}

/// All of these keys.
pub(super) fn both(keys: &[&str]) -> Value {
    json!({ "required": keys })
}

/// Where the server is: a cluster, one host, or one for each side.
pub(super) fn upstream_places() -> Value {
    json!([
        { "required": ["cluster"] },
        { "required": ["host"] },
        { "required": ["ws_host", "api_host"] },
    ])
}

/// A path that is one of several.
pub(super) fn endpoint_path() -> Value {
    json!({ "type": "string", "pattern": HEALTH_PATH, "not": { "pattern": r"/\.{1,2}(/|$)" } })
}

/// An HTTP status of an error.
pub(super) fn status() -> Value {
    json!({ "minimum": 400, "maximum": 599 })
}

/// Algorithms of one family only.
pub(super) fn algorithm_families() -> Value {
    [r"^HS", r"^(RS|PS)", r"^ES", r"^EdDSA$"]
        .iter()
        .map(|family| json!({ "items": { "pattern": format!(r"{family}|\$\{{") } }))
        .collect()
}

/// HS goes with a secret and nothing else does; `refresh` and its like go with a URL.
pub(super) fn key_rules() -> Value {
    let algorithms =
        |family: &str| json!({ "properties": { "algorithms": { "items": { "pattern": family } } } });
    json!([
        {
            "if": { "anyOf": one_of(&["secret", "secret_file"]) },
            "then": algorithms(r"^HS|\$\{"),
            "else": algorithms(r"^[^H]"),
        },
        {
            "if": { "anyOf": one_of(&["refresh", "refresh_min", "jwks_max_age"]) },
            "then": { "required": ["jwks_url"] },
        },
    ])
}

/// A JSON template with these placeholders, and a look at its first and last character.
pub(super) fn frame(slots: &[Slot]) -> Value {
    let names: Vec<&str> = slots.iter().map(|slot| slot.name()).collect();
    let unknown = format!(r"(^|[^$])\{{(?!({})\}})[A-Za-z_][A-Za-z0-9_.]*\}}", names.join("|"));
    let raw =
        r#"^[^"]*("(\\.|[^"\\])*"[^"]*)*"(\\.|[^"\\])*\{(data|frame|permissions|details|members|info)\}"#;
    json!([
        { "not": { "pattern": unknown } },
        { "not": { "pattern": raw } },
        { "pattern": r#"^\s*(\{[\s\S]*\}|\[[\s\S]*\]|"[\s\S]*"|-?[0-9][0-9.eE+-]*|true|false|null)\s*$|\$\{"# },
    ])
}

/// A channel whose kind no path value can choose, and that can be carried.
pub(super) fn channel() -> Value {
    let mut cut: Vec<&str> = Vec::new();
    for kind in crate::pusher::channel::KIND_PREFIXES {
        cut.extend(kind.char_indices().filter_map(|(at, _)| kind.get(..at)));
    }
    cut.retain(|begin| crate::pusher::channel::cut_kind_prefix(begin).is_some());
    cut.sort_unstable();
    cut.dedup();
    let choosing = format!(r"^({})\{{(auth\.user|[A-Za-z_][A-Za-z0-9_]*)\}}", cut.join("|"));
    json!([
        { "pattern": CHANNEL },
        { "not": { "pattern": choosing } },
        // Placeholders apart, the literals alone may be too long.
        { "pattern": r"^[^{}]{0,164}$|\{" },
    ])
}

/// The same, or the one channel that begins with `#`.
pub(super) fn route_channel() -> Value {
    json!([{ "allOf": channel() }, { "pattern": r"^#server-to-user(-\{auth\.user\})?$|\$\{" }])
}

/// A JSON template over a token's claims.
pub(super) fn user_info() -> Value {
    let unknown = r"(^|[^$])\{(?!(auth\.user|claim(\.[A-Za-z0-9_]+)+)\})[A-Za-z_][A-Za-z0-9_.]*\}";
    json!([
        { "not": { "pattern": unknown } },
        { "pattern": r#"^\s*(\{[\s\S]*\}|\[[\s\S]*\]|"[\s\S]*"|-?[0-9][0-9.eE+-]*|true|false|null)\s*$|\$\{"# },
    ])
}

/// A pattern alone, whatever the type.
pub(super) fn plain(pattern: &str) -> Value {
    json!({ "pattern": pattern })
}

/// A route that an old server serves.
pub(super) fn is_tunnel() -> Value {
    json!({ "required": ["mode"], "properties": { "mode": { "const": "tunnel" } } })
}

/// Nothing there is about what passes.
pub(super) fn tunnel() -> Value {
    let keys = [
        "channel",
        "dialect",
        "auth",
        "filter",
        "publish",
        "events",
        "pusher_events",
        "echo",
        "heartbeat",
        "refusal",
        "refusal_hold",
        "on_gap",
        "on_undecryptable",
        "subprotocols",
        "subscribe",
        "presence",
        "user_info",
        "watchlist",
        "values",
        "exclude",
        "shares",
    ];
    let limits = [
        "connections_per_user",
        "exclusive",
        "messages",
        "messages_per_user",
        "auth_attempts",
        "control_frames",
        "depth",
        "subscriptions",
        "outbox_frames",
        "outbox_bytes",
    ];
    let limited = json!({ "required": ["limits"], "properties": { "limits": { "anyOf": one_of(&limits) } } });
    json!({ "not": { "anyOf": [{ "anyOf": one_of(&keys) }, limited] } })
}

/// One that Pusher serves; which of both it is, only the environment may know.
pub(super) fn relay() -> Value {
    let limited =
        json!({ "required": ["limits"], "properties": { "limits": { "required": ["connections"] } } });
    json!({
        "if": { "required": ["mode"], "properties": { "mode": { "pattern": r"\$\{" } } },
        "else": { "required": ["channel"], "not": { "anyOf": [{ "required": ["to"] }, limited] } },
    })
}

/// A route with `echo = true` publishes nothing.
pub(super) fn publish_on_echo() -> Value {
    json!({
        "required": ["echo", "publish"],
        "properties": { "echo": { "enum": [true, "true"] }, "publish": { "minItems": 1 } },
    })
}

/// Several types need `{type}` in the event's name, and any type at all needs literal text before it.
pub(super) fn event_rules() -> Value {
    let any = json!({ "required": ["types"], "properties": { "types": { "contains": { "const": "*" } } } });
    let several = json!({ "required": ["types"], "properties": { "types": { "minItems": 2 } } });
    let event = |rule: Value| json!({ "properties": { "event": rule } });
    json!([
        { "if": { "anyOf": [any, several] }, "then": event(json!({ "pattern": r"\{type\}|\$\{" })) },
        { "if": any, "then": event(json!({ "not": { "pattern": r"^\{type\}" } })) },
    ])
}

/// A trigger (`event`, `data`, `relay`, `channel`), a POST (`post`, `body`, `headers`, `retry_on`, `reply`) or
/// nothing.
pub(super) fn publish_forms() -> Value {
    let any = |keys: &[&str]| json!({ "anyOf": one_of(keys) });
    let (event, post) =
        (["event", "data", "relay", "channel"], ["post", "body", "headers", "retry_on", "reply"]);
    let dropped = json!({ "required": ["via"], "properties": { "via": { "const": "drop" } } });
    let elsewhere = json!({
        "required": ["via", "channel"],
        "properties": { "via": { "const": "client_event" } },
    });
    json!([
        { "not": { "anyOf": [any(&post), dropped, elsewhere] } },
        { "required": ["post", "body"], "not": any(&[&event[..], &["via"]].concat()) },
        { "allOf": [dropped], "not": any(&[&event[..], &post].concat()) },
    ])
}

/// An event is shown otherwise, or not at all.
pub(super) fn event_forms() -> Value {
    let drop = |value: Value| json!({ "required": ["drop"], "properties": { "drop": value } });
    let dropped = drop(json!({ "enum": [true, "true"] }));
    let may_be =
        drop(json!({ "anyOf": [{ "enum": [true, "true"] }, { "pattern": r"\$\{", "type": "string" }] }));
    let shown = json!({ "anyOf": one_of(&["as", "data"]) });
    json!([{ "allOf": [shown], "not": dropped }, { "allOf": [may_be], "not": shown }])
}

/// A test looks at a message or at an event, and expects one thing of it.
pub(super) fn test_forms() -> Value {
    let event = json!({ "not": { "required": ["event"] } });
    let given = |keys: &[&str]| json!({ "anyOf": one_of(keys) });
    json!([
        { "anyOf": [event, { "not": { "anyOf": one_of(&["message", "publish"]) } }] },
        given(&["frame", "publish", "refusal", "tunnel", "nothing", "route", "channel"]),
    ])
}

/// `["*"]`, or types that are named.
pub(super) fn publish_types() -> Value {
    json!([
        { "items": { "const": "*" }, "maxItems": 1 },
        { "items": { "type": "string", "minLength": 1, "not": { "const": "*" } }, "uniqueItems": true },
    ])
}

macro_rules! map_schema {
    ($(#[$doc:meta])* $name:ident, $schema:expr) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

map_schema!(
    /// A dialect's names for error codes.
    ErrorCodes,
    {
        let codes: BTreeMap<&str, Value> = ErrorCode::ALL
            .iter()
            .map(|code| (code.as_str(), json!({ "type": "string", "minLength": 1 })))
            .collect();
        json_schema!({ "type": "object", "properties": codes, "additionalProperties": false })
    }
);
map_schema!(
    /// Plain texts and their answers.
    Keepalives,
    json_schema!({
        "type": "object",
        "propertyNames": { "minLength": 1, "maxLength": 125 },
        "additionalProperties": { "type": "string", "maxLength": 125 },
    })
);
map_schema!(
    /// HTTP headers.
    Headers,
    json_schema!({
        "type": "object",
        "propertyNames": { "pattern": r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$" },
        "additionalProperties": { "type": "string", "pattern": r"^[^\u0000-\u0008\u000a-\u001f\u007f]*$" },
    })
);
map_schema!(
    /// Sets of characters, by placeholder.
    ValueSets,
    json_schema!({
        "type": "object",
        "propertyNames": { "pattern": r"^(auth\.user|(subscribe\.)?[A-Za-z_][A-Za-z0-9_]*)$" },
        "additionalProperties": { "type": "string", "pattern": r"^\[[^\]/\\^]+\]\+$|\$\{" },
    })
);
map_schema!(
    /// Values that in-band fields may take.
    SubscribeValues,
    json_schema!({
        "type": "object",
        "propertyNames": { "pattern": r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$" },
        "additionalProperties": {
            "type": "array",
            "minItems": 1,
            "items": { "type": "string", "pattern": r"^([A-Za-z0-9_=@,.;-]{1,164}|[A-Za-z0-9_=@,.;-]{0,164}\*)$|\$\{" },
        },
    })
);
map_schema!(
    /// Claims of a token, whatever they are.
    Claims,
    json_schema!({ "type": "object" })
);
map_schema!(
    /// Values that placeholders must not have.
    ExcludedValues,
    json_schema!({
        "type": "object",
        "propertyNames": { "pattern": r"^(auth\.user|(subscribe\.)?[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*)$" },
        "additionalProperties": {
            "type": "array",
            "minItems": 1,
            "items": { "type": "string", "pattern": r"^[^*]{1,256}\*?$|\$\{" },
        },
    })
);
