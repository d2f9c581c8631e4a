//! The upstream's HTTP API, as much as triggering needs: signed requests over one connection.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use md5::{Digest as _, Md5};
use serde_json::{Value, json};

use crate::credentials::{self, APP_ID, APP_KEY};
use crate::event::{self, Id};
use crate::{Result, ws};

/// Events of one request; Pusher takes no more.
pub(crate) const BATCH: usize = 10;
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Api {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
    bytes: usize,
}

impl Api {
    /// `bytes`: the size of an event's data.
    pub(crate) fn connect(address: SocketAddr, bytes: u32) -> Result<Self> {
        Ok(Self { address, stream: open(address)?, bytes: bytes as usize })
    }

    /// Triggers one event.
    pub(crate) fn trigger(&mut self, channel: &str, id: Id) -> Result<()> {
        let body = json!({"name": event::NAME, "channels": [channel], "data": self.data(channel, id)?});
        self.post("events", &body)
    }

    /// Triggers events in their order, as few requests as that takes.
    pub(crate) fn trigger_all<'a>(&mut self, events: impl IntoIterator<Item = (&'a str, Id)>) -> Result<()> {
        let event = |(channel, id)| -> Result<Value> {
            Ok(json!({"name": event::NAME, "channel": channel, "data": self.data(channel, id)?}))
        };
        let events = events.into_iter().map(event).collect::<Result<Vec<_>>>()?;
        events.chunks(BATCH).try_for_each(|batch| self.post("batch_events", &json!({ "batch": batch })))
    }

    fn data(&self, channel: &str, id: Id) -> Result<String> {
        let data = id.data(self.bytes);
        if channel.starts_with(credentials::ENCRYPTED) {
            credentials::encrypted(channel, &data)
        } else {
            Ok(data)
        }
    }

    /// How many channels have subscribers.
    pub(crate) fn occupied_channels(&mut self) -> Result<usize> {
        let answer: Value = serde_json::from_slice(&self.call("GET", "channels", "")?)?;
        Ok(answer["channels"].as_object().ok_or("channels: not an object")?.len())
    }

    fn post(&mut self, call: &str, body: &Value) -> Result<()> {
        self.call("POST", call, &body.to_string()).map(drop)
    }

    fn call(&mut self, method: &str, call: &str, body: &str) -> Result<Vec<u8>> {
        let path = format!("/apps/{APP_ID}/{call}");
        let mut query = format!("auth_key={APP_KEY}&auth_timestamp={}&auth_version=1.0", credentials::now());
        if !body.is_empty() {
            query += &format!("&body_md5={}", credentials::hex(&Md5::digest(body)));
        }
        let signature = credentials::app_signature(&format!("{method}\n{path}\n{query}"));
        // One write: one packet.
        let request = format!(
            "{method} {path}?{query}&auth_signature={signature} HTTP/1.1\r\nHost: 127.0.0.1\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.answer(call)
    }

    fn answer(&mut self, call: &str) -> Result<Vec<u8>> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(format!("{call}: the upstream closed the connection").into());
            }
        }
        let length: usize =
            ws::field(&head, "content-length").ok_or("answer without Content-Length")?.parse()?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        // sockudo does so each time. Opened at once: the next request's time is not the connection's.
        if ws::field(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.stream = open(self.address)?;
        }
        if head.starts_with("HTTP/1.1 200 ") {
            return Ok(body);
        }
        let status = head.lines().next().unwrap_or_default();
        Err(format!("{call}: {status}: {}", String::from_utf8_lossy(&body)).into())
    }
}

fn open(address: SocketAddr) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(BufReader::new(stream))
}
