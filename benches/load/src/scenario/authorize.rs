//! New clients' channels authorized over HTTP, each request with another user's token.

use serde_json::{Value, json};

use super::{Context, SETTLE, TIMEOUT};
use crate::asker::{Answer, Askers};
use crate::contender::Stage;
use crate::procfs::Reading;
use crate::report::Measure;
use crate::{Result, credentials};

const PATH: &str = "/pusher/auth";
/// What every contender's log line of a decision has.
const LOGGED: &str = "channel_auth";
const PRESENCE_CHANNEL: &str = "presence-r1";
/// The warm-up is a fifth of what is measured: who compiles while it runs does so then.
const WARM_UP: u32 = 5;

/// One client's question, and whether it is to be granted.
struct Question {
    number: u32,
    socket_id: String,
    channel: String,
    granted: bool,
}

pub(super) fn run(context: &Context<'_>, stage: &mut Stage) -> Result<Vec<Measure>> {
    let (measured, warm_up) = (context.args.requests, context.args.requests / WARM_UP);
    let mut askers = Askers::new(stage.target, context.args.window)?;
    let warm_up = Round::new(0..warm_up);
    let round = Round::new(warm_up.next()..warm_up.next() + measured);
    warm_up.ask(&mut askers)?;
    std::thread::sleep(SETTLE);
    let before = Reading::take(stage.pid())?;
    let taken = round.ask(&mut askers)?;
    // What comes after the answer, such as log lines, belongs to it.
    std::thread::sleep(SETTLE);
    let cpu = Reading::take(stage.pid())?.since(&before).total();
    stage.wait_logged(LOGGED, round.next() as usize)?;
    let requests = f64::from(measured);
    Ok(vec![
        Measure::new("rate one core allows", "requests a CPU second", requests / cpu),
        Measure::new("CPU", "µs per request", cpu / requests * 1e6),
        Measure::new("rate", "requests a second", requests / taken.as_secs_f64()),
    ])
}

/// Questions, and the requests that are made of them before anything is measured.
struct Round {
    questions: Vec<Question>,
    requests: Vec<Vec<u8>>,
}

impl Round {
    fn new(numbers: std::ops::Range<u32>) -> Self {
        let questions: Vec<_> = numbers.map(Question::new).collect();
        let requests = questions.iter().map(Question::request).collect();
        Self { questions, requests }
    }

    /// The number after its last.
    fn next(&self) -> u32 {
        self.questions.last().map_or(0, |question| question.number + 1)
    }

    fn ask(&self, askers: &mut Askers) -> Result<std::time::Duration> {
        askers.ask(&self.requests, TIMEOUT, |index, answer| {
            let question = self.questions.get(index).ok_or("an answer too many")?;
            question.check(answer)
        })
    }
}

impl Question {
    /// Of ten, seven ask for a private channel that is theirs, two for the presence channel, and one for a private
    /// channel of somebody else.
    fn new(number: u32) -> Self {
        let (granted, channel) = match number % 10 {
            0 => (false, plugin(number + 1)),
            1 | 6 => (true, String::new()),
            _ => (true, plugin(number)),
        };
        let channel = if channel.is_empty() {
            PRESENCE_CHANNEL.to_owned()
        } else {
            format!("private-plugin-{channel}")
        };
        Self { number, socket_id: format!("{}.{}", 100_000 + number, 7 * number + 1), channel, granted }
    }

    fn user(&self) -> String {
        format!("new-{}", self.number)
    }

    /// As pusher-js makes it in a browser.
    fn request(&self) -> Vec<u8> {
        let Self { number, socket_id, channel, .. } = self;
        let token = credentials::token(*number as usize, &self.user(), &[&plugin(*number)]);
        let body = format!("socket_id={socket_id}&channel_name={channel}");
        format!(
            "POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\nUser-Agent: new-client/1.0\r\n\
             Accept: */*\r\nContent-Type: application/x-www-form-urlencoded\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    /// The signature is the one of what was asked, and of who the token says has asked.
    fn check(&self, answer: &Answer<'_>) -> Result<()> {
        let Self { socket_id, channel, .. } = self;
        let expected = if self.granted { 200 } else { 403 };
        let body: Value = serde_json::from_slice(answer.body)?;
        if answer.status != expected {
            return Err(format!("{channel}: {} instead of {expected}: {body}", answer.status).into());
        }
        let member = body["channel_data"].as_str();
        let signed = match member {
            Some(data) => format!("{channel}:{data}"),
            None => channel.clone(),
        };
        let auth = self.granted.then(|| credentials::channel_auth(socket_id, &signed));
        let is_member = match member {
            Some(data) => serde_json::from_str::<Value>(data)? == self.member(),
            None => channel != PRESENCE_CHANNEL,
        };
        if body["auth"].as_str() == auth.as_deref() && is_member {
            return Ok(());
        }
        Err(format!("{channel}: not what {} was to be answered: {body}", self.user()).into())
    }

    fn member(&self) -> Value {
        let number = self.number as usize;
        let info = json!({
            "name": credentials::name(number),
            "email": credentials::email(number),
            "role": credentials::ROLE,
        });
        json!({"user_id": self.user(), "user_info": info})
    }
}

/// What the user of this number owns.
fn plugin(number: u32) -> String {
    format!("p{number}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(question: &Question, status: u16, body: &Value) -> bool {
        question.check(&Answer { status, body: body.to_string().as_bytes() }).is_ok()
    }

    #[test]
    fn only_the_right_signature_is_taken() {
        let question = Question::new(2);
        let auth = credentials::channel_auth(&question.socket_id, "private-plugin-p2");
        assert!(answer(&question, 200, &json!({"auth": auth})));
        assert!(!answer(&question, 403, &json!({"auth": auth})));
        assert!(!answer(&question, 200, &json!({})));
        let other = credentials::channel_auth(&question.socket_id, "private-plugin-p3");
        assert!(!answer(&question, 200, &json!({"auth": other})));
    }

    #[test]
    fn a_member_is_who_the_token_says() {
        let question = Question::new(1);
        let of = |member: Value| {
            let data = member.to_string();
            let auth = credentials::channel_auth(&question.socket_id, &format!("{PRESENCE_CHANNEL}:{data}"));
            json!({"auth": auth, "channel_data": data})
        };
        assert!(answer(&question, 200, &of(question.member())));
        assert!(!answer(&question, 200, &of(Question::new(11).member())), "another");
        let nobody = credentials::channel_auth(&question.socket_id, PRESENCE_CHANNEL);
        assert!(!answer(&question, 200, &json!({"auth": nobody})));
    }

    #[test]
    fn who_asks_for_anothers_is_to_be_refused() {
        let question = Question::new(10);
        assert!(answer(&question, 403, &json!({"error": "forbidden"})));
        let auth = credentials::channel_auth(&question.socket_id, &question.channel);
        assert!(!answer(&question, 200, &json!({"auth": auth})));
    }
}
