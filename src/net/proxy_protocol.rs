//! The header with which a TCP proxy announces for whom it opened a connection (the PROXY protocol, versions 1 and 2). Pure:
//! from whom it is taken, and how long it may take, is the server's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// What both versions have at least: `PROXY UNKNOWN` and the end of the line.
const LEAST_BYTES: usize = 15;
/// Version 1, with the end of the line.
const MAX_LINE_BYTES: usize = 107;
/// Version 2. What it may hold besides addresses has no bound in the protocol.
const MAX_BLOCK_BYTES: usize = 4096;
const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family and transport, and the length of the rest.
const BLOCK_START: usize = SIGNATURE.len() + 4;
/// Both addresses and ports of version 2.
const IPV4_BYTES: usize = 12;
const IPV6_BYTES: usize = 36;
const UNIX_BYTES: usize = 216;

/// How far a header is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// At least so many bytes more are part of it.
    Incomplete(usize),
    /// All of it, and who is announced. None: the proxy speaks for itself, or does not say for whom.
    Complete(Option<IpAddr>),
}

/// Why bytes are not the start of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the connection does not start with a PROXY protocol header")]
    Start,
    #[error("the header is too long")]
    TooLong,
    #[error("the line is not of PROXY protocol version 1")]
    Line,
    #[error("a version or command that there is not")]
    Command,
    #[error("a family or transport that there is not")]
    Family,
    #[error("the header is too short for its addresses")]
    TooShort,
}

/// Reads what is there of a header. Whoever reads no more than is missing takes nothing of what follows it.
pub fn parse(bytes: &[u8]) -> Result<Header, Malformed> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, expected)| byte == expected);
    let (is_line, is_block) = (begins(LINE_START), begins(SIGNATURE));
    match bytes.len() {
        _ if !is_line && !is_block => Err(Malformed::Start),
        length @ 0..LEAST_BYTES => Ok(Header::Incomplete(LEAST_BYTES - length)),
        _ if is_line => line(bytes),
        _ => block(bytes),
    }
}

fn line(bytes: &[u8]) -> Result<Header, Malformed> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        let missing = if bytes.ends_with(b"\r") { 1 } else { 2 };
        let fits = bytes.len() + missing <= MAX_LINE_BYTES;
        return if fits { Ok(Header::Incomplete(missing)) } else { Err(Malformed::TooLong) };
    };
    if end >= MAX_LINE_BYTES {
        return Err(Malformed::TooLong);
    }
    let line = bytes[..end].strip_suffix(b"\r").ok_or(Malformed::Line)?;
    let rest = &line[LINE_START.len()..];
    if rest == b"UNKNOWN" || rest.starts_with(b"UNKNOWN ") {
        return Ok(Header::Complete(None));
    }
    let rest = std::str::from_utf8(rest).map_err(|_| Malformed::Line)?;
    let words: Vec<&str> = rest.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = words[..] else { return Err(Malformed::Line) };
    let address = match family {
        "TCP4" => both::<Ipv4Addr>(source, destination).map(IpAddr::from),
        "TCP6" => both::<Ipv6Addr>(source, destination).map(IpAddr::from),
        _ => None,
    };
    let address = address.filter(|_| is_port(source_port) && is_port(destination_port)).ok_or(Malformed::Line)?;
    Ok(Header::Complete(Some(address.to_canonical())))
}

/// The source, if both are addresses of the one family.
fn both<A: FromStr>(source: &str, destination: &str) -> Option<A> {
    destination.parse::<A>().ok().and_then(|_| source.parse().ok())
}

/// Digits, without a zero in front.
fn is_port(text: &str) -> bool {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits && (text == "0" || !text.starts_with('0')) && text.parse::<u16>().is_ok()
}

