//! The streams over a proxy to the sandbox.

use pusher_bridge::sandbox::{Options, Sandbox, SandboxHandle};

use crate::account::Mark;
use crate::stage::{Launch, Over, Run, number_in};
use crate::support::network::Proxy;
use crate::support::pusher::Pusher as _;

pub struct Proxied {
    pub run: Run,
    pub proxy: Proxy,
    pub sandbox: SandboxHandle,
}

impl Proxied {
    pub async fn start(name: &str, change: impl FnOnce(Launch) -> Launch) -> Self {
        Self::with(name, Options::local(), change).await
    }

    pub async fn with(name: &str, options: Options, change: impl FnOnce(Launch) -> Launch) -> Self {
        let sandbox = Sandbox::start(options).await.unwrap();
        let proxy = Proxy::start(sandbox.addr()).await;
        Self::between(name, sandbox, proxy, change).await
    }

    pub async fn between(
        name: &str,
        sandbox: SandboxHandle,
        proxy: Proxy,
        change: impl FnOnce(Launch) -> Launch,
    ) -> Self {
        let app = sandbox.app();
        let run = Run::start(name, &app, change(Launch::new(&app, proxy.address))).await;
        Self { run, proxy, sandbox }
    }

    pub async fn finish(self, fault: &str) -> Over {
        let sandbox = self.sandbox;
        self.run.finish(fault, async |channel| Some(published(&sandbox, channel))).await
    }
}

/// What the sandbox took from the program's clients on a channel.
pub fn published(sandbox: &SandboxHandle, channel: &str) -> Vec<Mark> {
    sandbox.view(|view| {
        let on = view.published().filter(|published| published.channel == channel);
        on.filter(|published| published.event.starts_with("client-u"))
            .map(|published| number_in(&published.data))
            .collect()
    })
}
