//! Connections to upstreams: how many, for whom, for how long, and what becomes of a request when one ends.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::frames::{GOAWAY, HEADERS, PING, SETTINGS, frame};
use crate::support::site::{OPEN, SiteBuilder};
use crate::support::tls::{self, Authority};
use crate::support::{Gate, RecordingUpstream, Req, Site, Wrong, send};

/// With all connections in one pool.
fn one_worker(builder: SiteBuilder) -> Site {
    builder.more(OPEN).start_with(|config| config.replacen("workers = 2", "workers = 1", 1))
}

fn upgrade(path: &str) -> Req {
    Req::get(path).header("Connection", "Upgrade").header("Upgrade", "websocket")
}

const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Echoes line by line after a switch of protocols.
fn echo_server() -> RecordingUpstream {
    RecordingUpstream::scripted(|exchange| {
        if !exchange.request.has("Upgrade") {
            return exchange.answer("200 OK", "", b"ok");
        }
        exchange.write(SWITCH)?;
        exchange.keep_alive = false;
        while let Some(line) = exchange.wire.until(b"\n")? {
            exchange.write(&line)?;
        }
        Ok(())
    })
}

/// Asks until the answer is 200.
fn wait_for_a_place(site: &Site) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while site.get("/public/x", None).status != 200 {
        assert!(Instant::now() < deadline, "no place although it was given up");
        thread::sleep(Duration::from_millis(20));
    }
}

// ---- tunnels --------------------------------------------------------------------------------------------------------

#[test]
fn a_tunnel_holds_one_of_the_upstreams_connections() {
    let site = Site::builder().upstream(echo_server()).upstream_lines("connections = 1").more(OPEN).start();
    for _ in 0..3 {
        let mut tunnel = site.connect();
        assert_eq!(tunnel.send(&upgrade("/public/ws")).status, 101);
        tunnel.write("one\n");
        assert_eq!(tunnel.wire.exact(4).unwrap(), b"one\n");
        assert_eq!(site.get("/public/x", None).status, 503, "the tunnel is not counted");
        tunnel.write("two\n");
        assert_eq!(tunnel.wire.exact(4).unwrap(), b"two\n");
        drop(tunnel);
        wait_for_a_place(&site);
    }
}

#[test]
fn a_silent_tunnel_ends_one_idle_time_after_its_last_byte() {
    let site = Site::builder().upstream(echo_server()).limits("stream_idle = \"2s\"").more(OPEN).start();
    let mut tunnel = site.connect();
    assert_eq!(tunnel.send(&upgrade("/public/ws")).status, 101);
    thread::sleep(Duration::from_millis(300));
    tunnel.write("x\n");
    assert_eq!(tunnel.wire.exact(2).unwrap(), b"x\n");
    let silent = Instant::now();
    assert!(tunnel.wire.ends());
    let silent = silent.elapsed();
    assert!((Duration::from_millis(1500)..Duration::from_millis(3000)).contains(&silent), "after {silent:?}");
}

// ---- places ---------------------------------------------------------------------------------------------------------

