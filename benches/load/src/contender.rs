//! Who is measured, and how each is started.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use pusher_bridge::swarm::socket::Secured;

use crate::Result;
use crate::api::Api;
use crate::args::RunArgs;
use crate::credentials::{self, APP_ID, APP_KEY, APP_SECRET, ENCRYPTION_MASTER_KEY, JWT_SECRET};
use crate::identity::Identity;
use crate::process::{self, Process};
use crate::script::{self, Plan, Script};

/// The channel of the scenarios that have one, and the old endpoint that stands for it: the shipped routes
/// file's only authenticated one with neither a filter nor one client per channel.
pub(crate) const CHANNEL: &str = "private-plugin-p1";
const PLUGIN: &str = "p1";
/// The upstream's name of a channel that old clients call by its number alone.
pub(crate) fn numbered(channel: u32) -> String {
    format!("bench-{channel}")
}

/// A cache channel, and the old endpoint that stands for it.
pub(crate) const STATE_CHANNEL: &str = "private-cache-state-s1";
const STATE_PATH: &str = "/ws/state/s1";

/// The shared channel whose clients get their own agent's events only.
pub(crate) const AGENT_CHANNEL: &str = "agent-status";

/// The encrypted channel, and its old endpoint.
pub(crate) const SECURE_CHANNEL: &str = "private-encrypted-s1";
const SECURE_PATH: &str = "/ws/secure/s1";

/// Address space of the upstream, KiB: it grows with its clients' buffers.
const SOCKUDO_KIB_MAX: u64 = 24 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Contender {
    /// One thread that does the least
    Floor,
    /// The same over the machine's cores
    FloorMt,
    /// The clients at the upstream itself
    Direct,
    /// `ws`, `pusher-js` and `jsonwebtoken`
    Node,
    /// pusher-bridge of another commit, or with another library
    Before,
    /// pusher-bridge
    Bridge,
    /// Debian's HAProxy, where requests are passed on
    Haproxy,
    /// Debian's nginx, the same
    Nginx,
}

impl Contender {
    /// Those that need nothing further to be said.
    pub(crate) const ALL: [Self; 7] =
        [Self::Floor, Self::FloorMt, Self::Direct, Self::Node, Self::Bridge, Self::Haproxy, Self::Nginx];
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Floor => "floor",
            Self::FloorMt => "floor-mt",
            Self::Direct => "direct",
            Self::Node => "node",
            Self::Before => "before",
            Self::Bridge => "bridge",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        })
    }
}

/// What a stage is set up with.
pub(crate) struct Setup<'a> {
    pub(crate) args: &'a RunArgs,
    pub(crate) logs: &'a Path,
    pub(crate) routes: &'a Path,
    /// Instead of sockudo.
    pub(crate) upstream: Option<SocketAddr>,
    /// What a proxy passes requests on to.
    pub(crate) old_api: Option<SocketAddr>,
}

/// The upstream and a contender, both up.
pub(crate) struct Stage {
    pub(crate) contender: Contender,
    /// Where the clients connect.
    pub(crate) target: SocketAddr,
    pub(crate) upstream: SocketAddr,
    /// Probes and metrics, where there are any.
    pub(crate) admin: Option<SocketAddr>,
    server: Option<Process>,
    sockudo: Option<Process>,
    sockudo_program: PathBuf,
    logs: PathBuf,
    event_bytes: u32,
    old_api: Option<SocketAddr>,
    /// How clients connect.
    secured: Option<Secured>,
    /// What terminates TLS before the server.
    front: Option<Process>,
}

impl Stage {
    pub(crate) fn start(contender: Contender, setup: &Setup<'_>) -> Result<Self> {
        let Setup { args, logs, old_api, .. } = *setup;
        let upstream = setup.upstream.map_or_else(process::free_address, Ok)?;
        let mut stage = Self {
            contender,
            target: upstream,
            upstream,
            admin: None,
            server: None,
            sockudo: None,
            sockudo_program: args.sockudo.clone(),
            logs: logs.to_owned(),
            event_bytes: args.bytes,
            old_api,
            secured: None,
            front: None,
        };
        if setup.upstream.is_none() {
            stage.start_upstream()?;
        }
        match contender {
            Contender::Direct => {}
            Contender::Floor => stage.start_floor(1)?,
            Contender::FloorMt => stage.start_floor(cores())?,
            Contender::Node => stage.start_node(args)?,
            Contender::Before => {
                let same = args.preload.is_some().then_some(&args.bridge);
                let before = args.before.as_ref().or(same).ok_or("--before or --preload FILE is missing")?;
                let shipped = args.before_routes.as_deref().filter(|_| *setup.routes == args.routes);
                stage.start_bridge(before, shipped.unwrap_or(setup.routes), args.preload.as_deref())?;
            }
            Contender::Bridge => stage.start_bridge(&args.bridge, setup.routes, None)?,
            Contender::Haproxy => stage.pass_on("haproxy", args.haproxy.as_deref())?,
            Contender::Nginx => stage.pass_on("nginx", args.nginx.as_deref())?,
        }
        Ok(stage)
    }

