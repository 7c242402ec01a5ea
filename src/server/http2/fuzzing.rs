//! What holds of HTTP/2 as it is read here, whatever comes: checked by the fuzz target, on its corpus, and on requests that are
//! made for it.

use std::sync::Mutex;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::frame::{Frame, Kind, PREFACE, flags};
use super::head::Heads;
use super::hpack::{Decoder, Encoder, Field, Unreadable};
use super::{Ended, serve};
use crate::net::http1::Most;
use crate::net::request::RequestHead;
use crate::server::fuzzing::{Peer, Reading, lock, note, run, within};

/// What comes on a connection after its preface and its settings.
pub fn frames(data: &[u8]) {
    let data = &data[..data.len().min(4096)];
    pieces_change_nothing(data);
    is_read_alike(data);
    again_changes_nothing(data);
    answers_come_back(data);
}

/// However the bytes come, they are read alike.
pub(super) fn pieces_change_nothing(data: &[u8]) {
    let whole = read_here(data, usize::MAX);
    // What a request comes to that is taken back, or ended, depends on when.
    if !whole.is_clean || kinds(data).any(|kind| kind == Kind::RstStream) {
        return;
    }
    for piece in [1, 7, 64] {
        let pieces = read_here(data, piece);
        assert!(pieces.is_clean, "in pieces of {piece}: {:?}", pieces.ended);
        assert_eq!(pieces.requests, whole.requests, "in pieces of {piece}");
    }
}

/// What is a request here is the same one to the HTTP library; and what is one to that is one here, or refused.
pub(super) fn is_read_alike(data: &[u8]) {
    let here = read_here(data, usize::MAX);
    let (there, is_sound) = read_by_library(data);
    if kinds(data).any(|kind| kind == Kind::RstStream) {
        return;
    }
    if is_sound {
        let missing = here.requests.iter().find(|request| !there.contains(request));
        assert_eq!(missing, None, "the library reads {there:?} in {}", data.escape_ascii());
    }
    if here.is_clean {
        let missing = there.iter().find(|request| !here.requests.contains(request));
        assert_eq!(missing, None, "read here: {:?} in {}", here.requests, data.escape_ascii());
    }
}

/// A block that comes again is read as it would be anew.
pub(super) fn again_changes_nothing(data: &[u8]) {
    let most = Most { bytes: 2048, fields: 100 };
    let (mut heads, mut anew) = (Heads::default(), Heads::default());
    for block in data.split(|byte| *byte == b'|').take(50) {
        let block = Bytes::copy_from_slice(block);
        for _ in 0..3 {
            anew.rest();
            let (read, expected) = (heads.head(&block, most), anew.head(&block, most));
            let is_over = expected.is_err();
            assert_eq!(format!("{read:?}"), format!("{expected:?}"), "{}", block.escape_ascii());
            if is_over {
                return;
            }
        }
    }
}

/// Of answers: known to every table, and not; those that come again, and do not.
const NAMES: [&str; 6] = ["date", "x-a", "content-length", "server", "x-b", "vary"];

/// What is written of an answer is what the peer reads, whatever it wants of the table.
pub(super) fn answers_come_back(data: &[u8]) {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    for head in data.chunks(64).take(30) {
        // The peer is the one whose table this is: it can read what it asked for.
        encoder.set_limit(usize::from(head[0]) * 17);
        let mut out = Vec::new();
        encoder.begin(&mut out, None);
        let mut fields = Vec::new();
        for (place, field) in head.split(|byte| *byte == b',').enumerate() {
            let (name, value) = field.split_at(field.len().min(1));
            let name = NAMES[name.first().map_or(0, |name| usize::from(*name)) % NAMES.len()];
            let Ok(mut value) = HeaderValue::from_bytes(value.trim_ascii()) else { continue };
            value.set_sensitive(place % 5 == 4);
            let name = HeaderName::from_static(name);
            encoder.field(&mut out, Some(place).filter(|place| place % 7 != 6), &name, &value);
            fields.push(Field::Other(name, value));
        }
        let mut read = Vec::new();
        let done = decoder.decode(&Bytes::from(out), |field, _| {
            read.push(field.clone());
            Ok::<_, Unreadable>(())
        });
        assert_eq!((done, read), (Ok(()), fields));
    }
}

