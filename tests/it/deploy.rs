//! The files of deploy/ that run the gateway: each is judged by a program that knows its kind, and its configuration is
//! loaded, or served, by the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::checker::{Prometheus, accepts, checker, project, run, text, yaml};
use crate::support::command::Done;
use crate::support::gateway::{Builder, binary};
use crate::support::public::installed;
use crate::support::tls::Authority;
use crate::support::{RecordingUpstream, Wrong};

/// The elements of an array; none of what is no array.
fn items(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().map_or([].iter(), |items| items.iter())
}

fn strings(value: &Value) -> BTreeSet<&str> {
    items(value).filter_map(Value::as_str).collect()
}

/// How long a stop may take by this configuration, in seconds: the delay, and all of it.
fn drain(configuration: &str) -> (u64, u64) {
    let table: toml::Table = configuration.parse().unwrap();
    let limits = table.get("server").and_then(|server| server.get("limits"));
    let seconds = |name: &str, default: &str| -> u64 {
        let value = limits.and_then(|limits| limits.get(name)).map_or(default, |value| value.as_str().unwrap());
        value.strip_suffix('s').unwrap().parse().unwrap()
    };
    let delay = seconds("drain_delay", "0s");
    (delay, delay + seconds("drain_timeout", "30s"))
}

// ---- systemd --------------------------------------------------------------------------------------------------------

#[test]
fn the_unit_is_sound_and_as_closed_as_it_was() {
    let Some(analyze) = installed("systemd-analyze") else { return };
    let unit = text("deploy/systemd/tollgate.service");
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("tollgate.service");
    // The program has to be there for it to be a unit that could start.
    std::fs::write(&path, unit.replace("/usr/local/bin/tollgate", env!("CARGO_BIN_EXE_tollgate"))).unwrap();
    let sockets = dir.path().join("tollgate.socket");
    std::fs::write(&sockets, text("deploy/systemd/tollgate.socket")).unwrap();
    accepts(Command::new(&analyze).arg("verify").arg(&path).arg(&sockets));
    // An exposure of 1.2, and no more than that.
    accepts(Command::new(&analyze).args(["security", "--offline=true", "--threshold=12"]).arg(&path));

    let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")?.strip_suffix('s')).unwrap();
    let (_, longest) = drain("");
    assert!(stop.parse::<u64>().unwrap() > longest, "{stop} s to stop, {longest} s to drain");
}

// ---- the image ------------------------------------------------------------------------------------------------------

#[test]
fn the_image_has_what_it_copies_and_runs_as_nobody_in_particular() {
    let Some(hadolint) = checker("hadolint") else { return };
    accepts(Command::new(hadolint).args(["--failure-threshold", "style"]).arg(project("deploy/Dockerfile")));
    let file = text("deploy/Dockerfile").replace("\\\n", "");
    let instructions: Vec<Vec<&str>> = file
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let mut wrong = Wrong::default();
    for copy in instructions.iter().filter(|words| words[0] == "COPY") {
        let (flags, paths): (Vec<&str>, Vec<&str>) = copy[1..].iter().partition(|word| word.starts_with("--"));
        if !flags.iter().any(|flag| flag.starts_with("--from")) {
            for source in &paths[..paths.len() - 1] {
                wrong.ok(source, project(source).exists(), "it is not there to be copied");
            }
        }
    }
    let last = instructions.iter().rposition(|words| words[0] == "FROM").unwrap();
    let of = |name: &str| instructions[last..].iter().rfind(|words| words[0] == name);
    let user = of("USER").expect("a user")[1];
    let ids: Vec<u32> = user.split(':').map(|id| id.parse().expect("a number, which Kubernetes can judge")).collect();
    wrong.ok(user, ids.len() == 2 && !ids.contains(&0), "root");
    wrong.ok("ENTRYPOINT", of("ENTRYPOINT").is_some_and(|words| words[1].starts_with('[')), "a shell would be needed");
    wrong.ok("the base", instructions[last][1].contains("/cc-debian"), "another base has other libraries than below");
    wrong.done();
}

