//! What a client says until it is ready, and what it must hear.

use std::net::{Ipv4Addr, SocketAddr};

use pusher_bridge::swarm::socket::Secured;
use serde_json::{Value, json};

use crate::Result;
use crate::credentials;
use crate::event::Shape;
use crate::ws;

/// Clients of one source address. The shipped routes file allows 50 per address and 10 per user.
const CLIENTS_PER_ADDRESS: usize = 50;
const CLIENTS_PER_USER: usize = 10;

/// One client to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The address it connects from.
    pub(crate) source: Ipv4Addr,
    pub(crate) target: SocketAddr,
    /// By TLS, or plain.
    pub(crate) secured: Option<Secured>,
    pub(crate) path: String,
    pub(crate) script: Script,
    /// The streams of events that it must get; an event of any other is an error.
    pub(crate) streams: Vec<u32>,
}

#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// `auth`, and ready when it is answered.
    Typed { auth: Vec<u8> },
    /// The same on a presence channel: ready when it is told who is there.
    Member { auth: Vec<u8> },
    /// Subscriptions, which nobody answers: ready at once.
    Channel { subscriptions: Vec<u8> },
    /// Subscriptions once the socket has its id; ready when all have succeeded.
    Pusher { channels: Vec<String> },
}

impl Script {
    pub(crate) fn typed(token: &str) -> Self {
        Self::Typed { auth: auth(token) }
    }

    pub(crate) fn member(token: &str) -> Self {
        Self::Member { auth: auth(token) }
    }

    pub(crate) fn channel(channels: &[u32]) -> Self {
        let frame = |channel: &u32| {
            let subscribe = json!({"type": "subscribe", "channel": channel.to_string()}).to_string();
            ws::masked(ws::TEXT, subscribe.as_bytes())
        };
        Self::Channel { subscriptions: channels.iter().flat_map(frame).collect() }
    }

    pub(crate) const fn shape(&self) -> Shape {
        match self {
            Self::Typed { .. } | Self::Member { .. } => Shape::Typed,
            Self::Channel { .. } => Shape::Channel,
            Self::Pusher { .. } => Shape::Pusher,
        }
    }

    /// What is sent as soon as the upgrade is answered.
    pub(crate) fn hello(&self) -> &[u8] {
        match self {
            Self::Typed { auth } | Self::Member { auth } => auth,
            Self::Channel { subscriptions } => subscriptions,
            Self::Pusher { .. } => &[],
        }
    }

    /// How many answers make the client ready.
    pub(crate) fn answers(&self) -> usize {
        match self {
            Self::Typed { .. } | Self::Member { .. } => 1,
            Self::Channel { .. } => 0,
            Self::Pusher { channels } => channels.len(),
        }
    }

    /// Judges a frame that carries no event.
    pub(crate) fn hear(&self, payload: &[u8]) -> Result<Heard> {
        let frame: Value = serde_json::from_slice(payload)?;
        let pusher = matches!(self, Self::Pusher { .. });
        let is_member = matches!(self, Self::Member { .. });
        match frame[if pusher { "event" } else { "type" }].as_str() {
            Some("auth_response") if frame["data"]["authenticated"] == true => {
                Ok(if is_member { Heard::Nothing } else { Heard::Answer })
            }
            Some("presence_members") if is_member => Ok(Heard::Answer),
            Some("member_added" | "member_removed") if is_member => Ok(Heard::Nothing),
            Some("ping") => {
                let pong = json!({"type": "pong", "timestamp": frame["timestamp"]}).to_string();
                Ok(Heard::Reply(ws::masked(ws::TEXT, pong.as_bytes())))
            }
            Some("pusher:connection_established") => Ok(Heard::Reply(self.subscribe(&frame)?)),
            Some("pusher_internal:subscription_succeeded") => Ok(Heard::Answer),
            Some("pusher:ping") => {
                Ok(Heard::Reply(ws::masked(ws::TEXT, br#"{"event":"pusher:pong","data":{}}"#)))
            }
            _ => Err(format!("unexpected frame {frame}").into()),
        }
    }

    fn subscribe(&self, established: &Value) -> Result<Vec<u8>> {
        let Self::Pusher { channels } = self else { return Err("a Pusher frame from the old server".into()) };
        let data: Value = serde_json::from_str(established["data"].as_str().unwrap_or_default())?;
        let socket_id = data["socket_id"].as_str().ok_or("connection_established without socket_id")?;
        Ok(channels.iter().flat_map(|channel| subscription(channel, socket_id)).collect())
    }
}

/// A frame that a client was sent.
#[derive(Debug)]
pub(crate) enum Heard {
    /// One of those that it waits for.
    Answer,
    /// One that wants this answer.
    Reply(Vec<u8>),
    /// One that is as expected.
    Nothing,
}

fn auth(token: &str) -> Vec<u8> {
    let auth = json!({"type": "auth", "token": format!("Bearer {token}")}).to_string();
    ws::masked(ws::TEXT, auth.as_bytes())
}

/// A Pusher client's subscription, signed if the channel is private.
pub(crate) fn subscription(channel: &str, socket_id: &str) -> Vec<u8> {
    let mut data = json!({"channel": channel});
    if channel.starts_with("private-") {
        data["auth"] = credentials::channel_auth(socket_id, channel).into();
    }
    ws::masked(ws::TEXT, json!({"event": "pusher:subscribe", "data": data}).to_string().as_bytes())
}

/// Where a Pusher client connects.
pub(crate) fn pusher_path() -> String {
    format!("/app/{}?protocol=7&client=pusher-bridge-load&version=1.0.0", credentials::APP_KEY)
}

/// The source address of the `client`th client: 127.0.0.0/8, so that no limit per address is met.
pub(crate) fn source(client: usize) -> Ipv4Addr {
    let [.., b, c, d] = u32::try_from(client / CLIENTS_PER_ADDRESS + 256).unwrap_or_default().to_be_bytes();
    Ipv4Addr::new(127, b.saturating_add(1), c, d)
}

/// The user of the `client`th client.
pub(crate) fn user(client: usize) -> String {
    format!("user-{}", client / CLIENTS_PER_USER)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn no_address_and_no_user_has_too_many_clients() {
        let mut addresses: HashMap<Ipv4Addr, usize> = HashMap::new();
        let mut users: HashMap<String, usize> = HashMap::new();
        for client in 0..18_000 {
            *addresses.entry(source(client)).or_default() += 1;
            *users.entry(user(client)).or_default() += 1;
        }
        assert_eq!(addresses.values().max(), Some(&CLIENTS_PER_ADDRESS));
        assert_eq!(users.values().max(), Some(&CLIENTS_PER_USER));
        assert!(!addresses.contains_key(&Ipv4Addr::LOCALHOST), "the servers' own address");
    }

    #[test]
    fn what_was_not_expected_is_an_error() {
        let script = Script::typed("token");
        assert!(script.hear(br#"{"type":"auth_error","data":{"error":"INVALID_TOKEN"}}"#).is_err());
        assert!(matches!(script.hear(br#"{"type":"ping","timestamp":"t"}"#).unwrap(), Heard::Reply(_)));
        let ok = br#"{"type":"auth_response","data":{"authenticated":true}}"#;
        assert!(matches!(script.hear(ok).unwrap(), Heard::Answer));
    }
}
