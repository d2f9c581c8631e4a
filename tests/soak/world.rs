//! What all parts of a run share. Everything runs on one thread, so that the order of what is noted is the
//! order in which it happened.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use pusher_bridge::http::{Client, HttpError, Request, Response};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::faults::Switches;
use crate::ledger::{Ledger, Mark, StreamId};
use crate::messages::{Route, Stream, mark_of, message_data, streams};
use crate::outgoing::Outgoing;
use crate::support::pusher::App;

/// Of what went wrong, so much is shown.
const SHOWN_MAX: usize = 40;

/// What the clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Come and go.
    Churn,
    /// Stay and listen; nobody new.
    Settle,
    /// Say goodbye.
    Leave,
}

/// The bridge's address, and what leads to Pusher.
pub struct World {
    /// The app as a backend knows it; the bridge sees it through the proxy.
    pub app: App,
    /// Where Pusher is now.
    pub upstream: Cell<SocketAddr>,
    pub bridge: Cell<SocketAddr>,
    pub streams: Vec<Stream>,
    channels: HashMap<String, StreamId>,
    pub ledger: RefCell<Ledger>,
    pub outgoing: RefCell<Outgoing>,
    pub switches: Switches,
    pub phase: watch::Sender<Phase>,
    http: Client,
    /// Faults and misbehaviour so far, by kind.
    pub faults: RefCell<BTreeMap<&'static str, u64>>,
    pub connections: Cell<u64>,
    pub published: Cell<u64>,
    pub echoed: Cell<u64>,
    next_client: Cell<u32>,
    wrong: RefCell<Vec<String>>,
}

impl World {
    pub fn new(app: App, clients: usize) -> Self {
        let streams = streams(clients);
        let tls = pusher_bridge::tls::client_config(None).expect("certificates");
        let plugins = streams.iter().filter(|stream| stream.route == Route::Plugin);
        Self {
            upstream: Cell::new(app.address),
            bridge: Cell::new(SocketAddr::from(([127, 0, 0, 1], 0))),
            channels: plugins.map(|stream| (stream.channel.clone(), stream.id)).collect(),
            streams,
            ledger: RefCell::default(),
            outgoing: RefCell::default(),
            switches: Switches::default(),
            phase: watch::Sender::new(Phase::Churn),
            http: Client::new(&tls),
            faults: RefCell::default(),
            connections: Cell::new(0),
            published: Cell::new(0),
            echoed: Cell::new(0),
            next_client: Cell::new(1),
            wrong: RefCell::default(),
            app,
        }
    }

    /// A number for a new client.
    pub fn new_client(&self) -> u32 {
        self.next_client.replace(self.next_client.get() + 1)
    }

    /// The streams of a route.
    pub fn streams_of(&self, route: Route) -> impl Iterator<Item = &Stream> {
        self.streams.iter().filter(move |stream| stream.route == route)
    }

    /// The stream of an event that came on this channel.
    pub fn stream_of(&self, channel: &str, mark: Mark) -> Option<StreamId> {
        match mark {
            Mark::Message { .. } => self.channels.get(channel).copied(),
            Mark::Event { stream, .. } => {
                self.streams.get(stream as usize).filter(|stream| stream.channel == channel)?;
                Some(stream)
            }
        }
    }

    /// Which event this data is of; data that is not exactly the event's is a defect of `place`.
    pub fn recognise(&self, data: &str, place: &str) -> Option<Mark> {
        let mark = mark_of(data);
        let expected = match mark {
            None => None,
            Some(Mark::Event { stream, n }) => self.streams.get(stream as usize).map(|s| s.published(n)),
            Some(Mark::Message { from, n }) => Some(message_data(from, n)),
        };
        if expected.as_deref() != Some(data) {
            self.wrong(format!("{place}: altered: {data:?} is not {expected:?}"));
            return None;
        }
        mark
    }

    /// Something happened that must not.
    pub fn wrong(&self, what: impl Into<String>) {
        let what = what.into();
        let mut wrong = self.wrong.borrow_mut();
        if wrong.len() < SHOWN_MAX {
            eprintln!("WRONG: {what}");
        }
        wrong.push(what);
    }

    /// The same, unless it is all right.
    pub fn check(&self, result: Result<(), String>) {
        if let Err(what) = result {
            self.wrong(what);
        }
    }

    pub fn all_wrong(&self) -> Vec<String> {
        self.wrong.borrow().clone()
    }

    /// Counts a fault.
    pub fn count(&self, kind: &'static str) {
        *self.faults.borrow_mut().entry(kind).or_default() += 1;
    }

    /// Whether nobody new is wanted.
    pub fn is_over(&self) -> bool {
        *self.phase.borrow() != Phase::Churn
    }

    /// Waits until `holds`, looking again and again; `false`: it did not within `patience`.
    pub async fn until(&self, patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
        const LOOK_AGAIN: Duration = Duration::from_millis(20);
        let deadline = Instant::now() + patience;
        while !holds() {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        true
    }

    /// Sends a request to wherever Pusher is now. `path` with its query.
    pub async fn ask_upstream(
        &self,
        method: hyper::Method,
        path: &str,
        body: impl Into<bytes::Bytes>,
    ) -> Result<Response, HttpError> {
        const TIMEOUT: Duration = Duration::from_secs(5);
        const ANSWER_BYTES_MAX: usize = 64 * 1024;
        let request = Request {
            method,
            uri: format!("http://{}{path}", self.upstream.get()).parse().expect("a URL"),
            headers: std::iter::once((
                hyper::header::CONTENT_TYPE,
                hyper::header::HeaderValue::from_static("application/json"),
            ))
            .collect(),
            body: body.into(),
        };
        self.http.send(request, TIMEOUT, ANSWER_BYTES_MAX).await
    }
}
