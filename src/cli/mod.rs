//! The commands and their exit codes.

mod check;
mod connect;
mod demo;
mod explain;
mod healthcheck;
mod judge;
mod line_rate;
mod log_lines;
mod logging;
mod manual;
mod sandbox;
mod serve;
mod simulate;
mod supervised;
mod test;
mod token;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::clock::Now;
use crate::config::diagnostics::{Diagnostic, Source};
use crate::config::{self, Config, Loaded, Missing, Places};

/// Something failed while running.
const EXIT_FAILURE: u8 = 1;
/// Wrong usage, as clap has it.
const EXIT_USAGE: u8 = 2;
/// The configuration is wrong or incomplete (sysexits.h, EX_CONFIG).
const EXIT_CONFIG: u8 = 78;
/// How long standard error may take the last words.
const PRINT_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps old raw-WebSocket clients working after their server moved to Pusher Channels.
///
/// Old clients connect as ever; the bridge checks their tokens and limits and relays their traffic, both ways,
/// to the Pusher channels that routes.toml maps them to.
#[derive(Debug, Parser)]
#[command(name = "pusher-bridge", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Credentials come from the environment, by the names that routes.toml interpolates:
PUSHER_APP_ID, PUSHER_KEY, PUSHER_SECRET, PUSHER_CLUSTER, JWT_SECRET; for a self-hosted
server PUSHER_HOST, PUSHER_PORT, PUSHER_TLS.

Flags override the environment, which overrides the file.

Exit codes: 0 success, 1 failure, 2 wrong usage, 78 wrong or incomplete configuration.

First steps:
  pusher-bridge demo                    everything at once, nothing else installed
  pusher-bridge check                   is routes.toml right, and what does it mean?
  pusher-bridge explain URL             which route takes it, and what becomes of it?";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the bridge. It needs real credentials, reloads its file when that changes and on SIGHUP, and ends on SIGTERM
    /// within its grace period.
    Serve(ServeArgs),
    /// Validate a routes file and print the route table it means. Credentials may be missing.
    Check(CheckArgs),
    /// Tell what becomes of a request: its route, each check, and what is published and sent.
    Explain(ExplainArgs),
    /// Look whether what the file's [[tests]] expect is what happens. Nothing is connected; credentials may be missing.
    Test(TestArgs),
    /// Make a token for development, or judge or look into any.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Ask the admin address whether a bridge is ready; exit code 1 where it is not. For images without a shell.
    Healthcheck(HealthArgs),
    /// Print the JSON Schema of the routes file, for editors.
    Schema,
    /// Print what completes this command line in a shell.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man {
        /// Write a page for the program and each of its commands into this folder instead.
        #[arg(long, value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
    /// Run the bridge with an in-process Pusher, a publisher of progress events and a fresh token.
    Demo(DemoArgs),
    /// Be an old client: print frames, send the lines typed, answer pings.
    Connect(ConnectArgs),
    /// Be many old clients: each goes through a script, and a summary says what became of them. Exit code 1 where anything
    /// failed.
    Simulate(SimulateArgs),
    /// Run the in-process Pusher-compatible server alone, for development and tests.
    Sandbox(SandboxArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The routes file.
    #[arg(long, value_name = "FILE", default_value = "routes.toml", env = "PUSHER_BRIDGE_CONFIG")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print instead what a reload would do to a bridge that runs with this file.
    #[arg(long, value_name = "OLD")]
    against: Option<PathBuf>,
    /// Warn also of routes that no [[tests]] of the file asks.
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// What a client asks for: ws://HOST/PATH, or a path alone.
    url: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// The token that it sends, by its dialect's own message.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// The page that it is of, as browsers tell.
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// A further field of the request, as a token or a proxy's; may be given several times.
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Where it comes from.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// A message that it sends; several are sent in this order.
    #[arg(long, value_name = "JSON")]
    message: Vec<String>,
    /// The name of an event that is published on its channel.
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// The event's data (default: {}).
    #[arg(long, value_name = "JSON", requires = "event")]
    data: Option<String>,
    /// When, as 2026-01-31T12:00:00Z (default: now).
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// As text or as JSON.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Args)]
struct TestArgs {
    /// Only tests with this in their name.
    name: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token by an HS256 secret of the file, for development. Without such a secret none is made.
    Mint(MintArgs),
    /// Say what serving would say of a token, and why. Keys at a URL are fetched.
    Verify(VerifyArgs),
    /// Show what a token says. Nothing of it is verified.
    Inspect {
        /// The token; - is standard input.
        token: String,
    },
}

#[derive(Debug, Args)]
struct MintArgs {
    /// The user's id.
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// The user's role.
    #[arg(long)]
    role: Option<String>,
    /// A permission; may be given several times.
    #[arg(long)]
    permission: Vec<String>,
    /// Further claims, a JSON object. exp, iss and aud are added where they are left out.
    #[arg(long, value_name = "JSON")]
    claims: Option<String>,
    /// How long it is good: 30s, 5m, 1h or 7d.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    expires: String,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// The token; - is standard input.
    token: String,
    /// When, as 2026-01-31T12:00:00Z (default: now).
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
struct HealthArgs {
    /// Where probes are served, instead of the file's `server.admin`.
    #[arg(long, value_name = "ADDR", env = "PUSHER_BRIDGE_ADMIN")]
    admin: Option<SocketAddr>,
    /// Ask whether it is alive (/healthz) instead of ready (/readyz).
    #[arg(long)]
    live: bool,
    /// Seconds that the answer may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=60))]
    timeout: u16,
    #[command(flatten)]
    config: ConfigArgs,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Args)]
struct LogArgs {
    /// Log lines as text or as JSON, on standard error.
    #[arg(long, value_enum, default_value = "text", env = "PUSHER_BRIDGE_LOG_FORMAT")]
    log_format: logging::Format,
    /// What to log: a level, or levels by module, such as "info,pusher_bridge::upstream=debug".
    #[arg(long, value_name = "FILTER", default_value = "info", env = "PUSHER_BRIDGE_LOG")]
    log: String,
    /// Log lines of one kind a second, beyond the first hundred seconds' worth; what is left out is counted. 0: all.
    #[arg(long, value_name = "LINES", default_value_t = 200, env = "PUSHER_BRIDGE_LOG_RATE")]
    log_rate: u32,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where old clients connect, instead of the file's `server.listen`.
    #[arg(long, value_name = "ADDR", env = "PUSHER_BRIDGE_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where probes and metrics are served, instead of the file's `server.admin`. Not for the public.
    #[arg(long, value_name = "ADDR", env = "PUSHER_BRIDGE_ADMIN")]
    admin: Option<SocketAddr>,
    /// Do not reload when the routes file, or one that it names, changes: only when asked to, by SIGHUP or `POST /reload`.
    #[arg(long, env = "PUSHER_BRIDGE_NO_WATCH")]
    no_watch: bool,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// A routes file instead of the shipped one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where old clients connect.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8009")]
    listen: SocketAddr,
    /// Where probes and metrics are served.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9009")]
    admin: SocketAddr,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Args)]
