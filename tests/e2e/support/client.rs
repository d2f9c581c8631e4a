//! An old client.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::bridge::token;
use super::patiently;

pub struct OldClient {
    pub socket: WebSocketStream<TcpStream>,
    pub response: Response,
}

impl OldClient {
    pub async fn connect(address: SocketAddr, path: &str) -> Self {
        Self::try_connect(address, path).await.unwrap()
    }

    pub async fn try_connect(address: SocketAddr, path: &str) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let opening = client_async(format!("ws://{address}{path}"), stream);
        let (socket, response) = patiently("the upgrade", opening).await?;
        Ok(Self { socket, response })
    }

    /// Connected, and authenticated with every permission.
    pub async fn login(address: SocketAddr, path: &str, user: &str) -> Self {
        let mut client = Self::connect(address, path).await;
        client.auth(&token(user)).await;
        let answer = client.json().await;
        assert_eq!(answer["type"], "auth_response", "{answer}");
        client
    }

    /// Puts a frame into the buffer: it leaves with the next flush, together with others.
    pub async fn feed(&mut self, text: &str) {
        self.socket.feed(Message::text(text)).await.unwrap();
    }

    pub async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub async fn auth(&mut self, token: &str) {
        self.send(&format!(r#"{{"type":"auth","token":"Bearer {token}"}}"#)).await;
    }

    /// The next message that is no ping.
    pub async fn message(&mut self) -> Message {
        loop {
            let message =
                patiently("a message", self.socket.next()).await.expect("the connection ended").unwrap();
            match &message {
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Text(text) if text.starts_with(r#"{"type":"ping""#) => {}
                _ => return message,
            }
        }
    }

    /// The next frame's text.
    pub async fn text(&mut self) -> String {
        match self.message().await {
            Message::Text(text) => text.to_string(),
            other => panic!("not a text message: {other:?}"),
        }
    }

    pub async fn json(&mut self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The error code of the next frame.
    pub async fn error_code(&mut self) -> String {
        let json = self.json().await;
        let data = &json["data"];
        data["error_code"]
            .as_str()
            .or(data["error"].as_str())
            .or(json["error"].as_str())
            .unwrap_or_else(|| panic!("{json}"))
            .to_owned()
    }

    /// Reads to the close; gives its code and reason, `None` when the connection broke.
    pub async fn closed(&mut self) -> Option<(u16, String)> {
        patiently("a close", async {
            while let Some(Ok(message)) = self.socket.next().await {
                if let Message::Close(close) = message {
                    return close.map(|close| (close.code.into(), close.reason.to_string()));
                }
            }
            None
        })
        .await
    }
}
