//! What `[endpoints]` says.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::limits::rate::Rate;
use crate::routes::membership::Membership;
use crate::routes::origins::Origins;

/// `[endpoints]`
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where new clients have channels authorized (default none).
    pub channel_auth: Vec<String>,
    /// Where new clients have sign-ins authorized (default none).
    pub user_auth: Option<String>,
    /// Where backends publish (default none).
    pub notify: Option<Notify>,
    /// Where Pusher's webhooks come (default none).
    pub webhooks: Option<String>,
    /// Origins whose pages may ask from elsewhere (default none).
    pub origins: Origins,
    /// What a signed-in user is, where no route gives users their own channel (default: the id alone).
    pub signed_in: Membership,
    /// Names of routes whose channels are authorized although the routes filter them (default none).
    pub filtered: Vec<Arc<str>>,
    pub limits: Limits,
}

/// `endpoints.notify`
#[derive(Clone, Debug)]
pub struct Notify {
    pub path: String,
    /// What a publisher must know; `None`: the endpoint is off.
    pub token: Option<SecretString>,
}

/// `[endpoints.limits]`
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest body of a request, bytes (default 256 KiB, and enough for an event of `upstream.event_bytes`).
    pub body_bytes_max: usize,
    /// Bytes of bodies held at once, for all requests together (default 16 MiB). Beyond that requests are answered 503.
    pub bodies_bytes_max: usize,
    /// From a request's head to the last byte of its body (default 3 s).
    pub body_timeout: Duration,
    /// Requests of one address without a right token or signature; beyond they are answered 429 (default 600 a
    /// minute). `None`: unlimited.
    pub unproven_per_address: Option<Rate>,
    /// How long a channel that Pusher said is vacated is believed to be, if nothing else is heard (default 1 h).
    pub vacated_max_age: Duration,
    /// Requests of one user with a right token (default 600 a minute). `None`: unlimited.
    pub requests_per_user: Option<Rate>,
}

impl Settings {
    /// Every path that is served, and what for.
    pub fn paths(&self) -> impl Iterator<Item = (Endpoint, &str)> {
        let channel_auth = self.channel_auth.iter().map(|path| (Endpoint::ChannelAuth, path.as_str()));
        let user_auth = self.user_auth.iter().map(|path| (Endpoint::UserAuth, path.as_str()));
        let on = self.notify.iter().filter(|notify| notify.token.is_some());
        let notify = on.map(|notify| (Endpoint::Notify, notify.path.as_str()));
        let webhooks = self.webhooks.iter().map(|path| (Endpoint::Webhooks, path.as_str()));
        channel_auth.chain(user_auth).chain(notify).chain(webhooks)
    }

    /// What `path` is, if it is one of these.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<Endpoint> {
        self.paths().find(|(_, served)| *served == path).map(|(endpoint, _)| endpoint)
    }
}

crate::metrics::label::labels! {
    /// What is served beside WebSockets.
    pub enum Endpoint: "endpoint" {
        ChannelAuth = "channel_auth",
        UserAuth = "user_auth",
        Notify = "notify",
        Webhooks = "webhooks",
    }
}
