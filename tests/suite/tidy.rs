//! The tree, held to its own rules (ARCHITECTURE.md): which files are pure, how long a file may be, that no log
//! line has a key twice, and that nothing of somebody's machine is tracked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::imports::{self, Crate};

/// Files and directories that import no runtime, no HTTP and no WebSocket library, and ask no clock.
const PURE: &[&str] = &[
    "src/admin/guard.rs",
    "src/admin/outage.rs",
    "src/admin/pulses.rs",
    "src/admin/settings.rs",
    "src/auth/mint.rs",
    "src/auth/claims.rs",
    "src/auth/identity.rs",
    "src/auth/mod.rs",
    "src/auth/permits.rs",
    "src/auth/settings.rs",
    "src/auth/token_error.rs",
    "src/clock.rs",
    "src/config",
    "src/deprecation.rs",
    "src/endpoints/authorize.rs",
    "src/endpoints/cors.rs",
    "src/endpoints/member.rs",
    "src/endpoints/notify.rs",
    "src/endpoints/reply.rs",
    "src/endpoints/request.rs",
    "src/endpoints/settings.rs",
    "src/endpoints/webhooks.rs",
    "src/exchange.rs",
    "src/explain/answer.rs",
    "src/explain/checks.rs",
    "src/explain/compare.rs",
    "src/explain/question.rs",
    "src/explain/talk.rs",
    "src/explain/text.rs",
    "src/fanout/table",
    "src/fanout/table.rs",
    "src/fanout/view.rs",
    "src/http/spelling.rs",
    "src/http/strict",
    "src/http/strict.rs",
    "src/json.rs",
    "src/legacy",
    "src/limits",
    "src/metrics/label.rs",
    "src/net/destination.rs",
    "src/net/host.rs",
    "src/tls/server.rs",
    "src/tls/validity.rs",
    "src/net/proxies.rs",
    "src/proxy/fields",
    "src/proxy/fields.rs",
    "src/proxy/frames.rs",
    "src/proxy/heads.rs",
    "src/proxy/settings.rs",
    "src/pusher",
    "src/routes/by_channel.rs",
    "src/routes/change.rs",
    "src/routes/channel",
    "src/routes/channel.rs",
    "src/routes/demands.rs",
    "src/routes/edition.rs",
    "src/routes/entrance.rs",
    "src/routes/membership.rs",
    "src/routes/events.rs",
    "src/routes/origins.rs",
    "src/routes/path",
    "src/routes/path.rs",
    "src/routes/publish.rs",
    "src/routes/route.rs",
    "src/routes/tunnel.rs",
    "src/server/announced.rs",
    "src/server/classify.rs",
    "src/server/forwarded.rs",
    "src/server/gate.rs",
    "src/server/presented.rs",
    "src/server/refusal.rs",
    "src/server/settings.rs",
    "src/server/turns.rs",
    "src/server/upgrade.rs",
    "src/session/machine",
    "src/swarm/actor",
    "src/swarm/actor.rs",
    "src/swarm/end.rs",
    "src/swarm/out.rs",
    "src/swarm/script.rs",
    "src/swarm/tally.rs",
    "src/swarm/ws.rs",
    "src/template",
    "src/text.rs",
    "src/upstream/backoff.rs",
    "src/upstream/cached.rs",
    "src/upstream/delivery.rs",
    "src/upstream/flights.rs",
    "src/upstream/hubs.rs",
    "src/upstream/lane.rs",
    "src/upstream/link",
    "src/upstream/lost.rs",
    "src/upstream/matching.rs",
    "src/upstream/members/channel.rs",
    "src/upstream/members/copies.rs",
    "src/upstream/members/pool",
    "src/upstream/members/pool.rs",
    "src/upstream/members/roster.rs",
    "src/upstream/members/watched.rs",
    "src/upstream/members/settings.rs",
    "src/upstream/merge",
    "src/upstream/merge.rs",
    "src/upstream/misconfigured.rs",
    "src/upstream/moving/waiting.rs",
    "src/upstream/refused.rs",
    "src/upstream/occupancy.rs",
    "src/upstream/settings.rs",
    "src/upstream/undelivered.rs",
    "src/websocket/incoming.rs",
    "src/websocket/outbox.rs",
    "src/websocket/pieces.rs",
    "src/websocket/utf8.rs",
];

