//! The machine's clock is set, by hours and by years, while the program runs.

use std::path::PathBuf;
use std::time::Duration;

use pusher_bridge::clock::Now;
use pusher_bridge::sandbox::{Options, Sandbox};
use serde_json::Value;
use tokio::time::Instant;

use crate::proxied::Proxied;
use crate::stage::{Launch, Metrics, Served};
use crate::support::backend::Backend;
use crate::support::bridge::token_with;
use crate::support::pusher::Pusher as _;
use crate::support::{OldClient, skipped, temporary_directory};

/// The program's wall clock, set while it runs (libfaketime). Its monotonic clock is the real one.
struct WallClock {
    library: String,
    directory: PathBuf,
}

impl WallClock {
    fn new() -> Option<Self> {
        let Ok(library) = std::env::var("FAKETIME_LIB") else {
            skipped("FAKETIME_LIB is not set; run tests/run");
            return None;
        };
        let clock = Self { library, directory: temporary_directory("clock") };
        clock.set("+0");
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.directory.join("offset")
    }

    /// From now on it is off by so much. The file is replaced whole: it is read at every look at the clock.
    fn set(&self, offset: &str) {
        let next = self.directory.join("next");
        std::fs::write(&next, format!("{offset}\n")).unwrap();
        std::fs::rename(next, self.file()).unwrap();
    }

    fn launch(&self, launch: Launch) -> Launch {
        launch
            .env("LD_PRELOAD", &*self.library)
            .env("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
    }
}

impl Drop for WallClock {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Not one message is lost, though Pusher takes signatures of its own time only; nothing is closed, connected anew
/// or reported dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_is_nobodys_matter() {
    let Some(clock) = WallClock::new() else { return };
    let stage = Proxied::start("clock", |launch| clock.launch(launch)).await;
    let jumps = ["+2h", "-3h", "+5y", "-20y", "+0"];
    for jump in jumps {
        clock.set(jump);
        stage.run.flow(jump, 30).await;
        for probe in ["/healthz", "/readyz"] {
            assert!(stage.run.served.is(probe).await, "{probe} {jump}");
        }
    }
    let retried = |metrics: &Metrics| metrics.sum(r#"pusher_bridge_publish_retries_total{cause="clock"}"#);
    let count = retried(&stage.run.served.metrics().await);
    // Each lane may have had a request under way.
    assert!((5.0..=20.0).contains(&count), "{count} refused signatures in {} jumps", jumps.len());
    let over = stage.finish("the clock jumps").await;
    over.only(&[]);
    let metrics = &over.metrics;
    for series in ["pusher_bridge_upstream_reconnects_total", "pusher_bridge_closes_total"] {
        assert_eq!(metrics.moved(series), [""; 0]);
    }
}

/// A token is judged by the wall clock, and then lives as long as it had left.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_outlive_no_jump_and_die_by_none() {
    let Some(clock) = WallClock::new() else { return };
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let (app, backend) = (sandbox.app(), Backend::start().await);
    let launch = clock.launch(Launch::new(&app, app.address)).env("BACKEND_URL", backend.url());
    let served = Served::start("clock-tokens", launch).await;
    let now = Now::read().unix_seconds();
    let until = |seconds: i64| token_with("1", |claims| claims["exp"] = (now + seconds).into());
    let (hour, hours, moment) = (until(3600), until(3 * 3600), until(4));
    let login = async |token: &str| {
        let mut client = OldClient::connect(served.address, "/watch/tokens").await;
        client.auth(token).await;
        let answer: Value = client.json().await;
        (client, answer["type"] == "auth_response")
    };

    let begin = Instant::now();
    let (mut short, accepted) = login(&moment).await;
    assert!(accepted);
    let (mut long, accepted) = login(&hour).await;
    assert!(accepted);
    clock.set("+2h");
    assert!(!login(&hour).await.1, "it has expired by this clock");
    assert!(login(&hours).await.1);
    // A renewal is judged by the clock as it is, and who is connected stays.
    long.auth(&hour).await;
    assert_eq!(long.error_code().await, "INVALID_TOKEN");
    long.auth(&hours).await;
    assert_eq!(long.json().await["type"], "auth_response");
    clock.set("-1d");
    assert!(login(&hour).await.1);
    assert_eq!(short.closed().await, Some((1008, "token expired".to_owned())));
    let lived = begin.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(15)).contains(&lived), "{lived:?}");
    sandbox.trigger("watch-tokens", "still", "1");
    assert_eq!(long.json().await["type"], "still");
}