#[test]
fn a_place_that_was_told_of_long_ago_is_not_missed_now() {
    let upstream = RecordingUpstream::scripted(|exchange| {
        let close = exchange.request.target.ends_with("close");
        exchange.keep_alive = !close;
        exchange.answer("200 OK", if close { "Connection: close\r\n" } else { "" }, b"ok")
    });
    let site = Site::builder().upstream(upstream).upstream_lines("connections = 1").more(OPEN).start();
    // Connections are spread over the workers; each has a pool of its own.
    let mut callers: Vec<_> = (0..6).map(|_| site.connect()).collect();
    let mut wrong = Wrong::default();
    for round in 0..6 {
        for (n, caller) in callers.iter_mut().enumerate() {
            // What closes by itself frees a place while nobody waits for one.
            for path in ["/public/close", "/public/x"] {
                let answer = caller.send(&Req::get(path));
                wrong.eq((round, n, path), answer.status, 200);
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
    wrong.done();
}

// ---- time -----------------------------------------------------------------------------------------------------------

#[test]
fn response_timeout_runs_from_the_end_of_the_request() {
    let upstream = RecordingUpstream::scripted(|exchange| {
        if exchange.request.target.ends_with("early") {
            exchange.keep_alive = false;
            exchange.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
            return exchange.wait_for_close();
        }
        exchange.read_body()?;
        if exchange.request.target.ends_with("silent") {
            return exchange.wait_for_close();
        }
        exchange.answer("200 OK", "", b"ok")
    });
    let site = Site::builder().upstream(upstream).upstream_lines("response_timeout = \"500ms\"").more(OPEN).start();
    let mut wrong = Wrong::default();
    for (path, status) in [("/public/upload", 200), ("/public/silent", 504)] {
        for chunked in [false, true] {
            let mut conn = site.connect();
            let framing = if chunked { ("Transfer-Encoding", "chunked") } else { ("Content-Length", "8") };
            conn.write(Req::post(path).header(framing.0, framing.1).bytes());
            for _ in 0..4 {
                thread::sleep(Duration::from_millis(300));
                conn.write(if chunked { "2\r\nab\r\n" } else { "ab" });
            }
            if chunked {
                conn.write("0\r\n\r\n");
            }
            let ended = Instant::now();
            wrong.eq((path, chunked), conn.read_answer().status, status);
            let took = ended.elapsed();
            wrong.ok((path, chunked), took < Duration::from_secs(2), took);
            wrong.ok((path, chunked), status == 200 || took > Duration::from_millis(400), took);
        }
    }
    let mut conn = site.connect();
    conn.write(Req::post("/public/early").header("Content-Length", "8").bytes());
    let asked = Instant::now();
    wrong.eq("early", conn.read_answer().status, 413);
    wrong.ok("early", asked.elapsed() < Duration::from_millis(400), asked.elapsed());
    wrong.done();
}

#[test]
fn an_upstream_that_takes_no_more_of_a_body_is_given_body_timeout() {
    let upstream = RecordingUpstream::scripted(|exchange| {
        thread::sleep(Duration::from_secs(6));
        exchange.keep_alive = false;
        Ok(())
    });
    let site = Site::builder().upstream(upstream).limits("body_timeout = \"1s\"\nbody_bytes = \"100MiB\"").more(OPEN);
    let site = site.start();
    let mut conn = site.connect();
    let mut writer = conn.wire.socket.try_clone().unwrap();
    conn.write(Req::post("/public/x").header("Content-Length", "90000000").bytes());
    thread::spawn(move || {
        let _cut_off = writer.write_all(&vec![0; 90_000_000]);
    });
    let asked = Instant::now();
    assert_eq!(conn.read_head().unwrap().status, 504);
    let took = asked.elapsed();
    assert!((Duration::from_millis(800)..Duration::from_secs(4)).contains(&took), "{took:?}");
}

// ---- heads and numbers ----------------------------------------------------------------------------------------------

#[test]
fn answers_with_many_fields_pass() {
    let upstream = RecordingUpstream::scripted(|exchange| {
        let lines: String = (0..250).map(|n| format!("X-Field-{n}: {n}\r\n")).collect();
        exchange.answer("200 OK", &lines, b"ok")
    });
    let site = Site::builder().upstream(upstream).more(OPEN).start();
    let answer = site.get("/public/x", None);
    assert_eq!((answer.status, answer.header("X-Field-249")), (200, Some("249")));
}

#[test]
fn what_a_caller_does_to_its_body_is_no_error_of_the_upstream() {
    let site = Site::builder().limits("body_timeout = \"300ms\"\nbody_bytes = 1000").more(OPEN).start();
    let mut conn = site.connect();
    conn.write(Req::post("/public/slow").header("Content-Length", "10").raw_body("12").bytes());
    assert_eq!(conn.read_answer().status, 408);
    let chunk = format!("3e8\r\n{}\r\n1\r\nx\r\n0\r\n\r\n", "x".repeat(1000));
    let answer = site.send(&Req::post("/public/big").header("Transfer-Encoding", "chunked").raw_body(chunk));
    assert_eq!(answer.status, 413);
    let metrics = site.gateway.wait_metrics("both are counted", |metrics| {
        metrics.sum("tollgate_requests_total", &[("route", "public")]) >= 2.0
    });
    assert_eq!(metrics.sum("tollgate_upstream_errors_total", &[]), 0.0, "{}", metrics.text);
}

// ---- HTTP/2 ---------------------------------------------------------------------------------------------------------

/// `:status: 200` and the end of the stream.
fn answer_200(stream: u32) -> Vec<u8> {
    frame(HEADERS, 5, stream, &[0x88])
}

/// An HTTP/2 server of whose frames a test decides: what to write when a request comes, by connection (from 1) and
/// stream.
struct RawH2 {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl RawH2 {
    fn start(answer: impl Fn(usize, u32) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let (seen, answer) = (connections.clone(), Arc::new(answer));
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let mut all = seen.lock().unwrap();
                all.push(socket.try_clone().unwrap());
                let (number, answer) = (all.len(), answer.clone());
                thread::spawn(move || serve(socket, |stream| answer(number, stream)));
            }
        });
        Self { address, connections }
    }

    fn lines(&self) -> String {
        format!("servers = [\"http://{}\"]\nhttp2 = true", self.address)
    }

    fn count(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    fn write(&self, connection: usize, bytes: &[u8]) {
        self.connections.lock().unwrap()[connection - 1].write_all(bytes).unwrap();
    }
}

fn serve(mut socket: TcpStream, answer: impl Fn(u32) -> Vec<u8>) -> io::Result<()> {
    socket.read_exact(&mut [0; 24])?;
    socket.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head)?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        socket.read_exact(&mut payload)?;
        let (kind, flags) = (head[3], head[4]);
        let bytes = match kind {
            HEADERS => answer(u32::from_be_bytes([head[5], head[6], head[7], head[8]])),
            SETTINGS if flags & 1 == 0 => frame(SETTINGS, 1, 0, &[]),
            PING if flags & 1 == 0 => frame(PING, 1, 0, &payload),
            _ => continue,
        };
        socket.write_all(&bytes)?;
    }
}

