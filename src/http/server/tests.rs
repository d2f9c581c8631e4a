use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;

const SOON: Duration = Duration::from_millis(100);
const REQUEST: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";

fn quick() -> Limits {
    Limits { head_timeout: SOON, answer_timeout: SOON, ..Limits::default() }
}

/// What a client that sends `bytes`, and no more, gets, and how that ends.
async fn talk<S, F, E>(limits: Limits, bytes: &str, service: S) -> (String, End)
where
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Answer, E>>,
    E: Into<BoxError>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    client.write_all(bytes.as_bytes()).await.unwrap();
    let progress = Progress::new(Instant::now() + limits.head_timeout, &limits);
    let mut end = serve(stream.into(), &progress, &limits, service, explain).await;
    let mut answers = Vec::new();
    if let End::Upgraded(stream, _) | End::Multiplexed(stream, _) = &mut end {
        stream.shutdown().await.unwrap();
    }
    let _ = client.read_to_end(&mut answers).await;
    let text = String::from_utf8(answers).unwrap();
    // Of a moment, and the same length at any other.
    let without_dates = text.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: "));
    (without_dates.collect(), end)
}

async fn hello(_: Request<Incoming>) -> Result<Answer, Infallible> {
    Ok(Answer::new(full("hello")))
}

/// A body that comes in parts, with pauses, as one from elsewhere does.
struct Slow(VecDeque<&'static str>, bool);

impl HttpBody for Slow {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.1 = !self.1;
        if self.1 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part.into()))))
    }
}

#[tokio::test]
async fn bodies_from_elsewhere_stream_and_leave_the_connection_as_it_was() {
    // Parts of a body look like a head, and like what hyper says by itself.
    let parts = ["x-a: b\r\n\r\n", "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"];
    let service = async |request: Request<Incoming>| {
        let mut answer = Answer::new(Slow(parts.into(), false).boxed_unsync());
        if request.uri().path() == "/switch" {
            answer = Answer::new(full(""));
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        answer.headers_mut().insert("sec-websocket-accept", HeaderValue::from_static("x"));
        Ok::<_, Infallible>(answer)
    };
    let last = REQUEST.replace("/a", "/switch");
    let (answers, end) = talk(Limits::default(), &format!("{REQUEST}{REQUEST}{last}early"), service).await;
    let head = "HTTP/1.1 200 OK\r\nSec-WebSocket-Accept: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body: String = parts.map(|part| format!("{:X}\r\n{part}\r\n", part.len())).concat();
    let switch = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n";
    assert!(answers.starts_with(&format!("{head}{body}0\r\n\r\n{head}{body}0\r\n\r\n{switch}")), "{answers}");
    assert!(matches!(end, End::Upgraded(_, early) if early == "early"));
}

#[tokio::test]
async fn whoever_asks_for_nothing_more_is_done_and_who_asks_too_slowly_is_late() {
    for (bytes, answered, done) in [
        (REQUEST.to_owned(), 1, true),
        (REQUEST.repeat(3), 3, true),
        (format!("{REQUEST}GET"), 1, false),
        (REQUEST[..9].to_owned(), 0, false),
        (String::new(), 0, false),
    ] {
        let (answers, end) = talk(quick(), &bytes, hello).await;
        assert_eq!(answers.matches("\r\n\r\nhello").count(), answered, "{bytes}");
        assert_eq!(matches!(end, End::Closed), done, "{bytes}: {end:?}");
        assert_eq!(matches!(end, End::TimedOut), !done, "{bytes}: {end:?}");
    }
}

#[tokio::test]
async fn an_answer_has_its_time_and_is_the_services_to_refuse() {
    let never = async |_| std::future::pending::<Result<Answer, Infallible>>().await;
    let (answers, end) = talk(quick(), REQUEST, never).await;
    assert!(answers.is_empty() && matches!(end, End::TimedOut), "{end:?}");
    let drop = async |_| Err::<Answer, _>(io::Error::other("no"));
    let (answers, end) = talk(Limits::default(), REQUEST, drop).await;
    assert!(answers.is_empty() && matches!(end, End::Broken(_)), "{end:?}");
}

#[tokio::test]
async fn the_last_request_there_may_be_is_told_so() {
    let limits = Limits { requests_max: 2, ..Limits::default() };
    let (answers, end) = talk(limits, &REQUEST.repeat(3), hello).await;
    assert_eq!(answers.matches("hello").count(), 2);
    let (first, last) = answers.split_once("hello").unwrap();
    assert!(!first.contains("Connection") && last.contains("\r\nConnection: close\r\n"), "{answers}");
    assert!(matches!(end, End::Closed), "{end:?}");
}

#[tokio::test]
async fn what_is_no_request_is_explained_once() {
    let limits = Limits { headers_max: 2, ..Limits::default() };
    for (bytes, why, status) in [
        ("junk\r\n\r\n".to_owned(), Unreadable::Malformed, "400 Bad Request"),
        (REQUEST.replace("\r\n\r\n", "\r\na: b\r\nc: d\r\n\r\n"), Unreadable::HeadTooLarge, "431 Request"),
    ] {
        let (answers, end) = talk(limits, &format!("{REQUEST}{bytes}{REQUEST}"), hello).await;
        let (_, last) = answers.split_once("hello").unwrap();
        assert!(last.starts_with(&format!("HTTP/1.1 {status}")), "{answers}");
        assert!(last.contains("\r\nConnection: close\r\n") && last.ends_with('}'), "{answers}");
        assert!(matches!(end, End::Unreadable(is, _) if is == why), "{end:?}");
    }
}

#[tokio::test]
async fn what_begins_http2_is_handed_on_whole() {
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for bytes in [preface, &preface[..14], &preface[..20], &format!("{preface}more")] {
        let (answers, end) = talk(Limits::default(), bytes, hello).await;
        assert_eq!(answers, "");
        assert!(matches!(&end, End::Multiplexed(_, early) if early == bytes), "{bytes:?}: {end:?}");
    }
}