struct ConnectArgs {
    /// Where to: ws:// or wss://.
    url: String,
    /// Authenticate with this token right after the connection opens.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
}

#[derive(Debug, Args)]
struct SimulateArgs {
    /// Where to: ws:// or wss://. `{n}` in its path is the client's number, from 0.
    url: String,
    /// How many clients.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: u32,
    /// What each does: docs/asking.md, examples are in docs/simulate.
    #[arg(long, value_name = "FILE")]
    script: PathBuf,
    /// Clients that begin to connect each second (default: as many as --connecting lets).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connect_rate: Option<u32>,
    /// Most clients that are being connected at once.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connecting: u32,
    /// How long, as 30s or 5m (default: until each client is through its script).
    #[arg(long, value_name = "TIME")]
    duration: Option<String>,
    /// The page that they are of, as browsers tell.
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// A further field of their requests; may be given several times.
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Certificates that are trusted beside the usual ones, PEM.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Clients of one source address, where this machine's 127.0.0.0/8 is called; 0: all have the same.
    #[arg(long, value_name = "N", default_value_t = 50)]
    per_address: u32,
    /// Threads that hold clients; one holds some ten thousand.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Failures that are no reason for exit code 1.
    #[arg(long, value_name = "N", default_value_t = 0)]
    allow_failures: u64,
    /// Also where another machine is called: whoever runs that one must know.
    #[arg(long)]
    this_server_is_mine: bool,
    /// The summary as text or as JSON.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Args)]
struct SandboxArgs {
    /// Where to listen, for WebSockets and the HTTP API alike.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6001")]
    listen: SocketAddr,
    /// The app's id.
    #[arg(long, default_value = "1")]
    app_id: String,
    /// The app's key.
    #[arg(long, default_value = "sandbox-key")]
    key: String,
    /// The app's secret.
    #[arg(long, default_value = "sandbox-secret")]
    secret: String,
    /// Where webhooks are sent, an HTTP URL.
    #[arg(long, value_name = "URL")]
    webhooks: Option<String>,
    /// Tells subscribers how many they are, as an app with subscription counting does.
    #[arg(long)]
    subscription_counts: bool,
    #[command(flatten)]
    log: LogArgs,
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let failure = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Token(command) => token::run(&command),
        Command::Healthcheck(args) => healthcheck::run(&args),
        Command::Schema => check::schema(),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { folder } => manual::man(folder.as_deref()),
        Command::Demo(args) => demo::run(&args),
        Command::Connect(args) => connect::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Sandbox(args) => sandbox::run(args),
    };
    match failure {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, code }) => {
            print_err(&message);
            ExitCode::from(code)
        }
    }
}

