//! `deploy/` holds what it promises: the manifests render and are hardened, the alert rules are sound, and
//! what stands in two places is equal.
//!
//! Tools are named by the environment (`tests/run` finds them): `KUBECTL`, `PROMTOOL`, and `PYTHON` with
//! PyYAML. Without one, the tests that need it say SKIPPED; with `PUSHER_BRIDGE_TESTS_COMPLETE=1` they fail.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use pusher_bridge::app::metrics::Metrics;
use serde_json::{Value, json};

/// `[server] grace`'s default: after this long the bridge has exited by itself.
const GRACE_S: u64 = 25;
/// The user of the distroless images' `nonroot`.
const NONROOT: u64 = 65532;
const ADMIN_PORT: &str = "bridge-admin";

// ------------------------------------------------------------------------------------------- Kubernetes

#[test]
fn the_standalone_deployment_is_hardened_probed_and_drained() {
    let Some(objects) = render("kubernetes/base") else { return };
    let pod = pod_spec(&objects, "pusher-bridge");
    let container = find(&pod["containers"], "pusher-bridge");

    assert_bridge_container(container);
    assert_eq!(container["readinessProbe"]["httpGet"], json!({"path": "/readyz", "port": ADMIN_PORT}));
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(object(&objects, "ServiceAccount", "pusher-bridge")["automountServiceAccountToken"], false);
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > GRACE_S + 5);
    assert_routes_mounted(&objects, pod, container);
}

#[test]
fn the_standalone_objects_select_its_pods_and_keep_the_admin_port_in() {
    let Some(objects) = render("kubernetes/base") else { return };
    let deployment = object(&objects, "Deployment", "pusher-bridge");
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let service = object(&objects, "Service", "pusher-bridge");
    let budget = object(&objects, "PodDisruptionBudget", "pusher-bridge");
    let policy = object(&objects, "NetworkPolicy", "pusher-bridge");
    for selector in [
        &deployment["spec"]["selector"]["matchLabels"],
        &service["spec"]["selector"],
        &budget["spec"]["selector"]["matchLabels"],
        &policy["spec"]["podSelector"]["matchLabels"],
    ] {
        assert_selects(selector, labels);
    }

    let ports: Vec<_> = list(&service["spec"]["ports"]).iter().map(|port| &port["targetPort"]).collect();
    assert_eq!(ports, ["bridge"], "the admin port can drain the bridge");
    for rule in list(&policy["spec"]["ingress"]) {
        let admin = list(&rule["ports"]).iter().any(|port| port["port"] == ADMIN_PORT);
        assert!(!admin || !list(&rule["from"]).is_empty(), "the admin port is open to everybody: {rule}");
    }
}

