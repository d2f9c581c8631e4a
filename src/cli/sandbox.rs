//! `sandbox`: the in-process Pusher-compatible server alone. Its secret guards nothing, and is printed.

use secrecy::{ExposeSecret as _, SecretString};

use super::{Failure, SandboxArgs, block_on, logging, print};
use crate::sandbox::{Options, Sandbox, Webhooks};

pub(super) fn run(args: SandboxArgs) -> Result<(), Failure> {
    let _log = logging::init(&args.log)?;
    block_on(async {
        let options = Options {
            listen: args.listen,
            app_id: args.app_id,
            key: args.key,
            secret: SecretString::from(args.secret),
            subscription_counts: args.subscription_counts,
            ..Options::local()
        };
        let sandbox = Sandbox::start(options).await.map_err(Failure::runtime)?;
        if let Some(url) = args.webhooks {
            sandbox.send_webhooks(Webhooks::to(url));
        }
        let (addr, options) = (sandbox.addr(), sandbox.options());
        print(&format!(
            "PUSHER_HOST={}\nPUSHER_PORT={}\nPUSHER_TLS=false\nPUSHER_APP_ID={}\nPUSHER_KEY={}\nPUSHER_SECRET={}\n",
            addr.ip(),
            addr.port(),
            options.app_id,
            options.key,
            options.secret.expose_secret()
        ))?;
        let _ = tokio::signal::ctrl_c().await;
        sandbox.shutdown().await;
        Ok(())
    })
}
