//! `simulate`: many old clients, each by the same script, and what became of them.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use rustls::pki_types::ServerName;
use tokio::time::{Instant, interval, sleep_until};

use super::serve::descriptors;
use super::{Failure, Format, SimulateArgs, block_on, print, process_env, source, wrong};
use crate::config;
use crate::swarm::actor::Standing;
use crate::swarm::script::{Script, Slot, Step, Text};
use crate::swarm::simulate::{Progress, Simulated, Target};
use crate::swarm::tally::Tally;
use crate::swarm::{Pace, Threads};
use crate::tls;

/// How often is looked how far they are.
const LOOK: Duration = Duration::from_millis(100);
/// How long the goodbyes at the end may take.
const GOODBYES_MAX: Duration = Duration::from_secs(5);
/// Descriptors beside the clients': standard streams, and each thread's own.
const DESCRIPTORS_SPARE: usize = 64;
/// How clients leave at the end, RFC 6455 §7.4.1.
const NORMAL: u16 = 1000;
/// Width of the bar.
const BAR_CELLS: usize = 24;

pub(super) fn run(args: &SimulateArgs) -> Result<(), Failure> {
    let file = source(&args.script)?;
    let script = config::load_script(&file, &process_env).map_err(|errors| wrong(&file, &errors))?;
    let duration = duration(args, &script)?;
    let needed = args.clients as usize + DESCRIPTORS_SPARE;
    let limit = descriptors();
    if limit < needed {
        return Err(Failure::runtime(format!(
            "{} clients need {needed} open files, and no more than {limit} are allowed here: raise the hard limit \
             (`ulimit -Hn`, LimitNOFILE), or take at most {} clients",
            args.clients,
            limit.saturating_sub(DESCRIPTORS_SPARE)
        )));
    }
    block_on(async {
        let target = target(args, &script).await?;
        let swarm = Swarm::start(args, target, script)?;
        let began = Instant::now();
        let outcome = swarm.watch(args.clients, duration).await;
        let tally = swarm.end().await?;
        outcome?;
        let took = began.elapsed();
        match args.format {
            Format::Text => print(&tally.text(took))?,
            Format::Json => print(&format!("{:#}\n", tally.json(took)))?,
        }
        let failures = tally.failures();
        if failures > args.allow_failures {
            return Err(Failure::runtime(format!("{failures} failures, of at most {}", args.allow_failures)));
        }
        Ok(())
    })
}

fn duration(args: &SimulateArgs, script: &Script) -> Result<Option<Duration>, Failure> {
    if let Some(text) = &args.duration {
        let duration = config::duration(text).filter(|duration| !duration.is_zero());
        return duration.map(Some).ok_or_else(|| {
            Failure::usage("`--duration` is a whole number and one of ms, s, m, h, d, as 30s")
        });
    }
    let repeats = script.steps.iter().any(|step| matches!(step, Step::Every(..)));
    let closes = matches!(script.steps.last(), Some(Step::Close(_, None)));
    let returns = matches!(script.steps.last(), Some(Step::Close(_, Some(_))));
    if (repeats && !closes) || returns {
        return Err(Failure::usage(
            "the script has no end, for it has `every` or `again`: `--duration` says how long it is played",
        ));
    }
    Ok(None)
}

// ---------------------------------------------------------------------------------------------- where to

/// A URL taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    is_secure: bool,
    host: String,
    port: u16,
    /// As the `Host` field has it.
    authority: String,
    path: String,
}

impl Place {
    fn of(url: &str) -> Result<Self, Failure> {
        let bad = |why: &str| Failure::usage(format!("{url}: {why}"));
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("not a URL"))?;
        let is_secure = match scheme {
            "ws" => false,
            "wss" => true,
            _ => return Err(bad("a WebSocket URL starts with ws:// or wss://")),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let uri: Uri = format!("http://{authority}/").parse().map_err(|_| bad("not a URL"))?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("there is no host"))?;
        if path.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
            return Err(bad("not a URL"));
        }
        Ok(Self {
            is_secure,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 }),
            authority: authority.to_owned(),
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        })
    }
}

