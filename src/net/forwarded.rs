//! Who the caller is and how it came, when proxies stand in between (RFC 7239 and the older `X-Forwarded-*`). What a peer
//! says of it is believed only of trusted proxies; what goes on to the upstream is written anew.

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use bytes::Bytes;
use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use super::TrustedProxies;
use super::headers::Fields;

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What is known of where a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The first address from the right that is no trusted proxy.
    pub client: IpAddr,
    /// Whether the caller used https.
    pub https: bool,
    /// Whether the peer of the connection is a trusted proxy.
    pub trusted: bool,
}

impl Origin {
    pub fn of(peer: IpAddr, tls: bool, headers: &HeaderMap, trusted: &TrustedProxies) -> Self {
        if !trusted.contains(peer) {
            return Self { client: peer, https: tls, trusted: false };
        }
        let mut client = peer;
        for hop in hops(headers).iter().rev() {
            let Some(address) = hop else { break };
            client = *address;
            if !trusted.contains(client) {
                break;
            }
        }
        Self { client, https: scheme(headers).unwrap_or(tls), trusted: true }
    }
}

/// The addresses that proxies noted, the caller's first; `None` for one that is no address. The first kind of field that
/// is there counts, readable or not: a caller must not be able to bring another one into play.
fn hops(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let read = |name: &HeaderName, read: fn(&str) -> Option<IpAddr>| -> Vec<Option<IpAddr>> {
        let all = headers.get_all(name).iter();
        all.flat_map(|field| field.as_bytes().split(|byte| *byte == b','))
            .map(|part| std::str::from_utf8(part).ok().and_then(|part| read(part.trim())))
            .collect()
    };
    if headers.contains_key(X_FORWARDED_FOR) {
        return read(&X_FORWARDED_FOR, address);
    }
    if headers.contains_key(FORWARDED) {
        return read(&FORWARDED, |element| parameter(element, "for").and_then(|node| address(&node)));
    }
    read(&X_REAL_IP, address)
}

/// What the last proxy says of the scheme: the rightmost word is that of the peer itself.
fn scheme(headers: &HeaderMap) -> Option<bool> {
    let last = |name: HeaderName| {
        let field = headers.get_all(name).iter().next_back()?;
        field.as_bytes().rsplit(|byte| *byte == b',').next().map(|word| String::from_utf8_lossy(word).trim().to_owned())
    };
    let word = match last(X_FORWARDED_PROTO) {
        Some(word) => Some(word),
        None => last(FORWARDED).and_then(|element| parameter(&element, "proto")),
    }?;
    let is = |names: [&str; 2]| names.iter().any(|name| word.eq_ignore_ascii_case(name));
    if is(["https", "wss"]) {
        Some(true)
    } else if is(["http", "ws"]) {
        Some(false)
    } else {
        None
    }
}

/// The value of one parameter of a `Forwarded` element, without its quotes.
fn parameter(element: &str, name: &str) -> Option<String> {
    element.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]`, `[::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let parsed = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .or_else(|_| text.trim_start_matches('[').trim_end_matches(']').parse());
    parsed.ok().map(|address| address.to_canonical())
}

/// Writes the forwarding fields for the upstream. `peer` is the far end of the connection, `peer_text` the same as a value;
/// what a trusted proxy said is kept and added to, what anybody else said is gone. Whichever field an upstream reads, it
/// finds the same hops.
pub fn rewrite(
    fields: &mut Fields,
    origin: &Origin,
    peer: IpAddr,
    peer_text: &HeaderValue,
    host: Option<&HeaderValue>,
    written: &Written,
) {
    if origin.trusted {
        agree(fields);
    } else {
        fields.retain(|name| !is_forwarding(name));
    }
    // Of a stranger nothing is left to be added to or replaced.
    type Put = fn(&mut Fields, HeaderName, HeaderValue);
    let (add, set): (Put, Put) = if origin.trusted { (append, Fields::set) } else { (Fields::push, Fields::push) };
    let told = if origin.trusted { fields.get_all(&X_FORWARDED_HOST).next() } else { None };
    let host = told.filter(|host| is_host(host)).or(host).cloned();
    let element = written.element(peer, peer_text, host.as_ref(), origin.https);
    add(fields, X_FORWARDED_FOR, peer_text.clone());
    add(fields, FORWARDED, element);
    set(fields, X_FORWARDED_PROTO, HeaderValue::from_static(if origin.https { "https" } else { "http" }));
    if let Some(host) = host {
        set(fields, X_FORWARDED_HOST, host);
    }
    let other = |client: IpAddr| HeaderValue::from_str(&client.to_string()).ok();
    let client = if origin.client == peer { Some(peer_text.clone()) } else { other(origin.client) };
    if let Some(client) = client {
        set(fields, X_REAL_IP, client);
    }
}

