//! One request that is passed on: where to, by which connection, and what comes back.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{EXPECT, HOST, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::body::{Answering, Outgoing, Sent};
use super::fields::{self, Asked};
use super::metrics::{Failure, Metrics, OfUpstream, StatusClass};
use super::pool::{Io, Lease, Pool};
use super::settings::{Settings, has_dots};
use super::tunnel::{Held, Tunnel};
use crate::http::server::{Answer, Progress, close, full, problem};
use crate::limits::slots::{Acquire, Permit, Slots as ByKey};
use crate::metrics::GaugeGuard;
use crate::net::destination::Destination;

/// How long an upstream that was told of a body may take to ask for it (RFC 9110 §10.1.1); then it gets it unasked.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that were kept, and are found closed before anything was sent, that are tried before a new one is made.
const STALE_MAX: usize = 4;
/// After how many seconds a client may try again where too much is under way.
const RETRY_AFTER_S: &str = "5";

/// What all requests share that are passed on, whatever the file says meanwhile.
pub struct Counts {
    requests: Arc<AtomicUsize>,
    tunnels: Arc<AtomicUsize>,
    requests_by_address: ByKey<IpAddr, ()>,
    tunnels_by_address: ByKey<IpAddr, ()>,
    metrics: Metrics,
}

impl Counts {
    #[must_use]
    pub fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            requests: Arc::default(),
            tunnels: Arc::default(),
            requests_by_address: ByKey::new(),
            tunnels_by_address: ByKey::new(),
            metrics,
        })
    }
}

/// What is in force.
pub struct Fallback {
    pub settings: Settings,
    counts: Arc<Counts>,
    /// Made once, so that none is looked for by its name.
    metrics: Vec<(Arc<Destination>, Arc<OfUpstream>)>,
}

impl Fallback {
    #[must_use]
    pub fn new(settings: Settings, counts: Arc<Counts>) -> Self {
        let metrics = settings.destinations().map(|to| (to.clone(), counts.metrics.of(&to.name))).collect();
        Self { settings, counts, metrics }
    }

    fn metrics_of(&self, to: &Arc<Destination>) -> Arc<OfUpstream> {
        let made = self.metrics.iter().find(|(one, _)| Arc::ptr_eq(one, to));
        made.map_or_else(|| self.counts.metrics.of(&to.name), |(_, metrics)| metrics.clone())
    }
}

/// A share of a number, and one of an address's, given back on drop.
pub struct Slots {
    _one: One,
    _of_address: Permit<IpAddr, ()>,
}

struct One(Arc<AtomicUsize>);