/// The kinds of the frames in what was sent.
fn kinds(data: &[u8]) -> impl Iterator<Item = Kind> {
    let mut rest = BytesMut::from(data);
    std::iter::from_fn(move || Frame::take(&mut rest).ok().flatten().map(|frame| frame.kind))
}

fn begun(data: &[u8]) -> Vec<u8> {
    [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0], data].concat()
}

/// All that is said of a request.
fn told(method: &Method, uri: &Uri, headers: &HeaderMap) -> String {
    let mut fields: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
    fields.sort();
    format!("{method} {uri} {fields:?}")
}

pub(super) struct Read {
    /// The complete requests, in any order.
    pub(super) requests: Vec<Reading>,
    /// Neither the connection nor a stream was ended by a fault.
    pub(super) is_clean: bool,
    pub(super) ended: Option<Result<(), Ended>>,
}

pub(super) fn read_here(data: &[u8], piece: usize) -> Read {
    let found = Mutex::new(Vec::new());
    let answer =
        |request: Box<RequestHead>, body| note(&found, told(&request.method, &request.uri, &request.headers), body);
    let peer = Peer::new(&begun(data), piece);
    let hears = peer.hears();
    let ended = within(|served| run(serve(peer, served, answer)));
    let answers = lock(&hears);
    let is_clean = !kinds(&answers).any(|kind| matches!(kind, Kind::RstStream | Kind::GoAway));
    assert!(well_formed(&answers), "{}", answers.escape_ascii());
    let mut requests = lock(&found).clone();
    requests.sort();
    Read { requests, is_clean, ended }
}

/// Whether what was sent consists of whole frames, and blocks that can be read.
fn well_formed(sent: &[u8]) -> bool {
    let (mut rest, mut decoder) = (BytesMut::from(sent), Decoder::default());
    while let Ok(Some(frame)) = Frame::take(&mut rest) {
        if frame.kind == Kind::Headers {
            let read = decoder.decode(&frame.payload, |_, _| Ok::<_, Unreadable>(()));
            if read.is_err() || !frame.has(flags::END_HEADERS) {
                return false;
            }
        }
    }
    rest.is_empty()
}

