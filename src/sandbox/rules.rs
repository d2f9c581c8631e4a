//! Pure: what Pusher accepts on its WebSocket and its HTTP API, and what it answers otherwise.

use secrecy::SecretString;
use serde::Deserialize;

use super::members::{Member, User, parse_member, parse_user};
use crate::json;
use crate::pusher::channel::{
    ChannelKind, DATA_BYTES_MAX, EVENT_BYTES_MAX, check_channel, is_cache, user_of,
};
use crate::pusher::{frame, sign};

/// The most channels of one publish (rest-api.md).
pub const CHANNELS_PER_EVENT_MAX: usize = 100;
/// The most events of one batch (rest-api.md).
pub const EVENTS_PER_BATCH_MAX: usize = 10;
/// The most users of a watchlist (Pusher docs, "Watchlist events").
const WATCHLIST_MAX: usize = 100;
/// The only protocol spoken here: pusher-js's, since 2.0.
const PROTOCOL: u16 = 7;

/// A `pusher:error`. After one about its URL a connection ends, with the same code; else it stays open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WsError {
    pub(crate) code: Option<u16>,
    pub(crate) message: String,
}

impl WsError {
    fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code: Some(code), message: message.into() }
    }

    /// The hosted service gives most errors about a channel no code.
    pub(crate) fn plain(message: impl Into<String>) -> Self {
        Self { code: None, message: message.into() }
    }
}

/// Whether a connection to `path` with `query` is one for `key`; its error ends the connection.
pub(crate) fn check_connect(path: &str, query: &str, key: &str) -> Result<(), WsError> {
    let Some(asked) = path.strip_prefix("/app/").filter(|rest| !rest.contains('/')) else {
        return Err(WsError::new(4005, format!("Path not found: {path}")));
    };
    if asked != key {
        return Err(WsError::new(4001, format!("App key {asked} does not exist in this sandbox")));
    }
    let protocol = query.split('&').find_map(|pair| pair.strip_prefix("protocol="));
    match protocol.map(|text| (text, text.parse::<u16>())) {
        None | Some(("", _)) => Err(WsError::new(4008, "No protocol version supplied")),
        Some((text, Err(_))) => Err(WsError::new(4006, format!("Invalid protocol version: {text}"))),
        Some((_, Ok(PROTOCOL))) => Ok(()),
        Some((text, Ok(_))) => {
            Err(WsError::new(4007, format!("Unsupported protocol version {text}: {PROTOCOL} is spoken here")))
        }
    }
}

/// A subscription that is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscription<'a> {
    pub(crate) channel: &'a str,
    pub(crate) auth: Option<&'a str>,
    /// The member, as it was signed.
    pub(crate) channel_data: Option<&'a str>,
    /// Who the connection is signed in as.
    pub(crate) user: Option<&'a User>,
}

/// Whether a subscription is allowed, and as whom on a presence channel.
pub(crate) fn check_subscribe(
    key: &str,
    secret: &SecretString,
    socket_id: &str,
    asked: Subscription<'_>,
) -> Result<Option<Member>, WsError> {
    let Subscription { channel, auth, channel_data, user } = asked;
    if let Some(id) = user_of(channel) {
        return match user {
            Some(user) if user.id == id => Ok(None),
            _ => Err(WsError::new(4009, format!("The connection is not signed in as the user of {channel}"))),
        };
    }
    check_channel(channel)
        .map_err(|why| WsError::plain(format!("Invalid channel name {}: {why}", shortened(channel))))?;
    let kind = ChannelKind::of(channel);
    if kind == ChannelKind::Public {
        return Ok(None);
    }
    let auth = auth.ok_or_else(|| WsError::plain(format!("Auth info required to subscribe to {channel}")))?;
    let signed_data = channel_data.filter(|_| kind == ChannelKind::Presence);
    sign::verify_channel_auth(key, secret, socket_id, channel, signed_data, auth)
        .map_err(|error| WsError::new(4009, error.to_string()))?;
    match (kind, signed_data, user) {
        (ChannelKind::Presence, Some(data), _) => parse_member(data).map(Some).map_err(WsError::plain),
        (ChannelKind::Presence, None, Some(User { id, info, .. })) => {
            Ok(Some(Member { user_id: id.clone(), info: info.clone() }))
        }
        (ChannelKind::Presence, None, None) => {
            Err(WsError::plain(format!("channel_data is needed to subscribe to {channel}")))
        }
        _ => Ok(None),
    }
}

