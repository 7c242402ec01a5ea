//! What the gateway makes of requests that servers read differently: each is sent through it, and the bytes that it
//! forwards are given to other servers. Nothing may leave it that two of them read as two different things.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::frames::{self, DATA, END_HEADERS, END_STREAM, Field, Frames, HEADERS, Outcome};
use crate::support::parsers::{Parsers, Reading};
use crate::support::upstream::Recorded;
use crate::support::wire::{PATIENCE, Wire};
use crate::support::{RecordingUpstream, Site, Wrong};

/// Opens every spelling that a route can open.
const ROUTES: &str = r#"
[[routes]]
name = "public"
path = "/public/**"
upstream = "app"
allow = [{ public = true }]
[routes.forward]
host = "preserve"

[[routes]]
name = "open"
path = "/open/**"
upstream = "app"
allow = [{ public = true }]
allow_in_path = ["%2F", "%5C", "\\", "%25", ";", "%3B", "%3F", "%23", "//"]
underscore_headers = "pass"
[routes.forward]
host = "preserve"
authorization = "pass"
"#;

/// Ends the connection, and is there to be mistaken for something else.
const LAST: &str = "GET /public/last HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n";

/// What follows on the connection to the upstream.
const CANARY: &str = "GET /canary HTTP/1.1\r\nHost: canary.test\r\nConnection: close\r\n\r\n";

/// The bytes of one connection to the upstream, and whether it is over.
#[derive(Clone, Default)]
struct Tape(Arc<Mutex<(Vec<u8>, bool)>>);

struct Tee {
    stream: TcpStream,
    tape: Tape,
}

impl Read for Tee {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buf)?;
        self.tape.0.lock().unwrap().0.extend_from_slice(&buf[..n]);
        Ok(n)
    }
}

impl Write for Tee {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.tape.0.lock().unwrap().1 = true;
    }
}

/// What stands between the pieces of a request here, one after the other.
const NASTY: [&str; 22] = [
    "\r", "\n", "\r\n", " ", "\t", "\0", "\u{b}", "\u{c}", "\u{7f}", "\u{e9}", ":", ",", ";", "#", "+", "0x", "-",
    "\\", "\"", "%0d%0a", "\r\n ", "\n\n",
];

/// Ways in which heads were made to have two framings elsewhere.
const LINES: &[&str] = &[
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 0",
    "Content-Length: 05",
    "Content-Length: 5, 5",
    "Content-Length: 5\r\nContent_Length: 0",
    "Content_Length: 5",
    "Content-Length: 5\r\nX-Content-Length: 0",
    "Content-Length: 5\r\nConnection: Content-Length",
    "Content-Length: 5\r\nConnection: close, content-length, host",
    "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer_Encoding: identity",
    "Transfer_Encoding: chunked\r\nContent-Length: 5",
    "Transfer.Encoding: chunked\r\nContent-Length: 5",
    "Transfer-Encoding: xchunked\r\nContent-Length: 5",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked;q=0.5",
    "Transfer-Encoding: CHUNKED",
    "tRaNsFeR-eNcOdInG: cHuNkEd",
    "X-A: b\nTransfer-Encoding: chunked\r\nContent-Length: 5",
    "X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: 5",
    "Transfer-Encoding\r\n : chunked\r\nContent-Length: 5",
    "Transfer-Encoding:\r\n chunked\r\nContent-Length: 5",
    "Foo: bar\r\n Transfer-Encoding: chunked\r\nContent-Length: 5",
    " Transfer-Encoding: chunked\r\nContent-Length: 5",
    "TE: trailers, chunked\r\nContent-Length: 5",
    "TE: trailers\r\nTrailer: Content-Length\r\nTransfer-Encoding: chunked",
    "Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 5",
    "Upgrade: websocket\r\nConnection: upgrade\r\nTransfer-Encoding: chunked",
    "Upgrade: h2c\r\nConnection: upgrade, http2-settings\r\nHTTP2-Settings: AAMA\r\nContent-Length: 5",
    "Connection: upgrade\r\nContent-Length: 5",
    "Expect: 100-continue\r\nContent-Length: 5",
    "Expect: 100-continue\r\nTransfer-Encoding: chunked",
    "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 5",
    "Proxy-Connection: close\r\nContent-Length: 5",
    "Connection: close\r\nConnection: keep-alive\r\nContent-Length: 5",
    "Host: api.test\r\nContent-Length: 5",
    "Host: other.test\r\nContent-Length: 5",
    "hOST: other.test\r\nTransfer-Encoding: chunked",
    "X-Forwarded-Host: other.test\r\nContent-Length: 5",
    "Content-Encoding: chunked\r\nContent-Length: 5",
    "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5",
    "X-HTTP-Method-Override: DELETE\r\nContent-Length: 5",
    "X-Empty:\r\nX-Tab:\ta\tb\r\nContent-Length: 5",
    "Range: bytes=0-1\r\nContent-Length: 5",
];

