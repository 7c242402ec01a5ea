//! Clients that are slow, many or big: none of them takes more than its share, and the others are served.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::others::during;
use crate::support::site::OPEN;
use crate::support::tls::Authority;
use crate::support::wire::PATIENCE;
use crate::support::{Conn, RecordingUpstream, Req, Site, Wrong};

/// A connection that writes when it is told to and notices when it is over.
struct Trickle {
    stream: TcpStream,
    sent: usize,
    over: bool,
}

impl Trickle {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream, sent: 0, over: false }
    }

    /// One more byte of `bytes`, again from the start at its end.
    fn drip(&mut self, bytes: &[u8]) {
        let written = self.stream.write(&bytes[self.sent % bytes.len()..][..1]);
        self.sent += usize::from(written.is_ok());
        let mut buffer = [0; 1024];
        let read = self.stream.read(&mut buffer);
        let goes_on = |kind| kind == std::io::ErrorKind::WouldBlock;
        self.over = written.is_err_and(|e| !goes_on(e.kind())) || read.map_or_else(|e| !goes_on(e.kind()), |n| n == 0);
    }
}

/// Drips on all of them, a round every now and then, until they are over or `rounds` are done. Gives how many are over.
fn drip(all: &mut [Trickle], bytes: &[u8], rounds: usize) -> usize {
    for _ in 0..rounds {
        let running = all.iter_mut().filter(|one| !one.over);
        if running.map(|one| one.drip(bytes)).count() == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    all.iter().filter(|one| one.over).count()
}

#[test]
fn slow_heads_are_ended_and_nobody_else_notices() {
    let authority = Authority::new();
    let identity = authority.identity(&["api.test"]);
    let site = Site::builder()
        .file("tls.crt", &identity.cert)
        .file("tls.key", &identity.key)
        .limits("header_timeout = \"2s\"\nidle_timeout = \"1h\"")
        .more(OPEN)
        .more("[listeners.secure]\naddress = \"127.0.0.1:0\"\ntls = { certificates = [{ cert = \"tls.crt\", key = \"tls.key\" }] }\n")
        .start();
    let mut wrong = Wrong::default();
    // A head, lines before a head, the start of HTTP/2, and of TLS: a record of a handshake that never ends.
    for (name, listener, bytes) in [
        ("a head", "main", &b"GET /public/x HTTP/1.1\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"[..]),
        ("empty lines", "main", b"\r\n"),
        ("a preface", "main", b"PRI * HTTP/2.0\r\n\r\nSM\r\n"),
        ("a handshake", "secure", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ] {
        let address = site.gateway.address(listener);
        let (over, effect) = during(&site, || {
            let mut all: Vec<_> = (0..200).map(|_| Trickle::open(address)).collect();
            // Long after they should be over.
            drip(&mut all, bytes, 300)
        });
        println!("{name}: {over} of 200 ended; {effect}");
        wrong.eq(name, over, 200);
        wrong.ok((name, "memory"), effect.grown < 16 * 1024, effect);
    }
    wrong.done();
}

#[test]
fn slow_bodies_hold_their_own_requests_only() {
    // A machine that is busy holds bytes up. Then all is done again with more time.
    for timeout in [1, 4] {
        if slow_bodies(timeout) == 0 {
            return;
        }
    }
    assert_eq!(slow_bodies(16), 0, "bodies were ended while they came");
}

/// Sends bodies for three times as long as they may pause. Gives how many were ended meanwhile.
fn slow_bodies(timeout: usize) -> usize {
    let site = Site::builder().limits(&format!("body_timeout = \"{timeout}s\"")).more(OPEN).start();
    let address = site.gateway.address("main");
    let mut all: Vec<_> = (0..100).map(|_| Trickle::open(address)).collect();
    for one in &mut all {
        one.stream.write_all(&Req::post("/public/slow").header("Content-Length", "100000").bytes()).unwrap();
    }
    // As long as bytes come, they may.
    let (over, effect) = during(&site, || drip(&mut all, b"x", 60 * timeout));
    println!("100 slow bodies of {timeout} s: {over} ended; {effect}");
    assert!(effect.grown < 16 * 1024, "{effect}");
    if over > 0 {
        return over;
    }
    // Then it is a matter of time.
    for one in &mut all {
        one.stream.set_nonblocking(false).unwrap();
        one.stream.set_read_timeout(Some(PATIENCE + Duration::from_secs(timeout as u64))).unwrap();
        let mut answer = [0; 12];
        one.stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 408");
    }
    0
}

#[test]
fn slow_readers_are_ended() {
    /// Pieces that went out of the upstream.
    static WRITTEN: AtomicUsize = AtomicUsize::new(0);
    let upstream = RecordingUpstream::scripted(|exchange| {
        if !exchange.request.target.contains("big") {
            return exchange.answer("200 OK", "", b"ok");
        }
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8388608\r\n\r\n")?;
        (0..512).try_for_each(|_| {
            exchange.write(&[b'x'; 16 << 10])?;
            WRITTEN.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
    });
    let site = Site::builder().upstream(upstream).limits("stream_idle = \"2s\"").more(OPEN).start();
    let address = site.gateway.address("main");
    let (mut held, effect) = during(&site, || {
        let mut held = Vec::new();
        for _ in 0..40 {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            socket.connect(&address.into()).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.write_all(&Req::get("/public/big").bytes()).unwrap();
            held.push(stream);
        }
        // The wait begins when what the kernel holds for the caller is full; on a busy machine that takes its time.
        let mut written = WRITTEN.load(Ordering::Relaxed);
        let given_up = || site.gateway.metrics().sum("tollgate_limits_reached_total", &[("limit", "stream_idle")]);
        let mut patience = Instant::now() + PATIENCE;
        while given_up() < 40.0 {
            let now = WRITTEN.load(Ordering::Relaxed);
            if now > written {
                (written, patience) = (now, Instant::now() + PATIENCE);
            }
            assert!(Instant::now() < patience, "{} of 40 were given up", given_up());
            std::thread::sleep(Duration::from_millis(50));
        }
        held
    });
    println!("40 who do not read 8 MiB: {effect}");
    assert!(effect.grown < 64 * 1024, "{effect}");
    // What they were sent is not the whole.
    for stream in &mut held {
        let mut got = Vec::new();
        let _reset = stream.read_to_end(&mut got);
        assert!(got.len() < 8 << 20, "{}", got.len());
    }
}

#[test]
fn a_mebibyte_of_headers_is_not_kept() {
    let site = Site::open();
    let address = site.gateway.address("main");
    let line = format!("X-Long: {}\r\n", "a".repeat(1 << 20));
    let lines: String = (0..40_000).map(|n| format!("X-{n}: {}\r\n", "a".repeat(16))).collect();
    let target = format!("GET /public/{} HTTP/1.1\r\n", "a".repeat(1 << 20));
    let start = "GET /public/x HTTP/1.1\r\nHost: api.test\r\n";
    let mut wrong = Wrong::default();
    for (name, head) in [
        ("one line", format!("{start}{line}\r\n")),
        ("many lines", format!("{start}{lines}\r\n")),
        ("a target", format!("{target}Host: api.test\r\n\r\n")),
        ("empty lines", "\r\n".repeat(1 << 19)),
        ("a name", format!("{start}{}: a\r\n\r\n", "x".repeat(1 << 20))),
        (
            "a trailer",
            format!("POST /public/x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{line}\r\n"),
        ),
        (
            "a chunk's extension",
            format!(
                "POST /public/x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n1;{}\r\na\r\n0\r\n\r\n",
                "x".repeat(1 << 20)
            ),
        ),
    ] {
        let (statuses, effect) = during(&site, || {
            let mut all: Vec<_> = (0..50).map(|_| Conn::open(address)).collect();
            for conn in &mut all {
                let _refused_early = conn.wire.write(head.as_bytes());
            }
            // The answer may be lost where the rest was still on its way.
            all.iter_mut().map(|conn| conn.read(false).map_or(0, |answer| answer.status)).collect::<Vec<_>>()
        });
        println!("{name}: {effect}");
        wrong.ok(name, statuses.iter().all(|status| [0, 400, 414, 431].contains(status)), &statuses);
        wrong.ok((name, "memory"), effect.grown < 24 * 1024, effect);
    }
    wrong.done();
    assert_eq!(
        site.upstream.requests().iter().filter(|request| request.complete && request.method == "POST").count(),
        0
    );
}

#[test]
fn endless_chunks_end_at_the_limit() {
    let site = Site::builder().limits("body_bytes = \"64KiB\"").more(OPEN).start();
    let address = site.gateway.address("main");
    let head = Req::post("/public/x").header("Transfer-Encoding", "chunked").bytes();
    let mut wrong = Wrong::default();
    for (name, chunk) in [
        ("big", format!("4000\r\n{}\r\n", "a".repeat(0x4000))),
        ("tiny", "1\r\na\r\n".repeat(1000)),
        ("with extensions", "1;abc=def\r\na\r\n".repeat(1000)),
    ] {
        let (sent, effect) = during(&site, || {
            let mut conn = Conn::open(address);
            conn.write(&head);
            let mut sent = 0;
            while sent < 64 << 20 && conn.wire.write(chunk.as_bytes()).is_ok() {
                sent += chunk.len();
            }
            sent
        });
        println!("{name}: {} KiB sent; {effect}", sent >> 10);
        wrong.ok(name, sent < 64 << 20, sent);
        wrong.ok((name, "memory"), effect.grown < 16 * 1024, effect);
    }
    wrong.done();
    assert!(site.upstream.requests().iter().all(|request| !request.complete || request.method == "GET"));
}

/// Opens connections that do nothing after one request, or from the start, and sees that others do not notice.
fn idle_connections(count: usize) {
    // Of this process, and of the gateway that it starts.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let limits = format!("connections = {}\nconnections_per_ip = {count}\nheader_timeout = \"1h\"", count + 100);
    let site = Site::builder().limits(&limits).more(OPEN).start();
    let address = site.gateway.address("main");
    for used in [false, true] {
        let (mut held, effect) = during(&site, || {
            let begun = Instant::now();
            let held: Vec<_> = (0..count)
                .map(|n| {
                    // Each address has ports for so many.
                    let mut conn = Conn::open_from(&format!("127.0.0.{}", 2 + n / 5000), address);
                    if used {
                        assert_eq!(conn.send(&Req::get("/public/x")).status, 200);
                    }
                    conn
                })
                .collect();
            site.gateway
                .wait_metrics("all are open", |metrics| metrics.sum("tollgate_connections", &[]) >= count as f64);
            println!("opened in {:?}", begun.elapsed());
            held
        });
        let each = effect.grown * 1024 / count as u64;
        println!("{count} idle, used before: {used}: {each} bytes each; {effect}");
        assert!(each < 48 * 1024, "{each} bytes each");
        // They are still served.
        for conn in held.iter_mut().step_by(97) {
            assert_eq!(conn.send(&Req::get("/public/x")).status, 200);
        }
        drop(held);
        site.gateway.wait_metrics("all are gone", |metrics| metrics.sum("tollgate_connections", &[]) < 50.0);
    }
}

#[test]
fn a_thousand_idle_connections() {
    idle_connections(1000);
}

#[test]
#[ignore = "takes 20,000 descriptors: cargo nextest run --run-ignored only ten_thousand"]
fn ten_thousand_idle_connections() {
    idle_connections(9900);
}
