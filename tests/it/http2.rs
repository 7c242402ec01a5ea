//! HTTP/2 as no client speaks it: floods, bombs and malformed requests, frame by frame. Whatever comes, the gateway stays,
//! others are served meanwhile, and the memory it takes is bounded.

use std::io;
use std::time::Duration;

use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Field, Frames, GOAWAY, HEADERS, Outcome, PING, PREFACE, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, get, integer,
};
use crate::support::others::during;
use crate::support::site::OPEN;
use crate::support::wire::PATIENCE;
use crate::support::{RecordingUpstream, Req, Site, Wrong};

/// Codes of RFC 9113 section 7.
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// Frames of one flood. It may be stopped earlier.
const FLOOD: u32 = 20_000;
/// What a flood may cost, in KiB, wherever it stands when it is looked at.
const MEMORY: u64 = 64 * 1024;

/// Sends until the other side has had enough, or all is sent.
fn flood(frames: &mut Frames, mut next: impl FnMut(u32) -> Vec<u8>) -> io::Result<()> {
    // Not being read is a way of having had enough.
    frames.wire.socket.set_write_timeout(Some(Duration::from_secs(2)))?;
    for batch in 0..FLOOD / 100 {
        let bytes: Vec<u8> = (0..100).flat_map(|n| next(batch * 100 + n)).collect();
        frames.write(&bytes)?;
    }
    Ok(())
}

fn request(stream: u32, fields: &[Field<'_>]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(fields))
}

/// The head of a request whose body is to come.
fn open(stream: u32) -> Vec<u8> {
    let mut fields = get("/public/x");
    fields[0].1 = b"POST";
    frame(HEADERS, END_HEADERS, stream, &block(&fields))
}

type Next<'a> = Box<dyn FnMut(u32) -> Vec<u8> + 'a>;

#[test]
fn class_33_floods() {
    let site = Site::open();
    let address = site.gateway.address("main");
    let reset = |stream| frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    let window = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let get = || get("/public/x");
    let length_6 = || {
        let mut fields = get();
        fields[0].1 = b"POST";
        fields.push((b"content-length", b"6"));
        block(&fields)
    };
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]);
    // What comes first, and then again and again; and the code with which the connection must end, if it must.
    let cases: Vec<(&str, Vec<u8>, Option<u32>, Next<'_>)> = vec![
        (
            "requests that are taken back",
            vec![],
            Some(ENHANCE_YOUR_CALM),
            Box::new(|n| [request(n * 2 + 1, &get()), reset(n * 2 + 1)].concat()),
        ),
        (
            "bodies that are taken back",
            vec![],
            Some(ENHANCE_YOUR_CALM),
            Box::new(|n| [open(n * 2 + 1), reset(n * 2 + 1)].concat()),
        ),
        (
            "requests that make us take them back",
            vec![],
            Some(ENHANCE_YOUR_CALM),
            Box::new(|n| {
                let data = frame(DATA, END_STREAM, n * 2 + 1, b"short");
                [frame(HEADERS, END_HEADERS, n * 2 + 1, &length_6()), data].concat()
            }),
        ),
        (
            "requests without a head",
            vec![],
            Some(ENHANCE_YOUR_CALM),
            Box::new(|n| frame(HEADERS, END_HEADERS | END_STREAM, n * 2 + 1, &[])),
        ),
        ("more requests than may run", vec![], Some(ENHANCE_YOUR_CALM), Box::new(|n| open(n * 2 + 1))),
        (
            "continuations without end",
            frame(HEADERS, 0, 1, &[]),
            Some(ENHANCE_YOUR_CALM),
            Box::new(|_| frame(CONTINUATION, 0, 1, &[])),
        ),
        (
            "continuations of something",
            frame(HEADERS, 0, 1, &[]),
            Some(ENHANCE_YOUR_CALM),
            Box::new(|n| frame(CONTINUATION, 0, 1, &block(&[(format!("x-{n}").as_bytes(), &[b'a'; 1000])]))),
        ),
        ("empty data", open(1), Some(ENHANCE_YOUR_CALM), Box::new(|_| frame(DATA, 0, 1, &[]))),
        ("data of one byte", open(1), Some(ENHANCE_YOUR_CALM), Box::new(|_| frame(DATA, 0, 1, b"a"))),
        ("padding", open(1), Some(ENHANCE_YOUR_CALM), Box::new(|_| frame(DATA, 8, 1, &[200; 201]))),
        ("windows of nothing", open(1), Some(PROTOCOL_ERROR), Box::new(|_| window(1, 0))),
        ("windows beyond all bounds", vec![], Some(FLOW_CONTROL_ERROR), Box::new(|_| window(0, 0x7fff_ffff))),
        ("resets of what never was", open(1), Some(PROTOCOL_ERROR), Box::new(|n| reset(n * 2 + 3))),
        ("settings", vec![], None, Box::new(|_| settings.clone())),
        ("empty settings", vec![], None, Box::new(|_| frame(SETTINGS, 0, 0, &[]))),
        ("pings", vec![], None, Box::new(|_| frame(PING, 0, 0, &[0; 8]))),
        ("priorities", vec![], None, Box::new(|n| frame(PRIORITY, 0, n * 2 + 1, &[0, 0, 0, 0, 16]))),
        ("windows", vec![], None, Box::new(|_| window(0, 1))),
        ("windows of a stream", open(1), None, Box::new(|_| window(1, 1))),
        ("resets of one stream", open(1), None, Box::new(|_| reset(1))),
        ("frames that nobody knows", vec![], None, Box::new(|_| frame(0xfe, 0xff, 1, &[0; 100]))),
    ];
    let mut wrong = Wrong::default();
    for (name, first, ends, mut next) in cases {
        let (outcome, effect) = during(&site, || {
            let mut frames = Frames::open(address);
            frames.write(&first).unwrap();
            let sent = flood(&mut frames, &mut next);
            // What there is to say of it, if anything.
            frames.wire.patience(if ends.is_some() { PATIENCE } else { Duration::from_millis(200) });
            (sent.is_ok(), frames.outcome(u32::MAX))
        });
        println!("{name}: {outcome:?}; {effect}");
        if let Some(code) = ends {
            // Its last word may be lost where we still write.
            wrong.ok(name, [Outcome::GoAway(code), Outcome::Closed].contains(&outcome.1), outcome);
        }
        wrong.ok((name, "memory"), effect.grown < MEMORY, effect);
    }
    println!("highest {} KiB", site.gateway.memory("VmHWM"));
    wrong.done();
}