/// Why a command failed: what standard error is told, and the exit code.
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn runtime(message: impl ToString) -> Self {
        Self { message: format!("error: {}\n", message.to_string()), code: EXIT_FAILURE }
    }

    /// An argument that cannot be used.
    fn usage(message: impl ToString) -> Self {
        Self { message: format!("error: {}\n", message.to_string()), code: EXIT_USAGE }
    }

    /// No failure at all, but the end of the command.
    const fn quiet() -> Self {
        Self { message: String::new(), code: 0 }
    }

    fn config(message: String) -> Self {
        Self { message, code: EXIT_CONFIG }
    }
}

/// Loads a routes file; everything that is wrong with it becomes the failure's message.
fn load(path: &Path, env: config::Environment<'_>) -> Result<Loaded, Failure> {
    load_text(&source(path)?, env)
}

/// The same, with where each of its settings is.
fn load_placed(path: &Path, env: config::Environment<'_>) -> Result<(Loaded, Places), Failure> {
    let source = source(path)?;
    config::load_with_places(&source, env).map_err(|diagnostics| wrong(&source, &diagnostics))
}

fn source(path: &Path) -> Result<Source, Failure> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::config(format!("error: cannot read {name}: {error}\n")))?;
    Ok(Source { name, text })
}

fn load_text(source: &Source, env: config::Environment<'_>) -> Result<Loaded, Failure> {
    config::load(source, env).map_err(|diagnostics| wrong(source, &diagnostics))
}

fn wrong(source: &Source, diagnostics: &[Diagnostic]) -> Failure {
    Failure::config(shown(source, diagnostics))
}

/// Everything that is wrong with a routes file.
fn shown(source: &Source, diagnostics: &[Diagnostic]) -> String {
    let mut message = String::new();
    for diagnostic in diagnostics {
        let _ = writeln!(message, "{diagnostic}");
    }
    let count = diagnostics.len();
    let _ = writeln!(message, "{count} error{} in {}", if count == 1 { "" } else { "s" }, source.name);
    message
}

/// This moment, or the one that is named.
fn moment(at: Option<&str>) -> Result<Now, Failure> {
    let now = Now::read();
    let Some(at) = at else { return Ok(now) };
    let at: jiff::Timestamp =
        at.parse().map_err(|_| Failure::usage("a time is written as 2026-01-31T12:00:00Z"))?;
    Ok(Now { unix_ms: at.as_millisecond(), ..now })
}

/// The process's environment. Values that are not UTF-8 count as missing.
fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The configuration, or what keeps it from being served.
fn complete(loaded: Loaded, file: &str) -> Result<Config, Failure> {
    loaded.complete().map_err(|missing| Failure::config(incomplete(&missing, file)))
}

/// Everything that the environment lacks.
fn incomplete(missing: &[Missing], file: &str) -> String {
    let mut message = format!("error: {file} needs what the environment does not have:\n");
    for variable in missing {
        let _ = writeln!(message, "  {} ({}, line {})", variable.name, variable.key, variable.line);
    }
    message
}

/// Nobody is left to be told when standard error is gone; and when nobody reads it, the program ends all the same.
fn print_err(text: &str) {
    use std::io::Write as _;
    let text = text.to_owned();
    let (done, written) = std::sync::mpsc::channel::<()>();
    let writing = std::thread::Builder::new().spawn(move || {
        let _ = std::io::stderr().write_all(text.as_bytes());
        drop(done);
    });
    if writing.is_ok() {
        let _ = written.recv_timeout(PRINT_TIMEOUT);
    }
}

/// Prints to standard output; a reader that has gone, as `head` does, ends the program quietly.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::quiet()),
        result => result.map_err(Failure::runtime),
    }
}

/// Runs a command to its end. What still waits on another thread then, such as a question to a name server, is
/// left behind.
fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::runtime)?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}
