//! `test` and `check --strict`, of the shipped file and of others: the program itself, for it needs no stage.

use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_pusher-bridge");
const SHIPPED: &str = include_str!("../../routes.toml");

fn run(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(BINARY)
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A file of this text.
fn file(name: &str, text: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A key for encrypted channels: with it every route is on.
const KEY: [(&str, &str); 1] =
    [("PUSHER_ENCRYPTION_MASTER_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")];

#[test]
fn the_shipped_file_does_what_its_tests_expect_and_has_one_for_each_route() {
    let (code, out, err) = run(&["test"], &KEY);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let tests = SHIPPED.matches("\n[[tests]]\n").count();
    assert!(out.ends_with(&format!("\n{tests} passed, 0 failed, 0 skipped\n")), "{out}");
    let (code, out, _) = run(&["test"], &[]);
    assert_eq!(code, Some(0));
    assert!(out.contains("skipped  a message on an encrypted channel: the route `secure` is off"), "{out}");
    for strict in [&["check", "--strict"][..], &["check"]] {
        let (code, _, err) = run(strict, &KEY);
        assert!(code == Some(0) && !err.contains("no test asks"), "{err}");
    }
}

#[test]
fn the_valid_file_with_tests_passes_them() {
    let (code, out, _) = run(&["test", "--config", "tests/routes/valid/tests.toml"], &[]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.ends_with("7 passed, 0 failed, 0 skipped\n"), "{out}");
}

#[test]
fn what_differs_is_told_and_fails() {
    let wrong =
        SHIPPED.replacen("data = '{\"progress_percent\":25.0}' }", "data = '{\"progress_percent\":25}' }", 1);
    let wrong = file(
        "wrong-tests.toml",
        &wrong.replacen("refusal = \"NOT_OWNER\"", "refusal = \"INVALID_TOKEN\"", 1),
    );
    let (code, out, err) = run(&["test", "--config", &wrong], &KEY);
    assert_eq!((code, err.as_str()), (Some(1), ""), "{out}");
    for line in [
        "    expected  {\"type\":\"progress_update\",\"data\":{\"progress_percent\":25.0},",
        "    found     {\"type\":\"progress_update\",\"data\":{\"progress_percent\":25},",
        "              data.progress_percent: 25.0 expected, 25 found",
        "    expected  INVALID_TOKEN",
        "    found     the token is not_owner: the claim `plugin_ids` does not contain what the path names",
    ] {
        assert!(out.lines().any(|shown| shown.starts_with(line)), "{line}\n{out}");
    }
    assert!(out.contains("2 failed"), "{out}");
    let at = SHIPPED.lines().position(|line| line == "[[tests]]").unwrap() + 1;
    assert!(out.contains(&format!("wrong-tests.toml:{at}")), "{out}");
    let (code, out, _) = run(&["test", "plugin", "--config", &wrong], &KEY);
    assert!(code == Some(1) && out.contains("1 passed, 1 failed, 0 skipped"), "{out}");
    let (code, out, _) = run(&["test", "of no test"], &KEY);
    assert!(code == Some(0) && out.contains("no test has `of no test` in its name"), "{out}");
}

#[test]
fn routes_without_a_test_are_warned_of_where_that_is_asked() {
    let (routes, _) = SHIPPED.split_once("[[tests]]").unwrap();
    let without = file("without-tests.toml", routes);
    let (code, out, _) = run(&["test", "--config", &without], &[]);
    assert!(code == Some(0) && out.contains("has no [[tests]]"), "{out}");
    let (code, _, err) = run(&["check", "--strict", "--config", &without], &[]);
    assert_eq!(code, Some(0));
    assert!(err.contains("warning: no test asks the route `content`"), "{err}");
    assert!(err.contains("| name = \"content\"\n"), "{err}");
    assert!(!err.contains("`secure`"), "it is off: {err}");
    let (_, _, err) = run(&["check", "--config", &without], &[]);
    assert!(!err.contains("no test asks"), "{err}");
}

#[test]
fn a_wrong_test_is_an_error_with_its_place_and_serving_needs_none_of_its_variables() {
    let wrong =
        file("wrong-test.toml", &SHIPPED.replacen("refusal = \"NOT_OWNER\"", "refusal = \"NOT_OWNR\"", 1));
    for command in ["test", "check", "serve"] {
        let (code, _, err) = run(&[command, "--config", &wrong], &KEY);
        assert_eq!(code, Some(78), "{err}");
        assert!(err.contains("did you mean `NOT_OWNER`?") && err.contains("^^^^^"), "{err}");
    }
    let asked = SHIPPED.replacen("url = \"/ws/feed\"", "url = \"${ONLY_IN_TESTS}\"", 1);
    let (_, _, err) = run(&["check", "--config", &file("variable-test.toml", &asked)], &KEY);
    assert!(!err.contains("ONLY_IN_TESTS"), "{err}");
}

#[test]
fn the_script_in_the_documents_is_one() {
    use pusher_bridge::config::{Source, load_script};
    let asking = include_str!("../../docs/asking.md");
    let text = asking.split("## simulate").nth(1).unwrap().split("```toml\n").nth(1).unwrap();
    let text = text.split("```").next().unwrap().to_owned();
    let script = load_script(&Source { name: "asking.md".into(), text }, &|_| Some("value".to_owned()));
    let script = script.unwrap_or_else(|errors| panic!("{}", errors[0]));
    assert!(script.steps.len() == 5 && script.token.is_some() && script.reconnect.is_some());
}
