//! The program between its Pusher, old clients and a backend, with numbered streams between all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use pusher_bridge::http::Client;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::account::{Account, Fate, Mark, table};
use crate::support::backend::Backend;
use crate::support::bridge::token_with;
use crate::support::process::{self, Ended, Program};
use crate::support::pusher::App;
use crate::support::sockudo::free_address;
use crate::support::{OldClient, Raw, patiently};

/// Between two numbers of a stream.
const PACE: Duration = Duration::from_millis(12);
/// Events in one request.
pub const BATCH_MAX: usize = 10;
/// Between two looks at what tells nobody of its changes.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The routes of these tests. Deadlines are short, and gaps are told.
const ROUTES: &str = include_str!("routes.toml");

/// The channels that the publisher's numbers go to, and at what path an old client gets them.
pub const DOWN: [(&str, &str); 4] = [
    ("watch-a", "/watch/a"),
    ("watch-b", "/watch/b"),
    ("private-talk-a", "/talk/a"),
    ("private-talk-b", "/talk/b"),
];

/// How the program is started.
pub struct Launch {
    /// Replacements in the routes.
    pub routes: Vec<(&'static str, String)>,
    pub env: HashMap<String, String>,
    pub stderr: Stdio,
    /// For clients, and for probes; otherwise it chooses, and says which.
    pub addresses: Option<[SocketAddr; 2]>,
}

impl Launch {
    /// With this app as its Pusher, reached at `via`.
    pub fn new(app: &App, via: SocketAddr) -> Self {
        let env = App { address: via, ..app.clone() }.environment();
        Self { routes: Vec::new(), env, stderr: Stdio::piped(), addresses: None }
    }

    pub fn replace(mut self, what: &'static str, by: impl Into<String>) -> Self {
        self.routes.push((what, by.into()));
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    pub fn at(self, addresses: [SocketAddr; 2]) -> Self {
        Self { addresses: Some(addresses), ..self }
    }

    /// With its log going there, where nobody reads which addresses it has.
    pub fn log_to(self, stderr: impl Into<Stdio>) -> Self {
        Self { stderr: stderr.into(), ..self.at([free_address(), free_address()]) }
    }

    fn text(&self) -> String {
        let mut text = ROUTES.to_owned();
        for (what, by) in &self.routes {
            assert_eq!(text.matches(what).count(), 1, "{what} is in the routes once");
            text = text.replace(what, by);
        }
        text
    }
}

/// The running program.
pub struct Served {
    pub program: Program,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

impl Served {
    pub async fn start(name: &str, launch: Launch) -> Self {
        let file = process::file(&format!("faults-{name}.toml"), &launch.text());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let [listen, admin] = launch.addresses.unwrap_or([any, any]).map(|address| address.to_string());
        let args = ["serve", "--config", &file, "--listen", &listen, "--admin", &admin];
        let mut command = process::command(&[&args[..], &["--log-format", "json"]].concat(), &launch.env);
        command.stderr(launch.stderr);
        let mut program = Program::spawn(command);
        let (address, admin) = match launch.addresses {
            None => program.serves().await,
            Some([address, admin]) => (address, admin),
        };
        let mut served = Self { program, address, admin };
        served.until("it is ready", async |served| served.is("/readyz").await).await;
        served
    }

    /// Looks again and again.
    pub async fn until(&mut self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let holding = async {
            while !holds(self).await {
                assert!(!self.program.is_over(), "it has ended before {what}");
                sleep(LOOK_AGAIN).await;
            }
        };
        patiently(what, holding).await;
    }

    /// Whether a probe says yes.
    pub async fn is(&self, probe: &str) -> bool {
        if TcpStream::connect(self.admin).await.is_err() {
            return false;
        }
        Raw::ask(self.admin, format!("GET {probe} HTTP/1.1\r\nHost: a\r\n\r\n")).await.status == 200
    }