async fn target(args: &SimulateArgs, script: &Script) -> Result<Target, Failure> {
    let place = Place::of(&args.url)?;
    let bad = |why: String| Failure::runtime(format!("{}: {why}", args.url));
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((place.host.as_str(), place.port))
        .await
        .map_err(|error| bad(error.to_string()))?
        .collect();
    let Some(address) = addresses.first().copied() else { return Err(bad("has no address".into())) };
    if !args.this_server_is_mine && addresses.iter().any(|address| !address.ip().is_loopback()) {
        return Err(Failure::usage(format!(
            "{} is another machine ({}), and {} clients are a load: `--this-server-is-mine` says that you run it",
            place.host,
            address.ip(),
            args.clients
        )));
    }
    let secured = if place.is_secure {
        let config = tls::client_config(args.ca_file.as_deref()).map_err(Failure::runtime)?;
        let name = ServerName::try_from(place.host.clone()).map_err(|_| bad("not a host name".into()))?;
        Some((config, name))
    } else {
        None
    };
    let path = match &script.path {
        Some(path) => path.clone(),
        None => Text::parse(&place.path, &[Slot::Number])
            .map_err(|error| Failure::usage(format!("{}: {}", args.url, error.message)))?,
    };
    let fields = fields(args)?;
    Ok(Target { address, secured, host: place.authority, path, fields, per_address: args.per_address })
}

/// Further fields of the request, each one that can be sent.
fn fields(args: &SimulateArgs) -> Result<Vec<(String, String)>, Failure> {
    let origin = args.origin.iter().map(|origin| format!("Origin: {origin}"));
    origin
        .chain(args.header.iter().cloned())
        .map(|field| {
            let bad = || Failure::usage(format!("`{field}` is not a header field: NAME: VALUE"));
            let (name, value) = field.split_once(':').ok_or_else(bad)?;
            let name = HeaderName::try_from(name.trim()).map_err(|_| bad())?;
            let value = value.trim();
            HeaderValue::try_from(value).map_err(|_| bad())?;
            Ok((name.as_str().to_owned(), value.to_owned()))
        })
        .collect()
}

// -------------------------------------------------------------------------------------------- the clients

struct Swarm {
    threads: Threads<Simulated>,
    progress: Vec<Arc<Mutex<Progress>>>,
}

impl Swarm {
    fn start(args: &SimulateArgs, target: Target, script: Script) -> Result<Self, Failure> {
        let (target, script) = (Arc::new(target), Arc::new(script));
        let epoch = Instant::now().into_std();
        let count = args.threads.min(args.clients);
        let crew = |_| Simulated::new(Arc::clone(&target), Arc::clone(&script), epoch);
        let mut crews: Vec<Simulated> = (0..count).map(crew).collect();
        let mut shares = Vec::new();
        for (thread, crew) in (0..count).zip(&mut crews) {
            let share = (thread..args.clients).step_by(count as usize);
            shares.push(share.map(|number| crew.join(number)).collect::<Vec<_>>());
        }
        let progress = crews.iter().map(Simulated::progress).collect();
        let threads = Threads::start(crews, epoch).map_err(Failure::runtime)?;
        let step = args.connect_rate.map_or(0, |rate| 1_000_000_000 / u64::from(rate));
        let window = args.connecting.div_ceil(count) as usize;
        let pace = |thread| Pace { window, first: step * u64::from(thread), step: step * u64::from(count) };
        let paces: Vec<Pace> = (0..count).map(pace).collect();
        threads.connect(shares, &paces).map_err(Failure::runtime)?;
        Ok(Self { threads, progress })
    }

    fn progress(&self) -> Progress {
        let one = |progress: &Arc<Mutex<Progress>>| *progress.lock().unwrap_or_else(PoisonError::into_inner);
        self.progress.iter().map(one).fold(Progress::default(), Progress::and)
    }

