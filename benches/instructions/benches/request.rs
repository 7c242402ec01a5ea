//! User instructions of the release binary and of so many requests. What one request costs is the thousandth part of the
//! difference between two of a kind: the start is in all of them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command as Program;
use std::time::Duration;
use std::{env, fs, thread};

use gungraun::prelude::*;

const GATEWAY: &str = "127.0.0.1:31080";
const UPSTREAM: &str = "127.0.0.1:31081";
const HERE: &str = env!("CARGO_MANIFEST_DIR");
/// Requests of these are on their way at once.
const CONNECTIONS: usize = 8;

/// Answers everything with 1 KiB.
fn serve_upstream() {
    let listener = TcpListener::bind(UPSTREAM).expect("the port of the upstream is free");
    let body = "0123456789abcdef".repeat(64);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for stream in listener.incoming() {
        let (mut stream, answer) = (stream.expect("a connection"), answer.clone());
        thread::spawn(move || while read_head(&mut stream).is_some() && stream.write_all(answer.as_bytes()).is_ok() {});
    }
}

/// A head and what came with it; `None` at the end.
fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut all, mut piece) = (Vec::new(), [0; 8192]);
    while !all.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        match stream.read(&mut piece).ok()? {
            0 => return None,
            bytes => all.extend_from_slice(&piece[..bytes]),
        }
    }
    Some(all)
}

/// Reads an answer with a length to its end, and gives its status line.
fn read_answer(stream: &mut TcpStream) -> String {
    let mut all = read_head(stream).expect("an answer");
    let text = String::from_utf8_lossy(&all).to_lowercase();
    let (head, _) = text.split_once("\r\n\r\n").expect("a head");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let whole = head.len() + 4 + length.parse::<usize>().expect("a number");
    let mut piece = [0; 8192];
    while all.len() < whole {
        let bytes = stream.read(&mut piece).expect("the rest of the answer");
        all.extend_from_slice(&piece[..bytes]);
    }
    head.lines().next().unwrap_or_default().to_owned()
}

/// Waits for the gateway, has it answer so many requests with this status, and ends it.
fn ask(path: &str, token: Option<&str>, status: &str, requests: usize) {
    thread::spawn(serve_upstream);
    let address: SocketAddr = GATEWAY.parse().expect("an address");
    let first = (0..600).find_map(|_| {
        thread::sleep(Duration::from_millis(100));
        TcpStream::connect(address).ok()
    });
    let mut connections = vec![first.expect("the gateway listens within a minute")];
    connections.resize_with(CONNECTIONS, || TcpStream::connect(address).expect("another connection"));
    let field = token.map_or(String::new(), |token| {
        let token = fs::read_to_string(format!("{HERE}/{token}.jwt")).expect("a token");
        format!("Authorization: Bearer {}\r\n", token.trim())
    });
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: api.example\r\nUser-Agent: bench\r\nAccept: */*\r\n{field}\r\n");
    for _ in 0..requests / CONNECTIONS {
        for connection in &mut connections {
            connection.write_all(request.as_bytes()).expect("the gateway reads");
        }
        for connection in &mut connections {
            let line = read_answer(connection);
            assert!(line.contains(status), "{line}");
        }
    }
    drop(connections);
    let running = Program::new("pgrep").args(["-f", &format!("run -c {HERE}/gateway.toml")]).output().expect("pgrep");
    for pid in String::from_utf8_lossy(&running.stdout).split_whitespace() {
        Program::new("kill").arg(pid).status().expect("kill");
    }
}

#[binary_benchmark]
#[bench::start(setup = ask("/open/1", None, " 200 ", CONNECTIONS))]
#[bench::token_1000(setup = ask("/orders/1", Some("good"), " 200 ", 1000))]
#[bench::token_2000(setup = ask("/orders/1", Some("good"), " 200 ", 2000))]
#[bench::open_1000(setup = ask("/open/1", None, " 200 ", 1000))]
#[bench::open_2000(setup = ask("/open/1", None, " 200 ", 2000))]
#[bench::without_scope_1000(setup = ask("/orders/1", Some("poor"), " 403 ", 1000))]
#[bench::without_scope_2000(setup = ask("/orders/1", Some("poor"), " 403 ", 2000))]
fn requests() -> gungraun::Command {
    let binary = env::var("TOLLGATE").unwrap_or_else(|_| format!("{HERE}/../../target/release/tollgate"));
    gungraun::Command::new(binary).args(["run", "-c", &format!("{HERE}/gateway.toml")]).setup_parallel(true).build()
}

binary_benchmark_group!(name = gateway, benchmarks = requests);
main!(binary_benchmark_groups = gateway);