    pub async fn metrics(&self) -> Metrics {
        Metrics(Raw::ask(self.admin, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await.body)
    }

    pub async fn until_metric(&mut self, what: &str, holds: impl Fn(&Metrics) -> bool) {
        self.until(what, async |served| holds(&served.metrics().await)).await;
    }
}

/// A look at `/metrics`.
pub struct Metrics(String);

impl Metrics {
    /// The sum of the series that begin so, with their values.
    pub fn sum(&self, series: &str) -> f64 {
        let lines = self.0.lines().filter(|line| line.starts_with(series));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// How many messages of clients have been settled, in whatever way.
    pub fn settled(&self) -> f64 {
        self.sum("pusher_bridge_publish_total{")
    }

    /// The series that begin so and are not zero.
    pub fn moved(&self, series: &str) -> Vec<&str> {
        self.0.lines().filter(|line| line.starts_with(series) && !line.ends_with(" 0")).collect()
    }

    /// Requests sent again though they may have been carried out.
    pub fn answers_lost(&self) -> usize {
        let lost =
            |cause: &str| self.sum(&format!("pusher_bridge_publish_retries_total{{cause=\"{cause}\"}}"));
        (lost("no_answer") + lost("server_error")) as usize
    }

    pub fn gaps(&self) -> f64 {
        self.sum("pusher_bridge_upstream_gaps_total")
    }
}

// ------------------------------------------------------------------------------------------------ clients

/// What an old client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A number from the publisher.
    Down(u32),
    /// A number from another client.
    Up(u32),
    /// A message of its own was not carried.
    Told(u32, String),
    Gap,
    /// Its connection ended, by a close frame or without.
    Over(Option<u16>),
}

/// All that an old client saw.
#[derive(Debug, Default)]
pub struct Heard {
    pub log: Vec<Seen>,
    down: usize,
    up: usize,
    ended: bool,
}

impl Heard {
    /// How many of its messages it was told of.
    pub fn told(&self) -> usize {
        self.log.iter().filter(|seen| matches!(seen, Seen::Told(..))).count()
    }
}

/// An old client whose connection is listened to.
pub struct Ear {
    heard: watch::Receiver<Heard>,
}

type Socket = WebSocketStream<TcpStream>;

impl Ear {
    fn of(mut stream: SplitStream<Socket>) -> Self {
        let (sender, heard) = watch::channel(Heard::default());
        tokio::spawn(async move {
            loop {
                let seen = match stream.next().await {
                    Some(Ok(Message::Text(text))) => read(&text),
                    Some(Ok(Message::Close(close))) => Some(Seen::Over(close.map(|close| close.code.into()))),
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => Some(Seen::Over(None)),
                };
                let over = matches!(seen, Some(Seen::Over(_)));
                sender.send_modify(|heard| match seen {
                    Some(seen) => {
                        heard.down += usize::from(matches!(seen, Seen::Down(_)));
                        heard.up += usize::from(matches!(seen, Seen::Up(_)));
                        heard.log.push(seen);
                    }
                    None => heard.ended = true,
                });
                if over {
                    return;
                }
            }
        });
        Self { heard }
    }

    pub fn log(&self) -> Vec<Seen> {
        self.heard.borrow().log.clone()
    }

    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Heard) -> bool) {
        patiently(what, self.heard.clone().wait_for(|heard| holds(heard))).await.expect(what);
    }

    /// Its connection's end.
    pub async fn over(&self) -> Option<u16> {
        let code = |heard: &Heard| match heard.log.last() {
            Some(Seen::Over(code)) => Some(*code),
            _ => None,
        };
        self.until("its connection to end", |heard| code(heard).is_some()).await;
        code(&self.heard.borrow()).unwrap()
    }

    pub fn is_over(&self) -> bool {
        matches!(self.heard.borrow().log.last(), Some(Seen::Over(_)))
    }

    /// Whether its stream has ended, or its connection.
    fn is_done(&self) -> bool {
        let heard = self.heard.borrow();
        heard.ended || matches!(heard.log.last(), Some(Seen::Over(_)))
    }

