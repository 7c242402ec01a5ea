//! What holds of the caller's address, of the forwarding headers and of the PROXY protocol, whatever stands in them:
//! checked by the fuzz targets and on their corpus.

use std::net::{IpAddr, Ipv4Addr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use ppp::v2::{Command, Protocol};
use ppp::{HeaderResult, v1, v2};

use super::TrustedProxies;
use super::forwarded::{Origin, Written, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, is_forwarding, rewrite};
use super::headers::Fields;
use super::proxy_protocol::{Header, parse};

/// The address of a caller, and that of a gateway, that no test data trusts by chance.
const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77));
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

/// The peer, the trusted networks separated by spaces, then a header on each line.
pub fn forwarded(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut word = || std::str::from_utf8(lines.next().unwrap_or_default()).unwrap_or_default();
    let peer = word().parse().unwrap_or(CALLER).to_canonical();
    let networks = word().split(' ').filter_map(|network| network.parse::<ipnet::IpNet>().ok());
    // What a configuration may say.
    let trusted =
        networks.filter(|network| network.prefix_len() > 0 && network.contains(&network.addr().to_canonical()));
    let trusted = TrustedProxies(trusted.collect());
    let mut headers = HeaderMap::new();
    for line in lines.take(20) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let host = HeaderValue::from_static("api.example.com:8443");
    for tls in [false, true] {
        let origin = Origin::of(peer, tls, &headers, &trusted);
        assert_eq!(origin.trusted, trusted.contains(peer));
        if !origin.trusted {
            assert_eq!((origin.client, origin.https), (peer, tls), "a stranger was believed");
        }
        let mut fields = Fields::default();
        headers.iter().for_each(|(name, value)| fields.push(name.clone(), value.clone()));
        let text = HeaderValue::from_str(&peer.to_string()).expect("ASCII");
        rewrite(&mut fields, &origin, peer, &text, Some(&host), &Written::default());
        let sent = fields.iter().cloned().collect();
        is_well_formed(&sent);
        if !origin.trusted {
            is_ours_alone(&sent, peer);
        }
        next_hop_learns_the_same(&sent, &origin, &trusted);
    }
    a_proxy_has_the_last_word(&headers, &trusted);
}

/// One line of each field that a reader may want to be there once.
fn is_well_formed(sent: &HeaderMap) {
    for name in [&X_FORWARDED_FOR, &FORWARDED, &X_FORWARDED_PROTO, &X_FORWARDED_HOST] {
        assert!(sent.get_all(name).iter().count() == 1, "{name} stands there more than once");
    }
    assert!(matches!(sent[X_FORWARDED_PROTO].as_bytes(), b"http" | b"https"));
}

/// Nothing that a stranger said of earlier hops is left.
fn is_ours_alone(sent: &HeaderMap, peer: IpAddr) {
    let told: Vec<_> = sent.keys().filter(|name| is_forwarding(name)).map(HeaderName::as_str).collect();
    let ours = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];
    assert!(told.iter().all(|name| ours.contains(name)), "{told:?}");
    assert_eq!(sent[X_FORWARDED_FOR], peer.to_string());
    let forwarded = sent[FORWARDED].to_str().expect("ASCII");
    assert!(!forwarded.contains(',') && forwarded.matches("for=").count() == 1, "{forwarded}");
    assert_eq!(sent[X_FORWARDED_HOST], "api.example.com:8443");
}

/// Who trusts the gateway finds the same caller as the gateway did, whichever of the fields it reads.
fn next_hop_learns_the_same(sent: &HeaderMap, origin: &Origin, trusted: &TrustedProxies) {
    let mut trusted = trusted.clone();
    trusted.0.push(GATEWAY.into());
    let learnt = |headers: &HeaderMap| {
        let next = Origin::of(GATEWAY, !origin.https, headers, &trusted);
        (next.client, next.https)
    };
    let expected = (origin.client, origin.https);
    assert_eq!(learnt(sent), expected, "{:?}", sent.get(X_FORWARDED_FOR));
    let mut standard = sent.clone();
    let names: Vec<HeaderName> =
        sent.keys().filter(|name| is_forwarding(name) && **name != FORWARDED).cloned().collect();
    for name in names {
        standard.remove(name);
    }
    assert_eq!(learnt(&standard), expected, "{:?}", sent.get(FORWARDED));
}

