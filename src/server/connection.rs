//! One accepted connection: hyper reads its requests and writes their answers, one after the other, and when one is
//! upgraded, its socket is taken back and handed to a session.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::admission::{Arrival, Counted};
use super::announced::{self, Announced, Step, Unannounced};
use super::answer::{Granted, answer};
use super::forwarded::is_trusted;
use super::refusal::Refusal;
use super::settings::{ProxyProtocol, Tls};
use super::streams;
use super::worker::Worker;
use crate::clock::spread;
use crate::http::server::{self, Answer, End, Limits, Progress, Unreadable};
use crate::net::socket::Socket;
use crate::net::socket::tls::{Failure, HandshakeFailure, not_tls};
use crate::session;

/// Time for an answer to be made and written, after which the connection is cut.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time left for a request when the server shuts down: a client that sends none must not hold it up.
const DRAINING_TIMEOUT: Duration = Duration::from_secs(1);
/// Requests of one connection. Whoever has more opens another, and is counted anew.
const REQUESTS_MAX: usize = 100;
/// Beside them, those that are passed on: each of these has limits of its own.
const PASSED_ON_MAX: usize = 10_000;

/// Answers one connection's requests; an upgraded connection goes on as a session. `counted` is dropped with the last
/// of both.
pub(super) async fn serve(
    worker: Arc<Worker>,
    tcp: TcpStream,
    peer: SocketAddr,
    counted: Counted,
    arrival: Arrival,
) {
    let handshake = worker.door.metrics.handshake();
    let settings = worker.door.settings.load_full();
    let keep_alive = worker.door.fallback.load().as_ref().map(|fallback| fallback.settings.keep_alive);
    let tunnels = !worker.door.generations.current().tunnels().is_empty();
    let limits = Limits {
        head_timeout: settings.header_timeout,
        answer_timeout: ANSWER_TIMEOUT,
        head_bytes_max: settings.header_bytes_max,
        headers_max: settings.headers_max,
        requests_max: REQUESTS_MAX,
        passed_on_max: PASSED_ON_MAX,
        strict: keep_alive.is_some() || tunnels,
        parks: keep_alive.is_some().then(|| worker.warm.clone()),
    };
    let deadline = Instant::now() + limits.head_timeout;
    let progress = Progress::new(deadline, &limits);
    let granted: Mutex<Option<Granted>> = Mutex::default();
    let over = counted.admitted.over;
    let announced = OnceLock::new();
    let whose = || announced.get().copied().unwrap_or(peer);
    let service = async |request: Request<Incoming>| {
        let (answer, upgraded) = answer(&worker, request, whose().ip(), over, &progress).await;
        if upgraded.is_some() {
            *granted.lock().unwrap_or_else(PoisonError::into_inner) = upgraded;
        }
        Ok::<Answer, Infallible>(answer)
    };
    if settings.proxy_protocol == ProxyProtocol::Required && !is_trusted(peer.ip(), &settings.trusted_proxies)
    {
        return note_unannounced(&worker, peer, Unannounced::Untrusted);
    }
    let served = async {
        // Only when there is something to read there is anything to read it with: who connects and is silent, and a
        // herd that waits for its turn, cost no buffers.
        if timeout_at(deadline, readable(&tcp)).await.is_err() {
            return End::TimedOut;
        }
        if settings.proxy_protocol == ProxyProtocol::Required {
            let header =
                async { timeout_at(deadline, announcement(&tcp)).await.map_err(|_| Unannounced::Timeout)? };
            match Box::pin(header).await {
                Ok(of) => {
                    let client = announced.get_or_init(|| client_of(of, peer));
                    arrival.is_of(client.ip());
                }
                Err(why) => {
                    note_unannounced(&worker, peer, why);
                    return if why == Unannounced::Timeout { End::TimedOut } else { End::Closed };
                }
            }
        }
        let stream = match &settings.tls {
            None => Socket::from(tcp),
            Some(tls) => {
                let handshake = Box::pin(secure(tcp, tls, limits.head_bytes_max));
                match timeout_at(deadline, handshake).await {
                    Ok(Ok(stream)) => {
                        worker.door.metrics.tls_accepted(stream.tls_version());
                        // As before the handshake.
                        if timeout_at(deadline, again(&stream)).await.is_err() {
                            return End::TimedOut;
                        }
                        stream
                    }
                    Ok(Err(failure)) => {
                        note_no_tls(&worker, whose(), &failure);
                        return End::Closed;
                    }
                    Err(_) => {
                        worker.door.metrics.tls_failed(HandshakeFailure::Timeout);
                        return End::TimedOut;
                    }
                }
            }
        };
        let mut stream = stream;
        loop {
            match Box::pin(server::serve(stream, &progress, &limits, &service, server::explain)).await {
                End::Parked(parked) => stream = parked,
                end => return end,
            }
            let deadline = Instant::now() + keep_alive.unwrap_or_default();
            let _parked = worker.door.metrics.parked();
            if timeout_at(deadline, again(&stream)).await.is_err() {
                return End::Closed;
            }
        }
    };
    let end = tokio::select! {
        end = served => Ok(end),
        () = drained(&worker, &progress) => Err(Refusal::Draining),
        () = arrival.displaced() => Err(Refusal::Displaced),
    };
    let peer = whose();
    match end {
        Ok(End::Upgraded(stream, early)) => {
            drop((handshake, arrival));
            let granted = granted.into_inner().unwrap_or_else(PoisonError::into_inner);
            // A task of its own, so that nothing of the request lives on for the connection's whole life.
            match granted {
                Some(Granted::Session(granted)) => {
                    tokio::spawn(session::run(worker.context.clone(), stream, &early, granted, counted));
                }
                Some(Granted::Tunnel(tunnel)) => {
                    tokio::spawn(async move {
                        tunnel.run(stream, early, drained_over(&worker)).await;
                        drop(counted);
                    });
                }
                Some(Granted::Routed(routed)) => {
                    let context = worker.context.clone();
                    tokio::spawn(async move {
                        routed.run(context, stream, early).await;
                        drop(counted);
                    });
                }
                None => {}
            }
        }
        Ok(End::Multiplexed(stream, early)) if settings.http2_streams_max > 0 => {
            drop(handshake);
            tokio::spawn(streams::serve(worker, stream, early, peer, counted, arrival));
        }
        Ok(End::Multiplexed(..)) => {
            worker.door.metrics.unreadable(Unreadable::Malformed);
            tracing::debug!(%peer, "HTTP/2 is not spoken here: see `server.limits.http2_streams`");
        }
        Ok(End::Closed | End::Parked(_)) => {}
        Ok(End::Unreadable(why, error)) => {
            worker.door.metrics.unreadable(why);
            tracing::debug!(%peer, %error, "a request could not be read");
        }
        Ok(End::Broken(error)) => tracing::debug!(%peer, %error, "a connection broke"),
        Ok(End::TimedOut) => note_cut(&worker, peer, Refusal::Timeout),
        // Between two requests there is none to be refused.
        Err(_) if progress.is_idle() => {}
        Err(refusal) => note_cut(&worker, peer, refusal),
    }
}

