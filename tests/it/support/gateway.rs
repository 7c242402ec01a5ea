//! The real binary, running on free ports.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::http::{Conn, Req, Response, send};
use super::metrics::Metrics;
use super::secrets;
use super::wire::PATIENCE;

pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// What a configuration needs beside itself.
pub struct Builder {
    pub dir: TempDir,
    env: Vec<(String, String)>,
}

impl Builder {
    pub fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), env: Vec::new() }
    }

    /// A file beside the configuration.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        secrets::keep_keys(&String::from_utf8_lossy(content.as_ref()));
        write(self.dir.path(), name, content);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        secrets::keep_variable(name, value);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs the gateway and waits until it says that it is ready.
    pub fn start(self, config: &str) -> Gateway {
        let gateway = self.spawn(config);
        gateway.wait_ready();
        gateway
    }

    /// Runs the gateway and waits for its listeners only.
    pub fn spawn(self, config: &str) -> Gateway {
        write(self.dir.path(), "tollgate.toml", config);
        secrets::keep_configured(config, self.dir.path());
        let (child, output) = launch(self.dir.path(), &self.env);
        let (env, names) = (self.env, listeners(config));
        let mut gateway = Gateway {
            child: Mutex::new(child),
            output,
            before: String::new(),
            addresses: HashMap::new(),
            env,
            ahead: 0,
            dir: self.dir,
        };
        gateway.learn_addresses(&names);
        gateway
    }
}

/// What moves the clock of a process: only the time of day, so that waiting still works.
const FAKE_TIME: [&str; 4] = ["LD_PRELOAD", "FAKETIME", "DONT_FAKE_MONOTONIC", "FAKETIME_DONT_FAKE_MONOTONIC"];

fn fake_time_library() -> &'static str {
    const NAMES: [&str; 3] = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/faketime/libfaketimeMT.so.1",
    ];
    let found = NAMES.into_iter().find(|name| Path::new(name).exists());
    found.unwrap_or_else(|| panic!("this test needs libfaketime, which tests/run installs"))
}

fn launch(dir: &Path, env: &[(String, String)]) -> (Child, Arc<Output>) {
    let mut child = binary()
        .args(["run", "-c", "tollgate.toml"])
        .current_dir(dir)
        .envs(env.iter().cloned())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = Arc::new(Output::default());
    output.follow(child.stdout.take().unwrap());
    output.follow(child.stderr.take().unwrap());
    (child, output)
}

fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn listeners(config: &str) -> Vec<String> {
    let table: toml::Table = config.parse().unwrap_or_else(|e| panic!("{e} in {config}"));
    let named = table.get("listeners").and_then(toml::Value::as_table).map(|t| t.keys().cloned().collect::<Vec<_>>());
    named.unwrap_or_default().into_iter().chain(["admin".to_owned()]).collect()
}

/// A field of a JSON log line, whether the event is flattened or stands under `fields`.
pub fn field<'a>(line: &'a Value, name: &str) -> Option<&'a str> {
    value(line, name)?.as_str()
}

pub fn value<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    line.get(name).or_else(|| line.get("fields")?.get(name))
}

/// Everything the process wrote, line by line.
#[derive(Default)]
struct Output {
    lines: Mutex<(Vec<String>, usize)>,
    changed: Condvar,
}

impl Output {
    fn follow(self: &Arc<Self>, pipe: impl Read + Send + 'static) {
        let output = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                output.lines.lock().unwrap().0.push(String::from_utf8_lossy(&line).into_owned());
                output.changed.notify_all();
            }
            output.lines.lock().unwrap().1 += 1;
            output.changed.notify_all();
        });
    }
}

pub struct Gateway {
    child: Mutex<Child>,
    output: Arc<Output>,
    /// What processes wrote that ended before.
    before: String,
    addresses: HashMap<String, SocketAddr>,
    env: Vec<(String, String)>,
    ahead: u64,
    pub dir: TempDir,
}

impl Gateway {
    fn learn_addresses(&mut self, names: &[String]) {
        for listener in names {
            let line = self.wait_log(&format!("listener {listener} is ready"), |log| {
                field(log, "event") == Some("listener.ready") && field(log, "listener") == Some(listener)
            });
            let address = field(&line, "address").unwrap().parse().unwrap();
            self.addresses.insert(listener.clone(), address);
        }
    }

    /// Ends the process and starts another on the same files. Addresses change.
    pub fn restart(&mut self) {
        self.terminate();
        self.start_again();
    }