const TARGETS: &[&str] = &[
    "/open/a?b=c&d=%0d%0a",
    "/open/a?b=c/../d",
    "/open/a?b c",
    "/open/a?b=\"<>{}|^`\\",
    "/open/a?b#c",
    "/open/a??b",
    "/open/%20%22%3C%3E%5B%5D%7B%7D",
    "/open/a%2Fb",
    "/open/a%2fb",
    "/open/a%5cb",
    "/open/a\\b",
    "/open/a%25b",
    "/open/a%2500b",
    "/open/a;b=c",
    "/open/a%3bb",
    "/open/a%3fb",
    "/open/a%23b",
    "/open//a",
    "/open//api.test/a",
    "/open/a//",
    "/open/\"a\"",
    "/open/{a}|^`b",
    "/open/[a]<b>",
    "/open/a:80",
    "/open/@a",
    "/open/*",
    "/open/~a!$&'()*+,=",
    "/open/http://a/",
    "/open/HTTP/1.1",
    "http://api.test/open/a",
    "http://api.test:80/open/a",
    "HTTP://API.TEST/open/a",
    "https://api.test/open/a",
    "http://api.test?a",
    "http://user@api.test/open/a",
    "//api.test/open/a",
    "/%6fpen/a",
    "/open/caf\u{e9}",
    "/open/caf%c3%a9",
    "/open/a?caf\u{e9}",
    "*",
    "open/a",
    "?a",
];

const METHODS: &[&str] = &[
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "get",
    "Post",
    "PROPFIND",
    "M-SEARCH",
    "PURGE",
    "PRI",
    "QUERY",
    "X",
    "X_Y",
    "X'Y",
    "!#$%&'*+-.^_`|~",
    "G\u{e9}T",
];

/// The rest of requests whose bodies say something of their own.
const CHUNKS: &[&str] = &[
    "5\r\nabcde\r\n0\r\n\r\n",
    "5 \r\nabcde\r\n0\r\n\r\n",
    "05\r\nabcde\r\n000\r\n\r\n",
    "5;a=b\r\nabcde\r\n0\r\n\r\n",
    "5;a=\"\r\nabcde\r\n0\r\n\r\n",
    "5 ; a\r\nabcde\r\n0;b\r\n\r\n",
    "5;\0\r\nabcde\r\n0\r\n\r\n",
    "5\r\nabcde\r\n0\r\nX-T: a\r\n\r\n",
    "5\r\nabcde\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\nHost: evil\r\n\r\n",
    "5\r\nabcde\r\n0\r\nGET /x HTTP/1.1\r\n\r\n",
    "A\r\n0\r\n\r\nGET /\r\n0\r\n\r\n",
    "a\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n",
    "0\r\n\r\n",
    "1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
    "0x5\r\nabcde\r\n0\r\n\r\n",
    "+5\r\nabcde\r\n0\r\n\r\n",
    "5\nabcde\r\n0\r\n\r\n",
    "5\r\nabcde\n0\r\n\r\n",
    "5\r\nabcde\r\n0\r\n\n",
    "5\r\nabcdef\r\n0\r\n\r\n",
    "5;a\nb\r\nabcde\r\n0\r\n\r\n",
    "10000000000000005\r\nabcde\r\n0\r\n\r\n",
    "5\r\nabcde\r\n0\r\nX-T: a\n\r\n",
    "5\r\nabcde\r\n0\r\n X-T: a\r\n\r\n",
    "5\r\nabcde\r\n0\r\n: a\r\n\r\n",
];

