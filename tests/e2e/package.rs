//! What `deploy/package` makes of this very program: a package that is installed, upgraded and purged in a root of its
//! own, and a root filesystem that the program runs in as nobody in particular.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pusher_bridge::sandbox::{Options, Sandbox};

use crate::support::process::{BINARY, Program};
use crate::support::pusher::Pusher as _;
use crate::support::{OldClient, skipped, temporary_directory};

/// The user of the image.
const NONROOT: &str = "65532";
const CONFFILE: &str = "etc/pusher-bridge/routes.toml";
const WANTED: &str = "etc/systemd/system/multi-user.target.wants/pusher-bridge.service";

/// Runs a command to its end and gives what it printed; its failure is the test's.
fn output(command: &mut Command) -> String {
    let done = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", done.status);
    stdout.into_owned()
}

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What `deploy/package` made, one file.
fn package(kind: &str, out: &Path) -> PathBuf {
    let mut command = Command::new(tree("deploy/package"));
    command.args([kind, "--fast", "--binary", BINARY, "--out"]).arg(out);
    let made: PathBuf = output(&mut command).trim_end().into();
    assert!(made.starts_with(out.canonicalize().unwrap()), "{made:?}");
    made
}

/// The same, and it is so each time.
fn package_twice(kind: &str, folder: &Path) -> PathBuf {
    let made = package(kind, &folder.join("one"));
    let again = package(kind, &folder.join("two"));
    assert!(fs::read(&made).unwrap() == fs::read(&again).unwrap(), "the same sources gave other bytes");
    made
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Whether this machine lets a test be root in a namespace, or it is root anyway.
fn may_be_root() -> bool {
    let unshared = || Command::new("unshare").args(["--map-root-user", "true"]).output();
    let may = is_root() || unshared().is_ok_and(|done| done.status.success());
    if !may {
        skipped("neither root nor user namespaces");
    }
    may
}

/// dpkg for a root that holds nothing else. Maintainer scripts are run with `DPKG_ROOT`.
fn dpkg(root: &Path) -> Command {
    let mut command = Command::new(if is_root() { "env" } else { "unshare" });
    if !is_root() {
        command.arg("--map-root-user");
    }
    // Theirs, on the PATH of root.
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C").arg("dpkg");
    command.arg(format!("--root={}", root.display())).arg("--log=/dev/null");
    // libc is not there, and who installs it is not asked.
    command.args(["--force-depends", "--force-script-chrootless", "--force-confdef", "--force-confold"]);
    command
}

fn status(root: &Path) -> String {
    output(Command::new("dpkg-query").arg(format!("--admindir={}/var/lib/dpkg", root.display())).args([
        "--show",
        "--showformat=${Version} ${Status}",
        "pusher-bridge",
    ]))
}

/// The same package, later: with another version and another routes.toml in it.
fn later(package: &Path, folder: &Path) -> PathBuf {
    let unpacked = folder.join("later");
    output(Command::new("dpkg-deb").arg("--raw-extract").args([package, &unpacked]));
    let control = unpacked.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    fs::write(control, text.replacen("-1\n", "-2\n", 1)).unwrap();
    let routes = unpacked.join(CONFFILE);
    fs::write(&routes, format!("{}# Later.\n", fs::read_to_string(&routes).unwrap())).unwrap();
    // What it does is none of this test's affairs, and it is large.
    fs::write(unpacked.join("usr/bin/pusher-bridge"), "").unwrap();
    let made = folder.join("later.deb");
    output(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zgzip", "-z1", "--build"])
            .arg(&unpacked)
            .arg(&made),
    );
    made
}

#[test]
fn the_package_is_installed_upgraded_removed_and_purged() {
    if std::env::var_os("CARGO_DEB").is_none() {
        return skipped("CARGO_DEB is not set; tests/run finds and installs cargo-deb");
    }
    if !may_be_root() {
        return;
    }
    let folder = temporary_directory("package");
    let made = package_twice("deb", &folder);
    let version = env!("CARGO_PKG_VERSION");
    assert!(made.ends_with(format!("pusher-bridge_{version}-1_{}.deb", architecture())), "{made:?}");

    let root = folder.join("root");
    for place in ["var/lib/dpkg/info", "var/lib/dpkg/updates"] {
        fs::create_dir_all(root.join(place)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    output(dpkg(&root).arg("--install").arg(&made));
    assert_eq!(status(&root), format!("{version}-1 install ok installed"));

    // What is there, and works.
    let program = root.join("usr/bin/pusher-bridge");
    let conffile = root.join(CONFFILE);
    assert_eq!(fs::read(&conffile).unwrap(), fs::read(tree("routes.toml")).unwrap());
    assert!(output(Command::new(&program).arg("--version")).contains(version));
    output(Command::new(&program).arg("check").arg("--config").arg(&conffile));
    let unit = fs::read_to_string(root.join("usr/lib/systemd/system/pusher-bridge.service")).unwrap();
    assert_eq!(unit, fs::read_to_string(tree("deploy/systemd/pusher-bridge.service")).unwrap());
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let words: Vec<&str> = start.split(' ').collect();
    assert!(
        root.join(&words[0][1..]) == program && words.contains(&"/etc/pusher-bridge/routes.toml"),
        "{start}"
    );
    for (shell, file) in [
        ("bash", "bash-completion/completions/pusher-bridge"),
        ("zsh", "zsh/vendor-completions/_pusher-bridge"),
        ("fish", "fish/vendor_completions.d/pusher-bridge.fish"),
    ] {
        let script = fs::read_to_string(root.join("usr/share").join(file)).unwrap();
        assert_eq!(script, output(Command::new(BINARY).args(["completions", shell])));
    }
    for page in ["pusher-bridge", "pusher-bridge-serve", "pusher-bridge-token-mint"] {
        let page = root.join(format!("usr/share/man/man1/{page}.1.gz"));
        assert!(output(Command::new("gzip").arg("-dc").arg(page)).contains(".TH pusher-bridge"));
    }
    for place in
        ["copyright", "changelog.gz", "changelog.Debian.gz", "docs/security.md", "examples/routes.toml"]
    {
        assert!(root.join("usr/share/doc/pusher-bridge").join(place).exists(), "{place}");
    }
    assert!(!root.join(WANTED).exists(), "it is enabled without credentials");
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o7777, 0o755);

    // What somebody did with it outlives an upgrade and a removal, and no purge.
    let edited = format!("{}# Edited.\n", fs::read_to_string(&conffile).unwrap());
    fs::write(&conffile, &edited).unwrap();
    let secrets = root.join("etc/pusher-bridge/environment");
    fs::write(&secrets, "PUSHER_APP_ID=1\n").unwrap();
    fs::create_dir_all(root.join(WANTED).parent().unwrap()).unwrap();
    symlink("/usr/lib/systemd/system/pusher-bridge.service", root.join(WANTED)).unwrap();
    let enabled = || fs::symlink_metadata(root.join(WANTED)).is_ok();
    output(dpkg(&root).arg("--install").arg(later(&made, &folder)));
    assert_eq!(status(&root), format!("{version}-2 install ok installed"));
    assert_eq!(fs::read_to_string(&conffile).unwrap(), edited);
    assert!(fs::read_to_string(conffile.with_extension("toml.dpkg-dist")).unwrap().ends_with("# Later.\n"));
    assert!(enabled());
    // Twice is as once.
    output(dpkg(&root).arg("--install").arg(&made));
    output(dpkg(&root).arg("--install").arg(&made));
    assert_eq!(fs::read_to_string(&conffile).unwrap(), edited);
    output(dpkg(&root).args(["--remove", "pusher-bridge"]));
    assert_eq!(status(&root), format!("{version}-1 deinstall ok config-files"));
    assert!(!program.exists() && conffile.exists() && enabled());
    output(dpkg(&root).args(["--purge", "pusher-bridge"]));
    assert!(!conffile.exists() && !enabled() && !root.join("usr").exists());
    assert_eq!(fs::read_to_string(&secrets).unwrap(), "PUSHER_APP_ID=1\n", "the administrator's own");
    fs::remove_dir_all(folder).unwrap();
}

fn architecture() -> String {
    output(Command::new("dpkg").arg("--print-architecture")).trim_end().to_owned()
}

/// The program in the image's filesystem, as its user.
fn inside(root: &Path, args: &[&str]) -> Command {
    let mut command;
    if is_root() {
        command = Command::new("/usr/sbin/chroot");
        command.arg(format!("--userspec={NONROOT}:{NONROOT}")).arg(root);
    } else {
        command = Command::new("/usr/bin/unshare");
        command.args(["--user", "--map-user", NONROOT, "--map-group", NONROOT, "--root"]).arg(root);
    }
    command.arg("/pusher-bridge").args(args).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_images_filesystem_is_enough_for_the_program_and_its_user() {
    if !may_be_root() {
        return;
    }
    let folder = temporary_directory("rootfs");
    let made = package_twice("rootfs", &folder);
    let listed = output(Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&made));
    assert!(listed.lines().all(|line| line.contains(" 0/0 ")), "not root's:\n{listed}");
    assert!(
        !listed.contains("/bin/") && !listed.contains("/sh\n"),
        "there is more than the program:\n{listed}"
    );

    let root = folder.join("root");
    fs::create_dir(&root).unwrap();
    output(Command::new("tar").arg("-xpf").arg(&made).arg("-C").arg(&root));
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap();
    assert!(passwd.contains(&format!("\nnonroot:x:{NONROOT}:{NONROOT}:")), "{passwd}");
    let dockerfile = fs::read_to_string(tree("deploy/Dockerfile")).unwrap();
    assert!(dockerfile.contains(&format!("USER {NONROOT}:{NONROOT}")));
    // As it is mounted.
    fs::copy(tree("routes.toml"), root.join(CONFFILE)).unwrap();

    let config = format!("/{CONFFILE}");
    output(&mut inside(&root, &["check", "--config", &config]));
    let sandbox = Sandbox::start(Options::local()).await.unwrap();
    let args = [
        "serve",
        "--config",
        &config,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--log-format",
        "json",
    ];
    let mut serve = inside(&root, &args);
    serve.envs(sandbox.app().environment());
    let mut program = Program::spawn(serve);
    let (address, admin) = program.serves().await;
    let owner = fs::metadata(format!("/proc/{}", program.id())).unwrap().uid();
    assert!(!is_root() || owner.to_string() == NONROOT, "it runs as {owner}");
    let mut client = OldClient::login(address, "/ws/plugin/p1", "u1").await;
    sandbox.app().trigger("private-plugin-p1", "stage_complete", r#"{"n":1.50}"#).await;
    assert!(client.text().await.contains(r#""data":{"n":1.50}"#));
    for args in [&["healthcheck"][..], &["healthcheck", "--live"]] {
        let asked = inside(&root, &[args, &["--admin", &admin.to_string(), "--config", &config]].concat());
        let asked = Program::spawn(asked).ended().await;
        assert_eq!(asked.code, Some(0), "{asked:?}");
    }
    program.signal("TERM");
    assert_eq!(program.ended().await.code, Some(0));
    fs::remove_dir_all(folder).unwrap();
}