/// What a pure file does not name. hyper's `HeaderMap` is a plain map; it is allowed where it is the input.
const DRIVERS: &[&str] = &["tokio", "hyper", "hyper_util", "tungstenite", "tokio_tungstenite", "rustls"];
/// Questions to a clock.
const CLOCKS: &[&str] = &["Now::read", "Instant::now", "SystemTime::now", "Timestamp::now", ".elapsed()"];
/// File, what it may name all the same, why.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("src/clock.rs", "tokio", "`Now::read` follows tokio's paused clock"),
    ("src/clock.rs", "Instant::now", "`Now::read` is where the clock is asked"),
    ("src/clock.rs", "SystemTime::now", "`Now::read` is where the clock is asked"),
    ("src/endpoints/cors.rs", "hyper", "`HeaderMap` is its input and output"),
    ("src/explain/question.rs", "hyper", "a request's head is what it makes"),
    ("src/proxy/fields.rs", "hyper", "`HeaderMap` is its input and output"),
    ("src/server/forwarded.rs", "hyper", "`HeaderMap` is its input"),
    ("src/tls/server.rs", "rustls", "texts become settings: nothing is asked, nothing sent"),
    ("src/server/gate.rs", "hyper", "`HeaderMap` and `Method` are its input"),
    ("src/server/presented.rs", "hyper", "`HeaderMap` is its input"),
    ("src/server/upgrade.rs", "hyper", "a request's head is its input"),
    ("src/admin/guard.rs", "hyper", "`HeaderMap` and `Uri` are its input"),
];

/// File, what it may import all the same, why.
const ALLOWED_IMPORTS: &[(&str, &str, &str)] =
    &[("src/config/validate/auth.rs", "auth::check_key", "it reads keys, and asks nobody for them")];

/// Longest file under src, in lines.
const LINES_MAX: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `place`, or `place` itself.
fn sources(place: &str) -> Vec<PathBuf> {
    let path = root().join(place);
    assert!(path.exists(), "{place} is listed, and does not exist");
    if path.is_file() {
        return vec![path];
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(path.strip_prefix(root()).unwrap().to_str().unwrap()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/")
}

/// A file's code: no comments, and nothing of its tests, which stand at the end.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let tests = ["\n#[cfg(test)]\nmod tests {", "\n#[cfg(test)]\npub(crate) mod tests {"];
    let end = tests.iter().filter_map(|start| text.find(start)).min().unwrap_or(text.len());
    let text = &text[..end];
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| line.split(" // ").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Whether `name` stands in `code` as whole words.
fn names(code: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (first, last) = (name.starts_with(word), name.ends_with(word));
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        !(first && before.ends_with(word) || last && after.starts_with(word))
    })
}

fn pure_files() -> Vec<PathBuf> {
    let is_test = |path: &Path| {
        path.file_stem().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with("tests"))
    };
    PURE.iter().flat_map(|place| sources(place)).filter(|path| !is_test(path)).collect()
}

