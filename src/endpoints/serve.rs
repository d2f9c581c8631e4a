//! One request to an endpoint: who asks, what, and what it is answered. Who has a right token is answered whatever
//! others at its address do; what has none costs little, and is counted.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, ORIGIN};
use secrecy::ExposeSecret as _;
use tokio::runtime::Handle;

use super::authorize::{Asked, NotGiven, given};
use super::body::{self, Bodies, Body};
use super::member;
use super::metrics::Metrics;
use super::notify::{self, Notice};
use super::reply::{EndpointResult, Reply};
use super::request::{self, AuthRequest};
use super::settings::{Endpoint, Settings};
use super::webhooks::{Batch, Seen};
use crate::auth::{Claims, Identity, Verify};
use crate::clock::Now;
use crate::limits::address::AddressGate;
use crate::limits::rate::Rate;
use crate::limits::users::UserRates;
use crate::pusher::channel::ChannelKind;
use crate::pusher::encryption::MasterKey;
use crate::pusher::sign::Signer;
use crate::routes::generation::Generation;
use crate::template::escape_into;
use crate::text::loggable;
use crate::upstream::api::{Api, Outcome};
use crate::upstream::occupancy::Occupancy;

/// How much later a token is judged when too many wrong ones came from its address: as on WebSockets.
const THROTTLE: Duration = Duration::from_secs(1);
/// For a request from its head to its answer; the connection is cut a little later.
pub const HANDLING_MAX: Duration = Duration::from_secs(9);
/// Of it, what is kept to tell what became of a request to Pusher.
const TELLING: Duration = Duration::from_millis(500);
/// Largest body of a request for a signature, bytes: two names and some fields of the client's own.
pub const AUTH_BODY_BYTES_MAX: usize = 16 * 1024;
/// When to come again where nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Wrong tokens of publishers from one address, where there is no `[auth]` to say how many.
const GUESSES: Rate = Rate { count: 20, per: Duration::from_secs(60), burst: 20 };

/// What the endpoints need of the rest.
pub struct Parts {
    pub settings: Settings,
    /// Of each key whose webhooks are taken, beside the one that requests are signed with.
    pub signers: Vec<Signer>,
    /// For encrypted channels, where there are any.
    pub master_key: Option<MasterKey>,
    pub api: Arc<Api>,
    /// Where requests to Pusher are made: a worker's runtime may end before what it connected.
    pub main: Handle,
    /// How long a request to Pusher may take.
    pub publish_timeout: Duration,
    /// Largest data of an event, bytes.
    pub event_bytes_max: usize,
    /// Where webhooks are taken.
    pub occupancy: Option<Arc<Occupancy>>,
    pub metrics: Arc<Metrics>,
    pub ipv6_prefix: u8,
}

/// All endpoints, and what they remember.
pub struct Endpoints {
    parts: Parts,
    users: Arc<UserRates<Identity>>,
    unproven: Option<Arc<AddressGate>>,
    guesses: Arc<AddressGate>,
    bodies: Arc<Bodies>,
    seen: Arc<Mutex<Seen>>,
}

/// What is told of a request beside its answer.
#[derive(Default)]
struct Told {
    user: String,
    channel: String,
}

/// A request, as far as endpoints look at it.
pub struct Incoming<'r, B> {
    pub headers: &'r HeaderMap,
    pub body: &'r mut B,
    /// The client, as far as proxies can be believed.
    pub address: IpAddr,
    pub is_post: bool,
    pub generation: &'r Generation,
    /// New requests are not welcome: the server shuts down, or has too many connections.
    pub turned_away: bool,
}

impl Endpoints {
    #[must_use]
    pub fn new(parts: Parts, now: Instant) -> Self {
        Self::after(None, parts, now)
    }

    /// By `parts`, after those `before`: what those remember stays, but for what is counted by another limit now.
    #[must_use]
    pub fn after(before: Option<&Self>, parts: Parts, now: Instant) -> Self {
        let limits = &parts.settings.limits;
        let gate = |rate: Rate| Arc::new(AddressGate::new(rate, parts.ipv6_prefix, now));
        let same_rate = before.filter(|before| {
            before.parts.settings.limits.unproven_per_address == limits.unproven_per_address
        });
        let same_bodies =
            before.filter(|before| before.parts.settings.limits.bodies_bytes_max == limits.bodies_bytes_max);
        Self {
            users: before.map(|before| before.users.clone()).unwrap_or_default(),
            unproven: match same_rate {
                Some(before) => before.unproven.clone(),
                None => limits.unproven_per_address.map(gate),
            },
            guesses: before.map_or_else(|| gate(GUESSES), |before| before.guesses.clone()),
            bodies: same_bodies
                .map_or_else(|| Bodies::new(limits.bodies_bytes_max), |before| before.bodies.clone()),
            seen: before.map(|before| before.seen.clone()).unwrap_or_default(),
            parts,
        }
    }

