//! One event per request, formatted by hand: a request's way must not pay for a general formatter.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use super::Format;
use super::log::{Sink, push_number, push_timestamp};

/// What is told of one request. `None` is left out.
#[derive(Debug)]
pub struct Event<'a> {
    pub request_id: &'a str,
    pub trace_id: Option<&'a str>,
    pub client: IpAddr,
    pub listener: &'a str,
    pub version: http::Version,
    pub method: &'a http::Method,
    pub host: Option<&'a str>,
    /// Without the query, which may hold secrets.
    pub path: &'a str,
    pub status: u16,
    pub decision: &'static str,
    /// The code of what was refused, and what exactly was wrong.
    pub reason: Option<&'static str>,
    pub cause: Option<&'a str>,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    pub issuer: Option<&'a str>,
    pub user: Option<&'a str>,
    pub client_id: Option<&'a str>,
    pub bytes: u64,
    pub duration: Duration,
    /// The answer was cut off.
    pub aborted: bool,
}

/// The share of the requests without any trouble that is told of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample(f64);

impl Sample {
    pub const ALL: Self = Self(1.0);

    /// `None` unless the share is from 0 to 1.
    pub fn of(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }

    /// By the request's id, so that whoever samples by the same id has the same requests.
    fn contains(self, request_id: &str) -> bool {
        if self == Self::ALL {
            return true;
        }
        // FNV-1a, and a multiplication that lets the last digits, in which ids differ, reach the first bits.
        let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = request_id.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
        let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        #[expect(clippy::cast_precision_loss, reason = "a share needs no more digits")]
        let place = (hash >> 11) as f64 / (1u64 << 53) as f64;
        place < self.0
    }
}

#[derive(Clone, Debug)]
pub struct AccessLog {
    sink: Sink,
    format: Format,
    sample: Sample,
}

impl AccessLog {
    pub fn new(sink: Sink, format: Format, sample: Sample) -> Self {
        Self { sink, format, sample }
    }

    pub fn write(&self, event: &Event<'_>) {
        let all_is_well = event.status < 400 && event.reason.is_none() && !event.aborted;
        if all_is_well && !self.sample.contains(event.request_id) {
            return;
        }
        let mut line = Line { text: Vec::with_capacity(512), format: self.format };
        line.start();
        line.text("request_id", Some(event.request_id));
        line.text("trace_id", event.trace_id);
        line.address("client", event.client);
        line.text("listener", Some(event.listener));
        line.text("protocol", Some(protocol(event.version)));
        line.text("method", Some(event.method.as_str()));
        line.text("host", event.host);
        line.text("path", Some(event.path));
        line.number("status", u64::from(event.status));
        line.text("decision", Some(event.decision));
        line.text("reason", event.reason);
        line.text("cause", event.cause);
        line.text("route", event.route);
        line.text("upstream", event.upstream);
        line.text("issuer", event.issuer);
        line.text("user", event.user);
        line.text("client_id", event.client_id);
        line.number("bytes", event.bytes);
        line.number("duration_us", u64::try_from(event.duration.as_micros()).unwrap_or(u64::MAX));
        if event.aborted {
            line.text("aborted", Some("true"));
        }
        line.end();
        self.sink.write(&line.text);
    }
}

struct Line {
    text: Vec<u8>,
    format: Format,
}

impl Line {
    fn start(&mut self) {
        match self.format {
            Format::Json => {
                self.text.extend_from_slice(b"{\"timestamp\":\"");
                push_timestamp(&mut self.text);
                self.text.extend_from_slice(b"\",\"level\":\"INFO\",\"event\":\"request\"");
            }
            Format::Text => {
                push_timestamp(&mut self.text);
                self.text.extend_from_slice(b"  INFO request");
            }
        }
    }

    fn end(&mut self) {
        self.text.extend_from_slice(if self.format == Format::Json { b"}\n" } else { b"\n" });
    }

    fn name(&mut self, name: &str) {
        match self.format {
            Format::Json => {
                self.text.extend_from_slice(b",\"");
                self.text.extend_from_slice(name.as_bytes());
                self.text.extend_from_slice(b"\":");
            }
            Format::Text => {
                self.text.push(b' ');
                self.text.extend_from_slice(name.as_bytes());
                self.text.push(b'=');
            }
        }
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        push_number(&mut self.text, value, 1);
    }

    fn address(&mut self, name: &str, address: IpAddr) {
        self.name(name);
        let quote: &[u8] = if self.format == Format::Json { b"\"" } else { b"" };
        self.text.extend_from_slice(quote);
        match address {
            IpAddr::V4(address) => {
                for (place, octet) in address.octets().into_iter().enumerate() {
                    if place > 0 {
                        self.text.push(b'.');
                    }
                    push_number(&mut self.text, u64::from(octet), 1);
                }
            }
            IpAddr::V6(address) => drop(write!(self.text, "{address}")),
        }
        self.text.extend_from_slice(quote);
    }

    /// Anything that could end the line, hide in it or turn it around is escaped, in both formats.
    fn text(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        self.name(name);
        if self.format == Format::Text && !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && b != b'"')
        {
            self.text.extend_from_slice(value.as_bytes());
            return;
        }
        self.text.push(b'"');
        // Nearly everything is as plain as this.
        if value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
            self.text.extend_from_slice(value.as_bytes());
            self.text.push(b'"');
            return;
        }
        for c in value.chars() {
            match c {
                '"' => self.text.extend_from_slice(b"\\\""),
                '\\' => self.text.extend_from_slice(b"\\\\"),
                ' '..='~' => self.text.push(c as u8),
                c => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        let _ = write!(self.text, "\\u{unit:04x}");
                    }
                }
            }
        }
        self.text.push(b'"');
    }
}

fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_its_share_of_ids_that_count_up() {
        let chosen = |share: f64| {
            let sample = Sample::of(share).expect("a share");
            (0..10_000).filter(|n| sample.contains(&format!("2c9b1f0e6d7a8b35{n:08x}"))).count()
        };
        for (share, range) in [(0.0, 0..=0), (0.01, 60..=140), (0.5, 4700..=5300), (1.0, 10_000..=10_000)] {
            assert!(range.contains(&chosen(share)), "{share}: {}", chosen(share));
        }
        assert_eq!([-0.1, 1.1, f64::NAN].map(Sample::of), [None; 3]);
    }

    #[test]
    fn class_57_nothing_in_a_value_can_forge_a_line() {
        for format in [Format::Json, Format::Text] {
            let mut line = Line { text: Vec::new(), format };
            line.text("host", Some("a\"\n{\"x\":1}\u{202e}\u{1f600}\\"));
            let text = String::from_utf8(line.text).expect("ASCII");
            assert!(text.ends_with(r#""a\"\u000a{\"x\":1}\u202e\ud83d\ude00\\""#), "{text}");
        }
    }
}