    /// The process that is measured.
    pub(crate) fn pid(&self) -> u32 {
        self.server.as_ref().or(self.sockudo.as_ref()).map_or_else(std::process::id, Process::id)
    }

    /// The same, and what stands before it.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.front.iter().map(Process::id).chain([self.pid()])
    }

    /// Clients connect by TLS: to the server itself, or to a proxy of that name, which takes it off.
    pub(crate) fn secure(&mut self, identity: &Identity, front: Option<(&'static str, &Path)>) -> Result<()> {
        self.secured = Some(identity.trusted()?);
        let Some((name, program)) = front else { return Ok(()) };
        let listen = process::free_address()?;
        let proxied = Proxied { listen, to: self.target, directory: &self.logs, identity: Some(identity) };
        let mut proxy = start_proxy(name, program, &proxied)?;
        proxy.wait_ready(|| process::listens(listen))?;
        self.target = listen;
        self.front = Some(proxy);
        Ok(())
    }

    pub(crate) fn api(&self) -> Result<Api> {
        Api::connect(self.upstream, self.event_bytes)
    }

    /// Waits until so many lines of the server's output have this.
    pub(crate) fn wait_logged(&self, text: &str, lines: usize) -> Result<()> {
        self.server.as_ref().map_or(Ok(()), |server| server.wait_logged(text, lines))
    }

    /// Says what is known of a failure.
    pub(crate) fn explain(&mut self, failure: &crate::Failure) -> crate::Failure {
        let server = self.server.as_mut().or(self.sockudo.as_mut());
        let ended = server.and_then(|server| server.check().err());
        match (ended, &self.server) {
            (Some(ended), _) => format!("{failure}; {ended}").into(),
            (None, Some(server)) => {
                format!("{failure}; the end of its output:\n{}", server.log_tail()).into()
            }
            (None, None) => failure.to_string().into(),
        }
    }

    /// A client of the one channel, its events in stream 0.
    pub(crate) fn subscriber(&self, client: usize) -> Plan {
        self.plan(client, format!("/ws/plugin/{PLUGIN}"), vec![0], || match self.contender {
            Contender::Direct => Script::Pusher { channels: vec![CHANNEL.to_owned()] },
            _ => Script::typed(&credentials::token(client, &script::user(client), &[PLUGIN])),
        })
    }

    /// A client of the cache channel, its events in stream 1.
    pub(crate) fn state_subscriber(&self, client: usize) -> Plan {
        self.plan(client, STATE_PATH.to_owned(), vec![1], || {
            Script::typed(&credentials::token(client, &script::user(client), &[PLUGIN]))
        })
    }

    /// A client of the encrypted channel, its events in stream 1.
    pub(crate) fn secure_subscriber(&self, client: usize) -> Plan {
        self.plan(client, SECURE_PATH.to_owned(), vec![1], || {
            Script::typed(&credentials::token(client, &script::user(client), &[PLUGIN]))
        })
    }

    /// One of the clients of the `room`th channel, its events in the stream of its number: of a presence channel,
    /// each a user of its own, or of one without members.
    pub(crate) fn roommate(&self, client: usize, room: u32, is_member: bool) -> Plan {
        let (user, room_id) = (format!("member-{client}"), format!("r{room}"));
        let token = credentials::token(client, &user, &[&room_id]);
        let (path, script) = if is_member {
            (format!("/ws/room/{room_id}"), Script::member(&token))
        } else {
            (format!("/ws/plugin/{room_id}"), Script::typed(&token))
        };
        self.plan(client, path, vec![room], || script)
    }

    /// A client of a channel of its own.
    pub(crate) fn publisher(&self, client: usize) -> Plan {
        let plugin = format!("p{client}");
        self.plan(client, format!("/ws/plugin/{plugin}"), vec![], || {
            Script::typed(&credentials::token(client, &script::user(client), &[&plugin]))
        })
    }

    /// The `client`th agent, its events in the stream of its number.
    pub(crate) fn agent(&self, client: usize) -> Result<Plan> {
        let streams = vec![u32::try_from(client)?];
        Ok(self.plan(client, format!("/ws/agent/agent_{client}"), streams, || {
            Script::typed(&credentials::token(client, &script::user(client), &[]))
        }))
    }

    /// A client of several of the numbered channels in band, the events of each in the stream of its number.
    pub(crate) fn many(&self, client: usize, channels: &[u32]) -> Plan {
        self.plan(client, "/ws".to_owned(), channels.to_vec(), || match self.contender {
            Contender::Direct => {
                Script::Pusher { channels: channels.iter().copied().map(numbered).collect() }
            }
            _ => Script::channel(channels),
        })
    }

    fn plan(&self, client: usize, path: String, streams: Vec<u32>, script: impl FnOnce() -> Script) -> Plan {
        let path = if self.contender == Contender::Direct { script::pusher_path() } else { path };
        let secured = self.secured.clone();
        Plan { source: script::source(client), target: self.target, secured, path, script: script(), streams }
    }

    /// The upstream goes, all at once, and comes again at the same address.
    pub(crate) fn restart_upstream(&mut self) -> Result<()> {
        drop(self.sockudo.take());
        self.start_upstream()
    }

    fn start_upstream(&mut self) -> Result<()> {
        let address = self.upstream;
        let config = self.logs.join("sockudo.toml");
        fs::write(&config, sockudo_config(address))?;
        let program = self.sockudo_program.clone();
        let mut sockudo = Process::start("sockudo", Path::new("/bin/sh"), &self.logs, |command| {
            let guarded = format!("ulimit -v {SOCKUDO_KIB_MAX}; exec \"$@\"");
            command.args(["-c", &guarded, "sh"]).arg(program).arg("-c").arg(&config);
        })?;
        sockudo.wait_ready(|| process::answers(address, "/up"))?;
        self.sockudo = Some(sockudo);
        Ok(())
    }

    fn start_floor(&mut self, threads: usize) -> Result<()> {
        let (upstream, listen) = (self.upstream.to_string(), process::free_address()?);
        let ourselves = std::env::current_exe()?;
        let threads = threads.to_string();
        let floor = Process::start("floor", &ourselves, &self.logs, |command| {
            command.args(["floor", "--upstream", &upstream, "--listen", &listen.to_string()]);
            command.args(["--channel", CHANNEL, "--threads", &threads]);
        })?;
        self.adopt(floor, listen, || process::listens(listen))
    }

    fn start_node(&mut self, args: &RunArgs) -> Result<()> {
        let (upstream, listen) = (self.upstream, process::free_address()?);
        let script = args.node.join("server.js");
        let node = Process::start("node", Path::new("node"), &self.logs, |command| {
            credentials_for(command, upstream);
            command.arg(script).env("PORT", listen.port().to_string()).env("NODE_ENV", "production");
            command.envs(args.node_key_once.then_some(("TOKEN_KEY_ONCE", "1")));
        })?;
        self.adopt(node, listen, || process::listens(listen))
    }

    fn start_bridge(&mut self, program: &Path, routes: &Path, preload: Option<&Path>) -> Result<()> {
        let (upstream, listen, admin) = (self.upstream, process::free_address()?, process::free_address()?);
        let old_api = self.old_api;
        self.admin = Some(admin);
        let bridge = Process::start("bridge", program, &self.logs, |command| {
            credentials_for(command, upstream);
            command.arg("serve").arg("--config").arg(routes);
            command.args(["--listen", &listen.to_string(), "--admin", &admin.to_string()]);
            command.envs(old_api.map(|address| ("OLD_API", format!("http://{address}"))));
            command.envs(preload.map(|library| ("LD_PRELOAD", library)));
        })?;
        self.adopt(bridge, listen, || process::answers(admin, "/readyz"))
    }

    fn pass_on(&mut self, name: &'static str, program: Option<&Path>) -> Result<()> {
        let program = program.ok_or_else(|| format!("--{name} FILE is missing"))?;
        let (to, listen) = (self.old_api.ok_or("it only passes requests on")?, process::free_address()?);
        let proxied = Proxied { listen, to, directory: &self.logs, identity: None };
        let proxy = start_proxy(name, program, &proxied)?;
        self.adopt(proxy, listen, || process::answers(listen, "/0"))
    }

    fn adopt(&mut self, mut server: Process, target: SocketAddr, ready: impl Fn() -> bool) -> Result<()> {
        server.wait_ready(ready)?;
        self.target = target;
        self.server = Some(server);
        Ok(())
    }
}

