//! Scripts that are right, and what is said of those that are not.

use super::*;

fn env(name: &str) -> Option<String> {
    (name == "JWT_SECRET").then(|| "s3cret".to_owned())
}

fn read(text: &str) -> Result<Script, Vec<Diagnostic>> {
    load_script(&Source { name: "clients.toml".into(), text: text.into() }, &env)
}

const WHOLE: &str = r#"
path = "/ws/plugin/p{n}"
answers = [{ to = '{"type":"ping"}', send = '{"type":"pong"}' }]

[token]
secret = "${JWT_SECRET}"
claims = '{"sub":"user-{n}","plugin_ids":["p{n}"],"nested":{"a":{"b":{n}}}}'
expires = "1h"

[reconnect]
first = "500ms"
max = "1m"
times = 3

[[steps]]
send = '{"type":"auth","token":"Bearer {token}"}'

[[steps]]
wait = '{"type":"auth_response"}'
within = "5s"

[[steps]]
send = '{"type":"run","data":{"mark":"{mark}"}}'
every = "2s"

[[steps]]
pause = "10s"

[[steps]]
close = 1000
again = "3s"
"#;

#[test]
fn a_whole_script_is_read() {
    let script = read(WHOLE).unwrap();
    assert!(matches!(
        &script.steps[..],
        [Step::Send(_), Step::Wait(..), Step::Every(..), Step::Pause(_), Step::Close(1000, Some(_))]
    ));
    assert!(matches!(script.token, Some(Token::Minted { .. })) && script.answers.len() == 1);
    let reconnect = script.reconnect.unwrap();
    assert_eq!((reconnect.delay(0), reconnect.delay(3)), (Some(Duration::from_millis(500)), None));
    // Nobody has to say how a heartbeat is answered.
    assert_eq!(read("[[steps]]\npause = \"1s\"").unwrap().answers.len(), 1);
    assert!(read("answers = []\n[[steps]]\npause = \"1s\"").unwrap().answers.is_empty());
}

/// What is said, and under which text of the file the caret is.
#[test]
fn what_is_wrong_is_shown_with_its_place() {
    let step = "[[steps]]\npause = \"1s\"\n";
    for (file, message, marked, help) in [
        ("", "the script has no steps", "", "each begins with `[[steps]]`"),
        ("steps = 3", "expected a sequence", "3", ""),
        ("[[steps]]\nsent = \"x\"", "unknown key `sent`", "sent", "did you mean `send`?"),
        ("[[steps]]\nsend = \"{sq}\"", "there is no placeholder {sq} here", "{sq}", "did you mean `{seq}`?"),
        ("[[steps]]\nsend = 'a{token}'", "the script has no token", "{token}", "`[token]` says which"),
        ("[[steps]]\nsend = \"x\"\npause = \"1s\"", "a step is one of", "[[steps]]", ""),
        ("[[steps]]\nwait = \"auth\"", "a JSON object", "\"auth\"", "any frame with this type"),
        ("[[steps]]\npause = \"1s\"\nevery = \"1s\"", "`every` belongs to `send`", "\"1s\"", ""),
        ("[[steps]]\nsend = \"x\"\nwithin = \"1s\"", "`within` belongs to `wait`", "\"1s\"", ""),
        ("[[steps]]\npause = \"1s\"\nagain = \"1s\"", "`again` belongs to `close`", "\"1s\"", ""),
        ("[[steps]]\nsend = \"x\"\nevery = \"1\"", "is not a valid duration", "\"1\"", "\"500ms\""),
        ("[[steps]]\nsend = \"x\"\nevery = \"0s\"", "must be longer than 0", "\"0s\"", ""),
        ("[[steps]]\nclose = 99", "must be", "99", ""),
        (
            "[[steps]]\nclose = 1000\n[[steps]]\npause = \"1s\"",
            "nothing comes after `close`",
            "[[steps]]",
            "",
        ),
        (&format!("path = \"ws\"\n{step}"), "a path begins with `/`", "\"ws\"", ""),
        (
            &format!("path = \"/ws/{{seq}}\"\n{step}"),
            "there is no placeholder {seq} here, but {n}",
            "{seq}",
            "",
        ),
        (
            &format!("{step}[token]\nclaims = '{{}}'"),
            "a token is one of",
            "[token]",
            "each client has its own",
        ),
        (&format!("{step}[token]\ntext = \"t\"\nexpires = \"1s\""), "`expires` belongs to", "\"1s\"", ""),
        (&format!("{step}[token]\nsecret = \"s\"\nclaims = '[]'"), "must be a JSON object", "'[]'", ""),
        (
            &format!("{step}[token]\ntext = \"${{NOTHING}}\""),
            "`NOTHING` is not set",
            "\"${NOTHING}\"",
            "default",
        ),
        (&format!("{step}[reconnect]\nfirst = \"9s\"\nmax = \"1s\""), "at least `first`", "\"1s\"", ""),
        (&format!("{step}[reconnect]\ntimes = 0"), "must be", "0", ""),
        ("[[steps", "", "", ""),
    ] {
        let errors = read(file).unwrap_err();
        let [error] = &errors[..] else { panic!("{file}: {errors:?}") };
        assert!(error.message.contains(message), "{file}: {error}");
        assert!(error.help.as_deref().unwrap_or("").contains(help), "{file}: {error}");
        let shown: String = error.text.chars().skip(error.column - 1).take(error.width).collect();
        assert!(marked.is_empty() || shown == marked, "{file}: {error}");
    }
}

#[test]
fn a_secret_is_not_shown_beside_its_mistake() {
    for file in ["[token]\nsecret = \"hush hush \"\n", "[token]\ntext = \"hush hush\"\nexpires = 1\n"] {
        let errors = read(file).unwrap_err();
        let shown: String = errors.iter().map(ToString::to_string).collect();
        assert!(!shown.contains("hush"), "{shown}");
    }
}
