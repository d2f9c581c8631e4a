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

async fn hello<B>(_: Request<B>) -> Result<Answer, Infallible> {
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
        let (answers, end) = talk(limits.clone(), &format!("{REQUEST}{bytes}{REQUEST}"), hello).await;
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

#[tokio::test]
async fn a_head_is_as_large_as_it_may_be_where_bodies_are_read_in_large_parts_too() {
    let limits = Limits { strict: true, head_bytes_max: 8 * 1024, passed_on_max: 9, ..Limits::default() };
    let read = async |request: Request<Incoming>| {
        let body = request.into_body().collect().await.map(|body| body.to_bytes().len());
        Ok::<_, Infallible>(Answer::new(full(format!("hello {}", body.unwrap_or(0)))))
    };
    let last = REQUEST.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let head = |bytes: usize| REQUEST.replace("/a", &format!("/{}", "a".repeat(bytes - REQUEST.len() + 1)));
    let post =
        format!("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n{}", "b".repeat(100_000));
    for before in [String::new(), REQUEST.to_owned(), post] {
        let answered = usize::from(!before.is_empty());
        let (answers, end) = talk(limits.clone(), &format!("{before}{}{last}", head(8 * 1024)), read).await;
        assert_eq!(answers.matches("hello").count(), answered + 2, "{answers}");
        assert!(matches!(end, End::Closed), "{end:?}");
        // As much as is read, so that nothing is lost with what was not.
        let (answers, end) =
            talk(limits.clone(), &format!("{before}{}", &head(9_000)[..8 * 1024]), read).await;
        assert_eq!(answers.matches("hello").count(), answered, "{answers}");
        assert!(answers.contains("HTTP/1.1 431 Request"), "{answers}");
        assert!(matches!(end, End::Unreadable(Unreadable::HeadTooLarge, _)), "{end:?}");
    }
}

#[tokio::test]
async fn of_connections_without_a_request_only_some_are_kept_as_they_are() {
    let warm = Arc::<Warm>::default();
    let limits = Limits { strict: true, parks: Some(warm.clone()), ..Limits::default() };
    let mut clients = Vec::new();
    let mut served = tokio::task::JoinSet::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..100 {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        client.write_all(REQUEST.as_bytes()).await.unwrap();
        clients.push(client);
        let limits = limits.clone();
        let progress = Progress::new(Instant::now() + limits.head_timeout, &limits);
        served.spawn(async move {
            (serve(stream.into(), &progress, &limits, hello, explain).await, Instant::now())
        });
    }
    let ends = served.join_all().await;
    assert!(ends.iter().all(|(end, _)| matches!(end, End::Parked(_))), "{ends:?}");
    let first = ends.iter().map(|(_, at)| *at).min().unwrap();
    let kept = ends.iter().filter(|(_, at)| *at - first > SOON / 2).count();
    assert_eq!(kept, 64, "the others did not wait");
}

#[tokio::test]
async fn a_request_whose_beginning_came_with_the_one_before_has_its_time() {
    let limits = Limits { strict: true, parks: Some(Arc::default()), ..Limits::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let (beginning, rest) = REQUEST.split_at(9);
    client.write_all(format!("{REQUEST}{beginning}").as_bytes()).await.unwrap();
    let progress = Progress::new(Instant::now() + limits.head_timeout, &limits);
    let serving = serve(stream.into(), &progress, &limits, hello, explain);
    let asking = async {
        let mut answer = [0; 4096];
        assert!(client.read(&mut answer).await.unwrap() > 0);
        // It is not taken for a connection without a request, which is kept as it is for a moment only.
        assert!(!progress.is_idle() && progress.deadline() > Instant::now() + 10 * SOON);
        client.write_all(rest.as_bytes()).await.unwrap();
        assert!(client.read(&mut answer).await.unwrap() > 0);
    };
    let (end, ()) = tokio::join!(serving, asking);
    assert!(matches!(end, End::Parked(_)), "{end:?}");
}

/// What is left of a body is no request, however long that takes.
#[tokio::test]
async fn a_body_that_is_answered_before_its_end_is_never_read_as_requests() {
    let limits =
        Limits { strict: true, head_timeout: SOON, parks: Some(Arc::default()), ..Limits::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for length in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let head = format!("POST /a HTTP/1.1\r\nHost: h\r\n{length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let progress = Progress::new(Instant::now() + limits.head_timeout, &limits);
        // Held by somebody who reads no further.
        let held = std::sync::Mutex::new(Vec::new());
        let service = async |request: Request<Incoming>| {
            held.lock().unwrap().push(request.into_body());
            hello(Request::new(())).await
        };
        let asking = async {
            let mut answer = [0; 4096];
            let read = client.read(&mut answer).await.unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
            let mut rest = Vec::new();
            client.write_all(REQUEST.repeat(4).as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            client.read_to_end(&mut rest).await.unwrap();
            rest
        };
        let (end, rest) = tokio::join!(serve(stream.into(), &progress, &limits, service, explain), asking);
        assert!(matches!(end, End::Closed), "{length}: {end:?}");
        assert!(rest.is_empty(), "{length}: {}", String::from_utf8_lossy(&rest));
        assert_eq!(held.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn who_is_parked_leaves_room_for_others_to_be_kept() {
    let limits = Limits { strict: true, parks: Some(Arc::default()), ..Limits::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut all, mut parked) = (Vec::new(), tokio::task::JoinSet::new());
    for turn in 0..70 {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        client.write_all(REQUEST.as_bytes()).await.unwrap();
        let progress = Progress::new(Instant::now() + limits.head_timeout, &limits);
        all.push((client, progress.clone()));
        if turn < 69 {
            let limits = limits.clone();
            parked.spawn(async move { serve(stream.into(), &progress, &limits, hello, explain).await });
            continue;
        }
        while let Some(end) = parked.join_next().await {
            assert!(matches!(end.unwrap(), End::Parked(_)));
        }
        let began = Instant::now();
        let end = serve(stream.into(), &progress, &limits, hello, explain).await;
        assert!(matches!(end, End::Parked(_)) && began.elapsed() > SOON / 2, "{:?}", began.elapsed());
    }
}
