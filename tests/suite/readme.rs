//! README.md, held to what the program is: its TOML loads, its commands and flags exist, its tables name every
//! limit with the real default, every metric, error code, close and refusal reason, and every dependency. So is
//! the TOML of docs/channels.md and docs/front.md; the commands of docs/asking.md; docs/security.md: its limits, constants, metrics, files and tests exist; CONTRIBUTING.md: its files and commands; and ARCHITECTURE.md:
//! its files, and the rooms of its map.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use pusher_bridge::app::metrics::Metrics;
use pusher_bridge::config::{self, Source};
use pusher_bridge::legacy::close::CloseReason;
use pusher_bridge::legacy::error::ErrorCode;
use pusher_bridge::server::refusal::Refusal;

use crate::keys;

const README: &str = include_str!("../../README.md");
const SECURITY: &str = include_str!("../../docs/security.md");
const PERFORMANCE: &str = include_str!("../../docs/performance.md");
const CHANNELS: &str = include_str!("../../docs/channels.md");
const FRONT: &str = include_str!("../../docs/front.md");
const ASKING: &str = include_str!("../../docs/asking.md");
const CONTRIBUTING: &str = include_str!("../../CONTRIBUTING.md");
const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");
const SHIPPED: &str = include_str!("../../routes.toml");
const BINARY: &str = env!("CARGO_BIN_EXE_pusher-bridge");

/// The cells of the table whose header begins with this cell, row by row.
fn table(first: &str) -> Vec<Vec<&'static str>> {
    table_of(README, first)
}

fn table_of(document: &'static str, first: &str) -> Vec<Vec<&'static str>> {
    let head = format!("| {first} |");
    let mut rows = document.lines().skip_while(|line| !line.starts_with(&head)).skip(2);
    let rows: Vec<Vec<&str>> = rows
        .by_ref()
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert!(!rows.is_empty(), "no table begins with `{first}`");
    rows
}

/// What stands between backticks.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn first_column(table_name: &str) -> BTreeSet<&'static str> {
    table(table_name).iter().flat_map(|row| names(row[0])).collect()
}

/// The shipped file's dialects, for pieces that only name one.
fn shipped_dialects() -> &'static str {
    let from = SHIPPED.find("[dialects.typed.in]").unwrap();
    let to = SHIPPED.find("# ---").map(|_| SHIPPED.find("[groups.").unwrap()).unwrap();
    &SHIPPED[from..to]
}

/// A key for encrypted channels.
const MASTER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// A piece of a routes file, with what it leaves out put behind it.
fn completed(piece: &str) -> String {
    let mut file = piece.to_owned();
    if !piece.contains("[upstream]") {
        file.push_str("\n[upstream]\napp_id = \"1\"\nkey = \"k\"\nsecret = \"s\"\ncluster = \"mt1\"\n");
        file.push_str(&format!("encryption_master_key = \"{MASTER_KEY}\"\n"));
    }
    if !piece.contains("[[auth.keys]]") {
        file.push_str("\n[[auth.keys]]\nalgorithms = [\"HS256\"]\nsecret = \"s\"\n");
    }
    file.push_str(shipped_dialects());
    if !piece.contains("[[routes]]") {
        let dialect = if piece.contains("[dialects.third]") { "third" } else { "typed" };
        file.push_str(&format!(
            "\n[[routes]]\nname = \"r\"\npath = \"/ws\"\nchannel = \"c\"\ndialect = \"{dialect}\"\n"
        ));
    }
    file
}