#[test]
fn the_sidecar_is_native_hardened_and_drained_before_the_api_ends() {
    let Some(objects) = render("kubernetes/sidecar") else { return };
    let pod = pod_spec(&objects, "example-api");
    let sidecar = find(&pod["initContainers"], "pusher-bridge");

    assert_eq!(
        sidecar["restartPolicy"], "Always",
        "without it this is an init container, and the API never starts"
    );
    assert_bridge_container(sidecar);
    assert_eq!(sidecar["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let purpose = json!([{"name": "X-Pusher-Bridge", "value": "drain"}]);
    assert_eq!(
        sidecar["lifecycle"]["preStop"]["httpGet"],
        json!({"path": "/drain", "port": ADMIN_PORT, "httpHeaders": purpose}),
        "without the header it is refused"
    );
    assert!(sidecar["readinessProbe"].is_null(), "Pusher's absence would take the API out of its Service");
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > 2 * GRACE_S);
    assert_routes_mounted(&objects, pod, sidecar);

    let api = find(&pod["containers"], "api");
    let backend = env_value(sidecar, "BACKEND_URL").expect("the sidecar's backend is its API");
    let port = api["ports"][0]["containerPort"].as_u64().unwrap();
    assert_eq!(backend, format!("http://127.0.0.1:{port}"));
}

#[test]
fn the_pod_monitor_finds_the_pods_of_both_deployments() {
    let Some(monitoring) = render("kubernetes/monitoring") else { return };
    let monitor = &object(&monitoring, "PodMonitor", "pusher-bridge")["spec"];
    assert_eq!(monitor["podMetricsEndpoints"][0]["port"], ADMIN_PORT);
    assert_eq!(monitor["podMetricsEndpoints"][0]["path"], "/metrics");
    for (place, name) in [("base", "pusher-bridge"), ("sidecar", "example-api")] {
        let objects = render(&format!("kubernetes/{place}")).unwrap();
        let labels = &object(&objects, "Deployment", name)["spec"]["template"]["metadata"]["labels"];
        assert_selects(&monitor["selector"]["matchLabels"], labels);
    }
}

#[test]
fn the_shipped_routes_are_the_deployed_ones() {
    let copy = "deploy/kubernetes/config/routes.toml";
    assert!(read("routes.toml") == read(copy), "the files differ: cp routes.toml {copy}");
}

#[test]
fn the_example_secret_is_complete_and_never_applied() {
    let Some(secret) = yaml_file("kubernetes/secret.example.yaml") else { return };
    let offered: BTreeSet<_> = secret[0]["stringData"].as_object().unwrap().keys().cloned().collect();
    for (place, name) in [("base", "pusher-bridge"), ("sidecar", "example-api")] {
        let Some(objects) = render(&format!("kubernetes/{place}")) else { return };
        assert!(objects.iter().all(|object| object["kind"] != "Secret"));
        let pod = pod_spec(&objects, name);
        let group = if place == "base" { "containers" } else { "initContainers" };
        let wanted: BTreeSet<_> = list(&find(&pod[group], "pusher-bridge")["env"])
            .iter()
            .filter(|variable| !variable["valueFrom"].is_null())
            .map(|variable| {
                let reference = &variable["valueFrom"]["secretKeyRef"];
                assert_eq!(reference["name"], secret[0]["metadata"]["name"]);
                reference["key"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(wanted, offered, "in {place}");
    }
}

/// What holds for the bridge's container wherever it stands.
fn assert_bridge_container(container: &Value) {
    assert_eq!(container["image"], format!("pusher-bridge:{}", env!("CARGO_PKG_VERSION")));
    let arguments: Vec<_> = list(&container["args"]).iter().map(|arg| arg.as_str().unwrap()).collect();
    let expected = "serve --config /etc/pusher-bridge/routes.toml --listen 0.0.0.0:8009 --admin 0.0.0.0:9009";
    assert_eq!(arguments.join(" "), expected);

    let security = &container["securityContext"];
    assert_eq!(security["runAsNonRoot"], true);
    assert_eq!(security["runAsUser"], NONROOT);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));

    assert_eq!(container["livenessProbe"]["httpGet"], json!({"path": "/healthz", "port": ADMIN_PORT}));
    assert_eq!(container["startupProbe"]["httpGet"], json!({"path": "/healthz", "port": ADMIN_PORT}));
    let ports = &container["ports"];
    assert_eq!(find(ports, "bridge")["containerPort"], 8009);
    assert_eq!(find(ports, ADMIN_PORT)["containerPort"], 9009);
    for resource in [&container["resources"]["requests"]["cpu"], &container["resources"]["limits"]["memory"]]
    {
        assert!(resource.is_string());
    }
    for name in required_variables(&read("routes.toml")) {
        let given = list(&container["env"]).iter().any(|variable| variable["name"] == name.as_str());
        assert!(given, "routes.toml needs ${{{name}}}, and the manifest does not set it");
    }
}

/// The generated ConfigMap holds the shipped file, and the pod mounts that very one, whole and read-only.
fn assert_routes_mounted(objects: &[Value], pod: &Value, container: &Value) {
    let map = objects.iter().find(|object| object["kind"] == "ConfigMap").expect("a ConfigMap");
    assert_eq!(map["data"], json!({"routes.toml": read("routes.toml")}));
    let name = map["metadata"]["name"].as_str().unwrap();
    assert!(
        name.starts_with("pusher-bridge-routes-"),
        "a hash in the name makes a change roll the pods: {name}"
    );
    assert_eq!(find(&pod["volumes"], "routes")["configMap"]["name"], name);
    let mount = find(&container["volumeMounts"], "routes");
    assert_eq!(mount["mountPath"], "/etc/pusher-bridge");
    assert_eq!(mount["readOnly"], true);
    assert!(mount["subPath"].is_null(), "an edited ConfigMap never reaches a subPath");
}

fn assert_selects(selector: &Value, labels: &Value) {
    let selector = selector.as_object().unwrap();
    assert!(!selector.is_empty());
    for (key, value) in selector {
        assert_eq!(&labels[key], value, "label {key}");
    }
}

/// The `${NAME}` without a default outside of comments.
fn required_variables(routes: &str) -> BTreeSet<String> {
    let code = routes.lines().map(|line| line.split('#').next().unwrap());
    let names: BTreeSet<_> = code
        .flat_map(|line| line.split("${").skip(1).filter_map(|rest| rest.split_once('}')))
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.contains(":-"))
        .collect();
    assert!(names.contains("PUSHER_SECRET"), "found only {names:?}");
    names
}

// --------------------------------------------------------------------------------------------- systemd

/// At most so much of systemd's score of what an attacker within could do, in tenths: nothing to everything is 0 to 100.
const EXPOSURE_MAX: &str = "20";

#[test]
fn systemd_takes_the_units_and_finds_little_exposed() {
    let Some(analyze) = tool("SYSTEMD_ANALYZE") else { return };
    // With a program that is there.
    let units = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("units");
    std::fs::create_dir_all(&units).unwrap();
    for unit in ["pusher-bridge.service", "pusher-bridge.socket", "pusher-bridge-admin.socket"] {
        let text = read(&format!("deploy/systemd/{unit}")).replace("/usr/bin/pusher-bridge", "/bin/true");
        std::fs::write(units.join(unit), text).unwrap();
        let verified =
            Command::new(&analyze).args(["verify", "--man=no"]).arg(units.join(unit)).output().unwrap();
        let told = String::from_utf8_lossy(&verified.stderr);
        let of_ours: Vec<&str> = told.lines().filter(|line| line.contains("pusher-bridge")).collect();
        assert!(verified.status.success() && of_ours.is_empty(), "{unit}: {told}");
    }
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let mut security = Command::new(&analyze);
    security.args(["security", "--offline=true", &threshold]).arg(units.join("pusher-bridge.service"));
    output(&mut security, "");
}

// ------------------------------------------------------------------------------------------- Prometheus

#[test]
fn promtool_accepts_the_alert_rules_and_each_alert_fires_on_its_fault() {
    let Some(promtool) = tool("PROMTOOL") else { return };
    for arguments in [["check", "rules", "rules.yaml"], ["test", "rules", "rules.test.yaml"]] {
        let mut command = Command::new(&promtool);
        output(command.args(arguments).current_dir(deploy("prometheus")), "");
    }
}

#[test]
fn every_alert_is_tried_and_tells_what_to_do() {
    let Some(rules) = yaml_file("prometheus/rules.yaml") else { return };
    let tests = read("deploy/prometheus/rules.test.yaml");
    for rule in list(&rules[0]["groups"]).iter().flat_map(|group| list(&group["rules"])) {
        let name = rule["alert"].as_str().unwrap();
        assert!(tests.matches(name).count() >= 2, "{name}: rules.test.yaml must try it silent and firing");
        assert!(["critical", "warning", "info"].contains(&rule["labels"]["severity"].as_str().unwrap()));
        for annotation in ["summary", "description"] {
            assert!(rule["annotations"][annotation].is_string(), "{name}: no {annotation}");
        }
    }
}

#[test]
fn the_operator_gets_the_same_rules() {
    let Some(rules) = yaml_file("prometheus/rules.yaml") else { return };
    let Some(objects) = render("kubernetes/monitoring") else { return };
    assert_eq!(object(&objects, "PrometheusRule", "pusher-bridge")["spec"], rules[0]);
}

#[test]
fn the_rules_use_metrics_that_exist() {
    let declared = Metrics::new().unwrap().declared();
    let names = metric_names(&read("deploy/prometheus/rules.yaml"));
    assert!(names.len() >= 10, "found only {names:?}");
    for name in names {
        assert!(declared.iter().any(|metric| metric.name == name), "no metric is called {name}");
    }
}

fn metric_names(rules: &str) -> BTreeSet<String> {
    rules
        .match_indices("pusher_bridge_")
        .map(|(start, _)| {
            let rest = &rules[start..];
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
            rest[..end].trim_end_matches("_bucket").to_owned()
        })
        .collect()
}

// ------------------------------------------------------------------------------------------------ image

#[test]
fn the_image_is_pinned_shell_free_and_not_root() {
    let stages = dockerfile_stages();
    let [builder, last] = &stages[..] else { panic!("two stages, not {}", stages.len()) };
    let compiler: toml::Table = read("rust-toolchain.toml").parse().unwrap();
    let compiler = compiler["toolchain"]["channel"].as_str().unwrap();
    assert_eq!(compiler, concat!(env!("CARGO_PKG_RUST_VERSION"), ".0"));
    assert_eq!(builder[0].1, format!("rust:{compiler}-bookworm AS builder"));
    assert_eq!(values(builder, "ENV"), [format!("RUSTUP_TOOLCHAIN={compiler}")]);
    // The runtime's Debian is the builder's, so its glibc is not older.
    assert_eq!(last[0].1, "gcr.io/distroless/cc-debian12:nonroot");

    let users: Vec<_> = values(last, "USER");
    assert_eq!(users, [format!("{NONROOT}:{NONROOT}")]);
    assert!(values(last, "RUN").is_empty(), "there is no shell to run it");
    assert_eq!(values(last, "EXPOSE"), ["8009 9009"]);
    assert_eq!(values(last, "ENTRYPOINT"), [r#"["/pusher-bridge"]"#]);
    assert_eq!(values(last, "CMD"), [r#"["serve", "--config", "/etc/pusher-bridge/routes.toml"]"#]);
    let health = values(last, "HEALTHCHECK");
    assert!(health[0].ends_with(r#" CMD ["/pusher-bridge", "healthcheck", "--live"]"#), "{health:?}");
    assert!(values(last, "COPY").iter().all(|copy| copy.starts_with("--from=builder ")));
    let version = format!(r#"image.version="{}""#, env!("CARGO_PKG_VERSION"));
    assert!(values(last, "LABEL")[0].contains(&version));
}

#[test]
fn the_build_context_holds_the_sources_and_no_secrets() {
    let ignored: BTreeSet<_> =
        read(".dockerignore").lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    for pattern in [".git", "target", "**/node_modules", "**/.env", "**/secret.yaml"] {
        assert!(ignored.contains(pattern), "{pattern} would be sent to the builder");
    }
    for pattern in &ignored {
        let tracked = pattern.trim_start_matches("**/");
        assert!(!root().join(tracked).exists() || ["target", ".git", ".env"].contains(&tracked), "{pattern}");
    }
    let stages = dockerfile_stages();
    let sources = values(&stages[0], "COPY");
    assert!(!sources.is_empty());
    for copy in sources {
        let paths: Vec<_> = copy.split_whitespace().collect();
        for source in &paths[..paths.len() - 1] {
            assert!(root().join(source).exists(), "COPY {source}");
        }
    }
}

/// The final image has the libraries of distroless `cc` and no others.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn the_binary_needs_no_library_that_the_image_lacks() {
    let libraries = output(Command::new("ldd").arg(env!("CARGO_BIN_EXE_pusher-bridge")), "");
    let present =
        ["linux-vdso.so", "libc.so", "libm.so", "libgcc_s.so", "libstdc++.so", "libdl.so", "libpthread.so"];
    for line in libraries.lines().map(str::trim) {
        let known = present.iter().any(|library| line.starts_with(library)) || line.contains("/ld-linux");
        assert!(known, "the image has no {line}");
    }
}

#[test]
fn the_command_line_of_the_manifests_exists() {
    let help = output(Command::new(env!("CARGO_BIN_EXE_pusher-bridge")).args(["serve", "--help"]), "");
    for flag in ["--config", "--listen", "--admin", "PUSHER_BRIDGE_LISTEN", "PUSHER_BRIDGE_ADMIN"] {
        assert!(help.contains(flag), "`serve --help` knows no {flag}:\n{help}");
    }
    let health =
        output(Command::new(env!("CARGO_BIN_EXE_pusher-bridge")).args(["healthcheck", "--help"]), "");
    for flag in ["--live", "PUSHER_BRIDGE_ADMIN"] {
        assert!(health.contains(flag), "`healthcheck --help` knows no {flag}:\n{health}");
    }
}

/// Each stage's instructions, its `FROM` first; continued lines are joined.
fn dockerfile_stages() -> Vec<Vec<(String, String)>> {
    let text = read("deploy/Dockerfile").replace("\\\n", " ");
    let mut stages: Vec<Vec<(String, String)>> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let (instruction, value) = line.split_once(' ').unwrap();
        if instruction == "FROM" {
            stages.push(Vec::new());
        }
        stages.last_mut().unwrap().push((instruction.to_owned(), value.to_owned()));
    }
    stages
}

fn values<'a>(stage: &'a [(String, String)], instruction: &str) -> Vec<&'a str> {
    stage.iter().filter(|(name, _)| name == instruction).map(|(_, value)| value.as_str()).collect()
}

// ------------------------------------------------------------------------------------------------ tools

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn deploy(place: &str) -> PathBuf {
    root().join("deploy").join(place)
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn tool(name: &str) -> Option<OsString> {
    let path = std::env::var_os(name).filter(|path| !path.is_empty());
    if path.is_none() {
        let complete = std::env::var_os("PUSHER_BRIDGE_TESTS_COMPLETE").is_some_and(|value| value == "1");
        assert!(!complete, "{name} is not set, and every test must run");
        eprintln!("SKIPPED: {name} is not set; tests/run finds and installs it");
    }
    path
}

/// The objects that `kubectl kustomize` makes of a directory below `deploy/`.
fn render(place: &str) -> Option<Vec<Value>> {
    let (kubectl, python) = (tool("KUBECTL")?, tool("PYTHON")?);
    let rendered = output(Command::new(kubectl).arg("kustomize").arg(deploy(place)), "");
    Some(parse_yaml(python, &rendered))
}

fn yaml_file(place: &str) -> Option<Vec<Value>> {
    let python = tool("PYTHON")?;
    Some(parse_yaml(python, &read(&format!("deploy/{place}"))))
}

fn parse_yaml(python: OsString, text: &str) -> Vec<Value> {
    let program = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    serde_json::from_str(&output(Command::new(python).args(["-c", program]), text)).unwrap()
}

/// Runs a command to its end, with text on its standard input; its failure is the test's.
fn output(command: &mut Command, input: &str) -> String {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let done = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", done.status);
    stdout.into_owned()
}

// ---------------------------------------------------------------------------------- looking into objects

fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn pod_spec<'a>(objects: &'a [Value], deployment: &str) -> &'a Value {
    &object(objects, "Deployment", deployment)["spec"]["template"]["spec"]
}

/// The element of a list that has this `name`.
fn find<'a>(values: &'a Value, name: &str) -> &'a Value {
    list(values).iter().find(|value| value["name"] == name).unwrap_or_else(|| panic!("no {name} in {values}"))
}

/// The elements of a list; none when it is absent.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn env_value<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    list(&container["env"]).iter().find(|variable| variable["name"] == name)?["value"].as_str()
}