/// Resolves when there is something to read. An error is hyper's to find.
async fn readable(stream: &TcpStream) {
    let mut first = [0];
    // tokio takes what it accepted for readable until somebody has looked.
    std::future::poll_fn(|cx| Poll::Ready(stream.poll_peek(cx, &mut ReadBuf::new(&mut first)).is_ready()))
        .await;
    let _ = stream.readable().await;
}

/// Reads the header of the PROXY protocol, and nothing of what follows it.
async fn announcement(tcp: &TcpStream) -> Result<Announced, Unannounced> {
    let (mut header, mut there) = (Vec::new(), Vec::new());
    loop {
        let want = match announced::step(&header) {
            Step::Done(announced) => return Ok(announced),
            Step::Refused(why) => return Err(why),
            Step::More(want) => want,
        };
        there.resize(want.bytes_max(), 0);
        let seen = tcp.peek(&mut there).await.map_err(|_| Unannounced::Closed)?;
        let mine = want.of(there.get(..seen).unwrap_or(&[]));
        let mine = there.get_mut(..mine).unwrap_or(&mut []);
        match tcp.try_read(mine) {
            Ok(0) => return Err(Unannounced::Closed),
            Ok(read) => header.extend_from_slice(mine.get(..read).unwrap_or(&[])),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Unannounced::Closed),
        }
    }
}