#[test]
fn every_piece_of_toml_is_valid() {
    let pieces: Vec<&str> = [README, CHANNELS, FRONT]
        .iter()
        .flat_map(|text| text.split("```toml\n").skip(1))
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(pieces.len() >= 7, "{} pieces", pieces.len());
    let secret = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/routes/fixtures/secret.txt");
    let env = |name: &str| {
        Some(match name {
            "PUSHER_ENCRYPTION_MASTER_KEY" => MASTER_KEY.to_owned(),
            "TLS_CERT_FILE" | "TLS_KEY_FILE" => secret.replace("secret.txt", "tls.pem"),
            name if name.ends_with("_FILE") => secret.to_owned(),
            _ => "value".to_owned(),
        })
    };
    for piece in pieces {
        let source = Source { name: "README.md".into(), text: completed(piece) };
        let loaded = config::load(&source, &env).unwrap_or_else(|errors| {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            panic!("{piece}\n{}", errors.join("\n"))
        });
        assert!(loaded.missing.is_empty());
    }
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(BINARY).args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_and_flag_exists() {
    let documents = [README, ASKING].into_iter().flat_map(str::lines);
    let lines: Vec<&str> = documents.filter_map(|line| line.strip_prefix("    ")).collect();
    let mut seen = BTreeSet::new();
    for line in lines {
        let arguments = if let Some(rest) = line.strip_prefix("pusher-bridge ") {
            rest
        } else if line.starts_with("cargo run ") {
            line.split_once(" -- ").unwrap().1
        } else {
            continue;
        };
        let words: Vec<&str> =
            arguments.split('#').next().unwrap().split_whitespace().take_while(|word| *word != ">").collect();
        // Its commands have flags of their own.
        let depth = if words[0] == "token" { 2 } else { 1 };
        let help = help(&words[..depth]);
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(&format!("{flag} ")), "`{line}`: there is no {flag}");
        }
        seen.insert(words[0]);
    }
    assert!(
        ["check", "connect", "demo", "explain", "serve", "test"].iter().all(|command| seen.contains(command)),
        "{seen:?}"
    );
    for command in first_column("command") {
        help(&[command]);
    }
    let serve = help(&["serve"]);
    for variable in README.split(['`', ' ', '\n']).filter(|word| word.starts_with("PUSHER_BRIDGE_")) {
        assert!(serve.contains(&format!("[env: {variable}=")), "{variable}");
    }
}

/// README's figures are some of those in docs/performance.md: one run, one machine, one date.
#[test]
fn figures_are_those_of_one_run() {
    const FIRST: &str = "what is measured";
    let columns = |document: &'static str| -> Vec<&'static str> {
        let head = document.lines().find(|line| line.starts_with(&format!("| {FIRST} |"))).unwrap();
        head.trim_matches('|').split(" | ").map(str::trim).collect()
    };
    let (some, all) = (columns(README), columns(PERFORMANCE));
    let rows = table_of(PERFORMANCE, FIRST);
    for row in table(FIRST) {
        let full = rows.iter().find(|full| full[0] == row[0]).unwrap_or_else(|| panic!("{row:?}"));
        for (column, cell) in some.iter().zip(&row) {
            let at = all.iter().position(|name| name == column).unwrap_or_else(|| panic!("{column}"));
            assert_eq!(*cell, full[at], "{}, {column}", row[0]);
        }
    }
}

/// What needs tools is run by what installs them; tests, flags and forms exist.
#[test]
fn every_test_command_exists() {
    let text = |file: &str| std::fs::read_to_string(root().join(file)).unwrap();
    let (run, fuzz, soak) = (text("tests/run"), text("tests/fuzz/run"), text("tests/soak/args.rs"));
    let mut seen = BTreeSet::new();
    for line in [README, PERFORMANCE].iter().flat_map(|file| file.lines()) {
        let Some(line) = line.strip_prefix("    ") else { continue };
        let words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().collect();
        let (with, words) = match &words[..] {
            ["tests/run", "with", command @ ..] => (true, command),
            words => (false, words),
        };
        let flags = |after: &str| {
            let words = words.iter().skip_while(move |word| **word != after);
            words.filter(|word| word.starts_with("--") && **word != "--").copied().collect::<Vec<_>>()
        };
        match words {
            ["tests/run", ..] => assert!(flags("tests/run").iter().all(|flag| run.contains(flag)), "{line}"),
            ["tests/fuzz/run", ..] => {
                assert!(flags("tests/fuzz/run").iter().all(|flag| fuzz.contains(flag)), "{line}");
            }
            ["cargo", "test", ..] => {
                let at = words.iter().position(|word| *word == "--test").unwrap();
                let name = words[at + 1];
                assert!(root().join(format!("tests/{name}/main.rs")).exists(), "{line}");
                assert_eq!(with, name != "hostile", "{line}");
                let known = |flag: &&str| soak.contains(&format!("\"{flag}\""));
                assert!(name != "soak" || flags("--").iter().all(known), "{line}");
                seen.insert(name);
            }
            _ => {}
        }
    }
    assert!(run.contains("\n            with)\n"));
    assert_eq!(seen, BTreeSet::from(["faults", "hostile", "soak"]));
}

/// Files and folders that a document names, from the tree's root or from src; a file also by its mere name.
fn paths(document: &str) -> BTreeSet<&str> {
    let like_a_path = |name: &&str| {
        let file = [".rs", ".toml", ".md"].iter().any(|end| name.ends_with(end));
        (file || name.trim_end_matches('/').contains('/'))
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '.')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "./_-".contains(c))
    };
    names(document).into_iter().filter(like_a_path).collect()
}