    /// What the file says of them.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.parts.settings
    }

    /// Forgets whose buckets are full. To be called by a timer, once a minute or so.
    pub fn upkeep(&self, now: Instant) {
        self.users.upkeep(now);
        self.unproven.iter().chain([&self.guesses]).for_each(|gate| gate.upkeep(now));
    }

    /// Answers a request. It is noted: in the metrics, and by one line of the log.
    pub async fn answer<B: Body>(&self, endpoint: Endpoint, mut request: Incoming<'_, B>) -> Reply {
        let mut told = Told::default();
        let handled = self.handle(endpoint, &mut request, &mut told);
        let reply = match tokio::time::timeout(HANDLING_MAX, handled).await {
            Ok(reply) => reply,
            Err(_) => unavailable("no answer in time").after(RETRY_AFTER),
        };
        self.note(endpoint, request.address, &told, &reply);
        reply
    }

    /// Notes that a page asked whether it may ask.
    pub fn note_preflight(&self, endpoint: Endpoint, address: IpAddr, allowed: bool) -> Reply {
        let result = if allowed { EndpointResult::Preflight } else { EndpointResult::Origin };
        let reply = Reply::from(result);
        self.note(endpoint, address, &Told::default(), &reply);
        reply
    }

    fn note(&self, endpoint: Endpoint, address: IpAddr, told: &Told, reply: &Reply) {
        self.parts.metrics.requests.get(endpoint).get(reply.result).increment(1);
        tracing::info!(
            endpoint = endpoint.label(),
            client.address = %address,
            user = loggable(&told.user),
            channel = loggable(&told.channel),
            result = reply.result.label(),
            why = reply.why.as_deref().map(loggable),
            "endpoint"
        );
    }

    async fn handle<B: Body>(
        &self,
        endpoint: Endpoint,
        request: &mut Incoming<'_, B>,
        told: &mut Told,
    ) -> Reply {
        if request.turned_away {
            return unavailable("shutting down, or too many connections").after(RETRY_AFTER);
        }
        if !request.is_post {
            return self.unproven(request.address, EndpointResult::Method.into());
        }
        let handled = match endpoint {
            Endpoint::ChannelAuth => self.channel_auth(request, told).await,
            Endpoint::UserAuth => self.user_auth(request, told).await,
            Endpoint::Notify => self.notify(request, told).await,
            Endpoint::Webhooks => self.webhook(request).await,
        };
        handled.unwrap_or_else(|reply| reply)
    }

    /// Counts a request that has shown nothing; beyond the rate of its address the answer is another.
    fn unproven(&self, address: IpAddr, reply: Reply) -> Reply {
        let counted = |gate: &AddressGate| gate.record_failure(address, Now::read().mono);
        match self.unproven.as_deref().map_or(Ok(()), counted) {
            Ok(()) => reply,
            Err(wait) => Reply::because(EndpointResult::RateLimited, "too many requests").after(wait),
        }
    }

    // ------------------------------------------------------------------------------------ signatures

    async fn channel_auth<B: Body>(
        &self,
        request: &mut Incoming<'_, B>,
        told: &mut Told,
    ) -> Result<Reply, Reply> {
        let claims = self.user(request, told).await?;
        let AuthRequest { socket_id, channel } = self.auth_request(request, true).await?;
        told.channel.clone_from(&channel);
        let origins = origins(request.headers);
        let asked = Asked { channel: &channel, claims: &claims, origins: &origins, now: Now::read() };
        let filtered = &self.parts.settings.filtered;
        let routes = request.generation.of_channel(&channel).map(|route| &**route);
        let route =
            given(routes, &asked, |route| filtered.contains(&route.name)).map_err(|why| refused(&why))?;
        let kind = ChannelKind::of(&channel);
        let data = match kind {
            ChannelKind::Presence => {
                Some(member::channel_data(route, &claims).map_err(|why| refused(&NotGiven::Denied(why)))?)
            }
            _ => None,
        };
        let shared_secret = match kind {
            ChannelKind::Encrypted => {
                let key = self.parts.master_key.as_ref();
                let key = key.ok_or_else(|| forbidden("there is no key for encrypted channels".into()))?;
                Some(key.of_channel(&channel).shared_secret())
            }
            _ => None,
        };
        let auth = self.parts.api.pair().signer.channel_auth(&socket_id, &channel, data.as_deref());
        Ok(Reply::ok(object(&[
            ("auth", Some(&auth)),
            ("channel_data", data.as_deref()),
            ("shared_secret", shared_secret.as_deref()),
        ])))
    }

    async fn user_auth<B: Body>(
        &self,
        request: &mut Incoming<'_, B>,
        told: &mut Told,
    ) -> Result<Reply, Reply> {
        let claims = self.user(request, told).await?;
        let AuthRequest { socket_id, .. } = self.auth_request(request, false).await?;
        let (own, origins) = (member::own_channel(&claims), origins(request.headers));
        let asked = Asked { channel: &own, claims: &claims, origins: &origins, now: Now::read() };
        let routes = request.generation.routes().iter().map(|route| &**route);
        let data =
            member::user_data(routes, &asked, &self.parts.settings.signed_in).map_err(|why| refused(&why))?;
        let auth = self.parts.api.pair().signer.user_auth(&socket_id, &data);
        Ok(Reply::ok(object(&[("auth", Some(&auth)), ("user_data", Some(&data))])))
    }

    async fn auth_request<B: Body>(
        &self,
        request: &mut Incoming<'_, B>,
        names_channel: bool,
    ) -> Result<AuthRequest, Reply> {
        let held = self.body(request, AUTH_BODY_BYTES_MAX).await?;
        let kind = request.headers.get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or("?"));
        request::read(kind, &held.bytes, names_channel)
            .map_err(|why| Reply::because(EndpointResult::Malformed, why))
    }

    /// Who asks, by a token that is judged as those of WebSockets are.
    async fn user<B>(&self, request: &Incoming<'_, B>, told: &mut Told) -> Result<Claims, Reply> {
        let address = request.address;
        let Some(token) = bearer(request.headers) else {
            return Err(self.unproven(address, EndpointResult::NoToken.into()));
        };
        let Some(judge) = request.generation.judge() else {
            return Err(unavailable("there are no keys").after(RETRY_AFTER));
        };
        let came_at = Now::read();
        if token.len() <= judge.settings.token_bytes_max {
            throttle(&judge.wrong_tokens, address, came_at.mono).await;
        }
        let verdict = match judge.verifier.verify(token, came_at) {
            Verify::Done(verdict) => verdict,
            Verify::NeedsKeys => judge.verifier.verify_after_refresh(token, came_at).await,
        };
        let claims = verdict.map_err(|error| {
            if !error.is_tokens_fault() {
                let wait = judge.verifier.retry_after(Now::read()).max(RETRY_AFTER);
                return unavailable(error.to_string()).after(wait);
            }
            let reply = Reply { why: Some(error.to_string().into()), ..EndpointResult::WrongToken.into() };
            self.wrong(&judge.wrong_tokens, address, reply)
        })?;
        told.user.clone_from(&claims.user);
        let now = Now::read().mono;
        let rate = self.parts.settings.limits.requests_per_user;
        let allowed = rate.map_or(Ok(()), |rate| self.users.gate(claims.identity(), rate, now).check(now));
        match allowed {
            Ok(()) => Ok(claims),
            Err(wait) => Err(Reply::from(EndpointResult::UserRateLimited).after(wait)),
        }
    }

    /// Counts a wrong token, with those of WebSockets.
    fn wrong(&self, gate: &AddressGate, address: IpAddr, reply: Reply) -> Reply {
        match gate.record_failure(address, Now::read().mono) {
            Ok(()) => self.unproven(address, reply),
            Err(wait) => Reply { why: reply.why, ..EndpointResult::RateLimited.into() }.after(wait),
        }
    }

    // ------------------------------------------------------------------------------------ publishers

    async fn notify<B: Body>(&self, request: &mut Incoming<'_, B>, told: &mut Told) -> Result<Reply, Reply> {
        let began = tokio::time::Instant::now();
        let address = request.address;
        let expected = self.parts.settings.notify.as_ref().and_then(|notify| notify.token.as_ref());
        let expected = expected.ok_or_else(|| unavailable("it is off"))?;
        let Some(token) = bearer(request.headers) else {
            return Err(self.unproven(address, EndpointResult::NoToken.into()));
        };
        let judge = request.generation.judge();
        let gate = judge.map_or(&self.guesses, |judge| &judge.wrong_tokens);
        throttle(gate, address, Now::read().mono).await;
        if verify_slices_are_equal(token.as_bytes(), expected.expose_secret().as_bytes()).is_err() {
            return Err(self.wrong(gate, address, EndpointResult::WrongToken.into()));
        }
        let held = self.body(request, self.parts.settings.limits.body_bytes_max).await?;
        let notice = notify::read(&held.bytes, self.parts.event_bytes_max)?;
        told.channel = notice.channels.join(",");
        let left = HANDLING_MAX.saturating_sub(began.elapsed()).saturating_sub(TELLING);
        let timeout = self.parts.publish_timeout.min(left);
        let api = self.parts.api.clone();
        let published = self.parts.main.spawn(async move {
            let Notice { channels, event, data, socket_id } = &notice;
            api.notify(channels, event, data, socket_id.as_deref(), timeout).await
        });
        match published.await.map_err(|error| unavailable(error.to_string()))? {
            Outcome::Accepted => Ok(Reply::ok(r#"{"success":true}"#.to_owned())),
            Outcome::Rejected { why, .. } => Err(Reply::because(EndpointResult::Refused, why)),
            Outcome::Retry { why, wait, .. } => Err(unavailable(why).after(wait.unwrap_or(RETRY_AFTER))),
            _ => Err(unavailable("it was not sent").after(RETRY_AFTER)),
        }
    }

    // -------------------------------------------------------------------------------------- webhooks

    async fn webhook<B: Body>(&self, request: &mut Incoming<'_, B>) -> Result<Reply, Reply> {
        let held = self.body(request, self.parts.settings.limits.body_bytes_max).await?;
        let header = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
        let (key, signature) = (header("x-pusher-key"), header("x-pusher-signature"));
        let signature = signature.unwrap_or("");
        let (key, pair) = (key.unwrap_or(""), self.parts.api.pair());
        let mut signers = std::iter::once(&pair.signer).chain(&self.parts.signers);
        if !signers.any(|signer| signer.signed_webhook(key, &held.bytes, signature)) {
            let why = "its signature is not that of its body by this app's secret";
            let reply = Reply::because(EndpointResult::WrongToken, why);
            return Err(self.unproven(request.address, reply));
        }
        let malformed = |why| Reply::because(EndpointResult::Malformed, why);
        let batch = Batch::read(&held.bytes).map_err(malformed)?;
        let now = Now::read();
        if !batch.is_of_now(now.unix_ms) {
            return Err(EndpointResult::Stale.into());
        }
        if !self.seen.lock().unwrap_or_else(PoisonError::into_inner).is_new(signature, now.mono) {
            return Ok(Reply { result: EndpointResult::Repeated, ..Reply::ok(SUCCESS.to_owned()) });
        }
        for (kind, _) in &batch.events {
            self.parts.metrics.webhook_events.get(*kind).increment(1);
        }
        if let Some(occupancy) = &self.parts.occupancy {
            for (channel, occupied) in batch.occupancy() {
                occupancy.told(channel, occupied, batch.time_ms, now.mono);
            }
        }
        Ok(Reply::ok(SUCCESS.to_owned()))
    }

    async fn body<B: Body>(
        &self,
        request: &mut Incoming<'_, B>,
        bytes_max: usize,
    ) -> Result<body::Held, Reply> {
        let timeout = self.parts.settings.limits.body_timeout;
        body::read(request.headers, &mut *request.body, bytes_max, timeout, &self.bodies).await
    }
}

const SUCCESS: &str = r#"{"success":true}"#;

fn unavailable(why: impl Into<Cow<'static, str>>) -> Reply {
    Reply::because(EndpointResult::Unavailable, why)
}

fn forbidden(why: Cow<'static, str>) -> Reply {
    Reply::because(EndpointResult::Forbidden, why)
}

/// Who asks is told as much as an old client is.
fn refused(why: &NotGiven) -> Reply {
    let text: Cow<'static, str> = match why {
        NotGiven::NoRoute => "no route gives this channel".into(),
        NotGiven::Gone => "the endpoint that gave this channel is past its sunset".into(),
        NotGiven::Origin => "this origin is not allowed".into(),
        NotGiven::Denied(denied) => denied.to_string().into(),
        NotGiven::Filtered => "each client gets a part of this channel only, which Pusher cannot do".into(),
    };
    forbidden(text)
}

fn origins(headers: &HeaderMap) -> Vec<&str> {
    headers.get_all(ORIGIN).iter().map(|origin| origin.to_str().unwrap_or("")).collect()
}

/// The token of the only `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Where wrong tokens come too often from the address, each is judged a moment later: a guesser is slowed, and a
/// neighbour behind the same address is not locked out.
async fn throttle(gate: &AddressGate, address: IpAddr, now: Instant) {
    if gate.check(address, now).is_err() {
        tokio::time::sleep(THROTTLE).await;
    }
}

/// A JSON object of the members that are there.
fn object(members: &[(&str, Option<&str>)]) -> String {
    let mut out = String::with_capacity(256);
    for (name, value) in members {
        let Some(value) = value else { continue };
        out.push_str(if out.is_empty() { "{\"" } else { ",\"" });
        out.push_str(name);
        out.push_str("\":\"");
        escape_into(&mut out, value);
        out.push('"');
    }
    out.push('}');
    out
}