/// The requests to be sent, each with its number and with what follows it.
fn corpus() -> Vec<Vec<u8>> {
    let mut cases = Vec::new();
    let mut case = |head: String, body: &str| {
        let text = format!("{head}\r\nX-Case: {}\r\n\r\n{body}{LAST}", cases.len());
        // A character is a byte.
        cases.push(text.chars().map(|c| u8::try_from(c).unwrap()).collect());
    };
    for (framing, body) in
        [("X-A: b", ""), ("Content-Length: 5", "GET /"), ("Transfer-Encoding: chunked", "5\r\nGET /\r\n0\r\n\r\n")]
    {
        for method in METHODS {
            case(format!("{method} /open/a HTTP/1.1\r\nHost: api.test\r\n{framing}"), body);
        }
        for target in TARGETS {
            case(format!("POST {target} HTTP/1.1\r\nHost: api.test\r\n{framing}"), body);
        }
        case(format!("POST /open/a HTTP/1.0\r\nHost: api.test\r\n{framing}"), body);
        case(format!("POST /open/a HTTP/1.0\r\n{framing}\r\nConnection: keep-alive"), body);
        case(format!("\r\nPOST /open/a HTTP/1.1\r\nHost: api.test\r\n{framing}"), body);
        // Something nasty between every two pieces.
        let (name, value) = framing.split_once(": ").unwrap();
        let pieces = [
            "POST",
            " ",
            "/open/a",
            "?b",
            " ",
            "HTTP/1.1",
            "\r\n",
            "Host: api",
            ".test",
            "\r\n",
            name,
            ":",
            " ",
            value,
        ];
        for at in 0..=pieces.len() {
            for nasty in NASTY {
                case([&pieces[..at], &[nasty], &pieces[at..]].concat().concat(), body);
            }
        }
    }
    for lines in LINES {
        for body in ["GET /", "5\r\nGET /\r\n0\r\n\r\n", "0\r\n\r\n"] {
            case(format!("POST /open/a HTTP/1.1\r\nHost: api.test\r\n{lines}"), body);
            case(format!("GET /open/a HTTP/1.1\r\n{lines}\r\nHost: api.test"), body);
        }
    }
    for chunks in CHUNKS {
        for method in ["POST", "GET"] {
            let head = format!("{method} /open/a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked");
            case(head, chunks);
        }
    }
    cases
}