#[test]
fn paths_in_documents_exist() {
    let sources = super::imports::files("src");
    for (document, text, least) in [
        ("CONTRIBUTING.md", CONTRIBUTING, 20),
        ("ARCHITECTURE.md", ARCHITECTURE, 20),
        ("docs/security.md", SECURITY, 30),
    ] {
        let paths = paths(text);
        assert!(paths.len() > least, "{document}: {paths:?}");
        let exists = |path: &&str| {
            let mut places = [root().join(path), root().join("src").join(path)].into_iter();
            let by_name =
                || !path.contains('/') && sources.keys().any(|file| file.ends_with(&format!("/{path}")));
            places.any(|place| if path.ends_with('/') { place.is_dir() } else { place.exists() }) || by_name()
        };
        let gone: Vec<&str> = paths.into_iter().filter(|path| !exists(path)).collect();
        assert_eq!(gone, [""; 0], "{document}");
    }
}

/// A room that the map calls `name/` is a folder, and `name.rs` one file.
#[test]
fn the_maps_rooms_have_their_form() {
    for room in table_of(ARCHITECTURE, "room").iter().flat_map(|row| names(row[0])) {
        let folder = root().join("src").join(room.trim_end_matches(".rs"));
        let (folder, file) = (folder.is_dir(), root().join("src").join(room).is_file());
        assert_eq!((folder, file), (room.ends_with('/'), room.ends_with(".rs")), "{room}");
    }
}

/// What CONTRIBUTING.md tells to type can be run.
#[test]
fn contributings_commands_exist() {
    let text =
        |file: &str| std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let flags =
        [text("tests/run"), text("tests/fuzz/run"), text("benches/run"), text("benches/load/src/args.rs")];
    let mut programs = BTreeSet::new();
    for line in CONTRIBUTING.lines().filter_map(|line| line.strip_prefix("    ")) {
        let words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().collect();
        if !words[0].starts_with("cargo") {
            assert!(root().join(words[0]).exists(), "{line}");
            for flag in words.iter().filter_map(|word| word.strip_prefix("--")) {
                let known = |text: &String| {
                    text.contains(&format!("--{flag}"))
                        || text.contains(&format!("{}:", flag.replace('-', "_")))
                };
                assert!(flags.iter().any(known) || words.contains(&"cargo"), "{line}");
            }
        }
        if let Some(at) = words.iter().position(|word| *word == "--test") {
            programs.insert(words[at + 1]);
        }
    }
    assert!(programs.len() > 2);
    for program in programs {
        assert!(root().join("tests").join(program).join("main.rs").exists(), "{program}");
    }
}

/// Key → default, as the schema tells them and as the loader has them:
/// `check::every_default_is_the_one_that_its_comment_tells`. Keys are named as README.md does.
fn defaults() -> BTreeMap<String, String> {
    let named = |(place, default): (keys::Place, String)| {
        let key = place.join(".").replace("routes.0.auth.", "routes.auth.");
        (key.trim_start_matches("routes.0.").to_owned(), default)
    };
    keys::defaults().into_iter().map(named).collect()
}

#[test]
fn the_limits_table_has_every_limit_with_its_default() {
    let defaults = defaults();
    let mut told = BTreeSet::new();
    for row in table("limit") {
        let key = names(row[0])[0];
        assert_eq!(defaults.get(key).map(String::as_str), Some(row[1]), "{key}");
        told.insert(key);
    }
    let is_limit = |key: &str| key.split_once("limits.").is_some_and(|(_, name)| !name.contains('.'));
    for key in defaults.keys().filter(|key| is_limit(key)) {
        assert!(told.contains(key.as_str()), "README's table has no {key}");
    }
}

/// In a piece of TOML, `key = … # … default …`; in a sentence, `table.key` (default).
#[test]
fn defaults_beside_the_tables_are_those_of_the_schema() {
    let defaults = defaults();
    let (mut pieces, mut sentences) = (0, 0);
    for piece in README.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
        for line in piece.lines() {
            let Some((key, _)) = line.split_once(" = ").filter(|_| line.contains("default")) else {
                continue;
            };
            let ends = |name: &str| name == key || name.ends_with(&format!(".{key}"));
            let real: Vec<&String> = defaults.iter().filter(|(name, _)| ends(name)).map(|(_, d)| d).collect();
            assert!(
                real.is_empty() || real.iter().any(|default| line.contains(*default)),
                "{line}: {real:?}"
            );
            pieces += usize::from(!real.is_empty());
        }
    }
    let parts: Vec<&str> = README.split('`').collect();
    for pair in parts.windows(2) {
        let [key, behind] = pair else { unreachable!() };
        let told = behind.strip_prefix(" (").filter(|told| told.starts_with(|c: char| c.is_ascii_digit()));
        if let (Some(default), Some(told)) = (defaults.get(*key), told) {
            assert_eq!(told.split([',', ')', ';']).next(), Some(default.as_str()), "{key}");
            sentences += 1;
        }
    }
    assert!(pieces > 6 && sentences > 3, "{pieces} pieces and {sentences} sentences were looked at");
}

