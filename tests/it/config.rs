//! Every diagnostic of the configuration, as a person sees it: each `tests/config/*.toml` is loaded and what it has to say is
//! compared with the `.expected` file beside it. `UPDATE_EXPECTED=1` writes those files anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use tollgate::config::{self, Diagnostics};

fn toml_files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of the fixtures")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

/// Files that others name.
fn is_included(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains("users"))
}

/// What is said of a part that may be left out of the program.
fn is_left_out(path: &Path) -> bool {
    !cfg!(feature = "otlp") && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("otlp"))
}

#[test]
fn every_diagnostic_reads_as_expected() {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut wrong = String::new();
    for path in toml_files("tests/config").iter().filter(|path| !is_included(path) && !is_left_out(path)) {
        let said = match config::load(path) {
            Ok((_, warnings)) if warnings.is_empty() => "ok\n".to_owned(),
            Ok((_, warnings)) => format!("ok\n\n{}\n", Diagnostics(warnings)),
            Err(problems) => format!("{problems}\n"),
        };
        let expected_path = path.with_extension("expected");
        if update {
            std::fs::write(&expected_path, &said).expect("a writable folder");
            continue;
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if said != expected {
            write!(wrong, "=== {}\n--- expected\n{expected}\n--- said\n{said}\n", path.display()).expect("a string");
        }
    }
    assert!(wrong.is_empty(), "{wrong}\nUPDATE_EXPECTED=1 accepts what is said now");
}

#[test]
fn every_file_that_is_shipped_loads() {
    for path in toml_files("config").iter().filter(|path| !is_included(path)) {
        if let Err(problems) = config::load(path) {
            panic!("{}: {problems}", path.display());
        }
    }
}

#[test]
fn the_reference_names_every_key() {
    let reference = std::fs::read_to_string("config/reference.toml").expect("the reference");
    let users = std::fs::read_to_string("config/users.toml").expect("the sample users");
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words: std::collections::HashSet<&str> =
        reference.split(|c| !is_word(c)).chain(users.split(|c| !is_word(c))).collect();
    let schema = config::schema();
    let tables = schema["$defs"].as_object().expect("the tables").values().chain([&schema]);
    let mut missing = Vec::new();
    for table in tables {
        for key in table["properties"].as_object().into_iter().flat_map(|properties| properties.keys()) {
            if !words.contains(key.as_str()) {
                missing.push(key.clone());
            }
        }
    }
    assert!(missing.is_empty(), "not in config/reference.toml: {missing:?}");
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let text = r#"
        [server]
        public_url = "https://api.example.com"
        workers = 3 # the default depends on the machine
        [listeners.public]
        address = "127.0.0.1:0"
        [authorization_server]
        [issuers.corp.jwt]
        issuer = "https://login.corp.example"
        audience = ["https://api.example.com"]
        jwks_url = "https://login.corp.example/keys"
        [upstreams.orders]
        servers = ["http://127.0.0.1:9000"]
        [[routes]]
        path = "/orders/**"
        upstream = "orders"
        allow = [{ authenticated = true }]
    "#;
    let (config, _) = config::load_text(text, Path::new("conf/tollgate.toml")).expect("a correct configuration");
    let shown = format!("{config:#?}");
    compare("tests/expected/config-defaults.txt", &shown);
}

#[test]
fn the_checker_answers_by_its_exit_status_and_in_json() {
    let check = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate")).args(arguments).output();
        let output = output.expect("the program runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
    };
    let (status, text) = check(&["check", "-c", "config/tollgate.toml"]);
    assert_eq!(status, Some(0), "{text}");
    let (status, text) = check(&["check", "-c", "tests/config/five-mistakes.toml", "--format", "json"]);
    assert_eq!(status, Some(1));
    let found: serde_json::Value = serde_json::from_str(&text).expect("one JSON document");
    assert_eq!(found.as_array().map(Vec::len), Some(5));
    assert_eq!(
        found[0],
        serde_json::json!({
            "severity": "error",
            "code": "unknown-key",
            "message": "unknown key `public_ur`",
            "file": "tests/config/five-mistakes.toml",
            "line": 2,
            "column": 1,
            "help": "did you mean `public_url`?",
        })
    );
    assert_eq!(check(&["check", "-c", "tests/config/no-such-file.toml"]).0, Some(1));
    assert_eq!(check(&["check", "--no-such-option"]).0, Some(2));
    assert_eq!(check(&["frobnicate"]).0, Some(2));
}

#[test]
fn rule_tests_are_run_by_the_checker() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["check", "-c", "tests/config/rule-tests-run.toml"])
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    compare("tests/expected/rule-tests.txt", &String::from_utf8(output.stdout).expect("UTF-8"));
}

#[test]
fn the_access_matrix() {
    let routes = |format: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["routes", "-c", "config/reference.toml"])
            .args(format)
            .output()
            .expect("the program runs");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let all = [&[][..], &["--format", "markdown"], &["--format", "json", "--public"]].map(routes).join("\n");
    compare("tests/expected/routes.txt", &all);
}

#[test]
fn certificates_are_read_with_the_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a writable folder");
    let certificate = |name: &str, last_year: i32| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::new(vec!["api.example.com".to_owned()]).expect("parameters");
        parameters.not_after = rcgen::date_time_ymd(last_year, 1, 1);
        write(&format!("{name}.crt"), &parameters.self_signed(&key).expect("a certificate").pem());
        write(&format!("{name}.key"), &key.serialize_pem());
    };
    certificate("good", 4000);
    certificate("old", 2020);
    let load = |cert: &str, key: &str| {
        let text = format!(
            "[listeners.public]\naddress = \"127.0.0.1:8443\"\n\
             tls = {{ certificates = [{{ cert = \"{cert}\", key = \"{key}\" }}], client_auth = {{ ca = \"{cert}\" }} }}\n"
        );
        match config::load_text(&text, &folder.path().join("tollgate.toml")) {
            Ok((_, warnings)) => warnings.iter().map(|warning| warning.message.clone()).collect::<Vec<_>>(),
            Err(Diagnostics(problems)) => problems.iter().map(|problem| problem.message.clone()).collect(),
        }
    };
    assert_eq!(load("good.crt", "good.key"), [""; 0]);
    assert_eq!(load("old.crt", "old.key"), ["the certificate `old.crt` has expired"]);
    let mismatch = load("good.crt", "old.key");
    assert!(mismatch[0].contains("does not belong to the certificate"), "{mismatch:?}");
}

#[test]
fn a_secret_in_a_file_loses_the_newline_at_its_end_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "[listeners.public]\naddress = \"127.0.0.1:8080\"\n[admin]\ntoken = { file = \"token\" }\n";
    for (content, expected) in [("abc\n", "abc"), ("abc\r\n", "abc"), (" abc \n\n", " abc \n"), ("abc", "abc")] {
        std::fs::write(folder.path().join("token"), content).expect("a writable folder");
        let (config, _) =
            config::load_text(text, &folder.path().join("tollgate.toml")).expect("a correct configuration");
        let token = config.admin.token.expect("a token");
        assert_eq!(token.expose(), expected);
        assert_eq!(config.files, [folder.path().join("token")]);
    }
}

/// Compares with a file, or writes it.
fn compare(path: &str, said: &str) {
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(path, said).expect("a writable folder");
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert!(said == expected, "{path} differs; UPDATE_EXPECTED=1 accepts what is said now:\n{said}");
}