/// One kind of field was believed (see `hops`). The others may be a caller's, whom a proxy that does not know them let
/// through: they are written anew from it.
fn agree(fields: &mut Fields) {
    let told: HeaderMap = fields.iter().filter(|(name, _)| is_forwarding(name)).cloned().collect();
    let hops = hops(&told);
    let list = |write: fn(IpAddr) -> String| {
        let words: Vec<_> = hops.iter().map(|hop| hop.map_or("unknown".to_owned(), write)).collect();
        HeaderValue::from_str(&words.join(", ")).ok().filter(|list| !list.is_empty())
    };
    let by_address = told.contains_key(X_FORWARDED_FOR);
    if by_address || !told.contains_key(FORWARDED) {
        fields.remove(&FORWARDED);
        if let Some(list) = list(|address| format!("for={}", node(address))) {
            fields.push(FORWARDED, list);
        }
    }
    if !by_address && let Some(list) = list(|address| address.to_string()) {
        fields.push(X_FORWARDED_FOR, list);
    }
}

/// Adds to a comma-separated list, as one field line.
fn append(fields: &mut Fields, name: HeaderName, last: HeaderValue) {
    let mut all: Vec<&[u8]> = fields.get_all(&name).map(HeaderValue::as_bytes).collect();
    if all.is_empty() {
        return fields.push(name, last);
    }
    all.push(last.as_bytes());
    let joined = HeaderValue::from_bytes(&all.join(&b", "[..])).unwrap_or(last);
    fields.set(name, joined);
}

/// The `Forwarded` element that was written last for a connection: nearly all of its requests have the same.
#[derive(Debug, Default)]
pub struct Written(Mutex<Option<Element>>);

#[derive(Debug)]
struct Element {
    host: Box<[u8]>,
    https: bool,
    text: HeaderValue,
}

/// Longest host that is kept with an element.
const HOST_BYTES: usize = 256;

impl Written {
    fn element(&self, peer: IpAddr, peer_text: &HeaderValue, host: Option<&HeaderValue>, https: bool) -> HeaderValue {
        let name = host.map_or(&b""[..], HeaderValue::as_bytes);
        // Nobody waits for another request of the connection.
        let Ok(mut last) = self.0.try_lock() else { return element(peer, peer_text, host, https) };
        if let Some(last) = &*last
            && last.https == https
            && *last.host == *name
        {
            return last.text.clone();
        }
        let text = element(peer, peer_text, host, https);
        if name.len() <= HOST_BYTES {
            *last = Some(Element { host: name.into(), https, text: text.clone() });
        }
        text
    }
}

/// Put together from parts, not by a general formatter.
fn element(peer: IpAddr, peer_text: &HeaderValue, host: Option<&HeaderValue>, https: bool) -> HeaderValue {
    let (before, after) = if peer.is_ipv4() { ("for=", "") } else { ("for=\"[", "]\"") };
    let host = host.filter(|host| is_host(host)).map(HeaderValue::as_bytes);
    // A host with a port or brackets is no token and must be quoted.
    let (host_is, quote) = match host {
        Some(host) if host.iter().any(|byte| matches!(byte, b':' | b'[')) => (";host=", "\""),
        Some(_) => (";host=", ""),
        None => ("", ""),
    };
    let proto = if https { ";proto=https" } else { ";proto=http" };
    let parts = [
        before.as_bytes(),
        peer_text.as_bytes(),
        after.as_bytes(),
        host_is.as_bytes(),
        quote.as_bytes(),
        host.unwrap_or_default(),
        quote.as_bytes(),
        proto.as_bytes(),
    ];
    HeaderValue::from_maybe_shared(Bytes::from(parts.concat())).unwrap_or(HeaderValue::from_static("for=unknown"))
}