/// Whether a sign-in is allowed, and as whom.
pub(crate) fn check_sign_in(
    key: &str,
    secret: &SecretString,
    socket_id: &str,
    auth: &str,
    user_data: &str,
) -> Result<User, WsError> {
    sign::verify_user_auth(key, secret, socket_id, user_data, auth)
        .map_err(|error| WsError::new(4009, error.to_string()))?;
    let user = parse_user(user_data).map_err(WsError::plain)?;
    if user.watchlist.len() > WATCHLIST_MAX {
        return Err(WsError::new(4302, format!("The watchlist has more than {WATCHLIST_MAX} users")));
    }
    Ok(user)
}

/// Whether a client event may be forwarded; `subscribed` is the sender's.
pub(crate) fn check_client_event(
    event: &str,
    channel: &str,
    data: &str,
    subscribed: bool,
) -> Result<(), WsError> {
    if !matches!(ChannelKind::of(channel), ChannelKind::Private | ChannelKind::Presence) {
        return Err(WsError::plain(
            "Client event rejected - only supported on private and presence channels",
        ));
    }
    if !subscribed {
        return Err(WsError::plain(format!(
            "Cannot broadcast client event (connection not subscribed to channel {channel})"
        )));
    }
    if event.len() > EVENT_BYTES_MAX {
        return Err(WsError::plain(format!("The event's name is longer than {EVENT_BYTES_MAX} bytes")));
    }
    if json::string(data).map_or(data.len(), |text| text.len()) > DATA_BYTES_MAX {
        return Err(WsError::plain(format!(
            "The data content of this event exceeds the allowed maximum ({DATA_BYTES_MAX} bytes)"
        )));
    }
    Ok(())
}

/// An HTTP error: a status and the text of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpError {
    pub(crate) status: u16,
    pub(crate) message: String,
}

impl HttpError {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

/// One event to publish on every one of its channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) event: String,
    pub(crate) data: String,
    pub(crate) channels: Vec<String>,
    pub(crate) socket_id: Option<String>,
    /// What the answer gives of each channel.
    pub(crate) wants: Attributes,
}

/// What a query asks of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) subscription_count: bool,
    /// Its members.
    pub(crate) user_count: bool,
    /// Its last event.
    pub(crate) cache: bool,
}

impl Attributes {
    pub(crate) fn any(self) -> bool {
        self.subscription_count || self.user_count || self.cache
    }
}

#[derive(Deserialize)]
struct Trigger {
    name: String,
    data: String,
    channel: Option<String>,
    channels: Option<Vec<String>>,
    socket_id: Option<String>,
    info: Option<String>,
}

#[derive(Deserialize)]
struct Batch {
    batch: Vec<Trigger>,
}

/// The event of a `POST …/events`.
pub(crate) fn parse_event(body: &[u8]) -> Result<Publish, HttpError> {
    check_trigger(parse_body(body)?)
}

/// The events of a `POST …/batch_events`, in order.
pub(crate) fn parse_batch(body: &[u8]) -> Result<Vec<Publish>, HttpError> {
    let Batch { batch } = parse_body(body)?;
    if batch.len() > EVENTS_PER_BATCH_MAX {
        return Err(HttpError::new(
            400,
            format!("The batch has {} events, and {EVENTS_PER_BATCH_MAX} are allowed", batch.len()),
        ));
    }
    let events = batch.into_iter().enumerate().map(|(at, trigger)| {
        let one_channel = trigger.channel.is_some() && trigger.channels.is_none();
        if !one_channel {
            return Err(HttpError::new(400, format!("batch[{at}]: an event of a batch has one `channel`")));
        }
        check_trigger(trigger)
            .map_err(|error| HttpError { message: format!("batch[{at}]: {}", error.message), ..error })
    });
    events.collect()
}

