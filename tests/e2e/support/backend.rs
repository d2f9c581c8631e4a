//! A backend that takes POSTs and answers as it is told.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::patiently;

/// A request as it came.
pub struct Posted {
    pub path: String,
    pub content_type: Option<String>,
    pub body: String,
}

pub struct Backend {
    address: SocketAddr,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requests: mpsc::UnboundedReceiver<Posted>,
}

/// What it answers: a status, and perhaps what it says, and what it says that is.
struct Answer {
    status: u16,
    content_type: Option<&'static str>,
    body: String,
}

impl Backend {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers: Arc<Mutex<VecDeque<Answer>>> = Arc::default();
        let (sender, requests) = mpsc::unbounded_channel();
        let shared = answers.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, sender) = (shared.clone(), sender.clone());
                let service = service_fn(move |request| answer(request, answers.clone(), sender.clone()));
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serving);
            }
        });
        Self { address, answers, requests }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The statuses of the next answers; then 200 again.
    pub fn answer_next<const N: usize>(&self, statuses: [u16; N]) {
        let empty = |status| Answer { status, content_type: None, body: String::new() };
        self.answers.lock().unwrap().extend(statuses.map(empty));
    }

    /// The next answer, behind those that were told before.
    pub fn say_next(&self, status: u16, content_type: Option<&'static str>, body: impl Into<String>) {
        self.answers.lock().unwrap().push_back(Answer { status, content_type, body: body.into() });
    }

    /// The requests that have come since the last look.
    pub fn come(&mut self) -> Vec<Posted> {
        std::iter::from_fn(|| self.requests.try_recv().ok()).collect()
    }

    pub async fn next(&mut self) -> Posted {
        patiently("a POST", self.requests.recv()).await.unwrap()
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requests: mpsc::UnboundedSender<Posted>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let content_type = request.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let answer = answers.lock().unwrap().pop_front();
    let answer = answer.unwrap_or(Answer { status: 200, content_type: None, body: String::new() });
    let _ = requests.send(Posted { path, content_type, body: String::from_utf8(body.to_vec()).unwrap() });
    let mut response = Response::builder().status(answer.status);
    if let Some(content_type) = answer.content_type {
        response = response.header("content-type", content_type);
    }
    Ok(response.body(Full::from(answer.body)).unwrap())
}
