//! What a reload does with each file that a `…_file` key names when that says something else: it is watched, and either taken
//! over at once or refused by the key's name. None is read at the start and forgotten.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pusher_bridge::config::plan::Plan;
use pusher_bridge::config::{Config, Source, load_noting};
use rcgen::{CertificateParams, KeyPair};

/// A file with every `…_file` key.
const FILE: &str = r#"
[server.tls]
cert_file = "tls-cert"
key_file = "tls-key"
client_ca_file = "tls-client-ca"

[upstream]
app_id = "1"
key = "k"
secret_file = "upstream-secret"
other_keys = [{ key = "older", secret_file = "upstream-other" }]
encryption_master_key_file = "upstream-master"
ca_file = "upstream-ca"
host = "localhost"

[[auth.keys]]
algorithms = ["HS256"]
issuer = "a"
secret_file = "auth-secret"

[[auth.keys]]
algorithms = ["ES256"]
issuer = "b"
pem_file = "auth-pem"

[[auth.keys]]
algorithms = ["ES256"]
issuer = "c"
jwks_file = "auth-jwks"

[endpoints]
notify = { path = "/notify", token_file = "notify-token" }

[dialects.typed.in]
type_field = "type"

[dialects.typed.out]
event = '{"type":{event},"data":{data}}'
error = '{"type":"error","code":{code}}'

[[routes]]
name = "a"
path = "/a"
channel = "private-encrypted-a"
dialect = "typed"
"#;

/// A key whose file changes, and whether it is taken over.
const KEYS: [(&str, &[&str], bool); 10] = [
    ("server.tls.cert_file", &["tls-cert", "tls-key"], true),
    ("server.tls.client_ca_file", &["tls-client-ca"], true),
    ("upstream.secret", &["upstream-secret"], true),
    ("upstream.other_keys", &["upstream-other"], true),
    ("upstream.encryption_master_key", &["upstream-master"], false),
    ("upstream.ca_file", &["upstream-ca"], false),
    ("auth.keys", &["auth-secret"], true),
    ("auth.keys", &["auth-pem"], true),
    ("auth.keys", &["auth-jwks"], true),
    ("endpoints.notify.token", &["notify-token"], true),
];

fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) {
    std::fs::write(folder.join(name), text).unwrap();
}

/// Puts all of them there, the `n`th version of each that is `which`.
fn put(folder: &Path, n: u8, which: impl Fn(&str) -> bool) {
    let put = |name: &str, text: String| {
        if which(name) {
            write(folder, name, text);
        }
    };
    let pair = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&pair).unwrap();
    put("tls-cert", certificate.pem());
    put("tls-key", pair.serialize_pem());
    put("tls-client-ca", certificate.pem());
    put("upstream-ca", certificate.pem());
    put("upstream-secret", format!("secret {n}"));
    put("upstream-other", format!("other {n}"));
    put(
        "upstream-master",
        ["zyrm8pvV2C9fJcBfhyXzvxbJVN/H7QLmbe0xJi1GhPU=", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]
            [usize::from(n)]
        .into(),
    );
    put("auth-secret", format!("a secret as long as it has to be, number {n}"));
    put("auth-pem", pair.public_key_pem());
    // An uncompressed point: 4, and both coordinates.
    let point = pair.public_key_raw();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
    put(
        "auth-jwks",
        format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"{n}","alg":"ES256","x":"{x}","y":"{y}"}}]}}"#),
    );
    put("notify-token", format!("a-token-as-long-as-it-has-to-be-{n}"));
}

fn loaded(folder: &Path) -> (Config, Vec<PathBuf>) {
    let name = folder.join("routes.toml").to_str().unwrap().to_owned();
    let mut files = Vec::new();
    let loaded = load_noting(&Source { name, text: FILE.to_owned() }, &|_| None, &mut files);
    let loaded = loaded.unwrap_or_else(|errors| {
        panic!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    });
    (loaded.config, files)
}

#[test]
fn a_file_that_changes_is_taken_over_or_refused_by_name() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("secrets");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    put(&folder, 0, |_| true);
    let mentioned = FILE.matches("_file =").count();
    let tried: usize = KEYS.iter().map(|(_, names, _)| names.len()).sum();
    assert_eq!(mentioned, tried, "each key of the file is tried");
    for (key, names, is_taken_over) in KEYS {
        let (before, files) = loaded(&folder);
        for name in names {
            assert!(FILE.contains(&format!("_file = \"{name}\"")), "{name}");
            assert!(files.iter().any(|file| file.ends_with(name)), "{name} is watched");
        }
        put(&folder, 1, |name| names.contains(&name));
        let plan = Plan::between(&before, &loaded(&folder).0);
        let (named, others) =
            if is_taken_over { (&plan.applied, &plan.fixed) } else { (&plan.fixed, &plan.applied) };
        assert!(named.contains(&key), "{key}: {plan:?}");
        assert!(others.is_empty(), "{key}: {plan:?}");
    }
}