    /// A stream's marks.
    fn marks(&self, number: impl Fn(&Seen) -> Option<u32>) -> Vec<Mark> {
        let mark = |seen: &Seen| match seen {
            Seen::Gap | Seen::Over(_) => Some(Mark::Gap),
            seen => number(seen).map(Mark::Number),
        };
        self.heard.borrow().log.iter().filter_map(mark).collect()
    }

    pub fn told(&self) -> BTreeSet<u32> {
        let told = |seen: &Seen| match seen {
            Seen::Told(n, _) => Some(*n),
            _ => None,
        };
        self.heard.borrow().log.iter().filter_map(told).collect()
    }
}

fn down(seen: &Seen) -> Option<u32> {
    if let Seen::Down(n) = seen { Some(*n) } else { None }
}

fn up(seen: &Seen) -> Option<u32> {
    if let Seen::Up(n) = seen { Some(*n) } else { None }
}

/// What a frame is; `None`: the end of the streams.
fn read(text: &str) -> Option<Seen> {
    let json: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let number = || u32::try_from(json["data"]["n"].as_u64().unwrap_or_else(|| panic!("{json}"))).unwrap();
    Some(match json["type"].as_str().unwrap() {
        "number" => Seen::Down(number()),
        "end" => return None,
        "error" => match json["data"]["error_code"].as_str().unwrap() {
            "EVENTS_MAY_BE_MISSING" => Seen::Gap,
            code => {
                let message = json["data"]["details"]["type"].as_str().unwrap_or_else(|| panic!("{json}"));
                Seen::Told(message.strip_prefix('u').unwrap().parse().unwrap(), code.to_owned())
            }
        },
        kind if kind.starts_with("client-u") => Seen::Up(number()),
        other => panic!("{other}: {json}"),
    })
}

/// An old client that only listens.
pub async fn listener(address: SocketAddr, path: &str) -> Ear {
    Ear::of(login(address, path).await.1)
}

/// An old client's two directions, authenticated.
pub async fn login(address: SocketAddr, path: &str) -> (SplitSink<Socket, Message>, SplitStream<Socket>) {
    let mut client = OldClient::connect(address, path).await;
    client.auth(&token_with("1", |claims| claims["exp"] = FAR.into())).await;
    let answer = client.json().await;
    assert_eq!(answer["type"], "auth_response", "{answer}");
    client.socket.split()
}

/// Late in this century: the clocks of these tests jump by years.
pub const FAR: i64 = 4_000_000_000;

/// An old client that sends numbers, and hears what becomes of them.
struct Talker {
    ear: Ear,
    sending: JoinHandle<u32>,
}

impl Talker {
    async fn start(address: SocketAddr, path: &str, padding: usize, stop: watch::Receiver<bool>) -> Self {
        let (sink, stream) = login(address, path).await;
        Self { ear: Ear::of(stream), sending: tokio::spawn(talk(sink, padding, stop)) }
    }