fn block(bytes: &[u8]) -> Result<Header, Malformed> {
    let Some((start, rest)) = bytes.split_at_checked(BLOCK_START) else {
        return Ok(Header::Incomplete(BLOCK_START - bytes.len()));
    };
    let [command, family, length @ ..] = [start[12], start[13], start[14], start[15]];
    let length = usize::from(u16::from_be_bytes(length));
    if !matches!(command, 0x20 | 0x21) {
        return Err(Malformed::Command);
    }
    let is_local = command == 0x20;
    let least = match (family >> 4, family & 0xF) {
        // Health checks of the proxy itself, whatever family they name.
        _ if is_local => 0,
        (0, 0..=2) => 0,
        (1, 0..=2) => IPV4_BYTES,
        (2, 0..=2) => IPV6_BYTES,
        (3, 0..=2) => UNIX_BYTES,
        _ => return Err(Malformed::Family),
    };
    if length < least {
        return Err(Malformed::TooShort);
    }
    if BLOCK_START + length > MAX_BLOCK_BYTES {
        return Err(Malformed::TooLong);
    }
    if rest.len() < length {
        return Ok(Header::Incomplete(length - rest.len()));
    }
    // What is no TCP of IP is announced by nobody whom we could call by an address.
    let address = match family {
        _ if is_local => None,
        0x11 => rest.first_chunk().map(|octets: &[u8; 4]| IpAddr::from(*octets)),
        0x21 => rest.first_chunk().map(|octets: &[u8; 16]| IpAddr::from(*octets)),
        _ => None,
    };
    Ok(Header::Complete(address.map(|address| address.to_canonical())))
}

#[cfg(test)]
mod tests {
    use ppp::v2::{self, Builder, Command, Protocol, Type, Version};
    use proptest::prelude::*;

    use super::*;
    use crate::net::fuzzing::{proxy_protocol, read, read_by_ppp};

    fn announced(text: &str) -> Result<Header, Malformed> {
        Ok(Header::Complete(Some(text.parse().unwrap())))
    }

