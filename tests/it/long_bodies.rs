//! Bodies that are long: whole, in order and in flat memory, however fast the other side reads.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::site::OPEN;
use crate::support::upstream::Exchange;
use crate::support::wire::{Wire, split_head};
use crate::support::{Conn, RecordingUpstream, Req, Site, Wrong, field, until};

fn scripted(script: impl Fn(&mut Exchange) -> io::Result<()> + Send + Sync + 'static) -> Site {
    Site::builder().upstream(RecordingUpstream::scripted(script)).more(OPEN).start()
}

/// Bytes that are told from those of another body and from each other's places.
fn content(length: usize, salt: usize) -> Vec<u8> {
    let mut bytes = vec![salt as u8; length];
    for at in (0..length).step_by(61) {
        bytes[at] = (at / 61 % 251) as u8;
    }
    bytes
}

/// Answers `/public/LENGTH/SALT` with such a body.
fn contents() -> Site {
    scripted(|exchange| {
        let mut numbers = exchange.request.target.split('/').skip(2).map(|number| number.parse().unwrap());
        let body = content(numbers.next().unwrap(), numbers.next().unwrap());
        exchange.answer("200 OK", "", &body)
    })
}

/// The pipes that the gateway has, by their ends.
fn pipes(site: &Site) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", site.gateway.pid())).unwrap();
    let names = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    names.filter(|name| name.to_str().is_some_and(|name| name.starts_with("pipe:"))).count()
}

/// A caller who asks, and of whom the kernel takes next to nothing before it reads.
fn ask_slowly(site: &Site, target: &str) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&site.gateway.address("main").into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(&Req::get(target).bytes()).unwrap();
    stream
}

fn read_body(stream: TcpStream, length: usize) -> Vec<u8> {
    let mut wire = Wire::plain(stream);
    let head = wire.until(b"\r\n\r\n").unwrap().unwrap();
    assert!(split_head(&head).unwrap().0.contains(" 200 "));
    wire.exact(length).unwrap()
}

#[test]
fn long_answers_come_as_they_were_sent() {
    let site = contents();
    let mut conn = site.connect();
    let mut wrong = Wrong::default();
    // Around what is read at once, what is worth a pipe, what goes through it at once, and beyond what the kernel holds.
    let near = |bytes: usize| [bytes - 1, bytes, bytes + 1, bytes + 300];
    let lengths = [8, 32, 34, 40, 42, 128, 256, 264, 520, 1024].map(|kib| near(kib * 1024));
    for (salt, length) in lengths.into_iter().flatten().chain([9 << 20]).enumerate() {
        let answer = conn.send(&Req::get(&format!("/public/{length}/{salt}")));
        wrong.ok(length, answer.body == content(length, salt), answer.body.len());
    }
    wrong.done();
    assert_eq!(site.upstream.connections(), 1);
}

#[test]
fn many_slow_readers_get_their_own_bytes() {
    const BYTES: usize = 4 << 20;
    let site = contents();
    let before = pipes(&site);
    let readers: Vec<_> = (0..24).map(|salt| ask_slowly(&site, &format!("/public/{BYTES}/{salt}"))).collect();
    until("bytes that wait", || pipes(&site) >= before + 2 * 16);
    // In another order, so that each waits for others.
    for (salt, stream) in readers.into_iter().enumerate().rev() {
        assert!(read_body(stream, BYTES) == content(BYTES, salt), "{salt}");
    }
    // Each of two workers keeps one.
    until("those that nobody needs are closed", || pipes(&site) <= before + 2 * 2);
}

#[test]
fn what_a_caller_leaves_behind_comes_to_nobody() {
    let site = contents();
    let before = pipes(&site);
    let leaving: Vec<_> = (0..8).map(|salt| ask_slowly(&site, &format!("/public/{}/{salt}", 4 << 20))).collect();
    // As long as others come, an upstream's bytes may be what is waited for.
    let looks = std::cell::Cell::new(0);
    until("bytes that wait", || {
        looks.set(if pipes(&site) >= before + 2 * 6 { looks.get() + 1 } else { 0 });
        looks.get() > 20
    });
    drop(leaving);
    site.gateway.wait_metrics("all are gone", |metrics| metrics.sum("tollgate_connections", &[]) == 0.0);
    // Each of two workers may keep one that was empty.
    until("so are their pipes", || pipes(&site) <= before + 2 * 2);
    for n in 0..8 {
        let length = 1 << 20;
        let answer = site.send(&Req::get(&format!("/public/{length}/9")));
        assert!(answer.body == content(length, 9), "{n}");
    }
}

