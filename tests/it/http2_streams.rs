//! HTTP/2 as RFC 9113 wants it: streams, windows, blocks of fields and farewells, frame by frame.

use bytes::Bytes;
use http::Request;

use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Field, Frame, Frames, GOAWAY, HEADERS, Outcome, PING, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, frame, get, integer,
};
use crate::support::h2::{H2Client, empty, full};
use crate::support::site::OPEN;
use crate::support::{Gate, RecordingUpstream, Site, Wrong};

/// Codes of section 7.
const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const STREAM_CLOSED: u32 = 5;
const REFUSED_STREAM: u32 = 7;

const ACK: u8 = 1;

/// Says every body back.
fn echo() -> Site {
    let upstream = RecordingUpstream::scripted(|exchange| {
        exchange.read_body()?;
        let body = exchange.request.body.clone();
        exchange.answer("200 OK", "", &body)
    });
    Site::builder().upstream(upstream).more(OPEN).start()
}

fn post(more: &[Field<'static>]) -> Vec<Field<'static>> {
    let mut fields = get("/public/x");
    fields[0].1 = b"POST";
    fields.extend_from_slice(more);
    fields
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// What comes on a stream until it ends, by its peer or by a reset: its heads, its data, the code of the reset.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    heads: usize,
    data: Vec<u8>,
    reset: Option<u32>,
}

impl Told {
    fn on(frames: &mut Frames, stream: u32) -> Self {
        let mut told = Self::default();
        loop {
            let Frame { kind, flags, stream: on, payload } = frames.next().expect("a frame");
            assert_ne!(kind, GOAWAY, "{payload:?} after {told:?}");
            if on != stream {
                continue;
            }
            match kind {
                HEADERS => told.heads += 1,
                DATA => told.data.extend_from_slice(&payload),
                RST_STREAM => {
                    told.reset = Some(number(&payload));
                    return told;
                }
                _ => continue,
            }
            if flags & END_STREAM != 0 {
                return told;
            }
        }
    }
}

fn next_on(frames: &mut Frames, stream: u32, wanted: u8) -> Frame {
    loop {
        let next = frames.next().expect("a frame");
        assert_ne!(next.kind, GOAWAY, "{next:?}");
        if next.stream == stream && next.kind == wanted {
            return next;
        }
    }
}

#[test]
fn rfc9113_5_1_what_may_come_on_which_stream() {
    let site = echo();
    let address = site.gateway.address("main");
    let head = |stream, flags, fields: &[Field<'_>]| frame(HEADERS, END_HEADERS | flags, stream, &block(fields));
    let data = |stream, flags, bytes: &[u8]| frame(DATA, flags, stream, bytes);
    let whole = |bytes: &[u8]| Told { heads: 1, data: bytes.to_vec(), reset: None };
    let reset = |code| Told { heads: 0, data: Vec::new(), reset: Some(code) };
    let length: Field<'_> = (b"content-length", b"5");
    let mut wrong = Wrong::default();
    for (name, sent, told) in [
        ("a body", [head(1, 0, &post(&[])), data(1, 0, b"he"), data(1, END_STREAM, b"llo")].concat(), whole(b"hello")),
        (
            "an empty end",
            [head(1, 0, &post(&[])), data(1, 0, b"hello"), data(1, END_STREAM, b"")].concat(),
            whole(b"hello"),
        ),
        (
            "padding",
            [head(1, 0, &post(&[length])), data(1, 8 | END_STREAM, b"\x02hello\0\0")].concat(),
            whole(b"hello"),
        ),
        (
            "trailers",
            [head(1, 0, &post(&[length])), data(1, 0, b"hello"), head(1, END_STREAM, &[(b"x-t", b"1")])].concat(),
            whole(b"hello"),
        ),
        (
            "trailers that are not the end",
            [head(1, 0, &post(&[])), head(1, 0, &[(b"x-t", b"1")])].concat(),
            reset(PROTOCOL_ERROR),
        ),
        (
            "trailers with a pseudo-header",
            [head(1, 0, &post(&[])), head(1, END_STREAM, &[(b":path", b"/")])].concat(),
            reset(PROTOCOL_ERROR),
        ),
        (
            "less than was said",
            [head(1, 0, &post(&[length])), data(1, END_STREAM, b"hell")].concat(),
            reset(PROTOCOL_ERROR),
        ),
        ("more than was said", [head(1, 0, &post(&[length])), data(1, 0, b"hello!")].concat(), reset(PROTOCOL_ERROR)),
        (
            "trailers before all was sent",
            [head(1, 0, &post(&[length])), head(1, END_STREAM, &[(b"x-t", b"1")])].concat(),
            reset(PROTOCOL_ERROR),
        ),
    ] {
        let mut frames = Frames::open(address);
        frames.write(&sent).unwrap();
        wrong.ok(name, Told::on(&mut frames, 1) == told, &told);
        // Nobody else is concerned, whatever was done to the table.
        frames.request(3, &get("/public/x")).unwrap();
        wrong.eq((name, "another"), frames.outcome(3), Outcome::Status(200));
        // Where the gateway has told of the end itself, what comes may have been on its way.
        let mut expected = if told.reset.is_some() { None } else { Some(STREAM_CLOSED) };
        for late in [data(1, 0, b"late"), head(1, END_STREAM, &[(b"x-t", b"1")])] {
            frames.write(&late).unwrap();
            frames.send(PING, 0, 0, &[7; 8]).unwrap();
            wrong.eq((name, "late"), reset_before_ping(&mut frames), expected.take());
        }
    }
    wrong.done();
}

fn reset_before_ping(frames: &mut Frames) -> Option<u32> {
    let mut reset = None;
    loop {
        let next = frames.next().expect("a frame");
        match next.kind {
            RST_STREAM => reset = Some(number(&next.payload)),
            PING => return reset,
            _ => {}
        }
    }
}

#[test]
fn rfc9113_8_1_1_a_malformed_request_concerns_no_other() {
    let site = echo();
    let mut frames = Frames::open(site.gateway.address("main"));
    frames.send(HEADERS, END_HEADERS, 1, &block(&post(&[]))).unwrap();
    // It is malformed, and puts three fields into the table: the last of them first.
    let mut bad = block(&get("/public/x"));
    for (name, value) in [(&b"x-upper"[..], &b"one"[..]), (b"X-Upper", b"two"), (b"x-padded", b" three")] {
        bad.push(0x40);
        for text in [name, value] {
            integer(&mut bad, 0, 7, text.len());
            bad.extend_from_slice(text);
        }
    }
    frames.send(HEADERS, END_HEADERS | END_STREAM, 3, &bad).unwrap();
    assert_eq!(frames.outcome(3), Outcome::Reset(PROTOCOL_ERROR));
    // The third entry of the table, by its place and with its name alone.
    let mut good = block(&get("/public/table"));
    good.push(0x80 | 64);
    good.extend_from_slice(&[0x0f, 64 - 15, 4]);
    good.extend_from_slice(b"four");
    frames.send(HEADERS, END_HEADERS | END_STREAM, 5, &good).unwrap();
    assert_eq!(frames.outcome(5), Outcome::Status(200));
    // The first request, whose body is still to come, may have reached the upstream later.
    let requests = site.upstream.requests();
    let good = requests.iter().find(|request| request.target == "/public/table").unwrap();
    assert_eq!(good.all("x-upper"), ["one", "four"]);
    frames.send(DATA, END_STREAM, 1, b"still there").unwrap();
    assert_eq!(Told::on(&mut frames, 1).data, b"still there");
}

#[test]
fn rfc9113_6_9_bodies_larger_than_every_window_pass_both_ways() {
    let site = echo();
    let mut client = H2Client::plain(site.gateway.address("main"));
    for bytes in [1, 70_000, 3 << 20] {
        let body: Bytes = (0..bytes).map(|at: u32| (at % 251) as u8).collect::<Vec<u8>>().into();
        let request = Request::post("http://api.test/public/x").body(full(body.clone())).unwrap();
        let answer = client.send(request);
        assert!(answer.body == body, "{bytes} bytes came back as {}", answer.body.len());
    }
    // A body in the smallest pieces is a body.
    let mut frames = Frames::open(site.gateway.address("main"));
    frames.send(HEADERS, END_HEADERS, 1, &block(&post(&[]))).unwrap();
    let pieces: Vec<u8> = (0..3000).flat_map(|_| frame(DATA, 0, 1, b"x")).collect();
    frames.write(&pieces).unwrap();
    frames.send(DATA, END_STREAM, 1, b"").unwrap();
    assert_eq!(Told::on(&mut frames, 1).data.len(), 3000);
}

#[test]
fn rfc9113_6_9_data_comes_as_the_windows_say() {
    let upstream = RecordingUpstream::scripted(|exchange| exchange.answer("200 OK", "", b"0123456789abcdefghij"));
    let site = Site::builder().upstream(upstream).more(OPEN).start();
    let mut frames = Frames::open(site.gateway.address("main"));
    let initial = |window: u32| [&[0, 4][..], &window.to_be_bytes()].concat();
    let data = |frames: &mut Frames| {
        let next = next_on(frames, 1, DATA);
        (String::from_utf8(next.payload).unwrap(), next.flags & END_STREAM != 0)
    };
    frames.send(SETTINGS, 0, 0, &initial(0)).unwrap();
    frames.request(1, &get("/public/x")).unwrap();
    assert_eq!(frames.outcome(1), Outcome::Status(200));
    frames.send(PING, 0, 0, &[1; 8]).unwrap();
    assert_eq!(frames.next().unwrap().kind, PING, "nothing comes into no window");
    frames.send(WINDOW_UPDATE, 0, 1, &3u32.to_be_bytes()).unwrap();
    assert_eq!(data(&mut frames), ("012".to_owned(), false));
    // Seven more; and then five fewer than none.
    frames.send(SETTINGS, 0, 0, &initial(7)).unwrap();
    assert_eq!(data(&mut frames), ("3456789".to_owned(), false));
    frames.send(SETTINGS, 0, 0, &initial(2)).unwrap();
    frames.send(WINDOW_UPDATE, 0, 1, &4u32.to_be_bytes()).unwrap();
    frames.send(PING, 0, 0, &[2; 8]).unwrap();
    while frames.next().map(|next| (next.kind, next.flags)).unwrap() != (PING, ACK) {}
    frames.send(WINDOW_UPDATE, 0, 1, &5u32.to_be_bytes()).unwrap();
    assert_eq!(data(&mut frames), ("abcd".to_owned(), false));
    frames.send(WINDOW_UPDATE, 0, 1, &100u32.to_be_bytes()).unwrap();
    assert_eq!(data(&mut frames), ("efghij".to_owned(), true));
}

#[test]
fn rfc9113_6_9_many_answers_share_the_window_of_their_connection() {
    let upstream = RecordingUpstream::scripted(|exchange| exchange.answer("200 OK", "", &vec![b'x'; 40_000]));
    let site = Site::builder().upstream(upstream).more(OPEN).start();
    let mut frames = Frames::open(site.gateway.address("main"));
    let (count, bytes) = (20u32, 40_000);
    for n in 0..count {
        frames.request(n * 2 + 1, &get("/public/x")).unwrap();
    }
    let (mut got, mut window, mut ended) = (vec![0; count as usize], 65_535i64, 0);
    while ended < count {
        let next = frames.next().expect("a frame while the window is open");
        if next.kind != DATA {
            continue;
        }
        window -= next.payload.len() as i64;
        assert!(window >= 0, "no more than the window holds");
        got[next.stream as usize / 2] += next.payload.len();
        ended += u32::from(next.flags & END_STREAM != 0);
        if window == 0 {
            frames.send(WINDOW_UPDATE, 0, 0, &50_000u32.to_be_bytes()).unwrap();
            window = 50_000;
        }
    }
    assert_eq!(got, vec![bytes; count as usize]);
}

#[test]
fn rfc9113_6_9_windows_that_are_opened_in_small_steps_are_no_flood() {
    const BYTES: usize = 40 << 20;
    let upstream = RecordingUpstream::scripted(|exchange| exchange.answer("200 OK", "", &vec![b'x'; BYTES]));
    let site = Site::builder().upstream(upstream).more(OPEN).start();
    let mut frames = Frames::open(site.gateway.address("main"));
    frames.request(1, &get("/public/x")).unwrap();
    let (mut got, mut step) = (0, 0);
    while got < BYTES {
        let next = next_on(&mut frames, 1, DATA);
        got += next.payload.len();
        step += next.payload.len();
        // As clients do that read a buffer of four kibibytes at a time.
        let more = 4096u32.to_be_bytes();
        let updates = [frame(WINDOW_UPDATE, 0, 0, &more), frame(WINDOW_UPDATE, 0, 1, &more)].concat();
        frames.write(&updates.repeat(step / 4096)).unwrap();
        step %= 4096;
    }
    assert_eq!(got, BYTES);
}

#[test]
fn rfc9113_5_1_2_a_place_is_free_as_soon_as_its_request_is_taken_back() {
    let gate = Gate::default();
    let waits = gate.clone();
    let upstream = RecordingUpstream::scripted(move |exchange| {
        waits.wait();
        exchange.answer("200 OK", "", b"")
    });
    let site = Site::builder().upstream(upstream).more(OPEN).start();
    let mut frames = Frames::open(site.gateway.address("main"));
    let request = |stream: u32| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&get("/public/x")));
    for n in 0..250 {
        frames.write(&request(n * 2 + 1)).unwrap();
    }
    frames.send(PING, 0, 0, &[1; 8]).unwrap();
    assert_eq!(reset_before_ping(&mut frames), None);
    // All of them in one breath.
    let again: Vec<u8> = (0..10)
        .flat_map(|n| [frame(RST_STREAM, 0, n * 2 + 1, &8u32.to_be_bytes()), request(501 + n * 2)].concat())
        .collect();
    frames.write(&[again, frame(PING, 0, 0, &[2; 8])].concat()).unwrap();
    assert_eq!(reset_before_ping(&mut frames), None);
    frames.write(&[request(601), frame(PING, 0, 0, &[3; 8])].concat()).unwrap();
    assert_eq!(reset_before_ping(&mut frames), Some(REFUSED_STREAM));
    gate.open();
}

#[test]
fn rfc7541_4_2_the_first_block_says_that_the_table_is_smaller() {
    let site = echo();
    let mut frames = Frames::open(site.gateway.address("main"));
    let head = block(&post(&[(b"expect", b"100-continue")]));
    // A flag that means nothing here changes nothing.
    frames.send(HEADERS, 0, 1, &head[..10]).unwrap();
    frames.send(CONTINUATION, END_HEADERS | 8, 1, &head[10..]).unwrap();
    let first = next_on(&mut frames, 1, HEADERS);
    assert_eq!(first.payload, b"\x20\x08\x03100");
    frames.send(DATA, END_STREAM, 1, b"hello").unwrap();
    let second = next_on(&mut frames, 1, HEADERS);
    assert_eq!(second.payload[0], 0x80 | 8, "200, and nothing before it");
}

#[test]
fn rfc8441_a_tunnel_ends_with_its_stream() {
    let gate = Gate::default();
    let waits = gate.clone();
    let (hears, heard) = std::sync::mpsc::channel();
    let hears = std::sync::Mutex::new(hears);
    let upstream = RecordingUpstream::scripted(move |exchange| {
        exchange.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")?;
        exchange.wait_for_close()?;
        hears.lock().unwrap().send(()).unwrap();
        // That the caller has said its last is no reason to close, or to say anything.
        waits.wait();
        Ok(())
    });
    let site = Site::builder().upstream(upstream).more(OPEN).start();
    let upgrade = |path| {
        let mut frames = Frames::open(site.gateway.address("main"));
        let mut fields = get(path);
        fields[0].1 = b"CONNECT";
        fields.extend([(&b":protocol"[..], &b"websocket"[..]), (b"sec-websocket-version", b"13")]);
        frames.send(HEADERS, END_HEADERS, 1, &block(&fields)).unwrap();
        assert_eq!(frames.outcome(1), Outcome::Status(200));
        frames
    };
    let reset = frame(RST_STREAM, 0, 1, &8u32.to_be_bytes());
    let says_its_last = frame(DATA, END_STREAM, 1, b"");
    for (path, ends, says, stays) in [
        ("/public/leaves", false, vec![], false),
        ("/public/goes-wrong", false, frame(PING, 0, 0, &[0; 7]), false),
        ("/public/takes-back", false, reset.clone(), true),
        ("/public/has-said-its-last", true, vec![], false),
        ("/public/takes-back-after-its-last", true, reset, true),
    ] {
        let mut frames = upgrade(path);
        if ends {
            frames.write(&says_its_last).unwrap();
            heard.recv_timeout(crate::support::wire::PATIENCE).unwrap();
        }
        frames.write(&says).unwrap();
        let kept = Some(frames).filter(|_| stays);
        site.gateway.wait_log(path, |line| line["path"] == path);
        if !ends {
            heard.recv_timeout(crate::support::wire::PATIENCE).unwrap();
        }
        drop(kept);
    }
    gate.open();
}

#[test]
fn rfc9110_10_1_1_a_body_that_is_waited_for_is_asked_for() {
    let site = echo();
    let mut frames = Frames::open(site.gateway.address("main"));
    frames.send(HEADERS, END_HEADERS, 1, &block(&post(&[(b"expect", b"100-continue")]))).unwrap();
    assert_eq!(frames.outcome(1), Outcome::Status(100));
    frames.send(DATA, END_STREAM, 1, b"hello").unwrap();
    assert_eq!(Told::on(&mut frames, 1), Told { heads: 1, data: b"hello".to_vec(), reset: None });
}

#[test]
fn rfc9113_8_1_who_is_answered_before_its_body_is_told_to_stop() {
    let site = echo();
    let mut frames = Frames::open(site.gateway.address("main"));
    let mut fields = post(&[]);
    fields[3].1 = b"/orders/1";
    frames.send(HEADERS, END_HEADERS, 1, &block(&fields)).unwrap();
    let mut told = Told::on(&mut frames, 1);
    assert_eq!((told.heads, told.reset), (1, None));
    told = Told::on(&mut frames, 1);
    assert_eq!((told.heads, told.reset), (0, Some(NO_ERROR)));
}

#[test]
fn rfc9113_8_answers_without_a_body_and_with_long_fields() {
    let long = |bytes: usize| "l".repeat(bytes);
    let fields = move |bytes| format!("X-Long: {}\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n", long(bytes));
    let upstream = RecordingUpstream::scripted(move |exchange| match &*exchange.request.target {
        "/public/empty" => exchange.write(b"HTTP/1.1 204 No Content\r\n\r\n"),
        "/public/same" => exchange.write(b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
        "/public/long" => exchange.answer("200 OK", &fields(30_000), b"hello"),
        _ => exchange.answer("200 OK", &fields(3000), b"hello"),
    });
    let site = Site::builder().upstream(upstream).more(OPEN).start();
    let mut client = H2Client::plain(site.gateway.address("main"));
    // Twice, since the second time the tables know.
    for _ in 0..2 {
        for (method, path, status, length, body) in [
            ("GET", "/public/x", 200, Some("5"), "hello"),
            ("HEAD", "/public/x", 200, Some("5"), ""),
            ("GET", "/public/empty", 204, None, ""),
            ("GET", "/public/same", 304, None, ""),
        ] {
            let request = Request::builder().method(method).uri(format!("http://api.test{path}"));
            let answer = client.send(request.body(empty()).unwrap());
            let said = answer.headers.get("content-length").map(|length| length.to_str().unwrap());
            assert_eq!((answer.status, said, &answer.body[..]), (status, length, body.as_bytes()), "{method} {path}");
            assert!(!answer.headers.contains_key("connection") && !answer.headers.contains_key("keep-alive"));
            assert!(answer.headers.contains_key("date") && answer.headers.contains_key("x-request-id"));
            if status == 200 {
                assert_eq!(answer.headers["x-long"], long(3000));
            }
        }
    }
    // A block longer than a frame goes on in others, and nothing comes between.
    let mut frames = Frames::open(site.gateway.address("main"));
    frames.request(1, &get("/public/long")).unwrap();
    let first = next_on(&mut frames, 1, HEADERS);
    let second = frames.next().unwrap();
    assert_eq!((first.payload.len(), first.flags), (16_384, 0));
    assert_eq!((second.kind, second.stream, second.flags), (CONTINUATION, 1, END_HEADERS));
}

#[test]
fn rfc9113_6_8_a_server_that_drains_says_so_and_ends_what_was_begun() {
    let gate = Gate::default();
    let waits = gate.clone();
    let upstream = RecordingUpstream::scripted(move |exchange| {
        waits.wait();
        exchange.answer("200 OK", "", b"ok")
    });
    let site = Site::builder().upstream(upstream).more(OPEN).start();
    let mut frames = Frames::open(site.gateway.address("main"));
    frames.request(1, &get("/public/x")).unwrap();
    site.upstream.wait_until(|requests| requests.len() == 1);
    site.gateway.terminate();
    let first = next_of(&mut frames, GOAWAY);
    assert_eq!((number(&first.payload), number(&first.payload[4..])), (0x7fff_ffff, NO_ERROR));
    let ping = next_of(&mut frames, PING);
    // It was on its way when the farewell came.
    frames.request(3, &get("/public/y")).unwrap();
    site.upstream.wait_until(|requests| requests.len() == 2);
    frames.send(PING, ACK, 0, &ping.payload).unwrap();
    let second = next_of(&mut frames, GOAWAY);
    assert_eq!((number(&second.payload), number(&second.payload[4..])), (3, NO_ERROR));
    // This one was not.
    frames.request(5, &get("/public/z")).unwrap();
    assert_eq!(frames.outcome(5), Outcome::Reset(REFUSED_STREAM));
    gate.open();
    let mut ended = 0;
    while ended < 2 {
        let next = frames.next().expect("both are answered");
        ended += usize::from(next.kind == DATA && next.payload == b"ok" && next.flags & END_STREAM != 0);
    }
    assert!(frames.wire.rest().is_ok(), "closed");
    assert!(site.gateway.wait_exit().success());
    assert_eq!(site.upstream.count(), 2);
}

fn next_of(frames: &mut Frames, kind: u8) -> Frame {
    loop {
        let next = frames.next().expect("a frame");
        if next.kind == kind {
            return next;
        }
    }
}