/// The complete requests as the HTTP library reads them, and whether it found no fault with the connection.
fn read_by_library(data: &[u8]) -> (Vec<Reading>, bool) {
    let found = Mutex::new(Vec::new());
    let peer = Peer::new(&begun(data), usize::MAX);
    let hears = peer.hears();
    let seen = &found;
    let connection = async {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(250).max_header_list_size(16 * 1024).enable_connect_protocol();
        builder.initial_window_size(256 * 1024).initial_connection_window_size(1024 * 1024);
        let mut connection = builder.handshake::<_, Bytes>(peer).await?;
        let mut exchanges = FuturesUnordered::new();
        std::future::poll_fn(|cx| {
            while let Poll::Ready(request) = connection.poll_accept(cx) {
                let Some(request) = request.transpose()? else { return Poll::Ready(Ok::<_, h2::Error>(())) };
                let (request, mut respond) = request;
                let (parts, mut body) = request.into_parts();
                exchanges.push(async move {
                    let request = told(&parts.method, &parts.uri, &parts.headers);
                    let mut bytes = Vec::new();
                    let mut is_whole = true;
                    while let Some(data) = body.data().await {
                        let Ok(data) = data else {
                            is_whole = false;
                            break;
                        };
                        let _ = body.flow_control().release_capacity(data.len());
                        bytes.extend_from_slice(&data);
                    }
                    // Trailers end a body too, or break it off.
                    if is_whole && body.trailers().await.is_ok() {
                        lock(seen).push((request, bytes));
                    }
                    let _ = respond.send_response(http::Response::new(()), true);
                });
            }
            while let Poll::Ready(Some(())) = exchanges.poll_next_unpin(cx) {}
            Poll::Pending
        })
        .await
    };
    let is_sound = !matches!(run(connection), Some(Err(_)));
    let is_sound = is_sound && !kinds(&lock(&hears)).any(|kind| matches!(kind, Kind::RstStream | Kind::GoAway));
    let mut found = lock(&found).clone();
    found.sort();
    (found, is_sound)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::server::http2::frame;

    fn block(fields: &[(&str, &str)]) -> Vec<u8> {
        let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        fields.iter().flat_map(|(name, value)| [&[0][..], &text(name), &text(value)].concat()).collect()
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::write_head(&mut out, kind, flags, stream, payload.len());
        [&out, payload].concat()
    }

    /// Sound requests in many spellings: whole and in parts, padded, with and without a body or trailers.
    fn requests() -> impl Strategy<Value = Vec<u8>> {
        let field = prop::sample::select(vec![
            ("x-a", "b"),
            ("te", "trailers"),
            ("cookie", "c=d"),
            ("x-long", "0123456789abcdef"),
        ]);
        let body = prop::collection::vec("[a-z]{0,40}", 0..4);
        // The library wants few parts.
        let request = (prop::collection::vec(field, 0..3), body, 40..100usize, any::<[bool; 3]>());
        prop::collection::vec(request, 1..6).prop_map(|requests| {
            let mut out = Vec::new();
            for (n, (fields, body, part, [says_length, padded, trailers])) in requests.into_iter().enumerate() {
                let stream = n as u32 * 2 + 1;
                let length: usize = body.iter().map(String::len).sum();
                let mut all = vec![(":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "a.test")];
                let length = length.to_string();
                all.extend(fields);
                if says_length {
                    all.push(("content-length", &length));
                }
                let ends = body.is_empty() && !trailers;
                let block = block(&all);
                let mut parts = block.chunks(part).peekable();
                let (mut kind, mut first) = (frame::HEADERS, u8::from(ends));
                while let Some(part) = parts.next() {
                    let last = if parts.peek().is_none() { flags::END_HEADERS } else { 0 };
                    out.extend(frame(kind, first | last, stream, part));
                    (kind, first) = (frame::CONTINUATION, 0);
                }
                for (at, data) in body.iter().enumerate() {
                    let last = u8::from(at + 1 == body.len() && !trailers);
                    let data =
                        if padded { [&[3], data.as_bytes(), &[0; 3]].concat() } else { data.as_bytes().to_vec() };
                    out.extend(frame(frame::DATA, last | if padded { flags::PADDED } else { 0 }, stream, &data));
                }
                if trailers {
                    out.extend(frame(frame::HEADERS, flags::END_HEADERS | flags::END_STREAM, stream, b"\0\x01t\x01u"));
                }
            }
            out
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        #[test]
        fn class_31_what_is_sound_is_read_as_the_library_reads_it(sent in requests()) {
            let here = read_here(&sent, usize::MAX);
            prop_assert!(here.is_clean, "{:?}", here.ended);
            prop_assert!(!here.requests.is_empty());
            let (there, is_sound) = read_by_library(&sent);
            prop_assert!(is_sound);
            prop_assert_eq!(here.requests, there);
            pieces_change_nothing(&sent);
        }

        #[test]
        fn class_31_what_is_changed_here_and_there_has_one_reading(
            sent in requests(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut sent = sent;
            for (at, byte) in changes {
                let at = at.index(sent.len());
                sent[at] = byte;
            }
            frames(&sent);
        }

        #[test]
        fn what_is_answered_comes_back(data in prop::collection::vec(any::<u8>(), 1..400)) {
            answers_come_back(&data);
        }
    }

    #[test]
    fn a_block_that_comes_again_is_the_same_as_long_as_no_table_changed() {
        let most = Most { bytes: 1 << 14, fields: 100 };
        let mut heads = Heads::default();
        let mut read = |block: &[u8]| format!("{:?}", heads.head(&Bytes::copy_from_slice(block), most).unwrap());
        // A GET with a path that is known from then on; it comes again by its place.
        let first = b"\x82\x86\x41\x06a.test\x44\x02/a";
        let again = b"\x82\x86\xbf\xbe";
        let (once, twice, thrice) = (read(first), read(again), read(again));
        assert!(once.contains("/a") && once == twice && twice == thrice);
        // Another entry: the same bytes are another request now.
        let other = read(b"\x82\x86\xbf\x44\x02/b");
        assert!(other.contains("/b"));
        let changed = read(again);
        assert!(changed.contains("Malformed") || changed.contains("/b"), "{changed}");
        assert!(read(&block(&[("x", "y")])).contains("Malformed"));
    }
}
