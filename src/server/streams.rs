//! A connection of HTTP/2: each of its requests is answered as any other is, and each of its WebSockets is a session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use hyper::upgrade::{OnUpgrade, on};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::admission::{Arrival, Counted};
use super::answer::{Granted, answer};
use super::connection::{ANSWER_TIMEOUT, drained_over};
use super::metrics::Http2End;
use super::refusal::Refusal;
use super::worker::Worker;
use crate::http::multiplexed::{self, End, Limits, Stream};
use crate::http::server::{self, Answer, Progress};
use crate::net::polled::Polled;
use crate::net::socket::Socket;
use crate::session;

/// Without any stream for so long, a connection is over. Longer than a proxy waits between two clients, shorter than
/// whoever only wants to hold it likes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves a connection from which `early` has been read. It counts as one, and each of its streams as one more.
pub(super) async fn serve(
    worker: Arc<Worker>,
    socket: Socket,
    early: Bytes,
    peer: SocketAddr,
    counted: Counted,
    arrival: Arrival,
) {
    let settings = worker.door.settings.load_full();
    let limits = Limits {
        first_timeout: settings.header_timeout,
        idle_timeout: IDLE_TIMEOUT,
        untaken_timeout: ANSWER_TIMEOUT,
        head_bytes_max: u32::try_from(settings.header_bytes_max).unwrap_or(u32::MAX),
        streams_max: settings.http2_streams_max,
    };
    let _gauge = worker.door.metrics.http2_connection();
    let counted = Arc::new(counted);
    let door = worker.clone();
    let begun = Arc::new(Notify::new());
    let asked = begun.clone();
    let service = move |request, stream| {
        asked.notify_one();
        one(worker.clone(), request, peer, counted.another(settings.connections_max), stream)
    };
    let served = Box::pin(multiplexed::serve(socket, early, limits, service, door.context.draining()));
    // As any other connection, it may lose its place until it has asked for something.
    let displaced = async move {
        tokio::select! {
            () = arrival.displaced() => {}
            () = begun.notified() => {
                drop(arrival);
                std::future::pending::<()>().await;
            }
        }
    };
    let ended = tokio::select! {
        ended = served => ended,
        () = displaced => {
            door.door.metrics.http2_ended(Http2End::Displaced);
            return;
        }
    };
    door.door.metrics.http2_ended(match ended {
        End::Closed => Http2End::Closed,
        End::Broken(error) => {
            tracing::debug!(%peer, %error, "a connection of HTTP/2 broke");
            Http2End::Broken
        }
        End::TimedOut => {
            tracing::debug!(%peer, "a connection of HTTP/2 asked for nothing, or did not take what it got");
            Http2End::TimedOut
        }
    });
}

/// Answers one request. What counts for it does so until its answer is taken, or its session is over.
async fn one(
    worker: Arc<Worker>,
    mut request: Request<Incoming>,
    peer: SocketAddr,
    counted: Counted,
    stream: Stream,
) -> Answer {
    let upgrade = (*request.method() == Method::CONNECT).then(|| on(&mut request));
    let over = counted.admitted.over;
    // Its deadline is nobody's here: only whether bodies are being passed on, which have time limits of their own.
    let progress = Progress::new(Instant::now() + ANSWER_TIMEOUT, &server::Limits::default());
    let late = async {
        sleep(ANSWER_TIMEOUT).await;
        if progress.is_streaming() {
            std::future::pending::<()>().await;
        }
    };
    let (mut answer, granted) = tokio::select! {
        answered = answer(&worker, request, peer.ip(), over, &progress) => answered,
        () = late => {
            worker.door.metrics.refused(None, Refusal::Timeout);
            (server::problem(StatusCode::REQUEST_TIMEOUT, Refusal::Timeout.text()).map(server::full), None)
        }
    };
    // They are of one connection, which a stream has not.
    for name in [CONNECTION, UPGRADE] {
        answer.headers_mut().remove(name);
    }
    let (Some(upgrade), Some(granted)) = (upgrade, granted) else {
        return multiplexed::until_taken(answer, stream, counted);
    };
    // RFC 8441 §5.1
    *answer.status_mut() = StatusCode::OK;
    answer.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
    tokio::spawn(go_on(worker, upgrade, granted, (counted, stream)));
    answer
}

/// Serves a stream that is a WebSocket, or something else, from here on.
async fn go_on(worker: Arc<Worker>, upgrade: OnUpgrade, granted: Granted, counted: (Counted, Stream)) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => return tracing::debug!(%error, "a stream of HTTP/2 ended before it was served"),
    };
    match granted {
        Granted::Session(granted) => {
            let socket = Socket::from(Polled::new(Box::new(upgraded)));
            // A task of its own, as for any other.
            tokio::spawn(session::run(worker.context.clone(), socket, &Bytes::new(), granted, counted));
        }
        Granted::Tunnel(tunnel) => {
            tunnel.run(upgraded, Bytes::new(), drained_over(&worker)).await;
            drop(counted);
        }
        Granted::Routed(routed) => {
            routed.run(worker.context.clone(), upgraded, Bytes::new()).await;
            drop(counted);
        }
    }
}