#[test]
fn the_program_needs_no_library_that_the_image_lacks() {
    let needed = run(Command::new("ldd").arg(env!("CARGO_BIN_EXE_tollgate")));
    assert_eq!(needed.code, Some(0), "{needed:?}");
    let names = needed.out.lines().map(|line| line.split_whitespace().next().unwrap().rsplit('/').next().unwrap());
    // What distroless/cc consists of: libc6, libgcc-s1, libstdc++6 and libgomp1.
    let there = ["linux-vdso", "ld-linux", "libc.", "libm.", "libgcc_s.", "libpthread.", "libdl.", "librt."];
    let missing: Vec<&str> = names.filter(|name| !there.iter().any(|known| name.starts_with(known))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

// ---- compose --------------------------------------------------------------------------------------------------------

#[test]
fn every_service_of_the_compose_file_is_closed() {
    let Some(check) = checker("check-jsonschema") else { return };
    accepts(
        Command::new(check)
            .args(["--builtin-schema", "vendor.compose-spec"])
            .arg(project("deploy/compose/compose.yml")),
    );
    let compose = yaml("deploy/compose/compose.yml").unwrap().remove(0);
    let mut wrong = Wrong::default();
    for (name, service) in compose["services"].as_object().unwrap() {
        wrong.eq((name, "read_only"), &service["read_only"], true);
        wrong.eq((name, "cap_drop"), strings(&service["cap_drop"]), BTreeSet::from(["ALL"]));
        wrong.ok(
            (name, "security_opt"),
            strings(&service["security_opt"]).contains("no-new-privileges:true"),
            &service["security_opt"],
        );
        // The image's own user is checked above.
        let user = service["user"].as_str().unwrap_or(if name == "tollgate" { "65532" } else { "0" });
        wrong.ok((name, "user"), !user.starts_with('0'), "root");
        for port in strings(&service["ports"]) {
            wrong.ok((name, "ports"), port.starts_with("127.0.0.1:"), "reachable from other machines");
        }
        for volume in strings(&service["volumes"]) {
            let source = volume.split(':').next().unwrap();
            if source.starts_with('.') {
                wrong.ok((name, source), project("deploy/compose").join(source).exists(), "not there to be mounted");
                wrong.ok((name, source), volume.ends_with(":ro"), "may be written");
            } else {
                wrong.ok((name, source), compose["volumes"].get(source).is_some(), "no such volume");
            }
        }
        for network in strings(&service["networks"]) {
            wrong.ok((name, network), compose["networks"].get(network).is_some(), "no such network");
        }
        for secret in strings(&service["secrets"]) {
            wrong.ok((name, secret), compose["secrets"].get(secret).is_some(), "no such secret");
        }
    }
    // What a configuration reads from /run/secrets, its service must have been given.
    for (file, service) in
        [("tollgate/tollgate.toml", "tollgate"), ("prometheus.yml", "prometheus"), ("compose.yml", "grafana")]
    {
        for rest in text(&format!("deploy/compose/{file}")).split("/run/secrets/").skip(1) {
            let name = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
            let given = strings(&compose["services"][service]["secrets"]);
            wrong.ok((file, name), given.contains(name), format!("{service} has only {given:?}"));
        }
    }
    let grace = compose["services"]["tollgate"]["stop_grace_period"].as_str().unwrap();
    let (_, longest) = drain(&text("deploy/compose/tollgate/tollgate.toml"));
    wrong.ok(grace, grace.strip_suffix('s').unwrap().parse::<u64>().unwrap() > longest, "shorter than the drain");
    for file in ["datasources.yml", "dashboards.yml"] {
        wrong.eq(file, &yaml(&format!("deploy/compose/grafana/{file}")).unwrap()[0]["apiVersion"], 1);
    }
    wrong.done();
}

/// What the compose file makes of its folder, with loopback in the place of its networks.
struct Composed {
    dir: TempDir,
    config: String,
}

impl Composed {
    fn prepare() -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::copy(project("deploy/compose/prepare"), dir.path().join("prepare")).unwrap();
        accepts(&mut Command::new(dir.path().join("prepare")));
        std::fs::copy(project("deploy/compose/tollgate/users.toml"), dir.path().join("users.toml")).unwrap();
        let config = text("deploy/compose/tollgate/tollgate.toml");
        let config = Self::mounted(&dir, &config).replace("/var/lib/tollgate", "data");
        Self { dir, config }
    }

    /// With the secrets where they are outside of a container.
    fn mounted(dir: &TempDir, config: &str) -> String {
        let secrets = dir.path().join("secrets").display().to_string();
        config
            .replace("/run/secrets/tls_crt", &format!("{secrets}/tls.crt"))
            .replace("/run/secrets/tls_key", &format!("{secrets}/tls.key"))
            .replace("/run/secrets/", &format!("{secrets}/"))
    }
}

#[test]
fn what_the_compose_file_starts_serves_and_is_scraped() {
    let composed = Composed::prepare();
    let secrets = composed.dir.path().join("secrets");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&secrets), mode(&secrets.join("tls.key"))), (0o700, 0o444));
    let token = std::fs::read_to_string(secrets.join("admin_token")).unwrap();
    accepts(&mut Command::new(composed.dir.path().join("prepare")));
    assert_eq!(std::fs::read_to_string(secrets.join("admin_token")).unwrap(), token, "what is there stays");

    std::fs::write(composed.dir.path().join("tollgate.toml"), &composed.config).unwrap();
    check(&composed.dir, &[]);

    let upstream = RecordingUpstream::start();
    let config = composed
        .config
        .replace("0.0.0.0:8443", "127.0.0.1:0")
        .replace("0.0.0.0:9464", "127.0.0.1:0")
        .replace("http://api:9000", &upstream.url());
    let users = text("deploy/compose/tollgate/users.toml");
    let gateway = Builder::new().file("users.toml", users).spawn(&config);
    let port = gateway.address("public").port();
    let curl = |arguments: &[&str]| {
        let done = run(Command::new("curl").args(["-sS", "--cacert"]).arg(secrets.join("tls.crt")).args(arguments));
        assert_eq!(done.code, Some(0), "{done:?}");
        done
    };
    let tokens = curl(&[
        "-u",
        "billing:sample-secret-replace-me",
        &format!("https://localhost:{port}/oauth2/token"),
        "-d",
        "grant_type=password",
        "-d",
        "username=alice",
        "-d",
        "password=open-sesame",
    ]);
    let bearer = format!("Authorization: Bearer {}", tokens.json()["access_token"].as_str().unwrap());
    assert_eq!(curl(&["-H", &bearer, &format!("https://localhost:{port}/orders/7")]).out, "ok");
    assert_eq!(upstream.last().header("X-User"), Some("alice"));

    let Some(mut prometheus) = Prometheus::start(|config| {
        Composed::mounted(&composed.dir, &config)
            .replace("tollgate:9464", &format!("localhost:{}", gateway.admin().port()))
    }) else {
        return;
    };
    prometheus.wait_for_gateway();
}

