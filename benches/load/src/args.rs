//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::contender::Contender;
use crate::scenario::Scenario;

#[derive(Parser)]
#[command(name = "pusher-bridge-load", version, about = "The load benchmark of pusher-bridge")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Measures the contenders in turn and prints one table
    Run(Box<RunArgs>),
    /// The contender that does the least: accepts, subscribes once, writes every event to every socket
    Floor(FloorArgs),
}

/// What is measured, and how much of it.
#[derive(Args, Clone)]
pub(crate) struct RunArgs {
    /// Interleaved rounds; the table shows their medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_values_t = Scenario::DEFAULT)]
    pub(crate) scenarios: Vec<Scenario>,
    /// Whom to measure
    #[arg(long, value_delimiter = ',', default_values_t = Contender::ALL)]
    pub(crate) contenders: Vec<Contender>,
    /// A short run, about a minute: says that everything works, and nothing about speed
    #[arg(long)]
    pub(crate) quick: bool,
    /// Threads of the harness that hold clients
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) threads: u32,
    /// fanout: clients of one channel
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=18_000))]
    pub(crate) clients: u32,
    /// fanout: events, one by one and then in bursts
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) events: u32,
    /// fanout: events of one burst
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) burst: u32,
    /// Bytes of an event's data
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(150..=10_000))]
    pub(crate) bytes: u32,
    /// idle: clients that are connected and silent
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..=18_000))]
    pub(crate) idle_clients: u32,
    /// connect: connects with authentication
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=18_000))]
    pub(crate) connects: u32,
    /// single: connects with authentication, one at a time; as many stay as leave
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(1..=9_000))]
    pub(crate) singles: u32,
    /// herd: clients that connect at once
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=18_000))]
    pub(crate) herd_clients: u32,
    /// Connects under way at once, but for the herd and the single ones
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=18_000))]
    pub(crate) window: u32,
    /// delay: clients of one channel
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=18_000))]
    pub(crate) delay_clients: u32,
    /// delay: events a second; with the clients above a tenth of what `floor` delivers one by one on two cores
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) delay_rate: u32,
    /// delay: seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(crate) delay_seconds: u32,
    /// filter: agents connected to the one shared channel, least and most
    #[arg(long, value_delimiter = ',', num_args = 1, default_values_t = [1_000, 10_000])]
    pub(crate) agents: Vec<u32>,
    /// filter: events, each for one agent
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub(crate) agent_events: u32,
    /// channels: how many at once, step by step
    #[arg(long, value_delimiter = ',', num_args = 1, default_values_t = [5_000, 15_000, 50_000])]
    pub(crate) channels: Vec<u32>,
    /// channels: subscriptions of one client
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) subscriptions: u32,
    /// publish: clients, each with a channel of its own
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) publishers: u32,
    /// publish: messages of each; the shipped limit lets 100 through at once
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) messages: u32,
    /// publish: how long the upstream takes for an answer, milliseconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) answer_ms: u32,
    /// authorize: requests that are measured; with the warm-up no more than the log's rate lets through at once
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(5..=16_000))]
    pub(crate) requests: u32,
    /// late: clients who come to a cache channel after its last event
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=8_000))]
    pub(crate) late_joiners: u32,
    /// presence: users, each with one client and a connection to the upstream of its own
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=18_000))]
    pub(crate) members: u32,
    /// presence: members of one channel; Pusher allows 100
    #[arg(long, value_delimiter = ',', num_args = 1, default_values_t = [100, 2_000])]
    pub(crate) room_members: Vec<u32>,
    /// presence: events a second on each channel
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) room_rate: u32,
    /// presence: seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(crate) room_seconds: u32,
    /// proxy: requests whose answer has 1 KiB, and as many that bring as much
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub(crate) small_requests: u32,
    /// proxy: the same with 1 MiB
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub(crate) large_requests: u32,
    /// proxy: connections that are kept and idle, and then WebSockets that are
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(10..=8_000))]
    pub(crate) idle_connections: u32,
    /// proxy: messages that are echoed through upgraded connections
    #[arg(long, default_value_t = 40_000, value_parser = clap::value_parser!(u32).range(50..=10_000_000))]
    pub(crate) echoes: u32,
    /// tls: clients that are connected and silent
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(1..=8_000))]
    pub(crate) tls_clients: u32,
    /// reload: seconds, calm and then with fifty reloads
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(crate) reload_seconds: u32,
    /// reload: how many come after those, one behind the other
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(11..=100_000))]
    pub(crate) reloads: u32,
    /// node: the tokens' key is made once, which jsonwebtoken's manual does not tell
    #[arg(long)]
    pub(crate) node_key_once: bool,
    /// Also writes every round's figures here
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// The upstream, sockudo
    #[arg(long, value_name = "FILE")]
    pub(crate) sockudo: PathBuf,
    /// pusher-bridge, release build
    #[arg(long, value_name = "FILE")]
    pub(crate) bridge: PathBuf,
    /// The contender `before`: pusher-bridge of another commit, release build
    #[arg(long, value_name = "FILE")]
    pub(crate) before: Option<PathBuf>,
    /// The contender `before`: its routes file, where it does not know the keys of today's
    #[arg(long, value_name = "FILE")]
    pub(crate) before_routes: Option<PathBuf>,
    /// The contender `before`: with this shared library preloaded, such as another allocator
    #[arg(long, value_name = "FILE")]
    pub(crate) preload: Option<PathBuf>,
    /// The routes file pusher-bridge is measured with
    #[arg(long, value_name = "FILE")]
    pub(crate) routes: PathBuf,
    /// The routes file for `channels`, which needs more than six of them
    #[arg(long, value_name = "FILE")]
    pub(crate) channel_routes: PathBuf,
    /// The routes file for `presence`, which needs more users' connections
    #[arg(long, value_name = "FILE")]
    pub(crate) presence_routes: PathBuf,
    /// The routes file for `proxy`, which passes on to `${OLD_API}`
    #[arg(long, value_name = "FILE")]
    pub(crate) proxy_routes: PathBuf,
    /// The contender `haproxy`
    #[arg(long, value_name = "FILE")]
    pub(crate) haproxy: Option<PathBuf>,
    /// The contender `nginx`
    #[arg(long, value_name = "FILE")]
    pub(crate) nginx: Option<PathBuf>,
    /// The directory of the Node contender, with its packages installed
    #[arg(long, value_name = "DIR")]
    pub(crate) node: PathBuf,
}