impl One {
    fn take(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        // Counted before it is compared, and given back by drop.
        let one = Self(count.clone());
        (before < max).then_some(one)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request from its head to the last byte of its answer.
pub struct UnderWay {
    pub(super) metrics: Arc<OfUpstream>,
    /// `None`: it was upgraded, and may take for ever.
    begun: Option<Instant>,
    failure: Option<Failure>,
    succeeded: bool,
    sent: Arc<Sent>,
    _gauge: GaugeGuard,
    _slots: Option<Slots>,
}

impl UnderWay {
    pub(super) const fn fail(&mut self, failure: Failure) {
        self.failure = Some(failure);
    }

    pub(super) const fn succeed(&mut self) {
        self.succeeded = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.sent.give_up();
        match self.failure {
            Some(failure) => self.metrics.failures.get(failure).increment(1),
            None if self.succeeded => {}
            // Whoever waited is dropped with all it waited for.
            None => self.metrics.failures.get(Failure::ClientGone).increment(1),
        }
        if let Some(begun) = self.begun {
            self.metrics.seconds.record(begun.elapsed().as_secs_f64());
        }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct From {
    pub peer: IpAddr,
    pub is_trusted: bool,
    pub believes_forwarded: bool,
    pub believes_x_forwarded_for: bool,
    /// As far as proxies are believed.
    pub client: IpAddr,
    /// What limits count it as.
    pub counts_as: IpAddr,
    pub scheme: &'static str,
}

/// What becomes of a request.
pub enum Passed {
    /// Nothing is there.
    Nowhere,
    Answered(Answer),
    /// It is the 101.
    Upgraded(Answer, Box<Tunnel>),
}

/// Passes a request on. Its body is read as the upstream takes it.
pub async fn pass_on(
    fallback: &Fallback,
    pool: &Arc<Pool>,
    (mut head, body): (Parts, Incoming),
    from: From,
    progress: &Arc<Progress>,
) -> Passed {
    let settings = &fallback.settings;
    let Some(to) = settings.choose(head.uri.path()).to else { return Passed::Nowhere };
    let metrics = fallback.metrics_of(to);
    let wrong =
        progress.wrong().or_else(|| has_dots(head.uri.path()).then_some("its path has dots for segments"));
    if let Some(why) = wrong {
        let mut refused = refuse(&metrics, to, Failure::Malformed, why);
        close(&mut refused);
        return Passed::Answered(refused);
    }
    let way = Way { settings, to, metrics: &metrics, counts: Some(&fallback.counts) };
    if !fields::may_go_further(&head.method, &mut head.headers) {
        metrics.failures.get(Failure::MaxForwards).increment(1);
        return Passed::Answered(last_stop(&head.method));
    }
    match exchange(way, pool, (head, body), from, progress).await {
        Ok(passed) => passed,
        Err((failure, why)) => Passed::Answered(refuse(&metrics, to, failure, &why)),
    }
}

/// The answer to what the client wants to come no further than here (RFC 9110 §7.6.2).
fn last_stop(method: &Method) -> Answer {
    let mut answer = if *method == Method::OPTIONS {
        let mut answer = Response::new(Bytes::new());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        answer
    } else {
        // What came would be shown to scripts, cookies included.
        problem(status(Failure::MaxForwards), "requests are not shown to those who send them here")
    };
    close(&mut answer);
    answer.map(full)
}

/// Why a request is not passed on, and the same in words.
pub type Refused = (Failure, String);

/// Asks an old server for the WebSocket of a route that it serves. Its limits are the route's, its times the fallback's.
///
/// # Errors
/// It cannot be asked, or does not answer.
pub async fn ask(
    fallback: &Fallback,
    pool: &Arc<Pool>,
    to: &Arc<Destination>,
    request: (Parts, Incoming),
    from: From,
    progress: &Arc<Progress>,
) -> Result<Passed, Refused> {
    let metrics = fallback.metrics_of(to);
    let way = Way { settings: &fallback.settings, to, metrics: &metrics, counts: None };
    let asked = match progress.wrong() {
        None => exchange(way, pool, request, from, progress).await,
        Some(why) => Err((Failure::Malformed, why.to_owned())),
    };
    asked.inspect_err(|(failure, _)| metrics.failures.get(*failure).increment(1))
}

/// Where a request goes, and what bounds it.
#[derive(Clone, Copy)]
struct Way<'a> {
    settings: &'a Settings,
    to: &'a Arc<Destination>,
    metrics: &'a Arc<OfUpstream>,
    /// `None`: it was counted before.
    counts: Option<&'a Counts>,
}

async fn exchange(
    Way { settings, to, metrics, counts }: Way<'_>,
    pool: &Arc<Pool>,
    (mut head, body): (Parts, Incoming),
    from: From,
    progress: &Arc<Progress>,
) -> Result<Passed, Refused> {
    let version = head.version;
    let asked = Asked {
        version,
        peer: from.peer,
        is_trusted: from.is_trusted,
        believes_forwarded: from.believes_forwarded,
        believes_x_forwarded_for: from.believes_x_forwarded_for,
        client: from.client,
        scheme: from.scheme,
        authority: head.uri.authority().map(hyper::http::uri::Authority::as_str),
        has_body: !body.is_end_stream(),
    };
    let upgrades = fields::request(&mut head.headers, &asked);
    let slots = counts.map(|counts| slots(settings, counts, from.counts_as, upgrades)).transpose()?;
    let gauge = if upgrades { &metrics.tunnels } else { &metrics.under_way };
    let gauge = GaugeGuard::new(gauge, 1.0);
    if settings.limits.body_bytes_max.is_some_and(|max| body.size_hint().lower() > max) {
        return Err((Failure::BodyTooLarge, "the request's body is too large".to_owned()));
    }
    let is_held = asked.has_body
        && version == Version::HTTP_11
        && head.headers.get(EXPECT).is_some_and(|what| what.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let sent = Sent::new(is_held, body.is_end_stream());
    progress.stream(settings.idle_timeout);
    let mut request = Request::from_parts(
        head,
        Outgoing::new(body, sent.clone(), progress.clone(), metrics.clone(), settings),
    );
    let target = request.uri().path_and_query().cloned();
    *request.uri_mut() = target.map_or_else(|| Uri::from(PathAndQuery::from_static("/")), Uri::from);
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(&to.name)
    {
        request.headers_mut().insert(HOST, host);
    }
    {
        let (sent, progress) = (sent.clone(), progress.clone());
        hyper::ext::on_informational(&mut request, move |interim| {
            if interim.status() == StatusCode::CONTINUE {
                sent.release();
            } else if version == Version::HTTP_11 {
                progress.interim(interim.status(), interim.headers());
            }
            sent.changed.notify_one();
        });
    }
    let mut under_way = UnderWay {
        metrics: metrics.clone(),
        begun: (!upgrades).then(Instant::now),
        failure: None,
        succeeded: false,
        sent: sent.clone(),
        _gauge: gauge,
        _slots: slots,
    };
    let answered = send(pool, to, settings, metrics, request, &sent).await;
    let (answer, lease) = match answered {
        Ok(answered) => answered,
        Err((failure, why)) => {
            // It is counted where it is answered.
            under_way.succeed();
            return Err((failure, why));
        }
    };
    let (mut answer, body) = answer.into_parts();
    if let Some(why) = fields::wrong_answer(answer.version, answer.status, &answer.headers, upgrades) {
        under_way.succeed();
        return Err((Failure::BadAnswer, format!("the upstream's answer is malformed: {why}")));
    }
    let switches = answer.status == StatusCode::SWITCHING_PROTOCOLS;
    fields::answer(&mut answer.headers, answer.version, switches);
    metrics.requests.get(StatusClass::of(answer.status)).increment(1);
    if switches {
        return upgrade(Response::from_parts(answer, body), under_way, (settings, to)).await;
    }
    // What is left of the body may never come, and the next request could not be told from it.
    let unread = !sent.ended() && answer.status.as_u16() >= 400;
    answer.version = version;
    answer.extensions.clear();
    let body = Answering::new(body, lease, under_way, settings.idle_timeout);
    let mut answer = Response::from_parts(answer, body.boxed_unsync());
    if unread {
        close(&mut answer);
    }
    Ok(Passed::Answered(answer))
}

/// The upstream speaks something else from here on.
async fn upgrade(
    mut answer: Response<Incoming>,
    mut under_way: UnderWay,
    (settings, to): (&Settings, &Arc<Destination>),
) -> Result<Passed, Refused> {
    under_way.succeed();
    let bad = |why: &str| (Failure::BadAnswer, format!("the upstream's upgrade failed: {why}"));
    let upgraded = hyper::upgrade::on(&mut answer).await.map_err(|error| bad(&error.to_string()))?;
    let parts = upgraded.downcast::<TokioIo<Io>>().map_err(|_| bad("it is no socket"))?;
    let metrics = under_way.metrics.clone();
    metrics.tunnels_opened.increment(1);
    let tunnel = Tunnel {
        upstream: parts.io.into_inner(),
        early: parts.read_buf,
        timeout: settings.tunnel_timeout,
        metrics,
        name: Arc::from(to.name.as_str()),
        held: Held { _under_way: under_way },
    };
    let (mut head, _) = answer.into_parts();
    head.extensions.clear();
    Ok(Passed::Upgraded(Response::from_parts(head, full(Bytes::new())), Box::new(tunnel)))
}

fn slots(settings: &Settings, counts: &Counts, address: IpAddr, upgrades: bool) -> Result<Slots, Refused> {
    let limits = &settings.limits;
    let (count, max, by_address, max_of_address, full, full_of_address) = if upgrades {
        let by_address = &counts.tunnels_by_address;
        let max = (limits.tunnels_max, limits.tunnels_per_address);
        (&counts.tunnels, max.0, by_address, max.1, Failure::Tunnels, Failure::TunnelsPerAddress)
    } else {
        let by_address = &counts.requests_by_address;
        let max = (limits.requests_max, limits.requests_per_address);
        (&counts.requests, max.0, by_address, max.1, Failure::Requests, Failure::RequestsPerAddress)
    };
    let one = One::take(count, max).ok_or_else(|| (full, "too many requests are under way".to_owned()))?;
    match by_address.acquire(&address, max_of_address, ()) {
        Acquire::Granted(permit) => Ok(Slots { _one: one, _of_address: permit }),
        Acquire::Full { .. } => {
            Err((full_of_address, "too many requests of this address are under way".to_owned()))
        }
    }
}

/// Sends a request, by a connection that is there or by a new one, and waits for its answer's head. It is sent again
/// only where nothing of it was.
async fn send(
    pool: &Arc<Pool>,
    to: &Arc<Destination>,
    settings: &Settings,
    metrics: &OfUpstream,
    mut request: Request<Outgoing>,
    sent: &Sent,
) -> Result<(Response<Incoming>, Lease), Refused> {
    for attempt in 0.. {
        let waiting = if attempt < STALE_MAX { pool.waiting(to, settings) } else { None };
        let mut lease = match waiting {
            Some(lease) => lease,
            None => connect(pool, to, settings, metrics).await?,
        };
        sent.begun();
        lease.begin();
        let begun = Instant::now();
        let mut sending = std::pin::pin!(lease.sender.try_send_request(request));
        let result = loop {
            let patience = match sent.is_held() {
                true => begun + CONTINUE_TIMEOUT,
                false => sent.patience(settings.answer_timeout),
            };
            tokio::select! {
                result = &mut sending => break result,
                () = sent.changed.notified() => {}
                () = sleep_until(patience) => {
                    if sent.is_held() {
                        sent.release();
                    } else if sent.patience(settings.answer_timeout) <= Instant::now() {
                        return Err((Failure::AnswerTimeout, "the upstream has not answered in time".to_owned()));
                    }
                }
            }
        };
        let mut error = match result {
            Ok(answer) => return Ok((answer, lease)),
            Err(error) => error,
        };
        match error.take_message() {
            _ if lease.has_wrong_lines() => {
                let why = "the upstream's answer is malformed: a line of its head ends with LF alone";
                return Err((Failure::BadAnswer, why.to_owned()));
            }
            // It is back as it was: its connection was closed before.
            Some(back) if lease.was_idle => request = back,
            _ => return Err(failed(&error.into_error(), sent)),
        }
    }
    Err((Failure::Broken, "no connection to the upstream holds".to_owned()))
}

async fn connect(
    pool: &Arc<Pool>,
    to: &Arc<Destination>,
    settings: &Settings,
    metrics: &OfUpstream,
) -> Result<Lease, Refused> {
    match timeout_at(Instant::now() + settings.connect_timeout, pool.connect(to, settings)).await {
        Ok(Ok(lease)) => {
            metrics.connections.increment(1);
            Ok(lease)
        }
        Ok(Err(error)) => {
            tracing::warn!(upstream = to.name, %error, "an upstream cannot be reached");
            Err((Failure::Connect, "the upstream cannot be reached".to_owned()))
        }
        Err(_) => {
            tracing::warn!(upstream = to.name, timeout = ?settings.connect_timeout, "an upstream cannot be reached in time");
            Err((Failure::ConnectTimeout, "the upstream cannot be reached in time".to_owned()))
        }
    }
}

fn failed(error: &hyper::Error, sent: &Sent) -> Refused {
    if let Some(failure) = sent.failure() {
        let why = match failure {
            Failure::Malformed => "the request's body is malformed",
            Failure::BodyTooLarge => "the request's body is too large",
            Failure::BodyTimeout => "the request's body did not come in time",
            _ => "the request's body broke off",
        };
        return (failure, why.to_owned());
    }
    if error.is_parse() {
        return (Failure::BadAnswer, "the upstream's answer cannot be read".to_owned());
    }
    tracing::debug!(%error, "a connection to an upstream broke");
    (Failure::Broken, "the connection to the upstream broke before its answer".to_owned())
}

/// What the client is answered instead.
fn refuse(metrics: &OfUpstream, to: &Destination, failure: Failure, why: &str) -> Answer {
    metrics.failures.get(failure).increment(1);
    let status = status(failure);
    tracing::debug!(
        upstream = to.name,
        reason = failure.label(),
        status = status.as_u16(),
        why,
        "a request was not passed on"
    );
    let mut answer = problem(status, why);
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
    }
    let mut answer = answer.map(full);
    // A body that was not read would be taken for the next request.
    if status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE {
        close(&mut answer);
    }
    answer
}

const fn status(failure: Failure) -> StatusCode {
    match failure {
        Failure::Malformed | Failure::BodyBroken => StatusCode::BAD_REQUEST,
        Failure::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Failure::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        Failure::Requests | Failure::Tunnels => StatusCode::SERVICE_UNAVAILABLE,
        Failure::RequestsPerAddress | Failure::TunnelsPerAddress => StatusCode::TOO_MANY_REQUESTS,
        Failure::ConnectTimeout | Failure::AnswerTimeout => StatusCode::GATEWAY_TIMEOUT,
        Failure::Connect
        | Failure::Broken
        | Failure::BadAnswer
        | Failure::AnswerBroken
        | Failure::AnswerIdle
        | Failure::ClientGone => StatusCode::BAD_GATEWAY,
        Failure::MaxForwards => StatusCode::NOT_IMPLEMENTED,
    }
}