#[test]
fn a_long_answer_that_breaks_off_does_not_look_whole() {
    const BYTES: usize = 1 << 20;
    let mut wrong = Wrong::default();
    for sent in [40_000, BYTES / 2, BYTES - 3000, BYTES - 1] {
        let site = scripted(move |exchange| {
            exchange.keep_alive = false;
            exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n").as_bytes())?;
            exchange.write(&content(sent, 1))
        });
        let mut conn = site.connect();
        conn.write(Req::get("/public/x").bytes());
        let head = conn.read_head().unwrap();
        wrong.eq(sent, head.status, 200);
        let got = conn.wire.exact(sent).unwrap();
        wrong.ok(sent, got == content(sent, 1), "other bytes");
        wrong.ok(sent, conn.wire.ends(), "the connection goes on");
        let told = site.gateway.access_log(&head.request_id());
        wrong.eq(sent, (told["bytes"].as_u64(), field(&told, "aborted")), (Some(sent as u64), Some("true")));
    }
    wrong.done();
}

#[test]
fn a_long_answer_may_come_before_the_end_of_the_request() {
    const BYTES: usize = 3 << 20;
    let site = scripted(|exchange| {
        exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n").as_bytes())?;
        exchange.write(&content(BYTES / 2, 1))?;
        exchange.read_body()?;
        exchange.write(&content(BYTES, 1)[BYTES / 2..])
    });
    let mut conn = site.connect();
    let body = content(1 << 20, 2);
    conn.write(Req::post("/public/x").header("Content-Length", &body.len().to_string()).bytes());
    conn.write(&body[..body.len() / 2]);
    assert_eq!(conn.read_head().unwrap().status, 200);
    let first = conn.wire.exact(BYTES / 2).unwrap();
    conn.write(&body[body.len() / 2..]);
    let rest = conn.wire.exact(BYTES - BYTES / 2).unwrap();
    assert!([first, rest].concat() == content(BYTES, 1));
    assert!(site.upstream.last().body == body);
}

#[test]
fn what_a_server_says_behind_a_long_answer_answers_nobody() {
    const BYTES: usize = 1 << 20;
    let site = scripted(|exchange| {
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n").into_bytes();
        answer.extend_from_slice(&content(BYTES, 1));
        answer.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Unasked: 1\r\n\r\nevil");
        exchange.write(&answer)
    });
    let mut conn: Conn = site.connect();
    for n in 0..3 {
        let answer = conn.send(&Req::get("/public/x"));
        assert!(answer.body == content(BYTES, 1) && answer.header("X-Unasked").is_none(), "{n}");
    }
    assert_eq!(site.upstream.connections(), 3);
}

/// Big enough to show in the memory of the process if it were kept.
const BIG: u64 = 256 << 20;

#[test]
fn big_bodies_pass_in_flat_memory() {
    let site = Site::builder()
        .upstream(RecordingUpstream::scripted(|exchange| {
            if exchange.request.method == "POST" {
                let length = exchange.request.header("Content-Length").unwrap().parse().unwrap();
                exchange.wire.discard(length)?;
                exchange.request.complete = true;
                return exchange.answer("200 OK", "", length.to_string().as_bytes());
            }
            exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n").as_bytes())?;
            let block = vec![b'x'; 1 << 20];
            for _ in 0..BIG >> 20 {
                exchange.write(&block)?;
            }
            Ok(())
        }))
        .limits("body_bytes = \"1GiB\"")
        .more(OPEN)
        .start();
    let mut conn = site.connect();
    conn.send(&Req::post("/public/warm").body(vec![0; 1 << 20]));
    let before = site.gateway.memory("VmRSS");

    conn.write(Req::get("/public/down").bytes());
    assert_eq!(conn.read_head().unwrap().status, 200);
    conn.wire.discard(BIG).unwrap();

    conn.write(Req::post("/public/up").header("Content-Length", &BIG.to_string()).bytes());
    let block = vec![b'x'; 1 << 20];
    for _ in 0..BIG >> 20 {
        conn.write(&block);
    }
    assert_eq!(conn.read_answer().text(), BIG.to_string());
    let peak = site.gateway.memory("VmHWM");
    assert!(peak < before + 48 * 1024, "{before} KiB before, {peak} KiB at the peak");
}

#[test]
fn a_slow_reader_holds_the_upstream_back() {
    static WRITTEN: AtomicUsize = AtomicUsize::new(0);
    let site = scripted(|exchange| {
        exchange.read_body()?;
        exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n").as_bytes())?;
        exchange.wire.socket.set_write_timeout(Some(Duration::from_secs(1)))?;
        let block = vec![b'x'; 1 << 16];
        loop {
            // Blocks, and then gives up, once every buffer on the way is full.
            exchange.write(&block)?;
            WRITTEN.fetch_add(block.len(), Ordering::SeqCst);
        }
    });
    let mut conn = site.connect();
    conn.write(Req::get("/public/down").bytes());
    conn.read_head().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut last = 0;
    loop {
        std::thread::sleep(Duration::from_millis(400));
        let now = WRITTEN.load(Ordering::SeqCst);
        if now == last && now > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "still taking after {now} bytes");
        last = now;
    }
    assert!(last < 64 << 20, "{last} bytes were taken for a caller that reads nothing");
}