fn credentials_for(command: &mut Command, upstream: SocketAddr) {
    command
        .env("PUSHER_APP_ID", APP_ID)
        .env("PUSHER_KEY", APP_KEY)
        .env("PUSHER_SECRET", APP_SECRET)
        .env("PUSHER_HOST", Ipv4Addr::LOCALHOST.to_string())
        .env("PUSHER_PORT", upstream.port().to_string())
        .env("PUSHER_TLS", "false")
        .env("PUSHER_ENCRYPTION_MASTER_KEY", ENCRYPTION_MASTER_KEY)
        .env("JWT_SECRET", JWT_SECRET);
}

/// As it comes, but for what would refuse this load or listen elsewhere.
fn sockudo_config(address: SocketAddr) -> String {
    let (host, port) = (address.ip(), address.port());
    format!(
        r#"host = "{host}"
port = {port}
[adapter]
driver = "local"
[cache]
driver = "memory"
[queue]
driver = "memory"
[rate_limiter]
enabled = false
[metrics]
enabled = false
[history]
enabled = false
[websocket]
max_messages = 1000
[app_manager]
driver = "memory"
[[app_manager.array.apps]]
id = "{APP_ID}"
key = "{APP_KEY}"
secret = "{APP_SECRET}"
enabled = true
[app_manager.array.apps.policy.limits]
max_connections = 100000
max_client_events_per_second = 10
max_presence_members_per_channel = 100000
[app_manager.array.apps.policy.features]
enable_client_messages = true
"#
    )
}