#[test]
fn requests_after_the_last_stream_of_a_goaway_go_out_again() {
    for method in ["GET", "POST"] {
        let open = Gate::default();
        let opened = open.clone();
        let upstream = RawH2::start(move |connection, stream| match (connection, stream) {
            (1, 1) => {
                opened.open();
                Vec::new()
            }
            // Stream 1 goes on: the connection is not closed for as long as it does.
            (1, _) => frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]),
            (_, stream) => answer_200(stream),
        });
        let site = one_worker(Site::builder().upstream_lines(&upstream.lines()));
        let mut first = site.connect();
        first.write(Req::get("/public/long").bytes());
        open.wait();
        let mut second = site.connect();
        let answers: Vec<_> = (0..3).map(|_| second.send(&Req::new(method, "/public/x").body("")).status).collect();
        assert_eq!(answers, [200; 3], "{method}");
        assert_eq!(upstream.count(), 2);
        upstream.write(1, &answer_200(1));
        assert_eq!(first.read_answer().status, 200);
    }
}

#[test]
fn a_connection_that_says_nothing_is_not_used_again() {
    let upstream = RawH2::start(|connection, stream| match connection {
        1 => Vec::new(),
        _ => answer_200(stream),
    });
    let lines = format!("{}\nresponse_timeout = \"400ms\"\nretries = 0", upstream.lines());
    let site = one_worker(Site::builder().upstream_lines(&lines));
    let answers: Vec<_> = (0..3).map(|_| site.get("/public/x", None).status).collect();
    assert_eq!(answers, [504, 200, 200]);
    assert_eq!(upstream.count(), 2);
}

#[test]
fn the_end_of_one_stream_is_not_that_of_its_connection() {
    const RST_STREAM: u8 = 3;
    let upstream = RawH2::start(|_, stream| match stream {
        // INTERNAL_ERROR
        3 => frame(RST_STREAM, 0, stream, &[0, 0, 0, 2]),
        stream => answer_200(stream),
    });
    let site = one_worker(Site::builder().upstream_lines(&format!("{}\nretries = 0", upstream.lines())));
    let answers: Vec<_> = (0..3).map(|_| site.get("/public/x", None).status).collect();
    assert_eq!(answers, [200, 502, 200]);
    assert_eq!(upstream.count(), 1);
}

/// The statuses of requests sent at once, and how long all of them took.
fn at_once(site: &Site, n: usize) -> (Vec<u16>, Duration) {
    let (address, started) = (site.gateway.address("main"), Instant::now());
    let callers: Vec<_> = (0..n).map(|_| thread::spawn(move || send(address, &Req::get("/public/x")).status)).collect();
    let statuses = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
    (statuses, started.elapsed())
}