/// An address as `Forwarded` writes it.
fn node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    }
}

/// A name or an address, with or without a port, as far as its characters tell.
fn is_host(value: &HeaderValue) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte);
    !value.is_empty() && value.as_bytes().iter().all(fits)
}

/// Whether `name` tells of an earlier hop.
pub fn is_forwarding(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "forwarded" | "x-real-ip") || name.starts_with("x-forwarded-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).expect("value"))
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn the_client_is_the_first_from_the_right_that_is_not_trusted() {
        let trusted = TrustedProxies(vec!["10.0.0.0/8".parse().expect("net")]);
        let peer: IpAddr = "10.0.0.1".parse().expect("ip");
        for (lines, client, https) in [
            (&[][..], "10.0.0.1", false),
            (&[("x-forwarded-for", "1.1.1.1, 2.2.2.2, 10.0.0.9")], "2.2.2.2", false),
            (&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "10.0.0.9")], "1.1.1.1", false),
            (&[("x-forwarded-for", "1.1.1.1, junk, 10.0.0.9")], "10.0.0.9", false),
            (&[("forwarded", "for=\"[2001:db8::1]:80\";proto=https")], "2001:db8::1", true),
            (&[("x-forwarded-proto", "http, HTTPS")], "10.0.0.1", true),
            (&[("x-forwarded-proto", "https,http")], "10.0.0.1", false),
            (&[("x-forwarded-for", "\u{ff}, 2.2.2.2"), ("forwarded", "for=6.6.6.6")], "2.2.2.2", false),
            (&[("x-forwarded-for", "\u{ff}"), ("x-real-ip", "6.6.6.6")], "10.0.0.1", false),
            (&[("x-forwarded-proto", "\u{ff}"), ("forwarded", "proto=https")], "10.0.0.1", false),
        ] {
            let origin = Origin::of(peer, false, &headers(lines), &trusted);
            assert_eq!(origin, Origin { client: client.parse().expect("ip"), https, trusted: true }, "{lines:?}");
        }
        let stranger = "192.0.2.1".parse().expect("ip");
        let lies = headers(&[("x-forwarded-for", "10.0.0.2"), ("x-forwarded-proto", "https")]);
        let origin = Origin::of(stranger, false, &lies, &trusted);
        assert_eq!(origin, Origin { client: stranger, https: false, trusted: false });
    }

    #[test]
    fn class_21_what_a_stranger_says_is_written_anew() {
        let peer: IpAddr = "192.0.2.1".parse().expect("ip");
        let mut fields = Fields::default();
        for (name, value) in [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-uri", "/admin"),
            ("x-real-ip", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
        ] {
            fields.push(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let origin = Origin { client: peer, https: true, trusted: false };
        let text = HeaderValue::from_static("192.0.2.1");
        let host = HeaderValue::from_static("a:8443");
        rewrite(&mut fields, &origin, peer, &text, Some(&host), &Written::default());
        let expected = headers(&[
            ("x-forwarded-for", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1;host=\"a:8443\";proto=https"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a:8443"),
            ("x-real-ip", "192.0.2.1"),
        ]);
        assert_eq!(fields.iter().cloned().collect::<HeaderMap>(), expected);
    }

    #[test]
    fn the_requests_of_a_connection_are_told_apart() {
        let (peer, text, written) =
            (IpAddr::from([192, 0, 2, 1]), HeaderValue::from_static("192.0.2.1"), Written::default());
        let long = "h".repeat(HOST_BYTES + 1);
        for (host, https) in [
            (Some("a"), false),
            (Some("a"), false),
            (Some("a"), true),
            (Some("b"), true),
            (None, true),
            (Some(&*long), true),
        ] {
            let host = host.map(|host| HeaderValue::from_str(host).expect("value"));
            let expected = element(peer, &text, host.as_ref(), https);
            assert_eq!(written.element(peer, &text, host.as_ref(), https), expected);
        }
        assert!(written.0.lock().expect("no panic").as_ref().is_some_and(|last| last.host.is_empty()));
    }
}