fn parse_body<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, HttpError> {
    serde_json::from_slice(body).map_err(|error| HttpError::new(400, format!("Malformed body: {error}")))
}

fn check_trigger(trigger: Trigger) -> Result<Publish, HttpError> {
    let bad = |message: String| Err(HttpError::new(400, message));
    let channels = match (trigger.channel, trigger.channels) {
        (Some(channel), None) => vec![channel],
        (None, Some(channels)) => channels,
        _ => return bad("Exactly one of `channel` and `channels` is needed".to_owned()),
    };
    if channels.is_empty() || channels.len() > CHANNELS_PER_EVENT_MAX {
        return bad(format!(
            "An event has 1 to {CHANNELS_PER_EVENT_MAX} channels, and this has {}",
            channels.len()
        ));
    }
    for channel in &channels {
        if user_of(channel).is_some_and(|user| !user.is_empty()) {
            continue;
        }
        if let Err(why) = check_channel(channel) {
            return bad(format!("Invalid channel name {}: {why}", shortened(channel)));
        }
    }
    if channels.len() > 1 && channels.iter().any(|c| ChannelKind::of(c) == ChannelKind::Encrypted) {
        return bad("An event on an encrypted channel has one channel".to_owned());
    }
    let name = &trigger.name;
    if name.is_empty() || name.len() > EVENT_BYTES_MAX {
        return bad(format!("An event's name has 1 to {EVENT_BYTES_MAX} bytes, and this has {}", name.len()));
    }
    if name.starts_with("pusher:") || name.starts_with("pusher_internal:") {
        return bad(format!("The event name {name} is reserved"));
    }
    if trigger.socket_id.as_deref().is_some_and(|id| !frame::is_socket_id(id)) {
        return bad("Invalid socket_id: it is not of the form digits.digits".to_owned());
    }
    if trigger.data.len() > DATA_BYTES_MAX {
        return Err(HttpError::new(
            413,
            format!("The data content of this event exceeds the allowed maximum ({DATA_BYTES_MAX} bytes)"),
        ));
    }
    let mut wants = Attributes::default();
    for channel in &channels {
        wants = attributes(trigger.info.as_deref(), channel)?;
    }
    let (event, data, socket_id) = (trigger.name, trigger.data, trigger.socket_id);
    Ok(Publish { event, data, channels, socket_id, wants })
}

/// What `info` asks of a channel.
pub(crate) fn attributes(info: Option<&str>, channel: &str) -> Result<Attributes, HttpError> {
    let mut wants = Attributes::default();
    let is_presence = ChannelKind::of(channel) == ChannelKind::Presence;
    for attribute in info.unwrap_or_default().split(',').filter(|name| !name.is_empty()) {
        match attribute {
            "subscription_count" if is_presence => {
                return Err(HttpError::new(400, "subscription_count is not for presence channels"));
            }
            "subscription_count" => wants.subscription_count = true,
            "user_count" if is_presence => wants.user_count = true,
            "user_count" => return Err(HttpError::new(400, "user_count is for presence channels")),
            "cache" if is_cache(channel) => wants.cache = true,
            "cache" => return Err(HttpError::new(400, "cache is for cache channels")),
            other => {
                return Err(HttpError::new(400, format!("Unknown info attribute {}", shortened(other))));
            }
        }
    }
    Ok(wants)
}

fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    text.chars().take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_checked_in_the_documented_codes() {
        for (path, query, code) in [
            ("/app/k", "protocol=7&client=js", None),
            ("/app/k", "client=js&protocol=7", None),
            ("/app/other", "protocol=7", Some(4001)),
            ("/apps/k", "protocol=7", Some(4005)),
            ("/app/k/x", "protocol=7", Some(4005)),
            ("/app/k", "protocol=seven", Some(4006)),
            ("/app/k", "protocol=4", Some(4007)),
            ("/app/k", "", Some(4008)),
            ("/app/k", "protocol=", Some(4008)),
        ] {
            let answer = check_connect(path, query, "k").err().and_then(|error| error.code);
            assert_eq!(answer, code, "{path}?{query}");
        }
    }

    #[test]
    fn subscriptions_are_signed_where_the_channel_is_private() {
        let secret = SecretString::from("s");
        let check = |channel: &str, auth: Option<&str>| {
            let asked = Subscription { channel, auth, channel_data: None, user: None };
            check_subscribe("k", &secret, "1.2", asked).map_err(|error| (error.code, error.message))
        };
        let right = sign::channel_auth("k", &secret, "1.2", "private-a", None);
        assert_eq!(check("a", None), Ok(None));
        assert_eq!(check("private-a", Some(&right)), Ok(None));
        assert_eq!(
            check("private-a", None),
            Err((None, "Auth info required to subscribe to private-a".to_owned()))
        );
        assert_eq!(
            check("private-b", Some(&right)).unwrap_err().0,
            Some(4009),
            "the signature is for one channel"
        );
        assert!(check("a#b", None).unwrap_err().1.starts_with("Invalid channel name a#b"));
        let encrypted = sign::channel_auth("k", &secret, "1.2", "private-encrypted-a", None);
        assert_eq!(check("private-encrypted-a", Some(&encrypted)), Ok(None));
    }

    #[test]
    fn presence_is_signed_with_its_member_or_of_the_user_that_is_signed_in() {
        let secret = SecretString::from("s");
        let check = |channel: &str, auth: Option<&str>, channel_data: Option<&str>, user: Option<&User>| {
            let asked = Subscription { channel, auth, channel_data, user };
            check_subscribe("k", &secret, "1.2", asked).map_err(|error| error.code)
        };
        let data = r#"{"user_id":"u","user_info":{"n":1.0}}"#;
        let with_data = sign::channel_auth("k", &secret, "1.2", "presence-a", Some(data));
        let member = Member { user_id: "u".to_owned(), info: Some(r#"{"n":1.0}"#.to_owned()) };
        assert_eq!(check("presence-a", Some(&with_data), Some(data), None), Ok(Some(member)));
        assert_eq!(check("presence-a", Some(&with_data), Some("{}"), None), Err(Some(4009)));
        let without = sign::channel_auth("k", &secret, "1.2", "presence-a", None);
        assert_eq!(check("presence-a", Some(&without), None, None), Err(None));
        let user_data = r#"{"id":"v","user_info":{"n":2}}"#;
        let auth = sign::user_auth("k", &secret, "1.2", user_data);
        let user = check_sign_in("k", &secret, "1.2", &auth, user_data).unwrap();
        let member = Member { user_id: "v".to_owned(), info: Some(r#"{"n":2}"#.to_owned()) };
        assert_eq!(check("presence-a", Some(&without), None, Some(&user)), Ok(Some(member)));
        assert_eq!(check_sign_in("k", &secret, "1.3", &auth, user_data).unwrap_err().code, Some(4009));

        assert_eq!(check("#server-to-user-v", None, None, Some(&user)), Ok(None));
        assert_eq!(check("#server-to-user-w", None, None, Some(&user)), Err(Some(4009)));
        assert_eq!(check("#server-to-user-v", None, None, None), Err(Some(4009)));
        let long = format!(r#"{{"id":"v","watchlist":[{}"w"]}}"#, r#""w","#.repeat(100));
        let auth = sign::user_auth("k", &secret, "1.2", &long);
        assert_eq!(check_sign_in("k", &secret, "1.2", &auth, &long).unwrap_err().code, Some(4302));
    }

    #[test]
    fn client_events_need_a_private_subscription() {
        assert_eq!(check_client_event("client-x", "private-a", "{}", true), Ok(()));
        assert_eq!(check_client_event("client-x", "presence-a", "{}", true), Ok(()));
        assert!(check_client_event("client-x", "a", "{}", true).is_err());
        assert!(check_client_event("client-x", "private-encrypted-a", "{}", true).is_err());
        assert!(check_client_event("client-x", "private-a", "{}", false).is_err());
        let big = |bytes| format!("\"{}\"", "x".repeat(bytes));
        assert!(check_client_event("client-x", "private-a", &big(DATA_BYTES_MAX), true).is_ok());
        assert!(check_client_event("client-x", "private-a", &big(DATA_BYTES_MAX + 1), true).is_err());
    }

    #[test]
    fn publishes_are_checked() {
        let status = |body: String| parse_event(body.as_bytes()).map_err(|error| error.status).err();
        let event = |more: &str| format!(r#"{{"name":"e","data":"d"{more}}}"#);
        assert_eq!(status(event(r#","channel":"a""#)), None);
        assert_eq!(status(event(r#","channels":["a","b"],"socket_id":"1.2""#)), None);
        assert_eq!(status(event(r##","channel":"#server-to-user-1""##)), None);
        assert_eq!(status(event(r#","channel":"presence-a","info":"user_count""#)), None);
        assert_eq!(status(event(r##","channel":"#server-to-user-""##)), Some(400));
        assert_eq!(status(event(r#","channel":"presence-a","info":"subscription_count""#)), Some(400));
        for more in [
            "",
            r#","channel":"a","channels":["a"]"#,
            r#","channels":[]"#,
            r#","channel":"a b""#,
            r#","channels":["a","private-encrypted-b"]"#,
            r#","channel":"a","socket_id":"x""#,
            r#","channel":"a","info":"user_count""#,
            r#","channel":"a","info":"else""#,
        ] {
            assert_eq!(status(event(more)), Some(400), "{more}");
        }
        let channels = |n: usize| (0..n).map(|i| format!("\"c{i}\"")).collect::<Vec<_>>().join(",");
        assert_eq!(status(event(&format!(r#","channels":[{}]"#, channels(100)))), None);
        assert_eq!(status(event(&format!(r#","channels":[{}]"#, channels(101)))), Some(400));
        let sized = |n: usize| format!(r#"{{"name":"e","channel":"a","data":"{}"}}"#, "é".repeat(n / 2));
        assert_eq!(status(sized(10_240)), None);
        assert_eq!(status(sized(10_242)), Some(413));
        let named = |name: &str| format!(r#"{{"name":"{name}","channel":"a","data":""}}"#);
        assert_eq!(status(named(&"n".repeat(200))), None);
        assert_eq!(status(named(&"n".repeat(201))), Some(400));
        assert_eq!(status(named("pusher:x")), Some(400));
        assert_eq!(status(named("")), Some(400));
        assert_eq!(status("{".to_owned()), Some(400));
        assert_eq!(status(r#"{"name":"e","channel":"a","data":{}}"#.to_owned()), Some(400));
    }

    #[test]
    fn batches_are_checked_by_element() {
        let batch =
            |n: usize, element: &str| format!(r#"{{"batch":[{}]}}"#, vec![element; n].join(",")).into_bytes();
        let good = r#"{"name":"e","data":"d","channel":"a"}"#;
        assert_eq!(parse_batch(&batch(10, good)).unwrap().len(), 10);
        assert_eq!(parse_batch(&batch(11, good)).unwrap_err().status, 400);
        let bad = format!(r#"{good},{{"name":"e","data":"d","channel":"b c"}}"#);
        assert!(parse_batch(&batch(1, &bad)).unwrap_err().message.starts_with("batch[1]: Invalid channel"));
        let many = r#"{"name":"e","data":"d","channels":["a"]}"#;
        assert_eq!(parse_batch(&batch(1, many)).unwrap_err().status, 400);
    }
}