    /// Kills the process where it stands.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        self.wait_exit();
    }

    /// Starts a process that ended, on the same files. Addresses change.
    pub fn start_again(&mut self) {
        self.wait_exit();
        let (child, output) = launch(self.dir.path(), &self.env);
        self.before += &self.output();
        (*self.child.lock().unwrap(), self.output) = (child, output);
        let names: Vec<String> = self.addresses.keys().cloned().collect();
        self.learn_addresses(&names);
        self.wait_ready();
    }

    /// Starts again with a clock that is ahead by that much more.
    pub fn later(&mut self, seconds: u64) {
        self.ahead += seconds;
        self.env.retain(|(name, _)| !FAKE_TIME.contains(&name.as_str()));
        let values = [fake_time_library().to_owned(), format!("+{}s", self.ahead), "1".to_owned(), "1".to_owned()];
        self.env.extend(FAKE_TIME.iter().map(|name| (*name).to_owned()).zip(values));
        self.restart();
    }

    pub fn address(&self, listener: &str) -> SocketAddr {
        *self.addresses.get(listener).unwrap_or_else(|| panic!("no listener {listener}"))
    }

    pub fn admin(&self) -> SocketAddr {
        self.address("admin")
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        write(self.dir.path(), name, content);
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    fn wait_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while send(self.admin(), &Req::get("/readyz").host("localhost")).status != 200 {
            assert!(Instant::now() < deadline, "not ready:\n{}", self.output());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A request to the admin listener.
    pub fn ask_admin(&self, target: &str) -> Response {
        send(self.admin(), &Req::get(target).host("localhost"))
    }

    pub fn metrics(&self) -> Metrics {
        let answer = self.ask_admin("/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        Metrics::parse(&answer.text())
    }

    /// The metrics, once they are as expected: counters may be written after the answer has gone out.
    pub fn wait_metrics(&self, what: &str, ready: impl Fn(&Metrics) -> bool) -> Metrics {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let metrics = self.metrics();
            if ready(&metrics) {
                return metrics;
            }
            assert!(Instant::now() < deadline, "never so in the metrics: {what}\n{}", metrics.text);
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn output(&self) -> String {
        self.output.lines.lock().unwrap().0.join("\n")
    }

    /// The first line of the log that is `wanted`, past or coming.
    pub fn wait_log(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = 0;
        let mut lines = self.output.lines.lock().unwrap();
        loop {
            let fresh = lines.0[seen..].iter().filter_map(|line| serde_json::from_str(line).ok());
            if let Some(found) = fresh.into_iter().find(&wanted) {
                return found;
            }
            seen = lines.0.len();
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = lines.1 == 2;
            if ended || left.is_zero() {
                let text = lines.0.join("\n");
                drop(lines);
                panic!("no line that says: {what} (process ended: {ended})\n{text}");
            }
            lines = self.output.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// The one event of a request.
    pub fn access_log(&self, request_id: &str) -> Value {
        self.wait_log(&format!("the access event of {request_id}"), |line| {
            field(line, "request_id") == Some(request_id) && value(line, "status").is_some()
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).unwrap();
        let _gone = kill_process(pid, signal);
    }

    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// How the process ended; `None` while it runs.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap().try_wait().unwrap()
    }

    pub fn wait_exit(&self) -> ExitStatus {
        self.wait_exit_for(PATIENCE).unwrap_or_else(|| panic!("still running:\n{}", self.output()))
    }

    fn wait_exit_for(&self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// A line such as `VmHWM` of the process's status, in KiB.
    pub fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Gateway {
    /// What anybody may read of the process while it runs.
    fn shown(&self) -> Vec<String> {
        let pages = ["/metrics", "/keys", "/readyz", "/status", "/nothing"];
        let ask = |page: &&str| {
            Conn::try_open_from("127.0.0.1", self.admin()).ok()?.try_send(&Req::get(page).host("localhost")).ok()
        };
        let answers = pages.iter().filter_map(ask).map(|answer| format!("{:?} {}", answer.headers, answer.text()));
        let arguments = std::fs::read(format!("/proc/{}/cmdline", self.pid())).unwrap_or_default();
        answers.chain([String::from_utf8_lossy(&arguments).into_owned()]).collect()
    }

    /// No secret of any test may have come out, nor be in the store.
    fn assert_no_secret_left(&self, shown: &[String]) {
        let left = [self.before.as_str(), &self.output(), &shown.join("\n")].join("\n");
        let mut leaks = secrets::found_in(left.as_bytes());
        leaks.extend(secrets::found_below(&self.dir.path().join("data")));
        let audit = std::fs::read(self.dir.path().join("audit.log")).unwrap_or_default();
        leaks.extend(secrets::found_in(&audit));
        assert!(leaks.is_empty(), "secrets that came out:\n  {}", leaks.join("\n  "));
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let shown = if self.ended().is_none() { self.shown() } else { Vec::new() };
        self.terminate();
        if self.wait_exit_for(Duration::from_secs(4)).is_none() {
            let mut child = self.child.lock().unwrap();
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            let lines = self.output.lines.lock().unwrap();
            let from = lines.0.len().saturating_sub(40);
            eprintln!("--- the gateway's last lines\n{}", lines.0[from..].join("\n"));
            return;
        }
        self.assert_no_secret_left(&shown);
    }
}
