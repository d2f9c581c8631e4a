//! What `[upstream]` says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::members;
use crate::net::proxies::Proxies;
use crate::pusher::encryption::MasterKey;

/// `[upstream]`
#[derive(Clone, Debug)]
pub struct Settings {
    /// The app's credentials and where it is.
    pub app: App,
    /// Shared connections; a hash of the channel picks one (default 1).
    pub connections: usize,
    /// Whether each has a second one beside it, on the same channels (default no). Of a link: whether it is one of two.
    pub standby: bool,
    /// What a link waits for.
    pub times: Times,
    /// Largest data of an event, bytes (default 10,240, the hosted service's).
    pub event_bytes_max: usize,
    /// Largest frame accepted from upstream, bytes (default 256 KiB, or what holds the largest event).
    pub frame_bytes_max: usize,
    /// Publishing by HTTP.
    pub publish: Publish,
    /// Links that are one user's own.
    pub members: members::settings::Settings,
    /// Forward proxies, as the environment names them; for backends and keys as well.
    pub proxies: Arc<Proxies>,
}

/// How long a link waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Dialling, TLS and `pusher:connection_established` together (default 10 s).
    pub connect_timeout: Duration,
    /// From `pusher:subscribe` to its success (default 10 s).
    pub subscribe_timeout: Duration,
    /// How long a ping to Pusher may stay unanswered (default 30 s, Pusher's own advice).
    pub pong_timeout: Duration,
    /// How long a channel without subscribers stays subscribed (default 1 s).
    pub linger: Duration,
    /// How often it is checked whether Pusher has forgotten a subscription, or the connection (default 5 min);
    /// `None`: never.
    pub check_interval: Option<Duration>,
    /// Longest delay between reconnects (default 30 s).
    pub reconnect_delay_max: Duration,
}

/// A Pusher app: its credentials and its addresses.
#[derive(Clone, Debug)]
pub struct App {
    /// The app's id, in HTTP paths.
    pub id: String,
    /// The app's key: public.
    pub key: String,
    /// The app's secret.
    pub secret: SecretString,
    /// Other keys of the app, with their secrets: what is signed with one of them is believed.
    pub other_keys: Vec<OtherKey>,
    /// Of encrypted channels; `None`: no route has any.
    pub encryption_master_key: Option<MasterKey>,
    /// Where the WebSocket is.
    pub ws: Endpoint,
    /// Where the HTTP API is.
    pub api: Endpoint,
    /// `Origin` of the WebSocket's handshake; `None`: no such header.
    pub origin: Option<String>,
    /// PEM file of certificates to trust beside the built-in authorities: of other authorities, or the server's own.
    pub ca_file: Option<PathBuf>,
    /// What that file said when the configuration was read, if it could be read: by it a change of it is known.
    pub ca_text: Option<Arc<str>>,
}

impl App {
    /// All its keys and their secrets, the one that signs and connects first.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &SecretString)> {
        let others = self.other_keys.iter().map(|other| (other.key.as_str(), &other.secret));
        std::iter::once((self.key.as_str(), &self.secret)).chain(others)
    }
}

/// `[[upstream.other_keys]]`
#[derive(Clone, Debug)]
pub struct OtherKey {
    pub key: String,
    pub secret: SecretString,
}

impl PartialEq for OtherKey {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.secret.expose_secret() == other.secret.expose_secret()
    }
}

/// Where one side of a Pusher app is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name or address; an IPv6 address without brackets.
    pub host: String,
    /// `None` is the scheme's own.
    pub port: Option<u16>,
    /// `wss` and `https`, or `ws` and `http`.
    pub tls: bool,
    /// What comes before the path: empty, or `/` and more, without one at its end.
    pub path: String,
}

impl Endpoint {
    /// Host and port as a URL has them; an IPv6 address in brackets (RFC 3986 §3.2.2).
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        self.port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
    }

    /// The URL before `/app/…` or `/apps/…`, with the plain scheme or its variant over TLS.
    #[must_use]
    pub fn base(&self, plain: &str, over_tls: &str) -> String {
        let scheme = if self.tls { over_tls } else { plain };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }
}

/// `[upstream.publish]`
#[derive(Clone, Debug)]
pub struct Publish {
    /// Requests in flight at once; a hash of the channel picks the lane, so each channel keeps its order
    /// (default 4).
    pub lanes: usize,
    /// Messages waiting in one lane (default 1,000).
    pub queue_messages_max: usize,
    /// Bytes waiting in one lane (default 4 MiB).
    pub queue_bytes_max: usize,
    /// Events in one request, at most Pusher's own 10 (default 10). 1: `/events` is used, not `/batch_events`.
    pub batch_max: usize,
    /// One request (default 5 s).
    pub timeout: Duration,
    /// A message's whole life in its lane, retries included (default 30 s).
    pub deadline: Duration,
}
