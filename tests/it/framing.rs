//! HTTP/1 requests that two readers could frame in two ways, byte by byte: what is refused, that the connection ends with
//! it, and that nothing behind it is taken for a request.

use crate::support::site::OPEN;
use crate::support::upstream::Exchange;
use crate::support::{Conn, Mint, RecordingUpstream, Req, Site, Wrong};

const GOOD: &str = "GET /public/good HTTP/1.1\r\nHost: api.test\r\n\r\n";
const SMUGGLED: &str = "GET /public/smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n";

/// The statuses that come until the connection ends; 0 stands for one that does not end.
fn statuses(conn: &mut Conn) -> Vec<u16> {
    let mut found = Vec::new();
    loop {
        match conn.read(false) {
            Ok(answer) => found.push(answer.status),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                found.push(0);
                return found;
            }
            Err(_) => return found,
        }
    }
}

/// What a case is told by in `tollgate_requests_malformed_total`, its head lines after `Host`, and what follows the head.
const TWO_READINGS: &[(&str, &str, &str)] = &[
    ("length_and_coding", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("length_and_coding", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
    ("length_and_coding", "Content-Length: 0\r\nX-A: b\r\ntransfer-encoding: CHUNKED\r\n", "0\r\n\r\n"),
    ("length_and_coding", "Content-Length: 5\r\nTransfer-Encoding: identity\r\n", "abcde"),
    ("length", "Content-Length: 0\r\nContent-Length: 5\r\n", ""),
    ("length", "Content-Length: 5\r\nContent-Length: 5\r\n", "abcde"),
    ("length", "Content-Length: 5, 5\r\n", "abcde"),
    ("length", "Content-Length: 0, 5\r\n", ""),
    ("length", "Content-Length: +5\r\n", "abcde"),
    ("length", "Content-Length: -5\r\n", "abcde"),
    ("length", "Content-Length: 0x5\r\n", "abcde"),
    ("length", "Content-Length: 5.0\r\n", "abcde"),
    ("length", "Content-Length: 5 5\r\n", "abcde"),
    ("length", "Content-Length: \r\n", ""),
    ("length", "Content-Length: 99999999999999999999\r\n", ""),
    ("coding", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("coding", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
    ("coding", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("coding", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
    ("coding", "Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"),
    ("coding", "Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
    ("coding", "Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"),
    ("coding", "Transfer-Encoding: identity\r\n", ""),
    ("coding", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
    ("coding", "Transfer-Encoding: cow\r\n", ""),
    ("coding", "Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
    ("coding", "Transfer-Encoding: ,chunked\r\n", "0\r\n\r\n"),
    ("coding", "Transfer-Encoding:\r\n", ""),
    ("line_end", "X-A: b\n", ""),
    ("line_end", "X-A: b\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("line_end", "X-A: b\r\nX-B: c\n\n", ""),
    ("line_end", "\n", ""),
    ("syntax", "Transfer-Encoding: \u{b}chunked\r\n", ""),
    ("syntax", "Transfer-Encoding: chunked\u{c}\r\n", ""),
    ("syntax", "Transfer-Encoding : chunked\r\n", ""),
    ("syntax", "Transfer-Encoding\t: chunked\r\n", ""),
    ("syntax", "Content-Length : 5\r\n", "abcde"),
    ("syntax", "Content-Length\r\n", ""),
    ("coding", "Transfer-Encoding:\r\n chunked\r\n", ""),
    ("length", "Content-Length:\r\n 5\r\n", ""),
    ("syntax", "X-A: b\r\n Transfer-Encoding: chunked\r\n", ""),
    ("syntax", "X-A: b\r\n\tc\r\n", ""),
    ("syntax", " X-A: b\r\n", ""),
    ("syntax", "X A: b\r\n", ""),
    ("syntax", "X-A: b\rContent-Length: 5\r\n", ""),
    ("syntax", "X-A: b\r\r\n", ""),
    ("syntax", "\rX-A: b\r\n", ""),
    ("syntax", "X-A: b\0\r\n", ""),
    ("syntax", "X-\0A: b\r\n", ""),
    ("syntax", "X-A: \u{7f}\r\n", ""),
    ("syntax", ": b\r\n", ""),
    ("syntax", "X-A(x): b\r\n", ""),
    ("syntax", "X-\u{e9}: b\r\n", ""),
    ("syntax", "\u{feff}X-A: b\r\n", ""),
];

/// The same for whole requests.
const TWO_READINGS_WHOLE: &[(&str, &str)] = &[
    ("fragment", "GET /public/x#y HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("fragment", "GET /public/x?y#z HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("fragment", "GET http://api.test/public/x# HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("fragment", "GET #/public/x HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("line_end", "GET /public/x HTTP/1.1\nHost: api.test\r\n\r\n"),
    ("line_end", "GET /public/x HTTP/1.1\nHost: api.test\n\n"),
    ("line_end", "\nGET /public/x HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("line_end", "\r\rGET /public/x HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("syntax", "GET /public/x\r\n\r\n"),
    ("syntax", "GET /public/x \r\nHost: api.test\r\n\r\n"),
    ("syntax", "GET  /public/x HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("syntax", "GET /public/x  HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("syntax", "GET\t/public/x HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("syntax", "GET /public/x\tHTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("syntax", "GET /public/x y HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("syntax", "GET /public/\rx HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("syntax", "GET /public/\0x HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("syntax", " GET /public/x HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("syntax", "G:T /public/x HTTP/1.1\r\nHost: api.test\r\n\r\n"),
    ("syntax", "GET /public/x HTTP/1.1 \r\nHost: api.test\r\n\r\n"),
    ("syntax", "GET /public/x HTTP/1.10\r\nHost: api.test\r\n\r\n"),
    ("syntax", "GET /public/x HTTP/2.0\r\nHost: api.test\r\n\r\n"),
    ("syntax", "GET /public/x http/1.1\r\nHost: api.test\r\n\r\n"),
    ("syntax", "GET /public/x HTTP/01.1\r\nHost: api.test\r\n\r\n"),
    ("syntax", "GET /public/x ICAP/1.1\r\nHost: api.test\r\n\r\n"),
    ("syntax", "POST /public/x HTTP/1.0\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
];

#[test]
fn class_31_a_head_with_two_readings_is_400_and_the_end() {
    let mut cases: Vec<(&str, String)> =
        TWO_READINGS_WHOLE.iter().map(|(reason, request)| (*reason, (*request).to_owned())).collect();
    for (reason, lines, body) in TWO_READINGS {
        cases.push((reason, format!("POST /public/x HTTP/1.1\r\nHost: api.test\r\n{lines}\r\n{body}")));
    }
    let site = Site::open();
    let mut wrong = Wrong::default();
    let mut counted = std::collections::BTreeMap::<&str, f64>::new();
    for (reason, request) in &cases {
        let before = site.upstream.count();
        // By itself, behind another request, after one that was answered, and in two pieces.
        let behind = format!("{GOOD}{request}{SMUGGLED}");
        let mut conn = site.connect();
        conn.write(format!("{request}{SMUGGLED}"));
        wrong.eq((request, "alone"), statuses(&mut conn), [400]);
        let mut conn = site.connect();
        conn.write(&behind);
        wrong.eq((request, "behind another"), statuses(&mut conn), [200, 400]);
        let mut conn = site.connect();
        conn.write(GOOD);
        wrong.eq((request, "before"), conn.read(false).map_or(0, |answer| answer.status), 200);
        let (first, second) = request.split_at(request.len() / 2);
        // Where the first piece is wrong already, nobody waits for the second.
        let _maybe_closed = conn.wire.write(first.as_bytes()).and_then(|()| {
            site.gateway.metrics();
            conn.wire.write(second.as_bytes())
        });
        wrong.eq((request, "after another, in pieces"), statuses(&mut conn), [400]);
        let seen: Vec<_> = site.upstream.requests().drain(before..).map(|request| request.target).collect();
        wrong.eq((request, "forwarded"), seen, ["/public/good"; 2]);
        *counted.entry(reason).or_default() += 3.0;
    }
    wrong.done();
    site.gateway.wait_metrics("each case under its reason", |metrics| {
        ["length_and_coding", "length", "coding", "fragment"]
            .iter()
            .all(|reason| metrics.sum("tollgate_requests_malformed_total", &[("reason", reason)]) == counted[reason])
            && metrics.sum("tollgate_requests_malformed_total", &[]) == counted.values().sum::<f64>()
    });
}

#[test]
fn class_31_what_has_one_reading_is_served() {
    let site = Site::open();
    let mut conn = site.connect();
    let mut wrong = Wrong::default();
    let long = format!("X-Long: {}\r\n", "a".repeat(20_000));
    for (head, body, received) in [
        ("GET /public/x HTTP/1.1\r\n", "", ""),
        // An empty line before the request (RFC 9112 section 2.2).
        ("\r\nGET /public/x HTTP/1.1\r\n", "", ""),
        ("POST /public/x HTTP/1.1\r\nContent-Length: 5\r\n", "a\n\n\nb", "a\n\n\nb"),
        ("POST /public/x HTTP/1.1\r\ncontent-length:\t5 \r\n", "#####", "#####"),
        ("POST /public/x HTTP/1.1\r\nContent-Length: 0\r\n", "", ""),
        ("POST /public/x HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n", "3\r\na\nb\r\n0\r\n\r\n", "a\nb"),
        ("POST /public/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", "0003 ;a=\"b\"\r\nabc\r\n00\r\n\r\n", "abc"),
        ("POST /public/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", "1\r\na\r\n0\r\nX-T: #\r\nX-U: \r\n\r\n", "a"),
        ("POST /public/x HTTP/1.1\r\nX-A: #\r\nX-B:\tb\tc\r\nX-C:\r\nX-D: \u{e9}\r\nContent-Length: 1\r\n", "a", "a"),
        (&format!("POST /public/x HTTP/1.1\r\n{long}Content-Length: 1\r\n"), "a", "a"),
        ("GET /public/x HTTP/1.1\r\nContent-Length: 3\r\n", "abc", "abc"),
        ("GET /public/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n", "abc"),
        ("DELETE /public/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n", "abc"),
    ] {
        let bytes = format!("{head}Host: api.test\r\n\r\n{body}");
        conn.write(&bytes);
        wrong.eq(head, conn.read_answer().status, 200);
        wrong.eq(head, String::from_utf8(site.upstream.last().body).unwrap(), received);
    }
    wrong.done();
}

#[test]
fn class_31_chunks_with_two_readings_never_look_complete() {
    let site = Site::open();
    let mut wrong = Wrong::default();
    for body in [
        "\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3h\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3 3\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\n\r\n",
        "3\r\nabc\r\n0\r\n\n",
        "3\r\nabc\r\n0\n\n",
        "3\r\nabc\r\n0\r\nX-T: a\n\r\n",
        "3\r\nabc\r\n0\r\nX-T: a\n\n",
        "3\r\nabc\r\n0\r\n folded\r\n\r\n",
        "3\r\nabc\r\n0\r\nX-T: a\rb\r\n\r\n",
        "3;a\nabc\r\n0\r\n\r\n",
        "3;a\rabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n10000000000000000\r\n",
        "3\r\nabc\r\nffffffffffffffffff\r\n",
        "00000000000000003\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0;\n\r\n\r\n",
    ] {
        let mut conn = site.connect();
        conn.write(format!(
            "POST /public/x HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}{GOOD}"
        ));
        wrong.eq(body, statuses(&mut conn), [400]);
    }
    wrong.ok("complete", site.upstream.requests().iter().all(|request| !request.complete), site.upstream.count());
    wrong.eq("smuggled", site.upstream.requests().iter().filter(|request| request.method == "GET").count(), 0);
    wrong.done();
}

#[test]
fn class_31_lengths_in_other_spellings_are_refused_with_an_id() {
    let site = Site::open();
    for length in ["05", "00", "00000000000000005"] {
        let answer = site.send(&Req::post("/public/x").header("Content-Length", length).raw_body("abcde"));
        assert_eq!(answer.status, 400, "{length}");
        let line = site.gateway.access_log(&answer.request_id());
        assert_eq!(crate::support::field(&line, "reason"), Some("content_length"));
    }
    assert_eq!(site.upstream.count(), 0);
}

#[test]
fn class_31_after_a_denial_the_body_is_read_as_one_or_the_connection_ends() {
    let site = Site::open();
    let mut wrong = Wrong::default();
    let length = SMUGGLED.len();
    for (case, head, parts) in [
        ("all at once", format!("Content-Length: {length}\r\n"), vec![SMUGGLED.to_owned()]),
        ("later", format!("Content-Length: {length}\r\n"), vec![String::new(), SMUGGLED.to_owned()]),
        ("half", format!("Content-Length: {length}\r\n"), vec![SMUGGLED[..9].to_owned(), SMUGGLED[9..].to_owned()]),
        ("more than was sent", format!("Content-Length: {}\r\n", length + 9), vec![SMUGGLED.to_owned()]),
        (
            "chunked, at once",
            "Transfer-Encoding: chunked\r\n".to_owned(),
            vec![format!("{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n")],
        ),
        (
            "chunked, later",
            "Transfer-Encoding: chunked\r\n".to_owned(),
            vec![format!("{length:x}\r\n"), format!("{SMUGGLED}\r\n0\r\n\r\n")],
        ),
        (
            "invited",
            format!("Expect: 100-continue\r\nContent-Length: {length}\r\n"),
            vec![String::new(), SMUGGLED.to_owned()],
        ),
        (
            "invited, chunked",
            "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            vec![String::new(), SMUGGLED.to_owned()],
        ),
    ] {
        let before = site.upstream.count();
        let mut conn = site.connect();
        let mut parts = parts.into_iter();
        conn.write(format!("POST /denied HTTP/1.1\r\nHost: api.test\r\n{head}\r\n{}", parts.next().unwrap()));
        wrong.eq(case, conn.read_answer().status, 401);
        for part in parts {
            let _maybe_closed = conn.wire.write(part.as_bytes());
        }
        let _maybe_closed = conn.wire.write(GOOD.as_bytes());
        let after = conn.read(false).map_or(0, |answer| answer.status);
        wrong.ok((case, "after"), matches!(after, 0 | 200), after);
        let seen: Vec<_> = site.upstream.requests().drain(before..).map(|request| request.target).collect();
        wrong.ok((case, "forwarded"), !seen.contains(&"/public/smuggled".to_owned()), &seen);
    }
    wrong.done();
}

#[test]
fn class_31_expectations_change_no_framing_and_are_not_passed_on() {
    let site = Site::open();
    let mut wrong = Wrong::default();
    for (version, lines, interim) in [
        ("1.1", "Expect: 100-continue\r\n", &[100][..]),
        ("1.1", "Expect: 100-Continue\r\n", &[100]),
        ("1.1", "Expect: 100-continue, x\r\n", &[]),
        ("1.1", "Expect: 200-ok\r\n", &[]),
        ("1.1", "Expect: \r\n", &[]),
        ("1.1", "Expect: x\r\nExpect: 100-continue\r\n", &[100]),
        ("1.0", "Expect: 100-continue\r\n", &[]),
    ] {
        let mut conn = site.connect();
        conn.write(format!("POST /public/x HTTP/{version}\r\nHost: api.test\r\n{lines}Content-Length: 5\r\n\r\n"));
        // Sent without an invitation too, as HTTP allows.
        conn.write("GET /");
        let answer = conn.read_answer();
        wrong.eq(lines, (answer.status, answer.interim), (200, interim.to_vec()));
        let seen = site.upstream.last();
        wrong.eq(lines, (seen.body.as_slice(), seen.has("Expect")), (&b"GET /"[..], false));
    }
    wrong.done();
}

#[test]
fn class_31_forms_of_the_target() {
    let site = Site::open();
    let mut wrong = Wrong::default();
    for (target, status, forwarded) in [
        ("http://api.test/public/x?y", 200, Some("/public/x?y")),
        ("HTTP://API.test/public/x", 200, Some("/public/x")),
        ("https://api.test/public/x", 200, Some("/public/x")),
        ("http://api.test", 401, None),
        ("http://other.test/public/x", 400, None),
        ("api.test:80", 400, None),
        ("api.test", 400, None),
        ("*", 400, None),
        ("?x", 400, None),
        ("public/x", 400, None),
        ("http:/public/x", 400, None),
        ("//api.test/public/x", 400, None),
    ] {
        let before = site.upstream.count();
        wrong.eq(target, site.send(&Req::get(target)).status, status);
        let seen: Vec<_> = site.upstream.requests().drain(before..).map(|request| request.target).collect();
        wrong.eq(target, seen, forwarded.as_slice());
    }
    let options = site.send(&Req::new("OPTIONS", "*"));
    wrong.eq("OPTIONS *", options.status, 400);
    wrong.done();
}

/// Switches protocols for whoever asks and sends lines back, or refuses under `/public/refused`.
fn switching(exchange: &mut Exchange) -> std::io::Result<()> {
    if !exchange.request.has("Upgrade") || exchange.request.target.contains("refused") {
        return exchange.answer("200 OK", "", b"");
    }
    exchange.read_body()?;
    exchange.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")?;
    exchange.keep_alive = false;
    while let Some(line) = exchange.wire.until(b"\n")? {
        exchange.write(&line)?;
    }
    Ok(())
}

#[test]
fn class_31_bytes_after_an_upgrade() {
    let site = Site::builder().upstream(RecordingUpstream::scripted(switching)).more(OPEN).start();
    let upgrade = |target: &str, lines: &str, rest: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nHost: api.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{lines}\r\n{rest}"
        )
    };
    let frame = "\u{1}\u{5}hello\n";
    let mut wrong = Wrong::default();
    // Once the switch is made, nothing is read as HTTP any more.
    for body in ["", "Content-Length: 3\r\n"] {
        let mut conn = site.connect();
        conn.write(upgrade("/public/x", body, if body.is_empty() { "" } else { "abc" }));
        wrong.eq(body, conn.read_answer().status, 101);
        for line in [frame, "GET /x#y HTTP/1.1\n", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"] {
            conn.write(line);
            wrong.eq(line, String::from_utf8(conn.wire.exact(line.len()).unwrap()).unwrap(), line);
        }
    }
    // What comes before the answer belongs to the other protocol if the switch is made, and is no request if it is not.
    let mut conn = site.connect();
    conn.write(upgrade("/public/x", "", frame));
    wrong.eq("early", conn.read_answer().status, 101);
    wrong.eq("early", String::from_utf8(conn.wire.exact(frame.len()).unwrap()).unwrap().as_str(), frame);
    let mut conn = site.connect();
    conn.write(upgrade("/public/refused", "", frame));
    wrong.eq("early and refused", statuses(&mut conn), [200, 400]);
    // What is HTTP is a request if the switch was refused, and judged as one.
    let mut conn = site.connect();
    conn.write(upgrade("/public/refused", "", "GET /secret HTTP/1.1\r\nHost: api.test\r\n\r\n"));
    wrong.eq("HTTP, early", (conn.read_answer().status, conn.read_answer().status), (200, 401));
    let mut conn = site.connect();
    conn.write(upgrade("/public/refused", "", ""));
    wrong.eq("refused", conn.read_answer().status, 200);
    conn.write("GET /public/x#y HTTP/1.1\r\nHost: api.test\r\n\r\n");
    wrong.ok("after a refusal", statuses(&mut conn).iter().all(|status| *status == 400), "served");
    for request in site.upstream.requests() {
        wrong.ok("forwarded", !request.target.contains("secret"), request.target);
        wrong.ok("head", !String::from_utf8_lossy(&request.head).contains("hello"), request.head);
    }
    wrong.done();
}

#[test]
fn class_31_the_rules_hold_on_every_listener_and_endpoint() {
    let site = Site::builder()
        .server("public_url = \"https://api.test\"")
        .more(OPEN)
        .more("[listeners.plain]\naddress = \"127.0.0.1:0\"\nredirect_to_https = true\n")
        .mint(Mint::new())
        .start();
    for request in ["GET /public/x#y HTTP/1.1\r\nHost: api.test\r\n\r\n", "GET / HTTP/1.1\nHost: api.test\r\n\r\n"] {
        let mut conn = Conn::open(site.gateway.address("plain"));
        conn.write(format!("{request}{SMUGGLED}"));
        assert_eq!(statuses(&mut conn), [400], "{request:?}");
    }
}