/// An address that nobody is sure of is nobody's: as the proxy's own, a forwarding header of its client would be believed.
fn client_of(announced: Announced, peer: SocketAddr) -> SocketAddr {
    match announced {
        Announced::Client(client) => client,
        Announced::Peer => peer,
        Announced::Unknown => SocketAddr::from(([0; 4], 0)),
    }
}

/// Counts a connection of which it is not said whose it is.
fn note_unannounced(worker: &Worker, peer: SocketAddr, why: Unannounced) {
    worker.door.metrics.unannounced(why);
    let reason = why.label();
    if why == Unannounced::Missing {
        tracing::warn!(%peer, reason, "a trusted proxy sent no PROXY protocol header, which server.proxy_protocol requires");
    } else {
        tracing::debug!(%peer, reason, "no PROXY protocol header");
    }
}

/// Begins TLS; who asks in plain HTTP is told so, for as long as that takes no waiting.
async fn secure(tcp: TcpStream, tls: &Tls, bytes_max: usize) -> Result<Socket, Failure> {
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 {
        return Err(HandshakeFailure::Closed.into());
    }
    let Some(why) = not_tls(first[0]) else {
        return Socket::secure(tcp, tls.identity.config.clone(), bytes_max).await;
    };
    if why == HandshakeFailure::PlainHttp {
        let answer = server::problem(StatusCode::BAD_REQUEST, "this port speaks TLS: use wss:// or https://");
        let _ = tcp.try_write(&server::written(answer));
        // What is not read would make the kernel reset the connection, and the answer be lost.
        let mut unread = vec![0; bytes_max];
        let _ = tcp.try_read(&mut unread);
    }
    Err(why.into())
}

/// Counts a connection that never came to a request.
fn note_no_tls(worker: &Worker, peer: SocketAddr, failure: &Failure) {
    let Failure { why, error } = failure;
    worker.door.metrics.tls_failed(*why);
    let (reason, error) = (why.label(), error.as_ref().map(tracing::field::display));
    if *why == HandshakeFailure::PlainHttp {
        tracing::warn!(%peer, reason, "a request in plain HTTP came where server.tls wants TLS");
    } else {
        tracing::debug!(%peer, reason, error, "no TLS");
    }
}

/// The same of a connection that was served before.
async fn again(stream: &Socket) {
    // What is wrong with it is found by who reads.
    let _ = std::future::poll_fn(|cx| stream.poll_read_ready(cx)).await;
}

/// Resolves when the server shuts down and this connection has had its time: none, if nothing is under way.
async fn drained(worker: &Worker, progress: &Progress) {
    worker.context.draining().await;
    if progress.is_streaming() {
        tokio::time::sleep(worker.door.settings.load().close_window).await;
    } else if !progress.is_idle() {
        tokio::time::sleep(DRAINING_TIMEOUT).await;
    }
}

/// Resolves within the window in which a server that shuts down closes its connections, of each at another moment.
pub(super) async fn drained_over(worker: &Worker) {
    worker.context.draining().await;
    let window = worker.door.settings.load().close_window;
    tokio::time::sleep(spread(window, fastrand::f64())).await;
}

/// Counts a request that is cut before it was over.
fn note_cut(worker: &Worker, peer: SocketAddr, refusal: Refusal) {
    worker.door.metrics.refused(None, refusal);
    tracing::debug!(%peer, reason = refusal.label(), "a request was not over in time");
}
