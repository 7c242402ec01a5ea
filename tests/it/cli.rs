//! The commands: what they print, and how they end.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::command::{check, explain, files, run, run_in};
use crate::support::gateway::binary;
use crate::support::server::{CLIENTS, SECRET, users};
use crate::support::site::OPEN;
use crate::support::{Mint, Site, Wrong};

const ROUTES: &str = r#"
[[routes]]
name = "orders"
hosts = ["api.test"]
path = "/orders/**"
upstream = "app"
allow = [
  { methods = ["GET"], scopes = ["orders:read"] },
  { methods = ["POST"], scopes = ["orders:write"], roles = ["clerk"] },
]
[routes.forward]
strip_prefix = "/orders"
headers = { "X-User" = "{sub}" }
[[routes]]
name = "home"
path = "/"
upstream = "app"
allow = [{ public = true }]
"#;

fn config(more: &str) -> String {
    Site::builder().more(ROUTES).more(more).config()
}

fn jwks() -> String {
    Mint::new().jwks()
}

#[test]
fn check_accepts_a_good_file() {
    let done = check(&config(""), &[("jwks.json", &jwks())], &[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let done = check(&config(""), &[("jwks.json", &jwks())], &["--format", "json"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    done.json();
}

/// Five mistakes of five kinds, and the line each stands on.
fn five_mistakes() -> (String, Vec<usize>) {
    let mut text = config("");
    for (from, to) in [
        ("[listeners.main]\naddress = \"127.0.0.1:0\"", "[listeners.main]\naddres = \"127.0.0.1:0\""),
        ("methods = [\"GET\"], scopes", "methods = [\"GET\"], scpoes"),
        ("drain_timeout = \"2s\"", "drain_timeout = \"2 bananas\""),
        ("name = \"home\"\npath = \"/\"\nupstream = \"app\"", "name = \"home\"\npath = \"/\"\nupstream = \"ap\""),
        ("strip_prefix = \"/orders\"", "strip_prefix = 7"),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    let line = |part: &str| text.lines().position(|line| line.contains(part)).unwrap() + 1;
    let lines = ["addres =", "scpoes", "bananas", "upstream = \"ap\"", "strip_prefix = 7"].map(line).to_vec();
    (text.clone(), lines)
}

#[test]
fn check_reports_five_mistakes_at_once() {
    let (text, lines) = five_mistakes();
    let done = check(&text, &[("jwks.json", &jwks())], &[]);
    assert_eq!(done.code, Some(1));
    let all = done.all();
    let mut wrong = Wrong::default();
    for line in &lines {
        wrong.ok(line, all.contains(&format!("tollgate.toml:{line}:")), "not reported");
    }
    for text in ["addres", "did you mean", "help:", "^", "bananas", "`ap`"] {
        wrong.ok(text, all.contains(text) || all.contains(&text.replace('`', "\"")), "not mentioned");
    }
    wrong.ok("no colours in a pipe", !all.contains('\u{1b}'), "an escape sequence");
    if !lines.is_empty() {
        eprintln!("{all}");
    }
    wrong.done();
}

#[test]
fn check_reports_as_json() {
    let (text, lines) = five_mistakes();
    let done = check(&text, &[("jwks.json", &jwks())], &["--format", "json"]);
    assert_eq!(done.code, Some(1));
    let report = done.json();
    let list = match &report {
        Value::Array(list) => list.clone(),
        other => other["diagnostics"].as_array().unwrap_or_else(|| panic!("{other}")).clone(),
    };
    let found: Vec<_> = list.iter().filter_map(|one| one["line"].as_u64()).collect();
    for line in lines {
        assert!(found.contains(&(line as u64)), "line {line} in {report}");
    }
    for one in &list {
        assert!(one["column"].as_u64().is_some_and(|column| column > 0), "{one}");
        assert!(one["file"].as_str().is_some_and(|file| file.ends_with("tollgate.toml")), "{one}");
        assert!(one["message"].is_string(), "{one}");
    }
}

#[test]
fn check_and_run_on_files_that_are_none() {
    let mut wrong = Wrong::default();
    for command in ["check", "run", "routes"] {
        let done = run(&[command, "-c", "/nowhere/tollgate.toml"]);
        wrong.eq((command, "missing"), done.code, Some(1));
        wrong.ok((command, "missing"), done.all().contains("/nowhere/tollgate.toml"), &done);
        for (name, text) in
            [("empty", ""), ("not TOML", "[server\n"), ("binary", "\u{0}\u{1}"), ("repeated", "[server]\n[server]\n")]
        {
            let done = run_in(files(text, &[]).path(), &[command, "-c", "tollgate.toml"], "");
            wrong.eq((command, name), done.code, Some(1));
            wrong.ok((command, name), !done.all().contains("panicked"), &done);
        }
    }
    wrong.done();
}

#[test]
fn check_runs_the_tests_of_the_file() {
    let tests = r#"
[[tests]]
request = "GET /orders/7"
token = { issuer = "corp", sub = "alice", scope = "orders:read" }
expect = 200
[[tests]]
request = "GET /orders/7"
expect = 401
[[tests]]
request = "POST /orders/7"
token = { issuer = "corp", sub = "alice", scope = "orders:write" }
expect = 403
[[tests]]
request = "PUT /orders/7"
expect = 405
[[tests]]
request = "GET /nowhere"
expect = 404
[[tests]]
request = "GET /orders/../x"
expect = 400
"#;
    let on_host = config(tests).replace("hosts = [\"api.test\"]", "");
    let good = check(&on_host, &[("jwks.json", &jwks())], &[]);
    assert_eq!(good.code, Some(0), "{good:?}");
    let mut wrong = Wrong::default();
    for expect in ["200", "401", "403", "405", "404", "400"] {
        let other = if expect == "200" { "403" } else { "200" };
        let bad = on_host.replacen(&format!("expect = {expect}"), &format!("expect = {other}"), 1);
        let done = check(&bad, &[("jwks.json", &jwks())], &[]);
        wrong.eq(expect, done.code, Some(1));
        wrong.ok(expect, done.all().contains("tollgate.toml:") && done.all().contains(expect), &done);
    }
    wrong.done();
}

#[test]
fn warnings_do_not_fail() {
    let text = config("").replacen(
        "[listeners.main]\naddress = \"127.0.0.1:0\"",
        "[listeners.main]\naddress = \"0.0.0.0:0\"",
        1,
    );
    let done = check(&text, &[("jwks.json", &jwks())], &[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.all().to_lowercase().contains("warning"), "{done:?}");
}

#[test]
fn explain_tells_what_decides() {
    let text = config("");
    let jwks = jwks();
    let ask = |more: &[&str]| explain(&text, &[("jwks.json", &jwks)], more);
    let mut wrong = Wrong::default();
    let read = r#"{"sub":"alice","scope":"orders:read","iss":"https://issuer.test"}"#;
    for (args, parts) in [
        (&["GET", "http://api.test/orders/7"][..], &["orders", "401", "orders:read"][..]),
        (&["GET", "http://api.test/orders/7", "--claims", read], &["orders", "200", "app", "/7"]),
        (&["POST", "http://api.test/orders/7", "--claims", read], &["orders", "403", "clerk"]),
        (&["PUT", "http://api.test/orders/7"], &["orders", "405", "GET"]),
        (&["GET", "http://api.test/nowhere"], &["404"]),
        (&["GET", "http://api.test/orders/../x"], &["400"]),
        (&["GET", "http://x.test/"], &["home", "200"]),
    ] {
        let done = ask(args);
        wrong.ok(args, done.code == Some(0) || done.code == Some(1), &done);
        for part in parts {
            wrong.ok((args, part), done.out.contains(part), &done.out);
        }
    }
    wrong.eq("bad claims", ask(&["GET", "http://api.test/", "--claims", "{"]).code, Some(2));
    wrong.eq("no URL", ask(&["GET"]).code, Some(2));
    wrong.done();
}

#[test]
fn explain_judges_a_token_offline() {
    let mint = Mint::new();
    let text = config("");
    let ask = |token: &str| {
        explain(&text, &[("jwks.json", &mint.jwks())], &["GET", "http://api.test/orders/7", "--token", token])
    };
    let mut wrong = Wrong::default();
    for (name, token, status) in [
        ("good", mint.scoped("orders:read"), "200"),
        ("poor", mint.scoped("x"), "403"),
        ("forged", Mint::new().scoped("orders:read"), "401"),
        ("expired", mint.token(&json!({"exp": 1, "scope": "orders:read"})), "401"),
    ] {
        let done = ask(&token);
        wrong.ok(name, done.out.contains(status), &done);
        wrong.ok((name, "the token is not printed"), !done.all().contains(&token), "it is");
    }
    let dir = files(&text, &[("jwks.json", &mint.jwks())]);
    let asked = ["explain", "-c", "tollgate.toml", "GET", "http://api.test/orders/7", "--token", "-"];
    let done = run_in(dir.path(), &asked, &format!("{}\n", mint.scoped("orders:read")));
    wrong.ok("from standard input", done.out.contains("200 (forwarded"), &done);
    wrong.ok("the cause is", ask(&mint.token(&json!({"exp": 1}))).out.contains("expired"), "not told");
    wrong.done();
}

#[test]
fn explain_asks_no_issuer_and_says_so() {
    let text = config("").replace("roles = [", "issuers = [\"corp\"], roles = [")
        + r#"
[issuers.legacy.introspection]
url = "http://127.0.0.1:9/introspect"
client_id = "gateway"
client_secret = { file = "jwks.json" }
audience = ["https://api.example.com"]
"#;
    let ask = |more: &[&str]| {
        let question = [&["GET", "http://api.test/orders/7"], more].concat();
        explain(&text, &[("jwks.json", &Mint::new().jwks())], &question).all()
    };
    let told = ask(&["--token", "opaque"]);
    assert!(told.contains("token: for legacy to know; say what it stands for with --claims"), "{told}");
    assert!(told.contains("status: 503"), "{told}");
    let told = ask(&["--claims", r#"{"issuer": "legacy", "sub": "alice", "scope": "orders:read"}"#]);
    assert!(told.contains("issuer legacy, user alice") && told.contains("status: 200"), "{told}");
}

#[test]
fn routes_prints_the_access_matrix() {
    let dir = files(&config(""), &[("jwks.json", &jwks())]);
    let ask = |more: &[&str]| run_in(dir.path(), &[&["routes", "-c", "tollgate.toml"], more].concat(), "");
    let mut wrong = Wrong::default();
    for format in [&[][..], &["--format", "table"], &["--format", "markdown"], &["--format", "json"]] {
        let done = ask(format);
        wrong.eq(format, done.code, Some(0));
        for part in ["orders", "home", "orders:read", "POST", "clerk"] {
            wrong.ok((format, part), done.out.contains(part), &done.out);
        }
    }
    serde_json::from_str::<Value>(&ask(&["--format", "json"]).out).unwrap();
    wrong.ok("markdown", ask(&["--format", "markdown"]).out.contains("| "), "no table");
    let public = ask(&["--public"]).out;
    wrong.ok("public", public.contains("home") && !public.contains("orders:read"), &public);
    wrong.eq("unknown format", ask(&["--format", "xml"]).code, Some(2));
    wrong.done();
}

#[test]
fn client_secret_and_hash_password_make_what_the_gateway_takes() {
    let done = run(&["client-secret"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let hash = done
        .all()
        .split_whitespace()
        .map(|word| word.trim_matches(['"', '`', ',']))
        .find(|word| word.starts_with("sha256:"))
        .unwrap()
        .to_owned();
    let secret = done
        .all()
        .split_whitespace()
        .map(|word| word.trim_matches(['"', '`', ',']).to_owned())
        .find(|word| word.len() >= 40 && word.bytes().all(|b| b.is_ascii_alphanumeric()))
        .unwrap();
    assert_ne!(run(&["client-secret"]).out, done.out);

    let hashed = run_in(std::path::Path::new("."), &["hash-password"], "päss wörd\n");
    assert_eq!(hashed.code, Some(0), "{hashed:?}");
    let phc = hashed.out.trim();
    assert!(phc.starts_with("$argon2id$v=19$"), "{phc}");
    assert!(!hashed.all().contains("päss"));

    let server = format!(
        "[authorization_server]\nsigning_algorithm = \"ES256\"\n[authorization_server.users.file]\npath = \"users.toml\"\n\
         [authorization_server.clients.app]\nsecret = {{ hash = \"{hash}\" }}\ngrants = [\"password\"]\nscopes = [\"a\"]\ndefault_scopes = [\"a\"]\n"
    );
    let users = format!("[[user]]\nname = \"u\"\npassword = {{ hash = '{phc}' }}\nscopes = [\"a\"]\n");
    let site = Site::builder().more(OPEN).more(&server).file("users.toml", users).start();
    let ask = |secret: &str, password: &str| {
        use crate::support::server::{basic, password_form, token_request};
        let request = token_request(&password_form("u", password, &[])).header("Authorization", &basic("app", secret));
        site.send(&request).status
    };
    assert_eq!(ask(&secret, "päss wörd"), 200);
    assert_eq!(ask(&secret, "päss wörd\n"), 400);
    assert_eq!(ask("x", "päss wörd"), 401);
}

#[test]
fn hash_password_refuses_nothing() {
    for input in ["", "\n"] {
        let done = run_in(std::path::Path::new("."), &["hash-password"], input);
        assert_eq!(done.code, Some(1), "{done:?}");
    }
}

#[test]
fn keygen() {
    let mut wrong = Wrong::default();
    for (args, kind) in [
        (&["keygen"][..], ""),
        (&["keygen", "--alg", "ES256"], "EC"),
        (&["keygen", "--alg", "RS256"], "RSA"),
        (&["keygen", "--alg", "EdDSA"], "OKP"),
    ] {
        let done = run(args);
        wrong.eq(args, done.code, Some(0));
        wrong.ok(args, done.out.contains("-----BEGIN PRIVATE KEY-----") && done.out.ends_with('\n'), &done.out);
        let done = run(&[args, &["--jwk"]].concat());
        wrong.eq((args, "jwk"), done.code, Some(0));
        // The key set member may be among other lines.
        let start = done.out.find('{').unwrap_or(0);
        let end = done.out.rfind('}').map_or(0, |end| end + 1);
        let jwk: Value = serde_json::from_str(&done.out[start..end]).unwrap_or_default();
        wrong.ok((args, "jwk"), jwk["kty"].is_string() && (kind.is_empty() || jwk["kty"] == kind), &done.out);
        wrong.ok((args, "only the public half"), jwk.get("d").is_none(), &jwk);
    }
    wrong.eq("unknown", run(&["keygen", "--alg", "HS256"]).code, Some(2));
    wrong.done();
}

#[test]
fn schema_describes_the_configuration() {
    let done = run(&["schema"]);
    assert_eq!(done.code, Some(0));
    let schema = done.json();
    assert!(schema["$schema"].is_string());
    for name in ["server", "listeners", "routes", "upstreams", "issuers", "authorization_server"] {
        assert!(schema["properties"][name].is_object(), "{name}");
    }
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let mut wrong = Wrong::default();
    for args in [
        &[][..],
        &["nonsense"],
        &["run", "--nonsense"],
        &["check", "-c"],
        &["check", "--format", "xml"],
        &["explain"],
        &["completions", "nosh"],
    ] {
        let done = run(args);
        wrong.eq(args, done.code, Some(2));
        wrong.ok(args, !done.err.is_empty() && done.out.is_empty(), &done);
    }
    for args in [&["--help"][..], &["--version"], &["run", "--help"], &["check", "--help"], &["completions", "bash"]] {
        let done = run(args);
        wrong.eq(args, done.code, Some(0));
        wrong.ok(args, !done.out.is_empty(), &done);
    }
    wrong.ok("the version", run(&["--version"]).out.contains(env!("CARGO_PKG_VERSION")), "not told");
    wrong.done();
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let dir = files(&config(""), &[("jwks.json", &jwks())]);
    let mut wrong = Wrong::default();
    for args in
        [&["schema"][..], &["--help"], &["routes", "-c", "tollgate.toml"], &["completions", "bash"], &["keygen"]]
    {
        let mut child =
            binary().args(args).current_dir(dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        wrong.ok(
            args,
            !err.contains("panicked") && output.status.code() != Some(101),
            format!("{:?} {err}", output.status),
        );
    }
    wrong.done();
}

#[test]
fn secrets_come_from_where_the_file_says_and_missing_ones_are_errors() {
    let text = Site::builder().more(CLIENTS).config();
    let others = [("jwks.json", jwks()), ("users.toml", users())];
    let others: Vec<_> = others.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let missing = check(&text, &others, &[]);
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.all().contains("CLIENT_SECRET"), "{missing:?}");
    let with_file = text.replace("{ env = \"CLIENT_SECRET\" }", "{ file = \"secret\" }");
    let absent = check(&with_file, &others, &[]);
    assert_eq!(absent.code, Some(1), "{absent:?}");
    assert!(absent.all().contains("secret"), "{absent:?}");
    let secret = format!("{SECRET}\n");
    let present = check(&with_file, &[&others[..], &[("secret", secret.as_str())]].concat(), &[]);
    assert_eq!(present.code, Some(0), "{present:?}");
    assert!(!present.all().contains(SECRET));
    let bare = check(&text.replace("{ env = \"CLIENT_SECRET\" }", "\"bare\""), &others, &[]);
    assert_eq!(bare.code, Some(1), "{bare:?}");
}

/// A process that is ended with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0.id().cast_signed()).unwrap();
        let _gone = kill_process(pid, Signal::TERM);
        let _ended = self.0.wait();
    }
}

#[test]
fn demo_starts_with_nothing_and_its_curl_lines_work() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut child =
        binary().arg("demo").current_dir(dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (sender, lines) = mpsc::channel();
    let follow = |pipe: Box<dyn Read + Send>| {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _ended = sender.send(line);
            }
        });
    };
    follow(Box::new(child.stdout.take().unwrap()));
    follow(Box::new(child.stderr.take().unwrap()));
    let _running = Running(child);

    // Everything until it has been quiet for a moment.
    let mut text = Vec::new();
    let mut patience = Duration::from_secs(20);
    while let Ok(line) = lines.recv_timeout(patience) {
        patience =
            Duration::from_millis(if text.iter().any(|line: &String| line.contains("curl")) { 700 } else { 20_000 });
        text.push(line);
    }
    let printed: Vec<String> = text.iter().filter(|line| !line.trim_start().starts_with('{')).cloned().collect();
    let script = shell_lines(&printed);
    assert!(script.len() >= 2, "no curl lines:\n{}", text.join("\n"));
    let joined = format!("set -e\n{}\n", script.join("\n"));
    let output = Command::new("bash").arg("-c").arg(&joined).current_dir(dir.path()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{joined}\n--- {out}\n--- {err}");
    assert!(!out.trim().is_empty(), "{joined}\n--- {err}");
}

/// The lines that a person would copy: those with curl, their continuations and assignments.
fn shell_lines(text: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut more = false;
    for line in text {
        let line = line.trim_start().trim_start_matches("$ ");
        let starts = line.starts_with("curl ") || line.contains("$(curl ") || line.contains("=$(");
        if more || starts {
            more = line.ends_with('\\') || (line.matches("$(").count() > line.matches(')').count());
            lines.push(line.to_owned());
        }
    }
    lines
}