#[test]
fn a_minimal_file_limits_no_slots() {
    let source = Source { name: "minimal".into(), text: completed("") };
    let limits = &config::load(&source, &|_| None).unwrap().config.routes[0].limits;
    assert!(limits.connections_per_user.is_none() && limits.connections_per_address.is_none());
    assert!(limits.exclusive.is_none());
}

#[test]
fn every_refusal_is_in_its_table_as_it_is_answered() {
    let refusals: BTreeSet<&str> = Refusal::ALL.iter().map(|refusal| refusal.label()).collect();
    assert_eq!(first_column("refusal"), refusals);
    for row in table("refusal") {
        let refusal = Refusal::ALL.into_iter().find(|refusal| names(row[0]) == [refusal.label()]).unwrap();
        let cells = [
            refusal.status().map(|status| status.to_string()),
            refusal.retry_after().map(|seconds| seconds.to_string()),
            refusal.error_code().map(|code| format!("`{}`", code.as_str())),
        ];
        assert_eq!(cells.map(|cell| cell.unwrap_or("–".to_owned())), row[1..4], "{}", row[0]);
    }
}

#[test]
fn every_code_and_reason_is_in_its_table() {
    let codes: BTreeSet<&str> = ErrorCode::ALL.map(ErrorCode::as_str).into();
    assert_eq!(first_column("code"), codes);
    let reasons: BTreeSet<&str> = CloseReason::ALL.map(CloseReason::label).into();
    assert_eq!(first_column("reason"), reasons);
    for row in table("reason") {
        for label in names(row[0]) {
            let reason = CloseReason::ALL.into_iter().find(|reason| reason.label() == label).unwrap();
            assert_eq!(reason.code().map_or("–".to_owned(), |code| code.to_string()), row[1], "{label}");
        }
    }
}

/// What is declared: each metric's type, labels, and what the labels from closed sets may be.
fn declared() -> BTreeMap<&'static str, (String, Vec<&'static str>, BTreeSet<&'static str>)> {
    let metrics = Metrics::new().unwrap().declared().into_iter().map(|metric| {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        let keys = metric.labels.iter().map(|label| label.key).collect();
        (metric.name, (kind, keys, metric.labels.into_iter().flat_map(|label| label.values).collect()))
    });
    metrics.collect()
}

#[test]
fn the_metrics_table_is_what_is_declared() {
    let (declared, mut told) = (declared(), BTreeMap::new());
    for row in table("metric") {
        let [metrics, kind, labels, what] = row[..] else { panic!("{row:?}") };
        let keys: Vec<&str> = labels.split(", ").filter(|label| *label != "–").collect();
        for metric in names(metrics) {
            let values = match &declared[metric].2 {
                none if none.is_empty() => BTreeSet::new(),
                // There is a table of them.
                _ if what.ends_with(" above") => first_column(keys[1]),
                _ => names(what).into_iter().collect(),
            };
            let again = told.insert(metric, (kind.to_owned(), keys.clone(), values));
            assert_eq!(again, None, "{metric} is told twice");
        }
    }
    for (metric, declared) in &declared {
        assert_eq!(told.get(metric), Some(declared), "{metric}");
    }
    assert_eq!(told.len(), declared.len());
}