    /// What became of the numbers up to `last`, of which these arrived; `cut`: who gets them is gone.
    fn account(&self, name: &str, last: u32, arrived: &[Mark], cut: bool) -> Account {
        let numbers: Vec<(u32, Fate)> = (1..=last).map(|n| (n, Fate::Taken)).collect();
        Account::of(name, &numbers, arrived, &self.ear.told(), cut || self.ear.is_over())
    }
}

/// Each number has a type of its own, for that is what an error frame names. Gives the last number sent.
async fn talk(mut sink: SplitSink<Socket, Message>, padding: usize, stop: watch::Receiver<bool>) -> u32 {
    let padding = "x".repeat(padding);
    let mut n = 0;
    while !*stop.borrow() {
        let frame = format!(r#"{{"type":"u{}","data":{{"n":{},"x":"{padding}"}}}}"#, n + 1, n + 1);
        if sink.send(Message::text(frame)).await.is_err() {
            break;
        }
        n += 1;
        sleep(PACE).await;
    }
    n
}

/// Publishes numbers on every channel at once, by the upstream's HTTP API.
async fn publish(app: App, padding: usize, stop: watch::Receiver<bool>) -> Vec<(u32, Fate)> {
    let client = Client::new(&pusher_bridge::tls::client_config(None).unwrap());
    let channels = DOWN.map(|(channel, _)| channel);
    let padding = "x".repeat(padding);
    let mut sent = Vec::new();
    let mut n = 0;
    while !*stop.borrow() {
        n += 1;
        let data = format!(r#"{{"n":{n},"x":"{padding}"}}"#);
        match app.try_trigger(&client, &channels, "number", &data).await {
            Ok(response) if response.status == 200 => sent.push((n, Fate::Taken)),
            // It does not count as sent.
            Ok(_) => {}
            // One that is being ended may have taken it.
            Err(_) => sent.push((n, Fate::Unknown)),
        }
        sleep(PACE).await;
    }
    sent
}

// ------------------------------------------------------------------------------------------------- streams

/// Running streams.
pub struct Run {
    pub served: Served,
    pub listeners: Vec<(&'static str, Ear)>,
    talkers: [Talker; 2],
    poster: Talker,
    pub backend: Backend,
    app: App,
    publishing: JoinHandle<Vec<(u32, Fate)>>,
    /// Messages of clients that are no streams.
    beside: usize,
    stop: watch::Sender<bool>,
}

/// What of a run is left when all is over.
pub struct Over {
    pub accounts: BTreeMap<&'static str, Account>,
    pub served: Served,
    /// What it counted, when everything had come through: afterwards its Pusher ends.
    pub metrics: Metrics,
    /// The codes that senders were told.
    pub codes: BTreeMap<String, usize>,
}

/// The names of the streams from clients, by where they end.
pub const UP: [&str; 2] = ["a: client to Pusher", "b: client to Pusher"];
pub const BESIDE: [&str; 2] = ["a: client to its neighbour", "b: client to its neighbour"];
pub const POST: &str = "client to backend";

impl Run {
    /// Starts the program and the streams; `app` is where the publisher publishes, past every proxy.
    pub async fn start(name: &str, app: &App, launch: Launch) -> Self {
        Self::padded(name, app, launch, 0).await
    }

    /// The same, with numbers that carry so many bytes beside.
    pub async fn padded(name: &str, app: &App, launch: Launch, padding: usize) -> Self {
        let backend = Backend::start().await;
        let served = Served::start(name, launch.env("BACKEND_URL", backend.url())).await;
        let (stop, stopped) = watch::channel(false);
        let mut listeners = Vec::new();
        for (channel, path) in DOWN {
            listeners.push((channel, listener(served.address, path).await));
        }
        let talker = async |path: &str| Talker::start(served.address, path, padding, stopped.clone()).await;
        let talkers = [talker("/talk/a").await, talker("/talk/b").await];
        let poster = talker("/post/p").await;
        let publishing = tokio::spawn(publish(app.clone(), padding, stopped));
        let app = app.clone();
        let run = Self { served, listeners, talkers, poster, backend, app, publishing, beside: 0, stop };
        run.flow("at first", 10).await;
        run
    }

    /// Others have sent so many messages, and all of them were carried.
    pub fn beside(self, messages: usize) -> Self {
        Self { beside: messages, ..self }
    }

    pub fn ear(&self, channel: &str) -> &Ear {
        &self.listeners.iter().find(|(name, _)| *name == channel).unwrap().1
    }

    pub fn sender(&self, index: usize) -> &Ear {
        &self.talkers[index].ear
    }

    /// Waits until every stream has moved on by so much.
    pub async fn flow(&self, when: &str, by: usize) {
        for (channel, ear) in &self.listeners {
            self.flow_of(ear, &format!("{channel} {when}"), by).await;
        }
    }

    async fn flow_of(&self, ear: &Ear, what: &str, by: usize) {
        let (down, up) = {
            // Looked at once: a second look beside the first waits for a writer, which waits for the first.
            let heard = ear.heard.borrow();
            (heard.down, heard.up)
        };
        ear.until(&format!("numbers on {what}"), |heard| heard.down >= down + by).await;
        if what.contains("talk") {
            ear.until(&format!("clients' numbers on {what}"), |heard| heard.up >= up + by).await;
        }
    }

    /// Waits until one channel has moved on by so much.
    pub async fn flow_on(&self, channel: &str, by: usize) {
        self.flow_of(self.ear(channel), channel, by).await;
    }

    /// Ends the streams when everything has come through, and accounts for them. `taken` gives what the upstream
    /// took of a channel, or `None` where nobody watched it.
    pub async fn finish(mut self, fault: &str, taken: impl AsyncFn(&str) -> Option<Vec<Mark>>) -> Over {
        let sent = self.stop().await;
        let all = (sent.up.iter().sum::<u32>() + sent.posted) as usize + self.beside;
        let settled = format!("{all} messages to be settled");
        self.served.until_metric(&settled, |metrics| metrics.settled() == all as f64).await;
        let client = Client::new(&pusher_bridge::tls::client_config(None).unwrap());
        let ending = async {
            // Again and again, for one may fall into a gap.
            while !self.ears().all(Ear::is_done) {
                let channels = DOWN.map(|(channel, _)| channel);
                let _ = self.app.try_trigger(&client, &channels, "end", "1").await;
                sleep(LOOK_AGAIN).await;
            }
        };
        patiently("the streams' end", ending).await;
        let accounts = self.account(fault, &sent, taken).await;
        let codes = self.codes();
        let metrics = self.served.metrics().await;
        let ok = metrics.sum(r#"pusher_bridge_publish_total{result="ok"}"#);
        println!("  told: {codes:?}; gaps counted: {}", metrics.gaps());
        assert_eq!(ok as usize + codes.values().sum::<usize>(), all, "each message is carried or told");
        let over = Over { accounts, served: self.served, metrics, codes };
        assert!(over.missed() == 0 || over.metrics.gaps() > 0.0, "what was missed is counted");
        over
    }

    /// The same when the program itself ends, and with it every connection.
    pub async fn finish_ended(
        mut self,
        fault: &str,
        taken: impl AsyncFn(&str) -> Option<Vec<Mark>>,
    ) -> (BTreeMap<&'static str, Account>, Ended) {
        for ear in self.ears().chain([&self.poster.ear]) {
            ear.over().await;
        }
        let sent = self.stop().await;
        // Its outputs end with it.
        let ended =
            std::mem::replace(&mut self.served.program, Program::spawn(Command::new("true"))).ended().await;
        let accounts = self.account(fault, &sent, taken).await;
        println!("  exit code: {:?}; told: {:?}", ended.code, self.codes());
        (accounts, ended)
    }

    /// Ends the sending.
    async fn stop(&mut self) -> Sent {
        self.stop.send_replace(true);
        let down = patiently("the publisher's end", &mut self.publishing).await.unwrap();
        let mut counts = [0; 3];
        let talkers = self.talkers.iter_mut().chain([&mut self.poster]);
        for (count, talker) in counts.iter_mut().zip(talkers) {
            *count = patiently("a sender's end", &mut talker.sending).await.unwrap();
        }
        let [a, b, posted] = counts;
        Sent { down, up: [a, b], posted }
    }

    /// Everybody who gets numbers.
    fn ears(&self) -> impl Iterator<Item = &Ear> {
        self.listeners.iter().map(|(_, ear)| ear).chain(self.talkers.iter().map(|talker| &talker.ear))
    }

    async fn account(
        &mut self,
        fault: &str,
        sent: &Sent,
        taken: impl AsyncFn(&str) -> Option<Vec<Mark>>,
    ) -> BTreeMap<&'static str, Account> {
        let mut accounts = BTreeMap::new();
        for (channel, ear) in &self.listeners {
            let account = Account::of(channel, &sent.down, &ear.marks(down), &BTreeSet::new(), false);
            accounts.insert(*channel, account);
        }
        for (index, talker) in self.talkers.iter().enumerate() {
            let channel = DOWN[index + 2].0;
            // The bridge itself delivers them, whatever becomes of the link: a gap explains nothing.
            let mut beside = self.ear(channel).marks(up);
            beside.retain(|mark| *mark != Mark::Gap);
            let cut = self.ear(channel).is_over();
            accounts.insert(BESIDE[index], talker.account(BESIDE[index], sent.up[index], &beside, cut));
            if let Some(marks) = taken(channel).await {
                accounts.insert(UP[index], talker.account(UP[index], sent.up[index], &marks, false));
            }
            assert!(talker.ear.marks(up).iter().all(|mark| *mark == Mark::Gap), "its own messages came back");
        }
        let posted: Vec<Mark> = self.backend.come().iter().map(|posted| number_in(&posted.body)).collect();
        accounts.insert(POST, self.poster.account(POST, sent.posted, &posted, false));
        println!("{}", table(fault, accounts.values()));
        accounts
    }

    /// The codes that senders were told.
    fn codes(&self) -> BTreeMap<String, usize> {
        let mut codes: BTreeMap<String, usize> = BTreeMap::new();
        for talker in self.talkers.iter().chain([&self.poster]) {
            for seen in talker.ear.log() {
                if let Seen::Told(_, code) = seen {
                    *codes.entry(code).or_default() += 1;
                }
            }
        }
        codes
    }
}

/// What was sent.
struct Sent {
    down: Vec<(u32, Fate)>,
    up: [u32; 2],
    posted: u32,
}

/// The number in a message's data.
pub fn number_in(data: &str) -> Mark {
    let json: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"));
    Mark::Number(u32::try_from(json["n"].as_u64().unwrap_or_else(|| panic!("{data}"))).unwrap())
}

impl Over {
    pub fn get(&self, name: &str) -> &Account {
        &self.accounts[name]
    }

    /// These streams, and no others, may have noticed something; all are honest. A sender's neighbours miss nothing
    /// but what it is told of.
    #[track_caller]
    pub fn only(&self, affected: &[&str]) {
        for (up, beside) in UP.iter().zip(BESIDE) {
            let (Some(up), beside) = (self.accounts.get(up), self.get(beside)) else { continue };
            // Where Pusher was watched without a break.
            if up.gaps == 0 {
                assert!(beside.delivered <= up.delivered, "{beside:?} has what Pusher has not: {up:?}");
            }
        }
        for (name, account) in &self.accounts {
            match *name {
                name if !affected.contains(&name) => account.is_clean(),
                name if BESIDE.contains(&name) && self.codes.is_empty() => account.is_clean(),
                // It comes here by the link, when it is back, if at all.
                name if BESIDE.contains(&name) && self.metrics.gaps() == 0.0 => {
                    account.is_honest();
                    assert_eq!(account.told_in_vain, 0, "{account:?}");
                }
                // At least once, as Pusher's own subscribers get it: a batch again for each answer that was lost.
                name if UP.contains(&name) => {
                    account.is_complete();
                    assert!(account.duplicated <= BATCH_MAX * self.metrics.answers_lost(), "{account:?}");
                }
                _ => account.is_honest(),
            }
        }
    }

    /// All but what goes to the backend.
    #[track_caller]
    pub fn only_pushers(&self) {
        let affected: Vec<&str> = self.accounts.keys().copied().filter(|name| *name != POST).collect();
        self.only(&affected);
    }

    /// How many of the publisher's numbers old clients missed.
    pub fn missed(&self) -> usize {
        DOWN.iter().map(|(channel, _)| self.get(channel).missed).sum()
    }
}
