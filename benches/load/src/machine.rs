//! On what, when, and with which versions it was measured.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::args::RunArgs;
use crate::contender::cores;

/// One line per fact: name and text.
pub(crate) fn describe(args: &RunArgs) -> Vec<(&'static str, String)> {
    vec![
        ("machine", machine()),
        ("date", output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"])),
        ("command", std::env::args().collect::<Vec<_>>().join(" ")),
        ("bridge", format!("{}, commit {}", version(&args.bridge), commit())),
        ("sockudo", version(&args.sockudo)),
        ("node", format!("{}, {}", output("node", &["--version"]), packages(&args.node))),
    ]
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = value(&cpu, "model name").unwrap_or("unknown CPU").to_owned();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 =
        value(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let kernel = output("uname", &["-sr"]);
    format!("{model}, {} cores, {} GiB, {kernel}; load at the start {load}", cores(), kib >> 20)
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

fn version(program: &Path) -> String {
    output(&program.to_string_lossy(), &["--version"])
}

fn commit() -> String {
    output("git", &["describe", "--always", "--dirty", "--abbrev=12"])
}

fn packages(directory: &Path) -> String {
    let text = fs::read_to_string(directory.join("package.json")).unwrap_or_default();
    let package: Value = serde_json::from_str(&text).unwrap_or_default();
    let packages = package["dependencies"].as_object().into_iter().flatten();
    packages
        .map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(", ")
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}
