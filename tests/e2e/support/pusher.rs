//! What the scenarios need of a Pusher, whichever it is.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use pusher_bridge::clock::Now;
use pusher_bridge::http::{Client, HttpError, Request, Response};
use pusher_bridge::pusher::frame::{self, ServerFrame, data_json};
use pusher_bridge::pusher::sign;
use pusher_bridge::sandbox::SandboxHandle;
use pusher_bridge::tls;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::bridge::JWT_SECRET;
use super::patiently;

/// An app's credentials, and where it is.
#[derive(Clone, Debug)]
pub struct App {
    pub address: SocketAddr,
    pub id: String,
    pub key: String,
    pub secret: SecretString,
}

/// A Pusher-compatible server.
pub trait Pusher {
    fn app(&self) -> App;
}

impl Pusher for SandboxHandle {
    fn app(&self) -> App {
        let options = self.options();
        App {
            address: self.addr(),
            id: options.app_id.clone(),
            key: options.key.clone(),
            secret: options.secret.clone(),
        }
    }
}

impl App {
    /// The environment that leads to it.
    pub fn environment(&self) -> HashMap<String, String> {
        [
            ("PUSHER_APP_ID", self.id.clone()),
            ("PUSHER_KEY", self.key.clone()),
            ("PUSHER_SECRET", self.secret.expose_secret().to_owned()),
            ("PUSHER_HOST", self.address.ip().to_string()),
            ("PUSHER_PORT", self.address.port().to_string()),
            ("PUSHER_TLS", "false".to_owned()),
            ("JWT_SECRET", JWT_SECRET.to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// Publishes by the signed HTTP API, as a backend does.
    pub async fn trigger(&self, channel: &str, event: &str, data: &str) {
        let client = Client::new(&tls::client_config(None).unwrap());
        let response = self.try_trigger(&client, &[channel], event, data).await.unwrap();
        assert_eq!(response.status, 200, "{:?}", response.body);
    }

    /// The same on several channels, by a client that is there already; gives the answer.
    pub async fn try_trigger(
        &self,
        client: &Client,
        channels: &[&str],
        event: &str,
        data: &str,
    ) -> Result<Response, HttpError> {
        let body = serde_json::json!({ "name": event, "channels": channels, "data": data }).to_string();
        let path = format!("/apps/{}/events", self.id);
        let seconds = Now::read().unix_seconds();
        let query = sign::signed_query("POST", &path, &[], body.as_bytes(), &self.key, &self.secret, seconds);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let uri = format!("http://{}{path}?{query}", self.address).parse().unwrap();
        let request = Request { method: Method::POST, uri, headers, body: Bytes::from(body) };
        client.send(request, Duration::from_secs(10), 65_536).await
    }

    /// A new-world client, subscribed to `channel`.
    pub async fn native(&self, channel: &str) -> Native {
        self.try_native(channel).await.unwrap()
    }

    /// The same of a Pusher that may be down.
    pub async fn try_native(&self, channel: &str) -> Result<Native, Error> {
        let stream = TcpStream::connect(self.address).await?;
        let url = format!("ws://{}/app/{}?protocol=7&client=test&version=1.0", self.address, self.key);
        let (socket, _) = patiently("a native connection", client_async(url, stream)).await?;
        let mut native = Native { socket, waiting: VecDeque::new() };
        let socket_id = native
            .until(|frame| match frame {
                ServerFrame::ConnectionEstablished { socket_id, .. } => Some(socket_id.clone()),
                _ => None,
            })
            .await;
        let auth = channel
            .starts_with("private-")
            .then(|| sign::channel_auth(&self.key, &self.secret, &socket_id, channel, None));
        native.socket.send(Message::text(frame::subscribe(channel, auth.as_deref(), None))).await.unwrap();
        native.until(|frame| matches!(frame, ServerFrame::SubscriptionSucceeded { .. }).then_some(())).await;
        Ok(native)
    }
}

/// A client of Pusher itself.
pub struct Native {
    socket: WebSocketStream<TcpStream>,
    waiting: VecDeque<(String, String)>,
}

impl Native {
    async fn until<T>(&mut self, mut wanted: impl FnMut(&ServerFrame<'_>) -> Option<T>) -> T {
        loop {
            let message =
                patiently("a frame of Pusher", self.socket.next()).await.expect("Pusher ended").unwrap();
            let Message::Text(text) = message else { continue };
            let frame = ServerFrame::decode(&text).unwrap();
            if let Some(found) = wanted(&frame) {
                return found;
            }
            if let ServerFrame::Event { event, data, .. } = frame {
                self.waiting.push_back((event.into_owned(), data_json(data).into_owned()));
            }
        }
    }

    /// The next event, `None` at the connection's end.
    pub async fn try_event(&mut self) -> Option<(String, String)> {
        if let Some(event) = self.waiting.pop_front() {
            return Some(event);
        }
        loop {
            let Message::Text(text) = self.socket.next().await?.ok()? else { continue };
            if let Ok(ServerFrame::Event { event, data, .. }) = ServerFrame::decode(&text) {
                return Some((event.into_owned(), data_json(data).into_owned()));
            }
        }
    }

    /// The next event: its name, and its data as JSON text.
    pub async fn event(&mut self) -> (String, String) {
        if let Some(event) = self.waiting.pop_front() {
            return event;
        }
        self.until(|frame| match frame {
            ServerFrame::Event { event, data, .. } => {
                Some((event.clone().into_owned(), data_json(*data).into_owned()))
            }
            _ => None,
        })
        .await
    }
}
