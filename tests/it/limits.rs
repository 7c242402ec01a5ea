//! Every limit of `[server.limits]`, each with its status or its closed connection.

use std::io::{self, BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::command::files;
use crate::support::mint::now;
use crate::support::site::OPEN;
use crate::support::{Conn, Gate, RecordingUpstream, Req, Site, Wrong, field};

/// Whatever happens to a connection that waits: the answer, or how long it took to be closed.
#[derive(Debug, PartialEq)]
enum Fate {
    Answer(u16),
    Closed,
    Waiting,
}

fn fate(conn: &mut Conn, patience: Duration) -> Fate {
    conn.wire.patience(patience);
    match conn.read(false) {
        Ok(answer) => Fate::Answer(answer.status),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Fate::Waiting,
        Err(_) => Fate::Closed,
    }
}

const SOON: Duration = Duration::from_secs(8);
const BRIEFLY: Duration = Duration::from_millis(700);

#[test]
fn header_bytes_and_header_count() {
    let site = Site::builder().limits("header_bytes = \"8KiB\"\nheader_count = 20").more(OPEN).start();
    let many = |n: usize| (0..n).fold(Req::get("/public/x"), |request, i| request.header(&format!("X-{i}"), "v"));
    let long = |n: usize| Req::get("/public/x").header("X-Long", &"a".repeat(n));
    let mut wrong = Wrong::default();
    wrong.eq("a few", site.send(&many(15)).status, 200);
    wrong.eq("too many", site.send(&many(25)).status, 431);
    wrong.eq("long", site.send(&long(7000)).status, 200);
    wrong.eq("too long", site.send(&long(9000)).status, 431);
    let target = format!("/public/{}", "a".repeat(9000));
    let got = site.send(&Req::get(&target)).status;
    wrong.ok("a long target", matches!(got, 414 | 431), got);
    wrong.eq("forwarded", site.upstream.count(), 2);
    wrong.done();
}

#[test]
fn a_head_without_end_is_cut_off() {
    let site = Site::builder().limits("header_bytes = \"8KiB\"").more(OPEN).start();
    let mut conn = site.connect();
    let mut sent = 0;
    let mut result = conn.wire.write(b"GET /public/x HTTP/1.1\r\nHost: api.test\r\n");
    while result.is_ok() && sent < 10 << 20 {
        result = conn.wire.write(format!("X-A: {}\r\n", "a".repeat(1000)).as_bytes());
        sent += 1000;
    }
    assert!(sent < 10 << 20, "10 MiB of head were taken");
}

#[test]
fn body_bytes() {
    let routes = r#"
[[routes]]
name = "small"
path = "/small"
upstream = "app"
body_bytes = "1KiB"
allow = [{ public = true }]
"#;
    let site = Site::builder().limits("body_bytes = \"4KiB\"").more(OPEN).more(routes).start();
    let mut wrong = Wrong::default();
    let status = |request: Req| site.connect().try_send(&request).map_or(0, |answer| answer.status);
    let chunks = |target: &str, n: usize| {
        let body = format!("400\r\n{}\r\n", "a".repeat(1024)).repeat(n) + "0\r\n\r\n";
        Req::post(target).header("Transfer-Encoding", "chunked").raw_body(body)
    };
    wrong.eq("fits", status(Req::post("/public/x").body(vec![b'a'; 4096])), 200);
    wrong.eq("too long", status(Req::post("/public/x").body(vec![b'a'; 4097])), 413);
    wrong.eq("a route's own fits", status(Req::post("/small").body(vec![b'a'; 1024])), 200);
    wrong.eq("a route's own", status(Req::post("/small").body(vec![b'a'; 1025])), 413);
    wrong.eq("chunked, fits", status(chunks("/public/x", 4)), 200);
    wrong.eq("chunked, too long", status(chunks("/public/x", 5)), 413);
    let announced = Req::post("/public/x").header("Content-Length", "99999999999999999999999").raw_body("a");
    let got = status(announced);
    wrong.ok("an absurd length", matches!(got, 400 | 413), got);
    wrong.done();
    // What was announced as too long is refused before the upstream hears of it, also before a token is asked for.
    let site = Site::builder().limits("body_bytes = \"4KiB\"").more(OPEN).start();
    let waiting = Req::post("/public/x").header("Expect", "100-continue").header("Content-Length", "5000");
    assert_eq!(site.send(&waiting).status, 413);
    assert_eq!(site.upstream.count(), 0);
}

#[test]
fn a_body_that_grows_too_long_never_looks_complete_upstream() {
    let site = Site::builder().limits("body_bytes = \"4KiB\"").more(OPEN).start();
    let mut conn = site.connect();
    conn.write(Req::post("/public/x").header("Transfer-Encoding", "chunked").bytes());
    for _ in 0..5 {
        let _cut_off = conn.wire.write(format!("400\r\n{}\r\n", "a".repeat(1024)).as_bytes());
    }
    let _cut_off = conn.wire.write(b"0\r\n\r\n");
    let _either = conn.read(false);
    assert!(site.upstream.requests().iter().all(|request| !request.complete));
}

#[test]
fn header_timeout_closes() {
    let site = Site::builder().limits("header_timeout = \"500ms\"\nidle_timeout = \"500ms\"").more(OPEN).start();
    let mut wrong = Wrong::default();
    for (name, bytes) in [
        ("nothing", ""),
        ("one byte", "G"),
        ("the start of HTTP/2", "PRI * HTTP/2.0\r\n"),
        ("half a head", "GET /public/x HTTP/1.1\r\nHost: api.test\r\n"),
    ] {
        let mut conn = site.connect();
        conn.write(bytes);
        let got = fate(&mut conn, SOON);
        wrong.ok(name, matches!(got, Fate::Closed | Fate::Answer(408)), got);
    }
    // A trickle does not help.
    let mut conn = site.connect();
    let started = Instant::now();
    let head = format!("GET /public/x HTTP/1.1\r\nHost: api.test\r\nX-Slow: {}", "a".repeat(200));
    for byte in head.bytes() {
        if conn.wire.write(&[byte]).is_err() || started.elapsed() > SOON {
            break;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    wrong.ok("a trickle", started.elapsed() < Duration::from_secs(5), started.elapsed());
    wrong.done();
    assert_eq!(site.upstream.count(), 0);
}

#[test]
fn header_timeout_ends_half_a_head_wherever_it_stands() {
    let (upstream, gate) = waiting();
    let limits = "header_timeout = \"500ms\"\nidle_timeout = \"1h\"";
    let site = Site::builder().upstream(upstream).limits(limits).more(OPEN).start();
    let get = |target: &str| String::from_utf8(Req::get(target).bytes()).unwrap();
    let half = "GET /public/x HTTP/1.1\r\nHost: api.te";
    let mut wrong = Wrong::default();
    // Behind a request that is answered at once, behind its body, and an idle while after it.
    for (case, first, second) in [
        ("behind", format!("{}{half}", get("/public/x")), ""),
        ("one byte", format!("{}G", get("/public/x")), ""),
        (
            "behind a body",
            format!("POST /public/x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 2\r\n\r\nab{half}"),
            "",
        ),
        ("later", get("/public/x"), half),
    ] {
        let mut conn = site.connect();
        conn.write(first);
        wrong.eq(case, conn.read_answer().status, 200);
        conn.write(second);
        wrong.eq(case, fate(&mut conn, SOON), Fate::Closed);
    }
    // Not while the request before it runs, however long that takes; but then.
    let mut conn = site.connect();
    conn.write(format!("{}{half}", get("/public/wait")));
    site.upstream.wait_until(|requests| requests.iter().any(|request| request.target == "/public/wait"));
    wrong.eq("while another runs", fate(&mut conn, Duration::from_secs(2)), Fate::Waiting);
    gate.open();
    wrong.eq("then", fate(&mut conn, SOON), Fate::Answer(200));
    wrong.eq("then", fate(&mut conn, SOON), Fate::Closed);
    // Empty lines are no head: the connection is idle.
    let mut conn = site.connect();
    conn.write(get("/public/x"));
    wrong.eq("empty lines", conn.read_answer().status, 200);
    conn.write("\r\n\r\n");
    wrong.eq("empty lines", fate(&mut conn, Duration::from_secs(2)), Fate::Waiting);
    conn.write(get("/public/x"));
    wrong.eq("after empty lines", fate(&mut conn, SOON), Fate::Answer(200));
    wrong.done();
    let reached = site.gateway.metrics();
    assert_eq!(reached.sum("tollgate_limits_reached_total", &[("limit", "header_timeout")]), 5.0);
    assert_eq!(reached.sum("tollgate_limits_reached_total", &[("limit", "idle_timeout")]), 0.0);
}

#[test]
fn body_timeout_is_408() {
    let site = Site::builder().limits("body_timeout = \"400ms\"").more(OPEN).start();
    let mut wrong = Wrong::default();
    let mut conn = site.connect();
    conn.write(Req::post("/public/x").header("Content-Length", "10").raw_body("half").bytes());
    wrong.eq("length", fate(&mut conn, SOON), Fate::Answer(408));
    let mut conn = site.connect();
    conn.write(Req::post("/public/x").header("Transfer-Encoding", "chunked").raw_body("5\r\nab").bytes());
    wrong.eq("chunked", fate(&mut conn, SOON), Fate::Answer(408));
    // It is the time between two reads, not of the whole body.
    let mut conn = site.connect();
    conn.write(Req::post("/public/x").header("Content-Length", "10").bytes());
    for _ in 0..10 {
        conn.write("a");
        std::thread::sleep(Duration::from_millis(100));
    }
    wrong.eq("slow but steady", fate(&mut conn, SOON), Fate::Answer(200));
    wrong.done();
}

#[test]
fn who_still_sends_what_nobody_reads_is_not_cut_off_before_the_answer() {
    let site = Site::open();
    let piece = [b'a'; 16 << 10];
    for (request, status) in [
        (Req::post("/denied").header("Content-Length", "8000000").bytes(), 401),
        (b"GET / HTTP/1.1\nHost: api.test\r\n\r\n".to_vec(), 400),
    ] {
        let mut conn = site.connect();
        conn.write(request);
        // To a connection that is gone, the second piece could not be written.
        for _ in 0..4 {
            conn.wire.write(&piece).unwrap();
        }
        assert_eq!(conn.read_answer().status, status);
        assert!(conn.wire.ends());
        conn.wire.write(&piece).unwrap();
        conn.wire.write(&piece).unwrap();
    }
}

#[test]
fn stream_idle_ends_silent_answers_and_tunnels() {
    let gate = Gate::default();
    let door = gate.clone();
    let upstream = RecordingUpstream::scripted(move |exchange| {
        exchange.keep_alive = false;
        if exchange.request.has("Upgrade") {
            exchange.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")?;
        } else if exchange.request.target.contains("long") {
            exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n")?;
            exchange.write(&[b'x'; 100_000])?;
        } else {
            exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            exchange.chunk(b"first")?;
        }
        door.wait();
        Ok(())
    });
    let site = Site::builder().upstream(upstream).limits("stream_idle = \"500ms\"").more(OPEN).start();
    let mut stream = site.connect();
    stream.write(Req::get("/public/stream").bytes());
    assert_eq!(stream.read_head().unwrap().status, 200);
    assert_eq!(stream.wire.chunk().unwrap(), b"first");
    assert!(stream.wire.ends(), "a silent answer must be cut off, and not look complete");

    let mut long = site.connect();
    long.write(Req::get("/public/long").bytes());
    assert_eq!(long.read_head().unwrap().status, 200);
    long.wire.exact(100_000).unwrap();
    assert!(long.wire.ends(), "a long answer that falls silent must be cut off");

    let mut tunnel = site.connect();
    let upgrade = Req::get("/public/ws").header("Connection", "upgrade").header("Upgrade", "websocket");
    assert_eq!(tunnel.send(&upgrade).status, 101);
    assert!(tunnel.wire.ends(), "a silent tunnel must be closed");
    gate.open();
}

#[test]
fn end_with_token_ends_answers_and_tunnels_where_the_route_says_so() {
    let gate = Gate::default();
    let door = gate.clone();
    let upstream = RecordingUpstream::scripted(move |exchange| {
        exchange.keep_alive = false;
        match exchange.request.target.rsplit('/').next().unwrap() {
            "tunnel" => {
                exchange
                    .write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")?;
            }
            "long" => exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n")?,
            "busy" => {
                exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n")?;
                let block = vec![b'x'; 1 << 16];
                // Until it is ended.
                while exchange.write(&block).is_ok() {}
                return Ok(());
            }
            _ => exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?,
        }
        door.wait();
        exchange.write(b"5\r\nafter\r\n0\r\n\r\n")
    });
    let route = |name: &str, ends: bool| {
        format!(
            "[[routes]]\nname = \"{name}\"\npath = \"/{name}/**\"\nupstream = \"app\"\nend_with_token = {ends}\n\
             allow = [{{ authenticated = true }}]\n"
        )
    };
    let site = Site::builder().upstream(upstream).more(&route("ends", true)).more(&route("stays", false)).start();
    // It is good for some seconds more, by the leeway.
    let token = site.mint.token(&json!({"exp": now() - 25}));
    let begin = |target: &str| {
        let mut conn = site.connect();
        let upgrade = |request: Req| request.header("Connection", "upgrade").header("Upgrade", "websocket");
        let request = Req::get(target).bearer(&token);
        conn.write(if target.ends_with("tunnel") { upgrade(request) } else { request }.bytes());
        assert!(matches!(conn.read_head().unwrap().status, 101 | 200), "{target}");
        conn
    };
    let kinds = ["stream", "long", "tunnel"];
    let staying = kinds.map(|kind| begin(&format!("/stays/{kind}")));
    let mut ending = kinds.map(|kind| begin(&format!("/ends/{kind}")));
    let mut busy = begin("/ends/busy");
    assert!(busy.wire.discard(1 << 40).is_err());
    for (kind, conn) in kinds.iter().zip(&mut ending) {
        assert!(conn.wire.ends(), "{kind}");
    }
    assert_eq!(site.get("/stays/x", Some(&token)).status, 401);
    gate.open();
    for (kind, mut conn) in kinds.iter().zip(staying) {
        assert_eq!(conn.wire.exact(8).unwrap(), b"5\r\nafter", "{kind}");
    }
}

#[test]
fn idle_timeout_closes_kept_connections() {
    let site = Site::builder().limits("idle_timeout = \"500ms\"").more(OPEN).start();
    let mut conn = site.connect();
    assert_eq!(conn.send(&Req::get("/public/x")).status, 200);
    let started = Instant::now();
    assert!(conn.wire.ends());
    assert!(started.elapsed() > Duration::from_millis(250), "closed at once");
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[test]
fn descriptors_are_raised_as_far_as_connections_need_and_the_system_allows() {
    let config = "[server]\npublic_url = \"http://127.0.0.1:8080\"\nlimits = { connections = 300 }\n\
                  [listeners.main]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
                  [upstreams.app]\nservers = [\"http://127.0.0.1:9\", \"http://127.0.0.2:9\"]\nconnections = 400\n\
                  [[routes]]\npath = \"/**\"\nupstream = \"app\"\nallow = [{ public = true }]\n";
    let dir = files(config, &[]);
    let mut wrong = Wrong::default();
    // What is enough is left as it is.
    for (limit, taken, told) in [
        ("ulimit -Sn 256", 300 + 2 * 400 + 512, None),
        ("ulimit -Sn 2000", 2000, None),
        ("ulimit -n 1300", 1300, None),
        ("ulimit -n 700", 700, Some((700, 1112))),
    ] {
        let mut gateway = Command::new("sh")
            .args(["-c", &format!("{limit} && exec \"$0\" run -c tollgate.toml"), env!("CARGO_BIN_EXE_tollgate")])
            .current_dir(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(gateway.stdout.take().unwrap()).lines().map_while(Result::ok);
        let events = lines.map(|line| serde_json::from_str::<Value>(&line).unwrap());
        let mut until_ready = Vec::new();
        for event in events {
            until_ready.push(event);
            if field(until_ready.last().unwrap(), "event") == Some("ready") {
                break;
            }
        }
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.id())).unwrap();
        gateway.kill().unwrap();
        gateway.wait().unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        wrong.eq(limit, line.split_whitespace().nth(3), Some(taken.to_string().as_str()));
        let few = until_ready.iter().find(|event| field(event, "event") == Some("descriptors.few"));
        let few = few.map(|event| (event["limit"].as_u64().unwrap(), event["needed"].as_u64().unwrap()));
        wrong.eq(limit, few, told);
    }
    wrong.done();
}

#[test]
fn connections_per_address() {
    let site = Site::builder().limits("connections_per_ip = 3").more(OPEN).start();
    let address = site.gateway.address("main");
    let mut held: Vec<_> = (0..3).map(|_| Conn::open_from("127.0.0.7", address)).collect();
    for conn in &mut held {
        assert_eq!(conn.send(&Req::get("/public/x")).status, 200);
    }
    let refused = Conn::try_open_from("127.0.0.7", address).and_then(|mut conn| conn.try_send(&Req::get("/public/x")));
    assert!(refused.as_ref().map_or(true, |answer| answer.status == 503), "{refused:?}");
    // Another address is not bothered, and a place that is given up is free again.
    assert_eq!(Conn::open_from("127.0.0.8", address).send(&Req::get("/public/x")).status, 200);
    held.pop();
    let deadline = Instant::now() + SOON;
    loop {
        let again =
            Conn::try_open_from("127.0.0.7", address).and_then(|mut conn| conn.try_send(&Req::get("/public/x")));
        if again.as_ref().is_ok_and(|answer| answer.status == 200) {
            break;
        }
        assert!(Instant::now() < deadline, "{again:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn trusted_proxies_may_open_any_number() {
    let site = Site::builder()
        .server("trusted_proxies = [\"127.0.0.1/32\"]")
        .limits("connections_per_ip = 2")
        .more(OPEN)
        .start();
    let mut held: Vec<_> = (0..6).map(|_| site.connect()).collect();
    for conn in &mut held {
        assert_eq!(conn.send(&Req::get("/public/x")).status, 200);
    }
}

#[test]
fn connections_altogether() {
    let site = Site::builder().limits("connections = 4").more(OPEN).start();
    let mut held: Vec<_> = (0..4).map(|_| site.connect()).collect();
    for conn in &mut held {
        assert_eq!(conn.send(&Req::get("/public/x")).status, 200);
    }
    let mut more = site.connect();
    more.wire.patience(BRIEFLY);
    let answer = more.try_send(&Req::get("/public/x"));
    // Refused, or left waiting until there is room; but not served.
    assert!(answer.as_ref().map_or(true, |answer| answer.status == 503), "{answer:?}");
    drop((held, more));
    let deadline = Instant::now() + SOON;
    while site.connect().try_send(&Req::get("/public/x")).map_or(0, |answer| answer.status) != 200 {
        assert!(Instant::now() < deadline, "no room although all have gone");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn upstream_connections_are_bounded() {
    let gate = Gate::default();
    let door = gate.clone();
    let upstream = RecordingUpstream::scripted(move |exchange| {
        if exchange.request.target.contains("wait") {
            door.wait();
        }
        exchange.answer("200 OK", "", b"ok")
    });
    let site = Site::builder().upstream(upstream).upstream_lines("connections = 2").more(OPEN).start();
    let mut held: Vec<_> = (0..2).map(|_| site.connect()).collect();
    for conn in &mut held {
        conn.write(Req::get("/public/wait").bytes());
    }
    site.upstream.wait_until(|requests| requests.len() == 2);
    let answer = site.send(&Req::get("/public/x"));
    assert_eq!(answer.status, 503);
    assert!(answer.header("Retry-After").is_some(), "{answer:?}");
    gate.open();
    for conn in &mut held {
        assert_eq!(conn.read_answer().status, 200);
    }
    assert_eq!(site.send(&Req::get("/public/x")).status, 200);
}

// ---- the end --------------------------------------------------------------------------------------------------------

/// An upstream that answers `/public/wait` when the gate opens.
fn waiting() -> (RecordingUpstream, Gate) {
    let gate = Gate::default();
    let door = gate.clone();
    let upstream = RecordingUpstream::scripted(move |exchange| {
        exchange.read_body()?;
        if exchange.request.target.contains("wait") {
            door.wait();
        }
        exchange.answer("200 OK", "", b"done")
    });
    (upstream, gate)
}

#[test]
fn sigterm_finishes_what_is_running_and_exits_0() {
    let (upstream, gate) = waiting();
    let site = Site::builder().upstream(upstream).limits("drain_timeout = \"20s\"").more(OPEN).start();
    let mut idle = site.connect();
    assert_eq!(idle.send(&Req::get("/public/x")).status, 200);
    let mut running = site.connect();
    running.write(Req::get("/public/wait").bytes());
    site.upstream.wait_until(|requests| requests.iter().any(|request| request.target == "/public/wait"));

    site.gateway.terminate();
    assert!(idle.wire.ends(), "an idle connection is closed at once");
    let address = site.gateway.address("main");
    let deadline = Instant::now() + SOON;
    while std::net::TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "still accepting");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(site.gateway.ended(), None, "a request is still running");
    gate.open();
    let answer = running.read_answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
    assert_eq!(site.gateway.wait_exit().code(), Some(0));
}

#[test]
fn drain_timeout_is_the_end_of_patience() {
    let (upstream, gate) = waiting();
    let site = Site::builder().upstream(upstream).limits("drain_timeout = \"500ms\"").more(OPEN).start();
    let mut running = site.connect();
    running.write(Req::get("/public/wait").bytes());
    site.upstream.wait_until(|requests| !requests.is_empty());
    let started = Instant::now();
    site.gateway.terminate();
    assert_eq!(site.gateway.wait_exit().code(), Some(0));
    assert!(started.elapsed() >= Duration::from_millis(400), "{:?}", started.elapsed());
    assert!(started.elapsed() < SOON);
    assert!(running.read(false).is_err());
    gate.open();
}

#[test]
fn drain_delay_keeps_accepting_while_not_ready() {
    let site = Site::builder().limits("drain_delay = \"3s\"").more(OPEN).start();
    assert_eq!(site.gateway.ask_admin("/readyz").status, 200);
    site.gateway.terminate();
    let deadline = Instant::now() + Duration::from_secs(2);
    while site.gateway.ask_admin("/readyz").status != 503 {
        assert!(Instant::now() < deadline, "still ready");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(site.send(&Req::get("/public/x")).status, 200, "still accepting");
    assert_eq!(site.gateway.ask_admin("/healthz").status, 200);
    assert_eq!(site.gateway.wait_exit().code(), Some(0));
}

#[test]
fn a_tunnel_ends_with_the_drain() {
    let upstream = RecordingUpstream::scripted(|exchange| {
        exchange.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")?;
        exchange.keep_alive = false;
        exchange.wait_for_close()
    });
    let site = Site::builder().upstream(upstream).limits("drain_timeout = \"500ms\"").more(OPEN).start();
    let mut tunnel = site.connect();
    let upgrade = Req::get("/public/ws").header("Connection", "upgrade").header("Upgrade", "websocket");
    assert_eq!(tunnel.send(&upgrade).status, 101);
    site.gateway.terminate();
    assert!(tunnel.wire.ends());
    assert_eq!(site.gateway.wait_exit().code(), Some(0));
}

#[test]
fn a_second_gateway_on_a_taken_port_says_so() {
    let site = Site::open();
    let address = site.gateway.address("main").to_string();
    let config = Site::builder().more(OPEN).config().replacen(
        "[listeners.main]\naddress = \"127.0.0.1:0\"",
        &format!("[listeners.main]\naddress = \"{address}\""),
        1,
    );
    let dir = crate::support::command::files(&config, &[("jwks.json", &site.mint.jwks())]);
    let done = crate::support::command::run_in(dir.path(), &["run", "-c", "tollgate.toml"], "");
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.all().contains(&address), "{done:?}");
}