#[test]
fn pure_files_name_no_driver_and_no_clock() {
    let mut wrong = Vec::new();
    for path in pure_files() {
        let (file, code) = (relative(&path), code(&path));
        let allowed = |name: &str| ALLOWED.iter().any(|(f, n, _)| *f == file && *n == name);
        for name in DRIVERS.iter().chain(CLOCKS) {
            if !allowed(name) && names(&code, name) {
                wrong.push(format!("{file} is pure, but names `{name}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a pure file uses is pure as well. A module that is named, and what is passed on, is not used yet.
fn impure_imports(krate: &Crate, pure: &dyn Fn(&str) -> bool) -> Vec<(String, String, String)> {
    let used = krate.imports.iter().filter(|import| {
        pure(&import.file)
            && !import.test
            && !import.passed_on
            && (import.glob || !krate.modules.contains_key(&import.to))
    });
    let homes = used.flat_map(|import| {
        krate.homes(&import.to).into_iter().map(move |home| (import, &krate.modules[&home].file))
    });
    let wrong = homes.filter(|(_, home)| !pure(home) && *home != "src/lib.rs");
    wrong
        .map(|(import, home)| {
            let (file, line, to) = (import.file.clone(), import.line, import.to.join("::"));
            let told = format!("{file}:{line} is pure, but imports `{to}` of {home}, which is not");
            (file, to, told)
        })
        .collect()
}

#[test]
fn pure_files_import_pure_files_only() {
    let krate = Crate::read(&imports::files("src"), "src/lib.rs", "pusher_bridge");
    let within = |file: &str, place: &str| {
        file.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let found = impure_imports(&krate, &|file| PURE.iter().any(|place| within(file, place)));
    let allows = |allowed: &(&str, &str, &str), file: &str, to: &str| (allowed.0, allowed.1) == (file, to);
    for allowed in ALLOWED_IMPORTS {
        assert!(
            found.iter().any(|(file, to, _)| allows(allowed, file, to)),
            "{allowed:?} does not occur any more"
        );
    }
    let wrong = found
        .into_iter()
        .filter(|(file, to, _)| !ALLOWED_IMPORTS.iter().any(|allowed| allows(allowed, file, to)));
    let wrong: Vec<String> = wrong.map(|(_, _, told)| told).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn impure_imports_are_found_behind_re_exports_and_names() {
    for (pure, found) in [
        ("use crate::mixed::pure::P; use crate::mixed::{self, Q}; fn f() { mixed::pure::f() }", 0),
        ("pub use crate::mixed::D; mod inner { use super::super::ROOT; }", 0),
        ("pub use crate::mixed::D; fn f(d: &D) {}", 1),
        ("use crate::ROOT; #[cfg(test)] use crate::mixed::driver::D;", 0),
        ("use crate::mixed::driver::D;", 1),
        ("use crate::mixed::D;", 1),
        ("use crate::mixed; fn f() { mixed::driver::f() }", 1),
        ("use crate::mixed::driver; fn f() { crate::mixed::again::D::f(); driver::f() }", 2),
        ("use crate::mixed::driver::*;", 1),
        ("use crate::mixed::own;", 1),
        (
            "fn f() { use crate::mixed::pure as m; m::f() } fn g() { use crate::mixed::driver as m; m::f() }",
            1,
        ),
        ("use pusher_bridge::mixed as m; fn f() { m::driver::f() }", 1),
    ] {
        let mixed = "pub mod pure; pub mod driver; pub use pure::Q; pub use driver::D; pub use super::mixed as again; fn own() {}";
        let files = [
            ("src/lib.rs", "mod a; mod mixed; const ROOT: u8 = 1;"),
            ("src/a.rs", pure),
            ("src/mixed/mod.rs", mixed),
        ];
        let files = files.into_iter().chain([("src/mixed/pure.rs", ""), ("src/mixed/driver.rs", "")]);
        let files = files.map(|(file, text)| (file.to_owned(), text.to_owned())).collect();
        let krate = Crate::read(&files, "src/lib.rs", "pusher_bridge");
        let wrong = impure_imports(&krate, &|file| ["src/a.rs", "src/mixed/pure.rs"].contains(&file));
        assert_eq!(wrong.len(), found, "{pure}: {wrong:?}");
    }
}

/// A module of a test program that is not declared is not run.
#[test]
fn no_test_file_is_forgotten() {
    let mut programs = Vec::new();
    for entry in std::fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        assert!(
            path.extension().is_none_or(|extension| extension != "rs"),
            "{}: not in tests/suite",
            path.display()
        );
        programs.extend(path.join("main.rs").exists().then(|| relative(&path)));
    }
    assert!(programs.len() > 4, "{programs:?}");
    let files = imports::files("tests");
    for program in programs {
        let krate = Crate::read(&files, &format!("{program}/main.rs"), "no name");
        let declared: BTreeSet<&String> = krate.modules.values().map(|module| &module.file).collect();
        let mut own = files.keys().filter(|file| file.starts_with(&format!("{program}/")));
        assert_eq!(own.find(|file| !declared.contains(file)), None, "no `mod` declares it");
    }
}

#[test]
fn the_check_itself_sees_what_it_must() {
    assert!(names("use tokio::net;", "tokio") && !names("use tokio_util::x;", "tokio"));
    assert!(names("let a = Instant::now();", "Instant::now") && !names("MyInstant::now()", "Instant::now"));
    assert!(names("since.elapsed()", ".elapsed()"));
    let machine = self::code(&root().join("src/session/machine/mod.rs"));
    assert!(machine.contains("impl Machine"), "only the tests at a file's end are left out");
    assert!(PURE.iter().map(|place| sources(place).len()).sum::<usize>() > 30);
    for (file, name, _) in ALLOWED {
        assert!(names(&self::code(&root().join(file)), name), "{file} does not name `{name}` any more");
    }
}

#[test]
fn no_file_is_too_long() {
    let mut wrong = Vec::new();
    for path in sources("src") {
        let (file, lines) = (relative(&path), std::fs::read_to_string(&path).unwrap().lines().count());
        if lines > LINES_MAX {
            wrong.push(format!("{file} has {lines} lines of at most {LINES_MAX}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a JSON log line has besides its fields, in whatever way tracing-subscriber is set up.
const LOG_KEYS: &[&str] = &[
    "timestamp",
    "level",
    "message",
    "target",
    "fields",
    "span",
    "spans",
    "filename",
    "line_number",
    "threadName",
    "threadId",
];

/// `code` up to the bracket that closes what its beginning is within, in its parts between commas. Commas and
/// brackets within strings, characters and further brackets are none.
fn arguments(code: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quoted) = (Vec::new(), 0, 0_usize, false);
    let mut chars = code.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' if quoted => drop(chars.next()),
            '"' => quoted = !quoted,
            _ if quoted => {}
            // A character; a lifetime has no second quote.
            '\'' if code[at + 1..].starts_with('\\') => drop(chars.by_ref().nth(2)),
            '\'' if code[at + 1..].chars().nth(1) == Some('\'') => drop(chars.by_ref().nth(1)),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth > 0 => depth -= 1,
            ')' | ']' | '}' => {
                parts.push(code[start..at].trim());
                return parts;
            }
            ',' if depth == 0 => {
                parts.push(code[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    panic!("no end: {}", &code[..code.len().min(80)]);
}

/// The fields of each call of one of tracing's macros, by the names they have in the log.
fn logged_fields(code: &str) -> Vec<Vec<String>> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let calls = code.match_indices("tracing::").filter_map(|(at, path)| {
        let (name, rest) = code[at + path.len()..].split_once("!(")?;
        name.chars().all(word).then(|| arguments(rest))
    });
    let fields = calls.map(|arguments| {
        let of_the_macro = |argument: &str| {
            ["target:", "parent:", "name:", "tracing::Level"].iter().any(|part| argument.starts_with(part))
        };
        let fields = arguments.into_iter().filter(|argument| !of_the_macro(argument));
        // The message and what is put into it come last.
        let fields = fields.take_while(|argument| !argument.starts_with('"') || argument.contains("\" ="));
        fields
            .map(|argument| {
                let name = argument.split_once('=').map_or(argument, |(name, _)| name).trim();
                let name = name.trim_start_matches(['%', '?']).trim_start_matches("r#").trim_matches('"');
                assert!(name.chars().all(|c| word(c) || c == '.'), "which field is this? {argument}");
                name.to_owned()
            })
            .collect()
    });
    fields.collect()
}

/// What parsers do with a key that is there twice is up to them: most keep the last, some refuse the line.
#[test]
fn no_log_line_has_a_key_twice() {
    let (mut wrong, mut calls) = (Vec::new(), 0);
    for path in sources("src") {
        let (file, code) = (relative(&path), code(&path));
        for import in code.split(';').filter_map(|s| s.rsplit_once("use tracing::").map(|(_, names)| names)) {
            for name in ["error", "warn", "info", "debug", "trace", "event", "instrument"] {
                if names(import, name) {
                    wrong.push(format!("{file} imports `{name}`: spelt `tracing::{name}!` it is found here"));
                }
            }
        }
        for fields in logged_fields(&code) {
            calls += 1;
            for (index, field) in fields.iter().enumerate() {
                if LOG_KEYS.contains(&field.as_str()) || fields[..index].contains(field) {
                    wrong.push(format!(
                        "{file}: a log line would have `{field}` twice ({})",
                        fields.join(", ")
                    ));
                }
            }
        }
    }
    assert!(calls > 30, "{calls}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_fields_of_log_lines_are_found() {
    let code = r#"
        tracing::warn!(%error, code, why = f(a, "b, )\" c", ')'), user.name = ?x, "text: {}", y);
        Err(error) => tracing::info!(target: "x", message = %m, "n" = 1, r#type = 2, lines = a - b, "t"),
        tracing::debug!("only, text")"#;
    let found = logged_fields(code);
    assert_eq!(found[0], ["error", "code", "why", "user.name"]);
    assert_eq!(found[1], ["message", "n", "type", "lines"]);
    assert_eq!(found[2], [""; 0]);
}

/// Every file git knows; outside of a checkout (a packed crate) nothing is checked.
fn tracked() -> Vec<String> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    match output {
        Ok(output) if output.status.success() => {
            let names = String::from_utf8(output.stdout).unwrap();
            names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn nothing_of_somebodys_machine_is_tracked() {
    // In pieces, or this file would be the first to be found.
    let homes = [["/ho", "me/"].concat(), ["/ro", "ot/"].concat(), ["/Us", "ers/"].concat()];
    let hosts =
        [["arti", "factory"].concat(), ["crates-", "mirror"].concat(), ["registry.npm", "js"].concat()];
    let mut wrong = Vec::new();
    for file in tracked() {
        let Ok(text) = std::fs::read_to_string(root().join(&file)) else { continue };
        for (number, line) in text.lines().enumerate() {
            let at_home = homes.iter().any(|home| {
                line.match_indices(home.as_str()).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '}' | '.' | '_' | '-'))
                })
            });
            if at_home || hosts.iter().any(|host| line.contains(host.as_str())) {
                wrong.push(format!("{file}:{}: {line}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A dependency that nothing names is one too many.
#[test]
fn every_dependency_is_used() {
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let all: String = sources("src").iter().map(|path| code(path)).collect();
    for name in manifest["dependencies"].as_table().unwrap().keys() {
        // The one whose library has another name.
        let library = if name == "md-5" { "md5".to_owned() } else { name.replace('-', "_") };
        assert!(names(&all, &library), "{name}");
    }
}

/// What `cargo doc` shows: the other rooms are public for tests only, and their items need no documentation for its own
/// sake.
#[test]
fn the_public_surface_is_narrow() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let lines: Vec<&str> = lib.lines().collect();
    let shown = lines.windows(2).filter(|pair| pair[0] != "#[doc(hidden)]" && pair[1].starts_with("pub "));
    let shown: Vec<&str> = shown.map(|pair| pair[1]).collect();
    assert_eq!(shown, ["pub mod app;", "pub mod cli;", "pub mod config;", "pub mod sandbox;"]);
}