    /// Until nobody has anything to do, or the time is over.
    async fn watch(&self, clients: u32, duration: Option<Duration>) -> Result<(), Failure> {
        let began = Instant::now();
        let mut bar = Bar::new();
        let mut look = interval(LOOK);
        let over = async {
            match duration {
                Some(duration) => sleep_until(began + duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        loop {
            tokio::select! {
                _ = look.tick() => {
                    let progress = self.progress();
                    bar.show(&progress, clients, began.elapsed());
                    let through = if duration.is_none() { progress.standing(Standing::Through) } else { 0 };
                    if progress.standing(Standing::Over) + through >= clients as usize {
                        return Ok(());
                    }
                }
                () = &mut over => return Ok(()),
                signal = &mut interrupted => return signal.map_err(Failure::runtime),
            }
        }
    }

    /// All say goodbye; what became of them.
    async fn end(self) -> Result<Tally, Failure> {
        let goodbye = |_: usize, worker: &mut crate::swarm::Worker<Simulated>| {
            worker.stop_connecting();
            worker.for_each_open(|_, _, out| out.close(NORMAL));
        };
        self.threads.each(goodbye).map_err(Failure::runtime)?;
        let until = Instant::now() + GOODBYES_MAX;
        let mut look = interval(LOOK);
        while Instant::now() < until {
            let open = self.threads.each(|_, worker| worker.connections()).map_err(Failure::runtime)?;
            if open.iter().sum::<usize>() == 0 {
                break;
            }
            look.tick().await;
        }
        let tallies = self.threads.each(|_, worker| worker.crew.take_tally()).map_err(Failure::runtime)?;
        let mut all = Tally::default();
        tallies.iter().for_each(|tally| all.merge(tally));
        Ok(all)
    }
}

/// How far they are, on a terminal's standard error.
struct Bar {
    is_shown: bool,
}

impl Bar {
    fn new() -> Self {
        Self { is_shown: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, progress: &Progress, clients: u32, since: Duration) {
        if self.is_shown {
            // Where it cannot be shown, it is not.
            let line = format!("\r{}\x1b[K", line(progress, clients, since));
            self.is_shown = std::io::stderr().write_all(line.as_bytes()).is_ok();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = std::io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

fn line(progress: &Progress, clients: u32, since: Duration) -> String {
    let connected = progress.connected();
    let cells = (connected * BAR_CELLS).checked_div(clients as usize).unwrap_or(0).min(BAR_CELLS);
    let failed = match progress.unconnected {
        0 => String::new(),
        count => format!(", {count} not connected"),
    };
    format!(
        "[{}{}] {connected} of {clients} connected{failed}, {} sent, {} received, {} s",
        "#".repeat(cells),
        ".".repeat(BAR_CELLS - cells),
        progress.sent,
        progress.received,
        since.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_may_have_a_placeholder() {
        for (url, is_secure, host, port, authority, path) in [
            (
                "ws://127.0.0.1:8009/ws/p{n}?x={n}",
                false,
                "127.0.0.1",
                8009,
                "127.0.0.1:8009",
                "/ws/p{n}?x={n}",
            ),
            ("wss://a.example", true, "a.example", 443, "a.example", "/"),
            ("ws://[::1]:1?x", false, "::1", 1, "[::1]:1", "/?x"),
        ] {
            let place = Place::of(url).unwrap_or_else(|failure| panic!("{url}: {}", failure.message));
            let expected =
                Place { is_secure, host: host.into(), port, authority: authority.into(), path: path.into() };
            assert_eq!(place, expected);
        }
        for url in [
            "a.example",
            "http://a.example",
            "ws://",
            "ws:///x",
            "ws://a b/",
            "ws://a/b c",
            "ws://a/\r\nX: y",
        ] {
            assert!(Place::of(url).is_err(), "{url:?}");
        }
    }

    #[test]
    fn the_bar_says_how_far_they_are() {
        let progress = Progress { standing: [40, 10, 50, 0], unconnected: 3, sent: 7, received: 8 };
        let shown = line(&progress, 100, Duration::from_secs(9));
        assert_eq!(
            shown,
            "[##############..........] 60 of 100 connected, 3 not connected, 7 sent, 8 received, 9 s"
        );
        assert!(
            line(&Progress::default(), 1, Duration::ZERO).starts_with("[........................] 0 of 1")
        );
    }
}