#[test]
fn every_direct_dependency_is_in_the_table() {
    let manifest: toml::Table = include_str!("../../Cargo.toml").parse().unwrap();
    let direct: BTreeSet<&str> =
        manifest["dependencies"].as_table().unwrap().keys().map(String::as_str).collect();
    assert_eq!(first_column("crate"), direct);
    for name in manifest["dev-dependencies"].as_table().unwrap().keys() {
        assert!(README.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn links_lead_to_files() {
    for target in README.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        assert!(target.starts_with("https://") || root().join(target).exists(), "{target}");
    }
}

// ---------------------------------------------------------------------------------------- docs/security.md

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn securitys_limits_are_all_there_with_their_defaults() {
    let defaults = defaults();
    let mut told = BTreeSet::new();
    for row in table_of(SECURITY, "limit") {
        let [keys, default, _, file, shown] = row[..] else { panic!("{row:?}") };
        assert!(root().join(names(file)[0]).exists(), "{file}");
        assert!(!names(shown).is_empty() && names(shown).iter().all(|name| name.contains("::")), "{shown}");
        let values: Vec<&str> = default.split(", ").collect();
        assert_eq!(names(keys).len(), values.len(), "{keys}");
        for (key, value) in names(keys).into_iter().zip(values) {
            assert_eq!(defaults.get(key).map(String::as_str), Some(value), "{key}");
            told.insert(key);
        }
    }
    let readmes: BTreeSet<&str> = table("limit").iter().map(|row| names(row[0])[0]).collect();
    assert_eq!(told, readmes, "the two tables of limits");
}

/// What `const NAME: … = VALUE;` says: a product of numbers, or seconds.
fn constant(source: &str, name: &str) -> Option<String> {
    let (_, rest) = source.split_once(&format!("const {name}: "))?;
    let value = rest.split_once(" = ")?.1.split(';').next()?.replace('_', "");
    if let Some(seconds) = value.strip_prefix("Duration::fromsecs(") {
        return Some(format!("{}s", seconds.trim_end_matches(')')));
    }
    let product: usize = value.split(" * ").map(|factor| factor.parse::<usize>().unwrap()).product();
    Some(product.to_string())
}

#[test]
fn autobahns_cases_are_counted() {
    let source = include_str!("../e2e/autobahn.rs");
    let cases = constant(source, "CASES").unwrap();
    let (_, list) = source.split_once("const INFORMATIONAL: [&str; ").unwrap();
    let informational: usize = list.split(']').next().unwrap().parse().unwrap();
    let strict = cases.parse::<usize>().unwrap() - informational;
    let text = README.split_whitespace().collect::<Vec<_>>().join(" ");
    for told in [format!("{cases} cases,"), format!(" {strict} OK, {informational} informational.")] {
        assert!(text.contains(&told), "{told}");
    }
}

#[test]
fn securitys_constants_have_their_values() {
    for row in table_of(SECURITY, "constant") {
        let source = std::fs::read_to_string(root().join(names(row[3])[0])).unwrap();
        let values: Vec<&str> = row[1].split(", ").collect();
        assert_eq!(names(row[0]).len(), values.len(), "{row:?}");
        for (name, value) in names(row[0]).into_iter().zip(values) {
            assert_eq!(constant(&source, name).as_deref(), Some(value), "{name}");
        }
    }
}

/// The file of a test named `module::function` or `path::function`, and the function.
fn test_of(name: &str) -> (PathBuf, &str) {
    let (place, function) = name.rsplit_once("::").unwrap();
    let file = if place.ends_with(".rs") { place.to_owned() } else { format!("tests/e2e/{place}.rs") };
    (root().join(file), function)
}

#[test]
fn securitys_tests_metrics_keys_and_files_exist() {
    let metrics = declared();
    let codes = ErrorCode::ALL.map(ErrorCode::as_str);
    let keys = defaults();
    let (mut tests, mut others) = (0, 0);
    for name in names(SECURITY).into_iter().filter(|name| !name.contains(' ')) {
        if name.contains("::") {
            let (file, function) = test_of(name);
            let source = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
            let at = source.find(&format!("fn {function}(")).unwrap_or_else(|| panic!("no test {name}"));
            let attributes = source[..at].rsplit("\n\n").next().unwrap();
            let both = format!("near_and_far!({function})");
            let marks = ["[test]", "[tokio::test", both.as_str()];
            assert!(marks.iter().any(|mark| attributes.contains(mark)), "{name} is no test");
            tests += 1;
        } else if name.starts_with("pusher_bridge_") {
            assert!(metrics.contains_key(name), "{name}");
            others += 1;
        } else if name.ends_with(".rs") || name.ends_with(".toml") || name.starts_with("tests/") {
            assert!(root().join(name).exists(), "{name}");
            others += 1;
        } else if name.contains("limits.") || name.starts_with("upstream.") && name != "upstream.tls" {
            assert!(keys.contains_key(name), "{name}");
            others += 1;
        } else if name == "QUEUE_FULL" {
            assert!(codes.contains(&name));
        }
    }
    assert!(tests > 60 && others > 60, "{tests} tests and {others} other names were looked at");
}