fn tls_lines(address: SocketAddr) -> String {
    format!(
        "servers = [\"https://{address}\"]\nhttp2 = true\nconnect_timeout = \"1s\"\nretries = 0\n[upstreams.app.tls]\n\
         ca = \"ca.crt\"\nserver_name = \"app.internal\""
    )
}

#[test]
fn those_who_wait_for_a_dial_share_its_failure() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let lines = tls_lines(silent.local_addr().unwrap());
    let site = one_worker(Site::builder().file("ca.crt", Authority::new().pem()).upstream_lines(&lines));
    for _ in 0..2 {
        let (statuses, took) = at_once(&site, 8);
        assert_eq!(statuses, [504; 8]);
        assert!(took < Duration::from_millis(2500), "{took:?}");
    }
}

#[test]
fn a_server_that_chose_http_1_1_is_dialled_by_all_at_once() {
    let authority = Authority::new();
    let config = authority.server(&authority.identity(&["app.internal"]), &["http/1.1"], false);
    let upstream = RecordingUpstream::over(
        move |socket| {
            thread::sleep(Duration::from_millis(400));
            tls::accept(&config, socket)
        },
        |exchange| {
            thread::sleep(Duration::from_millis(100));
            exchange.answer("200 OK", "", b"ok")
        },
    );
    let lines = tls_lines(upstream.address);
    let site = one_worker(Site::builder().file("ca.crt", authority.pem()).upstream(upstream).upstream_lines(&lines));
    let (statuses, took) = at_once(&site, 8);
    assert_eq!(statuses, [200; 8]);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// Answers one request, takes another, and is gone while more wait; what comes next is answered, and where it was sent
/// to is kept.
async fn breaking_off(listener: TcpListener, seen: Arc<Mutex<Vec<http::Uri>>>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let ok = || http::Response::new(());
    let (stream, _) = listener.accept().await.unwrap();
    let mut builder = h2::server::Builder::new();
    let mut first = builder.max_concurrent_streams(1).handshake::<_, bytes::Bytes>(stream).await.unwrap();
    let (_, mut respond) = first.accept().await.unwrap().unwrap();
    respond.send_response(ok(), true).unwrap();
    drop(respond);
    let taken = first.accept().await.unwrap().unwrap();
    let _silent = tokio::time::timeout(Duration::from_millis(500), first.accept()).await;
    drop((taken, first));
    let (stream, _) = listener.accept().await.unwrap();
    let mut second = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = second.accept().await {
        seen.lock().unwrap().push(request.uri().clone());
        respond.send_response(ok(), true).unwrap();
    }
}

#[test]
fn a_request_that_comes_back_unsent_keeps_its_host() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let lines = format!("servers = [\"http://{}\"]\nhttp2 = true", listener.local_addr().unwrap());
    let seen: Arc<Mutex<Vec<http::Uri>>> = Arc::default();
    let recorded = seen.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(breaking_off(listener, recorded));
    });
    let site = one_worker(Site::builder().upstream_lines(&lines));
    assert_eq!(site.get("/public/x", None).status, 200);
    let (statuses, _) = at_once(&site, 5);
    let seen = seen.lock().unwrap();
    assert_eq!(statuses, [200; 5], "{seen:?}");
    assert!(seen.iter().all(|uri| *uri == "http://api.test/public/x"), "{seen:?}");
}

#[test]
fn the_scheme_over_tls_is_https() {
    let authority = Authority::new();
    let config = authority.server(&authority.identity(&["app.internal"]), &["h2"], false);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let lines = tls_lines(listener.local_addr().unwrap());
    let site = one_worker(Site::builder().file("ca.crt", authority.pem()).upstream_lines(&lines));
    let upstream = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await.unwrap();
            let mut connection = h2::server::handshake::<_>(stream).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            respond.send_response(http::Response::new(()), true).unwrap();
            let _silent = tokio::time::timeout(Duration::from_millis(200), connection.accept()).await;
            request.uri().clone()
        })
    });
    assert_eq!(site.get("/public/x", None).status, 200);
    assert_eq!(upstream.join().unwrap(), "https://api.test/public/x");
}