/// Whatever a caller writes into the field that a proxy adds to, the proxy's word on the caller is what counts.
fn a_proxy_has_the_last_word(headers: &HeaderMap, trusted: &TrustedProxies) {
    let Some(proxy) = trusted.0.first().map(|network| network.addr()) else { return };
    if trusted.contains(CALLER) {
        return;
    }
    for (name, word) in [(X_FORWARDED_FOR, CALLER.to_string()), (FORWARDED, format!("for={CALLER};proto=https"))] {
        let mut said = headers.clone();
        if name == FORWARDED {
            // A proxy that uses this one must take the other away.
            said.remove(X_FORWARDED_FOR);
            said.remove(X_FORWARDED_PROTO);
        }
        let mut in_a_line_of_its_own = said.clone();
        in_a_line_of_its_own.append(&name, HeaderValue::from_str(&word).expect("ASCII"));
        let lines = said.get_all(&name).iter().map(|line| line.as_bytes().to_vec());
        let joined = lines.chain([word.into_bytes()]).collect::<Vec<_>>().join(&b", "[..]);
        said.insert(&name, HeaderValue::from_bytes(&joined).expect("values joined"));
        for headers in [said, in_a_line_of_its_own] {
            let origin = Origin::of(proxy, false, &headers, trusted);
            assert_eq!(origin.client, CALLER, "{headers:?}");
            assert!(name != FORWARDED || origin.https, "{headers:?}");
        }
    }
}

/// What a connection starts with.
pub fn proxy_protocol(data: &[u8]) {
    // No header is longer than any of its two limits.
    let data = &data[..data.len().min(5000)];
    let read = read(data);
    for at in 0..=data.len() {
        let so_far = parse(&data[..at]);
        match read {
            // Each byte more brings it nearer to the one end that it has.
            Some((length, _)) if at < length => {
                let nearer = matches!(so_far, Ok(Header::Incomplete(missing)) if (1..=length - at).contains(&missing));
                assert!(nearer, "{so_far:?} of {at} bytes of {length}");
            }
            Some((_, announced)) => assert_eq!(so_far, Ok(Header::Complete(announced)), "{at} bytes"),
            None => assert!(!matches!(so_far, Ok(Header::Complete(_))), "{so_far:?} of {at} bytes, of all nothing"),
        }
        assert!(so_far.is_ok() || parse(data).is_err(), "what follows mends what was wrong in {at} bytes");
    }
    // Who is announced here is announced to others too. Where nobody is, ours takes more, as the protocol has it.
    if let Some((_, Some(_))) = read {
        assert_eq!(read, read_by_ppp(data));
    }
}

/// As a reader takes it: never more than is missing. The header's length, and who is announced.
pub(super) fn read(bytes: &[u8]) -> Option<(usize, Option<IpAddr>)> {
    let mut taken = 0;
    loop {
        match parse(bytes.get(..taken)?) {
            Ok(Header::Incomplete(missing)) => taken += missing,
            Ok(Header::Complete(address)) => return Some((taken, address)),
            Err(_) => return None,
        }
    }
}

/// The same by another's reading.
pub(super) fn read_by_ppp(bytes: &[u8]) -> Option<(usize, Option<IpAddr>)> {
    match HeaderResult::parse(bytes) {
        HeaderResult::V1(header) => {
            let header = header.ok()?;
            let address = match header.addresses {
                v1::Addresses::Tcp4(ip) => Some(IpAddr::from(ip.source_address)),
                v1::Addresses::Tcp6(ip) => Some(IpAddr::from(ip.source_address)),
                v1::Addresses::Unknown => None,
            };
            Some((header.header.len(), address.map(|address| address.to_canonical())))
        }
        HeaderResult::V2(header) => {
            let header = header.ok()?;
            let address = match header.addresses {
                v2::Addresses::IPv4(ip) => Some(IpAddr::from(ip.source_address)),
                v2::Addresses::IPv6(ip) => Some(IpAddr::from(ip.source_address)),
                _ => None,
            };
            let relayed = header.command == Command::Proxy && header.protocol == Protocol::Stream;
            let address = address.filter(|_| relayed).map(|address| address.to_canonical());
            Some((header.as_bytes().len(), address))
        }
    }
}
