//! The Autobahn|Testsuite against the echo endpoint.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::support::Bridge;
use crate::support::process::file;

/// All but compression, which is not offered.
const GROUPS: [&str; 9] = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"];
/// What the groups hold. Another number would mean that they did not run whole.
const CASES: usize = 301;
/// Cases for which the suite has no right or wrong.
const INFORMATIONAL: [&str; 3] = ["7.1.6", "7.13.1", "7.13.2"];
const TIMEOUT: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn autobahn_finds_nothing_wrong() {
    let Some(wstest) = std::env::var_os("WSTEST") else {
        // Not even in a complete run a failure: there may be no Python 2.7 to run it with.
        eprintln!("SKIPPED: WSTEST is not set; tests/run installs it where there is a Python 2.7");
        return;
    };
    let bridge = Bridge::start().await;
    let reports = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("autobahn");
    let _ = std::fs::remove_dir_all(&reports);
    let spec = serde_json::json!({
        "outdir": reports,
        "servers": [{ "agent": "bridge", "url": format!("ws://{}/ws/native", bridge.address()) }],
        "cases": GROUPS,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    });
    let spec = file("autobahn.json", &spec.to_string());
    let run = tokio::task::spawn_blocking(move || {
        Command::new("timeout")
            .arg(TIMEOUT.as_secs().to_string())
            .arg(wstest)
            .args(["-m", "fuzzingclient", "-s", &spec])
            .output()
            .unwrap()
    });
    let output = run.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let index = std::fs::read_to_string(reports.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let cases = index["bridge"].as_object().unwrap();
    assert_eq!(cases.len(), CASES);
    let failed: Vec<_> = cases
        .iter()
        .filter(|(name, case)| {
            let strict = if INFORMATIONAL.contains(&name.as_str()) { "INFORMATIONAL" } else { "OK" };
            ["behavior", "behaviorClose"].iter().any(|key| case[key] != strict)
        })
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    bridge.until_empty().await;
}