/// A proxy's place.
struct Proxied<'a> {
    listen: SocketAddr,
    to: SocketAddr,
    directory: &'a Path,
    /// With it, clients come by TLS.
    identity: Option<&'a Identity>,
}

fn start_proxy(name: &'static str, program: &Path, proxied: &Proxied<'_>) -> Result<Process> {
    let (config, option) =
        if name == "nginx" { (nginx_config(proxied), "-c") } else { (haproxy_config(proxied), "-f") };
    let file = proxied.directory.join(format!("{name}.conf"));
    fs::write(&file, config)?;
    Process::start(name, program, proxied.directory, |command| {
        command.arg(option).arg(&file);
    })
}

/// One process with a thread per core. It adds who asks, and writes no log, as the bridge.
fn haproxy_config(proxied: &Proxied<'_>) -> String {
    let Proxied { listen, to, identity, .. } = proxied;
    let tls = identity.map(|identity| format!(" ssl crt {}", identity.both.display())).unwrap_or_default();
    format!(
        "global\n  maxconn 9000\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
         timeout tunnel 1h\n  option forwardfor\n  http-reuse safe\n\
         frontend front\n  bind {listen}{tls}\n  default_backend behind\n\
         backend behind\n  server one {to}\n"
    )
}

/// One process, as one of nginx's has one thread only. Answers are buffered as it does by itself, bodies streamed.
fn nginx_config(proxied: &Proxied<'_>) -> String {
    let Proxied { listen, to, directory, identity } = proxied;
    let place = directory.display();
    let (tls, files) = identity.map_or_else(Default::default, |Identity { certificate, key, .. }| {
        let (certificate, key) = (certificate.display(), key.display());
        (" ssl", format!("ssl_certificate {certificate}; ssl_certificate_key {key};"))
    });
    format!(
        "daemon off;\nmaster_process off;\npid {place}/nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 20000; }}\n\
         http {{\n  access_log off;\n  keepalive_timeout 60s;\n  keepalive_requests 1000000;\n  \
         client_max_body_size 0;\n  client_body_temp_path {place}/body;\n  proxy_temp_path {place}/proxy;\n  \
         fastcgi_temp_path {place}/fastcgi;\n  uwsgi_temp_path {place}/uwsgi;\n  scgi_temp_path {place}/scgi;\n  \
         map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n  \
         upstream behind {{ server {to}; keepalive 32; }}\n  \
         server {{\n    listen {listen}{tls};\n    {files}\n    location / {{\n      proxy_pass http://behind;\n      \
         proxy_http_version 1.1;\n      proxy_request_buffering off;\n      proxy_read_timeout 1h;\n      \
         proxy_set_header Host $host;\n      proxy_set_header Upgrade $http_upgrade;\n      \
         proxy_set_header Connection $connection_upgrade;\n      \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n    }}\n  }}\n}}\n"
    )
}

/// The machine's.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
