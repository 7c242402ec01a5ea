//! Programs of others that judge files or run beside the gateway: where they are, and how they are asked.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::command::Done;
use super::http::{Req, send};
use super::public::{free_port, installed};
use super::wire::PATIENCE;

/// A file of the project.
pub fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn text(path: &str) -> String {
    std::fs::read_to_string(project(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// One of those that tests/deploy/requirements.txt names.
pub fn checker(name: &str) -> Option<PathBuf> {
    installed(project("target/clients/checkers/bin").join(name))
}

pub fn run(command: &mut Command) -> Done {
    command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}")).into()
}

/// Fails the test with what the program has to say, unless it is content.
pub fn accepts(command: &mut Command) {
    let done = run(command);
    assert_eq!(done.code, Some(0), "{command:?}\n{}", done.all());
}

/// The documents of a YAML file; `None` without the reader, which tests/run installs.
pub fn yaml(path: &str) -> Option<Vec<Value>> {
    const TO_JSON: &str = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(open(sys.argv[1]))), sys.stdout)";
    let done = run(Command::new(checker("python")?).args(["-c", TO_JSON]).arg(project(path)));
    assert_eq!(done.code, Some(0), "{path}: {}", done.err);
    Some(done.json().as_array().unwrap().clone())
}

/// A program that ends with the test.
pub struct Background(Child);

impl Background {
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")))
    }

    /// Waits for a condition that the program brings about.
    pub fn wait<T>(&mut self, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = ready() {
                return found;
            }
            assert_eq!(self.0.try_wait().unwrap(), None, "it ended before: {what}");
            assert!(Instant::now() < deadline, "never so: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prometheus itself, scraping.
pub struct Prometheus {
    pub process: Background,
    port: u16,
    _dir: TempDir,
}

impl Prometheus {
    /// By the configuration of deploy/compose after `change`, often enough for a test.
    pub fn start(change: impl FnOnce(String) -> String) -> Option<Self> {
        let program = installed("prometheus")?;
        let (dir, port) = (TempDir::new().unwrap(), free_port());
        let config = text("deploy/compose/prometheus.yml")
            .replace("interval: 15s", "interval: 200ms")
            .replace("/etc/prometheus/rules/", &format!("{}/", project("deploy/prometheus").display()));
        std::fs::write(dir.path().join("prometheus.yml"), change(config)).unwrap();
        let process = Background::start(Command::new(program).current_dir(dir.path()).args([
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--log.level=error",
            &format!("--web.listen-address=127.0.0.1:{port}"),
        ]));
        let mut own = Self { process, port, _dir: dir };
        own.process.wait("Prometheus listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Some(own)
    }

    /// The samples of an instant; an expression that is none fails the test.
    pub fn query(&self, expression: &str) -> Vec<Value> {
        let query = super::server::encode(&[("query", expression)]);
        let address = ([127, 0, 0, 1], self.port).into();
        let answer = send(address, &Req::get(&format!("/api/v1/query?{query}")));
        assert_eq!(answer.status, 200, "{expression}: {}", answer.text());
        answer.json()["data"]["result"].as_array().unwrap().clone()
    }

    pub fn wait_for_gateway(&mut self) {
        let Self { process, port, .. } = self;
        let address = ([127, 0, 0, 1], *port).into();
        process.wait("the gateway is scraped", || {
            let answer = send(address, &Req::get("/api/v1/query?query=up%7Bjob%3D%22tollgate%22%7D"));
            (answer.status == 200 && answer.json()["data"]["result"][0]["value"][1] == "1").then_some(())
        });
    }
}