    #[test]
    fn lines() {
        let nobody = Ok(Header::Complete(None));
        let line = Err(Malformed::Line);
        for (text, expected) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", announced("192.0.2.1")),
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", announced("255.255.255.255")),
            ("PROXY TCP6 2001:DB8::1 ::1 0 443\r\n", announced("2001:db8::1")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 443\r\n", announced("192.0.2.1")),
            ("PROXY UNKNOWN\r\n", nobody),
            ("PROXY UNKNOWN whatever \u{e4} \r it says\r\n", nobody),
            ("PROXY UNKNOWNS\r\n", line),
            ("PROXY TCP5 192.0.2.1 198.51.100.1 1 2\r\n", line),
            ("PROXY tcp4 192.0.2.1 198.51.100.1 1 2\r\n", line),
            ("PROXY TCP4 ::1 ::1 1 2\r\n", line),
            ("PROXY TCP6 192.0.2.1 ::1 1 2\r\n", line),
            ("PROXY TCP4 192.0.2.1 localhost 1 2\r\n", line),
            ("PROXY TCP4 192.0.2.01 198.51.100.1 1 2\r\n", line),
            ("PROXY TCP4 192.0.2.1  198.51.100.1 1 2\r\n", line),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n", line),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n", line),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n", line),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n", line),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 65536\r\n", line),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 \r\n", line),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n", line),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 2", Ok(Header::Incomplete(2))),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r", Ok(Header::Incomplete(1))),
            ("PROXY ", Ok(Header::Incomplete(9))),
            ("", Ok(Header::Incomplete(15))),
            ("PROXY\tTCP4 192.0.2.1 198.51.100.1 1 2\r\n", Err(Malformed::Start)),
            ("proxy UNKNOWN\r\n", Err(Malformed::Start)),
            ("GET / HTTP/1.1\r\n", Err(Malformed::Start)),
            ("G", Err(Malformed::Start)),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
        let long = |filling: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(filling));
        assert_eq!(parse(long(91).as_bytes()), nobody, "107 bytes");
        assert_eq!(parse(long(92).as_bytes()), Err(Malformed::TooLong));
        assert_eq!(parse(&long(92).as_bytes()[..106]), Err(Malformed::TooLong), "before it has come");
    }

    fn block(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    #[test]
    fn blocks() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0, 1, 0, 2];
        let v6 = [&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets()[..], &[0; 20]].concat();
        let mapped = [&"::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().octets()[..], &[0; 20]].concat();
        let with_more = [&v4[..], &[0x20, 0, 3, 1, 2, 3]].concat();
        let nobody = Ok(Header::Complete(None));
        for (bytes, expected) in [
            (block(0x21, 0x11, &v4), announced("192.0.2.1")),
            (block(0x21, 0x11, &with_more), announced("192.0.2.1")),
            (block(0x21, 0x21, &v6), announced("2001:db8::1")),
            (block(0x21, 0x21, &mapped), announced("192.0.2.1")),
            (block(0x20, 0x00, &[]), nobody),
            (block(0x20, 0x11, &v4), nobody),
            (block(0x20, 0xFF, &[1]), nobody),
            (block(0x21, 0x00, &v4), nobody),
            (block(0x21, 0x12, &v4), nobody),
            (block(0x21, 0x31, &[0; 216]), nobody),
            (block(0x21, 0x41, &v4), Err(Malformed::Family)),
            (block(0x21, 0x13, &v4), Err(Malformed::Family)),
            (block(0x22, 0x11, &v4), Err(Malformed::Command)),
            (block(0x11, 0x11, &v4), Err(Malformed::Command)),
            (block(0x21, 0x11, &v4[..11]), Err(Malformed::TooShort)),
            (block(0x21, 0x21, &v6[..35]), Err(Malformed::TooShort)),
            (block(0x21, 0x31, &[0; 215]), Err(Malformed::TooShort)),
            (block(0x21, 0x11, &[1; 4080]), announced("1.1.1.1")),
            (block(0x21, 0x11, &[1; 4081]), Err(Malformed::TooLong)),
            (block(0x20, 0x00, &[1; 4081]), Err(Malformed::TooLong)),
        ] {
            assert_eq!(parse(&bytes), expected, "{bytes:?}");
        }
        let whole = block(0x21, 0x11, &v4);
        assert_eq!(parse(&whole[..14]), Ok(Header::Incomplete(1)));
        assert_eq!(parse(&whole[..15]), Ok(Header::Incomplete(1)));
        assert_eq!(parse(&whole[..16]), Ok(Header::Incomplete(12)));
        assert_eq!(parse(&whole[..27]), Ok(Header::Incomplete(1)));
    }

    fn header() -> impl Strategy<Value = Vec<u8>> {
        let port = || any::<u16>();
        let line = prop_oneof![
            (any::<Ipv4Addr>(), any::<Ipv4Addr>(), port(), port())
                .prop_map(|(from, to, own, other)| format!("PROXY TCP4 {from} {to} {own} {other}\r\n")),
            (any::<Ipv6Addr>(), any::<Ipv6Addr>(), port(), port())
                .prop_map(|(from, to, own, other)| format!("PROXY TCP6 {from} {to} {own} {other}\r\n")),
            "PROXY UNKNOWN( [a-z0-9.:]{1,20}){0,4}\r\n",
        ];
        let block =
            (any::<bool>(), any::<bool>(), 0..3_u8, any::<[u8; 36]>(), proptest::collection::vec(any::<u8>(), 0..64))
                .prop_map(|(local, v6, protocol, addresses, value)| {
                    let command = if local { Command::Local } else { Command::Proxy };
                    let protocol = [Protocol::Unspecified, Protocol::Stream, Protocol::Datagram][usize::from(protocol)];
                    let two = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
                    let four = |at: usize| -> [u8; 4] { addresses[at..at + 4].try_into().unwrap() };
                    let sixteen = |at: usize| -> [u8; 16] { addresses[at..at + 16].try_into().unwrap() };
                    let builder = if v6 {
                        let ip = v2::IPv6::new(sixteen(0), sixteen(16), two(32), two(34));
                        Builder::with_addresses(Version::Two | command, protocol, ip)
                    } else {
                        let ip = v2::IPv4::new(four(0), four(4), two(8), two(10));
                        Builder::with_addresses(Version::Two | command, protocol, ip)
                    };
                    builder.write_tlv(Type::NoOp, &value).unwrap().build().unwrap()
                });
        prop_oneof![line.prop_map(String::into_bytes), block]
    }

    proptest! {
        #[test]
        fn what_others_write_is_read_as_others_read_it(header in header(), rest in any::<Vec<u8>>()) {
            let sent = [&header[..], &rest].concat();
            let read = read(&sent);
            prop_assert_eq!(read, read_by_ppp(&sent));
            prop_assert_eq!(read.map(|(length, _)| length), Some(header.len()), "nothing of what follows is taken");
        }

        #[test]
        fn whatever_is_damaged_is_not_read_otherwise(header in header(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut sent = header;
            let at = at.index(sent.len());
            sent[at] = byte;
            proxy_protocol(&sent);
        }

        #[test]
        fn any_bytes_are_harmless(bytes in any::<Vec<u8>>(), start in 0..3_usize) {
            let start: &[u8] = [&b""[..], LINE_START, SIGNATURE][start];
            proxy_protocol(&[start, &bytes].concat());
        }
    }
}
