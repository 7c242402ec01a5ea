//! Other servers' readings of HTTP/1: nginx, Apache, Node and h11, each told to say what it took a connection's bytes for.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::http::Conn;
use super::public::{free_port, installed};
use super::upstream::{Exchange, Recorded, RecordingUpstream};
use super::wire::PATIENCE;

/// A request as somebody read it: method, target, host and body, a line each.
#[derive(Clone, PartialEq, Eq)]
pub struct Reading(Vec<u8>);

impl Reading {
    pub fn of(request: &Recorded) -> Self {
        // Not what was made text of, but the bytes.
        let mut lines = request.head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut words = lines.next().unwrap_or_default().split(|byte| *byte == b' ');
        let mut word = || words.next().unwrap_or_default().to_vec();
        let (method, target) = (word(), word());
        let named = |line: &[u8]| line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"host:"));
        let hosts: Vec<&[u8]> = lines.filter(|line| named(line)).map(|line| line[5..].trim_ascii()).collect();
        Self([method, target, hosts.join(&b','), request.body.clone()].join(&b'\n'))
    }

    pub fn of_text(method: &str, target: &str, host: &str) -> Self {
        Self([method, target, host, ""].join("\n").into_bytes())
    }

    fn from_hex(hex: &str) -> Self {
        let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
        Self(hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect())
    }

    fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// What a server made of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Readings {
    pub requests: Vec<Reading>,
    /// The status it refused to go on with.
    pub refused: Option<u16>,
}

pub struct Parser {
    pub name: &'static str,
    address: SocketAddr,
}

impl Parser {
    /// Has the server read the bytes of one connection, and then `last`, which must tell it to close.
    pub fn read(&self, bytes: &[u8], last: &str) -> Readings {
        let mut conn = Conn::open(self.address);
        conn.wire.patience(Duration::from_secs(3));
        let mut readings = Readings::default();
        // A server may take what comes behind a wish to switch protocols for the other protocol, until it has answered.
        let may_switch = bytes.windows(10).any(|line| line.eq_ignore_ascii_case(b"\r\nupgrade:"));
        if may_switch {
            let _may_have_seen_enough = conn.wire.write(bytes);
            let _no_answer = readings.add(&mut conn);
            let _may_be_closed = conn.wire.write(last.as_bytes());
        } else {
            let _may_have_seen_enough = conn.wire.write(&[bytes, last.as_bytes()].concat());
        }
        while readings.add(&mut conn) {}
        readings
    }

    /// Has the server read bytes that break off.
    pub fn read_cut_off(&self, bytes: &[u8]) -> Readings {
        let mut conn = Conn::open(self.address);
        conn.wire.patience(Duration::from_secs(3));
        let _may_have_seen_enough = conn.wire.write(bytes);
        let _may_be_gone = conn.wire.socket.shutdown(Shutdown::Write);
        let mut readings = Readings::default();
        while readings.add(&mut conn) {}
        readings
    }
}

impl Readings {
    /// Notes the next answer; `false` when there is none, or a refusal.
    fn add(&mut self, conn: &mut Conn) -> bool {
        let Ok(answer) = conn.read_head() else { return false };
        match answer.header("X-Seen") {
            Some(seen) if answer.status == 204 => self.requests.push(Reading::from_hex(seen)),
            _ => self.refused = Some(answer.status),
        }
        self.refused.is_none()
    }
}

/// What nginx and Apache hand their requests to.
fn echo(exchange: &mut Exchange) -> io::Result<()> {
    exchange.read_body()?;
    let seen = Reading::of(&exchange.request).to_hex();
    exchange.keep_alive = false;
    exchange.write(format!("HTTP/1.1 204 No Content\r\nX-Seen: {seen}\r\nConnection: close\r\n\r\n").as_bytes())
}

pub struct Parsers {
    pub all: Vec<Parser>,
    running: Vec<Child>,
    _echo: RecordingUpstream,
    _dir: TempDir,
}

impl Parsers {
    /// `None` where some of them are not installed.
    pub fn start() -> Option<Self> {
        let modules = installed("/usr/lib/apache2/modules")?;
        let python = installed(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/python/bin/python"))?;
        let (nginx, apache, node) = (installed("nginx")?, installed("apache2")?, installed("node")?);

        let echo = RecordingUpstream::scripted(echo);
        let dir = TempDir::new().unwrap();
        let ports: [u16; 6] = std::array::from_fn(|_| free_port());
        let [nginx_port, apache_port, lenient_port, node_port, lenient_node_port, h11_port] =
            ports.map(|p| p.to_string());
        let filled = |name: &str| {
            let text = std::fs::read_to_string(scripts().join(name)).unwrap();
            let text = text.replace("NGINX", &nginx_port).replace("APACHE", &apache_port);
            let text = text.replace("LENIENT", &lenient_port).replace("ECHO", &echo.address.to_string());
            std::fs::write(dir.path().join(name), text.replace("MODULES", &modules.display().to_string())).unwrap();
        };
        filled("nginx.conf");
        filled("apache.conf");
        let run = |program: &PathBuf, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).current_dir(dir.path()).stdin(Stdio::null());
            command.spawn().unwrap_or_else(|e| panic!("{}: {e}", program.display()))
        };
        let folder = dir.path().to_str().unwrap();
        let script = |name: &str| scripts().join(name).display().to_string();
        let running = vec![
            run(&nginx, &["-p", folder, "-c", "nginx.conf"]),
            run(&apache, &["-d", folder, "-f", "apache.conf", "-X"]),
            run(&node, &[&script("echo.mjs"), &node_port, &lenient_node_port]),
            run(&python, &[&script("echo.py"), &h11_port]),
        ];
        let names = ["nginx", "Apache", "Apache, lenient", "Node", "Node, lenient", "h11"];
        let all: Vec<Parser> = names
            .into_iter()
            .zip(ports)
            .map(|(name, port)| Parser { name, address: SocketAddr::from(([127, 0, 0, 1], port)) })
            .collect();
        let parsers = Self { all, running, _echo: echo, _dir: dir };
        let deadline = Instant::now() + PATIENCE;
        for parser in &parsers.all {
            while TcpStream::connect(parser.address).is_err() {
                assert!(Instant::now() < deadline, "{} does not listen", parser.name);
                thread::sleep(Duration::from_millis(10));
            }
        }
        Some(parsers)
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parsers")
}

impl Drop for Parsers {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