/// `tollgate check` on the configuration of a folder, which must have nothing to complain about.
fn check(dir: &TempDir, environment: &[(&str, &str)]) {
    let done: Done =
        run(binary().args(["check", "-c", "tollgate.toml"]).current_dir(dir.path()).envs(environment.iter().copied()));
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{}", done.out);
}

// ---- Kubernetes -----------------------------------------------------------------------------------------------------

const VARIANTS: [&str; 2] = ["replicated", "single"];

/// What `kubectl apply -k` would apply, less what it generates.
fn manifests(folder: &str) -> Option<Vec<Value>> {
    let kustomization = yaml(&format!("{folder}/kustomization.yaml"))?.remove(0);
    let mut found = Vec::new();
    for resource in strings(&kustomization["resources"]) {
        match resource.strip_prefix("../") {
            Some(sibling) => found.extend(manifests(&format!("{}/{sibling}", folder.rsplit_once('/').unwrap().0))?),
            None => found.extend(yaml(&format!("{folder}/{resource}"))?),
        }
    }
    Some(found)
}

fn name_of(manifest: &Value) -> String {
    format!("{}/{}", manifest["kind"].as_str().unwrap(), manifest["metadata"]["name"].as_str().unwrap())
}

#[test]
fn manifests_are_what_kubernetes_knows() {
    let Some(validate) = checker("kubernetes-validate") else { return };
    let folder = project("deploy/kubernetes");
    let files: Vec<_> = ["base", "replicated", "single"]
        .iter()
        .flat_map(|part| std::fs::read_dir(folder.join(part)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml") && !path.ends_with("kustomization.yaml"))
        .collect();
    assert!(files.len() > 6, "{files:?}");
    // The oldest that knows everything that is used (ReadWriteOncePod, unhealthyPodEvictionPolicy), and a newer one.
    for version in ["1.29", "1.34"] {
        accepts(Command::new(&validate).args(["--strict", "--quiet", "-k", version]).args(&files));
    }
    // Where there is a kubectl, its own opinion of the whole.
    for variant in VARIANTS {
        let Some(kubectl) = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|folder| folder.join("kubectl"))
            .find(|path| path.exists())
        else {
            return;
        };
        let built = run(Command::new(kubectl).arg("kustomize").arg(folder.join(variant)));
        assert_eq!((built.code, built.err.as_str()), (Some(0), ""));
        let version = format!("image: registry.example.com/tollgate:{}\n", env!("CARGO_PKG_VERSION"));
        assert!(built.out.contains(&version), "{version} in {}", built.out);
        let kinds = built.out.lines().filter(|line| line.starts_with("kind: ")).count();
        let own = manifests(&format!("deploy/kubernetes/{variant}")).unwrap();
        assert_eq!(kinds, own.len() + 1, "the manifests and the generated ConfigMap");
    }
}

#[test]
fn pods_are_restricted_and_end_in_peace() {
    let mut wrong = Wrong::default();
    for variant in VARIANTS {
        let Some(manifests) = manifests(&format!("deploy/kubernetes/{variant}")) else { return };
        let named: BTreeMap<String, &Value> = manifests.iter().map(|manifest| (name_of(manifest), manifest)).collect();
        wrong.eq(
            variant,
            &named["Namespace/tollgate"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
            "restricted",
        );
        let workload = named.get("Deployment/tollgate").or_else(|| named.get("StatefulSet/tollgate")).unwrap();
        let template = &workload["spec"]["template"];
        let (pod, container) = (&template["spec"], &template["spec"]["containers"][0]);
        // The Pod Security Standard `restricted`, and what it leaves open.
        for (value, expected) in [
            (&pod["automountServiceAccountToken"], Value::from(false)),
            (&pod["securityContext"]["runAsNonRoot"], true.into()),
            (&pod["securityContext"]["runAsUser"], 65532.into()),
            (&pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault".into()),
            (&container["securityContext"]["allowPrivilegeEscalation"], false.into()),
            (&container["securityContext"]["readOnlyRootFilesystem"], true.into()),
            (&container["securityContext"]["capabilities"]["drop"], vec!["ALL"].into()),
            (&container["livenessProbe"]["httpGet"]["path"], "/healthz".into()),
            (&container["readinessProbe"]["httpGet"]["path"], "/readyz".into()),
            (&container["resources"]["limits"]["cpu"], Value::Null),
        ] {
            wrong.eq(variant, value, &expected);
        }
        wrong.ok(variant, container["resources"]["limits"]["memory"].is_string(), "no limit of memory");

        // Whoever selects it, selects it.
        let labels = &template["metadata"]["labels"];
        let selectors = ["Service/tollgate", "Service/tollgate-admin"].map(|name| &named[name]["spec"]["selector"]);
        let policy = &named["NetworkPolicy/tollgate"]["spec"]["podSelector"]["matchLabels"];
        let budget = named.get("PodDisruptionBudget/tollgate").map(|budget| &budget["spec"]["selector"]["matchLabels"]);
        for selector in selectors.into_iter().chain([policy]).chain(budget) {
            wrong.eq((variant, "selector"), selector, labels);
        }
        // Ports go by names that the container has.
        let ports: BTreeSet<&str> = items(&container["ports"]).filter_map(|port| port["name"].as_str()).collect();
        let wanted = ["Service/tollgate", "Service/tollgate-admin"];
        let wanted = wanted.iter().flat_map(|name| items(&named[*name]["spec"]["ports"]));
        for port in wanted.map(|port| port["targetPort"].as_str().unwrap()) {
            wrong.ok((variant, port), ports.contains(port), "no such port");
        }
        for volume in items(&container["volumeMounts"]).map(|mount| mount["name"].as_str().unwrap()) {
            let claims = items(&workload["spec"]["volumeClaimTemplates"]).map(|claim| &claim["metadata"]["name"]);
            let mut there = items(&pod["volumes"]).map(|volume| &volume["name"]).chain(claims);
            wrong.ok((variant, volume), there.any(|name| name == volume), "no such volume");
        }

        // A store has one process; gateways without one are several, and are not emptied away together.
        let (replicas, has_budget) = (workload["spec"]["replicas"].as_u64().unwrap(), budget.is_some());
        let config = text(&format!("deploy/kubernetes/{variant}/tollgate.toml"));
        let embedded = config.contains("[store.embedded]");
        wrong.eq((variant, "replicas"), (replicas == 1, has_budget), (embedded, !embedded));
        wrong.eq((variant, "kind"), workload["kind"] == "StatefulSet", embedded);
    }
    wrong.done();
}

#[test]
fn the_configurations_of_the_pods_load_as_they_are_mounted() {
    let identity = Authority::new().identity(&["api.example.com"]);
    for variant in VARIANTS {
        let folder = format!("deploy/kubernetes/{variant}");
        let Some(manifests) = manifests(&folder) else { return };
        let is_workload =
            |manifest: &&Value| ["Deployment", "StatefulSet"].contains(&manifest["kind"].as_str().unwrap());
        let pod = &manifests.iter().find(is_workload).unwrap()["spec"]["template"]["spec"];
        let dir = TempDir::new().unwrap();
        // A mounted folder is a link to a link: the content of all files is exchanged at once.
        let content = dir.path().join("..2026_11_25");
        std::fs::create_dir(&content).unwrap();
        symlink("..2026_11_25", dir.path().join("..data")).unwrap();
        let put = |path: &str, text: &str| {
            let place = content.join(path);
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::write(place, text).unwrap();
            let top = path.split('/').next().unwrap();
            let _already = symlink(format!("..data/{top}"), dir.path().join(top));
        };
        let kustomization = yaml(&format!("{folder}/kustomization.yaml")).unwrap().remove(0);
        for source in items(&pod["volumes"][0]["projected"]["sources"]) {
            for generated in items(&kustomization["configMapGenerator"]) {
                if generated["name"] == source["configMap"]["name"] {
                    strings(&generated["files"]).iter().for_each(|name| put(name, &text(&format!("{folder}/{name}"))));
                }
            }
            for item in items(&source["secret"]["items"]) {
                let users = text("config/users.toml");
                let value = match item["key"].as_str().unwrap() {
                    "tls.crt" => &identity.cert,
                    "tls.key" => &identity.key,
                    "users.toml" => &users,
                    other => panic!("what is {other}?"),
                };
                put(item["path"].as_str().unwrap(), value);
            }
        }
        let variables: Vec<&str> =
            items(&pod["containers"][0]["env"]).map(|variable| variable["name"].as_str().unwrap()).collect();
        let environment: Vec<(&str, &str)> =
            variables.iter().map(|name| (*name, "0123456789abcdef0123456789abcdef")).collect();
        check(&dir, &environment);

        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        let (delay, longest) = drain(&text(&format!("{folder}/tollgate.toml")));
        assert!(grace > longest, "{variant}: {grace} s to stop, {longest} s to drain");
        let probe = &pod["containers"][0]["readinessProbe"];
        let noticed = probe["periodSeconds"].as_u64().unwrap() * probe["failureThreshold"].as_u64().unwrap();
        assert!(delay > noticed, "{variant}: {delay} s of drain_delay, {noticed} s until it is noticed");
    }
}