/// Waits until all that was sent before has been seen.
fn settled(frames: &mut Frames) -> bool {
    if frames.send(PING, 0, 0, &[0; 8]).is_err() {
        return false;
    }
    loop {
        match frames.next() {
            Ok(next) if next.kind == PING => return true,
            Ok(next) if next.kind == GOAWAY => return false,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

#[test]
fn class_33_requests_taken_back_one_by_one() {
    let site = Site::open();
    let address = site.gateway.address("main");
    let get = get("/public/x");
    let reset = |stream| frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    let ((taken_back, seen), effect) = during(&site, || {
        let before = site.upstream.count();
        let mut frames = Frames::open(address);
        let taken_back = (0..5000u32).take_while(|n| {
            let sent = frames.request(n * 2 + 1, &get);
            sent.is_ok() && settled(&mut frames) && frames.write(&reset(n * 2 + 1)).is_ok()
        });
        (taken_back.count(), site.upstream.count() - before)
    });
    println!("{taken_back} taken back, {seen} seen upstream; {effect}");
    assert!(taken_back < 500, "{taken_back} requests were taken back before the connection ended");
    assert_eq!(site.gateway.metrics().sum("tollgate_limits_reached_total", &[("limit", "taken_back")]), 1.0);

    // Who lets as many be answered may go on.
    let mut frames = Frames::open(address);
    for n in 0..600u32 {
        let (answered, not) = (n * 4 + 1, n * 4 + 3);
        frames.request(answered, &get).unwrap();
        assert_eq!(frames.outcome(answered), Outcome::Status(200));
        frames.request(not, &get).unwrap();
        assert!(settled(&mut frames));
        frames.write(&reset(not)).unwrap();
    }

    // A trusted proxy takes back for many.
    let site = Site::builder().server("trusted_proxies = [\"127.0.0.1/32\"]").more(OPEN).start();
    let mut frames = Frames::open(site.gateway.address("main"));
    for n in 0..600u32 {
        frames.request(n * 2 + 1, &get).unwrap();
        assert!(settled(&mut frames));
        frames.write(&reset(n * 2 + 1)).unwrap();
    }
}

#[test]
fn class_33_requests_taken_back_before_they_were_looked_at() {
    let site = Site::open();
    let address = site.gateway.address("main");
    let taken_back = |count: u32| {
        let both = |n| [request(n * 2 + 1, &get("/public/x")), frame(RST_STREAM, 0, n * 2 + 1, &8u32.to_be_bytes())];
        let mut frames = Frames::open(address);
        assert!(settled(&mut frames));
        // All at once, so that none is begun before it is over. Fewer by far than may be taken back in all.
        frames.write(&(0..count).flat_map(both).flatten().collect::<Vec<u8>>()).unwrap();
        let _may_be_over = frames.request(count * 2 + 1, &get("/public/x"));
        frames.outcome(count * 2 + 1)
    };
    assert_eq!(taken_back(15), Outcome::Status(200));
    assert_eq!(taken_back(100), Outcome::GoAway(ENHANCE_YOUR_CALM));
    assert_eq!(site.gateway.metrics().sum("tollgate_limits_reached_total", &[("limit", "taken_back")]), 0.0);
}

#[test]
fn class_33_answers_that_wait_for_a_window_take_bounded_memory() {
    let upstream = RecordingUpstream::scripted(|exchange| exchange.answer("200 OK", "", &vec![b'x'; 4 << 20]));
    let routes =
        "[[routes]]\nname = \"small\"\npath = \"/public/x\"\nupstream = \"other\"\nallow = [{ public = true }]\n";
    let other = RecordingUpstream::start();
    let other_lines = format!("[upstreams.other]\nservers = [\"{}\"]\n{routes}", other.url());
    let site = Site::builder().upstream(upstream).more(OPEN).more(&other_lines).start();
    let address = site.gateway.address("main");
    let (_held, effect) = during(&site, || {
        let mut held = Vec::new();
        for initial in [0u32, 1, 16_384] {
            let mut frames = Frames::open(address);
            let window = [&[0, 4][..], &initial.to_be_bytes()].concat();
            frames.send(SETTINGS, 0, 0, &window).unwrap();
            frames.send(WINDOW_UPDATE, 0, 0, &0x3fff_ffffu32.to_be_bytes()).unwrap();
            for n in 0..100 {
                frames.request(n * 2 + 1, &get("/public/big")).unwrap();
            }
            held.push(frames);
        }
        site.upstream.wait_until(|requests| requests.len() == 300);
        for frames in &mut held {
            // The last head has come; what the windows admit came with it.
            assert_eq!(frames.outcome(199), Outcome::Status(200));
        }
        held
    });
    println!("300 answers of 4 MiB: {effect}");
    assert!(effect.grown < 2 * MEMORY, "{effect}");
}

#[test]
fn class_33_header_bombs() {
    let site = Site::builder().limits("header_bytes = \"16KiB\"\nheader_count = 50").more(OPEN).start();
    let address = site.gateway.address("main");
    let head = || block(&get("/public/x"));
    // The first entry of the dynamic table, referred to again and again.
    let entry = |value: &[u8]| {
        let mut block = vec![0x40];
        integer(&mut block, 0, 7, 3);
        block.extend_from_slice(b"x-a");
        integer(&mut block, 0, 7, value.len());
        block.extend_from_slice(value);
        block
    };
    let references = |n: usize| vec![0x80 | 62; n];
    let long = |bytes: usize| block(&[(b"x-long", &vec![b'a'; bytes])]);
    let many = |n: usize| (0..n).flat_map(|n| block(&[(format!("x-{n}").as_bytes(), b"v")])).collect::<Vec<u8>>();
    let mut wrong = Wrong::default();
    for (name, fields, expected) in [
        ("a few", many(40), &[Outcome::Status(200)][..]),
        ("more than may be", many(60), &[Outcome::Status(431)]),
        ("long", long(10_000), &[Outcome::Status(200)]),
        ("longer than may be", long(17_000), &[Outcome::Status(431)]),
        ("a big entry a few times", [entry(&[b'a'; 1000]), references(5)].concat(), &[Outcome::Status(200)]),
        ("a big entry too often", [entry(&[b'a'; 4000]), references(10)].concat(), &[Outcome::Status(431)]),
        ("a bomb", [entry(&[b'a'; 4000]), references(12_000)].concat(), &[Outcome::GoAway(ENHANCE_YOUR_CALM)]),
        ("a bomb of crumbs", [entry(b"b"), references(16_000)].concat(), &[Outcome::GoAway(ENHANCE_YOUR_CALM)]),
        ("a table beyond the limit", vec![0x3f, 0xe1, 0xff, 0xff, 0x07], &[Outcome::GoAway(COMPRESSION_ERROR)]),
        ("a reference to nothing", vec![0x80 | 100], &[Outcome::GoAway(COMPRESSION_ERROR)]),
        ("index 0", vec![0x80], &[Outcome::GoAway(COMPRESSION_ERROR)]),
        ("an endless integer", [&[0u8, 0x7f][..], &[0xff; 20]].concat(), &[Outcome::GoAway(COMPRESSION_ERROR)]),
        ("a text that is not there", vec![0, 0x7f, 0x80, 0x10, b'a'], &[Outcome::GoAway(COMPRESSION_ERROR)]),
        ("bad Huffman code", vec![0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, b'a'], &[Outcome::GoAway(COMPRESSION_ERROR)]),
    ] {
        let (outcome, effect) = during(&site, || {
            let mut frames = Frames::open(address);
            // Its parts at most as long as frames may be.
            let block = [head(), fields].concat();
            let parts: Vec<&[u8]> = block.chunks(16_000).collect();
            for (at, part) in parts.iter().enumerate() {
                let last = if at + 1 == parts.len() { END_HEADERS } else { 0 };
                let (kind, end) = if at == 0 { (HEADERS, END_STREAM) } else { (CONTINUATION, 0) };
                frames.send(kind, last | end, 1, part).unwrap();
            }
            frames.outcome(1)
        });
        wrong.ok(name, expected.contains(&outcome), outcome);
        wrong.ok((name, "memory"), effect.grown < 8 * 1024, effect);
    }
    wrong.done();
}

#[test]
fn class_27_31_requests_over_http2_have_one_reading() {
    let site = Site::open();
    let address = site.gateway.address("main");
    let refused = Outcome::Reset(PROTOCOL_ERROR);
    let bad = Outcome::Status(400);
    let with = |more: &[Field<'static>]| [get("/public/x"), more.to_vec()].concat();
    let but = |name: &[u8], value: &'static [u8]| {
        let mut fields = get("/public/x");
        fields.iter_mut().filter(|field| field.0 == name).for_each(|field| field.1 = value);
        fields
    };
    let less = |name: &[u8]| get("/public/x").into_iter().filter(|field| field.0 != name).collect::<Vec<_>>();
    let cases: Vec<(&str, Vec<Field<'static>>, Outcome)> = vec![
        ("sound", with(&[]), Outcome::Status(200)),
        ("two methods", with(&[(b":method", b"GET")]), refused),
        ("two paths", [vec![(&b":path"[..], &b"/public/y"[..])], with(&[])].concat(), refused),
        ("two authorities", [vec![(&b":authority"[..], &b"other.test"[..])], with(&[])].concat(), refused),
        ("two schemes", [vec![(&b":scheme"[..], &b"http"[..])], with(&[])].concat(), refused),
        ("a pseudo-header after a field", [vec![(&b"x-a"[..], &b"b"[..])], with(&[])].concat(), refused),
        ("no method", less(b":method"), refused),
        ("no scheme", less(b":scheme"), refused),
        ("no path", less(b":path"), refused),
        ("no authority and no host", less(b":authority"), bad),
        ("a status", [vec![(&b":status"[..], &b"200"[..])], with(&[])].concat(), refused),
        ("an unknown pseudo-header", [vec![(&b":x"[..], &b"y"[..])], with(&[])].concat(), refused),
        ("a protocol without CONNECT", [vec![(&b":protocol"[..], &b"websocket"[..])], with(&[])].concat(), refused),
        ("an empty method", but(b":method", b""), refused),
        ("a method of two words", but(b":method", b"GET /x"), refused),
        ("an empty path", but(b":path", b""), refused),
        ("a path of two words", but(b":path", b"/public/x HTTP/1.1"), refused),
        ("a path of two lines", but(b":path", b"/public/x\r\nX-A: b"), refused),
        ("a path with a NUL", but(b":path", b"/public/\0x"), refused),
        ("a path that is an asterisk", but(b":path", b"*"), bad),
        ("a path without a slash", but(b":path", b"public/x"), refused),
        ("a path that is a URL", but(b":path", b"http://api.test/public/x"), refused),
        ("a path that is not UTF-8", but(b":path", b"/public/\xff"), refused),
        ("a path with dots", but(b":path", b"/public/../secret"), bad),
        ("a query that is not ASCII", but(b":path", b"/public/x?\xc3\xa9"), bad),
        ("an authority with user", but(b":authority", b"user@api.test"), bad),
        ("an empty authority", but(b":authority", b""), refused),
        ("an authority with a path", but(b":authority", b"api.test/x"), refused),
        ("an authority with port 0", but(b":authority", b"api.test:0"), bad),
        ("an authority of two", but(b":authority", b"api.test,other.test"), bad),
        ("another host", with(&[(b"host", b"other.test")]), bad),
        ("the same host", with(&[(b"host", b"api.test")]), Outcome::Status(200)),
        ("two hosts", with(&[(b"host", b"api.test"), (b"host", b"api.test")]), bad),
        ("an upper-case name", with(&[(b"X-A", b"b")]), refused),
        ("an empty name", with(&[(b"", b"b")]), refused),
        ("a name with a space", with(&[(b"x a", b"b")]), refused),
        ("a name with a colon", with(&[(b"x:a", b"b")]), refused),
        ("a name with a line end", with(&[(b"x\r\na", b"b")]), refused),
        ("a value with CR", with(&[(b"x-a", b"b\rc")]), refused),
        ("a value with LF", with(&[(b"x-a", b"b\nc")]), refused),
        ("a value with NUL", with(&[(b"x-a", b"b\0c")]), refused),
        ("Connection", with(&[(b"connection", b"close")]), refused),
        ("Keep-Alive", with(&[(b"keep-alive", b"timeout=5")]), refused),
        ("Proxy-Connection", with(&[(b"proxy-connection", b"close")]), refused),
        ("Upgrade", with(&[(b"upgrade", b"websocket")]), refused),
        ("Transfer-Encoding", with(&[(b"transfer-encoding", b"chunked")]), refused),
        ("TE for trailers", with(&[(b"te", b"trailers")]), Outcome::Status(200)),
        ("TE for another", with(&[(b"te", b"gzip")]), refused),
        ("TE for two", with(&[(b"te", b"trailers, gzip")]), refused),
        ("a length without a body", with(&[(b"content-length", b"5")]), refused),
        ("no length", with(&[(b"content-length", b"")]), bad),
        ("two lengths", with(&[(b"content-length", b"0"), (b"content-length", b"0")]), bad),
        ("two different lengths", with(&[(b"content-length", b"0"), (b"content-length", b"5")]), refused),
        ("a length with zeros", with(&[(b"content-length", b"00")]), bad),
        ("a length with a sign", with(&[(b"content-length", b"+0")]), refused),
        ("two tokens", with(&[(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")]), bad),
    ];
    let mut wrong = Wrong::default();
    for (name, fields, expected) in cases {
        let before = site.upstream.count();
        let mut frames = Frames::open(address);
        frames.request(1, &fields).unwrap();
        // Malformed is malformed, whether the stream or the whole connection ends with it.
        let outcome = match (frames.outcome(1), expected) {
            (Outcome::GoAway(PROTOCOL_ERROR), Outcome::Reset(_)) => expected,
            (outcome, _) => outcome,
        };
        wrong.eq(name, outcome, expected);
        let seen = site.upstream.count() - before;
        wrong.eq((name, "forwarded"), seen, usize::from(expected == Outcome::Status(200)));
    }
    wrong.done();
}

#[test]
fn class_17_connect_over_http2() {
    let site = Site::open();
    let address = site.gateway.address("main");
    let refused = Outcome::Reset(PROTOCOL_ERROR);
    let method: Field<'static> = (b":method", b"CONNECT");
    let authority: Field<'static> = (b":authority", b"api.test:22");
    let (scheme, path): (Field<'static>, Field<'static>) = ((b":scheme", b"http"), (b":path", b"/public/x"));
    let protocol = |name: &'static [u8]| -> Field<'static> { (b":protocol", name) };
    let mut wrong = Wrong::default();
    for (name, fields, expected) in [
        ("a tunnel", vec![method, authority], Outcome::Status(400)),
        ("a tunnel to nowhere", vec![method], Outcome::Status(400)),
        ("with a path", vec![method, authority, path], refused),
        ("with a scheme", vec![method, authority, scheme], refused),
        ("with path and scheme", vec![method, authority, scheme, path], refused),
        ("extended, of requests", vec![method, authority, scheme, path, protocol(b"h2c")], Outcome::Status(405)),
        ("extended, of packets", vec![method, authority, scheme, path, protocol(b"connect-udp")], Outcome::Status(405)),
        ("extended, of nothing", vec![method, authority, scheme, path, protocol(b"")], Outcome::Status(405)),
        ("extended, without a path", vec![method, authority, scheme, protocol(b"websocket")], refused),
        ("extended, of two", vec![method, authority, scheme, path, protocol(b"websocket"), protocol(b"h2c")], refused),
        ("in small letters", vec![(b":method", b"connect"), authority, scheme, path], Outcome::Status(405)),
    ] {
        let mut frames = Frames::open(address);
        frames.send(HEADERS, END_HEADERS, 1, &block(&fields)).unwrap();
        wrong.eq(name, frames.outcome(1), expected);
        wrong.eq((name, "forwarded"), site.upstream.count(), 0);
    }
    wrong.done();
}

#[test]
fn class_33_frames_that_may_not_be() {
    let site = Site::open();
    let address = site.gateway.address("main");
    let request = || request(1, &get("/public/x"));
    let mut wrong = Wrong::default();
    for (name, bytes, code) in [
        ("a push", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]), PROTOCOL_ERROR),
        ("an even stream", frame(HEADERS, END_HEADERS | END_STREAM, 2, &block(&get("/public/x"))), PROTOCOL_ERROR),
        ("a head for the connection", frame(HEADERS, END_HEADERS, 0, &block(&get("/public/x"))), PROTOCOL_ERROR),
        ("data for the connection", frame(DATA, 0, 0, b"a"), PROTOCOL_ERROR),
        ("data before a head", frame(DATA, 0, 1, b"a"), PROTOCOL_ERROR),
        (
            "another frame amid a head",
            [frame(HEADERS, 0, 1, &[0x82]), frame(PING, 0, 0, &[0; 8])].concat(),
            PROTOCOL_ERROR,
        ),
        ("a head within a head", [frame(HEADERS, 0, 1, &[0x82]), request()].concat(), PROTOCOL_ERROR),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &[0x82]), PROTOCOL_ERROR),
        ("a frame that is too long", frame(DATA, 0, 1, &[0; 16_385]), FRAME_SIZE_ERROR),
        ("padding longer than its frame", [open(1), frame(DATA, 8, 1, &[9, 0])].concat(), PROTOCOL_ERROR),
        ("a ping that is too short", frame(PING, 0, 0, &[0; 7]), FRAME_SIZE_ERROR),
        ("settings that are cut short", frame(SETTINGS, 0, 0, &[0; 5]), FRAME_SIZE_ERROR),
        ("settings of a stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL_ERROR),
        ("a window beyond the limit", frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0]), FLOW_CONTROL_ERROR),
        ("a frame size beyond the limit", frame(SETTINGS, 0, 0, &[0, 5, 0xff, 0xff, 0xff, 0xff]), PROTOCOL_ERROR),
        ("a window that overflows", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), FLOW_CONTROL_ERROR),
        ("a stream that depends on itself", frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 16]), PROTOCOL_ERROR),
    ] {
        let mut frames = Frames::open(address);
        let _may_be_refused_early = frames.write(&bytes);
        let outcome = frames.outcome(1);
        let fits = match outcome {
            Outcome::GoAway(got) | Outcome::Reset(got) => {
                got == code || [PROTOCOL_ERROR, FRAME_SIZE_ERROR].contains(&got)
            }
            Outcome::Closed => true,
            _ => false,
        };
        wrong.ok(name, fits, outcome);
    }
    // What is not HTTP/2 from its first word on.
    for bytes in
        [&PREFACE[..14], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n\0\0\0\x04\0\0\0\0\0", b"PRI / HTTP/1.1\r\nHost: a\r\n\r\n"]
    {
        let mut frames = Frames::silent(address);
        frames.write(bytes).unwrap();
        let _no_more = frames.wire.socket.shutdown(std::net::Shutdown::Write);
        let end = frames.wire.rest().map_or_else(|e| e.kind(), |_| io::ErrorKind::ConnectionReset);
        wrong.eq(bytes.escape_ascii().to_string(), end, io::ErrorKind::ConnectionReset);
    }
    wrong.eq("forwarded", site.upstream.requests().iter().filter(|request| request.method == "GET").count(), 0);
    wrong.done();
    assert_eq!(site.send(&Req::get("/public/x")).status, 200);
}