/// Heads and data over HTTP/2, to be made HTTP/1.1 of. Its fields may hold what no HTTP/1 line can.
fn http2_corpus() -> Vec<(Vec<u8>, Vec<&'static [u8]>)> {
    let head = |changes: &[Field<'static>], more: &[Field<'static>]| {
        let mut fields = frames::get("/open/a");
        fields[0].1 = b"POST";
        for (name, value) in changes {
            for field in fields.iter_mut().filter(|field| field.0 == *name) {
                field.1 = value;
            }
        }
        fields.extend(more);
        frames::block(&fields)
    };
    let mut cases: Vec<(Vec<u8>, Vec<&'static [u8]>)> = Vec::new();
    let bodies: [Vec<&[u8]>; 4] = [vec![], vec![b""], vec![b"GET /"], vec![b"GE", b"", b"T /"]];
    for body in &bodies {
        for more in HTTP2_FIELDS {
            cases.push((head(&[], more), body.clone()));
        }
        for (name, value) in HTTP2_PSEUDO {
            cases.push((head(&[(name, value)], &[]), body.clone()));
        }
    }
    for nasty in NASTY {
        let nasty: &[u8] = nasty.as_bytes();
        let around = |text: &[u8]| [nasty, text, nasty, text].concat().leak() as &[u8];
        for name in [&b":method"[..], b":path", b":authority", b":scheme"] {
            let value =
                if name == b":path" { [b"/open/a".as_slice(), nasty, b"b"].concat().leak() } else { around(b"GET") };
            cases.push((head(&[(name, value)], &[]), vec![b"GET /"]));
        }
        for field in [(&b"x-a"[..], around(b"b")), (around(b"x-a"), b"b"), (b"content-length", around(b"5"))] {
            cases.push((head(&[], &[field]), vec![b"GET /"]));
        }
    }
    cases
}

const HTTP2_FIELDS: &[&[Field<'static>]] = &[
    &[],
    &[(b"content-length", b"0")],
    &[(b"content-length", b"5")],
    &[(b"content-length", b"5"), (b"content-length", b"5")],
    &[(b"content-length", b"5"), (b"content-length", b"0")],
    &[(b"content-length", b"5, 5")],
    &[(b"content-length", b"05")],
    &[(b"content-length", b"")],
    &[(b"content-length", b""), (b"content-length", b"5")],
    &[(b"content-length", b"+5")],
    &[(b"content-length", b"6")],
    &[(b"content-length", b"4")],
    &[(b"Content-Length", b"5")],
    &[(b"transfer-encoding", b"chunked")],
    &[(b"Transfer-Encoding", b"chunked")],
    &[(b"transfer_encoding", b"chunked")],
    &[(b"connection", b"close")],
    &[(b"connection", b"content-length")],
    &[(b"upgrade", b"websocket")],
    &[(b"te", b"trailers")],
    &[(b"te", b"trailers, chunked")],
    &[(b"trailer", b"content-length")],
    &[(b"host", b"api.test")],
    &[(b"host", b"other.test")],
    &[(b"host", b"api.test"), (b"host", b"api.test")],
    &[(b"expect", b"100-continue")],
    &[(b"x-a", b"b\r\nTransfer-Encoding: chunked")],
    &[(b"x-a", b"b\r\n\r\nGET /x HTTP/1.1\r\nHost: api.test\r\n\r\n")],
    &[(b"x-a: b\r\ntransfer-encoding", b"chunked")],
    &[(b"x-a: b", b"c")],
    &[(b"x-a ", b"b")],
    &[(b" x-a", b"b")],
    &[(b"", b"b")],
    &[(b":", b"b")],
    &[(b"x-a", b" b ")],
    &[(b"x-a", b"")],
    &[(b"cookie", b"a=b"), (b"cookie", b"c=d")],
];

const HTTP2_PSEUDO: &[Field<'static>] = &[
    (b":path", b"/open/a b"),
    (b":path", b"/open/a HTTP/1.1\r\nX-A: b"),
    (b":path", b"/open/a#b"),
    (b":path", b"/open/a?b#c"),
    (b":path", b"http://api.test/open/a"),
    (b":path", b"//api.test/open/a"),
    (b":path", b"open/a"),
    (b":path", b"*"),
    (b":path", b""),
    (b":path", b"/open/caf\xc3\xa9"),
    (b":path", b"/open/a?\xc3\xa9"),
    (b":path", b"/open/a?\xff"),
    (b":path", b"/open/\"{}|^`"),
    (b":method", b"GET / HTTP/1.1\r\nX-A: b\r\n\r\nGET"),
    (b":method", b"GET"),
    (b":method", b"HEAD"),
    (b":method", b"get"),
    (b":method", b""),
    (b":method", b"CONNECT"),
    (b":scheme", b"http://api.test/open/x HTTP/1.1\r\n"),
    (b":scheme", b"https"),
    (b":scheme", b"ftp"),
    (b":scheme", b""),
    (b":authority", b""),
    (b":authority", b"api.test\r\nX-A: b"),
    (b":authority", b"api.test, other.test"),
    (b":authority", b"api.test:"),
    (b":authority", b"user@api.test"),
    (b":authority", b"api.test/x"),
];

/// What the gateway made of the cases: the bytes of each connection to the upstream, and the request on it if it was whole.
fn forwarded(cases: &[Vec<u8>], over_http2: &[(Vec<u8>, Vec<&[u8]>)]) -> Vec<(Vec<u8>, Option<Recorded>)> {
    let tapes = Arc::new(Mutex::new(Vec::<Tape>::new()));
    let shared = tapes.clone();
    let upstream = RecordingUpstream::over(
        move |socket| {
            let tape = Tape::default();
            shared.lock().unwrap().push(tape.clone());
            Ok(Wire::over(Box::new(Tee { stream: socket.try_clone()?, tape }), socket))
        },
        |exchange| exchange.answer("200 OK", "", b"ok"),
    );
    let site = Site::builder()
        .upstream(upstream)
        .upstream_lines("idle_connections = 0\nretries = 0")
        .limits("header_timeout = \"300ms\"\nbody_timeout = \"300ms\"\nidle_timeout = \"300ms\"")
        .more(ROUTES)
        .start();
    thread::scope(|scope| {
        for cases in cases.chunks(cases.len().div_ceil(8)) {
            let site = &site;
            scope.spawn(move || {
                for bytes in cases {
                    let mut conn = site.connect();
                    let _may_be_refused_early = conn.wire.write(bytes);
                    let _whatever = conn.wire.rest();
                }
            });
        }
        for cases in over_http2.chunks(over_http2.len().div_ceil(4)) {
            let site = &site;
            scope.spawn(move || {
                for (head, data) in cases {
                    let mut client = Frames::open(site.gateway.address("main"));
                    let end = if data.is_empty() { END_STREAM } else { 0 };
                    let _may_be_refused_early = client.send(HEADERS, END_HEADERS | end, 1, head);
                    for (at, piece) in data.iter().enumerate() {
                        let end = if at + 1 == data.len() { END_STREAM } else { 0 };
                        let _may_be_refused_early = client.send(DATA, end, 1, piece);
                    }
                    let outcome = client.outcome(1);
                    assert_ne!(outcome, Outcome::Waiting, "{}", head.escape_ascii());
                }
            });
        }
    });
    // Each connection carries one request and ends with it.
    let over = || tapes.lock().unwrap().iter().all(|tape| tape.0.lock().unwrap().1);
    let deadline = Instant::now() + PATIENCE;
    while !over() {
        assert!(Instant::now() < deadline, "a connection to the upstream stays open");
        thread::sleep(Duration::from_millis(5));
    }
    // Heads differ by the request's id.
    let whole = site.upstream.requests().into_iter().filter(|request| request.complete);
    let mut whole: HashMap<Vec<u8>, Recorded> = whole.map(|request| (request.head.clone(), request)).collect();
    let tapes = tapes.lock().unwrap();
    let streams = tapes.iter().map(|tape| tape.0.lock().unwrap().0.clone());
    streams
        .map(|bytes| {
            let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
            let request = whole.remove(&bytes[..head]);
            (bytes, request)
        })
        .collect()
}

/// The number of a case with more than one line that names a host.
fn names_two_hosts(case: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(case);
    let (head, _) = text.split_once("\r\n\r\n")?;
    let lines = || head.split("\r\n").filter_map(|line| line.split_once(": "));
    let hosts = lines().filter(|(name, _)| name.eq_ignore_ascii_case("host")).count();
    let (_, number) = lines().find(|(name, _)| *name == "X-Case")?;
    (hosts > 1).then(|| number.to_owned())
}

/// Methods that every server knows. It may refuse others, as long as it does not take them for something else.
const USUAL: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

#[test]
fn class_31_nothing_is_forwarded_that_two_servers_read_differently() {
    let Some(parsers) = Parsers::start() else { return };
    let (cases, over_http2) = (corpus(), http2_corpus());
    let mut streams = forwarded(&cases, &over_http2);
    // Which host it names is for the first server to say that reads it, unless there is only one.
    let names_two = cases.iter().filter_map(|case| names_two_hosts(case)).collect::<Vec<_>>();
    assert!(names_two.len() > 10, "{names_two:?}");
    for (_, request) in &streams {
        let number = request.as_ref().and_then(|request| request.header("X-Case"));
        assert!(!number.is_some_and(|number| names_two.iter().any(|two| two == number)), "{request:?}");
    }
    // What ended each case is the same every time.
    let is_last = |request: &Recorded| request.target == "/public/last" && request.body.is_empty();
    streams.retain(|(_, request)| !request.as_ref().is_some_and(is_last));
    let whole = streams.iter().filter(|(_, request)| request.is_some()).count();
    println!("{} cases and {} over HTTP/2: {} forwarded, {whole} whole", cases.len(), over_http2.len(), streams.len());
    assert!(whole > 500 && streams.len() > whole, "the cases do not say much any more");

    let wrong = Mutex::new(Wrong::default());
    thread::scope(|scope| {
        for parser in &parsers.all {
            let (streams, wrong) = (&streams, &wrong);
            scope.spawn(move || {
                for (bytes, request) in streams {
                    let case = (parser.name, bytes.escape_ascii().to_string());
                    let Some(request) = request else {
                        let readings = parser.read_cut_off(bytes);
                        wrong.lock().unwrap().eq(case, readings.requests, []);
                        continue;
                    };
                    let readings = parser.read(bytes, CANARY);
                    if readings.refused.is_some() && !USUAL.contains(&request.method.as_str()) {
                        wrong.lock().unwrap().eq(case, readings.requests, []);
                        continue;
                    }
                    let expected = [Reading::of(request), Reading::of_text("GET", "/canary", "canary.test")];
                    wrong.lock().unwrap().eq(
                        case,
                        (readings.requests.as_slice(), readings.refused),
                        (&expected[..], None),
                    );
                }
            });
        }
    });
    wrong.into_inner().unwrap().done();
}