impl RunArgs {
    /// The same with everything small when `--quick` was asked for.
    pub(crate) fn scaled(&self) -> Self {
        let mut args = self.clone();
        if args.quick {
            args.rounds = 1;
            args.clients = args.clients.min(200);
            args.events = args.events.min(50);
            args.burst = args.burst.min(10);
            args.idle_clients = args.idle_clients.min(300);
            args.connects = args.connects.min(500);
            args.singles = args.singles.min(200);
            args.herd_clients = args.herd_clients.min(500);
            args.delay_clients = args.delay_clients.min(50);
            args.delay_seconds = args.delay_seconds.min(1);
            args.agents = vec![200];
            args.agent_events = args.agent_events.min(100);
            args.channels = vec![400];
            args.publishers = args.publishers.min(20);
            args.messages = args.messages.min(20);
            args.requests = args.requests.min(500);
            args.small_requests = args.small_requests.min(200);
            args.large_requests = args.large_requests.min(20);
            args.idle_connections = args.idle_connections.min(100);
            args.echoes = args.echoes.min(500);
            args.tls_clients = args.tls_clients.min(200);
            args.reload_seconds = args.reload_seconds.min(3);
            args.reloads = args.reloads.min(20);
            args.late_joiners = args.late_joiners.min(100);
            args.members = args.members.min(100);
            args.room_members = vec![50];
            args.room_seconds = args.room_seconds.min(1);
        }
        args
    }
}

/// How the floor runs.
#[derive(Args)]
pub(crate) struct FloorArgs {
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    #[arg(long)]
    pub(crate) upstream: SocketAddr,
    /// The channel subscribed, once
    #[arg(long)]
    pub(crate) channel: String,
    /// Threads over which the sockets are divided
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
}
